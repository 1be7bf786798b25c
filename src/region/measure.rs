//! What a mapping really lies on, asked of the kernel after it was faulted in.
//!
//! `PAGEMAP_SCAN` answers for all kinds of memory alike; before Linux 6.7 the
//! sums of `/proc/self/smaps` must do. Those count per mapping of the kernel,
//! which may have joined neighbours of ours, so they are cut to our length.

use super::Mapping;
use super::backing::{How, NodeShare};
use crate::error::{BackingKind, Error, Result};
use crate::numa;
use crate::size::PageSize;
use crate::sys::pagemap::{self, Present};
use crate::view::Memory;
use std::io::BufRead;
use std::ops::Range;
use std::ptr::NonNull;

/// At how many places at most a mapping is asked for its node.
const NODE_SAMPLES: usize = 1 << 16;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Measured {
    /// The page size of the pool, or the base page size.
    pub page_size: PageSize,
    /// Bytes present in this process's page tables.
    pub resident: u64,
    /// Bytes that lie on huge pages, of a pool or transparent ones.
    pub huge: u64,
    /// Bytes per node.
    pub nodes: Vec<NodeShare>,
    pub how: How,
}

/// Measures what is present of `mapping` in this process: fault it in before.
///
/// Costs one walk of the page tables and one question per page for the nodes (per
/// larger stretch on base pages, at 65,536 places at most).
pub(crate) fn measure(mapping: &Mapping, kind: BackingKind) -> Result<Measured> {
    let (base, len) = (mapping.base(), mapping.len());
    let failed = |errno| Error::system("measure mapping", format!("{kind} of {len} bytes"), errno);
    let (present, how) = match pagemap::scan(base, len) {
        Ok(present) => (present, How::PagemapScan),
        // Older than 6.7, or /proc is hidden in part.
        Err(_) => (smaps_present(base, len).map_err(failed)?, How::Smaps),
    };
    // Files know their page size; for the others smaps does.
    let page_size = match kind {
        BackingKind::Sysv | BackingKind::Anonymous => {
            page_size_at(base).unwrap_or_else(|| mapping.page_size())
        }
        _ => mapping.page_size(),
    };
    Ok(Measured {
        page_size,
        resident: present.resident,
        huge: present.huge,
        nodes: nodes(base, len, page_size),
        how,
    })
}

/// The nodes of the range; nothing where the kernel does not say.
fn nodes(base: NonNull<u8>, len: usize, page: PageSize) -> Vec<NodeShare> {
    let mut stride = page.bytes() as usize;
    while len / stride > NODE_SAMPLES {
        stride *= 2;
    }
    let mut left = len as u64;
    let shares = numa::nodes_of(base.as_ptr(), len, stride).unwrap_or_default();
    let share = |(node, bytes): (u32, u64)| {
        let bytes = bytes.min(left);
        left -= bytes;
        NodeShare { node, bytes }
    };
    shares.into_iter().map(share).collect()
}

/// The kernel's page size at an address of this process, as smaps tells it.
pub(super) fn page_size_at(address: NonNull<u8>) -> Option<PageSize> {
    let at = address.as_ptr().addr() as u64;
    let mut size = None;
    let each = |entry: &Entry| size = PageSize::new(entry.kernel_page);
    for_each_entry(at..at + 1, each).ok()?;
    size
}

pub(super) fn smaps_present(base: NonNull<u8>, len: usize) -> nix::Result<Present> {
    let start = base.as_ptr().addr() as u64;
    let range = start..start + len as u64;
    let mut present = Present::default();
    for_each_entry(range, |entry| {
        let most = entry.range.end - entry.range.start;
        present.resident += (entry.resident + entry.pool).min(most);
        present.huge += (entry.merged + entry.pool).min(most);
    })?;
    present.resident = present.resident.min(len as u64);
    present.huge = present.huge.min(present.resident);
    Ok(present)
}

fn for_each_entry(range: Range<u64>, mut each: impl FnMut(&Entry)) -> nix::Result<()> {
    let failed = |error: std::io::Error| crate::sys::text::errno_of(&error);
    let file = std::fs::File::open("/proc/self/smaps").map_err(failed)?;
    let mut reader = std::io::BufReader::new(file);
    let mut parser = SmapsParser::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line).map_err(failed)? == 0 {
            break;
        }
        if let Some(done) = parser.line(&line) {
            if done.range.start >= range.end {
                return Ok(());
            }
            if done.overlaps(&range) {
                each(&done);
            }
        }
    }
    if let Some(last) = parser.finish().filter(|entry| entry.overlaps(&range)) {
        each(&last);
    }
    Ok(())
}

/// One mapping as smaps tells it, all numbers in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    range: Range<u64>,
    kernel_page: u64,
    /// `Rss`, which leaves out pages of the pool.
    resident: u64,
    /// Transparent huge pages, private and shared.
    merged: u64,
    /// Pages of the pool; one that is mapped once counts as private even where it is shared.
    pool: u64,
}

impl Entry {
    fn overlaps(&self, range: &Range<u64>) -> bool {
        self.range.start < range.end && range.start < self.range.end
    }
}

/// Reads smaps line by line; what it does not know it skips.
#[derive(Default)]
pub(crate) struct SmapsParser {
    entry: Option<Entry>,
}

impl SmapsParser {
    /// Takes one line; a line that begins a mapping completes the one before.
    pub(crate) fn line(&mut self, line: &[u8]) -> Option<Entry> {
        if let Some(range) = parse_range(line) {
            return self.entry.replace(Entry { range, ..Entry::default() });
        }
        let (entry, (name, bytes)) = (self.entry.as_mut()?, parse_field(line)?);
        let field = match name {
            b"KernelPageSize" => &mut entry.kernel_page,
            b"Rss" => &mut entry.resident,
            b"AnonHugePages" | b"ShmemPmdMapped" | b"FilePmdMapped" => &mut entry.merged,
            b"Shared_Hugetlb" | b"Private_Hugetlb" => &mut entry.pool,
            _ => return None,
        };
        *field = field.saturating_add(bytes);
        None
    }

    /// The last mapping.
    pub(crate) fn finish(self) -> Option<Entry> {
        self.entry
    }
}

/// Reads `text` as a whole smaps, for tests and fuzzers.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_smaps(text: &[u8]) {
    let mut parser = SmapsParser::default();
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        if let Some(entry) = parser.line(line) {
            assert!(entry.range.start <= entry.range.end);
        }
    }
    _ = parser.finish().is_some_and(|entry| entry.overlaps(&(0..u64::MAX)));
}

/// `7f12-7f34 rw-s ...`: the addresses of a mapping.
fn parse_range(line: &[u8]) -> Option<Range<u64>> {
    let head = line.split(|byte| *byte == b' ').next()?;
    let (start, end) = str::from_utf8(head).ok()?.split_once('-')?;
    let hex = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        digits.then(|| u64::from_str_radix(text, 16).ok()).flatten()
    };
    let range = hex(start)?..hex(end)?;
    (range.start <= range.end).then_some(range)
}

/// `Rss:       12 kB`: a name and a number of bytes.
fn parse_field(line: &[u8]) -> Option<(&[u8], u64)> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (name, rest) = (line.get(..colon)?, line.get(colon + 1..)?);
    let number = str::from_utf8(rest).ok()?.trim().strip_suffix("kB")?.trim_end();
    Some((name, number.parse::<u64>().ok()?.checked_mul(1024)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::mmap::{Mapped, Source, populate_write};

    const SMAPS: &str = "\
7f0000000000-7f0000400000 rw-s 00000000 00:10 5 /dev/hugepages/a b
Size:               4096 kB
KernelPageSize:     2048 kB
MMUPageSize:        2048 kB
Rss:                   0 kB
Private_Hugetlb:    2048 kB
Shared_Hugetlb:     2048 kB
THPeligible:           0
VmFlags: rd wr sh mr mw me ms de ht
7f0000400000-7f0000800000 rw-s 00000000 00:11 6 /dev/shm/b
KernelPageSize:        4 kB
Rss:                4096 kB
ShmemPmdMapped:     2048 kB
";

    fn entries(text: &[u8]) -> Vec<Entry> {
        let mut parser = SmapsParser::default();
        let mut all: Vec<Entry> = text
            .split_inclusive(|byte| *byte == b'\n')
            .filter_map(|line| parser.line(line))
            .collect();
        all.extend(parser.finish());
        all
    }

    #[test]
    fn smaps_tells_pool_pages_and_merged_pages_apart() {
        let all = entries(SMAPS.as_bytes());
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].kernel_page, all[0].pool, all[0].resident), (2 << 20, 4 << 20, 0));
        assert_eq!((all[1].kernel_page, all[1].merged, all[1].resident), (4096, 2 << 20, 4 << 20));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_smaps_parser_panic(
            text in proptest::collection::vec(proptest::num::u8::ANY, 0..300), cut in 0..500usize
        ) {
            entries(&text);
            entries(&SMAPS.as_bytes()[..cut.min(SMAPS.len())]);
        }
    }

    #[test]
    fn smaps_and_pagemap_scan_agree_on_a_mapping() {
        let mapped = Mapped::new(Source::Anonymous { huge: None }, 8 << 20).unwrap();
        populate_write(mapped.base(), 3 << 20).unwrap();
        let scanned = pagemap::scan(mapped.base(), mapped.len()).unwrap();
        let summed = smaps_present(mapped.base(), mapped.len()).unwrap();
        // A neighbour may have been joined to it, so the sum may be more, never less.
        assert!(summed.resident >= scanned.resident, "{summed:?} {scanned:?}");
        assert_eq!(page_size_at(mapped.base()), Some(super::super::numbers::base_page()));
    }
}

//! `PAGEMAP_SCAN`: which pages of a range are present, and which of them are huge.
//!
//! Needs Linux 6.7 and no privilege. Huge is true for pages of the pool and for
//! transparent huge pages alike; it is also true for pages of the pool that were
//! never touched, so only *huge and present* counts.
#![expect(unsafe_code, reason = "an ioctl on a structure with a pointer in it")]

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

const PRESENT: u64 = 1 << 3;
const HUGE: u64 = 1 << 6;
/// Regions taken per call; neighbours with the same answer are one region.
const REGIONS: usize = 64;

/// The kernel's `struct pm_scan_arg`.
#[repr(C)]
#[derive(Default)]
pub(crate) struct ScanArgument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    regions: u64,
    regions_len: u64,
    pages_max: u64,
    category_inverted: u64,
    category_mask: u64,
    category_any_of: u64,
    return_mask: u64,
}

const _: () = assert!(size_of::<ScanArgument>() == 96);

/// The kernel's `struct page_region`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

mod call {
    nix::ioctl_readwrite!(pagemap_scan, b'f', 16, super::ScanArgument);
}

/// What lies in memory of a range, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Present {
    /// Present in this process's page tables.
    pub resident: u64,
    /// Present on huge pages.
    pub huge: u64,
}

/// Counts what of `[base, base + len)` is present; `ENOTTY` before Linux 6.7.
pub(crate) fn scan(base: NonNull<u8>, len: usize) -> nix::Result<Present> {
    let file =
        nix::fcntl::open("/proc/self/pagemap", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut regions = [Region::default(); REGIONS];
    let mut present = Present::default();
    let mut start = base.as_ptr().addr() as u64;
    let end = start + len as u64;
    while start < end {
        let mut argument = ScanArgument {
            size: size_of::<ScanArgument>() as u64,
            start,
            end,
            // The kernel writes through this address.
            regions: regions.as_mut_ptr().expose_provenance() as u64,
            regions_len: REGIONS as u64,
            category_mask: PRESENT,
            return_mask: PRESENT | HUGE,
            ..ScanArgument::default()
        };
        // SAFETY: the argument is a `pm_scan_arg` of the size it states, and its `regions` has
        // room for `REGIONS` entries and outlives the call.
        let answer = unsafe { call::pagemap_scan(file.as_raw_fd(), &raw mut argument) };
        let found = match answer {
            Err(Errno::EINTR) => continue,
            other => usize::try_from(other?).map_err(|_| Errno::EINVAL)?,
        };
        for region in regions.iter().take(found) {
            let bytes = region.end.saturating_sub(region.start);
            present.resident += bytes;
            if region.categories & HUGE != 0 {
                present.huge += bytes;
            }
        }
        if argument.walk_end <= start {
            break;
        }
        start = argument.walk_end;
    }
    Ok(present)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::mmap::{Mapped, Source, advise_base, populate_write};

    #[test]
    fn only_touched_pages_are_present_and_base_pages_are_not_huge() {
        let mapped = Mapped::new(Source::Anonymous { huge: None }, 1 << 20).unwrap();
        advise_base(mapped.base(), mapped.len()).unwrap();
        populate_write(mapped.base(), 1 << 16).unwrap();
        let present = scan(mapped.base(), mapped.len()).unwrap();
        assert_eq!(present, Present { resident: 1 << 16, huge: 0 });
    }

    #[test]
    fn a_range_in_many_pieces_is_counted_whole() {
        let mapped = Mapped::new(Source::Anonymous { huge: None }, 4 << 20).unwrap();
        advise_base(mapped.base(), mapped.len()).unwrap();
        for piece in 0..300 {
            // SAFETY: 300 * 8 KiB lies in the mapping of 4 MiB.
            let page = unsafe { mapped.base().add(piece * 8192) };
            populate_write(page, 4096).unwrap();
        }
        assert_eq!(scan(mapped.base(), mapped.len()).unwrap().resident, 300 * 4096);
    }
}

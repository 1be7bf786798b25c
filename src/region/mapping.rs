//! A mapping that is unmapped whole, and the ways of opening what exists.
#![expect(unsafe_code, reason = "a mapping may be used from any thread")]

use super::numbers;
use super::object::{FileFacts, facts, path_of};
use crate::error::{Error, ErrorKind, Result};
use crate::size::{PageSize, format_bytes};
use crate::sys::mmap::{self, Mapped, Source};
use crate::sys::sysv::{self, Attached};
use crate::view::Memory;
use nix::errno::Errno;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

/// Mapped memory of whole pages.
///
/// Invariant: `[base, base + len)` is what `_hold` keeps mapped, at least; `len`
/// is a whole number of pages of `page_size`.
#[derive(Debug)]
pub(crate) struct Mapping {
    _hold: Hold,
    base: NonNull<u8>,
    len: usize,
    page_size: PageSize,
    writable: bool,
}

#[derive(Debug)]
#[expect(dead_code, reason = "held for their Drop")]
enum Hold {
    Mapped(Mapped),
    Attached(Attached),
}

// The pointer keeps the automatic implementations away; the owners of the range have both.
// SAFETY: `Mapped` and `Attached` are Send, and the range may be used from any thread.
unsafe impl Send for Mapping {}
// SAFETY: a shared reference gives address, length and page size only.
unsafe impl Sync for Mapping {}

impl Mapping {
    pub(super) fn of_mapped(mapped: Mapped, page_size: PageSize, writable: bool) -> Self {
        let (base, len) = (mapped.base(), mapped.len());
        Self { _hold: Hold::Mapped(mapped), base, len, page_size, writable }
    }

    /// `len` must not be more than the segment attached, rounded up to its pages.
    pub(super) fn of_attached(
        attached: Attached,
        len: usize,
        page_size: PageSize,
        writable: bool,
    ) -> Self {
        let base = attached.base();
        Self { _hold: Hold::Attached(attached), base, len, page_size, writable }
    }

    /// The page size that its length is a multiple of: of the pool, or the base page.
    pub(crate) fn page_size(&self) -> PageSize {
        self.page_size
    }
}

// SAFETY: by the invariant the range stays mapped while the value lives, with the rights that
// `writable` was made from; mappings begin at a page, which is a multiple of 8. A file behind it
// that is cut short by somebody else is outside this promise: the rights on the object guard it, and
// the signal that results stops the program rather than corrupts it.
unsafe impl Memory for Mapping {
    fn base(&self) -> NonNull<u8> {
        self.base
    }

    fn len(&self) -> usize {
        self.len
    }

    fn writable(&self) -> bool {
        self.writable
    }
}

/// Maps the first `length` bytes of an existing file, rounded up to whole pages.
///
/// A file shorter than that is refused (`Corrupt`): on hugetlbfs a longer mapping
/// would silently grow the file, elsewhere its end would be a SIGBUS. So is one that
/// lacks pages, which a touch would take anew, or be a SIGBUS. With `thp`
/// the mapping is placed where transparent huge pages of the file show up as such.
/// `page` is the page size promised by whoever recorded it; the file's own decides.
pub(crate) fn map_file(
    fd: BorrowedFd<'_>,
    length: u64,
    writable: bool,
    page: PageSize,
    thp: bool,
) -> Result<Mapping> {
    const OPERATION: &str = "map data file";
    let failed = |errno| Error::system(OPERATION, path_of(fd), errno);
    let facts = facts(fd).map_err(failed)?;
    if facts.kind.is_none() {
        return Err(Error::new(ErrorKind::NotOurs, OPERATION, path_of(fd))
            .detail("it is no regular file on hugetlbfs or tmpfs"));
    }
    if facts.page_size != page {
        return Err(Error::new(ErrorKind::Corrupt, OPERATION, path_of(fd)).detail(format!(
            "it lies on pages of {}, recorded are pages of {page}",
            facts.page_size
        )));
    }
    let (rounded, len) = whole_pages(OPERATION, length, page, || path_of(fd))?;
    whole(&facts, rounded)
        .map_err(|what| Error::new(ErrorKind::Corrupt, OPERATION, path_of(fd)).detail(what))?;
    let source = Source::File { fd, writable };
    let unit = numbers::thp_unit().filter(|unit| thp && unit.bytes() > page.bytes());
    let mapped = match unit {
        Some(unit) => Mapped::aligned(source, len, unit.bytes() as usize),
        None => Mapped::new(source, len),
    };
    let span = rounded.saturating_add(unit.map_or(0, PageSize::bytes));
    let mapped = mapped.map_err(|errno| unmappable(OPERATION, path_of(fd), errno, span))?;
    Ok(Mapping::of_mapped(mapped, page, writable))
}

/// Why `bytes` could not be mapped, with the limit of this process that was hit, if one was.
fn unmappable(operation: &'static str, object: String, errno: Errno, bytes: u64) -> Error {
    let error = Error::system(operation, object, errno);
    match numbers::mapping_short(bytes).filter(|_| errno == Errno::ENOMEM) {
        Some((short, remedy)) => error.detail(short).remedy(remedy),
        None => error,
    }
}

/// Whether a file has `bytes` bytes, and all their pages; the answer says what it lacks.
fn whole(facts: &FileFacts, bytes: u64) -> core::result::Result<(), String> {
    let needs = format_bytes(bytes);
    if facts.size < bytes {
        let found = format_bytes(facts.size);
        return Err(format!("needs {needs}, the file has {found}: it was cut short"));
    }
    // What is swapped out counts as present.
    if facts.present < bytes {
        let found = format_bytes(facts.present);
        return Err(format!("needs pages of {needs}, {found} are there: some were taken out"));
    }
    Ok(())
}

/// The same for the file behind a mapping.
pub(crate) fn check_whole(fd: BorrowedFd<'_>, bytes: u64) -> core::result::Result<(), String> {
    let facts = facts(fd).map_err(|errno| format!("the file can not be looked at: {errno}"))?;
    whole(&facts, bytes)
}

/// Attaches the System V segment `id`, which must be at least `length` bytes long.
///
/// There is no looking whether its pages are there. The first, in which the header lies, is
/// fetched: a peer may have taken it out, and a touch would be a SIGBUS if there is no other.
pub(crate) fn map_sysv(id: i32, length: u64, writable: bool) -> Result<Mapping> {
    const OPERATION: &str = "attach System V segment";
    let failed = |errno| Error::system(OPERATION, format!("id {id}"), errno);
    let facts = sysv::facts(id).map_err(failed)?;
    if length == 0 || facts.length < length {
        return Err(Error::new(ErrorKind::Corrupt, OPERATION, format!("id {id}")).detail(format!(
            "needs {}, the segment has {}",
            format_bytes(length),
            format_bytes(facts.length)
        )));
    }
    let attached = Attached::new(id, writable)
        .map_err(|errno| unmappable(OPERATION, format!("id {id}"), errno, facts.length))?;
    let page = super::measure::page_size_at(attached.base()).unwrap_or_else(numbers::base_page);
    let (_, len) = whole_pages(OPERATION, facts.length, page, || format!("id {id}"))?;
    match mmap::populate_read(attached.base(), len.min(page.bytes() as usize)) {
        // Older than 5.14.
        Ok(()) | Err(Errno::EINVAL) => {}
        Err(errno) => return Err(no_page(OPERATION, format!("id {id}"), errno)),
    }
    Ok(Mapping::of_attached(attached, len, page, writable))
}

/// `length` in whole pages of `page`, as a file size and as a length in memory.
pub(super) fn whole_pages(
    operation: &'static str,
    length: u64,
    page: PageSize,
    object: impl FnOnce() -> String,
) -> Result<(u64, usize)> {
    page.round_up(length)
        .filter(|rounded| *rounded > 0)
        .and_then(|rounded| Some((rounded, isize::try_from(rounded).ok()?.unsigned_abs())))
        .ok_or_else(|| {
            Error::new(ErrorKind::InvalidSize, operation, object())
                .detail(format!("{length} bytes on pages of {page}"))
        })
}

/// Faults in every page of an existing mapping for reading, so that it can be measured.
///
/// On hugetlbfs a hole in the file takes a page here; where none is left the answer is `NoSpace`
/// and no signal.
pub(crate) fn fault_in(mapping: &Mapping) -> Result<()> {
    mmap::populate_read(mapping.base(), mapping.len()).map_err(|errno| {
        let object = format!("mapping of {}", format_bytes(mapping.len() as u64));
        no_page("fault in", object, errno)
    })
}

/// Whether the first page is there, or can be had: a touch of it is no signal.
pub(crate) fn has_first_page(mapping: &Mapping) -> bool {
    let len = mapping.len().min(mapping.page_size.bytes() as usize);
    mmap::populate_read(mapping.base(), len) != Err(Errno::EFAULT)
}

fn no_page(operation: &'static str, object: String, errno: Errno) -> Error {
    match errno {
        Errno::EFAULT => Error::new(ErrorKind::NoSpace, operation, object)
            .detail("it is shorter than its mapping, or pages were taken out and none can be had")
            .errno_set(errno)
            .remedy("`hugeshm status` shows what pools and cgroups have left; or replace it"),
        _ => Error::system(operation, object, errno),
    }
}

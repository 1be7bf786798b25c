//! A mapping that is unmapped whole, and the ways of opening what exists.
#![expect(unsafe_code, reason = "a mapping may be used from any thread")]

use super::numbers;
use super::object::{facts, path_of};
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
/// would silently grow the file, elsewhere its end would be a SIGBUS. With `thp`
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
    if facts.size < rounded {
        return Err(Error::new(ErrorKind::Corrupt, OPERATION, path_of(fd)).detail(format!(
            "needs {}, the file has {}",
            format_bytes(rounded),
            format_bytes(facts.size)
        )));
    }
    let source = Source::File { fd, writable };
    let mapped = match numbers::thp_unit() {
        Some(unit) if thp && unit.bytes() > page.bytes() => {
            Mapped::aligned(source, len, unit.bytes() as usize)
        }
        _ => Mapped::new(source, len),
    };
    Ok(Mapping::of_mapped(mapped.map_err(failed)?, page, writable))
}

/// Attaches the System V segment `id`, which must be at least `length` bytes long.
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
    let attached = Attached::new(id, writable).map_err(failed)?;
    let page = super::measure::page_size_at(attached.base()).unwrap_or_else(numbers::base_page);
    let (_, len) = whole_pages(OPERATION, facts.length, page, || format!("id {id}"))?;
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
        match errno {
            Errno::EFAULT => Error::new(ErrorKind::NoSpace, "fault in", object)
                .detail("the object is shorter than the mapping, or its pages can not be had")
                .errno_set(errno),
            _ => Error::system("fault in", object, errno),
        }
    })
}

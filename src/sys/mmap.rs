//! Mappings: made, placed on a boundary, populated, and unmapped by their owner.
//!
//! Deliberately absent: `MAP_NORESERVE` and `MAP_POPULATE` on anything that will
//! be touched. The first defers a shortage to a SIGBUS, the second hides it.
#![expect(unsafe_code, reason = "mmap, munmap and madvise")]

use crate::size::PageSize;
use nix::errno::Errno;
use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

/// `madvise` advice of Linux 6.1: make huge pages of these pages now.
const MADV_COLLAPSE: i32 = 25;

/// A mapping that this value alone unmaps.
///
/// Invariant: `[base, base + len)` was mapped by this file, `len` is a whole
/// number of the mapping's pages, and nothing else unmaps or replaces it.
#[derive(Debug)]
pub(crate) struct Mapped {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the value is an address range with an owner; unmapping may be done by any thread.
unsafe impl Send for Mapped {}
// SAFETY: a shared reference only gives the address and the length.
unsafe impl Sync for Mapped {}

/// What is to be mapped.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    /// A file, shared, from its beginning.
    File {
        /// The file; it may be closed afterwards.
        fd: BorrowedFd<'a>,
        /// Whether the mapping may be written.
        writable: bool,
    },
    /// Private zeroed memory, from the huge page pool of a size or on base pages.
    Anonymous {
        /// The huge page size.
        huge: Option<PageSize>,
    },
}

impl Mapped {
    /// Maps `len` bytes at an address of the kernel's choice.
    ///
    /// `len` must be a whole number of the object's pages: the kernel would round
    /// up by itself, and the `munmap` of the shorter length would then fail.
    pub(crate) fn new(source: Source<'_>, len: usize) -> nix::Result<Self> {
        map(source, None, len)
    }

    /// Maps `len` bytes at an address that is a multiple of `align`, a power of two.
    ///
    /// Transparent huge pages form only where address and file offset agree. A place is looked for
    /// by mapping nothing over a longer range, which is given back before the place is taken, so
    /// that a refusal leaves nothing behind. Where others take it first all the time, the address
    /// is the kernel's choice.
    pub(crate) fn aligned(source: Source<'_>, len: usize, align: usize) -> nix::Result<Self> {
        const ATTEMPTS: usize = 16;
        let span = len.checked_add(align).ok_or(Errno::ENOMEM)?;
        for _ in 0..ATTEMPTS {
            let nowhere = reserve(span)?;
            let start = nowhere.base.as_ptr().addr();
            let place = start.checked_next_multiple_of(align).ok_or(Errno::ENOMEM)?;
            let address = NonZeroUsize::new(place).ok_or(Errno::ENOMEM)?;
            drop(nowhere);
            match map(source, Some(address), len) {
                Err(Errno::EEXIST) => {}
                answer => return answer,
            }
        }
        Self::new(source, len)
    }

    /// The first byte.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// The length in bytes, a whole number of pages.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: by the invariant the range is ours alone, and it is unmapped here once.
        unsafe { unmap(self.base, self.len) };
    }
}

/// Address space without memory behind it.
fn reserve(len: usize) -> nix::Result<Mapped> {
    let length = NonZeroUsize::new(len).ok_or(Errno::EINVAL)?;
    let prot = nix::sys::mman::ProtFlags::PROT_NONE;
    let flags = nix::sys::mman::MapFlags::MAP_PRIVATE | nix::sys::mman::MapFlags::MAP_NORESERVE;
    // SAFETY: no address is asked for, so nothing that exists is replaced.
    let base = unsafe { nix::sys::mman::mmap_anonymous(None, length, prot, flags) }?;
    Ok(Mapped { base: base.cast(), len })
}

/// Maps at an address of the kernel's choice, or at `at`: `EEXIST` if something is there.
///
/// Kernels before 4.17 take `at` for a wish.
fn map(source: Source<'_>, at: Option<NonZeroUsize>, len: usize) -> nix::Result<Mapped> {
    let (writable, sharing, fd) = match source {
        Source::File { fd, writable } => (writable, libc::MAP_SHARED, fd.as_raw_fd()),
        Source::Anonymous { huge } => {
            let pool = huge.map_or(0, |size| {
                libc::MAP_HUGETLB | ((size.log2() as libc::c_int) << libc::MAP_HUGE_SHIFT)
            });
            (true, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | pool, -1)
        }
    };
    let prot = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
    let fixed = if at.is_some() { libc::MAP_FIXED_NOREPLACE } else { 0 };
    let address = std::ptr::without_provenance_mut::<c_void>(at.map_or(0, NonZeroUsize::get));
    // SAFETY: `mmap` only touches the address space, and none of the flags replaces what is there.
    let base = unsafe { libc::mmap(address, len, prot, sharing | fixed, fd, 0) };
    if base == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    let base = NonNull::new(base.cast::<u8>()).ok_or(Errno::ENOMEM)?;
    Ok(Mapped { base, len })
}

/// # Safety
/// The range must belong to the caller, and nothing may use it any more.
unsafe fn unmap(base: NonNull<u8>, len: usize) {
    if len == 0 {
        return;
    }
    // SAFETY: the caller owns the range.
    let result = unsafe { libc::munmap(base.as_ptr().cast(), len) };
    debug_assert_eq!(result, 0, "munmap of {len} bytes at {base:?}: {}", Errno::last());
}

/// Faults in every page of the range for writing; `EFAULT` where a touch would be a SIGBUS.
///
/// `EINVAL` says that the kernel is older than 5.14. Nothing is overwritten.
/// Repeats what a signal interrupted.
pub(crate) fn populate_write(base: NonNull<u8>, len: usize) -> nix::Result<()> {
    advise_repeated(base, len, libc::MADV_POPULATE_WRITE)
}

/// Faults in every page of the range for reading.
pub(crate) fn populate_read(base: NonNull<u8>, len: usize) -> nix::Result<()> {
    advise_repeated(base, len, libc::MADV_POPULATE_READ)
}

/// Faults in every page of the range by writing what stands there, without asking first.
///
/// For kernels older than 5.14 only, and only where a missing page can be no signal: on private
/// base pages, and where the file's pages were allocated before.
///
/// # Safety
/// `[base, base + len)` must be mapped and writable, and `page` must not be zero.
pub(crate) unsafe fn touch(base: NonNull<u8>, len: usize, page: usize) {
    for offset in (0..len).step_by(page) {
        // SAFETY: the offset is less than `len`, and the caller mapped that many bytes.
        let byte = unsafe { base.add(offset) }.cast::<AtomicU8>();
        // SAFETY: the byte is mapped and writable, and every value is a valid `AtomicU8`.
        unsafe { byte.as_ref() }.fetch_or(0, Ordering::Relaxed);
    }
}

/// Asks the kernel to make huge pages of the resident pages of the range, now.
///
/// Not repeated: `EAGAIN` and `EBUSY` may last, so the caller counts its attempts.
pub(crate) fn collapse(base: NonNull<u8>, len: usize) -> nix::Result<()> {
    advise(base, len, MADV_COLLAPSE)
}

/// Says that huge pages are welcome in the range.
pub(crate) fn advise_huge(base: NonNull<u8>, len: usize) -> nix::Result<()> {
    advise(base, len, libc::MADV_HUGEPAGE)
}

/// Says that the range is to stay on base pages.
pub(crate) fn advise_base(base: NonNull<u8>, len: usize) -> nix::Result<()> {
    advise(base, len, libc::MADV_NOHUGEPAGE)
}

fn advise_repeated(base: NonNull<u8>, len: usize, advice: i32) -> nix::Result<()> {
    loop {
        match advise(base, len, advice) {
            Err(Errno::EINTR | Errno::EAGAIN) => std::thread::yield_now(),
            answer => return answer,
        }
    }
}

fn advise(base: NonNull<u8>, len: usize, advice: i32) -> nix::Result<()> {
    // SAFETY: none of the advices used in this file changes the contents of any memory.
    let result = unsafe { libc::madvise(base.as_ptr().cast(), len, advice) };
    Errno::result(result).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aligned_mapping_is_aligned_and_leaves_nothing_around_it() {
        let lines = || std::fs::read_to_string("/proc/self/maps").unwrap();
        let align = 1 << 24;
        let mapped = Mapped::aligned(Source::Anonymous { huge: None }, 8192, align).unwrap();
        let start = mapped.base().as_ptr().addr();
        assert_eq!(start % align, 0);
        populate_write(mapped.base(), mapped.len()).unwrap();
        let inaccessible = format!("{start:x}-");
        assert!(lines().contains(&inaccessible), "not a mapping of its own");
        for line in lines().lines().filter(|line| line.contains("---p 00000000 00:00 0")) {
            let (from, to) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
            let from = usize::from_str_radix(from, 16).unwrap();
            let to = usize::from_str_radix(to, 16).unwrap();
            assert!(to != start && from != start + 8192, "left behind: {line}");
        }
        drop(mapped);
        assert!(!lines().contains(&inaccessible));
    }

    #[test]
    fn populating_behind_the_end_of_a_file_is_an_error_and_no_signal() {
        use std::os::fd::AsFd;
        let fd = crate::sys::memfd::create("hugeshm-test", None).unwrap();
        crate::sys::file::set_length(fd.as_fd(), 4096).unwrap();
        let source = Source::File { fd: fd.as_fd(), writable: true };
        let mapped = Mapped::new(source, 1 << 16).unwrap();
        assert_eq!(populate_write(mapped.base(), mapped.len()), Err(Errno::EFAULT));
        assert_eq!(populate_write(mapped.base(), 4096), Ok(()));
    }
}

//! One huge page, taken and given back: the only proof that it can be had.

#![expect(unsafe_code, reason = "a probe maps, populates and unmaps one page")]

use crate::size::PageSize;
use core::num::NonZeroUsize;
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// Maps one anonymous page of `size` from the pool, populates it and unmaps it.
///
/// The error says which limit stood in the way: at `mmap` the pool or the reservation limit
/// (`ENOMEM`) or an unknown size (`EINVAL`); at populating the cgroup's fault limit (`EFAULT`).
/// A kernel before 5.14 cannot populate without the risk of a signal; there the mapping, which
/// reserves the page, is all the proof there is.
pub(crate) fn take_huge_page(size: PageSize) -> nix::Result<()> {
    let length = usize::try_from(size.bytes()).map_err(|_| Errno::EOVERFLOW)?;
    let length = NonZeroUsize::new(length).ok_or(Errno::EINVAL)?;
    let size_bits = i32::try_from(size.log2()).map_err(|_| Errno::EINVAL)? << libc::MAP_HUGE_SHIFT;
    let flags =
        MapFlags::MAP_PRIVATE | MapFlags::MAP_HUGETLB | MapFlags::from_bits_retain(size_bits);
    // SAFETY: without MAP_FIXED the kernel chooses an address range that nothing else uses.
    let base = unsafe {
        mmap_anonymous(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags)
    }?;
    // SAFETY: the range is the mapping made above, private to this function; populating it
    // changes no memory that anything else can see.
    let populated =
        unsafe { libc::madvise(base.as_ptr(), length.get(), libc::MADV_POPULATE_WRITE) };
    let populated = Errno::result(populated).map(drop);
    // SAFETY: the range is the whole mapping made above, and no reference into it was ever made.
    let unmapped = unsafe { munmap(base, length.get()) };
    match populated {
        Err(Errno::EINVAL) | Ok(()) => unmapped,
        Err(errno) => Err(errno),
    }
}

//! memfd: files without a file system, on huge pages or base pages, with seals.

use crate::size::PageSize;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag};
use nix::sys::memfd::MFdFlags;
use std::os::fd::{BorrowedFd, OwnedFd};

/// `MFD_NOEXEC_SEAL`, Linux 6.3: never executable, and no way to make it so.
const NOEXEC_SEAL: MFdFlags = MFdFlags::from_bits_retain(0x8);

/// Makes an empty memfd that can be sealed; on huge pages of `huge`, or on base pages.
///
/// `ENODEV` (or `EINVAL` before 4.16) says that the kernel has no such page size.
/// An empty pool is no error here; it becomes one at `mmap`.
pub(crate) fn create(name: &str, huge: Option<PageSize>) -> nix::Result<OwnedFd> {
    let mut flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    if let Some(size) = huge {
        flags |= MFdFlags::MFD_HUGETLB | MFdFlags::from_bits_retain(size.log2() << 26);
    }
    match nix::sys::memfd::memfd_create(name, flags | NOEXEC_SEAL) {
        Err(Errno::EINVAL) => nix::sys::memfd::memfd_create(name, flags),
        answer => answer,
    }
}

/// Seals the length of the memfd, and the set of seals itself.
///
/// On hugetlb memfds the kernel lets a longer `mmap` grow the file in spite of
/// the seal, so whoever maps one checks its length first.
pub(crate) fn seal_length(fd: BorrowedFd<'_>) -> nix::Result<()> {
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    nix::fcntl::fcntl(fd, FcntlArg::F_ADD_SEALS(seals)).map(drop)
}

/// Whether the length of this file is sealed, which is only possible on a memfd.
pub(crate) fn length_is_sealed(fd: BorrowedFd<'_>) -> bool {
    let wanted = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
    nix::fcntl::fcntl(fd, FcntlArg::F_GET_SEALS)
        .is_ok_and(|seals| SealFlag::from_bits_retain(seals).contains(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::file;
    use std::os::fd::AsFd;

    #[test]
    fn a_sealed_length_can_not_be_changed_and_can_be_seen() {
        let fd = create("hugeshm-test", None).unwrap();
        assert!(!length_is_sealed(fd.as_fd()));
        file::set_length(fd.as_fd(), 8192).unwrap();
        seal_length(fd.as_fd()).unwrap();
        assert!(length_is_sealed(fd.as_fd()));
        for length in [4096, 16384] {
            assert_eq!(file::set_length(fd.as_fd(), length), Err(Errno::EPERM));
        }
    }

    #[test]
    fn a_page_size_the_kernel_does_not_have_is_enodev() {
        let size = PageSize::new(1 << 23).unwrap();
        assert_eq!(create("hugeshm-test", Some(size)).unwrap_err(), Errno::ENODEV);
    }
}

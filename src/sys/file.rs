//! Files: opening without symbolic links, unnamed files, linking, sizes, facts.
//!
//! Two file systems matter here, hugetlbfs and tmpfs; both can make an unnamed
//! file (`O_TMPFILE`) and give it its name later in one exclusive step.

use super::limits;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, FallocateFlags, OFlag, OpenHow, ResolveFlag};
use nix::sys::stat::{FileStat, Mode};
use nix::sys::statfs::Statfs;
use nix::unistd::UnlinkatFlags;
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

/// `statfs` magic of hugetlbfs; also of hugetlb memfds and SysV segments.
pub(crate) const HUGETLBFS_MAGIC: i64 = 0x9584_58f6;
/// `statfs` magic of tmpfs; also of plain memfds.
pub(crate) const TMPFS_MAGIC: i64 = 0x0102_1994;

/// Repeats a call that a signal interrupted before it did anything.
pub(crate) fn repeat<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            answer => return answer,
        }
    }
}

/// Opens `path` while refusing every symbolic link in it, magic links of `/proc` included.
///
/// `ELOOP` says that there was one. `O_CLOEXEC` is added.
pub(crate) fn open_no_symlinks(path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let flags = flags | OFlag::O_CLOEXEC;
    let how = OpenHow::new()
        .flags(flags)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    match repeat(|| nix::fcntl::openat2(AT_FDCWD, path, how)) {
        // Older than 5.6, or a seccomp filter that does not know the call and says EPERM.
        Err(Errno::ENOSYS | Errno::EPERM) => open_step_by_step(path, flags),
        answer => answer,
    }
}

/// What `openat2` does, one component at a time.
fn open_step_by_step(path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let walk = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut dir: Option<OwnedFd> = None;
    let mut parts = path.components().peekable();
    while let Some(part) = parts.next() {
        let name: &OsStr = match part {
            Component::RootDir => OsStr::new("/"),
            Component::CurDir => OsStr::new("."),
            Component::ParentDir => OsStr::new(".."),
            Component::Normal(name) => name,
            Component::Prefix(_) => return Err(Errno::EINVAL),
        };
        let from = dir.as_ref().map_or(AT_FDCWD, |dir| dir.as_fd());
        if parts.peek().is_none() {
            return repeat(|| {
                nix::fcntl::openat(from, name, flags | OFlag::O_NOFOLLOW, Mode::empty())
            });
        }
        // A symbolic link opened as a directory without following it answers ENOTDIR.
        let next = repeat(|| nix::fcntl::openat(from, name, walk, Mode::empty()));
        dir = Some(next.map_err(|e| if e == Errno::ENOTDIR { Errno::ELOOP } else { e })?);
    }
    Err(Errno::ENOENT)
}

/// Opens a folder as a place to make and link files in; it need not be readable.
pub(crate) fn open_dir(path: &Path) -> nix::Result<OwnedFd> {
    open_no_symlinks(path, OFlag::O_PATH | OFlag::O_DIRECTORY)
}

/// Makes an unnamed file in the file system of `dir`, readable and writable.
pub(crate) fn create_unnamed(dir: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
    repeat(|| nix::fcntl::openat(dir, ".", flags, Mode::S_IRUSR | Mode::S_IWUSR))
}

/// Gives an unnamed file its name in `dir`; `EEXIST` if the name is taken.
pub(crate) fn link_unnamed(fd: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &str) -> nix::Result<()> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    repeat(|| nix::unistd::linkat(AT_FDCWD, path.as_str(), dir, name, AtFlags::AT_SYMLINK_FOLLOW))
}

/// Removes the name `name` from `dir`.
pub(crate) fn unlink_in(dir: BorrowedFd<'_>, name: &str) -> nix::Result<()> {
    repeat(|| nix::unistd::unlinkat(dir, name, UnlinkatFlags::NoRemoveDir))
}

/// Sets the permission bits, untouched by the umask.
pub(crate) fn set_mode(fd: BorrowedFd<'_>, mode: u32) -> nix::Result<()> {
    repeat(|| nix::sys::stat::fchmod(fd, Mode::from_bits_truncate(mode & 0o777)))
}

/// Sets the length of a file; on hugetlbfs it must be a multiple of the page size.
///
/// `EFBIG` beyond this process's limit, where the kernel would send a signal.
pub(crate) fn set_length(fd: BorrowedFd<'_>, length: u64) -> nix::Result<()> {
    limits::check_file_size(length)?;
    let length = i64::try_from(length).map_err(|_| Errno::EFBIG)?;
    repeat(|| nix::unistd::ftruncate(fd, length))
}

/// Gives the first `length` bytes of a file their pages; `ENOSPC` where they can not be had.
///
/// A signal may stop it half way; it is repeated and finds the first half done. `EFBIG` as for
/// [`set_length`].
pub(crate) fn allocate(fd: BorrowedFd<'_>, length: u64) -> nix::Result<()> {
    limits::check_file_size(length)?;
    let length = i64::try_from(length).map_err(|_| Errno::EFBIG)?;
    repeat(|| nix::fcntl::fallocate(fd, FallocateFlags::empty(), 0, length))
}

/// `fstat`.
pub(crate) fn stat(fd: BorrowedFd<'_>) -> nix::Result<FileStat> {
    nix::sys::stat::fstat(fd)
}

/// `fstatfs`.
pub(crate) fn file_system(fd: BorrowedFd<'_>) -> nix::Result<Statfs> {
    repeat(|| nix::sys::statfs::fstatfs(fd))
}

/// The magic number of the file system, in the width in which the constants are written.
pub(crate) fn magic(statfs: &Statfs) -> i64 {
    // The field's type differs between architectures; the magic fits into 32 bits everywhere.
    i64::from(statfs.filesystem_type().0 as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symbolic_link_anywhere_in_the_path_is_refused_by_both_ways_of_opening() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("real")).unwrap();
        std::fs::write(root.join("real/file"), "x").unwrap();
        std::os::unix::fs::symlink(root.join("real"), root.join("folder")).unwrap();
        std::os::unix::fs::symlink("file", root.join("real/link")).unwrap();
        for open in [open_no_symlinks, open_step_by_step] {
            assert!(open(&root.join("real/file"), OFlag::O_RDONLY).is_ok());
            for bad in ["folder/file", "real/link"] {
                assert_eq!(
                    open(&root.join(bad), OFlag::O_RDONLY).unwrap_err(),
                    Errno::ELOOP,
                    "{bad}"
                );
            }
            assert_eq!(open(&root.join("none"), OFlag::O_RDONLY).unwrap_err(), Errno::ENOENT);
        }
    }

    #[test]
    fn an_unnamed_file_gets_its_mode_and_its_name_once() {
        let dir = open_dir(Path::new("/dev/shm")).unwrap();
        let name = format!("hugeshm-file-test-{}", std::process::id());
        let file = create_unnamed(dir.as_fd()).unwrap();
        set_mode(file.as_fd(), 0o666).unwrap();
        set_length(file.as_fd(), 4096).unwrap();
        link_unnamed(file.as_fd(), dir.as_fd(), &name).unwrap();
        let other = create_unnamed(dir.as_fd()).unwrap();
        let second = link_unnamed(other.as_fd(), dir.as_fd(), &name);
        unlink_in(dir.as_fd(), &name).unwrap();
        assert_eq!(second, Err(Errno::EEXIST));
        let facts = stat(file.as_fd()).unwrap();
        assert_eq!((facts.st_mode & 0o777, facts.st_size), (0o666, 4096));
        assert_eq!(magic(&file_system(file.as_fd()).unwrap()), TMPFS_MAGIC);
    }
}

//! The kernel objects that carry segments: what they are, opened and published.

use crate::error::{BackingKind, Error, Result};
use crate::size::PageSize;
use crate::sys::{file, memfd, sysv};
use nix::fcntl::OFlag;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// An object that holds pages.
#[derive(Debug)]
pub(crate) enum Object {
    /// A file on hugetlbfs or tmpfs, or a memfd.
    File {
        fd: OwnedFd,
        kind: BackingKind,
        page_size: PageSize,
        /// The folder in which the file can be given a name; none for a memfd.
        dir: Option<(OwnedFd, PathBuf)>,
    },
    /// A System V segment.
    Sysv { id: i32, key: i32, page_size: PageSize },
}

impl Object {
    /// What kind of object it is.
    pub(crate) fn kind(&self) -> BackingKind {
        match self {
            Self::File { kind, .. } => *kind,
            Self::Sysv { .. } => BackingKind::Sysv,
        }
    }

    /// The page size of the object.
    #[cfg_attr(not(test), expect(dead_code, reason = "for memory tables of devices"))]
    pub(crate) fn page_size(&self) -> PageSize {
        match self {
            Self::File { page_size, .. } | Self::Sysv { page_size, .. } => *page_size,
        }
    }

    /// Gives the object back: an unnamed file by closing it, a System V segment by removing it.
    pub(crate) fn discard(self) {
        match self {
            Self::File { .. } => {}
            // It was made a moment ago by this process; if somebody removed it since, it is gone.
            Self::Sysv { id, .. } => {
                let _ = sysv::remove(id);
            }
        }
    }
}

/// Gives the unnamed data file of `object` its name in its folder, in one exclusive step.
///
/// A memfd and a System V segment have no such name (`Unsupported`).
pub(crate) fn link(object: &Object, file_name: &str) -> Result<()> {
    const OPERATION: &str = "publish data file";
    match object {
        Object::File { fd, dir: Some((dir, path)), .. } => {
            file::link_unnamed(fd.as_fd(), dir.as_fd(), file_name).map_err(|errno| {
                Error::system(OPERATION, path.join(file_name).display().to_string(), errno)
            })
        }
        other => Err(Error::new(crate::ErrorKind::Unsupported, OPERATION, file_name)
            .detail(format!("a {} object has no file name", other.kind()))),
    }
}

/// Opens a data file without following any symbolic link (`ELOOP`), close-on-exec, and without
/// waiting if it turns out to be a FIFO.
pub(crate) fn open_file(path: &Path, write: bool) -> nix::Result<OwnedFd> {
    let access = if write { OFlag::O_RDWR } else { OFlag::O_RDONLY };
    file::open_no_symlinks(path, access | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
}

/// What the kernel says about an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileFacts {
    pub dev: u64,
    pub ino: u64,
    pub uid: u32,
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
    pub size: u64,
    /// Bytes of pages that it has.
    pub present: u64,
    pub fs_magic: i64,
    /// The huge page size on hugetlbfs, the base page size elsewhere.
    pub page_size: PageSize,
    /// What it is; none for anything that is no regular file on hugetlbfs or tmpfs.
    pub kind: Option<BackingKind>,
}

/// Looks at an open file.
pub(crate) fn facts(fd: BorrowedFd<'_>) -> nix::Result<FileFacts> {
    let stat = file::stat(fd)?;
    let statfs = file::file_system(fd)?;
    let fs_magic = file::magic(&statfs);
    let huge = fs_magic == file::HUGETLBFS_MAGIC;
    let page_size = huge.then(|| PageSize::new(statfs.block_size() as u64)).flatten();
    let regular = stat.st_mode & libc::S_IFMT == libc::S_IFREG;
    let kind = match fs_magic {
        _ if !regular => None,
        file::HUGETLBFS_MAGIC | file::TMPFS_MAGIC if memfd::length_is_sealed(fd) => {
            Some(BackingKind::Memfd)
        }
        file::HUGETLBFS_MAGIC => Some(BackingKind::Hugetlbfs),
        file::TMPFS_MAGIC => Some(BackingKind::Tmpfs),
        _ => None,
    };
    Ok(FileFacts {
        dev: stat.st_dev,
        ino: stat.st_ino,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mode: stat.st_mode & 0o7777,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        present: u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512),
        fs_magic,
        page_size: page_size.unwrap_or_else(super::numbers::base_page),
        kind,
    })
}

/// What the kernel calls the file behind a descriptor, for errors.
pub(super) fn path_of(fd: BorrowedFd<'_>) -> String {
    let number = fd.as_raw_fd();
    std::fs::read_link(format!("/proc/self/fd/{number}"))
        .map_or_else(|_| format!("descriptor {number}"), |path| path.display().to_string())
}

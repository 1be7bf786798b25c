//! Mounts: attaching one, and what the file system behind a path says of itself.

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, open};
use nix::mount::{MntFlags, MsFlags};
use nix::sys::stat::Mode;
use nix::unistd::{AccessFlags, faccessat};
use std::path::Path;

/// `f_type` of hugetlbfs.
pub(crate) const HUGETLBFS_MAGIC: i64 = 0x9584_58f6;
/// `f_type` of tmpfs.
pub(crate) const TMPFS_MAGIC: i64 = 0x0102_1994;

/// What `fstat` and `fstatfs` say of one folder, both asked of the same descriptor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FolderFacts {
    pub(crate) device: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mode: u32,
    pub(crate) magic: i64,
    pub(crate) block_size: u64,
    pub(crate) blocks: u64,
    pub(crate) blocks_free: u64,
    pub(crate) files: u64,
    pub(crate) files_free: u64,
}

/// The facts of the folder at `path`, through a descriptor that needs no right to read it.
pub(crate) fn folder_facts(path: &Path) -> nix::Result<FolderFacts> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let folder = loop {
        match open(path, flags, Mode::empty()) {
            Err(Errno::EINTR) => {}
            other => break other?,
        }
    };
    let stat = nix::sys::stat::fstat(&folder)?;
    let file_system = nix::sys::statfs::fstatfs(&folder)?;
    Ok(FolderFacts {
        device: stat.st_dev,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mode: stat.st_mode & 0o7777,
        magic: file_system.filesystem_type().0,
        block_size: u64::try_from(file_system.block_size()).unwrap_or(0),
        blocks: file_system.blocks(),
        blocks_free: file_system.blocks_free(),
        files: file_system.files(),
        files_free: file_system.files_free(),
    })
}

/// Whether this process, by its effective ids, may make files in the folder at `path`.
pub(crate) fn may_write_folder(path: &Path) -> bool {
    let asked = AccessFlags::W_OK | AccessFlags::X_OK;
    faccessat(AT_FDCWD, path, asked, AtFlags::AT_EACCESS).is_ok()
}

/// Whether this process, by its effective ids, may write the file at `path`.
pub(crate) fn may_write_file(path: &Path) -> bool {
    faccessat(AT_FDCWD, path, AccessFlags::W_OK, AtFlags::AT_EACCESS).is_ok()
}

/// Mounts a hugetlbfs at `path` with these comma-separated `options`.
pub(crate) fn mount_hugetlbfs(path: &Path, options: &str) -> nix::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    nix::mount::mount(Some("hugetlbfs"), path, Some("hugetlbfs"), flags, Some(options))
}

/// Takes the mount at `path` away; `EBUSY` while something in it is open or mapped.
pub(crate) fn unmount(path: &Path) -> nix::Result<()> {
    nix::mount::umount2(path, MntFlags::UMOUNT_NOFOLLOW)
}

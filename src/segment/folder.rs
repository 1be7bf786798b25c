//! The control folder: small files that are born unnamed, linked whole, and locked by name.
//!
//! The folder must be a tmpfs of this kernel (`/dev/shm` unless `HUGESHM_DIR`
//! says otherwise): locks and memory then mean the same to everyone who sees
//! it. Files in it are opened without following links and only as regular
//! files, since anyone may plant something in a shared folder.
//!
//! Create, replace, remove and collect of a name run under one lock: a byte of
//! a file per user that is never removed, so that no one can lock a file that
//! another has already unlinked.

use crate::error::{Error, ErrorKind, Result};
use crate::segment::names;
use crate::size::format_bytes;
use crate::sys::limits;
use crate::sys::locks::{self, Mode};
use crate::sys::process::LockFd;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags};
use nix::sys::stat::{Mode as FileMode, SFlag};
use nix::unistd::UnlinkatFlags;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a change to a name waits for another one that is under way.
pub(crate) const NAME_LOCK_PATIENCE: Duration = Duration::from_secs(60);

/// An open control folder.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    fd: OwnedFd,
}

/// What `fstat` says of a file in the folder.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FileIs {
    pub uid: u32,
    pub links: u64,
    /// Permission bits.
    pub mode: u32,
}

impl Folder {
    /// Opens the folder and checks that it is a tmpfs.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let operation = "open the control folder";
        let object = path.display().to_string();
        let bad = |detail: String| {
            Error::new(ErrorKind::BadControlFolder, operation, object.clone())
                .detail(detail)
                .remedy("point HUGESHM_DIR at a folder on a tmpfs, or unset it to use /dev/shm")
        };
        let fd = nix::fcntl::open(
            path,
            OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            FileMode::empty(),
        )
        .map_err(|errno| match errno {
            // The path itself is wrong; anything else says nothing about it.
            Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::ENAMETOOLONG => {
                bad(errno.desc().to_owned()).errno_set(errno)
            }
            _ => Error::system(operation, object.clone(), errno),
        })?;
        let facts = nix::sys::statfs::fstatfs(&fd)
            .map_err(|errno| Error::system(operation, object.clone(), errno))?;
        if facts.filesystem_type() != nix::sys::statfs::TMPFS_MAGIC {
            return Err(bad(format!(
                "it is not on a tmpfs (file system type {:#x})",
                facts.filesystem_type().0
            )));
        }
        Ok(Self { path: path.to_owned(), fd })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What tells this folder from any other: device and inode.
    pub(crate) fn place(&self) -> Result<(u64, u64)> {
        let stat = nix::sys::stat::fstat(&self.fd)
            .map_err(|errno| Error::system("stat", self.object(""), errno))?;
        Ok((stat.st_dev, stat.st_ino))
    }

    fn object(&self, file: &str) -> String {
        self.path.join(file).display().to_string()
    }

    /// Opens an existing regular file of this folder, never through a link.
    pub(crate) fn open_file(&self, file: &str, write: bool) -> Result<OwnedFd> {
        let operation = "open a file of the control folder";
        let access = if write { OFlag::O_RDWR } else { OFlag::O_RDONLY };
        let fd = nix::fcntl::openat(
            &self.fd,
            file,
            access | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY,
            FileMode::empty(),
        )
        .map_err(|errno| match errno {
            Errno::ELOOP | Errno::EISDIR | Errno::ENXIO => {
                self.foreign(file, "it is not a regular file")
            }
            _ => Error::system(operation, self.object(file), errno),
        })?;
        let stat = nix::sys::stat::fstat(&fd)
            .map_err(|errno| Error::system(operation, self.object(file), errno))?;
        if SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) != SFlag::S_IFREG {
            return Err(self.foreign(file, "it is not a regular file"));
        }
        Ok(fd)
    }

    /// Somebody has put a file where this user's write lock must be.
    fn squatted(&self, file: &str, detail: &str) -> Error {
        Error::new(ErrorKind::NotOurs, "open this user's lock file", self.object(file))
            .detail(detail)
            .remedy(format!(
                "have root remove {}, or point HUGESHM_DIR at a tmpfs folder that only this user \
                 can write to, such as one under /run/user",
                self.object(file)
            ))
    }

    fn foreign(&self, file: &str, detail: &str) -> Error {
        Error::new(ErrorKind::NotOurs, "open a file of the control folder", self.object(file))
            .detail(detail)
            .remedy("look who put it there (ls -l), and remove it or use another name or domain")
    }

    /// Who owns an entry of this folder, whatever it is; nobody where it is gone.
    pub(crate) fn owner_of(&self, file: &str) -> Option<u32> {
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
        nix::sys::stat::fstatat(&self.fd, file, flags).ok().map(|stat| stat.st_uid)
    }

    /// The facts about an open file.
    pub(crate) fn facts(&self, fd: impl AsFd, file: &str) -> Result<FileIs> {
        let stat = nix::sys::stat::fstat(fd)
            .map_err(|errno| Error::system("stat", self.object(file), errno))?;
        Ok(FileIs { uid: stat.st_uid, links: stat.st_nlink, mode: stat.st_mode & 0o777 })
    }

    /// Reads a small file whole; longer ones are cut one byte past the limit, which parsers refuse.
    pub(crate) fn read(&self, fd: OwnedFd, file: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::from(fd)
            .take(super::control::BYTES_MAX as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| self.io("read", file, &error))?;
        Ok(bytes)
    }

    fn io(&self, operation: &'static str, file: &str, error: &std::io::Error) -> Error {
        let errno = error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw);
        self.full(Error::system(operation, self.object(file), errno))
    }

    /// Adds the way out where the folder has no room left.
    pub(crate) fn full(&self, error: Error) -> Error {
        if !matches!(error.errno(), Some(Errno::ENOSPC | Errno::EDQUOT)) {
            return error;
        }
        let path = self.path.display();
        let room = nix::sys::statvfs::fstatvfs(&self.fd).map_or(String::new(), |now| {
            let bytes = |blocks: u64| format_bytes(blocks.saturating_mul(now.fragment_size()));
            let (free, all) = (bytes(now.blocks_free()), bytes(now.blocks()));
            format!(": {free} of {all} and {} of {} files are left", now.files_free(), now.files())
        });
        error
            .detail(format!("{path} has no room{room}"))
            .remedy(format!("`hugeshm collect`, or mount {path} with a larger size= or nr_inodes="))
    }

    /// A new file without a name, with exactly this mode whatever the umask is.
    pub(crate) fn create_unnamed(&self, mode: u32, text: &str) -> Result<OwnedFd> {
        let operation = "create a file in the control folder";
        let object = self.path.display().to_string();
        let failed = |errno| {
            let error = self.full(Error::system(operation, object.clone(), errno));
            match errno {
                Errno::EACCES => {
                    error.remedy("make the folder writable, or point HUGESHM_DIR at one that is")
                }
                _ => error,
            }
        };
        let fd = nix::fcntl::openat(
            &self.fd,
            ".",
            OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC,
            FileMode::from_bits_truncate(0o600),
        )
        .map_err(failed)?;
        nix::sys::stat::fchmod(&fd, FileMode::from_bits_truncate(mode)).map_err(failed)?;
        self.write(&fd, text)?;
        Ok(fd)
    }

    /// Replaces the contents of an open file of ours.
    pub(crate) fn write(&self, fd: &impl AsFd, text: &str) -> Result<()> {
        let failed = |errno| {
            self.full(Error::system("write a control file", self.path.display().to_string(), errno))
        };
        limits::check_file_size(text.len() as u64).map_err(failed)?;
        let mut done = 0;
        while done < text.len() {
            match nix::sys::uio::pwrite(fd.as_fd(), &text.as_bytes()[done..], done as i64) {
                Ok(count) => done += count,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
        nix::unistd::ftruncate(fd.as_fd(), text.len() as i64).map_err(failed)
    }

    /// Gives an unnamed file its name; an existing name is an error.
    pub(crate) fn link(&self, fd: &impl AsRawFd, file: &str) -> Result<()> {
        let unnamed = format!("/proc/self/fd/{}", fd.as_raw_fd());
        nix::unistd::linkat(
            nix::fcntl::AT_FDCWD,
            unnamed.as_str(),
            &self.fd,
            file,
            AtFlags::AT_SYMLINK_FOLLOW,
        )
        .map_err(|errno| self.full(Error::system("name a file", self.object(file), errno)))
    }

    /// Moves an unnamed file over an existing name in one step.
    pub(crate) fn link_over(&self, fd: &impl AsRawFd, file: &str, by_way_of: &str) -> Result<()> {
        self.link(fd, by_way_of)?;
        nix::fcntl::renameat(&self.fd, by_way_of, &self.fd, file)
            .inspect_err(|_| drop(self.unlink(by_way_of)))
            .map_err(|errno| Error::system("take a name over", self.object(file), errno))
    }

    /// Gives an unnamed file a name that another one has, which gets the name `passing` instead:
    /// in one step, so that whoever is killed behind it leaves both.
    pub(crate) fn link_in_place(&self, fd: &impl AsRawFd, file: &str, passing: &str) -> Result<()> {
        self.link(fd, passing)?;
        nix::fcntl::renameat2(&self.fd, passing, &self.fd, file, RenameFlags::RENAME_EXCHANGE)
            .inspect_err(|_| drop(self.unlink(passing)))
            .map_err(|errno| Error::system("take a name over", self.object(file), errno))
    }

    /// Gives a file the name `passing` instead of its own.
    pub(crate) fn set_aside(&self, file: &str, passing: &str) -> Result<()> {
        nix::fcntl::renameat(&self.fd, file, &self.fd, passing)
            .map_err(|errno| Error::system("remove a file", self.object(file), errno))
    }

    /// Removes a name; one that is gone already is no error.
    pub(crate) fn unlink(&self, file: &str) -> Result<()> {
        match nix::unistd::unlinkat(&self.fd, file, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(Error::system("remove a file", self.object(file), errno)),
        }
    }

    /// The names of all entries; what cannot be UTF-8 cannot be ours and is left out.
    pub(crate) fn entries(&self) -> Result<Vec<String>> {
        let entries = std::fs::read_dir(&self.path)
            .map_err(|error| self.io("list the control folder", "", &error))?;
        Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
    }

    /// Takes the write lock on a name, in the lock file of the user `owner`.
    pub(crate) fn lock_name(
        &self,
        domain: &str,
        name: &str,
        owner: u32,
        patience: Duration,
    ) -> Result<NameLock> {
        let file = names::lock_file(owner);
        let lock = LockFd::open(|| self.lock_file(&file, owner))?;
        let byte = names::name_lock_byte(domain, name);
        let deadline = Instant::now() + patience;
        let mut pause = Duration::from_micros(100);
        loop {
            match locks::try_lock(lock.as_fd(), Mode::Exclusive, byte, 1) {
                Ok(true) => return Ok(NameLock { _lock: lock }),
                Ok(false) if Instant::now() < deadline => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(5));
                }
                Ok(false) => {
                    return Err(Error::new(ErrorKind::TimedOut, "lock the name", name)
                        .detail(format!("another process has been changing it for {patience:?}")));
                }
                Err(errno) => return Err(Error::system("lock the name", name, errno)),
            }
        }
    }

    /// Opens the user's lock file, making it on first use.
    fn lock_file(&self, file: &str, owner: u32) -> Result<OwnedFd> {
        for _ in 0..100 {
            match self.open_file(file, true) {
                Ok(fd) => {
                    let uid = self.facts(&fd, file)?.uid;
                    if uid == owner {
                        return Ok(fd);
                    }
                    return Err(self.squatted(file, &format!("it belongs to user {uid}")));
                }
                Err(error) if error.errno() == Some(Errno::ENOENT) => {}
                Err(error) if error.errno() == Some(Errno::EACCES) => {
                    return Err(self.squatted(file, "it is not this user's to open"));
                }
                Err(error) => return Err(error),
            }
            let fd = self.create_unnamed(0o600, "")?;
            if nix::unistd::geteuid().as_raw() != owner {
                nix::unistd::fchown(&fd, Some(owner.into()), None)
                    .map_err(|errno| Error::system("make a lock file", self.object(file), errno))?;
            }
            match self.link(&fd, file) {
                Err(error) if error.errno() != Some(Errno::EEXIST) => return Err(error),
                _ => {} // made, by us or by another: open it by name
            }
        }
        Err(self.foreign(file, "it comes and goes"))
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The write lock on one name; ends with the value.
#[derive(Debug)]
pub(crate) struct NameLock {
    _lock: LockFd,
}

/// The mode of a claims file: only those who may write the segment may open it at all.
///
/// A lock can be held by anyone who can open a file, and a reader's lock would
/// stand in the way of a writer's claim.
pub(crate) const fn claims_mode(mode: u32) -> u32 {
    let mut claims = 0o600;
    if mode & 0o020 != 0 {
        claims |= 0o060;
    }
    if mode & 0o002 != 0 {
        claims |= 0o006;
    }
    claims
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> (tempfile::TempDir, Folder) {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        (dir, folder)
    }

    #[test]
    fn a_folder_that_is_no_tmpfs_is_refused_with_the_way_out() {
        for path in ["/proc", "/nowhere/at/all", "/proc/self/status"] {
            let error = Folder::open(Path::new(path)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BadControlFolder, "{error}");
            assert!(error.to_string().contains("HUGESHM_DIR"), "{error}");
        }
    }

    #[test]
    fn planted_links_folders_and_fifos_are_not_opened() {
        let (dir, folder) = scratch();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
        std::fs::create_dir(dir.path().join("dir")).unwrap();
        nix::unistd::mkfifo(&dir.path().join("fifo"), FileMode::S_IRWXU).unwrap();
        for file in ["link", "dir", "fifo"] {
            for write in [false, true] {
                let error = folder.open_file(file, write).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::NotOurs, "{file}: {error}");
            }
        }
    }

    #[test]
    fn a_file_appears_whole_under_its_name_and_only_once() {
        let (_dir, folder) = scratch();
        let fd = folder.create_unnamed(0o640, "hello").unwrap();
        assert!(folder.entries().unwrap().is_empty());
        folder.link(&fd, "a").unwrap();
        assert_eq!(folder.link(&fd, "a").unwrap_err().kind(), ErrorKind::AlreadyExists);
        let other = folder.create_unnamed(0o600, "there").unwrap();
        folder.link_over(&other, "a", "a.new").unwrap();
        let text = folder.read(folder.open_file("a", false).unwrap(), "a").unwrap();
        assert_eq!(text, b"there");
        folder.write(&other, "x").unwrap();
        assert_eq!(folder.read(folder.open_file("a", false).unwrap(), "a").unwrap(), b"x");
        assert_eq!(folder.entries().unwrap(), ["a"]);
        folder.unlink("a").unwrap();
        folder.unlink("a").unwrap();
    }

    #[test]
    fn a_name_is_locked_by_one_at_a_time() {
        let (_dir, folder) = scratch();
        let uid = nix::unistd::geteuid().as_raw();
        let first = folder.lock_name("d", "n", uid, NAME_LOCK_PATIENCE).unwrap();
        let _other_name = folder.lock_name("d", "m", uid, NAME_LOCK_PATIENCE).unwrap();
        let released = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _second = folder.lock_name("d", "n", uid, NAME_LOCK_PATIENCE).unwrap();
                assert!(released.load(std::sync::atomic::Ordering::SeqCst));
            });
            std::thread::sleep(Duration::from_millis(20));
            released.store(true, std::sync::atomic::Ordering::SeqCst);
            drop(first);
        });
    }

    #[test]
    fn readers_cannot_open_what_claims_are_taken_on() {
        assert_eq!(claims_mode(0o644), 0o600);
        assert_eq!(claims_mode(0o660), 0o660);
        assert_eq!(claims_mode(0o666), 0o666);
        assert_eq!(claims_mode(0o640), 0o600);
    }
}

//! Open-file-description (OFD) locks: facts about who lives, held by the kernel.
//!
//! A lock belongs to the open file description, not to the process: it goes
//! when the last descriptor of that description is closed, which the kernel
//! does for a killed process too. It never conflicts with itself on one
//! description, so everybody who wants a claim of his own opens the file anew
//! (fcntl(2), "Open file description locks").

use nix::errno::Errno;
use std::os::fd::BorrowedFd;

/// Whether a lock shares its bytes with other readers or excludes everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Shared,
    Exclusive,
}

fn flock(mode: Mode, start: u64, length: u64) -> libc::flock {
    libc::flock {
        l_type: match mode {
            Mode::Shared => libc::F_RDLCK as libc::c_short,
            Mode::Exclusive => libc::F_WRLCK as libc::c_short,
        },
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start as libc::off_t,
        l_len: length as libc::off_t,
        l_pid: 0, // must be zero for OFD locks
    }
}

/// Takes the lock on `length` bytes from `start`, or says `false` when somebody else holds it.
///
/// A shared lock needs a descriptor open for reading, an exclusive one for writing.
pub(crate) fn try_lock(
    fd: BorrowedFd<'_>,
    mode: Mode,
    start: u64,
    length: u64,
) -> nix::Result<bool> {
    let lock = flock(mode, start, length);
    loop {
        match nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_OFD_SETLK(&lock)) {
            Ok(_) => return Ok(true),
            Err(Errno::EAGAIN | Errno::EACCES) => return Ok(false),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Ends every lock of this open file description.
pub(crate) fn unlock(fd: BorrowedFd<'_>) {
    let mut lock = flock(Mode::Shared, 0, 0); // length 0: to the end of any file
    lock.l_type = libc::F_UNLCK as libc::c_short;
    // It cannot fail on a valid descriptor, and the close that follows ends the locks anyway.
    let _ = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_OFD_SETLK(&lock));
}

/// Whether anybody else holds a lock that an exclusive claim on this byte would meet.
///
/// Works on a descriptor opened in any mode. Locks of this very description do not count.
pub(crate) fn is_held(fd: BorrowedFd<'_>, byte: u64) -> nix::Result<bool> {
    let mut lock = flock(Mode::Exclusive, byte, 1);
    nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_OFD_GETLK(&mut lock))?;
    Ok(lock.l_type != libc::F_UNLCK as libc::c_short)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{File, OpenOptions};
    use std::os::fd::AsFd;

    fn reopen(file: &tempfile::NamedTempFile) -> File {
        OpenOptions::new().read(true).write(true).open(file.path()).unwrap()
    }

    #[test]
    fn a_lock_excludes_other_descriptions_and_ends_with_its_own() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (first, second) = (reopen(&file), reopen(&file));
        let far = 1 << 40;
        assert!(try_lock(first.as_fd(), Mode::Exclusive, far, 1).unwrap());
        assert!(try_lock(first.as_fd(), Mode::Exclusive, far, 1).unwrap(), "never meets itself");
        assert!(!is_held(first.as_fd(), far).unwrap(), "never sees itself");
        assert!(!try_lock(second.as_fd(), Mode::Exclusive, far, 1).unwrap());
        assert!(!try_lock(second.as_fd(), Mode::Shared, far, 1).unwrap());
        assert!(is_held(second.as_fd(), far).unwrap());
        assert!(!is_held(second.as_fd(), far + 1).unwrap());
        drop(first);
        assert!(!is_held(second.as_fd(), far).unwrap());
        assert!(try_lock(second.as_fd(), Mode::Exclusive, far, 1).unwrap());
    }

    #[test]
    fn readers_share_and_hold_off_a_writer() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (first, second, third) = (reopen(&file), reopen(&file), reopen(&file));
        assert!(try_lock(first.as_fd(), Mode::Shared, 0, 1).unwrap());
        assert!(try_lock(second.as_fd(), Mode::Shared, 0, 1).unwrap());
        assert!(!try_lock(third.as_fd(), Mode::Exclusive, 0, 1).unwrap());
    }
}

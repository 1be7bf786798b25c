//! FIFOs and pipes as bells: a byte in one makes its reader's descriptor readable.
//!
//! Every end is opened for reading *and* writing, whatever it is used for: then
//! there is always a reader and always a writer, so the one who listens never
//! sees an end of file, and the one who rings is never met by `SIGPIPE`. No end
//! ever blocks: the descriptions are our own and carry `O_NONBLOCK`, also where
//! the descriptor came from somebody else.

use crate::sys::file::repeat;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, FcntlArg, OFlag};
use nix::sys::stat::{FileStat, Mode};
use nix::unistd::{Gid, Uid};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// A pipe's capacity is set to this, so that a bell costs one page: nobody needs more than one
/// byte.
const CAPACITY: i32 = 4096;
/// How many reads of [`CAPACITY`] bytes one [`drain`] makes at most.
const READS_MAX: usize = 16;

fn both_ways() -> OFlag {
    OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY
}

/// Whether a file is a FIFO or a pipe.
pub(crate) fn is_fifo(stat: &FileStat) -> bool {
    stat.st_mode & libc::S_IFMT == libc::S_IFIFO
}

/// Makes a FIFO in `dir` that belongs to `owner` and `group` where given, with exactly this mode
/// whatever the umask is, and opens it. `EEXIST` if the name is taken by anything.
pub(crate) fn make_at(
    dir: BorrowedFd<'_>,
    name: &str,
    owner: Option<u32>,
    group: Option<u32>,
    mode: u32,
) -> nix::Result<OwnedFd> {
    nix::unistd::mkfifoat(dir, name, Mode::S_IRUSR | Mode::S_IWUSR)?;
    let made = furnish(dir, name, owner, group, mode);
    if made.is_err() {
        // It was made a moment ago, and the call that failed is the one to report.
        let _ = crate::sys::file::unlink_in(dir, name);
    }
    made
}

fn furnish(
    dir: BorrowedFd<'_>,
    name: &str,
    owner: Option<u32>,
    group: Option<u32>,
    mode: u32,
) -> nix::Result<OwnedFd> {
    // One look at the name; from here on everything is done to the inode that was found.
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let found = repeat(|| nix::fcntl::openat(dir, name, flags, Mode::empty()))?;
    let stat = nix::sys::stat::fstat(&found)?;
    if !is_fifo(&stat) || stat.st_uid != nix::unistd::geteuid().as_raw() {
        return Err(Errno::EEXIST);
    }
    if owner.is_some() || group.is_some() {
        let (owner, group) = (owner.map(Uid::from_raw), group.map(Gid::from_raw));
        nix::unistd::fchownat(&found, "", owner, group, AtFlags::AT_EMPTY_PATH)?;
    }
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    let mode = Mode::from_bits_truncate(mode);
    nix::sys::stat::fchmodat(
        nix::fcntl::AT_FDCWD,
        path.as_str(),
        mode,
        nix::sys::stat::FchmodatFlags::FollowSymlink,
    )?;
    let fd = repeat(|| nix::fcntl::open(path.as_str(), both_ways(), Mode::empty()))?;
    shrink(&fd);
    Ok(fd)
}

/// Opens the FIFO `name` in `dir`, never through a link. What it is must be looked at.
pub(crate) fn open_at(dir: BorrowedFd<'_>, name: &str) -> nix::Result<OwnedFd> {
    repeat(|| nix::fcntl::openat(dir, name, both_ways() | OFlag::O_NOFOLLOW, Mode::empty()))
}

/// A pipe without a name, which may be opened anew by every process that it is passed to.
pub(crate) fn unnamed() -> nix::Result<OwnedFd> {
    let (reading, _writing) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    nix::sys::stat::fchmod(&reading, Mode::from_bits_truncate(0o666))?;
    let fd = reopen(&reading)?;
    shrink(&fd);
    Ok(fd)
}

/// A description of our own of a pipe or FIFO that was handed to us; `EINVAL` if it is neither.
///
/// The flags of the description handed over may be changed by whoever shares it.
pub(crate) fn reopen(fd: &impl AsRawFd) -> nix::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let look = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let found = repeat(|| nix::fcntl::open(path.as_str(), look, Mode::empty()))?;
    if !is_fifo(&nix::sys::stat::fstat(&found)?) {
        return Err(Errno::EINVAL);
    }
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    repeat(|| nix::fcntl::open(path.as_str(), both_ways(), Mode::empty()))
}

fn shrink(fd: &OwnedFd) {
    // Refused, it is a pipe of 64 KiB that rings as well.
    let _ = nix::fcntl::fcntl(fd, FcntlArg::F_SETPIPE_SZ(CAPACITY));
}

/// Puts one byte in; a pipe that is full is rung already.
pub(crate) fn ring(fd: &OwnedFd) -> nix::Result<()> {
    match repeat(|| nix::unistd::write(fd, &[1])) {
        Ok(_) | Err(Errno::EAGAIN) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Takes the bytes out, but for what somebody puts in meanwhile. Never waits, and ends however
/// fast it is filled again.
pub(crate) fn drain(fd: &OwnedFd) {
    let mut bytes = [0u8; CAPACITY as usize];
    for _ in 0..READS_MAX {
        match repeat(|| nix::unistd::read(fd, &mut bytes)) {
            Ok(count) if count == bytes.len() => {}
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    use std::os::unix::fs::{MetadataExt, symlink};

    fn readable(fd: &OwnedFd) -> bool {
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
    }

    #[test]
    fn a_rung_pipe_is_readable_until_it_is_drained_however_often_it_was_rung() {
        let listener = unnamed().unwrap();
        let rope = reopen(&listener).unwrap();
        assert!(!readable(&listener));
        for _ in 0..3 * CAPACITY {
            ring(&rope).unwrap();
        }
        assert!(readable(&listener));
        drain(&listener);
        assert!(!readable(&listener));
        drop(rope);
        assert!(!readable(&listener), "the last writer's end is no event");
        drain(&listener);
    }

    #[test]
    fn a_fifo_has_the_mode_asked_for_and_takes_no_name_from_anything() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let folder = crate::sys::file::open_dir(dir.path()).unwrap();
        let before = nix::sys::stat::umask(Mode::from_bits_truncate(0o077));
        let made = make_at(folder.as_fd(), "bell", None, None, 0o660);
        nix::sys::stat::umask(before);
        let listener = made.unwrap();
        let meta = std::fs::symlink_metadata(dir.path().join("bell")).unwrap();
        assert_eq!(meta.mode() & 0o777, 0o660);
        let rope = open_at(folder.as_fd(), "bell").unwrap();
        ring(&rope).unwrap();
        assert!(readable(&listener));
        symlink("bell", dir.path().join("link")).unwrap();
        std::fs::write(dir.path().join("file"), b"x").unwrap();
        for name in ["bell", "link", "file"] {
            let made = make_at(folder.as_fd(), name, None, None, 0o600);
            assert_eq!(made.unwrap_err(), Errno::EEXIST, "{name}");
        }
        assert_eq!(open_at(folder.as_fd(), "link").unwrap_err(), Errno::ELOOP);
        assert_eq!(std::fs::read(dir.path().join("file")).unwrap(), b"x");
    }

    #[test]
    fn only_pipes_are_taken_for_bells() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(reopen(&file).unwrap_err(), Errno::EINVAL);
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(reopen(&socket).unwrap_err(), Errno::EINVAL);
    }
}

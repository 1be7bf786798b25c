//! Doorbells by name: the FIFOs beside the control file through which ends wake each other.
//!
//! The end that wants to sleep in `poll` makes the FIFO; the other one opens it
//! the first time it rings. The name carries a random number that stands in the
//! maker's claim line, so nobody can take the name before, a leftover is never
//! in the way, and a bell hung anew is told from the one before it.
//!
//! # Who may do what
//!
//! A FIFO has the mode of the segment's claims file, and its group; one that
//! root makes belongs to the segment's owner. So those may ring who may write
//! the segment, and nobody else. A ringer takes a file for a bell only if it is
//! a FIFO whose owner may write the segment.
//!
//! # Failure
//!
//! * Maker killed: the name stays. Its successor on the same end removes it
//!   with its claim, and whoever removes or collects the segment removes all. The
//!   number stands in the claim line before there is a file, and as long as there is one.
//! * Number forged: the ringer finds no such FIFO, or rings one that the forger
//!   may write to anyway.

use crate::error::{Error, ErrorKind, Result};
use crate::segment::attach::Attached;
use crate::segment::folder::Folder;
use crate::segment::layout::EndpointRaw;
use crate::segment::life::may_remove;
use crate::segment::names::{self, Identity};
use crate::sys::{fifo, file, process};
use crate::view::View;
use crate::wait::Hung;
use core::mem::offset_of;
use core::sync::atomic::Ordering;
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use std::os::fd::{AsFd, OwnedFd};

/// Where the number stands in a claim line.
pub(crate) const NUMBER: usize = offset_of!(EndpointRaw, bell);

/// An end of an object, as it stands in the name of its bells.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    pub object: u32,
    pub role: &'static str,
    pub slot: u32,
}

/// Takes a bell's name and number down when dropped.
struct Nail {
    folder: Folder,
    file: String,
    number: u64,
    claim: View,
    forks: u64,
    pid: u32,
}

impl Drop for Nail {
    fn drop(&mut self) {
        if self.forks != process::generation() || self.pid != std::process::id() {
            return; // the parent's
        }
        // Left over, it goes with the segment.
        let _ = self.folder.unlink(&self.file);
        // Killed before this, the number leads to nothing. A successor may have the line by now,
        // with another one.
        let word = self.claim.word64(NUMBER);
        let _ = word.compare_exchange(self.number, 0, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// Makes a bell for the end whose claim line this process owns.
pub(crate) fn hang(segment: &Attached, end: End, claim: &View) -> Result<Hung> {
    const OPERATION: &str = "make doorbell";
    segment.check_fork(OPERATION)?;
    let folder = segment.domain.open_folder()?;
    let raw = &segment.header.raw;
    if folder.place()? != (raw.folder_device, raw.folder_inode) {
        return Err(Error::new(ErrorKind::Unsupported, OPERATION, &*segment.name)
            .detail("its names are not in the control folder of this process, or it has none")
            .remedy("use doorbell_to_pass and send the descriptor over a socket"));
    }
    let failed = |errno| Error::system(OPERATION, &*segment.name, errno);
    let Some(claims) = &segment.held.claims else {
        return Err(Error::new(ErrorKind::ReadOnly, OPERATION, &*segment.name));
    };
    let of = file::stat(claims.as_fd()).map_err(failed)?;
    let (euid, egid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let owner = (euid == 0 && of.st_uid != 0).then_some(of.st_uid);
    let group =
        (of.st_mode & 0o060 != 0 && of.st_gid != egid || owner.is_some()).then_some(of.st_gid);
    let mode = of.st_mode & 0o666;
    let number = u64::from_le_bytes(process::random_bytes().map_err(failed)?) | 1;
    let file = names::bell_file(segment.identity, end, number);
    // Before there is such a file: killed behind that, its successor finds it by the number. Nobody
    // rings yet, since this end has not said that it sleeps.
    let word = claim.word64(NUMBER);
    let before = word.swap(number, Ordering::Release); // edge `bell`
    let fd = fifo::make_at(folder.as_fd(), &file, owner, group, mode).map_err(|errno| {
        let _ = word.compare_exchange(number, before, Ordering::Relaxed, Ordering::Relaxed);
        folder.full(Error::system(
            OPERATION,
            folder.path().join(&file).display().to_string(),
            errno,
        ))
    })?;
    let nail = Nail {
        folder,
        file,
        number,
        claim: claim.clone(),
        forks: process::generation(),
        pid: std::process::id(),
    };
    Ok(Hung { fd, name: Some(Box::new(nail)) })
}

/// The other end's bell, opened for ringing.
#[derive(Debug)]
pub(crate) struct Rope {
    number: u64,
    fd: OwnedFd,
}

/// Rings the bell whose number stands in `claim`, by way of `rope` where that leads to it.
pub(crate) fn ring(rope: &mut Option<Rope>, segment: &Attached, end: End, claim: &View) {
    let number = claim.load64(NUMBER, Ordering::Acquire); // edge `bell`
    if number == 0 {
        return; // passed by hand, or taken down meanwhile
    }
    if rope.as_ref().is_none_or(|rope| rope.number != number) {
        *rope = open(segment, end, number).map(|fd| Rope { number, fd });
    }
    if rope.as_ref().is_some_and(|rope| fifo::ring(&rope.fd).is_err()) {
        *rope = None;
    }
}

fn open(segment: &Attached, end: End, number: u64) -> Option<OwnedFd> {
    let folder = segment.domain.open_folder().ok()?;
    let name = names::bell_file(segment.identity, end, number);
    let fd = fifo::open_at(folder.as_fd(), &name).ok()?;
    let is = file::stat(fd.as_fd()).ok()?;
    let claims = file::stat(segment.held.claims.as_ref()?.as_fd()).ok()?;
    // Where more than the owner may write, any user may be one of them.
    let writer = is.st_uid == claims.st_uid || is.st_uid == 0 || claims.st_mode & 0o022 != 0;
    (fifo::is_fifo(&is) && writer).then_some(fd)
}

/// Removes the bell that the last owner of an end left, by the number in its claim line.
pub(crate) fn remove_left(segment: &Attached, end: End, claim: &View) {
    let number = claim.load64(NUMBER, Ordering::Relaxed);
    if number != 0
        && let Ok(folder) = segment.domain.open_folder()
    {
        // Left over, it goes with the segment.
        let _ = remove(&folder, &names::bell_file(segment.identity, end, number));
    }
}

/// Removes all bells of an identity.
pub(crate) fn remove_all(folder: &Folder, identity: Identity) -> Result<()> {
    for file in folder.entries()? {
        if names::parse_bell_file(&file) == Some(identity) {
            remove(folder, &file)?;
        }
    }
    Ok(())
}

/// Removes the bells of identities whose claims file is gone: their segment was removed while the
/// end that made them lived, or by somebody who might not remove them.
pub(crate) fn collect(folder: &Folder, failed: &mut Vec<String>) -> Result<()> {
    for file in folder.entries()? {
        let Some(identity) = names::parse_bell_file(&file) else { continue };
        let claims = folder.open_file(&names::claims_file(identity), false);
        if matches!(claims, Err(ref error) if error.errno() == Some(Errno::ENOENT))
            && let Err(error) = remove(folder, &file)
        {
            failed.push(error.to_string());
        }
    }
    Ok(())
}

/// Removes a file if it is a FIFO that this user may remove.
fn remove(folder: &Folder, file: &str) -> Result<()> {
    let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
    match nix::sys::stat::fstatat(folder.as_fd(), file, flags) {
        Ok(stat) if fifo::is_fifo(&stat) && may_remove(stat.st_uid) => folder.unlink(file),
        Ok(_) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(Error::system("remove doorbell", file, errno)),
    }
}

//! Passing a segment's descriptors: over a Unix socket, and through a holder's `/proc`.
//!
//! A memfd has no name of its own. A named memfd segment is found through the
//! processes that hold it: each that attaches adds itself to the control file,
//! so the name works as long as one of them lives. A segment without a name is
//! sent over a socket: a short text that says what it is, with the descriptors
//! of its data and of its claims. The receiver opens both anew, so that his
//! locks are his own, and refuses a memfd whose length is not sealed.
//!
//! Seals do not keep a hugetlb memfd from *growing* (a longer mapping raises
//! its size in spite of `F_SEAL_GROW`); the length in use is the header's,
//! checked against what is mapped, and never the size of the file.

use crate::error::{BackingKind, Error, ErrorKind, Result};
use crate::region;
use crate::segment::attach::{self, Attached, Held, Parts, Report};
use crate::segment::control::{BYTES_MAX, Control, HOLDERS_MAX, Holder};
use crate::segment::domain::Domain;
use crate::segment::folder::Folder;
use crate::segment::layout::LOCK_LIFE;
use crate::segment::names;
use crate::sys::locks::{self, Mode};
use crate::sys::process::{self, LockFd};
use crate::sys::{memfd, rights};
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

/// The first bytes of a message that carries a segment.
const GREETING: [u8; 8] = *b"HUGESHM>";

/// Sends the segment to the process at the other end of `socket`.
pub(crate) fn send(segment: &Attached, socket: &UnixStream) -> Result<()> {
    const OPERATION: &str = "send segment";
    segment.check_fork(OPERATION)?;
    let (Some(data), Some(claims)) = (&segment.held.data, &segment.held.claims) else {
        let why = match segment.header.backing {
            BackingKind::Sysv => "a SysV segment has no descriptor",
            _ => "it is open read-only",
        };
        return Err(Error::new(ErrorKind::Unsupported, OPERATION, &*segment.name).detail(why));
    };
    let failed = |errno| Error::system(OPERATION, &*segment.name, errno);
    let facts = region::facts(data.as_fd()).map_err(failed)?;
    let text = Control {
        domain: segment.domain.name().to_owned(),
        name: segment.name.clone(),
        identity: segment.identity,
        backing: segment.header.backing,
        page_size: segment.header.page_size,
        length: segment.header.raw.length,
        device: facts.dev,
        inode: facts.ino,
        folder: None,
        folder_in_mount: None,
        sysv_id: 0,
        sysv_key: 0,
        holders: Vec::new(),
    }
    .to_text();
    let mut message = GREETING.to_vec();
    message.extend_from_slice(&(text.len() as u64).to_le_bytes());
    message.extend_from_slice(text.as_bytes());
    let fds = [data.as_raw_fd(), claims.as_raw_fd()];
    let sent = loop {
        let result = sendmsg::<UnixAddr>(
            socket.as_raw_fd(),
            &[IoSlice::new(&message)],
            &[ControlMessage::ScmRights(&fds)],
            MsgFlags::MSG_NOSIGNAL,
            None,
        );
        match result {
            Err(Errno::EINTR) => {}
            result => break result.map_err(failed)?,
        }
    };
    let mut socket = socket;
    socket
        .write_all(&message[sent..])
        .map_err(|error| failed(error.raw_os_error().map_or(Errno::EPIPE, Errno::from_raw)))
}

/// Takes the segment that the process at the other end of `socket` sends.
pub(crate) fn receive(socket: &UnixStream) -> Result<Attached> {
    const OPERATION: &str = "receive segment";
    let failed = |errno| Error::system(OPERATION, "socket", errno);
    let refused = |what: &str| Error::new(ErrorKind::NotOurs, OPERATION, "socket").detail(what);
    let mut head = [0u8; 16];
    let (count, fds) = rights::receive(socket.as_fd(), &mut head).map_err(failed)?;
    if count == 0 {
        return Err(refused("the other end closed the socket without sending a segment"));
    }
    let mut socket = socket;
    let io = |error: std::io::Error| {
        error.raw_os_error().map_or_else(
            || refused("the other end closed the socket in the middle of a message"),
            |raw| failed(Errno::from_raw(raw)),
        )
    };
    socket.read_exact(&mut head[count..]).map_err(io)?;
    let length = u64::from_le_bytes(std::array::from_fn(|i| head[8 + i]));
    if head[..8] != GREETING || length > BYTES_MAX as u64 {
        return Err(refused("what came is no segment"));
    }
    let mut text = vec![0u8; length as usize];
    socket.read_exact(&mut text).map_err(io)?;
    let control = Control::parse(&text).map_err(|what| refused(&what.to_string()))?;
    let Ok([data, claims]) = <[OwnedFd; 2]>::try_from(fds) else {
        return Err(refused("it did not come with two descriptors"));
    };
    attach_received(&control, data, claims)
}

fn attach_received(control: &Control, data: OwnedFd, claims: OwnedFd) -> Result<Attached> {
    const OPERATION: &str = "receive segment";
    let name = &*control.name;
    let failed = |errno| Error::system(OPERATION, name, errno);
    let refused = |what: String| Error::new(ErrorKind::NotOurs, OPERATION, name).detail(what);
    // Looked at before they are opened anew: opening a device may do anything.
    let is_memory = |fd: &OwnedFd, kinds: &[BackingKind]| -> Result<()> {
        let facts = region::facts(fd.as_fd()).map_err(failed)?;
        match facts.kind {
            Some(kind) if kinds.contains(&kind) => Ok(()),
            _ => Err(refused("one of its descriptors is no memory of ours".into())),
        }
    };
    is_memory(&data, &[control.backing])?;
    is_memory(&claims, &[BackingKind::Tmpfs, BackingKind::Memfd])?;
    let reopen = |fd: &OwnedFd| {
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        LockFd::open(|| {
            nix::fcntl::open(
                path.as_str(),
                nix::fcntl::OFlag::O_RDWR | nix::fcntl::OFlag::O_CLOEXEC,
                nix::sys::stat::Mode::empty(),
            )
        })
    };
    let data = reopen(&data).map_err(failed)?;
    let facts = region::facts(data.as_fd()).map_err(failed)?;
    if facts.kind != Some(control.backing) {
        return Err(refused(format!("it is no {}", control.backing)));
    }
    if control.backing == BackingKind::Memfd && !memfd::length_is_sealed(data.as_fd()) {
        return Err(refused("the length of its memfd is not sealed".into()));
    }
    if !locks::try_lock(data.as_fd(), Mode::Shared, 0, 1).map_err(failed)? {
        return Err(refused("it is being removed".into()));
    }
    let mapping = region::map_file(data.as_fd(), control.length, true, control.page_size, true)?;
    let claims = reopen(&claims).map_err(failed)?;
    if !locks::try_lock(claims.as_fd(), Mode::Shared, LOCK_LIFE, 1).map_err(failed)? {
        return Err(refused("it is being removed".into()));
    }
    let parts = Parts {
        domain: Domain::new(&*control.domain)?,
        name: control.name.clone(),
        identity: control.identity,
        backing: Report::Recorded(format!("{}, passed over a socket", control.backing)),
    };
    Attached::new(Arc::new(Held::new(mapping, Some(data), Some(claims))), parts)
}

/// The entry by which others can open this process's descriptor of a segment.
pub(crate) fn holder_of(data: &LockFd) -> Option<Holder> {
    // As others find it: by the number that their `/proc` has for us, if they share ours.
    let (pid, start) = (process::own_number()?, process::own_start_time()?);
    Some(Holder { pid, fd: data.as_raw_fd(), start })
}

/// Adds this process to the holders of a named memfd segment and drops the dead ones.
///
/// It is a service to those who come later: if it fails, the segment is only found through the
/// holders it has.
pub(crate) fn become_holder(folder: &Folder, segment: &Attached) {
    let add = || -> Result<()> {
        let Some(own) = segment.held.data.as_ref().and_then(holder_of) else { return Ok(()) };
        let owner = nix::unistd::geteuid().as_raw();
        let _lock = folder.lock_name(
            segment.domain.name(),
            &segment.name,
            owner,
            Duration::from_secs(1),
        )?;
        let found = attach::find(folder, &segment.domain, &segment.name)?;
        if found.control.identity != segment.identity || found.uid != owner {
            return Ok(());
        }
        let mut control = found.control;
        control.holders.retain(|h| process::start_time(h.pid) == Some(h.start));
        control.holders.push(own);
        if control.holders.len() > HOLDERS_MAX {
            return Ok(());
        }
        let fd = folder.create_unnamed(found.mode, &control.to_text())?;
        let file = names::control_file(segment.domain.name(), &segment.name);
        let way = names::passing_file(segment.identity, Some(own.pid));
        folder.link_over(&fd, &file, &way)
    };
    let _ = add();
}

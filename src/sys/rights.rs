//! Receiving descriptors over a Unix socket, every one of which is owned at once.
//!
//! Where this process may have no more descriptors the kernel hands over those
//! that fit and says that it cut the message; what came must be closed all the same.
#![expect(unsafe_code, reason = "recvmsg, and descriptors that come as plain numbers")]

use nix::errno::Errno;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// As many as one message can carry (`SCM_MAX_FD`).
const MOST: usize = 253;

/// Room for control messages, aligned as they are.
#[repr(C, align(8))]
struct Control([u8; 16 + 4 * (MOST + 1)]);

/// Waits for bytes and the descriptors that come with them.
///
/// `EMFILE` if some could not be had, for want of room in this process's table.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
) -> nix::Result<(usize, Vec<OwnedFd>)> {
    let mut control = MaybeUninit::<Control>::zeroed();
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: all bits zero is a valid `msghdr`: null pointers and lengths of 0.
    let mut head: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    head.msg_iov = &raw mut part;
    head.msg_iovlen = 1;
    head.msg_control = control.as_mut_ptr().cast();
    head.msg_controllen = size_of::<Control>() as _;
    let count = loop {
        // SAFETY: `head` leads to one part and to room for control messages, both with the lengths
        // that they have, and both outlive the call.
        let count =
            unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut head, libc::MSG_CMSG_CLOEXEC) };
        match Errno::result(count) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
            Ok(count) => break count.unsigned_abs(),
        }
    };
    let descriptors = owned(&head);
    if head.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(Errno::EMFILE);
    }
    Ok((count, descriptors))
}

/// The descriptors that a message brought.
fn owned(head: &libc::msghdr) -> Vec<OwnedFd> {
    let mut descriptors = Vec::new();
    // SAFETY: `head` was filled in by `recvmsg`, so it leads to whole control messages.
    let mut message = unsafe { libc::CMSG_FIRSTHDR(head) };
    while !message.is_null() {
        // SAFETY: not null, so it is one of the messages in the room that `head` leads to.
        let found = unsafe { message.read() };
        if (found.cmsg_level, found.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: as above.
            let data = unsafe { libc::CMSG_DATA(message) };
            let bytes = found.cmsg_len as usize - (data.addr() - message.addr());
            for number in 0..bytes / size_of::<i32>() {
                // SAFETY: the message says that so many numbers lie behind its head.
                let at = unsafe { data.cast::<i32>().add(number) };
                // SAFETY: as above.
                let fd = unsafe { at.read_unaligned() };
                // SAFETY: recvmsg put it into our table just now, and nobody else knows it.
                descriptors.push(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
        // SAFETY: `message` is one of the messages of `head`.
        message = unsafe { libc::CMSG_NXTHDR(head, message) };
    }
    descriptors
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
    use std::io::IoSlice;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn every_descriptor_of_a_message_comes_and_is_owned() {
        for count in [0, 1, 2, MOST] {
            let (to, from) = UnixStream::pair().unwrap();
            let fds = vec![to.as_raw_fd(); count];
            let rights = [ControlMessage::ScmRights(&fds)];
            let with = if count == 0 { &[][..] } else { &rights[..] };
            let text = [IoSlice::new(b"abc")];
            sendmsg::<UnixAddr>(to.as_raw_fd(), &text, with, MsgFlags::empty(), None).unwrap();
            let mut bytes = [0; 8];
            let (length, came) = receive(from.as_fd(), &mut bytes).unwrap();
            assert_eq!((length, &bytes[..3], came.len()), (3, &b"abc"[..], count));
            drop(to);
            // While a copy of the other end is open there is no end of the stream.
            from.set_nonblocking(true).unwrap();
            let still_open = receive(from.as_fd(), &mut bytes).map(|got| got.0);
            assert_eq!(still_open, if count == 0 { Ok(0) } else { Err(Errno::EAGAIN) });
            drop(came);
            assert_eq!(receive(from.as_fd(), &mut bytes).map(|got| got.0), Ok(0));
        }
    }
}

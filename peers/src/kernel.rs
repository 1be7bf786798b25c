//! What the kernel moves: pipes, sockets, message queues, counters. Each call is a system call,
//! and the receiver sleeps when there is nothing.

use crate::harness::{End, Ends, Peer, Receive, Send};
use crate::passing;
use bench_kit::words::{fill, sum};
use bench_kit::{Outcome, Place, Stage};
use bytemuck::{cast_slice, cast_slice_mut};
use nix::mqueue::{MQ_OFlag, MqAttr, MqdT, mq_open, mq_receive, mq_send, mq_unlink};
use nix::sys::eventfd;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use nix::sys::stat::Mode;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

const NOTE: &str = "one system call per message or batch; it sleeps when there is nothing";
const BATCH: usize = 32;

/// A stream of bytes into which messages are written whole.
pub struct Writer<const N: usize> {
    file: File,
    message: Vec<u64>,
}

/// Its other end.
pub struct Reader<const N: usize> {
    file: File,
    message: Vec<u64>,
}

impl<const N: usize> Writer<N> {
    fn new(fd: OwnedFd) -> Self {
        Self { file: fd.into(), message: vec![0; N * BATCH] }
    }
}

impl<const N: usize> Reader<N> {
    fn new(fd: OwnedFd) -> Self {
        Self { file: fd.into(), message: vec![0; N * BATCH] }
    }
}

impl<const N: usize> Send for Writer<N> {
    fn send(&mut self, number: u64) -> Outcome {
        fill(&mut self.message[..N], number);
        Ok(self.file.write_all(cast_slice(&self.message[..N]))?)
    }

    fn send_batch(&mut self, first: u64, count: u64) -> Outcome {
        let messages = &mut self.message[..N * count as usize];
        for (message, number) in messages.chunks_exact_mut(N).zip(first..) {
            message.fill(number);
        }
        Ok(self.file.write_all(cast_slice(messages))?)
    }
}

impl<const N: usize> Receive for Reader<N> {
    fn receive(&mut self) -> Outcome<u64> {
        let message = &mut self.message[..N];
        self.file.read_exact(cast_slice_mut(message))?;
        Ok(sum(message))
    }

    fn receive_batch(&mut self, max: u64) -> Outcome<(u64, u64)> {
        let messages = &mut self.message[..N * max as usize];
        self.file.read_exact(cast_slice_mut(messages))?;
        Ok((max, sum(messages)))
    }
}

/// A pipe of 1 MiB.
pub struct Pipe;

impl<const N: usize> Peer<N> for Pipe {
    const NAME: &'static str = "pipe";
    const PLACE: Place = Place::Processes;
    const NOTE: &'static str = NOTE;
    type Sender = Writer<N>;
    type Receiver = Reader<N>;

    fn make(stage: &Stage, channel: usize, sends: bool) -> Outcome<Ends<N, Self>> {
        let (reader, writer) = std::io::pipe()?;
        // More than a user may have is no error: it keeps its 64 KiB.
        let _ = nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETPIPE_SZ(1 << 20));
        let (reader, writer) = (OwnedFd::from(reader), OwnedFd::from(writer));
        Ok(if sends {
            passing::leave(stage, channel, [reader]);
            End::Sender(Writer::new(writer))
        } else {
            passing::leave(stage, channel, [writer]);
            End::Receiver(Reader::new(reader))
        })
    }

    fn open(stage: &Stage, channel: usize, sends: bool) -> Outcome<Ends<N, Self>> {
        let [fd] = passing::fetch(stage, channel)?;
        Ok(if sends { End::Sender(Writer::new(fd)) } else { End::Receiver(Reader::new(fd)) })
    }
}

/// A Unix stream socket.
pub struct Socket;

impl<const N: usize> Peer<N> for Socket {
    const NAME: &'static str = "Unix stream socket";
    const PLACE: Place = Place::Processes;
    const NOTE: &'static str = NOTE;
    type Sender = Writer<N>;
    type Receiver = Reader<N>;

    fn make(stage: &Stage, channel: usize, sends: bool) -> Outcome<Ends<N, Self>> {
        let (own, other) = UnixStream::pair()?;
        let (own, other) = (OwnedFd::from(own), OwnedFd::from(other));
        passing::leave(stage, channel, [other]);
        Ok(if sends { End::Sender(Writer::new(own)) } else { End::Receiver(Reader::new(own)) })
    }

    fn open(stage: &Stage, channel: usize, sends: bool) -> Outcome<Ends<N, Self>> {
        let [fd] = passing::fetch(stage, channel)?;
        Ok(if sends { End::Sender(Writer::new(fd)) } else { End::Receiver(Reader::new(fd)) })
    }
}

/// A Unix socket that keeps messages apart.
pub struct PacketSocket;

/// One end of it.
pub struct PacketEnd {
    socket: OwnedFd,
    message: Vec<u64>,
}

impl Send for PacketEnd {
    fn send(&mut self, number: u64) -> Outcome {
        fill(&mut self.message, number);
        let bytes = cast_slice(&self.message);
        let sent = send(self.socket.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL)?;
        if sent == bytes.len() { Ok(()) } else { Err("a part of a packet was sent".into()) }
    }
}

impl Receive for PacketEnd {
    fn receive(&mut self) -> Outcome<u64> {
        let bytes: &mut [u8] = cast_slice_mut(&mut self.message);
        let whole = bytes.len();
        // All of a packet comes, or nothing: 0 bytes are the end.
        let came = recv(self.socket.as_raw_fd(), bytes, MsgFlags::empty())?;
        if came == whole { Ok(sum(&self.message)) } else { Err("a packet of another size".into()) }
    }
}

impl<const N: usize> Peer<N> for PacketSocket {
    const NAME: &'static str = "Unix seqpacket socket";
    const PLACE: Place = Place::Processes;
    const NOTE: &'static str = NOTE;
    type Sender = PacketEnd;
    type Receiver = PacketEnd;

    fn make(stage: &Stage, channel: usize, sends: bool) -> Outcome<Ends<N, Self>> {
        let (kind, flags) = (SockType::SeqPacket, SockFlag::SOCK_CLOEXEC);
        let (own, other) = socketpair(AddressFamily::Unix, kind, None, flags)?;
        passing::leave(stage, channel, [other]);
        let end = PacketEnd { socket: own, message: vec![0; N] };
        Ok(if sends { End::Sender(end) } else { End::Receiver(end) })
    }

    fn open(stage: &Stage, channel: usize, sends: bool) -> Outcome<Ends<N, Self>> {
        let [socket] = passing::fetch(stage, channel)?;
        let end = PacketEnd { socket, message: vec![0; N] };
        Ok(if sends { End::Sender(end) } else { End::Receiver(end) })
    }
}

/// An eventfd, blocking. Its counter carries the number: each one is read before the next is
/// added.
pub struct EventFd;

/// One end of it.
pub struct EventEnd(File);

impl Send for EventEnd {
    fn send(&mut self, number: u64) -> Outcome {
        Ok(self.0.write_all(&number.to_ne_bytes())?)
    }
}

impl Receive for EventEnd {
    fn receive(&mut self) -> Outcome<u64> {
        let mut number = [0; 8];
        self.0.read_exact(&mut number)?;
        Ok(u64::from_ne_bytes(number))
    }
}

impl Peer<1> for EventFd {
    const NAME: &'static str = "eventfd";
    const PLACE: Place = Place::Processes;
    const NOTE: &'static str = "a wake-up with a counter of 8 bytes, no queue";
    type Sender = EventEnd;
    type Receiver = EventEnd;

    fn make(stage: &Stage, channel: usize, sends: bool) -> Outcome<Ends<1, Self>> {
        let flags = eventfd::EfdFlags::EFD_CLOEXEC;
        let event = OwnedFd::from(eventfd::EventFd::from_value_and_flags(0, flags)?);
        passing::leave(stage, channel, [event.try_clone()?]);
        let end = EventEnd(event.into());
        Ok(if sends { End::Sender(end) } else { End::Receiver(end) })
    }

    fn open(stage: &Stage, channel: usize, sends: bool) -> Outcome<Ends<1, Self>> {
        let [event] = passing::fetch(stage, channel)?;
        let end = EventEnd(event.into());
        Ok(if sends { End::Sender(end) } else { End::Receiver(end) })
    }
}

/// A POSIX message queue of 10 messages, the most that a user may have if nothing is tuned.
pub struct PosixQueue;

/// One end of it.
pub struct QueueEnd {
    queue: MqdT,
    message: Vec<u64>,
}

impl Send for QueueEnd {
    fn send(&mut self, number: u64) -> Outcome {
        fill(&mut self.message, number);
        Ok(mq_send(&self.queue, cast_slice(&self.message), 0)?)
    }
}

impl Receive for QueueEnd {
    fn receive(&mut self) -> Outcome<u64> {
        let mut priority = 0;
        mq_receive(&self.queue, cast_slice_mut(&mut self.message), &mut priority)?;
        Ok(sum(&self.message))
    }
}

fn queue<const N: usize>(stage: &Stage, channel: usize, flags: MQ_OFlag) -> Outcome<QueueEnd> {
    let name = format!("/{}-{channel}", stage.name());
    let attributes = MqAttr::new(0, 10, N as i64 * 8, 0);
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    let queue = mq_open(name.as_str(), flags | MQ_OFlag::O_RDWR, mode, Some(&attributes))?;
    if !flags.contains(MQ_OFlag::O_CREAT) {
        mq_unlink(name.as_str())?;
    }
    Ok(QueueEnd { queue, message: vec![0; N] })
}

impl<const N: usize> Peer<N> for PosixQueue {
    const NAME: &'static str = "POSIX message queue";
    const PLACE: Place = Place::Processes;
    const NOTE: &'static str = "one system call per message; room for 10";
    type Sender = QueueEnd;
    type Receiver = QueueEnd;

    fn make(stage: &Stage, channel: usize, sends: bool) -> Outcome<Ends<N, Self>> {
        let end = queue::<N>(stage, channel, MQ_OFlag::O_CREAT | MQ_OFlag::O_EXCL)?;
        Ok(if sends { End::Sender(end) } else { End::Receiver(end) })
    }

    fn open(stage: &Stage, channel: usize, sends: bool) -> Outcome<Ends<N, Self>> {
        let end = queue::<N>(stage, channel, MQ_OFlag::empty())?;
        Ok(if sends { End::Sender(end) } else { End::Receiver(end) })
    }
}

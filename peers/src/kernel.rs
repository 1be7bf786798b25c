//! What the kernel moves: pipes, sockets, message queues. Each call is a system call, and the
//! receiver sleeps when there is nothing.

use crate::harness::{End, Ends, Peer, Receive, Send};
use crate::passing;
use bench_kit::words::{fill, sum};
use bench_kit::{Outcome, Place, Stage};
use bytemuck::{cast_slice, cast_slice_mut};
use nix::mqueue::{MQ_OFlag, MqAttr, MqdT, mq_open, mq_receive, mq_send, mq_unlink};
use nix::sys::stat::Mode;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
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

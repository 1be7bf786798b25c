//! Typed rings, with one consumer, with many, and as lanes.

use super::content::Content;
use super::drive::Trial;
use super::ends::{Becomes, receives, sends};
use super::queue::{OBJECT, Queue, Start};
use bytemuck::{bytes_of, pod_read_unaligned};
use hugeshm::{
    Armed, BroadcastConsumer, BroadcastRing, Consumer, FromLane, Join, LaneProducer, Lanes,
    LanesConsumer, PeerState, Producer, RecvError, Segment, SegmentBuilder, SendError, WaitMode,
    Waitable, wait_any,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;
use std::time::Duration;

/// How many messages a ring holds.
const CAPACITY: u64 = 24;
/// A call that waits longer hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a receiving call gave.
pub struct Heard<const W: usize> {
    one: Option<[u64; W]>,
    many: Vec<[u64; W]>,
}

impl<const W: usize> Default for Heard<W> {
    fn default() -> Self {
        Self { one: None, many: Vec::with_capacity(CAPACITY as usize) }
    }
}

impl<const W: usize> Heard<W> {
    pub fn one(&mut self, message: [u64; W]) {
        self.one = Some(message);
    }

    fn bytes(self) -> Vec<Vec<u8>> {
        self.one.iter().chain(&self.many).map(|message| bytes_of(message).to_vec()).collect()
    }
}

/// A message of words.
pub fn words<const W: usize>(content: &Content) -> [u64; W] {
    pod_read_unaligned(&content.bytes())
}

/// How many messages share a header word.
fn per_block<const W: usize>() -> u64 {
    let bytes = 8 * W as u64;
    if bytes.is_multiple_of(64) { (512 / bytes).max(1) } else { (56 / bytes).max(1) }
}

/// A typed ring of messages of `W` words.
#[derive(Clone, Copy)]
pub struct Typed<const W: usize>;

/// A typed broadcast ring.
#[derive(Clone, Copy)]
pub struct Broadcast<const W: usize> {
    pub lossless: bool,
}

/// Lanes, of which the first is used.
#[derive(Clone, Copy)]
pub struct Laned<const W: usize>;

/// What all three have in common.
macro_rules! typed_queue {
    () => {
        type Data = Vec<[u64; W]>;
        type Heard = Heard<W>;

        fn len(self, _: u64) -> usize {
            8 * W
        }

        fn unit(self) -> u64 {
            1
        }

        fn looks_every(self) -> u64 {
            64
        }

        fn data(self, contents: &[Content]) -> Self::Data {
            contents.iter().map(words).collect()
        }

        fn heard(self, heard: Self::Heard) -> Vec<Vec<u8>> {
            heard.bytes()
        }

        fn send(self, sender: &mut Self::Sender, data: &Self::Data) -> Result<(), SendError> {
            sender.try_push(data[0])
        }

        fn insist(self, sender: &mut Self::Sender, data: &Self::Data) -> Result<(), SendError> {
            sender.wait_mode(WaitMode::Block);
            sender.push_timeout(data[0], PATIENCE)
        }

        fn receiver_state(self, sender: &Self::Sender) -> PeerState {
            sender.peer()
        }

        fn sender_state(self, receiver: &Self::Receiver) -> PeerState {
            receiver.peer()
        }
    };
}

impl<const W: usize> Queue for Typed<W> {
    type Sender = Producer<[u64; W]>;
    type Receiver = Consumer<[u64; W]>;

    typed_queue!();

    fn name(self) -> String {
        format!("typed ring, {} B", 8 * W)
    }

    fn declare(self, builder: SegmentBuilder) -> SegmentBuilder {
        builder.ring::<[u64; W]>(OBJECT, CAPACITY)
    }

    fn sender(self, segment: &Segment) -> hugeshm::Result<Self::Sender> {
        segment.producer(OBJECT)
    }

    fn receiver(self, segment: &Segment, _: u64) -> hugeshm::Result<Self::Receiver> {
        segment.consumer(OBJECT)
    }

    fn turn(self) -> u64 {
        (CAPACITY + per_block::<W>() - 1).div_ceil(per_block::<W>()) * per_block::<W>()
    }

    fn holds(self) -> Option<u64> {
        Some(CAPACITY)
    }

    fn receive(self, receiver: &mut Self::Receiver) -> Result<Vec<u8>, RecvError> {
        receiver.try_recv().map(|message| bytes_of(&message).to_vec())
    }

    fn wait(self, receiver: &mut Self::Receiver) -> Result<Vec<u8>, RecvError> {
        receiver.wait_mode(WaitMode::Block);
        receiver.recv_timeout(PATIENCE).map(|message| bytes_of(&message).to_vec())
    }

    fn sent(self, sender: &Self::Sender) -> Option<u64> {
        Some(sender.position())
    }

    fn received(self, receiver: &Self::Receiver) -> u64 {
        receiver.position()
    }
}

impl<const W: usize> Queue for Broadcast<W> {
    type Sender = Producer<[u64; W]>;
    type Receiver = BroadcastConsumer<[u64; W]>;

    typed_queue!();

    fn name(self) -> String {
        let kind = if self.lossless { "lossless" } else { "overwriting" };
        format!("broadcast ring, {kind}, {} B", 8 * W)
    }

    fn declare(self, builder: SegmentBuilder) -> SegmentBuilder {
        let ring = BroadcastRing::<[u64; W]>::new(CAPACITY).lossless(self.lossless).consumers(2);
        builder.broadcast_of(OBJECT, ring)
    }

    fn sender(self, segment: &Segment) -> hugeshm::Result<Self::Sender> {
        segment.broadcast_producer(OBJECT)
    }

    fn receiver(self, segment: &Segment, from: u64) -> hugeshm::Result<Self::Receiver> {
        segment.broadcast_consumer(OBJECT, Join::At(from))
    }

    fn turn(self) -> u64 {
        let blocks = CAPACITY.div_ceil(per_block::<W>());
        (blocks + (blocks / 8).max(1)) * per_block::<W>()
    }

    fn holds(self) -> Option<u64> {
        None
    }

    fn keeps(self) -> u64 {
        if self.lossless { u64::MAX } else { CAPACITY }
    }

    fn slack(self) -> usize {
        2 * per_block::<W>() as usize
    }

    fn receive(self, receiver: &mut Self::Receiver) -> Result<Vec<u8>, RecvError> {
        receiver.try_recv().map(|message| bytes_of(&message).to_vec())
    }

    fn wait(self, receiver: &mut Self::Receiver) -> Result<Vec<u8>, RecvError> {
        receiver.wait_mode(WaitMode::Block);
        receiver.recv_timeout(PATIENCE).map(|message| bytes_of(&message).to_vec())
    }

    fn sent(self, sender: &Self::Sender) -> Option<u64> {
        Some(sender.position())
    }

    fn received(self, receiver: &Self::Receiver) -> u64 {
        receiver.position()
    }

    fn leaves_dead_out(self) -> bool {
        true
    }
}

impl<const W: usize> Queue for Laned<W> {
    type Sender = LaneProducer<[u64; W]>;
    type Receiver = LanesConsumer<[u64; W]>;

    typed_queue!();

    fn name(self) -> String {
        format!("lanes, {} B", 8 * W)
    }

    fn declare(self, builder: SegmentBuilder) -> SegmentBuilder {
        builder.lanes_of(OBJECT, Lanes::<[u64; W]>::new(3, CAPACITY))
    }

    fn sender(self, segment: &Segment) -> hugeshm::Result<Self::Sender> {
        segment.lane_producer_at(OBJECT, 0)
    }

    fn receiver(self, segment: &Segment, _: u64) -> hugeshm::Result<Self::Receiver> {
        segment.lanes_consumer(OBJECT)
    }

    fn turn(self) -> u64 {
        (CAPACITY + per_block::<W>() - 1).div_ceil(per_block::<W>()) * per_block::<W>()
    }

    fn holds(self) -> Option<u64> {
        Some(CAPACITY)
    }

    fn receive(self, receiver: &mut Self::Receiver) -> Result<Vec<u8>, RecvError> {
        receiver.try_recv().map(|from: FromLane<[u64; W]>| bytes_of(&from.value).to_vec())
    }

    fn wait(self, receiver: &mut Self::Receiver) -> Result<Vec<u8>, RecvError> {
        receiver.wait_mode(WaitMode::Block);
        receiver.recv_timeout(PATIENCE).map(|from| bytes_of(&from.value).to_vec())
    }

    fn sent(self, sender: &Self::Sender) -> Option<u64> {
        Some(sender.position())
    }

    fn received(self, receiver: &Self::Receiver) -> u64 {
        receiver.position_of(0).unwrap_or(0)
    }
}

/// Of operations that need neither an empty nor a full ring.
pub const USUAL: &[Start] = &[Start::Wrap, Start::Begin, Start::Full];
/// Of those of a producer.
pub const SENDING: &[Start] = &[Start::Wrap, Start::Begin, Start::Full, Start::Look];
/// In an object that overwrites nothing is ever full.
const NEVER_FULL: &[Start] = &[Start::Wrap, Start::Begin, Start::Look];

/// The operations of a producer.
macro_rules! producer_operations {
    ($trials:ident, $queue:expr, $starts:expr, $sleeps:expr) => {{
        let (queue, starts) = ($queue, $starts);
        let all = |count| (count, Becomes::Sent);
        $trials.push(sends(queue, "push", all(1), starts, |tx, data| tx.push(data[0])));
        $trials.push(sends(queue, "try_push", all(1), starts, |tx, data| tx.try_push(data[0])));
        $trials.push(sends(queue, "push_batch of 3", all(3), starts, |tx, data| {
            tx.push_batch(data).map(drop)
        }));
        $trials.push(sends(queue, "push_batch of 19", all(19), starts, |tx, data| {
            tx.push_batch(data).map(drop)
        }));
        $trials.push(sends(queue, "push_all of 10", all(10), starts, |tx, data| tx.push_all(data)));
        if $sleeps {
            $trials.push(sends(queue, "push, asleep", all(1), &[Start::Brim], |tx, data| {
                tx.wait_mode(WaitMode::Block);
                tx.push_timeout(data[0], PATIENCE)
            }));
        }
    }};
}

/// The operations of a consumer; `$value` takes the message out of what a call gives.
macro_rules! consumer_operations {
    ($trials:ident, $queue:expr, $starts:expr, $value:expr) => {{
        let (queue, starts) = ($queue, $starts);
        $trials.push(receives(queue, "try_recv", (1, true), starts, |rx, heard| {
            heard.one($value(rx.try_recv()?));
            Ok(())
        }));
        $trials.push(receives(queue, "recv", (1, true), starts, |rx, heard| {
            heard.one($value(rx.recv()?));
            Ok(())
        }));
        $trials.push(receives(queue, "recv, asleep", (1, true), &[Start::Empty], |rx, heard| {
            rx.wait_mode(WaitMode::Block);
            heard.one($value(rx.recv_timeout(PATIENCE)?));
            Ok(())
        }));
    }};
}

/// Batches of a consumer that gives values.
macro_rules! batch_operations {
    ($trials:ident, $queue:expr, $starts:expr) => {{
        let (queue, starts) = ($queue, $starts);
        $trials.push(receives(queue, "recv_batch of 3", (3, true), starts, |rx, heard| {
            rx.recv_batch(&mut heard.many, 3).map(drop)
        }));
        $trials.push(receives(queue, "recv_batch of 19", (19, true), starts, |rx, heard| {
            rx.recv_batch(&mut heard.many, 19).map(drop)
        }));
    }};
}

/// All operations of typed rings with one consumer.
pub fn rings() -> Vec<Trial> {
    let mut trials = Vec::new();
    ring_of::<1>(&mut trials);
    ring_of::<8>(&mut trials);
    // Of these each has a block of its own, so a place given up too early is written at once.
    ring_of::<9>(&mut trials);
    ring_of::<32>(&mut trials);
    trials
}

fn ring_of<const W: usize>(trials: &mut Vec<Trial>) {
    producer_operations!(trials, Typed::<W>, SENDING, W == 1);
    consumer_operations!(trials, Typed::<W>, USUAL, |value| value);
    batch_operations!(trials, Typed::<W>, USUAL);
    trials.push(receives(Typed::<W>, "peek", (1, false), USUAL, |rx, heard| {
        heard.one(rx.peek()?);
        Ok(())
    }));
    trials.push(receives(Typed::<W>, "peek and skip", (1, true), USUAL, |rx, heard| {
        heard.one(rx.peek()?);
        rx.skip()
    }));
}

/// What an end does that is waited for in `poll`, or together with others.
pub fn bells() -> Vec<Trial> {
    let mut trials = Vec::new();
    let (queue, empty): (_, &[Start]) = (Typed::<1>, &[Start::Empty]);
    trials.push(receives(queue, "doorbell, arm", (0, false), empty, |rx, _| {
        let bell = rx.doorbell().map_err(|_| RecvError::Forked)?;
        match bell.arm(rx) {
            Ok(Armed::Poll { .. }) => Ok(()),
            _ => Err(RecvError::Forked),
        }
    }));
    trials.push(receives(
        queue,
        "doorbell, arm, poll, clear, recv",
        (1, true),
        empty,
        |rx, heard| {
            let bell = rx.doorbell().map_err(|_| RecvError::Forked)?;
            while let Ok(Armed::Poll { .. }) = bell.arm(rx) {
                let mut fds = [PollFd::new(bell.as_fd(), PollFlags::POLLIN)];
                _ = poll(&mut fds, PollTimeout::NONE);
                bell.clear();
            }
            heard.one(rx.try_recv()?);
            Ok(())
        },
    ));
    trials.push(receives(queue, "wait_any, asleep, recv", (1, true), empty, |rx, heard| {
        _ = wait_any(&mut [rx as &mut dyn Waitable], Some(PATIENCE));
        heard.one(rx.try_recv()?);
        Ok(())
    }));
    trials
}

/// All operations of typed broadcast rings.
pub fn broadcasts() -> Vec<Trial> {
    let mut trials = Vec::new();
    broadcast_of(&mut trials, Broadcast::<1> { lossless: false }, NEVER_FULL);
    broadcast_of(&mut trials, Broadcast::<8> { lossless: true }, SENDING);
    trials
}

fn broadcast_of<const W: usize>(
    trials: &mut Vec<Trial>,
    queue: Broadcast<W>,
    starts: &'static [Start],
) {
    producer_operations!(trials, queue, starts, queue.lossless);
    consumer_operations!(trials, queue, starts, |value| value);
    batch_operations!(trials, queue, starts);
}

/// All operations of lanes.
pub fn lanes() -> Vec<Trial> {
    let mut trials = Vec::new();
    producer_operations!(trials, Laned::<1>, SENDING, true);
    consumer_operations!(trials, Laned::<1>, USUAL, |from: FromLane<[u64; 1]>| from.value);
    producer_operations!(trials, Laned::<32>, SENDING, false);
    consumer_operations!(trials, Laned::<32>, USUAL, |from: FromLane<[u64; 32]>| from.value);
    trials
}

//! Shared rings: many producers and consumers, of which one of each is here, and one is killed.

use super::content::Content;
use super::drive::Trial;
use super::ends::{Becomes, receives, sends};
use super::queue::{OBJECT, Queue, Start};
use super::typed::words;
use bytemuck::bytes_of;
use hugeshm::{
    PeerState, RecvError, Segment, SegmentBuilder, SendError, SharedConsumer, SharedProducer,
    SharedRing, WaitMode,
};
use std::time::Duration;

/// How many messages the ring holds.
const CAPACITY: u64 = 8;
/// A call that waits longer hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// A shared ring of messages of `W` words.
#[derive(Clone, Copy)]
pub struct Shared<const W: usize>;

/// A consumer, and the position behind the last message that it saw.
pub struct Receiver<const W: usize> {
    consumer: SharedConsumer<[u64; W]>,
    next: u64,
}

impl<const W: usize> Receiver<W> {
    fn take(&mut self, wait: bool) -> Result<Vec<u8>, RecvError> {
        let held = if wait {
            self.consumer.wait_mode(WaitMode::Block);
            self.consumer.hold_timeout(PATIENCE)?
        } else {
            self.consumer.try_hold()?
        };
        self.next = held.position() + 1;
        Ok(bytes_of(&held.release()).to_vec())
    }
}

impl<const W: usize> Queue for Shared<W> {
    type Sender = SharedProducer<[u64; W]>;
    type Receiver = Receiver<W>;
    type Data = Vec<[u64; W]>;
    type Heard = Option<[u64; W]>;

    fn name(self) -> String {
        format!("shared ring, {} B", 8 * W)
    }

    fn declare(self, builder: SegmentBuilder) -> SegmentBuilder {
        let ring = SharedRing::<[u64; W]>::new(CAPACITY).producers(2).consumers(2);
        builder.shared_ring_of(OBJECT, ring)
    }

    fn sender(self, segment: &Segment) -> hugeshm::Result<Self::Sender> {
        segment.shared_producer(OBJECT)
    }

    fn receiver(self, segment: &Segment, from: u64) -> hugeshm::Result<Self::Receiver> {
        Ok(Receiver { consumer: segment.shared_consumer(OBJECT)?, next: from })
    }

    fn len(self, _: u64) -> usize {
        8 * W
    }

    fn unit(self) -> u64 {
        1
    }

    fn turn(self) -> u64 {
        CAPACITY
    }

    fn looks_every(self) -> u64 {
        u64::MAX
    }

    fn holds(self) -> Option<u64> {
        Some(CAPACITY)
    }

    fn data(self, contents: &[Content]) -> Self::Data {
        contents.iter().map(words).collect()
    }

    fn heard(self, heard: Self::Heard) -> Vec<Vec<u8>> {
        heard.iter().map(|message| bytes_of(message).to_vec()).collect()
    }

    fn send(self, sender: &mut Self::Sender, data: &Self::Data) -> Result<(), SendError> {
        sender.try_push(data[0])
    }

    fn insist(self, sender: &mut Self::Sender, data: &Self::Data) -> Result<(), SendError> {
        sender.wait_mode(WaitMode::Block);
        sender.push_timeout(data[0], PATIENCE)
    }

    fn receive(self, receiver: &mut Self::Receiver) -> Result<Vec<u8>, RecvError> {
        receiver.take(false)
    }

    fn wait(self, receiver: &mut Self::Receiver) -> Result<Vec<u8>, RecvError> {
        receiver.take(true)
    }

    fn receiver_state(self, sender: &Self::Sender) -> PeerState {
        sender.peer()
    }

    fn sender_state(self, receiver: &Self::Receiver) -> PeerState {
        receiver.consumer.peer()
    }

    fn sent(self, _: &Self::Sender) -> Option<u64> {
        None
    }

    fn received(self, receiver: &Self::Receiver) -> u64 {
        receiver.next
    }
}

const STARTS: &[Start] = &[Start::Wrap, Start::Begin, Start::Full];

/// All operations of shared rings.
pub fn rings() -> Vec<Trial> {
    let mut trials = Vec::new();
    ring_of::<1>(&mut trials);
    ring_of::<8>(&mut trials);
    ring_of::<32>(&mut trials);
    trials
}

fn ring_of<const W: usize>(trials: &mut Vec<Trial>) {
    let queue = Shared::<W>;
    let sent = (1, Becomes::Sent);
    trials.push(sends(queue, "push", sent, STARTS, |tx, data| tx.push(data[0])));
    trials.push(sends(queue, "try_push", sent, STARTS, |tx, data| tx.try_push(data[0])));
    trials.push(sends(queue, "push, asleep", sent, &[Start::Brim], |tx, data| {
        tx.wait_mode(WaitMode::Block);
        tx.push_timeout(data[0], PATIENCE)
    }));
    trials.push(receives(queue, "try_recv", (1, true), STARTS, |rx, heard| {
        *heard = Some(rx.consumer.try_recv()?);
        Ok(())
    }));
    trials.push(receives(queue, "hold, release", (1, true), STARTS, |rx, heard| {
        let held = rx.consumer.try_hold()?;
        *heard = Some(held.release());
        Ok(())
    }));
    trials.push(receives(queue, "hold, put back", (1, false), STARTS, |rx, heard| {
        let held = rx.consumer.try_hold()?;
        *heard = Some(held.value());
        drop(held);
        Ok(())
    }));
    trials.push(receives(queue, "recv, asleep", (1, true), &[Start::Empty], |rx, heard| {
        rx.consumer.wait_mode(WaitMode::Block);
        *heard = Some(rx.consumer.recv_timeout(PATIENCE)?);
        Ok(())
    }));
}

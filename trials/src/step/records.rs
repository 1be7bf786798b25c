//! Rings of records, with one consumer and with many.

use super::content::Content;
use super::drive::Trial;
use super::ends::{Becomes, receives, sends};
use super::queue::{OBJECT, Queue, Start};
use hugeshm::{
    BroadcastRecordConsumer, BroadcastRecords, Join, PeerState, RecordConsumer, RecordProducer,
    RecvError, Segment, SegmentBuilder, SendError, WaitMode,
};
use std::time::Duration;

/// The ring's length in bytes.
const BYTES: u64 = 2048;
/// A call that waits longer hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// The lengths that records have in turn.
#[derive(Clone, Copy)]
pub struct Lengths(&'static [usize]);

impl Lengths {
    fn of(self, number: u64) -> usize {
        self.0[number as usize % self.0.len()]
    }

    /// The most room that one record takes.
    fn unit(self) -> u64 {
        let most = self.0.iter().max().copied().unwrap_or(0) as u64;
        8 + most.next_multiple_of(8)
    }

    fn name(self) -> String {
        match self.0 {
            [len] => format!("{len} B"),
            _ => "of many lengths".into(),
        }
    }
}

/// A record ring.
#[derive(Clone, Copy)]
pub struct Records(Lengths);

impl Records {
    /// A ring for records of 64 bytes.
    pub fn of_64() -> Self {
        Self(Lengths(&[64]))
    }
}

/// A broadcast ring of records.
#[derive(Clone, Copy)]
pub struct Many {
    lengths: Lengths,
    lossless: bool,
}

/// What both have in common.
macro_rules! record_queue {
    ($($lengths:tt)+) => {
        type Sender = RecordProducer;
        type Data = Vec<Vec<u8>>;
        type Heard = Vec<u8>;

        fn len(self, number: u64) -> usize {
            self.$($lengths)+.of(number)
        }

        fn unit(self) -> u64 {
            self.$($lengths)+.unit()
        }

        fn turn(self) -> u64 {
            BYTES
        }

        /// A short record makes no room for a long one.
        fn slack(self) -> usize {
            self.$($lengths)+.0.len() - 1
        }

        fn looks_every(self) -> u64 {
            4096
        }

        fn holds(self) -> Option<u64> {
            None
        }

        fn data(self, contents: &[Content]) -> Self::Data {
            contents.iter().map(Content::bytes).collect()
        }

        fn room(self) -> Self::Heard {
            Vec::with_capacity(512)
        }

        fn heard(self, heard: Self::Heard) -> Vec<Vec<u8>> {
            vec![heard]
        }

        fn send(self, sender: &mut Self::Sender, data: &Self::Data) -> Result<(), SendError> {
            sender.try_push(&data[0])
        }

        fn insist(self, sender: &mut Self::Sender, data: &Self::Data) -> Result<(), SendError> {
            sender.wait_mode(WaitMode::Block);
            sender.push_timeout(&data[0], PATIENCE)
        }

        fn receive(self, receiver: &mut Self::Receiver) -> Result<Vec<u8>, RecvError> {
            let mut bytes = Vec::new();
            receiver.try_recv(&mut bytes).map(|()| bytes)
        }

        fn receiver_state(self, sender: &Self::Sender) -> PeerState {
            sender.peer()
        }

        fn sender_state(self, receiver: &Self::Receiver) -> PeerState {
            receiver.peer()
        }

        fn sent(self, sender: &Self::Sender) -> Option<u64> {
            Some(sender.position())
        }

        fn received(self, receiver: &Self::Receiver) -> u64 {
            receiver.position()
        }
    };
}

impl Queue for Records {
    type Receiver = RecordConsumer;

    record_queue!(0);

    fn name(self) -> String {
        format!("record ring, {}", self.0.name())
    }

    fn declare(self, builder: SegmentBuilder) -> SegmentBuilder {
        builder.records(OBJECT, BYTES)
    }

    fn sender(self, segment: &Segment) -> hugeshm::Result<Self::Sender> {
        segment.record_producer(OBJECT)
    }

    fn receiver(self, segment: &Segment, _: u64) -> hugeshm::Result<Self::Receiver> {
        segment.record_consumer(OBJECT)
    }

    fn wait(self, receiver: &mut Self::Receiver) -> Result<Vec<u8>, RecvError> {
        receiver.wait_mode(WaitMode::Block);
        let record = receiver.read_timeout(PATIENCE)?;
        let bytes = record.to_vec();
        record.release();
        Ok(bytes)
    }
}

impl Queue for Many {
    type Receiver = BroadcastRecordConsumer;

    record_queue!(lengths);

    fn name(self) -> String {
        let kind = if self.lossless { "lossless" } else { "overwriting" };
        format!("broadcast records, {kind}, {}", self.lengths.name())
    }

    fn declare(self, builder: SegmentBuilder) -> SegmentBuilder {
        let ring = BroadcastRecords::new(BYTES).lossless(self.lossless).consumers(2);
        builder.broadcast_records_of(OBJECT, ring)
    }

    fn sender(self, segment: &Segment) -> hugeshm::Result<Self::Sender> {
        segment.broadcast_record_producer(OBJECT)
    }

    fn receiver(self, segment: &Segment, from: u64) -> hugeshm::Result<Self::Receiver> {
        segment.broadcast_record_consumer(OBJECT, Join::At(from))
    }

    fn keeps(self) -> u64 {
        if self.lossless { u64::MAX } else { BYTES / 2 / self.lengths.unit() }
    }

    fn wait(self, receiver: &mut Self::Receiver) -> Result<Vec<u8>, RecvError> {
        receiver.wait_mode(WaitMode::Block);
        let record = receiver.read_timeout(PATIENCE)?;
        let mut bytes = Vec::new();
        record.copy_into(&mut bytes);
        record.release()?;
        Ok(bytes)
    }

    fn leaves_dead_out(self) -> bool {
        true
    }

    /// The producer counts bytes, the consumers records.
    fn counts_alike(self) -> bool {
        false
    }
}

const SENDING: &[Start] = &[Start::Wrap, Start::Begin, Start::Full, Start::Look];
const RECEIVING: &[Start] = &[Start::Wrap, Start::Begin, Start::Full];
const NEVER_FULL: &[Start] = &[Start::Wrap, Start::Begin, Start::Look];

/// The operations of a producer, which both kinds have.
fn producing<Q>(trials: &mut Vec<Trial>, queue: Q, starts: &'static [Start])
where
    Q: Queue<Sender = RecordProducer, Data = Vec<Vec<u8>>>,
{
    let sent = (1, Becomes::Sent);
    trials.push(sends(queue, "push", sent, starts, |tx, data| tx.push(&data[0])));
    trials.push(sends(queue, "reserve, write, commit", sent, starts, |tx, data| {
        let mut room = tx.try_reserve(data[0].len())?;
        room.write_at(0, &data[0])?;
        room.commit();
        Ok(())
    }));
    let halved = (1, Becomes::Halved);
    trials.push(sends(queue, "reserve, write, commit half", halved, starts, |tx, data| {
        let mut room = tx.try_reserve(data[0].len())?;
        room.write_at(0, &data[0])?;
        room.commit_len(data[0].len() / 2);
        Ok(())
    }));
    let nothing = (1, Becomes::Nothing);
    trials.push(sends(queue, "reserve, write, abort", nothing, starts, |tx, data| {
        let mut room = tx.try_reserve(data[0].len())?;
        room.write_at(0, &data[0])
    }));
    trials.push(sends(queue, "batch of 4", (4, Becomes::Sent), starts, |tx, data| {
        let mut batch = tx.batch();
        for bytes in data {
            batch.push(bytes)?;
        }
        batch.commit();
        Ok(())
    }));
    trials.push(sends(queue, "batch of 3, abort", (3, Becomes::Nothing), starts, |tx, data| {
        let mut batch = tx.batch();
        for bytes in data {
            batch.push(bytes)?;
        }
        Ok(())
    }));
}

fn asleep<Q>(trials: &mut Vec<Trial>, queue: Q)
where
    Q: Queue<Sender = RecordProducer, Data = Vec<Vec<u8>>>,
{
    let sent = (1, Becomes::Sent);
    trials.push(sends(queue, "push, asleep", sent, &[Start::Brim], |tx, data| {
        tx.wait_mode(WaitMode::Block);
        tx.push_timeout(&data[0], PATIENCE)
    }));
}

/// All operations of record rings.
pub fn rings() -> Vec<Trial> {
    let mut trials = Vec::new();
    for lengths in [&[1][..], &[8], &[64], &[256], &[1, 256, 8, 64, 100]] {
        let queue = Records(Lengths(lengths));
        producing(&mut trials, queue, SENDING);
        if lengths.len() > 1 {
            asleep(&mut trials, queue);
        }
        trials.push(receives(queue, "read, copy, release", (1, true), RECEIVING, |rx, heard| {
            let record = rx.try_read()?;
            record.copy_into(heard);
            record.release();
            Ok(())
        }));
        trials.push(receives(queue, "read, copy", (1, false), RECEIVING, |rx, heard| {
            rx.try_read()?.copy_into(heard);
            Ok(())
        }));
        trials.push(receives(queue, "recv", (1, true), RECEIVING, |rx, heard| rx.recv(heard)));
        trials.push(receives(queue, "read, asleep", (1, true), &[Start::Empty], |rx, heard| {
            rx.wait_mode(WaitMode::Block);
            let record = rx.read_timeout(PATIENCE)?;
            record.copy_into(heard);
            record.release();
            Ok(())
        }));
    }
    trials
}

/// All operations of broadcast rings of records.
pub fn broadcasts() -> Vec<Trial> {
    let mut trials = Vec::new();
    for lossless in [false, true] {
        let queue = Many { lengths: Lengths(&[1, 64, 8, 200]), lossless };
        producing(&mut trials, queue, if lossless { SENDING } else { NEVER_FULL });
        // From a full ring of records a new consumer cannot always go on where one died.
        let starts = &RECEIVING[..2];
        if lossless {
            asleep(&mut trials, queue);
        }
        trials.push(receives(queue, "read, copy, release", (1, true), starts, |rx, heard| {
            let record = rx.try_read()?;
            record.copy_into(heard);
            record.release()
        }));
        trials.push(receives(queue, "recv", (1, true), starts, |rx, heard| rx.recv(heard)));
        trials.push(receives(queue, "read, asleep", (1, true), &[Start::Empty], |rx, heard| {
            rx.wait_mode(WaitMode::Block);
            let record = rx.read_timeout(PATIENCE)?;
            record.copy_into(heard);
            record.release()
        }));
    }
    trials
}

//! Our rings with many ends.
//!
//! There are two processors, so two ends are at work at a time. What many ends
//! cost is shown by others that are attached and stopped, in processes of their
//! own; where two ends are at work on one processor, the row says so.

use crate::bystander::Bystander;
use crate::contest::{Contest, Suite, Unit};
use crate::drive;
use crate::ours::{self, BATCH, SLOTS, directions, ours, ring_for, segment, total, untorn};
use crate::stage::{Outcome, Side, Stage};
use crate::words::sum;
use bytemuck::{Pod, cast_slice, cast_slice_mut};
use hugeshm::{
    BroadcastConsumer, BroadcastRecords, BroadcastRing, Join, Producer, RecvError, Segment,
    WaitMode,
};

/// Places for consumers in the broadcast rings.
const CONSUMERS: u32 = 4;

/// Rings with many ends, next to the ring with two.
pub fn add(suite: &mut Suite) {
    broadcasts(suite);
    many_to_one::<1>(suite);
    many_to_one::<8>(suite);
    many_to_many::<1>(suite);
    many_to_many::<8>(suite);
}

/// Broadcast rings.
pub fn broadcasts(suite: &mut Suite) {
    broadcast_streams::<1>(suite, "8");
    broadcast_streams::<8>(suite, "64");
    let title = "Broadcast to one consumer, stream, 4 KiB";
    suite.table_next_to("b-4k", title, ours::record_stream(4096));
    suite.add(record_stream(4096)).add(record_stream_lossy(4096));
    let title = "Broadcast, round trip, 64 B";
    suite.table_next_to("b-rt", title, ours::typed_trip::<8>(WaitMode::Spin));
    suite.add(trip::<8>());
    for (key, lossless, title) in [
        ("b-stopped", false, "Broadcast, 64 B: stopped consumers beside one that receives"),
        ("b-idle", true, "Broadcast, lossless, 64 B: the same, where the stopped are not required"),
    ] {
        let title = format!("{title}, by the producer's clock");
        suite.table_next_to(key, &title, beside::<8>("1 consumer", lossless, Others::None));
        suite.add(beside::<8>("4 consumers, 3 of them stopped", lossless, Others::Stopped));
        suite.add(beside::<8>("4 consumers, 3 of them stopped asleep", lossless, Others::Asleep));
    }
}

/// Rings of many producers of messages of `WORDS` words, with one consumer.
pub fn many_to_one<const WORDS: usize>(suite: &mut Suite)
where
    [u64; WORDS]: Pod,
{
    let bytes = WORDS * 8;
    let title = format!("Many to one, stream, {bytes} B");
    suite.table_next_to(&format!("n-{bytes}"), &title, ours::typed_stream::<WORDS>(SLOTS));
    suite.add(lanes::<WORDS, 1>(2)).add(lanes::<WORDS, 1>(16)).add(lanes::<WORDS, 2>(2));
    suite.add(shared::<WORDS, 2>());
    let title = format!("{title}, batches");
    suite.table_next_to(&format!("n-{bytes}-batches"), &title, ours::typed_batches::<WORDS>());
    suite.add(lane_batches::<WORDS>(2)).add(lane_batches::<WORDS>(16));
}

/// Rings of many producers and many consumers of messages of `WORDS` words.
pub fn many_to_many<const WORDS: usize>(suite: &mut Suite)
where
    [u64; WORDS]: Pod,
{
    let key = format!("m-{}", WORDS * 8);
    let title = format!("Many to many, with one producer and one consumer, {} B", WORDS * 8);
    suite.table_next_to(&key, &title, ours::typed_stream::<WORDS>(SLOTS));
    suite.add(shared::<WORDS, 1>());
    let title = format!(
        "Many to many, with two of each: both halves send one and receive one by turns, {} B",
        WORDS * 8
    );
    suite.table_next_to(&format!("{key}-both"), &title, shared_exchange::<WORDS>());
}

fn broadcast_streams<const WORDS: usize>(suite: &mut Suite, key: &str)
where
    [u64; WORDS]: Pod,
{
    let title = format!("Broadcast to one consumer, stream, {key} B");
    suite.table_next_to(&format!("b-{key}"), &title, ours::typed_stream::<WORDS>(SLOTS));
    suite.add(stream::<WORDS>()).add(lossy::<WORDS>());
    let title = format!("{title}, batches");
    suite.table_next_to(&format!("b-{key}-batches"), &title, ours::typed_batches::<WORDS>());
    suite.add(batches::<WORDS>());
}

const LOSSLESS: &str = "broadcast ring, lossless";
const LOSSY: &str = "broadcast ring, lossy, by the producer's clock";

fn ring<T>(lossless: bool) -> BroadcastRing<T> {
    BroadcastRing::new(SLOTS).consumers(CONSUMERS).lossless(lossless)
}

fn sender<T: Pod>(stage: &Stage, lossless: bool) -> Outcome<Producer<T>> {
    let segment = segment(stage, |s| s.broadcast_of("ring", ring::<T>(lossless)))?;
    Ok(segment.broadcast_producer("ring")?)
}

fn receiver<T: Pod>(stage: &Stage, lossless: bool) -> Outcome<BroadcastConsumer<T>> {
    let segment = segment(stage, |s| s.broadcast_of("ring", ring::<T>(lossless)))?;
    Ok(segment.broadcast_consumer("ring", Join::Newest)?)
}

/// A stream through a lossless broadcast ring, one message per call.
pub fn stream<const WORDS: usize>() -> Contest
where
    [u64; WORDS]: Pod,
{
    let contest = ours(LOSSLESS, Unit::Stream(WORDS as u64 * 8), |stage| {
        if stage.side() == Side::First {
            let mut sender = sender::<[u64; WORDS]>(stage, true)?;
            return drive::send_all(stage, |number| Ok(sender.push([number; WORDS])?));
        }
        let mut receiver = receiver::<[u64; WORDS]>(stage, true)?;
        drive::receive_all(stage, WORDS as u64, || Ok(total(&receiver.recv()?)))
    });
    contest.lap(2 * SLOTS)
}

/// A stream through a lossless broadcast ring, 32 messages per call.
pub fn batches<const WORDS: usize>() -> Contest
where
    [u64; WORDS]: Pod,
{
    let name = format!("{LOSSLESS}, batches of {BATCH}");
    let contest = ours(name, Unit::Stream(WORDS as u64 * 8), |stage| {
        if stage.side() == Side::First {
            let mut sender = sender::<[u64; WORDS]>(stage, true)?;
            return drive::send_batches(stage, BATCH as u64, |first| {
                let batch: [_; BATCH] = core::array::from_fn(|at| [first + at as u64; WORDS]);
                Ok(sender.push_slice(&batch)?)
            });
        }
        let mut receiver = receiver::<[u64; WORDS]>(stage, true)?;
        let mut messages = Vec::with_capacity(BATCH);
        drive::receive_batches(stage, WORDS as u64, |left| {
            messages.clear();
            let count = receiver.recv_some(&mut messages, BATCH.min(left as usize))?;
            Ok((count as u64, total(messages.as_flattened())))
        })
    });
    contest.granule(BATCH as u64).lap(2 * SLOTS)
}

/// A stream through a broadcast ring whose producer waits for nobody.
pub fn lossy<const WORDS: usize>() -> Contest
where
    [u64; WORDS]: Pod,
{
    beside::<WORDS>(LOSSY, false, Others::None)
}

/// What the other consumers of a broadcast ring do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    /// There are none.
    None,
    /// Three were stopped on their way.
    Stopped,
    /// Three were stopped while they slept.
    Asleep,
}

/// A stream through a broadcast ring by the producer's clock, with others attached for which it
/// does not wait.
pub fn beside<const WORDS: usize>(name: &str, lossless: bool, others: Others) -> Contest
where
    [u64; WORDS]: Pod,
{
    let contest = ours(name, Unit::Sent(WORDS as u64 * 8), move |stage| {
        if stage.side() == Side::First {
            let mut sender = sender::<[u64; WORDS]>(stage, lossless)?;
            return drive::send_all(stage, |number| Ok(sender.push([number; WORDS])?));
        }
        let mut receiver = receiver::<[u64; WORDS]>(stage, lossless)?;
        let _others = bystanders::<[u64; WORDS]>(stage, others)?;
        drive::receive_with_gaps(stage, || received(receiver.recv(), |words| untorn(&words)))
    });
    contest.lap(2 * SLOTS)
}

/// Consumers beside the one at work.
fn bystanders<T: Pod>(stage: &Stage, others: Others) -> Outcome<Vec<Bystander>> {
    let name = stage.name();
    let attach = || {
        let mut consumer = Segment::open(&name)?.broadcast_consumer::<T>("ring", Join::Newest)?;
        consumer.required(false)?;
        Ok(consumer)
    };
    let sleep = |consumer: &mut BroadcastConsumer<T>| Ok(consumer.recv().map(drop)?);
    let bystander = |_| match others {
        Others::Asleep => Bystander::asleep(attach, sleep),
        _ => Bystander::holding(attach),
    };
    let count = if others == Others::None { 0 } else { CONSUMERS - 1 };
    (0..count).map(bystander).collect()
}

/// A message's number, or the gap.
#[inline]
fn received<T>(
    received: Result<T, RecvError>,
    number: impl FnOnce(T) -> Outcome<u64>,
) -> Outcome<Result<u64, u64>> {
    match received {
        Ok(message) => Ok(Ok(number(message)?)),
        Err(RecvError::Gap { missed }) => Ok(Err(missed)),
        Err(error) => Err(error.into()),
    }
}

/// A round trip through two broadcast rings.
pub fn trip<const WORDS: usize>() -> Contest
where
    [u64; WORDS]: Pod,
{
    ours("broadcast rings, lossy", Unit::RoundTrip, |stage| {
        let ring = || BroadcastRing::<[u64; WORDS]>::new(64).consumers(CONSUMERS);
        let segment =
            segment(stage, |s| s.broadcast_of("ping", ring()).broadcast_of("pong", ring()))?;
        let [out, back] = directions(stage);
        let mut sender = segment.broadcast_producer::<[u64; WORDS]>(out)?;
        let mut receiver = segment.broadcast_consumer::<[u64; WORDS]>(back, Join::Newest)?;
        sender.wait_mode(WaitMode::Spin);
        receiver.wait_mode(WaitMode::Spin);
        drive::ping_pong(
            stage,
            |number| Ok(sender.push([number; WORDS])?),
            || untorn(&receiver.recv()?),
        )
    })
}

fn records(stage: &Stage, bytes: usize, lossless: bool) -> Outcome<Segment> {
    let ring = BroadcastRecords::new(ring_for(bytes)).consumers(CONSUMERS).lossless(lossless);
    segment(stage, |s| s.broadcast_records_of("ring", ring))
}

/// The sending half of streams of records, copied in.
fn send_records(stage: &Stage, bytes: usize, lossless: bool) -> Outcome {
    let mut sender = records(stage, bytes, lossless)?.broadcast_record_producer("ring")?;
    let mut message = vec![0_u64; bytes / 8];
    drive::send_all(stage, |number| {
        message[0] = number;
        Ok(sender.push(cast_slice(&message))?)
    })
}

/// A stream of records through a lossless broadcast ring, copied in and out.
pub fn record_stream(bytes: usize) -> Contest {
    let contest = ours("broadcast records, lossless", Unit::Stream(bytes as u64), move |stage| {
        if stage.side() == Side::First {
            return send_records(stage, bytes, true);
        }
        let segment = records(stage, bytes, true)?;
        let mut receiver = segment.broadcast_record_consumer("ring", Join::Newest)?;
        let mut message = vec![0_u64; bytes / 8];
        drive::receive_all(stage, 1, || {
            let record = receiver.read()?;
            record.copy_to(cast_slice_mut(&mut message));
            record.release()?;
            Ok(sum(&message))
        })
    });
    contest.lap(2 * ring_for(bytes) / (bytes as u64 + 8))
}

/// A stream of records through a broadcast ring whose producer waits for nobody.
pub fn record_stream_lossy(bytes: usize) -> Contest {
    let name = "broadcast records, lossy, by the producer's clock";
    let contest = ours(name, Unit::Sent(bytes as u64), move |stage| {
        if stage.side() == Side::First {
            return send_records(stage, bytes, false);
        }
        let segment = records(stage, bytes, false)?;
        let mut receiver = segment.broadcast_record_consumer("ring", Join::Newest)?;
        let mut message = vec![0_u64; bytes / 8];
        drive::receive_with_gaps(stage, || {
            let released = receiver.read().and_then(|record| {
                record.copy_to(cast_slice_mut(&mut message));
                record.release()
            });
            // All words but the first are zero.
            received(released, |()| Ok(sum(&message)))
        })
    });
    contest.lap(2 * ring_for(bytes) / (bytes as u64 + 8))
}

/// The ends of `PRODUCERS` producers, all in this half.
fn producers<S, const PRODUCERS: usize>(
    attach: impl FnMut(usize) -> hugeshm::Result<S>,
) -> Outcome<[S; PRODUCERS]> {
    let ends = (0..PRODUCERS).map(attach).collect::<hugeshm::Result<Vec<_>>>()?;
    ends.try_into().map_err(|_| "another number of ends".into())
}

/// What the reader of a row with so many producers must know.
const fn on_one_processor(producers: usize) -> &'static str {
    if producers > 1 { "all producers are on one processor, and send by turns" } else { "" }
}

/// A stream through lanes, of which the first `PRODUCERS` are in use, one message per call.
pub fn lanes<const WORDS: usize, const PRODUCERS: usize>(count: u32) -> Contest
where
    [u64; WORDS]: Pod,
{
    let name = format!("lanes, {PRODUCERS} of {count} in use");
    let contest = ours(name, Unit::Stream(WORDS as u64 * 8), move |stage| {
        let segment = segment(stage, |s| s.lanes::<[u64; WORDS]>("lanes", count, SLOTS))?;
        if stage.side() == Side::First {
            let mut senders = producers::<_, PRODUCERS>(|_| segment.lane_producer("lanes"))?;
            return drive::send_all(stage, |number| {
                Ok(senders[number as usize % PRODUCERS].push([number; WORDS])?)
            });
        }
        let mut receiver = segment.lanes_consumer::<[u64; WORDS]>("lanes")?;
        drive::receive_all(stage, WORDS as u64, || Ok(total(&receiver.recv()?.value)))
    });
    contest.lap(2 * SLOTS * PRODUCERS as u64).note(on_one_processor(PRODUCERS))
}

/// A stream through lanes, of which the first is in use, 32 messages per call.
pub fn lane_batches<const WORDS: usize>(count: u32) -> Contest
where
    [u64; WORDS]: Pod,
{
    let name = format!("lanes, 1 of {count} in use, batches of {BATCH}");
    let contest = ours(name, Unit::Stream(WORDS as u64 * 8), move |stage| {
        let segment = segment(stage, |s| s.lanes::<[u64; WORDS]>("lanes", count, SLOTS))?;
        if stage.side() == Side::First {
            let mut sender = segment.lane_producer::<[u64; WORDS]>("lanes")?;
            return drive::send_batches(stage, BATCH as u64, |first| {
                let batch: [_; BATCH] = core::array::from_fn(|at| [first + at as u64; WORDS]);
                Ok(sender.push_slice(&batch)?)
            });
        }
        let mut receiver = segment.lanes_consumer::<[u64; WORDS]>("lanes")?;
        let mut messages = Vec::with_capacity(BATCH);
        drive::receive_batches(stage, WORDS as u64, |left| {
            messages.clear();
            let count = receiver.recv_some(&mut messages, BATCH.min(left as usize))?;
            let sum = messages.iter().fold(0_u64, |sum, from| sum.wrapping_add(total(&from.value)));
            Ok((count as u64, sum))
        })
    });
    contest.granule(BATCH as u64).lap(2 * SLOTS)
}

/// A stream through a shared ring from `PRODUCERS` producers to one consumer.
pub fn shared<const WORDS: usize, const PRODUCERS: usize>() -> Contest
where
    [u64; WORDS]: Pod,
{
    let name = match PRODUCERS {
        1 => "shared ring".to_owned(),
        _ => format!("shared ring, {PRODUCERS} producers"),
    };
    let contest = ours(name, Unit::Stream(WORDS as u64 * 8), |stage| {
        let segment = segment(stage, |s| s.shared_ring::<[u64; WORDS]>("ring", SLOTS))?;
        if stage.side() == Side::First {
            let mut senders = producers::<_, PRODUCERS>(|_| segment.shared_producer("ring"))?;
            return drive::send_all(stage, |number| {
                Ok(senders[number as usize % PRODUCERS].push([number; WORDS])?)
            });
        }
        let mut receiver = segment.shared_consumer::<[u64; WORDS]>("ring")?;
        drive::receive_all(stage, WORDS as u64, || Ok(total(&receiver.recv()?)))
    });
    contest.lap(2 * SLOTS).note(on_one_processor(PRODUCERS))
}

/// Both halves send and receive by turns through a shared ring.
pub fn shared_exchange<const WORDS: usize>() -> Contest
where
    [u64; WORDS]: Pod,
{
    let contest = ours("shared ring", Unit::Stream(WORDS as u64 * 8), |stage| {
        let segment = segment(stage, |s| s.shared_ring::<[u64; WORDS]>("ring", SLOTS))?;
        let mut sender = segment.shared_producer::<[u64; WORDS]>("ring")?;
        let mut receiver = segment.shared_consumer::<[u64; WORDS]>("ring")?;
        drive::exchange(
            stage,
            WORDS as u64,
            |number| Ok(sender.push([number; WORDS])?),
            || Ok(total(&receiver.recv()?)),
        )
    });
    contest.lap(2 * SLOTS)
}

//! Our rings, measured as a user would write them.
//!
//! The first half creates the segment, the second one opens it by name. Streams
//! and round trips spin; what sleeping costs has tables of its own.
#![expect(unsafe_code, reason = "the zero-copy rows state that the peer, this program, is trusted")]

use crate::contest::{Contest, Role, Suite, Unit};
use crate::drive;
use crate::limits;
use crate::stage::{Outcome, Side, Stage};
use crate::words::{fill, sum};
use bytemuck::{Pod, bytes_of, bytes_of_mut, cast_slice, cast_slice_mut};
use hugeshm::{
    Consumer, PagePolicy, Producer, RecordConsumer, RecordProducer, RecordRing, RecvError, Segment,
    SegmentBuilder, SendError, WaitMode,
};

/// Slots of the typed rings of the streams.
pub const SLOTS: u64 = 4096;
/// Messages of a batch.
pub const BATCH: usize = 32;
/// Bytes of the record rings for small messages, and for large ones.
const SMALL_RING: u64 = 256 << 10;
const BULK_RING: u64 = 8 << 20;

/// Names the variable with the page policy.
pub(crate) const PAGES_VARIABLE: &str = "HUGESHM_BENCH_PAGES";

/// The suite of our own benchmark: limits, rings, waiting, pages.
pub fn suite() -> Suite {
    let mut suite = Suite::new();
    round_trips(&mut suite);
    streams(&mut suite);
    crate::many::add(&mut suite);
    capacities(&mut suite);
    percentiles(&mut suite);
    waiting(&mut suite);
    crate::pages::add(&mut suite);
    machine(&mut suite);
    suite
}

/// Round trips of 8 bytes, 64 bytes, 4 KiB.
pub fn round_trips(suite: &mut Suite) {
    let line = "rt-8/one shared line";
    suite.table("rt-8", "Round trip, 8 B", line);
    suite.add(limits::one_line()).add(limits::two_lines());
    suite.add(cell_trip::<1>()).add(cell_trip::<7>()).add(duplex_trip::<1>());
    suite.add(latest_trip::<7>());
    suite.add(typed_trip::<1>(WaitMode::Spin)).add(record_trip(8));
    suite.table("rt-64", "Round trip, 64 B", line);
    suite.add(limits::message_trip::<8>());
    suite.add(typed_trip::<8>(WaitMode::Spin)).add(record_trip(64)).add(duplex_trip::<8>());
    let title = "Asking over a line, being answered over another, and then reading";
    suite.table("shown", title, "shown/a raw line of 56 B");
    suite.add(limits::shown_line()).add(limits::shown_nothing()).add(latest_shown::<7>());
    suite.table("rt-4k", "Round trip, 4 KiB", "rt-4k/raw 4096 B + flag each way");
    suite.add(limits::message_trip::<512>());
    suite.add(record_trip_in_place(4096)).add(record_trip(4096));
    suite.add(typed_trip::<512>(WaitMode::Spin)).add(duplex_trip::<512>());
}

/// Streams of messages from 8 bytes to 1 MiB.
pub fn streams(suite: &mut Suite) {
    suite.table("s-8", "Stream, 8 B", "s-8/raw, published in 32s");
    suite.add(limits::batches::<1>(BATCH as u64));
    suite.add(typed_batches::<1>()).add(typed_stream::<1>(SLOTS));
    suite.add(record_batches::<1>()).add(small_record_stream::<1>());
    suite.table("s-64", "Stream, 64 B", "s-64/raw, published in 32s");
    suite.add(limits::batches::<8>(BATCH as u64)).add(limits::flagged_lines());
    suite.add(typed_batches::<8>()).add(typed_stream::<8>(SLOTS));
    suite.add(record_batches::<8>()).add(small_record_stream::<8>());
    for (key, name, bytes) in
        [("s-1k", "1 KiB", 1 << 10), ("s-4k", "4 KiB", 4 << 10), ("s-64k", "64 KiB", 64 << 10)]
            .into_iter()
            .chain([("s-1m", "1 MiB", 1 << 20)])
    {
        let title = format!("Stream, {name}");
        suite.table(key, &title, &format!("{key}/raw blocks with flags"));
        suite.add(limits::blocks(bytes));
        suite.add(record_stream_in_place(bytes)).add(record_stream(bytes));
    }
}

/// The typed ring at its smallest capacities and a large one.
fn capacities(suite: &mut Suite) {
    suite.table("capacity", "Stream, 8 B, by capacity of the ring", "s-8/raw, published in 32s");
    for slots in [1, 2, 16, 1024, 65_536] {
        let mut contest = typed_stream::<1>(slots);
        contest.name = format!("typed ring, capacity {slots}");
        suite.add(contest);
    }
}

/// Times of single messages, taken with a look at the clock on both sides (about 20 ns each).
fn percentiles(suite: &mut Suite) {
    suite.table("burst", "Age of the last message of a burst of 32 when it is received", "");
    suite.add(typed_bursts::<1>("typed ring, 8 B")).add(typed_bursts::<8>("typed ring, 64 B"));
    suite.add(record_bursts());
    suite.table("trips", "Single round trips", "");
    suite.add(timed_typed_trip());
}

/// Receiving with blocking calls: the peer awake, and asleep.
pub fn waiting(suite: &mut Suite) {
    let title = "Round trip with blocking calls, 8 B, the peer awake";
    suite.table("awake", title, "rt-8/one shared line");
    suite.add(typed_trip::<1>(WaitMode::Adaptive)).add(typed_trip::<1>(WaitMode::Yield));
    for (key, on) in [("asleep-halt", false), ("asleep-poll", true)] {
        let state = if on { "on" } else { "off" };
        let title = format!("Round trip, both sides asleep each time, halt polling {state}");
        suite.table(key, &title, &format!("{key}/raw futex"));
        suite.add(limits::futex().halt_poll(on));
        suite.add(typed_trip::<1>(WaitMode::Block).halt_poll(on));
    }
}

/// What single operations cost here.
fn machine(suite: &mut Suite) {
    suite.table("machine", "What things cost one core here", "");
    limits::costs().into_iter().for_each(|contest| {
        suite.add(contest);
    });
    suite.table("memcpy", "memcpy on one core", "");
    suite.add(limits::memcpy("1 MiB, from cache", 1 << 20));
    suite.add(limits::memcpy("64 MiB, from memory", 64 << 20));
}

pub(crate) fn ours(
    name: impl Into<String>,
    unit: Unit,
    halves: impl Fn(&Stage) -> Outcome + Clone + Send + Sync + 'static,
) -> Contest {
    Contest::new(name, Role::Ours, unit, halves.clone(), halves)
}

/// The segment that the first half makes and the second one opens.
pub(crate) fn segment(
    stage: &Stage,
    declare: impl FnOnce(SegmentBuilder) -> SegmentBuilder,
) -> Outcome<Segment> {
    if stage.side() == Side::First {
        let mut builder = Segment::create(&stage.name()).unlink_on_drop(true);
        if let Ok(policy) = std::env::var(PAGES_VARIABLE) {
            builder = builder.pages(policy.parse::<PagePolicy>()?);
        }
        let segment = declare(builder).build()?;
        stage.set_up();
        stage.meet()?;
        Ok(segment)
    } else {
        stage.meet()?;
        let segment = Segment::open(&stage.name())?;
        stage.set_up();
        Ok(segment)
    }
}

/// The names of the rings in which this half sends and receives.
pub(crate) fn directions(stage: &Stage) -> [&'static str; 2] {
    match stage.side() {
        Side::First => ["ping", "pong"],
        Side::Second => ["pong", "ping"],
    }
}

fn typed_ends<T: Pod>(stage: &Stage, mode: WaitMode) -> Outcome<(Producer<T>, Consumer<T>)> {
    let segment = segment(stage, |s| s.ring::<T>("ping", 64).ring::<T>("pong", 64))?;
    let [out, back] = directions(stage);
    let (mut sender, mut receiver) = (segment.producer(out)?, segment.consumer(back)?);
    sender.wait_mode(mode);
    receiver.wait_mode(mode);
    Ok((sender, receiver))
}

/// A round trip through two typed rings, waiting as `mode` says.
pub fn typed_trip<const WORDS: usize>(mode: WaitMode) -> Contest
where
    [u64; WORDS]: Pod,
{
    let name = match mode {
        WaitMode::Spin => "typed ring".to_owned(),
        other => format!("typed ring, {other:?}").to_lowercase(),
    };
    ours(name, Unit::RoundTrip, move |stage| {
        let (mut sender, mut receiver) = typed_ends::<[u64; WORDS]>(stage, mode)?;
        let send = |number| Ok(sender.push([number; WORDS])?);
        let receive = || {
            let words = receiver.recv()?;
            let sum = words.iter().fold(0_u64, |sum, word| sum.wrapping_add(*word));
            if sum == words[0] * WORDS as u64 { Ok(words[0]) } else { Err("a torn message".into()) }
        };
        drive::ping_pong(stage, send, receive)?;
        if mode != WaitMode::Spin {
            stage.count("sleeps", receiver.stats().sleeps);
            stage.count("wakes", sender.stats().wakes);
        }
        Ok(())
    })
}

/// A request and its answer in one line; both have `WORDS` words.
pub fn cell_trip<const WORDS: usize>() -> Contest
where
    [u64; WORDS]: Pod,
{
    ours(format!("call cell, {} B", WORDS * 8), Unit::RoundTrip, |stage| {
        let segment = segment(stage, |s| s.call::<[u64; WORDS], [u64; WORDS]>("cell"))?;
        if stage.side() == Side::First {
            let mut caller = segment.caller::<[u64; WORDS], [u64; WORDS]>("cell")?;
            caller.wait_mode(WaitMode::Spin);
            return drive::call_all(stage, |request| Ok(caller.call(request)?));
        }
        let mut server = segment.server::<[u64; WORDS], [u64; WORDS]>("cell")?;
        server.wait_mode(WaitMode::Spin);
        drive::serve_all(stage, || Ok(server.serve_one(|request| request)?))
    })
}

/// A round trip through two latest values of `WORDS` words, each read until it is newer.
pub fn latest_trip<const WORDS: usize>() -> Contest
where
    [u64; WORDS]: Pod,
{
    ours(format!("latest values, {} B", WORDS * 8), Unit::RoundTrip, |stage| {
        let segment =
            segment(stage, |s| s.latest::<[u64; WORDS]>("ping").latest::<[u64; WORDS]>("pong"))?;
        let [out, back] = directions(stage);
        let mut writer = segment.latest_writer::<[u64; WORDS]>(out)?;
        let mut reader = segment.latest_reader::<[u64; WORDS]>(back)?;
        reader.wait_mode(WaitMode::Spin);
        let mut version = 0;
        let send = |number| Ok(writer.write(&[number; WORDS]).map(drop)?);
        let receive = || {
            let newer = reader.wait_newer(version)?;
            version = newer.version;
            untorn(&newer.value)
        };
        drive::ping_pong(stage, send, receive)
    })
}

/// One read of a latest value of `WORDS` words that the other half has just written.
pub fn latest_shown<const WORDS: usize>() -> Contest
where
    [u64; WORDS]: Pod,
{
    ours(format!("latest value, {} B", WORDS * 8), Unit::RoundTrip, |stage| {
        let segment = segment(stage, |s| s.latest::<[u64; WORDS]>("shown"))?;
        if stage.side() == Side::First {
            let mut reader = segment.latest_reader::<[u64; WORDS]>("shown")?;
            let look = || untorn(&reader.read()?.value);
            return drive::show_and_look(stage, |_| Ok(()), look);
        }
        let mut writer = segment.latest_writer::<[u64; WORDS]>("shown")?;
        let show = |number| Ok(writer.write(&[number; WORDS]).map(drop)?);
        drive::show_and_look(stage, show, || Ok(0))
    })
}

/// Requests and answers of `WORDS` words through a duplex channel, one under way at a time.
pub fn duplex_trip<const WORDS: usize>() -> Contest
where
    [u64; WORDS]: Pod,
{
    ours("duplex channel", Unit::RoundTrip, |stage| {
        let segment = segment(stage, |s| s.duplex::<[u64; WORDS], [u64; WORDS]>("duplex", 64))?;
        if stage.side() == Side::First {
            let mut caller = segment.duplex_caller::<[u64; WORDS], [u64; WORDS]>("duplex")?;
            caller.wait_mode(WaitMode::Spin);
            return drive::call_all(stage, |request| Ok(caller.call(request)?));
        }
        let mut server = segment.duplex_server::<[u64; WORDS], [u64; WORDS]>("duplex")?;
        server.wait_mode(WaitMode::Spin);
        drive::serve_all(stage, || Ok(server.serve_one(|request| request)?))
    })
}

fn timed_typed_trip() -> Contest {
    ours("typed ring, 8 B", Unit::Latency, |stage| {
        let (mut sender, mut receiver) = typed_ends::<u64>(stage, WaitMode::Spin)?;
        drive::timed_ping_pong(stage, |number| Ok(sender.push(number)?), || Ok(receiver.recv()?))
    })
}

/// A record ring for writing in place: payloads begin with cache lines.
pub(crate) fn lines(bytes: u64) -> RecordRing {
    RecordRing::new(bytes).payload_align(64)
}

fn record_ends(stage: &Stage, ring: RecordRing) -> Outcome<(RecordProducer, RecordConsumer)> {
    let segment = segment(stage, |s| s.records_of("ping", ring.clone()).records_of("pong", ring))?;
    let [out, back] = directions(stage);
    let (mut sender, mut receiver) =
        (segment.record_producer(out)?, segment.record_consumer(back)?);
    sender.wait_mode(WaitMode::Spin);
    receiver.wait_mode(WaitMode::Spin);
    Ok((sender, receiver))
}

/// A round trip of a record, copied in and out.
pub fn record_trip(bytes: usize) -> Contest {
    let name = if bytes <= 64 { "record ring" } else { "record ring, copying" };
    ours(name, Unit::RoundTrip, move |stage| {
        let (mut sender, mut receiver) = record_ends(stage, RecordRing::new(SMALL_RING))?;
        let (mut message, mut answer) = (vec![0_u64; bytes / 8], vec![0_u64; bytes / 8]);
        let send = |number| {
            fill(&mut message, number);
            Ok(sender.push(cast_slice(&message))?)
        };
        let receive = || {
            let record = receiver.read()?;
            record.copy_to(cast_slice_mut(&mut answer));
            record.release();
            untorn(&answer)
        };
        drive::ping_pong(stage, send, receive)
    })
}

/// A round trip of a record that is written and read where it lies.
pub fn record_trip_in_place(bytes: usize) -> Contest {
    ours("record ring, in place", Unit::RoundTrip, move |stage| {
        let (mut sender, mut receiver) = record_ends(stage, lines(SMALL_RING))?;
        // SAFETY: the peer is the other half, this same program, which keeps to the protocol.
        unsafe { sender.trust_peer() };
        // SAFETY: as above.
        unsafe { receiver.trust_peer() };
        let send = |number| write_in_place(&mut sender, bytes, number);
        let receive = || {
            let record = receiver.read()?;
            let number = untorn(cast_slice(record.as_slice().ok_or("no slice")?));
            record.release();
            number
        };
        drive::ping_pong(stage, send, receive)
    })
}

pub(crate) fn untorn(words: &[u64]) -> Outcome<u64> {
    let first = *words.first().ok_or("an empty message")?;
    let whole = sum(words) == first.wrapping_mul(words.len() as u64);
    if whole { Ok(first) } else { Err("a torn message".into()) }
}

#[inline]
fn write_in_place(sender: &mut RecordProducer, bytes: usize, number: u64) -> Outcome {
    let mut record = sender.reserve(bytes)?;
    fill(cast_slice_mut(record.as_mut_slice().ok_or("no slice")?), number);
    record.commit();
    Ok(())
}

/// The ends of streams wait as they do by default: a reader that spins without a pause fights for
/// the lines that are being written.
fn typed_sender<T: Pod>(stage: &Stage, slots: u64) -> Outcome<Producer<T>> {
    Ok(segment(stage, |s| s.ring::<T>("ring", slots))?.producer("ring")?)
}

fn typed_receiver<T: Pod>(stage: &Stage, slots: u64) -> Outcome<Consumer<T>> {
    Ok(segment(stage, |s| s.ring::<T>("ring", slots))?.consumer("ring")?)
}

/// A stream through a typed ring, one message per call.
pub fn typed_stream<const WORDS: usize>(slots: u64) -> Contest
where
    [u64; WORDS]: Pod,
{
    let contest = ours("typed ring", Unit::Stream(WORDS as u64 * 8), move |stage| {
        if stage.side() == Side::First {
            let mut sender = typed_sender::<[u64; WORDS]>(stage, slots)?;
            return drive::send_all(stage, |number| Ok(sender.push([number; WORDS])?));
        }
        let mut receiver = typed_receiver::<[u64; WORDS]>(stage, slots)?;
        drive::receive_all(stage, WORDS as u64, || Ok(total(&receiver.recv()?)))
    });
    contest.lap(2 * slots)
}

#[inline]
pub(crate) fn total(words: &[u64]) -> u64 {
    words.iter().fold(0, |sum, word| sum.wrapping_add(*word))
}

/// A stream through a typed ring, 32 messages per call.
pub fn typed_batches<const WORDS: usize>() -> Contest
where
    [u64; WORDS]: Pod,
{
    let contest = ours("typed ring, batches of 32", Unit::Stream(WORDS as u64 * 8), |stage| {
        if stage.side() == Side::First {
            let mut sender = typed_sender::<[u64; WORDS]>(stage, SLOTS)?;
            return drive::send_batches(stage, BATCH as u64, |first| {
                let batch: [_; BATCH] = core::array::from_fn(|at| [first + at as u64; WORDS]);
                Ok(sender.push_slice(&batch)?)
            });
        }
        let mut receiver = typed_receiver::<[u64; WORDS]>(stage, SLOTS)?;
        let mut messages = Vec::with_capacity(BATCH);
        drive::receive_batches(stage, WORDS as u64, |left| {
            messages.clear();
            let count = receiver.recv_some(&mut messages, BATCH.min(left as usize))?;
            Ok((count as u64, total(messages.as_flattened())))
        })
    });
    contest.granule(BATCH as u64).lap(2 * SLOTS)
}

pub(crate) fn ring_for(bytes: usize) -> u64 {
    if bytes < 1024 { SMALL_RING } else { BULK_RING }
}

fn record_sender(stage: &Stage, ring: u64) -> Outcome<RecordProducer> {
    Ok(segment(stage, |s| s.records("ring", ring))?.record_producer("ring")?)
}

fn record_receiver(stage: &Stage, ring: u64) -> Outcome<RecordConsumer> {
    Ok(segment(stage, |s| s.records("ring", ring))?.record_consumer("ring")?)
}

/// A stream of small records.
pub fn small_record_stream<const WORDS: usize>() -> Contest
where
    [u64; WORDS]: Pod,
{
    let contest = ours("record ring", Unit::Stream(WORDS as u64 * 8), |stage| {
        if stage.side() == Side::First {
            let mut sender = record_sender(stage, SMALL_RING)?;
            return drive::send_all(stage, |number| Ok(sender.push(bytes_of(&[number; WORDS]))?));
        }
        let mut receiver = record_receiver(stage, SMALL_RING)?;
        drive::receive_all(stage, WORDS as u64, || {
            let mut message = [0_u64; WORDS];
            let record = receiver.read()?;
            record.copy_to(bytes_of_mut(&mut message));
            record.release();
            Ok(total(&message))
        })
    });
    contest.lap(2 * SMALL_RING / (WORDS as u64 * 8 + 8))
}

/// A stream of records, copied in and out.
///
/// Large messages keep their words but for the first, so that the copy is what is measured.
pub fn record_stream(bytes: usize) -> Contest {
    let ring = ring_for(bytes);
    let contest = ours("record ring, copying", Unit::Stream(bytes as u64), move |stage| {
        let mut message = vec![0_u64; bytes / 8];
        if stage.side() == Side::First {
            let mut sender = record_sender(stage, ring)?;
            return drive::send_all(stage, |number| {
                message[0] = number;
                Ok(sender.push(cast_slice(&message))?)
            });
        }
        let mut receiver = record_receiver(stage, ring)?;
        drive::receive_all(stage, 1, || {
            let record = receiver.read()?;
            record.copy_to(cast_slice_mut(&mut message));
            record.release();
            Ok(sum(&message))
        })
    });
    contest.lap(2 * ring / (bytes as u64 + 8))
}

/// A stream of records in batches of 32.
pub fn record_batches<const WORDS: usize>() -> Contest
where
    [u64; WORDS]: Pod,
{
    let bytes = WORDS * 8;
    let contest = ours("record ring, batches of 32", Unit::Stream(bytes as u64), |stage| {
        if stage.side() == Side::First {
            let mut sender = record_sender(stage, SMALL_RING)?;
            return drive::send_batches(stage, BATCH as u64, |first| {
                let mut number = first;
                while number < first + BATCH as u64 {
                    let mut batch = sender.batch();
                    while number < first + BATCH as u64 {
                        match batch.push(bytes_of(&[number; WORDS])) {
                            Ok(()) => number += 1,
                            Err(SendError::Full) => break,
                            Err(error) => return Err(error.into()),
                        }
                    }
                    batch.commit();
                }
                Ok(())
            });
        }
        let mut receiver = record_receiver(stage, SMALL_RING)?;
        drive::receive_batches(stage, WORDS as u64, |left| {
            let mut message = [0_u64; WORDS];
            // The first is waited for, with all that a wait does; the others are there or not.
            let record = receiver.read()?;
            record.copy_to(bytes_of_mut(&mut message));
            record.hold();
            let (mut count, mut words) = (1, total(&message));
            while count < left.min(BATCH as u64) {
                match receiver.try_read() {
                    Ok(record) => {
                        record.copy_to(bytes_of_mut(&mut message));
                        record.hold();
                        words = words.wrapping_add(total(&message));
                        count += 1;
                    }
                    Err(RecvError::Empty) => break,
                    Err(error) => return Err(error.into()),
                }
            }
            receiver.release_held();
            Ok((count, words))
        })
    });
    contest.granule(BATCH as u64).lap(2 * SMALL_RING / (bytes as u64 + 8))
}

/// A stream of records that are written and read where they lie.
pub fn record_stream_in_place(bytes: usize) -> Contest {
    let ring = ring_for(bytes);
    let contest = ours("record ring, in place", Unit::Stream(bytes as u64), move |stage| {
        stream_in_place(stage, bytes, |s| s.records_of("ring", lines(ring)))
    });
    contest.lap(2 * ring / bytes as u64)
}

/// Both halves of a stream of records, in place, in the ring called `ring`.
pub(crate) fn stream_in_place(
    stage: &Stage,
    bytes: usize,
    declare: impl FnOnce(SegmentBuilder) -> SegmentBuilder,
) -> Outcome {
    let segment = segment(stage, declare)?;
    if stage.side() == Side::First {
        stage.remark(segment.backing().to_string());
        let mut sender = segment.record_producer("ring")?;
        // SAFETY: the peer is the other half, this same program, which keeps to the protocol.
        unsafe { sender.trust_peer() };
        return drive::send_all(stage, |number| write_in_place(&mut sender, bytes, number));
    }
    let mut receiver = segment.record_consumer("ring")?;
    // SAFETY: as above.
    unsafe { receiver.trust_peer() };
    drive::receive_all(stage, bytes as u64 / 8, || {
        let record = receiver.read()?;
        let sum = sum(cast_slice(record.as_slice().ok_or("no slice")?));
        record.release();
        Ok(sum)
    })
}

fn typed_bursts<const WORDS: usize>(name: &str) -> Contest
where
    [u64; WORDS]: Pod,
{
    let contest = ours(name, Unit::Latency, |stage| {
        if stage.side() == Side::First {
            let mut sender = typed_sender::<[u64; WORDS]>(stage, SLOTS)?;
            return drive::send_bursts(stage, |time| Ok(sender.push([time; WORDS])?));
        }
        let mut receiver = typed_receiver::<[u64; WORDS]>(stage, SLOTS)?;
        drive::receive_bursts(stage, || Ok(receiver.recv()?[0]))
    });
    contest.granule(drive::BURST)
}

fn record_bursts() -> Contest {
    let contest = ours("record ring, 64 B", Unit::Latency, |stage| {
        let mut message = [0_u64; 8];
        if stage.side() == Side::First {
            let mut sender = record_sender(stage, SMALL_RING)?;
            return drive::send_bursts(stage, |time| {
                message[0] = time;
                Ok(sender.push(cast_slice(&message))?)
            });
        }
        let mut receiver = record_receiver(stage, SMALL_RING)?;
        drive::receive_bursts(stage, || {
            let record = receiver.read()?;
            record.copy_to(cast_slice_mut(&mut message));
            record.release();
            Ok(message[0])
        })
    });
    contest.granule(drive::BURST)
}

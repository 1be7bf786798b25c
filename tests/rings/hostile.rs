//! Another process that writes anything anywhere, while both ends work.
//!
//! Whatever it writes, every call answers with a value or an error, in time; nothing panics and no
//! signal comes. What arrives is worth nothing then, and is not looked at.

use crate::common::child::{self, Child, hear, say};
use crate::{HANG, Stage};
use hugeshm::{
    BroadcastRecords, BroadcastRing, Error, ErrorKind, Join, PeerState, RecvError, Segment,
    SegmentBuilder, SendError, WaitMode,
};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Words that a ring may take for something: stamps, positions, headers, flags, nonsense.
    fn word(&mut self) -> u64 {
        let small = self.below(300);
        match self.below(8) {
            0 => 0,
            1 => u64::MAX,
            2 => small,
            3 => small * 8,
            4 => 1 << 63 | small,
            5 => 1 << 63 | 1 << self.below(63) | small,
            6 => 1 << self.below(64),
            _ => self.next(),
        }
    }
}

/// Writes into the data file, which is the memory, from `first` to `last`.
fn write_anything() {
    let path = child::argument(1);
    let number = |index| child::argument(index).parse::<u64>().expect("a number");
    let (first, last, mut random) = (number(2), number(3), Random(number(4)));
    let file = std::fs::File::options().write(true).open(&path).expect("the data file");
    let over = std::sync::Arc::new(AtomicBool::new(false));
    let heard = std::sync::Arc::clone(&over);
    std::thread::spawn(move || {
        hear();
        heard.store(true, Ordering::Relaxed);
    });
    say("ready");
    let mut written = 0u64;
    while !over.load(Ordering::Relaxed) {
        let offset = first + random.below(last - first) / 8 * 8;
        // Half of it at the front, where the control words are.
        let offset = if random.below(2) == 0 { first + (offset - first) % 1024 } else { offset };
        file.write_all_at(&random.word().to_le_bytes(), offset).expect("our file");
        written += 1;
    }
    say(written);
}

/// How often each answer came.
#[derive(Default, Debug)]
struct Seen {
    passed: u64,
    corrupt: u64,
    refused: u64,
    other: u64,
}

fn receive(error: RecvError, seen: &mut Seen) -> bool {
    match error {
        RecvError::Corrupt(_) => seen.corrupt += 1,
        RecvError::Forked => panic!("nobody forked"),
        _ => seen.other += 1,
    }
    matches!(error, RecvError::Corrupt(_))
}

fn send(error: SendError, seen: &mut Seen) -> bool {
    match error {
        SendError::Corrupt(_) => seen.corrupt += 1,
        SendError::Forked => panic!("nobody forked"),
        _ => seen.other += 1,
    }
    matches!(error, SendError::Corrupt(_))
}

/// A refusal to attach that a lying ring may get.
fn attach<T>(result: Result<T, Error>, seen: &mut Seen) -> Option<T> {
    match result {
        Ok(end) => Some(end),
        Err(error) => {
            let known = [
                ErrorKind::Corrupt,
                ErrorKind::Busy,
                ErrorKind::TypeMismatch,
                ErrorKind::InvalidArgument, // a position that was not sent yet
                ErrorKind::WouldBlock,      // no place to begin was found
            ];
            assert!(known.contains(&error.kind()), "{error}");
            seen.refused += 1;
            None
        }
    }
}

const SHORT: Duration = Duration::from_millis(2);

fn produce_typed(segment: &Segment, over: &AtomicBool, mode: WaitMode, seen: &mut Seen) {
    while !over.load(Ordering::Relaxed) {
        let Some(mut producer) = attach(segment.producer::<[u64; 3]>("ring"), seen) else {
            continue;
        };
        producer.wait_mode(mode);
        for number in 0..2000 {
            let sent = match number % 3 {
                0 => producer.try_push([number; 3]),
                1 => producer.push_timeout([number; 3], SHORT),
                _ => producer.push_batch(&[[number; 3]; 5]).map(drop),
            };
            match sent {
                Ok(()) => seen.passed += 1,
                Err(error) if send(error, seen) => break,
                Err(_) => {}
            }
            let _ = (producer.len(), producer.peer(), producer.peer_changed(), producer.stats());
        }
    }
}

fn consume_typed(segment: &Segment, over: &AtomicBool, mode: WaitMode, seen: &mut Seen) {
    let mut many = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let Some(mut consumer) = attach(segment.consumer::<[u64; 3]>("ring"), seen) else {
            continue;
        };
        consumer.wait_mode(mode);
        for number in 0..2000 {
            let got = match number % 4 {
                0 => consumer.try_recv().map(drop),
                1 => consumer.recv_timeout(SHORT).map(drop),
                2 => consumer.peek().map(drop),
                _ => consumer.recv_batch(&mut many, 7).map(drop),
            };
            many.clear();
            match got {
                Ok(()) => seen.passed += 1,
                Err(error) if receive(error, seen) => break,
                Err(_) => {}
            }
            let _ = (consumer.lag(), consumer.peer());
        }
    }
}

fn produce_records(segment: &Segment, over: &AtomicBool, mode: WaitMode, seen: &mut Seen) {
    let bytes = [7; 600];
    while !over.load(Ordering::Relaxed) {
        let Some(mut producer) = attach(segment.record_producer("records"), seen) else {
            continue;
        };
        producer.wait_mode(mode);
        for number in 0..2000usize {
            let bytes = &bytes[..number * 31 % 600];
            let sent = match number % 3 {
                0 => producer.try_push(bytes),
                1 => producer.push_timeout(bytes, SHORT),
                _ => {
                    let mut batch = producer.batch();
                    let done = batch.push(bytes).and_then(|()| batch.push(bytes));
                    batch.commit();
                    done
                }
            };
            match sent {
                Ok(()) => seen.passed += 1,
                Err(error) if send(error, seen) => break,
                Err(_) => {}
            }
        }
    }
}

fn consume_records(segment: &Segment, over: &AtomicBool, mode: WaitMode, seen: &mut Seen) {
    let null = std::fs::File::options().write(true).open("/dev/null").expect("/dev/null");
    while !over.load(Ordering::Relaxed) {
        let Some(mut consumer) = attach(segment.record_consumer("records"), seen) else {
            continue;
        };
        consumer.wait_mode(mode);
        for number in 0..2000 {
            let got = match number % 2 {
                0 => consumer.try_read(),
                _ => consumer.read_timeout(SHORT),
            };
            match got {
                Ok(record) => {
                    seen.passed += 1;
                    let len = record.len();
                    assert!(len <= 4096, "longer than the ring");
                    assert_eq!(record.to_vec().len(), len);
                    record.write_to(&null).expect("/dev/null takes all");
                    let _ = (record.checksum(), record.read_at::<u64>(len / 2));
                    if number % 5 == 0 { record.hold() } else { record.release() }
                }
                Err(error) if receive(error, seen) => break,
                Err(_) => {}
            }
            let _ = consumer.lag();
        }
        consumer.rewind();
        consumer.release_held();
    }
}

fn produce_broadcast(segment: &Segment, over: &AtomicBool, mode: WaitMode, seen: &mut Seen) {
    while !over.load(Ordering::Relaxed) {
        let Some(mut producer) = attach(segment.broadcast_producer::<[u64; 3]>("ring"), seen)
        else {
            continue;
        };
        producer.wait_mode(mode);
        for number in 0..2000 {
            let sent = match number % 3 {
                0 => producer.try_push([number; 3]),
                1 => producer.push_timeout([number; 3], SHORT),
                _ => producer.push_batch(&[[number; 3]; 5]).map(drop),
            };
            match sent {
                Ok(()) => seen.passed += 1,
                Err(error) if send(error, seen) => break,
                Err(_) => {}
            }
            let _ = (producer.len(), producer.slowest(), producer.stats());
        }
    }
}

/// Takes places, and looks on without one, from any position.
fn consume_broadcast(segment: &Segment, over: &AtomicBool, mode: WaitMode, seen: &mut Seen) {
    let (mut many, mut round) = (Vec::new(), 0u64);
    while !over.load(Ordering::Relaxed) {
        round += 1;
        let join = [Join::Oldest, Join::Newest, Join::At(round)][round as usize % 3];
        let consumer = attach(segment.broadcast_consumer::<[u64; 3]>("ring", join), seen);
        let observer = attach(segment.broadcast_observer::<[u64; 3]>("ring", join), seen);
        let (Some(mut consumer), Some(mut observer)) = (consumer, observer) else { continue };
        consumer.wait_mode(mode);
        for number in 0..2000 {
            let got = match number % 5 {
                0 => consumer.try_recv().map(drop),
                1 => consumer.recv_timeout(SHORT).map(drop),
                2 => observer.try_recv().map(drop),
                3 => consumer.required(number % 2 == 0),
                _ => consumer.recv_batch(&mut many, 7).map(drop),
            };
            many.clear();
            match got {
                Ok(()) => seen.passed += 1,
                Err(error) if receive(error, seen) => break,
                Err(_) => {}
            }
            let _ = (consumer.lag(), consumer.peer(), observer.lag(), consumer.stats());
        }
    }
}

fn produce_broadcast_records(
    segment: &Segment,
    over: &AtomicBool,
    mode: WaitMode,
    seen: &mut Seen,
) {
    let bytes = [7; 600];
    while !over.load(Ordering::Relaxed) {
        let Some(mut producer) = attach(segment.broadcast_record_producer("records"), seen) else {
            continue;
        };
        producer.wait_mode(mode);
        for number in 0..2000usize {
            let bytes = &bytes[..number * 31 % 600];
            let sent = if number % 2 == 0 {
                producer.try_push(bytes)
            } else {
                producer.push_timeout(bytes, SHORT)
            };
            match sent {
                Ok(()) => seen.passed += 1,
                Err(error) if send(error, seen) => break,
                Err(_) => {}
            }
            let _ = producer.slowest();
        }
    }
}

fn consume_broadcast_records(
    segment: &Segment,
    over: &AtomicBool,
    mode: WaitMode,
    seen: &mut Seen,
) {
    let (mut bytes, mut round) = (Vec::new(), 0u64);
    while !over.load(Ordering::Relaxed) {
        round += 1;
        let join = [Join::Oldest, Join::Newest, Join::At(round)][round as usize % 3];
        let consumer = attach(segment.broadcast_record_consumer("records", join), seen);
        let observer = attach(segment.broadcast_record_observer("records", join), seen);
        let (Some(mut consumer), Some(mut observer)) = (consumer, observer) else { continue };
        consumer.wait_mode(mode);
        for number in 0..2000 {
            let got = match number % 3 {
                0 => consumer.try_recv(&mut bytes),
                1 => consumer.read_timeout(SHORT).and_then(|record| {
                    assert!(record.len() <= 4096, "longer than the ring");
                    record.copy_into(&mut bytes);
                    record.release()
                }),
                _ => observer.try_recv(&mut bytes),
            };
            match got {
                Ok(()) => seen.passed += 1,
                Err(error) if receive(error, seen) => break,
                Err(_) => {}
            }
            let _ = (consumer.lag(), observer.lag());
        }
    }
}

type Work = fn(&Segment, &AtomicBool, WaitMode, &mut Seen);

/// What is attacked, and how many endpoints it has.
fn declare(object: &str, builder: SegmentBuilder) -> (SegmentBuilder, u64) {
    let many = || BroadcastRing::<[u64; 3]>::new(16).consumers(2);
    let news = || BroadcastRecords::new(4096).consumers(2);
    match object {
        "ring" => (builder.ring::<[u64; 3]>("ring", 16), 2),
        "records" => (builder.records("records", 4096), 2),
        "broadcast" => (builder.broadcast_of("ring", many()), 3),
        "lossless" => (builder.broadcast_of("ring", many().lossless(true)), 3),
        "news" => (builder.broadcast_records_of("records", news()), 3),
        "lossless news" => (builder.broadcast_records_of("records", news().lossless(true)), 3),
        _ => panic!("no such object: {object}"),
    }
}

/// Claims the producer's place for a moment.
fn visit(object: &str, segment: &Segment) -> Result<(), Error> {
    match object {
        "ring" => segment.producer::<[u64; 3]>("ring").map(drop),
        "records" => segment.record_producer("records").map(drop),
        "broadcast" | "lossless" => segment.broadcast_producer::<[u64; 3]>("ring").map(drop),
        _ => segment.broadcast_record_producer("records").map(drop),
    }
}

fn under_attack(object: &str, works: [Work; 2], rounds: u64) {
    let stage = Stage::new();
    let start = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_nanos() as u64;
    eprintln!("random seed {start}");
    let mut random = Random(start);
    let modes = [WaitMode::Adaptive, WaitMode::Block, WaitMode::Yield, WaitMode::Spin];
    let (mut total, mut written) = ([Seen::default(), Seen::default()], 0);
    for round in 0..rounds {
        let mut endpoints = 0;
        let segment = stage.segment(|builder| {
            let (builder, count) = declare(object, builder);
            endpoints = count;
            builder
        });
        // The claim lines stand in front of the ring's words; a label finds them.
        segment.set_label("here-it-is");
        visit(object, &segment).expect("free");
        let path = stage.scratch.data_file("s");
        let bytes = std::fs::read(&path).expect("the data file");
        let label = bytes.windows(10).position(|window| window == b"here-it-is");
        let label = label.expect("the label is in the claim line") as u64;
        let first = label / 256 * 256 + 256 * endpoints;
        let used = stage.domain.inspect("s").expect("it is there").used;
        let path = path.display().to_string();
        let numbers = [first, used, random.next()].map(|number| number.to_string());
        let arguments = [path.as_str(), &numbers[0], &numbers[1], &numbers[2]];
        let mut attacker: Child = stage.child("hostile::attacker", &arguments);
        attacker.says();
        let (over, (done, watch)) = (AtomicBool::new(false), mpsc::channel());
        let mode = modes[round as usize % modes.len()];
        std::thread::scope(|scope| {
            for (work, seen) in works.iter().zip(&mut total) {
                let (segment, over, done) = (segment.clone(), &over, done.clone());
                scope.spawn(move || {
                    work(&segment, over, mode, seen);
                    done.send(()).expect("watched");
                });
            }
            std::thread::sleep(Duration::from_millis(60));
            over.store(true, Ordering::Relaxed);
            let start = Instant::now();
            for _ in &works {
                if watch.recv_timeout(HANG.saturating_sub(start.elapsed())).is_err() {
                    eprintln!("an end hangs, or panicked; {mode:?}, round {round}");
                    // The scope would wait for ever.
                    std::process::abort();
                }
            }
        });
        attacker.tell("enough");
        written += attacker.says().parse::<u64>().expect("a number");
        attacker.end_well();
    }
    eprintln!(
        "{object}: {written} words written; producer {:?}, consumer {:?}",
        total[0], total[1]
    );
    // Who only overwrites reads nothing of others once it is attached.
    let told = |seen: &Seen| seen.passed > 0 && seen.corrupt + seen.refused > 0;
    assert!(written > 1000 && total.iter().all(told));
}

#[test]
fn a_typed_ring_under_attack_answers_every_call() {
    under_attack("ring", [produce_typed, consume_typed], 40);
}

#[test]
fn a_record_ring_under_attack_answers_every_call() {
    under_attack("records", [produce_records, consume_records], 40);
}

#[test]
fn typed_broadcast_rings_under_attack_answer_every_call() {
    under_attack("broadcast", [produce_broadcast, consume_broadcast], 20);
    under_attack("lossless", [produce_broadcast, consume_broadcast], 20);
}

#[test]
fn broadcast_rings_of_records_under_attack_answer_every_call() {
    let works: [Work; 2] = [produce_broadcast_records, consume_broadcast_records];
    under_attack("news", works, 20);
    under_attack("lossless news", works, 20);
}

#[test]
fn who_finds_a_ring_corrupt_when_it_attaches_did_not_die() {
    let stage = Stage::new();
    let segment = stage.segment(|builder| builder.ring::<[u64; 3]>("ring", 16));
    segment.set_label("here-it-is");
    let producer = segment.producer::<[u64; 3]>("ring").expect("free");
    let path = stage.scratch.data_file("s");
    let bytes = std::fs::read(&path).expect("the data file");
    let label = bytes.windows(10).position(|window| window == b"here-it-is");
    let words = label.expect("the label is in the claim line") as u64 / 256 * 256 + 512;
    let file = std::fs::File::options().write(true).open(&path).expect("the data file");
    // The released position.
    file.write_all_at(&[0xff; 8], words + 128).expect("our file");
    let refused = segment.consumer::<[u64; 3]>("ring").map(drop).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Corrupt, "{refused}");
    assert_eq!(producer.peer(), PeerState::Closed);
}

/// The roles of this file.
pub fn play(role: &str) -> bool {
    match role {
        "hostile::attacker" => write_anything(),
        _ => return false,
    }
    true
}

//! Every wait ends: with a message, a deadline, a cancel, or the end of the other side.

use crate::common::child::{hear, say};
use crate::{HANG, Stage, in_time, opened};
use hugeshm::{
    Consumer, PagePolicy, Producer, RecvError, Role, Rung, Segment, SendError, Stats, WaitMode,
};
use std::time::{Duration, Instant};

const MODES: [WaitMode; 4] = [WaitMode::Spin, WaitMode::Yield, WaitMode::Adaptive, WaitMode::Block];

/// Tells when the other end sleeps, by its statistics line.
fn until_it_sleeps(segment: &Segment, role: Role, before: Stats) {
    let start = Instant::now();
    while stats_of(segment, role).sleeps == before.sleeps {
        assert!(start.elapsed() < HANG, "it never sleeps");
        std::thread::yield_now();
    }
}

fn stats_of(segment: &Segment, role: Role) -> Stats {
    let objects = segment.objects();
    let ends = &objects.iter().find(|object| object.name == "ring").expect("declared").endpoints;
    ends.iter().find(|end| end.role == role).expect("one of each").stats
}

/// An end in another process that leaves as soon as the other one sleeps.
fn leave_while_it_sleeps() {
    let segment = opened();
    if crate::child::argument(1) == "producer" {
        let end = segment.producer::<u64>("ring").expect("free");
        let before = stats_of(&segment, Role::Consumer);
        say("ready");
        until_it_sleeps(&segment, Role::Consumer, before);
        drop(end);
    } else {
        let end = segment.consumer::<u64>("ring").expect("free");
        let before = stats_of(&segment, Role::Producer);
        say("ready");
        until_it_sleeps(&segment, Role::Producer, before);
        drop(end);
    }
    hear();
}

/// Of many sleeps some must have ended by the bell: after one sleep that was shorter than a slice.
#[derive(Default)]
struct Woken(Vec<(u64, Duration)>);

impl Woken {
    fn note(&mut self, sleeps: u64, start: Instant) {
        self.0.push((sleeps, start.elapsed()));
    }

    fn judge(self) {
        let by_bell =
            |(sleeps, time): &&(u64, Duration)| *sleeps == 1 && *time < Duration::from_millis(40);
        let count = self.0.iter().filter(by_bell).count();
        assert!(count > self.0.len() / 2, "the bell woke {count}: {:?}", self.0);
    }
}

#[test]
fn a_sleeper_is_woken_when_the_other_end_closes() {
    let stage = Stage::new();
    let segment = stage.segment(|builder| builder.ring::<u64>("ring", 2));
    let mut consumer = segment.consumer::<u64>("ring").expect("free");
    consumer.wait_mode(WaitMode::Block);
    let mut woken = Woken::default();
    for _ in 0..20 {
        let mut child = stage.child("waits::leave", &["producer"]);
        child.says();
        let (sleeps, start) = (consumer.stats().sleeps, Instant::now());
        assert_eq!(in_time(|| consumer.recv()), Err(RecvError::Closed));
        woken.note(consumer.stats().sleeps - sleeps, start);
        child.end_well();
    }
    drop(consumer);

    let mut producer = segment.producer::<u64>("ring").expect("free");
    producer.wait_mode(WaitMode::Block);
    producer.push_all(&[1, 2]).expect("room");
    for _ in 0..20 {
        let mut child = stage.child("waits::leave", &["consumer"]);
        child.says();
        let (sleeps, start) = (producer.stats().sleeps, Instant::now());
        assert_eq!(in_time(|| producer.push(3)), Err(SendError::Closed));
        woken.note(producer.stats().sleeps - sleeps, start);
        child.end_well();
    }
    woken.judge();
}

#[test]
fn a_close_that_came_before_the_wait_costs_no_sleep() {
    let stage = Stage::new();
    let segment = stage.segment(|builder| builder.ring::<u64>("ring", 2));
    let mut consumer = segment.consumer::<u64>("ring").expect("free");
    for mode in MODES {
        consumer.wait_mode(mode);
        let mut child = stage.child("ends::send", &[]);
        child.says();
        // It has seen its peer alive.
        let timeout = Duration::from_millis(60);
        assert_eq!(consumer.recv_timeout(timeout), Err(RecvError::TimedOut));
        child.tell("5");
        child.says();
        child.tell("close");
        child.end_well();
        let before = consumer.stats().sleeps;
        assert_eq!(consumer.recv(), Ok(5));
        assert_eq!(in_time(|| consumer.recv()), Err(RecvError::Closed));
        assert_eq!(consumer.stats().sleeps, before, "{mode:?}");
    }
}

#[test]
fn deadlines_end_waits_in_every_mode() {
    let stage = Stage::new();
    let segment = stage.segment(|builder| builder.ring::<u64>("ring", 1).records("records", 256));
    let mut producer = segment.producer::<u64>("ring").expect("free");
    let mut consumer = segment.consumer::<u64>("ring").expect("free");
    let mut records = segment.record_consumer("records").expect("free");
    let mut writer = segment.record_producer("records").expect("free");
    for mode in MODES {
        consumer.wait_mode(mode);
        producer.wait_mode(mode);
        records.wait_mode(mode);
        writer.wait_mode(mode);
        for millis in [0, 1, 20, 120] {
            let timeout = Duration::from_millis(millis);
            let start = Instant::now();
            assert_eq!(consumer.recv_timeout(timeout), Err(RecvError::TimedOut));
            assert!(start.elapsed() >= timeout, "{mode:?} gave up early");
            let start = Instant::now();
            assert_eq!(records.read_timeout(timeout).err(), Some(RecvError::TimedOut));
            assert!(start.elapsed() >= timeout, "{mode:?} gave up early");
            assert!(start.elapsed() < HANG);
        }
        // A deadline that has passed does not hide a message that is there.
        let past = Instant::now() - Duration::from_secs(1);
        assert_eq!(in_time(|| consumer.recv_deadline(past)), Err(RecvError::TimedOut));
        producer.push(7).expect("room");
        assert_eq!(in_time(|| producer.push_deadline(8, past)), Err(SendError::TimedOut));
        let start = Instant::now();
        let timeout = Duration::from_millis(60);
        assert_eq!(producer.push_timeout(8, timeout), Err(SendError::TimedOut));
        assert!(start.elapsed() >= timeout, "{mode:?} gave up early");
        assert_eq!(in_time(|| consumer.recv_deadline(past)), Ok(7));
        while writer.try_push(&[1; 40]).is_ok() {}
        assert_eq!(writer.push_timeout(&[1; 40], timeout), Err(SendError::TimedOut));
        assert_eq!(writer.push_deadline(&[1; 40], past), Err(SendError::TimedOut));
        while let Ok(record) = records.try_read() {
            record.release();
        }
        // A wait without end is one of a timeout that no clock can hold.
        producer.push(9).expect("room");
        assert_eq!(consumer.recv_timeout(Duration::MAX), Ok(9));
    }
}

#[test]
fn a_wait_in_any_mode_is_cancelled_by_another_thread() {
    let stage = Stage::new();
    let segment = stage.segment(|builder| builder.ring::<u64>("ring", 1));
    let mut producer: Producer<u64> = segment.producer("ring").expect("free");
    let mut consumer: Consumer<u64> = segment.consumer("ring").expect("free");
    for mode in MODES {
        for delay in [0, 3, 80] {
            let pause = Duration::from_millis(delay);
            consumer.wait_mode(mode);
            let canceller = consumer.canceller();
            std::thread::scope(|scope| {
                let waiting = scope.spawn(|| in_time(|| consumer.recv()));
                std::thread::sleep(pause);
                canceller.cancel();
                assert_eq!(waiting.join().expect("no panic"), Err(RecvError::Cancelled));
            });
            // It stays cancelled, but a message that is there is taken.
            assert_eq!(in_time(|| consumer.recv()), Err(RecvError::Cancelled));
            producer.push(1).expect("room");
            assert_eq!(consumer.recv(), Ok(1));
            canceller.reset();
            assert_eq!(consumer.recv_timeout(Duration::from_millis(1)), Err(RecvError::TimedOut));

            producer.wait_mode(mode);
            producer.push(2).expect("room");
            let canceller = producer.canceller();
            std::thread::scope(|scope| {
                let waiting = scope.spawn(|| in_time(|| producer.push(3)));
                std::thread::sleep(pause);
                canceller.cancel();
                assert_eq!(waiting.join().expect("no panic"), Err(SendError::Cancelled));
            });
            canceller.reset();
            assert_eq!(consumer.recv(), Ok(2));
        }
    }
}

/// A consumer and a producer that sleep while signals rain.
fn sleep_in_the_rain() {
    let segment = opened();
    let mut consumer = segment.consumer::<u64>("ring").expect("free");
    let mut answers = segment.producer::<u64>("answers").expect("free");
    consumer.wait_mode(WaitMode::Block);
    answers.wait_mode(WaitMode::Block);
    take_signals();
    say("ready");
    loop {
        match consumer.recv() {
            Ok(number) => answers.push(number + 1).expect("the parent reads"),
            Err(error) => {
                assert_eq!(error, RecvError::Closed);
                break;
            }
        }
    }
    say(SIGNALS.load(std::sync::atomic::Ordering::Relaxed));
}

static SIGNALS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

extern "C" fn count(_signal: i32) {
    SIGNALS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
}

/// SIGUSR1 is counted by this thread alone, and interrupts what it waits in.
#[expect(unsafe_code, reason = "a signal handler")]
fn take_signals() {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    let action = SigAction::new(SigHandler::Handler(count), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler only adds to an atomic, which any signal handler may do.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.expect("a signal that can be caught");
}

#[test]
fn a_storm_of_signals_ends_no_wait_and_loses_nothing() {
    let stage = Stage::new();
    let segment = stage.segment(|builder| builder.ring::<u64>("ring", 4).ring::<u64>("answers", 2));
    let mut producer = segment.producer::<u64>("ring").expect("free");
    let mut answers = segment.consumer::<u64>("answers").expect("free");
    let mut child = stage.child("waits::rain", &[]);
    child.says();
    let pid = nix::unistd::Pid::from_raw(child.pid() as i32);
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                nix::sys::signal::kill(pid, nix::sys::signal::SIGUSR1).expect("our child");
                std::thread::sleep(Duration::from_micros(50));
            }
        });
        for number in 0..200 {
            std::thread::sleep(Duration::from_micros(number % 7 * 500));
            producer.push(number).expect("it reads");
            assert_eq!(in_time(|| answers.recv()), Ok(number + 1));
        }
        // Full on both sides, so that its producer sleeps, too.
        for number in 0..6 {
            producer.push(number).expect("it reads");
        }
        std::thread::sleep(Duration::from_millis(100));
        for number in 0..6 {
            assert_eq!(in_time(|| answers.recv()), Ok(number + 1));
        }
        drop(producer);
        let signals: u64 = child.says().parse().expect("a number");
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(signals > 100, "only {signals} signals came");
    });
    child.end_well();
}

#[test]
fn a_sleeping_reader_is_told_that_its_segment_was_replaced_or_removed() {
    let stage = Stage::new();
    for replaced in [true, false] {
        for mode in MODES {
            let segment = stage.segment(|builder| builder.ring::<u64>("ring", 8));
            let mut producer = segment.producer::<u64>("ring").expect("free");
            let mut consumer = segment.consumer::<u64>("ring").expect("free");
            consumer.wait_mode(mode);
            let waiting = std::thread::spawn(move || {
                let first = consumer.recv();
                let end = in_time(|| consumer.recv());
                (first, end, consumer.try_recv())
            });
            std::thread::sleep(Duration::from_millis(10));
            let new = replaced.then(|| {
                let builder = Segment::replace("s").domain(stage.domain.clone());
                builder.pages(PagePolicy::exactly(Rung::Base)).unlink_on_drop(true).build()
            });
            if let Some(Err(error)) = &new {
                panic!("{error}");
            }
            if !replaced {
                stage.domain.remove("s").expect("it is there");
            }
            // The memory is intact, and what is sent still arrives.
            let sent = producer.push(5);
            let (first, end, _) = waiting.join().expect("no panic");
            if first == Ok(5) {
                assert_eq!((sent, end), (Ok(()), Err(RecvError::Superseded)), "{mode:?}");
            } else {
                assert_eq!((first, end), (Err(RecvError::Superseded), Ok(5)), "{mode:?}");
            }
        }
    }
}

/// The roles of this file.
pub fn play(role: &str) -> bool {
    match role {
        "waits::leave" => leave_while_it_sleeps(),
        "waits::rain" => sleep_in_the_rain(),
        _ => return false,
    }
    true
}

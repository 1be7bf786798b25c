//! Rings awaited in tokio, against a second process that does the same.

use crate::common::child::{hear, say};
use crate::common::refused;
use crate::{HANG, Stage, opened};
use hugeshm::{
    AsyncConsumer, AsyncProducer, AsyncRawConsumer, AsyncRecordConsumer, AsyncRecordProducer,
    ErrorKind, RecvError, Segment, SendError,
};
use std::future::Future;
use std::time::{Duration, Instant};

const ROUNDS: u64 = 20_000;

fn run<T>(body: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(6 * HANG, body).await.expect("it hangs") })
}

fn both(segment: &Segment, into: &str, out: &str) -> (AsyncProducer<u64>, AsyncConsumer<u64>) {
    let producer = segment.producer::<u64>(into).expect("free");
    let consumer = segment.consumer::<u64>(out).expect("free");
    let producer = AsyncProducer::new(producer).expect("a folder of ours");
    (producer, AsyncConsumer::new(consumer).expect("a folder of ours"))
}

/// Sends back what comes.
fn echo() {
    let segment = opened();
    run(async {
        let (mut producer, mut consumer) = both(&segment, "back", "there");
        say("ready");
        let end = loop {
            match consumer.recv().await {
                Ok(number) => producer.push(number).await.expect("the parent reads"),
                Err(end) => break end,
            }
        };
        say(format!("{end:?}"));
    });
}

#[test]
fn ping_pong_between_two_runtimes_loses_no_wake_up() {
    let stage = Stage::new();
    let segment = stage.segment(|builder| builder.ring::<u64>("there", 2).ring::<u64>("back", 2));
    let mut child = stage.child("tasks::echo", &[]);
    child.says();
    run(async {
        let (mut producer, mut consumer) = both(&segment, "there", "back");
        let start = Instant::now();
        for number in 0..ROUNDS {
            producer.push(number).await.expect("the child reads");
            assert_eq!(consumer.recv().await, Ok(number));
        }
        let (spent, sleeps) = (start.elapsed(), consumer.get_ref().stats().sleeps);
        eprintln!("{:?} a round, {sleeps} sleeps", spent / ROUNDS as u32);
        // A lost wake-up would cost a slice, and a sleep more.
        assert!(sleeps <= ROUNDS + ROUNDS / 100, "{sleeps} sleeps");
    });
    assert_eq!(child.says(), "Closed");
    child.end_well();
}

/// Sends numbers with pauses that a timeout falls into.
fn send_slowly() {
    let segment = opened();
    run(async {
        let producer = segment.record_producer("records").expect("free");
        let mut producer = AsyncRecordProducer::new(producer).expect("a folder of ours");
        say("ready");
        for number in 0..3000_u64 {
            if number % 7 == 0 {
                tokio::time::sleep(Duration::from_micros(number % 11 * 300)).await;
            }
            producer.push(&number.to_le_bytes()).await.expect("the parent reads");
        }
        say("done");
    });
    hear();
}

#[test]
fn a_future_dropped_by_select_has_taken_nothing() {
    let stage = Stage::new();
    let segment = stage.segment(|builder| builder.records("records", 256));
    let mut child = stage.child("tasks::slowly", &[]);
    child.says();
    run(async {
        let consumer = segment.record_consumer("records").expect("free");
        let mut consumer = AsyncRecordConsumer::new(consumer).expect("a folder of ours");
        let (mut next, mut dropped) = (0_u64, 0);
        let mut bytes = Vec::new();
        while next < 3000 {
            tokio::select! {
                biased;
                () = tokio::time::sleep(Duration::from_micros(next % 5 * 150)) => dropped += 1,
                received = async {
                    if next % 2 == 0 {
                        return consumer.recv(&mut bytes).await;
                    }
                    let record = consumer.read().await?;
                    record.copy_into(&mut bytes);
                    record.release();
                    Ok(())
                } => {
                    received.expect("it sends");
                    assert_eq!(bytes, next.to_le_bytes());
                    next += 1;
                }
            }
            if dropped > 100_000 {
                panic!("nothing comes");
            }
            if next % 5 == 0 && next < 3000 {
                // With a time of zero the sleep always wins.
                consumer.recv(&mut bytes).await.expect("it sends");
                assert_eq!(bytes, next.to_le_bytes());
                next += 1;
            }
        }
        assert!(dropped > 10, "only {dropped} futures were dropped");
    });
    assert_eq!(child.says(), "done");
    child.end_well();
}

#[test]
fn a_full_ring_is_awaited_and_a_dropped_push_has_sent_nothing() {
    let stage = Stage::new();
    let segment = stage.segment(|builder| builder.ring::<u64>("there", 2).ring::<u64>("back", 2));
    run(async {
        let (mut producer, _) = both(&segment, "there", "back");
        let consumer = segment.raw_consumer("there").expect("free");
        let mut consumer = AsyncRawConsumer::new(consumer).expect("a folder of ours");
        for number in 0..2 {
            producer.push(number).await.expect("room");
        }
        let short = Duration::from_millis(5);
        tokio::time::timeout(short, producer.push(99)).await.expect_err("it is full");
        let taking = async {
            for number in [0, 1, 2] {
                tokio::time::sleep(short).await;
                let mut bytes = [0; 8];
                consumer.recv(&mut bytes).await.expect("it sends");
                assert_eq!(u64::from_le_bytes(bytes), number);
            }
        };
        let (sent, ()) = tokio::join!(producer.push(2), taking);
        sent.expect("there was room");
    });
}

/// Holds both ends of the peer's side and is killed.
fn hold() {
    let segment = opened();
    let _producer = segment.producer::<u64>("back").expect("free");
    let _consumer = segment.consumer::<u64>("there").expect("free");
    say("ready");
    hear();
}

#[test]
fn death_and_cancellation_end_what_is_awaited() {
    let stage = Stage::new();
    let segment = stage.segment(|builder| builder.ring::<u64>("there", 2).ring::<u64>("back", 2));
    run(async {
        let (mut producer, mut consumer) = both(&segment, "there", "back");
        let canceller = consumer.get_ref().canceller();
        let mut child = stage.child("tasks::hold", &[]);
        child.says();
        let cancelling = async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            canceller.cancel();
        };
        // That a cancel rings the bell is shown where the bell can be looked at, without a clock.
        let (received, ()) = tokio::join!(consumer.recv(), cancelling);
        assert_eq!(received, Err(RecvError::Cancelled));
        canceller.reset();
        for number in 0..2 {
            producer.push(number).await.expect("room");
        }
        let killing = async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            child.kill();
        };
        let (received, sent, ()) = tokio::join!(consumer.recv(), producer.push(3), killing);
        assert_eq!((received, sent), (Err(RecvError::PeerDied), Err(SendError::PeerDied)));
    });
}

#[test]
fn a_busy_ring_lets_other_tasks_run() {
    let stage = Stage::new();
    let segment =
        stage.segment(|builder| builder.ring::<u64>("there", 4096).ring::<u64>("back", 2));
    run(async {
        let (_producer, _) = both(&segment, "back", "there");
        let producer = segment.producer::<u64>("there").expect("free");
        let consumer = segment.consumer::<u64>("there").expect("free");
        let (mut producer, mut consumer) =
            (AsyncProducer::new(producer).unwrap(), AsyncConsumer::new(consumer).unwrap());
        for number in 0..4000 {
            producer.push(number).await.expect("room");
        }
        let ticks = std::cell::Cell::new(0);
        let ticking = async {
            loop {
                ticks.set(ticks.get() + 1);
                tokio::task::yield_now().await;
            }
        };
        let receiving = async {
            for number in 0..4000 {
                assert_eq!(consumer.recv().await, Ok(number));
            }
        };
        tokio::select! {
            () = ticking => {}
            () = receiving => {}
        }
        assert!(ticks.get() > 20, "{} turns", ticks.get());
    });
}

#[test]
fn an_end_outside_of_a_runtime_or_with_anothers_bell_is_refused() {
    let stage = Stage::new();
    let segment = stage.segment(|builder| builder.ring::<u64>("there", 2).ring::<u64>("back", 2));
    let mut there = segment.consumer::<u64>("there").expect("free");
    let bell = there.doorbell().expect("a folder of ours");
    refused(AsyncConsumer::new(there), ErrorKind::Unsupported, "runtime");
    run(async {
        let back = segment.consumer::<u64>("back").expect("free");
        refused(AsyncConsumer::with_doorbell(back, bell), ErrorKind::InvalidArgument, "doorbell");
        // The futures may move between threads.
        fn sends<T: Send>(_: &T) {}
        let (mut producer, mut consumer) = both(&segment, "there", "back");
        sends(&consumer.recv());
        sends(&producer.push(1));
    });
}

/// The roles of this file.
pub fn play(role: &str) -> bool {
    match role {
        "tasks::echo" => echo(),
        "tasks::slowly" => send_slowly(),
        "tasks::hold" => hold(),
        _ => return false,
    }
    true
}

//! Rings of records.

use super::{CONSUMER, PRODUCER, Ring};
use crate::ring::error::{RecvError, SendError};
use crate::ring::position::RecordGeometry;
use crate::ring::record::{RecordConsumer, RecordProducer};
use crate::wait::WaitMode;
use crate::wait::modelling::{Tally, explore, explore_deaths};
use loom::thread::spawn;

/// Record number `n`: one or two words, so that some do not fit into the ring's end.
fn record(n: u64) -> Vec<u8> {
    [n + 1, !n][..1 + n as usize % 2].iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn geometry(capacity: u64) -> RecordGeometry {
    RecordGeometry::new(capacity, 8, 0).unwrap()
}

fn ring(capacity: u64) -> Ring {
    Ring::new(capacity as usize)
}

fn producer(ring: &Ring, capacity: u64) -> RecordProducer {
    let mut end = RecordProducer::attach(ring.parts(PRODUCER), geometry(capacity)).unwrap();
    end.wait_mode(WaitMode::Block);
    end
}

fn consumer(ring: &Ring, capacity: u64) -> RecordConsumer {
    let mut end = RecordConsumer::attach(ring.parts(CONSUMER), geometry(capacity)).unwrap();
    end.wait_mode(WaitMode::Block);
    end
}

fn take(rx: &mut RecordConsumer) -> Result<Vec<u8>, RecvError> {
    let mut bytes = Vec::new();
    rx.recv(&mut bytes).map(|()| bytes)
}

#[test]
fn records_arrive_whole_and_in_order_and_no_wake_is_lost() {
    for (capacity, count) in [(48, 3), (64, 3)] {
        explore(&format!("records in {capacity} bytes, blocking"), 3, move || {
            let ring = ring(capacity);
            let (mut tx, mut rx) = (producer(&ring, capacity), consumer(&ring, capacity));
            let sender = spawn(move || {
                for n in 0..count {
                    tx.push(&record(n)).unwrap();
                }
            });
            for n in 0..count {
                assert_eq!(take(&mut rx), Ok(record(n)));
            }
            assert_eq!(take(&mut rx), Err(RecvError::Closed));
            sender.join().unwrap();
        });
    }
}

#[test]
fn a_producer_of_records_may_die_at_any_access() {
    explore_deaths("records in 64 bytes, their producer dies", 2, |death| {
        const CAPACITY: u64 = 64;
        let ring = ring(CAPACITY);
        let mut rx = consumer(&ring, CAPACITY);
        let sure = Tally::default();
        let sender = {
            let (ring, sure) = (ring.clone(), sure.clone());
            spawn(move || {
                death.befalls(&ring.lives, PRODUCER, || {
                    let mut tx = producer(&ring, CAPACITY);
                    tx.push(&record(0)).unwrap();
                    sure.add();
                    drop(tx.try_reserve(8)); // given up
                    let mut batch = tx.batch();
                    let whole = batch.push(&record(1)).and_then(|()| batch.push(&record(2)));
                    if whole.is_ok() {
                        batch.commit();
                    }
                })
            })
        };
        let mut received = 0;
        let end = loop {
            match take(&mut rx) {
                Ok(bytes) => assert_eq!(bytes, record(received)),
                Err(end) => break end,
            }
            received += 1;
        };
        assert!(matches!(end, RecvError::PeerDied | RecvError::Closed), "{end}");
        sender.join().unwrap();
        assert!(received >= sure.get() && [0, 1, 3].contains(&received), "{received}");
        let mut tx = producer(&ring, CAPACITY);
        for n in received..received + 4 {
            tx.push(&record(n)).unwrap();
            assert_eq!(take(&mut rx), Ok(record(n)));
        }
    });
}

#[test]
fn a_consumer_of_records_may_die_at_any_access() {
    explore_deaths("records in 48 bytes, their consumer dies", 2, |death| {
        const CAPACITY: u64 = 48;
        let ring = ring(CAPACITY);
        let mut tx = producer(&ring, CAPACITY);
        let sure = Tally::default();
        let receiver = {
            let (ring, sure) = (ring.clone(), sure.clone());
            spawn(move || {
                death.befalls(&ring.lives, CONSUMER, || {
                    let mut rx = consumer(&ring, CAPACITY);
                    for n in 0..2 {
                        assert_eq!(take(&mut rx), Ok(record(n)));
                        sure.add();
                    }
                })
            })
        };
        let mut sent = 0;
        let end = loop {
            match tx.push(&record(sent)) {
                Ok(()) => sent += 1,
                Err(end) => break end,
            }
        };
        assert!(matches!(end, SendError::PeerDied | SendError::Closed), "{end}");
        receiver.join().unwrap();
        let mut rx = consumer(&ring, CAPACITY);
        let mut bytes = Vec::new();
        rx.try_recv(&mut bytes).unwrap();
        let first = (0..sent).find(|n| record(*n) == bytes).unwrap();
        assert!(first == sure.get() || first == sure.get() + 1, "{first} after {}", sure.get());
        for n in first + 1..sent {
            assert_eq!(take(&mut rx), Ok(record(n)));
        }
        tx.push(&record(sent)).unwrap();
        assert_eq!(take(&mut rx), Ok(record(sent)));
    });
}

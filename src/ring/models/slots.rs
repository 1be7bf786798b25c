//! Typed rings.

use super::{CONSUMER, PRODUCER, Ring};
use crate::ring::error::{RecvError, SendError};
use crate::ring::position::SlotGeometry;
use crate::ring::typed::{Consumer, Producer};
use crate::wait::WaitMode;
use crate::wait::modelling::{Tally, explore, explore_deaths};
use loom::thread::spawn;

/// A message of which a torn copy shows.
type Pair = [u64; 2];

fn pair(n: u64) -> Pair {
    [n, !n]
}

fn geometry(capacity: u64) -> SlotGeometry {
    SlotGeometry::new(size_of::<Pair>(), capacity).unwrap()
}

fn ring(capacity: u64) -> Ring {
    Ring::new(geometry(capacity).bytes())
}

fn producer(ring: &Ring, capacity: u64) -> Producer<Pair> {
    let mut end = Producer::attach(ring.parts(PRODUCER), geometry(capacity)).unwrap();
    end.wait_mode(WaitMode::Block);
    end
}

fn consumer(ring: &Ring, capacity: u64) -> Consumer<Pair> {
    let mut end = Consumer::attach(ring.parts(CONSUMER), geometry(capacity)).unwrap();
    end.wait_mode(WaitMode::Block);
    end
}

#[test]
fn typed_messages_arrive_whole_and_in_order_and_no_wake_is_lost() {
    for (capacity, count) in [(1, 3), (3, 4)] {
        explore(&format!("typed ring of {capacity}, blocking"), 3, move || {
            let ring = ring(capacity);
            let mut rx = consumer(&ring, capacity);
            let mut tx = producer(&ring, capacity);
            let sender = spawn(move || {
                for n in 0..count {
                    tx.push(pair(n)).unwrap();
                }
            });
            for n in 0..count {
                assert_eq!(rx.recv(), Ok(pair(n)));
            }
            assert_eq!(rx.recv(), Err(RecvError::Closed));
            sender.join().unwrap();
        });
    }
}

#[test]
fn batches_and_tries_agree_on_every_message() {
    explore("typed ring of 4, batches and tries", 3, || {
        let ring = ring(4);
        let (mut tx, mut rx) = (producer(&ring, 4), consumer(&ring, 4));
        let sender = spawn(move || {
            let mut sent = 0;
            for _ in 0..3 {
                let batch: Vec<Pair> = (sent..sent + 3).map(pair).collect();
                match tx.push_batch(&batch) {
                    Ok(count) => sent += count as u64,
                    Err(error) => assert_eq!(error, SendError::Full),
                }
            }
            sent
        });
        let (mut all, mut batch) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            match rx.recv_batch(&mut batch, 9) {
                Ok(_) => all.append(&mut batch),
                Err(error) => assert_eq!(error, RecvError::Empty),
            }
        }
        let sent = sender.join().unwrap();
        while let Ok(message) = rx.try_recv() {
            all.push(message);
        }
        assert_eq!(all, (0..sent).map(pair).collect::<Vec<_>>());
    });
}

#[test]
fn a_producer_may_die_at_any_access() {
    explore_deaths("typed ring of 3, its producer dies", 2, |death| {
        const CAPACITY: u64 = 3;
        let ring = ring(CAPACITY);
        let mut rx = consumer(&ring, CAPACITY);
        let sure = Tally::default();
        let sender = {
            let (ring, sure) = (ring.clone(), sure.clone());
            spawn(move || {
                death.befalls(&ring.lives, PRODUCER, || {
                    let mut tx = producer(&ring, CAPACITY);
                    for n in 0..2 {
                        tx.push(pair(n)).unwrap();
                        sure.add();
                    }
                    tx.push_all(&[pair(2), pair(3)]).ok()
                })
            })
        };
        let mut received = 0;
        let end = loop {
            match rx.recv() {
                Ok(message) => assert_eq!(message, pair(received)),
                Err(end) => break end,
            }
            received += 1;
        };
        assert!(matches!(end, RecvError::PeerDied | RecvError::Closed), "{end}");
        sender.join().unwrap();
        // The batch whole or not at all, and nothing else that was not begun.
        assert!(received >= sure.get() && received <= sure.get() + 1 || received == 4);
        let mut tx = producer(&ring, CAPACITY);
        for n in received..received + 4 {
            tx.push(pair(n)).unwrap();
            assert_eq!(rx.recv(), Ok(pair(n)));
        }
    });
}

#[test]
fn a_consumer_may_die_at_any_access() {
    explore_deaths("typed ring of 2, its consumer dies", 2, |death| {
        const CAPACITY: u64 = 2;
        let ring = ring(CAPACITY);
        let mut tx = producer(&ring, CAPACITY);
        let sure = Tally::default();
        let receiver = {
            let (ring, sure) = (ring.clone(), sure.clone());
            spawn(move || {
                death.befalls(&ring.lives, CONSUMER, || {
                    let mut rx = consumer(&ring, CAPACITY);
                    for n in 0..3 {
                        assert_eq!(rx.recv(), Ok(pair(n)));
                        sure.add();
                    }
                })
            })
        };
        let mut sent = 0;
        let end = loop {
            match tx.push(pair(sent)) {
                Ok(()) => sent += 1,
                Err(end) => break end,
            }
        };
        assert!(matches!(end, SendError::PeerDied | SendError::Closed), "{end}");
        receiver.join().unwrap();
        let mut rx = consumer(&ring, CAPACITY);
        let first = rx.position();
        assert!(first == sure.get() || first == sure.get() + 1, "{first} after {}", sure.get());
        assert_eq!(first + CAPACITY, sent);
        for n in first..sent {
            assert_eq!(rx.recv(), Ok(pair(n)));
        }
        tx.push(pair(sent)).unwrap();
        assert_eq!(rx.recv(), Ok(pair(sent)));
    });
}

//! Models of shared rings; how they are run is told in `ring::models`.
//!
//! Every reachable state of the words, with any number of stopped and killed ends, is gone
//! through in `model`; what is looked for here is what weak memory adds.

use super::layout::Geometry;
use super::{SharedConsumer, SharedProducer};
use crate::ring::endpoint::Parts;
use crate::ring::error::RecvError;
use crate::view::View;
use crate::wait::WaitMode;
use crate::wait::modelling::{Lives, Tally, Who, explore, explore_deaths, stats};
use loom::thread::spawn;

/// A message of which a torn copy shows.
type Pair = [u64; 2];

fn pair(n: u64) -> Pair {
    [n, !n]
}

fn number(message: Pair) -> u64 {
    assert_eq!(message, pair(message[0]), "a torn message");
    message[0]
}

#[derive(Clone)]
struct Ring {
    control: View,
    payload: View,
    geometry: Geometry,
    lives: Lives,
}

impl Ring {
    fn new(capacity: u64, producers: u32, consumers: u32) -> Self {
        let size = size_of::<Pair>();
        let geometry = Geometry::new(size, size, capacity, (producers, consumers)).unwrap();
        let control = View::modelled_control(geometry.control_len(), 72);
        let payload = View::modelled_payload(geometry.payload_len());
        Self {
            control,
            payload,
            geometry,
            lives: Lives::of(producers as usize, consumers as usize),
        }
    }

    fn parts(&self, own: Who) -> Parts {
        let (control, payload) = (self.control.clone(), self.payload.clone());
        Parts { control, payload, stats: stats(), link: self.lives.claim(own) }
    }

    fn producer(&self, slot: u32) -> SharedProducer<Pair> {
        let parts = self.parts((0, slot as usize));
        let mut end = SharedProducer::attach(parts, self.geometry, slot).unwrap();
        end.wait_mode(WaitMode::Block);
        end
    }

    fn consumer(&self, slot: u32) -> SharedConsumer<Pair> {
        let parts = self.parts((1, slot as usize));
        let mut end = SharedConsumer::attach(parts, self.geometry, slot).unwrap();
        end.wait_mode(WaitMode::Block);
        end
    }
}

/// Receives to the end.
fn receive_all(rx: &mut SharedConsumer<Pair>) -> (Vec<u64>, RecvError) {
    let mut all = Vec::new();
    loop {
        match rx.recv() {
            Ok(message) => all.push(number(message)),
            Err(end) => return (all, end),
        }
    }
}

#[test]
fn messages_of_two_producers_arrive_once_and_no_wake_is_lost() {
    explore("shared ring of 1, two producers", 2, || {
        let ring = Ring::new(1, 2, 1);
        let mut rx = ring.consumer(0);
        let senders: Vec<_> = (0..2)
            .map(|slot| {
                let mut tx = ring.producer(slot);
                spawn(move || tx.push(pair(u64::from(slot))).unwrap())
            })
            .collect();
        let (mut all, end) = receive_all(&mut rx);
        all.sort_unstable();
        assert_eq!((all, end), (vec![0, 1], RecvError::Closed));
        senders.into_iter().for_each(|sender| sender.join().unwrap());
    });
}

#[test]
fn each_message_goes_to_one_of_two_consumers() {
    explore("shared ring of 1, two consumers", 1, || {
        let ring = Ring::new(1, 1, 2);
        let (mut one, mut other) = (ring.consumer(0), ring.consumer(1));
        let mut tx = ring.producer(0);
        let sender = spawn(move || {
            for n in 0..2 {
                tx.push(pair(n)).unwrap();
            }
        });
        let receiver = spawn(move || receive_all(&mut other));
        let (mut all, end) = receive_all(&mut one);
        let (others, other_end) = receiver.join().unwrap();
        sender.join().unwrap();
        all.extend(others);
        all.sort_unstable();
        assert_eq!(all, [0, 1]);
        assert_eq!((end, other_end), (RecvError::Closed, RecvError::Closed));
    });
}

#[test]
fn a_producer_of_a_shared_ring_may_die_at_any_access() {
    explore_deaths("shared ring of 1, its producer dies", 2, |death| {
        let ring = Ring::new(1, 1, 1);
        let mut rx = ring.consumer(0);
        let sure = Tally::default();
        let sender = {
            let (ring, sure) = (ring.clone(), sure.clone());
            spawn(move || {
                death.befalls(&ring.lives, (0, 0), || {
                    let mut tx = ring.producer(0);
                    for n in 0..2 {
                        tx.push(pair(n)).unwrap();
                        sure.add();
                    }
                })
            })
        };
        let (all, end) = receive_all(&mut rx);
        assert!(matches!(end, RecvError::PeerDied | RecvError::Closed), "{end}");
        sender.join().unwrap();
        let received = all.len() as u64;
        assert_eq!(all, (0..received).collect::<Vec<_>>());
        assert!(received == sure.get() || received == sure.get() + 1);
        let mut tx = ring.producer(0);
        for n in received..received + 3 {
            tx.push(pair(n)).unwrap();
            assert_eq!(rx.recv().map(number), Ok(n));
        }
    });
}

#[test]
fn a_consumer_of_a_shared_ring_may_die_at_any_access() {
    explore_deaths("shared ring of 1, one of two consumers dies", 2, |death| {
        let ring = Ring::new(1, 1, 2);
        let mut other = ring.consumer(1);
        let mut tx = ring.producer(0);
        let sure = Tally::default();
        let receiver = {
            let (ring, sure) = (ring.clone(), sure.clone());
            spawn(move || {
                death.befalls(&ring.lives, (1, 0), || {
                    let mut rx = ring.consumer(0);
                    if let Ok(message) = rx.recv() {
                        number(message);
                        sure.add();
                    }
                })
            })
        };
        tx.try_push(pair(0)).unwrap();
        receiver.join().unwrap();
        // One that died with the message in its hands leaves it to the other, unless it had
        // released it; what it was told of was released.
        let next = match other.try_recv() {
            Ok(message) => {
                assert_eq!((number(message), sure.get()), (0, 0));
                1
            }
            Err(error) => {
                assert_eq!(error, RecvError::Empty);
                1
            }
        };
        for n in next..next + 3 {
            tx.push(pair(n)).unwrap();
            assert_eq!(other.recv().map(number), Ok(n));
        }
    });
}

//! Models of broadcast rings; how they are run is told in `ring::models`.
//!
//! A ring keeps one message of four words and has a place for a second, so that
//! each message but the first overwrites one.

use super::attend::{Claimed, Unseen};
use super::layout::{Keeping, words_len};
use super::open::produce;
use super::{Join, RawBroadcastReceiver, ReceiverParts};
use crate::ring::endpoint::Parts;
use crate::ring::error::RecvError;
use crate::ring::position::SlotGeometry;
use crate::ring::slots::RawProducer;
use crate::view::View;
use crate::wait::WaitMode;
use crate::wait::modelling::{Lives, Tally, Who, explore, explore_deaths, stats};
use loom::thread::spawn;

const PRODUCER: Who = (0, 0);
const CONSUMER: Who = (1, 0);
const SIZE: usize = 32;

#[derive(Clone)]
struct Ring {
    control: View,
    payload: View,
    keeping: Keeping,
    geometry: SlotGeometry,
    lives: Lives,
}

impl Ring {
    fn new(lossless: bool) -> Self {
        let (keeping, geometry) = Keeping::of_slots(SIZE, 1, 1, lossless).unwrap();
        assert_eq!(keeping.total, 2);
        let control = View::modelled_control(words_len(1), 64);
        let payload = View::modelled_payload(geometry.bytes());
        Self { control, payload, keeping, geometry, lives: Lives::of(1, 1) }
    }

    fn producer(&self) -> RawProducer {
        let (control, payload) = (self.control.clone(), self.payload.clone());
        let parts = Parts { control, payload, stats: stats(), link: self.lives.claim(PRODUCER) };
        let mut end = produce(parts, self.keeping, self.geometry).unwrap();
        end.wait_mode(WaitMode::Block);
        end
    }

    fn consumer(&self, join: Join) -> RawBroadcastReceiver<Claimed> {
        let (control, payload) = (self.control.clone(), self.payload.clone());
        let parts = ReceiverParts { control, payload, link: self.lives.claim(CONSUMER) };
        let mut end =
            RawBroadcastReceiver::claim(parts, stats(), 0, self.geometry, self.keeping, join)
                .unwrap();
        end.wait_mode(WaitMode::Block);
        end
    }

    fn observer(&self, join: Join) -> RawBroadcastReceiver<Unseen> {
        let (control, payload) = (self.control.clone(), self.payload.clone());
        let parts = ReceiverParts { control, payload, link: self.lives.onlooker(CONSUMER) };
        RawBroadcastReceiver::observe(parts, self.geometry, self.keeping, join).unwrap()
    }
}

fn message(n: u64) -> Vec<u8> {
    [n, !n, n << 32 | n, n ^ 0x5555].iter().flat_map(|word: &u64| word.to_ne_bytes()).collect()
}

/// The number of a message that is whole.
fn number(bytes: &[u8]) -> u64 {
    let n = u64::from_ne_bytes(bytes[..8].try_into().unwrap());
    assert_eq!(bytes, message(n), "a torn message");
    n
}

/// Receives to the end: what comes next is `next`, or as much later as a gap says; what follows
/// the last, how many were missed, and why there was an end.
fn receive_all(rx: &mut RawBroadcastReceiver<Claimed>, mut next: u64) -> (u64, u64, RecvError) {
    let mut missed_in_all = 0;
    let mut bytes = [0; SIZE];
    loop {
        match rx.recv(&mut bytes) {
            Ok(()) => {
                assert_eq!(number(&bytes), next);
                next += 1;
            }
            Err(RecvError::Gap { missed }) => {
                missed_in_all += missed;
                next += missed;
            }
            Err(end) => return (next, missed_in_all, end),
        }
    }
}

#[test]
fn what_is_overwritten_while_it_is_copied_is_a_gap_and_never_torn() {
    explore("broadcast that overwrites", 2, || {
        const SENT: u64 = 3;
        let ring = Ring::new(false);
        let mut rx = ring.consumer(Join::Oldest);
        let mut tx = ring.producer();
        let sender = spawn(move || {
            for n in 0..SENT {
                tx.push(&message(n)).unwrap();
            }
        });
        let (next, _, end) = receive_all(&mut rx, 0);
        assert_eq!((next, end), (SENT, RecvError::Closed));
        sender.join().unwrap();
    });
}

#[test]
fn an_observer_that_joins_in_the_middle_sees_whole_messages_in_their_order() {
    explore("broadcast and an observer", 2, || {
        let ring = Ring::new(false);
        let mut tx = ring.producer();
        let sender = spawn(move || {
            for n in 0..3 {
                tx.push(&message(n)).unwrap();
            }
        });
        let mut rx = ring.observer(Join::Oldest);
        let (mut least, mut bytes) = (0, [0; SIZE]);
        for _ in 0..3 {
            match rx.try_recv(&mut bytes) {
                Ok(()) => {
                    let n = number(&bytes);
                    assert!(n >= least);
                    least = n + 1;
                }
                Err(RecvError::Gap { .. } | RecvError::Empty) => {}
                Err(error) => panic!("{error}"),
            }
        }
        sender.join().unwrap();
    });
}

#[test]
fn one_who_joins_a_lossless_ring_misses_nothing_from_then_on() {
    explore("lossless broadcast, joined in the middle", 2, || {
        const SENT: u64 = 3;
        let ring = Ring::new(true);
        let mut tx = ring.producer();
        let sender = spawn(move || {
            for n in 0..SENT {
                tx.push(&message(n)).unwrap();
            }
        });
        let mut rx = ring.consumer(Join::Oldest);
        let first = rx.position();
        let (next, missed, end) = receive_all(&mut rx, first);
        assert_eq!((next, missed, end), (SENT, 0, RecvError::Closed));
        sender.join().unwrap();
    });
}

#[test]
fn a_lossless_producer_and_its_consumer_wake_each_other() {
    explore("lossless broadcast, blocking", 2, || {
        const SENT: u64 = 3;
        let ring = Ring::new(true);
        let mut rx = ring.consumer(Join::Oldest);
        let mut tx = ring.producer();
        let sender = spawn(move || {
            for n in 0..SENT {
                tx.push(&message(n)).unwrap();
            }
        });
        assert_eq!(receive_all(&mut rx, 0), (SENT, 0, RecvError::Closed));
        sender.join().unwrap();
    });
}

#[test]
fn a_consumer_of_a_lossless_ring_may_die_at_any_access() {
    explore_deaths("lossless broadcast, its consumer dies", 1, |death| {
        const SENT: u64 = 4;
        let ring = Ring::new(true);
        let mut tx = ring.producer();
        let receiver = {
            let ring = ring.clone();
            spawn(move || {
                death.befalls(&ring.lives, CONSUMER, || {
                    let mut rx = ring.consumer(Join::Oldest);
                    let (mut next, mut bytes) = (rx.position(), [0; SIZE]);
                    for _ in 0..2 {
                        match rx.recv(&mut bytes) {
                            Ok(()) => assert_eq!(number(&bytes), next),
                            Err(end) => {
                                assert_eq!(end, RecvError::Closed);
                                break;
                            }
                        }
                        next += 1;
                    }
                })
            })
        };
        for n in 0..SENT {
            tx.push(&message(n)).unwrap();
        }
        receiver.join().unwrap();
        // A successor is waited for again.
        let mut rx = ring.consumer(Join::Newest);
        let mut bytes = [0; SIZE];
        for n in SENT..SENT + 3 {
            tx.push(&message(n)).unwrap();
            rx.recv(&mut bytes).unwrap();
            assert_eq!(number(&bytes), n);
        }
    });
}

#[test]
fn a_broadcasting_producer_may_die_at_any_access() {
    for lossless in [false, true] {
        let name = format!("broadcast, lossless: {lossless}, its producer dies");
        explore_deaths(&name, 1, move |death| {
            let ring = Ring::new(lossless);
            let mut rx = ring.consumer(Join::Oldest);
            let sure = Tally::default();
            let sender = {
                let (ring, sure) = (ring.clone(), sure.clone());
                spawn(move || {
                    death.befalls(&ring.lives, PRODUCER, || {
                        let mut tx = ring.producer();
                        for n in 0..3 {
                            tx.push(&message(n)).unwrap();
                            sure.add();
                        }
                    })
                })
            };
            let (next, missed, end) = receive_all(&mut rx, 0);
            assert!(matches!(end, RecvError::PeerDied | RecvError::Closed), "{end}");
            assert!(!lossless || missed == 0);
            sender.join().unwrap();
            let mut tx = ring.producer();
            let sent = tx.position();
            // What was swept and then not written is missed without ever having been.
            assert!(sent == sure.get() || sent == sure.get() + 1, "{sent}, {}", sure.get());
            assert!(next <= sent);
            let (mut next, mut bytes) = (next, [0; SIZE]);
            for n in sent..sent + 3 {
                tx.push(&message(n)).unwrap();
                while next <= n {
                    match rx.recv(&mut bytes) {
                        Ok(()) => {
                            assert_eq!(number(&bytes), next);
                            next += 1;
                        }
                        Err(RecvError::Gap { missed }) => next += missed,
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        });
    }
}

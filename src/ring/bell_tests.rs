//! Doorbells and waits for several ends, on heap memory; the peer is in this process.

use super::position::{RecordGeometry, SlotGeometry};
use super::testing::{Peer, memory, parts};
use super::{Consumer, Producer, RecordConsumer, RecordProducer, RecvError, SendError};
use crate::error::ErrorKind;
use crate::peer::PeerState;
use crate::ring::layout::CONSUMER_SLEEP;
use crate::view::View;
use crate::wait::{Armed, Doorbell, WaitAny, WaitError, WaitMode, wait_any};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

const SLICE: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(20);

fn ends(capacity: u64) -> (Producer<u64>, Consumer<u64>, Arc<Peer>, View) {
    let geometry = || SlotGeometry::new(8, capacity).unwrap();
    let (memory, peer) = (memory(geometry().bytes()), Peer::alive());
    let producer = Producer::attach(parts(&memory, &peer), geometry()).unwrap();
    let consumer = Consumer::attach(parts(&memory, &peer), geometry()).unwrap();
    (producer, consumer, peer, memory)
}

fn records(bytes: u64) -> (RecordProducer, RecordConsumer) {
    let geometry = || RecordGeometry::new(bytes, 8, 0).unwrap();
    let (memory, peer) = (memory(bytes as usize), Peer::alive());
    let producer = RecordProducer::attach(parts(&memory, &peer), geometry()).unwrap();
    (producer, RecordConsumer::attach(parts(&memory, &peer), geometry()).unwrap())
}

fn rung(bell: &Doorbell) -> bool {
    let mut fds = [PollFd::new(bell.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
}

const POLL: Armed = Armed::Poll { at_most: SLICE };

#[test]
fn an_armed_bell_rings_once_and_an_unarmed_one_never() {
    let (mut producer, mut consumer, ..) = ends(8);
    let bell = consumer.doorbell_to_pass().unwrap();
    producer.ring_by(&bell).unwrap();
    producer.push(1).unwrap();
    assert!(!rung(&bell));
    assert_eq!(bell.arm(&mut consumer).unwrap(), Armed::Ready);
    assert_eq!(consumer.try_recv(), Ok(1));
    assert_eq!(bell.arm(&mut consumer).unwrap(), POLL);
    assert!(!rung(&bell));
    producer.push(2).unwrap();
    assert!(rung(&bell));
    producer.push(3).unwrap();
    assert_eq!((producer.stats().wakes, consumer.stats().sleeps), (1, 1));
    bell.clear();
    assert!(!rung(&bell));
    assert_eq!((consumer.try_recv(), consumer.try_recv()), (Ok(2), Ok(3)));
    // What was found after all leaves nothing announced.
    producer.push(4).unwrap();
    assert_eq!(bell.arm(&mut consumer).unwrap(), Armed::Ready);
    producer.push(5).unwrap();
    assert_eq!(producer.stats().wakes, 1);
}

#[test]
fn a_producer_hears_of_room_and_a_record_producer_of_enough_room() {
    let (mut producer, mut consumer, ..) = ends(1);
    let bell = producer.doorbell_to_pass().unwrap();
    consumer.ring_by(&bell).unwrap();
    producer.push(1).unwrap();
    assert_eq!(producer.try_push(2), Err(SendError::Full));
    assert_eq!(bell.arm(&mut producer).unwrap(), POLL);
    consumer.recv().unwrap();
    assert!(rung(&bell));
    assert_eq!(bell.arm(&mut producer).unwrap(), Armed::Ready);

    let (mut producer, mut consumer) = records(256);
    let bell = producer.doorbell_to_pass().unwrap();
    consumer.ring_by(&bell).unwrap();
    for _ in 0..6 {
        producer.push(&[1; 24]).unwrap();
    }
    assert_eq!(producer.try_push(&[2; 100]), Err(SendError::Full));
    // Room for a small one is not what was asked for.
    let mut times = 0;
    while bell.arm(&mut producer).unwrap() == POLL {
        consumer.read().unwrap().release();
        assert!(rung(&bell));
        bell.clear();
        times += 1;
    }
    assert!(times > 1, "{times}");
    producer.try_push(&[2; 100]).unwrap();
}

#[test]
fn the_end_of_the_peer_is_ready_and_the_next_try_tells_it() {
    for (state, end) in
        [(PeerState::Dead, RecvError::PeerDied), (PeerState::Closed, RecvError::Closed)]
    {
        let (_producer, mut consumer, peer, _) = ends(4);
        let bell = consumer.doorbell_to_pass().unwrap();
        for _ in 0..3 {
            assert_eq!(consumer.try_recv(), Err(RecvError::Empty));
        }
        assert_eq!(bell.arm(&mut consumer).unwrap(), POLL);
        peer.becomes(state);
        let start = Instant::now();
        while bell.arm(&mut consumer).unwrap() == POLL {
            assert!(start.elapsed() < LONG);
        }
        assert!(start.elapsed() < 2 * SLICE + Duration::from_millis(20), "{:?}", start.elapsed());
        assert_eq!(consumer.try_recv(), Err(end));
        // Whoever outlives it goes on waiting.
        consumer.outlive_peer(true);
        assert_eq!(bell.arm(&mut consumer).unwrap(), POLL);
    }
}

#[test]
fn a_cancel_rings_and_arming_says_so_until_it_is_reset() {
    let (_producer, mut consumer, ..) = ends(4);
    let canceller = consumer.canceller();
    let bell = consumer.doorbell_to_pass().unwrap();
    assert_eq!(bell.arm(&mut consumer).unwrap(), POLL);
    canceller.cancel();
    assert!(rung(&bell));
    assert_eq!(bell.arm(&mut consumer).unwrap_err().kind(), ErrorKind::Cancelled);
    canceller.reset();
    bell.clear();
    assert_eq!(bell.arm(&mut consumer).unwrap(), POLL);
    let newer = consumer.doorbell_to_pass().unwrap();
    assert_eq!(bell.arm(&mut consumer).unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(newer.arm(&mut consumer).unwrap(), POLL);
    canceller.cancel();
    assert!(rung(&newer) && !rung(&bell));
}

#[test]
fn any_value_of_the_sleep_word_costs_a_ring_at_most() {
    let (mut producer, mut consumer, _, memory) = ends(4);
    let bell = consumer.doorbell_to_pass().unwrap();
    producer.ring_by(&bell).unwrap();
    for value in [1, 2, 3, 0x8000_0000, u32::MAX] {
        memory.word32(CONSUMER_SLEEP).store(value, Relaxed);
        producer.push(7).unwrap();
        assert_eq!(memory.word32(CONSUMER_SLEEP).load(Relaxed), 0);
        assert_eq!(rung(&bell), value == 2);
        bell.clear();
        assert_eq!(consumer.recv(), Ok(7));
    }
    assert_eq!(producer.stats().wakes, 5);
}

#[test]
fn a_blocking_call_between_two_arms_works_as_ever() {
    let (mut producer, mut consumer, ..) = ends(4);
    consumer.wait_mode(WaitMode::Block);
    let bell = consumer.doorbell_to_pass().unwrap();
    producer.ring_by(&bell).unwrap();
    for round in 0..50 {
        assert_eq!(bell.arm(&mut consumer).unwrap(), POLL);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_micros(200));
                producer.push(round).unwrap();
            });
            assert_eq!(consumer.recv_timeout(LONG), Ok(round));
        });
        bell.clear();
    }
}

fn waiters() -> impl Iterator<Item = WaitAny> {
    let modes = [WaitMode::Spin, WaitMode::Yield, WaitMode::Adaptive, WaitMode::Block];
    modes.into_iter().flat_map(|mode| {
        [true, false].map(|vector| {
            let mut any = WaitAny::new();
            any.wait_mode(mode).set_vector(vector);
            any
        })
    })
}

#[test]
fn the_first_of_several_ends_is_found_whichever_it_is() {
    let (mut tx, mut rx, ..) = ends(2);
    let (mut record_tx, mut record_rx) = records(256);
    let (mut full, mut slow, ..) = ends(1);
    full.push(0).unwrap();
    for mut any in waiters() {
        for _ in 0..30 {
            std::thread::scope(|scope| {
                let tx = &mut tx;
                scope.spawn(|| {
                    std::thread::sleep(Duration::from_micros(100));
                    tx.push(1).unwrap();
                });
                assert_eq!(any.wait(&mut [&mut record_rx, &mut full, &mut rx]), Ok(2));
                rx.try_recv().unwrap();
            });
            std::thread::scope(|scope| {
                let tx = &mut record_tx;
                scope.spawn(|| tx.push(b"x").unwrap());
                assert_eq!(any.wait(&mut [&mut record_rx, &mut full, &mut rx]), Ok(0));
                record_rx.read().unwrap().release();
            });
            std::thread::scope(|scope| {
                let slow = &mut slow;
                scope.spawn(|| slow.recv().unwrap());
                assert_eq!(any.wait(&mut [&mut record_rx, &mut full, &mut rx]), Ok(1));
                full.try_push(2).unwrap();
            });
        }
    }
}

#[test]
fn busy_ends_take_turns() {
    let (mut tx0, mut rx0, ..) = ends(64);
    let (mut tx1, mut rx1, ..) = ends(64);
    let (_tx2, mut rx2, ..) = ends(64);
    for number in 0..64 {
        tx0.push(number).unwrap();
        tx1.push(number).unwrap();
    }
    let mut any = WaitAny::new();
    let found: Vec<_> =
        (0..8).map(|_| any.wait(&mut [&mut rx0, &mut rx1, &mut rx2]).unwrap()).collect();
    assert_eq!(found, [0, 1, 0, 1, 0, 1, 0, 1]);
    let mut seen = [0; 3];
    for _ in 0..100 {
        seen[wait_any(&mut [&mut rx0, &mut rx1, &mut rx2], None).unwrap()] += 1;
    }
    assert_eq!(seen, [50, 50, 0]);
}

#[test]
fn a_wait_for_several_ends_by_deadline_cancel_and_the_end_of_a_peer() {
    for mut any in waiters() {
        let (_tx0, mut rx0, ..) = ends(4);
        let (_tx1, mut rx1, peer, _) = ends(4);
        assert_eq!(any.wait(&mut []), Err(WaitError::NoEndpoint));
        let start = Instant::now();
        for millis in [0, 3, 60] {
            let timeout = Duration::from_millis(millis);
            let answer = any.wait_timeout(&mut [&mut rx0, &mut rx1], timeout);
            assert_eq!(answer, Err(WaitError::TimedOut));
            assert!(start.elapsed() >= timeout && start.elapsed() < LONG);
        }
        let canceller = any.canceller();
        let start = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(5));
                canceller.cancel();
            });
            assert_eq!(any.wait(&mut [&mut rx0, &mut rx1]), Err(WaitError::Cancelled));
        });
        assert!(start.elapsed() < LONG);
        canceller.reset();
        // That of one end counts as well.
        let canceller = rx0.canceller();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(5));
                canceller.cancel();
            });
            assert_eq!(any.wait(&mut [&mut rx0, &mut rx1]), Err(WaitError::Cancelled));
        });
        canceller.reset();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(5));
                peer.becomes(PeerState::Dead);
            });
            assert_eq!(any.wait(&mut [&mut rx0, &mut rx1]), Ok(1));
        });
        assert_eq!(rx1.try_recv(), Err(RecvError::PeerDied));
    }
}

#[test]
fn more_ends_than_the_kernel_takes_are_waited_for_all_the_same() {
    let mut all: Vec<_> = (0..140).map(|_| ends(2)).collect();
    for index in [3, 139] {
        let (mut senders, mut receivers): (Vec<_>, Vec<_>) =
            all.iter_mut().map(|(tx, rx, ..)| (tx, rx)).unzip();
        let mut ends: Vec<&mut dyn crate::wait::Waitable> = Vec::new();
        for receiver in &mut receivers {
            ends.push(&mut **receiver);
        }
        std::thread::scope(|scope| {
            let sender = &mut senders[index];
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(3));
                sender.push(1).unwrap();
            });
            assert_eq!(WaitAny::new().wait(&mut ends), Ok(index));
        });
        drop(ends);
        receivers[index].try_recv().unwrap();
    }
}

//! The promises of lanes: order in each, turns among all, death at each store, lies, waiting.

use super::gather::BURST;
use super::layout::{CONSUMER_SLEEP, LanesGeometry, PRODUCER_SLEEP, PRODUCERS_SLEEP, lane_at};
use super::{FromLane, LaneProducer, LanesConsumer};
use crate::peer::PeerState;
use crate::ring::endpoint::Parts;
use crate::ring::error::{AttachError, Corruption, RecvError, SendError};
use crate::ring::layout::RELEASED;
use crate::ring::position::{SlotGeometry, header_word};
use crate::ring::testing::{FakeLink, Peer, crashes};
use crate::stats::{LINE_LEN, StatsWriter};
use crate::view::View;
use crate::wait::{Armed, Doorbell, WaitMode};
use proptest::prelude::*;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// How long a stream may stand still before its test fails.
const PATIENCE: Duration = Duration::from_secs(10);

/// Three words, so that a torn message shows.
type Triple = [u64; 3];

fn triple(lane: u32, n: u64) -> Triple {
    let n = u64::from(lane) << 32 | n;
    [n, !n, n.wrapping_mul(0x9e37_79b9_7f4a_7c15)]
}

/// The memory of some lanes, in one piece.
struct Memory {
    all: View,
    geometry: LanesGeometry,
}

impl Memory {
    fn new<T>(lanes: u32, capacity: u64) -> Self {
        let ring = SlotGeometry::new(size_of::<T>(), capacity).unwrap();
        let geometry = LanesGeometry::new(lanes, ring).unwrap();
        Self { all: View::heap(geometry.words_bytes() + geometry.payload_bytes()), geometry }
    }

    fn of(&self, all: View) -> Self {
        Self { all, geometry: self.geometry }
    }

    fn parts(&self, peer: &Arc<Peer>) -> Parts {
        let (words, payload) = (self.geometry.words_bytes(), self.geometry.payload_bytes());
        Parts {
            control: self.all.window(0, words).unwrap(),
            payload: self.all.window(words, payload).unwrap(),
            stats: StatsWriter::attach(View::heap(LINE_LEN)).unwrap(),
            link: Box::new(FakeLink(Arc::clone(peer))),
        }
    }

    /// The header word of block `block` of `lane` in the memory.
    fn header(&self, lane: u32, block: usize) -> usize {
        let (words, ring) = (self.geometry.words_bytes(), self.geometry.ring());
        let stride = self.geometry.payload_bytes() / self.geometry.lanes() as usize;
        words + lane as usize * stride + block * ring.shape().bytes
    }

    fn try_producer<T: bytemuck::NoUninit>(
        &self,
        lane: u32,
        peer: &Arc<Peer>,
    ) -> Result<LaneProducer<T>, AttachError> {
        LaneProducer::attach(self.parts(peer), self.geometry, lane)
    }

    fn try_consumer<T: bytemuck::CheckedBitPattern>(
        &self,
        peer: &Arc<Peer>,
    ) -> Result<LanesConsumer<T>, AttachError> {
        LanesConsumer::attach(self.parts(peer), self.geometry)
    }

    fn producer<T: bytemuck::NoUninit>(&self, lane: u32) -> LaneProducer<T> {
        self.try_producer(lane, &Peer::alive()).unwrap()
    }

    fn consumer<T: bytemuck::CheckedBitPattern>(&self) -> LanesConsumer<T> {
        self.try_consumer(&Peer::alive()).unwrap()
    }
}

#[test]
fn a_release_wakes_the_producer_of_its_lane_and_no_other() {
    let memory = Memory::new::<u64>(8, 2);
    let mut producers: Vec<LaneProducer<u64>> = (0..8).map(|lane| memory.producer(lane)).collect();
    for producer in &mut producers {
        assert_eq!(producer.push_batch(&[1, 2]), Ok(2));
    }
    let mut rx = memory.consumer::<u64>();
    let asleep = |memory: &Memory| -> Vec<u32> {
        let word = |lane: &u32| memory.all.word32(lane_at(*lane) + PRODUCER_SLEEP).load(Relaxed);
        (0..8).filter(|lane| word(lane) != 0).collect()
    };
    for producer in &mut producers {
        let bell = producer.doorbell_to_pass().unwrap();
        assert!(matches!(bell.arm(producer), Ok(Armed::Poll { .. })));
    }
    assert_eq!(asleep(&memory).len(), 8);
    let lane = rx.try_recv().unwrap().lane;
    let left: Vec<u32> = (0..8).filter(|other| *other != lane).collect();
    assert_eq!(asleep(&memory), left);
}

/// What `rx` has to give, by lanes.
fn drain(rx: &mut LanesConsumer<Triple>) -> Vec<Vec<Triple>> {
    let mut all = vec![Vec::new(); rx.lanes() as usize];
    for _ in 0..10_000 {
        match rx.try_recv() {
            Ok(message) => {
                let lane = &mut all[message.lane as usize];
                lane.push(message.value);
            }
            Err(RecvError::Empty) => return all,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("there is no end");
}

#[test]
fn each_lane_keeps_its_order_at_every_small_capacity() {
    for capacity in [1, 2, 3, 16] {
        for lanes in [1, 2, 5] {
            let memory = Memory::new::<Triple>(lanes, capacity);
            let mut producers: Vec<_> =
                (0..lanes).map(|lane| memory.producer::<Triple>(lane)).collect();
            let mut rx = memory.consumer::<Triple>();
            let (mut sent, mut received) = (vec![0; lanes as usize], vec![0; lanes as usize]);
            for round in 0..50 {
                for (lane, tx) in producers.iter_mut().enumerate() {
                    for _ in 0..(round * (lane + 3)) % 7 {
                        if tx.try_push(triple(lane as u32, sent[lane])).is_ok() {
                            sent[lane] += 1;
                        }
                    }
                    assert_eq!(tx.lane() as usize, lane);
                    assert_eq!(rx.lag_of(lane as u32), Some(tx.len()));
                }
                for _ in 0..round % 11 {
                    let Ok(FromLane { lane, position, value }) = rx.try_recv() else { break };
                    let next = &mut received[lane as usize];
                    assert_eq!((position, value), (*next, triple(lane, *next)));
                    *next += 1;
                    assert_eq!(rx.position_of(lane), Some(*next));
                }
                let passed: u64 = received.iter().sum();
                assert_eq!((rx.position(), rx.stats().messages), (passed, passed));
                assert_eq!(rx.lag(), sent.iter().sum::<u64>() - passed);
            }
            assert_eq!((rx.position_of(lanes), rx.lag_of(lanes)), (None, None));
            assert_eq!((rx.lanes(), rx.capacity()), (lanes, capacity));
        }
    }
}

#[test]
fn the_most_lanes_there_can_be_are_all_received_from() {
    let memory = Memory::new::<u64>(255, 2);
    let mut producers: Vec<_> = (0..255).map(|lane| memory.producer::<u64>(lane)).collect();
    let mut rx = memory.consumer::<u64>();
    for round in 0..5 {
        for tx in &mut producers {
            tx.push(round).unwrap();
        }
        let mut lanes: Vec<u32> = (0..255).map(|_| rx.recv().unwrap().lane).collect();
        lanes.sort_unstable();
        assert!(lanes.into_iter().eq(0..255));
    }
}

#[test]
fn a_busy_lane_gives_way_after_a_burst() {
    let memory = Memory::new::<u64>(5, 1000);
    let mut producers: Vec<_> = (0..5).map(|lane| memory.producer::<u64>(lane)).collect();
    let mut rx = memory.consumer::<u64>();
    for busy in 0..5 {
        for number in 0..1000 {
            producers[busy].push(number).unwrap();
        }
        for (lane, tx) in producers.iter_mut().enumerate() {
            if lane != busy {
                tx.push(7).unwrap();
            }
        }
        let first: Vec<u32> = (0..BURST + 4).map(|_| rx.recv().unwrap().lane).collect();
        for lane in 0..5 {
            assert!(first.contains(&lane), "lane {lane} waits for {busy}: {first:?}");
        }
        while rx.try_recv().is_ok() {}
    }
    // All busy: each gets its turn, in batches as well.
    for tx in &mut producers {
        assert_eq!(tx.push_batch(&[1; 1000]), Ok(1000));
    }
    let mut messages = Vec::new();
    assert_eq!(rx.recv_batch(&mut messages, 10 * BURST as usize), Ok(10 * BURST as usize));
    for lane in 0..5 {
        let count = messages.iter().filter(|message| message.lane == lane).count();
        assert_eq!(count, 2 * BURST as usize);
    }
}

/// Checks that fresh ends on `memory` see exactly `left`, and can go on.
fn goes_on(memory: &Memory, left: &[Vec<Triple>]) {
    let mut rx = memory.consumer::<Triple>();
    assert_eq!(rx.lag(), left.iter().map(|lane| lane.len() as u64).sum::<u64>());
    assert_eq!(drain(&mut rx), left);
    for lane in 0..left.len() as u32 {
        let mut tx = memory.producer::<Triple>(lane);
        assert_eq!(tx.position(), rx.position_of(lane).unwrap());
        for n in 0..2 * tx.capacity() {
            tx.try_push(triple(lane, 1000 + n)).unwrap();
            let message = rx.try_recv().unwrap();
            assert_eq!((message.lane, message.value), (lane, triple(lane, 1000 + n)));
            assert_eq!(rx.try_recv(), Err(RecvError::Empty));
        }
    }
}

/// Lanes with `before` messages passed in each, and `waiting` of the first left.
fn prepare(lanes: u32, capacity: u64, before: u64, waiting: u64) -> (Memory, Vec<Vec<Triple>>) {
    let memory = Memory::new::<Triple>(lanes, capacity);
    let mut rx = memory.consumer::<Triple>();
    let mut producers: Vec<_> = (0..lanes).map(|lane| memory.producer::<Triple>(lane)).collect();
    for tx in &mut producers {
        for n in 0..before {
            tx.try_push(triple(tx.lane(), n)).unwrap();
            rx.try_recv().unwrap();
        }
    }
    let left = producers.into_iter().map(|mut tx| {
        let (lane, waiting) = (tx.lane(), waiting.saturating_sub(u64::from(tx.lane())));
        let left: Vec<Triple> = (before..before + waiting).map(|n| triple(lane, n)).collect();
        assert!(left.iter().all(|message| tx.try_push(*message).is_ok()));
        left
    });
    let left = left.collect();
    (memory, left)
}

#[test]
fn a_producer_killed_behind_any_store_leaves_its_batch_whole_or_not_at_all() {
    let (mut looked_at, mut whole) = (0, 0);
    for (capacity, before, waiting) in [1, 2, 3]
        .into_iter()
        .flat_map(|c| (0..=2 * c).flat_map(move |b| (0..c).map(move |w| (c, b, w))))
    {
        let (memory, left) = prepare(3, capacity, before, waiting);
        for lane in 0..3 {
            let state = memory.of(View::of(&memory.all.snapshot()));
            let batch: Vec<Triple> = (500..500 + capacity).map(|n| triple(lane, n)).collect();
            // Its attach, too.
            let (sent, states) =
                crashes(&state.all, || state.producer::<Triple>(lane).push_batch(&batch).unwrap());
            let mut with = left.clone();
            with[lane as usize].extend(&batch[..sent]);
            for all in states {
                let copy = memory.of(View::of(&all.snapshot()));
                let now = drain(&mut copy.consumer());
                assert!(now == left || now == with);
                whole += u32::from(now == with);
                goes_on(&memory.of(all), &now);
                looked_at += 1;
            }
        }
    }
    assert!(looked_at > 500 && whole > 50, "{looked_at} {whole}");
}

#[test]
fn a_consumer_killed_behind_any_store_loses_and_repeats_nothing_it_released() {
    let mut looked_at = 0;
    for before in 0..7 {
        for batch in [1, 2, 5, 100] {
            let (memory, left) = prepare(4, 4, before, 4);
            let mut received: Vec<FromLane<Triple>> = Vec::new();
            // Its attach, too.
            let (count, states) = crashes(&memory.all, || {
                memory.consumer().recv_batch(&mut received, batch).unwrap()
            });
            assert_eq!(count, batch.min(4 + 3 + 2 + 1));
            for all in states {
                let memory = memory.of(all);
                let mut rest = left.clone();
                for (lane, rest) in rest.iter_mut().enumerate() {
                    let released = memory.all.load64(lane_at(lane as u32) + RELEASED, Relaxed);
                    let released = (released - before) as usize;
                    let seen = received.iter().filter(|message| message.lane == lane as u32);
                    assert!(released == 0 || released == seen.count(), "a turn is one release");
                    rest.drain(..released);
                }
                goes_on(&memory, &rest);
                looked_at += 1;
            }
        }
    }
    assert!(looked_at > 50, "{looked_at}");
}

#[test]
fn what_producers_send_before_any_load_of_the_consumer_is_received_once_and_in_order() {
    // Two producers do two steps each, in each order, before each choice of four loads.
    let mut interleaved = 0;
    for order in
        [[0, 0, 1, 1], [0, 1, 0, 1], [0, 1, 1, 0], [1, 0, 0, 1], [1, 0, 1, 0], [1, 1, 0, 0]]
    {
        for first in 0..4_u64 {
            for second in first..first + 4 {
                for third in second..second + 4 {
                    for fourth in third..third + 4 {
                        let at = [first, second, third, fourth];
                        one_interleaving(order, at);
                        interleaved += 1;
                    }
                }
            }
        }
    }
    assert!(interleaved > 1000);
}

fn one_interleaving(order: [usize; 4], at: [u64; 4]) {
    let memory = Memory::new::<Triple>(3, 3);
    let mut producers = [0, 2].map(|lane| memory.producer::<Triple>(lane));
    let mut rx = memory.consumer::<Triple>();
    let sent = Rc::new(RefCell::new([0_u64; 2]));
    let (told, mut loads, mut step) = (Rc::clone(&sent), 0, 0);
    let meddler = move || {
        while step < 4 && at[step] == loads {
            let who = order[step];
            let (tx, mut sent) = (&mut producers[who], told.borrow_mut());
            let (lane, next) = (tx.lane(), sent[who]);
            // A message, then a batch of two.
            let batch = [triple(lane, next), triple(lane, next + 1)];
            let count = if next == 0 { 1 } else { 2 };
            if let Ok(count) = tx.push_batch(&batch[..count]) {
                sent[who] += count as u64;
            }
            step += 1;
        }
        loads += 1;
    };
    let mut received = [0_u64; 2];
    let mut take = |message: FromLane<Triple>| {
        let who = message.lane as usize / 2;
        assert_eq!(message.position, received[who]);
        assert_eq!(message.value, triple(message.lane, received[who]));
        received[who] += 1;
    };
    crate::view::steps::meddle(meddler, || {
        let mut batch = Vec::new();
        for round in 0..8 {
            if round % 2 == 0 {
                rx.try_recv().into_iter().for_each(&mut take);
            } else if rx.recv_batch(&mut batch, 2).is_ok() {
                batch.drain(..).for_each(&mut take);
            }
        }
    });
    rx.lag();
    while let Ok(message) = rx.try_recv() {
        take(message);
    }
    assert_eq!(received, *sent.borrow());
}

fn rung(bell: &Doorbell) -> bool {
    use std::os::fd::AsFd;
    let mut fds = [nix::poll::PollFd::new(bell.as_fd(), nix::poll::PollFlags::POLLIN)];
    nix::poll::poll(&mut fds, nix::poll::PollTimeout::ZERO).unwrap() == 1
}

/// Runs `work` with `other`, in a thread of its own, behind store number `at` of it; whether there
/// was such a store.
fn behind_store<R>(
    at: u32,
    other: impl FnOnce() + Send + 'static,
    work: impl FnOnce() -> R,
) -> (R, bool) {
    let (mut stores, mut other) = (0, Some(other));
    let done = Rc::new(Cell::new(false));
    let says = Rc::clone(&done);
    let watcher = move || {
        if stores == at
            && let Some(other) = other.take()
        {
            std::thread::scope(|scope| scope.spawn(other).join().unwrap());
            says.set(true);
        }
        stores += 1;
    };
    let result = crate::view::steps::watch(watcher, work);
    (result, done.get())
}

#[test]
fn a_sleeper_that_meets_a_message_or_room_at_any_store_hears_of_it() {
    let mut met = [0; 4];
    for at in 0..64 {
        // The consumer lies down while a producer sends.
        let memory = Memory::new::<u64>(3, 2);
        let (mut rx, mut tx) = (memory.consumer::<u64>(), memory.producer::<u64>(1));
        let bell = rx.doorbell_to_pass().unwrap();
        tx.ring_by(&bell).unwrap();
        let (armed, done) = behind_store(at, move || tx.push(5).unwrap(), || bell.arm(&mut rx));
        assert!(!done || armed.unwrap() == Armed::Ready || rung(&bell), "lost at {at}");
        met[0] += u32::from(done);

        // The producer sends while the consumer lies down.
        let memory = Memory::new::<u64>(3, 2);
        let (mut rx, mut tx) = (memory.consumer::<u64>(), memory.producer::<u64>(1));
        let bell = rx.doorbell_to_pass().unwrap();
        tx.ring_by(&bell).unwrap();
        let (ready, asleep) = mpsc::channel();
        let other = move || {
            let armed = bell.arm(&mut rx).unwrap();
            ready.send((armed, bell, rx)).unwrap();
        };
        let (pushed, done) = behind_store(at, other, || tx.push(5));
        pushed.unwrap();
        if done {
            let (armed, bell, mut rx) = asleep.recv().unwrap();
            assert!(armed == Armed::Ready || rung(&bell), "lost at {at}");
            assert_eq!(rx.try_recv().unwrap().value, 5);
            met[1] += 1;
        }

        // A producer lies down while the consumer makes room in its lane.
        let memory = Memory::new::<u64>(3, 1);
        let (mut rx, mut tx) = (memory.consumer::<u64>(), memory.producer::<u64>(1));
        tx.push(1).unwrap();
        let bell = tx.doorbell_to_pass().unwrap();
        rx.raw.port.take_rope(std::os::fd::AsFd::as_fd(&bell)).unwrap();
        let work = move || assert_eq!(rx.recv().unwrap().lane, 1);
        let (armed, done) = behind_store(at, work, || bell.arm(&mut tx));
        assert!(!done || armed.unwrap() == Armed::Ready || rung(&bell), "lost at {at}");
        met[2] += u32::from(done);

        // The consumer makes room while the producer lies down; others do not wake for it.
        let memory = Memory::new::<u64>(3, 1);
        let (mut rx, mut tx) = (memory.consumer::<u64>(), memory.producer::<u64>(1));
        tx.push(1).unwrap();
        let mut other = memory.producer::<u64>(2);
        let others = other.doorbell_to_pass().unwrap();
        let bell = tx.doorbell_to_pass().unwrap();
        rx.raw.port.take_rope(std::os::fd::AsFd::as_fd(&bell)).unwrap();
        let (ready, asleep) = mpsc::channel();
        let work = move || {
            let armed = bell.arm(&mut tx).unwrap();
            ready.send((armed, bell, tx)).unwrap();
        };
        let (message, done) = behind_store(at, work, || rx.recv());
        assert_eq!(message.unwrap().lane, 1);
        if done {
            let (armed, bell, mut tx) = asleep.recv().unwrap();
            assert!(armed == Armed::Ready || rung(&bell), "lost at {at}");
            tx.try_push(2).unwrap();
            met[3] += 1;
        }
        assert!(!rung(&others));
    }
    assert!(met.iter().all(|met| *met > 0), "{met:?}");
}

#[test]
fn a_corrupt_lane_is_told_once_and_left_out_and_the_others_go_on() {
    let memory = Memory::new::<u64>(3, 4);
    let mut producers: Vec<_> = (0..3).map(|lane| memory.producer::<u64>(lane)).collect();
    let mut rx = memory.consumer::<u64>();
    for tx in &mut producers {
        tx.push_all(&[1, 2]).unwrap();
    }
    assert_eq!(rx.failed_lane(), None);
    memory.all.store64(memory.header(1, 0), header_word(7, 3), Relaxed);
    let corrupt = RecvError::Corrupt(Corruption::Stamp);
    let answers: Vec<_> = (0..6).map(|_| rx.try_recv().map(|message| message.lane)).collect();
    assert_eq!(answers, [Ok(0), Ok(0), Err(corrupt), Ok(2), Ok(2), Err(RecvError::Empty)]);
    assert_eq!(rx.failed_lane(), Some(1));
    assert_eq!([0, 1, 2].map(|lane| rx.corruption_of(lane).is_some()), [false, true, false]);
    assert_eq!((rx.lag(), rx.lag_of(1)), (0, Some(0)));
    // Its producer is told instead of waiting for room, whoever takes the lane as well.
    let told = Err(SendError::Corrupt(Corruption::Released));
    assert_eq!(producers[1].push_slice(&[0; 40]), told);
    assert_eq!(producers[1].push(1), told);
    let successor = memory.try_producer::<u64>(1, &Peer::alive());
    assert_eq!(successor.err(), Some(AttachError::Corrupt(Corruption::Released)));
    for _ in 0..100 {
        producers[0].push(9).unwrap();
        producers[2].push(9).unwrap();
        assert_eq!((rx.recv().unwrap().value, rx.recv().unwrap().value), (9, 9));
    }
    // The next consumer tries the lane again, and finds the same until it is mended.
    drop(rx);
    let mut rx = memory.consumer::<u64>();
    assert_eq!((rx.try_recv(), rx.failed_lane()), (Err(corrupt), Some(1)));
    assert_eq!(rx.try_recv(), Err(RecvError::Empty));
    memory.all.store64(memory.header(1, 0), header_word(0, 2), Relaxed);
    drop(rx);
    let mut rx = memory.consumer::<u64>();
    let got = [rx.recv(), rx.recv()].map(|message| message.map(|one| (one.lane, one.value)));
    assert_eq!(got, [Ok((1, 1)), Ok((1, 2))]);
    memory.producer::<u64>(1).push(3).unwrap();
    assert_eq!(rx.recv().unwrap(), FromLane { lane: 1, position: 2, value: 3 });
}

#[test]
fn a_consumer_killed_while_it_leaves_a_lane_out_or_tries_it_again_loses_nothing_of_the_others() {
    let (memory, mut left) = prepare(3, 4, 5, 4);
    memory.all.store64(memory.header(1, 0), u64::MAX, Relaxed);
    memory.all.store64(memory.header(1, 1), u64::MAX, Relaxed);
    memory.all.store64(memory.header(1, 2), u64::MAX, Relaxed);
    memory.all.store64(lane_at(2) + RELEASED, 1 << 60, Relaxed);
    left[1].clear();
    left[2].clear();
    let leaves_out = |memory: &Memory| {
        let mut rx = memory.consumer::<Triple>();
        let mut told = Vec::new();
        let mut taken = Vec::new();
        loop {
            match rx.try_recv() {
                Ok(message) => taken.push(message.value),
                Err(RecvError::Corrupt(_)) => told.push(rx.failed_lane().unwrap()),
                Err(error) => break assert_eq!(error, RecvError::Empty),
            }
        }
        told.sort_unstable();
        assert_eq!(told, [1, 2]);
        taken
    };
    // One that finds out, and one that finds the lanes left out.
    for _ in 0..2 {
        let before = memory.of(View::of(&memory.all.snapshot()));
        let (_, states) = crashes(&memory.all, || leaves_out(&memory));
        assert!(states.len() > 4);
        for all in states {
            let released = all.load64(lane_at(0) + RELEASED, Relaxed);
            let position = before.all.load64(lane_at(0) + RELEASED, Relaxed);
            let rest = &left[0][(released - position) as usize..];
            assert_eq!(leaves_out(&memory.of(all)), rest);
        }
        left[0].clear();
    }
}

#[test]
fn a_producer_that_sleeps_in_a_lane_that_is_left_out_is_woken_and_told() {
    let memory = Memory::new::<u64>(2, 1);
    let (mut rx, mut tx) = (memory.consumer::<u64>(), memory.producer::<u64>(1));
    tx.push(1).unwrap();
    assert_eq!(tx.try_push(2), Err(SendError::Full));
    let bell = tx.doorbell_to_pass().unwrap();
    assert!(matches!(bell.arm(&mut tx), Ok(Armed::Poll { .. })));
    memory.all.store64(memory.header(1, 0), u64::MAX, Relaxed);
    assert!(matches!(rx.try_recv(), Err(RecvError::Corrupt(_))));
    assert_eq!(memory.all.word32(lane_at(1) + PRODUCER_SLEEP).load(Relaxed), 0);
    assert_eq!(bell.arm(&mut tx).unwrap(), Armed::Ready);
    assert_eq!(tx.try_push(2), Err(SendError::Corrupt(Corruption::Released)));
}

#[test]
fn a_corrupt_lane_in_a_wait_a_look_or_a_batch_is_told_once_too() {
    let lie = |memory: &Memory| memory.all.store64(memory.header(1, 0), u64::MAX, Relaxed);
    let corrupt = RecvError::Corrupt(Corruption::Stamp);
    for way in 0..4 {
        let memory = Memory::new::<u64>(3, 4);
        let mut tx = memory.producer::<u64>(0);
        let mut rx = memory.consumer::<u64>();
        let mut batch = Vec::new();
        match way {
            0 => {
                lie(&memory);
                assert_eq!(rx.recv(), Err(corrupt));
            }
            1 => {
                lie(&memory);
                let bell = rx.doorbell_to_pass().unwrap();
                for _ in 0..3 {
                    assert_eq!(bell.arm(&mut rx).unwrap(), Armed::Ready);
                }
                assert_eq!(rx.try_recv(), Err(corrupt));
                assert!(matches!(bell.arm(&mut rx).unwrap(), Armed::Poll { .. }));
            }
            2 => {
                tx.push(1).unwrap();
                lie(&memory);
                assert_eq!(rx.recv_batch(&mut batch, 9), Ok(1));
                assert_eq!(rx.recv_batch(&mut batch, 9), Err(corrupt));
            }
            _ => {
                lie(&memory);
                assert_eq!(rx.skip(), Err(corrupt));
            }
        }
        assert_eq!((rx.failed_lane(), rx.try_recv()), (Some(1), Err(RecvError::Empty)));
        tx.push(2).unwrap();
        assert_eq!(rx.recv().unwrap().value, 2);
    }
}

#[test]
fn an_impossible_released_position_is_told_by_the_first_calls_and_costs_one_lane() {
    let memory = Memory::new::<u64>(4, 4);
    for lane in [1, 3] {
        memory.all.store64(lane_at(lane) + RELEASED, 1 << 60, Relaxed);
    }
    let mut rx = memory.consumer::<u64>();
    memory.producer::<u64>(2).push(8).unwrap();
    let corrupt = Err(RecvError::Corrupt(Corruption::Released));
    assert_eq!((rx.try_recv(), rx.failed_lane()), (corrupt, Some(1)));
    assert_eq!((rx.try_recv(), rx.failed_lane()), (corrupt, Some(3)));
    assert_eq!(rx.try_recv().unwrap().value, 8);
    assert_eq!(rx.try_recv(), Err(RecvError::Empty));
    assert!(memory.try_producer::<u64>(3, &Peer::alive()).is_err());
}

#[test]
fn when_all_lanes_are_left_out_every_call_says_so() {
    let memory = Memory::new::<u64>(2, 4);
    let mut rx = memory.consumer::<u64>();
    for lane in 0..2 {
        memory.all.store64(memory.header(lane, 0), u64::MAX, Relaxed);
    }
    let corrupt = Err(RecvError::Corrupt(Corruption::Stamp));
    let bell = rx.doorbell_to_pass().unwrap();
    for _ in 0..5 {
        assert_eq!(rx.try_recv(), corrupt);
        assert_eq!(bell.arm(&mut rx).unwrap(), Armed::Ready);
        assert_eq!(rx.recv(), corrupt);
        assert_eq!(rx.recv_batch(&mut Vec::new(), 4).err(), corrupt.err());
    }
}

#[test]
fn a_bad_value_is_an_error_of_its_lane_and_the_next_message_follows() {
    let memory = Memory::new::<bool>(2, 8);
    let mut producers = [0, 1].map(|lane| memory.producer::<u8>(lane));
    let mut rx = memory.consumer::<bool>();
    producers[1].push_all(&[1, 9, 0]).unwrap();
    let bad = |position| RecvError::InvalidValue { position };
    assert_eq!(rx.try_recv().unwrap(), FromLane { lane: 1, position: 0, value: true });
    assert_eq!((rx.peek(), rx.failed_lane()), (Err(bad(1)), Some(1)));
    assert_eq!((rx.try_recv(), rx.failed_lane()), (Err(bad(1)), Some(1)));
    assert!(!rx.try_recv().unwrap().value);
    // In the middle of a batch it is the next call's answer, in the first place its own.
    producers[0].push_all(&[1, 1, 1]).unwrap();
    assert_eq!(rx.try_recv().unwrap().lane, 0);
    producers[1].push_all(&[7, 1]).unwrap();
    let mut batch = Vec::new();
    assert_eq!(rx.recv_batch(&mut batch, 9), Ok(2));
    assert_eq!((rx.recv_batch(&mut batch, 9), rx.failed_lane()), (Err(bad(3)), Some(1)));
    assert_eq!(rx.recv_batch(&mut batch, 9), Ok(1));
    assert_eq!((rx.recv_batch(&mut batch, 9), rx.lag()), (Err(RecvError::Empty), 0));
    assert_eq!(rx.recv_batch(&mut batch, 0), Ok(0));
}

#[test]
fn a_peeked_message_is_the_one_that_is_skipped_even_if_it_is_taken_back() {
    let memory = Memory::new::<u64>(2, 4);
    let mut producers = [0, 1].map(|lane| memory.producer::<u64>(lane));
    let mut rx = memory.consumer::<u64>();
    producers[0].push(3).unwrap();
    producers[1].push_all(&[4, 5]).unwrap();
    let first = rx.peek().unwrap();
    assert_eq!((rx.peek(), rx.position()), (Ok(first), 0));
    drop(rx);
    let mut rx = memory.consumer::<u64>();
    let first = rx.peek().unwrap();
    rx.skip().unwrap();
    assert_eq!(rx.position_of(first.lane), Some(1));
    rx.skip().unwrap();
    rx.skip().unwrap();
    assert_eq!((rx.position(), rx.skip()), (3, Err(RecvError::Empty)));
    // The liar's message goes, and not that of the other lane.
    producers[1].push(6).unwrap();
    assert_eq!(rx.peek().unwrap().lane, 1);
    memory.all.store64(memory.header(1, 0), header_word(0, 2), Relaxed);
    producers[0].push(7).unwrap();
    rx.skip().unwrap();
    assert_eq!((rx.position_of(0), rx.position_of(1)), (Some(1), Some(3)));
    assert_eq!(rx.failed_lane(), None);
}

#[test]
fn a_reader_of_a_smaller_type_reads_the_front_of_each_message() {
    let memory = Memory::new::<Triple>(2, 3);
    let ring = SlotGeometry::with_stride(8, 24, 3).unwrap();
    let front = Memory { all: memory.all.clone(), geometry: LanesGeometry::new(2, ring).unwrap() };
    let mut rx = front.consumer::<u64>();
    let mut producers = [0, 1].map(|lane| memory.producer::<Triple>(lane));
    for n in 0..20 {
        let lane = n as u32 % 2;
        producers[lane as usize].push(triple(lane, n)).unwrap();
        assert_eq!(rx.recv().unwrap().value, triple(lane, n)[0]);
    }
}

#[test]
fn an_attach_to_impossible_memory_is_a_typed_error() {
    let memory = Memory::new::<u64>(2, 4);
    let peer = Peer::alive();
    assert!(memory.try_consumer::<u32>(&peer).is_err());
    assert!(memory.try_producer::<u32>(0, &peer).is_err());
    let outside = memory.try_producer::<u64>(2, &peer);
    assert_eq!(outside.err(), Some(AttachError::Geometry));
    let sealed = memory.of(View::heap_read_only(memory.all.len()));
    assert_eq!(sealed.try_consumer::<u64>(&peer).err(), Some(AttachError::ReadOnly));
    assert_eq!(sealed.try_producer::<u64>(0, &peer).err(), Some(AttachError::ReadOnly));
    let mut parts = memory.parts(&peer);
    parts.payload = parts.payload.window(0, parts.payload.len() - 8).unwrap();
    let short = LanesConsumer::<u64>::attach(parts, memory.geometry);
    assert_eq!(short.err(), Some(AttachError::Geometry));
}

#[test]
fn whoever_only_peeks_hears_that_no_producer_lives() {
    let memory = Memory::new::<u64>(3, 2);
    let peer = Peer::alive();
    let mut rx = memory.try_consumer::<u64>(&peer).unwrap();
    let mut tx = memory.try_producer::<u64>(1, &peer).unwrap();
    peer.becomes(PeerState::Dead);
    tx.push_all(&[1, 2]).unwrap();
    for value in [1, 2] {
        assert_eq!(rx.peek().unwrap().value, value);
        rx.skip().unwrap();
    }
    let start = std::time::Instant::now();
    let told = loop {
        match rx.peek() {
            Err(RecvError::Empty) => assert!(start.elapsed() < Duration::from_secs(5)),
            other => break other,
        }
    };
    assert_eq!(told, Err(RecvError::PeerDied));
}

#[test]
fn waits_end_in_every_mode_when_no_producer_lives_and_after_what_was_sent() {
    let memory = Memory::new::<u64>(3, 2);
    let peer = Peer::alive();
    let mut rx = memory.try_consumer::<u64>(&peer).unwrap();
    let mut tx = memory.try_producer::<u64>(1, &peer).unwrap();
    for (state, end, told) in [
        (PeerState::Dead, RecvError::PeerDied, SendError::PeerDied),
        (PeerState::Closed, RecvError::Closed, SendError::Closed),
    ] {
        peer.becomes(state);
        for mode in [WaitMode::Spin, WaitMode::Yield, WaitMode::Adaptive, WaitMode::Block] {
            rx.wait_mode(mode);
            tx.wait_mode(mode);
            tx.push_all(&[1, 2]).unwrap();
            assert_eq!(tx.push(3), Err(told));
            assert_eq!((rx.recv().unwrap().value, rx.recv().unwrap().value), (1, 2));
            assert_eq!(rx.recv(), Err(end));
            assert_eq!(rx.recv_some(&mut Vec::new(), 3), Err(end));
        }
    }
    rx.outlive_peer(true);
    let soon = Duration::from_millis(2);
    assert_eq!(rx.recv_timeout(soon), Err(RecvError::TimedOut));
    assert_eq!(rx.recv_deadline(Instant::now()), Err(RecvError::TimedOut));
    let stop = rx.canceller();
    stop.cancel();
    assert_eq!(rx.recv(), Err(RecvError::Cancelled));
    stop.reset();
    peer.superseded.store(true, Relaxed);
    assert_eq!(rx.recv(), Err(RecvError::Superseded));
    peer.epoch.fetch_add(2, Relaxed);
    assert_eq!(rx.peer_changed().map(|change| change.new_epoch - change.old_epoch), Some(2));
    assert_eq!(rx.peer(), PeerState::Closed);
    peer.forks.fetch_add(1, Relaxed);
    assert_eq!((rx.try_recv(), rx.skip()), (Err(RecvError::Forked), Err(RecvError::Forked)));
    assert_eq!(tx.push(4), Err(SendError::Forked));
}

#[test]
fn a_consumer_that_leaves_wakes_the_producers_of_all_lanes() {
    let memory = Memory::new::<u64>(4, 1);
    let mut producers: Vec<_> = (0..4).map(|lane| memory.producer::<u64>(lane)).collect();
    let rx = memory.consumer::<u64>();
    let mut bells = Vec::new();
    for tx in &mut producers {
        tx.push(1).unwrap();
        let bell = tx.doorbell_to_pass().unwrap();
        assert!(matches!(bell.arm(tx), Ok(Armed::Poll { .. })));
        bells.push(bell);
    }
    drop(rx);
    for lane in 0..4 {
        assert_eq!(memory.all.word32(lane_at(lane) + PRODUCER_SLEEP).load(Relaxed), 0);
    }
}

#[test]
fn any_value_of_the_sleep_words_costs_a_call_at_most() {
    let memory = Memory::new::<u64>(2, 4);
    let (mut rx, mut tx) = (memory.consumer::<u64>(), memory.producer::<u64>(1));
    for value in [1, 2, 3, 0x8000_0000, u32::MAX] {
        for word in [CONSUMER_SLEEP, PRODUCERS_SLEEP, lane_at(1) + PRODUCER_SLEEP] {
            memory.all.word32(word).store(value, Relaxed);
        }
        tx.push(7).unwrap();
        assert_eq!(rx.recv().unwrap().value, 7);
        assert_eq!(memory.all.word32(CONSUMER_SLEEP).load(Relaxed), 0);
        assert_eq!(memory.all.word32(lane_at(1) + PRODUCER_SLEEP).load(Relaxed), 0);
    }
    assert_eq!((tx.stats().wakes, rx.stats().wakes), (5, 5));
}

#[test]
fn threads_send_and_one_receives_in_every_mode() {
    for mode in [WaitMode::Spin, WaitMode::Yield, WaitMode::Adaptive, WaitMode::Block] {
        for capacity in [1, 64] {
            let count = if mode == WaitMode::Block { 300 } else { 3000 };
            let memory = Memory::new::<Triple>(4, capacity);
            let mut rx = memory.consumer::<Triple>();
            rx.wait_mode(mode);
            std::thread::scope(|scope| {
                for lane in [0, 1, 3] {
                    let mut tx = memory.producer::<Triple>(lane);
                    tx.wait_mode(mode);
                    scope.spawn(move || {
                        for n in 0..count {
                            tx.push_timeout(triple(lane, n), PATIENCE).unwrap();
                        }
                        std::mem::forget(tx); // its fake claim has no peer to tell
                    });
                }
                let mut next = [0; 4];
                for _ in 0..3 * count {
                    let message = rx.recv_timeout(PATIENCE).unwrap();
                    let number = &mut next[message.lane as usize];
                    assert_eq!(message.value, triple(message.lane, *number), "{mode:?}");
                    *number += 1;
                }
            });
            assert_eq!(rx.try_recv(), Err(RecvError::Empty));
        }
    }
}

/// A producer that stores what might be true, or nearly, before each load of the consumer's.
#[test]
fn a_liar_in_one_lane_between_any_two_loads_costs_that_lane_and_nothing_else() {
    let (mut corrupt, mut passed) = (0, 0);
    for seed in 1..3000_u64 {
        let capacity = [1, 4, 7, 10][seed as usize % 4];
        let memory = Memory::new::<u64>(3, capacity);
        let mut honest = [0, 2].map(|lane| memory.producer::<u64>(lane));
        let mut rx = memory.consumer::<u64>();
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut draw = move |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) % below
        };
        let (lied, blocks) = (memory.all.clone(), memory.geometry.ring().blocks());
        let headers: Vec<usize> =
            (0..blocks).map(|block| memory.header(1, block as usize)).collect();
        let meddler = move || {
            if draw(4) == 0 {
                let word =
                    if draw(9) == 0 { draw(u64::MAX) } else { header_word(draw(3), draw(9)) };
                lied.store64(headers[draw(blocks) as usize], word, Relaxed);
            }
            if draw(20) == 0 {
                lied.store64(lane_at(1) + RELEASED, draw(30), Relaxed);
                lied.word32(CONSUMER_SLEEP).store(draw(4) as u32, Relaxed);
                lied.word32(lane_at(1) + PRODUCER_SLEEP).store(draw(4) as u32, Relaxed);
            }
        };
        crate::view::steps::meddle(meddler, || {
            let (mut sent, mut next) = ([0_u64; 2], [0_u64; 2]);
            let mut batch = Vec::new();
            for n in 0..40 {
                for (who, tx) in honest.iter_mut().enumerate() {
                    if tx.try_push(sent[who]).is_ok() {
                        sent[who] += 1;
                    }
                }
                let answer = match n % 5 {
                    0 => rx.recv_batch(&mut batch, 5).map(drop),
                    1 => rx.peek().map(drop),
                    2 => rx.recv_timeout(Duration::ZERO).map(|message| batch.push(message)),
                    _ => rx.try_recv().map(|message| batch.push(message)),
                };
                for message in batch.drain(..).filter(|message| message.lane != 1) {
                    let next = &mut next[message.lane as usize / 2];
                    assert_eq!((message.value, message.position), (*next, *next));
                    *next += 1;
                    passed += 1;
                }
                match answer {
                    Err(RecvError::Corrupt(_)) => {
                        assert_eq!(rx.failed_lane(), Some(1));
                        corrupt += 1;
                    }
                    Ok(()) | Err(RecvError::Empty | RecvError::TimedOut) => {}
                    Err(error) => panic!("{error}"),
                }
                _ = (rx.lag(), rx.position());
            }
            for _ in 0..200 {
                if let Ok(message) = rx.try_recv()
                    && message.lane != 1
                {
                    assert_eq!(message.value, next[message.lane as usize / 2]);
                    next[message.lane as usize / 2] += 1;
                }
            }
            assert_eq!(next, sent, "a lane of an honest producer stands still");
        });
    }
    assert!(corrupt > 1000 && passed > 10_000, "{corrupt} {passed}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Any order of calls and of successors: each lane is a bounded queue.
    #[test]
    fn each_lane_behaves_like_a_bounded_queue(
        capacity in prop::sample::select(vec![1_u64, 2, 5, 40]),
        steps in prop::collection::vec((0..10_u8, 0..3_u32, 1..70_usize), 1..150),
    ) {
        let memory = Memory::new::<Triple>(3, capacity);
        let mut producers: Vec<_> = (0..3).map(|lane| memory.producer::<Triple>(lane)).collect();
        let mut rx = memory.consumer::<Triple>();
        let (mut queues, mut next) = (vec![VecDeque::new(); 3], [0_u64; 3]);
        let mut since = [0_u32; 3];
        for (step, lane, size) in steps {
            let (tx, queue) = (&mut producers[lane as usize], &mut queues[lane as usize]);
            let number = &mut next[lane as usize];
            let mut got = Vec::new();
            match step {
                0..=2 => {
                    let done = tx.try_push(triple(lane, *number));
                    prop_assert_eq!(done.is_ok(), (queue.len() as u64) < capacity);
                    if done.is_ok() {
                        queue.push_back(*number);
                        *number += 1;
                    }
                }
                3 => {
                    let batch: Vec<_> =
                        (0..size as u64).map(|n| triple(lane, *number + n)).collect();
                    let count = size.min(capacity as usize - queue.len());
                    let expected = if count > 0 { Ok(count) } else { Err(SendError::Full) };
                    prop_assert_eq!(tx.push_batch(&batch), expected);
                    queue.extend(*number..*number + count as u64);
                    *number += count as u64;
                }
                4 | 5 => got.extend(rx.try_recv()),
                6 => {
                    let waiting = queues.iter().map(VecDeque::len).sum::<usize>();
                    let count = rx.recv_batch(&mut got, size).unwrap_or(0);
                    prop_assert_eq!(count, size.min(waiting));
                }
                7 => if let Ok(message) = rx.peek() {
                    rx.skip().unwrap();
                    got.push(message);
                },
                8 => *tx = memory.producer(lane),
                _ => {
                    rx = memory.consumer();
                    since = [0; 3];
                }
            }
            for message in got {
                let number = queues[message.lane as usize].pop_front();
                prop_assert_eq!(Some(message.value), number.map(|n| triple(message.lane, n)));
                prop_assert_eq!(Some(message.position), number);
                for lane in 0..3 {
                    let waits = lane != message.lane as usize && !queues[lane].is_empty();
                    since[lane] = if waits { since[lane] + 1 } else { 0 };
                    // Its turn comes behind one turn of each other lane.
                    prop_assert!(since[lane] <= 2 * BURST + 1, "lane {} starves", lane);
                }
            }
        }
        for (lane, queue) in queues.iter().enumerate() {
            prop_assert_eq!(rx.lag_of(lane as u32), Some(queue.len() as u64));
        }
    }

    /// Any process that stores anything anywhere between any two calls.
    #[test]
    fn forged_words_give_values_or_errors_and_never_panic_or_hang(
        capacity in 1..5_u64,
        lies in prop::collection::vec((any::<usize>(), prop_oneof![0..40_u64, any::<u64>()]), 1..50),
    ) {
        let memory = Memory::new::<bool>(3, capacity);
        let peer = Peer::alive();
        let mut producers: Vec<_> = (0..3).map(|lane| memory.producer::<u8>(lane)).collect();
        let mut rx = memory.consumer::<bool>();
        let mut batch = Vec::new();
        for (index, (word, lie)) in lies.into_iter().enumerate() {
            memory.all.store64(word % (memory.all.len() / 8) * 8, lie, Relaxed);
            for (lane, tx) in producers.iter_mut().enumerate() {
                _ = (tx.try_push(index as u8 % 3), tx.push_batch(&[1, 0, 5]), tx.len());
                if index % 7 == lane && let Ok(fresh) = memory.try_producer(lane as u32, &peer) {
                    *tx = fresh;
                }
            }
            _ = (rx.try_recv(), rx.recv_batch(&mut batch, 3), rx.recv_timeout(Duration::ZERO));
            _ = (rx.peek(), rx.skip(), rx.lag(), rx.position(), rx.failed_lane());
            if index % 8 == 7 {
                // No lie in a lane keeps a consumer away.
                rx = memory.try_consumer(&peer).unwrap();
            }
        }
    }
}

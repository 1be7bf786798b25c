//! The promises of broadcast rings: nothing torn, gaps counted exactly, nobody in the way.

use super::attend::{Claimed, Unseen};
use super::layout::{CONSUMERS_MAX, Keeping, MARK_LEN, MARKS, SWEPT, words_len};
use super::open::{produce, produce_records};
use super::records::BroadcastRecordReceiver;
use super::typed::RawBroadcastReceiver;
use super::{Join, ReceiverParts};
use crate::peer::PeerState;
use crate::ring::endpoint::Parts;
use crate::ring::error::{AttachError, Corruption, RecvError, SendError};
use crate::ring::position::{RecordGeometry, SlotGeometry};
use crate::ring::record::RecordProducer;
use crate::ring::slots::RawProducer;
use crate::ring::testing::{Peer, crashes};
use crate::stats::{LINE_LEN, StatsWriter};
use crate::view::{View, steps};
use crate::wait::{Link, PeerAt, WaitMode};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long a stream may stand still before its test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who has which place, as the kernel would say.
#[derive(Default)]
struct Places(Mutex<Vec<PeerAt>>);

impl Places {
    fn new() -> Arc<Self> {
        Arc::default()
    }

    fn claim(&self, slot: u32) -> u64 {
        let mut places = self.0.lock().unwrap();
        while places.len() <= slot as usize {
            let (state, epoch, pid) = (PeerState::Never, 0, 0);
            places.push(PeerAt { state, epoch, pid, label: String::new() });
        }
        let place = &mut places[slot as usize];
        place.state = PeerState::Alive;
        place.epoch += 1;
        place.pid = 100 + slot;
        place.label = format!("consumer {slot}");
        place.epoch
    }

    fn becomes(&self, slot: u32, state: PeerState) {
        self.0.lock().unwrap()[slot as usize].state = state;
    }
}

/// A link to whom the test says, with places on the other side.
struct Fake {
    peer: Arc<Peer>,
    places: Arc<Places>,
    epoch: u64,
}

impl Link for Fake {
    fn peer_state(&self) -> PeerState {
        *self.peer.state.lock().unwrap()
    }
    fn peer_epoch(&self) -> u64 {
        self.peer.epoch.load(Relaxed)
    }
    fn own_epoch(&self) -> u64 {
        self.epoch
    }
    fn peer_at(&self, slot: u32) -> Option<PeerAt> {
        self.places.0.lock().unwrap().get(slot as usize).cloned()
    }
    fn superseded(&self) -> bool {
        false
    }
    fn forks(&self) -> &'static AtomicU64 {
        self.peer.forks
    }
}

/// A ring in heap memory.
#[derive(Clone)]
struct Ring<G> {
    memory: View,
    words: usize,
    keeping: Keeping,
    geometry: G,
    peer: Arc<Peer>,
    places: Arc<Places>,
}

impl<G: Copy> Ring<G> {
    fn new(words: usize, payload: usize, keeping: Keeping, geometry: G) -> Self {
        let words = words.next_multiple_of(4096);
        let memory = View::heap(words + payload);
        Self { memory, words, keeping, geometry, peer: Peer::alive(), places: Places::new() }
    }

    /// The same ring, of which `memory` is a copy.
    fn left(&self, memory: View) -> Self {
        Self { memory, ..self.clone() }
    }

    fn control(&self) -> View {
        self.memory.window(0, self.words).unwrap()
    }

    fn payload(&self) -> View {
        self.memory.window(self.words, self.memory.len() - self.words).unwrap()
    }

    fn link(&self, epoch: u64) -> Box<dyn Link> {
        let (peer, places) = (Arc::clone(&self.peer), Arc::clone(&self.places));
        Box::new(Fake { peer, places, epoch })
    }

    fn parts(&self) -> Parts {
        let (control, payload) = (self.control(), self.payload());
        Parts { control, payload, stats: stats(), link: self.link(1) }
    }

    fn receiving(&self, slot: Option<u32>) -> ReceiverParts {
        let epoch = slot.map_or(0, |slot| self.places.claim(slot));
        let (control, payload) = (self.control(), self.payload());
        ReceiverParts { control, payload, link: self.link(epoch) }
    }
}

fn stats() -> StatsWriter {
    StatsWriter::attach(View::heap(LINE_LEN)).unwrap()
}

type Slots = Ring<SlotGeometry>;
type Records = Ring<RecordGeometry>;

fn slots(size: usize, capacity: u64, consumers: u32, lossless: bool) -> Slots {
    let (keeping, geometry) = Keeping::of_slots(size, capacity, consumers, lossless).unwrap();
    Ring::new(words_len(consumers), geometry.bytes(), keeping, geometry)
}

fn records(bytes: u64, consumers: u32, lossless: bool) -> Records {
    let bytes = Keeping::records_capacity(bytes, 8).unwrap();
    let (keeping, geometry) = Keeping::of_records(bytes, 8, 0, consumers, lossless).unwrap();
    let words = words_len(consumers) + MARKS as usize * MARK_LEN;
    Ring::new(words, geometry.capacity() as usize, keeping, geometry)
}

impl Slots {
    fn producer(&self) -> RawProducer {
        produce(self.parts(), self.keeping, self.geometry).unwrap()
    }

    fn try_consumer(
        &self,
        slot: u32,
        join: Join,
    ) -> Result<RawBroadcastReceiver<Claimed>, AttachError> {
        let parts = self.receiving(Some(slot));
        RawBroadcastReceiver::claim(parts, stats(), slot, self.geometry, self.keeping, join)
    }

    fn consumer(&self, slot: u32, join: Join) -> RawBroadcastReceiver<Claimed> {
        self.try_consumer(slot, join).unwrap()
    }

    fn observer(&self, join: Join) -> RawBroadcastReceiver<Unseen> {
        RawBroadcastReceiver::observe(self.receiving(None), self.geometry, self.keeping, join)
            .unwrap()
    }
}

impl Records {
    fn producer(&self) -> RecordProducer {
        produce_records(self.parts(), self.keeping, self.geometry).unwrap()
    }

    fn try_consumer(
        &self,
        slot: u32,
        join: Join,
    ) -> Result<BroadcastRecordReceiver<Claimed>, AttachError> {
        let parts = self.receiving(Some(slot));
        BroadcastRecordReceiver::claim(parts, stats(), slot, self.geometry, self.keeping, join)
    }

    fn consumer(&self, slot: u32, join: Join) -> BroadcastRecordReceiver<Claimed> {
        self.try_consumer(slot, join).unwrap()
    }

    fn observer(&self, join: Join) -> BroadcastRecordReceiver<Unseen> {
        BroadcastRecordReceiver::observe(self.receiving(None), self.geometry, self.keeping, join)
            .unwrap()
    }
}

/// Message number `n`, which no other can be mistaken for, nor a mixture.
fn message(n: u64, len: usize) -> Vec<u8> {
    let mut seed = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..len)
        .map(|_| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed as u8
        })
        .collect()
}

/// The length of record number `n`.
fn length(n: u64, max: usize) -> usize {
    (n.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as usize % (max + 1)
}

/// What somebody received, checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    received: u64,
    missed: u64,
}

/// One more message or gap of a typed ring; false when there is nothing.
fn one<W: super::attend::Attend>(rx: &mut RawBroadcastReceiver<W>, seen: &mut Seen) -> bool {
    let (mut bytes, position) = (vec![0; rx.size()], rx.position());
    match rx.try_recv(&mut bytes) {
        Ok(()) => {
            assert_eq!(bytes, message(position, bytes.len()), "at {position}");
            assert_eq!(rx.position(), position + 1);
            seen.received += 1;
        }
        Err(RecvError::Gap { missed }) => {
            assert!(missed > 0);
            assert_eq!(rx.position(), position + missed);
            seen.missed += missed;
        }
        Err(RecvError::Empty) => return false,
        Err(error) => panic!("at {position}: {error}"),
    }
    true
}

/// The same for a ring of records.
fn one_record<W: super::attend::Attend>(
    rx: &mut BroadcastRecordReceiver<W>,
    seen: &mut Seen,
) -> bool {
    let (mut bytes, position) = (Vec::new(), rx.position());
    let max = rx.len_max();
    match rx.try_recv(&mut bytes) {
        Ok(()) => {
            assert_eq!(bytes, message(position, length(position, max)), "at {position}");
            assert_eq!(rx.position(), position + 1);
            seen.received += 1;
        }
        Err(RecvError::Gap { missed }) => {
            assert!(missed > 0);
            assert_eq!(rx.position(), position + missed);
            seen.missed += missed;
        }
        Err(RecvError::Empty) => return false,
        Err(error) => panic!("at {position}: {error}"),
    }
    true
}

fn send(tx: &mut RawProducer) -> Result<(), SendError> {
    let bytes = message(tx.position(), tx.size());
    tx.try_push(&bytes)
}

fn send_record(tx: &mut RecordProducer, n: u64) -> Result<(), SendError> {
    tx.try_push(&message(n, length(n, tx.len_max())))
}

#[test]
fn everybody_receives_everything_or_is_told_how_much_it_missed() {
    for size in [0, 1, 8, 24, 56, 64, 100, 512, 1000] {
        for capacity in [1, 2, 3, 7, 8, 20, 64] {
            let ring = slots(size, capacity, 2, false);
            let mut tx = ring.producer();
            let (mut keeps_up, mut lags) =
                (ring.consumer(0, Join::Newest), ring.consumer(1, Join::Newest));
            let mut unseen = ring.observer(Join::Oldest);
            let mut seen = [Seen::default(); 3];
            for n in 0..600 {
                send(&mut tx).unwrap();
                assert!(one(&mut keeps_up, &mut seen[0]));
                if n % 3 == 0 {
                    one(&mut lags, &mut seen[1]);
                }
                if n % 100 == 99 {
                    while one(&mut unseen, &mut seen[2]) {}
                }
            }
            while one(&mut lags, &mut seen[1]) {}
            assert_eq!(seen[0], Seen { received: 600, missed: 0 });
            for seen in seen {
                assert_eq!(seen.received + seen.missed, 600, "{size} {capacity} {seen:?}");
            }
            assert!(seen[2].received >= capacity.min(100) * 6 && seen[2].missed < 600);
            let stats = lags.stats();
            assert_eq!((stats.messages, stats.gaps), (seen[1].received, seen[1].missed));
            assert_eq!(tx.position(), 600);
        }
    }
}

#[test]
fn records_of_any_length_are_received_whole_or_counted_as_missed() {
    for bytes in [256, 1024, 4096, 70_000] {
        let ring = records(bytes, 2, false);
        let mut tx = ring.producer();
        let (mut keeps_up, mut lags) =
            (ring.consumer(0, Join::Newest), ring.consumer(1, Join::Oldest));
        let mut unseen = ring.observer(Join::Oldest);
        let mut seen = [Seen::default(); 3];
        for n in 0..3000 {
            send_record(&mut tx, n).unwrap();
            assert!(one_record(&mut keeps_up, &mut seen[0]));
            if n % 3 == 0 {
                one_record(&mut lags, &mut seen[1]);
            }
            if n % 200 == 199 {
                while one_record(&mut unseen, &mut seen[2]) {}
            }
        }
        while one_record(&mut lags, &mut seen[1]) {}
        assert_eq!(seen[0], Seen { received: 3000, missed: 0 });
        for seen in seen {
            assert_eq!(seen.received + seen.missed, 3000, "{bytes} {seen:?}");
            assert!(seen.received > 30);
        }
        let stats = lags.stats();
        assert_eq!((stats.messages, stats.gaps), (seen[1].received, seen[1].missed));
    }
}

#[test]
fn at_least_the_promised_number_of_messages_is_kept_at_any_time() {
    for size in [8, 24, 64, 100] {
        for capacity in [1, 2, 7, 8, 9, 50, 200] {
            let ring = slots(size, capacity, 1, false);
            let mut tx = ring.producer();
            for n in 1..=500 {
                send(&mut tx).unwrap();
                let mut rx = ring.observer(Join::Oldest);
                assert!(n - rx.position() >= capacity.min(n), "{size} {capacity} {n}");
                let mut seen = Seen::default();
                while one(&mut rx, &mut seen) {}
                assert_eq!((seen.missed, rx.position()), (0, n));
            }
        }
    }
}

#[test]
fn most_of_a_ring_of_records_is_kept_at_any_time() {
    for bytes in [512, 4096] {
        let ring = records(bytes, 1, false);
        let mut tx = ring.producer();
        let mut sent = std::collections::VecDeque::new();
        for n in 0..2000 {
            send_record(&mut tx, n).unwrap();
            sent.push_back(tx.position());
            let mut rx = ring.observer(Join::Oldest);
            let oldest = rx.position() as usize;
            let begin = if oldest == 0 { 0 } else { sent[oldest - 1] };
            // What the next record takes, twice (it may skip the ring's end), and two sections.
            let spare = ring.keeping.need_max + 2 * ring.keeping.section;
            assert!(oldest == 0 || tx.position() - begin >= ring.keeping.total - spare);
            let mut seen = Seen::default();
            while one_record(&mut rx, &mut seen) {}
            assert_eq!((seen.missed, rx.position()), (0, n + 1));
        }
    }
}

#[test]
fn consumers_join_at_the_oldest_the_newest_or_a_position() {
    let ring = slots(24, 20, 4, false);
    let mut tx = ring.producer();
    for _ in 0..100 {
        send(&mut tx).unwrap();
    }
    let oldest = ring.keeping.oldest(ring.control().load64(SWEPT, Relaxed));
    assert!(oldest > 60 && oldest <= 80);
    assert_eq!(ring.consumer(0, Join::Oldest).position(), oldest);
    assert_eq!(ring.consumer(0, Join::Newest).position(), 100);
    let mut at = ring.consumer(0, Join::At(90));
    assert_eq!((at.position(), at.lag()), (90, 10));
    let mut seen = Seen::default();
    while one(&mut at, &mut seen) {}
    assert_eq!(seen, Seen { received: 10, missed: 0 });
    let ahead = ring.try_consumer(1, Join::At(101)).err();
    assert_eq!(ahead, Some(AttachError::Ahead { asked: 101, newest: 100 }));
    let mut gone = ring.observer(Join::At(3));
    assert_eq!(gone.position(), 3);
    let mut seen = Seen::default();
    assert!(one(&mut gone, &mut seen));
    assert_eq!(seen, Seen { received: 0, missed: oldest - 3 });
    while one(&mut gone, &mut seen) {}
    assert_eq!(seen.received, 100 - oldest);
}

#[test]
fn a_consumer_of_a_lossless_ring_is_told_what_was_overwritten_before_it_came() {
    for size in [1, 8, 56, 500] {
        let ring = slots(size, 20, 4, true);
        let mut tx = ring.producer();
        for sent in 0..100 {
            for asked in [0, sent / 2, sent] {
                let mut rx = ring.consumer(0, Join::At(asked));
                assert_eq!((rx.position(), rx.lag()), (asked, sent - asked));
                let before = rx.stats();
                let mut seen = Seen::default();
                while one(&mut rx, &mut seen) {}
                assert_eq!(seen.received + seen.missed, sent - asked);
                assert_eq!(rx.stats().gaps - before.gaps, seen.missed);
                assert_eq!(rx.stats().messages - before.messages, seen.received);
            }
            send(&mut tx).unwrap();
        }
        // Who did not ask for a position has missed nothing.
        for join in [Join::Oldest, Join::Newest] {
            let mut rx = ring.consumer(0, join);
            let mut seen = Seen::default();
            while one(&mut rx, &mut seen) {}
            assert_eq!((seen.missed, rx.position()), (0, 100));
        }
    }
    let ring = records(2048, 4, true);
    let mut tx = ring.producer();
    for sent in 0..400 {
        for asked in [0, sent / 2, sent] {
            let mut rx = ring.consumer(0, Join::At(asked));
            let mut seen = Seen::default();
            while one_record(&mut rx, &mut seen) {}
            assert_eq!(seen.received + seen.missed, sent - asked);
        }
        send_record(&mut tx, sent).unwrap();
    }
}

#[test]
fn consumers_of_records_join_by_the_number_of_a_record() {
    let ring = records(2048, 4, false);
    let mut tx = ring.producer();
    for sent in 0..400 {
        let newest = ring.observer(Join::Newest);
        assert_eq!((newest.position(), newest.lag()), (sent, 0));
        let oldest = ring.observer(Join::Oldest).position();
        for asked in [0, sent / 2, oldest, (oldest + sent) / 2, sent] {
            let mut rx = ring.consumer(0, Join::At(asked));
            assert_eq!(rx.position(), asked);
            let mut seen = Seen::default();
            while one_record(&mut rx, &mut seen) {}
            assert_eq!(seen.received + seen.missed, sent - asked);
            assert!(asked < oldest || seen.missed == 0, "{asked} {oldest} {seen:?}");
        }
        let ahead = ring.try_consumer(1, Join::At(sent + 1)).err();
        assert_eq!(ahead, Some(AttachError::Ahead { asked: sent + 1, newest: sent }));
        send_record(&mut tx, sent).unwrap();
    }
}

#[test]
fn a_lossless_ring_waits_for_those_who_are_required_and_names_them() {
    let ring = slots(8, 10, 4, true);
    let mut tx = ring.producer();
    let mut slow = ring.consumer(2, Join::Newest);
    let mut fast = ring.consumer(0, Join::Newest);
    let mut unseen = ring.observer(Join::Newest);
    let (mut all, mut seen) = (Seen::default(), Seen::default());
    let mut sent = 0;
    while send(&mut tx).is_ok() {
        assert!(one(&mut fast, &mut all));
        sent += 1;
    }
    assert!(sent >= 10, "{sent}");
    let laggard = tx.slowest().expect("somebody");
    assert_eq!((laggard.slot, laggard.pid, laggard.lag), (2, 102, sent));
    assert_eq!((laggard.label.as_str(), laggard.state), ("consumer 2", PeerState::Alive));
    assert_eq!(tx.len(), sent);
    for _ in 0..200 {
        assert!(one(&mut slow, &mut seen));
        while send(&mut tx).is_ok() {
            assert!(one(&mut fast, &mut all));
        }
    }
    assert_eq!((seen.missed, all.missed), (0, 0));
    // One that may be overtaken holds up nobody, and is told.
    let mut slow = super::typed::BroadcastReceiver::<u64, Claimed>::new(slow);
    slow.required(false).unwrap();
    for _ in 0..100 {
        send(&mut tx).unwrap();
        assert!(one(&mut fast, &mut all));
    }
    assert!(matches!(slow.required(true), Err(RecvError::Gap { missed: 1.. })));
    let mut room = 0;
    while send(&mut tx).is_ok() {
        room += 1;
        assert!(one(&mut fast, &mut all));
    }
    assert!(room <= 40);
    drop(slow);
    send(&mut tx).unwrap();
    while one(&mut unseen, &mut Seen::default()) {}
}

#[test]
fn a_dead_consumer_is_waited_for_no_longer_and_its_successor_is() {
    let ring = slots(8, 10, 2, true);
    let mut tx = ring.producer();
    let dead = ring.consumer(1, Join::Newest);
    std::mem::forget(dead);
    while send(&mut tx).is_ok() {}
    std::thread::sleep(Duration::from_millis(60));
    assert_eq!(send(&mut tx), Err(SendError::Full));
    ring.places.becomes(1, PeerState::Dead);
    std::thread::sleep(Duration::from_millis(60));
    for _ in 0..50 {
        send(&mut tx).unwrap();
    }
    let mut next = ring.consumer(1, Join::Oldest);
    let first = next.position();
    while send(&mut tx).is_ok() {}
    let mut seen = Seen::default();
    while one(&mut next, &mut seen) {}
    assert_eq!(seen, Seen { received: tx.position() - first, missed: 0 });
    // Claimed anew, and died before it wrote a word of its own.
    std::mem::forget(next);
    ring.places.claim(1);
    ring.places.becomes(1, PeerState::Dead);
    while send(&mut tx).is_ok() {}
    std::thread::sleep(Duration::from_millis(60));
    for _ in 0..50 {
        send(&mut tx).unwrap();
    }
}

#[test]
fn a_consumer_that_died_anywhere_in_a_block_is_waited_for_no_longer() {
    for size in [8, 24, 64, 100] {
        for received in 0..20 {
            let ring = slots(size, 20, 1, true);
            let mut tx = ring.producer();
            let mut dead = ring.consumer(0, Join::Newest);
            let mut seen = Seen::default();
            for _ in 0..received {
                send(&mut tx).unwrap();
                assert!(one(&mut dead, &mut seen));
            }
            std::mem::forget(dead);
            ring.places.becomes(0, PeerState::Dead);
            for _ in 0..100 {
                tx.push_timeout(&message(tx.position(), size), PATIENCE).unwrap();
            }
        }
    }
}

#[test]
fn records_of_a_lossless_ring_are_read_in_place_until_they_are_released() {
    let ring = records(4096, 2, true);
    let mut tx = ring.producer();
    let mut rx = ring.consumer(0, Join::Newest);
    // SAFETY: nobody else writes to this memory.
    #[expect(unsafe_code, reason = "the test is the peer")]
    unsafe {
        rx.trust_peer();
    }
    let (mut sent, mut received) = (0, 0);
    for _ in 0..500 {
        while send_record(&mut tx, sent).is_ok() {
            sent += 1;
        }
        assert_eq!(tx.slowest().map(|slowest| slowest.lag), Some(sent - received));
        let len_max = rx.len_max();
        let record = rx.try_read().unwrap();
        assert_eq!(record.as_slice().unwrap(), message(received, length(received, len_max)));
        record.release().unwrap();
        received += 1;
    }
    let mut unseen = ring.observer(Join::Oldest);
    assert!(unseen.try_read().unwrap().as_slice().is_none());
    rx.required(false).unwrap();
    assert!(rx.try_read().unwrap().as_slice().is_none());
    // SAFETY: as above.
    #[expect(unsafe_code, reason = "the test is the peer")]
    unsafe {
        rx.trust_peer();
    }
    assert!(rx.try_read().unwrap().as_slice().is_none(), "nobody keeps it");
    rx.required(true).unwrap();
    assert!(rx.try_read().unwrap().as_slice().is_some());
    // The producer's side is open to those who look on.
    while tx.try_push(&[1]).is_ok() {
        rx.recv(&mut Vec::new()).unwrap();
        if received > 600 {
            break;
        }
        received += 1;
    }
    // SAFETY: as above.
    #[expect(unsafe_code, reason = "the test is the peer")]
    unsafe {
        tx.trust_peer();
    }
    rx.required(false).unwrap();
    assert!(tx.try_reserve(8).unwrap().as_mut_slice().is_none());
}

#[test]
fn a_batch_is_received_whole_and_needs_no_more_than_the_ring() {
    let ring = slots(8, 100, 1, false);
    let mut tx = ring.producer();
    let mut rx = ring.consumer(0, Join::Newest);
    let mut seen = Seen::default();
    for round in 0..200 {
        let count = 1 + round % 100;
        let from = tx.position();
        tx.room_for(count).unwrap();
        let bytes: Vec<u8> = (0..count as u64).flat_map(|index| message(from + index, 8)).collect();
        assert_eq!(tx.push_batch(&bytes), Ok(count));
        while one(&mut rx, &mut seen) {}
    }
    assert_eq!(seen.missed, 0);
    assert_eq!(seen.received, tx.position());
    assert_eq!(tx.room_for(101), Err(SendError::TooLarge { len: 101, max: 100 }));
}

#[test]
fn who_is_overtaken_while_it_copies_is_told_so_and_gets_no_mixture() {
    // The producer goes on before each load of the receiver, so also between copy and look.
    for size in [8, 64, 200] {
        for burst in [1, 5, 13, 40] {
            let ring = slots(size, 16, 1, false);
            let tx = Rc::new(RefCell::new(ring.producer()));
            let mut rx = ring.consumer(0, Join::Newest);
            let mut seen = Seen::default();
            for _ in 0..60 {
                let tx = Rc::clone(&tx);
                let meddler = move || {
                    for _ in 0..burst {
                        send(&mut tx.borrow_mut()).unwrap();
                    }
                };
                steps::meddle(meddler, || one(&mut rx, &mut seen));
            }
            while one(&mut rx, &mut seen) {}
            assert_eq!(seen.received + seen.missed, tx.borrow().position());
            assert!(seen.received > 0);
        }
    }
    for burst in [1, 5, 40] {
        let ring = records(2048, 1, false);
        let tx = Rc::new(RefCell::new(ring.producer()));
        let sent = Rc::new(Cell::new(0));
        let mut rx = ring.consumer(0, Join::Newest);
        let mut seen = Seen::default();
        for _ in 0..100 / burst {
            let (tx, sent) = (Rc::clone(&tx), Rc::clone(&sent));
            let meddler = move || {
                for _ in 0..burst {
                    send_record(&mut tx.borrow_mut(), sent.get()).unwrap();
                    sent.set(sent.get() + 1);
                }
            };
            steps::meddle(meddler, || one_record(&mut rx, &mut seen));
        }
        while one_record(&mut rx, &mut seen) {}
        assert_eq!(seen.received + seen.missed, sent.get());
    }
}

#[test]
fn who_is_overtaken_by_a_batch_that_is_being_written_is_told_so() {
    for (size, capacity) in [(8, 20), (64, 9), (100, 5)] {
        let ring = slots(size, capacity, 1, false);
        let tx = RefCell::new(ring.producer());
        for round in 0..30 {
            let from = tx.borrow().position();
            let bytes: Vec<u8> =
                (from..from + capacity).flat_map(|number| message(number, size)).collect();
            // Receivers that come from far behind, one behind each store of the batch.
            let inner = ring.clone();
            let watcher = move || {
                for join in [from.saturating_sub(round), from.saturating_sub(3 * capacity)] {
                    let mut rx = inner.observer(Join::At(join));
                    let mut seen = Seen::default();
                    for _ in 0..4 {
                        one(&mut rx, &mut seen);
                    }
                    assert!(rx.position() <= from + capacity);
                }
            };
            let sent = steps::watch(watcher, || {
                let mut tx = tx.borrow_mut();
                tx.room_for(capacity as usize).unwrap();
                tx.push_batch(&bytes).unwrap()
            });
            assert_eq!(sent as u64, capacity);
        }
    }
}

/// A value below 1000 is no value.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(transparent)]
struct Large(u64);

// SAFETY: any bits of a `u64` may be read as `Bits`; those that pass the check are a `Large`.
#[expect(unsafe_code, reason = "a type with a check of its own")]
unsafe impl bytemuck::CheckedBitPattern for Large {
    type Bits = u64;

    fn is_valid_bit_pattern(bits: &u64) -> bool {
        *bits >= 1000
    }
}

#[test]
fn batches_hold_what_follows_and_nothing_that_was_overwritten() {
    for burst in [0, 1, 3, 11, 40] {
        let ring = slots(8, 24, 1, false);
        let tx = Rc::new(RefCell::new(ring.producer()));
        // Number 50 and those behind 90 are no values.
        let push = |tx: &mut RawProducer| {
            let number = tx.position();
            let value = if number == 50 || number > 90 { 7 } else { 1000 + number };
            tx.try_push(&value.to_ne_bytes()).unwrap();
        };
        let raw = ring.consumer(0, Join::Newest);
        let mut rx = super::typed::BroadcastReceiver::<Large, Claimed>::new(raw);
        let (mut received, mut missed, mut invalid) = (0, 0, 0);
        for max in (1..40).cycle().take(200) {
            push(&mut tx.borrow_mut());
            let (inner, left) = (Rc::clone(&tx), Cell::new(2));
            let meddler = move || {
                // Now and then in the middle, and not for ever.
                if left.get() > 0 {
                    left.set(left.get() - 1);
                    (0..burst).for_each(|_| push(&mut inner.borrow_mut()));
                }
            };
            let (mut batch, position) = (vec![Large(1)], rx.position());
            match steps::meddle(meddler, || rx.recv_batch(&mut batch, max)) {
                Ok(count) => {
                    assert!(count <= max && batch.len() == 1 + count);
                    for (index, value) in batch[1..].iter().enumerate() {
                        assert_eq!(value.0, 1000 + position + index as u64);
                    }
                    assert_eq!(rx.position(), position + count as u64);
                    received += count as u64;
                }
                Err(RecvError::Gap { missed: gap }) => missed += gap,
                Err(RecvError::InvalidValue { position: at }) => {
                    assert!(at == position && (at == 50 || at > 90));
                    invalid += 1;
                }
                Err(error) => panic!("{error}"),
            }
            if rx.position() > 89 {
                break;
            }
        }
        assert_eq!(received + missed + invalid, rx.position());
        assert!(if burst < 40 { received > 0 } else { missed > 0 });
    }
}

#[test]
fn a_producer_killed_anywhere_leaves_whole_messages_and_a_successor_goes_on() {
    for size in [8, 64, 100] {
        for capacity in [1, 3, 16] {
            let ring = slots(size, capacity, 1, false);
            let mut tx = ring.producer();
            for number in 0..60 {
                let (_, left) = crashes(&ring.memory, || send(&mut tx).unwrap());
                for memory in left {
                    successor_of_slots(&ring.left(memory), number);
                }
            }
            // And a batch that goes over several blocks.
            for _ in 0..10 {
                let number = tx.position();
                let count = capacity.min(10);
                let bytes: Vec<u8> =
                    (0..count).flat_map(|index| message(number + index, size)).collect();
                let (sent, left) = crashes(&ring.memory, || tx.push_batch(&bytes).unwrap());
                for memory in left {
                    let ring = ring.left(memory);
                    let end = ring.producer().position();
                    assert!(end == number || end == number + sent as u64);
                    successor_of_slots(&ring, end);
                }
            }
        }
    }
}

/// A successor of a producer that had sent `number` messages, or one more.
fn successor_of_slots(ring: &Slots, number: u64) {
    let mut early = ring.observer(Join::Oldest);
    let (first, mut seen) = (early.position(), Seen::default());
    while one(&mut early, &mut seen) {}
    let mut tx = ring.producer();
    let begin = tx.position();
    assert!(begin == number || begin == number + 1, "{begin} behind {number}");
    for _ in 0..40 {
        send(&mut tx).unwrap();
        one(&mut early, &mut seen);
    }
    while one(&mut early, &mut seen) {}
    assert_eq!(first + seen.received + seen.missed, begin + 40);
}

#[test]
fn a_producer_of_records_killed_anywhere_leaves_whole_records_and_a_successor_goes_on() {
    for bytes in [512, 1536] {
        let ring = records(bytes, 1, false);
        let mut tx = ring.producer();
        for number in 0..150 {
            let (_, left) = crashes(&ring.memory, || send_record(&mut tx, number).unwrap());
            // A long record has a store for each of its words.
            for memory in left.iter().step_by(1 + left.len() / 12) {
                let ring = ring.left(memory.clone());
                let mut early = ring.observer(Join::Oldest);
                let (first, mut seen) = (early.position(), Seen::default());
                while one_record(&mut early, &mut seen) {}
                let begin = first + seen.received;
                assert_eq!(seen.missed, 0);
                assert!(begin == number || begin == number + 1, "{begin} behind {number}");
                let mut tx = ring.producer();
                for n in begin..begin + 20 {
                    send_record(&mut tx, n).unwrap();
                    one_record(&mut early, &mut seen);
                }
                while one_record(&mut early, &mut seen) {}
                assert_eq!(first + seen.received + seen.missed, begin + 20);
            }
        }
    }
}

#[test]
fn who_joins_a_lossless_ring_at_any_moment_misses_nothing_from_then_on() {
    // Joins behind each store of a producer that sweeps, in the middle of its sweep, too.
    for join in [Join::Oldest, Join::Newest] {
        let ring = slots(8, 12, 1, true);
        let tx = RefCell::new(ring.producer());
        for _ in 0..150 {
            let joined = Rc::new(RefCell::new(Vec::new()));
            for step in 0..6 {
                let (slot, inner) = (Rc::clone(&joined), ring.clone());
                let at = Cell::new(0);
                let watcher = move || {
                    if at.replace(at.get() + 1) == step {
                        slot.borrow_mut().push(inner.consumer(0, join));
                    }
                };
                let sent = steps::watch(watcher, || send(&mut tx.borrow_mut()).is_ok());
                let Some(mut rx) = joined.borrow_mut().pop() else {
                    assert!(sent);
                    continue;
                };
                let (first, mut seen) = (rx.position(), Seen::default());
                while send(&mut tx.borrow_mut()).is_ok() {}
                while one(&mut rx, &mut seen) {}
                let end = tx.borrow().position();
                assert_eq!(seen, Seen { received: end - first, missed: 0 });
            }
        }
    }
}

#[test]
fn who_joins_records_of_a_lossless_ring_at_any_moment_misses_nothing_from_then_on() {
    for join in [Join::Oldest, Join::Newest] {
        let ring = records(1024, 1, true);
        let tx = RefCell::new(ring.producer());
        let mut number = 0;
        for step in 0..400 {
            let joined = Rc::new(RefCell::new(Vec::new()));
            let (slot, inner) = (Rc::clone(&joined), ring.clone());
            let at = Cell::new(0);
            let watcher = move || {
                if at.replace(at.get() + 1) == step % 9 {
                    slot.borrow_mut().push(inner.consumer(0, join));
                }
            };
            number += u64::from(
                steps::watch(watcher, || send_record(&mut tx.borrow_mut(), number)).is_ok(),
            );
            let Some(mut rx) = joined.borrow_mut().pop() else { continue };
            let (first, mut seen) = (rx.position(), Seen::default());
            while send_record(&mut tx.borrow_mut(), number).is_ok() {
                number += 1;
            }
            while one_record(&mut rx, &mut seen) {}
            assert_eq!(seen, Seen { received: number - first, missed: 0 });
        }
    }
}

#[test]
fn a_stopped_or_lying_consumer_changes_nothing_for_a_ring_that_overwrites() {
    let ring = slots(64, 8, 3, false);
    let mut tx = ring.producer();
    let mut rx = ring.consumer(0, Join::Newest);
    let _stopped = ring.consumer(1, Join::Newest);
    let mut seen = Seen::default();
    for n in 0..2000u64 {
        for at in (0..super::layout::CONSUMER_LEN).step_by(8) {
            let lie = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (at % 60);
            ring.control().store64(super::layout::consumer(2) + at, lie, Relaxed);
        }
        send(&mut tx).unwrap();
        assert!(one(&mut rx, &mut seen));
    }
    assert_eq!(seen, Seen { received: 2000, missed: 0 });
}

/// Numbers that are near what a position or a header word can be, or nowhere near.
fn lies() -> Vec<u64> {
    let near = [0, 1, 7, 8, 15, 16, 17, 64, 100, 1000];
    let far = [1 << 31, 1 << 47, 1 << 59, 1 << 62, 1 << 63, (1 << 63) | 8, u64::MAX - 7, u64::MAX];
    near.into_iter().chain(far).collect()
}

#[test]
fn whatever_stands_in_any_word_no_call_panics_or_hangs() {
    for lossless in [false, true] {
        let ring = slots(24, 6, 2, lossless);
        let mut tx = ring.producer();
        let mut rx = ring.consumer(0, Join::Newest);
        for _ in 0..20 {
            send(&mut tx).ok();
            one(&mut rx, &mut Seen::default());
        }
        drop((tx, rx));
        let before = ring.memory.snapshot();
        let offsets = (0..words_len(2))
            .step_by(8)
            .chain((0..ring.payload().len()).step_by(8).map(|at| ring.words + at));
        for at in offsets {
            for lie in lies() {
                let ring = ring.left(View::of(&before));
                let (mut early, mut late) = (ring.observer(Join::Oldest), ring.producer());
                ring.memory.store64(at, lie, Relaxed);
                let mut bytes = [0; 24];
                for _ in 0..10 {
                    let _ = early.try_recv(&mut bytes);
                    let _ = late.try_push(&bytes);
                }
                let _ = early.lag();
                let _ = late.slowest();
                if let Ok(mut tx) = produce(ring.parts(), ring.keeping, ring.geometry) {
                    let _ = tx.try_push(&bytes);
                }
                for join in [Join::Oldest, Join::Newest, Join::At(3)] {
                    if let Ok(mut rx) = ring.try_consumer(1, join) {
                        for _ in 0..4 {
                            let _ = rx.try_recv(&mut bytes);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn whatever_stands_in_any_word_of_records_no_call_panics_or_hangs() {
    for lossless in [false, true] {
        let ring = records(512, 1, lossless);
        let mut tx = ring.producer();
        let mut rx = ring.consumer(0, Join::Newest);
        for n in 0..30 {
            send_record(&mut tx, n).ok();
            one_record(&mut rx, &mut Seen::default());
        }
        drop((tx, rx));
        let before = ring.memory.snapshot();
        let words = words_len(1) + MARKS as usize * MARK_LEN;
        let offsets = (0..words).step_by(8).chain((0..512).step_by(8).map(|at| ring.words + at));
        let mut bytes = Vec::new();
        for at in offsets {
            for lie in lies() {
                let ring = ring.left(View::of(&before));
                let (mut early, mut late) = (ring.observer(Join::Oldest), ring.producer());
                ring.memory.store64(at, lie, Relaxed);
                for _ in 0..6 {
                    let _ = early.try_recv(&mut bytes);
                    let _ = late.try_push(&[7; 20]);
                }
                let _ = early.lag();
                let _ = late.slowest();
                if let Ok(mut tx) = produce_records(ring.parts(), ring.keeping, ring.geometry) {
                    let _ = tx.try_push(&[8; 20]);
                }
                for join in [Join::Oldest, Join::Newest, Join::At(3)] {
                    if let Ok(mut rx) = ring.try_consumer(0, join) {
                        for _ in 0..4 {
                            let _ = rx.try_recv(&mut bytes);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn words_that_change_before_each_look_hold_nobody_up() {
    let ring = slots(24, 6, 1, true);
    let mut tx = ring.producer();
    let mut rx = ring.consumer(0, Join::Newest);
    let (memory, lies, turn) = (ring.memory.clone(), lies(), Cell::new(0usize));
    let words: Vec<usize> =
        (0..words_len(1)).step_by(8).chain([ring.words, ring.words + 64]).collect();
    let meddler = move || {
        let now = turn.replace(turn.get() + 1);
        memory.store64(words[now * 7 % words.len()], lies[now % lies.len()], Relaxed);
    };
    steps::meddle(meddler, || {
        let mut bytes = [0; 24];
        for _ in 0..2000 {
            let _ = tx.try_push(&bytes);
            let _ = rx.try_recv(&mut bytes);
            let _ = rx.lag();
            let _ = tx.slowest();
        }
        for join in [Join::Oldest, Join::Newest, Join::At(1)] {
            let _ = ring.try_consumer(0, join);
        }
    });
}

#[test]
fn a_stream_between_threads_is_whole_for_everyone_who_receives() {
    for (size, capacity) in [(8, 64), (64, 16), (200, 300)] {
        let ring = slots(size, capacity, 2, false);
        let mut tx = ring.producer();
        let count = 60_000;
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let mut consumers: Vec<_> =
                (0..2).map(|slot| ring.consumer(slot, Join::Newest)).collect();
            let mut unseen = ring.observer(Join::Newest);
            consumers[0].wait_mode(WaitMode::Block);
            for mut rx in consumers {
                let stop = &stop;
                scope.spawn(move || {
                    let mut seen = Seen::default();
                    let start = Instant::now();
                    loop {
                        let last = stop.load(SeqCst);
                        while one(&mut rx, &mut seen) {}
                        if last && rx.lag() == 0 {
                            break;
                        }
                        assert!(start.elapsed() < PATIENCE);
                        std::thread::yield_now();
                    }
                    assert_eq!(seen.received + seen.missed, count);
                });
            }
            let stop = &stop;
            scope.spawn(move || {
                let mut seen = Seen::default();
                while !stop.load(SeqCst) {
                    one(&mut unseen, &mut seen);
                }
                while one(&mut unseen, &mut seen) {}
                assert_eq!(seen.received + seen.missed, count);
            });
            for _ in 0..count {
                send(&mut tx).unwrap();
            }
            stop.store(true, SeqCst);
        });
    }
}

#[test]
fn a_lossless_stream_between_threads_sleeps_and_wakes_and_loses_nothing() {
    let ring = slots(8, 16, 3, true);
    let mut tx = ring.producer();
    let count = 20_000u64;
    std::thread::scope(|scope| {
        for slot in 0..3 {
            let mut rx = ring.consumer(slot, Join::Newest);
            rx.wait_mode([WaitMode::Block, WaitMode::Adaptive, WaitMode::Yield][slot as usize]);
            scope.spawn(move || {
                let mut bytes = [0; 8];
                for n in 0..count {
                    rx.recv_timeout(&mut bytes, PATIENCE).unwrap();
                    assert_eq!(bytes[..], message(n, 8));
                }
            });
        }
        tx.wait_mode(WaitMode::Block);
        for n in 0..count {
            tx.push_timeout(&message(n, 8), PATIENCE).unwrap();
        }
    });
}

#[test]
fn waits_end_with_what_became_of_the_producer_when_everything_was_received() {
    let ring = slots(8, 16, 1, false);
    let mut tx = ring.producer();
    send(&mut tx).unwrap();
    let (mut rx, mut unseen) = (ring.consumer(0, Join::Oldest), ring.observer(Join::Oldest));
    for state in [PeerState::Closed, PeerState::Dead] {
        ring.peer.becomes(state);
        let end = if state == PeerState::Dead { RecvError::PeerDied } else { RecvError::Closed };
        let mut bytes = [0; 8];
        while rx.lag() > 0 {
            rx.recv(&mut bytes).unwrap();
            unseen.recv(&mut bytes).unwrap();
        }
        assert_eq!(rx.recv(&mut bytes), Err(end));
        assert_eq!(unseen.recv(&mut bytes), Err(end));
        rx.outlive_peer(true);
        unseen.outlive_peer(true);
        let short = Duration::from_millis(5);
        assert_eq!(rx.recv_timeout(&mut bytes, short), Err(RecvError::TimedOut));
        assert_eq!(unseen.recv_timeout(&mut bytes, short), Err(RecvError::TimedOut));
        rx.outlive_peer(false);
        unseen.outlive_peer(false);
    }
    rx.canceller().cancel();
    unseen.canceller().cancel();
    assert_eq!(rx.recv(&mut [0; 8]), Err(RecvError::Cancelled));
    assert_eq!(unseen.recv(&mut [0; 8]), Err(RecvError::Cancelled));
}

#[test]
fn a_forked_child_is_refused_and_changes_nothing() {
    let ring = slots(8, 16, 1, true);
    let mut tx = ring.producer();
    let mut rx = ring.consumer(0, Join::Newest);
    send(&mut tx).unwrap();
    ring.peer.forks.store(1, Relaxed);
    let before = ring.memory.snapshot();
    assert_eq!(rx.try_recv(&mut [0; 8]), Err(RecvError::Forked));
    assert_eq!(send(&mut tx), Err(SendError::Forked));
    drop((tx, rx));
    assert!(ring.memory.snapshot() == before);
}

#[test]
fn a_place_counts_what_all_who_had_it_received_and_missed() {
    let ring = slots(8, 8, 1, false);
    let mut tx = ring.producer();
    let line = View::heap(LINE_LEN);
    let (mut received, mut missed) = (0, 0);
    for round in 0..5 {
        let stats = StatsWriter::attach(line.clone()).unwrap();
        let parts = ring.receiving(Some(0));
        let join = if round % 2 == 0 { Join::Newest } else { Join::Oldest };
        let mut rx =
            RawBroadcastReceiver::claim(parts, stats, 0, ring.geometry, ring.keeping, join)
                .unwrap();
        let mut seen = Seen::default();
        for n in 0..60 {
            send(&mut tx).unwrap();
            if n < 10 {
                one(&mut rx, &mut seen);
            }
        }
        while one(&mut rx, &mut seen) {}
        received += seen.received;
        missed += seen.missed;
        assert_eq!((rx.stats().messages, rx.stats().gaps), (received, missed));
    }
}

#[test]
fn impossible_rings_are_refused() {
    assert!(Keeping::of_slots(8, 0, 1, false).is_none());
    assert!(Keeping::of_slots(8, u64::MAX, 1, false).is_none());
    assert!(Keeping::of_slots(usize::MAX, 1, 1, false).is_none());
    assert!(Keeping::of_records(0, 8, 0, 1, false).is_none());
    assert!(Keeping::of_records(255, 8, 0, 1, false).is_none());
    assert!(Keeping::of_records(256, 8, 4096, 1, false).is_none());
    assert!(Keeping::of_records(1 << 60, 8, 0, 1, false).is_none());
    assert!(Keeping::records_capacity(u64::MAX, 8).is_none());
    let (keeping, geometry) = Keeping::of_records(256, 8, 0, CONSUMERS_MAX, false).unwrap();
    assert!(geometry.len_max() >= 32 && keeping.section == 8);
}

#[test]
fn what_the_ring_says_of_itself_is_checked_when_a_producer_takes_over() {
    let ring = slots(24, 6, 1, false);
    drop(ring.producer());
    ring.control().store64(SWEPT, 1, Relaxed);
    let refused = produce(ring.parts(), ring.keeping, ring.geometry).err();
    assert_eq!(refused, Some(AttachError::Corrupt(Corruption::Kept)));
}

//! The promises of shared rings: each message once, death at each store, lies, waiting.

use super::layout::{
    FULL, Geometry, READING, WRITING, free, full, is_of, put_back, reading, writing,
};
use super::testing::{Stage, Triple, triple};
use super::{SharedConsumer, SharedProducer};
use crate::peer::PeerState;
use crate::ring::error::{AttachError, Corruption, RecvError, SendError};
use crate::segment::endpoint::Role::{Consumer, Producer};
use crate::segment::progress::{SHARED_STATE, waiting_in_shared};
use crate::view::{View, steps};
use crate::wait::testing::crashes;
use crate::wait::{Armed, WaitAny, WaitMode};
use proptest::prelude::*;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// How long a stream may stand still before its test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// Receives everything that is there.
fn drain(consumer: &mut SharedConsumer<Triple>) -> Vec<Triple> {
    std::iter::from_fn(|| consumer.try_recv().ok()).take(1000).collect()
}

fn waiting(stage: &Stage) -> u64 {
    let at = &stage.geometry;
    let payload = stage.view.window(at.control_len(), at.payload_len()).unwrap();
    waiting_in_shared(&payload, at.size.max(1).next_multiple_of(8) as u64, at.capacity).unwrap()
}

#[test]
fn messages_pass_in_order_at_every_small_capacity_and_number_of_ends() {
    for capacity in [1, 2, 3, 7, 16] {
        for (producers, consumers) in [(1, 1), (1, 3), (3, 1), (2, 2)] {
            let stage = Stage::new::<Triple>(capacity, producers, consumers);
            let mut txs: Vec<_> = (0..producers).map(|n| stage.producer::<Triple>(n)).collect();
            let mut rxs: Vec<_> = (0..consumers).map(|n| stage.consumer::<Triple>(n)).collect();
            let (mut sent, mut received) = (0, 0);
            for round in 0..60_usize {
                while sent - received < capacity {
                    let number = (sent as usize + round) % txs.len();
                    txs[number].try_push(triple(sent)).unwrap();
                    sent += 1;
                }
                for tx in &mut txs {
                    assert_eq!(tx.try_push(triple(0)), Err(SendError::Full));
                }
                assert_eq!(waiting(&stage), capacity);
                for _ in 0..round as u64 % capacity + 1 {
                    let number = (received as usize * 5 + round) % rxs.len();
                    assert_eq!(rxs[number].try_recv(), Ok(triple(received)));
                    received += 1;
                }
                for rx in &rxs {
                    assert_eq!(rx.lag(), sent - received);
                }
            }
            let sum = |stats: Vec<u64>| stats.into_iter().sum::<u64>();
            assert_eq!(sum(txs.iter().map(|tx| tx.stats().messages).collect()), sent);
            assert_eq!(sum(rxs.iter().map(|rx| rx.stats().messages).collect()), received);
        }
    }
}

#[test]
fn an_end_that_slept_for_many_laps_finds_the_others() {
    let stage = Stage::new::<Triple>(5, 2, 2);
    let (mut lazy_tx, mut tx) = (stage.producer::<Triple>(0), stage.producer::<Triple>(1));
    let (mut lazy_rx, mut rx) = (stage.consumer::<Triple>(0), stage.consumer::<Triple>(1));
    for round in 0..40 {
        for n in 0..round {
            tx.try_push(triple(n)).unwrap();
            assert_eq!(rx.try_recv(), Ok(triple(n)));
        }
        lazy_tx.try_push(triple(99)).unwrap();
        tx.try_push(triple(100)).unwrap();
        assert_eq!(lazy_rx.try_recv(), Ok(triple(99)));
        assert_eq!(lazy_rx.try_recv(), Ok(triple(100)));
        assert_eq!((rx.try_recv(), lazy_rx.lag()), (Err(RecvError::Empty), 0));
    }
}

#[test]
fn a_consumer_that_is_far_behind_finds_what_is_left_there() {
    for held in [0, 3, 100, 180] {
        let stage = Stage::new::<Triple>(200, 1, 3);
        let mut tx = stage.producer::<Triple>(0);
        let mut lazy = stage.consumer::<Triple>(0);
        let (mut rx, mut dies) = (stage.consumer::<Triple>(1), stage.consumer::<Triple>(2));
        for n in 0..190 {
            tx.try_push(triple(n)).unwrap();
            if n == held {
                std::mem::forget(dies.try_hold().unwrap());
            } else {
                assert_eq!(rx.try_recv(), Ok(triple(n)));
            }
        }
        tx.try_push(triple(190)).unwrap();
        assert_eq!(lazy.try_recv(), Ok(triple(190)));
        assert_eq!(lazy.try_recv(), Err(RecvError::Empty));
        drop(dies);
        stage.bury(Consumer, 2);
        assert_eq!(lazy.try_recv(), Ok(triple(held)));
        assert_eq!(lazy.try_recv(), Err(RecvError::Empty));
    }
}

#[test]
fn laps_come_round() {
    for capacity in [1, 3] {
        let stage = Stage::new::<Triple>(capacity, 2, 2);
        let last = super::layout::LAPS - 1;
        (0..capacity as usize).for_each(|slot| stage.set_word(slot, free(last)));
        let (mut tx, mut rx) = (stage.producer::<Triple>(0), stage.consumer::<Triple>(0));
        let (mut tx2, mut rx2) = (stage.producer::<Triple>(1), stage.consumer::<Triple>(1));
        for n in 0..20 {
            tx.try_push(triple(n)).unwrap();
            assert_eq!(rx.try_recv(), Ok(triple(n)));
            tx2.try_push(triple(n)).unwrap();
            assert_eq!(rx2.try_recv(), Ok(triple(n)));
        }
        assert_eq!(rx.try_recv(), Err(RecvError::Empty));
    }
}

#[test]
fn batches_take_what_fits_and_what_is_there() {
    let stage = Stage::new::<Triple>(4, 2, 2);
    let (mut tx, mut rx) = (stage.producer::<Triple>(0), stage.consumer::<Triple>(1));
    let messages: Vec<Triple> = (0..6).map(triple).collect();
    assert_eq!(tx.push_batch(&[]), Ok(0));
    assert_eq!(tx.push_batch(&messages), Ok(4));
    assert_eq!(tx.push_batch(&messages), Err(SendError::Full));
    let mut received = Vec::new();
    assert_eq!(rx.recv_batch(&mut received, 0), Ok(0));
    assert_eq!(rx.recv_batch(&mut received, 3), Ok(3));
    assert_eq!(rx.recv_batch(&mut received, 3), Ok(1));
    assert_eq!(rx.recv_batch(&mut received, 3), Err(RecvError::Empty));
    assert_eq!(received, messages[..4]);
}

#[test]
fn a_bad_value_is_an_error_and_the_next_message_follows() {
    for consumers in [1, 2] {
        let stage = Stage::new::<u8>(8, 1, consumers);
        let (mut tx, mut rx) = (stage.producer::<u8>(0), stage.consumer::<bool>(0));
        assert_eq!(tx.push_batch(&[1, 2, 0, 3, 4, 1]), Ok(6));
        assert_eq!(rx.try_recv(), Ok(true));
        assert_eq!(rx.try_recv(), Err(RecvError::InvalidValue { position: 1 }));
        let mut batch = Vec::new();
        assert_eq!(rx.recv_batch(&mut batch, 9), Ok(1));
        assert_eq!(batch, [false]);
        assert_eq!(rx.recv_batch(&mut batch, 9), Err(RecvError::InvalidValue { position: 3 }));
        assert_eq!(rx.try_hold().map(drop), Err(RecvError::InvalidValue { position: 4 }));
        assert_eq!(rx.try_hold().map(|held| held.release()), Ok(true));
        assert_eq!(rx.try_recv(), Err(RecvError::Empty));
    }
}

#[test]
fn a_bad_value_that_ends_a_batch_goes_back_once() {
    /// Longer than what is copied first.
    #[derive(Clone, Copy, Debug, PartialEq, bytemuck::CheckedBitPattern)]
    #[repr(C)]
    struct Flagged {
        flag: bool,
        rest: [u8; 23],
    }
    let stage = Stage::new::<[u8; 24]>(4, 1, 2);
    let mut tx = stage.producer::<[u8; 24]>(0);
    let mut rx = stage.consumer::<Flagged>(0);
    assert_eq!(tx.push_batch(&[[1; 24], [2; 24], [0; 24]]), Ok(3));
    let mut batch = Vec::new();
    assert_eq!((rx.recv_batch(&mut batch, 9), batch[0].flag), (Ok(1), true));
    assert_eq!(stage.word(1), put_back(reading(full(0), 0)));
    let bad = RecvError::InvalidValue { position: 1 };
    assert_eq!(rx.recv_batch(&mut batch, 9), Err(bad));
    assert_eq!(rx.recv_batch(&mut batch, 9), Ok(1));
    assert_eq!(batch[1], Flagged { flag: false, rest: [0; 23] });
}

#[test]
fn a_held_message_goes_back_unless_it_is_released() {
    for consumers in [1, 2] {
        let stage = Stage::new::<Triple>(3, 2, consumers);
        let (mut tx, mut rx) = (stage.producer::<Triple>(0), stage.consumer::<Triple>(0));
        for n in 0..3 {
            tx.try_push(triple(n)).unwrap();
        }
        for turn in 0..3 {
            let held = rx.try_hold().unwrap();
            assert_eq!((held.value(), held.position(), held.seen_before()), (triple(0), 0, turn));
            assert!(is_of(stage.word(0), READING, 0));
            assert_eq!(tx.try_push(triple(9)), Err(SendError::Full));
        }
        // Forgotten, it is found by the same consumer, or by those who come when it has left.
        std::mem::forget(rx.try_hold().unwrap());
        assert_eq!(rx.try_hold().map(|held| held.seen_before()), Ok(4));
        std::mem::forget(rx.try_hold().unwrap());
        drop(rx);
        let mut rx = stage.consumer::<Triple>(0);
        let held = rx.try_hold().unwrap();
        assert_eq!((held.seen_before(), held.release()), (6, triple(0)));
        assert_eq!(rx.hold_timeout(PATIENCE).unwrap().release(), triple(1));
        assert_eq!(rx.hold().unwrap().release(), triple(2));
        assert_eq!(rx.stats().messages, 3);
        assert_eq!(rx.hold_timeout(Duration::ZERO).map(drop), Err(RecvError::TimedOut));
    }
}

#[test]
fn what_one_consumer_holds_others_pass_and_find_again() {
    let stage = Stage::new::<Triple>(4, 1, 3);
    let mut tx = stage.producer::<Triple>(0);
    let (mut a, mut b) = (stage.consumer::<Triple>(0), stage.consumer::<Triple>(1));
    for n in 0..4 {
        tx.try_push(triple(n)).unwrap();
    }
    let held = a.try_hold().unwrap();
    assert_eq!(drain(&mut b), [triple(1), triple(2), triple(3)]);
    // The slot is in the way, and its holder lives.
    assert_eq!(tx.try_push(triple(4)), Err(SendError::Full));
    drop(held);
    assert_eq!(b.lag(), 1);
    assert_eq!(b.try_recv(), Ok(triple(0)));
    tx.try_push(triple(4)).unwrap();
    assert_eq!((a.try_recv(), b.try_recv()), (Ok(triple(4)), Err(RecvError::Empty)));
    // The same where the holder dies, and it is the producer who finds out.
    for n in 5..9 {
        tx.try_push(triple(n)).unwrap();
    }
    std::mem::forget(a.try_hold().unwrap());
    assert_eq!(drain(&mut b), [triple(6), triple(7), triple(8)]);
    stage.bury(Consumer, 0);
    assert_eq!(tx.try_push(triple(9)), Err(SendError::Full));
    assert_eq!(stage.word(5 % 4) & SHARED_STATE, FULL);
    assert_eq!(b.try_recv(), Ok(triple(5)));
    tx.try_push(triple(9)).unwrap();
}

/// Everything that can be left: after `before` messages, with `waiting` more in the ring.
fn situations(capacity: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..2 * capacity).flat_map(move |before| (0..=capacity).map(move |waiting| (before, waiting)))
}

/// A ring in which `before` messages passed and those from there on wait.
fn prepare(capacity: u64, before: u64, waiting: u64) -> (Stage, Vec<Triple>) {
    let stage = Stage::new::<Triple>(capacity, 2, 2);
    let (mut tx, mut rx) = (stage.producer::<Triple>(0), stage.consumer::<Triple>(0));
    for n in 0..before {
        tx.try_push(triple(n)).unwrap();
        assert_eq!(rx.try_recv(), Ok(triple(n)));
    }
    let left: Vec<Triple> = (before..before + waiting).map(triple).collect();
    left.iter().for_each(|message| tx.try_push(*message).unwrap());
    (stage, left)
}

/// The ring goes on, for all who live and for a successor: what is in it comes out, once and in
/// order but for what `again` allows to be first later, and it takes a whole lap more.
fn goes_on(stage: &Stage, dead: (crate::segment::endpoint::Role, u32), left: &[Triple]) {
    for successor in [false, true] {
        let stage = stage.with(&View::of(&stage.view.snapshot()));
        stage.bury(dead.0, dead.1);
        let (mut tx, mut rx) = match (successor, dead.0) {
            (true, Producer) => (stage.producer::<Triple>(dead.1), stage.consumer::<Triple>(1)),
            (true, _) => (stage.producer::<Triple>(1), stage.consumer::<Triple>(dead.1)),
            (false, _) => (stage.producer::<Triple>(1), stage.consumer::<Triple>(1)),
        };
        // A message that never was keeps its slot until those before it were received.
        let pushed = tx.try_push(triple(77)).is_ok();
        let free = stage.geometry.capacity - left.len() as u64;
        assert!(pushed == (free > 0) || (!pushed && dead.0 == Producer && free == 1));
        let more = [triple(77)];
        let expected = [left, &more[..usize::from(pushed)]].concat();
        assert_eq!(drain(&mut rx), expected);
        for n in 0..stage.geometry.capacity {
            tx.try_push(triple(n)).unwrap();
        }
        assert_eq!(tx.try_push(triple(0)), Err(SendError::Full));
        assert_eq!(drain(&mut rx).len() as u64, stage.geometry.capacity);
        assert_eq!(waiting(&stage), 0);
    }
}

#[test]
fn a_producer_killed_behind_any_store_leaves_the_message_whole_or_not_at_all() {
    let mut looked_at = 0;
    for capacity in 1..=3 {
        for (before, waiting) in situations(capacity).filter(|(_, w)| *w < capacity) {
            let (stage, left) = prepare(capacity, before, waiting);
            let mut tx = stage.producer::<Triple>(0);
            let (result, states) = crashes(&stage.view, || tx.try_push(triple(50)));
            assert_eq!(result, Ok(()));
            let with = [&left[..], &[triple(50)]].concat();
            for view in states {
                let state = stage.with(&view);
                let holds = state.words().iter().any(|word| is_of(*word, WRITING, 0));
                let there = super::tests::waiting(&state) == with.len() as u64;
                assert!(!(holds && there));
                goes_on(&state, (Producer, 0), if there { &with } else { &left });
                looked_at += 1;
            }
        }
    }
    assert!(looked_at > 200, "{looked_at}");
}

#[test]
fn a_small_message_is_received_in_one_step() {
    let stage = Stage::new::<u64>(2, 1, 2);
    let (mut tx, mut rx) = (stage.producer::<u64>(0), stage.consumer::<u64>(0));
    for n in 0..20 {
        tx.try_push(n).unwrap();
        let (result, states) = crashes(&stage.view, || rx.try_recv());
        assert_eq!(result, Ok(n));
        let mut words: Vec<_> = states.iter().map(|view| stage.with(view).words()).collect();
        words.dedup();
        assert_eq!(words.len(), 2, "{words:x?}");
        // Another is faster, between the copy and the exchange.
        tx.try_push(n).unwrap();
        let faster = Mutex::new(Some(stage.consumer::<u64>(1)));
        let mut looks = 0;
        let other = move || {
            looks += 1;
            if looks == 2 {
                let mut faster = faster.lock().unwrap().take().unwrap();
                assert_eq!(faster.try_recv(), Ok(n));
            }
        };
        assert_eq!(steps::meddle(other, || rx.try_recv()), Err(RecvError::Empty));
    }
}

#[test]
fn what_a_killed_consumer_was_receiving_is_seen_again_and_what_it_received_is_not() {
    let mut looked_at = 0;
    for capacity in 1..=3 {
        for (before, waiting) in situations(capacity).filter(|(_, w)| *w > 0) {
            let (stage, left) = prepare(capacity, before, waiting);
            let mut rx = stage.consumer::<Triple>(0);
            let (result, states) = crashes(&stage.view, || rx.try_recv());
            assert_eq!(result, Ok(left[0]));
            for view in states {
                let state = stage.with(&view);
                let delivered = super::tests::waiting(&state) < waiting;
                goes_on(&state, (Consumer, 0), &left[usize::from(delivered)..]);
                looked_at += 1;
            }
        }
    }
    assert!(looked_at > 100, "{looked_at}");
}

#[test]
fn who_is_killed_while_he_clears_up_after_others_is_cleared_up_after() {
    let mut looked_at = 0;
    for before in 0..6 {
        for waiting in 0..3 {
            let (stage, left) = prepare(4, before, waiting);
            let (mut tx, mut rx) = (stage.producer::<Triple>(0), stage.consumer::<Triple>(0));
            // Both of number 0 die in a slot each.
            let hole = ((before + waiting) % 4) as usize;
            let lap = (before + waiting) / 4;
            stage.set_word(hole, writing(lap, 0));
            if waiting > 0 {
                std::mem::forget(rx.try_hold().unwrap());
            }
            stage.bury(Producer, 0);
            stage.bury(Consumer, 0);
            // Cleared by a living producer or consumer, or by the successor of either.
            let work: [&dyn Fn(&Stage); 4] = [
                &|stage| _ = stage.producer::<Triple>(1).try_push(triple(60)),
                &|stage| _ = stage.consumer::<Triple>(1).try_recv(),
                &|stage| drop(stage.producer::<Triple>(0)),
                &|stage| drop(stage.consumer::<Triple>(0)),
            ];
            for (number, work) in work.iter().enumerate() {
                let here = stage.with(&View::of(&stage.view.snapshot()));
                let (_, states) = crashes(&here.view, || work(&here));
                for view in states {
                    let state = stage.with(&view);
                    // Whoever cleared dies as well.
                    for role in [Producer, Consumer] {
                        state.bury(role, 0);
                        state.bury(role, 1);
                    }
                    let mut expected = left.clone();
                    let words = state.words();
                    let sent = words.iter().any(|word| *word == full(lap + u64::from(hole == 3)));
                    let there = super::tests::waiting(&state) as usize;
                    match number {
                        0 if there > left.len() && sent | true => expected.push(triple(60)),
                        1 if there < left.len() => _ = expected.remove(0),
                        _ => assert_eq!(there, left.len()),
                    }
                    let mut rx = state.consumer::<Triple>(1);
                    assert_eq!(drain(&mut rx), expected);
                    let mut tx = state.producer::<Triple>(1);
                    for n in 0..4 {
                        tx.try_push(triple(n)).unwrap();
                    }
                    assert_eq!(drain(&mut rx).len(), 4);
                    looked_at += 1;
                }
            }
            _ = &mut tx;
        }
    }
    assert!(looked_at > 100, "{looked_at}");
}

/// Three words whose check panics at the sight of a 9.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
struct Touchy(Triple);

// SAFETY: any bits of a `Triple` may be read as `Bits`, and any are a `Touchy`.
#[expect(unsafe_code, reason = "a type with a check of its own")]
unsafe impl bytemuck::CheckedBitPattern for Touchy {
    type Bits = Triple;

    fn is_valid_bit_pattern(bits: &Triple) -> bool {
        assert!(bits[0] != 9, "nine");
        true
    }
}

#[test]
fn a_message_whose_check_panics_goes_back_to_the_others() {
    let stage = Stage::new::<Triple>(3, 1, 2);
    let mut tx = stage.producer::<Triple>(0);
    let (mut touchy, mut rx) = (stage.consumer::<Touchy>(0), stage.consumer::<Triple>(1));
    for hold in [false, true] {
        tx.try_push([9; 3]).unwrap();
        let panics = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            if hold {
                let _ = touchy.try_hold().map(|message| message.value());
            } else {
                let _ = touchy.try_recv();
            }
        }));
        assert!(panics.is_err());
        assert_eq!(rx.try_recv(), Ok([9; 3]));
    }
    tx.try_push([1; 3]).unwrap();
    assert_eq!(touchy.try_recv().unwrap().0, [1; 3]);
}

#[test]
fn a_stopped_end_holds_up_its_slot_and_nothing_is_taken_from_it() {
    let stage = Stage::new::<Triple>(3, 2, 2);
    let (mut tx, mut rx) = (stage.producer::<Triple>(1), stage.consumer::<Triple>(1));
    // A producer stopped while it writes: those behind it wait, with a deadline.
    stage.set_word(0, writing(0, 0));
    tx.try_push(triple(1)).unwrap();
    assert_eq!(rx.try_recv(), Err(RecvError::Empty));
    assert_eq!(rx.recv_timeout(Duration::from_millis(5)), Err(RecvError::TimedOut));
    tx.try_push(triple(2)).unwrap();
    assert_eq!(tx.try_push(triple(3)), Err(SendError::Full));
    assert_eq!(tx.push_timeout(triple(3), Duration::from_millis(5)), Err(SendError::TimedOut));
    assert_eq!(stage.word(0), writing(0, 0));
    // It goes on: everything is in order.
    let message = stage.geometry.control_len() + stage.geometry.shape.message(0);
    stage.view.write(message, bytemuck::bytes_of(&triple(0)));
    stage.set_word(0, full(0));
    assert_eq!(drain(&mut rx), [triple(0), triple(1), triple(2)]);
    // A consumer that is stopped while it reads: the others go past it.
    for n in 3..6 {
        tx.try_push(triple(n)).unwrap();
    }
    stage.set_word(0, reading(full(1), 0));
    assert_eq!(drain(&mut rx), [triple(4), triple(5)]);
    assert_eq!(tx.push_timeout(triple(6), Duration::from_millis(5)), Err(SendError::TimedOut));
    assert_eq!(rx.lag(), 0);
    stage.set_word(0, free(2));
    tx.try_push(triple(6)).unwrap();
    assert_eq!(rx.recv(), Ok(triple(6)));
}

#[test]
fn a_word_that_a_number_left_is_not_taken_for_its_successors() {
    // The recoverer saw the word of a dead consumer, was stopped, and goes on when the number has
    // been taken anew and reads the same message.
    let stage = Stage::new::<Triple>(2, 1, 2);
    let mut tx = stage.producer::<Triple>(0);
    tx.try_push(triple(0)).unwrap();
    std::mem::forget(stage.consumer::<Triple>(0).try_hold().unwrap());
    let stale = stage.word(0);
    let mut successor = stage.consumer::<Triple>(0);
    let held = successor.try_hold().unwrap();
    assert_ne!(stage.word(0), stale);
    assert!(is_of(stage.word(0), READING, 0));
    assert_eq!(held.release(), triple(0));
    assert_eq!(put_back(stale), full(0) | 1 << 10);
}

#[test]
fn everything_is_received_before_the_death_of_the_last_producer_is_told() {
    for mode in [WaitMode::Adaptive, WaitMode::Block, WaitMode::Spin, WaitMode::Yield] {
        for (state, end) in
            [(PeerState::Dead, RecvError::PeerDied), (PeerState::Closed, RecvError::Closed)]
        {
            let stage = Stage::new::<Triple>(4, 3, 2);
            let mut rx = stage.consumer::<Triple>(1);
            rx.wait_mode(mode);
            // Two holes, a message, and one that a dead consumer was receiving.
            let mut tx = stage.producer::<Triple>(2);
            tx.try_push(triple(0)).unwrap();
            stage.set_word(1, writing(0, 0));
            stage.set_word(2, writing(0, 1));
            tx.try_push(triple(3)).unwrap();
            stage.set_word(0, reading(full(0), 0));
            for end in [(Producer, 0), (Producer, 1), (Consumer, 0)] {
                stage.bury(end.0, end.1);
            }
            stage.peer.becomes(state);
            assert_eq!(rx.recv(), Ok(triple(0)));
            assert_eq!((rx.recv(), rx.recv()), (Ok(triple(3)), Err(end)));
        }
    }
}

#[test]
fn words_that_cannot_be_are_corrupt_for_good() {
    for lie in [1 << 10, 4, full(0) | 8, free(3) | 1 << 12, free(u64::MAX >> 20), full(1 << 30)] {
        let stage = Stage::new::<Triple>(2, 2, 2);
        let (mut tx, mut rx) = (stage.producer::<Triple>(0), stage.consumer::<Triple>(0));
        stage.set_word(0, lie);
        let told = (tx.try_push(triple(0)), rx.try_recv());
        if told.0 == Err(SendError::Corrupt(Corruption::Slot)) {
            stage.set_word(0, 0);
            assert_eq!(tx.try_push(triple(0)), told.0);
            assert_eq!(
                rx.recv_batch(&mut Vec::new(), 9),
                Err(RecvError::Corrupt(Corruption::Slot))
            );
            assert_eq!(rx.try_hold().map(drop), Err(RecvError::Corrupt(Corruption::Slot)));
        } else {
            // A lap of the future: they go there, and find the other slot impossible.
            assert_eq!(tx.try_push(triple(0)), Err(SendError::Corrupt(Corruption::Slot)));
        }
    }
}

#[test]
fn an_attach_to_impossible_memory_is_a_typed_error() {
    let stage = Stage::new::<Triple>(2, 2, 2);
    let sealed = stage.with(&View::heap_read_only(stage.view.len()));
    assert_eq!(sealed.try_producer::<Triple>(0).err(), None.or(Some(AttachError::ReadOnly)));
    let short = stage.with(&View::heap(stage.view.len() - 8));
    assert_eq!(short.try_consumer::<Triple>(0).err(), Some(AttachError::Geometry));
    assert_eq!(stage.try_consumer::<Triple>(2).err(), Some(AttachError::Geometry));
    assert_eq!(stage.try_consumer::<u64>(0).err(), Some(AttachError::Geometry));
    assert_eq!(stage.try_producer::<u64>(0).err(), Some(AttachError::Geometry));
}

#[test]
fn an_endpoint_used_in_a_forked_child_says_so_and_touches_nothing() {
    let stage = Stage::new::<Triple>(2, 2, 2);
    let (mut tx, mut rx) = (stage.producer::<Triple>(0), stage.consumer::<Triple>(0));
    tx.try_push(triple(1)).unwrap();
    let held = rx.try_hold().unwrap();
    let words = stage.words();
    stage.peer.forks.fetch_add(1, Relaxed);
    assert_eq!(held.release(), triple(1));
    assert_eq!((tx.try_push(triple(2)), tx.push_batch(&[triple(2)])), {
        (Err(SendError::Forked), Err(SendError::Forked))
    });
    assert_eq!((rx.try_recv(), rx.recv()), (Err(RecvError::Forked), Err(RecvError::Forked)));
    assert_eq!(rx.try_hold().map(drop), Err(RecvError::Forked));
    assert_eq!(stage.words(), words);
}

#[test]
fn a_cancelled_wait_ends_and_a_message_goes_first() {
    let stage = Stage::new::<Triple>(2, 2, 2);
    let (mut tx, mut rx) = (stage.producer::<Triple>(0), stage.consumer::<Triple>(0));
    let canceller = rx.canceller();
    std::thread::scope(|scope| {
        scope.spawn(|| canceller.cancel());
        assert_eq!(rx.recv(), Err(RecvError::Cancelled));
    });
    tx.push(triple(5)).unwrap();
    assert_eq!((rx.recv(), rx.recv()), (Ok(triple(5)), Err(RecvError::Cancelled)));
    canceller.reset();
    assert_eq!(rx.recv_deadline(Instant::now()), Err(RecvError::TimedOut));
}

#[test]
fn bells_and_waits_for_any_see_messages_and_room() {
    let stage = Stage::new::<Triple>(1, 2, 2);
    let (mut tx, mut rx) = (stage.producer::<Triple>(0), stage.consumer::<Triple>(0));
    let bell = rx.doorbell_to_pass().unwrap();
    assert!(matches!(bell.arm(&mut rx), Ok(Armed::Poll { .. })));
    assert_eq!(WaitAny::new().wait(&mut [&mut rx, &mut tx]).unwrap(), 1);
    tx.try_push(triple(1)).unwrap();
    assert_eq!(bell.arm(&mut rx).unwrap(), Armed::Ready);
    assert_eq!(WaitAny::new().wait(&mut [&mut tx, &mut rx]).unwrap(), 1);
    assert_eq!(rx.try_recv(), Ok(triple(1)));
}

#[test]
fn a_close_wakes_all_who_sleep_and_who_was_woken_alone_wakes_the_next() {
    let stage = Stage::new::<Triple>(4, 2, 3);
    let (first, stride, _) = stage.geometry.sleep_words(Consumer);
    let sleeps = |slot: usize| stage.view.word32(first + slot * stride).load(Relaxed) != 0;
    let tx = stage.producer::<Triple>(0);
    let mut rxs: Vec<_> = (0..3).map(|slot| stage.consumer::<Triple>(slot)).collect();
    let bells: Vec<_> = rxs.iter_mut().map(|rx| rx.doorbell_to_pass().unwrap()).collect();
    for (rx, bell) in rxs.iter_mut().zip(&bells) {
        assert!(matches!(bell.arm(rx), Ok(Armed::Poll { .. })));
    }
    assert!((0..3).all(sleeps));
    drop(tx);
    assert!(!(0..3).any(sleeps));
    // Two messages come at once, for a consumer that waits and one that sleeps.
    stage.view.word32(super::layout::CONSUMERS_SLEEP).store(1, Relaxed);
    stage.view.word32(first + 2 * stride).store(1, Relaxed);
    let (there, mut looks) = (stage.clone(), 0);
    let come = move || {
        looks += 1;
        if looks == 20 {
            (0..2).for_each(|slot| there.set_word(slot, full(0)));
        }
    };
    let received = steps::meddle(come, || rxs[0].recv_timeout(PATIENCE));
    assert_eq!((received, sleeps(2)), (Ok([0; 3]), false));
}

/// Threads that send and receive `count` messages each; every message must arrive once, and those
/// of one producer in order.
fn stream(capacity: u64, producers: u32, consumers: u32, count: u64, modes: &[WaitMode]) {
    let number = |message: &Triple| {
        assert_eq!(*message, triple(message[0]));
        message[0]
    };
    stream_of(capacity, producers, consumers, count, modes, triple, number);
}

fn stream_of<T: bytemuck::NoUninit + bytemuck::CheckedBitPattern>(
    capacity: u64,
    producers: u32,
    consumers: u32,
    count: u64,
    modes: &[WaitMode],
    make: fn(u64) -> T,
    number: fn(&T) -> u64,
) {
    let stage = Stage::new::<T>(capacity, producers, consumers);
    let total = count * u64::from(producers);
    let left = AtomicU64::new(total);
    let seen = Mutex::new(vec![0_u8; total as usize]);
    std::thread::scope(|scope| {
        for slot in 0..producers {
            let mut tx = stage.producer::<T>(slot);
            tx.wait_mode(modes[slot as usize % modes.len()]);
            scope.spawn(move || {
                for n in 0..count {
                    tx.push_timeout(make(u64::from(slot) * count + n), PATIENCE).unwrap();
                }
            });
        }
        for slot in 0..consumers {
            let mut rx = stage.consumer::<T>(slot);
            rx.wait_mode(modes[slot as usize % modes.len()]);
            let (left, seen) = (&left, &seen);
            scope.spawn(move || {
                let mut last = vec![None; producers as usize];
                let mut got = Vec::new();
                while left.load(Relaxed) > 0 {
                    match rx.recv_timeout(Duration::from_millis(20)) {
                        Ok(message) => {
                            let n = number(&message);
                            let from = &mut last[(n / count) as usize];
                            assert!(from.is_none_or(|last| last < n), "out of order");
                            *from = Some(n);
                            got.push(n);
                            left.fetch_sub(1, Relaxed);
                        }
                        Err(RecvError::TimedOut) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                let mut seen = seen.lock().unwrap();
                got.iter().for_each(|n| seen[*n as usize] += 1);
            });
        }
    });
    assert!(seen.lock().unwrap().iter().all(|times| *times == 1));
    assert_eq!(waiting(&stage), 0);
}

#[test]
fn streams_between_many_threads_arrive_whole_and_once() {
    use WaitMode::{Adaptive, Block, Yield};
    stream(1024, 1, 1, 60_000, &[Adaptive]);
    stream(64, 2, 2, 20_000, &[Adaptive, Yield]);
    stream(3, 3, 3, 5_000, &[Block, Yield]);
    stream(1, 2, 3, 3_000, &[Yield, Block]);
    stream(16, 3, 1, 10_000, &[Adaptive, Block]);
    stream(16, 1, 3, 10_000, &[Block, Yield]);
    stream_of::<u64>(8, 3, 3, 10_000, &[Yield, Adaptive], |n| n, |n| *n);
    stream_of::<u64>(1, 2, 2, 3_000, &[Block, Yield], |n| n, |n| *n);
}

#[test]
fn a_peer_that_rewrites_words_while_a_call_runs_cannot_make_it_panic_or_hang() {
    let lies =
        [0, 1, 2, 3, u64::MAX, free(1), full(1), writing(0, 1), reading(full(0), 1), free(9)];
    for (seed, first) in lies.iter().enumerate() {
        let stage = Stage::new::<Triple>(3, 2, 2);
        stage.bury(Producer, 1);
        stage.bury(Consumer, 1);
        let meddled = stage.clone();
        let (first, mut random) = (*first, seed as u64 + 1);
        let meddler = move || {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            let lie = lies[(random >> 33) as usize % lies.len()];
            let word =
                if random >> 62 == 0 { first } else { lie.wrapping_add(random >> 50 & 0x40000) };
            let slot = (random >> 40) as usize % 3;
            let at = meddled.geometry.control_len() + meddled.geometry.shape.word(slot);
            meddled.view.word64(at).store(word, Relaxed);
        };
        steps::meddle(meddler, || {
            for _ in 0..20 {
                let (Ok(mut tx), Ok(mut rx)) =
                    (stage.try_producer::<Triple>(0), stage.try_consumer::<Triple>(0))
                else {
                    continue;
                };
                for _ in 0..6 {
                    _ = tx.try_push(triple(1));
                    _ = tx.push_timeout(triple(1), Duration::ZERO);
                    _ = tx.push_batch(&[triple(1); 3]);
                    _ = (rx.try_recv(), rx.lag());
                    _ = rx.recv_timeout(Duration::ZERO);
                    _ = rx.recv_batch(&mut Vec::new(), 4);
                    _ = rx.try_hold().map(|held| (held.position(), held.release()));
                    _ = rx.try_hold().map(drop);
                }
            }
        });
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Push(u32),
    PushBatch(u32, usize),
    Recv(u32),
    RecvBatch(u32, usize),
    HoldAndDrop(u32),
    NewProducer(u32),
    NewConsumer(u32),
    /// Dies in the middle, and has a successor or not.
    KillProducer(u32, bool),
    KillConsumer(u32, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let end = 0..3_u32;
    prop_oneof![
        6 => end.clone().prop_map(Step::Push),
        2 => (end.clone(), 0..6_usize).prop_map(|(end, len)| Step::PushBatch(end, len)),
        6 => end.clone().prop_map(Step::Recv),
        2 => (end.clone(), 1..6_usize).prop_map(|(end, len)| Step::RecvBatch(end, len)),
        1 => end.clone().prop_map(Step::HoldAndDrop),
        1 => end.clone().prop_map(Step::NewProducer),
        1 => end.clone().prop_map(Step::NewConsumer),
        1 => (end.clone(), any::<bool>()).prop_map(|(end, new)| Step::KillProducer(end, new)),
        1 => (end, any::<bool>()).prop_map(|(end, new)| Step::KillConsumer(end, new)),
    ]
}

/// Ends that may be missing, in a ring beside a queue.
struct Crowd {
    stage: Stage,
    txs: Vec<Option<SharedProducer<Triple>>>,
    rxs: Vec<Option<SharedConsumer<Triple>>>,
    /// What waits, in order. A message that was put back keeps its place.
    model: std::collections::VecDeque<u64>,
    /// Those among them that dead consumers were receiving: they may come late.
    late: std::collections::HashSet<u64>,
    /// How many producers died in a slot.
    holes: usize,
    next: u64,
}

impl Crowd {
    fn new(capacity: u64) -> Self {
        let stage = Stage::new::<Triple>(capacity, 3, 3);
        let txs = (0..3).map(|n| Some(stage.producer(n))).collect();
        let rxs = (0..3).map(|n| Some(stage.consumer(n))).collect();
        Self {
            stage,
            txs,
            rxs,
            model: Default::default(),
            late: Default::default(),
            holes: 0,
            next: 0,
        }
    }

    /// Puts the ring in the state that the oldest waiting message was being read, or the next one
    /// being written, by one who died.
    fn die_in_slot(&mut self, consumer: Option<u32>, producer: Option<u32>) {
        if let Some(slot) = consumer
            && let Some(mut rx) = self.rxs[slot as usize].take()
        {
            if let Ok(held) = rx.try_hold() {
                self.late.insert(held.value()[0]);
                std::mem::forget(held);
            }
            self.stage.bury(Consumer, slot);
        }
        if let Some(slot) = producer
            && let Some(mut tx) = self.txs[slot as usize].take()
        {
            let (result, states) = crashes(&self.stage.view, || tx.try_push(triple(u64::MAX)));
            if result.is_ok() {
                // Back to what was there when the slot was taken and nothing was sent.
                let taken = states.iter().find(|view| {
                    let state = self.stage.with(view);
                    state.words().iter().any(|word| is_of(*word, WRITING, slot))
                });
                let taken = taken.expect("there are other producers").snapshot();
                self.stage.view.write(0, &taken);
                self.holes += 1;
            }
            self.stage.bury(Producer, slot);
        }
    }

    /// `message` was received: the first in the queue, those apart that may come late.
    fn received(&mut self, message: Triple) -> Result<(), TestCaseError> {
        let at = self.model.iter().position(|n| *n == message[0]);
        prop_assert!(at.is_some() && message == triple(message[0]), "{message:?}");
        let first = self.model.iter().position(|n| !self.late.contains(n));
        prop_assert!(self.late.contains(&message[0]) || at == first, "out of order");
        self.model.remove(at.unwrap_or(0));
        Ok(())
    }

    fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        // The slot of a message that never was is free when those before it were received; and one
        // that comes late is in the way.
        let held_up = self.holes > 0 || self.model.iter().any(|n| self.late.contains(n));
        let room = self.stage.geometry.capacity as usize - self.model.len();
        match step {
            Step::Push(slot) => {
                let Some(tx) = &mut self.txs[slot as usize] else { return Ok(()) };
                let done = tx.try_push(triple(self.next));
                prop_assert!(
                    done == Ok(()) || (done == Err(SendError::Full) && (room == 0 || held_up))
                );
                if done.is_ok() {
                    self.model.push_back(self.next);
                    self.next += 1;
                }
            }
            Step::PushBatch(slot, len) => {
                let Some(tx) = &mut self.txs[slot as usize] else { return Ok(()) };
                let batch: Vec<Triple> = (self.next..).take(len).map(triple).collect();
                let done = tx.push_batch(&batch).unwrap_or(0);
                prop_assert!(done == room.min(len) || (done < room.min(len) && held_up));
                self.model.extend((self.next..).take(done));
                self.next += done as u64;
            }
            Step::Recv(slot) => {
                let Some(rx) = &mut self.rxs[slot as usize] else { return Ok(()) };
                match rx.try_recv() {
                    Ok(message) => self.received(message)?,
                    error => prop_assert!(error == Err(RecvError::Empty) && self.model.is_empty()),
                }
            }
            Step::RecvBatch(slot, max) => {
                let Some(rx) = &mut self.rxs[slot as usize] else { return Ok(()) };
                let mut batch = Vec::new();
                let count = rx.recv_batch(&mut batch, max).unwrap_or(0);
                prop_assert!(count > 0 || self.model.is_empty());
                prop_assert_eq!(batch.len(), count);
                batch.into_iter().try_for_each(|message| self.received(message))?;
            }
            Step::HoldAndDrop(slot) => {
                let Some(rx) = &mut self.rxs[slot as usize] else { return Ok(()) };
                match rx.try_hold().map(|held| held.value()) {
                    Ok(message) => prop_assert!(self.model.contains(&message[0])),
                    Err(_) => prop_assert!(self.model.is_empty()),
                }
            }
            Step::NewProducer(slot) => {
                self.txs[slot as usize] = None;
                self.txs[slot as usize] = Some(self.stage.producer(slot));
            }
            Step::NewConsumer(slot) => {
                self.rxs[slot as usize] = None;
                self.rxs[slot as usize] = Some(self.stage.consumer(slot));
            }
            Step::KillProducer(slot, successor) => {
                self.die_in_slot(None, Some(slot));
                if successor {
                    self.txs[slot as usize] = Some(self.stage.producer(slot));
                }
            }
            Step::KillConsumer(slot, successor) => {
                self.die_in_slot(Some(slot), None);
                if successor {
                    self.rxs[slot as usize] = Some(self.stage.consumer(slot));
                }
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn a_shared_ring_behaves_like_a_bounded_queue_whoever_dies(
        capacity in prop::sample::select(vec![1_u64, 2, 3, 5, 16]),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut crowd = Crowd::new(capacity);
        for step in steps {
            crowd.take(step)?;
        }
        let mut rx = match crowd.rxs.iter_mut().find_map(Option::take) {
            Some(rx) => rx,
            None => crowd.stage.consumer(0),
        };
        drain(&mut rx).into_iter().try_for_each(|message| crowd.received(message))?;
        prop_assert!(crowd.model.is_empty(), "lost: {:?}", crowd.model);
    }

    #[test]
    fn forged_words_give_values_or_errors_and_never_panic_or_hang(
        capacity in 1_u64..6,
        lies in prop::collection::vec((0_usize..120, prop_oneof![0_u64..20, any::<u64>()]), 1..60),
    ) {
        let stage = Stage::new::<u8>(capacity, 2, 2);
        stage.bury(Producer, 1);
        stage.bury(Consumer, 1);
        let (mut tx, mut rx) = (stage.producer::<u8>(0), stage.consumer::<bool>(0));
        for (index, (word, lie)) in lies.into_iter().enumerate() {
            stage.view.store64(word * 8 % stage.view.len(), lie, Relaxed);
            _ = tx.try_push(index as u8);
            _ = tx.push_batch(&[1, 2, 3]);
            _ = tx.push_timeout(1, Duration::ZERO);
            _ = (rx.lag(), rx.try_recv());
            _ = rx.recv_batch(&mut Vec::new(), 3);
            _ = rx.recv_timeout(Duration::ZERO);
            _ = rx.try_hold().map(|held| (held.position(), held.seen_before()));
            if index % 8 == 7 {
                if let Ok(fresh) = stage.try_producer(0) { tx = fresh; }
                if let Ok(fresh) = stage.try_consumer(0) { rx = fresh; }
            }
        }
    }
}

#[test]
fn an_observer_counts_what_waits_and_believes_no_geometry() {
    let at = Geometry::new(8, 8, 4, (1, 1)).unwrap();
    let payload = View::heap(at.payload_len());
    for (slot, word) in [free(3), full(2), reading(full(2), 1), writing(2, 1)].iter().enumerate() {
        payload.store64(at.shape.word(slot), *word, Relaxed);
    }
    assert_eq!(waiting_in_shared(&payload, 8, 4), Some(2));
    for (stride, capacity) in [(8, 9), (64, 4), (0, 4), (7, 4), (u64::MAX, 4), (8, u64::MAX)] {
        assert_eq!(waiting_in_shared(&payload, stride, capacity), None);
    }
}

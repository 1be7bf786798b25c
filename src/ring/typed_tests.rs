//! The promises of slot rings: order, batches, death at each store, lies, waiting.

use super::endpoint::Parts;
use super::error::{AttachError, Corruption, RecvError, SendError};
use super::layout::{CONTROL_LEN, RELEASED};
use super::position::{SlotGeometry, header_word};
use super::slots::{RawConsumer, RawProducer};
use super::testing::{FakeLink, Peer, crashes, memory, parts};
use super::typed::{Consumer, Producer};
use crate::peer::PeerState;
use crate::stats::{LINE_LEN, StatsWriter};
use crate::view::View;
use crate::wait::WaitMode;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// How long a stream may stand still before its test fails.
const PATIENCE: Duration = Duration::from_secs(10);

/// Three words, so that a torn message shows.
type Triple = [u64; 3];

fn triple(n: u64) -> Triple {
    [n, !n, n.wrapping_mul(0x9e37_79b9_7f4a_7c15)]
}

fn geometry<T>(capacity: u64) -> SlotGeometry {
    SlotGeometry::new(size_of::<T>(), capacity).unwrap()
}

fn ring<T>(capacity: u64) -> View {
    memory(geometry::<T>(capacity).bytes())
}

fn producer<T: bytemuck::NoUninit>(view: &View, capacity: u64) -> Producer<T> {
    Producer::attach(parts(view, &Peer::alive()), geometry::<T>(capacity)).unwrap()
}

fn consumer<T: bytemuck::CheckedBitPattern>(view: &View, capacity: u64) -> Consumer<T> {
    Consumer::attach(parts(view, &Peer::alive()), geometry::<T>(capacity)).unwrap()
}

/// Receives everything that is there.
fn drain(view: &View, capacity: u64) -> Vec<Triple> {
    let mut rx = consumer::<Triple>(view, capacity);
    std::iter::from_fn(|| rx.try_recv().ok()).take(1000).collect()
}

#[test]
fn messages_arrive_in_order_at_every_small_capacity() {
    for capacity in [1, 2, 3, 16] {
        let view = ring::<Triple>(capacity);
        let (mut tx, mut rx) = (producer(&view, capacity), consumer::<Triple>(&view, capacity));
        let (mut sent, mut received) = (0, 0);
        for round in 0..50 {
            while tx.len() < capacity {
                tx.try_push(triple(sent)).unwrap();
                sent += 1;
            }
            assert_eq!(tx.try_push(triple(0)), Err(SendError::Full));
            assert_eq!((tx.len(), rx.lag()), (capacity, capacity));
            for _ in 0..(round % capacity) + 1 {
                assert_eq!(rx.try_recv(), Ok(triple(received)));
                received += 1;
            }
            assert_eq!(rx.lag(), sent - received);
        }
        assert_eq!((tx.position(), rx.position()), (sent, received));
    }
}

#[test]
fn a_message_without_bytes_is_still_a_message() {
    let view = ring::<[u8; 0]>(2);
    let (mut tx, mut rx) = (producer::<[u8; 0]>(&view, 2), consumer::<[u8; 0]>(&view, 2));
    assert_eq!(tx.push_batch(&[[]; 3]), Ok(2));
    assert_eq!((rx.try_recv(), rx.try_recv()), (Ok([]), Ok([])));
    assert_eq!(rx.try_recv(), Err(RecvError::Empty));
}

#[test]
fn a_bad_value_is_an_error_and_the_next_message_follows() {
    let view = ring::<bool>(4);
    let mut tx = producer::<u8>(&view, 4);
    let mut rx = consumer::<bool>(&view, 4);
    for byte in [1, 2, 0, 3] {
        tx.try_push(byte).unwrap();
    }
    assert_eq!(rx.try_recv(), Ok(true));
    assert_eq!(rx.peek(), Err(RecvError::InvalidValue { position: 1 }));
    assert_eq!(rx.try_recv(), Err(RecvError::InvalidValue { position: 1 }));
    let mut batch = Vec::new();
    assert_eq!(rx.recv_batch(&mut batch, 9), Ok(1));
    assert_eq!(batch, [false]);
    assert_eq!(rx.recv_batch(&mut batch, 9), Err(RecvError::InvalidValue { position: 3 }));
    assert_eq!(rx.recv_batch(&mut batch, 9), Err(RecvError::Empty));
    assert_eq!(tx.len(), 0);
}

#[test]
fn a_reader_of_a_smaller_type_reads_the_front_of_each_message() {
    let capacity = 3;
    let view = ring::<Triple>(capacity);
    let mut tx = producer::<Triple>(&view, capacity);
    let front = SlotGeometry::with_stride(8, geometry::<Triple>(1).stride(), capacity).unwrap();
    let mut rx = Consumer::<u64>::attach(parts(&view, &Peer::alive()), front).unwrap();
    for n in 0..10 {
        tx.try_push(triple(n)).unwrap();
        assert_eq!(rx.try_recv(), Ok(n));
    }
}

#[test]
fn raw_ends_move_the_same_bytes_and_refuse_other_sizes() {
    let view = ring::<Triple>(4);
    let at = geometry::<Triple>(4);
    let mut tx = RawProducer::attach(parts(&view, &Peer::alive()), at).unwrap();
    let mut rx = RawConsumer::attach(parts(&view, &Peer::alive()), at).unwrap();
    let wrong = Err(SendError::WrongSize { len: 3, size: 24 });
    assert_eq!(tx.try_push(&[0; 3]), wrong);
    assert_eq!(tx.push(&[0; 3]), wrong);
    assert_eq!(tx.push_batch(&[0; 25]), Err(SendError::WrongSize { len: 25, size: 24 }));
    assert_eq!(rx.try_recv(&mut [0; 25]), Err(RecvError::WrongSize { len: 25, size: 24 }));
    let bytes: Vec<u8> = (0..3).flat_map(|n| bytemuck::cast::<_, [u8; 24]>(triple(n))).collect();
    assert_eq!(tx.push_batch(&bytes), Ok(3));
    let mut message = [0; 24];
    for n in 0..3 {
        rx.recv(&mut message).unwrap();
        assert_eq!(bytemuck::cast::<_, Triple>(message), triple(n));
    }
    assert_eq!(rx.skip(), Err(RecvError::Empty));
}

#[test]
fn all_or_none_of_a_slice_is_sent() {
    let view = ring::<u64>(4);
    let (mut tx, mut rx) = (producer::<u64>(&view, 4), consumer::<u64>(&view, 4));
    assert_eq!(tx.push_all(&[0; 5]), Err(SendError::TooLarge { len: 5, max: 4 }));
    tx.push_all(&[1, 2, 3]).unwrap();
    assert_eq!(tx.push_all(&[4, 5]), Err(SendError::Full));
    assert_eq!(tx.len(), 3);
    assert_eq!(rx.try_recv(), Ok(1));
    tx.push_all(&[4, 5]).unwrap();
    let mut all = Vec::new();
    assert_eq!(rx.recv_batch(&mut all, 9), Ok(4));
    assert_eq!(all, [2, 3, 4, 5]);
    assert_eq!(tx.push_or_drop(6), Ok(true));
    tx.push_all(&[7, 8, 9]).unwrap();
    assert_eq!(tx.push_or_drop(10), Ok(false));
    assert_eq!(tx.stats().drops, 1);
}

/// A number whose check panics at 9.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(transparent)]
struct Touchy(u64);

// SAFETY: every u64 is a valid u64, and `Touchy` is transparent over one.
#[expect(unsafe_code, reason = "a type with a check of its own")]
unsafe impl bytemuck::CheckedBitPattern for Touchy {
    type Bits = u64;

    fn is_valid_bit_pattern(bits: &u64) -> bool {
        assert!(*bits != 9, "nine");
        true
    }
}

#[test]
fn a_panic_of_the_types_own_check_leaves_a_batch_where_it_began() {
    let view = ring::<u64>(30);
    let mut tx = producer::<u64>(&view, 30);
    tx.push_all(&core::array::from_fn::<u64, 12, _>(|n| n as u64)).unwrap();
    let mut rx = consumer::<Touchy>(&view, 30);
    let mut received = Vec::new();
    let caught =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| rx.recv_batch(&mut received, 99)));
    assert!(caught.is_err());
    assert_eq!((rx.position(), rx.lag()), (0, 12));
    for n in 0..9 {
        assert_eq!(rx.try_recv(), Ok(Touchy(n)));
    }
    rx.skip().unwrap();
    assert_eq!((rx.try_recv(), rx.try_recv()), (Ok(Touchy(10)), Ok(Touchy(11))));
}

#[test]
fn a_peeked_message_is_seen_again_by_a_successor() {
    let view = ring::<u64>(4);
    let mut tx = producer::<u64>(&view, 4);
    tx.push_all(&[7, 8]).unwrap();
    let mut rx = consumer::<u64>(&view, 4);
    assert_eq!((rx.peek(), rx.position()), (Ok(7), 0));
    drop(rx);
    let mut rx = consumer::<u64>(&view, 4);
    assert_eq!((rx.peek(), rx.position()), (Ok(7), 0));
    rx.skip().unwrap();
    assert_eq!((rx.try_recv(), rx.position()), (Ok(8), 2));
}

/// Checks that a fresh pair of ends on `view` sees exactly `messages` and can go on.
fn goes_on(view: &View, capacity: u64, messages: &[Triple]) {
    let mut tx = producer::<Triple>(view, capacity);
    assert_eq!(tx.len(), messages.len() as u64);
    let mut rx = consumer::<Triple>(view, capacity);
    for message in messages {
        assert_eq!(rx.try_recv(), Ok(*message));
    }
    assert_eq!(rx.try_recv(), Err(RecvError::Empty), "a message that nobody committed");
    for n in 0..capacity * 2 {
        tx.try_push(triple(1000 + n)).unwrap();
        assert_eq!(rx.try_recv(), Ok(triple(1000 + n)));
        assert_eq!(rx.try_recv(), Err(RecvError::Empty));
    }
}

/// A peer that stores what might be true, or nearly, before each load of the other's.
#[test]
fn a_peer_that_lies_between_any_two_loads_gets_errors_and_nothing_else() {
    let mut kinds = [0_u32; 3];
    for seed in 1..20_000_u64 {
        let capacity = [4, 7, 8, 10][seed as usize % 4];
        let view = ring::<u64>(capacity);
        let (mut tx, mut rx) = (producer::<u64>(&view, capacity), consumer::<u64>(&view, capacity));
        let blocks = geometry::<u64>(capacity).blocks();
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut draw = move |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) % below
        };
        let sent = std::rc::Rc::new(std::cell::Cell::new(0_u64));
        let (told, lied) = (std::rc::Rc::clone(&sent), view.clone());
        let meddler = move || {
            let position = told.get();
            if draw(6) == 0 {
                lied.store64(RELEASED, (position + 2).saturating_sub(draw(12)), Relaxed);
            }
            if draw(6) == 0 {
                let block = position / 7 + draw(2);
                let word = header_word(block / blocks, draw(9));
                lied.store64(CONTROL_LEN + (block % blocks) as usize * 64, word, Relaxed);
            }
        };
        crate::view::steps::meddle(meddler, || {
            for n in 0..60 {
                let done = match n % 5 {
                    0 => tx.push_batch(&[1, 2, 3]).map(drop),
                    _ => tx.try_push(n),
                };
                kinds[match done {
                    Ok(()) => 0,
                    Err(SendError::Full) => 1,
                    Err(_) => 2,
                }] += 1;
                sent.set(tx.position());
                let mut received = Vec::new();
                _ = (rx.lag(), tx.len());
                if n % 16 > 5 {
                    _ = (rx.try_recv(), rx.recv_batch(&mut received, 5));
                }
                if !matches!(done, Ok(()) | Err(SendError::Full)) {
                    break;
                }
            }
        });
    }
    assert!(kinds.iter().all(|count| *count > 1000), "{kinds:?}");
}

/// All starting points: `before` messages passed, `waiting` left in the ring.
fn situations(capacity: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..=capacity * 2).flat_map(move |before| (0..=capacity).map(move |left| (before, left)))
}

fn prepare(capacity: u64, before: u64, waiting: u64) -> (View, Vec<Triple>) {
    let view = ring::<Triple>(capacity);
    let (mut tx, mut rx) = (producer(&view, capacity), consumer::<Triple>(&view, capacity));
    for n in 0..before {
        tx.try_push(triple(n)).unwrap();
        rx.try_recv().unwrap();
    }
    let left: Vec<Triple> = (before..before + waiting).map(triple).collect();
    assert!(left.iter().all(|message| tx.try_push(*message).is_ok()));
    (view, left)
}

#[test]
fn a_producer_killed_behind_any_store_leaves_its_batch_whole_or_not_at_all() {
    let mut looked_at = 0;
    for capacity in [1, 2, 3, 4] {
        for (before, waiting) in situations(capacity) {
            for batch in 1..=capacity - waiting {
                let (view, mut left) = prepare(capacity, before, waiting);
                let mut tx = producer::<Triple>(&view, capacity);
                let sent: Vec<Triple> = (500..500 + batch).map(triple).collect();
                let (result, states) = crashes(&view, || tx.push_batch(&sent));
                assert_eq!(result, Ok(batch as usize));
                let with: Vec<Triple> = left.iter().chain(&sent).copied().collect();
                let mut seen = 0;
                for state in &states {
                    // A consumer that lives on sees the old or the new, whoever comes after.
                    let now = drain(&View::of(&state.snapshot()), capacity);
                    assert!(now == left || now == with);
                    assert!((now == with) >= (seen > 0), "a committed batch went away");
                    seen += u32::from(now == with);
                    goes_on(state, capacity, &now);
                    looked_at += 1;
                }
                assert!(seen > 0);
                left.clear();
            }
        }
    }
    assert!(looked_at > 1000);
}

#[test]
fn a_producer_killed_in_a_stream_leaves_its_message_or_not() {
    let mut looked_at = 0;
    for capacity in [8, 9, 11] {
        for before in 0..2 * capacity {
            let view = ring::<Triple>(capacity);
            let (mut tx, mut rx) = (producer(&view, capacity), consumer::<Triple>(&view, capacity));
            for n in 0..before {
                tx.try_push(triple(n)).unwrap();
                rx.try_recv().unwrap();
            }
            // The producer has the slots of a line in hand from the fourth message on.
            for n in before..before + capacity {
                let waiting: Vec<Triple> = (before..n).map(triple).collect();
                let with: Vec<Triple> = (before..=n).map(triple).collect();
                let (result, states) = crashes(&view, || tx.try_push(triple(n)));
                assert_eq!((result, tx.position()), (Ok(()), n + 1));
                for state in &states {
                    let now = drain(&View::of(&state.snapshot()), capacity);
                    assert!(now == waiting || now == with);
                    goes_on(state, capacity, &now);
                    looked_at += 1;
                }
            }
            assert_eq!(tx.try_push(triple(0)), Err(SendError::Full));
        }
    }
    assert!(looked_at > 1000);
}

#[test]
fn a_producer_killed_while_it_recovers_is_recovered_from() {
    let capacity = 4;
    for (before, waiting) in situations(capacity).filter(|(_, waiting)| *waiting < 3) {
        let (view, left) = prepare(capacity, before, waiting);
        let mut tx = producer::<Triple>(&view, capacity);
        let batch: Vec<Triple> = (0..capacity - waiting).map(triple).collect();
        let (_, states) = crashes(&view, || tx.push_batch(&batch));
        for state in
            states.iter().filter(|state| drain(&View::of(&state.snapshot()), capacity) == left)
        {
            let (_, again) = crashes(state, || producer::<Triple>(state, capacity));
            for state in again {
                goes_on(&state, capacity, &left);
            }
        }
    }
}

#[test]
fn a_consumer_killed_behind_any_store_loses_and_repeats_nothing_it_released() {
    let capacity = 3;
    for (before, waiting) in situations(capacity).filter(|(_, waiting)| *waiting > 0) {
        for batch in 1..=waiting as usize {
            let (view, left) = prepare(capacity, before, waiting);
            let mut rx = consumer::<Triple>(&view, capacity);
            let mut received = Vec::new();
            let (result, states) = crashes(&view, || rx.recv_batch(&mut received, batch));
            assert_eq!((result, &received[..]), (Ok(batch), &left[..batch]));
            for state in states {
                let released = state.load64(RELEASED, Relaxed) - before;
                assert!(released == 0 || released == batch as u64);
                goes_on(&state, capacity, &left[released as usize..]);
            }
        }
    }
}

#[test]
fn an_attach_to_impossible_memory_is_a_typed_error() {
    let at = geometry::<u64>(4);
    let sealed = View::heap_read_only(CONTROL_LEN + at.bytes());
    let peer = Peer::alive();
    let attach = |view: &View| RawConsumer::attach(parts(view, &peer), at).err();
    assert_eq!(attach(&sealed), Some(AttachError::ReadOnly));
    assert!(RawProducer::attach(parts(&sealed, &peer), at).is_err());
    assert_eq!(attach(&memory(at.bytes() - 8)), Some(AttachError::Geometry));
    let unaligned = memory(at.bytes() + 64);
    let shifted = Parts {
        control: unaligned.window(64, CONTROL_LEN).unwrap(),
        payload: unaligned.window(CONTROL_LEN, at.bytes()).unwrap(),
        stats: StatsWriter::attach(View::heap(LINE_LEN)).unwrap(),
        link: Box::new(FakeLink(Arc::clone(&peer))),
    };
    assert_eq!(RawConsumer::attach(shifted, at).err(), Some(AttachError::Geometry));
    let forged = memory(at.bytes());
    forged.store64(RELEASED, u64::MAX - 2, Relaxed);
    assert_eq!(attach(&forged), Some(AttachError::Corrupt(Corruption::Released)));
    assert!(RawProducer::attach(parts(&forged, &peer), at).is_err());
    let other = Producer::<u32>::attach(parts(&memory(at.bytes()), &peer), at);
    assert_eq!(other.err(), Some(AttachError::Geometry));
}

#[test]
fn corruption_is_told_and_stays() {
    let view = ring::<u64>(2);
    let (mut tx, mut rx) = (producer::<u64>(&view, 2), consumer::<u64>(&view, 2));
    tx.push_all(&[1, 2]).unwrap();
    view.store64(RELEASED, 9, Relaxed);
    let corrupt = SendError::Corrupt(Corruption::Released);
    assert_eq!(tx.try_push(3), Err(corrupt));
    view.store64(RELEASED, 0, Relaxed);
    assert_eq!((tx.try_push(3), tx.push_batch(&[3])), (Err(corrupt), Err(corrupt)));
    assert_eq!(tx.push_all(&[3]), Err(corrupt));
    view.store64(CONTROL_LEN, 77, Relaxed);
    let corrupt = RecvError::Corrupt(Corruption::Stamp);
    assert_eq!(rx.try_recv(), Err(corrupt));
    view.store64(CONTROL_LEN, 1, Relaxed);
    assert_eq!((rx.recv(), rx.peek()), (Err(corrupt), Err(corrupt)));
}

#[test]
fn an_endpoint_used_in_a_forked_child_says_so() {
    let peer = Peer::alive();
    let view = ring::<u64>(2);
    let mut tx = Producer::attach(parts(&view, &peer), geometry::<u64>(2)).unwrap();
    let mut rx = Consumer::<u64>::attach(parts(&view, &peer), geometry::<u64>(2)).unwrap();
    tx.try_push(1_u64).unwrap();
    peer.forks.fetch_add(1, Relaxed);
    assert_eq!(
        (tx.try_push(2), tx.push_all(&[2])),
        (Err(SendError::Forked), Err(SendError::Forked))
    );
    assert_eq!((rx.try_recv(), rx.recv()), (Err(RecvError::Forked), Err(RecvError::Forked)));
    assert_eq!(view.load64(RELEASED, Relaxed), 0);
}

#[test]
fn waiting_ends_with_what_became_of_the_peer_after_everything_was_received() {
    for (state, end) in
        [(PeerState::Dead, RecvError::PeerDied), (PeerState::Closed, RecvError::Closed)]
    {
        for mode in [WaitMode::Adaptive, WaitMode::Block, WaitMode::Spin, WaitMode::Yield] {
            let (view, peer) = (ring::<u64>(4), Peer::new(state));
            let mut tx = producer::<u64>(&view, 4);
            let mut rx = Consumer::<u64>::attach(parts(&view, &peer), geometry::<u64>(4)).unwrap();
            tx.push_all(&[1, 2]).unwrap();
            rx.wait_mode(mode);
            assert_eq!((rx.recv(), rx.recv(), rx.recv()), (Ok(1), Ok(2), Err(end)));
            tx.try_push(3).unwrap();
            assert_eq!(rx.recv(), Ok(3));
            rx.outlive_peer(true);
            let timeout = Duration::from_millis(60);
            assert_eq!(rx.recv_timeout(timeout), Err(RecvError::TimedOut));
        }
    }
}

#[test]
fn a_full_ring_is_waited_for_until_its_consumer_is_gone() {
    let (view, peer) = (ring::<u64>(1), Peer::new(PeerState::Never));
    let mut tx = Producer::attach(parts(&view, &peer), geometry::<u64>(1)).unwrap();
    tx.push(1_u64).unwrap();
    assert_eq!(tx.push_timeout(2, Duration::from_millis(60)), Err(SendError::TimedOut));
    peer.becomes(PeerState::Dead);
    assert_eq!(tx.push(2), Err(SendError::PeerDied));
    peer.becomes(PeerState::Closed);
    assert_eq!(
        tx.push_deadline(2, Instant::now() + Duration::from_secs(9)),
        Err(SendError::Closed)
    );
    peer.superseded.store(true, Relaxed);
    assert_eq!(tx.push(2), Err(SendError::Superseded));
    assert_eq!(consumer::<u64>(&view, 1).recv(), Ok(1));
}

#[test]
fn non_blocking_calls_hear_of_a_dead_peer_too_and_ask_seldom() {
    let (view, peer) = (ring::<u64>(1), Peer::alive());
    let mut rx = Consumer::<u64>::attach(parts(&view, &peer), geometry::<u64>(1)).unwrap();
    let start = Instant::now();
    let mut tries = 0_u64;
    while start.elapsed() < Duration::from_millis(120) {
        assert_eq!(rx.try_recv(), Err(RecvError::Empty));
        tries += 1;
    }
    assert!(tries > 1000 && peer.asked.load(Relaxed) <= 4);
    peer.becomes(PeerState::Dead);
    let died = loop {
        match rx.try_recv() {
            Err(RecvError::Empty) => assert!(start.elapsed() < Duration::from_secs(5)),
            other => break other,
        }
    };
    assert_eq!(died, Err(RecvError::PeerDied));
}

#[test]
fn whoever_only_peeks_hears_of_a_dead_peer_too() {
    for (state, end) in
        [(PeerState::Dead, RecvError::PeerDied), (PeerState::Closed, RecvError::Closed)]
    {
        let (view, peer) = (ring::<u64>(4), Peer::new(state));
        let mut rx = Consumer::<u64>::attach(parts(&view, &peer), geometry::<u64>(4)).unwrap();
        let mut tx = producer::<u64>(&view, 4);
        tx.push(1).unwrap();
        assert_eq!(rx.peek(), Ok(1));
        rx.skip().unwrap();
        let start = Instant::now();
        let told = loop {
            match rx.peek() {
                Err(RecvError::Empty) => assert!(start.elapsed() < Duration::from_secs(5)),
                other => break other,
            }
        };
        assert_eq!(told, Err(end));
        tx.push(2).unwrap();
        assert_eq!((rx.peek(), rx.recv()), (Ok(2), Ok(2)));
    }
}

#[test]
fn a_cancelled_wait_ends_at_once_and_a_message_goes_first() {
    for mode in [WaitMode::Adaptive, WaitMode::Block, WaitMode::Spin, WaitMode::Yield] {
        let view = ring::<u64>(2);
        let (mut tx, mut rx) = (producer::<u64>(&view, 2), consumer::<u64>(&view, 2));
        rx.wait_mode(mode);
        let canceller = rx.canceller();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(5));
                canceller.cancel();
            });
            assert_eq!(rx.recv(), Err(RecvError::Cancelled));
        });
        tx.push(5).unwrap();
        assert_eq!((rx.recv(), rx.recv()), (Ok(5), Err(RecvError::Cancelled)));
        canceller.reset();
        assert_eq!(rx.recv_timeout(Duration::from_millis(1)), Err(RecvError::TimedOut));
        drop(rx);
        canceller.cancel();
    }
}

#[test]
fn a_new_peer_is_told_once() {
    let (view, peer) = (ring::<u64>(2), Peer::alive());
    let mut rx = Consumer::<u64>::attach(parts(&view, &peer), geometry::<u64>(2)).unwrap();
    assert_eq!(rx.peer_changed(), None);
    peer.epoch.store(4, Relaxed);
    let change = rx.peer_changed().unwrap();
    assert_eq!((change.old_epoch, change.new_epoch), (1, 4));
    assert_eq!((rx.peer_changed(), rx.peer()), (None, PeerState::Alive));
}

/// Streams `count` messages between two threads and checks each.
fn stream(count: u64, capacity: u64, modes: (WaitMode, WaitMode), batch: usize) {
    let view = ring::<Triple>(capacity);
    let (mut tx, mut rx) =
        (producer::<Triple>(&view, capacity), consumer::<Triple>(&view, capacity));
    tx.wait_mode(modes.0);
    rx.wait_mode(modes.1);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut sent = 0;
            while sent < count {
                let messages: Vec<Triple> =
                    (sent..count.min(sent + batch as u64)).map(triple).collect();
                match tx.push_batch(&messages) {
                    Ok(done) => sent += done as u64,
                    Err(SendError::Full) => {
                        tx.push_timeout(triple(sent), PATIENCE).unwrap();
                        sent += 1;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        });
        for n in 0..count {
            assert_eq!(rx.recv_timeout(PATIENCE), Ok(triple(n)));
        }
        assert_eq!(rx.try_recv(), Err(RecvError::Empty));
    });
}

#[test]
fn streams_between_threads_arrive_whole_and_in_order() {
    use WaitMode::{Adaptive, Block, Spin, Yield};
    stream(300_000, 1024, (Adaptive, Adaptive), 1);
    stream(50_000, 64, (Spin, Spin), 16);
    stream(20_000, 3, (Block, Block), 2);
    stream(20_000, 1, (Yield, Adaptive), 1);
    stream(20_000, 16, (Block, Spin), 5);
}

#[test]
fn ping_pong_of_sleepers_never_waits_for_a_slice() {
    let (there, back) = (ring::<u64>(1), ring::<u64>(1));
    let (mut tx, mut rx) = (producer::<u64>(&there, 1), consumer::<u64>(&back, 1));
    let (mut far_tx, mut far_rx) = (producer::<u64>(&back, 1), consumer::<u64>(&there, 1));
    rx.wait_mode(WaitMode::Block);
    far_rx.wait_mode(WaitMode::Block);
    let rounds = 3000;
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for _ in 0..rounds {
                far_tx.push(far_rx.recv().unwrap()).unwrap();
            }
        });
        for n in 0..rounds {
            tx.push(n).unwrap();
            assert_eq!(rx.recv(), Ok(n));
        }
    });
    // A wake that is lost costs a slice of 50 ms.
    assert!(start.elapsed() < Duration::from_millis(50) * 60, "{:?}", start.elapsed());
    assert!(rx.stats().sleeps > 0);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Push,
    PushBatch(usize),
    PushAll(usize),
    Recv,
    RecvBatch(usize),
    Peek,
    NewProducer,
    NewConsumer,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Push),
        2 => (0_usize..6).prop_map(Step::PushBatch),
        1 => (0_usize..6).prop_map(Step::PushAll),
        4 => Just(Step::Recv),
        2 => (1_usize..6).prop_map(Step::RecvBatch),
        1 => Just(Step::Peek),
        1 => Just(Step::NewProducer),
        1 => Just(Step::NewConsumer),
    ]
}

/// Takes the same steps with a ring and with a queue.
fn behaves_like_a_queue<T>(
    capacity: u64,
    steps: &[Step],
    make: fn(u64) -> T,
) -> Result<(), TestCaseError>
where
    T: bytemuck::NoUninit + bytemuck::CheckedBitPattern + PartialEq + core::fmt::Debug,
{
    let view = ring::<T>(capacity);
    let mut tx = producer::<T>(&view, capacity);
    let mut rx = consumer::<T>(&view, capacity);
    let mut model = VecDeque::new();
    let mut next = 0..;
    for step in steps.iter().copied() {
        let room = capacity as usize - model.len();
        match step {
            Step::Push => {
                let n = next.next().unwrap();
                let expected = if room > 0 { Ok(()) } else { Err(SendError::Full) };
                prop_assert_eq!(tx.try_push(make(n)), expected);
                if room > 0 {
                    model.push_back(n);
                }
            }
            Step::PushBatch(len) => {
                let batch: Vec<u64> = next.by_ref().take(len).collect();
                let messages: Vec<T> = batch.iter().copied().map(make).collect();
                let fit = room.min(len);
                let expected = if len > 0 && room == 0 { Err(SendError::Full) } else { Ok(fit) };
                prop_assert_eq!(tx.push_batch(&messages), expected);
                model.extend(&batch[..fit]);
            }
            Step::PushAll(len) => {
                let batch: Vec<u64> = next.by_ref().take(len).collect();
                let messages: Vec<T> = batch.iter().copied().map(make).collect();
                let done = tx.push_all(&messages);
                prop_assert_eq!(done.is_ok(), len <= room);
                if len <= room {
                    model.extend(batch);
                }
            }
            Step::Recv => {
                let expected = model.pop_front().map(make).ok_or(RecvError::Empty);
                prop_assert_eq!(rx.try_recv(), expected);
            }
            Step::RecvBatch(max) => {
                let mut batch = Vec::new();
                let count = max.min(model.len());
                let expected = if count > 0 { Ok(count) } else { Err(RecvError::Empty) };
                prop_assert_eq!(rx.recv_batch(&mut batch, max), expected);
                let wanted: Vec<T> = model.drain(..count).map(make).collect();
                prop_assert_eq!(batch, wanted);
            }
            Step::Peek => {
                let expected = model.front().copied().map(make).ok_or(RecvError::Empty);
                prop_assert_eq!(rx.peek(), expected);
            }
            Step::NewProducer => {
                drop(tx);
                tx = producer(&view, capacity);
            }
            Step::NewConsumer => {
                drop(rx);
                rx = consumer(&view, capacity);
            }
        }
        prop_assert_eq!(tx.len(), model.len() as u64);
        prop_assert_eq!(rx.lag(), model.len() as u64);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_ring_behaves_like_a_bounded_queue(
        capacity in prop::sample::select(vec![1_u64, 2, 3, 5, 16, 21]),
        steps in prop::collection::vec(step(), 1..200),
    ) {
        behaves_like_a_queue(capacity, &steps, triple)?;
        behaves_like_a_queue(capacity, &steps, |n| n)?;
        behaves_like_a_queue(capacity, &steps, |n| n as u16)?;
        behaves_like_a_queue(capacity, &steps, |n| [n; 9])?;
    }

    #[test]
    fn forged_words_give_values_or_errors_and_never_panic_or_hang(
        capacity in 1_u64..6,
        lies in prop::collection::vec((0_usize..80, prop_oneof![0_u64..20, any::<u64>()]), 1..60),
    ) {
        let view = ring::<bool>(capacity);
        let (mut tx, mut rx) = (producer::<u8>(&view, capacity), consumer::<bool>(&view, capacity));
        let mut batch = Vec::new();
        for (index, (word, lie)) in lies.into_iter().enumerate() {
            let offset = word * 8 % view.len();
            view.store64(offset, lie, Relaxed);
            _ = tx.try_push(index as u8);
            _ = tx.push_batch(&[1, 2, 3]);
            _ = tx.push_timeout(1, Duration::ZERO);
            _ = (tx.len(), rx.lag());
            _ = rx.try_recv();
            _ = rx.recv_batch(&mut batch, 3);
            _ = rx.recv_timeout(Duration::ZERO);
            _ = rx.peek();
            if index % 8 != 7 {
                continue;
            }
            let parts = || parts(&view, &Peer::alive());
            if let Ok(fresh) = Producer::attach(parts(), geometry::<u8>(capacity)) { tx = fresh; }
            if let Ok(fresh) = Consumer::attach(parts(), geometry::<u8>(capacity)) { rx = fresh; }
        }
    }
}

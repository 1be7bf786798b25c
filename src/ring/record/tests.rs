//! The promises of record rings: any length, batches, death at each store, lies, files.

use super::{RecordConsumer, RecordProducer};
use crate::peer::PeerState;
use crate::ring::error::{AttachError, Corruption, RecvError, SendError};
use crate::ring::layout::{COMMITTED, CONTROL_LEN, EXTENDED, PADDING, RELEASED};
use crate::ring::position::RecordGeometry;
use crate::ring::testing::{Peer, crashes, memory, parts};
use crate::view::View;
use crate::wait::WaitMode;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::io::{Read, Seek, Write};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// How long a stream may stand still before its test fails.
const PATIENCE: Duration = Duration::from_secs(10);

fn geometry(capacity: u64, align: u64, user_header: u64) -> RecordGeometry {
    RecordGeometry::new(capacity, align, user_header).unwrap()
}

fn small(capacity: u64) -> RecordGeometry {
    geometry(capacity, 8, 0)
}

fn ring(at: RecordGeometry) -> View {
    memory(at.capacity() as usize)
}

fn producer(view: &View, at: RecordGeometry) -> RecordProducer {
    RecordProducer::attach(parts(view, &Peer::alive()), at).unwrap()
}

fn consumer(view: &View, at: RecordGeometry) -> RecordConsumer {
    RecordConsumer::attach(parts(view, &Peer::alive()), at).unwrap()
}

/// A message that no other length or number can be mistaken for.
fn message(n: u64, len: usize) -> Vec<u8> {
    let seed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ len as u64;
    (0..len).map(|i| (seed >> (i % 8 * 8)) as u8 ^ i as u8 | 1).collect()
}

fn take(rx: &mut RecordConsumer) -> Result<Vec<u8>, RecvError> {
    let record = rx.try_read()?;
    let bytes = record.to_vec();
    record.release();
    Ok(bytes)
}

fn drain(view: &View, at: RecordGeometry) -> Vec<Vec<u8>> {
    let mut rx = consumer(view, at);
    std::iter::from_fn(|| take(&mut rx).ok()).take(1000).collect()
}

#[test]
fn a_header_word_that_comes_and_goes_holds_nobody_up() {
    let at = small(256);
    let view = ring(at);
    let (mut tx, mut rx) = (producer(&view, at), consumer(&view, at));
    tx.try_push(b"one").unwrap();
    let (word, lied) = (view.load64(CONTROL_LEN, Relaxed), view.clone());
    let mut loads = 0;
    let meddler = move || {
        loads += 1;
        assert!(loads < 100, "it looks for ever");
        lied.store64(CONTROL_LEN, if loads % 2 == 0 { word } else { 0 }, Relaxed);
    };
    let len = crate::view::steps::meddle(meddler, || rx.try_read().map(|record| record.len()));
    assert_eq!(len, Ok(3));
}

#[test]
fn what_a_forked_child_finishes_of_its_parents_work_has_no_effect() {
    let at = small(256);
    let view = ring(at);
    let peer = Peer::alive();
    let mut tx = RecordProducer::attach(parts(&view, &peer), at).unwrap();
    let mut rx = RecordConsumer::attach(parts(&view, &peer), at).unwrap();
    tx.try_push(b"one").unwrap();
    let record = rx.try_read().unwrap();
    let mut room = tx.try_reserve(8).unwrap();
    let before = view.snapshot();
    peer.forks.fetch_add(1, Relaxed);
    assert_eq!(room.write_at(0, b"child"), Err(SendError::Forked));
    assert_eq!(room.set_user_header(&[]), Err(SendError::Forked));
    assert!(room.write(b"child").is_err());
    assert!(room.read_from(std::fs::File::open("/dev/zero").unwrap()).is_err());
    room.commit();
    record.release();
    assert_eq!(rx.try_read().map(drop), Err(RecvError::Forked));
    peer.forks.fetch_sub(1, Relaxed);
    let mut batch = tx.batch();
    batch.push(b"two").unwrap();
    let written = view.snapshot();
    peer.forks.fetch_add(1, Relaxed);
    batch.commit();
    assert!(view.snapshot() == written);
    peer.forks.fetch_sub(1, Relaxed);
    assert_eq!(rx.lag(), 1);
    tx.try_push(b"two").unwrap();
    assert_eq!([take(&mut rx), take(&mut rx)], [Ok(b"one".to_vec()), Ok(b"two".to_vec())]);
    assert!(before != view.snapshot());
}

#[test]
fn records_of_every_length_arrive_wherever_the_ring_stands() {
    for at in [small(16), small(24), small(64), geometry(256, 64, 8), geometry(512, 16, 24)] {
        let view = ring(at);
        let (mut tx, mut rx) = (producer(&view, at), consumer(&view, at));
        let max = tx.len_max();
        for n in 0..400_u64 {
            let len = (n as usize * 7) % (max + 1);
            tx.try_push(&message(n, len)).unwrap();
            assert_eq!(rx.lag(), 1);
            assert_eq!(take(&mut rx).unwrap(), message(n, len));
            tx.try_push(&message(n, max)).unwrap();
            assert_eq!(take(&mut rx).unwrap(), message(n, max));
            assert!(tx.is_empty());
        }
        let too_large = SendError::TooLarge { len: max + 1, max };
        assert_eq!(tx.try_push(&vec![0; max + 1]), Err(too_large));
        assert_eq!(tx.push(&vec![0; max + 1]), Err(too_large));
        assert_eq!(
            tx.reserve(usize::MAX).err(),
            Some(SendError::TooLarge { len: usize::MAX, max })
        );
    }
}

#[test]
fn an_aborted_reservation_leaves_nothing() {
    let at = geometry(256, 8, 8);
    let view = ring(at);
    let (mut tx, mut rx) = (producer(&view, at), consumer(&view, at));
    for n in 0..50 {
        let mut reservation = tx.try_reserve(40).unwrap();
        reservation.write_at(0, &[0xff; 40]).unwrap();
        reservation.set_user_header(&[0xff; 8]).unwrap();
        drop(reservation);
        let mut batch = tx.batch();
        batch.push(&[0xee; 30]).unwrap();
        batch.push(&[0xee; 30]).unwrap();
        drop(batch);
        assert_eq!(take(&mut rx), Err(RecvError::Empty));
        tx.push(&message(n, 9)).unwrap();
        let record = rx.try_read().unwrap();
        let mut header = [1; 8];
        assert_eq!((record.user_header(&mut header), header), (8, [0; 8]));
        assert_eq!(record.to_vec(), message(n, 9));
        record.release();
    }
}

#[test]
fn a_reservation_takes_parts_a_header_and_a_shorter_end() {
    let at = geometry(512, 64, 16);
    let view = ring(at);
    let (mut tx, mut rx) = (producer(&view, at), consumer(&view, at));
    let mut reservation = tx.reserve(100).unwrap();
    assert_eq!((reservation.len(), reservation.position()), (100, 0));
    assert_eq!(reservation.write_at(98, b"abc"), Err(SendError::TooLarge { len: 101, max: 100 }));
    assert_eq!(
        reservation.write_at(usize::MAX, b"abc"),
        Err(SendError::TooLarge { len: usize::MAX, max: 100 })
    );
    reservation.write_at(4, b"5678").unwrap();
    reservation.write_at(0, b"1234").unwrap();
    assert!(reservation.set_user_header(&[1; 17]).is_err());
    reservation.set_user_header(b"head").unwrap();
    assert!(reservation.as_mut_slice().is_none(), "a slice without trust");
    reservation.commit_len(8);
    let record = rx.read().unwrap();
    assert_eq!((record.len(), record.position(), record.is_empty()), (8, 0, false));
    assert_eq!(record.to_vec(), b"12345678");
    assert_eq!(record.read_at::<u32>(4), Some(u32::from_ne_bytes(*b"5678")));
    assert_eq!((record.read_at::<u32>(5), record.read_at::<u64>(usize::MAX)), (None, None));
    assert_eq!(record.read_at::<bool>(0), None);
    let mut header = [9; 20];
    assert_eq!(record.user_header(&mut header), 16);
    assert_eq!(&header[..6], b"head\0\0");
    let mut back = [0; 3];
    assert_eq!((record.copy_from(6, &mut back), &back), (2, b"78\0"));
    assert_eq!(record.copy_from(99, &mut back), 0);
    assert!(record.as_slice().is_none());
    record.release();
    let mut reservation = tx.reserve(20).unwrap();
    reservation.write_all(b"hello ").unwrap();
    reservation.write_all(b"there").unwrap();
    assert_eq!(reservation.written(), 11);
    reservation.commit_written();
    assert_eq!(take(&mut rx).unwrap(), b"hello there");
}

#[test]
#[expect(unsafe_code, reason = "both ends are ours")]
fn a_trusted_peer_is_read_and_written_in_place() {
    let at = small(4096);
    let view = ring(at);
    let (mut tx, mut rx) = (producer(&view, at), consumer(&view, at));
    // SAFETY: nobody else has this memory, and the two ends below follow the protocol.
    unsafe { tx.trust_peer() };
    // SAFETY: as above.
    unsafe { rx.trust_peer() };
    let mut reservation = tx.reserve(1000).unwrap();
    reservation.as_mut_slice().unwrap().copy_from_slice(&message(1, 1000));
    reservation.commit();
    let record = rx.read().unwrap();
    assert_eq!(record.as_slice().unwrap(), message(1, 1000));
    record.release();
}

#[test]
fn records_pass_from_file_to_file() {
    let at = small(64 * 1024);
    let view = ring(at);
    let (mut tx, mut rx) = (producer(&view, at), consumer(&view, at));
    let mut source = tempfile::tempfile().unwrap();
    source.write_all(&message(3, 10_000)).unwrap();
    source.rewind().unwrap();
    let mut reservation = tx.reserve(16_384).unwrap();
    while reservation.read_from(&source).unwrap() > 0 {}
    assert_eq!(reservation.written(), 10_000);
    reservation.commit_written();
    let mut target = tempfile::tempfile().unwrap();
    let record = rx.read().unwrap();
    record.write_to(&target).unwrap();
    let mut chunks = Vec::new();
    record.for_each_chunk(|chunk| chunks.extend_from_slice(chunk));
    assert_eq!(chunks, message(3, 10_000));
    assert_eq!(record.write_from(10_000, &target).unwrap(), 0);
    let sum = record.checksum();
    record.release();
    tx.push(&message(3, 10_000)).unwrap();
    assert_eq!(rx.read().unwrap().checksum(), sum);
    target.rewind().unwrap();
    let mut bytes = Vec::new();
    target.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, message(3, 10_000));
}

#[test]
fn the_checksum_is_fnv_1a() {
    let view = ring(small(64));
    let (mut tx, mut rx) = (producer(&view, small(64)), consumer(&view, small(64)));
    tx.push(b"a").unwrap();
    assert_eq!(rx.read().unwrap().checksum(), 0xaf63_dc4c_8601_ec8c);
}

#[test]
fn held_records_are_seen_again_until_they_are_released() {
    let at = small(256);
    let view = ring(at);
    let (mut tx, mut rx) = (producer(&view, at), consumer(&view, at));
    for n in 0..5 {
        tx.push(&message(n, 12)).unwrap();
    }
    assert_eq!(rx.try_read().unwrap().to_vec(), message(0, 12));
    rx.try_read().unwrap().hold();
    rx.try_read().unwrap().hold();
    assert_eq!((rx.held(), rx.released(), rx.position()), (2, 0, 48));
    let third = rx.try_read().unwrap();
    assert_eq!((third.to_vec(), third.position()), (message(2, 12), 48));
    drop(rx);
    let mut rx = consumer(&view, at);
    rx.try_read().unwrap().hold();
    rx.rewind();
    assert_eq!((rx.held(), rx.position()), (0, 0));
    rx.try_read().unwrap().hold();
    rx.try_read().unwrap().hold();
    assert_eq!((rx.release_held(), rx.release_held()), (2, 0));
    assert_eq!(rx.stats().messages, 2);
    drop(rx);
    let mut rx = consumer(&view, at);
    rx.try_read().unwrap().hold();
    rx.try_read().unwrap().release();
    assert_eq!((rx.held(), rx.lag()), (0, 1));
    assert_eq!(take(&mut rx).unwrap(), message(4, 12));
    assert!(tx.is_empty());
}

/// Checks that a fresh pair of ends on `view` sees exactly `messages` and can go on.
fn goes_on(view: &View, at: RecordGeometry, messages: &[Vec<u8>]) {
    let mut tx = producer(view, at);
    let mut rx = consumer(view, at);
    assert_eq!(rx.lag(), messages.len() as u64);
    for message in messages {
        assert_eq!(&take(&mut rx).unwrap(), message);
    }
    assert_eq!(take(&mut rx), Err(RecvError::Empty), "a record that nobody committed");
    assert!(tx.is_empty());
    for n in 0..at.capacity() / 8 {
        let next = message(1000 + n, n as usize * 5 % (tx.len_max() + 1));
        tx.try_push(&next).unwrap();
        assert_eq!(take(&mut rx).unwrap(), next);
        assert_eq!(take(&mut rx), Err(RecvError::Empty));
    }
}

/// A ring on which `before` bytes worth of short records passed, with what is left in it.
fn prepare(at: RecordGeometry, passed: u64, waiting: usize) -> Option<(View, Vec<Vec<u8>>)> {
    let view = ring(at);
    let (mut tx, mut rx) = (producer(&view, at), consumer(&view, at));
    for n in 0..passed {
        // Bytes that would make a committed header if they were taken for one.
        let len = (n as usize * 3) % (tx.len_max() + 1);
        tx.try_push(&vec![0x80; len]).unwrap();
        take(&mut rx).unwrap();
    }
    let left: Vec<Vec<u8>> = (0..waiting).map(|n| message(n as u64, 5 + n)).collect();
    for message in &left {
        tx.try_push(message).ok()?;
    }
    Some((view, left))
}

#[test]
fn a_producer_killed_behind_any_store_leaves_its_batch_whole_or_not_at_all() {
    let (mut looked_at, mut padded) = (0, 0);
    for at in [small(64), small(96), geometry(128, 32, 8)] {
        for (passed, waiting) in (0..12).flat_map(|passed| (0..3).map(move |left| (passed, left))) {
            for lengths in [&[0][..], &[3], &[20], &[1, 9], &[8, 0, 2]] {
                let Some((view, left)) = prepare(at, passed, waiting) else {
                    continue;
                };
                let mut tx = producer(&view, at);
                let sent: Vec<Vec<u8>> =
                    lengths.iter().map(|len| message(77 + *len as u64, *len)).collect();
                let start = tx.position();
                let (result, states) = crashes(&view, || {
                    let mut batch = tx.batch();
                    sent.iter().try_for_each(|message| batch.push(message))?;
                    batch.commit();
                    Ok::<(), SendError>(())
                });
                let with: Vec<Vec<u8>> = left.iter().chain(&sent).cloned().collect();
                padded += u64::from(tx.position() / at.capacity() > start / at.capacity());
                let mut committed = false;
                for state in &states {
                    let now = drain(&View::of(&state.snapshot()), at);
                    assert!(now == left || now == with, "{now:?} is neither old nor new");
                    assert!(now == with || !committed, "a committed batch went away");
                    committed = now == with;
                    goes_on(state, at, &now);
                    looked_at += 1;
                }
                assert_eq!(committed, result.is_ok());
            }
        }
    }
    assert!(looked_at > 1000 && padded > 10, "{looked_at} states, {padded} wraps");
}

#[test]
fn a_consumer_killed_behind_any_store_loses_and_repeats_nothing_it_released() {
    let at = small(96);
    for (passed, waiting) in (0..12).flat_map(|passed| (1..4).map(move |left| (passed, left))) {
        let Some((view, left)) = prepare(at, passed, waiting) else {
            continue;
        };
        let mut rx = consumer(&view, at);
        let before = rx.released();
        let (_, states) = crashes(&view, || {
            for _ in 0..waiting {
                rx.try_read().unwrap().hold();
            }
            rx.release_held()
        });
        for state in states {
            let released = state.load64(RELEASED, Relaxed) != before;
            goes_on(&state, at, if released { &[] } else { &left });
        }
    }
}

#[test]
fn forged_headers_are_told_by_kind_and_stay() {
    let at = small(64);
    let forged = [
        (1 << 62, Corruption::Header),
        (COMMITTED | (1 << 50), Corruption::Header),
        (COMMITTED | EXTENDED, Corruption::UnknownFeature),
        (COMMITTED | 64, Corruption::Length),
        (COMMITTED | ((1 << 48) - 1), Corruption::Length),
        (COMMITTED | PADDING | 56, Corruption::Padding),
        (u64::MAX, Corruption::Header),
    ];
    for (word, corruption) in forged {
        let view = ring(at);
        let mut rx = consumer(&view, at);
        view.store64(CONTROL_LEN, word, Relaxed);
        assert_eq!(take(&mut rx), Err(RecvError::Corrupt(corruption)), "{word:x}");
        let attach = RecordProducer::attach(parts(&view, &Peer::alive()), at);
        assert_eq!(attach.err(), Some(AttachError::Corrupt(corruption)));
        view.store64(CONTROL_LEN, 0, Relaxed);
        assert_eq!(take(&mut rx), Err(RecvError::Corrupt(corruption)));
    }
    let view = ring(at);
    let mut tx = producer(&view, at);
    tx.push(&[1; 24]).unwrap();
    view.store64(RELEASED, 4, Relaxed);
    assert_eq!(tx.try_push(&[1; 24]), Err(SendError::Corrupt(Corruption::Released)));
    view.store64(RELEASED, 32, Relaxed);
    assert_eq!(tx.try_push(&[1; 24]), Err(SendError::Corrupt(Corruption::Released)));
}

#[test]
fn an_attach_to_impossible_memory_is_a_typed_error() {
    let at = geometry(4096, 1024, 0);
    let peer = Peer::alive();
    let sealed = View::heap_read_only(CONTROL_LEN + 4096);
    assert_eq!(
        RecordConsumer::attach(parts(&sealed, &peer), at).err(),
        Some(AttachError::ReadOnly)
    );
    // The payload lies at 512, which is no multiple of 1024.
    let view = memory(4096);
    assert_eq!(RecordProducer::attach(parts(&view, &peer), at).err(), Some(AttachError::Geometry));
    let view = memory(64);
    let attach = RecordProducer::attach(parts(&view, &peer), small(72));
    assert_eq!(attach.err(), Some(AttachError::Geometry));
    view.store64(RELEASED, u64::MAX - 7, Relaxed);
    let attach = RecordProducer::attach(parts(&view, &peer), small(64));
    assert_eq!(attach.err(), Some(AttachError::Corrupt(Corruption::Released)));
}

#[test]
fn waits_end_with_what_became_of_the_peer() {
    let at = small(64);
    let (view, peer) = (ring(at), Peer::new(PeerState::Dead));
    let mut tx = RecordProducer::attach(parts(&view, &peer), at).unwrap();
    let mut rx = RecordConsumer::attach(parts(&view, &peer), at).unwrap();
    tx.push(&[1; 24]).unwrap();
    assert_eq!(tx.push(&[1; 24]), Err(SendError::PeerDied));
    rx.read().unwrap().release();
    assert_eq!(rx.read().err(), Some(RecvError::PeerDied));
    peer.becomes(PeerState::Closed);
    assert_eq!(rx.read().err(), Some(RecvError::Closed));
    peer.becomes(PeerState::Never);
    assert_eq!(rx.read_timeout(Duration::from_millis(1)).err(), Some(RecvError::TimedOut));
    tx.push(&[1; 24]).unwrap();
    let timeout = Duration::from_millis(1);
    assert_eq!(tx.push_timeout(&[1; 24], timeout), Err(SendError::TimedOut));
    assert_eq!(tx.reserve_timeout(24, timeout).err(), Some(SendError::TimedOut));
    rx.canceller().cancel();
    rx.read().unwrap().release();
    assert_eq!(rx.read().err(), Some(RecvError::Cancelled));
    peer.forks.fetch_add(1, Relaxed);
    assert_eq!(rx.try_read().err(), Some(RecvError::Forked));
    assert_eq!(tx.try_push(&[]), Err(SendError::Forked));
}

/// Streams records of changing length between two threads and checks each.
fn stream(count: u64, at: RecordGeometry, modes: (WaitMode, WaitMode), batch: u64) {
    let view = ring(at);
    let (mut tx, mut rx) = (producer(&view, at), consumer(&view, at));
    tx.wait_mode(modes.0);
    rx.wait_mode(modes.1);
    let max = tx.len_max() as u64;
    let nth = move |n: u64| message(n, (n * 13 % (max + 1)) as usize);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut sent = 0;
            while sent < count {
                let mut together = tx.batch();
                while together.len() < batch && sent < count && together.push(&nth(sent)).is_ok() {
                    sent += 1;
                }
                if together.is_empty() {
                    drop(together);
                    tx.push_timeout(&nth(sent), PATIENCE).unwrap();
                    sent += 1;
                } else {
                    together.commit();
                }
            }
        });
        let mut bytes = Vec::new();
        for n in 0..count {
            let record = rx.read_timeout(PATIENCE).unwrap();
            record.copy_into(&mut bytes);
            record.release();
            assert_eq!(bytes, nth(n));
        }
        assert_eq!(take(&mut rx), Err(RecvError::Empty));
    });
}

#[test]
fn streams_between_threads_arrive_whole_and_in_order() {
    use WaitMode::{Adaptive, Block, Spin, Yield};
    stream(50_000, small(4096), (Adaptive, Adaptive), 1);
    stream(5_000, geometry(1024, 64, 8), (Spin, Spin), 4);
    stream(10_000, small(64), (Block, Block), 2);
    stream(10_000, small(48), (Yield, Block), 1);
}

#[derive(Clone, Debug)]
enum Step {
    Push(usize),
    Batch(Vec<usize>, bool),
    Shorten(usize, usize),
    Abort(usize),
    Take,
    HoldAll,
    NewProducer,
    NewConsumer,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_usize..70).prop_map(Step::Push),
        2 => (prop::collection::vec(0_usize..40, 0..5), any::<bool>())
            .prop_map(|(lengths, commit)| Step::Batch(lengths, commit)),
        1 => (0_usize..70, 0_usize..70).prop_map(|(len, cut)| Step::Shorten(len, cut)),
        1 => (0_usize..70).prop_map(Step::Abort),
        5 => Just(Step::Take),
        1 => Just(Step::HoldAll),
        1 => Just(Step::NewProducer),
        1 => Just(Step::NewConsumer),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn a_ring_behaves_like_a_queue_whatever_its_geometry(
        (capacity, align, header) in prop::sample::select(vec![
            (16_u64, 8_u64, 0_u64), (64, 8, 0), (104, 8, 8), (128, 16, 0), (256, 64, 24), (1024, 8, 0),
        ]),
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let at = geometry(capacity, align, header);
        let view = ring(at);
        let (mut tx, mut rx) = (producer(&view, at), consumer(&view, at));
        let mut model: VecDeque<Vec<u8>> = VecDeque::new();
        for (n, step) in steps.into_iter().enumerate() {
            let n = n as u64;
            match step {
                Step::Push(len) => match tx.try_push(&message(n, len)) {
                    Ok(()) => model.push_back(message(n, len)),
                    Err(SendError::TooLarge { .. }) => prop_assert!(len > tx.len_max()),
                    Err(error) => {
                        prop_assert_eq!(error, SendError::Full);
                        prop_assert!(!model.is_empty(), "an empty ring is never full");
                    }
                },
                Step::Batch(lengths, commit) => {
                    let mut batch = tx.batch();
                    let mut sent = Vec::new();
                    for len in lengths {
                        if batch.push(&message(n, len)).is_ok() {
                            sent.push(message(n, len));
                        }
                    }
                    prop_assert_eq!(batch.len(), sent.len() as u64);
                    if commit {
                        batch.commit();
                        model.extend(sent);
                    }
                }
                Step::Shorten(len, cut) => if let Ok(mut reservation) = tx.try_reserve(len) {
                    let cut = cut.min(len);
                    reservation.write_at(0, &message(n, cut)).unwrap();
                    reservation.commit_len(cut);
                    model.push_back(message(n, cut));
                },
                Step::Abort(len) => if let Ok(mut reservation) = tx.try_reserve(len) {
                    reservation.write_at(0, &vec![0xff; len]).unwrap();
                },
                Step::Take => {
                    prop_assert_eq!(take(&mut rx), model.pop_front().ok_or(RecvError::Empty));
                }
                Step::HoldAll => {
                    let mut all = Vec::new();
                    while let Ok(record) = rx.try_read() {
                        all.push(record.to_vec());
                        record.hold();
                    }
                    prop_assert_eq!(&VecDeque::from(all), &model);
                    if n.is_multiple_of(2) { rx.rewind() } else { rx.release_held(); model.clear(); }
                }
                Step::NewProducer => { drop(tx); tx = producer(&view, at); }
                Step::NewConsumer => { drop(rx); rx = consumer(&view, at); }
            }
            prop_assert_eq!(rx.lag(), model.len() as u64);
            prop_assert_eq!(tx.is_empty(), model.is_empty());
        }
    }

    #[test]
    fn forged_words_give_records_or_errors_and_never_panic_or_hang(
        (capacity, align, header) in prop::sample::select(vec![
            (16_u64, 8_u64, 0_u64), (64, 8, 0), (256, 64, 24),
        ]),
        lies in prop::collection::vec(
            (0_usize..100, prop_oneof![
                (0_u64..80).prop_map(|len| COMMITTED | len),
                (0_u64..80).prop_map(|len| COMMITTED | PADDING | len),
                0_u64..200,
                any::<u64>(),
            ]),
            1..60,
        ),
    ) {
        let at = geometry(capacity, align, header);
        let view = ring(at);
        let (mut tx, mut rx) = (producer(&view, at), consumer(&view, at));
        for (index, (word, lie)) in lies.into_iter().enumerate() {
            view.store64(word * 8 % view.len(), lie, Relaxed);
            _ = tx.try_push(&vec![index as u8; index % 40]);
            _ = tx.push_timeout(&[1, 2, 3], Duration::ZERO);
            let mut batch = tx.batch();
            _ = (batch.push(&[1]), batch.push(&[2]));
            batch.commit();
            _ = (tx.len(), rx.lag());
            for _ in 0..4 {
                if let Ok(record) = rx.try_read() {
                    _ = (record.checksum(), record.read_at::<u64>(3), record.user_header(&mut [0; 9]));
                    if index % 2 == 0 { record.hold() } else { record.release() }
                }
            }
            _ = rx.read_timeout(Duration::ZERO).map(|record| record.release());
            if index % 3 == 0 { rx.rewind() }
            let parts = || parts(&view, &Peer::alive());
            if let Ok(fresh) = RecordProducer::attach(parts(), at) { tx = fresh; }
            if let Ok(fresh) = RecordConsumer::attach(parts(), at) { rx = fresh; }
        }
    }
}

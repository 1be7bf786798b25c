//! The promises of call cells: every call answered once, death at each store, lies, waiting.

use super::endpoint::{AttachError, Parts};
use super::layout::{
    BAD_HEADER, BAD_LENGTH, BYTES, CONTROL_LEN, HEADER, JOURNAL, Lengths, PAYLOAD_LEN,
    SEQUENCE_MAX, State,
};
use super::{Caller, Server};
use crate::outcome::{CallError, ServeError};
use crate::peer::PeerState;
use crate::stats::{LINE_LEN, StatsWriter};
use crate::view::View;
use crate::wait::WaitMode;
use crate::wait::testing::{FakeLink, Peer, crashes};
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Seven words, so that a torn request shows.
type Line = [u64; 7];
type TestCaller = Caller<Line, Line>;
type TestServer = Server<Line, Line>;

const LENGTHS: fn() -> Lengths = || Lengths::new(56, 56).unwrap();

fn line(n: u64) -> Line {
    core::array::from_fn(|i| n.wrapping_mul(2 * i as u64 + 1) ^ (i as u64) << 56)
}

/// What the servers of these tests make of a request.
fn answer_to(request: Line) -> Line {
    request.map(|word| !word)
}

fn cell() -> View {
    View::heap(CONTROL_LEN + PAYLOAD_LEN)
}

fn parts(view: &View, peer: &Arc<Peer>) -> Parts {
    Parts {
        control: view.window(0, CONTROL_LEN).unwrap(),
        payload: view.window(CONTROL_LEN, PAYLOAD_LEN).unwrap(),
        stats: StatsWriter::attach(View::heap(LINE_LEN)).unwrap(),
        link: Box::new(FakeLink(Arc::clone(peer))),
    }
}

fn caller(view: &View) -> TestCaller {
    Caller::attach(parts(view, &Peer::alive()), LENGTHS()).unwrap()
}

fn server(view: &View) -> TestServer {
    Server::attach(parts(view, &Peer::alive()), LENGTHS()).unwrap()
}

fn header(view: &View) -> u64 {
    view.load64(CONTROL_LEN + HEADER, Relaxed)
}

fn set_header(view: &View, word: u64) {
    view.store64(CONTROL_LEN + HEADER, word, Relaxed);
}

#[test]
fn each_call_gets_its_own_answer() {
    let view = cell();
    let (mut tx, mut rx) = (caller(&view), server(&view));
    for n in 1..100 {
        assert_eq!(tx.start(line(n)), Ok(n));
        assert_eq!(tx.try_finish(), Err(CallError::Pending));
        assert_eq!(rx.try_serve(answer_to), Ok(()));
        assert_eq!(rx.try_serve(answer_to), Err(ServeError::Empty));
        assert_eq!(tx.try_finish(), Ok(answer_to(line(n))));
        assert_eq!(tx.try_finish(), Err(CallError::Idle));
        assert_eq!((tx.sequence(), rx.sequence()), (n, n));
    }
    assert_eq!((tx.stats().messages, tx.stats().bytes), (99, 99 * 56));
    assert_eq!((rx.stats().messages, rx.stats().bytes), (99, 99 * 56));
}

#[test]
fn requests_and_answers_may_have_no_bytes_and_different_sizes() {
    let view = cell();
    let lengths = Lengths::new(0, 13).unwrap();
    let peer = Peer::alive();
    let mut tx = Caller::<[u8; 0], [u8; 13]>::attach(parts(&view, &peer), lengths).unwrap();
    let mut rx = Server::<[u8; 0], [u8; 13]>::attach(parts(&view, &peer), lengths).unwrap();
    for n in 0..9 {
        tx.start([]).unwrap();
        rx.serve_one(|[]| [n; 13]).unwrap();
        assert_eq!(tx.finish(), Ok([n; 13]));
    }
    let swapped = Lengths::new(13, 0).unwrap();
    let refused = Caller::<[u8; 0], [u8; 13]>::attach(parts(&view, &peer), swapped);
    assert_eq!(refused.err(), Some(AttachError::Geometry));
}

#[test]
fn a_reader_of_a_smaller_type_reads_the_front() {
    let (view, peer) = (cell(), Peer::alive());
    let mut tx = Caller::<Line, u64>::attach(parts(&view, &peer), LENGTHS()).unwrap();
    let mut rx = Server::<u64, Line>::attach(parts(&view, &peer), LENGTHS()).unwrap();
    tx.start(line(5)).unwrap();
    rx.serve_one(|first| {
        assert_eq!(first, line(5)[0]);
        line(6)
    })
    .unwrap();
    assert_eq!(tx.finish(), Ok(line(6)[0]));
}

#[test]
fn a_request_that_is_dropped_is_received_again_and_a_refused_one_is_not() {
    let view = cell();
    let (mut tx, mut rx) = (caller(&view), server(&view));
    tx.start(line(1)).unwrap();
    for _ in 0..3 {
        let request = rx.try_recv().unwrap();
        assert_eq!((request.value(), request.sequence()), (line(1), 1));
        drop(request);
    }
    assert_eq!(tx.try_finish(), Err(CallError::Pending));
    rx.recv().unwrap().refuse().unwrap();
    assert_eq!(rx.try_recv().err(), Some(ServeError::Empty));
    assert_eq!(tx.try_finish(), Err(CallError::Refused));
    assert_eq!(tx.try_finish(), Err(CallError::Idle));
    tx.start(line(2)).unwrap();
    rx.recv().unwrap().answer(line(3)).unwrap();
    assert_eq!(tx.finish(), Ok(line(3)));
}

#[test]
fn work_that_panics_leaves_the_request() {
    let view = cell();
    let (mut tx, mut rx) = (caller(&view), server(&view));
    tx.start(line(1)).unwrap();
    let work = std::panic::AssertUnwindSafe(|| rx.serve_one(|_| panic!("as the test wants")));
    assert!(std::panic::catch_unwind(work).is_err());
    assert_eq!(tx.try_finish(), Err(CallError::Pending));
    rx.serve_one(answer_to).unwrap();
    assert_eq!(tx.finish(), Ok(answer_to(line(1))));
}

#[test]
fn bad_values_are_errors_at_the_end_that_reads_them_and_the_next_call_works() {
    let (view, peer) = (cell(), Peer::alive());
    let lengths = Lengths::new(1, 1).unwrap();
    let mut tx = Caller::<u8, bool>::attach(parts(&view, &peer), lengths).unwrap();
    let mut rx = Server::<bool, u8>::attach(parts(&view, &peer), lengths).unwrap();
    tx.start(7).unwrap();
    assert_eq!(rx.try_serve(u8::from), Err(ServeError::InvalidValue { sequence: 1 }));
    assert_eq!(tx.try_finish(), Err(CallError::Refused));
    tx.start(1).unwrap();
    assert_eq!(rx.try_serve(|_| 9), Ok(()));
    assert_eq!(tx.try_finish(), Err(CallError::InvalidValue { sequence: 2 }));
    tx.start(1).unwrap();
    assert_eq!(rx.try_serve(u8::from), Ok(()));
    assert_eq!(tx.try_finish(), Ok(true));
}

#[test]
fn a_late_answer_reaches_no_other_call() {
    let view = cell();
    let (mut tx, mut rx) = (caller(&view), server(&view));
    let soon = Duration::from_millis(2);
    assert_eq!(tx.call_timeout(line(1), soon), Err(CallError::TimedOut));
    assert_eq!(tx.sequence(), 1);
    // The line is the server's: another call is not sent over it.
    assert_eq!(tx.call_timeout(line(2), soon), Err(CallError::Busy));
    assert_eq!(tx.start(line(2)), Err(CallError::Busy));
    assert_eq!(tx.sequence(), 1);
    let request = rx.try_recv().unwrap();
    assert_eq!(request.value(), line(1));
    request.answer(line(100)).unwrap();
    // Answered meanwhile: the answer is dropped, the next call goes.
    assert_eq!(tx.start(line(2)), Ok(2));
    assert_eq!(tx.try_finish(), Err(CallError::Pending));
    rx.try_serve(answer_to).unwrap();
    assert_eq!(tx.finish(), Ok(answer_to(line(2))));
    // Whoever wants the late answer may go on waiting for it.
    assert_eq!(tx.call_timeout(line(3), soon), Err(CallError::TimedOut));
    rx.try_serve(answer_to).unwrap();
    assert_eq!(tx.finish(), Ok(answer_to(line(3))));
    // A late refusal frees the line, too.
    assert_eq!(tx.call_timeout(line(4), soon), Err(CallError::TimedOut));
    rx.try_recv().unwrap().refuse().unwrap();
    assert_eq!(tx.start(line(5)), Ok(5));
}

#[test]
fn sequence_numbers_wrap_and_calls_go_on() {
    let view = cell();
    set_header(&view, LENGTHS().word(SEQUENCE_MAX - 2, State::Answer));
    let (mut tx, mut rx) = (caller(&view), server(&view));
    for sequence in [SEQUENCE_MAX - 1, SEQUENCE_MAX, 0, 1] {
        assert_eq!(tx.start(line(sequence)), Ok(sequence));
        let request = rx.recv().unwrap();
        assert_eq!(request.sequence(), sequence);
        request.answer(line(!sequence)).unwrap();
        assert_eq!(tx.finish(), Ok(line(!sequence)));
        // Both could be replaced at any time.
        (tx, rx) = (caller(&view), server(&view));
    }
}

#[test]
fn a_caller_killed_at_any_store_leaves_a_whole_request_or_none() {
    let view = cell();
    let (mut tx, mut rx) = (caller(&view), server(&view));
    tx.start(line(1)).unwrap();
    rx.serve_one(answer_to).unwrap();
    tx.finish().unwrap();
    let (started, left) = crashes(&view, || tx.start(line(2)));
    assert_eq!(started, Ok(2));
    assert!(left.len() > 8, "only {} states", left.len());
    let mut whole = 0;
    for view in left {
        let mut successor = caller(&view);
        let mut rx = server(&view);
        let pending = match rx.try_recv() {
            Ok(request) => {
                assert_eq!((request.value(), request.sequence()), (line(2), 2));
                true
            }
            Err(error) => {
                assert_eq!(error, ServeError::Empty);
                false
            }
        };
        assert_eq!(successor.try_finish(), Err(CallError::Idle));
        if pending {
            whole += 1;
            assert_eq!(successor.start(line(3)), Err(CallError::Busy));
            rx.try_serve(answer_to).unwrap();
        }
        // The dead caller's answer is nobody's.
        assert_eq!(successor.start(line(3)), Ok(2 + u64::from(pending)));
        assert_eq!(successor.try_finish(), Err(CallError::Pending));
        rx.serve_one(answer_to).unwrap();
        assert_eq!(successor.finish(), Ok(answer_to(line(3))));
    }
    assert!(whole > 0, "the request was never published");
}

/// What stands in memory after a server was killed: the request or its answer, nothing else.
fn check_after_server_death(view: &View, caller_state: &mut TestCaller) -> bool {
    let mut successor = server(view);
    match successor.try_recv() {
        Ok(request) => {
            assert_eq!((request.value(), request.sequence()), (line(2), 2), "a torn request");
            request.answer(answer_to(line(2))).unwrap();
            assert_eq!(caller_state.try_finish(), Ok(answer_to(line(2))));
            false
        }
        Err(error) => {
            assert_eq!(error, ServeError::Empty);
            assert_eq!(caller_state.try_finish(), Ok(answer_to(line(2))), "a torn answer");
            true
        }
    }
}

/// A caller on a copy of the memory that its call is outstanding in.
fn caller_with_call(before: &View, after: &View) -> TestCaller {
    let view = View::of(&before.snapshot());
    let mut tx = caller(&view);
    assert_eq!(tx.start(line(2)), Ok(2));
    // Its line becomes what the dead server left.
    tx.adopt(after.window(CONTROL_LEN, PAYLOAD_LEN).unwrap());
    tx
}

#[test]
fn a_server_killed_at_any_store_leaves_the_request_or_its_answer() {
    let view = cell();
    let (mut tx, mut rx) = (caller(&view), server(&view));
    tx.start(line(1)).unwrap();
    rx.serve_one(answer_to).unwrap();
    tx.finish().unwrap();
    let before = View::of(&view.snapshot());
    tx.start(line(2)).unwrap();
    let (served, left) = crashes(&view, || rx.serve_one(answer_to));
    assert_eq!(served, Ok(()));
    assert!(left.len() > 16, "only {} states", left.len());
    let (mut again, mut answered, mut restored) = (0, 0, 0);
    for view in left {
        // The next server is killed at any store of its attach, too.
        let mut states = vec![View::of(&view.snapshot())];
        if header(&view) == LENGTHS().word(2, State::Answering) {
            let (successor, left) = crashes(&view, || server(&view));
            std::mem::forget(successor);
            restored += left.len();
            states.extend(left);
        }
        for view in states {
            let mut tx = caller_with_call(&before, &view);
            if check_after_server_death(&view, &mut tx) { answered += 1 } else { again += 1 }
        }
    }
    assert!(again > 8 && answered > 0 && restored > 16, "{again} {answered} {restored}");
}

#[test]
fn a_server_killed_while_it_refuses_leaves_the_request_or_the_refusal() {
    let view = cell();
    let (mut tx, mut rx) = (caller(&view), server(&view));
    tx.start(line(1)).unwrap();
    let (refused, left) = crashes(&view, || rx.try_recv().unwrap().refuse());
    assert_eq!(refused, Ok(()));
    for view in left {
        let mut successor = server(&view);
        match successor.try_recv() {
            Ok(request) => assert_eq!(request.value(), line(1)),
            Err(error) => {
                assert_eq!(error, ServeError::Empty);
                assert_eq!(header(&view), LENGTHS().word(1, State::Free));
            }
        }
    }
}

#[test]
fn any_header_word_is_a_value_or_an_error_for_both_ends() {
    let words: Vec<u64> = (0..256)
        .flat_map(|low| [0, 1, 2, 3, 5, SEQUENCE_MAX].map(|sequence| sequence << 8 | low))
        .chain([u64::MAX, 1 << 63])
        .collect();
    let (mut corrupt, mut taken) = (0, 0);
    for word in words {
        let view = cell();
        let (mut tx, mut rx) = (caller(&view), server(&view));
        tx.start(line(1)).unwrap();
        rx.serve_one(answer_to).unwrap();
        tx.finish().unwrap();
        tx.start(line(2)).unwrap();
        set_header(&view, word);
        match tx.try_finish() {
            Ok(_) => taken += 1,
            Err(CallError::Pending | CallError::Refused) => {}
            Err(CallError::Corrupt(what)) => {
                corrupt += 1;
                assert_eq!(what, BAD_HEADER);
                set_header(&view, LENGTHS().word(2, State::Answer));
                assert_eq!(tx.try_finish(), Err(CallError::Corrupt(BAD_HEADER)), "for good");
                assert_eq!(tx.start(line(3)), Err(CallError::Corrupt(BAD_HEADER)));
                assert_eq!(tx.call(line(3)), Err(CallError::Corrupt(BAD_HEADER)));
            }
            Err(error) => panic!("{word:#x}: {error:?}"),
        }
        set_header(&view, word);
        match rx.try_serve(answer_to) {
            Ok(()) | Err(ServeError::Empty) => {}
            Err(ServeError::Corrupt(what)) => {
                assert_eq!(what, BAD_HEADER);
                set_header(&view, LENGTHS().word(2, State::Request));
                assert_eq!(rx.serve_one(answer_to), Err(ServeError::Corrupt(BAD_HEADER)));
            }
            Err(error) => panic!("{word:#x}: {error:?}"),
        }
        set_header(&view, word);
        match Caller::<Line, Line>::attach(parts(&view, &Peer::alive()), LENGTHS()) {
            Ok(mut tx) => assert_eq!(tx.try_finish(), Err(CallError::Idle)),
            Err(error) => assert_eq!(error, AttachError::Corrupt(BAD_LENGTH)),
        }
        match Server::<Line, Line>::attach(parts(&view, &Peer::alive()), LENGTHS()) {
            Ok(mut rx) => drop(rx.try_serve(answer_to)),
            Err(error) => assert_eq!(error, AttachError::Corrupt(BAD_LENGTH)),
        }
    }
    assert!(corrupt > 1000 && taken == 1, "{corrupt} {taken}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// A peer that stores anything anywhere between any two calls.
    #[test]
    fn a_lying_peer_gets_an_error_and_nothing_else(
        steps in prop::collection::vec(
            (0..8u8, 0..(CONTROL_LEN + PAYLOAD_LEN) / 8, prop_oneof![
                any::<u64>(),
                (0..6u64, 0..256u64).prop_map(|(sequence, low)| sequence << 8 | low),
            ]),
            1..60,
        ),
    ) {
        let view = cell();
        let (mut tx, mut rx) = (Some(caller(&view)), Some(server(&view)));
        for (step, word, value) in steps {
            match step {
                0 => view.store64(word * 8, value, Relaxed),
                1 => set_header(&view, value),
                2 => drop(tx.as_mut().map(|tx| tx.start(line(value)))),
                3 => drop(tx.as_mut().map(|tx| tx.try_finish())),
                4 => drop(rx.as_mut().map(|rx| rx.try_serve(answer_to))),
                5 => drop(rx.as_mut().map(|rx| rx.try_recv().map(drop))),
                6 => {
                    tx = Caller::attach(parts(&view, &Peer::alive()), LENGTHS()).ok();
                }
                _ => {
                    rx = Server::attach(parts(&view, &Peer::alive()), LENGTHS()).ok();
                }
            }
        }
    }

    /// Any order of calls, deadlines and deaths: an answer belongs to the call that gets it, and
    /// every request that a server sees was sent.
    #[test]
    fn answers_belong_to_their_calls(steps in prop::collection::vec(0..8u8, 1..80)) {
        let view = cell();
        let (mut tx, mut rx) = (caller(&view), server(&view));
        let (mut number, mut own, mut sent) = (0u64, None, vec![]);
        for step in steps {
            match step {
                0..=2 => {
                    number += 1;
                    match tx.start(line(number)) {
                        Ok(sequence) => {
                            own = Some(number);
                            sent.push((sequence, number));
                        }
                        Err(error) => prop_assert_eq!(error, CallError::Busy),
                    }
                }
                3 => match (tx.try_finish(), own) {
                    (Ok(answer), Some(number)) => {
                        prop_assert_eq!(answer, answer_to(line(number)));
                        own = None;
                    }
                    (Err(CallError::Pending), Some(_)) | (Err(CallError::Idle), None) => {}
                    other => prop_assert!(false, "{:?}", other),
                },
                4 | 5 => if let Ok(request) = rx.try_recv() {
                    let last = sent.last().map(|(sequence, n)| (*sequence, line(*n)));
                    prop_assert_eq!(Some((request.sequence(), request.value())), last);
                    let answer = answer_to(request.value());
                    if step == 4 {
                        request.answer(answer).unwrap();
                    }
                },
                6 => {
                    tx = caller(&view);
                    own = None;
                }
                _ => rx = server(&view),
            }
        }
    }
}

#[test]
fn short_misaligned_or_read_only_windows_make_no_end() {
    let view = cell();
    let peer = Peer::alive();
    let part = |control: &View, payload: &View| Parts {
        control: control.clone(),
        payload: payload.clone(),
        stats: StatsWriter::attach(View::heap(LINE_LEN)).unwrap(),
        link: Box::new(FakeLink(Arc::clone(&peer))),
    };
    let control = view.window(0, CONTROL_LEN).unwrap();
    let payload = view.window(CONTROL_LEN, PAYLOAD_LEN).unwrap();
    let short = view.window(0, CONTROL_LEN - 8).unwrap();
    let askew = view.window(CONTROL_LEN - 8, PAYLOAD_LEN).unwrap();
    let sealed = View::heap_read_only(CONTROL_LEN);
    for (control, payload, error) in [
        (&short, &payload, AttachError::Geometry),
        (&control, &askew, AttachError::Geometry),
        (&sealed, &payload, AttachError::ReadOnly),
        (&control, &sealed, AttachError::ReadOnly),
    ] {
        let end = Caller::<Line, Line>::attach(part(control, payload), LENGTHS());
        assert_eq!(end.err(), Some(error));
        let end = Server::<Line, Line>::attach(part(control, payload), LENGTHS());
        assert_eq!(end.err(), Some(error));
    }
    assert_eq!(JOURNAL % 8 + BYTES % 8, 0);
}

#[test]
fn a_dead_server_ends_the_call_and_the_next_one_is_not_sent() {
    let view = cell();
    let peer = Peer::alive();
    let mut tx: TestCaller = Caller::attach(parts(&view, &peer), LENGTHS()).unwrap();
    for (state, error) in
        [(PeerState::Dead, CallError::PeerDied), (PeerState::Closed, CallError::Closed)]
    {
        for mode in [WaitMode::Spin, WaitMode::Yield, WaitMode::Adaptive, WaitMode::Block] {
            tx.wait_mode(mode);
            peer.becomes(PeerState::Alive);
            let sequence = tx.sequence();
            assert_eq!(
                tx.call_timeout(line(1), Duration::from_millis(1)).err(),
                Some(if sequence == 0 { CallError::TimedOut } else { CallError::Busy }),
            );
            peer.becomes(state);
            let start = Instant::now();
            assert_eq!(tx.call(line(2)), Err(error), "{mode:?}");
            assert_eq!(tx.finish(), Err(error), "{mode:?}");
            assert!(start.elapsed() < Duration::from_secs(2));
            assert_eq!(tx.sequence(), 1, "nothing was sent over the outstanding call");
        }
    }
    // Without a wait, too, after a while.
    let start = Instant::now();
    while tx.try_finish() == Err(CallError::Pending) {
        assert!(start.elapsed() < Duration::from_secs(2));
    }
    assert_eq!(tx.finish(), Err(CallError::Closed));
    let start = Instant::now();
    while tx.start(line(2)) == Err(CallError::Busy) {
        assert!(start.elapsed() < Duration::from_secs(2));
    }
    // A successor answers; a caller that outlives its server never heard of it.
    server(&view).serve_one(answer_to).unwrap();
    assert_eq!(tx.finish(), Ok(answer_to(line(1))));
    tx.outlive_peer(true);
    tx.start(line(3)).unwrap();
    assert_eq!(tx.finish_timeout(Duration::from_millis(120)), Err(CallError::TimedOut));
}

#[test]
fn a_dead_servers_answer_is_still_taken() {
    let view = cell();
    let peer = Peer::alive();
    let mut tx: TestCaller = Caller::attach(parts(&view, &peer), LENGTHS()).unwrap();
    tx.start(line(1)).unwrap();
    server(&view).serve_one(answer_to).unwrap();
    peer.becomes(PeerState::Dead);
    assert_eq!(tx.finish(), Ok(answer_to(line(1))));
    assert_eq!(tx.call(line(2)), Err(CallError::PeerDied));
}

#[test]
fn a_server_serves_what_a_dead_caller_sent_and_then_hears_of_it() {
    let view = cell();
    let peer = Peer::alive();
    let mut rx: TestServer = Server::attach(parts(&view, &peer), LENGTHS()).unwrap();
    caller(&view).start(line(1)).unwrap();
    peer.becomes(PeerState::Dead);
    assert_eq!(rx.serve_one(answer_to), Ok(()));
    for mode in [WaitMode::Spin, WaitMode::Yield, WaitMode::Adaptive, WaitMode::Block] {
        rx.wait_mode(mode);
        assert_eq!(rx.serve_one(answer_to), Err(ServeError::PeerDied));
    }
    peer.becomes(PeerState::Closed);
    assert_eq!(rx.recv().err(), Some(ServeError::Closed));
    rx.outlive_peer(true);
    let soon = Duration::from_millis(60);
    assert_eq!(rx.serve_timeout(soon, answer_to), Err(ServeError::TimedOut));
    assert_eq!(rx.recv_deadline(Instant::now()).err(), Some(ServeError::TimedOut));
    peer.superseded.store(true, Relaxed);
    assert_eq!(rx.recv().err(), Some(ServeError::Superseded));
}

#[test]
fn a_cancelled_wait_ends_on_both_sides() {
    for mode in [WaitMode::Spin, WaitMode::Yield, WaitMode::Adaptive, WaitMode::Block] {
        let view = cell();
        let (mut tx, mut rx) = (caller(&view), server(&view));
        tx.wait_mode(mode);
        rx.wait_mode(mode);
        let (stop_tx, stop_rx) = (tx.canceller(), rx.canceller());
        std::thread::scope(|scope| {
            let serving = scope.spawn(|| {
                rx.serve_one(answer_to).unwrap();
                rx.serve_one(answer_to)
            });
            assert_eq!(tx.call(line(1)), Ok(answer_to(line(1))));
            std::thread::sleep(Duration::from_millis(2));
            stop_rx.cancel();
            assert_eq!(serving.join().unwrap(), Err(ServeError::Cancelled));
            let calling = scope.spawn(|| tx.call(line(2)));
            std::thread::sleep(Duration::from_millis(2));
            stop_tx.cancel();
            assert_eq!(calling.join().unwrap(), Err(CallError::Cancelled));
        });
        stop_rx.reset();
        rx.serve_one(answer_to).unwrap();
        assert_eq!(tx.finish(), Ok(answer_to(line(2))), "what is there is taken all the same");
    }
}

#[test]
fn ends_in_a_forked_child_answer_forked() {
    let view = cell();
    let peer = Peer::alive();
    let mut tx: TestCaller = Caller::attach(parts(&view, &peer), LENGTHS()).unwrap();
    let mut rx: TestServer = Server::attach(parts(&view, &peer), LENGTHS()).unwrap();
    tx.start(line(1)).unwrap();
    let request = rx.recv().unwrap();
    let before = view.snapshot();
    peer.forks.fetch_add(1, Relaxed);
    assert_eq!(request.answer(line(2)), Err(ServeError::Forked));
    assert_eq!(tx.try_finish(), Err(CallError::Forked));
    assert_eq!(tx.start(line(2)), Err(CallError::Forked));
    assert_eq!(tx.call(line(2)), Err(CallError::Forked));
    assert_eq!(rx.try_serve(answer_to), Err(ServeError::Forked));
    assert_eq!(rx.recv().err(), Some(ServeError::Forked));
    drop((tx, rx));
    assert_eq!(view.snapshot(), before, "the child wrote into its parent's line");
}

#[test]
fn two_threads_call_and_serve_in_every_mode() {
    for (mode, calls) in [
        (WaitMode::Spin, 4_000),
        (WaitMode::Yield, 4_000),
        (WaitMode::Adaptive, 4_000),
        (WaitMode::Block, 500),
    ] {
        let view = cell();
        let (mut tx, mut rx) = (caller(&view), server(&view));
        tx.wait_mode(mode);
        rx.wait_mode(mode);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for n in 1..=calls {
                    let request = rx.recv_timeout(Duration::from_secs(10)).unwrap();
                    assert_eq!((request.sequence(), request.value()), (n, line(n)));
                    let answer = answer_to(request.value());
                    request.answer(answer).unwrap();
                }
            });
            for n in 1..=calls {
                let answer = tx.call_timeout(line(n), Duration::from_secs(10));
                assert_eq!(answer, Ok(answer_to(line(n))), "{mode:?}");
            }
        });
    }
}

#[test]
fn deadlines_that_race_with_answers_never_mix_calls_up() {
    let view = cell();
    let (mut tx, mut rx) = (caller(&view), server(&view));
    let stop = rx.canceller();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut last = 0;
            while rx
                .serve_one(|request| {
                    assert!(request[0] > last && request == line(request[0]), "a torn request");
                    last = request[0];
                    answer_to(request)
                })
                .is_ok()
            {}
        });
        let (mut answered, mut late, mut busy) = (0, 0, 0);
        for n in 1..30_000 {
            match tx.call_timeout(line(n), Duration::from_nanos(n % 900)) {
                Ok(answer) => {
                    assert_eq!(answer, answer_to(line(n)));
                    answered += 1;
                }
                Err(CallError::TimedOut) => late += 1,
                Err(CallError::Busy) => busy += 1,
                Err(error) => panic!("{error}"),
            }
        }
        stop.cancel();
        assert!(answered > 0, "{answered} {late} {busy}");
    });
}

//! The promises of duplex channels: each answer to its call, death at each store, lies, waiting.

use super::{DuplexCaller, DuplexServer, Numbered};
use crate::outcome::{CallError, ServeError};
use crate::peer::PeerState;
use crate::ring::layout::{CONTROL_LEN, RELEASED};
use crate::ring::position::SlotGeometry;
use crate::ring::testing::{Peer, crashes, parts};
use crate::view::View;
use crate::wait::WaitMode;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Odd sizes, so that a value does not end with a word.
type Question = [u8; 21];
type Reply = [u8; 300];
type TestCaller = DuplexCaller<Question, Reply>;
type TestServer = DuplexServer<Question, Reply>;

fn question(n: u64) -> Question {
    core::array::from_fn(|i| n.wrapping_mul(31).wrapping_add(i as u64 * 7) as u8)
}

fn reply_to(question: Question) -> Reply {
    core::array::from_fn(|i| !question[i % 21] ^ i as u8)
}

/// Both rings in one piece of memory.
struct Memory {
    all: View,
    requests: View,
    responses: View,
    capacity: u64,
}

fn geometries<Req, Resp>(capacity: u64) -> [SlotGeometry; 2] {
    [size_of::<Numbered<Req>>(), size_of::<Numbered<Resp>>()]
        .map(|size| SlotGeometry::new(size, capacity).unwrap())
}

impl Memory {
    fn of(all: View, capacity: u64) -> Self {
        let [requests, responses] = geometries::<Question, Reply>(capacity)
            .map(|geometry| (CONTROL_LEN + geometry.bytes()).next_multiple_of(128));
        Self {
            requests: all.window(0, requests).unwrap(),
            responses: all.window(requests, responses).unwrap(),
            all,
            capacity,
        }
    }

    fn new(capacity: u64) -> Self {
        let bytes: usize = geometries::<Question, Reply>(capacity)
            .iter()
            .map(|geometry| (CONTROL_LEN + geometry.bytes()).next_multiple_of(128))
            .sum();
        Self::of(View::heap(bytes), capacity)
    }

    fn try_caller(&self, peer: &Arc<Peer>) -> Option<TestCaller> {
        let [to, from] = geometries::<Question, Reply>(self.capacity);
        let (requests, responses) = (parts(&self.requests, peer), parts(&self.responses, peer));
        DuplexCaller::attach((requests, to), (responses, from)).ok()
    }

    fn try_server(&self, peer: &Arc<Peer>) -> Option<TestServer> {
        let [from, to] = geometries::<Question, Reply>(self.capacity);
        let (requests, responses) = (parts(&self.requests, peer), parts(&self.responses, peer));
        DuplexServer::attach((requests, from), (responses, to)).ok()
    }

    fn caller(&self) -> TestCaller {
        self.try_caller(&Peer::alive()).unwrap()
    }

    fn server(&self) -> TestServer {
        self.try_server(&Peer::alive()).unwrap()
    }
}

#[test]
fn answers_come_in_the_order_of_the_calls_at_every_small_capacity() {
    for capacity in [1, 2, 3, 16] {
        let memory = Memory::new(capacity);
        let (mut tx, mut rx) = (memory.caller(), memory.server());
        let (mut sent, mut taken) = (0, 0);
        for _ in 0..40 {
            while let Ok(number) = tx.start(question(sent)) {
                assert_eq!(number, sent);
                sent += 1;
            }
            assert_eq!(tx.start(question(0)), Err(CallError::Busy));
            assert_eq!(tx.try_finish(), Err(CallError::Pending));
            while rx.try_serve(reply_to).is_ok() {}
            while tx.sequence() > taken {
                assert_eq!(tx.try_finish(), Ok(reply_to(question(taken))));
                taken += 1;
            }
            assert_eq!(tx.try_finish(), Err(CallError::Idle));
            assert_eq!((taken, rx.sequence()), (sent, sent));
        }
        assert_eq!((tx.stats().messages, rx.stats().messages), (sent, sent));
    }
}

#[test]
fn a_server_waits_for_room_before_it_takes_a_request() {
    let memory = Memory::new(2);
    let (mut tx, mut rx) = (memory.caller(), memory.server());
    for n in 0..2 {
        tx.start(question(n)).unwrap();
    }
    while rx.try_serve(reply_to).is_ok() {}
    for n in 2..4 {
        tx.start(question(n)).unwrap();
    }
    // Two answers wait and two requests: the third is not even looked at.
    assert_eq!(rx.try_recv().err(), Some(ServeError::Empty));
    let soon = Duration::from_millis(2);
    assert_eq!(rx.recv_timeout(soon).err(), Some(ServeError::TimedOut));
    // A call gives the four up; it is served behind them.
    std::thread::scope(|scope| {
        scope.spawn(|| (0..3).for_each(|_| rx.serve_one(reply_to).unwrap()));
        assert_eq!(tx.call(question(9)), Ok(reply_to(question(9))));
    });
    assert_eq!(tx.try_finish(), Err(CallError::Idle));
}

#[test]
fn dropped_refused_and_invalid_requests_do_what_a_call_cell_does() {
    let memory = Memory::new(4);
    let (mut tx, mut rx) = (memory.caller(), memory.server());
    tx.start(question(1)).unwrap();
    for _ in 0..3 {
        let request = rx.recv().unwrap();
        assert_eq!((request.sequence(), request.value()), (0, question(1)));
        assert_eq!(request.value_ref(), &question(1));
    }
    rx.recv().unwrap().refuse().unwrap();
    assert_eq!(tx.finish(), Err(CallError::Refused));

    let peer = Peer::alive();
    let [to, from] = geometries::<u8, bool>(4);
    let [requests, responses] =
        [to, from].map(|geometry| View::heap(CONTROL_LEN + geometry.bytes()));
    let ends = || (parts(&requests, &peer), parts(&responses, &peer));
    let (a, b) = ends();
    let mut tx = DuplexCaller::<u8, bool>::attach((a, to), (b, from)).unwrap();
    let (a, b) = ends();
    let mut rx = DuplexServer::<bool, u8>::attach((a, to), (b, from)).unwrap();
    for byte in [1, 7, 0] {
        tx.start(byte).unwrap();
    }
    assert_eq!(rx.serve_one(|_| 9), Ok(()));
    assert_eq!(rx.serve_one(u8::from), Err(ServeError::InvalidValue { sequence: 1 }));
    assert_eq!(rx.serve_one(u8::from), Ok(()));
    assert_eq!(tx.finish(), Err(CallError::InvalidValue { sequence: 0 }));
    assert_eq!(tx.finish(), Err(CallError::Refused));
    assert_eq!(tx.finish(), Ok(false));
    // Other types do not get in.
    let (a, b) = ends();
    assert!(DuplexCaller::<u16, bool>::attach((a, to), (b, from)).is_err());
}

#[test]
fn a_late_answer_reaches_no_other_call() {
    let memory = Memory::new(1);
    let (mut tx, mut rx) = (memory.caller(), memory.server());
    let soon = Duration::from_millis(2);
    assert_eq!(tx.call_timeout(question(1), soon), Err(CallError::TimedOut));
    assert_eq!(tx.call_timeout(question(2), soon), Err(CallError::Busy));
    assert_eq!(tx.sequence(), 1);
    rx.serve_one(reply_to).unwrap();
    assert_eq!(tx.start(question(3)), Ok(1));
    assert_eq!(tx.try_finish(), Err(CallError::Pending));
    rx.serve_one(reply_to).unwrap();
    assert_eq!(tx.finish(), Ok(reply_to(question(3))));
    // The late answer can be waited for.
    assert_eq!(tx.call_timeout(question(4), soon), Err(CallError::TimedOut));
    rx.serve_one(reply_to).unwrap();
    assert_eq!(tx.finish(), Ok(reply_to(question(4))));
}

#[test]
fn a_caller_killed_at_any_store_leaves_a_whole_request_or_none() {
    let memory = Memory::new(2);
    let (mut tx, mut rx) = (memory.caller(), memory.server());
    for n in 0..3 {
        tx.start(question(n)).unwrap();
        rx.serve_one(reply_to).unwrap();
        tx.finish().unwrap();
    }
    let (started, left) = crashes(&memory.all, || tx.start(question(3)));
    assert_eq!(started, Ok(3));
    let mut whole = 0;
    for all in left {
        let memory = Memory::of(all, 2);
        let (mut successor, mut rx) = (memory.caller(), memory.server());
        assert_eq!(successor.try_finish(), Err(CallError::Idle));
        if let Ok(request) = rx.try_recv() {
            assert_eq!((request.sequence(), request.value()), (3, question(3)));
            whole += 1;
        }
        successor.start(question(9)).unwrap();
        while rx.try_serve(reply_to).is_ok() {}
        assert_eq!(successor.try_finish(), Ok(reply_to(question(9))));
    }
    assert!(whole > 0);
}

#[test]
fn a_server_killed_at_any_store_leaves_the_request_or_its_answer_once() {
    let memory = Memory::new(2);
    let (mut tx, mut rx) = (memory.caller(), memory.server());
    tx.start(question(0)).unwrap();
    rx.serve_one(reply_to).unwrap();
    tx.finish().unwrap();
    tx.start(question(1)).unwrap();
    tx.start(question(2)).unwrap();
    let (served, left) = crashes(&memory.all, || rx.serve_one(reply_to));
    assert_eq!(served, Ok(()));
    let (mut again, mut answered) = (0, 0);
    for all in left {
        let memory = Memory::of(all, 2);
        let mut rx = memory.server();
        let request = rx.recv().unwrap();
        match request.sequence() {
            1 => {
                assert_eq!(request.value(), question(1));
                again += 1;
                request.answer(reply_to(question(1))).unwrap();
            }
            sequence => {
                assert_eq!((sequence, request.value()), (2, question(2)));
                answered += 1;
                drop(request);
            }
        }
        // Exactly one response stands there for call 1.
        let [_, at] = geometries::<Question, Reply>(2);
        let peer = Peer::alive();
        let mut raw =
            crate::ring::RawConsumer::attach(parts(&memory.responses, &peer), at).unwrap();
        let mut slot = [0; size_of::<Numbered<Reply>>()];
        assert_eq!(raw.try_recv(&mut slot), Ok(()));
        assert_eq!((slot[0], &slot[8..]), (1, &reply_to(question(1))[..]));
        assert!(raw.try_recv(&mut slot).is_err(), "it was answered twice");
    }
    assert!(again > 30 && answered > 0, "{again} {answered}");
}

#[test]
fn a_dead_peer_ends_the_waits_of_both_ends_in_every_mode() {
    let memory = Memory::new(1);
    let peer = Peer::alive();
    let (mut tx, mut rx) = (memory.try_caller(&peer).unwrap(), memory.try_server(&peer).unwrap());
    peer.becomes(PeerState::Dead);
    for mode in [WaitMode::Spin, WaitMode::Yield, WaitMode::Adaptive, WaitMode::Block] {
        tx.wait_mode(mode);
        rx.wait_mode(mode);
        let start = Instant::now();
        assert_eq!(tx.call(question(1)), Err(CallError::PeerDied));
        assert_eq!(tx.call(question(2)), Err(CallError::PeerDied), "there is no room");
        assert_eq!(rx.serve_one(reply_to), Ok(()), "what a dead caller asked is served");
        assert_eq!(rx.serve_one(reply_to), Err(ServeError::PeerDied));
        tx.start(question(3)).unwrap();
        assert_eq!(rx.serve_one(reply_to), Ok(()));
        assert_eq!(tx.finish(), Ok(reply_to(question(3))), "a dead server's answer");
        assert!(start.elapsed() < Duration::from_secs(2));
    }
    rx.outlive_peer(true);
    let soon = Duration::from_millis(60);
    assert_eq!(rx.serve_timeout(soon, reply_to), Err(ServeError::TimedOut));
    let stop = rx.canceller();
    stop.cancel();
    assert!(stop.is_cancelled());
    assert_eq!(rx.recv().err(), Some(ServeError::Cancelled));
    stop.reset();
    peer.forks.fetch_add(1, Relaxed);
    assert_eq!(tx.call(question(4)), Err(CallError::Forked));
    assert_eq!(rx.try_serve(reply_to), Err(ServeError::Forked));
}

#[test]
fn positions_that_contradict_each_other_make_no_end() {
    for (released, of_requests) in [(1, true), (9, true), (1, false), (9, false), (1 << 61, true)] {
        let memory = Memory::new(2);
        let ring = if of_requests { &memory.requests } else { &memory.responses };
        ring.store64(RELEASED, released, Relaxed);
        let peer = Peer::alive();
        let server = memory.try_server(&peer);
        assert!(server.is_none(), "a server at {released} {of_requests}");
        if !of_requests || released > 5 {
            let caller = memory.try_caller(&peer);
            assert!(caller.is_none(), "a caller at {released} {of_requests}");
        }
    }
}

#[test]
fn a_number_that_is_not_the_position_is_corrupt_for_good() {
    let memory = Memory::new(2);
    let [request, response] =
        geometries::<Question, Reply>(2).map(|geometry| CONTROL_LEN + geometry.shape().first);
    let (mut tx, mut rx) = (memory.caller(), memory.server());
    tx.start(question(0)).unwrap();
    memory.requests.store64(request, 5, Relaxed);
    let lie = rx.try_serve(reply_to).unwrap_err();
    assert!(matches!(lie, ServeError::Corrupt(_)));
    memory.requests.store64(request, 0, Relaxed);
    assert_eq!(rx.try_serve(reply_to), Err(lie));
    memory.server().serve_one(reply_to).unwrap();
    memory.responses.store64(response, 1, Relaxed);
    let lie = tx.try_finish().unwrap_err();
    assert!(matches!(lie, CallError::Corrupt(_)));
    assert_eq!(tx.start(question(1)), Err(lie));
    assert_eq!(tx.finish(), Err(lie));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// A peer that stores anything anywhere between any two calls.
    #[test]
    fn a_lying_peer_gets_an_error_and_nothing_else(
        steps in prop::collection::vec((0..8u8, any::<usize>(), prop_oneof![any::<u64>(), 0..6u64]), 1..60),
    ) {
        let memory = Memory::new(2);
        let peer = Peer::alive();
        let (mut tx, mut rx) = (memory.try_caller(&peer), memory.try_server(&peer));
        for (step, word, value) in steps {
            match step {
                0 | 1 => memory.all.store64(word % (memory.all.len() / 8) * 8, value, Relaxed),
                2 => drop(tx.as_mut().map(|tx| tx.start(question(value)))),
                3 => drop(tx.as_mut().map(|tx| tx.try_finish())),
                4 => drop(rx.as_mut().map(|rx| rx.try_serve(reply_to))),
                5 => drop(tx.as_mut().map(|tx| {
                    tx.call_deadline(question(value), Instant::now())
                })),
                6 => tx = memory.try_caller(&peer),
                _ => rx = memory.try_server(&peer),
            }
        }
    }

    /// Any order of calls, deadlines and deaths: an answer belongs to the call that gets it.
    #[test]
    fn answers_belong_to_their_calls(capacity in 1..4u64, steps in prop::collection::vec(0..9u8, 1..80)) {
        let memory = Memory::new(capacity);
        let (mut tx, mut rx) = (memory.caller(), memory.server());
        let (mut number, mut own, mut sent) = (0u64, VecDeque::new(), vec![]);
        for step in steps {
            match step {
                0..=2 => {
                    number += 1;
                    match tx.start(question(number)) {
                        Ok(sequence) => {
                            prop_assert_eq!(sequence as usize, sent.len());
                            own.push_back(number);
                            sent.push(number);
                        }
                        Err(error) => prop_assert_eq!(error, CallError::Busy),
                    }
                }
                3 => match (tx.try_finish(), own.front()) {
                    (Ok(answer), Some(&number)) => {
                        prop_assert_eq!(answer, reply_to(question(number)));
                        own.pop_front();
                    }
                    (Err(CallError::Pending), Some(_)) | (Err(CallError::Idle), None) => {}
                    other => prop_assert!(false, "{:?}", other),
                },
                4..=6 => if let Ok(request) = rx.try_recv() {
                    let number = sent[request.sequence() as usize];
                    prop_assert_eq!(request.value(), question(number));
                    let answer = reply_to(request.value());
                    if step < 6 {
                        request.answer(answer).unwrap();
                    }
                },
                7 => {
                    tx = memory.caller();
                    own.clear();
                }
                _ => rx = memory.server(),
            }
        }
    }
}

#[test]
fn two_threads_call_and_serve_in_every_mode() {
    for (mode, calls) in [
        (WaitMode::Spin, 2000),
        (WaitMode::Yield, 2000),
        (WaitMode::Adaptive, 2000),
        (WaitMode::Block, 300),
    ] {
        let memory = Memory::new(3);
        let (mut tx, mut rx) = (memory.caller(), memory.server());
        tx.wait_mode(mode);
        rx.wait_mode(mode);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for n in 0..calls {
                    let request = rx.recv_timeout(Duration::from_secs(10)).unwrap();
                    assert_eq!((request.sequence(), request.value()), (n, question(n)));
                    let answer = reply_to(request.value());
                    request.answer(answer).unwrap();
                }
            });
            for n in 0..calls {
                let answer = tx.call_timeout(question(n), Duration::from_secs(10));
                assert_eq!(answer, Ok(reply_to(question(n))), "{mode:?}");
            }
        });
    }
}

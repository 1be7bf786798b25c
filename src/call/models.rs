//! Models of call cells; how they are run is told in `ring::models`.

use super::endpoint::Parts;
use super::layout::{CONTROL_LEN, Lengths, PAYLOAD_LEN};
use super::{Caller, Server};
use crate::outcome::{CallError, ServeError};
use crate::view::View;
use crate::wait::WaitMode;
use crate::wait::modelling::{Lives, Tally, Who, explore, explore_deaths, stats};
use loom::thread::spawn;

const CALLER: Who = (0, 0);
const SERVER: Who = (1, 0);

/// A request or an answer of which a torn copy shows.
type Pair = [u64; 2];

fn request(n: u64) -> Pair {
    [n, !n]
}

fn answer(request: Pair) -> Pair {
    assert_eq!(request[0], !request[1], "a torn request");
    [request[0] + 1000, request[1]]
}

#[derive(Clone)]
struct Cell {
    control: View,
    payload: View,
    lives: Lives,
}

impl Cell {
    fn new() -> Self {
        let control = View::modelled_control(CONTROL_LEN, 64);
        Self { control, payload: View::modelled_payload(PAYLOAD_LEN), lives: Lives::of(1, 1) }
    }

    fn parts(&self, own: Who) -> Parts {
        let (control, payload) = (self.control.clone(), self.payload.clone());
        Parts { control, payload, stats: stats(), link: self.lives.claim(own) }
    }

    fn caller(&self) -> Caller<Pair, Pair> {
        let lengths = Lengths::new(16, 16).unwrap();
        let mut end = Caller::attach(self.parts(CALLER), lengths).unwrap();
        end.wait_mode(WaitMode::Block);
        end
    }

    fn server(&self) -> Server<Pair, Pair> {
        let lengths = Lengths::new(16, 16).unwrap();
        let mut end = Server::attach(self.parts(SERVER), lengths).unwrap();
        end.wait_mode(WaitMode::Block);
        end
    }
}

#[test]
fn each_call_gets_its_answer_and_no_wake_is_lost() {
    explore("call cell, blocking", 3, || {
        let cell = Cell::new();
        let (mut tx, mut rx) = (cell.caller(), cell.server());
        let server = spawn(move || {
            for _ in 0..2 {
                rx.serve_one(answer).unwrap();
            }
            rx.serve_one(answer)
        });
        for n in 0..2 {
            assert_eq!(tx.call(request(n)), Ok(answer(request(n))));
        }
        drop(tx);
        assert_eq!(server.join().unwrap(), Err(ServeError::Closed));
    });
}

#[test]
fn a_server_may_die_at_any_access() {
    explore_deaths("call cell, its server dies", 2, |death| {
        let cell = Cell::new();
        let mut tx = cell.caller();
        let sure = Tally::default();
        let server = {
            let (cell, sure) = (cell.clone(), sure.clone());
            spawn(move || {
                death.befalls(&cell.lives, SERVER, || {
                    let mut rx = cell.server();
                    for _ in 0..2 {
                        rx.serve_one(answer).unwrap();
                        sure.add();
                    }
                })
            })
        };
        let mut answered = 0;
        let end = loop {
            match tx.call(request(answered)) {
                Ok(got) => assert_eq!(got, answer(request(answered))),
                Err(end) => break end,
            }
            answered += 1;
        };
        assert!(matches!(end, CallError::PeerDied | CallError::Closed), "{end}");
        server.join().unwrap();
        assert!(answered >= sure.get() && answered <= sure.get() + 1);
        // The successor serves what has no answer yet, and then the next call.
        let mut rx = cell.server();
        while rx.try_serve(answer).is_ok() {}
        if tx.start(request(9)) == Err(CallError::Pending) {
            tx.try_finish().unwrap();
            tx.start(request(9)).unwrap();
        }
        rx.try_serve(answer).unwrap();
        assert_eq!(tx.try_finish(), Ok(answer(request(9))));
    });
}

#[test]
fn a_caller_may_die_at_any_access() {
    explore_deaths("call cell, its caller dies", 2, |death| {
        let cell = Cell::new();
        let mut rx = cell.server();
        let caller = {
            let cell = cell.clone();
            spawn(move || {
                death.befalls(&cell.lives, CALLER, || {
                    let mut tx = cell.caller();
                    for n in 0..2 {
                        assert_eq!(tx.call(request(n)), Ok(answer(request(n))));
                    }
                })
            })
        };
        let end = loop {
            if let Err(end) = rx.serve_one(answer) {
                break end;
            }
        };
        assert!(matches!(end, ServeError::PeerDied | ServeError::Closed), "{end}");
        caller.join().unwrap();
        let mut tx = cell.caller();
        for n in 10..13 {
            tx.start(request(n)).unwrap();
            rx.try_serve(answer).unwrap();
            assert_eq!(tx.try_finish(), Ok(answer(request(n))));
        }
    });
}

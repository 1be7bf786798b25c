//! Killing the caller, or the server, of a call cell and of a duplex channel.

use super::content::Content;
use super::drive::{Case, Ending, Seen, Trial};
use super::queue::{OBJECT, must_be_dead};
use super::stage::Stage;
use super::tracee::{Act, Fault, Told, text};
use super::typed::words;
use bytemuck::bytes_of;
use hugeshm::{
    CallError, Caller, DuplexCaller, DuplexServer, Segment, ServeError, Server, WaitMode,
};
use std::time::Duration;

/// A call that waits longer hangs.
const PATIENCE: Duration = Duration::from_secs(10);
/// The blocking call of the survivor is tried once in so many attempts: it may take a slice.
const WAIT_EVERY: u64 = 16;
/// The words of a request, and of an answer: each fills a call cell.
const WORDS: usize = 7;

type Words = [u64; WORDS];

/// The answer to a request.
fn answer_to(request: Words) -> Words {
    request.map(|word| word.rotate_left(17) ^ 0x5bd1_e995)
}

/// What is called.
fn request(number: u64, attempt: u64) -> Words {
    words(&Content { number, attempt, len: 8 * WORDS })
}

fn same(got: &Words, wanted: &Words, what: &str) -> Result<(), Fault> {
    if got == wanted { Ok(()) } else { Err(format!("{what} is {got:x?} instead of {wanted:x?}")) }
}

/// The cases of one kind of object: both have the same calls.
macro_rules! call_cases {
    ($module:ident, $name:literal, $declare:ident($($capacity:expr)?), $caller:ident / $take_caller:ident, $server:ident / $take_server:ident) => {
        mod $module {
            use super::*;

            type Calls = $caller<Words, Words>;
            type Serves = $server<Words, Words>;

            struct Both {
                stage: Stage,
                segment: Segment,
                caller: Option<Calls>,
                server: Option<Serves>,
                number: u64,
            }

            impl Both {
                fn new() -> Result<Self, Fault> {
                    let stage = Stage::new()?;
                    let segment = stage
                        .create(|builder| builder.$declare::<Words, Words>(OBJECT $(, $capacity)?))?;
                    Ok(Self { stage, segment, caller: None, server: None, number: 0 })
                }

                fn caller(&mut self) -> Result<&mut Calls, Fault> {
                    if self.caller.is_none() {
                        let mut caller = self.segment.$take_caller(OBJECT).map_err(text)?;
                        caller.wait_mode(WaitMode::Block);
                        self.caller = Some(caller);
                    }
                    self.caller.as_mut().ok_or("no caller".into())
                }

                fn server(&mut self) -> Result<&mut Serves, Fault> {
                    if self.server.is_none() {
                        let mut server = self.segment.$take_server(OBJECT).map_err(text)?;
                        server.wait_mode(WaitMode::Block);
                        self.server = Some(server);
                    }
                    self.server.as_mut().ok_or("no server".into())
                }

                fn next(&mut self) -> Words {
                    self.number += 1;
                    request(self.number, 1)
                }

                /// Serves a request if there is one.
                fn serve(&mut self) -> Result<Option<Words>, Fault> {
                    let mut seen = None;
                    let served = self.server()?.try_serve(|request| {
                        seen = Some(request);
                        answer_to(request)
                    });
                    match served {
                        Ok(()) | Err(ServeError::Empty | ServeError::PeerDied) => Ok(seen),
                        Err(error) => Err(format!("serve: {error}")),
                    }
                }

                /// Some calls there and back.
                fn cycles(&mut self) -> Result<(), Fault> {
                    for _ in 0..20 {
                        let request = self.next();
                        self.caller()?.start(request).map_err(text)?;
                        let seen = self.serve()?.ok_or("a request does not arrive")?;
                        same(&seen, &request, "the request")?;
                        let got = self.caller()?.try_finish().map_err(text)?;
                        same(&got, &answer_to(request), "the answer")?;
                    }
                    Ok(())
                }

                fn close(mut self) -> Result<(), Fault> {
                    self.cycles()?;
                    drop((self.caller.take(), self.server.take()));
                    self.stage.close(self.segment)
                }
            }

            struct CallerAct {
                caller: Calls,
                request: Words,
                waits: bool,
                done: Result<Option<Words>, CallError>,
            }

            impl Act for CallerAct {
                fn act(&mut self) {
                    self.done = if self.waits {
                        self.caller.call_timeout(self.request, PATIENCE).map(Some)
                    } else {
                        self.caller.start(self.request).map(|_| None)
                    };
                }

                fn told(&mut self) -> Told {
                    let answer = self.done.map_err(text)?;
                    Ok(answer.iter().map(|words| bytes_of(words).to_vec()).collect())
                }
            }

            struct CallerDies {
                both: Both,
                waits: bool,
                request: Words,
                served: bool,
            }

            impl CallerDies {
                /// Serves the request, if it is there: once, and whole.
                fn serve(&mut self) -> Result<(), Fault> {
                    while let Some(seen) = self.both.serve()? {
                        if std::mem::replace(&mut self.served, true) {
                            return Err("a request was served twice, by one server".into());
                        }
                        same(&seen, &self.request, "the dead caller's request")?;
                    }
                    Ok(())
                }
            }

            impl Case for CallerDies {
                fn starts(&self) -> Vec<&'static str> {
                    vec!["no call under way", "the next call"]
                }

                fn prepare(&mut self, start: usize) -> Result<(), Fault> {
                    self.both.cycles()?;
                    if start == 1 {
                        let request = self.both.next();
                        self.both.caller()?.start(request).map_err(text)?;
                        self.both.serve()?;
                    }
                    self.both.caller = None;
                    self.both.number += 1;
                    self.request = request(self.both.number, 2);
                    self.served = false;
                    Ok(())
                }

                fn ready(&self) -> Result<Box<dyn Act>, Fault> {
                    let segment = self.both.stage.open()?;
                    let mut caller: Calls = segment.$take_caller(OBJECT).map_err(text)?;
                    caller.wait_mode(WaitMode::Block);
                    let (request, waits, done) = (self.request, self.waits, Ok(None));
                    Ok(Box::new(CallerAct { caller, request, waits, done }))
                }

                fn asleep(&mut self) -> Result<(), Fault> {
                    self.serve()
                }

                fn stopped(&mut self) -> Result<bool, Fault> {
                    self.serve()?;
                    Ok(true)
                }

                fn told(&mut self, told: Told) -> Result<(), Fault> {
                    let answers = told?;
                    let wanted = answer_to(self.request);
                    match answers.first() {
                        Some(got) if got != bytes_of(&wanted) => {
                            Err("the stopped caller got another answer".into())
                        }
                        None if self.waits => Err("the stopped caller got no answer".into()),
                        _ => Ok(()),
                    }
                }

                fn check(&mut self, ending: Ending) -> Result<Seen, Fault> {
                    must_be_dead(self.both.server()?.peer())?;
                    if self.both.number % 2 == 0 {
                        // The successor comes before the server has looked.
                        let early = request(self.both.number, 3);
                        let sent = match self.both.caller()?.start(early) {
                            Ok(_) => true,
                            Err(CallError::Busy) => false,
                            Err(error) => return Err(format!("the successor's call: {error}")),
                        };
                        while let Some(seen) = self.both.serve()? {
                            if seen == self.request && !std::mem::replace(&mut self.served, true) {
                                continue;
                            }
                            same(&seen, &early, "the successor's request")?;
                        }
                        if sent {
                            let got = self.both.caller()?.try_finish().map_err(text)?;
                            same(&got, &answer_to(early), "the successor's answer")?;
                        }
                    } else {
                        self.serve()?;
                        if self.both.number % WAIT_EVERY < 3 {
                            match self.both.server()?.serve_timeout(PATIENCE, answer_to) {
                                Err(ServeError::PeerDied) => {}
                                other => return Err(format!("a server was told {other:?}")),
                            }
                        }
                    }
                    if ending == Ending::Whole && !self.served {
                        return Err("a whole call did not arrive".into());
                    }
                    self.both.cycles()?;
                    Ok(if self.served { Seen::Visible } else { Seen::Invisible })
                }

                fn is_seen(&self) -> bool {
                    true
                }

                fn close(self: Box<Self>) -> Result<(), Fault> {
                    self.both.close()
                }
            }

            type Serve = fn(&mut Serves) -> Result<(), ServeError>;

            struct ServerAct {
                server: Serves,
                act: Serve,
                done: Result<(), ServeError>,
            }

            impl Act for ServerAct {
                fn act(&mut self) {
                    self.done = (self.act)(&mut self.server);
                }

                fn told(&mut self) -> Told {
                    self.done.map(|()| Vec::new()).map_err(text)
                }
            }

            struct ServerDies {
                both: Both,
                act: Serve,
                refuses: bool,
                sleeps: bool,
                request: Words,
                asked: bool,
            }

            impl ServerDies {
                fn ask(&mut self) -> Result<(), Fault> {
                    if !std::mem::replace(&mut self.asked, true) {
                        let request = self.request;
                        self.both.caller()?.start(request).map_err(text)?;
                    }
                    Ok(())
                }
            }

            impl Case for ServerDies {
                fn starts(&self) -> Vec<&'static str> {
                    vec!["a request that waits"]
                }

                fn prepare(&mut self, _: usize) -> Result<(), Fault> {
                    self.both.cycles()?;
                    self.both.server = None;
                    self.request = self.both.next();
                    self.asked = false;
                    if self.sleeps { Ok(()) } else { self.ask() }
                }

                fn ready(&self) -> Result<Box<dyn Act>, Fault> {
                    let segment = self.both.stage.open()?;
                    let mut server: Serves = segment.$take_server(OBJECT).map_err(text)?;
                    server.wait_mode(WaitMode::Block);
                    Ok(Box::new(ServerAct { server, act: self.act, done: Ok(()) }))
                }

                fn asleep(&mut self) -> Result<(), Fault> {
                    self.ask()
                }

                fn check(&mut self, ending: Ending) -> Result<Seen, Fault> {
                    must_be_dead(self.both.caller()?.peer())?;
                    self.ask()?;
                    let answer = answer_to(self.request);
                    let waits = self.both.number % WAIT_EVERY < 3;
                    let caller = self.both.caller()?;
                    let finished =
                        if waits { caller.finish_timeout(PATIENCE) } else { caller.try_finish() };
                    let answered = match finished {
                        Ok(got) if !self.refuses => {
                            same(&got, &answer, "the dead server's answer").map(|()| true)?
                        }
                        Err(CallError::Refused) if self.refuses => true,
                        Err(CallError::Pending) if !waits => false,
                        Err(CallError::PeerDied) => false,
                        other => return Err(format!("the caller was told {other:?}")),
                    };
                    if ending == Ending::Whole && !answered {
                        return Err("an answer did not arrive".into());
                    }
                    match (answered, self.both.serve()?) {
                        (true, None) => {}
                        (true, Some(_)) => return Err("an answered call is served again".into()),
                        (false, None) => return Err("the successor does not see the request".into()),
                        (false, Some(seen)) => {
                            same(&seen, &self.request, "the request that is seen again")?;
                            match self.both.caller()?.try_finish() {
                                Ok(got) => same(&got, &answer, "the successor's answer")?,
                                // A cell's caller that was told of the death has given it up.
                                Err(CallError::Idle) if waits => {}
                                other => return Err(format!("the caller was told {other:?}")),
                            }
                        }
                    }
                    self.both.cycles()?;
                    Ok(if answered { Seen::Visible } else { Seen::Invisible })
                }

                fn is_seen(&self) -> bool {
                    true
                }

                fn close(self: Box<Self>) -> Result<(), Fault> {
                    self.both.close()
                }
            }

            pub fn trials(trials: &mut Vec<Trial>) {
                for (name, waits) in [("start", false), ("call, asleep", true)] {
                    trials.push(Trial::new(format!("{}: {name}", $name), move || {
                        let (both, request) = (Both::new()?, [0; WORDS]);
                        Ok(Box::new(CallerDies { both, waits, request, served: false }))
                    }));
                }
                let all: [(&str, bool, bool, Serve); 4] = [
                    ("serve", false, false, |server| server.try_serve(answer_to)),
                    ("recv, answer", false, false, |server| {
                        let request = server.try_recv()?;
                        let answer = answer_to(request.value());
                        request.answer(answer)
                    }),
                    ("recv, refuse", true, false, |server| server.try_recv()?.refuse()),
                    ("serve, asleep", false, true, |server| {
                        server.serve_timeout(PATIENCE, answer_to)
                    }),
                ];
                for (name, refuses, sleeps, act) in all {
                    trials.push(Trial::new(format!("{}: {name}", $name), move || {
                        let (both, request, asked) = (Both::new()?, [0; WORDS], false);
                        Ok(Box::new(ServerDies { both, act, refuses, sleeps, request, asked }))
                    }));
                }
            }
        }
    };
}

call_cases!(cell, "call cell", call(), Caller / caller, Server / server);
call_cases!(
    channel,
    "duplex channel",
    duplex(3),
    DuplexCaller / duplex_caller,
    DuplexServer / duplex_server
);

/// All operations of calls.
pub fn calls() -> Vec<Trial> {
    let mut trials = Vec::new();
    cell::trials(&mut trials);
    channel::trials(&mut trials);
    trials
}

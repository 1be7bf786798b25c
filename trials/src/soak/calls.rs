//! Callers and servers, of the call cell and of the duplex channel.
//!
//! A request names its call's number, and so does the answer, so that one of another call, or a
//! torn one, shows. A server tells of a request before it answers.

use super::cast::{Long, Object, Small};
use super::child::{Failure, Life, SOON, failed, taken};
use super::note::{Batch, Kind, Note, is_whole, message};
use hugeshm::{
    CallError, Caller, DuplexCaller, DuplexServer, Segment, ServeError, Server, WaitMode,
};
use std::time::Duration;

/// Either kind of caller.
trait Calls<const N: usize> {
    /// The number of the next call.
    fn next(&self) -> u64;
    fn prepare(&mut self, mode: WaitMode, outlive: bool);
    fn call(&mut self, request: [u64; N]) -> Result<[u64; N], CallError>;
    fn call_timeout(&mut self, request: [u64; N], time: Duration) -> Result<[u64; N], CallError>;
}

/// Either kind of server.
trait Serves<const N: usize> {
    fn prepare(&mut self, mode: WaitMode, outlive: bool);
    fn serve(
        &mut self,
        timeout: Option<Duration>,
        work: impl FnOnce(u64, [u64; N]) -> [u64; N],
    ) -> Result<(), ServeError>;
}

macro_rules! kinds {
    ($n:literal $caller:ident $server:ident $before:literal) => {
        impl Calls<$n> for $caller<[u64; $n], [u64; $n]> {
            fn next(&self) -> u64 {
                self.sequence() + $before
            }
            fn prepare(&mut self, mode: WaitMode, outlive: bool) {
                self.wait_mode(mode).outlive_peer(outlive);
            }
            fn call(&mut self, request: [u64; $n]) -> Result<[u64; $n], CallError> {
                $caller::call(self, request)
            }
            fn call_timeout(
                &mut self,
                request: [u64; $n],
                time: Duration,
            ) -> Result<[u64; $n], CallError> {
                $caller::call_timeout(self, request, time)
            }
        }

        impl Serves<$n> for $server<[u64; $n], [u64; $n]> {
            fn prepare(&mut self, mode: WaitMode, outlive: bool) {
                self.wait_mode(mode).outlive_peer(outlive);
            }
            fn serve(
                &mut self,
                timeout: Option<Duration>,
                work: impl FnOnce(u64, [u64; $n]) -> [u64; $n],
            ) -> Result<(), ServeError> {
                let request = match timeout {
                    Some(time) => self.recv_timeout(time)?,
                    None => self.recv()?,
                };
                let answer = work(request.sequence(), request.value());
                request.answer(answer)
            }
        }
    };
}
// A cell counts its calls from 1, a channel from 0.
kinds!(7 Caller Server 1);
kinds!(65 DuplexCaller DuplexServer 0);

fn answer_to<const N: usize>(request: [u64; N]) -> [u64; N] {
    request.map(|word| !word)
}

/// Calls until it is told to end.
pub fn call(life: &mut Life, segment: &Segment, object: Object) -> Result<(), Failure> {
    let name = object.name();
    match object {
        Object::Cell => calls(life, taken(name, segment.caller::<Small, Small>(name))?),
        _ => calls(life, taken(name, segment.duplex_caller::<Long, Long>(name))?),
    }
}

/// Serves until it is told to end and the caller has left.
pub fn serve(life: &mut Life, segment: &Segment, object: Object) -> Result<(), Failure> {
    let name = object.name();
    match object {
        Object::Cell => serves(life, taken(name, segment.server::<Small, Small>(name))?),
        _ => serves(life, taken(name, segment.duplex_server::<Long, Long>(name))?),
    }
}

fn calls<const N: usize, C: Calls<N>>(life: &mut Life, mut end: C) -> Result<(), Failure> {
    life.say(Kind::Attached, end.next());
    end.prepare(life.mode(), !life.is_patient());
    while !life.is_told() {
        let number = end.next();
        let request = message(number, Batch { life: life.number, follow: 0 });
        let answer =
            if life.is_patient() { end.call(request) } else { end.call_timeout(request, SOON) };
        let was_sent = end.next() != number;
        match answer {
            Ok(answer) if answer == answer_to(request) => life.say(Kind::Answered, number),
            Ok(_) => life.tell(Note::message(false, number, 0, Batch::of(request[1]))),
            Err(CallError::Busy) => life.say(Kind::Idle, 0),
            Err(CallError::TimedOut) => life.say(Kind::Unanswered, number),
            Err(error @ (CallError::PeerDied | CallError::Closed)) => {
                if was_sent {
                    life.say(Kind::Unanswered, number);
                }
                let died = error == CallError::PeerDied;
                life.go_on_without(if died { Kind::Died } else { Kind::Left });
            }
            Err(error) => return Err(failed("call")(&error)),
        }
    }
    life.say(Kind::Bye, end.next());
    Ok(())
}

fn serves<const N: usize, S: Serves<N>>(life: &mut Life, mut end: S) -> Result<(), Failure> {
    life.say(Kind::Attached, 0);
    let mut last = 0;
    loop {
        let patient = life.is_patient();
        end.prepare(life.mode(), !patient && !life.is_told());
        let stands = life.chooses_to_stand();
        let served = end.serve((!patient).then_some(SOON), |number, request| {
            let whole = is_whole(&request, number);
            life.tell(Note::message(whole, number, number + 1, Batch::of(request[1])));
            last = number;
            if stands && life.number.is_multiple_of(4) {
                life.stand(Note::new(Kind::Kept, number, 0));
            }
            answer_to(request)
        });
        match served {
            Ok(()) if stands => life.stand(Note::new(Kind::Released, last, 0)),
            Ok(()) => {}
            Err(ServeError::TimedOut) => life.say(Kind::Idle, 0),
            Err(ServeError::PeerDied | ServeError::Closed) if life.is_told() => break,
            Err(ServeError::PeerDied) => life.go_on_without(Kind::Died),
            Err(ServeError::Closed) => life.go_on_without(Kind::Left),
            Err(error) => return Err(failed("serve")(&error)),
        }
    }
    life.say(Kind::Bye, 0);
    Ok(())
}

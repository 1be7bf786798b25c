//! The calling end of a duplex channel.
//!
//! The steps K1 to K3 are told in the parent module.

use super::{BAD_NUMBER, BAD_ROOM, Numbered, REFUSED, check_sizes, duplex_calls, pass, read_slot};
use crate::outcome::CallError;
use crate::ring::endpoint::Parts;
use crate::ring::error::{AttachError, Corruption, RecvError, SendError};
use crate::ring::position::SlotGeometry;
use crate::ring::slots::{RawConsumer, RawProducer};
use crate::wait::{Wait, deadline_after};
use bytemuck::{CheckedBitPattern, NoUninit, bytes_of};
use core::fmt;
use core::marker::PhantomData;
use core::time::Duration;
use std::time::Instant;

/// The calling end of a duplex channel.
///
/// There is one at a time. Up to [`capacity`](Self::capacity) calls can be under way: each
/// [`start`](Self::start) sends one, each [`finish`](Self::finish) takes the oldest answer. A
/// [`call`](Self::call) gives up the answers of the calls started before it.
pub struct DuplexCaller<Req, Resp> {
    requests: RawProducer,
    responses: RawConsumer,
    /// The first call whose answer is wanted.
    wanted: u64,
    corruption: Option<&'static str>,
    types: PhantomData<fn(Req) -> Resp>,
}

impl<Req: NoUninit, Resp: CheckedBitPattern> DuplexCaller<Req, Resp> {
    pub(in crate::ring) fn attach(
        requests: (Parts, SlotGeometry),
        responses: (Parts, SlotGeometry),
    ) -> Result<Self, AttachError> {
        check_sizes::<Req, Resp>(requests.1, responses.1)?;
        let requests = RawProducer::attach(requests.0, requests.1)?;
        let responses = RawConsumer::attach(responses.0, responses.1)?;
        let wanted = requests.position();
        let under_way = wanted.checked_sub(responses.position());
        // One ring of requests that were not released, one of responses that were not taken.
        if under_way.is_none_or(|count| count / 2 > requests.capacity()) {
            return Err(AttachError::Corrupt(Corruption::Released));
        }
        Ok(Self { requests, responses, wanted, corruption: None, types: PhantomData })
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    ///
    /// `Closed` and `PeerDied` when the server has left or died, see
    /// [`outlive_peer`](Self::outlive_peer); a server that never was is waited for.
    /// [`CallError`] says what each means for the request.
    #[inline]
    pub fn call(&mut self, request: Req) -> Result<Resp, CallError> {
        self.call_until(request, || None)
    }

    /// Sends a request and waits for its answer until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call); `Busy` if there was no room before the deadline, so that nothing
    /// was sent, and `TimedOut` if the answer did not come before it.
    #[inline]
    pub fn call_deadline(&mut self, request: Req, deadline: Instant) -> Result<Resp, CallError> {
        self.call_until(request, || Some(deadline))
    }

    /// Sends a request and waits for its answer for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`call_deadline`](Self::call_deadline).
    #[inline]
    pub fn call_timeout(&mut self, request: Req, timeout: Duration) -> Result<Resp, CallError> {
        self.call_until(request, || deadline_after(timeout))
    }

    /// Sends a request if there is room now, and returns the call's number.
    ///
    /// # Errors
    ///
    /// [`CallError::Busy`] when there is none. After 64 of these, at least 50 ms apart, the
    /// kernel is asked about the server; `Closed` or `PeerDied` then say that it has left or died.
    /// Nothing was sent in any case.
    #[inline]
    pub fn start(&mut self, request: Req) -> Result<u64, CallError> {
        self.check()?;
        self.drop_unwanted()?;
        let number = self.requests.position();
        match self.requests.try_put(bytes_of(&Numbered { number, value: request })) {
            Ok(()) => Ok(number),
            Err(error) => Err(not_sent(error)),
        }
    }

    /// Takes the answer to the oldest call under way if there is one.
    ///
    /// # Errors
    ///
    /// [`CallError::Pending`] when there is none yet. After 64 of these, at least 50 ms apart,
    /// the kernel is asked about the server. [`CallError::Idle`] if no call of this caller is
    /// under way.
    #[inline]
    pub fn try_finish(&mut self) -> Result<Resp, CallError> {
        self.check_started()?;
        while self.responses.position() < self.wanted {
            self.responses.try_take(pass).map_err(not_answered)?;
        }
        let taken = self.responses.try_take(read_slot);
        self.answer(taken)
    }

    /// Waits for the answer to the oldest call under way.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call), and [`CallError::Idle`] if no call of this caller is under way.
    #[inline]
    pub fn finish(&mut self) -> Result<Resp, CallError> {
        self.check_started()?;
        self.finish_until(|| None)
    }

    /// Waits for the answer to the oldest call under way until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`finish`](Self::finish), and `TimedOut`.
    #[inline]
    pub fn finish_deadline(&mut self, deadline: Instant) -> Result<Resp, CallError> {
        self.check_started()?;
        self.finish_until(|| Some(deadline))
    }

    /// Waits for the answer to the oldest call under way for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`finish`](Self::finish), and `TimedOut`.
    #[inline]
    pub fn finish_timeout(&mut self, timeout: Duration) -> Result<Resp, CallError> {
        self.check_started()?;
        self.finish_until(|| deadline_after(timeout))
    }

    /// How many calls were sent through this channel, by whomever: the number of the next one.
    /// It is the same before and after a call that was not sent.
    pub fn sequence(&self) -> u64 {
        self.requests.position()
    }

    #[inline]
    fn call_until(
        &mut self,
        request: Req,
        deadline: impl FnOnce() -> Option<Instant>,
    ) -> Result<Resp, CallError> {
        self.check()?;
        let number = self.requests.position();
        self.wanted = number;
        let slot = Numbered { number, value: request };
        if self.responses.position() == number && self.requests.room_for(1).is_ok() {
            self.requests.try_put(bytes_of(&slot)).map_err(not_sent)?;
            return self.finish_until(deadline);
        }
        let deadline = deadline();
        self.wait_for_room(deadline)?;
        self.requests.try_put(bytes_of(&slot)).map_err(not_sent)?;
        self.finish_until(|| deadline)
    }

    /// K1 until there is room for a request. The server may wait for room itself, so responses
    /// are dropped all the time.
    #[cold]
    fn wait_for_room(&mut self, deadline: Option<Instant>) -> Result<(), CallError> {
        let mut wait = Wait::until(deadline);
        let result = loop {
            if let Err(error) = self.drop_unwanted() {
                break Err(error);
            }
            match self.requests.room_for(1) {
                Err(SendError::Full) => {}
                room => break room.map_err(not_sent),
            }
            if let Err(end) = self.requests.port.wait(&mut wait) {
                break Err(not_sent(end.into()));
            }
        };
        self.requests.port.settle(&wait);
        result
    }

    /// K1, as far as responses are there.
    #[inline]
    fn drop_unwanted(&mut self) -> Result<(), CallError> {
        while self.responses.position() < self.wanted {
            match self.responses.look(pass) {
                Ok(()) => self.responses.skip().map_err(not_answered)?,
                Err(RecvError::Empty) => break,
                Err(error) => return Err(not_answered(error)),
            }
        }
        Ok(())
    }

    /// K3.
    #[inline]
    fn finish_until(
        &mut self,
        deadline: impl FnOnce() -> Option<Instant>,
    ) -> Result<Resp, CallError> {
        if self.responses.position() == self.wanted {
            let taken = self.responses.take_until(read_slot, deadline);
            return self.answer(taken);
        }
        let deadline = deadline();
        while self.responses.position() < self.wanted {
            self.responses.take_until(pass, || deadline).map_err(not_answered)?;
        }
        let taken = self.responses.take_until(read_slot, || deadline);
        self.answer(taken)
    }

    #[inline]
    fn answer(&mut self, taken: Result<(u64, Option<Resp>), RecvError>) -> Result<Resp, CallError> {
        let (number, value) = taken.map_err(not_answered)?;
        let sequence = self.wanted;
        if number & !REFUSED != sequence {
            self.corruption = Some(BAD_NUMBER);
            return Err(CallError::Corrupt(BAD_NUMBER));
        }
        self.wanted += 1;
        if number & REFUSED != 0 {
            return Err(CallError::Refused);
        }
        value.ok_or(CallError::InvalidValue { sequence })
    }

    #[inline]
    fn check_started(&self) -> Result<(), CallError> {
        self.check()?;
        if self.wanted < self.requests.position() { Ok(()) } else { Err(CallError::Idle) }
    }

    #[inline]
    fn check(&self) -> Result<(), CallError> {
        match self.corruption {
            None => Ok(()),
            Some(what) => Err(CallError::Corrupt(what)),
        }
    }
}

impl<Req, Resp> DuplexCaller<Req, Resp> {
    duplex_calls!(responses requests);
}

/// What an error of the request ring means for a call: nothing was sent.
#[cold]
fn not_sent(error: SendError) -> CallError {
    match error {
        SendError::Full | SendError::TimedOut => CallError::Busy,
        SendError::Closed => CallError::Closed,
        SendError::PeerDied => CallError::PeerDied,
        SendError::Cancelled => CallError::Cancelled,
        SendError::Forked => CallError::Forked,
        SendError::Superseded => CallError::Superseded,
        SendError::Corrupt(corruption) => CallError::Corrupt(corruption.text()),
        SendError::TooLarge { .. } | SendError::WrongSize { .. } => CallError::Corrupt(BAD_ROOM),
    }
}

/// What an error of the response ring means for a call.
#[cold]
fn not_answered(error: RecvError) -> CallError {
    match error {
        RecvError::Empty => CallError::Pending,
        RecvError::Closed => CallError::Closed,
        RecvError::PeerDied => CallError::PeerDied,
        RecvError::TimedOut => CallError::TimedOut,
        RecvError::Cancelled => CallError::Cancelled,
        RecvError::Forked => CallError::Forked,
        RecvError::Superseded => CallError::Superseded,
        RecvError::InvalidValue { position } => CallError::InvalidValue { sequence: position },
        RecvError::Corrupt(corruption) => CallError::Corrupt(corruption.text()),
        RecvError::WrongSize { .. } | RecvError::Gap { .. } => CallError::Corrupt(BAD_NUMBER),
    }
}

impl<Req, Resp> fmt::Debug for DuplexCaller<Req, Resp> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (requests, responses) = (&self.requests, &self.responses);
        f.debug_struct("DuplexCaller").field("to", requests).field("from", responses).finish()
    }
}

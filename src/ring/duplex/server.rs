//! The serving end of a duplex channel.
//!
//! The steps V1 to V5 are told in the parent module.

use super::{BAD_NUMBER, BAD_ROOM, Numbered, REFUSED, check_sizes, duplex_calls, read_slot};
#[cfg(doc)]
use crate::outcome::CallError;
use crate::outcome::ServeError;
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

/// The serving end of a duplex channel.
///
/// There is one at a time. Dropping it leaves the channel to a successor, who sees the requests
/// that were not answered. A server that is to outlast its callers says so by
/// [`outlive_peer`](Self::outlive_peer).
pub struct DuplexServer<Req, Resp> {
    requests: RawConsumer,
    responses: RawProducer,
    corruption: Option<&'static str>,
    types: PhantomData<fn(Req) -> Resp>,
}

/// A request that was received, and the right to answer it.
///
/// Dropped without an answer it is received again, by this server or its successor, and the
/// caller goes on waiting.
#[must_use = "a request that is neither answered nor refused is received again"]
pub struct DuplexRequest<'a, Req, Resp> {
    server: &'a mut DuplexServer<Req, Resp>,
    value: Req,
}

impl<Req: CheckedBitPattern, Resp: NoUninit> DuplexServer<Req, Resp> {
    pub(in crate::ring) fn attach(
        requests: (Parts, SlotGeometry),
        responses: (Parts, SlotGeometry),
    ) -> Result<Self, AttachError> {
        check_sizes::<Req, Resp>(requests.1, responses.1)?;
        let mut requests = RawConsumer::attach(requests.0, requests.1)?;
        let responses = RawProducer::attach(responses.0, responses.1)?;
        if responses.position() == requests.position() + 1 {
            // Its predecessor died behind V4.
            requests.skip().map_err(|_| AttachError::Corrupt(Corruption::Released))?;
        }
        if responses.position() != requests.position() {
            return Err(AttachError::Corrupt(Corruption::Released));
        }
        Ok(Self { requests, responses, corruption: None, types: PhantomData })
    }

    /// Waits for a request and answers it with what `work` makes of it.
    ///
    /// If `work` panics the request is not answered, and received again.
    ///
    /// # Errors
    ///
    /// `Closed` and `PeerDied` when there is no request and the caller has left or died, see
    /// [`outlive_peer`](Self::outlive_peer); a caller that never was is waited for.
    /// `InvalidValue` when the bytes are no `Req`; the call was refused and the next can be
    /// served.
    #[inline]
    pub fn serve_one(&mut self, work: impl FnOnce(Req) -> Resp) -> Result<(), ServeError> {
        let request = self.take_until(|| None)?;
        let answer = work(request);
        self.put_answer(answer)
    }

    /// As [`serve_one`](Self::serve_one), waiting for a request until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`serve_one`](Self::serve_one), and `TimedOut`.
    #[inline]
    pub fn serve_deadline(
        &mut self,
        deadline: Instant,
        work: impl FnOnce(Req) -> Resp,
    ) -> Result<(), ServeError> {
        let request = self.take_until(|| Some(deadline))?;
        let answer = work(request);
        self.put_answer(answer)
    }

    /// As [`serve_one`](Self::serve_one), waiting for a request for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`serve_one`](Self::serve_one), and `TimedOut`.
    #[inline]
    pub fn serve_timeout(
        &mut self,
        timeout: Duration,
        work: impl FnOnce(Req) -> Resp,
    ) -> Result<(), ServeError> {
        let request = self.take_until(|| deadline_after(timeout))?;
        let answer = work(request);
        self.put_answer(answer)
    }

    /// As [`serve_one`](Self::serve_one), if there is a request now.
    ///
    /// # Errors
    ///
    /// [`ServeError::Empty`] when there is none, or no room for its answer. After 64 of these,
    /// at least 50 ms apart, the kernel is asked about the caller; `Closed` or `PeerDied` then say
    /// that it has left or died.
    #[inline]
    pub fn try_serve(&mut self, work: impl FnOnce(Req) -> Resp) -> Result<(), ServeError> {
        let request = self.try_take()?;
        let answer = work(request);
        self.put_answer(answer)
    }

    /// Waits for a request, to be answered later.
    ///
    /// # Errors
    ///
    /// As [`serve_one`](Self::serve_one).
    #[inline]
    pub fn recv(&mut self) -> Result<DuplexRequest<'_, Req, Resp>, ServeError> {
        let value = self.take_until(|| None)?;
        Ok(DuplexRequest { server: self, value })
    }

    /// Waits for a request until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv), and `TimedOut`.
    #[inline]
    pub fn recv_deadline(
        &mut self,
        deadline: Instant,
    ) -> Result<DuplexRequest<'_, Req, Resp>, ServeError> {
        let value = self.take_until(|| Some(deadline))?;
        Ok(DuplexRequest { server: self, value })
    }

    /// Waits for a request for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv), and `TimedOut`.
    #[inline]
    pub fn recv_timeout(
        &mut self,
        timeout: Duration,
    ) -> Result<DuplexRequest<'_, Req, Resp>, ServeError> {
        let value = self.take_until(|| deadline_after(timeout))?;
        Ok(DuplexRequest { server: self, value })
    }

    /// Receives a request if there is one now.
    ///
    /// # Errors
    ///
    /// As [`try_serve`](Self::try_serve).
    #[inline]
    pub fn try_recv(&mut self) -> Result<DuplexRequest<'_, Req, Resp>, ServeError> {
        let value = self.try_take()?;
        Ok(DuplexRequest { server: self, value })
    }

    #[inline]
    fn try_take(&mut self) -> Result<Req, ServeError> {
        match self.look() {
            Err(ServeError::Empty) => {}
            done => return done,
        }
        match self.requests.still_empty() {
            RecvError::Empty => Err(ServeError::Empty),
            // Once more, now that the caller's end is known.
            end => match self.look() {
                Err(ServeError::Empty) => Err(not_received(end)),
                done => done,
            },
        }
    }

    #[inline]
    fn take_until(
        &mut self,
        deadline: impl FnOnce() -> Option<Instant>,
    ) -> Result<Req, ServeError> {
        match self.look() {
            Err(ServeError::Empty) => self.wait_for_request(deadline()),
            done => done,
        }
    }

    #[cold]
    fn wait_for_request(&mut self, deadline: Option<Instant>) -> Result<Req, ServeError> {
        self.wait_for_room(deadline)?;
        let mut wait = Wait::until(deadline);
        let result = loop {
            if let Err(end) = self.requests.port.wait(&mut wait) {
                break Err(end.into());
            }
            match self.look() {
                Err(ServeError::Empty) => {}
                done => break done,
            }
        };
        self.requests.port.settle(&wait);
        result
    }

    /// V1, waiting.
    fn wait_for_room(&mut self, deadline: Option<Instant>) -> Result<(), ServeError> {
        let mut wait = Wait::until(deadline);
        let result = loop {
            match self.responses.room_for(1) {
                Err(SendError::Full) => {}
                room => break room.map_err(not_put),
            }
            if let Err(end) = self.responses.port.wait(&mut wait) {
                break Err(end.into());
            }
        };
        self.responses.port.settle(&wait);
        result
    }

    /// V1 and V2.
    #[inline]
    fn look(&mut self) -> Result<Req, ServeError> {
        if let Some(what) = self.corruption {
            return Err(ServeError::Corrupt(what));
        }
        match self.responses.room_for(1) {
            Ok(()) => {}
            Err(SendError::Full) => return Err(ServeError::Empty),
            Err(error) => return Err(not_put(error)),
        }
        let sequence = self.requests.position();
        let (number, value) = self.requests.look(read_slot).map_err(not_received)?;
        if number != sequence {
            self.corruption = Some(BAD_NUMBER);
            return Err(ServeError::Corrupt(BAD_NUMBER));
        }
        match value {
            Some(value) => Ok(value),
            None => {
                self.refuse()?;
                Err(ServeError::InvalidValue { sequence })
            }
        }
    }

    /// V4 and V5.
    #[inline]
    fn put_answer(&mut self, answer: Resp) -> Result<(), ServeError> {
        let number = self.requests.position();
        self.respond(bytes_of(&Numbered { number, value: answer }))
    }

    #[inline]
    fn respond(&mut self, slot: &[u8]) -> Result<(), ServeError> {
        self.responses.try_put(slot).map_err(not_put)?;
        // There is a request at this position: nobody gets here but from a `look` that found it.
        self.requests.release_found();
        Ok(())
    }

    #[cold]
    fn refuse(&mut self) -> Result<(), ServeError> {
        let mut slot = vec![0; self.responses.size()];
        slot[..8].copy_from_slice(&(self.requests.position() | REFUSED).to_ne_bytes());
        self.respond(&slot)
    }
}

impl<Req, Resp> DuplexServer<Req, Resp> {
    /// How many calls were answered or refused through this channel, by whomever: the number of
    /// the next one.
    pub fn sequence(&self) -> u64 {
        self.requests.position()
    }

    duplex_calls!(requests responses);
}

impl<Req: CheckedBitPattern, Resp: NoUninit> DuplexRequest<'_, Req, Resp> {
    /// The request, a private copy.
    pub fn value(&self) -> Req {
        self.value
    }

    /// The same without copying it once more.
    pub fn value_ref(&self) -> &Req {
        &self.value
    }

    /// The number of the call: one that was seen before is a repetition, so effects can be made
    /// idempotent.
    pub fn sequence(&self) -> u64 {
        self.server.sequence()
    }

    /// Answers it.
    ///
    /// # Errors
    ///
    /// `Forked` in a forked child.
    #[inline]
    pub fn answer(self, answer: Resp) -> Result<(), ServeError> {
        self.server.put_answer(answer)
    }

    /// Ends the call without an answer; the caller gets [`CallError::Refused`].
    ///
    /// # Errors
    ///
    /// As [`answer`](Self::answer).
    pub fn refuse(self) -> Result<(), ServeError> {
        self.server.refuse()
    }
}

/// What an error of the request ring means for a server.
#[cold]
fn not_received(error: RecvError) -> ServeError {
    match error {
        RecvError::Empty => ServeError::Empty,
        RecvError::Closed => ServeError::Closed,
        RecvError::PeerDied => ServeError::PeerDied,
        RecvError::TimedOut => ServeError::TimedOut,
        RecvError::Cancelled => ServeError::Cancelled,
        RecvError::Forked => ServeError::Forked,
        RecvError::Superseded => ServeError::Superseded,
        RecvError::InvalidValue { position } => ServeError::InvalidValue { sequence: position },
        RecvError::Corrupt(corruption) => ServeError::Corrupt(corruption.text()),
        RecvError::WrongSize { .. } | RecvError::Gap { .. } => ServeError::Corrupt(BAD_NUMBER),
    }
}

/// What an error of the response ring means for a server; room was there before.
#[cold]
fn not_put(error: SendError) -> ServeError {
    match error {
        SendError::Closed => ServeError::Closed,
        SendError::PeerDied => ServeError::PeerDied,
        SendError::TimedOut => ServeError::TimedOut,
        SendError::Cancelled => ServeError::Cancelled,
        SendError::Forked => ServeError::Forked,
        SendError::Superseded => ServeError::Superseded,
        SendError::Corrupt(corruption) => ServeError::Corrupt(corruption.text()),
        SendError::Full | SendError::TooLarge { .. } | SendError::WrongSize { .. } => {
            ServeError::Corrupt(BAD_ROOM)
        }
    }
}

impl<Req, Resp> fmt::Debug for DuplexServer<Req, Resp> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (requests, responses) = (&self.requests, &self.responses);
        f.debug_struct("DuplexServer").field("from", requests).field("to", responses).finish()
    }
}

impl<Req: fmt::Debug, Resp> fmt::Debug for DuplexRequest<'_, Req, Resp> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sequence = self.server.sequence();
        f.debug_struct("DuplexRequest")
            .field("sequence", &sequence)
            .field("value", &self.value)
            .finish()
    }
}

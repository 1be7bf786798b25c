//! The serving end of a call cell.
//!
//! The steps V1 to V7, W1 and W2 are told in the parent module.

use super::endpoint::{AttachError, FIRST_LOOKS, Parts, SERVER_WORDS};
use super::layout::{
    BAD_HEADER, BYTES, BYTES_MAX, HEADER, JOURNAL, Lengths, State, next, previous,
};
use crate::outcome::ServeError;
use crate::sync::{fence, spin_loop};
use crate::view::{BlockCursor, View};
use crate::wait::{Port, deadline_after, endpoint_calls, wait_until};
use bytemuck::{CheckedBitPattern, NoUninit, bytes_of};
use core::fmt;
use core::marker::PhantomData;
use core::sync::atomic::Ordering::{Acquire, Release};
use core::time::Duration;
use std::time::Instant;

/// The serving end of a call cell.
///
/// There is one at a time. Dropping it leaves the cell to a successor, who sees the request that
/// was not answered. A server that is to outlast its callers says so by
/// [`Server::outlive_peer`].
pub struct Server<Req, Resp> {
    lengths: Lengths,
    /// The number of the next call to be answered.
    sequence: u64,
    /// The header word of its request.
    expected: u64,
    /// The header word that stands in the line until then.
    left: u64,
    corruption: Option<&'static str>,
    control: View,
    line: BlockCursor,
    port: Port,
    types: PhantomData<fn(Req) -> Resp>,
}

/// A request that was received, and the right to answer it.
///
/// Dropped without an answer it is received again, by this server or its successor, and the
/// caller goes on waiting.
#[must_use = "a request that is neither answered nor refused is received again"]
pub struct Request<'a, Req, Resp> {
    server: &'a mut Server<Req, Resp>,
    value: Req,
}

impl<Req: CheckedBitPattern, Resp: NoUninit> Server<Req, Resp> {
    /// Attaches at the first call without an answer. The answer's length is that of `Resp`; the
    /// request's is at least that of `Req`.
    pub(crate) fn attach(parts: Parts, lengths: Lengths) -> Result<Self, AttachError> {
        parts.check()?;
        if lengths.answer() != size_of::<Resp>() || lengths.request() < size_of::<Req>() {
            return Err(AttachError::Geometry);
        }
        let left = parts.payload.load64(HEADER, Acquire); // edges `request`, `journal`, `torn`
        let header = lengths.parse(left).map_err(AttachError::Corrupt)?;
        let sequence = match header.state {
            State::Free | State::Answer => next(header.sequence),
            State::Request => header.sequence,
            State::Answering => {
                restore(&parts, lengths, header.sequence);
                header.sequence
            }
        };
        let (control, line, port) = parts.into_port(SERVER_WORDS)?;
        let expected = lengths.word(sequence, State::Request);
        let types = PhantomData;
        let corruption = None;
        Ok(Self { lengths, sequence, expected, left, corruption, control, line, port, types })
    }

    /// Waits for a request and answers it with what `work` makes of it.
    ///
    /// If `work` panics the request is not answered, and received again.
    ///
    /// # Errors
    ///
    /// `Closed` and `PeerDied` when there is no request and the caller has left or died, see
    /// [`Server::outlive_peer`]; a caller that never was is waited for. `InvalidValue` when the
    /// bytes are no `Req`; the call was refused and the next can be served.
    #[inline]
    pub fn serve_one(&mut self, work: impl FnOnce(Req) -> Resp) -> Result<(), ServeError> {
        let request = self.take_until(|| None)?;
        let answer = work(request);
        self.put_answer(&answer)
    }

    /// As [`Server::serve_one`], waiting for a request until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`Server::serve_one`], and `TimedOut`.
    #[inline]
    pub fn serve_deadline(
        &mut self,
        deadline: Instant,
        work: impl FnOnce(Req) -> Resp,
    ) -> Result<(), ServeError> {
        let request = self.take_until(|| Some(deadline))?;
        let answer = work(request);
        self.put_answer(&answer)
    }

    /// As [`Server::serve_one`], waiting for a request for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`Server::serve_one`], and `TimedOut`.
    #[inline]
    pub fn serve_timeout(
        &mut self,
        timeout: Duration,
        work: impl FnOnce(Req) -> Resp,
    ) -> Result<(), ServeError> {
        let request = self.take_until(|| deadline_after(timeout))?;
        let answer = work(request);
        self.put_answer(&answer)
    }

    /// As [`Server::serve_one`], if there is a request now.
    ///
    /// # Errors
    ///
    /// [`ServeError::Empty`] when there is none. After 64 of these, at least 50 ms apart, the
    /// kernel is asked about the caller; `Closed` or `PeerDied` then say that it has left or died.
    #[inline]
    pub fn try_serve(&mut self, work: impl FnOnce(Req) -> Resp) -> Result<(), ServeError> {
        let request = self.try_take()?;
        let answer = work(request);
        self.put_answer(&answer)
    }

    /// Waits for a request, to be answered later.
    ///
    /// # Errors
    ///
    /// As [`Server::serve_one`].
    #[inline]
    pub fn recv(&mut self) -> Result<Request<'_, Req, Resp>, ServeError> {
        let value = self.take_until(|| None)?;
        Ok(Request { server: self, value })
    }

    /// Waits for a request until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`Server::recv`], and `TimedOut`.
    #[inline]
    pub fn recv_deadline(
        &mut self,
        deadline: Instant,
    ) -> Result<Request<'_, Req, Resp>, ServeError> {
        let value = self.take_until(|| Some(deadline))?;
        Ok(Request { server: self, value })
    }

    /// Waits for a request for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`Server::recv`], and `TimedOut`.
    #[inline]
    pub fn recv_timeout(
        &mut self,
        timeout: Duration,
    ) -> Result<Request<'_, Req, Resp>, ServeError> {
        let value = self.take_until(|| deadline_after(timeout))?;
        Ok(Request { server: self, value })
    }

    /// Receives a request if there is one now.
    ///
    /// # Errors
    ///
    /// As [`Server::try_serve`].
    #[inline]
    pub fn try_recv(&mut self) -> Result<Request<'_, Req, Resp>, ServeError> {
        let value = self.try_take()?;
        Ok(Request { server: self, value })
    }

    #[inline]
    fn try_take(&mut self) -> Result<Req, ServeError> {
        if self.is_there()? {
            return self.take();
        }
        self.port.stats.empty();
        match self.port.tried_in_vain() {
            None => Err(ServeError::Empty),
            // Once more, now that the caller's end is known.
            Some(end) => {
                if self.is_there()? {
                    self.take()
                } else {
                    Err(end.into())
                }
            }
        }
    }

    #[inline]
    fn take_until(
        &mut self,
        deadline: impl FnOnce() -> Option<Instant>,
    ) -> Result<Req, ServeError> {
        let looks = if self.port.spins() { FIRST_LOOKS } else { 0 };
        for _ in 0..looks {
            if self.is_there()? {
                return self.take();
            }
            spin_loop();
        }
        if !self.is_there()? {
            self.wait_for_request(deadline())?;
        }
        self.take()
    }

    #[cold]
    #[inline(never)]
    fn wait_for_request(&mut self, deadline: Option<Instant>) -> Result<(), ServeError> {
        wait_until(self, deadline, |end| &mut end.port, |end| end.is_there())
    }

    /// V1.
    #[inline]
    fn is_there(&mut self) -> Result<bool, ServeError> {
        if !self.port.usable() {
            return Err(self.refusal());
        }
        let word = self.line.block().load(Acquire); // edge `request`
        if word == self.expected {
            Ok(true)
        } else if word == self.left {
            Ok(false)
        } else {
            Err(self.corrupt())
        }
    }

    /// V2, behind a look that found the request.
    #[inline]
    fn take(&mut self) -> Result<Req, ServeError> {
        self.keep();
        match self.line.block().message(0).read_checked() {
            Some(request) => Ok(request),
            None => Err(self.refuse_invalid()),
        }
    }

    /// Copies the request into the journal.
    #[inline]
    fn keep(&mut self) {
        let len = self.lengths.request();
        // The usual case has a length that the compiler knows.
        if len == size_of::<Req>() {
            self.keep_bytes(size_of::<Req>())
        } else {
            self.keep_bytes(len)
        }
    }

    #[inline(always)]
    fn keep_bytes(&self, len: usize) {
        let mut bytes = [0; BYTES_MAX];
        self.line.block().message(0).read(&mut bytes[..len]);
        self.control.write(JOURNAL, &bytes[..len]);
    }

    /// V4 to V7.
    #[inline]
    fn put_answer(&mut self, answer: &Resp) -> Result<(), ServeError> {
        if !self.port.usable() {
            return Err(self.refusal());
        }
        let answering = self.lengths.word(self.sequence, State::Answering);
        let line = self.line.block();
        line.store(answering, Release); // edge `journal`
        fence(Release); // edge `torn`
        line.message(0).write(bytes_of(answer));
        self.end_call(State::Answer);
        self.port.stats.passed(1, size_of::<Resp>() as u64);
        Ok(())
    }

    /// V6 and V7.
    #[inline]
    fn end_call(&mut self, state: State) {
        self.left = self.lengths.word(self.sequence, state);
        self.line.block().store(self.left, Release); // edge `answer`
        self.sequence = next(self.sequence);
        self.expected = self.lengths.word(self.sequence, State::Request);
        self.port.announce();
    }

    #[cold]
    fn refuse(&mut self) -> Result<(), ServeError> {
        if !self.port.usable() {
            return Err(self.refusal());
        }
        self.end_call(State::Free);
        self.port.stats.dropped(1);
        Ok(())
    }

    #[cold]
    fn refuse_invalid(&mut self) -> ServeError {
        let sequence = self.sequence;
        match self.refuse() {
            Ok(()) => ServeError::InvalidValue { sequence },
            Err(error) => error,
        }
    }

    #[cold]
    fn corrupt(&mut self) -> ServeError {
        self.corruption = Some(BAD_HEADER);
        self.port.condemn();
        ServeError::Corrupt(BAD_HEADER)
    }

    #[cold]
    fn refusal(&self) -> ServeError {
        self.corruption.map_or(ServeError::Forked, ServeError::Corrupt)
    }
}

/// W1 and W2: the line as it was before the predecessor began to answer.
fn restore(parts: &Parts, lengths: Lengths, sequence: u64) {
    let mut bytes = [0; BYTES_MAX];
    let bytes = &mut bytes[..lengths.request()];
    parts.control.read(JOURNAL, bytes);
    parts.payload.write(BYTES, bytes);
    let word = lengths.word(sequence, State::Request);
    parts.payload.store64(HEADER, word, Release); // edge `restored`
}

impl<Req, Resp> Server<Req, Resp> {
    /// The number of the last call that was answered or refused through this cell, by whomever;
    /// after 2^56 calls it begins again.
    pub fn sequence(&self) -> u64 {
        previous(self.sequence)
    }

    endpoint_calls!(port);
}

impl<Req: CheckedBitPattern, Resp: NoUninit> Request<'_, Req, Resp> {
    /// The request, a private copy.
    pub fn value(&self) -> Req {
        self.value
    }

    /// The number of the call: one that was seen before is a repetition, so effects can be made
    /// idempotent.
    pub fn sequence(&self) -> u64 {
        self.server.sequence
    }

    /// Answers it.
    ///
    /// # Errors
    ///
    /// `Forked` in a forked child.
    #[inline]
    pub fn answer(self, answer: Resp) -> Result<(), ServeError> {
        self.server.put_answer(&answer)
    }

    /// Ends the call without an answer; the caller gets [`CallError::Refused`].
    ///
    /// # Errors
    ///
    /// As [`Request::answer`].
    ///
    /// [`CallError::Refused`]: crate::CallError::Refused
    pub fn refuse(self) -> Result<(), ServeError> {
        self.server.refuse()
    }
}

impl<Req, Resp> fmt::Debug for Server<Req, Resp> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("sequence", &self.sequence()).finish_non_exhaustive()
    }
}

impl<Req: fmt::Debug, Resp> fmt::Debug for Request<'_, Req, Resp> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sequence = self.server.sequence;
        f.debug_struct("Request").field("sequence", &sequence).field("value", &self.value).finish()
    }
}

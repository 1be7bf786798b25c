//! The calling end of a call cell.
//!
//! The steps K1 to K5 are told in the parent module.

use super::endpoint::{AttachError, CALLER_WORDS, FIRST_LOOKS, Parts};
use super::layout::{BAD_HEADER, HEADER, Lengths, State, next};
use crate::outcome::CallError;
use crate::sync::spin_loop;
use crate::view::BlockCursor;
use crate::wait::{Port, deadline_after, endpoint_calls, wait_until};
use bytemuck::{CheckedBitPattern, NoUninit, bytes_of};
use core::fmt;
use core::marker::PhantomData;
use core::sync::atomic::Ordering::{Acquire, Release};
use core::time::Duration;
use std::time::Instant;

/// Whose call the last one in the line is, as far as this caller knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It is over; the line is ours.
    Free,
    /// A call of ours whose answer was not received yet.
    Own,
    /// A call of a predecessor, still with the server when we attached.
    Foreign,
}

/// The calling end of a call cell.
///
/// There is one at a time. Dropping it leaves the cell to a successor, who never receives the
/// answer to a call of this one.
///
/// A call that ended with `TimedOut`, `Cancelled`, `Closed` or `PeerDied` stays with the server:
/// [`Caller::finish`] waits for it once more. The next call is sent when its answer has come,
/// which is then dropped.
pub struct Caller<Req, Resp> {
    lengths: Lengths,
    sequence: u64,
    phase: Phase,
    corruption: Option<&'static str>,
    line: BlockCursor,
    port: Port,
    types: PhantomData<fn(Req) -> Resp>,
}

impl<Req: NoUninit, Resp: CheckedBitPattern> Caller<Req, Resp> {
    /// Attaches behind the last call. The request's length is that of `Req`; the answer's is at
    /// least that of `Resp`.
    pub(crate) fn attach(parts: Parts, lengths: Lengths) -> Result<Self, AttachError> {
        parts.check()?;
        if lengths.request() != size_of::<Req>() || lengths.answer() < size_of::<Resp>() {
            return Err(AttachError::Geometry);
        }
        let word = parts.payload.load64(HEADER, Acquire); // edge `answer`
        let header = lengths.parse(word).map_err(AttachError::Corrupt)?;
        let phase = match header.state {
            State::Free | State::Answer => Phase::Free,
            State::Request | State::Answering => Phase::Foreign,
        };
        let (_, line, port) = parts.into_port(CALLER_WORDS)?;
        let sequence = header.sequence;
        Ok(Self { lengths, sequence, phase, corruption: None, line, port, types: PhantomData })
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    ///
    /// `Closed` and `PeerDied` when the server has left or died, see [`Caller::outlive_peer`]; a
    /// server that never was is waited for. [`CallError`] says what each means for the request.
    #[inline]
    pub fn call(&mut self, request: Req) -> Result<Resp, CallError> {
        self.call_until(request, || None)
    }

    /// Sends a request and waits for its answer until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`Caller::call`]; `Busy` if the line was not free before the deadline, so that nothing
    /// was sent, and `TimedOut` if the answer did not come before it.
    #[inline]
    pub fn call_deadline(&mut self, request: Req, deadline: Instant) -> Result<Resp, CallError> {
        self.call_until(request, || Some(deadline))
    }

    /// Sends a request and waits for its answer for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`Caller::call_deadline`].
    #[inline]
    pub fn call_timeout(&mut self, request: Req, timeout: Duration) -> Result<Resp, CallError> {
        self.call_until(request, || deadline_after(timeout))
    }

    /// Sends a request if the line is free, and returns its number; the answer is taken by
    /// [`Caller::try_finish`] or [`Caller::finish`]. The answer to an earlier call that was not
    /// taken is dropped.
    ///
    /// # Errors
    ///
    /// [`CallError::Busy`] while an earlier call is with the server. After 64 of these, at least
    /// 50 ms apart, the kernel is asked about the server; `Closed` or `PeerDied` then say that it
    /// has left or died. Nothing was sent in any case.
    pub fn start(&mut self, request: Req) -> Result<u64, CallError> {
        if self.phase != Phase::Free {
            self.try_free()?;
        }
        self.send(&request)?;
        Ok(self.sequence)
    }

    /// Takes the answer to the call under way if there is one.
    ///
    /// # Errors
    ///
    /// [`CallError::Pending`] when there is none yet. After 64 of these, at least 50 ms apart,
    /// the kernel is asked about the server. [`CallError::Idle`] if no call of this caller is
    /// under way.
    #[inline]
    pub fn try_finish(&mut self) -> Result<Resp, CallError> {
        self.check_started()?;
        if self.is_over()? {
            return self.take();
        }
        match self.port.tried_in_vain() {
            None => Err(CallError::Pending),
            // Once more, now that the server's end is known.
            Some(end) => {
                if self.is_over()? {
                    self.take()
                } else {
                    Err(end.into())
                }
            }
        }
    }

    /// Waits for the answer to the call under way.
    ///
    /// # Errors
    ///
    /// As [`Caller::call`], and [`CallError::Idle`] if no call of this caller is under way.
    #[inline]
    pub fn finish(&mut self) -> Result<Resp, CallError> {
        self.check_started()?;
        self.finish_until(|| None)
    }

    /// Waits for the answer to the call under way until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`Caller::finish`], and `TimedOut`.
    #[inline]
    pub fn finish_deadline(&mut self, deadline: Instant) -> Result<Resp, CallError> {
        self.check_started()?;
        self.finish_until(|| Some(deadline))
    }

    /// Waits for the answer to the call under way for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`Caller::finish`], and `TimedOut`.
    #[inline]
    pub fn finish_timeout(&mut self, timeout: Duration) -> Result<Resp, CallError> {
        self.check_started()?;
        self.finish_until(|| deadline_after(timeout))
    }

    /// The number of the last call sent through this cell, by whomever. It is the same before and
    /// after a call that was not sent; after 2^56 calls it begins again.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    #[inline]
    fn call_until(
        &mut self,
        request: Req,
        deadline: impl FnOnce() -> Option<Instant>,
    ) -> Result<Resp, CallError> {
        if self.phase == Phase::Free {
            self.send(&request)?;
            return self.finish_until(deadline);
        }
        let deadline = deadline();
        self.wait_until_free(deadline)?;
        self.send(&request)?;
        self.finish_until(|| deadline)
    }

    /// K1 to K3; the line is ours.
    #[inline]
    fn send(&mut self, request: &Req) -> Result<(), CallError> {
        debug_assert_eq!(self.phase, Phase::Free);
        if !self.port.usable() {
            return Err(self.refusal());
        }
        self.sequence = next(self.sequence);
        self.phase = Phase::Own;
        let word = self.lengths.word(self.sequence, State::Request);
        let line = self.line.block();
        line.message(0).write(bytes_of(request));
        line.store(word, Release); // edge `request`
        self.port.announce();
        self.port.stats.passed(1, size_of::<Req>() as u64);
        Ok(())
    }

    #[inline]
    fn finish_until(
        &mut self,
        deadline: impl FnOnce() -> Option<Instant>,
    ) -> Result<Resp, CallError> {
        let looks = if self.port.spins() { FIRST_LOOKS } else { 0 };
        for _ in 0..looks {
            if self.is_over()? {
                return self.take();
            }
            spin_loop();
        }
        if !self.is_over()? {
            self.wait_until_over(deadline())?;
        }
        self.take()
    }

    /// K4: whether the last call in the line is over.
    #[inline]
    fn is_over(&mut self) -> Result<bool, CallError> {
        if !self.port.usable() {
            return Err(self.refusal());
        }
        let word = self.line.block().load(Acquire); // edge `answer`
        if word == self.lengths.word(self.sequence, State::Answer) {
            return Ok(true);
        }
        self.not_answered(word)
    }

    #[inline]
    fn not_answered(&mut self, word: u64) -> Result<bool, CallError> {
        let is = |state| word == self.lengths.word(self.sequence, state);
        if is(State::Request) || is(State::Answering) {
            return Ok(false);
        }
        if !is(State::Free) {
            self.corruption = Some(BAD_HEADER);
            self.port.condemn();
            return Err(CallError::Corrupt(BAD_HEADER));
        }
        match core::mem::replace(&mut self.phase, Phase::Free) {
            Phase::Own => Err(CallError::Refused),
            // Not our call that was refused, or one that was given up: the line is free.
            Phase::Foreign | Phase::Free => Ok(true),
        }
    }

    /// K5, behind a look that found the answer.
    #[inline]
    fn take(&mut self) -> Result<Resp, CallError> {
        self.phase = Phase::Free;
        let answer = self.line.block().message(0).read_checked();
        answer.ok_or(CallError::InvalidValue { sequence: self.sequence })
    }

    #[cold]
    #[inline(never)]
    fn wait_until_over(&mut self, deadline: Option<Instant>) -> Result<(), CallError> {
        wait_until(self, deadline, |end| &mut end.port, |end| end.is_over())
    }

    /// Waits for the end of a call that nobody takes the answer of.
    #[cold]
    fn wait_until_free(&mut self, deadline: Option<Instant>) -> Result<(), CallError> {
        self.port.stats.full();
        let over = match self.is_over() {
            Ok(false) => self.wait_until_over(deadline),
            over => over.map(drop),
        };
        match over {
            Ok(()) | Err(CallError::Refused) => {
                self.phase = Phase::Free;
                Ok(())
            }
            Err(CallError::TimedOut) => Err(CallError::Busy),
            Err(error) => Err(error),
        }
    }

    /// The same without waiting.
    #[cold]
    fn try_free(&mut self) -> Result<(), CallError> {
        let mut end = None;
        loop {
            match self.is_over() {
                Ok(true) | Err(CallError::Refused) => {
                    self.phase = Phase::Free;
                    return Ok(());
                }
                Err(error) => return Err(error),
                Ok(false) => {}
            }
            if let Some(end) = end {
                return Err(end);
            }
            self.port.stats.full();
            match self.port.tried_in_vain() {
                None => return Err(CallError::Busy),
                // Once more, now that the server's end is known.
                Some(known) => end = Some(CallError::from(known)),
            }
        }
    }

    #[inline]
    fn check_started(&self) -> Result<(), CallError> {
        if self.phase == Phase::Own { Ok(()) } else { Err(self.not_started()) }
    }

    #[cold]
    fn not_started(&self) -> CallError {
        if self.port.usable() { CallError::Idle } else { self.refusal() }
    }

    #[cold]
    fn refusal(&self) -> CallError {
        self.corruption.map_or(CallError::Forked, CallError::Corrupt)
    }
}

impl<Req, Resp> Caller<Req, Resp> {
    endpoint_calls!(port);
}

impl<Req, Resp> fmt::Debug for Caller<Req, Resp> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sequence, phase) = (self.sequence, self.phase);
        f.debug_struct("Caller").field("sequence", &sequence).field("phase", &phase).finish()
    }
}

#[cfg(test)]
impl<Req, Resp> Caller<Req, Resp> {
    /// Goes on with another line, as if a peer had made it out of this one.
    pub(super) fn adopt(&mut self, payload: crate::view::View) {
        self.line = payload.blocks(super::endpoint::LINE, 1).unwrap();
    }
}

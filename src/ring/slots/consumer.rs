//! The receiving end of a slot ring, by bytes.
//!
//! The steps C1 to C4 are told in the parent module.

use super::check_released;
use super::reader::Reader;
use crate::ring::endpoint::{Parts, Side, endpoint_calls};
use crate::ring::error::{AttachError, Corruption, RecvError, is_there};
use crate::ring::layout::{CONTROL_ALIGN, RELEASED};
use crate::ring::position::SlotGeometry;
use crate::stats::Stats;
use crate::view::Message;
use crate::wait::{Port, Waitable, Waits, deadline_after, doorbell_calls, wait_until};
use core::fmt;
use core::sync::atomic::Ordering::Acquire;
use core::time::Duration;
use std::time::Instant;

/// The receiving end of a typed ring, by bytes.
pub struct RawConsumer {
    geometry: SlotGeometry,
    reader: Reader,
    /// The position at which a wait last found nothing.
    caught_up_at: u64,
    corruption: Option<Corruption>,
    pub(in crate::ring) port: Port,
}

impl RawConsumer {
    /// Attaches at the released position.
    pub(crate) fn attach(parts: Parts, geometry: SlotGeometry) -> Result<Self, AttachError> {
        parts.check(geometry.bytes() as u64, CONTROL_ALIGN)?;
        let position = parts.control.load64(RELEASED, Acquire);
        let position = check_released(position)?;
        let (control, payload, port) = parts.into_port(Side::Consumer)?;
        let reader = Reader::new(&control, &payload, &geometry, position)?;
        Ok(Self { geometry, reader, caught_up_at: position, corruption: None, port })
    }

    /// Receives a message into `bytes`, of exactly [`RawConsumer::size`] bytes, if there is one.
    ///
    /// # Errors
    ///
    /// [`RecvError::Empty`] when there is none. After 64 of these, at least 50 ms apart, the
    /// kernel is asked about the producer; an empty ring whose producer has left or died is
    /// then answered with `Closed` or `PeerDied`.
    #[inline]
    pub fn try_recv(&mut self, bytes: &mut [u8]) -> Result<(), RecvError> {
        self.check_size(bytes)?;
        self.try_take(Self::into_bytes(bytes))
    }

    /// Receives a message, waiting for it.
    ///
    /// # Errors
    ///
    /// `Closed` and `PeerDied` when everything was received and the producer has left or died,
    /// see [`RawConsumer::outlive_peer`]; a ring that never had a producer is waited for.
    #[inline]
    pub fn recv(&mut self, bytes: &mut [u8]) -> Result<(), RecvError> {
        self.check_size(bytes)?;
        self.take_until(Self::into_bytes(bytes), || None)
    }

    /// Receives a message, waiting for it until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`RawConsumer::recv`], and `TimedOut`.
    #[inline]
    pub fn recv_deadline(&mut self, bytes: &mut [u8], deadline: Instant) -> Result<(), RecvError> {
        self.check_size(bytes)?;
        self.take_until(Self::into_bytes(bytes), || Some(deadline))
    }

    /// Receives a message, waiting for it for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`RawConsumer::recv`], and `TimedOut`.
    #[inline]
    pub fn recv_timeout(&mut self, bytes: &mut [u8], timeout: Duration) -> Result<(), RecvError> {
        self.check_size(bytes)?;
        self.take_until(Self::into_bytes(bytes), || deadline_after(timeout))
    }

    #[inline]
    fn check_size(&self, bytes: &[u8]) -> Result<(), RecvError> {
        let (len, size) = (bytes.len(), self.geometry.size());
        if len == size { Ok(()) } else { Err(RecvError::WrongSize { len, size }) }
    }

    /// A reader of one slot that fills `bytes`.
    #[inline]
    fn into_bytes(bytes: &mut [u8]) -> impl FnMut(&Message<'_>) -> Option<()> {
        |slot| {
            slot.read(bytes);
            Some(())
        }
    }

    #[inline(always)]
    pub(in crate::ring) fn try_take<R>(
        &mut self,
        mut read: impl FnMut(&Message<'_>) -> Option<R>,
    ) -> Result<R, RecvError> {
        match self.take(&mut read) {
            Err(RecvError::Empty) => {}
            done => return done,
        }
        match self.still_empty() {
            RecvError::Empty => Err(RecvError::Empty),
            // Once more, now that the peer's end is known.
            end => match self.take(&mut read) {
                Err(RecvError::Empty) => Err(end),
                done => done,
            },
        }
    }

    #[cold]
    #[inline(never)]
    pub(in crate::ring) fn still_empty(&mut self) -> RecvError {
        self.port.stats.empty();
        self.port.tried_in_vain().map_or(RecvError::Empty, RecvError::from)
    }

    #[inline(always)]
    pub(in crate::ring) fn take_until<R>(
        &mut self,
        mut read: impl FnMut(&Message<'_>) -> Option<R>,
        deadline: impl FnOnce() -> Option<Instant>,
    ) -> Result<R, RecvError> {
        match self.take(&mut read) {
            Err(RecvError::Empty) => {}
            done => return done,
        }
        self.wait_for_message(deadline())?;
        self.take(&mut read)
    }

    #[cold]
    #[inline(never)]
    pub(in crate::ring) fn wait_for_message(
        &mut self,
        deadline: Option<Instant>,
    ) -> Result<(), RecvError> {
        self.port.stats.empty();
        let position = self.reader.position();
        let passed = position - self.caught_up_at;
        self.caught_up_at = position;
        if self.port.look_away(passed, self.geometry.size() as u64) && is_there(self.poll())? {
            return Ok(());
        }
        wait_until(self, deadline, |end| &mut end.port, |end| is_there(end.poll()))
    }

    /// C1 to C4.
    #[inline(always)]
    fn take<R>(
        &mut self,
        read: &mut impl FnMut(&Message<'_>) -> Option<R>,
    ) -> Result<R, RecvError> {
        self.poll()?;
        let position = self.reader.position();
        let value = read(&self.reader.message());
        self.reader.pass();
        self.release(position + 1);
        value.ok_or(RecvError::InvalidValue { position })
    }

    /// C1: whether there is a message at the position.
    #[inline(always)]
    fn poll(&mut self) -> Result<(), RecvError> {
        if !self.port.usable() {
            return Err(self.refusal());
        }
        match self.reader.poll() {
            Ok(()) => Ok(()),
            Err(word) => self.not_filled(word),
        }
    }

    #[cold]
    #[inline(never)]
    fn not_filled(&mut self, word: u64) -> Result<(), RecvError> {
        match self.reader.judge(word) {
            RecvError::Corrupt(corruption) => Err(self.corrupt(corruption)),
            error => Err(error),
        }
    }

    /// C3 and C4: everything before `position` is delivered.
    #[inline(always)]
    fn release(&mut self, position: u64) {
        let before = self.reader.position();
        self.reader.release(position);
        self.port.announce();
        self.port.stats.went_on(before, position);
    }

    #[cold]
    fn corrupt(&mut self, corruption: Corruption) -> RecvError {
        self.corruption = Some(corruption);
        self.port.condemn();
        RecvError::Corrupt(corruption)
    }

    #[cold]
    fn refusal(&self) -> RecvError {
        self.corruption.map_or(RecvError::Forked, RecvError::Corrupt)
    }

    /// Receives up to `max` messages with one release at the end. `take` gets each value; a
    /// message that is no value ends the batch before it, or is the answer if it is the first.
    #[inline]
    pub(in crate::ring) fn take_batch<R>(
        &mut self,
        max: usize,
        read: impl FnMut(&Message<'_>) -> Option<R>,
        take: impl FnMut(usize, R),
    ) -> Result<usize, RecvError> {
        if max == 0 {
            return Ok(0);
        }
        self.poll()?;
        let before = self.reader.position();
        let done = self.reader.take_batch(max, read, take);
        if done != Err(RecvError::Empty) {
            self.port.announce();
            self.port.stats.went_on(before, self.reader.position());
        }
        done
    }

    /// Copies the next message without receiving it; it is seen again until it is received.
    #[inline]
    pub(in crate::ring) fn look<R>(
        &mut self,
        read: impl FnOnce(&Message<'_>) -> Option<R>,
    ) -> Result<R, RecvError> {
        self.poll()?;
        self.read_found(read)
    }

    /// The same; whoever finds nothing again and again is told of the producer's end.
    #[inline]
    pub(in crate::ring) fn peek<R>(
        &mut self,
        read: impl FnOnce(&Message<'_>) -> Option<R>,
    ) -> Result<R, RecvError> {
        match self.poll() {
            Err(RecvError::Empty) => self.poll_or_end()?,
            found => found?,
        }
        self.read_found(read)
    }

    #[inline]
    fn read_found<R>(&self, read: impl FnOnce(&Message<'_>) -> Option<R>) -> Result<R, RecvError> {
        let position = self.reader.position();
        read(&self.reader.message()).ok_or(RecvError::InvalidValue { position })
    }

    /// Nothing was found, unless the producer's end is known and there is something after all.
    #[cold]
    fn poll_or_end(&mut self) -> Result<(), RecvError> {
        let end = self.still_empty();
        match self.poll() {
            Err(RecvError::Empty) => Err(end),
            found => found,
        }
    }

    /// C3 and C4 for the message that [`look`](Self::look) has just found, without another look:
    /// its line may be on its way to the producer, who writes the next message into it.
    #[inline]
    pub(in crate::ring) fn release_found(&mut self) {
        self.reader.pass();
        self.release(self.reader.position() + 1);
    }

    /// Receives the next message without looking at it.
    ///
    /// # Errors
    ///
    /// As [`RawConsumer::try_recv`].
    pub fn skip(&mut self) -> Result<(), RecvError> {
        self.try_take(|_| Some(()))
    }

    /// The bytes of one message.
    pub fn size(&self) -> usize {
        self.geometry.size()
    }

    /// The number of slots.
    pub fn capacity(&self) -> u64 {
        self.geometry.capacity()
    }

    /// The position of the next message: how many were ever received through this ring.
    pub fn position(&self) -> u64 {
        self.reader.position()
    }

    /// How many messages wait. Looks at one header word for each block of them.
    pub fn lag(&self) -> u64 {
        self.reader.lag(&self.geometry)
    }

    /// What this endpoint counted.
    pub fn stats(&self) -> Stats {
        self.port.stats.get().at_position(self.position(), self.geometry.size() as u64)
    }

    endpoint_calls!(port, own stats);
    doorbell_calls!(port);
}

impl Waits for RawConsumer {
    fn port(&mut self) -> &mut Port {
        &mut self.port
    }

    fn ready(&mut self) -> bool {
        self.poll() != Err(RecvError::Empty)
    }
}

impl Waitable for RawConsumer {}

impl fmt::Debug for RawConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (position, geometry) = (self.position(), &self.geometry);
        f.debug_struct("RawConsumer").field("position", &position).field("at", geometry).finish()
    }
}

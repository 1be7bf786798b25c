//! Rings of slots of one size, each with its own commit stamp; the ends by bytes.
//!
//! One producer, one consumer, messages of one size that are copied in and out.
//! The consumer learns of a message from the line that carries it: there is no
//! shared write index. [`RawProducer`] and [`RawConsumer`] move bytes, for tools
//! and bindings; the ends with a type stand in `typed` and are the same code.
//! There is no reference into the ring; large or variable messages belong into a
//! record ring.
//!
//! # Protocol
//!
//! Positions count messages; the message at position p lies in slot p mod
//! capacity. The committed end is stored nowhere: it is the first slot whose
//! stamp is not p + 1.
//!
//! * P1 room: p - released < capacity, asking for `released` only when the
//!   private copy says full; the answer is checked against p
//! * P2 write the message into slot p
//! * P3 store stamp p + 1
//! * P4 ring the consumer if it sleeps
//!
//! A batch does P2 and P3 for its second to last message, in any order and
//! unseen, then P2 for the first and P3 for the first: visible whole or not at
//! all.
//!
//! * C1 load the stamp of slot p; p + 1 means there is a message, 0 or the
//!   stamp of the lap before means none, anything else is corrupt
//! * C2 copy the message out, check its bit pattern on the copy
//! * C3 store `released` = p + 1: the message is delivered
//! * C4 ring the producer if it sleeps
//!
//! A consumer attaches at `released`. A producer attaches by walk: A1 from
//! `released` over at most capacity slots while the stamp is p + 1, A2 clear
//! every stamp beyond that would be fresh in this lap (the leftovers of a batch
//! whose first stamp was never stored), A3 publish from there.
//!
//! # Memory ordering
//!
//! | edge | release store | acquire load | what becomes visible |
//! |---|---|---|---|
//! | `commit` | P3 | C1 | the message, and the rest of its batch with their stamps |
//! | `release` | C3 | P1, A1 | that the slot was read, so it may be overwritten |
//!
//! # Invariants
//!
//! * Producer: `position <= limit <= position + capacity`, `limit - capacity` is
//!   a released position that was checked; `offset` is the slot of `position`.
//! * No slot beyond the committed end, within this lap, holds a fresh stamp
//!   except during a batch.
//!
//! # Failure
//!
//! * Producer killed before P3: the slot is not fresh, the message never was.
//!   Between the stamps of a batch: the first is not fresh, A2 clears the rest.
//!   Between P3 and P4: see `wait`. In A2: the next attach does it again.
//! * Consumer killed before C3: the successor reads the message again, with the
//!   same position. After C3: it is delivered and never seen again.
//! * A slow peer: full or empty, for as long as it takes.
//! * A lying peer: a stamp or `released` outside what the protocol allows is
//!   [`Corrupt`](SendError::Corrupt), for good. Inside of that a lie changes
//!   which bytes are read, never where. Each call touches at most one slot, or
//!   as many as the caller has given room for; attach touches each slot twice.

use super::endpoint::{Parts, Side, endpoint_calls};
use super::error::{AttachError, Corruption, RecvError, SendError};
use super::layout::{CONTROL_ALIGN, RELEASED, WORD_LEN};
use super::position::{
    SlotGeometry, check_old_stamp, check_released_at_attach, limit_from, stamp_of,
};
use crate::view::View;
use crate::wait::{Port, Wait, deadline_after};
use core::fmt;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::time::Duration;
use std::time::Instant;

/// The producing end of a typed ring, by bytes.
pub struct RawProducer {
    geometry: SlotGeometry,
    position: u64,
    limit: u64,
    offset: usize,
    corruption: Option<Corruption>,
    payload: View,
    control: View,
    pub(super) port: Port,
}

impl RawProducer {
    /// Attaches behind the last committed message.
    pub(crate) fn attach(parts: Parts, geometry: SlotGeometry) -> Result<Self, AttachError> {
        parts.check(geometry.bytes() as u64, CONTROL_ALIGN)?;
        let released = parts.control.load64(RELEASED, Acquire); // edge `release`
        let released = check_released_at_attach(released, 1)?;
        let (control, payload, port) = parts.into_port(Side::Producer);
        let (position, offset) = recover(&payload, &geometry, released);
        let limit = released + geometry.capacity();
        Ok(Self { geometry, position, limit, offset, corruption: None, payload, control, port })
    }

    /// Sends the message `bytes`, of exactly [`RawProducer::size`] bytes, if there is room now.
    ///
    /// # Errors
    ///
    /// [`SendError::Full`] when there is none. After many of these, at least 50 ms apart, the
    /// kernel is asked about the consumer; a full ring whose consumer has left or died is then
    /// answered with `Closed` or `PeerDied`.
    #[inline]
    pub fn try_push(&mut self, bytes: &[u8]) -> Result<(), SendError> {
        self.check_size(bytes)?;
        self.try_put(bytes)
    }

    /// Sends a message, waiting for room.
    ///
    /// # Errors
    ///
    /// `Closed` and `PeerDied` when the ring is full and its consumer has left or died, see
    /// [`RawProducer::outlive_peer`]; a ring that never had a consumer is waited for.
    #[inline]
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), SendError> {
        self.check_size(bytes)?;
        self.put_until(bytes, || None)
    }

    /// Sends a message, waiting for room until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`RawProducer::push`], and `TimedOut`.
    #[inline]
    pub fn push_deadline(&mut self, bytes: &[u8], deadline: Instant) -> Result<(), SendError> {
        self.check_size(bytes)?;
        self.put_until(bytes, || Some(deadline))
    }

    /// Sends a message, waiting for room for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`RawProducer::push`], and `TimedOut`.
    #[inline]
    pub fn push_timeout(&mut self, bytes: &[u8], timeout: Duration) -> Result<(), SendError> {
        self.check_size(bytes)?;
        self.put_until(bytes, || deadline_after(timeout))
    }

    #[inline]
    fn check_size(&self, bytes: &[u8]) -> Result<(), SendError> {
        let (len, size) = (bytes.len(), self.geometry.size());
        if len == size { Ok(()) } else { Err(SendError::WrongSize { len, size }) }
    }

    #[inline]
    pub(super) fn try_put(&mut self, bytes: &[u8]) -> Result<(), SendError> {
        match self.put(bytes) {
            Err(SendError::Full) => self.still_full(bytes),
            done => done,
        }
    }

    #[cold]
    fn still_full(&mut self, bytes: &[u8]) -> Result<(), SendError> {
        self.port.stats.full();
        match self.port.tried_in_vain() {
            None => Err(SendError::Full),
            // Once more, now that the peer's end is known.
            Some(end) => match self.put(bytes) {
                Err(SendError::Full) => Err(end.into()),
                done => done,
            },
        }
    }

    #[inline]
    pub(super) fn put_until(
        &mut self,
        bytes: &[u8],
        deadline: impl FnOnce() -> Option<Instant>,
    ) -> Result<(), SendError> {
        match self.put(bytes) {
            Err(SendError::Full) => self.wait_and_put(bytes, deadline()),
            done => done,
        }
    }

    #[cold]
    fn wait_and_put(&mut self, bytes: &[u8], deadline: Option<Instant>) -> Result<(), SendError> {
        self.port.stats.full();
        let mut wait = Wait::until(deadline);
        let result = loop {
            if let Err(end) = self.port.wait(&mut wait) {
                break Err(end.into());
            }
            match self.put(bytes) {
                Err(SendError::Full) => {}
                done => break done,
            }
        };
        self.port.settle(&wait);
        result
    }

    /// P1 to P4.
    #[inline]
    fn put(&mut self, bytes: &[u8]) -> Result<(), SendError> {
        self.room()?;
        self.payload.write(self.offset + WORD_LEN, bytes);
        self.publish(self.offset, 1, self.geometry.next(self.offset));
        Ok(())
    }

    /// Stores the stamp of the message at `position`, which makes `count` messages visible.
    #[inline]
    fn publish(&mut self, first: usize, count: u64, next: usize) {
        self.payload.store64(first, stamp_of(self.position), Release); // edge `commit`
        self.position += count;
        self.offset = next;
        self.port.announce();
        self.port.stats.passed(count, count * self.geometry.size() as u64);
    }

    /// P1: how many messages fit, at least one.
    #[inline]
    fn room(&mut self) -> Result<u64, SendError> {
        if !self.port.usable() {
            return Err(self.refusal());
        }
        let room = self.limit - self.position;
        if room > 0 { Ok(room) } else { self.look_for_room() }
    }

    /// Asks the consumer's line.
    #[inline]
    fn look_for_room(&mut self) -> Result<u64, SendError> {
        let released = self.control.load64(RELEASED, Acquire); // edge `release`
        match limit_from(released, self.position, self.geometry.capacity(), 1) {
            Ok(limit) => self.limit = limit,
            Err(corruption) => return Err(self.corrupt(corruption)),
        }
        self.port.stats.high_water(self.position - released);
        let room = self.limit - self.position;
        if room > 0 { Ok(room) } else { Err(SendError::Full) }
    }

    #[cold]
    fn corrupt(&mut self, corruption: Corruption) -> SendError {
        self.corruption = Some(corruption);
        self.port.condemn();
        SendError::Corrupt(corruption)
    }

    #[cold]
    fn refusal(&self) -> SendError {
        self.corruption.map_or(SendError::Forked, SendError::Corrupt)
    }

    /// Sends the first `n` of `count` messages, as many as fit, visible at once.
    #[inline]
    pub(super) fn put_batch<'a>(
        &mut self,
        count: usize,
        message: impl Fn(usize) -> &'a [u8],
    ) -> Result<usize, SendError> {
        if count == 0 {
            return Ok(0);
        }
        let room = match self.room() {
            // Fewer than asked for, by the private copy: the consumer may have gone on.
            Ok(room) if room < count as u64 => self.look_for_room()?,
            other => other?,
        };
        let count = room.min(count as u64) as usize;
        let first = self.offset;
        let mut offset = first;
        for index in 0..count {
            self.payload.write(offset + WORD_LEN, message(index));
            if index > 0 {
                // Not seen before the first stamp, whose release store covers it.
                self.payload.store64(offset, stamp_of(self.position + index as u64), Relaxed);
            }
            offset = self.geometry.next(offset);
        }
        self.publish(first, count as u64, offset);
        Ok(count)
    }

    /// Sends as many of the messages in `bytes` (back to back) as fit now; they become visible
    /// at once. Returns how many.
    ///
    /// # Errors
    ///
    /// [`SendError::Full`] when not even one fits; [`SendError::WrongSize`] when `bytes` is no
    /// whole number of messages, or the messages have no bytes.
    pub fn push_batch(&mut self, bytes: &[u8]) -> Result<usize, SendError> {
        let size = self.geometry.size();
        if size == 0 || !bytes.len().is_multiple_of(size) {
            return Err(SendError::WrongSize { len: bytes.len(), size });
        }
        let done =
            self.put_batch(bytes.len() / size, |index| &bytes[index * size..(index + 1) * size]);
        self.counted(done)
    }

    pub(super) fn counted(&mut self, done: Result<usize, SendError>) -> Result<usize, SendError> {
        if done == Err(SendError::Full) {
            self.port.stats.full();
            if let Some(end) = self.port.tried_in_vain()
                && self.look_for_room() == Err(SendError::Full)
            {
                return Err(end.into());
            }
        }
        done
    }

    /// Whether `count` messages fit now.
    pub(super) fn room_for(&mut self, count: usize) -> Result<(), SendError> {
        if count as u64 > self.geometry.capacity() {
            let max = usize::try_from(self.geometry.capacity()).unwrap_or(usize::MAX);
            return Err(SendError::TooLarge { len: count, max });
        }
        if !self.port.usable() {
            return Err(self.refusal());
        }
        if self.limit - self.position >= count as u64 {
            return Ok(());
        }
        let room = self.look_for_room()?;
        if room >= count as u64 { Ok(()) } else { Err(SendError::Full) }
    }

    /// Counts a message that the caller gave up for want of room.
    #[cold]
    pub(super) fn count_drop(&mut self) {
        self.port.stats.dropped(1);
    }

    /// The bytes of one message.
    pub fn size(&self) -> usize {
        self.geometry.size()
    }

    /// The number of slots.
    pub fn capacity(&self) -> u64 {
        self.geometry.capacity()
    }

    /// The position of the next message: how many were ever sent through this ring.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// How many messages wait to be received, as far as the consumer's line tells.
    pub fn len(&self) -> u64 {
        let released = self.control.load64(RELEASED, Relaxed);
        self.position.saturating_sub(released).min(self.geometry.capacity())
    }

    /// Whether no message waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    endpoint_calls!(port);
}

/// A1 and A2: finds the committed end and its slot, and clears what lies beyond.
fn recover(payload: &View, geometry: &SlotGeometry, released: u64) -> (u64, usize) {
    let start = geometry.offset_of(released);
    let (mut position, mut offset) = (released, start);
    let lap = released + geometry.capacity();
    while position < lap && payload.load64(offset, Acquire) == stamp_of(position) {
        position += 1;
        offset = geometry.next(offset);
    }
    let end = (position, offset);
    while position < lap {
        if payload.load64(offset, Relaxed) == stamp_of(position) {
            payload.store64(offset, 0, Relaxed);
        }
        position += 1;
        offset = geometry.next(offset);
    }
    end
}

/// The receiving end of a typed ring, by bytes.
pub struct RawConsumer {
    geometry: SlotGeometry,
    position: u64,
    offset: usize,
    corruption: Option<Corruption>,
    payload: View,
    control: View,
    pub(super) port: Port,
}

impl RawConsumer {
    /// Attaches at the released position.
    pub(crate) fn attach(parts: Parts, geometry: SlotGeometry) -> Result<Self, AttachError> {
        parts.check(geometry.bytes() as u64, CONTROL_ALIGN)?;
        let position = parts.control.load64(RELEASED, Acquire);
        let position = check_released_at_attach(position, 1)?;
        let (control, payload, port) = parts.into_port(Side::Consumer);
        let offset = geometry.offset_of(position);
        Ok(Self { geometry, position, offset, corruption: None, payload, control, port })
    }

    /// Receives a message into `bytes`, of exactly [`RawConsumer::size`] bytes, if there is one.
    ///
    /// # Errors
    ///
    /// [`RecvError::Empty`] when there is none. After many of these, at least 50 ms apart, the
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
    fn into_bytes(bytes: &mut [u8]) -> impl FnMut(&View, usize, usize) -> Option<()> {
        |payload, offset, _| {
            payload.read(offset, bytes);
            Some(())
        }
    }

    #[inline]
    pub(super) fn try_take<R>(
        &mut self,
        mut read: impl FnMut(&View, usize, usize) -> Option<R>,
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

    pub(super) fn still_empty(&mut self) -> RecvError {
        self.port.stats.empty();
        self.port.tried_in_vain().map_or(RecvError::Empty, RecvError::from)
    }

    #[inline]
    pub(super) fn take_until<R>(
        &mut self,
        mut read: impl FnMut(&View, usize, usize) -> Option<R>,
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
    fn wait_for_message(&mut self, deadline: Option<Instant>) -> Result<(), RecvError> {
        self.port.stats.empty();
        let mut wait = Wait::until(deadline);
        let result = loop {
            if let Err(end) = self.port.wait(&mut wait) {
                break Err(end.into());
            }
            match self.poll() {
                Err(RecvError::Empty) => {}
                done => break done,
            }
        };
        self.port.settle(&wait);
        result
    }

    /// C1 to C4.
    #[inline]
    fn take<R>(
        &mut self,
        read: &mut impl FnMut(&View, usize, usize) -> Option<R>,
    ) -> Result<R, RecvError> {
        self.poll()?;
        let value = read(&self.payload, self.offset + WORD_LEN, self.geometry.size());
        let position = self.position;
        self.position += 1;
        self.offset = self.geometry.next(self.offset);
        self.release(1);
        value.ok_or(RecvError::InvalidValue { position })
    }

    /// C1: whether there is a message at `position`.
    #[inline]
    fn poll(&mut self) -> Result<(), RecvError> {
        if !self.port.usable() {
            return Err(self.refusal());
        }
        let stamp = self.payload.load64(self.offset, Acquire); // edge `commit`
        if stamp == stamp_of(self.position) { Ok(()) } else { self.not_fresh(stamp) }
    }

    #[inline]
    fn not_fresh(&mut self, stamp: u64) -> Result<(), RecvError> {
        match check_old_stamp(stamp, self.position, self.geometry.capacity()) {
            Ok(()) => Err(RecvError::Empty),
            Err(corruption) => Err(self.corrupt(corruption)),
        }
    }

    /// C3 and C4, for the last `count` messages before `position`.
    #[inline]
    fn release(&mut self, count: u64) {
        self.control.store64(RELEASED, self.position, Release); // edge `release`
        self.port.announce();
        self.port.stats.passed(count, count * self.geometry.size() as u64);
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
    pub(super) fn take_batch<R>(
        &mut self,
        max: usize,
        mut read: impl FnMut(&View, usize, usize) -> Option<R>,
        mut take: impl FnMut(usize, R),
    ) -> Result<usize, RecvError> {
        let mut count = 0;
        while count < max {
            match self.poll() {
                Ok(()) => {}
                Err(error) if count == 0 => return Err(error),
                Err(_) => break,
            }
            match read(&self.payload, self.offset + WORD_LEN, self.geometry.size()) {
                Some(value) => take(count, value),
                None if count > 0 => break,
                None => {
                    let position = self.position;
                    self.position += 1;
                    self.offset = self.geometry.next(self.offset);
                    self.release(1);
                    return Err(RecvError::InvalidValue { position });
                }
            }
            self.position += 1;
            self.offset = self.geometry.next(self.offset);
            count += 1;
        }
        if count > 0 {
            self.release(count as u64);
        }
        Ok(count)
    }

    /// Copies the next message without receiving it; it is seen again until it is received.
    #[inline]
    pub(super) fn look<R>(
        &mut self,
        read: impl FnOnce(&View, usize, usize) -> Option<R>,
    ) -> Result<R, RecvError> {
        self.poll()?;
        read(&self.payload, self.offset + WORD_LEN, self.geometry.size())
            .ok_or(RecvError::InvalidValue { position: self.position })
    }

    /// Receives the next message without looking at it.
    ///
    /// # Errors
    ///
    /// As [`RawConsumer::try_recv`].
    pub fn skip(&mut self) -> Result<(), RecvError> {
        self.try_take(|_, _, _| Some(()))
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
        self.position
    }

    /// How many messages wait. Looks into about log2(capacity) slots.
    pub fn lag(&self) -> u64 {
        let fresh = |ahead: u64| {
            let position = self.position + ahead;
            let offset = self.geometry.offset_of(position);
            self.payload.load64(offset, Acquire) == stamp_of(position)
        };
        let (mut low, mut high) = (0, self.geometry.capacity());
        while low < high {
            let middle = low + (high - low) / 2;
            if fresh(middle) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    endpoint_calls!(port);
}

impl fmt::Debug for RawProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (position, geometry) = (self.position, &self.geometry);
        f.debug_struct("RawProducer").field("position", &position).field("at", geometry).finish()
    }
}

impl fmt::Debug for RawConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (position, geometry) = (self.position, &self.geometry);
        f.debug_struct("RawConsumer").field("position", &position).field("at", geometry).finish()
    }
}

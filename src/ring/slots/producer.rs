//! The producing end of a slot ring, by bytes.
//!
//! The steps P1 to P4, A1 and A2 are told in the parent module.

use super::windows;
use crate::ring::endpoint::{Parts, Side, endpoint_calls};
use crate::ring::error::{AttachError, Corruption, SendError};
use crate::ring::layout::{CONTROL_ALIGN, RELEASED};
use crate::ring::position::{SlotGeometry, check_released_at_attach, limit_from, stamp_of};
use crate::view::{SlotCursor, Word64};
use crate::wait::{Port, STREAM, Wait, Waitable, Waits, deadline_after, doorbell_calls};
use core::fmt;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::time::Duration;
use std::time::Instant;

/// The producing end of a typed ring, by bytes.
pub struct RawProducer {
    geometry: SlotGeometry,
    position: u64,
    limit: u64,
    /// The position at which a wait last found no room.
    filled_at: u64,
    corruption: Option<Corruption>,
    slots: SlotCursor,
    released: Word64,
    pub(in crate::ring) port: Port,
}

impl RawProducer {
    /// Attaches behind the last committed message.
    pub(crate) fn attach(parts: Parts, geometry: SlotGeometry) -> Result<Self, AttachError> {
        parts.check(geometry.bytes() as u64, CONTROL_ALIGN)?;
        let released = parts.control.load64(RELEASED, Acquire); // edge `release`
        let released = check_released_at_attach(released, 1)?;
        let (control, payload, mut port) = parts.into_port(Side::Producer)?;
        port.stats.count_positions(geometry.size());
        let (word, mut slots) = windows(&control, &payload, &geometry)?;
        let position = recover(&mut slots, &geometry, released);
        let limit = released + geometry.capacity();
        Ok(Self {
            geometry,
            position,
            limit,
            filled_at: position,
            corruption: None,
            slots,
            released: word,
            port,
        })
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

    #[inline(always)]
    pub(in crate::ring) fn try_put(&mut self, bytes: &[u8]) -> Result<(), SendError> {
        match self.put(bytes) {
            Err(SendError::Full) => self.still_full(bytes),
            done => done,
        }
    }

    #[cold]
    #[inline(never)]
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

    #[inline(always)]
    pub(in crate::ring) fn put_until(
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
    #[inline(never)]
    fn wait_and_put(&mut self, bytes: &[u8], deadline: Option<Instant>) -> Result<(), SendError> {
        self.wait_for_room(deadline)?;
        self.put(bytes)
    }

    /// Waits until at least one message fits.
    #[cold]
    #[inline(never)]
    pub(in crate::ring) fn wait_for_room(
        &mut self,
        deadline: Option<Instant>,
    ) -> Result<(), SendError> {
        self.port.stats.full();
        let streamed = self.position - self.filled_at >= STREAM;
        self.filled_at = self.position;
        if streamed {
            self.port.look_away();
            match self.room() {
                Err(SendError::Full) => {}
                done => return done.map(drop),
            }
        }
        let mut wait = Wait::until(deadline);
        let result = loop {
            if let Err(end) = self.port.wait(&mut wait) {
                break Err(end.into());
            }
            match self.room() {
                Err(SendError::Full) => {}
                done => break done.map(drop),
            }
        };
        self.port.settle(&wait);
        result
    }

    /// P1 to P4.
    #[inline(always)]
    fn put(&mut self, bytes: &[u8]) -> Result<(), SendError> {
        self.room()?;
        let position = self.position;
        let slot = self.slots.slot();
        slot.write(bytes);
        slot.store(stamp_of(position), Release); // edge `commit`
        self.slots.advance();
        self.published(position + 1);
        Ok(())
    }

    /// P4, behind the stamp that made everything before `position` visible.
    #[inline(always)]
    fn published(&mut self, position: u64) {
        self.position = position;
        self.port.announce();
        self.port.stats.reached(position);
    }

    /// P1: how many messages fit, at least one.
    #[inline(always)]
    fn room(&mut self) -> Result<u64, SendError> {
        if !self.port.usable() {
            return Err(self.refusal());
        }
        let room = self.limit - self.position;
        if room > 0 { Ok(room) } else { self.look_for_room() }
    }

    /// Asks the consumer's line.
    #[cold]
    #[inline(never)]
    fn look_for_room(&mut self) -> Result<u64, SendError> {
        let released = self.released.load(Acquire); // edge `release`
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
    pub(in crate::ring) fn put_batch<'a>(
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
        let position = self.position;
        let mut walk = self.slots.walk();
        let first = walk.step();
        for index in 1..count {
            let slot = walk.step();
            slot.write(message(index));
            // Not seen before the first stamp, whose release store covers it.
            slot.store(stamp_of(position + index as u64), Relaxed);
        }
        first.write(message(0));
        first.store(stamp_of(position), Release); // edge `commit`
        self.slots.skip(count);
        self.published(position + count as u64);
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

    pub(in crate::ring) fn counted(
        &mut self,
        done: Result<usize, SendError>,
    ) -> Result<usize, SendError> {
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
    pub(in crate::ring) fn room_for(&mut self, count: usize) -> Result<(), SendError> {
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
    pub(in crate::ring) fn count_drop(&mut self) {
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
        let released = self.released.load(Relaxed);
        self.position.saturating_sub(released).min(self.geometry.capacity())
    }

    /// Whether no message waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    endpoint_calls!(port);
    doorbell_calls!(port);
}

/// A1 and A2: finds the committed end, moves there, and clears what lies beyond.
fn recover(slots: &mut SlotCursor, geometry: &SlotGeometry, released: u64) -> u64 {
    slots.seek(released);
    let lap = released + geometry.capacity();
    let mut end = released;
    let mut walk = slots.walk();
    while end < lap && walk.slot().load(Acquire) == stamp_of(end) {
        walk.step();
        end += 1;
    }
    for position in end..lap {
        let slot = walk.step();
        if slot.load(Relaxed) == stamp_of(position) {
            slot.store(0, Relaxed);
        }
    }
    slots.seek(end);
    end
}

impl Waits for RawProducer {
    fn port(&mut self) -> &mut Port {
        &mut self.port
    }

    fn ready(&mut self) -> bool {
        self.room() != Err(SendError::Full)
    }
}

impl Waitable for RawProducer {}

impl fmt::Debug for RawProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (position, geometry) = (self.position, &self.geometry);
        f.debug_struct("RawProducer").field("position", &position).field("at", geometry).finish()
    }
}

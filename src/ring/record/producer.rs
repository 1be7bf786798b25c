//! The producing end of a record ring: reserve, write, commit.
//!
//! The steps P1 to P6 and A1 are told in the parent module.

use super::reservation::{Batch, Reservation};
use crate::ring::endpoint::{Parts, Side, endpoint_calls};
use crate::ring::error::{AttachError, Corruption, SendError};
use crate::ring::layout::{CONTROL_ALIGN, RELEASED, WORD_LEN};
use crate::ring::position::{
    Header, Place, RecordGeometry, check_released_at_attach, limit_from, padding_word, record_word,
};
use crate::view::{View, Word64};
use crate::wait::{Port, Wait, Waitable, Waits, deadline_after, doorbell_calls};
use core::fmt;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::time::Duration;
use std::time::Instant;

/// The header word as positions count.
const WORD: u64 = WORD_LEN as u64;

/// The producing end of a record ring.
///
/// There is one at a time. Dropping it leaves the ring to a successor, who goes on behind the
/// last committed record.
pub struct RecordProducer {
    geometry: RecordGeometry,
    pub(super) position: u64,
    offset: u64,
    limit: u64,
    pub(super) staged: Staged,
    pub(super) trusted: bool,
    /// The length that was last refused for want of room.
    refused: usize,
    corruption: Option<Corruption>,
    pub(super) payload: View,
    released: Word64,
    pub(super) port: Port,
}

/// What is written and not yet visible.
#[derive(Clone, Copy, Default)]
pub(super) struct Staged {
    /// The first header word, held back: its offset and value.
    first: Option<(usize, u64)>,
    /// How far the position will move.
    pub(super) span: u64,
    pub(super) records: u64,
    bytes: u64,
}

impl RecordProducer {
    /// Attaches behind the last committed record (A1).
    pub(crate) fn attach(parts: Parts, geometry: RecordGeometry) -> Result<Self, AttachError> {
        let align = CONTROL_ALIGN.max(geometry.payload_align() as usize);
        parts.check(geometry.capacity(), align)?;
        let released = parts.control.load64(RELEASED, Acquire); // edge `release`
        let released = check_released_at_attach(released, WORD)?;
        let position = committed_end(&parts.payload, &geometry, released)?;
        let (control, payload, port) = parts.into_port(Side::Producer)?;
        let word = control.find64(RELEASED).ok_or(AttachError::ReadOnly)?;
        Ok(Self {
            geometry,
            position,
            offset: position % geometry.capacity(),
            limit: released + geometry.capacity(),
            staged: Staged::default(),
            trusted: false,
            refused: 0,
            corruption: None,
            payload,
            released: word,
            port,
        })
    }

    /// Reserves a record of `len` bytes if there is room now.
    ///
    /// Nothing is visible before [`Reservation::commit`]; dropping the reservation gives it up.
    /// The bytes hold what was in the ring before, so write all that is committed.
    ///
    /// # Errors
    ///
    /// [`SendError::Full`] when there is no room; [`SendError::TooLarge`] when there never is.
    /// After many of the former, at least 50 ms apart, the kernel is asked about the consumer; a
    /// full ring whose consumer has left or died is then answered with `Closed` or `PeerDied`.
    #[inline]
    pub fn try_reserve(&mut self, len: usize) -> Result<Reservation<'_>, SendError> {
        self.staged = Staged::default();
        let place = self.try_place(len)?;
        Ok(Reservation::new(self, place, len, true))
    }

    /// Reserves a record of `len` bytes, waiting for room.
    ///
    /// # Errors
    ///
    /// `TooLarge`; `Closed` and `PeerDied` when the ring is full and its consumer has left or
    /// died, see [`RecordProducer::outlive_peer`]. A ring that never had a consumer is waited for.
    #[inline]
    pub fn reserve(&mut self, len: usize) -> Result<Reservation<'_>, SendError> {
        let place = self.place_until(len, || None)?;
        Ok(Reservation::new(self, place, len, true))
    }

    /// Reserves a record, waiting for room until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`RecordProducer::reserve`], and `TimedOut`.
    pub fn reserve_deadline(
        &mut self,
        len: usize,
        deadline: Instant,
    ) -> Result<Reservation<'_>, SendError> {
        let place = self.place_until(len, || Some(deadline))?;
        Ok(Reservation::new(self, place, len, true))
    }

    /// Reserves a record, waiting for room for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`RecordProducer::reserve`], and `TimedOut`.
    pub fn reserve_timeout(
        &mut self,
        len: usize,
        timeout: Duration,
    ) -> Result<Reservation<'_>, SendError> {
        let place = self.place_until(len, || deadline_after(timeout))?;
        Ok(Reservation::new(self, place, len, true))
    }

    /// Sends `bytes` as one record if there is room now.
    ///
    /// # Errors
    ///
    /// As [`RecordProducer::try_reserve`].
    #[inline]
    pub fn try_push(&mut self, bytes: &[u8]) -> Result<(), SendError> {
        self.staged = Staged::default();
        let place = self.try_place(bytes.len())?;
        self.send(&place, bytes);
        Ok(())
    }

    /// Sends `bytes` as one record, waiting for room.
    ///
    /// # Errors
    ///
    /// As [`RecordProducer::reserve`].
    #[inline]
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), SendError> {
        let place = self.place_until(bytes.len(), || None)?;
        self.send(&place, bytes);
        Ok(())
    }

    /// Sends `bytes` as one record, waiting for room until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`RecordProducer::reserve`], and `TimedOut`.
    pub fn push_deadline(&mut self, bytes: &[u8], deadline: Instant) -> Result<(), SendError> {
        let place = self.place_until(bytes.len(), || Some(deadline))?;
        self.send(&place, bytes);
        Ok(())
    }

    /// Sends `bytes` as one record, waiting for room for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`RecordProducer::reserve`], and `TimedOut`.
    pub fn push_timeout(&mut self, bytes: &[u8], timeout: Duration) -> Result<(), SendError> {
        let place = self.place_until(bytes.len(), || deadline_after(timeout))?;
        self.send(&place, bytes);
        Ok(())
    }

    /// Begins a batch: records that become visible together.
    pub fn batch(&mut self) -> Batch<'_> {
        self.staged = Staged::default();
        Batch { producer: self }
    }

    #[inline(always)]
    fn send(&mut self, place: &Place, bytes: &[u8]) {
        self.clear_user_header(place);
        self.payload.write(place.payload as usize, bytes);
        self.publish_one(place, bytes.len());
    }

    /// P3 to P6 for one record alone.
    #[inline(always)]
    pub(super) fn publish_one(&mut self, place: &Place, len: usize) {
        if place.padding > 0 {
            self.stage(place, len);
            return self.publish();
        }
        let span = self.geometry.span_of(place, len as u64);
        let end = self.geometry.advance(place.header, span);
        self.payload.store64(end as usize, 0, Relaxed);
        self.payload.store64(place.header as usize, record_word(len as u64), Release); // edge `commit`
        self.position += span;
        self.offset = end;
        self.port.announce();
        self.port.stats.passed(1, len as u64);
    }

    /// A user header nobody sets is zero, not what an earlier record left.
    #[inline(always)]
    pub(super) fn clear_user_header(&self, place: &Place) {
        let len = self.geometry.user_header() as usize;
        if len > 0 {
            self.payload.zero(place.header as usize + WORD_LEN, len);
        }
    }

    #[inline(always)]
    pub(super) fn try_place(&mut self, len: usize) -> Result<Place, SendError> {
        match self.place(len) {
            Err(SendError::Full) => self.still_full(len),
            done => done,
        }
    }

    #[cold]
    #[inline(never)]
    fn still_full(&mut self, len: usize) -> Result<Place, SendError> {
        self.port.stats.full();
        self.refused = len;
        match self.port.tried_in_vain() {
            None => Err(SendError::Full),
            // Once more, now that the peer's end is known.
            Some(end) => match self.place(len) {
                Err(SendError::Full) => Err(end.into()),
                done => done,
            },
        }
    }

    #[inline(always)]
    fn place_until(
        &mut self,
        len: usize,
        deadline: impl FnOnce() -> Option<Instant>,
    ) -> Result<Place, SendError> {
        self.staged = Staged::default();
        match self.place(len) {
            Err(SendError::Full) => self.wait_for_place(len, deadline()),
            done => done,
        }
    }

    #[cold]
    #[inline(never)]
    fn wait_for_place(
        &mut self,
        len: usize,
        deadline: Option<Instant>,
    ) -> Result<Place, SendError> {
        self.port.stats.full();
        let mut wait = Wait::until(deadline);
        let result = loop {
            if let Err(end) = self.port.wait(&mut wait) {
                break Err(end.into());
            }
            match self.place(len) {
                Err(SendError::Full) => {}
                done => break done,
            }
        };
        self.port.settle(&wait);
        result
    }

    /// P1: where a record of `len` bytes goes, behind what is staged.
    #[inline(always)]
    fn place(&mut self, len: usize) -> Result<Place, SendError> {
        if !self.port.usable() {
            return Err(self.refusal());
        }
        let max = self.geometry.len_max();
        if len as u64 > max {
            return Err(SendError::TooLarge { len, max: max as usize });
        }
        let offset = self.geometry.advance(self.offset, self.staged.span);
        let place = self.geometry.place(offset, len as u64);
        let end = self.position + self.staged.span + place.span + WORD;
        if end > self.limit {
            self.look_for_room()?;
            if end > self.limit {
                return Err(SendError::Full);
            }
        }
        Ok(place)
    }

    /// Asks the consumer's line.
    #[cold]
    #[inline(never)]
    fn look_for_room(&mut self) -> Result<(), SendError> {
        let released = self.released.load(Acquire); // edge `release`
        match limit_from(released, self.position, self.geometry.capacity() - WORD, WORD) {
            Ok(limit) => self.limit = limit + WORD,
            Err(corruption) => return Err(self.corrupt(corruption)),
        }
        self.port.stats.high_water(self.position - released);
        Ok(())
    }

    /// P3: the record at `place` is written, `len` bytes of it count.
    #[inline]
    pub(super) fn stage(&mut self, place: &Place, len: usize) {
        if place.padding > 0 {
            let offset = self.geometry.capacity() - place.padding;
            self.stage_word(offset, padding_word(place.padding));
        }
        self.stage_word(place.header, record_word(len as u64));
        self.staged.span += self.geometry.span_of(place, len as u64);
        self.staged.records += 1;
        self.staged.bytes += len as u64;
    }

    #[inline]
    fn stage_word(&mut self, offset: u64, word: u64) {
        match self.staged.first {
            None => self.staged.first = Some((offset as usize, word)),
            // Not seen before the first header word, whose release store covers it.
            Some(_) => self.payload.store64(offset as usize, word, Relaxed),
        }
    }

    /// P4 to P6: makes visible what is staged.
    #[inline]
    pub(super) fn publish(&mut self) {
        let staged = core::mem::take(&mut self.staged);
        let Some((first, word)) = staged.first else {
            return;
        };
        let end = self.geometry.advance(self.offset, staged.span);
        self.payload.store64(end as usize, 0, Relaxed);
        self.payload.store64(first, word, Release); // edge `commit`
        self.position += staged.span;
        self.offset = end;
        self.port.announce();
        self.port.stats.passed(staged.records, staged.bytes);
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

    /// Trusts the consumer: reservations can be written as slices.
    ///
    /// # Safety
    ///
    /// From now on, no process that has the segment mapped may write into a reserved record, or
    /// read it other than as the protocol does, while a slice from
    /// [`Reservation::as_mut_slice`] lives.
    #[expect(unsafe_code, reason = "a statement of trust that the compiler cannot check")]
    pub unsafe fn trust_peer(&mut self) {
        self.trusted = true;
    }

    /// The longest record that can be sent, in bytes.
    pub fn len_max(&self) -> usize {
        self.geometry.len_max() as usize
    }

    /// The length of the ring in bytes.
    pub fn capacity(&self) -> u64 {
        self.geometry.capacity()
    }

    /// The length of each record's user header in bytes.
    pub fn user_header_len(&self) -> usize {
        self.geometry.user_header() as usize
    }

    /// The position of the next record, in bytes since the ring was made.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// How many bytes wait to be received, headers included, as far as the consumer's line tells.
    pub fn len(&self) -> u64 {
        let released = self.released.load(Relaxed);
        self.position.saturating_sub(released).min(self.geometry.capacity())
    }

    /// Whether no record waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    endpoint_calls!(port);
    doorbell_calls!(port);
}

/// A1: walks the committed records from `released` to the first zero.
fn committed_end(
    payload: &View,
    geometry: &RecordGeometry,
    released: u64,
) -> Result<u64, Corruption> {
    let mut position = released;
    let mut offset = released % geometry.capacity();
    let end = released + geometry.capacity() - WORD;
    loop {
        let word = payload.load64(offset as usize, Acquire); // edge `commit`
        let span = match geometry.decode(word, offset, end - position)? {
            Header::End => return Ok(position),
            Header::Padding { span } | Header::Record { span, .. } => span,
        };
        position += span;
        offset = geometry.advance(offset, span);
    }
}

impl Waits for RecordProducer {
    fn port(&mut self) -> &mut Port {
        &mut self.port
    }

    fn ready(&mut self) -> bool {
        self.staged = Staged::default();
        self.place(self.refused).map(drop) != Err(SendError::Full)
    }
}

impl Waitable for RecordProducer {}

impl fmt::Debug for RecordProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (position, geometry) = (self.position, &self.geometry);
        f.debug_struct("RecordProducer").field("position", &position).field("at", geometry).finish()
    }
}

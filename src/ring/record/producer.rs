//! The producing end of a record ring: reserve, write, commit.
//!
//! The steps P1 to P7 and A1 are told in the parent module.

use super::reservation::{Batch, Reservation};
use crate::ring::endpoint::{Parts, Side, endpoint_calls};
use crate::ring::error::{AttachError, Corruption, Laggard, SendError, has_room};
use crate::ring::layout::{CONTROL_ALIGN, RELEASED, WORD_LEN};
use crate::ring::position::{
    Found, Header, Place, RecordGeometry, check_released_at_attach, padding_word, record_word,
};
use crate::ring::space::{Released, Space, Wish};
use crate::view::View;
use crate::wait::{Port, STREAM, Waitable, Waits, deadline_after, doorbell_calls, wait_until};
use core::fmt;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::time::Duration;
use std::time::Instant;

/// The header word as positions count.
const WORD: u64 = WORD_LEN as u64;
/// A cache line, as positions count.
const LINE: u64 = 64;
/// The consumer's progress is looked at once per this many bytes, a power of two.
const LOOK_EVERY: u64 = 4096;

/// The place for a record: the one that is known, or one that `$look` has seen to.
macro_rules! place_or {
    ($producer:expr, $len:expr, $staged:expr, $look:expr) => {
        loop {
            match $producer.place($len, $staged) {
                Some(place) => break place,
                None => $look,
            }
        }
    };
}
pub(super) use place_or;

/// The producing end of a record ring.
///
/// There is one at a time. Dropping it leaves the ring to a successor, who goes on behind the
/// last committed record.
pub struct RecordProducer {
    geometry: RecordGeometry,
    pub(super) at: At,
    limit: u64,
    pub(super) trusted: bool,
    /// Whether the consumer is some records behind.
    streams: bool,
    /// The length that was last refused for want of room.
    refused: usize,
    /// The position at which a wait last found no room.
    filled_at: u64,
    corruption: Option<Corruption>,
    pub(super) payload: View,
    space: Space,
    pub(super) port: Port,
}

/// Where the next record goes: what each record changes, side by side in one line.
#[derive(Clone, Copy)]
#[repr(align(16))]
pub(super) struct At {
    pub(super) position: u64,
    /// The position modulo the capacity.
    offset: u64,
}

/// What is written and not yet visible. It lives in a [`Batch`], so in registers if all goes well.
#[derive(Clone, Copy, Default)]
pub(super) struct Staged {
    /// The first header word, held back; 0 = nothing is staged.
    first: u64,
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
        let limit = released + geometry.capacity();
        let (position, _) = committed_end(&parts.payload, &geometry, released, limit - WORD)?;
        let (control, payload, port) = parts.into_port(Side::Producer)?;
        let word = control.find64(RELEASED).ok_or(AttachError::ReadOnly)?;
        let space = Released { word, capacity: geometry.capacity(), granule: WORD, spare: WORD };
        Ok(Self::go_on(geometry, payload, position, limit, Space::Released(space), port))
    }

    /// Goes on at `position`, where the last committed record ends.
    pub(in crate::ring) fn go_on(
        geometry: RecordGeometry,
        payload: View,
        position: u64,
        limit: u64,
        space: Space,
        port: Port,
    ) -> Self {
        Self {
            geometry,
            at: At { position, offset: position % geometry.capacity() },
            limit,
            trusted: false,
            streams: false,
            refused: 0,
            filled_at: position,
            corruption: None,
            payload,
            space,
            port,
        }
    }

    /// Reserves a record of `len` bytes if there is room now.
    ///
    /// Nothing is visible before [`Reservation::commit`]; dropping the reservation gives it up.
    /// The bytes hold what was in the ring before, so write all that is committed.
    ///
    /// # Errors
    ///
    /// [`SendError::Full`] when there is no room; [`SendError::TooLarge`] when there never is.
    /// After 64 of the former, at least 50 ms apart, the kernel is asked about the consumer; a
    /// full ring whose consumer has left or died is then answered with `Closed` or `PeerDied`.
    #[inline(always)]
    pub fn try_reserve(&mut self, len: usize) -> Result<Reservation<'_>, SendError> {
        let place = place_or!(self, len, 0, self.look_for_place(len, 0)?);
        Ok(Reservation::new(self, place, len, None))
    }

    /// Reserves a record of `len` bytes, waiting for room.
    ///
    /// # Errors
    ///
    /// `TooLarge`; `Closed` and `PeerDied` when the ring is full and its consumer has left or
    /// died, see [`RecordProducer::outlive_peer`]. A ring that never had a consumer is waited for.
    #[inline(always)]
    pub fn reserve(&mut self, len: usize) -> Result<Reservation<'_>, SendError> {
        let place = place_or!(self, len, 0, self.wait_for_place(len, || None)?);
        Ok(Reservation::new(self, place, len, None))
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
        let place = place_or!(self, len, 0, self.wait_for_place(len, || Some(deadline))?);
        Ok(Reservation::new(self, place, len, None))
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
        let place = place_or!(self, len, 0, self.wait_for_place(len, || deadline_after(timeout))?);
        Ok(Reservation::new(self, place, len, None))
    }

    /// Sends `bytes` as one record if there is room now.
    ///
    /// # Errors
    ///
    /// As [`RecordProducer::try_reserve`].
    #[inline(always)]
    pub fn try_push(&mut self, bytes: &[u8]) -> Result<(), SendError> {
        let place = place_or!(self, bytes.len(), 0, self.look_for_place(bytes.len(), 0)?);
        self.send(place, bytes);
        Ok(())
    }

    /// Sends `bytes` as one record, waiting for room.
    ///
    /// # Errors
    ///
    /// As [`RecordProducer::reserve`].
    #[inline(always)]
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), SendError> {
        let place = place_or!(self, bytes.len(), 0, self.wait_for_place(bytes.len(), || None)?);
        self.send(place, bytes);
        Ok(())
    }

    /// Sends `bytes` as one record, waiting for room until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`RecordProducer::reserve`], and `TimedOut`.
    pub fn push_deadline(&mut self, bytes: &[u8], deadline: Instant) -> Result<(), SendError> {
        let place =
            place_or!(self, bytes.len(), 0, self.wait_for_place(bytes.len(), || Some(deadline))?);
        self.send(place, bytes);
        Ok(())
    }

    /// Sends `bytes` as one record, waiting for room for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`RecordProducer::reserve`], and `TimedOut`.
    pub fn push_timeout(&mut self, bytes: &[u8], timeout: Duration) -> Result<(), SendError> {
        let place = place_or!(
            self,
            bytes.len(),
            0,
            self.wait_for_place(bytes.len(), || deadline_after(timeout))?
        );
        self.send(place, bytes);
        Ok(())
    }

    /// Begins a batch: records that become visible together.
    pub fn batch(&mut self) -> Batch<'_> {
        Batch { producer: self, staged: Staged::default() }
    }

    #[inline(always)]
    fn send(&mut self, place: Place, bytes: &[u8]) {
        self.clear_user_header(&place);
        self.payload.message(place.payload as usize, bytes.len()).write(bytes);
        self.publish_one(place, bytes.len());
    }

    /// P3 to P6 for one record alone.
    #[inline(always)]
    pub(super) fn publish_one(&mut self, place: Place, len: usize) {
        if !self.port.usable() {
            return; // in a forked child: it is the parent's to send
        }
        if place.padding > 0 {
            return self.publish_behind_padding(&{ place }, len);
        }
        let span = self.geometry.span_of(&place, len as u64);
        let end = self.geometry.advance(place.header, span);
        self.payload.store64(end as usize, 0, Relaxed);
        self.payload.store64(place.header as usize, record_word(len as u64), Release); // edge `commit`
        let before = self.at.position;
        self.at = At { position: before + span, offset: end };
        self.port.announce();
        self.port.stats.passed(1, len as u64);
        if !self.streams {
            self.touch_next();
        }
        if (before ^ self.at.position) >= LOOK_EVERY {
            self.look_at_consumer();
        }
    }

    /// Fetches a line of the next record from the consumer while nobody waits for it; that of its
    /// header word was written just now.
    #[inline(always)]
    fn touch_next(&mut self) {
        let next = self.at.offset + LINE;
        if next < self.geometry.capacity() && self.at.position + LINE + WORD <= self.limit {
            self.payload.store64(next as usize, 0, Relaxed); // behind the end, where nobody looks
        }
    }

    /// Looks now and then whether the consumer takes each record at once.
    #[cold]
    #[inline(never)]
    fn look_at_consumer(&mut self) {
        // A lie is told when room is looked for.
        let room = self.space.glance(self.at.position);
        self.streams = room.is_some_and(|room| room.waiting >= LOOK_EVERY / 2);
    }

    #[cold]
    #[inline(never)]
    fn publish_behind_padding(&mut self, place: &Place, len: usize) {
        let mut staged = Staged::default();
        self.stage(&mut staged, place, len);
        self.publish(&staged);
    }

    /// A user header nobody sets is zero, not what an earlier record left.
    #[inline(always)]
    pub(super) fn clear_user_header(&self, place: &Place) {
        let len = self.geometry.user_header() as usize;
        if len > 0 {
            self.payload.zero(place.header as usize + WORD_LEN, len);
        }
    }

    /// Sees to it that a record of `len` bytes has a place, if there is one now.
    #[cold]
    #[inline(never)]
    pub(super) fn look_for_place(&mut self, len: usize, staged: u64) -> Result<(), SendError> {
        if has_room(self.look(len, staged))? {
            return Ok(());
        }
        self.port.stats.full();
        self.refused = len;
        match self.port.tried_in_vain() {
            None => Err(SendError::Full),
            // Once more, now that the peer's end is known.
            Some(end) => match self.look(len, staged) {
                Err(SendError::Full) => Err(end.into()),
                done => done,
            },
        }
    }

    /// Waits until a record of `len` bytes has a place.
    #[cold]
    #[inline(never)]
    fn wait_for_place(
        &mut self,
        len: usize,
        deadline: impl FnOnce() -> Option<Instant>,
    ) -> Result<(), SendError> {
        if has_room(self.look(len, 0))? {
            return Ok(());
        }
        self.port.stats.full();
        let half = self.at.position - self.filled_at >= self.geometry.capacity() / 2;
        self.filled_at = self.at.position;
        if self.port.look_away(if half { STREAM } else { 1 }, len as u64)
            && has_room(self.look(len, 0))?
        {
            return Ok(());
        }
        wait_until(self, deadline(), |end| &mut end.port, |end| has_room(end.look(len, 0)))
    }

    /// P1: where a record of `len` bytes goes, behind `staged` bytes of a batch; `None` when no
    /// place is known, or this end can not be used.
    ///
    /// The answer stays in registers. As part of a `Result` with an error of many bytes it went
    /// through memory, and a load that waits for a store waits for all stores before it, into
    /// lines that the consumer has.
    #[inline(always)]
    pub(super) fn place(&self, len: usize, staged: u64) -> Option<Place> {
        if !self.port.usable() || len as u64 > self.geometry.len_max() {
            return None;
        }
        let offset = self.geometry.advance(self.at.offset, staged);
        let place = self.geometry.place(offset, len as u64);
        let end = self.at.position + staged + place.span + WORD;
        (end <= self.limit).then_some(place)
    }

    /// Whether a record of `len` bytes has a place, and if not, why.
    fn look(&mut self, len: usize, staged: u64) -> Result<(), SendError> {
        if !self.port.usable() {
            return Err(self.refusal());
        }
        let max = self.geometry.len_max();
        if len as u64 > max {
            return Err(SendError::TooLarge { len, max: max as usize });
        }
        if self.place(len, staged).is_none() {
            let offset = self.geometry.advance(self.at.offset, staged);
            let span = self.geometry.place(offset, len as u64).span;
            self.look_for_room(staged + span + WORD)?;
        }
        if self.place(len, staged).is_some() { Ok(()) } else { Err(SendError::Full) }
    }

    /// Asks whether `need` bytes may be written.
    fn look_for_room(&mut self, need: u64) -> Result<(), SendError> {
        let wish = Wish { position: self.at.position, need, number: self.sent() };
        match self.space.look(wish, self.port.link()) {
            Ok(room) => {
                self.limit = room.limit;
                self.port.stats.high_water(room.waiting);
                Ok(())
            }
            Err(corruption) => Err(self.corrupt(corruption)),
        }
    }

    /// How many records were sent, by its own line of statistics.
    fn sent(&self) -> u64 {
        self.port.stats.get().messages
    }

    /// P3: the record at `place` is written, `len` bytes of it count.
    #[inline(always)]
    pub(super) fn stage(&mut self, staged: &mut Staged, place: &Place, len: usize) {
        if place.padding > 0 {
            let offset = self.geometry.capacity() - place.padding;
            self.stage_word(staged, offset, padding_word(place.padding));
        }
        self.stage_word(staged, place.header, record_word(len as u64));
        staged.span += self.geometry.span_of(place, len as u64);
        staged.records += 1;
        staged.bytes += len as u64;
    }

    #[inline(always)]
    fn stage_word(&mut self, staged: &mut Staged, offset: u64, word: u64) {
        if staged.first == 0 {
            debug_assert_eq!(offset, self.at.offset, "a batch begins where the ring ends");
            staged.first = word;
        } else {
            // Not seen before the first header word, whose release store covers it.
            self.payload.store64(offset as usize, word, Relaxed);
        }
    }

    /// P4 to P6: makes visible what is staged.
    #[inline(always)]
    pub(super) fn publish(&mut self, staged: &Staged) {
        let Staged { first, span, records, bytes } = *staged;
        if first == 0 || !self.port.usable() {
            return; // nothing to send, or in a forked child
        }
        let end = self.geometry.advance(self.at.offset, span);
        self.payload.store64(end as usize, 0, Relaxed);
        self.payload.store64(self.at.offset as usize, first, Release); // edge `commit`
        self.at = At { position: self.at.position + span, offset: end };
        self.port.announce();
        self.port.stats.passed(records, bytes);
    }

    #[cold]
    fn corrupt(&mut self, corruption: Corruption) -> SendError {
        self.corruption = Some(corruption);
        self.port.condemn();
        SendError::Corrupt(corruption)
    }

    /// Whether reserved bytes may be written: not in a forked child.
    #[inline(always)]
    pub(super) fn may_write(&self) -> Result<(), SendError> {
        if self.port.usable() { Ok(()) } else { Err(self.refusal()) }
    }

    #[cold]
    fn refusal(&self) -> SendError {
        self.corruption.map_or(SendError::Forked, SendError::Corrupt)
    }

    /// Trusts the consumer: reservations can be written as slices. In a broadcast ring nothing
    /// changes: those who were overtaken may be reading what is written.
    ///
    /// # Safety
    ///
    /// From now on, no process that has the segment mapped may write into a reserved record, or
    /// read it other than as the protocol does, while a slice from
    /// [`Reservation::as_mut_slice`] lives.
    #[expect(unsafe_code, reason = "a statement of trust that the compiler cannot check")]
    pub unsafe fn trust_peer(&mut self) {
        self.trusted = matches!(self.space, Space::Released(_));
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
        self.at.position
    }

    /// How many bytes wait to be received, headers included, as far as the consumer's line tells;
    /// in a broadcast ring, for the slowest of the consumers that are waited for.
    pub fn len(&self) -> u64 {
        self.space.waiting(self.at.position)
    }

    /// In a lossless broadcast ring, the consumer that is furthest behind: the one that holds up
    /// a producer which finds no room. Asks the kernel whether it lives.
    pub fn slowest(&self) -> Option<Laggard> {
        let link = self.port.link();
        self.space.slowest(self.at.position, self.sent(), link).map(Laggard::from)
    }

    /// Whether no record waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    endpoint_calls!(port);
    doorbell_calls!(port);
}

/// A1: walks the committed records from `start` to the first zero, which is not behind `end`;
/// its position, and how many records there are.
pub(in crate::ring) fn committed_end(
    payload: &View,
    geometry: &RecordGeometry,
    start: u64,
    end: u64,
) -> Result<(u64, u64), Corruption> {
    let (mut position, mut records) = (start, 0);
    let mut offset = start % geometry.capacity();
    loop {
        let word = payload.load64(offset as usize, Acquire); // edge `commit`
        let span = match geometry.decode(word, offset, end - position)? {
            Header::End => return Ok((position, records)),
            Header::Padding { span } => span,
            Header::Record(Found { span, .. }) => {
                records += 1;
                span
            }
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
        self.look(self.refused, 0) != Err(SendError::Full)
    }
}

impl Waitable for RecordProducer {}

impl fmt::Debug for RecordProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (position, geometry) = (self.at.position, &self.geometry);
        f.debug_struct("RecordProducer").field("position", &position).field("at", geometry).finish()
    }
}

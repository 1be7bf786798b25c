//! The receiving end of a record ring: read, release.
//!
//! The steps C1 to C4 are told in the parent module. A record that was read is
//! released by hand, so that a process that dies while it works on one leaves it
//! to its successor.

use crate::ring::endpoint::{Parts, Side, endpoint_calls};
use crate::ring::error::{AttachError, Corruption, RecvError, is_there};
use crate::ring::layout::{CONTROL_ALIGN, RELEASED, WORD_LEN};
use crate::ring::position::{Found, Header, RecordGeometry, check_released_at_attach};
use crate::view::{View, Word64};
use crate::wait::{Port, Waitable, Waits, deadline_after, doorbell_calls, wait_until};
use bytemuck::CheckedBitPattern;
use core::fmt;
use core::sync::atomic::Ordering::{Acquire, Release};
use core::time::Duration;
use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

/// The header word as positions count.
const WORD: u64 = WORD_LEN as u64;

/// The receiving end of a record ring.
///
/// There is one at a time. Dropping it leaves the ring to a successor, who goes on with the
/// first record that was not released.
pub struct RecordConsumer {
    geometry: RecordGeometry,
    /// The next record to read.
    position: u64,
    offset: u64,
    /// What was stored as released last.
    released: u64,
    held: u64,
    held_bytes: u64,
    /// How many records had been read when a wait last found nothing, and the position.
    caught_up_at: (u64, u64),
    trusted: bool,
    corruption: Option<Corruption>,
    payload: View,
    word: Word64,
    port: Port,
}

impl RecordConsumer {
    /// Attaches at the released position.
    pub(crate) fn attach(parts: Parts, geometry: RecordGeometry) -> Result<Self, AttachError> {
        let align = CONTROL_ALIGN.max(geometry.payload_align() as usize);
        parts.check(geometry.capacity(), align)?;
        let released = parts.control.load64(RELEASED, Acquire);
        let released = check_released_at_attach(released, WORD)?;
        let (control, payload, port) = parts.into_port(Side::Consumer)?;
        let word = control.find64(RELEASED).ok_or(AttachError::ReadOnly)?;
        Ok(Self {
            geometry,
            position: released,
            offset: released % geometry.capacity(),
            released,
            held: 0,
            held_bytes: 0,
            caught_up_at: (0, released),
            trusted: false,
            corruption: None,
            payload,
            word,
            port,
        })
    }

    /// Reads the next record if there is one.
    ///
    /// It is seen again by the next read unless it is released or held.
    ///
    /// # Errors
    ///
    /// [`RecvError::Empty`] when there is none. After 64 of these, at least 50 ms apart, the
    /// kernel is asked about the producer; an empty ring whose producer has left or died is then
    /// answered with `Closed` or `PeerDied`.
    #[inline(always)]
    pub fn try_read(&mut self) -> Result<Record<'_>, RecvError> {
        let found = match self.find() {
            Some(found) => found,
            None => self.look_for_record()?,
        };
        Ok(Record { consumer: self, found })
    }

    /// Reads the next record, waiting for it.
    ///
    /// # Errors
    ///
    /// `Closed` and `PeerDied` when everything was read and the producer has left or died, see
    /// [`RecordConsumer::outlive_peer`]; a ring that never had a producer is waited for.
    #[inline(always)]
    pub fn read(&mut self) -> Result<Record<'_>, RecvError> {
        let found = match self.find() {
            Some(found) => found,
            None => self.wait_for_record(|| None)?,
        };
        Ok(Record { consumer: self, found })
    }

    /// Reads the next record, waiting for it until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`RecordConsumer::read`], and `TimedOut`.
    pub fn read_deadline(&mut self, deadline: Instant) -> Result<Record<'_>, RecvError> {
        let found = match self.find() {
            Some(found) => found,
            None => self.wait_for_record(|| Some(deadline))?,
        };
        Ok(Record { consumer: self, found })
    }

    /// Reads the next record, waiting for it for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`RecordConsumer::read`], and `TimedOut`.
    pub fn read_timeout(&mut self, timeout: Duration) -> Result<Record<'_>, RecvError> {
        let found = match self.find() {
            Some(found) => found,
            None => self.wait_for_record(|| deadline_after(timeout))?,
        };
        Ok(Record { consumer: self, found })
    }

    /// Receives the next record into `bytes` (whose contents it replaces), waiting for it.
    ///
    /// # Errors
    ///
    /// As [`RecordConsumer::read`].
    pub fn recv(&mut self, bytes: &mut Vec<u8>) -> Result<(), RecvError> {
        let record = self.read()?;
        record.copy_into(bytes);
        record.release();
        Ok(())
    }

    /// Receives the next record into `bytes` (whose contents it replaces) if there is one.
    ///
    /// # Errors
    ///
    /// As [`RecordConsumer::try_read`].
    pub fn try_recv(&mut self, bytes: &mut Vec<u8>) -> Result<(), RecvError> {
        let record = self.try_read()?;
        record.copy_into(bytes);
        record.release();
        Ok(())
    }

    /// Releases all records that were read and held: they are delivered. Returns how many.
    pub fn release_held(&mut self) -> u64 {
        let count = self.held;
        if self.port.usable() && count > 0 {
            self.release();
        }
        count
    }

    /// Goes back to the first record that was not released.
    pub fn rewind(&mut self) {
        self.position = self.released;
        self.offset = self.released % self.geometry.capacity();
        self.held = 0;
        self.held_bytes = 0;
    }

    /// How many records were read and are held, not yet released.
    pub fn held(&self) -> u64 {
        self.held
    }

    /// Sees to it that there is a record at the read position, if there is one now.
    #[cold]
    #[inline(never)]
    fn look_for_record(&mut self) -> Result<Found, RecvError> {
        match self.look() {
            Err(RecvError::Empty) => {}
            done => return done,
        }
        self.port.stats.empty();
        match self.port.tried_in_vain() {
            None => Err(RecvError::Empty),
            // Once more, now that the peer's end is known.
            Some(end) => match self.look() {
                Err(RecvError::Empty) => Err(end.into()),
                done => done,
            },
        }
    }

    /// Waits until there is a record at the read position.
    #[cold]
    #[inline(never)]
    fn wait_for_record(
        &mut self,
        deadline: impl FnOnce() -> Option<Instant>,
    ) -> Result<Found, RecvError> {
        match self.look() {
            Err(RecvError::Empty) => {}
            done => return done,
        }
        self.port.stats.empty();
        let read = self.port.stats.get().messages.wrapping_add(self.held);
        let passed = read.wrapping_sub(self.caught_up_at.0);
        let each = self.position.wrapping_sub(self.caught_up_at.1) / passed.max(1);
        self.caught_up_at = (read, self.position);
        if self.port.look_away(passed, each) {
            match self.look() {
                Err(RecvError::Empty) => {}
                done => return done,
            }
        }
        let mut found = Err(RecvError::Empty);
        wait_until(
            self,
            deadline(),
            |end| &mut end.port,
            |end| {
                found = end.look();
                is_there(found)
            },
        )?;
        found
    }

    /// C1: the record at the read position; `None` when there is none, or something else, or
    /// this end can not be used.
    #[inline(always)]
    fn find(&self) -> Option<Found> {
        if !self.port.usable() {
            return None;
        }
        let word = self.payload.load64(self.offset as usize, Acquire); // edge `commit`
        self.geometry.decode_record(word, self.offset, self.window())
    }

    /// How many bytes from the read position on a producer may have committed.
    #[inline(always)]
    fn window(&self) -> u64 {
        self.released + self.geometry.capacity() - WORD - self.position
    }

    /// The record at the read position, behind a padding record if there is one, or why not.
    ///
    /// The answer is what is used: a peer that lies could give another one the next time.
    fn look(&mut self) -> Result<Found, RecvError> {
        if !self.port.usable() {
            return Err(self.refusal());
        }
        match self.header()? {
            Header::Record(found) => return Ok(found),
            Header::End => return Err(RecvError::Empty),
            Header::Padding { span } => self.position += span,
        }
        // A padding record ends the ring, so behind it comes offset 0, where none can be.
        self.offset = 0;
        match self.header()? {
            Header::Record(found) => Ok(found),
            // The producer commits a padding record only together with a record.
            Header::End | Header::Padding { .. } => Err(self.corrupt(Corruption::Padding)),
        }
    }

    /// Reads the header word at the read position once and checks it.
    fn header(&mut self) -> Result<Header, RecvError> {
        let word = self.payload.load64(self.offset as usize, Acquire); // edge `commit`
        self.geometry
            .decode(word, self.offset, self.window())
            .map_err(|corruption| self.corrupt(corruption))
    }

    /// Goes past the record at the read position.
    #[inline(always)]
    fn pass(&mut self, found: &Found) {
        self.position += found.span;
        self.offset = self.geometry.advance(self.offset, found.span);
        self.held += 1;
        self.held_bytes += found.len;
    }

    /// C3 and C4 for the record at the read position and those held before it.
    #[inline(always)]
    fn deliver(&mut self, found: &Found) {
        if !self.port.usable() {
            return; // in a forked child: it is the parent's to release
        }
        if self.held > 0 {
            self.pass(found);
            return self.release();
        }
        self.offset = self.geometry.advance(self.offset, found.span);
        self.position += found.span;
        self.released = self.position;
        self.word.store(self.released, Release); // edge `release`
        self.port.announce();
        self.port.stats.passed(1, found.len);
    }

    /// C3 and C4, up to the read position.
    #[inline]
    fn release(&mut self) {
        self.released = self.position;
        self.word.store(self.released, Release); // edge `release`
        self.port.announce();
        let (records, bytes) = (self.held, self.held_bytes);
        (self.held, self.held_bytes) = (0, 0);
        self.port.stats.passed(records, bytes);
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

    /// Trusts the producer: records can be read as slices.
    ///
    /// # Safety
    ///
    /// From now on, no process that has the segment mapped may write into a record that is
    /// committed and not yet released.
    #[expect(unsafe_code, reason = "a statement of trust that the compiler cannot check")]
    pub unsafe fn trust_peer(&mut self) {
        self.trusted = true;
    }

    /// The length of the ring in bytes.
    pub fn capacity(&self) -> u64 {
        self.geometry.capacity()
    }

    /// The longest record that can come, in bytes: no honest producer sends a longer one. One that
    /// lies may send any that the ring holds.
    pub fn len_max(&self) -> usize {
        self.geometry.len_max() as usize
    }

    /// The length of each record's user header in bytes.
    pub fn user_header_len(&self) -> usize {
        self.geometry.user_header() as usize
    }

    /// The position of the next record to be read, in bytes since the ring was made.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The position up to which everything was released.
    pub fn released(&self) -> u64 {
        self.released
    }

    /// How many records wait to be read. Looks at each of their headers.
    pub fn lag(&self) -> u64 {
        let (mut position, mut offset, mut count) = (self.position, self.offset, 0);
        let end = self.released + self.geometry.capacity() - WORD;
        loop {
            let word = self.payload.load64(offset as usize, Acquire);
            let span = match self.geometry.decode(word, offset, end - position) {
                Ok(Header::Record(Found { span, .. })) => {
                    count += 1;
                    span
                }
                Ok(Header::Padding { span }) => span,
                Ok(Header::End) | Err(_) => return count,
            };
            position += span;
            offset = self.geometry.advance(offset, span);
        }
    }

    endpoint_calls!(port);
    doorbell_calls!(port);
}

/// A record in the ring. Dropping it leaves it there, to be read again.
///
/// The bytes stay where they are until it is released; every call copies them, or hands them to
/// the kernel. A peer that breaks the protocol may change them between two calls.
#[must_use = "a record that is neither released nor held is read again"]
pub struct Record<'a> {
    consumer: &'a mut RecordConsumer,
    found: Found,
}

impl Record<'_> {
    /// The length in bytes.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.found.len as usize
    }

    /// Where its bytes begin in the ring.
    #[inline]
    fn payload(&self) -> usize {
        self.found.payload as usize
    }

    /// Whether the record has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The position: unique in the ring's life, the same when the record is seen again.
    pub fn position(&self) -> u64 {
        self.consumer.position
    }

    /// Copies the front of the user header into `bytes`; how many bytes that were.
    pub fn user_header(&self, bytes: &mut [u8]) -> usize {
        let count = bytes.len().min(self.consumer.user_header_len());
        let offset = self.consumer.offset as usize + WORD_LEN;
        self.consumer.payload.read(offset, &mut bytes[..count]);
        count
    }

    /// Copies the record into `bytes`, as much as fits; how many bytes that were.
    #[inline(always)]
    pub fn copy_to(&self, bytes: &mut [u8]) -> usize {
        let count = bytes.len().min(self.len());
        self.consumer.payload.message(self.payload(), count).read(&mut bytes[..count]);
        count
    }

    /// Copies the record from `offset` on into `bytes`, as much as there is and fits; how many
    /// bytes that were.
    #[inline(always)]
    pub fn copy_from(&self, offset: usize, bytes: &mut [u8]) -> usize {
        let count = bytes.len().min(self.len().saturating_sub(offset));
        if count > 0 {
            self.consumer.payload.read(self.payload() + offset, &mut bytes[..count]);
        }
        count
    }

    /// Copies the record into `bytes`, whose contents it replaces.
    pub fn copy_into(&self, bytes: &mut Vec<u8>) {
        bytes.resize(self.len(), 0);
        self.copy_to(bytes);
    }

    /// A copy of the record.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.copy_into(&mut bytes);
        bytes
    }

    /// A `T` copied from `offset` in the record; `None` when it is not all there, or when the
    /// bytes are no valid `T`.
    #[inline(always)]
    pub fn read_at<T: CheckedBitPattern>(&self, offset: usize) -> Option<T> {
        let end = offset.checked_add(size_of::<T>())?;
        if end > self.len() {
            return None;
        }
        self.consumer.payload.read_checked(self.payload() + offset)
    }

    /// Hands copies of the record to `take`, piece by piece, in order; no piece is empty or
    /// longer than 4 KiB.
    pub fn for_each_chunk(&self, mut take: impl FnMut(&[u8])) {
        let mut piece = [0; 4096];
        let mut done = 0;
        while done < self.len() {
            let count = self.copy_from(done, &mut piece);
            take(&piece[..count]);
            done += count;
        }
    }

    /// FNV-1a over the bytes, 64 bits wide: tells accidents apart, not attackers.
    pub fn checksum(&self) -> u64 {
        let mut sum = 0xcbf2_9ce4_8422_2325_u64;
        self.for_each_chunk(|piece| {
            for byte in piece {
                sum = (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        });
        sum
    }

    /// Writes the record from `offset` on to a file or socket with one `write(2)`, straight from
    /// the ring. Returns how many bytes the kernel took; 0 when nothing was left.
    ///
    /// # Errors
    ///
    /// That of `write(2)`; a signal does not end it.
    pub fn write_from(&self, offset: usize, file: impl AsFd) -> io::Result<usize> {
        let count = self.len().saturating_sub(offset);
        if count == 0 {
            return Ok(0);
        }
        let taken =
            self.consumer.payload.write_to_fd(self.payload() + offset, count, file.as_fd())?;
        Ok(taken.min(count))
    }

    /// Writes all of the record to a file or a blocking socket, straight from the ring.
    ///
    /// # Errors
    ///
    /// That of `write(2)`, or [`io::ErrorKind::WriteZero`]; some of the bytes may be written
    /// then. To go on after `EAGAIN`, use [`Record::write_from`].
    pub fn write_to(&self, file: impl AsFd) -> io::Result<()> {
        let mut done = 0;
        while done < self.len() {
            match self.write_from(done, file.as_fd())? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                taken => done += taken,
            }
        }
        Ok(())
    }

    /// The record's bytes, if the producer is trusted ([`RecordConsumer::trust_peer`]).
    #[inline(always)]
    #[expect(unsafe_code, reason = "the caller of `trust_peer` vouches for the peer")]
    pub fn as_slice(&self) -> Option<&[u8]> {
        if !self.consumer.trusted {
            return None;
        }
        // SAFETY: the record is committed and, while `self` lives, not released; `trust_peer` was
        // called, whose contract says that nobody writes into such a record.
        Some(unsafe { self.consumer.payload.slice(self.payload(), self.len()) })
    }

    /// Delivers the record, and those held before it: none of them is seen again. Does nothing in a
    /// forked child, whose parent's record it is.
    #[inline(always)]
    pub fn release(self) {
        self.consumer.deliver(&self.found);
    }

    /// Goes on to the next record and keeps this one in the ring until
    /// [`RecordConsumer::release_held`] or the release of a later one. If the process dies
    /// before, its successor sees it again.
    #[inline(always)]
    pub fn hold(self) {
        self.consumer.pass(&self.found);
    }
}

impl Waits for RecordConsumer {
    fn port(&mut self) -> &mut Port {
        &mut self.port
    }

    fn ready(&mut self) -> bool {
        !matches!(self.look(), Err(RecvError::Empty))
    }
}

impl Waitable for RecordConsumer {}

impl fmt::Debug for RecordConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (position, geometry) = (self.position, &self.geometry);
        f.debug_struct("RecordConsumer").field("position", &position).field("at", geometry).finish()
    }
}

impl fmt::Debug for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (position, len) = (self.position(), self.len());
        f.debug_struct("Record").field("position", &position).field("len", &len).finish()
    }
}

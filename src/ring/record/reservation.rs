//! Room for records that are not yet visible: one, or a batch.
//!
//! Committing consumes the value; dropping it gives the room back, since nothing
//! was stored that a consumer looks at.

use super::producer::{RecordProducer, Staged, place_or};
use crate::ring::error::SendError;
use crate::ring::layout::WORD_LEN;
use crate::ring::position::Place;
use core::fmt;
use std::io;
use std::os::fd::AsFd;

/// Room for one record, not yet visible. Dropping it gives the room back.
///
/// In a forked child it belongs to the parent: writing answers [`SendError::Forked`], and
/// committing does nothing.
// The short calls are inlined so that it can stay in registers: where it goes through memory, the
// next record waits until all stores into this one have reached their lines.
#[must_use = "a reservation that is not committed sends nothing"]
pub struct Reservation<'a> {
    producer: &'a mut RecordProducer,
    place: Place,
    len: usize,
    written: usize,
    /// What goes before it, if it is part of a batch.
    batch: Option<&'a mut Staged>,
}

impl<'a> Reservation<'a> {
    #[inline(always)]
    pub(super) fn new(
        producer: &'a mut RecordProducer,
        place: Place,
        len: usize,
        batch: Option<&'a mut Staged>,
    ) -> Self {
        producer.clear_user_header(&place);
        Self { producer, place, len, written: 0, batch }
    }

    /// The length reserved, in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the record has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The position the record will have; behind its padding, if it has any.
    pub fn position(&self) -> u64 {
        let producer = &*self.producer;
        let staged = self.batch.as_ref().map_or(0, |staged| staged.span);
        producer.at.position + staged + self.place.padding
    }

    /// Copies `bytes` to `offset` in the record.
    ///
    /// # Errors
    ///
    /// [`SendError::TooLarge`] when they would reach beyond what was reserved; nothing is
    /// written then.
    #[inline(always)]
    pub fn write_at(&mut self, offset: usize, bytes: &[u8]) -> Result<(), SendError> {
        let end = offset.saturating_add(bytes.len());
        if end > self.len {
            return Err(SendError::TooLarge { len: end, max: self.len });
        }
        self.producer.may_write()?;
        self.producer.payload.write(self.place.payload as usize + offset, bytes);
        Ok(())
    }

    /// Copies `bytes` to the front of the user header; the rest of it stays zero.
    ///
    /// # Errors
    ///
    /// [`SendError::TooLarge`] when the user header is shorter.
    pub fn set_user_header(&mut self, bytes: &[u8]) -> Result<(), SendError> {
        let max = self.producer.user_header_len();
        if bytes.len() > max {
            return Err(SendError::TooLarge { len: bytes.len(), max });
        }
        self.producer.may_write()?;
        self.producer.payload.write(self.place.header as usize + WORD_LEN, bytes);
        Ok(())
    }

    /// One read from a file or socket into the record, behind what was written by this call or
    /// by [`io::Write`] before. Returns how many bytes came; 0 at the end of the file, or when
    /// the record is full.
    ///
    /// # Errors
    ///
    /// That of `read(2)`; a signal does not end it.
    pub fn read_from(&mut self, file: impl AsFd) -> io::Result<usize> {
        self.producer.may_write().map_err(io::Error::other)?;
        let offset = self.place.payload as usize + self.written;
        let room = self.len - self.written;
        let count = self.producer.payload.read_from_fd(offset, room, file.as_fd())?.min(room);
        self.written += count;
        Ok(count)
    }

    /// How many bytes were written by [`io::Write`] and [`Reservation::read_from`].
    pub fn written(&self) -> usize {
        self.written
    }

    /// The record's bytes, if the consumer is trusted ([`RecordProducer::trust_peer`]).
    ///
    /// They hold what was in the ring before.
    #[inline(always)]
    #[expect(unsafe_code, reason = "the caller of `trust_peer` vouches for the peer")]
    pub fn as_mut_slice(&mut self) -> Option<&mut [u8]> {
        if !self.producer.trusted || self.producer.may_write().is_err() {
            return None;
        }
        // SAFETY: the bytes are reserved, so no honest peer touches them, and `trust_peer` was
        // called, whose contract says that there is no other; the exclusive borrow of `self`
        // keeps our own calls away.
        Some(unsafe { self.producer.payload.slice_mut(self.place.payload as usize, self.len) })
    }

    /// Sends the record (in a batch: when the batch is committed).
    #[inline(always)]
    pub fn commit(self) {
        let len = self.len;
        self.finish(len);
    }

    /// Sends the first `len` bytes of the record, or all of it if it is not longer.
    #[inline(always)]
    pub fn commit_len(self, len: usize) {
        let len = len.min(self.len);
        self.finish(len);
    }

    /// Sends what was written by [`io::Write`] and [`Reservation::read_from`].
    pub fn commit_written(self) {
        let len = self.written;
        self.finish(len);
    }

    #[inline(always)]
    fn finish(self, len: usize) {
        let Self { producer, place, batch, .. } = self;
        match batch {
            None => producer.publish_one(place, len),
            Some(staged) => producer.stage(staged, &place, len),
        }
    }
}

impl io::Write for Reservation<'_> {
    /// Takes as many bytes as there is room for; 0 when the record is full.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.producer.may_write().map_err(io::Error::other)?;
        let count = bytes.len().min(self.len - self.written);
        self.producer.payload.write(self.place.payload as usize + self.written, &bytes[..count]);
        self.written += count;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Records that become visible together. Dropping it sends none of them. In a forked child, where
/// it belongs to the parent, committing does nothing.
#[must_use = "a batch that is not committed sends nothing"]
pub struct Batch<'a> {
    pub(super) producer: &'a mut RecordProducer,
    pub(super) staged: Staged,
}

impl Batch<'_> {
    /// Adds a record.
    ///
    /// # Errors
    ///
    /// [`SendError::Full`] when there is no room now, `TooLarge` when the record alone never
    /// fits; what was added before stays in the batch.
    #[inline(always)]
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), SendError> {
        let (producer, len) = (&mut *self.producer, bytes.len());
        let staged = self.staged.span;
        let place = place_or!(producer, len, staged, producer.look_for_place(len, staged)?);
        self.producer.clear_user_header(&place);
        self.producer.payload.message(place.payload as usize, bytes.len()).write(bytes);
        self.producer.stage(&mut self.staged, &place, bytes.len());
        Ok(())
    }

    /// Reserves a record of the batch.
    ///
    /// # Errors
    ///
    /// As [`Batch::push`].
    #[inline(always)]
    pub fn reserve(&mut self, len: usize) -> Result<Reservation<'_>, SendError> {
        let producer = &mut *self.producer;
        let staged = self.staged.span;
        let place = place_or!(producer, len, staged, producer.look_for_place(len, staged)?);
        Ok(Reservation::new(self.producer, place, len, Some(&mut self.staged)))
    }

    /// How many records are in the batch.
    pub fn len(&self) -> u64 {
        self.staged.records
    }

    /// Whether the batch has no records.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sends all records of the batch.
    #[inline(always)]
    pub fn commit(self) {
        self.producer.publish(&self.staged);
    }
}

impl fmt::Debug for Reservation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation").field("len", &self.len).finish_non_exhaustive()
    }
}

impl fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("records", &self.len()).finish_non_exhaustive()
    }
}

//! Typed rings: the ends of a slot ring, for messages of one Rust type.
//!
//! A type that is written must have no padding ([`bytemuck::NoUninit`]), so that
//! every byte sent is one the program meant. A type that is read may have
//! invalid bit patterns ([`bytemuck::CheckedBitPattern`]): they are checked on
//! the private copy, and a bad one is an error, so enums and bools are legal
//! messages even from a peer that lies. Protocol, ordering and failures are
//! those of `slots`; this file adds the types and nothing else.

use super::endpoint::{Parts, endpoint_calls};
use super::error::{AttachError, Laggard, RecvError, SendError};
use super::position::SlotGeometry;
use super::slots::{RawConsumer, RawProducer};
use crate::stats::Stats;
use crate::view::Message;
use crate::wait::{Port, Waitable, Waits, deadline_after, doorbell_calls};
use bytemuck::{CheckedBitPattern, NoUninit, bytes_of};
use core::fmt;
use core::marker::PhantomData;
use core::time::Duration;
use std::time::Instant;

// The calls below copy the message before they hand it to a slow path, so that the fast one may
// keep it in registers: a store of it into our own memory would be the most expensive part.

/// The producing end of a typed ring.
///
/// There is one at a time. Dropping it leaves the ring to a successor, who goes on behind the
/// last message.
pub struct Producer<T> {
    pub(super) raw: RawProducer,
    message: PhantomData<fn(T)>,
}

impl<T: NoUninit> Producer<T> {
    /// Attaches behind the last committed message. The geometry's size is that of `T`.
    pub(crate) fn attach(parts: Parts, geometry: SlotGeometry) -> Result<Self, AttachError> {
        if geometry.size() != size_of::<T>() {
            return Err(AttachError::Geometry);
        }
        Self::of(RawProducer::attach(parts, geometry)?)
    }

    /// The end with a type, of one whose messages have its size.
    pub(super) fn of(raw: RawProducer) -> Result<Self, AttachError> {
        let sound = raw.size() == size_of::<T>();
        sound.then_some(Self { raw, message: PhantomData }).ok_or(AttachError::Geometry)
    }

    /// The end of a ring whose messages have the size of `T`.
    pub(super) fn from_raw(raw: RawProducer) -> Self {
        Self { raw, message: PhantomData }
    }

    /// Sends a message if there is room now.
    ///
    /// # Errors
    ///
    /// [`SendError::Full`] when there is none. After 64 of these, at least 50 ms apart, the
    /// kernel is asked about the consumer; a full ring whose consumer has left or died is then
    /// answered with `Closed` or `PeerDied`.
    #[inline(always)]
    pub fn try_push(&mut self, message: T) -> Result<(), SendError> {
        match self.raw.put(bytes_of(&message)) {
            Err(SendError::Full) => self.raw.look_and_put(bytes_of(&{ message })),
            done => done,
        }
    }

    /// Sends a message, waiting for room.
    ///
    /// # Errors
    ///
    /// `Closed` and `PeerDied` when the ring is full and its consumer has left or died, see
    /// [`Producer::outlive_peer`]; a ring that never had a consumer is waited for.
    #[inline(always)]
    pub fn push(&mut self, message: T) -> Result<(), SendError> {
        match self.raw.put(bytes_of(&message)) {
            Err(SendError::Full) => self.raw.wait_and_put(bytes_of(&{ message }), || None),
            done => done,
        }
    }

    /// Sends a message, waiting for room until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`Producer::push`], and `TimedOut`.
    #[inline]
    pub fn push_deadline(&mut self, message: T, deadline: Instant) -> Result<(), SendError> {
        match self.raw.put(bytes_of(&message)) {
            Err(SendError::Full) => {
                self.raw.wait_and_put(bytes_of(&{ message }), || Some(deadline))
            }
            done => done,
        }
    }

    /// Sends a message, waiting for room for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`Producer::push`], and `TimedOut`.
    #[inline]
    pub fn push_timeout(&mut self, message: T, timeout: Duration) -> Result<(), SendError> {
        match self.raw.put(bytes_of(&message)) {
            Err(SendError::Full) => {
                self.raw.wait_and_put(bytes_of(&{ message }), || deadline_after(timeout))
            }
            done => done,
        }
    }

    /// Sends a message, or drops and counts it if there is no room: true when it was sent.
    ///
    /// # Errors
    ///
    /// Those of [`Producer::try_push`] other than `Full`.
    #[inline]
    pub fn push_or_drop(&mut self, message: T) -> Result<bool, SendError> {
        match self.try_push(message) {
            Ok(()) => Ok(true),
            Err(SendError::Full) => {
                self.raw.count_drop();
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Sends the first messages of the slice, as many as fit now; they become visible at once.
    /// Returns how many.
    ///
    /// # Errors
    ///
    /// [`SendError::Full`] when not even one fits.
    #[inline]
    pub fn push_batch(&mut self, messages: &[T]) -> Result<usize, SendError> {
        let done = self.raw.put_batch(messages.len(), |index| bytes_of(&messages[index]));
        if done == Err(SendError::Full) { self.raw.counted(done) } else { done }
    }

    /// Sends all messages of the slice in as few batches as the room allows, waiting for room.
    ///
    /// # Errors
    ///
    /// As [`Producer::push`]. What was sent before stays sent; [`Producer::position`] tells how
    /// much that is.
    pub fn push_slice(&mut self, messages: &[T]) -> Result<(), SendError> {
        let mut rest = messages;
        while !rest.is_empty() {
            match self.raw.put_batch(rest.len(), |index| bytes_of(&rest[index])) {
                Ok(count) => rest = &rest[count..],
                Err(SendError::Full) => self.raw.wait_for_room(None)?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends all messages of the slice, visible at once, or none.
    ///
    /// # Errors
    ///
    /// [`SendError::Full`] when there is not room for all of them now; [`SendError::TooLarge`]
    /// when there never is.
    pub fn push_all(&mut self, messages: &[T]) -> Result<(), SendError> {
        self.raw.room_for(messages.len())?;
        self.push_batch(messages).map(drop)
    }

    /// The number of slots.
    pub fn capacity(&self) -> u64 {
        self.raw.capacity()
    }

    /// The position of the next message: how many were ever sent through this ring.
    pub fn position(&self) -> u64 {
        self.raw.position()
    }

    /// How many messages wait to be received, as far as the consumer's line tells.
    pub fn len(&self) -> u64 {
        self.raw.len()
    }

    /// Whether no message waits.
    pub fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// In a lossless broadcast ring, the consumer that is furthest behind: the one that holds up
    /// a producer which finds no room. Asks the kernel whether it lives.
    pub fn slowest(&self) -> Option<Laggard> {
        self.raw.slowest()
    }

    /// What this endpoint counted.
    pub fn stats(&self) -> Stats {
        self.raw.stats()
    }

    endpoint_calls!(raw.port, own stats);
    doorbell_calls!(raw.port);
}

/// The receiving end of a typed ring.
///
/// There is one at a time. Dropping it leaves the ring to a successor, who goes on with the
/// first message that was not received.
pub struct Consumer<T> {
    raw: RawConsumer,
    message: PhantomData<fn() -> T>,
}

#[inline]
pub(super) fn value<T: CheckedBitPattern>(slot: &Message<'_>) -> Option<T> {
    slot.read_checked()
}

impl<T: CheckedBitPattern> Consumer<T> {
    /// Attaches at the first message that was not received. The geometry's size is that of `T`,
    /// which may be less than the producer's.
    pub(crate) fn attach(parts: Parts, geometry: SlotGeometry) -> Result<Self, AttachError> {
        if geometry.size() != size_of::<T>() {
            return Err(AttachError::Geometry);
        }
        Ok(Self { raw: RawConsumer::attach(parts, geometry)?, message: PhantomData })
    }

    /// Receives a message if there is one.
    ///
    /// # Errors
    ///
    /// [`RecvError::Empty`] when there is none. After 64 of these, at least 50 ms apart, the
    /// kernel is asked about the producer; an empty ring whose producer has left or died is
    /// then answered with `Closed` or `PeerDied`.
    #[inline(always)]
    pub fn try_recv(&mut self) -> Result<T, RecvError> {
        self.raw.try_take(value)
    }

    /// Receives a message, waiting for it.
    ///
    /// # Errors
    ///
    /// `Closed` and `PeerDied` when everything was received and the producer has left or died,
    /// see [`Consumer::outlive_peer`]; a ring that never had a producer is waited for.
    /// `InvalidValue` when the bytes are no `T`; the next call receives the next message.
    #[inline(always)]
    pub fn recv(&mut self) -> Result<T, RecvError> {
        self.raw.take_until(value, || None)
    }

    /// Receives a message, waiting for it until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`Consumer::recv`], and `TimedOut`.
    #[inline]
    pub fn recv_deadline(&mut self, deadline: Instant) -> Result<T, RecvError> {
        self.raw.take_until(value, || Some(deadline))
    }

    /// Receives a message, waiting for it for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`Consumer::recv`], and `TimedOut`.
    #[inline]
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<T, RecvError> {
        self.raw.take_until(value, || deadline_after(timeout))
    }

    /// Receives up to `max` messages that are there now, behind those already in `messages`;
    /// they are released together. Returns how many.
    ///
    /// # Errors
    ///
    /// [`RecvError::Empty`] when there is none. A message that is no `T` ends the batch and is
    /// the answer of the next call.
    #[inline]
    pub fn recv_batch(&mut self, messages: &mut Vec<T>, max: usize) -> Result<usize, RecvError> {
        let done = self.raw.take_batch(max, value, |_, message| messages.push(message));
        if done != Err(RecvError::Empty) {
            return done;
        }
        match self.raw.still_empty() {
            RecvError::Empty => done,
            // Once more, now that the peer's end is known.
            end => match self.raw.take_batch(max, value, |_, message| messages.push(message)) {
                Err(RecvError::Empty) => Err(end),
                done => done,
            },
        }
    }

    /// Receives at least one and up to `max` messages behind those in `messages`, waiting for the
    /// first; they are released together. Returns how many.
    ///
    /// # Errors
    ///
    /// As [`Consumer::recv`].
    pub fn recv_some(&mut self, messages: &mut Vec<T>, max: usize) -> Result<usize, RecvError> {
        loop {
            match self.raw.take_batch(max, value, |_, message| messages.push(message)) {
                Err(RecvError::Empty) => self.raw.wait_for_message(None)?,
                done => return done,
            }
        }
    }

    /// Copies the next message without receiving it: it is seen again until it is received,
    /// by a successor too if this process dies. For effects that must not be lost: look, act,
    /// then [`Consumer::skip`]; [`Consumer::position`] tells a repeated message.
    ///
    /// # Errors
    ///
    /// As [`Consumer::try_recv`]; a message that is no `T` stays until it is skipped.
    #[inline]
    pub fn peek(&mut self) -> Result<T, RecvError> {
        self.raw.peek(value)
    }

    /// Receives the next message without looking at it.
    ///
    /// # Errors
    ///
    /// As [`Consumer::try_recv`].
    pub fn skip(&mut self) -> Result<(), RecvError> {
        self.raw.skip()
    }

    /// The number of slots.
    pub fn capacity(&self) -> u64 {
        self.raw.capacity()
    }

    /// The position of the next message: how many were ever received through this ring.
    pub fn position(&self) -> u64 {
        self.raw.position()
    }

    /// How many messages wait. Looks at a header word for each few of them.
    pub fn lag(&self) -> u64 {
        self.raw.lag()
    }

    /// What this endpoint counted.
    pub fn stats(&self) -> Stats {
        self.raw.stats()
    }

    endpoint_calls!(raw.port, own stats);
    doorbell_calls!(raw.port);
}

impl<T> Waits for Producer<T> {
    fn port(&mut self) -> &mut Port {
        &mut self.raw.port
    }

    fn ready(&mut self) -> bool {
        self.raw.ready()
    }
}

impl<T> Waitable for Producer<T> {}

impl<T> fmt::Debug for Producer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Producer").field(&self.raw).finish()
    }
}

impl<T> Waits for Consumer<T> {
    fn port(&mut self) -> &mut Port {
        &mut self.raw.port
    }

    fn ready(&mut self) -> bool {
        self.raw.ready()
    }
}

impl<T> Waitable for Consumer<T> {}

impl<T> fmt::Debug for Consumer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Consumer").field(&self.raw).finish()
    }
}

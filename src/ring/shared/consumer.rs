//! The receiving end of a shared ring, with its type.
//!
//! What it does stands in `receiver`.

use super::end::End;
use super::layout::{Geometry, turn};
use super::receiver::{Receiver, or_put_back};
use crate::ring::endpoint::{Parts, endpoint_calls};
use crate::ring::error::{AttachError, RecvError};
use crate::segment::endpoint::Role;
use crate::view::Message;
use crate::wait::{Port, Waitable, Waits, deadline_after, doorbell_calls};
use bytemuck::CheckedBitPattern;
use core::fmt;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::time::Duration;
use std::time::Instant;

/// A receiving end of a shared ring: one of many, each of which receives other messages.
///
/// Dropping it leaves its number to a successor.
pub struct SharedConsumer<T> {
    receiver: Receiver,
    message: PhantomData<fn() -> T>,
}

/// A message that is being received, by [`SharedConsumer::hold`].
///
/// It holds up a slot of the ring until it is released. Dropped, or in a process that dies, it goes
/// back and is received once more, by this consumer or another.
#[derive(Debug)]
#[must_use = "a message that is not released is received again"]
pub struct SharedMessage<'a, T> {
    consumer: &'a mut SharedConsumer<T>,
    word: u64,
    value: T,
}

#[inline]
fn value<T: CheckedBitPattern>(message: &Message<'_>) -> Option<T> {
    message.read_checked()
}

impl<T: CheckedBitPattern> SharedConsumer<T> {
    /// Attaches consumer number `slot`. The geometry's size is that of `T`, which may be less than
    /// the producers'.
    pub(super) fn attach(parts: Parts, geometry: Geometry, slot: u32) -> Result<Self, AttachError> {
        if geometry.size != size_of::<T>() {
            return Err(AttachError::Geometry);
        }
        let end = End::attach(parts, geometry, Role::Consumer, slot)?;
        Ok(Self { receiver: Receiver::new(end), message: PhantomData })
    }

    /// Receives a message if there is one.
    ///
    /// # Errors
    ///
    /// [`RecvError::Empty`] when there is none, or the next one is still being written. After 64 of
    /// these, at least 50 ms apart, the kernel is asked whether those live who hold slots that this
    /// end waits for or has passed, and about the producers; an empty ring whose producers have all
    /// left or died is then answered with `Closed` or `PeerDied`.
    #[inline(always)]
    pub fn try_recv(&mut self) -> Result<T, RecvError> {
        match self.receiver.take(&mut value, true) {
            Err(RecvError::Empty) => self.receiver.look_and_take(value),
            done => done,
        }
    }

    /// Receives a message, waiting for it.
    ///
    /// # Errors
    ///
    /// `Closed` and `PeerDied` when there is nothing left to receive and all producers have left or
    /// died, see [`SharedConsumer::outlive_peer`]; a ring that never had a producer is waited for.
    /// `InvalidValue` when the bytes are no `T`; the next call receives another message.
    #[inline(always)]
    pub fn recv(&mut self) -> Result<T, RecvError> {
        match self.receiver.take(&mut value, true) {
            Err(RecvError::Empty) => self.receiver.wait_and_take(value, None),
            done => done,
        }
    }

    /// Receives a message, waiting for it until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`SharedConsumer::recv`], and `TimedOut`.
    #[inline]
    pub fn recv_deadline(&mut self, deadline: Instant) -> Result<T, RecvError> {
        match self.receiver.take(&mut value, true) {
            Err(RecvError::Empty) => self.receiver.wait_and_take(value, Some(deadline)),
            done => done,
        }
    }

    /// Receives a message, waiting for it for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`SharedConsumer::recv`], and `TimedOut`.
    #[inline]
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<T, RecvError> {
        match self.receiver.take(&mut value, true) {
            Err(RecvError::Empty) => self.receiver.wait_and_take(value, deadline_after(timeout)),
            done => done,
        }
    }

    /// Receives up to `max` messages that are there now, behind those already in `messages`, one
    /// after the other; how many.
    ///
    /// # Errors
    ///
    /// As [`SharedConsumer::try_recv`], when there is not even one. A message that is no `T` ends
    /// the batch, and goes back.
    pub fn recv_batch(&mut self, messages: &mut Vec<T>, max: usize) -> Result<usize, RecvError> {
        if max == 0 {
            return Ok(0);
        }
        messages.push(self.try_recv()?);
        let mut received = 1;
        while received < max {
            // What is wrong is told by the next call.
            let Ok(message) = self.receiver.find_and_take(&mut value, false) else { break };
            messages.push(message);
            received += 1;
        }
        Ok(received)
    }

    /// Takes a message if there is one, without receiving it yet: for effects that must not be
    /// lost. Act, then [`SharedMessage::release`] it.
    ///
    /// # Errors
    ///
    /// As [`SharedConsumer::try_recv`]. A message that is no `T` is released.
    pub fn try_hold(&mut self) -> Result<SharedMessage<'_, T>, RecvError> {
        let word = self.receiver.look_and_grab()?;
        self.held(word)
    }

    /// The same, waiting for a message.
    ///
    /// # Errors
    ///
    /// As [`SharedConsumer::recv`].
    pub fn hold(&mut self) -> Result<SharedMessage<'_, T>, RecvError> {
        let word = self.receiver.wait_and_grab(None)?;
        self.held(word)
    }

    /// The same, waiting for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`SharedConsumer::recv`], and `TimedOut`.
    pub fn hold_timeout(&mut self, timeout: Duration) -> Result<SharedMessage<'_, T>, RecvError> {
        let word = self.receiver.wait_and_grab(deadline_after(timeout))?;
        self.held(word)
    }

    /// The message at the cursor, whose word was made `word`.
    fn held(&mut self, word: u64) -> Result<SharedMessage<'_, T>, RecvError> {
        let slot = self.receiver.end.slots.slot();
        match or_put_back(&slot, word, || value(&slot.message())) {
            Some(value) => Ok(SharedMessage { consumer: self, word, value }),
            None => Err(self.receiver.invalid(word)),
        }
    }
}

impl<T> SharedConsumer<T> {
    /// The number of slots.
    pub fn capacity(&self) -> u64 {
        self.receiver.end.geometry.capacity
    }

    /// The number of this end among the consumers.
    pub fn number(&self) -> u32 {
        self.receiver.end.slot
    }

    /// How many messages wait that no consumer is receiving. Looks at the slot of each.
    pub fn lag(&self) -> u64 {
        self.receiver.lag()
    }

    endpoint_calls!(receiver.end.port);
    doorbell_calls!(receiver.end.port);
}

impl<T: Copy> SharedMessage<'_, T> {
    /// The message.
    pub fn value(&self) -> T {
        self.value
    }

    /// Its number among the messages of the ring; seen again, it has the same.
    pub fn position(&self) -> u64 {
        let end = &self.consumer.receiver.end;
        end.position_of(end.slots.place())
    }

    /// How often it was taken before, and not released: for telling a message that kills whoever
    /// takes it. 0 after 255.
    pub fn seen_before(&self) -> u8 {
        turn(self.word)
    }

    /// Receives the message: it is delivered, and never seen again. Does nothing in a forked child,
    /// whose parent's message it is.
    pub fn release(self) -> T {
        let value = self.value;
        let mut held = ManuallyDrop::new(self);
        let word = held.word;
        let receiver = &mut held.consumer.receiver;
        if receiver.end.port.usable() {
            receiver.deliver(word);
        }
        value
    }
}

impl<T> Drop for SharedMessage<'_, T> {
    fn drop(&mut self) {
        self.consumer.receiver.give_back(self.word);
    }
}

impl<T> Waits for SharedConsumer<T> {
    fn port(&mut self) -> &mut Port {
        &mut self.receiver.end.port
    }

    fn ready(&mut self) -> bool {
        self.receiver.look() != Ok(false)
    }
}

impl<T> Waitable for SharedConsumer<T> {}

impl<T> fmt::Debug for SharedConsumer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = &self.receiver.end;
        f.debug_struct("SharedConsumer")
            .field("number", &end.slot)
            .field("at", &end.geometry)
            .finish()
    }
}

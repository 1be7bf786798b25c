//! The sending end of a shared ring.
//!
//! The steps P1 to P4 are told in the parent module.

use super::end::{CLEARINGS, End, ROUNDS};
use super::layout::{Geometry, Held, Seen, free, full, last_claimed, seen, writing};
use crate::ring::endpoint::{Parts, endpoint_calls};
use crate::ring::error::{AttachError, SendError, has_room};
use crate::segment::endpoint::Role;
use crate::wait::{Port, Waitable, Waits, deadline_after, doorbell_calls, wait_until};
use bytemuck::{NoUninit, bytes_of};
use core::fmt;
use core::marker::PhantomData;
use core::sync::atomic::Ordering::Release;
use core::time::Duration;
use std::time::Instant;

// As in `typed`: the message is copied before it is handed to a slow path, so that the fast one may
// keep it in registers.

/// A sending end of a shared ring: one of many.
///
/// Messages of one producer are received in the order in which it sent them, if one consumer
/// receives them. Dropping it leaves its number to a successor.
pub struct SharedProducer<T> {
    sender: Sender,
    message: PhantomData<fn(T)>,
}

/// The same by bytes.
struct Sender {
    end: End,
}

impl<T: NoUninit> SharedProducer<T> {
    /// Attaches producer number `slot`. The geometry's size is that of `T`.
    pub(super) fn attach(parts: Parts, geometry: Geometry, slot: u32) -> Result<Self, AttachError> {
        if geometry.size != size_of::<T>() {
            return Err(AttachError::Geometry);
        }
        let end = End::attach(parts, geometry, Role::Producer, slot)?;
        Ok(Self { sender: Sender { end }, message: PhantomData })
    }

    /// Sends a message if there is room now.
    ///
    /// # Errors
    ///
    /// [`SendError::Full`] when there is none: the next slot holds a message that was not received,
    /// or that somebody is receiving. After 64 of these, at least 50 ms apart, the kernel is asked
    /// whether who has that slot lives, and about the consumers; a full ring whose consumers have
    /// all left or died is then answered with `Closed` or `PeerDied`.
    #[inline(always)]
    pub fn try_push(&mut self, message: T) -> Result<(), SendError> {
        match self.sender.put(bytes_of(&message)) {
            Err(SendError::Full) => self.sender.look_and_put(bytes_of(&{ message })),
            done => done,
        }
    }

    /// Sends a message, waiting for room.
    ///
    /// # Errors
    ///
    /// `Closed` and `PeerDied` when the ring is full and all consumers have left or died, see
    /// [`SharedProducer::outlive_peer`]; a ring that never had a consumer is waited for.
    #[inline(always)]
    pub fn push(&mut self, message: T) -> Result<(), SendError> {
        match self.sender.put(bytes_of(&message)) {
            Err(SendError::Full) => self.sender.wait_and_put(bytes_of(&{ message }), None),
            done => done,
        }
    }

    /// Sends a message, waiting for room until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`SharedProducer::push`], and `TimedOut`.
    #[inline]
    pub fn push_deadline(&mut self, message: T, deadline: Instant) -> Result<(), SendError> {
        match self.sender.put(bytes_of(&message)) {
            Err(SendError::Full) => {
                self.sender.wait_and_put(bytes_of(&{ message }), Some(deadline))
            }
            done => done,
        }
    }

    /// Sends a message, waiting for room for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`SharedProducer::push`], and `TimedOut`.
    #[inline]
    pub fn push_timeout(&mut self, message: T, timeout: Duration) -> Result<(), SendError> {
        match self.sender.put(bytes_of(&message)) {
            Err(SendError::Full) => {
                self.sender.wait_and_put(bytes_of(&{ message }), deadline_after(timeout))
            }
            done => done,
        }
    }

    /// Sends as many of `messages` as fit now, one after the other; how many. Those of other
    /// producers may come between them, and a consumer may receive the first before the last was
    /// sent.
    ///
    /// # Errors
    ///
    /// As [`SharedProducer::try_push`], when not even one fits.
    pub fn push_batch(&mut self, messages: &[T]) -> Result<usize, SendError> {
        let Some((first, rest)) = messages.split_first() else { return Ok(0) };
        self.try_push(*first)?;
        let mut sent = 1;
        for message in rest {
            let put = match self.sender.put(bytes_of(message)) {
                Err(SendError::Full) => self.sender.find_and_put(bytes_of(message)),
                done => done,
            };
            // What is wrong is told by the next call.
            if put.is_err() {
                break;
            }
            sent += 1;
        }
        Ok(sent)
    }
}

impl<T> SharedProducer<T> {
    /// The number of slots.
    pub fn capacity(&self) -> u64 {
        self.sender.end.geometry.capacity
    }

    /// The number of this end among the producers.
    pub fn number(&self) -> u32 {
        self.sender.end.slot
    }

    endpoint_calls!(sender.end.port);
    doorbell_calls!(sender.end.port);
}

impl Sender {
    /// P1 to P4 in the slot at the cursor; [`SendError::Full`] if it is not free.
    ///
    /// `bytes` goes nowhere else from here, so a message can stay in registers.
    #[inline(always)]
    fn put(&mut self, bytes: &[u8]) -> Result<(), SendError> {
        let end = &mut self.end;
        if !end.port.usable() {
            return Err(self.refusal());
        }
        let (slot, lap) = (end.slots.slot(), end.slots.lap());
        // Without a look before: that would fetch the line twice, to read it and to write to it.
        if slot.replace(free(lap), writing(lap, end.slot)).is_err() {
            return Err(SendError::Full);
        } // edges `free`, `order`
        slot.message().write(bytes);
        slot.store(full(lap), Release); // edge `commit`
        end.slots.advance();
        end.port.announce();
        end.count();
        Ok(())
    }

    /// P1: moves to the first slot that no producer has taken; [`SendError::Full`] if it is still
    /// in use.
    fn find(&mut self) -> Result<(), SendError> {
        let end = &mut self.end;
        if !end.port.usable() {
            return Err(self.refusal());
        }
        for _ in 0..ROUNDS {
            let place = end.slots.place();
            let word = end.word_at(place);
            match seen(word, place.lap()) {
                Seen::Free => return Ok(()),
                Seen::Before(_) => break,
                Seen::Impossible => return Err(SendError::Corrupt(end.corrupt())),
                Seen::Writing | Seen::Full | Seen::Reading | Seen::Gone => {
                    let claimed = place.in_lap(last_claimed(word, place.lap()));
                    let last = end.gallop(claimed, Seen::is_claimed);
                    end.slots.go(end.slots.behind(last));
                }
            }
        }
        Err(SendError::Full)
    }

    /// [`put`](Self::put) where there is room.
    #[cold]
    #[inline(never)]
    fn find_and_put(&mut self, bytes: &[u8]) -> Result<(), SendError> {
        for _ in 0..ROUNDS {
            self.find()?;
            match self.put(bytes) {
                Err(SendError::Full) => {} // another was faster
                done => return done,
            }
        }
        Err(SendError::Full)
    }

    /// R1 and R2 for the slot that is in the way; whether it is another now.
    fn clear(&mut self) -> bool {
        let place = self.end.slots.place();
        let word = self.end.word_at(place);
        let Seen::Before(held) = seen(word, place.lap()) else { return false };
        let cleared = held != Held::Full && self.end.clear(place, word);
        if cleared {
            self.end.port.announce();
        }
        cleared
    }

    /// [`find_and_put`](Self::find_and_put), with a question to the kernel now and then.
    #[cold]
    #[inline(never)]
    fn look_and_put(&mut self, bytes: &[u8]) -> Result<(), SendError> {
        match self.find_and_put(bytes) {
            Err(SendError::Full) => {}
            done => return done,
        }
        self.end.port.stats.full();
        let over = self.end.port.tried_in_vain();
        if self.end.may_ask() || over.is_some() {
            self.clear();
            // Once more, now that it is known who lives.
            match self.find_and_put(bytes) {
                Err(SendError::Full) => {}
                done => return done,
            }
        }
        Err(over.map_or(SendError::Full, SendError::from))
    }

    #[cold]
    #[inline(never)]
    fn wait_and_put(&mut self, bytes: &[u8], deadline: Option<Instant>) -> Result<(), SendError> {
        let mut waited = false;
        loop {
            match self.find_and_put(bytes) {
                Err(SendError::Full) => {}
                done => {
                    if waited {
                        self.end.pass_on(Seen::Free);
                    }
                    return done;
                }
            }
            self.wait_for_room(deadline)?;
            waited = true;
        }
    }

    fn wait_for_room(&mut self, deadline: Option<Instant>) -> Result<(), SendError> {
        self.end.port.stats.full();
        if self.end.look_away() && self.look()? {
            return Ok(());
        }
        let waited = wait_until(self, deadline, |it| &mut it.end.port, Self::look);
        match waited {
            // A place may be held by one who is as dead as the rest.
            Err(SendError::PeerDied | SendError::Closed) if self.clear() && self.look()? => Ok(()),
            waited => waited,
        }
    }

    /// Whether there is room; for waits.
    fn look(&mut self) -> Result<bool, SendError> {
        if has_room(self.find())? {
            return Ok(true);
        }
        let word = self.end.word_at(self.end.slots.place());
        let held = seen(word, self.end.slots.lap());
        if !matches!(held, Seen::Before(Held::Writing | Held::Reading)) || !self.end.may_ask_again()
        {
            return Ok(false);
        }
        for _ in 0..CLEARINGS {
            if !self.clear() {
                break;
            }
            if has_room(self.find())? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    #[cold]
    fn refusal(&self) -> SendError {
        self.end.corruption.map_or(SendError::Forked, SendError::Corrupt)
    }
}

impl<T> Waits for SharedProducer<T> {
    fn port(&mut self) -> &mut Port {
        &mut self.sender.end.port
    }

    fn ready(&mut self) -> bool {
        self.sender.look() != Ok(false)
    }
}

impl<T> Waitable for SharedProducer<T> {}

impl<T> fmt::Debug for SharedProducer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = &self.sender.end;
        f.debug_struct("SharedProducer")
            .field("number", &end.slot)
            .field("at", &end.geometry)
            .finish()
    }
}

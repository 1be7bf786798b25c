//! The receiving end of a shared ring.
//!
//! The steps C1 to C4 are told in the parent module.

use super::end::{CLEARINGS, End, ROUNDS};
use super::layout::{
    Geometry, Held, Seen, TURN, freed, full, last_claimed, owner, put_back, reading, seen, turn,
};
use crate::ring::endpoint::{Parts, endpoint_calls};
use crate::ring::error::{AttachError, RecvError, is_there};
use crate::segment::endpoint::Role;
use crate::view::{BlockPlace, Message};
use crate::wait::{Port, Waitable, Waits, deadline_after, doorbell_calls, wait_until};
use bytemuck::CheckedBitPattern;
use core::fmt;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::sync::atomic::Ordering::{Acquire, Release};
use core::time::Duration;
use std::time::Instant;

/// Messages of up to so many bytes are copied before it is known that they are received here, and
/// not by another: so that nobody holds their slots. Larger ones would be copied by many in vain.
const COPIED_FIRST: usize = if cfg!(test) { 16 } else { 128 };

/// How many slots that others have received are gone past one by one, before a search by halves.
const WALK: usize = 64;

/// A receiving end of a shared ring: one of many, each of which receives other messages.
///
/// Dropping it leaves its number to a successor.
pub struct SharedConsumer<T> {
    receiver: Receiver,
    message: PhantomData<fn() -> T>,
}

/// The same without a type.
struct Receiver {
    end: End,
    /// Where others were receiving when this end went past, or may have been: from here on to the
    /// cursor there may be messages again. None if there is nothing behind the cursor.
    behind: Option<BlockPlace>,
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
        // A3: the messages of the last lap are those that there can be.
        let tail = end.blocks.place();
        let mut receiver = Receiver { end, behind: Some(tail.in_lap(tail.lap() - 1)) };
        receiver.sweep();
        Ok(Self { receiver, message: PhantomData })
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
        match value(&self.receiver.end.blocks.block().message(0)) {
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
        end.position_of(end.blocks.place())
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

impl Receiver {
    /// C1 to C4 in the slot at the cursor; [`RecvError::Empty`] if there is no message in it. One
    /// that is no value is delivered, or goes back.
    #[inline(always)]
    fn take<R>(
        &mut self,
        read: &mut impl FnMut(&Message<'_>) -> Option<R>,
        delivers_invalid: bool,
    ) -> Result<R, RecvError> {
        let end = &mut self.end;
        if !end.port.usable() {
            return Err(self.refusal());
        }
        let (block, lap) = (end.blocks.block(), end.blocks.lap());
        let word = block.load(Acquire); // edge `commit`
        if word & !TURN != full(lap) {
            return Err(RecvError::Empty);
        }
        let message = block.message(0);
        if size_of::<R>() <= COPIED_FIRST {
            let value = read(&message);
            let stays = value.is_none() && !delivers_invalid;
            if stays || block.replace(word, freed(word)).is_err() {
                return Err(RecvError::Empty);
            } // edge `free`
            let place = end.blocks.place();
            self.go_on();
            return value.ok_or_else(|| self.invalid_at(place));
        }
        let held = reading(word, end.slot);
        if block.replace(word, held).is_err() {
            return Err(RecvError::Empty);
        }
        match read(&message) {
            Some(value) => {
                self.deliver(held);
                Ok(value)
            }
            None if delivers_invalid => Err(self.invalid(held)),
            None => {
                self.give_back(held);
                Err(RecvError::Empty)
            }
        }
    }

    /// C3 and C4 for the message at the cursor, whose word is `held`.
    #[inline(always)]
    fn deliver(&mut self, held: u64) {
        let end = &mut self.end;
        end.blocks.block().store(freed(held), Release); // edge `free`
        self.go_on();
    }

    /// C4, and on to the next slot.
    #[inline(always)]
    fn go_on(&mut self) {
        let end = &mut self.end;
        end.blocks.advance();
        end.port.announce();
        end.count();
        if self.behind.is_some() {
            self.look_behind();
        }
    }

    /// Delivers the message at the cursor, which is no value.
    #[cold]
    fn invalid(&mut self, held: u64) -> RecvError {
        let place = self.end.blocks.place();
        self.deliver(held);
        self.invalid_at(place)
    }

    #[cold]
    fn invalid_at(&self, place: BlockPlace) -> RecvError {
        RecvError::InvalidValue { position: self.end.position_of(place) }
    }

    /// C3 for a message that is not received after all.
    #[cold]
    fn give_back(&mut self, held: u64) {
        if !self.end.port.usable() {
            return; // a child: the slot is its parent's
        }
        // Another word by now is the doing of a peer that lies.
        _ = self.end.blocks.block().replace(held, put_back(held));
    }

    /// C1: moves to the first message that nobody receives; its word.
    fn poll(&mut self) -> Result<u64, RecvError> {
        if !self.end.port.usable() {
            return Err(self.refusal());
        }
        for _ in 0..ROUNDS {
            let end = &mut self.end;
            let place = end.blocks.place();
            let word = end.word_at(place);
            match seen(word, place.lap()) {
                Seen::Full => return Ok(word),
                Seen::Free | Seen::Writing | Seen::Before(Held::Reading) => break,
                Seen::Before(Held::Full) => {
                    // Put back after this end went past.
                    let back = place.in_lap(place.lap() - 1);
                    end.blocks.go(back);
                    self.left_behind(back);
                }
                Seen::Before(Held::Writing) | Seen::Impossible => {
                    return Err(RecvError::Corrupt(end.corrupt()));
                }
                Seen::Reading if owner(word) == end.slot => {
                    // A message that was held and then forgotten.
                    _ = end.blocks.look_at(place).replace(word, put_back(word));
                }
                Seen::Reading | Seen::Gone => self.pass(place, word),
            }
        }
        Err(RecvError::Empty)
    }

    /// Goes past `place`, which others have taken, as `word` says, and past what they have taken
    /// behind it.
    fn pass(&mut self, place: BlockPlace, word: u64) {
        let end = &mut self.end;
        let (mut last, mut left) = (place, Some(place));
        if seen(word, place.lap()) == Seen::Gone {
            // A slot is taken again when all that was sent a lap before has been received.
            let received = place.in_lap(last_claimed(word, place.lap()) - 1);
            last = if place.is_before(received) { received } else { place };
            left = None;
        }
        for _ in 0..WALK {
            let next = end.blocks.behind(last);
            let there = seen(end.word_at(next), next.lap());
            if !there.is_taken() {
                end.blocks.go(next);
                left.into_iter().for_each(|left| self.left_behind(left));
                return;
            }
            if there == Seen::Reading {
                left = left.or(Some(next));
            }
            last = next;
        }
        // Far behind. What is skipped may hold a message that was put back.
        let skipped = end.blocks.behind(last);
        let last = end.gallop(last, Seen::is_taken);
        let next = end.blocks.behind(last);
        end.blocks.go(next);
        if skipped.is_before(next) {
            left = left.or(Some(skipped));
        }
        left.into_iter().for_each(|left| self.left_behind(left));
    }

    /// From `place` on there may be messages again.
    fn left_behind(&mut self, place: BlockPlace) {
        let first = self.behind.filter(|behind| behind.is_before(place));
        self.behind = Some(first.unwrap_or(place));
    }

    /// Where messages may be that were left behind: less than a lap ago, since the slot at the
    /// cursor was then free for it, or is.
    fn first_behind(&self) -> BlockPlace {
        let place = self.end.blocks.place();
        let a_lap_ago = place.in_lap(place.lap().saturating_sub(1));
        let behind = self.behind.unwrap_or(place);
        if behind.is_before(a_lap_ago) { a_lap_ago } else { behind }
    }

    /// Goes back to the first position between what was left behind and the cursor that nobody has
    /// taken; R1 and R2 for those whose readers are gone.
    fn sweep(&mut self) {
        let mut place = self.first_behind();
        let end = &mut self.end;
        let stop = end.blocks.place();
        let (mut lives, mut found, mut left) = ([false; 256], None, None);
        while place.is_before(stop) {
            let word = end.word_at(place);
            let there = match seen(word, place.lap()) {
                Seen::Full | Seen::Writing | Seen::Free => true,
                Seen::Reading => {
                    let number = owner(word) as usize;
                    let cleared = !lives[number] && end.clear(place, word);
                    lives[number] |= !cleared;
                    left = left.or(Some(place));
                    cleared
                }
                Seen::Gone | Seen::Before(_) | Seen::Impossible => false,
            };
            if there && found.is_none() {
                found = Some(place);
                left = left.or(found);
            }
            place = end.blocks.behind(place);
        }
        self.behind = left;
        if let Some(found) = found {
            end.blocks.go(found);
        }
    }

    /// R1 and R2 for all that this end waits for or has left behind; whether there may be a
    /// message now.
    fn clear(&mut self) -> bool {
        let before = self.end.blocks.place();
        self.sweep();
        let place = self.end.blocks.place();
        if place != before {
            return true;
        }
        let word = self.end.word_at(place);
        let cleared = seen(word, place.lap()) == Seen::Writing && self.end.clear(place, word);
        if cleared {
            self.end.port.announce();
        }
        cleared
    }

    /// [`clear`](Self::clear) for an end that has enough to do, now and then.
    #[cold]
    #[inline(never)]
    fn look_behind(&mut self) {
        if self.end.may_ask_at_work() {
            self.sweep();
        }
    }

    /// [`take`](Self::take) where there is a message.
    #[cold]
    #[inline(never)]
    fn find_and_take<R>(
        &mut self,
        read: &mut impl FnMut(&Message<'_>) -> Option<R>,
        delivers_invalid: bool,
    ) -> Result<R, RecvError> {
        self.find_and(|it| it.take(read, delivers_invalid))
    }

    /// C1 and C2 without a look at the message; the word that its slot has then.
    fn grab(&mut self) -> Result<u64, RecvError> {
        self.find_and(|it| {
            let block = it.end.blocks.block();
            let word = block.load(Acquire); // edge `commit`
            let held = reading(word, it.end.slot);
            let is_full = word & !TURN == full(it.end.blocks.lap());
            if is_full && block.replace(word, held).is_ok() {
                Ok(held)
            } else {
                Err(RecvError::Empty)
            }
        })
    }

    /// Attempts where there is a message, until one is taken or there is none.
    #[inline]
    fn find_and<R>(
        &mut self,
        mut attempt: impl FnMut(&mut Self) -> Result<R, RecvError>,
    ) -> Result<R, RecvError> {
        for _ in 0..ROUNDS {
            self.poll()?;
            match attempt(self) {
                Err(RecvError::Empty) => {} // another was faster
                done => return done,
            }
        }
        Err(RecvError::Empty)
    }

    #[cold]
    #[inline(never)]
    fn look_and_take<R>(
        &mut self,
        mut read: impl FnMut(&Message<'_>) -> Option<R>,
    ) -> Result<R, RecvError> {
        self.look_and(|it| it.find_and_take(&mut read, true))
    }

    fn look_and_grab(&mut self) -> Result<u64, RecvError> {
        self.look_and(Self::grab)
    }

    /// Attempts, and asks the kernel now and then when that is in vain.
    #[inline]
    fn look_and<R>(
        &mut self,
        mut attempt: impl FnMut(&mut Self) -> Result<R, RecvError>,
    ) -> Result<R, RecvError> {
        match attempt(self) {
            Err(RecvError::Empty) => {}
            done => return done,
        }
        self.end.port.stats.empty();
        let over = self.end.port.tried_in_vain();
        if self.end.may_ask() || over.is_some() {
            for _ in 0..CLEARINGS {
                let cleared = self.clear();
                // Once more in any case, now that it is known who lives.
                match attempt(self) {
                    Err(RecvError::Empty) => {}
                    done => return done,
                }
                if !cleared {
                    break;
                }
            }
        }
        Err(over.map_or(RecvError::Empty, RecvError::from))
    }

    #[cold]
    #[inline(never)]
    fn wait_and_take<R>(
        &mut self,
        mut read: impl FnMut(&Message<'_>) -> Option<R>,
        deadline: Option<Instant>,
    ) -> Result<R, RecvError> {
        self.wait_and(deadline, |it| it.find_and_take(&mut read, true))
    }

    fn wait_and_grab(&mut self, deadline: Option<Instant>) -> Result<u64, RecvError> {
        self.wait_and(deadline, Self::grab)
    }

    /// Attempts, and waits when that is in vain.
    #[inline]
    fn wait_and<R>(
        &mut self,
        deadline: Option<Instant>,
        mut attempt: impl FnMut(&mut Self) -> Result<R, RecvError>,
    ) -> Result<R, RecvError> {
        let mut waited = false;
        loop {
            match attempt(self) {
                Err(RecvError::Empty) => {}
                done => {
                    if waited {
                        self.end.pass_on(Seen::Full);
                    }
                    return done;
                }
            }
            self.wait_for_message(deadline)?;
            waited = true;
        }
    }

    fn wait_for_message(&mut self, deadline: Option<Instant>) -> Result<(), RecvError> {
        self.end.port.stats.empty();
        if self.end.look_away() && self.look()? {
            return Ok(());
        }
        let waited = wait_until(self, deadline, |it| &mut it.end.port, Self::look);
        match waited {
            // What was sent before the last of them died may stand behind a slot that he held.
            Err(RecvError::PeerDied | RecvError::Closed) if self.clear_all()? => Ok(()),
            waited => waited,
        }
    }

    /// Whether there is a message; for waits.
    fn look(&mut self) -> Result<bool, RecvError> {
        if is_there(self.poll())? {
            return Ok(true);
        }
        let place = self.end.blocks.place();
        let held_up =
            self.behind.is_some() || seen(self.end.word_at(place), place.lap()) == Seen::Writing;
        if held_up && self.end.may_ask_again() { self.clear_all() } else { Ok(false) }
    }

    /// R1 and R2 for as many as there are; whether there is a message.
    fn clear_all(&mut self) -> Result<bool, RecvError> {
        for _ in 0..CLEARINGS {
            if !self.clear() {
                break;
            }
            if is_there(self.poll())? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn lag(&self) -> u64 {
        let blocks = &self.end.blocks;
        let (mut place, cursor) = (self.first_behind(), blocks.place());
        let word = self.end.word_at(cursor);
        if seen(word, cursor.lap()) == Seen::Gone {
            // As in `pass`: this end has not looked for a while.
            let received = cursor.in_lap(last_claimed(word, cursor.lap()) - 1);
            place = if place.is_before(received) { received } else { place };
        }
        let mut count = 0;
        for _ in 0..2 * blocks.count() {
            match seen(self.end.word_at(place), place.lap()) {
                Seen::Full => count += 1,
                seen if seen.is_claimed() => {}
                _ => break,
            }
            place = blocks.behind(place);
        }
        count
    }

    #[cold]
    fn refusal(&self) -> RecvError {
        self.end.corruption.map_or(RecvError::Forked, RecvError::Corrupt)
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

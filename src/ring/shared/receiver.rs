//! The receiving end of a shared ring, without a type.
//!
//! The steps C1 to C4, and A3, are told in the parent module.

use super::end::{CLEARINGS, End, ROUNDS};
use super::layout::{Held, Seen, TURN, freed, full, last_claimed, owner, put_back, reading, seen};
use crate::ring::error::{RecvError, is_there};
use crate::view::{Message, Slot, SlotPlace};
use crate::wait::wait_until;
use core::sync::atomic::Ordering::{Acquire, Release};
use std::time::Instant;

/// Messages of up to so many bytes are copied before it is known that they are received here, and
/// not by another: so that nobody holds their slots. Larger ones would be copied by many in vain.
const COPIED_FIRST: usize = if cfg!(test) { 16 } else { 128 };

/// How many slots that others have received are gone past one by one, before a search by halves.
const WALK: usize = 64;

/// The receiving end of a shared ring, without a type.
pub(super) struct Receiver {
    pub(super) end: End,
    /// Where others were receiving when this end went past, or may have been: from here on to the
    /// cursor there may be messages again. None if there is nothing behind the cursor.
    behind: Option<SlotPlace>,
}

/// What `read` makes of the message in `slot`, whose word is `held`; while a panic of its unwinds, the
/// message goes back to the others.
#[inline(always)]
pub(super) fn or_put_back<R>(slot: &Slot<'_>, held: u64, read: impl FnOnce() -> R) -> R {
    struct Unwinding<'a, 'b>(&'a Slot<'b>, u64);
    impl Drop for Unwinding<'_, '_> {
        fn drop(&mut self) {
            // Another word by now is the doing of a peer that lies.
            _ = self.0.replace(self.1, put_back(self.1));
        }
    }
    let unwinding = Unwinding(slot, held);
    let value = read();
    core::mem::forget(unwinding);
    value
}

impl Receiver {
    /// A3, for an end that has just attached.
    pub(super) fn new(end: End) -> Self {
        let tail = end.slots.place();
        // The messages of the last lap are those that there can be.
        let mut receiver = Self { end, behind: Some(tail.in_lap(tail.lap() - 1)) };
        receiver.sweep();
        receiver
    }

    /// C1 to C4 in the slot at the cursor; [`RecvError::Empty`] if there is no message in it. One
    /// that is no value is delivered, or goes back.
    #[inline(always)]
    pub(super) fn take<R>(
        &mut self,
        read: &mut impl FnMut(&Message<'_>) -> Option<R>,
        delivers_invalid: bool,
    ) -> Result<R, RecvError> {
        let end = &mut self.end;
        if !end.port.usable() {
            return Err(self.refusal());
        }
        let (slot, lap) = (end.slots.slot(), end.slots.lap());
        let word = slot.load(Acquire); // edge `commit`
        if word & !TURN != full(lap) {
            return Err(RecvError::Empty);
        }
        let message = slot.message();
        if size_of::<R>() <= COPIED_FIRST {
            let value = read(&message);
            let place = end.slots.place();
            if value.is_none() && !delivers_invalid {
                return Err(self.invalid_at(place));
            }
            if slot.replace(word, freed(word)).is_err() {
                return Err(RecvError::Empty);
            } // edge `free`
            self.go_on();
            return value.ok_or_else(|| self.invalid_at(place));
        }
        let held = reading(word, end.slot);
        if slot.replace(word, held).is_err() {
            return Err(RecvError::Empty);
        }
        match or_put_back(&slot, held, || read(&message)) {
            Some(value) => {
                self.deliver(held);
                Ok(value)
            }
            None if delivers_invalid => Err(self.invalid(held)),
            None => {
                self.give_back(held);
                Err(self.invalid_at(self.end.slots.place()))
            }
        }
    }

    /// C3 and C4 for the message at the cursor, whose word is `held`.
    #[inline(always)]
    pub(super) fn deliver(&mut self, held: u64) {
        let end = &mut self.end;
        end.slots.slot().store(freed(held), Release); // edge `free`
        self.go_on();
    }

    /// C4, and on to the next slot.
    #[inline(always)]
    fn go_on(&mut self) {
        let end = &mut self.end;
        end.slots.advance();
        end.port.announce();
        end.count();
        if self.behind.is_some() {
            self.look_behind();
        }
    }

    /// Delivers the message at the cursor, which is no value.
    #[cold]
    pub(super) fn invalid(&mut self, held: u64) -> RecvError {
        let place = self.end.slots.place();
        self.deliver(held);
        self.invalid_at(place)
    }

    #[cold]
    fn invalid_at(&self, place: SlotPlace) -> RecvError {
        RecvError::InvalidValue { position: self.end.position_of(place) }
    }

    /// C3 for a message that is not received after all.
    #[cold]
    pub(super) fn give_back(&mut self, held: u64) {
        if !self.end.port.usable() {
            return; // a child: the slot is its parent's
        }
        // Another word by now is the doing of a peer that lies.
        _ = self.end.slots.slot().replace(held, put_back(held));
    }

    /// C1: moves to the first message that nobody receives; its word.
    pub(super) fn poll(&mut self) -> Result<u64, RecvError> {
        if !self.end.port.usable() {
            return Err(self.refusal());
        }
        for _ in 0..ROUNDS {
            let end = &mut self.end;
            let place = end.slots.place();
            let word = end.word_at(place);
            match seen(word, place.lap()) {
                Seen::Full => return Ok(word),
                Seen::Free | Seen::Writing | Seen::Before(Held::Reading) => break,
                Seen::Before(Held::Full) => {
                    // Put back after this end went past.
                    let back = place.in_lap(place.lap() - 1);
                    end.slots.go(back);
                    self.left_behind(back);
                }
                Seen::Before(Held::Writing) | Seen::Impossible => {
                    return Err(RecvError::Corrupt(end.corrupt()));
                }
                Seen::Reading if owner(word) == end.slot => {
                    // A message that was held and then forgotten.
                    _ = end.slots.look_at(place).replace(word, put_back(word));
                }
                Seen::Reading | Seen::Gone => self.pass(place, word),
            }
        }
        Err(RecvError::Empty)
    }

    /// Goes past `place`, which others have taken, as `word` says, and past what they have taken
    /// behind it.
    fn pass(&mut self, place: SlotPlace, word: u64) {
        let end = &mut self.end;
        let (mut last, mut left) = (place, Some(place));
        if seen(word, place.lap()) == Seen::Gone {
            // A slot is taken again when all that was sent a lap before has been received.
            let received = place.in_lap(last_claimed(word, place.lap()) - 1);
            last = if place.is_before(received) { received } else { place };
            left = None;
        }
        for _ in 0..WALK {
            let next = end.slots.behind(last);
            let there = seen(end.word_at(next), next.lap());
            if !there.is_taken() {
                end.slots.go(next);
                left.into_iter().for_each(|left| self.left_behind(left));
                return;
            }
            if there == Seen::Reading {
                left = left.or(Some(next));
            }
            last = next;
        }
        // Far behind. What is skipped may hold a message that was put back.
        let skipped = end.slots.behind(last);
        let last = end.gallop(last, Seen::is_taken);
        let next = end.slots.behind(last);
        end.slots.go(next);
        if skipped.is_before(next) {
            left = left.or(Some(skipped));
        }
        left.into_iter().for_each(|left| self.left_behind(left));
    }

    /// From `place` on there may be messages again.
    fn left_behind(&mut self, place: SlotPlace) {
        let first = self.behind.filter(|behind| behind.is_before(place));
        self.behind = Some(first.unwrap_or(place));
    }

    /// Where messages may be that were left behind: less than a lap ago, since the slot at the
    /// cursor was then free for it, or is.
    fn first_behind(&self) -> SlotPlace {
        let place = self.end.slots.place();
        let a_lap_ago = place.in_lap(place.lap().saturating_sub(1));
        let behind = self.behind.unwrap_or(place);
        if behind.is_before(a_lap_ago) { a_lap_ago } else { behind }
    }

    /// Goes back to the first position between what was left behind and the cursor that nobody has
    /// taken; R1 and R2 for those whose readers are gone.
    pub(super) fn sweep(&mut self) {
        let mut place = self.first_behind();
        let end = &mut self.end;
        let stop = end.slots.place();
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
            place = end.slots.behind(place);
        }
        self.behind = left;
        if let Some(found) = found {
            end.slots.go(found);
        }
    }

    /// R1 and R2 for all that this end waits for or has left behind; whether there may be a
    /// message now.
    fn clear(&mut self) -> bool {
        let before = self.end.slots.place();
        self.sweep();
        let place = self.end.slots.place();
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
    pub(super) fn find_and_take<R>(
        &mut self,
        read: &mut impl FnMut(&Message<'_>) -> Option<R>,
        delivers_invalid: bool,
    ) -> Result<R, RecvError> {
        self.find_and(|it| it.take(read, delivers_invalid))
    }

    /// C1 and C2 without a look at the message; the word that its slot has then.
    fn grab(&mut self) -> Result<u64, RecvError> {
        self.find_and(|it| {
            let slot = it.end.slots.slot();
            let word = slot.load(Acquire); // edge `commit`
            let held = reading(word, it.end.slot);
            let is_full = word & !TURN == full(it.end.slots.lap());
            if is_full && slot.replace(word, held).is_ok() {
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
    pub(super) fn look_and_take<R>(
        &mut self,
        mut read: impl FnMut(&Message<'_>) -> Option<R>,
    ) -> Result<R, RecvError> {
        self.look_and(|it| it.find_and_take(&mut read, true))
    }

    pub(super) fn look_and_grab(&mut self) -> Result<u64, RecvError> {
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
    pub(super) fn wait_and_take<R>(
        &mut self,
        mut read: impl FnMut(&Message<'_>) -> Option<R>,
        deadline: Option<Instant>,
    ) -> Result<R, RecvError> {
        self.wait_and(deadline, |it| it.find_and_take(&mut read, true))
    }

    pub(super) fn wait_and_grab(&mut self, deadline: Option<Instant>) -> Result<u64, RecvError> {
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
    pub(super) fn look(&mut self) -> Result<bool, RecvError> {
        if is_there(self.poll())? {
            return Ok(true);
        }
        let place = self.end.slots.place();
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

    pub(super) fn lag(&self) -> u64 {
        let slots = &self.end.slots;
        let (mut place, cursor) = (self.first_behind(), slots.place());
        let word = self.end.word_at(cursor);
        if seen(word, cursor.lap()) == Seen::Gone {
            // As in `pass`: this end has not looked for a while.
            let received = cursor.in_lap(last_claimed(word, cursor.lap()) - 1);
            place = if place.is_before(received) { received } else { place };
        }
        let mut count = 0;
        for _ in 0..2 * slots.count() {
            match seen(self.end.word_at(place), place.lap()) {
                Seen::Full => count += 1,
                seen if seen.is_claimed() => {}
                _ => break,
            }
            place = slots.behind(place);
        }
        count
    }

    #[cold]
    fn refusal(&self) -> RecvError {
        self.end.corruption.map_or(RecvError::Forked, RecvError::Corrupt)
    }
}

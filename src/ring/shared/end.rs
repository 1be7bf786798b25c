//! What both ends of a shared ring have: a number, a cursor, a search, questions to the kernel.
//!
//! The steps are told in the parent module.

use super::layout::{
    ALIGN, Geometry, LAPS, READING, SHARED_STATE, Seen, WRITING, freed, is_of, lap_of,
    last_claimed, owner, put_back, seen,
};
use crate::ring::endpoint::Parts;
use crate::ring::error::{AttachError, Corruption};
use crate::segment::endpoint::Role;
use crate::sys::futex::monotonic_nanos_coarse;
use crate::view::{SlotCursor, SlotPlace};
use crate::wait::Port;
use core::sync::atomic::Ordering::Acquire;

/// How often a call looks anew after it has lost a slot to others; then it says full, or empty.
pub(super) const ROUNDS: u32 = 64;
/// How many slots of the dead a call clears away before it leaves the rest to the next one.
pub(super) const CLEARINGS: u32 = 64;

/// So many fruitless calls that do not wait lie between two questions to the kernel, at least.
const TRIES_PER_QUESTION: u32 = if cfg!(test) { 1 } else { 64 };
/// And so many nanoseconds.
const PAUSE: u64 = if cfg!(test) { 0 } else { 50_000_000 };
/// The same for an end that has enough to do, and asks about messages that it has left behind.
const PAUSE_AT_WORK: u64 = if cfg!(test) { 0 } else { 1_000_000_000 };

/// One end of a shared ring, of either role.
pub(super) struct End {
    pub(super) geometry: Geometry,
    role: Role,
    /// Its number among those of its role.
    pub(super) slot: u32,
    /// At the first position that was not taken, by those of its role, when last looked.
    pub(super) slots: SlotCursor,
    pub(super) corruption: Option<Corruption>,
    tries: u32,
    asked_nanos: u64,
    /// How many messages had passed when a wait last began.
    passed: u64,
    pub(super) port: Port,
}

impl End {
    /// A1 and A2, for end number `slot` of `role`.
    pub(super) fn attach(
        parts: Parts,
        geometry: Geometry,
        role: Role,
        slot: u32,
    ) -> Result<Self, AttachError> {
        let Parts { control, payload, stats, link } = parts;
        if !control.writable() || !payload.writable() {
            return Err(AttachError::ReadOnly);
        }
        let sound = control.len() >= geometry.control_len()
            && control.is_aligned_to(ALIGN)
            && payload.is_aligned_to(ALIGN)
            && slot < geometry.sleep_words(role).2;
        let slots = payload.slots(geometry.shape, geometry.capacity).filter(|_| sound);
        let slots = slots.ok_or(AttachError::Geometry)?;
        let words = geometry.wait_words(role, slot);
        let passed = stats.messages();
        let mut end = Self {
            geometry,
            role,
            slot,
            slots,
            corruption: None,
            tries: 0,
            asked_nanos: 0,
            passed,
            port: Port::new(control, words, link, stats).ok_or(AttachError::ReadOnly)?,
        };
        if end.clear_own() {
            end.port.announce();
        }
        // Private laps begin late enough for there to be one before each.
        let first = end.slots.place_at(0, LAPS);
        let word = end.word_at(first);
        let first = first.in_lap(LAPS + lap_of(word));
        let last = end.gallop(first.in_lap(last_claimed(word, first.lap())), Seen::is_claimed);
        end.slots.go(end.slots.behind(last));
        Ok(end)
    }

    /// A1: clears the words away that name this end; whether there were any.
    fn clear_own(&self) -> bool {
        let mut place = self.slots.place_at(0, 0);
        let mut cleared = false;
        for _ in 0..self.slots.count() {
            let word = self.word_at(place);
            let new = match self.role {
                Role::Producer if is_of(word, WRITING, self.slot) => Some(freed(word)),
                Role::Consumer if is_of(word, READING, self.slot) => Some(put_back(word)),
                _ => None,
            };
            // If it is another by now, somebody else has cleared it.
            cleared |= new.is_some_and(|new| self.slots.look_at(place).replace(word, new).is_ok());
            place = self.slots.behind(place);
        }
        cleared
    }

    pub(super) fn word_at(&self, place: SlotPlace) -> u64 {
        self.slots.look_at(place).load(Acquire) // edges `commit`, `free`, `order`
    }

    /// The last place of which the word says that it `has` passed, from one on that does: as far
    /// as a search by halves finds it, less than a lap away.
    #[inline(never)]
    pub(super) fn gallop(&self, from: SlotPlace, has: impl Fn(Seen) -> bool) -> SlotPlace {
        let has_at = |ahead| {
            let place = self.slots.ahead(from, ahead);
            has(seen(self.word_at(place), place.lap()))
        };
        let count = self.slots.count();
        let (mut low, mut step) = (0, 1);
        let mut high = loop {
            let at = low + step;
            if at >= count {
                break count;
            }
            if !has_at(at) {
                break at;
            }
            low = at;
            step *= 2;
        };
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if has_at(middle) {
                low = middle;
            } else {
                high = middle;
            }
        }
        self.slots.ahead(from, low)
    }

    /// R1 and R2 for the slot at `place`, in which `word` was seen: whether this end has taken it
    /// from an owner who is gone.
    pub(super) fn clear(&self, place: SlotPlace, word: u64) -> bool {
        let (role, new) = match word & SHARED_STATE {
            WRITING => (Role::Producer, freed(word)),
            READING => (Role::Consumer, put_back(word)),
            _ => return false,
        };
        let own_side = role == self.role;
        let mine = own_side && owner(word) == self.slot;
        let gone = mine || self.port.is_vacant(own_side, owner(word));
        gone && self.slots.look_at(place).replace(word, new).is_ok()
    }

    /// How many messages were sent, or received, before the one at `place`; comes round with laps.
    pub(super) fn position_of(&self, place: SlotPlace) -> u64 {
        let number = place.number() as u64;
        (place.lap() % LAPS).wrapping_mul(self.geometry.capacity).wrapping_add(number)
    }

    #[cold]
    pub(super) fn corrupt(&mut self) -> Corruption {
        self.corruption = Some(Corruption::Slot);
        self.port.condemn();
        Corruption::Slot
    }

    /// Whether a call that found nothing, and does not wait, may ask the kernel.
    pub(super) fn may_ask(&mut self) -> bool {
        self.tries = self.tries.wrapping_add(1);
        self.tries.is_multiple_of(TRIES_PER_QUESTION) && self.may_ask_now(PAUSE)
    }

    /// The same for one look of many in a wait.
    pub(super) fn may_ask_again(&mut self) -> bool {
        self.may_ask_now(PAUSE)
    }

    /// The same for one call of many that find what they want.
    pub(super) fn may_ask_at_work(&mut self) -> bool {
        self.tries = self.tries.wrapping_add(1);
        self.tries.is_multiple_of(TRIES_PER_QUESTION) && self.may_ask_now(PAUSE_AT_WORK)
    }

    fn may_ask_now(&mut self, pause: u64) -> bool {
        let now = monotonic_nanos_coarse();
        if now.wrapping_sub(self.asked_nanos) < pause {
            return false;
        }
        self.asked_nanos = now;
        true
    }

    /// Looks away if this end has caught up with a stream; whether it did.
    pub(super) fn look_away(&mut self) -> bool {
        let passed = self.port.stats.messages();
        let before = core::mem::replace(&mut self.passed, passed);
        // As long as can be: who polls the words that a producer is exchanging makes it wait for
        // their line at each of them.
        let bytes = 8192;
        self.port.look_away(passed.wrapping_sub(before), bytes)
    }

    /// One message has passed.
    #[inline(always)]
    pub(super) fn count(&mut self) {
        self.port.stats.passed(1, self.geometry.size as u64);
    }

    /// Wakes another end of the same role, if there is `something` for it to do too: this one was
    /// woken alone.
    pub(super) fn pass_on(&mut self, something: Seen) {
        let mut place = self.slots.place();
        if is_of(self.word_at(place), READING, self.slot) {
            place = self.slots.behind(place); // held, not yet received
        }
        if seen(self.word_at(place), place.lap()) == something {
            let (first, stride, count) = self.geometry.sleep_words(self.role);
            self.port.wake_mate(first, stride, count);
        }
    }
}

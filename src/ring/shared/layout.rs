//! The bytes of a shared ring: what a slot's word says, where slots and control words lie.
//!
//! Constants and pure functions; no access. A ring of zero bytes is an empty ring.
//!
//! # Layout
//!
//! Control words, aligned to 128, with P producers and C consumers:
//!
//! | offset | bytes | word | written by |
//! |---|---|---|---|
//! | 0 | 4 | a producer sleeps | producers; exchanged with 0 by consumers |
//! | 128 | 4 | a consumer sleeps | consumers; exchanged with 0 by producers |
//! | 256 + 128 i | 4 | sleep word of producer i, or of consumer i - P | that end; exchanged with 0 by others |
//! | 320 + 128 i | 8 | its unfenced word | that end |
//!
//! Payload: slots in groups of eight, each group a line of their words, then their messages, then
//! the rest of a line.
//!
//! The word: bits 0 and 1 the state, bits 2 to 9 the number of the end that writes or reads it,
//! bits 10 to 17 how often the message was put back, bits 18 to 63 the lap.
//!
//! There is no word for head and tail.

use crate::segment::endpoint::Role;
use crate::segment::progress::LINE;
pub(super) use crate::segment::progress::{SHARED_FULL, SHARED_READING, SHARED_STATE};
use crate::view::SlotShape;
use crate::wait::{Opposite, WaitWords};

/// The word that says that a producer sleeps.
pub(super) const PRODUCERS_SLEEP: usize = 0;
/// The word that says that a consumer sleeps.
pub(super) const CONSUMERS_SLEEP: usize = 128;
/// The control line of the first end, producers first.
pub(super) const ENDS: usize = 256;
/// The length of an end's control line, and the alignment of all.
pub(super) const ALIGN: usize = 128;
/// Its sleep word.
const SLEEP: usize = 0;
/// Its unfenced word.
const UNFENCED: usize = 64;
/// The most ends of one side.
pub(super) const ENDS_MAX: u32 = 255;
/// The most slots.
const CAPACITY_MAX: u64 = 1 << 47;

/// Where the sleep word of end number `slot` of a side lies.
const fn sleep_word(before: u32, slot: u32) -> usize {
    ENDS + (before + slot) as usize * ALIGN + SLEEP
}

/// What a ring is, as its directory entry says; checked, in private memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// The bytes of a message that this end uses.
    pub(super) size: usize,
    pub(super) shape: SlotShape,
    pub(super) capacity: u64,
    pub(super) producers: u32,
    pub(super) consumers: u32,
}

impl Geometry {
    /// A ring for `capacity` messages of up to `stride` bytes, of which `size` are used; `None` if
    /// that cannot be.
    pub(super) fn new(
        size: usize,
        stride: usize,
        capacity: u64,
        (producers, consumers): (u32, u32),
    ) -> Option<Self> {
        let ends = 1..=ENDS_MAX;
        let sound = size <= stride
            && (1..=CAPACITY_MAX).contains(&capacity)
            && ends.contains(&producers)
            && ends.contains(&consumers);
        let shape = SlotShape::new(stride).filter(|_| sound)?;
        let geometry = Self { size, shape, capacity, producers, consumers };
        isize::try_from(geometry.bytes()?).ok()?;
        Some(geometry)
    }

    fn bytes(&self) -> Option<usize> {
        self.shape.bytes(usize::try_from(self.capacity).ok()?)
    }

    /// The length of all slots.
    pub(super) fn payload_len(&self) -> usize {
        // `new` found that it is a number.
        self.bytes().unwrap_or(usize::MAX)
    }

    /// The length of the control words.
    pub(super) fn control_len(&self) -> usize {
        sleep_word(self.producers, self.consumers)
    }

    /// How many ends `role` has, and how many have their lines before them.
    fn side(&self, role: Role) -> (u32, u32) {
        match role {
            Role::Producer => (self.producers, 0),
            Role::Consumer => (self.consumers, self.producers),
        }
    }

    /// The sleep words of `role`: the first, from one to the next, how many.
    pub(super) fn sleep_words(&self, role: Role) -> (usize, usize, u32) {
        let (count, before) = self.side(role);
        (sleep_word(before, 0), ALIGN, count)
    }

    /// The words by which end number `slot` of `role` waits.
    pub(super) fn wait_words(&self, role: Role, slot: u32) -> WaitWords {
        let line = sleep_word(self.side(role).1, slot);
        let (own_side, side) = match role {
            Role::Producer => (PRODUCERS_SLEEP, CONSUMERS_SLEEP),
            Role::Consumer => (CONSUMERS_SLEEP, PRODUCERS_SLEEP),
        };
        let (first, stride, count) = self.sleep_words(role.other());
        WaitWords {
            own_sleep: line + SLEEP,
            own_unfenced: line + UNFENCED,
            own_side: Some(own_side),
            opposite: Opposite::Many { side, first, stride, count, one_is_enough: true },
        }
    }
}

const _: () = {
    assert!(CONSUMERS_SLEEP == ALIGN && ENDS == 2 * ALIGN);
    assert!(UNFENCED == LINE && UNFENCED + 8 <= ALIGN);
};

/// Nobody has the slot: its message of this lap is still to come.
pub(super) const FREE: u64 = 0;
/// A producer writes it.
pub(super) const WRITING: u64 = 1;
/// It waits to be received.
pub(super) const FULL: u64 = SHARED_FULL;
/// A consumer reads it.
pub(super) const READING: u64 = SHARED_READING;

const OWNER_SHIFT: u32 = 2;
const OWNER: u64 = 0xff << OWNER_SHIFT;
const TURN_SHIFT: u32 = 10;
/// The bits that count how often a message was put back.
pub(super) const TURN: u64 = 0xff << TURN_SHIFT;
const LAP_SHIFT: u32 = 18;
/// Laps come round after so many; private ones count on.
pub(super) const LAPS: u64 = 1 << (64 - LAP_SHIFT);

/// The word of a slot that is free for its message of `lap`.
#[inline(always)]
pub(super) const fn free(lap: u64) -> u64 {
    lap << LAP_SHIFT | FREE
}

/// The word of a slot that producer `owner` writes.
#[inline(always)]
pub(super) const fn writing(lap: u64, owner: u32) -> u64 {
    lap << LAP_SHIFT | (owner as u64) << OWNER_SHIFT | WRITING
}

/// The word of a slot whose message was never put back.
#[inline(always)]
pub(super) const fn full(lap: u64) -> u64 {
    lap << LAP_SHIFT | FULL
}

/// The word of a slot that was `full`, which consumer `owner` reads.
#[inline(always)]
pub(super) const fn reading(full: u64, owner: u32) -> u64 {
    full & !(OWNER | SHARED_STATE) | (owner as u64) << OWNER_SHIFT | READING
}

/// The word of a slot whose message was not received after all: of the word while it was read.
#[inline]
pub(super) const fn put_back(reading: u64) -> u64 {
    let turn = reading.wrapping_add(1 << TURN_SHIFT) & TURN;
    reading & !(OWNER | TURN | SHARED_STATE) | turn | FULL
}

/// The word of a slot whose message was received, or never was: of the word before.
#[inline(always)]
pub(super) const fn freed(word: u64) -> u64 {
    free(lap_of(word) + 1)
}

/// How often the message was put back.
#[inline]
pub(super) const fn turn(word: u64) -> u8 {
    (word >> TURN_SHIFT) as u8
}

/// The lap of a word.
#[inline]
pub(super) const fn lap_of(word: u64) -> u64 {
    word >> LAP_SHIFT
}

/// The end that a word names.
#[inline]
pub(super) const fn owner(word: u64) -> u32 {
    (word >> OWNER_SHIFT) as u8 as u32
}

/// Whether end number `slot` has the slot in `state`, of whatever lap.
pub(super) const fn is_of(word: u64, state: u64, slot: u32) -> bool {
    word & SHARED_STATE == state && owner(word) == slot
}

/// How many laps a word is ahead of `lap`, which may be negative.
#[inline(always)]
pub(super) const fn laps_ahead(word: u64, lap: u64) -> i64 {
    word.wrapping_sub(lap << LAP_SHIFT) as i64 >> LAP_SHIFT
}

/// What a slot's word says of the message at one position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It is still to come: its slot is free.
    Free,
    /// A producer writes it.
    Writing,
    /// It waits.
    Full,
    /// A consumer reads it.
    Reading,
    /// It was received, or never was.
    Gone,
    /// Its slot still holds the message of the lap before, in this state.
    Before(Held),
    /// No end stores this word, or not before this position was taken.
    Impossible,
}

/// In what state a slot is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    Writing,
    Full,
    Reading,
}

/// What `word` says of the message of `lap`, to an end that knows that the position before it was
/// taken.
#[inline]
pub(super) const fn seen(word: u64, lap: u64) -> Seen {
    let state = word & SHARED_STATE;
    let sound = match state {
        FREE => word & (OWNER | TURN) == 0,
        WRITING => word & TURN == 0,
        FULL => word & OWNER == 0,
        _ => true,
    };
    if !sound {
        return Seen::Impossible;
    }
    match (laps_ahead(word, lap), state) {
        (0, FREE) => Seen::Free,
        (0, WRITING) => Seen::Writing,
        (0, FULL) => Seen::Full,
        (0, _) => Seen::Reading,
        (-1, WRITING) => Seen::Before(Held::Writing),
        (-1, FULL) => Seen::Before(Held::Full),
        (-1, READING) => Seen::Before(Held::Reading),
        (1.., _) => Seen::Gone,
        _ => Seen::Impossible,
    }
}

impl Seen {
    /// Whether a producer has taken the position, which is so for good.
    #[inline]
    pub(super) const fn is_claimed(self) -> bool {
        matches!(self, Self::Writing | Self::Full | Self::Reading | Self::Gone)
    }

    /// Whether a consumer has taken it, which is so until it puts it back.
    #[inline]
    pub(super) const fn is_taken(self) -> bool {
        matches!(self, Self::Reading | Self::Gone)
    }
}

/// The lap of the last position in this slot that a producer has taken, of a word that is ahead of
/// `lap` or in it.
pub(super) const fn last_claimed(word: u64, lap: u64) -> u64 {
    let laps = laps_ahead(word, lap);
    let claimed = if word & SHARED_STATE == FREE { laps - 1 } else { laps };
    lap.wrapping_add_signed(claimed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_go_round_and_never_twice() {
        for lap in [0, 1, 5, LAPS - 1] {
            let mut seen = std::collections::HashSet::new();
            let mut word = free(lap);
            assert!(seen.insert(word));
            word = writing(lap, 254);
            assert!(seen.insert(word) && is_of(word, WRITING, 254) && !is_of(word, READING, 254));
            word = full(lap);
            for turn in 0..=255 {
                assert!(seen.insert(word) && super::turn(word) == turn);
                word = reading(word, 3);
                assert!(seen.insert(word) && is_of(word, READING, 3) && owner(word) == 3);
                assert_eq!(freed(word), free((lap + 1) % LAPS));
                word = put_back(word);
            }
            assert_eq!(word, full(lap), "the turns have come round");
        }
        assert_eq!(free(0), 0);
    }

    #[test]
    fn a_word_is_judged_by_its_distance_also_where_laps_come_round() {
        for lap in [1, 7, LAPS - 1, LAPS, LAPS + 1, 3 * LAPS] {
            assert_eq!(seen(free(lap), lap), Seen::Free);
            assert_eq!(seen(writing(lap, 9), lap), Seen::Writing);
            assert_eq!(seen(full(lap), lap), Seen::Full);
            assert_eq!(seen(put_back(reading(full(lap), 9)), lap), Seen::Full);
            assert_eq!(seen(reading(full(lap), 9), lap), Seen::Reading);
            for later in [1, 2, 1000] {
                for word in [free(lap + later), full(lap + later), writing(lap + later, 0)] {
                    assert_eq!(seen(word, lap), Seen::Gone);
                }
                assert_eq!(last_claimed(free(lap + later), lap), lap + later - 1);
                assert_eq!(last_claimed(full(lap + later), lap), lap + later);
            }
            assert_eq!(seen(full(lap - 1), lap), Seen::Before(Held::Full));
            assert_eq!(seen(writing(lap - 1, 2), lap), Seen::Before(Held::Writing));
            assert_eq!(seen(reading(full(lap - 1), 2), lap), Seen::Before(Held::Reading));
            for lie in [
                free(lap - 1),
                full(lap.wrapping_sub(2)),
                free(lap) | 4,
                free(lap) | 1 << TURN_SHIFT,
                writing(lap, 3) | 1 << TURN_SHIFT,
                full(lap) | 4,
            ] {
                assert_eq!(seen(lie, lap), Seen::Impossible, "{lie:#x}");
            }
        }
    }

    #[test]
    fn slots_of_any_size_have_room_and_impossible_ones_are_refused() {
        for size in 0..300_usize {
            let stride = size.max(1).next_multiple_of(8);
            let geometry = Geometry::new(size, stride, 11, (1, 1)).unwrap();
            assert_eq!(geometry.payload_len(), 2 * geometry.shape.group());
            assert!(geometry.shape.group() < 8 * (stride + 8) + LINE);
        }
        for (size, stride, capacity, ends) in [
            (9, 8, 1, (1, 1)),
            (8, 8, 0, (1, 1)),
            (8, 8, 1, (0, 1)),
            (8, 8, 1, (1, 256)),
            (8, 8, u64::MAX, (1, 1)),
            (8, 12, 1, (1, 1)),
            (8, usize::MAX - 7, 1, (1, 1)),
            (8, 8 << 40, 1 << 30, (1, 1)),
        ] {
            assert_eq!(Geometry::new(size, stride, capacity, ends), None);
        }
    }

    #[test]
    fn no_two_ends_share_a_line_of_control_words() {
        let geometry = Geometry::new(8, 8, 1, (3, 2)).unwrap();
        let mut lines = std::collections::BTreeSet::from([0, 1]);
        for (role, count) in [(Role::Producer, 3), (Role::Consumer, 2)] {
            let (first, stride, counted) = geometry.sleep_words(role);
            assert_eq!(counted, count);
            for slot in 0..count {
                let words = geometry.wait_words(role, slot);
                assert_eq!(words.own_sleep, first + slot as usize * stride);
                assert_eq!(words.own_sleep / ALIGN, words.own_unfenced / ALIGN);
                assert!(lines.insert(words.own_sleep / ALIGN));
                assert!(words.own_unfenced + 8 <= geometry.control_len());
            }
        }
        assert_eq!(geometry.control_len(), 7 * ALIGN);
    }

    #[test]
    fn the_layout_page_has_the_words_of_a_shared_ring() {
        let page = include_str!("../../../docs/LAYOUT.md");
        let section = page.split("## A shared ring's own words").nth(1).unwrap();
        let section = section.split("\n## ").next().unwrap();
        for (offset, bytes, by) in [
            (PRODUCERS_SLEEP.to_string(), 4, "both"),
            (CONSUMERS_SLEEP.to_string(), 4, "both"),
            (format!("{ENDS} + i * {ALIGN}"), 4, "both"),
            (format!("{} + i * {ALIGN}", ENDS + UNFENCED), 8, "that end"),
        ] {
            let row = format!("\n| {offset} | {bytes} | {by} |");
            assert!(section.contains(&row), "no row {row}");
        }
        for (state, name) in
            [(FREE, "free"), (WRITING, "writing"), (FULL, "full"), (READING, "reading")]
        {
            assert!(section.contains(&format!("{state} {name}")), "{name}");
        }
        for (first, last, what) in [
            (0, OWNER_SHIFT - 1, "state"),
            (OWNER_SHIFT, TURN_SHIFT - 1, "owner"),
            (TURN_SHIFT, LAP_SHIFT - 1, "turn"),
            (LAP_SHIFT, 63, "lap"),
        ] {
            assert!(section.contains(&format!("\n| {first} to {last} | {what} |")), "{what}");
        }
    }
}

//! One line of statistics per endpoint, written by its owner alone.
//!
//! The owner counts what is rare in private memory and stores the results with
//! relaxed stores; messages and bytes, which change with each message, have no
//! private copy, since a second line to write to would cost as much as the
//! message itself. Nothing depends on them: a peer that writes into the line
//! makes reports wrong and nothing else. Any process may read it at any time. Counters never go back: a successor goes on
//! from what its predecessor left. There is no lock, no reset and no history.
//!
//! # Layout
//!
//! 128 bytes, little-endian 64-bit words:
//!
//! | offset | word |
//! |---|---|
//! | 0 | messages; zero in typed rings and latest values, whose positions and versions tell |
//! | 8 | bytes; likewise |
//! | 16 | full |
//! | 24 | empty |
//! | 32 | drops |
//! | 40 | gaps |
//! | 48 | sleeps |
//! | 56 | wakes |
//! | 64 | high water |
//! | 72 | last activity, nanoseconds of `CLOCK_MONOTONIC` |
//! | 80 | reserved, written as zero |

use crate::sys::futex::monotonic_nanos_coarse;
use crate::view::{View, Word64};
use core::sync::atomic::Ordering::Relaxed;

/// The length of a statistics line in bytes.
pub(crate) const LINE_LEN: usize = 128;

const MESSAGES: usize = 0;
const BYTES: usize = 8;
const FULL: usize = 16;
const EMPTY: usize = 24;
const DROPS: usize = 32;
const GAPS: usize = 40;
const SLEEPS: usize = 48;
const WAKES: usize = 56;
const HIGH_WATER: usize = 64;
const LAST_ACTIVITY: usize = 72;
const _: () = assert!(LAST_ACTIVITY + 8 <= LINE_LEN);

/// The time is looked at once per this many messages, a power of two.
const TIME_EVERY: u64 = 4096;

/// What an endpoint counted, as read at one moment.
///
/// The words are read one after another while their owner may go on counting, so they need not
/// belong to the same instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Stats {
    /// Messages published (producer) or delivered (consumer).
    pub messages: u64,
    /// Payload bytes of these messages.
    pub bytes: u64,
    /// How often a producer found no room.
    pub full: u64,
    /// How often a consumer found nothing.
    pub empty: u64,
    /// Messages dropped because there was no room.
    pub drops: u64,
    /// Messages that were overwritten before they were read.
    pub gaps: u64,
    /// How often the endpoint went to sleep in the kernel.
    pub sleeps: u64,
    /// How often it woke its sleeping peer.
    pub wakes: u64,
    /// The most that was seen waiting in the ring, in messages or bytes as the ring counts.
    ///
    /// The producer looks when it must ask for the consumer's position, so this is a sample and
    /// no exact maximum.
    pub high_water: u64,
    /// When the endpoint was last seen active, in nanoseconds of `CLOCK_MONOTONIC`; refreshed
    /// when it waits and every few thousand messages. 0 = never.
    pub last_activity_nanos: u64,
}

impl Stats {
    /// Reads the line that `view` shows.
    pub(crate) fn read(view: &View) -> Self {
        let word = |offset| view.load64(offset, Relaxed);
        Self {
            messages: word(MESSAGES),
            bytes: word(BYTES),
            full: word(FULL),
            empty: word(EMPTY),
            drops: word(DROPS),
            gaps: word(GAPS),
            sleeps: word(SLEEPS),
            wakes: word(WAKES),
            high_water: word(HIGH_WATER),
            last_activity_nanos: word(LAST_ACTIVITY),
        }
    }

    /// The same, of an end whose position counts messages of `unit` bytes each: such ends store
    /// neither messages nor bytes, since their positions tell.
    pub(crate) fn at_position(mut self, position: u64, unit: u64) -> Self {
        self.messages = position;
        self.bytes = position.wrapping_mul(unit);
        self
    }
}

/// The owner's side of a statistics line.
#[derive(Debug)]
pub(crate) struct StatsWriter {
    counted: Stats,
    /// The two words that each message changes.
    messages: Word64,
    bytes: Word64,
    view: View,
}

impl StatsWriter {
    /// Goes on with the line that `view` shows; `None` if the window is too short or read-only.
    pub(crate) fn attach(view: View) -> Option<Self> {
        if view.len() < LINE_LEN || !view.writable() {
            return None;
        }
        let (messages, bytes) = (view.find64(MESSAGES)?, view.find64(BYTES)?);
        let mut writer = Self { counted: Stats::read(&view), messages, bytes, view };
        writer.active();
        Some(writer)
    }

    /// What was counted up to now.
    pub(crate) fn get(&self) -> Stats {
        let (messages, bytes) = (self.messages.load(Relaxed), self.bytes.load(Relaxed));
        Stats { messages, bytes, ..self.counted }
    }

    /// How many messages passed up to now.
    pub(crate) fn messages(&self) -> u64 {
        self.messages.load(Relaxed)
    }

    #[inline]
    fn put(&self, offset: usize, value: u64) {
        self.view.word64(offset).store(value, Relaxed);
    }

    /// `messages` more messages with `bytes` bytes of payload.
    #[inline(always)]
    pub(crate) fn passed(&mut self, messages: u64, bytes: u64) {
        if cfg!(hugeshm_no_statistics) {
            return; // for a benchmark of what the rest of this function costs
        }
        let before = self.messages.load(Relaxed);
        let after = before.wrapping_add(messages);
        self.messages.store(after, Relaxed);
        self.bytes.store(self.bytes.load(Relaxed).wrapping_add(bytes), Relaxed);
        if (before ^ after) >= TIME_EVERY {
            self.active();
        }
    }

    /// An end whose position counts messages has gone on from `before` to `position`.
    ///
    /// Stores nothing but the time, now and then: whoever reads the line knows the positions.
    #[inline(always)]
    pub(crate) fn went_on(&mut self, before: u64, position: u64) {
        if (before ^ position) >= TIME_EVERY {
            self.active();
        }
    }

    /// The ring was found full.
    #[inline]
    pub(crate) fn full(&mut self) {
        self.counted.full = self.counted.full.wrapping_add(1);
        self.put(FULL, self.counted.full);
    }

    /// The ring was found empty.
    #[inline]
    pub(crate) fn empty(&mut self) {
        self.counted.empty = self.counted.empty.wrapping_add(1);
        self.put(EMPTY, self.counted.empty);
    }

    /// `count` messages were dropped for want of room.
    pub(crate) fn dropped(&mut self, count: u64) {
        self.counted.drops = self.counted.drops.wrapping_add(count);
        self.put(DROPS, self.counted.drops);
    }

    /// `count` messages were overwritten before they were read.
    pub(crate) fn missed(&mut self, count: u64) {
        self.counted.gaps = self.counted.gaps.wrapping_add(count);
        self.put(GAPS, self.counted.gaps);
    }

    /// So many messages passed up to now, by what the ring itself says.
    pub(crate) fn set_messages(&mut self, messages: u64) {
        self.messages.store(messages, Relaxed);
    }

    /// The endpoint goes to sleep.
    pub(crate) fn sleeps(&mut self) {
        self.counted.sleeps = self.counted.sleeps.wrapping_add(1);
        self.put(SLEEPS, self.counted.sleeps);
        self.active();
    }

    /// The endpoint woke its peer.
    pub(crate) fn wakes(&mut self) {
        self.counted.wakes = self.counted.wakes.wrapping_add(1);
        self.put(WAKES, self.counted.wakes);
    }

    /// `waiting` messages or bytes were seen in the ring.
    #[inline]
    pub(crate) fn high_water(&mut self, waiting: u64) {
        if waiting > self.counted.high_water {
            self.counted.high_water = waiting;
            self.put(HIGH_WATER, waiting);
        }
    }

    /// The endpoint is alive and at work, now.
    #[cold]
    #[inline(never)]
    pub(crate) fn active(&mut self) {
        self.counted.last_activity_nanos = monotonic_nanos_coarse();
        self.put(LAST_ACTIVITY, self.counted.last_activity_nanos);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_sees_what_the_owner_counted_and_a_successor_goes_on() {
        let view = View::heap(LINE_LEN);
        let mut writer = StatsWriter::attach(view.clone()).unwrap();
        writer.passed(3, 24);
        writer.full();
        writer.empty();
        writer.empty();
        writer.dropped(5);
        writer.sleeps();
        writer.wakes();
        writer.high_water(9);
        writer.high_water(4);
        let seen = Stats::read(&view);
        assert_eq!(seen, writer.get());
        assert_eq!((seen.messages, seen.bytes, seen.full, seen.empty), (3, 24, 1, 2));
        assert_eq!((seen.drops, seen.gaps, seen.sleeps, seen.wakes), (5, 0, 1, 1));
        assert_eq!(seen.high_water, 9);
        assert!(seen.last_activity_nanos > 0);
        drop(writer);
        let mut successor = StatsWriter::attach(view.clone()).unwrap();
        successor.passed(1, 8);
        assert_eq!(Stats::read(&view).messages, 4);
    }

    #[test]
    fn hostile_counters_do_not_stop_the_owner() {
        let view = View::of(&[0xff; LINE_LEN]);
        let mut writer = StatsWriter::attach(view.clone()).unwrap();
        writer.passed(2, 3);
        writer.full();
        writer.high_water(1);
        assert_eq!(Stats::read(&view).messages, 1);
        assert_eq!(Stats::read(&view).bytes, 2);
    }

    #[test]
    fn a_read_only_or_short_line_has_no_writer() {
        assert!(StatsWriter::attach(View::heap_read_only(LINE_LEN)).is_none());
        assert!(StatsWriter::attach(View::heap(LINE_LEN - 8)).is_none());
    }
}

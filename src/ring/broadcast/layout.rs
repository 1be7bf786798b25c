//! The bytes of a broadcast ring, and the arithmetic of what it keeps.
//!
//! Constants and pure functions; no access. The version of this layout is the
//! segment's. A ring of zero bytes is an empty ring.
//!
//! # Layout
//!
//! Control words, aligned to 128:
//!
//! | offset | bytes | word | written by |
//! |---|---|---|---|
//! | 0 | 8 | swept: what is kept begins `total` before this position | producer |
//! | 8 | 8 | promised: no less than swept; read by consumers that join a lossless ring | producer |
//! | 16 | 8 | start (typed): a position that was committed before the last sweep | producer |
//! | 128 | 4 | producer sleep: 1 = asleep on this word, or about to be; 2 = in `poll` | producer; exchanged with 0 by consumers |
//! | 136 | 8 | producer unfenced: 1 = it leaves its fences to the sleeper's barrier | producer, at attach and around wakes |
//! | 256 | 4 | sleepers: 1 = some consumer sleeps | consumers; exchanged with 0 by the producer |
//! | 384 + i * 128 | 128 | consumer i | consumer i |
//! | behind them | 1024 | marks (records): 64 of 16 bytes | producer |
//!
//! Consumer:
//!
//! | offset | bytes | word |
//! |---|---|---|
//! | 0 | 8 | position: all before it was received or missed |
//! | 8 | 8 | number (records): how many messages that are |
//! | 16 | 4 | sleep; exchanged with 0 by the producer |
//! | 24 | 8 | unfenced |
//! | 32 | 8 | required: 1 = the producer of a lossless ring waits for it |
//! | 40 | 8 | skipped: how many messages before it were not received |
//! | 48 | 8 | tenure: the epoch of the endpoint that wrote this |
//!
//! Mark number s mod 64 belongs to section s, a part of the positions from s times
//! the section's length on:
//!
//! | offset | bytes | word |
//! |---|---|---|
//! | 0 | 8 | position where a record begins, before or at the section's beginning |
//! | 8 | 8 | how many records there are before it |
//!
//! The payload is that of a typed ring or of a record ring, `total` positions long.

use crate::ring::position::{RecordGeometry, SlotGeometry};
use crate::segment::progress;
use crate::size::align_up;

/// Up to where the producer has given up what was there before.
pub(crate) const SWEPT: usize = 0;
/// Up to where it may do so.
pub(crate) const PROMISED: usize = 8;
/// A committed position to begin a walk at.
pub(crate) const START: usize = progress::START;
/// The producer's sleep word.
pub(crate) const PRODUCER_SLEEP: usize = 128;
/// Whether the producer leaves its fences to the sleepers.
pub(crate) const PRODUCER_UNFENCED: usize = 136;
/// The word that says that some consumer sleeps.
pub(crate) const SLEEPERS: usize = 256;
/// The words of the first consumer.
pub(crate) const CONSUMERS: usize = progress::CONSUMERS;
/// The words of one consumer.
pub(crate) const CONSUMER_LEN: usize = progress::CONSUMER_LEN;
/// A consumer's position.
pub(crate) const POSITION: usize = progress::POSITION;
/// How many messages that are, in a ring of records.
pub(crate) const NUMBER: usize = progress::NUMBER;
/// Its sleep word.
pub(crate) const SLEEP: usize = 16;
/// Whether it leaves its fences to the sleeping producer.
pub(crate) const UNFENCED: usize = 24;
/// Whether the producer waits for it.
pub(crate) const REQUIRED: usize = 32;
/// How many messages before its position it did not receive.
pub(crate) const SKIPPED: usize = progress::SKIPPED;
/// Who wrote these words.
pub(crate) const TENURE: usize = 48;
/// The length of a mark.
pub(crate) const MARK_LEN: usize = 16;
/// How many marks there are: twice as many as sections, so that one is written when nobody
/// reads it.
pub(crate) const MARKS: u64 = 64;
/// How many sections a ring of records has.
const SECTIONS: u64 = MARKS / 2;
/// How many consumers there may be at most.
pub(crate) const CONSUMERS_MAX: u32 = 255;
/// How many there may be if nobody says otherwise.
pub(crate) const CONSUMERS_USUAL: u32 = 16;

const _: () = {
    assert!(CONSUMERS == 3 * 128 && CONSUMER_LEN == 128 && SLEEPERS + 128 == CONSUMERS);
    assert!(PRODUCER_SLEEP == 128 && START == 16 && TENURE + 8 <= CONSUMER_LEN);
};

/// Where the words of consumer number `slot` begin.
pub(crate) const fn consumer(slot: u32) -> usize {
    CONSUMERS + slot as usize * CONSUMER_LEN
}

/// The length of the control words without marks.
pub(crate) const fn words_len(consumers: u32) -> usize {
    consumer(consumers)
}

/// How a broadcast ring gives up what it kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keeping {
    /// How many positions there are places for.
    pub total: u64,
    /// By how many positions at a time the oldest are given up.
    pub section: u64,
    /// The same, at least and as a divisor.
    pub granule: u64,
    /// How many positions one sweep can ask for.
    pub need_max: u64,
    /// How many consumers there may be.
    pub consumers: u32,
    /// Whether required consumers are waited for.
    pub lossless: bool,
}

impl Keeping {
    /// For messages of `size` bytes, of which the last `capacity` are kept.
    pub(crate) fn of_slots(
        size: usize,
        capacity: u64,
        consumers: u32,
        lossless: bool,
    ) -> Option<(Self, SlotGeometry)> {
        let per_block = SlotGeometry::new(size, 1)?.per_block();
        let blocks = capacity.div_ceil(per_block);
        // One more section than is kept: the one that is being filled.
        let section = (blocks / 8).max(1);
        let geometry = SlotGeometry::with_blocks(size, capacity, blocks.checked_add(section)?)?;
        let keeping = Self {
            total: geometry.blocks() * per_block,
            section: section * per_block,
            granule: per_block,
            need_max: capacity,
            consumers,
            lossless,
        };
        Some((keeping, geometry))
    }

    /// For records in a ring of `capacity` bytes, a multiple of what [`records_capacity`] says.
    ///
    /// [`records_capacity`]: Self::records_capacity
    pub(crate) fn of_records(
        capacity: u64,
        payload_align: u64,
        user_header: u64,
        consumers: u32,
        lossless: bool,
    ) -> Option<(Self, RecordGeometry)> {
        if !capacity.is_multiple_of(SECTIONS * 8) {
            return None;
        }
        let need_max = capacity / 2;
        // With the padding before it, which is shorter than itself, and the word behind it.
        let span_max = need_max.checked_sub(8)? / 2;
        let len_max = (span_max & !7).checked_sub(8 + user_header + payload_align)?;
        let geometry = RecordGeometry::new(capacity, payload_align, user_header)?;
        let geometry = geometry.limited_to(len_max);
        let section = capacity / SECTIONS;
        let keeping = Self { total: capacity, section, granule: 8, need_max, consumers, lossless };
        Some((keeping, geometry))
    }

    /// The least capacity of at least `bytes` bytes that a ring of records can have.
    pub(crate) fn records_capacity(bytes: u64, payload_align: u64) -> Option<u64> {
        align_up(bytes, (SECTIONS * 8).max(payload_align))
    }

    /// The oldest position that is kept when the ring is swept up to `swept`.
    #[inline]
    pub(crate) const fn oldest(&self, swept: u64) -> u64 {
        swept.saturating_sub(self.total)
    }

    /// Whether what was at `position` may have been given up when the ring was swept up to `swept`.
    #[inline]
    pub(crate) const fn is_gone(&self, position: u64, swept: u64) -> bool {
        position < self.oldest(swept)
    }

    /// Where the mark of `section` lies behind the consumers' words.
    pub(crate) const fn mark(&self, section: u64) -> usize {
        words_len(self.consumers) + (section % MARKS) as usize * MARK_LEN
    }

    /// Whether a mark with this position and number can be that of `section`, and not of an
    /// earlier lap.
    pub(crate) const fn is_mark_of(&self, section: u64, position: u64, number: u64) -> bool {
        let begin = section * self.section;
        position <= begin
            && begin - position <= self.need_max + self.section
            && position.is_multiple_of(self.granule)
            && number <= position / self.granule
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_page_has_the_words_of_a_broadcast_ring() {
        let page = include_str!("../../../docs/LAYOUT.md");
        let section = page.split("## A broadcast ring's own words").nth(1).unwrap();
        let section = section.split("\n## ").next().unwrap();
        for line in [
            format!("\n{CONSUMERS} bytes behind the endpoint table, then {CONSUMER_LEN} for each"),
            format!("ring of records {} bytes of\nmarks", MARKS as usize * MARK_LEN),
            format!("\n| {SWEPT} | 8 | producer | swept:"),
            format!("\n| {PROMISED} | 8 | producer | promised:"),
            format!("\n| {START} | 8 | producer | start (typed):"),
            format!("\n| {PRODUCER_SLEEP} | 4 | both | the producer sleeps"),
            format!("\n| {PRODUCER_UNFENCED} | 8 | producer | 1 if it leaves"),
            format!("\n| {SLEEPERS} | 4 | both | 1 if some consumer sleeps |"),
            format!("from {CONSUMERS} + i * {CONSUMER_LEN} on"),
            format!("\n| {POSITION} | 8 | consumer | position:"),
            format!("\n| {NUMBER} | 8 | consumer | number (records):"),
            format!("\n| {SLEEP} | 4 | both | the consumer sleeps"),
            format!("\n| {UNFENCED} | 8 | consumer | 1 if it leaves"),
            format!("\n| {REQUIRED} | 8 | consumer | 1 if the producer"),
            format!("\n| {SKIPPED} | 8 | consumer | how many messages"),
            format!("\n| {TENURE} | 8 | consumer | tenure:"),
            format!("has {SECTIONS} sections"),
            format!("number s mod {MARKS} behind"),
        ] {
            assert!(section.contains(&line), "no {line:?}");
        }
    }

    #[test]
    fn what_is_kept_and_swept_fits_into_the_ring() {
        for size in [0, 8, 24, 56, 64, 100, 512, 1000] {
            for capacity in (1..100).chain([1000, 4096, 65_536]) {
                let (keeping, geometry) = Keeping::of_slots(size, capacity, 1, false).unwrap();
                assert_eq!(keeping.total, geometry.blocks() * geometry.per_block());
                assert!(keeping.section.is_multiple_of(keeping.granule));
                // A batch of all messages ends inside of what a sweep from anywhere can give.
                for position in 0..3 * keeping.section {
                    let target = (position + capacity).next_multiple_of(keeping.section);
                    let block = position / keeping.granule * keeping.granule;
                    assert!(target - block <= keeping.total);
                    let one = (position + 1).next_multiple_of(keeping.section);
                    assert!(keeping.total - (one - position) >= capacity - 1);
                }
            }
        }
        for bytes in (256..20_000).step_by(256) {
            for (align, header) in [(8, 0), (64, 0), (64, 64), (256, 8)] {
                let capacity = Keeping::records_capacity(bytes, align).unwrap();
                let found = Keeping::of_records(capacity, align, header, 1, false);
                let Some((keeping, geometry)) = found else { continue };
                assert_eq!(keeping.section * SECTIONS, keeping.total);
                for offset in (0..capacity).step_by(8) {
                    let span = geometry.place(offset, geometry.len_max()).span;
                    assert!(span + 8 <= keeping.need_max, "{bytes} {align} {header}");
                }
            }
        }
    }
}

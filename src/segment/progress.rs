//! How typed rings are divided, and how far they and latest values have come, as an observer sees it.
//!
//! The ends of a typed ring, of which lanes are many, store no counters: the consumer's released position
//! and the header words of the blocks say how many messages were ever sent and
//! received. The stamp of a latest value counts its versions. The ends of a shared
//! ring count for themselves; what waits in it is told by the words of its slots. This file knows
//! these words, and `ring` and `latest` take them from here. Everything is read
//! while others may go on, and may be a lie: the answer is a number, never an
//! access outside.

use crate::view::{BlockShape, SlotShape, View};
use core::sync::atomic::Ordering::{Acquire, Relaxed};

/// Where a ring's control words hold the consumer's released position.
pub(crate) const RELEASED: usize = 128;

/// Where a broadcast ring's control words hold a position that was committed.
pub(crate) const START: usize = 16;
/// Where they hold the words of the first consumer, and how long those are.
pub(crate) const CONSUMERS: usize = 384;
pub(crate) const CONSUMER_LEN: usize = 128;
/// Where a consumer's words hold its position, in a ring of records the number of the next one,
/// and how many messages before it were not received.
pub(crate) const POSITION: usize = 0;
pub(crate) const NUMBER: usize = 8;
pub(crate) const SKIPPED: usize = 40;
/// Where the words of the first of many lanes begin.
pub(crate) const LANES_FRONT: usize = 384;
/// From the words of one lane to those of the next.
pub(crate) const LANE_WORDS: usize = 384;
/// In a lane's released word: its consumer found the lane corrupt and takes nothing from it.
pub(crate) const LEFT_OUT: u64 = 1 << 63;

/// From the blocks of one lane to those of the next, where they have `bytes` bytes: an odd number
/// of pairs of lines.
pub(crate) const fn lane_stride(bytes: usize) -> Option<usize> {
    (bytes.div_ceil(2 * LINE) | 1).checked_mul(2 * LINE)
}

/// The bytes of a cache line.
pub(crate) const LINE: usize = 64;
/// What a line has room for behind its header word.
const ROOM: usize = LINE - 8;
/// About how many bytes of messages share a header word that has a line of its own.
const SHARED: usize = 512;
/// The bits of a header word that count messages.
const COUNT_BITS: u32 = 4;

/// The block of a ring whose messages lie `stride` bytes apart; `None` if none has that stride.
///
/// Up to 7 small messages share a line with their header word. A larger one has lines of its own
/// and the header word in front of it, unless that took one more line: then up to 8 messages
/// share a header word in the line before them.
pub(crate) const fn block_shape(stride: usize) -> Option<BlockShape> {
    if stride == 0 || !stride.is_multiple_of(8) || stride > isize::MAX as usize - 2 * LINE {
        return None;
    }
    if stride.is_multiple_of(LINE) {
        let count = if stride < SHARED { SHARED / stride } else { 1 };
        return Some(BlockShape { first: LINE, stride, count, bytes: LINE + count * stride });
    }
    let count = if stride <= ROOM { ROOM / stride } else { 1 };
    Some(BlockShape { first: 8, stride, count, bytes: (8 + stride).next_multiple_of(LINE) })
}

/// How many blocks a ring of `capacity` messages has: enough for a producer who enters a block
/// only when all of it was received.
pub(crate) const fn block_count(capacity: u64, shape: &BlockShape) -> u64 {
    capacity.saturating_add(shape.count as u64 - 1).div_ceil(shape.count as u64)
}

/// The header word of a block that holds its first `count` messages of lap `lap`.
#[inline]
pub(crate) const fn header_word(lap: u64, count: u64) -> u64 {
    ((lap + 1) << COUNT_BITS) | count
}

/// How many messages of lap `lap` a header word counts; `None` if it is not of that lap.
#[inline(always)]
pub(crate) const fn count_in(word: u64, lap: u64) -> Option<u64> {
    if word >> COUNT_BITS == lap + 1 { Some(word & ((1 << COUNT_BITS) - 1)) } else { None }
}

/// The bits of a shared ring's slot word that hold its state.
pub(crate) const SHARED_STATE: u64 = 3;
/// The state of a slot whose message waits.
pub(crate) const SHARED_FULL: u64 = 2;
/// The state of a slot whose message is being read.
pub(crate) const SHARED_READING: u64 = 3;

/// How many messages wait in a shared ring or are being read; looks at the word of each slot.
/// `None` where the window holds no such ring.
pub(crate) fn waiting_in_shared(payload: &View, stride: u64, capacity: u64) -> Option<u64> {
    let shape = SlotShape::new(usize::try_from(stride).ok()?)?;
    let capacity = usize::try_from(capacity).ok()?;
    if shape.bytes(capacity)? > payload.len() {
        return None;
    }
    let waits = |slot: &usize| {
        let word = payload.load64(shape.word(*slot), Relaxed);
        matches!(word & SHARED_STATE, SHARED_FULL | SHARED_READING)
    };
    Some((0..capacity).filter(waits).count() as u64)
}

/// Where a latest value's payload holds the stamp of the newest version.
pub(crate) const NEWEST: usize = 0;
/// Where its control words hold the words of the first watcher, and how long those are.
pub(crate) const WATCHERS: usize = 256;
pub(crate) const WATCHER_LEN: usize = 128;
/// Where a watcher's words hold the version that it has read.
pub(crate) const SEEN: usize = 0;

/// How many versions there were when a latest value's stamp was stored.
#[inline]
pub(crate) const fn version_of(stamp: u64) -> u64 {
    stamp >> 1
}

/// How many messages passed each end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    pub sent: u64,
    pub received: u64,
}

/// Looks at one header word for each block of waiting messages; `None` where the windows hold no such ring.
pub(crate) fn of_ring(
    words: &View,
    payload: &View,
    stride: u64,
    capacity: u64,
) -> Option<Progress> {
    let sound = words.len() >= RELEASED + 8;
    sound.then(|| of_blocks(words.load64(RELEASED, Acquire), payload, stride, capacity)).flatten()
}

/// The same for lane number `lane` of many.
pub(crate) fn of_lane(
    words: &View,
    payload: &View,
    stride: u64,
    capacity: u64,
    lane: u32,
) -> Option<Progress> {
    let shape = block_shape(usize::try_from(stride).ok()?)?;
    let bytes = block_count(capacity, &shape).checked_mul(shape.bytes as u64)?;
    let bytes = usize::try_from(bytes).ok()?;
    let lane = lane as usize;
    let words = words.window(LANES_FRONT + lane * LANE_WORDS, LANE_WORDS)?;
    let payload = payload.window(lane_stride(bytes)?.checked_mul(lane)?, bytes)?;
    of_blocks(words.load64(RELEASED, Acquire) & !LEFT_OUT, &payload, stride, capacity)
}

/// The same, from what was received and the blocks.
fn of_blocks(received: u64, payload: &View, stride: u64, capacity: u64) -> Option<Progress> {
    let shape = block_shape(usize::try_from(stride).ok()?)?;
    let (count, blocks) = (shape.count as u64, block_count(capacity, &shape));
    let bytes = blocks.checked_mul(shape.bytes as u64)?;
    if capacity == 0 || bytes > payload.len() as u64 {
        return None;
    }
    let first = received / count;
    received.checked_add(capacity)?;
    first.checked_add(blocks)?.checked_mul(count)?;
    // Blocks behind us are written anew while we look: one of a later lap was full in this one.
    let filled = |ahead: u64| {
        let block = first + ahead;
        let word = payload.load64((block % blocks) as usize * shape.bytes, Relaxed);
        let lap = block / blocks;
        match (word >> COUNT_BITS).checked_sub(lap + 1) {
            None => 0,
            Some(0) => (word & ((1 << COUNT_BITS) - 1)).min(count),
            Some(_) => count,
        }
    };
    // Header words behind one that is not full may be those of a batch that was never finished.
    let mut sent = first * count;
    for ahead in 0..blocks {
        let filled = filled(ahead);
        sent += filled;
        if filled < count {
            break;
        }
    }
    Some(Progress { sent: sent.clamp(received, received + capacity), received })
}

/// How many messages were ever sent through a typed broadcast ring, whose payload is all blocks;
/// `None` where the windows hold no such ring. Looks at some of the header words.
pub(crate) fn sent_to_many(words: &View, payload: &View, stride: u64) -> Option<u64> {
    let shape = block_shape(usize::try_from(stride).ok()?)?;
    let (count, blocks) = (shape.count as u64, (payload.len() / shape.bytes) as u64);
    if words.len() < START + 8 || blocks == 0 {
        return None;
    }
    let start = words.load64(START, Acquire);
    let first = start / count;
    first.checked_add(blocks)?.checked_mul(count)?;
    let mut sent = first * count;
    for block in first..first + blocks {
        let word = payload.load64((block % blocks) as usize * shape.bytes, Acquire);
        let filled = count_in(word, block / blocks).unwrap_or(0).min(count);
        sent += filled;
        if filled < count {
            break;
        }
    }
    Some(sent.max(start))
}

/// Up to which message a consumer of a broadcast ring has come, and how many of those before it
/// were received in its place; of records, if they have numbers.
pub(crate) fn of_consumer(words: &View, slot: u32, numbered: bool) -> Option<(u64, u64)> {
    let at = CONSUMERS + slot as usize * CONSUMER_LEN;
    if words.len() < at + CONSUMER_LEN {
        return None;
    }
    let come = words.load64(at + if numbered { NUMBER } else { POSITION }, Acquire);
    let skipped = words.load64(at + SKIPPED, Relaxed);
    Some((come, come.wrapping_sub(skipped)))
}

/// The writes of a latest value; `None` where the window holds none. Its readers leave no trace.
pub(crate) fn of_versions(payload: &View) -> Option<u64> {
    let sound = payload.len() >= NEWEST + 8;
    sound.then(|| version_of(payload.load64(NEWEST, Acquire)))
}

/// The version that a watcher of a latest value has read last.
pub(crate) fn of_watcher(words: &View, slot: u32) -> Option<u64> {
    let at = WATCHERS + slot as usize * WATCHER_LEN;
    let sound = words.len() >= at + WATCHER_LEN;
    sound.then(|| words.load64(at + SEEN, Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_is_sound_and_wastes_little() {
        for stride in (0..5000).step_by(4) {
            let Some(shape) = block_shape(stride) else {
                assert!(stride % 8 != 0 || stride == 0);
                continue;
            };
            assert!(shape.count >= 1 && shape.count < 1 << COUNT_BITS);
            assert!(shape.first + shape.count * shape.stride <= shape.bytes);
            assert!(shape.bytes.is_multiple_of(LINE));
            assert!(shape.bytes < 2 * shape.count * shape.stride + LINE);
        }
        assert_eq!((block_shape(usize::MAX - 63), block_shape(usize::MAX - 7)), (None, None));
    }

    #[test]
    fn headers_and_the_released_position_tell_what_passed() {
        for stride in [8, 24, 32, 56, 64, 72, 128, 512] {
            for capacity in 1..12_u64 {
                let shape = block_shape(stride).unwrap();
                let (count, blocks) = (shape.count as u64, block_count(capacity, &shape));
                for received in 0..40 {
                    for waiting in 0..=capacity {
                        let sent = received + waiting;
                        let words = View::heap(512);
                        let payload = View::heap(blocks as usize * shape.bytes);
                        words.store64(RELEASED, received, Relaxed);
                        for block in 0..sent.div_ceil(count) {
                            let place = (block % blocks) as usize * shape.bytes;
                            let filled = (sent - block * count).min(count);
                            payload.store64(place, header_word(block / blocks, filled), Relaxed);
                        }
                        let seen = of_ring(&words, &payload, stride as u64, capacity);
                        assert_eq!(seen, Some(Progress { sent, received }));
                    }
                }
            }
        }
    }

    #[test]
    fn a_batch_that_was_never_finished_does_not_count() {
        let (words, payload) = (View::heap(512), View::heap(64 * 10));
        payload.store64(0, header_word(0, 3), Relaxed);
        for block in 1..4 {
            payload.store64(block * 64, header_word(0, 7), Relaxed);
        }
        let seen = of_ring(&words, &payload, 8, 64);
        assert_eq!(seen, Some(Progress { sent: 3, received: 0 }));
    }

    #[test]
    fn each_lane_has_its_own_progress_and_lies_stay_inside() {
        let stride = lane_stride(64 * 10).unwrap();
        let (words, payload) = (View::heap(LANES_FRONT + 3 * LANE_WORDS), View::heap(3 * stride));
        for lane in 0..3 {
            let received = (LANES_FRONT + lane * LANE_WORDS) + RELEASED;
            words.store64(received, lane as u64 | if lane == 2 { LEFT_OUT } else { 0 }, Relaxed);
            payload.store64(lane * stride, header_word(0, 2 * lane as u64), Relaxed);
        }
        for lane in 0..3 {
            let seen = of_lane(&words, &payload, 8, 64, lane).unwrap();
            let lane = u64::from(lane);
            assert_eq!(seen, Progress { sent: 2 * lane, received: lane });
        }
        for lane in [3, 255, u32::MAX] {
            assert_eq!(of_lane(&words, &payload, 8, 64, lane), None);
        }
        for (stride, capacity) in [(8, 0), (8, 1 << 50), (0, 4), (8, u64::MAX)] {
            assert_eq!(of_lane(&words, &payload, stride, capacity, 1), None);
        }
        words.store64(LANES_FRONT + RELEASED, u64::MAX, Relaxed);
        let seen = of_lane(&words, &payload, 8, 64, 0).unwrap();
        assert!(seen.sent - seen.received <= 64);
    }

    #[test]
    fn lies_give_a_number_or_nothing() {
        for released in [0, 5, u64::MAX / 2, u64::MAX - 8, u64::MAX] {
            for word in [0, 1, 7, 31, 1 << 4, u64::MAX] {
                let (words, payload) = (View::heap(512), View::heap(256));
                words.store64(RELEASED, released, Relaxed);
                (0..32).for_each(|at| payload.store64(at * 8, word, Relaxed));
                for (stride, capacity) in [(8, 22), (16, 10), (56, 4), (64, 1)] {
                    if let Some(seen) = of_ring(&words, &payload, stride, capacity) {
                        assert!(seen.sent - seen.received <= capacity);
                    }
                }
                for (stride, capacity) in [(8, 0), (8, 90), (0, 4), (12, 4), (8, u64::MAX)] {
                    assert_eq!(of_ring(&words, &payload, stride, capacity), None);
                }
            }
        }
    }
}

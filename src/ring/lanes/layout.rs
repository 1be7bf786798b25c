//! The bytes of lanes: where the words of all and of each lie, and where a lane's messages begin.
//!
//! Constants and arithmetic only. The words that an observer needs are taken from
//! `segment::progress`.
//!
//! # Layout
//!
//! | offset | bytes | word | written by |
//! |---|---|---|---|
//! | 0 | 4 | the consumer sleeps | consumer; exchanged with 0 by a producer |
//! | 128 | 4 | a producer sleeps | producers; exchanged with 0 by the consumer that leaves |
//! | 256 | 8 | consumer unfenced | consumer |
//! | 384 + 384 k | 384 | words of lane k | |
//!
//! Words of a lane:
//!
//! | offset | bytes | word | written by |
//! |---|---|---|---|
//! | 0 | 8 | reserved | producer |
//! | 8 | 8 | producer unfenced | producer |
//! | 128 | 8 | bits 0-62 released; bit 63: the lane was left out | consumer |
//! | 256 | 4 | the producer sleeps | producer; exchanged with 0 by the consumer |
//!
//! The blocks of lane k begin `stride` times k bytes into the payload. The stride is an odd number
//! of 128 bytes, as is that of the words: where all lanes stand at the same block, which is what
//! idle ones do, their lines do not compete for the same few places of a cache.

use crate::ring::error::AttachError;
use crate::ring::layout::CONTROL_ALIGN;
use crate::ring::position::SlotGeometry;
pub(super) use crate::segment::progress::{LANE_WORDS, LANES_FRONT, LEFT_OUT, lane_stride};
use crate::view::View;

/// The consumer's sleep word.
pub(super) const CONSUMER_SLEEP: usize = 0;
/// Says that some producer sleeps.
pub(super) const PRODUCERS_SLEEP: usize = 128;
/// Whether the consumer leaves its fences to the sleeper.
pub(super) const CONSUMER_UNFENCED: usize = 256;

/// In a lane: whether its producer leaves its fences to the sleeper.
pub(super) const PRODUCER_UNFENCED: usize = 8;
/// In a lane: the producer's sleep word.
pub(super) const PRODUCER_SLEEP: usize = 256;

/// The most lanes there can be.
pub(super) const LANES_MAX: u32 = 255;

const _: () = {
    assert!(LANES_FRONT == 3 * CONTROL_ALIGN && LANE_WORDS == 3 * CONTROL_ALIGN);
    assert!(PRODUCERS_SLEEP == CONTROL_ALIGN && CONSUMER_UNFENCED == 2 * CONTROL_ALIGN);
    assert!(crate::ring::layout::RELEASED == CONTROL_ALIGN);
    assert!(PRODUCER_SLEEP == 2 * CONTROL_ALIGN);
};

/// How many lanes there are, and what each is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ring) struct LanesGeometry {
    lanes: u32,
    ring: SlotGeometry,
    stride: usize,
    payload: usize,
}

/// Where the words of lane number `lane` begin.
pub(super) const fn lane_at(lane: u32) -> usize {
    LANES_FRONT + lane as usize * LANE_WORDS
}

impl LanesGeometry {
    /// `lanes` lanes, each a ring like `ring`; `None` if there is none, there are too many, or
    /// they would not fit into the address space.
    pub(in crate::ring) fn new(lanes: u32, ring: SlotGeometry) -> Option<Self> {
        let stride = lane_stride(ring.bytes())?;
        let payload = stride.checked_mul(lanes as usize)?;
        isize::try_from(payload).ok()?;
        (1..=LANES_MAX).contains(&lanes).then_some(Self { lanes, ring, stride, payload })
    }

    /// How many there are.
    pub(in crate::ring) fn lanes(&self) -> u32 {
        self.lanes
    }

    /// What each is.
    pub(in crate::ring) fn ring(&self) -> SlotGeometry {
        self.ring
    }

    /// The length of the control words.
    pub(in crate::ring) fn words_bytes(&self) -> usize {
        lane_at(self.lanes)
    }

    /// The length of the payload.
    pub(in crate::ring) fn payload_bytes(&self) -> usize {
        self.payload
    }

    /// Checks that both windows may be written, are aligned and have the room for all lanes.
    pub(super) fn check(&self, control: &View, payload: &View) -> Result<(), AttachError> {
        if !control.writable() || !payload.writable() {
            return Err(AttachError::ReadOnly);
        }
        let sound = control.len() >= self.words_bytes()
            && control.is_aligned_to(CONTROL_ALIGN)
            && payload.len() >= self.payload_bytes()
            && payload.is_aligned_to(CONTROL_ALIGN);
        if sound { Ok(()) } else { Err(AttachError::Geometry) }
    }

    /// The words and the blocks of one lane.
    pub(super) fn windows(
        &self,
        control: &View,
        payload: &View,
        lane: u32,
    ) -> Result<(View, View), AttachError> {
        let words = control.window(lane_at(lane), LANE_WORDS);
        let blocks = payload.window(lane as usize * self.stride, self.ring.bytes());
        words.zip(blocks).filter(|_| lane < self.lanes).ok_or(AttachError::Geometry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_lie_one_behind_the_other_and_never_touch() {
        for (size, capacity) in [(8, 1), (8, 64), (24, 5), (64, 16), (1000, 3)] {
            let ring = SlotGeometry::new(size, capacity).unwrap();
            for lanes in [1, 2, 7, LANES_MAX] {
                let geometry = LanesGeometry::new(lanes, ring).unwrap();
                assert!(geometry.stride >= ring.bytes());
                assert!(geometry.stride < ring.bytes() + 3 * CONTROL_ALIGN);
                assert!((geometry.stride / CONTROL_ALIGN) % 2 == 1, "an odd number");
                assert!(geometry.stride.is_multiple_of(CONTROL_ALIGN));
                let control = View::heap(geometry.words_bytes());
                let payload = View::heap(geometry.payload_bytes());
                assert_eq!(geometry.check(&control, &payload), Ok(()));
                for lane in 0..lanes {
                    let (words, blocks) = geometry.windows(&control, &payload, lane).unwrap();
                    assert_eq!((words.len(), blocks.len()), (LANE_WORDS, ring.bytes()));
                    words.write(0, &vec![lane as u8 + 1; words.len()]);
                    blocks.write(0, &vec![lane as u8 + 1; blocks.len()]);
                }
                for lane in 0..lanes {
                    let (words, blocks) = geometry.windows(&control, &payload, lane).unwrap();
                    let mine =
                        |view: &View| view.snapshot().iter().all(|byte| *byte == lane as u8 + 1);
                    assert!(mine(&words) && mine(&blocks));
                }
                assert!(control.snapshot()[..LANES_FRONT].iter().all(|byte| *byte == 0));
                let outside = geometry.windows(&control, &payload, lanes);
                assert_eq!(outside.err(), Some(AttachError::Geometry));
            }
            assert_eq!(LanesGeometry::new(0, ring), None);
            assert_eq!(LanesGeometry::new(LANES_MAX + 1, ring), None);
        }
        let huge = SlotGeometry::new(1 << 40, 1 << 20).unwrap();
        assert_eq!(LanesGeometry::new(255, huge), None);
    }

    #[test]
    fn the_layout_page_has_the_words_of_lanes() {
        let page = include_str!("../../../docs/LAYOUT.md");
        let section = page.split("## The words of lanes").nth(1).unwrap();
        let section = section.split("\n## ").next().unwrap();
        for (offset, bytes, by) in [
            (CONSUMER_SLEEP, 4, "both"),
            (PRODUCERS_SLEEP, 4, "both"),
            (CONSUMER_UNFENCED, 8, "consumer"),
            (PRODUCER_UNFENCED, 8, "producer"),
            (crate::ring::layout::RELEASED, 8, "consumer"),
            (PRODUCER_SLEEP, 4, "both"),
        ] {
            let row = format!("\n| {offset} | {bytes} | {by} |");
            assert!(section.contains(&row), "no row {row}");
        }
        for text in [
            format!("{LANES_FRONT} + {LANE_WORDS} k"),
            format!("at most {LANES_MAX}"),
            format!("bit {}", LEFT_OUT.trailing_zeros()),
            format!("odd number of {CONTROL_ALIGN}"),
        ] {
            assert!(section.contains(&text), "{text:?} is not there");
        }
    }
}

//! The producer's side: giving up what is oldest, and asking those who must have it.
//!
//! The steps S1 to S6 are told in the parent module.

use super::layout::{
    CONSUMERS, Keeping, NUMBER, POSITION, PROMISED, REQUIRED, START, SWEPT, TENURE, consumer,
};
use crate::peer::PeerState;
use crate::ring::space::{Room, Wish};
use crate::sync::fence;
use crate::sys::futex::monotonic_nanos_coarse;
use crate::view::{View, Word64};
use crate::wait::{Link, PeerAt};
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};

/// How often the one that is ahead is looked for, in glances.
const GLANCES: u32 = 64;
/// Those in the way are asked for no more often than this.
const ASK_EVERY_NANOS: u64 = 50_000_000;

/// The producer's knowledge of what it has given up, and of who must have what.
pub(crate) struct Sweep {
    keeping: Keeping,
    /// Up to where the ring is swept.
    swept: u64,
    word: Word64,
    control: View,
    /// Whether marks are set, for records; else `START` is enough.
    marks: bool,
    /// Of each consumer's place the last tenure that was found dead.
    buried: Vec<u64>,
    asked_nanos: u64,
    /// The consumer that was furthest ahead, and for how many glances it is still believed.
    ahead: usize,
    glances: u32,
}

impl Sweep {
    /// Goes on with a ring that is swept up to `swept`; `None` if this process may not write.
    pub(super) fn new(control: View, keeping: Keeping, swept: u64, marks: bool) -> Option<Self> {
        let word = control.find64(SWEPT)?;
        let buried = vec![0; keeping.consumers as usize];
        let ahead = CONSUMERS;
        let (asked_nanos, glances) = (0, 0);
        Some(Self { keeping, swept, word, control, marks, buried, asked_nanos, ahead, glances })
    }

    /// S1 to S6: sweeps so far that `wish` has room, if it may.
    #[cold]
    #[inline(never)]
    pub(crate) fn look(&mut self, wish: Wish, link: &dyn Link) -> Room {
        let Wish { position, need, .. } = wish;
        if need <= self.keeping.need_max && position + need > self.swept {
            let target = (position + need).next_multiple_of(self.keeping.section);
            let target =
                if self.keeping.lossless { self.allowed(wish, target, link) } else { target };
            if target > self.swept {
                self.sweep(wish, target);
            }
        }
        Room { limit: self.swept, waiting: self.waiting(position) }
    }

    /// S4 to S6.
    fn sweep(&mut self, wish: Wish, target: u64) {
        if self.marks {
            let section = self.keeping.section;
            for entered in self.swept.div_ceil(section)..target.div_ceil(section) {
                let mark = self.keeping.mark(entered);
                self.control.store64(mark + 8, wish.number, Relaxed);
                self.control.store64(mark, wish.position, Release); // edge `mark`
            }
        } else {
            self.control.store64(START, wish.position, Release); // edge `mark`
        }
        self.swept = target;
        self.word.store(target, Release); // edges `mark`, `gone`
        fence(Release); // edge `gone`
    }

    /// S1 to S3: how much of `target` those who must receive everything allow.
    fn allowed(&mut self, wish: Wish, target: u64, link: &dyn Link) -> u64 {
        let wanted = wish.position + wish.need;
        let mut target = self.limited(target);
        if target < wanted && self.bury(wanted, link) {
            target = self.limited((wanted).next_multiple_of(self.keeping.section));
        }
        if target <= self.swept {
            return self.swept;
        }
        self.control.store64(PROMISED, target, Relaxed);
        fence(SeqCst); // edge `join`
        let after = self.limited(target);
        if after < target {
            self.control.store64(PROMISED, after.max(self.swept), Relaxed);
        }
        after
    }

    /// `target`, or less if somebody must have what stood there.
    fn limited(&self, target: u64) -> u64 {
        let mut limit = target;
        for (_, _, position) in self.required() {
            // A position behind what is kept, or ahead of what was sent, is a lie or a
            // successor's predecessor: it holds up nothing that is not lost to it anyway.
            if position.saturating_add(self.keeping.total) >= self.swept {
                limit = limit.min(self.end_of(position));
            }
        }
        limit
    }

    /// Up to where may be swept for one who must have everything from `position` on.
    fn end_of(&self, position: u64) -> u64 {
        let end = position.saturating_add(self.keeping.total);
        end - end % self.keeping.granule
    }

    /// The places whose consumers must receive everything, their tenures and positions.
    fn required(&self) -> impl Iterator<Item = (u32, u64, u64)> {
        (0..self.keeping.consumers).filter_map(|slot| {
            let at = consumer(slot);
            if self.control.load64(at + REQUIRED, Acquire) != 1 {
                return None;
            }
            let tenure = self.control.load64(at + TENURE, Acquire);
            let position = self.control.load64(at + POSITION, Acquire); // edge `release`
            (self.buried[slot as usize] != tenure).then_some((slot, tenure, position))
        })
    }

    /// Asks the kernel for those that keep the ring from being swept up to `wanted`, now and
    /// then; whether one of them is no more.
    fn bury(&mut self, wanted: u64, link: &dyn Link) -> bool {
        let now = monotonic_nanos_coarse();
        if now.wrapping_sub(self.asked_nanos) < ASK_EVERY_NANOS {
            return false;
        }
        self.asked_nanos = now;
        let mut gone = Vec::new();
        for (slot, tenure, position) in self.required() {
            if self.end_of(position) >= wanted {
                continue; // it is not in the way
            }
            // Who has claimed the place anew has not yet come to write his own words here.
            if let Some(peer) = link.peer_at(slot)
                && (peer.epoch != tenure
                    || !matches!(peer.state, PeerState::Alive | PeerState::Unknown))
            {
                gone.push((slot, tenure));
            }
        }
        for &(slot, tenure) in &gone {
            self.buried[slot as usize] = tenure;
        }
        !gone.is_empty()
    }

    /// How far the consumer is that is furthest ahead: one look at its line.
    pub(crate) fn glance(&mut self, position: u64) -> Room {
        if self.glances == 0 {
            self.glances = GLANCES;
            let of = |slot| self.control.load64(consumer(slot) + POSITION, Relaxed);
            let slots = 0..self.keeping.consumers;
            let ahead = slots.filter(|&slot| of(slot) <= position).max_by_key(|&slot| of(slot));
            self.ahead = consumer(ahead.unwrap_or(0));
        }
        self.glances -= 1;
        let ahead = self.control.load64(self.ahead + POSITION, Relaxed);
        Room { limit: self.swept, waiting: position.saturating_sub(ahead) }
    }

    /// How much the slowest of those who must receive everything is behind.
    pub(crate) fn waiting(&self, position: u64) -> u64 {
        if !self.keeping.lossless {
            return 0;
        }
        let waiting = self.required().map(|(_, _, at)| position.saturating_sub(at)).max();
        waiting.unwrap_or(0).min(self.keeping.total)
    }

    /// The slowest of those who must receive everything, and how many messages it is behind.
    pub(crate) fn slowest(
        &self,
        position: u64,
        number: u64,
        link: &dyn Link,
    ) -> Option<(u32, PeerAt, u64)> {
        if !self.keeping.lossless {
            return None;
        }
        let slowest = self.required().filter(|&(.., at)| at <= position).min_by_key(|&(.., at)| at);
        let (slot, _, at) = slowest?;
        let received =
            if self.marks { self.control.load64(consumer(slot) + NUMBER, Relaxed) } else { at };
        Some((slot, link.peer_at(slot)?, number.saturating_sub(received)))
    }
}

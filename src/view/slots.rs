//! Slots in groups: a line of eight words, then the eight messages they are about.
//!
//! Whoever takes slots one after another has the words of the next seven with the
//! first; a word in each message's own line would have to be fetched for each.
#![expect(unsafe_code, reason = "the one place where mapped bytes are accessed")]

use super::{Message, View};
use crate::sync::AtomicU64;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

/// How many slots share a line of words: as many as it holds.
const TOGETHER: usize = 8;
/// The bytes of the line of words.
const WORDS: usize = TOGETHER * 8;

/// How slots are laid out: the distance of two messages, a multiple of 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotShape {
    stride: usize,
}

impl SlotShape {
    /// Messages of up to `stride` bytes; `None` if that is no multiple of 8, or nothing, or more than there
    /// is memory.
    pub(crate) const fn new(stride: usize) -> Option<Self> {
        if stride == 0 || !stride.is_multiple_of(8) || stride > isize::MAX as usize / 16 {
            return None;
        }
        Some(Self { stride })
    }

    /// From one group to the next: whole lines.
    pub(crate) const fn group(&self) -> usize {
        (WORDS + TOGETHER * self.stride).next_multiple_of(WORDS)
    }

    /// The bytes of `count` slots, if there are so many addresses.
    pub(crate) fn bytes(&self, count: usize) -> Option<usize> {
        count.div_ceil(TOGETHER).checked_mul(self.group())
    }

    /// Where the word of slot `number` lies.
    #[inline(always)]
    pub(crate) const fn word(&self, number: usize) -> usize {
        number / TOGETHER * self.group() + number % TOGETHER * 8
    }

    /// Where its message begins.
    #[inline(always)]
    pub(crate) const fn message(&self, number: usize) -> usize {
        number / TOGETHER * self.group() + WORDS + number % TOGETHER * self.stride
    }
}

/// A place in memory that is divided into slots.
///
/// Invariants: `place.number < count`; the `count` slots of `shape` lie inside of `view`, which is
/// writable.
#[derive(Debug)]
pub(crate) struct SlotCursor {
    place: SlotPlace,
    count: usize,
    shape: SlotShape,
    view: View,
}

/// One slot of a [`SlotCursor`] by its number, and how often the end was passed before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotPlace {
    number: usize,
    lap: u64,
}

impl SlotPlace {
    /// How often the end was passed before it.
    #[inline(always)]
    pub(crate) fn lap(&self) -> u64 {
        self.lap
    }

    /// Its number.
    #[inline]
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// The same slot in another lap.
    #[inline]
    pub(crate) fn in_lap(&self, lap: u64) -> Self {
        Self { number: self.number, lap }
    }

    /// Whether it comes before `other`.
    #[inline]
    pub(crate) fn is_before(&self, other: Self) -> bool {
        (self.lap, self.number) < (other.lap, other.number)
    }
}

/// One slot of a [`SlotCursor`].
///
/// Invariants: `word` is aligned and it and the message lie inside the borrowed, writable memory.
pub(crate) struct Slot<'a> {
    word: NonNull<u8>,
    message: NonNull<u8>,
    stride: usize,
    slots: core::marker::PhantomData<&'a SlotCursor>,
}

impl View {
    /// A cursor over the first `count` slots of `shape`.
    ///
    /// `None` if they are not all inside the window, there is none, or this process may not write
    /// here.
    pub(crate) fn slots(&self, shape: SlotShape, count: u64) -> Option<SlotCursor> {
        let count = usize::try_from(count).ok()?;
        let sound = self.writable() && count > 0 && shape.bytes(count)? <= self.len();
        let place = SlotPlace { number: 0, lap: 0 };
        sound.then(|| SlotCursor { place, count, shape, view: self.clone() })
    }
}

impl SlotCursor {
    /// The slot at `place`.
    #[inline(always)]
    pub(crate) fn look_at(&self, place: SlotPlace) -> Slot<'_> {
        assert!(place.number < self.count, "a place of another cursor");
        let SlotShape { stride } = self.shape;
        // SAFETY: `number < count` keeps the word inside of the window by the invariant of the
        // cursor.
        let word = unsafe { self.view.base.add(self.shape.word(place.number)) };
        // SAFETY: as above, and so the message.
        let message = unsafe { self.view.base.add(self.shape.message(place.number)) };
        Slot { word, message, stride, slots: core::marker::PhantomData }
    }

    /// The slot at the cursor.
    #[inline(always)]
    pub(crate) fn slot(&self) -> Slot<'_> {
        self.look_at(self.place)
    }

    /// Where the cursor is.
    #[inline(always)]
    pub(crate) fn place(&self) -> SlotPlace {
        self.place
    }

    /// How often the cursor has passed the end.
    #[inline(always)]
    pub(crate) fn lap(&self) -> u64 {
        self.place.lap
    }

    /// How many slots there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// The place behind `place`.
    #[inline(always)]
    pub(crate) fn behind(&self, place: SlotPlace) -> SlotPlace {
        if place.number + 1 == self.count {
            SlotPlace { number: 0, lap: place.lap + 1 }
        } else {
            SlotPlace { number: place.number + 1, lap: place.lap }
        }
    }

    /// Moves on by one slot.
    #[inline(always)]
    pub(crate) fn advance(&mut self) {
        self.place = self.behind(self.place);
    }

    /// Moves to `place`.
    #[inline(always)]
    pub(crate) fn go(&mut self, place: SlotPlace) {
        assert!(place.number < self.count, "a place of another cursor");
        self.place = place;
    }

    /// Slot number `number` in lap `lap`.
    pub(crate) fn place_at(&self, number: usize, lap: u64) -> SlotPlace {
        assert!(number < self.count, "a slot behind the last");
        SlotPlace { number, lap }
    }

    /// The place `count` slots behind `place`, at most one lap.
    pub(crate) fn ahead(&self, place: SlotPlace, count: usize) -> SlotPlace {
        let left = self.count - place.number;
        match count.min(self.count) {
            count if count < left => SlotPlace { number: place.number + count, lap: place.lap },
            count => SlotPlace { number: count - left, lap: place.lap + 1 },
        }
    }
}

impl<'a> Slot<'a> {
    #[inline(always)]
    fn word(&self) -> &AtomicU64 {
        #[cfg(any(test, fuzzing))]
        super::meddle::touches(self.word.addr().get());
        // SAFETY: the invariant of `Slot`: aligned and inside memory that is mapped while it is
        // borrowed; words are only accessed as atomics or by the copy routine of the parent.
        unsafe { AtomicU64::from_ptr(self.word.as_ptr().cast()) }
    }

    /// Loads the slot's word once. Tests may meddle before each such load.
    #[inline(always)]
    #[cfg_attr(hugeshm_loom, track_caller)]
    pub(crate) fn load(&self, order: Ordering) -> u64 {
        #[cfg(test)]
        super::steps::loads();
        self.word().load(order)
    }

    /// Stores the slot's word. Tests may stop the world behind each such store.
    #[inline(always)]
    #[cfg_attr(hugeshm_loom, track_caller)]
    pub(crate) fn store(&self, value: u64, order: Ordering) {
        self.word().store(value, order);
        #[cfg(test)]
        super::steps::stored();
    }

    /// Exchanges the slot's word if it is `old`; what it is if not. Tests may meddle before, and
    /// stop the world behind it.
    #[inline(always)]
    #[cfg_attr(hugeshm_loom, track_caller)]
    pub(crate) fn replace(&self, old: u64, new: u64) -> Result<(), u64> {
        #[cfg(test)]
        super::steps::loads();
        self.word().compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)?;
        #[cfg(test)]
        super::steps::stored();
        Ok(())
    }

    /// The slot's message.
    #[inline(always)]
    pub(crate) fn message(&self) -> Message<'a> {
        let base = self.message.as_ptr();
        Message { base, room: self.stride, memory: core::marker::PhantomData }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_messages_lie_inside_and_apart() {
        for stride in [8, 16, 24, 56, 64, 72, 128, 1000] {
            let shape = SlotShape::new(stride).unwrap();
            for count in [1, 7, 8, 9, 40] {
                let bytes = shape.bytes(count).unwrap();
                let mut used = vec![false; bytes];
                for number in 0..count {
                    let (word, message) = (shape.word(number), shape.message(number));
                    assert!(word.is_multiple_of(8) && message.is_multiple_of(8));
                    assert!(!stride.is_multiple_of(64) || message.is_multiple_of(64));
                    for at in (word..word + 8).chain(message..message + stride) {
                        assert!(!core::mem::replace(&mut used[at], true), "{stride} {number}");
                    }
                }
            }
        }
        for wrong in [0, 4, 12, usize::MAX - 7] {
            assert_eq!(SlotShape::new(wrong), None);
        }
        let shape = SlotShape::new(64).unwrap();
        assert!(View::heap(576).slots(shape, 9).is_none());
        assert!(View::heap(576).slots(shape, 0).is_none());
        assert!(View::heap_read_only(576).slots(shape, 8).is_none());
    }

    #[test]
    fn a_place_is_found_ahead_and_round_the_end() {
        let slots = View::heap(4096).slots(SlotShape::new(8).unwrap(), 11).unwrap();
        let mut place = slots.place_at(0, 5);
        for step in 0..30 {
            assert_eq!((place.number(), place.lap()), (step % 11, 5 + step as u64 / 11));
            for ahead in 0..=11 {
                let mut far = place;
                (0..ahead).for_each(|_| far = slots.behind(far));
                assert_eq!(slots.ahead(place, ahead), far);
            }
            assert!(place.is_before(slots.behind(place)));
            place = slots.behind(place);
        }
    }
}

//! Reading the messages of a slot ring in their order: C1 to C3, without waiting and waking.
//!
//! Whoever has a reader has claimed the ring's receiving end, and does C4 behind each release.

use super::windows;
use crate::ring::error::{AttachError, RecvError};
use crate::ring::position::{SlotGeometry, check_unfilled, count_in, header_word};
use crate::view::{BlockCursor, Message, View, Word64};
use core::sync::atomic::Ordering::{Acquire, Release};

/// Where a consumer is in its ring.
pub(in crate::ring) struct Reader {
    position: u64,
    /// The number of its message in the block at the cursor.
    index: u64,
    per_block: u64,
    blocks: BlockCursor,
    released: Word64,
}

impl Reader {
    /// Begins at `position`, which was checked.
    pub(in crate::ring) fn new(
        control: &View,
        payload: &View,
        geometry: &SlotGeometry,
        position: u64,
    ) -> Result<Self, AttachError> {
        let (released, mut blocks) = windows(control, payload, geometry)?;
        let per_block = geometry.per_block();
        blocks.seek(position / per_block);
        Ok(Self { position, index: position % per_block, per_block, blocks, released })
    }

    /// C1: whether there is a message at `position`; if not, the header word.
    #[inline(always)]
    pub(in crate::ring) fn poll(&self) -> Result<(), u64> {
        let word = self.blocks.block().load(Acquire); // edge `commit`
        match count_in(word, self.blocks.lap()) {
            Some(count) if count > self.index => Ok(()),
            _ => Err(word),
        }
    }

    /// A header word that counts no message at `position` and is no lie.
    pub(in crate::ring) fn idle_word(&self) -> u64 {
        if self.index == 0 { 0 } else { header_word(self.blocks.lap(), self.index) }
    }

    /// What a header word means that counts no message at `position`.
    #[cold]
    pub(in crate::ring) fn judge(&self, word: u64) -> RecvError {
        match check_unfilled(word, self.blocks.lap(), self.index, self.per_block) {
            Ok(()) => RecvError::Empty,
            Err(corruption) => RecvError::Corrupt(corruption),
        }
    }

    /// The message at `position`.
    #[inline(always)]
    pub(in crate::ring) fn message(&self) -> Message<'_> {
        self.blocks.block().message(self.index as usize)
    }

    /// Goes past the message at `position`, which is told to [`release`](Self::release) then.
    #[inline(always)]
    pub(in crate::ring) fn pass(&mut self) {
        self.index += 1;
        if self.index == self.per_block {
            self.index = 0;
            self.blocks.advance();
        }
    }

    /// C3: everything before `position` is delivered.
    #[inline(always)]
    pub(in crate::ring) fn release(&mut self, position: u64) {
        self.position = position;
        self.released.store(position, Release); // edge `release`
    }

    /// Stores the released position together with `bits`, which it never has by itself.
    #[cold]
    pub(in crate::ring) fn mark(&self, bits: u64) {
        self.released.store(self.position | bits, Release);
    }

    /// C1 to C3 for up to `max` messages with one release at the end, behind a [`poll`](Self::poll)
    /// that found one. `take` gets each value; a message that is no value ends the batch before it,
    /// or is the answer if it is the first. `Empty` if nothing was released.
    #[inline]
    pub(in crate::ring) fn take_batch<R>(
        &mut self,
        max: usize,
        mut read: impl FnMut(&Message<'_>) -> Option<R>,
        mut take: impl FnMut(usize, R),
    ) -> Result<usize, RecvError> {
        let (position, per_block) = (self.position, self.per_block);
        // On copies, so that a panic of `read` or `take` leaves everything as it was.
        let (mut walk, mut index, mut count) = (self.blocks.walk(), self.index, 0);
        let end = loop {
            // A header word that is a lie is told when the next call begins.
            let word = walk.block().load(Acquire); // edge `commit`
            let filled = count_in(word, walk.lap()).unwrap_or(0).min(per_block);
            let end = loop {
                if index >= filled {
                    break (index < per_block).then_some(Ok(()));
                }
                let value = read(&walk.block().message(index as usize));
                match value {
                    Some(value) => take(count, value),
                    None if count > 0 => break Some(Ok(())),
                    None => {
                        index += 1;
                        break Some(Err(RecvError::InvalidValue { position }));
                    }
                }
                index += 1;
                count += 1;
                if count == max {
                    break Some(Ok(()));
                }
            };
            if index == per_block {
                walk.step();
                index = 0;
            }
            if let Some(end) = end {
                break end;
            }
        };
        if count == 0 && end.is_ok() {
            return Err(RecvError::Empty); // the peer took back what `poll` saw
        }
        let place = walk.place();
        self.blocks.go(place);
        self.index = index;
        self.release(position + if end.is_ok() { count as u64 } else { 1 });
        end.map(|()| count)
    }

    /// The position of the next message.
    #[inline(always)]
    pub(in crate::ring) fn position(&self) -> u64 {
        self.position
    }

    /// How many messages wait, of at most `geometry`'s. Looks at one header word for each block of
    /// them.
    pub(in crate::ring) fn lag(&self, geometry: &SlotGeometry) -> u64 {
        let mut walk = self.blocks.walk();
        let mut end = self.position - self.index;
        for _ in 0..geometry.blocks() {
            let word = walk.block().load(Acquire);
            let count = count_in(word, walk.lap()).unwrap_or(0).min(self.per_block);
            end += count;
            if count < self.per_block {
                break;
            }
            walk.step();
        }
        end.saturating_sub(self.position).min(geometry.capacity())
    }
}

//! The producing end of a slot ring, by bytes.
//!
//! The steps P1 to P5, A1 and A2 are told in the parent module.

use super::{check_released, windows};
use crate::ring::endpoint::{Parts, Side, endpoint_calls};
use crate::ring::error::{AttachError, Corruption, Laggard, SendError, has_room};
use crate::ring::layout::{CONTROL_ALIGN, RELEASED};
use crate::ring::position::{SlotGeometry, count_in, header_word};
use crate::ring::space::{Released, Space, Wish};
use crate::stats::Stats;
use crate::view::{BlockCursor, View};
use crate::wait::{Port, STREAM, Waitable, Waits, deadline_after, doorbell_calls, wait_until};
use core::fmt;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::time::Duration;
use std::time::Instant;

/// The consumer's progress is looked at once per this many messages, a power of two.
const LOOK_EVERY: u64 = if cfg!(test) { 4 } else { 64 };

/// The producing end of a typed ring, by bytes.
pub struct RawProducer {
    geometry: SlotGeometry,
    group: Group,
    limit: u64,
    /// The position at which a wait last found no room.
    filled_at: u64,
    corruption: Option<Corruption>,
    space: Space,
    pub(in crate::ring) port: Port,
}

/// The block in hand.
///
/// In a stream it is not kept how many of its messages are filled: the header word tells. A store
/// for each message into memory of our own, between the stores into two messages, would cost more
/// than both: a processor writes in order, and waits for each line. Where the consumer takes each
/// message at once, looking at the header word would fetch the line back from it; then it is kept.
struct Group {
    /// At the block.
    blocks: BlockCursor,
    /// The position of its first message.
    base: u64,
    /// How many of its messages may be filled, by what the consumer has released.
    open: u64,
    /// How many are, outside of a stream.
    filled: u64,
    /// Whether there is a stream.
    streams: bool,
    per_block: u64,
}

impl Group {
    /// The block of `position`.
    fn new(mut blocks: BlockCursor, geometry: &SlotGeometry, position: u64, limit: u64) -> Self {
        let per_block = geometry.per_block();
        let filled = position % per_block;
        blocks.seek(position / per_block);
        let base = position - filled;
        let mut group = Self { blocks, base, open: 0, filled, streams: false, per_block };
        group.reopen(limit);
        group
    }

    /// Opens the messages below `limit`.
    #[inline(always)]
    fn reopen(&mut self, limit: u64) {
        self.open = (limit - self.base).min(self.per_block);
    }

    /// How many messages are filled. A peer that lies changes the answer, within what is open.
    #[inline(always)]
    fn filled(&self) -> u64 {
        if !self.streams || self.per_block == 1 {
            return self.filled;
        }
        let count = count_in(self.blocks.block().load(Relaxed), self.blocks.lap());
        count.unwrap_or(0).min(self.open)
    }

    /// The position of the next message.
    #[inline]
    fn position(&self) -> u64 {
        self.base + self.filled()
    }

    /// `filled` messages are filled now: goes on to the next block behind the last.
    #[inline(always)]
    fn fill(&mut self, filled: u64, limit: u64) {
        if filled == self.per_block {
            self.blocks.advance();
            self.base += self.per_block;
            self.filled = 0;
            self.reopen(limit);
        } else if !self.streams {
            self.filled = filled;
        }
        if !self.streams {
            self.touch_next();
        }
    }

    /// Fetches the lines of the next message from the consumer while nobody waits for them.
    #[inline(always)]
    fn touch_next(&self) {
        let block = self.blocks.block();
        if self.filled == self.open {
            return; // they may not be ours
        }
        if self.filled == 0 {
            block.store(0, Relaxed); // counts nothing, as before
        }
        if block.is_spread() {
            block.message(self.filled as usize).touch();
        }
    }

    /// From now on there is a stream, or none; `filled` messages are filled.
    fn stream(&mut self, filled: u64, streams: bool) {
        self.filled = filled;
        self.streams = streams;
    }
}

impl RawProducer {
    /// Attaches behind the last committed message.
    pub(crate) fn attach(parts: Parts, geometry: SlotGeometry) -> Result<Self, AttachError> {
        parts.check(geometry.bytes() as u64, CONTROL_ALIGN)?;
        let (control, payload) = (parts.control.clone(), parts.payload.clone());
        let port = || parts.into_port(Side::Producer).map(|(_, _, port)| port);
        Self::attach_to(&control, &payload, geometry, port)
    }

    /// The same, for windows that were checked and whoever has its wait words elsewhere. `port` is
    /// asked for once the released position was found to be possible.
    pub(in crate::ring) fn attach_to(
        control: &View,
        payload: &View,
        geometry: SlotGeometry,
        port: impl FnOnce() -> Result<Port, AttachError>,
    ) -> Result<Self, AttachError> {
        let released = control.load64(RELEASED, Acquire); // edge `release`
        let released = check_released(released)?;
        let port = port()?;
        let (word, blocks) = windows(control, payload, &geometry)?;
        let limit = released + geometry.capacity();
        let space = Released { word, capacity: geometry.capacity(), granule: 1, spare: 0 };
        Ok(Self::go_on(geometry, blocks, released, limit, Space::Released(space), port))
    }

    /// Goes on behind the last message that was committed, which is not before `start` and not
    /// behind `limit`.
    pub(in crate::ring) fn go_on(
        geometry: SlotGeometry,
        blocks: BlockCursor,
        start: u64,
        limit: u64,
        space: Space,
        port: Port,
    ) -> Self {
        let position = recover(&blocks, &geometry, start, limit);
        let group = Group::new(blocks, &geometry, position, limit);
        Self { geometry, group, limit, filled_at: position, corruption: None, space, port }
    }

    /// Sends the message `bytes`, of exactly [`RawProducer::size`] bytes, if there is room now.
    ///
    /// # Errors
    ///
    /// [`SendError::Full`] when there is none. After 64 of these, at least 50 ms apart, the
    /// kernel is asked about the consumer; a full ring whose consumer has left or died is then
    /// answered with `Closed` or `PeerDied`.
    #[inline]
    pub fn try_push(&mut self, bytes: &[u8]) -> Result<(), SendError> {
        self.check_size(bytes)?;
        self.try_put(bytes)
    }

    /// Sends a message, waiting for room.
    ///
    /// # Errors
    ///
    /// `Closed` and `PeerDied` when the ring is full and its consumer has left or died, see
    /// [`RawProducer::outlive_peer`]; a ring that never had a consumer is waited for.
    #[inline]
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), SendError> {
        self.check_size(bytes)?;
        match self.put(bytes) {
            Err(SendError::Full) => self.wait_and_put(bytes, || None),
            done => done,
        }
    }

    /// Sends a message, waiting for room until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`RawProducer::push`], and `TimedOut`.
    #[inline]
    pub fn push_deadline(&mut self, bytes: &[u8], deadline: Instant) -> Result<(), SendError> {
        self.check_size(bytes)?;
        match self.put(bytes) {
            Err(SendError::Full) => self.wait_and_put(bytes, || Some(deadline)),
            done => done,
        }
    }

    /// Sends a message, waiting for room for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`RawProducer::push`], and `TimedOut`.
    #[inline]
    pub fn push_timeout(&mut self, bytes: &[u8], timeout: Duration) -> Result<(), SendError> {
        self.check_size(bytes)?;
        match self.put(bytes) {
            Err(SendError::Full) => self.wait_and_put(bytes, || deadline_after(timeout)),
            done => done,
        }
    }

    #[inline]
    fn check_size(&self, bytes: &[u8]) -> Result<(), SendError> {
        let (len, size) = (bytes.len(), self.geometry.size());
        if len == size { Ok(()) } else { Err(SendError::WrongSize { len, size }) }
    }

    #[inline]
    pub(in crate::ring) fn try_put(&mut self, bytes: &[u8]) -> Result<(), SendError> {
        match self.put(bytes) {
            Err(SendError::Full) => self.look_and_put(bytes),
            done => done,
        }
    }

    /// [`put`](Self::put) when no slot was known to be free.
    #[cold]
    #[inline(never)]
    pub(in crate::ring) fn look_and_put(&mut self, bytes: &[u8]) -> Result<(), SendError> {
        match self.look_for_room(1) {
            Err(SendError::Full) => {}
            done => return done.and_then(|_| self.put(bytes)),
        }
        self.port.stats.full();
        match self.port.tried_in_vain() {
            None => Err(SendError::Full),
            // Once more, now that the peer's end is known.
            Some(end) => match self.look_for_room(1) {
                Err(SendError::Full) => Err(end.into()),
                done => done.and_then(|_| self.put(bytes)),
            },
        }
    }

    /// [`put`](Self::put) when no slot was known to be free, waiting for one.
    #[cold]
    #[inline(never)]
    pub(in crate::ring) fn wait_and_put(
        &mut self,
        bytes: &[u8],
        deadline: impl FnOnce() -> Option<Instant>,
    ) -> Result<(), SendError> {
        match self.look_for_room(1) {
            Err(SendError::Full) => self.wait_for_room(deadline())?,
            done => drop(done?),
        }
        self.put(bytes)
    }

    /// Waits until at least one message fits.
    #[cold]
    #[inline(never)]
    pub(in crate::ring) fn wait_for_room(
        &mut self,
        deadline: Option<Instant>,
    ) -> Result<(), SendError> {
        self.port.stats.full();
        let position = self.position();
        // What a lying peer makes of our position is a matter of speed alone.
        let passed = position.wrapping_sub(self.filled_at);
        self.filled_at = position;
        if self.port.look_away(passed, self.geometry.size() as u64) && has_room(self.room())? {
            return Ok(());
        }
        wait_until(self, deadline, |end| &mut end.port, |end| has_room(end.room()))
    }

    /// P1 to P4; [`SendError::Full`] when no slot is known to be free.
    ///
    /// `bytes` goes nowhere else from here, so a message can stay in registers.
    #[inline(always)]
    pub(in crate::ring) fn put(&mut self, bytes: &[u8]) -> Result<(), SendError> {
        if !self.port.usable() {
            return Err(self.refusal());
        }
        let filled = self.group.filled();
        if filled == self.group.open {
            return Err(SendError::Full);
        }
        let block = self.group.blocks.block();
        block.message(filled as usize).write(bytes);
        block.store(header_word(self.group.blocks.lap(), filled + 1), Release); // edge `commit`
        self.port.announce();
        let before = self.group.base;
        self.group.fill(filled + 1, self.limit);
        self.went_on(before, self.group.base);
        Ok(())
    }

    /// Now and then looks how far the consumer is, which says whether there is a stream.
    #[inline(always)]
    fn went_on(&mut self, before: u64, position: u64) {
        if (before ^ position) >= LOOK_EVERY {
            self.look_at_consumer(before, position);
        }
    }

    #[cold]
    #[inline(never)]
    fn look_at_consumer(&mut self, before: u64, position: u64) {
        self.port.stats.went_on(before, position);
        // Once: a peer that lies may give another answer the next time, and the limit is for this.
        let filled = self.group.filled();
        let position = self.group.base + filled;
        // A lie is told when room is looked for.
        if let Some(room) = self.space.glance(position) {
            self.limit = room.limit;
            self.group.stream(filled, room.waiting >= STREAM);
            self.group.reopen(room.limit);
        }
    }

    /// P1: how many messages fit, at least one.
    #[inline]
    fn room(&mut self) -> Result<u64, SendError> {
        if !self.port.usable() {
            return Err(self.refusal());
        }
        let room = self.limit - self.position();
        if room > 0 { Ok(room) } else { self.look_for_room(1) }
    }

    /// Asks how many messages fit, if possible `need`; at least one.
    #[cold]
    #[inline(never)]
    fn look_for_room(&mut self, need: u64) -> Result<u64, SendError> {
        let position = self.position();
        let wish = Wish { position, need, number: position };
        match self.space.look(wish, self.port.link()) {
            Ok(room) => {
                self.limit = room.limit;
                self.port.stats.high_water(room.waiting);
            }
            Err(corruption) => return Err(self.corrupt(corruption)),
        }
        self.group.reopen(self.limit);
        if position == self.limit {
            return Err(SendError::Full);
        }
        if position == self.group.base + self.group.open {
            // Whoever fills a block goes on to the next: this header word is not ours.
            return Err(self.corrupt(Corruption::Stamp));
        }
        Ok(self.limit - position)
    }

    #[cold]
    fn corrupt(&mut self, corruption: Corruption) -> SendError {
        self.corruption = Some(corruption);
        self.port.condemn();
        SendError::Corrupt(corruption)
    }

    #[cold]
    fn refusal(&self) -> SendError {
        self.corruption.map_or(SendError::Forked, SendError::Corrupt)
    }

    /// Sends the first `n` of `count` messages, as many as fit, visible at once.
    #[inline]
    pub(in crate::ring) fn put_batch<'a>(
        &mut self,
        count: usize,
        message: impl Fn(usize) -> &'a [u8],
    ) -> Result<usize, SendError> {
        if count == 0 {
            return Ok(0);
        }
        let room = match self.room() {
            // Fewer than asked for, by the private copy: the consumer may have gone on.
            Ok(room) if room < count as u64 => {
                self.look_for_room((count as u64).min(self.geometry.capacity()))?
            }
            other => other?,
        };
        let filled = self.group.filled();
        let position = self.group.base + filled;
        // Both, since a peer that lies may change what is filled between two looks.
        let count = room.min(self.limit - position).min(count as u64);
        if count == 0 {
            return Err(SendError::Full);
        }
        let per_block = self.group.per_block;
        let in_first = count.min(per_block - filled);
        let mut walk = self.group.blocks.walk();
        let (mut done, mut last) = (in_first, filled + in_first);
        while done < count {
            walk.step();
            last = (count - done).min(per_block);
            let block = walk.block();
            for index in 0..last as usize {
                block.message(index).write(message(done as usize + index));
            }
            // Not seen before the first block is full, whose release store covers it.
            block.store(header_word(walk.lap(), last), Relaxed);
            done += last;
        }
        let first = self.group.blocks.block();
        for index in 0..in_first as usize {
            first.message(filled as usize + index).write(message(index));
        }
        first.store(header_word(self.group.blocks.lap(), filled + in_first), Release); // edge `commit`
        let place = walk.place();
        self.group.blocks.go(place);
        self.group.base = position + count - last;
        self.group.reopen(self.limit);
        self.group.fill(last, self.limit);
        self.port.announce();
        self.went_on(position, position + count);
        let count = count as usize;
        Ok(count)
    }

    /// Sends as many of the messages in `bytes` (back to back) as fit now; they become visible
    /// at once. Returns how many.
    ///
    /// # Errors
    ///
    /// [`SendError::Full`] when not even one fits; [`SendError::WrongSize`] when `bytes` is no
    /// whole number of messages, or the messages have no bytes.
    pub fn push_batch(&mut self, bytes: &[u8]) -> Result<usize, SendError> {
        let size = self.geometry.size();
        if size == 0 || !bytes.len().is_multiple_of(size) {
            return Err(SendError::WrongSize { len: bytes.len(), size });
        }
        let done =
            self.put_batch(bytes.len() / size, |index| &bytes[index * size..(index + 1) * size]);
        self.counted(done)
    }

    pub(in crate::ring) fn counted(
        &mut self,
        done: Result<usize, SendError>,
    ) -> Result<usize, SendError> {
        if done == Err(SendError::Full) {
            self.port.stats.full();
            if let Some(end) = self.port.tried_in_vain()
                && self.look_for_room(1) == Err(SendError::Full)
            {
                return Err(end.into());
            }
        }
        done
    }

    /// Whether `count` messages fit now.
    pub(in crate::ring) fn room_for(&mut self, count: usize) -> Result<(), SendError> {
        if count as u64 > self.geometry.capacity() {
            let max = usize::try_from(self.geometry.capacity()).unwrap_or(usize::MAX);
            return Err(SendError::TooLarge { len: count, max });
        }
        if !self.port.usable() {
            return Err(self.refusal());
        }
        if self.limit - self.position() >= count as u64 {
            return Ok(());
        }
        let room = self.look_for_room(count as u64)?;
        if room >= count as u64 { Ok(()) } else { Err(SendError::Full) }
    }

    /// Counts a message that the caller gave up for want of room.
    #[cold]
    pub(in crate::ring) fn count_drop(&mut self) {
        self.port.stats.dropped(1);
    }

    /// The bytes of one message.
    pub fn size(&self) -> usize {
        self.geometry.size()
    }

    /// The number of slots.
    pub fn capacity(&self) -> u64 {
        self.geometry.capacity()
    }

    /// The position of the next message: how many were ever sent through this ring.
    pub fn position(&self) -> u64 {
        self.group.position()
    }

    /// How many messages wait to be received, as far as the consumer's line tells; in a broadcast
    /// ring, for the slowest of the consumers that are waited for.
    pub fn len(&self) -> u64 {
        self.space.waiting(self.position())
    }

    /// In a lossless broadcast ring, the consumer that is furthest behind: the one that holds up
    /// a producer which finds no room. Asks the kernel whether it lives.
    pub fn slowest(&self) -> Option<Laggard> {
        let position = self.position();
        self.space.slowest(position, position, self.port.link()).map(Laggard::from)
    }

    /// Whether no message waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What this endpoint counted.
    pub fn stats(&self) -> Stats {
        self.port.stats.get().at_position(self.position(), self.geometry.size() as u64)
    }

    endpoint_calls!(port, own stats);
    doorbell_calls!(port);
}

/// A1 and A2: finds the committed end, and clears what lies beyond.
fn recover(blocks: &BlockCursor, geometry: &SlotGeometry, released: u64, limit: u64) -> u64 {
    let per_block = geometry.per_block();
    let mut walk = blocks.walk_from(released / per_block);
    let (mut base, mut end) = (released - released % per_block, released);
    let mut left = geometry.blocks();
    while left > 0 {
        let Some(count) = count_in(walk.block().load(Acquire), walk.lap()) else {
            break;
        };
        end = end.max(base + count.min(per_block)).min(limit);
        if count < per_block {
            break;
        }
        walk.step();
        base += per_block;
        left -= 1;
    }
    // The block of `end` counts what it holds; those behind it must count nothing yet.
    let mut walk = blocks.walk_from(end / per_block);
    let ahead = geometry.blocks() - (end / per_block - released / per_block);
    for number in 0..ahead.min(geometry.blocks()) {
        let word = walk.block().load(Relaxed);
        let keeps = if number == 0 { end % per_block } else { 0 };
        if count_in(word, walk.lap()).is_some_and(|count| count > keeps) {
            let word = if keeps > 0 { header_word(walk.lap(), keeps) } else { 0 };
            walk.block().store(word, Relaxed);
        }
        walk.step();
    }
    end
}

impl Waits for RawProducer {
    fn port(&mut self) -> &mut Port {
        &mut self.port
    }

    fn ready(&mut self) -> bool {
        self.room() != Err(SendError::Full)
    }
}

impl Waitable for RawProducer {}

impl fmt::Debug for RawProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (position, geometry) = (self.position(), &self.geometry);
        f.debug_struct("RawProducer").field("position", &position).field("at", geometry).finish()
    }
}

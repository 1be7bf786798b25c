//! The receiving ends of a typed broadcast ring.
//!
//! The steps C1 to C5 are told in the parent module.

use super::attend::{Attend, Claimed, Unseen, observer_calls, wait_for};
use super::layout::{Keeping, PROMISED, START, SWEPT};
use super::{Astray, Join, ReceiverParts, TURNS_MAX};
use crate::ring::error::{AttachError, Corruption, RecvError, is_there};
use crate::ring::layout::MESSAGES_MAX;
use crate::ring::position::{SlotGeometry, check_unfilled, count_in, header_word};
use crate::stats::{Stats, StatsWriter};
use crate::sync::fence;
use crate::view::{BlockReader, Look64, View};
use crate::wait::{Port, Waitable, Waits, deadline_after, doorbell_calls, endpoint_calls};
use bytemuck::CheckedBitPattern;
use core::fmt;
use core::marker::PhantomData;
use core::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use core::time::Duration;
use std::time::Instant;

/// A place in a typed broadcast ring: what comes next, and whether it is still there.
pub(super) struct Follower {
    geometry: SlotGeometry,
    keeping: Keeping,
    position: u64,
    /// The number of its message in the block at the cursor; beyond all of them while messages
    /// are owed, so that the usual look finds none.
    index: u64,
    blocks: BlockReader,
    swept: Look64,
    control: View,
    /// Where it went on after it was last overtaken.
    resumed_at: u64,
    /// So many messages before the position were asked for and given up, and nobody was told yet.
    owed: u64,
}

impl Follower {
    fn new(
        control: &View,
        payload: &View,
        geometry: SlotGeometry,
        keeping: Keeping,
    ) -> Result<Self, AttachError> {
        let blocks = payload.blocks_to_read(geometry.shape(), geometry.blocks());
        let blocks = blocks.ok_or(AttachError::Geometry)?;
        let (swept, control) = (control.look64(SWEPT), control.clone());
        let (position, index, resumed_at, owed) = (0, 0, 0, 0);
        Ok(Self { geometry, keeping, position, index, blocks, swept, control, resumed_at, owed })
    }

    fn seek(&mut self, position: u64) {
        self.position = position;
        let index = position % self.geometry.per_block();
        self.index = if self.owed > 0 { u64::MAX } else { index };
        self.blocks.seek(position / self.geometry.per_block());
    }

    /// C1: whether there is a message at the position.
    #[inline(always)]
    fn poll(&mut self) -> Result<(), RecvError> {
        let word = self.blocks.load(Acquire); // edge `commit`
        match count_in(word, self.blocks.lap()) {
            Some(count) if count > self.index => Ok(()),
            _ => self.not_there(word),
        }
    }

    #[cold]
    #[inline(never)]
    fn not_there(&self, word: u64) -> Result<(), RecvError> {
        if self.owed > 0 || self.is_gone() {
            return Err(RecvError::Gap { missed: 0 }); // counted by `resume`
        }
        let per_block = self.geometry.per_block();
        match check_unfilled(word, self.blocks.lap(), self.index, per_block) {
            Ok(()) => Err(RecvError::Empty),
            Err(corruption) => Err(RecvError::Corrupt(corruption)),
        }
    }

    /// C3: whether what was copied from the position may have been overwritten meanwhile.
    #[inline(always)]
    fn is_gone(&self) -> bool {
        fence(Acquire); // edge `gone`
        self.keeping.is_gone(self.position, self.swept.load(Relaxed))
    }

    /// Goes past so many messages of the block at the cursor; whether it is still there.
    #[inline(always)]
    fn pass(&mut self, count: u64) -> bool {
        self.position += count;
        self.index += count;
        if self.index < self.geometry.per_block() {
            return true;
        }
        self.index = 0;
        self.blocks.advance();
        false
    }

    /// C5: goes on with what is kept, and says how many messages are lost by that.
    fn resume(&mut self) -> Result<u64, Astray> {
        if self.owed > 0 {
            let owed = core::mem::take(&mut self.owed);
            self.seek(self.position);
            return Ok(owed);
        }
        let swept = self.swept.load(Acquire); // edge `mark`
        let oldest = self.keeping.oldest(swept);
        let granule = self.keeping.granule;
        if swept > MESSAGES_MAX || oldest < self.position || !oldest.is_multiple_of(granule) {
            return Err(Corruption::Kept.into());
        }
        // Overtaken again at once, it keeps its distance.
        let soon = self.position.wrapping_sub(self.resumed_at) < self.keeping.total / 8;
        let apart = oldest + self.keeping.total / 8 / granule * granule;
        let to = if soon && self.resumed_at > 0 && self.is_begun(apart) { apart } else { oldest };
        if !self.is_begun(to) {
            return Err(Corruption::Kept.into());
        }
        let missed = to - self.position;
        self.seek(to);
        self.resumed_at = to;
        Ok(missed)
    }

    /// Whether the block that begins at `position` holds a message of its lap, or of a later one.
    fn is_begun(&self, position: u64) -> bool {
        let (word, lap) = self.blocks.load_at(position / self.keeping.granule, Acquire);
        word > header_word(lap, 0)
    }

    /// The committed end.
    fn newest(&self) -> Result<u64, Astray> {
        for _ in 0..TURNS_MAX {
            let start = self.control.load64(START, Acquire); // edge `mark`
            if start > MESSAGES_MAX {
                return Err(Corruption::Kept.into());
            }
            if let Some(end) = self.walk(start) {
                return Ok(end);
            }
        }
        Err(Astray::Contended)
    }

    /// Walks from `start` to the committed end; `None` when it was overtaken on the way.
    fn walk(&self, start: u64) -> Option<u64> {
        let per_block = self.geometry.per_block();
        let first = start / per_block;
        let last = first + self.geometry.blocks();
        for block in first..last {
            let (word, lap) = self.blocks.load_at(block, Acquire); // edge `commit`
            match count_in(word, lap) {
                Some(count) if count >= per_block => {}
                None if word >= header_word(lap + 1, 0) => return None,
                count => return Some(start.max(block * per_block + count.unwrap_or(0))),
            }
        }
        Some(last * per_block)
    }

    /// Takes its place, as `join` says.
    fn join(&mut self, join: Join) -> Result<(), AttachError> {
        let newest = self.newest()?;
        let position = match join {
            Join::Newest => newest,
            Join::Oldest => self.keeping.oldest(self.swept.load(Acquire)).min(newest),
            Join::At(asked) if asked > newest => {
                return Err(AttachError::Ahead { asked, newest });
            }
            Join::At(asked) => asked,
        };
        if position > MESSAGES_MAX {
            return Err(Corruption::Kept.into());
        }
        self.seek(position);
        Ok(())
    }
}

/// An end that receives every message of a typed broadcast ring, by bytes: of size
/// [`size`](Self::size) each.
pub struct RawBroadcastReceiver<W> {
    follower: Follower,
    attend: W,
    corruption: Option<Corruption>,
    /// The position at which a wait last found nothing.
    caught_up_at: u64,
}

impl RawBroadcastReceiver<Claimed> {
    pub(crate) fn claim(
        parts: ReceiverParts,
        stats: StatsWriter,
        slot: u32,
        geometry: SlotGeometry,
        keeping: Keeping,
        join: Join,
    ) -> Result<Self, AttachError> {
        let ReceiverParts { control, payload, link } = parts;
        let follower = Follower::new(&control, &payload, geometry, keeping)?;
        let attend = Claimed::new(&control, slot, false, keeping.lossless, link, stats);
        let attend = attend.ok_or(AttachError::ReadOnly)?;
        let mut receiver = Self { follower, attend, corruption: None, caught_up_at: 0 };
        receiver.join(join)?;
        Ok(receiver)
    }

    /// Takes its place; in a lossless ring, so that it is kept from then on.
    fn join(&mut self, join: Join) -> Result<(), AttachError> {
        self.attend.set_required(false);
        self.follower.join(join)?;
        let position = self.follower.position;
        self.attend.begin(position, position);
        let given_up = if self.follower.keeping.lossless { self.insist()? } else { 0 };
        if given_up > 0 {
            let position = self.follower.position;
            // Who asked for a position is told; who did not begins here.
            self.follower.owed = if matches!(join, Join::At(_)) { given_up } else { 0 };
            self.follower.seek(position);
            self.attend.begin(position, position - self.follower.owed);
        }
        self.caught_up_at = self.follower.position;
        Ok(())
    }

    /// J1 to J3: from now on the producer keeps what has not been received; how many messages it
    /// had promised to others already.
    fn insist(&mut self) -> Result<u64, Corruption> {
        let Self { follower, attend, .. } = self;
        let before = follower.position;
        attend.set_required(true);
        for _ in 0..TURNS_MAX {
            fence(SeqCst); // edge `join`
            let promised = follower.control.load64(PROMISED, Acquire);
            if !follower.keeping.is_gone(follower.position, promised) {
                return Ok(follower.position - before);
            }
            let oldest = follower.keeping.oldest(promised);
            if oldest > MESSAGES_MAX || !oldest.is_multiple_of(follower.geometry.per_block()) {
                break;
            }
            follower.seek(oldest);
            attend.moved(oldest, oldest);
        }
        attend.set_required(false);
        Err(Corruption::Kept)
    }

    fn required(&mut self, required: bool) -> Result<(), RecvError> {
        if !self.attend.usable() {
            return Err(self.refusal());
        }
        if !required || !self.follower.keeping.lossless {
            self.attend.set_required(false);
            return Ok(());
        }
        match self.insist() {
            Ok(0) => Ok(()),
            Ok(missed) => {
                self.attend.missed(missed);
                Err(RecvError::Gap { missed })
            }
            Err(corruption) => Err(self.corrupt(corruption)),
        }
    }

    /// What this consumer counted, and those before it in its place.
    pub fn stats(&self) -> Stats {
        self.attend.stats(self.position(), self.size() as u64)
    }

    endpoint_calls!(attend.port, own stats);
    doorbell_calls!(attend.port);
}

impl RawBroadcastReceiver<Unseen> {
    pub(crate) fn observe(
        parts: ReceiverParts,
        geometry: SlotGeometry,
        keeping: Keeping,
        join: Join,
    ) -> Result<Self, AttachError> {
        let ReceiverParts { control, payload, link } = parts;
        let mut follower = Follower::new(&control, &payload, geometry, keeping)?;
        follower.join(join)?;
        let caught_up_at = follower.position;
        Ok(Self { follower, attend: Unseen::new(link), corruption: None, caught_up_at })
    }
}

impl<W: Attend> RawBroadcastReceiver<W> {
    /// C1 to C4.
    #[inline(always)]
    fn take<R>(
        &mut self,
        read: &mut impl FnMut(&BlockReader, usize) -> Option<R>,
    ) -> Result<R, RecvError> {
        self.poll()?;
        let value = read(&self.follower.blocks, self.follower.index as usize);
        if self.follower.is_gone() {
            return Err(self.overtaken());
        }
        let position = self.follower.position;
        self.follower.pass(1);
        self.attend.moved(position + 1, position + 1);
        value.ok_or(RecvError::InvalidValue { position })
    }

    #[inline(always)]
    fn poll(&mut self) -> Result<(), RecvError> {
        if !self.attend.usable() {
            return Err(self.refusal());
        }
        match self.follower.poll() {
            Err(error @ (RecvError::Gap { .. } | RecvError::Corrupt(_))) => Err(self.lost(error)),
            looked => looked,
        }
    }

    #[cold]
    fn lost(&mut self, error: RecvError) -> RecvError {
        match error {
            RecvError::Corrupt(corruption) => self.corrupt(corruption),
            _ => self.overtaken(),
        }
    }

    /// C5.
    #[cold]
    #[inline(never)]
    fn overtaken(&mut self) -> RecvError {
        match self.follower.resume() {
            Ok(missed) => {
                self.attend.missed(missed);
                let position = self.follower.position;
                self.attend.moved(position, position);
                RecvError::Gap { missed }
            }
            Err(Astray::Corrupt(corruption)) => self.corrupt(corruption),
            Err(Astray::Contended) => RecvError::Empty,
        }
    }

    #[cold]
    fn corrupt(&mut self, corruption: Corruption) -> RecvError {
        self.corruption = Some(corruption);
        self.attend.condemn();
        RecvError::Corrupt(corruption)
    }

    #[cold]
    fn refusal(&self) -> RecvError {
        self.corruption.map_or(RecvError::Forked, RecvError::Corrupt)
    }

    #[inline(always)]
    fn try_take<R>(
        &mut self,
        mut read: impl FnMut(&BlockReader, usize) -> Option<R>,
    ) -> Result<R, RecvError> {
        match self.take(&mut read) {
            Err(RecvError::Empty) => {}
            done => return done,
        }
        match self.still_empty() {
            RecvError::Empty => Err(RecvError::Empty),
            // Once more, now that the producer's end is known.
            end => match self.take(&mut read) {
                Err(RecvError::Empty) => Err(end),
                done => done,
            },
        }
    }

    #[cold]
    #[inline(never)]
    fn still_empty(&mut self) -> RecvError {
        self.attend.found_nothing();
        self.attend.tried_in_vain().map_or(RecvError::Empty, RecvError::from)
    }

    #[inline(always)]
    fn take_until<R>(
        &mut self,
        mut read: impl FnMut(&BlockReader, usize) -> Option<R>,
        deadline: impl FnOnce() -> Option<Instant>,
    ) -> Result<R, RecvError> {
        match self.take(&mut read) {
            Err(RecvError::Empty) => {}
            done => return done,
        }
        self.wait_for_message(deadline())?;
        self.take(&mut read)
    }

    #[cold]
    #[inline(never)]
    fn wait_for_message(&mut self, deadline: Option<Instant>) -> Result<(), RecvError> {
        self.attend.found_nothing();
        let passed = self.follower.position - self.caught_up_at;
        self.caught_up_at = self.follower.position;
        if self.attend.look_away(passed, self.size() as u64) && is_there(self.poll())? {
            return Ok(());
        }
        wait_for(self, deadline, |end| &mut end.attend, Self::poll)
    }

    /// Receives up to `max` messages behind those in `messages`, with one look at each block's header
    /// word and one at what was given up while its messages were copied.
    #[inline]
    fn take_batch<R>(
        &mut self,
        max: usize,
        messages: &mut Vec<R>,
        mut read: impl FnMut(&BlockReader, usize) -> Option<R>,
    ) -> Result<usize, RecvError> {
        if max == 0 {
            return Ok(0);
        }
        self.poll()?;
        let (mut count, mut end) = (0, None);
        while end.is_none() && count < max {
            let follower = &self.follower;
            let (word, before) = (follower.blocks.load(Acquire), messages.len()); // edge `commit`
            let filled = count_in(word, follower.blocks.lap()).unwrap_or(0);
            let filled = filled.min(follower.geometry.per_block());
            let until = filled.min(follower.index + (max - count) as u64);
            for index in follower.index..until {
                match read(&follower.blocks, index as usize) {
                    Some(value) => messages.push(value),
                    None => {
                        end = Some(RecvError::InvalidValue { position: follower.position });
                        break;
                    }
                }
            }
            if follower.is_gone() {
                messages.truncate(before);
                break;
            }
            let copied = messages.len() - before;
            let last = self.follower.pass(copied as u64);
            count += copied;
            if last {
                break;
            }
        }
        match end {
            // The first is told; a later one is the answer of the next call.
            Some(error) if count == 0 => {
                self.follower.pass(1);
                self.moved();
                Err(error)
            }
            _ if count == 0 => Err(self.overtaken()),
            _ => {
                self.moved();
                Ok(count)
            }
        }
    }

    /// C4.
    #[inline(always)]
    fn moved(&mut self) {
        let position = self.follower.position;
        self.attend.moved(position, position);
    }

    /// Receives a message into `bytes`, of exactly [`size`](Self::size) bytes, if there is one.
    ///
    /// # Errors
    ///
    /// As [`BroadcastReceiver::try_recv`], and [`RecvError::WrongSize`].
    #[inline]
    pub fn try_recv(&mut self, bytes: &mut [u8]) -> Result<(), RecvError> {
        self.check_size(bytes)?;
        self.try_take(into_bytes(bytes))
    }

    /// Receives a message, waiting for it.
    ///
    /// # Errors
    ///
    /// As [`BroadcastReceiver::recv`], and [`RecvError::WrongSize`].
    #[inline]
    pub fn recv(&mut self, bytes: &mut [u8]) -> Result<(), RecvError> {
        self.check_size(bytes)?;
        self.take_until(into_bytes(bytes), || None)
    }

    /// Receives a message, waiting for it until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`BroadcastReceiver::recv_deadline`], and [`RecvError::WrongSize`].
    #[inline]
    pub fn recv_deadline(&mut self, bytes: &mut [u8], deadline: Instant) -> Result<(), RecvError> {
        self.check_size(bytes)?;
        self.take_until(into_bytes(bytes), || Some(deadline))
    }

    /// Receives a message, waiting for it for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`BroadcastReceiver::recv_timeout`], and [`RecvError::WrongSize`].
    #[inline]
    pub fn recv_timeout(&mut self, bytes: &mut [u8], timeout: Duration) -> Result<(), RecvError> {
        self.check_size(bytes)?;
        self.take_until(into_bytes(bytes), || deadline_after(timeout))
    }

    #[inline]
    fn check_size(&self, bytes: &[u8]) -> Result<(), RecvError> {
        let (len, size) = (bytes.len(), self.size());
        if len == size { Ok(()) } else { Err(RecvError::WrongSize { len, size }) }
    }

    /// The bytes of one message.
    pub fn size(&self) -> usize {
        self.follower.geometry.size()
    }

    /// How many messages the ring keeps, at least.
    pub fn capacity(&self) -> u64 {
        self.follower.geometry.capacity()
    }

    /// The position of the next message: how many were ever sent before it.
    pub fn position(&self) -> u64 {
        self.follower.position - self.follower.owed
    }

    /// How many messages were sent and neither received nor missed; some of them may be
    /// overwritten by now. Looks at a header word for each few of them.
    pub fn lag(&self) -> u64 {
        self.follower.newest().unwrap_or(0).saturating_sub(self.position())
    }
}

/// A reader of one message that fills `bytes`.
#[inline]
fn into_bytes(bytes: &mut [u8]) -> impl FnMut(&BlockReader, usize) -> Option<()> {
    |blocks, index| {
        blocks.read(index, bytes);
        Some(())
    }
}

/// A reader of one message as a value.
#[inline(always)]
fn value<T: CheckedBitPattern>(blocks: &BlockReader, index: usize) -> Option<T> {
    blocks.read_checked(index)
}

/// An end that receives every message of a typed broadcast ring; by the names
/// [`BroadcastConsumer`] and [`BroadcastObserver`].
///
/// Each has a position of its own. Whoever falls so far behind that what comes next was overwritten is
/// told by [`RecvError::Gap`] how many messages that were, and goes on with the oldest that is
/// still there (when that happens again at once, with one a little later, to keep its distance).
/// What was received and what was missed is together what was sent since it joined.
///
/// [`BroadcastConsumer`]: crate::BroadcastConsumer
/// [`BroadcastObserver`]: crate::BroadcastObserver
pub struct BroadcastReceiver<T, W> {
    raw: RawBroadcastReceiver<W>,
    value: PhantomData<fn() -> T>,
}

impl<T: CheckedBitPattern, W> BroadcastReceiver<T, W> {
    pub(super) fn new(raw: RawBroadcastReceiver<W>) -> Self {
        Self { raw, value: PhantomData }
    }
}

impl<T: CheckedBitPattern, W: Attend> BroadcastReceiver<T, W> {
    /// Receives a message if there is one.
    ///
    /// # Errors
    ///
    /// [`RecvError::Empty`] when there is none. After 64 of these, at least 50 ms apart, the
    /// kernel is asked about the producer; when everything was received and it has left or died, the
    /// answer is `Closed` or `PeerDied`. [`RecvError::Gap`] when messages were overwritten before
    /// they were received; [`RecvError::InvalidValue`] when the bytes are no `T`: the next call
    /// receives the next message.
    #[inline]
    pub fn try_recv(&mut self) -> Result<T, RecvError> {
        self.raw.try_take(value)
    }

    /// Receives a message, waiting for it.
    ///
    /// # Errors
    ///
    /// `Closed` and `PeerDied` when everything was received and the producer has left or died,
    /// see `outlive_peer`; a ring that never had a producer is waited for. `Gap` and
    /// `InvalidValue` as [`try_recv`](Self::try_recv).
    #[inline]
    pub fn recv(&mut self) -> Result<T, RecvError> {
        self.raw.take_until(value, || None)
    }

    /// Receives a message, waiting for it until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv), and `TimedOut`.
    #[inline]
    pub fn recv_deadline(&mut self, deadline: Instant) -> Result<T, RecvError> {
        self.raw.take_until(value, || Some(deadline))
    }

    /// Receives a message, waiting for it for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv), and `TimedOut`.
    #[inline]
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<T, RecvError> {
        self.raw.take_until(value, || deadline_after(timeout))
    }

    /// Receives up to `max` messages that are there now, behind those already in `messages`.
    /// Returns how many.
    ///
    /// # Errors
    ///
    /// As [`try_recv`](Self::try_recv). A message that was overwritten or is no `T` ends the
    /// batch and is the answer of the next call.
    #[inline]
    pub fn recv_batch(&mut self, messages: &mut Vec<T>, max: usize) -> Result<usize, RecvError> {
        let done = self.raw.take_batch(max, messages, value);
        if done != Err(RecvError::Empty) {
            return done;
        }
        match self.raw.still_empty() {
            RecvError::Empty => done,
            // Once more, now that the producer's end is known.
            end => match self.raw.take_batch(max, messages, value) {
                Err(RecvError::Empty) => Err(end),
                done => done,
            },
        }
    }

    /// Receives at least one and up to `max` messages behind those in `messages`, waiting for
    /// the first. Returns how many.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    pub fn recv_some(&mut self, messages: &mut Vec<T>, max: usize) -> Result<usize, RecvError> {
        loop {
            match self.raw.take_batch(max, messages, value) {
                Err(RecvError::Empty) => self.raw.wait_for_message(None)?,
                done => return done,
            }
        }
    }

    /// How many messages the ring keeps, at least.
    pub fn capacity(&self) -> u64 {
        self.raw.capacity()
    }

    /// The position of the next message: how many were ever sent before it.
    pub fn position(&self) -> u64 {
        self.raw.position()
    }

    /// How many messages were sent and neither received nor missed; some of them may be
    /// overwritten by now. Looks at a header word for each few of them.
    pub fn lag(&self) -> u64 {
        self.raw.lag()
    }
}

impl<T: CheckedBitPattern> BroadcastReceiver<T, Claimed> {
    /// In a lossless ring: whether the producer waits for this consumer. True at first; if false,
    /// and in any other ring, it may be overtaken.
    ///
    /// # Errors
    ///
    /// [`RecvError::Gap`] when it is to be waited for again, and from then on is, but so many
    /// messages were given up before.
    pub fn required(&mut self, required: bool) -> Result<(), RecvError> {
        self.raw.required(required)
    }

    /// What this consumer counted, and those before it in its place.
    pub fn stats(&self) -> Stats {
        self.raw.stats()
    }

    endpoint_calls!(raw.attend.port, own stats);
    doorbell_calls!(raw.attend.port);
}

impl RawBroadcastReceiver<Unseen> {
    observer_calls!(attend.onlooker);
}

impl<T: CheckedBitPattern> BroadcastReceiver<T, Unseen> {
    observer_calls!(raw.attend.onlooker);
}

impl Waits for RawBroadcastReceiver<Claimed> {
    fn port(&mut self) -> &mut Port {
        &mut self.attend.port
    }

    fn ready(&mut self) -> bool {
        // Looks without counting a gap, which is the next call's to tell.
        !self.attend.usable() || self.follower.poll() != Err(RecvError::Empty)
    }
}

impl Waitable for RawBroadcastReceiver<Claimed> {}

impl<T> Waits for BroadcastReceiver<T, Claimed> {
    fn port(&mut self) -> &mut Port {
        self.raw.port()
    }

    fn ready(&mut self) -> bool {
        self.raw.ready()
    }
}

impl<T> Waitable for BroadcastReceiver<T, Claimed> {}

impl<W> fmt::Debug for RawBroadcastReceiver<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawBroadcastReceiver")
            .field("position", &self.follower.position)
            .finish_non_exhaustive()
    }
}

impl<T, W> fmt::Debug for BroadcastReceiver<T, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BroadcastReceiver").field(&self.raw).finish()
    }
}

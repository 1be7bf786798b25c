//! What the receiving end of lanes does, for messages of bytes.
//!
//! The steps G1 to G4 are told in the parent module.

use super::FromLane;
use super::layout::{
    CONSUMER_SLEEP, CONSUMER_UNFENCED, LANE_WORDS, LEFT_OUT, LanesGeometry, PRODUCER_SLEEP,
    PRODUCERS_SLEEP, lane_at,
};
use crate::ring::endpoint::Parts;
use crate::ring::error::{AttachError, Corruption, RecvError, is_there};
use crate::ring::layout::RELEASED;
use crate::ring::slots::{Reader, check_released};
use crate::view::{Message, Word32};
use crate::wait::{Opposite, Port, WaitWords, wait_until};
use core::sync::atomic::Ordering::{Acquire, Release};
use std::time::Instant;

/// So many messages are received from one lane, at most, while others have some.
pub(super) const BURST: u32 = 32;

/// One lane, as its consumer sees it.
struct Lane {
    /// A header word that was found to count no message, so as not to judge it each time round.
    seen: u64,
    reader: Reader,
    /// Whether its producer sleeps.
    sleep: Word32,
    /// Why it was left out.
    corruption: Option<Corruption>,
}

/// All lanes by bytes.
///
/// Invariants: `current` is the number of a lane; while `left > 0` that lane is not left out and
/// nothing is pending.
pub(super) struct Gather {
    lanes: Vec<Lane>,
    /// The lane whose turn it is.
    current: usize,
    /// How many messages it may still give in this turn.
    left: u32,
    /// How many were received from all lanes.
    pub(super) received: u64,
    /// That, when a wait last found nothing.
    caught_up_at: u64,
    /// What the next calls have to tell about single lanes.
    pending: Vec<(u32, RecvError)>,
    /// The lane of the last error that was about one.
    pub(super) failed: Option<u32>,
    /// The message that was peeked last, by lane and position.
    peeked: Option<(usize, u64)>,
    pub(super) geometry: LanesGeometry,
    pub(super) port: Port,
}

impl Gather {
    /// Attaches at the released position of each lane.
    pub(super) fn attach(parts: Parts, geometry: LanesGeometry) -> Result<Self, AttachError> {
        geometry.check(&parts.control, &parts.payload)?;
        let waits = WaitWords {
            own_sleep: CONSUMER_SLEEP,
            own_unfenced: CONSUMER_UNFENCED,
            own_side: None,
            opposite: Opposite::Many {
                side: PRODUCERS_SLEEP,
                first: lane_at(0) + PRODUCER_SLEEP,
                stride: LANE_WORDS,
                count: geometry.lanes(),
                one_is_enough: false,
            },
        };
        let (mut lanes, mut pending, mut received) = (Vec::new(), Vec::new(), 0_u64);
        for number in 0..geometry.lanes() {
            let (words, blocks) = geometry.windows(&parts.control, &parts.payload, number)?;
            let released = words.load64(RELEASED, Acquire) & !LEFT_OUT;
            let (position, corruption) = match check_released(released) {
                Ok(position) => (position, None),
                Err(corruption) => (0, Some(corruption)),
            };
            let reader = Reader::new(&words, &blocks, &geometry.ring(), position)?;
            if let Some(corruption) = corruption {
                words.store64(RELEASED, released | LEFT_OUT, Release);
                pending.push((number, RecvError::Corrupt(corruption)));
            } else {
                // What its predecessor left out gets a new trial.
                words.store64(RELEASED, position, Release);
            }
            received = received.wrapping_add(position);
            let sleep = words.find32(PRODUCER_SLEEP).ok_or(AttachError::ReadOnly)?;
            lanes.push(Lane { seen: reader.idle_word(), reader, sleep, corruption });
        }
        pending.reverse();
        let current = lanes.len() - 1; // the first is the next
        let port = Port::new(parts.control, waits, parts.link, parts.stats);
        Ok(Self {
            lanes,
            current,
            left: 0,
            received,
            caught_up_at: received,
            pending,
            failed: None,
            peeked: None,
            geometry,
            port: port.ok_or(AttachError::ReadOnly)?,
        })
    }

    /// G1: makes a lane that has a message the current one.
    #[inline(always)]
    fn find(&mut self) -> Result<(), RecvError> {
        if !self.port.usable() {
            return Err(RecvError::Forked);
        }
        if self.left > 0 && self.lanes[self.current].reader.poll().is_ok() {
            return Ok(());
        }
        self.next_lane()
    }

    /// G1 behind the current lane's turn.
    #[inline(never)]
    fn next_lane(&mut self) -> Result<(), RecvError> {
        self.left = 0;
        if let Some((lane, error)) = self.pending.pop() {
            self.failed = Some(lane);
            return Err(error);
        }
        for index in (self.current + 1..self.lanes.len()).chain(0..=self.current) {
            let lane = &mut self.lanes[index];
            match lane.reader.poll() {
                Err(word) if word == lane.seen => {}
                _ if lane.corruption.is_some() => {}
                Ok(()) => {
                    self.current = index;
                    self.left = BURST;
                    return Ok(());
                }
                Err(word) => match lane.reader.judge(word) {
                    RecvError::Corrupt(corruption) => return Err(self.leave_out(index, corruption)),
                    _ => lane.seen = word,
                },
            }
        }
        self.nothing()
    }

    /// What there is to say when no lane has a message.
    #[cold]
    fn nothing(&mut self) -> Result<(), RecvError> {
        if self.lanes.iter().any(|lane| lane.corruption.is_none()) {
            return Err(RecvError::Empty);
        }
        let last = self.failed.unwrap_or(0);
        let corruption = self.lanes[last as usize].corruption.unwrap_or(Corruption::Stamp);
        Err(RecvError::Corrupt(corruption))
    }

    /// Takes nothing from lane `index` any more, and lets its producer know.
    #[cold]
    fn leave_out(&mut self, index: usize, corruption: Corruption) -> RecvError {
        let lane = &mut self.lanes[index];
        lane.corruption = Some(corruption);
        lane.reader.mark(LEFT_OUT);
        self.left = 0;
        self.failed = Some(index as u32);
        self.announce(index);
        RecvError::Corrupt(corruption)
    }

    /// Keeps an error that is about one lane for the next call.
    #[cold]
    fn put_off(&mut self, error: RecvError) {
        if let (Some(lane), RecvError::Corrupt(_) | RecvError::InvalidValue { .. }) =
            (self.failed, error)
            && self.pending.iter().all(|(other, _)| *other != lane)
        {
            self.left = 0;
            self.pending.push((lane, error));
        }
    }

    /// G4 for lane `index`.
    #[inline(always)]
    fn announce(&mut self, index: usize) {
        self.port.announce_to(index as u32, &self.lanes[index].sleep);
    }

    /// G3 and G4, when the current lane was released up to its position from `before` on.
    #[inline(always)]
    fn released(&mut self, before: u64) {
        self.announce(self.current);
        let passed = self.lanes[self.current].reader.position() - before;
        let total = self.received.wrapping_add(passed);
        self.port.stats.went_on(self.received, total);
        self.received = total;
        self.left -= (passed as u32).min(self.left);
    }

    /// G1 to G4.
    #[inline(always)]
    fn take<R>(
        &mut self,
        read: &mut impl FnMut(&Message<'_>) -> Option<R>,
    ) -> Result<FromLane<R>, RecvError> {
        self.find()?;
        let lane = self.current as u32;
        let reader = &mut self.lanes[self.current].reader;
        let position = reader.position();
        let value = read(&reader.message());
        reader.pass();
        reader.release(position + 1);
        self.released(position);
        match value {
            Some(value) => Ok(FromLane { lane, position, value }),
            None => Err(self.invalid(position)),
        }
    }

    #[cold]
    fn invalid(&mut self, position: u64) -> RecvError {
        self.failed = Some(self.current as u32);
        RecvError::InvalidValue { position }
    }

    #[inline(always)]
    pub(super) fn try_take<R>(
        &mut self,
        mut read: impl FnMut(&Message<'_>) -> Option<R>,
    ) -> Result<FromLane<R>, RecvError> {
        match self.take(&mut read) {
            Err(RecvError::Empty) => {}
            done => return done,
        }
        match self.still_empty() {
            RecvError::Empty => Err(RecvError::Empty),
            // Once more, now that the end of the peers is known.
            end => match self.take(&mut read) {
                Err(RecvError::Empty) => Err(end),
                done => done,
            },
        }
    }

    #[cold]
    #[inline(never)]
    pub(super) fn still_empty(&mut self) -> RecvError {
        self.port.stats.empty();
        self.port.tried_in_vain().map_or(RecvError::Empty, RecvError::from)
    }

    #[inline(always)]
    pub(super) fn take_until<R>(
        &mut self,
        mut read: impl FnMut(&Message<'_>) -> Option<R>,
        deadline: impl FnOnce() -> Option<Instant>,
    ) -> Result<FromLane<R>, RecvError> {
        match self.take(&mut read) {
            Err(RecvError::Empty) => {}
            done => return done,
        }
        self.wait_for_message(deadline())?;
        self.take(&mut read)
    }

    #[cold]
    #[inline(never)]
    pub(super) fn wait_for_message(&mut self, deadline: Option<Instant>) -> Result<(), RecvError> {
        self.port.stats.empty();
        let passed = self.received.wrapping_sub(self.caught_up_at);
        self.caught_up_at = self.received;
        let size = self.geometry.ring().size() as u64;
        if self.port.look_away(passed, size) && is_there(self.find())? {
            return Ok(());
        }
        wait_until(self, deadline, |end| &mut end.port, |end| is_there(end.find()))
    }

    /// Receives up to `max` messages, those of one lane with one release.
    pub(super) fn take_batch<R>(
        &mut self,
        max: usize,
        mut read: impl FnMut(&Message<'_>) -> Option<R>,
        mut take: impl FnMut(FromLane<R>),
    ) -> Result<usize, RecvError> {
        let mut count = 0;
        while count < max {
            match self.find() {
                Ok(()) => {}
                Err(error) if count == 0 => return Err(error),
                Err(error) => {
                    self.put_off(error);
                    break;
                }
            }
            let (lane, room) = (self.current as u32, (max - count).min(self.left as usize));
            let reader = &mut self.lanes[self.current].reader;
            let before = reader.position();
            let done = reader.take_batch(room, &mut read, |index, value| {
                take(FromLane { lane, position: before + index as u64, value });
            });
            if done != Err(RecvError::Empty) {
                self.released(before);
            }
            match done {
                Ok(taken) => count += taken,
                // Its producer takes back what it showed: nobody has to wait for that.
                Err(RecvError::Empty) if count > 0 => break,
                Err(error) => {
                    self.failed = Some(lane);
                    if count == 0 {
                        return Err(error);
                    }
                    self.put_off(error);
                    break;
                }
            }
        }
        Ok(count)
    }

    /// Copies the next message and leaves it where it is.
    pub(super) fn peek<R>(
        &mut self,
        read: impl FnOnce(&Message<'_>) -> Option<R>,
    ) -> Result<FromLane<R>, RecvError> {
        match self.find() {
            Err(RecvError::Empty) => {
                let end = self.still_empty();
                // Once more: when the end of the peers is known, what they sent is there.
                match self.find() {
                    Err(RecvError::Empty) => return Err(end),
                    found => found?,
                }
            }
            found => found?,
        }
        let lane = self.current;
        let reader = &self.lanes[lane].reader;
        let position = reader.position();
        self.peeked = Some((lane, position));
        match read(&reader.message()) {
            Some(value) => Ok(FromLane { lane: lane as u32, position, value }),
            None => Err(self.invalid(position)),
        }
    }

    /// G3 and G4 for the message that was peeked. It is not looked for again: its producer might
    /// take it back, and that of another lane would be passed unseen.
    pub(super) fn skip(&mut self) -> Result<(), RecvError> {
        if !self.port.usable() {
            return Err(RecvError::Forked);
        }
        let reader = &mut self.lanes[self.current].reader;
        let position = reader.position();
        if self.peeked != Some((self.current, position)) {
            return self.try_take(|_| Some(())).map(drop);
        }
        reader.pass();
        reader.release(position + 1);
        self.released(position);
        Ok(())
    }

    /// How many messages wait in a lane.
    pub(super) fn lag_of(&self, lane: u32) -> Option<u64> {
        let lane = self.lanes.get(lane as usize)?;
        let left_out = lane.corruption.is_some();
        Some(if left_out { 0 } else { lane.reader.lag(&self.geometry.ring()) })
    }

    /// The position of the next message of a lane.
    pub(super) fn position_of(&self, lane: u32) -> Option<u64> {
        Some(self.lanes.get(lane as usize)?.reader.position())
    }

    /// Why a lane was left out.
    pub(super) fn corruption_of(&self, lane: u32) -> Option<Corruption> {
        self.lanes.get(lane as usize)?.corruption
    }

    pub(super) fn ready(&mut self) -> bool {
        match self.find() {
            Ok(()) => true,
            Err(RecvError::Empty) => false,
            Err(error) => {
                self.put_off(error);
                true
            }
        }
    }
}

//! The receiving end of lanes.
//!
//! [`Gather`] does the steps G1 to G4, which are told in the parent module, for messages of bytes;
//! [`LanesConsumer`] adds the type.

use super::FromLane;
use super::layout::{
    CONSUMER_SLEEP, CONSUMER_UNFENCED, LANE_WORDS, LEFT_OUT, LanesGeometry, PRODUCER_SLEEP,
    PRODUCERS_SLEEP, lane_at,
};
use crate::peer::PeerState;
use crate::ring::endpoint::Parts;
use crate::ring::error::{AttachError, Corruption, RecvError, is_there};
use crate::ring::layout::RELEASED;
use crate::ring::slots::{Reader, check_released};
use crate::ring::typed::value;
use crate::stats::Stats;
use crate::view::{Message, Word32};
use crate::wait::{
    Doorbell, Opposite, Port, WaitWords, Waitable, Waits, deadline_after, endpoint_calls,
    wait_until,
};
use bytemuck::CheckedBitPattern;
use core::fmt;
use core::marker::PhantomData;
use core::sync::atomic::Ordering::{Acquire, Release};
use core::time::Duration;
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
    received: u64,
    /// That, when a wait last found nothing.
    caught_up_at: u64,
    /// What the next calls have to tell about single lanes.
    pending: Vec<(u32, RecvError)>,
    /// The lane of the last error that was about one.
    failed: Option<u32>,
    /// The message that was peeked last, by lane and position.
    peeked: Option<(usize, u64)>,
    geometry: LanesGeometry,
    pub(super) port: Port,
}

impl Gather {
    /// Attaches at the released position of each lane.
    fn attach(parts: Parts, geometry: LanesGeometry) -> Result<Self, AttachError> {
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
    fn try_take<R>(
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
    fn still_empty(&mut self) -> RecvError {
        self.port.stats.empty();
        self.port.tried_in_vain().map_or(RecvError::Empty, RecvError::from)
    }

    #[inline(always)]
    fn take_until<R>(
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
    fn wait_for_message(&mut self, deadline: Option<Instant>) -> Result<(), RecvError> {
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
    fn take_batch<R>(
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
    fn peek<R>(
        &mut self,
        read: impl FnOnce(&Message<'_>) -> Option<R>,
    ) -> Result<FromLane<R>, RecvError> {
        self.find()?;
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
    fn skip(&mut self) -> Result<(), RecvError> {
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

    fn lag(&self, lane: &Lane) -> u64 {
        if lane.corruption.is_some() { 0 } else { lane.reader.lag(&self.geometry.ring()) }
    }

    fn ready(&mut self) -> bool {
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

/// The receiving end of lanes: it receives what any of their producers sends.
///
/// There is one at a time. Dropping it leaves the lanes to a successor, who goes on with the first
/// message of each lane that was not received.
///
/// The messages of one producer come in their order. The lanes take turns: after at most 32
/// messages from one lane every other that has some comes first. A lane in which something
/// impossible stands is left out from then on, and told of by one [`RecvError::Corrupt`]; the
/// others go on.
pub struct LanesConsumer<T> {
    pub(super) raw: Gather,
    message: PhantomData<fn() -> T>,
}

impl<T: CheckedBitPattern> LanesConsumer<T> {
    /// Attaches at the first message of each lane that was not received. The geometry's size is
    /// that of `T`, which may be less than the producers'.
    pub(in crate::ring) fn attach(
        parts: Parts,
        geometry: LanesGeometry,
    ) -> Result<Self, AttachError> {
        if geometry.ring().size() != size_of::<T>() {
            return Err(AttachError::Geometry);
        }
        Ok(Self { raw: Gather::attach(parts, geometry)?, message: PhantomData })
    }

    /// Receives a message if there is one.
    ///
    /// # Errors
    ///
    /// [`RecvError::Empty`] when no lane has one. After 64 of these, at least 50 ms apart, the
    /// kernel is asked about the producers; when there are none any more, `Closed` or `PeerDied`
    /// is the answer. `InvalidValue` and `Corrupt` as for [`recv`](Self::recv).
    #[inline]
    pub fn try_recv(&mut self) -> Result<FromLane<T>, RecvError> {
        self.raw.try_take(value)
    }

    /// Receives a message, waiting for it.
    ///
    /// # Errors
    ///
    /// `PeerDied` when everything was received, no producer lives and one of them died; `Closed`
    /// when all have left; see [`outlive_peer`](Self::outlive_peer). Lanes that never had a
    /// producer are waited for.
    ///
    /// `InvalidValue` when the bytes are no `T`, and `Corrupt` once for each lane that was left
    /// out; [`failed_lane`](Self::failed_lane) says which lane it is, and the next call goes on.
    /// When all lanes are left out, every call answers `Corrupt`.
    #[inline]
    pub fn recv(&mut self) -> Result<FromLane<T>, RecvError> {
        self.raw.take_until(value, || None)
    }

    /// Receives a message, waiting for it until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv), and `TimedOut`.
    #[inline]
    pub fn recv_deadline(&mut self, deadline: Instant) -> Result<FromLane<T>, RecvError> {
        self.raw.take_until(value, || Some(deadline))
    }

    /// Receives a message, waiting for it for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv), and `TimedOut`.
    #[inline]
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<FromLane<T>, RecvError> {
        self.raw.take_until(value, || deadline_after(timeout))
    }

    /// Receives up to `max` messages that are there now, behind those already in `messages`; those
    /// of one lane's turn are released together. Returns how many.
    ///
    /// # Errors
    ///
    /// [`RecvError::Empty`] when there is none. An error that is about one lane ends the batch and
    /// is the answer of the next call.
    pub fn recv_batch(
        &mut self,
        messages: &mut Vec<FromLane<T>>,
        max: usize,
    ) -> Result<usize, RecvError> {
        let done = self.raw.take_batch(max, value, |message| messages.push(message));
        if done != Err(RecvError::Empty) {
            return done;
        }
        match self.raw.still_empty() {
            RecvError::Empty => done,
            // Once more, now that the end of the peers is known.
            end => match self.raw.take_batch(max, value, |message| messages.push(message)) {
                Err(RecvError::Empty) => Err(end),
                done => done,
            },
        }
    }

    /// Receives at least one and up to `max` messages behind those in `messages`, waiting for the
    /// first. Returns how many.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    pub fn recv_some(
        &mut self,
        messages: &mut Vec<FromLane<T>>,
        max: usize,
    ) -> Result<usize, RecvError> {
        loop {
            match self.raw.take_batch(max, value, |message| messages.push(message)) {
                Err(RecvError::Empty) => self.raw.wait_for_message(None)?,
                done => return done,
            }
        }
    }

    /// Copies the next message without receiving it: it is seen again until it is received,
    /// by a successor too if this process dies. For effects that must not be lost: look, act,
    /// then [`skip`](Self::skip); lane and position tell a repeated message.
    ///
    /// # Errors
    ///
    /// As [`try_recv`](Self::try_recv); a message that is no `T` stays until it is skipped.
    pub fn peek(&mut self) -> Result<FromLane<T>, RecvError> {
        self.raw.peek(value)
    }

    /// Receives the next message, which is the one that was peeked, without looking at it.
    ///
    /// # Errors
    ///
    /// As [`try_recv`](Self::try_recv).
    pub fn skip(&mut self) -> Result<(), RecvError> {
        self.raw.skip()
    }

    /// How many lanes there are.
    pub fn lanes(&self) -> u32 {
        self.raw.geometry.lanes()
    }

    /// The number of slots of each lane.
    pub fn capacity(&self) -> u64 {
        self.raw.geometry.ring().capacity()
    }

    /// How many messages were ever received through all lanes.
    pub fn position(&self) -> u64 {
        self.raw.received
    }

    /// The position of the next message of one lane; none if there is no such lane.
    pub fn position_of(&self, lane: u32) -> Option<u64> {
        Some(self.raw.lanes.get(lane as usize)?.reader.position())
    }

    /// How many messages wait in all lanes. Looks at a header word for each few of them.
    pub fn lag(&self) -> u64 {
        self.raw.lanes.iter().map(|lane| self.raw.lag(lane)).sum()
    }

    /// How many messages wait in one lane; none if there is no such lane.
    pub fn lag_of(&self, lane: u32) -> Option<u64> {
        Some(self.raw.lag(self.raw.lanes.get(lane as usize)?))
    }

    /// Asks the kernel about the producer of one lane: a system call or two; none if there is no
    /// such lane.
    pub fn peer_of(&self, lane: u32) -> Option<PeerState> {
        self.raw.port.peer_at(lane).map(|peer| peer.state)
    }

    /// The lane that the last `InvalidValue` or `Corrupt` was about.
    pub fn failed_lane(&self) -> Option<u32> {
        self.raw.failed
    }

    /// Why a lane was left out; none if it was not.
    pub fn corruption_of(&self, lane: u32) -> Option<Corruption> {
        self.raw.lanes.get(lane as usize)?.corruption
    }

    /// What this endpoint counted.
    pub fn stats(&self) -> Stats {
        let size = self.raw.geometry.ring().size() as u64;
        self.raw.port.stats.get().at_position(self.raw.received, size)
    }

    /// Makes a descriptor for `poll` and `epoll` that tells when there is something to do; see
    /// [`Doorbell`]. The last one made is the one that rings.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`](crate::ErrorKind) where producers could not find it: use
    /// `doorbell_to_pass`. [`ErrorKind::Forked`](crate::ErrorKind); errors of the kernel.
    pub fn doorbell(&mut self) -> crate::error::Result<Doorbell> {
        self.raw.port.hang_bell()
    }

    /// The same for segments without a name: the descriptor of this doorbell must be passed to
    /// each producer, who gives it to its `ring_by`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Forked`](crate::ErrorKind); errors of the kernel.
    pub fn doorbell_to_pass(&mut self) -> crate::error::Result<Doorbell> {
        self.raw.port.make_bell()
    }

    endpoint_calls!(raw.port, own stats);
}

impl<T> Waits for LanesConsumer<T> {
    fn port(&mut self) -> &mut Port {
        &mut self.raw.port
    }

    fn ready(&mut self) -> bool {
        self.raw.ready()
    }
}

impl<T> Waitable for LanesConsumer<T> {}

impl<T> fmt::Debug for LanesConsumer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LanesConsumer")
            .field("received", &self.raw.received)
            .field("at", &self.raw.geometry)
            .finish()
    }
}

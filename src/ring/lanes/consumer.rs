//! The receiving end of lanes, with a type. What it does stands in `gather`.

use super::FromLane;
use super::gather::Gather;
use super::layout::LanesGeometry;
use crate::peer::PeerState;
use crate::ring::endpoint::Parts;
use crate::ring::error::{AttachError, Corruption, RecvError};
use crate::ring::typed::value;
use crate::stats::Stats;
use crate::wait::{Doorbell, Port, Waitable, Waits, deadline_after, endpoint_calls};
use bytemuck::CheckedBitPattern;
use core::fmt;
use core::marker::PhantomData;
use core::time::Duration;
use std::time::Instant;

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
        self.raw.position_of(lane)
    }

    /// How many messages wait in all lanes. Looks at a header word for each few of them.
    pub fn lag(&self) -> u64 {
        (0..self.lanes()).filter_map(|lane| self.lag_of(lane)).sum()
    }

    /// How many messages wait in one lane; none if there is no such lane.
    pub fn lag_of(&self, lane: u32) -> Option<u64> {
        self.raw.lag_of(lane)
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
        self.raw.corruption_of(lane)
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

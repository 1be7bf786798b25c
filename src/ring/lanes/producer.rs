//! The producing end of a lane: that of a typed ring, with its wait words elsewhere.

use super::layout::{
    CONSUMER_SLEEP, CONSUMER_UNFENCED, LanesGeometry, PRODUCER_SLEEP, PRODUCER_UNFENCED,
    PRODUCERS_SLEEP, lane_at,
};
use crate::ring::endpoint::Parts;
use crate::ring::error::{AttachError, SendError};
use crate::ring::slots::RawProducer;
use crate::ring::typed::Producer;
use crate::stats::Stats;
use crate::wait::{Opposite, Port, WaitWords, Waitable, Waits, doorbell_calls, endpoint_calls};
use bytemuck::NoUninit;
use core::fmt;
use core::time::Duration;
use std::time::Instant;

/// The producing end of one lane.
///
/// There is one for each lane at a time. Dropping it leaves the lane to a successor, who goes on
/// behind the last message. What it answers is what the [`Producer`] of a typed ring answers; its
/// peer is the consumer of all lanes.
pub struct LaneProducer<T> {
    lane: u32,
    end: Producer<T>,
}

impl<T: NoUninit> LaneProducer<T> {
    /// Attaches behind the last committed message of `lane`. The geometry's size is that of `T`.
    pub(in crate::ring) fn attach(
        parts: Parts,
        geometry: LanesGeometry,
        lane: u32,
    ) -> Result<Self, AttachError> {
        geometry.check(&parts.control, &parts.payload)?;
        let (words, blocks) = geometry.windows(&parts.control, &parts.payload, lane)?;
        let waits = WaitWords {
            own_sleep: lane_at(lane) + PRODUCER_SLEEP,
            own_unfenced: lane_at(lane) + PRODUCER_UNFENCED,
            own_side: Some(PRODUCERS_SLEEP),
            opposite: Opposite::One { sleep: CONSUMER_SLEEP, unfenced: CONSUMER_UNFENCED },
        };
        let port = || {
            Port::new(parts.control, waits, parts.link, parts.stats).ok_or(AttachError::ReadOnly)
        };
        let raw = RawProducer::attach_to(&words, &blocks, geometry.ring(), port)?;
        Ok(Self { lane, end: Producer::of(raw)? })
    }

    /// Which lane it is, from 0.
    pub fn lane(&self) -> u32 {
        self.lane
    }

    /// Sends a message if there is room now.
    ///
    /// # Errors
    ///
    /// As [`Producer::try_push`].
    #[inline(always)]
    pub fn try_push(&mut self, message: T) -> Result<(), SendError> {
        self.end.try_push(message)
    }

    /// Sends a message, waiting for room.
    ///
    /// # Errors
    ///
    /// As [`Producer::push`].
    #[inline(always)]
    pub fn push(&mut self, message: T) -> Result<(), SendError> {
        self.end.push(message)
    }

    /// Sends a message, waiting for room until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`Producer::push_deadline`].
    #[inline]
    pub fn push_deadline(&mut self, message: T, deadline: Instant) -> Result<(), SendError> {
        self.end.push_deadline(message, deadline)
    }

    /// Sends a message, waiting for room for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`Producer::push_timeout`].
    #[inline]
    pub fn push_timeout(&mut self, message: T, timeout: Duration) -> Result<(), SendError> {
        self.end.push_timeout(message, timeout)
    }

    /// Sends a message, or drops and counts it if there is no room: true when it was sent.
    ///
    /// # Errors
    ///
    /// As [`Producer::push_or_drop`].
    #[inline]
    pub fn push_or_drop(&mut self, message: T) -> Result<bool, SendError> {
        self.end.push_or_drop(message)
    }

    /// Sends the first messages of the slice, as many as fit now; they become visible at once.
    /// Returns how many.
    ///
    /// # Errors
    ///
    /// As [`Producer::push_batch`].
    #[inline]
    pub fn push_batch(&mut self, messages: &[T]) -> Result<usize, SendError> {
        self.end.push_batch(messages)
    }

    /// Sends all messages of the slice in as few batches as the room allows, waiting for room.
    ///
    /// # Errors
    ///
    /// As [`Producer::push_slice`].
    pub fn push_slice(&mut self, messages: &[T]) -> Result<(), SendError> {
        self.end.push_slice(messages)
    }

    /// Sends all messages of the slice, visible at once, or none.
    ///
    /// # Errors
    ///
    /// As [`Producer::push_all`].
    pub fn push_all(&mut self, messages: &[T]) -> Result<(), SendError> {
        self.end.push_all(messages)
    }

    /// The number of slots of the lane.
    pub fn capacity(&self) -> u64 {
        self.end.capacity()
    }

    /// The position of the next message: how many were ever sent through this lane.
    pub fn position(&self) -> u64 {
        self.end.position()
    }

    /// How many messages wait in the lane, as far as the consumer's line tells.
    pub fn len(&self) -> u64 {
        self.end.len()
    }

    /// Whether no message waits in the lane.
    pub fn is_empty(&self) -> bool {
        self.end.is_empty()
    }

    /// What this endpoint counted.
    pub fn stats(&self) -> Stats {
        self.end.stats()
    }

    endpoint_calls!(end.raw.port, own stats);
    doorbell_calls!(end.raw.port);
}

impl<T> Waits for LaneProducer<T> {
    fn port(&mut self) -> &mut Port {
        self.end.port()
    }

    fn ready(&mut self) -> bool {
        self.end.ready()
    }
}

impl<T> Waitable for LaneProducer<T> {}

impl<T> fmt::Debug for LaneProducer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LaneProducer").field("lane", &self.lane).field("end", &self.end).finish()
    }
}

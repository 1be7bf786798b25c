//! Ends of rings as futures, for tokio.
//!
//! A message is taken, or sent, in the very step that completes the future; so a
//! future that is dropped before (`select!`, a timeout) has taken and sent
//! nothing. How an [`Async`] waits is told in `wait::asleep`.

use super::broadcast::{BroadcastConsumer, BroadcastRecordConsumer};
use super::error::{RecvError, SendError};
use super::lanes::{FromLane, LaneProducer, LanesConsumer};
use super::record::{Record, RecordConsumer, RecordProducer, Reservation};
use super::shared::{SharedConsumer, SharedProducer};
use super::slots::{RawConsumer, RawProducer};
use super::typed::{Consumer, Producer};
use crate::wait::{Async, Waitable};
use bytemuck::{CheckedBitPattern, NoUninit};

/// The awaited end of a typed ring that receives.
pub type AsyncConsumer<T> = Async<Consumer<T>>;
/// The awaited end of a typed ring that sends.
pub type AsyncProducer<T> = Async<Producer<T>>;
/// The same by bytes.
pub type AsyncRawConsumer = Async<RawConsumer>;
/// The same by bytes.
pub type AsyncRawProducer = Async<RawProducer>;
/// The awaited end of a broadcast ring that receives.
pub type AsyncBroadcastConsumer<T> = Async<BroadcastConsumer<T>>;
/// The awaited end of a broadcast ring of records that receives.
pub type AsyncBroadcastRecordConsumer = Async<BroadcastRecordConsumer>;
/// The awaited end of lanes that receives.
pub type AsyncLanesConsumer<T> = Async<LanesConsumer<T>>;
/// The awaited end of one lane that sends.
pub type AsyncLaneProducer<T> = Async<LaneProducer<T>>;
/// The awaited end of a record ring that receives.
pub type AsyncRecordConsumer = Async<RecordConsumer>;
/// The awaited end of a record ring that sends.
pub type AsyncRecordProducer = Async<RecordProducer>;

/// An awaited end of a shared ring that receives.
pub type AsyncSharedConsumer<T> = Async<SharedConsumer<T>>;
/// An awaited end of a shared ring that sends.
pub type AsyncSharedProducer<T> = Async<SharedProducer<T>>;

impl<E: Waitable> Async<E> {
    async fn recv_by<R>(
        &mut self,
        mut attempt: impl FnMut(&mut E) -> Result<R, RecvError>,
    ) -> Result<R, RecvError> {
        self.until(|end| match attempt(end) {
            Err(RecvError::Empty) => Ok(None),
            done => done.map(Some),
        })
        .await
    }

    async fn send_by<R>(
        &mut self,
        mut attempt: impl FnMut(&mut E) -> Result<R, SendError>,
    ) -> Result<R, SendError> {
        self.until(|end| match attempt(end) {
            Err(SendError::Full) => Ok(None),
            done => done.map(Some),
        })
        .await
    }
}

impl<T: CheckedBitPattern> Async<Consumer<T>> {
    /// Receives a message; cancel safe.
    ///
    /// # Errors
    ///
    /// As [`Consumer::recv`].
    pub async fn recv(&mut self) -> Result<T, RecvError> {
        self.recv_by(Consumer::try_recv).await
    }

    /// Receives at least one and up to `max` messages, behind those already in `messages`; how
    /// many. Cancel safe.
    ///
    /// # Errors
    ///
    /// As [`Consumer::recv`].
    pub async fn recv_batch(
        &mut self,
        messages: &mut Vec<T>,
        max: usize,
    ) -> Result<usize, RecvError> {
        self.recv_by(|end| end.recv_batch(messages, max)).await
    }
}

impl<T: CheckedBitPattern> Async<BroadcastConsumer<T>> {
    /// Receives a message; cancel safe.
    ///
    /// # Errors
    ///
    /// As [`BroadcastConsumer::recv`](crate::BroadcastReceiver::recv).
    pub async fn recv(&mut self) -> Result<T, RecvError> {
        self.recv_by(BroadcastConsumer::try_recv).await
    }

    /// Receives at least one and up to `max` messages, behind those already in `messages`; how
    /// many. Cancel safe.
    ///
    /// # Errors
    ///
    /// As [`BroadcastConsumer::recv`](crate::BroadcastReceiver::recv).
    pub async fn recv_batch(
        &mut self,
        messages: &mut Vec<T>,
        max: usize,
    ) -> Result<usize, RecvError> {
        self.recv_by(|end| end.recv_batch(messages, max)).await
    }
}

impl Async<BroadcastRecordConsumer> {
    /// Receives the next record into `bytes`, whose contents it replaces; cancel safe.
    ///
    /// # Errors
    ///
    /// As [`BroadcastRecordConsumer::recv`](crate::BroadcastRecordReceiver::recv).
    pub async fn recv(&mut self, bytes: &mut Vec<u8>) -> Result<(), RecvError> {
        self.recv_by(|end| end.try_recv(bytes)).await
    }
}

impl<T: NoUninit> Async<Producer<T>> {
    /// Sends a message, waiting for room; cancel safe.
    ///
    /// # Errors
    ///
    /// As [`Producer::push`].
    pub async fn push(&mut self, message: T) -> Result<(), SendError> {
        self.send_by(|end| end.try_push(message)).await
    }
}

impl<T: CheckedBitPattern> Async<SharedConsumer<T>> {
    /// Receives a message; cancel safe.
    ///
    /// # Errors
    ///
    /// As [`SharedConsumer::recv`].
    pub async fn recv(&mut self) -> Result<T, RecvError> {
        self.recv_by(SharedConsumer::try_recv).await
    }

    /// Receives at least one and up to `max` messages, behind those already in `messages`; how
    /// many. Cancel safe.
    ///
    /// # Errors
    ///
    /// As [`SharedConsumer::recv`].
    pub async fn recv_batch(
        &mut self,
        messages: &mut Vec<T>,
        max: usize,
    ) -> Result<usize, RecvError> {
        self.recv_by(|end| end.recv_batch(messages, max)).await
    }
}

impl<T: NoUninit> Async<SharedProducer<T>> {
    /// Sends a message, waiting for room; cancel safe.
    ///
    /// # Errors
    ///
    /// As [`SharedProducer::push`].
    pub async fn push(&mut self, message: T) -> Result<(), SendError> {
        self.send_by(|end| end.try_push(message)).await
    }
}

impl Async<RawConsumer> {
    /// Receives a message into `bytes`; cancel safe.
    ///
    /// # Errors
    ///
    /// As [`RawConsumer::recv`].
    pub async fn recv(&mut self, bytes: &mut [u8]) -> Result<(), RecvError> {
        self.recv_by(|end| end.try_recv(bytes)).await
    }
}

impl Async<RawProducer> {
    /// Sends a message, waiting for room; cancel safe.
    ///
    /// # Errors
    ///
    /// As [`RawProducer::push`].
    pub async fn push(&mut self, bytes: &[u8]) -> Result<(), SendError> {
        self.send_by(|end| end.try_push(bytes)).await
    }
}

impl<T: CheckedBitPattern> Async<LanesConsumer<T>> {
    /// Receives a message; cancel safe.
    ///
    /// # Errors
    ///
    /// As [`LanesConsumer::recv`].
    pub async fn recv(&mut self) -> Result<FromLane<T>, RecvError> {
        self.recv_by(LanesConsumer::try_recv).await
    }

    /// Receives at least one and up to `max` messages, behind those already in `messages`; how
    /// many. Cancel safe.
    ///
    /// # Errors
    ///
    /// As [`LanesConsumer::recv`].
    pub async fn recv_batch(
        &mut self,
        messages: &mut Vec<FromLane<T>>,
        max: usize,
    ) -> Result<usize, RecvError> {
        self.recv_by(|end| end.recv_batch(messages, max)).await
    }
}

impl<T: NoUninit> Async<LaneProducer<T>> {
    /// Sends a message, waiting for room; cancel safe.
    ///
    /// # Errors
    ///
    /// As [`LaneProducer::push`].
    pub async fn push(&mut self, message: T) -> Result<(), SendError> {
        self.send_by(|end| end.try_push(message)).await
    }
}

impl Async<RecordConsumer> {
    /// Receives the next record into `bytes`, whose contents it replaces; cancel safe.
    ///
    /// # Errors
    ///
    /// As [`RecordConsumer::recv`].
    pub async fn recv(&mut self, bytes: &mut Vec<u8>) -> Result<(), RecvError> {
        self.recv_by(|end| end.try_recv(bytes)).await
    }

    /// Reads the next record, which stays in the ring until it is released; cancel safe.
    ///
    /// # Errors
    ///
    /// As [`RecordConsumer::read`].
    pub async fn read(&mut self) -> Result<Record<'_>, RecvError> {
        self.recv_by(|end| end.try_read().map(drop)).await?;
        self.get_mut().try_read()
    }
}

impl Async<RecordProducer> {
    /// Sends `bytes` as one record, waiting for room; cancel safe.
    ///
    /// # Errors
    ///
    /// As [`RecordProducer::push`].
    pub async fn push(&mut self, bytes: &[u8]) -> Result<(), SendError> {
        self.send_by(|end| end.try_push(bytes)).await
    }

    /// Reserves a record of `len` bytes, waiting for room; cancel safe.
    ///
    /// # Errors
    ///
    /// As [`RecordProducer::reserve`].
    pub async fn reserve(&mut self, len: usize) -> Result<Reservation<'_>, SendError> {
        self.send_by(|end| end.try_reserve(len).map(drop)).await?;
        self.get_mut().try_reserve(len)
    }
}

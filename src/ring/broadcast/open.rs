//! How a segment declares broadcast rings and gives out their ends.

use super::layout::{
    CONSUMER_LEN, CONSUMERS_MAX, CONSUMERS_USUAL, Keeping, MARK_LEN, MARKS, PRODUCER_SLEEP,
    PRODUCER_UNFENCED, PROMISED, SLEEP, SLEEPERS, START, SWEPT, consumer, words_len,
};
use super::sweep::Sweep;
use super::{
    BroadcastConsumer, BroadcastObserver, BroadcastReceiver, BroadcastRecordConsumer,
    BroadcastRecordObserver, BroadcastRecordReceiver, Join, RawBroadcastConsumer,
    RawBroadcastObserver, RawBroadcastReceiver, ReceiverParts,
};
use crate::error::{Error, ErrorKind, Result};
use crate::ring::endpoint::Parts;
use crate::ring::error::{AttachError, Corruption};
use crate::ring::layout::{CONTROL_ALIGN, MESSAGES_MAX, POSITION_MAX, WORD_LEN};
use crate::ring::open::parts;
use crate::ring::position::{RecordGeometry, SlotGeometry};
use crate::ring::record::{RecordProducer, committed_end};
use crate::ring::slots::RawProducer;
use crate::ring::space::Space;
use crate::ring::typed::Producer;
use crate::segment::builder::SegmentBuilder;
use crate::segment::directory::{ObjectSpec, Schema, TypeIdentity, check_type, description_calls};
use crate::segment::endpoint::Role;
use crate::segment::layout::ObjectKind;
use crate::segment::{ObjectHandle, Segment};
use crate::view::View;
use crate::wait::{Opposite, Port, WaitWords};
use bytemuck::{CheckedBitPattern, NoUninit};
use core::fmt;
use core::marker::PhantomData;
use core::sync::atomic::Ordering::{Acquire, Relaxed};

/// Describes a broadcast ring of values of type `T`: one producer, and consumers and observers
/// that each receive everything.
pub struct BroadcastRing<T> {
    capacity: u64,
    consumers: u32,
    lossless: bool,
    identity: TypeIdentity,
    schema: Option<Schema>,
    value: PhantomData<fn(T)>,
}

impl<T> BroadcastRing<T> {
    /// A ring that keeps at least the last `capacity` values; any number from 1 on.
    pub fn new(capacity: u64) -> Self {
        Self {
            capacity,
            consumers: CONSUMERS_USUAL,
            lossless: false,
            identity: TypeIdentity::default(),
            schema: None,
            value: PhantomData,
        }
    }

    /// How many consumers there may be at a time, from 1 to 255; 16 by default. Observers are not
    /// counted.
    #[must_use]
    pub fn consumers(mut self, consumers: u32) -> Self {
        self.consumers = consumers;
        self
    }

    /// Whether the producer waits for consumers instead of overwriting what they have not
    /// received. False by default. Observers are overtaken in any case, and so are consumers that
    /// say so (`required`).
    #[must_use]
    pub fn lossless(mut self, lossless: bool) -> Self {
        self.lossless = lossless;
        self
    }

    description_calls!("the type");

    fn spec(self, name: &str) -> Result<ObjectSpec> {
        let size = size_of::<T>();
        check_consumers(name, self.consumers)?;
        let geometry = Keeping::of_slots(size, self.capacity, self.consumers, self.lossless);
        let (_, geometry) = geometry.ok_or_else(|| {
            Error::new(ErrorKind::InvalidCapacity, "declare broadcast ring", name).detail(format!(
                "a ring of {} values of {size} bytes cannot be: it holds none, or is larger \
                 than memory",
                self.capacity
            ))
        })?;
        Ok(ObjectSpec {
            kind: ObjectKind::BroadcastRing,
            capacity: geometry.capacity(),
            stride: geometry.stride() as u64,
            payload_align: CONTROL_ALIGN as u64,
            user_header: 0,
            producers: 1,
            consumers: self.consumers,
            extra: [u64::from(self.lossless), 0],
            words_bytes: words_len(self.consumers) as u64,
            payload_bytes: geometry.bytes() as u64,
            type_identity: self.identity,
            type_size: size as u64,
            type_align: align_of::<T>() as u64,
            schema: self.schema,
        })
    }
}

impl<T> fmt::Debug for BroadcastRing<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BroadcastRing")
            .field("capacity", &self.capacity)
            .field("consumers", &self.consumers)
            .field("lossless", &self.lossless)
            .finish_non_exhaustive()
    }
}

/// Describes a broadcast ring of records of any length.
#[derive(Clone, Debug)]
pub struct BroadcastRecords {
    bytes: u64,
    consumers: u32,
    lossless: bool,
    payload_align: u64,
    user_header: u64,
    identity: TypeIdentity,
    schema: Option<Schema>,
}

impl BroadcastRecords {
    /// A ring of `bytes` bytes, rounded up to a multiple of 256 and of the payload alignment.
    ///
    /// Each record takes 8 bytes more than its payload, user header and alignment, and at most
    /// about a quarter of the ring. Of what was sent, all is kept but the room that the next record
    /// takes and up to a 32nd part of the ring.
    pub fn new(bytes: u64) -> Self {
        Self {
            bytes,
            consumers: CONSUMERS_USUAL,
            lossless: false,
            payload_align: 8,
            user_header: 0,
            identity: TypeIdentity::default(),
            schema: None,
        }
    }

    /// How many consumers there may be at a time; as [`BroadcastRing::consumers`].
    #[must_use]
    pub fn consumers(mut self, consumers: u32) -> Self {
        self.consumers = consumers;
        self
    }

    /// Whether the producer waits for consumers; as [`BroadcastRing::lossless`].
    #[must_use]
    pub fn lossless(mut self, lossless: bool) -> Self {
        self.lossless = lossless;
        self
    }

    /// Payloads begin at multiples of `align`, a power of two from 8 to 4096; 8 by default.
    #[must_use]
    pub fn payload_align(mut self, align: u64) -> Self {
        self.payload_align = align;
        self
    }

    /// Each record carries a header of `bytes` bytes, a multiple of 8 up to 4096, beside its
    /// payload; 0 by default.
    #[must_use]
    pub fn user_header(mut self, bytes: u64) -> Self {
        self.user_header = bytes;
        self
    }

    description_calls!("what the records are");

    fn spec(self, name: &str) -> Result<ObjectSpec> {
        let Self { bytes, consumers, lossless, payload_align, user_header, .. } = self;
        check_consumers(name, consumers)?;
        let geometry = Keeping::records_capacity(bytes, payload_align).and_then(|capacity| {
            Keeping::of_records(capacity, payload_align, user_header, consumers, lossless)
        });
        let (_, geometry) = geometry.ok_or_else(|| {
            Error::new(ErrorKind::InvalidCapacity, "declare broadcast records", name).detail(
                format!(
                    "a ring of {bytes} bytes with payloads aligned to {payload_align} and user \
                     headers of {user_header} bytes cannot be"
                ),
            )
        })?;
        Ok(ObjectSpec {
            kind: ObjectKind::BroadcastRecords,
            capacity: geometry.capacity(),
            stride: 0,
            payload_align: geometry.payload_align(),
            user_header: geometry.user_header(),
            producers: 1,
            consumers,
            extra: [u64::from(lossless), 0],
            words_bytes: records_words_len(consumers) as u64,
            payload_bytes: geometry.capacity(),
            type_identity: self.identity,
            type_size: 0,
            type_align: 1,
            schema: self.schema,
        })
    }
}

fn records_words_len(consumers: u32) -> usize {
    words_len(consumers) + MARKS as usize * MARK_LEN
}

fn check_consumers(name: &str, consumers: u32) -> Result<()> {
    if (1..=CONSUMERS_MAX).contains(&consumers) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidArgument, "declare object", name)
        .detail(format!("{consumers} consumers, it can be 1 to {CONSUMERS_MAX}"))
        .remedy("observers claim no place: there may be any number of them"))
}

impl SegmentBuilder {
    /// Declares a broadcast ring that keeps at least the last `capacity` values of type `T`.
    pub fn broadcast<T: NoUninit>(self, name: &str, capacity: u64) -> Self {
        self.broadcast_of(name, BroadcastRing::<T>::new(capacity))
    }

    /// Declares a broadcast ring with all its options.
    pub fn broadcast_of<T: NoUninit>(self, name: &str, ring: BroadcastRing<T>) -> Self {
        self.declare(name, ring.spec(name))
    }

    /// Declares a broadcast ring of `bytes` bytes for records of any length.
    pub fn broadcast_records(self, name: &str, bytes: u64) -> Self {
        self.broadcast_records_of(name, BroadcastRecords::new(bytes))
    }

    /// Declares a broadcast ring of records with all its options.
    pub fn broadcast_records_of(self, name: &str, ring: BroadcastRecords) -> Self {
        self.declare(name, ring.spec(name))
    }
}

impl Segment {
    /// Adds a broadcast ring to the live segment.
    ///
    /// # Errors
    ///
    /// As [`add_ring`](Self::add_ring).
    pub fn add_broadcast<T: NoUninit>(&self, name: &str, ring: BroadcastRing<T>) -> Result<()> {
        self.add(name, &ring.spec(name)?)
    }

    /// Adds a broadcast ring of records to the live segment.
    ///
    /// # Errors
    ///
    /// As [`add_ring`](Self::add_ring).
    pub fn add_broadcast_records(&self, name: &str, ring: BroadcastRecords) -> Result<()> {
        self.add(name, &ring.spec(name)?)
    }

    /// The producing end of a broadcast ring, going on behind the last committed value.
    ///
    /// It is a [`Producer`] as that of a ring with one consumer. Its calls wait, or answer
    /// `Full`, only in a lossless ring, and go on when a consumer has left or died. Where nothing is
    /// waited for nothing ends a wait: ask [`Segment::is_superseded`] whether the segment was
    /// removed or replaced.
    ///
    /// # Errors
    ///
    /// As [`producer`](Self::producer).
    pub fn broadcast_producer<T: NoUninit>(&self, name: &str) -> Result<Producer<T>> {
        self.broadcast_producer_as(name, &TypeIdentity::default())
    }

    /// The producing end of a broadcast ring whose type has a name and version.
    ///
    /// # Errors
    ///
    /// As [`producer`](Self::producer).
    pub fn broadcast_producer_as<T: NoUninit>(
        &self,
        name: &str,
        identity: &TypeIdentity,
    ) -> Result<Producer<T>> {
        let object = self.broadcast_object::<T>(name, identity, false)?;
        let (keeping, geometry) = slots_of(&object)?;
        let producer = produce(parts(&object, Role::Producer)?, keeping, geometry);
        producer.map(Producer::from_raw).map_err(|error| error.of(name))
    }

    /// A consumer of a broadcast ring, in the first place that is free.
    ///
    /// # Errors
    ///
    /// As [`producer`](Self::producer); [`ErrorKind::TableFull`] if no place is free;
    /// [`ErrorKind::InvalidArgument`] if it is to begin at a position that was not sent yet.
    pub fn broadcast_consumer<T: CheckedBitPattern>(
        &self,
        name: &str,
        join: Join,
    ) -> Result<BroadcastConsumer<T>> {
        self.broadcast_consumer_as(name, join, &TypeIdentity::default())
    }

    /// A consumer of a broadcast ring whose type has a name and version.
    ///
    /// Where the type has a name, `T` may be shorter than what the producer writes: a prefix is
    /// read then.
    ///
    /// # Errors
    ///
    /// As [`broadcast_consumer`](Self::broadcast_consumer).
    pub fn broadcast_consumer_as<T: CheckedBitPattern>(
        &self,
        name: &str,
        join: Join,
        identity: &TypeIdentity,
    ) -> Result<BroadcastConsumer<T>> {
        let object = self.broadcast_object::<T>(name, identity, true)?;
        let (keeping, geometry) = slots_of(&object)?;
        let geometry = geometry.with_size(size_of::<T>());
        claim_slots(&object, keeping, geometry, join).map(BroadcastReceiver::new)
    }

    /// An observer of a broadcast ring, also of a segment that is open read-only.
    ///
    /// # Errors
    ///
    /// As [`broadcast_consumer`](Self::broadcast_consumer), but there is always place.
    pub fn broadcast_observer<T: CheckedBitPattern>(
        &self,
        name: &str,
        join: Join,
    ) -> Result<BroadcastObserver<T>> {
        self.broadcast_observer_as(name, join, &TypeIdentity::default())
    }

    /// An observer of a broadcast ring whose type has a name and version.
    ///
    /// # Errors
    ///
    /// As [`broadcast_observer`](Self::broadcast_observer).
    pub fn broadcast_observer_as<T: CheckedBitPattern>(
        &self,
        name: &str,
        join: Join,
        identity: &TypeIdentity,
    ) -> Result<BroadcastObserver<T>> {
        let object = self.broadcast_object::<T>(name, identity, true)?;
        let (keeping, geometry) = slots_of(&object)?;
        let geometry = geometry.with_size(size_of::<T>());
        observe_slots(&object, keeping, geometry, join).map(BroadcastReceiver::new)
    }

    /// A consumer of a broadcast ring by bytes, for programs that do not know the type.
    ///
    /// # Errors
    ///
    /// As [`broadcast_consumer`](Self::broadcast_consumer), without the type's.
    pub fn raw_broadcast_consumer(&self, name: &str, join: Join) -> Result<RawBroadcastConsumer> {
        let object = self.of_kind(name, ObjectKind::BroadcastRing)?;
        let (keeping, geometry) = slots_of(&object)?;
        claim_slots(&object, keeping, geometry, join)
    }

    /// An observer of a broadcast ring by bytes, for programs that do not know the type.
    ///
    /// # Errors
    ///
    /// As [`broadcast_observer`](Self::broadcast_observer), without the type's.
    pub fn raw_broadcast_observer(&self, name: &str, join: Join) -> Result<RawBroadcastObserver> {
        let object = self.of_kind(name, ObjectKind::BroadcastRing)?;
        let (keeping, geometry) = slots_of(&object)?;
        observe_slots(&object, keeping, geometry, join)
    }

    /// The producing end of a broadcast ring of records, going on behind the last committed
    /// record; a [`RecordProducer`] as that of a ring with one consumer, see
    /// [`broadcast_producer`](Self::broadcast_producer).
    ///
    /// # Errors
    ///
    /// As [`producer`](Self::producer), without the type's.
    pub fn broadcast_record_producer(&self, name: &str) -> Result<RecordProducer> {
        let object = self.of_kind(name, ObjectKind::BroadcastRecords)?;
        let (keeping, geometry) = records_of(&object)?;
        let producer = produce_records(parts(&object, Role::Producer)?, keeping, geometry);
        producer.map_err(|error| error.of(name))
    }

    /// A consumer of a broadcast ring of records, in the first place that is free.
    ///
    /// # Errors
    ///
    /// As [`broadcast_consumer`](Self::broadcast_consumer), without the type's.
    pub fn broadcast_record_consumer(
        &self,
        name: &str,
        join: Join,
    ) -> Result<BroadcastRecordConsumer> {
        let object = self.of_kind(name, ObjectKind::BroadcastRecords)?;
        let (keeping, geometry) = records_of(&object)?;
        let (slot, endpoint) = object.claim_any(Role::Consumer)?;
        let stats = endpoint.stats().ok_or_else(|| AttachError::Geometry.of(name))?;
        let parts = ReceiverParts {
            control: object.words,
            payload: object.payload,
            link: Box::new(endpoint),
        };
        BroadcastRecordReceiver::claim(parts, stats, slot, geometry, keeping, join)
            .map_err(|error| error.of(name))
    }

    /// An observer of a broadcast ring of records, also of a segment that is open read-only.
    ///
    /// # Errors
    ///
    /// As [`broadcast_observer`](Self::broadcast_observer), without the type's.
    pub fn broadcast_record_observer(
        &self,
        name: &str,
        join: Join,
    ) -> Result<BroadcastRecordObserver> {
        let object = self.of_kind(name, ObjectKind::BroadcastRecords)?;
        let (keeping, geometry) = records_of(&object)?;
        let parts = observing(&object)?;
        BroadcastRecordReceiver::observe(parts, geometry, keeping, join)
            .map_err(|error| error.of(name))
    }

    /// The broadcast ring of this name, if its type fits; a reader's may be a prefix.
    fn broadcast_object<T>(
        &self,
        name: &str,
        identity: &TypeIdentity,
        reading: bool,
    ) -> Result<ObjectHandle> {
        let object = self.of_kind(name, ObjectKind::BroadcastRing)?;
        let (size, align) = (size_of::<T>() as u64, align_of::<T>() as u64);
        check_type(name, &object.entry, identity, size, align, reading)?;
        Ok(object)
    }
}

fn claim_slots(
    object: &ObjectHandle,
    keeping: Keeping,
    geometry: SlotGeometry,
    join: Join,
) -> Result<RawBroadcastConsumer> {
    let name = &object.entry.name;
    let (slot, endpoint) = object.claim_any(Role::Consumer)?;
    let stats = endpoint.stats().ok_or_else(|| AttachError::Geometry.of(name))?;
    let parts = ReceiverParts {
        control: object.words.clone(),
        payload: object.payload.clone(),
        link: Box::new(endpoint),
    };
    RawBroadcastReceiver::claim(parts, stats, slot, geometry, keeping, join)
        .map_err(|error| error.of(name))
}

fn observe_slots(
    object: &ObjectHandle,
    keeping: Keeping,
    geometry: SlotGeometry,
    join: Join,
) -> Result<RawBroadcastObserver> {
    let observer = RawBroadcastReceiver::observe(observing(object)?, geometry, keeping, join);
    observer.map_err(|error| error.of(&object.entry.name))
}

fn observing(object: &ObjectHandle) -> Result<ReceiverParts> {
    Ok(ReceiverParts {
        control: object.words.clone(),
        payload: object.payload.clone(),
        link: Box::new(object.observe(Role::Producer)?),
    })
}

/// What the directory says of a typed broadcast ring, checked.
fn slots_of(object: &ObjectHandle) -> Result<(Keeping, SlotGeometry)> {
    let raw = &object.entry.raw;
    usize::try_from(raw.type_size)
        .ok()
        .and_then(|size| Keeping::of_slots(size, raw.capacity, raw.consumers, raw.extra[0] == 1))
        .filter(|(keeping, geometry)| {
            geometry.stride() as u64 == raw.stride
                && fits(object, words_len(keeping.consumers), geometry.bytes())
        })
        .ok_or_else(|| AttachError::Geometry.of(&object.entry.name))
}

/// What the directory says of a broadcast ring of records, checked.
fn records_of(object: &ObjectHandle) -> Result<(Keeping, RecordGeometry)> {
    let raw = &object.entry.raw;
    let (align, header, lossless) = (raw.payload_align, raw.user_header, raw.extra[0] == 1);
    Keeping::of_records(raw.capacity, align, header, raw.consumers, lossless)
        .filter(|(keeping, geometry)| {
            let words = records_words_len(keeping.consumers);
            fits(object, words, geometry.capacity() as usize)
        })
        .ok_or_else(|| AttachError::Geometry.of(&object.entry.name))
}

/// Whether the windows of an object have the room that is needed.
fn fits(object: &ObjectHandle, words: usize, payload: usize) -> bool {
    (1..=CONSUMERS_MAX).contains(&object.entry.raw.consumers)
        && object.words.len() >= words
        && object.words.is_aligned_to(CONTROL_ALIGN)
        && object.payload.len() >= payload
        && object.payload.is_aligned_to(CONTROL_ALIGN)
}

/// The producer's port: all consumers are at its other end.
fn producers_port(parts: Parts, keeping: &Keeping) -> Result<(View, View, Port), AttachError> {
    let words = WaitWords {
        own_sleep: PRODUCER_SLEEP,
        own_unfenced: PRODUCER_UNFENCED,
        own_side: None,
        opposite: Opposite::Many {
            side: SLEEPERS,
            first: consumer(0) + SLEEP,
            stride: CONSUMER_LEN,
            count: keeping.consumers,
            one_is_enough: false,
        },
    };
    let Parts { control, payload, stats, link } = parts;
    let port = Port::new(control.clone(), words, link, stats).ok_or(AttachError::ReadOnly)?;
    Ok((control, payload, port))
}

/// Up to where the ring is swept, as a producer finds it; what was promised beyond is taken back.
fn swept(control: &View, keeping: &Keeping, max: u64) -> Result<u64, Corruption> {
    let swept = control.load64(SWEPT, Acquire); // edge `mark`
    if swept > max || !swept.is_multiple_of(keeping.granule) {
        return Err(Corruption::Kept);
    }
    control.store64(PROMISED, swept, Relaxed);
    Ok(swept)
}

/// A1 and A2 of a typed ring.
pub(super) fn produce(
    parts: Parts,
    keeping: Keeping,
    geometry: SlotGeometry,
) -> Result<RawProducer, AttachError> {
    parts.check(geometry.bytes() as u64, CONTROL_ALIGN)?;
    let swept = swept(&parts.control, &keeping, MESSAGES_MAX)?;
    let start = parts.control.load64(START, Acquire); // edge `mark`
    if start > swept || swept - start > keeping.total {
        return Err(Corruption::Kept.into());
    }
    let (control, payload, port) = producers_port(parts, &keeping)?;
    let blocks = payload.blocks(geometry.shape(), geometry.blocks());
    let blocks = blocks.ok_or(AttachError::Geometry)?;
    let sweep = Sweep::new(control, keeping, swept, false).ok_or(AttachError::ReadOnly)?;
    let space = Space::Swept(Box::new(sweep));
    let mut producer = RawProducer::go_on(geometry, blocks, start, swept, space, port);
    producer.port.set_outlives_peer(true);
    Ok(producer)
}

/// A1 of a ring of records.
pub(super) fn produce_records(
    parts: Parts,
    keeping: Keeping,
    geometry: RecordGeometry,
) -> Result<RecordProducer, AttachError> {
    let align = CONTROL_ALIGN.max(geometry.payload_align() as usize);
    parts.check(geometry.capacity(), align)?;
    let swept = swept(&parts.control, &keeping, POSITION_MAX)?;
    let (mut position, mut number) = (0, 0);
    if let Some(section) = swept.div_ceil(keeping.section).checked_sub(1) {
        let mark = keeping.mark(section);
        position = parts.control.load64(mark, Acquire); // edge `mark`
        number = parts.control.load64(mark + 8, Relaxed);
        if !keeping.is_mark_of(section, position, number) {
            return Err(Corruption::Kept.into());
        }
    }
    // The word behind the last record is inside of what is swept.
    let end = swept.saturating_sub(WORD_LEN as u64).max(position);
    let (position, records) = committed_end(&parts.payload, &geometry, position, end)?;
    let (control, payload, mut port) = producers_port(parts, &keeping)?;
    port.stats.set_messages(number + records);
    port.set_outlives_peer(true);
    let sweep = Sweep::new(control, keeping, swept, true).ok_or(AttachError::ReadOnly)?;
    let space = Space::Swept(Box::new(sweep));
    Ok(RecordProducer::go_on(geometry, payload, position, swept, space, port))
}

//! How a segment declares rings and gives out their ends.
//!
//! A ring is described by [`TypedRing`] or [`RecordRing`], when a segment is
//! built or later on a live one. An end is asked for by the ring's name; what
//! the directory says about the ring is checked once, here, and kept in private
//! memory from then on.

use super::endpoint::Parts;
use super::error::AttachError;
use super::layout::{CONTROL_ALIGN, CONTROL_LEN};
use super::position::{RecordGeometry, SlotGeometry};
use super::{Consumer, Producer, RawConsumer, RawProducer, RecordConsumer, RecordProducer};
use crate::error::{Error, ErrorKind, Result};
use crate::segment::builder::SegmentBuilder;
use crate::segment::directory::{ObjectSpec, Schema, TypeIdentity, check_type, description_calls};
use crate::segment::endpoint::{Endpoint, Role};
use crate::segment::layout::ObjectKind;
use crate::segment::{ObjectHandle, Segment};
use bytemuck::{CheckedBitPattern, NoUninit};
use core::fmt;
use core::marker::PhantomData;

/// Describes a ring of values of type `T`: one producer, one consumer.
pub struct TypedRing<T> {
    capacity: u64,
    identity: TypeIdentity,
    schema: Option<Schema>,
    value: PhantomData<fn(T)>,
}

impl<T> TypedRing<T> {
    /// A ring of `capacity` slots; any number from 1 on, not only powers of two.
    pub fn new(capacity: u64) -> Self {
        Self { capacity, identity: TypeIdentity::default(), schema: None, value: PhantomData }
    }

    description_calls!("the type");

    pub(super) fn geometry(&self, name: &str) -> Result<SlotGeometry> {
        let size = size_of::<T>();
        SlotGeometry::new(size, self.capacity)
            .ok_or_else(|| bad_capacity(name, self.capacity, format!("slots of {size} bytes")))
    }

    pub(super) fn spec(self, name: &str) -> Result<ObjectSpec> {
        let geometry = self.geometry(name)?;
        Ok(ObjectSpec {
            kind: ObjectKind::Ring,
            capacity: geometry.capacity(),
            stride: geometry.stride() as u64,
            payload_align: CONTROL_ALIGN as u64,
            user_header: 0,
            producers: 1,
            consumers: 1,
            extra: [0; 2],
            words_bytes: CONTROL_LEN as u64,
            payload_bytes: geometry.bytes() as u64,
            type_identity: self.identity,
            type_size: size_of::<T>() as u64,
            type_align: align_of::<T>() as u64,
            schema: self.schema,
        })
    }
}

impl<T> fmt::Debug for TypedRing<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedRing")
            .field("capacity", &self.capacity)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// Describes a ring of records of any length: one producer, one consumer.
#[derive(Clone, Debug)]
pub struct RecordRing {
    size: Size,
    payload_align: u64,
    user_header: u64,
    identity: TypeIdentity,
    schema: Option<Schema>,
}

/// How the size of a record ring was given.
#[derive(Clone, Copy, Debug)]
enum Size {
    Ring(u64),
    Record(u64),
}

impl RecordRing {
    /// A ring of `bytes` bytes, rounded up to a multiple of the payload alignment.
    ///
    /// Each record takes 8 bytes more than its payload, user header and alignment. The longest
    /// record is a little less than half of the ring: it must fit wherever the position is. Bulk
    /// data does best with 4 to 16 MiB.
    pub fn new(bytes: u64) -> Self {
        Self::of_size(Size::Ring(bytes))
    }

    /// The smallest ring whose records may have `bytes` bytes each.
    pub fn for_records_of(bytes: u64) -> Self {
        Self::of_size(Size::Record(bytes))
    }

    fn of_size(size: Size) -> Self {
        Self {
            size,
            payload_align: 8,
            user_header: 0,
            identity: TypeIdentity::default(),
            schema: None,
        }
    }

    /// Payloads begin at multiples of `align`, a power of two from 8 to 4096; 8 by default.
    ///
    /// 64 is best for records of some hundred bytes or more that are written in place with wide
    /// stores: one that crosses from line to line waits for both. The library's own copies take
    /// care of it by themselves.
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
        let Self { size, payload_align, user_header, .. } = self;
        let bad = |what: String| {
            Err(Error::new(ErrorKind::InvalidArgument, "declare record ring", name).detail(what))
        };
        if !payload_align.is_power_of_two() || !(8..=4096).contains(&payload_align) {
            return bad(format!(
                "payload_align is {payload_align}, it can be a power of two from 8 to 4096"
            ));
        }
        if user_header > 4096 || !user_header.is_multiple_of(8) {
            return bad(format!(
                "user_header is {user_header}, it can be a multiple of 8 up to 4096"
            ));
        }
        let geometry = match size {
            Size::Ring(bytes) => bytes
                .checked_next_multiple_of(payload_align)
                .and_then(|capacity| RecordGeometry::new(capacity, payload_align, user_header))
                .ok_or_else(|| bad_capacity(name, bytes, "bytes".into()))?,
            Size::Record(bytes) => RecordGeometry::for_len(bytes, payload_align, user_header)
                .ok_or_else(|| bad_capacity(name, bytes, "bytes a record".into()))?,
        };
        Ok(ObjectSpec {
            kind: ObjectKind::Records,
            capacity: geometry.capacity(),
            stride: 0,
            payload_align: geometry.payload_align(),
            user_header: geometry.user_header(),
            producers: 1,
            consumers: 1,
            extra: [0; 2],
            words_bytes: CONTROL_LEN as u64,
            payload_bytes: geometry.capacity(),
            type_identity: self.identity,
            type_size: 0,
            type_align: 1,
            schema: self.schema,
        })
    }
}

pub(super) fn bad_capacity(name: &str, capacity: u64, unit: String) -> Error {
    Error::new(ErrorKind::InvalidCapacity, "declare ring", name).detail(format!(
        "a ring of {capacity} {unit} cannot be: it holds no message, or is larger than memory"
    ))
}

impl SegmentBuilder {
    /// Declares a ring of `capacity` values of type `T`.
    pub fn ring<T: NoUninit>(self, name: &str, capacity: u64) -> Self {
        self.ring_of(name, TypedRing::<T>::new(capacity))
    }

    /// Declares a typed ring with all its options.
    pub fn ring_of<T: NoUninit>(self, name: &str, ring: TypedRing<T>) -> Self {
        self.declare(name, ring.spec(name))
    }

    /// Declares a ring of `bytes` bytes for records of any length.
    pub fn records(self, name: &str, bytes: u64) -> Self {
        self.records_of(name, RecordRing::new(bytes))
    }

    /// Declares a record ring with all its options.
    pub fn records_of(self, name: &str, ring: RecordRing) -> Self {
        self.declare(name, ring.spec(name))
    }
}

impl Segment {
    /// Adds a typed ring to the live segment.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::AlreadyExists`] if an object has the name; [`ErrorKind::NoSpace`] and
    /// [`ErrorKind::TableFull`] if there is no room; [`ErrorKind::InvalidCapacity`],
    /// [`ErrorKind::ReadOnly`].
    pub fn add_ring<T: NoUninit>(&self, name: &str, ring: TypedRing<T>) -> Result<()> {
        self.add(name, &ring.spec(name)?)
    }

    /// Adds a record ring to the live segment.
    ///
    /// # Errors
    ///
    /// As [`add_ring`](Self::add_ring).
    pub fn add_records(&self, name: &str, ring: RecordRing) -> Result<()> {
        self.add(name, &ring.spec(name)?)
    }

    /// The producing end of a typed ring, going on behind the last committed value.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] lists the objects there are; [`ErrorKind::KindMismatch`] and
    /// [`ErrorKind::TypeMismatch`] say what the object is; [`ErrorKind::Busy`] names the living
    /// producer; [`ErrorKind::ReadOnly`], [`ErrorKind::Forked`], [`ErrorKind::Corrupt`].
    pub fn producer<T: NoUninit>(&self, name: &str) -> Result<Producer<T>> {
        self.producer_as(name, &TypeIdentity::default())
    }

    /// The producing end of a typed ring whose type has a name and version.
    ///
    /// # Errors
    ///
    /// As [`producer`](Self::producer).
    pub fn producer_as<T: NoUninit>(
        &self,
        name: &str,
        identity: &TypeIdentity,
    ) -> Result<Producer<T>> {
        let object = self.typed::<T>(name, identity, Role::Producer)?;
        let geometry = slot_geometry(&object, size_of::<T>())?;
        Producer::attach(parts(&object, Role::Producer)?, geometry).map_err(|e| e.of(name))
    }

    /// The consuming end of a typed ring, going on at the first value that was not delivered.
    ///
    /// # Errors
    ///
    /// As [`producer`](Self::producer).
    pub fn consumer<T: CheckedBitPattern>(&self, name: &str) -> Result<Consumer<T>> {
        self.consumer_as(name, &TypeIdentity::default())
    }

    /// The consuming end of a typed ring whose type has a name and version.
    ///
    /// `T` may be shorter than what the producer writes: a prefix is read then.
    ///
    /// # Errors
    ///
    /// As [`producer`](Self::producer).
    pub fn consumer_as<T: CheckedBitPattern>(
        &self,
        name: &str,
        identity: &TypeIdentity,
    ) -> Result<Consumer<T>> {
        let object = self.typed::<T>(name, identity, Role::Consumer)?;
        let geometry = slot_geometry(&object, size_of::<T>())?;
        Consumer::attach(parts(&object, Role::Consumer)?, geometry).map_err(|e| e.of(name))
    }

    /// The producing end of a typed ring by bytes, for programs that do not know the type.
    ///
    /// # Errors
    ///
    /// As [`producer`](Self::producer), without the type's.
    pub fn raw_producer(&self, name: &str) -> Result<RawProducer> {
        let object = self.of_kind(name, ObjectKind::Ring)?;
        let geometry = slot_geometry(&object, object.entry.raw.type_size as usize)?;
        RawProducer::attach(parts(&object, Role::Producer)?, geometry).map_err(|e| e.of(name))
    }

    /// The consuming end of a typed ring by bytes, for programs that do not know the type.
    ///
    /// # Errors
    ///
    /// As [`producer`](Self::producer), without the type's.
    pub fn raw_consumer(&self, name: &str) -> Result<RawConsumer> {
        let object = self.of_kind(name, ObjectKind::Ring)?;
        let geometry = slot_geometry(&object, object.entry.raw.type_size as usize)?;
        RawConsumer::attach(parts(&object, Role::Consumer)?, geometry).map_err(|e| e.of(name))
    }

    /// The producing end of a record ring, going on behind the last committed record.
    ///
    /// # Errors
    ///
    /// As [`producer`](Self::producer), without the type's.
    pub fn record_producer(&self, name: &str) -> Result<RecordProducer> {
        let object = self.of_kind(name, ObjectKind::Records)?;
        let geometry = record_geometry(&object)?;
        RecordProducer::attach(parts(&object, Role::Producer)?, geometry).map_err(|e| e.of(name))
    }

    /// The consuming end of a record ring, going on at the first record that was not released.
    ///
    /// # Errors
    ///
    /// As [`producer`](Self::producer), without the type's.
    pub fn record_consumer(&self, name: &str) -> Result<RecordConsumer> {
        let object = self.of_kind(name, ObjectKind::Records)?;
        let geometry = record_geometry(&object)?;
        RecordConsumer::attach(parts(&object, Role::Consumer)?, geometry).map_err(|e| e.of(name))
    }

    pub(super) fn of_kind(&self, name: &str, kind: ObjectKind) -> Result<ObjectHandle> {
        let object = self.object(name)?;
        if object.entry.kind == kind {
            return Ok(object);
        }
        Err(Error::new(ErrorKind::KindMismatch, "attach to object", name)
            .detail(format!("it is of kind {}, {kind} was asked for", object.entry.kind))
            .remedy(format!("`hugeshm inspect {}` shows what is there", self.name())))
    }

    pub(super) fn typed<T>(
        &self,
        name: &str,
        identity: &TypeIdentity,
        role: Role,
    ) -> Result<ObjectHandle> {
        let object = self.of_kind(name, ObjectKind::Ring)?;
        let (size, align) = (size_of::<T>() as u64, align_of::<T>() as u64);
        check_type(name, &object.entry, identity, size, align, role == Role::Consumer)?;
        Ok(object)
    }
}

/// The claim on one end and the windows it works in.
pub(super) fn parts(object: &ObjectHandle, role: Role) -> Result<Parts> {
    parts_of(object, object.claim(role)?)
}

/// The windows that a claimed end works in.
pub(super) fn parts_of(object: &ObjectHandle, endpoint: Endpoint) -> Result<Parts> {
    let stats = endpoint.stats().ok_or_else(|| AttachError::Geometry.of(&object.entry.name))?;
    Ok(Parts {
        control: object.words.clone(),
        payload: object.payload.clone(),
        stats,
        link: Box::new(endpoint),
    })
}

pub(super) fn slot_geometry(object: &ObjectHandle, size: usize) -> Result<SlotGeometry> {
    let raw = &object.entry.raw;
    usize::try_from(raw.stride)
        .ok()
        .and_then(|stride| SlotGeometry::with_stride(size, stride, raw.capacity))
        .filter(|_| raw.type_size <= raw.stride)
        .ok_or_else(|| AttachError::Geometry.of(&object.entry.name))
}

fn record_geometry(object: &ObjectHandle) -> Result<RecordGeometry> {
    let raw = &object.entry.raw;
    RecordGeometry::new(raw.capacity, raw.payload_align, raw.user_header)
        .ok_or_else(|| AttachError::Geometry.of(&object.entry.name))
}

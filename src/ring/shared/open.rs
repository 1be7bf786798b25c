//! How a segment declares shared rings and gives out their ends.

use super::layout::{ALIGN, ENDS_MAX, Geometry};
use super::{SharedConsumer, SharedProducer};
use crate::error::{Error, ErrorKind, Result};
use crate::ring::endpoint::Parts;
use crate::ring::error::AttachError;
use crate::ring::open::bad_capacity;
use crate::segment::builder::SegmentBuilder;
use crate::segment::directory::{ObjectSpec, Schema, TypeIdentity, check_type, description_calls};
use crate::segment::endpoint::Role;
use crate::segment::layout::ObjectKind;
use crate::segment::{ObjectHandle, Segment};
use bytemuck::{CheckedBitPattern, NoUninit};
use core::fmt;
use core::marker::PhantomData;

/// How many ends of each side there can be, unless it is said.
const ENDS: u32 = 16;

/// Describes a ring of values of type `T` with many producers and many consumers, of which one
/// receives each value.
pub struct SharedRing<T> {
    capacity: u64,
    producers: u32,
    consumers: u32,
    identity: TypeIdentity,
    schema: Option<Schema>,
    value: PhantomData<fn(T)>,
}

impl<T> SharedRing<T> {
    /// A ring of `capacity` slots; any number from 1 on, not only powers of two.
    pub fn new(capacity: u64) -> Self {
        Self {
            capacity,
            producers: ENDS,
            consumers: ENDS,
            identity: TypeIdentity::default(),
            schema: None,
            value: PhantomData,
        }
    }

    /// How many producers there can be at a time, from 1 to 255; 16 by default. Each takes 384
    /// bytes of the segment.
    #[must_use]
    pub fn producers(mut self, producers: u32) -> Self {
        self.producers = producers;
        self
    }

    /// How many consumers there can be at a time; likewise.
    #[must_use]
    pub fn consumers(mut self, consumers: u32) -> Self {
        self.consumers = consumers;
        self
    }

    description_calls!("the type");

    fn spec(self, name: &str) -> Result<ObjectSpec> {
        for (count, side) in [(self.producers, "producers"), (self.consumers, "consumers")] {
            if !(1..=ENDS_MAX).contains(&count) {
                return Err(Error::new(ErrorKind::InvalidArgument, "declare shared ring", name)
                    .detail(format!("{count} {side}, it can be from 1 to {ENDS_MAX}")));
            }
        }
        let size = size_of::<T>();
        let bad = || bad_capacity(name, self.capacity, format!("slots of {size} bytes"));
        let stride = size.max(1).checked_next_multiple_of(8).ok_or_else(bad)?;
        let ends = (self.producers, self.consumers);
        let geometry = Geometry::new(size, stride, self.capacity, ends).ok_or_else(bad)?;
        Ok(ObjectSpec {
            kind: ObjectKind::SharedRing,
            capacity: self.capacity,
            stride: stride as u64,
            payload_align: ALIGN as u64,
            user_header: 0,
            producers: self.producers,
            consumers: self.consumers,
            extra: [0; 2],
            words_bytes: geometry.control_len() as u64,
            payload_bytes: geometry.payload_len() as u64,
            type_identity: self.identity,
            type_size: size as u64,
            type_align: align_of::<T>() as u64,
            schema: self.schema,
        })
    }
}

impl<T> fmt::Debug for SharedRing<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedRing")
            .field("capacity", &self.capacity)
            .field("producers", &self.producers)
            .field("consumers", &self.consumers)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl SegmentBuilder {
    /// Declares a ring of `capacity` values of type `T` with many producers and many consumers, of
    /// which one receives each value.
    pub fn shared_ring<T: NoUninit>(self, name: &str, capacity: u64) -> Self {
        self.shared_ring_of(name, SharedRing::<T>::new(capacity))
    }

    /// Declares a shared ring with all its options.
    pub fn shared_ring_of<T: NoUninit>(self, name: &str, ring: SharedRing<T>) -> Self {
        self.declare(name, ring.spec(name))
    }
}

impl Segment {
    /// Adds a shared ring to the live segment.
    ///
    /// # Errors
    ///
    /// As [`add_ring`](Self::add_ring); [`ErrorKind::InvalidArgument`] for the numbers of ends.
    pub fn add_shared_ring<T: NoUninit>(&self, name: &str, ring: SharedRing<T>) -> Result<()> {
        self.add(name, &ring.spec(name)?)
    }

    /// A producing end of a shared ring: the first that nobody holds.
    ///
    /// Looks at each slot of the ring once.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] lists the objects there are; [`ErrorKind::KindMismatch`] and
    /// [`ErrorKind::TypeMismatch`] say what the object is; [`ErrorKind::TableFull`] if there are as
    /// many producers as there can be; [`ErrorKind::ReadOnly`], [`ErrorKind::Forked`],
    /// [`ErrorKind::Corrupt`].
    pub fn shared_producer<T: NoUninit>(&self, name: &str) -> Result<SharedProducer<T>> {
        self.shared_producer_as(name, &TypeIdentity::default())
    }

    /// A producing end of a shared ring whose type has a name and version.
    ///
    /// # Errors
    ///
    /// As [`shared_producer`](Self::shared_producer).
    pub fn shared_producer_as<T: NoUninit>(
        &self,
        name: &str,
        identity: &TypeIdentity,
    ) -> Result<SharedProducer<T>> {
        let (object, geometry) = self.shared::<T>(name, identity, Role::Producer)?;
        let (slot, parts) = parts(&object, Role::Producer)?;
        SharedProducer::attach(parts, geometry, slot).map_err(|error| error.of(name))
    }

    /// A consuming end of a shared ring: the first that nobody holds.
    ///
    /// Looks at each slot of the ring once or twice.
    ///
    /// # Errors
    ///
    /// As [`shared_producer`](Self::shared_producer).
    pub fn shared_consumer<T: CheckedBitPattern>(&self, name: &str) -> Result<SharedConsumer<T>> {
        self.shared_consumer_as(name, &TypeIdentity::default())
    }

    /// A consuming end of a shared ring whose type has a name and version.
    ///
    /// `T` may be shorter than what the producers write: a prefix is read then.
    ///
    /// # Errors
    ///
    /// As [`shared_producer`](Self::shared_producer).
    pub fn shared_consumer_as<T: CheckedBitPattern>(
        &self,
        name: &str,
        identity: &TypeIdentity,
    ) -> Result<SharedConsumer<T>> {
        let (object, geometry) = self.shared::<T>(name, identity, Role::Consumer)?;
        let (slot, parts) = parts(&object, Role::Consumer)?;
        SharedConsumer::attach(parts, geometry, slot).map_err(|error| error.of(name))
    }

    fn shared<T>(
        &self,
        name: &str,
        identity: &TypeIdentity,
        role: Role,
    ) -> Result<(ObjectHandle, Geometry)> {
        let object = self.of_kind(name, ObjectKind::SharedRing)?;
        let (size, align) = (size_of::<T>(), align_of::<T>() as u64);
        check_type(name, &object.entry, identity, size as u64, align, role == Role::Consumer)?;
        let raw = &object.entry.raw;
        let geometry = usize::try_from(raw.stride)
            .ok()
            .filter(|_| raw.type_size <= raw.stride)
            .and_then(|stride| {
                Geometry::new(size, stride, raw.capacity, (raw.producers, raw.consumers))
            })
            .ok_or_else(|| AttachError::Geometry.of(name))?;
        Ok((object, geometry))
    }
}

/// The claim on an end, its number, and the windows it works in.
fn parts(object: &ObjectHandle, role: Role) -> Result<(u32, Parts)> {
    let (slot, endpoint) = object.claim_any(role)?;
    let stats = endpoint.stats().ok_or_else(|| AttachError::Geometry.of(&object.entry.name))?;
    let (control, payload) = (object.words.clone(), object.payload.clone());
    Ok((slot, Parts { control, payload, stats, link: Box::new(endpoint) }))
}

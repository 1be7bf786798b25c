//! How a segment declares lanes and gives out their ends.

use super::layout::{LANES_MAX, LEFT_OUT, LanesGeometry, lane_at};
use super::{LaneProducer, LanesConsumer};
use crate::error::{Error, ErrorKind, Result};
use crate::ring::error::AttachError;
use crate::ring::layout::{CONTROL_ALIGN, RELEASED};
use crate::ring::open::{TypedRing, parts_of, slot_geometry};
use crate::segment::builder::SegmentBuilder;
use crate::segment::directory::{ObjectSpec, Schema, TypeIdentity, check_type};
use crate::segment::endpoint::Role;
use crate::segment::layout::ObjectKind;
use crate::segment::{ObjectHandle, Segment};
use bytemuck::{CheckedBitPattern, NoUninit};
use core::fmt;
use core::sync::atomic::Ordering::Relaxed;

/// Describes lanes of values of type `T`: a ring for each of many producers, one consumer of all.
pub struct Lanes<T> {
    lanes: u32,
    ring: TypedRing<T>,
}

impl<T> Lanes<T> {
    /// `lanes` lanes, 1 to 255, of `capacity` slots each.
    ///
    /// A lane that nobody sends in costs its memory, and a look of the consumer when it goes
    /// round; so there may be more of them than there are producers.
    pub fn new(lanes: u32, capacity: u64) -> Self {
        Self { lanes, ring: TypedRing::new(capacity) }
    }

    /// The name and version under which programs agree on the type; unnamed by default.
    #[must_use]
    pub fn identity(mut self, identity: TypeIdentity) -> Self {
        self.ring = self.ring.identity(identity);
        self
    }

    /// A description of the type for programs that do not know it.
    #[must_use]
    pub fn schema(mut self, schema: Schema) -> Self {
        self.ring = self.ring.schema(schema);
        self
    }

    fn spec(self, name: &str) -> Result<ObjectSpec> {
        let lanes = self.lanes;
        let ring = self.ring.geometry(name)?;
        let Some(geometry) = LanesGeometry::new(lanes, ring) else {
            let detail = if (1..=LANES_MAX).contains(&lanes) {
                format!("{lanes} lanes of {} bytes each are larger than memory", ring.bytes())
            } else {
                format!("{lanes} lanes were asked for, there can be 1 to {LANES_MAX}")
            };
            return Err(
                Error::new(ErrorKind::InvalidArgument, "declare lanes", name).detail(detail)
            );
        };
        Ok(ObjectSpec {
            kind: ObjectKind::Lanes,
            producers: lanes,
            extra: [u64::from(lanes), 0],
            words_bytes: geometry.words_bytes() as u64,
            payload_align: CONTROL_ALIGN as u64,
            payload_bytes: geometry.payload_bytes() as u64,
            ..self.ring.spec(name)?
        })
    }
}

impl<T> fmt::Debug for Lanes<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lanes").field("lanes", &self.lanes).field("ring", &self.ring).finish()
    }
}

impl SegmentBuilder {
    /// Declares `lanes` lanes, 1 to 255, of `capacity` values of type `T` each.
    pub fn lanes<T: NoUninit>(self, name: &str, lanes: u32, capacity: u64) -> Self {
        self.lanes_of(name, Lanes::<T>::new(lanes, capacity))
    }

    /// Declares lanes with all their options.
    pub fn lanes_of<T: NoUninit>(self, name: &str, lanes: Lanes<T>) -> Self {
        self.declare(name, lanes.spec(name))
    }
}

impl Segment {
    /// Adds lanes to the live segment.
    ///
    /// # Errors
    ///
    /// As [`add_ring`](Self::add_ring); [`ErrorKind::InvalidArgument`] for a number of lanes that
    /// cannot be.
    pub fn add_lanes<T: NoUninit>(&self, name: &str, lanes: Lanes<T>) -> Result<()> {
        self.add(name, &lanes.spec(name)?)
    }

    /// The producing end of the first lane that nobody holds, going on behind its last value.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TableFull`] if all lanes are held; otherwise as [`producer`](Self::producer).
    /// A lane in which the consumer found something impossible is not given out.
    pub fn lane_producer<T: NoUninit>(&self, name: &str) -> Result<LaneProducer<T>> {
        self.lane_producer_as(name, &TypeIdentity::default())
    }

    /// The same for a type that has a name and version.
    ///
    /// # Errors
    ///
    /// As [`lane_producer`](Self::lane_producer).
    pub fn lane_producer_as<T: NoUninit>(
        &self,
        name: &str,
        identity: &TypeIdentity,
    ) -> Result<LaneProducer<T>> {
        let object = self.lanes_object::<T>(name, identity, Role::Producer)?;
        let geometry = geometry(&object, size_of::<T>())?;
        let mut corrupt = 0;
        for lane in 0..geometry.lanes() {
            if is_left_out(&object, lane) {
                corrupt += 1;
                continue;
            }
            match attach(&object, geometry, lane) {
                Err(error) if error.kind() == ErrorKind::Busy => {}
                Err(error) if error.kind() == ErrorKind::Corrupt => corrupt += 1,
                end => return end,
            }
        }
        let lanes = geometry.lanes();
        let mut detail = format!("all its {lanes} lanes are taken");
        if corrupt > 0 {
            detail = format!(
                "of its {lanes} lanes {} are taken, and in {corrupt} stands something impossible",
                lanes - corrupt
            );
        }
        Err(Error::new(ErrorKind::TableFull, "claim a lane of object", name).detail(detail).remedy(
            format!(
                "`hugeshm inspect {}` shows by whom; declare more lanes, up to {LANES_MAX}",
                self.name()
            ),
        ))
    }

    /// The producing end of one lane, going on behind its last value.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Busy`] names the living producer; [`ErrorKind::InvalidArgument`] if there is
    /// no such lane; [`ErrorKind::Corrupt`] if the consumer has left it out; otherwise as
    /// [`producer`](Self::producer).
    pub fn lane_producer_at<T: NoUninit>(&self, name: &str, lane: u32) -> Result<LaneProducer<T>> {
        self.lane_producer_at_as(name, lane, &TypeIdentity::default())
    }

    /// The same for a type that has a name and version.
    ///
    /// # Errors
    ///
    /// As [`lane_producer_at`](Self::lane_producer_at).
    pub fn lane_producer_at_as<T: NoUninit>(
        &self,
        name: &str,
        lane: u32,
        identity: &TypeIdentity,
    ) -> Result<LaneProducer<T>> {
        let object = self.lanes_object::<T>(name, identity, Role::Producer)?;
        let geometry = geometry(&object, size_of::<T>())?;
        if lane >= geometry.lanes() {
            let last = geometry.lanes() - 1;
            return Err(Error::new(ErrorKind::InvalidArgument, "claim a lane of object", name)
                .detail(format!("there is no lane {lane}, the last is {last}")));
        }
        if is_left_out(&object, lane) {
            return Err(Error::new(ErrorKind::Corrupt, "claim a lane of object", name)
                .detail(format!("the consumer found something impossible in lane {lane}"))
                .remedy("take another lane; a new consumer takes this one up again"));
        }
        attach(&object, geometry, lane)
    }

    /// The consuming end of lanes, going on at the first value of each that was not delivered.
    ///
    /// # Errors
    ///
    /// As [`producer`](Self::producer). A lane in which something impossible stands is no error
    /// here: it is told of by the consumer's first call.
    pub fn lanes_consumer<T: CheckedBitPattern>(&self, name: &str) -> Result<LanesConsumer<T>> {
        self.lanes_consumer_as(name, &TypeIdentity::default())
    }

    /// The same for a type that has a name and version.
    ///
    /// `T` may be shorter than what the producers write: a prefix is read then.
    ///
    /// # Errors
    ///
    /// As [`lanes_consumer`](Self::lanes_consumer).
    pub fn lanes_consumer_as<T: CheckedBitPattern>(
        &self,
        name: &str,
        identity: &TypeIdentity,
    ) -> Result<LanesConsumer<T>> {
        let object = self.lanes_object::<T>(name, identity, Role::Consumer)?;
        let geometry = geometry(&object, size_of::<T>())?;
        let parts = parts_of(&object, object.claim(Role::Consumer)?)?;
        LanesConsumer::attach(parts, geometry).map_err(|e| e.of(name))
    }

    fn lanes_object<T>(
        &self,
        name: &str,
        identity: &TypeIdentity,
        role: Role,
    ) -> Result<ObjectHandle> {
        let object = self.of_kind(name, ObjectKind::Lanes)?;
        let (size, align) = (size_of::<T>() as u64, align_of::<T>() as u64);
        check_type(name, &object.entry, identity, size, align, role == Role::Consumer)?;
        Ok(object)
    }
}

fn attach<T: NoUninit>(
    object: &ObjectHandle,
    geometry: LanesGeometry,
    lane: u32,
) -> Result<LaneProducer<T>> {
    let parts = parts_of(object, object.claim_at(Role::Producer, lane)?)?;
    LaneProducer::attach(parts, geometry, lane).map_err(|e| e.of(&object.entry.name))
}

/// Whether the consumer takes nothing from a lane. `geometry` found the lane's words.
fn is_left_out(object: &ObjectHandle, lane: u32) -> bool {
    object.words.load64(lane_at(lane) + RELEASED, Relaxed) & LEFT_OUT != 0
}

/// What the directory says, checked against the windows.
fn geometry(object: &ObjectHandle, size: usize) -> Result<LanesGeometry> {
    let raw = &object.entry.raw;
    LanesGeometry::new(raw.producers, slot_geometry(object, size)?)
        .filter(|geometry| raw.consumers == 1 && raw.extra[0] == u64::from(geometry.lanes()))
        .filter(|geometry| object.words.len() >= geometry.words_bytes())
        .ok_or_else(|| AttachError::Geometry.of(&object.entry.name))
}

//! How a segment declares latest values and gives out their ends.

use super::error::AttachError;
use super::layout::{
    ALIGN, Form, Geometry, PLACES_MAX, PLACES_MIN, WATCHERS_MAX, WATCHERS_USUAL, words_len,
};
use super::raw::ReaderParts;
use super::writer::WriterParts;
use super::{LatestReader, LatestWatcher, LatestWriter, RawLatestReader, RawLatestWatcher};
use crate::error::{Error, ErrorKind, Result};
use crate::segment::builder::SegmentBuilder;
use crate::segment::directory::{ObjectSpec, Schema, TypeIdentity, check_type, description_calls};
use crate::segment::endpoint::Role;
use crate::segment::layout::ObjectKind;
use crate::segment::{ObjectHandle, Segment};
use crate::stats::StatsWriter;
use bytemuck::{CheckedBitPattern, NoUninit};
use core::fmt;
use core::marker::PhantomData;

/// Describes a latest value of type `T`: one writer, any number of readers.
pub struct LatestValue<T> {
    places: u64,
    watchers: u32,
    identity: TypeIdentity,
    schema: Option<Schema>,
    value: PhantomData<fn(T)>,
}

impl<T> Default for LatestValue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> LatestValue<T> {
    /// A value whose type is known by size and alignment alone.
    pub fn new() -> Self {
        Self {
            places: Geometry::usual_places(size_of::<T>()),
            watchers: WATCHERS_USUAL,
            identity: TypeIdentity::default(),
            schema: None,
            value: PhantomData,
        }
    }

    /// How many places a value of more than 56 bytes has, from 2 to 64; each takes the room of
    /// a value. By default 8 for values of up to 4096 bytes and 4 for longer ones.
    ///
    /// With n places a reader's copy may take as long as n - 2 writes without a pause; if it takes
    /// longer, it may have to begin anew. 2 are enough if the writer rests as long as a copy takes.
    #[must_use]
    pub fn places(mut self, places: u64) -> Self {
        self.places = places;
        self
    }

    /// How many [watchers](Segment::latest_watcher) there may be at a time, from 0 to 255; 8 by
    /// default. Readers need no place: only those who are to be found by name in reports, rung by
    /// a doorbell or waited for together with others.
    #[must_use]
    pub fn watchers(mut self, watchers: u32) -> Self {
        self.watchers = watchers;
        self
    }

    description_calls!("the type");

    fn spec(self, name: &str) -> Result<ObjectSpec> {
        let size = size_of::<T>();
        let geometry = Geometry::new(size, self.places).ok_or_else(|| {
            Error::new(ErrorKind::InvalidCapacity, "declare object", name)
                .detail(format!("{} places of {size} bytes cannot be", self.places))
                .remedy(format!("{PLACES_MIN} to {PLACES_MAX} places"))
        })?;
        if self.watchers > WATCHERS_MAX {
            return Err(Error::new(ErrorKind::InvalidCapacity, "declare object", name)
                .detail(format!("{} watchers, it can be 0 to {WATCHERS_MAX}", self.watchers))
                .remedy("readers need no place, and may be any number"));
        }
        Ok(ObjectSpec {
            kind: ObjectKind::LatestValue,
            capacity: geometry.places(),
            stride: geometry.stride() as u64,
            payload_align: ALIGN as u64,
            user_header: 0,
            producers: 1,
            consumers: self.watchers,
            extra: [0; 2],
            words_bytes: words_len(self.watchers) as u64,
            payload_bytes: geometry.bytes() as u64,
            type_identity: self.identity,
            type_size: size as u64,
            type_align: align_of::<T>() as u64,
            schema: self.schema,
        })
    }
}

impl<T> fmt::Debug for LatestValue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LatestValue")
            .field("places", &self.places)
            .field("watchers", &self.watchers)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl SegmentBuilder {
    /// Declares a latest value of type `T`.
    pub fn latest<T: NoUninit>(self, name: &str) -> Self {
        self.latest_of(name, LatestValue::<T>::new())
    }

    /// Declares a latest value with all its options.
    pub fn latest_of<T: NoUninit>(self, name: &str, value: LatestValue<T>) -> Self {
        let spec = value.spec(name);
        self.declare(name, spec)
    }
}

impl Segment {
    /// Adds a latest value to the live segment.
    ///
    /// # Errors
    ///
    /// As [`add_ring`](Self::add_ring).
    pub fn add_latest<T: NoUninit>(&self, name: &str, value: LatestValue<T>) -> Result<()> {
        self.add(name, &value.spec(name)?)
    }

    /// The writing end of a latest value, going on behind its newest version.
    ///
    /// # Errors
    ///
    /// As [`producer`](Self::producer), whose place in the directory a writer has.
    pub fn latest_writer<T: NoUninit>(&self, name: &str) -> Result<LatestWriter<T>> {
        self.latest_writer_as(name, &TypeIdentity::default())
    }

    /// The writing end of a latest value whose type has a name and version.
    ///
    /// # Errors
    ///
    /// As [`producer`](Self::producer).
    pub fn latest_writer_as<T: NoUninit>(
        &self,
        name: &str,
        identity: &TypeIdentity,
    ) -> Result<LatestWriter<T>> {
        let (object, geometry) = self.latest_object::<T>(name, identity, false)?;
        let endpoint = object.claim(Role::Producer)?;
        let stats = endpoint.stats().ok_or_else(|| AttachError::Geometry.of(name))?;
        let parts = WriterParts {
            control: object.words,
            payload: object.payload,
            watchers: object.entry.raw.consumers,
            stats,
            link: Box::new(endpoint),
        };
        LatestWriter::attach(parts, geometry).map_err(|error| error.of(name))
    }

    /// A reading end of a latest value; there may be any number, also of a segment that is open
    /// read-only.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`], [`ErrorKind::KindMismatch`] and [`ErrorKind::TypeMismatch`] say what
    /// is there instead; [`ErrorKind::Corrupt`] if its numbers contradict each other.
    pub fn latest_reader<T: CheckedBitPattern>(&self, name: &str) -> Result<LatestReader<T>> {
        self.latest_reader_as(name, &TypeIdentity::default())
    }

    /// A reading end of a latest value whose type has a name and version.
    ///
    /// `T` may be shorter than what is written: a prefix is read then.
    ///
    /// # Errors
    ///
    /// As [`latest_reader`](Self::latest_reader).
    pub fn latest_reader_as<T: CheckedBitPattern>(
        &self,
        name: &str,
        identity: &TypeIdentity,
    ) -> Result<LatestReader<T>> {
        let (object, geometry) = self.latest_object::<T>(name, identity, true)?;
        LatestReader::attach(reader_parts(object)?, geometry).map_err(|error| error.of(name))
    }

    /// A watcher of a latest value, in the first place that is free: a reading end that can be
    /// waited for together with others, in `poll` and in tokio.
    ///
    /// # Errors
    ///
    /// As [`latest_reader`](Self::latest_reader); [`ErrorKind::TableFull`] if all places are taken,
    /// see [`LatestValue::watchers`]; [`ErrorKind::ReadOnly`] for segments open read-only.
    pub fn latest_watcher<T: CheckedBitPattern>(&self, name: &str) -> Result<LatestWatcher<T>> {
        self.latest_watcher_as(name, &TypeIdentity::default())
    }

    /// A watcher of a latest value whose type has a name and version.
    ///
    /// `T` may be shorter than what is written: a prefix is read then.
    ///
    /// # Errors
    ///
    /// As [`latest_watcher`](Self::latest_watcher).
    pub fn latest_watcher_as<T: CheckedBitPattern>(
        &self,
        name: &str,
        identity: &TypeIdentity,
    ) -> Result<LatestWatcher<T>> {
        let (object, geometry) = self.latest_object::<T>(name, identity, true)?;
        let (parts, stats, slot) = watcher_parts(object)?;
        LatestWatcher::claim(parts, stats, slot, geometry).map_err(|error| error.of(name))
    }

    /// A watcher of a latest value by bytes, for programs that do not know the type.
    ///
    /// # Errors
    ///
    /// As [`latest_watcher`](Self::latest_watcher), without the type's.
    pub fn raw_latest_watcher(&self, name: &str) -> Result<RawLatestWatcher> {
        let object = self.latest_of_any_type(name)?;
        let geometry = geometry(&object)?;
        let (parts, stats, slot) = watcher_parts(object)?;
        RawLatestWatcher::claim(parts, stats, slot, geometry).map_err(|error| error.of(name))
    }

    /// A reading end of a latest value by bytes, for programs that do not know the type; also of a
    /// segment that is open read-only.
    ///
    /// # Errors
    ///
    /// As [`latest_reader`](Self::latest_reader), without the type's.
    pub fn raw_latest_reader(&self, name: &str) -> Result<RawLatestReader> {
        let object = self.latest_of_any_type(name)?;
        let geometry = geometry(&object)?;
        RawLatestReader::attach(reader_parts(object)?, geometry).map_err(|error| error.of(name))
    }

    /// The latest value of this name, if its type fits; a reader's may be a prefix.
    fn latest_object<T>(
        &self,
        name: &str,
        identity: &TypeIdentity,
        reading: bool,
    ) -> Result<(ObjectHandle, Geometry)> {
        let object = self.latest_of_any_type(name)?;
        let (size, align) = (size_of::<T>() as u64, align_of::<T>() as u64);
        check_type(name, &object.entry, identity, size, align, reading)?;
        let geometry = geometry(&object)?;
        Ok((object, geometry))
    }

    fn latest_of_any_type(&self, name: &str) -> Result<ObjectHandle> {
        let object = self.object(name)?;
        let entry = &object.entry;
        if entry.kind != ObjectKind::LatestValue {
            return Err(Error::new(ErrorKind::KindMismatch, "attach to object", name)
                .detail(format!("it is of kind {}, a latest value was asked for", entry.kind)));
        }
        Ok(object)
    }
}

/// The windows that a reader works in, and its look at the writer.
fn reader_parts(object: ObjectHandle) -> Result<ReaderParts> {
    let link = Box::new(object.observe(Role::Producer)?);
    Ok(ReaderParts { control: object.words, payload: object.payload, link })
}

/// The same for a watcher, with its statistics and the number of its place, which is claimed.
fn watcher_parts(object: ObjectHandle) -> Result<(ReaderParts, StatsWriter, u32)> {
    let (slot, endpoint) = object.claim_any(Role::Consumer)?;
    let stats = endpoint.stats();
    let stats = stats.ok_or_else(|| AttachError::Geometry.of(&object.entry.name))?;
    let link = Box::new(endpoint);
    Ok((ReaderParts { control: object.words, payload: object.payload, link }, stats, slot))
}

/// How an object's values are laid out, if its numbers agree with each other.
fn geometry(object: &ObjectHandle) -> Result<Geometry> {
    let raw = &object.entry.raw;
    usize::try_from(raw.type_size)
        .ok()
        .and_then(|len| Geometry::new(len, raw.capacity))
        .filter(|geometry| match geometry.form() {
            Form::Pair => true,
            Form::Row { stride, .. } => stride as u64 == raw.stride,
        })
        .ok_or_else(|| AttachError::Geometry.of(&object.entry.name))
}

//! The places of a latest value: written by one, copied out by many, never torn.
//!
//! The steps W1 to W5 and R1 to R5 are told in the parent module. Nothing here
//! waits, and nothing remembers: what a reader has seen is the reader's.

use super::error::{AttachError, BAD_STAMP, BOTH_UNFINISHED, LatestError, NOT_IN_ITS_PLACE};
use super::layout::{
    ALIGN, FRONT, Form, Geometry, NEWEST, Place, SHORT_MAX, SPARE, VERSION_LIMIT, is_whole,
    place_in_row, unfinished, version_of, whole,
};
use crate::sync::{fence, spin_loop};
use crate::view::View;
use core::sync::atomic::Ordering::{Acquire, Release};

/// How often a reader begins anew before it gives up: far more often than a writer can overtake
/// it by chance, and an end to a peer that means to.
const ATTEMPTS: u32 = 1024;

/// A value's places in shared memory.
#[derive(Debug)]
pub(super) struct Cell {
    geometry: Geometry,
    payload: View,
}

/// What a reader found in a place.
enum Look<R> {
    /// This version, and what the copy gave.
    Whole(u64, R),
    /// It is being written; this is the stamp.
    Unfinished(u64),
    /// It was written meanwhile.
    Overtaken,
}

impl Cell {
    /// The places in `payload`, if it is aligned and has room for them.
    pub(super) fn new(geometry: Geometry, payload: View) -> Result<Self, AttachError> {
        let sound = payload.len() >= geometry.bytes() && payload.is_aligned_to(ALIGN);
        if sound { Ok(Self { geometry, payload }) } else { Err(AttachError::Geometry) }
    }

    /// The length of a value.
    pub(super) fn len(&self) -> usize {
        self.geometry.len()
    }

    /// The newest version, 0 if there is none: one load.
    #[inline]
    pub(super) fn version(&self) -> u64 {
        version_of(self.payload.load64(NEWEST, Acquire)) // edge `newest`
    }

    /// W1 to W5: `version` follows the newest; `bytes` are as many as a value has.
    #[inline]
    pub(super) fn write(&self, version: u64, bytes: &[u8]) {
        debug_assert_eq!(bytes.len(), self.len());
        match self.geometry.form() {
            Form::Pair => {
                self.fill(FRONT, version, bytes);
                self.fill(SPARE, version, bytes);
            }
            Form::Row { places, stride } => {
                self.fill(place_in_row(self.len(), places, stride, version), version, bytes);
                self.payload.store64(NEWEST, whole(version), Release); // edge `newest`
            }
        }
    }

    /// W1 to W3 in one place.
    #[inline]
    fn fill(&self, place: Place, version: u64, bytes: &[u8]) {
        self.payload.store64(place.stamp, unfinished(version), Release); // edge `elsewhere`
        fence(Release); // edge `torn`
        self.payload.write(place.value, bytes);
        self.payload.store64(place.stamp, whole(version), Release); // edge `whole`
    }

    /// R1 to R5: the newest version and what `copy` made of its bytes, which it is told the
    /// offset of; version 0 if there is none, and then `copy` has seen zeros or nonsense.
    ///
    /// `copy` may be called often, and on bytes that change meanwhile; the last call counts.
    #[inline]
    pub(super) fn read<R>(
        &self,
        mut copy: impl FnMut(&View, usize) -> R,
    ) -> Result<(u64, R), LatestError> {
        match self.geometry.form() {
            Form::Pair => match self.look(FRONT, &mut copy) {
                Look::Whole(version, value) => Ok((version, value)),
                Look::Unfinished(stamp) => self.read_pair(Some(stamp), copy),
                Look::Overtaken => self.read_pair(None, copy),
            },
            Form::Row { places, stride } => self.read_row(places, stride, copy),
        }
    }

    /// R1 to R4 in one place.
    #[inline]
    fn look<R>(&self, place: Place, copy: &mut impl FnMut(&View, usize) -> R) -> Look<R> {
        let stamp = self.payload.load64(place.stamp, Acquire); // edges `whole`, `elsewhere`
        if !is_whole(stamp) {
            return Look::Unfinished(stamp);
        }
        let value = copy(&self.payload, place.value);
        fence(Acquire); // edge `torn`
        if self.payload.load64(place.stamp, Acquire) == stamp {
            Look::Whole(version_of(stamp), value)
        } else {
            Look::Overtaken
        }
    }

    /// R5 in a pair: a look into the spare line, then the front again. `front` is the unfinished
    /// stamp that was seen there last.
    #[cold]
    fn read_pair<R>(
        &self,
        mut front: Option<u64>,
        mut copy: impl FnMut(&View, usize) -> R,
    ) -> Result<(u64, R), LatestError> {
        for _ in 0..ATTEMPTS {
            if let Look::Whole(version, value) = self.look(SPARE, &mut copy) {
                return Ok((version, value));
            }
            // The spare line is only written behind a front that was finished.
            front = match self.look(FRONT, &mut copy) {
                Look::Whole(version, value) => return Ok((version, value)),
                Look::Unfinished(stamp) if front == Some(stamp) => {
                    return Err(LatestError::Corrupt(BOTH_UNFINISHED));
                }
                Look::Unfinished(stamp) => Some(stamp),
                Look::Overtaken => None,
            };
            spin_loop();
        }
        Err(LatestError::Contended)
    }

    /// R1 to R5 in a row.
    fn read_row<R>(
        &self,
        places: u64,
        stride: usize,
        mut copy: impl FnMut(&View, usize) -> R,
    ) -> Result<(u64, R), LatestError> {
        let mut before = None;
        for _ in 0..ATTEMPTS {
            let newest = self.payload.load64(NEWEST, Acquire); // edge `newest`
            if !is_whole(newest) {
                return Err(LatestError::Corrupt(BAD_STAMP));
            }
            // A place is written anew only when others have been the newest.
            if before == Some(newest) {
                return Err(LatestError::Corrupt(NOT_IN_ITS_PLACE));
            }
            let place = place_in_row(self.len(), places, stride, version_of(newest));
            match self.look(place, &mut copy) {
                Look::Whole(version, value) if whole(version) == newest => {
                    return Ok((version, value));
                }
                _ => before = Some(newest),
            }
            spin_loop();
        }
        Err(LatestError::Contended)
    }

    /// A1 and A2: the newest version, by whoever is to write the next one.
    pub(super) fn take_over(&self) -> Result<u64, AttachError> {
        if !self.payload.writable() {
            return Err(AttachError::ReadOnly);
        }
        let load = |place: Place| self.payload.load64(place.stamp, Acquire); // edge `whole`
        let newest = self.payload.load64(NEWEST, Acquire);
        let version = version_of(newest);
        if version >= VERSION_LIMIT {
            return Err(AttachError::Corrupt(BAD_STAMP));
        }
        match self.geometry.form() {
            Form::Row { places, stride } => {
                if !is_whole(newest) {
                    return Err(AttachError::Corrupt(BAD_STAMP));
                }
                if load(place_in_row(self.len(), places, stride, version)) != newest {
                    return Err(AttachError::Corrupt(NOT_IN_ITS_PLACE));
                }
            }
            Form::Pair => {
                let spare = load(SPARE);
                if !is_whole(newest) {
                    // Killed in the front: the spare line has the newest, and has it until the
                    // front is finished by the next write.
                    if spare != whole(version) {
                        return Err(AttachError::Corrupt(BOTH_UNFINISHED));
                    }
                } else if spare != newest {
                    // Killed behind the front, before the spare line was finished.
                    if version == 0 || spare != unfinished(version) && spare != whole(version - 1) {
                        return Err(AttachError::Corrupt(BAD_STAMP));
                    }
                    let mut bytes = [0; SHORT_MAX];
                    let bytes = &mut bytes[..self.len()];
                    self.payload.read(FRONT.value, bytes);
                    self.fill(SPARE, version, bytes);
                }
            }
        }
        Ok(version)
    }
}

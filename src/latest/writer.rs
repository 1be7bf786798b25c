//! The writing end of a latest value.

use super::cell::Cell;
use super::error::{AttachError, LatestError};
use super::layout::{
    Geometry, SLEEP, SLEEPERS, WATCHER_LEN, WATCHERS_MAX, WRITER_UNFENCED, watcher, words_len,
};
use crate::error::Result;
use crate::stats::{Stats, StatsWriter};
use crate::view::View;
use crate::wait::{CrowdWords, Link, Ringer, Watchers};
use bytemuck::{CheckedBitPattern, NoUninit, bytes_of};
use core::fmt;
use core::marker::PhantomData;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;
use std::os::fd::AsFd;

/// Where both ends find the words of a wait.
pub(super) const WORDS: CrowdWords = CrowdWords { sleepers: SLEEPERS, unfenced: WRITER_UNFENCED };

/// What the segment hands to a new writer: its windows, its statistics, its claim.
pub(crate) struct WriterParts {
    /// The control words.
    pub control: View,
    /// The places.
    pub payload: View,
    /// How many places for watchers there are.
    pub watchers: u32,
    /// The writer's statistics line.
    pub stats: StatsWriter,
    /// The claim, given back when it is dropped.
    pub link: Box<dyn Link>,
}

/// The writing end of a latest value.
///
/// There is one at a time. Dropping it leaves the value where it is, and tells those who wait for
/// another.
pub struct LatestWriter<T> {
    /// The newest version; all writes of this writer and its predecessors.
    version: u64,
    cell: Cell,
    /// Compared with `forks` in each call.
    born: u64,
    forks: &'static AtomicU64,
    ringer: Ringer,
    stats: StatsWriter,
    value: PhantomData<fn(T)>,
    /// Dropped last: it gives the claim back.
    link: Box<dyn Link>,
}

impl<T> Drop for LatestWriter<T> {
    /// Leaves in good order. While a panic unwinds nothing is said: a program that fails half-way
    /// did not close.
    fn drop(&mut self) {
        let own = self.forks.load(Relaxed) == self.link.born() && !std::thread::panicking();
        if !own || !self.link.is_whole() {
            return;
        }
        self.link.close();
        self.ringer.announce_close(&mut *self.link);
    }
}

impl<T: NoUninit> LatestWriter<T> {
    /// Goes on behind the newest version (A1 and A2). The geometry's length is that of `T`.
    pub(crate) fn attach(parts: WriterParts, geometry: Geometry) -> Result<Self, AttachError> {
        let (control, count) = (parts.control, parts.watchers);
        let room = count <= WATCHERS_MAX && control.len() >= words_len(count);
        if geometry.len() != size_of::<T>() || !room {
            return Err(AttachError::Geometry);
        }
        let watchers = Watchers { first: watcher(0) + SLEEP, stride: WATCHER_LEN, count };
        let ringer = Ringer::new(control, WORDS, watchers).ok_or(AttachError::ReadOnly)?;
        let cell = Cell::new(geometry, parts.payload)?;
        let version = cell.take_over()?;
        let forks = parts.link.forks();
        Ok(Self {
            version,
            cell,
            born: forks.load(Relaxed),
            forks,
            ringer,
            stats: parts.stats,
            value: PhantomData,
            link: parts.link,
        })
    }

    /// Replaces the value, and wakes who waits for that; the new version.
    ///
    /// It waits for nobody.
    ///
    /// # Errors
    ///
    /// [`LatestError::Forked`] in a forked child.
    #[inline]
    pub fn write(&mut self, value: &T) -> Result<u64, LatestError> {
        if self.forks.load(Relaxed) != self.born {
            return Err(LatestError::Forked);
        }
        let version = self.version + 1;
        self.cell.write(version, bytes_of(value));
        self.stats.went_on(self.version, version);
        self.version = version;
        if self.ringer.announce(&mut *self.link) {
            self.stats.wakes();
        }
        Ok(version)
    }

    /// From now on the watcher in place number `place` is rung by this descriptor, too, which is
    /// that of a doorbell it made by `doorbell_to_pass`. The caller may close his copy.
    ///
    /// # Errors
    ///
    /// There is no such place; the descriptor is no pipe, or this user may not open it.
    pub fn ring_by(&mut self, place: u32, bell: impl AsFd) -> Result<()> {
        self.ringer.take_rope(place, bell.as_fd())
    }

    /// The newest version: how many writes there were, by this writer and its predecessors.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// What this end counted; of writes, those of its predecessors as well.
    pub fn stats(&self) -> Stats {
        self.stats.get().at_position(self.version, self.cell.len() as u64)
    }
}

impl<T: NoUninit + CheckedBitPattern> LatestWriter<T> {
    /// Replaces the value by what `change` makes of the newest one; the new version.
    ///
    /// # Errors
    ///
    /// [`LatestError::NeverWritten`] if there is none; [`LatestError::InvalidValue`] and
    /// [`LatestError::Corrupt`] if somebody else has written there. Nothing was changed then.
    pub fn update(&mut self, change: impl FnOnce(&mut T)) -> Result<u64, LatestError> {
        if self.forks.load(Relaxed) != self.born {
            return Err(LatestError::Forked);
        }
        if self.version == 0 {
            return Err(LatestError::NeverWritten);
        }
        let (version, value) = self.cell.read(|view, at| view.read_checked::<T>(at))?;
        let mut value = value.ok_or(LatestError::InvalidValue { version })?;
        change(&mut value);
        self.write(&value)
    }
}

impl<T> fmt::Debug for LatestWriter<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LatestWriter").field("version", &self.version).finish_non_exhaustive()
    }
}

//! The reading end of a latest value by bytes, for programs that do not know the type.

use super::attend::{Attend, Claimed, Unseen};
use super::cell::Cell;
use super::error::{AttachError, LatestError, WENT_BACK};
use super::layout::Geometry;
use crate::peer::PeerState;
use crate::stats::StatsWriter;
use crate::view::View;
use crate::wait::{
    Canceller, Link, PeerChange, Port, Wait, WaitMode, Waitable, Waits, deadline_after,
    doorbell_calls, endpoint_calls,
};
use core::fmt;
use core::time::Duration;
use std::time::Instant;

/// What the segment hands to a new reader: its windows, and the look at the writer; to a watcher
/// its claim.
pub(crate) struct ReaderParts {
    /// The control words.
    pub control: View,
    /// The places.
    pub payload: View,
    /// Who knows the writer.
    pub link: Box<dyn Link>,
}

/// A reading end of a latest value, by bytes.
///
/// As [`LatestReader`](crate::LatestReader), for programs that do not know the type.
pub struct RawLatestReader<A = Unseen> {
    cell: Cell,
    /// The highest version that was read.
    seen: u64,
    pub(super) attend: A,
}

/// A watcher of a latest value, by bytes.
///
/// As [`LatestWatcher`](crate::LatestWatcher), for programs that do not know the type.
pub type RawLatestWatcher = RawLatestReader<Claimed>;

impl RawLatestReader {
    /// A reader of values of the geometry's length.
    pub(crate) fn attach(parts: ReaderParts, geometry: Geometry) -> Result<Self, AttachError> {
        let cell = Cell::new(geometry, parts.payload)?;
        Ok(Self { cell, seen: 0, attend: Unseen::new(parts.control, parts.link)? })
    }

    /// How waits pass the time; see [`LatestReader::wait_mode`](crate::LatestReader::wait_mode).
    pub fn wait_mode(&mut self, mode: WaitMode) -> &mut Self {
        self.attend.onlooker.set_mode(mode);
        self
    }

    /// Whether waits go on for a successor when the writer has left or died, instead of ending
    /// with `Closed` or `PeerDied`. False at first.
    pub fn outlive_peer(&mut self, outlive: bool) -> &mut Self {
        self.attend.onlooker.set_outlives_peer(outlive);
        self
    }

    /// A handle that ends the waits of this reader from another thread.
    pub fn canceller(&self) -> Canceller {
        self.attend.onlooker.canceller()
    }

    /// Asks the kernel about the writer; see [`LatestReader::peer`](crate::LatestReader::peer).
    pub fn peer(&self) -> PeerState {
        self.attend.onlooker.peer()
    }

    /// Whether the writer was followed by another since the last call (or since this reader was
    /// made). Of several changes the last is told.
    pub fn peer_changed(&mut self) -> Option<PeerChange> {
        self.attend.onlooker.peer_changed()
    }
}

impl RawLatestReader<Claimed> {
    /// A watcher of values of the geometry's length, in place number `slot`.
    pub(crate) fn claim(
        parts: ReaderParts,
        stats: StatsWriter,
        slot: u32,
        geometry: Geometry,
    ) -> Result<Self, AttachError> {
        let cell = Cell::new(geometry, parts.payload)?;
        Ok(Self { cell, seen: 0, attend: Claimed::new(parts.control, slot, parts.link, stats)? })
    }

    /// The number of its place; see [`LatestWatcher::place`](crate::LatestReader::place).
    pub fn place(&self) -> u32 {
        self.attend.slot
    }

    endpoint_calls!(attend.port);
    doorbell_calls!(attend.port);
}

impl<A: Attend> RawLatestReader<A> {
    /// The size of a value in bytes.
    pub fn size(&self) -> usize {
        self.cell.len()
    }

    /// The newest version, 0 if nothing was ever written: one load.
    #[inline]
    pub fn version(&self) -> u64 {
        self.cell.version()
    }

    /// The highest version that this reader has read, 0 before the first.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// Waits until there is a version after `since`, without reading it; the newest version. The
    /// deadline may be none.
    ///
    /// # Errors
    ///
    /// As [`RawLatestReader::wait_newer_timeout`].
    pub fn wait_version(
        &mut self,
        since: u64,
        deadline: Option<Instant>,
    ) -> Result<u64, LatestError> {
        self.await_newer(since, || deadline)
    }

    /// Copies the newest value into `bytes`, of exactly [`RawLatestReader::size`] bytes; its
    /// version.
    ///
    /// # Errors
    ///
    /// [`LatestError::NeverWritten`] before the first write; [`LatestError::WrongSize`];
    /// [`LatestError::Contended`] if a thousand attempts were overtaken, which chance does not do;
    /// [`LatestError::Corrupt`] if a peer lies. What stands in `bytes` then is part of some versions.
    pub fn read(&mut self, bytes: &mut [u8]) -> Result<u64, LatestError> {
        let (len, size) = (bytes.len(), self.size());
        if len != size {
            return Err(LatestError::WrongSize { len, size });
        }
        let (version, ()) = self.read_with(|view, at| view.read(at, bytes))?;
        Ok(version)
    }

    /// Copies the newest value if it is a later version than `version`; its version.
    ///
    /// # Errors
    ///
    /// As [`RawLatestReader::read`], but for `NeverWritten`, which is no newer value. A watcher is
    /// also told why there will be none, see
    /// [`LatestReader::read_if_newer`](crate::LatestReader::read_if_newer).
    pub fn read_if_newer(
        &mut self,
        version: u64,
        bytes: &mut [u8],
    ) -> Result<Option<u64>, LatestError> {
        if self.is_newer(version)? { self.read_newer(version, bytes).map(Some) } else { Ok(None) }
    }

    /// Waits for a later version than `version`, and copies it; its version.
    ///
    /// # Errors
    ///
    /// As [`RawLatestReader::wait_newer_timeout`], but for `TimedOut`.
    pub fn wait_newer(&mut self, version: u64, bytes: &mut [u8]) -> Result<u64, LatestError> {
        self.await_newer(version, || None)?;
        self.read_newer(version, bytes)
    }

    /// Waits for a later version than `version` until `deadline`, and copies it; its version.
    ///
    /// # Errors
    ///
    /// As [`RawLatestReader::wait_newer_timeout`].
    pub fn wait_newer_deadline(
        &mut self,
        version: u64,
        bytes: &mut [u8],
        deadline: Instant,
    ) -> Result<u64, LatestError> {
        self.await_newer(version, || Some(deadline))?;
        self.read_newer(version, bytes)
    }

    /// Waits for a later version than `version` for at most `timeout`, and copies it; its version.
    ///
    /// # Errors
    ///
    /// As [`RawLatestReader::read`], and as [`LatestReader::wait_newer`](crate::LatestReader::wait_newer)
    /// when there is nothing newer; `TimedOut`.
    pub fn wait_newer_timeout(
        &mut self,
        version: u64,
        bytes: &mut [u8],
        timeout: Duration,
    ) -> Result<u64, LatestError> {
        self.await_newer(version, || deadline_after(timeout))?;
        self.read_newer(version, bytes)
    }

    /// Reads when a version after `since` was seen.
    fn read_newer(&mut self, since: u64, bytes: &mut [u8]) -> Result<u64, LatestError> {
        let version = self.read(bytes)?;
        if version > since { Ok(version) } else { Err(LatestError::Corrupt(WENT_BACK)) }
    }

    #[inline]
    pub(super) fn await_newer(
        &mut self,
        since: u64,
        deadline: impl FnOnce() -> Option<Instant>,
    ) -> Result<u64, LatestError> {
        self.check_fork()?;
        let version = self.cell.version();
        if version > since { Ok(version) } else { self.sleep_until_newer(since, deadline()) }
    }

    #[cold]
    #[inline(never)]
    fn sleep_until_newer(
        &mut self,
        since: u64,
        deadline: Option<Instant>,
    ) -> Result<u64, LatestError> {
        let mut wait = Wait::until(deadline);
        let waited = loop {
            if let Err(end) = self.attend.wait(&mut wait) {
                break Err(end.into());
            }
            self.check_fork()?; // what was announced is the parent's then
            let version = self.cell.version();
            if version > since {
                break Ok(version);
            }
        };
        self.attend.settle(&wait);
        waited
    }

    /// Whether there is a version after `since`; an error if there will be none.
    #[inline]
    pub(super) fn is_newer(&mut self, since: u64) -> Result<bool, LatestError> {
        self.check_fork()?;
        if self.cell.version() > since {
            return Ok(true);
        }
        match self.attend.found_nothing() {
            None => Ok(false),
            Some(_) if self.cell.version() > since => Ok(true),
            Some(end) => Err(end.into()),
        }
    }

    #[inline]
    fn check_fork(&self) -> Result<(), LatestError> {
        if self.attend.usable() { Ok(()) } else { Err(LatestError::Forked) }
    }

    /// Reads with `copy`, and looks that the version is one and does not go back.
    #[inline]
    pub(super) fn read_with<R>(
        &mut self,
        copy: impl FnMut(&View, usize) -> R,
    ) -> Result<(u64, R), LatestError> {
        self.check_fork()?;
        let (version, value) = self.cell.read(copy)?;
        if version < self.seen {
            return Err(LatestError::Corrupt(WENT_BACK));
        }
        if version == 0 {
            return Err(LatestError::NeverWritten);
        }
        if version > self.seen {
            self.seen = version;
            self.attend.saw(version, self.cell.len() as u64);
        }
        Ok((version, value))
    }
}

impl Waits for RawLatestReader<Claimed> {
    fn port(&mut self) -> &mut Port {
        &mut self.attend.port
    }

    fn ready(&mut self) -> bool {
        !self.attend.usable() || self.cell.version() > self.seen
    }
}

impl Waitable for RawLatestReader<Claimed> {}

impl<A> fmt::Debug for RawLatestReader<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawLatestReader")
            .field("size", &self.cell.len())
            .field("seen", &self.seen)
            .finish_non_exhaustive()
    }
}

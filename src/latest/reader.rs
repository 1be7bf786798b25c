//! The reading end of a latest value, of which there may be any number.

use super::attend::{Attend, Claimed, Unseen};
use super::error::{AttachError, LatestError, WENT_BACK};
use super::layout::Geometry;
use super::raw::{RawLatestReader, ReaderParts};
use crate::peer::PeerState;
use crate::stats::StatsWriter;
#[cfg(test)]
use crate::view::View;
use crate::wait::{
    Canceller, PeerChange, Port, WaitMode, Waitable, Waits, deadline_after, doorbell_calls,
    endpoint_calls,
};
use bytemuck::{AnyBitPattern, CheckedBitPattern, NoUninit, bytes_of_mut};
use core::fmt;
use core::marker::PhantomData;
use core::time::Duration;
use std::time::Instant;

/// A value and the number of the write that it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Versioned<T> {
    /// Writes are counted from 1.
    pub version: u64,
    /// What was written.
    pub value: T,
}

/// A reading end of a latest value: a reader, or a [`LatestWatcher`].
///
/// A reader claims nothing and writes nothing that the writer waits for: there may be any number,
/// in any number of processes, also of a segment that is open read-only.
///
/// The value stays readable when its writer has left or died; [`LatestReader::peer`] says whether
/// it lives.
pub struct LatestReader<T, A = Unseen> {
    raw: RawLatestReader<A>,
    value: PhantomData<fn() -> T>,
}

/// A reading end of a latest value with a place in the segment: it can be waited for in
/// [`WaitAny`](crate::WaitAny) together with other ends, in `poll` by its
/// [`Doorbell`](crate::Doorbell), and in tokio; and reports name it, with its lag.
///
/// The writer waits for a watcher no more than for a reader. Among other ends it has something to
/// do while there is a later version than it has [`seen`](LatestReader::seen): so read then, by
/// `read_if_newer(seen)`, which also tells when there will be none.
///
/// ```
/// # use hugeshm::{Segment, WaitAny};
/// # let name = &format!("watcher-{}", std::process::id());
/// # let segment = Segment::create(name).unlink_on_drop(true)
/// #     .latest::<[f64; 3]>("pose").ring::<u64>("orders", 4).build()?;
/// # segment.latest_writer::<[f64; 3]>("pose")?.write(&[1.0; 3])?;
/// let mut pose = segment.latest_watcher::<[f64; 3]>("pose")?;
/// let mut orders = segment.consumer::<u64>("orders")?;
/// let mut any = WaitAny::new();
/// match any.wait(&mut [&mut pose, &mut orders])? {
///     0 => println!("{:?}", pose.read_if_newer(pose.seen())?),
///     _ => println!("{}", orders.try_recv()?),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub type LatestWatcher<T> = LatestReader<T, Claimed>;

impl<T> LatestReader<T> {
    /// A reader whose values have at most the geometry's length.
    pub(crate) fn attach(parts: ReaderParts, geometry: Geometry) -> Result<Self, AttachError> {
        if geometry.len() < size_of::<T>() {
            return Err(AttachError::Geometry);
        }
        Ok(Self { raw: RawLatestReader::attach(parts, geometry)?, value: PhantomData })
    }

    /// How waits pass the time; [`WaitMode::Adaptive`] at first.
    ///
    /// With a read-only mapping the writer cannot be told that somebody sleeps: such a reader
    /// looks again after 50 us, and then after ever longer times up to 1 ms.
    pub fn wait_mode(&mut self, mode: WaitMode) -> &mut Self {
        self.raw.wait_mode(mode);
        self
    }

    /// Whether waits go on for a successor when the writer has left or died, instead of ending
    /// with `Closed` or `PeerDied`. False at first.
    pub fn outlive_peer(&mut self, outlive: bool) -> &mut Self {
        self.raw.outlive_peer(outlive);
        self
    }

    /// A handle that ends the waits of this reader from another thread.
    pub fn canceller(&self) -> Canceller {
        self.raw.canceller()
    }

    /// Asks the kernel about the writer: a few system calls.
    ///
    /// A read-only reader that may not open the claims file is told `Never` and `Closed`, and
    /// `Unknown` for everything else.
    pub fn peer(&self) -> PeerState {
        self.raw.peer()
    }

    /// Whether the writer was followed by another since the last call (or since this reader was
    /// made). Of several changes the last is told.
    pub fn peer_changed(&mut self) -> Option<PeerChange> {
        self.raw.peer_changed()
    }
}

impl<T> LatestReader<T, Claimed> {
    /// A watcher whose values have at most the geometry's length, in place number `slot`.
    pub(crate) fn claim(
        parts: ReaderParts,
        stats: StatsWriter,
        slot: u32,
        geometry: Geometry,
    ) -> Result<Self, AttachError> {
        if geometry.len() < size_of::<T>() {
            return Err(AttachError::Geometry);
        }
        let raw = RawLatestReader::claim(parts, stats, slot, geometry)?;
        Ok(Self { raw, value: PhantomData })
    }

    /// The number of its place among the watchers, by which a writer in a segment without a name
    /// knows whose doorbell it was passed: see [`LatestWriter::ring_by`](crate::LatestWriter::ring_by).
    pub fn place(&self) -> u32 {
        self.raw.place()
    }

    endpoint_calls!(raw.attend.port);
    doorbell_calls!(raw.attend.port);
}

impl<T, A: Attend> LatestReader<T, A> {
    /// The newest version, 0 if nothing was ever written: one load.
    #[inline]
    pub fn version(&self) -> u64 {
        self.raw.version()
    }

    /// The highest version that this reader has read, 0 before the first.
    pub fn seen(&self) -> u64 {
        self.raw.seen()
    }

    /// Waits until there is a version after `since`, without reading it; the newest version.
    ///
    /// This is for values that are too large to be passed by value; [`LatestReader::read_into`] reads
    /// them. The deadline may be none.
    ///
    /// # Errors
    ///
    /// As [`LatestReader::wait_newer_deadline`].
    pub fn wait_version(
        &mut self,
        since: u64,
        deadline: Option<Instant>,
    ) -> Result<u64, LatestError> {
        self.raw.wait_version(since, deadline)
    }
}

impl<T: CheckedBitPattern, A: Attend> LatestReader<T, A> {
    /// The newest value.
    ///
    /// It waits for nobody: neither a writer that is stopped or killed in the middle of a write
    /// nor one that writes without a pause keeps it from the last value that was whole.
    ///
    /// # Errors
    ///
    /// [`LatestError::NeverWritten`] before the first write; [`LatestError::InvalidValue`] if the
    /// bytes are no `T`; [`LatestError::Contended`] if a thousand attempts were overtaken, which
    /// chance does not do; [`LatestError::Corrupt`] if a peer lies.
    #[inline]
    pub fn read(&mut self) -> Result<Versioned<T>, LatestError> {
        let (version, value) = self.raw.read_with(|view, at| view.read_checked::<T>(at))?;
        let value = value.ok_or(LatestError::InvalidValue { version })?;
        Ok(Versioned { version, value })
    }

    /// The newest value if it is a later version than `version`; one load if it is not.
    ///
    /// # Errors
    ///
    /// As [`LatestReader::read`], but for `NeverWritten`, which is no newer value. A watcher is
    /// told `Closed`, `PeerDied` and `Superseded`, too: at once where a wait for several ends or a
    /// doorbell has found that out, else within 50 ms of calls that find nothing.
    #[inline]
    pub fn read_if_newer(&mut self, version: u64) -> Result<Option<Versioned<T>>, LatestError> {
        if self.raw.is_newer(version)? { self.read_newer(version).map(Some) } else { Ok(None) }
    }

    /// Waits for a later version than `version`, and reads it: 0 for the first there is,
    /// [`LatestReader::seen`] for another than the last.
    ///
    /// # Errors
    ///
    /// As [`LatestReader::read`]; `Closed` and `PeerDied` when the writer has left or died and
    /// there is nothing newer, see [`LatestReader::outlive_peer`]. A writer that never was is
    /// waited for, and so is one that this process may not ask about (see
    /// [`LatestReader::peer`]). `Cancelled`, `Superseded`.
    #[inline]
    pub fn wait_newer(&mut self, version: u64) -> Result<Versioned<T>, LatestError> {
        self.raw.await_newer(version, || None)?;
        self.read_newer(version)
    }

    /// Waits for a later version than `version` until `deadline`, and reads it.
    ///
    /// # Errors
    ///
    /// As [`LatestReader::wait_newer`], and `TimedOut`.
    #[inline]
    pub fn wait_newer_deadline(
        &mut self,
        version: u64,
        deadline: Instant,
    ) -> Result<Versioned<T>, LatestError> {
        self.raw.await_newer(version, || Some(deadline))?;
        self.read_newer(version)
    }

    /// Waits for a later version than `version` for at most `timeout`, and reads it.
    ///
    /// # Errors
    ///
    /// As [`LatestReader::wait_newer`], and `TimedOut`.
    #[inline]
    pub fn wait_newer_timeout(
        &mut self,
        version: u64,
        timeout: Duration,
    ) -> Result<Versioned<T>, LatestError> {
        self.raw.await_newer(version, || deadline_after(timeout))?;
        self.read_newer(version)
    }

    /// Reads when a version after `since` was seen.
    #[inline]
    fn read_newer(&mut self, since: u64) -> Result<Versioned<T>, LatestError> {
        let read = self.read()?;
        if read.version > since { Ok(read) } else { Err(LatestError::Corrupt(WENT_BACK)) }
    }
}

impl<T: NoUninit + AnyBitPattern, A: Attend> LatestReader<T, A> {
    /// Copies the newest value into `target`; its version. For values of many pages, which had
    /// better not be passed over the stack.
    ///
    /// # Errors
    ///
    /// As [`LatestReader::read`]. What stands in `target` then is part of some versions.
    pub fn read_into(&mut self, target: &mut T) -> Result<u64, LatestError> {
        let (version, ()) = self.raw.read_with(|view, at| view.read(at, bytes_of_mut(target)))?;
        Ok(version)
    }
}

#[cfg(test)]
impl<T, A: Attend> LatestReader<T, A> {
    /// A read whose copy is the test's.
    pub(super) fn read_by<R>(
        &mut self,
        copy: impl FnMut(&View, usize) -> R,
    ) -> Result<(u64, R), LatestError> {
        self.raw.read_with(copy)
    }
}

impl<T> Waits for LatestReader<T, Claimed> {
    fn port(&mut self) -> &mut Port {
        self.raw.port()
    }

    fn ready(&mut self) -> bool {
        self.raw.ready()
    }
}

impl<T> Waitable for LatestReader<T, Claimed> {}

impl<T, A> fmt::Debug for LatestReader<T, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LatestReader").field("raw", &self.raw).finish()
    }
}

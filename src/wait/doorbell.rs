//! Doorbells: sleeping in `poll`, `epoll` or a runtime built on them.
//!
//! A futex cannot be polled, and an eventfd cannot be found by name. A doorbell
//! is a FIFO that the end which wants to sleep makes for itself; its peer finds
//! it by name (or was given it by hand) the first time it has to be rung. Who
//! makes the name is not known here: the [`Link`](super::Link) hangs the bell
//! and rings the other one.
//!
//! # Protocol
//!
//! Sleeper S and ringer R as in the parent module, with these steps:
//!
//! * S0 store the FIFO's number where R will look for it, then make it
//! * S1 store 2 into the sleep word
//! * S2, S3 fence or barrier, look once more; on a find store 0
//! * S4 `poll` the descriptor, for one slice at most
//! * S5 take the bytes out of the FIFO
//! * R4 exchange the sleep word with 0; it was 2
//! * R5 load the number of S's bell, open it unless it is open already, write one byte
//!
//! S5 may take the byte of a later announcement. That loses nothing: S looks
//! at the ring after S5 and announces itself anew before it sleeps again.
//!
//! # Failure
//!
//! * S killed: its word stays 2. R exchanges it once and writes one byte for
//!   nobody; the FIFO's name is taken away by S's successor or with the segment.
//! * R killed between R4 and R5, or unable to open the FIFO: S sleeps for the
//!   rest of its slice.
//! * R dead: nobody rings. [`Doorbell::arm`] asks for it once per slice.
//! * A hostile peer: a wrong word or number costs R system calls; a flood of
//!   bytes wakes S for nothing, and blocks nobody.

use super::{ASLEEP_IN_POLL, End, Opposite, PeerAt, Port, SLICE, SLICE_REFUSED, TRIES_PER_LOOK};
use crate::error::{Error, ErrorKind, Result};
use crate::pages::limited;
use crate::peer::PeerState;
use crate::sync::{AtomicU32, fence};
use crate::sys::{fifo, futex, membarrier};
use core::any::Any;
use core::fmt;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use core::time::Duration;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// A descriptor that becomes readable when there is something to do for one endpoint.
///
/// For `poll`, `epoll` and event loops. It is made by the `doorbell` call of the endpoint, which
/// goes on being used for everything else. Three steps for each sleep:
///
/// ```
/// # use hugeshm::{Armed, Consumer, RecvError, Segment};
/// # use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
/// # use std::os::fd::AsFd;
/// # let name = &format!("doorbell-{}", std::process::id());
/// # let segment = Segment::create(name).ring::<u64>("ring", 4).unlink_on_drop(true).build()?;
/// # let mut producer = segment.producer::<u64>("ring")?;
/// # producer.push(7)?;
/// # drop(producer);
/// let mut consumer = segment.consumer::<u64>("ring")?;
/// let bell = consumer.doorbell()?;
/// loop {
///     match consumer.try_recv() {
///         Ok(message) => println!("{message}"),
///         Err(RecvError::Empty) => {
///             // 1. arm: from now on the peer rings. 2. poll. 3. clear.
///             if let Armed::Poll { at_most } = bell.arm(&mut consumer)? {
///                 let mut fds = [PollFd::new(bell.as_fd(), PollFlags::POLLIN)];
///                 poll(&mut fds, PollTimeout::try_from(at_most)?)?;
///                 bell.clear();
///             }
///         }
///         Err(RecvError::Closed) => break,
///         Err(error) => return Err(error.into()),
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A peer in another process finds the bell by its name in the control folder; the name goes when
/// the bell is dropped. Nobody rings at a peer's death: see [`Armed::Poll`]. It keeps the segment
/// mapped.
pub struct Doorbell {
    id: u64,
    /// Takes the name away; dropped before the descriptor.
    _name: Option<Box<dyn Any + Send + Sync>>,
    fd: Arc<OwnedFd>,
}

/// What [`Doorbell::arm`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Armed {
    /// There is something to do: do it before you sleep. Also when the peer has left or died, which
    /// the next call that does not wait tells.
    Ready,
    /// The bell will ring. Poll the descriptor, and arm anew when it became readable or when this
    /// time has passed: a peer that was killed does not ring, and is asked for by arming.
    Poll {
        /// 50 ms; 1 ms where the kernel refuses the barrier that makes ringing certain.
        at_most: Duration,
    },
}

/// An endpoint that can be slept on together with others: the ends of all rings, and the
/// watchers of latest values.
///
/// A consumer is waited for until it has a message, a producer until it has room: that of a
/// record ring, room for the record that was last refused as [`Full`](crate::SendError::Full). A
/// watcher is waited for until there is a later version than it has read.
/// Implemented by this crate only.
pub trait Waitable: Waits {}

/// What a wait must know of an endpoint; the sealed half of [`Waitable`].
pub trait Waits {
    #[doc(hidden)]
    fn port(&mut self) -> &mut Port;
    /// Whether a call that does not wait would do or tell something.
    #[doc(hidden)]
    fn ready(&mut self) -> bool;
}

/// A bell that was hung up: its descriptor, and what takes its name down when dropped.
pub(crate) struct Hung {
    pub(crate) fd: OwnedFd,
    pub(crate) name: Option<Box<dyn Any + Send + Sync>>,
}

/// The bell that an endpoint hears at present; shared with its cancellers.
#[derive(Clone, Default)]
pub(super) struct OwnBell {
    present: Arc<Mutex<Option<Present>>>,
}

struct Present {
    id: u64,
    fd: Weak<OwnedFd>,
}

impl OwnBell {
    pub(super) fn ring(&self) {
        let present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fd) = present.as_ref().and_then(|present| present.fd.upgrade()) {
            // As with a refused wake: the slice ends by itself.
            _ = fifo::ring(&fd);
        }
    }

    fn is(&self, id: u64) -> bool {
        let present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        present.as_ref().is_some_and(|present| present.id == id)
    }

    fn set(&self, bell: &Doorbell) {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        *present = Some(Present { id: bell.id, fd: Arc::downgrade(&bell.fd) });
    }
}

impl Doorbell {
    fn new(hung: Hung) -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let id = LAST.fetch_add(1, Relaxed) + 1;
        Self { id, _name: hung.name, fd: Arc::new(hung.fd) }
    }

    /// Asks the peer to ring, unless there is something to do already.
    ///
    /// Costs a system call or two; so look first, and arm when there was nothing.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`] if the bell is not the one that `end` made last;
    /// [`ErrorKind::Cancelled`] after [`Canceller::cancel`](crate::Canceller::cancel).
    pub fn arm<E: Waitable + ?Sized>(&self, end: &mut E) -> Result<Armed> {
        const OPERATION: &str = "arm doorbell";
        self.check(OPERATION, end)?;
        Self::prepare(end).map_err(|_| {
            Error::new(ErrorKind::Cancelled, OPERATION, "doorbell")
                .detail("the endpoint was cancelled")
                .remedy("Canceller::reset lets it wait again")
        })
    }

    /// Whether `end` hears this bell.
    pub(crate) fn check<E: Waits + ?Sized>(
        &self,
        operation: &'static str,
        end: &mut E,
    ) -> Result<()> {
        if end.port().bell.is(self.id) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::InvalidArgument, operation, "doorbell")
            .detail("it is not the bell that this endpoint made last")
            .remedy("make a doorbell for each endpoint, anew for a new endpoint"))
    }

    /// S1 to S3; only a cancellation is an error.
    pub(crate) fn prepare<E: Waits + ?Sized>(end: &mut E) -> Result<Armed, End> {
        if end.ready() {
            return Ok(Armed::Ready);
        }
        let port = end.port();
        if port.is_over()? {
            return Ok(Armed::Ready);
        }
        port.lie(ASLEEP_IN_POLL);
        fence(SeqCst); // edges `doze`, `cancel`
        let refused = port.peer_is_unfenced() && membarrier::barrier().is_err();
        let over = port.left_or_cancelled() && port.is_over().inspect_err(|_| port.rise())?;
        if over || end.ready() {
            end.port().rise();
            return Ok(Armed::Ready);
        }
        end.port().stats.sleeps();
        Ok(Armed::Poll { at_most: if refused { SLICE_REFUSED } else { SLICE } })
    }

    /// Takes the rings out, so that the descriptor is readable no more. Never waits.
    pub fn clear(&self) {
        fifo::drain(&self.fd);
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Doorbell {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doorbell").field("fd", &self.as_raw_fd()).finish_non_exhaustive()
    }
}

/// A peer's bell, passed by hand, opened for ringing.
pub(super) fn rope_to(bell: BorrowedFd<'_>) -> Result<OwnedFd> {
    fifo::reopen(&bell).map_err(|errno| {
        Error::system("take the peer's doorbell", "descriptor", errno)
            .detail("it must be the descriptor of a doorbell, which is a pipe or a FIFO")
    })
}

impl Port {
    /// Makes a bell that the peer finds by itself.
    pub(crate) fn hang_bell(&mut self) -> Result<Doorbell> {
        self.hear(self.link.hang_bell()?)
    }

    /// Makes a bell that must be passed to the peer.
    pub(crate) fn make_bell(&mut self) -> Result<Doorbell> {
        let failed = |errno| limited(Error::system("make doorbell", "pipe", errno));
        self.hear(Hung { fd: fifo::unnamed().map_err(failed)?, name: None })
    }

    fn hear(&mut self, hung: Hung) -> Result<Doorbell> {
        let bell = Doorbell::new(hung);
        if self.forks.load(Relaxed) != self.link.born() {
            return Err(Error::new(ErrorKind::Forked, "make doorbell", "endpoint")
                .detail("the endpoint belongs to the parent process")
                .remedy("open the segment anew in the child"));
        }
        self.bell.set(&bell);
        Ok(bell)
    }

    /// Takes the peer's bell, passed by hand.
    pub(crate) fn take_rope(&mut self, bell: BorrowedFd<'_>) -> Result<()> {
        self.rope = Some(rope_to(bell)?);
        Ok(())
    }

    /// R5 for a peer that sleeps in `poll`.
    #[cold]
    pub(super) fn ring_doorbell(&mut self, slot: u32) {
        if let Some(rope) = &self.rope {
            // Refused, it costs the peer the rest of a slice.
            _ = fifo::ring(rope);
        }
        self.link.ring_bell(slot);
    }

    /// What is known of end number `slot` of the other side: system calls.
    pub(crate) fn peer_at(&self, slot: u32) -> Option<PeerAt> {
        self.link.peer_at(slot)
    }

    /// S1.
    pub(super) fn lie(&self, state: u32) {
        self.own_word().store(state, Release); // edge `bell`
        #[cfg(test)]
        crate::view::steps::stored();
        if let Some(side) = self.words.own_side {
            self.control.word32(side).fetch_or(1, Release); // edge `bell`
            #[cfg(test)]
            crate::view::steps::stored();
        }
    }

    /// Takes S1 back.
    pub(super) fn rise(&self) {
        self.own_word().store(0, Relaxed);
    }

    /// The own sleep word.
    pub(super) fn own_word(&self) -> &AtomicU32 {
        self.control.word32(self.words.own_sleep)
    }

    /// Whether S2 takes a barrier in the peer's process.
    pub(super) fn peer_is_unfenced(&self) -> bool {
        match self.words.opposite {
            Opposite::One { unfenced, .. } => self.control.load64(unfenced, Acquire) != 0,
            Opposite::Many { .. } => true,
        }
    }

    /// Whether there is a reason to ask before the slice is over.
    pub(super) fn left_or_cancelled(&self) -> bool {
        self.cancelled.load(Relaxed) || (!self.outlives_peer && self.link.peer_left())
    }

    /// Whether waiting has become useless, which the next call that does not wait then tells.
    ///
    /// The kernel is asked once per slice, and while the peer is not known to live.
    pub(super) fn is_over(&mut self) -> Result<bool, End> {
        if self.cancelled.load(Relaxed) {
            return Err(End::Cancelled);
        }
        let now = futex::monotonic_nanos_coarse();
        let recent = now.wrapping_sub(self.asked_nanos) < SLICE.as_nanos() as u64;
        if recent && self.known == PeerState::Alive && !self.left_or_cancelled() {
            return Ok(false);
        }
        self.asked_nanos = now;
        self.known = self.link.peer_state();
        let over = self.verdict(self.known).is_some();
        if over {
            // The next fruitless call asks for itself.
            self.tries = TRIES_PER_LOOK - 1;
            self.asked_nanos = 0;
        }
        Ok(over)
    }
}

/// The calls that endpoints with a doorbell have, by way of the field path to their [`Port`].
macro_rules! doorbell_calls {
    ($($port:ident).+) => {
        /// Makes a descriptor for `poll` and `epoll` that tells when this end has something to
        /// do; see [`Doorbell`](crate::Doorbell). The last one made is the one that rings.
        ///
        /// # Errors
        ///
        /// [`ErrorKind::Unsupported`](crate::ErrorKind) where the peer could not find it: use
        /// `doorbell_to_pass`. [`ErrorKind::Forked`](crate::ErrorKind); errors of the kernel.
        pub fn doorbell(&mut self) -> crate::error::Result<crate::wait::Doorbell> {
            self.$($port).+.hang_bell()
        }

        /// The same for segments without a name: the descriptor of this doorbell must be passed
        /// to the process at the other end, which gives it to its `ring_by`.
        ///
        /// # Errors
        ///
        /// [`ErrorKind::Forked`](crate::ErrorKind); errors of the kernel.
        pub fn doorbell_to_pass(&mut self) -> crate::error::Result<crate::wait::Doorbell> {
            self.$($port).+.make_bell()
        }

        /// From now on the peer is rung by this descriptor too, which is that of a doorbell it
        /// made by `doorbell_to_pass`. The caller may close his copy.
        ///
        /// # Errors
        ///
        /// The descriptor is no pipe, or this user may not open it.
        pub fn ring_by(&mut self, bell: impl std::os::fd::AsFd) -> crate::error::Result<()> {
            self.$($port).+.take_rope(bell.as_fd())
        }
    };
}
pub(crate) use doorbell_calls;

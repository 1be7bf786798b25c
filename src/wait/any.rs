//! Waiting for several endpoints at once.
//!
//! Each end has its own sleep word, so a wait for many is the wait for one with
//! every step done for all of them: look at all, spin, announce in every word,
//! one fence (and one barrier) for all, look again, then sleep on all words by
//! `futex_waitv`. Where the kernel lacks it (before 5.16) or there are more words
//! than it takes, the sleep is one of 1 ms. Protocol, ordering and failures are
//! those of the parent module.

use super::{ASLEEP, End, SLICE, SLICE_REFUSED, SPIN_BUDGET, TURNS_PER_LOOK, WaitMode, Waitable};
use crate::error::{Error, ErrorKind};
use crate::sync::{AtomicU32, fence};
use crate::sys::{futex, membarrier};
use core::cell::Cell;
use core::fmt;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use core::time::Duration;
use nix::errno::Errno;
use std::sync::Arc;
use std::time::Instant;

/// Why a wait for several endpoints ended without one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WaitError {
    /// The deadline passed.
    TimedOut,
    /// The wait, or one of its endpoints, was cancelled from its own process.
    Cancelled,
    /// There is no endpoint to wait for.
    NoEndpoint,
}

impl fmt::Display for WaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::TimedOut => "the deadline passed",
            Self::Cancelled => "the wait was cancelled",
            Self::NoEndpoint => "there is no endpoint to wait for",
        })
    }
}

impl core::error::Error for WaitError {}

impl From<WaitError> for Error {
    fn from(error: WaitError) -> Self {
        let kind = match error {
            WaitError::TimedOut => ErrorKind::TimedOut,
            WaitError::Cancelled => ErrorKind::Cancelled,
            WaitError::NoEndpoint => ErrorKind::InvalidArgument,
        };
        Self::new(kind, "wait for", "several endpoints").detail(error.to_string())
    }
}

/// Waits for the first of several endpoints that has something to do, of any kinds and segments.
///
/// Looks at them in turn, beginning behind the one that was found last, so that none is forgotten
/// for a busy one. An endpoint whose peer has left or died has something to do: its next
/// `try_` call tells. Sleeps on up to 127 endpoints until one is rung (Linux 5.16; with more, or
/// before, it looks every millisecond).
///
/// ```
/// # use hugeshm::{Segment, WaitAny, Waitable};
/// # let name = &format!("any-{}", std::process::id());
/// # let segment = Segment::create(name).unlink_on_drop(true)
/// #     .ring::<u64>("quotes", 4).records("orders", 4096).build()?;
/// # segment.producer::<u64>("quotes")?.push(7)?;
/// let mut quotes = segment.consumer::<u64>("quotes")?;
/// let mut orders = segment.record_consumer("orders")?;
/// let mut any = WaitAny::new();
/// match any.wait(&mut [&mut quotes, &mut orders])? {
///     0 => println!("{}", quotes.try_recv()?),
///     _ => orders.try_read()?.release(),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct WaitAny {
    next: usize,
    mode: WaitMode,
    /// 1 when cancelled.
    cancelled: Arc<AtomicU32>,
    /// Whether to sleep on all words; false in tests of what old kernels do.
    vector: bool,
}

/// Ends the waits of one [`WaitAny`] from another thread; sticky until [`AnyCanceller::reset`].
#[derive(Clone, Debug)]
pub struct AnyCanceller {
    cancelled: Arc<AtomicU32>,
}

impl AnyCanceller {
    /// Ends the present wait and all later ones.
    pub fn cancel(&self) {
        self.cancelled.store(1, SeqCst);
        // Refused, the sleeper's slice ends by itself.
        _ = futex::wake(&self.cancelled, i32::MAX);
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Relaxed) != 0
    }

    /// Lets the owner wait again.
    pub fn reset(&self) {
        self.cancelled.store(0, SeqCst);
    }
}

impl Default for WaitAny {
    fn default() -> Self {
        Self::new()
    }
}

/// How a sleep ended.
enum Slept {
    Found(usize),
    Woken,
    Slice,
}

type Ends<'a, 'b> = &'a mut [&'b mut dyn Waitable];

impl WaitAny {
    /// A wait that begins with the first endpoint.
    pub fn new() -> Self {
        let cancelled = Arc::new(AtomicU32::new(0));
        Self { next: 0, mode: WaitMode::default(), cancelled, vector: true }
    }

    /// How the time is passed; [`WaitMode::Adaptive`] at first. That of the endpoints is not
    /// looked at.
    pub fn wait_mode(&mut self, mode: WaitMode) -> &mut Self {
        self.mode = mode;
        self
    }

    /// A handle that ends the waits from another thread.
    pub fn canceller(&self) -> AnyCanceller {
        AnyCanceller { cancelled: Arc::clone(&self.cancelled) }
    }

    /// Waits until one of `ends` has something to do; its index.
    ///
    /// # Errors
    ///
    /// `Cancelled`, `NoEndpoint`.
    pub fn wait(&mut self, ends: &mut [&mut dyn Waitable]) -> Result<usize, WaitError> {
        self.until(ends, None)
    }

    /// The same, for at most `timeout`; zero looks once.
    ///
    /// # Errors
    ///
    /// As [`WaitAny::wait`], and `TimedOut`.
    pub fn wait_timeout(
        &mut self,
        ends: &mut [&mut dyn Waitable],
        timeout: Duration,
    ) -> Result<usize, WaitError> {
        self.until(ends, super::deadline_after(timeout))
    }

    /// The same, until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`WaitAny::wait`], and `TimedOut`.
    pub fn wait_deadline(
        &mut self,
        ends: &mut [&mut dyn Waitable],
        deadline: Instant,
    ) -> Result<usize, WaitError> {
        self.until(ends, Some(deadline))
    }

    #[cfg(test)]
    pub(crate) fn set_vector(&mut self, vector: bool) {
        self.vector = vector;
    }

    fn until(&mut self, ends: Ends<'_, '_>, deadline: Option<Instant>) -> Result<usize, WaitError> {
        let first = self.next.checked_rem(ends.len()).ok_or(WaitError::NoEndpoint)?;
        let found = self.pass(ends, first, deadline)?;
        self.next = found + 1;
        Ok(found)
    }

    fn pass(
        &self,
        ends: Ends<'_, '_>,
        first: usize,
        deadline: Option<Instant>,
    ) -> Result<usize, WaitError> {
        let mut awake = self.mode != WaitMode::Block;
        loop {
            let found = if awake { self.spin(ends, first, deadline)? } else { look(ends, first) };
            if let Some(index) = found {
                return Ok(index);
            }
            match self.sleep(ends, first, deadline)? {
                Slept::Found(index) => return Ok(index),
                Slept::Woken => awake = self.mode != WaitMode::Block,
                Slept::Slice => awake = false,
            }
        }
    }

    /// Looks until one is found, or until it is time to sleep.
    fn spin(
        &self,
        ends: Ends<'_, '_>,
        first: usize,
        deadline: Option<Instant>,
    ) -> Result<Option<usize>, WaitError> {
        let (mut turns, mut start, mut asked) = (0u32, None, None);
        loop {
            if let Some(index) = look(ends, first) {
                return Ok(Some(index));
            }
            core::hint::spin_loop();
            turns = turns.wrapping_add(1);
            if !turns.is_multiple_of(TURNS_PER_LOOK) {
                continue;
            }
            let now = Instant::now();
            if let Err(end) = self.gave_up(now, deadline) {
                return look(ends, first).map(Some).ok_or(end);
            }
            let asked = asked.get_or_insert(now);
            let left = ends.iter_mut().any(|end| end.port().left_or_cancelled());
            if left || now.duration_since(*asked) >= SLICE {
                *asked = now;
                if let Some(index) = over(ends, first)? {
                    return Ok(Some(index));
                }
            }
            if now.duration_since(*start.get_or_insert(now)) >= SPIN_BUDGET {
                match self.mode {
                    WaitMode::Adaptive | WaitMode::Block => return Ok(None),
                    WaitMode::Yield => {
                        std::thread::yield_now();
                        turns = TURNS_PER_LOOK - 1;
                    }
                    WaitMode::Spin => {}
                }
            }
        }
    }

    /// S1 to S4 for all ends.
    fn sleep(
        &self,
        ends: Ends<'_, '_>,
        first: usize,
        deadline: Option<Instant>,
    ) -> Result<Slept, WaitError> {
        if let Some(index) = over(ends, first)? {
            return Ok(Slept::Found(index));
        }
        for end in ends.iter_mut() {
            end.port().lie(ASLEEP);
        }
        fence(SeqCst); // edges `doze`, `cancel`
        let slept = self.lie_and_look(ends, first, deadline);
        for end in ends.iter_mut() {
            end.port().rise();
        }
        slept
    }

    /// S2 behind the fence, S3 and S4.
    fn lie_and_look(
        &self,
        ends: Ends<'_, '_>,
        first: usize,
        deadline: Option<Instant>,
    ) -> Result<Slept, WaitError> {
        let unfenced = ends.iter_mut().any(|end| end.port().peer_is_unfenced());
        let refused = unfenced && membarrier::barrier().is_err();
        if ends.iter_mut().any(|end| end.port().left_or_cancelled())
            && let Some(index) = over(ends, first)?
        {
            return Ok(Slept::Found(index));
        }
        let now = Instant::now();
        if let Some(index) = look(ends, first) {
            return Ok(Slept::Found(index));
        }
        self.gave_up(now, deadline)?;
        let mut slice = if refused { SLICE_REFUSED } else { SLICE };
        if let Some(deadline) = deadline {
            slice = slice.min(deadline.saturating_duration_since(now));
        }
        for end in ends.iter_mut() {
            end.port().stats.sleeps();
        }
        let own = core::iter::once((&*self.cancelled, 0));
        let words = ends.iter_mut().map(|end| (end.port().own_word(), ASLEEP));
        let result =
            if self.vector { futex::wait_any(own.chain(words), slice) } else { Err(Errno::ENOSYS) };
        match result {
            Ok(()) | Err(Errno::EAGAIN) => Ok(Slept::Woken),
            Err(Errno::EINTR | Errno::ETIMEDOUT) => Ok(Slept::Slice),
            Err(_) => {
                // On one word at least; where that is refused as well, it passes all the same.
                let slice = slice.min(SLICE_REFUSED);
                let one = ends[first].port().own_word();
                match futex::wait(one, ASLEEP, slice) {
                    Ok(()) | Err(Errno::EAGAIN | Errno::EINTR | Errno::ETIMEDOUT) => {}
                    Err(_) => std::thread::sleep(slice),
                }
                Ok(Slept::Slice)
            }
        }
    }

    fn gave_up(&self, now: Instant, deadline: Option<Instant>) -> Result<(), WaitError> {
        if self.cancelled.load(Relaxed) != 0 {
            return Err(WaitError::Cancelled);
        }
        match deadline {
            Some(deadline) if now >= deadline => Err(WaitError::TimedOut),
            _ => Ok(()),
        }
    }
}

/// The first end from `first` on that `is` what is asked.
fn turn<E>(
    ends: Ends<'_, '_>,
    first: usize,
    mut is: impl FnMut(&mut dyn Waitable) -> Result<bool, E>,
) -> Result<Option<usize>, E> {
    for index in (first..ends.len()).chain(0..first) {
        if is(ends[index])? {
            return Ok(Some(index));
        }
    }
    Ok(None)
}

fn look(ends: Ends<'_, '_>, first: usize) -> Option<usize> {
    let found: Result<_, core::convert::Infallible> = turn(ends, first, |end| Ok(end.ready()));
    found.unwrap_or_else(|never| match never {})
}

/// The first end whose peer is gone.
fn over(ends: Ends<'_, '_>, first: usize) -> Result<Option<usize>, WaitError> {
    turn(ends, first, |end| end.port().is_over()).map_err(|_: End| WaitError::Cancelled)
}

/// Waits until one of `ends` has something to do, or for `timeout`; its index.
///
/// As [`WaitAny`], with the turn kept for each thread.
///
/// # Errors
///
/// As [`WaitAny::wait_timeout`].
pub fn wait_any(
    ends: &mut [&mut dyn Waitable],
    timeout: Option<Duration>,
) -> Result<usize, WaitError> {
    thread_local! {
        static NEXT: Cell<usize> = const { Cell::new(0) };
    }
    let mut any = WaitAny { next: NEXT.get(), ..WaitAny::new() };
    let found = any.until(ends, timeout.and_then(super::deadline_after));
    NEXT.set(any.next);
    found
}

//! Sleeping on a doorbell as a tokio task.
//!
//! The doorbell's protocol with `await` in the place of `poll`: arm, wait for
//! the descriptor or the end of the slice, clear. Nothing is taken out of a ring
//! here, so a future that is dropped half-way loses nothing; the peer then rings
//! once for nobody. Needs a runtime with its I/O and time drivers enabled.
//!
//! An [`Async`] is an end together with its doorbell in the runtime. Each call
//! tries first, without a system call, and sleeps only when it finds nothing.
//! There is no task and no thread behind it. What an attempt is, each kind of end
//! says for itself; to let other tasks run, a call yields *before* it tries.
#![expect(unsafe_code, reason = "a descriptor is lent to the runtime for as long as it lives")]

use super::{Armed, Doorbell, End, Waitable, Waits};
use crate::error::{Error, ErrorKind, Result};
use core::future::poll_fn;
use core::task::Poll;
use nix::errno::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A task that never has to wait lets others run after so many turns.
const TURNS_MAX: u32 = 128;

/// An end whose calls are awaited; of each kind, by the names that begin with `Async`.
///
/// A peer that dies is noticed after 50 ms at most, as everywhere; deadlines are those of
/// `tokio::time::timeout`. All other calls of the end are reached by [`Async::get_mut`].
///
/// ```
/// # use hugeshm::{AsyncConsumer, AsyncProducer, Segment};
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// # let name = &format!("async-{}", std::process::id());
/// # let segment = Segment::create(name).ring::<u64>("ring", 4).unlink_on_drop(true).build()?;
/// # runtime.block_on(async {
/// let mut producer = AsyncProducer::new(segment.producer::<u64>("ring")?)?;
/// let mut consumer = AsyncConsumer::new(segment.consumer::<u64>("ring")?)?;
/// producer.push(7).await?;
/// assert_eq!(consumer.recv().await?, 7);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Async<E> {
    bell: AsyncBell,
    end: E,
}

impl<E: Waitable> Async<E> {
    /// An end with a doorbell of its own in the present runtime.
    ///
    /// # Errors
    ///
    /// Those of the end's `doorbell`; [`ErrorKind::Unsupported`](crate::ErrorKind) outside of a
    /// tokio runtime.
    ///
    /// # Panics
    ///
    /// In a runtime whose I/O driver is not enabled; the first wait does so where the time driver
    /// is not.
    pub fn new(mut end: E) -> Result<Self> {
        let bell = end.port().hang_bell()?;
        Ok(Self { bell: AsyncBell::new(bell, &mut end)?, end })
    }

    /// An end with a doorbell that it made and that was passed to the peer: for segments without
    /// a name.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind) if `end` did not make the bell, or another
    /// one since; otherwise as [`Async::new`].
    ///
    /// # Panics
    ///
    /// As [`Async::new`].
    pub fn with_doorbell(mut end: E, bell: Doorbell) -> Result<Self> {
        Ok(Self { bell: AsyncBell::new(bell, &mut end)?, end })
    }

    /// The end, for its calls that do not wait.
    pub fn get_ref(&self) -> &E {
        &self.end
    }

    /// The end, for its calls that do not wait.
    pub fn get_mut(&mut self) -> &mut E {
        &mut self.end
    }

    /// The end alone; its doorbell goes.
    pub fn into_inner(self) -> E {
        self.end
    }

    /// What `attempt` gives as soon as it does; while it gives nothing, the end sleeps.
    pub(crate) async fn until<R, F: From<End>>(
        &mut self,
        mut attempt: impl FnMut(&mut E) -> Result<Option<R>, F>,
    ) -> Result<R, F> {
        self.bell.turn().await;
        loop {
            if let Some(done) = attempt(&mut self.end)? {
                return Ok(done);
            }
            self.bell.sleep(&mut self.end).await?;
        }
    }
}

/// A doorbell in the present runtime.
#[derive(Debug)]
struct AsyncBell {
    bell: AsyncFd<Doorbell>,
    turns: u32,
}

impl AsyncBell {
    /// Panics in a runtime whose I/O driver is not enabled.
    fn new<E: Waits>(bell: Doorbell, end: &mut E) -> Result<Self> {
        bell.check("watch doorbell", end)?;
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(Error::new(ErrorKind::Unsupported, "watch doorbell", "runtime")
                .detail("this thread is in no tokio runtime")
                .remedy("call it from a task, or behind Runtime::enter"));
        }
        // SAFETY: a `Doorbell` owns its descriptor, never exchanges it and always names the same
        // one; this type owns the `Doorbell` and only lends it, so it lives until the `AsyncFd`
        // is dropped.
        let registered = unsafe { AsyncFd::register_with_interest(bell, Interest::READABLE) };
        let bell = registered.map_err(|error| {
            let (_, cause) = error.into_parts();
            let errno = cause.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw);
            Error::system("watch doorbell", "runtime", errno)
        })?;
        Ok(Self { bell, turns: 0 })
    }

    /// Sleeps until `end` should look again; only a cancellation is an error.
    async fn sleep<E: Waits>(&mut self, end: &mut E) -> Result<(), End> {
        let Armed::Poll { at_most } = Doorbell::prepare(end)? else {
            self.turn().await;
            return Ok(());
        };
        self.turns = 0;
        if let Ok(Ok(mut ready)) = tokio::time::timeout(at_most, self.bell.readable()).await {
            ready.clear_ready();
        }
        self.bell.get_ref().clear();
        Ok(())
    }

    /// Counts a call that did not have to wait; once in a while it lets other tasks run.
    async fn turn(&mut self) {
        self.turns += 1;
        if self.turns < TURNS_MAX {
            return;
        }
        self.turns = 0;
        let mut yielded = false;
        poll_fn(|context| {
            if yielded {
                return Poll::Ready(());
            }
            yielded = true;
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }
}

//! Sleeping on a doorbell as a tokio task.
//!
//! The doorbell's protocol with `await` in the place of `poll`: arm, wait for
//! the descriptor or the end of the slice, clear. Nothing is taken out of a ring
//! here, so a future that is dropped half-way loses nothing; the peer then rings
//! once for nobody. Needs a runtime with its I/O and time drivers enabled.
#![expect(unsafe_code, reason = "a descriptor is lent to the runtime for as long as it lives")]

use super::{Armed, Doorbell, End, Waits};
use crate::error::{Error, ErrorKind, Result};
use core::future::poll_fn;
use core::task::Poll;
use nix::errno::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A task that never has to wait lets others run after so many turns.
const TURNS_MAX: u32 = 128;

/// A doorbell in the present runtime.
#[derive(Debug)]
pub(crate) struct AsyncBell {
    bell: AsyncFd<Doorbell>,
    turns: u32,
}

impl AsyncBell {
    /// Panics in a runtime whose I/O driver is not enabled.
    pub(crate) fn new<E: Waits>(bell: Doorbell, end: &mut E) -> Result<Self> {
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
    pub(crate) async fn sleep<E: Waits>(&mut self, end: &mut E) -> Result<(), End> {
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
    pub(crate) async fn turn(&mut self) {
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

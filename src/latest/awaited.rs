//! Watchers of latest values as futures, for tokio.
//!
//! A value is read in the very step that completes the future, and stays where it
//! is: nothing is lost by a future that is dropped before. How an [`Async`] waits
//! is told in `wait::asleep`.

use super::error::LatestError;
use super::reader::{LatestWatcher, Versioned};
use crate::wait::Async;
use bytemuck::CheckedBitPattern;

/// The awaited end of a latest value that reads.
pub type AsyncLatestWatcher<T> = Async<LatestWatcher<T>>;

impl<T: CheckedBitPattern> Async<LatestWatcher<T>> {
    /// The newest value as soon as it is a later version than the one that was read last; cancel
    /// safe.
    ///
    /// # Errors
    ///
    /// As [`LatestWatcher::wait_newer`](crate::LatestReader::wait_newer).
    pub async fn changed(&mut self) -> Result<Versioned<T>, LatestError> {
        self.until(|watcher| watcher.read_if_newer(watcher.seen())).await
    }
}

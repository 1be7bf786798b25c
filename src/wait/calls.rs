//! The calls that every waiting endpoint has, whatever it carries.

/// The calls that every endpoint has, by way of the field path to its [`Port`].
///
/// An end whose position counts its messages has its own `stats`.
macro_rules! endpoint_calls {
    ($($port:ident).+) => {
        crate::wait::endpoint_calls!($($port).+, own stats);

        /// What this endpoint counted.
        pub fn stats(&self) -> crate::stats::Stats {
            self.$($port).+.stats.get()
        }
    };
    ($($port:ident).+, own stats) => {
        /// How blocking calls pass the time; [`WaitMode::Adaptive`](crate::WaitMode) at first.
        pub fn wait_mode(&mut self, mode: crate::wait::WaitMode) -> &mut Self {
            self.$($port).+.set_mode(mode);
            self
        }

        /// Whether blocking calls go on waiting for a successor when the peer has left or died,
        /// instead of ending with `Closed` or `PeerDied`. False at first.
        pub fn outlive_peer(&mut self, outlive: bool) -> &mut Self {
            self.$($port).+.set_outlives_peer(outlive);
            self
        }

        /// A handle that ends the waits of this endpoint from another thread.
        pub fn canceller(&self) -> crate::wait::Canceller {
            self.$($port).+.canceller()
        }

        /// Asks the kernel about the process at the other end: a system call.
        pub fn peer(&self) -> crate::peer::PeerState {
            self.$($port).+.peer()
        }

        /// Whether the other end was taken anew since the last call (or since this endpoint was
        /// made). Of several changes the last is told.
        pub fn peer_changed(&mut self) -> Option<crate::wait::PeerChange> {
            self.$($port).+.peer_changed()
        }
    };
}
pub(crate) use endpoint_calls;

//! What every ring endpoint is made from, and the calls that all of them have.

use super::error::AttachError;
use super::layout::{CONSUMER_SLEEP, CONSUMER_UNFENCED, PRODUCER_SLEEP, PRODUCER_UNFENCED};
use super::layout::{CONTROL_ALIGN, CONTROL_LEN};
use crate::stats::StatsWriter;
use crate::view::View;
use crate::wait::{Link, Port, WaitWords};

/// What the segment hands to a new endpoint: its windows, its line, its claim.
pub(crate) struct Parts {
    /// The ring's control words.
    pub control: View,
    /// The ring's slots or records.
    pub payload: View,
    /// The endpoint's statistics line.
    pub stats: StatsWriter,
    /// The claim on this end, given back when it is dropped.
    pub link: Box<dyn Link>,
}

/// Which end of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Producer,
    Consumer,
}

impl Side {
    fn wait_words(self) -> WaitWords {
        match self {
            Self::Producer => WaitWords {
                own_sleep: PRODUCER_SLEEP,
                peer_sleep: CONSUMER_SLEEP,
                own_unfenced: PRODUCER_UNFENCED,
                peer_unfenced: CONSUMER_UNFENCED,
            },
            Self::Consumer => WaitWords {
                own_sleep: CONSUMER_SLEEP,
                peer_sleep: PRODUCER_SLEEP,
                own_unfenced: CONSUMER_UNFENCED,
                peer_unfenced: PRODUCER_UNFENCED,
            },
        }
    }
}

impl Parts {
    /// Checks that both windows may be written, are aligned and have exactly the room that
    /// `payload_len` needs.
    pub(crate) fn check(&self, payload_len: u64, payload_align: usize) -> Result<(), AttachError> {
        if !self.control.writable() || !self.payload.writable() {
            return Err(AttachError::ReadOnly);
        }
        let sound = self.control.len() >= CONTROL_LEN
            && self.control.is_aligned_to(CONTROL_ALIGN)
            && self.payload.len() as u64 >= payload_len
            && self.payload.is_aligned_to(payload_align);
        if sound { Ok(()) } else { Err(AttachError::Geometry) }
    }

    /// The windows, and the port made from the rest.
    pub(crate) fn into_port(self, side: Side) -> Result<(View, View, Port), AttachError> {
        let port = Port::new(self.control.clone(), side.wait_words(), self.link, self.stats)
            .ok_or(AttachError::ReadOnly)?;
        Ok((self.control, self.payload, port))
    }
}

/// The calls that every endpoint has, by way of the field path to its [`Port`].
macro_rules! endpoint_calls {
    ($($port:ident).+) => {
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

        /// What this endpoint counted.
        pub fn stats(&self) -> crate::stats::Stats {
            self.$($port).+.stats.get()
        }
    };
}
pub(crate) use endpoint_calls;

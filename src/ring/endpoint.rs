//! What every ring endpoint is made from, and the calls that all of them have.

use super::error::AttachError;
use super::layout::{CONSUMER_SLEEP, CONSUMER_UNFENCED, PRODUCER_SLEEP, PRODUCER_UNFENCED};
use super::layout::{CONTROL_ALIGN, CONTROL_LEN};
use crate::stats::StatsWriter;
use crate::view::View;
use crate::wait::{Link, Opposite, Port, WaitWords};

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
                own_unfenced: PRODUCER_UNFENCED,
                own_side: None,
                opposite: Opposite::One { sleep: CONSUMER_SLEEP, unfenced: CONSUMER_UNFENCED },
            },
            Self::Consumer => WaitWords {
                own_sleep: CONSUMER_SLEEP,
                own_unfenced: CONSUMER_UNFENCED,
                own_side: None,
                opposite: Opposite::One { sleep: PRODUCER_SLEEP, unfenced: PRODUCER_UNFENCED },
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

pub(crate) use crate::wait::endpoint_calls;

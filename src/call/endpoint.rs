//! What both ends of a call cell are made from.

use super::layout::{
    ALIGN, BYTES, BYTES_MAX, CALLER_SLEEP, CALLER_UNFENCED, CONTROL_LEN, LINE_LEN, PAYLOAD_LEN,
    SERVER_SLEEP, SERVER_UNFENCED,
};
use crate::error::{Error, ErrorKind};
use crate::stats::StatsWriter;
use crate::view::{BlockCursor, BlockShape, View};
use crate::wait::{Link, Opposite, Port, WaitWords};

/// What the segment hands to a new end: its windows, its statistics, its claim.
pub(crate) struct Parts {
    /// The cell's control words.
    pub control: View,
    /// The line.
    pub payload: View,
    /// The end's statistics line.
    pub stats: StatsWriter,
    /// The claim on this end, given back when it is dropped.
    pub link: Box<dyn Link>,
}

/// How often an end looks, a PAUSE apart, before it begins a wait that reads clocks and asks for
/// its peer: the round trip of a line between two caches and some work at its end.
pub(super) const FIRST_LOOKS: u32 = 8;

pub(super) const CALLER_WORDS: WaitWords = WaitWords {
    own_sleep: CALLER_SLEEP,
    own_unfenced: CALLER_UNFENCED,
    own_side: None,
    opposite: Opposite::One { sleep: SERVER_SLEEP, unfenced: SERVER_UNFENCED },
};

pub(super) const SERVER_WORDS: WaitWords = WaitWords {
    own_sleep: SERVER_SLEEP,
    own_unfenced: SERVER_UNFENCED,
    own_side: None,
    opposite: Opposite::One { sleep: CALLER_SLEEP, unfenced: CALLER_UNFENCED },
};

/// The line: its header word, and one message.
pub(super) const LINE: BlockShape =
    BlockShape { first: BYTES, stride: BYTES_MAX, count: 1, bytes: LINE_LEN };

impl Parts {
    /// Checks that both windows may be written, are aligned and have the room they need.
    pub(super) fn check(&self) -> Result<(), AttachError> {
        if !self.control.writable() || !self.payload.writable() {
            return Err(AttachError::ReadOnly);
        }
        let sound = self.control.len() >= CONTROL_LEN
            && self.control.is_aligned_to(ALIGN)
            && self.payload.len() >= PAYLOAD_LEN
            && self.payload.is_aligned_to(ALIGN);
        if sound { Ok(()) } else { Err(AttachError::Geometry) }
    }

    /// Control words, the line as a block, and the port made from the rest.
    pub(super) fn into_port(
        self,
        words: WaitWords,
    ) -> Result<(View, BlockCursor, Port), AttachError> {
        let port = Port::new(self.control.clone(), words, self.link, self.stats)
            .ok_or(AttachError::ReadOnly)?;
        let line = self.payload.blocks(LINE, 1).ok_or(AttachError::Geometry)?;
        Ok((self.control, line, port))
    }
}

/// Why an end could not be attached to its cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttachError {
    /// The memory is mapped read-only; both ends write.
    ReadOnly,
    /// The windows or the lengths are not those of a cell.
    Geometry,
    /// The header word contradicts the protocol.
    Corrupt(&'static str),
}

impl AttachError {
    /// The control plane's error for the cell called `object`.
    pub(crate) fn of(self, object: &str) -> Error {
        let (kind, detail) = match self {
            Self::ReadOnly => (ErrorKind::ReadOnly, "an endpoint needs a writable segment"),
            Self::Geometry => (ErrorKind::Corrupt, "its windows are not those of a call cell"),
            Self::Corrupt(what) => (ErrorKind::Corrupt, what),
        };
        Error::new(kind, "attach to call cell", object).detail(detail)
    }
}

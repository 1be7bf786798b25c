//! What a data-path call answers when it could not do its work.
//!
//! Small `Copy` enums, made without allocation. Nothing here is a panic: a full
//! ring, a dead peer and a forged word are all values.

use crate::error::{Error, ErrorKind};
use crate::peer::PeerState;
use crate::wait::{End, PeerAt};
use core::fmt;

/// Which shared word contradicts the protocol.
///
/// Once an endpoint has met one it answers all later calls with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Corruption {
    /// The consumer's released position is not one that it can have reached.
    Released,
    /// A block's header word is neither of this lap nor of the one before.
    Stamp,
    /// A shared ring's slot has a word that no end stores, or not at this position.
    Slot,
    /// A record's header has bits that no producer sets.
    Header,
    /// A record's header has a feature that this version does not know.
    UnknownFeature,
    /// A record's length leads beyond the ring or beyond what can have been written.
    Length,
    /// A padding record does not end where the ring ends.
    Padding,
    /// What a broadcast ring says of what it keeps contradicts what it holds.
    Kept,
}

impl Corruption {
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Released => "the released position is impossible",
            Self::Stamp => "a block's header word is impossible",
            Self::Slot => "a slot's word is impossible",
            Self::Header => "a record's header has undefined bits",
            Self::UnknownFeature => "a record's header has a feature unknown to this version",
            Self::Length => "a record's length leads out of the ring",
            Self::Padding => "a padding record does not end with the ring",
            Self::Kept => "what the ring says that it keeps is impossible",
        }
    }
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.text())
    }
}

/// The consumer of a lossless broadcast ring that is furthest behind.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Laggard {
    /// Its place among the consumers.
    pub slot: u32,
    /// Its process, in its own pid namespace.
    pub pid: u32,
    /// The label it gave itself; by default its program's name.
    pub label: String,
    /// Whether it lives.
    pub state: PeerState,
    /// How many messages it has not received.
    pub lag: u64,
}

impl From<(u32, PeerAt, u64)> for Laggard {
    fn from((slot, peer, lag): (u32, PeerAt, u64)) -> Self {
        let PeerAt { state, pid, label, .. } = peer;
        Self { slot, pid, label, state, lag }
    }
}

/// Why a message was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SendError {
    /// There is no room now.
    Full,
    /// It would never fit.
    TooLarge {
        /// What was asked for, in bytes; for a batch, in messages.
        len: usize,
        /// The most that can be asked for.
        max: usize,
    },
    /// A message of a typed ring must have exactly the ring's size.
    WrongSize {
        /// The length given, in bytes.
        len: usize,
        /// The size of the ring's messages.
        size: usize,
    },
    /// The ring is full and its consumer has left.
    Closed,
    /// The ring is full and its consumer died.
    PeerDied,
    /// The deadline passed.
    TimedOut,
    /// The call was cancelled from its own process.
    Cancelled,
    /// The endpoint belongs to the process that this one was forked from.
    Forked,
    /// The segment was removed, or replaced by a new one of its name.
    Superseded,
    /// What stands in shared memory contradicts the protocol.
    Corrupt(Corruption),
}

/// Why no message was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RecvError {
    /// There is nothing now.
    Empty,
    /// In a broadcast ring: so many messages were overwritten before they were received. The next
    /// call receives the first one behind them that is still there.
    Gap {
        /// How many.
        missed: u64,
    },
    /// Everything was received and the producer has left.
    Closed,
    /// Everything was received and the producer died.
    PeerDied,
    /// The deadline passed.
    TimedOut,
    /// The call was cancelled from its own process.
    Cancelled,
    /// The endpoint belongs to the process that this one was forked from.
    Forked,
    /// Everything was received and the segment was removed, or replaced by a new one of its name.
    Superseded,
    /// A message of a typed ring is received into exactly the ring's size.
    WrongSize {
        /// The length given, in bytes.
        len: usize,
        /// The size of the ring's messages.
        size: usize,
    },
    /// The bytes are no valid value of the type. The message was released; the next can be
    /// received.
    InvalidValue {
        /// The position of the message.
        position: u64,
    },
    /// What stands in shared memory contradicts the protocol.
    Corrupt(Corruption),
}

impl From<End> for SendError {
    fn from(end: End) -> Self {
        match end {
            End::Closed => Self::Closed,
            End::PeerDied => Self::PeerDied,
            End::TimedOut => Self::TimedOut,
            End::Cancelled => Self::Cancelled,
            End::Superseded => Self::Superseded,
        }
    }
}

impl From<End> for RecvError {
    fn from(end: End) -> Self {
        match end {
            End::Closed => Self::Closed,
            End::PeerDied => Self::PeerDied,
            End::TimedOut => Self::TimedOut,
            End::Cancelled => Self::Cancelled,
            End::Superseded => Self::Superseded,
        }
    }
}

/// Whether a look found room; full is no error while one waits.
pub(super) fn has_room<T>(looked: Result<T, SendError>) -> Result<bool, SendError> {
    match looked {
        Err(SendError::Full) => Ok(false),
        looked => looked.map(|_| true),
    }
}

/// Whether a look found a message; empty is no error while one waits.
pub(super) fn is_there<T>(looked: Result<T, RecvError>) -> Result<bool, RecvError> {
    match looked {
        Err(RecvError::Empty) => Ok(false),
        looked => looked.map(|_| true),
    }
}

const CLOSED: &str = "the peer has left";
const PEER_DIED: &str = "the peer died";
const TIMED_OUT: &str = "the deadline passed";
const CANCELLED: &str = "the call was cancelled";
const FORKED: &str = "the endpoint belongs to the parent process";
const SUPERSEDED: &str = "the segment was removed or replaced";

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.pad("the ring is full"),
            Self::TooLarge { len, max } => write!(f, "{len} is more than the {max} that can fit"),
            Self::WrongSize { len, size } => {
                write!(f, "a message of {len} bytes in a ring of {size}-byte messages")
            }
            Self::Closed => f.pad(CLOSED),
            Self::PeerDied => f.pad(PEER_DIED),
            Self::TimedOut => f.pad(TIMED_OUT),
            Self::Cancelled => f.pad(CANCELLED),
            Self::Forked => f.pad(FORKED),
            Self::Superseded => f.pad(SUPERSEDED),
            Self::Corrupt(corruption) => fmt::Display::fmt(corruption, f),
        }
    }
}

impl fmt::Display for RecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.pad("the ring is empty"),
            Self::Gap { missed } => {
                write!(f, "{missed} messages were overwritten before they were received")
            }
            Self::Closed => f.pad(CLOSED),
            Self::PeerDied => f.pad(PEER_DIED),
            Self::TimedOut => f.pad(TIMED_OUT),
            Self::Cancelled => f.pad(CANCELLED),
            Self::Forked => f.pad(FORKED),
            Self::Superseded => f.pad(SUPERSEDED),
            Self::WrongSize { len, size } => {
                write!(f, "{len} bytes of room in a ring of {size}-byte messages")
            }
            Self::InvalidValue { position } => {
                write!(f, "the message at position {position} is no valid value of its type")
            }
            Self::Corrupt(corruption) => fmt::Display::fmt(corruption, f),
        }
    }
}

impl core::error::Error for Corruption {}
impl core::error::Error for SendError {}
impl core::error::Error for RecvError {}

impl From<SendError> for Error {
    fn from(error: SendError) -> Self {
        let kind = match error {
            SendError::Full => ErrorKind::WouldBlock,
            SendError::TooLarge { .. } | SendError::WrongSize { .. } => ErrorKind::InvalidSize,
            SendError::Closed => ErrorKind::Closed,
            SendError::PeerDied => ErrorKind::PeerDied,
            SendError::Superseded => ErrorKind::Superseded,
            SendError::TimedOut => ErrorKind::TimedOut,
            SendError::Cancelled => ErrorKind::Cancelled,
            SendError::Forked => ErrorKind::Forked,
            SendError::Corrupt(_) => ErrorKind::Corrupt,
        };
        Self::new(kind, "send", "message").detail(error.to_string())
    }
}

impl From<RecvError> for Error {
    fn from(error: RecvError) -> Self {
        let kind = match error {
            RecvError::Empty => ErrorKind::WouldBlock,
            RecvError::Gap { .. } => ErrorKind::Overwritten,
            RecvError::Closed => ErrorKind::Closed,
            RecvError::PeerDied => ErrorKind::PeerDied,
            RecvError::Superseded => ErrorKind::Superseded,
            RecvError::TimedOut => ErrorKind::TimedOut,
            RecvError::Cancelled => ErrorKind::Cancelled,
            RecvError::Forked => ErrorKind::Forked,
            RecvError::WrongSize { .. } => ErrorKind::InvalidSize,
            RecvError::InvalidValue { .. } => ErrorKind::TypeMismatch,
            RecvError::Corrupt(_) => ErrorKind::Corrupt,
        };
        Self::new(kind, "receive", "message").detail(error.to_string())
    }
}

/// Why an endpoint could not be attached to its ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttachError {
    /// The memory is mapped read-only; an endpoint writes.
    ReadOnly,
    /// The windows do not have the place that the geometry needs.
    Geometry,
    /// The ring contradicts itself.
    Corrupt(Corruption),
    /// The producer overtook every look for a place to begin.
    Contended,
    /// Nothing was sent yet at the position where it should begin.
    Ahead { asked: u64, newest: u64 },
}

impl From<Corruption> for AttachError {
    fn from(corruption: Corruption) -> Self {
        Self::Corrupt(corruption)
    }
}

impl AttachError {
    /// The control plane's error for the ring called `object`.
    pub(crate) fn of(self, object: &str) -> Error {
        let (kind, detail) = match self {
            Self::ReadOnly => (ErrorKind::ReadOnly, "an endpoint needs a writable segment"),
            Self::Geometry => (ErrorKind::Corrupt, "its windows do not fit its geometry"),
            Self::Corrupt(corruption) => (ErrorKind::Corrupt, corruption.text()),
            Self::Contended => {
                (ErrorKind::WouldBlock, "the producer overtook every look for a place to begin")
            }
            Self::Ahead { asked, newest } => {
                return Error::new(ErrorKind::InvalidArgument, "attach to ring", object)
                    .detail(format!("position {asked} was asked for, {newest} were sent"))
                    .remedy("begin with the newest: with what is sent from now on");
            }
        };
        Error::new(kind, "attach to ring", object).detail(detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_path_errors_are_small_copies_and_say_what_happened() {
        assert!(size_of::<SendError>() <= 24 && size_of::<RecvError>() <= 24);
        let error = Error::from(SendError::TooLarge { len: 9, max: 8 });
        assert_eq!(error.kind(), ErrorKind::InvalidSize);
        assert_eq!(error.to_string(), "send \"message\": 9 is more than the 8 that can fit");
        let error = AttachError::Corrupt(Corruption::Released).of("quotes");
        assert_eq!(
            error.to_string(),
            "attach to ring \"quotes\": the released position is impossible"
        );
    }
}

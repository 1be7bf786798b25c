//! What a call, and the serving of one, answer when they could not do their work.
//!
//! Shared by everything that carries requests and answers, so that a program
//! may exchange a call cell for a duplex channel and keep its error handling.
//! Small `Copy` enums, made without allocation; a dead peer and a forged word
//! are values. How a carrier finds out stands with the carrier.

use crate::error::{Error, ErrorKind};
use crate::wait::End;
use core::fmt;

/// Why a call has no answer.
///
/// Unless said otherwise the outcome is unknown: the server may have done the work, may do it
/// later, or never. A call that was not even sent leaves the caller's `sequence` as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CallError {
    /// Not sent: earlier calls are with the server and there is no room for another now, or
    /// there was none before the deadline.
    Busy,
    /// There is no answer yet.
    Pending,
    /// There is nothing to wait for: no call was started.
    Idle,
    /// The server refused the request, or its bytes were no valid value there. Nothing was done.
    Refused,
    /// The server has left.
    Closed,
    /// The server died. Its successor sees the request again, unless it was answered.
    PeerDied,
    /// The deadline passed.
    TimedOut,
    /// The call was cancelled from its own process.
    Cancelled,
    /// The segment was removed, or replaced by a new one of its name.
    Superseded,
    /// The endpoint belongs to the process that this one was forked from.
    Forked,
    /// The call was answered, but the bytes are no valid value of the answer's type.
    InvalidValue {
        /// The number of the call.
        sequence: u64,
    },
    /// What stands in shared memory contradicts the protocol; the text says which word. All
    /// later calls of the endpoint are answered with it.
    Corrupt(&'static str),
}

/// Why no request was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ServeError {
    /// There is no request now.
    Empty,
    /// There is no request and the caller has left.
    Closed,
    /// There is no request and the caller died.
    PeerDied,
    /// The deadline passed.
    TimedOut,
    /// The wait was cancelled from its own process.
    Cancelled,
    /// There is no request and the segment was removed, or replaced by a new one of its name.
    Superseded,
    /// The endpoint belongs to the process that this one was forked from.
    Forked,
    /// The bytes are no valid value of the request's type. The call was refused; the next can be
    /// received.
    InvalidValue {
        /// The number of the call.
        sequence: u64,
    },
    /// What stands in shared memory contradicts the protocol; the text says which word. All
    /// later calls of the endpoint are answered with it.
    Corrupt(&'static str),
}

macro_rules! from_end {
    ($($name:ident)+) => {$(
        impl From<End> for $name {
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
    )+};
}
from_end!(CallError ServeError);

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Busy => "the call was not sent, an earlier one is still with the server",
            Self::Pending => "there is no answer yet",
            Self::Idle => "no call was started",
            Self::Refused => "the server refused the request",
            Self::Closed => "the server has left, the outcome is unknown",
            Self::PeerDied => "the server died, the outcome is unknown",
            Self::TimedOut => "the deadline passed, the outcome is unknown",
            Self::Cancelled => "the call was cancelled, its outcome is unknown",
            Self::Superseded => "the segment was removed or replaced, the outcome is unknown",
            Self::Forked => "the endpoint belongs to the parent process",
            Self::InvalidValue { sequence } => {
                return write!(f, "the answer to call {sequence} is no valid value of its type");
            }
            Self::Corrupt(what) => what,
        })
    }
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Empty => "there is no request",
            Self::Closed => "the caller has left",
            Self::PeerDied => "the caller died",
            Self::TimedOut => "the deadline passed",
            Self::Cancelled => "the wait was cancelled",
            Self::Superseded => "the segment was removed or replaced",
            Self::Forked => "the endpoint belongs to the parent process",
            Self::InvalidValue { sequence } => {
                return write!(f, "request {sequence} is no valid value of its type; refused");
            }
            Self::Corrupt(what) => what,
        })
    }
}

impl core::error::Error for CallError {}
impl core::error::Error for ServeError {}

impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        let kind = match error {
            CallError::Busy | CallError::Pending => ErrorKind::WouldBlock,
            CallError::Idle | CallError::Refused => ErrorKind::InvalidArgument,
            CallError::Closed => ErrorKind::Closed,
            CallError::PeerDied => ErrorKind::PeerDied,
            CallError::TimedOut => ErrorKind::TimedOut,
            CallError::Cancelled => ErrorKind::Cancelled,
            CallError::Superseded => ErrorKind::Superseded,
            CallError::Forked => ErrorKind::Forked,
            CallError::InvalidValue { .. } => ErrorKind::TypeMismatch,
            CallError::Corrupt(_) => ErrorKind::Corrupt,
        };
        Self::new(kind, "call", "server").detail(error.to_string())
    }
}

impl From<ServeError> for Error {
    fn from(error: ServeError) -> Self {
        let kind = match error {
            ServeError::Empty => ErrorKind::WouldBlock,
            ServeError::Closed => ErrorKind::Closed,
            ServeError::PeerDied => ErrorKind::PeerDied,
            ServeError::TimedOut => ErrorKind::TimedOut,
            ServeError::Cancelled => ErrorKind::Cancelled,
            ServeError::Superseded => ErrorKind::Superseded,
            ServeError::Forked => ErrorKind::Forked,
            ServeError::InvalidValue { .. } => ErrorKind::TypeMismatch,
            ServeError::Corrupt(_) => ErrorKind::Corrupt,
        };
        Self::new(kind, "serve", "caller").detail(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_small_copies_and_say_what_is_unknown() {
        assert!(size_of::<CallError>() <= 24 && size_of::<ServeError>() <= 24);
        let error = Error::from(CallError::PeerDied);
        assert_eq!(error.kind(), ErrorKind::PeerDied);
        assert_eq!(error.to_string(), "call \"server\": the server died, the outcome is unknown");
        let error = Error::from(ServeError::InvalidValue { sequence: 7 });
        assert_eq!(error.kind(), ErrorKind::TypeMismatch);
        assert!(error.to_string().contains("request 7 is no valid value"), "{error}");
    }
}

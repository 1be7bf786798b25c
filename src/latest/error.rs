//! What the ends of a latest value answer when they could not do their work.

use crate::error::{Error, ErrorKind};
use crate::wait::End;
use core::fmt;

/// Why there is no value, or why none was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LatestError {
    /// Nothing was ever written.
    NeverWritten,
    /// There is no newer value, and the writer has left.
    Closed,
    /// There is no newer value, and the writer died.
    PeerDied,
    /// There is no newer value, and the deadline passed.
    TimedOut,
    /// There is no newer value, and the wait was cancelled from its own process.
    Cancelled,
    /// There is no newer value, and the segment was removed, or replaced by a new one of its name.
    Superseded,
    /// The end belongs to the process that this one was forked from.
    Forked,
    /// The writer overtook each of a great many attempts to copy a value; try again later.
    Contended,
    /// A value is copied into exactly as many bytes as it has.
    WrongSize {
        /// The length given, in bytes.
        len: usize,
        /// The size of the values.
        size: usize,
    },
    /// The bytes are no valid value of the type.
    InvalidValue {
        /// The version of the value.
        version: u64,
    },
    /// What stands in shared memory contradicts the protocol; the text says how.
    Corrupt(&'static str),
}

/// What is wrong with a front line and a spare one that are both unfinished.
pub(super) const BOTH_UNFINISHED: &str = "neither of the value's lines is whole";
/// What is wrong with a newest stamp whose place holds something else.
pub(super) const NOT_IN_ITS_PLACE: &str = "the newest value is not in its place";
/// What is wrong with a newest stamp that no writer stores.
pub(super) const BAD_STAMP: &str = "the stamp of the newest value is impossible";
/// What is wrong with a version below one that was read before.
pub(super) const WENT_BACK: &str = "the value's version went back";

impl From<End> for LatestError {
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

impl fmt::Display for LatestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NeverWritten => "the value was never written",
            Self::Closed => "there is no newer value and the writer has left",
            Self::PeerDied => "there is no newer value and the writer died",
            Self::TimedOut => "the deadline passed without a newer value",
            Self::Cancelled => "the wait was cancelled",
            Self::Superseded => "the segment was removed or replaced",
            Self::Forked => "this end belongs to the parent process",
            Self::Contended => "the writer overtook every attempt to copy the value",
            Self::WrongSize { len, size } => {
                return write!(f, "a value has {size} bytes, {len} were given");
            }
            Self::InvalidValue { version } => {
                return write!(f, "version {version} is no valid value of its type");
            }
            Self::Corrupt(what) => what,
        })
    }
}

impl core::error::Error for LatestError {}

impl From<LatestError> for Error {
    fn from(error: LatestError) -> Self {
        let kind = match error {
            LatestError::NeverWritten | LatestError::Contended => ErrorKind::WouldBlock,
            LatestError::Closed => ErrorKind::Closed,
            LatestError::PeerDied => ErrorKind::PeerDied,
            LatestError::TimedOut => ErrorKind::TimedOut,
            LatestError::Cancelled => ErrorKind::Cancelled,
            LatestError::Superseded => ErrorKind::Superseded,
            LatestError::Forked => ErrorKind::Forked,
            LatestError::WrongSize { .. } => ErrorKind::InvalidSize,
            LatestError::InvalidValue { .. } => ErrorKind::TypeMismatch,
            LatestError::Corrupt(_) => ErrorKind::Corrupt,
        };
        Self::new(kind, "use", "latest value").detail(error.to_string())
    }
}

/// Why an end could not be attached to its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttachError {
    /// The memory is mapped read-only; a writer writes.
    ReadOnly,
    /// The windows or the lengths are not those of a latest value.
    Geometry,
    /// The stamps contradict the protocol.
    Corrupt(&'static str),
}

impl AttachError {
    /// The control plane's error for the value called `object`.
    pub(crate) fn of(self, object: &str) -> Error {
        let (kind, detail) = match self {
            Self::ReadOnly => (ErrorKind::ReadOnly, "a writer needs a writable segment"),
            Self::Geometry => (ErrorKind::Corrupt, "its windows are not those of a latest value"),
            Self::Corrupt(what) => (ErrorKind::Corrupt, what),
        };
        Error::new(kind, "attach to latest value", object).detail(detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_small_copies_and_say_what_happened() {
        assert!(size_of::<LatestError>() <= 24);
        let error = Error::from(LatestError::InvalidValue { version: 7 });
        assert_eq!(error.kind(), ErrorKind::TypeMismatch);
        let text = "use \"latest value\": version 7 is no valid value of its type";
        assert_eq!(error.to_string(), text);
        let error = AttachError::Corrupt(BAD_STAMP).of("pose");
        assert_eq!(
            error.to_string(),
            "attach to latest value \"pose\": the stamp of the newest value is impossible"
        );
    }
}

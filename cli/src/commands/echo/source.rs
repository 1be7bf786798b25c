//! Where messages come from: one source for each kind of object that has any number of readers.

use crate::output::Failure;
use hugeshm::{Error, LatestError, ObjectInfo, ObjectKind, RawLatestReader, Segment};
use std::time::Instant;

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// With the oldest message that is still there.
    Oldest,
    /// With the value that is there, or with the next message.
    Newest,
    /// With the message of this number.
    Position(u64),
}

pub(super) fn parse_start(text: &str) -> Result<Start, String> {
    match text {
        "oldest" => Ok(Start::Oldest),
        "newest" => Ok(Start::Newest),
        number => number
            .parse()
            .map(Start::Position)
            .map_err(|_| "oldest, newest or a number is wanted".to_owned()),
    }
}

/// One message, whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passed<'a> {
    /// Its number, as its object counts.
    pub position: u64,
    /// How many before it were lost to this reader.
    pub gap: u64,
    pub bytes: &'a [u8],
}

/// Why there is no message.
#[derive(Debug)]
pub(super) enum End {
    /// There is none until the deadline.
    TimedOut,
    /// The writer has left, and everything was seen.
    Closed,
    /// The writer died, and everything was seen.
    PeerDied,
    /// The segment has lost its name, and everything was seen.
    Superseded,
    /// Something is wrong.
    Failed(Error),
}

/// An object that is read beside everybody else.
pub(super) trait Source {
    /// The next message, waited for until `deadline`; one that is there comes after any deadline.
    fn next(&mut self, deadline: Instant) -> Result<Passed<'_>, End>;

    /// From now on a writer that has left or died is no end: there may be a successor.
    fn outlive_peer(&mut self);
}

/// The source that `object` is.
pub(super) fn open(
    segment: &Segment,
    object: &ObjectInfo,
    start: Start,
) -> Result<Box<dyn Source>, Failure> {
    let name = &*object.name;
    let refused = |why: &str| {
        let why = why.replace("NAME", segment.name());
        Err(Failure::Undone(format!("echo {name:?}, which is of kind {}: {why}", object.kind)))
    };
    match object.kind {
        ObjectKind::LatestValue => {
            Ok(Box::new(Latest::new(segment.raw_latest_reader(name)?, start)?))
        }
        ObjectKind::BroadcastRing | ObjectKind::BroadcastRecords => refused("not supported yet"),
        ObjectKind::Ring | ObjectKind::Records | ObjectKind::Lanes | ObjectKind::SharedRing => {
            refused(
                "its messages belong to its consumers, and one that is read here would be \
                 delivered to nobody else; a broadcast ring has readers beside them, and \
                 `hugeshm inspect NAME` shows what passes without taking it",
            )
        }
        ObjectKind::CallCell => refused(
            "a request belongs to its server and an answer to its caller, and none is kept for \
             others; `hugeshm inspect NAME` counts them",
        ),
        _ => refused("this program does not know how to read it"),
    }
}

/// The versions of a latest value. Those that were replaced before they were seen are no loss:
/// that is what such a value is for, and the numbers tell.
struct Latest {
    reader: RawLatestReader,
    bytes: Vec<u8>,
    /// The version behind which the next one comes.
    since: u64,
}

impl Latest {
    fn new(reader: RawLatestReader, start: Start) -> Result<Self, Failure> {
        let size = reader.size();
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(size).map_err(|_| {
            Failure::Undone(format!("echo: there is no memory for a value of {size} bytes"))
        })?;
        bytes.resize(size, 0);
        let since = match start {
            Start::Oldest | Start::Newest => 0,
            Start::Position(version) => version.saturating_sub(1),
        };
        Ok(Self { reader, bytes, since })
    }
}

impl Source for Latest {
    fn next(&mut self, deadline: Instant) -> Result<Passed<'_>, End> {
        let version = loop {
            match self.reader.wait_newer_deadline(self.since, &mut self.bytes, deadline) {
                Ok(version) => break version,
                // The next look may have better luck.
                Err(LatestError::Contended) if Instant::now() < deadline => {}
                Err(LatestError::Contended | LatestError::TimedOut) => return Err(End::TimedOut),
                Err(LatestError::Closed) => return Err(End::Closed),
                Err(LatestError::PeerDied) => return Err(End::PeerDied),
                Err(LatestError::Superseded) => return Err(End::Superseded),
                Err(error) => return Err(End::Failed(error.into())),
            }
        };
        self.since = version;
        Ok(Passed { position: version, gap: 0, bytes: &self.bytes })
    }

    fn outlive_peer(&mut self) {
        self.reader.outlive_peer(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_begins_at_an_end_or_at_a_number() {
        assert_eq!(parse_start("oldest"), Ok(Start::Oldest));
        assert_eq!(parse_start("newest"), Ok(Start::Newest));
        assert_eq!(parse_start("18446744073709551615"), Ok(Start::Position(u64::MAX)));
        for wrong in ["", "-1", "latest", "18446744073709551616"] {
            assert!(parse_start(wrong).is_err(), "{wrong:?}");
        }
    }
}

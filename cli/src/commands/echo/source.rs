//! Where messages come from: one source for each kind of object that has any number of readers.

use crate::output::Failure;
use hugeshm::{
    BroadcastRecordObserver, Error, Join, LatestError, ObjectInfo, ObjectKind,
    RawBroadcastObserver, RawLatestReader, RecvError, Segment,
};
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
        ObjectKind::BroadcastRing => {
            let observer = segment.raw_broadcast_observer(name, join(start))?;
            let bytes = room_for(observer.size())?;
            Ok(Box::new(Broadcast { observer, bytes, gap: 0 }))
        }
        ObjectKind::BroadcastRecords => {
            let observer = segment.broadcast_record_observer(name, join(start))?;
            Ok(Box::new(Broadcast { observer, bytes: Vec::new(), gap: 0 }))
        }
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

fn join(start: Start) -> Join {
    match start {
        Start::Oldest => Join::Oldest,
        Start::Newest => Join::Newest,
        Start::Position(position) => Join::At(position),
    }
}

/// Room for a value of `size` bytes, as a segment says, which may lie.
fn room_for(size: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(size).map_err(|_| {
        Failure::Undone(format!("echo: there is no memory for a value of {size} bytes"))
    })?;
    bytes.resize(size, 0);
    Ok(bytes)
}

/// The messages of a broadcast ring, of either kind.
struct Broadcast<O> {
    observer: O,
    bytes: Vec<u8>,
    /// How many were overwritten since the last that was shown.
    gap: u64,
}

/// What the observers of both kinds of broadcast rings have in common.
trait Observer {
    fn position(&self) -> u64;
    fn recv(&mut self, bytes: &mut Vec<u8>, deadline: Instant) -> Result<(), RecvError>;
    fn outlive_peer(&mut self);
}

impl Observer for RawBroadcastObserver {
    fn position(&self) -> u64 {
        self.position()
    }

    fn recv(&mut self, bytes: &mut Vec<u8>, deadline: Instant) -> Result<(), RecvError> {
        self.recv_deadline(bytes, deadline)
    }

    fn outlive_peer(&mut self) {
        self.outlive_peer(true);
    }
}

impl Observer for BroadcastRecordObserver {
    fn position(&self) -> u64 {
        self.position()
    }

    fn recv(&mut self, bytes: &mut Vec<u8>, deadline: Instant) -> Result<(), RecvError> {
        let record = self.read_deadline(deadline)?;
        record.copy_into(bytes);
        record.release()
    }

    fn outlive_peer(&mut self) {
        self.outlive_peer(true);
    }
}

impl<O: Observer> Source for Broadcast<O> {
    fn next(&mut self, deadline: Instant) -> Result<Passed<'_>, End> {
        let position = loop {
            let position = self.observer.position();
            match self.observer.recv(&mut self.bytes, deadline) {
                Ok(()) => break position,
                Err(RecvError::Gap { missed }) => self.gap += missed,
                Err(RecvError::TimedOut) => return Err(End::TimedOut),
                Err(RecvError::Closed) => return Err(End::Closed),
                Err(RecvError::PeerDied) => return Err(End::PeerDied),
                Err(RecvError::Superseded) => return Err(End::Superseded),
                Err(error) => return Err(End::Failed(error.into())),
            }
        };
        Ok(Passed { position, gap: core::mem::take(&mut self.gap), bytes: &self.bytes })
    }

    fn outlive_peer(&mut self) {
        self.observer.outlive_peer();
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
        let bytes = room_for(reader.size())?;
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

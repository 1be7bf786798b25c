//! The bystander: attaches, lists, inspects, collects, opens read-only and observes, and must
//! change nothing by it, whenever it is killed.

use super::cast::{Object, Small, Wide};
use super::child::{Failure, Life, NAME, failed, read_only, taken};
use super::note::{Batch, Kind, Note, is_whole, is_whole_record};
use hugeshm::{BroadcastObserver, Join, LatestError, RecvError, Segment, Usage};

/// Looks around until it is told to end.
pub fn around(life: &mut Life) -> Result<(), Failure> {
    life.say(Kind::Attached, 0);
    while !life.is_told() {
        reports(life)?;
        let attached = taken("open", life.domain.open(NAME))?;
        let unseen = read_only(life)?;
        for segment in [&attached, &unseen] {
            values(life, segment)?;
            records(life, segment)?;
            latest(life, segment)?;
        }
        life.say(Kind::Looked, 0);
    }
    life.say(Kind::Bye, 0);
    Ok(())
}

fn reports(life: &Life) -> Result<(), Failure> {
    let list = taken("list", life.domain.list())?;
    match &list[..] {
        [entry] if entry.usage == Usage::InUse && entry.problem.is_none() => {}
        other => return Err(format!("one segment in use was to be listed: {other:?}")),
    }
    let info = taken("inspect", life.domain.inspect(NAME))?;
    if !info.problems.is_empty() || info.superseded {
        return Err(format!("inspect: {:?}", info.problems));
    }
    let report = taken("collect", life.domain.collect())?;
    if !report.removed.is_empty() || !report.failed.is_empty() {
        return Err(format!("there is nothing to be collected: {report:?}"));
    }
    Ok(())
}

/// A message that is not what was sent at its position.
fn torn(life: &Life, position: u64) {
    life.tell(Note::message(false, position, 0, Batch::of(0)));
}

fn values(life: &Life, segment: &Segment) -> Result<(), Failure> {
    for object in [Object::News, Object::Orders] {
        let name = object.name();
        let mut end: BroadcastObserver<Small> =
            taken(name, segment.broadcast_observer(name, Join::Oldest))?;
        for _ in 0..50 {
            let position = end.position();
            match end.try_recv() {
                Ok(got) if is_whole(&got, position) => {}
                Ok(_) => torn(life, position),
                Err(RecvError::Gap { missed }) if end.position() == position + missed => {}
                Err(RecvError::Empty | RecvError::Closed | RecvError::PeerDied) => {}
                Err(error) => return Err(failed(name)(&error)),
            }
        }
    }
    Ok(())
}

fn records(life: &Life, segment: &Segment) -> Result<(), Failure> {
    let mut bytes = Vec::new();
    for object in [Object::Log, Object::Ledger] {
        let name = object.name();
        let mut end = taken(name, segment.broadcast_record_observer(name, Join::Oldest))?;
        for _ in 0..10 {
            match end.try_read() {
                Ok(read) => {
                    read.copy_into(&mut bytes);
                    let position = read.position();
                    if read.release().is_ok() && !is_whole_record(&bytes) {
                        torn(life, position);
                    }
                }
                Err(RecvError::Gap { .. } | RecvError::Empty) => {}
                Err(RecvError::Closed | RecvError::PeerDied) => {}
                Err(error) => return Err(failed(name)(&error)),
            }
        }
    }
    Ok(())
}

fn latest(life: &Life, segment: &Segment) -> Result<(), Failure> {
    let settle = |read: Result<(bool, u64), LatestError>| match read {
        Ok((true, _)) | Err(LatestError::NeverWritten | LatestError::Contended) => Ok(()),
        Ok((false, version)) => {
            torn(life, version);
            Ok(())
        }
        Err(error) => Err(failed("latest")(&error)),
    };
    let name = Object::Pose.name();
    let mut pose = taken(name, segment.latest_reader::<Small>(name))?;
    settle(pose.read().map(|read| (is_whole(&read.value, read.version), read.version)))?;
    let name = Object::Picture.name();
    let mut picture = taken(name, segment.latest_reader::<Wide>(name))?;
    settle(picture.read().map(|read| (is_whole(&read.value, read.version), read.version)))
}

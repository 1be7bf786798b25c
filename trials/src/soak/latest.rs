//! Writers and readers of latest values: each version is one value, never torn, never older than
//! the one that was read before.

use super::cast::{Object, Small, Wide};
use super::child::{Failure, Life, SOON, failed, read_only, taken};
use super::note::{Batch, Kind, Note, is_whole, message};
use hugeshm::{
    LatestError, LatestReader, LatestWatcher, LatestWriter, Segment, Versioned, WaitMode,
};
use std::time::Duration;

/// Writes until it is told to end.
pub fn write(life: &mut Life, segment: &Segment, object: Object) -> Result<(), Failure> {
    let name = object.name();
    match object {
        Object::Pose => writes(life, taken(name, segment.latest_writer::<Small>(name))?),
        _ => writes(life, taken(name, segment.latest_writer::<Wide>(name))?),
    }
}

/// Reads until it is told to end and the writer has left: with a place, or read-only.
pub fn read(life: &mut Life, segment: &Segment, object: Object) -> Result<(), Failure> {
    let name = object.name();
    let unseen = read_only(life)?;
    match (object, life.number % 4 < 2) {
        (Object::Pose, true) => reads(life, taken(name, segment.latest_watcher::<Small>(name))?),
        (Object::Pose, false) => reads(life, taken(name, unseen.latest_reader::<Small>(name))?),
        (_, true) => reads(life, taken(name, segment.latest_watcher::<Wide>(name))?),
        (_, false) => reads(life, taken(name, unseen.latest_reader::<Wide>(name))?),
    }
}

fn writes<const N: usize>(life: &mut Life, mut end: LatestWriter<[u64; N]>) -> Result<(), Failure>
where
    [u64; N]: bytemuck::NoUninit,
{
    life.say(Kind::Attached, end.version() + 1);
    while !life.is_told() {
        let version = end.version() + 1;
        let value = message(version, Batch { life: life.number, follow: 0 });
        end.write(&value).map_err(|error| failed("write")(&error))?;
        if version.is_multiple_of(64) {
            life.say(Kind::Sent, version + 1);
            if life.random.once_in(8) {
                // So that readers catch up, and sleep.
                std::thread::sleep(Duration::from_micros(life.random.below(3000)));
            }
        }
        if life.chooses_to_stand() {
            life.stand(Note::new(Kind::Stands, version + 1, 0));
        }
    }
    life.say(Kind::Bye, end.version() + 1);
    Ok(())
}

/// A reader, with a place or without.
trait Reads<const N: usize> {
    fn prepare(&mut self, mode: WaitMode, outlive: bool);
    fn seen(&self) -> u64;
    fn next(&mut self, timeout: Option<Duration>) -> Result<Versioned<[u64; N]>, LatestError>;
}

macro_rules! reads {
    ($($reader:ident)+) => {$(
        impl<const N: usize> Reads<N> for $reader<[u64; N]>
        where
            [u64; N]: bytemuck::CheckedBitPattern,
        {
            fn prepare(&mut self, mode: WaitMode, outlive: bool) {
                self.wait_mode(mode).outlive_peer(outlive);
            }
            fn seen(&self) -> u64 {
                $reader::seen(self)
            }
            fn next(
                &mut self,
                timeout: Option<Duration>,
            ) -> Result<Versioned<[u64; N]>, LatestError> {
                let seen = self.seen();
                match timeout {
                    Some(time) => self.wait_newer_timeout(seen, time),
                    None => self.wait_newer(seen),
                }
            }
        }
    )+};
}
reads!(LatestReader LatestWatcher);

fn reads<const N: usize, R: Reads<N>>(life: &mut Life, mut end: R) -> Result<(), Failure> {
    life.say(Kind::Attached, 0);
    loop {
        let patient = life.is_patient();
        end.prepare(life.mode(), !patient && !life.is_told());
        match end.next((!patient).then_some(SOON)) {
            Ok(read) => {
                let whole = is_whole(&read.value, read.version);
                let batch = Batch::of(read.value[1]);
                life.tell(Note::message(whole, read.version, read.version + 1, batch));
            }
            Err(LatestError::TimedOut | LatestError::Contended) => life.say(Kind::Idle, 0),
            Err(LatestError::PeerDied | LatestError::Closed) if life.is_told() => break,
            Err(LatestError::PeerDied) => life.go_on_without(Kind::Died),
            Err(LatestError::Closed) => life.go_on_without(Kind::Left),
            Err(error) => return Err(failed("read")(&error)),
        }
    }
    life.say(Kind::Bye, end.seen() + 1);
    Ok(())
}

//! The producers of rings, lanes and broadcast rings.
//!
//! A producer that was killed does not know whether its last message was committed. Its
//! successor asks the ring: the position of its end is the number of the next message.

use super::cast::{Long, Object, Small};
use super::child::{Failure, Life, SOON, failed, taken};
use super::note::{Batch, HEAD_LEN, Kind, Note, message, record, record_len, span};
use hugeshm::{LaneProducer, Producer, RecordProducer, Segment, SendError, WaitMode};
use std::time::Duration;

/// The producers that send values.
trait Sends<const N: usize> {
    fn position(&self) -> u64;
    fn prepare(&mut self, mode: WaitMode, outlive: bool);
    fn push(&mut self, message: [u64; N]) -> Result<(), SendError>;
    fn push_timeout(&mut self, message: [u64; N], timeout: Duration) -> Result<(), SendError>;
    fn push_all(&mut self, messages: &[[u64; N]]) -> Result<(), SendError>;
}

macro_rules! sends {
    ($($producer:ident)+) => {$(
        impl<const N: usize> Sends<N> for $producer<[u64; N]>
        where
            [u64; N]: bytemuck::NoUninit,
        {
            fn position(&self) -> u64 {
                $producer::position(self)
            }
            fn prepare(&mut self, mode: WaitMode, outlive: bool) {
                self.wait_mode(mode).outlive_peer(outlive);
            }
            fn push(&mut self, message: [u64; N]) -> Result<(), SendError> {
                $producer::push(self, message)
            }
            fn push_timeout(
                &mut self,
                message: [u64; N],
                timeout: Duration,
            ) -> Result<(), SendError> {
                $producer::push_timeout(self, message, timeout)
            }
            fn push_all(&mut self, messages: &[[u64; N]]) -> Result<(), SendError> {
                $producer::push_all(self, messages)
            }
        }
    )+};
}
sends!(Producer LaneProducer);

/// Sends until it is told to end.
pub fn produce(life: &mut Life, segment: &Segment, object: Object) -> Result<(), Failure> {
    let name = object.name();
    match object {
        Object::Ring => values(life, taken(name, segment.producer::<Small>(name))?),
        Object::Large => values(life, taken(name, segment.producer::<Long>(name))?),
        Object::News | Object::Orders => {
            values(life, taken(name, segment.broadcast_producer::<Small>(name))?)
        }
        Object::Lanes => {
            values(life, taken(name, segment.lane_producer_at::<Small>(name, life.index))?)
        }
        Object::Records => records(life, taken(name, segment.record_producer(name))?, false),
        _ => records(life, taken(name, segment.broadcast_record_producer(name))?, true),
    }
}

/// What an answer means for a producer: it goes on, whoever died.
fn settle(life: &Life, sent: Result<(), SendError>) -> Result<(), Failure> {
    match sent {
        Ok(()) => {}
        Err(SendError::TimedOut | SendError::Full) => life.say(Kind::Idle, 0),
        Err(SendError::PeerDied) => life.go_on_without(Kind::Died),
        Err(SendError::Closed) => life.go_on_without(Kind::Left),
        Err(error) => return Err(failed("send")(&error)),
    }
    Ok(())
}

fn values<const N: usize, P: Sends<N>>(life: &mut Life, mut end: P) -> Result<(), Failure> {
    life.say(Kind::Attached, end.position());
    end.prepare(life.mode(), !life.is_patient());
    let mut told_at = end.position();
    while !life.is_told() {
        let first = end.position();
        let count = if life.random.once_in(6) { 2 + life.random.below(8) } else { 1 };
        let sent = if count > 1 {
            let number = |index| {
                let follow = (count - 1 - index) as u32;
                message::<N>(first + index, Batch { life: life.number, follow })
            };
            end.push_all(&(0..count).map(number).collect::<Vec<_>>())
        } else {
            let one = message(first, Batch { life: life.number, follow: 0 });
            if life.is_patient() { end.push(one) } else { end.push_timeout(one, SOON) }
        };
        match sent {
            // There is not room for all of them; the next is likely to be sent alone.
            Err(SendError::Full) => {}
            sent => settle(life, sent)?,
        }
        if life.chooses_to_stand() {
            life.stand(Note::new(Kind::Stands, end.position(), 0));
        }
        if end.position() >= told_at + 32 {
            told_at = end.position();
            life.say(Kind::Sent, told_at);
        }
    }
    life.say(Kind::Bye, end.position());
    Ok(())
}

/// The number of the next record: where it begins, and in a broadcast ring which it is.
fn number(end: &RecordProducer, counted: bool) -> u64 {
    if counted { end.stats().messages } else { end.position() }
}

fn records(life: &mut Life, mut end: RecordProducer, counted: bool) -> Result<(), Failure> {
    end.wait_mode(life.mode()).outlive_peer(!life.is_patient());
    life.say(Kind::Attached, number(&end, counted));
    let mut told = 0_u64;
    while !life.is_told() {
        let first = number(&end, counted);
        let stands = life.chooses_to_stand();
        if life.random.once_in(5) {
            batch(life, &mut end, first, counted, stands);
        } else {
            settle(life, single(life, &mut end, first, stands))?;
        }
        if stands {
            life.stand(Note::new(Kind::Stands, number(&end, counted), 0));
        }
        told += 1;
        if told.is_multiple_of(16) {
            life.say(Kind::Sent, number(&end, counted));
        }
    }
    life.say(Kind::Bye, number(&end, counted));
    Ok(())
}

/// One record, written in pieces; with `stands` it may end before the commit.
fn single(
    life: &Life,
    end: &mut RecordProducer,
    first: u64,
    stands: bool,
) -> Result<(), SendError> {
    let len = record_len(first);
    let mut room =
        if life.is_patient() { end.reserve(len) } else { end.reserve_timeout(len, SOON) }?;
    let bytes = record(first, room.position(), Batch { life: life.number, follow: 0 });
    let (head, rest) = bytes.split_at(HEAD_LEN);
    room.write_at(HEAD_LEN, rest)?;
    room.write_at(0, head)?;
    if stands && life.number.is_multiple_of(3) {
        life.stand(Note::new(Kind::Stands, first, 1));
    }
    room.commit();
    Ok(())
}

/// Some records that become visible together, or none if there is not room for all.
fn batch(life: &Life, end: &mut RecordProducer, first: u64, counted: bool, stands: bool) {
    let count = 2 + first % 3;
    let mut batch = end.batch();
    let mut next = first;
    for index in 0..count {
        // There is no room: what was staged is given up.
        let Ok(mut room) = batch.reserve(record_len(next)) else { return };
        let follow = (count - 1 - index) as u32;
        let position = room.position();
        let bytes = record(next, position, Batch { life: life.number, follow });
        if room.write_at(0, &bytes).is_err() {
            return;
        }
        room.commit();
        next = if counted { next + 1 } else { position + span(bytes.len()) };
    }
    if stands && life.number.is_multiple_of(3) {
        life.stand(Note::new(Kind::Stands, first, 1));
    }
    batch.commit();
}

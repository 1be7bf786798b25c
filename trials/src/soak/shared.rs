//! The ends of the shared ring.
//!
//! Nobody knows at which position a message of his went, so each producer's life counts its
//! own. A message that is held when its consumer dies must come to another.

use super::cast::{Object, Small};
use super::child::{Failure, Life, SOON, failed, taken};
use super::note::{Batch, Kind, Note, is_whole, message};
use hugeshm::{RecvError, Segment, SendError};

/// Sends until it is told to end.
pub fn produce(life: &mut Life, segment: &Segment) -> Result<(), Failure> {
    let name = Object::Jobs.name();
    let mut end = taken(name, segment.shared_producer::<Small>(name))?;
    end.wait_mode(life.mode()).outlive_peer(!life.is_patient());
    let batch = Batch { life: life.number, follow: 0 };
    life.tell(Note { batch, ..Note::new(Kind::Attached, 0, 0) });
    let mut number = 0;
    while !life.is_told() {
        let one = message(number, batch);
        let sent = if life.is_patient() { end.push(one) } else { end.push_timeout(one, SOON) };
        match sent {
            Ok(()) => {
                number += 1;
                life.tell(Note { batch, ..Note::new(Kind::Sent, number, 0) });
            }
            Err(SendError::TimedOut) => life.say(Kind::Idle, 0),
            Err(SendError::PeerDied) => life.go_on_without(Kind::Died),
            Err(SendError::Closed) => life.go_on_without(Kind::Left),
            Err(error) => return Err(failed("send")(&error)),
        }
        if life.chooses_to_stand() {
            life.stand(Note { batch, ..Note::new(Kind::Stands, number, 0) });
        }
    }
    life.tell(Note { batch, ..Note::new(Kind::Bye, number, 0) });
    Ok(())
}

/// Receives until it is told to end and everything was received.
pub fn consume(life: &mut Life, segment: &Segment) -> Result<(), Failure> {
    let name = Object::Jobs.name();
    let mut end = taken(name, segment.shared_consumer::<Small>(name))?;
    end.wait_mode(life.mode());
    life.say(Kind::Attached, 0);
    loop {
        end.outlive_peer(!life.is_patient() && !life.is_told());
        let got = if life.is_patient() { end.hold() } else { end.hold_timeout(SOON) };
        let held = match got {
            Ok(held) => held,
            Err(RecvError::TimedOut) => {
                life.say(Kind::Idle, 0);
                continue;
            }
            Err(RecvError::PeerDied | RecvError::Closed) if life.is_told() => break,
            Err(RecvError::PeerDied) => {
                life.go_on_without(Kind::Died);
                continue;
            }
            Err(RecvError::Closed) => {
                life.go_on_without(Kind::Left);
                continue;
            }
            Err(error) => return Err(failed("receive")(&error)),
        };
        let value = held.value();
        let (number, batch) = (value[0], Batch::of(value[1]));
        life.tell(Note::message(is_whole(&value, number), number, 0, batch));
        let stands = life.chooses_to_stand();
        if stands && life.random.once_in(2) {
            life.stand(Note { batch, ..Note::new(Kind::Kept, number, 0) });
        }
        held.release();
        if stands {
            life.stand(Note { batch, ..Note::new(Kind::Released, number, 0) });
        }
    }
    life.say(Kind::Bye, 0);
    Ok(())
}

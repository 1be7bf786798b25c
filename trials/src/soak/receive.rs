//! The consumers of rings, lanes and broadcast rings.
//!
//! A consumer tells of a message before it releases it. Where a ring has no blocking call that
//! does not release, every fourth life uses the one that does, and says so when it attaches: of
//! such a life one message may be delivered of which the judge never hears.

use super::cast::{Long, Object, Small};
use super::child::{Failure, Life, SOON, failed, taken};
use super::note::{Batch, Kind, Note, head, is_whole, is_whole_record, span};
use hugeshm::{
    BroadcastConsumer, BroadcastRecordConsumer, Consumer, FromLane, Join, LanesConsumer,
    RecordConsumer, RecvError, Segment, WaitError, Waitable, wait_any,
};

/// Receives until it is told to end and everything was received.
pub fn consume(life: &mut Life, segment: &Segment, object: Object) -> Result<(), Failure> {
    let name = object.name();
    match object {
        Object::Ring => values(life, taken(name, segment.consumer::<Small>(name))?),
        Object::Large => values(life, taken(name, segment.consumer::<Long>(name))?),
        Object::Records => records(life, taken(name, segment.record_consumer(name))?),
        Object::Lanes => lanes(life, taken(name, segment.lanes_consumer::<Small>(name))?),
        Object::News | Object::Orders => {
            let join = Join::At(life.from);
            broadcast(life, taken(name, segment.broadcast_consumer::<Small>(name, join))?)
        }
        _ => {
            let join = Join::At(life.from);
            broadcast_records(life, taken(name, segment.broadcast_record_consumer(name, join))?)
        }
    }
}

/// What there is to do after an answer.
enum Next<T> {
    Take(T),
    Again,
    End,
}

/// What an answer means for a consumer: it goes on, whoever died, until it was told to end and
/// nobody is left who sends.
fn settle<T>(life: &Life, got: Result<T, RecvError>) -> Result<Next<T>, Failure> {
    match got {
        Ok(value) => return Ok(Next::Take(value)),
        Err(RecvError::TimedOut | RecvError::Empty) => life.say(Kind::Idle, 0),
        Err(RecvError::PeerDied | RecvError::Closed) if life.is_told() => return Ok(Next::End),
        Err(RecvError::PeerDied) => life.go_on_without(Kind::Died),
        Err(RecvError::Closed) => life.go_on_without(Kind::Left),
        Err(RecvError::Gap { missed }) => life.tell(Note::new(Kind::Gap, 0, missed)),
        Err(error) => return Err(failed("receive")(&error)),
    }
    Ok(Next::Again)
}

/// Waits for the end to have something to do.
fn wait(life: &Life, end: &mut dyn Waitable) -> Result<(), RecvError> {
    match wait_any(&mut [end], (!life.is_patient()).then_some(SOON)) {
        Ok(_) => Ok(()),
        Err(WaitError::TimedOut) => Err(RecvError::TimedOut),
        Err(_) => Err(RecvError::Cancelled),
    }
}

/// Every second life outlives its peer, until it is told to end.
macro_rules! begin {
    ($life:ident, $end:ident) => {
        if $life.is_told() || $life.is_patient() {
            $end.outlive_peer(false);
        } else {
            $end.outlive_peer(true);
        }
    };
}

/// What a life that is told to end changes.
macro_rules! heed {
    ($life:ident, $end:ident) => {
        if $life.is_told() {
            $end.outlive_peer(false);
        }
    };
}

fn values<const N: usize>(life: &mut Life, mut end: Consumer<[u64; N]>) -> Result<(), Failure>
where
    [u64; N]: bytemuck::CheckedBitPattern,
{
    end.wait_mode(life.mode());
    begin!(life, end);
    let releases_first = life.number % 4 >= 2;
    life.tell(Note::new(Kind::Attached, end.position(), releases_first.into()));
    loop {
        heed!(life, end);
        let position = end.position();
        let got = if !releases_first {
            match end.peek() {
                Err(RecvError::Empty) => wait(life, &mut end).and_then(|()| end.peek()),
                got => got,
            }
        } else if life.is_patient() {
            end.recv()
        } else {
            end.recv_timeout(SOON)
        };
        match settle(life, got)? {
            Next::Take(got) => {
                let whole = is_whole(&got, position);
                life.tell(Note::message(whole, position, position + 1, Batch::of(got[1])));
            }
            Next::Again => continue,
            Next::End => break,
        }
        if releases_first {
            continue;
        }
        let stands = life.chooses_to_stand();
        if stands && life.random.once_in(2) {
            life.stand(Note::new(Kind::Kept, position, 0));
        }
        end.skip().map_err(|error| failed("release")(&error))?;
        if stands {
            life.stand(Note::new(Kind::Released, position, 0));
        }
    }
    life.say(Kind::Bye, end.position());
    Ok(())
}

fn lanes(life: &mut Life, mut end: LanesConsumer<Small>) -> Result<(), Failure> {
    end.wait_mode(life.mode());
    begin!(life, end);
    let releases_first = life.number % 4 >= 2;
    life.tell(Note::new(Kind::Attached, end.position(), releases_first.into()));
    loop {
        heed!(life, end);
        let got = if !releases_first {
            match end.peek() {
                Err(RecvError::Empty) => wait(life, &mut end).and_then(|()| end.peek()),
                got => got,
            }
        } else if life.is_patient() {
            end.recv()
        } else {
            end.recv_timeout(SOON)
        };
        let position = match settle(life, got)? {
            Next::Take(FromLane { lane, position, value, .. }) => {
                let whole = is_whole(&value, position);
                let note = Note::message(whole, position, position + 1, Batch::of(value[1]));
                life.tell(Note { lane, ..note });
                position
            }
            Next::Again => continue,
            Next::End => break,
        };
        if releases_first {
            continue;
        }
        let stands = life.chooses_to_stand();
        if stands && life.random.once_in(2) {
            life.stand(Note::new(Kind::Kept, position, 0));
        }
        end.skip().map_err(|error| failed("release")(&error))?;
        if stands {
            life.stand(Note::new(Kind::Released, position, 0));
        }
    }
    life.say(Kind::Bye, end.position());
    Ok(())
}

fn records(life: &mut Life, mut end: RecordConsumer) -> Result<(), Failure> {
    end.wait_mode(life.mode());
    begin!(life, end);
    life.say(Kind::Attached, end.position());
    let mut bytes = Vec::new();
    loop {
        heed!(life, end);
        let got = if life.is_patient() { end.read() } else { end.read_timeout(SOON) };
        let read = match settle(life, got)? {
            Next::Take(read) => read,
            Next::Again => continue,
            Next::End => break,
        };
        read.copy_into(&mut bytes);
        let [number, position, batch, _] = head(&bytes);
        let whole = position == read.position() && is_whole_record(&bytes);
        let next = read.position() + span(bytes.len());
        life.tell(Note::message(whole, number, next, Batch::of(batch)));
        let stands = life.chooses_to_stand();
        if stands && life.random.once_in(2) {
            life.stand(Note::new(Kind::Kept, number, 0));
        }
        read.release();
        if stands {
            life.stand(Note::new(Kind::Released, number, 0));
        }
    }
    life.say(Kind::Bye, end.position());
    Ok(())
}

fn broadcast(life: &mut Life, mut end: BroadcastConsumer<Small>) -> Result<(), Failure> {
    end.wait_mode(life.mode());
    begin!(life, end);
    life.say(Kind::Attached, end.position());
    loop {
        heed!(life, end);
        let position = end.position();
        let got = if life.is_patient() { end.recv() } else { end.recv_timeout(SOON) };
        match settle(life, got)? {
            Next::Take(got) => {
                let whole = is_whole(&got, position);
                life.tell(Note::message(whole, position, position + 1, Batch::of(got[1])));
            }
            Next::Again => {}
            Next::End => break,
        }
    }
    life.say(Kind::Bye, end.position());
    Ok(())
}

fn broadcast_records(life: &mut Life, mut end: BroadcastRecordConsumer) -> Result<(), Failure> {
    end.wait_mode(life.mode());
    begin!(life, end);
    life.say(Kind::Attached, end.position());
    let mut bytes = Vec::new();
    loop {
        heed!(life, end);
        let got = if life.is_patient() { end.read() } else { end.read_timeout(SOON) };
        let position = match settle(life, got)? {
            Next::Take(read) => {
                read.copy_into(&mut bytes);
                let position = read.position();
                match read.release() {
                    Ok(()) => position,
                    // It was overwritten while it was copied, and is one of those missed.
                    Err(error) => match settle::<()>(life, Err(error))? {
                        Next::End => break,
                        _ => continue,
                    },
                }
            }
            Next::Again => continue,
            Next::End => break,
        };
        let [number, _, batch, _] = head(&bytes);
        let whole = number == position && is_whole_record(&bytes);
        life.tell(Note::message(whole, position, position + 1, Batch::of(batch)));
    }
    life.say(Kind::Bye, end.position());
    Ok(())
}

//! Killing the end that rings, while its peer sleeps in a process of its own.
//!
//! Wherever the ringer dies, the sleeper learns what there is to learn: it gets the message, or the
//! room, or is told of the death. It may have to sleep to the end of its slice for that.

use super::content::{Content, compare};
use super::drive::{Case, Ending, Seen, Trial};
use super::queue::{Flow, Queue, Start};
use super::tracee::{Act, Companion, Fault, Told, text};
use hugeshm::{RecvError, SendError};

/// The producer dies while it wakes the consumer.
struct SenderRings<Q: Queue> {
    flow: Flow<Q>,
    sleeper: Option<Companion>,
    message: Vec<Content>,
}

struct SendAct<Q: Queue> {
    queue: Q,
    sender: Q::Sender,
    data: Q::Data,
    done: Result<(), SendError>,
}

impl<Q: Queue> Act for SendAct<Q> {
    fn act(&mut self) {
        self.done = self.queue.send(&mut self.sender, &self.data);
    }

    fn told(&mut self) -> Told {
        self.done.map(|()| Vec::new()).map_err(text)
    }
}

impl<Q: Queue> Case for SenderRings<Q> {
    fn starts(&self) -> Vec<&'static str> {
        vec!["an empty ring with a sleeping consumer"]
    }

    fn prepare(&mut self, _: usize) -> Result<(), Fault> {
        self.flow.attempt += 2;
        self.flow.bring_to(Start::Begin, 1, 0)?;
        self.flow.drain()?;
        self.flow.leave_receiver();
        self.flow.sender = None;
        self.message = self.flow.make(1);
        Ok(())
    }

    fn begin(&mut self) -> Result<(), Fault> {
        let (queue, from, stage) = (self.flow.queue, self.flow.from(), &self.flow.stage);
        let sleeper = Companion::start(|| {
            let mut receiver = queue.receiver(&stage.open()?, from).map_err(text)?;
            Ok(queue.wait(&mut receiver).map(|got| vec![got]).map_err(text))
        })?;
        sleeper.until_asleep()?;
        self.sleeper = Some(sleeper);
        Ok(())
    }

    fn ready(&self) -> Result<Box<dyn Act>, Fault> {
        let queue = self.flow.queue;
        let sender = queue.sender(&self.flow.stage.open()?).map_err(text)?;
        let data = queue.data(&self.message);
        Ok(Box::new(SendAct { queue, sender, data, done: Ok(()) }))
    }

    fn check(&mut self, ending: Ending) -> Result<Seen, Fault> {
        let mut sleeper = self.sleeper.take().ok_or("no sleeper")?;
        let told = sleeper.told()?;
        drop(sleeper);
        let seen = match told {
            Ok(got) => {
                compare(&got.concat(), &self.message[0])?;
                self.flow.committed(&self.message);
                self.flow.waiting.clear();
                self.flow.went_on(1);
                Seen::Visible
            }
            Err(why) if why == RecvError::PeerDied.to_string() => Seen::Invisible,
            Err(why) => return Err(format!("the sleeper was told: {why}")),
        };
        if ending == Ending::Whole && seen == Seen::Invisible {
            return Err("a whole operation is not seen".into());
        }
        self.flow.laps()?;
        Ok(seen)
    }

    fn is_seen(&self) -> bool {
        true
    }

    fn close(self: Box<Self>) -> Result<(), Fault> {
        self.flow.close()
    }
}

/// The consumer dies while it wakes the producer.
struct ReceiverRings<Q: Queue> {
    flow: Flow<Q>,
    sleeper: Option<Companion>,
    /// What the sleeping producer wants to send.
    message: Vec<Content>,
}

struct ReceiveAct<Q: Queue> {
    queue: Q,
    receiver: Q::Receiver,
    done: Result<(), RecvError>,
}

impl<Q: Queue> Act for ReceiveAct<Q> {
    fn act(&mut self) {
        self.done = self.queue.receive(&mut self.receiver).map(drop);
    }

    fn told(&mut self) -> Told {
        self.done.map(|()| Vec::new()).map_err(text)
    }
}

impl<Q: Queue> Case for ReceiverRings<Q> {
    fn starts(&self) -> Vec<&'static str> {
        vec!["a full ring with a sleeping producer"]
    }

    fn prepare(&mut self, _: usize) -> Result<(), Fault> {
        self.flow.attempt += 2;
        self.flow.bring_to(Start::Begin, 1, 0)?;
        self.flow.drain()?;
        self.flow.fill()?;
        self.flow.leave_receiver();
        self.flow.sender = None;
        self.message = self.flow.make(1);
        Ok(())
    }

    fn begin(&mut self) -> Result<(), Fault> {
        let (queue, stage, message) = (self.flow.queue, &self.flow.stage, &self.message);
        let sleeper = Companion::start(|| {
            let mut sender = queue.sender(&stage.open()?).map_err(text)?;
            Ok(queue.insist(&mut sender, &queue.data(message)).map(|()| Vec::new()).map_err(text))
        })?;
        sleeper.until_asleep()?;
        self.sleeper = Some(sleeper);
        Ok(())
    }

    fn ready(&self) -> Result<Box<dyn Act>, Fault> {
        let queue = self.flow.queue;
        let receiver = queue.receiver(&self.flow.stage.open()?, self.flow.from());
        Ok(Box::new(ReceiveAct { queue, receiver: receiver.map_err(text)?, done: Ok(()) }))
    }

    fn check(&mut self, ending: Ending) -> Result<Seen, Fault> {
        let mut sleeper = self.sleeper.take().ok_or("no sleeper")?;
        let told = sleeper.told()?;
        drop(sleeper);
        let seen = match told {
            Ok(_) => {
                self.flow.waiting.pop_front();
                self.flow.committed(&self.message);
                Seen::Visible
            }
            Err(why) if why == SendError::PeerDied.to_string() => Seen::Invisible,
            Err(why) => return Err(format!("the sleeper was told: {why}")),
        };
        if ending == Ending::Whole && seen == Seen::Invisible {
            return Err("a whole operation is not seen".into());
        }
        self.flow.take_ends()?;
        self.flow.drain()?;
        self.flow.laps()?;
        Ok(seen)
    }

    fn is_seen(&self) -> bool {
        true
    }

    fn close(self: Box<Self>) -> Result<(), Fault> {
        self.flow.close()
    }
}

/// Both ways of an object; the way back only where a full ring waits for its consumer.
pub fn both<Q: Queue>(trials: &mut Vec<Trial>, queue: Q) {
    trials.push(Trial::new(format!("{}: send, waking", queue.name()), move || {
        let (flow, message) = (Flow::new(queue)?, Vec::new());
        Ok(Box::new(SenderRings { flow, sleeper: None, message }))
    }));
    if queue.holds().is_some() {
        trials.push(Trial::new(format!("{}: receive, waking", queue.name()), move || {
            let (flow, message) = (Flow::new(queue)?, Vec::new());
            Ok(Box::new(ReceiverRings { flow, sleeper: None, message }))
        }));
    }
}

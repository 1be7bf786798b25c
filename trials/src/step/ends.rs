//! Killing one end of an object that carries messages: the sender, or the receiver.

use super::content::{Content, compare};
use super::drive::{Case, Ending, Seen, Trial};
use super::queue::{Flow, Queue, Start, must_be_dead};
use super::tracee::{Act, Fault, Told, text};
use hugeshm::{RecvError, SendError};

/// The blocking call of the survivor is tried once in so many attempts: it may take a slice.
const WAIT_EVERY: u64 = 16;

/// What becomes of the messages that an operation sends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Becomes {
    /// They are committed together.
    Sent,
    /// The first half of each one's bytes is.
    Halved,
    /// Nothing is.
    Nothing,
}

/// An operation of the sender.
struct Sending<Q: Queue> {
    /// How many messages.
    count: usize,
    becomes: Becomes,
    starts: &'static [Start],
    act: fn(&mut Q::Sender, &Q::Data) -> Result<(), SendError>,
}

/// An operation of the receiver.
struct Receiving<Q: Queue> {
    /// How many messages.
    count: usize,
    /// Whether they are released, and if so, together.
    releases: bool,
    together: bool,
    starts: &'static [Start],
    act: fn(&mut Q::Receiver, &mut Q::Heard) -> Result<(), RecvError>,
}

struct SendAct<Q: Queue> {
    sender: Q::Sender,
    data: Q::Data,
    act: fn(&mut Q::Sender, &Q::Data) -> Result<(), SendError>,
    done: Result<(), SendError>,
}

impl<Q: Queue> Act for SendAct<Q> {
    fn act(&mut self) {
        self.done = (self.act)(&mut self.sender, &self.data);
    }

    fn told(&mut self) -> Told {
        self.done.map(|()| Vec::new()).map_err(text)
    }
}

struct ReceiveAct<Q: Queue> {
    queue: Q,
    receiver: Q::Receiver,
    heard: Q::Heard,
    act: fn(&mut Q::Receiver, &mut Q::Heard) -> Result<(), RecvError>,
    done: Result<(), RecvError>,
}

impl<Q: Queue> Act for ReceiveAct<Q> {
    fn act(&mut self) {
        self.done = (self.act)(&mut self.receiver, &mut self.heard);
    }

    fn told(&mut self) -> Told {
        self.done.map_err(text)?;
        Ok(self.queue.heard(std::mem::take(&mut self.heard)))
    }
}

/// The sender is killed.
struct SenderDies<Q: Queue> {
    flow: Flow<Q>,
    operation: Sending<Q>,
    /// What the operation sends.
    data: Vec<Content>,
    /// What of it is to be seen, and was not yet.
    pending: Vec<Content>,
    seen: bool,
}

/// The sender dies in `act`, which sends `count` messages.
pub fn sends<Q: Queue>(
    queue: Q,
    name: &'static str,
    (count, becomes): (usize, Becomes),
    starts: &'static [Start],
    act: fn(&mut Q::Sender, &Q::Data) -> Result<(), SendError>,
) -> Trial {
    let operation = Sending { count, becomes, starts, act };
    Trial::new(format!("{}: {name}", queue.name()), move || {
        let (flow, data, pending) = (Flow::new(queue)?, Vec::new(), Vec::new());
        Ok(Box::new(SenderDies { flow, operation, data, pending, seen: false }))
    })
}

/// The receiver dies in `act`, which receives `count` messages, and may release them together.
pub fn receives<Q: Queue>(
    queue: Q,
    name: &'static str,
    (count, releases): (usize, bool),
    starts: &'static [Start],
    act: fn(&mut Q::Receiver, &mut Q::Heard) -> Result<(), RecvError>,
) -> Trial {
    let operation = Receiving { count, releases, together: !queue.leaves_dead_out(), starts, act };
    Trial::new(format!("{}: {name}", queue.name()), move || {
        let flow = Flow::new(queue)?;
        Ok(Box::new(ReceiverDies { flow, operation, told: None }))
    })
}

impl<Q: Queue> SenderDies<Q> {
    /// Makes room for `count` messages.
    fn receive_some(&mut self, count: usize) -> Result<(), Fault> {
        for _ in 0..(count + self.flow.queue.slack()).min(self.flow.waiting.len()) {
            self.flow.receive()?;
        }
        Ok(())
    }

    /// Receives what was there before, and then all of the operation or nothing.
    fn look(&mut self) -> Result<(), Fault> {
        while !self.flow.waiting.is_empty() {
            self.flow.receive()?;
        }
        let Some(wanted) = self.pending.first().copied() else {
            return self.flow.drain(); // which must find nothing
        };
        let receiver = self.flow.receiver.as_mut().ok_or("no receiver")?;
        match self.flow.queue.receive(receiver) {
            Ok(got) => {
                compare(&got, &wanted)?;
                self.seen = true;
                let pending = std::mem::take(&mut self.pending);
                self.flow.committed(&pending);
                self.flow.waiting.pop_front();
                self.flow.drain().map_err(|fault| format!("the rest of a batch: {fault}"))
            }
            Err(RecvError::Empty | RecvError::PeerDied) => Ok(()),
            Err(error) => Err(format!("receive: {error}")),
        }
    }
}

impl<Q: Queue> Case for SenderDies<Q> {
    fn starts(&self) -> Vec<&'static str> {
        self.operation.starts.iter().map(|start| start.label()).collect()
    }

    fn prepare(&mut self, start: usize) -> Result<(), Fault> {
        let (start, count) = (self.operation.starts[start], self.operation.count);
        self.flow.attempt += 1;
        self.flow.bring_to(start, count, 2)?;
        match start {
            Start::Full => {
                self.flow.fill()?;
                self.receive_some(count)?;
            }
            Start::Brim => drop(self.flow.fill()?),
            _ => {}
        }
        self.flow.attempt += 1; // another hand than that of the survivor
        self.data = self.flow.make(count);
        self.seen = false;
        self.pending = match self.operation.becomes {
            Becomes::Sent => self.data.clone(),
            Becomes::Halved => self.data.iter().map(|c| Content { len: c.len / 2, ..*c }).collect(),
            Becomes::Nothing => Vec::new(),
        };
        self.flow.attempt += 1;
        self.flow.sender = None;
        Ok(())
    }

    fn ready(&self) -> Result<Box<dyn Act>, Fault> {
        let queue = self.flow.queue;
        let segment = self.flow.stage.open()?;
        let sender = queue.sender(&segment).map_err(text)?;
        // The segment stays mapped by its end.
        let (data, act) = (queue.data(&self.data), self.operation.act);
        Ok(Box::new(SendAct::<Q> { sender, data, act, done: Ok(()) }))
    }

    fn asleep(&mut self) -> Result<(), Fault> {
        if self.operation.starts[0] != Start::Brim {
            return Err("it sleeps, and there is room".into());
        }
        self.receive_some(1)
    }

    fn stopped(&mut self) -> Result<bool, Fault> {
        self.look()?;
        Ok(true)
    }

    fn check(&mut self, ending: Ending) -> Result<Seen, Fault> {
        let queue = self.flow.queue;
        let receiver = self.flow.receiver.as_ref().ok_or("no receiver")?;
        must_be_dead(queue.sender_state(receiver))?;
        self.look()?;
        if ending == Ending::Whole && !self.pending.is_empty() {
            return Err("a whole operation is not seen".into());
        }
        if self.flow.attempt % WAIT_EVERY < 3 {
            self.flow.hears_of_death()?;
        }
        self.flow.take_ends()?;
        let (sender, receiver) = (self.flow.sender.as_ref(), self.flow.receiver.as_ref());
        let (sender, receiver) = (sender.ok_or("no sender")?, receiver.ok_or("no receiver")?);
        if let Some(sent) = queue.sent(sender)
            && queue.counts_alike()
        {
            let received = queue.received(receiver);
            if sent != received {
                return Err(format!(
                    "the successor goes on at {sent}, everything before {received} was received"
                ));
            }
        }
        self.pending.clear();
        self.flow.laps()?;
        Ok(if self.seen { Seen::Visible } else { Seen::Invisible })
    }

    fn is_seen(&self) -> bool {
        self.operation.becomes != Becomes::Nothing
    }

    fn close(self: Box<Self>) -> Result<(), Fault> {
        self.flow.close()
    }
}

/// The receiver is killed.
struct ReceiverDies<Q: Queue> {
    flow: Flow<Q>,
    operation: Receiving<Q>,
    /// How many messages waited when the operation began, at least.
    told: Option<usize>,
}

impl<Q: Queue> ReceiverDies<Q> {
    /// How many messages the dead one has released, by what comes first now.
    fn released(&mut self, ending: Ending) -> Result<usize, Fault> {
        let queue = self.flow.queue;
        let whole = self.told.is_some() && queue_repeats(queue);
        let most = if self.operation.releases && !whole { self.operation.count } else { 0 };
        let most = most.min(self.flow.waiting.len());
        let must = self.told.unwrap_or(if ending == Ending::Whole { most } else { 0 });
        let receiver = self.flow.receiver.as_mut().ok_or("no receiver")?;
        let got = match queue.receive(receiver) {
            Ok(got) => got,
            Err(RecvError::Empty) if most == self.flow.waiting.len() => {
                self.flow.waiting.clear();
                return Ok(most);
            }
            Err(error) => return Err(format!("the successor receives nothing: {error}")),
        };
        let fits = |skip: &usize| {
            self.flow.waiting.get(*skip).is_some_and(|wanted| compare(&got, wanted).is_ok())
        };
        let Some(skipped) = (0..=most).find(fits) else {
            let first = self.flow.waiting.front().copied();
            return Err(format!("the successor's first message is none of those after {first:?}"));
        };
        if self.operation.together && skipped != 0 && skipped != most {
            return Err(format!("{skipped} of {most} messages were released together"));
        }
        if skipped < must && !queue_repeats(queue) {
            return Err(format!("{must} messages were received, {skipped} are released"));
        }
        self.flow.waiting.drain(..=skipped);
        Ok(skipped)
    }
}

/// Whether a receiver's place is its own business: a successor joins where it likes.
fn queue_repeats<Q: Queue>(queue: Q) -> bool {
    queue.leaves_dead_out()
}

impl<Q: Queue> Case for ReceiverDies<Q> {
    fn starts(&self) -> Vec<&'static str> {
        self.operation.starts.iter().map(|start| start.label()).collect()
    }

    fn prepare(&mut self, start: usize) -> Result<(), Fault> {
        let (start, count) = (self.operation.starts[start], self.operation.count);
        self.flow.attempt += 1;
        self.flow.bring_to(start, count, 0)?;
        self.flow.drain()?;
        match start {
            Start::Empty => {}
            Start::Full => drop(self.flow.fill()?),
            _ => {
                for _ in 0..=count {
                    self.flow.send()?;
                }
            }
        }
        self.told = None;
        self.flow.leave_receiver();
        Ok(())
    }

    fn ready(&self) -> Result<Box<dyn Act>, Fault> {
        let queue = self.flow.queue;
        let segment = self.flow.stage.open()?;
        let receiver = queue.receiver(&segment, self.flow.from()).map_err(text)?;
        let (heard, act) = (queue.room(), self.operation.act);
        Ok(Box::new(ReceiveAct::<Q> { queue, receiver, heard, act, done: Ok(()) }))
    }

    fn asleep(&mut self) -> Result<(), Fault> {
        if self.operation.starts[0] != Start::Empty {
            return Err("it sleeps, and there is something to receive".into());
        }
        if self.flow.waiting.is_empty() {
            self.flow.send()?;
        }
        Ok(())
    }

    /// Overwrites everything that is given up for it.
    fn stopped(&mut self) -> Result<bool, Fault> {
        if self.operation.starts[0] == Start::Empty {
            return Ok(false);
        }
        if !self.flow.queue.leaves_dead_out() || self.flow.queue.keeps() == u64::MAX {
            self.flow.fill()?;
        }
        Ok(true)
    }

    fn told(&mut self, told: Told) -> Result<(), Fault> {
        let messages = told?;
        if messages.len() != self.operation.count {
            return Err(format!("{} messages instead of {}", messages.len(), self.operation.count));
        }
        for (got, wanted) in messages.iter().zip(&self.flow.waiting) {
            compare(got, wanted).map_err(|fault| format!("in the stopped receiver: {fault}"))?;
        }
        let released = if self.operation.releases { messages.len() } else { 0 };
        if self.flow.queue.leaves_dead_out() {
            // It is gone, and its successor asks for what comes next.
            self.flow.went_on(released);
            self.flow.waiting.drain(..released);
            self.told = Some(0);
        } else {
            self.told = Some(released);
        }
        Ok(())
    }

    fn check(&mut self, ending: Ending) -> Result<Seen, Fault> {
        let queue = self.flow.queue;
        let sender = self.flow.sender.as_ref().ok_or("no sender")?;
        must_be_dead(queue.receiver_state(sender))?;
        let begun = self.flow.waiting.len();
        self.flow.take_ends()?;
        let released = if begun == 0 { 0 } else { self.released(ending)? };
        self.flow.drain()?;
        self.flow.laps()?;
        let seen = released > 0 || (queue_repeats(queue) && ending == Ending::Whole);
        Ok(if seen { Seen::Visible } else { Seen::Invisible })
    }

    fn is_seen(&self) -> bool {
        self.operation.releases
    }

    fn close(self: Box<Self>) -> Result<(), Fault> {
        self.flow.close()
    }
}

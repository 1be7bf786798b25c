//! What all objects that carry messages have in common, and the model they are compared with.

use super::content::{Content, compare};
use super::stage::Stage;
use super::tracee::Fault;
use hugeshm::{PeerState, RecvError, Segment, SegmentBuilder, SendError};
use std::collections::{HashMap, VecDeque};

/// The name of the object in its segment.
pub const OBJECT: &str = "o";

/// An object with an end that sends and one that receives.
pub trait Queue: Copy + 'static {
    type Sender;
    type Receiver;
    /// Messages, as the sending call takes them.
    type Data;
    /// Messages, as the receiving call gives them.
    type Heard: Default;

    fn name(self) -> String;
    fn declare(self, builder: SegmentBuilder) -> SegmentBuilder;
    fn sender(self, segment: &Segment) -> hugeshm::Result<Self::Sender>;
    /// `from` is the position where the last receiver left; most objects know it by themselves.
    fn receiver(self, segment: &Segment, from: u64) -> hugeshm::Result<Self::Receiver>;

    /// The length of message number `number`.
    fn len(self, number: u64) -> usize;
    /// By how much one message moves the position.
    fn unit(self) -> u64;
    /// After how many positions the ring begins anew.
    fn turn(self) -> u64;
    /// The producer takes a longer way each time it comes past a multiple of this position.
    fn looks_every(self) -> u64;
    /// So many messages fit, where that is a fixed number.
    fn holds(self) -> Option<u64>;
    /// Sending more than this many messages without receiving them loses some.
    fn keeps(self) -> u64 {
        u64::MAX
    }

    /// How many more messages must be received before there is room for one: where room is given
    /// by whole sections.
    fn slack(self) -> usize {
        0
    }

    fn data(self, contents: &[Content]) -> Self::Data;
    /// Room for messages, so that none is made during the operation.
    fn room(self) -> Self::Heard {
        Self::Heard::default()
    }
    fn heard(self, heard: Self::Heard) -> Vec<Vec<u8>>;
    /// Sends one message, without waiting.
    fn send(self, sender: &mut Self::Sender, data: &Self::Data) -> Result<(), SendError>;
    /// Receives one, likewise.
    fn receive(self, receiver: &mut Self::Receiver) -> Result<Vec<u8>, RecvError>;
    /// Receives one, waiting for it for at most some seconds.
    fn wait(self, receiver: &mut Self::Receiver) -> Result<Vec<u8>, RecvError>;
    /// Sends one, likewise.
    fn insist(self, sender: &mut Self::Sender, data: &Self::Data) -> Result<(), SendError>;
    /// What the sender is told of the receiver.
    fn receiver_state(self, sender: &Self::Sender) -> PeerState;
    fn sender_state(self, receiver: &Self::Receiver) -> PeerState;
    /// The position of the next message, where the sender knows it.
    fn sent(self, sender: &Self::Sender) -> Option<u64>;
    fn received(self, receiver: &Self::Receiver) -> u64;
    /// Whether both count positions alike.
    fn counts_alike(self) -> bool {
        true
    }
    /// Whether a dead receiver holds the sender up no more than a living one's absence would: in
    /// an object that overwrites, or leaves the dead out.
    fn leaves_dead_out(self) -> bool {
        false
    }
}

/// Where an operation starts.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Start {
    /// At the beginning of the ring.
    Begin,
    /// So that it goes over the ring's end.
    Wrap,
    /// Where the producer looks how far its peer is.
    Look,
    /// It fills the ring, or finds it full of messages.
    Full,
    /// There is nothing to receive.
    Empty,
    /// There is no room to send.
    Brim,
}

impl Start {
    pub fn label(self) -> &'static str {
        match self {
            Self::Begin => "the ring's beginning",
            Self::Wrap => "just before the ring's end",
            Self::Look => "where the producer looks at its peer",
            Self::Full => "a ring that is full but for it",
            Self::Empty => "an empty ring",
            Self::Brim => "a full ring",
        }
    }
}

/// An object, both its ends as far as this process has them, and what must be in it.
pub struct Flow<Q: Queue> {
    pub queue: Q,
    pub stage: Stage,
    pub segment: Segment,
    pub sender: Option<Q::Sender>,
    pub receiver: Option<Q::Receiver>,
    /// Committed and not received.
    pub waiting: VecDeque<Content>,
    next: u64,
    pub attempt: u64,
    from: u64,
    /// Exactly where each start was the first time, and how long the next message.
    anchors: HashMap<Start, (u64, usize)>,
}

impl<Q: Queue> Flow<Q> {
    /// A segment with an empty object.
    pub fn new(queue: Q) -> Result<Self, Fault> {
        let stage = Stage::new()?;
        let segment = stage.create(|builder| queue.declare(builder))?;
        let waiting = VecDeque::new();
        let (sender, receiver) = (None, None);
        let anchors = HashMap::new();
        let (next, attempt, from) = (0, 0, 0);
        Ok(Self { queue, stage, segment, sender, receiver, waiting, next, attempt, from, anchors })
    }

    /// Takes the ends that this process does not have.
    pub fn take_ends(&mut self) -> Result<(), Fault> {
        if self.receiver.is_none() {
            let receiver = self.queue.receiver(&self.segment, self.from);
            self.receiver = Some(receiver.map_err(|error| format!("take the receiver: {error}"))?);
        }
        if self.sender.is_none() {
            let sender = self.queue.sender(&self.segment);
            self.sender = Some(sender.map_err(|error| format!("take the sender: {error}"))?);
        }
        Ok(())
    }

    /// Leaves the receiving end to somebody else.
    pub fn leave_receiver(&mut self) {
        if let Some(receiver) = self.receiver.take() {
            self.from = self.queue.received(&receiver);
        }
    }

    /// The receiving end was left behind so many messages more.
    pub fn went_on(&mut self, count: usize) {
        self.from += count as u64;
    }

    /// Where a receiver that knows no better goes on.
    pub fn from(&self) -> u64 {
        self.from
    }

    /// The next messages; they count once they are committed.
    pub fn make(&self, count: usize) -> Vec<Content> {
        let number = |index| self.next + index as u64;
        let content = |index| Content {
            number: number(index),
            attempt: self.attempt,
            len: self.queue.len(number(index)),
        };
        (0..count).map(content).collect()
    }

    /// These messages were committed.
    pub fn committed(&mut self, contents: &[Content]) {
        self.next += contents.len() as u64;
        self.waiting.extend(contents);
    }

    /// Sends the next message; false if there is no room.
    pub fn send(&mut self) -> Result<bool, Fault> {
        let contents = self.make(1);
        let data = self.queue.data(&contents);
        let sender = self.sender.as_mut().ok_or("no sender")?;
        match self.queue.send(sender, &data) {
            Ok(()) => {
                self.committed(&contents);
                Ok(true)
            }
            Err(SendError::Full) => Ok(false),
            Err(error) => Err(format!("send: {error}")),
        }
    }

    /// Receives a message, which must be the next one; false if there is none, and none must be.
    pub fn receive(&mut self) -> Result<bool, Fault> {
        let receiver = self.receiver.as_mut().ok_or("no receiver")?;
        match (self.queue.receive(receiver), self.waiting.front()) {
            (Ok(got), Some(wanted)) => {
                compare(&got, wanted)?;
                self.waiting.pop_front();
                Ok(true)
            }
            (Ok(got), None) => Err(format!("a message of {} bytes that nobody sent", got.len())),
            (Err(RecvError::Empty | RecvError::PeerDied), None) => Ok(false),
            (Err(error), Some(wanted)) => Err(format!("{wanted:?} is lost: {error}")),
            (Err(error), None) => Err(format!("receive: {error}")),
        }
    }

    /// Receives everything.
    pub fn drain(&mut self) -> Result<(), Fault> {
        while self.receive()? {}
        Ok(())
    }

    /// Fills the ring; how many messages that took.
    pub fn fill(&mut self) -> Result<u64, Fault> {
        let mut count = 0;
        while (self.waiting.len() as u64) < self.queue.keeps() && self.send()? {
            count += 1;
            if count > 10_000 {
                return Err("there is no end to the room".into());
            }
        }
        Ok(count)
    }

    /// Two laps and more, with values in sequence; the ring holds what it always held.
    pub fn laps(&mut self) -> Result<(), Fault> {
        self.take_ends()?;
        self.drain()?;
        for _ in 0..3 {
            let filled = self.fill()?;
            match self.queue.holds() {
                Some(holds) if filled != holds => {
                    return Err(format!("{filled} messages fit where {holds} did"));
                }
                _ if filled == 0 => return Err("an empty ring takes no message".into()),
                _ => {}
            }
            self.drain()?;
        }
        Ok(())
    }

    /// The offset of the sender's next message in the ring.
    fn offset(&self) -> u64 {
        let received = self.receiver.as_ref().map_or(0, |r| self.queue.received(r));
        let by_model = received + self.waiting.len() as u64;
        let sent = self.sender.as_ref().and_then(|sender| self.queue.sent(sender));
        sent.unwrap_or(by_model) % self.queue.turn()
    }

    /// Brings the next message to where `start` wants it, with up to `backlog` messages in front.
    pub fn bring_to(&mut self, start: Start, count: usize, backlog: usize) -> Result<(), Fault> {
        self.take_ends()?;
        self.drain()?;
        let (unit, turn) = (self.queue.unit(), self.queue.turn());
        let reach = unit * (count as u64 / 2).max(1);
        for turn_number in 0..20_000 {
            let offset = self.offset();
            let sent = self.sender.as_ref().and_then(|sender| self.queue.sent(sender));
            let looks = sent.is_some_and(|sent| {
                (sent ^ (sent + unit * count as u64)) >= self.queue.looks_every()
            });
            let there = match start {
                Start::Wrap => !looks && turn - offset <= reach,
                Start::Look => looks,
                _ => !looks && offset < if unit == 1 { 1 } else { 3 * unit },
            };
            // The same place each time, if it comes round.
            let exactly = (offset, self.queue.len(self.next));
            let anchor = self.anchors.get(&start).is_none_or(|anchor| *anchor == exactly);
            if there && (anchor || turn_number > 4000) {
                self.anchors.entry(start).or_insert(exactly);
                return Ok(());
            }
            if !self.send()? {
                return Err("no room on the way to the start".into());
            }
            if self.waiting.len() > backlog {
                self.receive()?;
            }
        }
        Err("the start is never reached".into())
    }

    /// Gives everything back.
    pub fn close(mut self) -> Result<(), Fault> {
        self.laps()?;
        drop((self.sender.take(), self.receiver.take()));
        self.stage.close(self.segment)
    }

    /// The blocking call of the receiver ends, since the sender is dead.
    pub fn hears_of_death(&mut self) -> Result<(), Fault> {
        let receiver = self.receiver.as_mut().ok_or("no receiver")?;
        match self.queue.wait(receiver) {
            Err(RecvError::PeerDied) => Ok(()),
            other => Err(format!(
                "a receiver that waits for a dead sender was told {:?}",
                other.map(|got| got.len())
            )),
        }
    }
}

/// Whether the other end is known to be dead.
pub fn must_be_dead(state: PeerState) -> Result<(), Fault> {
    if state == PeerState::Dead { Ok(()) } else { Err(format!("the dead end counts as {state:?}")) }
}

//! The judge of one object: tells what was lost, torn and repeated, from what the children told.
//!
//! The notes of one part come in order, those of a life before those of its successor, and
//! nothing is known of the order between parts. So a consumer is judged by its own notes alone,
//! and compared with the producers at the end.
//!
//! What a life has told last is in doubt: the message may have been released before the kill, or
//! not. If not, the successor sees it again, and that is the only message which it may see again.

use super::cast::{Object, Role};
use super::note::{Batch, Kind, Note};
use super::receipts::Receipts;
use super::stream::Stream;
use std::collections::BTreeMap;

/// What came of an object.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Messages received, requests served, versions read.
    pub received: u64,
    /// Messages seen again by a successor, or by another, since they were not released.
    pub again: u64,
    /// Messages delivered to lives that were killed before they could tell.
    pub unheard: u64,
    /// Messages missed, as a gap told.
    pub missed: u64,
    /// Messages that nobody received.
    pub lost: u64,
    /// Messages that were not what was sent.
    pub torn: u64,
    /// Calls answered, and calls that ended without an answer.
    pub answered: u64,
    /// Calls that ended without an answer.
    pub unanswered: u64,
    /// Calls that told of a death.
    pub died: u64,
    /// Calls that told that the other end has left.
    pub left: u64,
    /// Rounds of a bystander.
    pub looked: u64,
    /// Successors whose position was known beforehand, and was right.
    pub certain: u64,
}

impl Tally {
    /// Adds what another came to.
    pub fn add(&mut self, other: &Self) {
        self.received += other.received;
        self.again += other.again;
        self.unheard += other.unheard;
        self.missed += other.missed;
        self.lost += other.lost;
        self.torn += other.torn;
        self.answered += other.answered;
        self.unanswered += other.unanswered;
        self.died += other.died;
        self.left += other.left;
        self.looked += other.looked;
        self.certain += other.certain;
    }
}

/// What is known of a producer's position.
#[derive(Clone, Copy, Debug, Default)]
struct Sender {
    /// It was there at least.
    least: u64,
    /// It was exactly there, and then killed.
    exactly: bool,
    /// It has left.
    left: bool,
}

/// The judge of one object.
pub struct Judge {
    object: Object,
    senders: BTreeMap<u32, Sender>,
    /// By lane, or by consumer where each has a position of its own.
    streams: BTreeMap<u32, Stream>,
    receipts: Receipts,
    /// The last message that a consumer told, of the life it has now, and what became of it.
    last: BTreeMap<u32, (Kind, Note)>,
    releases_first: BTreeMap<u32, bool>,
    tally: Tally,
    faults: Vec<String>,
}

impl Judge {
    /// A judge who has heard nothing yet.
    pub fn new(object: Object) -> Self {
        // The calls of a cell are counted from 1.
        let first = (object == Object::Cell).then(|| (0, Stream::from(1)));
        Self {
            object,
            senders: BTreeMap::new(),
            streams: first.into_iter().collect(),
            receipts: Receipts::default(),
            last: BTreeMap::new(),
            releases_first: BTreeMap::new(),
            tally: Tally::default(),
            faults: Vec::new(),
        }
    }

    fn fault(&mut self, what: String) {
        // One error draws others behind it.
        if self.faults.len() < 5 {
            self.faults.push(format!("{}: {what}", self.object));
        }
    }

    /// Where the next life of a broadcast ring's consumer is to begin.
    pub fn begin_at(&self, index: u32) -> u64 {
        self.streams.get(&index).map_or(0, Stream::next)
    }

    /// Takes a note of the part `role` number `index`.
    pub fn take(&mut self, role: Role, index: u32, note: Note) {
        match note.kind {
            Kind::Idle => {}
            Kind::Died => self.tally.died += 1,
            Kind::Left => self.tally.left += 1,
            Kind::Looked => self.tally.looked += 1,
            Kind::Torn => {
                self.tally.torn += 1;
                self.fault(format!("{role} {index} got a torn message: {note:?}"));
            }
            Kind::Answered => self.tally.answered += 1,
            Kind::Unanswered => self.tally.unanswered += 1,
            _ if role == Role::Producer && self.object == Object::Jobs => {
                self.receipts.sent(note);
            }
            Kind::Attached if role == Role::Producer => self.attached(index, note.position),
            Kind::Sent | Kind::Stands | Kind::Bye if role == Role::Producer => {
                let sender = self.senders.entry(index).or_default();
                let exactly = note.kind == Kind::Stands;
                *sender = Sender { least: note.position, exactly, left: note.kind == Kind::Bye };
            }
            Kind::Attached => {
                self.last.remove(&index);
                self.releases_first.insert(index, note.next == 1);
                if self.object.broadcasts() {
                    self.streams.entry(index).or_default().begin();
                }
            }
            Kind::Message => self.received(index, note),
            Kind::Gap => self.gap(index, note.next),
            Kind::Kept | Kind::Released => {
                if let Some(last) = self.last.get_mut(&index) {
                    last.0 = note.kind;
                }
            }
            Kind::Sent | Kind::Stands => self.fault(format!("{role} {index} told {note:?}")),
            Kind::Bye => {
                self.last.remove(&index);
                self.releases_first.remove(&index);
            }
        }
    }

    fn attached(&mut self, index: u32, position: u64) {
        let before = self.senders.get(&index).copied().unwrap_or_default();
        let right =
            if before.exactly { position == before.least } else { position >= before.least };
        if !right {
            self.fault(format!("producer {index} begins at {position} behind {before:?}"));
        }
        self.tally.certain += u64::from(before.exactly && right);
        self.senders.insert(index, Sender { least: position, ..Sender::default() });
    }

    fn received(&mut self, index: u32, note: Note) {
        self.tally.received += 1;
        self.last.insert(index, (Kind::Message, note));
        if self.object == Object::Jobs {
            return self.receipts.received(note);
        }
        let stream = if self.object.broadcasts() { index } else { note.lane };
        let stream = self.streams.entry(stream).or_default();
        let judged = if matches!(self.object, Object::Pose | Object::Picture) {
            stream.newer(note)
        } else {
            stream.message(note, &mut self.tally)
        };
        if let Err(what) = judged {
            self.fault(format!("consumer {index}: {what}"));
        }
    }

    fn gap(&mut self, index: u32, missed: u64) {
        self.tally.missed += missed;
        let stream = self.streams.entry(index).or_default();
        let fresh = stream.gap(missed);
        if !self.object.broadcasts() || (!self.object.overwrites() && !fresh) {
            self.fault(format!("consumer {index} of a lossless ring missed {missed}"));
        }
    }

    /// A life of that part has ended; `killed`, or by itself.
    pub fn over(&mut self, role: Role, index: u32, killed: bool) {
        if role != Role::Consumer || !killed {
            return;
        }
        let last = self.last.remove(&index);
        if self.object == Object::Jobs {
            if let Some((kind, note)) = last {
                self.receipts.killed(kind, note);
            }
            return;
        }
        let own = self.object.broadcasts();
        if own || matches!(self.object, Object::Pose | Object::Picture) {
            return;
        }
        if self.releases_first.remove(&index) == Some(true) {
            self.streams.values_mut().for_each(Stream::may_be_ahead);
        } else if let Some((kind, note)) = last
            && let Some(stream) = self.streams.get_mut(&note.lane)
        {
            stream.killed(kind);
        }
    }

    /// All have ended in good order: everything that was sent must have been received.
    pub fn close(mut self) -> (Tally, Vec<String>) {
        match self.object {
            Object::Jobs => {
                if let Err(what) = self.receipts.close(&mut self.tally) {
                    self.fault(what);
                }
            }
            _ => self.compare(),
        }
        if self.tally.received == 0 {
            self.fault("nothing was received".to_owned());
        }
        (self.tally, self.faults)
    }

    /// The ends of the producers with those of the consumers.
    fn compare(&mut self) {
        let streams: Vec<(u32, u64)> =
            self.streams.iter().map(|(&index, stream)| (index, stream.next())).collect();
        for (index, next) in streams {
            let sender = if self.object == Object::Lanes { index } else { 0 };
            let sender = self.senders.get(&sender).copied().unwrap_or_default();
            if !sender.left || sender.least != next {
                self.tally.lost += sender.least.saturating_sub(next).max(1);
                self.fault(format!("stream {index} ends at {next}, its producer at {sender:?}"));
            }
        }
    }
}

/// How a message continues the one before it.
pub fn continues(before: Batch, now: Batch) -> bool {
    if before.life == now.life && before.follow > 0 {
        now.follow + 1 == before.follow
    } else {
        // What a dead producer left half-done must not come back behind its successor's.
        before.follow == 0 && before.life <= now.life
    }
}

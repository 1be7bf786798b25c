//! What is sent, so that every byte can be checked, and what is told of it to the judge.
//!
//! A message names its number; all its other bytes follow from that. A note is what a child
//! tells the judge, through a pipe: it is shorter than what a pipe takes in one piece, so it is
//! there whole or not at all, and what is in the pipe survives its writer.

use bytemuck::{CheckedBitPattern, NoUninit};

/// What a child tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, NoUninit, CheckedBitPattern)]
#[repr(u32)]
pub enum Kind {
    /// The end is attached. A producer says its position; a consumer, in `next`, whether it
    /// releases messages before it tells of them.
    Attached,
    /// A producer has sent everything before `position`.
    Sent,
    /// A producer stands still until it is killed; with `next` not 0, in the middle of a message
    /// or batch that was not committed. Its successor must begin at `position`.
    Stands,
    /// A consumer read the message at `position`; the one behind it is at `next`.
    Message,
    /// The same, and the message is not what was sent at that position.
    Torn,
    /// The consumer stands still until it is killed, and has not released the last message.
    Kept,
    /// The consumer stands still until it is killed, and has released the last message.
    Released,
    /// At `position` so many messages were missed: `next`.
    Gap,
    /// A call came back without anything to do.
    Idle,
    /// A call told of the death of the other end.
    Died,
    /// A call told that the other end has left.
    Left,
    /// The call number `position` was answered, and the answer was right.
    Answered,
    /// The call number `position` ended without an answer.
    Unanswered,
    /// A bystander has looked around once.
    Looked,
    /// The end leaves in good order, at `position`.
    Bye,
}

/// One note.
#[derive(Clone, Copy, Debug, PartialEq, Eq, NoUninit, CheckedBitPattern)]
#[repr(C)]
pub struct Note {
    /// What it is about.
    pub kind: Kind,
    /// The lane of a message.
    pub lane: u32,
    /// Where.
    pub position: u64,
    /// What is behind it, see [`Kind`].
    pub next: u64,
    /// Of a message: its sender's life, and how many of its batch follow.
    pub batch: Batch,
}

/// Who sent a message, and how many messages of its batch come behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, NoUninit, CheckedBitPattern)]
#[repr(C)]
pub struct Batch {
    /// The number of the sender's life.
    pub life: u32,
    /// How many more were sent with it, to be visible with it or not at all.
    pub follow: u32,
}

impl Batch {
    /// As one word of a message.
    pub fn word(self) -> u64 {
        u64::from(self.life) << 32 | u64::from(self.follow)
    }

    /// Out of one.
    pub fn of(word: u64) -> Self {
        Self { life: (word >> 32) as u32, follow: word as u32 }
    }
}

/// The length of a note.
pub const NOTE_LEN: usize = size_of::<Note>();

impl Note {
    /// A note about a position.
    pub fn new(kind: Kind, position: u64, next: u64) -> Self {
        Self { kind, lane: 0, position, next, batch: Batch { life: 0, follow: 0 } }
    }

    /// A note about a message, torn or whole.
    pub fn message(whole: bool, position: u64, next: u64, batch: Batch) -> Self {
        let kind = if whole { Kind::Message } else { Kind::Torn };
        Self { batch, ..Self::new(kind, position, next) }
    }
}

/// The message number `number` of a ring of values.
pub fn message<const N: usize>(number: u64, batch: Batch) -> [u64; N] {
    core::array::from_fn(|i| match i {
        0 => number,
        1 => batch.word(),
        _ => filler(number ^ batch.word(), i as u64),
    })
}

/// Whether a message is the one of this number, every word of it.
pub fn is_whole<const N: usize>(message: &[u64; N], number: u64) -> bool {
    *message == self::message(number, Batch::of(message[1]))
}

fn filler(seed: u64, index: u64) -> u64 {
    mixed(seed.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The bytes of a record's head: its number, its position, its batch and its length.
pub const HEAD_LEN: usize = 32;

/// How long the record number `number` is: mostly short, now and then some 10 KiB.
pub fn record_len(number: u64) -> usize {
    let random = mixed(number ^ 0x5eed);
    let longest = [64, 600, 3000, 10 << 10][(random & 3) as usize];
    HEAD_LEN + ((random >> 8) % longest) as usize
}

/// The record number `number` that begins at `position`, of its one possible length.
pub fn record(number: u64, position: u64, batch: Batch) -> Vec<u8> {
    let len = record_len(number);
    let head = [number, position, batch.word(), len as u64];
    let seed = mixed(number ^ position.rotate_left(32));
    let words = head.into_iter().chain((0..).map(|i| filler(seed, i)));
    words.flat_map(u64::to_le_bytes).take(len).collect()
}

/// The words of a record's head, whatever they are.
pub fn head(bytes: &[u8]) -> [u64; 4] {
    let word = |i: usize| bytes.get(8 * i..8 * i + 8).and_then(|word| word.try_into().ok());
    core::array::from_fn(|i| word(i).map_or(u64::MAX, u64::from_le_bytes))
}

/// Whether a record is what its head says, every byte of it.
pub fn is_whole_record(bytes: &[u8]) -> bool {
    let [number, position, batch, _] = head(bytes);
    bytes == record(number, position, Batch::of(batch))
}

/// How far a record of `len` bytes takes a ring: its header word, and up to the next word.
pub fn span(len: usize) -> u64 {
    8 + (len as u64).next_multiple_of(8)
}

/// A generator of moments and victims (SplitMix64); its seed is printed.
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(self.0)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// True once in so many times.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

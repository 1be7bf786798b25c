//! The plan: which rings there are, what moves through them, what every byte must be.
//!
//! Writer and reader make the same messages from the same numbers; the reader
//! compares. A message depends on its phase and its number in every length, so
//! that one lost, repeated, torn or taken from an earlier phase is found. Each
//! phase ends with a mark that carries how many messages were sent.

use hugeshm::SegmentBuilder;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The ring of single numbers.
pub(super) const NUMBERS: &str = "numbers";
/// The ring of records.
pub(super) const RECORDS: &str = "records";
/// The rings of the ping-pong.
pub(super) const PING: &str = "ping";
/// The way back.
pub(super) const PONG: &str = "pong";

/// A message of the ping-pong, 64 bytes.
pub(super) type Ball = [u64; 8];

/// Ends a phase; the next number is the count of messages in it. No message has this value.
pub(super) const END: u64 = u64::MAX;

/// The most messages that are sent or received at once.
pub(super) const BATCH: usize = 64;

/// Bytes of bodies that a phase has at most where two of them are less: caches hold them.
const BODIES_BYTES: usize = 256 << 10;

/// How one phase moves its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Numbers through the typed ring, one by one.
    Single,
    /// The same in batches.
    Batches,
    /// Records.
    Records,
}

/// Messages of one size, moved for one slot of time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Phase {
    pub name: &'static str,
    pub size: usize,
    pub way: Way,
}

pub(super) const PHASES: [Phase; 6] = [
    Phase { name: "typed ring, 8 B", size: 8, way: Way::Single },
    Phase { name: "typed ring, 8 B, batches", size: 8, way: Way::Batches },
    Phase { name: "records, 64 B", size: 64, way: Way::Records },
    Phase { name: "records, 1 KiB", size: 1 << 10, way: Way::Records },
    Phase { name: "records, 64 KiB", size: 64 << 10, way: Way::Records },
    Phase { name: "records, 1 MiB", size: 1 << 20, way: Way::Records },
];

/// The slots of time that the ping-pong has.
pub(super) const PING_PONG_SLOTS: u32 = 2;

/// The time that one phase has when all take `total`.
pub(super) fn slot(total: Duration) -> Duration {
    total / (PHASES.len() as u32 + PING_PONG_SLOTS)
}

/// Declares the rings.
pub(super) fn declare(builder: SegmentBuilder) -> SegmentBuilder {
    builder
        .ring::<u64>(NUMBERS, 1 << 16)
        .records(RECORDS, 8 << 20)
        .ring::<Ball>(PING, 64)
        .ring::<Ball>(PONG, 64)
}

/// What the two processes tell the first one: a line of JSON each.
#[derive(Debug, Deserialize, Serialize)]
pub(super) enum Line {
    /// The reader holds its ends; what it found when it measured the pages.
    Ready { seen: String },
    /// A phase is over and every byte was right.
    Moved(Moved),
    /// The ping-pong is over and every byte was right.
    Trips(Trips),
    /// A message was not what it had to be.
    Wrong { what: String },
}

/// What one phase moved.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Moved {
    pub phase: usize,
    pub messages: u64,
    pub nanos: u64,
}

/// Round trips of 64 bytes, in nanoseconds.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Trips {
    pub round_trips: u64,
    /// Whether both sides spun; else they slept where it took long.
    pub spinning: bool,
    pub p50_nanos: u64,
    pub p90_nanos: u64,
    pub p99_nanos: u64,
    pub p999_nanos: u64,
    pub max_nanos: u64,
}

/// The number that stands for message `sequence` of a phase; never [`END`].
#[inline]
pub(super) fn number(phase: usize, sequence: u64) -> u64 {
    let mixed = sequence.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (phase as u64) << 40) >> 1
}

/// Message `sequence` of the ping-pong.
#[inline]
pub(super) fn ball(sequence: u64) -> Ball {
    core::array::from_fn(|word| number(word, sequence))
}

/// What must come back for it.
#[inline]
pub(super) fn returned(ball: Ball) -> Ball {
    ball.map(|word| !word)
}

/// Makes the records of a phase: bodies that are made once and taken in turn, each with the
/// message's number at both ends.
pub(super) struct Bodies {
    phase: usize,
    bodies: Vec<Vec<u8>>,
}

impl Bodies {
    pub(super) fn new(phase: usize) -> Self {
        let size = PHASES[phase].size;
        let count = (BODIES_BYTES / size).clamp(2, 7);
        let mut state = number(phase, 0x5eed) | 1;
        let mut byte = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        let bodies = (0..count).map(|_| (0..size).map(|_| byte()).collect()).collect();
        Self { phase, bodies }
    }

    /// The bytes of message `sequence`.
    #[inline]
    pub(super) fn message(&mut self, sequence: u64) -> &mut [u8] {
        let count = self.bodies.len() as u64;
        let number = number(self.phase, sequence);
        let body = &mut self.bodies[(sequence % count) as usize];
        let tail = body.len() - 8;
        body[..8].copy_from_slice(&number.to_le_bytes());
        body[tail..].copy_from_slice(&(!number).to_le_bytes());
        body
    }
}

/// Where `found` is not what it had to be, in words.
pub(super) fn difference(
    phase: usize,
    sequence: u64,
    offset: usize,
    found: &[u8],
    expected: &[u8],
) -> String {
    let first = found.iter().zip(expected).position(|(a, b)| a != b).unwrap_or(0);
    let (got, wanted) = (found.get(first).copied(), expected.get(first).copied());
    let byte = |byte: Option<u8>| byte.map_or("nothing".to_owned(), |byte| format!("{byte:#04x}"));
    format!(
        "{}: byte {} of message {sequence} is {}, it had to be {}",
        PHASES[phase].name,
        offset + first,
        byte(got),
        byte(wanted)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_differ_from_their_neighbours_and_from_other_phases() {
        for phase in 0..PHASES.len() {
            for sequence in 0..2000 {
                assert_ne!(number(phase, sequence), number(phase, sequence + 1));
                assert_ne!(number(phase, sequence), number(phase + 1, sequence));
                assert_ne!(number(phase, sequence), END);
            }
        }
        for (phase, described) in PHASES.iter().enumerate() {
            if described.way != Way::Records {
                continue;
            }
            let mut bodies = Bodies::new(phase);
            let first = bodies.message(0).to_vec();
            assert_eq!(first.len(), described.size);
            assert_ne!(first, bodies.message(1), "{}", described.name);
            assert_ne!(first, bodies.message(bodies_in_turn(phase)), "the numbers differ");
            assert_eq!(first, bodies.message(0));
            assert_eq!(first, Bodies::new(phase).message(0), "both processes make the same");
        }
    }

    fn bodies_in_turn(phase: usize) -> u64 {
        Bodies::new(phase).bodies.len() as u64
    }

    #[test]
    fn a_difference_names_the_byte() {
        let text = difference(2, 7, 4096, &[1, 2, 3], &[1, 2, 4]);
        assert_eq!(text, "records, 64 B: byte 4098 of message 7 is 0x03, it had to be 0x04");
    }
}

//! Lanes: a typed ring for each of many producers, and one consumer of all of them.
//!
//! Producers that share a ring meet at its end with every message, and one that is
//! killed there is in everybody's way. Here each has a ring of its own, its *lane*,
//! and what a ring promises (order, whole messages, death, lies) holds for each
//! producer by itself. There is no order between lanes. This room only joins them:
//! where the consumer looks next, how it sleeps for all, and what becomes of a lane
//! that lies.
//!
//! | file | its job |
//! |---|---|
//! | `layout` | where the words and the blocks of each lane lie |
//! | `producer` | the end of one lane |
//! | `gather` | what the end of all does |
//! | `consumer` | the same end with a type |
//! | `open` | how a segment declares lanes and gives out their ends |
//!
//! # Protocol
//!
//! A producer is that of a typed ring (P1 to P5, A1 to A3 in `slots`) on the windows of
//! its lane. The consumer:
//!
//! * G1 the current lane, if it has a message (C1 in `slots`) and has given fewer than
//!   32 in its turn; else the next lane that has one becomes the current one
//! * G2 copy the message out, as C2
//! * G3 store `released` in the lane, as C3
//! * G4 ring the producer of that lane if it sleeps, and no other
//!
//! G1 looks at one header word for each lane. That of an idle lane is written by nobody
//! and stays in the consumer's cache: 255 of them cost half a microsecond a round, about
//! 2 ns each, and there is a round at most once for 32 messages while one lane is busy.
//! Nothing in shared memory says which lanes to look at, since producers would have to
//! share it.
//!
//! A batch takes from lane after lane in the same turns, with one G3 for each turn.
//!
//! # Sleeping
//!
//! As in [`wait`](crate::wait). The consumer has one sleep word for all lanes, which is
//! the opposite of every producer; it is asleep until one of them rings, and S3 is G1.
//! Each producer has one in its lane. G4 looks only at that of the lane it released in,
//! because room there is of no use to others. The word that says that some producer
//! sleeps serves the consumer when it leaves: then it wakes them all.
//!
//! # Memory ordering
//!
//! Edges `commit` and `release` of `slots`, in each lane; `doze` and `bell` of `wait`.
//!
//! # Invariants
//!
//! * All words of a lane but the released position and the exchange of the sleep word
//!   are its producer's; no producer writes in the lane of another.
//! * While the current lane has turns left it is not left out, and no error waits to be
//!   told.
//!
//! # Failure
//!
//! * Producer killed: as in `slots`. What it committed stays and is received; its
//!   successor in the lane goes on behind that. The consumer's waits end with
//!   `PeerDied` or `Closed` only when no producer lives and all lanes are empty.
//! * Producer stopped: its lane is empty, or keeps what it has sent, for as long as it
//!   takes. The others do not notice.
//! * Consumer killed: before G3 the successor reads the message again. It begins at each
//!   lane's released position, so turns and an unfinished batch leave no trace.
//! * A lying producer: what is impossible in its lane is answered once as
//!   [`Corrupt`](super::error::RecvError::Corrupt). The consumer stores its own position
//!   with bit 63, which no producer takes for a released position: whoever holds the
//!   lane, or claims it, is told `Corrupt` instead of waiting for room for ever. The next
//!   consumer takes the bit away and begins anew there. Killed before it stored the bit,
//!   the consumer has a successor that finds out the same.
//! * A lie in the shared sleep words costs a slice, or a system call.

mod consumer;
mod gather;
mod layout;
mod open;
mod producer;

#[cfg(all(test, hugeshm_loom))]
mod models;
#[cfg(test)]
mod tests;

pub use consumer::LanesConsumer;
pub use open::Lanes;
pub use producer::LaneProducer;

/// A message, and where it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FromLane<T> {
    /// The lane, and so the producer, that it came from.
    pub lane: u32,
    /// Its position in that lane.
    pub position: u64,
    /// The message.
    pub value: T,
}

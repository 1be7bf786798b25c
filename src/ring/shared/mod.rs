//! Shared rings: many producers, many consumers, each message received by one of them.
//!
//! For work that is handed out, and for results that are collected. Messages of
//! one size, up to 255 ends of each side, held by any processes, each of which may
//! die at any instruction. Who has a slot stands in the slot's own word, together
//! with the position that it holds; so there is no moment at which a slot is taken
//! and nobody knows by whom. There are no words for head and tail: each end
//! remembers how far it has come, and finds the rest by looking at slots.
//!
//! There is no batch that is visible at once, and no message that all consumers
//! receive. One producer and one consumer do better with a ring of their own.
//!
//! | file | its job |
//! |---|---|
//! | `layout` | where the bytes lie, what a slot's word says |
//! | `end` | what both ends have: number, cursor, search, questions to the kernel |
//! | `producer`, `consumer` | the two ends; `receiver` is the latter without its type |
//! | `open` | how a segment declares shared rings and gives out their ends |
//!
//! # Protocol
//!
//! Positions count messages. Position p has slot p mod N in lap p / N. The slot's
//! word is one of these, with the lap in each of them:
//!
//! * free: the message of this lap is still to come
//! * writing, and by which producer
//! * full, and how often the message was put back
//! * reading, likewise, and by which consumer
//!
//! A producer:
//!
//! * P1 exchange free(lap) with writing(lap, me) at the cursor. If another producer
//!   was there, go on behind the last position that one has taken. If the slot is
//!   still in use by the lap before, the ring is full
//! * P2 write the message
//! * P3 store full(lap)
//! * P4 wake a consumer if one sleeps
//!
//! A consumer:
//!
//! * C1 load the word at the cursor. If others received the message, or receive it, go
//!   on behind; if it is free or being written, the ring is empty: nobody goes past a
//!   message that is being written
//! * C2 exchange full(lap) with reading(lap, me)
//! * C3 copy the message out, check its bit pattern, store free(lap + 1): it is
//!   delivered. Or put it back: full(lap), put back once more
//! * C4 wake a producer if one sleeps
//!
//! A message of up to 128 bytes is copied between C1 and C2, and C2 exchanges full(lap) with
//! free(lap + 1) at once: the word was the same before and after, so nobody wrote
//! meanwhile. A copy is thrown away if another consumer was faster.
//!
//! An end attaches, as number n of its side, whose lock it holds:
//!
//! * A1 each word that says writing, or reading, by n is a predecessor's: R2
//! * A2 the last position taken by a producer is found by halves; the cursor goes behind
//! * A3 a consumer goes back from there to the first message that nobody has received
//!
//! An end that is held up asks about who holds the slot, after 64 tries, and after
//! 50 ms at the earliest:
//!
//! * R1 load the word, and then ask the kernel whether the lock of the end it names is free
//! * R2 exchange writing(lap) with free(lap + 1): the message never was, and both sides
//!   step over it. Or reading(lap) with full(lap), put back once more: it is seen again.
//!   Another word by now means that somebody else did it
//!
//! A consumer that went past a message which another was receiving keeps that in
//! mind, and looks whether it was put back: when it finds nothing, once in 50 ms, and else
//! once in a second. So such a message comes late, but it comes.
//!
//! # Memory ordering
//!
//! | edge | release side | acquire side | what becomes visible |
//! |---|---|---|---|
//! | `commit` | P3 | C1, C2 | the message |
//! | `free` | C2 or C3, to free; R2 | P1 | that it was read, so it may be overwritten |
//! | `order` | P1, C2 (exchanges, both ways) | every look | that all positions before were taken: whoever sees position p taken sees at least what its taker saw |
//!
//! # Invariants
//!
//! * Positions are taken by producers in order, none left out: whoever takes p has seen
//!   p - 1 taken, or one behind it, and a position once taken stays so. So a slot is taken
//!   for lap L + 1 after its message of lap L was received.
//! * No word comes twice, but for a message that was put back 256 times: within a lap a
//!   slot only goes from free over writing and full to reading and back to full with
//!   another count. So an exchange from a word that was seen succeeds only if nothing
//!   happened in between.
//! * The word that R1 saw was stored by one who then held its end's lock. If the lock
//!   is free afterwards, he is gone; whoever took the number since has done A1, so
//!   the word is another, also if he receives the very same message. What would be
//!   needed for a mistake: that R is stopped between R1 and R2, and meanwhile the number
//!   changes hands, the message is put back 256 times, and that number reads it again.
//! * Only the holder of an end's lock stores words that name it, and A1 comes before
//!   anything else he does. So P3 and C3, which exchange nothing, overwrite his own word.
//!
//! # Failure
//!
//! * Producer killed behind P1: R2 by whoever is held up, or A1 by its successor; the
//!   message never was. Behind P3: it is sent. Before P4: see `wait`.
//! * Consumer killed before C2: nothing happened. Behind C2: R2, or A1; the message is
//!   seen again, by anybody. Behind C3: it is delivered. Its number of times put back
//!   tells a message that kills its readers.
//! * Killed in A1 or R2: each is one exchange; what is left is done by the next.
//! * An end that is *stopped* counts as alive. A stopped producer holds up one slot:
//!   consumers receive what was sent before it, and then find nothing. A stopped
//!   consumer holds up a slot only between C2 and C3, that is, with a large message, or
//!   one it holds: others go past, and producers find the ring full when they come round to
//!   it. Calls with a deadline end with `TimedOut`, those that do not wait with `Full` or
//!   `Empty`. Stopped between A1 and its first call, or in R: nobody notices.
//! * A fork: the child's calls answer `Forked` and touch nothing. An end that is closed
//!   holds nothing but what it has forgotten to release, which is treated as a dead one's.
//! * Counters: each end counts a message when it was sent, or delivered. One who is
//!   killed between the two has not counted it. What waits is told by the slots.
//! * Contention: an attempt is lost only to another that succeeds. After 64 times 64
//!   lost ones a call says full, or empty.
//! * A lying peer: a word that no end stores, or that contradicts what this end has
//!   seen, is [`Corrupt`](super::error::SendError::Corrupt), for good. Inside of that a lie
//!   changes which bytes are read or overwritten, and when a message is seen, never where.
//!   Each call looks at a bounded number of slots: at all of them in A1, A3, and once in 50 ms;
//!   else at some multiple of 64.

mod consumer;
mod end;
mod layout;
mod open;
mod producer;
mod receiver;

#[cfg(test)]
mod model;
#[cfg(all(test, hugeshm_loom))]
mod models;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use consumer::{SharedConsumer, SharedMessage};
pub use open::SharedRing;
pub use producer::SharedProducer;

//! Broadcast rings: one producer, many that receive, each of them everything.
//!
//! Of values of one type, or of records of any length. The payload and the way a
//! message is committed are those of the rings with one consumer, and so is the
//! producer: it only learns elsewhere how far it may write ([`Space`]). It never
//! looks whether somebody is done with a message: it *sweeps*, which means that it
//! says how much it is going to overwrite before it does. Whoever reads looks
//! behind each copy whether what he copied was given up meanwhile.
//!
//! [`Space`]: super::space::Space
//!
//! | file | its job |
//! |---|---|
//! | `layout` | where the words lie, what is kept |
//! | `sweep` | the producer's side |
//! | `attend` | consumers, who have a place and are woken, and observers, who leave no trace |
//! | `typed` | the ends that receive values |
//! | `records` | the ends that receive records |
//! | `open` | how a segment declares broadcast rings and gives out their ends |
//!
//! # Protocol
//!
//! Positions are those of the rings with one consumer, and number p of a ring of
//! `total` positions is overwritten by p + total. The ring is *swept* up to a
//! position s: everything before s - total may be overwritten at any time, and
//! everything from there on to the committed end stands. A producer that comes to s:
//!
//! * S1 choose s' = the end of the section that the next message ends in
//! * S2 (lossless) s' is at most q + total for the position q of each required
//!   consumer; one that died is left out. No room if that is not behind s
//! * S3 (lossless) store s' as promised, fence, and look at the consumers once more;
//!   whoever has come meanwhile makes s' smaller, and the promise with it
//! * S4 set the marks of the sections that s' enters: the committed end, and how
//!   many records are before it; in a typed ring, store the committed end as start
//! * S5 store s' as swept
//! * S6 release fence; from here on what is before s' - total may be overwritten
//!
//! Then it writes and commits as in a ring with one consumer. Who receives:
//!
//! * C1 load the header word; nothing there: empty, unless C3 says that it was overtaken
//! * C2 copy the message out
//! * C3 acquire fence, then load swept: if the position is gone, the copy is worth
//!   nothing: C5
//! * C4 store the own position, and (lossless) ring the producer if it sleeps
//! * C5 go on with the oldest that is kept: in a typed ring the block at s - total, in a
//!   ring of records the first mark that is not before it. The distance is the gap. Who
//!   is overtaken 64 times while he looks for it says "empty" and looks again
//!   the next time
//!
//! A consumer of a lossless ring joins:
//!
//! * J1 store its position, and that it is required
//! * J2 fence, then load what is promised
//! * J3 if its position is before that, take the oldest position that is not, and again
//!
//! A producer attaches: A1 from the start, or the newest mark, walk to the committed
//! end; A2 as in a ring with one consumer. Records are counted on the way.
//!
//! # Memory ordering
//!
//! | edge | release store | acquire load | what becomes visible |
//! |---|---|---|---|
//! | `commit` | as in the other rings | C1, A1 | the message |
//! | `gone` | S5, then a release fence | acquire fence, then C3 | who copied one byte of what overwrote a message sees S5 |
//! | `mark` | S4, S5 | C5, joining, A1 | marks and start of all sections that are swept |
//! | `release` | C4 | S2, S3 | that the message was read, so it may be overwritten |
//! | `join` | J1, fence | S3, fence | either S3 sees J1, or J2 sees the promise |
//!
//! # Invariants
//!
//! * start, and every mark's position, is a committed end. The committed end is never behind swept;
//!   swept - total is not behind any start or the newest mark.
//! * promised >= swept, or both are what a producer left that died in S3.
//! * In a lossless ring no position of a living required consumer is before swept - total.
//!
//! # Failure
//!
//! * Producer killed in S1 to S4: what it swept is as before, marks behind it are written anew.
//!   After S5: nothing else was overwritten. It stays swept; the successor goes on.
//! * A consumer killed or stopped anywhere: nobody notices. In a lossless ring one that
//!   is required and stopped holds up the producer, and is named (`slowest`); a dead one until the
//!   kernel has said so, for 50 ms at most. Its place goes to the next, who says with his own
//!   epoch (tenure) that the words are his.
//! * An observer leaves no trace, whatever becomes of it.
//! * A lying producer: positions that cannot be are `Corrupt`, for good. Inside of that a
//!   lie changes which bytes are read, never where; each step is bounded.
//! * A lying consumer can hold up the producer of a lossless ring, as a stopped one
//!   can, and no more: a position that is impossible holds up nobody.

mod attend;
pub(crate) mod layout;
mod open;
mod records;
mod sweep;
mod typed;

#[cfg(all(test, hugeshm_loom))]
mod models;
#[cfg(test)]
mod tests;

pub(super) use sweep::Sweep;

use super::error::{AttachError, Corruption};
use crate::view::View;
use crate::wait::Link;

pub use open::{BroadcastRecords, BroadcastRing};
pub use records::{BroadcastRecord, BroadcastRecordReceiver};
pub use typed::{BroadcastReceiver, RawBroadcastReceiver};

/// How often an end that is overtaken while it looks for its place looks again.
const TURNS_MAX: u32 = 64;

/// Why an end did not find its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Astray {
    /// The words contradict each other.
    Corrupt(Corruption),
    /// The producer overtook each of a great many looks.
    Contended,
}

impl From<Corruption> for Astray {
    fn from(corruption: Corruption) -> Self {
        Self::Corrupt(corruption)
    }
}

impl From<Astray> for AttachError {
    fn from(astray: Astray) -> Self {
        match astray {
            Astray::Corrupt(corruption) => Self::Corrupt(corruption),
            Astray::Contended => Self::Contended,
        }
    }
}

/// Where an end that receives begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Join {
    /// With the oldest message that is still there.
    Oldest,
    /// With the first message that is sent from now on.
    Newest,
    /// With the message of this position, counted from 0 since the ring was made. If it was
    /// overwritten, the first call tells of the gap.
    At(u64),
}

/// What the segment hands to a new end that receives.
pub(crate) struct ReceiverParts {
    /// The control words.
    pub control: View,
    /// The messages.
    pub payload: View,
    /// The end's claim, or its look at the producer.
    pub link: Box<dyn Link>,
}

/// A consumer of a typed broadcast ring: it has one of the ring's places, by which it is seen in
/// reports, woken, and in a lossless ring waited for.
pub type BroadcastConsumer<T> = BroadcastReceiver<T, attend::Claimed>;
/// An observer of a typed broadcast ring: as a consumer, but it claims no place and writes
/// nothing, so there may be any number, also of a segment that is open read-only. Nobody waits
/// for it, and it wakes by itself.
pub type BroadcastObserver<T> = BroadcastReceiver<T, attend::Unseen>;
/// A consumer of a typed broadcast ring, by bytes.
pub type RawBroadcastConsumer = RawBroadcastReceiver<attend::Claimed>;
/// An observer of a typed broadcast ring, by bytes.
pub type RawBroadcastObserver = RawBroadcastReceiver<attend::Unseen>;
/// A consumer of a broadcast ring of records; as [`BroadcastConsumer`].
pub type BroadcastRecordConsumer = BroadcastRecordReceiver<attend::Claimed>;
/// An observer of a broadcast ring of records; as [`BroadcastObserver`].
pub type BroadcastRecordObserver = BroadcastRecordReceiver<attend::Unseen>;

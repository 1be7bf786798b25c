//! Latest values: one writes, any number read the last that was written, never torn.
//!
//! For what is worth nothing once there is something newer: a pose, a price, a
//! picture, a set of parameters. Every write replaces the value and counts its
//! version; readers see some versions and not others. A reader claims nothing,
//! writes nothing that the writer waits for, and may map the segment read-only,
//! so there is no limit to their number and nothing that one of them can
//! do to the writer or to the others. There is no queue here, and no history.
//!
//! Who wants to wait for a value together with other ends, in `poll` or in a
//! runtime must be found, and so needs a place and a sleep word: a *watcher* is a
//! reader that claims one of a few places. It reads by the same steps and says
//! which version it has seen; the writer waits for it no more than for the others.
//!
//! | file | its job |
//! |---|---|
//! | `layout` | where the bytes lie, what a stamp can say |
//! | `cell` | the protocol below |
//! | `writer`, `reader` | the two ends |
//! | `raw` | the reading end by bytes |
//! | `attend` | how a reader waits, and how a watcher does |
//! | `awaited` | watchers as futures (feature `tokio`) |
//! | `open` | how a segment declares latest values and gives out their ends |
//! | `error` | what the ends answer |
//!
//! # Protocol
//!
//! A place is a stamp and a value beside it. The stamp is 2 v while the value is
//! version v, whole, and 2 v - 1 while version v is being written.
//!
//! A value of up to 56 bytes has two places, each a cache line: the *front* line
//! and the *spare* one. The front's stamp says which version is the newest. The
//! writer of version v:
//!
//! * W1 store stamp 2 v - 1 in front
//! * W2 release fence, then write the value there
//! * W3 store stamp 2 v in front; from here on v is the newest version
//! * W4 the same three steps in the spare line
//! * W6 one load; if it says that somebody sleeps, wake all readers that do, then each watcher
//!   that does, by futex or by its doorbell
//!
//! So the spare line holds version v - 1 while the front is written, and the
//! front holds v while the spare line is. A reader takes one line across:
//!
//! * R1 load the stamp; odd: R5
//! * R2 copy the value out
//! * R3 acquire fence, then load the stamp again; another: R5
//! * R4 check the bit pattern on the copy
//! * R5 R1 to R4 in the spare line; then the front again, and so on
//!
//! A longer value has a row of places that take turns, version v in place v mod n,
//! and the newest stamp in a line of its own, so that it is written only once:
//!
//! * W1 store stamp 2 v - 1 in place v mod n
//! * W2 release fence, then write the value there
//! * W3 store stamp 2 v there
//! * W5 store 2 v as the newest stamp; from here on v is the newest version
//! * W6 as above; `wait::crowd` has its steps
//!
//! Readers load the newest stamp, 2 v, and do R1 to R4 in place v mod n, where the
//! stamp must be 2 v both times; R5 begins anew. A place is written again
//! after n - 1 others, so a copy that takes as long as n - 2 writes is never
//! overtaken, however the two fall together.
//!
//! A writer takes over: A1 the newest version is what the newest stamp says; if that
//! is 2 v - 1 (in a front line), it is v - 1, which stands in the spare line. A2 if
//! the front is whole and the spare line does not hold the same, W4. Then it goes on with
//! the next version.
//!
//! # Memory ordering
//!
//! | edge | release store | acquire load | what becomes visible |
//! |---|---|---|---|
//! | `whole` | W3, W4 | R1, A1 | the value beside the stamp |
//! | `torn` | W1, then a release fence | acquire fence, then R3 | who copied one byte of a write sees its W1 |
//! | `newest` | W3 in front, W5 | the version; R1 | where the newest value stands |
//! | `elsewhere` | W1 | R1, R3 | what was finished before: the other line, or the newest stamp |
//!
//! The value's bytes are relaxed atomics or moves in assembly between the two fences,
//! as Boehm showed for seqlocks. The processor's string copy, which
//! moves long values, orders its stores among themselves as it likes, but not
//! against the stamps before and behind it.
//!
//! # Invariants
//!
//! * Of a pair one line is whole at any moment and holds the newest version: the
//!   front, or while that is written the spare line. In a row the place of the
//!   newest version is whole until the newest stamp has been stored n - 1 times more.
//! * A version is one value: the number of a write that was never finished goes to
//!   the successor's first, and nobody has read it.
//! * Versions do not go back, for any reader: a front of 2 v - 1 is seen only with
//!   a spare line of v - 1 or later (edge `elsewhere`), whoever saw v in the spare
//!   line sees it in front, and the newest stamp only grows.
//!
//! # Failure
//!
//! * Writer killed in W1 to W3: in a pair the spare line has the version before, in
//!   a row its place has; the write never was. Behind W3, or W5 in a row: the
//!   new version is the newest. In W4: the successor writes the spare line anew. In
//!   A2: the next one does. Between W3 and W5: the place is written again, with the
//!   same number. Before W6 or in it: those that were not woken yet find the value
//!   when their slice of 50 ms ends.
//! * Writer stopped anywhere: the same values are there to be read, at once.
//! * A reader killed or stopped anywhere: nobody notices. If it had announced its
//!   sleep, the next write pays for one wake of nobody. A watcher that is killed
//!   leaves its place free, with its words as they were: whoever claims it begins
//!   with nothing seen, and takes the dead one's doorbell down.
//! * A writer that never rests: a look is lost only to a write that begins or ends
//!   during it. After 1024 looks in vain the answer is `Contended`.
//! * The writer's death does not touch the value. Whoever waits for a newer one is
//!   told; with a read-only mapping only he who may ask for its locks.
//! * A lying peer: stamps that cannot come about are `Corrupt`, and so is a version
//!   below one that this reader has seen; the next read judges anew. Inside of that a
//!   lie changes which bytes are read, never where. A read makes a bounded number of
//!   copies, a write one or two. Lies in a watcher's words change what reports say of
//!   it, and when it wakes: a slice too late, or for nothing.

mod attend;
#[cfg(feature = "tokio")]
mod awaited;
mod cell;
mod error;
pub(crate) mod layout;
mod open;
mod raw;
mod reader;
mod writer;

#[cfg(all(test, hugeshm_loom))]
mod models;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod watcher_tests;

#[cfg(feature = "tokio")]
pub use awaited::AsyncLatestWatcher;
pub use error::LatestError;
pub use open::LatestValue;
pub use raw::{RawLatestReader, RawLatestWatcher};
pub use reader::{LatestReader, LatestWatcher, Versioned};
pub use writer::LatestWriter;

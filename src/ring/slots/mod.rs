//! Rings of slots of one size, each with its own commit stamp; the ends by bytes.
//!
//! One producer, one consumer, messages of one size that are copied in and out.
//! The consumer learns of a message from the line that carries it: there is no
//! shared write index. [`RawProducer`] and [`RawConsumer`] move bytes, for tools
//! and bindings; the ends with a type stand in `typed` and are the same code.
//! There is no reference into the ring; large or variable messages belong into a
//! record ring.
//!
//! # Protocol
//!
//! Positions count messages; the message at position p lies in slot p mod
//! capacity. The committed end is stored nowhere: it is the first slot whose
//! stamp is not p + 1.
//!
//! * P1 room: p - released < capacity, asking for `released` only when the
//!   private copy says full; the answer is checked against p
//! * P2 write the message into slot p
//! * P3 store stamp p + 1
//! * P4 ring the consumer if it sleeps
//!
//! A batch does P2 and P3 for its second to last message, in any order and
//! unseen, then P2 for the first and P3 for the first: visible whole or not at
//! all.
//!
//! * C1 load the stamp of slot p; p + 1 means there is a message, 0 or the
//!   stamp of the lap before means none, anything else is corrupt
//! * C2 copy the message out, check its bit pattern on the copy
//! * C3 store `released` = p + 1: the message is delivered
//! * C4 ring the producer if it sleeps
//!
//! A consumer attaches at `released`. A producer attaches by walk: A1 from
//! `released` over at most capacity slots while the stamp is p + 1, A2 clear
//! every stamp beyond that would be fresh in this lap (the leftovers of a batch
//! whose first stamp was never stored), A3 publish from there.
//!
//! # Memory ordering
//!
//! | edge | release store | acquire load | what becomes visible |
//! |---|---|---|---|
//! | `commit` | P3 | C1 | the message, and the rest of its batch with their stamps |
//! | `release` | C3 | P1, A1 | that the slot was read, so it may be overwritten |
//!
//! # Invariants
//!
//! * Producer: `position <= limit <= position + capacity`, `limit - capacity` is
//!   a released position that was checked; `offset` is the slot of `position`.
//! * No slot beyond the committed end, within this lap, holds a fresh stamp
//!   except during a batch.
//!
//! # Failure
//!
//! * Producer killed before P3: the slot is not fresh, the message never was.
//!   Between the stamps of a batch: the first is not fresh, A2 clears the rest.
//!   Between P3 and P4: see `wait`. In A2: the next attach does it again.
//! * Consumer killed before C3: the successor reads the message again, with the
//!   same position. After C3: it is delivered and never seen again.
//! * A slow peer: full or empty, for as long as it takes.
//! * A lying peer: a stamp or `released` outside what the protocol allows is
//!   [`Corrupt`](super::error::SendError::Corrupt), for good. Inside of that a lie changes
//!   which bytes are read, never where. Each call touches at most one slot, or
//!   as many as the caller has given room for; attach touches each slot twice.

mod consumer;
mod producer;

use super::error::AttachError;
use super::layout::RELEASED;
use super::position::SlotGeometry;
use crate::view::{SlotCursor, View, Word64};

pub use consumer::RawConsumer;
pub use producer::RawProducer;

/// The consumer's released position and the slots, found once.
fn windows(
    control: &View,
    payload: &View,
    geometry: &SlotGeometry,
) -> Result<(Word64, SlotCursor), AttachError> {
    let released = control.find64(RELEASED).ok_or(AttachError::ReadOnly)?;
    let slots = payload.slots(geometry.bytes(), geometry.stride());
    Ok((released, slots.ok_or(AttachError::Geometry)?))
}

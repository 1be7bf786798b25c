//! Rings of messages of one size, counted by the blocks they lie in; the ends by bytes.
//!
//! One producer, one consumer, messages of one size that are copied in and out.
//! The consumer learns of a message from the line that carries it, if it is small,
//! or from a line that it shares with its neighbours: there is no shared write
//! index. [`RawProducer`] and [`RawConsumer`] move bytes, for tools and bindings;
//! the ends with a type stand in `typed` and are the same code. There is no
//! reference into the ring; large or variable messages belong into a record ring.
//!
//! # Protocol
//!
//! Positions count messages. The message at position p is number p mod n of block
//! (p / n) mod N, where a block has n messages; its lap is (p / n) / N. A block's
//! header word counts how many messages of which lap it holds. The committed end
//! is stored nowhere: it is where the first header word ends that is not full.
//!
//! * P1 room: p - released < capacity, asking for `released` only when the
//!   private copy says full; the answer is checked against p. N is so large that
//!   then all of the block's last lap was received
//! * P2 write the message
//! * P3 store the header word that counts it
//! * P4 ring the consumer if it sleeps
//! * P5 outside of a stream: write zeros to the first line of the next message, and
//!   to the header word of the block it begins, if they are free by P1. This brings
//!   the lines here before they are needed; neither store changes what they mean
//!
//! A batch does P2 and P3 for the blocks behind its first one, in any order and
//! unseen, then P2 for the first and P3 for the first: visible whole or not at
//! all.
//!
//! * C1 load the block's header word: it counts the message, or it is what it was
//!   before (0, full in the lap before, or filled up to the message); anything
//!   else is corrupt
//! * C2 copy the message out, check its bit pattern on the copy
//! * C3 store `released` = p + 1: the message is delivered
//! * C4 ring the producer if it sleeps
//!
//! A consumer attaches at `released`. A producer attaches by walk: A1 from
//! `released` over header words of this lap while they are full, A2 clear every
//! header word beyond that is of its next lap (the leftovers of a batch whose
//! first block was never counted), A3 publish from there.
//!
//! # Memory ordering
//!
//! | edge | release store | acquire load | what becomes visible |
//! |---|---|---|---|
//! | `commit` | P3 | C1 | the messages, and the rest of a batch with its header words |
//! | `release` | C3 | P1, A1 | that the messages were read, so they may be overwritten |
//!
//! # Invariants
//!
//! * Producer: `base <= position <= base + open <= limit`; `limit - capacity` is a
//!   released position that was checked; `base` is the position of the first
//!   message of the block at the cursor.
//! * No header word beyond the committed end's is of its next lap except during a
//!   batch.
//!
//! # Failure
//!
//! * Producer killed before P3: the message is not counted, it never was. Between
//!   the blocks of a batch: the first is not counted, A2 clears the rest. Between
//!   P3 and P4: see `wait`. Behind P5: a block that counts nothing, and zeros where
//!   nobody looks. In A2: the next attach does it again.
//! * Consumer killed before C3: the successor reads the message again, with the
//!   same position. After C3: it is delivered and never seen again.
//! * A slow peer: full or empty, for as long as it takes.
//! * A lying peer: a header word or `released` outside what the protocol allows is
//!   [`Corrupt`](super::error::SendError::Corrupt), for good. Inside of that a lie changes
//!   which bytes are read or overwritten, never where. Each call touches at most one
//!   message and the first words of the next (P5), or as many as the caller has given
//!   room for; attach touches each header word twice.

mod consumer;
mod producer;
mod reader;

use super::error::{AttachError, Corruption};
use super::layout::{MESSAGES_MAX, RELEASED};
use super::position::{SlotGeometry, check_released_at_attach};
use crate::view::{BlockCursor, View, Word64};

pub use consumer::RawConsumer;
pub use producer::RawProducer;
pub(super) use reader::Reader;

/// The consumer's released position and the blocks, found once.
fn windows(
    control: &View,
    payload: &View,
    geometry: &SlotGeometry,
) -> Result<(Word64, BlockCursor), AttachError> {
    let released = control.find64(RELEASED).ok_or(AttachError::ReadOnly)?;
    let blocks = payload.blocks(geometry.shape(), geometry.blocks());
    Ok((released, blocks.ok_or(AttachError::Geometry)?))
}

/// The released position read at attach.
pub(super) fn check_released(released: u64) -> Result<u64, Corruption> {
    let released = check_released_at_attach(released, 1)?;
    if released <= MESSAGES_MAX { Ok(released) } else { Err(Corruption::Released) }
}

//! Record rings: messages of any length, contiguous, back to back.
//!
//! A producer reserves, writes and commits; a consumer reads and releases. A
//! record may be filled from a file descriptor and emptied into one, so relays
//! and recorders copy nothing and need no `unsafe`. A record never wraps: what
//! does not fit before the ring's end starts anew at its beginning, behind a
//! padding record.
//!
//! # Protocol
//!
//! Positions count bytes; the header word of the record at position p lies at
//! offset p mod capacity. The committed end is stored nowhere: it is the first
//! header word that is zero.
//!
//! * P1 place: the record, its padding, and one header word behind it must fit
//!   below released + capacity; `released` is asked for only when the private
//!   copy says full, and checked against p
//! * P2 write user header and payload
//! * P3 in a batch, from the second header word on (padding included): store it;
//!   nobody looks behind the first, which is still zero
//! * P4 store 0 in the header word behind the last record (at offset 0 if the
//!   record ends the ring)
//! * P5 store the first header word: everything is visible
//! * P6 ring the consumer if it sleeps
//! * P7 outside of a stream: write a zero one line behind the committed end, if that
//!   is free by P1; it brings a line of the next record here before it is needed
//!
//! A padding record and the record behind it are a batch of two. An abort stores
//! nothing: what was written lies behind a zero.
//!
//! * C1 load the header word; 0 means nothing is there; anything else is checked
//!   against the ring's end and against what can have been written
//! * C2 copy from user header and payload
//! * C3 store `released` = the end of the record (or of several)
//! * C4 ring the producer if it sleeps
//!
//! A consumer attaches at `released`. A producer attaches by walk, A1, from
//! `released` over at most one capacity to the first zero, and clears nothing:
//! whatever lies behind that zero is unreachable until it is overwritten, since
//! P4 puts a new zero before P5 takes the old one away.
//!
//! # Memory ordering
//!
//! | edge | release store | acquire load | what becomes visible |
//! |---|---|---|---|
//! | `commit` | P5 | C1, A1 | payloads and header words of the whole batch, and the zero behind it |
//! | `release` | C3 | P1, A1 | that the bytes were read, so they may be overwritten |
//!
//! # Invariants
//!
//! * The header word at the committed end is zero.
//! * Producer: `position + 8 <= limit <= position + capacity`; `at.offset` is
//!   position mod capacity and a multiple of 8.
//! * Consumer: `released <= position`, and the reader never looks further than
//!   `released + capacity - 8`.
//!
//! # Failure
//!
//! * Producer killed before P5: the old zero stands, nothing was sent. After P5:
//!   the batch is there, whole; between P5 and P6 see `wait`.
//! * Consumer killed before C3: the successor reads the records again, with the
//!   same positions.
//! * A slow peer: full or empty, for as long as it takes.
//! * A lying peer: a header word that leads out of the ring or out of the
//!   window, undefined bits, or an impossible `released` is
//!   [`Corrupt`](super::error::RecvError::Corrupt), for good. Inside of that a
//!   lie changes which bytes are read, never where. A read looks at two header
//!   words at most; attach looks at one capacity of them.

mod consumer;
mod producer;
mod reservation;

pub use consumer::{Record, RecordConsumer};
pub use producer::RecordProducer;
pub(super) use producer::committed_end;
pub use reservation::{Batch, Reservation};

#[cfg(test)]
mod tests;

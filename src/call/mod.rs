//! Call cells: a request and its answer in one cache line.
//!
//! One caller, one server, one call at a time, up to 56 bytes each way. A line
//! that goes there and back costs one round trip of the memory system, and
//! nothing is faster than that; two rings cost two lines. Larger values and
//! several calls under way belong into a duplex channel, which has the same
//! calls. There is no queue of callers, no withdrawal of a request and no
//! background work here.
//!
//! | file | its job |
//! |---|---|
//! | `layout` | where the bytes lie, what a header word can say |
//! | `endpoint` | what an end is made from |
//! | `caller` | the calling end |
//! | `server` | the serving end |
//! | `open` | how a segment declares cells and gives out their ends |
//!
//! # Protocol
//!
//! The header word decides whose the 56 bytes beside it are. *Free* and *answer*:
//! the caller's. *Request* and *answering*: the server's. Who does not own the
//! line reads nothing of it but the header, and writes nothing at all. Each word
//! names its call by a sequence number s.
//!
//! The caller, when the line is its own:
//!
//! * K1 write the request into the line
//! * K2 store header (s + 1, request); from here on s + 1 is its call
//! * K3 ring the server if it sleeps
//! * K4 load the header: (s + 1, answer) go on, (s + 1, free) refused, (s + 1,
//!   request or answering) look again, anything else is corrupt
//! * K5 copy the answer out, check its bit pattern on the copy
//!
//! The server:
//!
//! * V1 load the header: (s + 1, request) go on, the word that it left itself
//!   look again, anything else is corrupt
//! * V2 copy the request out, and into its journal
//! * V3 the program works
//! * V4 store header (s + 1, answering)
//! * V5 write the answer into the line
//! * V6 store header (s + 1, answer)
//! * V7 ring the caller if it sleeps
//!
//! To refuse a call is V6 with (s + 1, free), without V4 and V5.
//!
//! A caller attaches by reading the header. If the line is the server's, its
//! predecessor's call is under way: it takes that number, counts on from there,
//! and has nothing to receive. A server attaches by reading the header; at
//! *answering* it copies the journal back into the line (W1) and stores (s,
//! request) (W2): then all is as if its predecessor had never begun to answer.
//!
//! A caller that gives up at a deadline leaves the line to the server. It
//! cannot take it back: the server may be writing. The next call waits until the
//! line is the caller's again, and only then is sent; the late answer is known by
//! its number and never given to another call. A server works on one call at
//! a time anyway, so nothing is lost by this but the right to change one's mind.
//!
//! # Why there is a journal
//!
//! The answer overwrites the request. A server killed in between would leave
//! its successor a line that is neither; seen as a request it would be executed
//! with bytes nobody sent. V4 says so before the first byte goes, and the journal
//! keeps the request that the successor is owed. It costs a few stores to a line
//! that only the server touches, while the other line travels.
//!
//! # Memory ordering
//!
//! | edge | release store | acquire load | what becomes visible |
//! |---|---|---|---|
//! | `request` | K2 | V1 | the request; and that K5 is over, so the line may be written |
//! | `answer` | V6 | K4 | the answer; and that V2 is over, so the line may be written |
//! | `journal` | V4 | W1 | the journal is whole wherever *answering* is seen |
//! | `torn` | V4, then a release fence | W1 | no byte of V5 is there without *answering* |
//! | `restored` | W2 | V1 of a later server | the request is back |
//!
//! # Invariants
//!
//! * Caller: `sequence` is the number of the last call in the line, whoever sent
//!   it. `phase` is `Free` only if the line was seen to be the caller's after that
//!   call.
//! * Server: `expected` is the only request that can come; `left` is the header
//!   word that stands there until it comes.
//! * Outside of V4 to V6 and W1 to W2, a *request* header means that the line
//!   holds the request as it was sent.
//!
//! # Failure
//!
//! * Caller killed before K2: the line is still the caller's; nobody reads it.
//!   After K2: the request is served; its successor takes no answer for its own
//!   that has another number, and waits until the line is free.
//! * Server killed before V4: the successor sees the request. From V4 to V6: it
//!   finds *answering* and restores it from the journal, and so does its own
//!   successor if it is killed meanwhile. After V6: answered, never seen again;
//!   the caller takes the answer even from a dead server. So a request is served
//!   at least once, and again only where no answer stands.
//! * The caller of a dead server is told `PeerDied` within a slice of its wait,
//!   if no successor came before. Then, too, the outcome is unknown.
//! * A slow or stopped peer: the wait lasts as long as its deadline allows.
//! * A lying peer: a header other than the ones above is `Corrupt`, for good.
//!   Inside of that a lie changes which bytes are read, never where; each call
//!   copies one line, and waits as any wait does.

mod caller;
mod endpoint;
pub(crate) mod layout;
mod open;
mod server;

#[cfg(all(test, hugeshm_loom))]
mod models;
#[cfg(test)]
mod tests;

pub use caller::Caller;
pub use open::CallCell;
pub use server::{Request, Server};

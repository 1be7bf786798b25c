//! Rings: messages in order, from one process to another or to many.
//!
//! Two kinds with one producer and one consumer, to which each message is delivered
//! once. A typed ring ([`Producer`], [`Consumer`]) carries messages of one
//! Rust type in slots; [`RawProducer`] and [`RawConsumer`] are its ends by bytes.
//! A record ring ([`RecordProducer`], [`RecordConsumer`]) carries messages of any
//! length. Either end may be held by any process, one at a time, and may die at
//! any instruction: its successor goes on where it stopped. A shared ring
//! ([`SharedProducer`], [`SharedConsumer`]) has many ends of both sides.
//!
//! | file | its job |
//! |---|---|
//! | `layout` | where the bytes lie |
//! | `position` | arithmetic of positions, slots and records; checks what peers wrote |
//! | `endpoint` | what an end is made from, the calls all ends have |
//! | `slots` | protocol of the typed ring, ends by bytes |
//! | `typed` | the same ends with a type |
//! | `open` | how a segment declares rings and gives out their ends |
//! | `awaited` | the ends as futures (feature `tokio`) |
//! | `record` | protocol and ends of the record ring |
//! | `space` | where a producer learns how far it may write |
//! | `broadcast` | rings of both kinds whose messages many receive, each of them all |
//! | `shared` | protocol and ends of the ring with many producers and many consumers |
//! | `duplex` | two typed rings as one channel of requests and answers |
//! | `lanes` | a typed ring for each of many producers, one consumer of all |
//! | `error` | what a call answers |
//!
//! Cores reach shared words only by offset through a window (`view`) and wait
//! through a port (`wait`); they do not know what carries the memory, nor how
//! a segment names a ring.
//!
//! # What an end promises
//!
//! * A message that was committed is delivered unchanged, in order. It is
//!   *delivered* when its release is stored; read and not released, it is seen
//!   again, at the same position.
//! * A batch is visible whole or not at all, but in a shared ring, where others send
//!   in between; what was not committed never is.
//! * Whatever a peer writes anywhere, a call answers with a value or an error,
//!   in bounded time, and touches nothing outside the ring.
//! * A call that need not wait makes no system call and allocates nothing, except
//!   to wake a sleeping peer, and about every 50 ms of finding nothing to ask for it.

#[cfg(feature = "tokio")]
mod awaited;
mod broadcast;
mod duplex;
mod endpoint;
pub(crate) mod error;
mod lanes;
pub(crate) mod layout;
mod open;
pub(crate) mod position;
mod record;
mod shared;
mod slots;
mod space;
mod typed;

#[cfg(test)]
mod bell_tests;
#[cfg(all(test, hugeshm_loom))]
mod models;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod typed_tests;

#[cfg(feature = "tokio")]
pub use awaited::{
    AsyncBroadcastConsumer, AsyncBroadcastRecordConsumer, AsyncConsumer, AsyncLaneProducer,
    AsyncLanesConsumer, AsyncProducer, AsyncRawConsumer, AsyncRawProducer, AsyncRecordConsumer,
    AsyncRecordProducer, AsyncSharedConsumer, AsyncSharedProducer,
};
pub use broadcast::{
    BroadcastConsumer, BroadcastObserver, BroadcastReceiver, BroadcastRecord,
    BroadcastRecordConsumer, BroadcastRecordObserver, BroadcastRecordReceiver, BroadcastRecords,
    BroadcastRing, Join, RawBroadcastConsumer, RawBroadcastObserver, RawBroadcastReceiver,
};
pub use duplex::{Duplex, DuplexCaller, DuplexCanceller, DuplexRequest, DuplexServer};
pub use error::{Corruption, Laggard, RecvError, SendError};
pub use lanes::{FromLane, LaneProducer, Lanes, LanesConsumer};
pub use open::{RecordRing, TypedRing};
pub use record::{Batch, Record, RecordConsumer, RecordProducer, Reservation};
pub use shared::{SharedConsumer, SharedMessage, SharedProducer, SharedRing};
pub use slots::{RawConsumer, RawProducer};
pub use typed::{Consumer, Producer};

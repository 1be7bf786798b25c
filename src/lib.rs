#![doc = include_str!("../README.md")]
#![cfg(target_os = "linux")]

mod error;
mod size;
mod sync;

mod call;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod hostile;
mod ladder;
mod latest;
mod numa;
mod outcome;
pub mod pages;
mod peer;
mod region;
mod ring;
mod segment;
mod stats;
mod sys;
mod view;
mod wait;

pub use call::{CallCell, Caller, Request, Server};
pub use error::{BackingKind, Error, ErrorKind, Refusal, RefusalCode, Result, Rung};
pub use ladder::{Lifetime, PagePolicy};
#[cfg(feature = "tokio")]
pub use latest::AsyncLatestWatcher;
pub use latest::{
    LatestError, LatestReader, LatestValue, LatestWatcher, LatestWriter, RawLatestReader,
    RawLatestWatcher, Versioned,
};
pub use numa::{NodeSet, Placement};
pub use outcome::{CallError, ServeError};
pub use peer::PeerState;
pub use region::{Backing, How, NodeShare, Populate, Region, RegionBuilder};
#[cfg(feature = "tokio")]
pub use ring::{
    AsyncBroadcastConsumer, AsyncBroadcastRecordConsumer, AsyncConsumer, AsyncLaneProducer,
    AsyncLanesConsumer, AsyncProducer, AsyncRawConsumer, AsyncRawProducer, AsyncRecordConsumer,
    AsyncRecordProducer, AsyncSharedConsumer, AsyncSharedProducer,
};
pub use ring::{
    Batch, BroadcastConsumer, BroadcastObserver, BroadcastReceiver, BroadcastRecord,
    BroadcastRecordConsumer, BroadcastRecordObserver, BroadcastRecordReceiver, BroadcastRecords,
    BroadcastRing, Consumer, Corruption, Duplex, DuplexCaller, DuplexCanceller, DuplexRequest,
    DuplexServer, FromLane, Join, Laggard, LaneProducer, Lanes, LanesConsumer, Producer,
    RawBroadcastConsumer, RawBroadcastObserver, RawBroadcastReceiver, RawConsumer, RawProducer,
    Record, RecordConsumer, RecordProducer, RecordRing, RecvError, Reservation, SendError,
    SharedConsumer, SharedMessage, SharedProducer, SharedRing, TypedRing,
};
pub use segment::Segment;
pub use segment::builder::SegmentBuilder;
pub use segment::directory::{Schema, TypeIdentity};
pub use segment::domain::Domain;
pub use segment::endpoint::{EndpointInfo, Role};
pub use segment::layout::ObjectKind;
pub use segment::life::{CollectReport, Collected};
pub use segment::names::Identity;
pub use segment::report::{AttachmentInfo, ObjectInfo, SegmentEntry, SegmentInfo, Usage};
pub use size::{PageSize, format_bytes, parse_bytes};
pub use stats::Stats;
#[cfg(feature = "tokio")]
pub use wait::Async;
pub use wait::{
    AnyCanceller, Armed, Canceller, Doorbell, PeerChange, WaitAny, WaitError, WaitMode, Waitable,
    wait_any,
};

//! Who plays: the objects of the segment, and the parts at each of them.

use super::child::NAME;
use hugeshm::{BroadcastRecords, BroadcastRing, Domain, SegmentBuilder, SharedRing};
use std::fmt;

/// An object of the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, clap::ValueEnum)]
pub enum Object {
    /// A ring of values of one line.
    Ring,
    /// A ring of values of several lines.
    Large,
    /// A ring of records.
    Records,
    /// An overwriting broadcast ring.
    News,
    /// A lossless broadcast ring.
    Orders,
    /// An overwriting broadcast ring of records.
    Log,
    /// A lossless broadcast ring of records.
    Ledger,
    /// A ring for each of many producers.
    Lanes,
    /// A shared ring.
    Jobs,
    /// A latest value of one line.
    Pose,
    /// A latest value of many lines.
    Picture,
    /// A call cell.
    Cell,
    /// A duplex channel.
    Duplex,
}

/// A part at an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, clap::ValueEnum)]
pub enum Role {
    /// Sends, writes or calls.
    Producer,
    /// Receives, reads or serves.
    Consumer,
    /// Merely looks.
    Bystander,
}

macro_rules! display {
    ($($name:ident)+) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&format!("{self:?}").to_lowercase())
            }
        }
    )+};
}
display!(Object Role);

/// All objects, with how many producers and consumers there are at each.
pub const ALL: [(Object, u32, u32); 13] = [
    (Object::Ring, 1, 1),
    (Object::Large, 1, 1),
    (Object::Records, 1, 1),
    (Object::News, 1, 2),
    (Object::Orders, 1, 2),
    (Object::Log, 1, 1),
    (Object::Ledger, 1, 1),
    (Object::Lanes, LANES, 1),
    (Object::Jobs, 2, 3),
    (Object::Pose, 1, 1),
    (Object::Picture, 1, 1),
    (Object::Cell, 1, 1),
    (Object::Duplex, 1, 1),
];

/// How many lanes there are.
pub const LANES: u32 = 3;

/// A message of one line, with its neighbours' header word.
pub type Small = [u64; 7];
/// One of several lines.
pub type Long = [u64; 65];
/// A value that is a copy of many lines.
pub type Wide = [u64; 512];

impl Object {
    /// Its name in the segment.
    pub fn name(self) -> &'static str {
        let names: [&str; ALL.len()] = [
            "ring", "large", "records", "news", "orders", "log", "ledger", "lanes", "jobs", "pose",
            "picture", "cell", "duplex",
        ];
        names[self as usize]
    }

    /// Whether messages are overwritten that were not received.
    pub fn overwrites(self) -> bool {
        matches!(self, Self::News | Self::Log)
    }

    /// Whether each consumer has a position of its own.
    pub fn broadcasts(self) -> bool {
        self.overwrites() || matches!(self, Self::Orders | Self::Ledger)
    }
}

/// The segment with all of them.
pub fn declare(domain: &Domain) -> SegmentBuilder {
    let lossless = BroadcastRing::<Small>::new(100).lossless(true);
    domain
        .create(NAME)
        .ring::<Small>(Object::Ring.name(), 200)
        .ring::<Long>(Object::Large.name(), 30)
        .records(Object::Records.name(), 64 << 10)
        .broadcast::<Small>(Object::News.name(), 500)
        .broadcast_of(Object::Orders.name(), lossless.consumers(4))
        .broadcast_records(Object::Log.name(), 128 << 10)
        .broadcast_records_of(Object::Ledger.name(), BroadcastRecords::new(64 << 10).lossless(true))
        .lanes::<Small>(Object::Lanes.name(), LANES, 60)
        .shared_ring_of(Object::Jobs.name(), SharedRing::<Small>::new(64).producers(4).consumers(4))
        .latest::<Small>(Object::Pose.name())
        .latest::<Wide>(Object::Picture.name())
        .call::<Small, Small>(Object::Cell.name())
        .duplex::<Long, Long>(Object::Duplex.name(), 4)
}

//! Where a producer learns how far it may write.
//!
//! In a ring with one consumer that is what the consumer has released. In a
//! broadcast ring it is what the producer itself has given up, and whom it asks
//! before it gives up more is told in `broadcast`. Producers ask here only when
//! the private copy of the answer says that there is no room, and now and then
//! to see whether somebody takes each message at once.

use super::broadcast::Sweep;
use super::error::Corruption;
use super::position::limit_from;
use crate::view::Word64;
use crate::wait::{Link, PeerAt};
use core::sync::atomic::Ordering::{Acquire, Relaxed};

/// Where a producer learns how far it may write.
pub(super) enum Space {
    /// From the released position of its only consumer.
    Released(Released),
    /// From what it has swept itself.
    Swept(Box<Sweep>),
}

/// The consumer's released position, and what follows from it.
pub(super) struct Released {
    pub(super) word: Word64,
    /// How far ahead of it may be written.
    pub(super) capacity: u64,
    /// It is always a multiple of this.
    pub(super) granule: u64,
    /// So much of the capacity is never committed.
    pub(super) spare: u64,
}

/// What one look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// The position up to which may be written.
    pub(super) limit: u64,
    /// How much was sent and waits for whoever is looked at.
    pub(super) waiting: u64,
}

/// What a producer wants to write.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    /// The committed position.
    pub(super) position: u64,
    /// How much more is to be written from there on, as positions count.
    pub(super) need: u64,
    /// How many messages are committed.
    pub(super) number: u64,
}

impl Space {
    /// Looks for room; `link` is asked about those in the way.
    pub(super) fn look(&mut self, wish: Wish, link: &dyn Link) -> Result<Room, Corruption> {
        match self {
            Self::Released(released) => released.look(wish.position),
            Self::Swept(sweep) => Ok(sweep.look(wish, link)),
        }
    }

    /// Looks how far a consumer is, now and then; none if it lies.
    pub(super) fn glance(&mut self, position: u64) -> Option<Room> {
        match self {
            Self::Released(released) => released.look(position).ok(),
            Self::Swept(sweep) => Some(sweep.glance(position)),
        }
    }

    /// How much waits behind `position` for those who must receive it.
    pub(super) fn waiting(&self, position: u64) -> u64 {
        match self {
            Self::Released(Released { word, capacity, .. }) => {
                position.saturating_sub(word.load(Relaxed)).min(*capacity)
            }
            Self::Swept(sweep) => sweep.waiting(position),
        }
    }

    /// The end that is furthest behind of those who must receive everything, and how many
    /// messages it is behind; `number` of them are committed, up to `position`.
    pub(super) fn slowest(
        &self,
        position: u64,
        number: u64,
        link: &dyn Link,
    ) -> Option<(u32, PeerAt, u64)> {
        match self {
            Self::Released(_) => None,
            Self::Swept(sweep) => sweep.slowest(position, number, link),
        }
    }
}

impl Released {
    fn look(&self, position: u64) -> Result<Room, Corruption> {
        let released = self.word.load(Acquire); // edge `release`
        let limit = limit_from(released, position, self.capacity - self.spare, self.granule)?;
        let limit = limit + self.spare;
        Ok(Room { limit, waiting: position - released })
    }
}

//! Duplex channels: two typed rings as one channel of requests and answers.
//!
//! For requests and answers of any size, and for several calls under way at
//! once; the calls are those of a call cell, which is faster where 56 bytes are
//! enough. There is one caller and one server, and answers come in the order of
//! the requests. What a ring promises (order, whole messages, death, lies) is the
//! rings' own business; this file only says which answer belongs to which call.
//!
//! | file | its job |
//! |---|---|
//! | `caller` | the calling end |
//! | `server` | the serving end |
//! | `open` | how a segment declares channels and gives out their ends |
//!
//! # Protocol
//!
//! Every request gets exactly one response, so the response to the request at
//! position p of the request ring stands at position p of the response ring. A
//! slot carries that number beside its value: one that is elsewhere is corrupt.
//!
//! The caller:
//!
//! * K1 take and drop responses to calls that nobody waits for any more
//! * K2 push the request; its position is the call's number
//! * K3 take the response of that number
//!
//! The server:
//!
//! * V1 wait until the response ring has room, so that an answer never waits
//! * V2 look at the next request, without releasing it
//! * V3 the program works
//! * V4 push the response
//! * V5 release the request
//!
//! A caller attaches by its rings' positions: all calls before the next request
//! are its predecessor's, their responses are dropped in K1. A server attaches at
//! the first request that was not released, p; if the response ring holds a
//! response p already, its predecessor died between V4 and V5, and request p is
//! released unseen.
//!
//! # Invariants
//!
//! * `responses <= wanted <= requests`: the position of the next response, the
//!   first call whose answer is wanted, the position of the next request.
//! * The next response has the number of the next request to release, except
//!   from V4 to V5, when it is one more.
//!
//! # Failure
//!
//! * Caller killed: before K2 nothing was asked; after it the request is served,
//!   and its response dropped by the successor.
//! * Server killed before V4: the successor sees the request again, with its
//!   number. After V4: it is answered, and not seen again.
//! * A caller that drops no responses: the server waits at V1.
//! * A lying peer: as for the rings, and a number that is not the position is
//!   `Corrupt`, for good.
#![expect(unsafe_code, reason = "a slot of number and value is plain bytes")]

mod caller;
mod open;
mod server;

#[cfg(test)]
mod tests;

use super::error::AttachError;
use super::position::SlotGeometry;
use crate::view::Message;
use crate::wait::Canceller;
use bytemuck::{AnyBitPattern, CheckedBitPattern, NoUninit, Zeroable};

pub use caller::DuplexCaller;
pub use open::Duplex;
pub use server::{DuplexRequest, DuplexServer};

/// In a response's number: the call was refused, the value means nothing.
const REFUSED: u64 = 1 << 63;
/// What is wrong with a slot whose number is not its position.
const BAD_NUMBER: &str = "a slot's call number is not its position";
/// What is wrong with a response ring that has no room where it had some.
const BAD_ROOM: &str = "the response ring lost its room";

/// A value as it lies in a slot: its call's number, then the value, no gap.
#[repr(C, packed)]
#[derive(Clone, Copy)]
pub(super) struct Numbered<T> {
    pub(super) number: u64,
    pub(super) value: T,
}

// SAFETY: `repr(packed)` leaves no padding between or behind the fields; both are NoUninit (u64
// and, by the bound, T), so they have none inside, no uninitialised bytes and no interior
// mutability; Copy by the derive, 'static by T's own bound.
unsafe impl<T: NoUninit> NoUninit for Numbered<T> {}

/// The bytes of a [`Numbered`] that was not checked yet.
#[repr(C, packed)]
#[derive(Clone, Copy)]
pub(super) struct NumberedBits<B> {
    number: u64,
    value: B,
}

// SAFETY: zero bytes are a u64 and, by the bound, a B; there is nothing else in it.
unsafe impl<B: Zeroable> Zeroable for NumberedBits<B> {}

// SAFETY: any bytes are a u64 and, by the bound, a B; `repr(packed)` leaves no padding; Copy by
// the derive, 'static by B's own bound.
unsafe impl<B: AnyBitPattern> AnyBitPattern for NumberedBits<B> {}

// SAFETY: `Bits` has the same representation, with `T::Bits` in the place of T, which has T's layout
// by T's own promise; a number is valid whatever its bits, and T is asked about the value.
unsafe impl<T: CheckedBitPattern> CheckedBitPattern for Numbered<T> {
    type Bits = NumberedBits<T::Bits>;

    #[inline]
    fn is_valid_bit_pattern(bits: &Self::Bits) -> bool {
        // A copy, as packed fields lend no reference; it goes where the check looks at nothing.
        let value = bits.value;
        T::is_valid_bit_pattern(&value)
    }
}

/// Reads a slot: its number, and its value if the bytes are one.
#[inline(always)]
fn read_slot<T: CheckedBitPattern>(slot: &Message<'_>) -> Option<(u64, Option<T>)> {
    let mut number = [0; 8];
    slot.read(&mut number);
    let value = slot.read_checked::<Numbered<T>>().map(|slot| slot.value);
    Some((u64::from_ne_bytes(number), value))
}

fn pass(_: &Message<'_>) -> Option<()> {
    Some(())
}

/// Ends the waits of one end of a duplex channel from another thread of the same process.
///
/// As [`Canceller`], over both rings.
#[derive(Clone, Debug)]
pub struct DuplexCanceller([Canceller; 2]);

impl DuplexCanceller {
    /// Ends the present wait and all later ones.
    pub fn cancel(&self) {
        self.0.iter().for_each(Canceller::cancel);
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.iter().any(Canceller::is_cancelled)
    }

    /// Lets the endpoint wait again.
    pub fn reset(&self) {
        self.0.iter().for_each(Canceller::reset);
    }
}

/// The calls that both ends have; `$peer` is the ring whose other end tells of the peer, `$own`
/// the one that this end writes.
macro_rules! duplex_calls {
    ($peer:ident $own:ident) => {
        /// How blocking calls pass the time; [`WaitMode::Adaptive`](crate::WaitMode) at first.
        pub fn wait_mode(&mut self, mode: crate::wait::WaitMode) -> &mut Self {
            self.requests.wait_mode(mode);
            self.responses.wait_mode(mode);
            self
        }

        /// Whether blocking calls go on waiting for a successor when the peer has left or died,
        /// instead of ending with `Closed` or `PeerDied`. False at first.
        pub fn outlive_peer(&mut self, outlive: bool) -> &mut Self {
            self.requests.outlive_peer(outlive);
            self.responses.outlive_peer(outlive);
            self
        }

        /// A handle that ends the waits of this endpoint from another thread.
        pub fn canceller(&self) -> crate::ring::duplex::DuplexCanceller {
            crate::ring::duplex::DuplexCanceller([
                self.requests.canceller(),
                self.responses.canceller(),
            ])
        }

        /// Asks the kernel about the process at the other end: a system call.
        pub fn peer(&self) -> crate::peer::PeerState {
            self.$peer.peer()
        }

        /// Whether the other end was taken anew since the last call (or since this endpoint was
        /// made). Of several changes the last is told.
        pub fn peer_changed(&mut self) -> Option<crate::wait::PeerChange> {
            self.$peer.peer_changed()
        }

        /// What this endpoint counted in the ring that it writes.
        pub fn stats(&self) -> crate::stats::Stats {
            self.$own.stats()
        }

        /// How many requests, and how many answers, the channel can hold.
        pub fn capacity(&self) -> u64 {
            self.requests.capacity()
        }
    };
}
use duplex_calls;

fn check_sizes<Req, Resp>(
    requests: SlotGeometry,
    responses: SlotGeometry,
) -> Result<(), AttachError> {
    let sound = requests.size() == size_of::<Numbered<Req>>()
        && responses.size() == size_of::<Numbered<Resp>>();
    if sound { Ok(()) } else { Err(AttachError::Geometry) }
}

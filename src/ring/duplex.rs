//! Duplex channels: two typed rings as one channel of requests and answers.
//!
//! For requests and answers of any size, and for several calls under way at
//! once; the calls are those of a call cell, which is faster where 56 bytes are
//! enough. There is one caller and one server, and answers come in the order of
//! the requests. What a ring promises (order, whole messages, death, lies) is the
//! rings' own business; this file only says which answer belongs to which call.
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

use super::endpoint::Parts;
use super::error::{AttachError, Corruption, RecvError, SendError};
use super::open::{TypedRing, parts, slot_geometry};
use super::position::SlotGeometry;
use super::slots::{RawConsumer, RawProducer};
use crate::error::{Error, ErrorKind, Result as ControlResult};
use crate::outcome::{CallError, ServeError};
use crate::peer::PeerState;
use crate::segment::Segment;
use crate::segment::builder::SegmentBuilder;
use crate::segment::directory::{ObjectSpec, TypeIdentity};
use crate::segment::endpoint::Role;
use crate::stats::Stats;
use crate::view::Slot;
use crate::wait::{Canceller, PeerChange, Wait, WaitMode, deadline_after};
use bytemuck::{AnyBitPattern, CheckedBitPattern, NoUninit, Zeroable, bytes_of};
use core::fmt;
use core::marker::PhantomData;
use core::time::Duration;
use std::time::Instant;

/// The bytes of a cache line.
const LINE: u64 = 64;
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
fn read_slot<T: CheckedBitPattern>(slot: &Slot<'_>) -> Option<(u64, Option<T>)> {
    let mut number = [0; 8];
    slot.read(&mut number);
    let value = slot.read_checked::<Numbered<T>>().map(|slot| slot.value);
    Some((u64::from_ne_bytes(number), value))
}

fn pass(_: &Slot<'_>) -> Option<()> {
    Some(())
}

/// Describes a duplex channel: one caller, one server, requests and answers of any size.
///
/// It is two rings, named `NAME.request` and `NAME.response`.
pub struct Duplex<Req, Resp> {
    capacity: u64,
    identity: TypeIdentity,
    types: PhantomData<fn(Req) -> Resp>,
}

impl<Req, Resp> Duplex<Req, Resp> {
    /// A channel that holds up to `capacity` requests, and as many answers.
    pub fn new(capacity: u64) -> Self {
        Self { capacity, identity: TypeIdentity::default(), types: PhantomData }
    }

    /// The name and version under which programs agree on the pair of types; unnamed by default.
    #[must_use]
    pub fn identity(mut self, identity: TypeIdentity) -> Self {
        self.identity = identity;
        self
    }

    /// The rings of requests and of responses, with the name of each.
    fn specs(self, name: &str) -> [(String, ControlResult<ObjectSpec>); 2] {
        let (request, response) = names(name);
        let requests = TypedRing::<Numbered<Req>>::new(self.capacity);
        let responses = TypedRing::<Numbered<Resp>>::new(self.capacity);
        let requests = requests.identity(self.identity.clone()).spec(&request).and_then(in_lines);
        let responses = responses.identity(self.identity).spec(&response).and_then(in_lines);
        [(request, requests), (response, responses)]
    }
}

/// The same ring with slots that begin where cache lines do, or share one with whole slots: a call
/// waits for each line that its slot touches.
fn in_lines(mut spec: ObjectSpec) -> ControlResult<ObjectSpec> {
    let stride = if spec.stride <= LINE {
        spec.stride.next_power_of_two()
    } else {
        spec.stride.next_multiple_of(LINE)
    };
    let bytes = spec.capacity.checked_mul(stride).filter(|bytes| *bytes <= isize::MAX as u64);
    spec.payload_bytes = bytes.ok_or_else(|| {
        Error::new(ErrorKind::InvalidCapacity, "declare duplex channel", spec.capacity.to_string())
            .detail("so many slots are larger than memory")
    })?;
    spec.stride = stride;
    Ok(spec)
}

impl<Req, Resp> fmt::Debug for Duplex<Req, Resp> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (capacity, identity) = (self.capacity, &self.identity);
        f.debug_struct("Duplex").field("capacity", &capacity).field("identity", identity).finish()
    }
}

fn names(name: &str) -> (String, String) {
    (format!("{name}.request"), format!("{name}.response"))
}

impl SegmentBuilder {
    /// Declares a duplex channel for `capacity` requests of type `Req` and as many answers of
    /// type `Resp`.
    pub fn duplex<Req: NoUninit, Resp: NoUninit>(self, name: &str, capacity: u64) -> Self {
        self.duplex_of(name, Duplex::<Req, Resp>::new(capacity))
    }

    /// Declares a duplex channel with all its options.
    pub fn duplex_of<Req: NoUninit, Resp: NoUninit>(
        self,
        name: &str,
        duplex: Duplex<Req, Resp>,
    ) -> Self {
        let [(request, requests), (response, responses)] = duplex.specs(name);
        self.declare(&response, responses).declare(&request, requests)
    }
}

impl Segment {
    /// Adds a duplex channel to the live segment.
    ///
    /// # Errors
    ///
    /// As [`add_ring`](Self::add_ring).
    pub fn add_duplex<Req: NoUninit, Resp: NoUninit>(
        &self,
        name: &str,
        duplex: Duplex<Req, Resp>,
    ) -> ControlResult<()> {
        let [(request, requests), (response, responses)] = duplex.specs(name);
        // The request ring comes last, and with it the channel; what an adder killed in between
        // leaves is used by the next.
        let requests = requests?;
        self.ensure(&response, &responses?)?;
        self.add(&request, &requests)
    }

    /// The calling end of a duplex channel, going on behind the last call.
    ///
    /// # Errors
    ///
    /// As [`producer`](Self::producer), for either ring.
    pub fn duplex_caller<Req: NoUninit, Resp: CheckedBitPattern>(
        &self,
        name: &str,
    ) -> ControlResult<DuplexCaller<Req, Resp>> {
        self.duplex_caller_as(name, &TypeIdentity::default())
    }

    /// The calling end of a duplex channel whose types have a name and version.
    ///
    /// # Errors
    ///
    /// As [`duplex_caller`](Self::duplex_caller).
    pub fn duplex_caller_as<Req: NoUninit, Resp: CheckedBitPattern>(
        &self,
        name: &str,
        identity: &TypeIdentity,
    ) -> ControlResult<DuplexCaller<Req, Resp>> {
        let (request, response) = names(name);
        let requests = self.typed::<Numbered<Req>>(&request, identity, Role::Producer)?;
        let responses = self.typed::<Numbered<Resp>>(&response, identity, Role::Consumer)?;
        let to = slot_geometry(&requests, size_of::<Numbered<Req>>())?;
        let from = slot_geometry(&responses, size_of::<Numbered<Resp>>())?;
        let requests = parts(&requests, Role::Producer)?;
        let responses = parts(&responses, Role::Consumer)?;
        DuplexCaller::attach((requests, to), (responses, from)).map_err(|e| e.of(name))
    }

    /// The serving end of a duplex channel, going on at the first call without an answer.
    ///
    /// # Errors
    ///
    /// As [`duplex_caller`](Self::duplex_caller).
    pub fn duplex_server<Req: CheckedBitPattern, Resp: NoUninit>(
        &self,
        name: &str,
    ) -> ControlResult<DuplexServer<Req, Resp>> {
        self.duplex_server_as(name, &TypeIdentity::default())
    }

    /// The serving end of a duplex channel whose types have a name and version.
    ///
    /// # Errors
    ///
    /// As [`duplex_caller`](Self::duplex_caller).
    pub fn duplex_server_as<Req: CheckedBitPattern, Resp: NoUninit>(
        &self,
        name: &str,
        identity: &TypeIdentity,
    ) -> ControlResult<DuplexServer<Req, Resp>> {
        let (request, response) = names(name);
        let requests = self.typed::<Numbered<Req>>(&request, identity, Role::Consumer)?;
        let responses = self.typed::<Numbered<Resp>>(&response, identity, Role::Producer)?;
        let from = slot_geometry(&requests, size_of::<Numbered<Req>>())?;
        let to = slot_geometry(&responses, size_of::<Numbered<Resp>>())?;
        let requests = parts(&requests, Role::Consumer)?;
        let responses = parts(&responses, Role::Producer)?;
        DuplexServer::attach((requests, from), (responses, to)).map_err(|e| e.of(name))
    }
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
        /// How blocking calls pass the time; [`WaitMode::Adaptive`] at first.
        pub fn wait_mode(&mut self, mode: WaitMode) -> &mut Self {
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
        pub fn canceller(&self) -> DuplexCanceller {
            DuplexCanceller([self.requests.canceller(), self.responses.canceller()])
        }

        /// Asks the kernel about the process at the other end: a system call.
        pub fn peer(&self) -> PeerState {
            self.$peer.peer()
        }

        /// Whether the other end was taken anew since the last call (or since this endpoint was
        /// made). Of several changes the last is told.
        pub fn peer_changed(&mut self) -> Option<PeerChange> {
            self.$peer.peer_changed()
        }

        /// What this endpoint counted in the ring that it writes.
        pub fn stats(&self) -> Stats {
            self.$own.stats()
        }

        /// How many requests, and how many answers, the channel can hold.
        pub fn capacity(&self) -> u64 {
            self.requests.capacity()
        }
    };
}

/// The calling end of a duplex channel.
///
/// There is one at a time. Up to [`capacity`](Self::capacity) calls can be under way: each
/// [`start`](Self::start) sends one, each [`finish`](Self::finish) takes the oldest answer. A
/// [`call`](Self::call) gives up the answers of the calls started before it.
pub struct DuplexCaller<Req, Resp> {
    requests: RawProducer,
    responses: RawConsumer,
    /// The first call whose answer is wanted.
    wanted: u64,
    corruption: Option<&'static str>,
    types: PhantomData<fn(Req) -> Resp>,
}

impl<Req: NoUninit, Resp: CheckedBitPattern> DuplexCaller<Req, Resp> {
    pub(super) fn attach(
        requests: (Parts, SlotGeometry),
        responses: (Parts, SlotGeometry),
    ) -> Result<Self, AttachError> {
        check_sizes::<Req, Resp>(requests.1, responses.1)?;
        let requests = RawProducer::attach(requests.0, requests.1)?;
        let responses = RawConsumer::attach(responses.0, responses.1)?;
        let wanted = requests.position();
        let under_way = wanted.checked_sub(responses.position());
        // One ring of requests that were not released, one of responses that were not taken.
        if under_way.is_none_or(|count| count / 2 > requests.capacity()) {
            return Err(AttachError::Corrupt(Corruption::Released));
        }
        Ok(Self { requests, responses, wanted, corruption: None, types: PhantomData })
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    ///
    /// `Closed` and `PeerDied` when the server has left or died, see
    /// [`outlive_peer`](Self::outlive_peer); a server that never was is waited for.
    /// [`CallError`] says what each means for the request.
    #[inline]
    pub fn call(&mut self, request: Req) -> Result<Resp, CallError> {
        self.call_until(request, || None)
    }

    /// Sends a request and waits for its answer until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call); `Busy` if there was no room before the deadline, so that nothing
    /// was sent, and `TimedOut` if the answer did not come before it.
    #[inline]
    pub fn call_deadline(&mut self, request: Req, deadline: Instant) -> Result<Resp, CallError> {
        self.call_until(request, || Some(deadline))
    }

    /// Sends a request and waits for its answer for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`call_deadline`](Self::call_deadline).
    #[inline]
    pub fn call_timeout(&mut self, request: Req, timeout: Duration) -> Result<Resp, CallError> {
        self.call_until(request, || deadline_after(timeout))
    }

    /// Sends a request if there is room now, and returns the call's number.
    ///
    /// # Errors
    ///
    /// [`CallError::Busy`] when there is none. After many of these, at least 50 ms apart, the
    /// kernel is asked about the server; `Closed` or `PeerDied` then say that it has left or died.
    /// Nothing was sent in any case.
    #[inline]
    pub fn start(&mut self, request: Req) -> Result<u64, CallError> {
        self.check()?;
        self.drop_unwanted()?;
        let number = self.requests.position();
        match self.requests.try_put(bytes_of(&Numbered { number, value: request })) {
            Ok(()) => Ok(number),
            Err(error) => Err(not_sent(error)),
        }
    }

    /// Takes the answer to the oldest call under way if there is one.
    ///
    /// # Errors
    ///
    /// [`CallError::Pending`] when there is none yet. After many of these, at least 50 ms apart,
    /// the kernel is asked about the server. [`CallError::Idle`] if no call of this caller is
    /// under way.
    #[inline]
    pub fn try_finish(&mut self) -> Result<Resp, CallError> {
        self.check_started()?;
        while self.responses.position() < self.wanted {
            self.responses.try_take(pass).map_err(not_answered)?;
        }
        let taken = self.responses.try_take(read_slot);
        self.answer(taken)
    }

    /// Waits for the answer to the oldest call under way.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call), and [`CallError::Idle`] if no call of this caller is under way.
    #[inline]
    pub fn finish(&mut self) -> Result<Resp, CallError> {
        self.check_started()?;
        self.finish_until(|| None)
    }

    /// Waits for the answer to the oldest call under way until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`finish`](Self::finish), and `TimedOut`.
    #[inline]
    pub fn finish_deadline(&mut self, deadline: Instant) -> Result<Resp, CallError> {
        self.check_started()?;
        self.finish_until(|| Some(deadline))
    }

    /// Waits for the answer to the oldest call under way for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`finish`](Self::finish), and `TimedOut`.
    #[inline]
    pub fn finish_timeout(&mut self, timeout: Duration) -> Result<Resp, CallError> {
        self.check_started()?;
        self.finish_until(|| deadline_after(timeout))
    }

    /// How many calls were sent through this channel, by whomever: the number of the next one.
    /// It is the same before and after a call that was not sent.
    pub fn sequence(&self) -> u64 {
        self.requests.position()
    }

    #[inline]
    fn call_until(
        &mut self,
        request: Req,
        deadline: impl FnOnce() -> Option<Instant>,
    ) -> Result<Resp, CallError> {
        self.check()?;
        let number = self.requests.position();
        self.wanted = number;
        let slot = Numbered { number, value: request };
        if self.responses.position() == number && self.requests.room_for(1).is_ok() {
            self.requests.try_put(bytes_of(&slot)).map_err(not_sent)?;
            return self.finish_until(deadline);
        }
        let deadline = deadline();
        self.wait_for_room(deadline)?;
        self.requests.try_put(bytes_of(&slot)).map_err(not_sent)?;
        self.finish_until(|| deadline)
    }

    /// K1 until there is room for a request. The server may wait for room itself, so responses
    /// are dropped all the time.
    #[cold]
    fn wait_for_room(&mut self, deadline: Option<Instant>) -> Result<(), CallError> {
        let mut wait = Wait::until(deadline);
        let result = loop {
            if let Err(error) = self.drop_unwanted() {
                break Err(error);
            }
            match self.requests.room_for(1) {
                Err(SendError::Full) => {}
                room => break room.map_err(not_sent),
            }
            if let Err(end) = self.requests.port.wait(&mut wait) {
                break Err(not_sent(end.into()));
            }
        };
        self.requests.port.settle(&wait);
        result
    }

    /// K1, as far as responses are there.
    #[inline]
    fn drop_unwanted(&mut self) -> Result<(), CallError> {
        while self.responses.position() < self.wanted {
            match self.responses.look(pass) {
                Ok(()) => self.responses.skip().map_err(not_answered)?,
                Err(RecvError::Empty) => break,
                Err(error) => return Err(not_answered(error)),
            }
        }
        Ok(())
    }

    /// K3.
    #[inline]
    fn finish_until(
        &mut self,
        deadline: impl FnOnce() -> Option<Instant>,
    ) -> Result<Resp, CallError> {
        if self.responses.position() == self.wanted {
            let taken = self.responses.take_until(read_slot, deadline);
            return self.answer(taken);
        }
        let deadline = deadline();
        while self.responses.position() < self.wanted {
            self.responses.take_until(pass, || deadline).map_err(not_answered)?;
        }
        let taken = self.responses.take_until(read_slot, || deadline);
        self.answer(taken)
    }

    #[inline]
    fn answer(&mut self, taken: Result<(u64, Option<Resp>), RecvError>) -> Result<Resp, CallError> {
        let (number, value) = taken.map_err(not_answered)?;
        let sequence = self.wanted;
        if number & !REFUSED != sequence {
            self.corruption = Some(BAD_NUMBER);
            return Err(CallError::Corrupt(BAD_NUMBER));
        }
        self.wanted += 1;
        if number & REFUSED != 0 {
            return Err(CallError::Refused);
        }
        value.ok_or(CallError::InvalidValue { sequence })
    }

    #[inline]
    fn check_started(&self) -> Result<(), CallError> {
        self.check()?;
        if self.wanted < self.requests.position() { Ok(()) } else { Err(CallError::Idle) }
    }

    #[inline]
    fn check(&self) -> Result<(), CallError> {
        match self.corruption {
            None => Ok(()),
            Some(what) => Err(CallError::Corrupt(what)),
        }
    }
}

impl<Req, Resp> DuplexCaller<Req, Resp> {
    duplex_calls!(responses requests);
}

/// The serving end of a duplex channel.
///
/// There is one at a time. Dropping it leaves the channel to a successor, who sees the requests
/// that were not answered. A server that is to outlast its callers says so by
/// [`outlive_peer`](Self::outlive_peer).
pub struct DuplexServer<Req, Resp> {
    requests: RawConsumer,
    responses: RawProducer,
    corruption: Option<&'static str>,
    types: PhantomData<fn(Req) -> Resp>,
}

/// A request that was received, and the right to answer it.
///
/// Dropped without an answer it is received again, by this server or its successor, and the
/// caller goes on waiting.
#[must_use = "a request that is neither answered nor refused is received again"]
pub struct DuplexRequest<'a, Req, Resp> {
    server: &'a mut DuplexServer<Req, Resp>,
    value: Req,
}

impl<Req: CheckedBitPattern, Resp: NoUninit> DuplexServer<Req, Resp> {
    pub(super) fn attach(
        requests: (Parts, SlotGeometry),
        responses: (Parts, SlotGeometry),
    ) -> Result<Self, AttachError> {
        check_sizes::<Req, Resp>(requests.1, responses.1)?;
        let mut requests = RawConsumer::attach(requests.0, requests.1)?;
        let responses = RawProducer::attach(responses.0, responses.1)?;
        if responses.position() == requests.position() + 1 {
            // Its predecessor died behind V4.
            requests.skip().map_err(|_| AttachError::Corrupt(Corruption::Released))?;
        }
        if responses.position() != requests.position() {
            return Err(AttachError::Corrupt(Corruption::Released));
        }
        Ok(Self { requests, responses, corruption: None, types: PhantomData })
    }

    /// Waits for a request and answers it with what `work` makes of it.
    ///
    /// If `work` panics the request is not answered, and received again.
    ///
    /// # Errors
    ///
    /// `Closed` and `PeerDied` when there is no request and the caller has left or died, see
    /// [`outlive_peer`](Self::outlive_peer); a caller that never was is waited for.
    /// `InvalidValue` when the bytes are no `Req`; the call was refused and the next can be
    /// served.
    #[inline]
    pub fn serve_one(&mut self, work: impl FnOnce(Req) -> Resp) -> Result<(), ServeError> {
        let request = self.take_until(|| None)?;
        let answer = work(request);
        self.put_answer(answer)
    }

    /// As [`serve_one`](Self::serve_one), waiting for a request until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`serve_one`](Self::serve_one), and `TimedOut`.
    #[inline]
    pub fn serve_deadline(
        &mut self,
        deadline: Instant,
        work: impl FnOnce(Req) -> Resp,
    ) -> Result<(), ServeError> {
        let request = self.take_until(|| Some(deadline))?;
        let answer = work(request);
        self.put_answer(answer)
    }

    /// As [`serve_one`](Self::serve_one), waiting for a request for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`serve_one`](Self::serve_one), and `TimedOut`.
    #[inline]
    pub fn serve_timeout(
        &mut self,
        timeout: Duration,
        work: impl FnOnce(Req) -> Resp,
    ) -> Result<(), ServeError> {
        let request = self.take_until(|| deadline_after(timeout))?;
        let answer = work(request);
        self.put_answer(answer)
    }

    /// As [`serve_one`](Self::serve_one), if there is a request now.
    ///
    /// # Errors
    ///
    /// [`ServeError::Empty`] when there is none, or no room for its answer. After many of these,
    /// at least 50 ms apart, the kernel is asked about the caller; `Closed` or `PeerDied` then say
    /// that it has left or died.
    #[inline]
    pub fn try_serve(&mut self, work: impl FnOnce(Req) -> Resp) -> Result<(), ServeError> {
        let request = self.try_take()?;
        let answer = work(request);
        self.put_answer(answer)
    }

    /// Waits for a request, to be answered later.
    ///
    /// # Errors
    ///
    /// As [`serve_one`](Self::serve_one).
    #[inline]
    pub fn recv(&mut self) -> Result<DuplexRequest<'_, Req, Resp>, ServeError> {
        let value = self.take_until(|| None)?;
        Ok(DuplexRequest { server: self, value })
    }

    /// Waits for a request until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv), and `TimedOut`.
    #[inline]
    pub fn recv_deadline(
        &mut self,
        deadline: Instant,
    ) -> Result<DuplexRequest<'_, Req, Resp>, ServeError> {
        let value = self.take_until(|| Some(deadline))?;
        Ok(DuplexRequest { server: self, value })
    }

    /// Waits for a request for at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv), and `TimedOut`.
    #[inline]
    pub fn recv_timeout(
        &mut self,
        timeout: Duration,
    ) -> Result<DuplexRequest<'_, Req, Resp>, ServeError> {
        let value = self.take_until(|| deadline_after(timeout))?;
        Ok(DuplexRequest { server: self, value })
    }

    /// Receives a request if there is one now.
    ///
    /// # Errors
    ///
    /// As [`try_serve`](Self::try_serve).
    #[inline]
    pub fn try_recv(&mut self) -> Result<DuplexRequest<'_, Req, Resp>, ServeError> {
        let value = self.try_take()?;
        Ok(DuplexRequest { server: self, value })
    }

    #[inline]
    fn try_take(&mut self) -> Result<Req, ServeError> {
        match self.look() {
            Err(ServeError::Empty) => {}
            done => return done,
        }
        match self.requests.still_empty() {
            RecvError::Empty => Err(ServeError::Empty),
            // Once more, now that the caller's end is known.
            end => match self.look() {
                Err(ServeError::Empty) => Err(not_received(end)),
                done => done,
            },
        }
    }

    #[inline]
    fn take_until(
        &mut self,
        deadline: impl FnOnce() -> Option<Instant>,
    ) -> Result<Req, ServeError> {
        match self.look() {
            Err(ServeError::Empty) => self.wait_for_request(deadline()),
            done => done,
        }
    }

    #[cold]
    fn wait_for_request(&mut self, deadline: Option<Instant>) -> Result<Req, ServeError> {
        self.wait_for_room(deadline)?;
        let mut wait = Wait::until(deadline);
        let result = loop {
            if let Err(end) = self.requests.port.wait(&mut wait) {
                break Err(end.into());
            }
            match self.look() {
                Err(ServeError::Empty) => {}
                done => break done,
            }
        };
        self.requests.port.settle(&wait);
        result
    }

    /// V1, waiting.
    fn wait_for_room(&mut self, deadline: Option<Instant>) -> Result<(), ServeError> {
        let mut wait = Wait::until(deadline);
        let result = loop {
            match self.responses.room_for(1) {
                Err(SendError::Full) => {}
                room => break room.map_err(not_put),
            }
            if let Err(end) = self.responses.port.wait(&mut wait) {
                break Err(end.into());
            }
        };
        self.responses.port.settle(&wait);
        result
    }

    /// V1 and V2.
    #[inline]
    fn look(&mut self) -> Result<Req, ServeError> {
        if let Some(what) = self.corruption {
            return Err(ServeError::Corrupt(what));
        }
        match self.responses.room_for(1) {
            Ok(()) => {}
            Err(SendError::Full) => return Err(ServeError::Empty),
            Err(error) => return Err(not_put(error)),
        }
        let sequence = self.requests.position();
        let (number, value) = self.requests.look(read_slot).map_err(not_received)?;
        if number != sequence {
            self.corruption = Some(BAD_NUMBER);
            return Err(ServeError::Corrupt(BAD_NUMBER));
        }
        match value {
            Some(value) => Ok(value),
            None => {
                self.refuse()?;
                Err(ServeError::InvalidValue { sequence })
            }
        }
    }

    /// V4 and V5.
    #[inline]
    fn put_answer(&mut self, answer: Resp) -> Result<(), ServeError> {
        let number = self.requests.position();
        self.respond(bytes_of(&Numbered { number, value: answer }))
    }

    #[inline]
    fn respond(&mut self, slot: &[u8]) -> Result<(), ServeError> {
        self.responses.try_put(slot).map_err(not_put)?;
        // There is a request at this position: nobody gets here but from a `look` that found it.
        self.requests.release_found();
        Ok(())
    }

    #[cold]
    fn refuse(&mut self) -> Result<(), ServeError> {
        let mut slot = vec![0; self.responses.size()];
        slot[..8].copy_from_slice(&(self.requests.position() | REFUSED).to_ne_bytes());
        self.respond(&slot)
    }
}

impl<Req, Resp> DuplexServer<Req, Resp> {
    /// How many calls were answered or refused through this channel, by whomever: the number of
    /// the next one.
    pub fn sequence(&self) -> u64 {
        self.requests.position()
    }

    duplex_calls!(requests responses);
}

impl<Req: CheckedBitPattern, Resp: NoUninit> DuplexRequest<'_, Req, Resp> {
    /// The request, a private copy.
    pub fn value(&self) -> Req {
        self.value
    }

    /// The same without copying it once more.
    pub fn value_ref(&self) -> &Req {
        &self.value
    }

    /// The number of the call: one that was seen before is a repetition, so effects can be made
    /// idempotent.
    pub fn sequence(&self) -> u64 {
        self.server.sequence()
    }

    /// Answers it.
    ///
    /// # Errors
    ///
    /// `Forked` in a forked child.
    #[inline]
    pub fn answer(self, answer: Resp) -> Result<(), ServeError> {
        self.server.put_answer(answer)
    }

    /// Ends the call without an answer; the caller gets [`CallError::Refused`].
    ///
    /// # Errors
    ///
    /// As [`answer`](Self::answer).
    pub fn refuse(self) -> Result<(), ServeError> {
        self.server.refuse()
    }
}

fn check_sizes<Req, Resp>(
    requests: SlotGeometry,
    responses: SlotGeometry,
) -> Result<(), AttachError> {
    let sound = requests.size() == size_of::<Numbered<Req>>()
        && responses.size() == size_of::<Numbered<Resp>>();
    if sound { Ok(()) } else { Err(AttachError::Geometry) }
}

/// What an error of the request ring means for a call: nothing was sent.
#[cold]
fn not_sent(error: SendError) -> CallError {
    match error {
        SendError::Full | SendError::TimedOut => CallError::Busy,
        SendError::Closed => CallError::Closed,
        SendError::PeerDied => CallError::PeerDied,
        SendError::Cancelled => CallError::Cancelled,
        SendError::Forked => CallError::Forked,
        SendError::Superseded => CallError::Superseded,
        SendError::Corrupt(corruption) => CallError::Corrupt(corruption.text()),
        SendError::TooLarge { .. } | SendError::WrongSize { .. } => CallError::Corrupt(BAD_ROOM),
    }
}

/// What an error of the response ring means for a call.
#[cold]
fn not_answered(error: RecvError) -> CallError {
    match error {
        RecvError::Empty => CallError::Pending,
        RecvError::Closed => CallError::Closed,
        RecvError::PeerDied => CallError::PeerDied,
        RecvError::TimedOut => CallError::TimedOut,
        RecvError::Cancelled => CallError::Cancelled,
        RecvError::Forked => CallError::Forked,
        RecvError::Superseded => CallError::Superseded,
        RecvError::InvalidValue { position } => CallError::InvalidValue { sequence: position },
        RecvError::Corrupt(corruption) => CallError::Corrupt(corruption.text()),
        RecvError::WrongSize { .. } => CallError::Corrupt(BAD_NUMBER),
    }
}

/// What an error of the request ring means for a server.
#[cold]
fn not_received(error: RecvError) -> ServeError {
    match error {
        RecvError::Empty => ServeError::Empty,
        RecvError::Closed => ServeError::Closed,
        RecvError::PeerDied => ServeError::PeerDied,
        RecvError::TimedOut => ServeError::TimedOut,
        RecvError::Cancelled => ServeError::Cancelled,
        RecvError::Forked => ServeError::Forked,
        RecvError::Superseded => ServeError::Superseded,
        RecvError::InvalidValue { position } => ServeError::InvalidValue { sequence: position },
        RecvError::Corrupt(corruption) => ServeError::Corrupt(corruption.text()),
        RecvError::WrongSize { .. } => ServeError::Corrupt(BAD_NUMBER),
    }
}

/// What an error of the response ring means for a server; room was there before.
#[cold]
fn not_put(error: SendError) -> ServeError {
    match error {
        SendError::Closed => ServeError::Closed,
        SendError::PeerDied => ServeError::PeerDied,
        SendError::TimedOut => ServeError::TimedOut,
        SendError::Cancelled => ServeError::Cancelled,
        SendError::Forked => ServeError::Forked,
        SendError::Superseded => ServeError::Superseded,
        SendError::Corrupt(corruption) => ServeError::Corrupt(corruption.text()),
        SendError::Full | SendError::TooLarge { .. } | SendError::WrongSize { .. } => {
            ServeError::Corrupt(BAD_ROOM)
        }
    }
}

impl<Req, Resp> fmt::Debug for DuplexCaller<Req, Resp> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (requests, responses) = (&self.requests, &self.responses);
        f.debug_struct("DuplexCaller").field("to", requests).field("from", responses).finish()
    }
}

impl<Req, Resp> fmt::Debug for DuplexServer<Req, Resp> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (requests, responses) = (&self.requests, &self.responses);
        f.debug_struct("DuplexServer").field("from", requests).field("to", responses).finish()
    }
}

impl<Req: fmt::Debug, Resp> fmt::Debug for DuplexRequest<'_, Req, Resp> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sequence = self.server.sequence();
        f.debug_struct("DuplexRequest")
            .field("sequence", &sequence)
            .field("value", &self.value)
            .finish()
    }
}

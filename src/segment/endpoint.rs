//! Endpoints: who may push, who may pop, and whether the other one lives.
//!
//! An endpoint is a place in an object's endpoint table. It belongs to whoever
//! holds its lock byte of the claims file, on a description of his own; the
//! kernel gives the byte back when that process dies. The claim line says who
//! it is and in what state he left it; it is written only under the lock, and
//! believed only together with it.
//!
//! # Protocol
//!
//! * E1 take the lock byte; if somebody has it, the place is taken
//! * E2 write pid, start time and label, then state = open, then epoch + 1
//! * E3 work (each kind of object recovers what a dead predecessor left)
//! * E4 state = closed; then the lock, so that whoever is told of the close finds it free
//!
//! An object may have many places of one role. An end looks at all places of the
//! other role: one alive is alive; none alive and one dead is dead; else closed
//! if one was closed, and never if there never was any.
//!
//! # Who lives
//!
//! The lock is asked first and the state read afterwards. Free and closed means
//! that E4 was reached; free and open, that the owner died between E2 and E4.
//! A new owner may come between the two looks, so "died" is said only when
//! the lock is still free and the epoch unchanged on a second look.

use crate::error::{Error, ErrorKind, Result};
use crate::pages::limited;
use crate::peer::PeerState;
use crate::segment::attach::{Attached, unix_nanos};
use crate::segment::bell;
use crate::segment::layout::{
    ENDPOINT_BYTES, ENDPOINT_CLOSED, ENDPOINT_NEVER, ENDPOINT_OPEN, EndpointRaw, Entry,
    STATS_OFFSET, endpoint_lock, field_of, text_of,
};
use crate::segment::names;
use crate::stats::{LINE_LEN, Stats, StatsWriter};
use crate::sys::locks::{self, Mode};
use crate::sys::process::{self, LockFd};
use crate::view::View;
use crate::wait::{Hung, Link, PeerAt};
use core::mem::{offset_of, size_of};
use core::sync::atomic::{AtomicU64, Ordering};
use std::os::fd::AsFd;
use std::sync::Arc;

/// Which side of an object an endpoint is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Role {
    /// It writes messages.
    Producer,
    /// It reads them.
    Consumer,
}

impl Role {
    pub(crate) const fn code(self) -> u32 {
        match self {
            Self::Producer => 0,
            Self::Consumer => 1,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Producer => "producer",
            Self::Consumer => "consumer",
        }
    }

    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Producer => Self::Consumer,
            Self::Consumer => Self::Producer,
        }
    }
}

impl core::fmt::Display for Role {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.pad(self.as_str())
    }
}

/// What stands in a claim line, and what the kernel says about it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct EndpointInfo {
    /// Producer or consumer.
    pub role: Role,
    /// The place among those of its role, from 0.
    pub slot: u32,
    /// Whether somebody is there; [`PeerState::Unknown`] for those who may only read.
    pub state: PeerState,
    /// How often the place has been taken.
    pub epoch: u64,
    /// The process that took it last, in its own pid namespace.
    pub pid: u32,
    /// The label it gave itself; by default its program's name.
    pub label: String,
    /// When it was taken, in nanoseconds since 1970.
    pub since_nanos: u64,
    /// Messages that were published and that this end has yet to deliver, where that is known.
    pub lag: Option<u64>,
    /// What it counted.
    pub stats: Stats,
}

/// One endpoint's place: its lock byte and its two lines.
#[derive(Clone)]
pub(crate) struct Place {
    object: u32,
    role: Role,
    slot: u32,
    claim: View,
    stats: View,
}

impl Place {
    /// The place `slot` of `role` in an object, if the object has so many.
    pub(crate) fn new(
        segment: &View,
        object: u32,
        entry: &Entry,
        role: Role,
        slot: u32,
    ) -> Option<Self> {
        let (before, count) = match role {
            Role::Producer => (0, entry.raw.producers),
            Role::Consumer => (entry.raw.producers, entry.raw.consumers),
        };
        if slot >= count {
            return None;
        }
        let at = entry.raw.control_offset + u64::from(before + slot) * ENDPOINT_BYTES;
        let claim = segment.window(at as usize, size_of::<EndpointRaw>())?;
        let stats = segment.window((at + STATS_OFFSET) as usize, LINE_LEN)?;
        Some(Self { object, role, slot, claim, stats })
    }

    fn lock_byte(&self) -> u64 {
        endpoint_lock(self.object, self.role.code(), self.slot)
    }

    /// This end in the name of its doorbells.
    fn end(&self) -> bell::End {
        bell::End { object: self.object, role: self.role.as_str(), slot: self.slot }
    }

    fn epoch(&self) -> u64 {
        self.claim.word64(offset_of!(EndpointRaw, epoch)).load(Ordering::Acquire)
    }

    fn state(&self) -> u32 {
        self.claim.word32(offset_of!(EndpointRaw, state)).load(Ordering::Acquire)
    }

    /// Who lives, by the kernel's lock; see the module page.
    fn look(&self, claims: Option<&LockFd>) -> PeerState {
        let Some(claims) = claims.filter(|claims| claims.check_fork().is_ok()) else {
            return PeerState::Unknown;
        };
        // A place that changes hands at each look is alive.
        for _ in 0..16 {
            let Ok(held) = locks::is_held(claims.as_fd(), self.lock_byte()) else {
                return PeerState::Unknown;
            };
            if held {
                return PeerState::Alive;
            }
            let before = (self.epoch(), self.state());
            match before.1 {
                ENDPOINT_NEVER => return PeerState::Never,
                ENDPOINT_CLOSED => return PeerState::Closed,
                _ => {}
            }
            match locks::is_held(claims.as_fd(), self.lock_byte()) {
                Err(_) => return PeerState::Unknown,
                Ok(true) => return PeerState::Alive,
                Ok(false) if before == (self.epoch(), self.state()) => return PeerState::Dead,
                Ok(false) => {}
            }
        }
        PeerState::Alive
    }

    /// What the lines say, for reports.
    pub(crate) fn info(&self, claims: Option<&LockFd>) -> EndpointInfo {
        let mut bytes = [0u8; size_of::<EndpointRaw>()];
        self.claim.read(0, &mut bytes);
        let raw: EndpointRaw = bytemuck::pod_read_unaligned(&bytes);
        let state = match self.look(claims) {
            PeerState::Unknown if raw.state == ENDPOINT_NEVER => PeerState::Never,
            PeerState::Unknown if raw.state == ENDPOINT_CLOSED => PeerState::Closed,
            state => state,
        };
        EndpointInfo {
            role: self.role,
            slot: self.slot,
            state,
            epoch: raw.epoch,
            pid: raw.pid,
            label: text_of(&raw.label).unwrap_or_default().to_owned(),
            since_nanos: raw.since_nanos,
            lag: None,
            stats: Stats::read(&self.stats),
        }
    }
}

/// A claimed endpoint: the right to write one side's words, and the look at the other side.
///
/// Dropping it gives the place back, in good order unless a panic unwinds.
pub(crate) struct Endpoint {
    segment: Arc<Attached>,
    place: Place,
    /// The places of the other role.
    peers: Vec<Place>,
    /// The ways to the peers' doorbells, once they were rung.
    ropes: Vec<Option<bell::Rope>>,
    /// Whether E4 was reached.
    closed: bool,
    /// Dropped last: with it goes the lock.
    lock: LockFd,
}

impl Drop for Endpoint {
    /// Leaves in good order where nothing came of the claim: a ring that contradicts itself, say.
    /// Whoever took the claim up has left before, or says nothing while a panic unwinds.
    fn drop(&mut self) {
        let own = self.lock.check_fork().is_ok() && !std::thread::panicking();
        if !self.closed && own && self.segment.held.is_whole() {
            self.close();
        }
    }
}

impl Endpoint {
    /// E1 and E2: takes `place`, whose opposites are `peers`.
    pub(crate) fn claim(
        segment: &Arc<Attached>,
        object_name: &str,
        place: Place,
        peers: Vec<Place>,
    ) -> Result<Self> {
        const OPERATION: &str = "claim endpoint of object";
        segment.check_fork(OPERATION)?;
        let Some(claims) = &segment.held.claims else {
            return Err(Error::new(ErrorKind::ReadOnly, OPERATION, object_name)
                .detail(format!("segment {:?} is open read-only", segment.name))
                .remedy("open it with Segment::open"));
        };
        let failed = |errno| limited(Error::system(OPERATION, object_name, errno));
        let lock = claims.reopen(true).map_err(failed)?;
        if !locks::try_lock(lock.as_fd(), Mode::Exclusive, place.lock_byte(), 1).map_err(failed)? {
            let info = place.info(Some(claims));
            return Err(Error::new(ErrorKind::Busy, OPERATION, object_name)
                .detail(format!(
                    "its {} is taken by {:?} (pid {})",
                    place.role, info.label, info.pid
                ))
                .remedy("wait until it ends; a stopped process still counts as alive"));
        }
        bell::remove_left(segment, place.end(), &place.claim);
        let epoch = place.epoch().wrapping_add(1);
        let label = segment.label.lock().map(|label| label.clone()).unwrap_or_default();
        let line = EndpointRaw {
            epoch,
            state: ENDPOINT_OPEN,
            flags: 0,
            pid: std::process::id(),
            attachment: segment.attachment.unwrap_or(u32::MAX),
            start: process::own_start_time().unwrap_or(0),
            since_nanos: unix_nanos(),
            position: 0,
            label: field_of(&label),
            bell: 0,
            reserved: [0; 40],
        };
        let bytes = bytemuck::bytes_of(&line);
        place.claim.write(16, &bytes[16..]);
        place.claim.word32(offset_of!(EndpointRaw, state)).store(ENDPOINT_OPEN, Ordering::Release);
        place.claim.word64(offset_of!(EndpointRaw, epoch)).store(epoch, Ordering::Release);
        let ropes = peers.iter().map(|_| None).collect();
        Ok(Self { segment: Arc::clone(segment), place, peers, ropes, closed: false, lock })
    }

    /// The owner's side of the statistics line.
    pub(crate) fn stats(&self) -> Option<StatsWriter> {
        StatsWriter::attach(self.place.stats.clone())
    }
}

/// The look at an endpoint by somebody who claims none: it may be anybody, and be many.
///
/// Only those who may open the claims file can ask whether the endpoint's owner lives. The others
/// are told what its line says of itself: that nobody was ever there, or that he has left.
pub(crate) struct Observer {
    segment: Arc<Attached>,
    place: Place,
    born: u64,
}

impl Observer {
    /// Looks at `place`.
    pub(crate) fn new(segment: &Arc<Attached>, place: Place) -> Self {
        Self { segment: Arc::clone(segment), place, born: process::generation() }
    }

    /// The claims file of a segment that is open read-only, if this user may open it. It is not
    /// kept: a descriptor for each of many readers is too much for a question now and then.
    fn probe(&self) -> Option<LockFd> {
        let folder = self.segment.domain.open_folder().ok()?;
        let file = names::claims_file(self.segment.identity);
        LockFd::open(|| folder.open_file(&file, false)).ok()
    }
}

impl Link for Observer {
    fn peer_state(&self) -> PeerState {
        if self.born != process::generation() {
            return PeerState::Unknown;
        }
        let state = match &self.segment.held.claims {
            Some(claims) => self.place.look(Some(claims)),
            None => self.place.look(self.probe().as_ref()),
        };
        match (state, self.place.state()) {
            (PeerState::Unknown, ENDPOINT_NEVER) => PeerState::Never,
            (PeerState::Unknown, ENDPOINT_CLOSED) => PeerState::Closed,
            (state, _) => state,
        }
    }

    fn peer_left(&self) -> bool {
        self.place.state() == ENDPOINT_CLOSED
    }

    fn peer_epoch(&self) -> u64 {
        self.place.epoch()
    }

    fn superseded(&self) -> bool {
        self.segment.superseded() != 0
    }

    fn born(&self) -> u64 {
        self.born
    }

    fn forks(&self) -> &'static AtomicU64 {
        &process::GENERATION
    }
}

impl Link for Endpoint {
    /// E4.
    fn close(&mut self) {
        self.place
            .claim
            .word32(offset_of!(EndpointRaw, state))
            .store(ENDPOINT_CLOSED, Ordering::Release);
        locks::unlock(self.lock.as_fd());
        self.closed = true;
    }

    fn is_whole(&self) -> bool {
        self.segment.held.is_whole()
    }

    fn born(&self) -> u64 {
        self.lock.generation()
    }

    fn peer_state(&self) -> PeerState {
        let mut all = None;
        for peer in &self.peers {
            let state = peer.look(self.segment.held.claims.as_ref());
            if matches!(state, PeerState::Alive | PeerState::Unknown) {
                return state;
            }
            all = match (all, state) {
                (Some(PeerState::Dead), _) | (_, PeerState::Dead) => Some(PeerState::Dead),
                (Some(PeerState::Closed), _) | (_, PeerState::Closed) => Some(PeerState::Closed),
                (_, state) => Some(state),
            };
        }
        all.unwrap_or(PeerState::Unknown)
    }

    fn peer_left(&self) -> bool {
        let mut closed = false;
        for peer in &self.peers {
            match peer.state() {
                ENDPOINT_CLOSED => closed = true,
                ENDPOINT_NEVER => {}
                _ => return false,
            }
        }
        closed
    }

    fn own_epoch(&self) -> u64 {
        self.place.epoch()
    }

    fn peer_epoch(&self) -> u64 {
        self.peers.iter().fold(0, |sum, peer| sum.wrapping_add(peer.epoch()))
    }

    fn peer_at(&self, slot: u32) -> Option<PeerAt> {
        let info = self.peers.get(slot as usize)?.info(self.segment.held.claims.as_ref());
        Some(PeerAt { state: info.state, epoch: info.epoch, pid: info.pid, label: info.label })
    }

    fn is_vacant(&self, own_side: bool, slot: u32) -> bool {
        let role = if own_side { self.place.role } else { self.place.role.other() };
        let claims = self.segment.held.claims.as_ref();
        let Some(claims) = claims.filter(|claims| claims.check_fork().is_ok()) else {
            return false;
        };
        let byte = endpoint_lock(self.place.object, role.code(), slot);
        locks::is_held(claims.as_fd(), byte) == Ok(false)
    }

    fn hang_bell(&self) -> Result<Hung> {
        bell::hang(&self.segment, self.place.end(), &self.place.claim).map_err(limited)
    }

    fn ring_bell(&mut self, slot: u32) {
        if let (Some(peer), Some(rope)) =
            (self.peers.get(slot as usize), self.ropes.get_mut(slot as usize))
        {
            bell::ring(rope, &self.segment, peer.end(), &peer.claim);
        }
    }

    fn superseded(&self) -> bool {
        self.segment.superseded() != 0
    }

    fn forks(&self) -> &'static AtomicU64 {
        &process::GENERATION
    }
}

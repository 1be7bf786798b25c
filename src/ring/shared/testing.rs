//! Shared rings on heap memory, whose ends live and die as the test says.

use super::layout::Geometry;
use super::{SharedConsumer, SharedProducer};
use crate::peer::PeerState;
use crate::ring::endpoint::Parts;
use crate::ring::error::AttachError;
use crate::segment::endpoint::Role;
use crate::stats::{LINE_LEN, StatsWriter};
use crate::view::View;
use crate::wait::Link;
use crate::wait::testing::Peer;
use std::collections::HashSet;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};

/// What a message is here: three words that belong together, so that a torn one shows.
pub(super) type Triple = [u64; 3];

pub(super) fn triple(n: u64) -> Triple {
    [n, !n, n.wrapping_mul(0x9e37_79b9_7f4a_7c15)]
}

/// The memory of a ring, and who is said to hold its ends.
#[derive(Clone)]
pub(super) struct Stage {
    pub(super) view: View,
    pub(super) geometry: Geometry,
    pub(super) peer: Arc<Peer>,
    /// The ends whose locks are free.
    vacant: Arc<Mutex<HashSet<(Role, u32)>>>,
}

struct StageLink {
    role: Role,
    stage: Stage,
}

impl Link for StageLink {
    fn peer_state(&self) -> PeerState {
        *self.stage.peer.state.lock().unwrap()
    }
    fn peer_epoch(&self) -> u64 {
        1
    }
    fn superseded(&self) -> bool {
        false
    }
    fn is_vacant(&self, own_side: bool, slot: u32) -> bool {
        self.stage.peer.asked.fetch_add(1, Relaxed);
        let role = if own_side { self.role } else { self.role.other() };
        self.stage.vacant.lock().unwrap().contains(&(role, slot))
    }
    fn forks(&self) -> &'static AtomicU64 {
        self.stage.peer.forks
    }
}

impl Stage {
    pub(super) fn new<T>(capacity: u64, producers: u32, consumers: u32) -> Self {
        let stride = size_of::<T>().max(1).next_multiple_of(8);
        let geometry = Geometry::new(size_of::<T>(), stride, capacity, (producers, consumers));
        let geometry = geometry.unwrap();
        let view = View::heap(geometry.control_len() + geometry.payload_len());
        Self { view, geometry, peer: Peer::alive(), vacant: Arc::default() }
    }

    /// The same ring with other memory, and the dead of its own.
    pub(super) fn with(&self, view: &View) -> Self {
        let vacant = Mutex::new(self.vacant.lock().unwrap().clone());
        Self { view: view.clone(), vacant: Arc::new(vacant), ..self.clone() }
    }

    /// The end's lock is free from now on.
    pub(super) fn bury(&self, role: Role, slot: u32) {
        self.vacant.lock().unwrap().insert((role, slot));
    }

    pub(super) fn parts(&self, role: Role, slot: u32) -> Parts {
        self.vacant.lock().unwrap().remove(&(role, slot));
        let control = self.geometry.control_len();
        Parts {
            control: self.view.window(0, control).unwrap(),
            payload: self.view.window(control, self.view.len() - control).unwrap(),
            stats: StatsWriter::attach(View::heap(LINE_LEN)).unwrap(),
            link: Box::new(StageLink { role, stage: self.clone() }),
        }
    }

    pub(super) fn try_producer<T: bytemuck::NoUninit>(
        &self,
        slot: u32,
    ) -> Result<SharedProducer<T>, AttachError> {
        SharedProducer::attach(self.parts(Role::Producer, slot), self.geometry, slot)
    }

    pub(super) fn producer<T: bytemuck::NoUninit>(&self, slot: u32) -> SharedProducer<T> {
        self.try_producer(slot).unwrap()
    }

    pub(super) fn try_consumer<T: bytemuck::CheckedBitPattern>(
        &self,
        slot: u32,
    ) -> Result<SharedConsumer<T>, AttachError> {
        SharedConsumer::attach(self.parts(Role::Consumer, slot), self.geometry, slot)
    }

    pub(super) fn consumer<T: bytemuck::CheckedBitPattern>(&self, slot: u32) -> SharedConsumer<T> {
        self.try_consumer(slot).unwrap()
    }

    /// The word of a slot.
    pub(super) fn word(&self, slot: usize) -> u64 {
        self.view.load64(self.geometry.control_len() + self.geometry.shape.word(slot), Relaxed)
    }

    pub(super) fn set_word(&self, slot: usize, word: u64) {
        let at = self.geometry.control_len() + self.geometry.shape.word(slot);
        self.view.store64(at, word, Relaxed);
    }

    /// All words.
    pub(super) fn words(&self) -> Vec<u64> {
        (0..self.geometry.capacity as usize).map(|slot| self.word(slot)).collect()
    }
}

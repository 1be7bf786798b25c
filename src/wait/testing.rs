//! A peer whose state the test decides, and what killed processes leave in memory.

use super::Link;
use crate::peer::PeerState;
use crate::view::{View, steps};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};

/// What the test says about the other end.
pub(crate) struct Peer {
    pub(crate) state: Mutex<PeerState>,
    pub(crate) epoch: AtomicU64,
    pub(crate) superseded: AtomicBool,
    pub(crate) forks: &'static AtomicU64,
    pub(crate) asked: AtomicU64,
}

impl Peer {
    pub(crate) fn new(state: PeerState) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(state),
            epoch: AtomicU64::new(1),
            superseded: AtomicBool::new(false),
            forks: Box::leak(Box::new(AtomicU64::new(0))),
            asked: AtomicU64::new(0),
        })
    }

    pub(crate) fn alive() -> Arc<Self> {
        Self::new(PeerState::Alive)
    }

    pub(crate) fn becomes(&self, state: PeerState) {
        *self.state.lock().unwrap() = state;
    }
}

pub(crate) struct FakeLink(pub(crate) Arc<Peer>);

impl Link for FakeLink {
    fn peer_state(&self) -> PeerState {
        self.0.asked.fetch_add(1, Relaxed);
        *self.0.state.lock().unwrap()
    }
    fn peer_epoch(&self) -> u64 {
        self.0.epoch.load(Relaxed)
    }
    fn superseded(&self) -> bool {
        self.0.superseded.load(Relaxed)
    }
    fn forks(&self) -> &'static AtomicU64 {
        self.0.forks
    }
}

/// What a process killed behind each store of `work` would leave in `memory`, the state before
/// the first store included.
pub(crate) fn crashes<R>(memory: &View, work: impl FnOnce() -> R) -> (R, Vec<View>) {
    let left = Rc::new(RefCell::new(vec![memory.snapshot()]));
    let result = {
        let (left, memory) = (Rc::clone(&left), memory.clone());
        steps::watch(move || left.borrow_mut().push(memory.snapshot()), work)
    };
    let left = left.take();
    (result, left.iter().map(|bytes| View::of(bytes)).collect())
}

//! Rings on heap memory with a peer whose state the test decides.

use super::endpoint::Parts;
use super::layout::CONTROL_LEN;
use crate::peer::PeerState;
use crate::stats::{LINE_LEN, StatsWriter};
use crate::view::{View, steps};
use crate::wait::Link;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};

/// What the test says about the other end.
pub(super) struct Peer {
    pub(super) state: Mutex<PeerState>,
    pub(super) epoch: AtomicU64,
    pub(super) superseded: AtomicBool,
    pub(super) forks: &'static AtomicU64,
    pub(super) asked: AtomicU64,
}

impl Peer {
    pub(super) fn new(state: PeerState) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(state),
            epoch: AtomicU64::new(1),
            superseded: AtomicBool::new(false),
            forks: Box::leak(Box::new(AtomicU64::new(0))),
            asked: AtomicU64::new(0),
        })
    }

    pub(super) fn alive() -> Arc<Self> {
        Self::new(PeerState::Alive)
    }

    pub(super) fn becomes(&self, state: PeerState) {
        *self.state.lock().unwrap() = state;
    }
}

pub(super) struct FakeLink(pub(super) Arc<Peer>);

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

/// Memory for the control words and `payload` bytes behind them.
pub(super) fn memory(payload: usize) -> View {
    View::heap(CONTROL_LEN + payload)
}

/// The parts of an endpoint on `memory`.
pub(super) fn parts(memory: &View, peer: &Arc<Peer>) -> Parts {
    Parts {
        control: memory.window(0, CONTROL_LEN).unwrap(),
        payload: memory.window(CONTROL_LEN, memory.len() - CONTROL_LEN).unwrap(),
        stats: StatsWriter::attach(View::heap(LINE_LEN)).unwrap(),
        link: Box::new(FakeLink(Arc::clone(peer))),
    }
}

/// What a process killed behind each store of `work` would leave in `memory`, the state before
/// the first store included.
pub(super) fn crashes<R>(memory: &View, work: impl FnOnce() -> R) -> (R, Vec<View>) {
    let left = Rc::new(RefCell::new(vec![memory.snapshot()]));
    let result = {
        let (left, memory) = (Rc::clone(&left), memory.clone());
        steps::watch(move || left.borrow_mut().push(memory.snapshot()), work)
    };
    let left = left.take();
    (result, left.iter().map(|bytes| View::of(bytes)).collect())
}

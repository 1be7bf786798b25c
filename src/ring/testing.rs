//! Rings on heap memory with a peer whose state the test decides.

use super::endpoint::Parts;
use super::layout::CONTROL_LEN;
use crate::stats::{LINE_LEN, StatsWriter};
use crate::view::View;
pub(super) use crate::wait::testing::{FakeLink, Peer, crashes};
use std::sync::Arc;

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

//! Models of the rings: their shipped source, run in every order that the memory model allows.
//!
//! Two or three threads, each a process; memory and sleep are those of
//! `sync::modelled`. Rings are as small as they can be, so that everything wraps,
//! and messages of one or two words, so that a torn one shows. Each protocol is
//! tried with all ends alive, and with one of them dying at each of its accesses
//! to shared memory, whereupon a successor goes on.
//!
//! Those of broadcast rings, lanes and shared rings stand beside these.

mod records;
mod slots;

use super::endpoint::Parts;
use super::layout::CONTROL_LEN;
use crate::view::View;
use crate::wait::modelling::{Lives, Who, stats};

const PRODUCER: Who = (0, 0);
const CONSUMER: Who = (1, 0);

/// A ring with two ends.
#[derive(Clone)]
struct Ring {
    control: View,
    payload: View,
    lives: Lives,
}

impl Ring {
    fn new(payload: usize) -> Self {
        let control = View::modelled_control(CONTROL_LEN, 16);
        Self { control, payload: View::modelled_payload(payload), lives: Lives::of(1, 1) }
    }

    fn parts(&self, own: Who) -> Parts {
        let (control, payload) = (self.control.clone(), self.payload.clone());
        Parts { control, payload, stats: stats(), link: self.lives.claim(own) }
    }
}

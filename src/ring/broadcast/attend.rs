//! How those who receive stand to the producer: with a place of their own, or unseen.

use super::layout::{
    NUMBER, POSITION, PRODUCER_SLEEP, PRODUCER_UNFENCED, REQUIRED, SKIPPED, SLEEP, SLEEPERS,
    TENURE, UNFENCED, consumer,
};
use crate::ring::error::RecvError;
use crate::stats::{Stats, StatsWriter};
use crate::view::{View, Word64};
use crate::wait::{End, Link, Onlooker, Opposite, Port, Wait, WaitWords};
use core::sync::atomic::Ordering::{Relaxed, Release};
use std::time::Instant;

/// What a receiver tells whom, and how it passes the time.
///
/// Implemented by this crate only.
pub trait Attend {
    /// Whether calls may go on: false in a forked child and after `condemn`.
    #[doc(hidden)]
    fn usable(&self) -> bool;
    #[doc(hidden)]
    fn condemn(&mut self);
    /// Whether the producer keeps what was not received.
    #[doc(hidden)]
    fn is_required(&self) -> bool;
    /// Everything before `position` is received or missed; `number` messages in all.
    #[doc(hidden)]
    fn moved(&mut self, position: u64, number: u64);
    /// So many messages were overwritten before they were received.
    #[doc(hidden)]
    fn missed(&mut self, missed: u64);
    /// A look found nothing.
    #[doc(hidden)]
    fn found_nothing(&mut self);
    /// As [`Port::tried_in_vain`].
    #[doc(hidden)]
    fn tried_in_vain(&mut self) -> Option<End>;
    /// As [`Port::look_away`].
    #[doc(hidden)]
    fn look_away(&mut self, passed: u64, bytes: u64) -> bool;
    /// As [`Port::wait`].
    #[doc(hidden)]
    fn wait(&mut self, wait: &mut Wait) -> Result<(), End>;
    /// As [`Port::settle`].
    #[doc(hidden)]
    fn settle(&self, wait: &Wait);
}

/// Passes the time of `end`, which `attend` is a part of, until `look` finds something or there is a
/// reason to give up; as [`wait_until`](crate::wait::wait_until) for a port.
pub(super) fn wait_for<E, W: Attend, R>(
    end: &mut E,
    deadline: Option<Instant>,
    attend: impl Fn(&mut E) -> &mut W,
    mut look: impl FnMut(&mut E) -> Result<R, RecvError>,
) -> Result<R, RecvError> {
    let mut wait = Wait::until(deadline);
    let result = loop {
        if let Err(why) = attend(end).wait(&mut wait) {
            break Err(why.into());
        }
        match look(end) {
            Err(RecvError::Empty) => {}
            done => break done,
        }
    };
    attend(end).settle(&wait);
    result
}

/// A consumer's place: its line tells how far it is, and it is woken.
pub struct Claimed {
    pub(super) port: Port,
    position: Word64,
    number: Option<Word64>,
    line: View,
    /// Whether a producer may sleep until we go on.
    pub(super) lossless: bool,
    /// Whether the producer waits for this consumer.
    required: bool,
    /// How many messages those before us in this place received.
    inherited: u64,
    /// How many messages before the position none of us received.
    skipped: u64,
}

impl Claimed {
    /// Takes place number `slot`; `numbered` if positions do not count messages. `None` if this
    /// process may not write there.
    pub(super) fn new(
        control: &View,
        slot: u32,
        numbered: bool,
        lossless: bool,
        link: Box<dyn Link>,
        stats: StatsWriter,
    ) -> Option<Self> {
        let at = consumer(slot);
        let words = WaitWords {
            own_sleep: at + SLEEP,
            own_unfenced: at + UNFENCED,
            own_side: Some(SLEEPERS),
            opposite: Opposite::One { sleep: PRODUCER_SLEEP, unfenced: PRODUCER_UNFENCED },
        };
        let tenure = link.own_epoch();
        let port = Port::new(control.clone(), words, link, stats)?;
        let line = control.window(at, super::layout::CONSUMER_LEN)?;
        let position = line.find64(POSITION)?;
        let number = if numbered { Some(line.find64(NUMBER)?) } else { None };
        line.store64(TENURE, tenure, Release);
        let counted = number.as_ref().unwrap_or(&position).load(Relaxed);
        let skipped = line.load64(SKIPPED, Relaxed);
        let inherited = counted.wrapping_sub(skipped);
        Some(Self { port, position, number, line, lossless, required: false, inherited, skipped })
    }

    /// Joins at `position`, with `number` messages before it.
    pub(super) fn begin(&mut self, position: u64, number: u64) {
        self.skipped = number.wrapping_sub(self.inherited);
        self.line.store64(SKIPPED, self.skipped, Relaxed);
        self.store(position, number);
    }

    /// Whether the producer waits for this consumer.
    pub(super) fn set_required(&mut self, required: bool) {
        self.required = required;
        self.line.store64(REQUIRED, u64::from(required), Release);
    }

    #[inline(always)]
    fn store(&mut self, position: u64, number: u64) {
        if let Some(word) = &self.number {
            word.store(number, Relaxed);
        }
        self.position.store(position, Release); // edge `release`
    }

    /// What this consumer and those before it in its place counted.
    pub(super) fn stats(&self, number: u64, unit: u64) -> Stats {
        self.port.stats.get().at_position(number.wrapping_sub(self.skipped), unit)
    }
}

impl Drop for Claimed {
    /// Leaves, so that the producer need not find out by itself. While a panic unwinds nothing is
    /// said: a program that fails half-way did not close.
    fn drop(&mut self) {
        let own = self.port.usable() && !std::thread::panicking();
        if own && self.port.link().is_whole() {
            self.set_required(false);
        }
    }
}

impl Attend for Claimed {
    #[inline(always)]
    fn usable(&self) -> bool {
        self.port.usable()
    }

    #[inline(always)]
    fn is_required(&self) -> bool {
        self.required
    }

    fn condemn(&mut self) {
        if self.port.usable() {
            self.set_required(false); // it will go no further
        }
        self.port.condemn();
    }

    #[inline(always)]
    fn moved(&mut self, position: u64, number: u64) {
        self.store(position, number);
        if self.lossless {
            self.port.announce();
        }
        self.port.stats.went_on(number.wrapping_sub(1), number);
    }

    fn missed(&mut self, missed: u64) {
        self.skipped = self.skipped.wrapping_add(missed);
        self.line.store64(SKIPPED, self.skipped, Relaxed);
        self.port.stats.missed(missed);
    }

    fn found_nothing(&mut self) {
        self.port.stats.empty();
    }

    fn tried_in_vain(&mut self) -> Option<End> {
        self.port.tried_in_vain()
    }

    fn look_away(&mut self, passed: u64, bytes: u64) -> bool {
        self.port.look_away(passed, bytes)
    }

    fn wait(&mut self, wait: &mut Wait) -> Result<(), End> {
        self.port.wait(wait)
    }

    fn settle(&self, wait: &Wait) {
        self.port.settle(wait);
    }
}

/// An observer, of whom nobody knows.
pub struct Unseen {
    pub(super) onlooker: Onlooker,
    condemned: bool,
}

impl Unseen {
    pub(super) fn new(link: Box<dyn Link>) -> Self {
        Self { onlooker: Onlooker::alone(link), condemned: false }
    }
}

impl Attend for Unseen {
    #[inline(always)]
    fn usable(&self) -> bool {
        self.onlooker.usable() && !self.condemned
    }

    fn is_required(&self) -> bool {
        false
    }

    fn condemn(&mut self) {
        self.condemned = true;
    }

    #[inline(always)]
    fn moved(&mut self, _: u64, _: u64) {}

    fn missed(&mut self, _: u64) {}

    fn found_nothing(&mut self) {}

    fn tried_in_vain(&mut self) -> Option<End> {
        self.onlooker.tried_in_vain()
    }

    fn look_away(&mut self, _: u64, _: u64) -> bool {
        false
    }

    fn wait(&mut self, wait: &mut Wait) -> Result<(), End> {
        self.onlooker.wait(wait)
    }

    fn settle(&self, _: &Wait) {}
}

/// The calls that observers have, by way of the field path to their [`Onlooker`].
macro_rules! observer_calls {
    ($($onlooker:ident).+) => {
        /// How waits pass the time; [`WaitMode::Adaptive`](crate::WaitMode) at first.
        ///
        /// Nobody is told that an observer sleeps: it looks again after 50 us, and then after
        /// ever longer times up to 1 ms.
        pub fn wait_mode(&mut self, mode: crate::wait::WaitMode) -> &mut Self {
            self.$($onlooker).+.set_mode(mode);
            self
        }

        /// Whether waits go on for a successor when the producer has left or died, instead of
        /// ending with `Closed` or `PeerDied`. False at first.
        ///
        /// An observer that may not open the claims file hears of no death: give its waits a
        /// deadline.
        pub fn outlive_peer(&mut self, outlive: bool) -> &mut Self {
            self.$($onlooker).+.set_outlives_peer(outlive);
            self
        }

        /// A handle that ends the waits of this observer from another thread.
        pub fn canceller(&self) -> crate::wait::Canceller {
            self.$($onlooker).+.canceller()
        }

        /// Asks the kernel about the producer: a few system calls.
        ///
        /// An observer that may not open the claims file is told `Never` and `Closed`, and
        /// `Unknown` for everything else.
        pub fn peer(&self) -> crate::peer::PeerState {
            self.$($onlooker).+.peer()
        }

        /// Whether the producer was followed by another since the last call (or since this
        /// observer was made). Of several changes the last is told.
        pub fn peer_changed(&mut self) -> Option<crate::wait::PeerChange> {
            self.$($onlooker).+.peer_changed()
        }
    };
}
pub(super) use observer_calls;

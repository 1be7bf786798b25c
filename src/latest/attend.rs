//! How those who read stand to the writer: unseen, or with a place of their own.

use super::error::AttachError;
use super::layout::{
    ALIGN, CONTROL_LEN, SEEN, SLEEP, SLEEPERS, UNFENCED, WRITER_SLEEP, WRITER_UNFENCED, watcher,
    words_len,
};
use super::writer::WORDS;
use crate::stats::StatsWriter;
use crate::view::{View, Word64};
use crate::wait::{End, Link, Onlooker, Opposite, Port, Wait, WaitWords};
use core::sync::atomic::Ordering::Relaxed;

/// What a reader tells whom, and how it passes the time.
///
/// Implemented by this crate only.
pub trait Attend {
    /// Whether calls may go on: false in a forked child.
    #[doc(hidden)]
    fn usable(&self) -> bool;
    /// A version of `bytes` bytes was read, and none that is later.
    #[doc(hidden)]
    fn saw(&mut self, version: u64, bytes: u64);
    /// A call that does not wait found nothing newer; perhaps why there will be nothing.
    #[doc(hidden)]
    fn found_nothing(&mut self) -> Option<End>;
    /// As [`Port::wait`].
    #[doc(hidden)]
    fn wait(&mut self, wait: &mut Wait) -> Result<(), End>;
    /// As [`Port::settle`].
    #[doc(hidden)]
    fn settle(&self, wait: &Wait);
}

/// A reader, of whom nobody knows.
pub struct Unseen {
    pub(super) onlooker: Onlooker,
}

impl Unseen {
    pub(super) fn new(control: View, link: Box<dyn Link>) -> Result<Self, AttachError> {
        let sound = control.len() >= CONTROL_LEN && control.is_aligned_to(ALIGN);
        if sound {
            Ok(Self { onlooker: Onlooker::new(control, WORDS, link) })
        } else {
            Err(AttachError::Geometry)
        }
    }
}

impl Attend for Unseen {
    #[inline(always)]
    fn usable(&self) -> bool {
        self.onlooker.usable()
    }

    #[inline(always)]
    fn saw(&mut self, _: u64, _: u64) {}

    #[inline(always)]
    fn found_nothing(&mut self) -> Option<End> {
        None
    }

    fn wait(&mut self, wait: &mut Wait) -> Result<(), End> {
        self.onlooker.wait(wait)
    }

    fn settle(&self, _: &Wait) {}
}

/// A watcher's place: its line tells what it has seen, and it is woken by itself.
pub struct Claimed {
    pub(super) port: Port,
    seen: Word64,
    pub(super) slot: u32,
}

impl Claimed {
    /// Takes place number `slot`.
    pub(super) fn new(
        control: View,
        slot: u32,
        link: Box<dyn Link>,
        stats: StatsWriter,
    ) -> Result<Self, AttachError> {
        if control.len() < words_len(slot + 1) || !control.is_aligned_to(ALIGN) {
            return Err(AttachError::Geometry);
        }
        let at = watcher(slot);
        let seen = control.find64(at + SEEN).ok_or(AttachError::ReadOnly)?;
        let words = WaitWords {
            own_sleep: at + SLEEP,
            own_unfenced: at + UNFENCED,
            own_side: Some(SLEEPERS),
            opposite: Opposite::One { sleep: WRITER_SLEEP, unfenced: WRITER_UNFENCED },
        };
        let port = Port::new(control, words, link, stats).ok_or(AttachError::ReadOnly)?;
        seen.store(0, Relaxed);
        Ok(Self { port, seen, slot })
    }
}

impl Attend for Claimed {
    #[inline(always)]
    fn usable(&self) -> bool {
        self.port.usable()
    }

    #[inline(always)]
    fn saw(&mut self, version: u64, bytes: u64) {
        self.seen.store(version, Relaxed);
        self.port.stats.passed(1, bytes);
    }

    fn found_nothing(&mut self) -> Option<End> {
        self.port.stats.empty();
        self.port.tried_in_vain()
    }

    fn wait(&mut self, wait: &mut Wait) -> Result<(), End> {
        self.port.wait(wait)
    }

    fn settle(&self, wait: &Wait) {
        self.port.settle(wait);
    }
}

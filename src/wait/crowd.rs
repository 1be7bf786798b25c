//! One writes, any number wait: the sleep of readers that are no endpoints.
//!
//! All of them share one 32-bit word. There is no count of sleepers, for one
//! that is killed asleep could not be taken off it; there is a bit that says
//! that somebody sleeps, and a number that changes with each wake, so that
//! nobody falls asleep over a wake that was meant for him.
//!
//! Watchers have a sleep word each, as ends of rings do, so that they can sleep
//! in `poll` and on several words. For them the common word is that of a side
//! with many ends (see the parent module): they set its bit as well, and it is
//! all that the writer looks at behind a publication.
//!
//! # Protocol
//!
//! * S1 set bit 0 of the word, and keep the word as it is then
//! * S2 fence, or a barrier in R's process where R has said that it does not fence
//! * S3 look once more; go on if there is something
//! * S4 `FUTEX_WAIT` while the word is what it was in S1, for one slice
//! * R1 publish
//! * R2 fence, unless the sleepers fence for it
//! * R3 load the word; done if bit 0 is clear
//! * R4 add 1: the bit is clear, the number another
//! * R5 `FUTEX_WAKE` everybody
//! * R6 exchange each watcher's sleep word with 0; where it was not 0, wake that one
//!
//! A watcher's S1 is to store into its own word and then to set bit 0, and its S4 that of
//! the parent module.
//!
//! Nobody takes back what he announced: others may have announced the same. So one who is
//! cancelled is woken by adding 2: the bit stays, for he who cancels does not wake watchers.
//!
//! Who maps the segment read-only cannot announce himself. He sleeps on a word
//! of his own memory, by which he can be cancelled, in slices that grow from
//! 50 us to 1 ms.
//!
//! # Memory ordering
//!
//! `doze` and `cancel` as in the parent module, with S1 a read-modify-write. A
//! later S1 does not hide an earlier wake: between the two stands R4, which
//! changes the number that S4 compares. `bell` as there: a watcher's S1 releases, R4
//! acquires; whose bit R4 has cleared, R6 finds asleep.
//!
//! # Failure
//!
//! * R killed between R1 and R5: the sleepers find the message after the rest of
//!   their slice. So do watchers that R6 had not come to.
//! * S killed asleep, or gone for another reason: the bit stays, and R pays one
//!   addition and one system call for nobody; for a watcher an exchange and another
//!   system call.
//! * A hostile peer writes anything into the word: S wakes too early or one slice
//!   too late; R makes superfluous system calls.

use super::doorbell::rope_to;
use super::{
    Canceller, End, Link, PeerChange, Phase, SLICE, SLICE_REFUSED, SPIN_BUDGET, Sleeper,
    TRIES_PER_LOOK, TURNS_PER_LOOK, UNFENCED, Wait, WaitMode, Woken, wake,
};
use crate::error::{Error, ErrorKind, Result};
use crate::peer::PeerState;
use crate::sync::{AtomicBool, AtomicU32, fence};
use crate::sys::{fifo, futex, membarrier};
use crate::view::{View, Word32};
use core::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use core::sync::atomic::{AtomicU64, compiler_fence};
use core::time::Duration;
use nix::errno::Errno;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

/// Somebody sleeps, or is about to.
const ASLEEP: u32 = 1;
/// The first slice of one who cannot be woken by the writer; [`SLICE_REFUSED`] is the longest.
const SLICE_ALONE: Duration = Duration::from_micros(50);

/// Where the words of a crowd lie in the control window of an object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CrowdWords {
    /// The sleepers' word (32 bits).
    pub sleepers: usize,
    /// The writer's unfenced word (64 bits).
    pub unfenced: usize,
}

/// Where the sleep words of watchers lie in that window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watchers {
    /// That of the first (32 bits).
    pub first: usize,
    /// From one to the next.
    pub stride: usize,
    /// How many there are.
    pub count: u32,
}

/// R4 and R5: wakes all who sleep on `word` by adding `step`.
fn rouse(word: &AtomicU32, step: u32) {
    word.fetch_add(step, Acquire); // edge `bell`
    #[cfg(test)]
    crate::view::steps::stored();
    // There is no way to report a refused wake, and each slice ends by itself.
    _ = futex::wake(word, i32::MAX);
}

/// The side that publishes.
#[derive(Debug)]
pub(crate) struct Ringer {
    fences: bool,
    sleepers: Word32,
    control: View,
    watchers: Watchers,
    /// The watchers' bells, where they were passed by hand.
    ropes: Vec<Option<OwnedFd>>,
}

impl Ringer {
    /// Attaches to the words in `control`; `None` if this process may not write there.
    pub(crate) fn new(control: View, words: CrowdWords, watchers: Watchers) -> Option<Self> {
        let sleepers = control.find32(words.sleepers)?;
        let unfenced = membarrier::available() && membarrier::register().is_ok();
        control.store64(words.unfenced, if unfenced { UNFENCED } else { 0 }, Relaxed);
        fence(SeqCst); // edge `doze`, for those that are about to sleep
        Some(Self { fences: !unfenced, sleepers, control, watchers, ropes: Vec::new() })
    }

    /// Wakes everybody who sleeps; called behind each publication. Whether there was somebody.
    ///
    /// `link` knows the doorbells.
    #[inline(always)]
    pub(crate) fn announce(&mut self, link: &mut dyn Link) -> bool {
        if self.fences {
            fence(SeqCst); // edge `doze`
        } else {
            compiler_fence(SeqCst); // edge `doze`: the sleeper's barrier fences for us
        }
        let asleep = self.sleepers.word().load(Relaxed) & ASLEEP != 0;
        if asleep {
            self.ring(link);
        }
        asleep
    }

    /// R4 to R6.
    #[cold]
    fn ring(&mut self, link: &mut dyn Link) {
        rouse(self.sleepers.word(), 1);
        for slot in 0..self.watchers.count {
            let sleep = self.watchers.first + slot as usize * self.watchers.stride;
            let word = self.control.word32(sleep);
            if word.load(Relaxed) != 0 && wake(word) == Woken::MustBeRung {
                if let Some(Some(rope)) = self.ropes.get(slot as usize) {
                    // Refused, it costs the watcher the rest of a slice.
                    _ = fifo::ring(rope);
                }
                link.ring_bell(slot);
            }
        }
    }

    /// The same behind a close, whoever fences.
    pub(crate) fn announce_close(&mut self, link: &mut dyn Link) {
        fence(SeqCst); // edge `doze`
        if self.sleepers.word().load(Relaxed) & ASLEEP != 0 {
            self.ring(link);
        }
    }

    /// Takes the bell of the watcher in place number `slot`, passed by hand.
    pub(crate) fn take_rope(&mut self, slot: u32, bell: BorrowedFd<'_>) -> Result<()> {
        let (index, count) = (slot as usize, self.watchers.count);
        if slot >= count {
            let refused = Error::new(ErrorKind::InvalidArgument, "take the doorbell of", "watcher");
            return Err(refused.detail(format!("there is no place {slot}, there are {count}")));
        }
        let rope = rope_to(bell)?;
        if self.ropes.len() <= index {
            self.ropes.resize_with(index + 1, || None);
        }
        self.ropes[index] = Some(rope);
        Ok(())
    }
}

/// The word on which one of the crowd sleeps.
#[derive(Clone)]
pub(super) enum Bed {
    /// The common one in shared memory.
    Shared { control: View, words: CrowdWords },
    /// One's own, which only a canceller knows.
    Own(Arc<AtomicU32>),
}

impl Bed {
    fn word(&self) -> &AtomicU32 {
        match self {
            Self::Shared { control, words } => control.word32(words.sleepers),
            Self::Own(word) => word,
        }
    }

    /// Ends the sleep of whoever sleeps there, for a canceller; watchers sleep elsewhere.
    pub(super) fn shake(&self) {
        if self.word().load(Relaxed) & ASLEEP != 0 {
            rouse(self.word(), 2);
        }
    }
}

/// One of those who wait.
pub(crate) struct Onlooker {
    born: u64,
    forks: &'static AtomicU64,
    cancelled: Arc<AtomicBool>,
    mode: WaitMode,
    outlives_peer: bool,
    epoch: u64,
    known: PeerState,
    bed: Bed,
    /// The bed's word when it was announced.
    announced: u32,
    /// The slice of one who cannot be woken.
    alone: Duration,
    /// How many fruitless calls there were that did not wait, and when the writer was asked for.
    tries: u32,
    asked_nanos: u64,
    link: Box<dyn Link>,
}

impl Onlooker {
    /// One who waits for what is published over `control`; `link` knows the writer.
    pub(crate) fn new(control: View, words: CrowdWords, link: Box<dyn Link>) -> Self {
        if control.writable() {
            Self::in_bed(Bed::Shared { control, words }, link)
        } else {
            Self::alone(link)
        }
    }

    /// One who leaves no trace of his waiting, and so is not woken.
    pub(crate) fn alone(link: Box<dyn Link>) -> Self {
        Self::in_bed(Bed::Own(Arc::new(AtomicU32::new(0))), link)
    }

    fn in_bed(bed: Bed, link: Box<dyn Link>) -> Self {
        let forks = link.forks();
        Self {
            born: link.born(),
            forks,
            cancelled: Arc::new(AtomicBool::new(false)),
            mode: WaitMode::default(),
            outlives_peer: false,
            epoch: link.peer_epoch(),
            known: PeerState::Unknown,
            bed,
            announced: 0,
            alone: SLICE_ALONE,
            tries: 0,
            asked_nanos: 0,
            link,
        }
    }

    /// Whether calls may go on: false in a forked child.
    #[inline(always)]
    pub(crate) fn usable(&self) -> bool {
        self.forks.load(Relaxed) == self.born
    }

    pub(crate) fn set_mode(&mut self, mode: WaitMode) {
        self.mode = mode;
    }

    pub(crate) fn set_outlives_peer(&mut self, outlives: bool) {
        self.outlives_peer = outlives;
    }

    pub(crate) fn canceller(&self) -> Canceller {
        let sleeper = Sleeper::Crowd(self.bed.clone());
        Canceller { flag: Arc::clone(&self.cancelled), sleeper }
    }

    pub(crate) fn peer(&self) -> PeerState {
        self.link.peer_state()
    }

    pub(crate) fn peer_changed(&mut self) -> Option<PeerChange> {
        let new_epoch = self.link.peer_epoch();
        let old_epoch = core::mem::replace(&mut self.epoch, new_epoch);
        (old_epoch != new_epoch).then_some(PeerChange { old_epoch, new_epoch })
    }

    /// Passes some time of `wait`; the caller looks again after `Ok`.
    ///
    /// Every reason to give up is answered one look later, as by the port of an endpoint.
    pub(crate) fn wait(&mut self, wait: &mut Wait) -> Result<(), End> {
        if let Some(end) = wait.end {
            return Err(end);
        }
        match wait.phase {
            Phase::Spinning if self.mode != WaitMode::Block => self.spin(wait),
            Phase::Spinning | Phase::Announcing => self.lie_down(wait),
            Phase::Announced { refused } => self.sleep(wait, refused),
        }
        Ok(())
    }

    fn spin(&mut self, wait: &mut Wait) {
        core::hint::spin_loop();
        wait.turns = wait.turns.wrapping_add(1);
        if !wait.turns.is_multiple_of(TURNS_PER_LOOK) {
            return;
        }
        let now = Instant::now();
        let start = *wait.start.get_or_insert(now);
        if self.gave_up(wait, now) {
            return;
        }
        if self.mode == WaitMode::Spin || now.duration_since(start) < SPIN_BUDGET {
            return self.ask_now_and_then(wait, now);
        }
        if self.mode == WaitMode::Adaptive {
            wait.phase = Phase::Announcing;
            return;
        }
        std::thread::yield_now();
        // The clock is read after each look from here on: a look may take a time slice.
        wait.turns = TURNS_PER_LOOK - 1;
        self.ask_now_and_then(wait, now);
    }

    /// S1 and S2.
    fn lie_down(&mut self, wait: &mut Wait) {
        if self.known != PeerState::Alive {
            self.ask(wait);
            if wait.end.is_some() {
                return;
            }
        }
        self.announced = self.bed.word().fetch_or(ASLEEP, Relaxed) | ASLEEP;
        #[cfg(test)]
        crate::view::steps::stored();
        fence(SeqCst); // edges `doze`, `cancel`
        let refused = match &self.bed {
            Bed::Shared { control, words } => {
                let unfenced = control.load64(words.unfenced, Relaxed) != 0;
                unfenced && membarrier::barrier().is_err()
            }
            Bed::Own(_) => {
                self.alone = SLICE_ALONE;
                false
            }
        };
        wait.phase = Phase::Announced { refused };
        if self.link.peer_left() {
            self.ask(wait);
        }
        if self.cancelled.load(Relaxed) {
            wait.end = Some(End::Cancelled);
        }
    }

    /// S4 and what follows.
    fn sleep(&mut self, wait: &mut Wait, refused: bool) {
        let alone = matches!(self.bed, Bed::Own(_));
        let mut slice = match (alone, refused) {
            (true, _) => self.alone,
            (false, true) => SLICE_REFUSED,
            (false, false) => SLICE,
        };
        self.alone = (self.alone * 2).min(SLICE_REFUSED);
        if let Some(deadline) = wait.deadline {
            slice = slice.min(deadline.saturating_duration_since(Instant::now()));
        }
        let result = if slice.is_zero() {
            Ok(())
        } else {
            futex::wait(self.bed.word(), self.announced, slice)
        };
        let now = Instant::now();
        if self.gave_up(wait, now) {
            return;
        }
        match result {
            Err(Errno::ETIMEDOUT) if alone => self.ask_now_and_then(wait, now),
            Ok(()) | Err(Errno::EAGAIN) => {
                wait.phase = Phase::Spinning;
                wait.start = None;
            }
            Err(Errno::EINTR) => wait.phase = Phase::Announcing,
            Err(errno) => {
                if errno != Errno::ETIMEDOUT {
                    // No futex here (a seccomp filter, say): pass the slice some other way.
                    std::thread::sleep(slice.min(SLICE_REFUSED));
                }
                wait.phase = Phase::Announcing;
                self.ask(wait);
            }
        }
    }

    /// Looks at the flag and the deadline.
    fn gave_up(&self, wait: &mut Wait, now: Instant) -> bool {
        wait.end = if self.cancelled.load(Relaxed) {
            Some(End::Cancelled)
        } else if wait.deadline.is_some_and(|deadline| now >= deadline) {
            Some(End::TimedOut)
        } else {
            None
        };
        wait.end.is_some()
    }

    /// Asks for the writer once per slice, not at first, and when it says that it has left.
    fn ask_now_and_then(&mut self, wait: &mut Wait, now: Instant) {
        let asked = *wait.asked.get_or_insert(now);
        let left = !self.outlives_peer && self.link.peer_left();
        if left || now.duration_since(asked) >= SLICE {
            wait.asked = Some(now);
            self.ask(wait);
        }
    }

    fn ask(&mut self, wait: &mut Wait) {
        self.known = self.link.peer_state();
        wait.end = self.verdict();
    }

    /// What the state of the writer means for a wait that found nothing.
    fn verdict(&self) -> Option<End> {
        match self.known {
            _ if self.link.superseded() => Some(End::Superseded),
            PeerState::Closed if !self.outlives_peer => Some(End::Closed),
            PeerState::Dead if !self.outlives_peer => Some(End::PeerDied),
            _ => None,
        }
    }

    /// As for the port of an endpoint: for calls that do not wait and found nothing.
    pub(crate) fn tried_in_vain(&mut self) -> Option<End> {
        self.tries = self.tries.wrapping_add(1);
        if !self.tries.is_multiple_of(TRIES_PER_LOOK) {
            return None;
        }
        let now = futex::monotonic_nanos_coarse();
        if now.wrapping_sub(self.asked_nanos) < SLICE.as_nanos() as u64 {
            return None;
        }
        self.asked_nanos = now;
        self.known = self.link.peer_state();
        self.verdict()
    }
}

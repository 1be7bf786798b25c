//! Spin, yield, sleep on a shared futex; deadlines and cancellation.
//!
//! An endpoint that finds nothing to do looks again for a short time and then
//! sleeps in the kernel, until its peer rings. Nobody rings for a peer that was
//! killed, so a sleep lasts one slice at most; after each slice the kernel is
//! asked whether the peer still holds its claim. The slice declares nothing: a
//! slow peer stays alive however long it takes.
//!
//! There is no background thread and no signal handler, and the room does not
//! know what is waited for: the caller looks, [`Port::wait`] passes the time.
//!
//! This page is about ends that have a sleep word each: two of them, or many on
//! one side. Any number of readers that claim no end share a word, also with
//! others that do claim one: see `crowd`.
//!
//! # Protocol
//!
//! Each end has a 32-bit sleep word of its own. The sleeper S and the ringer R
//! (which has just published a message or released a slot):
//!
//! * S1 store 1 into its sleep word (2 if it is going to sleep in `poll`: see `doorbell`)
//! * S2 fence, or a barrier in R's process where R has said that it does not fence
//! * S3 look once more; go on if there is something
//! * S4 `FUTEX_WAIT` while the word is 1, for one slice
//! * R1 publish
//! * R2 fence, unless S fences for it
//! * R3 load S's sleep word; done if it is 0
//! * R4 exchange it with 0; done if it was 0 already: one announcement, one wake
//! * R5 `FUTEX_WAKE`; if the word was 2, a byte into the sleeper's doorbell instead
//!
//! Where S is one of many, all of its side share one more word that says that somebody sleeps:
//!
//! * S1 store as above, then set the shared word to 1
//! * R3 load the shared word; done if it is 0
//! * R4 exchange it with 0, then each sleep word of that side; R5 for each that was not 0. Where
//!   one is enough (whoever wakes takes what there is), R stops behind the first and sets the
//!   shared word again
//!
//! An end that leaves does the same: for R1 it stores that it has left and gives its claim back,
//! and S looks for that in S3, too; it repeats R3 to R5 until nobody of many sleeps. So a close costs
//! no slice, only a death does. A sleeper that was woken alone, where one is enough, and leaves
//! something to do, wakes another of its side.
//!
//! Either R3 sees S1 or S3 sees R1 (edge `doze`). Between S1 and S4 the word may
//! be exchanged, then S4 returns at once.
//!
//! # Who fences
//!
//! A full fence per message costs more than the message. Each end registers
//! with `membarrier` when it attaches, and then says in its *unfenced* word that
//! it leaves R2 out; where that fails it writes 0 there and fences. A sleeper
//! reads the peer's word behind S2 and calls the barrier if it is set. If the
//! barrier is refused, the sleeper sleeps in slices of 1 ms: a refused call costs
//! time, never a message. An end that attaches while S is about to sleep stores
//! its word, fences once and only then loads sleep words; so either it sees S1 or
//! S sees its word.
//!
//! The barrier interrupts the peer's processor, which costs as much as waking it.
//! So an end that has just woken its peer, and will probably have to again, fences
//! for its next messages: it stores 0 with release, so whoever reads that sees all
//! that was published without a fence; and goes back as it attached, by storing 1
//! and fencing once.
//!
//! # Memory ordering
//!
//! | edge | release side | acquire side | what becomes visible |
//! |---|---|---|---|
//! | `doze` | S1, S2 (fence) then S3 | R1, R2 (fence or barrier) then R3 | at least one side sees the other's store |
//! | `bell` | the bell's number, then S1 with 2 | R4, then the bell's number | which bell to ring |
//! | `bell` | S1, then its shared word | R4 on the shared word, then the sleep words | who sleeps |
//! | `cancel` | flag, fence, sleep word | S1, S2 then the flag | as `doze`, with the canceller as R |
//!
//! # Failure
//!
//! * R killed between R1 and R5: S sleeps for the rest of its slice, and finds
//!   the message then. Its sleep word may stay 0, it is stored anew by S1.
//!   Of many, those that R4 had not come to sleep as long.
//! * S killed asleep: its word stays 1; R pays one exchange and one system call
//!   for nobody. Where one of many is enough and that was he, the others sleep for
//!   the rest of their slices.
//! * A hostile peer writes any value into either word: S wakes too early or one
//!   slice too late; R makes superfluous system calls.

mod any;
#[cfg(feature = "tokio")]
mod asleep;
mod calls;
mod crowd;
mod doorbell;
#[cfg(all(test, hugeshm_loom))]
pub(crate) mod modelling;
#[cfg(test)]
pub(crate) mod testing;

pub(crate) use calls::endpoint_calls;

use crate::error::{Error, ErrorKind, Result};
use crate::peer::PeerState;
use crate::stats::StatsWriter;
use crate::sync::{AtomicBool, AtomicU32, fence};
use crate::sys::{futex, membarrier};
use crate::view::{View, Word32};
use core::fmt;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use core::sync::atomic::{AtomicU64, compiler_fence};
use core::time::Duration;
use nix::errno::Errno;
use std::sync::Arc;
use std::time::Instant;

pub use any::{AnyCanceller, WaitAny, WaitError, wait_any};
#[cfg(feature = "tokio")]
pub use asleep::Async;
pub(crate) use crowd::{CrowdWords, Onlooker, Ringer, Watchers};
pub use doorbell::{Armed, Doorbell, Waitable};
pub(crate) use doorbell::{Hung, Waits, doorbell_calls};

/// A sleep word: its end sleeps in the kernel on this very word.
const ASLEEP: u32 = 1;
/// A sleep word: its end sleeps in `poll`, and hears its doorbell only.
const ASLEEP_IN_POLL: u32 = 2;

/// How long an adaptive wait looks again before it sleeps.
const SPIN_BUDGET: Duration = Duration::from_micros(20);
/// How long a sleep lasts at most before the peer's life is looked at.
const SLICE: Duration = Duration::from_millis(50);
/// The slice where the barrier of an unfenced peer was refused.
const SLICE_REFUSED: Duration = Duration::from_millis(1);
/// The clock is read once per this many turns of a spin.
const TURNS_PER_LOOK: u32 = 16;
/// The coarse clock is read once per this many fruitless non-blocking calls.
const TRIES_PER_LOOK: u32 = 64;

/// For how long a reader that caught up with a stream looks away.
const LOOK_AWAY: Duration = Duration::from_nanos(250);
/// So many messages in a row, at least, are a stream.
pub(crate) const STREAM: u64 = 4;
/// After how many shorter runs it is tried whether there is a stream: at first, and at most.
const PATIENCE: core::ops::Range<u32> = 64..65_536;

/// How many PAUSEs make up [`LOOK_AWAY`]; the instruction's cost differs tenfold between processors.
fn pauses_of_look_away() -> u32 {
    static PAUSES: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    *PAUSES.get_or_init(|| {
        const SAMPLE: u32 = 64;
        let sample = || {
            let start = Instant::now();
            for _ in 0..SAMPLE {
                core::hint::spin_loop();
            }
            start.elapsed()
        };
        // The shortest of a few: an interrupt can only make a sample longer.
        let shortest = (0..8).map(|_| sample()).min().unwrap_or_default();
        let each = (shortest.as_nanos() as u32 / SAMPLE).max(1);
        (LOOK_AWAY.as_nanos() as u32 / each).clamp(1, 512)
    })
}

/// The word in an end's line that says "I do not fence".
const UNFENCED: u64 = 1;
/// For how many messages an end fences after it has woken its peer.
const FENCES_AFTER_WAKE: u32 = 64;
/// An end that can not leave its fences to the sleeper.
const FENCES_ALWAYS: u32 = u32::MAX;

/// How an endpoint passes the time while it has nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum WaitMode {
    /// Looks again without pause until the deadline; never gives up the processor.
    Spin,
    /// Spins for up to 20 us, then gives up the processor between looks.
    Yield,
    /// Spins for up to 20 us, then sleeps until the peer rings.
    #[default]
    Adaptive,
    /// Sleeps at once.
    Block,
}

/// What connects an endpoint with the table of endpoints: who is at the other end.
///
/// Dropping the link gives the claim back, so endpoints drop it last.
pub(crate) trait Link: Send {
    /// Leaves in good order and gives the claim back; a dropped link that did not say so died.
    fn close(&mut self) {}
    /// Whether the memory still has all its pages, as far as the kernel says. Asked before an
    /// endpoint says anything in leaving: to drop one must not be a signal.
    fn is_whole(&self) -> bool {
        true
    }
    /// Asks the kernel whether the other end is held: a system call, for slow paths only.
    fn peer_state(&self) -> PeerState;
    /// Whether the other end says that it has left in good order: one load. Only
    /// [`peer_state`](Self::peer_state) knows.
    fn peer_left(&self) -> bool {
        false
    }
    /// How often this end has been claimed, by now.
    fn own_epoch(&self) -> u64 {
        0
    }
    /// How often the other end has been claimed: one load.
    fn peer_epoch(&self) -> u64;
    /// Whether the segment was replaced by a new one: one load.
    fn superseded(&self) -> bool;
    /// The value of [`forks`](Self::forks) when the claim was made.
    fn born(&self) -> u64 {
        0
    }
    /// Makes a bell for the own end by which the peer can find it.
    fn hang_bell(&self) -> Result<Hung> {
        Err(Error::new(ErrorKind::Unsupported, "make doorbell", "endpoint")
            .detail("this memory has no place for names"))
    }
    /// Rings the bell of the other end (of number `slot` of them, where there are many), if there
    /// is one that can be found.
    fn ring_bell(&mut self, slot: u32) {
        let _ = slot;
    }
    /// What the kernel and its line say about end number `slot` of the other side: for slow paths.
    fn peer_at(&self, slot: u32) -> Option<PeerAt> {
        let _ = slot;
        None
    }
    /// Whether the kernel says that nobody holds end number `slot` of the other side, or of the
    /// own one: a system call. False where it cannot be asked.
    fn is_vacant(&self, own_side: bool, slot: u32) -> bool {
        let _ = (own_side, slot);
        false
    }
    /// How often this process, or an ancestor since the library was loaded, came out of a
    /// `fork`. A change since the endpoint was made means that it belongs to the parent.
    fn forks(&self) -> &'static AtomicU64;
}

/// The other end was taken over by a new process (or a new endpoint of the same process).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerChange {
    /// The claim that was last reported.
    pub old_epoch: u64,
    /// The claim that holds now.
    pub new_epoch: u64,
}

/// One of many ends on the other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerAt {
    pub state: PeerState,
    /// How often it has been claimed.
    pub epoch: u64,
    pub pid: u32,
    pub label: String,
}

/// Why a wait ended without what was waited for.
///
/// Public in a private module, as [`Port`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Closed,
    PeerDied,
    TimedOut,
    Cancelled,
    Superseded,
}

/// Where the words of a wait lie in the control window of an object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WaitWords {
    /// Own sleep word (32 bits).
    pub own_sleep: usize,
    /// Own unfenced word (64 bits).
    pub own_unfenced: usize,
    /// Where this end is one of many: the word that says that one of them sleeps (32 bits).
    pub own_side: Option<usize>,
    /// The other side.
    pub opposite: Opposite,
}

/// Where the words of the other side lie.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Opposite {
    /// There is one end.
    One {
        /// Its sleep word.
        sleep: usize,
        /// Its unfenced word.
        unfenced: usize,
    },
    /// There are many, and each may leave its fences to the sleeper.
    Many {
        /// The word that says that one of them sleeps.
        side: usize,
        /// The sleep word of the first.
        first: usize,
        /// From one sleep word to the next.
        stride: usize,
        /// How many there are.
        count: u32,
        /// Whether it is enough to wake one of them.
        one_is_enough: bool,
    },
}

impl Opposite {
    /// The word that R3 looks at.
    fn sleep(&self) -> usize {
        match *self {
            Self::One { sleep, .. } => sleep,
            Self::Many { side, .. } => side,
        }
    }
}

/// Ends the waits of one endpoint from another thread of the same process.
///
/// It keeps the segment mapped. It is sticky: every wait of the endpoint ends with `Cancelled`
/// until [`Canceller::reset`]. A message that is there is still taken first.
#[derive(Clone)]
pub struct Canceller {
    flag: Arc<AtomicBool>,
    sleeper: Sleeper,
}

/// Where the end sleeps that a [`Canceller`] wakes.
#[derive(Clone)]
enum Sleeper {
    /// On a word of its own, or in `poll`.
    Port { control: View, sleep: usize, bell: doorbell::OwnBell },
    /// With others.
    Crowd(crowd::Bed),
}

impl Canceller {
    /// Ends the present wait and all later ones.
    pub fn cancel(&self) {
        self.flag.store(true, Relaxed);
        fence(SeqCst); // edge `cancel`
        let (control, sleep, bell) = match &self.sleeper {
            Sleeper::Port { control, sleep, bell } => (control, *sleep, bell),
            Sleeper::Crowd(bed) => return bed.shake(),
        };
        let word = control.word32(sleep);
        match word.swap(0, Relaxed) {
            0 => {}
            ASLEEP_IN_POLL => bell.ring(),
            // There is no way to report a refused wake, and the sleeper's slice ends by itself.
            _ => _ = futex::wake(word, 1),
        }
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.flag.load(Relaxed)
    }

    /// Lets the endpoint wait again.
    pub fn reset(&self) {
        self.flag.store(false, Relaxed);
    }
}

impl fmt::Debug for Canceller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Canceller").field("cancelled", &self.is_cancelled()).finish()
    }
}

/// Who slept behind a sleep word.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Woken {
    Nobody,
    /// On the word; it was woken.
    Sleeper,
    /// In `poll`; the caller rings.
    MustBeRung,
}

/// R4 and R5 for one sleep word, but for its owner's doorbell.
fn wake(word: &AtomicU32) -> Woken {
    let state = word.swap(0, Acquire); // edge `bell`
    if state == 0 {
        return Woken::Nobody;
    }
    #[cfg(test)]
    crate::view::steps::stored();
    if state == ASLEEP_IN_POLL {
        return Woken::MustBeRung;
    }
    // A refused wake (a key that cannot be formed) costs the sleeper the rest of a slice.
    _ = futex::wake(word, 1);
    Woken::Sleeper
}

/// What an endpoint has beside its ring: its peer, its statistics, its bell.
///
/// Public in a private module: the sealed half of [`Waitable`] names it.
pub struct Port {
    /// Hot: compared with `forks` in each call. `u64::MAX` after the ring was found corrupt.
    born: u64,
    forks: &'static AtomicU64,
    /// For how many messages to come this end fences by itself.
    fences: u32,
    peer_sleep: Word32,
    control: View,
    words: WaitWords,
    cancelled: Arc<AtomicBool>,
    mode: WaitMode,
    outlives_peer: bool,
    tries: u32,
    /// How many runs of messages were no stream since we last looked away.
    in_step: u32,
    /// How many of them are waited for.
    patience: u32,
    asked_nanos: u64,
    epoch: u64,
    known: PeerState,
    pub(crate) stats: StatsWriter,
    bell: doorbell::OwnBell,
    /// The peer's bell, where it was passed by hand.
    rope: Option<std::os::fd::OwnedFd>,
    /// Dropped last: it gives the claim back.
    link: Box<dyn Link>,
}

impl Drop for Port {
    fn drop(&mut self) {
        self.leave();
    }
}

/// One wait in progress.
///
/// Public in a private module, as [`Port`].
pub struct Wait {
    deadline: Option<Instant>,
    start: Option<Instant>,
    asked: Option<Instant>,
    turns: u32,
    phase: Phase,
    /// Whether the own sleep word may hold 1.
    announced: bool,
    end: Option<End>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Spinning,
    Announcing,
    Announced { refused: bool },
}

impl Wait {
    /// A wait until `deadline`, or without end.
    #[inline]
    pub(crate) fn until(deadline: Option<Instant>) -> Self {
        let phase = Phase::Spinning;
        Self { deadline, start: None, asked: None, turns: 0, phase, announced: false, end: None }
    }
}

/// Passes the time of `end` until `look` says true, or there is a reason to give up.
///
/// The loop of all blocking calls: `look` is asked once more after each reason.
pub(crate) fn wait_until<T, E: From<End>>(
    end: &mut T,
    deadline: Option<Instant>,
    port: impl Fn(&mut T) -> &mut Port,
    mut look: impl FnMut(&mut T) -> core::result::Result<bool, E>,
) -> core::result::Result<(), E> {
    let mut wait = Wait::until(deadline);
    let result = loop {
        if let Err(why) = port(end).wait(&mut wait) {
            break Err(why.into());
        }
        match look(end) {
            Ok(false) => {}
            Ok(true) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    port(end).settle(&wait);
    result
}

/// The instant `timeout` from now; none where that lies beyond the clock, which is for ever.
pub(crate) fn deadline_after(timeout: Duration) -> Option<Instant> {
    Instant::now().checked_add(timeout)
}

impl Port {
    /// Attaches to the words of a wait in `control`; `None` if this process may not write there.
    pub(crate) fn new(
        control: View,
        words: WaitWords,
        link: Box<dyn Link>,
        stats: StatsWriter,
    ) -> Option<Self> {
        let peer_sleep = control.find32(words.opposite.sleep())?;
        let unfenced = membarrier::available() && membarrier::register().is_ok();
        control.store64(words.own_unfenced, if unfenced { UNFENCED } else { 0 }, Relaxed);
        fence(SeqCst); // edge `doze`, for a peer that is about to sleep
        let forks = link.forks();
        Some(Self {
            born: forks.load(Relaxed),
            forks,
            fences: if unfenced { 0 } else { FENCES_ALWAYS },
            peer_sleep,
            control,
            words,
            cancelled: Arc::new(AtomicBool::new(false)),
            mode: WaitMode::default(),
            outlives_peer: false,
            tries: 0,
            in_step: 0,
            patience: PATIENCE.start,
            asked_nanos: 0,
            epoch: link.peer_epoch(),
            known: PeerState::Unknown,
            stats,
            bell: doorbell::OwnBell::default(),
            rope: None,
            link,
        })
    }

    /// Whether calls may go on: false in a forked child and after [`Port::condemn`].
    #[inline(always)]
    pub(crate) fn usable(&self) -> bool {
        self.forks.load(Relaxed) == self.born
    }

    /// Who is at the other end.
    pub(crate) fn link(&self) -> &dyn Link {
        &*self.link
    }

    /// Makes [`Port::usable`] false for ever.
    #[cold]
    pub(crate) fn condemn(&mut self) {
        self.born = u64::MAX;
    }

    pub(crate) fn set_mode(&mut self, mode: WaitMode) {
        self.mode = mode;
    }

    /// Whether a wait looks again at first, instead of sleeping at once.
    #[inline(always)]
    pub(crate) fn spins(&self) -> bool {
        self.mode != WaitMode::Block
    }

    pub(crate) fn set_outlives_peer(&mut self, outlives: bool) {
        self.outlives_peer = outlives;
    }

    pub(crate) fn canceller(&self) -> Canceller {
        let (control, sleep) = (self.control.clone(), self.words.own_sleep);
        let sleeper = Sleeper::Port { control, sleep, bell: self.bell.clone() };
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

    /// Wakes the peer if it sleeps (R2 to R5); called behind each publication.
    #[inline(always)]
    pub(crate) fn announce(&mut self) {
        compiler_fence(SeqCst); // edge `doze`: the sleeper's barrier fences for us
        if self.fences > 0 {
            self.fence(); // edge `doze`: or we do
        }
        if self.peer_sleep.word().load(Relaxed) != 0 {
            self.ring();
        }
    }

    /// Leaves in good order, and wakes a peer that sleeps so that it hears of it at once.
    ///
    /// While a panic unwinds nothing is said: a program that fails half-way did not close.
    fn leave(&mut self) {
        let own = self.forks.load(Relaxed) == self.link.born() && !std::thread::panicking();
        if !own || !self.link.is_whole() {
            return;
        }
        self.link.close();
        fence(SeqCst); // edge `doze`
        // Each of them, also where one is enough for a message. Not counted: the statistics may be a
        // successor's by now.
        let ends = match self.words.opposite {
            Opposite::One { .. } => 1,
            Opposite::Many { count, .. } => count,
        };
        for _ in 0..ends {
            if self.peer_sleep.word().load(Relaxed) == 0 || !self.wake_peer() {
                break;
            }
        }
    }

    #[cold]
    fn fence(&mut self) {
        fence(SeqCst);
        if self.fences != FENCES_ALWAYS {
            self.fences -= 1;
            if self.fences == 0 {
                self.control.store64(self.words.own_unfenced, UNFENCED, Relaxed);
                fence(SeqCst); // as at attach
            }
        }
    }

    /// Wakes end number `slot` of the many on the other side if it sleeps, and no other; called
    /// behind each publication that is for it alone. R3 looks at its own sleep word, `sleep`.
    #[inline(always)]
    pub(crate) fn announce_to(&mut self, slot: u32, sleep: &Word32) {
        compiler_fence(SeqCst); // edge `doze`: the sleeper's barrier fences for us
        if self.fences > 0 {
            self.fence(); // edge `doze`: or we do
        }
        if sleep.word().load(Relaxed) != 0 {
            self.ring_one(slot, sleep.word());
        }
    }

    /// R4 and R5 for one end of the other side.
    #[cold]
    fn ring_one(&mut self, slot: u32, sleep: &AtomicU32) {
        match wake(sleep) {
            Woken::Nobody => return,
            Woken::Sleeper => {}
            Woken::MustBeRung => self.ring_doorbell(slot),
        }
        self.has_woken();
    }

    #[cold]
    fn ring(&mut self) {
        if self.wake_peer() {
            self.has_woken();
        }
    }

    /// From now on it fences for a while: it will probably have to wake its peer again.
    fn has_woken(&mut self) {
        self.stats.wakes();
        if self.fences == 0 {
            self.control.store64(self.words.own_unfenced, 0, Release);
        }
        if self.fences != FENCES_ALWAYS {
            self.fences = FENCES_AFTER_WAKE;
        }
    }

    /// R4 and R5; whether there was somebody to wake.
    fn wake_peer(&mut self) -> bool {
        let Opposite::Many { side, first, stride, count, one_is_enough } = self.words.opposite
        else {
            return self.wake(0, self.words.opposite.sleep());
        };
        let announced = self.peer_sleep.word().swap(0, Acquire); // edge `bell`
        if announced == 0 {
            return false;
        }
        #[cfg(test)]
        crate::view::steps::stored();
        let mut woken = false;
        for slot in 0..count {
            let sleep = first + slot as usize * stride;
            if self.control.word32(sleep).load(Relaxed) == 0 {
                continue;
            }
            if woken && one_is_enough {
                self.control.word32(side).store(1, Release); // edge `bell`, for others
                break;
            }
            woken |= self.wake(slot, sleep);
        }
        woken
    }

    /// R4 and R5 for end number `slot` of the other side, whose sleep word lies at `sleep`; whether
    /// it slept.
    fn wake(&mut self, slot: u32, sleep: usize) -> bool {
        let woken = wake(self.control.word32(sleep));
        if woken == Woken::MustBeRung {
            self.ring_doorbell(slot);
        }
        woken != Woken::Nobody
    }

    /// Whether the kernel says that nobody holds end number `slot` of the other side, or of the
    /// own one: a system call.
    pub(crate) fn is_vacant(&self, own_side: bool, slot: u32) -> bool {
        self.link.is_vacant(own_side, slot)
    }

    /// Wakes one of the `count` ends of the own side that sleep, whose sleep words begin at `first`
    /// and lie `stride` bytes apart: for an end that was woken alone, where one is enough, and
    /// leaves something to do. Those that sleep in `poll` hear the other side only.
    pub(crate) fn wake_mate(&mut self, first: usize, stride: usize, count: u32) {
        let Some(side) = self.words.own_side else { return };
        if self.control.word32(side).load(Relaxed) == 0 {
            return;
        }
        for slot in 0..count {
            let word = self.control.word32(first + slot as usize * stride);
            let asleep = word.load(Relaxed) == ASLEEP;
            if asleep && word.compare_exchange(ASLEEP, 0, Acquire, Relaxed).is_ok() {
                // As with any refused wake: the slice ends by itself.
                _ = futex::wake(word, 1);
                return;
            }
        }
    }

    /// Leaves the lines alone for a moment if this end has caught up with a stream, `passed`
    /// messages after it last did; true if it has, and the caller takes a fresh look.
    ///
    /// A reader that polls the line which its writer is filling takes it away between two stores,
    /// and its processor fetches the next ones ahead. Both ends then go in step, a message at a
    /// time, at a fraction of the speed; that looks like a dialogue, so now and then it is tried
    /// out, ever more seldom while nothing comes of it. Off under [`WaitMode::Spin`]; part of the
    /// time that a wait spins before it sleeps. Where a message has `bytes` bytes, it is the longer
    /// the longer it takes to write some of them.
    #[inline(never)]
    pub(crate) fn look_away(&mut self, passed: u64, bytes: u64) -> bool {
        if self.mode == WaitMode::Spin {
            return false;
        }
        if passed >= STREAM {
            self.patience = PATIENCE.start;
        } else {
            self.in_step += 1;
            if self.in_step < self.patience {
                return false;
            }
            self.patience = (self.patience * 2).min(PATIENCE.end);
        }
        self.in_step = 0;
        let times = 1 + (bytes / 2048).min(3) as u32;
        for _ in 0..times * pauses_of_look_away() {
            core::hint::spin_loop();
        }
        true
    }

    /// Passes some time of `wait`; the caller looks again after `Ok`.
    ///
    /// Every reason to give up, a cancellation too, is answered one look later, so what was
    /// published before the peer died, or before the deadline, is not missed.
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

    /// Ends `wait`: takes back what was announced.
    #[inline]
    pub(crate) fn settle(&self, wait: &Wait) {
        if wait.announced {
            self.control.word32(self.words.own_sleep).store(0, Relaxed);
        }
    }

    fn spin(&self, wait: &mut Wait) {
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
        match self.mode {
            WaitMode::Adaptive | WaitMode::Block => wait.phase = Phase::Announcing,
            WaitMode::Spin | WaitMode::Yield => {
                std::thread::yield_now();
                // The clock is read after each look from here on: a look may take a time slice.
                wait.turns = TURNS_PER_LOOK - 1;
                self.ask_now_and_then(wait, now);
            }
        }
    }

    /// S1 and S2.
    fn lie_down(&mut self, wait: &mut Wait) {
        if self.known != PeerState::Alive {
            self.ask(wait);
            if wait.end.is_some() {
                return;
            }
        }
        wait.announced = true;
        self.lie(ASLEEP);
        fence(SeqCst); // edges `doze`, `cancel`
        let refused = self.peer_is_unfenced() && membarrier::barrier().is_err();
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
        let mut slice = if refused { SLICE_REFUSED } else { SLICE };
        if let Some(deadline) = wait.deadline {
            slice = slice.min(deadline.saturating_duration_since(Instant::now()));
        }
        if !slice.is_zero() {
            self.stats.sleeps();
        }
        let word = self.control.word32(self.words.own_sleep);
        let result = if slice.is_zero() { Ok(()) } else { futex::wait(word, ASLEEP, slice) };
        if self.gave_up(wait, Instant::now()) {
            return;
        }
        match result {
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

    /// Looks at the flag, the deadline and the segment's own end.
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

    /// A spinning wait asks for the peer once per slice, not at its start, and when it says that
    /// it has left.
    fn ask_now_and_then(&self, wait: &mut Wait, now: Instant) {
        let asked = *wait.asked.get_or_insert(now);
        let left = !self.outlives_peer && self.link.peer_left();
        if left || now.duration_since(asked) >= SLICE {
            wait.asked = Some(now);
            wait.end = self.verdict(self.link.peer_state());
        }
    }

    fn ask(&mut self, wait: &mut Wait) {
        self.known = self.link.peer_state();
        wait.end = self.verdict(self.known);
    }

    /// What the state of the peer means for a wait that found nothing.
    fn verdict(&self, state: PeerState) -> Option<End> {
        if self.link.superseded() {
            return Some(End::Superseded);
        }
        match state {
            PeerState::Closed if !self.outlives_peer => Some(End::Closed),
            PeerState::Dead if !self.outlives_peer => Some(End::PeerDied),
            _ => None,
        }
    }

    /// For the non-blocking calls that found nothing: asks about the peer once per slice.
    ///
    /// The caller must look once more before it believes the answer.
    #[inline]
    pub(crate) fn tried_in_vain(&mut self) -> Option<End> {
        self.tries = self.tries.wrapping_add(1);
        if !self.tries.is_multiple_of(TRIES_PER_LOOK) {
            return None;
        }
        self.ask_after_tries()
    }

    #[cold]
    fn ask_after_tries(&mut self) -> Option<End> {
        let now = futex::monotonic_nanos_coarse();
        if now.wrapping_sub(self.asked_nanos) < SLICE.as_nanos() as u64 {
            return None;
        }
        self.asked_nanos = now;
        self.stats.active();
        self.verdict(self.link.peer_state())
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port").field("mode", &self.mode).field("fences", &self.fences).finish()
    }
}

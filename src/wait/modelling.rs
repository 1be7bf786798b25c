//! What all models share: exploring, dying, and what the kernel says about the other end.

use super::{Link, PeerAt};
use crate::peer::PeerState;
use crate::stats::{LINE_LEN, StatsWriter};
use crate::sync::modelled;
use crate::view::View;
use loom::sync::atomic::{AtomicBool, AtomicU64 as ModelU64};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};

/// Runs `model` in every order, with at most so many switches away from a thread that could go
/// on; says how many orders there were.
///
/// `HUGESHM_PREEMPTIONS` overrides the bound.
#[track_caller]
pub(crate) fn explore(name: &str, preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let asked = std::env::var("HUGESHM_PREEMPTIONS").ok().and_then(|text| text.parse().ok());
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(asked.unwrap_or(preemptions));
    builder.max_branches = 100_000;
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    builder.check(move || {
        counted.fetch_add(1, Relaxed);
        let run = modelled::begin();
        model();
        drop(run);
    });
    let count = count.load(Relaxed);
    assert!(count > 0);
    println!("MODEL {name}: {count} interleavings");
}

/// Runs `model` for each access at which the one that is to die may die, until it survives.
#[track_caller]
pub(crate) fn explore_deaths(
    name: &str,
    preemptions: usize,
    model: impl Fn(Death) + Send + Sync + Clone + 'static,
) {
    for after in 0.. {
        let death = Death { after, died: Arc::new(std::sync::atomic::AtomicBool::new(false)) };
        let died = Arc::clone(&death.died);
        let model = model.clone();
        explore(&format!("{name}, dead after {after}"), preemptions, move || model(death.clone()));
        if !died.load(SeqCst) {
            assert!(after > 0, "nobody died");
            return;
        }
    }
}

/// When somebody is to die.
#[derive(Clone)]
pub(crate) struct Death {
    after: u32,
    died: Arc<std::sync::atomic::AtomicBool>,
}

impl Death {
    /// Does `work`, which ends in the middle; none if it did, and then `lives` says that end
    /// `who` is dead.
    pub(crate) fn befalls<R>(
        &self,
        lives: &Lives,
        who: Who,
        work: impl FnOnce() -> R,
    ) -> Option<R> {
        modelled::dies_after(self.after);
        match catch_unwind(AssertUnwindSafe(work)) {
            Ok(result) => {
                modelled::lives_on();
                Some(result)
            }
            Err(payload) if payload.is::<modelled::Died>() => {
                self.died.store(true, SeqCst);
                modelled::buried();
                lives.set(who, Lock::Died);
                modelled::slices_end();
                None
            }
            Err(payload) => resume_unwind(payload),
        }
    }
}

/// What the kernel and the table of endpoints say of one end.
struct Life {
    /// What the kernel says, which is never out of date.
    lock: loom::sync::Mutex<Lock>,
    /// What the end says itself when it leaves.
    left: AtomicBool,
    epoch: ModelU64,
}

/// The lock on an end's place.
#[derive(Clone, Copy)]
enum Lock {
    Never,
    Held,
    Died,
    Left,
}

/// The lives of the ends of one object: those of the one side, then those of the other.
#[derive(Clone)]
pub(crate) struct Lives {
    all: Arc<Vec<Life>>,
    first_of: [usize; 3],
}

/// One end: its side, 0 or 1, and its number there.
pub(crate) type Who = (usize, usize);

impl Lives {
    pub(crate) fn of(ones: usize, others: usize) -> Self {
        let life = |_| Life {
            lock: loom::sync::Mutex::new(Lock::Never),
            left: AtomicBool::new(false),
            epoch: ModelU64::new(0),
        };
        let first_of = [0, ones, ones + others];
        Self { all: Arc::new((0..ones + others).map(life).collect()), first_of }
    }

    fn life(&self, (side, number): Who) -> &Life {
        assert!(number < self.first_of[side + 1] - self.first_of[side], "there is no such end");
        &self.all[self.first_of[side] + number]
    }

    /// Claims an end: the first claim, or one after its last holder died or left.
    pub(crate) fn claim(&self, own: Who) -> Box<dyn Link> {
        let life = self.life(own);
        life.epoch.store(life.epoch.load(Relaxed) + 1, Release);
        life.left.store(false, Release);
        self.set(own, Lock::Held);
        Box::new(ModelLink { own, lives: self.clone() })
    }

    /// One who claims nothing, and looks at the side opposite of `own`.
    pub(crate) fn onlooker(&self, own: Who) -> Box<dyn Link> {
        Box::new(ModelLink { own, lives: self.clone() })
    }

    fn set(&self, who: Who, lock: Lock) {
        *self.life(who).lock.lock().expect("nobody panics behind it") = lock;
    }

    fn state(&self, who: Who) -> PeerState {
        match *self.life(who).lock.lock().expect("nobody panics behind it") {
            Lock::Never => PeerState::Never,
            Lock::Held => PeerState::Alive,
            Lock::Died => PeerState::Dead,
            Lock::Left => PeerState::Closed,
        }
    }
}

struct ModelLink {
    own: Who,
    lives: Lives,
}

impl ModelLink {
    fn peers(&self) -> impl Iterator<Item = Who> {
        let side = 1 - self.own.0;
        let count = self.lives.first_of[side + 1] - self.lives.first_of[side];
        (0..count).map(move |number| (side, number))
    }
}

/// Nobody forks in a model.
static FORKS: AtomicU64 = AtomicU64::new(0);

impl Link for ModelLink {
    fn close(&mut self) {
        self.lives.life(self.own).left.store(true, Release);
        self.lives.set(self.own, Lock::Left);
    }
    /// Of many, as `segment` does: somebody alive counts most, then one never claimed.
    fn peer_state(&self) -> PeerState {
        let states: Vec<PeerState> = self.peers().map(|who| self.lives.state(who)).collect();
        let wanted = [PeerState::Alive, PeerState::Never, PeerState::Dead];
        wanted.into_iter().find(|state| states.contains(state)).unwrap_or(PeerState::Closed)
    }
    fn peer_left(&self) -> bool {
        self.peers().all(|who| self.lives.life(who).left.load(Acquire))
    }
    fn own_epoch(&self) -> u64 {
        self.lives.life(self.own).epoch.load(Acquire)
    }
    fn peer_epoch(&self) -> u64 {
        self.peers().map(|who| self.lives.life(who).epoch.load(Acquire)).sum()
    }
    fn superseded(&self) -> bool {
        false
    }
    fn peer_at(&self, slot: u32) -> Option<PeerAt> {
        let who = self.peers().nth(slot as usize)?;
        let (state, epoch) = (self.lives.state(who), self.lives.life(who).epoch.load(Acquire));
        Some(PeerAt { state, epoch, pid: 1, label: String::new() })
    }
    fn is_vacant(&self, own_side: bool, slot: u32) -> bool {
        let side = if own_side { self.own.0 } else { 1 - self.own.0 };
        !matches!(self.lives.state((side, slot as usize)), PeerState::Alive)
    }
    fn forks(&self) -> &'static AtomicU64 {
        &FORKS
    }
}

/// What a thread has done for sure, for another that outlives it.
#[derive(Clone, Default)]
pub(crate) struct Tally(Arc<AtomicU64>);

impl Tally {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, SeqCst);
    }
    pub(crate) fn get(&self) -> u64 {
        self.0.load(SeqCst)
    }
}

/// A line of statistics, which is nobody's business and so is not modelled.
pub(crate) fn stats() -> StatsWriter {
    StatsWriter::attach(View::heap(LINE_LEN)).expect("a line that may be written")
}

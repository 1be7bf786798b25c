//! What a half sees while it is measured.
//!
//! Both halves call [`Stage::meet`] the same number of times, at the same
//! places, and [`Stage::run`] once: it meets, runs the operations that warm
//! everything up, and then blocks of operations with one look at the clock
//! behind each. No time stamp lies inside of a block. A half that fails tells
//! its partner, whose next meeting fails too; one that is stuck elsewhere is
//! ended by the coordinator.

use crate::shared::Shared;
use core::cell::{Cell, RefCell};
use core::sync::atomic::Ordering::{Acquire, Release};
use nix::sys::resource::{UsageWho, getrusage};
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How a half ends.
pub type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Which half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Makes things, sends, and starts a round trip.
    First,
    /// Opens things, receives, and answers.
    Second,
}

/// How much is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub warm: u64,
    pub blocks: u32,
    pub operations: u64,
}

impl Plan {
    /// All operations of a half, the warming included.
    pub(crate) fn total(&self) -> u64 {
        self.warm + u64::from(self.blocks) * self.operations
    }
}

/// What a half reports.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Told {
    /// Nanoseconds of each block.
    pub blocks: Vec<u64>,
    /// Whether this half lost its processor to somebody else during the block.
    pub preempted: Vec<bool>,
    /// Percentiles of the samples: 50, 90, 99, 99.9, 100.
    pub percentiles: Option<[f64; 5]>,
    /// The line's round trip in ns, before and after.
    pub line: [f64; 2],
    /// Page faults before the clock started, and while it ran.
    pub faults: [i64; 2],
    /// Nanoseconds before the first meeting: making or opening things.
    pub setup: u64,
    /// Numbers per operation.
    pub counts: BTreeMap<String, f64>,
    pub remark: Option<String>,
    pub error: Option<String>,
}

/// The lines of the meeting place.
const ARRIVED: [usize; 2] = [0, 1];
const BROKEN: usize = 2;
const PROBE: usize = 3;

/// Lines of texts, one word in each.
const TEXTS: usize = 80;
const TEXT_WORDS: usize = 64;

const PROBE_BLOCKS: usize = 8;
const PROBE_TRIPS: u64 = 256;
/// A meeting takes as long as making a large segment does.
const PATIENCE: Duration = Duration::from_secs(8);

/// A half while it is measured.
pub struct Stage<'a> {
    side: Side,
    alone: bool,
    run: u64,
    plan: Plan,
    shared: &'a Shared,
    desk: &'a Desk,
    step: Cell<u64>,
    began: Instant,
    measuring: Cell<bool>,
    samples: RefCell<Vec<u32>>,
    told: RefCell<Told>,
}

/// Where halves in one process hand things to each other.
pub(crate) type Desk = Arc<Mutex<Option<Box<dyn Any + Send>>>>;

impl<'a> Stage<'a> {
    pub(crate) fn new(
        side: Side,
        alone: bool,
        run: u64,
        plan: Plan,
        shared: &'a Shared,
        desk: &'a Desk,
    ) -> Self {
        Self {
            side,
            alone,
            run,
            plan,
            shared,
            desk,
            step: Cell::new(0),
            began: Instant::now(),
            measuring: Cell::new(false),
            samples: RefCell::default(),
            told: RefCell::default(),
        }
    }

    /// Which half this is.
    pub fn side(&self) -> Side {
        self.side
    }

    /// A name that no other turn has and both halves know.
    pub fn name(&self) -> String {
        format!("bench-{}", self.run)
    }

    /// How many operations there will be in all, the warming included.
    pub fn total(&self) -> u64 {
        self.plan.total()
    }

    /// Leaves a short text (at most 504 bytes) in place `place` (0 to 3) for the other half.
    pub fn say(&self, place: usize, text: &str) {
        let words = [text.len() as u64].into_iter().chain(text.as_bytes().chunks(8).map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(word)
        }));
        for (at, word) in words.take(TEXT_WORDS).enumerate() {
            self.shared.word(TEXTS + place * TEXT_WORDS + at).store(word, Release);
        }
    }

    /// The text that the other half left before the last meeting.
    pub fn hear(&self, place: usize) -> String {
        let word = |at: usize| self.shared.word(TEXTS + place * TEXT_WORDS + at).load(Acquire);
        let len = (word(0) as usize).min((TEXT_WORDS - 1) * 8);
        let bytes: Vec<u8> = (1..=len.div_ceil(8)).flat_map(|at| word(at).to_le_bytes()).collect();
        String::from_utf8_lossy(&bytes[..len]).into_owned()
    }

    /// Memory that both halves have.
    pub fn shared(&self) -> &'a Shared {
        self.shared
    }

    /// Lays something down for the other half; only for halves in one process.
    pub fn hand<T: Send + 'static>(&self, thing: T) {
        if let Ok(mut desk) = self.desk.lock() {
            *desk = Some(Box::new(thing));
        }
    }

    /// Takes what the other half laid down before the last meeting.
    ///
    /// # Errors
    ///
    /// If there is nothing of this type.
    pub fn take<T: 'static>(&self) -> Outcome<T> {
        let thing = self.desk.lock().map_err(|_| "the desk is poisoned")?.take();
        let thing = thing.ok_or("nothing was handed over")?;
        Ok(*thing.downcast::<T>().map_err(|_| "something else was handed over")?)
    }

    /// Waits for the other half.
    ///
    /// # Errors
    ///
    /// If it has failed, or does not come.
    pub fn meet(&self) -> Outcome {
        if self.alone {
            return Ok(());
        }
        let step = self.step.get() + 1;
        self.step.set(step);
        let (own, other) = match self.side {
            Side::First => (ARRIVED[0], ARRIVED[1]),
            Side::Second => (ARRIVED[1], ARRIVED[0]),
        };
        let here = (self.run << 16) | step;
        self.shared.word_in(own, 0).store(here, Release);
        let began = Instant::now();
        let mut turns = 0_u32;
        while self.shared.word_in(other, 0).load(Acquire) < here {
            core::hint::spin_loop();
            turns = turns.wrapping_add(1);
            if turns.is_multiple_of(1024) {
                if self.shared.word_in(BROKEN, 0).load(Acquire) == self.run {
                    return Err("the other half failed".into());
                }
                if began.elapsed() > PATIENCE {
                    return Err("the other half does not come".into());
                }
            }
        }
        Ok(())
    }

    /// Meets, and then calls `block` with numbers of operations: those that warm up, then those
    /// that are timed. `block` does so many operations.
    ///
    /// # Errors
    ///
    /// Those of `block` and of [`Stage::meet`].
    pub fn run(&self, mut block: impl FnMut(u64) -> Outcome) -> Outcome {
        let Plan { warm, blocks, operations } = self.plan;
        let mut times = Vec::with_capacity(blocks as usize + 1);
        self.samples.borrow_mut().reserve(1 << 20);
        self.told.borrow_mut().setup = self.began.elapsed().as_nanos() as u64;
        self.meet()?;
        block(warm)?;
        let faults = faults();
        self.measuring.set(true);
        let mut switches = Vec::with_capacity(blocks as usize + 1);
        switches.push(preemptions());
        times.push(Instant::now());
        for _ in 0..blocks {
            block(operations)?;
            times.push(Instant::now());
            switches.push(preemptions());
        }
        self.measuring.set(false);
        let mut told = self.told.borrow_mut();
        told.faults[1] = self::faults() - faults;
        told.preempted = switches.windows(2).map(|pair| pair[0] != pair[1]).collect();
        told.blocks = times.windows(2).map(|pair| (pair[1] - pair[0]).as_nanos() as u64).collect();
        Ok(())
    }

    /// Notes one time in nanoseconds, unless everything is still being warmed up.
    #[inline]
    pub fn sample(&self, nanos: u64) {
        if self.measuring.get() {
            self.samples.borrow_mut().push(nanos.min(u64::from(u32::MAX)) as u32);
        }
    }

    /// Notes how often something happened in all operations, the warming included.
    pub fn count(&self, what: &str, times: u64) {
        let rate = times as f64 / self.total() as f64;
        self.told.borrow_mut().counts.insert(what.to_owned(), rate);
    }

    /// Says something about the turn, such as on which pages it was.
    pub fn remark(&self, text: impl Into<String>) {
        self.told.borrow_mut().remark = Some(text.into());
    }

    /// Notes the page faults up to now as those of making and opening things.
    pub fn set_up(&self) {
        let mut told = self.told.borrow_mut();
        told.faults[0] += faults();
    }

    /// Runs `half` between two probes of the line; what it has to tell.
    pub(crate) fn play(self, half: impl Fn(&Self) -> Outcome) -> Told {
        let whole = || -> Outcome {
            let before = self.probe()?;
            self.told.borrow_mut().faults[0] = -faults();
            half(&self)?;
            let after = self.probe()?;
            self.told.borrow_mut().line = [before, after];
            Ok(())
        };
        let ended = std::panic::catch_unwind(core::panic::AssertUnwindSafe(whole));
        let error = match ended {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("it panicked".to_owned()),
        };
        if error.is_some() {
            self.shared.word_in(BROKEN, 0).store(self.run, Release);
        }
        let mut told = self.told.into_inner();
        told.error = error;
        told.percentiles = percentiles(self.samples.into_inner());
        told
    }

    /// The round trip of one line, polled with PAUSE, in ns.
    fn probe(&self) -> Outcome<f64> {
        if self.alone {
            return Ok(0.0);
        }
        let word = self.shared.word_in(PROBE, 0);
        if self.side == Side::First {
            word.store(0, Release);
        }
        self.meet()?;
        let mut blocks = Vec::with_capacity(PROBE_BLOCKS);
        for block in 0..PROBE_BLOCKS as u64 {
            let began = Instant::now();
            line_trips(word, self.side, block * PROBE_TRIPS, PROBE_TRIPS);
            blocks.push(began.elapsed().as_nanos() as u64);
        }
        // The least: somebody else may have had the processor, but nothing makes a line faster.
        Ok(blocks.into_iter().min().unwrap_or(0) as f64 / PROBE_TRIPS as f64)
    }
}

/// Sends the line to and fro; `done` trips were made since it held 0.
#[inline]
pub(crate) fn line_trips(word: &core::sync::atomic::AtomicU64, side: Side, done: u64, trips: u64) {
    for trip in done..done + trips {
        let (await_value, store_value) = match side {
            Side::First => (2 * trip, 2 * trip + 1),
            Side::Second => (2 * trip + 1, 2 * trip + 2),
        };
        while word.load(Acquire) != await_value {
            core::hint::spin_loop();
        }
        word.store(store_value, Release);
    }
}

/// Page faults of this process so far.
fn faults() -> i64 {
    getrusage(UsageWho::RUSAGE_SELF)
        .map_or(0, |usage| usage.minor_page_faults() + usage.major_page_faults())
}

/// How often this thread had to give its processor away.
fn preemptions() -> i64 {
    getrusage(UsageWho::RUSAGE_THREAD).map_or(0, |usage| usage.involuntary_context_switches())
}

fn percentiles(mut samples: Vec<u32>) -> Option<[f64; 5]> {
    samples.sort_unstable();
    let last = samples.len().checked_sub(1)?;
    let at = |share: f64| f64::from(samples[(share * last as f64).round() as usize]);
    Some([at(0.5), at(0.9), at(0.99), at(0.999), at(1.0)])
}

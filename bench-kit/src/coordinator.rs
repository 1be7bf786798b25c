//! Starts the workers, calls the turns, survives a contestant that hangs.
//!
//! The coordinator sleeps while two workers are at work. A pair of workers that
//! does not answer in time is killed and started anew, and the contest is left
//! out from then on. A second executable (of another commit, or built with other
//! flags) can have a pair of its own, whose turns follow ours at once.

use crate::contest::{Contest, Place, Suite};
use crate::haltpoll::HaltPoll;
use crate::options::Options;
use crate::ours::PAGES_VARIABLE;
use crate::shared;
use crate::stage::{Outcome, Plan, Told};
use crate::worker::{MARK, Order, Post, VARIABLE};
use crate::{cpus, sum};
use nix::sys::signal::{SigSet, Signal};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Longer than a half waits for the other one.
const PATIENCE: Duration = Duration::from_secs(12);
const BLOCKS: u32 = 100;
const PILOT: Plan = Plan { warm: 64, blocks: 4, operations: 64 };

/// One turn of one contest.
#[derive(Clone, Debug)]
pub(crate) struct Turn {
    pub contest: usize,
    pub round: usize,
    /// 0: this build; 1: the one it is compared with.
    pub build: usize,
    pub nanos: f64,
    pub line: f64,
    pub told: [Told; 2],
}

/// What a run yields.
#[derive(Debug)]
pub(crate) struct Run {
    pub turns: Vec<Turn>,
    pub broken: BTreeMap<(usize, usize), String>,
    pub cpus: [usize; 2],
    pub on_huge: bool,
    pub took: Duration,
}

struct Worker {
    child: Child,
    orders: Option<ChildStdin>,
    answers: Receiver<String>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.orders = None;
        // It may hang in a contest, so it is not asked.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Pair {
    program: OsString,
    arguments: Vec<OsString>,
    post: Post,
    pages: Option<String>,
    workers: Vec<Worker>,
}

impl Pair {
    fn start(&mut self) -> Outcome {
        self.workers.clear();
        for side in 0..2 {
            let post = Post { side, ..self.post.clone() };
            let mut child = Command::new(&self.program)
                .args(&self.arguments)
                .env(VARIABLE, serde_json::to_string(&post)?)
                .envs(self.pages.iter().map(|pages| (PAGES_VARIABLE, pages)))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?;
            let (orders, output) = (child.stdin.take(), child.stdout.take());
            let (sender, answers) = mpsc::channel();
            std::thread::spawn(move || {
                for line in output.into_iter().flat_map(|output| BufReader::new(output).lines()) {
                    let Ok(line) = line else { break };
                    if let Some(answer) = line.strip_prefix(MARK)
                        && sender.send(answer.to_owned()).is_err()
                    {
                        break;
                    }
                }
            });
            self.workers.push(Worker { child, orders, answers });
        }
        for side in 0..2 {
            self.answer(side, &AtomicBool::new(false))?;
        }
        Ok(())
    }

    fn answer(&self, side: usize, interrupted: &AtomicBool) -> Outcome<String> {
        let began = Instant::now();
        loop {
            match self.workers[side].answers.recv_timeout(Duration::from_millis(50)) {
                Ok(answer) => return Ok(answer),
                Err(RecvTimeoutError::Disconnected) => return Err("its process ended".into()),
                Err(RecvTimeoutError::Timeout) if interrupted.load(Relaxed) => {
                    return Err("interrupted".into());
                }
                Err(RecvTimeoutError::Timeout) if began.elapsed() > PATIENCE => {
                    return Err(format!("no end within {PATIENCE:?}").into());
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn turn(
        &mut self,
        contest: &Contest,
        run: u64,
        plan: Plan,
        interrupted: &AtomicBool,
    ) -> Outcome<[Told; 2]> {
        let sides = if contest.place == Place::Processes { 0..2 } else { 0..1 };
        let order = serde_json::to_string(&Order { contest: contest.id.clone(), run, plan })?;
        for side in sides.clone() {
            let orders = self.workers[side].orders.as_mut().ok_or("it is gone")?;
            writeln!(orders, "{order}")?;
            orders.flush()?;
        }
        let mut told = [Told::default(), Told::default()];
        for side in sides {
            told[side] = serde_json::from_str(&self.answer(side, interrupted)?)?;
        }
        // The one that failed first has the better reason.
        let errors: Vec<_> = told.iter().filter_map(|told| told.error.clone()).collect();
        let told_other = |error: &&String| error.as_str() != "the other half failed";
        match errors.iter().find(told_other).or(errors.first()) {
            Some(error) => Err(error.clone().into()),
            None => Ok(told),
        }
    }
}

/// Runs the contests of the suite that `options` wants.
pub(crate) fn run(suite: &Suite, options: &Options, arguments: &[OsString]) -> Outcome<Run> {
    let began = Instant::now();
    if options.priority {
        // Whoever calls the turns must not wait for a turn itself.
        cpus::stand_first()?;
    }
    let cpus = cpus::pair().ok_or("two processors are needed, of different cores")?;
    let (memory, on_huge): (OwnedFd, bool) = shared::create()?;
    let interrupted = listen_for_signals()?;
    let post = Post {
        side: 0,
        cpus,
        coordinator: std::process::id(),
        memory: shared::number(&memory),
        priority: options.priority,
    };
    let mut pairs = vec![Pair {
        program: "/proc/self/exe".into(),
        arguments: arguments.to_vec(),
        post: post.clone(),
        pages: options.pages.clone(),
        workers: Vec::new(),
    }];
    if let Some(program) = &options.against {
        pairs.push(Pair {
            program: program.into(),
            arguments: arguments.to_vec(),
            post,
            pages: options.pages.clone(),
            workers: Vec::new(),
        });
    }
    for pair in &mut pairs {
        pair.start()?;
    }
    let mut wanted: Vec<usize> =
        (0..suite.contests.len()).filter(|&at| options.wants(suite, &suite.contests[at])).collect();
    // What is compared is measured close together.
    wanted.sort_by_key(|&at| suite.contests[at].table);
    let mut broken: BTreeMap<(usize, usize), String> = BTreeMap::new();
    let mut turns = Vec::new();
    let mut plans: BTreeMap<(usize, usize), Plan> = BTreeMap::new();
    // The name of a turn is not that of another benchmark at the same time.
    let mut number = u64::from(std::process::id()) << 24;
    // Round 0 finds out how many operations fill the time.
    for round in 0..=options.rounds() {
        for (&at, build) in wanted.iter().flat_map(|at| [(at, 0), (at, 1)]) {
            let contest = &suite.contests[at];
            if build >= pairs.len()
                || broken.contains_key(&(at, build))
                // Limits are the machine's, not a build's.
                || (build == 1 && contest.role != crate::Role::Ours)
            {
                continue;
            }
            options.progress(round, &contest.id);
            let plan = plans.get(&(at, build)).copied().unwrap_or_else(|| pilot(contest));
            let halt_poll = contest.halt_poll.map(HaltPoll::set).transpose();
            number += 1;
            let played = match &halt_poll {
                Err(reason) => Err(reason.clone().into()),
                Ok(_) => pairs[build].turn(contest, number, plan, &interrupted),
            };
            drop(halt_poll);
            if interrupted.load(Relaxed) {
                return Err("interrupted".into());
            }
            match played {
                Err(error) => {
                    broken.insert((at, build), error.to_string());
                    // What a killed half has left behind, if it was one of ours.
                    let _ = hugeshm::Segment::remove(&format!("bench-{number}"));
                    pairs[build].start()?;
                }
                Ok(told) => {
                    let nanos = sum::nanos(contest, plan, &told);
                    if round == 0 {
                        plans.insert((at, build), calibrated(contest, options, nanos));
                    } else {
                        let line = told[0].line[0].max(told[0].line[1]);
                        turns.push(Turn { contest: at, round, build, nanos, line, told });
                    }
                }
            }
        }
    }
    Ok(Run { turns, broken, cpus, on_huge, took: began.elapsed() })
}

fn pilot(contest: &Contest) -> Plan {
    let up = |count: u64| count.next_multiple_of(contest.granule);
    Plan { warm: up(PILOT.warm), operations: up(PILOT.operations), ..PILOT }
}

fn calibrated(contest: &Contest, options: &Options, nanos: f64) -> Plan {
    let up = |count: u64| count.max(1).next_multiple_of(contest.granule);
    let operations = options.turn_nanos() / f64::from(BLOCKS) / nanos.max(0.1);
    let operations = up(operations as u64);
    Plan { warm: up(contest.lap.max(operations)), blocks: BLOCKS, operations }
}

/// The signals that would end this process end its run instead, so that settings are put back.
fn listen_for_signals() -> Outcome<Arc<AtomicBool>> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block()?;
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    std::thread::spawn(move || {
        if signals.wait().is_ok() {
            flag.store(true, Relaxed);
        }
    });
    Ok(interrupted)
}

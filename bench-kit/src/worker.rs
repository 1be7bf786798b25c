//! One of the two processes: pinned, it runs the halves it is told to.
//!
//! Orders come as lines of JSON on standard input, answers go to standard
//! output behind a mark, since libraries under test print there too. It ends
//! with its standard input, and is killed with its parent.

use crate::contest::{Place, Suite};
use crate::cpus;
use crate::shared::Shared;
use crate::stage::{Desk, Outcome, Plan, Side, Stage, Told};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, Write};

/// Names the variable that makes a program a worker.
pub(crate) const VARIABLE: &str = "HUGESHM_BENCH_WORKER";
/// Stands before each answer.
pub(crate) const MARK: &str = "@bench-kit ";

/// What the variable says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Post {
    pub side: usize,
    pub cpus: [usize; 2],
    pub coordinator: u32,
    pub memory: i32,
    /// Whether everybody else has to stand back.
    pub priority: bool,
}

/// What is to be done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub contest: String,
    pub run: u64,
    pub plan: Plan,
}

/// Serves until standard input ends.
pub(crate) fn serve(post: &Post, suite: &Suite) -> Outcome {
    set_pdeathsig(Signal::SIGKILL)?;
    cpus::pin(post.cpus[post.side])?;
    if post.priority {
        cpus::stand_first()?;
    }
    let shared = Shared::open(post.coordinator, post.memory)?;
    answer("ready")?;
    for line in std::io::stdin().lock().lines() {
        let order: Order = serde_json::from_str(&line?)?;
        let told = match suite.find(&order.contest) {
            Some(at) => obey(&order, suite, at, post, &shared),
            None => {
                Told { error: Some("this build has no such contest".into()), ..Told::default() }
            }
        };
        answer(&serde_json::to_string(&told)?)?;
    }
    Ok(())
}

fn answer(text: &str) -> std::io::Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "\n{MARK}{text}")?;
    output.flush()
}

fn obey(order: &Order, suite: &Suite, at: usize, post: &Post, shared: &Shared) -> Told {
    let contest = &suite.contests[at];
    let desk = Desk::default();
    let play = |side: Side| {
        let alone = contest.place == Place::Alone;
        let stage = Stage::new(side, alone, order.run, order.plan, shared, &desk);
        stage.play(|stage| (contest.halves[side as usize])(stage))
    };
    if contest.place != Place::Threads {
        return play(if post.side == 0 { Side::First } else { Side::Second });
    }
    // Both halves here; the answer is put together as the coordinator does it with two.
    std::thread::scope(|scope| {
        let second = scope.spawn(|| {
            let _ = cpus::pin(post.cpus[1]);
            play(Side::Second)
        });
        let mut first = play(Side::First);
        let second = second.join().unwrap_or_default();
        if contest.times_second() {
            first.blocks = second.blocks;
            first.preempted = second.preempted;
        }
        first.percentiles = first.percentiles.or(second.percentiles);
        first.error = first.error.or(second.error);
        first.counts.extend(second.counts);
        first
    })
}

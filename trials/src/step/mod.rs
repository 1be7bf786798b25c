//! Kills a child behind every machine instruction of one operation.
#![cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "marks and registers are x86"))]

mod calls;
mod content;
mod drive;
mod ends;
mod latest;
mod queue;
mod ringer;
mod records;
mod shared;
mod stage;
mod tracee;
mod typed;

use crate::verdict::Verdict;
use drive::{Effort, Tally, Trial};
use std::time::Instant;

/// What can be chosen.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only the operations whose names contain one of these words
    #[arg(long, num_args = 1..)]
    only: Vec<String>,
    /// In about a minute: one starting position, and not each instruction of long operations
    #[arg(long)]
    quick: bool,
    /// Only every Nth instruction
    #[arg(long, default_value_t = 1)]
    every: u64,
}

type Group = fn() -> Vec<Trial>;

/// One end dies while it wakes the other.
fn waking() -> Vec<Trial> {
    let mut trials = Vec::new();
    ringer::both(&mut trials, typed::Typed::<8>);
    ringer::both(&mut trials, records::Records::of_64());
    ringer::both(&mut trials, typed::Broadcast::<1> { lossless: false });
    ringer::both(&mut trials, typed::Laned::<1>);
    ringer::both(&mut trials, shared::Shared::<1>);
    trials
}

/// Runs the suite.
pub fn run(arguments: &Arguments) -> Verdict {
    let mut verdict = Verdict::default();
    let groups: &[Group] = &[
        typed::rings,
        typed::bells,
        typed::broadcasts,
        typed::lanes,
        records::rings,
        records::broadcasts,
        shared::rings,
        calls::calls,
        latest::values,
        waking,
    ];
    println!(
        "{:<52} {:>6} {:>6} {:>8} {:>9} {:>6} {:>7} {:>6} {:>7}",
        "operation", "length", "killed", "visible", "invisible", "asleep", "stopped", "missed", "time"
    );
    let mut total = Tally::default();
    let begin = Instant::now();
    for trial in groups.iter().flat_map(|group| group()) {
        let wanted = |word: &String| trial.name.contains(word.as_str());
        if !arguments.only.is_empty() && !arguments.only.iter().any(wanted) {
            continue;
        }
        let effort = Effort {
            every: arguments.every,
            starts: if arguments.quick { 1 } else { usize::MAX },
            stops: !arguments.quick,
        };
        let tally = drive::drive(trial, effort, &mut verdict);
        total.points += tally.points;
        total.asleep += tally.asleep;
        total.visible += tally.visible;
        total.stops += tally.stops;
        total.steps += tally.steps;
    }
    println!("{:.1} s", begin.elapsed().as_secs_f64());
    verdict.counted("points killed at", total.points);
    verdict
}

//! Kills a child behind every machine instruction of one operation.
#![cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "marks and registers are x86"))]

mod calls;
mod content;
mod control;
mod drive;
mod ends;
mod latest;
mod machine;
mod queue;
mod records;
mod ringer;
mod shared;
mod stage;
mod tracee;
mod typed;
mod world;

use crate::verdict::Verdict;
use drive::{Effort, Tally, Trial};
use hugeshm::{BackingKind, Rung};
use machine::Machine;
use std::time::Instant;
use world::World;

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
    every: usize,
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

/// The kinds of memory that segments are made of, and what they need.
const KINDS: [(&str, BackingKind, Rung, bool); 5] = [
    ("tmpfs", BackingKind::Tmpfs, Rung::Base, false),
    ("memfd", BackingKind::Memfd, Rung::Base, false),
    ("hugetlbfs", BackingKind::Hugetlbfs, Rung::Huge(world::HUGE), true),
    ("System V", BackingKind::Sysv, Rung::Huge(world::HUGE), true),
    ("memfd 2M", BackingKind::Memfd, Rung::Huge(world::HUGE), true),
];

/// Runs the suite.
pub fn run(arguments: &Arguments) -> Verdict {
    let mut verdict = Verdict::default();
    let mut suite = Suite { arguments, total: Tally::default(), operations: 0 };
    let begin = Instant::now();
    println!(
        "{:<52} {:>6} {:>6} {:>8} {:>9} {:>6} {:>7} {:>6} {:>7}",
        "operation",
        "length",
        "killed",
        "visible",
        "invisible",
        "asleep",
        "stopped",
        "missed",
        "time"
    );
    suite.data_path(&mut verdict);
    suite.control(&mut verdict);
    let Suite { total, operations, .. } = suite;
    println!("{:.1} s", begin.elapsed().as_secs_f64());
    verdict.counted("operations", operations);
    verdict.counted("points killed at", total.points);
    if arguments.only.is_empty() {
        verdict.counted("of these, asleep in the kernel", total.asleep);
        verdict.counted("operations that had happened", total.visible);
    }
    verdict.counted("operations that had not", total.invisible);
    if !arguments.quick && arguments.only.is_empty() {
        verdict.counted("points stopped at and gone on from", total.stops);
    }
    if total.missed > 0 {
        println!("{} points that no child came to: each took another way", total.missed);
    }
    verdict
}

struct Suite<'a> {
    arguments: &'a Arguments,
    total: Tally,
    operations: u64,
}

impl Suite<'_> {
    fn wants(&self, name: &str) -> bool {
        let only = &self.arguments.only;
        only.is_empty() || only.iter().any(|word| name.contains(word.as_str()))
    }

    fn effort(&self) -> Effort {
        let Arguments { every, quick, .. } = *self.arguments;
        Effort {
            every,
            points: if quick { 16 } else { usize::MAX },
            starts: if quick { 1 } else { usize::MAX },
            stops: !quick,
        }
    }

    fn count(&mut self, tally: &Tally) {
        let total = &mut self.total;
        total.points += tally.points;
        total.asleep += tally.asleep;
        total.visible += tally.visible;
        total.invisible += tally.invisible;
        total.stops += tally.stops;
        total.missed += tally.missed;
        self.operations += 1;
    }

    fn data_path(&mut self, verdict: &mut Verdict) {
        let groups: [Group; 10] = [
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
        for trial in groups.iter().flat_map(|group| group()) {
            if self.wants(&trial.name) {
                let tally = drive::drive(trial, self.effort(), verdict);
                self.count(&tally);
            }
        }
    }

    fn control(&mut self, verdict: &mut Verdict) {
        let operations = world::operations();
        for (name, kind, rung, huge) in KINDS {
            let wanted: Vec<_> = operations
                .iter()
                .filter(|operation| self.wants(&format!("{name}: {}", operation.name)))
                .collect();
            if wanted.is_empty() {
                continue;
            }
            let machine = if huge { Machine::huge() } else { Ok(Machine::plain()) };
            let world = machine.map(|machine| World::new(name, kind, rung, machine));
            let mut world = match world {
                Ok(Ok(world)) => world,
                Ok(Err(fault)) => return verdict.fault(fault),
                Err(reason) => {
                    verdict.skip(format!("operations over {name}: {reason}"));
                    continue;
                }
            };
            let mut effort = self.effort();
            effort.points = match (self.arguments.quick, name) {
                (false, _) => usize::MAX,
                (true, "tmpfs") => 6,
                (true, _) => 2,
            };
            for operation in wanted {
                if !world.can(operation) {
                    continue;
                }
                let tally = control::drive(&mut world, operation, effort, verdict);
                self.count(&tally);
            }
        }
    }
}

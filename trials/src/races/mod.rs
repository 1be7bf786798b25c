//! Runs the calls on a name in every order of their system calls, and kills in between.
//!
//! Two or three real processes make one call each on the same name: create, open, replace,
//! remove, collect and so on. A scheduler holds them by `ptrace` and lets exactly one of them
//! move at a time, from one system call that others can see to the next. It explores all orders
//! with at most so many preemptions (see `explore`), each with fresh processes. A second mode
//! kills one of them before each of its system calls, behind every number of steps of the other,
//! which then goes on to its end.
//!
//! # Where turns change, and why that is enough
//!
//! Before `openat`, `getdents64`, `linkat`, `renameat`, `unlinkat`, `fstat`, `newfstatat`,
//! locks by `fcntl`, `pwrite64`, `ftruncate` and the `shm` calls, which are all that these calls
//! have in common with each other: names, link counts, locks, the text of files that have a
//! name, ids. Not before those that only touch what is the process's own: memory, files that
//! have no name yet (`O_TMPFILE`), the kernel's files (`/proc`, `/sys`), descriptors. `read` is
//! left out because a control file is written before it has a name and never again; `close`
//! because locks are given back by `fcntl` before. Into memory that others may have mapped, the
//! calls store only before a name leads there, with two exceptions: the superseded word, which is one
//! store of one word between two calls of this list, and the slot in the attachment table, whose
//! owner holds its lock. So every order that differs for anybody is one of these.
//!
//! A pause (`clock_nanosleep`) means that a process waits for another: it moves again when
//! somebody else has moved, and no time passes. Who pauses twice yields to everybody who has not
//! moved in between, so that two who wait for a third do not keep each other going. If all of
//! them wait, time passes; if that does not help either, that is a fault. No call here blocks in a lock; one that did would be seen as
//! hanging.
//!
//! # What must hold behind every order
//!
//! * Every call ended, with an answer that it may give.
//! * Some order of whole calls, one after the other, explains all answers, and what the name
//!   leads to now (`model`). So one creator wins, nobody opens half a segment or finds
//!   nothing while a name is taken over, and collect takes nothing that is held.
//! * Whatever the name leads to is whole, and so is what was held all the time; its holder is
//!   told that it was superseded, unless the one who had to tell was killed.
//! * No other file is there. After a kill: whoever comes next replaces the name at once, and
//!   behind `collect` nothing is left.
//!
//! What it does not do: orders with more preemptions, other users, other mount namespaces.

mod carrier;
mod explore;
mod filter;
mod meeting;
mod model;
mod operation;
mod scenario;
mod tracee;

use crate::common::machine;
use crate::verdict::Verdict;
use explore::Order;
use hugeshm::PageSize;
use meeting::{Death, Place};
use scenario::{OF_THREE, ON_SYSV, ON_TMPFS, Scenario};
use std::time::Instant;

/// What can be chosen.
#[derive(clap::Args)]
pub struct Arguments {
    /// Fewer preemptions and fewer moments of death: a minute
    #[arg(long)]
    quick: bool,
    /// At most so many preemptions
    #[arg(long)]
    bound: Option<u32>,
    /// Only meetings whose name contains this
    #[arg(long)]
    only: Option<String>,
}

/// How far to go.
#[derive(Clone, Copy)]
struct Depth {
    bound: u32,
    /// Every so many steps of the survivor.
    stride: u32,
}

/// What was done.
#[derive(Default)]
struct Done {
    orders: u64,
    deaths: u64,
    diverged: u64,
    meetings: u64,
}

/// Runs the suite.
pub fn run(arguments: &Arguments) -> Verdict {
    let mut verdict = Verdict::default();
    if let Err(errno) = tracee::heed_alarms() {
        verdict.fault(format!("no alarms: {errno}"));
        return verdict;
    }
    let bound = arguments.bound.unwrap_or(2);
    let deep = Depth { bound, stride: 1 };
    let quick = Depth { bound: arguments.bound.unwrap_or(1), stride: 50 };
    let depth = if arguments.quick { quick } else { deep };
    let mut done = Done::default();
    explore_all(&ON_TMPFS, depth, arguments, &mut done, &mut verdict);
    let few = Depth { bound: depth.bound.min(bound - 1).max(1), ..depth };
    explore_all(&OF_THREE, few, arguments, &mut done, &mut verdict);
    let _pools = machine::lock_pools();
    let before = machine::counters();
    let limits = hugeshm::pages::shm_limits();
    if !limits.may_use_hugetlb {
        verdict.skip(format!("System V with huge pages: {}", limits.reason));
    } else if let Some(_pages) = machine::pages(PageSize::SIZE_2M, 6) {
        let few = Depth { bound: 1, stride: depth.stride.max(4) };
        explore_all(&ON_SYSV, few, arguments, &mut done, &mut verdict);
    } else {
        verdict.skip("System V: 6 pages of 2M cannot be had");
    }
    before.iter().for_each(machine::Counters::assert_back);
    verdict.counted("meetings", done.meetings);
    verdict.counted("orders explored", done.orders);
    verdict.counted("points killed at", done.deaths);
    println!("{} choices could not be repeated", done.diverged);
    verdict
}

fn explore_all(
    scenarios: &[Scenario],
    depth: Depth,
    arguments: &Arguments,
    done: &mut Done,
    verdict: &mut Verdict,
) {
    for scenario in scenarios {
        let name = format!("{:?} {:?}", scenario.before, scenario.calls);
        if arguments.only.as_ref().is_some_and(|only| !name.contains(only.as_str())) {
            continue;
        }
        let start = Instant::now();
        let before = (done.orders, done.deaths);
        let result = Place::new().and_then(|place| {
            orders(&place, scenario, depth, done)?;
            if scenario.calls.len() == 2 { deaths(&place, scenario, depth, done) } else { Ok(()) }
        });
        if let Err(what) = result {
            verdict.fault(format!("{name}: {what}"));
        }
        done.meetings += 1;
        let (orders, deaths) = (done.orders - before.0, done.deaths - before.1);
        let time = start.elapsed().as_secs_f64();
        println!("{orders:>6} orders {deaths:>6} deaths {time:>6.1} s  {name}");
    }
}

/// All orders with so many preemptions.
fn orders(place: &Place, scenario: &Scenario, depth: Depth, done: &mut Done) -> Result<(), String> {
    let mut order = Some(Order::default());
    while let Some(mut now) = order {
        place
            .meet(scenario, &mut now, None)
            .map_err(|what| format!("in the order {}: {what}", now.text()))?;
        done.orders += 1;
        done.diverged += now.diverged;
        order = now.next(depth.bound);
    }
    Ok(())
}

/// Each of two killed before each of its steps, behind steps of the other.
fn deaths(place: &Place, scenario: &Scenario, depth: Depth, done: &mut Done) -> Result<(), String> {
    for victim in 0..2 {
        let mut first = 0;
        loop {
            let mut first_cut = false;
            for steps in 0.. {
                let death = Death { victim, first, steps };
                let met = place
                    .meet(scenario, &mut Order::default(), Some(death))
                    .map_err(|what| format!("{death:?}: {what}"))?;
                done.deaths += 1;
                first_cut = met.first_cut;
                if met.cut {
                    break;
                }
            }
            if first_cut {
                break;
            }
            first += depth.stride;
        }
    }
    Ok(())
}

//! Tries to break the library, and counts how often it tried.
//!
//! Each suite is one command. It prints what it did in numbers and fails if something was lost,
//! or if a number that must not be zero is zero. What a suite needs of the machine (root, huge
//! pages) it sets up itself and gives back, or it says SKIP and why.

#[expect(dead_code, reason = "what the integration tests share, of which a part is used here")]
#[path = "../../tests/common/mod.rs"]
mod common;
mod fence;
mod models;
mod races;
mod soak;
mod step;
mod verdict;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "trials", about = "Suites that try to break hugeshm")]
struct Command {
    #[command(subcommand)]
    suite: Suite,
}

#[derive(Subcommand)]
enum Suite {
    /// Kills a child behind every machine instruction of an operation
    Step(step::Arguments),
    /// Kills, stops and restarts producers, consumers and bystanders at random
    Soak(soak::Arguments),
    /// Runs the calls on a name in every order of their system calls, and kills in between
    Races(races::Arguments),
    /// Runs the models of the lock-free protocols, and weakens each ordering in turn
    Models(models::Arguments),
    /// Looks whether the barrier in one process really stands in for the fence in another
    Fence(fence::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Command::parse().suite {
        Suite::Step(arguments) => step::run(&arguments),
        Suite::Soak(arguments) => soak::run(&arguments),
        Suite::Races(arguments) => races::run(&arguments),
        Suite::Models(arguments) => models::run(&arguments),
        Suite::Fence(arguments) => fence::run(&arguments),
    };
    outcome.print()
}

//! Runs the calls on a name in every order of their system calls.

use crate::verdict::Verdict;

/// What can be chosen.
#[derive(clap::Args)]
pub struct Arguments {}

/// Runs the suite.
pub fn run(_arguments: &Arguments) -> Verdict {
    let mut verdict = Verdict::default();
    verdict.skip("not built yet");
    verdict
}

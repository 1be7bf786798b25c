//! Everything that can run out, at every call that takes it: an error with numbers, never a signal.
//!
//! `matrix` is one test body over (call, scarce thing) with a table of the answers expected;
//! `wants` makes things scarce, `calls` makes the calls, `guard` turns a SIGBUS into a failure that
//! names the cell and counts what was kept. `pools` has what needs more than one process at the
//! pools, `others` what belongs to somebody else, `shrinking` what a peer takes away afterwards.

#[expect(dead_code, reason = "shared by several test programs, each of which uses a part")]
#[path = "../common/mod.rs"]
mod common;

mod calls;
mod guard;
mod matrix;
mod others;
mod pools;
mod shrinking;
mod table;
mod wants;

#[test]
#[ignore = "the body of child processes, which other tests start"]
fn child_process() {
    let Some(role) = common::child::role() else { return };
    guard::install();
    let found =
        [matrix::play, others::play, pools::play, shrinking::play].iter().any(|play| play(&role));
    assert!(found, "no such role: {role}");
}

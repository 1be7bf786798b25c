//! Segments over the public API: every backing, bad input, races, cost.
//!
//! One program, so that one test at a time has the machine's pools and descriptors to itself; the
//! tests of a theme stand in one file, with the roles that their child processes play.

#[expect(dead_code, reason = "shared by several test programs, each of which uses a part")]
#[path = "../common/mod.rs"]
mod common;

mod backings;
mod bad_input;
mod cost;
mod objects;
mod races;

#[test]
#[ignore = "the body of child processes, which other tests start"]
fn child_process() {
    let Some(role) = common::child::role() else { return };
    let found = [backings::play, bad_input::play, races::play, cost::play, objects::play]
        .iter()
        .any(|play| play(&role));
    assert!(found, "no such role: {role}");
}

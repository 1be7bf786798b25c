//! What one user may do to another's segment, and what others can put in the way.
//!
//! What is promised: the mode of a segment says who may read and who may write it, and nobody can
//! more than that: who may only read holds nobody up, and who may not even read learns no more than
//! the name. `docs/ACCESS.md` has the table, and `table.rs` finds out whether it is true. And no file
//! that anybody puts into a shared folder leads anyone astray, root least of all: nothing but memory
//! of the segment's owner is opened, written to or removed.
//!
//! All of this needs several users, so it runs as root, or says SKIP. What one user alone can try
//! stands in `segment/bad_input.rs`, what can be put in the place of a bell in `doorbell/hostile.rs`.

#[path = "../common/mod.rs"]
#[expect(dead_code, reason = "shared by several test programs, each of which uses a part")]
mod common;

mod canaries;
mod memfds;
mod modes;
mod plants;
mod swaps;
mod table;
mod visitors;

use common::child;

#[test]
#[ignore = "the body of child processes, which other tests start"]
fn child_process() {
    let Some(role) = child::role() else { return };
    let plays = [memfds::play, swaps::play, visitors::play];
    assert!(plays.iter().any(|play| play(&role)), "no such role: {role}");
}

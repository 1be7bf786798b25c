//! Who lives, and who says so: the kernel's locks, and nothing else.
//!
//! What is promised: a peer counts as dead when the kernel has dropped its locks, and never before.
//! So a stopped or slow one is waited for however long it takes, one that was killed is noticed also
//! while nobody has reaped it or while another process has its number, and neither pid nor mount
//! namespaces nor users change the answer. Who may not ask is told `Unknown`, and no guess.
//!
//! Every sleep is counted in slices and not in seconds: a test waits until the sleeper has gone to
//! sleep so and so often, by the kernel's count of its thread's context switches.
//!
//! What others test: `rings/ends.rs` has the messages that a dead end leaves, `rings/forks.rs` and
//! `segment/races.rs` what a forked child may still call, `doorbell/bells.rs` the bells.

#[path = "../common/mod.rs"]
#[expect(dead_code, reason = "shared by several test programs, each of which uses a part")]
mod common;

mod fates;
mod holder;
mod kinds;
mod names;
mod sleepers;
mod threads;
mod users;

use common::child::{self, Child};
use common::{Quiet, Scratch};
use hugeshm::{BackingKind, Domain, PagePolicy, Rung, SegmentBuilder};
use std::time::{Duration, Instant};

/// Nothing here takes this long; what does hangs.
const HANG: Duration = Duration::from_secs(60);

#[test]
#[ignore = "the body of child processes, which other tests start"]
fn child_process() {
    let Some(role) = child::role() else { return };
    let plays = [holder::play, names::play, threads::play, users::play];
    assert!(plays.iter().any(|play| play(&role)), "no such role: {role}");
}

/// A domain in a folder of its own; nothing may be left in it.
struct Stage {
    scratch: Scratch,
    domain: Domain,
    /// Dropped last.
    _quiet: Quiet,
}

impl Stage {
    fn new() -> Self {
        let quiet = Quiet::begin();
        let scratch = Scratch::new();
        Self { domain: scratch.domain(), scratch, _quiet: quiet }
    }

    /// A segment on base pages that outlives its handles.
    fn builder(&self) -> SegmentBuilder {
        let builder = self.domain.create("s").pages(PagePolicy::exactly(Rung::Base));
        builder.backing(BackingKind::Tmpfs)
    }

    fn folder(&self) -> String {
        self.scratch.path().display().to_string()
    }

    /// A child that plays `role` with the folder and more arguments.
    fn child(&self, role: &str, arguments: &[&str]) -> Child {
        Child::start(role, &[&[self.folder().as_str()], arguments].concat())
    }
}

/// Waits until `done`; what never comes is a failure that names it.
#[track_caller]
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < HANG, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

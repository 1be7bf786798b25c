//! Rings over the public API: real segments, real second processes.
//!
//! What is promised: one producer and one consumer, each of which may leave, die and be followed;
//! nothing that was committed is lost, nothing that was released comes again; every wait ends when
//! its reason is gone; and whatever another process writes into the memory, a call answers.

#[path = "../common/mod.rs"]
#[expect(dead_code, reason = "shared by several test programs, each of which uses a part")]
mod common;

mod backings;
mod ends;
mod forks;
mod hostile;
mod kinds;
mod waits;

use common::child::{self, Child};
use common::{Quiet, Scratch};
use hugeshm::{BackingKind, Domain, PagePolicy, Rung, Segment, SegmentBuilder};
use std::time::{Duration, Instant};

/// Nothing here takes this long; what does hangs.
const HANG: Duration = Duration::from_secs(10);

#[test]
#[ignore = "the body of child processes, which other tests start"]
fn child_process() {
    let Some(role) = child::role() else { return };
    let plays = [backings::play, ends::play, hostile::play, kinds::play, waits::play];
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

    /// A segment on base pages that goes with its last handle here.
    fn segment(&self, declare: impl FnOnce(SegmentBuilder) -> SegmentBuilder) -> Segment {
        let builder = self.domain.create("s").pages(PagePolicy::exactly(Rung::Base));
        let builder = declare(builder.backing(BackingKind::Tmpfs).unlink_on_drop(true));
        builder.build().expect("base pages are always there")
    }

    /// A child that plays `role` with the folder, the name "s" and more arguments.
    fn child(&self, role: &str, arguments: &[&str]) -> Child {
        let folder = self.scratch.path().display().to_string();
        Child::start(role, &[&[folder.as_str()], arguments].concat())
    }
}

/// The segment that a child's first argument leads to.
fn opened() -> Segment {
    let domain = common::domain(child::argument(0).as_ref());
    domain.open("s").expect("the parent made it")
}

/// Runs `body`, which must be done before it counts as hanging.
#[track_caller]
fn in_time<T>(body: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = body();
    assert!(start.elapsed() < HANG, "it took {:?}", start.elapsed());
    result
}

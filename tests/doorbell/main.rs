//! Sleeping in `poll`, `epoll` and tokio, and on several rings at once: real segments, real second
//! processes.
//!
//! What is promised: no wake-up is lost; the sender pays nothing while nobody sleeps; whoever dies,
//! lies or plants something in the control folder costs the other end a slice at most.

#[path = "../common/mod.rs"]
#[expect(dead_code, reason = "shared by several test programs, each of which uses a part")]
mod common;

mod any;
mod bells;
mod hostile;
mod pingpong;
#[cfg(feature = "tokio")]
mod tasks;

use common::child::{self, Child};
use common::{Quiet, Scratch};
use hugeshm::{
    Armed, BackingKind, Domain, Doorbell, PagePolicy, Rung, Segment, SegmentBuilder, Waitable,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;
use std::time::Duration;

/// Nothing here takes this long; what does hangs.
const HANG: Duration = Duration::from_secs(20);

#[test]
#[ignore = "the body of child processes, which other tests start"]
fn child_process() {
    let Some(role) = child::role() else { return };
    let plays = [any::play, bells::play, hostile::play, pingpong::play];
    #[cfg(feature = "tokio")]
    let plays = plays.into_iter().chain([tasks::play as fn(&str) -> bool]);
    #[cfg(not(feature = "tokio"))]
    let plays = plays.into_iter();
    assert!({ plays }.any(|play| play(&role)), "no such role: {role}");
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

    fn builder(&self) -> SegmentBuilder {
        let builder = self.domain.create("s").pages(PagePolicy::exactly(Rung::Base));
        builder.backing(BackingKind::Tmpfs)
    }

    /// A segment on base pages that goes with its last handle here.
    fn segment(&self, declare: impl FnOnce(SegmentBuilder) -> SegmentBuilder) -> Segment {
        declare(self.builder()).unlink_on_drop(true).build().expect("base pages are always there")
    }

    fn folder(&self) -> String {
        self.scratch.path().display().to_string()
    }

    /// A child that plays `role` with the folder and more arguments.
    fn child(&self, role: &str, arguments: &[&str]) -> Child {
        Child::start(role, &[&[self.folder().as_str()], arguments].concat())
    }

    /// The names of the doorbells there are.
    fn bells(&self) -> Vec<String> {
        self.scratch.files().into_iter().filter(|file| file.contains(".bell.")).collect()
    }
}

/// The segment that a child's first argument leads to.
fn opened() -> Segment {
    let domain = common::domain(child::argument(0).as_ref());
    domain.open("s").expect("the parent made it")
}

/// Polls for at most `timeout`; whether the bell rang.
fn rings_in(bell: &Doorbell, timeout: Duration) -> bool {
    let mut fds = [PollFd::new(bell.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(timeout).expect("not that long");
    poll(&mut fds, timeout).expect("a descriptor of ours") == 1
}

/// Arms and polls without end, so that a lost wake-up hangs; false when there was no need to poll.
#[track_caller]
fn sleep_for_good<E: Waitable>(bell: &Doorbell, end: &mut E) -> bool {
    match bell.arm(end).expect("its own bell") {
        Armed::Ready => false,
        Armed::Poll { at_most } if at_most < Duration::from_millis(50) => {
            // The kernel refused the barrier, and promised no ring.
            rings_in(bell, at_most);
            bell.clear();
            true
        }
        Armed::Poll { .. } => {
            assert!(rings_in(bell, HANG), "a wake-up was lost");
            bell.clear();
            true
        }
    }
}

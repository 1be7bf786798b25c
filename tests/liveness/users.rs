//! Who may not ask is told that it is unknown, and never a guess.
//!
//! The kernel is asked through the claims file, which only those can open who may write the segment:
//! a reader's lock on it would stand in the way of claims. So readers without that right are told
//! what the memory says of itself: that nobody was ever there, or that the last one has left. Of
//! everybody else they know nothing, and their waits end at their deadline.

use crate::Stage;
use crate::common::child::{Child, NOBODY, hear, say};
use crate::common::is_root;
use hugeshm::{Join, Segment};
use std::time::Duration;

/// A reader that says at each line what it is told of the writer.
fn look() {
    let domain = crate::common::domain(crate::common::child::argument(0).as_ref());
    let segment: Segment = domain.open_read_only("s").expect("it may read");
    let mut latest = segment.latest_reader::<u64>("latest").expect("anybody may");
    let mut observer = segment.broadcast_observer::<u64>("many", Join::Newest).expect("anybody");
    say("ready");
    while hear().is_some() {
        let info = domain.inspect("s").expect("a report");
        let usage = domain.list().expect("a list")[0].usage;
        let attached: Vec<_> = info.attachments.iter().map(|one| one.state).collect();
        let ends = info.objects.iter().flat_map(|object| &object.endpoints);
        let mut ends: Vec<_> = ends.map(|end| format!("{:?}", end.state)).collect();
        ends.sort_unstable();
        ends.dedup();
        say(format_args!("{usage:?} {attached:?} {ends:?}"));
        say(format_args!("{:?} {:?}", latest.peer(), observer.peer()));
        let short = Duration::from_millis(200);
        let value = latest.wait_newer_timeout(latest.version(), short).map(drop);
        let message = observer.recv_timeout(short).map(drop);
        say(format_args!("{value:?} {message:?}"));
        let collected = domain.collect().expect("it runs");
        say(format_args!("{} removed, {} kept", collected.removed.len(), collected.kept));
    }
}

/// Holds the writing ends until told to leave in good order.
fn write() {
    let domain = crate::common::domain(crate::common::child::argument(0).as_ref());
    let segment = domain.open("s").expect("the parent made it");
    let latest = segment.latest_writer::<u64>("latest").expect("free");
    let many = segment.broadcast_producer::<u64>("many").expect("free");
    say("ready");
    hear();
    drop((latest, many));
    drop(segment);
    say("left");
    hear();
}

#[test]
fn who_may_only_read_is_told_unknown_and_no_guess() {
    if !is_root("become another user") {
        return;
    }
    let mut answers = 0;
    // Mode, and what a reader is told of a writer who lives, is killed, and has left.
    let may_ask = [
        ["InUse [Alive] [\"Alive\", \"Never\"]", "Alive Alive", "Err(TimedOut) Err(TimedOut)"],
        ["InUse [Dead] [\"Dead\", \"Never\"]", "Dead Dead", "Err(PeerDied) Err(PeerDied)"],
        ["InUse [Closed] [\"Closed\", \"Never\"]", "Closed Closed", "Err(Closed) Err(Closed)"],
    ];
    let may_not = [
        [
            "InUse [Unknown] [\"Never\", \"Unknown\"]",
            "Unknown Unknown",
            "Err(TimedOut) Err(TimedOut)",
        ],
        [
            "InUse [Unknown] [\"Never\", \"Unknown\"]",
            "Unknown Unknown",
            "Err(TimedOut) Err(TimedOut)",
        ],
        ["InUse [Closed] [\"Closed\", \"Never\"]", "Closed Closed", "Err(Closed) Err(Closed)"],
    ];
    for (mode, expected) in [(0o666, may_ask), (0o644, may_not)] {
        let stage = Stage::new();
        let folder = stage.folder();
        let builder = stage.builder().mode(mode).latest::<u64>("latest").max_attachments(2);
        drop(builder.broadcast::<u64>("many", 8).build().expect("base pages"));
        // The creator's own place is taken again by the writer, so there is one attachment.
        for (fate, expected) in ["lives", "killed", "left"].iter().zip(expected) {
            let mut writer = stage.child("users::write", &[]);
            assert_eq!(writer.says(), "ready");
            let mut reader = Child::start_as(NOBODY, "users::look", &[&folder]);
            assert_eq!(reader.says(), "ready");
            let mut alive = Some(writer);
            match *fate {
                "killed" => alive.take().expect("it lives").kill(),
                "left" => {
                    let writer = alive.as_mut().expect("it lives");
                    writer.tell("leave");
                    assert_eq!(writer.says(), "left");
                }
                _ => {}
            }
            reader.tell("look");
            for what in expected {
                assert_eq!(reader.says(), what, "{mode:o}, {fate}");
                answers += 1;
            }
            assert_eq!(reader.says(), "0 removed, 1 kept", "{mode:o}, {fate}");
            reader.end_well();
            drop(alive);
        }
        stage.domain.remove("s").expect("ours");
    }
    eprintln!("{answers} answers to readers");
}

/// The roles of this file.
pub fn play(role: &str) -> bool {
    match role {
        "users::look" => look(),
        "users::write" => write(),
        _ => return false,
    }
    true
}

//! Who cannot see everything: a memfd's holder whose number means another process, a data file
//! without its control file, a control file without its data.

use crate::common::child::{Child, argument, hear, outcome, say};
use crate::common::machine::{PrivateMount, pages};
use crate::common::{M2, files, is_root, skip};
use crate::fates::process_with_number;
use crate::{Stage, until};
use hugeshm::{BackingKind, Domain, ErrorKind, Lifetime, PagePolicy, Rung, Segment, Usage};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SIGKILL, kill};
use nix::unistd::Pid;
use std::path::Path;

/// Makes a memfd segment and holds it, in a pid namespace of its own; that has a `/proc` of its
/// own, too, or sees the one of before.
fn memfd() {
    let none = None::<&str>;
    let domain = crate::common::domain(argument(0).as_ref());
    if argument(1) == "begin" {
        unshare(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS).expect("root");
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("our own");
        // The first process there; it ends when its standard input does.
        let mut child = Child::start("names::memfd", &[&argument(0), &argument(2)]);
        say(child.pid());
        assert_eq!(child.says(), "1", "it is the first one there");
        say("ready");
        hear();
        return;
    }
    if argument(1) == "its own" {
        let flags = MsFlags::empty();
        mount(Some("proc"), "/proc", Some("proc"), flags, none).expect("our own");
    }
    let builder = domain.create("m").pages(PagePolicy::exactly(Rung::Base));
    let builder = builder.backing(BackingKind::Memfd).lifetime(Lifetime::WithHolders);
    let _segment = builder.build().expect("base pages");
    say(std::process::id());
    hear();
}

#[test]
fn a_memfd_held_in_another_pid_namespace_is_never_mistaken_nor_collected() {
    if !is_root("make a pid namespace") {
        return;
    }
    let mut looks = 0;
    for its_own in [false, true] {
        let stage = Stage::new();
        let proc = if its_own { "its own" } else { "shared" };
        let mut child = stage.child("names::memfd", &["begin", proc]);
        let holder = Pid::from_raw(child.says().parse().expect("a number"));
        assert_eq!(child.says(), "ready");
        let domain = &stage.domain;
        let memfd = || {
            let builder = Segment::open_or_create("m").domain(domain.clone());
            let builder = builder.pages(PagePolicy::exactly(Rung::Base));
            builder.backing(BackingKind::Memfd).lifetime(Lifetime::WithHolders).build()
        };
        for _ in 0..3 {
            let entry = &domain.list().expect("a list")[0];
            assert_eq!(entry.usage, Usage::InUse, "by the lock on its claims: {entry:?}");
            assert_eq!(entry.problem.is_some(), its_own, "{entry:?}");
            if its_own {
                // Number 1 is another process here, and none of its descriptors is opened.
                for error in [domain.open("m").err(), memfd().err()] {
                    let error = error.expect("its holder cannot be found");
                    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
                }
            } else {
                // As the holder's `/proc` is ours, it has written down the number that is valid here.
                drop(domain.open_read_only("m").expect("found"));
            }
            let report = domain.collect().expect("it runs");
            assert_eq!((report.removed.len(), report.kept), (0, 1), "{report:?}");
            looks += 1;
        }
        kill(holder, SIGKILL).expect("a process of ours");
        until("it can be collected", || domain.collect().expect("it runs").removed.len() == 1);
        drop(child);
    }
    eprintln!("{looks} looks from another pid namespace");
}

#[test]
fn a_dead_memfd_holders_number_given_to_another_process_leads_nowhere() {
    if !is_root("choose the number of a new process") {
        return;
    }
    let stage = Stage::new();
    let mut child = stage.child("names::memfd", &["here"]);
    let holder = Pid::from_raw(child.says().parse().expect("a number"));
    let domain = &stage.domain;
    drop(domain.open_read_only("m").expect("its holder lives"));
    child.kill();
    let Some(double) = process_with_number(holder) else {
        skip("this kernel has no clone3 with a number of the caller's choice");
        assert_eq!(domain.collect().expect("it runs").removed.len(), 1);
        return;
    };
    let error = domain.open("m").expect_err("nobody holds it");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert_eq!(domain.list().expect("a list")[0].usage, Usage::Broken);
    assert_eq!(domain.collect().expect("it runs").removed.len(), 1);
    assert_eq!(kill(holder, None), Ok(()), "the other one lived all the time");
    drop(double);
}

/// In a mount namespace of its own without the folder or without the mount: says what it finds.
fn look() {
    let (folder, mounted, hidden) = (argument(0), argument(1), argument(2));
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS).expect("root");
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("our own");
    if hidden == "data" {
        umount2(mounted.as_str(), MntFlags::MNT_DETACH).expect("our own");
    } else {
        let flags = MsFlags::empty();
        mount(Some("none"), folder.as_str(), Some("tmpfs"), flags, none).expect("our own");
    }
    let domain: Domain = crate::common::domain(Path::new(&folder));
    say("ready");
    while hear().is_some() {
        let list = domain.list().expect("a list");
        say(format_args!("{:?}", list.iter().map(|entry| entry.usage).collect::<Vec<_>>()));
        let told = outcome(domain.open("h"));
        say(told.split(' ').next().unwrap_or_default());
        let report = domain.collect().expect("it runs");
        let counts = (report.removed.len(), report.failed.len());
        say(format_args!("{counts:?}"));
    }
}

#[test]
fn who_sees_only_the_data_or_only_the_control_file_collects_nothing() {
    if !is_root("make a mount namespace") {
        return;
    }
    let stage = Stage::new();
    let (Some(_pages), Some(mounted)) = (pages(M2, 1), PrivateMount::hugetlbfs(M2, None)) else {
        return;
    };
    let path = mounted.path();
    let builder = stage.domain.create("h").pages(M2.into()).backing(BackingKind::Hugetlbfs);
    let segment = builder.mount(&path).build().expect("a page is there");
    let path = path.display().to_string();
    let mut looks = 0;
    let mut ask = |child: &mut Child, expected: [&str; 3]| {
        child.tell("look");
        for expected in expected {
            assert_eq!(child.says(), expected);
            looks += 1;
        }
    };
    let start = |hidden: &str| {
        let mut child = stage.child("names::look", &[&path, hidden]);
        assert_eq!(child.says(), "ready");
        child
    };
    let (mut no_data, mut no_control) = (start("data"), start("control"));
    ask(&mut no_data, ["[InUse]", "NotFound", "(0, 0)"]);
    ask(&mut no_control, ["[]", "NotFound", "(0, 0)"]);
    drop(segment);
    // Nobody holds it now. Out of sight is not gone: a reader may have it whom only the data tells of.
    ask(&mut no_data, ["[Unknown]", "NotFound", "(0, 0)"]);
    ask(&mut no_control, ["[]", "NotFound", "(0, 0)"]);
    assert_eq!(files(path.as_ref()).len(), 1, "nobody took it");
    drop(stage.domain.open("h").expect("whole"));
    no_data.end_well();
    no_control.end_well();
    assert_eq!(stage.domain.collect().expect("it runs").removed.len(), 1, "who sees both may");
    eprintln!("{looks} looks from elsewhere");
}

/// The roles of this file.
pub fn play(role: &str) -> bool {
    match role {
        "names::memfd" => memfd(),
        "names::look" => look(),
        _ => return false,
    }
    true
}

//! Races and sudden death: many creators, openers against replacers, collectors against everybody,
//! SIGKILL at random moments, forks, and signals in the middle of calls.

#![expect(unsafe_code, reason = "fork, and a signal handler that does nothing")]

use crate::common::child::{self, Child};
use crate::common::machine::{PrivateMount, counters, pages};
use crate::common::{M2, Quiet, Scratch, domain, files};
use hugeshm::{
    BackingKind, Domain, ErrorKind, Lifetime, PagePolicy, PeerState, Rung, Segment, SegmentBuilder,
};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A segment of one unit of a kind: `tmpfs`, `sysv`, `memfd`, or a hugetlbfs mount's path.
fn on(builder: SegmentBuilder, kind: &str) -> SegmentBuilder {
    let builder = builder.lifetime(Lifetime::WithHolders);
    let huge = |builder: SegmentBuilder, kind| builder.pages(M2.into()).backing(kind);
    match kind {
        "tmpfs" => builder.pages(PagePolicy::exactly(Rung::Base)).backing(BackingKind::Tmpfs),
        "sysv" => huge(builder, BackingKind::Sysv),
        "memfd" => huge(builder, BackingKind::Memfd),
        path => huge(builder, BackingKind::Hugetlbfs).mount(path),
    }
}

fn create(d: &Domain, name: &str, kind: &str) -> Result<Segment, hugeshm::Error> {
    on(d.create(name), kind).build()
}

fn replace(d: &Domain, name: &str, kind: &str) -> Result<Segment, hugeshm::Error> {
    on(Segment::replace(name).domain(d.clone()), kind).build()
}

#[test]
fn of_a_hundred_creators_of_one_name_exactly_one_wins_on_a_pool_for_one_segment() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let folder = scratch.path().display().to_string();
    let mount = PrivateMount::hugetlbfs(M2, None);
    let pool = pages(M2, 1);
    let mut kinds = vec!["tmpfs".to_owned()];
    if let (Some(mount), Some(_)) = (&mount, &pool) {
        kinds.extend([mount.path().display().to_string(), "sysv".to_owned(), "memfd".to_owned()]);
    }
    for kind in kinds {
        // Everything but one page is taken, so the losers must not need any.
        let spare = pool.as_ref().map_or(0, |pool| pool.available().saturating_sub(1));
        let filler = (spare > 0 && kind != "tmpfs").then(|| {
            let filler = Segment::unnamed().pages(M2.into()).size(spare * M2.bytes());
            filler.build().expect("pages that are there")
        });
        let mut creators: Vec<Child> =
            (0..100).map(|_| Child::start("races::creator", &[&folder, &kind])).collect();
        for creator in &mut creators {
            assert_eq!(creator.says(), "ready");
        }
        for creator in &mut creators {
            creator.tell("go");
        }
        let said: Vec<String> = creators.iter_mut().map(Child::says).collect();
        let won = said.iter().filter(|said| *said == "Ok").count();
        let lost = said.iter().filter(|said| said.starts_with("AlreadyExists")).count();
        assert_eq!((won, lost), (1, 99), "{kind}: {said:#?}");
        for creator in creators {
            creator.end_well();
        }
        let d = scratch.domain();
        d.remove("one").expect("the winner's");
        assert_eq!(scratch.files(), [""; 0]);
        drop(filler);
    }
}

fn child_creator() {
    let d = domain(Path::new(&child::argument(0)));
    let kind = child::argument(1);
    child::say("ready");
    child::hear();
    let made = create(&d, "one", &kind);
    child::say(child::outcome(made.as_ref().map_err(Clone::clone)));
    child::hear();
    drop(made);
}

#[test]
fn a_name_that_is_replaced_over_and_over_can_always_be_opened() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let d = scratch.domain();
    let folder = scratch.path().display().to_string();
    let mount = PrivateMount::hugetlbfs(M2, None);
    let pool = pages(M2, 4);
    let mut kinds = vec!["tmpfs".to_owned()];
    if let (Some(mount), Some(_)) = (&mount, &pool) {
        kinds.extend([mount.path().display().to_string(), "sysv".to_owned()]);
    }
    for kind in kinds {
        drop(create(&d, "n", &kind).expect("created"));
        let mut replacer = Child::start("races::replacer", &[&folder, &kind]);
        assert_eq!(replacer.says(), "ready");
        let until = Instant::now() + Duration::from_secs(2);
        let (mut opened, mut identities) = (0, std::collections::HashSet::new());
        while Instant::now() < until {
            let segment = d.open("n").unwrap_or_else(|error| panic!("{kind}: {error}"));
            identities.insert(segment.identity());
            drop(d.open_read_only("n").unwrap_or_else(|error| panic!("{kind}: {error}")));
            assert!(d.list().expect("a list").len() == 1);
            d.inspect("n").unwrap_or_else(|error| panic!("{kind}: {error}"));
            opened += 1;
        }
        assert!(opened > 20 && identities.len() > 10, "{kind}: {opened} {}", identities.len());
        replacer.end_well();
        d.remove("n").expect("the last one");
        d.collect().expect("it runs");
        assert_eq!(scratch.files(), [""; 0]);
    }
}

/// Replaces the name until its input is closed.
fn child_replacer() {
    let d = domain(Path::new(&child::argument(0)));
    let kind = child::argument(1);
    child::say("ready");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            child::hear();
            stop.store(true, Ordering::Relaxed);
        });
        let mut held = None;
        while !stop.load(Ordering::Relaxed) {
            held = Some(replace(&d, "n", &kind).expect("nobody else replaces it"));
        }
        drop(held);
    });
}

#[test]
fn collecting_never_takes_what_somebody_makes_or_holds() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let d = scratch.domain();
    let folder = scratch.path().display().to_string();
    let mount = PrivateMount::hugetlbfs(M2, None);
    let pool = pages(M2, 6);
    let mut kinds = vec!["tmpfs".to_owned()];
    if let (Some(mount), Some(_)) = (&mount, &pool) {
        let mount = mount.path().display().to_string();
        kinds.extend([mount, "sysv".to_owned(), "memfd".to_owned()]);
    }
    for kind in kinds {
        let mut collectors: Vec<Child> =
            (0..2).map(|_| Child::start("races::collector", &[&folder])).collect();
        for collector in &mut collectors {
            assert_eq!(collector.says(), "ready");
        }
        let until = Instant::now() + Duration::from_secs(2);
        let mut rounds = 0;
        while Instant::now() < until {
            let made = create(&d, "n", &kind).unwrap_or_else(|error| panic!("{kind}: {error}"));
            let opened = d.open("n").unwrap_or_else(|error| panic!("{kind}: {error}"));
            assert_eq!(opened.identity(), made.identity(), "{kind}");
            drop(made);
            let again = d.open("n").unwrap_or_else(|error| panic!("{kind}: {error}"));
            assert!(!again.is_superseded(), "{kind}");
            let next = replace(&d, "n", &kind).unwrap_or_else(|error| panic!("{kind}: {error}"));
            assert!(again.is_superseded() && !next.is_superseded(), "{kind}");
            drop((opened, again, next));
            // From here on it may be collected at any moment.
            match d.remove("n") {
                Ok(()) => {}
                Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{kind}: {error}"),
            }
            rounds += 1;
        }
        assert!(rounds > 10, "{kind}: {rounds} rounds");
        for collector in collectors {
            collector.end_well();
        }
        d.collect().expect("it runs");
        assert_eq!(scratch.files(), [""; 0], "{kind}");
    }
}

/// Collects until its input is closed.
fn child_collector() {
    let d = domain(Path::new(&child::argument(0)));
    child::say("ready");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            child::hear();
            stop.store(true, Ordering::Relaxed);
        });
        while !stop.load(Ordering::Relaxed) {
            let report = d.collect().expect("the folder can be read");
            for failed in report.failed {
                assert!(failed.contains("has been changing it"), "{failed}");
            }
        }
    });
}

#[test]
fn whatever_a_killed_creator_leaves_is_collected_and_the_next_run_works() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let d = scratch.domain();
    let folder = scratch.path().display().to_string();
    let mount = PrivateMount::hugetlbfs(M2, None);
    let pool = pages(M2, 4);
    let mut kinds = vec!["tmpfs".to_owned()];
    if let (Some(mount), Some(_)) = (&mount, &pool) {
        let mount = mount.path().display().to_string();
        kinds.extend([mount, "sysv".to_owned(), "memfd".to_owned()]);
    }
    let before = counters();
    let mut moment = 12_345_u64;
    let (mut half_built, mut whole, mut nothing) = (0, 0, 0);
    for round in 0..200 {
        let kind = &kinds[round % kinds.len()];
        let mut victim = Child::start("races::victim", &[&folder, kind]);
        assert_eq!(victim.says(), "ready");
        moment = moment.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        std::thread::sleep(Duration::from_micros((moment >> 33) % 4000));
        victim.kill();
        // The next run works without cleaning by hand ...
        if round % 2 == 0 {
            let next = replace(&d, "n", kind).unwrap_or_else(|error| panic!("{kind}: {error}"));
            assert_eq!(next.verify().expect("intact").resident, next.len());
            assert_eq!(d.open("n").expect("opened").identity(), next.identity());
            drop(next);
            d.remove("n").expect("removed");
        }
        // ... and collecting brings everything back.
        let report = d.collect().expect("it runs");
        assert!(report.failed.is_empty(), "{kind}: {report:?}");
        match report.removed.first().map(|removed| removed.what) {
            None => nothing += 1,
            Some("half-built segment") => half_built += 1,
            Some(_) => whole += 1,
        }
        assert_eq!(scratch.files(), [""; 0], "{kind}: {report:?}");
        if let Some(mount) = &mount {
            assert_eq!(files(&mount.path()), [""; 0], "{kind}: {report:?}");
        }
        assert!(crate::common::machine::own_sysv_ids().is_empty(), "{kind}: {report:?}");
        drop(create(&d, "n", kind).unwrap_or_else(|error| panic!("{kind}: {error}")));
        d.remove("n").expect("removed");
    }
    eprintln!("200 killed: {half_built} half-built, {whole} whole, {nothing} left nothing");
    assert!(half_built > 10, "the kills never met a creator at work");
    for counter in before {
        counter.assert_back();
    }
}

/// Creates, replaces and removes until it is killed.
fn child_victim() {
    let d = domain(Path::new(&child::argument(0)));
    let kind = child::argument(1);
    child::say("ready");
    loop {
        let made = create(&d, "n", &kind).expect("nobody else does");
        let next = replace(&d, "n", &kind).expect("nobody else does");
        drop((made, next));
        d.remove("n").expect("nobody else does");
    }
}

#[test]
fn a_live_segment_whose_control_file_was_deleted_is_never_collected() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let d = scratch.domain();
    let folder = scratch.path().display().to_string();
    let mount = PrivateMount::hugetlbfs(M2, None);
    let pool = pages(M2, 2);
    let mut kinds = vec!["tmpfs".to_owned()];
    if let (Some(mount), Some(_)) = (&mount, &pool) {
        let mount = mount.path().display().to_string();
        kinds.extend([mount, "sysv".to_owned(), "memfd".to_owned()]);
    }
    for kind in &kinds {
        let mut holder = Child::start("races::holder", &[&folder, kind]);
        assert_eq!(holder.says(), "ready");
        std::fs::remove_file(scratch.control_file("n")).expect("ours");
        for _ in 0..5 {
            let report = d.collect().expect("it runs");
            assert!(report.removed.is_empty() && report.failed.is_empty(), "{kind}: {report:?}");
        }
        holder.tell("verify");
        assert_eq!(holder.says(), "intact", "{kind}");
        holder.kill();
        let report = d.collect().expect("it runs");
        assert_eq!(report.removed.len(), 1, "{kind}: {report:?}");
        assert_eq!(scratch.files(), [""; 0], "{kind}");
    }
}

fn child_holder() {
    let d = domain(Path::new(&child::argument(0)));
    let segment = create(&d, "n", &child::argument(1)).expect("created");
    child::say("ready");
    while child::hear().is_some() {
        let intact = segment.verify().is_ok_and(|backing| backing.resident == segment.len());
        child::say(if intact { "intact" } else { "damaged" });
    }
}

#[test]
fn a_forked_child_is_told_so_and_does_not_keep_its_dead_parent_alive() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let d = scratch.domain();
    let folder = scratch.path().display().to_string();
    for kind in ["tmpfs", "plain memfd"] {
        let mut parent = Child::start("races::forker", &[&folder, kind]);
        let said: Vec<String> = (0..5).map(|_| parent.says()).collect();
        let expected = ["Forked", "Forked", "opened 2", "dropped", "waiting"];
        assert_eq!(said, expected, "{kind}");
        let report = d.collect().expect("it runs");
        assert!(report.removed.is_empty(), "the parent lives: {report:?}");
        // The pipe stays open in the grandchild, so its parent's end is waited for alone.
        parent.kill_only();
        let report = d.collect().expect("it runs");
        assert_eq!(report.removed.len(), 1, "{kind}: {report:?}");
        assert_eq!(parent.says(), "still here", "{kind}");
        assert_eq!(scratch.files(), [""; 0]);
    }
}

fn child_forker() {
    let d = domain(Path::new(&child::argument(0)));
    let kind = child::argument(1);
    let memfd = kind != "tmpfs";
    let backing = if memfd { BackingKind::Memfd } else { BackingKind::Tmpfs };
    let builder = d.create("n").pages(PagePolicy::exactly(Rung::Base)).backing(backing);
    let segment = builder.lifetime(Lifetime::WithHolders).build().expect("created");
    // SAFETY: this process has one thread (the harness runs with --test-threads=1), so the child
    // may do what any process may.
    match unsafe { nix::unistd::fork() }.expect("a child") {
        nix::unistd::ForkResult::Child => {
            let parent = nix::unistd::getppid();
            let kind = |result: Result<(), hugeshm::Error>| match result {
                Ok(()) => "Ok".to_owned(),
                Err(error) => format!("{:?}", error.kind()),
            };
            child::say(kind(segment.verify().map(drop)));
            let (socket, _other) = std::os::unix::net::UnixStream::pair().expect("a pair");
            child::say(kind(segment.send_over(&socket)));
            let own = d.open("n").expect("it may open the segment anew");
            let attached = d.inspect("n").expect("a report").attachments.len();
            child::say(format_args!("opened {attached}"));
            drop(own);
            drop(segment);
            child::say("dropped");
            child::say("waiting");
            while nix::unistd::getppid() == parent {
                std::thread::sleep(Duration::from_millis(5));
            }
            std::thread::sleep(Duration::from_millis(200));
            child::say("still here");
            // SAFETY: ends this process; nothing is left to be dropped that others would miss.
            unsafe { libc::_exit(0) }
        }
        nix::unistd::ForkResult::Parent { .. } => loop {
            std::thread::sleep(Duration::from_secs(1));
        },
    }
}

#[test]
fn a_stopped_process_is_alive_and_a_killed_opener_gives_its_place_back() {
    use nix::sys::signal::{Signal, kill};
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let d = scratch.domain();
    let folder = scratch.path().display().to_string();
    let holder = {
        let mut holder = Child::start("races::holder", &[&folder, "tmpfs"]);
        assert_eq!(holder.says(), "ready");
        holder
    };
    let pid = nix::unistd::Pid::from_raw(holder.pid() as i32);
    kill(pid, Signal::SIGSTOP).expect("a child of ours");
    let report = d.collect().expect("it runs");
    assert!(report.removed.is_empty() && report.kept == 1, "{report:?}");
    assert_eq!(d.inspect("n").expect("a report").attachments[0].state, PeerState::Alive);
    kill(pid, Signal::SIGCONT).expect("a child of ours");
    holder.kill();
    assert_eq!(d.inspect("n").expect("a report").attachments[0].state, PeerState::Dead);
    d.remove("n").expect("removed");

    let builder = on(d.create("n"), "tmpfs").max_attachments(3);
    let segment = builder.build().expect("created");
    let mut moment = 7_u64;
    for round in 0..60 {
        let mut opener = Child::start("races::opener", &[&folder]);
        assert_eq!(opener.says(), "ready");
        moment = moment.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        std::thread::sleep(Duration::from_micros((moment >> 33) % 2000));
        opener.kill();
        let two = (d.open("n"), d.open("n"));
        assert!(two.0.is_ok() && two.1.is_ok(), "round {round}: {two:?}");
        assert!(d.collect().expect("it runs").removed.is_empty(), "round {round}");
    }
    drop(segment);
    d.remove("n").expect("removed");
}

/// Opens and closes until it is killed.
fn child_opener() {
    let d = domain(Path::new(&child::argument(0)));
    child::say("ready");
    loop {
        drop(d.open("n").expect("a place for us"));
        drop(d.open_read_only("n").expect("a reader"));
    }
}

static SIGNALS: AtomicU64 = AtomicU64::new(0);

extern "C" fn count_signal(_: libc::c_int) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

#[test]
fn signals_in_the_middle_of_calls_change_nothing() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let folder = scratch.path().display().to_string();
    let mount = PrivateMount::hugetlbfs(M2, None);
    let pool = pages(M2, 34);
    let mut kinds = vec!["tmpfs".to_owned()];
    if let (Some(mount), Some(_)) = (&mount, &pool) {
        let mount = mount.path().display().to_string();
        kinds.extend([mount, "sysv".to_owned(), "memfd".to_owned()]);
    }
    for kind in kinds {
        let mut child = Child::start("races::interrupted", &[&folder, &kind]);
        let said = child.says();
        let signals: u64 = said.parse().unwrap_or_else(|_| panic!("{kind}: {said}"));
        assert!(signals > 100, "{kind}: only {signals} signals came");
        child.end_well();
    }
}

fn child_interrupted() {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    let d = domain(Path::new(&child::argument(0)));
    let kind = child::argument(1);
    let action =
        SigAction::new(SigHandler::Handler(count_signal), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler only adds to an atomic number, which may be done at any moment.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.expect("a handler");
    // SAFETY: the call has no conditions.
    let target = unsafe { libc::pthread_self() };
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // SAFETY: the target thread waits for this one before it ends.
                unsafe { libc::pthread_kill(target, libc::SIGUSR1) };
                std::thread::sleep(Duration::from_micros(20));
            }
        });
        for _ in 0..15 {
            let result = (|| {
                let builder = on(d.create("n"), &kind).size(32 << 20);
                let made = builder.build()?;
                let opened = d.open("n")?;
                drop(d.open_read_only("n")?);
                opened.verify()?;
                d.list()?;
                d.inspect("n")?;
                d.collect()?;
                let (here, there) = std::os::unix::net::UnixStream::pair().expect("a pair");
                if kind != "sysv" {
                    made.send_over(&here)?;
                    drop(Segment::receive_from(&there)?);
                }
                drop((made, opened));
                drop(replace(&d, "n", &kind)?);
                let report = d.collect()?;
                assert_eq!((report.removed.len(), report.failed.len()), (1, 0), "{report:?}");
                let waited = d.wait_for("n", Duration::from_millis(10));
                assert_eq!(waited.expect_err("gone").kind(), ErrorKind::TimedOut);
                Ok::<(), hugeshm::Error>(())
            })();
            if let Err(error) = result {
                child::say(error);
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    child::say(SIGNALS.load(Ordering::Relaxed));
}

/// The roles of this file.
pub fn play(role: &str) -> bool {
    match role {
        "races::creator" => child_creator(),
        "races::replacer" => child_replacer(),
        "races::collector" => child_collector(),
        "races::victim" => child_victim(),
        "races::opener" => child_opener(),
        "races::holder" => child_holder(),
        "races::forker" => child_forker(),
        "races::interrupted" => child_interrupted(),
        _ => return false,
    }
    true
}

#[test]
fn one_folders_collect_leaves_another_folders_segments_alone() {
    let _quiet = Quiet::begin();
    let (first, second) = (Scratch::new(), Scratch::new());
    let Some(mount) = PrivateMount::hugetlbfs(M2, None) else { return };
    let Some(_pool) = pages(M2, 1) else { return };
    let (mine, yours) = (domain(first.path()), domain(second.path()));
    drop(create(&mine, "keep", &mount.path().display().to_string()).unwrap());
    // Unheld, and from the other folder nothing is known of it but a data file on a shared mount.
    let report = yours.collect().unwrap();
    assert!(report.removed.is_empty() && report.failed.is_empty(), "{report:?}");
    drop(mine.open("keep").unwrap());
    // Even when everything in its own folder was deleted by hand, only that folder may have it.
    for file in files(first.path()).iter().filter(|file| !file.contains("lock")) {
        std::fs::remove_file(first.path().join(file)).unwrap();
    }
    assert!(yours.collect().unwrap().removed.is_empty());
    assert_eq!(mine.collect().unwrap().removed.len(), 1);
    assert_eq!(files(&mount.path()).len(), 0);
}

#[test]
fn a_place_given_back_is_free_at_once_while_another_thread_starts_programs() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let d = domain(scratch.path());
    let segment = d.create("spawn").ring::<u64>("n", 16).build().unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                std::process::Command::new("/bin/true").status().unwrap();
            }
        });
        for _ in 0..2000 {
            drop(segment.producer::<u64>("n").expect("nobody else has it"));
        }
        stop.store(true, Ordering::Relaxed);
    });
    drop(segment);
    d.remove("spawn").unwrap();
}

/// What a replacer or remover leaves that was killed before it told the holders.
fn holders_are_told_by_collect(replaced: bool) {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let domain = scratch.domain();
    let create = || domain.create("held").ring::<u64>("ring", 16).build().unwrap();
    let held = create();
    let mut rx = held.consumer::<u64>("ring").unwrap();
    let passing = scratch.path().join(format!("hugeshm.{}.new", held.identity()));
    std::fs::rename(scratch.control_file("held"), &passing).unwrap();
    let newer = replaced.then(create);
    assert!(!held.is_superseded());
    let report = domain.collect().unwrap();
    assert!(report.failed.is_empty(), "{report:?}");
    assert!(held.is_superseded() && !passing.exists());
    assert_eq!(rx.recv(), Err(hugeshm::RecvError::Superseded));
    if let Some(newer) = newer {
        assert!(!newer.is_superseded());
        assert_eq!(domain.open("held").unwrap().identity(), newer.identity());
        domain.remove("held").unwrap();
    }
}

#[test]
fn who_holds_what_a_killed_replacer_or_remover_took_the_name_from_is_told_by_collect() {
    holders_are_told_by_collect(true);
    holders_are_told_by_collect(false);
}

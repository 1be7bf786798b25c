//! What may not cost more where more is there: opening large segments, listing many names.

use crate::common::child::{self, Child};
use crate::common::machine::{PrivateMount, pages};
use crate::common::{M2, Quiet, Scratch, domain, skip};
use hugeshm::{BackingKind, PagePolicy, PageSize, Populate, Rung};
use nix::sys::resource::{UsageWho, getrusage};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Page faults and system calls that opening takes in a process of its own.
fn opening(folder: &str, name: &str, write: &str) -> i64 {
    let mut opener = Child::start("cost::opener", &[folder, name, write]);
    let faults = opener.says().parse().expect("a number");
    opener.end_well();
    faults
}

fn child_opener() {
    let d = domain(Path::new(&child::argument(0)));
    let (name, write) = (child::argument(1), child::argument(2) == "write");
    let open = || if write { d.open(&name) } else { d.open_read_only(&name) };
    // Once to warm up the allocator and the program's own pages.
    drop(open().expect("it is there"));
    let faults = || getrusage(UsageWho::RUSAGE_SELF).expect("ours").minor_page_faults();
    let before = faults();
    let segment = open().expect("it is there");
    let taken = faults() - before;
    drop(segment);
    child::say(taken);
}

#[test]
fn opening_costs_the_same_whatever_the_size_and_progress_ends_at_the_total() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let d = scratch.domain();
    let folder = scratch.path().display().to_string();
    let mut large = 4u64 << 30;
    if hugeshm::pages::memory().available < large + (2 << 30) {
        skip("less than 6 GiB of memory are available; 256 MiB must do");
        large = 256 << 20;
    }
    let mount = PrivateMount::hugetlbfs(M2, None);
    let huge_pages = large / 4 / M2.bytes();
    let pool = pages(M2, huge_pages + 1);
    let base = (Rung::Base, BackingKind::Tmpfs, large);
    let mut cases = vec![base];
    if mount.is_some() && pool.is_some() {
        cases.push((Rung::Huge(M2), BackingKind::Hugetlbfs, huge_pages * M2.bytes()));
    }
    for (rung, kind, large) in cases {
        let furthest = Arc::new(AtomicU64::new(0));
        let calls = Arc::new(AtomicU64::new(0));
        for (name, bytes) in [("small", M2.bytes()), ("large", large)] {
            let (most, count) = (Arc::clone(&furthest), Arc::clone(&calls));
            furthest.store(0, Ordering::SeqCst);
            calls.store(0, Ordering::SeqCst);
            let mut builder = d
                .create(name)
                .pages(PagePolicy::exactly(rung))
                .backing(kind)
                .size(bytes)
                .populate(Populate::Parallel(0))
                .progress(move |done, total| {
                    assert!(done <= total && total == bytes);
                    most.fetch_max(done, Ordering::SeqCst);
                    count.fetch_add(1, Ordering::SeqCst);
                });
            if let (BackingKind::Hugetlbfs, Some(mount)) = (kind, &mount) {
                builder = builder.mount(mount.path());
            }
            let made = builder.build().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(made.backing().resident, bytes);
            assert_eq!(furthest.load(Ordering::SeqCst), bytes, "progress ends at the total");
            if bytes == large {
                assert!(calls.load(Ordering::SeqCst) >= 4, "progress is seen on the way");
            }
        }
        for how in ["write", "read"] {
            let (small, big) = (opening(&folder, "small", how), opening(&folder, "large", how));
            assert!(big <= small + 16, "{kind} {how}: {small} faults for 2 MiB, {big} for {large}");
        }
        d.remove("small").expect("removed");
        d.remove("large").expect("removed");
    }
}

#[test]
fn a_gigantic_page_is_opened_without_touching_it_all() {
    let _quiet = Quiet::begin();
    let size = PageSize::SIZE_1G;
    let scratch = Scratch::new();
    let d = scratch.domain();
    let (Some(_pool), Some(mount)) = (pages(size, 2), PrivateMount::hugetlbfs(size, None)) else {
        return;
    };
    let builder = d.create("n").pages(size.into()).backing(BackingKind::Hugetlbfs).size(2 << 30);
    drop(builder.mount(mount.path()).populate(Populate::Parallel(0)).build().expect("created"));
    let folder = scratch.path().display().to_string();
    assert!(opening(&folder, "n", "write") < 64);
    d.remove("n").expect("removed");
}

#[test]
fn a_list_of_five_thousand_names_stays_interactive() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let d = scratch.domain();
    const NAMES: usize = 5000;
    for number in 0..NAMES {
        let builder = d.create(&format!("n{number}")).max_objects(1).max_attachments(1);
        let builder = builder.pages(PagePolicy::exactly(Rung::Base)).backing(BackingKind::Tmpfs);
        drop(builder.build().unwrap_or_else(|error| panic!("{number}: {error}")));
    }
    let begun = Instant::now();
    let list = d.list().expect("a list");
    let took = begun.elapsed();
    assert_eq!(list.len(), NAMES);
    assert!(list.iter().all(|entry| entry.problem.is_none()));
    assert!(took < Duration::from_secs(2), "{took:?}");
    let begun = Instant::now();
    let report = d.collect().expect("it runs");
    assert_eq!((report.removed.len(), report.failed.len()), (NAMES, 0));
    eprintln!("{NAMES} names: listed in {took:?}, collected in {:?}", begun.elapsed());
}

/// The roles of this file.
pub fn play(role: &str) -> bool {
    match role {
        "cost::opener" => child_opener(),
        _ => return false,
    }
    true
}

//! Exhaustion: pools, quotas, cgroup limits and tmpfs at their end are errors, never signals.
//!
//! Whatever could be a SIGBUS happens in a child, which must say what it got and end well.

use crate::common::child::{self, Child};
use crate::common::machine::{HugetlbCgroup, PrivateMount, counters, pages};
use crate::common::{M2, Quiet, Scratch, domain, is_root, refused};
use hugeshm::{
    BackingKind, Domain, Error, ErrorKind, Lifetime, PagePolicy, Populate, RefusalCode, Rung,
    Segment,
};
use std::path::Path;

fn on(
    d: &Domain,
    name: &str,
    kind: BackingKind,
    bytes: u64,
    mount: &Path,
) -> Result<Segment, Error> {
    let rung = match kind {
        BackingKind::Tmpfs => Rung::Base,
        _ => Rung::Huge(M2),
    };
    let builder = d
        .create(name)
        .pages(PagePolicy::exactly(rung))
        .backing(kind)
        .lifetime(Lifetime::WithHolders)
        .populate(Populate::Parallel(2))
        .size(bytes);
    if kind == BackingKind::Hugetlbfs { builder.mount(mount) } else { builder }.build()
}

const POOL_KINDS: [BackingKind; 3] =
    [BackingKind::Hugetlbfs, BackingKind::Sysv, BackingKind::Memfd];

#[test]
fn a_drained_pool_is_an_error_with_numbers_for_every_kind_of_object() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let d = scratch.domain();
    let (Some(pool), Some(mount)) = (pages(M2, 3), PrivateMount::hugetlbfs(M2, None)) else {
        return;
    };
    let path = mount.path();
    let all = pool.available() * M2.bytes();
    for kind in POOL_KINDS {
        let before = counters();
        let error = refused(on(&d, "n", kind, all + 1, &path), ErrorKind::OutOfPages, "n");
        // Another test program may have taken or given pages meanwhile, so numbers are not named.
        assert_eq!(error.refusals()[0].code, RefusalCode::PoolTooSmall, "{error}");
        assert!(error.refusals()[0].numbers.contains("available"), "{error}");
        assert_eq!(counters(), before);
        let full = on(&d, "full", kind, all, &path).expect("all that is there");
        refused(on(&d, "n", kind, 1 << 20, &path), ErrorKind::OutOfPages, "n");
        // Unless less is allowed: then the report says what was missed.
        let less = d.create("less").size(3 << 20).mount(&path).build().expect("some rung is left");
        let refusals = &less.backing().refusals;
        assert!(!matches!(less.backing().rung, Rung::Huge(_)), "{}", less.backing());
        assert!(
            refusals.iter().any(|refusal| refusal.code == RefusalCode::PoolTooSmall
                && refusal.rung == Rung::Huge(M2)
                && !refusal.remedy.is_empty()),
            "{:#}",
            less.backing()
        );
        assert!(less.backing().to_string().contains("2M refused: pool-too-small"));
        drop((full, less));
        d.remove("full").expect("removed");
        d.remove("less").expect("removed");
        for counter in before {
            counter.assert_back();
        }
    }
}

#[test]
fn pages_that_dead_creators_left_are_found_when_the_pool_is_short() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let d = scratch.domain();
    let (Some(pool), Some(mount)) = (pages(M2, 3), PrivateMount::hugetlbfs(M2, None)) else {
        return;
    };
    let path = mount.path();
    let all = pool.available() * M2.bytes();
    for kind in [BackingKind::Hugetlbfs, BackingKind::Sysv] {
        // What a creator leaves that was killed before its name was linked.
        drop(on(&d, "dead", kind, all, &path).expect("created"));
        std::fs::remove_file(scratch.control_file("dead")).expect("ours");
        let next = on(&d, "next", kind, all, &path).expect("the dead one's pages are found");
        assert_eq!(next.verify().expect("intact").resident, all);
        drop(next);
        // A whole segment that nobody holds is no leftover: its pages are not taken.
        refused(on(&d, "n", kind, M2.bytes(), &path), ErrorKind::OutOfPages, "n");
        drop(d.open("next").expect("untouched"));
        d.remove("next").expect("removed");
    }
}

#[test]
fn a_mount_quota_is_an_error_with_numbers() {
    let _quiet = Quiet::begin();
    if !is_root("mount") {
        return;
    }
    let scratch = Scratch::new();
    let d = scratch.domain();
    let quota = 2 * M2.bytes();
    let (Some(_pool), Some(mount)) = (pages(M2, 6), PrivateMount::hugetlbfs(M2, Some(quota)))
    else {
        return;
    };
    let path = mount.path();
    let kind = BackingKind::Hugetlbfs;
    let before = counters();
    let error = refused(on(&d, "n", kind, quota + 1, &path), ErrorKind::OutOfPages, "n");
    assert_eq!(error.refusals()[0].code, RefusalCode::MountQuota, "{error}");
    assert_eq!(counters(), before);
    let full = on(&d, "full", kind, quota, &path).expect("within the quota");
    let error = refused(on(&d, "n", kind, 1 << 20, &path), ErrorKind::OutOfPages, "n");
    assert_eq!(error.refusals()[0].code, RefusalCode::MountQuota, "{error}");
    assert!(error.to_string().contains("0 B of 4 MiB free"), "{error}");
    drop(full);
    d.remove("full").expect("removed");
}

#[test]
fn hugetlb_cgroup_limits_are_errors_at_reservation_and_at_fault() {
    let _quiet = Quiet::begin();
    if !is_root("make cgroups") {
        return;
    }
    let scratch = Scratch::new();
    let folder = scratch.path().display().to_string();
    let (Some(_pool), Some(mount)) = (pages(M2, 12), PrivateMount::hugetlbfs(M2, None)) else {
        return;
    };
    let path = mount.path().display().to_string();
    for limit in ["max", "rsvd.max"] {
        for kind in POOL_KINDS {
            let Some(group) = HugetlbCgroup::limited(limit, 2 * M2.bytes()) else { return };
            let before = counters();
            let mut child = Child::start("pools::taker", &[&folder, &path, kind.as_str()]);
            group.take(child.pid());
            child.tell("go");
            let said = child.says();
            assert!(said.starts_with("OutOfPages"), "{limit} {kind}: {said}");
            assert!(said.contains("cgroup-limit"), "{limit} {kind}: {said}");
            assert!(said.contains("leaves") && said.contains("try:"), "{limit} {kind}: {said}");
            assert_eq!(child.says(), "Ok", "{limit} {kind}: what fits is to be had");
            child.end_well();
            for counter in before {
                counter.assert_back();
            }
        }
    }
}

fn child_taker() {
    let d = domain(Path::new(&child::argument(0)));
    let mount = child::argument(1);
    let kind = match child::argument(2).as_str() {
        "hugetlbfs" => BackingKind::Hugetlbfs,
        "sysv" => BackingKind::Sysv,
        _ => BackingKind::Memfd,
    };
    child::hear();
    child::say(child::outcome(on(&d, "n", kind, 6 * M2.bytes(), Path::new(&mount))));
    let fits = on(&d, "n", kind, 2 * M2.bytes(), Path::new(&mount));
    child::say(child::outcome(fits.as_ref().map_err(Clone::clone)));
    drop(fits);
    let _ = d.remove("n");
}

#[test]
fn a_full_tmpfs_is_an_error_and_keeps_no_page() {
    let _quiet = Quiet::begin();
    if !is_root("mount") {
        return;
    }
    let Some(mount) = PrivateMount::tmpfs("size=8m") else { return };
    let path = mount.path();
    let d = domain(&path);
    let kind = BackingKind::Tmpfs;
    let free = || hugeshm::pages::tmpfs_at(&path).expect("a tmpfs").free;
    drop(on(&d, "n", kind, 1 << 20, &path).expect("it fits"));
    d.remove("n").expect("removed");
    let before = free();
    let error = refused(on(&d, "n", kind, 9 << 20, &path), ErrorKind::OutOfPages, "n");
    assert_eq!(error.refusals()[0].code, RefusalCode::MemoryLimit, "{error}");
    assert_eq!(free(), before);
    let full = on(&d, "full", kind, 7 << 20, &path).expect("it fits");
    for policy in [PagePolicy::auto(), PagePolicy::exactly(Rung::Thp)] {
        let built = d.create("n").pages(policy).backing(kind).size(3 << 20).build();
        let error = refused(built, ErrorKind::OutOfPages, "n");
        assert!(error.refusals().iter().all(|refusal| !refusal.remedy.is_empty()), "{error}");
    }
    drop(full);
    d.remove("full").expect("removed");
    assert_eq!(free(), before);
    // Several at once, which all see room and do not all find it.
    let results: Vec<_> = std::thread::scope(|scope| {
        let make = |number: usize| {
            let d = d.clone();
            let path = &path;
            move || on(&d, &format!("n{number}"), kind, 3 << 20, path)
        };
        let threads: Vec<_> = (0..6).map(|number| scope.spawn(make(number))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let won = results.iter().filter(|result| result.is_ok()).count();
    // Each may have had what another one lacked, so it may be that none got all it needed.
    assert!(won <= 2, "{won} of 3 MiB in 8 MiB");
    for error in results.iter().filter_map(|result| result.as_ref().err()) {
        assert!(matches!(error.kind(), ErrorKind::OutOfPages | ErrorKind::NoSpace), "{error}");
    }
    drop(results);
    assert_eq!(d.collect().expect("it runs").removed.len(), won);
    for entry in std::fs::read_dir(&path).expect("ours").flatten() {
        std::fs::remove_file(entry.path()).expect("ours");
    }
}

/// The roles of this file.
pub fn play(role: &str) -> bool {
    match role {
        "pools::taker" => child_taker(),
        _ => return false,
    }
    true
}

//! Pages that belong to somebody else, or that somebody else takes at the worst moment.

use crate::common::child::{self, Child};
use crate::common::machine::{PrivateMount, counters, pages};
use crate::common::{M2, Quiet, Scratch, domain, is_root, lacks_pages, refused};
use crate::guard;
use crate::wants::{self, Promised};
use hugeshm::{
    BackingKind, Domain, Error, ErrorKind, Lifetime, PagePolicy, Placement, RefusalCode, Region,
    Rung, Segment,
};
use std::path::{Path, PathBuf};

const KINDS: [BackingKind; 3] = [BackingKind::Hugetlbfs, BackingKind::Sysv, BackingKind::Memfd];

fn create(d: &Domain, kind: BackingKind, pages: u64, mount: &Path) -> Result<Segment, Error> {
    let builder = d.create("n").pages(PagePolicy::exactly(Rung::Huge(M2))).backing(kind);
    let builder = builder.lifetime(Lifetime::WithHolders).size(pages * M2.bytes());
    if kind == BackingKind::Hugetlbfs { builder.mount(mount) } else { builder }.build()
}

fn region(pages: u64) -> Result<Region, Error> {
    Region::builder(pages * M2.bytes()).pages(PagePolicy::exactly(Rung::Huge(M2))).map()
}

/// Takes all pages and gives them back, over and over, until its input is closed.
fn child_thief() {
    let touches = child::argument(0) == "touches";
    child::say("ready");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            child::hear();
            stop.store(true, std::sync::atomic::Ordering::SeqCst);
        });
        while !stop.load(std::sync::atomic::Ordering::SeqCst) {
            let free = hugeshm::pages::pool(M2).ok().flatten().map_or(0, |pool| pool.available());
            for count in (1..=free).rev() {
                let Some(all) = Promised::try_new(count) else { continue };
                if touches {
                    all.touch();
                }
                std::thread::sleep(std::time::Duration::from_micros(300));
                break;
            }
        }
    });
}

#[test]
fn a_pool_that_is_drained_while_pages_are_taken_gives_all_or_an_error() {
    let _quiet = Quiet::begin();
    guard::install();
    let scratch = Scratch::new();
    let d = scratch.domain();
    let (Some(_pool), Some(mount)) = (pages(M2, 8), PrivateMount::hugetlbfs(M2, None)) else {
        return;
    };
    let path = mount.path();
    let (mut tried, mut worked, mut failed) = (0, 0, 0);
    let before = counters();
    for how in ["touches", "promises"] {
        let mut thief = Child::start("others::thief", &[how]);
        assert_eq!(thief.says(), "ready");
        for kind in KINDS.map(Some).into_iter().chain([None]) {
            guard::doing(&format!("{kind:?} beside a thief who {how}"));
            // Until both have happened; the thief holds everything about half of the time.
            let (mut good, mut bad, mut rounds) = (0, 0, 0);
            while (good < 5 || bad < 5) && rounds < 3000 {
                rounds += 1;
                let made = match kind {
                    Some(kind) => create(&d, kind, 4, &path).map(|segment| {
                        assert_eq!(segment.verify().expect("all there").resident, 4 * M2.bytes());
                        drop(segment);
                        d.remove("n").expect("ours");
                    }),
                    None => region(4).map(|mut region| region.as_mut_slice().fill(1)),
                };
                match made {
                    Ok(()) => good += 1,
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::OutOfPages, "{error}");
                        let code = error.refusals()[0].code;
                        // By the time of the look the thief may have given them back.
                        let expected = [RefusalCode::PoolTooSmall, RefusalCode::System];
                        assert!(expected.contains(&code), "{error}");
                        assert!(error.to_string().contains("needs 4 pages of 2M"), "{error}");
                        bad += 1;
                    }
                }
            }
            assert!(good > 0 && bad > 0, "{kind:?}: {good} worked, {bad} failed");
            tried += rounds;
            worked += good;
            failed += bad;
        }
        thief.end_well();
    }
    println!("a racing thief: {tried} tries, {worked} worked, {failed} refused");
    for counter in before {
        counter.assert_back();
    }
}

/// The pool's permission to grow on demand, as it was at the end.
struct Overcommit {
    path: PathBuf,
    before: String,
}

impl Overcommit {
    fn set(pages: u64) -> Option<Self> {
        let path =
            PathBuf::from("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages");
        let before = std::fs::read_to_string(&path).ok()?;
        match std::fs::write(&path, pages.to_string()) {
            Ok(()) => Some(Self { path, before }),
            Err(error) => {
                lacks_pages(&format!("surplus pages cannot be allowed: {error}"));
                None
            }
        }
    }
}

impl Drop for Overcommit {
    fn drop(&mut self) {
        let _ = std::fs::write(&self.path, &self.before);
    }
}

#[test]
fn surplus_pages_are_used_up_to_the_last_and_given_back() {
    let _quiet = Quiet::begin();
    guard::install();
    if !is_root("let a pool grow on demand") {
        return;
    }
    let scratch = Scratch::new();
    let d = scratch.domain();
    let (Some(pool), Some(mount)) = (pages(M2, 2), PrivateMount::hugetlbfs(M2, None)) else {
        return;
    };
    let path = mount.path();
    let before = counters();
    let own = pool.available();
    let Some(_overcommit) = Overcommit::set(3) else { return };
    let all = own + 3;
    for kind in KINDS {
        guard::doing(&format!("surplus pages for {kind}"));
        let error = refused(create(&d, kind, all + 1, &path), ErrorKind::OutOfPages, "n");
        assert_eq!(error.refusals()[0].code, RefusalCode::PoolTooSmall, "{error}");
        let said = format!("needs {} pages of 2M, {all} available", all + 1);
        assert!(error.to_string().contains(&said), "{error}");
        let full = create(&d, kind, all, &path).expect("surplus pages count as available");
        assert_eq!(full.verify().expect("all there").resident, all * M2.bytes());
        refused(create(&d, kind, 1, &path), ErrorKind::AlreadyExists, "n");
        refused(region(1), ErrorKind::OutOfPages, "2 MiB");
        drop(full);
        d.remove("n").expect("ours");
        for counter in &before {
            counter.assert_back();
        }
    }
    let surplus = hugeshm::pages::pool(M2).expect("readable").expect("a pool").surplus;
    assert_eq!(surplus, 0, "surplus pages were kept");
}

#[test]
fn what_a_mount_has_set_aside_is_its_own_and_nobody_elses() {
    let _quiet = Quiet::begin();
    guard::install();
    if !is_root("mount") {
        return;
    }
    let scratch = Scratch::new();
    let d = scratch.domain();
    let Some(pool) = pages(M2, 4) else { return };
    let options = "pagesize=2M,mode=0755,min_size=4M";
    let (Some(mount), Some(other)) =
        (PrivateMount::of_kind("hugetlbfs", options), PrivateMount::hugetlbfs(M2, None))
    else {
        return;
    };
    let path = mount.path();
    // All that is left after the mount has taken its two pages.
    let others = Promised::new(pool.available());
    for kind in KINDS {
        guard::doing(&format!("{kind} beside a mount's own pages"));
        refused(create(&d, kind, 1, &other.path()), ErrorKind::OutOfPages, "n");
    }
    refused(region(1), ErrorKind::OutOfPages, "2 MiB");
    let error = refused(create(&d, BackingKind::Hugetlbfs, 3, &path), ErrorKind::OutOfPages, "n");
    assert_eq!(error.refusals()[0].code, RefusalCode::PoolTooSmall, "{error}");
    let full = create(&d, BackingKind::Hugetlbfs, 2, &path).expect("its own pages");
    assert_eq!(full.verify().expect("all there").resident, 2 * M2.bytes());
    drop(full);
    d.remove("n").expect("ours");
    others.touch();
}

#[test]
fn a_node_without_pages_is_an_error_with_its_numbers() {
    let _quiet = Quiet::begin();
    guard::install();
    let Some(pool) = pages(M2, 2) else { return };
    let node = hugeshm::pages::pool(M2).expect("readable").expect("a pool").nodes[0].node;
    let others = Promised::new(pool.available());
    others.touch();
    let built = Region::builder(M2.bytes())
        .pages(PagePolicy::exactly(Rung::Huge(M2)))
        .placement(Placement::node(node));
    let error = refused(built.clone().map(), ErrorKind::OutOfPages, "2 MiB");
    assert_eq!(error.refusals()[0].code, RefusalCode::NodeTooSmall, "{error}");
    assert!(error.to_string().contains(&format!("on node {node}, 0 free")), "{error}");
    drop(others);
    assert_eq!(built.map().expect("it has one again").backing().nodes[0].node, node);
}

/// Collects, and creates in vain, with few descriptors; what is held or has a name must stay.
fn child_poor() {
    let d = domain(Path::new(&child::argument(0)));
    let small = |name: &str| {
        let builder = d.create(name).pages(PagePolicy::exactly(Rung::Base));
        builder.backing(BackingKind::Tmpfs).size(1 << 20).build().expect("a small one")
    };
    drop(small("held"));
    let reader = d.open_read_only("held").expect("just made");
    // More than the pool has, so that what dead creators left is looked for.
    let vain = |name: &str| {
        let builder = d.create(name).pages(PagePolicy::exactly(Rung::Huge(M2)));
        builder.backing(BackingKind::Memfd).lifetime(Lifetime::WithHolders).size(1 << 40).build()
    };
    let mut tried = 0;
    for left in 0..12 {
        guard::doing(&format!("a collection with {left} descriptors"));
        let scarce = wants::fill_descriptors(left);
        let report = d.collect();
        drop(scarce);
        if let Ok(report) = report {
            assert!(report.removed.is_empty(), "{left} left: {report:?}");
        }
        drop(d.open("held").unwrap_or_else(|error| panic!("{left} left: {error}")));
        drop(small("named"));
        let scarce = wants::fill_descriptors(left);
        let made = vain("vain");
        drop(scarce);
        assert!(made.is_err());
        drop(d.open("named").unwrap_or_else(|error| panic!("{left} left: {error}")));
        d.remove("named").expect("ours");
        tried += 2;
    }
    drop(reader);
    d.remove("held").expect("ours");
    child::say(tried);
}

#[test]
fn one_who_is_short_of_descriptors_collects_nothing_that_is_held_or_named() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let folder = scratch.path().display().to_string();
    let mut child = Child::start("others::poor", &[&folder]);
    let tried: u32 = child.says().parse().expect("a number");
    child.end_well();
    println!("collections without descriptors: {tried} tried");
    assert!(tried > 0, "nothing was tried");
}

/// The roles of this file.
pub fn play(role: &str) -> bool {
    match role {
        "others::poor" => child_poor(),
        "others::thief" => child_thief(),
        _ => return false,
    }
    true
}

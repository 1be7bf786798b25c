//! A peer that takes pages away: what is guarded is an error, and what is not is shown to be none.
//!
//! Guarded is whatever looks at a segment anew: `open`, `open_read_only`, `open_or_create`, `list`,
//! `inspect`, `collect`, `remove`, `verify`. Not guarded is the touch of one who is attached: the
//! kernel leaves no way to ask first. Only those who may write the segment can do any of this.
#![expect(unsafe_code, reason = "taking pages out of System V segments")]

use crate::common::child::{self, Child};
use crate::common::machine::{Pages, PrivateMount, pages};
use crate::common::{M2, Quiet, Scratch, domain};
use crate::guard;
use crate::wants::Promised;
use hugeshm::{
    BackingKind, Domain, ErrorKind, Lifetime, PagePolicy, Rung, Segment, SegmentBuilder,
};
use nix::fcntl::FallocateFlags;
use std::fs::File;
use std::path::Path;

const PAGES: u64 = 3;

/// What is done to the data of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    /// The length is cut to so many pages of the segment.
    Cut(u64),
    /// So many pages, from the first one given, are punched out.
    Punch(u64, u64),
}

const DAMAGES: [Damage; 6] = [
    Damage::Cut(0),
    Damage::Cut(1),
    Damage::Cut(PAGES - 1),
    Damage::Punch(0, 1),
    Damage::Punch(PAGES - 1, 1),
    Damage::Punch(0, PAGES),
];

fn rung(kind: BackingKind) -> Rung {
    if kind == BackingKind::Tmpfs { Rung::Base } else { Rung::Huge(M2) }
}

fn page(kind: BackingKind) -> u64 {
    if kind == BackingKind::Tmpfs { 4096 } else { M2.bytes() }
}

fn shaped(builder: SegmentBuilder, kind: BackingKind, mount: &str) -> SegmentBuilder {
    let builder = builder.pages(PagePolicy::exactly(rung(kind))).backing(kind);
    let builder = builder.lifetime(Lifetime::WithHolders).max_objects(2).max_attachments(2);
    let pages = if kind == BackingKind::Tmpfs { 16 } else { PAGES };
    let builder = builder.size(pages * page(kind));
    let builder = builder.ring::<u64>("ring", 16);
    if kind == BackingKind::Hugetlbfs { builder.mount(mount) } else { builder }
}

/// A segment with the means to damage it, which its maker has.
struct Victim {
    segment: Segment,
    kind: BackingKind,
    file: Option<File>,
}

impl Victim {
    fn new(d: &Domain, scratch: &Scratch, kind: BackingKind, mount: &str) -> Self {
        let segment = shaped(d.create("n"), kind, mount).build();
        let segment = segment.unwrap_or_else(|error| panic!("{kind}: {error}"));
        let data = format!("hugeshm.{}", segment.identity());
        let path = match kind {
            BackingKind::Hugetlbfs => Some(Path::new(mount).join(data)),
            BackingKind::Tmpfs => Some(scratch.path().join(data)),
            BackingKind::Memfd => Some(own_memfd()),
            _ => None,
        };
        let write = |path| File::options().read(true).write(true).open(path).expect("ours");
        Self { segment, kind, file: path.map(write) }
    }

    /// The pages that it has; at least three.
    fn pages(&self) -> u64 {
        self.segment.len() / page(self.kind)
    }

    /// Damages it; false where the kernel does not let anybody.
    fn damage(&self, damage: Damage) -> bool {
        // Where there are more than three, the last stands for the third.
        let at = |number: u64| {
            page(self.kind) * if number == 0 { 0 } else { self.pages() - PAGES + number }
        };
        match (&self.file, damage) {
            (Some(file), Damage::Cut(to)) => file.set_len(at(to)).is_ok(),
            (Some(file), Damage::Punch(first, count)) => {
                let flags =
                    FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                let length = at(first + count) - at(first);
                nix::fcntl::fallocate(file, flags, at(first) as i64, length as i64).is_ok()
            }
            (None, Damage::Cut(_)) => false,
            (None, Damage::Punch(first, count)) => punch_sysv(at(first), at(first + count)),
        }
    }
}

/// Where this process has the data of its only memfd segment open.
fn own_memfd() -> std::path::PathBuf {
    let entries = std::fs::read_dir("/proc/self/fd").expect("/proc is mounted");
    let ours = |path: &std::path::PathBuf| {
        let name = std::fs::read_link(path).unwrap_or_default();
        name.to_string_lossy().starts_with("/memfd:hugeshm ")
    };
    entries.map(|entry| entry.expect("readable").path()).find(ours).expect("a memfd segment")
}

/// Takes pages out of the only System V segment of this process, by a mapping of it.
fn punch_sysv(from: u64, to: u64) -> bool {
    let ids = crate::common::machine::own_sysv_ids();
    let id = *ids.first().expect("a System V segment");
    // SAFETY: no address is asked for, so nothing that exists is replaced.
    let base = unsafe { libc::shmat(id, std::ptr::null(), 0) };
    assert_ne!(base.addr(), usize::MAX, "{}", nix::errno::Errno::last());
    let start = base.wrapping_byte_add(from as usize);
    // SAFETY: the range lies in the segment, and nobody has a reference into it.
    let gone = unsafe { libc::madvise(start, (to - from) as usize, libc::MADV_REMOVE) };
    // SAFETY: the address came from `shmat`.
    unsafe { libc::shmdt(base) };
    gone == 0
}

/// The kinds that this machine has, with what they need.
fn kinds(needed: u64) -> (Vec<BackingKind>, Option<Pages>, Option<PrivateMount>) {
    let pool = pages(M2, needed);
    let mount = pool.as_ref().and_then(|_| PrivateMount::hugetlbfs(M2, None));
    let mut kinds = vec![BackingKind::Tmpfs];
    if mount.is_some() {
        kinds.extend([BackingKind::Hugetlbfs, BackingKind::Sysv, BackingKind::Memfd]);
    }
    (kinds, pool, mount)
}

// --- looks ------------------------------------------------------------------

/// Every call that looks at a segment anew.
fn child_looks() {
    let d = domain(Path::new(&child::argument(0)));
    let kind: BackingKind = child::argument(1).parse().expect("a kind");
    let mount = child::argument(2);
    let look = |what: &str, outcome: &mut dyn FnMut() -> String| {
        guard::doing(&format!("{what} of a damaged {kind}"));
        child::say(format!("{what}: {}", outcome()));
    };
    look("open", &mut || child::outcome(d.open("n")));
    look("open_read_only", &mut || child::outcome(d.open_read_only("n")));
    look("open_or_create", &mut || {
        let builder = Segment::open_or_create("n").domain(d.clone());
        child::outcome(shaped(builder, kind, &mount).build())
    });
    look("list", &mut || {
        assert_eq!(d.list().expect("a list").len(), 1);
        "Ok".to_owned()
    });
    look("inspect", &mut || match d.inspect("n") {
        Ok(info) => format!("problems {:?}", info.problems),
        Err(error) => child::outcome::<()>(Err(error)),
    });
    look("remove", &mut || child::outcome(d.remove("n")));
}

#[test]
fn whatever_looks_at_a_damaged_segment_answers_and_no_signal_comes() {
    let _quiet = Quiet::begin();
    guard::install();
    let scratch = Scratch::new();
    let d = scratch.domain();
    let folder = scratch.path().display().to_string();
    let (kinds, pool, mount) = kinds(PAGES + 1);
    let mount = mount.as_ref().map_or(String::new(), |mount| mount.path().display().to_string());
    let (mut looks, mut impossible) = (0, 0);
    for kind in kinds {
        for (damage, drained) in DAMAGES.into_iter().flat_map(|one| [(one, false), (one, true)]) {
            let victim = Victim::new(&d, &scratch, kind, &mount);
            guard::doing(&format!("{damage:?} of {kind}"));
            if !victim.damage(damage) {
                // Seals keep a memfd's length, and nothing changes that of a System V segment.
                let kept = matches!(kind, BackingKind::Memfd | BackingKind::Sysv);
                assert!(kept && matches!(damage, Damage::Cut(_)), "{damage:?} of {kind}");
                victim.segment.verify().expect("intact");
                impossible += 1;
                drop(victim);
                d.remove("n").expect("removed");
                continue;
            }
            let others =
                pool.as_ref().filter(|_| drained).map(|pool| Promised::new(pool.available()));
            // A punched System V segment is whole again once pages can be had, of zeros.
            let tells = kind != BackingKind::Sysv || drained;
            if tells {
                let error = victim.segment.verify().expect_err("it is damaged");
                assert_eq!(error.kind(), ErrorKind::NoSpace, "{damage:?} of {kind}: {error}");
                let cut = matches!(damage, Damage::Cut(_));
                let word = if cut { "cut short" } else { "taken out" };
                assert!(error.to_string().contains(word), "{damage:?} of {kind}: {error}");
            }
            let mut child = Child::start("shrinking::looks", &[&folder, kind.as_str(), &mount]);
            let first_is_gone = !matches!(damage, Damage::Punch(first, _) if first > 0);
            while let Some(said) = child.next() {
                looks += 1;
                let what = format!("{damage:?} of {kind}, drained {drained}: {said}");
                assert!(!said.starts_with("signal"), "{what}");
                let sound = kind == BackingKind::Sysv && !first_is_gone;
                let good = match said.split_once(": ").expect("a call and its answer") {
                    ("list" | "remove", answer) => answer == "Ok",
                    // Of a System V segment nothing shows that a later page is gone.
                    ("inspect", answer) if sound => answer.starts_with("problems []") || drained,
                    (_, answer) if sound => answer == "Ok",
                    // Zeros are no header.
                    ("inspect", answer) if kind == BackingKind::Sysv && !drained => {
                        answer.starts_with("problems [\"")
                    }
                    (_, answer) if kind == BackingKind::Sysv && drained => {
                        answer.starts_with("NoSpace") && answer.contains("taken out")
                    }
                    (_, answer) => answer.starts_with("Corrupt") && answer.contains("try:"),
                };
                assert!(good, "{what}");
            }
            child.end_well();
            drop(others);
            drop(victim);
            assert_eq!(d.collect().expect("it runs").removed.len(), 0, "removed before");
        }
    }
    println!("damaged segments: {looks} looks answered, {impossible} damages were impossible");
    assert!(looks > 0, "nothing was tried");
}

#[test]
fn a_damaged_segment_that_nobody_holds_is_collected_and_no_signal_comes() {
    let _quiet = Quiet::begin();
    guard::install();
    let scratch = Scratch::new();
    let d = scratch.domain();
    let (kinds, pool, mount) = kinds(PAGES + 1);
    let mount = mount.as_ref().map_or(String::new(), |mount| mount.path().display().to_string());
    let mut collected = 0;
    for kind in kinds {
        for damage in DAMAGES {
            let Victim { segment, file, kind } = Victim::new(&d, &scratch, kind, &mount);
            let victim = Victim { segment, file, kind };
            guard::doing(&format!("{damage:?} of {kind}, collected"));
            victim.damage(damage);
            let others = pool.as_ref().map(|pool| Promised::new(pool.available()));
            drop(victim);
            let report = d.collect().expect("it runs");
            assert_eq!((report.removed.len(), report.failed.len()), (1, 0), "{kind}: {report:?}");
            assert_eq!(scratch.files(), [""; 0]);
            collected += 1;
            drop(others);
        }
    }
    println!("damaged segments: {collected} collected");
    assert!(collected > 0, "nothing was tried");
}

// --- touches ----------------------------------------------------------------

/// One who is attached and goes on when he is told to.
fn child_touches() {
    let d = domain(Path::new(&child::argument(0)));
    let segment = d.open("n").expect("it is whole");
    let mut end = segment.consumer::<u64>("ring").expect("free");
    child::say("attached");
    child::hear();
    guard::doing("a touch");
    child::say(format!("verify {}", child::outcome(segment.verify())));
    child::say(format!("touch {:?}", end.try_recv()));
}

#[test]
fn the_touch_of_one_who_is_attached_is_what_the_documentation_says() {
    let _quiet = Quiet::begin();
    guard::install();
    let scratch = Scratch::new();
    let d = scratch.domain();
    let folder = scratch.path().display().to_string();
    let (kinds, pool, mount) = kinds(PAGES + 1);
    let mount = mount.as_ref().map_or(String::new(), |mount| mount.path().display().to_string());
    let (mut touches, mut signals) = (0, 0);
    for kind in kinds {
        for (damage, drained) in [
            (Damage::Cut(0), false),
            (Damage::Punch(0, PAGES), false),
            (Damage::Punch(0, PAGES), true),
        ] {
            let victim = Victim::new(&d, &scratch, kind, &mount);
            let mut child = Child::start("shrinking::touches", &[&folder]);
            assert_eq!(child.says(), "attached");
            let done = victim.damage(damage);
            let others =
                pool.as_ref().filter(|_| drained).map(|pool| Promised::new(pool.available()));
            child.tell("go");
            let what = format!("{damage:?} of {kind}, drained {drained}");
            let verify = child.says();
            let touch = child.says();
            let length_is_kept = matches!(kind, BackingKind::Memfd | BackingKind::Sysv);
            let huge = kind != BackingKind::Tmpfs;
            let signal = match damage {
                Damage::Cut(_) => {
                    assert_eq!(done, !length_is_kept, "{what}");
                    done
                }
                // Another page is taken from the pool, unless there is none.
                Damage::Punch(..) => {
                    assert!(done, "{what}");
                    huge && drained
                }
            };
            let told = done && (drained || kind != BackingKind::Sysv);
            assert_eq!(verify.starts_with("verify NoSpace"), told, "{what}: {verify}");
            assert_eq!(touch.starts_with("signal SIGBUS"), signal, "{what}: {touch}");
            assert!(signal || touch.starts_with("touch Err("), "{what}: {touch}");
            touches += 1;
            signals += usize::from(signal);
            println!("{what}: {}", if signal { "SIGBUS" } else { "no signal" });
            assert_eq!(child.end().success(), !signal, "{what}");
            drop(others);
            drop(victim);
            d.remove("n").expect("removed");
        }
    }
    println!("damaged segments: {touches} touches, {signals} signals where no guard is possible");
    assert!(touches > 0, "nothing was tried");
}

/// The roles of this file.
pub fn play(role: &str) -> bool {
    match role {
        "shrinking::looks" => child_looks(),
        "shrinking::touches" => child_touches(),
        _ => return false,
    }
    true
}

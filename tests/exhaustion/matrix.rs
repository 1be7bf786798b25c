//! One test body over every (call, scarce thing): the answer, nothing kept, and then it works.
//!
//! A child makes the calls, so that a signal is a failure that names its cell; its parent holds
//! what is somebody else's. A call that needs the scarce thing at several steps is tried with 0, 1,
//! 2, ... of it left, so that it runs out at each of them.

use crate::calls::{self, Call, Made, PAGE, Site};
use crate::common::child::{self, Child};
use crate::common::machine::pages;
use crate::common::machine::{
    Counters, HugetlbCgroup, MemoryCgroup, Pages, PrivateMount, counters,
};
use crate::common::{Quiet, is_root, skip};
use crate::guard::{self, Holdings};
use crate::table::{Expected, expected};
use crate::wants::{self, Promised, Want};
use hugeshm::{Error, ErrorKind, Placement, RefusalCode};
use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};

const POOL: u64 = 16;
/// For calls that ask for more.
const MORE_POOL: u64 = 28;
/// What new memory is asked for, and what the memory cgroup allows where that is scarce.
const BYTES: u64 = 4 << 20;
const MORE_BYTES: u64 = 48 << 20;
const ALLOWED: u64 = 24 << 20;
/// More address space than this is no heap of ours.
const HEAP: u64 = 768 << 10;

/// What the parent gives and takes for one scarce thing.
struct World {
    want: Want,
    pool: Option<Pages>,
    folder: PrivateMount,
    read_only: PrivateMount,
    mount: Option<PrivateMount>,
    group: Option<HugetlbCgroup>,
    memory: Option<MemoryCgroup>,
    before: Vec<Counters>,
    others: Option<Promised>,
}

impl World {
    /// `None`, said aloud, where this machine cannot have it.
    fn new(want: Want) -> Option<Self> {
        let pool = pages(PAGE, if want == Want::MemoryCgroup { MORE_POOL } else { POOL });
        if pool.is_none() && want.needs_pool() {
            return None;
        }
        let options = match want {
            Want::MountSize => "pagesize=2M,mode=0755,size=8M",
            Want::MountFiles => "pagesize=2M,mode=0755,nr_inodes=4",
            _ => "pagesize=2M,mode=0755",
        };
        let mount = pool.as_ref().and_then(|_| PrivateMount::of_kind("hugetlbfs", options));
        let folder = PrivateMount::tmpfs("size=64m,nr_inodes=64,mode=0755")?;
        let read_only = PrivateMount::read_only_view_of(&folder)?;
        let limited = |limit| HugetlbCgroup::limited(limit, PAGE.bytes());
        let group = match want {
            Want::HugetlbMax => Some(limited("max")?),
            Want::HugetlbReserved => Some(limited("rsvd.max")?),
            _ => None,
        };
        let memory = match want {
            Want::MemoryCgroup => Some(MemoryCgroup::limited(ALLOWED)?),
            _ => None,
        };
        let before = counters();
        Some(Self { want, pool, folder, read_only, mount, group, memory, before, others: None })
    }

    fn begin(&mut self, child: &Child) {
        if let Some(group) = &self.group {
            group.take(child.pid());
        }
        if let Some(group) = &self.memory {
            group.take(child.pid());
        }
        if let (Some(pool), Want::PoolTaken | Want::PoolPromised | Want::MemoryCgroup) =
            (&self.pool, self.want)
        {
            let others = Promised::new(pool.available());
            if self.want != Want::PoolPromised {
                others.touch();
            }
            self.others = Some(others);
        }
    }

    fn end(&mut self, child: &Child) {
        if let Some(group) = &self.group {
            group.release(child.pid());
        }
        if let Some(group) = &self.memory {
            group.release(child.pid());
            assert_eq!(group.kills(), 0, "the OOM killer came");
        }
        // What was promised to somebody else is still there.
        if let Some(others) = self.others.take() {
            others.touch();
        }
    }

    /// Lets a child try every call, and answers how many cells it tried.
    fn run(&mut self) -> usize {
        let path = |mount: &PrivateMount| mount.path().display().to_string();
        let mount = self.mount.as_ref().map(path).unwrap_or_default();
        let (folder, read_only) = (path(&self.folder), path(&self.read_only));
        let want = format!("{:?}", self.want);
        let mut child = Child::start("matrix::tries", &[&want, &folder, &read_only, &mount]);
        let (mut cells, mut wrong) = (0, Vec::new());
        let mut ended = None;
        while let Some(said) = child.next() {
            match said.split_once(' ').unwrap_or((&said, "")) {
                ("begin", _) => {
                    self.begin(&child);
                    child.tell("done");
                }
                ("end", _) => {
                    self.end(&child);
                    child.tell("done");
                }
                ("cell", what) => {
                    cells += 1;
                    if std::env::var_os("HUGESHM_SHOW_CELLS").is_some() {
                        eprintln!("{want}: {what}");
                    }
                }
                ("wrong", what) => wrong.push(what.to_owned()),
                ("tried", _) => ended = Some(said),
                _ => wrong.push(format!("{want}: {said}")),
            }
        }
        if ended.is_none() {
            wrong.push(format!("{want}: the child ended after {cells} cells"));
        }
        assert!(wrong.is_empty(), "{} of {cells}:\n{}", wrong.len(), wrong.join("\n"));
        for counter in &self.before {
            counter.assert_back();
        }
        cells
    }
}

/// The cells of one scarce thing.
fn run(want: Want) {
    let _quiet = Quiet::begin();
    guard::install();
    if !is_root("mount, make cgroups and take the pool's pages") {
        return;
    }
    let Some(mut world) = World::new(want) else { return };
    let cells = world.run();
    println!("{want:?}: {cells} cells tried");
    assert!(cells > 0, "nothing was tried");
}

macro_rules! tests {
    ($($name:ident: $want:ident,)*) => {
        $(#[test]
        fn $name() {
            run(Want::$want);
        })*
    };
}

tests! {
    a_pool_whose_pages_others_use_is_an_error_for_every_call: PoolTaken,
    a_pool_whose_pages_are_promised_to_others_is_an_error_and_the_promise_is_kept: PoolPromised,
    a_used_up_mount_quota_is_an_error_for_every_call: MountSize,
    a_mount_without_room_for_files_is_an_error_for_every_call: MountFiles,
    a_hugetlb_cgroup_limit_on_use_is_an_error_for_every_call: HugetlbMax,
    a_hugetlb_cgroup_limit_on_reservations_is_an_error_for_every_call: HugetlbReserved,
    a_memory_cgroup_limit_is_an_error_and_no_kill_for_every_call: MemoryCgroup,
    a_full_control_folder_is_an_error_at_every_step_of_every_call: FolderSize,
    a_control_folder_without_inodes_is_an_error_at_every_step_of_every_call: FolderFiles,
    a_read_only_control_folder_is_an_error_for_every_call_that_writes: FolderReadOnly,
    shmmni_is_an_error_for_every_call: ShmCount,
    shmmax_is_an_error_for_every_call: ShmSize,
    shmall_is_an_error_for_every_call: ShmAll,
    the_limit_on_descriptors_is_an_error_at_every_step_of_every_call: Descriptors,
    the_limit_on_address_space_is_an_error_for_every_call: AddressSpace,
    the_limit_on_file_size_is_an_error_and_no_signal_for_every_call: FileSize,
    the_limit_on_locked_memory_is_in_nobodys_way: LockedMemory,
    the_limit_on_mappings_is_an_error_at_every_step_of_every_call: Mappings,
    a_node_that_does_not_exist_is_an_error_for_every_call_that_takes_pages: AbsentNode,
}

// --- the child --------------------------------------------------------------

fn child_tries() {
    let want = Want::named(&child::argument(0));
    let mount = child::argument(3);
    let site = Site {
        folder: PathBuf::from(child::argument(1)),
        read_only: PathBuf::from(child::argument(2)),
        use_read_only: Cell::new(false),
        mount: (!mount.is_empty()).then(|| PathBuf::from(mount)),
        bytes: if want == Want::MemoryCgroup { MORE_BYTES } else { BYTES },
        placement: RefCell::new(Placement::Default),
    };
    if matches!(want, Want::ShmCount | Want::ShmSize | Want::ShmAll) {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWIPC).expect("root may");
    }
    // The lock file stays, and whatever a process makes once is made.
    warm_up(&site);
    if want == Want::Mappings {
        wants::crowd_mappings();
    }
    for call in calls::all() {
        if call.needs_pool() && site.mount.is_none() {
            skip(&format!("{call}: no huge pages"));
            continue;
        }
        try_call(call, want, &site);
    }
    child::say("tried");
}

fn warm_up(site: &Site) {
    for call in [Call::Create(calls::On::Auto), Call::Region(calls::On::Base)] {
        let mut ready = calls::prepare(call, site);
        drop((ready.act)().unwrap_or_else(|error| panic!("{error}")));
        (ready.undo)();
    }
}

fn try_call(call: Call, want: Want, site: &Site) {
    let folders: Vec<&Path> = std::iter::once(&*site.folder).chain(site.mount.as_deref()).collect();
    guard::doing(&format!("{call} made ready"));
    let at_first = (Holdings::now(&folders), guard::address_space());
    let mut ready = calls::prepare(call, site);
    let mut failed = false;
    for left in want.left() {
        let cell = format!("{call} with {left} left of {want:?}");
        (ready.arm)();
        let before = (Holdings::now(&folders), guard::address_space());
        guard::doing(&cell);
        let scarce = wants::begin(want, left, site);
        let outcome = (ready.act)();
        drop(scarce);
        guard::doing(&format!("{cell}, which is over"));
        let shown = match &outcome {
            Ok(made) => format!("works {}", said(made)),
            Err(error) => child::outcome::<()>(Err(error.clone())),
        };
        child::say(format!("cell {call} left {left}: {shown}"));
        if let Err(what) = judge(call, want, left, &outcome) {
            child::say(format!("wrong {cell}: {what}: {shown}"));
        }
        match outcome {
            Ok(made) => {
                drop(made);
                (ready.undo)();
            }
            Err(_) => {
                failed = true;
                // What a removal has begun is finished by collect.
                if !matches!(call, Call::Remove(_) | Call::Collect) {
                    check_kept(&cell, &before, &folders);
                }
                (ready.intact)();
            }
        }
    }
    if failed {
        (ready.arm)();
        guard::doing(&format!("{call} after {want:?}"));
        match (ready.act)() {
            Ok(made) => {
                drop(made);
                (ready.undo)();
            }
            Err(error) => child::say(format!(
                "wrong {call} fails when {want:?} is over: {}",
                child::outcome::<()>(Err(error))
            )),
        }
    }
    (ready.clean)();
    drop(ready);
    check_kept(&format!("{call}, all of it,"), &at_first, &folders);
}

fn said(made: &Made) -> String {
    let refusals = made.refusals.iter().map(ToString::to_string);
    refusals.chain(made.problems.iter().cloned()).collect::<Vec<_>>().join(" | ").replace('\n', " ")
}

fn check_kept(cell: &str, before: &(Holdings, u64), folders: &[&Path]) {
    let now = (Holdings::now(folders), guard::address_space());
    if now.0 != before.0 {
        child::say(format!("wrong {cell} kept something: {:?} became {:?}", before.0, now.0));
    }
    if now.1 > before.1 + HEAP {
        child::say(format!("wrong {cell} kept address space: {} became {}", before.1, now.1));
    }
}

/// Whether the answer is the one in the table, with numbers and a way out.
fn judge(call: Call, want: Want, left: u64, outcome: &Result<Made, Error>) -> Result<(), String> {
    match (expected(call, want, left), outcome) {
        (Expected::Works, Ok(made)) if made.problems.is_empty() => Ok(()),
        (Expected::Falls(code, words), Ok(made)) => {
            let refusal = made.refusals.iter().find(|refusal| refusal.code == code);
            let refusal = refusal.ok_or(format!("{code:?} is not reported"))?;
            if refusal.remedy.is_empty() {
                return Err("the refusal has no remedy".to_owned());
            }
            words_in(&refusal.to_string(), &words)
        }
        (Expected::Fails(kind, code, words), Err(error)) => failure(error, kind, code, &words),
        // How many of them a call needs is its own affair; that it says so is not.
        (Expected::MayFail(kind, words), Err(error)) => failure(error, kind, None, &words),
        (Expected::MayFail(..), Ok(made)) if made.problems.is_empty() => Ok(()),
        (Expected::MayFail(_, words), Ok(made)) => words_in(&said(made), &words),
        (expected, _) => Err(format!("expected {expected:?}")),
    }
}

fn failure(
    error: &Error,
    kind: ErrorKind,
    code: Option<RefusalCode>,
    words: &[&str],
) -> Result<(), String> {
    if error.kind() != kind {
        return Err(format!("expected {kind:?}"));
    }
    if let Some(code) = code
        && !error.refusals().iter().any(|refusal| refusal.code == code)
    {
        return Err(format!("expected {code:?}"));
    }
    let told = !error.way_out().is_empty()
        || error.refusals().iter().any(|refusal| !refusal.remedy.is_empty());
    if !told {
        return Err("no way out".to_owned());
    }
    words_in(&error.to_string(), words)
}

fn words_in(text: &str, words: &[&str]) -> Result<(), String> {
    let missing: Vec<_> = words.iter().filter(|word| !text.contains(**word)).collect();
    if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?} not said")) }
}

/// The roles of this file.
pub fn play(role: &str) -> bool {
    match role {
        "matrix::tries" => child_tries(),
        _ => return false,
    }
    true
}

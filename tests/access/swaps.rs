//! Files that change between a look and its use: another user swaps his files all the time, while root
//! lists, inspects, opens, removes and collects. What belongs to others stays as it is.
//!
//! Not tried: that he cuts his own segment short while root has it mapped. That is a SIGBUS for
//! whoever touches it, as for every mapping of a file that somebody else may write to.

use crate::canaries::FORGED;
use crate::common::child::{argument, hear, say};
use crate::common::{self, Quiet, Scratch, is_root};
use crate::visitors::{OTHER, OWNER, on};
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// How often root does everything, at least.
const ROUNDS: usize = 400;

/// Swaps control file, data and claims of `evil` until its input is closed.
fn swap() {
    let folder = PathBuf::from(argument(0));
    let victims: Vec<String> = argument(1).split(' ').map(str::to_owned).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let (domain, hears) = (common::domain(&folder), Arc::clone(&stop));
    say("ready");
    std::thread::spawn(move || {
        hear();
        hears.store(true, Ordering::Relaxed);
    });
    let control = folder.join(format!("hugeshm@{}@evil", common::DOMAIN));
    let data = folder.join(format!("hugeshm.{FORGED}"));
    let claims = folder.join(format!("hugeshm.{FORGED}.claims"));
    let mut swaps = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let victim = &victims[swaps as usize % victims.len()];
        match swaps % 9 {
            // A real segment of his own.
            0 => {
                drop(on(hugeshm::Segment::replace("evil").domain(domain.clone()), "tmpfs").build())
            }
            1 => rename_over(&control, &folder, |new| {
                symlink(folder.join(format!("hugeshm@{}@victim", common::DOMAIN)), new)
            }),
            2 => rename_over(&control, &folder, |new| {
                fs::hard_link(folder.join(format!("hugeshm@{}@victim", common::DOMAIN)), new)
            }),
            // His own name for somebody's segment.
            3 => {
                rename_over(&control, &folder, |new| fs::write(new, text(&folder, victim, victim)))
            }
            // A data file that is a link to somebody's, under an identity of his own.
            4 => rename_over(&data, &folder, |new| {
                symlink(folder.join(format!("hugeshm.{victim}")), new)
            }),
            5 => {
                rename_over(&control, &folder, |new| fs::write(new, text(&folder, FORGED, FORGED)))
            }
            6 => rename_over(&data, &folder, |new| fs::write(new, vec![0; 1 << 16])),
            7 => rename_over(&claims, &folder, |new| {
                let key = fs::read_to_string("/proc/sysvipc/shm").map_or(1, |text| text.len());
                let head = format!("hugeshm=1\ndomain=t\nname=evil\nidentity={FORGED}\n");
                fs::write(new, format!("{head}sysv_key={key}\nhugetlbfs={}\n", folder.display()))
            }),
            _ => drop(fs::remove_file(&control)),
        }
        swaps += 1;
    }
    for file in [&control, &data, &claims] {
        let _ = fs::remove_file(file);
    }
    say(swaps);
}

/// Makes something under another name, and moves it over `path` in one step.
fn rename_over(path: &Path, folder: &Path, make: impl FnOnce(&Path) -> std::io::Result<()>) {
    let new = folder.join("evil.new");
    let _ = fs::remove_file(&new);
    // Some of it the kernel forbids (hard links to files of others), or the moment does.
    if make(&new).is_ok() {
        let _ = fs::rename(&new, path);
    }
}

/// A control file for `evil` that names the identity, with the numbers of another's data file.
fn text(folder: &Path, identity: &str, data: &str) -> String {
    let is = fs::symlink_metadata(folder.join(format!("hugeshm.{data}")));
    let (device, inode, length) = is.map_or((1, 1, 4096), |is| (is.dev(), is.ino(), is.len()));
    format!(
        "hugeshm=1\ndomain={}\nname=evil\nidentity={identity}\nbacking=tmpfs\npage_size=4096\n\
         length={length}\ndevice={device}\ninode={inode}\n",
        common::DOMAIN
    )
}

#[test]
fn files_that_change_under_roots_hands_lead_it_to_nothing_of_others() {
    let _quiet = Quiet::begin();
    if !is_root("be led astray") {
        return;
    }
    let scratch = Scratch::new();
    let domain = scratch.domain();
    let folder = scratch.path().display().to_string();
    // One of root's own, and one of another user, both readable by everybody.
    let victim = on(domain.create("victim"), "tmpfs").mode(0o644).ring::<u64>("ring", 4).build();
    let victim = victim.expect("base pages");
    victim.producer::<u64>("ring").expect("free").push(42).expect("room");
    let mut owner = OWNER.child("visitors::own", &[&folder, "tmpfs"]);
    assert_eq!(owner.says(), "ready");
    owner.tell("make theirs 644");
    assert_eq!(owner.says(), "fine");
    let [ours, theirs] = ["victim", "theirs"].map(|name| scratch.control_value(name, "identity"));
    let files: Vec<PathBuf> = [&ours, &theirs]
        .iter()
        .flat_map(|id| ["", ".claims"].map(|end| scratch.path().join(format!("hugeshm.{id}{end}"))))
        .chain(["victim", "theirs"].map(|name| scratch.control_file(name)))
        .collect();
    let inodes = || files.iter().map(|file| Some(fs::symlink_metadata(file).ok()?.ino()));
    let before: Vec<_> = inodes().collect();
    let mut swapper = OTHER.child("swaps::swap", &[&folder, &format!("{ours} {theirs}")]);
    assert_eq!(swapper.says(), "ready");
    let (mut worked, mut refused, mut collected) = (0, 0, 0);
    let mut round = 0;
    // On a loaded machine the swapper may stand still for a while.
    while round < ROUNDS || (round < 20 * ROUNDS && (worked < 5 || refused < 5 || collected < 1)) {
        let mut count = |result: Result<(), hugeshm::Error>| match result {
            Ok(()) => worked += 1,
            Err(_) => refused += 1,
        };
        let all = domain.list().expect("a list");
        assert!(all.iter().any(|entry| entry.name == "victim"), "round {round}");
        count(domain.inspect("evil").map(drop));
        count(domain.open("evil").map(drop));
        count(domain.open_read_only("evil").map(drop));
        if round % 2 == 0 {
            count(domain.remove("evil"));
        } else {
            collected += domain.collect().expect("it runs").removed.len();
        }
        assert!(inodes().eq(before.iter().copied()), "round {round}: a file of others is gone");
        assert!(!victim.is_superseded(), "round {round}");
        round += 1;
    }
    swapper.tell("stop");
    let swaps: u64 = swapper.says().parse().expect("a number");
    swapper.end_well();
    eprintln!(
        "{round} rounds against {swaps} swaps: {worked} calls worked, {refused} were refused, \
         {collected} things collected"
    );
    assert!(worked > 4 && refused > 4 && collected > 0 && swaps > 20);
    assert_eq!(victim.verify().expect("intact").resident, victim.len());
    assert_eq!(victim.consumer::<u64>("ring").expect("free").recv(), Ok(42));
    drop(victim);
    owner.tell("check theirs");
    assert_eq!(owner.says(), "fine");
    owner.tell("remove theirs");
    let _ = owner.says();
    owner.end_well();
    for name in ["victim", "theirs", "evil"] {
        drop(domain.remove(name));
    }
    domain.collect().expect("it runs");
}

/// The roles of this file.
pub fn play(role: &str) -> bool {
    match role {
        "swaps::swap" => swap(),
        _ => return false,
    }
    true
}

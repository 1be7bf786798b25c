//! Modes: what a file may be opened by is settled before it has a name, whatever the umask is; what
//! an access list of the folder adds; and names in a folder that belongs to everybody.
#![expect(unsafe_code, reason = "setxattr, for access lists")]

use crate::common::{Quiet, Scratch, files, is_root, skip};
use crate::visitors::{OTHER, OWNER, on};
use hugeshm::{ErrorKind, Segment};
use nix::sys::stat::{Mode, umask};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// The umask of this process, while this lives.
struct Umask(Mode);

impl Umask {
    fn set(bits: u32) -> Self {
        Self(umask(Mode::from_bits_truncate(bits)))
    }
}

impl Drop for Umask {
    fn drop(&mut self) {
        umask(self.0);
    }
}

/// The kind of a file by its name, and the modes of all that were seen.
type Seen = BTreeMap<&'static str, Vec<u32>>;

fn look(folder: &Path, seen: &mut Seen) {
    for entry in fs::read_dir(folder).expect("ours").flatten() {
        let Ok(is) = fs::symlink_metadata(entry.path()) else { continue };
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = match () {
            () if name.starts_with("hugeshm@") => "control",
            () if name.ends_with(".claims") => "claims",
            () if name.starts_with("hugeshm.lock.") => "lock",
            () if name.contains(".bell.") => "bell",
            () if name.contains(".new") => "control",
            () => "data",
        };
        let modes = seen.entry(kind).or_default();
        let mode = is.mode() & 0o7777;
        if !modes.contains(&mode) {
            modes.push(mode);
        }
    }
}

#[test]
fn no_file_is_ever_open_to_more_than_the_mode_says_whatever_the_umask_is() {
    let _quiet = Quiet::begin();
    let mut tried = 0;
    for bits in [0o000, 0o077, 0o777] {
        let _umask = Umask::set(bits);
        // Mode; then what may be seen of control file, claims file and bells, and data.
        for (mode, control, claims) in [
            (0o600, 0o600, 0o600),
            (0o640, 0o640, 0o600),
            (0o644, 0o644, 0o600),
            (0o660, 0o640, 0o660),
            (0o664, 0o644, 0o660),
            (0o666, 0o644, 0o666),
        ] {
            let scratch = Scratch::new();
            let domain = scratch.domain();
            let stop = AtomicBool::new(false);
            let (mut ever, mut at_last) = (Seen::new(), Seen::new());
            std::thread::scope(|scope| {
                let watcher = scope.spawn(|| {
                    let mut seen = Seen::new();
                    while !stop.load(Ordering::Relaxed) {
                        look(scratch.path(), &mut seen);
                    }
                    seen
                });
                for _ in 0..20 {
                    let segment = on(domain.create("n"), "tmpfs").mode(mode).ring::<u64>("r", 4);
                    let segment = segment.build().expect("base pages");
                    let next = Segment::replace("n").domain(domain.clone());
                    let next = on(next, "tmpfs").mode(mode).ring::<u64>("r", 4).build();
                    let next = next.expect("base pages");
                    let mut end = next.consumer::<u64>("r").expect("free");
                    let bell = end.doorbell().expect("a folder of ours");
                    at_last.clear();
                    look(scratch.path(), &mut at_last);
                    drop((bell, end, next, segment));
                    domain.remove("n").expect("ours");
                    tried += 1;
                }
                stop.store(true, Ordering::Relaxed);
                ever = watcher.join().expect("no panic");
            });
            let context = format!("umask {bits:o}, mode {mode:o}");
            let all = [
                ("control", control),
                ("claims", claims),
                ("bell", claims),
                ("data", mode),
                ("lock", 0o600),
            ];
            for (kind, wanted) in all {
                assert_eq!(at_last.get(kind), Some(&vec![wanted]), "{context}: {kind}");
                for &seen in ever.get(kind).map_or(&[][..], Vec::as_slice) {
                    assert_eq!(seen & !wanted, 0, "{context}: {kind} was once {seen:o}");
                }
            }
        }
    }
    eprintln!("{tried} segments, looked at all the time");
    assert!(tried > 0);
}

/// Gives a folder a default access list: `user` may do `rights` to what is made in it.
fn default_list(folder: &Path, user: u32, rights: u16) -> bool {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    // Owner, that user, group, mask, others.
    for (tag, rights, who) in [
        (0x01u16, 7u16, u32::MAX),
        (0x02, rights, user),
        (0x04, 0, u32::MAX),
        (0x10, 7, u32::MAX),
        (0x20, 0, u32::MAX),
    ] {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&rights.to_le_bytes());
        bytes.extend_from_slice(&who.to_le_bytes());
    }
    let path = std::ffi::CString::new(folder.to_str().expect("text")).expect("no zero");
    let name = c"system.posix_acl_default".as_ptr();
    // SAFETY: both texts end with a zero and live until the call is over, as do the bytes, whose
    // length is given.
    let set =
        unsafe { nix::libc::setxattr(path.as_ptr(), name, bytes.as_ptr().cast(), bytes.len(), 0) };
    set == 0
}

#[test]
fn an_access_list_of_the_folder_lets_in_no_more_than_the_modes_group_bits() {
    let _quiet = Quiet::begin();
    if !is_root("become other users") {
        return;
    }
    let mut tried = 0;
    for (mode, expected) in [
        (0o600, ["PermissionDenied", "PermissionDenied"]),
        (0o640, ["PermissionDenied", "yes"]),
        (0o660, ["yes", "yes"]),
    ] {
        let scratch = Scratch::new();
        if !default_list(scratch.path(), OTHER.uid, 6) {
            skip("this tmpfs has no access lists");
            return;
        }
        let folder = scratch.path().display().to_string();
        let mut owner = OWNER.child("visitors::own", &[&folder, "tmpfs"]);
        let mut other = OTHER.child("visitors::visit", &[&folder, "tmpfs"]);
        assert_eq!((owner.says(), other.says()), ("ready".into(), "ready".into()));
        owner.tell(&format!("make n {mode:o}"));
        assert_eq!(owner.says(), "fine");
        for (what, expected) in ["open n", "open read-only n"].iter().zip(expected) {
            other.tell(what);
            assert_eq!(other.says(), expected, "{mode:o}: {what}");
            tried += 1;
        }
        other.end_well();
        owner.tell("remove n");
        assert_eq!(owner.says(), "fine");
        owner.end_well();
    }
    eprintln!("{tried} calls under an access list");
}

#[test]
fn a_name_that_another_user_took_first_is_his_and_that_is_said() {
    let _quiet = Quiet::begin();
    if !is_root("become other users") {
        return;
    }
    for mode in ["600", "644", "666"] {
        let scratch = Scratch::new();
        let folder = scratch.path().display().to_string();
        let mut squatter = OTHER.child("visitors::own", &[&folder, "tmpfs"]);
        assert_eq!(squatter.says(), "ready");
        squatter.tell(&format!("make n {mode}"));
        assert_eq!(squatter.says(), "fine");
        let mut owner = OWNER.child("visitors::visit", &[&folder, "tmpfs"]);
        assert_eq!(owner.says(), "ready");
        let closed = mode == "600";
        for (what, expected) in [
            ("create", "AlreadyExists"),
            ("replace", if closed { "PermissionDenied" } else { "NotOurs" }),
            ("remove", "PermissionDenied"),
            ("open", if mode == "666" { "yes" } else { "PermissionDenied" }),
        ] {
            owner.tell(&format!("{what} n"));
            assert_eq!(owner.says(), expected, "{mode}: {what}");
        }
        owner.tell("create another"); // any other name is free
        assert_eq!(owner.says(), "yes");
        owner.end_well();
        squatter.tell("remove n");
        assert_eq!(squatter.says(), "fine");
        squatter.end_well();
        scratch.domain().remove("another").expect("root may");
    }
}

#[test]
fn a_lock_file_that_another_user_put_there_is_an_error_with_the_way_out() {
    let _quiet = Quiet::begin();
    if !is_root("become other users") {
        return;
    }
    let mut tried = 0;
    for what in ["closed", "open to all", "link", "folder", "pipe", "hard link"] {
        let scratch = Scratch::new();
        let lock = scratch.path().join(format!("hugeshm.lock.{}", nix::unistd::geteuid()));
        let canary = scratch.path().join("canary");
        fs::write(&canary, "untouched").expect("ours");
        match what {
            "link" => std::os::unix::fs::symlink(&canary, &lock).expect("ours"),
            "folder" => fs::create_dir(&lock).expect("ours"),
            "pipe" => nix::unistd::mkfifo(&lock, Mode::S_IRWXU).expect("ours"),
            "hard link" => fs::hard_link(&canary, &lock).expect("ours"),
            _ => fs::write(&lock, "").expect("ours"),
        }
        let mode = if what == "closed" { 0o600 } else { 0o666 };
        if what != "link" {
            fs::set_permissions(&lock, fs::Permissions::from_mode(mode)).expect("ours");
            std::os::unix::fs::chown(&lock, Some(OTHER.uid), Some(OTHER.gid)).expect("root");
        }
        let domain = scratch.domain();
        let error = on(domain.create("n"), "tmpfs").build().expect_err("no lock to be had");
        assert_eq!(error.kind(), ErrorKind::NotOurs, "{what}: {error}");
        assert!(!error.way_out().is_empty(), "{what}: {error}");
        assert_eq!(fs::read_to_string(&canary).expect("ours"), "untouched", "{what}");
        fs::remove_file(&canary).expect("ours");
        if what == "folder" { fs::remove_dir(&lock) } else { fs::remove_file(&lock) }
            .expect("ours");
        assert_eq!(files(scratch.path()), [""; 0], "{what}");
        drop(on(domain.create("n"), "tmpfs").build().expect("the way is free"));
        domain.remove("n").expect("ours");
        tried += 1;
    }
    eprintln!("{tried} things in the place of a lock file");
}

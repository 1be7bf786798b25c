//! Links, folders, pipes, devices and sockets in the place of data and claims files, planted by another
//! user in a folder that belongs to everybody: they stay what they are, and what they lead to as well.
//!
//! In the place of a control file: `segment/bad_input.rs`; of a bell: `doorbell/hostile.rs`; of a
//! lock file: `modes.rs`.

use crate::canaries::{FORGED, Watch, everything, forge};
use crate::common::{Quiet, Scratch, is_root};
use crate::visitors::{OTHER, on};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;

const WHAT: [&str; 8] = [
    "link to a file of root",
    "link to a segment of root",
    "link to nowhere",
    "hard link to a file of root",
    "folder",
    "pipe",
    "device",
    "socket",
];

/// Puts something of user [`OTHER`] at `path`.
fn plant(what: &str, path: &Path, canary: &Path, segment: &Path) {
    match what {
        "link to a file of root" => symlink(canary, path).expect("root"),
        "link to a segment of root" => symlink(segment, path).expect("root"),
        "link to nowhere" => symlink("/nowhere/at/all", path).expect("root"),
        // As where the kernel does not forbid it (fs.protected_hardlinks=0).
        "hard link to a file of root" => fs::hard_link(canary, path).expect("root"),
        "folder" => fs::create_dir(path).expect("root"),
        "pipe" => nix::unistd::mkfifo(path, Mode::S_IRWXU).expect("root"),
        "device" => {
            // The one that is always full; opening it does nothing.
            mknod(path, SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 7)).expect("root");
        }
        "socket" => drop(std::os::unix::net::UnixListener::bind(path).expect("root")),
        other => panic!("no such plant: {other}"),
    }
    if !what.starts_with("hard") {
        lchown(path, Some(OTHER.uid), Some(OTHER.gid)).expect("root");
    }
}

#[test]
fn nothing_planted_in_the_place_of_data_or_claims_is_followed_opened_or_removed() {
    let _quiet = Quiet::begin();
    if !is_root("plant files of another user") {
        return;
    }
    let mut tried = 0;
    for what in WHAT {
        for place in ["data", "claims", "both"] {
            let scratch = Scratch::new();
            let domain = scratch.domain();
            let victim = on(domain.create("victim"), "tmpfs").build().expect("base pages");
            let segment = scratch.data_file("victim");
            let canary = scratch.path().join("canary");
            fs::write(&canary, "untouched").expect("root");
            fs::set_permissions(&canary, fs::Permissions::from_mode(0o600)).expect("root");
            let data = scratch.path().join(format!("hugeshm.{FORGED}"));
            let claims = scratch.path().join(format!("hugeshm.{FORGED}.claims"));
            for (path, name) in [(&data, "data"), (&claims, "claims")] {
                if place == name || place == "both" {
                    plant(what, path, &canary, &segment);
                } else {
                    fs::write(path, vec![0; 4096]).expect("root");
                    chown(path, Some(OTHER.uid), Some(OTHER.gid)).expect("root");
                }
            }
            // The control file says the truth about the file that is in the data file's place.
            let is = fs::metadata(&data).or_else(|_| fs::symlink_metadata(&data)).expect("there");
            let lines = format!("backing=tmpfs\ndevice={}\ninode={}\n", is.dev(), is.ino());
            let changes = Watch::changes(&[&canary]);
            tried += everything(&domain, &|| forge(&scratch, OTHER.uid, &lines));
            let context = format!("{what} as {place}");
            changes.saw_nothing(&context);
            assert_eq!(fs::read_to_string(&canary).expect("there"), "untouched", "{context}");
            assert!(segment.exists() && !victim.is_superseded(), "{context}");
            assert_eq!(victim.verify().expect("intact").resident, victim.len(), "{context}");
            drop(domain.open("victim").unwrap_or_else(|error| panic!("{context}: {error}")));
            // What is no regular file is never removed.
            let irregular = !what.starts_with("hard");
            let (at_data, at_claims) = (place != "claims", place != "data");
            if irregular {
                assert!(!at_data || fs::symlink_metadata(&data).is_ok(), "{context}: data removed");
                assert!(!at_claims || fs::symlink_metadata(&claims).is_ok(), "{context}: claims");
            }
            drop(victim);
            domain.remove("victim").expect("ours");
            for path in [&data, &claims, &canary, &scratch.control_file("evil")] {
                let _ = if path.is_dir() && !path.is_symlink() {
                    fs::remove_dir(path)
                } else {
                    fs::remove_file(path)
                };
            }
        }
    }
    eprintln!("{tried} calls over {} plants", WHAT.len() * 3);
}

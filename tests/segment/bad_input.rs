//! Bad input: each gets a typed error that names its object and a way out; nothing is damaged.

use crate::common::child::{self, Child, NOBODY};
use crate::common::machine::{PrivateMount, pages};
use crate::common::{self, DOMAIN, M2, Quiet, Scratch, domain, is_root, refused};
use hugeshm::pages::MountOptions;
use hugeshm::{
    BackingKind, Domain, Error, ErrorKind, Lifetime, PagePolicy, PageSize, RefusalCode, Rung,
    Segment, SegmentBuilder, Usage,
};
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

/// A small segment on base pages of tmpfs, which every machine has.
fn small(builder: SegmentBuilder) -> SegmentBuilder {
    builder.pages(PagePolicy::exactly(Rung::Base)).backing(BackingKind::Tmpfs)
}

#[track_caller]
fn create(domain: &Domain, name: &str) -> Segment {
    small(domain.create(name)).build().unwrap_or_else(|error| panic!("{error}"))
}

fn replace(domain: &Domain, name: &str) -> Result<Segment, Error> {
    small(Segment::replace(name).domain(domain.clone())).build()
}

fn open_or_create(domain: &Domain, name: &str) -> Result<Segment, Error> {
    small(Segment::open_or_create(name).domain(domain.clone())).build()
}

#[test]
fn names_that_cannot_be_are_refused_by_every_call() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let d = scratch.domain();
    let long = "n".repeat(101);
    for name in ["", ".", "..", ".x", "a/b", "../x", "a\0b", "a b", "ä", "a@b", "a\nb", &long] {
        let shown = if name.is_ascii() && !name.contains(['\0', '\n']) { name } else { "" };
        let kind = ErrorKind::InvalidName;
        refused(small(d.create(name)).build(), kind, shown);
        refused(replace(&d, name), kind, shown);
        refused(open_or_create(&d, name), kind, shown);
        refused(d.open(name), kind, shown);
        refused(d.open_read_only(name), kind, shown);
        refused(d.wait_for(name, Duration::from_secs(60)), kind, shown);
        refused(d.remove(name), kind, shown);
        refused(d.inspect(name), kind, shown);
        refused(Domain::in_folder(name, "/dev/shm"), kind, shown);
    }
    let longest = "n".repeat(100);
    let segment = create(&d, &longest);
    drop(segment);
    d.remove(&longest).expect("a name of 100 bytes is a name");
}

#[test]
fn sizes_and_numbers_that_cannot_be_are_refused_before_anything_is_taken() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let d = scratch.domain();
    let size = ErrorKind::InvalidSize;
    for bytes in [0, 1, 4096, (1 << 46) + 1, 1 << 47, u64::MAX - 4095, u64::MAX] {
        refused(small(d.create("n")).size(bytes).build(), size, "n");
    }
    refused(small(d.create("n")).spare(u64::MAX).build(), size, "n");
    refused(small(d.create("n")).spare(u64::MAX - (1 << 20)).build(), size, "n");
    let argument = ErrorKind::InvalidArgument;
    refused(small(d.create("n")).max_objects(0).build(), argument, "n");
    refused(small(d.create("n")).max_objects(65_536).build(), argument, "n");
    refused(small(d.create("n")).max_attachments(0).build(), argument, "n");
    refused(small(d.create("n")).max_attachments(u32::MAX).build(), argument, "n");
    refused(small(d.create("n")).mode(0o400).build(), argument, "n");
    refused(small(d.create("n")).mode(0o4600).build(), argument, "n");
    let mut nodes = hugeshm::NodeSet::new();
    nodes.insert(9999);
    let bound = small(d.create("n")).placement(hugeshm::Placement::Bind(nodes));
    refused(bound.build(), argument, "n");
    refused(Segment::unnamed().backing(BackingKind::Sysv).size(1 << 20).build(), argument, "");
    // More than any machine has: looked at and refused before a page is touched.
    let error = refused(small(d.create("n")).size(1 << 46).build(), ErrorKind::OutOfPages, "n");
    assert_eq!(error.refusals()[0].code, RefusalCode::MemoryLimit, "{error}");
    let private = small(d.create("n")).backing(BackingKind::Anonymous);
    let private = private.pages(PagePolicy::exactly(Rung::Huge(M2)));
    assert!(private.build().is_err());
    assert_eq!(scratch.files(), [""; 0]);
}

#[test]
fn page_sizes_that_the_machine_lacks_are_answered_with_those_it_has() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    for text in ["3M", "0", "", "2X", "huge"] {
        refused(text.parse::<PageSize>(), ErrorKind::UnknownPageSize, text);
        refused(text.parse::<PagePolicy>(), ErrorKind::InvalidArgument, text);
    }
    let odd = PageSize::new(1 << 40).expect("a power of two");
    let built = |policy| scratch.domain().create("n").pages(policy).build();
    refused(built(PagePolicy::at_least(odd)), ErrorKind::UnknownPageSize, "n");
    let error = refused(built(PagePolicy::from(odd)), ErrorKind::UnknownPageSize, "n");
    for pool in hugeshm::pages::pools() {
        assert!(error.to_string().contains(&pool.size.to_string()), "{error}");
    }
}

#[test]
fn mounts_that_cannot_be_meant_are_refused_and_say_why() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let d = scratch.domain();
    let on = |path: &Path| d.create("n").pages(M2.into()).mount(path).build();
    let bad = ErrorKind::BadMount;
    refused(on(Path::new("/nowhere/at/all")), bad, "/nowhere/at/all");
    refused(on(scratch.path()), bad, "tmpfs");
    refused(on(Path::new("/proc")), bad, "/proc");
    refused(on(Path::new("/proc/self/status")), bad, "/proc/self/status");
    if !is_root("mount") {
        return;
    }
    let Some(mount) = PrivateMount::hugetlbfs(M2, None) else { return };
    let path = mount.path();
    let wrong = d.create("n").pages(PageSize::SIZE_1G.into()).mount(&path).build();
    refused(wrong, bad, &path.display().to_string());
    let inner = path.join("folder");
    fs::create_dir(&inner).expect("a folder in the mount");
    refused(on(&inner), bad, &path.display().to_string());
    fs::remove_dir(&inner).expect("ours");
    mount.read_only();
    refused(on(&path), bad, "read-only");
    drop(mount);
    // A mount of root alone, as a distribution makes it.
    let options = MountOptions::new().mode(0o755);
    let Some(mount) = PrivateMount::hugetlbfs_with(M2, options) else { return };
    let folder = scratch.path().display().to_string();
    let path = mount.path().display().to_string();
    let mut nobody = Child::start_as_nobody("bad_input::mount", &[&folder, &path]);
    let said = nobody.says();
    assert!(said.starts_with("OutOfPages") && said.contains("mount-not-writable"), "{said}");
    assert!(said.contains(&path) && said.contains("try:"), "{said}");
    nobody.end_well();
    assert_eq!(scratch.files(), [""; 0]);
}

fn child_mount() {
    let d = domain(Path::new(&child::argument(0)));
    let builder = d.create("n").pages(M2.into()).backing(BackingKind::Hugetlbfs);
    child::say(child::outcome(builder.mount(child::argument(1)).build()));
}

#[test]
fn control_folders_that_are_no_tmpfs_are_refused_by_every_call() {
    let _quiet = Quiet::begin();
    let disk = tempfile::tempdir().expect("a temporary folder");
    let on_disk = hugeshm::pages::tmpfs_at(disk.path()).is_none().then(|| disk.path());
    let others = ["/proc", "/nowhere/at/all", "/proc/self/status"].map(Path::new);
    for path in others.into_iter().chain(on_disk) {
        let (d, kind) = (domain(path), ErrorKind::BadControlFolder);
        let shown = path.display().to_string();
        refused(small(d.create("n")).build(), kind, &shown);
        refused(open_or_create(&d, "n"), kind, &shown);
        refused(d.open("n"), kind, &shown);
        refused(d.remove("n"), kind, &shown);
        refused(d.list(), kind, &shown);
        refused(d.inspect("n"), kind, &shown);
        refused(d.collect(), kind, &shown);
    }
    assert_eq!(common::files(disk.path()), [""; 0]);
}

#[test]
fn names_that_exist_and_names_that_do_not_are_told_apart() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let d = scratch.domain();
    let error = refused(d.open("n"), ErrorKind::NotFound, "n");
    assert!(error.to_string().contains(&scratch.path().display().to_string()), "{error}");
    assert!(error.to_string().contains(DOMAIN), "{error}");
    refused(d.open_read_only("n"), ErrorKind::NotFound, "n");
    refused(d.inspect("n"), ErrorKind::NotFound, "n");
    refused(d.remove("n"), ErrorKind::NotFound, "n");
    refused(d.wait_for("n", Duration::from_millis(30)), ErrorKind::TimedOut, "n");
    let segment = create(&d, "n");
    refused(small(d.create("n")).build(), ErrorKind::AlreadyExists, "n");
    assert_eq!(open_or_create(&d, "n").expect("opened").identity(), segment.identity());
    // Another domain of the same folder knows nothing of it.
    let other = Domain::in_folder("other", scratch.path()).expect("a name");
    refused(other.open("n"), ErrorKind::NotFound, "n");
    assert!(other.list().expect("a list").is_empty());
    drop(segment);
    assert!(other.collect().expect("it runs").removed.is_empty());
    d.remove("n").expect("removed");
    let made = open_or_create(&d, "n").expect("made");
    drop(made);
    d.remove("n").expect("removed");
}

/// Overwrites bytes of a name's data file.
fn patch(scratch: &Scratch, name: &str, offset: u64, bytes: &[u8]) {
    let file = fs::File::options().write(true).open(scratch.data_file(name)).expect("ours");
    file.write_all_at(bytes, offset).expect("inside the file");
}

#[test]
fn segments_from_the_future_are_left_alone_listed_and_removed() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let d = scratch.domain();
    let future = ErrorKind::Incompatible;
    let bit = (1u64 << 63).to_le_bytes();
    // Offset, bytes, whether it can be opened to write and to read.
    let cases: [(u64, &[u8], bool, bool); 5] = [
        (8, &2u16.to_le_bytes(), false, false), // major
        (10, &9u16.to_le_bytes(), true, true),  // minor
        (16, &bit, false, false),               // incompatible
        (24, &bit, false, true),                // read-only compatible
        (32, &bit, true, true),                 // compatible
    ];
    for (offset, bytes, write, read) in cases {
        drop(create(&d, "n"));
        patch(&scratch, "n", offset, bytes);
        let before = fs::read(scratch.data_file("n")).expect("ours");
        if write {
            drop(d.open("n").expect("compatible"));
            drop(open_or_create(&d, "n").expect("compatible"));
        } else {
            refused(d.open("n"), future, "n");
            refused(open_or_create(&d, "n"), future, "n");
            assert_eq!(fs::read(scratch.data_file("n")).expect("ours"), before, "it was touched");
        }
        if read {
            drop(d.open_read_only("n").expect("compatible"));
        } else {
            refused(d.open_read_only("n"), future, "n");
        }
        let list = d.list().expect("a list");
        assert_eq!((list.len(), list[0].usage), (1, Usage::Unused), "{list:?}");
        let info = d.inspect("n").expect("a report");
        assert_eq!(info.creator_pid, std::process::id());
        assert_eq!(info.problems.is_empty(), read, "{info:?}");
        if offset == 16 {
            assert_eq!(d.collect().expect("it runs").removed.len(), 1);
        } else {
            d.remove("n").expect("removed");
        }
    }
}

#[test]
fn truncated_zero_filled_and_random_data_files_are_corrupt_and_no_signal() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let d = scratch.domain();
    let check = |damage: &dyn Fn(&Path, u64)| {
        let segment = create(&d, "n");
        let length = segment.len();
        drop(segment);
        damage(&scratch.data_file("n"), length);
        refused(d.open("n"), ErrorKind::Corrupt, "");
        refused(d.open_read_only("n"), ErrorKind::Corrupt, "");
        refused(open_or_create(&d, "n"), ErrorKind::Corrupt, "");
        refused(small(d.create("n")).build(), ErrorKind::AlreadyExists, "n");
        assert_eq!(d.list().expect("a list").len(), 1);
        let _ = d.inspect("n");
        drop(replace(&d, "n").expect("replacing needs nothing of it"));
        d.remove("n").expect("removed");
        // And the same, collected.
        drop(create(&d, "n"));
        damage(&scratch.data_file("n"), length);
        let report = d.collect().expect("it runs");
        assert_eq!((report.removed.len(), report.failed.len()), (1, 0), "{report:?}");
        assert_eq!(scratch.files(), [""; 0]);
    };
    let resize = |path: &Path, length| {
        let file = fs::File::options().write(true).open(path).expect("ours");
        file.set_len(length).expect("tmpfs");
    };
    check(&|path, _| resize(path, 0));
    check(&|path, _| resize(path, 4096));
    check(&|path, length| resize(path, length - 1));
    check(&|path, length| {
        resize(path, 0);
        resize(path, length); // a hole
    });
    check(&|path, length| fs::write(path, vec![0; length as usize]).expect("ours"));
    check(&|path, length| {
        let mut noise = Noise(7);
        let bytes: Vec<u8> = (0..length).map(|_| noise.next() as u8).collect();
        fs::write(path, bytes).expect("ours");
    });
    // A file that grew is no harm.
    let segment = create(&d, "n");
    let length = segment.len();
    resize(&scratch.data_file("n"), length + 8192);
    assert_eq!(d.open("n").expect("opened").len(), length);
    drop(segment);
    d.remove("n").expect("removed");
}

/// Numbers without meaning, the same at each run.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
}

#[test]
fn no_damage_to_header_or_control_file_makes_a_call_panic_or_hang() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let d = scratch.domain();
    let segment = create(&d, "n");
    let (data, control) = (scratch.data_file("n"), scratch.control_file("n"));
    let good_data = fs::read(&data).expect("ours");
    let good_control = fs::read(&control).expect("ours");
    drop(segment);
    let mut noise = Noise(1);
    let mut opened = 0;
    let mut try_all = || {
        opened += usize::from(d.open("n").is_ok());
        drop(d.open_read_only("n"));
        drop(d.inspect("n"));
        drop(d.list());
    };
    for round in 0..600 {
        let mut bad = good_data[..4096].to_vec();
        for _ in 0..=round % 4 {
            // Most of the header's fields lie in its first bytes.
            let at = (noise.next() % if round % 2 == 0 { 400 } else { 4096 }) as usize;
            bad[at] = match noise.next() % 4 {
                0 => 0xff,
                1 => 0,
                _ => noise.next() as u8,
            };
        }
        patch_file(&data, &bad);
        try_all();
    }
    patch_file(&data, &good_data);
    for round in 0..600 {
        let mut bad = good_control.clone();
        for _ in 0..=round % 3 {
            let at = (noise.next() % bad.len() as u64) as usize;
            match noise.next() % 4 {
                0 => bad.truncate(at.max(1)),
                1 => bad[at] = b'9',
                2 => bad[at] = b'\n',
                _ => bad[at] = noise.next() as u8,
            }
        }
        fs::write(&control, &bad).expect("ours");
        try_all();
    }
    fs::write(&control, &good_control).expect("ours");
    assert!(opened > 0, "nothing was ever opened, so nothing was tried");
    drop(d.open("n").expect("whole again"));
    d.remove("n").expect("removed");
}

fn patch_file(path: &Path, bytes: &[u8]) {
    let file = fs::File::options().write(true).open(path).expect("ours");
    file.write_all_at(bytes, 0).expect("inside the file");
}

#[test]
fn damaged_control_files_are_corrupt_and_can_be_replaced_and_removed() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let d = scratch.domain();
    let long = vec![b'x'; 1 << 20];
    for bytes in [&b""[..], b"hugeshm=two\n", b"hugeshm=1\n", &[0xff; 64], &long] {
        for way_out in 0..3 {
            drop(create(&d, "n"));
            fs::write(scratch.control_file("n"), bytes).expect("ours");
            refused(d.open("n"), ErrorKind::Corrupt, "n");
            refused(d.inspect("n"), ErrorKind::Corrupt, "n");
            refused(open_or_create(&d, "n"), ErrorKind::Corrupt, "n");
            refused(small(d.create("n")).build(), ErrorKind::AlreadyExists, "n");
            assert_eq!(d.list().expect("a list")[0].usage, Usage::Broken);
            match way_out {
                0 => d.remove("n").expect("removed"),
                1 => {
                    drop(replace(&d, "n").expect("replaced"));
                    d.remove("n").expect("removed");
                }
                _ => {
                    let report = d.collect().expect("it runs");
                    assert!(report.failed.iter().any(|text| text.contains("\"n\"")), "{report:?}");
                    d.remove("n").expect("removed");
                }
            }
            d.collect().expect("it runs");
            assert_eq!(scratch.files(), [""; 0], "way out {way_out}");
        }
    }
}

/// A control file for `name` with the text of another one, some lines replaced.
fn forge(scratch: &Scratch, from: &str, name: &str, lines: &[(&str, String)]) {
    let text = fs::read_to_string(scratch.control_file(from)).expect("ours");
    let mut forged = String::new();
    for line in text.lines() {
        let (key, value) = line.split_once('=').expect("key=value");
        let new = lines.iter().find(|(k, _)| *k == key).map(|(_, value)| value.as_str());
        let value = if key == "name" { name } else { new.unwrap_or(value) };
        forged.push_str(&format!("{key}={value}\n"));
    }
    fs::write(scratch.control_file(name), forged).expect("ours");
}

#[test]
fn a_control_file_that_points_elsewhere_opens_and_removes_nothing() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let d = scratch.domain();
    drop(create(&d, "victim"));
    let data = scratch.data_file("victim");
    // Somebody else's bytes under a name that could be ours.
    let id = "00112233445566778899aabbccddeeff";
    let foreign = scratch.path().join(format!("hugeshm.{id}"));
    let copy = || {
        fs::copy(&data, &foreign).expect("room");
        nix::sys::stat::stat(&foreign).expect("it is there").st_ino.to_string()
    };
    let identity = ("identity", id.to_owned());
    let cases: [&[(&str, String)]; 4] = [
        &[("inode", "1".to_owned())],
        &[("inode", copy()), identity.clone()],
        &[("device", "5".to_owned()), ("inode", copy()), identity.clone()],
        &[("length", "4096".to_owned())],
    ];
    for lines in cases {
        forge(&scratch, "victim", "forged", lines);
        let error = d.open("forged").expect_err("it is forged");
        let kinds = [ErrorKind::NotOurs, ErrorKind::Corrupt];
        assert!(kinds.contains(&error.kind()), "{lines:?}: {error}");
        drop(d.open("victim").expect("untouched"));
        d.remove("forged").expect("the name itself can go");
        drop(d.open("victim").unwrap_or_else(|error| panic!("{lines:?}: {error}")));
        copy();
    }
    fs::remove_file(&foreign).expect("ours");
    // A copy under another name speaks of the first, and so is nobody's.
    fs::copy(scratch.control_file("victim"), scratch.control_file("copy")).expect("room");
    refused(d.open("copy"), ErrorKind::Corrupt, "copy");
    d.remove("copy").expect("the name itself can go");
    drop(d.open("victim").expect("untouched"));
    d.remove("victim").expect("removed");
    d.collect().expect("it runs");
}

#[test]
fn what_another_user_forged_is_not_ours_and_harms_nobody() {
    let _quiet = Quiet::begin();
    if !is_root("forge files of another user") {
        return;
    }
    let scratch = Scratch::new();
    let d = scratch.domain();
    let give = |path: &Path| {
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).expect("root");
    };
    for (attached, collect) in [(true, false), (false, false), (false, true)] {
        // Another user's control file that names root's segment.
        let victim = create(&d, "victim");
        let held = attached.then_some(victim);
        forge(&scratch, "victim", "evil", &[]);
        give(&scratch.control_file("evil"));
        refused(d.open("evil"), ErrorKind::NotOurs, "evil");
        if collect {
            // As a victim that nobody holds is collected as well, only the other domain's is.
            let other = Domain::in_folder("other", scratch.path()).expect("a name");
            let text = fs::read_to_string(scratch.control_file("evil")).expect("ours");
            let path = scratch.path().join("hugeshm@other@evil");
            fs::write(&path, text.replace("domain=t", "domain=other")).expect("ours");
            give(&path);
            fs::remove_file(scratch.control_file("evil")).expect("ours");
            other.collect().expect("it runs");
            let _ = fs::remove_file(&path);
        } else {
            d.remove("evil").expect("root may remove the name");
        }
        drop(d.open("victim").unwrap_or_else(|error| panic!("{attached} {collect}: {error}")));
        drop(held);
        d.remove("victim").expect("removed");
        assert_eq!(scratch.files(), [""; 0]);
    }
    // Another user's data under a name of ours.
    drop(create(&d, "n"));
    give(&scratch.data_file("n"));
    refused(d.open("n"), ErrorKind::NotOurs, "n");
    let data = scratch.data_file("n");
    d.remove("n").expect("the name is ours");
    assert!(data.exists(), "another user's file was removed");
    fs::remove_file(&data).expect("root");
}

#[test]
fn links_folders_and_pipes_in_the_place_of_a_control_file_stay_what_they_are() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let d = scratch.domain();
    drop(create(&d, "real"));
    let path = scratch.control_file("n");
    type Plant<'a> = (&'a str, Box<dyn Fn() + 'a>);
    let plants: [Plant; 5] = [
        ("link", Box::new(|| symlink(scratch.control_file("real"), &path).expect("ours"))),
        ("dangling link", Box::new(|| symlink("nowhere", &path).expect("ours"))),
        ("folder", Box::new(|| fs::create_dir(&path).expect("ours"))),
        (
            "pipe",
            Box::new(|| {
                nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("ours");
            }),
        ),
        (
            "socket",
            Box::new(|| {
                drop(std::os::unix::net::UnixListener::bind(&path).expect("ours"));
            }),
        ),
    ];
    for (what, plant) in plants {
        plant();
        let before = fs::symlink_metadata(&path).expect("planted").file_type();
        let kind = ErrorKind::NotOurs;
        refused(d.open("n"), kind, "@n");
        refused(d.open_read_only("n"), kind, "@n");
        refused(d.inspect("n"), kind, "@n");
        refused(open_or_create(&d, "n"), kind, "@n");
        refused(replace(&d, "n"), kind, "@n");
        refused(d.remove("n"), kind, "@n");
        refused(d.wait_for("n", Duration::from_secs(60)), kind, "@n");
        refused(small(d.create("n")).build(), ErrorKind::AlreadyExists, "n");
        let list = d.list().expect("a list");
        let entry = list.iter().find(|entry| entry.name == "n").expect("listed with its problem");
        assert_eq!(entry.usage, Usage::Broken, "{what}");
        let held = d.open("real").expect("untouched");
        let report = d.collect().expect("it runs");
        assert_eq!((report.removed.len(), report.failed.len()), (0, 1), "{what}: {report:?}");
        drop(held);
        assert_eq!(fs::symlink_metadata(&path).expect("still there").file_type(), before, "{what}");
        if before.is_dir() { fs::remove_dir(&path) } else { fs::remove_file(&path) }.expect("ours");
    }
    d.remove("real").expect("removed");
}

#[test]
fn a_link_in_the_place_of_data_or_claims_is_not_followed() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let d = scratch.domain();
    for claims in [false, true] {
        drop(create(&d, "n"));
        let path = if claims { scratch.claims_file("n") } else { scratch.data_file("n") };
        let elsewhere = scratch.path().join("elsewhere");
        fs::rename(&path, &elsewhere).expect("ours");
        symlink(&elsewhere, &path).expect("ours");
        refused(d.open("n"), ErrorKind::NotOurs, "");
        drop(d.remove("n"));
        assert!(elsewhere.exists(), "what the link leads to was removed");
        fs::remove_file(&elsewhere).expect("ours");
        let _ = fs::remove_file(&path);
        let _ = d.collect();
        let _ = d.remove("n");
        d.collect().expect("it runs");
    }
}

#[test]
fn a_vanished_control_file_neither_loses_nor_frees_a_live_segment() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let d = scratch.domain();
    for both in [false, true] {
        let old = create(&d, "n");
        let (data, claims) = (scratch.data_file("n"), scratch.claims_file("n"));
        fs::remove_file(scratch.control_file("n")).expect("ours");
        if both {
            fs::remove_file(&claims).expect("ours");
        }
        refused(d.open("n"), ErrorKind::NotFound, "n");
        let report = d.collect().expect("it runs");
        assert!(report.removed.is_empty() && report.failed.is_empty(), "{report:?}");
        assert!(data.exists(), "a live segment was collected");
        let new = create(&d, "n");
        assert_ne!(new.identity(), old.identity());
        assert_eq!(old.verify().expect("intact").resident, old.len());
        assert!(d.collect().expect("it runs").removed.is_empty());
        drop(old);
        let report = d.collect().expect("it runs");
        assert_eq!(report.removed.len(), 1, "{report:?}");
        assert!(!data.exists() && !claims.exists());
        drop(new);
        d.remove("n").expect("removed");
    }
}

#[test]
fn a_reader_alone_keeps_a_nameless_segment_from_being_collected() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let d = scratch.domain();
    drop(create(&d, "n"));
    let reader = d.open_read_only("n").expect("opened");
    assert!(d.collect().expect("it runs").removed.is_empty(), "named");
    fs::remove_file(scratch.control_file("n")).expect("ours");
    assert!(d.collect().expect("it runs").removed.is_empty(), "nameless");
    assert_eq!(reader.verify().expect("intact").resident, reader.len());
    drop(reader);
    assert_eq!(d.collect().expect("it runs").removed.len(), 1);
}

#[test]
fn without_its_claims_file_a_segment_can_be_read_replaced_removed_and_collected() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let d = scratch.domain();
    for way_out in 0..3 {
        drop(create(&d, "n"));
        fs::remove_file(scratch.claims_file("n")).expect("ours");
        refused(d.open("n"), ErrorKind::Corrupt, "n");
        drop(d.open_read_only("n").expect("readers need no claims"));
        d.inspect("n").expect("a report");
        d.list().expect("a list");
        match way_out {
            0 => d.remove("n").expect("removed"),
            1 => {
                drop(replace(&d, "n").expect("replaced"));
                d.remove("n").expect("removed");
            }
            _ => assert_eq!(d.collect().expect("it runs").removed.len(), 1),
        }
        assert_eq!(scratch.files(), [""; 0], "way out {way_out}");
    }
}

/// Whoever collects has the life byte to himself until he knows that the segment is in use; whoever
/// opens meanwhile waits for him.
#[test]
fn a_segment_that_somebody_wants_to_collect_is_opened_when_he_has_given_up() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let d = scratch.domain();
    let segment = create(&d, "n");
    let claims = scratch.path().join(format!("hugeshm.{}.claims", segment.identity()));
    drop(segment);
    let file = fs::File::options().read(true).write(true).open(&claims).expect("ours");
    let life = |kind: i32| {
        let (l_type, l_whence) = (kind as i16, libc::SEEK_SET as i16);
        let lock = libc::flock { l_type, l_whence, l_start: 0, l_len: 1, l_pid: 0 };
        nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_OFD_SETLK(&lock)).expect("free");
    };
    life(libc::F_WRLCK);
    let (told, hears) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| told.send(d.open("n")).expect("heard"));
        let early = hears.recv_timeout(Duration::from_millis(100));
        assert!(early.is_err(), "it did not wait: {early:?}");
        life(libc::F_UNLCK);
        let opened = hears.recv().expect("an answer");
        assert!(opened.is_ok(), "{opened:?}");
    });
    life(libc::F_WRLCK);
    refused(d.open("n"), ErrorKind::TimedOut, "n");
    life(libc::F_UNLCK);
    d.remove("n").expect("ours");
}

#[test]
fn without_its_data_a_name_says_so_and_can_be_taken_again() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let d = scratch.domain();
    for way_out in 0..3 {
        drop(create(&d, "n"));
        fs::remove_file(scratch.data_file("n")).expect("ours");
        let error = refused(d.open("n"), ErrorKind::NotFound, "n");
        assert!(error.to_string().contains("gone"), "{error}");
        refused(d.open_read_only("n"), ErrorKind::NotFound, "n");
        assert_eq!(d.list().expect("a list")[0].usage, Usage::Broken);
        match way_out {
            0 => d.remove("n").expect("removed"),
            1 => {
                drop(replace(&d, "n").expect("replaced"));
                d.remove("n").expect("removed");
            }
            _ => assert_eq!(d.collect().expect("it runs").removed.len(), 1),
        }
        assert_eq!(scratch.files(), [""; 0], "way out {way_out}");
    }
}

#[test]
fn a_memfd_name_whose_last_holder_died_is_taken_again_without_cleaning() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let d = scratch.domain();
    let memfd = |builder: SegmentBuilder| {
        builder
            .pages(PagePolicy::exactly(Rung::Base))
            .backing(BackingKind::Memfd)
            .lifetime(Lifetime::WithHolders)
    };
    let first = memfd(d.create("n")).build().expect("created").identity();
    let again = memfd(Segment::open_or_create("n").domain(d.clone())).build().expect("made anew");
    assert_ne!(again.identity(), first);
    let opened = memfd(Segment::open_or_create("n").domain(d.clone())).build().expect("opened");
    assert_eq!(opened.identity(), again.identity());
    drop((again, opened));
    d.remove("n").expect("removed");
}

#[test]
fn who_may_not_is_told_so_and_changes_nothing() {
    let _quiet = Quiet::begin();
    if !is_root("become another user") {
        return;
    }
    let scratch = Scratch::new();
    let d = scratch.domain();
    let folder = scratch.path().display().to_string();
    // Mode, then what opening and opening to read come to.
    for (mode, open, read) in [
        (0o600, "PermissionDenied", "PermissionDenied"),
        (0o644, "PermissionDenied", "Ok"),
        (0o666, "Ok", "Ok"),
    ] {
        let segment = small(d.create("n")).mode(mode).build().expect("created");
        let mut nobody = Child::start_as_nobody("bad_input::nobody", &[&folder]);
        for (call, expected) in [
            ("open", open),
            ("open_read_only", read),
            ("inspect", read),
            ("create", "AlreadyExists"),
            ("open_or_create", open),
            ("replace", if mode == 0o600 { "PermissionDenied" } else { "NotOurs" }),
            ("remove", "PermissionDenied"),
            ("list", "Ok"),
            ("collect", "Ok"),
        ] {
            let said = nobody.says();
            assert!(said.starts_with(expected), "{mode:o} {call}: {said}");
            assert!(expected == "Ok" || said.contains("try:"), "{mode:o} {call}: {said}");
        }
        nobody.end_well();
        assert!(!segment.is_superseded());
        drop(segment);
        assert_eq!(scratch.files().len(), 3, "{:?}", scratch.files());
        d.remove("n").expect("removed");
    }
    // A folder that is closed, and one that can only be read.
    for mode in [0o700, 0o755] {
        fs::set_permissions(scratch.path(), fs::Permissions::from_mode(mode)).expect("ours");
        let mut nobody = Child::start_as_nobody("bad_input::nobody", &[&folder]);
        for call in ["open", "read", "inspect", "create", "open_or_create", "replace", "remove"] {
            let said = nobody.says();
            let missing = mode == 0o755 && ["open", "read", "inspect", "remove"].contains(&call);
            let expected = if missing { "NotFound" } else { "PermissionDenied" };
            assert!(said.starts_with(expected), "{mode:o} {call}: {said}");
            assert!(said.contains(&folder) && said.contains("try:"), "{mode:o} {call}: {said}");
        }
        nobody.end_well();
    }
}

fn child_nobody() {
    let d = domain(Path::new(&child::argument(0)));
    child::say(child::outcome(d.open("n")));
    child::say(child::outcome(d.open_read_only("n")));
    child::say(child::outcome(d.inspect("n")));
    child::say(child::outcome(small(d.create("n")).build()));
    child::say(child::outcome(open_or_create(&d, "n")));
    child::say(child::outcome(replace(&d, "n")));
    child::say(child::outcome(d.remove("n")));
    child::say(child::outcome(d.list()));
    child::say(child::outcome(d.collect()));
}

#[test]
fn another_users_segments_open_for_root_and_are_removed_by_root() {
    let _quiet = Quiet::begin();
    if !is_root("become another user") {
        return;
    }
    let scratch = Scratch::new();
    let d = scratch.domain();
    let folder = scratch.path().display().to_string();
    let mut nobody = Child::start_as_nobody("bad_input::owner", &[&folder]);
    assert_eq!(nobody.says(), "Ok");
    let list = d.list().expect("a list");
    assert_eq!((list[0].uid, list[0].usage), (NOBODY, Usage::InUse));
    drop(d.open("n").expect("root may"));
    assert!(d.collect().expect("it runs").removed.is_empty());
    refused(replace(&d, "n"), ErrorKind::NotOurs, "n");
    refused(small(d.create("n")).build(), ErrorKind::AlreadyExists, "n");
    nobody.tell("die");
    assert_eq!(nobody.says(), "dying");
    nobody.kill();
    assert_eq!(d.collect().expect("it runs").removed.len(), 1);
    assert_eq!(scratch.files(), [""; 0]);
}

fn child_owner() {
    let d = domain(Path::new(&child::argument(0)));
    let segment = small(d.create("n")).build();
    child::say(child::outcome(segment.as_ref().map_err(Clone::clone)));
    child::hear();
    child::say("dying");
    child::hear();
    drop(segment);
}

#[test]
fn a_full_control_folder_is_said_to_be_full_and_keeps_nothing() {
    let _quiet = Quiet::begin();
    if !is_root("mount") {
        return;
    }
    // Without room for inodes, at each step of creating; then without room for bytes.
    for inodes in 2..6 {
        let options = format!("nr_inodes={inodes}");
        let Some(mount) = PrivateMount::tmpfs(&options) else { return };
        full_folder(&mount.path(), inodes < 5, &options);
    }
    for pages in 1..12 {
        let options = format!("size={}", pages * 4096);
        let Some(mount) = PrivateMount::tmpfs(&options) else { return };
        full_folder(&mount.path(), pages < 4, &options);
    }
}

fn full_folder(path: &Path, must_fail: bool, options: &str) {
    let d = domain(path);
    let builder = small(d.create("n")).max_attachments(1).max_objects(1);
    match builder.build() {
        Ok(segment) => {
            assert!(!must_fail, "{options}: it worked");
            assert_eq!(segment.verify().expect("intact").resident, segment.len());
            drop(segment);
            d.remove("n").expect("removing takes no room");
        }
        Err(error) => {
            let kinds = [ErrorKind::NoSpace, ErrorKind::OutOfPages];
            assert!(kinds.contains(&error.kind()), "{options}: {error}");
            assert!(error.to_string().contains("try:"), "{options}: {error}");
        }
    }
    assert_eq!(common::files(path), [""; 0], "{options}");
    let lock = fs::read_dir(path).expect("ours").flatten();
    for entry in lock {
        fs::remove_file(entry.path()).expect("ours");
    }
}

#[test]
fn without_descriptors_every_call_says_so_and_nothing_is_lost() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let folder = scratch.path().display().to_string();
    let mut child = Child::start("bad_input::descriptors", &[&folder]);
    let mut refusals = 0;
    loop {
        match child.says().as_str() {
            "done" => break,
            "refused" => refusals += 1,
            other => panic!("{other}"),
        }
    }
    assert!(refusals > 10, "{refusals} refusals: the limit was never met");
    child.end_well();
}

/// Opens files until the numbers of the open descriptors have no gap: the limit is on the
/// number of a descriptor, not on how many there are, and a parent may have left us high ones.
fn fill_descriptor_gaps() -> Vec<fs::File> {
    use std::os::fd::AsRawFd;
    let mut filling = Vec::new();
    loop {
        let file = fs::File::open("/dev/null").expect("a descriptor");
        // The folder that is being listed has a descriptor as well: the first free one.
        let highest = fs::read_dir("/proc/self/fd").expect("/proc is mounted").flatten();
        let highest = highest.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let above = highest.filter(|other: &i32| *other > file.as_raw_fd()).count();
        if above <= 1 {
            return filling;
        }
        filling.push(file);
    }
}

/// Every call with room for 0, 1, 2, ... more descriptors.
fn child_descriptors() {
    use nix::sys::resource::{Resource, setrlimit};
    let folder = child::argument(0);
    let d = domain(Path::new(&folder));
    drop(create(&d, "old"));
    let old_files = common::files(Path::new(&folder));
    let _gaps = fill_descriptor_gaps();
    let used = common::descriptors() as u64;
    for room in 0..14 {
        type Call<'a> = (&'a str, Box<dyn Fn() -> Result<(), Error> + 'a>);
        let calls: [Call; 8] = [
            ("create", Box::new(|| small(d.create("new")).build().map(drop))),
            ("open_or_create", Box::new(|| open_or_create(&d, "new").map(drop))),
            ("replace", Box::new(|| replace(&d, "new").map(drop))),
            ("open", Box::new(|| d.open("old").map(drop))),
            ("open_read_only", Box::new(|| d.open_read_only("old").map(drop))),
            ("inspect", Box::new(|| d.inspect("old").map(drop))),
            ("list", Box::new(|| d.list().map(drop))),
            (
                "collect",
                Box::new(|| {
                    // Somebody else is attached to nothing; half-built ones are looked for.
                    Domain::in_folder("other", &folder)?.collect().map(drop)
                }),
            ),
        ];
        for (name, call) in calls {
            setrlimit(Resource::RLIMIT_NOFILE, used - 1 + room, 4096).expect("lower");
            let result = call();
            setrlimit(Resource::RLIMIT_NOFILE, 4096, 4096).expect("back");
            match result {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::NoSpace => child::say("refused"),
                Err(error) if error.kind() == ErrorKind::OutOfPages => child::say("refused"),
                Err(error) => child::say(format_args!("{name} with {room}: {error}")),
            }
            let _ = d.remove("new");
            let now = common::files(Path::new(&folder));
            if now != old_files {
                child::say(format_args!("{name} with {room}: {old_files:?} became {now:?}"));
            }
            if common::descriptors() as u64 != used {
                child::say(format_args!("{name} with {room}: descriptors were left open"));
            }
        }
    }
    d.remove("old").expect("removed");
    child::say("done");
}

/// The roles of this file.
pub fn play(role: &str) -> bool {
    match role {
        "bad_input::mount" => child_mount(),
        "bad_input::nobody" => child_nobody(),
        "bad_input::owner" => child_owner(),
        "bad_input::descriptors" => child_descriptors(),
        _ => return false,
    }
    true
}

#[test]
fn a_hugetlbfs_segment_is_not_opened_through_another_mount_of_the_same_path() {
    let _quiet = Quiet::begin();
    if !is_root("mount") {
        return;
    }
    let scratch = Scratch::new();
    let d = scratch.domain();
    let (Some(_pages), Some(mount)) = (pages(M2, 1), PrivateMount::hugetlbfs(M2, None)) else {
        return;
    };
    let path = mount.path();
    let builder = d.create("n").pages(M2.into()).backing(BackingKind::Hugetlbfs).mount(&path);
    let segment = builder.build().expect("created");
    // The same file system seen at another place: found by device and inode.
    let elsewhere = tempfile::tempdir().expect("a temporary folder");
    let bind = nix::mount::MsFlags::MS_BIND;
    let none = None::<&str>;
    nix::mount::mount(Some(&path), elsewhere.path(), none, bind, none).expect("root");
    hugeshm::pages::mount(M2, &path, MountOptions::new()).expect("already there");
    // Something else over the old place.
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("none"), &path, Some("tmpfs"), flags, none).expect("root");
    let opened = d.open("n").map(|segment| segment.identity());
    nix::mount::umount(&path).expect("ours");
    assert_eq!(opened.expect("found through the other mount"), segment.identity());
    drop(segment);
    d.remove("n").expect("removed");
    nix::mount::umount(elsewhere.path()).expect("ours");
}

#[test]
fn a_sender_cannot_leave_descriptors_behind() {
    use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
    use std::os::fd::AsRawFd;
    // At its end `Quiet` counts the descriptors of this process.
    let _quiet = Quiet::begin();
    let null = std::fs::File::open("/dev/null").unwrap();
    for count in [1, 2, 3, 20, 253] {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let fds = vec![null.as_raw_fd(); count];
        let message = [std::io::IoSlice::new(b"HUGESHM>\x04\0\0\0\0\0\0\0junk")];
        let rights = [ControlMessage::ScmRights(&fds)];
        sendmsg::<UnixAddr>(theirs.as_raw_fd(), &message, &rights, MsgFlags::empty(), None)
            .unwrap();
        let error = Segment::receive_from(&ours).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotOurs, "{count}: {error}");
    }
}

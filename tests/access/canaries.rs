//! Files that name somebody else's objects: whoever wrote them, and whoever reads them, root least of
//! all, opens, changes and removes nothing but what belongs to the writer.
#![expect(unsafe_code, reason = "shmget")]

use crate::common::child::NOBODY;
use crate::common::machine::{PrivateMount, pages};
use crate::common::{self, M2, Quiet, Scratch, is_root};
use crate::visitors::{OTHER, on};
use hugeshm::pages::MountOptions;
use hugeshm::{Domain, ErrorKind, Segment};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::stat::Mode;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// The identity that forged files give themselves.
pub const FORGED: &str = "00112233445566778899aabbccddeeff";

/// Watches files: whoever opens or changes one is noticed.
pub struct Watch(Inotify);

impl Watch {
    /// Notices each opening and each change.
    fn on(paths: &[&Path]) -> Self {
        Self::of(paths, AddWatchFlags::IN_OPEN | AddWatchFlags::IN_MODIFY)
    }

    /// Notices each change.
    pub fn changes(paths: &[&Path]) -> Self {
        Self::of(paths, AddWatchFlags::IN_MODIFY)
    }

    fn of(paths: &[&Path], what: AddWatchFlags) -> Self {
        let watch = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).expect("one");
        for path in paths {
            watch.add_watch(*path, what).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
        Self(watch)
    }

    #[track_caller]
    pub fn saw_nothing(&self, when: &str) {
        if let Ok(events) = self.0.read_events() {
            panic!("{when}: it was touched: {events:?}");
        }
    }
}

/// A control file for the name `evil`, of user `uid`.
pub fn forge(scratch: &Scratch, uid: u32, lines: &str) {
    let text = format!(
        "hugeshm=1\ndomain={}\nname=evil\nidentity={FORGED}\npage_size=4096\nlength=4096\n{lines}",
        common::DOMAIN
    );
    let path = scratch.control_file("evil");
    fs::write(&path, text).expect("root");
    chown(&path, Some(uid), Some(uid)).expect("root");
}

/// Everything that root may be led to do by the name; it need not work.
pub fn everything(domain: &Domain, forge: &dyn Fn()) -> usize {
    let calls: [&dyn Fn(); 8] = [
        &|| drop(domain.list()),
        &|| drop(domain.inspect("evil")),
        &|| drop(domain.open("evil")),
        &|| drop(domain.open_read_only("evil")),
        &|| drop(on(Segment::replace("evil").domain(domain.clone()), "tmpfs").build()),
        &|| drop(on(Segment::open_or_create("evil").domain(domain.clone()), "memfd").build()),
        &|| drop(domain.remove("evil")),
        &|| drop(domain.collect()),
    ];
    for call in calls {
        forge();
        call();
    }
    calls.len()
}

#[test]
fn a_holder_that_is_forged_opens_no_device_pipe_or_file_for_anybody() {
    let _quiet = Quiet::begin();
    if !is_root("be led astray") {
        return;
    }
    let scratch = Scratch::new();
    let domain = scratch.domain();
    let place = tempfile::tempdir().expect("a temporary folder");
    let (pipe, file) = (place.path().join("pipe"), place.path().join("file"));
    nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).expect("ours");
    fs::write(&file, "a file of root").expect("ours");
    // Opening this one makes a terminal. Others restart the machine.
    let device = PathBuf::from("/dev/ptmx").canonicalize().expect("every machine has it");
    let start = start_time(std::process::id());
    let mut tries = 0;
    for canary in [&pipe, &file, &device] {
        // A descriptor for which no right to the file is needed, as anybody can have it.
        use std::os::fd::AsRawFd;
        use std::os::unix::fs::OpenOptionsExt;
        let flags = nix::libc::O_PATH;
        let held = fs::File::options().read(true).custom_flags(flags).open(canary).expect("there");
        let is = fs::metadata(canary).expect("there");
        let watch = Watch::on(&[canary]);
        for uid in [OTHER.uid, 0] {
            let (dev, ino, pid, fd) = (is.dev(), is.ino(), std::process::id(), held.as_raw_fd());
            let lines =
                format!("backing=memfd\ndevice={dev}\ninode={ino}\nholder={pid} {fd} {start}\n");
            tries += everything(&domain, &|| forge(&scratch, uid, &lines));
        }
        watch.saw_nothing(&canary.display().to_string());
    }
    drop(domain.remove("evil"));
    domain.collect().expect("it runs");
    eprintln!("{tries} calls by forged holders");
}

fn start_time(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).expect("/proc is mounted");
    let rest = text.rsplit(')').next().expect("a command");
    rest.split_whitespace().nth(19).expect("as many fields").parse().expect("a number")
}

#[test]
fn a_folder_that_is_forged_is_not_even_looked_into() {
    let _quiet = Quiet::begin();
    if !is_root("be led astray") {
        return;
    }
    let scratch = Scratch::new();
    let domain = scratch.domain();
    let place = tempfile::tempdir().expect("a temporary folder");
    let mount = PrivateMount::hugetlbfs_with(M2, MountOptions::new().mode(0o1777));
    // What a data file of the forged identity would be called; a pipe, and a plain file.
    let pipe = place.path().join(format!("hugeshm.{FORGED}"));
    nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).expect("ours");
    chown(&pipe, Some(OTHER.uid), None).expect("root");
    let watch = Watch::on(&[&pipe, place.path()]);
    let is = fs::metadata(&pipe).expect("there");
    let mut tries = 0;
    let outside = place.path().display().to_string();
    let (device, up) = match &mount {
        // The file system of a real mount, from which a path leads up and out again.
        Some(mount) => {
            (fs::metadata(mount.path()).expect("there").dev(), format!("/../../..{outside}"))
        }
        None => (is.dev(), outside.clone()),
    };
    for uid in [OTHER.uid, 0] {
        for folders in [
            format!("folder={outside}\n"),
            format!("folder_in_mount={outside}\n"),
            format!("folder_in_mount={up}\n"),
            format!("folder={outside}\nfolder_in_mount={up}\n"),
        ] {
            for device in [device, is.dev()] {
                let ino = is.ino();
                let lines = format!("backing=hugetlbfs\ndevice={device}\ninode={ino}\n{folders}");
                tries += everything(&domain, &|| forge(&scratch, uid, &lines));
            }
        }
        // And the same by an intent, as of a creator who was killed.
        let claims = scratch.path().join(format!("hugeshm.{FORGED}.claims"));
        let text = format!("hugeshm=1\ndomain=t\nname=x\nidentity={FORGED}\nhugetlbfs={outside}\n");
        fs::write(&claims, text).expect("root");
        chown(&claims, Some(uid), None).expect("root");
        domain.collect().expect("it runs");
        assert!(!claims.exists(), "it announced nothing that is there");
        tries += 1;
    }
    watch.saw_nothing("a forged folder");
    assert!(pipe.exists());
    let _ = fs::remove_file(scratch.control_file("evil"));
    domain.collect().expect("it runs");
    eprintln!("{tries} calls by forged folders");
}

/// A System V segment on base pages, removed at the end.
struct Sysv {
    id: i32,
    key: i32,
}

impl Sysv {
    /// Of root, attached by nobody.
    fn new(key: i32) -> Self {
        // SAFETY: it takes and returns plain numbers.
        let id = unsafe { nix::libc::shmget(key, 8192, nix::libc::IPC_CREAT | 0o600) };
        assert!(id >= 0, "shmget: {}", std::io::Error::last_os_error());
        Self { id, key }
    }

    fn is_there(&self) -> bool {
        let table = fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
        table.lines().any(|line| line.split_whitespace().nth(1) == Some(&self.id.to_string()))
    }
}

impl Drop for Sysv {
    fn drop(&mut self) {
        if !self.is_there() {
            return;
        }
        let _ = std::process::Command::new("ipcrm").args(["-m", &self.id.to_string()]).status();
    }
}

#[test]
fn a_sysv_segment_of_somebody_else_is_neither_opened_nor_removed() {
    let _quiet = Quiet::begin();
    if !is_root("be led astray") {
        return;
    }
    let scratch = Scratch::new();
    let domain = scratch.domain();
    let canary = Sysv::new(0x0bad_cafe);
    let mut tries = 0;
    let key_of_sysv = |key: i32| format!("sysv_key={key}\n");
    // Another user's control file names it, with its right key and without.
    for key in [canary.key, 1] {
        let lines = format!("backing=sysv\nsysv_id={}\n{}", canary.id, key_of_sysv(key));
        tries += everything(&domain, &|| forge(&scratch, OTHER.uid, &lines));
        assert!(canary.is_there(), "by a control file");
    }
    // Another user's claims file announces it.
    let claims = scratch.path().join(format!("hugeshm.{FORGED}.claims"));
    let head = format!("hugeshm=1\ndomain=t\nname=x\nidentity={FORGED}\n");
    fs::write(&claims, format!("{head}{}", key_of_sysv(canary.key))).expect("root");
    chown(&claims, Some(OTHER.uid), None).expect("root");
    domain.collect().expect("it runs");
    assert!(canary.is_there(), "by another user's intent");
    tries += 1;
    // Root's own claims file, which others may write because they may write the segment, announces it.
    for name in ["n", "gone"] {
        for mode in [0o666, 0o660] {
            drop(on(domain.create("n"), "tmpfs").mode(mode).build().expect("base pages"));
            let claims = scratch.claims_file("n");
            let text = fs::read_to_string(&claims).expect("ours");
            let text = text.replace("name=n\n", &format!("name={name}\n"));
            fs::write(&claims, format!("{text}{}", key_of_sysv(canary.key))).expect("it may");
            domain.collect().expect("it runs");
            assert!(canary.is_there(), "by what others wrote into a claims file of mode {mode:o}");
            drop(domain.remove("n"));
            tries += 1;
        }
    }
    domain.collect().expect("it runs");
    eprintln!("{tries} calls that name somebody else's SysV segment");
}

#[test]
fn a_sysv_segment_of_a_killed_creator_is_still_found_by_its_intent() {
    let _quiet = Quiet::begin();
    if !is_root("make SysV segments on huge pages") {
        return;
    }
    let scratch = Scratch::new();
    let domain = scratch.domain();
    let Some(_pages) = pages(M2, 1) else { return };
    // As of one who died behind B7, whose control file was then deleted: others may write here.
    drop(on(domain.create("n"), "sysv").mode(0o666).build().expect("a page is there"));
    fs::remove_file(scratch.control_file("n")).expect("ours");
    let report = domain.collect().expect("it runs");
    assert_eq!((report.removed.len(), report.failed.len()), (1, 0), "{report:?}");
    assert!(common::machine::own_sysv_ids().is_empty());
    // As of one who died before: only he can have written it, and no header stands there.
    let half = Sysv::new(0x0bad_cafd);
    let claims = scratch.path().join(format!("hugeshm.{FORGED}.claims"));
    let text = format!("hugeshm=1\ndomain=t\nname=x\nidentity={FORGED}\nsysv_key={}\n", half.key);
    fs::write(&claims, text).expect("ours");
    fs::set_permissions(&claims, fs::Permissions::from_mode(0o600)).expect("ours");
    assert_eq!(domain.collect().expect("it runs").removed.len(), 1);
    assert!(!half.is_there());
}

#[test]
fn what_another_user_names_of_root_stays_as_it_is_on_every_backing() {
    let _quiet = Quiet::begin();
    if !is_root("be led astray") {
        return;
    }
    let scratch = Scratch::new();
    let domain = scratch.domain();
    let mount = PrivateMount::hugetlbfs_with(M2, MountOptions::new().mode(0o1777));
    let pool = pages(M2, 2);
    let mut kinds = vec!["tmpfs".to_owned(), "memfd".to_owned()];
    if let (Some(mount), Some(_)) = (&mount, &pool) {
        kinds.extend([mount.path().display().to_string(), "sysv".to_owned()]);
    }
    let mut tries = 0;
    for kind in &kinds {
        let victim = on(domain.create("victim"), kind).build().expect("built");
        let before = victim.verify().expect("intact").resident;
        let text = fs::read_to_string(scratch.control_file("victim")).expect("ours");
        // The whole of it under another name; the same with another identity; hard links.
        let renamed = text.replace("name=victim\n", "name=evil\n");
        let identity = scratch.control_value("victim", "identity");
        for forged in [renamed.clone(), renamed.replace(&identity, FORGED), text.clone()] {
            tries += everything(&domain, &|| {
                let path = scratch.control_file("evil");
                let _ = fs::remove_file(&path);
                fs::write(&path, &forged).expect("root");
                chown(&path, Some(NOBODY), Some(NOBODY)).expect("root");
            });
        }
        // What is not the writer's is not opened by his name, whoever asks.
        let path = scratch.control_file("evil");
        let _ = fs::remove_file(&path);
        fs::write(&path, &renamed).expect("root");
        chown(&path, Some(NOBODY), Some(NOBODY)).expect("root");
        for opened in [domain.open("evil"), domain.open_read_only("evil")] {
            let error = opened.map(drop).expect_err("it belongs to another");
            assert_eq!(error.kind(), ErrorKind::NotOurs, "{kind}: {error}");
        }
        tries += everything(&domain, &|| {
            let path = scratch.control_file("evil");
            let _ = fs::remove_file(&path);
            fs::hard_link(scratch.control_file("victim"), &path).expect("root");
        });
        let _ = fs::remove_file(scratch.control_file("evil"));
        assert!(!victim.is_superseded(), "{kind}");
        assert_eq!(victim.verify().expect("intact").resident, before, "{kind}");
        drop(domain.open("victim").unwrap_or_else(|error| panic!("{kind}: {error}")));
        drop(victim);
        domain.remove("victim").expect("removed");
        domain.collect().expect("it runs");
        assert_eq!(scratch.files(), [""; 0], "{kind}");
    }
    eprintln!("{tries} calls by another's names for {} kinds of segments", kinds.len());
}

//! One body over every kind of object and page: made, seen, opened, replaced, removed, collected.

use crate::common::child::{self, Child};
use crate::common::machine::{PrivateMount, pages};
use crate::common::{M2, Quiet, Scratch, domain, refused, smaps};
use hugeshm::{
    BackingKind, Domain, ErrorKind, How, Lifetime, PagePolicy, PageSize, PeerState, Rung, Segment,
    SegmentBuilder, Usage,
};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// One kind of object on one rung.
#[derive(Clone, Debug)]
pub struct Case {
    pub rung: Rung,
    pub kind: BackingKind,
    pub page: PageSize,
    pub length: u64,
    pub mount: Option<PathBuf>,
}

impl Case {
    pub fn new(rung: Rung, kind: BackingKind, pages: u64) -> Self {
        let page = match rung {
            Rung::Huge(size) => size,
            _ => PageSize::SIZE_4K,
        };
        Self { rung, kind, page, length: pages * page.bytes(), mount: None }
    }

    /// Everything that decides the pages, on a builder of any goal.
    pub fn on(&self, builder: SegmentBuilder) -> SegmentBuilder {
        let builder = builder
            .pages(PagePolicy::exactly(self.rung))
            .backing(self.kind)
            .size(self.length)
            .lifetime(Lifetime::WithHolders);
        match &self.mount {
            Some(path) => builder.mount(path),
            None => builder,
        }
    }

    fn create(&self, domain: &Domain, name: &str) -> Segment {
        self.on(domain.create(name)).build().unwrap_or_else(|error| panic!("{self:?}: {error}"))
    }

    /// The number that the kernel knows the object by, and a part of its name in smaps.
    fn inode(&self, scratch: &Scratch, name: &str) -> (u64, &'static str) {
        let number = |key| scratch.control_value(name, key).parse().expect("a number");
        match self.kind {
            BackingKind::Sysv => (number("sysv_id"), "/SYSV"),
            BackingKind::Memfd => (number("inode"), "/memfd:"),
            _ => (number("inode"), "/"),
        }
    }
}

/// What the kernel says of a populated mapping must be what was promised.
#[track_caller]
fn assert_truth(case: &Case, truth: smaps::Truth, huge: u64) {
    assert_eq!(truth.mapped, case.length, "{case:?}");
    assert_eq!(truth.kernel_page, case.page.bytes(), "{case:?}");
    match case.rung {
        Rung::Huge(_) => assert_eq!((truth.pool, huge), (case.length, case.length), "{case:?}"),
        Rung::Thp => {
            assert_eq!((truth.resident, truth.merged), (case.length, huge), "{case:?}");
            assert!(huge >= M2.bytes(), "{case:?}: nothing was merged");
        }
        _ => assert_eq!((truth.resident, truth.merged, huge), (case.length, 0, 0), "{case:?}"),
    }
}

/// What `fstatfs` says of a file with a path.
fn assert_file_system(case: &Case, folder: &Path, segment: &Segment) {
    let path = folder.join(format!("hugeshm.{}", segment.identity()));
    let facts = nix::sys::statfs::statfs(&path).expect("the data file has a name");
    let (magic, page) = match case.kind {
        BackingKind::Hugetlbfs => (0x9584_58f6, case.page.bytes()),
        _ => (0x0102_1994, 4096),
    };
    assert_eq!((facts.filesystem_type().0 as u32, facts.block_size() as u64), (magic, page));
    let stat = nix::sys::stat::stat(&path).expect("the data file has a name");
    assert_eq!(stat.st_size as u64, case.length);
    assert_eq!(stat.st_mode & 0o777, 0o600);
}

fn whole_life(case: &Case) {
    let scratch = Scratch::new();
    let domain = scratch.domain();
    let first = case.create(&domain, "seg");

    // The creator's report, against the kernel.
    let backing = first.backing();
    assert_eq!((backing.rung, backing.kind, backing.page_size), (case.rung, case.kind, case.page));
    assert_eq!((backing.length, backing.resident), (case.length, case.length));
    assert_eq!(backing.pages, case.length / case.page.bytes());
    assert_eq!(backing.nodes.iter().map(|share| share.bytes).sum::<u64>(), case.length);
    assert!(matches!(backing.measured, How::PagemapScan | How::Smaps));
    assert!(backing.refusals.is_empty(), "{backing:#}");
    assert_eq!((first.len(), first.page_size(), first.name()), (case.length, case.page, "seg"));
    let (inode, path) = case.inode(&scratch, "seg");
    assert_truth(case, smaps::of_inode(inode, path), backing.huge);
    match (case.kind, &case.mount) {
        (BackingKind::Hugetlbfs, Some(mount)) => assert_file_system(case, mount, &first),
        (BackingKind::Tmpfs, _) => assert_file_system(case, scratch.path(), &first),
        _ => {}
    }
    refused(case.on(domain.create("seg")).build(), ErrorKind::AlreadyExists, "seg");

    // Another process.
    let folder = scratch.path().display().to_string();
    let mut other = Child::start("backings::opener", &[&folder, "seg", &inode.to_string(), path]);
    let expected = format!("{} {} {} false", first.identity(), case.length, case.page);
    assert_eq!(other.says(), expected, "{case:?}");
    assert_eq!(other.says(), format!("{} {}", case.length, case.page.bytes()), "{case:?}");

    // Lists, reports, readers.
    let list = domain.list().expect("a list");
    assert_eq!(list.len(), 1);
    assert_eq!((list[0].name.as_str(), list[0].usage), ("seg", Usage::InUse), "{list:?}");
    assert_eq!((list[0].backing, list[0].length), (Some(case.kind), case.length));
    let info = domain.inspect("seg").expect("a report");
    assert!(info.problems.is_empty() && !info.superseded, "{info:?}");
    let alive: Vec<u32> = info
        .attachments
        .iter()
        .filter(|attachment| attachment.state == PeerState::Alive)
        .map(|attachment| attachment.pid)
        .collect();
    assert_eq!(alive, [std::process::id(), other.pid()]);
    let reader = domain.open_read_only("seg").expect("a reader");
    assert!(reader.is_read_only() && !first.is_read_only());
    assert_eq!((reader.len(), reader.page_size()), (case.length, case.page));
    assert_eq!(reader.backing().measured, How::Recorded);
    let verified = reader.verify().expect("all pages are there");
    assert_eq!((verified.resident, verified.page_size), (case.length, case.page));
    if case.rung != Rung::Thp {
        assert_eq!(verified.huge, backing.huge);
    }
    drop(reader);
    assert!(domain.collect().expect("it runs").removed.is_empty(), "it is in use");

    // Replaced: everybody attached to the old one is told, and keeps its memory.
    let second = case.on(Segment::replace("seg").domain(domain.clone())).build().expect("replaced");
    assert_ne!(second.identity(), first.identity());
    assert!(first.is_superseded() && !second.is_superseded());
    other.tell("superseded?");
    assert_eq!(other.says(), "true");
    assert_eq!(first.verify().expect("intact").resident, case.length);
    other.end_well();
    drop(first);
    assert_eq!(domain.open("seg").expect("the new one").identity(), second.identity());
    let report = domain.collect().expect("it runs");
    assert!(report.removed.is_empty() && report.failed.is_empty(), "{report:?}");
    assert_eq!(domain.list().expect("a list").len(), 1);

    // Removed while held; the name is free at once.
    domain.remove("seg").expect("removed");
    assert!(second.is_superseded());
    refused(domain.open("seg"), ErrorKind::NotFound, "seg");
    refused(domain.remove("seg"), ErrorKind::NotFound, "seg");
    assert_eq!(second.verify().expect("intact").resident, case.length);
    drop(second);
    assert_eq!(scratch.files(), [""; 0]);

    // Left alone: unused, and collected.
    drop(case.create(&domain, "left"));
    let usage = domain.list().expect("a list")[0].usage;
    let mortal = case.kind == BackingKind::Memfd;
    assert_eq!(usage, if mortal { Usage::Broken } else { Usage::Unused });
    let report = domain.collect().expect("it runs");
    assert_eq!(report.removed.len(), 1, "{report:?}");
    assert_eq!(report.removed[0].bytes, if mortal { 0 } else { case.length });
    assert_eq!(report.removed[0].name, "left");
    assert!(report.failed.is_empty(), "{report:?}");
    assert!(domain.list().expect("a list").is_empty());

    // Gone with its creator, where that was asked for.
    drop(case.on(domain.create("brief")).unlink_on_drop(true).build().expect("created"));
    assert_eq!(scratch.files(), [""; 0]);
}

fn opener() {
    let domain = domain(Path::new(&child::argument(0)));
    let segment = domain.open(&child::argument(1)).expect("it is there");
    let page = segment.page_size();
    child::say(format_args!(
        "{} {} {page} {}",
        segment.identity(),
        segment.len(),
        segment.is_read_only()
    ));
    let truth = smaps::of_inode(child::argument(2).parse().expect("a number"), &child::argument(3));
    child::say(format_args!("{} {}", truth.mapped, truth.kernel_page));
    while child::hear().is_some() {
        child::say(segment.is_superseded());
    }
}

#[test]
fn hugetlbfs_2m_lives_its_whole_life() {
    let _quiet = Quiet::begin();
    let (Some(_pages), Some(mount)) = (pages(M2, 4), PrivateMount::hugetlbfs(M2, None)) else {
        return;
    };
    let mut case = Case::new(Rung::Huge(M2), BackingKind::Hugetlbfs, 2);
    case.mount = Some(mount.path());
    whole_life(&case);
}

#[test]
fn hugetlbfs_1g_lives_its_whole_life() {
    let _quiet = Quiet::begin();
    let size = PageSize::SIZE_1G;
    let (Some(_pages), Some(mount)) = (pages(size, 2), PrivateMount::hugetlbfs(size, None)) else {
        return;
    };
    let mut case = Case::new(Rung::Huge(size), BackingKind::Hugetlbfs, 1);
    case.mount = Some(mount.path());
    whole_life(&case);
}

#[test]
fn sysv_2m_lives_its_whole_life() {
    let _quiet = Quiet::begin();
    let Some(_pages) = pages(M2, 4) else { return };
    let shm = hugeshm::pages::shm_limits();
    if !shm.may_use_hugetlb {
        return crate::common::lacks_pages(&shm.reason);
    }
    whole_life(&Case::new(Rung::Huge(M2), BackingKind::Sysv, 2));
}

#[test]
fn named_hugetlb_memfd_2m_lives_its_whole_life() {
    let _quiet = Quiet::begin();
    let Some(_pages) = pages(M2, 4) else { return };
    whole_life(&Case::new(Rung::Huge(M2), BackingKind::Memfd, 2));
}

#[test]
fn tmpfs_with_transparent_huge_pages_lives_its_whole_life() {
    let _quiet = Quiet::begin();
    if hugeshm::pages::thp().pmd_size != Some(M2) {
        return crate::common::skip("this kernel forms no transparent huge pages of 2M");
    }
    whole_life(&Case::new(Rung::Thp, BackingKind::Tmpfs, 1024));
}

#[test]
fn tmpfs_on_base_pages_lives_its_whole_life() {
    let _quiet = Quiet::begin();
    whole_life(&Case::new(Rung::Base, BackingKind::Tmpfs, 33));
}

#[test]
fn plain_memfd_lives_its_whole_life() {
    let _quiet = Quiet::begin();
    whole_life(&Case::new(Rung::Base, BackingKind::Memfd, 33));
}

#[test]
fn unnamed_memfd_is_passed_over_a_socket_and_lives_as_long_as_somebody_holds_it() {
    let _quiet = Quiet::begin();
    let mut cases = vec![Case::new(Rung::Base, BackingKind::Memfd, 33)];
    let pages = pages(M2, 2);
    cases.extend(pages.iter().map(|_| Case::new(Rung::Huge(M2), BackingKind::Memfd, 2)));
    for case in cases {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
        let path = path.display().to_string();
        let mut receiver = Child::start("backings::receiver", &[&path]);
        let segment = Segment::unnamed()
            .pages(PagePolicy::exactly(case.rung))
            .size(case.length)
            .build()
            .unwrap_or_else(|error| panic!("{case:?}: {error}"));
        let (socket, _) = listener.accept().expect("the child connects");
        segment.send_over(&socket).expect("sent");
        assert_eq!(receiver.says(), format!("{} {}", segment.identity(), case.length));
        drop(segment);
        drop(socket);
        // The child is the only holder now.
        receiver.tell("verify");
        assert_eq!(receiver.says(), format!("{}", case.length));
        receiver.end_well();
    }
}

fn receiver() {
    let socket = UnixStream::connect(child::argument(0)).expect("the parent listens");
    let segment = Segment::receive_from(&socket).expect("a segment comes");
    child::say(format_args!("{} {}", segment.identity(), segment.len()));
    while child::hear().is_some() {
        child::say(segment.verify().expect("intact").resident);
    }
}

#[test]
fn a_named_memfd_is_found_through_any_holder_that_is_left() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let domain = scratch.domain();
    let case = Case::new(Rung::Base, BackingKind::Memfd, 33);
    let folder = scratch.path().display().to_string();
    let segment = case.create(&domain, "m");
    let holder = |child: &mut Child| child.says();
    let mut first = Child::start("backings::opener", &[&folder, "m", "0", "x"]);
    holder(&mut first);
    let fd: i32 = scratch.control_value("m", "holder").split(' ').nth(1).unwrap().parse().unwrap();
    drop(segment);
    // The creator lives on, and its descriptor's number now belongs to another file.
    let mut others = Vec::new();
    while !Path::new(&format!("/proc/self/fd/{fd}")).exists() {
        others.push(std::fs::File::open("/dev/null").expect("always there"));
    }
    let again = domain.open("m").expect("it is found through the other holder");
    assert_eq!(again.verify().expect("intact").resident, case.length);
    drop(others);
    first.end_well();
    let third = domain.open("m").expect("it is found through ourselves");
    drop((again, third));
    domain.remove("m").expect("the name is left");
}

/// The roles of this file.
pub fn play(role: &str) -> bool {
    match role {
        "backings::opener" => opener(),
        "backings::receiver" => receiver(),
        _ => return false,
    }
    true
}

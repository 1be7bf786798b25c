//! Every kind of object on every kind of page, on the live kernel, and what is left afterwards.
#![expect(unsafe_code, reason = "a test writes to its own mapping")]

use super::create::create_private;
use super::testing::{
    HugetlbTree, OwnCgroup, OwnMount, Reserved, enter_cgroup, part_of_child, reserve_pages,
    run_in_child,
};
use super::*;
use crate::error::{Error, ErrorKind, Refusal, RefusalCode};
use crate::numa::NodeSet;
use crate::size::PageSize;
use crate::sys::sysv;
use crate::view::Memory;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

const M: u64 = 1 << 20;
const SIZE_2M: PageSize = PageSize::SIZE_2M;

/// What a test asks for, with the defaults of everything else.
struct Ask<'a> {
    length: u64,
    pages: PagePolicy,
    backings: &'a [BackingKind],
    mount: Option<&'a Path>,
    lifetime: Lifetime,
    placement: Placement,
    populate: Populate,
}

impl<'a> Ask<'a> {
    fn new(length: u64, pages: &str, backings: &'a [BackingKind]) -> Self {
        Self {
            length,
            pages: pages.parse().unwrap(),
            backings,
            mount: None,
            lifetime: Lifetime::WithHolders,
            placement: Placement::Default,
            populate: Populate::Full,
        }
    }

    fn create(&self) -> Result<Made> {
        self.create_announced(&mut |_| Ok(()))
    }

    fn create_announced(&self, before: &mut dyn FnMut(&Taking) -> Result<()>) -> Result<Made> {
        create(self.request(before)).map(|created| Made(Some(created)))
    }

    fn request<'r>(
        &'r self,
        before: &'r mut dyn FnMut(&Taking) -> Result<()>,
    ) -> CreateRequest<'r> {
        CreateRequest {
            length: self.length,
            pages: &self.pages,
            backings: self.backings,
            mount: self.mount,
            tmpfs_dir: Path::new("/dev/shm"),
            mode: 0o640,
            lifetime: self.lifetime,
            placement: &self.placement,
            populate: self.populate,
            progress: None,
            before_take: before,
            name: "test",
        }
    }
}

/// What a test made; discarded even where the test fails, for System V segments outlive it.
struct Made(Option<Created>);

impl Made {
    fn discard(self) {}
}

impl std::ops::Deref for Made {
    type Target = Created;
    fn deref(&self) -> &Created {
        self.0.as_ref().expect("there until it is dropped")
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if let Some(created) = self.0.take() {
            created.discard();
        }
    }
}

fn failed(outcome: Result<Made>) -> Error {
    match outcome {
        Ok(created) => panic!("it was created: {}", created.backing),
        Err(error) => error,
    }
}

fn only_refusal(error: &Error) -> &Refusal {
    assert_eq!(error.kind(), ErrorKind::OutOfPages, "{error}");
    assert_eq!(error.refusals().len(), 1, "{error}");
    &error.refusals()[0]
}

/// The first and the last byte hold what is written there.
fn assert_usable(mapping: &Mapping) {
    for offset in [0, mapping.len() - 8] {
        // SAFETY: the offset is inside the mapping and a multiple of 8.
        let word = unsafe { mapping.base().add(offset) }.cast::<AtomicU64>();
        // SAFETY: a mapped, aligned word, which is zero or what was stored.
        let word = unsafe { word.as_ref() };
        assert_eq!(word.load(Ordering::Relaxed), 0, "new memory is zeroed");
        word.store(7, Ordering::Relaxed);
        assert_eq!(word.load(Ordering::Relaxed), 7);
    }
}

fn assert_truthful(created: &Created, length: u64, page: PageSize) {
    let Created { backing, mapping, object } = created;
    assert_eq!(backing.length, page.round_up(length).unwrap(), "{backing}");
    assert_eq!(mapping.len() as u64, backing.length);
    assert_eq!((backing.page_size, mapping.page_size(), object.page_size()), (page, page, page));
    assert_eq!(backing.resident, backing.length, "{backing}");
    assert_eq!(backing.nodes.iter().map(|share| share.bytes).sum::<u64>(), backing.length);
    assert_eq!(backing.kind, object.kind());
    assert_usable(mapping);
}

/// Each kind of huge page object of one size is made, is what it says, and leaves nothing.
fn every_huge_backing(size: PageSize, length: u64, pages: &Reserved, mount: &Path) {
    let before = pages.counters();
    for kind in [BackingKind::Hugetlbfs, BackingKind::Sysv, BackingKind::Memfd] {
        let backings = [kind];
        let mut ask = Ask::new(length, &size.to_string(), &backings);
        ask.mount = Some(mount);
        ask.populate = Populate::Parallel(0);
        let mut taken = Vec::new();
        let created = ask
            .create_announced(&mut |taking| {
                taken.push(taking.clone());
                Ok(())
            })
            .unwrap();
        assert_truthful(&created, length, size);
        assert_eq!(created.backing.huge, created.backing.length);
        assert_eq!(created.backing.measured, How::PagemapScan);
        let mapping = &created.mapping;
        let smaps = super::measure::smaps_present(mapping.base(), mapping.len()).unwrap();
        assert_eq!((smaps.resident, smaps.huge), (created.backing.length, created.backing.huge));
        assert_eq!(taken.len(), 1, "{taken:?}");
        assert_eq!((taken[0].kind, taken[0].rung), (kind, Rung::Huge(size)));
        assert_ne!(pages.counters(), before, "{kind} took no pages");
        created.discard();
        pages.assert_as(before, &format!("{kind} left pages behind"));
    }
    let policy = PagePolicy::exactly(Rung::Huge(size));
    let (mapping, backing) =
        create_private(length, &policy, &Placement::Default, Populate::Full, None).unwrap();
    assert_eq!((backing.kind, backing.page_size), (BackingKind::Anonymous, size));
    assert_eq!((backing.huge, backing.resident), (backing.length, backing.length));
    assert_usable(&mapping);
    drop(mapping);
    pages.assert_as(before, "private memory left pages behind");
}

#[test]
fn every_kind_of_object_on_2m_pages_tells_the_truth_and_gives_them_back() {
    let Some(pages) = reserve_pages(SIZE_2M, 4) else {
        return;
    };
    let Some(mount) = OwnMount::new(SIZE_2M, "mode=0755") else {
        return;
    };
    every_huge_backing(SIZE_2M, 5 * M + 1, &pages, &mount.path());
}

#[test]
fn every_kind_of_object_on_1g_pages_tells_the_truth_and_gives_them_back() {
    let Some(pages) = reserve_pages(PageSize::SIZE_1G, 1) else {
        return;
    };
    let Some(mount) = OwnMount::new(PageSize::SIZE_1G, "mode=0755") else {
        return;
    };
    every_huge_backing(PageSize::SIZE_1G, 1, &pages, &mount.path());
}

#[test]
fn an_exhausted_pool_is_a_refusal_with_numbers_for_every_kind_and_takes_nothing() {
    let Some(pages) = reserve_pages(SIZE_2M, 2) else {
        return;
    };
    let Some(mount) = OwnMount::new(SIZE_2M, "mode=0755") else {
        return;
    };
    let path = mount.path();
    let before = pages.counters();
    let length = (pages.available() + 1) * SIZE_2M.bytes();
    for kind in [BackingKind::Hugetlbfs, BackingKind::Sysv, BackingKind::Memfd] {
        let backings = [kind];
        let mut ask = Ask::new(length, "2M", &backings);
        ask.mount = Some(&path);
        let error = failed(ask.create());
        let refusal = only_refusal(&error);
        assert_eq!((refusal.code, refusal.backing), (RefusalCode::PoolTooSmall, kind), "{error}");
        assert_eq!(refusal.errno, Some(nix::errno::Errno::ENOMEM));
        assert!(refusal.numbers.contains("available"), "{error}");
        assert!(!refusal.remedy.is_empty(), "{error}");
        pages.assert_as(before, &format!("{kind} left pages behind"));
    }
    let policy = PagePolicy::exactly(Rung::Huge(SIZE_2M));
    let private = create_private(length, &policy, &Placement::Default, Populate::Full, None);
    assert_eq!(only_refusal(&private.unwrap_err()).code, RefusalCode::PoolTooSmall);
    pages.assert_as(before, "the end");
}

#[test]
fn a_mount_quota_is_named_with_its_numbers_and_the_ladder_goes_on() {
    let Some(pages) = reserve_pages(SIZE_2M, 4) else {
        return;
    };
    let Some(mount) = OwnMount::new(SIZE_2M, "mode=0755,size=4M") else {
        return;
    };
    let path = mount.path();
    let before = pages.counters();
    let mut ask = Ask::new(6 * M, "2M", &[BackingKind::Hugetlbfs]);
    ask.mount = Some(&path);
    let error = failed(ask.create());
    let refusal = only_refusal(&error);
    assert_eq!(refusal.code, RefusalCode::MountQuota, "{error}");
    assert!(refusal.numbers.contains("needs 6 MiB, the mount has 4 MiB of 4 MiB free"), "{error}");
    ask.backings = &[];
    let created = ask.create().unwrap();
    assert_eq!(created.backing.rung, Rung::Huge(SIZE_2M));
    assert!(created.backing.refusals.iter().any(|r| r.code == RefusalCode::MountQuota));
    created.discard();
    pages.assert_as(before, "the end");
}

#[test]
fn a_mount_without_room_for_a_file_is_a_quota() {
    let Some(pages) = reserve_pages(SIZE_2M, 1) else {
        return;
    };
    let Some(mount) = OwnMount::new(SIZE_2M, "nr_inodes=1,size=4M") else {
        return;
    };
    let path = mount.path();
    let mut ask = Ask::new(1, "2M", &[BackingKind::Hugetlbfs]);
    ask.mount = Some(&path);
    let error = failed(ask.create());
    assert_eq!(only_refusal(&error).code, RefusalCode::MountQuota, "{error}");
    assert!(error.to_string().contains("0 more files"), "{error}");
    drop(pages);
}

#[test]
fn a_mount_that_can_not_be_meant_is_named_with_what_it_is() {
    let Some(mount) = OwnMount::new(SIZE_2M, "mode=0755") else {
        return;
    };
    let path = mount.path();
    let inside = path.join("inside");
    std::fs::create_dir(&inside).unwrap();
    let attempt = |mount: &Path, pages: &str| {
        let mut ask = Ask::new(1, pages, &[]);
        ask.mount = Some(mount);
        failed(ask.create()).to_string()
    };
    for (mount, pages, word) in [
        (Path::new("/dev/shm"), "auto", "tmpfs"),
        (Path::new("/proc"), "auto", "not on hugetlbfs"),
        (Path::new("/nowhere"), "auto", "can not be reached"),
        (inside.as_path(), "auto", "inside the mount"),
        (path.as_path(), "1G", "pages of 2M"),
    ] {
        let text = attempt(mount, pages);
        assert!(text.contains(word) && text.contains(mount.to_str().unwrap()), "{text}");
    }
    std::fs::remove_dir(inside).unwrap();
    let remount = |how: &str| {
        let status = std::process::Command::new("mount").args(["-o", how]).arg(&path).status();
        assert!(status.unwrap().success());
    };
    remount("remount,bind,ro");
    let text = attempt(&path, "2M");
    remount("remount,bind,rw");
    assert!(text.contains("read-only"), "{text}");
}

#[test]
fn base_and_merged_pages_tell_the_truth_on_tmpfs_memfd_and_private_memory() {
    let length = 5 * M + 1;
    for kind in [BackingKind::Tmpfs, BackingKind::Memfd] {
        let backings = [kind];
        let base = Ask::new(length, "base", &backings).create().unwrap();
        assert_truthful(&base, length, numbers::base_page());
        assert_eq!((base.backing.rung, base.backing.huge), (Rung::Base, 0));
        base.discard();
        let merged = Ask::new(length, "thp", &backings).create().unwrap();
        assert_truthful(&merged, length, numbers::base_page());
        assert_eq!(merged.backing.rung, Rung::Thp);
        assert_eq!(merged.backing.huge, 4 * M, "{}", merged.backing);
        assert_eq!(merged.mapping.base().as_ptr().addr() % (2 << 20), 0);
        merged.discard();
    }
    for (rung, huge) in [(Rung::Base, 0), (Rung::Thp, 4 * M)] {
        let policy = PagePolicy::exactly(rung);
        let (mapping, backing) =
            create_private(length, &policy, &Placement::Default, Populate::Parallel(2), None)
                .unwrap();
        assert_eq!((backing.resident, backing.huge), (backing.length, huge), "{backing}");
        assert_usable(&mapping);
    }
}

#[test]
fn what_memory_can_not_hold_is_refused_before_a_page_is_touched() {
    let length = pages_of_machine() + (1 << 30);
    for pages in ["base", "thp"] {
        let error = failed(Ask::new(length, pages, &[]).create());
        let refusal = only_refusal(&error);
        assert_eq!(refusal.code, RefusalCode::MemoryLimit, "{error}");
        assert_eq!(refusal.call, "check");
    }
}

fn pages_of_machine() -> u64 {
    crate::pages::memory().total
}

#[test]
fn the_mode_survives_the_umask_and_a_name_is_given_once() {
    let created = Ask::new(1, "base", &[]).create().unwrap();
    let Object::File { fd, .. } = &created.object else { panic!("{:?}", created.object) };
    assert_eq!(facts(fd.as_fd()).unwrap().mode, 0o640);
    let name = format!("hugeshm-region-test-{}", std::process::id());
    link(&created.object, &name).unwrap();
    let path = Path::new("/dev/shm").join(&name);
    let again = link(&created.object, &name);
    let opened = open_file(&path, true);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(again.unwrap_err().kind(), ErrorKind::AlreadyExists);
    let opened = opened.unwrap();
    let (one, other) = (facts(fd.as_fd()).unwrap(), facts(opened.as_fd()).unwrap());
    assert_eq!(one, other);
    assert_eq!(one.kind, Some(BackingKind::Tmpfs));
}

#[test]
fn opening_more_than_the_file_holds_is_refused_and_the_file_does_not_grow() {
    let Some(pages) = reserve_pages(SIZE_2M, 4) else {
        return;
    };
    let before = pages.counters();
    let created = Ask::new(2 * M, "2M", &[BackingKind::Memfd]).create().unwrap();
    let Object::File { fd, .. } = &created.object else { panic!("{:?}", created.object) };
    for writable in [true, false] {
        let longer = map_file(fd.as_fd(), 2 * M + 1, writable, SIZE_2M, false);
        assert_eq!(longer.unwrap_err().kind(), ErrorKind::Corrupt);
    }
    assert!(map_file(fd.as_fd(), 1, true, PageSize::SIZE_4K, false).is_err(), "a wrong page size");
    let seen = facts(fd.as_fd()).unwrap();
    assert_eq!((seen.size, seen.kind), (2 * M, Some(BackingKind::Memfd)));
    assert_usable(&created.mapping);
    let opened = map_file(fd.as_fd(), 1, false, SIZE_2M, false).unwrap();
    assert_eq!((opened.len() as u64, opened.writable()), (2 * M, false));
    fault_in(&opened).unwrap();
    let measured = measure(&opened, BackingKind::Memfd).unwrap();
    assert_eq!((measured.huge, measured.page_size), (2 * M, SIZE_2M));
    drop(opened);
    created.discard();
    pages.assert_as(before, "the end");
}

#[test]
fn a_sysv_segment_is_found_by_the_key_announced_and_opened_by_id() {
    let Some(pages) = reserve_pages(SIZE_2M, 2) else {
        return;
    };
    let before = pages.counters();
    let mut keys = Vec::new();
    let created = Ask::new(3 * M, "2M", &[BackingKind::Sysv])
        .create_announced(&mut |taking| {
            keys.extend(taking.sysv_key);
            Ok(())
        })
        .unwrap();
    let Object::Sysv { id, key, .. } = created.object else { panic!("{:?}", created.object) };
    assert_eq!(keys, [key]);
    assert_eq!(sysv::find(key), Ok(id));
    let seen = sysv::facts(id).unwrap();
    assert_eq!((seen.key, seen.length, seen.mode), (key, 4 * M, 0o640));
    assert_eq!((seen.attached, seen.removed), (1, false));
    assert_eq!(map_sysv(id, 4 * M + 1, true).unwrap_err().kind(), ErrorKind::Corrupt);
    let opened = map_sysv(id, 3 * M, false).unwrap();
    assert_eq!((opened.len() as u64, opened.page_size()), (4 * M, SIZE_2M));
    drop(opened);
    created.discard();
    assert!(sysv::facts(id).is_err());
    pages.assert_as(before, "the end");
}

#[test]
fn an_error_of_the_announcement_ends_the_creation_and_leaves_nothing() {
    let Some(pages) = reserve_pages(SIZE_2M, 1) else {
        return;
    };
    let before = pages.counters();
    let stop = || Error::new(ErrorKind::Cancelled, "record intent", "test");
    for kind in [BackingKind::Sysv, BackingKind::Memfd] {
        let outcome = Ask::new(1, "2M", &[kind]).create_announced(&mut |_| Err(stop()));
        assert_eq!(failed(outcome).kind(), ErrorKind::Cancelled);
        pages.assert_as(before, "the end");
    }
}

#[test]
fn pages_are_bound_to_a_node_and_absent_nodes_are_named() {
    let Some(pages) = reserve_pages(SIZE_2M, 2) else {
        return;
    };
    let before = pages.counters();
    let node = crate::numa::with_memory().iter().next().unwrap();
    for kind in [BackingKind::Sysv, BackingKind::Memfd] {
        let backings = [kind];
        let mut ask = Ask::new(1, "2M", &backings);
        ask.placement = Placement::node(node);
        let created = ask.create().unwrap();
        assert_eq!(created.backing.nodes, [NodeShare { node, bytes: 2 * M }]);
        created.discard();
        ask.length = (pages.available() + 1) * SIZE_2M.bytes();
        let error = failed(ask.create());
        assert_eq!(only_refusal(&error).code, RefusalCode::NodeTooSmall, "{error}");
    }
    pages.assert_as(before, "the end");
    let mut ask = Ask::new(1, "base", &[]);
    ask.placement = Placement::Bind(NodeSet::from(900));
    let error = failed(ask.create());
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("node 900"), "{error}");
}

#[test]
fn under_auto_the_report_says_why_better_pages_were_not_taken() {
    let mut ask = Ask::new(3 * M, "auto", &[BackingKind::Tmpfs]);
    ask.lifetime = Lifetime::Persistent;
    let created = ask.create().unwrap();
    assert_eq!(created.backing.rung, Rung::Thp, "{:#}", created.backing);
    created.discard();
    // Longer than any pool here, shorter than memory: refused by every huge kind in turn.
    let pool = crate::pages::pool(SIZE_2M).unwrap().map_or(0, |pool| pool.available());
    ask.length = (pool + 64) * SIZE_2M.bytes();
    ask.backings = &[];
    ask.pages = PagePolicy::auto().max_waste(2 << 20, 1);
    let created = ask.create().unwrap();
    let codes: Vec<_> = created.backing.refusals.iter().map(|r| (r.rung, r.code)).collect();
    let rung = Rung::Huge(SIZE_2M);
    // Who may neither use a mount nor make System V segments is refused before the pool is asked.
    let asks_the_pool = nix::unistd::geteuid().is_root();
    let too_small = codes.contains(&(rung, RefusalCode::PoolTooSmall));
    assert!(too_small || !asks_the_pool, "{:#}", created.backing);
    assert!(codes.contains(&(rung, RefusalCode::Lifetime)), "{:#}", created.backing);
    assert_eq!(created.backing.rung, Rung::Thp);
    created.discard();
}

#[test]
fn lengths_that_can_not_be_are_typed_errors() {
    assert_eq!(failed(Ask::new(0, "auto", &[]).create()).kind(), ErrorKind::InvalidSize);
    for length in [u64::MAX, u64::MAX - (4 << 20), 1 << 63, 1 << 62, 1 << 48] {
        for pages in ["auto", "base", "2M"] {
            let error = failed(Ask::new(length, pages, &[]).create());
            assert!(
                matches!(error.kind(), ErrorKind::OutOfPages | ErrorKind::InvalidSize),
                "{length} {pages}: {error}"
            );
        }
    }
}

#[test]
fn a_hugetlb_cgroup_limit_is_an_error_where_a_touch_would_be_a_signal() {
    if let Some(cgroup) = part_of_child() {
        enter_cgroup(&cgroup);
        for kind in [BackingKind::Memfd, BackingKind::Sysv] {
            let error = failed(Ask::new(6 * M, "2M", &[kind]).create());
            let refusal = only_refusal(&error);
            assert_eq!(refusal.code, RefusalCode::CgroupLimit, "{error}");
            assert!(refusal.numbers.contains("leaves") && refusal.errno.is_some(), "{error}");
        }
        let policy = PagePolicy::exactly(Rung::Huge(SIZE_2M));
        let private = create_private(6 * M, &policy, &Placement::Default, Populate::Full, None);
        assert_eq!(only_refusal(&private.unwrap_err()).code, RefusalCode::CgroupLimit);
        return;
    }
    let Some(pages) = reserve_pages(SIZE_2M, 4) else {
        return;
    };
    let Some(tree) = HugetlbTree::new() else {
        return;
    };
    let before = pages.counters();
    for file in ["hugetlb.2MB.max", "hugetlb.2MB.rsvd.max"] {
        let Some(cgroup) = OwnCgroup::new(tree.path(), file, "4194304") else {
            return;
        };
        let name = "a_hugetlb_cgroup_limit_is_an_error_where_a_touch_would_be_a_signal";
        run_in_child(&format!("region::tests::{name}"), cgroup.path());
        pages.assert_as(before, file);
    }
}

#[test]
fn a_memory_cgroup_limit_is_refused_before_the_kernel_would_kill() {
    if let Some(cgroup) = part_of_child() {
        enter_cgroup(&cgroup);
        for pages in ["base", "thp"] {
            let error = failed(Ask::new(256 * M, pages, &[]).create());
            let refusal = only_refusal(&error);
            assert_eq!(refusal.code, RefusalCode::MemoryLimit, "{error}");
            assert!(refusal.numbers.contains("memory cgroup"), "{error}");
        }
        return;
    }
    let table = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = table.lines().find_map(|line| line.split_once(":memory:")).map(|(_, path)| path);
    let Some(own) = own else {
        testing::skip("no cgroup-v1 memory hierarchy");
        return;
    };
    let parent = format!("/sys/fs/cgroup/memory{own}");
    let limit = (128 * M).to_string();
    let Some(cgroup) = OwnCgroup::new(&parent, "memory.limit_in_bytes", &limit) else {
        return;
    };
    let name = "a_memory_cgroup_limit_is_refused_before_the_kernel_would_kill";
    run_in_child(&format!("region::tests::{name}"), cgroup.path());
}

#[test]
fn a_creator_killed_half_way_leaves_no_pages_but_a_segment_under_its_key() {
    if let Some(key_file) = part_of_child() {
        let (kind, path) = key_file.split_once(' ').unwrap();
        let kind = if kind == "sysv" { BackingKind::Sysv } else { BackingKind::Memfd };
        let backings = [kind];
        let mut ask = Ask::new(4 * M, "2M", &backings);
        ask.populate = Populate::Full;
        let mut announce = |taking: &Taking| {
            if let Some(key) = taking.sysv_key {
                std::fs::write(path, key.to_string()).unwrap();
            }
            Ok(())
        };
        let kill = |_, _| {
            let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
        };
        let _ = create(CreateRequest { progress: Some(&kill), ..ask.request(&mut announce) });
        return;
    }
    let Some(pages) = reserve_pages(SIZE_2M, 2) else {
        return;
    };
    let before = pages.counters();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    for kind in ["memfd", "sysv"] {
        let name = "a_creator_killed_half_way_leaves_no_pages_but_a_segment_under_its_key";
        let child = testing::child(&format!("region::tests::{name}"))
            .env(testing::CHILD, format!("{kind} {}", path.display()))
            .status()
            .unwrap();
        assert!(!child.success(), "the child was to be killed");
        if kind == "sysv" {
            let key: i32 = std::fs::read_to_string(&path).unwrap().parse().unwrap();
            let id = sysv::find(key).expect("the orphan is found by its key");
            assert_eq!(sysv::facts(id).unwrap().attached, 0);
            sysv::remove(id).unwrap();
        }
        pages.assert_as(before, kind);
    }
}

#[test]
fn signals_without_end_do_not_keep_pages_from_being_faulted_in() {
    extern "C" fn nothing(_: libc::c_int) {}
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing, which is allowed at any moment.
    unsafe { sigaction(Signal::SIGURG, &action) }.unwrap();
    // SAFETY: `pthread_self` has no conditions.
    let here = unsafe { libc::pthread_self() };
    let (stop, sent) = (std::sync::atomic::AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // SAFETY: the thread lives: it waits at the end of the scope.
                unsafe { libc::pthread_kill(here, libc::SIGURG) };
                sent.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(std::time::Duration::from_micros(50));
            }
        });
        for pages in ["base", "thp"] {
            let created = Ask::new(96 * M, pages, &[]).create();
            if created.is_err() {
                stop.store(true, Ordering::Relaxed);
            }
            assert_eq!(created.unwrap().backing.resident, 96 * M);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(sent.into_inner() > 10, "the signals never came");
}

#[test]
fn a_forked_child_and_its_parent_see_the_same_pages() {
    let Some(pages) = reserve_pages(SIZE_2M, 1) else { return };
    let before = pages.counters();
    let created = Ask::new(1, "2M", &[BackingKind::Memfd]).create().unwrap();
    // SAFETY: the mapping is longer than a word and begins at a page.
    let word = unsafe { created.mapping.base().cast::<AtomicU64>().as_ref() };
    // SAFETY: the child only stores a word and leaves, which is allowed after a fork.
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Child => {
            word.store(11, Ordering::Release);
            // SAFETY: `_exit` has no conditions.
            unsafe { libc::_exit(0) }
        }
        nix::unistd::ForkResult::Parent { child } => {
            let status = nix::sys::wait::waitpid(child, None).unwrap();
            assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child, 0));
        }
    }
    assert_eq!(word.load(Ordering::Acquire), 11);
    drop(created);
    pages.assert_as(before, "the end");
}

#[test]
fn the_remedy_on_top_is_the_one_that_helps_and_every_refusal_has_its_own() {
    let Some(pages) = reserve_pages(SIZE_2M, 1) else { return };
    let mut ask = Ask::new((pages.available() + 1) * SIZE_2M.bytes(), "2M", &[]);
    ask.lifetime = Lifetime::Persistent;
    let error = failed(ask.create());
    assert!(error.way_out().contains("reserve 2M"), "{error}");
    assert!(error.refusals().iter().all(|refusal| !refusal.remedy.is_empty()), "{error}");
    ask.pages = PagePolicy::exactly(Rung::Huge(PageSize::new(1 << 23).unwrap()));
    let error = failed(ask.create());
    assert_eq!(error.kind(), ErrorKind::UnknownPageSize);
    assert!(error.to_string().contains("2M"), "the sizes of the machine: {error}");
}

/// Takes every other hugetlbfs out of this process's sight: the machine may have any.
fn see_only_the_mount(own: &std::path::Path) {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    for other in crate::pages::mounts().unwrap().iter().filter(|mount| mount.path != own) {
        umount2(&other.path, MntFlags::MNT_DETACH).unwrap();
    }
}

#[test]
fn a_user_without_rights_is_told_which_and_gets_pages_where_none_are_needed() {
    if let Some(own) = part_of_child() {
        see_only_the_mount(std::path::Path::new(&own));
        let nobody = 65534;
        nix::unistd::setgroups(&[]).unwrap();
        nix::unistd::setgid(nix::unistd::Gid::from_raw(nobody)).unwrap();
        nix::unistd::setuid(nix::unistd::Uid::from_raw(nobody)).unwrap();
        let created = Ask::new(1, "2M", &[]).create().unwrap();
        let codes: Vec<_> = created.backing.refusals.iter().map(|r| (r.backing, r.code)).collect();
        let expected = [
            (BackingKind::Hugetlbfs, RefusalCode::MountNotWritable),
            (BackingKind::Sysv, RefusalCode::ShmNotPermitted),
        ];
        assert_eq!(codes, expected, "{:#}", created.backing);
        assert_truthful(&created, 1, SIZE_2M);
        assert_eq!(created.backing.kind, BackingKind::Memfd);
        // A process that changed its user may not read its own pagemap; smaps it may.
        assert_eq!((created.backing.measured, created.backing.huge), (How::Smaps, 2 * M));
        assert!(created.backing.refusals.iter().all(|refusal| !refusal.remedy.is_empty()));
        return;
    }
    let Some(pages) = reserve_pages(SIZE_2M, 1) else { return };
    let Some(mount) = OwnMount::new(SIZE_2M, "mode=0755") else { return };
    let before = pages.counters();
    let name = "a_user_without_rights_is_told_which_and_gets_pages_where_none_are_needed";
    run_in_child(&format!("region::tests::{name}"), &mount.path().display().to_string());
    pages.assert_as(before, "the end");
}

//! Huge pages for tests: taken from the machine, and given back.
//!
//! Other test processes use the same pools, so a test adds what it needs to what
//! is there and gives the same amount back, and whoever compares counters is
//! alone meanwhile: the lock is a file, held as long as the pages are.

use crate::pages;
use crate::size::PageSize;
use nix::fcntl::Flock;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

/// Says aloud why a test can not run; past the test harness, which keeps what passing tests print.
pub(crate) fn skip(reason: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "SKIP {test}: {reason}");
}

/// Tells a child process its part.
pub(crate) const CHILD: &str = "HUGESHM_TEST_CHILD";

/// Pages added to a pool; taken away again when dropped.
pub(crate) struct Reserved {
    size: PageSize,
    added: u64,
    _alone: Flock<File>,
}

/// Adds `pages` pages of `size` to the pool, which nobody else changes until the answer is dropped.
///
/// `None`, after saying SKIP and why, where the machine can not give them. That is a failure where
/// the environment variable `HUGESHM_REQUIRE_HUGEPAGES` is `1`; for pages larger than 2 MiB only
/// where `HUGESHM_REQUIRE_GIGANTIC_PAGES` is `1`, too, for memory in one piece may be short.
pub(crate) fn reserve_pages(size: PageSize, pages: u64) -> Option<Reserved> {
    let alone = pages::testing::lock(size);
    let before = total(size);
    let wanted = before.map_or(0, |before| before + pages);
    let mut reserved = Reserved { size, added: 0, _alone: alone };
    // Gigantic pages that are there already are used: more may not be found at run time.
    let free = pages::pool(size).ok().flatten().map_or(0, |pool| pool.available());
    if size > PageSize::SIZE_2M && free >= pages {
        return Some(reserved);
    }
    if before.is_some() && write(size, wanted) {
        reserved.added = total(size).unwrap_or(0).saturating_sub(before.unwrap_or(0));
    }
    if before.is_some() && reserved.added >= pages {
        return Some(reserved);
    }
    let got = reserved.added;
    drop(reserved);
    let reason = format!("{pages} pages of {size} were wanted, the machine gave {got}");
    let is_on = |variable| std::env::var_os(variable).is_some_and(|value| value == "1");
    let required = is_on("HUGESHM_REQUIRE_HUGEPAGES")
        && (size <= PageSize::SIZE_2M || is_on("HUGESHM_REQUIRE_GIGANTIC_PAGES"));
    assert!(!required, "huge pages are promised here: {reason}");
    skip(&reason);
    None
}

fn total(size: PageSize) -> Option<u64> {
    pages::pool(size).ok().flatten().map(|pool| pool.total - pool.surplus)
}

fn write(size: PageSize, pages: u64) -> bool {
    let kib = size.bytes() >> 10;
    let path = format!("/sys/kernel/mm/hugepages/hugepages-{kib}kB/nr_hugepages");
    std::fs::write(path, pages.to_string()).is_ok()
}

impl Reserved {
    /// Free, promised and surplus pages, which must be the same before and after.
    pub(crate) fn counters(&self) -> (u64, u64, u64) {
        let pool = pages::pool(self.size).ok().flatten().expect("a pool that gave pages");
        (pool.free, pool.reserved, pool.surplus)
    }

    /// The counters are `before` again, at the latest in a moment: a child that another test is
    /// just starting holds copies of all descriptors of this process until it executes.
    pub(crate) fn assert_as(&self, before: (u64, u64, u64), when: &str) {
        let start = std::time::Instant::now();
        while self.counters() != before && start.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(self.counters(), before, "pages were left behind: {when}");
    }

    /// How many pages a new mapping may have.
    pub(crate) fn available(&self) -> u64 {
        pages::pool(self.size).ok().flatten().map_or(0, |pool| pool.available())
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Some(total) = total(self.size).filter(|_| self.added > 0) {
            write(self.size, total.saturating_sub(self.added));
        }
    }
}

/// Runs the test `name` again in a process of its own, told through the environment that `value`
/// is its part; it must end well, and by no signal.
pub(crate) fn run_in_child(name: &str, value: &str) {
    let status = child(name).env(CHILD, value).status().expect("the test's program starts");
    assert!(status.success(), "{name} as {value}: {status}");
}

/// The test `name` as a program of its own.
pub(crate) fn child(name: &str) -> std::process::Command {
    let program = std::env::current_exe().expect("the test's program");
    let mut command = std::process::Command::new(program);
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]);
    command
}

/// The part that this process plays for [`run_in_child`]; none in the process that starts it.
pub(crate) fn part_of_child() -> Option<String> {
    std::env::var(CHILD).ok()
}

/// The root of the cgroup-v2 tree, handing the hugetlb controller to its children; as it was
/// before when dropped.
pub(crate) struct HugetlbTree {
    root: &'static str,
    was_on: bool,
}

impl HugetlbTree {
    /// Switches the controller on; `None` after saying SKIP.
    pub(crate) fn new() -> Option<Self> {
        let has = |root: &str, file: &str| {
            let list = std::fs::read_to_string(format!("{root}/{file}")).unwrap_or_default();
            list.split_whitespace().any(|name| name == "hugetlb")
        };
        let root = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
            .into_iter()
            .find(|root| has(root, "cgroup.controllers"));
        let tree = root.map(|root| Self { root, was_on: has(root, "cgroup.subtree_control") });
        if tree.as_ref().is_some_and(|tree| tree.was_on || tree.switch("+hugetlb")) {
            return tree;
        }
        skip("no cgroup-v2 tree with the hugetlb controller");
        None
    }

    /// Its folder.
    pub(crate) fn path(&self) -> &str {
        self.root
    }

    fn switch(&self, how: &str) -> bool {
        std::fs::write(format!("{}/cgroup.subtree_control", self.root), how).is_ok()
    }
}

impl Drop for HugetlbTree {
    fn drop(&mut self) {
        if !self.was_on {
            self.switch("-hugetlb");
        }
    }
}

/// A cgroup of its own; removed when dropped, when no process is left in it.
pub(crate) struct OwnCgroup {
    path: PathBuf,
}

impl OwnCgroup {
    /// Makes it inside `parent` and sets `file` to `value`; `None` after saying SKIP.
    pub(crate) fn new(parent: &str, file: &str, value: &str) -> Option<Self> {
        let name = format!("hugeshm-test-{}-{file}", std::process::id());
        let path = PathBuf::from(parent).join(name);
        let made = std::fs::create_dir(&path);
        let group = made.map(|()| Self { path });
        let set = group.and_then(|group| {
            std::fs::write(group.path.join(file), value)?;
            Ok(group)
        });
        set.map_err(|error| skip(&format!("no cgroup with {file} in {parent}: {error}"))).ok()
    }

    /// Its folder.
    pub(crate) fn path(&self) -> &str {
        self.path.to_str().expect("an ASCII path")
    }
}

impl Drop for OwnCgroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.path);
    }
}

/// Moves this process into the cgroup at `path`.
pub(crate) fn enter_cgroup(path: &str) {
    let file = PathBuf::from(path).join("cgroup.procs");
    std::fs::write(file, std::process::id().to_string()).expect("this process may be moved");
}

/// A hugetlbfs mount of its own in a temporary folder; unmounted when dropped.
pub(crate) struct OwnMount {
    dir: tempfile::TempDir,
}

impl OwnMount {
    /// Mounts pages of `size` with further options such as `size=4M`; `None` after saying SKIP.
    pub(crate) fn new(size: PageSize, options: &str) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let bytes = size.bytes();
        let answer = std::process::Command::new("mount")
            .args(["-t", "hugetlbfs", "-o", &format!("pagesize={bytes},{options}"), "none"])
            .arg(dir.path())
            .output();
        match answer {
            Ok(output) if output.status.success() => Some(Self { dir }),
            other => {
                skip(&format!("no private hugetlbfs mount: {other:?}"));
                None
            }
        }
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().canonicalize().expect("the folder exists")
    }
}

impl Drop for OwnMount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.dir.path()).status();
    }
}

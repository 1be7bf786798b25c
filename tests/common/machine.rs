//! The machine's huge pages, borrowed: pools, private mounts, cgroups, counters.

use super::{child, lacks_pages, promised, skip};
use hugeshm::PageSize;
use hugeshm::pages::{self, MountOptions};
use nix::fcntl::{Flock, FlockArg};
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The right to change and to count the pool of one page size.
pub struct PoolLock {
    _file: Flock<File>,
}

/// Waits for all other test processes that take pages, in ascending order of sizes.
pub fn lock_pools() -> Vec<PoolLock> {
    let mut sizes: Vec<PageSize> = pages::pools().iter().map(|pool| pool.size).collect();
    sizes.sort_unstable();
    sizes.into_iter().filter_map(lock_pool).collect()
}

fn lock_pool(size: PageSize) -> Option<PoolLock> {
    use std::os::unix::fs::OpenOptionsExt;
    // The unit tests of the library lock the same file.
    let path = std::env::temp_dir().join(format!("hugeshm-test-pages-{size}.lock"));
    let opened = File::open(&path)
        .or_else(|_| File::options().create(true).append(true).mode(0o644).open(&path));
    // Another user's file that we may not even read: then only our own lock counts.
    let mut file = opened.ok()?;
    loop {
        match Flock::lock(file, FlockArg::LockExclusive) {
            Ok(lock) => return Some(PoolLock { _file: lock }),
            Err((back, nix::errno::Errno::EINTR)) => file = back,
            Err((_, errno)) => panic!("lock {}: {errno}", path.display()),
        }
    }
}

/// What of a pool is taken and promised. Free pages may come and go with other tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    size: PageSize,
    taken: u64,
    promised: u64,
}

fn counters_of(size: PageSize) -> Option<Counters> {
    let pool = pages::pool(size).ok().flatten()?;
    Some(Counters { size, taken: pool.total.saturating_sub(pool.free), promised: pool.reserved })
}

/// The counters of every pool.
pub fn counters() -> Vec<Counters> {
    pages::pools().iter().filter_map(|pool| counters_of(pool.size)).collect()
}

impl Counters {
    /// Taken and promised pages are what they were; the kernel may take a moment.
    #[track_caller]
    pub fn assert_back(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let now = counters_of(self.size).expect("a pool that was there before");
            if now == *self {
                return;
            }
            assert!(Instant::now() < deadline, "pages were kept: {self:?} became {now:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Pages that can be had while this lives.
pub struct Pages {
    size: PageSize,
    added: u64,
}

/// Sees to it that `count` pages of `size` can be had; `None`, said aloud, where they cannot.
///
/// Adds them to what is in the pool. A user who may not do that takes what is there.
pub fn pages(size: PageSize, count: u64) -> Option<Pages> {
    let lacks = |reason: String| {
        assert!(!promised(size), "pages of {size} are promised here: {reason}");
        skip(&reason);
    };
    let Some(pool) = pages::pool(size).ok().flatten() else {
        lacks(format!("this machine has no pages of {size}"));
        return None;
    };
    let before = pool.persistent();
    match pages::resize_pool(size, None, before + count) {
        Ok(_) => Some(Pages { size, added: count }),
        Err(_) if pool.available() >= count => Some(Pages { size, added: 0 }),
        Err(error) => {
            let now = pages::pool(size).ok().flatten().map_or(0, |pool| pool.persistent());
            if now > before {
                give_back(size, now - before);
            }
            lacks(format!("{count} pages of {size} cannot be had: {error}"));
            None
        }
    }
}

fn give_back(size: PageSize, count: u64) {
    let pool = pages::pool(size).ok().flatten().expect("a pool that gave pages");
    let total = pool.persistent().saturating_sub(count);
    // What is still in use becomes surplus, and goes when it is freed.
    let _ = pages::resize_pool(size, None, total);
}

impl Pages {
    /// How many pages of this size a new mapping can have now.
    pub fn available(&self) -> u64 {
        pages::pool(self.size).ok().flatten().map_or(0, |pool| pool.available())
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if self.added > 0 {
            give_back(self.size, self.added);
        }
    }
}

/// A mount in a temporary folder, taken away at the end.
pub struct PrivateMount {
    dir: tempfile::TempDir,
}

impl PrivateMount {
    /// A hugetlbfs with pages of `size`, at most `quota` bytes of them; `None`, said aloud.
    pub fn hugetlbfs(size: PageSize, quota: Option<u64>) -> Option<Self> {
        let options = MountOptions::new().mode(0o755);
        Self::hugetlbfs_with(size, quota.map_or(options, |bytes| options.quota(bytes)))
    }

    /// The same with options of the caller's choice.
    pub fn hugetlbfs_with(size: PageSize, options: MountOptions) -> Option<Self> {
        let dir = Self::folder();
        match pages::mount(size, dir.path(), options) {
            Ok(_) => Some(Self { dir }),
            Err(error) => {
                lacks_pages(&format!("no private hugetlbfs mount: {error}"));
                None
            }
        }
    }

    /// A tmpfs with the options given; `None`, said aloud.
    pub fn tmpfs(options: &str) -> Option<Self> {
        Self::of_kind("tmpfs", options)
    }

    /// A hugetlbfs or a tmpfs with options in the kernel's words; `None`, said aloud.
    pub fn of_kind(kind: &str, options: &str) -> Option<Self> {
        let dir = Self::folder();
        let flags = nix::mount::MsFlags::empty();
        match nix::mount::mount(Some("none"), dir.path(), Some(kind), flags, Some(options)) {
            Ok(()) => Some(Self { dir }),
            Err(errno) => {
                skip(&format!("no private {kind} mount with {options}: {errno}"));
                None
            }
        }
    }

    /// Another mount of what is mounted here, to be read only; `None`, said aloud.
    pub fn read_only_view_of(other: &Self) -> Option<Self> {
        let (dir, none) = (Self::folder(), None::<&str>);
        let bind = nix::mount::MsFlags::MS_BIND;
        match nix::mount::mount(Some(&other.path()), dir.path(), none, bind, none) {
            Ok(()) => {
                let view = Self { dir };
                view.read_only();
                Some(view)
            }
            Err(errno) => {
                skip(&format!("no private bind mount: {errno}"));
                None
            }
        }
    }

    fn folder() -> tempfile::TempDir {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::Builder::new().prefix("hugeshm-test-").tempdir();
        let dir = dir.expect("a temporary folder");
        let everybody = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(dir.path(), everybody).expect("our own folder");
        dir
    }

    /// Makes it read-only.
    pub fn read_only(&self) {
        use nix::mount::MsFlags;
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        nix::mount::mount(None::<&str>, self.dir.path(), None::<&str>, flags, None::<&str>)
            .expect("a mount of ours");
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.dir.path().canonicalize().expect("the folder exists")
    }
}

impl Drop for PrivateMount {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(super::files(self.dir.path()), [""; 0], "files were left in the mount");
        }
        for _ in 0..100 {
            match nix::mount::umount(self.dir.path()) {
                Err(nix::errno::Errno::EBUSY) => std::thread::sleep(Duration::from_millis(20)),
                _ => return,
            }
        }
        let _ = nix::mount::umount2(self.dir.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

/// The System V segments that this process or its children made.
pub fn own_sysv_ids() -> BTreeSet<i32> {
    let table = std::fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    let ours = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let creator: u32 = words.get(4)?.parse().ok()?;
        let id = words.get(1)?.parse().ok()?;
        (creator == std::process::id() || child::was_ours(creator)).then_some(id)
    };
    table.lines().skip(1).filter_map(ours).collect()
}

/// A cgroup of the unified tree with a limit on huge pages, removed at the end.
pub struct HugetlbCgroup {
    path: PathBuf,
    /// The root's controller was switched on for it.
    switched_on: Option<PathBuf>,
}

impl HugetlbCgroup {
    /// A group whose 2 MiB pages are limited to `bytes` by the file `limit` ("max", "rsvd.max").
    pub fn limited(limit: &str, bytes: u64) -> Option<Self> {
        let root =
            ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new).into_iter().find(|root| {
                std::fs::read_to_string(root.join("cgroup.controllers"))
                    .is_ok_and(|text| text.split_whitespace().any(|word| word == "hugetlb"))
            });
        let Some(root) = root else {
            skip("no unified cgroup tree with the hugetlb controller in sight");
            return None;
        };
        let control = root.join("cgroup.subtree_control");
        let on = std::fs::read_to_string(&control).unwrap_or_default().contains("hugetlb");
        if !on && let Err(error) = std::fs::write(&control, "+hugetlb") {
            skip(&format!("the hugetlb controller cannot be switched on: {error}"));
            return None;
        }
        let path = root.join(format!("hugeshm-test-{}-{limit}", std::process::id()));
        let group = Self { path, switched_on: (!on).then_some(control) };
        let made = std::fs::create_dir(&group.path);
        let set = made.and_then(|()| {
            std::fs::write(group.path.join(format!("hugetlb.2MB.{limit}")), bytes.to_string())
        });
        match set {
            Ok(()) => Some(group),
            Err(error) => {
                skip(&format!("no cgroup with a hugetlb limit can be made: {error}"));
                None
            }
        }
    }

    /// Puts a process into the group.
    pub fn take(&self, pid: u32) {
        std::fs::write(self.path.join("cgroup.procs"), pid.to_string()).expect("a group of ours");
    }

    /// Puts a process back into the group above.
    pub fn release(&self, pid: u32) {
        let above = self.path.parent().expect("a group in a tree");
        std::fs::write(above.join("cgroup.procs"), pid.to_string()).expect("our own process");
    }
}

impl Drop for HugetlbCgroup {
    fn drop(&mut self) {
        for _ in 0..200 {
            if std::fs::remove_dir(&self.path).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        if let Some(control) = &self.switched_on {
            let _ = std::fs::write(control, "-hugetlb");
        }
    }
}

/// A cgroup with a limit on memory, removed at the end: version 1 where this process is in one,
/// else version 2.
pub struct MemoryCgroup {
    path: PathBuf,
    /// Where a process goes back to.
    above: PathBuf,
    /// The file that counts kills.
    events: &'static str,
    /// The controller was switched on for it.
    switched_on: Option<PathBuf>,
}

impl MemoryCgroup {
    /// A group that may have `bytes` of memory; `None`, said aloud.
    pub fn limited(bytes: u64) -> Option<Self> {
        let table = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let own = |key: &str| table.lines().find_map(|line| Some(line.split_once(key)?.1));
        let name = format!("hugeshm-test-memory-{}", std::process::id());
        let version_1 = own(":memory:").map(|own| format!("/sys/fs/cgroup/memory{own}"));
        let group = match version_1.filter(|path| Path::new(path).is_dir()) {
            Some(above) => Self {
                path: Path::new(&above).join(name),
                above: PathBuf::from(above),
                events: "memory.oom_control",
                switched_on: None,
            },
            None => Self::of_version_2(&name, own("0::")?)?,
        };
        let file =
            if group.events == "memory.events" { "memory.max" } else { "memory.limit_in_bytes" };
        let made = std::fs::create_dir(&group.path);
        let set = made.and_then(|()| std::fs::write(group.path.join(file), bytes.to_string()));
        match set {
            Ok(()) => Some(group),
            Err(error) => {
                skip(&format!("no cgroup with a memory limit can be made: {error}"));
                None
            }
        }
    }

    fn of_version_2(name: &str, own: &str) -> Option<Self> {
        let root = Path::new("/sys/fs/cgroup");
        let control = root.join("cgroup.subtree_control");
        let words = std::fs::read_to_string(&control).unwrap_or_default();
        let on = words.split_whitespace().any(|word| word == "memory");
        if !on && let Err(error) = std::fs::write(&control, "+memory") {
            skip(&format!("no memory controller can be used: {error}"));
            return None;
        }
        Some(Self {
            path: root.join(name),
            above: root.join(own.trim_start_matches('/')),
            events: "memory.events",
            switched_on: (!on).then_some(control),
        })
    }

    /// Puts a process into the group.
    pub fn take(&self, pid: u32) {
        std::fs::write(self.path.join("cgroup.procs"), pid.to_string()).expect("a group of ours");
    }

    /// Puts a process back where it came from.
    pub fn release(&self, pid: u32) {
        std::fs::write(self.above.join("cgroup.procs"), pid.to_string()).expect("our own process");
    }

    /// How many processes the kernel has killed in it for want of memory.
    pub fn kills(&self) -> u64 {
        let text = std::fs::read_to_string(self.path.join(self.events)).expect("a group of ours");
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.expect("the kernel counts kills").trim().parse().expect("a number")
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        for _ in 0..200 {
            if std::fs::remove_dir(&self.path).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        if let Some(control) = &self.switched_on {
            let _ = std::fs::write(control, "-memory");
        }
    }
}

//! Huge pages for tests: taken from the machine, and given back.
//!
//! Other test processes use the same pools, so a test adds what it needs to what
//! is there and gives the same amount back, and whoever compares counters is
//! alone meanwhile: the lock is a file, held as long as the pages are.

use crate::pages;
use crate::size::PageSize;
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::path::PathBuf;

/// Pages added to a pool; taken away again when dropped.
pub(crate) struct Reserved {
    size: PageSize,
    added: u64,
    _alone: Flock<File>,
}

/// Adds `pages` pages of `size` to the pool, which nobody else changes until the answer is dropped.
///
/// `None`, after saying SKIP and why, where the machine can not give them. That is a failure where
/// the environment variable `HUGESHM_REQUIRE_HUGEPAGES` is `1`.
pub(crate) fn reserve_pages(size: PageSize, pages: u64) -> Option<Reserved> {
    let alone = lock(size);
    let before = total(size);
    let wanted = before.map_or(0, |before| before + pages);
    let mut reserved = Reserved { size, added: 0, _alone: alone };
    if before.is_some() && write(size, wanted) {
        reserved.added = total(size).unwrap_or(0).saturating_sub(before.unwrap_or(0));
    }
    if before.is_some() && reserved.added >= pages {
        return Some(reserved);
    }
    let got = reserved.added;
    drop(reserved);
    let reason = format!("{pages} pages of {size} were wanted, the machine gave {got}");
    let required = std::env::var_os("HUGESHM_REQUIRE_HUGEPAGES").is_some_and(|v| v == "1");
    assert!(!required, "huge pages are promised here: {reason}");
    println!("SKIP: {reason}");
    None
}

fn lock(size: PageSize) -> Flock<File> {
    let path = std::env::temp_dir().join(format!("hugeshm-test-pages-{size}.lock"));
    let file = File::options().create(true).append(true).open(&path).expect("a lock file");
    let mut file = file;
    loop {
        match Flock::lock(file, FlockArg::LockExclusive) {
            Ok(lock) => return lock,
            Err((back, nix::errno::Errno::EINTR)) => file = back,
            Err((_, errno)) => panic!("lock {}: {errno}", path.display()),
        }
    }
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
                println!("SKIP: no private hugetlbfs mount: {other:?}");
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

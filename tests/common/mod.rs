//! What the tests over the public API share: huge pages that are given back, private mounts, a
//! domain of their own, child processes, and the proof that nothing was left behind.
//!
//! Every test begins with [`Quiet::begin`]: one test at a time in this process, one test process
//! at a time with the pools, and at the end descriptors, System V ids and pool counters must be
//! what they were.

pub mod child;
pub mod machine;
pub mod smaps;

use hugeshm::{Domain, Error, ErrorKind, PageSize};
use machine::{Counters, PoolLock};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The domain that the tests use, in folders of their own.
pub const DOMAIN: &str = "t";

/// Whether this machine promises huge pages, so that a test may not do without.
pub fn pages_are_promised() -> bool {
    std::env::var_os("HUGESHM_REQUIRE_HUGEPAGES").is_some_and(|value| value == "1")
}

/// Whether that promise holds for pages of `size`: for the default size, and for gigantic pages
/// only where `HUGESHM_REQUIRE_GIGANTIC_PAGES` is `1`, too. Memory in one piece may be short.
pub fn promised(size: PageSize) -> bool {
    let gigantic = std::env::var_os("HUGESHM_REQUIRE_GIGANTIC_PAGES").is_some_and(|v| v == "1");
    pages_are_promised() && (hugeshm::pages::default_huge() == Some(size) || gigantic)
}

/// Says that a test, or a part of it, cannot run here.
///
/// It goes to standard error and, where `HUGESHM_SKIP_LOG` names a file, into that file.
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    let line = format!("SKIP {}: {reason}\n", thread.name().unwrap_or("?"));
    eprint!("{line}");
    if let Some(log) = std::env::var_os("HUGESHM_SKIP_LOG") {
        use std::io::Write;
        let file = std::fs::File::options().create(true).append(true).open(&log);
        let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
        written.unwrap_or_else(|error| panic!("{}: {error}", log.display()));
    }
}

/// [`skip`] for want of huge pages, which is a failure where they are promised.
pub fn lacks_pages(reason: &str) {
    assert!(!pages_are_promised(), "huge pages are promised here: {reason}");
    skip(reason);
}

/// Whether the tests run as root; a test that needs it says so.
pub fn is_root(what_for: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        skip(&format!("only root can {what_for}"));
    }
    root
}

/// One test at a time, and nothing left behind.
pub struct Quiet {
    descriptors: usize,
    sysv: BTreeSet<i32>,
    counters: Vec<Counters>,
    _pools: Vec<PoolLock>,
    _alone: MutexGuard<'static, ()>,
}

impl Quiet {
    /// Waits until no other test runs, and takes the numbers that must be the same at the end.
    pub fn begin() -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let pools = machine::lock_pools();
        // Whatever is made once for each process is made now.
        drop(Domain::in_folder(DOMAIN, "/dev/shm").map(|domain| domain.open("no.such.name")));
        Self {
            descriptors: descriptors(),
            sysv: machine::own_sysv_ids(),
            counters: machine::counters(),
            _pools: pools,
            _alone: alone,
        }
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // A failed test must not take the pages from those that follow.
            for id in machine::own_sysv_ids().difference(&self.sysv) {
                let mut ipcrm = std::process::Command::new("ipcrm");
                let _ = ipcrm.args(["-m", &id.to_string()]).status();
            }
            return;
        }
        assert_eq!(descriptors(), self.descriptors, "descriptors were left open");
        assert_eq!(machine::own_sysv_ids(), self.sysv, "System V segments were left");
        for before in &self.counters {
            before.assert_back();
        }
    }
}

/// How many descriptors this process has open.
pub fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("/proc is mounted").count()
}

/// A control folder of its own on `/dev/shm`; it must be empty at the end.
pub struct Scratch {
    dir: tempfile::TempDir,
}

impl Scratch {
    /// A new folder that every user can use.
    pub fn new() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::Builder::new().prefix("hugeshm-test-").tempdir_in("/dev/shm");
        let dir = dir.expect("/dev/shm can be written");
        let everybody = std::fs::Permissions::from_mode(0o1777);
        std::fs::set_permissions(dir.path(), everybody).expect("our own folder");
        Self { dir }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The tests' domain in it.
    pub fn domain(&self) -> Domain {
        domain(self.path())
    }

    /// The control file of a name.
    pub fn control_file(&self, name: &str) -> PathBuf {
        self.path().join(format!("hugeshm@{DOMAIN}@{name}"))
    }

    /// The value behind `key=` in a name's control file.
    pub fn control_value(&self, name: &str, key: &str) -> String {
        let text = std::fs::read_to_string(self.control_file(name)).expect("a control file");
        let prefix = format!("{key}=");
        let value = text.lines().find_map(|line| line.strip_prefix(prefix.as_str()));
        value.unwrap_or_else(|| panic!("no {key} in {text}")).to_owned()
    }

    /// The data file of a name on tmpfs.
    pub fn data_file(&self, name: &str) -> PathBuf {
        self.path().join(format!("hugeshm.{}", self.control_value(name, "identity")))
    }

    /// The claims file of a name.
    pub fn claims_file(&self, name: &str) -> PathBuf {
        self.path().join(format!("hugeshm.{}.claims", self.control_value(name, "identity")))
    }

    /// What is in the folder, the lock files of users apart.
    pub fn files(&self) -> Vec<String> {
        files(self.path())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.files(), [""; 0], "files were left in the control folder");
        }
    }
}

/// The tests' domain in a folder.
pub fn domain(folder: &Path) -> Domain {
    Domain::in_folder(DOMAIN, folder).expect("a valid name")
}

/// What is in a folder, the lock files of users apart.
pub fn files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder of ours");
    let mut files: Vec<String> = entries
        .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with("hugeshm.lock."))
        .collect();
    files.sort();
    files
}

/// The error of a call that must fail with `kind`, name its object and a way out.
#[track_caller]
pub fn refused<T>(result: Result<T, Error>, kind: ErrorKind, object: &str) -> Error {
    let error = match result {
        Ok(_) => panic!("it worked; expected {kind:?}"),
        Err(error) => error,
    };
    assert_eq!(error.kind(), kind, "{error}");
    let text = error.to_string();
    assert!(text.contains(object), "{text:?} does not name {object:?}");
    let way_out = !error.way_out().is_empty()
        || error.refusals().iter().any(|refusal| !refusal.remedy.is_empty());
    assert!(way_out, "no way out in: {text}");
    error
}

/// 2 MiB, the size that most tests use.
pub const M2: PageSize = PageSize::SIZE_2M;

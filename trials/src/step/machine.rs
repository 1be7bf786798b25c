//! Huge pages for a suite: a pool, a private mount, and the proof that all of it came back.

use super::tracee::{Fault, text};
use super::world::HUGE;
use hugeshm::pages::{self, MountOptions};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How many pages an operation with all that follows it may need.
const PAGES: u64 = 8;

/// Pages that can be had while this lives; none of them is kept by anybody.
pub struct Machine {
    mount: Option<tempfile::TempDir>,
    /// How many pages were added to the pool.
    added: u64,
    /// What was in use before; nobody else may take pages meanwhile.
    taken: Option<(u64, u64)>,
    /// The System V segments that were there.
    sysv: Vec<String>,
}

impl Machine {
    /// A machine as it is.
    pub fn plain() -> Self {
        Self { mount: None, added: 0, taken: None, sysv: sysv() }
    }

    /// One with huge pages, and a mount of its own for them.
    pub fn huge() -> Result<Self, Fault> {
        let pool = pages::pool(HUGE).map_err(text)?;
        let pool = pool.ok_or(format!("this machine has no pages of {HUGE}"))?;
        let before = pool.persistent();
        let mut machine = Self { mount: None, added: PAGES, taken: None, sysv: sysv() };
        if let Err(error) = pages::resize_pool(HUGE, None, before + PAGES) {
            let now = pages::pool(HUGE).ok().flatten().map_or(before, |pool| pool.persistent());
            machine.added = now.saturating_sub(before);
            return Err(format!("{PAGES} pages of {HUGE} cannot be had: {error}"));
        }
        let dir = tempfile::Builder::new().prefix("hugeshm-step-").tempdir().map_err(text)?;
        pages::mount(HUGE, dir.path(), MountOptions::new().mode(0o755)).map_err(text)?;
        machine.mount = Some(dir);
        machine.taken = taken();
        Ok(machine)
    }

    /// Where the huge pages are mounted.
    pub fn mount(&self) -> Option<PathBuf> {
        self.mount.as_ref().and_then(|dir| dir.path().canonicalize().ok())
    }

    /// Nothing is taken that was not taken before: pages, files, System V segments.
    pub fn is_as_before(&self) -> Result<(), Fault> {
        if let Some(dir) = &self.mount {
            let files: Vec<_> = std::fs::read_dir(dir.path()).map_err(text)?.collect();
            if !files.is_empty() {
                return Err(format!("left in the mount: {files:?}"));
            }
        }
        let left: Vec<_> = sysv().into_iter().filter(|id| !self.sysv.contains(id)).collect();
        if self.taken.is_some() && !left.is_empty() {
            return Err(format!("System V segments were left: {left:?}"));
        }
        // The kernel may take a moment.
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.taken.is_some() && taken() != self.taken {
            if Instant::now() >= deadline {
                return Err(format!("pages taken were {:?} and are {:?}", self.taken, taken()));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(dir) = &self.mount
            && pages::unmount(dir.path()).is_err()
        {
            eprintln!("{} stays mounted", dir.path().display());
        }
        if self.added > 0
            && let Ok(Some(pool)) = pages::pool(HUGE)
        {
            _ = pages::resize_pool(HUGE, None, pool.persistent().saturating_sub(self.added));
        }
    }
}

/// How many huge pages are in use, and how many are promised.
fn taken() -> Option<(u64, u64)> {
    let pool = pages::pool(HUGE).ok().flatten()?;
    Some((pool.total.saturating_sub(pool.free), pool.reserved))
}

/// The System V segments of this machine, by their ids.
fn sysv() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    let id = |line: &str| line.split_whitespace().nth(1).map(str::to_owned);
    table.lines().skip(1).filter_map(id).collect()
}

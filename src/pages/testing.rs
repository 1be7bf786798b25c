//! Huge pages for tests, added to what others hold and given back.

use super::{pool, resize_pool};
use crate::size::PageSize;
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;

/// Pages that a test added to a pool; taken out of it again when dropped.
///
/// The kernel only knows "set the pool to N", so adding is reading and writing; and tests compare
/// the pool's counters. So a pool belongs to one test at a time, on the whole machine.
pub(crate) struct AddedPages {
    size: PageSize,
    node: Option<u32>,
    pages: u64,
    _alone: Flock<File>,
}

impl AddedPages {
    /// Adds `pages` to the pool of `size`; `None`, said aloud, where this user may not.
    pub(crate) fn add(size: PageSize, node: Option<u32>, pages: u64) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIP: only root may resize pools");
            return None;
        }
        let alone = lock(size);
        change(size, node, |now| now + pages);
        Some(Self { size, node, pages, _alone: alone })
    }
}

impl Drop for AddedPages {
    fn drop(&mut self) {
        change(self.size, self.node, |now| now.saturating_sub(self.pages));
    }
}

/// Waits until no other test uses the pool of `size`; all test programs lock this file.
pub(crate) fn lock(size: PageSize) -> Flock<File> {
    let path = std::env::temp_dir().join(format!("hugeshm-test-pages-{size}.lock"));
    let mut file = File::options().create(true).append(true).open(&path).expect("a lock file");
    loop {
        match Flock::lock(file, FlockArg::LockExclusive) {
            Ok(lock) => return lock,
            Err((back, nix::errno::Errno::EINTR)) => file = back,
            Err((_, errno)) => panic!("lock {}: {errno}", path.display()),
        }
    }
}

/// Runs `work` while no other test changes the pool of `size`.
pub(crate) fn alone<T>(size: PageSize, work: impl FnOnce() -> T) -> T {
    let _lock = lock(size);
    work()
}

/// How many pages the pool keeps, on the machine or on a node.
pub(crate) fn kept(size: PageSize, node: Option<u32>) -> u64 {
    let pool = pool(size).expect("readable").expect("the machine has pages of this size");
    match node {
        None => pool.persistent(),
        Some(node) => {
            let share = pool.nodes.iter().find(|share| share.node == node).expect("a node");
            share.total - share.surplus
        }
    }
}

fn change(size: PageSize, node: Option<u32>, next: impl FnOnce(u64) -> u64) {
    resize_pool(size, node, next(kept(size, node))).expect("the pool can be resized");
}

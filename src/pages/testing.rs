//! Huge pages for tests, added to what others hold and given back.

use super::inventory::pool_folder;
use super::{pool, resize_pool};
use crate::size::PageSize;
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;

/// Pages that a test added to a pool; taken out of it again when dropped.
///
/// The kernel only knows "set the pool to N", so adding is reading and writing. Both happen under
/// a lock on the kernel's own file, which orders every test process on the machine that does the
/// same.
pub(crate) struct AddedPages {
    size: PageSize,
    node: Option<u32>,
    pages: u64,
}

impl AddedPages {
    /// Adds `pages` to the pool of `size`; `None`, said aloud, where this user may not.
    pub(crate) fn add(size: PageSize, node: Option<u32>, pages: u64) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIP: only root may resize pools");
            return None;
        }
        change(size, node, |now| now + pages);
        Some(Self { size, node, pages })
    }
}

impl Drop for AddedPages {
    fn drop(&mut self) {
        change(self.size, self.node, |now| now.saturating_sub(self.pages));
    }
}

/// Runs `work` while no other test changes the pool of `size`.
pub(crate) fn alone<T>(size: PageSize, work: impl FnOnce() -> T) -> T {
    let path = pool_folder(size, None).join("nr_hugepages");
    let file = File::open(&path).expect("the machine has pages of this size");
    let _lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno);
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
    alone(size, || {
        resize_pool(size, node, next(kept(size, node))).expect("the pool can be resized");
    });
}

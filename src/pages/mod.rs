//! What this machine has: huge page pools, mounts, limits, container.
//!
//! Everything is read anew at each call from `/proc`, `/sys` and the mount
//! table; nothing is cached and no external program is run. A file that is
//! missing is a fact (an empty list, a `None`), not an error: containers hide
//! half of this, and kernels differ. Numbers are a moment's: a pool that has
//! three pages now may have none when they are asked for, so nobody decides on
//! them alone. They explain a refusal; the refusal itself is the kernel's.
//!
//! Changing the machine (pool sizes, mounts) is here too, because it needs the
//! same facts to say what happened.

mod cgroup;
mod container;
mod doctor;
mod findings;
#[cfg(any(test, fuzzing))]
pub(crate) mod hostile;
mod inventory;
mod limited;
mod limits;
mod logind;
mod mount;
mod mounts;
mod remedy;
mod resize;
mod show;
#[cfg(test)]
pub(crate) mod testing;
mod thp;

pub use cgroup::{HugetlbLimit, LimitKind, MemoryLimit, hugetlb_limits, memory_limit};
pub use container::{Container, ContainerKind, container};
pub use doctor::doctor;
pub use findings::{Finding, FindingCode, Report, Severity};
pub use inventory::{NodePool, Pool, default_huge, pool, pools};
pub(crate) use limited::limited;
pub use limits::{Memory, ShmLimits, memory, shm_limits};
pub use mount::{MountOptions, MountOutcome, mount, unmount};
pub(crate) use mounts::files_allowed;
pub use mounts::{Mount, MountLimit, Tmpfs, mounts, tmpfs_at};
pub use remedy::remedy_for;
pub use resize::{reserve_for, resize_pool};
pub use thp::{Thp, ThpMode, ThpSize, thp};

use crate::error::{Error, Result};
use crate::numa;
use crate::size::PageSize;
use nix::errno::Errno;
use nix::unistd::{SysconfVar, sysconf};
use std::path::Path;

/// Where programs look for shared memory that has a name.
const SHM_FOLDER: &str = "/dev/shm";

/// What this machine has for huge pages, and what stands between them and this user.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Machine {
    /// The base page size.
    pub base_page: PageSize,
    /// The size taken where none is named; `None` if the kernel has no huge pages.
    pub default_huge: Option<PageSize>,
    /// The NUMA nodes that are online; node 0 alone where the kernel knows no nodes.
    pub nodes: Vec<u32>,
    /// Those that have memory.
    pub memory_nodes: Vec<u32>,
    /// One pool for each huge page size of the kernel, in ascending order.
    pub pools: Vec<Pool>,
    /// The hugetlbfs mounts in sight, in mount order.
    pub mounts: Vec<Mount>,
    /// The tmpfs at `/dev/shm`; `None` if there is none.
    pub shm_folder: Option<Tmpfs>,
    /// The settings of transparent huge pages.
    pub thp: Thp,
    /// The limits of System V shared memory.
    pub shm: ShmLimits,
    /// The hugetlb limits that are set in this process's cgroup and those above it.
    pub hugetlb_limits: Vec<HugetlbLimit>,
    /// The memory limit that leaves least, among this process's cgroup and those above it.
    pub memory_limit: Option<MemoryLimit>,
    /// The container this process runs in, as far as it can be told.
    pub container: Option<Container>,
    /// The machine's memory.
    pub memory: Memory,
}

impl Machine {
    /// Reads all of it, anew.
    ///
    /// # Errors
    ///
    /// The mount table cannot be read (no `/proc`).
    pub fn read() -> Result<Self> {
        Ok(Self {
            base_page: base_page()?,
            default_huge: default_huge(),
            nodes: numa::online().iter().collect(),
            memory_nodes: numa::with_memory().iter().collect(),
            pools: pools(),
            mounts: mounts()?,
            shm_folder: tmpfs_at(Path::new(SHM_FOLDER)),
            thp: thp(),
            shm: shm_limits(),
            hugetlb_limits: hugetlb_limits(),
            memory_limit: memory_limit(),
            container: container(),
            memory: memory(),
        })
    }

    /// The pool of pages of `size`, or `None` if the kernel has no such size.
    pub fn pool(&self, size: PageSize) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.size == size)
    }
}

/// The base page size, 4 KiB on x86-64.
///
/// # Errors
///
/// The C library does not say.
pub fn base_page() -> Result<PageSize> {
    sysconf(SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .and_then(|bytes| u64::try_from(bytes).ok())
        .and_then(PageSize::new)
        .ok_or_else(|| Error::system("read the base page size", "sysconf", Errno::EINVAL))
}

/// Paths may hold any byte; a report shows what is no UTF-8 as replacement characters.
#[cfg(feature = "serde")]
fn serialize_path<S: serde::Serializer>(
    path: &Path,
    serializer: S,
) -> core::result::Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

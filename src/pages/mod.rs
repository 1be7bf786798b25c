//! What this machine has: huge page pools, mounts, limits, container.

mod cgroup;
mod container;
mod inventory;
mod limits;
mod mounts;
mod thp;

pub use cgroup::{HugetlbLimit, LimitKind, MemoryLimit, hugetlb_limits, memory_limit};
pub use container::{Container, ContainerKind, container};
pub use limits::{Memory, ShmLimits, memory, shm_limits};
pub use inventory::{NodePool, Pool, default_huge, pool, pools};
pub use mounts::{Mount, MountLimit, Tmpfs, mounts, tmpfs_at};
pub use thp::{Thp, ThpMode, ThpSize, thp};

#[cfg(feature = "serde")]
fn serialize_path<S: serde::Serializer>(
    path: &std::path::Path,
    serializer: S,
) -> core::result::Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// The base page size.
pub fn base_page() -> crate::Result<crate::PageSize> {
    Ok(crate::PageSize::SIZE_4K)
}

/// What to do about a refusal.
pub fn remedy_for(
    _code: crate::RefusalCode,
    rung: crate::Rung,
    pages: u64,
    _container: Option<&Container>,
) -> String {
    format!("hugeshm reserve {rung} {pages}")
}

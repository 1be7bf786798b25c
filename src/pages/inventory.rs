//! The kernel's huge page pools, per size and per node.
//!
//! The sizes are those the kernel lists under `/sys/kernel/mm/hugepages`, not
//! two constants: aarch64 has 64 KiB, 2 MiB, 32 MiB, 1 GiB and others. Where
//! sysfs is hidden, `/proc/meminfo` still tells of the default size.

use crate::error::Result;
use crate::size::PageSize;
use crate::sys::text;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

const POOLS: &str = "/sys/kernel/mm/hugepages";
const NODES: &str = "/sys/devices/system/node";

/// The pool of huge pages of one size. All counters are pages, as the kernel gives them.
///
/// The kernel keeps `reserved <= free <= total`. The numbers are read one after another, so a
/// busy machine may show a moment in which they do not.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pool {
    /// The page size.
    pub size: PageSize,
    /// Pages in the pool, surplus ones included (`nr_hugepages`).
    pub total: u64,
    /// Pages that hold nothing, promised ones included (`free_hugepages`).
    pub free: u64,
    /// Pages promised to mappings that have not touched them yet (`resv_hugepages`).
    pub reserved: u64,
    /// Pages above the configured number, given back to the system once freed
    /// (`surplus_hugepages`).
    pub surplus: u64,
    /// How many surplus pages the kernel may make on demand (`nr_overcommit_hugepages`).
    pub overcommit: u64,
    /// The same per node, in ascending order; the kernel counts promises only globally.
    pub nodes: Vec<NodePool>,
}

/// One node's share of a pool, in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct NodePool {
    /// The node's number.
    pub node: u32,
    /// Pages on this node.
    pub total: u64,
    /// Those that hold nothing.
    pub free: u64,
    /// Those above the configured number.
    pub surplus: u64,
}

impl Pool {
    /// Pages that a new mapping may have: free and unpromised ones, and surplus ones the kernel
    /// may still make. The latter need memory that it may fail to find.
    pub fn available(&self) -> u64 {
        let surplus = self.overcommit.saturating_sub(self.surplus);
        self.free.saturating_sub(self.reserved).saturating_add(surplus)
    }

    /// Pages configured to stay in the pool.
    pub fn persistent(&self) -> u64 {
        self.total.saturating_sub(self.surplus)
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Pool {
    /// The counters, and what is reckoned from them.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut pool = serializer.serialize_struct("Pool", 8)?;
        pool.serialize_field("size", &self.size)?;
        pool.serialize_field("total", &self.total)?;
        pool.serialize_field("free", &self.free)?;
        pool.serialize_field("reserved", &self.reserved)?;
        pool.serialize_field("surplus", &self.surplus)?;
        pool.serialize_field("overcommit", &self.overcommit)?;
        pool.serialize_field("available", &self.available())?;
        pool.serialize_field("nodes", &self.nodes)?;
        pool.end()
    }
}

/// The folder of the pool of `size`, of one node or of the machine.
pub(super) fn pool_folder(size: PageSize, node: Option<u32>) -> PathBuf {
    let name = format!("hugepages-{}kB", size.bytes() >> 10);
    match node {
        None => Path::new(POOLS).join(name),
        Some(node) => Path::new(NODES).join(format!("node{node}/hugepages")).join(name),
    }
}

/// The page size in a folder's name: `hugepages-2048kB`.
pub(super) fn parse_pool_name(name: &OsStr) -> Option<PageSize> {
    let kilobytes = name.as_encoded_bytes().strip_prefix(b"hugepages-")?.strip_suffix(b"kB")?;
    PageSize::new(text::parse_number(kilobytes)?.checked_mul(1024)?)
}

/// The number of a node in a folder's name: `node3`.
pub(super) fn parse_node_name(name: &OsStr) -> Option<u32> {
    let number = text::parse_number(name.as_encoded_bytes().strip_prefix(b"node")?)?;
    u32::try_from(number).ok()
}

/// The huge page sizes of this kernel in ascending order, from a folder of pools.
fn sizes() -> Vec<PageSize> {
    let names = text::names(Path::new(POOLS));
    let mut sizes: Vec<PageSize> = names.iter().filter_map(|name| parse_pool_name(name)).collect();
    sizes.sort_unstable();
    sizes
}

/// The numbers of the nodes that sysfs shows, in ascending order.
pub(super) fn nodes() -> Vec<u32> {
    let names = text::names(Path::new(NODES));
    let mut nodes: Vec<u32> = names.iter().filter_map(|name| parse_node_name(name)).collect();
    nodes.sort_unstable();
    nodes
}

fn read_pool(size: PageSize) -> Option<Pool> {
    let folder = pool_folder(size, None);
    let count = |name: &str| text::number(&folder.join(name)).unwrap_or(0);
    let total = text::number(&folder.join("nr_hugepages"))?;
    let node_pool = |node| {
        let folder = pool_folder(size, Some(node));
        let count = |name: &str| text::number(&folder.join(name)).unwrap_or(0);
        let total = text::number(&folder.join("nr_hugepages"))?;
        let (free, surplus) = (count("free_hugepages"), count("surplus_hugepages"));
        Some(NodePool { node, total, free, surplus })
    };
    Some(Pool {
        size,
        total,
        free: count("free_hugepages"),
        reserved: count("resv_hugepages"),
        surplus: count("surplus_hugepages"),
        overcommit: count("nr_overcommit_hugepages"),
        nodes: nodes().into_iter().filter_map(node_pool).collect(),
    })
}

/// The default size's pool as `/proc/meminfo` tells it, for where sysfs is hidden.
pub(super) fn parse_meminfo_pool(meminfo: &[u8]) -> Option<Pool> {
    let count = |key| text::parse_meminfo(meminfo, key).unwrap_or(0);
    Some(Pool {
        size: text::parse_meminfo(meminfo, "Hugepagesize:").and_then(PageSize::new)?,
        total: text::parse_meminfo(meminfo, "HugePages_Total:")?,
        free: count("HugePages_Free:"),
        reserved: count("HugePages_Rsvd:"),
        surplus: count("HugePages_Surp:"),
        overcommit: text::number(Path::new("/proc/sys/vm/nr_overcommit_hugepages")).unwrap_or(0),
        nodes: Vec::new(),
    })
}

fn meminfo_pool() -> Option<Pool> {
    parse_meminfo_pool(&text::read_optional(Path::new("/proc/meminfo"))?)
}

/// Every pool of this kernel, in ascending order of page size.
pub fn pools() -> Vec<Pool> {
    let pools: Vec<Pool> = sizes().into_iter().filter_map(read_pool).collect();
    if pools.is_empty() { meminfo_pool().into_iter().collect() } else { pools }
}

/// The pool of pages of `size`; `None` if the kernel has no such size.
///
/// Reads that pool's files and no others.
///
/// # Errors
///
/// None today: what cannot be read is not there.
pub fn pool(size: PageSize) -> Result<Option<Pool>> {
    Ok(read_pool(size).or_else(|| meminfo_pool().filter(|pool| pool.size == size)))
}

/// The huge page size taken where none is named; `None` if the kernel has no huge pages.
pub fn default_huge() -> Option<PageSize> {
    let meminfo = text::read_optional(Path::new("/proc/meminfo"))?;
    text::parse_meminfo(&meminfo, "Hugepagesize:").and_then(PageSize::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool_of(free: u64, reserved: u64, surplus: u64, overcommit: u64) -> Pool {
        let size = PageSize::SIZE_2M;
        Pool { size, total: free, free, reserved, surplus, overcommit, nodes: Vec::new() }
    }

    #[test]
    fn available_counts_promises_and_overcommit_and_never_wraps() {
        assert_eq!(pool_of(4, 3, 0, 0).available(), 1);
        assert_eq!(pool_of(4, 3, 0, 4).available(), 5);
        assert_eq!(pool_of(6, 6, 2, 4).available(), 2);
        assert_eq!(pool_of(1, 3, 5, 4).available(), 0);
        assert_eq!(pool_of(u64::MAX, 0, 0, u64::MAX).available(), u64::MAX);
    }

    #[test]
    fn folder_names_that_are_no_pool_are_skipped() {
        assert_eq!(parse_pool_name("hugepages-2048kB".as_ref()), Some(PageSize::SIZE_2M));
        assert_eq!(parse_pool_name("hugepages-64kB".as_ref()), PageSize::new(65536));
        for bad in [
            "hugepages-kB",
            "hugepages-3kB",
            "hugepages-2048",
            "hugepages-18446744073709551615kB",
            "x",
        ] {
            assert_eq!(parse_pool_name(bad.as_ref()), None, "{bad}");
        }
        assert_eq!(parse_node_name("node12".as_ref()), Some(12));
        assert_eq!(parse_node_name("node".as_ref()), None);
        assert_eq!(parse_node_name("node4294967296".as_ref()), None);
    }

    #[test]
    fn the_default_pool_agrees_with_meminfo() {
        let meminfo = text::read(Path::new("/proc/meminfo")).expect("/proc is mounted");
        let Some(told) = parse_meminfo_pool(&meminfo) else {
            return;
        };
        let read = pool(told.size).expect("readable").expect("the default size has a pool");
        assert_eq!(default_huge(), Some(told.size));
        // Others resize pools while this runs, so only what cannot change is compared exactly.
        assert_eq!(read.size, told.size);
        assert!(pools().iter().any(|pool| pool.size == told.size));
        if read.nodes.len() == 1 && pool(told.size).ok().flatten() == Some(read.clone()) {
            assert_eq!(read.nodes[0].total, read.total);
        }
    }

    #[test]
    fn an_unknown_size_has_no_pool() {
        let odd = PageSize::new(1 << 50).expect("a power of two");
        assert_eq!(pool(odd).expect("no error"), None);
    }
}

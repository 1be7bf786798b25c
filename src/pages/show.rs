//! The inventory as people read it.

use super::{Machine, Pool};
use crate::size::format_bytes;
use core::fmt;

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pages: {} total, {} available", self.size, self.total, self.available())?;
        write!(f, " ({} free, {} reserved", self.free, self.reserved)?;
        write!(f, ", {} surplus, {} overcommit)", self.surplus, self.overcommit)?;
        if self.nodes.len() > 1 {
            for node in &self.nodes {
                write!(f, "\n  node {}: {} total, {} free", node.node, node.total, node.free)?;
                if node.surplus > 0 {
                    write!(f, ", {} surplus", node.surplus)?;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.default_huge {
            Some(size) => {
                writeln!(f, "base pages {}, huge pages {size} by default", self.base_page)?
            }
            None => writeln!(f, "base pages {}, no huge pages", self.base_page)?,
        }
        for pool in &self.pools {
            writeln!(f, "{pool}")?;
        }
        for mount in &self.mounts {
            writeln!(f, "hugetlbfs at {mount}")?;
        }
        if self.mounts.is_empty() {
            writeln!(f, "no hugetlbfs is mounted")?;
        }
        if let Some(folder) = &self.shm_folder {
            let (free, bytes) = (format_bytes(folder.free), format_bytes(folder.bytes));
            writeln!(f, "tmpfs at {}: {free} of {bytes} free", folder.path.display())?;
        }
        let mode = |mode: Option<super::ThpMode>| mode.map_or("absent", super::ThpMode::as_str);
        writeln!(
            f,
            "transparent huge pages: {} for private memory, {} for shared memory",
            mode(self.thp.enabled),
            mode(self.thp.shmem_enabled)
        )?;
        let may = if self.shm.may_use_hugetlb { "open" } else { "closed" };
        writeln!(f, "System V huge pages: {may} to this user, {}", self.shm.reason)?;
        for limit in &self.hugetlb_limits {
            writeln!(f, "hugetlb limit: {limit}")?;
        }
        if let Some(limit) = &self.memory_limit {
            writeln!(f, "memory limit: {limit}")?;
        }
        if let Some(container) = &self.container {
            writeln!(f, "container: {container}")?;
        }
        let memory = &self.memory;
        let (available, total) = (format_bytes(memory.available), format_bytes(memory.total));
        write!(f, "memory: {available} of {total} available, ")?;
        write!(f, "{} in huge page pools", format_bytes(memory.hugetlb))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::size::PageSize;

    #[test]
    fn a_pool_shows_all_its_counters_and_ends_no_line() {
        let pool = Pool {
            size: PageSize::SIZE_2M,
            total: 8,
            free: 5,
            reserved: 2,
            surplus: 1,
            overcommit: 4,
            nodes: Vec::new(),
        };
        let expected = "2M pages: 8 total, 6 available (5 free, 2 reserved, 1 surplus, \
                        4 overcommit)";
        assert_eq!(pool.to_string(), expected);
        let machine = Machine::read().expect("/proc is mounted");
        assert!(!machine.to_string().ends_with('\n'));
    }
}

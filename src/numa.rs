//! Nodes and placement policies.
//!
//! A [`Placement`] says on which NUMA nodes the pages of a mapping shall lie.
//! It is applied twice before a page is touched: to the creating thread (so
//! that the kernel already refuses the reservation) and to the address range
//! (so that later faults of the creator obey too). hugetlbfs keeps no policy
//! with the file: pages lie where the creator put them, and openers inherit
//! that. What was got is measured by [`nodes_of`], never believed.

use crate::error::{Error, ErrorKind, Result};
use crate::sys::{mempolicy, text};
use core::fmt;
use core::marker::PhantomData;
use core::str::FromStr;
use nix::errno::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The highest node number that can be said to the kernel.
pub(crate) const NODE_MAX: u32 = mempolicy::MASK_BITS_MAX as u32 - 1;

/// How many addresses are asked about in one call.
const LOCATE_BATCH: usize = 1024;

/// Where the pages of a mapping shall lie.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Placement {
    /// Where the thread's own policy puts them.
    #[default]
    Default,
    /// On these nodes and on no others: a node too small is an error.
    Bind(NodeSet),
    /// On this node while it has pages, then anywhere.
    Preferred(u32),
    /// Page by page over these nodes.
    Interleave(NodeSet),
}

impl Placement {
    /// Bound to one node.
    pub fn node(node: u32) -> Self {
        Self::Bind(NodeSet::from(node))
    }

    /// The kernel's mode and mask; `None` for the default, which needs no call.
    fn words(&self) -> nix::Result<Option<(i32, Vec<u64>)>> {
        let (mode, mask) = match self {
            Self::Default => return Ok(None),
            Self::Bind(nodes) => (mempolicy::MPOL_BIND, nodes.mask()?),
            Self::Preferred(node) => (mempolicy::MPOL_PREFERRED, NodeSet::from(*node).mask()?),
            Self::Interleave(nodes) => (mempolicy::MPOL_INTERLEAVE, nodes.mask()?),
        };
        if mask.is_empty() { Err(Errno::EINVAL) } else { Ok(Some((mode, mask))) }
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Bind(nodes) => write!(f, "bind:{nodes}"),
            Self::Preferred(node) => write!(f, "prefer:{node}"),
            Self::Interleave(nodes) => write!(f, "interleave:{nodes}"),
        }
    }
}

/// A set of node numbers, of any width.
///
/// Printed and parsed as the kernel lists nodes: `0-2,5`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSet(BTreeSet<u32>);

impl NodeSet {
    /// The set without nodes.
    pub const fn new() -> Self {
        Self(BTreeSet::new())
    }

    /// Adds a node; whether it was new.
    pub fn insert(&mut self, node: u32) -> bool {
        self.0.insert(node)
    }

    /// Whether `node` is in the set.
    pub fn contains(&self, node: u32) -> bool {
        self.0.contains(&node)
    }

    /// The nodes in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().copied()
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One bit per node, as wide as the highest node needs.
    fn mask(&self) -> nix::Result<Vec<u64>> {
        let Some(&highest) = self.0.last() else {
            return Ok(Vec::new());
        };
        if highest > NODE_MAX {
            return Err(Errno::EINVAL);
        }
        let mut mask = vec![0u64; highest as usize / 64 + 1];
        for &node in &self.0 {
            mask[node as usize / 64] |= 1 << (node % 64);
        }
        Ok(mask)
    }
}

impl From<u32> for NodeSet {
    fn from(node: u32) -> Self {
        Self(BTreeSet::from([node]))
    }
}

impl FromIterator<u32> for NodeSet {
    fn from_iter<I: IntoIterator<Item = u32>>(nodes: I) -> Self {
        Self(nodes.into_iter().collect())
    }
}

impl fmt::Display for NodeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut nodes = self.iter().peekable();
        let mut separator = "";
        while let Some(first) = nodes.next() {
            let mut last = first;
            while let Some(next) = nodes.next_if(|&next| Some(next) == last.checked_add(1)) {
                last = next;
            }
            match last {
                last if last == first => write!(f, "{separator}{first}")?,
                last => write!(f, "{separator}{first}-{last}")?,
            }
            separator = ",";
        }
        Ok(())
    }
}

impl FromStr for NodeSet {
    type Err = Error;

    /// Reads `0`, `0-3`, `0-2,5`; every part must be understood.
    fn from_str(list: &str) -> Result<Self> {
        let number = |text: &str| text.trim().parse::<u32>().ok().filter(|&node| node <= NODE_MAX);
        let mut nodes = BTreeSet::new();
        for part in list.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            match (number(first), number(last)) {
                (Some(first), Some(last)) if first <= last => nodes.extend(first..=last),
                _ => {
                    return Err(Error::new(ErrorKind::InvalidArgument, "read a node list", list)
                        .detail(format!("{part:?} is no node and no range of nodes"))
                        .remedy("write it like 0 or 0-2,5"));
                }
            }
        }
        Ok(Self(nodes))
    }
}

/// The nodes that are online; node 0 alone where the kernel knows no nodes.
pub fn online() -> NodeSet {
    listed("/sys/devices/system/node/online")
}

/// The nodes that have memory; node 0 alone where the kernel knows no nodes.
pub fn with_memory() -> NodeSet {
    listed("/sys/devices/system/node/has_memory")
}

fn listed(path: &str) -> NodeSet {
    let list = text::read_optional(Path::new(path)).unwrap_or_default();
    let nodes: NodeSet = text::parse_list(&list, NODE_MAX).into_iter().collect();
    if nodes.is_empty() { NodeSet::from(0) } else { nodes }
}

/// The thread's policy as it was; put back when dropped.
///
/// A policy belongs to a thread, so the guard cannot leave it.
#[must_use = "the policy is put back when this is dropped"]
#[derive(Debug)]
pub(crate) struct TaskPolicy {
    old: Option<(i32, Vec<u64>)>,
    thread: PhantomData<*const ()>,
}

impl Drop for TaskPolicy {
    fn drop(&mut self) {
        if let Some((mode, mask)) = self.old.take() {
            // The kernel gave this policy out a moment ago. If it does not take it back (its
            // nodes went offline meanwhile), the default is the nearest thing.
            if mempolicy::set_task(mode, &mask).is_err() {
                let _ = mempolicy::set_task(mempolicy::MPOL_DEFAULT, &[]);
            }
        }
    }
}

/// Gives the calling thread the policy of `placement` until the guard is dropped.
///
/// `EINVAL` means that a node does not exist or has no memory. [`Placement::Default`] changes
/// nothing.
pub(crate) fn apply_task(placement: &Placement) -> nix::Result<TaskPolicy> {
    let old = match placement.words()? {
        None => None,
        Some((mode, mask)) => {
            let old = mempolicy::task()?;
            mempolicy::set_task(mode, &mask)?;
            Some(old)
        }
    };
    Ok(TaskPolicy { old, thread: PhantomData })
}

/// Gives `length` bytes at `base` the policy of `placement`, for pages not yet there.
///
/// On huge pages both must be multiples of the page size (`EINVAL`).
pub(crate) fn apply_range(
    placement: &Placement,
    base: *const u8,
    length: usize,
) -> nix::Result<()> {
    match placement.words()? {
        None => Ok(()),
        Some((mode, mask)) => mempolicy::bind_range(base.addr(), length, mode, &mask),
    }
}

/// How many bytes of the range lie on which node, asked page by page, in ascending node order.
///
/// Only pages present in this process's page table are counted: populate first. The last page
/// counts in full even if `length` ends inside it.
pub(crate) fn nodes_of(
    base: *const u8,
    length: usize,
    page: usize,
) -> nix::Result<Vec<(u32, u64)>> {
    if page == 0 {
        return Err(Errno::EINVAL);
    }
    let mut bytes: BTreeMap<u32, u64> = BTreeMap::new();
    let mut offsets = (0..length).step_by(page).peekable();
    while offsets.peek().is_some() {
        let addresses: Vec<usize> = offsets
            .by_ref()
            .take(LOCATE_BATCH)
            .map(|offset| base.addr().wrapping_add(offset))
            .collect();
        for node in mempolicy::locate(&addresses)? {
            if let Ok(node) = u32::try_from(node) {
                *bytes.entry(node).or_default() += page as u64;
            }
        }
    }
    Ok(bytes.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_hold_nodes_of_any_width() {
        for (node, words) in [(0, 1), (63, 1), (64, 2), (1000, 16), (NODE_MAX, 511)] {
            let mask = NodeSet::from(node).mask().expect("within the bound");
            assert_eq!(mask.len(), words, "node {node}");
            assert_eq!(mask[words - 1], 1 << (node % 64), "node {node}");
        }
        assert_eq!(NodeSet::from(NODE_MAX + 1).mask(), Err(Errno::EINVAL));
        assert_eq!(NodeSet::from(u32::MAX).mask(), Err(Errno::EINVAL));
    }

    #[test]
    fn node_lists_print_as_they_are_typed() {
        for list in ["0", "0-2,5", "63-64,1000"] {
            assert_eq!(list.parse::<NodeSet>().expect(list).to_string(), list);
        }
        for bad in ["", ",", "a", "1-", "3-1", "-1", "0-4000000000", "99999999999"] {
            assert!(bad.parse::<NodeSet>().is_err(), "{bad:?}");
        }
        assert_eq!(NodeSet::from(u32::MAX).to_string(), u32::MAX.to_string());
    }

    #[test]
    fn the_task_policy_is_put_back() {
        let before = mempolicy::task().expect("get_mempolicy");
        {
            let _guard = apply_task(&Placement::node(0)).expect("node 0 exists");
            assert_eq!(mempolicy::task(), Ok((mempolicy::MPOL_BIND, vec![1])));
        }
        assert_eq!(mempolicy::task(), Ok(before));
    }

    #[test]
    fn an_absent_node_is_refused_and_changes_nothing() {
        let before = mempolicy::task().expect("get_mempolicy");
        let absent = (0..1001).rev().find(|&node| !online().contains(node)).expect("one of 1001");
        for node in [absent, 1000, NODE_MAX + 1] {
            if !online().contains(node) {
                assert_eq!(apply_task(&Placement::node(node)).err(), Some(Errno::EINVAL));
            }
        }
        let empty = Placement::Bind(NodeSet::new());
        assert_eq!(apply_task(&empty).err(), Some(Errno::EINVAL));
        assert_eq!(mempolicy::task(), Ok(before));
    }

    #[test]
    fn pages_are_counted_where_they_lie() {
        let page = 4096;
        let memory = vec![1u8; 16 * page];
        let aligned = memory.as_ptr().wrapping_add(memory.as_ptr().align_offset(page));
        let nodes = nodes_of(aligned, 8 * page, page).expect("move_pages");
        assert_eq!(nodes.iter().map(|&(_, bytes)| bytes).sum::<u64>(), 8 * page as u64);
        assert!(nodes.iter().all(|&(node, _)| online().contains(node)));
        apply_range(&Placement::node(0), aligned, 8 * page).expect("node 0 exists");
        assert_eq!(nodes_of(aligned, 8 * page, 0), Err(Errno::EINVAL));
    }
}

//! Private memory under a page policy, with its proof.
//!
//! The same ladder as for segments, without names and without sharing. Meant for
//! tables, arenas and buffers of one process.
#![expect(unsafe_code, reason = "private memory is handed out as slices")]

use super::backing::Backing;
use super::create::create_private;
use super::{Mapping, Populate};
use crate::error::Result;
use crate::ladder::PagePolicy;
use crate::numa::Placement;
use crate::view::Memory;
use core::fmt;

/// Private zeroed memory, resident from the start, on the best pages that could be had.
///
/// ```
/// use hugeshm::{PagePolicy, Region};
///
/// let mut table = Region::builder(3 << 20).pages(PagePolicy::auto()).map()?;
/// table.as_mut_slice()[42] = 1;
/// println!("{}", table.backing());
/// # Ok::<(), hugeshm::Error>(())
/// ```
///
/// After a `fork` parent and child share the pages until one of them writes. On
/// huge pages that takes a page from the pool, and where none is left the *child*
/// is killed by a SIGBUS at its next access: a child should go on to `exec`, or
/// leave the region alone.
pub struct Region {
    mapping: Mapping,
    backing: Backing,
    /// What was asked for; never more than the mapping.
    length: usize,
}

/// How a [`Region`] is to be made.
#[derive(Clone, Debug)]
#[must_use = "nothing is mapped before `map`"]
pub struct RegionBuilder {
    length: u64,
    pages: PagePolicy,
    placement: Placement,
    populate: Populate,
}

impl Region {
    /// Begins a region of `length` bytes.
    pub fn builder(length: u64) -> RegionBuilder {
        RegionBuilder {
            length,
            pages: PagePolicy::auto(),
            placement: Placement::default(),
            populate: Populate::default(),
        }
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: the mapping is private to this value, at least `length` bytes long, readable and
        // initialised (zeroed by the kernel); a shared borrow of `self` keeps writers away.
        unsafe { core::slice::from_raw_parts(self.mapping.base().as_ptr(), self.length) }
    }

    /// The bytes, to be written.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as for `as_slice`; the mapping is writable, and the borrow of `self` is unique.
        unsafe { core::slice::from_raw_parts_mut(self.mapping.base().as_ptr(), self.length) }
    }

    /// What it lies on.
    pub fn backing(&self) -> &Backing {
        &self.backing
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Region({} bytes: {})", self.length, self.backing)
    }
}

impl RegionBuilder {
    /// Which kinds of page it may lie on; [`PagePolicy::auto`] by default.
    pub fn pages(mut self, policy: impl Into<PagePolicy>) -> Self {
        self.pages = policy.into();
        self
    }

    /// On which nodes; where the thread's own policy says by default.
    pub fn placement(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }

    /// By how many threads it is faulted in; by the calling one by default.
    pub fn populate(mut self, populate: Populate) -> Self {
        self.populate = populate;
        self
    }

    /// Maps it and faults every page in.
    ///
    /// # Errors
    ///
    /// `OutOfPages` with every refusal, where no page allowed could be had; `InvalidSize` for a
    /// length of zero or beyond the address space; `InvalidArgument` for nodes that do not exist.
    pub fn map(self) -> Result<Region> {
        let Self { length, pages, placement, populate } = self;
        let (mapping, backing) = create_private(length, &pages, &placement, populate, None)
            .map_err(crate::pages::limited)?;
        // The mapping was rounded up from `length` and has a length in memory.
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(mapping.len());
        Ok(Region { mapping, backing, length })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{ErrorKind, Rung};

    #[test]
    fn a_region_is_as_long_as_asked_zeroed_and_writable() {
        let mut region = Region::builder(5000).pages(Rung::Base).map().unwrap();
        assert_eq!(region.as_slice(), [0; 5000]);
        region.as_mut_slice().fill(7);
        assert_eq!(region.as_slice(), [7; 5000]);
        assert!(format!("{region:?}").contains("private memory"));
        assert_eq!(Region::builder(0).map().unwrap_err().kind(), ErrorKind::InvalidSize);
    }
}

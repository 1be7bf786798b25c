//! Backing, mapping, population and proof.
//!
//! This room turns a length and a page policy into mapped, resident memory, and
//! says what it became. It knows kernel objects and pages; it knows neither the
//! names of segments nor what stands in them.
//!
//! Order of creation, for each rung of the ladder from the best down:
//!
//! 1. the thread's memory policy, where pages are bound to nodes, so that the
//!    kernel already refuses the reservation;
//! 2. the object: an unnamed file, a System V segment under a random key, a
//!    memfd, or private memory; its length rounded up to whole pages;
//! 3. `mmap` without `MAP_NORESERVE`: pools, mount quotas and reservation limits
//!    answer here;
//! 4. `mbind`, because the policy of a range is looked at when it is touched;
//! 5. `MADV_POPULATE_WRITE` piece by piece: cgroup fault limits and exhausted
//!    nodes answer here, with an error where a touch would be a SIGBUS;
//! 6. measuring what was got.
//!
//! Failure: whatever a rung took is given back before the next one is tried, by
//! dropping what was made. A process killed in between leaves nothing behind
//! either, except a System V segment, whose key the caller recorded before.

mod backing;
mod create;
mod fill;
mod make;
mod mapping;
mod measure;
mod mounts;
mod numbers;
mod object;
mod populate;
mod private;
#[cfg(test)]
pub(crate) mod testing;

pub use backing::{Backing, How, NodeShare};
pub(crate) use create::create;
pub(crate) use mapping::{Mapping, check_whole, fault_in, has_first_page, map_file, map_sysv};
#[cfg(any(test, fuzzing))]
pub(crate) use measure::read_smaps;
pub(crate) use measure::{Measured, measure};
pub(crate) use object::{FileFacts, Object, facts, link, open_file};
pub use private::{Region, RegionBuilder};

use crate::error::{BackingKind, Result, Rung};
use crate::ladder::{Lifetime, PagePolicy};
use crate::numa::Placement;
use std::path::{Path, PathBuf};

/// How the pages of a new mapping are faulted in, before it is handed out.
///
/// There is no lazy way: a huge page that is missing at the first touch is a
/// signal, and zeroing a page in the middle of a message is a pause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Populate {
    /// By the calling thread.
    #[default]
    Full,
    /// By this many threads, each taking one contiguous share; 0 means one per CPU allowed.
    Parallel(usize),
}

/// Called while pages are faulted in, with the bytes done and the bytes in all.
///
/// Under [`Populate::Parallel`] it is called by any of the threads, one at a time
/// or several at once.
pub(crate) type Progress<'a> = &'a (dyn Fn(u64, u64) + Sync);

/// What [`create`] is to make.
pub(crate) struct CreateRequest<'a> {
    /// Bytes wanted; rounded up to whole pages of each rung.
    pub length: u64,
    pub pages: &'a PagePolicy,
    /// The kinds of object allowed; empty means all that fit a name.
    pub backings: &'a [BackingKind],
    /// The hugetlbfs mount to use; otherwise the writable one with most room.
    pub mount: Option<&'a Path>,
    /// Where tmpfs files are made.
    pub tmpfs_dir: &'a Path,
    /// Permission bits of the object.
    pub mode: u32,
    pub lifetime: Lifetime,
    pub placement: &'a Placement,
    pub populate: Populate,
    pub progress: Option<Progress<'a>>,
    /// Called before each kernel object is made; an error ends the creation.
    pub before_take: &'a mut dyn FnMut(&Taking) -> Result<()>,
    /// What errors call it.
    pub name: &'a str,
}

/// What is about to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Taking {
    pub kind: BackingKind,
    pub rung: Rung,
    /// The hugetlbfs or tmpfs folder.
    pub dir: Option<PathBuf>,
    /// The key under which the System V segment will be made. If the kernel finds
    /// it taken, another one is announced.
    pub sysv_key: Option<i32>,
}

/// A new object, mapped and populated.
///
/// Dropping it unmaps; files and memfds then vanish unless linked or held, a
/// System V segment does not: [`discard`](Self::discard) it.
pub(crate) struct Created {
    pub object: Object,
    pub mapping: Mapping,
    pub backing: Backing,
}

impl Created {
    /// Gives every page back.
    pub(crate) fn discard(self) {
        let Self { object, mapping, .. } = self;
        drop(mapping);
        object.discard();
    }
}

#[cfg(test)]
mod tests;

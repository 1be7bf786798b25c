//! Pages into a mapping: bound, faulted in, merged, measured, for every kind of object alike.
#![expect(unsafe_code, reason = "pages are touched by hand on kernels older than 5.14")]

use super::backing::Backing;
use super::create::{Outcome, got};
use super::measure::{Measured, measure};
use super::numbers::{self, Failure, refuse};
use super::populate::Area;
use super::{Mapping, Populate, Progress};
use crate::error::{Refusal, RefusalCode, Rung};
use crate::ladder::{PagePolicy, Step};
use crate::numa::{self, Placement};
use crate::size::format_bytes;
use crate::sys::file;
use crate::sys::mmap::{self, Mapped, Source};
use crate::view::Memory;
use nix::errno::Errno;
use std::os::fd::BorrowedFd;

/// What the pages of a mapping belong to.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    File { fd: BorrowedFd<'a>, dir: Option<BorrowedFd<'a>> },
    Segment,
    Nowhere,
}

impl<'a> Place<'a> {
    fn dir(self) -> Option<BorrowedFd<'a>> {
        match self {
            Self::File { dir, .. } => dir,
            Self::Segment | Self::Nowhere => None,
        }
    }
}

/// The part that is the same for every kind of object.
pub(super) struct Fill<'a> {
    pub placement: &'a Placement,
    pub populate: Populate,
    pub progress: Option<Progress<'a>>,
    pub policy: &'a PagePolicy,
}

/// Gives this thread the policy of the range to come: reservations look at it, `fallocate` obeys
/// it, and threads started meanwhile inherit it.
pub(super) fn bind_task(
    step: &Step,
    placement: &Placement,
) -> core::result::Result<numa::TaskPolicy, Refusal> {
    numa::apply_task(placement).map_err(|errno| {
        refuse(step, RefusalCode::System, "set_mempolicy")
            .errno(errno)
            .numbers(placement.to_string())
    })
}

impl Fill<'_> {
    pub(super) fn bind_task(&self, step: &Step) -> core::result::Result<numa::TaskPolicy, Refusal> {
        bind_task(step, self.placement)
    }

    pub(super) fn bind_range(
        &self,
        step: &Step,
        mapping: &Mapping,
    ) -> core::result::Result<(), Refusal> {
        numa::apply_range(self.placement, mapping.base().as_ptr(), mapping.len()).map_err(|errno| {
            refuse(step, RefusalCode::System, "mbind")
                .errno(errno)
                .numbers(self.placement.to_string())
        })
    }

    fn failure<'b>(
        &'b self,
        step: &'b Step,
        call: &'static str,
        errno: Errno,
        dir: Option<BorrowedFd<'b>>,
        reserved: bool,
    ) -> Failure<'b> {
        Failure { step, call, errno, placement: self.placement, dir, reserved }
    }

    /// Maps, where transparent huge pages can form on their boundary, and binds the range.
    pub(super) fn map(
        &self,
        step: &Step,
        source: Source<'_>,
        len: usize,
        dir: Option<BorrowedFd<'_>>,
    ) -> core::result::Result<Mapping, Refusal> {
        let unit = numbers::thp_unit().filter(|_| step.rung == Rung::Thp);
        let mapped = match unit {
            Some(unit) => Mapped::aligned(source, len, unit.bytes() as usize),
            None => Mapped::new(source, len),
        };
        let mapped =
            mapped.map_err(|errno| self.failure(step, "mmap", errno, dir, false).refusal())?;
        let mapping = Mapping::of_mapped(mapped, step.page, true);
        self.bind_range(step, &mapping)?;
        Ok(mapping)
    }

    /// Faults every page in, merges where that is the rung, and measures.
    pub(super) fn fill(
        &self,
        step: &Step,
        mapping: &Mapping,
        place: Place<'_>,
    ) -> Outcome<Measured> {
        let area = Area::new(mapping.base(), mapping.len());
        let populated = match step.rung {
            Rung::Thp => got!(self.fill_merged(step, mapping, area)),
            Rung::Base => {
                // Best effort: a kernel without transparent huge pages has nothing to forbid.
                let _ = mmap::advise_base(mapping.base(), mapping.len());
                area.populate(step.page, self.populate, self.progress).map(|()| None)
            }
            Rung::Huge(_) => area.populate(step.page, self.populate, self.progress).map(|()| None),
        };
        let not_merged = match populated {
            Ok(not_merged) => not_merged,
            // Older than 5.14.
            Err(Errno::EINVAL) => {
                got!(self.fill_without_asking(step, mapping, place));
                None
            }
            Err(errno) => {
                return Ok(Err(self.failure(step, "madvise", errno, place.dir(), true).refusal()));
            }
        };
        let measured = measure(mapping, step.backing)?;
        Ok(match self.disproved(step, &measured, not_merged) {
            None => Ok(measured),
            Some(refusal) => Err(refusal),
        })
    }

    /// Faults every page in where the kernel has no `MADV_POPULATE_WRITE`: files are allocated
    /// first, which answers a shortage with an error; what then is touched is there. Huge pages
    /// without a file would answer with a signal, so they are refused.
    fn fill_without_asking(
        &self,
        step: &Step,
        mapping: &Mapping,
        place: Place<'_>,
    ) -> core::result::Result<(), Refusal> {
        match place {
            Place::File { fd, dir } => {
                file::allocate(fd, step.length)
                    .map_err(|errno| self.failure(step, "fallocate", errno, dir, true).refusal())?;
            }
            Place::Nowhere if !matches!(step.rung, Rung::Huge(_)) => {}
            Place::Segment | Place::Nowhere => {
                return Err(refuse(step, RefusalCode::KernelTooOld, "madvise")
                    .errno(Errno::EINVAL)
                    .numbers("MADV_POPULATE_WRITE needs Linux 5.14"));
            }
        }
        // SAFETY: `mapping` was made writable by this file, and a page size is not zero.
        unsafe { mmap::touch(mapping.base(), mapping.len(), step.page.bytes() as usize) };
        Ok(())
    }

    /// Merges the first unit before the rest is touched: where the kernel never does it, one unit
    /// tells. The inner answer is the last reason why a unit was not merged.
    fn fill_merged(
        &self,
        step: &Step,
        mapping: &Mapping,
        area: Area,
    ) -> core::result::Result<nix::Result<Option<Errno>>, Refusal> {
        let Some(unit) = numbers::thp_unit() else {
            return Err(refuse(step, RefusalCode::ThpUnavailable, "check")
                .numbers("this kernel forms no transparent huge pages"));
        };
        // Best effort: where the setting allows it, pages come huge at the first touch.
        let _ = mmap::advise_huge(mapping.base(), mapping.len());
        let bytes = unit.bytes() as usize;
        if let Err(errno) = area.populate_start(bytes) {
            return Ok(Err(errno));
        }
        match area.merge(0, bytes) {
            // Anything else may be different for the units to come.
            Err(errno @ (Errno::EINVAL | Errno::ENOSYS)) => {
                Err(refuse(step, RefusalCode::ThpUnavailable, "madvise")
                    .errno(errno)
                    .numbers(format!("MADV_COLLAPSE made no page of {unit}; it needs Linux 6.1")))
            }
            _ => Ok(area.populate_merged(unit, self.populate, self.progress)),
        }
    }

    /// Whether the measurement denies the rung.
    fn disproved(
        &self,
        step: &Step,
        measured: &Measured,
        not_merged: Option<Errno>,
    ) -> Option<Refusal> {
        match step.rung {
            Rung::Huge(size) if measured.page_size != size || measured.huge < step.length => {
                let numbers = format!(
                    "measured are {} on huge pages, of {}",
                    format_bytes(measured.huge),
                    measured.page_size
                );
                Some(refuse(step, RefusalCode::System, "measure").numbers(numbers))
            }
            Rung::Thp if measured.huge == 0 => {
                let refusal = refuse(step, RefusalCode::ThpUnavailable, "measure")
                    .numbers("not one huge page could be formed");
                Some(match not_merged {
                    Some(errno) => refusal.errno(errno),
                    None => refusal,
                })
            }
            _ => None,
        }
    }

    pub(super) fn report(&self, step: &Step, location: String, measured: Measured) -> Backing {
        let asked = self.policy.to_string();
        Backing::new(asked, step.rung, step.backing, step.length, location, measured)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::BackingKind;
    use crate::region::testing::reserve_pages;
    use crate::size::PageSize;
    use crate::sys::{memfd, pagemap};
    use std::os::fd::AsFd;

    fn fill_old(pages: u64) -> core::result::Result<u64, RefusalCode> {
        let size = PageSize::SIZE_2M;
        let length = pages * size.bytes();
        let step = Step { rung: Rung::Huge(size), backing: BackingKind::Memfd, page: size, length };
        let policy = PagePolicy::auto();
        let fill = Fill {
            placement: &Placement::Default,
            populate: Populate::Full,
            progress: None,
            policy: &policy,
        };
        let fd = memfd::create("hugeshm-test", Some(size)).unwrap();
        file::set_length(fd.as_fd(), length).unwrap();
        let source = Source::File { fd: fd.as_fd(), writable: true };
        let code = |refusal: Refusal| refusal.code;
        let mapping = fill.map(&step, source, length as usize, None).map_err(code)?;
        let place = Place::File { fd: fd.as_fd(), dir: None };
        fill.fill_without_asking(&step, &mapping, place).map_err(code)?;
        for place in [Place::Segment, Place::Nowhere] {
            let refused = fill.fill_without_asking(&step, &mapping, place).map_err(code);
            assert_eq!(refused, Err(RefusalCode::KernelTooOld));
        }
        Ok(pagemap::scan(mapping.base(), mapping.len()).unwrap().huge)
    }

    #[test]
    fn kernels_without_populate_fill_files_and_refuse_what_would_be_a_signal() {
        let Some(pages) = reserve_pages(PageSize::SIZE_2M, 2) else {
            return;
        };
        let before = pages.counters();
        assert_eq!(fill_old(2), Ok(4 << 20));
        assert_eq!(fill_old(pages.available() + 1), Err(RefusalCode::PoolTooSmall));
        pages.assert_as(before, "the end");
    }
}

//! Faulting pages in: piece by piece, by one thread or several, and merging them.
//!
//! Pieces keep a signal, a progress bar and an error within reach. The first
//! error stops all threads; what they faulted in is given back by whoever drops
//! the mapping.
#![expect(unsafe_code, reason = "an address is handed to threads")]

use super::{Populate, Progress};
use crate::size::PageSize;
use crate::sys::mmap;
use nix::errno::Errno;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What one call to the kernel is asked to fault in, unless a single page is more.
const PIECE: usize = 64 << 20;
/// More threads than this wait for the same memory.
const THREADS_MAX: usize = 256;
/// How often a merge is tried again that the kernel could not do just then.
const COLLAPSE_ATTEMPTS: u32 = 4;

/// A range of mapped memory, as an address that threads may share.
#[derive(Clone, Copy)]
pub(super) struct Area {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the area is an address and a length, handed to the kernel and never dereferenced here.
unsafe impl Sync for Area {}

impl Area {
    pub(super) fn new(base: NonNull<u8>, len: usize) -> Self {
        Self { base, len }
    }

    fn at(&self, offset: usize) -> NonNull<u8> {
        debug_assert!(offset <= self.len);
        let address = self.base.as_ptr().wrapping_add(offset);
        // A range of mapped memory does not wrap round to address zero.
        NonNull::new(address).unwrap_or(self.base)
    }

    /// Faults in the whole area for writing, `EFAULT` where a touch would be a SIGBUS.
    pub(super) fn populate(
        &self,
        page: PageSize,
        how: Populate,
        progress: Option<Progress<'_>>,
    ) -> nix::Result<()> {
        let work = |range: Range<usize>| mmap::populate_write(self.at(range.start), range.len());
        self.in_pieces(page.bytes() as usize, how, progress, &work)
    }

    /// Faults in the whole area and merges what it can into huge pages of `unit`.
    ///
    /// The answer is the last reason why a unit was not merged, if one was not.
    pub(super) fn populate_merged(
        &self,
        unit: PageSize,
        how: Populate,
        progress: Option<Progress<'_>>,
    ) -> nix::Result<Option<Errno>> {
        let reason = Mutex::new(None);
        let unit = unit.bytes() as usize;
        let work = |range: Range<usize>| {
            mmap::populate_write(self.at(range.start), range.len())?;
            let mut start = range.start;
            while start + unit <= range.end {
                if let Err(errno) = self.merge(start, unit) {
                    *reason.lock().unwrap_or_else(|e| e.into_inner()) = Some(errno);
                }
                start += unit;
            }
            Ok(())
        };
        self.in_pieces(unit, how, progress, &work)?;
        Ok(reason.into_inner().unwrap_or_else(|e| e.into_inner()))
    }

    /// Merges the resident pages of one unit into a huge page.
    pub(super) fn merge(&self, offset: usize, unit: usize) -> nix::Result<()> {
        let mut attempt = 1;
        loop {
            match mmap::collapse(self.at(offset), unit) {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN | Errno::EBUSY) if attempt < COLLAPSE_ATTEMPTS => {
                    attempt += 1;
                    std::thread::yield_now();
                }
                answer => return answer,
            }
        }
    }

    /// Faults in the first `len` bytes.
    pub(super) fn populate_start(&self, len: usize) -> nix::Result<()> {
        mmap::populate_write(self.base, len.min(self.len))
    }

    fn in_pieces(
        &self,
        unit: usize,
        how: Populate,
        progress: Option<Progress<'_>>,
        work: &(dyn Fn(Range<usize>) -> nix::Result<()> + Sync),
    ) -> nix::Result<()> {
        let total = self.len as u64;
        let done = AtomicU64::new(0);
        let stop = AtomicBool::new(false);
        let first_error = Mutex::new(None);
        let piece = (PIECE / unit).max(1) * unit;
        let run = |share: Range<usize>| {
            let mut start = share.start;
            while start < share.end && !stop.load(Ordering::Relaxed) {
                let end = share.end.min(start.saturating_add(piece));
                if let Err(errno) = work(start..end) {
                    stop.store(true, Ordering::Relaxed);
                    first_error.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(errno);
                    return;
                }
                let bytes = (end - start) as u64;
                let sum = done.fetch_add(bytes, Ordering::Relaxed) + bytes;
                if let Some(progress) = progress {
                    progress(sum, total);
                }
                start = end;
            }
        };
        let mut shares = shares(self.len, unit, threads(how)).into_iter();
        let own = shares.next();
        std::thread::scope(|scope| {
            let run = &run;
            for share in shares {
                let thread = std::thread::Builder::new().name("hugeshm-populate".to_owned());
                let theirs = share.clone();
                if thread.spawn_scoped(scope, move || run(theirs)).is_err() {
                    run(share);
                }
            }
            if let Some(share) = own {
                run(share);
            }
        });
        first_error.into_inner().unwrap_or_else(|e| e.into_inner()).map_or(Ok(()), Err)
    }
}

fn threads(how: Populate) -> usize {
    let threads = match how {
        Populate::Full => 1,
        Populate::Parallel(0) => std::thread::available_parallelism().map_or(1, usize::from),
        Populate::Parallel(threads) => threads,
    };
    threads.min(THREADS_MAX)
}

/// `len` bytes as at most `threads` contiguous shares of whole units, the last one taking the rest.
fn shares(len: usize, unit: usize, threads: usize) -> Vec<Range<usize>> {
    let units = len.div_ceil(unit);
    let threads = threads.clamp(1, units.max(1));
    let mut shares = Vec::with_capacity(threads);
    let mut start = 0;
    for number in 0..threads {
        let count = units / threads + usize::from(number < units % threads);
        let end = len.min(start + count * unit);
        shares.push(start..end);
        start = end;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::mmap::{Mapped, Source};

    #[test]
    fn shares_cover_every_byte_once_and_are_whole_units() {
        for len in 1..40 {
            for unit in [1, 2, 7, 8] {
                for threads in [1, 2, 3, 64] {
                    let mut next = 0;
                    for share in shares(len, unit, threads) {
                        assert_eq!((share.start, share.start % unit), (next, 0));
                        assert!(
                            share.end > share.start,
                            "an empty share of {len}/{unit}/{threads}"
                        );
                        next = share.end;
                    }
                    assert_eq!(next, len);
                }
            }
        }
    }

    #[test]
    fn several_threads_populate_all_and_progress_ends_at_the_total() {
        let mapped = Mapped::new(Source::Anonymous { huge: None }, 3 << 20).unwrap();
        let area = Area::new(mapped.base(), mapped.len());
        let most = AtomicU64::new(0);
        let progress = |done, total| {
            assert_eq!(total, 3 << 20);
            most.fetch_max(done, Ordering::Relaxed);
        };
        area.populate(PageSize::SIZE_4K, Populate::Parallel(3), Some(&progress)).unwrap();
        assert_eq!(most.into_inner(), 3 << 20);
        assert_eq!(
            crate::sys::pagemap::scan(mapped.base(), mapped.len()).unwrap().resident,
            3 << 20
        );
    }

    #[test]
    fn the_first_error_stops_all_threads() {
        let area = Area::new(NonNull::dangling(), 1 << 30);
        let calls = AtomicU64::new(0);
        let work = |_: Range<usize>| {
            calls.fetch_add(1, Ordering::Relaxed);
            Err(Errno::EFAULT)
        };
        let answer = area.in_pieces(4096, Populate::Parallel(2), None, &work);
        assert_eq!(answer, Err(Errno::EFAULT));
        assert!(calls.into_inner() <= 2);
    }
}

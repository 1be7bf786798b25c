//! Memory that both workers have mapped: their meeting place, and raw bytes for the limits.
//!
//! The coordinator makes it, on huge pages if the pool has some, and the workers
//! open it through `/proc`. Both run this same program, so the bytes are lent as
//! slices: whoever takes one must have agreed with the other half, through words
//! of this memory, that nobody else touches them meanwhile.
#![expect(unsafe_code, reason = "maps memory and lends words and bytes of it")]

use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};
use nix::unistd::ftruncate;
use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Words for the meeting place and the contestants.
const WORDS_LEN: usize = 64 << 10;
/// Bytes for the limits.
pub(crate) const BYTES_LEN: usize = 16 << 20;
const HUGE: usize = 2 << 20;
const LEN: usize = (WORDS_LEN + BYTES_LEN).next_multiple_of(HUGE);

/// The line in which a word lies has this many bytes to itself.
const LINE: usize = 128;
/// Lines used by the stage itself.
pub(crate) const RESERVED_LINES: usize = 8;

/// The mapping.
#[derive(Debug)]
pub struct Shared {
    base: NonNull<u8>,
}

// SAFETY: the mapping lives until the value is dropped, may be accessed from any thread, and
// words are only lent as atomics.
unsafe impl Send for Shared {}
// SAFETY: as above; the slices are behind an unsafe call.
unsafe impl Sync for Shared {}

/// Makes the memory; true if it lies on huge pages.
pub(crate) fn create() -> nix::Result<(OwnedFd, bool)> {
    let huge = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB;
    for (flags, on_huge) in [(huge, true), (MFdFlags::MFD_CLOEXEC, false)] {
        let Ok(fd) = memfd_create(c"hugeshm-bench", flags) else { continue };
        // Populated by fallocate, which fails where a later touch would be a signal.
        let taken = ftruncate(&fd, LEN as i64).and_then(|()| {
            nix::fcntl::fallocate(&fd, nix::fcntl::FallocateFlags::empty(), 0, LEN as i64)
        });
        if taken.is_ok() {
            return Ok((fd, on_huge));
        }
    }
    Err(nix::errno::Errno::ENOMEM)
}

impl Shared {
    /// Maps what the process `coordinator` has open as `fd`.
    pub(crate) fn open(coordinator: u32, fd: i32) -> std::io::Result<Self> {
        let file =
            File::options().read(true).write(true).open(format!("/proc/{coordinator}/fd/{fd}"))?;
        Ok(Self::map(file.as_fd())?)
    }

    fn map(fd: impl AsFd) -> nix::Result<Self> {
        let length = NonZeroUsize::new(LEN).ok_or(nix::errno::Errno::EINVAL)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_POPULATE;
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
        let base = unsafe { mmap(None, length, protection, flags, fd, 0) }?;
        // SAFETY: advice about our own mapping; a refusal changes nothing.
        let _ = unsafe { madvise(base, LEN, MmapAdvise::MADV_DONTFORK) };
        Ok(Self { base: base.cast() })
    }

    fn at(&self, offset: usize) -> NonNull<u8> {
        assert!(offset < LEN);
        // SAFETY: `offset` is inside of the mapping of `LEN` bytes, compared above.
        unsafe { self.base.add(offset) }
    }

    /// The word at the front of line `line`; neighbouring lines never share a cache line.
    pub fn word(&self, line: usize) -> &AtomicU64 {
        self.word_in(line + RESERVED_LINES, 0)
    }

    /// Word `index` of line `line`, both from 0 on: 16 words share a line.
    pub(crate) fn word_in(&self, line: usize, index: usize) -> &AtomicU64 {
        assert!(line < WORDS_LEN / LINE && index < LINE / 8);
        let word = self.at(line * LINE + index * 8);
        // SAFETY: aligned to 8, inside of the mapping, which lives as long as the borrow of
        // `self`; this part of the memory is only lent as atomics.
        unsafe { word.cast::<AtomicU64>().as_ref() }
    }

    /// The atomic word at byte `offset` (a multiple of 8) of the raw bytes.
    pub(crate) fn raw_word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= BYTES_LEN);
        let word = self.at(WORDS_LEN + offset);
        // SAFETY: as in `word_in`; whoever lends the same bytes as a slice has promised, by the
        // contract of `bytes`, that nobody uses them otherwise meanwhile.
        unsafe { word.cast::<AtomicU64>().as_ref() }
    }

    /// `len` words of the raw bytes, from byte `offset` (a multiple of 8) on.
    ///
    /// # Safety
    ///
    /// Nobody in either process writes to them, or reads them, while the slice lives.
    #[expect(clippy::mut_from_ref, reason = "exclusive by the protocol of the two halves")]
    pub(crate) unsafe fn bytes(&self, offset: usize, len: usize) -> &mut [u64] {
        assert!(offset.is_multiple_of(8) && offset + len * 8 <= BYTES_LEN);
        let mut words =
            NonNull::slice_from_raw_parts(self.at(WORDS_LEN + offset).cast::<u64>(), len);
        // SAFETY: in range and aligned, compared above; exclusive by this function's contract.
        unsafe { words.as_mut() }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: our own mapping of this length; everything lent from it borrowed `self`.
        let _ = unsafe { munmap(self.base.cast(), LEN) };
    }
}

/// The number by which another process finds `fd` in `/proc`.
pub(crate) fn number(fd: &OwnedFd) -> i32 {
    fd.as_raw_fd()
}

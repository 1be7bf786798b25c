//! The memory door: a bounded window onto bytes that others may change.
//!
//! A mapped segment is written by processes we do not control, so no Rust
//! reference to its bytes may exist: a compiler may read such a reference twice
//! or assume that it did not change. This file is the one place that turns an
//! address into an access. Words are reached as atomics by offset, everything
//! else is copied by one routine. There is no `Deref`, no slice, and no system
//! call except [`View::write_to_fd`] and [`View::read_from_fd`], which hand the
//! address to the kernel instead of to the compiler.
//!
//! # Invariants
//!
//! * `base .. base + len` lies inside the memory that `memory` keeps mapped, for
//!   as long as `memory` lives; every `View` holds a share of it.
//! * `base` is a multiple of 8, so an offset that is a multiple of 8 is an
//!   aligned word.
//!
//! Offsets handed in come from private, checked geometry. An offset outside the
//! window is a bug of ours, never the doing of a peer; it panics before any
//! access happens.
//!
//! # Copies
//!
//! A peer that breaks the protocol may write while we copy. Short copies are
//! relaxed atomic loads and stores, one word at a time; long ones are vector
//! moves in inline assembly where the compiler has no say (x86-64), and words
//! elsewhere. What such a race yields is a mixture of old and new bytes, which
//! the caller treats like any other bytes from a peer.
#![expect(unsafe_code, reason = "the one place where mapped bytes are accessed")]

#[cfg(any(test, fuzzing))]
pub(crate) mod meddle;
mod slots;

use crate::sync::{AtomicU8, AtomicU32, AtomicU64};
use core::fmt;
use core::mem::MaybeUninit;
use core::ptr::{self, NonNull};
use core::sync::atomic::Ordering;
use nix::errno::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

pub(crate) use slots::{Slot, SlotCursor, SlotPlace, SlotShape};

/// Memory that stays mapped at one address for as long as the value lives.
///
/// # Safety
///
/// `base() .. base() + len()` must be readable, and writable where `writable()`
/// says so, from any thread, until the value is dropped; the three answers never
/// change; `base()` is a multiple of 8.
pub(crate) unsafe trait Memory: Send + Sync {
    /// The first byte.
    fn base(&self) -> NonNull<u8>;
    /// How many bytes from there on belong to it.
    fn len(&self) -> usize;
    /// Whether they may be written to.
    fn writable(&self) -> bool;
}

/// A window onto a part of some [`Memory`], which it keeps mapped.
#[derive(Clone)]
pub(crate) struct View {
    base: NonNull<u8>,
    len: usize,
    writable: bool,
    memory: Arc<dyn Memory>,
}

// SAFETY: the pointer leads into `memory`, which is Send and Sync and accessible from
// any thread by the contract of `Memory`; accesses are atomic or copies by `copy_in`/`copy_out`.
unsafe impl Send for View {}
// SAFETY: as above; no method gives out a plain reference into the memory.
unsafe impl Sync for View {}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("len", &self.len).field("writable", &self.writable).finish()
    }
}

impl View {
    /// The window onto all of `memory`.
    pub(crate) fn new(memory: Arc<dyn Memory>) -> Self {
        Self { base: memory.base(), len: memory.len(), writable: memory.writable(), memory }
    }

    /// The part of this window from `offset` (a multiple of 8) on, `len` bytes long.
    ///
    /// `None` if that is not inside this window or not aligned.
    pub(crate) fn window(&self, offset: usize, len: usize) -> Option<Self> {
        if !offset.is_multiple_of(8) || offset > self.len || len > self.len - offset {
            return None;
        }
        // SAFETY: `offset <= self.len` was compared above, so the sum stays within (or one past)
        // the memory that the invariant of `View` describes.
        let base = unsafe { self.base.add(offset) };
        Some(Self { base, len, writable: self.writable, memory: Arc::clone(&self.memory) })
    }

    /// The length in bytes.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether this process may write to it.
    #[inline]
    pub(crate) fn writable(&self) -> bool {
        self.writable
    }

    /// Whether the address of the first byte is a multiple of `align`, a power of two.
    pub(crate) fn is_aligned_to(&self, align: usize) -> bool {
        debug_assert!(align.is_power_of_two());
        self.base.addr().get() & (align - 1) == 0
    }

    /// The address of `len` bytes at `offset`.
    ///
    /// # Panics
    ///
    /// If they are not inside the window.
    #[inline]
    fn at(&self, offset: usize, len: usize) -> *mut u8 {
        #[cfg(any(test, fuzzing))]
        meddle::touches(self.base.addr().get().wrapping_add(offset));
        assert!(offset <= self.len && len <= self.len - offset, "offset outside its window");
        // SAFETY: the line above keeps `offset` within the window, and so, by the invariant of
        // `View`, within one allocation.
        unsafe { self.base.add(offset) }.as_ptr()
    }

    /// The address of `len` bytes at `offset` that this process may write to.
    #[inline]
    fn at_mut(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(self.writable, "write through a read-only window");
        self.at(offset, len)
    }

    /// The 64-bit word at `offset`, a multiple of 8. Loads only, where the view is read-only.
    #[inline]
    pub(crate) fn word64(&self, offset: usize) -> &AtomicU64 {
        assert!(offset & 7 == 0, "offset of a 64-bit word");
        let address = self.at(offset, 8);
        // SAFETY: `at` checked the range; base and offset are multiples of 8; the memory lives as
        // long as `self.memory`, which the returned lifetime borrows; words are only accessed as
        // atomics or by the copy routine of this file.
        unsafe { AtomicU64::from_ptr(address.cast()) }
    }

    /// The 32-bit word at `offset`, a multiple of 4. Loads only, where the view is read-only.
    #[inline]
    pub(crate) fn word32(&self, offset: usize) -> &AtomicU32 {
        assert!(offset & 3 == 0, "offset of a 32-bit word");
        let address = self.at(offset, 4);
        // SAFETY: as in `word64`, with 4 for 8.
        unsafe { AtomicU32::from_ptr(address.cast()) }
    }

    /// Loads the 64-bit word at `offset` once.
    #[inline]
    #[cfg_attr(hugeshm_loom, track_caller)]
    pub(crate) fn load64(&self, offset: usize, order: Ordering) -> u64 {
        #[cfg(test)]
        steps::loads();
        self.word64(offset).load(order)
    }

    /// Stores the 64-bit word at `offset`. Tests may stop the world behind each such store.
    #[inline]
    #[cfg_attr(hugeshm_loom, track_caller)]
    pub(crate) fn store64(&self, offset: usize, value: u64, order: Ordering) {
        assert!(self.writable, "write through a read-only window");
        self.word64(offset).store(value, order);
        #[cfg(test)]
        steps::stored();
    }

    /// Copies `bytes.len()` bytes at `offset` into `bytes`.
    #[inline]
    pub(crate) fn read(&self, offset: usize, bytes: &mut [u8]) {
        let source = self.at(offset, bytes.len());
        // SAFETY: `at` checked that the source range is inside the mapping; the destination is
        // an exclusive slice of that length, which cannot overlap mapped memory.
        unsafe { copy_out(source, bytes.as_mut_ptr(), bytes.len()) }
    }

    /// Copies `bytes` to `offset`.
    #[inline]
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        let target = self.at_mut(offset, bytes.len());
        #[cfg(test)]
        if steps::watched() {
            for (index, byte) in bytes.iter().enumerate() {
                self.at_mut(offset + index, 1);
                // SAFETY: the line above checked the range of this byte.
                unsafe { copy_in(core::ptr::from_ref(byte), target.wrapping_add(index), 1) };
                if index % 8 == 7 {
                    steps::stored();
                }
            }
            steps::stored();
            return;
        }
        // SAFETY: `at_mut` checked that the target range is inside a writable mapping; the source
        // is a slice of that length, which cannot overlap mapped memory.
        unsafe { copy_in(bytes.as_ptr(), target, bytes.len()) }
    }

    /// The `len` bytes at `offset`, a multiple of 8, as a message; the window is writable.
    ///
    /// That it is aligned is then known to the compiler, which saves the other case.
    #[inline(always)]
    pub(crate) fn message(&self, offset: usize, len: usize) -> Message<'_> {
        let base = self.at_mut(offset, len);
        assert!(base.addr() & 7 == 0, "offset of a message");
        Message { base, room: len, memory: core::marker::PhantomData }
    }

    /// Sets `len` bytes at `offset` to zero.
    pub(crate) fn zero(&self, offset: usize, len: usize) {
        const ZEROS: [u8; 4096] = [0; 4096];
        let mut done = 0;
        while done < len {
            let step = (len - done).min(ZEROS.len());
            self.write(offset + done, &ZEROS[..step]);
            done += step;
        }
    }

    /// Copies a `T` out of the bytes at `offset`; `None` if they are no valid `T`.
    ///
    /// The check is made on the private copy, so a peer cannot change it afterwards.
    #[inline]
    pub(crate) fn read_checked<T: bytemuck::CheckedBitPattern>(&self, offset: usize) -> Option<T> {
        let source = self.at(offset, size_of::<T>());
        // SAFETY: `at` checked the source range.
        unsafe { checked_copy(source) }
    }

    /// The `len` bytes at `offset` as a slice.
    ///
    /// # Safety
    ///
    /// No process may write to these bytes while the slice lives.
    #[inline]
    pub(crate) unsafe fn slice(&self, offset: usize, len: usize) -> &[u8] {
        let source = self.at(offset, len);
        // SAFETY: `at` checked the range, mapped for the borrow of `self`; any byte is a valid
        // `u8`; the caller promises that nobody writes to it meanwhile.
        unsafe { core::slice::from_raw_parts(source, len) }
    }

    /// The `len` bytes at `offset` as an exclusive slice.
    ///
    /// # Safety
    ///
    /// No process and no other code may touch these bytes while the slice lives.
    #[inline]
    #[expect(clippy::mut_from_ref, reason = "exclusiveness is the caller's promise")]
    pub(crate) unsafe fn slice_mut(&self, offset: usize, len: usize) -> &mut [u8] {
        let target = self.at_mut(offset, len);
        // SAFETY: `at_mut` checked the range, mapped writable for the borrow of `self`; any byte
        // is a valid `u8`; the caller promises that nobody else touches it meanwhile.
        unsafe { core::slice::from_raw_parts_mut(target, len) }
    }

    /// One `write(2)` of the `len` bytes at `offset`; how many the kernel took.
    pub(crate) fn write_to_fd(
        &self,
        offset: usize,
        len: usize,
        fd: BorrowedFd<'_>,
    ) -> nix::Result<usize> {
        let source = self.at(offset, len);
        loop {
            // SAFETY: the kernel reads `len` bytes that `at` found inside the mapping; changes
            // by others meanwhile are the kernel's plain memory reads, no Rust access.
            let taken = unsafe { libc::write(fd.as_raw_fd(), source.cast(), len) };
            match Errno::result(taken) {
                Ok(taken) => return Ok(taken.unsigned_abs()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// One `read(2)` of up to `len` bytes to `offset`; how many the kernel gave, 0 at the end.
    pub(crate) fn read_from_fd(
        &self,
        offset: usize,
        len: usize,
        fd: BorrowedFd<'_>,
    ) -> nix::Result<usize> {
        let target = self.at_mut(offset, len);
        loop {
            // SAFETY: the kernel writes at most `len` bytes that `at_mut` found inside a
            // writable mapping.
            let given = unsafe { libc::read(fd.as_raw_fd(), target.cast(), len) };
            match Errno::result(given) {
                Ok(given) => {
                    #[cfg(test)]
                    steps::stored();
                    return Ok(given.unsigned_abs());
                }
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
}

/// A 64-bit word whose place was checked once, so that hot paths need not look it up again.
///
/// Invariant: `word` is an aligned word inside the memory that `view` keeps mapped, which is
/// writable but for the word of a [`Look64`].
pub(crate) struct Word64 {
    word: NonNull<AtomicU64>,
    view: View,
}

// SAFETY: the pointer leads into memory that `view` keeps accessible from any thread; it is only
// used for atomic accesses.
unsafe impl Send for Word64 {}

impl fmt::Debug for Word64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.view.fmt(f)
    }
}

impl Word64 {
    #[inline]
    fn word(&self) -> &AtomicU64 {
        #[cfg(any(test, fuzzing))]
        meddle::touches(self.word.addr().get());
        // SAFETY: the invariant of the type; the lifetime borrows `self`, and so the mapping.
        unsafe { self.word.as_ref() }
    }

    /// Loads it once. Tests may meddle before each such load.
    #[inline]
    #[cfg_attr(hugeshm_loom, track_caller)]
    pub(crate) fn load(&self, order: Ordering) -> u64 {
        #[cfg(test)]
        steps::loads();
        self.word().load(order)
    }

    /// Stores it. Tests may stop the world behind each such store.
    #[inline]
    #[cfg_attr(hugeshm_loom, track_caller)]
    pub(crate) fn store(&self, value: u64, order: Ordering) {
        self.word().store(value, order);
        #[cfg(test)]
        steps::stored();
    }
}

/// A 32-bit word whose place was checked once; as [`Word64`].
pub(crate) struct Word32 {
    word: NonNull<AtomicU32>,
    view: View,
}

// SAFETY: as for `Word64`.
unsafe impl Send for Word32 {}

impl fmt::Debug for Word32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.view.fmt(f)
    }
}

impl Word32 {
    /// The word itself.
    #[inline]
    pub(crate) fn word(&self) -> &AtomicU32 {
        #[cfg(any(test, fuzzing))]
        meddle::touches(self.word.addr().get());
        // SAFETY: the invariant of the type; the lifetime borrows `self`, and so the mapping.
        unsafe { self.word.as_ref() }
    }
}

/// A 64-bit word whose place was checked once, for loads alone; as [`Word64`], but the memory need
/// not be writable.
pub(crate) struct Look64(Word64);

impl Look64 {
    /// Loads it once. Tests may meddle before each such load.
    #[inline(always)]
    #[cfg_attr(hugeshm_loom, track_caller)]
    pub(crate) fn load(&self, order: Ordering) -> u64 {
        self.0.load(order)
    }
}

impl View {
    /// The word at `offset`, found for good, to be looked at.
    pub(crate) fn look64(&self, offset: usize) -> Look64 {
        Look64(Word64 { word: NonNull::from(self.word64(offset)), view: self.clone() })
    }

    /// The word at `offset`, found for good; `None` if this process may not write to it.
    pub(crate) fn find64(&self, offset: usize) -> Option<Word64> {
        let word = NonNull::from(self.word64(offset));
        self.writable.then(|| Word64 { word, view: self.clone() })
    }

    /// The 32-bit word at `offset`, found for good; `None` if this process may not write to it.
    pub(crate) fn find32(&self, offset: usize) -> Option<Word32> {
        let word = NonNull::from(self.word32(offset));
        self.writable.then(|| Word32 { word, view: self.clone() })
    }

    /// A cursor over the first `count` blocks of `shape`.
    ///
    /// `None` if they are not all inside the window, there is none, the shape is not sound, or
    /// this process may not write here.
    pub(crate) fn blocks(&self, shape: BlockShape, count: u64) -> Option<BlockCursor> {
        if self.writable { self.cursor(shape, count) } else { None }
    }

    /// The same for one who only reads.
    pub(crate) fn blocks_to_read(&self, shape: BlockShape, count: u64) -> Option<BlockReader> {
        self.cursor(shape, count).map(|cursor| BlockReader { cursor })
    }

    fn cursor(&self, shape: BlockShape, count: u64) -> Option<BlockCursor> {
        let length = usize::try_from(count).ok()?.checked_mul(shape.bytes)?;
        let sound = shape.is_sound() && count > 0 && length <= self.len;
        sound.then(|| BlockCursor {
            place: BlockPlace { offset: 0, lap: 0 },
            last: length - shape.bytes,
            shape,
            view: self.clone(),
        })
    }
}

/// How a block is divided: a word, then messages of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockShape {
    /// The offset of the first message, a multiple of 8 and at least 8.
    pub first: usize,
    /// The distance of two messages, a multiple of 8.
    pub stride: usize,
    /// The number of messages.
    pub count: usize,
    /// The length of the block, a multiple of 8.
    pub bytes: usize,
}

impl BlockShape {
    /// Whether the word and all messages lie inside the block, at multiples of 8.
    fn is_sound(&self) -> bool {
        let aligned = [self.first, self.stride, self.bytes].iter().all(|n| n.is_multiple_of(8));
        let messages = self.stride.checked_mul(self.count);
        let end = messages.and_then(|messages| messages.checked_add(self.first));
        aligned && self.first >= 8 && end.is_some_and(|end| end <= self.bytes)
    }
}

/// A place in memory that is divided into blocks, each a word followed by messages.
///
/// Invariants: the shape is sound; `place.offset <= last`, both are multiples of `shape.bytes`;
/// `last + shape.bytes <= view.len()`; the view is writable, but for the cursor of a
/// [`BlockReader`].
#[derive(Debug)]
pub(crate) struct BlockCursor {
    place: BlockPlace,
    /// The offset of the last block.
    last: usize,
    shape: BlockShape,
    view: View,
}

/// Where one block of a [`BlockCursor`] begins, and how often the end was passed before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockPlace {
    offset: usize,
    lap: u64,
}

/// One block of a [`BlockCursor`].
///
/// Invariants: `base` is 8-aligned and `shape.bytes` bytes from there on lie inside the borrowed,
/// writable memory; the shape is sound.
pub(crate) struct Block<'a> {
    base: NonNull<u8>,
    /// A copy, which the compiler need not load anew behind each store to shared memory.
    shape: BlockShape,
    blocks: core::marker::PhantomData<&'a BlockCursor>,
}

/// One message: of a [`Block`], or anywhere in a [`View`].
///
/// Invariant: `base` is 8-aligned and `room` bytes from there on lie inside the borrowed, writable
/// memory.
pub(crate) struct Message<'a> {
    base: *mut u8,
    room: usize,
    memory: core::marker::PhantomData<&'a View>,
}

/// The blocks from a cursor's place on, round and round.
///
/// Invariant: `place.offset <= cursor.last`, a multiple of the block's length.
pub(crate) struct BlockWalk<'a> {
    place: BlockPlace,
    cursor: &'a BlockCursor,
}

impl BlockCursor {
    /// The block at `place`, which keeps the invariant of the cursor's own place.
    #[inline(always)]
    fn block_at(&self, place: BlockPlace) -> Block<'_> {
        debug_assert!(place.offset <= self.last);
        // SAFETY: `offset <= last` keeps the block inside the window by the invariant of the cursor.
        let base = unsafe { self.view.base.add(place.offset) };
        Block { base, shape: self.shape, blocks: core::marker::PhantomData }
    }

    /// The place behind `place`.
    #[inline(always)]
    pub(crate) fn behind(&self, place: BlockPlace) -> BlockPlace {
        if place.offset == self.last {
            BlockPlace { offset: 0, lap: place.lap + 1 }
        } else {
            BlockPlace { offset: place.offset + self.shape.bytes, lap: place.lap }
        }
    }

    /// The block at the cursor.
    #[inline(always)]
    pub(crate) fn block(&self) -> Block<'_> {
        self.block_at(self.place)
    }

    /// How often the cursor has passed the end.
    #[inline(always)]
    pub(crate) fn lap(&self) -> u64 {
        self.place.lap
    }

    /// Moves to a place that a walk of this cursor has come to.
    #[inline(always)]
    pub(crate) fn go(&mut self, place: BlockPlace) {
        assert!(place.offset <= self.last, "a place of another cursor");
        self.place = place;
    }

    /// Moves on by one block.
    #[inline(always)]
    pub(crate) fn advance(&mut self) {
        self.place = self.behind(self.place);
    }

    /// The blocks from the cursor on.
    #[inline(always)]
    pub(crate) fn walk(&self) -> BlockWalk<'_> {
        BlockWalk { place: self.place, cursor: self }
    }

    /// Moves to block number `index`, counted round and round; divides, for slow paths only.
    pub(crate) fn seek(&mut self, index: u64) {
        self.place = self.place_of(index);
    }

    fn place_of(&self, index: u64) -> BlockPlace {
        let count = (self.last / self.shape.bytes + 1) as u64;
        let offset = (index % count) as usize * self.shape.bytes;
        BlockPlace { offset, lap: index / count }
    }

    /// The blocks from block number `index` on; divides, for slow paths only.
    pub(crate) fn walk_from(&self, index: u64) -> BlockWalk<'_> {
        BlockWalk { place: self.place_of(index), cursor: self }
    }
}

/// A cursor that only reads, so the memory need not be writable.
///
/// It hands out no [`Block`] and no [`Message`], by which could be written.
#[derive(Debug)]
pub(crate) struct BlockReader {
    cursor: BlockCursor,
}

impl BlockReader {
    /// Loads the word of the block at the cursor.
    #[inline(always)]
    #[cfg_attr(hugeshm_loom, track_caller)]
    pub(crate) fn load(&self, order: Ordering) -> u64 {
        self.cursor.block().load(order)
    }

    /// Loads the word of block number `index`, counted round and round, and its lap; divides, for
    /// slow paths only.
    #[cfg_attr(hugeshm_loom, track_caller)]
    pub(crate) fn load_at(&self, index: u64, order: Ordering) -> (u64, u64) {
        let walk = self.cursor.walk_from(index);
        (walk.block().load(order), walk.lap())
    }

    /// How often the cursor has passed the end.
    #[inline(always)]
    pub(crate) fn lap(&self) -> u64 {
        self.cursor.lap()
    }

    /// Moves on by one block.
    #[inline(always)]
    pub(crate) fn advance(&mut self) {
        self.cursor.advance();
    }

    /// Moves to block number `index`, counted round and round; divides, for slow paths only.
    pub(crate) fn seek(&mut self, index: u64) {
        self.cursor.seek(index);
    }

    /// Copies the first bytes of message number `index` into `bytes`.
    #[inline(always)]
    pub(crate) fn read(&self, index: usize, bytes: &mut [u8]) {
        self.cursor.block().message(index).read(bytes);
    }

    /// Copies a `T` out of message number `index`; `None` if its bytes are no valid `T`.
    #[inline(always)]
    pub(crate) fn read_checked<T: bytemuck::CheckedBitPattern>(&self, index: usize) -> Option<T> {
        self.cursor.block().message(index).read_checked()
    }
}

impl<'a> BlockWalk<'a> {
    /// Moves on by one block.
    #[inline(always)]
    pub(crate) fn step(&mut self) {
        self.place = self.cursor.behind(self.place);
    }

    /// The block at this place.
    #[inline(always)]
    pub(crate) fn block(&self) -> Block<'a> {
        self.cursor.block_at(self.place)
    }

    /// How often the end was passed on the way here.
    #[inline(always)]
    pub(crate) fn lap(&self) -> u64 {
        self.place.lap
    }

    /// This place, for [`BlockCursor::go`].
    #[inline(always)]
    pub(crate) fn place(&self) -> BlockPlace {
        self.place
    }
}

impl<'a> Block<'a> {
    #[inline(always)]
    fn word(&self) -> &AtomicU64 {
        #[cfg(any(test, fuzzing))]
        meddle::touches(self.base.addr().get());
        // SAFETY: the invariant of `Block`: aligned and inside memory that is mapped while it is
        // borrowed; words are only accessed as atomics or by the copy routine of this file.
        unsafe { AtomicU64::from_ptr(self.base.as_ptr().cast()) }
    }

    /// Loads the block's word once. Tests may meddle before each such load.
    #[inline(always)]
    #[cfg_attr(hugeshm_loom, track_caller)]
    pub(crate) fn load(&self, order: Ordering) -> u64 {
        #[cfg(test)]
        steps::loads();
        self.word().load(order)
    }

    /// Stores the block's word. Tests may stop the world behind each such store.
    #[inline(always)]
    #[cfg_attr(hugeshm_loom, track_caller)]
    pub(crate) fn store(&self, value: u64, order: Ordering) {
        self.word().store(value, order);
        #[cfg(test)]
        steps::stored();
    }

    /// Whether the messages begin in a line behind the word's.
    #[inline(always)]
    pub(crate) fn is_spread(&self) -> bool {
        self.shape.first > 8
    }

    /// Message number `index`.
    #[inline(always)]
    pub(crate) fn message(&self, index: usize) -> Message<'a> {
        let shape = self.shape;
        assert!(index < shape.count, "message outside its block");
        // Inside the block, since the shape is sound and the index was checked.
        let base = self.base.as_ptr().wrapping_add(shape.first + index * shape.stride);
        Message { base, room: shape.stride, memory: core::marker::PhantomData }
    }
}

impl Message<'_> {
    /// The address of the message's bytes, of which `len` are used.
    #[inline(always)]
    fn bytes(&self, len: usize) -> *mut u8 {
        #[cfg(any(test, fuzzing))]
        meddle::touches(self.base.addr());
        assert!(len <= self.room, "message larger than its slot");
        self.base
    }

    /// Makes the first line of the message this processor's own, by writing to it.
    #[inline(always)]
    pub(crate) fn touch(&self) {
        self.write(&[0; 8]);
    }

    /// Copies `bytes` into the message.
    #[inline(always)]
    pub(crate) fn write(&self, bytes: &[u8]) {
        let target = self.bytes(bytes.len());
        #[cfg(test)]
        if steps::watched() {
            for (index, byte) in bytes.iter().enumerate() {
                // SAFETY: `index < bytes.len()`, which `bytes` above found to fit the message.
                unsafe { copy_in(core::ptr::from_ref(byte), target.wrapping_add(index), 1) };
                if index % 8 == 7 {
                    steps::stored();
                }
            }
            steps::stored();
            return;
        }
        // SAFETY: messages are 8-aligned.
        unsafe { core::hint::assert_unchecked(target.addr() & 7 == 0) };
        // SAFETY: `bytes` checked that the target fits into the writable message; the source is a
        // slice of that length, which cannot overlap mapped memory.
        unsafe { copy_in(bytes.as_ptr(), target, bytes.len()) }
    }

    /// Copies the first bytes of the message into `bytes`.
    #[inline(always)]
    pub(crate) fn read(&self, bytes: &mut [u8]) {
        let source = self.bytes(bytes.len());
        // SAFETY: messages are 8-aligned.
        unsafe { core::hint::assert_unchecked(source.addr() & 7 == 0) };
        // SAFETY: `bytes` checked that the source range is inside the message; the destination is
        // an exclusive slice of that length, which cannot overlap mapped memory.
        unsafe { copy_out(source, bytes.as_mut_ptr(), bytes.len()) }
    }

    /// Copies a `T` out of the first bytes of the message; `None` if they are no valid `T`.
    #[inline(always)]
    pub(crate) fn read_checked<T: bytemuck::CheckedBitPattern>(&self) -> Option<T> {
        let source = self.bytes(size_of::<T>());
        // SAFETY: messages are 8-aligned.
        unsafe { core::hint::assert_unchecked(source.addr() & 7 == 0) };
        // SAFETY: `bytes` checked that `size_of::<T>()` bytes are readable from there.
        unsafe { checked_copy(source) }
    }
}

/// Copies a `T` out of shared memory and checks its bits on the private copy.
///
/// # Safety
///
/// `size_of::<T>()` bytes are readable at `source`.
#[inline(always)]
unsafe fn checked_copy<T: bytemuck::CheckedBitPattern>(source: *const u8) -> Option<T> {
    let mut bits = MaybeUninit::<T::Bits>::uninit();
    const { assert!(size_of::<T>() == size_of::<T::Bits>()) }
    // SAFETY: the source is readable by the contract; the destination is a local of the same
    // size (asserted above).
    unsafe { copy_out(source, bits.as_mut_ptr().cast(), size_of::<T>()) };
    // SAFETY: all bytes were written by the copy, and `AnyBitPattern` takes any of them.
    let bits = unsafe { bits.assume_init() };
    if !T::is_valid_bit_pattern(&bits) {
        return None;
    }
    // SAFETY: `CheckedBitPattern` promises that `Bits` has the layout of `T` and that a valid
    // pattern may be taken for a `T`; `bits` is a local, read unaligned.
    Some(unsafe { core::ptr::from_ref(&bits).cast::<T>().read_unaligned() })
}

/// Up to this many bytes are copied word by word, inlined at the call.
const SHORT_MAX: usize = 128;

/// Copies `len` bytes of shared memory at `source` to private memory at `target`.
///
/// # Safety
///
/// `source` is readable and `target` writable for `len` bytes; the ranges do not overlap;
/// nobody else accesses the target.
#[inline]
unsafe fn copy_out(source: *const u8, target: *mut u8, len: usize) {
    if len > SHORT_MAX {
        // SAFETY: the caller's promise, handed on.
        return unsafe { copy_long(source, target, len, Direction::Out) };
    }
    // SAFETY: the caller's promise, handed on.
    unsafe { copy_out_words(source, target, len) }
}

/// Copies `len` bytes of private memory at `source` to shared memory at `target`.
///
/// # Safety
///
/// `source` is readable and `target` writable for `len` bytes; the ranges do not overlap;
/// nobody changes the source.
#[inline]
unsafe fn copy_in(source: *const u8, target: *mut u8, len: usize) {
    if len > SHORT_MAX {
        // SAFETY: the caller's promise, handed on.
        return unsafe { copy_long(source, target, len, Direction::In) };
    }
    // SAFETY: the caller's promise, handed on.
    unsafe { copy_in_words(source, target, len) }
}

/// Which side of a copy is shared.
#[derive(Clone, Copy)]
enum Direction {
    In,
    Out,
}

/// [`copy_out`] by relaxed atomic loads.
///
/// # Safety
///
/// As for [`copy_out`].
#[inline]
unsafe fn copy_out_words(source: *const u8, target: *mut u8, len: usize) {
    let mut done = 0;
    if source.addr() & 7 == 0 {
        while len - done >= 8 {
            let address = source.wrapping_add(done).cast_mut().cast::<u64>();
            // SAFETY: `done + 8 <= len` keeps the word inside the readable source; it is aligned
            // to 8 by the test above plus a multiple of 8; others access it as atomics only.
            let word = unsafe { AtomicU64::from_ptr(address) };
            let value = word.load(Ordering::Relaxed);
            // SAFETY: `done + 8 <= len` bytes of the target are writable by the contract.
            unsafe { ptr::write_unaligned(target.wrapping_add(done).cast::<u64>(), value) };
            done += 8;
        }
    }
    while done < len {
        // SAFETY: `done < len` keeps the byte inside the readable source; a byte is aligned.
        let byte = unsafe { AtomicU8::from_ptr(source.wrapping_add(done).cast_mut()) };
        let value = byte.load(Ordering::Relaxed);
        // SAFETY: `done < len` bytes of the target are writable by the contract.
        unsafe { ptr::write(target.wrapping_add(done), value) };
        done += 1;
    }
}

/// [`copy_in`] by relaxed atomic stores.
///
/// # Safety
///
/// As for [`copy_in`].
#[inline]
unsafe fn copy_in_words(source: *const u8, target: *mut u8, len: usize) {
    let mut done = 0;
    if target.addr() & 7 == 0 {
        while len - done >= 8 {
            // SAFETY: `done + 8 <= len` bytes of the source are readable by the contract.
            let value = unsafe { ptr::read_unaligned(source.wrapping_add(done).cast::<u64>()) };
            // SAFETY: `done + 8 <= len` keeps the word inside the writable target; it is aligned
            // to 8 by the test above plus a multiple of 8; others access it as atomics only.
            let word = unsafe { AtomicU64::from_ptr(target.wrapping_add(done).cast()) };
            word.store(value, Ordering::Relaxed);
            done += 8;
        }
    }
    while done < len {
        // SAFETY: `done < len` bytes of the source are readable by the contract.
        let value = unsafe { ptr::read(source.wrapping_add(done)) };
        // SAFETY: `done < len` keeps the byte inside the writable target; a byte is aligned.
        let byte = unsafe { AtomicU8::from_ptr(target.wrapping_add(done)) };
        byte.store(value, Ordering::Relaxed);
        done += 1;
    }
}

/// From this length on the processor's own string copy is fastest.
#[cfg(all(target_arch = "x86_64", not(miri)))]
const STRING_MIN: usize = 32 << 10;

/// The long copy: vector registers up to 32 KiB, the processor's string copy beyond, the rest in
/// words.
///
/// # Safety
///
/// As for [`copy_out`] or [`copy_in`], by `direction`.
#[cfg(all(target_arch = "x86_64", not(miri)))]
unsafe fn copy_long(source: *const u8, target: *mut u8, len: usize, direction: Direction) {
    if len >= STRING_MIN {
        // SAFETY: the instruction reads and writes exactly `len` bytes, both promised by the
        // caller; the direction flag is clear on entry by the ABI.
        unsafe {
            core::arch::asm!(
                "rep movsb",
                inout("rcx") len => _,
                inout("rsi") source => _,
                inout("rdi") target => _,
                options(nostack, preserves_flags),
            );
        }
        return;
    }
    let bulk = if std::arch::is_x86_feature_detected!("avx") {
        // SAFETY: the caller's promise, and the processor has AVX.
        unsafe { copy_avx(source, target, len) }
    } else {
        // SAFETY: the caller's promise.
        unsafe { copy_sse(source, target, len) }
    };
    let (source, target) = (source.wrapping_add(bulk), target.wrapping_add(bulk));
    match direction {
        // SAFETY: the remaining `len - bulk` bytes of both ranges, by the caller's promise.
        Direction::In => unsafe { copy_in_words(source, target, len - bulk) },
        // SAFETY: as above.
        Direction::Out => unsafe { copy_out_words(source, target, len - bulk) },
    }
}

/// Copies as many whole 128-byte pieces as there are; how many bytes that were.
///
/// # Safety
///
/// As for [`copy_long`]; the processor has AVX.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[target_feature(enable = "avx")]
unsafe fn copy_avx(source: *const u8, target: *mut u8, len: usize) -> usize {
    let bulk = len & !127;
    if bulk > 0 {
        // SAFETY: the loop reads and writes exactly `bulk <= len` bytes, 128 per turn and at least
        // one turn; the caller vouches for AVX; unaligned moves need no alignment; all registers
        // that change are declared (the compiler clears their upper halves where code without
        // AVX follows); the stack is not used.
        unsafe {
            core::arch::asm!(
                "2:",
                "vmovdqu {a}, [{source}]",
                "vmovdqu {b}, [{source} + 32]",
                "vmovdqu {c}, [{source} + 64]",
                "vmovdqu {d}, [{source} + 96]",
                "vmovdqu [{target}], {a}",
                "vmovdqu [{target} + 32], {b}",
                "vmovdqu [{target} + 64], {c}",
                "vmovdqu [{target} + 96], {d}",
                "add {source}, 128",
                "add {target}, 128",
                "sub {left}, 128",
                "jnz 2b",
                a = out(ymm_reg) _,
                b = out(ymm_reg) _,
                c = out(ymm_reg) _,
                d = out(ymm_reg) _,
                source = inout(reg) source => _,
                target = inout(reg) target => _,
                left = inout(reg) bulk => _,
                options(nostack),
            );
        }
    }
    bulk
}

/// Copies as many whole 64-byte pieces as there are; how many bytes that were.
///
/// # Safety
///
/// As for [`copy_long`].
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline]
unsafe fn copy_sse(source: *const u8, target: *mut u8, len: usize) -> usize {
    let bulk = len & !63;
    if bulk > 0 {
        // SAFETY: the loop reads and writes exactly `bulk <= len` bytes, 64 per turn and at
        // least one turn; SSE2 belongs to every x86-64; unaligned moves need no alignment; the
        // flags are declared clobbered by default, the stack is not used.
        unsafe {
            core::arch::asm!(
                "2:",
                "movups {a}, [{source}]",
                "movups {b}, [{source} + 16]",
                "movups {c}, [{source} + 32]",
                "movups {d}, [{source} + 48]",
                "movups [{target}], {a}",
                "movups [{target} + 16], {b}",
                "movups [{target} + 32], {c}",
                "movups [{target} + 48], {d}",
                "add {source}, 64",
                "add {target}, 64",
                "sub {left}, 64",
                "jnz 2b",
                a = out(xmm_reg) _,
                b = out(xmm_reg) _,
                c = out(xmm_reg) _,
                d = out(xmm_reg) _,
                source = inout(reg) source => _,
                target = inout(reg) target => _,
                left = inout(reg) bulk => _,
                options(nostack),
            );
        }
    }
    bulk
}

/// The long copy where no assembly is at hand.
///
/// # Safety
///
/// As for [`copy_out`] or [`copy_in`], by `direction`.
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
unsafe fn copy_long(source: *const u8, target: *mut u8, len: usize, direction: Direction) {
    match direction {
        // SAFETY: the caller's promise, handed on.
        Direction::In => unsafe { copy_in_words(source, target, len) },
        // SAFETY: the caller's promise, handed on.
        Direction::Out => unsafe { copy_out_words(source, target, len) },
    }
}

/// Stops the world behind each store, so that tests can look at what a killed process leaves; and
/// before each load of a word, so that they can let others go on in between.
#[cfg(test)]
pub(crate) mod steps {
    use std::cell::RefCell;

    thread_local! {
        static WATCHER: RefCell<Option<Box<dyn FnMut()>>> = const { RefCell::new(None) };
        static MEDDLER: RefCell<Option<Box<dyn FnMut()>>> = const { RefCell::new(None) };
    }

    /// Called before each load of a 64-bit word by its offset.
    pub(crate) fn loads() {
        MEDDLER.with(|meddler| {
            if let Ok(mut meddler) = meddler.try_borrow_mut()
                && let Some(meddler) = meddler.as_mut()
            {
                meddler();
            }
        });
    }

    /// Runs `work` with `meddler` called before each of its loads of a word.
    pub(crate) fn meddle<R>(meddler: impl FnMut() + 'static, work: impl FnOnce() -> R) -> R {
        MEDDLER.with(|slot| *slot.borrow_mut() = Some(Box::new(meddler)));
        let result = work();
        MEDDLER.with(|slot| *slot.borrow_mut() = None);
        result
    }

    /// Whether a watcher is set in this thread.
    pub(crate) fn watched() -> bool {
        // Not while a watcher runs, whose own stores nobody watches.
        WATCHER.with(|watcher| watcher.try_borrow().is_ok_and(|watcher| watcher.is_some()))
    }

    /// Called behind each store through a view.
    pub(crate) fn stored() {
        WATCHER.with(|watcher| {
            if let Ok(mut watcher) = watcher.try_borrow_mut()
                && let Some(watcher) = watcher.as_mut()
            {
                watcher();
            }
        });
    }

    /// Runs `work` with `watcher` called behind each of its stores.
    pub(crate) fn watch<R>(watcher: impl FnMut() + 'static, work: impl FnOnce() -> R) -> R {
        WATCHER.with(|slot| *slot.borrow_mut() = Some(Box::new(watcher)));
        let result = work();
        WATCHER.with(|slot| *slot.borrow_mut() = None);
        result
    }
}

/// Zeroed private memory, for tests of whatever is built on views.
#[cfg(test)]
mod heap {
    use super::*;
    use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};

    pub(super) struct Heap {
        base: NonNull<u8>,
        layout: Layout,
        len: usize,
        writable: bool,
    }

    // SAFETY: the allocation is owned, not tied to a thread, and freed only by drop.
    unsafe impl Send for Heap {}
    // SAFETY: as above; all access goes through `View`.
    unsafe impl Sync for Heap {}

    // SAFETY: the allocation of `layout.size() >= len` bytes, aligned to 4096, lives until drop.
    unsafe impl Memory for Heap {
        fn base(&self) -> NonNull<u8> {
            self.base
        }
        fn len(&self) -> usize {
            self.len
        }
        fn writable(&self) -> bool {
            self.writable
        }
    }

    impl Drop for Heap {
        fn drop(&mut self) {
            #[cfg(hugeshm_loom)]
            crate::sync::modelled::leave(self.base.as_ptr());
            // SAFETY: allocated in `new` with this layout, freed once.
            unsafe { dealloc(self.base.as_ptr(), self.layout) }
        }
    }

    impl Heap {
        pub(super) fn new(len: usize, writable: bool) -> Self {
            let layout = Layout::from_size_align(len.max(1), 4096).expect("a small size");
            // SAFETY: the layout is not empty.
            let base = unsafe { alloc_zeroed(layout) };
            let Some(base) = NonNull::new(base) else { handle_alloc_error(layout) };
            Self { base, layout, len, writable }
        }
    }

    impl View {
        /// `len` zeroed bytes of private memory, aligned to 4096.
        pub(crate) fn heap(len: usize) -> Self {
            Self::new(Arc::new(Heap::new(len, true)))
        }

        /// Control words of the model that runs: of each 128 bytes the first `used`, and the
        /// others are left alone.
        #[cfg(hugeshm_loom)]
        pub(crate) fn modelled_control(len: usize, used: usize) -> Self {
            Self::modelled(len, used, true)
        }

        /// A payload of the model that runs, in words of 64 bits.
        #[cfg(hugeshm_loom)]
        pub(crate) fn modelled_payload(len: usize) -> Self {
            Self::modelled(len, 128, false)
        }

        #[cfg(hugeshm_loom)]
        fn modelled(len: usize, used: usize, small: bool) -> Self {
            let heap = Heap::new(len, true);
            crate::sync::modelled::enter(heap.base.as_ptr(), len, used, small);
            Self::new(Arc::new(heap))
        }

        /// The same, read-only.
        pub(crate) fn heap_read_only(len: usize) -> Self {
            Self::new(Arc::new(Heap::new(len, false)))
        }

        /// All bytes of the window.
        pub(crate) fn snapshot(&self) -> Vec<u8> {
            let mut bytes = vec![0; self.len()];
            self.read(0, &mut bytes);
            bytes
        }

        /// A new piece of heap memory that holds `bytes`.
        pub(crate) fn of(bytes: &[u8]) -> Self {
            let view = Self::heap(bytes.len());
            view.write(0, bytes);
            view
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, Write};
    use std::os::fd::AsFd;

    #[test]
    fn windows_never_reach_beyond_their_parent() {
        let view = View::heap(4096);
        assert!(view.window(0, 4097).is_none());
        assert!(view.window(4096, 1).is_none());
        assert!(view.window(8, usize::MAX).is_none());
        assert!(view.window(usize::MAX & !7, 8).is_none());
        assert!(view.window(4, 8).is_none(), "an unaligned window");
        let part = view.window(64, 128).unwrap();
        part.store64(120, 7, Ordering::Relaxed);
        assert_eq!(view.load64(184, Ordering::Relaxed), 7);
        assert!(view.window(4096, 0).is_some());
        assert!(part.is_aligned_to(64) && !part.is_aligned_to(128));
    }

    #[test]
    fn accesses_outside_the_window_panic_before_they_happen() {
        let view = View::heap(64);
        for access in [
            (|v| _ = v.word64(64)) as fn(&View),
            |v| _ = v.word64(60),
            |v| _ = v.word64(usize::MAX - 7),
            |v| _ = v.word32(62),
            |v| v.read(60, &mut [0; 5]),
            |v| v.write(65, &[]),
            |v| v.zero(0, 65),
        ] {
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| access(&view)));
            assert!(caught.is_err());
        }
        let sealed = View::heap_read_only(64);
        let write = std::panic::AssertUnwindSafe(|| sealed.write(0, &[1]));
        assert!(std::panic::catch_unwind(write).is_err());
    }

    #[test]
    fn copies_of_every_length_and_offset_are_exact() {
        let view = View::heap(4096);
        for offset in 0..17 {
            for len in (0..300).chain([511, 1024, 1027]) {
                let source: Vec<u8> = (0..len).map(|i| (i * 7 + offset) as u8 | 1).collect();
                view.zero(0, 2048);
                view.write(offset, &source);
                let mut target = vec![0; len];
                view.read(offset, &mut target);
                assert_eq!(source, target);
                let all = view.snapshot();
                assert!(all[..offset].iter().chain(&all[offset + len..]).all(|byte| *byte == 0));
            }
        }
    }

    #[test]
    fn a_bad_bit_pattern_is_no_value() {
        let view = View::heap(64);
        view.write(0, &[1, 2]);
        assert_eq!(view.read_checked::<bool>(0), Some(true));
        assert_eq!(view.read_checked::<bool>(1), None);
        assert_eq!(view.read_checked::<u16>(0), Some(513));
    }

    #[test]
    fn bytes_pass_to_and_from_files() {
        let view = View::heap(64);
        view.write(8, b"hello");
        let mut file = tempfile::tempfile().unwrap();
        assert_eq!(view.write_to_fd(8, 5, file.as_fd()), Ok(5));
        file.write_all(b" there").unwrap();
        file.rewind().unwrap();
        assert_eq!(view.read_from_fd(32, 11, file.as_fd()), Ok(11));
        let mut bytes = [0; 11];
        view.read(32, &mut bytes);
        assert_eq!(&bytes, b"hello there");
        assert_eq!(file.read(&mut bytes).unwrap(), 0);
    }

    #[test]
    fn the_memory_outlives_every_window() {
        let part = View::heap(4096).window(8, 8).unwrap();
        part.store64(0, 5, Ordering::Relaxed);
        assert_eq!(part.load64(0, Ordering::Relaxed), 5);
    }
}

//! For tests that are hostile: a call before each access through a view, and memory between guard
//! pages.
//!
//! A peer may write between any two of our loads. Tests that want to be that
//! peer register a closure here, which runs in the same thread before each word
//! is looked at and before each copy: so what it writes comes exactly between
//! two accesses, and the same input gives the same run. The calls are counted,
//! which bounds the work of an operation without a clock.
//!
//! [`View::between_guards`] puts the memory of an object between two pages that
//! nobody may touch, so that an access outside is a signal instead of a look at
//! somebody else's bytes. What a page cannot tell, because the object does not
//! end where one ends, bytes of a known value tell: [`Guarded::is_intact`].
//!
//! None of this is there in a library that is built to be used.

use super::{Memory, View};
use core::num::NonZeroUsize;
use core::ptr::NonNull;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::sync::Arc;

/// What is called before each access, with the address of its first byte.
type Hook = Box<dyn FnMut(usize)>;

thread_local! {
    static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
    static TOUCHES: Cell<u64> = const { Cell::new(0) };
    static GUARDS: RefCell<Option<Vec<Moved>>> = const { RefCell::new(None) };
}

/// A window whose bytes lie between guard pages instead.
struct Moved {
    base: usize,
    len: usize,
    memory: Arc<Guarded>,
}

/// Called before each access through a view, a word or a message, at an address.
#[inline]
pub(super) fn touches(address: usize) {
    TOUCHES.set(TOUCHES.get() + 1);
    HOOK.with(|hook| {
        if let Ok(mut hook) = hook.try_borrow_mut()
            && let Some(hook) = hook.as_mut()
        {
            hook(address);
        }
    });
}

/// How many accesses this thread has made.
pub(crate) fn touched() -> u64 {
    TOUCHES.get()
}

/// Runs `work` with `hook` called before each of its accesses; those of the hook itself are not
/// announced to it.
pub(crate) fn during<R>(hook: impl FnMut(usize) + 'static, work: impl FnOnce() -> R) -> R {
    struct Unhook;
    impl Drop for Unhook {
        fn drop(&mut self) {
            HOOK.with(|slot| slot.take());
        }
    }
    HOOK.with(|slot| slot.replace(Some(Box::new(hook))));
    let _unhook = Unhook;
    work()
}

/// From now on the windows of objects that this thread attaches to lie between guard pages; each
/// of them anew, also those of which it had one before.
pub(crate) fn guard_objects() {
    GUARDS.set(Some(Vec::new()));
}

/// From now on they lie where they are.
pub(crate) fn guard_nothing() {
    GUARDS.set(None);
}

/// The windows that lie between guard pages now.
pub(crate) fn guarded() -> Vec<Arc<Guarded>> {
    GUARDS.with_borrow(|guards| {
        guards.iter().flatten().map(|moved| Arc::clone(&moved.memory)).collect()
    })
}

impl View {
    /// Where in this window an address lies, if it does.
    pub(crate) fn offset_of(&self, address: usize) -> Option<usize> {
        address.checked_sub(self.base.addr().get()).filter(|offset| *offset < self.len)
    }

    /// The same bytes between guard pages, where [`guard_objects`] asked for it: a copy of them at
    /// the first call, and that copy from then on.
    pub(crate) fn between_guards(self) -> Self {
        GUARDS.with_borrow_mut(|guards| {
            let Some(guards) = guards.as_mut() else { return self };
            let (base, len) = (self.base.addr().get(), self.len);
            let known = guards.iter().find(|moved| (moved.base, moved.len) == (base, len));
            let memory = match known {
                Some(moved) => Arc::clone(&moved.memory),
                None => {
                    // Every second one begins where a page begins, the others end where one ends.
                    let memory = Arc::new(Guarded::copy_of(&self, guards.len().is_multiple_of(2)));
                    guards.push(Moved { base, len, memory: Arc::clone(&memory) });
                    memory
                }
            };
            Self { base: memory.base, len, writable: self.writable, memory }
        })
    }
}

/// Memory between two pages without any rights.
///
/// Invariants: `whole` bytes from `start` on are a mapping of our own, the first and the last page
/// without rights, the rest readable and writable; `base .. base + len` lies in that rest.
pub(crate) struct Guarded {
    start: NonNull<u8>,
    whole: usize,
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is owned, not tied to a thread, and unmapped only by drop.
unsafe impl Send for Guarded {}
// SAFETY: as above; all access goes through `View`, or is made while no view is at work.
unsafe impl Sync for Guarded {}

// SAFETY: by the invariant the range is readable and writable until drop; `base` is a multiple of
// 8 because `copy_of` keeps the alignment of a view.
unsafe impl Memory for Guarded {
    fn base(&self) -> NonNull<u8> {
        self.base
    }

    fn len(&self) -> usize {
        self.len
    }

    fn writable(&self) -> bool {
        true
    }
}

const PAGE: usize = 4096;
/// What stands between the object and its guard pages.
const PADDING: u8 = 0xa5;

impl Guarded {
    fn copy_of(view: &View, at_front: bool) -> Self {
        let room = view.len.next_multiple_of(PAGE).max(PAGE);
        let whole = room + 2 * PAGE;
        let length = NonZeroUsize::new(whole).expect("two pages and more");
        let rights = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new private mapping, placed by the kernel.
        let start = unsafe { mmap_anonymous(None, length, rights, MapFlags::MAP_PRIVATE) };
        let start = start.expect("some pages").cast::<u8>();
        for guard in [0, PAGE + room] {
            // SAFETY: the offset of a page inside of the mapping.
            let page = unsafe { start.add(guard) };
            // SAFETY: a page of the mapping that was made above, which nobody looked at yet.
            unsafe { mprotect(page.cast(), PAGE, ProtFlags::PROT_NONE) }.expect("our own page");
        }
        let align = 1 << view.base.addr().trailing_zeros().min(PAGE.trailing_zeros());
        let at = if at_front { PAGE } else { (PAGE + room - view.len) / align * align };
        // SAFETY: between the two guard pages.
        let base = unsafe { start.add(at) };
        let guarded = Self { start, whole, base, len: view.len };
        for padding in guarded.padding() {
            // SAFETY: padding lies inside of the mapping, outside of the guard pages.
            let first = unsafe { start.add(padding.start) };
            // SAFETY: as above, and the range is writable; nobody else knows of it yet.
            unsafe { first.write_bytes(PADDING, padding.len()) };
        }
        let mut bytes = vec![0; view.len];
        view.read(0, &mut bytes);
        // SAFETY: `len` writable bytes from `base` on, which nobody else knows of yet; the source
        // is a private vector of that length.
        unsafe { base.copy_from_nonoverlapping(NonNull::from(&mut bytes[..]).cast(), view.len) };
        guarded
    }

    /// The bytes before and behind the object, as offsets from `start`.
    fn padding(&self) -> [Range<usize>; 2] {
        let base = self.base.addr().get() - self.start.addr().get();
        [PAGE..base, base + self.len..self.whole - PAGE]
    }

    /// Whether nobody wrote beside the object.
    pub(crate) fn is_intact(&self) -> bool {
        self.padding().into_iter().flatten().all(|at| {
            // SAFETY: padding lies inside of the mapping, outside of the guard pages.
            let byte = unsafe { self.start.add(at) };
            // SAFETY: as above, and so it is readable.
            unsafe { byte.read_volatile() == PADDING }
        })
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the whole mapping, which was made by `copy_of`; every view keeps `self` alive.
        unsafe { munmap(self.start.cast(), self.whole) }.expect("our own mapping");
    }
}

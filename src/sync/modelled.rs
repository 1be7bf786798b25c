//! Atomics for the models: every access by way of `loom`.
//!
//! Shared memory is plain bytes, reached by address, and `loom`'s atomics cannot
//! lie on plain bytes. So the words here are still words in memory, at the same
//! addresses, with the same pointer arithmetic around them; but an access to one
//! looks up which atomic of `loom` stands for its address. [`enter`] says which
//! bytes are modelled: they are filled with zeros, and each eight of them may be
//! used as one 64-bit word or as two 32-bit words, not as both. Bytes outside
//! (statistics, private words) are accessed as they are.
//!
//! Three more things are of the model:
//!
//! * *Death.* A thread may be told to die at its nth access ([`dies_after`]): it
//!   unwinds, and whatever its destructors would still write is not written.
//! * *Sleep.* A futex is a list of sleeping threads. A sleep
//!   never times out, so that a wake that gets lost is a deadlock, which `loom`
//!   reports; but once somebody has died ([`slices_end`]) every sleep ends, as
//!   slices do.
//! * *Weakened orderings.* Each access knows the line of source that asks for it.
//!   With `HUGESHM_WEAKEN=file:line:column` the ordering there is taken for
//!   relaxed (a fence for none); with `HUGESHM_SITES=path` the places whose
//!   ordering is not relaxed are appended to that file.
//!
//! `loom` keeps no total order of the stores to one word, and so lets an exchange
//! and a plain store pass each other, which no machine does. Words that are
//! exchanged are therefore also stored to by exchanges.
//!
//! The barrier that replaces the sender's fence (`membarrier`) is not modelled:
//! every end fences by itself. That the barrier does the same is argued in `wait`.
#![expect(unsafe_code, reason = "words that lie on memory, and are found by address")]

use core::cell::{Cell, RefCell, UnsafeCell};
use core::panic::Location;
use core::sync::atomic::Ordering::{self, Acquire, Relaxed, Release};
use loom::sync::atomic as model;
use nix::errno::Errno;
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::{Arc, Mutex, OnceLock};

/// Eight modelled bytes.
struct Group {
    whole: model::AtomicU64,
    /// What they are used as, once that is known.
    width: Cell<u32>,
    /// Whether a 64-bit word was ever exchanged.
    exchanged: Cell<bool>,
    /// Where there may be two small words.
    small: Option<Small>,
}

/// Two words of 32 bits, on which threads sleep.
struct Small {
    halves: [model::AtomicU32; 2],
    /// What was stored last, as the kernel sees it.
    last: [Cell<u32>; 2],
    /// The kernel's lock, which whoever sleeps here and whoever wakes passes through.
    door: model::AtomicU32,
}

impl Group {
    fn new(small: bool) -> Rc<Self> {
        let word = || model::AtomicU32::new(0);
        let small = small.then(|| Small {
            halves: [word(), word()],
            last: [Cell::new(0), Cell::new(0)],
            door: word(),
        });
        let whole = model::AtomicU64::new(0);
        Rc::new(Self { whole, width: Cell::new(0), exchanged: Cell::new(false), small })
    }

    fn small(&self) -> &Small {
        self.small.as_ref().expect("words of 32 bits are modelled here")
    }
}

/// Modelled bytes from an address on.
struct Region {
    base: usize,
    groups: Vec<Option<Rc<Group>>>,
}

/// All that belongs to one run of a model. `loom` runs its threads one at a time on one thread of
/// the system, so a thread-local belongs to all of them.
#[derive(Default)]
struct Run {
    regions: Vec<Region>,
    /// Who sleeps on which address, in the order in which they lay down.
    sleepers: Vec<(usize, loom::thread::Thread)>,
    /// Accesses that are left to threads that are to die.
    lives: HashMap<loom::thread::ThreadId, u32>,
    dead: HashMap<loom::thread::ThreadId, ()>,
    slices_end: bool,
    nanos: u64,
}

thread_local! {
    static RUN: RefCell<Option<Run>> = const { RefCell::new(None) };
}

/// What a thread that dies unwinds with.
pub(crate) struct Died;

fn with_run<R>(work: impl FnOnce(&mut Run) -> R) -> Option<R> {
    RUN.with(|run| run.borrow_mut().as_mut().map(work))
}

/// A run of a model; it is over when this is dropped.
pub(crate) struct Running;

/// Begins a run of a model: nothing is modelled yet, nobody is dead.
pub(crate) fn begin() -> Running {
    RUN.with(|run| *run.borrow_mut() = Some(Run::default()));
    Running
}

impl Drop for Running {
    fn drop(&mut self) {
        let run = RUN.with(|run| run.borrow_mut().take());
        if std::thread::panicking() {
            // What is left of a model that failed belongs to no run any more.
            core::mem::forget(run);
        }
    }
}

/// Whether a model runs in this thread.
pub(crate) fn runs() -> bool {
    RUN.with(|run| run.borrow().is_some())
}

/// Models the zeroed bytes `base .. base + len`, but only the first `used` of each 128: what else
/// there is must not be come to. Words of 32 bits can be there if `small` says so.
pub(crate) fn enter(base: *const u8, len: usize, used: usize, small: bool) {
    assert!(runs(), "modelled memory belongs to a model");
    let groups = (0..len.div_ceil(8))
        .map(|index| (index * 8 % 128 < used).then(|| Group::new(small)))
        .collect();
    with_run(|run| run.regions.push(Region { base: base.addr(), groups }));
}

/// The bytes from `base` on are no longer modelled.
pub(crate) fn leave(base: *const u8) {
    with_run(|run| run.regions.retain(|region| region.base != base.addr()));
}

/// The group of an address, if it is modelled; `width` is the access's in bytes.
fn group_of(address: usize, width: u32) -> Option<Rc<Group>> {
    let group = with_run(|run| {
        run.regions.iter().find_map(|region| {
            let offset = address.checked_sub(region.base)?;
            let group = region.groups.get(offset / 8)?;
            Some(Rc::clone(group.as_ref().expect("a word that is not modelled")))
        })
    })??;
    let before = group.width.replace(width);
    assert!(before == 0 || before == width, "a modelled word of {before} bytes, used as {width}");
    Some(group)
}

/// This thread dies instead of making access number `count` from now on.
pub(crate) fn dies_after(count: u32) {
    let me = loom::thread::current().id();
    with_run(|run| run.lives.insert(me, count));
}

/// This thread does not die any more.
pub(crate) fn lives_on() {
    let me = loom::thread::current().id();
    with_run(|run| run.lives.remove(&me));
}

/// This thread, which died, acts as the kernel that cleans up behind it.
pub(crate) fn buried() {
    let me = loom::thread::current().id();
    with_run(|run| run.dead.remove(&me));
}

/// Whether this thread is dead: what it does has no effect.
fn is_dead() -> bool {
    if !runs() {
        return false;
    }
    let me = loom::thread::current().id();
    with_run(|run| run.dead.contains_key(&me)).unwrap_or(false)
}

/// Counts an access of this thread, before it is made.
fn step() {
    let me = loom::thread::current().id();
    let dies = with_run(|run| {
        let left = run.lives.get_mut(&me)?;
        if *left > 0 {
            *left -= 1;
            return None;
        }
        run.lives.remove(&me);
        run.dead.insert(me, ());
        Some(())
    });
    if dies.flatten().is_some() {
        std::panic::resume_unwind(Box::new(Died));
    }
}

/// The time in a model: a second later at each look.
pub(crate) fn nanos() -> Option<u64> {
    with_run(|run| {
        run.nanos += 1_000_000_000;
        run.nanos
    })
}

/// Lets others go on in a loop that waits for them.
pub(crate) fn spin_loop() {
    if runs() && !is_dead() {
        loom::thread::yield_now();
    } else {
        core::hint::spin_loop();
    }
}

/// Somebody has died: from now on every sleep ends by itself.
pub(crate) fn slices_end() {
    let sleepers = with_run(|run| {
        run.slices_end = true;
        core::mem::take(&mut run.sleepers)
    });
    sleepers.unwrap_or_default().into_iter().for_each(|(_, thread)| thread.unpark());
}

/// As `FUTEX_WAIT`, without a timeout.
///
/// Nobody else runs between passing the door and the sleep, as in the kernel.
pub(crate) fn futex_wait(word: &AtomicU32, expected: u32) -> nix::Result<()> {
    let ends = || with_run(|run| run.slices_end).unwrap_or(false);
    let address = word.as_ptr().addr();
    let group = group_of(address, 4).expect("only modelled words are slept on");
    let small = group.small();
    small.door.fetch_add(1, Ordering::AcqRel);
    trace("sleeps on", address, small.last[half_of(address)].get().into(), Location::caller());
    if small.last[half_of(address)].get() != expected {
        // The kernel has read what was stored last, and so this thread reads nothing older.
        half(&group, address).fetch_or(0, Relaxed);
        return Err(Errno::EAGAIN);
    }
    if !ends() {
        let me = (address, loom::thread::current());
        with_run(|run| run.sleepers.push(me));
        loom::thread::park();
    }
    if ends() { Err(Errno::ETIMEDOUT) } else { Ok(()) }
}

/// As `FUTEX_WAKE`.
pub(crate) fn futex_wake(word: &AtomicU32, count: i32) -> nix::Result<usize> {
    if is_dead() {
        return Ok(0);
    }
    let address = word.as_ptr().addr();
    let group = group_of(address, 4).expect("only modelled words are slept on");
    group.small().door.fetch_add(1, Ordering::AcqRel);
    let mut woken = 0;
    while woken < count {
        let next = with_run(|run| {
            let place = run.sleepers.iter().position(|(at, _)| *at == address)?;
            Some(run.sleepers.remove(place).1)
        });
        let Some(thread) = next.flatten() else { break };
        thread.unpark();
        woken += 1;
        trace("wakes", address, 1, Location::caller());
    }
    Ok(usize::try_from(woken).unwrap_or(0))
}

/// Tells of an access, where `HUGESHM_TRACE` is set: to see what led to a failure.
fn trace(what: &str, address: usize, value: u64, place: &Location<'_>) {
    static TRACE: OnceLock<Option<String>> = OnceLock::new();
    if asked("HUGESHM_TRACE", &TRACE).is_none() {
        return;
    }
    let me = loom::thread::current().id();
    let at = with_run(|run| {
        let found = run.regions.iter().enumerate().find_map(|(number, region)| {
            let offset = address.checked_sub(region.base)?;
            (offset / 8 < region.groups.len()).then(|| format!("memory {number} + {offset}"))
        });
        found.unwrap_or_default()
    });
    let at = at.unwrap_or_default();
    eprintln!("{me:?} {what} {at} {value:#x} {}:{}", place.file(), place.line());
}

/// The places whose ordering is not relaxed, that were come to.
static SITES: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// What the environment says about orderings.
fn asked(name: &'static str, cell: &'static OnceLock<Option<String>>) -> Option<&'static str> {
    cell.get_or_init(|| std::env::var(name).ok()).as_deref()
}

/// Whether the ordering at `place` is to be weakened; notes that it was come to.
fn is_weak(place: &Location<'_>, what: &str) -> bool {
    static WEAKEN: OnceLock<Option<String>> = OnceLock::new();
    static LIST: OnceLock<Option<String>> = OnceLock::new();
    let (weaken, list) = (asked("HUGESHM_WEAKEN", &WEAKEN), asked("HUGESHM_SITES", &LIST));
    if weaken.is_none() && list.is_none() {
        return false;
    }
    let name = format!("{}:{}:{} {what}", place.file(), place.line(), place.column());
    if let Some(path) = list {
        let mut sites = SITES.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if sites.insert(name.clone()) {
            use std::io::Write;
            let file = std::fs::File::options().create(true).append(true).open(path);
            file.and_then(|mut file| writeln!(file, "{name}")).expect("a list of places");
        }
    }
    weaken.is_some_and(|weaken| weaken == name)
}

/// `order`, or less.
fn weaken(order: Ordering, place: &Location<'_>) -> Ordering {
    match order {
        Relaxed => Relaxed,
        // Both halves by themselves.
        Ordering::AcqRel => match (is_weak(place, "Acquire"), is_weak(place, "Release")) {
            (false, false) => order,
            (true, false) => Release,
            (false, true) => Acquire,
            (true, true) => Relaxed,
        },
        order if is_weak(place, &format!("{order:?}")) => Relaxed,
        order => order,
    }
}

/// A fence.
#[track_caller]
pub(crate) fn fence(order: Ordering) {
    if !runs() {
        return core::sync::atomic::fence(order);
    }
    if is_dead() {
        return;
    }
    let place = Location::caller();
    trace("fence", 0, 0, place);
    if order == Ordering::SeqCst {
        if is_weak(place, "SeqCst") {
            return;
        }
        let order = if is_weak(place, "SeqCst only") { Ordering::AcqRel } else { order };
        return model::fence(order);
    }
    if !is_weak(place, &format!("{order:?}")) {
        model::fence(order);
    }
}

macro_rules! word {
    ($name:ident, $plain:ident, $value:ty, $width:expr, $of:expr, $note:expr) => {
        /// A word in memory.
        #[repr(transparent)]
        pub(crate) struct $name(UnsafeCell<$value>);

        // SAFETY: all access is by way of atomics, those of `loom` or those of `core`.
        unsafe impl Send for $name {}
        // SAFETY: as above.
        unsafe impl Sync for $name {}

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, concat!(stringify!($name), "({:p})"), self.0.get())
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new(0)
            }
        }

        #[allow(dead_code, reason = "each width has all of the calls")]
        impl $name {
            pub(crate) const fn new(value: $value) -> Self {
                Self(UnsafeCell::new(value))
            }

            /// # Safety
            ///
            /// As for the same of `core`.
            pub(crate) const unsafe fn from_ptr<'a>(address: *mut $value) -> &'a Self {
                // SAFETY: the type is transparent; the rest is the caller's promise.
                unsafe { &*address.cast::<Self>() }
            }

            pub(crate) const fn as_ptr(&self) -> *mut $value {
                self.0.get()
            }

            fn plain(&self) -> &core::sync::atomic::$plain {
                // SAFETY: aligned as the type of `core` that wraps the same, and valid as long as
                // `self` is borrowed; all accesses here are atomic.
                unsafe { core::sync::atomic::$plain::from_ptr(self.0.get()) }
            }

            /// What stands for this word; none if it is not modelled.
            fn group(&self) -> Option<Rc<Group>> {
                let group = group_of(self.0.get().addr(), $width)?;
                step();
                Some(group)
            }

            #[track_caller]
            pub(crate) fn load(&self, order: Ordering) -> $value {
                if is_dead() {
                    return 0;
                }
                match self.group() {
                    Some(group) => {
                        let order = weaken(order, Location::caller());
                        let address = self.0.get().addr();
                        let value = $of(&group, address).load(order);
                        trace("load", address, u64::from(value), Location::caller());
                        value
                    }
                    None => self.plain().load(order),
                }
            }

            #[track_caller]
            pub(crate) fn store(&self, value: $value, order: Ordering) {
                if is_dead() {
                    return;
                }
                match self.group() {
                    Some(group) => {
                        let order = weaken(order, Location::caller());
                        let address = self.0.get().addr();
                        if $width == 4 || group.exchanged.get() {
                            $of(&group, address).swap(value, order);
                        } else {
                            $of(&group, address).store(value, order);
                        }
                        $note(&group, address, value);
                        trace("store", address, u64::from(value), Location::caller());
                    }
                    None => self.plain().store(value, order),
                }
            }

            #[track_caller]
            pub(crate) fn swap(&self, value: $value, order: Ordering) -> $value {
                if is_dead() {
                    return 0;
                }
                match self.group() {
                    Some(group) => {
                        let order = weaken(order, Location::caller());
                        let address = self.0.get().addr();
                        let old = $of(&group, address).swap(value, order);
                        $note(&group, address, value);
                        trace("swap, was", address, u64::from(old), Location::caller());
                        old
                    }
                    None => self.plain().swap(value, order),
                }
            }

            #[track_caller]
            pub(crate) fn compare_exchange(
                &self,
                old: $value,
                new: $value,
                order: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                if is_dead() {
                    return Err(old.wrapping_add(1));
                }
                match self.group() {
                    Some(group) => {
                        let order = weaken(order, Location::caller());
                        let failure =
                            if order == Relaxed || order == Release { Relaxed } else { failure };
                        let address = self.0.get().addr();
                        let word = $of(&group, address);
                        group.exchanged.set(true);
                        let before = word.compare_exchange(old, new, order, failure)?;
                        $note(&group, address, new);
                        trace("exchange to", address, u64::from(new), Location::caller());
                        Ok(before)
                    }
                    None => self.plain().compare_exchange(old, new, order, failure),
                }
            }

            #[track_caller]
            pub(crate) fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                if is_dead() {
                    return 0;
                }
                match self.group() {
                    Some(group) => {
                        let order = weaken(order, Location::caller());
                        let address = self.0.get().addr();
                        let old = $of(&group, address).fetch_add(value, order);
                        $note(&group, address, old.wrapping_add(value));
                        old
                    }
                    None => self.plain().fetch_add(value, order),
                }
            }

            #[track_caller]
            pub(crate) fn fetch_or(&self, value: $value, order: Ordering) -> $value {
                if is_dead() {
                    return 0;
                }
                match self.group() {
                    Some(group) => {
                        let order = weaken(order, Location::caller());
                        let address = self.0.get().addr();
                        let old = $of(&group, address).fetch_or(value, order);
                        $note(&group, address, old | value);
                        old
                    }
                    None => self.plain().fetch_or(value, order),
                }
            }
        }
    };
}

fn whole(group: &Group, _address: usize) -> &model::AtomicU64 {
    &group.whole
}

fn half_of(address: usize) -> usize {
    address / 4 % 2
}

fn half(group: &Group, address: usize) -> &model::AtomicU32 {
    &group.small().halves[half_of(address)]
}

fn note_half(group: &Group, address: usize, value: u32) {
    group.small().last[half_of(address)].set(value);
}

/// Bytes are never modelled: a message of the models has whole words.
fn no_byte(_group: &Group, _address: usize) -> &'static model::AtomicU8 {
    unreachable!("a modelled byte")
}

word!(AtomicU64, AtomicU64, u64, 8, whole, |_, _, _| ());
word!(AtomicU32, AtomicU32, u32, 4, half, note_half);
word!(AtomicU8, AtomicU8, u8, 1, no_byte, |_, _, _| ());

/// A flag that is private to a process, and shared by its threads.
#[derive(Debug)]
pub(crate) struct AtomicBool(Flag);

#[derive(Debug)]
enum Flag {
    Plain(core::sync::atomic::AtomicBool),
    Modelled(Arc<model::AtomicBool>),
}

impl AtomicBool {
    pub(crate) fn new(value: bool) -> Self {
        Self(if runs() {
            Flag::Modelled(Arc::new(model::AtomicBool::new(value)))
        } else {
            Flag::Plain(core::sync::atomic::AtomicBool::new(value))
        })
    }

    #[track_caller]
    pub(crate) fn load(&self, order: Ordering) -> bool {
        match &self.0 {
            Flag::Plain(flag) => flag.load(order),
            Flag::Modelled(flag) => flag.load(weaken(order, Location::caller())),
        }
    }

    #[track_caller]
    pub(crate) fn store(&self, value: bool, order: Ordering) {
        match &self.0 {
            Flag::Plain(flag) => flag.store(value, order),
            Flag::Modelled(flag) => flag.store(value, weaken(order, Location::caller())),
        }
    }
}

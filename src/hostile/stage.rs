//! A segment with one object of each kind, and somebody who writes into it.
//!
//! The segment is built once per thread, in a folder of its own, on base pages;
//! each input begins with the same bytes in it. The objects' words and messages
//! lie between guard pages; endpoint tables, directory and header stay in the
//! mapping. A script is a row of steps: an operation of some end, or a change
//! of a word, now, or before the n-th access of the next operation, or from there on before each;
//! of some word, or of the one that is about to be looked at.

use super::input::{Change, Input, Random};
use crate::error::Rung;
use crate::ladder::PagePolicy;
use crate::segment::Segment;
use crate::segment::domain::Domain;
use crate::view::{View, meddle};
use crate::{
    BroadcastRecords, BroadcastRing, Error, ErrorKind, LatestValue, SharedRing, TypedRing,
};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The name of the segment.
pub(super) const NAME: &str = "stage";

/// Accesses that an operation may make however small its object is.
const TOUCHES_LEAST: u64 = 300;
/// Accesses of an operation that passes time until its deadline.
const TOUCHES_WAITING: u64 = 2_000_000;

/// An end's operations, by number. `arg` chooses lengths, counts and modes.
pub(super) trait Actor {
    /// The objects that it uses.
    fn objects(&self) -> &'static [&'static str];

    /// Does operation `code`. Whether it passes time.
    fn act(&mut self, segment: &Segment, code: u8, arg: u16) -> bool;

    /// Accesses per word of the objects that an operation may make: for two walks along all of
    /// them, and a copy.
    fn touches_per_word(&self) -> u64 {
        4
    }

    /// Drops all ends.
    fn leave(&mut self);
}

/// A folder of our own on a tmpfs, removed when dropped.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// In the folder that the environment variable `HUGESHM_HOSTILE_DIR` names, else in `/dev/shm`.
    pub(super) fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let place = std::env::var_os("HUGESHM_HOSTILE_DIR");
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("hugeshm-hostile.{}.{number}", std::process::id());
        let path = place.map_or_else(|| PathBuf::from("/dev/shm"), PathBuf::from).join(name);
        std::fs::create_dir(&path).expect("a folder of our own on a tmpfs");
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The segment, and what stood in it at first.
pub(super) struct Stage {
    pub(super) segment: Segment,
    pub(super) domain: Domain,
    image: Vec<u8>,
    /// Dropped last.
    _folder: Scratch,
}

impl Stage {
    pub(super) fn new() -> Self {
        let folder = Scratch::new();
        let domain = Domain::in_folder("hostile", folder.path()).expect("a valid name");
        let many = || BroadcastRing::<[u64; 3]>::new(12).consumers(2);
        let news = || BroadcastRecords::new(4096).consumers(2);
        let segment = Segment::create(NAME)
            .domain(domain.clone())
            .pages(PagePolicy::exactly(Rung::Base))
            .max_attachments(4)
            .ring_of("ring", TypedRing::<[u64; 3]>::new(9))
            .ring_of("wide", TypedRing::<[u64; 8]>::new(12))
            .records("records", 1024)
            .records_of("aligned", crate::RecordRing::new(2048).payload_align(64).user_header(16))
            .broadcast_of("many", many())
            .broadcast_of("many.lossless", many().lossless(true))
            .broadcast_records_of("news", news())
            .broadcast_records_of("news.lossless", news().lossless(true))
            .lanes::<[u64; 3]>("lanes", 3, 6)
            .shared_ring_of("shared", SharedRing::<[u64; 3]>::new(11).producers(3).consumers(3))
            .latest_of("latest", LatestValue::<[u64; 5]>::new().watchers(2))
            .latest_of("long", LatestValue::<[u64; 40]>::new().places(3).watchers(2))
            .call::<[u64; 4], [u64; 2]>("call")
            .duplex::<[u64; 9], [u64; 9]>("duplex", 4)
            .build()
            .expect("a small segment on base pages");
        let mut image = vec![0; segment.bytes().len()];
        segment.bytes().read(0, &mut image);
        Self { segment, domain, image, _folder: folder }
    }

    /// What stood in the segment at first.
    pub(super) fn image(&self) -> &[u8] {
        &self.image
    }

    /// The folder of its control file.
    pub(super) fn folder(&self) -> &Path {
        self._folder.path()
    }

    /// Runs `work` on the stage of this thread, with everything as it was at first.
    pub(super) fn with<R>(work: impl FnOnce(&Self) -> R) -> R {
        thread_local! {
            static STAGE: Stage = Stage::new();
        }
        STAGE.with(|stage| {
            stage.segment.bytes().write(0, &stage.image);
            work(stage)
        })
    }

    /// The endpoint tables of `objects`: all claim and statistics lines.
    fn tables(&self, objects: &[&str]) -> Vec<View> {
        let table = |name: &&str| {
            let raw = self.segment.object(name).expect("it was declared").entry.raw;
            let length = crate::segment::layout::endpoints_length(raw.producers, raw.consumers);
            let (offset, length) = (raw.control_offset as usize, length as usize);
            self.segment.bytes().window(offset, length).expect("it was checked")
        };
        objects.iter().map(table).collect()
    }
}

/// The words that may be changed under an operation.
#[derive(Clone)]
struct Target {
    views: Vec<View>,
}

impl Target {
    /// The word that `number` means: each view is hit as often as another.
    fn change(&self, number: u16, change: Change) {
        let Some(view) = self.views.get(usize::from(number) % self.views.len().max(1)) else {
            return;
        };
        let words = view.len() / 8;
        if words == 0 {
            return;
        }
        change_word(view, usize::from(number) / self.views.len() % words * 8, change);
    }

    /// The word at an address, if that is one of ours.
    fn change_at(&self, address: usize, change: Change) {
        let found = self.views.iter().find_map(|view| Some((view, view.offset_of(address)?)));
        if let Some((view, offset)) = found
            && offset / 8 * 8 + 8 <= view.len()
        {
            change_word(view, offset / 8 * 8, change);
        }
    }
}

fn change_word(view: &View, offset: usize, change: Change) {
    let word = view.word64(offset);
    word.store(change.of(word.load(Ordering::Relaxed)), Ordering::Relaxed);
}

/// A change of a word before an access.
#[derive(Clone, Copy)]
struct Planned {
    before: u64,
    /// And before each one that follows.
    again: bool,
    /// The word that is looked at, instead of the one of this number.
    here: bool,
    number: u16,
    change: Change,
}

/// What happens before the accesses of the operation that runs.
#[derive(Default)]
struct Plan {
    /// In no order.
    changes: Vec<Planned>,
    touches: u64,
    limit: u64,
    most: u64,
}

thread_local! {
    /// The most accesses of an operation that did not wait, over all inputs, for each object.
    static MOST: RefCell<BTreeMap<&'static str, u64>> = const { RefCell::new(BTreeMap::new()) };
}

/// How many accesses an operation on each object made at most, of those that did not wait.
#[cfg(test)]
pub(super) fn most() -> BTreeMap<&'static str, u64> {
    MOST.take()
}

fn touch(plan: &RefCell<Plan>, target: &Target, address: usize) {
    let mut plan = plan.borrow_mut();
    plan.touches += 1;
    let Plan { touches, limit, changes, .. } = &mut *plan;
    assert!(*touches <= *limit, "an operation made more than {limit} accesses");
    if changes.is_empty() {
        return;
    }
    changes.retain(|planned| {
        if planned.before <= *touches {
            match planned.here {
                true => target.change_at(address, planned.change),
                false => target.change(planned.number, planned.change),
            }
        }
        planned.again || planned.before > *touches
    });
}

/// How a script is run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Changes are made between operations and between their accesses.
    Steps,
    /// Another thread makes changes all the time.
    Race,
}

/// Runs the script in `data` with the ends of `actor`.
pub(super) fn play(actor: &mut dyn Actor, mode: Mode, data: &[u8]) {
    Stage::with(|stage| {
        meddle::guard_objects();
        let objects = actor.objects();
        // The first look at each puts it between guard pages.
        for name in objects {
            stage.segment.object(name).expect("it was declared");
        }
        let guarded = meddle::guarded();
        let views: Vec<View> =
            guarded.iter().map(|memory| View::new(Arc::clone(memory) as _)).collect();
        let words: usize = views.iter().map(|view| view.len() / 8).sum();
        let limit = TOUCHES_LEAST + actor.touches_per_word() * words as u64;
        let mut all = views;
        all.extend(stage.tables(objects));
        let target = Target { views: all };
        let mut input = Input::new(data);
        let seed = if mode == Mode::Race { Some(input.word()) } else { None };
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            if let Some(seed) = seed {
                let (target, over) = (target.clone(), &over);
                scope.spawn(move || rewrite(&target, seed, over));
            }
            // Also when the script panics, so that the thread ends.
            struct Over<'a>(&'a AtomicBool);
            impl Drop for Over<'_> {
                fn drop(&mut self) {
                    self.0.store(true, Ordering::Relaxed);
                }
            }
            let _over = Over(&over);
            follow(stage, actor, &target, limit, &mut input);
        });
        actor.leave();
        assert!(guarded.iter().all(|memory| memory.is_intact()), "a write beside the object");
        meddle::guard_nothing();
    });
}

/// Changes words until it is over.
fn rewrite(target: &Target, seed: u64, over: &AtomicBool) {
    let mut random = Random(seed);
    while !over.load(Ordering::Relaxed) {
        for _ in 0..16 {
            let bytes = random.bytes();
            let mut input = Input::new(&bytes);
            let number = input.short();
            target.change(number, input.change());
        }
        std::thread::yield_now();
    }
}

fn follow(stage: &Stage, actor: &mut dyn Actor, target: &Target, limit: u64, input: &mut Input) {
    let plan = Rc::new(RefCell::new(Plan::default()));
    let hook = {
        let (plan, target) = (Rc::clone(&plan), target.clone());
        move |address| touch(&plan, &target, address)
    };
    let mut steps = 0;
    meddle::during(hook, || {
        while !input.is_over() && steps < 200 {
            steps += 1;
            let kind = input.byte();
            match kind % 4 {
                0 | 1 => {
                    let (code, arg) = (input.byte(), input.short());
                    {
                        let mut plan = plan.borrow_mut();
                        (plan.touches, plan.limit) = (0, TOUCHES_WAITING);
                    }
                    let waits = act(stage, actor, code, arg);
                    let mut plan = plan.borrow_mut();
                    plan.changes.clear();
                    if !waits {
                        plan.most = plan.most.max(plan.touches);
                        let touches = plan.touches;
                        assert!(
                            touches <= limit,
                            "operation {code}: {touches} accesses, {limit} may be"
                        );
                    }
                }
                2 => {
                    let number = input.short();
                    let change = input.change();
                    plan.borrow_mut().limit = u64::MAX;
                    target.change(number, change);
                }
                _ => {
                    let when = input.byte();
                    // Half of them among the first few accesses, where words are looked at.
                    let least = if when & 32 == 0 { 8 } else { 32 };
                    let before = u64::from(when % least) + 1;
                    let (again, here) = (when & 64 != 0, when & 128 != 0);
                    let number = input.short();
                    let change = input.change();
                    plan.borrow_mut().changes.push(Planned { before, again, here, number, change });
                }
            }
        }
        plan.borrow_mut().limit = TOUCHES_WAITING;
        actor.leave();
    });
    MOST.with_borrow_mut(|most| {
        let most = most.entry(actor.objects()[0]).or_default();
        *most = plan.borrow().most.max(*most);
    });
}

/// One operation: of the ends, or a look by somebody who has none.
fn act(stage: &Stage, actor: &mut dyn Actor, code: u8, arg: u16) -> bool {
    let name = actor.objects()[usize::from(arg) % actor.objects().len()];
    match code {
        250 => drop(stage.domain.inspect(NAME)),
        251 => drop(stage.segment.objects()),
        252 => drop(stage.segment.schema(name)),
        253 => _ = (stage.segment.is_superseded(), stage.segment.backing().to_string()),
        254 => drop(stage.domain.list()),
        255 => drop(stage.segment.object(name)),
        _ => return actor.act(&stage.segment, code, arg),
    }
    // They look at all objects, of which ours is one.
    true
}

/// An end that could be attached; a refusal is of a kind that a lying object may get.
pub(super) fn attached<T>(result: Result<T, Error>) -> Option<T> {
    result
        .inspect_err(|error| {
            let known = [
                ErrorKind::Corrupt,
                ErrorKind::Busy,
                ErrorKind::NotFound,
                ErrorKind::KindMismatch,
                ErrorKind::TypeMismatch,
                ErrorKind::TableFull,
                ErrorKind::InvalidArgument, // a position that was not sent yet
                ErrorKind::WouldBlock,      // no place to begin was found
            ];
            assert!(known.contains(&error.kind()), "{error}");
        })
        .ok()
}

/// An answer of the data path, whose text must be there.
pub(super) fn answered<T, E: std::fmt::Debug + std::fmt::Display>(
    result: Result<T, E>,
) -> Option<T> {
    result
        .inspect_err(|error| {
            assert!(!error.to_string().is_empty());
            assert!(!format!("{error:?}").starts_with("Forked"), "nobody forked");
        })
        .ok()
}

/// The same, where the answer itself is worth nothing.
pub(super) fn told<T, E: std::fmt::Debug + std::fmt::Display>(result: Result<T, E>) {
    _ = answered(result);
}

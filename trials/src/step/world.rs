//! What must hold of names, files and pages, whoever was killed.
//!
//! After each kill: to open the name says that there is none, or gives a whole segment that works,
//! the old one with its messages or the new one. The name can be created, opened or replaced
//! anew. When all have left, `collect` leaves no file, no page, no System V segment and no lock.

use super::machine::Machine;
use super::stage::{NAME, Stage};
use super::tracee::{Fault, text};
use hugeshm::{
    BackingKind, ErrorKind, Lifetime, PagePolicy, PageSize, Rung, Segment, SegmentBuilder,
    TypedRing,
};
use std::any::Any;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// The ring of the old segment, that of the new one, and that which is added.
const OLD: &str = "old";
const NEW: &str = "new";
const ADDED: &str = "added";
/// What waits in the old ring.
const WAITING: [u64; 3] = [0x1111_2222_3333, 0x4444_5555_6666, 0x7777_8888_9999];

/// Something that the child does.
pub type Deed = Box<dyn FnOnce() -> Box<dyn Any>>;

/// What became of the operation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    Before,
    After,
}

/// What has the name before the operation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Given {
    Nothing,
    /// A segment that this process holds.
    Held,
    /// One that nobody holds.
    Unheld,
}

/// What may have the name behind it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Leaves {
    Old,
    New,
    Nothing,
}

/// An operation on names or attachments.
pub struct Operation {
    pub name: &'static str,
    pub given: Given,
    /// What has the name when it is over; before, that is what was given.
    pub leaves: Leaves,
    /// Whether that is another than was given.
    pub happens: bool,
    pub ready: fn(&World) -> Result<Deed, Fault>,
}

/// A place for segments of one kind.
pub struct World {
    name: &'static str,
    stage: Stage,
    kind: BackingKind,
    rung: Rung,
    machine: Machine,
    survivor: Option<Segment>,
    sockets: Option<(UnixStream, UnixStream)>,
    attempt: u64,
}

impl World {
    pub fn new(
        name: &'static str,
        kind: BackingKind,
        rung: Rung,
        machine: Machine,
    ) -> Result<Self, Fault> {
        let stage = Stage::new()?;
        let (survivor, sockets) = (None, None);
        let mut world = Self { name, stage, kind, rung, machine, survivor, sockets, attempt: 0 };
        // Whatever is made once for each process is made now.
        world.goes_on()?;
        world.nothing_is_left()?;
        Ok(world)
    }

    /// Whether others see that an operation was done, once its process is dead.
    pub fn shows(&self, operation: &Operation) -> bool {
        operation.happens && !(self.dies() && operation.given == Given::Nothing)
    }

    /// Whether an operation makes sense here: what nobody holds may be gone.
    pub fn can(&self, operation: &Operation) -> bool {
        operation.given != Given::Unheld || !self.dies()
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Whether the segment goes with its last holder.
    fn dies(&self) -> bool {
        self.kind == BackingKind::Memfd
    }

    /// A segment of this kind with one ring, all but `build`.
    fn described(&self, builder: SegmentBuilder, ring: &str) -> SegmentBuilder {
        let mut builder = builder
            .domain(self.stage.domain())
            .pages(PagePolicy::exactly(self.rung))
            .backing(self.kind)
            .max_objects(4)
            .max_attachments(16)
            .spare(8192)
            .ring::<u64>(ring, 16);
        if self.dies() {
            builder = builder.lifetime(Lifetime::WithHolders);
        }
        if let Some(mount) = self.machine.mount().filter(|_| self.kind == BackingKind::Hugetlbfs) {
            builder = builder.mount(mount);
        }
        builder
    }

    fn build(&self, builder: SegmentBuilder, ring: &str) -> Result<Segment, Fault> {
        self.described(builder, ring).build().map_err(text)
    }

    /// Makes ready what the operation begins with.
    pub fn prepare(&mut self, operation: &Operation) -> Result<(), Fault> {
        self.attempt += 1;
        if operation.given != Given::Nothing {
            let segment = self.build(Segment::create(NAME), OLD)?;
            let mut producer = segment.producer::<u64>(OLD).map_err(text)?;
            for message in WAITING {
                producer.push(message).map_err(text)?;
            }
            drop(producer);
            self.survivor = (operation.given == Given::Held).then_some(segment);
        }
        let sockets = UnixStream::pair().map_err(text)?;
        sockets.0.set_read_timeout(Some(Duration::from_millis(5))).map_err(text)?;
        self.sockets = Some(sockets);
        Ok(())
    }

    /// Checks everything behind a kill; nothing is left of it then.
    pub fn check(&mut self, operation: &Operation, whole: bool) -> Result<Seen, Fault> {
        let domain = self.stage.domain();
        let now = match domain.open(NAME) {
            Ok(segment) => {
                let old = segment.objects().iter().any(|object| object.name == OLD);
                if old {
                    works(&segment, OLD, &WAITING)?;
                    self.takes_more(&segment)?;
                } else {
                    works(&segment, NEW, &[])?;
                }
                if segment.is_superseded() {
                    return Err("the segment that has the name says that it has not".into());
                }
                if old { Leaves::Old } else { Leaves::New }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let named = self.stage.files().iter().any(|file| file.contains('@'));
                if named && !self.dies() {
                    return Err(format!("the name is there and leads nowhere: {error}"));
                }
                Leaves::Nothing
            }
            Err(error) => return Err(format!("open: {error}")),
        };
        let before = if operation.given == Given::Nothing { Leaves::Nothing } else { Leaves::Old };
        // A memfd that was made by the dead child has gone with it.
        let new_has_gone = self.dies() && operation.leaves == Leaves::New;
        let after = if new_has_gone { Leaves::Nothing } else { operation.leaves };
        if now != before && now != after {
            return Err("the name leads to something that should not be".into());
        }
        let seen = if now == after && after != before { Seen::After } else { Seen::Before };
        if whole && operation.happens && now != after {
            return Err("a whole operation changed nothing".into());
        }
        if let Some(sockets) = &self.sockets
            && let Ok(segment) = Segment::receive_from(&sockets.0)
        {
            works(&segment, OLD, &[])?;
        }
        if let Some(survivor) = &self.survivor {
            works(survivor, OLD, if now == Leaves::Old { &[] } else { &WAITING })?;
        }
        self.goes_on()?;
        self.nothing_is_left()?;
        Ok(seen)
    }

    /// Gives up what a failed check has left.
    pub fn clear(&mut self) {
        self.survivor = None;
        self.sockets = None;
        _ = self.stage.domain().remove(NAME);
        _ = self.stage.domain().collect();
    }

    /// Objects can be added, and taken up, whether or not the dead one got so far.
    fn takes_more(&self, segment: &Segment) -> Result<(), Fault> {
        match segment.add_ring(ADDED, TypedRing::<u64>::new(16)) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(format!("add an object: {error}")),
        }
        works(segment, ADDED, &[])
    }

    /// The name can be used again, in each way.
    fn goes_on(&mut self) -> Result<(), Fault> {
        let domain = self.stage.domain();
        let what = self.attempt % 4;
        if what == 3 {
            let report = domain.collect().map_err(text)?;
            if !report.failed.is_empty() {
                return Err(format!("collect: {:?}", report.failed));
            }
        }
        let made = match what {
            0 => self.build(Segment::open_or_create(NAME), NEW),
            1 => self.build(Segment::replace(NAME), NEW),
            _ => {
                match domain.remove(NAME) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => return Err(format!("remove: {error}")),
                }
                self.build(Segment::create(NAME), NEW)
            }
        };
        let made = made.map_err(|fault| format!("use the name again ({what}): {fault}"))?;
        works(&made, NEW, &[])
    }

    /// When all have left, nothing is there.
    fn nothing_is_left(&mut self) -> Result<(), Fault> {
        self.survivor = None;
        self.sockets = None;
        let report = self.stage.domain().collect().map_err(text)?;
        if !report.failed.is_empty() || report.kept > 0 {
            return Err(format!("collect: {report:?}"));
        }
        let files = self.stage.files();
        if !files.is_empty() {
            return Err(format!("left in the folder: {files:?}"));
        }
        self.machine.is_as_before()
    }
}

/// Everything that waits in a ring is there, and many messages pass through it.
fn works(segment: &Segment, ring: &str, waiting: &[u64]) -> Result<(), Fault> {
    let failed = |error: hugeshm::Error| format!("ring {ring:?}: {error}");
    let mut producer = segment.producer::<u64>(ring).map_err(failed)?;
    let mut consumer = segment.consumer::<u64>(ring).map_err(failed)?;
    for wanted in waiting {
        let got = consumer.try_recv().map_err(text)?;
        if got != *wanted {
            return Err(format!("ring {ring:?} holds {got:#x} instead of {wanted:#x}"));
        }
    }
    for number in 0..40 {
        producer.try_push(number).map_err(text)?;
        let got = consumer.try_recv().map_err(text)?;
        if got != number {
            return Err(format!("ring {ring:?} gave {got:#x} instead of {number:#x}"));
        }
    }
    Ok(())
}

fn kept<T: 'static>(value: T) -> Box<dyn Any> {
    Box::new(value)
}

/// All operations.
pub fn operations() -> Vec<Operation> {
    let changes =
        |name, given, leaves, ready| Operation { name, given, leaves, happens: true, ready };
    let keeps = |name, ready| Operation {
        name,
        given: Given::Held,
        leaves: Leaves::Old,
        happens: false,
        ready,
    };
    vec![
        changes("create", Given::Nothing, Leaves::New, |world| {
            let builder = world.described(Segment::create(NAME), NEW);
            Ok(Box::new(move || kept(builder.build())))
        }),
        changes("open_or_create", Given::Nothing, Leaves::New, |world| {
            let builder = world.described(Segment::open_or_create(NAME), NEW);
            Ok(Box::new(move || kept(builder.build())))
        }),
        changes("replace", Given::Held, Leaves::New, |world| {
            let builder = world.described(Segment::replace(NAME), NEW);
            Ok(Box::new(move || kept(builder.build())))
        }),
        changes("replace, unheld", Given::Unheld, Leaves::New, |world| {
            let builder = world.described(Segment::replace(NAME), NEW);
            Ok(Box::new(move || kept(builder.build())))
        }),
        changes("remove", Given::Held, Leaves::Nothing, |world| {
            let domain = world.stage.domain();
            Ok(Box::new(move || kept(domain.remove(NAME))))
        }),
        changes("remove, unheld", Given::Unheld, Leaves::Nothing, |world| {
            let domain = world.stage.domain();
            Ok(Box::new(move || kept(domain.remove(NAME))))
        }),
        changes("collect", Given::Unheld, Leaves::Nothing, |world| {
            let domain = world.stage.domain();
            Ok(Box::new(move || kept(domain.collect())))
        }),
        keeps("open", |world| {
            let domain = world.stage.domain();
            Ok(Box::new(move || kept(domain.open(NAME))))
        }),
        keeps("open read-only", |world| {
            let domain = world.stage.domain();
            Ok(Box::new(move || kept(domain.open_read_only(NAME))))
        }),
        keeps("close", |world| {
            let segment = world.stage.open()?;
            Ok(Box::new(move || {
                drop(segment);
                kept(())
            }))
        }),
        keeps("take producer", |world| {
            let segment = world.stage.open()?;
            Ok(Box::new(move || kept((segment.producer::<u64>(OLD), segment))))
        }),
        keeps("take consumer", |world| {
            let segment = world.stage.open()?;
            Ok(Box::new(move || kept((segment.consumer::<u64>(OLD), segment))))
        }),
        keeps("close producer", |world| {
            let segment = world.stage.open()?;
            let producer = segment.producer::<u64>(OLD).map_err(text)?;
            Ok(Box::new(move || kept((drop(producer), segment))))
        }),
        keeps("close consumer", |world| {
            let segment = world.stage.open()?;
            let consumer = segment.consumer::<u64>(OLD).map_err(text)?;
            Ok(Box::new(move || kept((drop(consumer), segment))))
        }),
        keeps("add object", |world| {
            let segment = world.stage.open()?;
            Ok(Box::new(move || {
                kept((segment.add_ring(ADDED, TypedRing::<u64>::new(16)), segment))
            }))
        }),
        keeps("send_over", |world| {
            let segment = world.stage.open()?;
            let socket = world.sockets.as_ref().ok_or("no socket")?.1.try_clone().map_err(text)?;
            Ok(Box::new(move || kept((segment.send_over(&socket), segment))))
        }),
        keeps("receive_from", |world| {
            let sockets = world.sockets.as_ref().ok_or("no socket")?;
            let socket = sockets.0.try_clone().map_err(text)?;
            let segment = world.stage.open()?;
            // System V segments cannot be sent; then it is told that nothing came.
            _ = segment.send_over(&sockets.1);
            drop(segment);
            Ok(Box::new(move || kept(Segment::receive_from(&socket))))
        }),
    ]
}

/// The huge pages that are tried.
pub const HUGE: PageSize = PageSize::SIZE_2M;

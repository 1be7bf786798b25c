//! Every call that takes something, made ready beforehand so that nothing but itself can run short.

use crate::common::{DOMAIN, M2};
use hugeshm::{
    BackingKind, Domain, Error, Lifetime, PagePolicy, PageSize, Placement, Refusal, Region, Rung,
    Segment, SegmentBuilder, TypedRing, WaitAny, Waitable,
};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

/// Where the calls are made, and how much they ask for.
pub struct Site {
    /// The control folder.
    pub folder: PathBuf,
    /// The same folder, mounted read-only.
    pub read_only: PathBuf,
    /// Whether the calls are to see it read-only.
    pub use_read_only: Cell<bool>,
    /// The hugetlbfs mount; none where there are no huge pages.
    pub mount: Option<PathBuf>,
    /// What is asked for in new memory.
    pub bytes: u64,
    /// On which node.
    pub placement: RefCell<Placement>,
}

impl Site {
    fn domain(&self) -> Domain {
        let folder = if self.use_read_only.get() { &self.read_only } else { &self.folder };
        Domain::in_folder(DOMAIN, folder).expect("a valid name")
    }

    fn on(&self, builder: SegmentBuilder, on: On) -> SegmentBuilder {
        let builder = builder.pages(on.policy()).lifetime(Lifetime::WithHolders).size(self.bytes);
        let builder = builder.placement(self.placement.borrow().clone());
        let builder = match on {
            On::Auto => builder,
            On::Hugetlbfs => builder.backing(BackingKind::Hugetlbfs),
            On::Sysv => builder.backing(BackingKind::Sysv),
            On::Memfd => builder.backing(BackingKind::Memfd),
            On::Thp | On::Base => builder.backing(BackingKind::Tmpfs),
        };
        match (&self.mount, on) {
            (Some(mount), On::Hugetlbfs | On::Auto) => builder.mount(mount),
            _ => builder,
        }
    }

    /// A segment that is there before anything is scarce.
    fn existing(&self, name: &str, on: On) -> Segment {
        let builder = self.on(self.domain().create(name), on).size(1 << 20);
        let builder = builder.ring::<u64>("ring", 16).ring::<u64>("other", 16);
        builder.placement(Placement::Default).build().unwrap_or_else(|error| panic!("{error}"))
    }
}

/// On what memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    Auto,
    Hugetlbfs,
    Sysv,
    Memfd,
    Thp,
    Base,
}

impl On {
    fn policy(self) -> PagePolicy {
        match self {
            Self::Auto => PagePolicy::auto(),
            Self::Hugetlbfs | Self::Sysv | Self::Memfd => PagePolicy::exactly(Rung::Huge(M2)),
            Self::Thp => PagePolicy::exactly(Rung::Thp),
            Self::Base => PagePolicy::exactly(Rung::Base),
        }
    }

    /// Whether it takes pages from a pool and from nowhere else.
    pub fn is_huge(self) -> bool {
        matches!(self, Self::Hugetlbfs | Self::Sysv | Self::Memfd)
    }
}

/// A call of the library that takes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Create(On),
    OpenOrCreate(On),
    Replace(On),
    Unnamed(On),
    Region(On),
    Open(On),
    OpenReadOnly(On),
    AddObject,
    TakeEnd,
    HangDoorbell,
    WaitForMany,
    Send,
    Receive,
    List,
    Inspect(On),
    Collect,
    Remove(On),
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// All of them, on every kind of memory that makes a difference.
pub fn all() -> Vec<Call> {
    use Call::*;
    let mut calls = Vec::new();
    for on in [On::Hugetlbfs, On::Sysv, On::Memfd, On::Thp, On::Base, On::Auto] {
        calls.push(Create(on));
    }
    calls.extend([OpenOrCreate(On::Hugetlbfs), OpenOrCreate(On::Base), OpenOrCreate(On::Auto)]);
    calls.extend([Replace(On::Hugetlbfs), Replace(On::Sysv), Replace(On::Base)]);
    calls.extend([Unnamed(On::Memfd), Unnamed(On::Auto)]);
    // For private memory: any huge page, transparent ones, base pages, the ladder.
    calls.extend([On::Memfd, On::Thp, On::Base, On::Auto].map(Region));
    for on in [On::Hugetlbfs, On::Sysv, On::Memfd, On::Base] {
        calls.extend([Open(on), OpenReadOnly(on), Inspect(on), Remove(on)]);
    }
    calls.extend([AddObject, TakeEnd, HangDoorbell, WaitForMany, Send, Receive, List, Collect]);
    calls
}

impl Call {
    /// The memory that it is about.
    pub fn on(self) -> Option<On> {
        match self {
            Self::Create(on) | Self::OpenOrCreate(on) | Self::Replace(on) => Some(on),
            Self::Unnamed(on) | Self::Region(on) | Self::Open(on) => Some(on),
            Self::OpenReadOnly(on) | Self::Inspect(on) | Self::Remove(on) => Some(on),
            _ => None,
        }
    }

    /// Whether it makes new memory.
    pub fn makes(self) -> bool {
        use Call::*;
        matches!(self, Create(_) | OpenOrCreate(_) | Replace(_) | Unnamed(_) | Region(_))
    }

    /// Whether it needs huge pages, for itself or to be made ready.
    pub fn needs_pool(self) -> bool {
        self.on().is_some_and(On::is_huge) || matches!(self, Self::Send | Self::Receive)
    }
}

/// What a call gave.
pub struct Made {
    /// What was refused on the way, under `auto`.
    pub refusals: Vec<Refusal>,
    /// What was said without failing.
    pub problems: Vec<String>,
    _held: Box<dyn Any>,
}

fn made(held: impl Any, refusals: &[Refusal]) -> Made {
    Made { refusals: refusals.to_vec(), problems: Vec::new(), _held: Box::new(held) }
}

fn segment(built: Result<Segment, Error>) -> Result<Made, Error> {
    built.map(|segment| {
        let refusals = segment.backing().refusals.clone();
        made(segment, &refusals)
    })
}

type Step<'a, T> = Box<dyn FnMut() -> T + 'a>;

/// A call with everything that it needs, and what to do around it.
pub struct Ready<'a> {
    /// Whatever must be done before each try, while nothing is scarce.
    pub arm: Step<'a, ()>,
    pub act: Step<'a, Result<Made, Error>>,
    /// What must hold after a failure, when nothing is scarce any more.
    pub intact: Step<'a, ()>,
    /// Undoes what a try that worked has left.
    pub undo: Step<'a, ()>,
    /// Undoes what was made ready.
    pub clean: Step<'a, ()>,
}

impl<'a> Ready<'a> {
    fn new(act: impl FnMut() -> Result<Made, Error> + 'a) -> Self {
        let nothing = || Box::new(|| ()) as Step<'a, ()>;
        Self {
            arm: nothing(),
            act: Box::new(act),
            intact: nothing(),
            undo: nothing(),
            clean: nothing(),
        }
    }

    fn undo(mut self, undo: impl FnMut() + 'a) -> Self {
        self.undo = Box::new(undo);
        self
    }

    fn clean(mut self, clean: impl FnMut() + 'a) -> Self {
        self.clean = Box::new(clean);
        self
    }
}

/// Makes a call ready.
pub fn prepare(call: Call, site: &Site) -> Ready<'_> {
    let remove = move |name: &'static str| {
        move || site.domain().remove(name).unwrap_or_else(|error| panic!("{error}"))
    };
    match call {
        Call::Create(on) => {
            Ready::new(move || segment(site.on(site.domain().create("n"), on).build()))
                .undo(remove("n"))
        }
        Call::OpenOrCreate(on) => Ready::new(move || {
            let builder = Segment::open_or_create("n").domain(site.domain());
            segment(site.on(builder, on).build())
        })
        .undo(remove("n")),
        Call::Replace(on) => replace(site, on).clean(remove("n")),
        Call::Unnamed(on) => Ready::new(move || {
            let builder = Segment::unnamed().domain(site.domain());
            segment(site.on(builder, on).build())
        }),
        Call::Region(on) => Ready::new(move || {
            let builder = Region::builder(site.bytes).pages(on.policy());
            let region = builder.placement(site.placement.borrow().clone()).map()?;
            let refusals = region.backing().refusals.clone();
            Ok(made(region, &refusals))
        }),
        Call::Open(on) | Call::OpenReadOnly(on) => {
            let held = site.existing("n", on);
            let read_only = matches!(call, Call::OpenReadOnly(_));
            let mut held = Some(held);
            Ready::new(move || {
                let d = site.domain();
                segment(if read_only { d.open_read_only("n") } else { d.open("n") })
            })
            .clean(move || {
                held.take();
                remove("n")();
            })
        }
        Call::Inspect(on) => {
            let mut held = Some(site.existing("n", on));
            Ready::new(move || {
                let info = site.domain().inspect("n")?;
                let mut made = made((), &[]);
                made.problems.extend(info.problems);
                Ok(made)
            })
            .clean(move || {
                held.take();
                remove("n")();
            })
        }
        Call::Remove(on) => remove_one(site, on),
        Call::List => {
            let mut held = Some(site.existing("n", On::Base));
            Ready::new(move || {
                let list = site.domain().list()?;
                assert_eq!(list.len(), 1, "a name is missing");
                let mut made = made((), &[]);
                made.problems.extend(list.into_iter().filter_map(|entry| entry.problem));
                Ok(made)
            })
            .clean(move || {
                held.take();
                remove("n")();
            })
        }
        Call::Collect => collect(site),
        Call::AddObject | Call::TakeEnd | Call::HangDoorbell | Call::WaitForMany => {
            inside(call, site)
        }
        Call::Send | Call::Receive => pass(call, site),
    }
}

fn replace(site: &Site, on: On) -> Ready<'_> {
    let old = Rc::new(RefCell::new(Some(site.existing("n", On::Base))));
    let seen = Rc::clone(&old);
    let mut ready = Ready::new(move || {
        let builder = Segment::replace("n").domain(site.domain());
        segment(site.on(builder, on).build())
    });
    ready.intact = Box::new(move || {
        let seen = seen.borrow();
        let old = seen.as_ref().expect("held until it is cleaned up");
        assert!(!old.is_superseded(), "a replacement that failed has marked the old one");
        let now = site.domain().open("n").expect("the old one is there");
        assert_eq!(now.identity(), old.identity());
    });
    ready.undo(move || drop(old.borrow_mut().take()))
}

fn remove_one(site: &Site, on: On) -> Ready<'_> {
    let mut ready = Ready::new(move || site.domain().remove("n").map(|()| made((), &[])));
    ready.arm = Box::new(move || {
        // A try that failed may have done it, or the half of it.
        let _ = site.domain().remove("n");
        let _ = site.domain().collect();
        drop(site.existing("n", on));
    });
    ready.clean(move || {
        let _ = site.domain().remove("n");
        let _ = site.domain().collect();
    })
}

fn collect(site: &Site) -> Ready<'_> {
    let mut ready = Ready::new(move || {
        let report = site.domain().collect()?;
        let mut made = made((), &[]);
        made.problems.extend(report.failed);
        Ok(made)
    });
    ready.arm = Box::new(move || {
        let _ = site.domain().collect();
        drop(site.existing("n", On::Base));
    });
    ready.clean(move || {
        let _ = site.domain().collect();
    })
}

/// Calls inside a segment that is open.
fn inside(call: Call, site: &Site) -> Ready<'_> {
    let held = Rc::new(RefCell::new(Some(site.existing("n", On::Base))));
    let open = Rc::clone(&held);
    let mut added = 0;
    let mut ends: Vec<_> = Vec::new();
    if matches!(call, Call::HangDoorbell | Call::WaitForMany) {
        let segment = open.borrow();
        let segment = segment.as_ref().expect("just made");
        ends.extend(["ring", "other"].map(|name| segment.consumer::<u64>(name).expect("free")));
    }
    let ends = Rc::new(RefCell::new(ends));
    let waiting = Rc::clone(&ends);
    let act = move || {
        let segment = open.borrow();
        let segment = segment.as_ref().expect("held until it is cleaned up");
        match call {
            Call::AddObject => {
                added += 1;
                segment.add_ring(&format!("ring{added}"), TypedRing::<u64>::new(16))?;
                Ok(made((), &[]))
            }
            Call::TakeEnd => {
                Ok(made((segment.producer::<u64>("ring")?, segment.consumer::<u64>("ring")?), &[]))
            }
            Call::HangDoorbell => Ok(made(waiting.borrow_mut()[0].doorbell()?, &[])),
            _ => {
                let mut ends = waiting.borrow_mut();
                let mut ends: Vec<&mut dyn Waitable> =
                    ends.iter_mut().map(|end| end as &mut dyn Waitable).collect();
                let waited = WaitAny::new().wait_timeout(&mut ends, Duration::from_millis(5));
                assert_eq!(waited, Err(hugeshm::WaitError::TimedOut));
                Ok(made((), &[]))
            }
        }
    };
    Ready::new(act).clean(move || {
        ends.borrow_mut().clear();
        held.borrow_mut().take();
        site.domain().remove("n").expect("ours");
    })
}

/// A segment over a socket.
fn pass(call: Call, site: &Site) -> Ready<'_> {
    let builder = Segment::unnamed().domain(site.domain());
    let sent = site.on(builder, On::Memfd).size(1 << 20).placement(Placement::Default).build();
    let sent = Rc::new(sent.expect("nothing is scarce"));
    let sockets = Rc::new(RefCell::new(UnixStream::pair().expect("two sockets")));
    let (armed, arming) = (Rc::clone(&sent), Rc::clone(&sockets));
    let mut ready = Ready::new(move || {
        let sockets = sockets.borrow();
        match call {
            Call::Send => sent.send_over(&sockets.0).map(|()| made((), &[])),
            _ => segment(Segment::receive_from(&sockets.1)),
        }
    });
    // What is in flight goes with its sockets.
    ready.arm = Box::new(move || {
        *arming.borrow_mut() = UnixStream::pair().expect("two sockets");
        if call == Call::Receive {
            armed.send_over(&arming.borrow().0).expect("nothing is scarce");
        }
    });
    ready
}

/// 2 MiB, as everywhere in these tests.
pub const PAGE: PageSize = M2;

//! Kills an operation behind each of its instructions, from the first to the last.
//!
//! A first child goes through the operation by single steps, which gives the list of its
//! instructions; a system call is one of them. Then for each number k of the list a new child is
//! brought before it, by a breakpoint of the processor that counts how often it was there, and is
//! killed. Where it is a call that sleeps, one more child is killed asleep. What has to hold
//! afterwards is the case's to say. One more child for each k is only stopped there: the survivor
//! does what it can meanwhile, and the child goes on to the end.

use super::tracee::{Act, Fault, Place, Places, Slept, Told, Tracee, place_of};
use crate::verdict::Verdict;
use std::time::Instant;

/// How an operation ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Killed in the middle.
    Broken,
    /// It stood at its end.
    Whole,
}

/// What the survivor saw of the operation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// It happened.
    Visible,
    /// It never was.
    Invisible,
}

/// One operation, and what must hold whenever it breaks off.
pub trait Case {
    /// The positions that it starts from.
    fn starts(&self) -> Vec<&'static str>;
    /// Makes things ready for an attempt at start number `start`, in this process.
    fn prepare(&mut self, start: usize) -> Result<(), Fault>;
    /// Behind the child's own preparations: starts whoever else takes part.
    fn begin(&mut self) -> Result<(), Fault> {
        Ok(())
    }
    /// The operation, made ready in the child.
    fn ready(&self) -> Result<Box<dyn Act>, Fault>;
    /// The child sleeps: wake it up as its peer would.
    fn asleep(&mut self) -> Result<(), Fault> {
        Err("it sleeps, and nobody expected that".into())
    }
    /// The child is stopped: do what the survivor can. False if this case has nothing to do then.
    fn stopped(&mut self) -> Result<bool, Fault> {
        Ok(false)
    }
    /// What the child, which went on to its end, was given.
    fn told(&mut self, told: Told) -> Result<(), Fault> {
        told.map(drop)
    }
    /// Checks everything behind a kill, and brings it back into order.
    fn check(&mut self, ending: Ending) -> Result<Seen, Fault>;
    /// Whether a whole operation is seen by somebody.
    fn is_seen(&self) -> bool;
    /// Takes everything down; nothing may be left.
    fn close(self: Box<Self>) -> Result<(), Fault>;
}

/// An operation to be tried, made ready when its turn comes.
pub struct Trial {
    pub name: String,
    make: Box<dyn FnOnce() -> Result<Box<dyn Case>, Fault>>,
}

impl Trial {
    pub fn new(
        name: String,
        make: impl FnOnce() -> Result<Box<dyn Case>, Fault> + 'static,
    ) -> Self {
        Self { name, make: Box::new(make) }
    }
}

/// What was done with one operation.
#[derive(Default)]
pub struct Tally {
    /// Instructions of the operation, at most.
    pub longest: u64,
    /// Single steps made.
    pub steps: u64,
    /// Points killed at.
    pub points: u64,
    /// Of these, asleep in the kernel.
    pub asleep: u64,
    /// Points stopped at.
    pub stops: u64,
    /// Children that took another way, and were killed at its end.
    pub strayed: u64,
    /// Points that no child came to.
    pub missed: u64,
    /// Every how manieth instruction was tried, at most.
    pub stride: usize,
    /// The same of instructions of which nobody else sees anything.
    pub spread: usize,
    pub visible: u64,
    pub invisible: u64,
}

/// How thoroughly.
#[derive(Clone, Copy)]
pub struct Effort {
    /// Every how manieth instruction.
    pub every: usize,
    /// At most about so many points of each operation, evenly spread.
    pub points: usize,
    /// How many starting positions at most.
    pub starts: usize,
    /// Whether children are also stopped.
    pub stops: bool,
}

impl Effort {
    /// Every how manieth of `length` points is tried.
    pub fn stride(&self, length: usize) -> usize {
        self.every.max(length.div_ceil(self.points)).max(1)
    }
}

/// An operation that is longer than this does not end.
const LONGEST: usize = 200_000;

/// Before which instruction a child is killed, or stopped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Point {
    Kill(usize),
    KillAsleep(usize),
    Stop(usize),
}

/// Drives a case, and prints its line.
pub fn drive(trial: Trial, effort: Effort, verdict: &mut Verdict) -> Tally {
    let (name, begin) = (trial.name, Instant::now());
    let mut tally = Tally::default();
    let mut case = match (trial.make)() {
        Ok(case) => case,
        Err(fault) => {
            verdict.fault(format!("{name}: {fault}"));
            return tally;
        }
    };
    let starts = case.starts();
    let mut broken = false;
    for (number, start) in starts.iter().enumerate().take(effort.starts) {
        if let Err(fault) = all_points(&mut *case, number, effort, &mut tally) {
            verdict.fault(format!("{name}, from {start}: {fault}"));
            broken = true;
            break;
        }
    }
    let seen = case.is_seen();
    if !broken {
        if let Err(fault) = case.close() {
            verdict.fault(format!("{name}, at the end: {fault}"));
        }
        if tally.points == 0 || tally.invisible == 0 || (seen && tally.visible == 0) {
            verdict.fault(format!("{name}: not every outcome came about"));
        }
    }
    let note = match tally.stride {
        0 | 1 => String::new(),
        stride => format!("  every {stride}th"),
    };
    println!(
        "{name:<52} {:>6} {:>6} {:>8} {:>9} {:>6} {:>7} {:>6} {:>6.1}s{note}",
        tally.longest,
        tally.points,
        tally.visible,
        tally.invisible,
        tally.asleep,
        tally.stops,
        tally.missed,
        begin.elapsed().as_secs_f64(),
    );
    tally
}

/// The instructions of one whole run, and which of them are calls that sleep.
#[derive(Default)]
struct Course {
    places: Vec<Place>,
    sleeps: Vec<usize>,
}

fn all_points(
    case: &mut dyn Case,
    start: usize,
    effort: Effort,
    tally: &mut Tally,
) -> Result<(), Fault> {
    let course = explore(case, start, tally)?;
    let length = course.places.len();
    tally.longest = tally.longest.max(length as u64);
    let stride = effort.stride(length);
    tally.stride = tally.stride.max(stride);
    for step in (0..length).step_by(stride) {
        reach(case, start, &course, Point::Kill(step), tally)?;
        if effort.stops {
            reach(case, start, &course, Point::Stop(step), tally)?;
        }
    }
    for step in course.sleeps.iter().take(1) {
        for _ in 0..if effort.stops { 5 } else { 2 } {
            reach(case, start, &course, Point::KillAsleep(*step), tally)?;
        }
    }
    Ok(())
}

/// Goes through the whole operation instruction by instruction, and is killed at its end.
fn explore(case: &mut dyn Case, start: usize, tally: &mut Tally) -> Result<Course, Fault> {
    case.prepare(start)?;
    let mut child = Tracee::start(|| case.ready())?;
    case.begin()?;
    let (mut course, mut places) = (Course::default(), Places::default());
    while !child.ended()? {
        if course.places.len() > LONGEST {
            return Err("there is no end to it".into());
        }
        course.places.push(places.next(child.address()?));
        if step(case, &mut child)? == Slept::Asleep {
            course.sleeps.push(course.places.len() - 1);
        }
    }
    tally.steps += child.steps();
    child.kill()?;
    tally.count(Point::Kill(course.places.len()), case.check(Ending::Whole)?);
    Ok(course)
}

/// As many children as it takes until one comes to the point: an operation may take another way,
/// at a position where it looks at more, or when the clock goes on at another moment.
fn reach(
    case: &mut dyn Case,
    start: usize,
    course: &Course,
    point: Point,
    tally: &mut Tally,
) -> Result<(), Fault> {
    for _ in 0..8 {
        if attempt(case, start, course, point, tally)? {
            return Ok(());
        }
        tally.strayed += 1;
    }
    tally.missed += 1;
    Ok(())
}

/// One child, from its start to its end, and what is left behind; whether it came to the point.
fn attempt(
    case: &mut dyn Case,
    start: usize,
    course: &Course,
    point: Point,
    tally: &mut Tally,
) -> Result<bool, Fault> {
    let (number, what) = match point {
        Point::Kill(number) => (number, "killed"),
        Point::KillAsleep(number) => (number, "killed asleep"),
        Point::Stop(number) => (number, "stopped"),
    };
    let place = course.places[number];
    let result = (|| {
        case.prepare(start)?;
        let mut child = Tracee::start(|| case.ready())?;
        case.begin()?;
        let sleeps = !course.sleeps.is_empty();
        let mut asleep = || case.asleep();
        let there = match point {
            Point::KillAsleep(_) => child.run_into_sleep()? == Slept::Asleep,
            _ => child.run_to(place, sleeps.then_some(&mut asleep))?,
        };
        let mut ending = if there { Ending::Broken } else { Ending::Whole };
        match point {
            Point::Kill(_) => {}
            Point::KillAsleep(_) => tally.asleep += u64::from(there),
            Point::Stop(_) => {
                if there && case.stopped()? {
                    tally.stops += 1;
                }
                let told = if there { child.run_on(|| case.asleep())? } else { child.speak()? };
                case.told(told)?;
                ending = Ending::Whole;
            }
        }
        tally.steps += child.steps();
        child.kill()?;
        let seen = case.check(ending)?;
        if there {
            tally.count(point, seen);
        }
        Ok(there)
    })();
    result.map_err(|fault: Fault| {
        format!("{what} before instruction {number} at {}: {fault}", place_of(place.address))
    })
}

/// One instruction of a child, whose peer wakes it up if it sleeps.
fn step(case: &mut dyn Case, child: &mut Tracee) -> Result<Slept, Fault> {
    if !child.may_sleep()? {
        return child.step().map(|()| Slept::Returned);
    }
    let slept = child.step_into_sleep()?;
    if slept == Slept::Asleep {
        case.asleep()?;
        child.wake_up()?;
    }
    Ok(slept)
}

impl Tally {
    fn count(&mut self, point: Point, seen: Seen) {
        if matches!(point, Point::Stop(_)) {
            return;
        }
        self.points += 1;
        match seen {
            Seen::Visible => self.visible += 1,
            Seen::Invisible => self.invisible += 1,
        }
    }
}

//! Killing what changes names and attachments: create, open, replace, remove, collect, and so on.
//!
//! A child is killed before and behind each system call of the operation. A first child tells
//! between which calls the bytes of a shared mapping change. A second one goes through these
//! stretches by single steps, and the bytes are compared behind each: what others can see changes
//! by these instructions and by system calls, and by nothing else. So a child is killed behind each
//! instruction that changed something, and behind as many of the others in these stretches as
//! there is time for. What must hold afterwards stands in `world`.

use super::drive::{Effort, Tally};
use super::tracee::{Act, Fault, Place, Places, Tracee, place_of};
use super::world::{Deed, Operation, Seen, World};
use crate::verdict::Verdict;
use std::any::Any;
use std::time::Instant;

/// A stretch between first and last store that is longer than this does not end.
const LONGEST: usize = 2_000_000;

struct ControlAct {
    deed: Option<Deed>,
    /// Whatever the operation gave; kept, since dropping it is another operation.
    result: Option<Box<dyn Any>>,
}

impl Act for ControlAct {
    fn act(&mut self) {
        if let Some(deed) = self.deed.take() {
            self.result = Some(deed());
        }
    }
}

/// Where a child is killed.
#[derive(Clone, Copy)]
enum Point {
    /// Behind so many stops at system calls: two for each, before and behind it.
    Call(usize),
    /// Behind so many of them, and then at this place.
    Instruction { stops: usize, place: Place },
}

/// What an operation consists of.
struct Course {
    stops: usize,
    /// Behind each instruction of the stretches with stores, and whether it changed bytes.
    behind: Vec<(Point, bool)>,
}

/// How many of the instructions that change nothing are tried, at most.
const OTHERS: usize = 100;

/// Drives an operation, and prints its line.
pub fn drive(
    world: &mut World,
    operation: &Operation,
    effort: Effort,
    verdict: &mut Verdict,
) -> Tally {
    let (name, begin) = (format!("{}: {}", world.name(), operation.name), Instant::now());
    let mut tally = Tally::default();
    let (mut calls, mut stores) = (0, 0);
    let outcome = explore(world, operation).and_then(|course| {
        calls = course.stops / 2;
        stores = course.behind.iter().filter(|(_, changed)| *changed).count();
        tally.longest = course.behind.len() as u64;
        for point in points(&course, effort, &mut tally) {
            reach(world, operation, point, &mut tally)?;
        }
        Ok(())
    });
    if let Err(fault) = outcome {
        verdict.fault(format!("{name}: {fault}"));
        world.clear();
    } else if tally.invisible == 0 || (tally.visible == 0 && world.shows(operation)) {
        verdict.fault(format!("{name}: not every outcome came about"));
    }
    let note = match (tally.stride, tally.spread) {
        (0 | 1, 0 | 1) => String::new(),
        (0 | 1, spread) => format!(", every {spread}th other instruction"),
        (stride, spread) => {
            format!(", every {stride}th of them, every {spread}th other instruction")
        }
    };
    println!(
        "{name:<52} {:>6} {:>6} {:>8} {:>9} {:>6} {:>7} {:>6} {:>6.1}s  {calls} calls, {stores} stores{note}",
        tally.longest,
        tally.points,
        tally.visible,
        tally.invisible,
        "",
        "",
        tally.missed,
        begin.elapsed().as_secs_f64(),
    );
    tally
}

fn points(course: &Course, effort: Effort, tally: &mut Tally) -> Vec<Point> {
    let stride = effort.stride(course.stops);
    let mut points: Vec<Point> = (0..=course.stops).step_by(stride).map(Point::Call).collect();
    let pick = |wanted: bool| course.behind.iter().filter(move |(_, is)| *is == wanted);
    let stores = effort.stride(pick(true).count());
    let others = pick(false).count().div_ceil(OTHERS.min(effort.points)).max(1);
    if !course.stops.is_multiple_of(stride) {
        points.push(Point::Call(course.stops));
    }
    points.extend(pick(true).step_by(stores).map(|(point, _)| *point));
    points.extend(pick(false).step_by(others).map(|(point, _)| *point));
    (tally.stride, tally.spread) = (stride.max(stores), others);
    points
}

fn start(world: &World, operation: &Operation) -> Result<Tracee, Fault> {
    Tracee::start(|| {
        let deed = (operation.ready)(world)?;
        Ok(Box::new(ControlAct { deed: Some(deed), result: None }))
    })
}

/// Goes through the operation twice: by system calls, and by instructions from the first store to
/// the last.
fn explore(world: &mut World, operation: &Operation) -> Result<Course, Fault> {
    world.prepare(operation)?;
    let mut child = start(world, operation)?;
    let (mut stops, mut stretches) = (0, Vec::new());
    loop {
        let shared = child.shared()?;
        let before = shared.bytes(&child)?;
        let more = child.next_call()?;
        if shared.bytes(&child)? != before {
            stretches.push(stops);
        }
        if !more {
            break;
        }
        stops += 1;
        if !child.next_call()? {
            return Err("a system call ended the operation".into());
        }
        stops += 1;
    }
    child.kill()?;
    world.check(operation, true)?;
    let mut behind = Vec::new();
    if !stretches.is_empty() {
        world.prepare(operation)?;
        let mut child = start(world, operation)?;
        let mut passed = 0;
        for stops in stretches {
            if !child.pass_calls(stops - passed)? {
                break;
            }
            walk_stretch(&mut child, stops, &mut behind)?;
            passed = stops;
        }
        child.kill()?;
        world.check(operation, false)?;
    }
    Ok(Course { stops, behind })
}

/// Goes by single steps to the next system call, or to the end.
fn walk_stretch(
    child: &mut Tracee,
    stops: usize,
    behind: &mut Vec<(Point, bool)>,
) -> Result<(), Fault> {
    let shared = child.shared()?;
    let mut bytes = shared.bytes(child)?;
    let mut places = Places::default();
    places.next(child.address()?);
    while !child.ended()? && child.call_ahead()?.is_none() {
        child.step()?;
        let now = shared.bytes(child)?;
        let place = places.next(child.address()?);
        let changed = now != bytes;
        // A long string copy into private memory is looked at in its first parts only.
        if !child.ended()? && (changed || place.repeats < 3) {
            behind.push((Point::Instruction { stops, place }, changed));
        }
        bytes = now;
        if behind.len() > LONGEST {
            return Err("there is no end to the stores".into());
        }
    }
    Ok(())
}

/// As many children as it takes until one comes to the point.
fn reach(
    world: &mut World,
    operation: &Operation,
    point: Point,
    tally: &mut Tally,
) -> Result<(), Fault> {
    for _ in 0..4 {
        if attempt(world, operation, point, tally)? {
            return Ok(());
        }
    }
    tally.missed += 1;
    Ok(())
}

fn attempt(
    world: &mut World,
    operation: &Operation,
    point: Point,
    tally: &mut Tally,
) -> Result<bool, Fault> {
    let mut at = 0;
    let result = (|| {
        world.prepare(operation)?;
        let mut child = start(world, operation)?;
        let there = match point {
            Point::Call(stops) => child.pass_calls(stops)?,
            Point::Instruction { stops, place } => {
                child.pass_calls(stops)? && child.run_to(place, None)?
            }
        };
        at = child.address()?;
        child.kill()?;
        let seen = world.check(operation, false)?;
        if there {
            tally.points += 1;
            match seen {
                Seen::Before => tally.invisible += 1,
                Seen::After => tally.visible += 1,
            }
        }
        Ok(there)
    })();
    result.map_err(|fault: Fault| {
        let place = place_of(at);
        match point {
            Point::Call(stops) if stops % 2 == 1 => {
                format!("killed before system call {} at {place}: {fault}", stops / 2)
            }
            Point::Call(stops) => format!("killed behind {} calls at {place}: {fault}", stops / 2),
            Point::Instruction { stops, .. } => {
                format!("killed {} calls on, at {place}: {fault}", stops / 2)
            }
        }
    })
}

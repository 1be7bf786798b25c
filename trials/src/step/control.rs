//! Killing what changes names and attachments: create, open, replace, remove, collect, and so on.
//!
//! A child is killed before and behind each system call of the operation. A first child tells
//! between which calls the bytes of a shared mapping change; from the first such stretch to the
//! last, one more child is killed before each instruction. What must hold afterwards stands in
//! `world`.

use super::drive::{Effort, Tally};
use super::tracee::{Act, Fault, Tracee, place_of};
use super::world::{Deed, Operation, Seen, World};
use crate::verdict::Verdict;
use std::any::Any;
use std::collections::HashMap;
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
    /// Before this instruction of the stretch with stores.
    Store { address: u64, times: u64, number: usize },
}

/// What an operation consists of.
struct Course {
    stops: usize,
    /// Behind so many stops the first store comes; none if there is none.
    first: Option<usize>,
    /// The instructions from there to the last store.
    stores: Vec<u64>,
}

/// Drives an operation, and prints its line.
pub fn drive(
    world: &mut World,
    operation: &Operation,
    effort: Effort,
    verdict: &mut Verdict,
) -> Tally {
    let (name, begin) = (format!("{}: {}", world.name(), operation.name), Instant::now());
    let mut tally = Tally::default();
    let mut calls = 0;
    let mut stepped = 1;
    let outcome = explore(world, operation).and_then(|course| {
        calls = course.stops / 2;
        tally.longest = course.stores.len() as u64;
        stepped = effort.stride(course.stores.len());
        for point in points(&course, stepped, effort) {
            reach(world, operation, &course, point, &mut tally)?;
        }
        Ok(())
    });
    if let Err(fault) = outcome {
        verdict.fault(format!("{name}: {fault}"));
    } else if tally.points == 0 || tally.invisible == 0 && operation.happens {
        verdict.fault(format!("{name}: not every outcome came about"));
    }
    let note = if stepped > 1 { format!(", every {stepped}th") } else { String::new() };
    println!(
        "{name:<52} {:>6} {:>6} {:>8} {:>9} {:>6} {:>7} {:>6} {:>6.1}s  {calls} calls{note}",
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

fn points(course: &Course, stepped: usize, effort: Effort) -> Vec<Point> {
    let calls = (0..=course.stops).step_by(effort.stride(course.stops)).map(Point::Call);
    let mut seen: HashMap<u64, u64> = HashMap::new();
    let mut points: Vec<Point> = calls.collect();
    for (number, address) in course.stores.iter().enumerate() {
        let times = seen.entry(*address).or_default();
        if number % stepped == 0 {
            points.push(Point::Store { address: *address, times: *times, number });
        }
        *times += 1;
    }
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
        let before = child.shared_bytes()?;
        let more = child.next_call()?;
        if child.shared_bytes()? != before {
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
    let mut course = Course { stops, first: stretches.first().copied(), stores: Vec::new() };
    if let (Some(first), Some(last)) = (stretches.first(), stretches.last()) {
        world.prepare(operation)?;
        let mut child = start(world, operation)?;
        child.pass_calls(*first)?;
        let mut calls_left = (last - first) / 2;
        while !child.ended()? {
            if child.call_ahead()?.is_some() {
                if calls_left == 0 {
                    break;
                }
                calls_left -= 1;
            }
            course.stores.push(child.address()?);
            if course.stores.len() > LONGEST {
                return Err("there is no end to the stores".into());
            }
            child.step()?;
        }
        child.kill()?;
        world.check(operation, false)?;
    }
    Ok(course)
}

/// As many children as it takes until one comes to the point.
fn reach(
    world: &mut World,
    operation: &Operation,
    course: &Course,
    point: Point,
    tally: &mut Tally,
) -> Result<(), Fault> {
    for _ in 0..4 {
        if attempt(world, operation, course, point, tally)? {
            return Ok(());
        }
    }
    tally.missed += 1;
    Ok(())
}

fn attempt(
    world: &mut World,
    operation: &Operation,
    course: &Course,
    point: Point,
    tally: &mut Tally,
) -> Result<bool, Fault> {
    let mut at = 0;
    let result = (|| {
        world.prepare(operation)?;
        let mut child = start(world, operation)?;
        let there = match point {
            Point::Call(stops) => child.pass_calls(stops)?,
            Point::Store { address, times, .. } => {
                child.pass_calls(course.first.unwrap_or(0))? && child.run_to(address, times, None)?
            }
        };
        at = child.address()?;
        child.kill()?;
        let whole = matches!(point, Point::Call(stops) if stops == course.stops && there);
        let seen = world.check(operation, whole && operation.done_at_last_call)?;
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
            Point::Store { number, .. } => {
                format!("killed before instruction {number} of the stores at {place}: {fault}")
            }
        }
    })
}

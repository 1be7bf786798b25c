//! One meeting in one order: what was before, the steps, and everything that must hold behind.

use super::carrier;
use super::explore::Order;
use super::model::{Frame, Made, explains};
use super::operation::{NAME, Operation, check};
use super::scenario::{Before, Scenario};
use super::tracee::{At, Tracee};
use crate::common::Scratch;
use hugeshm::{Domain, ErrorKind, Segment};

/// All wait for each other if nobody gets anywhere in so many turns.
const TURNS: u32 = 20_000;

/// Who is killed, and when.
#[derive(Clone, Copy, Debug)]
pub struct Death {
    /// Which of the two.
    pub victim: usize,
    /// So many steps of the survivor come first.
    pub first: u32,
    /// So many steps the victim makes.
    pub steps: u32,
}

/// What came of a meeting.
#[derive(Clone, Copy, Debug, Default)]
pub struct Steps {
    /// The steps of each process.
    pub made: [u32; 3],
    /// The survivor could not make all the steps that were to come first.
    pub first_cut: bool,
    /// The victim could not make all its steps.
    pub cut: bool,
}

/// A place for meetings, one after the other.
pub struct Place {
    scratch: Scratch,
    domain: Domain,
}

/// An error in the words of a fault.
fn because(what: &'static str) -> impl Fn(hugeshm::Error) -> String {
    move |error| format!("{what}: {error}")
}

impl Place {
    /// A control folder of its own.
    pub fn new() -> Result<Self, String> {
        let scratch = Scratch::new();
        let domain = Domain::in_folder("races", scratch.path()).map_err(because("domain"))?;
        Ok(Self { scratch, domain })
    }

    /// Lets them meet in this order, or until a death.
    ///
    /// # Errors
    ///
    /// Something that must hold does not.
    pub fn meet(
        &self,
        scenario: &Scenario,
        order: &mut Order,
        death: Option<Death>,
    ) -> Result<Steps, String> {
        let met = self.meeting(scenario, order, death);
        if met.is_err() {
            self.sweep();
        }
        met
    }

    fn meeting(
        &self,
        scenario: &Scenario,
        order: &mut Order,
        death: Option<Death>,
    ) -> Result<Steps, String> {
        let before = match scenario.before {
            Before::Nothing => None,
            _ => Some(carrier::base(self.domain.create(NAME)).build().map_err(because("before"))?),
        };
        let mut frame = Frame {
            before: before.as_ref().map(|segment| segment.identity().to_string()),
            held: scenario.before == Before::Held,
            after: None,
        };
        let held = before.filter(|_| frame.held);
        let start = |&operation: &Operation| Tracee::start(operation, self.scratch.path());
        let mut tracees: Vec<Tracee> =
            scenario.calls.iter().map(start).collect::<Result<_, _>>()?;
        let steps = match death {
            None => all(&mut tracees, order)?,
            Some(death) => until_death(&mut tracees, death)?,
        };
        let mut made = Vec::new();
        for (tracee, &operation) in tracees.into_iter().zip(scenario.calls) {
            made.push(Made { operation, answer: tracee.answer()? });
        }
        frame.after = self.now()?;
        if !explains(&made, &frame) {
            return Err(format!("no order of the calls explains {made:?} with {frame:?}"));
        }
        let killed = made.iter().any(|made| made.answer.is_none());
        if let Some(held) = &held {
            check(held).map_err(|what| format!("the one that is held: {what}"))?;
            let leads_here = frame.after == frame.before;
            // Who dies between taking the name over and telling so tells nobody.
            if held.is_superseded() == leads_here && (!killed || leads_here) {
                let says = held.is_superseded();
                return Err(format!("superseded is {says}, the name leads to it: {leads_here}"));
            }
        }
        if killed {
            self.next_works()?;
        } else {
            self.nothing_else(scenario, &frame, held.is_some())?;
        }
        drop(held);
        self.clean(killed)?;
        Ok(steps)
    }

    /// What the name leads to, which must be whole.
    fn now(&self) -> Result<Option<String>, String> {
        match self.domain.open(NAME) {
            Ok(segment) => {
                check(&segment).map_err(|what| format!("behind all: {what}"))?;
                Ok(Some(segment.identity().to_string()))
            }
            Err(error)
                if error.kind() == ErrorKind::NotFound
                    && !error.to_string().contains("its bytes are gone") =>
            {
                Ok(None)
            }
            Err(error) => Err(format!("open behind all: {error}")),
        }
    }

    /// Only the files of the segment that has the name are there.
    fn nothing_else(&self, scenario: &Scenario, frame: &Frame, held: bool) -> Result<(), String> {
        let sysv = scenario.calls.contains(&Operation::CreateSysv);
        let expected = match &frame.after {
            None => 0,
            Some(_) if sysv => 2,
            Some(_) => 3,
        };
        let files = self.scratch.files();
        if files.len() == expected {
            return Ok(());
        }
        Err(format!("{files:?} are there, with {frame:?}, held: {held}"))
    }

    /// Whoever comes next does not notice that somebody was killed.
    fn next_works(&self) -> Result<(), String> {
        let builder = Segment::replace(NAME).domain(self.domain.clone());
        let next = carrier::base(builder).build().map_err(because("the next one"))?;
        check(&next)?;
        let found = self.domain.open(NAME).map_err(because("open the next one"))?;
        if found.identity() != next.identity() {
            return Err("the name does not lead to the next one".to_owned());
        }
        Ok(())
    }

    /// Everything is removed and collected; nothing is left.
    fn clean(&self, killed: bool) -> Result<(), String> {
        match self.domain.remove(NAME) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(format!("remove behind all: {error}"));
            }
            _ => {}
        }
        let report = self.domain.collect().map_err(because("collect behind all"))?;
        if !report.failed.is_empty() || (!killed && !report.removed.is_empty()) {
            return Err(format!("collected behind all: {report:?}"));
        }
        let files = self.scratch.files();
        if files.is_empty() { Ok(()) } else { Err(format!("left for ever: {files:?}")) }
    }

    /// After a fault: the next meeting begins with nothing.
    fn sweep(&self) {
        let _ = self.domain.remove(NAME);
        let _ = self.domain.collect();
        for file in self.scratch.files() {
            let _ = std::fs::remove_file(self.scratch.path().join(file));
        }
    }
}

/// Whose turn it may be.
struct Turns {
    /// It paused, and nobody has moved since.
    waits: Vec<bool>,
    /// It has paused once more while these did not move at all: they come first.
    yields_to: Vec<Vec<usize>>,
    /// Who has moved since it last paused.
    moved: Vec<Vec<usize>>,
    /// Who moved when; the latest at the end.
    history: Vec<usize>,
}

impl Turns {
    fn new(count: usize) -> Self {
        let nobody = vec![Vec::new(); count];
        let history = (0..count).rev().collect();
        Self { waits: vec![false; count], yields_to: nobody.clone(), moved: nobody, history }
    }

    /// Who may move, in order of preference, and whether the choice is free.
    fn options(&self, alive: &[usize], last: Option<usize>) -> (Vec<usize>, bool) {
        let held_up = |who: usize| self.yields_to[who].iter().any(|other| alive.contains(other));
        let may = |&who: &usize| !self.waits[who] && !held_up(who);
        let mut options: Vec<usize> = alive.iter().copied().filter(may).collect();
        let latest = |who: &usize| self.history.iter().position(|other| other == who);
        options.sort_by_key(latest);
        let goes_on = last.and_then(|last| options.iter().position(|&who| who == last));
        if let Some(at) = goes_on {
            options[..=at].rotate_right(1);
        }
        let waits = last.is_some_and(|last| alive.contains(&last));
        (options, goes_on.is_none() && !waits)
    }

    /// `who` has moved, and pauses now or does not.
    fn moved(&mut self, who: usize, pauses: bool) {
        self.history.retain(|&other| other != who);
        self.history.push(who);
        self.waits.fill(false);
        for other in 0..self.waits.len() {
            self.yields_to[other].retain(|&whom| whom != who);
            self.moved[other].push(who);
        }
        if pauses {
            self.waits[who] = true;
            let moved = core::mem::take(&mut self.moved[who]);
            let all = 0..self.waits.len();
            self.yields_to[who].extend(all.filter(|other| !moved.contains(other)));
            self.yields_to[who].retain(|&other| other != who);
        }
    }
}

/// All of them to their ends, in this order.
fn all(tracees: &mut [Tracee], order: &mut Order) -> Result<Steps, String> {
    let mut steps = Steps::default();
    let mut turns = Turns::new(tracees.len());
    let mut last = None;
    for _ in 0..TURNS {
        let alive: Vec<usize> =
            (0..tracees.len()).filter(|&who| tracees[who].at() != At::End).collect();
        if alive.is_empty() {
            return Ok(steps);
        }
        let (options, free) = turns.options(&alive, last);
        if options.is_empty() {
            // Whoever waits for a time to pass gets it.
            for who in alive {
                tracees[who].go(true)?;
                turns.moved(who, tracees[who].at() == At::Pause);
            }
            continue;
        }
        let who = order.pick(&options, free);
        tracees[who].go(false)?;
        steps.made[who] += 1;
        turns.moved(who, tracees[who].at() == At::Pause);
        last = Some(who);
    }
    Err(format!("they wait for each other for ever: {:?}", steps.made))
}

/// Two of them, until one is killed; then the other to its end.
fn until_death(tracees: &mut [Tracee], death: Death) -> Result<Steps, String> {
    let survivor = 1 - death.victim;
    let mut steps = Steps::default();
    let mut some = |who: usize, count: u32| -> Result<bool, String> {
        for _ in 0..count {
            if tracees[who].at() == At::End {
                return Ok(true);
            }
            tracees[who].go(false)?;
            steps.made[who] += 1;
            if tracees[who].at() == At::Pause {
                return Ok(true);
            }
        }
        Ok(tracees[who].at() == At::End)
    };
    let first_cut = some(survivor, death.first)?;
    let cut = some(death.victim, death.steps)?;
    tracees[death.victim].kill();
    let mut turns = 0;
    while tracees[survivor].at() != At::End {
        turns += 1;
        if turns > TURNS {
            return Err("the survivor gets nowhere".to_owned());
        }
        // Nobody else is there: time passes as it does.
        let real = tracees[survivor].at() == At::Pause;
        tracees[survivor].go(real)?;
    }
    Ok(Steps { first_cut, cut, ..steps })
}

//! Which calls meet, and what is there before.

use super::operation::Operation::{self, *};

/// What the name leads to at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// Nothing.
    Nothing,
    /// A segment that nobody holds.
    Left,
    /// A segment that somebody holds all the time.
    Held,
}

/// Calls that meet.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// What is there before.
    pub before: Before,
    /// One call for each process.
    pub calls: &'static [Operation],
}

const fn of(before: Before, calls: &'static [Operation]) -> Scenario {
    Scenario { before, calls }
}

/// Meetings on base pages of tmpfs.
pub const ON_TMPFS: [Scenario; 32] = [
    of(Before::Nothing, &[Create, Create]),
    of(Before::Nothing, &[Create, Open]),
    of(Before::Nothing, &[Create, OpenReadOnly]),
    of(Before::Nothing, &[Create, WaitFor]),
    of(Before::Nothing, &[Create, OpenOrCreate]),
    of(Before::Nothing, &[Create, Replace]),
    of(Before::Nothing, &[Create, Remove]),
    of(Before::Nothing, &[Create, Collect]),
    of(Before::Nothing, &[Create, List]),
    of(Before::Nothing, &[Create, Inspect]),
    of(Before::Nothing, &[OpenOrCreate, OpenOrCreate]),
    of(Before::Left, &[OpenOrCreate, Collect]),
    of(Before::Left, &[OpenOrCreate, Remove]),
    of(Before::Held, &[Replace, Replace]),
    of(Before::Held, &[Replace, Open]),
    of(Before::Held, &[Replace, OpenReadOnly]),
    of(Before::Held, &[Replace, Inspect]),
    of(Before::Held, &[Replace, List]),
    of(Before::Held, &[Replace, Remove]),
    of(Before::Held, &[Replace, Collect]),
    of(Before::Left, &[Replace, Collect]),
    of(Before::Held, &[Remove, Create]),
    of(Before::Held, &[Remove, Remove]),
    of(Before::Held, &[Remove, Open]),
    of(Before::Left, &[Remove, Collect]),
    of(Before::Left, &[Remove, List]),
    of(Before::Left, &[Open, Collect]),
    of(Before::Left, &[OpenReadOnly, Collect]),
    of(Before::Left, &[Collect, Collect]),
    of(Before::Left, &[Collect, Create]),
    of(Before::Held, &[Open, Open]),
    of(Before::Held, &[Take, Take]),
];

/// Meetings of three.
pub const OF_THREE: [Scenario; 4] = [
    of(Before::Nothing, &[Create, Create, Create]),
    of(Before::Left, &[Remove, Create, Open]),
    of(Before::Left, &[Replace, Open, Collect]),
    of(Before::Left, &[Collect, OpenOrCreate, Remove]),
];

/// Meetings on System V, whose segments are born with an id.
pub const ON_SYSV: [Scenario; 4] = [
    of(Before::Nothing, &[CreateSysv, CreateSysv]),
    of(Before::Nothing, &[CreateSysv, Collect]),
    of(Before::Nothing, &[CreateSysv, Open]),
    of(Before::Nothing, &[CreateSysv, Remove]),
];

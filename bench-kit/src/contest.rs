//! What a contestant is.
//!
//! A contest is one way to do one work, written as two halves that run at the
//! same time on two processors. It belongs to a table; the tables of a suite
//! name the contest that is their physical limit.

use crate::stage::{Outcome, Stage};
use core::fmt;

type Half = Box<dyn Fn(&Stage) -> Outcome + Send + Sync>;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Round trips, timed by the first half.
    RoundTrip,
    /// Messages of this many bytes, timed by the second half, which receives them.
    Stream(u64),
    /// Messages of this many bytes, timed by the first half, which sends them: the second one may
    /// miss some.
    Sent(u64),
    /// Single times in nanoseconds, noted with [`Stage::sample`]; their percentiles are shown.
    Latency,
}

/// Where the halves run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In two processes.
    Processes,
    /// In two threads of one process: a contestant that cannot do more.
    Threads,
    /// The first half alone.
    Alone,
}

/// Whose number it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The machine's.
    Limit,
    /// Ours.
    Ours,
    /// Somebody else's.
    Peer,
}

/// One contestant.
pub struct Contest {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) table: usize,
    pub(crate) role: Role,
    pub(crate) unit: Unit,
    pub(crate) place: Place,
    pub(crate) granule: u64,
    pub(crate) lap: u64,
    pub(crate) halt_poll: Option<bool>,
    pub(crate) note: String,
    pub(crate) halves: [Half; 2],
}

impl Contest {
    /// A contestant called `name` in its table.
    pub fn new(
        name: impl Into<String>,
        role: Role,
        unit: Unit,
        first: impl Fn(&Stage) -> Outcome + Send + Sync + 'static,
        second: impl Fn(&Stage) -> Outcome + Send + Sync + 'static,
    ) -> Self {
        Self {
            id: String::new(),
            name: name.into(),
            table: 0,
            role,
            unit,
            place: Place::Processes,
            granule: 1,
            lap: 1,
            halt_poll: None,
            note: String::new(),
            halves: [Box::new(first), Box::new(second)],
        }
    }

    /// Where the halves run; in two processes if nothing is said.
    #[must_use]
    pub fn place(mut self, place: Place) -> Self {
        self.place = place;
        self
    }

    /// Operations come in multiples of this: the size of a batch or a burst.
    #[must_use]
    pub fn granule(mut self, operations: u64) -> Self {
        self.granule = operations.max(1);
        self
    }

    /// How many operations go once through the memory; as many are run before the clock starts.
    #[must_use]
    pub fn lap(mut self, operations: u64) -> Self {
        self.lap = operations.max(1);
        self
    }

    /// Runs with the guest's halt polling switched on or off, where this user may do that.
    #[must_use]
    pub fn halt_poll(mut self, on: bool) -> Self {
        self.halt_poll = Some(on);
        self
    }

    /// What the reader of the row must know, such as what is unfair to this contestant.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// Whether the second half's clock counts.
    pub(crate) fn times_second(&self) -> bool {
        matches!(self.unit, Unit::Stream(_)) && self.place != Place::Alone
    }
}

impl fmt::Debug for Contest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contest").field("id", &self.id).field("unit", &self.unit).finish()
    }
}

/// One table: a key for its contestants' ids, a title, the contest that is its limit.
#[derive(Clone, Debug)]
pub struct Table {
    /// Short; the ids of its contests begin with it.
    pub key: String,
    /// A sentence.
    pub title: String,
    /// The id of the contest that all others are divided by.
    pub limit: String,
}

/// All contests of a benchmark, by tables.
#[derive(Debug, Default)]
pub struct Suite {
    pub(crate) tables: Vec<Table>,
    pub(crate) contests: Vec<Contest>,
    pub(crate) missing: Vec<(usize, String, String)>,
    /// The table in use.
    current: usize,
}

impl Suite {
    /// Without contests.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins a table, or goes on with the one that has this key. `limit` is the id of a contest.
    pub fn table(&mut self, key: &str, title: &str, limit: &str) -> &mut Self {
        let known = self.tables.iter().position(|table| table.key == key);
        self.current = known.unwrap_or_else(|| {
            self.tables.push(Table { key: key.into(), title: title.into(), limit: limit.into() });
            self.tables.len() - 1
        });
        self
    }

    /// Begins a table whose first contest is `limit`, measured there once more.
    pub fn table_next_to(&mut self, key: &str, title: &str, limit: Contest) -> &mut Self {
        let id = format!("{key}/{}", limit.name);
        self.table(key, title, &id).add(limit)
    }

    /// Adds a contest to the table in use; its id is the table's key and its name.
    pub fn add(&mut self, mut contest: Contest) -> &mut Self {
        contest.table = self.current;
        let key = self.tables.get(self.current).map_or("", |table| table.key.as_str());
        contest.id = format!("{key}/{}", contest.name);
        self.contests.push(contest);
        self
    }

    /// Says that a contestant of the table in use is absent from this build, and why.
    pub fn missing(&mut self, name: &str, why: &str) -> &mut Self {
        self.missing.push((self.current, name.into(), why.into()));
        self
    }

    /// The ids of all contests.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.contests.iter().map(|contest| contest.id.as_str())
    }

    /// The number of the contest with this id.
    pub(crate) fn find(&self, id: &str) -> Option<usize> {
        self.contests.iter().position(|contest| contest.id == id)
    }
}

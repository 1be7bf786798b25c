//! Medians, ratios of one round, near and far.

use crate::contest::{Contest, Place, Suite, Table, Unit};
use crate::coordinator::{Run, Turn};
use crate::stage::{Plan, Told};
use serde::Serialize;
use std::collections::BTreeMap;

/// A line whose round trip takes longer than this, in ns, connects two core complexes.
pub(crate) const FAR_NANOS: f64 = 160.0;

/// The middle of some numbers, and their ends.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

impl Spread {
    pub(crate) fn of(numbers: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut numbers: Vec<f64> = numbers.into_iter().collect();
        numbers.sort_by(f64::total_cmp);
        let (min, max) = (*numbers.first()?, *numbers.last()?);
        Some(Self { median: middle(&numbers), min, max })
    }
}

fn middle(sorted: &[f64]) -> f64 {
    let half = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) {
        f64::midpoint(sorted[half - 1], sorted[half])
    } else {
        sorted[half]
    }
}

/// Nanoseconds per operation: the median of the block means, or of the samples.
pub(crate) fn nanos(contest: &Contest, plan: Plan, told: &[Told; 2]) -> f64 {
    let at = usize::from(contest.times_second() && contest.place == Place::Processes);
    let per_operation = |nanos: u64| nanos as f64 / plan.operations as f64;
    let clean = clean_blocks(told, at).map(per_operation);
    let all = told[at].blocks.iter().map(|&nanos| per_operation(nanos));
    let spread = if is_disturbed(told, at) { Spread::of(all) } else { Spread::of(clean) };
    spread.map_or(f64::NAN, |spread| spread.median)
}

/// The blocks during which both halves kept their processors.
fn clean_blocks(told: &[Told; 2], at: usize) -> impl Iterator<Item = u64> {
    let lost = |half: usize, block: usize| told[half].preempted.get(block) == Some(&true);
    let blocks = told[at].blocks.iter().enumerate();
    blocks.filter(move |&(block, _)| !lost(0, block) && !lost(1, block)).map(|(_, &nanos)| nanos)
}

/// Whether less than a quarter of the blocks is clean.
fn is_disturbed(told: &[Told; 2], at: usize) -> bool {
    clean_blocks(told, at).count() * 4 < told[at].blocks.len()
}

/// Whether somebody else had the processors for most of the turn.
pub(crate) fn was_disturbed(contest: &Contest, turn: &Turn) -> bool {
    is_disturbed(
        &turn.told,
        usize::from(contest.times_second() && contest.place == Place::Processes),
    )
}

/// One contestant in one table, in turns that were all near or all far.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The contest's id.
    pub id: String,
    /// The contestant.
    pub name: String,
    /// Whose it is.
    pub role: crate::Role,
    /// `processes`, `threads` or `alone`.
    pub place: &'static str,
    /// How many turns.
    pub turns: usize,
    /// Nanoseconds per operation.
    pub nanos: Spread,
    /// GiB/s of payload, for streams.
    pub gib_per_second: Option<f64>,
    /// Times the limit of the same round.
    pub times_limit: Option<Spread>,
    /// Times the same contest of the other build in the same round.
    pub times_other_build: Option<Spread>,
    /// Medians of the percentiles 50, 90, 99, 99.9, 100, in ns.
    pub percentiles: Option<[f64; 5]>,
    /// Page faults before and while the clock ran, both halves: medians.
    pub faults: [f64; 2],
    /// Nanoseconds to make everything, first half: the median.
    pub setup_nanos: f64,
    /// What was counted, per operation: medians.
    pub counts: BTreeMap<String, f64>,
    /// What the contestant said, and what must be known about it.
    pub remarks: Vec<String>,
}

/// All rows of a table.
#[derive(Clone, Debug, Serialize)]
pub struct Sheet {
    /// The table's key.
    pub key: String,
    /// Its title.
    pub title: String,
    /// `stream`, `round trip` or `latency`: what is shown.
    pub kind: &'static str,
    /// The id of the contestant that all others are divided by.
    pub limit: String,
    /// Rows of near turns.
    pub near: Vec<Row>,
    /// Rows of far turns.
    pub far: Vec<Row>,
    /// Contestants that are absent or broke, with the reason.
    pub absent: Vec<(String, String)>,
}

pub(crate) fn sheets(suite: &Suite, run: &Run) -> Vec<Sheet> {
    (0..suite.tables.len()).filter_map(|table| sheet(suite, run, table)).collect()
}

fn sheet(suite: &Suite, run: &Run, at: usize) -> Option<Sheet> {
    let table = &suite.tables[at];
    // The limit comes first, wherever it was measured.
    let limit = suite.find(&table.limit);
    let own = (0..suite.contests.len()).filter(|&c| suite.contests[c].table == at);
    let contests: Vec<usize> = limit.into_iter().chain(own.filter(|&c| Some(c) != limit)).collect();
    let rows = |far: bool| -> Vec<Row> {
        contests.iter().filter_map(|&contest| row(suite, run, contest, limit, far)).collect()
    };
    let (near, far) = (rows(false), rows(true));
    let measured = |row: &Row| suite.find(&row.id).is_some_and(|c| suite.contests[c].table == at);
    let mut absent: Vec<(String, String)> = Vec::new();
    for (&(contest, build), reason) in &run.broken {
        let name = &suite.contests[contest].name;
        if suite.contests[contest].table == at {
            let which = if build == 0 { "" } else { " (other build)" };
            absent.push((format!("{name}{which}"), reason.clone()));
        }
    }
    if !near.iter().chain(&far).any(measured) && absent.is_empty() {
        return None;
    }
    let missing = suite.missing.iter().filter(|(table, _, _)| *table == at);
    absent.extend(missing.map(|(_, name, why)| (name.clone(), why.clone())));
    let unit = contests.iter().map(|&c| &suite.contests[c]).find(|c| c.table == at)?.unit;
    let kind = match unit {
        Unit::Stream(_) | Unit::Sent(_) => "stream",
        Unit::RoundTrip => "round trip",
        Unit::Latency => "latency",
    };
    let Table { key, title, limit } = table.clone();
    Some(Sheet { key, title, kind, limit, near, far, absent })
}

fn row(suite: &Suite, run: &Run, at: usize, limit: Option<usize>, far: bool) -> Option<Row> {
    let contest = &suite.contests[at];
    let of = |contest: usize, build: usize| {
        move |turn: &&Turn| {
            turn.contest == contest && turn.build == build && is_far(turn) == far && !is_mixed(turn)
        }
    };
    let turns: Vec<&Turn> = run.turns.iter().filter(of(at, 0)).collect();
    let nanos = Spread::of(turns.iter().map(|turn| turn.nanos))?;
    let ratios = |to: usize, build: usize| {
        let others: BTreeMap<usize, f64> =
            run.turns.iter().filter(of(to, build)).map(|turn| (turn.round, turn.nanos)).collect();
        // Where the line changed within a round, the nearest round with such a line counts.
        let nearest = |round: usize| {
            let by_distance = |(at, _): &(&usize, &f64)| at.abs_diff(round);
            others.iter().min_by_key(by_distance).map(|(_, nanos)| *nanos)
        };
        let ratio = |turn: &&Turn| nearest(turn.round).map(|other| turn.nanos / other);
        Spread::of(turns.iter().filter_map(ratio))
    };
    let median = |number: &dyn Fn(&Turn) -> f64| {
        Spread::of(turns.iter().map(|turn| number(turn))).map_or(0.0, |spread| spread.median)
    };
    let percentiles = turns.iter().all(|turn| percentiles(turn).is_some()).then(|| {
        core::array::from_fn(|p| {
            median(&|turn: &Turn| percentiles(turn).map_or(0.0, |list| list[p]))
        })
    });
    let mut counts = BTreeMap::new();
    for told in turns.iter().flat_map(|turn| &turn.told) {
        for what in told.counts.keys() {
            counts.entry(what.clone()).or_insert_with(|| {
                median(&|turn: &Turn| {
                    turn.told.iter().find_map(|told| told.counts.get(what)).copied().unwrap_or(0.0)
                })
            });
        }
    }
    let mut remarks: Vec<String> = Vec::new();
    let said =
        turns.iter().flat_map(|turn| turn.told.iter().filter_map(|told| told.remark.clone()));
    for remark in said.chain([contest.note.clone()]) {
        if !remark.is_empty() && !remarks.contains(&remark) {
            remarks.push(remark);
        }
    }
    Some(Row {
        id: contest.id.clone(),
        name: contest.name.clone(),
        role: contest.role,
        place: match contest.place {
            Place::Processes => "processes",
            Place::Threads => "threads",
            Place::Alone => "alone",
        },
        turns: turns.len(),
        nanos,
        gib_per_second: match contest.unit {
            Unit::Stream(bytes) | Unit::Sent(bytes) => {
                Some(bytes as f64 / nanos.median * 1e9 / f64::from(1 << 30))
            }
            Unit::RoundTrip | Unit::Latency => None,
        },
        times_limit: limit.and_then(|limit| ratios(limit, 0)),
        times_other_build: ratios(at, 1),
        percentiles,
        faults: core::array::from_fn(|f| {
            median(&|turn: &Turn| turn.told.iter().map(|told| told.faults[f] as f64).sum())
        }),
        setup_nanos: median(&|turn: &Turn| turn.told[0].setup as f64),
        counts,
        remarks,
    })
}

pub(crate) fn is_far(turn: &Turn) -> bool {
    turn.line > FAR_NANOS
}

/// Whether the processors were moved during the turn, which then counts nowhere.
pub(crate) fn is_mixed(turn: &Turn) -> bool {
    let [before, after] = turn.told[0].line;
    (before > FAR_NANOS) != (after > FAR_NANOS)
}

fn percentiles(turn: &Turn) -> Option<[f64; 5]> {
    turn.told.iter().find_map(|told| told.percentiles)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_lies_between() {
        let spread = Spread::of([4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!(spread, Spread { median: 2.5, min: 1.0, max: 4.0 });
        assert_eq!(Spread::of([]), None);
    }
}

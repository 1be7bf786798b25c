//! Tables as plain text, Markdown and JSON.

use crate::contest::Suite;
use crate::coordinator::{Run, Turn};
use crate::options::{Effort, Options};
use crate::sum::{self, FAR_NANOS, Row, Sheet, Spread};
use crate::{cpus, haltpoll};
use core::fmt::{self, Write};
use serde::Serialize;

/// What a run of a benchmark found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The number of this report's shape.
    pub shape: u32,
    /// When, in seconds since 1970.
    pub unix_seconds: u64,
    /// `quick` or `full`.
    pub effort: &'static str,
    /// How many rounds counted.
    pub rounds: usize,
    /// How long it all took.
    pub seconds: f64,
    /// The processor.
    pub processor: String,
    /// The kernel.
    pub kernel: String,
    /// The two processors used.
    pub cpus: [usize; 2],
    /// The guest's halt polling, as found.
    pub halt_poll: String,
    /// Whether the limits were measured on huge pages.
    pub limits_on_huge_pages: bool,
    /// The line's round trip in ns, over all turns.
    pub line: Option<Spread>,
    /// How many turns were near, and far.
    pub turns: [usize; 2],
    /// How many turns count nowhere, since the line changed between their beginning and end.
    pub mixed: usize,
    /// How many turns somebody else had the processors for most of the time.
    pub disturbed: usize,
    /// The load average at the end, over one minute.
    pub load: String,
    /// The tables.
    pub sheets: Vec<Sheet>,
}

impl Report {
    pub(crate) fn new(suite: &Suite, options: &Options, run: &Run) -> Self {
        let count = |wanted: &dyn Fn(&Turn) -> bool| {
            run.turns.iter().filter(|turn| turn.line > 0.0 && wanted(turn)).count()
        };
        let mixed = count(&sum::is_mixed);
        let far = count(&|turn| sum::is_far(turn) && !sum::is_mixed(turn));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self {
            shape: 1,
            unix_seconds: now.map_or(0, |since| since.as_secs()),
            effort: if options.effort == Effort::Full { "full" } else { "quick" },
            rounds: options.rounds(),
            seconds: run.took.as_secs_f64(),
            processor: cpus::model(),
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")
                .map_or_else(|_| "?".into(), |text| text.trim().to_owned()),
            cpus: run.cpus,
            halt_poll: haltpoll::found(),
            limits_on_huge_pages: run.on_huge,
            line: Spread::of(run.turns.iter().map(|turn| turn.line).filter(|&line| line > 0.0)),
            turns: [count(&|_| true) - far - mixed, far],
            mixed,
            disturbed: run
                .turns
                .iter()
                .filter(|turn| sum::was_disturbed(&suite.contests[turn.contest], turn))
                .count(),
            load: std::fs::read_to_string("/proc/loadavg")
                .ok()
                .and_then(|text| text.split(' ').next().map(str::to_owned))
                .unwrap_or_else(|| "?".into()),
            sheets: sum::sheets(suite, run),
        }
    }

    /// As Markdown.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        for line in self.preamble() {
            let _ = writeln!(text, "- {line}");
        }
        for sheet in &self.sheets {
            for (rows, far) in [(&sheet.near, false), (&sheet.far, true)] {
                if rows.is_empty() {
                    continue;
                }
                let _ =
                    writeln!(text, "\n### {}{}\n", sheet.title, if far { " (far)" } else { "" });
                let (headings, cells) = cells(sheet, rows);
                let _ = writeln!(text, "| {} |", headings.join(" | "));
                let rules: Vec<&str> =
                    (0..headings.len()).map(|at| if at == 0 { "---" } else { "--:" }).collect();
                let _ = writeln!(text, "|{}|", rules.join("|"));
                for row in cells {
                    let _ = writeln!(text, "| {} |", row.join(" | "));
                }
                let notes = notes(sheet, rows);
                if !notes.is_empty() {
                    let _ = writeln!(text);
                }
                for note in notes {
                    let _ = writeln!(text, "- {note}");
                }
            }
        }
        text
    }

    fn preamble(&self) -> Vec<String> {
        let line = self.line.map_or_else(
            || "not measured".to_owned(),
            |line| format!("{:.0} ns (min {:.0}, max {:.0})", line.median, line.min, line.max),
        );
        let [near, far] = self.turns;
        vec![
            format!("{}, Linux {}, cpus {:?}", self.processor, self.kernel, self.cpus),
            format!(
                "{} mode, {} rounds, {:.0} s; medians of rounds, ratios within a round (min..max)",
                self.effort, self.rounds, self.seconds
            ),
            format!(
                "line round trip {line}: {near} turns near, {far} far (over {FAR_NANOS:.0} ns), \
                 {} moved in between and left out",
                self.mixed
            ),
            format!(
                "{} turns disturbed by other programs (fewer than a quarter of the blocks clean), \
                 load {}",
                self.disturbed, self.load
            ),
            format!(
                "halt polling as found: {}; limits on {} pages",
                self.halt_poll,
                if self.limits_on_huge_pages { "2 MiB" } else { "base" }
            ),
        ]
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in self.preamble() {
            writeln!(f, "{line}")?;
        }
        for sheet in &self.sheets {
            if sheet.near.is_empty() && sheet.far.is_empty() {
                writeln!(f, "\n{}", sheet.title)?;
                for note in notes(sheet, &[]) {
                    writeln!(f, "  . {note}")?;
                }
            }
            for (rows, far) in [(&sheet.near, false), (&sheet.far, true)] {
                if rows.is_empty() {
                    continue;
                }
                writeln!(f, "\n{}{}", sheet.title, if far { " (FAR)" } else { "" })?;
                let (headings, cells) = cells(sheet, rows);
                aligned(f, &headings, &cells)?;
                for note in notes(sheet, rows) {
                    writeln!(f, "  . {note}")?;
                }
            }
        }
        Ok(())
    }
}

fn aligned(f: &mut fmt::Formatter<'_>, headings: &[String], rows: &[Vec<String>]) -> fmt::Result {
    let length = |text: &String| text.chars().count();
    for row in [headings].into_iter().chain(rows.iter().map(Vec::as_slice)) {
        let mut line = String::new();
        for (at, cell) in row.iter().enumerate() {
            let width = rows.iter().map(|row| length(&row[at])).max().unwrap_or(0);
            let width = width.max(length(&headings[at]));
            if at == 0 {
                write!(line, "  {cell:<width$}")?;
            } else {
                write!(line, "  {cell:>width$}")?;
            }
        }
        writeln!(f, "{}", line.trim_end())?;
    }
    Ok(())
}

/// Headings and cells of a table; columns in which nothing stands are left out.
fn cells(sheet: &Sheet, rows: &[Row]) -> (Vec<String>, Vec<Vec<String>>) {
    let limit = rows.first().filter(|row| row.id == sheet.limit);
    let limit_name = limit.map_or_else(|| "limit".to_owned(), |row| row.name.clone());
    let mut columns: Vec<(String, Vec<String>)> = Vec::new();
    let mut column = |heading: &str, cell: &dyn Fn(&Row) -> String| {
        let cells: Vec<String> = rows.iter().map(cell).collect();
        if cells.iter().any(|cell| !cell.is_empty()) {
            columns.push((heading.to_owned(), cells));
        }
    };
    column("", &|row| {
        let threads = if row.place == "threads" { " (threads)" } else { "" };
        format!("{}{threads}", row.name)
    });
    if sheet.kind == "latency" {
        for (at, heading) in ["p50 ns", "p90", "p99", "p99.9", "max"].into_iter().enumerate() {
            column(heading, &|row| row.percentiles.map_or_else(String::new, |p| number(p[at])));
        }
    } else {
        column("ns/op", &|row| number(row.nanos.median));
        column("min..max", &|row| format!("{}..{}", number(row.nanos.min), number(row.nanos.max)));
        if sheet.kind == "stream" {
            column("GiB/s", &|row| row.gib_per_second.map_or_else(String::new, number));
        }
        column(&format!("x {limit_name}"), &|row| ratio(row.times_limit));
    }
    column("x other build", &|row| ratio(row.times_other_build));
    let kinds: std::collections::BTreeSet<&String> =
        rows.iter().flat_map(|row| row.counts.keys()).collect();
    for what in kinds {
        column(&format!("{what}/op"), &|row| row.counts.get(what).map_or_else(String::new, small));
    }
    if sheet.key.starts_with("pages") {
        let ours = |row: &Row| row.role == crate::Role::Ours;
        column("faults making", &|row| {
            if ours(row) { format!("{:.0}", row.faults[0]) } else { String::new() }
        });
        column("faults streaming", &|row| {
            if ours(row) { format!("{:.0}", row.faults[1]) } else { String::new() }
        });
        column("making ms", &|row| {
            if ours(row) { format!("{:.1}", row.setup_nanos / 1e6) } else { String::new() }
        });
    }
    let headings = columns.iter().map(|(heading, _)| heading.clone()).collect();
    let lines = (0..rows.len())
        .map(|at| columns.iter().map(|(_, cells)| cells[at].clone()).collect())
        .collect();
    (headings, lines)
}

fn notes(sheet: &Sheet, rows: &[Row]) -> Vec<String> {
    let remarks = rows.iter().filter(|row| !row.remarks.is_empty());
    remarks
        .map(|row| format!("{}: {}", row.name, row.remarks.join("; ")))
        .chain(sheet.absent.iter().map(|(name, why)| format!("{name}: not measured, {why}")))
        .collect()
}

fn number(value: f64) -> String {
    match value {
        v if v < 10.0 => format!("{v:.2}"),
        v if v < 100.0 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}

fn small(value: &f64) -> String {
    if *value == 0.0 { "0".into() } else { format!("{value:.1e}") }
}

fn ratio(spread: Option<Spread>) -> String {
    spread.map_or_else(String::new, |s| format!("{:.2} ({:.2}..{:.2})", s.median, s.min, s.max))
}

//! `hugeshm bench`: the rings between two processes, next to what the machine can do.

use crate::output::{Failure, Format};
use bench_kit::{Effort, Options, Report};
use clap::Args;
use core::fmt;
use std::process::ExitCode;

/// Measure the rings between two processors, next to the physical limits of the same minute
///
/// Two processes are pinned to two processors. Times are medians of rounds; the ratios to the
/// limit are taken within each round. A shared machine that moves its processors apart ("far")
/// gets tables of its own.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Take up to six minutes instead of one
    #[arg(long)]
    full: bool,
    /// Only rows whose name contains this; may be repeated (see --list)
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// List the names of all rows
    #[arg(long)]
    list: bool,
    /// Pages of the segments: auto, 1G, 2M, thp, base
    #[arg(long, value_name = "POLICY")]
    pages: Option<String>,
    /// Take the processors from everybody else (for a machine that is not idle)
    #[arg(long)]
    priority: bool,
    #[command(flatten)]
    format: Format,
}

/// The report, and the sentence on top of it.
#[derive(serde::Serialize)]
struct Shown {
    distance: &'static str,
    #[serde(flatten)]
    report: Report,
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self.distance {
            "near" => "The two processors are near each other: they share a cache.",
            "far" => {
                "The two processors are FAR from each other now: a cache line takes its time, and \
                 nothing below is faster than that."
            }
            "both" => {
                "The two processors were moved apart or together meanwhile: near and far rows are \
                 kept in separate tables."
            }
            _ => "How far the two processors are from each other was not measured.",
        };
        writeln!(f, "{words}\n")?;
        write!(f, "{}", self.report.to_string().trim_end())
    }
}

impl Arguments {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let suite = bench_kit::ours::suite();
        // This program is started again for each of the two processes.
        if let Some(code) = bench_kit::serve_as_worker(&suite) {
            return Ok(code);
        }
        if self.list {
            crate::output::print(&suite.ids().collect::<Vec<_>>().join("\n"))?;
            return Ok(ExitCode::SUCCESS);
        }
        let options = Options {
            effort: if self.full { Effort::Full } else { Effort::Quick },
            only: self.only,
            pages: self.pages,
            priority: self.priority,
            quiet: self.format.is_json(),
            ..Options::default()
        };
        let report = bench_kit::measure(&suite, &options, &["bench".into()])
            .map_err(|error| Failure::Undone(format!("bench: {error}")))?;
        let distance = match report.turns {
            [0, 0] => "unknown",
            [_, 0] => "near",
            [0, _] => "far",
            _ => "both",
        };
        self.format.print(&Shown { distance, report })?;
        Ok(ExitCode::SUCCESS)
    }
}

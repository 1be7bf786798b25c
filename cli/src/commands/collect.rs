//! `hugeshm collect`: give back what no living process holds.

use crate::output::{Failure, Format};
use crate::place::Place;
use crate::table::{Column, Table};
use clap::Args;
use core::fmt;
use hugeshm::{CollectReport, format_bytes};
use serde::Serialize;
use std::process::ExitCode;

/// Remove segments that no living process holds, and what killed creators left.
///
/// Exits with 1 if something should have gone and could not.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    format: Format,
}

#[derive(Serialize)]
struct Report {
    domain: String,
    /// Bytes that came back, in all.
    bytes: u64,
    #[serde(flatten)]
    collected: CollectReport,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CollectReport { removed, kept, failed, .. } = &self.collected;
        if !removed.is_empty() {
            let mut table = Table::new(&[
                Column::Left("REMOVED"),
                Column::Left("WHAT"),
                Column::Right("BYTES"),
                Column::Left("IDENTITY"),
            ]);
            for one in removed {
                table.row([
                    one.name.clone(),
                    one.what.to_owned(),
                    format_bytes(one.bytes),
                    one.identity.to_string(),
                ]);
            }
            writeln!(f, "{table}\n")?;
        }
        let (gone, bytes) = (removed.len(), format_bytes(self.bytes));
        write!(f, "{gone} removed ({bytes}), {kept} kept, {} failed", failed.len())?;
        for problem in failed {
            write!(f, "\n  failed: {problem}")?;
        }
        Ok(())
    }
}

impl Arguments {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let domain = self.place.domain()?;
        let collected = domain.collect()?;
        let bytes = collected.removed.iter().map(|one| one.bytes).sum();
        let report = Report { domain: domain.name().to_owned(), bytes, collected };
        self.format.print(&report)?;
        match report.collected.failed.len() {
            0 => Ok(ExitCode::SUCCESS),
            count => Err(Failure::Undone(format!("collect: {count} could not be removed"))),
        }
    }
}

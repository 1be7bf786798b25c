//! `hugeshm remove`: take names away.

use crate::output::{self, Failure, Format};
use crate::place::Place;
use clap::Args;
use core::fmt;
use serde::Serialize;
use std::process::ExitCode;

/// Remove segments by name.
///
/// Whoever is attached keeps intact memory and is told; the pages come back when the last one
/// leaves.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The names.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    format: Format,
}

/// What became of each name.
#[derive(Default, Serialize)]
struct Report {
    domain: String,
    removed: Vec<String>,
    failed: Vec<Failed>,
}

#[derive(Serialize)]
struct Failed {
    name: String,
    problem: String,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "removed {} of {}", self.removed.len(), self.removed.len() + self.failed.len())?;
        for name in &self.removed {
            write!(f, "\n  {name}")?;
        }
        Ok(())
    }
}

impl Arguments {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let domain = self.place.domain()?;
        let mut report = Report { domain: domain.name().to_owned(), ..Report::default() };
        let mut code = ExitCode::SUCCESS;
        for name in self.names {
            match domain.remove(&name) {
                Ok(()) => report.removed.push(name),
                Err(error) => {
                    code = ExitCode::FAILURE;
                    report.failed.push(Failed { name, problem: error.to_string() });
                    output::complain(&error.into());
                }
            }
        }
        // That nothing was removed has been said, with the reasons.
        if self.format.is_json() || !report.removed.is_empty() {
            self.format.print(&report)?;
        }
        Ok(code)
    }
}

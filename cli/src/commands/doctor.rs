//! `hugeshm doctor`: what keeps this user from using huge pages.

use crate::output::{Failure, Format};
use clap::Args;
use hugeshm::pages;
use std::process::ExitCode;

/// Say what keeps this user from using huge pages, and what to do about it.
///
/// Exits with 0 only if this user can use 2 MiB pages now.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    format: Format,
}

impl Arguments {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let report = pages::doctor()?;
        self.format.print(&report)?;
        Ok(if report.usable_2m { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

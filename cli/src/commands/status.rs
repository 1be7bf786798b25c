//! `hugeshm status`: what this machine has.

use crate::output::{Failure, Format};
use clap::Args;
use hugeshm::pages::Machine;
use std::process::ExitCode;

/// Show huge page pools, mounts, limits and settings.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    format: Format,
}

impl Arguments {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        self.format.print(&Machine::read()?)?;
        Ok(ExitCode::SUCCESS)
    }
}

//! `hugeshm umount`: take a hugetlbfs mount away.

use crate::output::Failure;
use clap::Args;
use hugeshm::pages;
use std::path::PathBuf;
use std::process::ExitCode;

/// Unmount a hugetlbfs; its folder stays. Needs root.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Where it is mounted.
    path: PathBuf,
}

impl Arguments {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        pages::unmount(&self.path)?;
        Ok(ExitCode::SUCCESS)
    }
}

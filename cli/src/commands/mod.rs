//! The commands, one file each.

mod doctor;
mod mount;
mod reserve;
mod status;
mod umount;

use crate::output::Failure;
use clap::Subcommand;
use std::process::ExitCode;

/// One command and its arguments.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Status(status::Arguments),
    Doctor(doctor::Arguments),
    Reserve(reserve::Arguments),
    Mount(mount::Arguments),
    Umount(umount::Arguments),
}

impl Command {
    /// Does it, and says how to exit.
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        match self {
            Self::Status(arguments) => arguments.run(),
            Self::Doctor(arguments) => arguments.run(),
            Self::Reserve(arguments) => arguments.run(),
            Self::Mount(arguments) => arguments.run(),
            Self::Umount(arguments) => arguments.run(),
        }
    }
}

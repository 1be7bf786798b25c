//! The commands, one file each.

mod bench;
mod collect;
mod demo;
mod doctor;
mod echo;
mod inspect;
mod list;
mod mount;
mod remove;
mod reserve;
mod status;
mod top;
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
    List(list::Arguments),
    Inspect(inspect::Arguments),
    Top(top::Arguments),
    Echo(echo::Arguments),
    Remove(remove::Arguments),
    Collect(collect::Arguments),
    Demo(demo::Arguments),
    Bench(bench::Arguments),
    #[command(hide = true)]
    DemoWriter(demo::WriterArguments),
    #[command(hide = true)]
    DemoReader(demo::ReaderArguments),
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
            Self::List(arguments) => arguments.run(),
            Self::Inspect(arguments) => arguments.run(),
            Self::Top(arguments) => arguments.run(),
            Self::Echo(arguments) => arguments.run(),
            Self::Remove(arguments) => arguments.run(),
            Self::Collect(arguments) => arguments.run(),
            Self::Demo(arguments) => arguments.run(),
            Self::Bench(arguments) => arguments.run(),
            Self::DemoWriter(arguments) => Ok(arguments.run()),
            Self::DemoReader(arguments) => Ok(arguments.run()),
        }
    }
}

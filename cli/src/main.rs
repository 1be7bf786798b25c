//! The `hugeshm` command, on the library's public interface only.
//!
//! Each command is one file under `commands/`: its arguments, and `run`, which
//! prints a report and says how to exit. Every report can also be had as JSON.
//! Exit codes: 0 done, 1 not done (the reason is on standard error), 2 not
//! understood.

mod commands;
mod interrupt;
mod output;
mod place;
mod schema;
mod screen;
mod table;
mod words;

use clap::Parser;
use std::process::ExitCode;

/// Look at huge pages, reserve and mount them, and watch shared-memory segments on them.
#[derive(Debug, Parser)]
#[command(name = "hugeshm", version)]
struct Arguments {
    #[command(subcommand)]
    command: commands::Command,
}

fn main() -> ExitCode {
    match Arguments::parse().command.run() {
        Ok(code) => code,
        Err(failure) => {
            output::complain(&failure);
            ExitCode::FAILURE
        }
    }
}

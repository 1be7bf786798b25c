//! The `main` of a benchmark.

use crate::contest::Suite;
use crate::coordinator;
use crate::options::Options;
use crate::report::Report;
use crate::stage::Outcome;
use crate::svg;
use crate::worker::{self, Post, VARIABLE};
use std::ffi::OsString;
use std::process::ExitCode;

/// Measures what the command line asks for and prints it; a worker's work in a worker.
pub fn main(suite: impl FnOnce() -> Suite) -> ExitCode {
    let suite = suite();
    if let Some(code) = serve_as_worker(&suite) {
        return code;
    }
    match print(&suite) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn print(suite: &Suite) -> Outcome {
    let options = Options::parse(std::env::args().skip(1))?;
    if options.list {
        suite.ids().for_each(|id| println!("{id}"));
        return Ok(());
    }
    let report = measure(suite, &options, &[])?;
    if options.markdown {
        println!("{}", report.markdown());
    } else {
        println!("{report}");
    }
    Ok(())
}

/// In a process that was started as a worker: does a worker's work, and says how to exit.
pub fn serve_as_worker(suite: &Suite) -> Option<ExitCode> {
    let post = std::env::var(VARIABLE).ok()?;
    let served = serde_json::from_str::<Post>(&post)
        .map_err(Into::into)
        .and_then(|post| worker::serve(&post, suite));
    Some(match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("worker: {error}");
            ExitCode::FAILURE
        }
    })
}

/// Measures; `arguments` make this program call [`serve_as_worker`] with the same suite.
///
/// # Errors
///
/// If there are no two processors, or the files asked for cannot be written.
pub fn measure(suite: &Suite, options: &Options, arguments: &[OsString]) -> Outcome<Report> {
    let _pages = options.reserve.then(crate::pages::reserve);
    let run = coordinator::run(suite, options, arguments)?;
    let report = Report::new(suite, options, &run);
    if let Some(file) = &options.json {
        std::fs::write(file, serde_json::to_vec_pretty(&report)?)?;
    }
    if let Some(folder) = &options.svg {
        svg::write(&report, folder)?;
    }
    Ok(report)
}

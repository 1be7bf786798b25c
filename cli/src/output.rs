//! Printing: text or JSON to standard output, complaints to standard error.
//!
//! Whoever reads the output may go away at any time (`hugeshm status | head -1`);
//! that is neither an error nor a panic. Paths and labels were chosen by others:
//! what could steer a terminal is printed as an escape.

use clap::Args;
use core::fmt;
use core::ops::ControlFlow;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;
use std::borrow::Cow;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;

/// The number of the JSON reports' shape; it changes when a field goes or changes its meaning.
const SCHEMA: u32 = 1;

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The library's word.
    Library(hugeshm::Error),
    /// Standard output does not take the report.
    Output(io::Error),
    /// What was not done, and why unless the report says so.
    Undone(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Library(error) => error.fmt(f),
            Self::Output(error) => write!(f, "write to standard output: {error}"),
            Self::Undone(what) => f.write_str(what),
        }
    }
}

impl From<hugeshm::Error> for Failure {
    fn from(error: hugeshm::Error) -> Self {
        Self::Library(error)
    }
}

/// How a report is printed.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Format {
    /// Print the report as JSON; sizes are bytes, `schema` numbers its shape.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Envelope<'a, R> {
    schema: u32,
    #[serde(flatten)]
    report: &'a R,
}

impl Format {
    pub(crate) const fn is_json(self) -> bool {
        self.json
    }

    /// Prints `report`, which is a struct or a map, in the format that was asked for.
    pub(crate) fn print<R: Serialize + fmt::Display>(self, report: &R) -> Result<(), Failure> {
        let text = if self.json {
            let envelope = Envelope { schema: SCHEMA, report };
            serde_json::to_string_pretty(&envelope)
                .map_err(|error| Failure::Output(io::Error::other(error)))?
        } else {
            report.to_string()
        };
        print(&text)
    }
}

/// A report as JSON on one line.
pub(crate) fn json_line<R: Serialize>(report: &R) -> Result<String, Failure> {
    serde_json::to_string(&Envelope { schema: SCHEMA, report })
        .map_err(|error| Failure::Output(io::Error::other(error)))
}

/// Prints one text and a line end.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    tell(text).map(drop)
}

/// The same, where more is to come: `Break` if nobody reads it any more.
pub(crate) fn tell(text: &str) -> Result<ControlFlow<()>, Failure> {
    write(format!("{}\n", harmless(text)).as_bytes())
}

/// Writes bytes as they are; `Break` if nobody reads them any more.
pub(crate) fn write(bytes: &[u8]) -> Result<ControlFlow<()>, Failure> {
    let mut standard_output = io::stdout().lock();
    match standard_output.write_all(bytes).and_then(|()| standard_output.flush()) {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => Err(Failure::Output(error)),
    }
}

/// Whether nobody can read standard output any more, without writing anything.
pub(crate) fn is_abandoned() -> bool {
    let output = io::stdout();
    let mut output = [PollFd::new(output.as_fd(), PollFlags::empty())];
    let asked = poll(&mut output, PollTimeout::ZERO);
    let gone = PollFlags::POLLERR | PollFlags::POLLHUP;
    asked.is_ok() && output[0].revents().is_some_and(|events| events.intersects(gone))
}

/// Says on standard error what went wrong; if that is closed there is nobody left to tell.
pub(crate) fn complain(failure: &Failure) {
    let _ = writeln!(io::stderr(), "hugeshm: {}", harmless(&failure.to_string()));
}

/// The text with every control character but the line end escaped.
pub(crate) fn harmless(text: &str) -> Cow<'_, str> {
    let steers = |c: char| c.is_control() && c != '\n';
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if steers(c) { safe.extend(c.escape_default()) } else { safe.push(c) }
    }
    Cow::Owned(safe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_chose_cannot_steer_the_terminal() {
        assert_eq!(harmless("a\nb"), "a\nb");
        assert_eq!(harmless("/tmp/\u{1b}[2J\r\u{9b}1m"), "/tmp/\\u{1b}[2J\\r\\u{9b}1m");
    }
}

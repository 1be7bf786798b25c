//! What a suite says at its end.

use std::process::ExitCode;

/// The result of a suite: what it counted, and what it found.
#[derive(Debug, Default)]
pub struct Verdict {
    counts: Vec<(String, u64)>,
    faults: Vec<String>,
    skipped: Vec<String>,
}

impl Verdict {
    /// A number that must not be zero.
    pub fn counted(&mut self, what: impl Into<String>, count: u64) {
        self.counts.push((what.into(), count));
    }

    /// Something that must not be.
    pub fn fault(&mut self, what: impl Into<String>) {
        let what = what.into();
        eprintln!("FAULT: {what}");
        self.faults.push(what);
    }

    /// Something that could not be tried here, and why.
    pub fn skip(&mut self, what: impl Into<String>) {
        let what = what.into();
        println!("SKIP: {what}");
        self.skipped.push(what);
    }

    /// Prints all of it; a failure if there was a fault, or a count is zero, or where pages were
    /// promised and something was skipped.
    pub fn print(self) -> ExitCode {
        println!();
        for (what, count) in &self.counts {
            println!("{count:>12}  {what}");
        }
        for what in &self.skipped {
            println!("     skipped  {what}");
        }
        for what in &self.faults {
            println!("       FAULT  {what}");
        }
        let idle = self.counts.is_empty() || self.counts.iter().any(|(_, count)| *count == 0);
        if idle {
            println!("       FAULT  something was tried zero times");
        }
        let promised = std::env::var_os("HUGESHM_REQUIRE_HUGEPAGES").is_some_and(|v| v == "1");
        let broken = idle || !self.faults.is_empty() || (promised && !self.skipped.is_empty());
        println!("{}", if broken { "FAILED" } else { "ok" });
        if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}

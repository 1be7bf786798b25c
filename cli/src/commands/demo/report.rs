//! What comes of a demo, as text piece by piece and as JSON in the end.

use super::plan::{Moved, PHASES, Trips};
use crate::words;
use core::fmt;
use hugeshm::{Backing, RefusalCode, Segment};
use serde::Serialize;

/// All that the demo found out.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub segment: String,
    pub domain: String,
    /// The page truth, refusals and remedies included.
    pub backing: Backing,
    /// The same segment as the reading process measured it.
    pub seen_by_reader: String,
    /// The processors of writer and reader; none if there was only one.
    pub cpus: Option<[usize; 2]>,
    pub throughput: Vec<Throughput>,
    pub latency: Option<Trips>,
    /// Whether everything was moved and every byte was what it had to be.
    pub verified: bool,
    pub failures: Vec<String>,
    /// What to do to get better pages.
    pub hints: Vec<String>,
}

/// What one phase moved.
#[derive(Debug, Serialize)]
pub(super) struct Throughput {
    name: &'static str,
    message_bytes: u64,
    messages: u64,
    bytes: u64,
    seconds: f64,
    messages_per_second: f64,
    gib_per_second: f64,
}

impl From<Moved> for Throughput {
    fn from(moved: Moved) -> Self {
        let (name, size) = match PHASES.get(moved.phase) {
            Some(phase) => (phase.name, phase.size as u64),
            None => ("unknown", 0),
        };
        let bytes = moved.messages.saturating_mul(size);
        let seconds = moved.nanos as f64 / 1e9;
        let per_second = |amount: u64| amount as f64 / seconds.max(1e-9);
        Self {
            name,
            message_bytes: size,
            messages: moved.messages,
            bytes,
            seconds,
            messages_per_second: per_second(moved.messages),
            gib_per_second: per_second(bytes) / f64::from(1 << 30),
        }
    }
}

impl Report {
    pub(super) fn new(segment: &Segment, cpus: Option<[usize; 2]>) -> Self {
        let backing = segment.backing().clone();
        Self {
            segment: segment.name().to_owned(),
            domain: segment.domain().name().to_owned(),
            hints: hints(&backing),
            backing,
            seen_by_reader: String::new(),
            cpus,
            throughput: Vec::new(),
            latency: None,
            verified: false,
            failures: Vec::new(),
        }
    }

    pub(super) fn fail(&mut self, what: String) {
        self.failures.push(what);
    }

    /// Nothing more comes: says whether all that had to come came.
    pub(super) fn close(&mut self) {
        if self.failures.is_empty()
            && (self.throughput.len() < PHASES.len() || self.latency.is_none())
        {
            self.fail("a part of the demo did not take place".to_owned());
        }
        self.verified = self.failures.is_empty();
    }

    /// What is known before anything moves.
    pub(super) fn opening(&self) -> String {
        format!(
            "segment {} (watch it: hugeshm list --rates --domain {})\n{:#}",
            self.segment, self.domain, self.backing
        )
    }

    /// What is known when the reader is there, and the heading of the table.
    pub(super) fn stage(&self) -> String {
        let place = match self.cpus {
            Some([writer, reader]) => format!("writer on cpu {writer}, reader on cpu {reader}"),
            None => "writer and reader share one cpu".to_owned(),
        };
        format!(
            "the reader sees: {}\n{place}; every byte is compared\n\n{:<26}{:>14}{:>10}",
            self.seen_by_reader, "MESSAGES", "PER SECOND", "GiB/S"
        )
    }

    /// A line of the table.
    pub(super) fn last_throughput(&self) -> String {
        let Some(last) = self.throughput.last() else { return String::new() };
        let rate = words::rate(last.messages_per_second);
        format!("{:<26}{rate:>14}{:>10.2}", last.name, last.gib_per_second)
    }

    /// The round trips.
    pub(super) fn trips(&self) -> String {
        let Some(trips) = &self.latency else { return String::new() };
        let how = if trips.spinning { "both spin" } else { "both sleep when it takes long" };
        let rows = [
            ("50 %", trips.p50_nanos),
            ("90 %", trips.p90_nanos),
            ("99 %", trips.p99_nanos),
            ("99.9 %", trips.p999_nanos),
            ("max", trips.max_nanos),
        ];
        let cells: Vec<_> =
            rows.iter().map(|(what, nanos)| format!("{what} {}", duration(*nanos))).collect();
        let cells = cells.join(", ");
        format!("\n{} round trips of 64 B, {how}: {cells}", trips.round_trips)
    }

    /// The verdict, and what to do better.
    pub(super) fn closing(&self) -> String {
        let mut text = String::new();
        if self.verified {
            let messages: u64 = self.throughput.iter().map(|row| row.messages).sum();
            let bytes = self.throughput.iter().map(|row| row.bytes).sum();
            let bytes = hugeshm::format_bytes(bytes);
            text.push_str(&format!("verified: {messages} messages, {bytes}, no byte was wrong"));
        } else {
            text.push_str("NOT VERIFIED");
            for failure in &self.failures {
                text.push_str(&format!("\n  {failure}"));
            }
        }
        if self.hints.is_empty() {
            return text;
        }
        text.push_str("\nfor better pages:");
        for hint in &self.hints {
            text.push_str(&format!("\n  {hint}"));
        }
        text.push_str("\nand hugeshm doctor says what else is in the way");
        text
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.closing())
    }
}

/// A few hundred nanoseconds, or more in a larger unit.
fn duration(nanos: u64) -> String {
    match nanos {
        n if n < 10_000 => format!("{n} ns"),
        n if n < 10_000_000 => format!("{:.1} us", n as f64 / 1e3),
        n => format!("{:.1} ms", n as f64 / 1e6),
    }
}

/// What would have got better pages: the remedies of what was refused for lack of something, those
/// first that help most.
fn hints(backing: &Backing) -> Vec<String> {
    let mut remedies: Vec<(&str, Vec<String>)> = Vec::new();
    for refusal in &backing.refusals {
        // A page too large for a demo is no lack.
        let lack = !matches!(refusal.code, RefusalCode::Waste | RefusalCode::NoSuchPageSize);
        if refusal.rung <= backing.rung || !lack || refusal.remedy.is_empty() {
            continue;
        }
        let what = format!("{} on {}", refusal.rung, refusal.backing);
        match remedies.iter_mut().find(|(remedy, _)| *remedy == refusal.remedy) {
            Some((_, for_what)) => for_what.push(what),
            None => remedies.push((&refusal.remedy, vec![what])),
        }
    }
    remedies.sort_by_key(|(_, for_what)| core::cmp::Reverse(for_what.len()));
    remedies.iter().map(|(remedy, what)| format!("{remedy}   ({})", what.join(", "))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_rates_are_readable() {
        assert_eq!([9999, 10_000, 12_345_678].map(duration), ["9999 ns", "10.0 us", "12.3 ms"]);
        let row = Throughput::from(Moved { phase: 5, messages: 2048, nanos: 500_000_000 });
        assert_eq!((row.message_bytes, row.bytes), (1 << 20, 2 << 30));
        assert!((row.gib_per_second - 4.0).abs() < 1e-9);
    }
}

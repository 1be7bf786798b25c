//! `hugeshm top`: what moves through the segments of a domain, round after round.
//!
//! A round is one look at every segment, by read-only mappings and without any
//! claim. A rate is what an endpoint's counters gained between two looks, by the
//! time between these two looks at this segment. Whatever comes between two
//! rounds has no rate in the first one that shows it; whatever goes is not shown.

use crate::interrupt::{self, Interrupts};
use crate::output::{self, Failure};
use crate::place::Place;
use crate::screen::Screen;
use crate::table::{Column, Table};
use crate::words;
use clap::Args;
use core::fmt;
use core::ops::ControlFlow;
use hugeshm::{
    Domain, EndpointInfo, ErrorKind, Identity, ObjectInfo, ObjectKind, PeerState, Role,
    SegmentEntry, Stats, format_bytes,
};
use serde::Serialize;
use std::collections::HashMap;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Watch the segments of a domain: the rates and the lag of every endpoint, live.
///
/// On a terminal each round takes the place of the one before; elsewhere it is printed behind it.
/// Claims nothing and disturbs nobody. Ctrl-C ends it.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The time from round to round.
    #[arg(long, default_value = "1", value_name = "SECONDS", value_parser = parse_interval)]
    interval: Duration,
    /// How many rounds; 0 = without end, as on a terminal if not given. Elsewhere 1.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    place: Place,
    /// Print each round as JSON on one line; sizes are bytes, `schema` numbers its shape.
    #[arg(long)]
    json: bool,
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|n| (0.01..=86_400.0).contains(n));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "a number from 0.01 to 86400".to_owned())
}

/// One look at all segments of a domain.
#[derive(Serialize)]
struct Round {
    domain: String,
    folder: String,
    /// Counted from 1; 0 is a first look, without rates.
    round: u64,
    /// When it was looked, in nanoseconds since 1970.
    at_nanos: u64,
    segments: Vec<Segment>,
}

#[derive(Serialize)]
struct Segment {
    name: String,
    identity: Option<Identity>,
    superseded: bool,
    objects: Vec<Object>,
    problems: Vec<String>,
}

#[derive(Serialize)]
struct Object {
    index: u32,
    name: String,
    kind: ObjectKind,
    capacity: u64,
    lag: Option<u64>,
    /// Endpoints that nobody ever took; they are not among those below.
    never_taken: usize,
    endpoints: Vec<End>,
}

#[derive(Serialize)]
struct End {
    #[serde(flatten)]
    info: EndpointInfo,
    /// None in the first round that shows it.
    rates: Option<Rates>,
}

/// What an endpoint counted in a second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Rates {
    /// How many seconds lie between the two looks that they were reckoned from.
    seconds: f64,
    messages: f64,
    bytes: f64,
    full: f64,
    empty: f64,
    drops: f64,
    gaps: f64,
    sleeps: f64,
    wakes: f64,
}

impl Rates {
    /// What was gained from one look to the next. Counters do not go back; one that did was
    /// written by somebody else, and has gained nothing.
    fn between(before: &Stats, now: &Stats, time: Duration) -> Self {
        let seconds = time.as_secs_f64().max(1e-9);
        let rate = |of: fn(&Stats) -> u64| of(now).saturating_sub(of(before)) as f64 / seconds;
        Self {
            seconds,
            messages: rate(|stats| stats.messages),
            bytes: rate(|stats| stats.bytes),
            full: rate(|stats| stats.full),
            empty: rate(|stats| stats.empty),
            drops: rate(|stats| stats.drops),
            gaps: rate(|stats| stats.gaps),
            sleeps: rate(|stats| stats.sleeps),
            wakes: rate(|stats| stats.wakes),
        }
    }
}

/// One endpoint, whoever holds it: a segment's identity is never used twice, and an object's
/// place in its directory is its own for ever.
type Key = (Identity, u32, Role, u32);

/// What the last round counted, and when.
type Samples = HashMap<Key, (Instant, Stats)>;

/// Looks again and again.
struct Watch {
    domain: Domain,
    last: Samples,
}

impl Watch {
    fn look(&mut self, round: u64) -> Result<Round, Failure> {
        let mut samples = Samples::new();
        let mut segments = Vec::new();
        for entry in self.domain.list()? {
            segments.extend(self.look_at(entry, &mut samples));
        }
        self.last = samples;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Round {
            domain: self.domain.name().to_owned(),
            folder: self.domain.folder().display().to_string(),
            round,
            at_nanos: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
            segments,
        })
    }

    /// One segment; `None` if it went away meanwhile.
    fn look_at(&self, entry: SegmentEntry, samples: &mut Samples) -> Option<Segment> {
        let uid = entry.uid;
        let mut segment = Segment {
            identity: entry.identity,
            superseded: false,
            objects: Vec::new(),
            problems: entry.problem.into_iter().collect(),
            name: entry.name,
        };
        if !segment.problems.is_empty() || !words::is_looked_into(uid) {
            return Some(segment);
        }
        match self.domain.inspect(&segment.name) {
            Ok(info) => {
                let now = Instant::now();
                segment.identity = info.entry.identity;
                segment.superseded = info.superseded;
                segment.problems = info.problems;
                let object =
                    |object| Object::new(object, segment.identity, now, &self.last, samples);
                segment.objects = info.objects.into_iter().map(object).collect();
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            Err(error) => segment.problems.push(error.to_string()),
        }
        Some(segment)
    }
}

impl Object {
    fn new(
        info: ObjectInfo,
        identity: Option<Identity>,
        now: Instant,
        last: &Samples,
        samples: &mut Samples,
    ) -> Self {
        let all = info.endpoints.len();
        let taken = info.endpoints.into_iter().filter(|end| end.state != PeerState::Never);
        let end = |end: EndpointInfo| {
            let key = identity.map(|identity| (identity, info.index, end.role, end.slot));
            let rates = key.and_then(|key| {
                samples.insert(key, (now, end.stats));
                let (then, before) = last.get(&key)?;
                Some(Rates::between(before, &end.stats, now.saturating_duration_since(*then)))
            });
            End { info: end, rates }
        };
        let endpoints: Vec<_> = taken.map(end).collect();
        Self {
            index: info.index,
            kind: info.kind,
            capacity: info.capacity,
            lag: info.lag,
            never_taken: all - endpoints.len(),
            endpoints,
            name: info.name,
        }
    }
}

const COLUMNS: &[Column] = &[
    Column::Left("OBJECT"),
    Column::Left("KIND"),
    Column::Left("END"),
    Column::Left("LABEL"),
    Column::Right("PID"),
    Column::Left("STATE"),
    Column::Right("MESSAGES/S"),
    Column::Right("BYTES/S"),
    Column::Right("LAG"),
    Column::Right("GAPS"),
    Column::Right("GAPS/S"),
    Column::Right("DROPS"),
    Column::Right("DROPS/S"),
    Column::Right("SLEEPS/S"),
    Column::Right("WAKES/S"),
];

impl End {
    fn cells(&self) -> [String; 13] {
        let (info, stats) = (&self.info, &self.info.stats);
        let of = |rate: fn(&Rates) -> f64| self.rates.as_ref().map(rate);
        let rate = |rate| of(rate).map(words::rate).unwrap_or_default();
        [
            words::end(info),
            info.label.clone(),
            info.pid.to_string(),
            words::state(info.state).to_owned(),
            rate(|rates| rates.messages),
            of(|rates| rates.bytes).map(|bytes| format_bytes(bytes as u64)).unwrap_or_default(),
            info.lag.map(|lag| lag.to_string()).unwrap_or_default(),
            stats.gaps.to_string(),
            rate(|rates| rates.gaps),
            stats.drops.to_string(),
            rate(|rates| rates.drops),
            rate(|rates| rates.sleeps),
            rate(|rates| rates.wakes),
        ]
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.at_nanos / 1_000_000_000 % 86_400;
        let (hour, minute) = (seconds / 3600, seconds / 60 % 60);
        write!(f, "{hour:02}:{minute:02}:{:02} UTC, ", seconds % 60)?;
        write!(f, "domain {} ({}), ", self.domain, self.folder.replace('\n', "\\n"))?;
        write!(f, "{}", words::count(self.segments.len(), "segment"))?;
        let mut table = Table::new(COLUMNS);
        for segment in &self.segments {
            for object in &segment.objects {
                let head = [format!("{}/{}", segment.name, object.name), object.kind.to_string()];
                if object.endpoints.is_empty() {
                    let nobody = core::array::from_fn::<_, 13, _>(|_| String::new());
                    table.row(head.into_iter().chain(nobody));
                    continue;
                }
                for end in &object.endpoints {
                    table.row(head.iter().cloned().chain(end.cells()));
                }
            }
        }
        if !table.is_empty() {
            write!(f, "\n{table}")?;
        }
        for segment in &self.segments {
            for problem in &segment.problems {
                let problem = problem.replace('\n', " ");
                write!(f, "\nproblem with {}: {problem}", segment.name)?;
            }
        }
        Ok(())
    }
}

impl Arguments {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let interrupts = Interrupts::listen()?;
        let mut watch = Watch { domain: self.place.domain()?, last: Samples::new() };
        let mut screen = Screen::new();
        let rounds = match self.count {
            Some(count) => count,
            None if screen.is_terminal() => 0,
            None => 1,
        };
        let mut due = Instant::now();
        let first = watch.look(0)?;
        // Whoever sits there shall not wait for the first sign of life.
        if screen.is_terminal() && !self.json && screen.show(&first.to_string())?.is_break() {
            return Ok(ExitCode::SUCCESS);
        }
        for round in 1.. {
            // Every round at its time, however long the one before took; those that are
            // missed are left out.
            due = (due + self.interval).max(Instant::now());
            if let Some(signal) = interrupts.during(due.saturating_duration_since(Instant::now())) {
                return Ok(interrupt::code(signal));
            }
            let looked = watch.look(round)?;
            let shown = self.show(&mut screen, &looked)?;
            if shown.is_break() || round == rounds {
                break;
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    fn show(&self, screen: &mut Screen, round: &Round) -> Result<ControlFlow<()>, Failure> {
        if self.json {
            output::tell(&output::json_line(round)?)
        } else {
            screen.show(&round.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_what_was_gained_by_the_time_it_took() {
        let (mut before, mut now) = (Stats::default(), Stats::default());
        (before.messages, now.messages) = (100, 300);
        (before.gaps, now.gaps) = (7, 5);
        (before.sleeps, now.sleeps) = (u64::MAX - 1, u64::MAX);
        let rates = Rates::between(&before, &now, Duration::from_millis(500));
        assert_eq!((rates.messages, rates.gaps, rates.sleeps), (400.0, 0.0, 2.0));
        let at_once = Rates::between(&before, &now, Duration::ZERO);
        assert!(at_once.messages.is_finite());
    }
}

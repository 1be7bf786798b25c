//! `hugeshm list`: which segments there are, who is attached, how messages flow.

use crate::output::{Failure, Format};
use crate::place::Place;
use crate::table::{Column, Table};
use crate::words::{self, Users};
use clap::Args;
use core::fmt;
use hugeshm::{
    AttachmentInfo, Domain, ErrorKind, Identity, ObjectInfo, Role, SegmentEntry, format_bytes,
};
use serde::Serialize;
use std::collections::HashMap;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

/// How far apart the two samples are from which rates are reckoned.
const BETWEEN_SAMPLES: Duration = Duration::from_millis(100);

/// List the segments of a domain: their pages, who is attached, and what lags.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Look twice, 100 ms apart, and show the messages and bytes of a second.
    #[arg(long)]
    rates: bool,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    format: Format,
}

#[derive(Serialize)]
struct Report {
    domain: String,
    folder: String,
    /// Whether rates were measured.
    #[serde(skip)]
    rates: bool,
    segments: Vec<Segment>,
}

#[derive(Serialize)]
struct Segment {
    #[serde(flatten)]
    entry: SegmentEntry,
    /// The owner's name, if the number has one.
    owner: Option<String>,
    /// Whether its name was taken over or removed.
    superseded: bool,
    attachments: Vec<AttachmentInfo>,
    objects: Vec<Object>,
    problems: Vec<String>,
    #[serde(skip)]
    owner_text: String,
    #[serde(skip)]
    sampled: Option<Instant>,
}

#[derive(Serialize)]
struct Object {
    #[serde(flatten)]
    info: ObjectInfo,
    rates: Option<Rates>,
}

/// What happened in a second, all endpoints of a role together.
#[derive(Clone, Copy, Serialize)]
struct Rates {
    sent: f64,
    received: f64,
    sent_bytes: f64,
}

/// The counters from which rates are reckoned.
#[derive(Clone, Copy, Default)]
struct Counted {
    sent: u64,
    received: u64,
    sent_bytes: u64,
}

impl Counted {
    fn of(object: &ObjectInfo) -> Self {
        let mut counted = Self::default();
        for endpoint in &object.endpoints {
            let stats = &endpoint.stats;
            match endpoint.role {
                Role::Producer => {
                    counted.sent = counted.sent.wrapping_add(stats.messages);
                    counted.sent_bytes = counted.sent_bytes.wrapping_add(stats.bytes);
                }
                Role::Consumer => counted.received = counted.received.wrapping_add(stats.messages),
                _ => {}
            }
        }
        counted
    }

    fn rates_since(self, before: Self, time: Duration) -> Rates {
        let seconds = time.as_secs_f64().max(1e-9);
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        Rates {
            sent: rate(self.sent, before.sent),
            received: rate(self.received, before.received),
            sent_bytes: rate(self.sent_bytes, before.sent_bytes),
        }
    }
}

impl Segment {
    /// Looks into a segment, if it is not a stranger's; `None` if it went away meanwhile.
    fn look(domain: &Domain, entry: SegmentEntry, users: &mut Users) -> Option<Self> {
        let mut segment = Self {
            owner: users.name(entry.uid),
            owner_text: users.text(entry.uid),
            superseded: false,
            attachments: Vec::new(),
            objects: Vec::new(),
            problems: entry.problem.iter().cloned().collect(),
            sampled: None,
            entry,
        };
        if segment.entry.problem.is_some() || !words::is_looked_into(segment.entry.uid) {
            return Some(segment);
        }
        match domain.inspect(&segment.entry.name) {
            Ok(info) => {
                segment.entry = info.entry;
                segment.superseded = info.superseded;
                segment.attachments = info.attachments;
                let object = |info: ObjectInfo| Object { rates: None, info };
                segment.objects = info.objects.into_iter().map(object).collect();
                segment.problems = info.problems;
                segment.sampled = Some(Instant::now());
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            Err(error) => segment.problems.push(error.to_string()),
        }
        Some(segment)
    }

    fn samples(&self) -> impl Iterator<Item = ((Identity, u32), (Instant, Counted))> {
        let (identity, sampled) = (self.entry.identity, self.sampled);
        self.objects.iter().filter_map(move |object| {
            let key = (identity?, object.info.index);
            Some((key, (sampled?, Counted::of(&object.info))))
        })
    }

    fn row(&self) -> [String; 7] {
        let entry = &self.entry;
        let pages = entry
            .page_size
            .map(|size| format!("{} x {size}", size.pages_for(entry.length)))
            .unwrap_or_default();
        let usage = if self.superseded {
            format!("{}, removed", entry.usage)
        } else {
            entry.usage.to_string()
        };
        let length = entry.identity.map(|_| format_bytes(entry.length)).unwrap_or_default();
        [
            entry.name.clone(),
            usage,
            pages,
            length,
            entry.location.clone(),
            self.owner_text.clone(),
            words::attached(&self.attachments),
        ]
    }
}

impl Object {
    fn row(&self, segment: &str) -> [String; 9] {
        let rate = |of: fn(&Rates) -> f64| self.rates.as_ref().map(of);
        let messages = |of| rate(of).map(words::rate).unwrap_or_default();
        [
            format!("{segment}/{}", self.info.name),
            self.info.kind.to_string(),
            self.info.capacity.to_string(),
            words::holders(&self.info, Role::Producer),
            words::holders(&self.info, Role::Consumer),
            words::lag(&self.info),
            messages(|rates| rates.sent),
            messages(|rates| rates.received),
            rate(|rates| rates.sent_bytes)
                .map(|bytes| format_bytes(bytes as u64))
                .unwrap_or_default(),
        ]
    }
}

const SEGMENTS: &[Column] = &[
    Column::Left("NAME"),
    Column::Left("USAGE"),
    Column::Right("PAGES"),
    Column::Right("LENGTH"),
    Column::Left("BACKING"),
    Column::Left("OWNER"),
    Column::Left("ATTACHED"),
];

const OBJECTS: &[Column] = &[
    Column::Left("OBJECT"),
    Column::Left("KIND"),
    Column::Right("CAPACITY"),
    Column::Left("PRODUCER"),
    Column::Left("CONSUMER"),
    Column::Right("LAG"),
    Column::Right("SENT/S"),
    Column::Right("RECEIVED/S"),
    Column::Right("BYTES/S"),
];

/// The same without rates.
const OBJECTS_SAMPLED_ONCE: &[Column] = OBJECTS.split_at(6).0;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.segments.is_empty() {
            return write!(f, "no segments in domain {} ({})", self.domain, self.folder);
        }
        let mut segments = Table::new(SEGMENTS);
        let mut objects = Table::new(if self.rates { OBJECTS } else { OBJECTS_SAMPLED_ONCE });
        for segment in &self.segments {
            segments.row(segment.row());
            for object in &segment.objects {
                objects.row(object.row(&segment.entry.name));
            }
        }
        write!(f, "{segments}")?;
        if !objects.is_empty() {
            write!(f, "\n\n{objects}")?;
        }
        let mut gap = "\n";
        for segment in &self.segments {
            for problem in &segment.problems {
                let problem = problem.replace('\n', " ");
                write!(f, "{gap}\nproblem with {}: {problem}", segment.entry.name)?;
                gap = "";
            }
        }
        Ok(())
    }
}

impl Arguments {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let domain = self.place.domain()?;
        let mut users = Users::default();
        let mut look = |entries: Vec<SegmentEntry>| -> Vec<Segment> {
            let looked = entries.into_iter().map(|entry| Segment::look(&domain, entry, &mut users));
            looked.flatten().collect()
        };
        let started = Instant::now();
        let mut segments = look(domain.list()?);
        if self.rates {
            let before: HashMap<_, _> = segments.iter().flat_map(Segment::samples).collect();
            thread::sleep(BETWEEN_SAMPLES.saturating_sub(started.elapsed()));
            segments = look(segments.into_iter().map(|segment| segment.entry).collect());
            for segment in &mut segments {
                let (identity, sampled) = (segment.entry.identity, segment.sampled);
                for object in &mut segment.objects {
                    let key = identity.map(|identity| (identity, object.info.index));
                    if let Some((then, counted)) = key.and_then(|key| before.get(&key))
                        && let Some(now) = sampled
                    {
                        let counted_now = Counted::of(&object.info);
                        object.rates = Some(counted_now.rates_since(*counted, now - *then));
                    }
                }
            }
        }
        self.format.print(&Report {
            domain: domain.name().to_owned(),
            folder: domain.folder().display().to_string(),
            rates: self.rates,
            segments,
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

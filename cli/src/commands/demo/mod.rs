//! `hugeshm demo`: two processes, one segment, every byte checked.
//!
//! This process builds a segment in a domain of its own, prints what pages it
//! got, and starts itself twice more: a writer and a reader, each on a processor
//! of its own where there are two. They move messages of several sizes through
//! rings and then play ping-pong; the reader compares every byte with what must
//! stand there. What they measured comes back as lines on their standard output.
//!
//! | file | its job |
//! |---|---|
//! | `plan` | the rings, what is moved through them, what every byte must be |
//! | `writer`, `reader` | the two processes |
//! | `family` | starts them, hears them, ends them |
//! | `cpus` | two processors for them |
//! | `report` | what comes of it, as text and as JSON |
//! | `histogram` | round trips by their duration |
//!
//! # What is left behind
//!
//! Nothing. The name goes when this process ends, by Ctrl-C too: it waits for
//! that signal instead of being ended by it. The kernel ends the two others if
//! this one is killed; only then the name stays, and the next demo removes it.

mod cpus;
mod family;
mod histogram;
mod plan;
mod reader;
mod report;
mod writer;

pub(crate) use reader::Arguments as ReaderArguments;
pub(crate) use writer::Arguments as WriterArguments;

use crate::output::{self, Failure, Format};
use family::{Event, Family};
use hugeshm::{BackingKind, Domain, ErrorKind, Lifetime, PagePolicy, Segment, Usage};
use report::Report;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Where demos look names up, apart from everything that matters.
const DOMAIN: &str = "hugeshm-demo";

/// How much longer than planned it may take until something must be wrong.
const PATIENCE: Duration = Duration::from_secs(30);

/// Move messages between two processes, check every byte, and show how fast that was.
///
/// Needs no privilege and no huge page; says what pages it got and how to get better ones.
/// Exits with 1 if a single byte was not what it had to be.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How long to move data, all sizes together.
    #[arg(long, default_value = "4", value_name = "N", value_parser = parse_seconds)]
    seconds: Duration,
    /// The pages wanted: auto, 1G, 2M, thp or base.
    #[arg(long, default_value = "auto")]
    pages: PagePolicy,
    /// What may carry the segment: auto, hugetlbfs, sysv, memfd or tmpfs.
    #[arg(long, default_value = "auto", value_parser = parse_backing)]
    backing: Choice,
    /// Spoil one bit on the way, to see that it is found.
    #[arg(long, hide = true)]
    spoil: bool,
    #[command(flatten)]
    format: Format,
}

/// `auto`, or one kind of backing.
#[derive(Clone, Copy, Debug)]
struct Choice(Option<BackingKind>);

fn parse_backing(text: &str) -> Result<Choice, hugeshm::Error> {
    if text == "auto" { Ok(Choice(None)) } else { text.parse().map(|kind| Choice(Some(kind))) }
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|n| (0.1..=3600.0).contains(n));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "a number from 0.1 to 3600".to_owned())
}

impl Arguments {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let domain = Domain::new(DOMAIN)?;
        remove_leftovers(&domain)?;
        // First of all: from here on a signal is an event and does not end us half-way.
        let mut family = Family::new()?;
        let segment = self.build(&domain)?;
        let cpus = cpus::pair();
        let mut report = Report::new(&segment, cpus);
        self.say(|| report.opening())?;
        let deadline = Instant::now() + self.seconds + PATIENCE;
        let outcome = self.watch(&mut family, &segment, &mut report, deadline);
        family.end();
        let name = segment.name().to_owned();
        drop(segment);
        match domain.remove(&name) {
            Err(error) if error.kind() != ErrorKind::NotFound => report.fail(error.to_string()),
            _ => {}
        }
        if let Some(signal) = outcome? {
            let what = format!("demo: ended by {signal}; the segment is removed");
            output::complain(&Failure::Undone(what));
            return Ok(ExitCode::from(128 + signal as u8));
        }
        report.close();
        if self.format.is_json() {
            self.format.print(&report)?;
        } else {
            output::print(&report.closing())?;
        }
        if !report.verified {
            return Err(Failure::Undone(format!("demo: {}", report.failures.join("; "))));
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Prints a part of the report as soon as it is known, unless JSON was asked for.
    fn say(&self, text: impl FnOnce() -> String) -> Result<(), Failure> {
        if self.format.is_json() { Ok(()) } else { output::print(&text()) }
    }

    fn build(&self, domain: &Domain) -> Result<Segment, Failure> {
        let pid = std::process::id();
        let mut name = format!("demo-{pid}");
        // In another pid namespace there may be another process of this number.
        for attempt in 2.. {
            let mut builder = domain
                .create(&name)
                .pages(self.pages.clone())
                .lifetime(Lifetime::WithHolders)
                .max_objects(8)
                .max_attachments(8)
                .unlink_on_drop(true);
            if let Choice(Some(kind)) = self.backing {
                builder = builder.backing(kind);
            }
            match plan::declare(builder).build() {
                Err(error) if error.kind() == ErrorKind::AlreadyExists && attempt < 100 => {
                    name = format!("demo-{pid}-{attempt}");
                }
                built => return Ok(built?),
            }
        }
        unreachable!("the loop has no end")
    }

    /// Lets the two processes work and listens; the answer is the signal that ended it early.
    fn watch(
        &self,
        family: &mut Family,
        segment: &Segment,
        report: &mut Report,
        deadline: Instant,
    ) -> Result<Option<nix::sys::signal::Signal>, Failure> {
        let slot = plan::slot(self.seconds).as_micros().to_string();
        let spins = report.cpus.is_some();
        let common = |cpu: Option<usize>| {
            let mut arguments = vec!["--name".to_owned(), segment.name().to_owned()];
            if let Some(cpu) = cpu {
                arguments.extend(["--cpu".to_owned(), cpu.to_string()]);
            }
            arguments
        };
        let [writer_cpu, reader_cpu] = report.cpus.map_or([None; 2], |cpus| cpus.map(Some));
        family.start("demo-reader", &common(reader_cpu), spins)?;
        let mut writer = common(writer_cpu);
        writer.extend(["--slot-micros".to_owned(), slot]);
        if self.spoil {
            writer.push("--spoil".to_owned());
        }
        loop {
            let line = match family.next(deadline) {
                Event::Line(line) => line,
                Event::Signal(signal) => return Ok(Some(signal)),
                Event::Finished => return Ok(None),
                Event::Failed(what) => {
                    report.fail(what);
                    return Ok(None);
                }
            };
            match line {
                plan::Line::Ready { seen } => {
                    report.seen_by_reader = seen;
                    self.say(|| report.stage())?;
                    family.start("demo-writer", &writer, spins)?;
                }
                plan::Line::Moved(moved) => {
                    report.throughput.push(moved.into());
                    self.say(|| report.last_throughput())?;
                }
                plan::Line::Trips(trips) => {
                    report.latency = Some(trips);
                    self.say(|| report.trips())?;
                }
                plan::Line::Wrong { what } => {
                    report.fail(what);
                    return Ok(None);
                }
            }
        }
    }
}

/// Removes what demos left that were killed.
fn remove_leftovers(domain: &Domain) -> Result<(), Failure> {
    for entry in domain.list()? {
        if matches!(entry.usage, Usage::Unused | Usage::Broken) && entry.name.starts_with("demo-") {
            // Another user's are his own next demo's business.
            let _ = domain.remove(&entry.name);
        }
    }
    Ok(())
}

//! `hugeshm echo`: what passes through an object, shown by one more reader that claims nothing.
//!
//! The segment is opened read-only. Whoever writes and reads there does not
//! notice, and is neither held up nor deprived of a message; that is why it works
//! on what has any number of readers, and says no to the rest.
//!
//! | file | its job |
//! |---|---|
//! | `source` | where messages come from, one kind of object each |
//! | `show` | how a message is printed |

mod show;
mod source;

use crate::interrupt::{self, Interrupts};
use crate::output::{self, Failure};
use crate::place::Place;
use crate::schema::Fields;
use crate::words;
use clap::Args;
use hugeshm::{Domain, ErrorKind, ObjectInfo, Schema, Segment};
use nix::sys::signal::Signal;
use show::{Manner, Printer};
use source::{End, Source, Start};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long a wait may last until it is looked whether the command shall end.
const SLICE: Duration = Duration::from_millis(100);
/// How often it is looked for what is not there yet.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Show what passes through an object: the messages of a broadcast ring, or each new version of a
/// latest value.
///
/// It is read by one more reader, who claims nothing and holds nobody up. Messages are shown by
/// the object's schema if it has one that describes fields, else as bytes. Ends when the writer
/// leaves; Ctrl-C ends it, too. Exits with 1 if nothing was shown, or fewer than were asked for, or
/// if the writer died.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The segment.
    name: String,
    /// The object in it.
    object: String,
    /// Write the bytes of each message as they are, with nothing between them.
    #[arg(long, conflicts_with_all = ["hex", "schema", "json"])]
    raw: bool,
    /// Show bytes, even if there is a schema; each line begins with position and offset.
    #[arg(long, conflicts_with = "schema")]
    hex: bool,
    /// What the bytes mean, instead of what the object's own schema says: `seq: u64; price: f64`.
    #[arg(long, value_name = "FIELDS")]
    schema: Option<Fields>,
    /// End after so many messages.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End when nothing came for so long.
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    timeout: Option<Duration>,
    /// Where to begin: oldest, newest (of a broadcast ring: with what is sent from now on), or a
    /// position (of a latest value: a version).
    #[arg(long, default_value = "newest", value_name = "WHERE", value_parser = source::parse_start)]
    from: Start,
    /// Wait for the segment and the object to appear, and for successors of a writer or a segment
    /// that went away.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    place: Place,
    /// Print each message as JSON on one line; `schema` numbers its shape.
    #[arg(long)]
    json: bool,
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|n| (0.0..=1e9).contains(n));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "a number from 0 to 1000000000".to_owned())
}

/// Why no more messages are shown.
enum Stop {
    /// As many as were asked for.
    Counted,
    /// Nobody reads what is printed.
    Unread,
    Interrupted(Signal),
    TimedOut,
    /// The writer came to its end, in whatever way; what is said of it, and whether that is well.
    Ended(&'static str, bool),
    /// There is another segment of this name, or none.
    Superseded,
    Failed(hugeshm::Error),
}

/// What was shown up to now, of all segments that had the name.
#[derive(Default)]
struct Tally {
    shown: u64,
    missed: u64,
}

impl Arguments {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let interrupts = Interrupts::listen()?;
        let domain = self.place.domain()?;
        let mut tally = Tally::default();
        let mut printer = Printer::new();
        let stop = loop {
            let (segment, object) = match self.find(&domain, &interrupts)? {
                Ok(found) => found,
                Err(stop) => break stop,
            };
            let mut source = source::open(&segment, &object, self.from)?;
            if self.wait {
                source.outlive_peer();
            }
            printer.manner = self.manner(&segment, &object)?;
            let stop = self.pass(&mut *source, &mut printer, &mut tally, &interrupts)?;
            if printer.flush()?.is_break() {
                break Stop::Unread;
            }
            if !(self.wait && matches!(stop, Stop::Superseded)) {
                break stop;
            }
        };
        self.end(stop, &tally)
    }

    /// The object, once it is there.
    fn find(
        &self,
        domain: &Domain,
        interrupts: &Interrupts,
    ) -> Result<Result<(Segment, ObjectInfo), Stop>, Failure> {
        let deadline = self.deadline();
        loop {
            let absent = match domain.open_read_only(&self.name) {
                Ok(segment) => {
                    let objects = segment.objects();
                    match objects.into_iter().find(|object| object.name == self.object) {
                        // The old one of the name shows nothing new any more.
                        Some(_) if self.wait && segment.is_superseded() => None,
                        Some(object) => return Ok(Ok((segment, object))),
                        // Whoever asks for it is told what is there instead.
                        None => segment.schema(&self.object).err(),
                    }
                }
                Err(error) => Some(error),
            };
            let absent = match absent {
                Some(error) if !self.wait || error.kind() != ErrorKind::NotFound => {
                    return Err(error.into());
                }
                absent => absent,
            };
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return absent.map_or(Ok(Err(Stop::TimedOut)), |error| Err(error.into()));
            }
            if let Some(signal) = interrupts.during(LOOK_AGAIN) {
                return Ok(Err(Stop::Interrupted(signal)));
            }
        }
    }

    /// How messages of this object are shown.
    fn manner(&self, segment: &Segment, object: &ObjectInfo) -> Result<Manner, Failure> {
        if self.raw {
            return Ok(Manner::Raw);
        }
        // Records have no size in common.
        let fits = |fields: &Fields| match (fields.size(), object.type_size) {
            (size, length) if length > 0 && size > length => {
                Err(format!("the schema describes {size} bytes, a message has {length}"))
            }
            _ => Ok(()),
        };
        if let Some(fields) = &self.schema {
            fits(fields).map_err(|what| Failure::Undone(format!("echo: {what}")))?;
        }
        let fields = match &self.schema {
            Some(fields) => Some(fields.clone()),
            None if self.hex => None,
            None => own_fields(segment, object).and_then(|fields| {
                let fitting = fields.and_then(|fields| fits(&fields).map(|()| fields));
                let not_used = |what| {
                    let what = format!("echo: the schema of {:?} is not used: {what}", object.name);
                    output::complain(&Failure::Undone(what));
                };
                fitting.map_err(not_used).ok()
            }),
        };
        Ok(match (fields, self.json) {
            (fields, true) => Manner::Json(fields),
            (Some(fields), false) => Manner::Fields(fields),
            (None, false) => Manner::Hex,
        })
    }

    fn deadline(&self) -> Option<Instant> {
        self.timeout.and_then(|timeout| Instant::now().checked_add(timeout))
    }

    /// Shows messages until there is a reason to stop.
    fn pass(
        &self,
        source: &mut dyn Source,
        printer: &mut Printer,
        tally: &mut Tally,
        interrupts: &Interrupts,
    ) -> Result<Stop, Failure> {
        let mut deadline = self.deadline();
        let mut now = Instant::now();
        // At first, and behind each message, it is not waited: what was printed goes out before.
        let mut until = now;
        loop {
            match source.next(until) {
                Ok(passed) => {
                    tally.missed = tally.missed.saturating_add(passed.gap);
                    if printer.print(&passed)?.is_break() {
                        return Ok(Stop::Unread);
                    }
                    tally.shown += 1;
                    if self.count == Some(tally.shown) {
                        return Ok(Stop::Counted);
                    }
                    if let Some(signal) = interrupts.heard() {
                        return Ok(Stop::Interrupted(signal));
                    }
                    until = now;
                    deadline = self.deadline();
                    continue;
                }
                Err(End::TimedOut) => {}
                Err(End::Closed) => return Ok(Stop::Ended("the writer has left", true)),
                Err(End::PeerDied) => return Ok(Stop::Ended("the writer died", false)),
                Err(End::Superseded) => return Ok(Stop::Superseded),
                Err(End::Failed(error)) => return Ok(Stop::Failed(error)),
            }
            if printer.flush()?.is_break() || output::is_abandoned() {
                return Ok(Stop::Unread);
            }
            if let Some(signal) = interrupts.heard() {
                return Ok(Stop::Interrupted(signal));
            }
            now = Instant::now();
            if deadline.is_some_and(|deadline| now >= deadline) {
                return Ok(Stop::TimedOut);
            }
            until = deadline.map_or(now + SLICE, |deadline| deadline.min(now + SLICE));
        }
    }

    /// Says what has to be said at the end, and how to exit.
    fn end(&self, stop: Stop, tally: &Tally) -> Result<ExitCode, Failure> {
        let say = |what: String| output::complain(&Failure::Undone(format!("echo: {what}")));
        if tally.missed > 0 {
            say(format!("{} messages were missed in all", tally.missed));
        }
        let (why, well) = match stop {
            Stop::Counted | Stop::Unread => return Ok(ExitCode::SUCCESS),
            Stop::Interrupted(signal) => return Ok(interrupt::code(signal)),
            Stop::Failed(error) => return Err(error.into()),
            Stop::TimedOut => ("nothing came in time", true),
            Stop::Superseded => ("the segment was removed or replaced", true),
            Stop::Ended(why, well) => (why, well),
        };
        if self.count.is_some() || tally.shown == 0 || !well {
            let messages = words::count(usize::try_from(tally.shown).unwrap_or(0), "message");
            return Err(Failure::Undone(format!("echo: {why}, after {messages}")));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The fields that the object's schema describes, or what is wrong with it; `None` if it has no
/// schema that does.
fn own_fields(segment: &Segment, object: &ObjectInfo) -> Option<Result<Fields, String>> {
    let schema = match segment.schema(&object.name) {
        Ok(schema) => schema.filter(|schema| schema.format == Schema::FIELDS)?,
        Err(error) => return Some(Err(error.to_string())),
    };
    let text = String::from_utf8(schema.bytes).map_err(|error| error.to_string());
    Some(text.and_then(|text| text.parse()))
}

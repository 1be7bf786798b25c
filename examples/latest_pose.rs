//! Shows the pose of something that moves to any number of other programs.
//!
//! ```text
//! latest_pose write --name NAME [--rate 1000] [--count N]
//! latest_pose read  --name NAME [--count N] [--rest 0.1] [--wait 60] [--woken]
//! ```
//!
//! Start the writer and as many readers as you like, in any order. Kill what you
//! like: a writer that is started again goes on where its predecessor stopped,
//! and readers go on reading. A writer that comes to its end removes the segment,
//! and the readers end with it; one that was killed leaves it to its successor
//! (or to `hugeshm remove NAME`).
//!
//! Readers open the segment read-only, and look again in short slices. With
//! `--woken` they open it for writing, and the writer wakes them.

use bytemuck::{Pod, Zeroable};
use clap::{Parser, Subcommand};
use hugeshm::{
    Domain, ErrorKind, LatestError, LatestReader, LatestValue, Schema, Segment, TypeIdentity,
};
use std::io::{ErrorKind as IoErrorKind, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The name of the value in the segment.
const POSE: &str = "pose";
/// After how long without a newer pose a reader says so.
const SILENCE: Duration = Duration::from_secs(1);

/// Where it is and where it looks: 56 bytes, and so in one cache line with its version.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Pose {
    /// Nanoseconds since its writer began.
    nanos: u64,
    position: [f64; 3],
    heading: [f64; 3],
}

impl Pose {
    /// A point on a rising helix, one turn in two seconds.
    fn at(time: Duration) -> Self {
        let (seconds, turn) = (time.as_secs_f64(), time.as_secs_f64() * std::f64::consts::PI);
        Self {
            nanos: u64::try_from(time.as_nanos()).unwrap_or(u64::MAX),
            position: [turn.cos(), turn.sin(), seconds * 0.1],
            heading: [-turn.sin(), turn.cos(), 0.0],
        }
    }

    /// Under which both sides know it, in whatever language they are written.
    fn identity() -> TypeIdentity {
        TypeIdentity::new("example.pose", 1, 0)
    }

    /// For tools that do not know it, such as `hugeshm echo NAME pose`.
    fn schema() -> Schema {
        Schema::fields("nanos: u64; position: [f64; 3]; heading: [f64; 3]")
    }
}

/// Shows a moving pose to any number of readers.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Writes poses; there is one writer at a time.
    Write {
        /// The name of the segment.
        #[arg(long)]
        name: String,
        /// Poses per second.
        #[arg(long, default_value_t = 1000.0, value_parser = rate)]
        rate: f64,
        /// How many to write; without end if not given.
        #[arg(long)]
        count: Option<u64>,
    },
    /// Reads poses; there may be any number of readers.
    Read {
        /// The name of the segment.
        #[arg(long)]
        name: String,
        /// How many to read; until the writer's end if not given.
        #[arg(long)]
        count: Option<u64>,
        /// How many seconds to rest between two of them; what is written meanwhile is skipped.
        #[arg(long, default_value = "0.1", value_parser = seconds)]
        rest: Duration,
        /// How many seconds to wait for the segment to appear.
        #[arg(long, default_value = "60", value_parser = seconds)]
        wait: Duration,
        /// Open the segment for writing, too, so that the writer can wake this reader.
        #[arg(long)]
        woken: bool,
    },
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|error| format!("{error}"))?;
    let sound = rate.is_finite() && (1e-3..=1e9).contains(&rate);
    if sound { Ok(rate) } else { Err("from 0.001 to 1000000000".to_owned()) }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|error| format!("{error}"))?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Write { name, rate, count } => write(&name, rate, count),
        Command::Read { name, count, rest, wait, woken } => {
            find(&name, wait, woken).and_then(|segment| read(&segment, count, rest))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("latest_pose: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(name: &str, rate: f64, count: Option<u64>) -> Result<(), Failure> {
    let value = LatestValue::<Pose>::new().identity(Pose::identity()).schema(Pose::schema());
    let segment = Segment::open_or_create(name).latest_of(POSE, value).build()?;
    let mut writer = segment.latest_writer_as::<Pose>(POSE, &Pose::identity())?;
    eprintln!("{:#}", segment.backing());
    if writer.version() > 0 {
        eprintln!("going on behind version {}", writer.version());
    }
    let start = Instant::now();
    let mut written = 0;
    while count.is_none_or(|count| written < count) {
        writer.write(&Pose::at(start.elapsed()))?;
        written += 1;
        // The next is due at a multiple of the period, however long this one took.
        let due = Duration::from_secs_f64(written as f64 / rate);
        std::thread::sleep(due.saturating_sub(start.elapsed()));
    }
    eprintln!("wrote {written} poses, the last is version {}", writer.version());
    segment.unlink_on_drop(true);
    Ok(())
}

/// The segment, once its writer has made it.
fn find(name: &str, wait: Duration, woken: bool) -> Result<Segment, Failure> {
    let domain = Domain::from_env()?;
    if woken {
        return Ok(domain.wait_for(name, wait)?);
    }
    let deadline = Instant::now().checked_add(wait);
    loop {
        match domain.open_read_only(name) {
            Err(error)
                if error.kind() == ErrorKind::NotFound
                    && deadline.is_none_or(|deadline| Instant::now() < deadline) =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            result => return Ok(result?),
        }
    }
}

fn read(segment: &Segment, count: Option<u64>, rest: Duration) -> Result<(), Failure> {
    let mut reader = segment.latest_reader_as::<Pose>(POSE, &Pose::identity())?;
    let mut done = 0;
    while count.is_none_or(|count| done < count) {
        let before = reader.seen();
        let Some((version, pose)) = next(&mut reader)? else { break };
        let skipped = if before == 0 { 0 } else { version - before - 1 };
        let [x, y, z] = pose.position;
        let line = format!(
            "version {version}: {:.3} s, at {x:.3} {y:.3} {z:.3} ({skipped} skipped)",
            Duration::from_nanos(pose.nanos).as_secs_f64()
        );
        match writeln!(std::io::stdout().lock(), "{line}") {
            // Whoever read our lines has had enough.
            Err(error) if error.kind() == IoErrorKind::BrokenPipe => break,
            result => result?,
        }
        done += 1;
        std::thread::sleep(rest);
    }
    Ok(())
}

/// The next pose, of this writer or a successor; none when the writer came to its end.
fn next(reader: &mut LatestReader<Pose>) -> Result<Option<(u64, Pose)>, Failure> {
    let mut said = false;
    loop {
        match reader.wait_newer_timeout(reader.seen(), SILENCE) {
            Ok(read) => {
                reader.outlive_peer(false);
                return Ok(Some((read.version, read.value)));
            }
            Err(LatestError::Closed | LatestError::Superseded) => return Ok(None),
            Err(LatestError::PeerDied) => {
                eprintln!("the writer died; waiting for its successor");
                reader.outlive_peer(true);
                said = true;
            }
            Err(LatestError::TimedOut) => {
                if !said {
                    eprintln!("nothing new; the writer is {:?}", reader.peer());
                    said = true;
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}

//! Writes the stream of a `shm_writer` to a file or to standard output.
//!
//! ```text
//! shm_reader --name NAME [--out FILE] [--wait SECONDS]
//! ```
//!
//! Started first, it waits for the writer. Each record is released after it was
//! written out, so that a reader that was killed and is started again on the
//! same file goes on where the last one stopped.
//!
//! It ends with status 0 when the writer finished and everything was delivered.
//! If the writer died half-way, it delivers what had been committed and fails.
//! In both cases nothing of use is left, and it removes the segment. If it is
//! the output that fails, the rest stays for the next reader.

#[path = "common/mod.rs"]
mod common;

use clap::Parser;
use common::{Header, Progress, STREAM};
use hugeshm::{Domain, ErrorKind, PeerState, Record, RecordConsumer, RecvError, Segment};
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long a segment whose writer is dead already may be taken over by a new one.
const GRACE: Duration = Duration::from_secs(2);

/// Writes the stream from a shared-memory segment to a file or to standard output.
#[derive(Debug, Parser)]
struct Arguments {
    /// The name of the segment.
    #[arg(long)]
    name: String,
    /// The file to write; standard output if none is given.
    #[arg(long)]
    out: Option<PathBuf>,
    /// How many seconds to wait for the writer to appear.
    #[arg(long, default_value_t = 60.0)]
    wait: f64,
}

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shm_reader: {error}");
            ExitCode::FAILURE
        }
    }
}

/// How a stream ended.
enum Ending {
    /// The writer said that this is all.
    Complete,
    /// Nothing more will come, and this is why.
    BrokenOff(Failure),
    /// Nothing had come, and the name leads elsewhere now.
    TakenOver,
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let wait = Duration::try_from_secs_f64(arguments.wait)
        .map_err(|error| format!("--wait {}: {error}", arguments.wait))?;
    let mut output = Output::open(arguments.out.as_deref())?;
    let domain = Domain::from_env()?;
    let deadline = Instant::now().checked_add(wait);
    let mut said = false;
    loop {
        let left = deadline.map_or(wait, |at| at.saturating_duration_since(Instant::now()));
        let segment = domain.wait_for(&arguments.name, left)?;
        let mut consumer = match segment.record_consumer(STREAM) {
            Ok(consumer) => consumer,
            // A reader that was killed a moment ago holds its place until the kernel is done.
            Err(error) if error.kind() == ErrorKind::Busy && !left.is_zero() => {
                if !said && wait - left > Duration::from_secs(1) {
                    eprintln!("waiting: {error}");
                    said = true;
                }
                std::thread::sleep(Duration::from_millis(10));
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if !usable(&segment, &consumer, deadline)? {
            continue;
        }
        eprintln!("{:#}", segment.backing());
        match deliver(&mut consumer, &mut output)? {
            Ending::TakenOver => {}
            Ending::Complete => {
                segment.unlink_on_drop(true);
                return Ok(());
            }
            Ending::BrokenOff(why) => {
                segment.unlink_on_drop(true);
                return Err(why);
            }
        }
    }
}

/// Waits until the writer is there. A dead one's segment is given some time to be taken over:
/// `false` if it was.
fn usable(
    segment: &Segment,
    consumer: &RecordConsumer,
    deadline: Option<Instant>,
) -> Result<bool, Failure> {
    let grace = Instant::now() + GRACE;
    loop {
        if segment.is_superseded() {
            return Ok(false);
        }
        let now = Instant::now();
        let late = deadline.is_some_and(|deadline| now >= deadline);
        match consumer.peer() {
            PeerState::Dead if now < grace && !late => {}
            PeerState::Never if late => {
                return Err(format!("no writer came to segment {:?}", segment.name()).into());
            }
            PeerState::Never => {}
            _ => return Ok(true),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Where the stream goes.
struct Output {
    file: File,
    /// A regular file of ours, whose position and length we know.
    named: bool,
}

impl Output {
    fn open(path: Option<&Path>) -> Result<Self, Failure> {
        match path {
            None => {
                let file = File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
                Ok(Self { file, named: false })
            }
            Some(path) => {
                let file = File::options()
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .open(path)
                    .map_err(|error| format!("open {}: {error}", path.display()))?;
                let named = file.metadata()?.is_file();
                Ok(Self { file, named })
            }
        }
    }

    /// Gets ready to go on at stream offset `offset`.
    fn begin(&mut self, offset: u64) -> Result<(), Failure> {
        if !self.named {
            if offset > 0 {
                eprintln!("going on at byte {offset}: an earlier reader took what was before");
            }
            return Ok(());
        }
        let length = self.file.metadata()?.len();
        if length < offset {
            return Err(format!(
                "the stream goes on at byte {offset}, but the file has only {length}; \
                 it is not the one that the earlier reader wrote"
            )
            .into());
        }
        if offset > 0 {
            eprintln!("going on at byte {offset}");
        }
        self.file.set_len(offset)?;
        self.file.seek(SeekFrom::Start(offset))?;
        Ok(())
    }
}

/// Writes record after record, releasing each when it is written.
///
/// The end is not released: should we be killed before the segment is removed, the next reader
/// finds it again.
fn deliver(consumer: &mut RecordConsumer, output: &mut Output) -> Result<Ending, Failure> {
    let mut begun: Option<Progress> = None;
    loop {
        let record = match consumer.read() {
            Ok(record) => record,
            Err(RecvError::Superseded) if begun.is_none() => return Ok(Ending::TakenOver),
            Err(error) => return Ok(Ending::BrokenOff(broken_off(error, begun))),
        };
        let header = header_of(&record)?;
        if begun.is_none() {
            output.begin(header.offset)?;
        }
        let progress = begun.get_or_insert_with(|| Progress::new("read", header.offset, None));
        if header.offset != progress.bytes() {
            let expected = progress.bytes();
            return Err(format!("expected byte {expected}, got byte {}", header.offset).into());
        }
        match header.kind {
            Header::DATA => {
                record.write_to(&output.file).map_err(|error| format!("write: {error}"))?;
                progress.at(header.offset + record.len() as u64);
                record.release();
            }
            Header::END => {
                if let Some(progress) = begun {
                    progress.finish();
                }
                return Ok(Ending::Complete);
            }
            kind => return Err(format!("a record of unknown kind {kind}").into()),
        }
    }
}

fn header_of(record: &Record<'_>) -> Result<Header, Failure> {
    let mut bytes = [0; Header::LEN];
    if record.user_header(&mut bytes) < Header::LEN {
        return Err("this is not a stream of shm_writer".into());
    }
    Ok(Header::from_bytes(bytes))
}

/// What to say when the stream ends without its end.
fn broken_off(error: RecvError, begun: Option<Progress>) -> Failure {
    let what = match error {
        RecvError::PeerDied => "the writer died half-way".to_owned(),
        RecvError::Superseded => "the segment was removed before the stream ended".to_owned(),
        RecvError::Closed => "the writer stopped without ending the stream".to_owned(),
        error => error.to_string(),
    };
    let Some(progress) = begun else {
        return format!("{what}; there is nothing that was not delivered before").into();
    };
    let bytes = progress.bytes();
    progress.finish();
    format!("{what}; the stream was delivered up to byte {bytes}").into()
}

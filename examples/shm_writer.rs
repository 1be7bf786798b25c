//! Streams a file or standard input through a shared-memory segment.
//!
//! ```text
//! shm_writer --name NAME [--size 64M] [--pages auto|1G|2M|thp|base]
//!            [--backing auto|hugetlbfs|sysv|memfd|tmpfs] [--mount PATH] [--record 64K] [FILE]
//! ```
//!
//! Each record carries its offset in the stream; an empty one marked as the end
//! follows the last. If the reader dies, the writer waits for the next one. A
//! segment that an earlier, dead writer left under the name is removed first.
//! The writer ends once the end is committed; what the reader has not yet taken
//! stays in the segment, which the reader removes. Only a memfd dies with its
//! processes, so there the writer waits until everything was taken.

#[path = "common/mod.rs"]
mod common;

use clap::Parser;
use common::{Header, Progress, STREAM};
use hugeshm::{
    BackingKind, Domain, Error, ErrorKind, Lifetime, PagePolicy, PeerState, Populate,
    RecordProducer, RecordRing, Role, Segment, Usage, WaitMode, format_bytes, parse_bytes,
};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long a reader that is still taking the previous stream may make us wait.
const PATIENCE: Duration = Duration::from_secs(10);

/// Streams FILE, or standard input, through a shared-memory segment.
#[derive(Debug, Parser)]
struct Arguments {
    /// The name of the segment.
    #[arg(long)]
    name: String,
    /// The size of the segment.
    #[arg(long, default_value = "64M", value_parser = bytes)]
    size: u64,
    /// The pages wanted: auto, 1G, 2M, thp, base.
    #[arg(long, default_value = "auto")]
    pages: PagePolicy,
    /// What carries the segment: auto, hugetlbfs, sysv, memfd, tmpfs.
    #[arg(long, default_value = "auto", value_parser = backing)]
    backing: Choice,
    /// The hugetlbfs mount to use.
    #[arg(long)]
    mount: Option<PathBuf>,
    /// Bytes in each record, at most.
    #[arg(long, default_value = "64K", value_parser = bytes)]
    record: u64,
    /// The file to stream; standard input if none is given.
    file: Option<PathBuf>,
}

/// `auto`, or one kind of backing.
#[derive(Clone, Copy, Debug)]
struct Choice(Option<BackingKind>);

fn bytes(text: &str) -> Result<u64, String> {
    parse_bytes(text).filter(|&n| n > 0).ok_or_else(|| "write it like 64K, 64M or 1G".to_owned())
}

fn backing(text: &str) -> Result<Choice, Error> {
    if text == "auto" { Ok(Choice(None)) } else { text.parse().map(|kind| Choice(Some(kind))) }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shm_writer: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    // The input first: a file that cannot be read should not cost a page.
    let input = match &arguments.file {
        Some(path) => {
            File::open(path).map_err(|error| format!("open {}: {error}", path.display()))?
        }
        None => File::from(std::io::stdin().as_fd().try_clone_to_owned()?),
    };
    let total = input.metadata().ok().filter(std::fs::Metadata::is_file).map(|file| file.len());
    let domain = Domain::from_env()?;
    clear_the_way(&domain, &arguments.name)?;
    let segment = build(&domain, arguments)?;
    eprintln!("{:#}", segment.backing());
    let mut producer = segment.record_producer(STREAM)?;
    if arguments.record > producer.len_max() as u64 {
        // The segment is good for nobody else.
        segment.unlink_on_drop(true);
        return Err(format!(
            "a record of {} does not fit a segment of {}: {} is the most; try a larger --size",
            format_bytes(arguments.record),
            format_bytes(segment.len()),
            format_bytes(producer.len_max() as u64)
        )
        .into());
    }
    producer.outlive_peer(true);
    let mut progress = Progress::new("wrote", 0, total);
    stream(&mut producer, &input, arguments.record as usize, &mut progress)?;
    if segment.backing().kind == BackingKind::Memfd {
        drain(&producer)?;
    }
    progress.finish();
    Ok(())
}

/// Sends everything that can be read, and the mark of the end.
fn stream(
    producer: &mut RecordProducer,
    input: &File,
    record: usize,
    progress: &mut Progress,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut offset = 0;
    loop {
        let mut reservation = reserve(producer, record)?;
        // One read per record: a pipe's bytes go on as they come. A failed read commits nothing.
        let count = reservation.read_from(input).map_err(|error| format!("read: {error}"))?;
        let kind = if count == 0 { Header::END } else { Header::DATA };
        reservation.set_user_header(&Header { offset, kind }.to_bytes())?;
        reservation.commit_written();
        if count == 0 {
            return Ok(());
        }
        offset += count as u64;
        progress.at(offset);
    }
}

/// A reservation, however long the reader takes; says once that it is waiting for one.
fn reserve(
    producer: &mut RecordProducer,
    record: usize,
) -> Result<hugeshm::Reservation<'_>, hugeshm::SendError> {
    producer.wait_mode(WaitMode::Adaptive);
    producer.reserve(record)
}

/// Waits until a reader has taken everything: the segment would die with this process.
fn drain(producer: &RecordProducer) -> Result<(), Error> {
    if !producer.is_empty() && producer.peer() != PeerState::Alive {
        eprintln!("waiting for a reader: a memfd segment dies with this process");
    }
    while !producer.is_empty() {
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn build(domain: &Domain, arguments: &Arguments) -> Result<Segment, Error> {
    // Header, tables and control words stay far below this.
    let room = arguments.size.saturating_sub(64 << 10) & !4095;
    let mut builder = domain
        .create(&arguments.name)
        .size(arguments.size)
        .pages(arguments.pages.clone())
        .lifetime(Lifetime::WithHolders)
        .populate(Populate::Parallel(0))
        .max_objects(4)
        .max_attachments(64)
        .records_of(STREAM, RecordRing::new(room).user_header(Header::LEN as u64));
    if let Some(kind) = arguments.backing.0 {
        builder = builder.backing(kind);
    }
    if let Some(mount) = &arguments.mount {
        builder = builder.mount(mount);
    }
    builder.build()
}

/// Removes what a dead writer left under the name; refuses where a living one has it.
fn clear_the_way(domain: &Domain, name: &str) -> Result<(), Error> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if domain.collect_name(name)? {
            eprintln!("removed the segment that an earlier run left under this name");
            return Ok(());
        }
        let info = match domain.inspect(name) {
            Ok(info) => info,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let writer = info
            .objects
            .iter()
            .filter(|object| object.name == STREAM)
            .flat_map(|object| &object.endpoints)
            .find(|endpoint| endpoint.role == Role::Producer)
            .map(|endpoint| endpoint.state);
        match (writer, info.entry.usage) {
            // It died half-way; a reader that waits there learns that the name goes on elsewhere.
            (Some(PeerState::Dead), _) => match domain.remove(name) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => return Ok(()),
            },
            (Some(PeerState::Alive), Usage::InUse) | (None, _) => return Ok(()), // create says it
            // A reader is taking the rest of the previous stream, or a creator is about to begin.
            _ if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(10)),
            _ => return Ok(()),
        }
    }
}

//! Streams a file or standard input through a shared-memory segment.
//!
//! ```text
//! shm_writer --name NAME [--size 64M] [--pages auto|1G|2M|thp|base]
//!            [--backing auto|hugetlbfs|sysv|memfd|tmpfs] [--mount PATH] [--record 64K] [FILE]
//! ```
//!
//! Each record carries its offset in the stream; an empty one marked as the end
//! follows the last. If the reader dies, the writer waits for the next one.
//!
//! The writer ends once the end is committed; what the reader has not yet taken
//! stays in the segment, which the reader removes. Only a memfd dies with its
//! processes, so there the writer waits until the reader has done so.
//!
//! A segment that an earlier writer left under the name is removed first, unless
//! that writer is still at work. A reader that is still taking its rest keeps the
//! memory and is not disturbed.

#[path = "common/mod.rs"]
mod common;

use clap::Parser;
use common::{Header, Progress, STREAM};
use hugeshm::{
    BackingKind, Domain, EndpointInfo, Error, ErrorKind, Lifetime, PagePolicy, PeerState, Populate,
    RecordProducer, RecordRing, Role, Segment, SendError, format_bytes, parse_bytes,
};
use std::fmt::Display;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long a reader that is still taking the previous stream may make us wait for its pages.
const PATIENCE: Duration = Duration::from_secs(10);
/// After how long without a reader we say that we wait for one.
const SILENCE: Duration = Duration::from_secs(1);

/// Header, tables and control words of the segment stay far below this.
const OVERHEAD: u64 = 64 << 10;

type Failure = Box<dyn std::error::Error>;

/// Streams FILE, or standard input, through a shared-memory segment.
#[derive(Debug, Parser)]
struct Arguments {
    /// The name of the segment.
    #[arg(long)]
    name: String,
    /// The size of the segment, 128K at least.
    #[arg(long, default_value = "64M", value_parser = size)]
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
    /// Bytes in each record, at most; a little less than half of the segment can be.
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

fn size(text: &str) -> Result<u64, String> {
    bytes(text).and_then(|n| if n < 128 << 10 { Err("128K at least".to_owned()) } else { Ok(n) })
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

fn run(arguments: &Arguments) -> Result<(), Failure> {
    check_record(arguments.size, arguments.record)?;
    // The input first: a file that cannot be read should not cost a page.
    let (input, total) = open_input(arguments.file.as_deref())?;
    let domain = Domain::from_env()?;
    clear_the_way(&domain, &arguments.name)?;
    let segment = build(&domain, arguments)?;
    eprintln!("{:#}", segment.backing());
    let mut producer = segment.record_producer(STREAM)?;
    producer.outlive_peer(true);
    let mut progress = Progress::new("wrote", 0, total);
    stream(&mut producer, &input, arguments.record as usize, &mut progress)?;
    if segment.backing().kind == BackingKind::Memfd {
        wait_for_delivery(&segment, &producer);
    }
    progress.finish();
    Ok(())
}

/// The file or standard input, and its length where that is known.
fn open_input(path: Option<&Path>) -> Result<(File, Option<u64>), Failure> {
    let Some(path) = path else {
        let input = File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
        return Ok((input, None));
    };
    let failed = |what: &dyn Display| format!("open {}: {what}", path.display());
    let input = File::open(path).map_err(|error| failed(&error))?;
    let facts = input.metadata().map_err(|error| failed(&error))?;
    if facts.is_dir() {
        return Err(failed(&"it is a folder").into());
    }
    Ok((input, facts.is_file().then_some(facts.len())))
}

/// Sends everything that can be read, and the mark of the end.
fn stream(
    producer: &mut RecordProducer,
    input: &File,
    record: usize,
    progress: &mut Progress,
) -> Result<(), Failure> {
    let mut offset = 0;
    let mut said = false;
    loop {
        let mut reservation = match producer.reserve_timeout(record, SILENCE) {
            Ok(reservation) => reservation,
            Err(SendError::TimedOut) => {
                if !said && producer.peer() != PeerState::Alive {
                    eprintln!("the segment is full: waiting for a reader");
                    said = true;
                }
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        said = false;
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

/// Waits until a reader has taken everything and therefore removed the segment, which would
/// otherwise die with this process.
fn wait_for_delivery(segment: &Segment, producer: &RecordProducer) {
    let start = Instant::now();
    let mut said = false;
    while !segment.is_superseded() {
        if !said && start.elapsed() > SILENCE && producer.peer() != PeerState::Alive {
            eprintln!("waiting for a reader: a memfd segment dies with its processes");
            said = true;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The bytes of the ring in a segment of `size` bytes.
const fn room(size: u64) -> u64 {
    size.saturating_sub(OVERHEAD) & !4095
}

/// Refuses records that the ring could not take, before anything is made.
///
/// A record must fit wherever the position is: each half of the ring holds one of the longest,
/// with its header and its word.
fn check_record(size: u64, record: u64) -> Result<(), Failure> {
    let around = 8 + Header::LEN as u64;
    let most = (room(size) / 2).saturating_sub(around) & !7;
    if record <= most {
        return Ok(());
    }
    let smallest = record
        .checked_next_multiple_of(8)
        .and_then(|payload| payload.checked_add(around)?.checked_mul(2))
        .and_then(|ring| ring.checked_next_multiple_of(4096)?.checked_add(OVERHEAD));
    let larger =
        smallest.map_or(String::new(), |bytes| format!("--size {}K at least, or ", bytes >> 10));
    Err(format!(
        "a record of {} does not fit a segment of {}; try {larger}--record {most} at most",
        format_bytes(record),
        format_bytes(size)
    )
    .into())
}

fn build(domain: &Domain, arguments: &Arguments) -> Result<Segment, Error> {
    let room = room(arguments.size);
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

/// Removes what an earlier writer left under the name; refuses where a living one has it.
///
/// Of several writers that come at once the one wins that creates the name.
fn clear_the_way(domain: &Domain, name: &str) -> Result<(), Failure> {
    let old = match domain.open(name) {
        Ok(old) => old,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // Of a memfd that died with its processes the name is left.
            domain.collect_name(name)?;
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    let writer = endpoint(&old, Role::Producer)
        .ok_or_else(|| format!("the name {name:?} is used by something else than a stream"))?;
    // A creator that has not begun yet must find its place taken, if it still lives.
    let _place = match writer.state {
        PeerState::Alive => {
            let pid = writer.pid;
            return Err(format!("another writer (pid {pid}) is streaming under {name:?}").into());
        }
        PeerState::Never => Some(old.record_producer(STREAM)?),
        _ => None,
    };
    let left = old.objects().iter().find_map(|object| object.lag).unwrap_or(0);
    remove(domain, &old);
    // Its reader takes what is left, or hears that nothing more comes, and gives the pages back.
    let deadline = Instant::now() + PATIENCE;
    let mut read = false;
    while endpoint(&old, Role::Consumer).is_some_and(|reader| reader.state == PeerState::Alive) {
        if Instant::now() >= deadline {
            eprintln!("the reader of the previous stream is still at work; going on without it");
            break;
        }
        read = true;
        std::thread::sleep(Duration::from_millis(2));
    }
    if !read {
        eprintln!("removed what an earlier run left under this name ({left} records not read)");
    }
    Ok(())
}

/// The stream's only endpoint of this role.
fn endpoint(segment: &Segment, role: Role) -> Option<EndpointInfo> {
    let stream = segment.objects().into_iter().find(|object| object.name == STREAM)?;
    stream.endpoints.into_iter().find(|endpoint| endpoint.role == role)
}

/// Removes the name of `old`, unless it leads to another segment by now.
fn remove(domain: &Domain, old: &Segment) {
    if let Ok(now) = domain.open(old.name())
        && now.identity() == old.identity()
    {
        now.unlink_on_drop(true);
    }
}

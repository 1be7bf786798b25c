//! Sends ticks to any number of programs, each of which receives all of them or is told what it
//! missed.
//!
//! ```text
//! broadcast_ticks send    --name NAME [--rate 100000] [--count N] [--lossless] [--keep 65536]
//! broadcast_ticks receive --name NAME [--from newest] [--count N] [--rest 0] [--wait 60] [--observe]
//! ```
//!
//! Start the sender and as many receivers as you like, in any order; kill and
//! stop what you like. A sender that is started again goes on where its
//! predecessor stopped. A receiver prints once a second, and when it ends, how many
//! ticks it received and how many it missed: together that is what was sent since
//! it joined, and it fails if a tick is not the one that belongs to its position.
//!
//! With `--lossless` the sender waits for its receivers, and says for whom. With
//! `--observe` a receiver opens the segment read-only: it claims no place and
//! nobody waits for it. While it runs, try `hugeshm top` and
//! `hugeshm echo NAME ticks`.

use bytemuck::{Pod, Zeroable};
use clap::{Parser, Subcommand};
use hugeshm::{
    BroadcastConsumer, BroadcastObserver, BroadcastRing, Domain, ErrorKind, Join, Producer,
    RecvError, Schema, Segment, SendError, TypeIdentity,
};
use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The name of the ring in the segment.
const TICKS: &str = "ticks";

/// A price at a moment: 56 bytes. The words belong together, so that a torn tick would show.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Tick {
    sequence: u64,
    nanos: u64,
    price: f64,
    volume: f64,
    instrument: u64,
    flags: u64,
    check: u64,
}

impl Tick {
    fn new(sequence: u64, nanos: u64) -> Self {
        let price = 100.0 + (sequence % 1000) as f64 * 0.01;
        let mut tick = Self {
            sequence,
            nanos,
            price,
            volume: (sequence % 97) as f64,
            instrument: sequence % 16,
            flags: 0,
            check: 0,
        };
        tick.check = tick.sum();
        tick
    }

    fn sum(&self) -> u64 {
        let words = [self.sequence, self.nanos, self.price.to_bits(), self.volume.to_bits()];
        words.iter().fold(self.instrument, |sum, word| sum.rotate_left(7) ^ word)
    }

    fn identity() -> TypeIdentity {
        TypeIdentity::new("example.tick", 1, 0)
    }

    fn schema() -> Schema {
        Schema::fields(
            "sequence: u64; nanos: u64; price: f64; volume: f64; instrument: u64; flags: u64; \
             check: u64",
        )
    }
}

/// Sends ticks to any number of receivers.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Sends ticks; there is one sender at a time.
    Send {
        /// The name of the segment.
        #[arg(long)]
        name: String,
        /// Ticks per second; 0 is as fast as possible.
        #[arg(long, default_value_t = 100_000.0)]
        rate: f64,
        /// How many to send; without end if not given.
        #[arg(long)]
        count: Option<u64>,
        /// Wait for receivers instead of overwriting what they have not received.
        #[arg(long)]
        lossless: bool,
        /// How many ticks the ring keeps at least.
        #[arg(long, default_value_t = 65_536)]
        keep: u64,
    },
    /// Receives ticks.
    Receive {
        /// The name of the segment.
        #[arg(long)]
        name: String,
        /// Where to begin: oldest, newest or the number of a tick.
        #[arg(long, default_value = "newest", value_parser = join)]
        from: Join,
        /// End after so many ticks, received or missed.
        #[arg(long)]
        count: Option<u64>,
        /// Seconds of rest after each tick.
        #[arg(long, default_value_t = 0.0)]
        rest: f64,
        /// How many seconds to wait for the sender to appear.
        #[arg(long, default_value_t = 60.0)]
        wait: f64,
        /// Look on, without a place of its own.
        #[arg(long)]
        observe: bool,
    },
}

fn join(text: &str) -> Result<Join, String> {
    match text {
        "oldest" => Ok(Join::Oldest),
        "newest" => Ok(Join::Newest),
        number => number
            .parse()
            .map(Join::At)
            .map_err(|_| "oldest, newest or a number is wanted".to_owned()),
    }
}

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Send { name, rate, count, lossless, keep } => {
            send(&name, rate, count, lossless, keep)
        }
        Command::Receive { name, from, count, rest, wait, observe } => {
            receive(&name, from, count, rest, wait, observe)
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("broadcast_ticks: {error}");
            ExitCode::FAILURE
        }
    }
}

fn seconds(number: f64) -> Result<Duration, Failure> {
    Ok(Duration::try_from_secs_f64(number)?)
}

/// The segment: a new one, or that of a sender that was killed.
fn segment(name: &str, lossless: bool, keep: u64) -> Result<Segment, Failure> {
    let ring = BroadcastRing::<Tick>::new(keep).consumers(64).lossless(lossless);
    let ring = ring.identity(Tick::identity()).schema(Tick::schema());
    Ok(Segment::open_or_create(name).broadcast_of(TICKS, ring).build()?)
}

fn send(
    name: &str,
    rate: f64,
    count: Option<u64>,
    lossless: bool,
    keep: u64,
) -> Result<(), Failure> {
    let segment = segment(name, lossless, keep)?;
    let mut ticks: Producer<Tick> = segment.broadcast_producer_as(TICKS, &Tick::identity())?;
    let pause = if rate > 0.0 { seconds(1.0 / rate)? } else { Duration::ZERO };
    let (start, mut next) = (Instant::now(), Instant::now());
    let first = ticks.position();
    println!("{}; begins with tick {first}", segment.backing());
    let mut nanos = 0;
    while count.is_none_or(|count| ticks.position() - first < count) {
        let sequence = ticks.position();
        if pause > Duration::ZERO {
            next += pause;
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        if pause > Duration::ZERO || sequence.is_multiple_of(1024) {
            nanos = u64::try_from(start.elapsed().as_nanos())?;
        }
        while let Err(error) = ticks.push_timeout(Tick::new(sequence, nanos), seconds(1.0)?) {
            match (error, ticks.slowest()) {
                (SendError::TimedOut, Some(slowest)) => eprintln!(
                    "waiting for {:?} (pid {}), {} ticks behind",
                    slowest.label, slowest.pid, slowest.lag
                ),
                (error, _) => return Err(error.into()),
            }
        }
    }
    let (sent, time) = (ticks.position() - first, start.elapsed());
    println!("sent {sent} ticks in {time:.3?}");
    drop(ticks);
    Domain::from_env()?.remove(name).or_else(|error| match error.kind() {
        ErrorKind::NotFound => Ok(()),
        _ => Err(error.into()),
    })
}

/// One that receives, with a place of its own or without.
enum Ticks {
    Consumer(Box<BroadcastConsumer<Tick>>),
    Observer(Box<BroadcastObserver<Tick>>),
}

impl Ticks {
    fn position(&self) -> u64 {
        match self {
            Self::Consumer(ticks) => ticks.position(),
            Self::Observer(ticks) => ticks.position(),
        }
    }

    fn recv(&mut self, timeout: Duration) -> Result<Tick, RecvError> {
        match self {
            Self::Consumer(ticks) => ticks.recv_timeout(timeout),
            Self::Observer(ticks) => ticks.recv_timeout(timeout),
        }
    }
}

fn receive(
    name: &str,
    from: Join,
    count: Option<u64>,
    rest: f64,
    wait: f64,
    observe: bool,
) -> Result<(), Failure> {
    let (rest, identity) = (seconds(rest)?, Tick::identity());
    let segment = Segment::wait_for(name, seconds(wait)?)?;
    let mut ticks = if observe {
        let segment = Segment::open_read_only(name)?;
        Ticks::Observer(Box::new(segment.broadcast_observer_as(TICKS, from, &identity)?))
    } else {
        Ticks::Consumer(Box::new(segment.broadcast_consumer_as(TICKS, from, &identity)?))
    };
    drop(segment);
    let first = ticks.position();
    let (mut received, mut missed) = (0, 0);
    let mut told = Instant::now();
    let mut out = std::io::stdout().lock();
    while count.is_none_or(|count| received + missed < count) {
        let position = ticks.position();
        match ticks.recv(Duration::from_secs(1)) {
            Ok(tick) if tick.sequence == position && tick.check == tick.sum() => received += 1,
            Ok(tick) => return Err(format!("at {position} came {tick:?}").into()),
            Err(RecvError::Gap { missed: gap }) => missed += gap,
            Err(RecvError::TimedOut) => {}
            Err(RecvError::Closed | RecvError::PeerDied | RecvError::Superseded) => break,
            Err(error) => return Err(error.into()),
        }
        if received.is_multiple_of(4096) && told.elapsed() >= Duration::from_secs(1) {
            told = Instant::now();
            writeln!(out, "received {received}, missed {missed}")?;
        }
        if !rest.is_zero() {
            std::thread::sleep(rest);
        }
    }
    let sum = if first + received + missed == ticks.position() { "" } else { ", which is WRONG" };
    let last = ticks.position();
    writeln!(out, "received {received}, missed {missed} from tick {first} to {last}{sum}")?;
    if sum.is_empty() { Ok(()) } else { Err("the sum does not add up".into()) }
}

//! The writing process: sends the messages of each phase for its time, then serves.

use super::family::{Common, Stop, tell};
use super::histogram::Histogram;
use super::plan::{
    BATCH, Ball, Bodies, END, Line, NUMBERS, PHASES, PING, PING_PONG_SLOTS, PONG, RECORDS, Trips,
    Way, ball, number, returned,
};
use hugeshm::{Producer, RecordProducer, Segment, SendError, WaitMode};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long the other side may make this one wait.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);

/// Bytes that are sent between two looks at the clock.
const BETWEEN_LOOKS: usize = 256 << 10;

/// Round trips that are not counted, while caches and branch predictors learn.
const WARM_UP: u64 = 2000;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    common: Common,
    /// How long each phase lasts.
    #[arg(long)]
    slot_micros: u64,
    /// Spoil one bit of one message.
    #[arg(long)]
    spoil: bool,
}

impl Arguments {
    pub(crate) fn run(self) -> ExitCode {
        self.common.run("demo-writer", |segment| self.write(segment))
    }

    fn write(&self, segment: &Segment) -> Result<(), Stop> {
        let slot = Duration::from_micros(self.slot_micros);
        let mut numbers = segment.producer::<u64>(NUMBERS)?;
        let mut records = segment.record_producer(RECORDS)?;
        for (phase, described) in PHASES.iter().enumerate() {
            let end = Instant::now() + slot;
            match described.way {
                Way::Single => send_numbers(&mut numbers, phase, end)?,
                Way::Batches => send_batches(&mut numbers, phase, end)?,
                Way::Records => send_records(&mut records, phase, end, self.spoil)?,
            }
        }
        self.ping_pong(segment, slot * PING_PONG_SLOTS)
    }

    fn ping_pong(&self, segment: &Segment, time: Duration) -> Result<(), Stop> {
        let mode = self.common.wait_mode();
        let mut ping = segment.producer::<Ball>(PING)?;
        let mut pong = segment.consumer::<Ball>(PONG)?;
        ping.wait_mode(mode);
        pong.wait_mode(mode);
        let mut histogram = Histogram::new();
        let mut end = Instant::now() + time;
        let mut before = Instant::now();
        for sequence in 0.. {
            let sent = ball(sequence);
            ping.push_timeout(sent, PATIENCE)?;
            let came = pong.recv_timeout(PATIENCE)?;
            let now = Instant::now();
            if came != returned(sent) {
                return Err(Stop::Wrong(format!(
                    "ping-pong: the answer to {sequence} is {came:x?}"
                )));
            }
            if sequence > WARM_UP {
                histogram.add((now - before).as_nanos() as u64);
            } else if sequence == WARM_UP {
                end = now + time;
            }
            if now >= end && histogram.count() > 0 {
                break;
            }
            before = now;
        }
        ping.push_timeout([END; 8], PATIENCE)?;
        tell(&Line::Trips(Trips {
            round_trips: histogram.count(),
            spinning: mode == WaitMode::Spin,
            p50_nanos: histogram.percentile(500),
            p90_nanos: histogram.percentile(900),
            p99_nanos: histogram.percentile(990),
            p999_nanos: histogram.percentile(999),
            max_nanos: histogram.max(),
        }))?;
        Ok(())
    }
}

fn send_numbers(ring: &mut Producer<u64>, phase: usize, end: Instant) -> Result<(), Stop> {
    let mut sequence = 0;
    while sequence == 0 || Instant::now() < end {
        for _ in 0..BETWEEN_LOOKS / size_of::<u64>() / 8 {
            ring.push_timeout(number(phase, sequence), PATIENCE)?;
            sequence += 1;
        }
    }
    ring.push_timeout(END, PATIENCE)?;
    ring.push_timeout(sequence, PATIENCE)?;
    Ok(())
}

fn send_batches(ring: &mut Producer<u64>, phase: usize, end: Instant) -> Result<(), Stop> {
    let mut sequence = 0;
    let mut batch = [0; BATCH];
    while sequence == 0 || Instant::now() < end {
        for _ in 0..BETWEEN_LOOKS / size_of_val(&batch) {
            for slot in &mut batch {
                *slot = number(phase, sequence);
                sequence += 1;
            }
            let mut rest = &batch[..];
            while let Some((first, others)) = rest.split_first() {
                rest = match ring.push_batch(rest) {
                    Ok(count) => &rest[count..],
                    // One waits for room, then the others follow together.
                    Err(SendError::Full) => {
                        ring.push_timeout(*first, PATIENCE)?;
                        others
                    }
                    Err(error) => return Err(error.into()),
                };
            }
        }
    }
    ring.push_timeout(END, PATIENCE)?;
    ring.push_timeout(sequence, PATIENCE)?;
    Ok(())
}

fn send_records(
    ring: &mut RecordProducer,
    phase: usize,
    end: Instant,
    spoil: bool,
) -> Result<(), Stop> {
    let mut bodies = Bodies::new(phase);
    let mut sequence = 0;
    while sequence == 0 || Instant::now() < end {
        for _ in 0..(BETWEEN_LOOKS / PHASES[phase].size).max(1) {
            let message = bodies.message(sequence);
            if spoil && sequence == 1 {
                let middle = message.len() / 2;
                message[middle] ^= 0x10;
            }
            ring.push_timeout(message, PATIENCE)?;
            sequence += 1;
        }
    }
    let mut mark = [0; 16];
    mark[..8].copy_from_slice(&END.to_le_bytes());
    mark[8..].copy_from_slice(&sequence.to_le_bytes());
    ring.push_timeout(&mark, PATIENCE)?;
    Ok(())
}

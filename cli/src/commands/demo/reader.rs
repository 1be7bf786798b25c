//! The reading process: receives what the writer sends and compares every byte.

use super::family::{Common, Stop, tell};
use super::plan::{
    BATCH, Ball, Bodies, END, Line, Moved, NUMBERS, PHASES, PING, PONG, RECORDS, Way, ball,
    difference, number, returned,
};
use super::writer::PATIENCE;
use hugeshm::{Consumer, RecordConsumer, RecvError, Segment};
use std::process::ExitCode;
use std::time::Instant;

/// Bytes that are copied out of the ring and compared at a time.
const PIECE: usize = 16 << 10;

/// The length of the mark that ends a phase of records.
const MARK: usize = 16;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    common: Common,
}

/// How many messages a phase had, and since when they came.
struct Count {
    phase: usize,
    messages: u64,
    first: Option<Instant>,
}

impl Count {
    const fn new(phase: usize) -> Self {
        Self { phase, messages: 0, first: None }
    }

    /// Counts one message; the time runs from the first one on.
    #[inline]
    fn add(&mut self) {
        if self.messages == 0 {
            self.first = Some(Instant::now());
        }
        self.messages += 1;
    }

    /// The mark says how many there had to be.
    fn finish(&self, sent: u64) -> Result<(), Stop> {
        let Self { phase, messages, first } = *self;
        if sent != messages {
            return Err(Stop::Wrong(format!(
                "{}: {messages} messages came, {sent} were sent",
                PHASES[phase].name
            )));
        }
        let nanos = first.map_or(0, |first| first.elapsed().as_nanos() as u64);
        tell(&Line::Moved(Moved { phase, messages, nanos }))?;
        Ok(())
    }

    /// Compares a number and counts it.
    #[inline]
    fn check(&mut self, value: u64) -> Result<(), Stop> {
        if value == number(self.phase, self.messages) {
            self.add();
            return Ok(());
        }
        let expected = number(self.phase, self.messages).to_le_bytes();
        let text = difference(self.phase, self.messages, 0, &value.to_le_bytes(), &expected);
        Err(Stop::Wrong(text))
    }
}

impl Arguments {
    pub(crate) fn run(self) -> ExitCode {
        self.common.run("demo-reader", |segment| self.read(segment))
    }

    fn read(&self, segment: &Segment) -> Result<(), Stop> {
        let mut numbers = segment.consumer::<u64>(NUMBERS)?;
        let mut records = segment.record_consumer(RECORDS)?;
        let seen = segment.verify()?.to_string();
        tell(&Line::Ready { seen })?;
        for (phase, described) in PHASES.iter().enumerate() {
            match described.way {
                Way::Single => receive_numbers(&mut numbers, phase)?,
                Way::Batches => receive_batches(&mut numbers, phase)?,
                Way::Records => receive_records(&mut records, phase)?,
            }
        }
        self.ping_pong(segment)
    }

    fn ping_pong(&self, segment: &Segment) -> Result<(), Stop> {
        let mode = self.common.wait_mode();
        let mut ping = segment.consumer::<Ball>(PING)?;
        let mut pong = segment.producer::<Ball>(PONG)?;
        ping.wait_mode(mode);
        pong.wait_mode(mode);
        for sequence in 0.. {
            let came = ping.recv_timeout(PATIENCE)?;
            if came == [END; 8] {
                break;
            }
            if came != ball(sequence) {
                return Err(Stop::Wrong(format!("ping-pong: message {sequence} is {came:x?}")));
            }
            pong.push_timeout(returned(came), PATIENCE)?;
        }
        Ok(())
    }
}

fn receive_numbers(ring: &mut Consumer<u64>, phase: usize) -> Result<(), Stop> {
    let mut count = Count::new(phase);
    loop {
        match ring.recv_timeout(PATIENCE)? {
            END => break,
            value => count.check(value)?,
        }
    }
    count.finish(ring.recv_timeout(PATIENCE)?)
}

fn receive_batches(ring: &mut Consumer<u64>, phase: usize) -> Result<(), Stop> {
    let mut count = Count::new(phase);
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        batch.clear();
        match ring.recv_batch(&mut batch, BATCH) {
            Ok(_) => {}
            // One is waited for, then those behind it come together.
            Err(RecvError::Empty) => batch.push(ring.recv_timeout(PATIENCE)?),
            Err(error) => return Err(error.into()),
        }
        let mut values = batch.iter();
        while let Some(&value) = values.next() {
            if value != END {
                count.check(value)?;
                continue;
            }
            // The writer sends nothing behind the count before it takes to the records.
            return match values.next() {
                Some(&sent) => count.finish(sent),
                None => count.finish(ring.recv_timeout(PATIENCE)?),
            };
        }
    }
}

fn receive_records(ring: &mut RecordConsumer, phase: usize) -> Result<(), Stop> {
    let mut count = Count::new(phase);
    let mut bodies = Bodies::new(phase);
    let mut piece = vec![0; PIECE];
    loop {
        let record = ring.read_timeout(PATIENCE)?;
        if record.len() == MARK {
            let mark: [u64; 2] = record.read_at(0).unwrap_or_default();
            record.release();
            if mark[0] == END {
                return count.finish(mark[1]);
            }
            return Err(Stop::Wrong(format!("{}: a mark is {mark:x?}", PHASES[phase].name)));
        }
        let expected = bodies.message(count.messages);
        if record.len() != expected.len() {
            return Err(Stop::Wrong(format!(
                "{}: message {} has {} bytes",
                PHASES[phase].name,
                count.messages,
                record.len()
            )));
        }
        let mut offset = 0;
        while offset < record.len() {
            let copied = record.copy_from(offset, &mut piece);
            let (found, expected) = (&piece[..copied], &expected[offset..offset + copied]);
            if found != expected {
                let text = difference(phase, count.messages, offset, found, expected);
                return Err(Stop::Wrong(text));
            }
            offset += copied;
        }
        record.release();
        count.add();
    }
}

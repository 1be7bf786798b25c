//! What the writer and the reader of a stream agree on, and how they talk to a person.

#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "each of the two programs uses its half; `expect` would fail in neither alone"
)]

use hugeshm::format_bytes;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// The name of the record ring in the segment.
pub const STREAM: &str = "stream";

/// The user header of each record: where in the stream it lies, and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The stream offset of the first byte.
    pub offset: u64,
    /// `DATA`, or `END` in the record behind the last byte.
    pub kind: u64,
}

impl Header {
    /// Its length in bytes.
    pub const LEN: usize = 16;
    /// A piece of the stream.
    pub const DATA: u64 = 0;
    /// The stream ended in good order; the offset is its length.
    pub const END: u64 = 1;

    /// As it stands in the record.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.offset.to_le_bytes());
        bytes[8..].copy_from_slice(&self.kind.to_le_bytes());
        bytes
    }

    /// As read from a record.
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        Self { offset: word(0), kind: word(8) }
    }
}

/// Bytes and rate on standard error: a bar on a terminal, a line now and then elsewhere.
pub struct Progress {
    verb: &'static str,
    start: Instant,
    told: Instant,
    bar: Option<ProgressBar>,
    first: u64,
    bytes: u64,
}

impl Progress {
    /// Begins to count from stream offset `first`; `total` is the length where it is known.
    pub fn new(verb: &'static str, first: u64, total: Option<u64>) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total.unwrap_or(0));
            let template = match total {
                Some(_) => "{bar:30} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}",
                None => "{spinner} {bytes} {binary_bytes_per_sec}",
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar
        });
        let now = Instant::now();
        Self { verb, start: now, told: now, bar, first, bytes: first }
    }

    /// The stream is at `bytes` now.
    pub fn at(&mut self, bytes: u64) {
        self.bytes = bytes;
        let now = Instant::now();
        let pause = Duration::from_millis(if self.bar.is_some() { 100 } else { 2000 });
        if now - self.told < pause {
            return;
        }
        self.told = now;
        match &self.bar {
            Some(bar) => bar.set_position(bytes),
            None => eprintln!("{}, {}", format_bytes(bytes), self.rate()),
        }
    }

    /// Where the stream is.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn rate(&self) -> String {
        let seconds = self.start.elapsed().as_secs_f64().max(1e-9);
        let gib = (self.bytes - self.first) as f64 / f64::from(1 << 30);
        format!("{seconds:.3} s, {:.2} GiB/s", gib / seconds)
    }

    /// The summary: bytes, seconds, rate.
    pub fn finish(self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let bytes = self.bytes - self.first;
        eprintln!("{} {bytes} bytes ({}), {}", self.verb, format_bytes(bytes), self.rate());
    }
}

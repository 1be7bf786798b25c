//! Killing the writer, a reader or a watcher of a latest value.

use super::content::{Content, compare};
use super::drive::{Case, Ending, Seen, Trial};
use super::queue::{OBJECT, must_be_dead};
use super::stage::Stage;
use super::tracee::{Act, Fault, Told, text};
use super::typed::words;
use bytemuck::bytes_of;
use hugeshm::{
    LatestError, LatestReader, LatestValue, LatestWatcher, LatestWriter, Segment, Versioned,
    WaitMode,
};
use std::time::Duration;

/// A call that waits longer hangs.
const PATIENCE: Duration = Duration::from_secs(10);
/// The blocking call of the survivor is tried once in so many attempts: it may take a slice.
const WAIT_EVERY: u64 = 16;

/// A value with all its ends, as far as this process has them.
struct Latest<const W: usize> {
    stage: Stage,
    segment: Segment,
    writer: Option<LatestWriter<[u64; W]>>,
    reader: LatestReader<[u64; W]>,
    watcher: Option<LatestWatcher<[u64; W]>>,
    attempt: u64,
    /// The newest value and its version.
    newest: (u64, Content),
}

impl<const W: usize> Latest<W> {
    fn new() -> Result<Self, Fault> {
        let stage = Stage::new()?;
        let segment = stage.create(|builder| {
            builder.latest_of(OBJECT, LatestValue::<[u64; W]>::new().watchers(1))
        })?;
        let reader = segment.latest_reader(OBJECT).map_err(text)?;
        let newest = (0, Content { number: 0, attempt: 0, len: 8 * W });
        let mut latest =
            Self { stage, segment, writer: None, reader, watcher: None, attempt: 0, newest };
        latest.write()?;
        latest.take_watcher()?;
        Ok(latest)
    }

    fn take_watcher(&mut self) -> Result<(), Fault> {
        if self.watcher.is_none() {
            // There is one place: it must have come back.
            self.watcher = Some(self.segment.latest_watcher(OBJECT).map_err(text)?);
        }
        Ok(())
    }

    /// What is to be written next.
    fn next(&self, attempt: u64) -> Content {
        Content { number: self.newest.0 + 1, attempt, len: 8 * W }
    }

    fn write(&mut self) -> Result<(), Fault> {
        if self.writer.is_none() {
            let writer = self.segment.latest_writer(OBJECT).map_err(text)?;
            if writer.version() != self.newest.0 {
                return Err(format!(
                    "the successor goes on behind version {}, {} was the newest",
                    writer.version(),
                    self.newest.0
                ));
            }
            self.writer = Some(writer);
        }
        let content = self.next(self.attempt);
        let writer = self.writer.as_mut().ok_or("no writer")?;
        let version = writer.write(&words(&content)).map_err(text)?;
        self.newest = (version, content);
        self.is_newest()
    }

    fn read(&mut self) -> Result<Versioned<[u64; W]>, Fault> {
        self.reader.read().map_err(|error| format!("read: {error}"))
    }

    fn is_newest(&mut self) -> Result<(), Fault> {
        let got = self.read()?;
        if got.version != self.newest.0 {
            return Err(format!(
                "version {} is read, {} is the newest",
                got.version, self.newest.0
            ));
        }
        compare(bytes_of(&got.value), &self.newest.1)?;
        if let Some(watcher) = &mut self.watcher {
            let seen = watcher.read().map_err(text)?;
            compare(bytes_of(&seen.value), &self.newest.1)?;
        }
        Ok(())
    }

    fn writes(&mut self) -> Result<(), Fault> {
        for _ in 0..9 {
            self.write()?;
        }
        Ok(())
    }

    fn close(mut self) -> Result<(), Fault> {
        self.take_watcher()?;
        self.writes()?;
        let Self { stage, segment, writer, reader, watcher, .. } = self;
        drop((writer, reader, watcher));
        stage.close(segment)
    }
}

struct WriteAct<const W: usize> {
    writer: LatestWriter<[u64; W]>,
    value: [u64; W],
    done: Result<u64, LatestError>,
}

impl<const W: usize> Act for WriteAct<W> {
    fn act(&mut self) {
        self.done = self.writer.write(&self.value);
    }

    fn told(&mut self) -> Told {
        self.done.map(|_| Vec::new()).map_err(text)
    }
}

struct WriterDies<const W: usize> {
    latest: Latest<W>,
    content: Content,
    seen: bool,
}

impl<const W: usize> WriterDies<W> {
    /// The old value, or the new one, whole.
    fn look(&mut self) -> Result<(), Fault> {
        let (version, got) = {
            let got = self.latest.read()?;
            (got.version, got.value)
        };
        let before = self.latest.newest.0;
        if version == before + 1 && !self.seen {
            compare(bytes_of(&got), &self.content)?;
            self.seen = true;
            self.latest.newest = (version, self.content);
        }
        self.latest.is_newest()
    }
}

impl<const W: usize> Case for WriterDies<W> {
    fn starts(&self) -> Vec<&'static str> {
        vec!["an even version", "an odd version"]
    }

    fn prepare(&mut self, start: usize) -> Result<(), Fault> {
        self.latest.attempt += 2;
        self.latest.write()?;
        while self.latest.newest.0 % 2 != start as u64 {
            self.latest.write()?;
        }
        self.content = self.latest.next(self.latest.attempt + 1);
        self.seen = false;
        self.latest.writer = None;
        Ok(())
    }

    fn ready(&self) -> Result<Box<dyn Act>, Fault> {
        let segment = self.latest.stage.open()?;
        let writer = segment.latest_writer(OBJECT).map_err(text)?;
        Ok(Box::new(WriteAct { writer, value: words::<W>(&self.content), done: Ok(0) }))
    }

    fn stopped(&mut self) -> Result<bool, Fault> {
        self.look()?;
        Ok(true)
    }

    fn check(&mut self, ending: Ending) -> Result<Seen, Fault> {
        must_be_dead(self.latest.reader.peer())?;
        self.look()?;
        if ending == Ending::Whole && !self.seen {
            return Err("a whole write is not seen".into());
        }
        if self.latest.attempt % WAIT_EVERY < 2 {
            let since = self.latest.newest.0;
            let reader = &mut self.latest.reader;
            reader.wait_mode(WaitMode::Block);
            match reader.wait_newer_timeout(since, PATIENCE) {
                Err(LatestError::PeerDied) => {}
                other => {
                    let other = other.map(|got| got.version);
                    return Err(format!("a reader that waits was told {other:?}"));
                }
            }
        }
        self.latest.writes()?;
        Ok(if self.seen { Seen::Visible } else { Seen::Invisible })
    }

    fn is_seen(&self) -> bool {
        true
    }

    fn close(self: Box<Self>) -> Result<(), Fault> {
        self.latest.close()
    }
}

/// How a reader reads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// By a reader without a place.
    Unseen,
    /// By a watcher.
    Watched,
    /// By a watcher that sleeps until there is a newer value.
    Asleep,
}

#[expect(clippy::large_enum_variant, reason = "one at a time, in a box")]
enum ReadAct<const W: usize> {
    Unseen(LatestReader<[u64; W]>, Result<Versioned<[u64; W]>, LatestError>),
    Watched(LatestWatcher<[u64; W]>, Option<u64>, Result<Versioned<[u64; W]>, LatestError>),
}

impl<const W: usize> Act for ReadAct<W> {
    fn act(&mut self) {
        match self {
            Self::Unseen(reader, done) => *done = reader.read(),
            Self::Watched(watcher, None, done) => *done = watcher.read(),
            Self::Watched(watcher, Some(since), done) => {
                *done = watcher.wait_newer_timeout(*since, PATIENCE);
            }
        }
    }

    fn told(&mut self) -> Told {
        let (Self::Unseen(_, done) | Self::Watched(_, _, done)) = self;
        let got = done.map_err(text)?;
        Ok(vec![got.version.to_le_bytes().to_vec(), bytes_of(&got.value).to_vec()])
    }
}

/// A reader dies, and nobody notices.
struct ReaderDies<const W: usize> {
    latest: Latest<W>,
    reading: Reading,
    /// All that was written since the reader began, by version.
    written: Vec<(u64, Content)>,
}

impl<const W: usize> Case for ReaderDies<W> {
    fn starts(&self) -> Vec<&'static str> {
        vec!["an even version", "an odd version"]
    }

    fn prepare(&mut self, start: usize) -> Result<(), Fault> {
        self.latest.attempt += 1;
        self.latest.take_watcher()?;
        self.latest.write()?;
        while self.latest.newest.0 % 2 != start as u64 {
            self.latest.write()?;
        }
        self.written = vec![self.latest.newest];
        if self.reading != Reading::Unseen {
            self.latest.watcher = None;
        }
        Ok(())
    }

    fn ready(&self) -> Result<Box<dyn Act>, Fault> {
        let segment = self.latest.stage.open()?;
        let nothing = Err(LatestError::NeverWritten);
        Ok(Box::new(match self.reading {
            Reading::Unseen => {
                let reader = segment.latest_reader(OBJECT).map_err(text)?;
                ReadAct::<W>::Unseen(reader, nothing)
            }
            reading => {
                let mut watcher = segment.latest_watcher(OBJECT).map_err(text)?;
                watcher.wait_mode(WaitMode::Block);
                let since = (reading == Reading::Asleep).then_some(self.latest.newest.0);
                ReadAct::Watched(watcher, since, nothing)
            }
        }))
    }

    fn asleep(&mut self) -> Result<(), Fault> {
        if self.reading != Reading::Asleep {
            return Err("it sleeps, and there is a value".into());
        }
        if self.written.len() == 1 {
            self.latest.write()?;
            self.written.push(self.latest.newest);
        }
        Ok(())
    }

    fn stopped(&mut self) -> Result<bool, Fault> {
        for _ in 0..self.latest.attempt % 5 {
            self.latest.write()?;
            self.written.push(self.latest.newest);
        }
        Ok(true)
    }

    fn told(&mut self, told: Told) -> Result<(), Fault> {
        let parts = told?;
        let [version, value] = &parts[..] else { return Err("no value".into()) };
        let version = u64::from_le_bytes(version[..].try_into().map_err(text)?);
        let known = self.written.iter().find(|(known, _)| *known == version);
        let (_, content) = known.ok_or(format!("version {version} was not there to be read"))?;
        compare(value, content).map_err(|fault| format!("in the stopped reader: {fault}"))
    }

    fn check(&mut self, ending: Ending) -> Result<Seen, Fault> {
        self.latest.is_newest()?;
        self.latest.writes()?;
        self.latest.take_watcher()?;
        self.latest.writes()?;
        Ok(if ending == Ending::Whole { Seen::Visible } else { Seen::Invisible })
    }

    fn is_seen(&self) -> bool {
        true
    }

    fn close(self: Box<Self>) -> Result<(), Fault> {
        self.latest.close()
    }
}

fn value_of<const W: usize>(trials: &mut Vec<Trial>) {
    let name = |what: &str| format!("latest value, {} B: {what}", 8 * W);
    trials.push(Trial::new(name("write"), || {
        let latest = Latest::<W>::new()?;
        let content = latest.newest.1;
        Ok(Box::new(WriterDies { latest, content, seen: false }))
    }));
    for (what, reading) in [
        ("read", Reading::Unseen),
        ("watcher, read", Reading::Watched),
        ("watcher, asleep", Reading::Asleep),
    ] {
        trials.push(Trial::new(name(what), move || {
            let latest = Latest::<W>::new()?;
            Ok(Box::new(ReaderDies { latest, reading, written: Vec::new() }))
        }));
    }
}

/// All operations of latest values.
pub fn values() -> Vec<Trial> {
    let mut trials = Vec::new();
    value_of::<1>(&mut trials);
    value_of::<7>(&mut trials);
    value_of::<32>(&mut trials);
    trials
}

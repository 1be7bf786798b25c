//! The promises of watchers: each is woken, rung and told; whatever stands in their words.

use super::error::AttachError;
use super::layout::{
    SEEN, SLEEP, SLEEPERS, WATCHERS_MAX, WRITER_SLEEP, WRITER_UNFENCED, watcher, words_len,
};
use super::raw::ReaderParts;
use super::tests::{
    MODES, Over, PATIENCE, Random, Short, assert_whole, geometry, interesting, value,
};
use super::writer::WriterParts;
use super::{LatestError, LatestReader, LatestWatcher, LatestWriter, RawLatestWatcher, Versioned};
use crate::error::ErrorKind;
use crate::peer::PeerState;
use crate::stats::{LINE_LEN, StatsWriter};
use crate::view::View;
use crate::wait::testing::{FakeLink, Peer, crashes};
use crate::wait::{Armed, Doorbell, WaitAny, WaitError, WaitMode};
use bytemuck::{AnyBitPattern, NoUninit};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

const SOON: Duration = Duration::from_millis(1);

/// A value with places for watchers, and the peer that all its ends see.
struct Cell {
    view: View,
    watchers: u32,
    peer: Arc<Peer>,
}

impl Cell {
    fn of<T>(watchers: u32) -> Self {
        let view = View::heap(words_len(watchers) + geometry::<T>(3).bytes());
        Self { view, watchers, peer: Peer::alive() }
    }

    /// The same memory, as it was at another time.
    fn left(&self, view: &View) -> Self {
        Self { view: view.clone(), watchers: self.watchers, peer: Arc::clone(&self.peer) }
    }

    fn parts(&self) -> ReaderParts {
        let words = words_len(self.watchers);
        let control = self.view.window(0, words).unwrap();
        let payload = self.view.window(words, self.view.len() - words).unwrap();
        ReaderParts { control, payload, link: Box::new(FakeLink(Arc::clone(&self.peer))) }
    }

    fn writer<T: NoUninit>(&self) -> LatestWriter<T> {
        let ReaderParts { control, payload, link } = self.parts();
        let parts = WriterParts { control, payload, watchers: self.watchers, stats: stats(), link };
        LatestWriter::attach(parts, geometry::<T>(3)).unwrap()
    }

    fn watcher<T: AnyBitPattern>(&self, slot: u32) -> LatestWatcher<T> {
        LatestWatcher::claim(self.parts(), stats(), slot, geometry::<T>(3)).unwrap()
    }

    fn reader<T: AnyBitPattern>(&self) -> LatestReader<T> {
        LatestReader::attach(self.parts(), geometry::<T>(3)).unwrap()
    }

    fn sleeps(&self, slot: u32) -> u32 {
        self.view.word32(watcher(slot) + SLEEP).load(Relaxed)
    }

    fn sleepers(&self) -> u32 {
        self.view.word32(SLEEPERS).load(Relaxed)
    }

    fn wait_until_asleep(&self, slot: u32) {
        while self.sleeps(slot) == 0 || self.sleepers() & 1 == 0 {
            std::thread::yield_now();
        }
    }
}

fn stats() -> StatsWriter {
    StatsWriter::attach(View::heap(LINE_LEN)).unwrap()
}

fn rung(bell: &Doorbell) -> bool {
    let mut fds = [PollFd::new(bell.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
}

fn is_poll(armed: crate::error::Result<Armed>) -> bool {
    matches!(armed.unwrap(), Armed::Poll { .. })
}

#[test]
fn a_watcher_goes_to_another_thread() {
    fn goes<T: Send + 'static>() {}
    goes::<LatestWatcher<Short>>();
}

#[test]
fn a_watcher_reads_what_was_written_and_its_line_tells_what_it_has_seen() {
    fn check<const N: usize>() {
        let cell = Cell::of::<[u64; N]>(3);
        let mut tx = cell.writer::<[u64; N]>();
        let mut rx = cell.watcher::<[u64; N]>(1);
        let seen = || cell.view.load64(watcher(1) + SEEN, Relaxed);
        assert_eq!((rx.place(), rx.read().err()), (1, Some(LatestError::NeverWritten)));
        assert_eq!(rx.read_if_newer(0), Ok(None));
        for version in 1..30 {
            tx.write(&value(version)).unwrap();
            assert_eq!((rx.version(), rx.seen(), seen()), (version, version - 1, version - 1));
            let read = match version % 3 {
                0 => rx.read_if_newer(rx.seen()).unwrap().unwrap(),
                1 => rx.wait_newer(rx.seen()).unwrap(),
                _ => rx.wait_newer_timeout(rx.seen(), PATIENCE).unwrap(),
            };
            assert_eq!(read, Versioned { version, value: value(version) });
            assert_eq!(rx.read(), Ok(read), "a value stays until there is another");
            assert_eq!(rx.read_if_newer(version), Ok(None));
            assert_eq!((rx.seen(), seen()), (version, version));
        }
        // A version is counted once, and one that was replaced before is not.
        assert_eq!((rx.stats().messages, rx.stats().bytes), (29, 29 * 8 * N as u64));
        for version in 30..35 {
            tx.write(&value(version)).unwrap();
        }
        assert_whole(rx.read().unwrap());
        assert_eq!((rx.stats().messages, seen()), (30, 34));
        // A successor has seen nothing.
        drop(rx);
        let mut raw =
            RawLatestWatcher::claim(cell.parts(), stats(), 1, geometry::<[u64; N]>(3)).unwrap();
        assert_eq!((seen(), raw.seen(), raw.place()), (0, 0, 1));
        let mut bytes = vec![0; 8 * N];
        assert_eq!(raw.read_if_newer(0, &mut bytes), Ok(Some(34)));
        assert!(bytes == bytemuck::bytes_of(&value::<N>(34)));
        assert_eq!((seen(), raw.stats().messages), (34, 1));
    }
    check::<1>();
    check::<7>();
    check::<20>();
}

#[test]
fn short_misaligned_or_read_only_windows_make_no_watcher() {
    let cell = Cell::of::<Short>(2);
    let claim = |control: View, slot| {
        let parts = ReaderParts { control, ..cell.parts() };
        LatestWatcher::<Short>::claim(parts, stats(), slot, geometry::<Short>(3)).err()
    };
    let words = cell.parts().control;
    assert_eq!(claim(words.clone(), 1), None);
    assert_eq!(claim(words.clone(), 2), Some(AttachError::Geometry));
    assert_eq!(claim(words.clone(), u32::MAX - 1), Some(AttachError::Geometry));
    let short = words.window(0, words.len() - 8).unwrap();
    assert_eq!(claim(short.clone(), 1), Some(AttachError::Geometry));
    let askew = cell.view.window(8, words.len()).unwrap();
    assert_eq!(claim(askew, 0), Some(AttachError::Geometry));
    assert_eq!(claim(View::heap_read_only(words.len()), 0), Some(AttachError::ReadOnly));
    let long = LatestWatcher::<[u64; 8]>::claim(cell.parts(), stats(), 0, geometry::<Short>(3));
    assert_eq!(long.err(), Some(AttachError::Geometry));
    // Nor a writer for watchers that are not there.
    for (control, watchers) in [(short, 2), (words, WATCHERS_MAX + 1)] {
        let ReaderParts { payload, link, .. } = cell.parts();
        let parts = WriterParts { control, payload, watchers, stats: stats(), link };
        let writer = LatestWriter::<Short>::attach(parts, geometry::<Short>(3));
        assert_eq!(writer.err(), Some(AttachError::Geometry));
    }
}

#[test]
fn one_write_wakes_watchers_and_readers_and_nobody_is_called_while_none_sleeps() {
    let cell = Cell::of::<Short>(5);
    let mut tx = cell.writer::<Short>();
    for version in 1..50 {
        tx.write(&value(version)).unwrap();
    }
    assert_eq!((tx.stats().wakes, cell.sleepers()), (0, 0), "nobody slept");
    std::thread::scope(|scope| {
        for slot in [0, 1, 4] {
            let mut rx = cell.watcher::<Short>(slot);
            rx.wait_mode(WaitMode::Block);
            scope.spawn(move || {
                for version in 49..60 {
                    assert_whole(rx.wait_newer_timeout(version, PATIENCE).unwrap());
                }
            });
        }
        for _ in 0..2 {
            let mut rx = cell.reader::<Short>();
            rx.wait_mode(WaitMode::Block);
            scope.spawn(move || {
                for version in 49..60 {
                    assert_whole(rx.wait_newer_timeout(version, PATIENCE).unwrap());
                }
            });
        }
        while tx.version() < 60 {
            while cell.sleepers() & 1 == 0 {
                std::thread::yield_now();
            }
            tx.write(&value(tx.version() + 1)).unwrap();
        }
    });
    // One who gave up leaves the common bit, which costs one wake, and no word of his own.
    let mut rx = cell.watcher::<Short>(2);
    rx.wait_mode(WaitMode::Block);
    rx.read().unwrap();
    assert_eq!(rx.wait_newer_timeout(rx.seen(), SOON).err(), Some(LatestError::TimedOut));
    assert_eq!((cell.sleepers() & 1, cell.sleeps(2)), (1, 0));
    let wakes = tx.stats().wakes;
    for _ in 0..10 {
        tx.write(&value(tx.version() + 1)).unwrap();
    }
    assert_eq!((tx.stats().wakes, cell.sleepers() & 1), (wakes + 1, 0));
}

#[test]
fn an_armed_watcher_is_rung_once_by_a_write_and_by_a_close() {
    let cell = Cell::of::<Short>(WATCHERS_MAX);
    let mut tx = cell.writer::<Short>();
    let mut ends: Vec<_> = [0, 3, 254]
        .into_iter()
        .map(|slot| {
            let mut rx = cell.watcher::<Short>(slot);
            let bell = rx.doorbell_to_pass().unwrap();
            tx.ring_by(rx.place(), &bell).unwrap();
            (rx, bell)
        })
        .collect();
    let refused = tx.ring_by(WATCHERS_MAX, &ends[0].1).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    for version in 1..5 {
        for (rx, bell) in &mut ends {
            assert!(is_poll(bell.arm(rx)));
            assert!(!rung(bell));
        }
        tx.write(&value(version)).unwrap();
        for (rx, bell) in &mut ends {
            assert!(rung(bell));
            assert_eq!(bell.arm(rx).unwrap(), Armed::Ready);
            assert_whole(rx.read_if_newer(rx.seen()).unwrap().unwrap());
            bell.clear();
        }
        assert_eq!(tx.stats().wakes, version);
    }
    // Those that are not armed are not rung.
    let (first, others) = ends.split_first_mut().unwrap();
    assert!(is_poll(first.1.arm(&mut first.0)));
    tx.write(&value(5)).unwrap();
    assert!(rung(&first.1) && others.iter().all(|(_, bell)| !rung(bell)));
    first.1.clear();
    first.0.read().unwrap();
    assert!(is_poll(first.1.arm(&mut first.0)));
    drop(tx);
    assert!(rung(&first.1));
}

#[test]
fn a_wait_for_many_finds_the_watcher_whose_value_is_new() {
    let (left, right) = (Cell::of::<Short>(1), Cell::of::<Short>(2));
    let (mut tx, mut other) = (left.writer::<Short>(), right.writer::<Short>());
    let (mut rx, mut beside) = (left.watcher::<Short>(0), right.watcher::<Short>(1));
    for vector in [true, false] {
        for mode in MODES {
            let mut any = WaitAny::new();
            any.set_vector(vector);
            any.wait_mode(mode);
            for turn in 0..20 {
                let waited = any.wait_timeout(&mut [&mut rx, &mut beside], Duration::ZERO);
                assert_eq!(waited, Err(WaitError::TimedOut));
                let found = std::thread::scope(|scope| {
                    scope.spawn(|| {
                        if mode == WaitMode::Block {
                            left.wait_until_asleep(0);
                        }
                        let tx = if turn % 3 == 0 { &mut tx } else { &mut other };
                        tx.write(&value(tx.version() + 1)).unwrap();
                    });
                    any.wait_timeout(&mut [&mut rx, &mut beside], PATIENCE).unwrap()
                });
                assert_eq!(found, usize::from(turn % 3 != 0));
                let rx = if found == 0 { &mut rx } else { &mut beside };
                assert_whole(rx.read_if_newer(rx.seen()).unwrap().unwrap());
                assert_eq!((left.sleeps(0), right.sleeps(1)), (0, 0));
            }
        }
    }
}

#[test]
fn the_end_of_the_writer_is_told_by_waits_and_by_the_next_look_after_one() {
    let cell = Cell::of::<Short>(1);
    cell.writer::<Short>().write(&value(1)).unwrap();
    for mode in MODES {
        for (state, error) in
            [(PeerState::Dead, LatestError::PeerDied), (PeerState::Closed, LatestError::Closed)]
        {
            cell.peer.becomes(PeerState::Alive);
            let mut rx = cell.watcher::<Short>(0);
            rx.wait_mode(mode);
            // What was written is read first.
            assert_eq!(WaitAny::new().wait(&mut [&mut rx]), Ok(0));
            assert_whole(rx.read_if_newer(0).unwrap().unwrap());
            assert_eq!(rx.read_if_newer(1), Ok(None));
            let found = WaitAny::new().wait_timeout(&mut [&mut rx], Duration::ZERO);
            assert_eq!(found, Err(WaitError::TimedOut));
            cell.peer.becomes(state);
            assert_eq!(WaitAny::new().wait_mode(mode).wait(&mut [&mut rx]), Ok(0));
            assert_eq!(rx.read_if_newer(1).err(), Some(error));
            assert_eq!(rx.wait_newer(1).err(), Some(error));
            let bell = rx.doorbell_to_pass().unwrap();
            assert_eq!(bell.arm(&mut rx).unwrap(), Armed::Ready);
            assert_eq!(rx.read_if_newer(1).err(), Some(error));
            assert_eq!(rx.peer(), state);
            assert_whole(rx.read().unwrap());
            rx.outlive_peer(true);
            assert!(is_poll(bell.arm(&mut rx)));
            assert_eq!(rx.wait_newer_timeout(1, SOON).err(), Some(LatestError::TimedOut));
        }
    }
    cell.peer.superseded.store(true, Relaxed);
    let mut rx = cell.watcher::<Short>(0);
    rx.read().unwrap();
    assert_eq!(rx.wait_newer(1).err(), Some(LatestError::Superseded));
}

#[test]
fn a_cancelled_wait_ends_and_leaves_the_others_announced() {
    let cell = Cell::of::<Short>(2);
    let mut tx = cell.writer::<Short>();
    let mut armed = cell.watcher::<Short>(0);
    let bell = armed.doorbell_to_pass().unwrap();
    tx.ring_by(0, &bell).unwrap();
    for mode in MODES {
        assert!(is_poll(bell.arm(&mut armed)));
        let (mut reader, mut rx) = (cell.reader::<Short>(), cell.watcher::<Short>(1));
        let stops = [reader.canceller(), rx.canceller()];
        reader.wait_mode(mode);
        rx.wait_mode(mode);
        let since = tx.version();
        std::thread::scope(|scope| {
            let waiting = [
                scope.spawn(|| reader.wait_newer(since).err()),
                scope.spawn(|| rx.wait_newer(since).err()),
            ];
            std::thread::sleep(Duration::from_millis(3));
            stops.iter().for_each(|stop| stop.cancel());
            for waiting in waiting {
                assert_eq!(waiting.join().unwrap(), Some(LatestError::Cancelled));
            }
        });
        // The one in `poll` sleeps on, and is rung by the next write.
        assert!(!rung(&bell));
        assert_eq!((cell.sleepers() & 1, cell.sleeps(0)), (1, 2), "{mode:?}");
        tx.write(&value(since + 1)).unwrap();
        assert!(rung(&bell));
        bell.clear();
        armed.read().unwrap();
    }
}

#[test]
fn ends_in_a_forked_child_answer_forked_and_write_nothing() {
    let cell = Cell::of::<Short>(2);
    let mut tx = cell.writer::<Short>();
    let mut rx = cell.watcher::<Short>(0);
    tx.write(&value(1)).unwrap();
    let before = cell.view.snapshot();
    cell.peer.forks.fetch_add(1, Relaxed);
    assert_eq!(rx.read().err(), Some(LatestError::Forked));
    assert_eq!(rx.read_if_newer(0).err(), Some(LatestError::Forked));
    assert_eq!(rx.wait_newer(0).err(), Some(LatestError::Forked));
    assert_eq!(WaitAny::new().wait(&mut [&mut rx]), Ok(0), "there is something to tell");
    assert_eq!(rx.doorbell_to_pass().unwrap_err().kind(), ErrorKind::Forked);
    drop((tx, rx));
    assert_eq!(cell.view.snapshot(), before, "the child wrote into its parent's value");
}

#[test]
fn a_writer_killed_anywhere_in_a_write_costs_a_sleeping_watcher_its_slice_and_no_value() {
    fn check<const N: usize>(poll: bool) {
        let cell = Cell::of::<[u64; N]>(3);
        let mut tx = cell.writer::<[u64; N]>();
        tx.write(&value(1)).unwrap();
        // Two of three sleep when the second version is written.
        let asleep = if poll { 2 } else { 1 };
        for slot in [0, 2] {
            cell.view.word32(watcher(slot) + SLEEP).store(asleep, Relaxed);
        }
        cell.view.word32(SLEEPERS).store(1, Relaxed);
        let (_, left) = crashes(&cell.view, || tx.write(&value(2)).unwrap());
        let mut states = [0; 4];
        for view in &left {
            let left = cell.left(view);
            let (bit, words) = (left.sleepers() & 1, [left.sleeps(0), left.sleeps(2)]);
            let version = left.reader::<[u64; N]>().version();
            states[match (bit, words) {
                (1, [a, b]) => {
                    assert_eq!([a, b], [asleep; 2], "the common word is the first");
                    0
                }
                (_, [0, 0]) => 3,
                (_, [0, _]) => 2,
                (_, [_, _]) => 1,
            }] += 1;
            assert!(bit == 1 || version == 2, "nobody is woken before there is something");
        }
        assert!(states.iter().all(|count| *count > 0), "{states:?}");
        // Their slices end over what he left, without a wake: they find the value, or sleep again
        // and are woken by the successor.
        for view in &left {
            let here = Cell::of::<[u64; N]>(3);
            here.writer::<[u64; N]>().write(&value(1)).unwrap();
            std::thread::scope(|scope| {
                for slot in [0, 2] {
                    let mut rx = here.watcher::<[u64; N]>(slot);
                    rx.wait_mode(WaitMode::Block);
                    scope.spawn(move || {
                        let read = rx.wait_newer_timeout(1, PATIENCE).unwrap();
                        assert_eq!(read, Versioned { version: 2, value: value(2) });
                    });
                    here.wait_until_asleep(slot);
                }
                here.view.write(0, &view.snapshot());
                let mut tx = here.writer::<[u64; N]>();
                if tx.version() == 1 {
                    assert_eq!(tx.write(&value(2)), Ok(2));
                }
            });
        }
    }
    check::<1>(false);
    check::<1>(true);
    check::<8>(false);
}

#[test]
fn any_words_of_sleepers_are_answered_and_a_write_leaves_them_clear() {
    let words = [0, 1, 2, 3, 4, 1 << 31, u32::MAX - 1, u32::MAX];
    let mut checked = 0;
    for sleepers in words {
        for sleep in words {
            for writer_sleep in [0, 2, u32::MAX] {
                let cell = Cell::of::<Short>(2);
                let mut tx = cell.writer::<Short>();
                let mut rx = cell.watcher::<Short>(1);
                let bell = rx.doorbell_to_pass().unwrap();
                tx.ring_by(1, &bell).unwrap();
                let set = |at: usize, word| cell.view.word32(at).store(word, Relaxed);
                set(SLEEPERS, sleepers);
                set(watcher(1) + SLEEP, sleep);
                set(WRITER_SLEEP, writer_sleep);
                cell.view.store64(WRITER_UNFENCED, u64::from(sleep), Relaxed);
                cell.view.store64(watcher(1) + SEEN, u64::MAX, Relaxed);
                tx.write(&value(1)).unwrap();
                assert_eq!(cell.sleepers() & 1, 0);
                let announced = sleepers & 1 == 1;
                assert_eq!(cell.sleeps(1), if announced { 0 } else { sleep });
                assert_eq!(rung(&bell), announced && sleep == 2);
                assert_whole(rx.read_if_newer(0).unwrap().unwrap());
                assert_eq!(rx.wait_newer_timeout(1, SOON).err(), Some(LatestError::TimedOut));
                bell.clear();
                assert!(is_poll(bell.arm(&mut rx)));
                drop(tx);
                assert!(rung(&bell));
                drop(rx);
                checked += 1;
            }
        }
    }
    assert_eq!(checked, 192);
}

#[test]
fn watchers_under_a_peer_that_never_stops_lying_are_answered() {
    for mode in MODES {
        let cell = Cell::of::<Short>(3);
        let over = AtomicBool::new(false);
        let mut tx = cell.writer::<Short>();
        std::thread::scope(|scope| {
            let end = Over(&over);
            scope.spawn(|| {
                let mut random = Random(7);
                let stamps = interesting();
                while !over.load(Relaxed) {
                    let word = match random.next() % 3 {
                        0 => random.next(),
                        1 => stamps[(random.next() % stamps.len() as u64) as usize],
                        _ => random.next() % 4,
                    };
                    let words = match random.next() % 4 {
                        0 => cell.view.len() as u64,
                        _ => words_len(3) as u64,
                    };
                    cell.view.store64((random.next() % (words / 8)) as usize * 8, word, Relaxed);
                }
            });
            let mut any = WaitAny::new();
            any.wait_mode(mode);
            for round in 0..200 {
                let mut rx = cell.watcher::<Short>(round % 3);
                rx.wait_mode(mode);
                let _ = tx.write(&value(u64::from(round)));
                let _ = (rx.read(), rx.read_if_newer(rx.seen()), rx.stats());
                let wait = Duration::from_micros(u64::from(round));
                let _ = rx.wait_newer_timeout(rx.seen(), wait);
                let mut beside = cell.watcher::<Short>((round + 1) % 3);
                let _ = any.wait_timeout(&mut [&mut rx, &mut beside], wait);
                let bell = rx.doorbell_to_pass().unwrap();
                tx.ring_by(rx.place(), &bell).unwrap();
                let _ = bell.arm(&mut rx);
                let _ = tx.write(&value(u64::from(round)));
            }
            drop(end);
        });
    }
}

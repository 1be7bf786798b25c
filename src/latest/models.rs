//! Models of latest values; how they are run is told in `ring::models`.

use super::layout::{Geometry, words_len};
use super::raw::ReaderParts;
use super::writer::WriterParts;
use super::{LatestError, LatestReader, LatestWatcher, LatestWriter, Versioned};
use crate::view::View;
use crate::wait::WaitMode;
use crate::wait::modelling::{Lives, Tally, Who, explore, explore_deaths, stats};
use loom::thread::spawn;

const WRITER: Who = (0, 0);
const WATCHER: Who = (1, 0);

/// Words of a value that has a line of its own and a spare one.
const SHORT: usize = 2;
/// Words of a value that has a row of places.
const LONG: usize = 8;

#[derive(Clone)]
struct Cell {
    control: View,
    payload: View,
    geometry: Geometry,
    lives: Lives,
}

fn value<const N: usize>(version: u64) -> [u64; N] {
    core::array::from_fn(|i| version.wrapping_mul(2 * i as u64 + 1))
}

#[track_caller]
fn whole<const N: usize>(read: Versioned<[u64; N]>) -> u64 {
    assert_eq!(read.value, value(read.version), "a torn value");
    read.version
}

impl Cell {
    fn of<const N: usize>() -> Self {
        let geometry = Geometry::new(8 * N, 2).unwrap();
        let control = View::modelled_control(words_len(1), 32);
        let payload = View::modelled_payload(geometry.bytes());
        Self { control, payload, geometry, lives: Lives::of(1, 1) }
    }

    fn writer<const N: usize>(&self) -> LatestWriter<[u64; N]> {
        let (control, payload) = (self.control.clone(), self.payload.clone());
        let link = self.lives.claim(WRITER);
        let parts = WriterParts { control, payload, watchers: 1, stats: stats(), link };
        LatestWriter::attach(parts, self.geometry).unwrap()
    }

    fn reader<const N: usize>(&self) -> LatestReader<[u64; N]> {
        let (control, payload) = (self.control.clone(), self.payload.clone());
        let parts = ReaderParts { control, payload, link: self.lives.onlooker(WATCHER) };
        let mut end = LatestReader::attach(parts, self.geometry).unwrap();
        end.wait_mode(WaitMode::Block);
        end
    }

    fn watcher<const N: usize>(&self) -> LatestWatcher<[u64; N]> {
        let (control, payload) = (self.control.clone(), self.payload.clone());
        let parts = ReaderParts { control, payload, link: self.lives.claim(WATCHER) };
        let mut end = LatestWatcher::claim(parts, stats(), 0, self.geometry).unwrap();
        end.wait_mode(WaitMode::Block);
        end
    }
}

fn is_never_torn<const N: usize>(name: &str) {
    explore(name, 2, || {
        let cell = Cell::of::<N>();
        let mut tx = cell.writer::<N>();
        let mut rx = cell.reader::<N>();
        tx.write(&value(1)).unwrap();
        let writer = spawn(move || {
            for version in 2..4 {
                tx.write(&value(version)).unwrap();
            }
        });
        let seen = rx.read().map(whole).unwrap();
        assert!((1..4).contains(&seen));
        writer.join().unwrap();
        assert_eq!(rx.read().map(whole), Ok(3));
    });
}

#[test]
fn a_short_value_is_never_torn() {
    is_never_torn::<SHORT>("latest value in a line");
}

#[test]
fn a_long_value_is_never_torn() {
    is_never_torn::<LONG>("latest value in a row");
}

#[test]
fn readers_and_watchers_that_sleep_are_woken_for_the_last_value() {
    explore("latest value, a reader and a watcher asleep", 2, || {
        let cell = Cell::of::<SHORT>();
        let mut tx = cell.writer::<SHORT>();
        let (mut rx, mut watcher) = (cell.reader::<SHORT>(), cell.watcher::<SHORT>());
        let writer = spawn(move || tx.write(&value(1)).unwrap());
        let other = spawn(move || {
            let read = watcher.wait_newer(0).map(whole);
            (read, watcher.wait_newer(1).map(whole))
        });
        assert_eq!(rx.wait_newer(0).map(whole), Ok(1));
        assert_eq!(rx.wait_newer(1).map(whole), Err(LatestError::Closed));
        assert_eq!(other.join().unwrap(), (Ok(1), Err(LatestError::Closed)));
        writer.join().unwrap();
    });
}

fn the_writer_may_die<const N: usize>(name: &str) {
    explore_deaths(name, 1, |death| {
        let cell = Cell::of::<N>();
        let mut rx = cell.reader::<N>();
        let sure = Tally::default();
        let writer = {
            let (cell, sure) = (cell.clone(), sure.clone());
            spawn(move || {
                death.befalls(&cell.lives, WRITER, || {
                    let mut tx = cell.writer::<N>();
                    for version in 1..3 {
                        tx.write(&value(version)).unwrap();
                        sure.add();
                    }
                })
            })
        };
        let mut seen = 0;
        let end = loop {
            match rx.wait_newer(seen) {
                Ok(read) => seen = whole(read),
                Err(end) => break end,
            }
        };
        assert!(matches!(end, LatestError::PeerDied | LatestError::Closed), "{end}");
        writer.join().unwrap();
        assert!(seen == sure.get() || seen == sure.get() + 1, "{seen} after {}", sure.get());
        let mut tx = cell.writer::<N>();
        assert_eq!(tx.version(), seen);
        for version in seen + 1..seen + 4 {
            assert_eq!(tx.write(&value(version)), Ok(version));
            assert_eq!(rx.read().map(whole), Ok(version));
        }
    });
}

#[test]
fn the_writer_of_a_short_value_may_die_at_any_access() {
    the_writer_may_die::<SHORT>("latest value in a line, its writer dies");
}

#[test]
fn the_writer_of_a_long_value_may_die_at_any_access() {
    the_writer_may_die::<LONG>("latest value in a row, its writer dies");
}

//! The promises of latest values: whole at every store, at every interleaving, under every lie.

use super::error::{AttachError, BAD_STAMP, BOTH_UNFINISHED, NOT_IN_ITS_PLACE, WENT_BACK};
use super::layout::{
    CONTROL_LEN, FRONT, Geometry, NEWEST, SLEEPERS, SPARE, VERSION_LIMIT, place_in_row, unfinished,
    whole,
};
use super::raw::{RawLatestReader, ReaderParts};
use super::writer::WriterParts;
use super::{LatestError, LatestReader, LatestWriter, Versioned};
use crate::peer::PeerState;
use crate::stats::{LINE_LEN, StatsWriter};
use crate::view::{View, steps};
use crate::wait::WaitMode;
use crate::wait::testing::{FakeLink, Peer, crashes};
use bytemuck::{AnyBitPattern, NoUninit};
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Fills the line of a short value; its words belong together.
pub(super) type Short = [u64; 7];
/// Has a row of places.
type Long = [u64; 20];

pub(super) const MODES: [WaitMode; 4] =
    [WaitMode::Spin, WaitMode::Yield, WaitMode::Adaptive, WaitMode::Block];
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn geometry<T>(places: u64) -> Geometry {
    Geometry::new(size_of::<T>(), places).unwrap()
}

/// A value that was never written.
fn cell<T>(places: u64) -> View {
    View::heap(CONTROL_LEN + geometry::<T>(places).bytes())
}

fn windows(view: &View) -> (View, View) {
    let control = view.window(0, CONTROL_LEN).unwrap();
    (control, view.window(CONTROL_LEN, view.len() - CONTROL_LEN).unwrap())
}

fn writer_parts(view: &View, peer: &Arc<Peer>) -> WriterParts {
    let (control, payload) = windows(view);
    let stats = StatsWriter::attach(View::heap(LINE_LEN)).unwrap();
    let link = Box::new(FakeLink(Arc::clone(peer)));
    WriterParts { control, payload, watchers: 0, stats, link }
}

fn reader_parts(view: &View, peer: &Arc<Peer>) -> ReaderParts {
    let (control, payload) = windows(view);
    ReaderParts { control, payload, link: Box::new(FakeLink(Arc::clone(peer))) }
}

fn try_writer<T: NoUninit>(view: &View, places: u64) -> Result<LatestWriter<T>, AttachError> {
    LatestWriter::attach(writer_parts(view, &Peer::alive()), geometry::<T>(places))
}

fn writer<T: NoUninit>(view: &View, places: u64) -> LatestWriter<T> {
    try_writer(view, places).unwrap()
}

fn reader<T: AnyBitPattern>(view: &View, places: u64) -> LatestReader<T> {
    LatestReader::attach(reader_parts(view, &Peer::alive()), geometry::<T>(places)).unwrap()
}

/// The value of a version; its words tell each other apart.
pub(super) fn value<const N: usize>(version: u64) -> [u64; N] {
    core::array::from_fn(|i| version.wrapping_mul(2 * i as u64 + 1) ^ (i as u64) << 56)
}

#[track_caller]
pub(super) fn assert_whole<const N: usize>(read: Versioned<[u64; N]>) {
    assert!(read.value == value(read.version), "version {} is torn", read.version);
}

/// Bytes on the heap: a stack has no room for the longest value.
fn zeroed<const N: usize>() -> Box<[u8; N]> {
    vec![0; N].into_boxed_slice().try_into().unwrap()
}

fn set(view: &View, offset: usize, stamp: u64) {
    view.store64(CONTROL_LEN + offset, stamp, Relaxed);
}

#[test]
fn ends_go_to_other_threads() {
    fn goes<T: Send + 'static>() {}
    goes::<LatestWriter<Short>>();
    goes::<LatestReader<Short>>();
}

#[test]
fn every_version_is_read_as_it_was_written() {
    fn check<const N: usize>(places: u64) {
        let view = cell::<[u64; N]>(places);
        let (mut tx, mut rx) =
            (writer::<[u64; N]>(&view, places), reader::<[u64; N]>(&view, places));
        assert_eq!(rx.read().err(), Some(LatestError::NeverWritten));
        assert_eq!(rx.read_if_newer(0), Ok(None));
        assert_eq!((rx.version(), rx.seen(), tx.version()), (0, 0, 0));
        for version in 1..100 {
            assert_eq!(tx.write(&value(version)), Ok(version));
            assert_eq!((rx.version(), rx.seen()), (version, version - 1));
            let read = rx.read_if_newer(version - 1).unwrap().unwrap();
            assert_eq!(read, Versioned { version, value: value(version) });
            assert_eq!(rx.read_if_newer(version), Ok(None));
            assert_eq!(rx.read(), Ok(read), "a value stays until there is another");
            assert_eq!((rx.seen(), tx.version()), (version, version));
        }
        let stats = tx.stats();
        assert_eq!((stats.messages, stats.bytes, stats.wakes), (99, 99 * 8 * N as u64, 0));
    }
    check::<1>(2);
    check::<7>(2);
    for places in 2..9 {
        check::<8>(places);
        check::<20>(places);
        check::<200>(places);
    }
}

fn raw_reader<T>(view: &View, places: u64) -> RawLatestReader {
    RawLatestReader::attach(reader_parts(view, &Peer::alive()), geometry::<T>(places)).unwrap()
}

#[test]
fn a_reader_by_bytes_reads_what_one_with_a_type_does() {
    fn check<const N: usize>(places: u64) {
        let view = cell::<[u64; N]>(places);
        let (mut tx, mut rx) =
            (writer::<[u64; N]>(&view, places), raw_reader::<[u64; N]>(&view, places));
        let mut bytes = vec![0; 8 * N];
        assert_eq!((rx.size(), rx.read(&mut bytes)), (8 * N, Err(LatestError::NeverWritten)));
        assert_eq!(rx.read_if_newer(0, &mut bytes), Ok(None));
        for version in 1..20 {
            assert_eq!(tx.write(&value(version)), Ok(version));
            assert_eq!((rx.version(), rx.seen()), (version, version - 1));
            assert_eq!(rx.read_if_newer(version - 1, &mut bytes), Ok(Some(version)));
            assert!(bytes == bytemuck::bytes_of(&value::<N>(version)));
            assert_eq!(rx.read_if_newer(version, &mut bytes), Ok(None));
            bytes.fill(0);
            assert_eq!(rx.wait_newer(version - 1, &mut bytes), Ok(version));
            assert!(bytes == bytemuck::bytes_of(&value::<N>(version)));
            let soon = Duration::from_millis(1);
            let waited = rx.wait_newer_timeout(version, &mut bytes, soon);
            assert_eq!(waited, Err(LatestError::TimedOut));
            assert_eq!(rx.wait_version(version - 1, None), Ok(version));
        }
        for len in [0, 8 * N - 1, 8 * N + 1] {
            let refused = LatestError::WrongSize { len, size: 8 * N };
            assert_eq!(rx.read(&mut vec![0; len]), Err(refused));
        }
        rx.canceller().cancel();
        assert_eq!(rx.wait_newer(19, &mut bytes), Err(LatestError::Cancelled));
        set(&view, NEWEST, whole(3));
        if N > 7 {
            assert_eq!(rx.read(&mut bytes), Err(LatestError::Corrupt(NOT_IN_ITS_PLACE)));
        } else {
            assert_eq!(rx.read(&mut bytes), Err(LatestError::Corrupt(WENT_BACK)));
        }
    }
    check::<1>(2);
    check::<7>(2);
    check::<8>(5);
    check::<200>(8);
}

#[test]
fn values_of_every_length_come_whole() {
    fn check<const N: usize>(places: u64) {
        let view = cell::<[u8; N]>(places);
        let (mut tx, mut rx) = (writer(&view, places), reader(&view, places));
        let (mut source, mut target) = (zeroed::<N>(), zeroed::<N>());
        for version in 1..6_u8 {
            source.fill(version);
            assert_eq!(tx.write(&*source), Ok(u64::from(version)));
            target.fill(0);
            assert_eq!(rx.read_into(&mut *target), Ok(u64::from(version)));
            assert!(source == target, "{N} bytes");
        }
    }
    check::<0>(2);
    check::<1>(2);
    check::<8>(2);
    check::<13>(2);
    check::<56>(2);
    check::<57>(8);
    check::<64>(8);
    check::<1023>(8);
    check::<1024>(8);
    check::<4096>(3);
    check::<{ 1 << 20 }>(4);
}

/// What a writer leaves that is killed behind each store of the write of version `last`, the
/// whole write included.
fn killed_in_write<const N: usize>(places: u64, last: u64) -> Vec<View> {
    let view = cell::<[u64; N]>(places);
    let mut tx = writer::<[u64; N]>(&view, places);
    for version in 1..last {
        tx.write(&value(version)).unwrap();
    }
    let (written, left) = crashes(&view, || tx.write(&value(last)));
    assert_eq!(written, Ok(last));
    assert!(left.len() > N + 3, "every word and stamp is a store");
    left
}

#[test]
fn a_writer_killed_at_any_store_leaves_the_old_value_or_the_new_one_and_a_successor_goes_on() {
    fn check<const N: usize>(places: u64, last: u64) {
        let mut seen = [0; 2];
        let mut newest = last - 1;
        for view in killed_in_write::<N>(places, last) {
            let mut rx = reader::<[u64; N]>(&view, places);
            let before = rx.read();
            let version = match before {
                Ok(read) => {
                    assert_whole(read);
                    read.version
                }
                Err(error) => {
                    assert_eq!((error, last), (LatestError::NeverWritten, 1));
                    0
                }
            };
            assert!(version == last || version == last - 1 && newest == version, "{version}");
            assert_eq!(rx.version(), version);
            newest = version;
            seen[usize::from(version == last)] += 1;
            // The successor changes nothing that can be read, killed at whichever store.
            let (tx, left) = crashes(&view, || try_writer::<[u64; N]>(&view, places));
            for view in left {
                let mut rx = reader::<[u64; N]>(&view, places);
                assert_eq!(rx.read(), before);
                let mut tx = writer::<[u64; N]>(&view, places);
                assert_eq!(tx.write(&value(version + 1)), Ok(version + 1));
                assert_whole(rx.read().unwrap());
            }
            let mut tx = tx.unwrap();
            assert_eq!(tx.version(), version);
            // Nor do the deaths of its first writes, with a reader that saw the dead one's value.
            for next in version + 1..version + 1 + places {
                let (written, left) = crashes(&view, || tx.write(&value(next)));
                assert_eq!(written, Ok(next));
                for view in left {
                    let read = reader::<[u64; N]>(&view, places).read();
                    match read {
                        Ok(read) => {
                            assert!(read.version == next || read.version == next - 1);
                            assert_whole(read);
                        }
                        Err(error) => assert_eq!((error, next), (LatestError::NeverWritten, 1)),
                    }
                    try_writer::<[u64; N]>(&view, places).expect("it can be taken over");
                }
                assert_eq!(rx.read(), Ok(Versioned { version: next, value: value(next) }));
            }
        }
        assert!(seen[0] > N && seen[1] > 0, "{seen:?}");
    }
    for last in 1..4 {
        check::<1>(2, last);
        check::<7>(2, last);
        for places in 2..4 {
            check::<8>(places, last);
            check::<20>(places, last + 2);
        }
    }
}

/// The states of memory between all stores of `writes` writes from version 1 on; behind each third
/// the writer is followed by another, and every fifth is killed half-way first.
fn history<const N: usize>(places: u64, writes: u64) -> Vec<Vec<u8>> {
    let view = cell::<[u64; N]>(places);
    let mut tx = writer::<[u64; N]>(&view, places);
    let mut states = vec![view.snapshot()];
    for version in 1..=writes {
        let (_, left) = crashes(&view, || tx.write(&value(version)).unwrap());
        let mut left: Vec<_> = left.iter().map(View::snapshot).collect();
        if version % 5 == 0 {
            // Half-way through; nobody knows this value of the version.
            left.truncate(left.len() / 3);
            view.write(0, left.last().unwrap());
            states.append(&mut left);
            tx = writer(&view, places);
            let (_, left) = crashes(&view, || tx.write(&value(version)).unwrap());
            states.extend(left.iter().map(View::snapshot));
            continue;
        }
        states.append(&mut left);
        if version % 3 == 0 {
            let (next, left) = crashes(&view, || writer(&view, places));
            states.extend(left.iter().map(View::snapshot));
            tx = next;
        }
    }
    states.dedup();
    states
}

/// A reader that loads word by word, so that a writer can go on between any two.
fn read_by_words<const N: usize>(
    rx: &mut LatestReader<[u64; N]>,
) -> Result<Versioned<[u64; N]>, LatestError> {
    let (version, value) =
        rx.read_by(|view, at| core::array::from_fn(|i| view.load64(at + 8 * i, Relaxed)))?;
    Ok(Versioned { version, value })
}

/// Reads while memory goes through `states`, `advance` of them before each load; how many reads
/// were a value, and the states passed.
fn read_through<const N: usize>(
    places: u64,
    states: &Arc<Vec<Vec<u8>>>,
    mut advance: impl FnMut() -> usize + 'static,
    reads: usize,
) -> usize {
    let view = View::of(&states[0]);
    let mut rx = reader::<[u64; N]>(&view, places);
    let (mut at, all, memory) = (0, Arc::clone(states), view.clone());
    let meddler = move || {
        let next = (at + advance()).min(all.len() - 1);
        if next != at {
            at = next;
            memory.write(0, &all[at]);
        }
    };
    steps::meddle(meddler, || {
        let mut last = 0;
        let mut values = 0;
        for _ in 0..reads {
            match read_by_words(&mut rx) {
                Ok(read) => {
                    assert_whole(read);
                    assert!(read.version >= last, "{} behind {last}", read.version);
                    last = read.version;
                    values += 1;
                }
                Err(error) => assert_eq!((error, last), (LatestError::NeverWritten, 0)),
            }
        }
        values
    })
}

#[test]
fn reads_that_run_into_writes_anywhere_are_whole_and_never_go_back() {
    /// Every way in which `left` more stores fall between `loads` loads.
    fn ways(loads: usize, left: usize, way: &mut Vec<usize>, each: &mut impl FnMut(&[usize])) {
        if loads == 0 {
            return each(way);
        }
        for advance in 0..=left {
            way.push(advance);
            ways(loads - 1, left - advance, way, each);
            way.pop();
        }
    }
    /// Behind the last of `loads` loads each other one brings `rest` more stores.
    fn check<const N: usize>(places: u64, stores: usize, loads: usize, rest: usize) {
        let all = history::<N>(places, 4);
        let states = Arc::new(all[all.len() - 1 - stores..].to_vec());
        let mut count = 0;
        ways(loads, stores, &mut Vec::new(), &mut |way| {
            let mut way: Vec<usize> = way.iter().rev().copied().collect();
            let advance = move || way.pop().unwrap_or(rest);
            assert_eq!(read_through::<N>(places, &states, advance, 2), 2);
            count += 1;
        });
        eprintln!("{N} words, {places} places: {count} ways");
        assert!(count > 450);
    }
    check::<1>(2, 13, 5, 1);
    check::<2>(2, 16, 4, 1);
    check::<8>(2, 22, 3, 1);
    check::<8>(3, 22, 3, 1);
    // Two whole writes and more fit between a look at the newest stamp and one at its place.
    check::<8>(2, 30, 2, 0);
    check::<9>(2, 32, 2, 0);
}

/// Ends what other threads do when it goes, also by a panic.
pub(super) struct Over<'a>(pub(super) &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// SplitMix64.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[test]
fn reads_among_many_writes_takeovers_and_deaths_are_whole_and_never_go_back() {
    fn check<const N: usize>(places: u64) {
        let states = Arc::new(history::<N>(places, 40));
        let mut values = 0;
        for seed in 0..300 {
            let mut random = Random(seed);
            // From one store per three loads up to many per load.
            let (often, far) = (seed % 3 + 1, seed % 23 + 1);
            let advance = move || {
                let go = random.next() % 3 < often;
                if go { (random.next() % far) as usize } else { 0 }
            };
            values += read_through::<N>(places, &states, advance, 100);
        }
        assert!(values > 25_000, "{values}");
    }
    check::<1>(2);
    check::<7>(2);
    check::<8>(2);
    check::<8>(3);
    check::<20>(5);
}

#[test]
fn a_copy_that_is_overtaken_begins_anew() {
    fn check<const N: usize>(places: u64, writes: u64) {
        let view = cell::<[u64; N]>(places);
        let (mut tx, mut rx) =
            (writer::<[u64; N]>(&view, places), reader::<[u64; N]>(&view, places));
        let mut version = tx.write(&value::<N>(1)).unwrap();
        let mut copies = 0;
        let read = rx.read_by(|view, at| {
            let first = view.load64(at, Relaxed);
            copies += 1;
            if copies < 6 {
                // The reader is stopped here for some writes.
                for _ in 0..writes {
                    version = tx.write(&value(version + 1)).unwrap();
                }
            }
            let mut words = [first; N];
            for (i, word) in words.iter_mut().enumerate().skip(1) {
                *word = view.load64(at + 8 * i, Relaxed);
            }
            words
        });
        let (read, words) = read.unwrap();
        assert_eq!(words, value(read));
        assert_eq!((read, copies), (version, 6));
    }
    check::<7>(2, 1);
    check::<7>(2, 5);
    check::<20>(2, 2);
    check::<20>(4, 4);
    // One that is slow, but not too slow, is not overtaken.
    let view = cell::<Long>(4);
    let (mut tx, mut rx) = (writer::<Long>(&view, 4), reader::<Long>(&view, 4));
    tx.write(&value(1)).unwrap();
    let read = rx.read_by(|view, at| {
        for version in 2..5 {
            tx.write(&value(version)).unwrap();
        }
        view.read_checked::<Long>(at).unwrap()
    });
    assert_eq!(read, Ok((1, value(1))));
}

#[test]
fn a_writer_that_overtakes_every_copy_is_contended_and_the_next_read_goes_well() {
    for overtakes in [true, false] {
        let view = cell::<Short>(2);
        let (mut tx, mut rx) = (writer::<Short>(&view, 2), reader::<Short>(&view, 2));
        tx.write(&value(1)).unwrap();
        let read = rx.read_by(|_, _| {
            if overtakes {
                tx.write(&value(tx.version() + 1)).unwrap();
            }
        });
        assert_eq!(read, if overtakes { Err(LatestError::Contended) } else { Ok((1, ())) });
        assert_whole(rx.read().unwrap());
    }
    let view = cell::<Long>(2);
    let (mut tx, mut rx) = (writer::<Long>(&view, 2), reader::<Long>(&view, 2));
    tx.write(&value(1)).unwrap();
    let read = rx.read_by(|_, _| {
        for _ in 0..2 {
            tx.write(&value(tx.version() + 1)).unwrap();
        }
    });
    assert_eq!(read, Err(LatestError::Contended));
    assert_whole(rx.read().unwrap());
}

#[test]
fn an_update_changes_what_was_written_last_by_whomever() {
    fn check<const N: usize>(places: u64) {
        let view = cell::<[u64; N]>(places);
        let mut tx = writer::<[u64; N]>(&view, places);
        assert_eq!(tx.update(|_| panic!("of nothing")), Err(LatestError::NeverWritten));
        tx.write(&value(1)).unwrap();
        for version in 2..20 {
            assert_eq!(tx.update(|value| value[0] += 1), Ok(version));
            tx = writer(&view, places);
        }
        let read = reader::<[u64; N]>(&view, places).read().unwrap();
        assert_eq!((read.version, read.value[0]), (19, value::<N>(1)[0] + 18));
        assert_eq!(read.value[1..], value::<N>(1)[1..]);
    }
    check::<7>(2);
    check::<20>(3);
}

#[test]
fn a_reader_of_a_smaller_type_reads_the_front_and_bad_bits_are_no_value() {
    for places in [2, 4] {
        let view = cell::<Long>(places);
        let mut tx = writer::<Long>(&view, places);
        tx.write(&value(5)).unwrap();
        let parts = reader_parts(&view, &Peer::alive());
        let mut rx = LatestReader::<u64>::attach(parts, geometry::<Long>(places)).unwrap();
        let (version, first) = (1, value::<20>(5)[0]);
        assert_eq!(rx.read(), Ok(Versioned { version, value: first }));
        let parts = reader_parts(&view, &Peer::alive());
        let too_long = LatestReader::<[u64; 21]>::attach(parts, geometry::<Long>(places));
        assert_eq!(too_long.err(), Some(AttachError::Geometry));
    }
    let view = cell::<u8>(2);
    let mut tx = writer::<u8>(&view, 2);
    let parts = reader_parts(&view, &Peer::alive());
    let mut rx = LatestReader::<bool>::attach(parts, geometry::<u8>(2)).unwrap();
    for (bits, read) in
        [(1, Ok(true)), (2, Err(LatestError::InvalidValue { version: 2 })), (0, Ok(false))]
    {
        tx.write(&bits).unwrap();
        assert_eq!(rx.read().map(|read| read.value), read);
    }
}

/// The stamps that something may be taken for.
pub(super) fn interesting() -> Vec<u64> {
    let mut stamps: Vec<u64> = (0..24).collect();
    for version in [1 << 31, 1 << 32, VERSION_LIMIT - 1, VERSION_LIMIT] {
        stamps.extend([whole(version), unfinished(version), whole(version) + 1]);
    }
    stamps.extend([u64::MAX, u64::MAX - 1, 1 << 63, (1 << 63) - 1]);
    stamps
}

#[test]
fn any_stamps_of_a_short_value_are_a_value_or_an_error_for_both_ends() {
    let (mut values, mut corrupt, mut taken) = (0, 0, 0);
    for front in interesting() {
        for spare in interesting() {
            let view = cell::<Short>(2);
            let (mut tx, mut rx) = (writer::<Short>(&view, 2), reader::<Short>(&view, 2));
            tx.write(&value(1)).unwrap();
            rx.read().unwrap();
            set(&view, FRONT.stamp, front);
            set(&view, SPARE.stamp, spare);
            match rx.read() {
                Ok(_) => values += 1,
                Err(LatestError::Corrupt(what)) => {
                    assert!([BOTH_UNFINISHED, WENT_BACK].contains(&what));
                    corrupt += 1;
                }
                Err(error) => panic!("{front:#x} {spare:#x}: {error:?}"),
            }
            let _ = (rx.version(), rx.read_if_newer(1));
            match rx.wait_newer_timeout(rx.seen(), Duration::ZERO) {
                Ok(_) | Err(LatestError::TimedOut | LatestError::Corrupt(_)) => {}
                Err(error) => panic!("{front:#x} {spare:#x}: {error:?}"),
            }
            match try_writer::<Short>(&view, 2) {
                Ok(mut tx) => {
                    taken += 1;
                    let next = tx.version() + 1;
                    assert_eq!(tx.write(&value(next)), Ok(next));
                    let read = reader::<Short>(&view, 2).read();
                    assert_eq!(read, Ok(Versioned { version: next, value: value(next) }));
                }
                Err(error) => {
                    let known = [BAD_STAMP, BOTH_UNFINISHED].map(AttachError::Corrupt);
                    assert!(known.contains(&error));
                }
            }
            // An end that is there already goes on, too.
            assert_eq!(tx.write(&value(2)), Ok(2));
            let read = reader::<Short>(&view, 2).read();
            assert_eq!(read, Ok(Versioned { version: 2, value: value(2) }));
        }
    }
    assert!(values > 500 && corrupt > 200 && taken > 40, "{values} {corrupt} {taken}");
}

#[test]
fn any_stamps_of_a_long_value_are_a_value_or_an_error_for_both_ends() {
    let (mut values, mut corrupt, mut taken) = (0, 0, 0);
    for newest in interesting() {
        for at in 0..3 {
            for other in interesting() {
                let view = cell::<Long>(3);
                let (mut tx, mut rx) = (writer::<Long>(&view, 3), reader::<Long>(&view, 3));
                tx.write(&value(1)).unwrap();
                rx.read().unwrap();
                set(&view, NEWEST, newest);
                set(&view, place_in_row(160, 3, 256, at).stamp, other);
                match rx.read() {
                    Ok(_) => values += 1,
                    Err(LatestError::Corrupt(what)) => {
                        assert!([BAD_STAMP, NOT_IN_ITS_PLACE, WENT_BACK].contains(&what));
                        corrupt += 1;
                    }
                    Err(error) => panic!("{newest:#x} {other:#x}: {error:?}"),
                }
                let _ =
                    (rx.version(), rx.read_if_newer(1), rx.wait_newer_timeout(0, Duration::ZERO));
                match try_writer::<Long>(&view, 3) {
                    Ok(mut tx) => {
                        taken += 1;
                        let next = tx.version() + 1;
                        assert_eq!(tx.write(&value(next)), Ok(next));
                        assert_whole(reader::<Long>(&view, 3).read().unwrap());
                    }
                    Err(AttachError::Corrupt(what)) => {
                        assert!([BAD_STAMP, NOT_IN_ITS_PLACE].contains(&what));
                    }
                    Err(error) => panic!("{error:?}"),
                }
                assert_eq!(tx.write(&value(2)), Ok(2));
                assert_whole(reader::<Long>(&view, 3).read().unwrap());
            }
        }
    }
    assert!(values > 50 && corrupt > 1000 && taken > 50, "{values} {corrupt} {taken}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// A peer that stores anything anywhere between any two calls.
    #[test]
    fn a_lying_peer_gets_an_error_or_a_value_and_nothing_else(
        short in any::<bool>(),
        steps in prop::collection::vec(
            (0..8u8, any::<prop::sample::Index>(), prop_oneof![
                any::<u64>(),
                0..40u64,
                prop::sample::select(interesting()),
            ]),
            1..60,
        ),
    ) {
        fn run<const N: usize>(steps: Vec<(u8, prop::sample::Index, u64)>) {
            let view = cell::<[u64; N]>(3);
            let (mut tx, mut rx) = (try_writer::<[u64; N]>(&view, 3).ok(), reader(&view, 3));
            for (step, at, word) in steps {
                match step {
                    0 => view.store64(at.index(view.len() / 8) * 8, word, Relaxed),
                    1 => set(&view, NEWEST, word),
                    2 => set(&view, [FRONT, SPARE][at.index(2)].stamp, word),
                    3 => drop(tx.as_mut().map(|tx| tx.write(&value(word)))),
                    4 => drop(tx.as_mut().map(|tx| tx.update(|value| value[0] ^= word))),
                    5 => tx = try_writer(&view, 3).ok(),
                    6 => {
                        let _: Result<Versioned<[u64; N]>, _> = rx.read();
                        let _ = (rx.read_if_newer(word), rx.version(), rx.seen());
                    }
                    _ => {
                        rx = reader(&view, 3);
                        let _ = rx.wait_newer_timeout(word, Duration::ZERO);
                    }
                }
            }
        }
        if short { run::<7>(steps) } else { run::<20>(steps) }
    }
}

#[test]
fn values_under_a_peer_that_never_stops_lying_are_answered() {
    fn check<const N: usize>(mode: WaitMode) {
        let view = cell::<[u64; N]>(3);
        let over = AtomicBool::new(false);
        let lie = |seed| {
            let mut random = Random(seed);
            let stamps = interesting();
            while !over.load(Relaxed) {
                let word = match random.next() % 3 {
                    0 => random.next(),
                    1 => stamps[(random.next() % stamps.len() as u64) as usize],
                    _ => random.next() % 30,
                };
                let words = view.len() as u64 / 8;
                view.store64((random.next() % words) as usize * 8, word, Relaxed);
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| lie(N as u64));
            let _over = Over(&over);
            let writing = scope.spawn(|| {
                for round in 0..200 {
                    let Ok(mut tx) = try_writer::<[u64; N]>(&view, 3) else { continue };
                    for n in 0..50 {
                        assert!(tx.write(&value(round * n)).is_ok());
                        let _ = tx.update(|value| value[0] ^= 1);
                    }
                }
            });
            let mut rx = reader::<[u64; N]>(&view, 3);
            rx.wait_mode(mode);
            for round in 0..300 {
                let _ = (rx.read(), rx.read_if_newer(round), rx.version());
                let _ = rx.wait_newer_timeout(rx.seen(), Duration::from_micros(round));
                if round % 10 == 0 {
                    rx = reader(&view, 3);
                    rx.wait_mode(mode);
                }
            }
            writing.join().unwrap();
        });
    }
    for mode in MODES {
        check::<7>(mode);
        check::<20>(mode);
    }
}

#[test]
fn short_misaligned_or_read_only_windows_make_no_end() {
    fn check<const N: usize>(places: u64) {
        let view = cell::<[u64; N]>(places);
        let (control, payload) = windows(&view);
        let geometry = geometry::<[u64; N]>(places);
        let peer = Peer::alive();
        let reading = |control: &View, payload: &View| {
            let (control, payload) = (control.clone(), payload.clone());
            let link = Box::new(FakeLink(Arc::clone(&peer)));
            let parts = ReaderParts { control, payload, link };
            LatestReader::<[u64; N]>::attach(parts, geometry).err()
        };
        let writing = |control: &View, payload: &View| {
            let mut parts = writer_parts(&view, &peer);
            (parts.control, parts.payload) = (control.clone(), payload.clone());
            LatestWriter::<[u64; N]>::attach(parts, geometry).err()
        };
        let short = control.window(0, CONTROL_LEN - 8).unwrap();
        let less = payload.window(0, payload.len() - 8).unwrap();
        let askew = view.window(CONTROL_LEN - 8, payload.len()).unwrap();
        for (control, payload) in [(&short, &payload), (&control, &less), (&control, &askew)] {
            assert_eq!(reading(control, payload), Some(AttachError::Geometry));
            assert_eq!(writing(control, payload), Some(AttachError::Geometry));
        }
        let (fixed, sealed) =
            (View::heap_read_only(CONTROL_LEN), View::heap_read_only(payload.len()));
        assert_eq!(writing(&fixed, &payload), Some(AttachError::ReadOnly));
        assert_eq!(writing(&control, &sealed), Some(AttachError::ReadOnly));
        assert_eq!(reading(&fixed, &sealed), None, "a reader needs no more");
    }
    check::<7>(2);
    check::<20>(4);
}

#[test]
fn the_end_of_the_writer_ends_a_wait_and_not_the_value() {
    let view = cell::<Short>(2);
    let peer = Peer::alive();
    let parts = reader_parts(&view, &peer);
    let mut rx = LatestReader::<Short>::attach(parts, geometry::<Short>(2)).unwrap();
    writer(&view, 2).write(&value::<7>(1)).unwrap();
    for mode in MODES {
        rx.wait_mode(mode);
        for (state, error) in
            [(PeerState::Dead, LatestError::PeerDied), (PeerState::Closed, LatestError::Closed)]
        {
            peer.becomes(PeerState::Alive);
            let soon = Duration::from_millis(1);
            assert_eq!(rx.wait_newer_timeout(1, soon).err(), Some(LatestError::TimedOut));
            peer.becomes(state);
            assert_eq!(rx.wait_newer(1).err(), Some(error), "{mode:?}");
            assert_eq!(rx.wait_version(1, None), Err(error), "{mode:?}");
            assert_eq!(rx.peer(), state);
            assert_whole(rx.read().unwrap());
            assert_whole(rx.wait_newer(0).unwrap());
        }
        rx.outlive_peer(true);
        let soon = Duration::from_millis(60);
        assert_eq!(rx.wait_newer_timeout(1, soon).err(), Some(LatestError::TimedOut));
        rx.outlive_peer(false);
    }
    peer.superseded.store(true, Relaxed);
    assert_eq!(rx.wait_newer(1).err(), Some(LatestError::Superseded));
    peer.epoch.store(9, Relaxed);
    assert_eq!(rx.peer_changed().map(|change| change.new_epoch), Some(9));
    assert_eq!(rx.peer_changed(), None);
}

#[test]
fn a_cancelled_wait_ends_for_who_may_write_and_who_may_not() {
    for mode in MODES {
        let view = cell::<Short>(2);
        let (control, payload) = (View::heap_read_only(CONTROL_LEN), View::heap_read_only(256));
        let link = Box::new(FakeLink(Peer::alive()));
        let parts = ReaderParts { control, payload, link };
        let sealed = LatestReader::<Short>::attach(parts, geometry::<Short>(2)).unwrap();
        for mut rx in [reader(&view, 2), sealed] {
            rx.wait_mode(mode);
            let stop = rx.canceller();
            std::thread::scope(|scope| {
                let waiting = scope.spawn(|| rx.wait_newer(0).err());
                std::thread::sleep(Duration::from_millis(3));
                stop.cancel();
                assert_eq!(waiting.join().unwrap(), Some(LatestError::Cancelled));
            });
            stop.reset();
            let soon = Duration::from_millis(1);
            assert_eq!(rx.wait_newer_timeout(0, soon).err(), Some(LatestError::TimedOut));
        }
    }
}

#[test]
fn a_write_wakes_every_sleeper_and_nobody_else_is_called() {
    let view = cell::<Short>(2);
    let mut tx = writer::<Short>(&view, 2);
    let word = || view.word32(SLEEPERS).load(Relaxed);
    for version in 1..50 {
        tx.write(&value(version)).unwrap();
    }
    assert_eq!((tx.stats().wakes, word()), (0, 0), "nobody slept");
    let mut sleepers: Vec<_> = (0..6).map(|_| reader::<Short>(&view, 2)).collect();
    std::thread::scope(|scope| {
        for rx in &mut sleepers {
            rx.wait_mode(WaitMode::Block);
            scope.spawn(|| {
                for version in 49..60 {
                    let read = rx.wait_newer_timeout(version, PATIENCE).unwrap();
                    assert_whole(read);
                }
            });
        }
        while tx.version() < 60 {
            while word() & 1 == 0 {
                std::thread::yield_now();
            }
            tx.write(&value(tx.version() + 1)).unwrap();
        }
    });
    assert!(tx.stats().wakes >= 1);
    // What one left who gave up, or died, costs one wake.
    let mut rx = reader::<Short>(&view, 2);
    rx.wait_mode(WaitMode::Block);
    let seen = tx.version();
    assert!(rx.wait_newer_timeout(seen, Duration::from_millis(1)).is_err());
    assert_eq!(word() & 1, 1);
    let wakes = tx.stats().wakes;
    for _ in 0..10 {
        tx.write(&value(tx.version() + 1)).unwrap();
    }
    assert_eq!((tx.stats().wakes, word() & 1), (wakes + 1, 0));
    // A close is heard at once, too.
    let seen = tx.version();
    assert!(rx.wait_newer_timeout(seen, Duration::from_millis(1)).is_err());
    assert_eq!(word() & 1, 1);
    drop(tx);
    assert_eq!(word() & 1, 0);
}

#[test]
fn a_wake_is_not_taken_for_a_later_sleepers_announcement() {
    // Announced, and then woken before it sleeps; another announces himself meanwhile.
    let view = cell::<Short>(2);
    let mut tx = writer::<Short>(&view, 2);
    let word = view.word32(SLEEPERS);
    let mine = word.fetch_or(1, Relaxed) | 1;
    tx.write(&value(1)).unwrap();
    let other = word.fetch_or(1, Relaxed) | 1;
    assert_ne!(mine, other, "the first would sleep through the wake");
    word.store(u32::MAX, Relaxed);
    tx.write(&value(2)).unwrap();
    assert_eq!(word.load(Relaxed), 0, "the number begins anew");
}

#[test]
fn ends_in_a_forked_child_answer_forked() {
    let view = cell::<Short>(2);
    let peer = Peer::alive();
    let mut tx =
        LatestWriter::<Short>::attach(writer_parts(&view, &peer), geometry::<Short>(2)).unwrap();
    let parts = reader_parts(&view, &peer);
    let mut rx = LatestReader::<Short>::attach(parts, geometry::<Short>(2)).unwrap();
    tx.write(&value(1)).unwrap();
    let before = view.snapshot();
    peer.forks.fetch_add(1, Relaxed);
    assert_eq!(tx.write(&value(2)), Err(LatestError::Forked));
    assert_eq!(tx.update(|_| ()), Err(LatestError::Forked));
    assert_eq!(rx.read().err(), Some(LatestError::Forked));
    assert_eq!(rx.read_if_newer(0).err(), Some(LatestError::Forked));
    assert_eq!(rx.read_into(&mut [0; 7]).err(), Some(LatestError::Forked));
    assert_eq!(rx.wait_newer(1).err(), Some(LatestError::Forked));
    drop((tx, rx));
    assert_eq!(view.snapshot(), before, "the child wrote into its parent's value");
}

#[test]
fn readers_beside_a_writer_that_never_rests_see_whole_values_that_never_go_back() {
    fn check<const N: usize>(places: u64, writes: u64) {
        let view = cell::<[u64; N]>(places);
        let over = AtomicBool::new(false);
        let mut tx = writer::<[u64; N]>(&view, places);
        tx.write(&value(1)).unwrap();
        std::thread::scope(|scope| {
            let reading: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        let mut rx = reader::<[u64; N]>(&view, places);
                        let (mut reads, mut copies, mut last) = (0u64, 0u64, 0);
                        while !over.load(Relaxed) || reads < 100 {
                            let read = rx.read_by(|view, at| {
                                copies += 1;
                                view.read_checked::<[u64; N]>(at).unwrap()
                            });
                            let (version, words) = read.unwrap();
                            assert!(words == value(version), "version {version} is torn");
                            assert!(version >= last, "{version} behind {last}");
                            last = version;
                            reads += 1;
                        }
                        (reads, copies)
                    })
                })
                .collect();
            let end = Over(&over);
            for version in 2..writes {
                tx.write(&value(version)).unwrap();
            }
            drop(end);
            for reading in reading {
                let (reads, copies) = reading.join().unwrap();
                eprintln!("{N} words, {places} places: {reads} reads, {copies} copies");
            }
        });
    }
    check::<7>(2, 200_000);
    check::<8>(8, 200_000);
    check::<20>(2, 200_000);
    check::<512>(4, 20_000);
}

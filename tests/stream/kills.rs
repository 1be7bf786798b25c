//! SIGKILL at random moments: of the writer, of the reader, of a creator while it creates.

use crate::common::machine::pages;
use crate::common::{M2, lacks_pages};
use crate::support::{Carrier, Random, Running, Stage, Stream, Sum};
use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Instant;

/// Feeds a pipe piece by piece until it is told to stop; then sends the sum of what it fed.
fn feed_until(
    stop: Arc<AtomicBool>,
    sum: mpsc::Sender<Sum>,
    mut random: Random,
) -> impl FnOnce(&mut dyn Write) + Send {
    move |pipe| {
        let mut hash = Sha256::new();
        let mut length = 0;
        while !stop.load(Ordering::Relaxed) {
            let words = 1 + random.below(1024);
            let piece: Vec<u8> = (0..words).flat_map(|_| random.next().to_le_bytes()).collect();
            pipe.write_all(&piece).expect("the writer lives");
            hash.update(&piece);
            length += piece.len() as u64;
            std::thread::sleep(random.micros_below(100));
        }
        sum.send(Sum::finished(length, hash)).expect("somebody waits");
    }
}

/// One stream, during which the reader is killed and started again `kills` times.
fn reader_is_killed(stage: &Stage, carrier: &Carrier, size: &str, kills: u32) {
    let mut random = Random::from_time();
    let stop = Arc::new(AtomicBool::new(false));
    let (sender, sum) = mpsc::channel();
    let feed = feed_until(Arc::clone(&stop), sender, Random(random.next()));
    let arguments = carrier.arguments("s", size, &["--record", "4K"]);
    let mut writer = stage.fed_writer(&arguments, feed);
    let out = stage.file("out");
    let _ = std::fs::remove_file(&out);
    let reader = || stage.reader(&["--name", "s", "--out", out.to_str().unwrap()]);
    let mut lengths = std::collections::BTreeSet::new();
    for _ in 0..kills {
        let victim = reader();
        std::thread::sleep(random.micros_below(20_000));
        let status = victim.kill();
        assert_eq!(status.code(), None, "it ended by itself");
        lengths.insert(std::fs::metadata(&out).map_or(0, |facts| facts.len()));
        assert!(writer.ended().is_none(), "the writer ended: {}", writer.words());
    }
    stop.store(true, Ordering::Relaxed);
    reader().ends_well();
    writer.ends_well();
    assert_eq!(Sum::of_file(&out), sum.recv().expect("fed"), "{}", carrier.what);
    assert!(lengths.len() > kills as usize / 5, "the readers did too little: {lengths:?}");
    stage.assert_clean();
}

#[test]
fn readers_killed_200_times_leave_an_equal_file() {
    let stage = Stage::new();
    reader_is_killed(&stage, &Carrier::base(), "256K", 100);
    if let Some(carrier) = Carrier::hugetlbfs_2m(2) {
        reader_is_killed(&stage, &carrier, "2M", 100);
    }
    let memfd = Carrier::memfd();
    reader_is_killed(&stage, &memfd, "1M", 20);
}

/// The output of a reader whose writer died: the front of the stream, as long as it says.
#[track_caller]
fn assert_prefix(out: &Path, stream: &[u8], said: &str) {
    let got = std::fs::read(out).expect("the reader made it");
    assert!(got.len() <= stream.len() && got == stream[..got.len()], "no prefix: {said}");
    let told = said.rsplit_once("up to byte ").map(|(_, rest)| rest.trim().parse::<usize>());
    match told {
        Some(told) => assert_eq!(told.expect("a number"), got.len(), "{said}"),
        None => assert!(said.contains("nothing that was not delivered"), "{said}"),
    }
}

#[test]
fn a_writer_killed_half_way_ends_its_reader_with_the_prefix_and_nothing_is_left() {
    let stage = Stage::new();
    let mut carriers = vec![Carrier::base(), Carrier::memfd()];
    carriers.extend(Carrier::hugetlbfs_2m(2));
    for carrier in &carriers {
        let out = stage.file("out");
        let mut writer = stage.fed_writer(&carrier.arguments("s", "1M", &[]), |pipe| {
            let _ = pipe.write_all(b"half of it");
            // The pipe stays open until the writer is dead.
            let _ = pipe.write_all(&vec![0; 4 << 20]);
        });
        writer.until_it_says(", node ");
        // Nobody reads, so it stops when the segment is full.
        writer.until_it_says("waiting for a reader");
        let domain = stage.scratch.domain();
        let holder = domain.open("s").expect("so that a memfd lives on");
        writer.kill();
        let reader = stage.reader(&["--name", "s", "--out", out.to_str().unwrap()]);
        let said = reader.fails(&["the writer died half-way"]);
        drop(holder);
        let mut stream = b"half of it".to_vec();
        stream.resize(4 << 20, 0);
        assert_prefix(&out, &stream, &said);
        assert!(std::fs::metadata(&out).expect("made").len() > 100_000);
        stage.assert_clean();
    }
}

/// A writer is killed at a random moment, and the next run starts at once.
fn writer_is_killed(stage: &Stage, carrier: &Carrier, size: &str, kills: u32) {
    let mut random = Random::from_time();
    let (first, second) = (Stream::new(12 << 20), Stream::new(100_003));
    let input = stage.stream_file("in", first);
    let bytes = std::fs::read(&input).expect("just written");
    let next = stage.stream_file("next", second);
    let (out, again) = (stage.file("out"), stage.file("again"));
    let reader = |out: &Path| stage.reader(&["--name", "s", "--out", out.to_str().unwrap()]);
    let mut seen = [0; 4];
    for round in 0..kills {
        for file in [&out, &again] {
            let _ = std::fs::remove_file(file);
        }
        let early = (round % 2 == 0).then(|| reader(&out));
        let arguments = carrier.arguments("s", size, &["--record", "4K", input.to_str().unwrap()]);
        let writer = stage.writer(&arguments);
        let late = (round % 2 == 1).then(|| reader(&out));
        std::thread::sleep(random.micros_below(25_000));
        let finished = writer.kill().success();
        if round % 3 == 0 {
            std::thread::sleep(random.micros_below(120_000));
        }
        let reader_one = early.or(late).expect("one of the two");
        let arguments = carrier.arguments("s", size, &[next.to_str().unwrap()]);
        let writer = stage.writer(&arguments);
        let (status, said) = reader_one.wait();
        let got = Sum::of_file(&out);
        if status.success() && got == second.sum() {
            seen[0] += 1; // it had not begun with the first stream
        } else {
            if status.success() {
                seen[1] += 1;
                // The end was committed; the writer may have been killed on its way out.
                assert_eq!(got, first.sum(), "{said}");
            } else {
                seen[2] += 1;
                assert!(!finished, "{said}");
                let known = ["died half-way", "removed before the stream ended"];
                assert!(known.iter().any(|text| said.contains(text)), "{said}");
                assert_prefix(&out, &bytes, &said);
                seen[3] += usize::from(got.length > 0);
            }
            reader(&again).ends_well();
            assert_eq!(Sum::of_file(&again), second.sum());
        }
        writer.ends_well();
        if round % 10 == 0 {
            stage.collect();
        }
    }
    stage.collect();
    let what = carrier.what;
    eprintln!("{what}: not begun, whole, broken off, of these with bytes: {seen:?}");
    assert!(seen[3] > 0, "no writer was killed half-way");
}

#[test]
fn writers_killed_200_times_end_their_readers_and_the_next_run_works() {
    let stage = Stage::new();
    writer_is_killed(&stage, &Carrier::base(), "256K", 90);
    if let Some(carrier) = Carrier::hugetlbfs_2m(4) {
        writer_is_killed(&stage, &carrier, "2M", 90);
    }
    writer_is_killed(&stage, &Carrier::memfd(), "256K", 20);
}

/// A creator is killed at a random moment while it creates; the next run must work, with no more
/// pages than it needs.
fn creator_is_killed(stage: &Stage, carrier: &Carrier, size: &str, kills: u32) {
    let mut random = Random::from_time();
    let stream = Stream::new(50_021);
    let input = stage.stream_file("in", stream);
    let arguments = carrier.arguments("s", size, &[input.to_str().unwrap()]);
    let start = Instant::now();
    let mut whole = stage.writer(&arguments);
    whole.until_it_says(", node ");
    let mut limit = start.elapsed().as_micros() as u64;
    drop(whole);
    stage.collect();
    let (mut left, mut named) = (0, 0);
    for round in 0..kills {
        stage.writer(&arguments).kill_after(random.micros_below(limit));
        let files = stage.scratch.files();
        left += usize::from(!files.is_empty());
        // Half of them are to be killed before they gave the segment its name.
        let has_name = files.iter().any(|file| file.contains('@'));
        named += usize::from(has_name);
        limit = if has_name { limit * 19 / 20 } else { limit * 20 / 19 + 20 };
        match round % 4 {
            // The next run, as it is, with either of the two first.
            0 | 1 => {
                // A finished stream that nobody read is the next reader's: there the writer
                // must be first.
                let reader_first = round % 4 == 0 && !has_name;
                let out = stage.file("out");
                let reader = || stage.reader(&["--name", "s", "--out", out.to_str().unwrap()]);
                let early = reader_first.then(reader);
                let mut writer = stage.writer(&arguments);
                writer.until_it_says(", node ");
                early.unwrap_or_else(reader).ends_well();
                writer.ends_well();
                assert_eq!(Sum::of_file(&out), stream.sum(), "{}", carrier.what);
            }
            2 => drop(stage.collect()),
            _ => {}
        }
    }
    stage.collect();
    eprintln!("{}: of {kills} killed, {left} left files, {named} a name", carrier.what);
    assert!(left > 0, "none was killed in the middle");
}

#[test]
fn creators_killed_200_times_are_collected_and_the_next_run_works() {
    let stage = Stage::new();
    creator_is_killed(&stage, &Carrier::base(), "8M", 80);
    if let Some(carrier) = Carrier::hugetlbfs_2m(8) {
        creator_is_killed(&stage, &carrier, "16M", 60);
    }
    if !hugeshm::pages::shm_limits().may_use_hugetlb {
        return lacks_pages("System V huge pages are not for this user");
    }
    // What a dead creator left must be taken back by the next one: there are no more pages.
    if let Some(carrier) = Carrier::sysv_2m(8) {
        creator_is_killed(&stage, &carrier, "16M", 60);
    }
}

#[test]
fn a_stream_survives_collect_while_its_control_file_is_deleted() {
    let stage = Stage::new();
    let mut carriers = vec![Carrier::base()];
    carriers.extend(Carrier::hugetlbfs_2m(2));
    carriers.extend(Carrier::sysv_2m(2));
    for carrier in &carriers {
        let (release, wait) = mpsc::channel::<()>();
        let mut writer = stage.fed_writer(&carrier.arguments("s", "1M", &[]), move |pipe| {
            let _ = pipe.write_all(&[1; 5000]);
            let _ = wait.recv();
            let _ = pipe.write_all(&[2; 5_000_000]);
        });
        writer.until_it_says(", node ");
        let (mut reader, sum) = stage.hashed_reader(&["--name", "s"]);
        reader.until_it_says(", node ");
        std::fs::remove_file(stage.scratch.control_file("s")).expect("it is there");
        let report = stage.scratch.domain().collect().expect("it runs");
        assert!(report.removed.is_empty() && report.failed.is_empty(), "{report:?}");
        release.send(()).expect("the feeder waits");
        writer.ends_well();
        reader.ends_well();
        assert_eq!(sum.join().expect("hashed").length, 5_005_000);
        assert_eq!(stage.collect(), 1, "{}", carrier.what);
    }
}

#[test]
fn any_order_of_starts_and_kills_ends_in_a_run_that_works() {
    let stage = Stage::new();
    let _pages = pages(M2, 0);
    let mut random = Random::from_time();
    let stream = Stream::new(3 << 20);
    let input = stage.stream_file("in", stream);
    let carrier = Carrier::base();
    let arguments = carrier.arguments("s", "256K", &["--record", "4K", input.to_str().unwrap()]);
    for round in 0..40 {
        for _ in 0..4 {
            let out = stage.file("scrap");
            let mut crowd: Vec<Running> = Vec::new();
            for _ in 0..random.below(4) {
                crowd.push(match random.below(2) {
                    0 => stage.writer(&arguments),
                    _ => stage.reader(&["--name", "s", "--out", out.to_str().unwrap()]),
                });
                std::thread::sleep(random.micros_below(8000));
            }
            // Killed in any order, some later than others.
            while !crowd.is_empty() {
                let victim = crowd.swap_remove(random.below(crowd.len() as u64) as usize);
                victim.kill_after(random.micros_below(4000));
            }
        }
        let out = stage.file("out");
        let _ = std::fs::remove_file(&out);
        let mut writer = stage.writer(&arguments);
        writer.until_it_says(", node ");
        stage.reader(&["--name", "s", "--out", out.to_str().unwrap()]).ends_well();
        writer.ends_well();
        assert_eq!(Sum::of_file(&out), stream.sum(), "round {round}");
        stage.assert_only_half_built();
    }
    stage.collect();
}

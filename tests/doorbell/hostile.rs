//! What others put in the way of a bell: it costs a slice at most, and nothing is touched.

use crate::common::child::{argument, hear, say};
use crate::{HANG, Stage, rings_in};
use hugeshm::{Armed, Consumer, Doorbell};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

const POLL: Armed = Armed::Poll { at_most: Duration::from_millis(50) };

fn armed(bell: &Doorbell, consumer: &mut Consumer<u64>) {
    assert_eq!(bell.arm(consumer).expect("its own"), POLL);
}

#[test]
fn nothing_planted_at_a_bells_name_is_followed_written_to_or_waited_for() {
    let stage = Stage::new();
    let folder = stage.scratch.path();
    for planted in ["link", "dangling", "file", "folder", "fifo", "nothing"] {
        let segment = stage.segment(|builder| builder.ring::<u64>("ring", 4));
        let mut consumer = segment.consumer::<u64>("ring").expect("free");
        let mut producer = segment.producer::<u64>("ring").expect("free");
        let bell = consumer.doorbell().expect("a folder of ours");
        let at = folder.join(&stage.bells()[0]);
        let victim = folder.join("victim");
        std::fs::write(&victim, b"untouched").expect("our folder");
        std::fs::remove_file(&at).expect("our folder");
        match planted {
            "link" => std::os::unix::fs::symlink(&victim, &at).expect("our folder"),
            "dangling" => std::os::unix::fs::symlink("/nowhere", &at).expect("our folder"),
            "file" => std::fs::write(&at, b"untouched").expect("our folder"),
            "folder" => std::fs::create_dir(&at).expect("our folder"),
            "fifo" => nix::unistd::mkfifo(&at, nix::sys::stat::Mode::S_IRUSR).expect("our folder"),
            _ => {}
        }
        for number in 0..3 {
            armed(&bell, &mut consumer);
            let start = Instant::now();
            producer.push(number).expect("room");
            assert!(start.elapsed() < HANG);
            assert!(!rings_in(&bell, Duration::ZERO), "{planted}");
            assert_eq!(consumer.try_recv(), Ok(number));
        }
        assert_eq!(std::fs::read(&victim).expect("still there"), b"untouched", "{planted}");
        if planted == "file" {
            assert_eq!(std::fs::read(&at).expect("still there"), b"untouched");
        }
        // What is no bell is not removed as one.
        std::fs::remove_file(&victim).expect("our folder");
        if planted == "folder" {
            std::fs::remove_dir(&at).expect("our folder");
        }
        drop((bell, producer, consumer, segment));
        assert_eq!(stage.scratch.files(), [""; 0], "{planted}");
    }
}

/// Fills the bell at a path as fast as it can.
fn flood() {
    let path = argument(1);
    let mut bell = std::fs::File::options().read(true).write(true).open(path).expect("a FIFO");
    say("ready");
    std::thread::spawn(move || while bell.write(&[0; 4096]).is_ok() {});
    hear();
}

#[test]
fn a_flooded_bell_blocks_nobody_and_loses_nothing() {
    let stage = Stage::new();
    let segment = stage.segment(|builder| builder.ring::<u64>("ring", 4));
    let mut consumer = segment.consumer::<u64>("ring").expect("free");
    let mut producer = segment.producer::<u64>("ring").expect("free");
    let bell = consumer.doorbell().expect("a folder of ours");
    let path = stage.scratch.path().join(&stage.bells()[0]);
    let mut child = stage.child("hostile::flood", &[&path.display().to_string()]);
    child.says();
    assert!(rings_in(&bell, HANG));
    for number in 0..200 {
        let start = Instant::now();
        bell.clear();
        armed(&bell, &mut consumer);
        producer.push(number).expect("room");
        rings_in(&bell, HANG);
        assert_eq!(consumer.try_recv(), Ok(number));
        assert!(start.elapsed() < HANG);
    }
    child.kill();
    bell.clear();
    armed(&bell, &mut consumer);
    bell.clear();
    producer.push(1).expect("room");
    assert!(rings_in(&bell, Duration::ZERO));
}

#[test]
fn a_forged_number_leads_to_no_bell_and_does_no_harm() {
    let stage = Stage::new();
    let segment = stage.segment(|builder| builder.ring::<u64>("ring", 4));
    let mut consumer = segment.consumer::<u64>("ring").expect("free");
    let mut producer = segment.producer::<u64>("ring").expect("free");
    let bell = consumer.doorbell().expect("a folder of ours");
    let number = stage.bells()[0].rsplit('.').next().map(|n| u64::from_str_radix(n, 16));
    let number = number.expect("the last part").expect("hexadecimal");
    let data = stage.scratch.data_file("s");
    let at = find(&data, &number.to_le_bytes());
    for forged in [1, u64::MAX, number ^ 2, 0] {
        write_at(&data, at, &forged.to_le_bytes());
        armed(&bell, &mut consumer);
        producer.push(forged).expect("room");
        assert!(!rings_in(&bell, Duration::ZERO), "{forged}");
        assert_eq!(consumer.try_recv(), Ok(forged));
    }
    write_at(&data, at, &number.to_le_bytes());
    armed(&bell, &mut consumer);
    producer.push(5).expect("room");
    assert!(rings_in(&bell, Duration::ZERO));
}

fn find(file: &Path, bytes: &[u8]) -> u64 {
    let all = std::fs::read(file).expect("our own");
    all.windows(bytes.len()).position(|window| window == bytes).expect("it stands there") as u64
}

fn write_at(file: &Path, at: u64, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().write(true).open(file).expect("our own");
    file.write_all_at(bytes, at).expect("it is long enough");
}

/// The roles of this file.
pub fn play(role: &str) -> bool {
    match role {
        "hostile::flood" => flood(),
        _ => return false,
    }
    true
}

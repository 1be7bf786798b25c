//! Latest values between processes: nothing torn beside a writer that never rests, writers and
//! readers killed and stopped at random moments, readers who may not write, sleepers.

#[path = "../common/mod.rs"]
#[expect(dead_code, reason = "what the tests of other programs share, too")]
mod common;

mod watchers;

use common::child::{self, Child};
use common::machine::{PrivateMount, pages};
use common::{M2, Quiet, Scratch, domain, is_root, lacks_pages, skip};
use hugeshm::{
    BackingKind, Domain, ErrorKind, LatestError, LatestReader, LatestValue, LatestWriter, Lifetime,
    ObjectKind, PagePolicy, PageSize, PeerState, Rung, Schema, Segment, SegmentBuilder,
    TypeIdentity, Versioned, WaitAny, WaitMode,
};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// In one line with its stamp; the words belong together, so that a torn value shows.
type Pose = [u64; 7];
/// In a row of places.
type Frame = [u64; 600];
/// A value of 1 MiB, too large for a stack.
type Image = [u64; 1 << 17];

const MODES: [WaitMode; 4] = [WaitMode::Spin, WaitMode::Yield, WaitMode::Adaptive, WaitMode::Block];
const PATIENCE: Duration = Duration::from_secs(60);

fn on_base_pages(builder: SegmentBuilder) -> SegmentBuilder {
    builder.pages(PagePolicy::exactly(Rung::Base)).backing(BackingKind::Tmpfs)
}

fn declare(builder: SegmentBuilder) -> SegmentBuilder {
    builder
        .latest::<Pose>("pose")
        .latest::<Frame>("frame")
        .latest_of("image", LatestValue::<Image>::new().places(3))
        .latest::<Pose>("answer")
}

fn create(domain: &Domain) -> Segment {
    let builder = declare(on_base_pages(domain.create("values")));
    builder.unlink_on_drop(true).build().expect("base pages")
}

fn opened() -> Segment {
    domain(Path::new(&child::argument(0))).open("values").expect("the parent made it")
}

fn start(role: &str, scratch: &Scratch, arguments: &[&str]) -> Child {
    let folder = scratch.path().display().to_string();
    Child::start(role, &[&[folder.as_str()], arguments].concat())
}

/// The value of a version, into `target`.
fn fill(target: &mut [u64], version: u64) {
    for (i, word) in target.iter_mut().enumerate() {
        *word = version.rotate_left(i as u32 % 64) ^ i as u64;
    }
}

fn value<const N: usize>(version: u64) -> [u64; N] {
    let mut words = [0; N];
    fill(&mut words, version);
    words
}

#[track_caller]
fn assert_whole(words: &[u64], version: u64) {
    let whole = |(i, word): (usize, &u64)| *word == version.rotate_left(i as u32 % 64) ^ i as u64;
    assert!(words.iter().enumerate().all(whole), "version {version} is torn");
}

/// Reads; what comes is whole, and no older than what came before.
#[track_caller]
fn read<const N: usize>(reader: &mut LatestReader<[u64; N]>) -> u64 {
    let before = reader.seen();
    let Versioned { version, value, .. } = reader.read().expect("there is a value");
    assert_whole(&value, version);
    assert!(version >= before, "{version} behind {before}");
    version
}

fn on_heap() -> Box<Image> {
    vec![0; 1 << 17].into_boxed_slice().try_into().expect("its length")
}

/// An end whose last holder was just killed; the kernel may take a moment to give it back.
fn patiently<T>(mut attach: impl FnMut() -> hugeshm::Result<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attach() {
            Ok(end) => return end,
            Err(error) if error.kind() == ErrorKind::Busy && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// A number of microseconds below 4096; no two turns have the same.
fn some_time(turn: u64) -> Duration {
    Duration::from_micros(turn.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52)
}

fn stop(pid: u32) {
    kill(Pid::from_raw(pid as i32), Signal::SIGSTOP).expect("a child of ours");
    // Until all its threads stand still.
    let stopped = waitpid(Pid::from_raw(pid as i32), Some(WaitPidFlag::WUNTRACED));
    assert!(matches!(stopped, Ok(WaitStatus::Stopped(..))), "{stopped:?}");
}

fn go_on(pid: u32) {
    kill(Pid::from_raw(pid as i32), Signal::SIGCONT).expect("a child of ours");
}

#[test]
#[ignore = "the body of child processes, which other tests start"]
fn child_process() {
    match child::role().as_deref() {
        None => {}
        Some("write everything") => write_everything(),
        Some("write images") => write_images(),
        Some("read") => read_until_told(&opened()),
        Some("look") => look(),
        Some("sleep") => sleep(),
        Some("echo") => echo(),
        Some("lie") => lie(),
        Some(role) => assert!(watchers::play(role), "no such role: {role}"),
    }
}

/// Set when the parent says something, or closes the pipe.
fn told() -> Arc<AtomicBool> {
    let told = Arc::new(AtomicBool::new(false));
    let heard = Arc::clone(&told);
    std::thread::spawn(move || {
        child::hear();
        heard.store(true, Ordering::Relaxed);
    });
    told
}

/// Writes all values without a pause, from where the last writer stopped.
fn write_everything() {
    let segment = opened();
    let mut pose = patiently(|| segment.latest_writer::<Pose>("pose"));
    let mut frame = patiently(|| segment.latest_writer::<Frame>("frame"));
    let mut image = patiently(|| segment.latest_writer::<Image>("image"));
    let mut words = on_heap();
    let mut write = move || {
        for _ in 0..50 {
            pose.write(&value(pose.version() + 1)).expect("it waits for nobody");
            frame.write(&value(frame.version() + 1)).expect("it waits for nobody");
        }
        fill(&mut *words, image.version() + 1);
        image.write(&words).expect("it waits for nobody");
    };
    write();
    child::say("ready");
    let told = told();
    while !told.load(Ordering::Relaxed) {
        write();
    }
}

/// Writes nothing but images; it is in the middle of one at nearly every moment.
fn write_images() {
    let mut image = opened().latest_writer::<Image>("image").expect("nobody else writes");
    let mut words = on_heap();
    fill(&mut *words, 1);
    image.write(&words).expect("it waits for nobody");
    child::say("ready");
    let told = told();
    while !told.load(Ordering::Relaxed) {
        fill(&mut *words, image.version() + 1);
        image.write(&words).expect("it waits for nobody");
    }
}

/// Reads all values without a pause until there is something to hear; says how often.
fn read_until_told(segment: &Segment) {
    let mut pose = segment.latest_reader::<Pose>("pose").expect("it claims nothing");
    let mut frame = segment.latest_reader::<Frame>("frame").expect("it claims nothing");
    let mut image = segment.latest_reader::<Image>("image").expect("it claims nothing");
    let mut words = on_heap();
    child::say("ready");
    let told = told();
    let mut reads = 0;
    while !told.load(Ordering::Relaxed) {
        for _ in 0..50 {
            read(&mut pose);
            read(&mut frame);
        }
        let version = image.read_into(&mut words).expect("there is a value");
        assert_whole(&*words, version);
        reads += 1;
    }
    child::say(reads);
}

#[test]
fn nothing_is_torn_beside_a_writer_that_never_rests() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let domain = scratch.domain();
    let segment = create(&domain);
    let mut writer = start("write everything", &scratch, &[]);
    assert_eq!(writer.says(), "ready");
    let mut beside = start("read", &scratch, &[]);
    assert_eq!(beside.says(), "ready");
    let sealed = domain.open_read_only("values").expect("ours");
    let mut poses = [&segment, &sealed].map(|s| s.latest_reader::<Pose>("pose").expect("anybody"));
    let mut frames =
        [&segment, &sealed].map(|s| s.latest_reader::<Frame>("frame").expect("anybody"));
    let mut image = sealed.latest_reader::<Image>("image").expect("anybody");
    let mut words = on_heap();
    let end = Instant::now() + Duration::from_secs(1);
    let mut reads = 0;
    while Instant::now() < end || reads < 10 {
        for _ in 0..50 {
            poses.iter_mut().for_each(|pose| _ = read(pose));
            frames.iter_mut().for_each(|frame| _ = read(frame));
        }
        let version = image.read_into(&mut words).expect("there is a value");
        assert_whole(&*words, version);
        reads += 1;
    }
    beside.tell("enough");
    let there = beside.says();
    beside.end_well();
    writer.end_well();
    eprintln!(
        "{reads} rounds here, {there} there; {} poses, {} frames, {} images",
        poses[0].version(),
        frames[0].version(),
        image.version()
    );
    // The writer has left in good order; all it wrote is counted.
    let written = segment.objects();
    for object in &written[..3] {
        assert_eq!(object.endpoints[0].state, PeerState::Closed);
        let version = object.endpoints[0].stats.messages;
        assert!(version > 0, "{}", object.name);
        assert_eq!(object.endpoints[0].stats.bytes, version * object.type_size);
    }
    assert_eq!(written[0].endpoints[0].stats.messages, read(&mut poses[0]));
    assert_eq!(poses[1].wait_newer(poses[0].seen()).err(), Some(LatestError::Closed));
}

#[test]
fn a_value_outlives_each_of_a_hundred_killed_writers_whole() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let domain = scratch.domain();
    let segment = create(&domain);
    let sealed = domain.open_read_only("values").expect("ours");
    let mut pose = segment.latest_reader::<Pose>("pose").expect("anybody");
    let mut frame = sealed.latest_reader::<Frame>("frame").expect("anybody");
    let mut image = segment.latest_reader::<Image>("image").expect("anybody");
    let mut words = on_heap();
    for turn in 0..100 {
        let mut writer = start("write everything", &scratch, &[]);
        assert_eq!(writer.says(), "ready");
        let before = (pose.version(), frame.version(), image.version());
        std::thread::sleep(some_time(turn));
        writer.kill_only();
        let last = (read(&mut pose), read(&mut frame));
        let version = image.read_into(&mut words).expect("there is a value");
        assert_whole(&*words, version);
        assert!(last.0 >= before.0 && last.1 >= before.1 && version >= before.2);
        pose.wait_mode(MODES[turn as usize % MODES.len()]);
        assert_eq!(pose.wait_newer_timeout(last.0, PATIENCE).err(), Some(LatestError::PeerDied));
        assert_eq!(pose.peer(), PeerState::Dead);
        // The value is what it was.
        assert_eq!((read(&mut pose), read(&mut frame)), last);
        assert_eq!(pose.peer_changed().map(|change| change.new_epoch), Some(turn + 1));
    }
    let written = (pose.version(), frame.version(), image.version());
    eprintln!("100 killed writers wrote {written:?}");
    let mut writer = patiently(|| segment.latest_writer::<Pose>("pose"));
    assert_eq!(writer.version(), pose.version());
    writer.write(&value(writer.version() + 1)).expect("it waits for nobody");
    read(&mut pose);
}

#[test]
fn a_writer_stopped_anywhere_leaves_the_last_whole_value_to_be_read() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let segment = create(&scratch.domain());
    let mut writer = start("write images", &scratch, &[]);
    assert_eq!(writer.says(), "ready");
    let mut image = segment.latest_reader::<Image>("image").expect("anybody");
    let mut words = on_heap();
    for turn in 0..50 {
        std::thread::sleep(some_time(turn));
        stop(writer.pid());
        let mut last = None;
        for _ in 0..3 {
            let version = image.read_into(&mut words).expect("there is a value");
            assert_whole(&*words, version);
            assert!(last.replace(version).is_none_or(|last| last == version), "it was stopped");
        }
        assert_eq!(image.peer(), PeerState::Alive, "stopped is alive");
        let late = image.wait_version(image.seen(), Some(Instant::now()));
        assert_eq!(late, Err(LatestError::TimedOut));
        go_on(writer.pid());
        image.wait_version(image.seen(), None).expect("it goes on");
    }
    writer.end_well();
}

/// Sleeps until there is something newer, again and again, and says each version.
fn sleep() {
    let segment = opened();
    let mut pose = segment.latest_reader::<Pose>("pose").expect("it claims nothing");
    pose.wait_mode(WaitMode::Block);
    child::say("ready");
    loop {
        match pose.wait_newer(pose.seen()) {
            Ok(read) => {
                assert_whole(&read.value, read.version);
                child::say(read.version);
            }
            Err(LatestError::Closed) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn readers_killed_or_stopped_asleep_cost_the_writer_one_wake_and_nothing_else() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let segment = create(&scratch.domain());
    let mut writer = segment.latest_writer::<Pose>("pose").expect("nobody else writes");
    for turn in 0..12 {
        let mut sleepers: Vec<_> = (0..3).map(|_| start("sleep", &scratch, &[])).collect();
        for sleeper in &mut sleepers {
            assert_eq!(sleeper.says(), "ready");
        }
        // All are told of the first; they may be anywhere in their waits from there on.
        let version = writer.write(&value(writer.version() + 1)).expect("it waits for nobody");
        for sleeper in &mut sleepers {
            while sleeper.says() != version.to_string() {}
        }
        std::thread::sleep(some_time(turn) * 4);
        for (index, sleeper) in sleepers.iter_mut().enumerate() {
            if index % 2 == 0 { stop(sleeper.pid()) } else { sleeper.kill_only() }
        }
        let before = writer.stats().wakes;
        for _ in 0..1000 {
            writer.write(&value(writer.version() + 1)).expect("it waits for nobody");
        }
        let wakes = writer.stats().wakes - before;
        assert!(wakes <= 1, "{wakes} wakes for nobody");
        // The stopped ones go on with the newest value.
        for (index, sleeper) in sleepers.iter_mut().enumerate() {
            if index % 2 == 0 {
                go_on(sleeper.pid());
                while sleeper.says() != writer.version().to_string() {}
            }
        }
    }
}

/// Writes each version of "pose" that it sees as "answer".
fn echo() {
    let segment = opened();
    let mode = MODES[child::argument(1).parse::<usize>().expect("a number")];
    let mut pose = segment.latest_reader::<Pose>("pose").expect("it claims nothing");
    let mut answer = segment.latest_writer::<Pose>("answer").expect("nobody else writes");
    pose.wait_mode(mode);
    let mut seen = pose.version();
    child::say("ready");
    loop {
        match pose.wait_newer(seen) {
            Ok(read) => {
                seen = read.version;
                assert_whole(&read.value, seen);
                answer.write(&value(seen)).expect("it waits for nobody");
            }
            Err(LatestError::Closed) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn who_waits_is_woken_by_each_write_in_every_mode() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let domain = scratch.domain();
    let segment = create(&domain);
    let sealed = domain.open_read_only("values").expect("ours");
    for (index, mode) in MODES.into_iter().enumerate() {
        for segment_of_reader in [&segment, &sealed] {
            let mut pose = segment.latest_writer::<Pose>("pose").expect("nobody else writes");
            let mut answer = segment_of_reader.latest_reader::<Pose>("answer").expect("anybody");
            answer.wait_mode(mode);
            let mut child = start("echo", &scratch, &[&index.to_string()]);
            assert_eq!(child.says(), "ready");
            let mut seen = answer.version();
            for _ in 0..300 {
                let version = pose.write(&value(pose.version() + 1)).expect("it waits for nobody");
                let read = answer.wait_newer_timeout(seen, PATIENCE).expect("it answers");
                assert_whole(&read.value, version);
                seen = read.version;
            }
            // The child hears that the writer has left, and this one that the child has.
            drop(pose);
            child.end_well();
            assert_eq!(answer.wait_newer(seen).err(), Some(LatestError::Closed));
        }
    }
}

#[test]
fn one_write_wakes_all_sleepers_of_all_processes() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let segment = create(&scratch.domain());
    let mut writer = segment.latest_writer::<Pose>("pose").expect("nobody else writes");
    let mut sleepers: Vec<_> = (0..4).map(|_| start("sleep", &scratch, &[])).collect();
    for sleeper in &mut sleepers {
        assert_eq!(sleeper.says(), "ready");
    }
    for turn in 0..50 {
        let version = writer.write(&value(writer.version() + 1)).expect("it waits for nobody");
        for sleeper in &mut sleepers {
            assert_eq!(sleeper.says(), version.to_string());
        }
        std::thread::sleep(some_time(turn) / 2);
    }
    drop(writer);
    sleepers.into_iter().for_each(Child::end_well);
}

/// Reads, waits and asks through a mapping that it may not write to.
fn look() {
    let domain = domain(Path::new(&child::argument(0)));
    let sealed = domain.open_read_only("values").expect("everybody may read it");
    assert!(sealed.is_read_only());
    let mut pose = sealed.latest_reader::<Pose>("pose").expect("anybody");
    assert_eq!(pose.read().err(), Some(LatestError::NeverWritten));
    child::say(format_args!("{:?}", pose.peer()));
    child::hear();
    let mut image = sealed.latest_reader::<Image>("image").expect("anybody");
    let mut words = on_heap();
    for _ in 0..20 {
        let read = pose.wait_newer_timeout(pose.seen(), PATIENCE).expect("it writes");
        assert_whole(&read.value, read.version);
        child::say(read.version);
        let version = image.wait_version(image.seen(), None).expect("it writes");
        assert_eq!(image.read_into(&mut words), Ok(version));
        assert_whole(&*words, version);
        child::say(version);
    }
    child::say(format_args!("{:?}", pose.peer()));
    child::say(child::outcome(sealed.latest_writer::<Pose>("pose")));
    // Many readers; nothing is claimed.
    let many: Vec<_> = (0..1000)
        .map(|_| sealed.latest_reader::<Pose>("pose").expect("there is no limit"))
        .collect();
    for mut reader in many {
        assert_eq!(read(&mut reader), pose.seen());
    }
    assert_eq!(pose.wait_newer(pose.seen()).err(), Some(LatestError::Closed));
    child::say(format_args!("{:?}", pose.peer()));
}

fn readers_without_rights(segment: &Segment, mut child: Child, alive: &str) {
    assert_eq!(child.says(), "Never");
    let mut pose = segment.latest_writer::<Pose>("pose").expect("nobody else writes");
    let mut image = segment.latest_writer::<Image>("image").expect("nobody else writes");
    child.tell("go on");
    let mut words = on_heap();
    for version in 1..=20 {
        assert_eq!(pose.write(&value(version)), Ok(version));
        assert_eq!(child.says(), version.to_string());
        fill(&mut *words, version);
        assert_eq!(image.write(&words), Ok(version));
        assert_eq!(child.says(), version.to_string());
    }
    assert_eq!(child.says(), alive);
    let refusal = child.says();
    assert!(refusal.starts_with("ReadOnly"), "{refusal}");
    drop(pose);
    assert_eq!(child.says(), "Closed");
    child.end_well();
}

#[test]
fn readers_of_a_read_only_segment_read_and_wait_in_any_number() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let segment = create(&scratch.domain());
    let child = start("look", &scratch, &[]);
    readers_without_rights(&segment, child, "Alive");
}

#[test]
fn another_user_who_may_only_read_reads_and_waits() {
    let _quiet = Quiet::begin();
    if !is_root("become another user") {
        return;
    }
    let scratch = Scratch::new();
    let domain = scratch.domain();
    let builder = declare(on_base_pages(domain.create("values"))).mode(0o644);
    let segment = builder.unlink_on_drop(true).build().expect("base pages");
    let folder = scratch.path().display().to_string();
    let child = Child::start_as_nobody("look", &[&folder]);
    // He may not open the claims file, and so cannot ask for locks.
    readers_without_rights(&segment, child, "Unknown");
}

#[test]
fn there_is_one_writer_and_a_waiting_reader_hears_of_a_new_segment() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let domain = scratch.domain();
    let segment = create(&domain);
    let writer = segment.latest_writer::<Pose>("pose").expect("nobody else writes");
    let other = domain.open("values").expect("ours");
    for segment in [&segment, &other] {
        let second = segment.latest_writer::<Pose>("pose").expect_err("one at a time");
        assert_eq!(second.kind(), ErrorKind::Busy);
    }
    drop(writer);
    let mut writer = other.latest_writer::<Pose>("pose").expect("the first has left");
    assert_eq!(writer.write(&value(1)), Ok(1));
    let mut pose = segment.latest_reader::<Pose>("pose").expect("anybody");
    segment.unlink_on_drop(false);
    let new = declare(on_base_pages(Segment::replace("values").domain(domain.clone())));
    let new = new.unlink_on_drop(true).build().expect("base pages");
    for mode in MODES {
        pose.wait_mode(mode);
        assert_eq!(pose.wait_newer(1).err(), Some(LatestError::Superseded), "{mode:?}");
    }
    assert_eq!(read(&mut pose), 1);
    drop((writer, pose, segment, other, new));
}

#[test]
fn who_asks_for_the_wrong_thing_is_told_what_is_there() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let domain = scratch.domain();
    let named = TypeIdentity::new("pose", 1, 0);
    let segment = on_base_pages(domain.create("values"))
        .latest::<Pose>("pose")
        .latest_of("named", LatestValue::<[u32; 4]>::new().identity(named.clone()))
        .ring::<u64>("ring", 2)
        .spare(64 << 10)
        .build()
        .expect("base pages");
    segment.unlink_on_drop(true);
    let kind = |result: Result<(), hugeshm::Error>| result.unwrap_err().kind();
    let (wrong_kind, wrong_type) = (ErrorKind::KindMismatch, ErrorKind::TypeMismatch);
    assert_eq!(kind(segment.latest_reader::<Pose>("ring").map(drop)), wrong_kind);
    assert_eq!(kind(segment.latest_writer::<u64>("ring").map(drop)), wrong_kind);
    assert_eq!(kind(segment.producer::<Pose>("pose").map(drop)), wrong_kind);
    assert_eq!(kind(segment.latest_reader::<Frame>("pose").map(drop)), wrong_type);
    assert_eq!(kind(segment.latest_reader::<u64>("pose").map(drop)), wrong_type);
    assert_eq!(kind(segment.latest_writer::<u64>("pose").map(drop)), wrong_type);
    assert_eq!(kind(segment.latest_reader::<u64>("none").map(drop)), ErrorKind::NotFound);
    // Under a name a reader's type may be shorter, a writer's not.
    let short = segment.latest_writer_as::<[u32; 2]>("named", &named).map(drop);
    assert_eq!(kind(short), wrong_type);
    let mut writer = segment.latest_writer_as::<[u32; 4]>("named", &named).expect("its type");
    let mut reader = segment.latest_reader_as::<[u32; 2]>("named", &named).expect("a prefix");
    assert_eq!(writer.write(&[1, 2, 3, 4]), Ok(1));
    assert_eq!(writer.update(|value| value[1] = 7), Ok(2));
    assert_eq!(reader.read().map(|read| read.value), Ok([1, 7]));
    // By bytes nobody asks for a type.
    let sealed = domain.open_read_only("values").expect("ours");
    let mut raw = sealed.raw_latest_reader("named").expect("of whatever type");
    let mut bytes = [0; 16];
    assert_eq!((raw.size(), raw.read(&mut bytes)), (16, Ok(2)));
    assert_eq!(bytemuck::pod_read_unaligned::<[u32; 4]>(&bytes), [1, 7, 3, 4]);
    assert_eq!(raw.read(&mut bytes[..8]), Err(LatestError::WrongSize { len: 8, size: 16 }));
    assert_eq!(kind(sealed.raw_latest_reader("ring").map(drop)), wrong_kind);
    assert_eq!(kind(sealed.raw_latest_reader("none").map(drop)), ErrorKind::NotFound);
    // A live segment takes more, each name once; a bad number of places is refused.
    segment.add_latest("more", LatestValue::<Frame>::new().places(2)).expect("there is room");
    // A description of it can be read by whoever may read the value.
    let described = |schema| LatestValue::<u64>::new().schema(schema);
    let schema = Schema::new(7, *b"nanoseconds");
    segment.add_latest("described", described(schema.clone())).expect("there is room");
    assert_eq!(sealed.schema("described").expect("it is there"), Some(schema));
    assert_eq!(sealed.schema("more").expect("it is there"), None);
    assert_eq!(kind(sealed.schema("none").map(drop)), ErrorKind::NotFound);
    let long = described(Schema::new(7, vec![b' '; Schema::BYTES_MAX + 1]));
    assert_eq!(kind(segment.add_latest("bad", long)), ErrorKind::InvalidSize);
    let again = segment.add_latest("more", LatestValue::<Frame>::new());
    assert_eq!(kind(again), ErrorKind::AlreadyExists);
    for places in [0, 1, 65, u64::MAX] {
        let bad = segment.add_latest("bad", LatestValue::<Frame>::new().places(places));
        assert_eq!(kind(bad), ErrorKind::InvalidCapacity);
    }
    let other = on_base_pages(Segment::open_or_create("values").domain(domain.clone()));
    let other = other.latest_of("more", LatestValue::<Frame>::new().places(3)).build();
    assert_eq!(kind(other.map(drop)), wrong_kind, "another number of places");
    let inspected = domain.inspect("values").expect("it can be read");
    let object = inspected.objects.iter().find(|object| object.name == "named").expect("declared");
    assert_eq!(
        (object.kind, object.kind.to_string()),
        (ObjectKind::LatestValue, "latest value".into())
    );
    assert_eq!((object.endpoints.len(), object.endpoints[0].stats.messages), (1 + 8, 2));
    assert_eq!((object.lag, object.endpoints[0].state), (None, PeerState::Alive));
}

/// Writes anything anywhere into the data file, which is the memory, from an offset on.
fn lie() {
    use std::os::unix::fs::FileExt;
    let number = |index| child::argument(index).parse::<u64>().expect("a number");
    let (first, last, mut state) = (number(2), number(3), number(4));
    let file = std::fs::File::options().write(true).open(child::argument(1)).expect("the file");
    let mut random = |below: u64| {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    };
    let told = told();
    child::say("ready");
    let mut written = 0u64;
    while !told.load(Ordering::Relaxed) {
        let word = match random(6) {
            0 => 0,
            1 => u64::MAX - random(3),
            2 => 1 << random(64),
            3 => random(u64::MAX),
            _ => random(4000),
        };
        // Mostly at the front, where the stamps are.
        let length = if random(4) == 0 { last - first } else { 2048 };
        file.write_all_at(&word.to_le_bytes(), first + random(length) / 8 * 8).expect("ours");
        written += 1;
    }
    child::say(written);
}

#[test]
fn values_under_attack_answer_every_call() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let domain = scratch.domain();
    let mut answers = std::collections::BTreeMap::<String, u64>::new();
    for round in 0..12 {
        let builder = on_base_pages(domain.create("values")).unlink_on_drop(true);
        let segment = builder
            .latest_of("pose", LatestValue::<Pose>::new().watchers(2))
            .latest_of("frame", LatestValue::<Frame>::new().watchers(2))
            .build()
            .expect("base pages");
        let object = &["pose", "frame"][round % 2];
        // The claim lines, of a writer and two watchers, stand in front of a value's own words; a
        // label finds them.
        segment.set_label("here-it-is");
        let end = match round % 2 {
            0 => segment.latest_writer::<Pose>(object).map(drop),
            _ => segment.latest_writer::<Frame>(object).map(drop),
        };
        end.expect("nobody else writes");
        let path = scratch.data_file("values");
        let bytes = std::fs::read(&path).expect("the data file");
        let label = bytes.windows(10).position(|window| window == b"here-it-is");
        let first = label.expect("the label is in the claim line") as u64 / 256 * 256 + 3 * 256;
        let used = domain.inspect("values").expect("it is there").used;
        let path = path.display().to_string();
        let numbers = [first, used, round as u64].map(|number| number.to_string());
        let mut liar = start("lie", &scratch, &[&path, &numbers[0], &numbers[1], &numbers[2]]);
        assert_eq!(liar.says(), "ready");
        let mut count = |what: String| *answers.entry(what).or_default() += 1;
        let end = Instant::now() + Duration::from_millis(100);
        let mut attack = |mode| match round % 2 {
            0 => under_attack::<7>(&segment, object, mode, &mut count),
            _ => under_attack::<600>(&segment, object, mode, &mut count),
        };
        while Instant::now() < end {
            MODES.into_iter().for_each(&mut attack);
        }
        liar.tell("enough");
        assert!(liar.says().parse::<u64>().expect("a number") > 100);
        liar.end_well();
    }
    eprintln!("{answers:?}");
    assert!(answers.contains_key("watched") && answers.contains_key("watcher Ok(0)"));
    assert!(answers.contains_key("read") && answers.keys().any(|key| key.starts_with("Corrupt")));
}

/// Some calls of both ends; whatever comes is an answer.
fn under_attack<const N: usize>(
    segment: &Segment,
    object: &str,
    mode: WaitMode,
    count: &mut impl FnMut(String),
) {
    let mut reader = segment.latest_reader::<[u64; N]>(object).expect("its entry is whole");
    reader.wait_mode(mode);
    let mut watcher = segment.latest_watcher::<[u64; N]>(object).expect("a place is free");
    watcher.wait_mode(mode);
    let bell = watcher.doorbell().expect("a folder of ours");
    let mut any = WaitAny::new();
    any.wait_mode(mode);
    let mut writer = match segment.latest_writer::<[u64; N]>(object) {
        Ok(writer) => Some(writer),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            count("no writer".to_owned());
            None
        }
    };
    for turn in 0..50 {
        if let Some(writer) = &mut writer {
            writer.write(&[turn; N]).expect("it waits for nobody");
            let _ = writer.update(|value| value[0] = turn);
        }
        let short = Duration::from_micros(turn * 10);
        for read in [reader.read(), reader.wait_newer_timeout(reader.seen(), short)] {
            count(read.map_or_else(|error| format!("{error:?}"), |_| "read".to_owned()));
        }
        let _ = (reader.read_if_newer(turn), reader.version(), reader.peer_changed());
        let found = any.wait_timeout(&mut [&mut watcher], short);
        count(format!("watcher {found:?}"));
        let armed = bell.arm(&mut watcher).expect("its own bell");
        count(format!("{armed:?}"));
        for read in [
            watcher.read_if_newer(watcher.seen()),
            watcher.wait_newer_timeout(watcher.seen(), short).map(Some),
        ] {
            count(read.map_or_else(|error| format!("{error:?}"), |_| "watched".to_owned()));
        }
    }
}

/// A writer and a reader in processes of their own; then the writer is killed, and followed.
fn one_body(
    scratch: &Scratch,
    what: &str,
    page: PageSize,
    on: impl Fn(SegmentBuilder) -> SegmentBuilder,
) {
    eprintln!("-- {what}");
    let builder = on(scratch.domain().create("values")).lifetime(Lifetime::WithHolders);
    let segment = declare(builder).unlink_on_drop(true).build();
    let segment = segment.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(segment.page_size(), page, "{what}");
    let mut writer = start("write everything", scratch, &[]);
    assert_eq!(writer.says(), "ready");
    let mut beside = start("read", scratch, &[]);
    assert_eq!(beside.says(), "ready");
    let mut pose = segment.latest_reader::<Pose>("pose").expect("anybody");
    let mut image = segment.latest_reader::<Image>("image").expect("anybody");
    let mut words = on_heap();
    for _ in 0..5 {
        read(&mut pose);
        let version = image.wait_version(image.seen(), None).expect("it writes");
        assert!(image.read_into(&mut words).expect("it was written") >= version);
        assert_whole(&*words, image.seen());
    }
    writer.kill();
    beside.tell("enough");
    beside.says();
    beside.end_well();
    let last = read(&mut pose);
    let mut writer: LatestWriter<Pose> = patiently(|| segment.latest_writer("pose"));
    assert_eq!(writer.write(&value(last + 1)), Ok(last + 1), "{what}");
    assert_eq!(read(&mut pose), last + 1);
}

#[test]
fn latest_values_work_over_every_backing() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    for (size, count) in [(M2, 8), (PageSize::SIZE_1G, 1)] {
        let Some(_pages) = pages(size, count) else { continue };
        let exactly =
            |builder: SegmentBuilder| builder.pages(PagePolicy::exactly(Rung::Huge(size)));
        if let Some(mount) = PrivateMount::hugetlbfs(size, None) {
            let path = mount.path();
            one_body(&scratch, &format!("{size} hugetlbfs"), size, |builder| {
                exactly(builder).backing(BackingKind::Hugetlbfs).mount(&path)
            });
        }
        one_body(&scratch, &format!("{size} memfd"), size, |builder| {
            exactly(builder).backing(BackingKind::Memfd)
        });
        let shm = hugeshm::pages::shm_limits();
        if shm.may_use_hugetlb {
            one_body(&scratch, &format!("{size} SysV"), size, |builder| {
                exactly(builder).backing(BackingKind::Sysv)
            });
        } else {
            lacks_pages(&shm.reason);
        }
    }
    let base = PageSize::SIZE_4K;
    if hugeshm::pages::thp().pmd_size == Some(M2) {
        one_body(&scratch, "transparent huge pages", base, |builder| {
            builder.pages(PagePolicy::exactly(Rung::Thp)).size(6 << 20)
        });
    } else {
        skip("this kernel forms no transparent huge pages of 2M");
    }
    for kind in [BackingKind::Tmpfs, BackingKind::Memfd] {
        one_body(&scratch, &format!("base pages, {kind}"), base, |builder| {
            builder.pages(PagePolicy::exactly(Rung::Base)).backing(kind)
        });
    }
}

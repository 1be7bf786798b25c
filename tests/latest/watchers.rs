//! Watchers in real second processes: woken on a futex, in `poll`, among others and in tokio;
//! killed, left alone and as many as were declared.

use crate::common::child::{Child, argument, hear, say};
use crate::common::{Quiet, Scratch, refused};
use crate::{
    Frame, PATIENCE, Pose, assert_whole, create, on_base_pages, opened, patiently, some_time,
    start, value,
};
use hugeshm::{
    Armed, Consumer, Doorbell, ErrorKind, LatestError, LatestValue, LatestWatcher, PagePolicy,
    PeerState, Producer, RecvError, Role, Rung, Segment, Stats, Versioned, WaitAny, WaitMode,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

#[cfg(not(feature = "tokio"))]
const WAYS: [&str; 3] = ["futex", "poll", "any"];
#[cfg(feature = "tokio")]
const WAYS: [&str; 4] = ["futex", "poll", "any", "tokio"];

/// Plays a role of this file; false if it has none of this name.
pub fn play(role: &str) -> bool {
    match role {
        "watchers::echo" => echo(),
        "watchers::watch" => watch(),
        "watchers::write" => write(),
        "watchers::feed" => feed(),
        _ => return false,
    }
    true
}

/// A watcher of "pose" or "answer", and how it sleeps.
enum Watch {
    Futex(LatestWatcher<Pose>),
    Poll(LatestWatcher<Pose>, Doorbell),
    /// Together with another, whose value nobody writes.
    Any(LatestWatcher<Pose>, Box<LatestWatcher<Frame>>, WaitAny),
    #[cfg(feature = "tokio")]
    Awaited(tokio::runtime::Runtime, hugeshm::AsyncLatestWatcher<Pose>),
}

impl Watch {
    fn new(segment: &Segment, object: &str, way: &str) -> Self {
        let mut watcher = segment.latest_watcher::<Pose>(object).expect("a place is free");
        match way {
            "futex" => {
                watcher.wait_mode(WaitMode::Block);
                Self::Futex(watcher)
            }
            "poll" => {
                let bell = watcher.doorbell().expect("a folder of ours");
                Self::Poll(watcher, bell)
            }
            "any" => {
                let mut any = WaitAny::new();
                any.wait_mode(WaitMode::Block);
                let frame = segment.latest_watcher::<Frame>("frame").expect("a place is free");
                Self::Any(watcher, Box::new(frame), any)
            }
            #[cfg(feature = "tokio")]
            "tokio" => {
                let mut runtime = tokio::runtime::Builder::new_current_thread();
                let runtime = runtime.enable_all().build().expect("a runtime");
                let watcher = {
                    let _inside = runtime.enter();
                    hugeshm::AsyncLatestWatcher::new(watcher).expect("a folder of ours")
                };
                Self::Awaited(runtime, watcher)
            }
            _ => panic!("no such way to sleep: {way}"),
        }
    }

    /// The next version there is, slept for without end.
    fn next(&mut self) -> Result<Versioned<Pose>, LatestError> {
        let read = match self {
            Self::Futex(watcher) => watcher.wait_newer(watcher.seen())?,
            Self::Poll(watcher, bell) => loop {
                if let Some(read) = watcher.read_if_newer(watcher.seen())? {
                    break read;
                }
                if let Armed::Poll { at_most } = bell.arm(watcher).expect("its own bell") {
                    rings_in(bell, at_most);
                    bell.clear();
                }
            },
            Self::Any(watcher, frame, any) => loop {
                assert_eq!(any.wait(&mut [watcher, &mut **frame]), Ok(0), "nobody writes frames");
                if let Some(read) = watcher.read_if_newer(watcher.seen())? {
                    break read;
                }
            },
            #[cfg(feature = "tokio")]
            Self::Awaited(runtime, watcher) => runtime.block_on(watcher.changed())?,
        };
        assert_whole(&read.value, read.version);
        Ok(read)
    }

    fn stats(&self) -> Stats {
        match self {
            Self::Futex(watcher) | Self::Poll(watcher, _) | Self::Any(watcher, ..) => {
                watcher.stats()
            }
            #[cfg(feature = "tokio")]
            Self::Awaited(_, watcher) => watcher.get_ref().stats(),
        }
    }
}

/// Polls for at most `timeout`; whether the bell rang.
fn rings_in(bell: &Doorbell, timeout: Duration) -> bool {
    let mut fds = [PollFd::new(bell.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(timeout).expect("not that long");
    poll(&mut fds, timeout).expect("a descriptor of ours") == 1
}

const ROUNDS: u64 = 1000;

/// Writes each version of "pose" that it sees as "answer"; says how the writer ended, and how
/// often it slept.
fn echo() {
    let segment = opened();
    let mut watch = Watch::new(&segment, "pose", &argument(1));
    let mut answer = segment.latest_writer::<Pose>("answer").expect("nobody else writes");
    say("ready");
    let end = loop {
        match watch.next() {
            Ok(read) => {
                let next = answer.version() + 1;
                answer.write(&value(next)).expect("it waits for nobody");
                assert_eq!(next, read.version, "the parent waits for each answer");
            }
            Err(end) => break end,
        }
    };
    say(format_args!("{end:?}"));
    say(watch.stats().sleeps);
}

#[test]
fn each_write_wakes_a_watcher_however_it_sleeps() {
    let _quiet = Quiet::begin();
    for way in WAYS {
        let scratch = Scratch::new();
        let segment = create(&scratch.domain());
        let mut child = start("watchers::echo", &scratch, &[way]);
        assert_eq!(child.says(), "ready");
        let mut pose = segment.latest_writer::<Pose>("pose").expect("nobody else writes");
        let mut watch = Watch::new(&segment, "answer", way);
        for version in 1..=ROUNDS {
            assert_eq!(pose.write(&value(version)), Ok(version));
            assert_eq!(watch.next().expect("it answers").version, version);
        }
        drop(pose);
        assert_eq!(child.says(), "Closed");
        // A wake-up that was lost costs a slice, and a sleep more.
        let there = child.says().parse::<u64>().expect("a number");
        let here = watch.stats().sleeps;
        eprintln!("{way}: {here} sleeps here, {there} there");
        assert!(here.max(there) <= ROUNDS + ROUNDS / 5, "{way}: wake-ups are lost");
        assert_eq!(watch.stats().messages, ROUNDS);
        child.end_well();
        assert_eq!(watch.next().err(), Some(LatestError::Closed));
    }
}

/// Watches "pose", and says each version that it sees and how that ended.
fn watch() {
    let segment = opened();
    segment.set_label(&argument(1));
    let mut watch = Watch::new(&segment, "pose", &argument(1));
    say("ready");
    let end = loop {
        match watch.next() {
            Ok(read) => say(read.version),
            Err(end) => break end,
        }
    };
    say(format_args!("{end:?}"));
}

#[test]
fn one_write_reaches_watchers_of_all_ways_and_readers() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let segment = create(&scratch.domain());
    let mut writer = segment.latest_writer::<Pose>("pose").expect("nobody else writes");
    let mut children: Vec<_> =
        WAYS.iter().map(|way| start("watchers::watch", &scratch, &[way])).collect();
    children.extend((0..2).map(|_| start("sleep", &scratch, &[])));
    for child in &mut children {
        assert_eq!(child.says(), "ready");
    }
    for turn in 0..50 {
        let version = writer.write(&value(writer.version() + 1)).expect("it waits for nobody");
        for child in &mut children {
            assert_eq!(child.says(), version.to_string());
        }
        std::thread::sleep(some_time(turn) / 2);
    }
    let objects = segment.objects();
    let pose = objects.iter().find(|object| object.name == "pose").expect("declared");
    assert_eq!(pose.lag, Some(0), "all have seen what there is");
    let ends = pose.endpoints.iter().filter(|end| end.role == Role::Consumer);
    let there: Vec<_> = ends.filter(|end| end.state == PeerState::Alive).collect();
    assert_eq!(there.len(), WAYS.len());
    for end in there {
        assert!(WAYS.contains(&&*end.label), "{}", end.label);
        assert_eq!((end.lag, end.stats.messages), (Some(0), 50));
        assert_eq!(end.stats.bytes, 50 * size_of::<Pose>() as u64);
    }
    drop(writer);
    let readers = children.split_off(WAYS.len());
    for mut child in children {
        assert_eq!(child.says(), "Closed");
        child.end_well();
    }
    readers.into_iter().for_each(Child::end_well);
}

#[test]
fn a_killed_watcher_leaves_its_place_and_costs_the_writer_one_wake() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let domain = scratch.domain();
    let segment = on_base_pages(domain.create("values"))
        .latest_of("pose", LatestValue::<Pose>::new().watchers(1))
        .latest::<Frame>("frame")
        .unlink_on_drop(true)
        .build()
        .expect("base pages");
    let mut writer = segment.latest_writer::<Pose>("pose").expect("nobody else writes");
    for (turn, way) in WAYS.into_iter().cycle().take(8).enumerate() {
        let mut child = start("watchers::watch", &scratch, &[way]);
        assert_eq!(child.says(), "ready");
        let full = segment.latest_watcher::<Pose>("pose").map(drop);
        refused(full, ErrorKind::TableFull, "pose");
        let version = writer.write(&value(writer.version() + 1)).expect("it waits for nobody");
        while child.says() != version.to_string() {}
        std::thread::sleep(some_time(turn as u64) * 4);
        child.kill_only();
        let inspected = domain.inspect("values").expect("it is there");
        let end = &inspected.objects[0].endpoints[1];
        assert_eq!((end.state, &*end.label, end.lag), (PeerState::Dead, way, None));
        assert_eq!((end.epoch, inspected.objects[0].lag), (2 * turn as u64 + 1, None));
        let before = writer.stats().wakes;
        for _ in 0..1000 {
            writer.write(&value(writer.version() + 1)).expect("it waits for nobody");
        }
        let wakes = writer.stats().wakes - before;
        assert!(wakes <= 1, "{wakes} wakes for nobody");
        // The place is free, and the successor is rung by a bell of its own.
        let mut watcher = segment.latest_watcher::<Pose>("pose").expect("the last was killed");
        let object = || segment.objects().remove(0);
        assert_eq!(object().lag, Some(writer.version()), "it has seen nothing yet");
        let read = watcher.read().expect("there is a value");
        assert_eq!((read.version, object().lag), (writer.version(), Some(0)));
        let bell = watcher.doorbell().expect("a folder of ours");
        assert!(matches!(bell.arm(&mut watcher), Ok(Armed::Poll { .. })));
        writer.write(&value(writer.version() + 1)).expect("it waits for nobody");
        assert!(rings_in(&bell, Duration::ZERO));
        assert_eq!(object().lag, Some(1));
    }
}

/// Writes one value, and leaves when it is told to.
fn write() {
    let segment = opened();
    let mut writer = patiently(|| segment.latest_writer::<Pose>("pose"));
    writer.write(&value(writer.version() + 1)).expect("it waits for nobody");
    say("ready");
    hear();
}

#[test]
fn a_watcher_is_told_of_a_writer_that_leaves_or_is_killed_and_of_its_successor() {
    let _quiet = Quiet::begin();
    for way in WAYS {
        let scratch = Scratch::new();
        let segment = create(&scratch.domain());
        let mut watch = Watch::new(&segment, "pose", way);
        for turn in 0..6 {
            let mut child = start("watchers::write", &scratch, &[]);
            assert_eq!(child.says(), "ready");
            assert_eq!(watch.next().expect("it wrote").version, turn + 1);
            let dies = turn % 2 == 0;
            let end = std::thread::scope(|scope| {
                let waiting = scope.spawn(|| watch.next().err());
                std::thread::sleep(some_time(turn) * 4);
                if dies {
                    child.kill()
                } else {
                    child.end_well()
                }
                waiting.join().expect("it answers")
            });
            let told = if dies { LatestError::PeerDied } else { LatestError::Closed };
            assert_eq!(end, Some(told), "{way}");
            assert_eq!(watch.next().err(), Some(told), "it is told again");
        }
    }
}

const MESSAGES: u64 = 2000;

/// Writes poses and sends numbers at random times, then leaves.
fn feed() {
    let segment = opened();
    let mut pose = segment.latest_writer::<Pose>("pose").expect("nobody else writes");
    let mut orders: Producer<u64> = segment.producer("orders").expect("nobody else sends");
    say("ready");
    hear();
    for number in 1..=MESSAGES {
        if number % 7 == 0 {
            std::thread::sleep(some_time(number) / 16);
        }
        pose.write(&value(number)).expect("it waits for nobody");
        if number % 3 == 0 {
            orders.push(number).expect("the parent reads");
        }
    }
    say("done");
}

#[test]
fn a_watcher_is_waited_for_together_with_a_ring() {
    let _quiet = Quiet::begin();
    for mode in [WaitMode::Adaptive, WaitMode::Block] {
        let scratch = Scratch::new();
        let segment = on_base_pages(scratch.domain().create("values"))
            .latest::<Pose>("pose")
            .ring::<u64>("orders", 4)
            .unlink_on_drop(true)
            .build()
            .expect("base pages");
        let mut pose = segment.latest_watcher::<Pose>("pose").expect("a place is free");
        let mut orders: Consumer<u64> = segment.consumer("orders").expect("free");
        let mut child = start("watchers::feed", &scratch, &[]);
        assert_eq!(child.says(), "ready");
        child.tell("go");
        let mut any = WaitAny::new();
        any.wait_mode(mode);
        let (mut versions, mut next) = (0, 3);
        let mut ended = (None, None);
        let deadline = Instant::now() + PATIENCE;
        while ended != (Some(LatestError::Closed), Some(RecvError::Closed)) {
            assert!(Instant::now() < deadline, "{versions} versions, order {next}: {ended:?}");
            // Those that have ended are left out.
            let found = match ended {
                (None, None) => any.wait(&mut [&mut pose, &mut orders]),
                (None, _) => any.wait(&mut [&mut pose]),
                _ => any.wait(&mut [&mut orders]).map(|_| 1),
            };
            if found == Ok(0) {
                match pose.read_if_newer(pose.seen()) {
                    Ok(Some(read)) => {
                        assert_whole(&read.value, read.version);
                        versions += 1;
                    }
                    Ok(None) => {}
                    Err(end) => ended.0 = Some(end),
                }
            } else {
                match orders.try_recv() {
                    Ok(number) => {
                        assert_eq!(number, next);
                        next += 3;
                    }
                    Err(RecvError::Empty) => {}
                    Err(end) => ended.1 = Some(end),
                }
            }
        }
        assert_eq!((pose.seen(), next), (MESSAGES, MESSAGES / 3 * 3 + 3));
        assert_eq!(pose.stats().messages, versions);
        assert_eq!(child.says(), "done");
        child.end_well();
    }
}

#[test]
fn there_are_as_many_watchers_as_were_declared() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let domain = scratch.domain();
    let many = |watchers| LatestValue::<Pose>::new().watchers(watchers);
    let builder = on_base_pages(domain.create("values")).latest_of("none", many(0));
    let segment = builder.latest_of("many", many(255)).spare(16 << 10).build().expect("base pages");
    segment.unlink_on_drop(true);
    refused(segment.add_latest("more", many(256)), ErrorKind::InvalidCapacity, "more");
    refused(segment.latest_watcher::<Pose>("none").map(drop), ErrorKind::TableFull, "none");
    let mut writer = segment.latest_writer::<Pose>("none").expect("nobody else writes");
    writer.write(&value(1)).expect("it waits for nobody");
    let mut reader = segment.latest_reader::<Pose>("none").expect("it needs no place");
    assert_whole(&reader.wait_newer(0).expect("there is a value").value, 1);

    let mut writer = segment.latest_writer::<Pose>("many").expect("nobody else writes");
    let mut watchers: Vec<_> = (0..255)
        .map(|place| {
            let watcher = segment.latest_watcher::<Pose>("many").expect("a place is free");
            assert_eq!(watcher.place(), place);
            watcher
        })
        .collect();
    refused(segment.latest_watcher::<Pose>("many").map(drop), ErrorKind::TableFull, "many");
    refused(segment.raw_latest_watcher("many").map(drop), ErrorKind::TableFull, "many");
    let bells: Vec<_> = [0, 100, 254]
        .into_iter()
        .map(|place| (place, watchers[place].doorbell().expect("a folder of ours")))
        .collect();
    for version in 1..4 {
        for (place, bell) in &bells {
            let armed = bell.arm(&mut watchers[*place]).expect("its own");
            assert!(matches!(armed, Armed::Poll { .. }));
        }
        writer.write(&value(version)).expect("it waits for nobody");
        for (_, bell) in &bells {
            assert!(rings_in(bell, Duration::ZERO));
            bell.clear();
        }
        for watcher in &mut watchers {
            let read = watcher.read_if_newer(watcher.seen()).expect("a value");
            assert_whole(&read.expect("a new one").value, version);
        }
    }
    writer.write(&value(4)).expect("it waits for nobody");
    watchers[7].read().expect("there is a value");
    let inspected = domain.inspect("values").expect("it is there");
    let object = inspected.objects.iter().find(|object| object.name == "many").expect("declared");
    assert_eq!((object.endpoints.len(), object.lag), (256, Some(1)));
    for end in &object.endpoints[1..] {
        assert_eq!(end.lag, Some(u64::from(end.slot != 7)));
        assert_eq!(end.stats.messages, if end.slot == 7 { 4 } else { 3 });
    }
    // One that leaves makes room, in its place.
    drop(watchers.remove(100));
    let again = segment.raw_latest_watcher("many").expect("one has left");
    assert_eq!((again.place(), again.size()), (100, size_of::<Pose>()));
    let sealed = domain.open_read_only("values").expect("ours");
    refused(sealed.latest_watcher::<Pose>("many").map(drop), ErrorKind::ReadOnly, "many");
}

#[test]
fn a_segment_without_a_name_rings_each_watcher_by_its_passed_descriptor() {
    let _quiet = Quiet::begin();
    let builder = Segment::unnamed().pages(PagePolicy::exactly(Rung::Base));
    let segment = builder.latest::<Pose>("pose").build();
    let segment = segment.expect("a memfd");
    let mut writer = segment.latest_writer::<Pose>("pose").expect("nobody else writes");
    let mut watchers: Vec<_> = (0..3)
        .map(|_| {
            let mut watcher = segment.latest_watcher::<Pose>("pose").expect("a place is free");
            refused(watcher.doorbell(), ErrorKind::Unsupported, "");
            let bell = watcher.doorbell_to_pass().expect("a pipe");
            writer.ring_by(watcher.place(), &bell).expect("a pipe");
            (watcher, bell)
        })
        .collect();
    for asleep in 0..3 {
        let (watcher, bell) = &mut watchers[asleep];
        assert!(matches!(bell.arm(watcher), Ok(Armed::Poll { .. })));
        let version = writer.write(&value(writer.version() + 1)).expect("it waits for nobody");
        for (index, (watcher, bell)) in watchers.iter_mut().enumerate() {
            assert_eq!(rings_in(bell, Duration::ZERO), index == asleep);
            bell.clear();
            assert_eq!(watcher.read().expect("a value").version, version);
        }
    }
    let (socket, _other) = std::os::unix::net::UnixStream::pair().expect("sockets");
    writer.ring_by(0, &socket).expect_err("a socket");
}

//! Lanes between processes: producers and consumers killed at random moments, stopped, leaving; one
//! that writes anything anywhere; the errors of whoever asks for the wrong thing.

#[expect(dead_code, reason = "what the tests of other programs share, too")]
mod common;

use common::child::{self, Child, argument, hear, say};
use common::{Quiet, Scratch, domain, refused};
use hugeshm::{
    Armed, BackingKind, Domain, ErrorKind, FromLane, LaneProducer, Lanes, LanesConsumer,
    ObjectKind, PagePolicy, PeerState, RecvError, Role, Rung, Schema, Segment, SegmentBuilder,
    SendError, TypeIdentity, WaitAny, WaitMode,
};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What is sent: its words belong together, so that a torn one shows.
type Words = [u64; 5];

const MODES: [WaitMode; 4] = [WaitMode::Spin, WaitMode::Yield, WaitMode::Adaptive, WaitMode::Block];
/// Nothing here takes this long; what does hangs.
const HANG: Duration = Duration::from_secs(20);

/// The only message that stands at this position of this lane.
fn words(lane: u32, position: u64) -> Words {
    let tag = u64::from(lane) << 56 | position;
    core::array::from_fn(|i| tag.rotate_left(11 * i as u32) ^ i as u64)
}

/// A domain in a folder of its own; nothing may be left in it.
struct Stage {
    scratch: Scratch,
    domain: Domain,
    /// Dropped last.
    _quiet: Quiet,
}

impl Stage {
    fn new() -> Self {
        let quiet = Quiet::begin();
        let scratch = Scratch::new();
        Self { domain: scratch.domain(), scratch, _quiet: quiet }
    }

    fn builder(&self) -> SegmentBuilder {
        let builder = self.domain.create("s").pages(PagePolicy::exactly(Rung::Base));
        builder.backing(BackingKind::Tmpfs)
    }

    /// A segment on base pages that goes with its last handle here.
    fn segment(&self, declare: impl FnOnce(SegmentBuilder) -> SegmentBuilder) -> Segment {
        declare(self.builder()).unlink_on_drop(true).build().expect("base pages are always there")
    }

    /// A child that plays `role` with the folder and more arguments.
    fn child(&self, role: &str, arguments: &[&str]) -> Child {
        let folder = self.scratch.path().display().to_string();
        Child::start(role, &[&[folder.as_str()], arguments].concat())
    }
}

fn opened() -> Segment {
    domain(argument(0).as_ref()).open("s").expect("the parent made it")
}

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(child.pid() as i32);
    kill(pid, signal).expect("a child of ours");
    if signal == Signal::SIGSTOP {
        // Until all its threads stand still.
        let stopped = waitpid(pid, Some(WaitPidFlag::WUNTRACED)).expect("a child of ours");
        assert!(matches!(stopped, WaitStatus::Stopped(..)));
    }
}

#[test]
#[ignore = "the body of child processes, which other tests start"]
fn child_process() {
    match child::role().as_deref() {
        None => {}
        Some("send") => send(),
        Some("pour") => pour(),
        Some("receive") => receive(),
        Some("scribble") => scribble(),
        Some(role) => panic!("no such role: {role}"),
    }
}

/// Sends so many messages as it is told, each time it is told.
fn send() {
    let segment = opened();
    let mut producer = segment.lane_producer::<Words>("lanes").expect("a free lane");
    producer.wait_mode(MODES[argument(1).parse::<usize>().expect("a number")]);
    say(producer.lane());
    while let Some(line) = hear() {
        let Ok(count) = line.parse::<u64>() else { break };
        for _ in 0..count {
            let message = words(producer.lane(), producer.position());
            producer.push_timeout(message, HANG).expect("the parent reads");
        }
        say(producer.stats().sleeps);
    }
}

/// Sends messages and batches until it is killed, and writes down how many it has surely sent.
fn pour() {
    let segment = opened();
    let mut producer = segment.lane_producer::<Words>("lanes").expect("a free lane");
    producer.wait_mode(MODES[argument(1).parse::<usize>().expect("a number")]);
    let lane = producer.lane();
    let mut sent = segment.latest_writer::<u64>(&format!("sent.{lane}")).expect("nobody else");
    say(lane);
    loop {
        let next = producer.position();
        if next % 5 == 4 {
            let batch: Vec<Words> = (next..next + 6).map(|n| words(lane, n)).collect();
            producer.push_slice(&batch).expect("the parent reads");
        } else {
            producer.push(words(lane, next)).expect("the parent reads");
        }
        sent.write(&producer.position()).expect("it can be written");
    }
}

/// Looks at messages, tells each, and only then takes it; until it is killed.
fn receive() {
    let segment = opened();
    let mut consumer = segment.lanes_consumer::<Words>("lanes").expect("the last was killed");
    let mut seen = segment.producer::<[u64; 2]>("seen").expect("the last was killed");
    consumer.wait_mode(MODES[argument(1).parse::<usize>().expect("a number")]);
    let bell = consumer.doorbell().expect("a folder of ours");
    say("ready");
    loop {
        match consumer.peek() {
            Ok(FromLane { lane, position, value }) => {
                assert!(value == words(lane, position), "a torn message");
                seen.push([u64::from(lane), position]).expect("the parent reads");
                consumer.skip().expect("it is there");
            }
            Err(RecvError::Empty) => {
                if let Armed::Poll { at_most } = bell.arm(&mut consumer).expect("its own") {
                    rings_in(&bell, at_most);
                    bell.clear();
                }
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Polls for at most `timeout`; whether the bell rang.
fn rings_in(bell: &hugeshm::Doorbell, timeout: Duration) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut fds = [PollFd::new(bell.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(timeout).expect("not that long");
    poll(&mut fds, timeout).expect("a descriptor of ours") == 1
}

/// No two of these times are equal.
fn some_time(turn: u64) -> Duration {
    Duration::from_micros(turn.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 51)
}

#[test]
fn every_message_of_producers_killed_at_random_comes_once_and_in_order() {
    const LANES: u32 = 4;
    let stage = Stage::new();
    let segment = stage.segment(|builder| {
        (0..LANES).fold(builder.lanes::<Words>("lanes", LANES, 19), |builder, lane| {
            builder.latest::<u64>(&format!("sent.{lane}"))
        })
    });
    let mut consumer = segment.lanes_consumer::<Words>("lanes").expect("free");
    consumer.outlive_peer(true);
    let stop = consumer.canceller();
    let receiver = std::thread::spawn(move || {
        let (mut next, mut batch, mut turn) = ([0_u64; LANES as usize], Vec::new(), 0);
        loop {
            turn += 1;
            consumer.wait_mode(MODES[turn / 512 % MODES.len()]);
            let done = match turn % 3 {
                0 => consumer.recv_some(&mut batch, 40).map(drop),
                _ => consumer.recv().map(|message| batch.push(message)),
            };
            for FromLane { lane, position, value } in batch.drain(..) {
                let next = &mut next[lane as usize];
                assert_eq!(position, *next, "lane {lane}");
                assert!(value == words(lane, position), "a torn message in lane {lane}");
                *next += 1;
            }
            match done {
                Ok(()) => {}
                Err(RecvError::Cancelled) => return (consumer, next),
                Err(error) => panic!("{error}"),
            }
        }
    });
    let mut children: Vec<Child> = Vec::new();
    for turn in 0..60 {
        let mut child = stage.child("pour", &[&(turn % MODES.len()).to_string()]);
        child.says();
        children.push(child);
        if children.len() == LANES as usize {
            std::thread::sleep(some_time(turn as u64));
            children.remove(turn % 3).kill();
        }
    }
    children.into_iter().for_each(Child::kill);
    stop.cancel();
    let (mut consumer, mut next) = receiver.join().expect("it saw nothing wrong");
    stop.reset();
    consumer.outlive_peer(false);
    // What is still there, and then the end.
    let end = loop {
        match consumer.recv() {
            Ok(FromLane { lane, position, value }) => {
                assert_eq!((position, value), (next[lane as usize], words(lane, position)));
                next[lane as usize] += 1;
            }
            Err(end) => break end,
        }
    };
    assert_eq!(end, RecvError::PeerDied);
    for lane in 0..LANES {
        let successor = segment.lane_producer_at::<Words>("lanes", lane).expect("it was killed");
        assert_eq!(successor.position(), next[lane as usize]);
        let mut sent = segment.latest_reader::<u64>(&format!("sent.{lane}")).expect("it is there");
        let sent = sent.read().map_or(0, |sent| sent.value);
        assert!(sent <= next[lane as usize], "{sent} were sent in lane {lane}: {next:?}");
    }
    eprintln!("{} messages of 60 killed producers", next.iter().sum::<u64>());
    assert!(next.iter().sum::<u64>() > 1000);
}

/// What a new consumer has not yet told.
struct Fresh {
    lanes: [bool; 3],
    repeated: bool,
}

#[test]
fn killed_consumers_are_followed_by_others_who_miss_nothing() {
    let stage = Stage::new();
    let segment =
        stage.segment(|builder| builder.lanes::<Words>("lanes", 3, 8).ring::<[u64; 2]>("seen", 64));
    let over = Arc::new(AtomicBool::new(false));
    let senders: Vec<_> = (0..3)
        .map(|lane| {
            let mut producer = segment.lane_producer::<Words>("lanes").expect("a free lane");
            let over = Arc::clone(&over);
            producer.wait_mode(MODES[lane + 1]).outlive_peer(true);
            std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let message = words(producer.lane(), producer.position());
                    match producer.push_timeout(message, Duration::from_millis(20)) {
                        Ok(()) | Err(SendError::TimedOut) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                producer.position()
            })
        })
        .collect();
    let mut seen = segment.consumer::<[u64; 2]>("seen").expect("free");
    seen.outlive_peer(true);
    let (mut next, mut again) = ([0_u64; 3], 0);
    // What its predecessor told and was killed before it took, a consumer tells again; that is one
    // at most, and the first of its lane.
    let mut check = |[lane, position]: [u64; 2], fresh: &mut Fresh| {
        let (lane, next) = (lane as usize, &mut next[lane as usize]);
        if fresh.lanes[lane] && !fresh.repeated && position + 1 == *next {
            fresh.repeated = true;
            again += 1;
        } else {
            assert_eq!(position, *next, "lane {lane}");
            *next += 1;
        }
        fresh.lanes[lane] = false;
    };
    for turn in 0..40 {
        let mut child = stage.child("receive", &[&(turn % MODES.len()).to_string()]);
        child.says();
        let killer = std::thread::spawn(move || {
            std::thread::sleep(some_time(turn as u64));
            child.kill();
        });
        let mut fresh = Fresh { lanes: [true; 3], repeated: false };
        while !killer.is_finished() {
            if let Ok(message) = seen.recv_timeout(Duration::from_millis(1)) {
                check(message, &mut fresh);
            }
        }
        killer.join().expect("it kills");
        while let Ok(message) = seen.try_recv() {
            check(message, &mut fresh);
        }
    }
    over.store(true, Ordering::Relaxed);
    let sent: Vec<u64> = senders.into_iter().map(|sender| sender.join().expect("sound")).collect();
    let mut consumer = segment.lanes_consumer::<Words>("lanes").expect("the last was killed");
    let mut fresh = Fresh { lanes: [true; 3], repeated: false };
    let mut rest = Vec::new();
    while let Ok(FromLane { lane, position, value }) = consumer.try_recv() {
        assert!(value == words(lane, position));
        rest.push([u64::from(lane), position]);
    }
    rest.into_iter().for_each(|message| check(message, &mut fresh));
    assert_eq!(next.to_vec(), sent);
    eprintln!("{} messages to 40 killed consumers, {again} told twice", sent.iter().sum::<u64>());
    assert!(sent.iter().sum::<u64>() > 500);
}

#[test]
fn a_stopped_producer_holds_nobody_up() {
    let stage = Stage::new();
    let segment = stage.segment(|builder| builder.lanes::<Words>("lanes", 3, 8));
    let mut consumer = segment.lanes_consumer::<Words>("lanes").expect("free");
    let mut next = [0; 3];
    let mut take = |consumer: &mut LanesConsumer<Words>, count: u64, of: u32| {
        for _ in 0..count {
            let FromLane { lane, position, value } = consumer.recv_timeout(HANG).expect("sent");
            assert_eq!((lane, position), (of, next[lane as usize]));
            assert!(value == words(lane, position));
            next[lane as usize] += 1;
        }
    };
    let mut children: Vec<Child> = MODES[1..]
        .iter()
        .enumerate()
        .map(|(lane, _)| {
            let mut child = stage.child("send", &[&(lane + 1).to_string()]);
            assert_eq!(child.says(), lane.to_string());
            child
        })
        .collect();
    for stopped in 0..3 {
        signal(&children[stopped], Signal::SIGSTOP);
        for (lane, child) in children.iter_mut().enumerate() {
            child.tell("300");
            if lane != stopped {
                take(&mut consumer, 300, lane as u32);
                child.says();
            }
        }
        assert_eq!(consumer.peer_of(stopped as u32), Some(PeerState::Alive));
        let answer = consumer.recv_timeout(Duration::from_millis(120));
        assert_eq!(answer, Err(RecvError::TimedOut), "it is waited for");
        signal(&children[stopped], Signal::SIGCONT);
        take(&mut consumer, 300, stopped as u32);
        children[stopped].says();
    }
    assert_eq!(consumer.position(), 3 * 3 * 300);
    children.into_iter().for_each(Child::end_well);
    assert_eq!(consumer.recv(), Err(RecvError::Closed));
}

#[test]
fn producers_of_full_lanes_sleep_and_are_woken() {
    let stage = Stage::new();
    let segment = stage.segment(|builder| builder.lanes::<Words>("lanes", 4, 2));
    let mut consumer = segment.lanes_consumer::<Words>("lanes").expect("free");
    let mut children: Vec<Child> = (0..4)
        .map(|_| {
            let mut child = stage.child("send", &["3"]);
            child.says();
            child
        })
        .collect();
    children.iter_mut().for_each(|child| child.tell("200"));
    let mut next = [0; 4];
    for turn in 0..4 * 200 {
        if turn % 100 == 0 {
            // All of them fill their lanes, and sleep.
            std::thread::sleep(Duration::from_millis(5));
        }
        let FromLane { lane, position, value } = consumer.recv_timeout(HANG).expect("sent");
        assert_eq!(position, next[lane as usize]);
        assert!(value == words(lane, position));
        next[lane as usize] += 1;
    }
    for child in &mut children {
        assert!(child.says().parse::<u64>().expect("a number") > 0, "it never slept");
    }
    assert!(consumer.stats().wakes > 0);
    children.into_iter().for_each(Child::end_well);
}

#[test]
fn a_close_and_a_death_are_told_when_no_producer_is_left() {
    let stage = Stage::new();
    let segment = stage.segment(|builder| builder.lanes::<Words>("lanes", 5, 8));
    let mut consumer = segment.lanes_consumer::<Words>("lanes").expect("free");
    assert_eq!(consumer.peer(), PeerState::Never);
    assert_eq!(consumer.recv_timeout(Duration::from_millis(80)), Err(RecvError::TimedOut));
    for mode in MODES {
        consumer.wait_mode(mode);
        for dies in [false, true] {
            let mut children = [stage.child("send", &["2"]), stage.child("send", &["3"])];
            for child in &mut children {
                child.says();
                child.tell("3");
                child.says();
            }
            let change = consumer.peer_changed().expect("two came");
            assert_eq!(change.new_epoch - change.old_epoch, 2);
            let [mut first, second] = children;
            if dies {
                first.kill_only();
            } else {
                first.end_well();
            }
            // What was sent comes first, and who lives is waited for.
            for _ in 0..6 {
                consumer.recv_timeout(HANG).expect("sent");
            }
            let soon = Duration::from_millis(70);
            assert_eq!(consumer.recv_timeout(soon), Err(RecvError::TimedOut));
            let waiting = std::thread::spawn(move || {
                let answer = consumer.recv_timeout(HANG);
                (consumer, answer)
            });
            second.end_well();
            let answer;
            (consumer, answer) = waiting.join().expect("sound");
            let end = if dies { RecvError::PeerDied } else { RecvError::Closed };
            assert_eq!(answer, Err(end), "{mode:?}");
            let states = [0, 1].map(|lane| consumer.peer_of(lane));
            assert!(states.contains(&Some(PeerState::Closed)));
            assert_eq!(states.contains(&Some(PeerState::Dead)), dies);
        }
        // Whoever takes the dead one's lane leaves it in good order.
        for lane in 0..2 {
            drop(segment.lane_producer_at::<Words>("lanes", lane).expect("free"));
        }
        consumer.peer_changed();
    }
    assert_eq!(consumer.peer_of(5), None);
}

#[test]
fn a_consumer_that_leaves_or_dies_ends_the_waits_of_all_producers() {
    let stage = Stage::new();
    let segment =
        stage.segment(|builder| builder.lanes::<Words>("lanes", 3, 2).ring::<[u64; 2]>("seen", 1));
    let full = || -> Vec<LaneProducer<Words>> {
        let producer = |_| segment.lane_producer::<Words>("lanes").expect("free");
        let mut all: Vec<_> = (0..3).map(producer).collect();
        for producer in &mut all {
            while producer.try_push(words(producer.lane(), producer.position())).is_ok() {}
        }
        all
    };
    let answers = |all: Vec<LaneProducer<Words>>, end: &dyn Fn()| -> Vec<_> {
        let waits = |(index, mut producer): (usize, LaneProducer<Words>)| {
            producer.wait_mode(MODES[index + 1]);
            std::thread::spawn(move || {
                producer.push_timeout(words(producer.lane(), producer.position()), HANG)
            })
        };
        let waiting: Vec<_> = all.into_iter().enumerate().map(waits).collect();
        std::thread::sleep(Duration::from_millis(10));
        end();
        waiting.into_iter().map(|one| one.join().expect("sound")).collect()
    };
    let consumer = std::cell::Cell::new(segment.lanes_consumer::<Words>("lanes").ok());
    let told = answers(full(), &|| drop(consumer.take()));
    assert_eq!(told, [Err(SendError::Closed); 3]);
    // This one looks at two at most: nobody reads what it tells.
    let child = std::cell::Cell::new(Some(stage.child("receive", &["2"])));
    let mut started = child.take().expect("just put there");
    started.says();
    child.set(Some(started));
    let mut seen = segment.consumer::<[u64; 2]>("seen").expect("free");
    seen.recv_timeout(HANG).expect("it tells");
    std::thread::sleep(Duration::from_millis(5));
    let told = answers(full(), &|| child.take().expect("still there").kill());
    assert_eq!(told, [Err(SendError::PeerDied); 3]);
}

#[test]
fn lanes_are_waited_for_together_with_others_and_by_a_doorbell() {
    let stage = Stage::new();
    let segment = stage.segment(|builder| {
        builder.lanes::<Words>("lanes", 3, 4).lanes::<u64>("others", 2, 4).ring::<u64>("ring", 4)
    });
    let mut consumer = segment.lanes_consumer::<Words>("lanes").expect("free");
    let mut others = segment.lanes_consumer::<u64>("others").expect("free");
    let mut ring = segment.consumer::<u64>("ring").expect("free");
    let mut other = segment.lane_producer::<u64>("others").expect("free");
    let _ring = segment.producer::<u64>("ring").expect("free");
    let mut children: Vec<Child> = (0..3)
        .map(|mode| {
            let mut child = stage.child("send", &[&(mode + 1).to_string()]);
            child.says();
            child
        })
        .collect();
    let mut next = [0; 3];
    let mut take = |message: FromLane<Words>| {
        let FromLane { lane, position, value } = message;
        assert_eq!(position, next[lane as usize]);
        assert!(value == words(lane, position));
        next[lane as usize] += 1;
    };
    for mode in [WaitMode::Adaptive, WaitMode::Block] {
        let mut any = WaitAny::new();
        any.wait_mode(mode);
        children.iter_mut().for_each(|child| child.tell("300"));
        for _ in 0..900 {
            let found = any.wait_timeout(&mut [&mut ring, &mut others, &mut consumer], HANG);
            assert_eq!(found, Ok(2));
            take(consumer.try_recv().expect("there is one"));
        }
        children.iter_mut().for_each(|child| drop(child.says()));
        other.push(3).expect("room");
        assert_eq!(any.wait(&mut [&mut ring, &mut others, &mut consumer]), Ok(1));
        assert_eq!(others.try_recv().expect("there is one").value, 3);
    }
    // A wake-up that is lost hangs.
    let bell = consumer.doorbell().expect("a folder of ours");
    children.iter_mut().for_each(|child| child.tell("300"));
    let (mut left, mut slept) = (900, 0);
    while left > 0 {
        match consumer.try_recv() {
            Ok(message) => {
                take(message);
                left -= 1;
            }
            Err(RecvError::Empty) => match bell.arm(&mut consumer).expect("its own") {
                Armed::Ready => {}
                Armed::Poll { at_most } => {
                    let refused = at_most < Duration::from_millis(50);
                    assert!(rings_in(&bell, if refused { at_most } else { HANG }) || refused);
                    bell.clear();
                    slept += 1;
                }
            },
            Err(error) => panic!("{error}"),
        }
    }
    eprintln!("{slept} sleeps in poll");
    children.iter_mut().for_each(|child| drop(child.says()));
    children.into_iter().for_each(Child::end_well);
    // Each producer has a bell of its own, and hears of room in its own lane.
    let mut producers = [0, 1].map(|lane| {
        let mut producer = segment.lane_producer_at::<Words>("lanes", lane).expect("free");
        while producer.try_push(words(lane, producer.position())).is_ok() {}
        producer
    });
    let bells = producers.each_mut().map(|producer| producer.doorbell().expect("a folder of ours"));
    for (bell, producer) in bells.iter().zip(&mut producers) {
        assert!(matches!(bell.arm(producer).expect("its own"), Armed::Poll { .. }));
    }
    let first = consumer.recv().expect("full lanes").lane as usize;
    assert!(rings_in(&bells[first], HANG));
    assert!(!rings_in(&bells[1 - first], Duration::ZERO));
    while consumer.recv().expect("full lanes").lane as usize == first {}
    assert!(rings_in(&bells[1 - first], HANG));
}

#[test]
fn the_first_free_lane_is_given_out_and_all_of_them_have_their_progress_told() {
    let stage = Stage::new();
    let segment = stage.segment(|builder| builder.lanes::<u64>("lanes", 255, 4));
    let mut producers: Vec<_> =
        (0..255).map(|_| segment.lane_producer::<u64>("lanes").expect("free")).collect();
    assert!(producers.iter().map(LaneProducer::lane).eq(0..255));
    let full = refused(segment.lane_producer::<u64>("lanes"), ErrorKind::TableFull, "lanes");
    assert!(full.to_string().contains("255 lanes are taken"), "{full}");
    refused(segment.lane_producer_at::<u64>("lanes", 7), ErrorKind::Busy, "lanes");
    let mut consumer = segment.lanes_consumer::<u64>("lanes").expect("free");
    refused(segment.lanes_consumer::<u64>("lanes"), ErrorKind::Busy, "lanes");
    for (lane, producer) in producers.iter_mut().enumerate() {
        for number in 0..lane as u64 % 4 {
            producer.push(number).expect("room");
        }
    }
    for _ in 0..100 {
        consumer.recv().expect("there are more");
    }
    let sent: u64 = (0..255).map(|lane| lane % 4).sum();
    for objects in [segment.objects(), stage.domain.inspect("s").expect("readable").objects] {
        let lanes = &objects[0];
        assert_eq!((lanes.kind, lanes.lag), (ObjectKind::Lanes, Some(sent - 100)));
        assert_eq!((lanes.capacity, lanes.endpoints.len()), (4, 256));
        for endpoint in &lanes.endpoints {
            let messages = match endpoint.role {
                Role::Producer => u64::from(endpoint.slot) % 4,
                _ => 100,
            };
            assert_eq!((endpoint.stats.messages, endpoint.stats.bytes), (messages, 8 * messages));
            assert_eq!(endpoint.state, PeerState::Alive);
        }
    }
    drop(producers.remove(9));
    let next = segment.lane_producer::<u64>("lanes").expect("one left");
    assert_eq!((next.lane(), next.position(), next.len()), (9, 1, consumer.lag_of(9).expect("9")));
}

#[test]
fn who_asks_for_the_wrong_thing_is_told_what_is_there() {
    let stage = Stage::new();
    let quote = TypeIdentity::new("quote", 2, 7);
    let named = Lanes::<[u64; 3]>::new(2, 4).identity(quote.clone());
    let named = named.schema(Schema::new(1, *b"three numbers"));
    let segment = stage.segment(|builder| {
        let builder = builder.lanes::<u32>("plain", 2, 4).lanes_of("q", named);
        builder.ring::<u32>("ring", 4).spare(64 << 10)
    });
    let kind = |result: Result<(), hugeshm::Error>| result.unwrap_err().kind();
    for result in [
        segment.lane_producer::<u64>("plain").map(drop),
        segment.lanes_consumer::<u64>("plain").map(drop),
        segment.lane_producer_as::<u32>("plain", &quote).map(drop),
        segment.lane_producer_as::<[u64; 2]>("q", &quote).map(drop),
    ] {
        assert_eq!(kind(result), ErrorKind::TypeMismatch);
    }
    for result in [
        segment.lane_producer::<u32>("ring").map(drop),
        segment.lanes_consumer::<u32>("ring").map(drop),
        segment.producer::<u32>("plain").map(drop),
        segment.raw_consumer("plain").map(drop),
    ] {
        assert_eq!(kind(result), ErrorKind::KindMismatch);
    }
    assert_eq!(kind(segment.lane_producer::<u32>("no").map(drop)), ErrorKind::NotFound);
    let outside = segment.lane_producer_at::<u32>("plain", 2).map(drop);
    assert_eq!(kind(outside), ErrorKind::InvalidArgument);
    // A prefix may be read under a name.
    let mut producer = segment.lane_producer_at_as::<[u64; 3]>("q", 1, &quote).expect("free");
    let mut consumer = segment.lanes_consumer_as::<[u64; 2]>("q", &quote).expect("a prefix");
    producer.push([1, 2, 3]).expect("room");
    assert_eq!(consumer.recv(), Ok(FromLane { lane: 1, position: 0, value: [1, 2] }));
    assert!(segment.schema("q").expect("it is there").is_some());
    // A live segment takes more of them, each name once, and none that cannot be.
    segment.add_lanes("more", Lanes::<u8>::new(3, 2)).expect("there is room");
    let again = segment.add_lanes("more", Lanes::<u8>::new(3, 2));
    assert_eq!(kind(again), ErrorKind::AlreadyExists);
    for (lanes, capacity, wrong) in [
        (0, 4, ErrorKind::InvalidArgument),
        (256, 4, ErrorKind::InvalidArgument),
        (2, 0, ErrorKind::InvalidCapacity),
        (255, 1 << 47, ErrorKind::InvalidArgument),
        (255, 1 << 20, ErrorKind::NoSpace),
    ] {
        let declared = Lanes::<[u64; 60]>::new(lanes, capacity);
        let error = segment.add_lanes("odd", declared).unwrap_err();
        assert_eq!(error.kind(), wrong, "{error}");
    }
    let again = |lanes, capacity| {
        let builder = Segment::open_or_create("s").domain(stage.domain.clone());
        builder.lanes::<u32>("plain", lanes, capacity).build().map(drop)
    };
    assert!(again(2, 4).is_ok());
    assert_eq!(kind(again(3, 4)), ErrorKind::KindMismatch, "another number of lanes");
    assert_eq!(kind(again(2, 5)), ErrorKind::KindMismatch);
    let reader = stage.domain.open_read_only("s").expect("it is there");
    assert_eq!(kind(reader.lanes_consumer::<u32>("plain").map(drop)), ErrorKind::ReadOnly);
    assert_eq!(kind(reader.lane_producer::<u32>("plain").map(drop)), ErrorKind::ReadOnly);
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

/// Writes into the data file, which is the memory, from `first` to `last`.
fn scribble() {
    use std::os::unix::fs::FileExt;
    let number = |index| argument(index).parse::<u64>().expect("a number");
    let (first, last, mut random) = (number(2), number(3), Random(number(4)));
    let file = std::fs::File::options().write(true).open(argument(1)).expect("the data file");
    let over = Arc::new(AtomicBool::new(false));
    let heard = Arc::clone(&over);
    std::thread::spawn(move || {
        hear();
        heard.store(true, Ordering::Relaxed);
    });
    say("ready");
    let mut written = 0_u64;
    while !over.load(Ordering::Relaxed) {
        let word = match random.below(6) {
            0 => 0,
            1 => u64::MAX,
            2 => random.below(300),
            3 => 1 << random.below(64),
            4 => (random.below(40) + 1) << 4 | random.below(9),
            _ => random.below(u64::MAX),
        };
        let offset = first + random.below(last - first) / 8 * 8;
        file.write_all_at(&word.to_le_bytes(), offset).expect("our file");
        written += 1;
    }
    say(written);
}

#[test]
fn a_process_that_writes_anything_anywhere_gets_errors_and_holds_nobody_up() {
    let stage = Stage::new();
    let segment = stage.segment(|builder| builder.lanes::<Words>("lanes", 3, 6));
    let inspected = stage.domain.inspect("s").expect("readable");
    let (last, payload) = (inspected.used, inspected.objects[0].payload_bytes);
    // The words of lanes, and what is in them; not who holds what.
    let (first, last) = ((last - payload - 4 * 384).to_string(), last.to_string());
    let file = stage.scratch.data_file("s").display().to_string();
    let mut child = stage.child("scribble", &[&file, &first, &last, "7"]);
    child.says();
    let over = Arc::new(AtomicBool::new(false));
    let soon = Duration::from_millis(2);
    let senders: Vec<_> = (0..3)
        .map(|lane| {
            let (segment, over) = (segment.clone(), Arc::clone(&over));
            std::thread::spawn(move || {
                let (mut passed, mut corrupt) = (0_u64, 0_u64);
                while !over.load(Ordering::Relaxed) {
                    let Ok(mut producer) = segment.lane_producer_at::<Words>("lanes", lane) else {
                        corrupt += 1;
                        std::thread::sleep(Duration::from_micros(200));
                        continue;
                    };
                    producer.wait_mode(MODES[lane as usize + 1]).outlive_peer(true);
                    for number in 0..2000 {
                        let done = match number % 3 {
                            0 => producer.try_push(words(lane, number)),
                            1 => producer.push_timeout(words(lane, number), soon),
                            _ => producer.push_batch(&[words(lane, number); 5]).map(drop),
                        };
                        match done {
                            Ok(()) => passed += 1,
                            Err(SendError::Corrupt(_)) => {
                                corrupt += 1;
                                break;
                            }
                            Err(SendError::Full | SendError::TimedOut) => {}
                            Err(error) => panic!("{error}"),
                        }
                        if over.load(Ordering::Relaxed) {
                            break;
                        }
                        _ = (producer.len(), producer.stats());
                    }
                }
                (passed, corrupt)
            })
        })
        .collect();
    let (start, mut batch, mut seen) = (Instant::now(), Vec::new(), [0_u64; 3]);
    while start.elapsed() < Duration::from_millis(1500) {
        // No lie in a lane keeps a consumer away.
        let mut consumer = segment.lanes_consumer::<Words>("lanes").expect("free");
        consumer.wait_mode(MODES[seen[1] as usize % MODES.len()]).outlive_peer(true);
        for number in 0..500 {
            let done = match number % 4 {
                0 => consumer.try_recv().map(drop),
                1 => consumer.recv_timeout(soon).map(drop),
                2 => consumer.peek().map(drop),
                _ => consumer.recv_batch(&mut batch, 9).map(drop),
            };
            batch.clear();
            match done {
                Ok(()) => seen[0] += 1,
                Err(RecvError::Corrupt(_)) => {
                    assert!(consumer.failed_lane().is_some());
                    seen[1] += 1;
                }
                Err(RecvError::Empty | RecvError::TimedOut) => seen[2] += 1,
                Err(error) => panic!("{error}"),
            }
            if (0..3).all(|lane| consumer.corruption_of(lane).is_some()) {
                break;
            }
            _ = (consumer.lag(), consumer.peer());
        }
        _ = stage.domain.inspect("s").expect("readable");
    }
    over.store(true, Ordering::Relaxed);
    for sender in senders {
        let (passed, corrupt) = sender.join().expect("no lie makes it panic");
        eprintln!("sent {passed}, corrupt {corrupt}");
    }
    eprintln!("received, corrupt, nothing: {seen:?}");
    assert!(seen[0] > 100 && seen[1] > 10, "{seen:?}");
    child.tell("enough");
    eprintln!("{} words were written", child.says());
    child.end_well();
    assert!(start.elapsed() < HANG);
}

#[cfg(feature = "tokio")]
#[test]
fn lanes_are_awaited_from_another_process_and_another_task() {
    use hugeshm::{AsyncLaneProducer, AsyncLanesConsumer};
    let stage = Stage::new();
    let segment = stage.segment(|builder| builder.lanes::<Words>("lanes", 3, 3));
    let mut child = stage.child("send", &["2"]);
    child.says();
    child.tell("500");
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let consumer = segment.lanes_consumer("lanes").expect("free");
        let producer = segment.lane_producer("lanes").expect("free");
        let mut consumer = AsyncLanesConsumer::<Words>::new(consumer).expect("a folder of ours");
        let mut producer = AsyncLaneProducer::<Words>::new(producer).expect("a folder of ours");
        let sends = tokio::spawn(async move {
            for _ in 0..500 {
                let message = words(producer.get_ref().lane(), producer.get_ref().position());
                producer.push(message).await.expect("somebody reads");
            }
        });
        let (mut next, mut batch) = ([0; 3], Vec::new());
        while next.iter().sum::<u64>() < 1000 {
            let some = async {
                batch.push(consumer.recv().await?);
                consumer.get_mut().recv_batch(&mut batch, 5).or(Ok::<_, RecvError>(0))
            };
            tokio::time::timeout(HANG, some).await.expect("it hangs").expect("they send");
            for FromLane { lane, position, value } in batch.drain(..) {
                assert_eq!((position, value), (next[lane as usize], words(lane, position)));
                next[lane as usize] += 1;
            }
        }
        assert_eq!(next, [500, 500, 0]);
        sends.await.expect("sound");
        child.end_well();
        assert_eq!(consumer.recv().await, Err(RecvError::Closed));
    });
}

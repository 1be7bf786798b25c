//! Broadcast rings between processes: everyone receives everything or is told what it missed,
//! whoever is killed, stopped, or may only read.

#[expect(dead_code, reason = "what the tests of other programs share, too")]
mod common;

use common::child::{self, Child};
use common::machine::{PrivateMount, pages};
use common::{M2, Quiet, Scratch, domain, is_root};
use hugeshm::{
    BackingKind, BroadcastConsumer, BroadcastRecords, BroadcastRing, Domain, ErrorKind, Join,
    Lifetime, PagePolicy, PageSize, PeerState, Producer, RecvError, Role, Rung, Segment,
    SegmentBuilder, SendError, WaitMode, Waitable, wait_any,
};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::path::Path;
use std::time::{Duration, Instant};

/// In a line with its neighbours' header word.
type Small = [u64; 1];
/// A tick of a full line; the words belong together, so that a torn one shows.
type Tick = [u64; 8];
/// Of several lines.
type Book = [u64; 65];

const PATIENCE: Duration = Duration::from_secs(60);

fn message<const N: usize>(number: u64) -> [u64; N] {
    std::array::from_fn(|i| number.rotate_left(i as u32 % 64) ^ i as u64)
}

fn check<const N: usize>(got: [u64; N], position: u64) {
    assert_eq!(got, message::<N>(position), "at {position}");
}

/// Record number `number`: of any length, and of no other.
fn record(number: u64) -> Vec<u8> {
    let len = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as usize % 600;
    (0..len).map(|i| (number.rotate_left(i as u32 % 64) ^ i as u64) as u8).collect()
}

fn on_base_pages(builder: SegmentBuilder) -> SegmentBuilder {
    builder.pages(PagePolicy::exactly(Rung::Base)).backing(BackingKind::Tmpfs)
}

fn declare(builder: SegmentBuilder) -> SegmentBuilder {
    builder
        .broadcast::<Small>("small", 100)
        .broadcast::<Tick>("ticks", 500)
        .broadcast_of("books", BroadcastRing::<Book>::new(50).consumers(255))
        .broadcast_of("orders", BroadcastRing::<Tick>::new(64).consumers(4).lossless(true))
        .broadcast_records("news", 64 << 10)
        .broadcast_records_of("log", BroadcastRecords::new(16 << 10).lossless(true))
}

fn create(domain: &Domain) -> Segment {
    let builder = declare(on_base_pages(domain.create("many")));
    builder.unlink_on_drop(true).build().expect("base pages")
}

fn opened() -> Segment {
    domain(Path::new(&child::argument(0))).open("many").expect("the parent made it")
}

fn start(role: &str, scratch: &Scratch, arguments: &[&str]) -> Child {
    let folder = scratch.path().display().to_string();
    Child::start(role, &[&[folder.as_str()], arguments].concat())
}

fn stop(child: &Child) {
    let pid = Pid::from_raw(child.pid() as i32);
    kill(pid, Signal::SIGSTOP).expect("it runs");
    // Until all its threads stand still.
    let stopped = waitpid(pid, Some(WaitPidFlag::WUNTRACED)).expect("a child of ours");
    assert!(matches!(stopped, WaitStatus::Stopped(..)));
}

/// What one that receives has come to.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    first: u64,
    received: u64,
    missed: u64,
}

/// Receives until position `end`, or until the producer is gone; each message is checked.
fn receive(rx: &mut BroadcastConsumer<Tick>, end: u64) -> Sum {
    let mut sum = Sum { first: rx.position(), ..Sum::default() };
    while rx.position() < end {
        let position = rx.position();
        match rx.recv_timeout(PATIENCE) {
            Ok(tick) => {
                check(tick, position);
                sum.received += 1;
            }
            Err(RecvError::Gap { missed }) => sum.missed += missed,
            Err(error) => panic!("at {position} of {end}: {error}"),
        }
    }
    assert_eq!(sum.first + sum.received + sum.missed, rx.position());
    sum
}

/// Sends ticks up to position `end`, as fast as possible.
fn child_sender() {
    let segment = opened();
    let mut tx = segment.broadcast_producer::<Tick>(&child::argument(1)).expect("nobody has it");
    let end: u64 = child::argument(2).parse().expect("a number");
    child::say("ready");
    child::hear();
    while tx.position() < end {
        let position = tx.position();
        tx.push_timeout(message(position), PATIENCE).expect("room in time");
    }
    child::say("sent");
    child::hear();
}

/// Receives all ticks up to position `end`, and says the sum.
fn child_receiver() {
    let segment = opened();
    let mut rx = segment
        .broadcast_consumer::<Tick>(&child::argument(1), Join::Newest)
        .expect("there is a place");
    let end: u64 = child::argument(2).parse().expect("a number");
    rx.outlive_peer(true);
    child::say("ready");
    let sum = receive(&mut rx, end);
    child::say(format!("{} {} {}", sum.first, sum.received, sum.missed));
    child::hear();
}

/// The same as an observer of a read-only mapping.
fn child_observer() {
    let domain = domain(Path::new(&child::argument(0)));
    let segment = domain.open_read_only("many").expect("the parent made it");
    let name = child::argument(1);
    let refused = segment.broadcast_consumer::<Tick>(&name, Join::Newest).map(drop);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ReadOnly);
    let mut rx = segment.broadcast_observer::<Tick>(&name, Join::Newest).expect("it may look");
    let end: u64 = child::argument(2).parse().expect("a number");
    child::say("ready");
    let (first, mut received, mut missed) = (rx.position(), 0, 0);
    while rx.position() < end {
        let position = rx.position();
        match rx.recv_timeout(PATIENCE) {
            Ok(tick) => {
                check(tick, position);
                received += 1;
            }
            Err(RecvError::Gap { missed: gap }) => missed += gap,
            Err(error) => panic!("at {position}: {error}"),
        }
    }
    child::say(format!("{first} {received} {missed}"));
    child::hear();
}

/// Receives until it is killed.
fn child_victim() {
    let segment = opened();
    let mut rx = segment
        .broadcast_consumer::<Tick>(&child::argument(1), Join::Oldest)
        .expect("there is a place");
    child::say("ready");
    receive(&mut rx, u64::MAX);
}

/// Takes a place and does nothing.
fn child_sleeper() {
    let segment = opened();
    let rx = segment.broadcast_consumer::<Tick>(&child::argument(1), Join::Newest);
    let rx = rx.expect("there is a place");
    child::say("ready");
    child::hear();
    drop(rx);
}

fn sums(child: &mut Child) -> [u64; 3] {
    let said = child.says();
    let mut numbers = said.split(' ').map(|n| n.parse().expect("a number"));
    [(); 3].map(|()| numbers.next().expect("three numbers"))
}

#[test]
fn everyone_receives_everything_or_is_told_what_it_missed() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let _segment = create(&scratch.domain());
    for name in ["ticks", "orders"] {
        let end = 300_000;
        let mut sender = start("sender", &scratch, &[name, "300000"]);
        assert_eq!(sender.says(), "ready");
        let mut receivers: Vec<Child> = ["receiver", "receiver", "observer"]
            .iter()
            .map(|role| start(role, &scratch, &[name, "300000"]))
            .collect();
        receivers.iter_mut().for_each(|child| assert_eq!(child.says(), "ready"));
        sender.tell("go");
        for (index, receiver) in receivers.iter_mut().enumerate() {
            let [first, received, missed] = sums(receiver);
            assert_eq!((first, received + missed), (0, end));
            assert!(received > 0);
            assert!(missed == 0 || name == "ticks" || index == 2, "{name}: {missed} missed");
        }
        assert_eq!(sender.says(), "sent");
        receivers.into_iter().chain([sender]).for_each(Child::end_well);
    }
}

#[test]
fn killed_consumers_are_noticed_by_nobody_and_their_places_are_taken_again() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let segment = create(&scratch.domain());
    for name in ["ticks", "orders"] {
        let mut sender = start("sender", &scratch, &[name, "18446744073709551615"]);
        assert_eq!(sender.says(), "ready");
        sender.tell("go");
        let mut witness = segment.broadcast_consumer::<Tick>(name, Join::Newest).expect("a place");
        let mut before = witness.position();
        for round in 0..12u64 {
            let mut victim = start("victim", &scratch, &[name]);
            assert_eq!(victim.says(), "ready");
            std::thread::sleep(Duration::from_micros(round * 700));
            victim.kill();
            let sum = receive(&mut witness, before + 20_000);
            assert!(name == "ticks" || sum.missed == 0);
            before = witness.position();
        }
        let info = scratch.domain().inspect("many").expect("it is there");
        let object = info.objects.iter().find(|object| object.name == name).expect("the ring");
        let ends = &object.endpoints;
        let taken = ends.iter().filter(|end| end.state != PeerState::Never).count();
        assert_eq!(taken, 3, "a producer, a witness, and all victims in one place");
        let victims = ends.iter().find(|end| end.state == PeerState::Dead).expect("the victims'");
        assert_eq!((victims.epoch, victims.role), (12, Role::Consumer));
        assert!(victims.stats.messages > 0 && victims.lag.is_none());
        sender.kill();
    }
}

#[test]
fn stopped_consumers_hold_up_nobody_but_the_producer_of_a_lossless_ring_which_says_who() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let segment = create(&scratch.domain());
    let mut lossy = segment.broadcast_producer::<Tick>("ticks").expect("nobody has it");
    let mut lossless = segment.broadcast_producer::<Tick>("orders").expect("nobody has it");
    let mut stopped = Vec::new();
    for name in ["ticks", "orders"] {
        let mut child = start("sleeper", &scratch, &[name]);
        assert_eq!(child.says(), "ready");
        stop(&child);
        stopped.push(child);
    }
    let mut witness = segment.broadcast_consumer::<Tick>("ticks", Join::Newest).expect("a place");
    for _ in 0..100 {
        let position = lossy.position();
        for number in position..position + 400 {
            lossy.try_push(message(number)).expect("there is always room");
        }
        let sum = receive(&mut witness, position + 400);
        assert_eq!((sum.received, sum.missed), (400, 0));
    }
    let info = scratch.domain().inspect("many").expect("it is there");
    let ticks = info.objects.iter().find(|object| object.name == "ticks").expect("the ring");
    assert_eq!(ticks.lag, Some(40_000), "of the one that is stopped");
    assert_eq!(ticks.endpoints[0].stats.messages, 40_000);
    assert!(lossy.slowest().is_none());
    let mut sent = 0;
    while lossless.try_push(message(sent)).is_ok() {
        sent += 1;
    }
    assert!(sent >= 64);
    let timeout = lossless.push_timeout(message(sent), Duration::from_millis(120));
    assert_eq!(timeout, Err(SendError::TimedOut));
    let slowest = lossless.slowest().expect("the one that is stopped");
    assert_eq!((slowest.pid, slowest.lag), (stopped[1].pid(), sent));
    assert_eq!(slowest.state, PeerState::Alive);
    // It dies, stopped as it is: the ring is free again.
    stopped.into_iter().for_each(Child::kill);
    lossless.push_timeout(message(sent), PATIENCE).expect("nobody is waited for");
    assert!(lossless.slowest().is_none());
}

#[test]
fn killed_producers_leave_whole_ticks_and_their_successors_go_on() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let segment = create(&scratch.domain());
    for name in ["ticks", "orders"] {
        let mut rx = segment.broadcast_consumer::<Tick>(name, Join::Newest).expect("a place");
        rx.outlive_peer(true);
        for round in 0..15u64 {
            let mut sender = start("sender", &scratch, &[name, "18446744073709551615"]);
            assert_eq!(sender.says(), "ready");
            sender.tell("go");
            let sum = receive(&mut rx, 5000 * (round + 1));
            assert!(name == "ticks" || sum.missed == 0);
            sender.kill();
        }
        // What the last one committed is there, and then it is known to be dead.
        rx.outlive_peer(false);
        loop {
            let position = rx.position();
            match rx.recv_timeout(PATIENCE) {
                Ok(tick) => check(tick, position),
                Err(RecvError::Gap { .. }) => {}
                Err(error) => {
                    assert_eq!(error, RecvError::PeerDied);
                    break;
                }
            }
        }
        let tx = segment.broadcast_producer::<Tick>(name).expect("it is dead");
        assert_eq!(tx.position(), rx.position());
        assert_eq!(rx.peer(), PeerState::Alive);
        drop(tx);
        assert_eq!(rx.recv_timeout(PATIENCE), Err(RecvError::Closed));
    }
}

/// Sends records until it is killed, or has sent `count`.
fn child_writer() {
    let segment = opened();
    let mut tx = segment.broadcast_record_producer(&child::argument(1)).expect("nobody has it");
    let count: u64 = child::argument(2).parse().expect("a number");
    child::say("ready");
    child::hear();
    for _ in 0..count {
        let number = tx.stats().messages;
        tx.push_timeout(&record(number), PATIENCE).expect("room in time");
    }
    child::say("sent");
    child::hear();
}

#[test]
fn records_pass_killed_writers_and_readers_whole_and_counted() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let segment = create(&scratch.domain());
    for name in ["news", "log"] {
        let mut rx = segment.broadcast_record_consumer(name, Join::Newest).expect("a place");
        let read_only = scratch.domain().open_read_only("many").expect("it may look");
        let mut unseen = read_only.broadcast_record_observer(name, Join::Oldest).expect("a look");
        rx.outlive_peer(true);
        let (mut bytes, mut received, mut missed) = (Vec::new(), 0, 0);
        let mut seen = (0, 0);
        for round in 1..=12u64 {
            let mut writer = start("writer", &scratch, &[name, "1000000000"]);
            assert_eq!(writer.says(), "ready");
            writer.tell("go");
            while rx.position() < round * 4000 {
                let position = rx.position();
                match rx.read_timeout(PATIENCE) {
                    Ok(read) => {
                        read.copy_into(&mut bytes);
                        assert_eq!(read.position(), position);
                        if read.release().is_ok() {
                            assert_eq!(bytes, record(position), "at {position}");
                            received += 1;
                        } else {
                            missed += rx.position() - position;
                        }
                    }
                    Err(RecvError::Gap { missed: gap }) => missed += gap,
                    Err(error) => panic!("{name} at {position}: {error}"),
                }
                if received % 100 == 0 {
                    let position = unseen.position();
                    match unseen.try_recv(&mut bytes) {
                        Ok(()) => {
                            assert_eq!(bytes, record(position));
                            seen.0 += 1;
                        }
                        Err(RecvError::Gap { missed }) => seen.1 += missed,
                        Err(RecvError::Empty) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
            writer.kill();
        }
        assert_eq!(received + missed, rx.position());
        assert_eq!(seen.0 + seen.1, unseen.position());
        assert!(received > 0 && (name == "news" || missed == 0));
        assert_eq!((rx.stats().messages, rx.stats().gaps), (received, missed));
    }
}

#[test]
fn sleepers_are_woken_by_the_futex_by_a_doorbell_or_among_others() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let segment = create(&scratch.domain());
    let mut sender = start("ticker", &scratch, &["ticks", "30"]);
    assert_eq!(sender.says(), "ready");
    let mut blocked = segment.broadcast_consumer::<Tick>("ticks", Join::Newest).expect("a place");
    let mut belled = segment.broadcast_consumer::<Tick>("ticks", Join::Newest).expect("a place");
    let mut among = segment.broadcast_consumer::<Tick>("ticks", Join::Newest).expect("a place");
    let mut idle = segment.broadcast_consumer::<Small>("small", Join::Newest).expect("a place");
    blocked.wait_mode(WaitMode::Block);
    let bell = belled.doorbell().expect("the folder is ours");
    sender.tell("go");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..30 {
                check(blocked.recv_timeout(PATIENCE).expect("a tick"), number);
            }
        });
        scope.spawn(|| {
            for number in 0..30 {
                let tick = loop {
                    match belled.try_recv() {
                        Ok(tick) => break tick,
                        Err(RecvError::Empty) => {}
                        Err(error) => panic!("{error}"),
                    }
                    if let hugeshm::Armed::Poll { at_most } = bell.arm(&mut belled).expect("armed")
                    {
                        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
                        use std::os::fd::AsFd;
                        let mut fds = [PollFd::new(bell.as_fd(), PollFlags::POLLIN)];
                        poll(&mut fds, PollTimeout::try_from(at_most).expect("short"))
                            .expect("poll");
                        bell.clear();
                    }
                };
                check(tick, number);
            }
        });
        for number in 0..30 {
            let tick = loop {
                let ends: &mut [&mut dyn Waitable] = &mut [&mut idle, &mut among];
                let found = wait_any(ends, Some(PATIENCE)).expect("a tick in time");
                assert_eq!(found, 1);
                match among.try_recv() {
                    Ok(tick) => break tick,
                    Err(RecvError::Empty) => {}
                    Err(error) => panic!("{error}"),
                }
            };
            check(tick, number);
        }
    });
    let sleeps = [blocked.stats(), belled.stats(), among.stats()].map(|stats| stats.sleeps);
    assert!(sleeps.iter().all(|&sleeps| sleeps > 5), "{sleeps:?}");
    assert_eq!(sender.says(), "sent");
    let wakes =
        scratch.domain().inspect("many").expect("it is there").objects[1].endpoints[0].stats.wakes;
    assert!(wakes > 5, "{wakes}");
    sender.end_well();
}

/// Sends ticks with rests between them, so that everyone falls asleep.
fn child_ticker() {
    let segment = opened();
    let mut tx: Producer<Tick> =
        segment.broadcast_producer(&child::argument(1)).expect("nobody has it");
    let count: u64 = child::argument(2).parse().expect("a number");
    child::say("ready");
    child::hear();
    for number in 0..count {
        std::thread::sleep(Duration::from_millis(3));
        tx.push(message(number)).expect("there is always room");
    }
    child::say("sent");
    child::hear();
}

#[test]
fn all_places_can_be_taken_and_no_more() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let segment = create(&scratch.domain());
    let mut tx = segment.broadcast_producer::<Book>("books").expect("nobody has it");
    let mut all: Vec<BroadcastConsumer<Book>> = (0..255)
        .map(|_| segment.broadcast_consumer("books", Join::Newest).expect("a place"))
        .collect();
    let full = segment.broadcast_consumer::<Book>("books", Join::Newest).map(drop).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::TableFull, "{full}");
    assert!(full.to_string().contains("all its 255 places"), "{full}");
    for number in 0..60 {
        tx.push(message(number)).expect("there is always room");
    }
    for rx in &mut all {
        for number in 0..60 {
            match rx.try_recv() {
                Ok(book) => check(book, rx.position() - 1),
                Err(RecvError::Gap { missed }) => assert!(missed <= 10, "{missed}"),
                Err(RecvError::Empty) => assert!(number >= 50),
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(rx.position(), 60);
    }
    drop(all.remove(100));
    segment.broadcast_consumer::<Book>("books", Join::At(60)).expect("the place that is free");
    let ahead = segment.broadcast_consumer::<Book>("books", Join::At(61)).map(drop).unwrap_err();
    assert_eq!(ahead.kind(), ErrorKind::InvalidArgument, "{ahead}");
    let wrong = segment.broadcast_consumer::<Tick>("books", Join::Newest).map(drop).unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::TypeMismatch, "{wrong}");
    let wrong = segment.consumer::<Book>("books").map(drop).unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::KindMismatch, "{wrong}");
}

#[test]
fn another_user_observes_what_the_mode_lets_him_read() {
    if !is_root("start children of other users") {
        return;
    }
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let builder = declare(on_base_pages(scratch.domain().create("many")));
    let _segment = builder.mode(0o644).unlink_on_drop(true).build().expect("base pages");
    let mut sender = start("sender", &scratch, &["ticks", "50000"]);
    assert_eq!(sender.says(), "ready");
    let folder = scratch.path().display().to_string();
    let mut observer = Child::start_as_nobody("observer", &[&folder, "ticks", "50000"]);
    assert_eq!(observer.says(), "ready");
    sender.tell("go");
    let [first, received, missed] = sums(&mut observer);
    assert_eq!((first, received + missed), (0, 50_000));
    observer.end_well();
    sender.end_well();
}

#[test]
fn it_works_on_every_kind_of_page() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let mount = PrivateMount::hugetlbfs(M2, None);
    let pool = pages(M2, 4);
    let mut builders = vec![on_base_pages(scratch.domain().create("many"))];
    if let (Some(mount), Some(_)) = (&mount, &pool) {
        let huge = PagePolicy::exactly(Rung::Huge(PageSize::SIZE_2M));
        builders.push(scratch.domain().create("many").pages(huge.clone()).mount(mount.path()));
        let sysv = scratch.domain().create("many").pages(huge.clone());
        builders.push(sysv.backing(BackingKind::Sysv));
        let memfd = scratch.domain().create("many").pages(huge).backing(BackingKind::Memfd);
        builders.push(memfd.lifetime(Lifetime::WithHolders));
    }
    for builder in builders {
        let segment = declare(builder).unlink_on_drop(true).build().expect("the pages");
        let mut sender = start("sender", &scratch, &["orders", "20000"]);
        assert_eq!(sender.says(), "ready");
        let mut rx = segment.broadcast_consumer::<Tick>("orders", Join::Newest).expect("a place");
        sender.tell("go");
        let sum = receive(&mut rx, 20_000);
        assert_eq!((sum.received, sum.missed), (20_000, 0));
        sender.end_well();
    }
}

#[test]
fn who_is_lapped_at_once_keeps_its_distance() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let segment = create(&scratch.domain());
    let mut tx = segment.broadcast_producer::<Tick>("ticks").expect("nobody has it");
    let mut rx = segment.broadcast_consumer::<Tick>("ticks", Join::Newest).expect("a place");
    let mut gaps = Vec::new();
    let start = Instant::now();
    while gaps.len() < 3 {
        assert!(start.elapsed() < PATIENCE);
        for _ in 0..600 {
            let number = tx.position();
            tx.push(message(number)).expect("there is always room");
        }
        if let Err(RecvError::Gap { missed }) = rx.try_recv() {
            gaps.push((missed, tx.position() - rx.position()));
        }
    }
    assert!(gaps[0].1 >= 500 && gaps[1].1 < gaps[0].1, "{gaps:?}");
}

/// The body of child processes.
#[test]
#[ignore = "the body of child processes, which other tests start"]
fn child_process() {
    match child::role().as_deref() {
        Some("sender") => child_sender(),
        Some("receiver") => child_receiver(),
        Some("observer") => child_observer(),
        Some("victim") => child_victim(),
        Some("sleeper") => child_sleeper(),
        Some("writer") => child_writer(),
        Some("ticker") => child_ticker(),
        role => panic!("no such role: {role:?}"),
    }
}

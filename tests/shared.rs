//! Shared rings between processes: both sides killed at random moments, ends that are stopped,
//! sleepers, doorbells, the errors of whoever asks for the wrong thing.

#[expect(dead_code, reason = "what the tests of other programs share, too")]
mod common;

use common::child::{self, Child};
use common::{Quiet, Scratch, domain};
use hugeshm::{
    Armed, BackingKind, Domain, ErrorKind, ObjectKind, PagePolicy, PeerState, RecvError, Rung,
    Segment, SegmentBuilder, SendError, SharedConsumer, SharedProducer, SharedRing, TypeIdentity,
    WaitAny, WaitMode,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A message that is copied before it is taken: who sent it, its number, and a check.
type Small = [u64; 7];
/// One that is taken before it is copied.
type Large = [u64; 40];

/// Nothing here takes this long; what does hangs.
const PATIENCE: Duration = Duration::from_secs(20);

fn on_base_pages(builder: SegmentBuilder) -> SegmentBuilder {
    builder.pages(PagePolicy::exactly(Rung::Base)).backing(BackingKind::Tmpfs)
}

fn create(domain: &Domain, capacity: u64) -> Segment {
    let segment = on_base_pages(domain.create("s"))
        .shared_ring_of("small", SharedRing::<Small>::new(capacity).producers(4).consumers(4))
        .shared_ring_of("large", SharedRing::<Large>::new(capacity).producers(4).consumers(4))
        .build()
        .expect("base pages");
    segment.unlink_on_drop(true);
    segment
}

fn message<const N: usize>(life: u64, number: u64) -> [u64; N] {
    let check = |i: usize| life.rotate_left(i as u32) ^ number.wrapping_mul(i as u64 | 1);
    core::array::from_fn(|i| [life, number].get(i).copied().unwrap_or_else(|| check(i)))
}

fn is_whole<const N: usize>(bytes: &[u64; N]) -> bool {
    *bytes == message(bytes[0], bytes[1])
}

/// The ends of one of the rings.
trait Ring<const N: usize> {
    const NAME: &str;
    fn producer(segment: &Segment) -> SharedProducer<[u64; N]>;
    fn consumer(segment: &Segment) -> SharedConsumer<[u64; N]>;
}

struct OfSmall;
struct OfLarge;

macro_rules! ring {
    ($ring:ident $n:literal $name:literal) => {
        impl Ring<$n> for $ring {
            const NAME: &str = $name;
            fn producer(segment: &Segment) -> SharedProducer<[u64; $n]> {
                segment.shared_producer($name).expect("there is a free place")
            }
            fn consumer(segment: &Segment) -> SharedConsumer<[u64; $n]> {
                segment.shared_consumer($name).expect("there is a free place")
            }
        }
    };
}
ring!(OfSmall 7 "small");
ring!(OfLarge 40 "large");

#[test]
#[ignore = "the body of child processes, which other tests start"]
fn child_process() {
    match child::role().as_deref() {
        None => {}
        Some("produce small") => produce::<7, OfSmall>(),
        Some("produce large") => produce::<40, OfLarge>(),
        Some("consume small") => consume::<7, OfSmall>(),
        Some("consume large") => consume::<40, OfLarge>(),
        Some(role) => panic!("no such role: {role}"),
    }
}

fn open() -> Segment {
    domain(Path::new(&child::argument(0))).open("s").expect("it was created")
}

/// The file in which a life writes down what it did: a kill does not take it back.
fn journal(life: &str) -> File {
    let path = Path::new(&child::argument(1)).join(life);
    File::options().create(true).append(true).open(path).expect("a folder of ours")
}

fn mode() -> WaitMode {
    match child::argument(3).as_str() {
        "block" => WaitMode::Block,
        "yield" => WaitMode::Yield,
        _ => WaitMode::Adaptive,
    }
}

/// True when the parent has closed the pipe.
fn told_to_stop() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let heard = Arc::clone(&stop);
    std::thread::spawn(move || {
        while child::hear().is_some() {}
        heard.store(true, Ordering::Relaxed);
    });
    stop
}

/// Sends numbered messages and writes each number down behind it.
fn produce<const N: usize, R: Ring<N>>() {
    let segment = open();
    let mut producer = R::producer(&segment);
    producer.wait_mode(mode()).outlive_peer(true);
    let life: u64 = child::argument(2).parse().expect("a number");
    let mut journal = journal(&format!("p{life}"));
    child::say("ready");
    let stop = told_to_stop();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        match producer.push_timeout(message(life, number), Duration::from_millis(100)) {
            Ok(()) => {
                journal.write_all(&number.to_le_bytes()).expect("there is room");
                number += 1;
            }
            Err(SendError::TimedOut) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Writes each message down, and only then releases it.
fn consume<const N: usize, R: Ring<N>>() {
    let segment = open();
    let mut consumer = R::consumer(&segment);
    consumer.wait_mode(mode()).outlive_peer(true);
    let mut journal = journal(&format!("c{}", child::argument(2)));
    child::say("ready");
    let stop = told_to_stop();
    loop {
        if stop.load(Ordering::Relaxed) {
            consumer.outlive_peer(false);
        }
        let held = match consumer.hold_timeout(Duration::from_millis(100)) {
            Ok(held) => held,
            Err(RecvError::TimedOut) => continue,
            Err(RecvError::Closed | RecvError::PeerDied) => return,
            Err(error) => panic!("{error}"),
        };
        let message = held.value();
        assert!(is_whole(&message), "a torn message");
        let words = [message[0], message[1], u64::from(held.seen_before())];
        journal.write_all(bytemuck::bytes_of(&words)).expect("there is room");
        if message[1].is_multiple_of(16) {
            // So that kills meet it here.
            std::thread::sleep(Duration::from_micros(50));
        }
        held.release();
    }
}

/// A generator of moments and victims; printed, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn from_time() -> Self {
        let time = std::time::UNIX_EPOCH.elapsed().expect("after 1970");
        eprintln!("seed {}", time.as_nanos() as u64);
        Self(time.as_nanos() as u64)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) % end
    }
}

/// A child, and the number of its life.
struct Life {
    child: Child,
    life: u64,
    produces: bool,
}

/// That a message was received, as its consumer wrote it down.
#[derive(Debug)]
struct Receipt {
    life: u64,
    /// Whether this was the last thing that it wrote.
    last: bool,
    /// How often the message had been put back.
    back: u64,
}

/// Lives of both sides, and where they write down what they did.
struct Stage<'a> {
    scratch: &'a Scratch,
    journals: tempfile::TempDir,
    ring: &'static str,
    lives: u64,
}

impl<'a> Stage<'a> {
    fn new(scratch: &'a Scratch, ring: &'static str) -> Self {
        let journals = tempfile::tempdir().expect("a folder");
        Self { scratch, journals, ring, lives: 0 }
    }

    fn start(&mut self, produces: bool) -> Life {
        let life = self.lives;
        self.lives += 1;
        let role = format!("{} {}", if produces { "produce" } else { "consume" }, self.ring);
        let folder = self.scratch.path().display().to_string();
        let journals = self.journals.path().display().to_string();
        let mode = ["adaptive", "block", "yield"][life as usize % 3];
        let mut child = Child::start(&role, &[&folder, &journals, &life.to_string(), mode]);
        assert_eq!(child.says(), "ready");
        Life { child, life, produces }
    }

    fn words(&self, name: &str) -> Vec<u64> {
        let bytes = std::fs::read(self.journals.path().join(name)).unwrap_or_default();
        bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect()
    }

    /// Compares what was sent with what was received; `killed` are the lives that were. How many
    /// messages there were, and how many were seen again.
    fn balance(&self, killed: &[u64]) -> (u64, u64) {
        let mut seen: HashMap<(u64, u64), Vec<Receipt>> = HashMap::new();
        let mut sent = BTreeMap::new();
        for life in 0..self.lives {
            let words = self.words(&format!("c{life}"));
            let count = words.len() / 3;
            for (index, words) in words.chunks_exact(3).enumerate() {
                let times = seen.entry((words[0], words[1])).or_default();
                times.push(Receipt { life, last: index + 1 == count, back: words[2] });
            }
            let numbers = self.words(&format!("p{life}"));
            assert!(numbers.iter().copied().eq(0..numbers.len() as u64));
            sent.insert(life, numbers.len() as u64);
        }
        let (mut all, mut again) = (0, 0);
        for (life, numbers) in &sent {
            let received = (0..).take_while(|n| seen.contains_key(&(*life, *n))).count() as u64;
            // Whoever was killed may not have written down the last message that it sent.
            let unwritten = u64::from(killed.contains(life));
            assert!(
                received == *numbers || received == numbers + unwritten,
                "of {numbers} messages of life {life}, {received} were received"
            );
            all += received;
        }
        let distinct = seen.len() as u64;
        assert_eq!(distinct, all, "messages were received that nobody sent");
        for (message, times) in &mut seen {
            times.sort_by_key(|receipt| receipt.back);
            for (times_before, Receipt { life, last, back }) in times.iter().enumerate() {
                // It may have been back more often: who is killed before it writes it down.
                assert!(*back >= times_before as u64, "{message:?} {times:?}");
                let is_final = times_before + 1 == times.len();
                // Seen again only if who had it was killed before the release.
                assert!(is_final || (*last && killed.contains(life)), "{message:?} {times:?}");
            }
            again += times.len() as u64 - 1;
        }
        (all, again)
    }
}

fn both_sides_are_killed<const N: usize, R: Ring<N>>(kills: u64) {
    let scratch = Scratch::new();
    let domain = scratch.domain();
    let segment = create(&domain, 16);
    let mut random = Random::from_time();
    let mut stage = Stage::new(&scratch, R::NAME);
    let mut lives: Vec<Life> = (0..6).map(|index| stage.start(index < 3)).collect();
    let mut killed = Vec::new();
    for _ in 0..kills {
        std::thread::sleep(Duration::from_micros(random.below(8000)));
        let index = random.below(6) as usize;
        let produces = lives[index].produces;
        lives[index].child.kill_only();
        killed.push(lives[index].life);
        // Now and then there is none for a while.
        if random.below(3) == 0 {
            std::thread::sleep(Duration::from_micros(random.below(8000)));
        }
        lives[index] = stage.start(produces);
    }
    let (producers, consumers): (Vec<_>, Vec<_>) = lives.into_iter().partition(|it| it.produces);
    producers.into_iter().for_each(|it| it.child.end_well());
    consumers.into_iter().for_each(|it| it.child.end_well());
    let (all, again) = stage.balance(&killed);
    eprintln!("{}: {all} messages over {kills} kills, {again} seen again", R::NAME);
    assert!(all > 100);
    // Nothing is left, and the ring is as good as new.
    let info = domain.inspect("s").expect("it can be read");
    let ring = info.objects.iter().find(|object| object.name == R::NAME).expect("declared");
    assert_eq!(ring.lag, Some(0));
    let (mut tx, mut rx) = (R::producer(&segment), R::consumer(&segment));
    for n in 0..64 {
        tx.push_timeout(message(99, n), PATIENCE).expect("there is room");
        assert_eq!(rx.recv_timeout(PATIENCE), Ok(message(99, n)));
    }
    for n in 0..16 {
        tx.try_push(message(99, n)).expect("there is room for a whole lap");
    }
}

#[test]
fn small_messages_are_received_once_whoever_is_killed() {
    let _quiet = Quiet::begin();
    both_sides_are_killed::<7, OfSmall>(60);
}

#[test]
fn large_messages_are_received_once_whoever_is_killed() {
    let _quiet = Quiet::begin();
    both_sides_are_killed::<40, OfLarge>(60);
}

/// How far all consumers have come.
fn received(domain: &Domain, name: &str) -> u64 {
    let info = domain.inspect("s").expect("it can be read");
    let ring = info.objects.iter().find(|object| object.name == name).expect("declared");
    let consumers = ring.endpoints.iter().filter(|end| end.role == hugeshm::Role::Consumer);
    consumers.map(|end| end.stats.messages).sum()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_stopped_consumer_of_small_messages_holds_up_nobody() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let domain = scratch.domain();
    let segment = create(&domain, 16);
    let (mut tx, mut rx) = (OfSmall::producer(&segment), OfSmall::consumer(&segment));
    let mut stage = Stage::new(&scratch, "small");
    let idle = stage.start(false);
    kill(Pid::from_raw(idle.child.pid() as i32), Signal::SIGSTOP).expect("a child of ours");
    // Until all its threads stand still it receives as before.
    let pid = Pid::from_raw(idle.child.pid() as i32);
    let stopped = waitpid(pid, Some(WaitPidFlag::WUNTRACED)).expect("a child of ours");
    assert!(matches!(stopped, WaitStatus::Stopped(..)));
    // It may hold one message, if it was stopped in the middle; it is asleep, so it does not.
    for n in 0..200 {
        tx.push_timeout(message(7, n), PATIENCE).expect("there is room");
        assert_eq!(rx.recv_timeout(PATIENCE), Ok(message(7, n)));
    }
    assert_eq!(rx.try_recv(), Err(RecvError::Empty));
    kill(Pid::from_raw(idle.child.pid() as i32), Signal::SIGCONT).expect("a child of ours");
    tx.push(message(7, 200)).expect("there is room");
    until("the consumer goes on", || received(&domain, "small") == 201);
    drop(tx);
    idle.child.end_well();
}

#[test]
fn what_a_stopped_consumer_holds_is_its_own_until_it_is_killed() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let domain = scratch.domain();
    let segment = create(&domain, 4);
    let (mut tx, mut rx) = (OfSmall::producer(&segment), OfSmall::consumer(&segment));
    let mut held = OfSmall::consumer(&segment);
    for n in 0..4 {
        tx.try_push(message(1, n)).expect("it is empty");
    }
    // A living end of this process is as good as one that is stopped.
    let held = held.hold().expect("there are four");
    for n in 1..4 {
        assert_eq!(rx.recv(), Ok(message(1, n)));
    }
    assert_eq!(rx.recv_timeout(Duration::from_millis(120)), Err(RecvError::TimedOut));
    assert_eq!(tx.push_timeout(message(1, 4), Duration::from_millis(120)), {
        Err(SendError::TimedOut)
    });
    assert_eq!((held.value(), held.seen_before()), (message(1, 0), 0));
    std::mem::forget(held);
    drop(rx);
    let mut rx = OfSmall::consumer(&segment);
    assert_eq!(rx.try_recv(), Err(RecvError::Empty), "its holder lives");
}

#[test]
fn sleepers_of_both_sides_are_woken() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let domain = scratch.domain();
    let segment = create(&domain, 2);
    std::thread::scope(|scope| {
        let received: Vec<_> = (0..3)
            .map(|_| {
                let mut rx = OfSmall::consumer(&segment);
                rx.wait_mode(WaitMode::Block);
                scope.spawn(move || {
                    let mut count = 0;
                    loop {
                        match rx.recv_timeout(PATIENCE) {
                            Ok(message) => assert!(is_whole(&message)),
                            Err(RecvError::Closed) => return (count, rx.stats()),
                            Err(error) => panic!("{error}"),
                        }
                        count += 1;
                    }
                })
            })
            .collect();
        let sent: Vec<_> = (0..3)
            .map(|life| {
                let mut tx = OfSmall::producer(&segment);
                tx.wait_mode(WaitMode::Block);
                scope.spawn(move || {
                    for n in 0..1000 {
                        tx.push_timeout(message(life, n), PATIENCE).expect("they receive");
                        if n % 100 == 0 {
                            std::thread::sleep(Duration::from_millis(1));
                        }
                    }
                    tx.stats()
                })
            })
            .collect();
        let sent: Vec<_> = sent.into_iter().map(|it| it.join().expect("it sends")).collect();
        let received: Vec<_> = received.into_iter().map(|it| it.join().expect("it ends")).collect();
        assert_eq!(received.iter().map(|(count, _)| count).sum::<u64>(), 3000);
        assert_eq!(sent.iter().map(|stats| stats.messages).sum::<u64>(), 3000);
        assert_eq!(received.iter().map(|(_, stats)| stats.messages).sum::<u64>(), 3000);
        assert!(received.iter().map(|(_, stats)| stats.sleeps).sum::<u64>() > 0);
        assert!(sent.iter().map(|stats| stats.wakes).sum::<u64>() > 0);
    });
    drop(domain);
}

#[test]
fn a_doorbell_and_a_wait_for_any_hear_of_messages() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let domain = scratch.domain();
    let segment = create(&domain, 8);
    let (mut small, mut large) = (OfSmall::consumer(&segment), OfLarge::consumer(&segment));
    let mut stage = Stage::new(&scratch, "small");
    let of_small = stage.start(true);
    let mut other = Stage::new(&scratch, "large");
    other.lives = 1;
    let of_large = other.start(true);
    let bell = small.doorbell().expect("the folder can be written");
    for _ in 0..500 {
        let message = loop {
            match small.try_recv() {
                Ok(message) => break message,
                Err(RecvError::Empty) => {}
                Err(error) => panic!("{error}"),
            }
            if let Armed::Poll { at_most } = bell.arm(&mut small).expect("our own bell") {
                let mut fds = [PollFd::new(bell.as_fd(), PollFlags::POLLIN)];
                poll(&mut fds, PollTimeout::try_from(at_most).expect("short")).expect("a pipe");
                bell.clear();
            }
        };
        assert!(is_whole(&message));
    }
    drop(bell);
    let (mut any, mut counts) = (WaitAny::new(), [0; 2]);
    while counts[0] < 300 || counts[1] < 300 {
        let index = any.wait_timeout(&mut [&mut small, &mut large], PATIENCE).expect("both send");
        match index {
            0 => assert!(is_whole(&small.try_recv().expect("the only consumer"))),
            _ => assert!(is_whole(&large.try_recv().expect("the only consumer"))),
        }
        counts[index] += 1;
    }
    // Who waits for any hears of a death, too, when everything was received.
    of_small.child.kill();
    let end = loop {
        any.wait_timeout(&mut [&mut small], PATIENCE).expect("something to do");
        match small.try_recv() {
            Ok(message) => assert!(is_whole(&message)),
            Err(RecvError::Empty) => {}
            Err(end) => break end,
        }
    };
    assert_eq!((end, small.peer()), (RecvError::PeerDied, PeerState::Dead));
    drop(large);
    of_large.child.end_well();
}

#[test]
fn who_asks_for_the_wrong_thing_is_told_what_is_there() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let domain = scratch.domain();
    let named = TypeIdentity::new("job", 1, 0);
    let ring = || SharedRing::<[u32; 4]>::new(3).producers(1).consumers(2).identity(named.clone());
    let segment = on_base_pages(domain.create("s"))
        .shared_ring::<u64>("shared", 5)
        .shared_ring_of("named", ring())
        .ring::<u64>("ring", 2)
        .spare(64 << 10)
        .build()
        .expect("base pages");
    segment.unlink_on_drop(true);
    let kind = |result: Result<(), hugeshm::Error>| result.unwrap_err().kind();
    assert_eq!(kind(segment.shared_producer::<u32>("shared").map(drop)), ErrorKind::TypeMismatch);
    assert_eq!(kind(segment.shared_consumer::<u32>("shared").map(drop)), ErrorKind::TypeMismatch);
    assert_eq!(kind(segment.shared_producer::<u64>("ring").map(drop)), ErrorKind::KindMismatch);
    assert_eq!(kind(segment.producer::<u64>("shared").map(drop)), ErrorKind::KindMismatch);
    assert_eq!(kind(segment.shared_consumer::<u64>("no").map(drop)), ErrorKind::NotFound);
    let short = segment.shared_producer_as::<[u32; 2]>("named", &named).map(drop);
    assert_eq!(kind(short), ErrorKind::TypeMismatch, "a writer's type may not be shorter");
    let mut tx = segment.shared_producer_as::<[u32; 4]>("named", &named).expect("it is free");
    let again = segment.shared_producer_as::<[u32; 4]>("named", &named).map(drop);
    assert_eq!(kind(again), ErrorKind::TableFull);
    let mut front = segment.shared_consumer_as::<[u32; 1]>("named", &named).expect("a prefix");
    let whole = segment.shared_consumer_as::<[u32; 4]>("named", &named).expect("it is free");
    assert_eq!((tx.number(), front.number(), whole.number(), tx.capacity()), (0, 0, 1, 3));
    tx.try_push([1, 2, 3, 4]).expect("it is empty");
    assert_eq!((whole.lag(), front.try_recv(), whole.lag()), (1, Ok([1]), 0));
    for ring in [
        SharedRing::<u64>::new(0),
        SharedRing::new(1 << 60),
        SharedRing::new(1).producers(0),
        SharedRing::new(1).consumers(256),
    ] {
        let refused = kind(segment.add_shared_ring("bad", ring));
        assert!(matches!(refused, ErrorKind::InvalidCapacity | ErrorKind::InvalidArgument));
    }
    segment.add_shared_ring("more", SharedRing::<u8>::new(2)).expect("there is room");
    let twice = segment.add_shared_ring("more", SharedRing::<u8>::new(2));
    assert_eq!(kind(twice), ErrorKind::AlreadyExists);
    let reopen = |ring| {
        let builder = on_base_pages(Segment::open_or_create("s").domain(domain.clone()));
        builder.shared_ring_of("named", ring).build().map(drop)
    };
    reopen(ring()).expect("the same");
    assert_eq!(kind(reopen(ring().consumers(3))), ErrorKind::KindMismatch);
    let read_only = domain.open_read_only("s").expect("it can be read");
    let refused = read_only.shared_consumer::<u64>("shared").map(drop);
    assert_eq!(kind(refused), ErrorKind::ReadOnly);
    let info = domain.inspect("s").expect("it can be read");
    let found = info.objects.iter().find(|object| object.name == "named").expect("declared");
    assert_eq!((found.kind, found.kind.to_string().as_str()), {
        (ObjectKind::SharedRing, "shared ring")
    });
    assert_eq!((found.lag, found.endpoints.len()), (Some(0), 3));
    let messages: Vec<u64> = found.endpoints.iter().map(|end| end.stats.messages).collect();
    assert_eq!(messages, [1, 1, 0]);
}

#[cfg(feature = "tokio")]
#[test]
fn awaited_ends_send_and_receive() {
    use hugeshm::{AsyncSharedConsumer, AsyncSharedProducer};
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let domain = scratch.domain();
    let segment = create(&domain, 2);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("descriptors").block_on(async {
        let mut tx = AsyncSharedProducer::new(OfSmall::producer(&segment)).expect("a runtime");
        let mut rx = AsyncSharedConsumer::new(OfSmall::consumer(&segment)).expect("a runtime");
        let sends = async {
            for n in 0..100 {
                tx.push(message(3, n)).await.expect("it is received");
            }
        };
        let receives = async {
            let mut messages = Vec::new();
            while messages.len() < 99 {
                messages.push(rx.recv().await.expect("it is sent"));
            }
            rx.recv_batch(&mut messages, 5).await.expect("there is one more");
            assert!(messages.iter().copied().eq((0..100).map(|n| message(3, n))));
        };
        tokio::join!(sends, receives);
    });
}

//! Ping-pong between two processes that both sleep in `poll` or `epoll`: a lost wake-up hangs.

use crate::common::child::{argument, say};
use crate::{HANG, Stage, opened, rings_in, sleep_for_good};
use hugeshm::{Armed, Consumer, Doorbell, RecvError, WaitMode};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

const ROUNDS: u64 = 100_000;

/// How one end waits.
enum Way {
    Poll(Doorbell),
    Epoll(Doorbell, Epoll),
    Block,
}

impl Way {
    fn new(name: &str, consumer: &mut Consumer<u64>) -> Self {
        let flags = match name {
            "block" => {
                consumer.wait_mode(WaitMode::Block);
                return Self::Block;
            }
            "poll" => return Self::Poll(consumer.doorbell().expect("a folder of ours")),
            "level" => EpollFlags::EPOLLIN,
            _ => EpollFlags::EPOLLIN | EpollFlags::EPOLLET,
        };
        let bell = consumer.doorbell().expect("a folder of ours");
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("a descriptor");
        epoll.add(&bell, EpollEvent::new(flags, 7)).expect("a FIFO can be polled");
        Self::Epoll(bell, epoll)
    }

    fn recv(&self, consumer: &mut Consumer<u64>) -> Result<u64, RecvError> {
        loop {
            match (self, consumer.try_recv()) {
                (Self::Block, Err(RecvError::Empty)) => return consumer.recv(),
                (Self::Poll(bell), Err(RecvError::Empty)) => _ = sleep_for_good(bell, consumer),
                (Self::Epoll(bell, epoll), Err(RecvError::Empty)) => {
                    if let Armed::Poll { .. } = bell.arm(consumer).expect("its own bell") {
                        let mut events = [EpollEvent::empty()];
                        let timeout = EpollTimeout::try_from(HANG).expect("short");
                        let count = epoll.wait(&mut events, timeout).expect("ours");
                        assert_eq!((count, events[0].data()), (1, 7), "a wake-up was lost");
                        bell.clear();
                    }
                }
                (_, answer) => return answer,
            }
        }
    }
}

/// Sends back what comes.
fn echo() {
    let segment = opened();
    let mut consumer = segment.consumer::<u64>("there").expect("free");
    let mut producer = segment.producer::<u64>("back").expect("free");
    let way = Way::new(&argument(1), &mut consumer);
    say("ready");
    loop {
        match way.recv(&mut consumer) {
            Ok(number) => producer.push(number).expect("the parent reads"),
            Err(error) => break say(format!("{error:?}")),
        }
    }
}

fn play_ping_pong(here: &str, there: &str, rounds: u64) {
    let stage = Stage::new();
    let segment = stage.segment(|builder| builder.ring::<u64>("there", 2).ring::<u64>("back", 2));
    let mut producer = segment.producer::<u64>("there").expect("free");
    let mut consumer = segment.consumer::<u64>("back").expect("free");
    let way = Way::new(here, &mut consumer);
    let mut child = stage.child("pingpong::echo", &[there]);
    child.says();
    let start = std::time::Instant::now();
    for number in 0..rounds {
        producer.push(number).expect("the child reads");
        // Both sleep in some rounds and find each other awake in others.
        if number % 16 == 5 {
            (0..number % 1024).for_each(|_| core::hint::spin_loop());
        }
        assert_eq!(way.recv(&mut consumer), Ok(number));
    }
    let (sleeps, wakes) = (consumer.stats().sleeps, producer.stats().wakes);
    eprintln!(
        "{here} and {there}: {:?} a round, {sleeps} sleeps, {wakes} wakes",
        start.elapsed() / rounds as u32
    );
    assert!(sleeps <= rounds && wakes <= rounds, "one announcement, one wake");
    assert!(here == "block" || sleeps > rounds / 100, "nothing was shown: {sleeps} sleeps");
    // A close is heard in `poll`, too: the child says how it ended.
    if there != "block" {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    drop(producer);
    assert_eq!(child.says(), "Closed");
    child.end_well();
}

#[test]
fn no_wake_up_is_lost_between_two_that_poll() {
    play_ping_pong("poll", "poll", ROUNDS);
}

#[test]
fn no_wake_up_is_lost_in_epoll_level_or_edge_triggered() {
    play_ping_pong("level", "edge", ROUNDS);
}

#[test]
fn one_may_poll_while_the_other_blocks() {
    play_ping_pong("poll", "block", ROUNDS / 10);
    play_ping_pong("block", "edge", ROUNDS / 10);
}

/// Sends as fast as it can, and says how often it had to ring.
fn flood() {
    let segment = opened();
    let mut producer = segment.producer::<u64>("ring").expect("free");
    say("ready");
    for number in 0..ROUNDS {
        producer.push(number).expect("the parent reads");
    }
    say(producer.stats().wakes);
    crate::common::child::hear();
}

#[test]
fn nobody_rings_while_nobody_sleeps_though_there_is_a_bell() {
    let stage = Stage::new();
    let segment = stage.segment(|builder| builder.ring::<u64>("ring", 1 << 17));
    let mut consumer = segment.consumer::<u64>("ring").expect("free");
    let bell = consumer.doorbell().expect("a folder of ours");
    let mut child = stage.child("pingpong::flood", &[]);
    child.says();
    assert_eq!(child.says(), "0", "a sender rang for nobody");
    assert!(!rings_in(&bell, std::time::Duration::ZERO));
    for number in 0..ROUNDS {
        assert_eq!(consumer.try_recv(), Ok(number));
    }
    child.end_well();
}

/// The roles of this file.
pub fn play(role: &str) -> bool {
    match role {
        "pingpong::echo" => echo(),
        "pingpong::flood" => flood(),
        _ => return false,
    }
    true
}

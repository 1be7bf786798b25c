//! The life of a doorbell: its name, its owner's death and succession, its user.

use crate::common::child::{Child, NOBODY, argument, hear, say};
use crate::common::{files, is_root, refused};
use crate::{HANG, Stage, opened, rings_in, sleep_for_good};
use hugeshm::{Armed, ErrorKind, PagePolicy, RecvError, Rung, Segment, SendError};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::time::{Duration, Instant};

const POLL: Armed = Armed::Poll { at_most: Duration::from_millis(50) };

#[test]
fn a_bell_has_a_name_of_its_own_and_takes_it_away() {
    let stage = Stage::new();
    let segment = stage.segment(|builder| builder.ring::<u64>("a", 2).records("b", 4096));
    let mut consumer = segment.consumer::<u64>("a").expect("free");
    let mut producer = segment.record_producer("b").expect("free");
    assert_eq!(stage.bells(), [""; 0]);
    let first = consumer.doorbell().expect("a folder of ours");
    let second = producer.doorbell().expect("a folder of ours");
    let bells = stage.bells();
    let identity = segment.identity();
    assert!(bells[0].starts_with(&format!("hugeshm.{identity}.bell.0.consumer.0.")), "{bells:?}");
    assert!(bells[1].starts_with(&format!("hugeshm.{identity}.bell.1.producer.0.")), "{bells:?}");
    for bell in &bells {
        let meta = std::fs::symlink_metadata(stage.scratch.path().join(bell)).expect("there");
        assert!(meta.file_type().is_fifo());
        assert_eq!(meta.mode() & 0o777, 0o600);
    }
    drop(first);
    assert_eq!(stage.bells(), bells[1..]);
    // One more of the same end, and both at once.
    let third = consumer.doorbell().expect("a folder of ours");
    let fourth = consumer.doorbell().expect("a folder of ours");
    assert_eq!(stage.bells().len(), 3);
    let error = third.arm(&mut consumer).expect_err("it is not the last");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    drop(third);
    let mut sender = segment.producer::<u64>("a").expect("free");
    assert_eq!(fourth.arm(&mut consumer).expect("its own"), POLL);
    sender.push(1).expect("room");
    assert!(rings_in(&fourth, Duration::ZERO));
    // The segment takes what is left with it.
    drop((consumer, producer, sender, segment));
    assert_eq!(stage.scratch.files(), [""; 0]);
    drop((second, fourth));
}

/// Arms a bell and says so.
fn arm_and_wait() {
    let segment = opened();
    if argument(1) == "consumer" {
        let mut consumer = segment.consumer::<u64>("ring").expect("free");
        let bell = consumer.doorbell().expect("a folder of ours");
        while bell.arm(&mut consumer).expect("its own") == Armed::Ready {
            consumer.try_recv().expect("it is ready");
        }
        say("armed");
        hear();
        return;
    }
    let mut producer = segment.producer::<u64>("ring").expect("free");
    let bell = producer.doorbell().expect("a folder of ours");
    while producer.try_push(9) == Ok(()) {}
    assert_eq!(bell.arm(&mut producer).expect("its own"), POLL);
    say("armed");
    hear();
}

#[test]
fn a_killed_sleeper_costs_one_ring_and_its_successor_takes_its_bell_down() {
    let stage = Stage::new();
    let segment = stage.segment(|builder| builder.ring::<u64>("ring", 4));
    let mut producer = segment.producer::<u64>("ring").expect("free");
    let mut old = Vec::new();
    for round in 0..3 {
        let mut child = stage.child("bells::arm", &["consumer"]);
        assert_eq!(child.says(), "armed");
        let now = stage.bells();
        assert_eq!(now.len(), 1, "{now:?}");
        assert_ne!(now, old);
        old = now;
        child.kill();
        let before = producer.stats().wakes;
        while producer.try_push(round) == Ok(()) {}
        assert_eq!(producer.stats().wakes, before + 1);
        let start = Instant::now();
        while producer.try_push(round) == Err(SendError::Full) {
            assert!(start.elapsed() < HANG);
        }
        assert_eq!(producer.try_push(round), Err(SendError::Full), "asked for once a slice");
    }
    // A successor in this process, which is rung by the way that leads to it.
    let mut consumer = segment.consumer::<u64>("ring").expect("the last was killed");
    assert_eq!(stage.bells(), [""; 0]);
    while consumer.try_recv() != Err(RecvError::Empty) {}
    let bell = consumer.doorbell().expect("a folder of ours");
    assert_eq!(bell.arm(&mut consumer).expect("its own"), POLL);
    producer.push(7).expect("room");
    assert!(rings_in(&bell, Duration::ZERO));
}

#[test]
fn a_killed_sender_is_noticed_by_arming_and_told_by_the_next_try() {
    let stage = Stage::new();
    let segment = stage.segment(|builder| builder.ring::<u64>("ring", 4));
    let mut consumer = segment.consumer::<u64>("ring").expect("free");
    let bell = consumer.doorbell().expect("a folder of ours");
    let mut child = stage.child("bells::arm", &["producer"]);
    child.says();
    for _ in 0..4 {
        assert_eq!(consumer.try_recv(), Ok(9));
    }
    assert_eq!(bell.arm(&mut consumer).expect("its own"), POLL);
    child.kill();
    // `kill` waits for the child, so its claim is free: arming finds that out by itself.
    let mut slices = 0;
    let end = loop {
        match consumer.try_recv() {
            Err(RecvError::Empty) => {
                if let Armed::Poll { at_most } = bell.arm(&mut consumer).expect("its own") {
                    rings_in(&bell, at_most);
                    bell.clear();
                    slices += 1;
                    assert!(slices <= 10, "its death is not noticed");
                }
            }
            end => break end,
        }
    };
    assert_eq!(end, Err(RecvError::PeerDied));
}

#[test]
fn what_the_killed_left_is_collected_with_the_segment_or_after_it() {
    let stage = Stage::new();
    drop(stage.builder().ring::<u64>("ring", 4).build().expect("base pages"));
    let mut child = stage.child("bells::arm", &["consumer"]);
    child.says();
    child.kill();
    assert_eq!(stage.bells().len(), 1);
    let report = stage.domain.collect().expect("a folder of ours");
    assert_eq!((report.removed.len(), report.failed.len()), (1, 0), "{report:?}");
    assert_eq!(stage.scratch.files(), [""; 0]);

    // Hung after the segment was removed: nothing leads to it but its own name.
    let segment = stage.segment(|builder| builder.ring::<u64>("ring", 4));
    let mut consumer = segment.consumer::<u64>("ring").expect("free");
    stage.domain.remove("s").expect("it is there");
    let bell = consumer.doorbell().expect("the folder is there");
    assert_eq!(stage.bells().len(), 1);
    stage.domain.collect().expect("a folder of ours");
    assert_eq!(stage.bells(), [""; 0]);
    drop(bell);
}

#[test]
fn a_segment_without_a_name_rings_by_a_passed_descriptor() {
    let _stage = Stage::new();
    let builder = Segment::unnamed().pages(PagePolicy::exactly(Rung::Base));
    let segment = builder.ring::<u64>("ring", 4).build().expect("a memfd");
    let mut consumer = segment.consumer::<u64>("ring").expect("free");
    let mut producer = segment.producer::<u64>("ring").expect("free");
    let error = refused(consumer.doorbell(), ErrorKind::Unsupported, "");
    assert!(error.to_string().contains("doorbell_to_pass"), "{error}");
    let bell = consumer.doorbell_to_pass().expect("a pipe");
    producer.ring_by(&bell).expect("a pipe");
    assert_eq!(bell.arm(&mut consumer).expect("its own"), POLL);
    producer.push(1).expect("room");
    assert!(rings_in(&bell, Duration::ZERO));
    // Anything else is refused: it might block.
    let (socket, _other) = std::os::unix::net::UnixStream::pair().expect("sockets");
    producer.ring_by(&socket).expect_err("a socket");
}

#[test]
fn a_forked_child_leaves_its_parents_bell_in_place() {
    let stage = Stage::new();
    let segment = stage.segment(|builder| builder.ring::<u64>("ring", 4));
    let mut child = stage.child("bells::fork", &[]);
    assert_eq!(child.says(), "Forked");
    assert_eq!(child.says(), "armed");
    assert_eq!(stage.bells().len(), 1);
    segment.producer::<u64>("ring").expect("free").push(1).expect("room");
    assert_eq!(child.says(), "rung");
    child.end_well();
    assert_eq!(stage.bells(), [""; 0]);
}

#[expect(unsafe_code, reason = "fork")]
fn fork_with_a_bell() {
    use nix::sys::wait::{WaitStatus, waitpid};
    let segment = opened();
    let mut consumer = segment.consumer::<u64>("ring").expect("free");
    let bell = consumer.doorbell().expect("a folder of ours");
    // SAFETY: this process has no other thread that holds a lock; the child ends by _exit.
    match unsafe { nix::unistd::fork() }.expect("a process") {
        nix::unistd::ForkResult::Child => {
            let forked = consumer.doorbell().is_err_and(|e| e.kind() == ErrorKind::Forked);
            drop((bell, consumer, segment));
            // SAFETY: it ends this process and touches no memory.
            unsafe { nix::libc::_exit(i32::from(!forked)) }
        }
        nix::unistd::ForkResult::Parent { child } => {
            assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
        }
    }
    say("Forked");
    assert_eq!(bell.arm(&mut consumer).expect("its own"), POLL);
    say("armed");
    assert!(rings_in(&bell, HANG));
    say("rung");
}

/// Another user of the group.
const SOMEBODY: u32 = 65533;

/// Makes a segment for its group, and answers what comes.
fn make_for_group() {
    let folder = argument(0);
    let domain = crate::common::domain(folder.as_ref());
    let builder = domain.create("s").pages(PagePolicy::exactly(Rung::Base)).mode(0o660);
    let builder = builder.backing(hugeshm::BackingKind::Tmpfs).unlink_on_drop(true);
    let segment = builder.ring::<u64>("there", 2).ring::<u64>("back", 2).build().expect("pages");
    answer(&segment);
}

fn answer(segment: &Segment) {
    let mut consumer = segment.consumer::<u64>("there").expect("free");
    let mut producer = segment.producer::<u64>("back").expect("free");
    let bell = consumer.doorbell().expect("a folder for everybody");
    say("ready");
    loop {
        match consumer.try_recv() {
            Ok(number) => producer.push(number + 1).expect("it reads"),
            Err(RecvError::Empty) => _ = sleep_for_good(&bell, &mut consumer),
            Err(error) => {
                assert_eq!(error, RecvError::Closed);
                return;
            }
        }
    }
}

/// Asks the maker of the segment a few times.
fn ask() {
    let segment = opened();
    let mut producer = segment.producer::<u64>("there").expect("free");
    let mut consumer = segment.consumer::<u64>("back").expect("free");
    let bell = consumer.doorbell().expect("a folder for everybody");
    for number in 0..200 {
        producer.push(number).expect("it reads");
        loop {
            match consumer.try_recv() {
                Ok(answer) => break assert_eq!(answer, number + 1),
                Err(RecvError::Empty) => _ = sleep_for_good(&bell, &mut consumer),
                Err(error) => panic!("{error}"),
            }
        }
    }
    say(format!("{} wakes", producer.stats().wakes));
}

#[test]
fn users_of_one_group_ring_each_other_and_root_rings_everybody() {
    if !is_root("be several users") {
        return;
    }
    let stage = Stage::new();
    for (maker, asker) in [(NOBODY, SOMEBODY), (SOMEBODY, NOBODY), (NOBODY, 0)] {
        let folder = stage.folder();
        let mut first = Child::start_as(maker, "bells::make", &[&folder]);
        first.says();
        let bell = stage.bells().pop().expect("it has one");
        let meta = std::fs::symlink_metadata(stage.scratch.path().join(bell)).expect("there");
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o777), (maker, NOBODY, 0o660));
        let mut second = match asker {
            0 => stage.child("bells::ask", &[]),
            _ => Child::start_as(asker, "bells::ask", &[&folder]),
        };
        let wakes = second.says();
        assert_ne!(wakes, "0 wakes");
        second.end_well();
        first.end_well();
        assert_eq!(files(stage.scratch.path()), [""; 0]);
    }
}

/// The roles of this file.
pub fn play(role: &str) -> bool {
    match role {
        "bells::arm" => arm_and_wait(),
        "bells::fork" => fork_with_a_bell(),
        "bells::make" => make_for_group(),
        "bells::ask" => ask(),
        _ => return false,
    }
    true
}

//! Who holds an end: refused, left, killed, followed.

use crate::common::child::{self, hear, say};
use crate::common::refused;
use crate::{Stage, in_time, opened};
use hugeshm::{ErrorKind, PeerState, RecordRing, RecvError, SendError};
use std::time::Duration;

/// An end of a typed ring, held until the parent says something.
fn hold() {
    let segment = opened();
    segment.set_label("holder-7");
    if child::argument(1) == "producer" {
        let end = segment.producer::<u64>("ring").expect("free");
        say("ready");
        hear();
        drop(end);
    } else {
        let end = segment.consumer::<u64>("ring").expect("free");
        say("ready");
        hear();
        drop(end);
    }
    say("left");
    hear();
}

/// A producer that sends the numbers it is told; "close" leaves in good order.
fn send() {
    let segment = opened();
    let mut producer = segment.producer::<u64>("ring").expect("free");
    say(producer.position());
    while let Some(line) = hear() {
        match line.parse() {
            Ok(number) => producer.push(number).expect("room"),
            Err(_) => return,
        }
        say("sent");
    }
}

#[test]
fn a_second_end_is_refused_while_the_first_lives_and_free_when_it_was_killed() {
    let stage = Stage::new();
    let segment = stage.segment(|builder| builder.ring::<u64>("ring", 8));
    for role in ["producer", "consumer"] {
        let mut child = stage.child("ends::hold", &[role]);
        child.says();
        let error = match role {
            "producer" => refused(segment.producer::<u64>("ring"), ErrorKind::Busy, "ring"),
            _ => refused(segment.consumer::<u64>("ring"), ErrorKind::Busy, "ring"),
        };
        let text = error.to_string();
        for known in [role, "holder-7", &format!("pid {}", child.pid())] {
            assert!(text.contains(known), "{known:?} is not in {text}");
        }
        child.kill();
        match role {
            "producer" => drop(segment.producer::<u64>("ring").expect("it is dead")),
            _ => drop(segment.consumer::<u64>("ring").expect("it is dead")),
        }
        // An end in good order is free while its process lives.
        let mut child = stage.child("ends::hold", &[role]);
        child.says();
        child.tell("leave");
        assert_eq!(child.says(), "left");
        match role {
            "producer" => drop(segment.producer::<u64>("ring").expect("it was left")),
            _ => drop(segment.consumer::<u64>("ring").expect("it was left")),
        }
        child.end_well();
    }
}

#[test]
fn two_ends_of_one_process_are_refused_like_any_others() {
    let stage = Stage::new();
    let segment = stage.segment(|builder| builder.ring::<u64>("ring", 8).records("records", 4096));
    let producer = segment.producer::<u64>("ring").expect("free");
    refused(segment.producer::<u64>("ring"), ErrorKind::Busy, "ring");
    refused(segment.raw_producer("ring"), ErrorKind::Busy, "ring");
    let again = stage.domain.open("s").expect("it is there");
    refused(again.producer::<u64>("ring"), ErrorKind::Busy, "ring");
    let records = again.record_consumer("records").expect("free");
    refused(segment.record_consumer("records"), ErrorKind::Busy, "records");
    drop((producer, records));
    again.producer::<u64>("ring").expect("free again");
    segment.record_consumer("records").expect("free again");
    let reader = stage.domain.open_read_only("s").expect("it is there");
    refused(reader.consumer::<u64>("ring"), ErrorKind::ReadOnly, "ring");
}

#[test]
fn the_peer_is_a_state_and_its_restart_a_value() {
    let stage = Stage::new();
    let segment = stage.segment(|builder| builder.ring::<u64>("ring", 8));
    let mut consumer = segment.consumer::<u64>("ring").expect("free");
    assert_eq!((consumer.peer(), consumer.peer_changed()), (PeerState::Never, None));
    let mut first = stage.child("ends::send", &[]);
    first.says();
    assert_eq!(consumer.peer(), PeerState::Alive);
    let change = consumer.peer_changed().expect("somebody came");
    assert_eq!((change.old_epoch, change.new_epoch), (0, 1));
    assert_eq!(consumer.peer_changed(), None);
    // Stopped is not dead.
    let pid = nix::unistd::Pid::from_raw(first.pid() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::SIGSTOP).expect("our child");
    assert_eq!(consumer.peer(), PeerState::Alive);
    let answer = consumer.recv_timeout(Duration::from_millis(200));
    assert_eq!(answer, Err(RecvError::TimedOut), "a stopped peer is waited for");
    first.kill();
    assert_eq!((consumer.peer(), consumer.peer_changed()), (PeerState::Dead, None));
    let mut second = stage.child("ends::send", &[]);
    second.says();
    second.tell("close");
    second.end_well();
    assert_eq!(consumer.peer(), PeerState::Closed);
    assert_eq!(consumer.peer_changed().map(|change| change.new_epoch), Some(2));
}

#[test]
fn what_a_killed_producer_committed_is_received_before_its_death_is_told() {
    let stage = Stage::new();
    let segment = stage.segment(|builder| builder.ring::<u64>("ring", 8));
    let mut consumer = segment.consumer::<u64>("ring").expect("free");
    for round in 0..3 {
        let mut child = stage.child("ends::send", &[]);
        assert_eq!(child.says(), (5 * round).to_string(), "the successor goes on behind the last");
        for number in 0..5 {
            child.tell(&number.to_string());
            child.says();
        }
        child.kill();
        assert_eq!(consumer.lag(), 5);
        for number in 0..5 {
            assert_eq!(consumer.position(), 5 * round + number);
            assert_eq!(in_time(|| consumer.recv()), Ok(number));
        }
        assert_eq!(in_time(|| consumer.recv()), Err(RecvError::PeerDied));
        assert_eq!(in_time(|| consumer.recv()), Err(RecvError::PeerDied), "it is told each time");
    }
    // Who outlives the peer waits for the next one.
    consumer.outlive_peer(true);
    let answer = consumer.recv_timeout(Duration::from_millis(120));
    assert_eq!(answer, Err(RecvError::TimedOut));
    let waiting = std::thread::spawn(move || in_time(|| consumer.recv()));
    let mut child = stage.child("ends::send", &[]);
    child.says();
    child.tell("77");
    assert_eq!(waiting.join().expect("no panic"), Ok(77));
    child.kill();
}

#[test]
fn a_full_ring_whose_consumer_died_or_left_says_so_and_goes_on_with_the_next() {
    let stage = Stage::new();
    let segment = stage.segment(|builder| builder.ring::<u64>("ring", 4));
    let mut producer = segment.producer::<u64>("ring").expect("free");
    let mut child = stage.child("ends::hold", &["consumer"]);
    child.says();
    for number in 0..4 {
        producer.push(number).expect("room");
    }
    child.kill();
    assert_eq!(in_time(|| producer.push(4)), Err(SendError::PeerDied));
    drop(segment.consumer::<u64>("ring").expect("free"));
    assert_eq!(in_time(|| producer.push(4)), Err(SendError::Closed));
    let mut consumer = segment.consumer::<u64>("ring").expect("free");
    assert_eq!(consumer.recv(), Ok(0));
    producer.push(4).expect("room again");
    for number in 1..5 {
        assert_eq!(consumer.recv(), Ok(number));
    }
}

#[test]
fn both_ends_closed_and_opened_again_go_on_where_they_were() {
    let stage = Stage::new();
    let segment = stage.segment(|builder| builder.ring::<u64>("ring", 7).records("records", 4096));
    let (mut sent, mut received) = (0, 0);
    for round in 0..50 {
        let mut producer = segment.producer::<u64>("ring").expect("free");
        let mut records = segment.record_producer("records").expect("free");
        assert_eq!(producer.position(), sent);
        for _ in 0..(round % 4) {
            producer.push(sent).expect("room");
            records.push(&vec![sent as u8; (sent % 50) as usize]).expect("room");
            sent += 1;
        }
        drop((producer, records));
        let mut consumer = segment.consumer::<u64>("ring").expect("free");
        let mut records = segment.record_consumer("records").expect("free");
        assert_eq!((consumer.position(), consumer.lag()), (received, sent - received));
        for _ in 0..consumer.lag().min(round % 5) {
            assert_eq!(consumer.recv(), Ok(received));
            let mut bytes = Vec::new();
            records.recv(&mut bytes).expect("as many");
            assert_eq!(bytes, vec![received as u8; (received % 50) as usize]);
            received += 1;
        }
    }
    assert!(sent > 50 && received > 40);
}

/// A consumer that reads records and releases only the first; then it waits to be killed.
fn read_three() {
    let segment = opened();
    let mut consumer = segment.record_consumer("records").expect("free");
    consumer.read().expect("three are there").release();
    consumer.read().expect("two are there").hold();
    let position = {
        let record = consumer.read().expect("one is there");
        record.position()
    };
    say(format_args!("{} {position}", consumer.released()));
    hear();
}

#[test]
fn a_record_read_and_not_released_is_seen_again_at_the_same_position() {
    let stage = Stage::new();
    let ring = RecordRing::new(4096).user_header(8);
    let segment = stage.segment(|builder| builder.records_of("records", ring));
    let mut producer = segment.record_producer("records").expect("free");
    for text in ["one", "two", "three"] {
        let mut reservation = producer.reserve(16).expect("room");
        std::io::Write::write_all(&mut reservation, text.as_bytes()).expect("room");
        reservation.set_user_header(&[text.len() as u8; 8]).expect("8 bytes");
        reservation.commit_written();
    }
    let mut child = stage.child("ends::read_three", &[]);
    let released_and_third = child.says();
    child.kill();
    for _ in 0..2 {
        // Left without a release, it comes again and again.
        let mut consumer = segment.record_consumer("records").expect("free");
        assert_eq!((consumer.released(), consumer.lag()), (24, 2));
        let second = consumer.read().expect("not released");
        assert_eq!((second.to_vec(), second.position()), (b"two".to_vec(), 24));
        let mut header = [0; 8];
        assert_eq!((second.user_header(&mut header), header), (8, [3; 8]));
        second.hold();
        let third = consumer.read().expect("not released");
        assert_eq!(third.to_vec(), b"three");
        assert_eq!(released_and_third, format!("24 {}", third.position()));
    }
}

/// The roles of this file.
pub fn play(role: &str) -> bool {
    match role {
        "ends::hold" => hold(),
        "ends::send" => send(),
        "ends::read_three" => read_three(),
        _ => return false,
    }
    true
}

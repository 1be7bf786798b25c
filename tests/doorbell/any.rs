//! Waiting for three rings of different kinds, each with a sender in a process of its own.

use crate::common::child::{argument, hear, say};
use crate::{HANG, Stage, opened};
use hugeshm::{RecvError, SendError, WaitAny, WaitError, WaitMode};
use std::time::{Duration, Instant};

const MESSAGES: u64 = 3000;

/// Sends numbers at random times, and then leaves or waits to be killed.
fn send() {
    let segment = opened();
    let ring = argument(1);
    let mut random: u64 = argument(2).parse().expect("a seed");
    let mut typed = (ring == "typed").then(|| segment.producer::<u64>("typed").expect("free"));
    let mut raw = (ring == "raw").then(|| segment.raw_producer("raw").expect("free"));
    let mut records = (ring == "records").then(|| segment.record_producer(&ring).expect("free"));
    say("ready");
    hear();
    for number in 0..MESSAGES {
        random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        if random >> 61 == 0 {
            std::thread::sleep(Duration::from_micros(random >> 40 & 0xff));
        }
        let done: Result<(), SendError> = match (&mut typed, &mut raw, &mut records) {
            (Some(end), ..) => end.push(number),
            (_, Some(end), _) => end.push(&number.to_le_bytes()),
            (_, _, Some(end)) => end.push(&number.to_le_bytes()),
            _ => panic!("no such ring"),
        };
        done.expect("the parent reads");
    }
    drop((typed, raw));
    say("done");
    hear(); // the record ring's is killed, or leaves at the end
    drop(records);
}

fn gather(mut any: WaitAny) {
    let stage = Stage::new();
    let segment = stage.segment(|builder| {
        builder.ring::<u64>("typed", 8).ring::<u64>("raw", 3).records("records", 256)
    });
    let mut typed = segment.consumer::<u64>("typed").expect("free");
    let mut raw = segment.raw_consumer("raw").expect("free");
    let mut records = segment.record_consumer("records").expect("free");
    let mut children: Vec<_> = ["typed", "raw", "records"]
        .iter()
        .zip(["1", "2", "3"])
        .map(|(ring, seed)| stage.child("any::send", &[ring, seed]))
        .collect();
    for child in &mut children {
        child.says();
        child.tell("go");
    }
    let mut counts = [0; 3];
    let mut ended = [None; 3];
    let start = Instant::now();
    let mut slowest = Duration::ZERO;
    while ended != [Some(RecvError::Closed), Some(RecvError::Closed), Some(RecvError::PeerDied)] {
        assert!(start.elapsed() < 3 * HANG, "{counts:?} {ended:?}");
        let looked = Instant::now();
        let mut bytes = [0; 8];
        let mut long = Vec::new();
        // Those that have ended are left out.
        let mut ends: Vec<(usize, &mut dyn hugeshm::Waitable)> =
            vec![(0, &mut typed), (1, &mut raw), (2, &mut records)];
        ends.retain(|(index, _)| ended[*index].is_none());
        let (names, mut ends): (Vec<_>, Vec<_>) = ends.into_iter().unzip();
        let found = names[any.wait_timeout(&mut ends, HANG).expect("somebody sends")];
        drop(ends);
        let answer = match found {
            0 => typed.try_recv(),
            1 => raw.try_recv(&mut bytes).map(|()| u64::from_le_bytes(bytes)),
            _ => records
                .try_recv(&mut long)
                .map(|()| u64::from_le_bytes(long.as_slice().try_into().expect("eight bytes"))),
        };
        match answer {
            Ok(number) => {
                slowest = slowest.max(looked.elapsed());
                assert_eq!(number, counts[found], "in order");
                counts[found] += 1;
            }
            Err(end) => ended[found] = Some(end),
        }
        if counts[2] == MESSAGES && ended[2].is_none() && children.len() == 3 {
            let mut last = children.pop().expect("three");
            assert_eq!(last.says(), "done");
            last.kill();
        }
    }
    assert_eq!(counts, [MESSAGES; 3]);
    let answer = any.wait_timeout(&mut [], HANG);
    assert_eq!(answer, Err(WaitError::NoEndpoint));
    eprintln!("slowest {slowest:?}, {:?} in all", start.elapsed());
    for child in children {
        child.end_well();
    }
}

#[test]
fn three_rings_of_different_kinds_are_waited_for_together() {
    for mode in [WaitMode::Adaptive, WaitMode::Block] {
        let mut any = WaitAny::new();
        any.wait_mode(mode);
        gather(any);
    }
}

/// The roles of this file.
pub fn play(role: &str) -> bool {
    match role {
        "any::send" => send(),
        _ => return false,
    }
    true
}

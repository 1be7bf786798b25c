//! A forked child inherits memory and descriptors, and none of the claims.
#![expect(unsafe_code, reason = "fork")]

use crate::{Stage, in_time};
use hugeshm::{ErrorKind, PeerState, RecvError, SendError};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use std::io::{Read, Write};

/// Runs `body` in a forked child, which tells its answer by its status.
fn in_a_forked_child(body: impl FnOnce() -> i32) -> nix::unistd::Pid {
    // SAFETY: the child runs `body` and then _exit, which runs no handlers. `body` may allocate
    // (glibc's allocator is usable after a fork); other locks are not taken by other threads, as
    // one test runs at a time and none of the others prints meanwhile.
    match unsafe { fork() }.expect("a process") {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            let code = body();
            // SAFETY: it ends this process and touches no memory.
            unsafe { nix::libc::_exit(code) }
        }
    }
}

#[test]
fn a_forked_child_is_refused_by_every_end_and_the_parent_goes_on() {
    let stage = Stage::new();
    let segment = stage.segment(|builder| builder.ring::<u64>("ring", 4).records("records", 4096));
    let mut producer = segment.producer::<u64>("ring").expect("free");
    let mut consumer = segment.consumer::<u64>("ring").expect("free");
    let mut writer = segment.record_producer("records").expect("free");
    let mut reader = segment.record_consumer("records").expect("free");
    producer.push(1).expect("room");
    writer.push(b"one").expect("room");
    let child = in_a_forked_child(|| {
        let refused = [
            producer.try_push(2) == Err(SendError::Forked),
            producer.push(2) == Err(SendError::Forked),
            consumer.try_recv() == Err(RecvError::Forked),
            consumer.recv() == Err(RecvError::Forked),
            writer.try_push(b"two") == Err(SendError::Forked),
            reader.try_read().err() == Some(RecvError::Forked),
            reader.read().err() == Some(RecvError::Forked),
        ];
        refused.iter().position(|refused| !refused).map_or(0, |at| at as i32 + 1)
    });
    assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
    producer.push(2).expect("room");
    assert_eq!((consumer.recv(), consumer.recv()), (Ok(1), Ok(2)));
    assert_eq!(reader.read().expect("one").to_vec(), b"one");
}

#[test]
fn a_forked_child_does_not_keep_its_parents_ends_alive() {
    let stage = Stage::new();
    let segment = stage.segment(|builder| builder.ring::<u64>("ring", 4));
    let producer = segment.producer::<u64>("ring").expect("free");
    let mut consumer = segment.consumer::<u64>("ring").expect("free");
    let (mut reading, mut writing) = std::io::pipe().expect("a pipe");
    let child = in_a_forked_child(|| {
        let mut byte = [0];
        i32::from(reading.read(&mut byte).is_err())
    });
    assert_eq!(consumer.peer(), PeerState::Alive);
    // Dropped in the parent, it is free though the child lives.
    drop(producer);
    assert_eq!(consumer.peer(), PeerState::Closed);
    assert_eq!(in_time(|| consumer.recv()), Err(RecvError::Closed));
    drop(segment.producer::<u64>("ring").expect("free"));
    writing.write_all(&[1]).expect("the child reads");
    assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
}

#[test]
fn a_forked_child_may_open_the_segment_anew() {
    let stage = Stage::new();
    let segment = stage.segment(|builder| builder.ring::<u64>("ring", 4));
    let child = in_a_forked_child(|| {
        let refused = segment.producer::<u64>("ring").err().map(|error| error.kind());
        if refused != Some(ErrorKind::Forked) {
            return 1;
        }
        let Ok(own) = stage.domain.open("s") else { return 2 };
        let Ok(mut producer) = own.producer::<u64>("ring") else { return 3 };
        let sent = producer.push(9);
        std::mem::forget(producer);
        i32::from(sent.is_err()) * 4
    });
    assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
    let mut consumer = segment.consumer::<u64>("ring").expect("free");
    assert_eq!(consumer.recv(), Ok(9));
    // The child ended without leaving.
    assert_eq!(in_time(|| consumer.recv()), Err(RecvError::PeerDied));
}

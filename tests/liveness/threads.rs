//! A thread that dies is no process that dies.
//!
//! Claims belong to descriptors and these to the process. So a thread may end as it likes: what it
//! held lives on, unless it was dropped. An end that is dropped while a panic unwinds is given back
//! without the good order: its place is free, and its peer is told that it died.
#![expect(unsafe_code, reason = "a thread that ends by the bare system call")]

use crate::common::child::{argument, hear, say};
use crate::{Stage, until};
use hugeshm::{PeerState, RecvError};
use std::time::Duration;

/// Arguments: the folder, and how the thread ends.
fn run() {
    let domain = crate::common::domain(argument(0).as_ref());
    let segment = domain.open("s").expect("the parent made it");
    let producer = segment.producer::<u64>("ring").expect("free");
    let mut kept = None;
    match argument(1).as_str() {
        "another panics" => {
            let thread = std::thread::spawn(|| panic!("on purpose"));
            assert!(thread.join().is_err());
            kept = Some(producer);
        }
        "its own panics" => {
            let thread = std::thread::spawn(move || {
                let _held = producer;
                panic!("on purpose");
            });
            assert!(thread.join().is_err());
        }
        "its own forgets" => {
            std::thread::spawn(move || std::mem::forget(producer)).join().expect("no panic");
        }
        "its own vanishes" => {
            let (tell, number) = std::sync::mpsc::channel();
            let thread = std::thread::spawn(move || {
                let _held = producer;
                tell.send(nix::unistd::gettid()).expect("the other waits");
                // SAFETY: it ends this thread alone; nothing that others use is on its stack, and
                // nobody joins it.
                unsafe { nix::libc::syscall(nix::libc::SYS_exit, 0) };
            });
            let path = format!("/proc/self/task/{}", number.recv().expect("a number"));
            until("the thread is gone", || !std::path::Path::new(&path).exists());
            std::mem::forget(thread);
        }
        other => panic!("no such end: {other}"),
    }
    say("ready");
    hear();
    drop(kept);
}

#[test]
fn what_a_thread_held_lives_on_unless_it_was_dropped() {
    let mut tried = 0;
    for (end, state, answer) in [
        ("another panics", PeerState::Alive, RecvError::TimedOut),
        ("its own panics", PeerState::Dead, RecvError::PeerDied),
        ("its own forgets", PeerState::Alive, RecvError::TimedOut),
        ("its own vanishes", PeerState::Alive, RecvError::TimedOut),
    ] {
        let stage = Stage::new();
        let segment = stage.builder().ring::<u64>("ring", 4).build().expect("base pages");
        let mut consumer = segment.consumer::<u64>("ring").expect("free");
        let mut child = stage.child("threads::run", &[end]);
        assert_eq!(child.says(), "ready", "{end}");
        assert_eq!(consumer.peer(), state, "{end}");
        let waited = consumer.recv_timeout(Duration::from_millis(200));
        assert_eq!(waited, Err(answer), "{end}");
        let info = stage.domain.inspect("s").expect("a report");
        let attached = info.attachments.iter().find(|one| one.pid == child.pid());
        assert_eq!(attached.map(|one| one.state), Some(PeerState::Alive), "{end}: it lives");
        let free = segment.producer::<u64>("ring").is_ok();
        assert_eq!(free, state == PeerState::Dead, "{end}");
        child.kill();
        drop((consumer, segment));
        stage.domain.remove("s").expect("ours");
        tried += 1;
    }
    eprintln!("{tried} ends of threads");
}

/// The roles of this file.
pub fn play(role: &str) -> bool {
    match role {
        "threads::run" => run(),
        _ => return false,
    }
    true
}

//! One of every end that waits, each on an object of its own: the sleeper's side, and the side that
//! another process holds.

use hugeshm::{
    Armed, BroadcastConsumer, BroadcastRing, Consumer, Join, LatestValue, PeerState, Segment,
    SegmentBuilder, WaitAny, WaitMode,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;

/// An end that waits for the process at the other end of its object.
pub trait Sleeper: Send {
    /// Waits without a deadline; what came of it, in words.
    fn wait(&mut self) -> String;
    /// What the end says of the other one.
    fn peer(&self) -> PeerState;
}

/// The other end, which can end the wait well.
pub type Held = Box<dyn FnMut()>;

/// One kind of object, and who waits for whom.
pub struct Kind {
    /// Its name, and that of its object.
    pub name: &'static str,
    /// Makes the sleeper.
    pub sleeper: fn(&Segment) -> Box<dyn Sleeper>,
    /// Takes the end that is waited for.
    pub hold: fn(&Segment) -> Held,
    /// What a wait comes to when that end has died.
    pub died: &'static str,
}

/// A sleeper made of an end and of what it does.
struct With<E> {
    end: E,
    wait: fn(&mut E) -> String,
    peer: fn(&E) -> PeerState,
}

impl<E: Send> Sleeper for With<E> {
    fn wait(&mut self) -> String {
        (self.wait)(&mut self.end)
    }

    fn peer(&self) -> PeerState {
        (self.peer)(&self.end)
    }
}

fn said<T, E: std::fmt::Debug>(result: Result<T, E>) -> String {
    match result {
        Ok(_) => "Ok".to_owned(),
        Err(error) => format!("{error:?}"),
    }
}

/// A sleeper on `$end`, an expression of the segment, in mode Block.
macro_rules! sleeps {
    (|$segment:ident| $end:expr, |$e:ident| $wait:expr) => {
        |$segment: &Segment| -> Box<dyn Sleeper> {
            let mut end = $end.expect("free");
            end.wait_mode(WaitMode::Block);
            Box::new(With { end, wait: |$e| said($wait), peer: |e| e.peer() })
        }
    };
}

/// Declares an object of every kind.
pub fn declare(builder: SegmentBuilder) -> SegmentBuilder {
    let lossless = || BroadcastRing::<u64>::new(8).lossless(true).consumers(2);
    builder
        .ring::<u64>("ring", 4)
        .ring::<u64>("full-ring", 4)
        .records("records", 4096)
        .broadcast_of("lossless", lossless())
        .broadcast::<u64>("broadcast", 8)
        .call::<u64, u64>("call")
        .call::<u64, u64>("serve")
        .duplex::<u64, u64>("duplex", 4)
        .lanes::<u64>("lanes", 2, 4)
        .shared_ring::<u64>("shared", 8)
        .latest::<u64>("latest")
        .latest_of("watched", LatestValue::<u64>::new().watchers(2))
        .ring::<u64>("bell", 4)
        .ring::<u64>("any", 4)
}

/// All of them.
pub const ALL: [Kind; 14] = [
    Kind {
        name: "ring",
        sleeper: sleeps!(|s| s.consumer::<u64>("ring"), |e| e.recv()),
        hold: |s| {
            let mut end = s.producer::<u64>("ring").expect("free");
            Box::new(move || end.push(1).expect("room"))
        },
        died: "PeerDied",
    },
    Kind {
        name: "full-ring",
        sleeper: sleeps!(
            |s| s.producer::<u64>("full-ring").map(|mut end| {
                while end.try_push(1).is_ok() {}
                end
            }),
            |e| e.push(2)
        ),
        hold: |s| {
            let mut end = s.consumer::<u64>("full-ring").expect("free");
            Box::new(move || while end.try_recv().is_ok() {})
        },
        died: "PeerDied",
    },
    Kind {
        name: "records",
        sleeper: sleeps!(|s| s.record_consumer("records"), |e| e.recv(&mut Vec::new())),
        hold: |s| {
            let mut end = s.record_producer("records").expect("free");
            Box::new(move || end.push(b"one").expect("room"))
        },
        died: "PeerDied",
    },
    Kind {
        name: "lossless",
        // Filled up first; the dead are then not waited for.
        sleeper: sleeps!(
            |s| s.broadcast_producer::<u64>("lossless").map(|mut end| {
                while end.try_push(1).is_ok() {}
                end
            }),
            |e| e.push(2)
        ),
        hold: |s| {
            let mut end: BroadcastConsumer<u64> =
                s.broadcast_consumer("lossless", Join::Oldest).expect("free");
            Box::new(move || while end.try_recv().is_ok() {})
        },
        died: "Ok",
    },
    Kind {
        name: "broadcast",
        sleeper: sleeps!(|s| s.broadcast_consumer::<u64>("broadcast", Join::Newest), |e| e.recv()),
        hold: |s| {
            let mut end = s.broadcast_producer::<u64>("broadcast").expect("free");
            Box::new(move || end.push(1).expect("room"))
        },
        died: "PeerDied",
    },
    Kind {
        name: "call",
        sleeper: sleeps!(|s| s.caller::<u64, u64>("call"), |e| e.call(1)),
        hold: |s| {
            let mut end = s.server::<u64, u64>("call").expect("free");
            Box::new(move || end.serve_one(|request| request + 1).expect("a request"))
        },
        died: "PeerDied",
    },
    Kind {
        name: "serve",
        sleeper: sleeps!(|s| s.server::<u64, u64>("serve"), |e| e.serve_one(|request| request)),
        hold: |s| {
            let mut end = s.caller::<u64, u64>("serve").expect("free");
            Box::new(move || assert!(end.start(1).is_ok()))
        },
        died: "PeerDied",
    },
    Kind {
        name: "duplex",
        sleeper: sleeps!(|s| s.duplex_caller::<u64, u64>("duplex"), |e| e.call(1)),
        hold: |s| {
            let mut end = s.duplex_server::<u64, u64>("duplex").expect("free");
            Box::new(move || end.serve_one(|request| request + 1).expect("a request"))
        },
        died: "PeerDied",
    },
    Kind {
        name: "lanes",
        sleeper: sleeps!(|s| s.lanes_consumer::<u64>("lanes"), |e| e.recv()),
        hold: |s| {
            let mut end = s.lane_producer::<u64>("lanes").expect("free");
            Box::new(move || end.push(1).expect("room"))
        },
        died: "PeerDied",
    },
    Kind {
        name: "shared",
        sleeper: sleeps!(|s| s.shared_consumer::<u64>("shared"), |e| e.recv()),
        hold: |s| {
            let mut end = s.shared_producer::<u64>("shared").expect("free");
            Box::new(move || end.push(1).expect("room"))
        },
        died: "PeerDied",
    },
    Kind {
        name: "latest",
        sleeper: sleeps!(|s| s.latest_reader::<u64>("latest"), |e| e.wait_newer(0)),
        hold: |s| {
            let mut end = s.latest_writer::<u64>("latest").expect("free");
            Box::new(move || assert!(end.write(&1).is_ok()))
        },
        died: "PeerDied",
    },
    Kind {
        name: "watched",
        sleeper: sleeps!(|s| s.latest_watcher::<u64>("watched"), |e| e.wait_newer(0)),
        hold: |s| {
            let mut end = s.latest_writer::<u64>("watched").expect("free");
            Box::new(move || assert!(end.write(&1).is_ok()))
        },
        died: "PeerDied",
    },
    Kind {
        name: "bell",
        sleeper: |s| {
            let mut end = s.consumer::<u64>("bell").expect("free");
            let bell = end.doorbell().expect("a folder of ours");
            Box::new(With { end: (end, bell), wait: in_poll, peer: |(end, _)| end.peer() })
        },
        hold: |s| {
            let mut end = s.producer::<u64>("bell").expect("free");
            Box::new(move || end.push(1).expect("room"))
        },
        died: "PeerDied",
    },
    Kind {
        name: "any",
        sleeper: |s| {
            let end = s.consumer::<u64>("any").expect("free");
            Box::new(With { end, wait: among_others, peer: |end| end.peer() })
        },
        hold: |s| {
            let mut end = s.producer::<u64>("any").expect("free");
            Box::new(move || end.push(1).expect("room"))
        },
        died: "PeerDied",
    },
];

/// Asleep in `poll`: nobody rings at a death, so `poll` gets the timeout that arming says.
fn in_poll((end, bell): &mut (Consumer<u64>, hugeshm::Doorbell)) -> String {
    loop {
        match bell.arm(end).expect("its own") {
            Armed::Ready => return said(end.try_recv()),
            Armed::Poll { at_most } => {
                let mut fds = [PollFd::new(bell.as_fd(), PollFlags::POLLIN)];
                poll(&mut fds, PollTimeout::try_from(at_most).expect("short")).expect("a pipe");
                bell.clear();
            }
        }
    }
}

/// Asleep in a wait for several ends.
fn among_others(end: &mut Consumer<u64>) -> String {
    let found = WaitAny::new().wait_mode(WaitMode::Block).wait(&mut [end]);
    assert_eq!(found, Ok(0));
    said(end.try_recv())
}

//! Sleepers in threads of this process, and how often they have gone to sleep.

use crate::kinds::{self, Kind, Sleeper};
use crate::{HANG, until};
use hugeshm::{PeerState, Segment};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// A wait under way in a thread of its own.
pub struct Asleep {
    pub kind: &'static Kind,
    thread: i32,
    ended: Arc<AtomicBool>,
    result: mpsc::Receiver<(String, PeerState)>,
}

static KINDS: [Kind; 14] = kinds::ALL;

/// One of each kind, asleep.
pub fn put_to_sleep(segment: &Segment) -> Vec<Asleep> {
    let ends: Vec<_> = KINDS.iter().map(|kind| (kind, (kind.sleeper)(segment))).collect();
    ends.into_iter().map(|(kind, sleeper)| Asleep::new(kind, sleeper)).collect()
}

impl Asleep {
    fn new(kind: &'static Kind, mut sleeper: Box<dyn Sleeper>) -> Self {
        let (say, result) = mpsc::channel();
        let (tell, thread) = mpsc::channel();
        let ended = Arc::new(AtomicBool::new(false));
        let mark = Arc::clone(&ended);
        std::thread::spawn(move || {
            tell.send(nix::unistd::gettid().as_raw()).expect("the test waits for it");
            let came = sleeper.wait();
            mark.store(true, Ordering::Release);
            let peer = sleeper.peer();
            drop(sleeper); // with its descriptors, before the test counts them
            let _ = say.send((came, peer));
        });
        Self { kind, thread: thread.recv().expect("it says so first"), ended, result }
    }

    /// How often the thread has gone to sleep.
    fn sleeps(&self) -> u64 {
        let path = format!("/proc/self/task/{}/status", self.thread);
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }

    /// What the wait came to, and what the end then says of its peer.
    #[track_caller]
    pub fn came_to(self) -> (String, PeerState) {
        self.result
            .recv_timeout(HANG)
            .unwrap_or_else(|_| panic!("{} still sleeps; nobody told it", self.kind.name))
    }
}

/// Waits until every sleeper has slept `times` more; none of them may wake up for good.
#[track_caller]
pub fn sleep_on(asleep: &[Asleep], times: u64) {
    let before: Vec<u64> = asleep.iter().map(Asleep::sleeps).collect();
    let start = Instant::now();
    for (one, before) in asleep.iter().zip(before) {
        let name = one.kind.name;
        loop {
            let ended = one.ended.load(Ordering::Acquire);
            assert!(!ended, "{name}: the wait ended by itself: {:?}", one.result.try_recv());
            if one.sleeps() >= before + times {
                break;
            }
            // A slice of 50 ms, generously.
            let patience = HANG + Duration::from_millis(500) * u32::try_from(times).expect("few");
            assert!(start.elapsed() < patience, "{name} does not go on sleeping");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// All waits end, each as its kind says for a dead peer, and say so of it.
#[track_caller]
pub fn learn_of_the_death(asleep: Vec<Asleep>, fate: &str) {
    for one in asleep {
        let (name, died) = (one.kind.name, one.kind.died);
        let (came, peer) = one.came_to();
        assert_eq!(came, died, "{fate}: {name}");
        assert_eq!(peer, PeerState::Dead, "{fate}: {name}");
    }
}

/// All waits end well.
#[track_caller]
pub fn are_served(asleep: Vec<Asleep>, fate: &str) {
    for one in asleep {
        let name = one.kind.name;
        let (came, peer) = one.came_to();
        assert_eq!((came.as_str(), peer), ("Ok", PeerState::Alive), "{fate}: {name}");
    }
}

/// Waits until a process is a zombie: dead, and not reaped.
#[track_caller]
pub fn until_zombie(pid: u32) {
    until("it is a zombie", || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z"))
    });
}

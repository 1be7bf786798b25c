//! Looks whether the barrier in one process really stands in for the fence in another.
//!
//! The litmus test is the store buffer. Two processes that share two words, each
//! on a processor of its own: one stores 1 into x and then loads y, the other
//! stores 1 into y and then loads x. Without fences both may load 0, and on x86
//! they often do; with a fence on each side they never may. What is tried is the
//! library's bargain: the one that stores often (the sender) leaves its fence out,
//! having registered with `membarrier`, and the other (the sleeper) calls the
//! barrier instead of fencing.
//!
//! Three pairs are run: none (must be seen to fail, or the test shows nothing),
//! both fence, and the barrier for the sender's fence.
#![expect(unsafe_code, reason = "two words that two processes share, and system calls")]

use crate::verdict::Verdict;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};
use std::num::NonZeroUsize;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU64, compiler_fence, fence};

/// What can be chosen.
#[derive(clap::Args)]
pub struct Arguments {
    /// How many rounds of each pair are run
    #[arg(long, default_value_t = 200_000)]
    rounds: u64,
}

/// The processors that the two run on.
const SENDER: usize = 0;
const SLEEPER: usize = 1;

/// The words of a round, each on a line of its own.
#[repr(C, align(128))]
struct Line(AtomicU64);

#[repr(C)]
struct Shared {
    /// What the sender stores: a message.
    x: Line,
    /// What the sleeper stores: that it sleeps.
    y: Line,
    /// What each has loaded in this round.
    sender_saw: Line,
    sleeper_saw: Line,
    /// The round that each has ended, and the one that may begin.
    sender_done: Line,
    sleeper_done: Line,
    go: Line,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fences {
    None,
    Both,
    Barrier,
}

const GLOBAL_EXPEDITED: libc::c_int = 1 << 1;
const REGISTER_GLOBAL_EXPEDITED: libc::c_int = 1 << 2;

fn membarrier(command: libc::c_int) -> bool {
    // SAFETY: membarrier takes three integers and touches no memory of the caller.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
}

fn pin(processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor).expect("a processor's number");
    sched_setaffinity(Pid::from_raw(0), &set).expect("a processor that is there");
}

fn until(word: &AtomicU64, value: u64) {
    while word.load(Acquire) < value {
        std::hint::spin_loop();
    }
}

/// A little work that differs from round to round, so that the two do not march in step.
fn dally(round: u64, salt: u64) {
    let turns = (round ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60;
    (0..turns).for_each(|_| std::hint::spin_loop());
}

fn sender(shared: &Shared, rounds: u64, fences: Fences) {
    pin(SENDER);
    assert!(fences != Fences::Barrier || membarrier(REGISTER_GLOBAL_EXPEDITED), "membarrier");
    for round in 1..=rounds {
        until(&shared.go.0, round);
        dally(round, 1);
        shared.x.0.store(round, Relaxed);
        match fences {
            Fences::Both => fence(SeqCst),
            Fences::None | Fences::Barrier => compiler_fence(SeqCst),
        }
        shared.sender_saw.0.store(shared.y.0.load(Relaxed), Relaxed);
        shared.sender_done.0.store(round, Release);
    }
}

/// How often neither saw the other.
fn sleeper(shared: &Shared, rounds: u64, fences: Fences) -> u64 {
    let mut both_missed = 0;
    for round in 1..=rounds {
        shared.go.0.store(round, Release);
        dally(round, 2);
        shared.y.0.store(round, Relaxed);
        match fences {
            Fences::None => compiler_fence(SeqCst),
            Fences::Both => fence(SeqCst),
            Fences::Barrier => {
                fence(SeqCst);
                assert!(membarrier(GLOBAL_EXPEDITED), "membarrier");
            }
        }
        shared.sleeper_saw.0.store(shared.x.0.load(Relaxed), Relaxed);
        shared.sleeper_done.0.store(round, Release);
        until(&shared.sender_done.0, round);
        let (sender, sleeper) =
            (shared.sender_saw.0.load(Relaxed), shared.sleeper_saw.0.load(Relaxed));
        both_missed += u64::from(sender < round && sleeper < round);
    }
    both_missed
}

fn pair(rounds: u64, fences: Fences) -> u64 {
    let length = NonZeroUsize::new(size_of::<Shared>()).expect("it has words");
    let (protection, flags) = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED);
    // SAFETY: a new mapping at a place that the kernel chooses takes nothing from anybody.
    let memory = unsafe { mmap_anonymous(None, length, protection, flags) }.expect("a page");
    // SAFETY: the mapping is zeroed, page-aligned, long enough for a `Shared`, whose words are all
    // atomic, and never unmapped.
    let shared: &'static Shared = unsafe { memory.cast().as_ref() };
    // SAFETY: this program has one thread here, so the child may do what the parent may.
    match unsafe { fork() }.expect("another process") {
        ForkResult::Child => {
            sender(shared, rounds, fences);
            // SAFETY: ends the child at once; what the parent would write on its way out is the
            // parent's to write.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            pin(SLEEPER);
            let missed = sleeper(shared, rounds, fences);
            waitpid(child, None).expect("the child ends");
            missed
        }
    }
}

/// Runs the suite.
pub fn run(arguments: &Arguments) -> Verdict {
    let mut verdict = Verdict::default();
    if std::thread::available_parallelism().map_or(1, NonZeroUsize::get) < 2 {
        verdict.skip("two processors are needed, each for one of the pair");
        return verdict;
    }
    let rounds = arguments.rounds;
    verdict.counted("rounds of each pair", rounds);
    // On a busy machine the two seldom run at the same time.
    let missed = (0..20).map(|_| pair(rounds, Fences::None)).find(|missed| *missed > 0);
    verdict.counted("without fences, neither saw the other", missed.unwrap_or(0));
    for (fences, what) in [(Fences::Both, "both fence"), (Fences::Barrier, "the sleeper's barrier")]
    {
        if fences == Fences::Barrier && !membarrier(REGISTER_GLOBAL_EXPEDITED) {
            verdict.skip("this kernel refuses the global expedited membarrier");
            continue;
        }
        let missed = pair(rounds, fences);
        println!("{what}: neither saw the other in {missed} of {rounds} rounds");
        if missed > 0 {
            verdict.fault(format!("{what}: neither saw the other {missed} times"));
        }
    }
    verdict
}

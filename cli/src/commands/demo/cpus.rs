//! Two processors for two processes.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use std::fs;

/// Two processors that this process may use: of different cores, with one cache if possible.
///
/// `None` if there is only one, or if the kernel does not say.
pub(super) fn pair() -> Option<[usize; 2]> {
    let set = sched_getaffinity(Pid::from_raw(0)).ok()?;
    let allowed: Vec<usize> =
        (0..CpuSet::count()).filter(|&cpu| set.is_set(cpu) == Ok(true)).collect();
    let (&first, others) = allowed.split_first()?;
    let told = |cpu: usize, what: &str| {
        fs::read_to_string(format!("/sys/devices/system/cpu/cpu{cpu}/{what}")).unwrap_or_default()
    };
    let differ = |what, other| told(first, what) != told(other, what);
    let bad = |&other: &usize| {
        let same_core = !differ("topology/thread_siblings_list", other);
        (same_core, differ("cache/index3/shared_cpu_list", other))
    };
    others.iter().copied().min_by_key(bad).map(|second| [first, second])
}

/// Keeps this process on one processor; where that is forbidden it stays where it is.
pub(super) fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    if set.set(cpu).is_ok() {
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}

//! Two processors, one for each half.
#![expect(unsafe_code, reason = "the C library sets priorities")]

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use std::fs;

/// Two processors that this process may use: of different cores, with one cache if possible.
///
/// `None` if there is only one, or if the kernel does not say.
pub(crate) fn pair() -> Option<[usize; 2]> {
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

/// Keeps the calling thread on one processor.
pub(crate) fn pin(cpu: usize) -> nix::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set)
}

/// Lets the calling process go before all others that are not in a hurry by decree.
pub(crate) fn stand_first() -> nix::Result<()> {
    // SAFETY: takes three numbers and touches no memory.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) };
    nix::errno::Errno::result(result).map(drop)
}

/// What the machine calls its processors.
pub(crate) fn model() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find(|line| line.split(':').next().map(str::trim) == Some(name))?;
        line.split_once(':').map(|(_, value)| value.trim().to_owned())
    };
    let say = |name: &str| field(name).unwrap_or_else(|| "?".into());
    let guest = if text.contains(" hypervisor") { ", virtual machine" } else { "" };
    format!("{} (family {} model {}){guest}", say("model name"), say("cpu family"), say("model"))
}

//! Who may make System V segments on huge pages, how many, and how much memory there is.

use crate::sys::text;
use std::path::Path;

/// `CAP_IPC_LOCK` as a bit of `CapEff`.
const CAP_IPC_LOCK: u64 = 1 << 14;

/// The limits of System V shared memory; `None` where the kernel has none of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ShmLimits {
    /// Whether this process may make segments with `SHM_HUGETLB`.
    pub may_use_hugetlb: bool,
    /// Why, in words.
    pub reason: String,
    /// The group that may (`vm.hugetlb_shm_group`).
    pub hugetlb_shm_group: Option<u32>,
    /// The largest segment, in bytes (`kernel.shmmax`).
    pub shmmax: Option<u64>,
    /// All segments together, in base pages (`kernel.shmall`).
    pub shmall: Option<u64>,
    /// How many segments there may be (`kernel.shmmni`).
    pub shmmni: Option<u64>,
}

/// The machine's memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// What can be had without swapping, as the kernel estimates it.
    pub available: u64,
    /// What all huge page pools hold.
    pub hugetlb: u64,
}

/// One line of an id map: how ids in here are called outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct IdRange {
    inside: u64,
    outside: u64,
    count: u64,
}

/// The understood lines of `/proc/self/gid_map`.
fn parse_id_map(map: &[u8]) -> Vec<IdRange> {
    text::lines(map)
        .filter_map(|line| {
            let mut numbers = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
            let mut next = || text::parse_number(numbers.next()?);
            Some(IdRange { inside: next()?, outside: next()?, count: next()? })
        })
        .collect()
}

/// Whether a map is the one of the machine's first user namespace (or there is none).
fn is_first_namespace(map: &[IdRange]) -> bool {
    let whole = IdRange { inside: 0, outside: 0, count: 4_294_967_295 };
    map.is_empty() || map == [whole]
}

fn outside(map: &[IdRange], id: u64) -> Option<u64> {
    if map.is_empty() {
        return Some(id);
    }
    map.iter().find_map(|range| {
        let offset = id.checked_sub(range.inside)?;
        (offset < range.count).then(|| range.outside.checked_add(offset))?
    })
}

/// Whether a process with this `status` and group map may use `SHM_HUGETLB`, and why.
///
/// The kernel asks for the capability in the machine's first user namespace, or for membership in
/// the group, which it also counts there.
pub(super) fn judge(status: &[u8], gid_map: &[u8], group: Option<u32>) -> (bool, String) {
    let map = parse_id_map(gid_map);
    let capabilities = text::field(status, "CapEff:")
        .and_then(|hex| u64::from_str_radix(str::from_utf8(hex).ok()?, 16).ok())
        .unwrap_or(0);
    let capable = capabilities & CAP_IPC_LOCK != 0;
    if capable && is_first_namespace(&map) {
        return (true, "has CAP_IPC_LOCK".to_owned());
    }
    let words = |key| {
        text::field(status, key)
            .unwrap_or_default()
            .split(u8::is_ascii_whitespace)
            .filter_map(text::parse_number)
    };
    // The second number of `Gid:` is the effective group.
    let mut groups = words("Gid:").nth(1).into_iter().chain(words("Groups:"));
    match group {
        None => (false, "no CAP_IPC_LOCK, and the kernel has no hugetlb_shm_group".to_owned()),
        Some(group) if groups.any(|own| outside(&map, own) == Some(u64::from(group))) => {
            (true, format!("in hugetlb_shm_group {group}"))
        }
        Some(group) if capable => {
            let text = "CAP_IPC_LOCK holds only inside this user namespace";
            (false, format!("{text}, and not in hugetlb_shm_group {group}"))
        }
        Some(group) => (false, format!("no CAP_IPC_LOCK and not in hugetlb_shm_group {group}")),
    }
}

/// The limits of System V shared memory for this process.
pub fn shm_limits() -> ShmLimits {
    let optional = |path: &str| text::read_optional(Path::new(path)).unwrap_or_default();
    let number = |path: &str| text::number(Path::new(path));
    let group = number("/proc/sys/vm/hugetlb_shm_group").and_then(|gid| u32::try_from(gid).ok());
    let (may_use_hugetlb, reason) =
        judge(&optional("/proc/thread-self/status"), &optional("/proc/self/gid_map"), group);
    ShmLimits {
        may_use_hugetlb,
        reason,
        hugetlb_shm_group: group,
        shmmax: number("/proc/sys/kernel/shmmax"),
        shmall: number("/proc/sys/kernel/shmall"),
        shmmni: number("/proc/sys/kernel/shmmni"),
    }
}

/// The machine's memory as it is now; zeros where `/proc` is hidden.
pub fn memory() -> Memory {
    let meminfo = text::read_optional(Path::new("/proc/meminfo")).unwrap_or_default();
    let bytes = |key| text::parse_meminfo(&meminfo, key).unwrap_or(0);
    Memory {
        total: bytes("MemTotal:"),
        available: bytes("MemAvailable:"),
        hugetlb: bytes("Hugetlb:"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &[u8] = b"Gid:\t0\t0\t0\t0\nGroups:\t0 \nCapEff:\t000001ffffffffff\n";
    const USER: &[u8] =
        b"Gid:\t1000\t1000\t1000\t1000\nGroups:\t27 1000 \nCapEff:\t0000000000000000\n";
    const FIRST: &[u8] = b"         0          0 4294967295\n";
    const INNER: &[u8] = b"0 100000 65536\n";

    #[test]
    fn the_capability_or_the_group_permits_and_the_reason_says_which() {
        assert_eq!(judge(ROOT, FIRST, Some(7)), (true, "has CAP_IPC_LOCK".to_owned()));
        assert_eq!(judge(USER, FIRST, Some(27)), (true, "in hugetlb_shm_group 27".to_owned()));
        assert!(judge(USER, FIRST, Some(1000)).0);
        assert!(!judge(USER, FIRST, Some(0)).0);
        assert!(!judge(USER, FIRST, None).0);
    }

    #[test]
    fn a_user_namespace_lends_neither_the_capability_nor_its_group_numbers() {
        assert!(!judge(ROOT, INNER, Some(0)).0);
        assert!(judge(ROOT, INNER, Some(100_000)).0);
        assert!(judge(USER, INNER, Some(101_000)).0);
    }

    #[test]
    fn nonsense_permits_nothing() {
        for status in [&b""[..], b"CapEff:\n", b"CapEff: zz\nGid:\t1\n", b"Groups: \xff 1e9\n"] {
            assert!(!judge(status, FIRST, Some(5)).0, "{}", status.escape_ascii());
        }
        assert_eq!(parse_id_map(b"1 2\n\xff\n0 1 2 3\n18446744073709551616 1 1\n").len(), 1);
        let edge = [IdRange { inside: 0, outside: u64::MAX, count: u64::MAX }];
        assert_eq!(outside(&edge, 1), None);
    }

    #[test]
    fn memory_is_what_meminfo_says() {
        let memory = memory();
        assert!(memory.total > 0 && memory.available <= memory.total);
    }
}

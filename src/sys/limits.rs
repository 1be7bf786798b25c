//! What the kernel lets this process take: address space, mappings, file sizes.
//!
//! Looked at when a call was refused, to name the number that was hit, and before a file grows:
//! beyond `RLIMIT_FSIZE` the kernel sends SIGXFSZ, which ends a process that expects nothing.

use nix::errno::Errno;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// What is taken of something, and the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub used: u64,
    pub limit: u64,
}

impl Taken {
    /// What is left.
    pub(crate) fn left(self) -> u64 {
        self.limit.saturating_sub(self.used)
    }
}

fn soft(resource: Resource) -> Option<u64> {
    getrlimit(resource).ok().map(|(soft, _)| soft).filter(|soft| *soft != RLIM_INFINITY)
}

/// The address space in bytes (`RLIMIT_AS`); none where it is not limited.
pub(crate) fn address_space() -> Option<Taken> {
    let limit = soft(Resource::RLIMIT_AS)?;
    let status = super::text::read_optional(Path::new("/proc/self/status")).unwrap_or_default();
    let used = super::text::parse_meminfo(&status, "VmSize:").unwrap_or(0);
    Some(Taken { used, limit })
}

/// The mappings (`vm.max_map_count`); none where `/proc` is hidden.
///
/// Allocates next to nothing, since memory may be what there is no mapping for.
pub(crate) fn mappings() -> Option<Taken> {
    let limit = super::text::number(Path::new("/proc/sys/vm/max_map_count"))?;
    let mut file = File::open("/proc/self/maps").ok()?;
    let mut bytes = [0u8; 8192];
    let mut used = 0;
    loop {
        match file.read(&mut bytes) {
            Ok(0) => return Some(Taken { used, limit }),
            Ok(count) => {
                used += bytes[..count].iter().filter(|byte| **byte == b'\n').count() as u64
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

/// The descriptors (`RLIMIT_NOFILE`).
pub(crate) fn descriptors() -> Option<u64> {
    soft(Resource::RLIMIT_NOFILE)
}

/// How long a file of this process may become (`RLIMIT_FSIZE`); none where it is not limited.
pub(crate) fn file_size() -> Option<u64> {
    soft(Resource::RLIMIT_FSIZE)
}

/// `EFBIG` where a file of `length` bytes would be a SIGXFSZ.
pub(crate) fn check_file_size(length: u64) -> nix::Result<()> {
    if file_size().is_some_and(|limit| limit < length) { Err(Errno::EFBIG) } else { Ok(()) }
}

/// `EMFILE` or `ENFILE` where not one descriptor more can be had.
///
/// Texts that cannot be opened count as absent, so whoever decides by them asks this first.
pub(crate) fn check_descriptors() -> nix::Result<()> {
    let flags = nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_CLOEXEC;
    match nix::fcntl::open("/", flags, nix::sys::stat::Mode::empty()) {
        Err(errno @ (Errno::EMFILE | Errno::ENFILE)) => Err(errno),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_counted_as_the_kernel_lists_them() {
        let lines = || std::fs::read_to_string("/proc/self/maps").unwrap().lines().count() as u64;
        // Other tests map and unmap meanwhile.
        let (before, taken) = (lines(), mappings().unwrap());
        assert!(taken.used >= before / 2 && taken.used <= before * 2 + 64, "{taken:?} of {before}");
        assert!(taken.left() > 0);
    }

    #[test]
    fn no_limit_on_file_sizes_forbids_nothing() {
        if file_size().is_none() {
            assert_eq!(check_file_size(u64::MAX), Ok(()));
        }
        assert_eq!(check_descriptors(), Ok(()));
    }
}

//! The table: what each call answers to each scarce thing.
//!
//! `docs/EXHAUSTION.md` says the same in words.

use crate::calls::{Call, On};
use crate::wants::Want;
use hugeshm::{ErrorKind, RefusalCode};

/// What is right.
#[derive(Debug)]
pub enum Expected {
    /// It does not need what is scarce.
    Works,
    /// It takes another rung, and reports this one with these words.
    Falls(RefusalCode, Vec<&'static str>),
    /// It fails with these words, one of the refusals having this code.
    Fails(ErrorKind, Option<RefusalCode>, Vec<&'static str>),
    /// It works if what is left is enough for it, and else fails with these words.
    MayFail(ErrorKind, Vec<&'static str>),
}
use Expected::{Fails, Falls, MayFail, Works};

/// Out of pages, for this reason.
fn refused(code: RefusalCode, words: &[&'static str]) -> Expected {
    Fails(ErrorKind::OutOfPages, Some(code), words.to_vec())
}

/// The answer of a call on huge pages, or of one that can do without.
fn pages(on: On, code: RefusalCode, words: &[&'static str]) -> Expected {
    match on {
        On::Auto => Falls(code, words.to_vec()),
        on if on.is_huge() => refused(code, words),
        _ => Works,
    }
}

/// The cell.
pub fn expected(call: Call, want: Want, left: u64) -> Expected {
    match want {
        Want::Descriptors => descriptors(call, left),
        Want::Mappings => mappings(call, left),
        Want::AddressSpace => address_space(call, left),
        Want::FolderSize | Want::FolderFiles => folder(call, want, left),
        Want::FolderReadOnly => read_only(call),
        Want::FileSize => file_size(call, left),
        Want::LockedMemory => Works,
        want => match call.on() {
            Some(on) if call.makes() => pages_of(call, on, want, left),
            // Whatever is there stays usable, whatever is short of pages.
            _ => Works,
        },
    }
}

/// What is made of pages, where they or the right to them are scarce.
fn pages_of(call: Call, on: On, want: Want, left: u64) -> Expected {
    let region = matches!(call, Call::Region(_));
    let unnamed = matches!(call, Call::Unnamed(_));
    let on_mount = on == On::Hugetlbfs || on == On::Auto && !region && !unnamed;
    let sysv = on == On::Sysv;
    match want {
        Want::PoolTaken | Want::PoolPromised => pages(
            on,
            RefusalCode::PoolTooSmall,
            &["needs 2 pages of 2M, 0 available", "ENOMEM", "hugeshm reserve 2M"],
        ),
        Want::MountSize if on_mount => pages(
            on,
            RefusalCode::MountQuota,
            &["needs 4 MiB, the mount has 0 B of 8 MiB free", "ENOMEM", "size="],
        ),
        Want::MountFiles if on_mount => pages(
            on,
            RefusalCode::MountQuota,
            &["needs 1 file", "takes no more than 4 files (nr_inodes)", "ENOSPC", "nr_inodes="],
        ),
        Want::HugetlbMax => pages(
            on,
            RefusalCode::CgroupLimit,
            &["needs 4 MiB, the cgroup", "of 2 MiB", "EFAULT", "raise hugetlb.2MB.max"],
        ),
        Want::HugetlbReserved => pages(
            on,
            RefusalCode::CgroupLimit,
            &["needs 4 MiB, the cgroup", "leaves 2 MiB of 2 MiB", "ENOMEM", "hugetlb.2MB.rsvd.max"],
        ),
        Want::MemoryCgroup if on.is_huge() => {
            refused(RefusalCode::PoolTooSmall, &["needs 24 pages of 2M, 0 available"])
        }
        Want::MemoryCgroup => refused(
            RefusalCode::MemoryLimit,
            &["needs 48 MiB, the memory cgroup", "of 24 MiB", "memory.limit_in_bytes"],
        ),
        Want::ShmCount if sysv && left == 0 => refused(
            RefusalCode::ShmLimit,
            &["needs 1 segment", "0 of 0 segments (kernel.shmmni)", "ENOSPC", "sysctl"],
        ),
        Want::ShmSize if sysv => refused(
            RefusalCode::ShmLimit,
            &["needs 4194304 bytes, kernel.shmmax is 1048576", "EINVAL", "sysctl"],
        ),
        Want::ShmAll if sysv => refused(
            RefusalCode::ShmLimit,
            &["1024 base pages", "0 of 16 pages (kernel.shmall)", "ENOSPC", "sysctl"],
        ),
        Want::AbsentNode => Fails(
            ErrorKind::InvalidArgument,
            None,
            vec!["node 900 does not exist", "nodes with memory: 0"],
        ),
        _ => Works,
    }
}

/// At least one descriptor is needed for nearly everything; with 8 everything works.
fn descriptors(call: Call, left: u64) -> Expected {
    let words = vec!["EMFILE", "needs a descriptor, all 128 of this process", "ulimit -n"];
    match call {
        Call::WaitForMany | Call::Send => Works,
        _ if left >= 8 => Works,
        _ if left == 0 => Fails(ErrorKind::NoSpace, None, words),
        _ => MayFail(ErrorKind::NoSpace, words),
    }
}

/// One mapping is needed for memory, and nothing else.
fn mappings(call: Call, left: u64) -> Expected {
    let words = ["needs 1 mapping, this process has", "(vm.max_map_count)", "ENOMEM", "sysctl"];
    match call {
        _ if left > 1 => Works,
        // Private base pages may continue a mapping that is there.
        Call::Region(_) => MayFail(ErrorKind::OutOfPages, words.to_vec()),
        call if call.makes() && left == 0 => refused(RefusalCode::ProcessLimit, &words),
        Call::Open(_) | Call::OpenReadOnly(_) | Call::Inspect(_) | Call::Receive if left == 0 => {
            Fails(ErrorKind::NoSpace, None, words.to_vec())
        }
        _ => Works,
    }
}

fn address_space(call: Call, left: u64) -> Expected {
    let words = ["of address space, this process has taken", "(RLIMIT_AS)", "ENOMEM", "ulimit -v"];
    match call {
        call if call.makes() => refused(RefusalCode::ProcessLimit, &words),
        // Those are of 1 MiB, on a huge page of 2 MiB.
        Call::Open(on) | Call::OpenReadOnly(on) | Call::Inspect(on) => {
            let needed = if on.is_huge() { 2 << 20 } else { 1 << 20 };
            if left < needed {
                Fails(ErrorKind::NoSpace, None, words.to_vec())
            } else {
                // A place on the boundary of huge pages takes one more.
                MayFail(ErrorKind::NoSpace, words.to_vec())
            }
        }
        Call::Receive => MayFail(ErrorKind::NoSpace, words.to_vec()),
        _ => Works,
    }
}

/// A full control folder, or one without inodes.
fn folder(call: Call, want: Want, left: u64) -> Expected {
    let words = vec!["has no room", "64 MiB and", "of 64 files are left", "nr_inodes=", "ENOSPC"];
    match call {
        Call::Create(on) | Call::OpenOrCreate(on) | Call::Replace(on) => {
            let data = matches!(on, On::Base | On::Thp);
            match want {
                Want::FolderSize if data && left > 0 => refused(
                    RefusalCode::MemoryLimit,
                    &["needs 4 MiB, the tmpfs has", "of 64 MiB free", "size="],
                ),
                // Two small files; the data is a third, and refused as pages are.
                Want::FolderFiles if data && left == 1 => refused(
                    RefusalCode::MountQuota,
                    &["needs 1 file", "has room for 0 more files of 64 (nr_inodes)", "ENOSPC"],
                ),
                Want::FolderFiles if data && left == 2 => Fails(ErrorKind::NoSpace, None, words),
                _ if left < 2 => Fails(ErrorKind::NoSpace, None, words),
                _ => Works,
            }
        }
        // The others learn of a memfd's new holder if there is room; that is a service only.
        Call::HangDoorbell if want == Want::FolderFiles && left == 0 => {
            Fails(ErrorKind::NoSpace, None, words)
        }
        _ => Works,
    }
}

fn read_only(call: Call) -> Expected {
    let words = vec!["EROFS", "mounted read-only", "HUGESHM_DIR"];
    match call {
        Call::Unnamed(_) | Call::Region(_) => Works,
        call if call.makes() => Fails(ErrorKind::PermissionDenied, None, words),
        Call::Open(_) | Call::Remove(_) => Fails(ErrorKind::PermissionDenied, None, words),
        // It works as far as it can, and reports the rest.
        Call::Collect => MayFail(ErrorKind::PermissionDenied, words),
        _ => Works,
    }
}

fn file_size(call: Call, left: u64) -> Expected {
    let control = vec!["needs a longer file", "(RLIMIT_FSIZE)", "EFBIG", "ulimit -f"];
    let data = ["needs a file of 4 MiB, this process may make files of", "(RLIMIT_FSIZE)"];
    match call {
        Call::Create(_) | Call::OpenOrCreate(_) | Call::Replace(_) if left < 128 => {
            Fails(ErrorKind::NoSpace, None, control)
        }
        Call::Region(_) => Works,
        // A System V segment is no file.
        call if call.on() == Some(On::Sysv) => Works,
        Call::OpenOrCreate(On::Auto) | Call::Create(On::Auto) => {
            Falls(RefusalCode::ProcessLimit, data.to_vec())
        }
        call if call.makes() => refused(RefusalCode::ProcessLimit, &data),
        _ => Works,
    }
}

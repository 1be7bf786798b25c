//! System V shared memory: made, attached, looked at, removed.
#![expect(unsafe_code, reason = "shmget, shmat, shmdt and shmctl")]

use crate::size::PageSize;
use nix::errno::Errno;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

/// Takes the page size in bits 26 to 31 of the flags of `shmget`.
const SHM_HUGE_SHIFT: u32 = 26;

/// What the kernel says about a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The key it was made with.
    pub key: i32,
    /// Owner.
    pub uid: u32,
    /// Owner's group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
    /// Whether it was removed and lives only as long as it is attached.
    pub removed: bool,
    /// The length asked for at `shmget`.
    pub length: u64,
    /// How many attachments there are now, in all processes.
    pub attached: u64,
    /// Who made it.
    pub creator_pid: i32,
}

/// Makes a segment under `key`, which must be free (`EEXIST`), on huge pages of `huge`.
pub(crate) fn create(key: i32, length: u64, huge: PageSize, mode: u32) -> nix::Result<i32> {
    let length = usize::try_from(length).map_err(|_| Errno::EINVAL)?;
    let flags = libc::IPC_CREAT
        | libc::IPC_EXCL
        | libc::SHM_HUGETLB
        | ((huge.log2() as i32) << SHM_HUGE_SHIFT)
        | (mode & 0o666) as i32;
    // SAFETY: `shmget` takes and returns plain numbers.
    Errno::result(unsafe { libc::shmget(key, length, flags) })
}

/// The id of the segment made under `key`; `ENOENT` if there is none.
pub(crate) fn find(key: i32) -> nix::Result<i32> {
    // SAFETY: `shmget` takes and returns plain numbers.
    Errno::result(unsafe { libc::shmget(key, 0, 0) })
}

/// Facts about the segment `id`; `EINVAL` or `EIDRM` if there is none.
pub(crate) fn facts(id: i32) -> nix::Result<Facts> {
    let mut raw = MaybeUninit::<libc::shmid_ds>::zeroed();
    // SAFETY: `IPC_STAT` writes one `shmid_ds` to the address given, which has room for it.
    Errno::result(unsafe { libc::shmctl(id, libc::IPC_STAT, raw.as_mut_ptr()) })?;
    // SAFETY: all bits zero is a valid `shmid_ds` (integers only), and the kernel filled it in.
    let raw = unsafe { raw.assume_init() };
    // Beside the permission bits the kernel keeps SHM_DEST here. It does not keep SHM_HUGETLB:
    // whether pages are huge is seen in smaps once attached.
    let mode = u32::from(raw.shm_perm.mode);
    Ok(Facts {
        key: raw.shm_perm.__key,
        uid: raw.shm_perm.uid,
        gid: raw.shm_perm.gid,
        mode: mode & 0o777,
        removed: mode & 0o1000 != 0,
        length: raw.shm_segsz as u64,
        attached: raw.shm_nattch,
        creator_pid: raw.shm_cpid,
    })
}

/// What all segments of this IPC namespace take together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub segments: u64,
    /// In base pages, as `kernel.shmall` counts them.
    pub pages: u64,
}

/// `shmctl` command: sums over all segments.
const SHM_INFO: i32 = 14;

/// The kernel's `struct shm_info`.
#[repr(C)]
struct Info {
    used_ids: i32,
    pages: u64,
    resident: u64,
    swapped: u64,
    attempts: u64,
    successes: u64,
}

/// Looks at all segments.
pub(crate) fn usage() -> nix::Result<Usage> {
    const { assert!(size_of::<Info>() <= size_of::<libc::shmid_ds>()) };
    let mut raw = MaybeUninit::<libc::shmid_ds>::zeroed();
    // SAFETY: `SHM_INFO` writes one `shm_info` to the address given, which has room for it (above).
    Errno::result(unsafe { libc::shmctl(0, SHM_INFO, raw.as_mut_ptr()) })?;
    // SAFETY: an `Info` is not longer than `raw` (above) nor more aligned, and all its bytes were
    // zeroed or written by the kernel; every value is valid for integers.
    let info = unsafe { raw.as_ptr().cast::<Info>().read() };
    Ok(Usage { segments: u64::try_from(info.used_ids).unwrap_or(0), pages: info.pages })
}

/// Removes the segment `id`; what is attached stays usable until it is detached.
pub(crate) fn remove(id: i32) -> nix::Result<()> {
    // SAFETY: `IPC_RMID` ignores the address.
    Errno::result(unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) }).map(drop)
}

/// An attached segment that this value alone detaches.
///
/// Invariant: `base` came from `shmat` and is detached only by `Drop`.
#[derive(Debug)]
pub(crate) struct Attached {
    base: NonNull<u8>,
}

// SAFETY: the value is an address with an owner; detaching may be done by any thread.
unsafe impl Send for Attached {}
// SAFETY: a shared reference only gives the address.
unsafe impl Sync for Attached {}

impl Attached {
    /// Attaches the segment `id` at an address of the kernel's choice.
    pub(crate) fn new(id: i32, writable: bool) -> nix::Result<Self> {
        let flags = if writable { 0 } else { libc::SHM_RDONLY };
        // SAFETY: no address is asked for, so nothing that exists is replaced.
        let base = unsafe { libc::shmat(id, std::ptr::null(), flags) };
        if base.addr() == usize::MAX {
            return Err(Errno::last());
        }
        NonNull::new(base.cast()).map(|base| Self { base }).ok_or(Errno::ENOMEM)
    }

    /// The first byte.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // SAFETY: by the invariant the address came from `shmat` and is detached here once.
        let result = unsafe { libc::shmdt(self.base.as_ptr().cast()) };
        debug_assert_eq!(result, 0, "shmdt: {}", Errno::last());
    }
}

//! Who a process is, and what happens when it forks.
//!
//! A forked child inherits every open file description and with it every lock
//! its parent holds; a parent killed later would look alive for as long as the
//! child runs. So descriptors that carry locks are registered here, and a fork
//! handler closes them in the child. Handles made before the fork notice it by
//! the [`generation`] and answer `Forked`. A child made by a raw `clone` runs no
//! fork handlers; that is documented where users read it.
#![expect(unsafe_code, reason = "pthread_atfork and closing descriptors in the forked child")]

use nix::errno::Errno;
use std::cell::RefCell;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

/// How many times this process is a fork of the one that started: 0, 1, ...
pub(crate) static GENERATION: AtomicU64 = AtomicU64::new(0);

/// Held while a lock descriptor is opened and registered, and across every fork:
/// no child can be born between the two.
static OPENING: Mutex<()> = Mutex::new(());

thread_local! {
    /// The guard that the forking thread holds from before the fork until after it.
    static FORKING: RefCell<Option<MutexGuard<'static, ()>>> = const { RefCell::new(None) };
}

const BLOCK: usize = 512;
const FREE: RawFd = -1;

/// Registered descriptors, in blocks that are never freed: the child's handler walks them.
struct Block {
    descriptors: [AtomicI32; BLOCK],
    next: AtomicPtr<Block>,
}

static FIRST: Block = Block::new();

impl Block {
    const fn new() -> Self {
        Self {
            descriptors: [const { AtomicI32::new(FREE) }; BLOCK],
            next: AtomicPtr::new(std::ptr::null_mut()),
        }
    }

    fn next(&self) -> Option<&'static Block> {
        let next = self.next.load(Ordering::Acquire);
        // SAFETY: `next` is null or came from `Box::into_raw` in `next_or_new` and is never freed.
        unsafe { next.as_ref() }
    }

    /// The next block, made if need be; the caller holds `OPENING`.
    fn next_or_new(&self) -> &'static Block {
        self.next().unwrap_or_else(|| {
            let block: &'static Block = Box::leak(Box::new(Block::new()));
            self.next.store(std::ptr::from_ref(block).cast_mut(), Ordering::Release);
            block
        })
    }
}

extern "C" fn before_fork() {
    let guard = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
    FORKING.with_borrow_mut(|slot| *slot = Some(guard));
}

extern "C" fn after_fork_in_parent() {
    FORKING.with_borrow_mut(|slot| drop(slot.take()));
}

extern "C" fn after_fork_in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    let mut block = Some(&FIRST);
    while let Some(this) = block {
        for slot in &this.descriptors {
            let fd = slot.swap(FREE, Ordering::Relaxed);
            if fd != FREE {
                // SAFETY: `fd` is a descriptor that a `LockFd` of the parent owns; the child's
                // copy of that `LockFd` never closes it (its generation differs), so this is
                // the one close in this process. close(2) is async-signal-safe.
                unsafe { libc::close(fd) };
            }
        }
        block = this.next();
    }
    FORKING.with_borrow_mut(|slot| drop(slot.take()));
}

fn install_fork_handler() {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        // SAFETY: the three handlers are `extern "C"` functions that live as long as the process.
        let result = unsafe {
            libc::pthread_atfork(
                Some(before_fork),
                Some(after_fork_in_parent),
                Some(after_fork_in_child),
            )
        };
        // ENOMEM is the only failure; without the handler a forked child could keep a dead
        // parent "alive", which only delays recovery, so the library still works.
        debug_assert_eq!(result, 0);
    });
}

/// The fork generation of the calling process; a handle remembers the one it was made in.
#[inline]
pub(crate) fn generation() -> u64 {
    GENERATION.load(Ordering::Relaxed)
}

/// A descriptor that carries locks: closed on drop, and closed by the fork handler in a child.
#[derive(Debug)]
pub(crate) struct LockFd {
    fd: RawFd,
    generation: u64,
    /// The process that opened it: a child by raw `clone` has the same generation.
    pid: u32,
}

impl LockFd {
    /// Opens a descriptor with `open` and registers it, with no fork in between.
    pub(crate) fn open<E>(open: impl FnOnce() -> Result<OwnedFd, E>) -> Result<Self, E> {
        install_fork_handler();
        let _opening = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
        let fd = open()?.into_raw_fd();
        let mut block = &FIRST;
        loop {
            let free = block.descriptors.iter().find(|slot| {
                slot.compare_exchange(FREE, fd, Ordering::Relaxed, Ordering::Relaxed).is_ok()
            });
            if free.is_some() {
                return Ok(Self { fd, generation: generation(), pid: std::process::id() });
            }
            block = block.next_or_new();
        }
    }

    /// A new description of the same file, registered likewise; works for unlinked files too.
    pub(crate) fn reopen(&self, write: bool) -> nix::Result<Self> {
        self.check_fork()?;
        let path = format!("/proc/self/fd/{}", self.fd);
        let access = if write { nix::fcntl::OFlag::O_RDWR } else { nix::fcntl::OFlag::O_RDONLY };
        Self::open(|| {
            nix::fcntl::open(
                path.as_str(),
                access | nix::fcntl::OFlag::O_CLOEXEC,
                nix::sys::stat::Mode::empty(),
            )
        })
    }

    /// The generation of the process that opened it.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// `EBADF` in a forked child, where the descriptor is closed.
    pub(crate) fn check_fork(&self) -> nix::Result<()> {
        if self.generation == generation() { Ok(()) } else { Err(Errno::EBADF) }
    }
}

impl AsFd for LockFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        assert_eq!(self.generation, generation(), "a lock descriptor was used in a forked child");
        // SAFETY: `fd` stays open until drop: only drop and the child's fork handler close it,
        // and the line above rules the latter out.
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }
}

impl AsRawFd for LockFd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd
    }
}

impl Drop for LockFd {
    fn drop(&mut self) {
        if self.generation != generation() {
            return; // the fork handler closed it; the number may belong to somebody else by now
        }
        let mut block = Some(&FIRST);
        while let Some(this) = block {
            let found = this.descriptors.iter().any(|slot| {
                slot.compare_exchange(self.fd, FREE, Ordering::Relaxed, Ordering::Relaxed).is_ok()
            });
            if found {
                break;
            }
            block = this.next();
        }
        // A child that is between `clone` and `exec` (of `Command::spawn`, say, which runs no fork
        // handlers) holds a copy of the descriptor: closing ours would not end the lock.
        if self.pid == std::process::id() {
            // SAFETY: `fd` is open until the close below; no other handle uses it.
            crate::sys::locks::unlock(unsafe { BorrowedFd::borrow_raw(self.fd) });
        }
        // SAFETY: this handle owns `fd`, it was unregistered above, and nothing uses it again.
        unsafe { libc::close(self.fd) };
    }
}

/// Clock ticks after boot at which a process started: field 22 of `/proc/PID/stat`.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    parse_start_time(&std::fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// The number by which the mounted `/proc` knows this process.
///
/// It is another than that of `getpid` where a pid namespace has no `/proc` of its own.
pub(crate) fn own_number() -> Option<u32> {
    std::fs::read_link("/proc/self").ok()?.to_str()?.parse().ok()
}

/// The start time of this process.
pub(crate) fn own_start_time() -> Option<u64> {
    // Not by its number: `/proc` may be that of another pid namespace.
    parse_start_time(&std::fs::read("/proc/self/stat").ok()?)
}

/// The start time in the bytes of a `stat` file.
pub(crate) fn parse_start_time(stat: &[u8]) -> Option<u64> {
    parse_stat(stat, 22)
}

/// Whether a process is gone, or has given its memory back on its way out.
///
/// From then on its `/proc` entries belong to root, so that its own user is refused there.
pub(crate) fn is_ending(pid: u32) -> bool {
    let size = |stat: Vec<u8>| parse_stat(&stat, 23);
    std::fs::read(format!("/proc/{pid}/stat")).ok().and_then(size).is_none_or(|bytes| bytes == 0)
}

/// A numeric field of a `stat` file, counted from 1 as in proc(5), behind the command, which may
/// hold spaces and parentheses.
pub(crate) fn parse_stat(stat: &[u8], field: usize) -> Option<u64> {
    let after_command = &stat[stat.iter().rposition(|&byte| byte == b')')? + 1..];
    let mut fields = after_command.split(|&b| b == b' ').filter(|f| !f.is_empty());
    std::str::from_utf8(fields.nth(field.checked_sub(3)?)?).ok()?.parse().ok()
}

/// The kernel's random identity of this boot.
pub(crate) fn boot_id() -> Option<[u8; 16]> {
    parse_boot_id(&std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?)
}

pub(crate) fn parse_boot_id(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.trim().chars().filter(|&c| c != '-').collect();
    let value = u128::from_str_radix(&digits, 16).ok()?;
    (digits.len() == 32).then(|| value.to_be_bytes())
}

/// The inode number of this process's pid namespace.
pub(crate) fn pid_namespace() -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    Some(std::fs::metadata("/proc/self/ns/pid").ok()?.ino())
}

/// Bytes from the kernel's random source, as for identities and keys.
pub(crate) fn random_bytes<const N: usize>() -> nix::Result<[u8; N]> {
    let mut bytes = [0u8; N];
    let mut filled = 0;
    while filled < N {
        // SAFETY: the pointer and length describe the rest of `bytes`, which is writable.
        let got = unsafe {
            libc::getrandom(bytes.as_mut_ptr().wrapping_add(filled).cast(), N - filled, 0)
        };
        match Errno::result(got) {
            Ok(count) => filled += count as usize,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::locks;
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};

    #[test]
    fn a_forked_child_does_not_keep_its_parents_lock() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || {
            nix::fcntl::open(file.path(), nix::fcntl::OFlag::O_RDWR, nix::sys::stat::Mode::empty())
        };
        let claim = LockFd::open(open).unwrap();
        assert!(locks::try_lock(claim.as_fd(), locks::Mode::Exclusive, 7, 1).unwrap());
        // Closed at exec: a program that another test starts meanwhile would keep the writing end.
        let pipe = || nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        let ((reader, writer), (started, starting)) = (pipe(), pipe());
        // SAFETY: the child calls only async-signal-safe functions: close, write, read, _exit.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let forked = claim.check_fork().is_err();
                let mut byte = [0u8; 1];
                drop(writer);
                let _ = nix::unistd::write(&starting, &byte);
                let _ = nix::unistd::read(&reader, &mut byte); // until the parent is done
                // SAFETY: _exit ends the process without running destructors.
                unsafe { libc::_exit(if forked { 0 } else { 1 }) }
            }
            ForkResult::Parent { child } => {
                nix::unistd::read(&started, &mut [0u8; 1]).unwrap();
                drop(claim);
                let probe = open().unwrap();
                assert!(!locks::is_held(probe.as_fd(), 7).unwrap(), "the child kept the lock");
                drop((reader, writer));
                assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
            }
        }
    }

    #[test]
    fn more_descriptors_than_a_block_are_registered_and_unregistered() {
        let open = || {
            nix::fcntl::open(
                "/dev/null",
                nix::fcntl::OFlag::O_RDONLY,
                nix::sys::stat::Mode::empty(),
            )
        };
        let all: Vec<_> = (0..BLOCK + 10).map(|_| LockFd::open(open).unwrap()).collect();
        let numbers: Vec<_> = all.iter().map(AsRawFd::as_raw_fd).collect();
        drop(all);
        let mut block = Some(&FIRST);
        let mut blocks = 0;
        while let Some(this) = block {
            blocks += 1;
            block = this.next();
        }
        assert!(blocks >= 2);
        assert!(!numbers.is_empty());
    }

    #[test]
    fn a_command_with_parentheses_and_spaces_does_not_shift_the_start_time() {
        let stat = b"12 (a) b) (c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20\n";
        assert_eq!(parse_start_time(stat), Some(4242));
        assert_eq!(parse_start_time(b"12 (x) S 1 2"), None);
        assert_eq!(parse_start_time(b""), None);
        assert!(start_time(std::process::id()).unwrap() > 0);
        assert_eq!(own_number(), Some(std::process::id()));
        assert_eq!(own_start_time(), start_time(std::process::id()));
    }

    #[test]
    fn a_process_is_ending_once_its_memory_is_gone() {
        assert!(!is_ending(std::process::id()));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let start = std::time::Instant::now();
        // Not waited for: it ends as a zombie, whose entry is still there.
        while !is_ending(child.id()) {
            assert!(start.elapsed().as_secs() < 10);
        }
        assert!(start_time(child.id()).is_some());
        child.wait().unwrap();
        assert!(is_ending(child.id()));
    }

    #[test]
    fn boot_and_namespace_are_known() {
        assert!(boot_id().is_some());
        assert!(pid_namespace().is_some());
        assert_eq!(parse_boot_id("0-0"), None);
    }
}

//! Sleeping on and waking through a word of shared memory.
//!
//! Always the shared kind of futex, never `FUTEX_PRIVATE_FLAG`: the key is the
//! page and offset behind the address, so two processes that map the same file
//! at different addresses meet on it. `EINTR` is handed to the caller, who owns
//! the deadline. The clock of the waits lives here too.
#![expect(unsafe_code, reason = "system calls on a word of shared memory")]

use crate::sync::AtomicU32;
use core::ptr;
use core::time::Duration;
use nix::errno::Errno;

/// Sleeps while `word` holds `expected`, at most for `timeout`.
///
/// `Ok` when woken; `EAGAIN` when the word held something else, `ETIMEDOUT` when the time has
/// passed, `EINTR` when a signal came.
pub(crate) fn wait(word: &AtomicU32, expected: u32, timeout: Duration) -> nix::Result<()> {
    #[cfg(hugeshm_loom)]
    if crate::sync::modelled::runs() {
        return crate::sync::modelled::futex_wait(word, expected);
    }
    let timeout = libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(timeout.subsec_nanos() as i32),
    };
    // SAFETY: FUTEX_WAIT reads the aligned 32-bit word, mapped for the borrow of `word`, and the
    // timespec, a local; the two last arguments are unused by this operation.
    let result = unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT,
            expected,
            ptr::from_ref(&timeout),
            ptr::null::<u32>(),
            0u32,
        )
    };
    Errno::result(result).map(drop)
}

/// Wakes up to `count` sleepers on `word`; how many there were.
pub(crate) fn wake(word: &AtomicU32, count: i32) -> nix::Result<usize> {
    #[cfg(hugeshm_loom)]
    if crate::sync::modelled::runs() {
        return crate::sync::modelled::futex_wake(word, count);
    }
    // SAFETY: FUTEX_WAKE uses the address of the aligned word as a key; the mapping lives for
    // the borrow of `word`; the other arguments are unused by this operation.
    let result = unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAKE,
            count,
            ptr::null::<libc::timespec>(),
            ptr::null::<u32>(),
            0u32,
        )
    };
    Errno::result(result).map(|woken| usize::try_from(woken).unwrap_or(0))
}

/// How many words [`wait_any`] takes at most.
pub(crate) const WORDS_MAX: usize = 128;

/// `struct futex_waitv` of `linux/futex.h`.
#[repr(C)]
struct WaitEntry {
    value: u64,
    address: u64,
    flags: u32,
    reserved: u32,
}

/// A 32-bit word, of the shared kind.
const ENTRY_32: u32 = 2;

/// Sleeps while every word holds its expected value, at most for `timeout`.
///
/// `Ok` when one was woken; else as [`wait`]. `ENOSYS` before Linux 5.16.
pub(crate) fn wait_any<'a>(
    words: impl IntoIterator<Item = (&'a AtomicU32, u32)>,
    timeout: Duration,
) -> nix::Result<()> {
    let mut entries: [WaitEntry; WORDS_MAX] =
        [const { WaitEntry { value: 0, address: 0, flags: ENTRY_32, reserved: 0 } }; WORDS_MAX];
    let mut count = 0;
    for (word, expected) in words {
        let entry = entries.get_mut(count).ok_or(Errno::EINVAL)?;
        entry.value = u64::from(expected);
        entry.address = word.as_ptr().expose_provenance() as u64;
        count += 1;
    }
    let mut until = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel (or the vDSO) writes one timespec into the local.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, ptr::from_mut(&mut until)) };
    Errno::result(result)?;
    let nanos = until.tv_nsec + libc::c_long::from(timeout.subsec_nanos() as i32);
    let seconds = libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX);
    until.tv_sec = until.tv_sec.saturating_add(seconds).saturating_add(nanos / 1_000_000_000);
    until.tv_nsec = nanos % 1_000_000_000;
    // SAFETY: futex_waitv reads `count` entries, which are within the local array; the words they
    // name are aligned, 32 bits wide and mapped for `'a`; the absolute time is a local.
    let result = unsafe {
        libc::syscall(
            libc::SYS_futex_waitv,
            entries.as_ptr(),
            count,
            0u32,
            ptr::from_ref(&until),
            libc::CLOCK_MONOTONIC,
        )
    };
    Errno::result(result).map(drop)
}

/// Nanoseconds of `CLOCK_MONOTONIC_COARSE`: the same zero for all processes of a boot, steps of
/// a few milliseconds, no system call.
pub(crate) fn monotonic_nanos_coarse() -> u64 {
    #[cfg(hugeshm_loom)]
    if let Some(now) = crate::sync::modelled::nanos() {
        return now;
    }
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel (or the vDSO) writes one timespec into the local.
    let result =
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, ptr::from_mut(&mut now)) };
    if result != 0 {
        return 0;
    }
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_wait_ends_by_time_by_value_and_by_wake() {
        let word = AtomicU32::new(1);
        let start = Instant::now();
        assert_eq!(wait(&word, 1, Duration::from_millis(5)), Err(Errno::ETIMEDOUT));
        assert!(start.elapsed() >= Duration::from_millis(5));
        assert_eq!(wait(&word, 0, Duration::from_secs(60)), Err(Errno::EAGAIN));
        assert_eq!(wake(&word, 1), Ok(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while wake(&word, 1) == Ok(0) {
                    std::thread::yield_now();
                }
            });
            assert_eq!(wait(&word, 1, Duration::from_secs(60)), Ok(()));
        });
    }

    #[test]
    fn a_wait_on_many_words_ends_by_time_by_value_and_by_a_wake_on_any_of_them() {
        let words: Vec<AtomicU32> = (0..WORDS_MAX).map(|_| AtomicU32::new(1)).collect();
        let all = |expected| words.iter().map(|word| (word, expected)).collect::<Vec<_>>();
        let start = Instant::now();
        match wait_any(all(1), Duration::from_millis(5)) {
            Err(Errno::ENOSYS | Errno::EPERM) => {
                eprintln!("SKIP: this kernel has no futex_waitv");
                return;
            }
            result => assert_eq!(result, Err(Errno::ETIMEDOUT)),
        }
        assert!(start.elapsed() >= Duration::from_millis(5));
        let mut mixed = all(1);
        mixed[77].1 = 0;
        assert_eq!(wait_any(mixed, Duration::from_secs(60)), Err(Errno::EAGAIN));
        let more = [all(1), all(1)].concat();
        assert_eq!(wait_any(more, Duration::from_secs(60)), Err(Errno::EINVAL));
        for index in [0, WORDS_MAX - 1] {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while wake(&words[index], 1) == Ok(0) {
                        std::thread::yield_now();
                    }
                });
                assert_eq!(wait_any(all(1), Duration::from_secs(60)), Ok(()));
            });
        }
    }

    #[test]
    fn the_coarse_clock_does_not_run_backwards() {
        let first = monotonic_nanos_coarse();
        assert!(first > 0 && monotonic_nanos_coarse() >= first);
    }
}

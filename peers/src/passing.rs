//! Descriptors from the first half to the second, without a socket between them.
//!
//! The first half leaves its numbers, the second one copies them out of the other
//! process (`pidfd_getfd`, which needs the right to trace it).
#![expect(unsafe_code, reason = "pidfd_getfd has no wrapper")]

use bench_kit::{Outcome, Stage};
use std::cell::RefCell;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

thread_local! {
    /// What was left stays open until the next turn's halves have met and leave something.
    static LEFT: RefCell<Vec<(String, Vec<OwnedFd>)>> = const { RefCell::new(Vec::new()) };
}

/// Leaves descriptors for the other half.
pub fn leave<const K: usize>(stage: &Stage, channel: usize, fds: [OwnedFd; K]) {
    let numbers: Vec<String> = fds.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
    stage.say(channel, &format!("{} {}", std::process::id(), numbers.join(" ")));
    let turn = stage.name();
    LEFT.with_borrow_mut(|left| {
        left.retain(|(name, _)| *name == turn);
        left.push((turn, fds.into()));
    });
}

/// Copies of what the other half left.
pub fn fetch<const K: usize>(stage: &Stage, channel: usize) -> Outcome<[OwnedFd; K]> {
    let text = stage.hear(channel);
    let mut numbers = text.split(' ').map(str::parse::<i32>);
    let process = numbers.next().ok_or("nothing was left")??;
    // SAFETY: takes two numbers and makes a descriptor.
    let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, process, 0) };
    let pidfd = owned(pidfd)?;
    let mut fds = Vec::new();
    for number in numbers {
        let number = number?;
        // SAFETY: takes three numbers and makes a descriptor.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) };
        fds.push(owned(fd)?);
    }
    fds.try_into().map_err(|_| "the other half left something else".into())
}

fn owned(result: libc::c_long) -> Outcome<OwnedFd> {
    let fd = nix::errno::Errno::result(result)?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) })
}

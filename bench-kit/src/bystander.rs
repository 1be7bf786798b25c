//! Processes that hold an end and do nothing.
//!
//! What a transport costs with many ends attached is asked on machines with two
//! processors. Ends beyond those of the two halves belong to processes of their
//! own that are stopped (SIGSTOP): they are as alive as a debugged program, take no
//! processor, and never come to what they were sent.
#![expect(unsafe_code, reason = "forks")]

use crate::stage::Outcome;
use nix::sys::signal::{Signal, kill, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use std::time::Duration;

/// Long enough for a process to fall asleep.
const FALL_ASLEEP: Duration = Duration::from_millis(20);

/// A process that is stopped.
#[derive(Debug)]
pub struct Bystander {
    process: Pid,
    /// What ends it.
    end: Signal,
}

impl Bystander {
    /// Starts a process that makes something and is stopped with it in its hands, which it drops
    /// in the end.
    ///
    /// # Errors
    ///
    /// If there can be no process, or what it makes it cannot make.
    pub fn holding<T>(make: impl FnOnce() -> Outcome<T>) -> Outcome<Self> {
        Self::start(Signal::SIGCONT, || {
            let _held = make()?;
            Ok(raise(Signal::SIGSTOP)?)
        })
    }

    /// Starts a process that makes something and is stopped while it sleeps in `wait`, and killed in
    /// the end.
    ///
    /// # Errors
    ///
    /// As [`holding`](Self::holding).
    pub fn asleep<T>(
        make: impl FnOnce() -> Outcome<T>,
        wait: impl FnOnce(&mut T) -> Outcome,
    ) -> Outcome<Self> {
        let bystander = Self::start(Signal::SIGKILL, || {
            let mut held = make()?;
            raise(Signal::SIGSTOP)?;
            wait(&mut held)
        })?;
        kill(bystander.process, Signal::SIGCONT)?;
        std::thread::sleep(FALL_ASLEEP);
        kill(bystander.process, Signal::SIGSTOP)?;
        bystander.await_stop()?;
        Ok(bystander)
    }

    /// Runs `life` in a process of its own, and returns when that has stopped.
    fn start(end: Signal, life: impl FnOnce() -> Outcome) -> Outcome<Self> {
        // SAFETY: the C library keeps its own locks usable in the child, and a half that runs in
        // a process has no other thread that could hold one of ours.
        match unsafe { fork() }? {
            ForkResult::Child => live(life),
            ForkResult::Parent { child } => {
                let bystander = Self { process: child, end };
                bystander.await_stop()?;
                Ok(bystander)
            }
        }
    }

    fn await_stop(&self) -> Outcome {
        match waitpid(self.process, Some(WaitPidFlag::WUNTRACED))? {
            WaitStatus::Stopped(..) => Ok(()),
            ended => Err(format!("a bystander ended: {ended:?}").into()),
        }
    }
}

/// The child's whole life: it never returns into what its parent was doing.
fn live(life: impl FnOnce() -> Outcome) -> ! {
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
    let ended = std::panic::catch_unwind(core::panic::AssertUnwindSafe(life));
    if let Ok(Err(error)) = &ended {
        eprintln!("bystander: {error}");
    }
    let code = i32::from(!matches!(ended, Ok(Ok(()))));
    // SAFETY: ends this process; nothing of the parent's is dropped or written in it.
    unsafe { libc::_exit(code) }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = kill(self.process, self.end);
        let _ = waitpid(self.process, None);
    }
}

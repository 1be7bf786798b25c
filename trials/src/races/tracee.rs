//! A child that makes one call and moves only when it is told to: from one stop to the next.
#![expect(unsafe_code, reason = "children are forked, and end without unwinding")]

use super::filter;
use super::operation::{Answer, Operation};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill, raise};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Where a child is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// Before a call that others can see.
    Call(u64),
    /// Before a pause: it found that it has to wait for somebody.
    Pause,
    /// It has ended, or was killed.
    End,
}

/// A traced child.
pub struct Tracee {
    pid: Pid,
    at: At,
    memory: File,
    answer: File,
    failed: Option<String>,
}

impl Tracee {
    /// Starts a child and takes it to its first stop.
    ///
    /// # Errors
    ///
    /// The kernel refuses to fork, to filter or to trace.
    pub fn start(operation: Operation, folder: &Path) -> Result<Self, String> {
        let failed = |what: &'static str| move |errno| format!("{what}: {errno}");
        let (reader, writer) = nix::unistd::pipe().map_err(failed("pipe"))?;
        // SAFETY: this process has one thread, so the child may do what any process may.
        match unsafe { fork() }.map_err(failed("fork"))? {
            ForkResult::Child => {
                drop(reader);
                let status = play(operation, folder, &mut File::from(writer));
                // SAFETY: ends this process at once; nothing of the parent's is run or flushed.
                unsafe { libc::_exit(status) }
            }
            ForkResult::Parent { child } => {
                drop(writer);
                waitpid(child, None).map_err(failed("wait for the child"))?;
                let options = Options::PTRACE_O_TRACESECCOMP | Options::PTRACE_O_EXITKILL;
                ptrace::setoptions(child, options).map_err(failed("trace"))?;
                let memory = File::open(format!("/proc/{child}/mem"))
                    .map_err(|error| format!("memory of the child: {error}"))?;
                let answer = File::from(reader);
                let mut tracee = Self { pid: child, at: At::Pause, memory, answer, failed: None };
                tracee.go(true)?;
                Ok(tracee)
            }
        }
    }

    /// Where it is.
    pub fn at(&self) -> At {
        self.at
    }

    /// Makes the call that it stands before, and goes on to the next stop. A pause takes no time
    /// unless it is `real`.
    ///
    /// # Errors
    ///
    /// The kernel refuses, or the child hangs.
    pub fn go(&mut self, real: bool) -> Result<(), String> {
        if self.at == At::Pause && !real {
            self.skip_pause()?;
        }
        loop {
            ptrace::cont(self.pid, None).map_err(|errno| format!("continue: {errno}"))?;
            self.at = match self.next_stop()? {
                None => continue,
                Some(at) => at,
            };
            return Ok(());
        }
    }

    /// The call is not made, and answers 0: the time has passed.
    fn skip_pause(&self) -> Result<(), String> {
        let failed = |errno| format!("registers: {errno}");
        let mut registers = ptrace::getregs(self.pid).map_err(failed)?;
        registers.orig_rax = u64::MAX;
        registers.rax = 0;
        ptrace::setregs(self.pid, registers).map_err(failed)
    }

    /// The next stop; `None` if nobody can see the call.
    fn next_stop(&mut self) -> Result<Option<At>, String> {
        nix::unistd::alarm::set(20);
        let waited = waitpid(self.pid, None);
        nix::unistd::alarm::cancel();
        match waited {
            Ok(WaitStatus::PtraceEvent(..)) => {
                let registers =
                    ptrace::getregs(self.pid).map_err(|errno| format!("registers: {errno}"))?;
                Ok(self.classify(&registers))
            }
            Ok(WaitStatus::Exited(_, 0)) => Ok(Some(At::End)),
            Ok(WaitStatus::Exited(_, status)) => {
                self.failed = Some(format!("it ended with status {status}"));
                Ok(Some(At::End))
            }
            Ok(status @ WaitStatus::Stopped(..)) => {
                self.failed = Some(format!("{status:?}"));
                self.kill();
                Ok(Some(At::End))
            }
            other => {
                let read = |file| {
                    std::fs::read_to_string(format!("/proc/{}/{file}", self.pid))
                        .unwrap_or_default()
                };
                let place = [read("wchan"), read("syscall"), read("stack")].join("; ");
                self.kill();
                Err(format!("a child hangs: {other:?}; {place}"))
            }
        }
    }

    fn classify(&self, registers: &libc::user_regs_struct) -> Option<At> {
        let call = registers.orig_rax as libc::c_long;
        match call {
            libc::SYS_clock_nanosleep => return Some(At::Pause),
            // Whatever is done to flags of a descriptor, nobody else sees it.
            libc::SYS_fcntl => {
                let locks = [libc::F_OFD_GETLK, libc::F_OFD_SETLK, libc::F_OFD_SETLKW];
                if !locks.contains(&(registers.rsi as i32)) {
                    return None;
                }
            }
            // The kernel's own files, and files that have no name yet.
            libc::SYS_openat => {
                let unnamed = registers.rdx & libc::O_TMPFILE as u64 == libc::O_TMPFILE as u64;
                let mut path = [0; 6];
                let _ = self.memory.read_at(&mut path, registers.rsi);
                let kernel = [&b"/proc/"[..], b"/sys/", b"/etc/"];
                if unnamed || kernel.iter().any(|start| path.starts_with(start)) {
                    return None;
                }
            }
            _ => {}
        }
        Some(At::Call(registers.orig_rax))
    }

    /// Kills it where it stands, and waits until the kernel has taken back what it held.
    pub fn kill(&mut self) {
        if self.at == At::End {
            return;
        }
        let _ = kill(self.pid, Signal::SIGKILL);
        while matches!(
            waitpid(self.pid, None),
            Ok(WaitStatus::PtraceEvent(..) | WaitStatus::Stopped(..))
        ) {}
        self.at = At::End;
    }

    /// What the call answered; none if it was killed before.
    ///
    /// # Errors
    ///
    /// It ended in no good order.
    pub fn answer(mut self) -> Result<Option<Answer>, String> {
        let mut text = String::new();
        let read = self.answer.read_to_string(&mut text);
        match (self.failed.take(), read) {
            (Some(failed), _) => Err(format!("{failed}; it said {text:?}")),
            (None, Err(error)) => Err(format!("its answer: {error}")),
            (None, Ok(0)) => Ok(None),
            (None, Ok(_)) => Answer::parse(&text).map(Some),
        }
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The life of the child.
fn play(operation: Operation, folder: &Path, answer: &mut File) -> i32 {
    if ptrace::traceme().is_err() || raise(Signal::SIGSTOP).is_err() || filter::install().is_err() {
        return 3;
    }
    let said = std::panic::catch_unwind(|| operation.run(folder));
    let text = said.map_or_else(|_| "panicked".to_owned(), |answer| answer.to_string());
    i32::from(answer.write_all(text.as_bytes()).is_err())
}

/// A signal that only ends a wait.
extern "C" fn nothing(_: libc::c_int) {}

/// Lets an alarm end a wait for a child that hangs.
pub fn heed_alarms() -> nix::Result<()> {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, sigaction};
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing, which may be done at any moment.
    unsafe { sigaction(Signal::SIGALRM, &action) }.map(drop)
}

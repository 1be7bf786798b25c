//! Ctrl-C for commands that go on until somebody ends them.
//!
//! The signals are blocked rather than handled: nothing ever runs between two
//! instructions of ours, and what was begun is finished. The second signal ends
//! the process by itself, so that a command whose output is stuck can be ended.

use crate::output::Failure;
use nix::sys::signal::{SigSet, Signal};
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// Hears the signals that ask a command to end.
#[derive(Debug)]
pub(crate) struct Interrupts(Receiver<Signal>);

impl Interrupts {
    /// Listens from now on; to be called before any other thread is started.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let (sender, receiver) = mpsc::channel();
        // Nobody is left to be told of a hang-up, and `nohup` wants it to be ignored.
        let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
        let failed = |errno| Failure::Undone(format!("block signals: {errno}"));
        signals.thread_block().map_err(failed)?;
        thread::spawn(move || {
            if let Ok(signal) = signals.wait() {
                // The other end is gone when the command has ended by itself.
                let _ = sender.send(signal);
            }
            let _ = signals.thread_unblock();
            loop {
                thread::park();
            }
        });
        Ok(Self(receiver))
    }

    /// Lets `time` pass; the signal that ended it early.
    pub(crate) fn during(&self, time: Duration) -> Option<Signal> {
        match self.0.recv_timeout(time) {
            Ok(signal) => Some(signal),
            Err(RecvTimeoutError::Timeout) => None,
            // The listener cannot have ended before us; if it has, time passes all the same.
            Err(RecvTimeoutError::Disconnected) => {
                thread::sleep(time);
                None
            }
        }
    }

    /// The signal that has come, without waiting.
    pub(crate) fn heard(&self) -> Option<Signal> {
        self.0.try_recv().ok()
    }
}

/// How to exit when a signal was the reason, as shells say it.
pub(crate) fn code(signal: Signal) -> ExitCode {
    ExitCode::from(128 + signal as u8)
}

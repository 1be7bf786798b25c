//! The two processes: started, heard, ended.
//!
//! One thread for each reads what it prints, another one waits for signals; all
//! of them speak through one channel. Signals are blocked rather than handled,
//! so that nothing ever runs between two instructions of ours.

use super::plan::Line;
use crate::output::Failure;
use clap::Args;
use hugeshm::{Domain, Segment, WaitMode};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::getppid;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Instant;

/// What the first process hears.
pub(super) enum Event {
    /// One of the two says something.
    Line(Line),
    /// Somebody wants us to end.
    Signal(Signal),
    /// All that were started have ended well.
    Finished,
    /// One of them did not, or they take too long.
    Failed(String),
}

enum Heard {
    Line(Line),
    Signal(Signal),
    /// The process at this place closed its output.
    Silent(usize),
    Nonsense(String),
}

/// The children; ended and awaited when dropped.
pub(super) struct Family {
    children: Vec<(&'static str, Child)>,
    living: usize,
    sender: Sender<Heard>,
    receiver: Receiver<Heard>,
}

impl Family {
    /// Blocks the signals that would end this process, and listens for them instead.
    pub(super) fn new() -> Result<Self, Failure> {
        let (sender, receiver) = mpsc::channel();
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            signals.add(signal);
        }
        signals.thread_block().map_err(|errno| undone("block signals", errno))?;
        let to_us = sender.clone();
        thread::spawn(move || {
            while let Ok(signal) = signals.wait() {
                if to_us.send(Heard::Signal(signal)).is_err() {
                    break;
                }
            }
        });
        Ok(Self { children: Vec::new(), living: 0, sender, receiver })
    }

    /// Starts this program once more, with a hidden command.
    pub(super) fn start(
        &mut self,
        command: &'static str,
        arguments: &[String],
        spins: bool,
    ) -> Result<(), Failure> {
        let mut process = Command::new("/proc/self/exe");
        process.arg(command).args(arguments).args(["--parent", &std::process::id().to_string()]);
        if spins {
            process.arg("--spin");
        }
        let mut child = process
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| undone("start /proc/self/exe", error))?;
        let place = self.children.len();
        let output = child.stdout.take();
        self.children.push((command, child));
        self.living += 1;
        let sender = self.sender.clone();
        thread::spawn(move || {
            for line in output.into_iter().flat_map(|output| BufReader::new(output).lines()) {
                let Ok(line) = line else { break };
                let heard = serde_json::from_str(&line).map_or(Heard::Nonsense(line), Heard::Line);
                if sender.send(heard).is_err() {
                    return;
                }
            }
            let _ = sender.send(Heard::Silent(place));
        });
        Ok(())
    }

    /// Waits for what comes next.
    pub(super) fn next(&mut self, deadline: Instant) -> Event {
        loop {
            let time = deadline.saturating_duration_since(Instant::now());
            match self.receiver.recv_timeout(time) {
                Ok(Heard::Line(line)) => return Event::Line(line),
                Ok(Heard::Signal(signal)) => return Event::Signal(signal),
                Ok(Heard::Nonsense(line)) => {
                    return Event::Failed(format!("a process of the demo said {line:?}"));
                }
                Ok(Heard::Silent(place)) => {
                    let (command, child) = &mut self.children[place];
                    match child.wait() {
                        Ok(status) if status.success() => {}
                        Ok(status) => return Event::Failed(format!("{command} ended: {status}")),
                        Err(error) => return Event::Failed(format!("{command}: {error}")),
                    }
                    self.living -= 1;
                    if self.living == 0 {
                        return Event::Finished;
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    return Event::Failed("it takes far too long".to_owned());
                }
            }
        }
    }

    /// Ends whoever still runs, and waits for it.
    pub(super) fn end(&mut self) {
        for (_, child) in &mut self.children {
            // Both fail for a process that has been awaited.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        self.end();
    }
}

fn undone(what: &str, error: impl core::fmt::Display) -> Failure {
    Failure::Undone(format!("demo: {what}: {error}"))
}

/// What both hidden commands are told.
#[derive(Debug, Args)]
pub(super) struct Common {
    /// The segment.
    #[arg(long)]
    name: String,
    /// The processor to stay on.
    #[arg(long)]
    cpu: Option<usize>,
    /// Whether to spin in the ping-pong.
    #[arg(long)]
    pub spin: bool,
    /// The process that started this one.
    #[arg(long)]
    parent: i32,
}

/// Why one of the two processes stops.
#[derive(Debug)]
pub(super) enum Stop {
    /// A message was not what it had to be.
    Wrong(String),
    /// Something else failed.
    Failed(String),
}

impl<E: core::error::Error> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.to_string())
    }
}

impl Common {
    /// Does the work of a hidden command, and says how to exit.
    ///
    /// `label` is what reports call its endpoints.
    pub(super) fn run(
        &self,
        label: &str,
        work: impl FnOnce(&Segment) -> Result<(), Stop>,
    ) -> ExitCode {
        let attempt = || {
            self.settle()?;
            let segment = Domain::new(super::DOMAIN)?.open(&self.name)?;
            segment.set_label(label);
            work(&segment)
        };
        match attempt() {
            Ok(()) => ExitCode::SUCCESS,
            Err(Stop::Wrong(what)) => {
                let _ = tell(&Line::Wrong { what });
                ExitCode::FAILURE
            }
            Err(Stop::Failed(what)) => {
                crate::output::complain(&Failure::Undone(what));
                ExitCode::FAILURE
            }
        }
    }

    /// Ends with the parent, leaves signals of the terminal to it, and stays on its processor.
    fn settle(&self) -> Result<(), Stop> {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        if getppid().as_raw() != self.parent {
            return Err(Stop::Failed("the demo has ended".to_owned()));
        }
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGINT);
        signals.add(Signal::SIGHUP);
        signals.thread_set_mask()?;
        if let Some(cpu) = self.cpu {
            super::cpus::pin(cpu);
        }
        Ok(())
    }

    /// How the ping-pong waits.
    pub(super) const fn wait_mode(&self) -> WaitMode {
        if self.spin { WaitMode::Spin } else { WaitMode::Adaptive }
    }
}

/// Tells the first process something.
pub(super) fn tell(line: &Line) -> io::Result<()> {
    let mut output = io::stdout().lock();
    serde_json::to_writer(&mut output, line)?;
    output.write_all(b"\n")?;
    output.flush()
}

//! What the tests of several commands share: a control folder of their own, and the command.

use hugeshm::{BackingKind, Domain, PagePolicy, Rung, Segment, SegmentBuilder};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A control folder of its own, gone with everything in it at the end.
pub struct Folder {
    pub dir: TempDir,
    pub domain: Domain,
}

impl Folder {
    pub fn new() -> Self {
        let dir = TempDir::with_prefix_in("hugeshm-cli-", "/dev/shm").expect("a tmpfs");
        let domain = Domain::in_folder("tests", dir.path()).expect("a valid name");
        Self { dir, domain }
    }

    /// The command, with everything said but how it is run.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hugeshm"));
        let dir = self.dir.path();
        command.args(arguments).env("HUGESHM_DIR", dir).env("HUGESHM_DOMAIN", "tests");
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("it starts")
    }

    /// Starts a command that goes on, and is ended with the test.
    pub fn start(&self, arguments: &[&str]) -> Running {
        Running::start(&mut self.command(arguments))
    }

    /// Runs a command that must succeed, and reads its JSON.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", complaint(&output));
        json(&output)
    }

    /// A small segment on base pages, so that no pool is needed.
    pub fn create(&self, name: &str) -> Segment {
        self.builder(name).size(16 << 10).build().expect("base pages are there")
    }

    /// The same, for objects.
    pub fn builder(&self, name: &str) -> SegmentBuilder {
        self.domain
            .create(name)
            .pages(PagePolicy::exactly(Rung::Base))
            .backing(BackingKind::Tmpfs)
            .max_attachments(4)
            .max_objects(4)
    }
}

/// A command under way.
pub struct Running {
    pub child: Child,
    output: Option<BufReader<ChildStdout>>,
}

impl Running {
    /// Starts a program that is ended with the test.
    pub fn start(command: &mut Command) -> Self {
        let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().expect("it starts");
        let output = child.stdout.take().map(BufReader::new);
        Self { child, output }
    }

    /// The next line that it prints; `None` when it prints no more.
    pub fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let output = self.output.as_mut().expect("it is read");
        let read = output.read_line(&mut line).expect("UTF-8");
        (read > 0).then_some(line)
    }

    /// The first line that it prints, as JSON, of which `wanted` is true.
    pub fn json_until(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            let line = self.line().expect("it goes on");
            let value: Value = serde_json::from_str(&line).expect("a line is JSON");
            if wanted(&value) {
                return value;
            }
        }
        panic!("{what} did not happen");
    }

    /// Closes the pipe that it prints into.
    pub fn stop_reading(&mut self) {
        self.output = None;
    }

    /// Waits for its end; what it printed that was not read, what it complained, how it ended.
    pub fn end(mut self) -> (String, String, std::process::ExitStatus) {
        let mut rest = String::new();
        while let Some(line) = self.output.is_some().then(|| self.line()).flatten() {
            rest.push_str(&line);
        }
        let complaint = self.child.stderr.take().expect("it is piped");
        let complaint = std::io::read_to_string(complaint).expect("UTF-8");
        (rest, complaint, self.child.wait().expect("our own child"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail for a process that has been awaited.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Says to a thread that it shall end, also when its test has failed.
pub struct Stop<'a>(pub &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub fn json(output: &Output) -> Value {
    let report: Value = serde_json::from_slice(&output.stdout).expect("standard output is JSON");
    assert_eq!(report["schema"], 1);
    report
}

pub fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("reports are UTF-8")
}

pub fn complaint(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("complaints are UTF-8")
}

//! The demo as users run it: with and without privilege, and ended half-way.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const NOBODY: u32 = 65534;

/// One demo at a time: each wants both processors, and whatever the pools have.
static TURN: Mutex<()> = Mutex::new(());

/// A control folder, and the command where every user can run it.
struct Stage {
    _turn: MutexGuard<'static, ()>,
    folder: TempDir,
    _programs: TempDir,
    program: PathBuf,
}

impl Stage {
    fn new() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = TempDir::with_prefix_in("hugeshm-demo-", "/dev/shm").expect("a tmpfs");
        fs::set_permissions(folder.path(), Permissions::from_mode(0o1777)).expect("our own folder");
        // The build's folder may be closed to other users.
        let programs = TempDir::with_prefix("hugeshm-demo-").expect("a folder");
        fs::set_permissions(programs.path(), Permissions::from_mode(0o755)).expect("our own");
        let program = programs.path().join("hugeshm");
        fs::copy(env!("CARGO_BIN_EXE_hugeshm"), &program).expect("room for a copy");
        fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("our own");
        Self { _turn: turn, folder, _programs: programs, program }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).env("HUGESHM_DIR", self.folder.path()).current_dir("/");
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("it starts")
    }

    fn run_as_nobody(&self, arguments: &[&str]) -> Output {
        // With the user the supplementary groups go too.
        self.command(arguments).uid(NOBODY).gid(NOBODY).output().expect("it starts")
    }

    /// Starts a demo that would last for minutes, and waits until data flows.
    fn start_long(&self) -> (Child, BufReader<std::process::ChildStdout>) {
        let mut child = self
            .command(&["demo", "--seconds", "300"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        while !line.contains("every byte is compared") {
            line.clear();
            assert_ne!(output.read_line(&mut line).expect("text"), 0, "it ended");
        }
        (child, output)
    }

    /// What is left in the control folder, apart from users' lock files, which always stay.
    fn left(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).expect("our own folder");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        names
            .map(|name| name.to_string_lossy().into_owned())
            .filter(|name| !name.starts_with("hugeshm.lock."))
            .collect()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

fn am_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("SKIP: only root can become another user or reserve pages");
    }
    root
}

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Checks the text that a demo prints when all is well.
fn assert_well(output: &Output) {
    let (shown, complaint) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{shown}\n{complaint}");
    assert_eq!(complaint, "");
    let backing = shown.lines().nth(1).expect("the page truth");
    let rungs = [" huge pages", " base pages", " of them merged into", "transparent huge"];
    assert!(rungs.iter().any(|rung| backing.contains(rung)), "{backing}");
    for part in ["typed ring, 8 B", "batches", "64 B", "1 KiB", "64 KiB", "1 MiB", "99.9 %"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    assert!(shown.contains("no byte was wrong"), "{shown}");
    if backing.contains("refused: no-mount") {
        assert!(shown.contains("hugeshm mount 2M"), "{shown}");
    }
}

#[test]
fn demo_moves_and_verifies_and_leaves_nothing() {
    let stage = Stage::new();
    assert_well(&stage.run(&["demo", "--seconds", "0.5"]));
    assert_eq!(stage.left(), [""; 0]);
}

#[test]
fn demo_needs_no_privilege() {
    if !am_root() {
        return;
    }
    let stage = Stage::new();
    assert_well(&stage.run_as_nobody(&["demo", "--seconds", "0.5"]));
    assert_eq!(stage.left(), [""; 0]);
}

#[test]
fn demo_names_pages_rates_and_round_trips_in_json() {
    let stage = Stage::new();
    for backing in ["tmpfs", "memfd"] {
        let arguments = ["demo", "--seconds", "0.3", "--json", "--pages", "base"];
        let output = stage.run(&[&arguments[..], &["--backing", backing]].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON and nothing else");
        assert_eq!((&report["schema"], &report["verified"]), (&1.into(), &true.into()));
        let got = &report["backing"];
        assert_eq!((&got["rung"], &got["kind"]), (&"base".into(), &backing.into()));
        let rows = report["throughput"].as_array().expect("a list");
        assert_eq!(rows.len(), 6);
        for row in rows {
            assert!(row["messages_per_second"].as_f64() > Some(0.0), "{row}");
            let bytes = row["messages"].as_u64().zip(row["message_bytes"].as_u64());
            assert_eq!(row["bytes"].as_u64(), bytes.map(|(count, size)| count * size));
        }
        let trips = &report["latency"];
        let at = |what: &str| trips[what].as_u64().expect("a number");
        let ascending = ["p50_nanos", "p90_nanos", "p99_nanos", "p999_nanos", "max_nanos"].map(at);
        assert!(ascending.is_sorted() && ascending[0] > 0, "{trips}");
        assert_eq!(stage.left(), [""; 0]);
    }
}

#[test]
fn one_wrong_bit_is_found_named_and_exits_with_one() {
    let stage = Stage::new();
    let output = stage.run(&["demo", "--seconds", "0.3", "--spoil"]);
    assert_eq!(output.status.code(), Some(1));
    let complaint = text(&output.stderr);
    assert!(complaint.contains("records, 64 B: byte 32 of message 1 is"), "{complaint}");
    assert!(text(&output.stdout).contains("NOT VERIFIED"));
    let output = stage.run(&["demo", "--seconds", "0.3", "--spoil", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["verified"], false);
    assert_ne!(report["failures"][0], Value::Null);
    assert_eq!(stage.left(), [""; 0]);
}

#[test]
fn pages_that_cannot_be_had_are_an_error_with_the_way_out() {
    let stage = Stage::new();
    let output = stage.run(&["demo", "--pages", "4T"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("4096G on "), "{}", text(&output.stderr));
    assert_eq!(stage.left(), [""; 0]);
    for misunderstood in [["--seconds", "0"], ["--pages", "3M"], ["--backing", "floppy"]] {
        let arguments = [&["demo"][..], &misunderstood].concat();
        assert_eq!(stage.run(&arguments).status.code(), Some(2), "{misunderstood:?}");
    }
}

/// Gives reserved pages back.
struct Reserved {
    file: &'static Path,
    pages: u64,
}

impl Reserved {
    /// Adds pages to the pool of 2 MiB pages; none if the machine does not give them.
    fn new(pages: u64) -> Option<Self> {
        let file = Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages");
        let now = || fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
        let before = now()?;
        fs::write(file, (before + pages).to_string()).ok()?;
        let came = now()?.saturating_sub(before);
        let reserved = Self { file, pages: came };
        (came == pages).then_some(reserved)
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Ok(now) = fs::read_to_string(self.file)
            && let Ok(now) = now.trim().parse::<u64>()
        {
            let _ = fs::write(self.file, now.saturating_sub(self.pages).to_string());
        }
    }
}

#[test]
fn a_pool_is_enough_for_huge_pages_without_privilege_or_mount() {
    if !am_root() {
        return;
    }
    let stage = Stage::new();
    // More than are needed: other programs may help themselves.
    let Some(_reserved) = Reserved::new(32) else {
        eprintln!("SKIP: the machine does not give 32 huge pages");
        return;
    };
    let arguments = ["demo", "--seconds", "0.3", "--pages", "2M", "--backing", "memfd", "--json"];
    let output = stage.run_as_nobody(&arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["backing"]["rung"]["huge"], 2 << 20);
    assert_eq!(report["backing"]["huge"], report["backing"]["length"]);
    let seen = report["seen_by_reader"].as_str().expect("text");
    assert!(seen.contains("2M huge pages"), "{seen}");
    assert_eq!(report["hints"], Value::Array(vec![]));
    assert_eq!(stage.left(), [""; 0]);
}

#[test]
fn an_interrupted_demo_leaves_nothing() {
    let stage = Stage::new();
    let (mut child, _output) = stage.start_long();
    let listed = text(&stage.run(&["list", "--domain", "hugeshm-demo", "--rates"]).stdout);
    assert!(listed.contains("demo-writer") && listed.contains("SENT/S"), "{listed}");
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).expect("it runs");
    let status = child.wait().expect("our own child");
    assert_eq!(status.code(), Some(130));
    assert_eq!(stage.left(), [""; 0]);
}

#[test]
fn a_killed_demo_takes_its_processes_along_and_the_next_one_clears_up() {
    let stage = Stage::new();
    let (mut child, mut output) = stage.start_long();
    child.kill().expect("it runs");
    child.wait().expect("our own child");
    // The pipe ends when the last of the three is gone.
    let mut rest = String::new();
    while output.read_line(&mut rest).expect("text") > 0 {}
    assert_ne!(stage.left(), [""; 0], "nobody was there to remove the name");
    eventually("the end of both processes", || {
        let listed = text(&stage.run(&["list", "--domain", "hugeshm-demo"]).stdout);
        listed.contains("unused") && listed.matches(" dead").count() >= 3
    });
    assert_well(&stage.run(&["demo", "--seconds", "0.2"]));
    assert_eq!(stage.left(), [""; 0]);
}

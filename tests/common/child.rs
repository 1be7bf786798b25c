//! Child processes: this very test program, started again to play a role.
//!
//! A child runs the ignored test `child_process`, which calls the function of its role. It hears
//! lines on its standard input and says lines that begin with `@@`, between those of the test
//! harness.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};

/// The variable that names the role of a child.
pub const ROLE: &str = "HUGESHM_TEST_ROLE";
/// The variable with its arguments, one in a line.
pub const ARGUMENTS: &str = "HUGESHM_TEST_ARGUMENTS";
/// The user that owns nothing.
pub const NOBODY: u32 = 65534;

static CHILDREN: Mutex<Option<HashSet<u32>>> = Mutex::new(None);

/// Whether a process with this number was a child of ours.
pub fn was_ours(pid: u32) -> bool {
    let children = CHILDREN.lock().unwrap_or_else(PoisonError::into_inner);
    children.as_ref().is_some_and(|children| children.contains(&pid))
}

/// The role that this process is to play; none in the test program itself.
pub fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// The argument number `index` of the role.
pub fn argument(index: usize) -> String {
    let all = std::env::var(ARGUMENTS).expect("a child has arguments");
    all.split('\n').nth(index).unwrap_or_else(|| panic!("no argument {index}")).to_owned()
}

/// Says a line to the parent.
pub fn say(text: impl std::fmt::Display) {
    println!("@@{text}");
}

/// The parent's next line; none when it has closed the pipe.
pub fn hear() -> Option<String> {
    let mut line = String::new();
    let count = std::io::stdin().lock().read_line(&mut line).expect("a pipe");
    (count > 0).then(|| line.trim_end().to_owned())
}

/// What came of a call, as the parent understands it.
pub fn outcome<T>(result: Result<T, hugeshm::Error>) -> String {
    match result {
        Ok(_) => "Ok".to_owned(),
        Err(error) => format!("{:?} {}", error.kind(), error.to_string().replace('\n', " | ")),
    }
}

/// A running child; killed when dropped.
pub struct Child {
    process: std::process::Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Child {
    /// Starts a child of this user.
    pub fn start(role: &str, arguments: &[&str]) -> Self {
        let program = std::env::current_exe().expect("/proc is mounted");
        Self::spawn(Command::new(program), role, arguments)
    }

    /// Starts a child of a user who owns nothing; only root can.
    pub fn start_as_nobody(role: &str, arguments: &[&str]) -> Self {
        Self::start_as(NOBODY, role, arguments)
    }

    /// Starts a child of the user `uid` in the group of [`NOBODY`]; only root can.
    pub fn start_as(uid: u32, role: &str, arguments: &[&str]) -> Self {
        // By this link every user can start the program, wherever it lies.
        let mut command = Command::new("/proc/self/exe");
        command.uid(uid).gid(NOBODY).current_dir("/");
        Self::spawn(command, role, arguments)
    }

    fn spawn(mut command: Command, role: &str, arguments: &[&str]) -> Self {
        let mut process = command
            .args(["--exact", "child_process", "--ignored", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(ARGUMENTS, arguments.join("\n"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the test program can be started again");
        let mut children = CHILDREN.lock().unwrap_or_else(PoisonError::into_inner);
        children.get_or_insert_default().insert(process.id());
        let input = process.stdin.take();
        let output = BufReader::new(process.stdout.take().expect("a pipe"));
        Self { process, input, output }
    }

    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The next line it says; none when it has ended.
    pub fn next(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line).expect("a pipe") == 0 {
                return None;
            }
            // The harness writes "test child_process ... " without ending the line.
            if let Some((_, said)) = line.split_once("@@") {
                return Some(said.trim_end().to_owned());
            }
        }
    }

    /// The next line it says, which there must be.
    #[track_caller]
    pub fn says(&mut self) -> String {
        self.next().expect("the child ended early")
    }

    /// Tells it a line.
    pub fn tell(&mut self, line: &str) {
        let input = self.input.as_mut().expect("open until the end");
        writeln!(input, "{line}").expect("the child lives");
    }

    /// Closes its input and waits until it has ended.
    pub fn end(mut self) -> ExitStatus {
        self.input = None;
        while self.next().is_some() {}
        self.process.wait().expect("a child of ours")
    }

    /// Closes its input; it must end well.
    #[track_caller]
    pub fn end_well(self) {
        let status = self.end();
        assert!(status.success(), "the child ended with {status}");
    }

    /// Ends it by SIGKILL and waits until it is gone.
    pub fn kill(mut self) {
        self.kill_only();
    }

    /// The same, with its pipes kept: a child of its own may still speak.
    pub fn kill_only(&mut self) {
        self.process.kill().expect("a child of ours");
        self.process.wait().expect("a child of ours");
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

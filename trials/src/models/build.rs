//! The test program that has the models, and one run of it.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The library's tests, built for models.
pub struct Program {
    path: PathBuf,
    preemptions: Option<u32>,
    work: tempfile::TempDir,
}

/// How a run ended.
pub enum Outcome {
    Passed,
    /// The first line that says why.
    Failed(String),
    TookTooLong,
}

/// What a run of one test said.
pub struct Run {
    pub outcome: Outcome,
    /// How many models it ran.
    pub models: u64,
    /// How many orders they were run in.
    pub interleavings: u64,
    pub took: Duration,
    /// The places with an ordering that it came by.
    pub sites: Vec<String>,
}

/// The folder of the library.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a member of a workspace")
}

impl Program {
    /// Builds it, in a target folder of its own so that nothing else is built anew.
    pub fn build(preemptions: Option<u32>) -> io::Result<Self> {
        println!("building the models");
        let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
        let target = target.unwrap_or_else(|| root().join("target")).join("loom");
        let built = Command::new(env!("CARGO"))
            .args(["test", "--profile", "models", "-p", "hugeshm", "--lib", "--no-run"])
            .current_dir(root())
            .env("RUSTFLAGS", "--cfg hugeshm_loom")
            .env("CARGO_TARGET_DIR", &target)
            .output()?;
        let said = String::from_utf8_lossy(&built.stderr);
        if !built.status.success() {
            return Err(io::Error::other(format!("the models cannot be built:\n{said}")));
        }
        // "Executable unittests src/lib.rs (PATH)"
        let path = said
            .lines()
            .filter(|line| line.trim_start().starts_with("Executable"))
            .find_map(|line| line.rsplit_once('(')?.1.strip_suffix(')').map(PathBuf::from));
        let path = path.ok_or_else(|| io::Error::other(format!("no test program in:\n{said}")))?;
        let path = if path.is_relative() { root().join(path) } else { path };
        Ok(Self { path, preemptions, work: tempfile::tempdir()? })
    }

    /// The names of all tests that run models.
    pub fn models(&self) -> io::Result<Vec<String>> {
        let listed = Command::new(&self.path).arg("--list").output()?;
        let listed = String::from_utf8_lossy(&listed.stdout);
        let names = listed.lines().filter_map(|line| line.strip_suffix(": test"));
        Ok(names.filter(|name| name.contains("models::")).map(str::to_owned).collect())
    }

    /// Runs one test, with the ordering at `weak` relaxed.
    pub fn run(&self, name: &str, weak: Option<&str>, patience: Duration) -> io::Result<Run> {
        let (sites, log) = (self.work.path().join("sites"), self.work.path().join("log"));
        let _ = std::fs::remove_file(&sites);
        let mut command = Command::new(&self.path);
        command.args(["--exact", name, "--nocapture"]).env("RUST_BACKTRACE", "0");
        command.env("HUGESHM_SITES", &sites).stdin(Stdio::null());
        command.stdout(std::fs::File::create(&log)?);
        command.stderr(std::fs::File::options().append(true).open(&log)?);
        if let Some(weak) = weak {
            command.env("HUGESHM_WEAKEN", weak);
        }
        if let Some(preemptions) = self.preemptions {
            command.env("HUGESHM_PREEMPTIONS", preemptions.to_string());
        }
        let start = Instant::now();
        let mut child = command.spawn()?;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            if start.elapsed() > patience {
                child.kill()?;
                child.wait()?;
                break None;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let took = start.elapsed();
        let said = String::from_utf8_lossy(&std::fs::read(&log)?).into_owned();
        let outcome = match status {
            None => Outcome::TookTooLong,
            Some(status) if status.success() => Outcome::Passed,
            Some(_) => Outcome::Failed(reason(&said)),
        };
        // "MODEL name: N interleavings"
        let counts = said.lines().filter_map(|line| {
            let (_, count) = line.strip_prefix("MODEL ")?.rsplit_once(": ")?;
            count.strip_suffix(" interleavings")?.parse::<u64>().ok()
        });
        let (models, interleavings) = counts.fold((0, 0), |(n, sum), count| (n + 1, sum + count));
        let sites = std::fs::read_to_string(&sites).unwrap_or_default();
        let sites = sites.lines().map(str::to_owned).collect();
        Ok(Run { outcome, models, interleavings, took, sites })
    }
}

/// The line behind the one that says that there was a panic.
fn reason(said: &str) -> String {
    let mut lines = said.lines().skip_while(|line| !line.contains("panicked at"));
    let at = lines.next().unwrap_or("it failed without a word");
    format!("{} {}", lines.next().unwrap_or_default(), at)
}

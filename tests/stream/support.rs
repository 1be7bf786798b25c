//! The programs, their streams, and the machine's backings.

use crate::common::machine::{Pages, PrivateMount, pages};
use crate::common::{M2, Quiet, Scratch, lacks_pages, skip};
use hugeshm::PageSize;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

/// Nothing here takes this long; what does hangs.
const HANG: Duration = Duration::from_secs(60);

/// The processes that were started, for the search for what they left.
static STARTED: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// A folder for the segments and one for the streams, both empty at the end.
pub struct Stage {
    pub scratch: Scratch,
    pub dir: tempfile::TempDir,
    /// Dropped last.
    _quiet: Quiet,
}

impl Stage {
    pub fn new() -> Self {
        let _quiet = Quiet::begin();
        let dir = tempfile::tempdir().expect("a temporary folder");
        Self { scratch: Scratch::new(), dir, _quiet }
    }

    /// The path of a file beside the streams.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a stream to a file.
    pub fn stream_file(&self, name: &str, stream: Stream) -> PathBuf {
        let path = self.file(name);
        stream.write_to(&mut File::create(&path).expect("our folder"));
        path
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program_path(program));
        command
            .args(arguments)
            .env("HUGESHM_DIR", self.scratch.path())
            .env("HUGESHM_DOMAIN", crate::common::DOMAIN)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }

    pub fn writer(&self, arguments: &[&str]) -> Running {
        Running::start(self.command("shm_writer", arguments))
    }

    pub fn reader(&self, arguments: &[&str]) -> Running {
        Running::start(self.command("shm_reader", arguments))
    }

    /// A writer that is fed through a pipe by `feed` in a thread of its own.
    pub fn fed_writer(
        &self,
        arguments: &[&str],
        feed: impl FnOnce(&mut dyn Write) + Send + 'static,
    ) -> Running {
        let mut command = self.command("shm_writer", arguments);
        let mut running = Running::start_with(command.stdin(Stdio::piped()));
        let mut pipe = running.process.stdin.take().expect("piped");
        running.feeder = Some(std::thread::spawn(move || feed(&mut pipe)));
        running
    }

    /// A reader whose standard output is hashed in a thread.
    pub fn hashed_reader(&self, arguments: &[&str]) -> (Running, std::thread::JoinHandle<Sum>) {
        let mut command = self.command("shm_reader", arguments);
        let mut running = Running::start_with(command.stdout(Stdio::piped()));
        let mut pipe = running.process.stdout.take().expect("piped");
        (running, std::thread::spawn(move || Sum::of(&mut pipe)))
    }

    /// A reader that writes to `out`.
    pub fn reader_into(&self, arguments: &[&str], out: Stdio) -> Running {
        let mut command = self.command("shm_reader", arguments);
        Running::start_with(command.stdout(out))
    }

    /// Nothing is left, not even for `collect`.
    #[track_caller]
    pub fn assert_clean(&self) {
        assert_eq!(self.scratch.files(), [""; 0], "the programs left files");
        assert_eq!(sysv_left(), [0; 0], "the programs left System V segments");
    }

    /// No name is left; what creators left that were killed may be.
    #[track_caller]
    pub fn assert_only_half_built(&self) {
        let files = self.scratch.files();
        assert!(!files.iter().any(|file| file.contains('@')), "a name was left: {files:?}");
    }

    /// After `collect` nothing is left, and it says so of everything that it removed.
    #[track_caller]
    pub fn collect(&self) -> usize {
        let report = self.scratch.domain().collect().expect("it runs");
        // What it keeps may be another program's, on a mount that all share.
        assert!(report.failed.is_empty(), "{report:?}");
        self.assert_clean();
        report.removed.len()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.assert_clean();
        }
    }
}

/// The System V segments that programs of ours made and that are still there.
fn sysv_left() -> Vec<i32> {
    let started = STARTED.lock().expect("no test panics inside");
    let table = std::fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    let left = table.lines().skip(1).filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let creator: u32 = words.get(4)?.parse().ok()?;
        started.contains(&creator).then(|| words[1].parse().ok()).flatten()
    });
    left.collect()
}

/// `cargo test` builds the examples beside the tests; `cargo test --test stream` does not, and
/// then they must not be older than their sources.
fn program_path(program: &str) -> PathBuf {
    static CHECKED: OnceLock<PathBuf> = OnceLock::new();
    let folder = CHECKED.get_or_init(|| {
        let own = std::env::current_exe().expect("/proc is mounted");
        let profile = own.ancestors().nth(2).expect("target/PROFILE/deps");
        let folder = profile.join("examples");
        let changed = |path: &Path| path.metadata().and_then(|facts| facts.modified()).ok();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let sources = ["src", "examples"].map(|dir| newest_below(&root.join(dir)));
        for program in ["shm_writer", "shm_reader"] {
            let built = changed(&folder.join(program));
            assert!(
                built.is_some() && sources.iter().all(|source| *source <= built),
                "{program} is missing or old: run `cargo build --examples`, in this profile"
            );
        }
        folder
    });
    folder.join(program)
}

fn newest_below(dir: &Path) -> Option<std::time::SystemTime> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let times = entries.map(|entry| {
        let facts = entry.metadata().ok()?;
        if facts.is_dir() { newest_below(&entry.path()) } else { facts.modified().ok() }
    });
    times.max().flatten()
}

/// A program that runs; killed when dropped.
pub struct Running {
    process: std::process::Child,
    words: tempfile::NamedTempFile,
    feeder: Option<std::thread::JoinHandle<()>>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        Self::start_with(&mut command)
    }

    fn start_with(command: &mut Command) -> Self {
        let words = tempfile::NamedTempFile::new().expect("a temporary file");
        let appending = File::options().append(true).open(words.path()).expect("our file");
        let process = command.stderr(appending).spawn().expect("it can be started");
        STARTED.lock().expect("no test panics inside").insert(process.id());
        Self { process, words, feeder: None }
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// What it has said on standard error.
    pub fn words(&self) -> String {
        std::fs::read_to_string(self.words.path()).expect("text")
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().expect("a child of ours")
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(mut self) -> (ExitStatus, String) {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.ended() {
                break status;
            }
            assert!(start.elapsed() < HANG, "it hangs; it said: {}", self.words());
            std::thread::sleep(Duration::from_millis(1));
        };
        (status, self.words())
    }

    /// It must end with status 0.
    #[track_caller]
    pub fn ends_well(self) -> String {
        let (status, words) = self.wait();
        assert!(status.success(), "{status}; it said: {words}");
        words
    }

    /// It must end with status 1 and say all of this, without a panic.
    #[track_caller]
    pub fn fails(self, saying: &[&str]) -> String {
        let (status, words) = self.wait();
        // 2 is the argument parser's.
        assert!(matches!(status.code(), Some(1 | 2)), "{status}; it said: {words}");
        for text in saying {
            assert!(words.contains(text), "{text:?} is not in: {words}");
        }
        words
    }

    /// SIGKILL; waits until it is gone.
    pub fn kill(mut self) -> ExitStatus {
        self.process.kill().expect("a child of ours");
        self.process.wait().expect("a child of ours")
    }

    /// SIGKILL, after some time.
    pub fn kill_after(self, time: Duration) {
        std::thread::sleep(time);
        self.kill();
    }

    /// Waits until it has said something.
    #[track_caller]
    pub fn until_it_says(&mut self, text: &str) {
        let start = Instant::now();
        while !self.words().contains(text) {
            let words = self.words();
            assert!(self.ended().is_none(), "it ended without {text:?}: {words}");
            assert!(start.elapsed() < HANG, "it never says {text:?}: {words}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if let Some(feeder) = self.feeder.take() {
            let _ = feeder.join();
        }
    }
}

/// Length and SHA-256.
#[derive(Clone, PartialEq, Eq)]
pub struct Sum {
    pub length: u64,
    hash: [u8; 32],
}

impl std::fmt::Debug for Sum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes, {:02x}{:02x}..", self.length, self.hash[0], self.hash[1])
    }
}

impl Sum {
    pub fn finished(length: u64, hash: Sha256) -> Self {
        Self { length, hash: hash.finalize().into() }
    }

    pub fn of(input: &mut impl Read) -> Self {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 18];
        let mut length = 0;
        loop {
            let count = input.read(&mut buffer).expect("readable");
            if count == 0 {
                return Self::finished(length, hash);
            }
            hash.update(&buffer[..count]);
            length += count as u64;
        }
    }

    pub fn of_file(path: &Path) -> Self {
        Self::of(&mut File::open(path).expect("it exists"))
    }
}

/// Bytes that never repeat at any distance: cheap to make, and no piece passes for another.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    pub length: u64,
    pub seed: u64,
}

impl Stream {
    pub fn new(length: u64) -> Self {
        Self { length, seed: length.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 }
    }

    pub fn write_to(self, out: &mut dyn Write) {
        let mut random = Random(self.seed);
        let mut block: Vec<u8> = (0..1 << 17).flat_map(|_| random.next().to_le_bytes()).collect();
        let mut left = self.length;
        let mut number = 0u64;
        while left > 0 {
            // Each 4 KiB piece of each block says where it is.
            for piece in block.chunks_mut(4096) {
                number += 1;
                piece[..8].copy_from_slice(&number.to_le_bytes());
            }
            let count = left.min(block.len() as u64);
            // The reader of a pipe may have been killed on purpose.
            if out.write_all(&block[..count as usize]).is_err() {
                return;
            }
            left -= count;
        }
    }

    /// Its sum.
    pub fn sum(self) -> Sum {
        struct Hasher(Sha256);
        impl Write for Hasher {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.update(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let mut hasher = Hasher(Sha256::new());
        self.write_to(&mut hasher);
        Sum::finished(self.length, hasher.0)
    }
}

/// A small random number generator (SplitMix64); the seed is printed where it matters.
pub struct Random(pub u64);

impl Random {
    pub fn from_time() -> Self {
        let since = std::time::UNIX_EPOCH.elapsed().expect("after 1970");
        let seed = since.as_nanos() as u64;
        eprintln!("random seed {seed}");
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn micros_below(&mut self, limit: u64) -> Duration {
        Duration::from_micros(self.below(limit))
    }
}

/// One way to carry a segment: the arguments that demand it, and what it needs while it lives.
pub struct Carrier {
    pub what: &'static str,
    pub arguments: Vec<String>,
    /// Whether a segment survives its processes.
    pub persistent: bool,
    _mount: Option<PrivateMount>,
    _pages: Option<Pages>,
}

impl Carrier {
    fn new(what: &'static str, pages: &str, backing: &str) -> Self {
        let arguments = ["--pages", pages, "--backing", backing].map(str::to_owned).to_vec();
        let persistent = backing != "memfd";
        Self { what, arguments, persistent, _mount: None, _pages: None }
    }

    /// Tmpfs on base pages, which every machine has.
    pub fn base() -> Self {
        Self::new("base pages of tmpfs", "base", "tmpfs")
    }

    /// A memfd on base pages, which every machine has, too.
    pub fn memfd() -> Self {
        Self::new("base pages of a memfd", "base", "memfd")
    }

    /// System V with pages of 2 MiB, if they can be had.
    pub fn sysv_2m(count: u64) -> Option<Self> {
        let shm = hugeshm::pages::shm_limits();
        if !shm.may_use_hugetlb {
            lacks_pages(&shm.reason);
            return None;
        }
        let reserved = pages(M2, count)?;
        let mut carrier = Self::new("2M SysV", "2M", "sysv");
        carrier._pages = Some(reserved);
        Some(carrier)
    }

    /// Hugetlbfs with pages of 2 MiB, if they can be had.
    pub fn hugetlbfs_2m(count: u64) -> Option<Self> {
        Self::hugetlbfs("2M hugetlbfs", M2, count)
    }

    fn hugetlbfs(what: &'static str, size: PageSize, count: u64) -> Option<Self> {
        let reserved = pages(size, count)?;
        let mount = PrivateMount::hugetlbfs(size, None)?;
        let mut carrier = Self::new(what, &size.to_string(), "hugetlbfs");
        carrier.arguments.extend(["--mount".to_owned(), mount.path().display().to_string()]);
        (carrier._mount, carrier._pages) = (Some(mount), Some(reserved));
        Some(carrier)
    }

    /// Calls `body` with each carrier that this machine has, one after another; `count` pages
    /// of 2 MiB (and one of 1 GiB) are there for it. Says what is missing.
    pub fn each(count: u64, mut body: impl FnMut(&Self)) {
        let mut done = 0;
        let mut with = |carrier: Option<Self>| {
            if let Some(carrier) = carrier {
                eprintln!("-- {}", carrier.what);
                body(&carrier);
                done += 1;
            }
        };
        with(Self::hugetlbfs_2m(count));
        with(Self::hugetlbfs("1G hugetlbfs", PageSize::SIZE_1G, 1));
        with(Self::sysv_2m(count));
        with(pages(M2, count).map(|reserved| {
            let mut carrier = Self::new("2M memfd", "2M", "memfd");
            carrier._pages = Some(reserved);
            carrier
        }));
        let gigantic = PageSize::SIZE_1G;
        with(pages(gigantic, 1).map(|reserved| {
            let mut carrier = Self::new("1G memfd", "1G", "memfd");
            carrier._pages = Some(reserved);
            carrier
        }));
        if hugeshm::pages::thp().pmd_size == Some(M2) {
            with(Some(Self::new("transparent huge pages", "thp", "tmpfs")));
        } else {
            skip("this kernel forms no transparent huge pages of 2M");
        }
        with(Some(Self::base()));
        with(Some(Self::memfd()));
        assert!(done >= 2, "no backing was tried");
    }

    /// The arguments for a segment `name` of at least `size` bytes, and `more`.
    pub fn arguments<'a>(&'a self, name: &'a str, size: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let mut all = vec!["--name", name, "--size", size];
        all.extend(self.arguments.iter().map(String::as_str));
        all.extend(more);
        all
    }
}

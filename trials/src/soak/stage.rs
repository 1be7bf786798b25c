//! The stage: who plays, who is killed and stopped, who comes after him, and who hangs.
//!
//! Every part has a thread here that starts its lives one after the other, hands their notes to
//! the judge, and starts the next when one has died. The director's thread kills and stops them
//! at random moments, and looks whether everybody still gives a sign of life.

use super::cast::{ALL, Object, Role};
use super::child::Birth;
use super::judge::{Judge, Tally};
use super::note::{Kind, NOTE_LEN, Note, Random};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Whoever gives no sign for so long hangs.
const HANGS: Duration = Duration::from_secs(30);

/// What was done to the parts of one role.
#[derive(Debug, Default)]
pub struct Blows {
    /// Lives ended by SIGKILL, at random moments or where they stood still.
    pub kills: AtomicU64,
    /// Of these, where they stood still.
    pub stood: AtomicU64,
    /// Lives stopped and continued.
    pub stops: AtomicU64,
    /// Lives that followed another.
    pub restarts: AtomicU64,
}

/// A part: one of the ends of an object.
struct Part {
    object: Object,
    role: Role,
    index: u32,
    life: Mutex<Life>,
}

/// The life that a part has now.
struct Life {
    /// Its process, until it is reaped.
    pid: Option<Pid>,
    input: Option<ChildStdin>,
    killed: bool,
    /// Until when it is stopped.
    stopped: Option<Instant>,
    /// When it gave the last sign, and which.
    heard: Instant,
    said: Option<Note>,
}

/// Everything that plays at one segment.
pub struct Stage<'a> {
    folder: &'a Path,
    parts: Vec<Part>,
    judges: BTreeMap<Object, Mutex<Judge>>,
    blows: [Blows; 3],
    births: AtomicU32,
    producers_told: AtomicBool,
    all_told: AtomicBool,
    aborted: AtomicBool,
    playing: [AtomicUsize; 3],
    faults: Mutex<Vec<String>>,
    seed: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Stage<'a> {
    /// All parts, none of which lives yet.
    pub fn new(folder: &'a Path, seed: u64) -> Self {
        let of = |object, role, count| (0..count).map(move |index| (object, role, index));
        let ends = ALL.into_iter().flat_map(|(object, producers, consumers)| {
            let producers = of(object, Role::Producer, producers);
            producers.chain(of(object, Role::Consumer, consumers))
        });
        // The bystander looks at all objects; it is told of with the first.
        let parts: Vec<Part> = ends
            .chain([(Object::News, Role::Bystander, 0)])
            .map(|(object, role, index)| Part {
                object,
                role,
                index,
                life: Mutex::new(Life {
                    pid: None,
                    input: None,
                    killed: false,
                    stopped: None,
                    heard: Instant::now(),
                    said: None,
                }),
            })
            .collect();
        let playing = core::array::from_fn(|role| {
            AtomicUsize::new(parts.iter().filter(|part| part.role as usize == role).count())
        });
        Self {
            folder,
            parts,
            judges: ALL
                .iter()
                .map(|(object, ..)| (*object, Mutex::new(Judge::new(*object))))
                .collect(),
            blows: Default::default(),
            births: AtomicU32::new(0),
            producers_told: AtomicBool::new(false),
            all_told: AtomicBool::new(false),
            aborted: AtomicBool::new(false),
            playing,
            faults: Mutex::default(),
            seed,
        }
    }

    /// Plays for so long, and on until all have left in good order.
    pub fn play(&self, time: Duration) {
        std::thread::scope(|scope| {
            for part in &self.parts {
                scope.spawn(|| {
                    self.lives(part);
                    self.playing[part.role as usize].fetch_sub(1, Ordering::Release);
                });
            }
            self.direct(time);
            self.tell(&self.producers_told, &[Role::Producer]);
            self.tell(&self.all_told, &[Role::Consumer, Role::Bystander]);
        });
    }

    /// What was done to the parts of a role.
    pub fn blows(&self, role: Role) -> &Blows {
        &self.blows[role as usize]
    }

    /// What the judges say of each object, and everything that was wrong.
    pub fn close(self) -> (Vec<(Object, Tally)>, Vec<String>) {
        let mut faults = self.faults.into_inner().unwrap_or_else(PoisonError::into_inner);
        let aborted = self.aborted.into_inner();
        let mut tallies = Vec::new();
        for (object, judge) in self.judges {
            let judge = judge.into_inner().unwrap_or_else(PoisonError::into_inner);
            let (tally, found) = judge.close();
            tallies.push((object, tally));
            // Whoever was cut off has not received everything.
            if !aborted {
                faults.extend(found);
            }
        }
        (tallies, faults)
    }

    fn fault(&self, what: String) {
        lock(&self.faults).push(what);
    }

    fn is_told(&self, role: Role) -> bool {
        let told = if role == Role::Producer { &self.producers_told } else { &self.all_told };
        told.load(Ordering::Acquire)
    }

    /// One life of a part after the other.
    fn lives(&self, part: &Part) {
        let mut random = Random(self.seed ^ (part.object as u64 * 64 + part.index as u64 * 8));
        random.0 ^= part.role as u64;
        loop {
            match self.live(part, &mut random) {
                Ok(true) => return,
                Ok(false) if self.aborted.load(Ordering::Relaxed) => return,
                Ok(false) => {}
                Err(what) => {
                    self.fault(format!("{} {} {}: {what}", part.object, part.role, part.index));
                    return self.abort();
                }
            }
            let longest = if random.once_in(6) { 40_000 } else { 3_000 };
            std::thread::sleep(Duration::from_micros(random.below(longest)));
        }
    }

    /// One life of a part, from its birth to its end; whether that was in good order.
    fn live(&self, part: &Part, random: &mut Random) -> Result<bool, String> {
        let number = self.births.fetch_add(1, Ordering::Relaxed);
        let judge = &self.judges[&part.object];
        let from = lock(judge).begin_at(part.index);
        let who = (part.object, part.role, part.index);
        let luck = random.below(u64::MAX);
        let mut child = Command::new("/proc/self/exe")
            .arg("soak")
            .args(Birth::arguments(self.folder, who, (number, from, luck)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("it cannot be started: {error}"))?;
        let mut output = child.stdout.take().ok_or("it has no output")?;
        {
            let mut life = lock(&part.life);
            life.pid = Some(Pid::from_raw(child.id() as i32));
            (life.killed, life.stopped, life.heard) = (false, None, Instant::now());
            life.input = child.stdin.take().filter(|_| !self.is_told(part.role));
        }
        let mut bytes = [0; NOTE_LEN];
        while output.read_exact(&mut bytes).is_ok() {
            let note: Note = bytemuck::checked::try_pod_read_unaligned(&bytes)
                .map_err(|error| format!("it told nonsense: {error}"))?;
            lock(judge).take(part.role, part.index, note);
            let mut life = lock(&part.life);
            (life.heard, life.said) = (Instant::now(), Some(note));
            if matches!(note.kind, Kind::Stands | Kind::Kept | Kind::Released) {
                self.blows(part.role).stood.fetch_add(1, Ordering::Relaxed);
                self.kill(part.role, &mut life);
            }
        }
        let mut life = lock(&part.life);
        let status = child.wait().map_err(|error| format!("it cannot be waited for: {error}"))?;
        (life.pid, life.input) = (None, None);
        let killed = life.killed && status.signal() == Some(Signal::SIGKILL as i32);
        drop(life);
        lock(judge).over(part.role, part.index, killed);
        if killed {
            self.blows(part.role).restarts.fetch_add(1, Ordering::Relaxed);
            return Ok(false);
        }
        if status.success() && self.is_told(part.role) {
            return Ok(true);
        }
        Err(format!("life {number} ended by itself: {status}"))
    }

    fn kill(&self, role: Role, life: &mut Life) {
        let Some(pid) = life.pid.filter(|_| !life.killed) else { return };
        if kill(pid, Signal::SIGKILL).is_ok() {
            life.killed = true;
            self.blows(role).kills.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Stops a life for a while.
    fn stop(&self, role: Role, life: &mut Life, time: Duration) {
        let Some(pid) = life.pid.filter(|_| !life.killed && life.stopped.is_none()) else {
            return;
        };
        if kill(pid, Signal::SIGSTOP).is_err() {
            return;
        }
        // Until all its threads stand still, or it has ended; who reaps it is another.
        let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        while waitid(Id::Pid(pid), flags) == Err(nix::errno::Errno::EINTR) {}
        life.stopped = Some(Instant::now() + time);
        self.blows(role).stops.fetch_add(1, Ordering::Relaxed);
    }

    /// Kills and stops at random moments.
    fn direct(&self, time: Duration) {
        let mut random = Random(self.seed);
        let end = Instant::now() + time;
        while Instant::now() < end && !self.aborted.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_micros(500 + random.below(9_000)));
            self.look();
            // Now and then several at once, such as both ends of a ring.
            for _ in 0..1 + random.below(2) * random.below(3) {
                let part = &self.parts[random.below(self.parts.len() as u64) as usize];
                let mut life = lock(&part.life);
                if random.below(100) < 55 {
                    self.kill(part.role, &mut life);
                } else {
                    let time = Duration::from_micros(random.below(60_000));
                    self.stop(part.role, &mut life, time);
                }
            }
        }
    }

    /// Tells these to end, and waits until they have.
    fn tell(&self, told: &AtomicBool, roles: &[Role]) {
        told.store(true, Ordering::Release);
        for part in self.parts.iter().filter(|part| roles.contains(&part.role)) {
            lock(&part.life).input = None;
        }
        let start = Instant::now();
        let still = |role: &Role| self.playing[*role as usize].load(Ordering::Acquire) > 0;
        while roles.iter().any(still) {
            std::thread::sleep(Duration::from_millis(3));
            self.look();
            if start.elapsed() > HANGS && !self.aborted.load(Ordering::Relaxed) {
                for part in self.parts.iter().filter(|part| roles.contains(&part.role)) {
                    self.hangs(part, &lock(&part.life), "was told to end and does not");
                }
                self.abort();
            }
        }
    }

    /// Continues whoever was stopped long enough, and looks who hangs.
    fn look(&self) {
        let now = Instant::now();
        for part in &self.parts {
            let mut life = lock(&part.life);
            let Some(pid) = life.pid else { continue };
            if life.stopped.is_some_and(|until| until <= now) {
                // It may have been killed meanwhile.
                let _ = kill(pid, Signal::SIGCONT);
                (life.stopped, life.heard) = (None, now);
            }
            let silent = now.saturating_duration_since(life.heard);
            if life.stopped.is_none() && silent > HANGS {
                self.hangs(part, &life, "has given no sign for too long");
                drop(life);
                return self.abort();
            }
        }
    }

    /// Who hangs, where in the kernel, and what it said last.
    fn hangs(&self, part: &Part, life: &Life, how: &str) {
        let Some(pid) = life.pid else { return };
        let (said, Part { object, role, index, .. }) = (life.said, part);
        let place = whereabouts(pid);
        self.fault(format!("{object} {role} {index} {how}; last {said:?}; {place}"));
    }

    /// Ends everything at once.
    fn abort(&self) {
        if self.aborted.swap(true, Ordering::AcqRel) {
            return;
        }
        self.producers_told.store(true, Ordering::Release);
        self.all_told.store(true, Ordering::Release);
        for part in &self.parts {
            self.kill(part.role, &mut lock(&part.life));
        }
    }
}

/// What the kernel says of where a process is, thread by thread.
fn whereabouts(pid: Pid) -> String {
    let mut text = String::new();
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    for task in tasks.into_iter().flatten().flatten() {
        text.push_str(&format!("[thread {}", task.file_name().to_string_lossy()));
        for file in ["wchan", "syscall", "stack"] {
            let said = std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
            text.push_str(&format!("; {file}: {}", said.trim().replace('\n', " ")));
        }
        text.push(']');
    }
    text
}

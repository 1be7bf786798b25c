//! A child that runs one operation instruction by instruction, and dies where it is told to.
//!
//! It is forked, not executed anew: so all children have the same addresses, and start in no
//! time. It attaches to the segment by itself, since an end does not survive a fork. Two `int3`
//! instructions mark the operation: the child stops behind the first, and has done its work when
//! it stands before the second. In between it goes by `PTRACE_SINGLESTEP`; a system call is one
//! step. A call that sleeps is recognised before it is made, and the child can be caught asleep.
#![expect(unsafe_code, reason = "fork and the two marks")]

use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

/// What went wrong, in words.
pub type Fault = String;

/// What an operation gave the child: messages, or the error that it answered.
pub type Told = Result<Vec<Vec<u8>>, String>;

/// One operation, with all that it needs at hand.
pub trait Act {
    /// The operation itself, and nothing else.
    fn act(&mut self);
    /// What it gave; asked for behind the operation.
    fn told(&mut self) -> Told {
        Ok(Vec::new())
    }
}

/// Nothing that a child does here takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A stopped child.
pub struct Tracee {
    pid: Pid,
    end: u64,
    steps: u64,
    alive: bool,
    told: File,
}

/// A moment in the course of an operation.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The next instruction.
    pub address: u64,
    /// How often the child came to it before.
    pub times: u64,
    /// How often it has repeated itself since the child came to it: a string copy is stopped
    /// between its parts.
    pub repeats: u64,
}

/// Makes places of the addresses that a child steps over.
#[derive(Default)]
pub struct Places {
    seen: HashMap<u64, u64>,
    last: Option<Place>,
}

impl Places {
    /// The place of the next address.
    pub fn next(&mut self, address: u64) -> Place {
        let place = match self.last {
            Some(last) if last.address == address => Place { repeats: last.repeats + 1, ..last },
            _ => {
                let times = self.seen.entry(address).or_default();
                *times += 1;
                Place { address, times: *times - 1, repeats: 0 }
            }
        };
        self.last = Some(place);
        place
    }
}

/// So much of each mapping is looked at: more than the suite's segments have in use.
const FRONT: u64 = 64 << 10;

/// The shared mappings of a child.
pub struct Shared {
    ranges: Vec<(u64, usize)>,
    memory: File,
}

impl Shared {
    /// What stands there now; what cannot be read, a page that is not there yet, is left out.
    pub fn bytes(&self, _child: &Tracee) -> Result<Vec<u8>, Fault> {
        let mut all = Vec::new();
        for (start, length) in &self.ranges {
            let begin = all.len();
            all.resize(begin + length, 0);
            _ = self.memory.read_exact_at(&mut all[begin..], *start);
        }
        Ok(all)
    }
}

/// How a step into a call that may sleep went.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Slept {
    /// It sleeps in the kernel; the step is not over.
    Asleep,
    /// The call returned.
    Returned,
}

/// Runs an operation between the two marks.
#[inline(never)]
fn between_marks(act: &mut dyn Act) {
    mark();
    act.act();
    mark();
}

#[inline(always)]
fn mark() {
    // SAFETY: the instruction touches no memory and no register; the process that traces this one
    // takes the signal that it raises.
    unsafe { core::arch::asm!("int3", options(nomem, nostack)) };
}

struct Nothing;

impl Act for Nothing {
    fn act(&mut self) {}
}

/// The address of the second mark, the same in all children.
fn end_mark() -> Result<u64, Fault> {
    thread_local! {
        static END: RefCell<Option<u64>> = const { RefCell::new(None) };
    }
    if let Some(end) = END.with_borrow(|end| *end) {
        return Ok(end);
    }
    let mut first = Tracee::fork(|| Ok(Box::new(Nothing)), 0)?;
    first.go_on()?;
    first.expect_trap()?;
    let end = first.address()? - 1;
    first.kill()?;
    END.set(Some(end));
    Ok(end)
}

impl Tracee {
    /// A child that has made its operation ready, and stands before it.
    pub fn start(ready: impl FnOnce() -> Result<Box<dyn Act>, Fault>) -> Result<Self, Fault> {
        let end = end_mark()?;
        Self::fork(ready, end)
    }

    fn fork(ready: impl FnOnce() -> Result<Box<dyn Act>, Fault>, end: u64) -> Result<Self, Fault> {
        let (told, tell) = nix::unistd::pipe().map_err(text)?;
        // SAFETY: this process has one thread while it starts children, so the child may do
        // anything; it never returns from here.
        match unsafe { fork() }.map_err(text)? {
            ForkResult::Child => play(ready, File::from(tell)),
            ForkResult::Parent { child } => {
                let told = File::from(told);
                let mut tracee = Self { pid: child, end, steps: 0, alive: true, told };
                tracee.expect_trap()?;
                ptrace::setoptions(child, ptrace::Options::PTRACE_O_TRACESYSGOOD).map_err(text)?;
                Ok(tracee)
            }
        }
    }

    /// How many instructions it has gone.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The address of the next instruction.
    pub fn address(&self) -> Result<u64, Fault> {
        let offset = std::mem::offset_of!(libc::user_regs_struct, rip);
        ptrace::read_user(self.pid, offset as ptrace::AddressType)
            .map(|word| word as u64)
            .map_err(text)
    }

    /// Whether the operation is over.
    pub fn ended(&self) -> Result<bool, Fault> {
        Ok(self.address()? == self.end)
    }

    /// Whether the next instruction is a system call, and which.
    pub fn call_ahead(&self) -> Result<Option<libc::user_regs_struct>, Fault> {
        thread_local! {
            /// All children have the same text at the same place.
            static CALLS: RefCell<HashMap<u64, bool>> = RefCell::default();
        }
        let at = self.address()?;
        let known = CALLS.with_borrow(|calls| calls.get(&at).copied());
        let is_call = match known {
            Some(is_call) => is_call,
            None => {
                let word = ptrace::read(self.pid, at as ptrace::AddressType).map_err(text)?;
                let is_call = word & 0xffff == 0x050f; // the instruction `syscall`
                CALLS.with_borrow_mut(|calls| calls.insert(at, is_call));
                is_call
            }
        };
        if is_call { ptrace::getregs(self.pid).map(Some).map_err(text) } else { Ok(None) }
    }

    /// Whether the next instruction is a system call that may sleep.
    pub fn may_sleep(&self) -> Result<bool, Fault> {
        Ok(self.call_ahead()?.is_some_and(|registers| {
            let wakes = registers.rax as i64 == libc::SYS_futex
                && !matches!(
                    registers.rsi as i32 & 0x7f,
                    libc::FUTEX_WAIT | libc::FUTEX_WAIT_BITSET
                );
            is_sleep(registers.rax as i64) && !wakes
        }))
    }

    /// One instruction.
    pub fn step(&mut self) -> Result<(), Fault> {
        self.begin_step()?;
        self.expect_trap()
    }

    fn begin_step(&mut self) -> Result<(), Fault> {
        self.steps += 1;
        ptrace::step(self.pid, None).map_err(text)
    }

    /// Begins one instruction that may sleep, and waits until it does or is over.
    pub fn step_into_sleep(&mut self) -> Result<Slept, Fault> {
        self.begin_step()?;
        self.until_asleep()
    }

    /// Waits until the child sleeps in the kernel, or stops.
    fn until_asleep(&mut self) -> Result<Slept, Fault> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match waitpid(self.pid, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG))
                .map_err(text)?
            {
                WaitStatus::StillAlive => {}
                status => return self.trapped(status).map(|()| Slept::Returned),
            }
            if sleeps(self.pid) {
                return Ok(Slept::Asleep);
            }
            if Instant::now() >= deadline {
                return Err("a call neither sleeps nor returns".into());
            }
            std::thread::sleep(Duration::from_micros(10));
        }
    }

    /// Goes on until it stands at a place: by a breakpoint of the processor, which changes nothing
    /// that the child sees. `asleep` is called when it sleeps. False if the operation ended before.
    pub fn run_to(
        &mut self,
        place: Place,
        asleep: Option<&mut dyn FnMut() -> Result<(), Fault>>,
    ) -> Result<bool, Fault> {
        if !self.run_to_address(place.address, place.times, asleep)? {
            return Ok(false);
        }
        for _ in 0..place.repeats {
            self.step()?;
        }
        Ok(self.address()? == place.address)
    }

    fn run_to_address(
        &mut self,
        address: u64,
        times: u64,
        mut asleep: Option<&mut dyn FnMut() -> Result<(), Fault>>,
    ) -> Result<bool, Fault> {
        let mut left = times;
        if self.address()? == address {
            if left == 0 {
                return Ok(true);
            }
            left -= 1;
            while self.address()? == address {
                self.step()?; // more than once where the instruction repeats itself
            }
        }
        self.set_breakpoint(Some(address))?;
        loop {
            self.go_on()?;
            match &mut asleep {
                None => self.expect_trap()?,
                Some(asleep) => {
                    while self.until_asleep()? == Slept::Asleep {
                        asleep()?;
                        std::thread::sleep(Duration::from_micros(50));
                    }
                }
            }
            let at = self.address()?;
            if at != address && at != self.end + 1 {
                return Err(format!("the child stopped at {} by itself", place_of(at)));
            }
            if left == 0 || at != address {
                self.set_breakpoint(None)?;
                return Ok(at == address);
            }
            left -= 1;
        }
    }

    /// Goes on to the next stop at a system call, of which there are two: before it and behind
    /// it. False if the operation is over.
    pub fn next_call(&mut self) -> Result<bool, Fault> {
        ptrace::syscall(self.pid, None).map_err(text)?;
        match waitpid(self.pid, Some(WaitPidFlag::__WALL)).map_err(text)? {
            WaitStatus::PtraceSyscall(_) => Ok(true),
            status => {
                self.trapped(status)?;
                Ok(false)
            }
        }
    }

    /// Goes past so many stops at system calls; false if there were not so many.
    pub fn pass_calls(&mut self, stops: usize) -> Result<bool, Fault> {
        for _ in 0..stops {
            if !self.next_call()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What it shares with others and may write, until its next system call.
    pub fn shared(&self) -> Result<Shared, Fault> {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.pid)).map_err(text)?;
        let mut ranges = Vec::new();
        for line in maps.lines().filter(|line| line.contains(" rw-s ")) {
            let range = line.split_whitespace().next().and_then(|range| range.split_once('-'));
            let number = |text: &str| u64::from_str_radix(text, 16).ok();
            if let Some((Some(start), Some(end))) = range.map(|(a, b)| (number(a), number(b))) {
                ranges.push((start, (end - start).min(FRONT) as usize));
            }
        }
        let memory = File::open(format!("/proc/{}/mem", self.pid)).map_err(text)?;
        Ok(Shared { ranges, memory })
    }

    /// Goes on until it sleeps in the kernel, or is at its end.
    pub fn run_into_sleep(&mut self) -> Result<Slept, Fault> {
        self.go_on()?;
        self.until_asleep()
    }

    fn set_breakpoint(&self, address: Option<u64>) -> Result<(), Fault> {
        let registers = std::mem::offset_of!(libc::user, u_debugreg);
        let write = |number: usize, value: u64| {
            let at = (registers + 8 * number) as ptrace::AddressType;
            ptrace::write_user(self.pid, at, value as libc::c_long).map_err(text)
        };
        if let Some(address) = address {
            write(0, address)?;
        }
        write(7, u64::from(address.is_some())) // the first breakpoint, of one byte, on execution
    }

    /// Waits until a step that sleeps is over.
    pub fn wake_up(&mut self) -> Result<(), Fault> {
        self.expect_trap()
    }

    /// Lets it go on by itself to the end of the operation; `asleep` is called each time that it
    /// sleeps, up to a limit. What the operation gave.
    pub fn run_on(&mut self, mut asleep: impl FnMut() -> Result<(), Fault>) -> Result<Told, Fault> {
        if !self.ended()? {
            self.go_on()?;
            let deadline = Instant::now() + PATIENCE;
            while self.until_asleep()? == Slept::Asleep {
                asleep()?;
                std::thread::sleep(Duration::from_micros(100));
                if Instant::now() >= deadline {
                    return Err("the child sleeps for ever".into());
                }
            }
            if self.address()? != self.end + 1 {
                return Err("the child stopped where nobody wanted it to".into());
            }
        } else {
            // Over the mark.
            self.go_on()?;
            self.expect_trap()?;
        }
        self.speak()
    }

    /// What the operation gave, from a child that stands behind its end.
    pub fn speak(&mut self) -> Result<Told, Fault> {
        self.go_on()?;
        hear(&mut self.told).map_err(text)
    }

    fn go_on(&mut self) -> Result<(), Fault> {
        ptrace::cont(self.pid, None).map_err(text)
    }

    fn expect_trap(&mut self) -> Result<(), Fault> {
        let status = waitpid(self.pid, Some(WaitPidFlag::__WALL)).map_err(text)?;
        self.trapped(status)
    }

    fn trapped(&mut self, status: WaitStatus) -> Result<(), Fault> {
        match status {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => Ok(()),
            WaitStatus::Stopped(_, signal) => {
                let at = self.address().unwrap_or(0);
                Err(format!("the child got {signal} at {}", place_of(at)))
            }
            other => {
                self.alive = false;
                Err(format!("the child ended by itself: {other:?}"))
            }
        }
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(mut self) -> Result<(), Fault> {
        self.end_it()
    }

    fn end_it(&mut self) -> Result<(), Fault> {
        if !self.alive {
            return Ok(());
        }
        self.alive = false;
        kill(self.pid, Signal::SIGKILL).map_err(text)?;
        loop {
            match waitpid(self.pid, Some(WaitPidFlag::__WALL)).map_err(text)? {
                WaitStatus::Signaled(..) | WaitStatus::Exited(..) => return Ok(()),
                _ => {}
            }
        }
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        _ = self.end_it();
    }
}

/// Whether a process sleeps in one of the calls that wait.
pub fn sleeps(pid: Pid) -> bool {
    let call = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    let number = call.split_whitespace().next().and_then(|word| word.parse().ok());
    number.is_some_and(is_sleep)
}

fn is_sleep(call: i64) -> bool {
    matches!(
        call,
        libc::SYS_futex
            | libc::SYS_futex_waitv
            | libc::SYS_poll
            | libc::SYS_ppoll
            | libc::SYS_nanosleep
            | libc::SYS_clock_nanosleep
    )
}

/// The child's life.
fn play(ready: impl FnOnce() -> Result<Box<dyn Act>, Fault>, mut tell: File) -> ! {
    let life = AssertUnwindSafe(|| -> Result<(), Fault> {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(text)?;
        ptrace::traceme().map_err(text)?;
        let mut act = ready()?;
        between_marks(&mut *act);
        say(&mut tell, &act.told()).map_err(text)?;
        loop {
            nix::unistd::pause();
        }
    });
    if let Ok(Err(fault)) = std::panic::catch_unwind(life) {
        eprintln!("in the child: {fault}");
    }
    // SAFETY: ends this process at once; nothing of the parent's may be dropped here.
    unsafe { libc::_exit(3) }
}

/// Another process, not traced, that does some work and says what came of it.
pub struct Companion {
    pid: Pid,
    told: File,
}

impl Companion {
    /// Starts `work` in a child of its own.
    pub fn start(work: impl FnOnce() -> Result<Told, Fault>) -> Result<Self, Fault> {
        let (told, tell) = nix::unistd::pipe().map_err(text)?;
        // SAFETY: as in `Tracee::fork`.
        match unsafe { fork() }.map_err(text)? {
            ForkResult::Child => {
                let mut tell = File::from(tell);
                let life = AssertUnwindSafe(|| -> Result<(), Fault> {
                    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(text)?;
                    say(&mut tell, &work().unwrap_or_else(|fault| Err(format!("fault: {fault}"))))
                        .map_err(text)?;
                    loop {
                        nix::unistd::pause();
                    }
                });
                _ = std::panic::catch_unwind(life);
                // SAFETY: as in `play`.
                unsafe { libc::_exit(3) }
            }
            ForkResult::Parent { child } => Ok(Self { pid: child, told: File::from(told) }),
        }
    }

    /// Waits until it sleeps in the kernel.
    pub fn until_asleep(&self) -> Result<(), Fault> {
        let deadline = Instant::now() + PATIENCE;
        while !sleeps(self.pid) {
            if Instant::now() >= deadline {
                return Err("the companion does not go to sleep".into());
            }
            std::thread::sleep(Duration::from_micros(20));
        }
        Ok(())
    }

    /// Waits for what it says.
    pub fn told(&mut self) -> Result<Told, Fault> {
        hear(&mut self.told).map_err(text)
    }
}

impl Drop for Companion {
    fn drop(&mut self) {
        _ = kill(self.pid, Signal::SIGKILL);
        _ = waitpid(self.pid, Some(WaitPidFlag::__WALL));
    }
}

fn say(pipe: &mut File, told: &Told) -> std::io::Result<()> {
    let (tag, parts): (u64, Vec<&[u8]>) = match told {
        Ok(messages) => (0, messages.iter().map(Vec::as_slice).collect()),
        Err(error) => (1, vec![error.as_bytes()]),
    };
    let mut bytes = Vec::new();
    for word in [tag, parts.len() as u64] {
        bytes.extend(word.to_le_bytes());
    }
    for part in parts {
        bytes.extend((part.len() as u64).to_le_bytes());
        bytes.extend(part);
    }
    pipe.write_all(&bytes)
}

fn hear(pipe: &mut File) -> std::io::Result<Told> {
    let mut word = || -> std::io::Result<u64> {
        let mut bytes = [0; 8];
        pipe.read_exact(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    };
    let (tag, count) = (word()?, word()?);
    let mut parts = Vec::new();
    for _ in 0..count {
        let mut bytes = [0; 8];
        pipe.read_exact(&mut bytes)?;
        let mut part = vec![0; u64::from_le_bytes(bytes) as usize];
        pipe.read_exact(&mut part)?;
        parts.push(part);
    }
    Ok(if tag == 0 {
        Ok(parts)
    } else {
        Err(String::from_utf8_lossy(&parts.concat()).into_owned())
    })
}

/// An error of the kernel, in words.
pub fn text(error: impl std::fmt::Display) -> Fault {
    error.to_string()
}

/// An address as the file that is mapped there and the offset from its beginning.
pub fn place_of(address: u64) -> String {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mut first = HashMap::new();
    for line in maps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some((start, end)) = words[0].split_once('-') else { continue };
        let number = |text| u64::from_str_radix(text, 16).unwrap_or(0);
        let (start, end) = (number(start), number(end));
        let name = words.get(5).copied().unwrap_or("?");
        let base = *first.entry(name).or_insert(start);
        if (start..end).contains(&address) {
            let name = name.rsplit('/').next().unwrap_or(name);
            return format!("{name}+{:#x}", address - base);
        }
    }
    format!("{address:#x}")
}

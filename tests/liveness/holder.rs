//! The process whose fate it is: holds the other end of everything, and does as it is told.
#![expect(unsafe_code, reason = "fork, and clone without the C library")]

use crate::common::child::{argument, hear, say};
use crate::kinds::{self, Held};
use hugeshm::{BackingKind, PagePolicy, Rung};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork};

/// Arguments: the folder, and where to be: `here`, `pid-namespace`.
fn hold() {
    // Every child inherits it, and waits for it; see `wait_for_good`.
    orders().thread_block().expect("a set of signals");
    if argument(1) == "pid-namespace" {
        unshare(CloneFlags::CLONE_NEWPID).expect("root");
        // SAFETY: this process has one thread (--test-threads=1), so its child may do anything.
        match unsafe { fork() }.expect("a process") {
            ForkResult::Child => {
                die_with_parent();
                work();
                // SAFETY: it ends this process; nothing is left that others would miss.
                unsafe { nix::libc::_exit(0) }
            }
            ForkResult::Parent { child } => {
                say(child);
                let _ = waitpid(child, None);
                return;
            }
        }
    }
    say(std::process::id());
    work();
}

/// Whatever becomes of the test, nothing of this is left.
fn die_with_parent() {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::SIGKILL).expect("a signal");
}

fn work() {
    let domain = crate::common::domain(argument(0).as_ref());
    let segment = domain.open("s").expect("the parent made it");
    // The parent has heard the other number by now.
    assert_eq!(hear().as_deref(), Some("hold"));
    // One that nobody else knows of: whether it can be collected is this process's fate alone.
    let own = domain.create("own").pages(PagePolicy::exactly(Rung::Base));
    let _own = own.backing(BackingKind::Tmpfs).build().expect("base pages");
    let mut ends: Vec<Held> = kinds::ALL.iter().map(|kind| (kind.hold)(&segment)).collect();
    say(std::process::id());
    while let Some(line) = hear() {
        match line.as_str() {
            "act" => ends.iter_mut().for_each(|act| act()),
            "hide" => hide(),
            "exec" => exec(),
            "fork" => say(forked()),
            "clone" => say(cloned()),
            other => panic!("no such order: {other}"),
        }
        if line == "act" || line == "hide" {
            say("done");
        }
    }
}

/// Goes into a mount namespace of its own, in which the control folder is another.
fn hide() {
    use nix::mount::{MsFlags, mount};
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS).expect("root");
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("our own");
    let folder = argument(0);
    mount(Some("none"), folder.as_str(), Some("tmpfs"), MsFlags::empty(), none).expect("our own");
    assert_eq!(std::fs::read_dir(&folder).expect("a folder").count(), 0, "it is hidden");
}

/// Becomes another program, with everything taken.
fn exec() {
    use std::os::unix::process::CommandExt;
    panic!("{}", std::process::Command::new("sleep").arg("1000").exec());
}

/// A child by the C library, which runs the fork handlers; it waits to be killed.
fn forked() -> i32 {
    // SAFETY: this process has one thread, and the child only waits.
    match unsafe { fork() }.expect("a process") {
        ForkResult::Parent { child } => child.as_raw(),
        ForkResult::Child => wait_for_good(),
    }
}

/// The same by the bare system call, which runs none.
fn cloned() -> i64 {
    use nix::libc::{self, SYS_clone, syscall};
    // SAFETY: no flags but the signal at its end: a copy of this process, on a copy of its stack.
    let pid = unsafe { syscall(SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
    assert!(pid >= 0, "clone: {}", std::io::Error::last_os_error());
    if pid == 0 {
        wait_for_good();
    }
    pid
}

/// The signal that a child waits for.
fn orders() -> SigSet {
    let mut set = SigSet::empty();
    set.add(Signal::SIGUSR1);
    set
}

/// Ends by a signal; at SIGUSR1 it becomes another program.
fn wait_for_good() -> ! {
    let _ = orders().wait();
    let sleep = c"sleep";
    let _ = nix::unistd::execvp(sleep, &[sleep, c"1000"]);
    // SAFETY: it ends this process and touches no memory.
    unsafe { nix::libc::_exit(1) }
}

/// The roles of this file.
pub fn play(role: &str) -> bool {
    match role {
        "holder::hold" => hold(),
        _ => return false,
    }
    true
}

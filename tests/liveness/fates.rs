//! What becomes of the process at the other end, and what everybody is told.
//!
//! | the other process | ends and attachment | sleepers | `collect` |
//! |---|---|---|---|
//! | lives, is slow | alive | sleep on | leaves it |
//! | is stopped | alive | sleep on | leaves it |
//! | was killed | dead | are told | removes it |
//! | was killed and not reaped (zombie) | dead | are told | removes it |
//! | was killed, another has its number | dead | are told | removes it |
//! | has become another program (exec) | dead | are told | removes it |
//! | was killed, its child by `fork` lives | dead | are told | removes it |
//! | was killed, its child by bare `clone` lives | alive until that child ends or execs | sleep on | leaves it |
//! | lives in another pid namespace | alive | sleep on | leaves it |
//! | was killed there | dead | are told | removes it |
//! | sees another control folder | alive | sleep on | leaves it |
#![expect(unsafe_code, reason = "clone3 with a number of the caller's choice")]

use crate::common::child::{Child, NOBODY};
use crate::common::{is_root, skip};
use crate::sleepers::{
    Asleep, are_served, learn_of_the_death, put_to_sleep, sleep_on, until_zombie,
};
use crate::{Stage, kinds, until};
use hugeshm::{PeerState, Segment, Usage};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// How often a sleeper must go to sleep before it counts as one that sleeps on.
const A_FEW: u64 = 4;

/// One holder of everything, and one sleeper for each end that it holds.
struct Scene {
    asleep: Vec<Asleep>,
    child: Child,
    /// The holder's number here, and that in its own namespace.
    pid: Pid,
    own_pid: u32,
    segment: Segment,
    stage: Stage,
}

fn number(child: &mut Child) -> i32 {
    let said = child.says();
    said.parse().unwrap_or_else(|_| panic!("no number: {said}"))
}

impl Scene {
    fn new(place: &str) -> Self {
        Self::with(0o600, |stage| stage.child("holder::hold", &[place]))
    }

    fn with(mode: u32, start: impl FnOnce(&Stage) -> Child) -> Self {
        let stage = Stage::new();
        let segment = kinds::declare(stage.builder().mode(mode)).build().expect("base pages");
        let mut child = start(&stage);
        let pid = Pid::from_raw(number(&mut child));
        child.tell("hold");
        let own_pid = u32::try_from(number(&mut child)).expect("a number");
        let asleep = put_to_sleep(&segment);
        sleep_on(&asleep, A_FEW);
        Self { asleep, child, pid, own_pid, segment, stage }
    }

    fn signal(&self, signal: Signal) {
        kill(self.pid, signal).expect("a process of ours");
    }

    /// Ends the holder itself, and waits until it is reaped or its keeper has left.
    fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        if self.pid.as_raw() as u32 == self.child.pid() {
            self.child.kill_only();
        }
    }

    /// Everybody is told that the holder lives, and no wait ends.
    #[track_caller]
    fn is_alive(&self, fate: &str, times: u64) {
        sleep_on(&self.asleep, times);
        self.reported_as(fate, PeerState::Alive);
        let domain = &self.stage.domain;
        assert_eq!(self.usage_of_its_own(), Usage::InUse, "{fate}");
        let report = domain.collect().expect("it runs");
        assert!(report.removed.is_empty() && report.failed.is_empty(), "{fate}: {report:?}");
        assert_eq!(report.kept, 2, "{fate}: {report:?}");
    }

    /// Everybody is told that it is dead, and every wait ends.
    #[track_caller]
    fn turns_out_dead(self, fate: &str) {
        let Self { asleep, child, pid, own_pid, segment, stage } = self;
        let count = asleep.len();
        learn_of_the_death(asleep, fate);
        let scene = Self { asleep: Vec::new(), child, pid, own_pid, segment, stage };
        scene.reported_as(fate, PeerState::Dead);
        assert_eq!(scene.usage_of_its_own(), Usage::Unused, "{fate}");
        let report = scene.stage.domain.collect().expect("it runs");
        let names: Vec<&str> = report.removed.iter().map(|one| one.name.as_str()).collect();
        assert_eq!((names, report.kept), (vec!["own"], 1), "{fate}: {report:?}");
        eprintln!("{fate}: {count} sleepers were told");
        drop(scene.child);
        scene.stage.domain.remove("s").expect("ours");
    }

    /// It does what is waited for, and every wait ends well.
    #[track_caller]
    fn acts(mut self, fate: &str) {
        self.child.tell("act");
        assert_eq!(self.child.says(), "done", "{fate}");
        let count = self.asleep.len();
        are_served(self.asleep, fate);
        eprintln!("{fate}: {count} sleepers slept on and were served");
        kill(self.pid, Signal::SIGKILL).expect("a process of ours");
        drop(self.child);
        let domain = &self.stage.domain;
        until("its own segment can be collected", || {
            domain.collect().expect("it runs").removed.len() == 1
        });
        domain.remove("s").expect("ours");
    }

    #[track_caller]
    fn reported_as(&self, fate: &str, state: PeerState) {
        let info = self.stage.domain.inspect("s").expect("a report");
        let mine = |pid: u32| pid == self.own_pid;
        let attached: Vec<_> = info.attachments.iter().filter(|one| mine(one.pid)).collect();
        assert_eq!(attached.len(), 1, "{fate}: {:?}", info.attachments);
        assert_eq!(attached[0].state, state, "{fate}");
        let ends = info.objects.iter().flat_map(|object| &object.endpoints);
        let ends: Vec<_> = ends.filter(|end| mine(end.pid) && end.epoch > 0).collect();
        assert!(ends.len() >= kinds::ALL.len(), "{fate}: only {} ends", ends.len());
        for end in ends {
            assert_eq!(end.state, state, "{fate}: {end:?}");
        }
    }

    fn usage_of_its_own(&self) -> Usage {
        let list = self.stage.domain.list().expect("a list");
        list.iter().find(|entry| entry.name == "own").expect("the holder made it").usage
    }
}

/// A process that is killed when it is no longer needed, whoever its parent is.
pub struct Stray(Pid);

impl Drop for Stray {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGKILL);
        let _ = waitpid(self.0, None); // if it is ours to reap
    }
}

#[test]
fn a_slow_peer_is_alive_and_its_waits_go_on_until_it_acts() {
    let scene = Scene::new("here");
    scene.is_alive("slow", 10);
    scene.acts("slow");
}

fn stopped(times: u64) {
    let scene = Scene::new("here");
    scene.signal(Signal::SIGSTOP);
    let stopped = waitpid(scene.pid, Some(WaitPidFlag::WUNTRACED));
    assert_eq!(stopped, Ok(WaitStatus::Stopped(scene.pid, Signal::SIGSTOP)));
    scene.is_alive("stopped", times);
    scene.signal(Signal::SIGCONT);
    scene.acts("stopped");
}

#[test]
fn a_stopped_peer_is_alive() {
    stopped(40); // two seconds of slices
}

#[test]
#[ignore = "takes more than a minute"]
fn a_peer_stopped_for_a_minute_is_alive() {
    stopped(1250);
}

#[test]
fn a_killed_peer_is_dead() {
    let mut scene = Scene::new("here");
    scene.kill();
    scene.turns_out_dead("killed");
}

#[test]
fn a_killed_peer_that_nobody_has_reaped_is_dead() {
    let scene = Scene::new("here");
    scene.signal(Signal::SIGKILL);
    until_zombie(scene.child.pid());
    scene.turns_out_dead("zombie");
}

#[test]
fn a_dead_peer_whose_number_another_process_has_is_dead() {
    if !is_root("choose the number of a new process") {
        return;
    }
    let mut scene = Scene::new("here");
    scene.kill();
    // Nobody else can have it: numbers are given in turn.
    let Some(double) = process_with_number(scene.pid) else {
        skip("this kernel has no clone3 with a number of the caller's choice");
        scene.turns_out_dead("killed");
        return;
    };
    scene.turns_out_dead("another has its number");
    assert_eq!(kill(double.0, None), Ok(()), "the other one lived all the time");
    drop(double);
}

/// A process with just this number, which waits to be killed.
pub fn process_with_number(pid: Pid) -> Option<Stray> {
    use nix::libc;
    let wanted = [pid.as_raw()];
    // SAFETY: all of its fields are integers, for which zero bytes are valid.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.set_tid = wanted.as_ptr() as u64;
    arguments.set_tid_size = 1;
    let size = size_of::<libc::clone_args>();
    // SAFETY: `arguments` and the number it leads to live until the call is over; without flags
    // the child is a copy of this thread on a copy of its stack.
    let made = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size) };
    if made == 0 {
        // Threads of the parent may have held locks, so here is nothing but system calls.
        loop {
            // SAFETY: it waits for a signal and touches no memory.
            unsafe { libc::syscall(libc::SYS_pause) };
        }
    }
    (made > 0).then(|| {
        assert_eq!(made, i64::from(pid.as_raw()));
        Stray(pid)
    })
}

#[test]
fn a_peer_that_became_another_program_is_dead() {
    let mut scene = Scene::new("here");
    scene.child.tell("exec");
    let comm = format!("/proc/{}/comm", scene.pid);
    until("it is another program", || {
        std::fs::read_to_string(&comm).is_ok_and(|name| name.trim() == "sleep")
    });
    scene.turns_out_dead("exec");
}

#[test]
fn a_dead_peers_forked_child_does_not_keep_it_alive() {
    let mut scene = Scene::new("here");
    scene.child.tell("fork");
    let child = Stray(Pid::from_raw(number(&mut scene.child)));
    scene.kill();
    scene.turns_out_dead("its forked child lives");
    assert_eq!(kill(child.0, None), Ok(()), "the child lived all the time");
}

#[test]
fn a_dead_peers_child_by_bare_clone_keeps_it_alive_until_it_execs_or_ends() {
    for end in [Signal::SIGKILL, Signal::SIGUSR1] {
        let mut scene = Scene::new("here");
        scene.child.tell("clone");
        let child = Stray(Pid::from_raw(number(&mut scene.child)));
        scene.kill();
        scene.is_alive("its bare clone lives", A_FEW);
        kill(child.0, end).expect("a process of ours");
        let fate = if end == Signal::SIGKILL { "its bare clone ended" } else { "... execed" };
        scene.turns_out_dead(fate);
    }
}

#[test]
fn a_peer_in_another_pid_namespace_is_what_it_is() {
    if !is_root("make a pid namespace") {
        return;
    }
    let scene = Scene::new("pid-namespace");
    // Its own number means another process here: the first one, which always lives.
    assert_eq!(scene.own_pid, 1);
    scene.is_alive("another pid namespace", A_FEW);
    scene.acts("another pid namespace");
    let mut scene = Scene::new("pid-namespace");
    scene.kill();
    scene.turns_out_dead("killed in another pid namespace");
}

#[test]
fn a_peer_that_sees_another_control_folder_is_what_it_is() {
    if !is_root("make a mount namespace") {
        return;
    }
    for act in [true, false] {
        let mut scene = Scene::new("here");
        scene.child.tell("hide");
        assert_eq!(scene.child.says(), "done");
        scene.is_alive("control folder out of sight", A_FEW);
        if act {
            scene.acts("control folder out of sight");
        } else {
            scene.kill();
            scene.turns_out_dead("killed, control folder out of sight");
        }
    }
}

#[test]
fn a_peer_that_is_another_user_is_what_it_is() {
    if !is_root("become another user") {
        return;
    }
    let nobody = |stage: &Stage| {
        let folder = stage.folder();
        Child::start_as(NOBODY, "holder::hold", &[&folder, "here"])
    };
    let scene = Scene::with(0o666, nobody);
    scene.is_alive("another user", A_FEW);
    scene.acts("another user");
    let mut scene = Scene::with(0o666, nobody);
    scene.kill();
    scene.turns_out_dead("another user was killed");
}

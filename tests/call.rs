//! Calls between processes, over call cells and duplex channels: every mode of waiting, servers
//! and callers killed at random moments, the errors of whoever asks for the wrong thing.

#[expect(dead_code, reason = "what the tests of other programs share, too")]
mod common;

use common::child::{self, Child};
use common::{Quiet, Scratch, domain};
use hugeshm::{
    BackingKind, CallCell, CallError, Caller, Domain, Duplex, DuplexCaller, DuplexServer,
    ErrorKind, ObjectKind, PagePolicy, Rung, Segment, SegmentBuilder, ServeError, Server,
    TypeIdentity, WaitMode,
};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What a call carries: its words belong together, so that a torn one shows.
type Words = [u64; 7];
/// The same for a duplex channel.
type Long = [u64; 100];

const MODES: [WaitMode; 4] = [WaitMode::Spin, WaitMode::Yield, WaitMode::Adaptive, WaitMode::Block];
const PATIENCE: Duration = Duration::from_secs(20);

fn on_base_pages(builder: SegmentBuilder) -> SegmentBuilder {
    builder.pages(PagePolicy::exactly(Rung::Base)).backing(BackingKind::Tmpfs)
}

fn create(domain: &Domain) -> Segment {
    on_base_pages(domain.create("calls"))
        .call::<Words, Words>("cell")
        .duplex::<Long, Long>("duplex", 4)
        .build()
        .expect("base pages")
}

fn request<const N: usize>(tag: u64) -> [u64; N] {
    core::array::from_fn(|i| tag.rotate_left(i as u32) ^ i as u64)
}

fn is_whole<const N: usize>(request: &[u64; N]) -> bool {
    *request == self::request(request[0])
}

fn answer_to<const N: usize>(request: [u64; N]) -> [u64; N] {
    request.map(|word| !word)
}

/// Either kind of caller.
trait Calls<const N: usize>: Send + Sized {
    const OBJECT: &str;
    fn attach(segment: &Segment) -> hugeshm::Result<Self>;
    fn mode(&mut self, mode: WaitMode);
    fn call(&mut self, request: [u64; N]) -> Result<[u64; N], CallError>;
    fn finish(&mut self) -> Result<[u64; N], CallError>;
}

/// Either kind of server.
trait Serves<const N: usize>: Sized {
    fn attach(segment: &Segment) -> hugeshm::Result<Self>;
    fn mode(&mut self, mode: WaitMode);
    fn outlive(&mut self);
    fn serve(&mut self, work: impl FnOnce([u64; N]) -> [u64; N]) -> Result<(), ServeError>;
    fn serve_soon(&mut self) -> Result<(), ServeError>;
}

macro_rules! kinds {
    ($n:literal $object:literal $caller:ident $server:ident $get_caller:ident $get_server:ident) => {
        impl Calls<$n> for $caller<[u64; $n], [u64; $n]> {
            const OBJECT: &str = $object;
            fn attach(segment: &Segment) -> hugeshm::Result<Self> {
                segment.$get_caller($object)
            }
            fn mode(&mut self, mode: WaitMode) {
                self.wait_mode(mode);
            }
            fn call(&mut self, request: [u64; $n]) -> Result<[u64; $n], CallError> {
                self.call_timeout(request, PATIENCE)
            }
            fn finish(&mut self) -> Result<[u64; $n], CallError> {
                self.finish_timeout(PATIENCE)
            }
        }

        impl Serves<$n> for $server<[u64; $n], [u64; $n]> {
            fn attach(segment: &Segment) -> hugeshm::Result<Self> {
                segment.$get_server($object)
            }
            fn mode(&mut self, mode: WaitMode) {
                self.wait_mode(mode);
            }
            fn outlive(&mut self) {
                self.outlive_peer(true);
            }
            fn serve(
                &mut self,
                work: impl FnOnce([u64; $n]) -> [u64; $n],
            ) -> Result<(), ServeError> {
                self.serve_timeout(PATIENCE, work)
            }
            fn serve_soon(&mut self) -> Result<(), ServeError> {
                self.serve_timeout(Duration::from_millis(5), answer_to)
            }
        }
    };
}
kinds!(7 "cell" Caller Server caller server);
kinds!(100 "duplex" DuplexCaller DuplexServer duplex_caller duplex_server);

type CellCaller = Caller<Words, Words>;
type CellServer = Server<Words, Words>;
type LongCaller = DuplexCaller<Long, Long>;
type LongServer = DuplexServer<Long, Long>;

/// An end whose last holder was just killed; the kernel may take a moment to give it back.
fn patiently<T>(mut attach: impl FnMut() -> hugeshm::Result<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attach() {
            Ok(end) => return end,
            Err(error) if error.kind() == ErrorKind::Busy && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
#[ignore = "the body of child processes, which other tests start"]
fn child_process() {
    match child::role().as_deref() {
        None => {}
        Some("serve cell") => serve::<7, CellServer>(),
        Some("serve duplex") => serve::<100, LongServer>(),
        Some("call cell") => call_on::<7, CellCaller>(),
        Some("call duplex") => call_on::<100, LongCaller>(),
        Some(role) => panic!("no such role: {role}"),
    }
}

fn mode_of_argument() -> WaitMode {
    MODES[child::argument(1).parse::<usize>().expect("a number")]
}

fn start(role: &str, scratch: &Scratch, mode: usize) -> Child {
    Child::start(role, &[&scratch.path().display().to_string(), &mode.to_string()])
}

/// Serves until the caller leaves, or this process is killed.
fn serve<const N: usize, S: Serves<N>>() {
    let segment = domain(Path::new(&child::argument(0))).open("calls").expect("it was created");
    let mut server = patiently(|| S::attach(&segment));
    server.mode(mode_of_argument());
    child::say("ready");
    loop {
        let served = server.serve(|request| {
            assert!(is_whole(&request), "a torn request");
            answer_to(request)
        });
        match served {
            Ok(()) => {}
            Err(ServeError::Closed) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Calls until this process is killed, or told to stop.
fn call_on<const N: usize, C: Calls<N>>() {
    let segment = domain(Path::new(&child::argument(0))).open("calls").expect("it was created");
    let mut caller = patiently(|| C::attach(&segment));
    caller.mode(mode_of_argument());
    child::say("ready");
    let stop = Arc::new(AtomicBool::new(false));
    let heard = Arc::clone(&stop);
    std::thread::spawn(move || {
        while child::hear().is_some() {}
        heard.store(true, Ordering::Relaxed);
    });
    let mut number = u64::from(std::process::id()) << 32;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let answer = caller.call(request(number));
        assert_eq!(answer, Ok(answer_to(request(number))), "another call's answer");
    }
}

fn every_mode_works<const N: usize, C: Calls<N>>() {
    let scratch = Scratch::new();
    let domain = scratch.domain();
    let segment = create(&domain);
    segment.unlink_on_drop(true);
    for (index, mode) in MODES.into_iter().enumerate() {
        // Before the server, who would else find that the last caller has left.
        let mut caller = C::attach(&segment).expect("nobody else calls");
        caller.mode(mode);
        let mut server = start(&format!("serve {}", C::OBJECT), &scratch, index);
        assert_eq!(server.says(), "ready");
        for number in 0..500 {
            let answer = caller.call(request(number));
            assert!(answer == Ok(answer_to(request(number))), "{mode:?}: {:?}", answer.err());
        }
        // The server hears that its caller has left.
        drop(caller);
        server.end_well();
    }
}

#[test]
fn a_cell_between_processes_works_in_every_mode() {
    let _quiet = Quiet::begin();
    every_mode_works::<7, CellCaller>();
}

#[test]
fn a_duplex_channel_between_processes_works_in_every_mode() {
    let _quiet = Quiet::begin();
    every_mode_works::<100, LongCaller>();
}

/// Kills a child some time from now; no two lives are equally long.
fn kill_after(mut child: Child, turn: u64) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let micros = turn.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52;
        std::thread::sleep(Duration::from_micros(micros));
        child.kill_only();
    })
}

fn calls_survive_killed_servers<const N: usize, C: Calls<N>>() {
    let scratch = Scratch::new();
    let domain = scratch.domain();
    let segment = create(&domain);
    segment.unlink_on_drop(true);
    let mut caller = C::attach(&segment).expect("nobody else calls");
    let (mut number, mut answered) = (0, 0);
    for turn in 0..40 {
        let index = turn as usize % MODES.len();
        caller.mode(MODES[index]);
        let mut server = start(&format!("serve {}", C::OBJECT), &scratch, index);
        assert_eq!(server.says(), "ready");
        if turn > 0 {
            // The call that its predecessor took, or did not take, to the grave.
            let answer = caller.finish();
            assert_eq!(answer, Ok(answer_to(request(number))), "the outstanding call");
        }
        let killer = kill_after(server, turn);
        loop {
            number += 1;
            match caller.call(request(number)) {
                Ok(answer) => {
                    assert_eq!(answer, answer_to(request(number)), "another call's answer");
                    answered += 1;
                }
                Err(CallError::PeerDied) => break,
                Err(error) => panic!("{error}"),
            }
        }
        killer.join().expect("it kills");
    }
    eprintln!("{}: {answered} answers from 40 killed servers", C::OBJECT);
    assert!(answered > 100);
    drop(caller);
}

#[test]
fn a_cells_calls_are_answered_by_the_successors_of_killed_servers() {
    let _quiet = Quiet::begin();
    calls_survive_killed_servers::<7, CellCaller>();
}

#[test]
fn a_duplex_channels_calls_are_answered_by_the_successors_of_killed_servers() {
    let _quiet = Quiet::begin();
    calls_survive_killed_servers::<100, LongCaller>();
}

fn callers_survive_killed_callers<const N: usize, C: Calls<N>, S: Serves<N>>() {
    let scratch = Scratch::new();
    let domain = scratch.domain();
    let segment = create(&domain);
    segment.unlink_on_drop(true);
    let mut server = S::attach(&segment).expect("nobody else serves");
    let mut served = 0;
    for turn in 0..40 {
        let index = turn as usize % MODES.len();
        server.mode(MODES[index]);
        let mut caller = start(&format!("call {}", C::OBJECT), &scratch, index);
        assert_eq!(caller.says(), "ready");
        let pid = u64::from(caller.pid());
        let killer = kill_after(caller, turn);
        let mut last = 0;
        loop {
            let end = server.serve(|request| {
                assert!(is_whole(&request), "a torn request");
                // Each at most once, in order, and none of an earlier caller.
                assert_eq!(request[0] >> 32, pid);
                assert!(request[0] > last, "call {} was seen before", request[0]);
                last = request[0];
                answer_to(request)
            });
            match end {
                Ok(()) => served += 1,
                Err(ServeError::PeerDied) => break,
                Err(error) => panic!("{error}"),
            }
        }
        killer.join().expect("it kills");
    }
    eprintln!("{}: {served} calls of 40 killed callers", C::OBJECT);
    assert!(served > 100);
    // One who goes in good order, and a server that waits for the next.
    let mut caller = start(&format!("call {}", C::OBJECT), &scratch, 2);
    assert_eq!(caller.says(), "ready");
    for _ in 0..100 {
        server.serve(answer_to).expect("it calls");
    }
    server.outlive();
    std::thread::scope(|scope| {
        let ended = scope.spawn(move || caller.end_well());
        while !ended.is_finished() {
            // The last call may be over already.
            let _ = server.serve_soon();
        }
    });
}

#[test]
fn a_cell_goes_from_killed_caller_to_caller() {
    let _quiet = Quiet::begin();
    callers_survive_killed_callers::<7, CellCaller, CellServer>();
}

#[test]
fn a_duplex_channel_goes_from_killed_caller_to_caller() {
    let _quiet = Quiet::begin();
    callers_survive_killed_callers::<100, LongCaller, LongServer>();
}

#[test]
fn who_asks_for_the_wrong_thing_is_told_what_is_there() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let domain = scratch.domain();
    let named = TypeIdentity::new("math", 1, 0);
    let segment = on_base_pages(domain.create("calls"))
        .call::<u64, u32>("cell")
        .call_of("named", CallCell::<[u32; 4], [u32; 4]>::new().identity(named.clone()))
        .duplex::<Long, u32>("long", 2)
        .ring::<u64>("ring", 2)
        .spare(64 << 10)
        .build()
        .expect("base pages");
    segment.unlink_on_drop(true);
    let kind = |result: Result<(), hugeshm::Error>| result.unwrap_err().kind();
    assert_eq!(kind(segment.caller::<u64, u64>("cell").map(drop)), ErrorKind::TypeMismatch);
    assert_eq!(kind(segment.server::<u64, u64>("cell").map(drop)), ErrorKind::TypeMismatch);
    assert_eq!(kind(segment.caller::<u32, u32>("cell").map(drop)), ErrorKind::TypeMismatch);
    assert_eq!(kind(segment.caller::<u64, u32>("ring").map(drop)), ErrorKind::KindMismatch);
    assert_eq!(kind(segment.producer::<u64>("cell").map(drop)), ErrorKind::KindMismatch);
    assert_eq!(kind(segment.caller::<u64, u32>("no").map(drop)), ErrorKind::NotFound);
    assert_eq!(kind(segment.duplex_caller::<Long, u32>("cell").map(drop)), ErrorKind::NotFound);
    let mismatch = segment.duplex_server::<Long, u64>("long").map(drop);
    assert_eq!(kind(mismatch), ErrorKind::TypeMismatch);
    // Under a name a reader's type may be shorter, a writer's not.
    assert_eq!(
        kind(segment.caller_as::<[u32; 2], [u32; 4]>("named", &named).map(drop)),
        ErrorKind::TypeMismatch
    );
    let mut caller = segment.caller_as::<[u32; 4], [u32; 1]>("named", &named).expect("a prefix");
    let mut server = segment.server_as::<[u32; 2], [u32; 4]>("named", &named).expect("a prefix");
    caller.start([1, 2, 3, 4]).expect("it is free");
    server.serve_one(|[a, b]| [a + b, 0, 0, 0]).expect("it was started");
    assert_eq!(caller.finish(), Ok([3]));
    assert_eq!(
        kind(segment.caller_as::<[u32; 4], [u32; 1]>("named", &named).map(drop)),
        ErrorKind::Busy
    );
    // A live segment takes more of both kinds, each name once.
    segment.add_call("more", CallCell::<u8, u8>::new()).expect("there is room");
    assert_eq!(kind(segment.add_call("more", CallCell::<u8, u8>::new())), ErrorKind::AlreadyExists);
    segment.add_duplex("wide", Duplex::<Long, Long>::new(3)).expect("there is room");
    assert_eq!(
        kind(segment.add_duplex("wide", Duplex::<Long, Long>::new(3))),
        ErrorKind::AlreadyExists
    );
    let again = on_base_pages(Segment::open_or_create("calls").domain(domain.clone()));
    let again = again.call::<u64, u64>("cell").build().map(drop);
    assert_eq!(kind(again), ErrorKind::KindMismatch, "another size of answer");
    let inspected = domain.inspect("calls").expect("it can be read");
    let cell = inspected.objects.iter().find(|object| object.name == "cell").expect("declared");
    assert_eq!((cell.kind, cell.kind.to_string().as_str()), (ObjectKind::CallCell, "call cell"));
}

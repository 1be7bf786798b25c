//! `hugeshm top` beside rings that are used, come and go; on a terminal and off one.

#[expect(dead_code, reason = "what the tests of other commands share, too")]
mod common;

use common::{Folder, Stop, complaint, text};
use hugeshm::Segment;
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs::File;
use std::io::Read;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

fn segment(folder: &Folder, name: &str) -> Segment {
    let segment = folder
        .builder(name)
        .ring::<u64>("numbers", 64)
        .ring::<u64>("idle", 4)
        .latest::<u64>("last")
        .build()
        .expect("base pages are there");
    segment.set_label("test");
    segment
}

fn endpoint(round: &Value, object: usize, endpoint: usize) -> &Value {
    &round["segments"][0]["objects"][object]["endpoints"][endpoint]
}

fn interrupt(child: &Child) {
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).expect("it runs");
}

#[test]
fn a_rate_times_its_time_is_what_passed() {
    let folder = Folder::new();
    let segment = segment(&folder, "md");
    let mut tx = segment.producer::<u64>("numbers").expect("nobody has it");
    let mut rx = segment.consumer::<u64>("numbers").expect("nobody has it");
    let mut last = segment.latest_writer::<u64>("last").expect("nobody has it");
    let mut top = folder.start(&["top", "--json", "--count", "0", "--interval", "0.01"]);
    let stop = AtomicBool::new(false);
    let mut before = 0;
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                tx.push(1).expect("there is room");
                last.write(&1).expect("nobody is in the way");
                rx.recv().expect("there is one");
                std::thread::yield_now();
            }
        });
        for _ in 0..20 {
            let round = top.json_until("a round", |_| true);
            let producer = endpoint(&round, 0, 0);
            let counted = producer["stats"]["messages"].as_u64().expect("a number");
            if let Some(rate) = producer["rates"]["messages"].as_f64() {
                let seconds = producer["rates"]["seconds"].as_f64().expect("beside the rates");
                let gained = rate * seconds;
                if before > 0 {
                    assert!((gained - (counted - before) as f64).abs() < 0.01, "{producer}");
                }
                let bytes = producer["rates"]["bytes"].as_f64().expect("a number");
                assert!((bytes - 8.0 * rate).abs() <= bytes * 1e-9);
            }
            before = counted;
        }
        let flows = |rates: &Value| rates["messages"].as_f64() > Some(0.0);
        let round = top.json_until("traffic at all ends", |round| {
            (0..2).all(|end| flows(&endpoint(round, 0, end)["rates"]))
                && flows(&endpoint(round, 2, 0)["rates"])
        });
        assert_eq!(endpoint(&round, 0, 0)["lag"], Value::Null, "a producer has none");
        // Both numbers of a lag are not of the same moment: whoever looks may be interrupted.
        assert!(endpoint(&round, 0, 1)["lag"].as_u64() <= Some(64));
        assert_eq!(endpoint(&round, 0, 1)["role"], "consumer");
        assert_eq!(endpoint(&round, 0, 1)["label"], "test");
    });
}

#[test]
fn what_comes_and_goes_disturbs_nobody() {
    let folder = Folder::new();
    let mut top = folder.start(&["top", "--json", "--count", "0", "--interval", "0.01"]);
    let names = |round: &Value| {
        let segments = round["segments"].as_array().expect("a list");
        segments.iter().map(|s| s["name"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    top.json_until("an empty round", |round| names(round).is_empty());
    let first = segment(&folder, "a");
    let mut tx = first.producer::<u64>("numbers").expect("nobody has it");
    tx.push(1).expect("there is room");
    let round = top.json_until("a segment", |round| endpoint(round, 0, 0).is_object());
    assert_eq!(names(&round), ["a"]);
    assert_eq!(endpoint(&round, 0, 0)["rates"], Value::Null, "it was not looked at before");
    assert_eq!(round["segments"][0]["objects"][0]["never_taken"], 1);
    let second = segment(&folder, "b");
    let late = hugeshm::TypedRing::<u64>::new(4);
    second.add_ring("late", late).expect("there is room");
    top.json_until("an object of another segment", |round| {
        names(round) == ["a", "b"] && round["segments"][1]["objects"][3]["name"] == "late"
    });
    // A successor under the same name begins anew, with counters below those before.
    drop((tx, first));
    folder.domain.remove("a").expect("it is there");
    let successor = segment(&folder, "a");
    let _tx = successor.producer::<u64>("numbers").expect("nobody has it");
    let identity = successor.identity().to_string();
    let round = top.json_until("a successor", |round| {
        round["segments"][0]["identity"] == *identity && endpoint(round, 0, 0)["rates"].is_object()
    });
    assert_eq!(endpoint(&round, 0, 0)["rates"]["messages"], 0.0);
    folder.domain.remove("a").expect("it is there");
    folder.domain.remove("b").expect("it is there");
    top.json_until("nothing", |round| names(round).is_empty());
    interrupt(&top.child);
    let (_, complaint, status) = top.end();
    assert_eq!((status.code(), complaint.as_str()), (Some(130), ""));
}

#[test]
fn rounds_follow_each_other_and_end_after_the_last() {
    let folder = Folder::new();
    let segment = segment(&folder, "md");
    let mut tx = segment.producer::<u64>("numbers").expect("nobody has it");
    tx.push(1).expect("there is room");
    let output = folder.run(&["top", "--interval", "0.01", "--count", "3"]);
    assert!(output.status.success(), "{}", complaint(&output));
    let shown = text(&output);
    assert_eq!(shown.matches("domain tests").count(), 3, "{shown}");
    let row = shown.lines().find(|line| line.starts_with("md/numbers ")).expect("a row");
    for part in ["ring", "producer 0", "test", "alive"] {
        assert!(row.contains(part), "{part} in {row}");
    }
    assert!(shown.lines().any(|line| line.starts_with("md/idle ") && line.ends_with('-')));
    assert!(!shown.contains("consumer"), "nobody ever took it: {shown}");
    assert_eq!(
        text(&folder.run(&["top", "--interval", "0.01"])).matches("domain tests").count(),
        1
    );
    for misunderstood in ["0", "-1", "nan", "1e9"] {
        let output = folder.run(&["top", "--interval", misunderstood]);
        assert_eq!(output.status.code(), Some(2), "{misunderstood}");
    }
    let output = folder.run(&["top", "--dir", "/proc"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(complaint(&output).contains("/proc"), "{}", complaint(&output));
}

#[test]
fn a_reader_who_has_seen_enough_ends_it_quietly() {
    let folder = Folder::new();
    let _segment = segment(&folder, "md");
    for format in [&["--json"][..], &[]] {
        let arguments = [&["top", "--count", "0", "--interval", "0.01"], format].concat();
        let mut top = folder.start(&arguments);
        top.line().expect("a line");
        top.stop_reading();
        let (_, complaint, status) = top.end();
        assert_eq!((status.code(), complaint.as_str()), (Some(0), ""));
    }
}

#[test]
fn on_a_terminal_each_round_takes_the_place_of_the_last() {
    let folder = Folder::new();
    let _segment = segment(&folder, "md");
    let window = Winsize { ws_row: 4, ws_col: 40, ws_xpixel: 0, ws_ypixel: 0 };
    let terminal = openpty(&window, None).expect("there are terminals");
    let mut top = folder
        .command(&["top", "--interval", "0.01"])
        .stdout(Stdio::from(terminal.slave))
        .spawn()
        .expect("it starts");
    let mut master = File::from(terminal.master);
    let mut shown = String::new();
    while shown.matches("\x1b[J").count() < 4 {
        let mut bytes = [0; 4096];
        let count = master.read(&mut bytes).expect("it goes on");
        shown.push_str(core::str::from_utf8(&bytes[..count]).expect("ASCII"));
    }
    interrupt(&top);
    assert_eq!(top.wait().expect("our own child").code(), Some(130));
    assert!(shown.starts_with("\x1b[H\x1b[2J\x1b[H"), "{shown:?}");
    assert_eq!(shown.matches("\x1b[2J").count(), 1, "it is cleared once");
    let round = shown.split("\x1b[H").nth(2).expect("the first round");
    let lines: Vec<_> = round.lines().collect();
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert!(lines[0].contains("domain tests") && lines[1].starts_with("OBJECT"), "{lines:?}");
    assert!(lines.iter().all(|line| line.trim_end_matches("\x1b[K").len() <= 40), "{lines:?}");
    assert!(lines[2].contains("lines more"), "{lines:?}");
}

//! The commands that look at segments and remove them, run as users run them.

#[expect(dead_code, reason = "what the tests of other commands share, too")]
mod common;

use common::{Folder, complaint, json, text};
use hugeshm::Segment;
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;

#[test]
fn list_shows_usage_pages_owner_and_who_is_attached() {
    let folder = Folder::new();
    assert!(text(&folder.run(&["list"])).starts_with("no segments in domain tests"));
    let held = folder.create("held");
    drop(folder.create("alone"));
    let report = folder.json(&["list", "--json"]);
    let segments = report["segments"].as_array().expect("a list");
    let names: Vec<_> = segments.iter().map(|s| s["name"].as_str().expect("a name")).collect();
    assert_eq!(names, ["alone", "held"]);
    assert_eq!(
        (&segments[0]["usage"], &segments[1]["usage"]),
        (&"unused".into(), &"in_use".into())
    );
    let me = std::process::id();
    let attached = &segments[1]["attachments"][0];
    assert_eq!((&attached["pid"], &attached["state"]), (&me.into(), &"alive".into()));
    assert_eq!(segments[0]["attachments"][0]["state"], "closed");
    assert_eq!(segments[1]["length"], held.len());
    assert_eq!(segments[1]["uid"], nix::unistd::geteuid().as_raw());
    let table = text(&folder.run(&["list"]));
    let row = table.lines().find(|line| line.starts_with("held ")).expect("a row");
    for cell in ["in use", "4 x 4K", "16 KiB", "tmpfs", &me.to_string()] {
        assert!(row.contains(cell), "{cell} in {row}");
    }
    let row = table.lines().find(|line| line.starts_with("alone ")).expect("a row");
    assert!(row.contains("unused") && row.ends_with('-'), "{row}");
}

#[test]
fn a_domain_option_looks_elsewhere() {
    let folder = Folder::new();
    let _held = folder.create("here");
    let report = folder.json(&["list", "--domain", "other", "--json"]);
    assert_eq!((&report["domain"], &report["segments"]), (&"other".into(), &Value::Array(vec![])));
    assert_eq!(folder.run(&["inspect", "here", "--domain", "other"]).status.code(), Some(1));
    assert_eq!(folder.run(&["list", "--domain", "a/b"]).status.code(), Some(1));
}

#[test]
fn a_damaged_control_file_is_a_line_of_its_own_and_hides_no_other() {
    let folder = Folder::new();
    let _held = folder.create("good");
    let file = folder.dir.path().join("hugeshm@tests@bad");
    fs::write(&file, "what \u{1b}[2J is this").expect("a tmpfs");
    let output = folder.run(&["list"]);
    assert!(output.status.success(), "{}", complaint(&output));
    let table = text(&output);
    assert!(table.lines().any(|line| line.starts_with("bad ") && line.contains("broken")));
    assert!(table.lines().any(|line| line.starts_with("good ") && line.contains("in use")));
    assert!(table.contains("\nproblem with bad: "), "{table}");
    assert!(!table.contains('\u{1b}'), "{table:?}");
    let report = folder.json(&["list", "--rates", "--json"]);
    assert_eq!(report["segments"][0]["usage"], "broken");
    assert_ne!(report["segments"][0]["problems"][0], Value::Null);
    assert_eq!(folder.run(&["inspect", "bad"]).status.code(), Some(1));
    assert_eq!(folder.run(&["remove", "bad"]).status.code(), Some(0));
    assert!(!file.exists());
}

#[test]
fn inspect_tells_what_the_segment_is() {
    let folder = Folder::new();
    let held = folder.create("md");
    let report = folder.json(&["inspect", "md", "--json"]);
    assert_eq!(report["entry"]["identity"], held.identity().to_string());
    assert_eq!(report["entry"]["backing"], "tmpfs");
    assert_eq!(report["rung"], "base");
    assert_eq!(report["creator_pid"], std::process::id());
    assert_eq!(report["problems"], Value::Array(vec![]));
    let shown = text(&folder.run(&["inspect", "md"]));
    for part in ["md in domain tests", &held.identity().to_string(), "in use", "4 x 4K", "alive"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    let output = folder.run(&["inspect", "nobody"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(complaint(&output).contains("hugeshm list"), "{}", complaint(&output));
}

/// Makes the first object of a segment one with a place for one producer and many consumers.
///
/// Its directory entry and the claim lines are written as `docs/LAYOUT.md` has them, over what was
/// there; so no process holds any of them.
fn give_consumers(folder: &Folder, segment: &Segment, consumers: u32, taken: &[(u32, u32, &str)]) {
    const ENTRY: u64 = 4096 + 4 * 64;
    const BROADCAST_RING: u32 = 3;
    let path = folder.dir.path().join(format!("hugeshm.{}", segment.identity()));
    let file = File::options().read(true).write(true).open(path).expect("our own file");
    let write = |at: u64, bytes: &[u8]| file.write_all_at(bytes, at).expect("it is long enough");
    let mut control = [0; 8];
    file.read_exact_at(&mut control, ENTRY + 24).expect("it is long enough");
    let control = u64::from_le_bytes(control);
    write(ENTRY + 8, &BROADCAST_RING.to_le_bytes());
    write(ENTRY + 32, &(256 * u64::from(1 + consumers)).to_le_bytes());
    write(ENTRY + 92, &consumers.to_le_bytes());
    // The words of the ring that it was.
    write(control + 2 * 256, &[0; 512]);
    for &(slot, state, label) in taken {
        let line = control + 256 * u64::from(1 + slot);
        write(line, &1_u64.to_le_bytes());
        write(line + 8, &state.to_le_bytes());
        write(line + 16, &(1000 + slot).to_le_bytes());
        write(line + 48, label.as_bytes());
        write(line + 128 + 40, &u64::from(slot).to_le_bytes());
    }
}

#[test]
fn of_many_places_only_those_that_were_taken_are_shown() {
    let folder = Folder::new();
    let segment = folder.builder("md").ring::<[u64; 8]>("many", 1024).build().expect("base pages");
    segment.set_label("feed");
    let _tx = segment.producer::<[u64; 8]>("many").expect("nobody has it");
    let taken: Vec<_> = (20..28).map(|slot| (slot, 1, "dead-one")).collect();
    give_consumers(&folder, &segment, 255, &[&[(9, 2, "left")], &taken[..]].concat());
    let shown = text(&folder.run(&["inspect", "md"]));
    let row = |start: &str| shown.lines().find(|line| line.starts_with(start)).expect(start);
    assert!(row("producer 0").contains("feed"), "{shown}");
    assert!(row("consumer 9 ").contains("closed") && row("consumer 9 ").contains("left"));
    assert!(row("consumer 27 ").contains("dead") && row("consumer 27 ").contains("1027"));
    assert_eq!(row("never taken"), "never taken: 246 consumers");
    assert_eq!(shown.matches("\nconsumer ").count(), 9, "{shown}");
    let table = text(&folder.run(&["list"]));
    let row = table.lines().find(|line| line.starts_with("md/many ")).expect("a row");
    assert!(row.contains("1020 dead-one dead gaps 20, 1021 "), "{row}");
    assert!(row.contains("1025 dead-one dead gaps 25, 2 more") && !row.contains("left"), "{row}");
    let report = folder.json(&["inspect", "md", "--json"]);
    assert_eq!(report["objects"][0]["endpoints"].as_array().map(Vec::len), Some(256));
    let round = folder.json(&["top", "--interval", "0.01", "--json"]);
    let object = &round["segments"][0]["objects"][0];
    assert_eq!(object["never_taken"], 246);
    assert_eq!(object["endpoints"].as_array().map(Vec::len), Some(10));
    assert_eq!(object["endpoints"][2]["stats"]["gaps"], 20);
    let shown = text(&folder.run(&["top", "--interval", "0.01"]));
    let row = shown.lines().find(|line| line.contains("consumer 27")).expect("a row");
    assert!(row.contains("1027") && row.contains("dead-one"), "{row}");
}

#[test]
fn remove_takes_each_name_and_fails_for_those_that_are_not_there() {
    let folder = Folder::new();
    let held = folder.create("a");
    drop(folder.create("b"));
    let output = folder.run(&["remove", "a", "nobody", "b", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let report = json(&output);
    assert_eq!(report["removed"], serde_json::json!(["a", "b"]));
    assert_eq!(report["failed"][0]["name"], "nobody");
    assert!(complaint(&output).contains("nobody"), "{}", complaint(&output));
    assert!(held.is_superseded(), "whoever is attached is told");
    let report = folder.json(&["list", "--json"]);
    assert_eq!(report["segments"], Value::Array(vec![]));
    assert_eq!(folder.run(&["remove"]).status.code(), Some(2));
}

#[test]
fn remove_says_why_what_others_planted_stays() {
    let folder = Folder::new();
    let path = |name: &str| folder.dir.path().join(format!("hugeshm@tests@{name}"));
    fs::create_dir(path("folder")).expect("a tmpfs");
    std::os::unix::fs::symlink("/etc/passwd", path("link")).expect("a tmpfs");
    let made = Command::new("mkfifo").arg(path("pipe")).status().expect("coreutils");
    assert!(made.success());
    for name in ["folder", "link", "pipe"] {
        let output = folder.run(&["remove", name]);
        assert_eq!((output.status.code(), text(&output).as_str()), (Some(1), ""), "{name}");
        assert!(complaint(&output).contains("not a regular file"), "{}", complaint(&output));
        assert!(path(name).symlink_metadata().is_ok(), "{name} is left alone");
    }
}

/// The entry of `removed` that has this name.
fn removed<'a>(report: &'a Value, name: &str) -> Option<&'a Value> {
    report["removed"].as_array().expect("a list").iter().find(|one| one["name"] == name)
}

#[test]
fn collect_removes_what_nobody_holds_and_counts_the_bytes() {
    let folder = Folder::new();
    let held = folder.create("held");
    let bytes = held.len();
    drop(folder.create("left"));
    let report = folder.json(&["collect", "--json"]);
    assert_eq!(removed(&report, "left").map(|one| &one["bytes"]), Some(&bytes.into()));
    assert_eq!(removed(&report, "held"), None);
    assert!(report["bytes"].as_u64() >= Some(bytes) && report["kept"].as_u64() >= Some(1));
    assert_eq!(report["failed"], Value::Array(vec![]));
    let shown = text(&folder.run(&["collect"]));
    assert!(shown.ends_with(" kept, 0 failed\n") && !shown.contains("held"), "{shown}");
    drop(held);
    let shown = text(&folder.run(&["collect"]));
    let row = shown.lines().find(|line| line.starts_with("held ")).expect("a row");
    assert!(row.contains("segment") && row.contains("16 KiB"), "{row}");
    assert!(shown.contains(" removed ("), "{shown}");
}

#[test]
fn collect_that_could_not_remove_something_exits_with_one() {
    let folder = Folder::new();
    fs::write(folder.dir.path().join("hugeshm@tests@bad"), "damaged").expect("a tmpfs");
    let output = folder.run(&["collect", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    assert_ne!(json(&output)["failed"][0], Value::Null);
    assert!(complaint(&output).contains("1 could not be removed"), "{}", complaint(&output));
}

#[test]
fn a_control_folder_that_is_no_tmpfs_is_an_error() {
    for command in [&["list"][..], &["inspect", "a"], &["remove", "a"], &["collect"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_hugeshm"))
            .args(command)
            .env("HUGESHM_DIR", "/proc")
            .output()
            .expect("it starts");
        assert_eq!(output.status.code(), Some(1), "{command:?}");
        assert!(complaint(&output).contains("/proc"), "{}", complaint(&output));
    }
}

#[test]
fn five_thousand_names_are_listed() {
    const COUNT: usize = 5_000;
    let folder = Folder::new();
    for number in 0..COUNT {
        drop(folder.create(&format!("segment-{number:04}")));
    }
    let table = text(&folder.run(&["list"]));
    assert_eq!(table.lines().count(), COUNT + 1);
    let report = folder.json(&["list", "--json"]);
    assert_eq!(report["segments"].as_array().map(Vec::len), Some(COUNT));
    let report = folder.json(&["collect", "--json"]);
    let removed = report["removed"].as_array().expect("a list");
    assert_eq!(removed.iter().filter(|one| one["what"] == "segment").count(), COUNT);
}

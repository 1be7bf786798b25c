//! `hugeshm echo` beside writers that write, leave, die and lie.

#[expect(dead_code, reason = "what the tests of other commands share, too")]
mod common;

use bytemuck::{Pod, Zeroable};
use common::{Folder, Running, Stop, complaint, text};
use hugeshm::{
    BroadcastRing, Domain, Join, LatestValue, LatestWriter, PeerState, Role, Schema, Segment,
    TypedRing,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct Quote {
    seq: u64,
    price: f64,
    name: [u8; 8],
    valid: u8,
    side: u8,
    rest: [u8; 6],
}

const FIELDS: &str = "seq: u64; price: f64; name: str[8]; valid: bool; side: char";

fn quote(seq: u64) -> Quote {
    let (price, valid) = (seq as f64 + 0.5, u8::from(seq % 2 == 1));
    Quote { seq, price, name: *b"A\x1b[2J\0\0\0", valid, side: b'B', rest: [0; 6] }
}

fn segment(folder: &Folder, schema: Schema) -> Segment {
    let quotes = LatestValue::<Quote>::new().schema(schema);
    folder.builder("md").latest_of("quote", quotes).build().expect("base pages are there")
}

/// A segment whose value has been written once.
fn written(folder: &Folder, schema: Schema) -> (Segment, LatestWriter<Quote>) {
    let segment = segment(folder, schema);
    let mut writer = segment.latest_writer::<Quote>("quote").expect("nobody has it");
    writer.write(&quote(1)).expect("the first");
    (segment, writer)
}

fn interrupt(echo: &Running) {
    kill(Pid::from_raw(echo.child.id() as i32), Signal::SIGINT).expect("it runs");
}

/// What a command that is run to its end prints, as lines; it must succeed.
fn lines(folder: &Folder, arguments: &[&str]) -> Vec<String> {
    let output = folder.run(&[&["echo", "md", "quote"], arguments].concat());
    assert!(output.status.success(), "{arguments:?}: {}", complaint(&output));
    text(&output).lines().map(str::to_owned).collect()
}

#[test]
fn each_new_version_is_shown_by_the_schema_of_its_object() {
    let folder = Folder::new();
    let (segment, mut writer) = written(&folder, Schema::fields(FIELDS));
    let mut echo = folder.start(&["echo", "md", "quote", "--count", "4"]);
    for seq in 1..5 {
        let line = echo.line().expect("a line");
        let name = r#""A\u{1b}[2J""#;
        let valid = seq % 2 == 1;
        let wanted = format!("{seq}: seq={seq} price={seq}.5 name={name} valid={valid} side='B'\n");
        assert_eq!(line, wanted);
        writer.write(&quote(seq + 1)).expect("it is alive");
    }
    let (rest, complaint, status) = echo.end();
    assert_eq!((rest.as_str(), complaint.as_str(), status.code()), ("", "", Some(0)));
    let mut echo = folder.start(&["echo", "md", "quote", "--json"]);
    for seq in 5..8 {
        let shown = echo.json_until("a message", |_| true);
        let (price, valid) = (seq as f64 + 0.5, seq % 2 == 1);
        let fields =
            json!({"seq": seq, "price": price, "name": "A\u{1b}[2J", "valid": valid, "side": "B"});
        assert_eq!(shown, json!({"schema": 1, "position": seq, "bytes": 32, "fields": fields}));
        let info = folder.domain.inspect("md").expect("it is there");
        assert_eq!(info.attachments.len(), 1, "whoever looks is not attached");
        let ends = info.objects[0].endpoints.iter();
        let taken = ends.filter(|end| end.state != PeerState::Never).count();
        assert_eq!(taken, 1, "nor has it a place");
        writer.write(&quote(seq + 1)).expect("it is alive");
    }
    // It ends with its writer.
    drop((writer, segment));
    let (_, complaint, status) = echo.end();
    assert_eq!((complaint.as_str(), status.code()), ("", Some(0)));
}

#[test]
fn bytes_are_shown_as_they_are_or_in_digits() {
    let folder = Folder::new();
    let (_segment, _writer) = written(&folder, Schema::new(7, *b"whatever"));
    let rows = [
        "1+0000  01 00 00 00 00 00 00 00  00 00 00 00 00 00 f8 3f  |...............?|",
        "1+0010  41 1b 5b 32 4a 00 00 00  01 42 00 00 00 00 00 00  |A.[2J....B......|",
    ];
    assert_eq!(lines(&folder, &["--count", "1"]), rows, "another language is not understood");
    assert_eq!(lines(&folder, &["--count", "1", "--hex"]), rows);
    let shown = lines(&folder, &["--count", "1", "--schema", "low: u32; high: u32 # the rest"]);
    assert_eq!(shown, ["1: low=1 high=0"]);
    let shown = lines(&folder, &["--count", "1", "--json"]).concat();
    let digits = "0100000000000000000000000000f83f411b5b324a0000000142000000000000";
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!(shown, json!({"schema": 1, "position": 1, "bytes": 32, "hex": digits}));
    let output = folder.run(&["echo", "md", "quote", "--raw", "--count", "1"]);
    assert_eq!(output.stdout, bytemuck::bytes_of(&quote(1)));
    let output = folder.run(&["echo", "md", "quote", "--timeout", "0", "--from", "2"]);
    assert_eq!((output.status.code(), text(&output).as_str()), (Some(1), ""));
    assert!(complaint(&output).contains("nothing came in time"), "{}", complaint(&output));
    for from in ["oldest", "newest", "0", "1"] {
        assert_eq!(lines(&folder, &["--timeout", "0", "--from", from]), rows, "{from}");
    }
    let output = folder.run(&["echo", "md", "quote", "--timeout", "0", "--count", "2"]);
    assert_eq!((output.status.code(), text(&output).lines().count()), (Some(1), 2));
    assert!(complaint(&output).contains("after 1 message\n"), "{}", complaint(&output));
}

#[test]
fn schemas_that_lie_are_named_and_bytes_are_shown() {
    let folder = Folder::new();
    let deep = "a: ".to_owned() + &"[".repeat(100_000);
    let fields: String = (0..80_000).map(|n| format!("f{n}:u8;")).collect();
    for (schema, what) in [
        (Schema::fields("a: u8; b: \u{1b}[2J"), "line 1, column 11: a type"),
        (Schema::fields("a: [u8; 18446744073709551615]"), "a number above"),
        (Schema::fields("a: [[[u8; 1048576]; 1048576]; 1048576]"), "an array of more than"),
        (Schema::fields("a: u64 @1099511627776"), "more than 1099511627776 bytes"),
        (Schema::fields("a: [u64; 5]"), "the schema describes 40 bytes, a message has 32"),
        (Schema::fields(deep), "arrays more than"),
        (Schema::fields(fields), "the schema describes 80000 bytes"),
        (Schema::new(Schema::FIELDS, vec![0xff; 1000]), "invalid utf-8"),
    ] {
        let (segment, writer) = written_with_room(&folder, schema);
        let output = folder.run(&["echo", "md", "quote", "--count", "1"]);
        assert_eq!(output.status.code(), Some(0), "{what}");
        assert!(text(&output).starts_with("1+0000  01 00 "), "{what}");
        let complaint = complaint(&output);
        assert!(complaint.contains("is not used: ") && complaint.contains(what), "{complaint}");
        assert!(!complaint.contains('\u{1b}'), "{complaint:?}");
        let output = folder.run(&["echo", "md", "quote", "--count", "1", "--schema", "seq: u64"]);
        assert_eq!((text(&output).as_str(), output.stderr.len()), ("1: seq=1\n", 0));
        drop((segment, writer));
        folder.domain.remove("md").expect("it is there");
    }
    let (_segment, _writer) = written(&folder, Schema::fields(FIELDS));
    let output = folder.run(&["echo", "md", "quote", "--schema", "a: u8 b"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(complaint(&output).contains("line 1, column 7"), "{}", complaint(&output));
    let output = folder.run(&["echo", "md", "quote", "--schema", "a: [u8; 33]"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(complaint(&output).contains("33 bytes, a message has 32"), "{}", complaint(&output));
}

/// The same in a segment with room for a long schema.
fn written_with_room(folder: &Folder, schema: Schema) -> (Segment, LatestWriter<Quote>) {
    let segment = folder.builder("md").spare(2 << 20).build().expect("base pages are there");
    segment.add_latest("quote", LatestValue::<Quote>::new().schema(schema)).expect("room");
    let mut writer = segment.latest_writer::<Quote>("quote").expect("nobody has it");
    writer.write(&quote(1)).expect("the first");
    (segment, writer)
}

#[test]
fn a_long_value_comes_whole() {
    let folder = Folder::new();
    let schema = Schema::fields("words: [u64; 1000]");
    let value = LatestValue::<[u64; 1000]>::new().schema(schema);
    let segment = folder.builder("md").latest_of("quote", value).build().expect("base pages");
    let mut writer = segment.latest_writer::<[u64; 1000]>("quote").expect("nobody has it");
    let mut echo = folder.start(&["echo", "md", "quote", "--json", "--count", "50"]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| {
            for version in (1..).take_while(|_| !stop.load(Ordering::Relaxed)) {
                writer.write(&[version; 1000]).expect("nobody is in the way");
            }
        });
        let mut last = 0;
        for _ in 0..50 {
            let shown = echo.json_until("a message", |_| true);
            let version = shown["position"].as_u64().expect("a number");
            assert!(version > last, "{version} behind {last}");
            last = version;
            let words = shown["fields"]["words"].as_array().expect("a list");
            assert!(words.len() == 1000 && words.iter().all(|word| *word == version), "torn");
        }
    });
    assert_eq!(echo.end().2.code(), Some(0));
}

#[test]
fn with_wait_it_waits_for_segment_object_and_successors() {
    let folder = Folder::new();
    let output = folder.run(&["echo", "md", "quote"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(complaint(&output).contains("md"), "{}", complaint(&output));
    let output = folder.run(&["echo", "md", "quote", "--wait", "--timeout", "0"]);
    assert_eq!(output.status.code(), Some(1));
    let mut echo = folder.start(&["echo", "md", "quote", "--wait", "--json"]);
    let first = folder.builder("md").spare(8 << 10).build().expect("base pages are there");
    let output = folder.run(&["echo", "md", "quote"]);
    assert!(complaint(&output).contains("objects"), "{}", complaint(&output));
    let value = LatestValue::<Quote>::new().schema(Schema::fields("seq: u64"));
    first.add_latest("quote", value).expect("there is room");
    let mut writer = first.latest_writer::<Quote>("quote").expect("nobody has it");
    writer.write(&quote(7)).expect("the first");
    let seq = |shown: &Value| shown["fields"]["seq"].as_u64();
    assert_eq!(seq(&echo.json_until("a message", |_| true)), Some(7));
    // Another writer, another segment, and then none.
    drop(writer);
    let mut writer = first.latest_writer::<Quote>("quote").expect("nobody has it");
    writer.write(&quote(8)).expect("it goes on");
    assert_eq!(seq(&echo.json_until("a message", |_| true)), Some(8));
    folder.domain.remove("md").expect("it is there");
    let (second, writer) = written(&folder, Schema::fields("seq: u64"));
    assert_eq!(seq(&echo.json_until("a message", |_| true)), Some(1));
    drop((writer, second, first));
    folder.domain.remove("md").expect("it is there");
    interrupt(&echo);
    let (rest, complaint, status) = echo.end();
    assert_eq!((rest.as_str(), complaint.as_str(), status.code()), ("", "", Some(130)));
}

#[test]
fn a_reader_who_has_seen_enough_ends_it_quietly() {
    let folder = Folder::new();
    let (_segment, mut writer) = written(&folder, Schema::fields(FIELDS));
    // Nothing more is written: it notices by itself.
    for manner in ["--json", "--hex", "--raw"] {
        let mut echo = folder.start(&["echo", "md", "quote", manner]);
        if manner != "--raw" {
            echo.line().expect("a line");
        }
        echo.stop_reading();
        let (_, complaint, status) = echo.end();
        assert_eq!((complaint.as_str(), status.code()), ("", Some(0)), "{manner}");
    }
    let mut echo = folder.start(&["echo", "md", "quote"]);
    echo.line().expect("a line");
    echo.stop_reading();
    while echo.child.try_wait().expect("our own child").is_none() {
        writer.write(&quote(2)).expect("it is alive");
    }
    let (_, complaint, status) = echo.end();
    assert_eq!((complaint.as_str(), status.code()), ("", Some(0)));
}

#[test]
fn what_belongs_to_one_consumer_is_refused_with_the_reason() {
    let folder = Folder::new();
    let segment = folder
        .builder("md")
        .ring_of("ring", TypedRing::<u64>::new(4))
        .records("records", 4096)
        .call::<u64, u64>("call")
        .build()
        .expect("base pages are there");
    let mut tx = segment.producer::<u64>("ring").expect("nobody has it");
    tx.push(5).expect("there is room");
    for (object, reason) in [
        ("ring", "belong to its consumers"),
        ("records", "belong to its consumers"),
        ("call", "belongs to its server"),
    ] {
        let output = folder.run(&["echo", "md", object, "--timeout", "0"]);
        let said = complaint(&output);
        assert_eq!((output.status.code(), text(&output).as_str()), (Some(1), ""), "{object}");
        assert!(said.contains(reason) && said.contains("`hugeshm inspect md`"), "{said}");
    }
    let mut rx = segment.consumer::<u64>("ring").expect("nobody has it");
    assert_eq!(rx.try_recv(), Ok(5), "it was not touched");
    let output = folder.run(&["echo", "md", "none"]);
    let said = complaint(&output);
    assert!(output.status.code() == Some(1) && said.contains("\"records\""), "{said}");
}

#[test]
fn a_broadcast_ring_is_shown_from_where_one_likes_and_gaps_are_told() {
    let folder = Folder::new();
    let ticks = BroadcastRing::<u64>::new(10).schema(Schema::fields("seq: u64"));
    let segment = folder
        .builder("md")
        .broadcast_of("ticks", ticks)
        .broadcast_records("news", 2048)
        .build()
        .expect("base pages are there");
    let mut ticks = segment.broadcast_producer::<u64>("ticks").expect("nobody has it");
    let mut news = segment.broadcast_record_producer("news").expect("nobody has it");
    let mut own = segment.broadcast_consumer::<u64>("ticks", Join::Newest).expect("a place");
    for number in 0..100 {
        ticks.push(number).expect("there is always room");
        news.push(format!("item {number}").as_bytes()).expect("there is always room");
    }
    let echo = |arguments: &[&str]| folder.run(&[&["echo", "md"], arguments].concat());
    let output = echo(&["ticks", "--from", "97", "--timeout", "0"]);
    assert_eq!(text(&output), "97: seq=97\n98: seq=98\n99: seq=99\n", "{}", complaint(&output));
    let output = echo(&["ticks", "--from", "oldest", "--timeout", "0", "--json"]);
    let first: Value = serde_json::from_str(text(&output).lines().next().expect("a line")).unwrap();
    let oldest = first["position"].as_u64().expect("a number");
    assert!((80..=90).contains(&oldest), "{oldest}");
    assert_eq!(text(&output).lines().count() as u64, 100 - oldest);
    // What is gone is told, and the sum at the end.
    let output = echo(&["ticks", "--from", "5", "--timeout", "0", "--count", "1"]);
    let (shown, said) = (text(&output), complaint(&output));
    assert_eq!(shown, format!("{oldest}: seq={oldest}\n"));
    let missed = oldest - 5;
    assert!(said.contains(&format!("{missed} messages before position {oldest}")), "{said}");
    assert!(said.contains(&format!("{missed} messages were missed in all")), "{said}");
    let output = echo(&["ticks", "--from", "101", "--timeout", "0"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(complaint(&output).contains("100 were sent"), "{}", complaint(&output));
    let output = echo(&["news", "--from", "98", "--timeout", "0", "--raw"]);
    assert_eq!(text(&output), "item 98item 99", "{}", complaint(&output));
    // It is woken by nobody, and yet shows what comes; nobody notices that it is there.
    let mut live = folder.start(&["echo", "md", "news", "--raw", "--count", "1"]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                news.push(b"new\n").expect("there is always room");
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        assert_eq!(live.line().as_deref(), Some("new\n"));
    });
    assert_eq!(live.end().2.code(), Some(0));
    let consumers = |name: &str| {
        let info = folder.domain.inspect("md").expect("it is there");
        let object = info.objects.into_iter().find(|object| object.name == name).expect("it is");
        let there = |end: &&hugeshm::EndpointInfo| end.role == Role::Consumer && end.epoch > 0;
        let ends = object.endpoints.iter().filter(there).cloned().collect::<Vec<_>>();
        (object.lag, ends)
    };
    assert!(consumers("news").1.is_empty());
    let (lag, ends) = consumers("ticks");
    assert_eq!((lag, ends.len(), ends[0].lag), (Some(100), 1, Some(100)));
    while own.try_recv().is_err() {}
    let (lag, ends) = consumers("ticks");
    assert_eq!(lag, Some(99 - oldest));
    assert_eq!((ends[0].stats.messages, ends[0].stats.gaps), (1, oldest));
    let shown = text(&folder.run(&["inspect", "md"]));
    assert!(shown.contains("never taken: 15 consumers"), "{shown}");
}

/// Where a writer that is to be killed finds its segment.
const FOLDER: &str = "HUGESHM_TEST_FOLDER";

#[test]
#[ignore = "the other process of another test"]
fn child_writes_and_stays() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let domain = Domain::in_folder("tests", Path::new(&folder)).expect("a valid name");
    let segment = domain.open("md").expect("the parent made it");
    let mut writer = segment.latest_writer::<Quote>("quote").expect("nobody has it");
    writer.write(&quote(1)).expect("the first");
    loop {
        std::thread::park();
    }
}

#[test]
fn the_death_of_the_writer_is_told_after_its_last_value() {
    let folder = Folder::new();
    let segment = segment(&folder, Schema::fields("seq: u64"));
    let mut echo = folder.start(&["echo", "md", "quote"]);
    let mut surviving = folder.start(&["echo", "md", "quote", "--wait"]);
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["child_writes_and_stays", "--exact", "--ignored"]);
    let mut writing = Running::start(command.env(FOLDER, folder.dir.path()));
    assert_eq!(echo.line().as_deref(), Some("1: seq=1\n"));
    assert_eq!(surviving.line().as_deref(), Some("1: seq=1\n"));
    writing.child.kill().expect("it runs");
    writing.child.wait().expect("our own child");
    let (rest, complaint, status) = echo.end();
    assert_eq!((rest.as_str(), status.code()), ("", Some(1)));
    assert!(complaint.contains("the writer died, after 1 message"), "{complaint}");
    let mut writer = segment.latest_writer::<Quote>("quote").expect("its holder died");
    writer.write(&quote(2)).expect("it goes on");
    assert_eq!(surviving.line().as_deref(), Some("2: seq=2\n"));
}

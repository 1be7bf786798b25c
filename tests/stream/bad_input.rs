//! Wrong arguments, wrong files, wrong moments: an error that says so, and nothing left.

use crate::common::machine::PrivateMount;
use crate::common::skip;
use crate::support::{Carrier, Stage, Stream, Sum};
use std::fs::File;
use std::process::Stdio;

const BASE: [&str; 4] = ["--pages", "base", "--backing", "tmpfs"];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["--name", "s"], &BASE[..], more].concat()
}

#[test]
fn bad_arguments_are_refused_with_the_reason() {
    let stage = Stage::new();
    let input = stage.stream_file("in", Stream::new(100));
    let input = input.to_str().unwrap();
    let plain = tempfile::tempdir().unwrap();
    let plain = plain.path().to_str().unwrap();
    let long = "x".repeat(101);
    let cases: &[(&[&str], &[&str])] = &[
        (&[input], &["--name"]),
        (&["--name", "", input], &["name"]),
        (&["--name", "a/b", input], &["a/b", "try:"]),
        (&["--name", "..", input], &["..", "try:"]),
        (&["--name", &long, input], &["100"]),
        (&["--name", "näme", input], &["not allowed"]),
        (&["--name", "s", "--size", "0", input], &["--size"]),
        (&["--name", "s", "--size", "-1", input], &["-1"]),
        (&["--name", "s", "--size", "1K", input], &["128K at least"]),
        (&["--name", "s", "--size", "many", input], &["--size", "64M"]),
        (&["--name", "s", "--size", "100000T", input], &["larger than memory"]),
        (&["--name", "s", "--size", "99999999999999999999", input], &["--size"]),
        (&["--name", "s", "--record", "0", input], &["--record"]),
        (&["--name", "s", "--pages", "3M", input], &["3M"]),
        (&["--name", "s", "--pages", "big", input], &["big"]),
        (&["--name", "s", "--backing", "disk", input], &["disk"]),
        (&["--name", "s", "--pages", "2M", "--backing", "tmpfs", input], &["2M"]),
        (&["--name", "s", "--mount", plain, input], &[plain, "not on hugetlbfs"]),
        (&["--name", "s", "--mount", "/nowhere", input], &["/nowhere"]),
        (&["--name", "s", "/no/such/file"], &["/no/such/file", "No such file"]),
        (&["--name", "s", "/"], &["open /", "folder"]),
        (&with(&["--size", "1M", "--record", "1M", input]), &["does not fit", "--size"]),
        (&with(&["--size", "128K", input]), &["does not fit", "--size 196K", "--record 32744"]),
        (&with(&["--size", "128K", "--record", "32745", input]), &["does not fit"]),
        (&with(&["--record", "4G", input]), &["does not fit", "--size"]),
    ];
    for (arguments, saying) in cases {
        stage.writer(arguments).fails(saying);
        stage.assert_clean();
    }
    let out = stage.file("no/such/folder/out");
    let out = out.to_str().unwrap();
    let cases: &[(&[&str], &[&str])] = &[
        (&[], &["--name"]),
        (&["--name", "a/b"], &["a/b", "try:"]),
        (&["--name", "s", "--wait", "-1"], &["-1"]),
        (&["--name", "s", "--wait", "soon"], &["soon"]),
        (&["--name", "s", "--wait", "nan"], &["--wait"]),
        (&["--name", "s", "--wait", "0"], &["no such name"]),
        (&["--name", "s", "--wait", "0.1"], &["no such name"]),
        (&["--name", "s", "--wait", "0", "--out", out], &[out, "No such file"]),
        (&["--name", "s", "--wait", "0", "--out", "/"], &["directory"]),
    ];
    for (arguments, saying) in cases {
        stage.reader(arguments).fails(saying);
    }
}

#[test]
fn a_mount_of_another_page_size_is_refused() {
    let stage = Stage::new();
    let Some(mount) = PrivateMount::hugetlbfs(hugeshm::PageSize::SIZE_1G, None) else { return };
    let path = mount.path();
    let path = path.to_str().unwrap();
    let writer = stage.writer(&["--name", "s", "--pages", "2M", "--mount", path, "/dev/null"]);
    writer.fails(&[path]);
    stage.assert_clean();
}

#[test]
fn a_second_writer_is_refused_while_the_first_lives() {
    let stage = Stage::new();
    let stream = Stream::new(20 << 20);
    let input = stage.stream_file("in", stream);
    let arguments = with(&["--size", "1M", input.to_str().unwrap()]);
    let mut first = stage.writer(&arguments);
    first.until_it_says(", node ");
    let pid = format!("pid {}", first.pid());
    stage.writer(&arguments).fails(&[&pid, "another writer", "\"s\""]);
    let (reader, sum) = stage.hashed_reader(&["--name", "s"]);
    reader.ends_well();
    first.ends_well();
    assert_eq!(sum.join().expect("hashed"), stream.sum());
}

#[test]
fn of_many_writers_at_once_one_wins_and_the_others_are_told() {
    let stage = Stage::new();
    let input = stage.stream_file("in", Stream::new(1000));
    let stream = Stream::new(3 << 20);
    let large = stage.stream_file("large", stream);
    for round in 0..10 {
        if round % 2 == 1 {
            // Something to clear away first: they must not remove each other's segment.
            stage.writer(&with(&["--size", "1M", input.to_str().unwrap()])).ends_well();
        }
        let arguments = with(&["--size", "1M", large.to_str().unwrap()]);
        let writers: Vec<_> = (0..8).map(|_| stage.writer(&arguments)).collect();
        let mut running = Vec::new();
        for writer in writers {
            // The winner has a stream larger than the segment, so it stays.
            let start = std::time::Instant::now();
            let said = loop {
                let said = writer.words();
                if said.contains("taken") || said.contains("another writer") {
                    writer.fails(&["shm_writer:"]);
                    break None;
                }
                if said.contains(", node ") && start.elapsed().as_millis() > 300 {
                    break Some(writer);
                }
                assert!(start.elapsed().as_secs() < 30, "it hangs: {said}");
                std::thread::sleep(std::time::Duration::from_millis(1));
            };
            running.extend(said);
        }
        assert_eq!(running.len(), 1, "one and only one wins");
        let (reader, sum) = stage.hashed_reader(&["--name", "s"]);
        reader.ends_well();
        running.pop().unwrap().ends_well();
        assert_eq!(sum.join().expect("hashed"), stream.sum());
        stage.assert_clean();
    }
}

#[test]
fn a_second_reader_waits_its_turn_and_then_says_who_is_there() {
    let stage = Stage::new();
    let mut writer = stage.fed_writer(&with(&[]), |pipe| {
        let _ = pipe.write_all(b"first");
        std::thread::sleep(std::time::Duration::from_millis(2500));
    });
    writer.until_it_says(", node ");
    let (mut first, sum) = stage.hashed_reader(&["--name", "s"]);
    first.until_it_says(", node ");
    let pid = format!("pid {}", first.pid());
    stage.reader(&["--name", "s", "--wait", "0.2"]).fails(&[&pid]);
    writer.ends_well();
    first.ends_well();
    assert_eq!(sum.join().expect("hashed").length, 5);
}

#[test]
fn an_output_that_fails_is_an_error_and_the_next_reader_goes_on() {
    let stage = Stage::new();
    let stream = Stream::new(3 << 20);
    let input = stage.stream_file("in", stream);
    let arguments = with(&["--size", "1M", "--record", "8K", input.to_str().unwrap()]);
    let writer = stage.writer(&arguments);
    stage.reader(&["--name", "s", "--out", "/dev/full"]).fails(&["write:", "No space left"]);
    let full = File::options().write(true).open("/dev/full").expect("/dev/full");
    stage.reader_into(&["--name", "s"], full.into()).fails(&["write:", "No space left"]);
    // A pipe whose reading end is closed.
    let (reading, writing) = std::io::pipe().expect("a pipe");
    drop(reading);
    stage.reader_into(&["--name", "s"], Stdio::from(writing)).fails(&["write:", "Broken pipe"]);
    let out = stage.file("out");
    stage.reader(&["--name", "s", "--out", out.to_str().unwrap()]).ends_well();
    writer.ends_well();
    assert_eq!(Sum::of_file(&out), stream.sum());
}

#[test]
fn a_full_disk_keeps_the_rest_for_the_next_reader() {
    let stage = Stage::new();
    let Some(mount) = PrivateMount::tmpfs("size=512k") else { return };
    let stream = Stream::new(3 << 20);
    let input = stage.stream_file("in", stream);
    let writer = stage.writer(&with(&["--size", "1M", input.to_str().unwrap()]));
    let small = mount.path().join("out");
    stage.reader(&["--name", "s", "--out", small.to_str().unwrap()]).fails(&["No space left"]);
    // The file is moved to where there is room, and the reader goes on with it there.
    let out = stage.file("out");
    std::fs::copy(&small, &out).expect("there is room");
    std::fs::remove_file(&small).expect("our file");
    let reader = stage.reader(&["--name", "s", "--out", out.to_str().unwrap()]);
    assert!(reader.ends_well().contains("going on at byte"));
    writer.ends_well();
    assert_eq!(Sum::of_file(&out), stream.sum());
}

#[test]
fn a_file_that_is_not_the_one_written_before_is_refused() {
    let stage = Stage::new();
    let stream = Stream::new(3 << 20);
    let input = stage.stream_file("in", stream);
    let writer = stage.writer(&with(&["--size", "1M", input.to_str().unwrap()]));
    let first = stage.file("first");
    let mut reader = stage.reader(&["--name", "s", "--out", first.to_str().unwrap()]);
    reader.until_it_says(", node ");
    while std::fs::metadata(&first).map_or(0, |facts| facts.len()) == 0 {}
    reader.kill();
    // It may have got to the end, or not a single release far: then there is nothing to refuse.
    let domain = stage.scratch.domain();
    let begun = domain.inspect("s").is_ok_and(|info| {
        let ends = info.objects.iter().flat_map(|object| &object.endpoints);
        let delivered = |end: &hugeshm::EndpointInfo| end.role == hugeshm::Role::Consumer;
        ends.into_iter().any(|end| delivered(end) && end.stats.messages > 0)
    });
    if begun {
        let other = stage.file("other");
        let reader = stage.reader(&["--name", "s", "--out", other.to_str().unwrap()]);
        reader.fails(&["goes on at byte", "has only 0"]);
    } else {
        skip("the reader was killed too early or too late");
    }
    if domain.inspect("s").is_ok() {
        stage.reader(&["--name", "s", "--out", first.to_str().unwrap()]).ends_well();
    }
    writer.ends_well();
    assert_eq!(Sum::of_file(&first), stream.sum());
}

#[test]
fn an_input_that_fails_ends_the_stream_with_an_error_on_both_sides() {
    let stage = Stage::new();
    // Reading one's own memory at address 0 fails with EIO.
    let reader = stage.reader(&["--name", "s"]);
    stage.writer(&with(&["/proc/self/mem"])).fails(&["read:"]);
    reader.fails(&["stopped without ending the stream", "nothing"]);
    stage.assert_clean();
}

#[test]
fn a_segment_of_something_else_is_left_alone_by_both() {
    let stage = Stage::new();
    let domain = stage.scratch.domain();
    let segment = domain.create("s").ring::<u64>("numbers", 16).build().expect("a segment");
    stage.writer(&with(&["/dev/null"])).fails(&["something else"]);
    stage.reader(&["--name", "s", "--wait", "1"]).fails(&["stream", "numbers"]);
    assert!(!segment.is_superseded());
    segment.unlink_on_drop(true);
}

#[test]
fn a_removed_segment_ends_its_reader_with_an_error() {
    let stage = Stage::new();
    let mut writer = stage.fed_writer(&with(&[]), |pipe| {
        let _ = pipe.write_all(b"some bytes");
        std::thread::sleep(std::time::Duration::from_secs(2));
    });
    writer.until_it_says(", node ");
    let out = stage.file("out");
    let mut reader = stage.reader(&["--name", "s", "--out", out.to_str().unwrap()]);
    reader.until_it_says(", node ");
    while std::fs::metadata(&out).map_or(0, |facts| facts.len()) < 10 {}
    stage.scratch.domain().remove("s").expect("it is there");
    reader.fails(&["removed before the stream ended", "up to byte 10"]);
    drop(writer);
    let _ = Carrier::base();
}

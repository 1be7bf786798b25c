//! Whole streams: what the reader writes is what the writer read.

use crate::common::machine::pages;
use crate::support::{Carrier, Stage, Stream, Sum};
use std::time::Instant;

/// A prime number of bytes.
const PRIME: u64 = 1_299_709;

/// FILE to `--out`, the reader first.
fn file_to_file(stage: &Stage, carrier: &Carrier, stream: Stream, record: &str) {
    let (input, out) = (stage.stream_file("in", stream), stage.file("out"));
    let _ = std::fs::remove_file(&out);
    let (input, out) = (input.to_str().unwrap(), out.to_str().unwrap());
    let reader = stage.reader(&["--name", "s", "--out", out]);
    let writer = stage.writer(&carrier.arguments("s", "4M", &["--record", record, input]));
    let said = writer.ends_well();
    assert!(said.contains(&format!("wrote {} bytes", stream.length)), "{said}");
    let said = reader.ends_well();
    assert!(said.contains(&format!("read {} bytes", stream.length)), "{said}");
    assert_eq!(Sum::of_file(out.as_ref()), stream.sum(), "{} {record}", carrier.what);
    stage.assert_clean();
}

/// Standard input to standard output, the writer first.
fn pipe_to_pipe(stage: &Stage, carrier: &Carrier, stream: Stream, size: &str) {
    let start = Instant::now();
    let arguments = carrier.arguments("s", size, &[]);
    let mut writer = stage.fed_writer(&arguments, move |pipe| stream.write_to(pipe));
    writer.until_it_says(", node ");
    let (reader, sum) = stage.hashed_reader(&["--name", "s"]);
    writer.ends_well();
    reader.ends_well();
    let seconds = start.elapsed().as_secs_f64();
    assert_eq!(sum.join().expect("hashed"), stream.sum(), "{}", carrier.what);
    let gib = stream.length as f64 / f64::from(1 << 30);
    eprintln!("{}: {gib:.2} GiB in {seconds:.2} s, {:.2} GiB/s", carrier.what, gib / seconds);
    stage.assert_clean();
}

#[test]
fn streams_of_any_length_arrive_over_every_backing() {
    let stage = Stage::new();
    Carrier::each(16, |carrier| {
        for length in [0, 1, PRIME] {
            file_to_file(&stage, carrier, Stream::new(length), "64K");
            pipe_to_pipe(&stage, carrier, Stream::new(length), "4M");
        }
    });
}

#[test]
fn streams_arrive_in_records_of_any_length() {
    let stage = Stage::new();
    let mut carriers = vec![Carrier::base()];
    carriers.extend(Carrier::hugetlbfs_2m(16));
    for carrier in &carriers {
        file_to_file(&stage, carrier, Stream::new(70_001), "1");
        file_to_file(&stage, carrier, Stream::new(PRIME), "100");
        file_to_file(&stage, carrier, Stream::new(PRIME), "64K");
        file_to_file(&stage, carrier, Stream::new(20 * PRIME), "1M");
    }
}

#[test]
fn a_stream_may_be_much_larger_than_its_segment() {
    let stage = Stage::new();
    let _pages = pages(crate::common::M2, 4);
    pipe_to_pipe(&stage, &Carrier::base(), Stream::new(300 << 20), "4M");
    if let Some(carrier) = Carrier::hugetlbfs_2m(4) {
        pipe_to_pipe(&stage, &carrier, Stream::new(300 << 20), "4M");
    }
}

#[test]
fn a_writer_may_be_gone_before_its_reader_comes() {
    let stage = Stage::new();
    Carrier::each(16, |carrier| {
        if !carrier.persistent {
            return;
        }
        for length in [0, PRIME] {
            let stream = Stream::new(length);
            let input = stage.stream_file("in", stream);
            let out = stage.file("out");
            let arguments = carrier.arguments("s", "4M", &[input.to_str().unwrap()]);
            stage.writer(&arguments).ends_well();
            stage.reader(&["--name", "s", "--out", out.to_str().unwrap()]).ends_well();
            assert_eq!(Sum::of_file(&out), stream.sum());
            stage.assert_clean();
        }
    });
}

#[test]
fn a_memfd_writer_waits_for_its_reader_and_says_so() {
    let stage = Stage::new();
    let stream = Stream::new(PRIME);
    let input = stage.stream_file("in", stream);
    let arguments = ["--name", "s", "--size", "4M", "--pages", "base", "--backing", "memfd"];
    let mut writer = stage.writer(&[&arguments[..], &[input.to_str().unwrap()]].concat());
    writer.until_it_says("waiting for a reader");
    let (reader, sum) = stage.hashed_reader(&["--name", "s"]);
    reader.ends_well();
    writer.ends_well();
    assert_eq!(sum.join().expect("hashed"), stream.sum());
}

#[test]
fn an_existing_output_file_is_replaced_and_page_truth_is_told_by_both() {
    let stage = Stage::new();
    let stream = Stream::new(1000);
    let (input, out) = (stage.stream_file("in", stream), stage.file("out"));
    std::fs::write(&out, vec![7; 5000]).expect("our folder");
    let carrier = Carrier::base();
    let writer = stage.writer(&carrier.arguments("s", "4M", &[input.to_str().unwrap()]));
    let reader = stage.reader(&["--name", "s", "--out", out.to_str().unwrap()]);
    for said in [writer.ends_well(), reader.ends_well()] {
        assert!(said.contains("4 MiB on ") && said.contains("GiB/s"), "{said}");
    }
    assert_eq!(Sum::of_file(&out), stream.sum());
}

#[test]
fn streams_of_4_gib_arrive_over_every_backing() {
    if std::env::var_os("HUGESHM_LONG").is_none_or(|value| value != "1") {
        return crate::common::skip("HUGESHM_LONG=1 turns streams of 4 GiB on");
    }
    let stage = Stage::new();
    Carrier::each(40, |carrier| {
        pipe_to_pipe(&stage, carrier, Stream::new((4 << 30) + 4099), "64M");
    });
}

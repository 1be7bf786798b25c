//! Runs one call many times on one thread, so that its instructions can be counted.
//!
//! `instructions CALL COUNT` under `valgrind --tool=callgrind`; the difference of two counts,
//! divided by the difference of their numbers, is what one call costs:
//! `.ci/instructions.sh` does that for all of them.

use hugeshm::{PagePolicy, Rung, Segment};
use std::error::Error;
use std::hint::black_box;

const CALLS: [&str; 8] = [
    "typed-8-push",
    "typed-8-both",
    "typed-64-both",
    "typed-8-batch-32",
    "record-8-push",
    "record-8-both",
    "record-64-both",
    "record-reserve-commit-read-release",
];

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let call = arguments.next().unwrap_or_default();
    if !CALLS.contains(&call.as_str()) {
        println!("{}", CALLS.join("\n"));
        return Ok(());
    }
    let count: u64 = arguments.next().ok_or("how often?")?.parse()?;
    let segment = Segment::replace(&format!("instructions-{}", std::process::id()))
        .unlink_on_drop(true)
        .pages(PagePolicy::exactly(Rung::Base))
        .ring::<u64>("small", 65_536)
        .ring::<[u64; 8]>("line", 1024)
        .records("records", 2 << 20)
        .build()?;
    let (mut sender, mut receiver) =
        (segment.producer::<u64>("small")?, segment.consumer::<u64>("small")?);
    let mut line = (segment.producer::<[u64; 8]>("line")?, segment.consumer::<[u64; 8]>("line")?);
    let mut records = (segment.record_producer("records")?, segment.record_consumer("records")?);
    let mut bytes = [7_u8; 64];
    let mut messages = Vec::with_capacity(32);
    match call.as_str() {
        "typed-8-push" => repeat(count, || Ok(sender.push(black_box(7))?)),
        "typed-8-both" => repeat(count, || {
            sender.push(black_box(7))?;
            black_box(receiver.recv()?);
            Ok(())
        }),
        "typed-64-both" => repeat(count, || {
            line.0.push(black_box([7; 8]))?;
            black_box(line.1.recv()?);
            Ok(())
        }),
        "typed-8-batch-32" => repeat(count, || {
            sender.push_batch(black_box(&[7; 32]))?;
            messages.clear();
            receiver.recv_batch(&mut messages, 32)?;
            Ok(())
        }),
        "record-8-push" => repeat(count, || Ok(records.0.push(black_box(&bytes[..8]))?)),
        "record-8-both" | "record-64-both" => {
            let len = if call == "record-8-both" { 8 } else { 64 };
            repeat(count, || {
                records.0.push(black_box(&bytes[..len]))?;
                let record = records.1.read()?;
                record.copy_to(&mut bytes[..len]);
                record.release();
                Ok(())
            })
        }
        _ => repeat(count, || {
            records.0.reserve(black_box(64))?.commit();
            records.1.read()?.release();
            Ok(())
        }),
    }
}

#[inline]
fn repeat(
    count: u64,
    mut call: impl FnMut() -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    (0..count).try_for_each(|_| call())
}

//! What a call costs one thread, with both ends of a ring in its hands.
//!
//! No line moves between processors here: this is the price of the instructions.
//! `cargo bench --bench micro`; how fast the rings are between processes says
//! `cargo bench --bench ipc`.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hugeshm::{Consumer, PagePolicy, Producer, Rung, Segment};
use std::hint::black_box;

const BATCH: usize = 32;

fn segment() -> Segment {
    let name = format!("micro-{}", std::process::id());
    Segment::replace(&name)
        .unlink_on_drop(true)
        .pages(PagePolicy::exactly(Rung::Base))
        .ring::<u64>("small", 1024)
        .ring::<[u64; 8]>("line", 1024)
        .records("records", 256 << 10)
        .build()
        .expect("base pages for a small segment")
}

fn typed(c: &mut Criterion) {
    let segment = segment();
    let mut group = c.benchmark_group("typed ring");
    let mut small: (Producer<u64>, Consumer<u64>) =
        (segment.producer("small").unwrap(), segment.consumer("small").unwrap());
    group.bench_function("push and receive 8 B", |b| {
        b.iter(|| {
            small.0.push(black_box(7)).unwrap();
            small.1.recv().unwrap()
        });
    });
    let batch = [7_u64; BATCH];
    let mut messages = Vec::with_capacity(BATCH);
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("push and receive 32 x 8 B", |b| {
        b.iter(|| {
            small.0.push_batch(black_box(&batch)).unwrap();
            messages.clear();
            small.1.recv_batch(&mut messages, BATCH).unwrap()
        });
    });
    group.throughput(Throughput::Elements(1));
    let mut line: (Producer<[u64; 8]>, Consumer<[u64; 8]>) =
        (segment.producer("line").unwrap(), segment.consumer("line").unwrap());
    group.bench_function("push and receive 64 B", |b| {
        b.iter(|| {
            line.0.push(black_box([7; 8])).unwrap();
            line.1.recv().unwrap()
        });
    });
    group.bench_function("receive from an empty ring", |b| {
        b.iter(|| small.1.try_recv().unwrap_err());
    });
    group.finish();
}

fn records(c: &mut Criterion) {
    let segment = segment();
    let mut group = c.benchmark_group("record ring");
    let mut sender = segment.record_producer("records").unwrap();
    let mut receiver = segment.record_consumer("records").unwrap();
    for bytes in [8, 64, 1024] {
        let message = vec![7_u8; bytes];
        let mut target = vec![0_u8; bytes];
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(format!("push and read {bytes} B"), |b| {
            b.iter(|| {
                sender.push(black_box(&message)).unwrap();
                let record = receiver.read().unwrap();
                record.copy_to(&mut target);
                record.release();
            });
        });
    }
    group.bench_function("reserve, commit and release, without bytes", |b| {
        b.iter(|| {
            sender.reserve(black_box(64)).unwrap().commit();
            receiver.read().unwrap().release();
        });
    });
    group.bench_function("reserve and abort", |b| {
        b.iter(|| drop(sender.reserve(black_box(64)).unwrap()));
    });
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("a batch of 32 x 8 B, held and released together", |b| {
        b.iter(|| {
            let mut batch = sender.batch();
            for _ in 0..BATCH {
                batch.push(black_box(&[7; 8])).unwrap();
            }
            batch.commit();
            for _ in 0..BATCH {
                receiver.read().unwrap().hold();
            }
            receiver.release_held()
        });
    });
    group.finish();
}

criterion_group!(benches, typed, records);
criterion_main!(benches);

//! What a ring carries: types and their versions, raw bytes, records of any length.

use crate::common::child::{hear, say};
use crate::common::{Quiet, Scratch, refused};
use crate::{Stage, in_time, opened};
use hugeshm::{ErrorKind, RecordRing, RecvError, Schema, SendError, TypeIdentity, TypedRing};
use std::io::{Read, Seek};

#[test]
fn another_type_than_agreed_is_refused_and_says_both() {
    let stage = Stage::new();
    let quote = TypeIdentity::new("quote", 2, 1);
    let ring = TypedRing::<[u64; 3]>::new(8).identity(quote.clone());
    let segment = stage.segment(|builder| builder.ring_of("q", ring).ring::<u32>("plain", 8));
    let wrong = ErrorKind::TypeMismatch;
    // Size, alignment, name, major version, for both ends.
    for error in [
        refused(segment.producer_as::<[u64; 2]>("q", &quote), wrong, "q"),
        refused(segment.producer_as::<[u32; 6]>("q", &quote), wrong, "q"),
        refused(segment.producer_as::<[u64; 4]>("q", &quote), wrong, "q"),
        refused(segment.consumer_as::<[u64; 4]>("q", &quote), wrong, "q"),
        refused(segment.producer::<[u64; 3]>("q"), wrong, "q"),
        refused(segment.consumer::<[u64; 3]>("q"), wrong, "q"),
        refused(
            segment.consumer_as::<[u64; 3]>("q", &TypeIdentity::new("trade", 2, 1)),
            wrong,
            "q",
        ),
        refused(
            segment.consumer_as::<[u64; 3]>("q", &TypeIdentity::new("quote", 3, 1)),
            wrong,
            "q",
        ),
        refused(
            segment.producer_as::<[u64; 3]>("q", &TypeIdentity::new("quote", 1, 1)),
            wrong,
            "q",
        ),
    ] {
        assert!(error.to_string().contains("quote"), "{error}");
    }
    // Unnamed types have no prefix, and agree in size and alignment.
    for error in [
        refused(segment.consumer::<u16>("plain"), wrong, "plain"),
        refused(segment.consumer::<[u8; 4]>("plain"), wrong, "plain"),
        refused(segment.producer::<u64>("plain"), wrong, "plain"),
        refused(segment.producer_as::<u32>("plain", &quote), wrong, "plain"),
    ] {
        assert!(error.to_string().contains("4 bytes"), "{error}");
    }
    refused(segment.record_consumer("plain"), ErrorKind::KindMismatch, "plain");
    refused(segment.record_producer("q"), ErrorKind::KindMismatch, "q");
    let error = refused(segment.consumer::<u32>("none"), ErrorKind::NotFound, "none");
    assert!(error.to_string().contains("plain"), "it lists what there is: {error}");
    // Nothing of this kept an end.
    segment.producer_as::<[u64; 3]>("q", &quote).expect("free");
    segment.producer::<u32>("plain").expect("free");
}

#[test]
fn an_older_reader_reads_the_prefix_of_a_named_type() {
    let stage = Stage::new();
    let quote = TypeIdentity::new("quote", 2, 7);
    let ring = TypedRing::<[u64; 3]>::new(4).identity(quote.clone());
    let segment = stage.segment(|builder| builder.ring_of("q", ring));
    let mut producer = segment.producer_as::<[u64; 3]>("q", &quote).expect("free");
    let older = TypeIdentity::new("quote", 2, 0);
    for number in 0..30 {
        producer.push([number, number + 1, number + 2]).expect("room");
        if number % 2 == 0 {
            let mut consumer = segment.consumer_as::<[u64; 2]>("q", &older).expect("a prefix");
            assert_eq!(consumer.recv(), Ok([number, number + 1]));
        } else {
            let mut consumer = segment.consumer_as::<[u64; 3]>("q", &quote).expect("all");
            assert_eq!(consumer.recv(), Ok([number, number + 1, number + 2]));
        }
    }
}

#[test]
fn a_bad_bit_pattern_is_an_error_with_its_position_and_the_next_is_received() {
    let stage = Stage::new();
    let segment = stage.segment(|builder| builder.ring::<u8>("bytes", 4));
    let mut producer = segment.producer::<u8>("bytes").expect("free");
    let mut consumer = segment.consumer::<bool>("bytes").expect("same size and alignment");
    for byte in [1, 9, 0] {
        producer.push(byte).expect("room");
    }
    assert_eq!(consumer.recv(), Ok(true));
    assert_eq!(consumer.recv(), Err(RecvError::InvalidValue { position: 1 }));
    assert_eq!(consumer.recv(), Ok(false));
}

#[test]
fn raw_ends_meet_typed_ends() {
    let stage = Stage::new();
    let ring = TypedRing::<[u32; 3]>::new(4).identity(TypeIdentity::new("t", 1, 0));
    let ring = ring.schema(Schema::new(1, *b"three numbers"));
    let segment = stage.segment(|builder| builder.ring_of("t", ring));
    let identity = TypeIdentity::new("t", 1, 0);
    {
        let mut producer = segment.raw_producer("t").expect("free");
        let mut consumer = segment.consumer_as::<[u32; 3]>("t", &identity).expect("free");
        assert_eq!((producer.size(), producer.capacity()), (12, 4));
        for bytes in [&[][..], &[0; 11], &[0; 13]] {
            let wrong = SendError::WrongSize { len: bytes.len(), size: 12 };
            assert_eq!(producer.try_push(bytes), Err(wrong));
        }
        producer.push(bytemuck::bytes_of(&[1u32, 2, 3])).expect("room");
        assert_eq!(consumer.recv(), Ok([1, 2, 3]));
        assert_eq!(producer.push_batch(bytemuck::bytes_of(&[7u32; 9])), Ok(3));
        for _ in 0..3 {
            assert_eq!(consumer.recv(), Ok([7; 3]));
        }
    }
    let mut producer = segment.producer_as::<[u32; 3]>("t", &identity).expect("free");
    let mut consumer = segment.raw_consumer("t").expect("free");
    producer.push([4, 5, 6]).expect("room");
    let mut short = [0; 4];
    assert_eq!(consumer.try_recv(&mut short), Err(RecvError::WrongSize { len: 4, size: 12 }));
    let mut bytes = [0; 12];
    consumer.recv(&mut bytes).expect("one is there");
    assert_eq!(bytes, bytemuck::cast::<[u32; 3], [u8; 12]>([4, 5, 6]));
    assert_eq!((producer.position(), consumer.position()), (5, 5));
}

/// A process that was attached before an object was there.
fn late() {
    let segment = opened();
    refused(segment.consumer::<u64>("late"), ErrorKind::NotFound, "late");
    say("ready");
    hear();
    let mut numbers = segment.consumer::<u64>("late").expect("it was added");
    let mut texts = segment.record_producer("late.texts").expect("it was added");
    for _ in 0..100 {
        let number = numbers.recv().expect("the parent sends");
        texts.push(number.to_string().as_bytes()).expect("the parent reads");
    }
    hear();
}

#[test]
fn an_object_added_to_a_live_segment_is_used_by_those_who_were_there() {
    let stage = Stage::new();
    let segment = stage.segment(|builder| builder.ring::<u64>("first", 4).spare(64 << 10));
    let mut child = stage.child("kinds::late", &[]);
    child.says();
    segment.add_ring("late", TypedRing::<u64>::new(8)).expect("there is room");
    segment.add_records("late.texts", RecordRing::new(1024)).expect("there is room");
    let again = segment.add_ring("late", TypedRing::<u64>::new(8));
    refused(again, ErrorKind::AlreadyExists, "late");
    let huge = segment.add_ring("huge", TypedRing::<u64>::new(1 << 30));
    refused(huge, ErrorKind::NoSpace, "huge");
    let mut numbers = segment.producer::<u64>("late").expect("free");
    let mut texts = segment.record_consumer("late.texts").expect("free");
    child.tell("go");
    let mut text = Vec::new();
    for number in 0..100 {
        in_time(|| numbers.push(number)).expect("it reads");
        in_time(|| texts.recv(&mut text)).expect("it answers");
        assert_eq!(text, number.to_string().into_bytes());
    }
    child.end_well();
}

#[test]
fn a_message_that_never_fits_says_what_would() {
    let stage = Stage::new();
    let segment = stage.segment(|builder| builder.ring::<u64>("ring", 4).records("records", 1024));
    let mut producer = segment.producer::<u64>("ring").expect("free");
    assert_eq!(producer.push_all(&[1; 5]), Err(SendError::TooLarge { len: 5, max: 4 }));
    assert_eq!(producer.push_all(&[1; 4]), Ok(()));
    let mut records = segment.record_producer("records").expect("free");
    let max = records.len_max();
    for len in [max + 1, 4096, usize::MAX] {
        let wrong = Some(SendError::TooLarge { len, max });
        assert_eq!(records.try_reserve(len).err(), wrong);
        assert_eq!(in_time(|| records.reserve(len).err()), wrong);
        assert_eq!(records.batch().reserve(len).err(), wrong);
    }
    assert_eq!(records.push(&vec![1; max + 1]), Err(SendError::TooLarge { len: max + 1, max }));
    // The longest fits wherever the position is.
    let mut consumer = segment.record_consumer("records").expect("free");
    for step in 0..200 {
        records.push(&vec![step as u8; max]).expect("an empty ring");
        let record = consumer.read().expect("just sent");
        assert_eq!(record.to_vec(), vec![step as u8; max]);
        record.release();
        records.push(&vec![0; step % 40]).expect("an empty ring");
        consumer.read().expect("just sent").release();
    }
}

#[test]
fn records_go_to_and_come_from_descriptors_and_have_a_checksum() {
    let stage = Stage::new();
    let segment = stage.segment(|builder| builder.records("records", 1 << 20));
    let mut producer = segment.record_producer("records").expect("free");
    let mut consumer = segment.record_consumer("records").expect("free");
    let bytes: Vec<u8> = (0..300_000u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
    std::fs::write(stage.scratch.path().join("in"), &bytes).expect("our folder");
    let input = std::fs::File::open(stage.scratch.path().join("in")).expect("just made");
    std::fs::remove_file(stage.scratch.path().join("in")).expect("just made");

    // One read of a file; what is behind its end is not part of the record.
    let mut reservation = producer.reserve(400_000).expect("room");
    while reservation.read_from(&input).expect("readable") > 0 {}
    assert_eq!(reservation.written(), bytes.len());
    reservation.commit_written();
    let record = consumer.read().expect("one is there");
    let mut file = tempfile::tempfile().expect("a temporary file");
    record.write_to(&file).expect("there is room");
    file.rewind().expect("a file");
    let mut copy = Vec::new();
    file.read_to_end(&mut copy).expect("readable");
    assert!(copy == bytes);

    // A pipe that is shorter than the record, read by another thread.
    let (mut reading, writing) = std::io::pipe().expect("a pipe");
    let reader = std::thread::spawn(move || {
        let mut copy = Vec::new();
        reading.read_to_end(&mut copy).map(|_| copy)
    });
    record.write_to(&writing).expect("somebody reads");
    drop(writing);
    assert!(reader.join().expect("no panic").expect("readable") == bytes);

    let fnv = |bytes: &[u8]| {
        bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
            (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        })
    };
    assert_eq!(record.checksum(), fnv(&bytes));
    let mut total = 0;
    record.for_each_chunk(|piece| total += piece.len());
    assert_eq!(total, bytes.len());
    record.release();

    // What cannot be written is an error, and the record stays.
    producer.push(b"stays").expect("room");
    let full = std::fs::File::options().write(true).open("/dev/full").expect("/dev/full");
    let record = consumer.read().expect("one is there");
    let error = record.write_to(&full).expect_err("it is full");
    assert_eq!(error.raw_os_error(), Some(nix::libc::ENOSPC));
    assert_eq!(consumer.read().expect("still there").to_vec(), b"stays");
    // A failed read commits nothing.
    let folder = std::fs::File::open("/").expect("there is one");
    let mut reservation = producer.reserve(100).expect("room");
    let error = reservation.read_from(&folder).expect_err("a folder has no bytes");
    assert_eq!(error.raw_os_error(), Some(nix::libc::EISDIR));
    drop(reservation);
    assert_eq!(consumer.lag(), 1);
}

/// The roles of this file.
pub fn play(role: &str) -> bool {
    match role {
        "kinds::late" => late(),
        _ => return false,
    }
    true
}

#[test]
fn a_schema_is_read_as_it_was_declared() {
    let quiet = Quiet::begin();
    let scratch = Scratch::new();
    let d = scratch.domain();
    let schema = Schema::new(7, &b"u64 price; u64 size"[..]);
    let segment = d
        .create("schema")
        .ring_of("with", TypedRing::<u64>::new(4).schema(schema.clone()))
        .records("without", 4096)
        .build()
        .unwrap();
    let reader = d.open_read_only("schema").unwrap();
    assert_eq!(reader.schema("with").unwrap(), Some(schema));
    assert_eq!(reader.schema("without").unwrap(), None);
    assert!(reader.schema("absent").is_err());
    assert_eq!(reader.objects()[0].schema_bytes, 19);
    drop((segment, reader));
    d.remove("schema").unwrap();
    drop(quiet);
}

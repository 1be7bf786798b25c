//! Objects in a segment: declared badly, asked for wrongly, added to a live segment, claimed twice,
//! left by the dead, on every kind of page.

use crate::backings::Case;
use crate::common::child::{self, Child};
use crate::common::machine::{PrivateMount, pages};
use crate::common::{M2, Quiet, Scratch, domain, refused};
use hugeshm::{
    BackingKind, Domain, ErrorKind, ObjectKind, PagePolicy, PeerState, RecordRing, RecvError, Role,
    Rung, Schema, Segment, SegmentBuilder, SendError, TypeIdentity, TypedRing,
};
use std::path::Path;
use std::time::Duration;

fn small(builder: SegmentBuilder) -> SegmentBuilder {
    builder.pages(PagePolicy::exactly(Rung::Base)).backing(BackingKind::Tmpfs)
}

fn again(d: &Domain) -> SegmentBuilder {
    small(Segment::open_or_create("n").domain(d.clone()))
}

#[test]
fn objects_that_cannot_be_are_refused_before_anything_is_taken() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let d = scratch.domain();
    let new = || small(d.create("n"));
    let capacity = ErrorKind::InvalidCapacity;
    for slots in [0, u64::MAX, u64::MAX / 8, 1 << 62] {
        refused(new().ring::<u64>("o", slots).build(), capacity, "o");
    }
    for bytes in [0, u64::MAX, u64::MAX - 7, 1 << 63] {
        refused(new().records("o", bytes).build(), capacity, "o");
        let ring = RecordRing::for_records_of(bytes.max(1 << 62));
        refused(new().records_of("o", ring).build(), capacity, "o");
    }
    for align in [0, 1, 3, 24, 8192, u64::MAX] {
        let ring = RecordRing::new(1 << 16).payload_align(align);
        assert!(new().records_of("o", ring).build().is_err(), "alignment {align}");
    }
    for header in [1, 7, 4104, u64::MAX] {
        let ring = RecordRing::new(1 << 16).user_header(header);
        assert!(new().records_of("o", ring).build().is_err(), "user header {header}");
    }
    for name in ["", ".o", "a/b", "a b", &"o".repeat(101)] {
        refused(new().ring::<u64>(name, 8).build(), ErrorKind::InvalidName, "");
    }
    for name in ["ä", "a\nb", &"t".repeat(121)] {
        let ring = TypedRing::<u64>::new(8).identity(TypeIdentity::new(name, 1, 0));
        assert_eq!(new().ring_of("o", ring).build().unwrap_err().kind(), ErrorKind::InvalidName);
    }
    let twice = new().ring::<u64>("o", 8).records("o", 4096);
    assert_eq!(twice.build().unwrap_err().kind(), ErrorKind::AlreadyExists);
    // Larger than asked for, or than any machine.
    refused(new().size(1 << 20).records("o", 2 << 20).build(), ErrorKind::InvalidSize, "n");
    let huge = new().ring::<u64>("a", 1 << 40).build();
    assert!(matches!(huge.unwrap_err().kind(), ErrorKind::OutOfPages | ErrorKind::InvalidSize));
    let many = (0..3).fold(new().max_objects(2), |b, n| b.ring::<u64>(&format!("o{n}"), 8));
    refused(many.build(), ErrorKind::InvalidArgument, "n");
    assert_eq!(scratch.files(), [""; 0]);
}

#[test]
fn objects_of_another_kind_type_or_size_are_told_apart() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let d = scratch.domain();
    let tick = |minor| TypeIdentity::new("tick", 1, minor);
    let segment = small(d.create("n"))
        .ring::<u64>("plain", 8)
        .ring_of("named", TypedRing::<[u64; 4]>::new(8).identity(tick(3)))
        .records("records", 1 << 16)
        .build()
        .expect("created");
    let named = |error: hugeshm::Error, kind, object: &str| {
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(object), "{error}");
    };
    let (kind, mismatch) = (ErrorKind::KindMismatch, ErrorKind::TypeMismatch);
    named(segment.producer::<u64>("records").unwrap_err(), kind, "records");
    named(segment.record_producer("plain").unwrap_err(), kind, "plain");
    named(segment.record_consumer("named").unwrap_err(), kind, "named");
    named(segment.producer::<u32>("plain").unwrap_err(), mismatch, "plain");
    named(segment.consumer::<[u64; 2]>("plain").unwrap_err(), mismatch, "plain");
    named(segment.consumer::<[u32; 2]>("plain").unwrap_err(), mismatch, "plain");
    named(segment.producer_as::<u64>("plain", &tick(0)).unwrap_err(), mismatch, "plain");
    named(segment.producer::<[u64; 4]>("named").unwrap_err(), mismatch, "named");
    let other = TypeIdentity::new("tick", 2, 0);
    named(segment.consumer_as::<[u64; 4]>("named", &other).unwrap_err(), mismatch, "named");
    named(segment.consumer_as::<[u64; 5]>("named", &tick(4)).unwrap_err(), mismatch, "named");
    named(segment.producer_as::<[u64; 3]>("named", &tick(3)).unwrap_err(), mismatch, "named");
    // A reader of an older version sees a prefix.
    let mut producer = segment.producer_as::<[u64; 4]>("named", &tick(3)).expect("its type");
    let mut consumer = segment.consumer_as::<[u64; 2]>("named", &tick(0)).expect("a prefix");
    producer.push([1, 2, 3, 4]).expect("room");
    assert_eq!(consumer.recv(), Ok([1, 2]));
    refused(segment.producer::<u64>("none"), ErrorKind::NotFound, "none");
    refused(segment.record_consumer("../x"), ErrorKind::InvalidName, "../x");
    // The same declarations open it, others do not.
    drop(again(&d).ring::<u64>("plain", 8).records("records", 1 << 16).build().expect("the same"));
    refused(again(&d).ring::<u64>("plain", 9).build(), kind, "plain");
    refused(again(&d).ring::<u32>("plain", 8).build(), mismatch, "plain");
    refused(again(&d).records("plain", 1 << 16).build(), kind, "plain");
    assert_eq!(segment.objects().len(), 3, "a refused declaration changed something");
    // What is not there yet is added, as long as there is room.
    refused(again(&d).records("large", 1 << 30).build(), ErrorKind::NoSpace, "large");
    drop((producer, consumer, segment));
    d.remove("n").expect("removed");
}

#[test]
fn records_and_batches_beyond_a_ring_are_errors_and_change_nothing() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let d = scratch.domain();
    let segment =
        small(d.create("n")).records("r", 1 << 12).ring::<u64>("t", 2).build().expect("created");
    let mut producer = segment.record_producer("r").expect("free");
    let mut consumer = segment.record_consumer("r").expect("free");
    for len in [1 << 12, 1 << 20, usize::MAX / 2, usize::MAX] {
        let error = producer.try_reserve(len).err();
        assert!(matches!(error, Some(SendError::TooLarge { .. })), "{len}: {error:?}");
    }
    let error = producer.push(&[0; 1 << 13]);
    assert!(matches!(error, Err(SendError::TooLarge { .. })), "{error:?}");
    producer.push(b"fits").expect("room");
    assert_eq!(consumer.read().expect("it came").to_vec(), b"fits");
    let mut typed = segment.producer::<u64>("t").expect("free");
    assert_eq!((typed.try_push(1), typed.try_push(2)), (Ok(()), Ok(())));
    assert_eq!(typed.try_push(3), Err(SendError::Full));
    let timeout = Duration::from_millis(20);
    assert_eq!(typed.push_timeout(3, timeout), Err(SendError::TimedOut));
    let mut raw = segment.raw_consumer("t").expect("free");
    let mut short = [0; 4];
    assert!(matches!(raw.try_recv(&mut short), Err(RecvError::WrongSize { .. })));
    drop((producer, consumer, typed, raw, segment));
    d.remove("n").expect("removed");
}

#[test]
fn tables_that_are_full_say_so_and_places_come_back() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let d = scratch.domain();
    let segment = small(d.create("n")).max_objects(2).max_attachments(2).spare(1 << 16).build();
    let segment = segment.expect("created");
    segment.add_ring("a", TypedRing::<u64>::new(4)).expect("room");
    segment.add_ring("b", TypedRing::<u64>::new(4)).expect("room");
    refused(segment.add_ring("c", TypedRing::<u64>::new(4)), ErrorKind::TableFull, "c");
    let exists = segment.add_ring("a", TypedRing::<u64>::new(4)).unwrap_err();
    assert_eq!(exists.kind(), ErrorKind::AlreadyExists, "{exists}");
    for round in 0..5 {
        let second = d.open("n").expect("a place for two");
        let before = crate::common::descriptors();
        refused(d.open("n"), ErrorKind::TableFull, "n");
        assert_eq!(crate::common::descriptors(), before, "round {round}");
        drop(d.open_read_only("n").expect("readers take no place"));
        drop(second);
    }
    let reader = d.open_read_only("n").expect("opened");
    let read_only = ErrorKind::ReadOnly;
    assert_eq!(reader.producer::<u64>("a").unwrap_err().kind(), read_only);
    assert_eq!(reader.consumer::<u64>("a").unwrap_err().kind(), read_only);
    let added = reader.add_ring("c", TypedRing::<u64>::new(4)).unwrap_err();
    assert_eq!(added.kind(), read_only);
    drop((reader, segment));
    d.remove("n").expect("removed");
}

/// A case for each kind of object that this machine has, and what it needs while it is used.
fn each_case(mut work: impl FnMut(&Case)) {
    work(&Case::new(Rung::Base, BackingKind::Tmpfs, 64));
    work(&Case::new(Rung::Base, BackingKind::Memfd, 64));
    work(&Case::new(Rung::Thp, BackingKind::Tmpfs, 1024));
    let (Some(_pages), Some(mount)) = (pages(M2, 4), PrivateMount::hugetlbfs(M2, None)) else {
        return;
    };
    let mut case = Case::new(Rung::Huge(M2), BackingKind::Hugetlbfs, 2);
    case.mount = Some(mount.path());
    work(&case);
    work(&Case::new(Rung::Huge(M2), BackingKind::Sysv, 2));
    work(&Case::new(Rung::Huge(M2), BackingKind::Memfd, 2));
}

#[test]
fn an_object_added_to_a_live_segment_is_used_by_another_process_until_it_dies() {
    let _quiet = Quiet::begin();
    each_case(|case| {
        let scratch = Scratch::new();
        let d = scratch.domain();
        let segment = case.on(d.create("n")).build().expect("created");
        let folder = scratch.path().display().to_string();
        let mut peer = Child::start("objects::peer", &[&folder]);
        assert_eq!(peer.says(), "ready");
        let schema = Schema::new(7, *b"u64, little-endian");
        let ring = TypedRing::<u64>::new(64).schema(schema);
        segment.add_ring("late", ring).expect("room");
        let mut producer = segment.producer::<u64>("late").expect("free");
        assert_eq!(producer.peer(), PeerState::Never);
        peer.tell("consume");
        assert_eq!(peer.says(), "claimed");
        assert_eq!(producer.peer(), PeerState::Alive);
        // The second of a kind is refused while the first lives, in every process.
        let taken = segment.consumer::<u64>("late").unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::Busy, "{taken}");
        assert!(taken.to_string().contains(&peer.pid().to_string()), "{taken}");
        let taken = d.open("n").expect("opened").producer::<u64>("late").unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::Busy, "{taken}");
        for value in 1..=40 {
            producer.push(value).expect("room");
        }
        peer.tell("sum");
        assert_eq!(peer.says(), (1..=40u64).sum::<u64>().to_string(), "{case:?}");
        let info = d.inspect("n").expect("a report");
        assert_eq!((info.objects.len(), info.objects[0].kind), (1, ObjectKind::Ring));
        let roles: Vec<_> = info.objects[0].endpoints.iter().map(|e| (e.role, e.state)).collect();
        let alive = PeerState::Alive;
        assert_eq!(roles, [(Role::Producer, alive), (Role::Consumer, alive)]);
        assert_eq!(info.objects[0].lag, Some(0));
        // Killed, its place comes back, and what was not delivered is there.
        peer.kill();
        assert_eq!(producer.peer(), PeerState::Dead);
        producer.push(99).expect("room");
        let mut consumer = segment.consumer::<u64>("late").expect("its holder died");
        assert_eq!(consumer.recv(), Ok(99));
        drop(producer);
        assert_eq!(consumer.recv(), Err(RecvError::Closed));
        // Replaced, a waiting reader is told.
        let next = case.on(Segment::replace("n").domain(d.clone())).build().expect("replaced");
        let _producer = segment.producer::<u64>("late").expect("free again");
        assert_eq!(consumer.recv(), Err(RecvError::Superseded), "{case:?}");
        drop((next, segment, consumer, _producer));
        d.remove("n").expect("removed");
        d.collect().expect("it runs");
    });
}

fn child_peer() {
    let d = domain(Path::new(&child::argument(0)));
    let segment = d.open("n").expect("it is there");
    child::say("ready");
    let mut consumer = None;
    while let Some(line) = child::hear() {
        match line.as_str() {
            "consume" => {
                consumer = Some(segment.consumer::<u64>("late").expect("free"));
                child::say("claimed");
            }
            _ => {
                let consumer = consumer.as_mut().expect("claimed before");
                let sum: u64 = (0..40).map(|_| consumer.recv().expect("it comes")).sum();
                child::say(sum);
            }
        }
    }
}

#[test]
fn an_adder_killed_at_any_moment_leaves_a_directory_that_can_be_used() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let d = scratch.domain();
    let folder = scratch.path().display().to_string();
    let builder = small(d.create("n")).max_objects(60_000).size(64 << 20);
    let segment = builder.build().expect("created");
    let mut moment = 99_u64;
    let mut last = 0;
    for round in 0..60 {
        let mut adder = Child::start("objects::adder", &[&folder, &round.to_string()]);
        assert_eq!(adder.says(), "ready");
        moment = moment.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        std::thread::sleep(Duration::from_micros((moment >> 33) % 3000));
        adder.kill();
        let name = format!("ours.{round}");
        segment.add_records(&name, RecordRing::new(4096)).expect("the dead one's lock is free");
        let info = d.inspect("n").expect("a report");
        assert!(info.problems.is_empty(), "{:?}", info.problems);
        assert!(info.objects.len() > last, "round {round}");
        last = info.objects.len();
        let mut producer = segment.record_producer(&name).expect("free");
        let mut consumer = segment.record_consumer(&name).expect("free");
        producer.push(name.as_bytes()).expect("room");
        assert_eq!(consumer.read().expect("it came").to_vec(), name.as_bytes());
    }
    assert!(last > 70, "only {last} objects: the adders never came to work");
    drop(segment);
    d.remove("n").expect("removed");
}

fn child_adder() {
    let d = domain(Path::new(&child::argument(0)));
    let segment = d.open("n").expect("it is there");
    let round = child::argument(1);
    child::say("ready");
    for number in 0.. {
        let name = format!("a{round}.{number}");
        segment.add_ring(&name, TypedRing::<u64>::new(4)).expect("room");
    }
}

#[test]
fn many_adders_of_one_name_agree_on_one_object() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let d = scratch.domain();
    let segment = small(d.create("n")).spare(1 << 20).build().expect("created");
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..16)
            .map(|_| {
                let segment = segment.clone();
                scope.spawn(move || segment.add_ring("o", TypedRing::<u64>::new(8)))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    for error in results.iter().filter_map(|result| result.as_ref().err()) {
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    }
    assert_eq!(segment.objects().len(), 1);
    drop(segment);
    d.remove("n").expect("removed");
}

/// The roles of this file.
pub fn play(role: &str) -> bool {
    match role {
        "objects::peer" => child_peer(),
        "objects::adder" => child_adder(),
        _ => return false,
    }
    true
}

#[test]
fn no_damage_to_directory_or_rings_makes_an_end_panic_hang_or_lead_outside() {
    use std::os::unix::fs::FileExt;
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let d = scratch.domain();
    let segment = small(d.create("n"))
        .max_objects(4)
        .max_attachments(4)
        .ring::<u64>("t", 16)
        .records("r", 1 << 13)
        .build()
        .expect("created");
    {
        let mut typed = segment.producer::<u64>("t").expect("free");
        let mut records = segment.record_producer("r").expect("free");
        for number in 0..9 {
            typed.push(number).expect("room");
            records.push(&vec![1; number as usize * 30]).expect("room");
        }
    }
    let path = scratch.data_file("n");
    let good = std::fs::read(&path).expect("ours");
    drop(segment);
    let file = std::fs::File::options().write(true).open(&path).expect("ours");
    let mut seed = 5_u64;
    let mut noise = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        seed >> 33
    };
    // The directory, then everything of the objects.
    let (directory, end) = (4096 + 4 * 64, good.len() as u64);
    let (mut attached, mut refused, mut corrupt) = (0, 0, 0);
    for round in 0..3000_u64 {
        let mut bad = good.clone();
        let first = if round % 3 == 0 { directory } else { directory + 4 * 512 };
        let range = if round % 3 == 0 { 2 * 512 } else { (end - first).min(4096) };
        for _ in 0..=round % 5 {
            let at = (first + noise() % range) as usize;
            match noise() % 5 {
                0 => bad[at] = 0xff,
                1 => bad[at] = 0,
                2 => bad[at] ^= 1 << (noise() % 8),
                _ => {
                    let word = [0, 1, 7, 8, u64::MAX, 1 << 63, noise(), noise() << 31];
                    let word = word[(noise() % 8) as usize].to_le_bytes();
                    let at = (at & !7).min(bad.len() - 8);
                    bad[at..at + 8].copy_from_slice(&word);
                }
            }
        }
        file.write_all_at(&bad, 0).expect("inside the file");
        let Ok(segment) = d.open("n") else { continue };
        segment.objects();
        drop(d.inspect("n"));
        let mut count = |error: Option<String>| match error {
            Some(text) if text.contains("Corrupt") => corrupt += 1,
            _ => {}
        };
        let outcomes = (
            segment.producer::<u64>("t"),
            segment.consumer::<u64>("t"),
            segment.record_producer("r"),
            segment.record_consumer("r"),
        );
        let each = [outcomes.0.is_ok(), outcomes.1.is_ok(), outcomes.2.is_ok(), outcomes.3.is_ok()];
        attached += each.iter().filter(|ok| **ok).count();
        refused += each.iter().filter(|ok| !**ok).count();
        if let Ok(mut producer) = outcomes.0 {
            for number in 0..20 {
                count(producer.try_push(number).err().map(|error| format!("{error:?}")));
            }
        }
        if let Ok(mut consumer) = outcomes.1 {
            for _ in 0..40 {
                count(consumer.try_recv().err().map(|error| format!("{error:?}")));
            }
        }
        if let Ok(mut producer) = outcomes.2 {
            for number in 0..20 {
                let error = producer.try_push(&[7; 100][..number * 5]).err();
                count(error.map(|error| format!("{error:?}")));
            }
        }
        if let Ok(mut consumer) = outcomes.3 {
            for _ in 0..40 {
                let result = consumer.try_read().map(|record| drop(record.to_vec()));
                count(result.err().map(|error| format!("{error:?}")));
            }
        }
        let _ = segment.add_ring("more", TypedRing::<u64>::new(2));
    }
    eprintln!("{attached} ends attached, {refused} refused, {corrupt} calls found corruption");
    assert!(attached > 100 && refused > 100 && corrupt > 100);
    d.remove("n").expect("removed");
}

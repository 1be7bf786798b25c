//! What a later version may bring: other versions, features, keys, kinds of objects and of backings.
//! What can be used is used, what cannot is refused by its name, and nothing is damaged; listed, inspected,
//! removed and collected is everything.
//!
//! Single bits of the header, on tmpfs: `segment/bad_input.rs`. Here they are tried with what lies around
//! them, on each kind of memory that can be written to by a file.

use crate::common::machine::{PrivateMount, pages};
use crate::common::{M2, Quiet, Scratch, refused};
use hugeshm::{BackingKind, Domain, ErrorKind, ObjectKind, PagePolicy, Rung, Segment, Usage};
use hugeshm::{SegmentBuilder, TypedRing};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A segment on tmpfs, or on the hugetlbfs mount given, with a ring that holds a message.
fn build(builder: SegmentBuilder, mount: Option<&Path>) -> Result<Segment, hugeshm::Error> {
    let builder = match mount {
        None => builder.pages(PagePolicy::exactly(Rung::Base)).backing(BackingKind::Tmpfs),
        Some(path) => builder.pages(M2.into()).backing(BackingKind::Hugetlbfs).mount(path),
    };
    let builder = builder.ring::<u64>("old", 4).records("new", 256).ring::<u64>("last", 4);
    let segment = builder.max_objects(5).spare(1 << 16).build()?;
    segment.producer::<u64>("old")?.push(7).expect("room");
    Ok(segment)
}

/// Overwrites words of a segment's memory.
fn patch(data: &Path, words: &[(u64, u64)]) {
    use nix::sys::mman::{MapFlags, ProtFlags};
    let file = fs::File::options().read(true).write(true).open(data).expect("ours");
    for (offset, word) in words {
        if file.write_all_at(&word.to_le_bytes(), *offset).is_ok() {
            continue;
        }
        // hugetlbfs takes no writes.
        store(
            &file,
            *offset,
            *word,
            ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
            MapFlags::MAP_SHARED,
        );
    }
}

#[expect(unsafe_code, reason = "a mapping of a page of ours")]
fn store(
    file: &fs::File,
    offset: u64,
    word: u64,
    rights: nix::sys::mman::ProtFlags,
    flags: nix::sys::mman::MapFlags,
) {
    let length = std::num::NonZeroUsize::new(2 << 20).expect("not zero");
    assert!(offset.is_multiple_of(8) && offset < 2 << 20);
    // SAFETY: a new mapping at an address of the kernel's choice.
    let at = unsafe { nix::sys::mman::mmap(None, length, rights, flags, file, 0) }.expect("a page");
    let place = at.cast::<u64>().as_ptr().wrapping_add(offset as usize / 8);
    // SAFETY: the word lies inside of what was mapped, and at a multiple of its size.
    unsafe { place.write_volatile(word) };
    // SAFETY: it was made above, whole, and nothing refers to it.
    unsafe { nix::sys::mman::munmap(at, length.get()) }.expect("ours");
}

/// The first 8 bytes of the header are the magic; then version, features and what else there is.
const VERSION: u64 = 8;
const HEADER_BYTES: u64 = 4096 << 32;
const INCOMPATIBLE: u64 = 16;
const READ_ONLY: u64 = 24;
const COMPATIBLE: u64 = 32;
const FROZEN_REST: u64 = 160;
const TAIL: u64 = 4088;
const FEATURE: u64 = 1 << 40;

/// Words of a header, and whether it can then be opened to write and to read.
type Case<'a> = (&'a [(u64, u64)], bool, bool);

#[test]
fn every_version_is_opened_as_far_as_it_allows_and_listed_removed_and_collected() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let domain = scratch.domain();
    let mount = PrivateMount::hugetlbfs(M2, None);
    let pool = pages(M2, 2);
    let places = [None, mount.as_ref().zip(pool.as_ref()).map(|(mount, _)| mount.path())];
    let version = |major: u64, minor: u64| (VERSION, HEADER_BYTES | minor << 16 | major);
    let cases: [Case; 10] = [
        (&[version(1, 7)], true, true),
        (&[version(2, 0)], false, false),
        (&[version(0, 9)], false, false),
        (&[version(0xffff, 0xffff)], false, false),
        (&[(COMPATIBLE, u64::MAX), version(1, 3)], true, true),
        (&[(READ_ONLY, FEATURE)], false, true),
        (&[(READ_ONLY, FEATURE), (COMPATIBLE, FEATURE)], false, true),
        (&[(INCOMPATIBLE, FEATURE), (READ_ONLY, FEATURE)], false, false),
        // Of a version whose header means something else behind the frozen part.
        (&[version(3, 1), (256, u64::MAX), (264, u64::MAX), (272, u64::MAX)], false, false),
        // Words that are reserved now.
        (&[(FROZEN_REST, FEATURE), (TAIL, FEATURE)], true, true),
    ];
    let mut tried = 0;
    for place in places.iter().enumerate().filter(|(i, place)| *i == 0 || place.is_some()) {
        let place = place.1.as_deref();
        for (words, write, read) in &cases {
            for way_out in ["remove", "collect", "replace"] {
                let segment = build(domain.create("n"), place).expect("pages");
                let data = data_file(&scratch, place);
                patch(&data, words);
                let what = format!("{words:x?} {way_out}");
                check_open(&domain, *write, false, &what);
                check_open(&domain, *read, true, &what);
                let list = domain.list().expect("a list");
                assert_eq!((list.len(), list[0].usage), (1, Usage::InUse), "{what}");
                let info = domain.inspect("n").expect("a report");
                assert_eq!(info.creator_pid, std::process::id(), "{what}");
                assert_eq!(info.problems.is_empty(), *read, "{what}: {info:?}");
                assert_eq!(info.objects.len(), if *read { 3 } else { 0 }, "{what}");
                assert!(domain.collect().expect("it runs").removed.is_empty(), "{what}: in use");
                match way_out {
                    "replace" => {
                        let next = Segment::replace("n").domain(domain.clone());
                        drop(build(next, place).expect("a name of ours"));
                        assert!(segment.is_superseded(), "{what}: that word is frozen");
                        drop(segment);
                        domain.remove("n").expect("ours");
                    }
                    "remove" => {
                        domain.remove("n").expect("ours");
                        assert!(segment.is_superseded(), "{what}: that word is frozen");
                        drop(segment);
                    }
                    _ => {
                        drop(segment);
                        assert_eq!(domain.collect().expect("it runs").removed.len(), 1, "{what}");
                    }
                }
                assert_eq!(scratch.files(), [""; 0], "{what}");
                assert!(!data.exists(), "{what}");
                tried += 1;
            }
        }
    }
    eprintln!("{tried} headers of other times");
}

#[track_caller]
fn check_open(domain: &Domain, works: bool, to_read: bool, what: &str) {
    let opened = if to_read { domain.open_read_only("n") } else { domain.open("n") };
    if works {
        drop(opened.unwrap_or_else(|error| panic!("{what}: {error}")));
    } else {
        refused(opened, ErrorKind::Incompatible, "n");
    }
}

fn data_file(scratch: &Scratch, mount: Option<&Path>) -> PathBuf {
    let name = format!("hugeshm.{}", scratch.control_value("n", "identity"));
    mount.unwrap_or(scratch.path()).join(name)
}

#[test]
fn objects_of_an_unknown_kind_are_shown_and_left_alone_and_the_others_work() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let domain = scratch.domain();
    let mut tried = 0;
    for kind in [7_u64, 77, 0xffff_ffff] {
        let segment = build(domain.create("n"), None).expect("base pages");
        let data = data_file(&scratch, None);
        let bytes = fs::read(&data).expect("ours");
        let word = |at: u64| {
            let at = at as usize;
            u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
        };
        // The second entry: another kind, flags that mean something by then, and a name as before.
        let entry = word(272) + 512;
        patch(&data, &[(entry + 8, 1 << 32 | kind), (entry + 392, u64::MAX)]);
        for again in [segment, domain.open("n").expect("compatible")] {
            let info = domain.inspect("n").expect("a report");
            assert_eq!(info.problems, [""; 0]);
            let shown: Vec<_> = info.objects.iter().map(|o| (o.name.as_str(), o.kind)).collect();
            let unknown = ObjectKind::Unknown(kind as u32);
            assert_eq!(shown[0], ("old", ObjectKind::Ring));
            assert_eq!(shown[1], ("new", unknown));
            assert_eq!(shown[2], ("last", ObjectKind::Ring));
            // Not to be used, not to be added again.
            refused(again.record_producer("new"), ErrorKind::KindMismatch, "new");
            refused(again.record_consumer("new"), ErrorKind::KindMismatch, "new");
            refused(again.raw_consumer("new"), ErrorKind::KindMismatch, "new");
            let ring = TypedRing::<u64>::new(4);
            refused(again.add_ring("new", ring), ErrorKind::AlreadyExists, "new");
            // The others work.
            let mut producer = again.producer::<u64>("old").expect("free");
            let mut consumer = again.consumer::<u64>("old").expect("free");
            assert_eq!(consumer.recv(), Ok(7));
            producer.push(7).expect("room");
            again.producer::<u64>("last").expect("free").push(1).expect("room");
            assert_eq!(again.consumer::<u64>("last").expect("free").recv(), Ok(1));
            tried += 1;
        }
        // A new object goes behind them all, and touches none.
        let segment = domain.open("n").expect("compatible");
        let last = entry + 512;
        patch(&data, &[(last + 8, 1 << 32 | kind)]);
        // From the first word of the one to the last byte of the other.
        let (start, end) = (word(entry + 24), word(last + 40) + word(last + 48));
        let before = fs::read(&data).expect("ours");
        segment.add_ring("added", TypedRing::<u64>::new(4)).expect("room");
        segment.producer::<u64>("added").expect("free").push(1).expect("room");
        let after = fs::read(&data).expect("ours");
        let own = start as usize..end as usize;
        assert_eq!(before[own.clone()], after[own]);
        drop(segment);
        domain.remove("n").expect("ours");
    }
    eprintln!("{tried} segments with an unknown kind");
}

#[test]
fn a_control_file_of_another_version_is_told_from_a_damaged_one_and_nothing_is_taken_over() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let domain = scratch.domain();
    let future = ErrorKind::Incompatible;
    for (from, to) in [("hugeshm=1\n", "hugeshm=2\n"), ("backing=tmpfs\n", "backing=cxl\n")] {
        let segment = build(domain.create("n"), None).expect("base pages");
        let data = data_file(&scratch, None);
        let good = fs::read_to_string(scratch.control_file("n")).expect("ours");
        let text = good.replace(from, to);
        assert_ne!(good, text);
        fs::write(scratch.control_file("n"), text).expect("ours");
        refused(domain.open("n"), future, "n");
        refused(domain.open_read_only("n"), future, "n");
        refused(domain.inspect("n"), future, "n");
        refused(build(domain.create("n"), None), ErrorKind::AlreadyExists, "n");
        refused(build(Segment::open_or_create("n").domain(domain.clone()), None), future, "n");
        refused(build(Segment::replace("n").domain(domain.clone()), None), future, "n");
        let list = domain.list().expect("a list");
        assert_eq!((list[0].name.as_str(), list[0].usage), ("n", Usage::Broken));
        let report = domain.collect().expect("it runs");
        assert!(report.removed.is_empty(), "it is in use: {report:?}");
        assert!(data.exists() && segment.verify().is_ok());
        domain.remove("n").expect("the name can go");
        drop(segment);
        assert_eq!(domain.collect().expect("it runs").removed.len(), 1);
        assert_eq!(scratch.files(), [""; 0]);
    }
}

#[test]
fn keys_that_a_later_version_adds_are_ignored_everywhere() {
    let _quiet = Quiet::begin();
    let scratch = Scratch::new();
    let domain = scratch.domain();
    let segment = build(domain.create("n"), None).expect("base pages");
    for path in [scratch.control_file("n"), scratch.claims_file("n")] {
        let text = fs::read_to_string(&path).expect("ours");
        let more = "encrypted_with=nothing\nholders_max=9\nfeature.x=1\n\nno key at all\n";
        fs::write(&path, format!("{}{more}", text)).expect("ours");
    }
    drop(domain.open("n").expect("compatible"));
    drop(domain.open_read_only("n").expect("compatible"));
    assert_eq!(domain.list().expect("a list")[0].usage, Usage::InUse);
    assert_eq!(domain.inspect("n").expect("a report").problems, [""; 0]);
    let next = build(Segment::replace("n").domain(domain.clone()), None).expect("ours");
    assert!(segment.is_superseded() && !next.is_superseded());
    drop((segment, next));
    assert_eq!(domain.collect().expect("it runs").removed.len(), 1);
}

//! Opening a segment whose bytes somebody else wrote, and what can be done with it then.

use super::input::Input;
use super::stage::{Actor, NAME, Stage};
use super::{cells, many, rings};
use crate::segment::layout::{ENTRY_COMMITTED, Entry, EntryRaw, HEADER_BYTES, Header};
use crate::view::meddle;
use core::mem::{offset_of, size_of};
use std::os::unix::fs::FileExt;

/// Accesses that an operation on a lying segment may make.
const TOUCHES_MOST: u64 = 5_000_000;

/// A header, and behind it entries of a directory.
pub(super) fn header(data: &[u8]) {
    let bytes = changed(data, Stage::with(|stage| stage.image().to_vec()));
    for writable in [false, true] {
        let length = bytes.len() as u64;
        let Ok(header) = Header::parse(&bytes[..HEADER_BYTES], length, writable) else { continue };
        assert!(header.raw.length <= length && header.raw.objects_offset <= length);
        let directory = header.raw.directory_offset as usize;
        for index in 0..header.raw.directory_capacity as usize {
            let at = directory + index * size_of::<EntryRaw>();
            let Ok(entry) = Entry::parse(&bytes[at..at + size_of::<EntryRaw>()], &header) else {
                continue;
            };
            let raw = &entry.raw;
            assert_eq!(raw.commit, ENTRY_COMMITTED);
            for (offset, length) in [
                (raw.control_offset, raw.control_length),
                (raw.payload_offset, raw.payload_length),
                (raw.schema_offset, raw.schema_length),
            ] {
                assert!(offset + length <= header.raw.length, "a range outside of the segment");
            }
            _ = (entry.type_name(), entry.kind.to_string());
        }
    }
    _ = Header::parse(data, data.len() as u64, true);
}

/// The image with what the input makes of it: changed words, then bytes that lie over it.
fn changed(data: &[u8], mut image: Vec<u8>) -> Vec<u8> {
    let mut input = Input::new(data);
    let words = image.len() / 8;
    // Half of the words are hit in the header and the directory, the rest anywhere.
    for _ in 0..input.byte() % 32 {
        let number = usize::from(input.short());
        let number = if number.is_multiple_of(2) { number / 2 % 1000 } else { number / 2 % words };
        let at = number * 8;
        let change = input.change();
        let word = u64::from_le_bytes(image[at..at + 8].try_into().expect("eight bytes"));
        image[at..at + 8].copy_from_slice(&change.of(word).to_le_bytes());
    }
    if !input.is_over() {
        let at = input.below(words) * 8;
        let rest = input.rest();
        let length = rest.len().min(image.len() - at);
        image[at..at + length].copy_from_slice(&rest[..length]);
    }
    image
}

/// A segment with these bytes, under a control file that fits: opened, looked at, and worked with.
pub(super) fn segment(data: &[u8]) {
    Stage::with(|stage| {
        let (&how, data) = data.split_first().unwrap_or((&0, &[]));
        let mut image = changed(data, stage.image().to_vec());
        if how & 1 == 0 {
            // Past the first questions.
            let front = offset_of!(crate::segment::layout::HeaderRaw, boot_id);
            image[..front].copy_from_slice(&stage.image()[..front]);
        }
        let identity = stage.segment.identity();
        let path = stage.folder().join(crate::segment::names::data_file(identity));
        let file = std::fs::File::options().write(true).open(path).expect("our own file");
        file.write_all_at(&image, 0).expect("our own file");
        bounded(|| _ = stage.domain.inspect(NAME));
        bounded(|| _ = stage.domain.list());
        if how & 2 == 0 {
            meddle::guard_objects();
        }
        if how & 4 == 0 {
            bounded(|| work(stage.domain.open(NAME), how));
        } else {
            bounded(|| work(stage.domain.open_read_only(NAME), how));
        }
        assert!(meddle::guarded().iter().all(|memory| memory.is_intact()), "a write beside it");
        meddle::guard_nothing();
    });
}

fn bounded(work: impl FnOnce()) {
    let start = meddle::touched();
    let hook = move |_| {
        assert!(meddle::touched() - start < TOUCHES_MOST, "more accesses than it may make");
    };
    meddle::during(hook, work);
}

fn work(segment: crate::Result<crate::Segment>, how: u8) {
    let Ok(segment) = segment else { return };
    _ = (segment.objects(), segment.backing().to_string(), segment.is_superseded());
    let mut actors = actors();
    // A few of them with each input, in turn.
    let first = usize::from(how >> 3);
    for index in 0..3 {
        let count = actors.len();
        let actor = &mut actors[(first + index) % count];
        for name in actor.objects() {
            _ = segment.schema(name);
        }
        if segment.is_read_only() {
            continue;
        }
        for code in 0..28 {
            actor.act(&segment, code, u16::from(how) << 3 | u16::from(code));
        }
        actor.leave();
    }
    if segment.is_read_only() {
        _ = segment.latest_reader::<[u64; 5]>("latest").map(|mut reader| _ = reader.read());
        _ = segment.latest_reader::<[u64; 40]>("long").map(|mut reader| _ = reader.read());
        _ = segment
            .broadcast_observer::<[u64; 3]>("many", crate::Join::Oldest)
            .map(|mut observer| _ = observer.try_recv());
        _ = segment.raw_consumer("ring").map(drop);
    }
    _ = segment.add_ring("added", crate::TypedRing::<u64>::new(3));
}

/// An actor of each kind.
pub(super) fn actors() -> [Box<dyn Actor>; 14] {
    [
        Box::new(rings::Typed::new()),
        Box::new(rings::Typed::wide()),
        Box::new(rings::Raw::default()),
        Box::new(rings::Records::new()),
        Box::new(rings::Records::aligned()),
        Box::new(many::Broadcast::new()),
        Box::new(many::Broadcast::lossless()),
        Box::new(many::News::new()),
        Box::new(many::News::lossless()),
        Box::new(many::LanesEnds::default()),
        Box::new(many::SharedEnds::default()),
        Box::new(cells::Latest::new()),
        Box::new(cells::Latest::long()),
        Box::new(cells::Call::default()),
    ]
}

//! The bytes of a segment: header, attachment table, directory, endpoints.
//!
//! # Layout
//!
//! ```text
//! 0      header (4096 bytes; the first 256 are frozen for every version)
//! 4096   attachment table: one 64-byte slot for each attached process
//! ...    directory: one 512-byte entry for each object
//! ...    objects: for each its control words, then the payloads
//! ```
//!
//! Everything is little-endian and fixed-width. Words that others may change
//! while we look are read once: the header as one private copy ([`Header::parse`]),
//! a directory entry likewise ([`Entry::parse`]), the rest through atomics.
//! Reserved bytes are written as zero; what a reader may ignore is decided by
//! the feature words, in the manner of ext4. `docs/LAYOUT.md` says the same in
//! prose and is compared with these constants by a test.
//!
//! The control words of an object begin with its endpoint table: producers
//! first, then consumers, 256 bytes each: a 128-byte claim line, then a 128-byte
//! statistics line that only the owner writes.

use crate::error::{BackingKind, Rung};
use crate::size::{PageSize, align_up};
use core::mem::{offset_of, size_of};

/// The first eight bytes of every segment, written last.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"HUGESHM\x01");
/// A reader refuses another major version; minor versions are compatible.
pub(crate) const LAYOUT_MAJOR: u16 = 1;
pub(crate) const LAYOUT_MINOR: u16 = 0;
/// Features that a program must know to touch the segment at all.
pub(crate) const KNOWN_INCOMPATIBLE: u64 = 0;
/// Features that a program must know to write; without knowing them it may read.
pub(crate) const KNOWN_READ_ONLY_COMPATIBLE: u64 = 0;

/// Bytes that have the same meaning in every version.
pub(crate) const FROZEN_BYTES: usize = 256;
pub(crate) const HEADER_BYTES: usize = 4096;
pub(crate) const NAME_BYTES: usize = 104;
pub(crate) const NAME_MAX: usize = 100;
pub(crate) const TYPE_NAME_BYTES: usize = 128;
pub(crate) const TYPE_NAME_MAX: usize = 120;
pub(crate) const NODES_MAX: usize = 16;
pub(crate) const AREAS_MAX: usize = 8;
pub(crate) const LINE: u64 = 128;

/// The value of the superseded word while the name leads here.
pub(crate) const LIVE: u64 = 0;
/// Another segment has taken the name over.
pub(crate) const SUPERSEDED: u64 = 1;
/// The name was removed.
pub(crate) const REMOVED: u64 = 2;

/// A range that may later be a mapping of its own; version 1 has one area, the whole segment.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct AreaRaw {
    pub offset: u64,
    pub length: u64,
    pub flags: u64,
    pub reserved: u64,
}

/// How many bytes lie on a node, as the creator measured it.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct NodeRaw {
    pub node: u64,
    pub bytes: u64,
}

/// The header as it lies in memory.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct HeaderRaw {
    // --- frozen ---
    pub magic: u64,
    pub layout_major: u16,
    pub layout_minor: u16,
    pub header_bytes: u32,
    pub incompatible: u64,
    pub read_only_compatible: u64,
    pub compatible: u64,
    pub identity: [u8; 16],
    pub boot_id: [u8; 16],
    pub page_size_asked: u64,
    pub page_size: u64,
    pub length: u64,
    pub created_nanos: u64,
    pub creator_pid: u32,
    pub creator_uid: u32,
    pub creator_start: u64,
    pub creator_pid_namespace: u64,
    pub superseded: u64,
    pub backing: u32,
    pub rung: u32,
    /// The control folder that its name stands in: only there may it be collected.
    pub folder_device: u64,
    pub folder_inode: u64,
    pub frozen_reserved: [u8; 96],
    // --- version 1 ---
    pub attachments_offset: u64,
    pub attachments_capacity: u32,
    pub attachment_bytes: u32,
    pub directory_offset: u64,
    pub directory_capacity: u32,
    pub entry_bytes: u32,
    pub objects_offset: u64,
    pub area_count: u32,
    pub node_count: u32,
    /// Bytes on huge pages when the creator measured them; transparent ones may be split later.
    pub huge_bytes: u64,
    pub reserved: u64,
    pub areas: [AreaRaw; AREAS_MAX],
    pub domain: [u8; NAME_BYTES],
    pub name: [u8; NAME_BYTES],
    pub nodes: [NodeRaw; NODES_MAX],
    pub tail: [u8; 3056],
}

/// One attached process; the slot is owned by whoever holds its lock byte.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct AttachmentRaw {
    /// +1 at each attach, so that a reused slot is told from its last holder.
    pub epoch: u64,
    /// One of `ENDPOINT_*`.
    pub state: u32,
    pub flags: u32,
    pub pid: u32,
    pub uid: u32,
    pub start: u64,
    pub pid_namespace: u64,
    pub since_nanos: u64,
    pub reserved: [u64; 2],
}

/// One object's entry in the directory; `commit` is written last.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct EntryRaw {
    pub commit: u64,
    pub kind: u32,
    pub flags: u32,
    pub control_area: u32,
    pub payload_area: u32,
    pub control_offset: u64,
    pub control_length: u64,
    pub payload_offset: u64,
    pub payload_length: u64,
    pub capacity: u64,
    pub stride: u64,
    pub payload_align: u64,
    pub user_header: u64,
    pub producers: u32,
    pub consumers: u32,
    pub extra: [u64; 2],
    pub type_size: u64,
    pub type_align: u64,
    pub type_major: u32,
    pub type_minor: u32,
    pub schema_offset: u64,
    pub schema_length: u64,
    pub schema_format: u32,
    pub reserved_word: u32,
    pub name: [u8; NAME_BYTES],
    pub type_name: [u8; TYPE_NAME_BYTES],
    pub reserved: [u8; 120],
}

/// The claim line of an endpoint, written by whoever holds its lock byte.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct EndpointRaw {
    /// +1 at each claim: a restarted peer is a changed value.
    pub epoch: u64,
    /// One of `ENDPOINT_*`.
    pub state: u32,
    pub flags: u32,
    pub pid: u32,
    pub attachment: u32,
    pub start: u64,
    pub since_nanos: u64,
    /// The ring position at which this claim began.
    pub position: u64,
    pub label: [u8; 32],
    /// The number in the name of this end's doorbell; 0 = it has none.
    pub bell: u64,
    pub reserved: [u8; 40],
}

/// The value of a committed directory entry's first word.
pub(crate) const ENTRY_COMMITTED: u64 = u64::from_le_bytes(*b"OBJECT\0\x01");

/// Nobody has been here yet.
pub(crate) const ENDPOINT_NEVER: u32 = 0;
/// Claimed and not closed in order; whether the owner lives is for the kernel to say.
pub(crate) const ENDPOINT_OPEN: u32 = 1;
/// Closed in order.
pub(crate) const ENDPOINT_CLOSED: u32 = 2;

/// Bytes of one endpoint: the claim line and the statistics line.
pub(crate) const ENDPOINT_BYTES: u64 = 256;
pub(crate) const STATS_OFFSET: u64 = 128;

/// The byte of the claims file on which every attachment holds a shared lock.
pub(crate) const LOCK_LIFE: u64 = 0;
/// The byte that whoever adds an object holds.
pub(crate) const LOCK_DIRECTORY: u64 = 1;
const LOCK_ATTACHMENTS: u64 = 0x1000;
const LOCK_ENDPOINTS: u64 = 1 << 32;
pub(crate) const ATTACHMENTS_MAX: u32 = 0xffff;
pub(crate) const OBJECTS_MAX: u32 = 0xffff;
pub(crate) const SLOTS_MAX: u32 = 1 << 14;

/// The lock byte of attachment number `number`.
pub(crate) const fn attachment_lock(number: u32) -> u64 {
    LOCK_ATTACHMENTS + number as u64
}

/// The lock byte of one endpoint: 16 bits of object, 2 of role, 14 of slot.
pub(crate) const fn endpoint_lock(object: u32, role: u32, slot: u32) -> u64 {
    debug_assert!(object <= OBJECTS_MAX && role < 4 && slot < SLOTS_MAX);
    LOCK_ENDPOINTS + ((object as u64) << 16) + ((role as u64) << 14) + slot as u64
}

const _: () = {
    assert!(size_of::<HeaderRaw>() == HEADER_BYTES);
    assert!(offset_of!(HeaderRaw, identity) == 40);
    assert!(offset_of!(HeaderRaw, boot_id) == 56);
    assert!(offset_of!(HeaderRaw, page_size_asked) == 72);
    assert!(offset_of!(HeaderRaw, page_size) == 80);
    assert!(offset_of!(HeaderRaw, length) == 88);
    assert!(offset_of!(HeaderRaw, created_nanos) == 96);
    assert!(offset_of!(HeaderRaw, creator_pid) == 104);
    assert!(offset_of!(HeaderRaw, creator_uid) == 108);
    assert!(offset_of!(HeaderRaw, creator_start) == 112);
    assert!(offset_of!(HeaderRaw, creator_pid_namespace) == 120);
    assert!(offset_of!(HeaderRaw, superseded) == 128);
    assert!(offset_of!(HeaderRaw, backing) == 136);
    assert!(offset_of!(HeaderRaw, rung) == 140);
    assert!(offset_of!(HeaderRaw, folder_device) == 144);
    assert!(offset_of!(HeaderRaw, folder_inode) == 152);
    assert!(offset_of!(HeaderRaw, frozen_reserved) == 160);
    assert!(offset_of!(HeaderRaw, attachments_offset) == FROZEN_BYTES);
    assert!(offset_of!(HeaderRaw, areas) == 320);
    assert!(offset_of!(HeaderRaw, domain) == 576);
    assert!(offset_of!(HeaderRaw, name) == 680);
    assert!(offset_of!(HeaderRaw, nodes) == 784);
    assert!(size_of::<AttachmentRaw>() == 64);
    assert!(size_of::<EntryRaw>() == 512);
    assert!(offset_of!(EntryRaw, name) == 160);
    assert!(offset_of!(EntryRaw, type_name) == 264);
    assert!(size_of::<EndpointRaw>() == 128);
};

/// What a segment's first page says, checked; held in private memory from attach on.
#[derive(Clone)]
pub(crate) struct Header {
    pub raw: HeaderRaw,
    pub page_size: PageSize,
    pub backing: BackingKind,
    pub rung: Rung,
}

/// Why the bytes at a segment's beginning were not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// Not ours, cut short, or contradicting itself; the text says which.
    Corrupt(&'static str),
    /// Written by a version that this one must not touch; the text says why.
    Future(String),
}

pub(crate) const fn backing_code(kind: BackingKind) -> u32 {
    match kind {
        BackingKind::Hugetlbfs => 1,
        BackingKind::Sysv => 2,
        BackingKind::Memfd => 3,
        BackingKind::Tmpfs => 4,
        BackingKind::Anonymous => 5,
    }
}

const fn backing_from_code(code: u32) -> Option<BackingKind> {
    Some(match code {
        1 => BackingKind::Hugetlbfs,
        2 => BackingKind::Sysv,
        3 => BackingKind::Memfd,
        4 => BackingKind::Tmpfs,
        _ => return None,
    })
}

pub(crate) const fn rung_code(rung: Rung) -> u32 {
    match rung {
        Rung::Base => 1,
        Rung::Thp => 2,
        Rung::Huge(_) => 3,
    }
}

impl Header {
    /// The checked meaning of the first [`HEADER_BYTES`] of a segment that is mapped for `mapped` bytes.
    ///
    /// `bytes` must be a private copy. With `writable`, unknown read-only-compatible features refuse.
    pub(crate) fn parse(bytes: &[u8], mapped: u64, writable: bool) -> Result<Self, Unreadable> {
        use Unreadable::{Corrupt, Future};
        if bytes.len() < HEADER_BYTES {
            return Err(Corrupt("shorter than a header"));
        }
        let raw: HeaderRaw = bytemuck::pod_read_unaligned(&bytes[..HEADER_BYTES]);
        if raw.magic != MAGIC {
            return Err(Corrupt("it does not begin with the magic number of a segment"));
        }
        if raw.layout_major != LAYOUT_MAJOR {
            return Err(Future(format!(
                "its layout is version {}.{}, this program knows {LAYOUT_MAJOR}.x",
                raw.layout_major, raw.layout_minor
            )));
        }
        let incompatible = raw.incompatible & !KNOWN_INCOMPATIBLE;
        if incompatible != 0 {
            return Err(Future(format!("it uses unknown features {incompatible:#x}")));
        }
        let read_only = raw.read_only_compatible & !KNOWN_READ_ONLY_COMPATIBLE;
        if writable && read_only != 0 {
            return Err(Future(format!(
                "it uses features {read_only:#x} that this program may only read"
            )));
        }
        let page_size = PageSize::new(raw.page_size).ok_or(Corrupt("its page size"))?;
        let backing = backing_from_code(raw.backing).ok_or(Corrupt("its kind of backing"))?;
        let rung = match raw.rung {
            1 => Rung::Base,
            2 => Rung::Thp,
            3 => Rung::Huge(page_size),
            _ => return Err(Corrupt("its rung")),
        };
        if raw.length != mapped || !page_size.divides(raw.length) {
            return Err(Corrupt("its length"));
        }
        let table = |offset: u64, count: u32, each: u32, unit: usize, max: u32| {
            let end = u64::from(count) * u64::from(each);
            each as usize == unit
                && count <= max
                && offset >= HEADER_BYTES as u64
                && offset.is_multiple_of(64)
                && offset.checked_add(end).is_some_and(|end| end <= raw.length)
        };
        if !table(
            raw.attachments_offset,
            raw.attachments_capacity,
            raw.attachment_bytes,
            size_of::<AttachmentRaw>(),
            ATTACHMENTS_MAX,
        ) {
            return Err(Corrupt("its attachment table"));
        }
        if !table(
            raw.directory_offset,
            raw.directory_capacity,
            raw.entry_bytes,
            size_of::<EntryRaw>(),
            OBJECTS_MAX,
        ) {
            return Err(Corrupt("its directory"));
        }
        if !raw.objects_offset.is_multiple_of(LINE) || raw.objects_offset > raw.length {
            return Err(Corrupt("the place of its objects"));
        }
        if raw.area_count != 1 || raw.areas[0].offset != 0 || raw.areas[0].length != raw.length {
            return Err(Corrupt("its areas"));
        }
        if raw.node_count as usize > NODES_MAX {
            return Err(Corrupt("its list of nodes"));
        }
        Ok(Self { raw, page_size, backing, rung })
    }
}

/// The places of the tables in a segment whose directory holds `objects` entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tables {
    pub attachments_offset: u64,
    pub directory_offset: u64,
    pub objects_offset: u64,
}

impl Tables {
    pub(crate) fn new(attachments: u32, objects: u32) -> Self {
        let attachments_offset = HEADER_BYTES as u64;
        let attachments_end =
            attachments_offset + u64::from(attachments) * size_of::<AttachmentRaw>() as u64;
        let directory_offset = attachments_end.next_multiple_of(LINE);
        let directory_end = directory_offset + u64::from(objects) * size_of::<EntryRaw>() as u64;
        Self {
            attachments_offset,
            directory_offset,
            objects_offset: directory_end.next_multiple_of(LINE),
        }
    }
}

/// The kinds of object that the directory knows; numbers are part of the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum ObjectKind {
    /// A ring of values of one type, one producer, one consumer.
    Ring,
    /// A ring of records of any length, one producer, one consumer.
    Records,
    /// A ring of values of one type, one producer, many consumers that each receive all.
    BroadcastRing,
    /// A ring of records of any length, one producer, many consumers that each receive all.
    BroadcastRecords,
    /// The last of many values of one type, one writer, any number of readers.
    LatestValue,
    /// A request and its answer in one cache line, one caller, one server.
    CallCell,
    /// Rings of values of one type, one for each of many producers, one consumer of all.
    Lanes,
    /// A ring of values of one type, many producers, many consumers of which one receives each.
    SharedRing,
    /// A kind that this version does not know, by its number.
    Unknown(u32),
}

impl ObjectKind {
    pub(crate) const fn code(self) -> u32 {
        match self {
            Self::Ring => 1,
            Self::Records => 2,
            Self::BroadcastRing => 3,
            Self::BroadcastRecords => 4,
            Self::LatestValue => 5,
            Self::CallCell => 6,
            // 7 is kept for pools.
            Self::Lanes => 8,
            Self::SharedRing => 9,
            Self::Unknown(code) => code,
        }
    }

    pub(crate) const fn from_code(code: u32) -> Self {
        match code {
            1 => Self::Ring,
            2 => Self::Records,
            3 => Self::BroadcastRing,
            4 => Self::BroadcastRecords,
            5 => Self::LatestValue,
            6 => Self::CallCell,
            8 => Self::Lanes,
            9 => Self::SharedRing,
            other => Self::Unknown(other),
        }
    }
}

impl core::fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Ring => f.pad("ring"),
            Self::Records => f.pad("records"),
            Self::BroadcastRing => f.pad("broadcast ring"),
            Self::BroadcastRecords => f.pad("broadcast records"),
            Self::LatestValue => f.pad("latest value"),
            Self::CallCell => f.pad("call cell"),
            Self::Lanes => f.pad("lanes"),
            Self::SharedRing => f.pad("shared ring"),
            Self::Unknown(code) => f.pad(&format!("kind {code}")),
        }
    }
}

/// One object of a segment, checked against the mapping; held in private memory.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub raw: EntryRaw,
    pub kind: ObjectKind,
    pub name: String,
}

impl core::fmt::Debug for EntryRaw {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "EntryRaw {{ kind: {}, capacity: {} }}", self.kind, self.capacity)
    }
}

impl Entry {
    /// The checked meaning of a private copy of one directory entry.
    pub(crate) fn parse(bytes: &[u8], header: &Header) -> Result<Self, &'static str> {
        let raw: EntryRaw =
            bytemuck::try_pod_read_unaligned(bytes).map_err(|_| "its entry is cut short")?;
        if raw.commit != ENTRY_COMMITTED {
            return Err("its entry is not committed");
        }
        if raw.control_area != 0 || raw.payload_area != 0 {
            return Err("it lies in an area that does not exist");
        }
        let lies_inside = |offset: u64, length: u64| {
            offset >= header.raw.objects_offset
                && offset.checked_add(length).is_some_and(|end| end <= header.raw.length)
        };
        if !raw.control_offset.is_multiple_of(LINE)
            || !lies_inside(raw.control_offset, raw.control_length)
        {
            return Err("its control words lie outside the segment");
        }
        if !raw.payload_offset.is_multiple_of(LINE)
            || !lies_inside(raw.payload_offset, raw.payload_length)
        {
            return Err("its payload lies outside the segment");
        }
        let no_schema = (raw.schema_offset, raw.schema_length) == (0, 0);
        if !no_schema && !lies_inside(raw.schema_offset, raw.schema_length) {
            return Err("its schema lies outside the segment");
        }
        if raw.producers > SLOTS_MAX || raw.consumers > SLOTS_MAX {
            return Err("its endpoint table is too large");
        }
        if endpoints_length(raw.producers, raw.consumers) > raw.control_length {
            return Err("its endpoint table does not fit its control words");
        }
        let name = text_of(&raw.name).filter(|n| !n.is_empty()).ok_or("its name is not text")?;
        Ok(Self { kind: ObjectKind::from_code(raw.kind), name: name.to_owned(), raw })
    }

    pub(crate) fn type_name(&self) -> Option<&str> {
        text_of(&self.raw.type_name)
    }
}

/// Bytes of an object's endpoint table.
pub(crate) const fn endpoints_length(producers: u32, consumers: u32) -> u64 {
    (producers as u64 + consumers as u64) * ENDPOINT_BYTES
}

/// The text in a fixed field that ends with at least one zero byte; `None` if it is not ASCII.
pub(crate) fn text_of(field: &[u8]) -> Option<&str> {
    let length = field.iter().position(|&byte| byte == 0)?;
    let text = std::str::from_utf8(&field[..length]).ok()?;
    text.bytes().all(|b| b.is_ascii_graphic() || b == b' ').then_some(text)
}

/// `text` in a fixed field, zero-padded; the caller has checked that it fits with a zero behind it.
pub(crate) fn field_of<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [0; N];
    let length = text.len().min(N - 1);
    field[..length].copy_from_slice(&text.as_bytes()[..length]);
    field
}

/// Where an object of the given sizes goes when everything before `cursor` is taken.
///
/// Returns (control offset, payload offset, end), or `None` past the address space.
pub(crate) fn place(
    cursor: u64,
    control: u64,
    payload: u64,
    payload_align: u64,
) -> Option<(u64, u64, u64)> {
    let control_offset = align_up(cursor, LINE)?;
    let control_end = control_offset.checked_add(control)?;
    let payload_offset = align_up(control_end, payload_align.max(LINE))?;
    Some((control_offset, payload_offset, payload_offset.checked_add(payload)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is made wrong, and how.
    type Lie<T> = (&'static str, fn(&mut T));

    fn sample() -> HeaderRaw {
        let tables = Tables::new(4, 2);
        let mut raw: HeaderRaw = bytemuck::Zeroable::zeroed();
        raw.magic = MAGIC;
        raw.layout_major = LAYOUT_MAJOR;
        raw.header_bytes = HEADER_BYTES as u32;
        raw.page_size = 4096;
        raw.length = 64 << 10;
        raw.backing = 4;
        raw.rung = 1;
        raw.attachments_offset = tables.attachments_offset;
        raw.attachments_capacity = 4;
        raw.attachment_bytes = 64;
        raw.directory_offset = tables.directory_offset;
        raw.directory_capacity = 2;
        raw.entry_bytes = 512;
        raw.objects_offset = tables.objects_offset;
        raw.area_count = 1;
        raw.areas[0].length = raw.length;
        raw
    }

    fn parse(raw: &HeaderRaw, writable: bool) -> Result<Header, Unreadable> {
        Header::parse(bytemuck::bytes_of(raw), 64 << 10, writable)
    }

    /// The rows of a table of `docs/LAYOUT.md` that a structure must have.
    macro_rules! rows {
        ($raw:ty: $($field:ident)+) => {{
            let raw: $raw = bytemuck::Zeroable::zeroed();
            let rows = vec![$((
                offset_of!($raw, $field),
                size_of_val(&raw.$field),
                stringify!($field),
            )),+];
            // Nothing was forgotten: the fields fill the structure.
            assert_eq!(rows.iter().map(|row| row.1).sum::<usize>(), size_of::<$raw>());
            rows
        }};
    }

    #[test]
    fn the_layout_page_says_what_the_constants_say() {
        let page = include_str!("../../docs/LAYOUT.md");
        let mut checked = 0;
        let tables = [
            (
                "## Header",
                rows!(HeaderRaw: magic layout_major layout_minor header_bytes
                incompatible read_only_compatible compatible identity boot_id page_size_asked
                page_size length created_nanos creator_pid creator_uid creator_start
                creator_pid_namespace superseded backing rung folder_device folder_inode
                    frozen_reserved attachments_offset
                attachments_capacity attachment_bytes directory_offset directory_capacity
                entry_bytes objects_offset area_count node_count huge_bytes reserved areas domain
                name nodes tail),
            ),
            (
                "## Attachment slot",
                rows!(AttachmentRaw: epoch state flags pid uid start
                pid_namespace since_nanos reserved),
            ),
            (
                "## Directory entry",
                rows!(EntryRaw: commit kind flags control_area payload_area
                control_offset control_length payload_offset payload_length capacity stride
                payload_align user_header producers consumers extra type_size type_align type_major
                type_minor schema_offset schema_length schema_format reserved_word name type_name
                reserved),
            ),
            (
                "## Endpoint",
                rows!(EndpointRaw: epoch state flags pid attachment start since_nanos
                position label bell reserved),
            ),
        ];
        for (title, rows) in tables {
            let section = page.split(title).nth(1).unwrap().split("\n## ").next().unwrap();
            assert_eq!(section.matches("\n| ").count() - 1, rows.len(), "{title}");
            for (offset, bytes, field) in rows {
                let row = format!("\n| {offset} | {bytes} | `{field}` |");
                assert!(section.contains(&row), "{title} lacks {row}");
                checked += 1;
            }
        }
        assert_eq!(checked, 86);
        for (byte, text) in [
            (attachment_lock(0), "4096 + n"),
            (endpoint_lock(0, 0, 0), "2^32 + object * 65536 + role * 16384 + slot"),
        ] {
            assert!(page.contains(text), "{byte}");
        }
        assert_eq!(attachment_lock(5), 4096 + 5);
        assert_eq!(endpoint_lock(3, 1, 2), (1 << 32) + 3 * 65536 + 16384 + 2);
    }

    #[test]
    fn the_bytes_of_version_one_do_not_change() {
        let mut raw = sample();
        raw.identity = *b"identityidentity";
        raw.domain = field_of("default");
        raw.name = field_of("golden");
        let bytes = bytemuck::bytes_of(&raw);
        let words: Vec<(usize, u64)> = bytes
            .chunks_exact(8)
            .map(|word| u64::from_le_bytes(word.try_into().unwrap()))
            .enumerate()
            .filter(|(_, word)| *word != 0)
            .map(|(index, word)| (index * 8, word))
            .collect();
        let text = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
        let golden = [
            (0, 0x014d_4853_4547_5548),
            (8, 0x0000_1000_0000_0001),
            (40, text(b"identity")),
            (48, text(b"identity")),
            (80, 4096),
            (88, 65536),
            (136, 0x0000_0001_0000_0004),
            (256, 4096),
            (264, 0x0000_0040_0000_0004),
            (272, 4352),
            (280, 0x0000_0200_0000_0002),
            (288, 5376),
            (296, 1),
            (328, 65536),
            (576, text(b"default\0")),
            (680, text(b"golden\0\0")),
        ];
        assert_eq!(words, golden);
    }

    #[test]
    fn unknown_features_refuse_exactly_as_far_as_they_say() {
        let mut raw = sample();
        raw.compatible = u64::MAX;
        assert!(parse(&raw, true).is_ok(), "a compatible feature is ignored");
        raw.read_only_compatible = 4;
        assert!(parse(&raw, false).is_ok());
        assert!(matches!(parse(&raw, true), Err(Unreadable::Future(_))));
        raw.incompatible = 1;
        assert!(matches!(parse(&raw, false), Err(Unreadable::Future(_))));
    }

    #[test]
    fn every_lying_header_field_is_refused() {
        assert!(parse(&sample(), true).is_ok());
        let lies: [Lie<HeaderRaw>; 12] = [
            ("magic", |h| h.magic ^= 1),
            ("page size", |h| h.page_size = 3),
            ("length", |h| h.length += 4096),
            ("backing", |h| h.backing = 99),
            ("rung", |h| h.rung = 0),
            ("attachments offset", |h| h.attachments_offset = u64::MAX - 63),
            ("attachments capacity", |h| h.attachments_capacity = u32::MAX),
            ("directory inside header", |h| h.directory_offset = 64),
            ("directory capacity", |h| h.directory_capacity = 0xffff),
            ("objects beyond the end", |h| h.objects_offset = (64 << 10) + 128),
            ("areas", |h| h.area_count = 2),
            ("nodes", |h| h.node_count = 17),
        ];
        for (what, lie) in lies {
            let mut raw = sample();
            lie(&mut raw);
            assert!(parse(&raw, true).is_err(), "{what} was believed");
        }
        assert!(Header::parse(&[0; 100], 0, false).is_err());
    }

    #[test]
    fn an_entry_that_points_outside_is_refused() {
        let header = parse(&sample(), true).unwrap();
        let mut good: EntryRaw = bytemuck::Zeroable::zeroed();
        good.commit = ENTRY_COMMITTED;
        good.kind = 1;
        good.control_offset = header.raw.objects_offset;
        good.control_length = 1024;
        good.payload_offset = header.raw.objects_offset + 1024;
        good.payload_length = 4096;
        good.producers = 1;
        good.consumers = 1;
        good.name = field_of("quotes");
        assert_eq!(Entry::parse(bytemuck::bytes_of(&good), &header).unwrap().name, "quotes");
        let lies: [Lie<EntryRaw>; 9] = [
            ("commit", |e| e.commit = 1),
            ("area", |e| e.payload_area = 1),
            ("control in header", |e| e.control_offset = 0),
            ("control overflow", |e| e.control_length = u64::MAX),
            ("payload end", |e| e.payload_length = 1 << 20),
            ("payload alignment", |e| e.payload_offset += 8),
            ("slots", |e| e.consumers = u32::MAX),
            ("slots beyond control", |e| e.consumers = 5),
            ("name", |e| e.name = [0xff; NAME_BYTES]),
        ];
        for (what, lie) in lies {
            let mut raw = good;
            lie(&mut raw);
            assert!(
                Entry::parse(bytemuck::bytes_of(&raw), &header).is_err(),
                "{what} was believed"
            );
        }
    }

    #[test]
    fn lock_bytes_never_meet() {
        let mut seen = std::collections::HashSet::new();
        for byte in
            [LOCK_LIFE, LOCK_DIRECTORY, attachment_lock(0), attachment_lock(ATTACHMENTS_MAX)]
        {
            assert!(seen.insert(byte));
        }
        for object in [0, 1, OBJECTS_MAX] {
            for role in 0..2 {
                for slot in [0, 1, SLOTS_MAX - 1] {
                    let byte = endpoint_lock(object, role, slot);
                    assert!(seen.insert(byte) && byte < i64::MAX as u64);
                }
            }
        }
        assert!(attachment_lock(ATTACHMENTS_MAX) < endpoint_lock(0, 0, 0));
    }

    #[test]
    fn fixed_fields_keep_their_text_and_refuse_garbage() {
        assert_eq!(text_of(&field_of::<8>("abc")), Some("abc"));
        assert_eq!(text_of(b"abcdefgh"), None);
        assert_eq!(text_of(b"a\nb\0"), None);
        assert_eq!(text_of(&[0xc3, 0x28, 0]), None);
    }
}

//! The objects of a segment: declared when it is built, added while it lives, found by name.
//!
//! The directory is append-only and its entries are committed by their first
//! word, written last. Whoever adds holds the directory's lock byte; readers
//! take no lock. The next free byte is not stored anywhere: it follows from the
//! committed entries, so that an adder killed half-way leaves nothing behind.

use crate::error::{Error, ErrorKind, Result};
use crate::segment::layout::{
    ENTRY_COMMITTED, Entry, EntryRaw, Header, ObjectKind, TYPE_NAME_MAX, endpoints_length,
    field_of, place,
};
use crate::segment::names::check_name;
use crate::size::format_bytes;
use crate::view::View;
use core::mem::size_of;
use core::sync::atomic::Ordering;

/// The name and version under which a type is shared, chosen by the programs that share it.
///
/// Programs agree on a type by this name, its major version, and its size and
/// alignment, never by the Rust path of a type, which differs between programs.
/// Under one name and major version a reader's type may be shorter than what
/// lies in the ring: it then reads a prefix of each value, so that a later minor
/// version can append fields. The default identity is unnamed; sizes and
/// alignments must then be equal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct TypeIdentity {
    /// The agreed name, at most 120 bytes of visible ASCII; empty = unnamed.
    pub name: String,
    /// Programs with different major versions do not understand each other.
    pub major: u32,
    /// A higher minor version may have appended fields.
    pub minor: u32,
}

impl TypeIdentity {
    /// The identity `name`, version `major.minor`.
    pub fn new(name: impl Into<String>, major: u32, minor: u32) -> Self {
        Self { name: name.into(), major, minor }
    }

    fn check(&self, object: &str) -> Result<()> {
        let visible = self.name.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
        if self.name.len() <= TYPE_NAME_MAX && visible {
            return Ok(());
        }
        Err(Error::new(ErrorKind::InvalidName, "declare the type of object", object)
            .detail(format!("a type name is at most {TYPE_NAME_MAX} bytes of visible ASCII")))
    }
}

/// A description of an object's values for programs that do not know the type.
///
/// Programs may agree on any language, by a number. Number 1 is one that tools understand: it
/// describes values whose fields have fixed places, little-endian. [`Schema::fields`] makes such
/// a description, and `hugeshm echo` shows values by it.
///
/// # Fields
///
/// UTF-8 text. Fields are separated by `;` or line ends; from `#` on, the rest of a line is a
/// remark.
///
/// | field | |
/// |---|---|
/// | `NAME: TYPE` | lies where `#[repr(C)]` would put it: behind the one before, at a multiple of the alignment of its type |
/// | `NAME: TYPE @OFFSET` | begins that many bytes behind the first byte of the value; not before the end of the field before |
/// | `pad[N]` | N bytes that mean nothing, at once behind the field before |
///
/// A name is made of ASCII letters, digits and `_`, begins with no digit, and stands once. Numbers
/// are decimal; counts begin with 1. The types:
///
/// | type | bytes, and alignment | |
/// |---|---|---|
/// | `u8` `u16` `u32` `u64` `i8` `i16` `i32` `i64` | 1 to 8 | integers |
/// | `f32` `f64` | 4, 8 | IEEE 754 |
/// | `bool` | 1 | 0 or 1 |
/// | `char` | 1 | ASCII |
/// | `str[N]` | N, aligned to 1 | UTF-8 that ends with a zero byte, or fills the field |
/// | `[T; N]` | N times those of T, aligned like T | N values of type T, which may be arrays |
///
/// Bytes of a value behind the last field mean nothing; they may be those of a later version.
/// ```
/// use hugeshm::{LatestValue, Schema};
///
/// #[repr(C)]
/// struct Pose { nanos: u64, position: [f32; 3], frame: u8, valid: bool }
///
/// let schema = Schema::fields("nanos: u64; position: [f32; 3]; frame: u8; valid: bool");
/// let value = LatestValue::<Pose>::new().schema(schema);
/// # drop(value);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Schema {
    /// Which language the text is in: 0 = unspecified, 1 = [`Schema::FIELDS`]; up to 65535 kept
    /// for languages that tools know, from there on chosen by the programs.
    pub format: u32,
    /// The schema itself.
    pub bytes: Vec<u8>,
}

impl Schema {
    /// The number of the language that describes fields.
    pub const FIELDS: u32 = 1;
    /// The longest schema that an object can have, in bytes.
    pub const BYTES_MAX: usize = 1 << 20;

    /// A schema that describes fields, in the language that this type's page shows. The text is
    /// not looked at.
    pub fn fields(text: impl Into<String>) -> Self {
        Self::new(Self::FIELDS, text.into())
    }

    /// A schema of the given format.
    pub fn new(format: u32, bytes: impl Into<Vec<u8>>) -> Self {
        Self { format, bytes: bytes.into() }
    }
}

/// The calls that say what an object's messages are, for a description with the fields `identity` and
/// `schema`; `$them` names what is described.
macro_rules! description_calls {
    ($them:literal) => {
        #[doc = concat!("The name and version under which programs agree on ", $them, "; unnamed by default.")]
        #[must_use]
        pub fn identity(mut self, identity: crate::segment::directory::TypeIdentity) -> Self {
            self.identity = identity;
            self
        }

        #[doc = concat!("A description of ", $them, " for programs that do not know it.")]
        #[must_use]
        pub fn schema(mut self, schema: crate::segment::directory::Schema) -> Self {
            self.schema = Some(schema);
            self
        }
    };
}
pub(crate) use description_calls;

/// What an object is to be; its kind's room has checked the numbers.
#[derive(Clone, Debug)]
pub(crate) struct ObjectSpec {
    pub kind: ObjectKind,
    pub capacity: u64,
    pub stride: u64,
    pub payload_align: u64,
    pub user_header: u64,
    pub producers: u32,
    pub consumers: u32,
    /// Two numbers whose meaning is the kind's.
    pub extra: [u64; 2],
    /// The kind's own control words, behind the endpoint table.
    pub words_bytes: u64,
    pub payload_bytes: u64,
    pub type_identity: TypeIdentity,
    pub type_size: u64,
    pub type_align: u64,
    pub schema: Option<Schema>,
}

impl ObjectSpec {
    fn control_bytes(&self) -> u64 {
        endpoints_length(self.producers, self.consumers) + self.words_bytes
    }

    /// Where it would lie behind `cursor`: the entry without name and commit, and the new cursor.
    fn place(&self, cursor: u64) -> Option<(EntryRaw, u64)> {
        let (control_offset, payload_offset, end) =
            place(cursor, self.control_bytes(), self.payload_bytes, self.payload_align)?;
        let schema_length = self.schema.as_ref().map_or(0, |schema| schema.bytes.len() as u64);
        let schema_offset = end.checked_next_multiple_of(8)?;
        let end =
            if schema_length == 0 { end } else { schema_offset.checked_add(schema_length)? };
        let raw = EntryRaw {
            kind: self.kind.code(),
            control_offset,
            control_length: self.control_bytes(),
            payload_offset,
            payload_length: self.payload_bytes,
            capacity: self.capacity,
            stride: self.stride,
            payload_align: self.payload_align,
            user_header: self.user_header,
            producers: self.producers,
            consumers: self.consumers,
            extra: self.extra,
            type_size: self.type_size,
            type_align: self.type_align,
            type_major: self.type_identity.major,
            type_minor: self.type_identity.minor,
            schema_offset: if schema_length == 0 { 0 } else { schema_offset },
            schema_length,
            schema_format: self.schema.as_ref().map_or(0, |schema| schema.format),
            ..bytemuck::Zeroable::zeroed()
        };
        Some((raw, end))
    }
}

/// Checks a declared object's names and its schema.
pub(crate) fn check_declared(name: &str, spec: &ObjectSpec) -> Result<()> {
    check_name("declare object", name)?;
    let schema_bytes = spec.schema.as_ref().map_or(0, |schema| schema.bytes.len());
    if schema_bytes > Schema::BYTES_MAX {
        return Err(Error::new(ErrorKind::InvalidSize, "declare the schema of object", name)
            .detail(format!("it has {schema_bytes} bytes, {} are possible", Schema::BYTES_MAX)));
    }
    spec.type_identity.check(name)
}

/// The first byte behind all of `specs` when they are placed from `cursor` on.
pub(crate) fn end_of<'a>(
    cursor: u64,
    specs: impl IntoIterator<Item = &'a ObjectSpec>,
) -> Option<u64> {
    specs.into_iter().try_fold(cursor, |cursor, spec| Some(spec.place(cursor)?.1))
}

/// The directory of a mapped segment.
#[derive(Clone, Debug)]
pub(crate) struct Directory {
    view: View,
    capacity: u32,
}

/// The bytes of one entry.
const ENTRY: usize = size_of::<EntryRaw>();

impl Directory {
    /// The directory that a checked header describes.
    pub(crate) fn new(segment: &View, header: &Header) -> Option<Self> {
        let capacity = header.raw.directory_capacity;
        let view =
            segment.window(header.raw.directory_offset as usize, capacity as usize * ENTRY)?;
        Some(Self { view, capacity })
    }

    /// All committed entries with their index; a damaged one is an error in its place.
    pub(crate) fn entries(
        &self,
        header: &Header,
    ) -> impl Iterator<Item = (u32, Result<Entry, &'static str>)> {
        (0..self.capacity)
            .take_while(|&index| {
                self.view.word64(index as usize * ENTRY).load(Ordering::Acquire) != 0
            })
            .map(|index| {
                let mut bytes = [0u8; ENTRY];
                self.view.read(index as usize * ENTRY, &mut bytes);
                (index, Entry::parse(&bytes, header))
            })
    }

    /// The object of this name, or `None`; entries that are damaged cannot be it.
    pub(crate) fn find(&self, header: &Header, name: &str) -> Option<(u32, Entry)> {
        self.entries(header).find_map(|(index, entry)| {
            entry.ok().filter(|entry| entry.name == name).map(|entry| (index, entry))
        })
    }

    /// Appends an object; the caller holds the directory's lock byte, or is alone.
    pub(crate) fn append(
        &self,
        segment: &View,
        header: &Header,
        name: &str,
        spec: &ObjectSpec,
    ) -> Result<(u32, Entry)> {
        const OPERATION: &str = "add object";
        let mut cursor = header.raw.objects_offset;
        let mut count = 0;
        for (index, entry) in self.entries(header) {
            let raw = entry
                .map_err(|what| {
                    Error::new(ErrorKind::Corrupt, OPERATION, name)
                        .detail(format!("entry {index} of the directory is damaged: {what}"))
                })?
                .raw;
            // The ranges were checked to lie inside the segment, so the sums cannot wrap.
            cursor = cursor
                .max(raw.control_offset + raw.control_length)
                .max(raw.payload_offset + raw.payload_length)
                .max(raw.schema_offset + raw.schema_length);
            count = index + 1;
        }
        if count == self.capacity {
            return Err(Error::new(ErrorKind::TableFull, OPERATION, name)
                .detail(format!("the directory holds {count} objects, its capacity"))
                .remedy("build the segment with a larger max_objects"));
        }
        let (mut raw, end) =
            spec.place(cursor).filter(|&(_, end)| end <= header.raw.length).ok_or_else(|| {
                let room = header.raw.length - cursor;
                Error::new(ErrorKind::NoSpace, OPERATION, name)
                    .detail(format!(
                        "needs {} of payload and its control words, {} of {} are free",
                        format_bytes(spec.payload_bytes),
                        format_bytes(room),
                        format_bytes(header.raw.length)
                    ))
                    .remedy("build the segment with a larger size or with spare bytes")
            })?;
        debug_assert!(end <= header.raw.length);
        raw.name = field_of(name);
        raw.type_name = field_of(&spec.type_identity.name);
        segment.zero(raw.control_offset as usize, raw.control_length as usize);
        if let Some(schema) = &spec.schema {
            segment.write(raw.schema_offset as usize, &schema.bytes);
        }
        let at = count as usize * ENTRY;
        self.view.write(at + 8, &bytemuck::bytes_of(&raw)[8..]);
        self.view.word64(at).store(ENTRY_COMMITTED, Ordering::Release);
        raw.commit = ENTRY_COMMITTED;
        let entry = Entry::parse(bytemuck::bytes_of(&raw), header)
            .map_err(|what| Error::new(ErrorKind::Corrupt, OPERATION, name).detail(what))?;
        Ok((count, entry))
    }
}

/// Checks that an existing object is what `spec` declares, as for `open_or_create`.
pub(crate) fn check_same(name: &str, entry: &Entry, spec: &ObjectSpec) -> Result<()> {
    let raw = &entry.raw;
    let difference =
        |kind, what: &str, here: &dyn core::fmt::Display, asked: &dyn core::fmt::Display| {
            Err(Error::new(kind, "use existing object", name)
                .detail(format!("its {what} is {here}, {asked} was asked for"))
                .remedy("ask for what is there, choose another name, or replace the segment"))
        };
    if entry.kind != spec.kind {
        return difference(ErrorKind::KindMismatch, "kind", &entry.kind, &spec.kind);
    }
    let extra = match entry.kind {
        ObjectKind::CallCell => ["size of an answer", "alignment of an answer"],
        ObjectKind::BroadcastRing | ObjectKind::BroadcastRecords => {
            ["choice of being lossless (1) or not (0)", "second extra word"]
        }
        ObjectKind::Lanes => ["number of lanes", "second extra word"],
        _ => ["first extra word", "second extra word"],
    };
    let numbers = [
        ("capacity", raw.capacity, spec.capacity),
        ("stride", raw.stride, spec.stride),
        ("payload alignment", raw.payload_align, spec.payload_align),
        ("user header", raw.user_header, spec.user_header),
        ("number of producers", raw.producers.into(), spec.producers.into()),
        ("number of consumers", raw.consumers.into(), spec.consumers.into()),
        (extra[0], raw.extra[0], spec.extra[0]),
        (extra[1], raw.extra[1], spec.extra[1]),
    ];
    for (what, here, asked) in numbers {
        if here != asked {
            return difference(ErrorKind::KindMismatch, what, &here, &asked);
        }
    }
    check_type(name, entry, &spec.type_identity, spec.type_size, spec.type_align, false)
}

/// Checks that values of the asked-for type may be exchanged through an object.
///
/// A reader may see a prefix of what is there, under one name and major version.
pub(crate) fn check_type(
    name: &str,
    entry: &Entry,
    asked: &TypeIdentity,
    size: u64,
    align: u64,
    reading: bool,
) -> Result<()> {
    let raw = &entry.raw;
    let here = entry.type_name().unwrap_or("(not text)");
    let prefix = reading && !asked.name.is_empty() && size <= raw.type_size;
    let same = here == asked.name
        && raw.type_major == asked.major
        && (raw.type_size == size || prefix)
        && (raw.type_align == align || prefix);
    if same {
        return Ok(());
    }
    Err(Error::new(ErrorKind::TypeMismatch, "use the type of object", name)
        .detail(format!(
            "it holds {here:?} {}.{} of {} bytes aligned to {}, asked for {:?} {}.{} of {size} \
             bytes aligned to {align}",
            raw.type_major,
            raw.type_minor,
            raw.type_size,
            raw.type_align,
            asked.name,
            asked.major,
            asked.minor,
        ))
        .remedy("use one type, name and major version on both sides, or another object"))
}

//! What the bytes of a value say by its schema: as text on one line, and as JSON.

use super::{Field, Fields, Scalar, Type};
use core::fmt;
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};

/// How many elements of an array a line shows.
const SHOWN: usize = 32;

/// The bytes of a value and what they mean.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Value<'a> {
    fields: &'a Fields,
    bytes: &'a [u8],
}

impl<'a> Value<'a> {
    pub(super) const fn new(fields: &'a Fields, bytes: &'a [u8]) -> Self {
        Self { fields, bytes }
    }

    /// The fields that are there.
    fn parts(&self) -> impl Iterator<Item = (&'a str, Part<'a>)> {
        let bytes = self.bytes;
        let whole = |field: &'a Field| {
            let end = field.offset.checked_add(field.kind.size())?;
            let bytes =
                bytes.get(usize::try_from(field.offset).ok()?..usize::try_from(end).ok()?)?;
            Some((&*field.name, Part { kind: &field.kind, bytes }))
        };
        self.fields.fields.iter().filter_map(whole)
    }
}

impl fmt::Display for Value<'_> {
    /// `seq=7 price=99.5 name="x"`, on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = 0;
        for (name, part) in self.parts() {
            let gap = if shown > 0 { " " } else { "" };
            write!(f, "{gap}{name}={part}")?;
            shown += 1;
        }
        match self.fields.fields.len() - shown {
            0 => Ok(()),
            missing => write!(
                f,
                " ({} of {} bytes, {missing} fields are not there)",
                self.bytes.len(),
                self.fields.size
            ),
        }
    }
}

impl Serialize for Value<'_> {
    /// An object of the fields that are there.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, part) in self.parts() {
            map.serialize_entry(name, &part)?;
        }
        map.end()
    }
}

/// One field of a value, or one element: as many bytes as its type has.
#[derive(Clone, Copy, Debug)]
struct Part<'a> {
    kind: &'a Type,
    bytes: &'a [u8],
}

/// What the bytes of a field without parts say.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Plain<'a> {
    Unsigned(u64),
    Signed(i64),
    Single(f32),
    Double(f64),
    Bool(bool),
    Char(char),
    Text(&'a [u8]),
    /// No value of its type.
    Strange(u8),
}

impl<'a> Part<'a> {
    fn elements(&self, of: &'a Type) -> impl Iterator<Item = Part<'a>> {
        // A type has at least one byte; and it has no more than its array, which is here.
        let size = usize::try_from(of.size()).unwrap_or(usize::MAX).max(1);
        self.bytes.chunks_exact(size).map(move |bytes| Part { kind: of, bytes })
    }

    fn plain(&self) -> Option<Plain<'a>> {
        let mut word = [0; 8];
        let known = self.bytes.len().min(8);
        word[..known].copy_from_slice(&self.bytes[..known]);
        let unsigned = u64::from_le_bytes(word);
        Some(match self.kind {
            Type::Array(..) => return None,
            Type::Str(_) => {
                let end = self.bytes.iter().position(|&byte| byte == 0);
                Plain::Text(&self.bytes[..end.unwrap_or(self.bytes.len())])
            }
            Type::One(scalar) => match scalar {
                Scalar::U8 | Scalar::U16 | Scalar::U32 | Scalar::U64 => Plain::Unsigned(unsigned),
                Scalar::I8 => Plain::Signed(i64::from(word[0] as i8)),
                Scalar::I16 => Plain::Signed(i64::from(unsigned as i16)),
                Scalar::I32 => Plain::Signed(i64::from(unsigned as i32)),
                Scalar::I64 => Plain::Signed(unsigned as i64),
                Scalar::F32 => Plain::Single(f32::from_bits(unsigned as u32)),
                Scalar::F64 => Plain::Double(f64::from_bits(unsigned)),
                Scalar::Bool if word[0] <= 1 => Plain::Bool(word[0] == 1),
                Scalar::Char if word[0].is_ascii() => Plain::Char(char::from(word[0])),
                Scalar::Bool | Scalar::Char => Plain::Strange(word[0]),
            },
        })
    }
}

impl fmt::Display for Part<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Type::Array(of, count) = self.kind {
            f.write_str("[")?;
            for (index, element) in self.elements(of).take(SHOWN).enumerate() {
                let gap = if index > 0 { ", " } else { "" };
                write!(f, "{gap}{element}")?;
            }
            let more = count.saturating_sub(SHOWN as u64);
            return if more > 0 { write!(f, ", {more} more]") } else { f.write_str("]") };
        }
        match self.plain() {
            None => Ok(()),
            Some(Plain::Unsigned(number)) => write!(f, "{number}"),
            Some(Plain::Signed(number)) => write!(f, "{number}"),
            Some(Plain::Single(number)) => write!(f, "{number:?}"),
            Some(Plain::Double(number)) => write!(f, "{number:?}"),
            Some(Plain::Bool(truth)) => write!(f, "{truth}"),
            Some(Plain::Char(c)) => write!(f, "{c:?}"),
            Some(Plain::Text(text)) => write!(f, "{:?}", String::from_utf8_lossy(text)),
            Some(Plain::Strange(byte)) => write!(f, "?{byte}"),
        }
    }
}

impl Serialize for Part<'_> {
    /// Numbers, texts and lists; numbers that JSON does not know are texts, and bytes that are
    /// no `bool` or `char` are numbers.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Type::Array(of, _) = self.kind {
            let mut list = serializer.serialize_seq(None)?;
            for element in self.elements(of) {
                list.serialize_element(&element)?;
            }
            return list.end();
        }
        match self.plain() {
            None => serializer.serialize_unit(),
            Some(Plain::Unsigned(number)) => serializer.serialize_u64(number),
            Some(Plain::Signed(number)) => serializer.serialize_i64(number),
            Some(Plain::Single(number)) if number.is_finite() => serializer.serialize_f32(number),
            Some(Plain::Double(number)) if number.is_finite() => serializer.serialize_f64(number),
            Some(Plain::Single(number)) => serializer.collect_str(&number),
            Some(Plain::Double(number)) => serializer.collect_str(&number),
            Some(Plain::Bool(truth)) => serializer.serialize_bool(truth),
            Some(Plain::Char(c)) => serializer.serialize_char(c),
            Some(Plain::Text(text)) => serializer.serialize_str(&String::from_utf8_lossy(text)),
            Some(Plain::Strange(byte)) => serializer.serialize_u8(byte),
        }
    }
}

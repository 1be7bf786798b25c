//! The language of a schema's text.

use super::{Field, Fields, SIZE_MAX, Scalar, Type};
use std::collections::HashSet;

/// The longest text that is read.
const TEXT_MAX: usize = hugeshm::Schema::BYTES_MAX;
/// Arrays of arrays, so deep.
const DEPTH_MAX: u32 = 8;
/// The longest name of a field.
const NAME_MAX: usize = 100;

impl core::str::FromStr for Fields {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() > TEXT_MAX {
            return Err(format!("a schema of {} bytes, {TEXT_MAX} are possible", text.len()));
        }
        let mut parser = Parser { text, at: 0 };
        let mut fields: Vec<Field> = Vec::new();
        let mut names = HashSet::new();
        let mut end = 0;
        while parser.next_field() {
            let line = parser.at;
            let too_large = |parser: &Parser<'_>| {
                parser.wrong_at(line, &format!("more than {SIZE_MAX} bytes of fields"))
            };
            if let Some(bytes) = parser.pad()? {
                end = advance(end, bytes).ok_or_else(|| too_large(&parser))?;
                parser.end_of_field()?;
                continue;
            }
            let name = parser.name()?;
            if !names.insert(name) {
                return Err(parser.wrong_at(line, &format!("a second field {name:?}")));
            }
            parser.expect(':')?;
            let kind = parser.kind(0)?;
            let offset = match parser.offset()? {
                Some(offset) if offset < end => {
                    let what = format!("{name:?} at {offset} overlaps the field before it");
                    return Err(parser.wrong_at(line, &what));
                }
                Some(offset) => offset,
                None => end.next_multiple_of(kind.align()),
            };
            end = advance(offset, kind.size()).ok_or_else(|| too_large(&parser))?;
            parser.end_of_field()?;
            fields.push(Field { name: name.to_owned(), offset, kind });
        }
        if fields.is_empty() {
            return Err("a schema without a field".to_owned());
        }
        Ok(Self { fields, size: end })
    }
}

/// The sum, if it is a possible size.
fn advance(offset: u64, bytes: u64) -> Option<u64> {
    offset.checked_add(bytes).filter(|&end| end <= SIZE_MAX)
}

/// What is left of a schema's text.
struct Parser<'a> {
    text: &'a str,
    /// The byte that comes next.
    at: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn wrong_at(&self, at: usize, what: &str) -> String {
        let before = &self.text[..at];
        let line = before.bytes().filter(|&byte| byte == b'\n').count() + 1;
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        let column = before[start..].chars().count() + 1;
        format!("line {line}, column {column}: {what}")
    }

    /// That `wanted` should stand here.
    fn wrong<T>(&self, wanted: &str) -> Result<T, String> {
        let here = match self.rest().chars().next() {
            None => "the end".to_owned(),
            Some('\n') => "the end of the line".to_owned(),
            Some(c) => format!("{c:?}"),
        };
        Err(self.wrong_at(self.at, &format!("{wanted} is wanted, here is {here}")))
    }

    /// Skips blanks and remarks, not line ends.
    fn blanks(&mut self) {
        let rest = self.rest();
        let left = rest.trim_start_matches(|c: char| c.is_whitespace() && c != '\n');
        let left = if left.starts_with('#') {
            left.find('\n').map_or("", |end| &left[end..])
        } else {
            left
        };
        self.at += rest.len() - left.len();
    }

    /// Skips what stands between two fields; whether there is another one.
    fn next_field(&mut self) -> bool {
        loop {
            self.blanks();
            if !self.take(';') && !self.take('\n') {
                return !self.rest().is_empty();
            }
        }
    }

    fn end_of_field(&mut self) -> Result<(), String> {
        self.blanks();
        match self.rest().chars().next() {
            None | Some(';' | '\n') => Ok(()),
            Some(_) => self.wrong("';' or the end of the line"),
        }
    }

    fn take(&mut self, wanted: char) -> bool {
        let there = self.rest().starts_with(wanted);
        if there {
            self.at += wanted.len_utf8();
        }
        there
    }

    fn expect(&mut self, wanted: char) -> Result<(), String> {
        self.blanks();
        if self.take(wanted) { Ok(()) } else { self.wrong(&format!("{wanted:?}")) }
    }

    /// The word here, if any: letters, digits and underscores that do not begin with a digit.
    fn word(&self) -> &'a str {
        let rest = self.rest();
        let ends = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
        let word = &rest[..rest.find(ends).unwrap_or(rest.len())];
        if word.starts_with(|c: char| c.is_ascii_digit()) { "" } else { word }
    }

    fn name(&mut self) -> Result<&'a str, String> {
        let name = self.word();
        if name.is_empty() {
            return self.wrong("the name of a field");
        }
        if name.len() > NAME_MAX {
            let what = format!("a name of more than {NAME_MAX} bytes");
            return Err(self.wrong_at(self.at, &what));
        }
        self.at += name.len();
        Ok(name)
    }

    fn number(&mut self) -> Result<u64, String> {
        self.blanks();
        let rest = self.rest();
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        if end == 0 {
            return self.wrong("a number");
        }
        let number = rest[..end].parse().ok().filter(|&number| number <= SIZE_MAX);
        let number =
            number.ok_or_else(|| self.wrong_at(self.at, &format!("a number above {SIZE_MAX}")))?;
        self.at += end;
        Ok(number)
    }

    /// A number of bytes or elements: nothing is empty.
    fn count(&mut self) -> Result<u64, String> {
        self.blanks();
        let at = self.at;
        match self.number()? {
            0 => Err(self.wrong_at(at, "0 of something")),
            count => Ok(count),
        }
    }

    /// `[N]`
    fn brackets(&mut self) -> Result<u64, String> {
        self.expect('[')?;
        let count = self.count()?;
        self.expect(']')?;
        Ok(count)
    }

    /// `pad[N]`, which is no field; a field may be called `pad`, too.
    fn pad(&mut self) -> Result<Option<u64>, String> {
        let before = self.at;
        if self.word() != "pad" {
            return Ok(None);
        }
        self.at += "pad".len();
        self.blanks();
        if self.rest().starts_with('[') {
            return self.brackets().map(Some);
        }
        self.at = before;
        Ok(None)
    }

    /// `@N`
    fn offset(&mut self) -> Result<Option<u64>, String> {
        self.blanks();
        if self.take('@') { self.number().map(Some) } else { Ok(None) }
    }

    fn kind(&mut self, depth: u32) -> Result<Type, String> {
        self.blanks();
        let at = self.at;
        if self.take('[') {
            if depth == DEPTH_MAX {
                return Err(self.wrong_at(at, &format!("arrays more than {DEPTH_MAX} deep")));
            }
            let of = self.kind(depth + 1)?;
            self.expect(';')?;
            let count = self.count()?;
            self.expect(']')?;
            let size = of.size().checked_mul(count).filter(|&size| size <= SIZE_MAX);
            return match size {
                Some(_) => Ok(Type::Array(Box::new(of), count)),
                None => Err(self.wrong_at(at, &format!("an array of more than {SIZE_MAX} bytes"))),
            };
        }
        let word = self.word();
        self.at += word.len();
        match (word, Scalar::named(word)) {
            (_, Some(scalar)) => Ok(Type::One(scalar)),
            ("str", None) => self.brackets().map(Type::Str),
            _ => {
                self.at = at;
                const TYPES: &str = "u8 to u64, i8 to i64, f32, f64, bool, char, str[N] or [T; N]";
                self.wrong(&format!("a type ({TYPES})"))
            }
        }
    }
}

//! Values as their schema describes them: the language of `hugeshm::Schema::FIELDS`, read and applied.
//!
//! A schema is text that somebody wrote into shared memory, and may be a lie. It
//! is read in time and memory bounded by its length; what comes of it lies inside
//! of [`SIZE_MAX`] bytes, takes no value for more than its bytes, and prints at
//! least one of them at every step.

mod parse;
mod value;

pub(crate) use value::Value;

/// Bytes of all fields together.
const SIZE_MAX: u64 = 1 << 40;

/// The fields of a value, in order of their offsets; they do not overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fields {
    fields: Vec<Field>,
    size: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Field {
    name: String,
    offset: u64,
    kind: Type,
}

/// What a field is; it has at least one byte.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Type {
    One(Scalar),
    /// Text that ends with a zero byte, or with the field.
    Str(u64),
    Array(Box<Type>, u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scalar {
    U8,
    U16,
    U32,
    U64,
    I8,
    I16,
    I32,
    I64,
    F32,
    F64,
    Bool,
    Char,
}

impl Scalar {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "u8" => Self::U8,
            "u16" => Self::U16,
            "u32" => Self::U32,
            "u64" => Self::U64,
            "i8" => Self::I8,
            "i16" => Self::I16,
            "i32" => Self::I32,
            "i64" => Self::I64,
            "f32" => Self::F32,
            "f64" => Self::F64,
            "bool" => Self::Bool,
            "char" => Self::Char,
            _ => return None,
        })
    }

    const fn size(self) -> u64 {
        match self {
            Self::U8 | Self::I8 | Self::Bool | Self::Char => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }
}

impl Type {
    /// Whoever parsed it has seen that this is at most [`SIZE_MAX`].
    fn size(&self) -> u64 {
        match self {
            Self::One(scalar) => scalar.size(),
            Self::Str(length) => *length,
            Self::Array(of, count) => of.size() * count,
        }
    }

    fn align(&self) -> u64 {
        match self {
            Self::One(scalar) => scalar.size(),
            Self::Str(_) => 1,
            Self::Array(of, _) => of.align(),
        }
    }
}

impl Fields {
    /// From the first field's first byte to the last one's last.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// A value that these fields describe; it may be shorter, and has not all of them then.
    pub(crate) fn of<'a>(&'a self, bytes: &'a [u8]) -> Value<'a> {
        Value::new(self, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields {
        text.parse().unwrap_or_else(|error| panic!("{text:?}: {error}"))
    }

    fn error(text: &str) -> String {
        text.parse::<Fields>().expect_err(text)
    }

    fn shown(text: &str, bytes: &[u8]) -> String {
        fields(text).of(bytes).to_string()
    }

    fn json(text: &str, bytes: &[u8]) -> String {
        serde_json::to_string(&fields(text).of(bytes)).expect("it can be written")
    }

    #[test]
    fn fields_lie_where_c_would_lay_them_or_where_they_say() {
        let offsets = |text: &str| {
            let fields = fields(text);
            (fields.fields.iter().map(|field| field.offset).collect::<Vec<_>>(), fields.size())
        };
        assert_eq!(offsets("a: u8; b: u64; c: u16; d: u8"), (vec![0, 8, 16, 18], 19));
        assert_eq!(offsets("a: u8\nb: [u32; 3]\n c : i16"), (vec![0, 4, 16], 18));
        assert_eq!(offsets("a: u8; b: str[3]; c: f32; d: bool"), (vec![0, 1, 4, 8], 9));
        assert_eq!(offsets("a: u8; pad[4]; b: u8; pad[100]"), (vec![0, 5], 106));
        assert_eq!(offsets("a: u8 @3; b: u64@4; c: char @ 20"), (vec![3, 4, 20], 21));
        assert_eq!(offsets("a: [[u16; 2]; 3]; b: f64"), (vec![0, 16], 24));
        assert_eq!(offsets(";; # nothing\n\n a:u8 # one; b: u8\n;\r\n\tb:u8;"), (vec![0, 1], 2));
        assert_eq!(offsets("pad: u8; u8: u16"), (vec![0, 2], 4));
    }

    #[test]
    fn every_type_is_shown_as_what_it_is() {
        assert_eq!(shown("a: u8; b: i8", &[255, 255]), "a=255 b=-1");
        let word = 0x8000_0001_u32.to_le_bytes();
        assert_eq!(shown("a: u16; b: i16", &word), "a=1 b=-32768");
        assert_eq!(shown("a: u32", &word), "a=2147483649");
        assert_eq!(shown("a: i32", &word), "a=-2147483647");
        let long = u64::MAX.to_le_bytes();
        assert_eq!(shown("a: u64", &long), "a=18446744073709551615");
        assert_eq!(shown("a: i64", &long), "a=-1");
        assert_eq!(shown("a: f32", &1.5_f32.to_le_bytes()), "a=1.5");
        assert_eq!(shown("a: f64", &(-0.0_f64).to_le_bytes()), "a=-0.0");
        assert_eq!(shown("a: f64", &f64::NAN.to_le_bytes()), "a=NaN");
        assert_eq!(shown("a: bool; b: bool; c: bool", &[0, 1, 2]), "a=false b=true c=?2");
        assert_eq!(shown("a: char; b: char; c: char", b"x\n\x80"), "a='x' b='\\n' c=?128");
        assert_eq!(shown("a: str[4]; b: str[2]", b"ab\0zyx"), "a=\"ab\" b=\"yx\"");
        assert_eq!(shown("a: str[8]", b"\"\x1b[2J\xff\0\0"), "a=\"\\\"\\u{1b}[2J\u{fffd}\"");
        assert_eq!(shown("a: [[u8; 2]; 2]", &[1, 2, 3, 4]), "a=[[1, 2], [3, 4]]");
        let many = shown("a: [u8; 40]", &[7; 40]);
        assert!(many.ends_with("7, 8 more]") && many.matches('7').count() == 32, "{many}");
    }

    #[test]
    fn json_has_numbers_texts_and_lists() {
        let bytes = [&[1, 0, b'x', b'a', 0, 0, 0, 0], &f64::INFINITY.to_le_bytes()[..]].concat();
        let text = "n: u8; b: bool; c: char; s: str[3]; pad[2]; d: f64";
        assert_eq!(json(text, &bytes), r#"{"n":1,"b":false,"c":"x","s":"a","d":"inf"}"#);
        assert_eq!(json("a: [i8; 3]; b: bool", &[1, 255, 3, 9]), r#"{"a":[1,-1,3],"b":9}"#);
        let all = json("a: [u8; 40]", &[7; 40]);
        assert_eq!(all.matches('7').count(), 40, "{all}");
    }

    #[test]
    fn a_short_value_lacks_fields_and_a_long_one_has_more_to_it() {
        let text = "a: u8; b: u32; c: u8";
        assert_eq!(shown(text, &[1, 0, 0, 0, 2, 0, 0, 0, 3, 4, 5]), "a=1 b=2 c=3");
        let short = shown(text, &[1, 0, 0, 0, 2]);
        assert_eq!(short, "a=1 (5 of 9 bytes, 2 fields are not there)");
        assert_eq!(json(text, &[1, 0, 0, 0, 2]), r#"{"a":1}"#);
        assert_eq!(json(text, &[]), "{}");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (text, complaint) in [
            ("", "a schema without a field"),
            ("pad[8]", "a schema without a field"),
            ("a", "line 1, column 2: ':' is wanted, here is the end"),
            ("a: u8\nb u8", "line 2, column 3: ':' is wanted, here is 'u'"),
            ("a: u8; 1b: u8", "line 1, column 8: the name of a field is wanted, here is '1'"),
            ("a: u8 b: u8", "line 1, column 7: ';' or the end of the line is wanted, here is 'b'"),
            ("a: u8; a: u8", "line 1, column 8: a second field \"a\""),
            ("a: [u8; 0]", "line 1, column 9: 0 of something"),
            ("a: [u8, 2]", "line 1, column 7: ';' is wanted, here is ','"),
            ("a: [u8; 2", "line 1, column 10: ']' is wanted, here is the end"),
            ("a: [u8;\n2]", "line 1, column 8: a number is wanted, here is the end of the line"),
            ("a: str", "line 1, column 7: '[' is wanted, here is the end"),
            ("pad[0]; a: u8", "line 1, column 5: 0 of something"),
            ("a: u64; b: u8 @7", "line 1, column 9: \"b\" at 7 overlaps the field before it"),
            ("a: [u8; -1]", "line 1, column 9: a number is wanted, here is '-'"),
        ] {
            assert_eq!(error(text), complaint, "{text:?}");
        }
        for text in ["a: u128", "a: usize", "a: pad[3]", "a: [pad[3]; 2]", "a:", "a: U8"] {
            assert!(error(text).contains("a type (u8 to u64, "), "{text:?}");
        }
    }

    #[test]
    fn lies_are_refused_in_time_and_memory_of_their_length() {
        let huge =
            ["a: [u8; 18446744073709551615]", "a: [u64; 137438953473]", "pad[1099511627777]"];
        let sum = "a: [u8; 1099511627776]; b: u8";
        let product = "a: [[[u8; 1099511627776]; 1099511627776]; 1099511627776]";
        let digits = format!("a: [u8; {}]", "9".repeat(100_000));
        let far = "a: u64 @1099511627770";
        for text in huge.into_iter().chain([sum, product, &digits, far]) {
            assert!(error(text).contains(" 1099511627776"), "{}", error(text));
        }
        assert!(error(&format!("a: {}", "[".repeat(500_000))).contains("deep"));
        assert!(error(&"a: u8;".repeat(300_000)).contains("are possible"));
        assert!(error(&"a".repeat(200_000)).contains("a name of more than"));
        assert!(error(&"#".repeat(1 << 20)).contains("without a field"));
        assert!(error(&";".repeat(1 << 20)).contains("without a field"));
        // An array that is not there costs nothing, however large it says to be.
        let value = "a: u8; b: [[u8; 1048576]; 1048575]";
        assert_eq!(json(value, &[1; 64]), r#"{"a":1}"#);
        let many: String = (0..100_000).map(|n| format!("f{n}:u8;")).collect();
        assert_eq!(fields(&many).size(), 100_000);
    }

    #[test]
    fn any_text_is_a_schema_or_a_complaint() {
        const PARTS: [&str; 20] = [
            "a",
            "b",
            ":",
            ";",
            "\n",
            "u8",
            "u64",
            "[",
            "]",
            "str",
            "pad",
            "@",
            "7",
            "0",
            " ",
            "#",
            "\u{202e}",
            "é",
            "1099511627776",
            "char",
        ];
        let mut state = 1_u64;
        for _ in 0..50_000 {
            let mut text = String::new();
            for _ in 0..12 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                text.push_str(PARTS[(state >> 33) as usize % PARTS.len()]);
            }
            if let Ok(fields) = text.parse::<Fields>() {
                let value = fields.of(b"0123456789abcdef");
                assert!(!value.to_string().is_empty(), "{text:?}");
                serde_json::to_string(&value).expect("it can be written");
            }
        }
    }
}

//! How a message is printed.
//!
//! What is printed goes out when there is nothing more to print at once, so that
//! a reader of many messages is not held up by a system call for each.

use super::source::Passed;
use crate::output::{self, Failure};
use crate::schema::{Fields, Value};
use core::fmt::Write as _;
use core::ops::ControlFlow;
use serde::Serialize;

/// How many bytes are printed at once.
const TOGETHER: usize = 64 << 10;
/// Bytes on a line of hexadecimal digits.
const ON_A_LINE: usize = 16;

/// How messages are shown.
#[derive(Debug)]
pub(super) enum Manner {
    /// Their bytes, as they are.
    Raw,
    /// Their bytes as digits and letters.
    Hex,
    /// A line of named values.
    Fields(Fields),
    /// A line of JSON: named values, or else digits.
    Json(Option<Fields>),
}

#[derive(Serialize)]
struct Message<'a> {
    position: u64,
    /// How many bytes it has.
    bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    fields: Option<Value<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hex: Option<String>,
}

/// Says that messages were lost.
#[derive(Serialize)]
struct Gap {
    /// The first message behind it.
    position: u64,
    missed: u64,
}

/// Prints messages.
pub(super) struct Printer {
    pub manner: Manner,
    waiting: Vec<u8>,
}

impl Printer {
    pub(super) const fn new() -> Self {
        Self { manner: Manner::Hex, waiting: Vec::new() }
    }

    /// Prints a message, soon; `Break` if nobody reads it.
    pub(super) fn print(&mut self, passed: &Passed<'_>) -> Result<ControlFlow<()>, Failure> {
        let Passed { position, gap, bytes } = *passed;
        if gap > 0 {
            self.print_gap(position, gap)?;
        }
        match &self.manner {
            Manner::Raw => self.waiting.extend_from_slice(bytes),
            Manner::Hex => self.waiting.extend_from_slice(hex_lines(position, bytes).as_bytes()),
            Manner::Fields(fields) => {
                let line = format!("{position}: {}", fields.of(bytes));
                self.waiting.extend_from_slice(output::harmless(&line).as_bytes());
                self.waiting.push(b'\n');
            }
            Manner::Json(fields) => {
                let message = Message {
                    position,
                    bytes: bytes.len(),
                    fields: fields.as_ref().map(|fields| fields.of(bytes)),
                    hex: fields.is_none().then(|| digits(bytes)),
                };
                let line = output::json_line(&message)?;
                self.waiting.extend_from_slice(line.as_bytes());
                self.waiting.push(b'\n');
            }
        }
        if self.waiting.len() < TOGETHER { Ok(ControlFlow::Continue(())) } else { self.flush() }
    }

    fn print_gap(&mut self, position: u64, missed: u64) -> Result<(), Failure> {
        if matches!(self.manner, Manner::Json(_)) {
            let line = output::json_line(&Gap { position, missed })?;
            self.waiting.extend_from_slice(line.as_bytes());
            self.waiting.push(b'\n');
        } else {
            let what = format!("echo: {missed} messages before position {position} were missed");
            output::complain(&Failure::Undone(what));
        }
        Ok(())
    }

    /// Prints what waits; `Break` if nobody reads it.
    pub(super) fn flush(&mut self) -> Result<ControlFlow<()>, Failure> {
        if self.waiting.is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        let written = output::write(&self.waiting);
        self.waiting.clear();
        written
    }
}

fn digits(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// `POSITION+OFFSET  bytes as digits  |bytes as letters|`, line by line.
fn hex_lines(position: u64, bytes: &[u8]) -> String {
    let mut text = String::new();
    let nothing: [&[u8]; 1] = [&[]];
    let lines = bytes.chunks(ON_A_LINE).chain(nothing.into_iter().filter(|_| bytes.is_empty()));
    for (number, line) in lines.enumerate() {
        let _ = write!(text, "{position}+{:04x} ", number * ON_A_LINE);
        for at in 0..ON_A_LINE {
            let gap = if at == ON_A_LINE / 2 { " " } else { "" };
            match line.get(at) {
                Some(byte) => _ = write!(text, "{gap} {byte:02x}"),
                None => _ = write!(text, "{gap}   "),
            }
        }
        text.push_str("  |");
        let letter = |&byte: &u8| if matches!(byte, b' '..=b'~') { char::from(byte) } else { '.' };
        text.extend(line.iter().map(letter));
        text.push_str("|\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_lines_of_sixteen_digits_and_letters() {
        let bytes: Vec<u8> = (0x38..0x4b).chain([0x1b, 0xff]).collect();
        assert_eq!(
            hex_lines(7, &bytes),
            "7+0000  38 39 3a 3b 3c 3d 3e 3f  40 41 42 43 44 45 46 47  |89:;<=>?@ABCDEFG|\n\
             7+0010  48 49 4a 1b ff                                    |HIJ..|\n"
        );
        let empty = hex_lines(7, &[]);
        assert!(empty.starts_with("7+0000 ") && empty.ends_with(" ||\n"), "{empty}");
        assert_eq!(digits(&[0, 0x1b, 0xff]), "001bff");
    }

    #[test]
    fn a_gap_is_a_line_of_json_before_its_message() {
        let mut printer = Printer::new();
        printer.manner = Manner::Json(Some("a: u8".parse().expect("a schema")));
        let print = printer.print(&Passed { position: 9, gap: 3, bytes: &[5] });
        assert!(print.expect("it waits").is_continue());
        assert_eq!(
            core::str::from_utf8(&printer.waiting),
            Ok("{\"schema\":1,\"position\":9,\"missed\":3}\n\
                {\"schema\":1,\"position\":9,\"bytes\":1,\"fields\":{\"a\":5}}\n")
        );
    }
}

//! What a hostile peer, kernel text or file could say, said: the bodies of the fuzz targets.
//!
//! The same functions are fuzzed (`fuzz/run`) and tried on a bounded number of
//! inputs by `cargo test`. Each takes bytes and returns; whatever the bytes are,
//! the library must answer with a value or an error. A panic is a failure, and so
//! is an access outside of an object (it lies between guard pages), a write
//! beside it, and an operation that makes more accesses than its object's size
//! allows. A body that does not return is for the caller to notice.
//!
//! | body | what its bytes are |
//! |---|---|
//! | `header` | changes to a header and a directory, which are parsed |
//! | `segment` | changes to the bytes of a segment, which is opened and worked with |
//! | `control` | a control file and a claims file |
//! | `kernel` | a text of `/proc`, `/sys` or a cgroup |
//! | `names` | names, sizes, lists of nodes, names of files |
//! | `race` | a seed for another thread that rewrites words, and a script for any kind of object |
//! | others | a script for one kind: operations, and changes of words before their n-th access |
//!
//! This room is only there in tests and in fuzzers.

mod cells;
mod input;
mod many;
mod open;
mod rings;
mod seeds;
mod stage;
#[cfg(test)]
mod tests;
mod texts;

use stage::{Actor, Mode, play};

pub use seeds::seeds;

/// What is done with the bytes of an input.
pub type Body = fn(&[u8]);

/// A name for each body, and the body.
pub const BODIES: [(&str, Body); 21] = [
    ("header", open::header),
    ("segment", open::segment),
    ("control", texts::control),
    ("kernel", texts::kernel),
    ("names", texts::names),
    ("typed", |data| play(&mut rings::Typed::new(), Mode::Steps, data)),
    ("wide", |data| play(&mut rings::Typed::wide(), Mode::Steps, data)),
    ("raw", |data| play(&mut rings::Raw::default(), Mode::Steps, data)),
    ("records", |data| play(&mut rings::Records::new(), Mode::Steps, data)),
    ("records_aligned", |data| play(&mut rings::Records::aligned(), Mode::Steps, data)),
    ("broadcast", |data| play(&mut many::Broadcast::new(), Mode::Steps, data)),
    ("broadcast_lossless", |data| play(&mut many::Broadcast::lossless(), Mode::Steps, data)),
    ("news", |data| play(&mut many::News::new(), Mode::Steps, data)),
    ("news_lossless", |data| play(&mut many::News::lossless(), Mode::Steps, data)),
    ("lanes", |data| play(&mut many::LanesEnds::default(), Mode::Steps, data)),
    ("shared", |data| play(&mut many::SharedEnds::default(), Mode::Steps, data)),
    ("latest", |data| play(&mut cells::Latest::new(), Mode::Steps, data)),
    ("latest_long", |data| play(&mut cells::Latest::long(), Mode::Steps, data)),
    ("call", |data| play(&mut cells::Call::default(), Mode::Steps, data)),
    ("duplex", |data| play(&mut cells::DuplexEnds::default(), Mode::Steps, data)),
    ("race", race),
];

/// Runs a body by its name.
///
/// # Panics
///
/// If there is no such body, or it finds something.
pub fn run(name: &str, data: &[u8]) {
    let body = BODIES.iter().find(|(known, _)| *known == name).expect("a body of this name").1;
    body(data);
}

/// A script for the kind that the first byte says, while another thread changes words.
fn race(data: &[u8]) {
    let (&kind, script) = data.split_first().unwrap_or((&0, &[]));
    let mut actors = open::actors();
    let count = actors.len();
    let actor: &mut dyn Actor = &mut *actors[usize::from(kind) % count];
    play(actor, Mode::Race, script);
}

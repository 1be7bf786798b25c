//! The bytes of a call cell, and what its header word can say.
//!
//! Constants and pure functions; no access. The version of this layout is the
//! segment's. A cell of zero bytes is a cell that was never used.
//!
//! # Layout
//!
//! Control words, 512 bytes, aligned to 128:
//!
//! | offset | bytes | word | written by |
//! |---|---|---|---|
//! | 0 | 8 | caller unfenced: 1 = it leaves its fences to the sleeper's barrier | caller, at attach and around wakes |
//! | 128 | 8 | server unfenced | server, likewise |
//! | 136 | 56 | journal: the request that is being answered | server |
//! | 256 | 4 | server sleep: 1 = asleep, or about to be | server; exchanged with 0 by the caller |
//! | 384 | 4 | caller sleep | caller; exchanged with 0 by the server |
//!
//! Payload, 128 bytes aligned to 128, of which the first cache line is used:
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 8 | header word |
//! | 8 | 56 | the request or the answer |
//!
//! Header word: bits 0-5 length in bytes, bits 6-7 state, bits 8-63 the call's
//! sequence number, which wraps.

/// Whether the caller leaves its fences to the sleeper.
pub(crate) const CALLER_UNFENCED: usize = 0;
/// Whether the server leaves its fences to the sleeper.
pub(crate) const SERVER_UNFENCED: usize = 128;
/// The request that is being answered.
pub(crate) const JOURNAL: usize = 136;
/// The server's sleep word.
pub(crate) const SERVER_SLEEP: usize = 256;
/// The caller's sleep word.
pub(crate) const CALLER_SLEEP: usize = 384;
/// The length of the control words.
pub(crate) const CONTROL_LEN: usize = 512;
/// The alignment of control words and payload.
pub(crate) const ALIGN: usize = 128;

/// The header word.
pub(crate) const HEADER: usize = 0;
/// The request or the answer.
pub(crate) const BYTES: usize = 8;
/// The longest request and the longest answer.
pub(crate) const BYTES_MAX: usize = 56;
/// The line: the header word and what stands beside it.
pub(crate) const LINE_LEN: usize = BYTES + BYTES_MAX;
/// The length of the payload.
pub(crate) const PAYLOAD_LEN: usize = 128;

const _: () = {
    // All of a call in one line; what the server writes for itself in another.
    assert!(HEADER == 0 && LINE_LEN == 64 && PAYLOAD_LEN == ALIGN);
    assert!(SERVER_UNFENCED == ALIGN && JOURNAL == SERVER_UNFENCED + 8);
    assert!(JOURNAL + BYTES_MAX == ALIGN + 64);
    assert!(SERVER_SLEEP == 2 * ALIGN && CALLER_SLEEP == 3 * ALIGN && CONTROL_LEN == 4 * ALIGN);
    assert!(BYTES_MAX <= LENGTH_MASK as usize);
};

const LENGTH_MASK: u64 = 0x3f;
const STATE_SHIFT: u32 = 6;
const SEQUENCE_SHIFT: u32 = 8;
/// The largest sequence number; 0 follows it.
pub(crate) const SEQUENCE_MAX: u64 = u64::MAX >> SEQUENCE_SHIFT;

/// Whose the line is, and what stands in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The caller's: never used, or the last call was refused.
    Free = 0,
    /// The server's: a request.
    Request = 1,
    /// The server's: the answer is being written, the request stands in the journal.
    Answering = 2,
    /// The caller's: an answer.
    Answer = 3,
}

/// A header word, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub sequence: u64,
    pub state: State,
    pub len: usize,
}

/// The lengths that this cell's requests and answers have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lengths {
    request: usize,
    answer: usize,
}

impl Lengths {
    /// `None` if either does not fit into the line.
    pub(crate) fn new(request: u64, answer: u64) -> Option<Self> {
        let len = |len| usize::try_from(len).ok().filter(|len| *len <= BYTES_MAX);
        Some(Self { request: len(request)?, answer: len(answer)? })
    }

    pub(crate) fn request(self) -> usize {
        self.request
    }

    pub(crate) fn answer(self) -> usize {
        self.answer
    }

    /// The header word of call `sequence` in `state`.
    #[inline]
    pub(crate) const fn word(self, sequence: u64, state: State) -> u64 {
        let len = match state {
            State::Free => 0,
            State::Request | State::Answering => self.request,
            State::Answer => self.answer,
        };
        sequence << SEQUENCE_SHIFT | (state as u64) << STATE_SHIFT | len as u64
    }

    /// Takes a header word apart; an error if this cell cannot hold it.
    pub(crate) fn parse(self, word: u64) -> Result<Header, &'static str> {
        let state = match word >> STATE_SHIFT & 3 {
            0 => State::Free,
            1 => State::Request,
            2 => State::Answering,
            _ => State::Answer,
        };
        let header =
            Header { sequence: word >> SEQUENCE_SHIFT, state, len: (word & LENGTH_MASK) as usize };
        if word == self.word(header.sequence, state) { Ok(header) } else { Err(BAD_LENGTH) }
    }
}

/// The number of the call behind `sequence`.
#[inline]
pub(crate) const fn next(sequence: u64) -> u64 {
    sequence.wrapping_add(1) & SEQUENCE_MAX
}

/// The number of the call before `sequence`.
pub(crate) const fn previous(sequence: u64) -> u64 {
    sequence.wrapping_sub(1) & SEQUENCE_MAX
}

/// What is wrong with a header word whose length is not the type's.
pub(crate) const BAD_LENGTH: &str = "the cell's header has an impossible length";
/// What is wrong with a header word that the peer cannot have stored now.
pub(crate) const BAD_HEADER: &str = "the cell's header is not one that can follow";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_header_word_is_one_call_in_one_state_or_is_refused() {
        for (request, answer) in [(0, 0), (8, 56), (56, 1), (13, 13)] {
            let lengths = Lengths::new(request, answer).unwrap();
            let mut sound = 0;
            for low in 0..256 {
                for sequence in [0, 1, SEQUENCE_MAX - 1, SEQUENCE_MAX] {
                    let word = sequence << 8 | low;
                    match lengths.parse(word) {
                        Ok(header) => {
                            sound += 1;
                            assert_eq!(header.sequence, sequence);
                            assert_eq!(lengths.word(sequence, header.state), word);
                            assert!(header.len <= BYTES_MAX);
                        }
                        Err(what) => assert_eq!(what, BAD_LENGTH),
                    }
                }
            }
            assert_eq!(sound, 4 * 4);
        }
        assert_eq!(Lengths::new(57, 0), None);
        assert_eq!(Lengths::new(0, u64::MAX), None);
    }

    #[test]
    fn the_number_behind_the_last_is_zero() {
        assert_eq!(next(SEQUENCE_MAX), 0);
        assert_eq!(previous(0), SEQUENCE_MAX);
        assert_eq!(previous(next(41)), 41);
    }

    #[test]
    fn the_layout_page_has_the_cells_words() {
        let page = include_str!("../../docs/LAYOUT.md");
        let section = page.split("## A call cell's own words").nth(1).unwrap();
        let section = section.split("\n## ").next().unwrap();
        for (offset, bytes, by) in [
            (CALLER_UNFENCED, 8, "caller"),
            (SERVER_UNFENCED, 8, "server"),
            (JOURNAL, BYTES_MAX, "server"),
            (SERVER_SLEEP, 4, "both"),
            (CALLER_SLEEP, 4, "both"),
        ] {
            let row = format!("\n| {offset} | {bytes} | {by} |");
            assert!(section.contains(&row), "no row {row}");
        }
        for (state, name) in [
            (State::Free, "free"),
            (State::Request, "request"),
            (State::Answering, "answering"),
            (State::Answer, "answer"),
        ] {
            assert!(section.contains(&format!("{} {name}", state as u64)), "{name}");
        }
    }
}

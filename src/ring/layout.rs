//! The bytes of a ring: where its control words lie and how a record header is built.
//!
//! Constants and masks only; no loops, no access. The version of this layout is
//! the segment's. All words are little-endian; a ring of zero bytes is an empty
//! ring.
//!
//! # Layout
//!
//! Control words, 512 bytes, aligned to 128:
//!
//! | offset | bytes | word | written by |
//! |---|---|---|---|
//! | 0 | 8 | reserved (position hint), written as zero | producer |
//! | 8 | 8 | producer unfenced: 1 = it leaves its fences to the sleeper's barrier | producer, at attach and around wakes |
//! | 128 | 8 | released: all before this position is delivered | consumer |
//! | 136 | 8 | consumer unfenced | consumer, likewise |
//! | 256 | 4 | consumer sleep: 1 = asleep on this word, or about to be; 2 = in `poll` | consumer; exchanged with 0 by the producer |
//! | 384 | 4 | producer sleep | producer; exchanged with 0 by the consumer |
//!
//! Payload of a typed ring: blocks, each a header word and some messages that lie
//! `stride` bytes apart, a multiple of 8. Where `stride` is a multiple of 64, the
//! word has a line of its own, and 512 / stride messages follow it, but at least
//! one; else they follow the word at once: 56 / stride of them, but at least one,
//! and a block ends with a line. With n messages in a block there are (capacity +
//! n - 1) / n blocks, rounded up.
//!
//! | offset in block | bytes | |
//! |---|---|---|
//! | 0 | 8 | header word: bits 4-63 lap + 1, bits 0-3 how many messages of this lap it holds; 0 = none of any |
//! | 8 or 64 | stride each | the messages, zero or more bytes unused behind each |
//!
//! Payload of a record ring: `capacity` bytes, records back to back, each 8-aligned.
//!
//! | offset in record | bytes | |
//! |---|---|---|
//! | 0 | 8 | header word, 0 = nothing committed here |
//! | 8 | user header length | user header, a multiple of 8 |
//! | next multiple of `payload_align`, counted in the ring | length | payload, padded to 8 |
//!
//! Header word: bit 63 committed, bit 62 padding, bit 61 extended header
//! (reserved), bits 48-60 zero, bits 0-47 length of the payload. A padding
//! record has no payload of meaning; its length is what is left of the ring
//! behind its header word.

/// Reserved for a hint of the producer's position.
pub(crate) const PRODUCER_HINT: usize = 0;
/// Whether the producer leaves its fences to the sleeper.
pub(crate) const PRODUCER_UNFENCED: usize = 8;
/// The consumer's released position.
pub(crate) use crate::segment::progress::RELEASED;
/// Whether the consumer leaves its fences to the sleeper.
pub(crate) const CONSUMER_UNFENCED: usize = 136;
/// The consumer's sleep word.
pub(crate) const CONSUMER_SLEEP: usize = 256;
/// The producer's sleep word.
pub(crate) const PRODUCER_SLEEP: usize = 384;
/// The length of the control words.
pub(crate) const CONTROL_LEN: usize = 512;
/// The alignment of the control words and, at least, of the payload.
pub(crate) const CONTROL_ALIGN: usize = 128;

const _: () = {
    assert!(PRODUCER_HINT == 0 && PRODUCER_UNFENCED == 8);
    assert!(RELEASED == CONTROL_ALIGN && CONSUMER_UNFENCED == RELEASED + 8);
    assert!(CONSUMER_SLEEP == 2 * CONTROL_ALIGN && PRODUCER_SLEEP == 3 * CONTROL_ALIGN);
    assert!(CONTROL_LEN == 4 * CONTROL_ALIGN);
};

/// The length of a record's header word.
pub(crate) const WORD_LEN: usize = 8;

/// The record is there.
pub(crate) const COMMITTED: u64 = 1 << 63;
/// The record fills the ring's end and carries nothing.
pub(crate) const PADDING: u64 = 1 << 62;
/// Reserved: more header follows.
pub(crate) const EXTENDED: u64 = 1 << 61;
/// The bits that hold the payload's length.
pub(crate) const LENGTH_MASK: u64 = (1 << 48) - 1;
const _: () = assert!(LENGTH_MASK & (COMMITTED | PADDING | EXTENDED) == 0);

/// The largest capacity of a ring, in slots or in bytes.
pub(crate) const CAPACITY_MAX: u64 = 1 << 47;
/// No position is ever beyond this: at one message per picosecond it is 53 days away, at one
/// per nanosecond 146 years.
pub(crate) const POSITION_MAX: u64 = 1 << 62;
/// The same for positions that count messages: 18 years at one per nanosecond. Laps have 60 bits.
pub(crate) const MESSAGES_MAX: u64 = 1 << 59;
/// The largest alignment of payloads, and the largest user header, in bytes.
pub(crate) const PAYLOAD_ALIGN_MAX: u64 = 4096;

//! The arithmetic of positions, slots and records: pure functions over private numbers.
//!
//! A *position* is a free-running `u64` (messages in a typed ring, bytes in a
//! record ring); an *offset* is a place in the payload. Nothing here touches
//! memory. What comes from a peer enters as an argument and leaves checked, or
//! as a [`Corruption`].

use super::error::Corruption;
use super::layout::{
    CAPACITY_MAX, COMMITTED, EXTENDED, LENGTH_MASK, PADDING, PAYLOAD_ALIGN_MAX, POSITION_MAX,
    WORD_LEN,
};
pub(crate) use crate::segment::progress::{block_count, block_shape, count_in, header_word};
use crate::size::align_up;
use crate::view::BlockShape;

/// The length of a header word, as a position counts.
const WORD: u64 = WORD_LEN as u64;

/// A typed ring: messages of one size in blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotGeometry {
    size: usize,
    shape: BlockShape,
    capacity: u64,
    blocks: u64,
    bytes: usize,
}

impl SlotGeometry {
    /// A ring for `capacity` messages of `size` bytes; `None` if it has none or they would not
    /// fit into the address space.
    pub(crate) fn new(size: usize, capacity: u64) -> Option<Self> {
        Self::with_stride(size, size.max(1).checked_next_multiple_of(WORD_LEN)?, capacity)
    }

    /// A ring for `capacity` messages that lie `stride` bytes apart, of which the first `size`
    /// bytes are used.
    pub(crate) fn with_stride(size: usize, stride: usize, capacity: u64) -> Option<Self> {
        Self::of_blocks(size, stride, capacity, block_count(capacity, &block_shape(stride)?))
    }

    /// A ring of `blocks` blocks, of whose messages of `size` bytes `capacity` count.
    pub(crate) fn with_blocks(size: usize, capacity: u64, blocks: u64) -> Option<Self> {
        let stride = size.max(1).checked_next_multiple_of(WORD_LEN)?;
        Self::of_blocks(size, stride, capacity, blocks)
    }

    /// The same, of whose messages only the first `size` bytes are used.
    pub(crate) fn with_size(mut self, size: usize) -> Self {
        self.size = size.min(self.size);
        self
    }

    fn of_blocks(size: usize, stride: usize, capacity: u64, blocks: u64) -> Option<Self> {
        let shape = block_shape(stride)?;
        if size > stride || capacity == 0 || capacity > CAPACITY_MAX {
            return None;
        }
        let bytes = usize::try_from(blocks).ok()?.checked_mul(shape.bytes)?;
        isize::try_from(bytes).ok()?;
        Some(Self { size, shape, capacity, blocks, bytes })
    }

    /// The bytes of a message that are used.
    #[inline]
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// The distance of two messages in bytes.
    #[inline]
    pub(crate) fn stride(&self) -> usize {
        self.shape.stride
    }

    /// How a block is divided.
    #[inline]
    pub(crate) fn shape(&self) -> BlockShape {
        self.shape
    }

    /// How many messages a block holds.
    #[inline]
    pub(crate) fn per_block(&self) -> u64 {
        self.shape.count as u64
    }

    /// The number of blocks.
    pub(crate) fn blocks(&self) -> u64 {
        self.blocks
    }

    /// How many messages may wait.
    #[inline]
    pub(crate) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// The length of all blocks together.
    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Checks a header word in which message `index` of lap `lap` is not counted: `Ok` if it is merely
/// not written yet.
pub(crate) const fn check_unfilled(
    word: u64,
    lap: u64,
    index: u64,
    per_block: u64,
) -> Result<(), Corruption> {
    let sound = match count_in(word, lap) {
        Some(count) => index > 0 && count == index,
        None => {
            let before = match lap.checked_sub(1) {
                Some(before) => header_word(before, per_block),
                None => 0,
            };
            index == 0 && (word == 0 || word == before)
        }
    };
    if sound { Ok(()) } else { Err(Corruption::Stamp) }
}

/// Checks a released position read at attach, when nothing private is known yet.
pub(crate) const fn check_released_at_attach(
    released: u64,
    granule: u64,
) -> Result<u64, Corruption> {
    if released <= POSITION_MAX && released.is_multiple_of(granule) {
        Ok(released)
    } else {
        Err(Corruption::Released)
    }
}

/// The position up to which may be written, from the released position that the peer stores.
///
/// `position` is the private committed position. A consumer can only release what was committed,
/// and never goes back.
#[inline]
pub(crate) const fn limit_from(
    released: u64,
    position: u64,
    capacity: u64,
    granule: u64,
) -> Result<u64, Corruption> {
    if released > position || position - released > capacity || !released.is_multiple_of(granule) {
        return Err(Corruption::Released);
    }
    Ok(released + capacity)
}

/// A record ring: where header, user header and payload of a record lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordGeometry {
    capacity: u64,
    payload_align: u64,
    user_header: u64,
    len_max: u64,
}

/// Where a record of some length is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The bytes skipped up to the ring's end; 0 = none.
    pub padding: u64,
    /// The offset of the header word.
    pub header: u64,
    /// The offset of the payload.
    pub payload: u64,
    /// How far the position moves, padding included.
    pub span: u64,
}

/// What a header word says, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Header {
    /// Nothing is committed here.
    End,
    /// The rest of the ring is skipped.
    Padding { span: u64 },
    /// A record.
    Record(Found),
}

/// A committed record, inside the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub len: u64,
    /// The offset of the payload.
    pub payload: u64,
    /// How far the position moves.
    pub span: u64,
}

impl RecordGeometry {
    /// A ring of `capacity` bytes; `None` if the numbers are not aligned as they must be, or if
    /// not even an empty record fits wherever the position is.
    ///
    /// `payload_align` is a power of two between 8 and 4096, `user_header` a multiple of 8 of at
    /// most 4096, `capacity` a multiple of `payload_align`.
    pub(crate) fn new(capacity: u64, payload_align: u64, user_header: u64) -> Option<Self> {
        let sound = payload_align.is_power_of_two()
            && (WORD..=PAYLOAD_ALIGN_MAX).contains(&payload_align)
            && user_header.is_multiple_of(WORD)
            && user_header <= PAYLOAD_ALIGN_MAX
            && capacity <= CAPACITY_MAX
            && capacity.is_multiple_of(payload_align);
        if !sound {
            return None;
        }
        let mut geometry = Self { capacity, payload_align, user_header, len_max: 0 };
        geometry.len_max = geometry.find_len_max()?;
        Some(geometry)
    }

    /// The smallest geometry of this alignment and header whose records may have `len` bytes.
    pub(crate) fn for_len(len: u64, payload_align: u64, user_header: u64) -> Option<Self> {
        let worst = (WORD + user_header + payload_align).checked_add(align_up(len, WORD)?)?;
        let mut capacity = align_up(worst.checked_mul(2)?, payload_align)?;
        let mut best = Self::new(capacity, payload_align, user_header)?;
        while let Some(smaller) = capacity.checked_sub(payload_align) {
            match Self::new(smaller, payload_align, user_header) {
                Some(geometry) if geometry.len_max >= len => best = geometry,
                _ => break,
            }
            capacity = smaller;
        }
        (best.len_max >= len).then_some(best)
    }

    /// The same, for records of at most `len` bytes.
    pub(crate) fn limited_to(mut self, len: u64) -> Self {
        self.len_max = self.len_max.min(len);
        self
    }

    /// The length of the ring in bytes.
    #[inline]
    pub(crate) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// The alignment of payloads.
    pub(crate) fn payload_align(&self) -> u64 {
        self.payload_align
    }

    /// The length of the user header.
    #[inline]
    pub(crate) fn user_header(&self) -> u64 {
        self.user_header
    }

    /// The longest payload that fits wherever the position is.
    #[inline]
    pub(crate) fn len_max(&self) -> u64 {
        self.len_max
    }

    /// `value` rounded up to a multiple of `align`; the caller knows that it does not overflow.
    #[inline]
    const fn up(value: u64, align: u64) -> u64 {
        (value + (align - 1)) & !(align - 1)
    }

    /// The offset of the payload of a record at `header`.
    #[inline(always)]
    fn payload_of(&self, header: u64) -> u64 {
        Self::up(header + WORD + self.user_header, self.payload_align)
    }

    /// A record of this (rounded) length fails at the ring's end from some offset on; it must
    /// then fit in front of that offset. The worst offset is the last one where the record in
    /// front does not fit: right behind where it would end.
    fn find_len_max(&self) -> Option<u64> {
        let first = self.payload_of(0);
        let fits = |len: u64| self.payload_of(first + len) + len <= self.capacity;
        let rest = self.capacity.checked_sub(first + WORD + self.user_header)?;
        let mut len = (rest / 2) & !(WORD - 1);
        while !fits(len) {
            len = len.checked_sub(WORD)?;
        }
        Some(len)
    }

    /// Where a record of `len <= len_max` bytes goes when the next header is at `offset`.
    #[inline(always)]
    pub(crate) fn place(&self, offset: u64, len: u64) -> Place {
        let len = Self::up(len, WORD);
        let payload = self.payload_of(offset);
        if payload + len <= self.capacity {
            return Place { padding: 0, header: offset, payload, span: payload + len - offset };
        }
        let padding = self.capacity - offset;
        let payload = self.payload_of(0);
        Place { padding, header: 0, payload, span: padding + payload + len }
    }

    /// How far the position moves when `place` is committed with `len` bytes only.
    #[inline(always)]
    pub(crate) fn span_of(&self, place: &Place, len: u64) -> u64 {
        place.padding + place.payload + Self::up(len, WORD) - place.header
    }

    /// The offset that is `span` behind `offset`, wrapped at the ring's end.
    #[inline(always)]
    pub(crate) fn advance(&self, offset: u64, span: u64) -> u64 {
        let next = offset + span;
        if next >= self.capacity { next - self.capacity } else { next }
    }

    /// What [`decode`](Self::decode) says of a sound record; `None` for anything else.
    #[inline(always)]
    pub(crate) fn decode_record(&self, word: u64, offset: u64, window: u64) -> Option<Found> {
        let len = word & LENGTH_MASK;
        let payload = self.payload_of(offset);
        let end = payload + Self::up(len, WORD);
        let span = end - offset;
        let sound = word & !LENGTH_MASK == COMMITTED && end <= self.capacity && span <= window;
        sound.then_some(Found { len, payload, span })
    }

    /// Reads the header word found at `offset`, with `window` bytes from there on that a
    /// producer may have committed.
    pub(crate) fn decode(&self, word: u64, offset: u64, window: u64) -> Result<Header, Corruption> {
        if word == 0 {
            return Ok(Header::End);
        }
        if word & !LENGTH_MASK == COMMITTED {
            let found = self.decode_record(word, offset, window);
            return found.map(Header::Record).ok_or(Corruption::Length);
        }
        if word & !(LENGTH_MASK | PADDING) == COMMITTED {
            let span = self.capacity - offset;
            if word & LENGTH_MASK != span - WORD || offset == 0 || span > window {
                return Err(Corruption::Padding);
            }
            return Ok(Header::Padding { span });
        }
        if word & !(LENGTH_MASK | PADDING | EXTENDED) == COMMITTED {
            return Err(Corruption::UnknownFeature);
        }
        Err(Corruption::Header)
    }
}

/// The header word of a record of `len` bytes.
#[inline]
pub(crate) const fn record_word(len: u64) -> u64 {
    COMMITTED | len
}

/// The header word of a padding record of `span` bytes, header word included.
pub(crate) const fn padding_word(span: u64) -> u64 {
    COMMITTED | PADDING | (span - WORD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_any_size_and_capacity_have_room() {
        for size in (0..200).chain([504, 512, 4096, 5000]) {
            for capacity in 1..20 {
                let geometry = SlotGeometry::new(size, capacity).unwrap();
                assert!(geometry.stride() >= size && geometry.stride().is_multiple_of(8));
                let slots = geometry.blocks() * geometry.per_block();
                assert!(slots > capacity || geometry.per_block() == 1 || capacity == 1);
                assert!(slots >= capacity + geometry.per_block() - 1);
                assert_eq!(geometry.bytes(), geometry.shape().bytes * geometry.blocks() as usize);
            }
        }
    }

    #[test]
    fn impossible_rings_of_slots_are_refused() {
        assert!(SlotGeometry::new(8, 0).is_none());
        assert!(SlotGeometry::new(8, u64::MAX).is_none());
        assert!(SlotGeometry::new(usize::MAX, 1).is_none());
        assert!(SlotGeometry::new(1 << 40, 1 << 40).is_none());
        assert!(SlotGeometry::with_stride(17, 16, 4).is_none());
        assert!(SlotGeometry::with_stride(0, 0, 4).is_none());
        assert!(SlotGeometry::with_stride(4, 20, 4).is_none());
        assert!(SlotGeometry::with_stride(5, 64, 4).is_some());
    }

    #[test]
    fn a_header_word_counts_a_message_or_is_old_or_corrupt() {
        for per_block in 1..9 {
            for lap in 0..5 {
                for index in 0..per_block {
                    for word in 0..120 {
                        let counted = count_in(word, lap).is_some_and(|count| count > index);
                        let empty = word == 0 && index == 0;
                        let before = lap > 0 && index == 0;
                        let old = before && word == header_word(lap - 1, per_block);
                        let filling = index > 0 && word == header_word(lap, index);
                        let unfilled = check_unfilled(word, lap, index, per_block).is_ok();
                        assert_eq!(unfilled, empty || old || filling);
                        assert!(!(counted && unfilled));
                    }
                }
            }
        }
    }

    #[test]
    fn a_released_position_outside_the_window_is_corrupt() {
        for capacity in 1..9 {
            for position in 0..30 {
                for released in 0..40 {
                    let sound = released <= position && position <= released + capacity;
                    let limit = limit_from(released, position, capacity, 1);
                    assert_eq!(limit.is_ok(), sound);
                    if sound {
                        assert!(limit.unwrap() >= position);
                    }
                }
            }
        }
        assert!(limit_from(u64::MAX, 5, 8, 1).is_err());
        assert!(limit_from(4, 8, 64, 8).is_err());
        assert!(check_released_at_attach(u64::MAX, 1).is_err());
        assert!(check_released_at_attach(12, 8).is_err());
    }

    /// All geometries small enough to look at every offset and length.
    fn small_geometries() -> impl Iterator<Item = RecordGeometry> {
        [8, 16, 64].into_iter().flat_map(|align| {
            [0, 8, 24].into_iter().flat_map(move |header| {
                (0..=512 / align).filter_map(move |n| RecordGeometry::new(n * align, align, header))
            })
        })
    }

    /// Whether a record of `len` fits into an empty ring whose next header is at `offset`.
    fn fits(geometry: &RecordGeometry, offset: u64, len: u64) -> bool {
        let place = geometry.place(offset, len);
        place.payload + RecordGeometry::up(len, 8) <= geometry.capacity()
            && place.span + 8 <= geometry.capacity()
    }

    #[test]
    fn the_longest_record_fits_at_every_position_and_one_more_does_not() {
        let mut looked_at = 0;
        for geometry in small_geometries() {
            let offsets = || (0..geometry.capacity()).step_by(8);
            let max = geometry.len_max();
            for len in 0..=max {
                assert!(offsets().all(|offset| fits(&geometry, offset, len)), "{geometry:?}");
            }
            assert!(!offsets().all(|offset| fits(&geometry, offset, max + 1)), "{geometry:?}");
            looked_at += 1;
        }
        assert!(looked_at > 100);
    }

    #[test]
    fn a_placed_record_is_aligned_inside_the_ring_and_decodes_to_itself() {
        for geometry in small_geometries() {
            let capacity = geometry.capacity();
            for offset in (0..capacity).step_by(8) {
                for len in 0..=geometry.len_max() {
                    let place = geometry.place(offset, len);
                    assert!(place.payload.is_multiple_of(geometry.payload_align()));
                    assert!(place.payload >= place.header + 8 + geometry.user_header());
                    assert_eq!(geometry.span_of(&place, len), place.span);
                    if place.padding > 0 {
                        let word = padding_word(place.padding);
                        assert_eq!(
                            geometry.decode(word, offset, capacity),
                            Ok(Header::Padding { span: place.padding })
                        );
                        assert_eq!(geometry.advance(offset, place.padding), 0);
                    } else {
                        assert_eq!(place.header, offset);
                    }
                    let span = place.span - place.padding;
                    assert_eq!(
                        geometry.decode(record_word(len), place.header, capacity),
                        Ok(Header::Record(Found { len, payload: place.payload, span }))
                    );
                    assert_eq!(
                        geometry.decode(record_word(len), place.header, span - 1),
                        Err(Corruption::Length)
                    );
                    assert!(geometry.advance(offset, place.span) < capacity);
                }
            }
        }
    }

    #[test]
    fn no_header_word_leads_out_of_the_ring() {
        let geometry = RecordGeometry::new(256, 16, 8).unwrap();
        let bits = [0, COMMITTED, PADDING, EXTENDED, 1 << 60, 1 << 48];
        for offset in (0..256).step_by(8) {
            for high in bits.iter().flat_map(|a| bits.map(|b| a | b)) {
                for len in (0..300).chain([LENGTH_MASK - 7, LENGTH_MASK]) {
                    match geometry.decode(high | len, offset, 248) {
                        Ok(Header::Record(Found { len, payload, span })) => {
                            assert!(payload + len <= 256 && offset + span <= 256 && span > 0);
                        }
                        Ok(Header::Padding { span }) => assert_eq!(offset + span, 256),
                        Ok(Header::End) => assert_eq!(high | len, 0),
                        Err(_) => {}
                    }
                }
            }
        }
    }

    #[test]
    fn impossible_record_rings_are_refused() {
        assert!(RecordGeometry::new(0, 8, 0).is_none());
        assert!(RecordGeometry::new(8, 8, 0).is_none());
        assert!(RecordGeometry::new(256, 12, 0).is_none());
        assert!(RecordGeometry::new(256, 4, 0).is_none());
        assert!(RecordGeometry::new(256, 8192, 0).is_none());
        assert!(RecordGeometry::new(256, 8, 4).is_none());
        assert!(RecordGeometry::new(256, 8, 1 << 20).is_none());
        assert!(RecordGeometry::new(260, 8, 0).is_none());
        assert!(RecordGeometry::new(!7, 8, 0).is_none());
        assert_eq!(RecordGeometry::new(16, 8, 0).unwrap().len_max(), 0);
    }

    #[test]
    fn a_ring_for_a_length_is_the_smallest_that_takes_it() {
        for (align, header) in [(8, 0), (64, 0), (64, 8), (4096, 16)] {
            for len in [0, 1, 8, 100, 4000] {
                let geometry = RecordGeometry::for_len(len, align, header).unwrap();
                assert!(geometry.len_max() >= len);
                let smaller = RecordGeometry::new(geometry.capacity() - align, align, header);
                assert!(smaller.is_none_or(|smaller| smaller.len_max() < len));
            }
        }
        assert!(RecordGeometry::for_len(u64::MAX, 8, 0).is_none());
    }
}

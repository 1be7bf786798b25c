//! The bytes of a latest value, and what its stamps can say.
//!
//! Constants and pure functions; no access. The version of this layout is the
//! segment's. Zero bytes are a value that was never written.
//!
//! # Layout
//!
//! Control words, aligned to 128:
//!
//! | offset | bytes | word | written by |
//! |---|---|---|---|
//! | 0 | 8 | writer unfenced: 1 = it leaves its fences to the sleeper's barrier | writer, at attach |
//! | 8 | 4 | writer sleep: 0, for it waits for nobody | nobody |
//! | 128 | 4 | sleepers: bit 0 = somebody sleeps, or is about to; the rest counts wakes | readers and watchers that may write; +1 by the writer |
//! | 256 + i * 128 | 128 | watcher i | watcher i |
//!
//! Watcher:
//!
//! | offset | bytes | word |
//! |---|---|---|
//! | 0 | 8 | seen: the highest version that it has read, 0 before the first |
//! | 16 | 4 | sleep: 1 = asleep on this word, or about to be; 2 = in `poll`; exchanged with 0 by the writer |
//! | 24 | 8 | unfenced: as every end's; nobody looks at it, for the writer does not sleep |
//!
//! Payload, aligned to 128. Values of up to 56 bytes, 256 bytes in all:
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 8 | stamp of the front line: the newest value |
//! | 8 | 56 | the value |
//! | 128 | 8 | stamp of the spare line |
//! | 136 | 56 | the value once more |
//!
//! Longer values:
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 8 | stamp of the newest value |
//! | 128 + i * stride | 8 | stamp of place i |
//! | 8 or 64 behind that | length | the value of place i |
//!
//! Version v stands in place v mod places. From 1024 bytes on a value begins with a line, which
//! long copies like better; shorter ones share the first line with their stamp.
//!
//! A stamp is 2 v once version v is whole, and 2 v - 1 while it is being written; versions count
//! from 1, and 0 is "never written".

use crate::segment::progress;

/// Whether the writer leaves its fences to the sleepers.
pub(crate) const WRITER_UNFENCED: usize = 0;
/// The sleepers' word.
pub(crate) const SLEEPERS: usize = 128;
/// The writer's own sleep word, on which it never sleeps.
pub(crate) const WRITER_SLEEP: usize = 8;
/// The length of the control words without those of watchers, which begin here.
pub(crate) const CONTROL_LEN: usize = progress::WATCHERS;
/// The words of one watcher.
pub(crate) const WATCHER_LEN: usize = progress::WATCHER_LEN;
/// The version that a watcher has read.
pub(crate) const SEEN: usize = progress::SEEN;
/// Its sleep word.
pub(crate) const SLEEP: usize = 16;
/// Whether it would leave its fences to a sleeping writer.
pub(crate) const UNFENCED: usize = 24;
/// How many watchers there may be at most.
pub(crate) const WATCHERS_MAX: u32 = 255;
/// How many there may be if nobody says otherwise.
pub(crate) const WATCHERS_USUAL: u32 = 8;
/// The alignment of control words, payload and places.
pub(crate) const ALIGN: usize = 128;

/// The stamp of the newest value, of either form.
pub(crate) const NEWEST: usize = progress::NEWEST;
/// The longest value that shares a line with its stamp.
pub(crate) const SHORT_MAX: usize = 56;
/// The line that readers look at first.
pub(crate) const FRONT: Place = Place { stamp: NEWEST, value: NEWEST + 8 };
/// The line that holds while the front is being written.
pub(crate) const SPARE: Place = Place { stamp: ALIGN, value: ALIGN + 8 };
/// Where the places of longer values begin.
const ROW: usize = ALIGN;
/// From this length on a value begins with a line.
const LONG_MIN: usize = 1024;
/// How many places longer values have at least.
pub(crate) const PLACES_MIN: u64 = 2;
/// How many they have at most.
pub(crate) const PLACES_MAX: u64 = 64;
/// No cell comes to so many versions: a thousand million a second would take a hundred years.
pub(crate) const VERSION_LIMIT: u64 = 1 << 62;

const _: () = {
    // A value and its stamp in one line; the writer's line apart from the sleepers'.
    assert!(FRONT.stamp == 0 && FRONT.value + SHORT_MAX == 64);
    assert!(SPARE.stamp == ALIGN && SPARE.value + SHORT_MAX == ALIGN + 64);
    assert!(WRITER_UNFENCED + 8 == WRITER_SLEEP && SLEEPERS == ALIGN);
    assert!(CONTROL_LEN == SLEEPERS + ALIGN && WATCHER_LEN == ALIGN);
    assert!(SEEN + 8 <= SLEEP && SLEEP + 8 == UNFENCED && UNFENCED + 8 <= WATCHER_LEN);
};

/// Where the words of watcher number `slot` begin.
pub(crate) const fn watcher(slot: u32) -> usize {
    CONTROL_LEN + slot as usize * WATCHER_LEN
}

/// The length of the control words of a value with so many places for watchers.
pub(crate) const fn words_len(watchers: u32) -> usize {
    watcher(watchers)
}

/// The stamp of a place that holds version `version`, whole.
#[inline]
pub(crate) const fn whole(version: u64) -> u64 {
    version << 1
}

/// The stamp of a place that version `version` is being written into.
#[inline]
pub(crate) const fn unfinished(version: u64) -> u64 {
    whole(version) - 1
}

/// Whether a stamp says that its place is whole.
#[inline]
pub(crate) const fn is_whole(stamp: u64) -> bool {
    stamp & 1 == 0
}

/// The version that was whole last in a place with this stamp.
#[inline]
pub(crate) const fn version_of(stamp: u64) -> u64 {
    progress::version_of(stamp)
}

/// Where a value and its stamp lie in the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub stamp: usize,
    pub value: usize,
}

/// How the values of a cell are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// A front line and a spare one.
    Pair,
    /// A row of places that take turns.
    Row {
        /// How many.
        places: u64,
        /// From one to the next.
        stride: usize,
    },
}

/// Length and form of a cell's values, checked to fit into the address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    len: usize,
    form: Form,
}

impl Geometry {
    /// Values of `len` bytes, in `places` places if they are long.
    ///
    /// `None` if they need another number of places, or more bytes than there are addresses.
    pub(crate) fn new(len: usize, places: u64) -> Option<Self> {
        if len <= SHORT_MAX {
            return Some(Self { len, form: Form::Pair });
        }
        let whole = value_offset(len).checked_add(len)?;
        let stride = whole.checked_next_multiple_of(ALIGN)?;
        let row = stride.checked_mul(usize::try_from(places).ok()?)?.checked_add(ROW)?;
        let sound = (PLACES_MIN..=PLACES_MAX).contains(&places) && row <= isize::MAX as usize;
        sound.then_some(Self { len, form: Form::Row { places, stride } })
    }

    /// How many places values of `len` bytes have if nobody says otherwise.
    ///
    /// A reader has the time of `places - 2` writes for its copy. The shorter a value, the longer
    /// a copy takes in terms of writes, for then the way of the first line counts most.
    pub(crate) const fn usual_places(len: usize) -> u64 {
        if len <= 4096 { 8 } else { 4 }
    }

    /// The length of a value.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn form(&self) -> Form {
        self.form
    }

    /// How many places there are.
    pub(crate) fn places(&self) -> u64 {
        match self.form {
            Form::Pair => 2,
            Form::Row { places, .. } => places,
        }
    }

    /// The bytes from one place to the next.
    pub(crate) fn stride(&self) -> usize {
        match self.form {
            Form::Pair => ALIGN,
            Form::Row { stride, .. } => stride,
        }
    }

    /// The bytes of the payload.
    pub(crate) fn bytes(&self) -> usize {
        match self.form {
            Form::Pair => 2 * ALIGN,
            Form::Row { places, stride } => ROW + places as usize * stride,
        }
    }
}

/// The place of `version` in a row.
#[inline]
pub(crate) const fn place_in_row(len: usize, places: u64, stride: usize, version: u64) -> Place {
    let stamp = ROW + (version % places) as usize * stride;
    Place { stamp, value: stamp + value_offset(len) }
}

/// How far behind its stamp a value of `len` bytes begins in a row.
#[inline]
const fn value_offset(len: usize) -> usize {
    if len < LONG_MIN { 8 } else { 64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_says_its_version_and_whether_it_is_whole() {
        for version in (1..100).chain([VERSION_LIMIT - 1, VERSION_LIMIT]) {
            assert!(is_whole(whole(version)) && !is_whole(unfinished(version)));
            assert_eq!(version_of(whole(version)), version);
            assert_eq!(version_of(unfinished(version)), version - 1);
            assert!(whole(version - 1) < unfinished(version));
        }
        assert!(is_whole(0) && version_of(0) == 0);
    }

    #[test]
    fn places_lie_inside_apart_and_aligned() {
        let lengths = (0..300).chain([1016, 1023, 1024, 1025, 4096, 4097, 1 << 20, (4 << 20) + 3]);
        for len in lengths {
            for places in [2, 3, 4, 8, 64] {
                let geometry = Geometry::new(len, places).unwrap();
                assert_eq!((geometry.len(), geometry.places() >= 2), (len, true));
                assert_eq!(geometry.bytes() % ALIGN, 0);
                let Form::Row { places, stride } = geometry.form() else {
                    assert!(len <= SHORT_MAX);
                    assert_eq!((geometry.bytes(), geometry.stride()), (256, 128));
                    continue;
                };
                assert!(len > SHORT_MAX);
                let mut end = NEWEST + 8;
                for version in 0..places {
                    let place = place_in_row(len, places, stride, version);
                    assert!(place.stamp >= end && place.stamp.is_multiple_of(ALIGN));
                    assert!(place.value >= place.stamp + 8 && place.value.is_multiple_of(8));
                    assert!(len < LONG_MIN || place.value.is_multiple_of(64));
                    assert_eq!(place, place_in_row(len, places, stride, version + places));
                    end = place.value + len;
                }
                assert!(end <= geometry.bytes());
            }
        }
        for (len, places) in [
            (57, 0),
            (57, 1),
            (57, PLACES_MAX + 1),
            (57, u64::MAX),
            (usize::MAX, 2),
            (usize::MAX / 2, 2),
            (usize::MAX / 4, 4),
        ] {
            assert_eq!(Geometry::new(len, places), None);
        }
        assert!(Geometry::new(56, u64::MAX).is_some(), "short values have two lines anyway");
    }

    #[test]
    fn the_layout_page_has_the_words_of_a_latest_value() {
        let page = include_str!("../../docs/LAYOUT.md");
        let section = page.split("## A latest value's own words").nth(1).unwrap();
        let section = section.split("\n## ").next().unwrap();
        let row = place_in_row(57, 8, 128, 0);
        let long = place_in_row(LONG_MIN, 8, 1152, 1);
        for line in [
            format!("\n{CONTROL_LEN} bytes behind the endpoint table, then {WATCHER_LEN} for each"),
            format!("\n| {WRITER_UNFENCED} | 8 | writer |"),
            format!("\n| {WRITER_SLEEP} | 4 | nobody |"),
            format!("\n| {SLEEPERS} | 4 | both |"),
            format!("\nWatcher i, from {CONTROL_LEN} + i * {WATCHER_LEN} on:\n"),
            format!("\n| {SEEN} | 8 | watcher | the highest version"),
            format!("\n| {SLEEP} | 4 | both | it sleeps"),
            format!("\n| {UNFENCED} | 8 | watcher |"),
            format!("\n| {} | 8 | stamp of the front line", FRONT.stamp),
            format!("\n| {} | {SHORT_MAX} | the value |", FRONT.value),
            format!("\n| {} | 8 | stamp of the spare line", SPARE.stamp),
            format!("\n| {} | {SHORT_MAX} | the value once more |", SPARE.value),
            format!("\n| {NEWEST} | 8 | stamp of the newest value"),
            format!("\n| {} + i * `stride` | 8 | stamp of place i", row.stamp),
            format!("\n| {} or {} behind", row.value - row.stamp, long.value - long.stamp),
            format!("a line from {LONG_MIN} bytes on"),
            format!("of up to {SHORT_MAX} bytes"),
        ] {
            assert!(section.contains(&line), "no {line:?}");
        }
    }
}

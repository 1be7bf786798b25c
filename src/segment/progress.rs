//! How far a typed ring or a latest value has come, as an observer sees it.
//!
//! The ends of a typed ring store no counters: the consumer's released position
//! and the stamps in the slots say how many messages were ever sent and
//! received. The stamp of a latest value counts its versions. This file knows the
//! words that it takes, and `ring` and `latest` take them from here. Everything is read while both ends may go on, and may be a lie:
//! the answer is a number, never an access outside.

use crate::view::View;
use core::sync::atomic::Ordering::{Acquire, Relaxed};

/// Where a ring's control words hold the consumer's released position.
pub(crate) const RELEASED: usize = 128;

/// The stamp of the message at `position`, at the beginning of its slot.
#[inline]
pub(crate) const fn stamp_of(position: u64) -> u64 {
    position + 1
}

/// Where a latest value's payload holds the stamp of the newest version.
pub(crate) const NEWEST: usize = 0;

/// How many versions there were when a latest value's stamp was stored.
#[inline]
pub(crate) const fn version_of(stamp: u64) -> u64 {
    stamp >> 1
}

/// How many messages passed each end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    pub sent: u64,
    pub received: u64,
}

/// Looks into about log2(capacity) slots; `None` where the windows hold no such ring.
pub(crate) fn of_slots(
    words: &View,
    payload: &View,
    stride: u64,
    capacity: u64,
) -> Option<Progress> {
    let sound = words.len() >= RELEASED + 8
        && stride >= 8
        && stride.is_multiple_of(8)
        && stride.checked_mul(capacity)? <= payload.len() as u64;
    if !sound {
        return None;
    }
    let received = words.load64(RELEASED, Acquire);
    received.checked_add(capacity)?.checked_add(1)?;
    // Slots behind us are written anew while we look: a stamp of a later lap was this one once.
    let sent = |ahead: u64| {
        let position = received + ahead;
        payload.load64((position % capacity * stride) as usize, Relaxed) >= stamp_of(position)
    };
    let (mut low, mut high) = (0, capacity);
    while low < high {
        let middle = low + (high - low) / 2;
        if sent(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Some(Progress { sent: received + low, received })
}

/// The writes of a latest value; `None` where the window holds none. Its readers leave no trace.
pub(crate) fn of_versions(payload: &View) -> Option<Progress> {
    let sound = payload.len() >= NEWEST + 8;
    sound.then(|| Progress { sent: version_of(payload.load64(NEWEST, Acquire)), received: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(released: u64, stamps: &[u64]) -> (View, View) {
        let (words, payload) = (View::heap(512), View::heap(16 * stamps.len()));
        words.store64(RELEASED, released, Relaxed);
        for (slot, stamp) in stamps.iter().enumerate() {
            payload.store64(slot * 16, *stamp, Relaxed);
        }
        (words, payload)
    }

    #[test]
    fn stamps_and_the_released_position_tell_what_passed() {
        for capacity in 1..8_u64 {
            for received in 0..20 {
                for waiting in 0..=capacity {
                    let sent = received + waiting;
                    let last = |slot: u64| (0..sent).rev().find(|p| p % capacity == slot);
                    let stamps: Vec<u64> =
                        (0..capacity).map(|slot| last(slot).map_or(0, stamp_of)).collect();
                    let (words, payload) = ring(received, &stamps);
                    let seen = of_slots(&words, &payload, 16, capacity);
                    assert_eq!(seen, Some(Progress { sent, received }));
                }
            }
        }
    }

    #[test]
    fn lies_give_a_number_or_nothing() {
        for released in [0, 5, u64::MAX - 8, u64::MAX] {
            for stamp in [0, 1, 7, u64::MAX] {
                let (words, payload) = ring(released, &[stamp; 4]);
                if let Some(seen) = of_slots(&words, &payload, 16, 4) {
                    assert!(seen.sent - seen.received <= 4);
                }
                assert_eq!(of_slots(&words, &payload, 16, 5), None);
                assert_eq!(of_slots(&words, &payload, 12, 4), None);
                assert_eq!(of_slots(&words, &payload, 0, 4), None);
                assert_eq!(of_slots(&words, &payload, 16, u64::MAX), None);
            }
        }
    }
}

//! Payloads: written by the producer, summed by the consumer.
//!
//! A message is a run of equal words, so that a sum tells a lost, repeated or
//! torn one. Both functions must be faster than any transport they are used on,
//! hence the wide vectors where the processor has them.

use core::mem::MaybeUninit;

/// Writes `word` everywhere.
#[inline]
pub fn fill(words: &mut [u64], word: u64) {
    fill_with(words, word, |place, word| *place = word);
}

/// Writes `word` everywhere, into memory that may never have been written.
#[inline]
pub fn fill_uninit(words: &mut [MaybeUninit<u64>], word: u64) {
    fill_with(words, word, |place, word| {
        place.write(word);
    });
}

#[inline(always)]
fn fill_with<T>(words: &mut [T], word: u64, put: impl Fn(&mut T, u64)) {
    #[cfg(target_arch = "x86_64")]
    if words.len() >= 32 && std::arch::is_x86_feature_detected!("avx2") {
        return wide::fill(words, word, put);
    }
    fill_plainly(words, word, put);
}

/// The sum of all words, modulo 2^64.
#[inline]
pub fn sum(words: &[u64]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if words.len() >= 32 && std::arch::is_x86_feature_detected!("avx2") {
        return wide::sum(words);
    }
    sum_plainly(words)
}

#[inline(always)]
fn fill_plainly<T>(words: &mut [T], word: u64, put: impl Fn(&mut T, u64)) {
    for place in words {
        put(place, word);
    }
}

#[inline(always)]
fn sum_plainly(words: &[u64]) -> u64 {
    let mut lanes = [0_u64; 32];
    let (whole, rest) = words.as_chunks::<32>();
    for chunk in whole {
        for (lane, word) in lanes.iter_mut().zip(chunk) {
            *lane = lane.wrapping_add(*word);
        }
    }
    lanes.iter().chain(rest).fold(0, |sum, word| sum.wrapping_add(*word))
}

#[cfg(target_arch = "x86_64")]
mod wide {
    #![expect(unsafe_code, reason = "functions for processors that have AVX2")]

    pub(super) fn fill<T>(words: &mut [T], word: u64, put: impl Fn(&mut T, u64)) {
        // SAFETY: the only caller has asked the processor for AVX2.
        unsafe { fill_avx2(words, word, put) }
    }

    pub(super) fn sum(words: &[u64]) -> u64 {
        // SAFETY: the only caller has asked the processor for AVX2.
        unsafe { sum_avx2(words) }
    }

    #[target_feature(enable = "avx2")]
    fn fill_avx2<T>(words: &mut [T], word: u64, put: impl Fn(&mut T, u64)) {
        super::fill_plainly(words, word, put);
    }

    #[target_feature(enable = "avx2")]
    fn sum_avx2(words: &[u64]) -> u64 {
        super::sum_plainly(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_filled_is_summed_at_every_length() {
        for len in [0, 1, 7, 31, 32, 33, 1000] {
            let mut words = vec![0; len];
            fill(&mut words, 3);
            assert_eq!(sum(&words), 3 * len as u64);
        }
    }
}

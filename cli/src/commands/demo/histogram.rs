//! Durations by how often they came: exact below 2 us, to a thousandth above.

/// Bits kept of a duration.
const BITS: u32 = 11;

/// How often each duration came, in nanoseconds.
#[derive(Debug)]
pub(super) struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    max: u64,
}

fn bucket(nanos: u64) -> usize {
    let drop = (u64::BITS - nanos.leading_zeros()).saturating_sub(BITS);
    ((drop as usize) << (BITS - 1)) + (nanos >> drop) as usize
}

/// The longest duration of a bucket.
fn top(bucket: usize) -> u64 {
    let half = 1 << (BITS - 1);
    let drop = (bucket / half).saturating_sub(1);
    let kept = (bucket - drop * half) as u64;
    ((kept + 1) << drop) - 1
}

impl Histogram {
    pub(super) fn new() -> Self {
        // Durations beyond 17 s share the last bucket.
        Self { buckets: vec![0; bucket(1 << 34) + 1], count: 0, max: 0 }
    }

    #[inline]
    pub(super) fn add(&mut self, nanos: u64) {
        let last = self.buckets.len() - 1;
        self.buckets[bucket(nanos).min(last)] += 1;
        self.count += 1;
        self.max = self.max.max(nanos);
    }

    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    pub(super) const fn max(&self) -> u64 {
        self.max
    }

    /// What `per_mille` of the durations did not exceed; 0 if there are none.
    pub(super) fn percentile(&self, per_mille: u64) -> u64 {
        let rank = (u128::from(self.count) * u128::from(per_mille)).div_ceil(1000);
        let mut seen = 0;
        let (_beyond, bounded) = self.buckets.split_last().unwrap_or((&0, &[]));
        for (bucket, count) in bounded.iter().enumerate() {
            seen += u128::from(*count);
            if seen >= rank && seen > 0 {
                return top(bucket).min(self.max);
            }
        }
        self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_and_hold_a_thousandth() {
        let mut last = bucket(0);
        assert_eq!(last, 0);
        for nanos in 1..200_000_u64 {
            let now = bucket(nanos);
            assert!(now == last || now == last + 1, "{nanos}");
            assert!(top(now) >= nanos && top(now) - nanos <= nanos / 1000, "{nanos} {}", top(now));
            last = now;
        }
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_durations() {
        let mut histogram = Histogram::new();
        assert_eq!(histogram.percentile(500), 0);
        for nanos in (1..=1000).rev() {
            histogram.add(nanos);
        }
        histogram.add(u64::MAX);
        assert_eq!((histogram.percentile(500), histogram.percentile(999)), (501, 1000));
        assert_eq!((histogram.percentile(1000), histogram.max()), (u64::MAX, u64::MAX));
        assert_eq!(histogram.count(), 1001);
    }
}

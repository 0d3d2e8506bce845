//! Latency histograms that can be merged: their bounds are the same in every thread, node and version.

use crate::metrics::Counter;

/// Each power of two of microseconds is cut into so many buckets, which makes them at most 3.2 % wide.
const PER_OCTAVE: u64 = 32;
/// Up to 2^26 microseconds, a bit over a minute; what takes longer is counted in the last bucket.
const OCTAVES: u64 = 26;
/// The number of buckets. Below 32 microseconds each microsecond has its own.
pub const BUCKETS: usize = ((OCTAVES - 4) * PER_OCTAVE) as usize;

/// One thread's latencies.
pub struct Latencies {
    counts: Box<[Counter]>,
    sum_us: Counter,
}

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies { counts: (0..BUCKETS).map(|_| Counter::default()).collect(), sum_us: Counter::default() }
    }
}

impl std::fmt::Debug for Latencies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Latencies of {} us in all", self.sum_us.get())
    }
}

impl Latencies {
    /// Counts `requests` that took `us` microseconds each; to be called by the one writer alone.
    pub fn record(&self, us: u64, requests: u64) {
        if let Some(count) = self.counts.get(bucket(us)) {
            count.add(requests);
        }
        self.sum_us.add(us.saturating_mul(requests));
    }

    /// Adds these latencies to `sum`.
    pub fn add_to(&self, sum: &mut Histogram) {
        for (total, count) in sum.counts.iter_mut().zip(&self.counts) {
            *total += count.get();
        }
        sum.sum_us += self.sum_us.get();
    }
}

/// A sum of latencies.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    /// All latencies added up, in microseconds.
    pub sum_us: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: vec![0; BUCKETS], sum_us: 0 }
    }
}

impl Histogram {
    /// How many requests were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The number of requests that took less than each power of two of microseconds, from 2^`from` to 2^26.
    pub fn below_powers_of_two(&self, from: u64) -> impl Iterator<Item = (u64, u64)> {
        (from..=OCTAVES).map(|power| {
            let end = bucket((1 << power) - 1) + 1;
            (1 << power, self.counts[..end].iter().sum())
        })
    }
}

/// The bucket that `us` microseconds fall into.
fn bucket(us: u64) -> usize {
    let us = us.min((1 << OCTAVES) - 1);
    if us < PER_OCTAVE {
        return us as usize;
    }
    let octave = u64::from(us.ilog2()) - 5;
    (octave * PER_OCTAVE + (us >> octave)) as usize
}

#[cfg(test)]
mod tests {
    use super::{BUCKETS, Histogram, Latencies, bucket};

    #[test]
    fn buckets_are_at_most_a_twentieth_wide() {
        let (mut last, mut start) = (0, 0_u64);
        for us in 0..1 << 20 {
            let this = bucket(us);
            assert!(this == last || this == last + 1, "{us} us: {last} to {this}");
            if this != last {
                assert!(start < 32 || (us - start) * 20 <= start, "{start} to {us} us");
                (last, start) = (this, us);
            }
        }
    }

    #[test]
    fn the_longest_latencies_share_the_last_bucket() {
        assert_eq!(bucket((1 << 26) - 1), BUCKETS - 1);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn what_is_counted_is_summed_up() {
        let (latencies, mut sum) = (Latencies::default(), Histogram::default());
        latencies.record(3, 2);
        latencies.record(1000, 1);
        latencies.add_to(&mut sum);
        assert_eq!((sum.count(), sum.sum_us), (3, 1006));
        let below: Vec<_> = sum.below_powers_of_two(2).take(2).collect();
        assert_eq!(below, [(4, 2), (8, 2)]);
    }
}

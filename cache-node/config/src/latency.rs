//! Latency histograms that can be merged: their bounds are the same in every thread, node and version.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Each power of two of microseconds is cut into so many buckets, which makes them at most 3.2 % wide.
const PER_OCTAVE: u64 = 32;
/// Up to 2^26 microseconds, a bit over a minute; what takes longer is counted in the last bucket.
pub const LATENCY_OCTAVES: u64 = 26;
/// The number of buckets. Below 32 microseconds each microsecond has its own.
pub const LATENCY_BUCKETS: usize = ((LATENCY_OCTAVES - 4) * PER_OCTAVE) as usize;

/// The bucket that `us` microseconds fall into.
#[must_use]
pub fn latency_bucket(us: u64) -> usize {
    let us = us.min((1 << LATENCY_OCTAVES) - 1);
    if us < PER_OCTAVE {
        return us as usize;
    }
    let octave = u64::from(us.ilog2()) - 5;
    (octave * PER_OCTAVE + (us >> octave)) as usize
}

/// The shortest latency, in microseconds, that falls into `bucket`.
fn shortest_in(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < PER_OCTAVE {
        return bucket;
    }
    let octave = bucket / PER_OCTAVE - 1;
    (PER_OCTAVE + bucket % PER_OCTAVE) << octave
}

/// How long requests took.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Latencies {
    /// All latencies added up, in microseconds.
    pub sum_us: u64,
    /// How many requests there were in each bucket, by the shortest latency, in microseconds, that belongs to it. Empty
    /// buckets are left out.
    pub buckets: BTreeMap<u64, u64>,
}

impl Latencies {
    /// The histogram of these counts, one for each bucket.
    #[must_use]
    pub fn of(counts: &[u64], sum_us: u64) -> Latencies {
        let filled = counts.iter().enumerate().filter(|(_, count)| **count > 0);
        Latencies { sum_us, buckets: filled.map(|(bucket, count)| (shortest_in(bucket), *count)).collect() }
    }

    /// How many requests there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.values().sum()
    }

    /// Adds those of another command, node or time.
    pub fn merge(&mut self, other: &Latencies) {
        self.sum_us += other.sum_us;
        for (us, count) in &other.buckets {
            *self.buckets.entry(*us).or_default() += count;
        }
    }

    /// Those that came after `earlier` was taken of the same node.
    #[must_use]
    pub fn since(&self, earlier: &Latencies) -> Latencies {
        let before = |us: &u64| earlier.buckets.get(us).copied().unwrap_or_default();
        let later = self.buckets.iter().map(|(us, count)| (*us, count.saturating_sub(before(us))));
        Latencies {
            sum_us: self.sum_us.saturating_sub(earlier.sum_us),
            buckets: later.filter(|(_, count)| *count > 0).collect(),
        }
    }

    /// How many requests took `us` microseconds or longer, to the precision of a bucket.
    #[must_use]
    pub fn at_least(&self, us: u64) -> u64 {
        self.buckets.range(shortest_in(latency_bucket(us))..).map(|(_, count)| count).sum()
    }

    /// The latency, in microseconds, that a share of `quantile` of the requests did not exceed, to the precision of a
    /// bucket; none where there were no requests.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Option<u64> {
        let rank = ((self.count() as f64 * quantile).ceil() as u64).max(1);
        let mut passed = 0;
        let mut ends = self.buckets.iter().map(|(us, count)| {
            passed += count;
            (passed, shortest_in(latency_bucket(*us) + 1) - 1)
        });
        ends.find(|(passed, _)| *passed >= rank).map(|(_, us)| us)
    }
}

#[cfg(test)]
mod tests {
    use super::{LATENCY_BUCKETS, Latencies, latency_bucket, shortest_in};

    #[test]
    fn buckets_are_at_most_a_twentieth_wide() {
        let (mut last, mut start) = (0, 0_u64);
        for us in 0..1 << 20 {
            let this = latency_bucket(us);
            assert!(this == last || this == last + 1, "{us} us: {last} to {this}");
            if this != last {
                assert!(start < 32 || (us - start) * 20 <= start, "{start} to {us} us");
                assert_eq!(shortest_in(this), us);
                (last, start) = (this, us);
            }
        }
    }

    #[test]
    fn the_longest_latencies_share_the_last_bucket() {
        assert_eq!(latency_bucket((1 << 26) - 1), LATENCY_BUCKETS - 1);
        assert_eq!(latency_bucket(u64::MAX), LATENCY_BUCKETS - 1);
        assert!(shortest_in(LATENCY_BUCKETS - 1) < 1 << 26);
    }

    fn latencies(of: &[(u64, u64)]) -> Latencies {
        let mut counts = vec![0; LATENCY_BUCKETS];
        of.iter().for_each(|(us, count)| counts[latency_bucket(*us)] += count);
        Latencies::of(&counts, of.iter().map(|(us, count)| us * count).sum())
    }

    #[test]
    fn histograms_are_merged_and_told_apart_again() {
        let (first, second) = (latencies(&[(3, 2), (1000, 1)]), latencies(&[(3, 1), (50, 4)]));
        let mut both = first.clone();
        both.merge(&second);
        assert_eq!((both.count(), both.sum_us), (8, 1209));
        assert_eq!(both.since(&first), second);
        assert_eq!(both.since(&both), Latencies::default());
    }

    #[test]
    fn quantiles_are_exact_to_a_bucket() {
        let latencies = latencies(&[(10, 989), (500, 10), (30_000, 1)]);
        assert_eq!(latencies.quantile(0.5), Some(10));
        for (quantile, us) in [(0.99, 500), (0.999, 500), (1.0, 30_000)] {
            let found = latencies.quantile(quantile).unwrap();
            assert_eq!(latency_bucket(found), latency_bucket(us), "{quantile}: {found}");
        }
        assert_eq!((latencies.at_least(500), latencies.at_least(501 + 16), latencies.at_least(0)), (11, 1, 1000));
        assert_eq!(Latencies::default().quantile(0.5), None);
    }

    #[test]
    fn a_histogram_survives_the_wire() {
        let latencies = latencies(&[(3, 2), (1000, 1)]);
        let text = serde_yaml::to_string(&latencies).unwrap();
        assert_eq!(serde_yaml::from_str::<Latencies>(&text).unwrap(), latencies);
    }
}

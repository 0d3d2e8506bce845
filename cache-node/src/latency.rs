//! How long requests took: each thread counts its own, into buckets that `config` defines for whoever compares them.

use std::sync::OnceLock;

use config::{LATENCY_BUCKETS, LATENCY_OCTAVES, latency_bucket};

use crate::metrics::Counter;

/// One thread's latencies of one command. A command that is never used costs no memory for them.
#[derive(Default)]
pub struct Latencies {
    counts: OnceLock<Box<[Counter]>>,
    sum_us: Counter,
}

impl std::fmt::Debug for Latencies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Latencies of {} us in all", self.sum_us.get())
    }
}

impl Latencies {
    /// Counts `requests` that took `us` microseconds each; to be called by the one writer alone.
    pub fn record(&self, us: u64, requests: u64) {
        let counts = self.counts.get_or_init(|| (0..LATENCY_BUCKETS).map(|_| Counter::default()).collect());
        if let Some(count) = counts.get(latency_bucket(us)) {
            count.add(requests);
        }
        self.sum_us.add(us.saturating_mul(requests));
    }

    /// Adds these latencies to `sum`.
    pub fn add_to(&self, sum: &mut Histogram) {
        for (total, count) in sum.counts.iter_mut().zip(self.counts.get().into_iter().flatten()) {
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
        Histogram { counts: vec![0; LATENCY_BUCKETS], sum_us: 0 }
    }
}

impl Histogram {
    /// How many requests were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The number of requests that took less than each power of two of microseconds, from 2^`from` to the last.
    pub fn below_powers_of_two(&self, from: u64) -> impl Iterator<Item = (u64, u64)> {
        (from..=LATENCY_OCTAVES).map(|power| {
            let end = latency_bucket((1 << power) - 1) + 1;
            (1 << power, self.counts[..end].iter().sum())
        })
    }

    /// As the node reports it.
    #[must_use]
    pub fn report(&self) -> config::Latencies {
        config::Latencies::of(&self.counts, self.sum_us)
    }
}

#[cfg(test)]
mod tests {
    use super::{Histogram, Latencies};

    #[test]
    fn what_is_counted_is_summed_up() {
        let (latencies, mut sum) = (Latencies::default(), Histogram::default());
        latencies.add_to(&mut sum);
        assert_eq!((sum.count(), sum.sum_us), (0, 0));
        latencies.record(3, 2);
        latencies.record(1000, 1);
        latencies.add_to(&mut sum);
        assert_eq!((sum.count(), sum.sum_us), (3, 1006));
        let below: Vec<_> = sum.below_powers_of_two(2).take(2).collect();
        assert_eq!(below, [(4, 2), (8, 2)]);
        assert_eq!(sum.report().count(), 3);
    }
}

//! How far values wander by themselves.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::metric::Metric;
use super::window::Window;

/// How much wider than by chance alone a metric was seen to wander: a sum of squares, each in units of the variance that chance
/// gives, and how many of them were free. Sums of several observations add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Noise {
    pub sum: f64,
    pub free: f64,
}

/// Before anything was seen, a metric is taken to wander so much wider than by chance alone...
const PRIOR: f64 = 2.0;
/// ...and that counts as so many observations.
const PRIOR_WEIGHT: f64 = 4.0;

/// How seldom chance goes that far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Odds {
    InAHundred,
    InAThousand,
}

impl Odds {
    /// The normal quantile.
    fn quantile(self) -> f64 {
        match self {
            Odds::InAHundred => 2.326,
            Odds::InAThousand => 3.090,
        }
    }
}

impl Noise {
    /// From windows of several pods in the same stretches of time. What a pod always has, and what a stretch brought to
    /// all of them, is taken off; what remains is noise.
    #[must_use]
    pub fn of(metric: &Metric, slow: &BTreeMap<String, u64>, ticks: &[BTreeMap<&str, &Window>]) -> Noise {
        let Some(first) = ticks.first() else { return Noise::default() };
        // Only pods that were there all the time: the rest would mix levels with noise.
        let pods: Vec<&str> =
            first.keys().copied().filter(|pod| ticks.iter().all(|tick| tick.contains_key(pod))).collect();
        let value = |tick: &BTreeMap<&str, &Window>, pod: &str| {
            let slow = slow.get(pod).copied().unwrap_or(u64::MAX);
            metric.name.value(tick.get(pod)?, slow, metric.compare)
        };
        let rows: Vec<Vec<(f64, f64)>> = ticks
            .iter()
            .filter_map(|tick| {
                pods.iter().map(|pod| value(tick, pod).map(|value| (value.scale, value.variance))).collect()
            })
            .collect();
        let (many, times) = (pods.len(), rows.len());
        if many < 2 || times < 2 {
            return Noise::default();
        }
        let cells = (many * times) as f64;
        let mean = rows.iter().flatten().map(|(y, _)| y).sum::<f64>() / cells;
        let of_time: Vec<f64> =
            rows.iter().map(|row| row.iter().map(|(y, _)| y).sum::<f64>() / many as f64 - mean).collect();
        let of_pod: Vec<f64> =
            (0..many).map(|pod| rows.iter().map(|row| row[pod].0).sum::<f64>() / times as f64 - mean).collect();
        let mut sum = 0.0;
        for (row, at_time) in rows.iter().zip(&of_time) {
            for ((y, variance), at_pod) in row.iter().zip(&of_pod) {
                if *variance > 0.0 {
                    sum += (y - mean - at_time - at_pod).powi(2) / variance;
                }
            }
        }
        Noise { sum, free: ((many - 1) * (times - 1)) as f64 }
    }

    #[must_use]
    pub fn and(self, other: Noise) -> Noise {
        Noise { sum: self.sum + other.sum, free: self.free + other.free }
    }

    /// By what factor variances are wider than by chance alone; never narrower.
    #[must_use]
    pub fn factor(self) -> f64 {
        ((PRIOR * PRIOR_WEIGHT + self.sum) / (PRIOR_WEIGHT + self.free)).max(1.0)
    }

    /// How many standard errors are surpassed by chance so seldom: Student's t, since the noise itself is only known from so many
    /// observations (expansion of Fisher and Cornish).
    #[must_use]
    pub fn significant(self, odds: Odds) -> f64 {
        let (z, free) = (odds.quantile(), PRIOR_WEIGHT + self.free);
        z + (z.powi(3) + z) / (4.0 * free) + (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / (96.0 * free.powi(2))
    }
}

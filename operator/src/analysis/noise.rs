//! How far values wander by themselves.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::metric::Metric;
use super::window::Window;

/// How far a metric was seen to wander from window to window. Sums of several observations add up.
///
/// Chance alone makes a share of requests wander, and how far is known. What real nodes wander beyond that comes on top of it and is no
/// multiple of it: where all look-ups are hits, chance gives nothing, and the least stir would be a thousand times as much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Noise {
    /// The sum of the squares that were seen.
    pub seen: f64,
    /// What chance alone gives of it.
    pub chance: f64,
    /// How many of the squares were free.
    pub free: f64,
}

/// The noise of the two sides of a comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Noises {
    pub canaries: Noise,
    pub peers: Noise,
}

/// Before anything was seen, variances are taken to be twice what chance gives, and that counts as so many observations.
const PRIOR_WEIGHT: f64 = 4.0;
/// A sum of squares below this is none.
const LEAST: f64 = 1e-12;
/// What was seen of all pods counts no more than so many observations of one.
const OTHERS_WEIGHT: f64 = 8.0;

/// How seldom chance goes that far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Odds {
    InAHundred,
    InAThousand,
}

/// With so few digits that it is read back as it was written: a record that comes back otherwise would be written again for ever.
fn short(value: f64) -> f64 {
    if value < LEAST { 0.0 } else { format!("{value:.8e}").parse().unwrap_or(value) }
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
    /// By pod, from windows of several pods in the same stretches of time. What a pod always has, and what a stretch brought to all
    /// of them, is taken off; what remains is noise.
    #[must_use]
    pub fn by_pod(
        metric: &Metric,
        slow: &BTreeMap<String, u64>,
        ticks: &[BTreeMap<&str, &Window>],
    ) -> BTreeMap<String, Noise> {
        let Some(first) = ticks.first() else { return BTreeMap::new() };
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
            return BTreeMap::new();
        }
        let cells = (many * times) as f64;
        let mean = rows.iter().flatten().map(|(y, _)| y).sum::<f64>() / cells;
        let of_time: Vec<f64> =
            rows.iter().map(|row| row.iter().map(|(y, _)| y).sum::<f64>() / many as f64 - mean).collect();
        let of_pod: Vec<f64> =
            (0..many).map(|pod| rows.iter().map(|row| row[pod].0).sum::<f64>() / times as f64 - mean).collect();
        let free = ((many - 1) * (times - 1)) as f64 / many as f64;
        let noise_of = |(index, pod): (usize, &&str)| {
            let (mut seen, mut variances) = (0.0, 0.0);
            for (row, at_time) in rows.iter().zip(&of_time) {
                let (y, variance) = row[index];
                seen += (y - mean - at_time - of_pod[index]).powi(2);
                variances += variance;
            }
            let chance = free * variances / times as f64;
            ((*pod).to_owned(), Noise { seen: short(seen), chance: short(chance), free: short(free) })
        };
        pods.iter().enumerate().map(noise_of).collect()
    }

    #[must_use]
    pub fn sum<'a>(noises: impl IntoIterator<Item = &'a Noise>) -> Noise {
        noises.into_iter().fold(Noise::default(), |sum, noise| Noise {
            seen: sum.seen + noise.seen,
            chance: sum.chance + noise.chance,
            free: sum.free + noise.free,
        })
    }

    /// With what was seen of others beside it: one pod may wander more than the next, but a few windows of its own say little.
    #[must_use]
    pub fn beside(self, others: Noise) -> Noise {
        let share = if others.free > OTHERS_WEIGHT { OTHERS_WEIGHT / others.free } else { 1.0 };
        let scaled = Noise { seen: others.seen * share, chance: others.chance * share, free: others.free * share };
        Noise::sum([&self, &scaled])
    }

    /// The variance of a difference to which chance gives `chance`, and which is between means of windows whose numbers'
    /// reciprocals add up to `windows`.
    #[must_use]
    pub fn variance(self, chance: f64, windows: f64) -> f64 {
        let doubt = 1.0 + PRIOR_WEIGHT / (PRIOR_WEIGHT + self.free);
        let beyond = if self.free > 0.0 { (self.seen - self.chance).max(0.0) / self.free } else { 0.0 };
        chance * doubt + beyond * windows
    }

    /// How many standard errors are surpassed by chance so seldom: Student's t, since the noise itself is only known from so many
    /// observations (expansion of Fisher and Cornish).
    #[must_use]
    pub fn significant(self, odds: Odds) -> f64 {
        let (z, free) = (odds.quantile(), PRIOR_WEIGHT + self.free);
        z + (z.powi(3) + z) / (4.0 * free) + (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / (96.0 * free.powi(2))
    }
}

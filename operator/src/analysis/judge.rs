//! One metric, one look.

use super::metric::{Compare, FEWEST_BEYOND, Metric, Name, Value};
use super::noise::{Noise, Noises, Odds};
use super::window::Window;

/// What came of a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    Fail,
    /// Nothing can be said, and why.
    Inconclusive(String),
    /// Nothing can be said yet: the analysis has not yet gathered enough.
    Gathering,
}

/// A verdict with its figures.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    pub name: Name,
    pub verdict: Verdict,
    /// What the canaries have.
    pub canary: f64,
    /// What they would have, had they changed as their peers did.
    pub expected: f64,
    /// How far the difference goes by chance, on the scale of comparison: one standard error.
    pub error: f64,
}

impl Judgement {
    /// The same, in a look of so many: the tail gathers in the first half of them, and what is in doubt then may clear up until the
    /// last one.
    #[must_use]
    pub fn at(mut self, look: usize, looks: usize) -> Judgement {
        let is_clear = matches!(self.verdict, Verdict::Pass | Verdict::Fail);
        if self.name.is_of_the_tail() && look < looks && (2 * look < looks || !is_clear) {
            self.verdict = Verdict::Gathering;
        }
        self
    }
}

/// A side before the rollout and now: a pod each, with the microseconds that are slow for it.
#[derive(Clone, Debug)]
pub struct Pair<'a> {
    pub before: &'a Window,
    pub slow: u64,
    pub now: Window,
}

/// So many standard errors must have room within the limit, for what is beyond it by chance to pass.
const SHARP: f64 = 2.0;

/// Judges one metric.
#[must_use]
pub fn judge(metric: &Metric, canaries: &[Pair<'_>], peers: &[Pair<'_>], noises: Noises) -> Judgement {
    let nothing = |why: &str| Judgement {
        name: metric.name,
        verdict: Verdict::Inconclusive(why.to_owned()),
        canary: f64::NAN,
        expected: f64::NAN,
        error: f64::NAN,
    };
    if metric.name == Name::Restarts {
        return restarts(metric, canaries, peers);
    }
    let (Some(canary), Some(peer)) = (Change::of(metric, canaries), Change::of(metric, peers)) else {
        return nothing("there is nothing to measure it by");
    };
    let effect = canary.change() - peer.change();
    let chance = noises.canaries.variance(canary.variance(), canary.windows)
        + noises.peers.variance(peer.variance(), peer.windows);
    let restarted = metric.name.restart_spread(metric.compare, canary.before.at).powi(2) / canaries.len() as f64;
    let drift = drift(metric, peers, noises.peers) * ((canaries.len() as f64).recip() + (peers.len() as f64).recip());
    let error = (chance + restarted + drift).sqrt();
    let expected = match metric.compare {
        Compare::Difference => canary.now.at - effect,
        Compare::Ratio => canary.now.at / effect.exp(),
    };
    let expected = if metric.name.is_share() { expected.clamp(0.0, 1.0) } else { expected };
    // A lower limit is an upper one, seen in the mirror.
    let limit = if metric.compare == Compare::Ratio { metric.limit.ln() } else { metric.limit };
    let (effect, limit) = if metric.at_least { (-effect, -limit) } else { (effect, limit) };
    let verdict = if metric.name.is_of_the_tail() && beyond(metric.name, canaries) < FEWEST_BEYOND {
        Verdict::Gathering
    } else {
        verdict(effect, limit, error, noises.canaries)
    };
    Judgement { name: metric.name, verdict, canary: canary.now.at, expected, error }
}

/// How much further the peers' changes are apart than their windows say: the variance of what drifts too slowly to be seen from one
/// window to the next, pod by pod.
fn drift(metric: &Metric, peers: &[Pair<'_>], noise: Noise) -> f64 {
    let alone = peers.iter().filter_map(|peer| Change::of(metric, std::slice::from_ref(peer)));
    let changes: Vec<(f64, f64)> =
        alone.map(|change| (change.change(), noise.variance(change.variance(), change.windows))).collect();
    if changes.len() < 2 {
        return 0.0;
    }
    let many = changes.len() as f64;
    let mean = changes.iter().map(|(change, _)| change).sum::<f64>() / many;
    let seen = changes.iter().map(|(change, _)| (change - mean).powi(2)).sum::<f64>() / (many - 1.0);
    let known = changes.iter().map(|(_, variance)| variance).sum::<f64>() / many;
    (seen - known).max(0.0)
}

/// What a change comes to, beside its limit and one standard error.
fn verdict(effect: f64, limit: f64, error: f64, noise: Noise) -> Verdict {
    let beyond_chance = |odds: Odds| effect - limit.min(0.0) > noise.significant(odds) * error;
    if effect <= limit && error > limit.abs() {
        Verdict::Inconclusive("its noise is larger than the limit".to_owned())
    } else if effect <= limit {
        Verdict::Pass
    } else if beyond_chance(Odds::InAThousand) {
        Verdict::Fail
    } else if beyond_chance(Odds::InAHundred) {
        Verdict::Inconclusive("beyond the limit, and seldom that far by chance".to_owned())
    } else if SHARP * error > limit.abs() {
        Verdict::Inconclusive("beyond the limit, but its noise is too large to say more".to_owned())
    } else {
        // With as little noise as this, what is worse by twice the limit would have been seen.
        Verdict::Pass
    }
}

/// A restart is an event, not a measurement: there is no noise to it.
fn restarts(metric: &Metric, canaries: &[Pair<'_>], peers: &[Pair<'_>]) -> Judgement {
    let most = |pairs: &[Pair<'_>]| pairs.iter().map(|pair| f64::from(pair.now.restarts)).fold(0.0, f64::max);
    let (canary, expected) = (most(canaries), most(peers));
    let beyond = match metric.compare {
        Compare::Difference => canary - expected > metric.limit,
        Compare::Ratio => canary > expected.max(1.0) * metric.limit,
    };
    let verdict = if beyond { Verdict::Fail } else { Verdict::Pass };
    Judgement { name: metric.name, verdict, canary, expected, error: 0.0 }
}

/// How many requests are to be expected beyond the percentile in question.
fn beyond(name: Name, pairs: &[Pair<'_>]) -> f64 {
    pairs
        .iter()
        .map(|pair| {
            let requests = pair.now.latencies.count() as f64;
            let before = pair.before.latencies.count().max(1) as f64;
            match name {
                Name::SlowShare => requests * pair.before.latencies.at_least(pair.slow) as f64 / before,
                _ => requests * 0.01,
            }
        })
        .sum()
}

/// A side's value before and now.
struct Change {
    before: Value,
    now: Value,
    /// One by the number of windows, before and now, added up.
    windows: f64,
}

impl Change {
    fn of(metric: &Metric, pairs: &[Pair<'_>]) -> Option<Change> {
        let parts = |of: fn(&Pair<'_>) -> u32| f64::from(pairs.iter().map(of).sum::<u32>().max(1));
        let windows = parts(|pair| pair.before.parts).recip() + parts(|pair| pair.now.parts).recip();
        match metric.name {
            // What is slow is another thing for each pod: shares are counted apart and added up.
            Name::SlowShare => {
                let mut sums = [(0, 0); 2];
                for pair in pairs {
                    for (sum, window) in sums.iter_mut().zip([pair.before, &pair.now]) {
                        sum.0 += window.latencies.at_least(pair.slow);
                        sum.1 += window.latencies.count();
                    }
                }
                let [before, now] = sums.map(|(count, of)| super::metric::share(count, of, metric.compare));
                Some(Change { before: before?, now: now?, windows })
            }
            _ => {
                let before = Window::sum(pairs.iter().map(|pair| pair.before));
                let now = Window::sum(pairs.iter().map(|pair| &pair.now));
                let value = |window| metric.name.value(window, u64::MAX, metric.compare);
                Some(Change { before: value(&before)?, now: value(&now)?, windows })
            }
        }
    }

    fn change(&self) -> f64 {
        self.now.scale - self.before.scale
    }

    fn variance(&self) -> f64 {
        self.now.variance + self.before.variance
    }
}

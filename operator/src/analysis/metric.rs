//! What is measured, and how two sides of it are compared.

use serde::{Deserialize, Serialize};

use super::window::Window;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Name {
    ErrorRatio,
    SlowShare,
    P50Latency,
    P99Latency,
    HitRatio,
    AnonymousMemory,
    Restarts,
}

/// How the canary's value is set beside the one expected of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compare {
    /// By how much it is more.
    Difference,
    /// By what factor it is more.
    Ratio,
}

/// Whom the canaries are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Side {
    /// All pods of the stable revision.
    Peers,
    /// A pod of the stable revision that was restarted when the canary was.
    Control,
}

/// A metric with its limit: how much more than expected is too much, or, with `at_least`, how much less.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metric {
    pub name: Name,
    pub compare: Compare,
    pub limit: f64,
    /// The limit is a lower one.
    pub at_least: bool,
    pub side: Side,
}

/// Requests slower than a pod's own 99.9th percentile are its slow ones.
pub const SLOW_QUANTILE: f64 = 0.999;
/// So many requests beyond a percentile are needed to judge it.
pub const FEWEST_BEYOND: f64 = 100.0;
/// A count of nothing has no logarithm; half an event is what nothing may hide.
const HALF: f64 = 0.5;

impl Name {
    /// As it is written in the spec.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Name::ErrorRatio => "errorRatio",
            Name::SlowShare => "slowShare",
            Name::P50Latency => "p50Latency",
            Name::P99Latency => "p99Latency",
            Name::HitRatio => "hitRatio",
            Name::AnonymousMemory => "anonymousMemory",
            Name::Restarts => "restarts",
        }
    }

    /// A value for people.
    #[must_use]
    pub fn show(self, value: f64) -> String {
        match self {
            Name::ErrorRatio | Name::SlowShare => format!("{:.3} %", value * 100.0),
            Name::HitRatio => format!("{:.2} %", value * 100.0),
            Name::P50Latency | Name::P99Latency if value < 1e4 => format!("{value:.0} us"),
            Name::P50Latency | Name::P99Latency => format!("{:.1} ms", value / 1e3),
            Name::AnonymousMemory => format!("{:.1} Mi", value / f64::from(1 << 20)),
            Name::Restarts => format!("{value:.0}"),
        }
    }

    /// Whether it is a share of something.
    #[must_use]
    pub fn is_share(self) -> bool {
        matches!(self, Name::ErrorRatio | Name::SlowShare | Name::HitRatio)
    }

    /// Whether it takes a whole analysis to gather enough of what it counts.
    #[must_use]
    pub fn is_of_the_tail(self) -> bool {
        matches!(self, Name::SlowShare | Name::P99Latency)
    }

    /// The value of a window, `slow` microseconds being slow, with the variance that chance alone gives it: of the value
    /// itself or, for a ratio, of its logarithm. `None` where the window has nothing to measure it by.
    #[must_use]
    pub fn value(self, window: &Window, slow: u64, compare: Compare) -> Option<Value> {
        let parts = f64::from(window.parts.max(1));
        match self {
            Name::ErrorRatio => share(window.errors, window.requests, compare),
            Name::SlowShare => share(window.latencies.at_least(slow), window.latencies.count(), compare),
            Name::HitRatio => share(window.hits, window.hits + window.misses, compare),
            Name::P50Latency => quantile(window, 0.5).map(|us| continuous(us, compare, 0.02, parts)),
            Name::P99Latency => quantile(window, 0.99).map(|us| continuous(us, compare, 0.05, parts)),
            Name::AnonymousMemory => {
                let bytes = window.anonymous as f64 / parts;
                (bytes > 0.0).then(|| continuous(bytes, compare, 0.01, parts))
            }
            Name::Restarts => {
                Some(Value { at: f64::from(window.restarts), scale: f64::from(window.restarts), variance: 0.0 })
            }
        }
    }

    /// What a mere restart of a pod on another host, under other neighbours, may change for good: the standard deviation, of
    /// the value itself or of its logarithm. Measured by restarting nodes that changed in nothing.
    #[must_use]
    pub fn restart_spread(self, compare: Compare, at: f64) -> f64 {
        let relative = match self {
            Name::ErrorRatio => return if compare == Compare::Ratio { 0.1 } else { 0.0001 },
            Name::HitRatio => return if compare == Compare::Ratio { 0.003 } else { 0.003 * at.max(0.1) },
            Name::Restarts => 0.0,
            Name::SlowShare => 0.2,
            Name::P50Latency => 0.05,
            Name::P99Latency => 0.03,
            // Memory comes in pages of 2 MiB.
            Name::AnonymousMemory => 0.015_f64.hypot(f64::from(3 << 19) / at),
        };
        if compare == Compare::Ratio { relative } else { relative * at }
    }
}

/// A value on the scale that it is compared on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Value {
    /// As people know it.
    pub at: f64,
    /// The same, or its logarithm.
    pub scale: f64,
    /// By chance alone, on that scale.
    pub variance: f64,
}

pub(super) fn share(count: u64, of: u64, compare: Compare) -> Option<Value> {
    if of == 0 {
        return None;
    }
    let (count, of) = (count as f64, of as f64);
    let likely = (count + HALF) / (of + 2.0 * HALF);
    Some(match compare {
        Compare::Difference => Value { at: count / of, scale: count / of, variance: likely * (1.0 - likely) / of },
        Compare::Ratio => Value { at: count / of, scale: likely.ln(), variance: (1.0 - likely) / (count + HALF) },
    })
}

/// `spread` is the least that such a value is taken to vary by from one window to the next.
fn continuous(at: f64, compare: Compare, spread: f64, parts: f64) -> Value {
    match compare {
        Compare::Difference => Value { at, scale: at, variance: (at * spread).powi(2) / parts },
        Compare::Ratio => Value { at, scale: at.max(f64::MIN_POSITIVE).ln(), variance: spread.powi(2) / parts },
    }
}

/// Between the bounds of its bucket, by rank: a percentile must not jump by a bucket's width where it crept by a request.
fn quantile(window: &Window, quantile: f64) -> Option<f64> {
    let us = window.latencies.quantile(quantile)?;
    let low = window.latencies.buckets.range(..=us).next_back().map_or(us, |(low, _)| *low);
    let rank = window.latencies.count() as f64 * quantile;
    let beyond = window.latencies.at_least(low) as f64;
    let within = beyond - window.latencies.at_least(us + 1) as f64;
    let before = window.latencies.count() as f64 - beyond;
    let along = if within > 0.0 { ((rank - before) / within).clamp(0.0, 1.0) } else { 1.0 };
    Some(low as f64 + along * (us + 1 - low) as f64)
}

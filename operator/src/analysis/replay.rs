//! Decisions, replayed: rollouts put together from windows that live nodes were recorded in (docs/windows.json), with seeded noise.
//!
//! A rollout takes stretches at random, the same for all of its pods: what happened to the machine happened to all of them. Each
//! count is then drawn anew around what was recorded. The canary's windows have a fault put into them, or none. A minute of a node says
//! too little of its slowest requests to tell one minute from the next, so all of a node's windows are one stock, those after
//! its restart included.

use std::collections::BTreeMap;

use config::Latencies;
use jiff::{Timestamp, ToSpan};
use serde::Deserialize;

use super::{
    Analysis, Before, Cell, Compare, Metric, Name, Outcome, Side, Sides, Tick, Window, default_metrics, tally,
};

/// One node, before and after a restart, second by second.
#[derive(Deserialize)]
struct Recording {
    before: Vec<Window>,
    after: Vec<Window>,
}

impl Recording {
    fn stock(&self) -> impl Iterator<Item = &Window> {
        self.before.iter().chain(&self.after)
    }
}

/// What is wrong with the canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Nothing,
    /// The slowest twentieth of requests takes 30 % longer.
    SlowTail,
    /// One hit in twenty requests becomes a miss.
    FewerHits,
    /// One request in two hundred fails.
    Errors,
    /// A fifth more memory beside items.
    Memory,
}

const FAULTS: [(Fault, &[&str]); 4] = [
    (Fault::SlowTail, &["p99Latency", "slowShare"]),
    (Fault::FewerHits, &["hitRatio"]),
    (Fault::Errors, &["errorRatio"]),
    (Fault::Memory, &["anonymousMemory"]),
];
const BEFORE_STRETCHES: usize = 20;
const ANALYSIS: Analysis = Analysis {
    warmup_seconds: 0,
    interval_seconds: SECONDS as i64,
    count: 20,
    min_requests: 10_000,
    failure_limit: 2,
    inconclusive_limit: 5,
    consecutive_error_limit: 4,
};
/// Recorded seconds of one stretch: the default interval, as all of the analysis is the default one.
const SECONDS: usize = 30;

/// What became of so many rollouts.
#[derive(Debug, Default)]
struct Ends {
    promoted: usize,
    rolled_back: usize,
    paused: usize,
    /// By the metric that is named first.
    named: BTreeMap<String, usize>,
}

/// splitmix64: the same seed, the same rollouts.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(bound).unwrap()).unwrap()
    }

    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A normal deviate, as the sum of twelve.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.share()).sum::<f64>() - 6.0
    }

    /// A count that is `mean` on average (Poisson; by its normal limit where it is large).
    fn count(&mut self, mean: f64) -> u64 {
        if mean > 50.0 {
            return (mean + mean.sqrt() * self.normal()).round().max(0.0) as u64;
        }
        let (mut product, mut count, limit) = (self.share(), 0, (-mean).exp());
        while product > limit {
            product *= self.share();
            count += 1;
        }
        count
    }
}

fn recordings() -> Vec<Recording> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/windows.json");
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

/// The default ones, and the percentile that a slower tail moves.
fn metrics() -> Vec<Metric> {
    let tail =
        Metric { name: Name::P99Latency, compare: Compare::Ratio, limit: 1.15, at_least: false, side: Side::Peers };
    default_metrics().into_iter().chain([tail]).collect()
}

/// A stretch of one node: these of its seconds, each count drawn anew.
fn stretch(of: &[&Window], seconds: &[usize], fault: Fault, random: &mut Random) -> Window {
    let mut sum = Window::sum(seconds.iter().map(|second| of[*second]));
    let anonymous = sum.anonymous as f64 / f64::from(sum.parts);
    let mut latencies = BTreeMap::new();
    for (us, count) in &sum.latencies.buckets {
        let drawn = random.count(*count as f64);
        if drawn > 0 {
            latencies.insert(*us, drawn);
        }
    }
    sum.latencies = Latencies { sum_us: 0, buckets: latencies };
    sum.requests = sum.latencies.count();
    let asked = random.count((sum.hits + sum.misses) as f64);
    let missing =
        sum.misses as f64 / (sum.hits + sum.misses) as f64 + if fault == Fault::FewerHits { 0.05 } else { 0.0 };
    sum.misses = random.count(asked as f64 * missing).min(asked);
    sum.hits = asked - sum.misses;
    sum.errors = if fault == Fault::Errors { random.count(sum.requests as f64 * 0.005) } else { sum.errors };
    (sum.parts, sum.anonymous) = (1, (anonymous * if fault == Fault::Memory { 1.2 } else { 1.0 }) as u64);
    if fault == Fault::SlowTail {
        let from = sum.latencies.quantile(0.95).unwrap();
        let mut slower = Latencies::default();
        for (us, count) in &sum.latencies.buckets {
            let took = if *us > from { us + us * 3 / 10 } else { *us };
            let mut counts = vec![0; config::LATENCY_BUCKETS];
            counts[config::latency_bucket(took)] = *count;
            slower.merge(&Latencies::of(&counts, 0));
        }
        sum.latencies = slower;
    }
    sum
}

/// One rollout of four pods, the last of which is the canary.
fn rollout(recordings: &[Recording], fault: Fault, random: &mut Random) -> Outcome {
    let mut nodes: Vec<&Recording> = recordings.iter().collect();
    for index in (1..nodes.len()).rev() {
        nodes.swap(index, random.below(index + 1));
    }
    let canary = nodes.len() - 1;
    let mut tick = |number: usize, is_after: bool| {
        let length = nodes[0].stock().count();
        let seconds: Vec<usize> = (0..SECONDS).map(|_| random.below(length)).collect();
        let cells = nodes.iter().enumerate().map(|(index, node)| {
            let is_canary = is_after && index == canary;
            let series: Vec<&Window> = node.stock().collect();
            let window = stretch(&series, &seconds, if is_canary { fault } else { Fault::Nothing }, random);
            let revision = if is_canary { "new" } else { "old" };
            let cell = Cell {
                revision: revision.to_owned(),
                image: revision.to_owned(),
                uid: revision.to_owned(),
                window: Ok(window),
            };
            (format!("demo-{index}"), cell)
        });
        let cells = cells.collect();
        let from = Timestamp::UNIX_EPOCH + i64::try_from(number * SECONDS).unwrap().seconds();
        Tick { from, to: from + i64::try_from(SECONDS).unwrap().seconds(), cells }
    };
    let before: Vec<Tick> = (0..BEFORE_STRETCHES).map(|number| tick(number, false)).collect();
    let after: Vec<Tick> = (0..ANALYSIS.count).map(|number| tick(BEFORE_STRETCHES + number, true)).collect();
    let sides = Sides { target: "new", stable: "old", canaries: 1, control: None };
    let before = Before::of(&before, "old", &metrics());
    tally(&ANALYSIS, &metrics(), &before, sides, &after).outcome
}

fn replay(fault: Fault, rollouts: usize) -> Ends {
    let recordings = recordings();
    let mut random = Random(fault as u64 + 1);
    let mut ends = Ends::default();
    for _ in 0..rollouts {
        match rollout(&recordings, fault, &mut random) {
            Outcome::Passed => ends.promoted += 1,
            Outcome::Failed(why) => {
                ends.rolled_back += 1;
                *ends.named.entry(why.split_whitespace().next().unwrap_or_default().to_owned()).or_default() += 1;
            }
            Outcome::Inconclusive(why) => {
                ends.paused += 1;
                *ends.named.entry(why.split_whitespace().next().unwrap_or_default().to_owned()).or_default() += 1;
            }
            Outcome::Running => panic!("an analysis that has no end"),
        }
    }
    println!("{fault:?}: {ends:?}");
    ends
}

/// 2000 in a soak, by GANNET_CASES.
fn rollouts() -> usize {
    std::env::var("GANNET_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(40)
}

#[test]
fn an_identical_version_is_promoted() {
    let ends = replay(Fault::Nothing, rollouts());
    assert!(ends.rolled_back * 100 <= rollouts(), "{ends:?}");
    // The others pause: a tail that is in doubt to the last is somebody's to decide. That is a false alarm too.
    assert!(ends.promoted * 100 >= rollouts() * 99, "{ends:?}");
}

#[test]
fn a_worse_version_is_caught() {
    for (fault, metrics) in FAULTS {
        let ends = replay(fault, rollouts());
        assert!(ends.rolled_back * 100 >= rollouts() * 99, "{fault:?}: {ends:?}");
        let named: usize = metrics.iter().filter_map(|metric| ends.named.get(*metric)).sum();
        assert!(named * 100 >= rollouts() * 98, "{fault:?} is not called {metrics:?}: {ends:?}");
    }
}

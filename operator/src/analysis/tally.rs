//! The verdicts of an analysis so far, and what they come to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::before::Before;
use super::judge::{Judgement, Pair, Verdict, judge};
use super::metric::{Metric, Name, Side};
use super::noise::{Noise, Noises};
use super::window::{Cell, Tick, Window};

/// An analysis as declared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Analysis {
    pub warmup_seconds: i64,
    pub interval_seconds: i64,
    pub count: usize,
    /// Per pod and interval.
    pub min_requests: u64,
    pub failure_limit: usize,
    pub inconclusive_limit: usize,
    pub consecutive_error_limit: usize,
}

impl Analysis {
    #[must_use]
    pub fn length_seconds(&self) -> i64 {
        i64::try_from(self.count).unwrap_or(i64::MAX).saturating_mul(self.interval_seconds)
    }
}

/// Who is who.
#[derive(Clone, Copy, Debug)]
pub struct Sides<'a> {
    /// The revision under test.
    pub target: &'a str,
    pub stable: &'a str,
    /// How many pods are under test.
    pub canaries: usize,
    /// The pod that was restarted to be compared with, by name, and the UID of the one that it replaced.
    pub control: Option<(&'a str, &'a str)>,
}

/// What the verdicts come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Running,
    Passed,
    /// Why, with the figures.
    Failed(String),
    /// Why nothing can be said.
    Inconclusive(String),
}

/// One metric so far.
#[derive(Clone, Debug, PartialEq)]
pub struct Count {
    pub metric: Metric,
    pub passes: usize,
    pub failures: usize,
    pub inconclusive: usize,
    pub last: Option<Judgement>,
}

/// An analysis so far.
#[derive(Clone, Debug, PartialEq)]
pub struct Tally {
    pub measured: usize,
    pub counts: Vec<Count>,
    pub outcome: Outcome,
}

/// Pods by name in some stretch: what they did.
type Row<'a> = BTreeMap<&'a str, &'a Window>;

/// Goes through the stretches since the warm-up, in order, until something is decided.
#[must_use]
pub fn tally(analysis: &Analysis, metrics: &[Metric], before: &Before, sides: Sides<'_>, ticks: &[Tick]) -> Tally {
    let count = |metric: &Metric| Count { metric: metric.clone(), passes: 0, failures: 0, inconclusive: 0, last: None };
    let mut tally = Tally { measured: 0, counts: metrics.iter().map(count).collect(), outcome: Outcome::Running };
    let mut gathered = Gathered { slow: before.slow(), ..Gathered::default() };
    let mut errors = 0;
    for tick in ticks.iter().take(analysis.count) {
        tally.measured += 1;
        match Look::of(tick, analysis, before, sides) {
            Ok(look) => {
                errors = 0;
                gathered.add(&look);
                for count in &mut tally.counts {
                    let judgement = judge_look(&count.metric, &look, &gathered, before);
                    count.take(judgement.at(tally.measured, analysis.count));
                }
            }
            Err(Blind { why, unanswered }) => {
                errors = if unanswered { errors + 1 } else { 0 };
                for count in &mut tally.counts {
                    count.blind(&why);
                }
                if errors > analysis.consecutive_error_limit {
                    tally.outcome = Outcome::Inconclusive(format!("{errors} times in a row: {why}"));
                    return tally;
                }
            }
        }
        tally.outcome = tally.come_to(analysis);
        if tally.outcome != Outcome::Running {
            return tally;
        }
    }
    tally
}

impl Tally {
    fn come_to(&self, analysis: &Analysis) -> Outcome {
        if let Some(failed) = self.counts.iter().find(|count| count.failures > analysis.failure_limit) {
            return Outcome::Failed(failed.say());
        }
        if let Some(unclear) = self.counts.iter().find(|count| count.inconclusive > analysis.inconclusive_limit) {
            return Outcome::Inconclusive(unclear.say());
        }
        if self.measured < analysis.count {
            return Outcome::Running;
        }
        // A tail is judged by all that was gathered: what counts is what it comes to in the end.
        let in_doubt = |count: &&Count| {
            let last = count.last.as_ref().map(|last| &last.verdict);
            count.passes == 0 || (count.metric.name.is_of_the_tail() && last != Some(&Verdict::Pass))
        };
        match self.counts.iter().find(in_doubt) {
            Some(unclear) => Outcome::Inconclusive(unclear.say()),
            None => Outcome::Passed,
        }
    }
}

impl Count {
    fn take(&mut self, judgement: Judgement) {
        match judgement.verdict {
            Verdict::Pass => self.passes += 1,
            Verdict::Fail => self.failures += 1,
            Verdict::Inconclusive(_) => self.inconclusive += 1,
            Verdict::Gathering => {}
        }
        self.last = Some(judgement);
    }

    /// Counts a stretch of which nothing is known.
    fn blind(&mut self, why: &str) {
        let name = self.metric.name;
        let verdict = Verdict::Inconclusive(why.to_owned());
        self.take(Judgement { name, verdict, canary: f64::NAN, expected: f64::NAN, error: f64::NAN });
    }

    /// Such as `hitRatio 81.20 %, expected 92.04 % (failed 3 times, passed 1)`.
    #[must_use]
    pub fn say(&self) -> String {
        let name = self.metric.name;
        let Some(last) = &self.last else { return format!("{}: not measured yet", name.text()) };
        let figures = if last.canary.is_finite() {
            format!("{} {}, expected {}", name.text(), name.show(last.canary), name.show(last.expected))
        } else {
            name.text().to_owned()
        };
        let why = match &last.verdict {
            Verdict::Inconclusive(why) => format!(": {why}"),
            Verdict::Gathering => ": too few requests to judge the tail".to_owned(),
            Verdict::Pass | Verdict::Fail => String::new(),
        };
        let Count { passes, failures, inconclusive, .. } = self;
        format!("{figures}{why} ({failures} failed, {inconclusive} inconclusive, {passes} passed)")
    }
}

/// A stretch in which every side can be seen.
struct Look<'a> {
    canaries: Row<'a>,
    peers: Row<'a>,
    /// `Err` where the control cannot be compared with.
    control: Result<(&'a str, &'a Window), String>,
}

/// A stretch of which nothing can be said.
struct Blind {
    why: String,
    /// Because a pod did not answer.
    unanswered: bool,
}

impl<'a> Look<'a> {
    fn of(tick: &'a Tick, analysis: &Analysis, before: &Before, sides: Sides<'_>) -> Result<Look<'a>, Blind> {
        let blind = |why: String| Blind { why, unanswered: false };
        let side = |revision: &str| -> Vec<(&'a str, &'a Cell)> {
            let cells = tick.cells.iter().filter(|(_, cell)| cell.revision == revision);
            cells.map(|(pod, cell)| (pod.as_str(), cell)).collect()
        };
        let (tested, others) = (side(sides.target), side(sides.stable));
        if tested.is_empty() || tested.len() < sides.canaries {
            return Err(Blind {
                why: format!("{} of {} canaries were seen", tested.len(), sides.canaries),
                unanswered: true,
            });
        }
        for (side, who) in [(&tested, "canaries"), (&others, "peers")] {
            if side.iter().any(|(_, cell)| cell.image != side[0].1.image) {
                return Err(blind(format!("the {who} run different images under one tag")));
            }
        }
        let enough = |window: &Window| window.requests >= analysis.min_requests;
        let mut canaries = Row::new();
        for (pod, cell) in tested {
            let window =
                cell.window.as_ref().map_err(|why| Blind { why: format!("{pod}: {why}"), unanswered: true })?;
            if !enough(window) {
                let (had, wanted) = (window.requests, analysis.min_requests);
                return Err(blind(format!("{pod} had {had} requests, of {wanted} at least")));
            }
            if before.pods.get(pod).is_none_or(|window| window.requests == 0) {
                return Err(blind(format!("nothing is known of {pod} before the rollout")));
            }
            canaries.insert(pod, window);
        }
        let seen = |pod: &str, cell: &'a Cell| {
            let known = before.pods.get(pod).is_some_and(|window| window.requests > 0);
            cell.window.as_ref().ok().filter(|window| known && enough(window))
        };
        let is_same = |pod: &str, cell: &Cell| before.lives.get(pod) == Some(&cell.uid);
        let is_control = |pod: &str| sides.control.is_some_and(|(name, _)| name == pod);
        let all = others.iter().filter(|(pod, _)| !is_control(pod)).count();
        let peers: Row<'a> = others
            .iter()
            .filter(|(pod, cell)| !is_control(pod) && is_same(pod, cell))
            .filter_map(|(pod, cell)| Some((*pod, seen(pod, cell)?)))
            .collect();
        let control = match sides.control {
            Some((name, replaced)) => others
                .iter()
                .find(|(pod, cell)| *pod == name && cell.uid != replaced)
                .and_then(|(pod, cell)| Some((*pod, seen(pod, cell)?)))
                .ok_or_else(|| format!("the control {name} cannot be seen")),
            None => Err("there is no control: it takes 4 replicas and maxUnavailable 2".to_owned()),
        };
        if peers.is_empty() || 2 * peers.len() < all {
            let why = format!("{} of {all} peers have enough requests, then and now, to compare with", peers.len());
            return Err(blind(why));
        }
        Ok(Look { canaries, peers, control })
    }
}

/// What was seen since the analysis began.
#[derive(Default)]
struct Gathered<'a> {
    slow: BTreeMap<String, u64>,
    sums: BTreeMap<&'a str, Window>,
    peers: Vec<Row<'a>>,
}

impl<'a> Gathered<'a> {
    fn add(&mut self, look: &Look<'a>) {
        let control = look.control.as_ref().ok().map(|(pod, window)| (*pod, *window));
        let all = look.canaries.iter().chain(&look.peers).map(|(pod, window)| (*pod, *window)).chain(control);
        for (pod, window) in all {
            self.sums.entry(pod).or_default().add(window);
        }
        self.peers.push(look.peers.clone());
    }
}

fn judge_look(metric: &Metric, look: &Look<'_>, gathered: &Gathered<'_>, before: &Before) -> Judgement {
    // The tail takes all that was gathered; what is plenty is judged by what is new.
    let pair = |pod: &str, window: &Window| {
        let now = if metric.name.is_of_the_tail() { gathered.sums.get(pod).cloned()? } else { window.clone() };
        let slow = gathered.slow.get(pod).copied().unwrap_or(u64::MAX);
        Some(Pair { before: before.pods.get(pod)?, slow, now })
    };
    let pairs = |row: &Row<'_>| row.iter().filter_map(|(pod, window)| pair(pod, window)).collect::<Vec<_>>();
    let peers = match (metric.side, &look.control) {
        (Side::Peers, _) => pairs(&look.peers),
        (Side::Control, Ok((pod, window))) => pair(pod, window).into_iter().collect(),
        (Side::Control, Err(why)) => {
            let verdict = Verdict::Inconclusive(why.clone());
            return Judgement { name: metric.name, verdict, canary: f64::NAN, expected: f64::NAN, error: f64::NAN };
        }
    };
    let empty = BTreeMap::new();
    let known = before.noise.get(&metric.name).unwrap_or(&empty);
    let since = Noise::by_pod(metric, &gathered.slow, &gathered.peers);
    let all = Noise::sum(known.values().chain(since.values()));
    let own = Noise::sum(look.canaries.keys().filter_map(|pod| known.get(*pod)));
    judge(metric, &pairs(&look.canaries), &peers, Noises { canaries: own.beside(all), peers: all })
}

/// The metrics that are judged where none are declared.
#[must_use]
pub fn default_metrics() -> Vec<Metric> {
    use super::metric::Compare::{Difference, Ratio};
    let metric = |name, compare, limit: f64| Metric { name, compare, limit, at_least: limit < 0.0, side: Side::Peers };
    vec![
        metric(Name::ErrorRatio, Difference, 0.001),
        metric(Name::SlowShare, Ratio, 1.5),
        metric(Name::HitRatio, Difference, -0.02),
        metric(Name::AnonymousMemory, Ratio, 1.1),
    ]
}

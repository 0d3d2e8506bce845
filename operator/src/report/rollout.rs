//! What is told of a rollout.

use gannet_crds::{CacheClusterStatus, MetricStatus, RejectedRevision, RolloutStatus};
use kube::runtime::events::{Event, EventType};

use super::{Finding, count, event};
use crate::analysis::{Count, Verdict};
use crate::rollout::policy::Stage;
use crate::rollout::record::{By, Record};
use crate::rollout::{Phase, Step};

/// What `status.rollout` says.
pub fn status(step: &Step) -> RolloutStatus {
    let Step { declared, record, phase, tally, scaling_held, replicas, .. } = step;
    let Record { stable, rejected, run, handled: _ } = record;
    let halt = run.as_ref().and_then(|run| run.halt.as_ref());
    let steps = run.as_ref().map_or_else(Vec::new, |run| run.policy.steps.iter().map(Stage::say).collect());
    let looks = run.as_ref().and_then(|run| match run.stage() {
        Some(Stage::Analysis(analysis)) => Some(count(analysis.count)),
        _ => None,
    });
    RolloutStatus {
        phase: name(*phase).to_owned(),
        revision: declared.name.clone(),
        stable_revision: stable.clone().unwrap_or_default(),
        message: halt.map(|halt| halt.reason.clone()).or_else(|| rejection(step)).unwrap_or_default(),
        step: run.as_ref().map_or(0, |run| count(run.step + 1)),
        steps,
        changed_pods: run.as_ref().map_or(0, |run| run.replicas - run.floor()),
        looks: looks.unwrap_or_default(),
        looks_done: tally.as_ref().map_or(0, |tally| count(tally.measured)),
        metrics: tally.as_ref().map_or_else(Vec::new, |tally| tally.counts.iter().map(metric).collect()),
        scaling_held: scaling_held.then(|| *replicas),
        rejected: rejected
            .iter()
            .map(|known| RejectedRevision { revision: known.revision.clone(), reason: known.reason.clone() })
            .collect(),
    }
}

/// In the API's words.
pub fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Stable => "Stable",
        Phase::Rolling => "Rolling",
        Phase::Paused => "Paused",
        Phase::Analysing => "Analysing",
        Phase::RollingBack => "RollingBack",
        Phase::Rejected => "Rejected",
    }
}

fn rejection(step: &Step) -> Option<String> {
    let is_rejected = matches!(step.phase, Phase::RollingBack | Phase::Rejected);
    is_rejected.then(|| step.record.rejection_of(&step.declared.name).map(|known| known.reason.clone()))?
}

fn metric(counted: &Count) -> MetricStatus {
    let Count { metric, passes, failures, inconclusive, last } = counted;
    let show = |value: Option<f64>| {
        value.filter(|value| value.is_finite()).map(|value| metric.name.show(value)).unwrap_or_default()
    };
    let (verdict, why) = match last.as_ref().map(|last| &last.verdict) {
        None => ("Waiting", String::new()),
        Some(Verdict::Pass) => ("Pass", String::new()),
        Some(Verdict::Fail) => ("Fail", String::new()),
        Some(Verdict::Inconclusive(why)) => ("Inconclusive", why.clone()),
        Some(Verdict::Gathering) => ("Gathering", "too few requests yet to judge the tail".to_owned()),
    };
    MetricStatus {
        name: metric.name.text().to_owned(),
        verdict: verdict.to_owned(),
        canary: show(last.as_ref().map(|last| last.canary)),
        expected: show(last.as_ref().map(|last| last.expected)),
        passed: count(*passes),
        failed: count(*failures),
        inconclusive: count(*inconclusive),
        message: why,
    }
}

/// The condition RolloutHealthy.
pub fn finding(step: Option<&Step>) -> Finding {
    let find = |holds, reason, message: String| Finding {
        kind: gannet_crds::condition::ROLLOUT_HEALTHY,
        holds,
        reason,
        message,
    };
    let Some(step) = step else {
        return find(true, "NoRollout", "nothing is rolled out".to_owned());
    };
    let (declared, phase) = (&step.declared.name, name(step.phase));
    if let Some(halt) = step.record.run.as_ref().and_then(|run| run.halt.as_ref()) {
        let reason = match halt.by {
            By::Hand => return find(true, "PausedByHand", format!("{declared} stands still: {}", halt.reason)),
            By::Inconclusive => "Inconclusive",
            By::Failure => "Failed",
        };
        return find(false, reason, format!("{declared} waits for a hand: {}", halt.reason));
    }
    match step.phase {
        Phase::RollingBack | Phase::Rejected if rejection(step).is_some() => {
            find(false, "RolledBack", format!("{declared} was rejected: {}", rejection(step).unwrap_or_default()))
        }
        Phase::Stable => find(true, phase, format!("all nodes are to be of {declared}")),
        Phase::Rolling => find(true, phase, format!("nodes change to {declared}")),
        Phase::RollingBack => find(true, phase, format!("nodes go back to {declared}")),
        Phase::Analysing => {
            find(true, phase, format!("{declared} is compared with the stable revision{}", looks(step)))
        }
        Phase::Paused | Phase::Rejected => find(true, phase, format!("{declared} waits, as its steps say")),
    }
}

fn looks(step: &Step) -> String {
    step.tally.as_ref().map_or_else(String::new, |tally| format!(", {} looks so far", tally.measured))
}

/// What is said of readiness while a canary rollout is more than pods changing: whether it is ready, under way, the reason and
/// the sentence.
pub fn headline(step: &Step, figures: &str) -> Option<(bool, bool, &'static str, String)> {
    let held = if step.scaling_held { "; the declared number of nodes waits for its end" } else { "" };
    let declared = &step.declared.name;
    if let Some(why) = rejection(step) {
        let (verb, working) = if step.phase == Phase::Rejected { ("went back", false) } else { ("go back", true) };
        return Some((
            false,
            working,
            "RolledBack",
            format!("{figures}; {declared} failed and all nodes {verb}: {why}{held}"),
        ));
    }
    let run = step.record.run.as_ref()?;
    let at = run.stage().map_or_else(|| "all nodes change".to_owned(), Stage::say);
    let (number, all) = ((run.step + 1).min(run.policy.steps.len()), run.policy.steps.len());
    match step.phase {
        Phase::Paused => {
            let halt = run.halt.as_ref().map_or(at, |halt| halt.reason.clone());
            let needs_hand = run.halt.is_some();
            let message = format!("{figures}; {declared} stands still at step {number} of {all}: {halt}{held}");
            Some((false, !needs_hand, "RolloutPaused", message))
        }
        Phase::Analysing => {
            let message = format!("{figures}; {declared} at step {number} of {all}: {at}{}{held}", looks(step));
            Some((false, true, "Analysing", message))
        }
        _ if !run.prepared => Some((
            false,
            true,
            "Rolling",
            format!("{figures}; {declared} begins when it is known how the nodes do now{held}"),
        )),
        _ => None,
    }
}

/// Why a hand is needed, where it is.
pub fn stalled(step: &Step) -> Option<(&'static str, String)> {
    let found = finding(Some(step));
    let goes_on = step.phase == Phase::RollingBack;
    (!found.holds && !goes_on).then_some((found.reason, found.message))
}

/// What was decided, and what waits for it.
pub fn events(before: &CacheClusterStatus, step: &Step) -> Vec<Event> {
    let type_ = |warning| if warning { EventType::Warning } else { EventType::Normal };
    let mut events: Vec<Event> =
        step.notes.iter().map(|note| event(type_(note.warning), note.reason, "Rollout", note.text.clone())).collect();
    let held_before = before.rollout.as_ref().is_some_and(|rollout| rollout.scaling_held.is_some());
    if step.scaling_held && !held_before {
        let note = format!("{} nodes until the rollout has ended: what is compared must not move", step.replicas);
        events.push(event(EventType::Normal, "ScalingHeld", "Scale", note));
    }
    events
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::{finding, headline, stalled, status};
    use crate::analysis::{Before, Count, Name, Outcome, Tally, default_metrics};
    use crate::cluster::Cluster;
    use crate::cluster::tests::resource;
    use crate::observe::Observed;
    use crate::revision::Defaults;
    use crate::rollout::record::{By, Halt, Rejection, Run};
    use crate::rollout::{Decision, Phase, Step, decide};

    fn step() -> Step {
        let cluster = Cluster::parse(&resource(json!({"rollout": {"strategy": "Canary"}}))).unwrap();
        let defaults = Defaults { node_image: "cache-node:1".to_owned(), ..Defaults::default() };
        let decided = decide(&cluster, &Observed::default(), &defaults, Timestamp::UNIX_EPOCH).unwrap();
        let Decision::Step(mut step) = decided else { panic!("undecided") };
        step.record.stable = Some("demo-old".to_owned());
        step.record.run = Some(Run {
            target: step.declared.name.clone(),
            policy: cluster.policy,
            replicas: 3,
            step: 1,
            since: Timestamp::UNIX_EPOCH,
            prepared: true,
            halt: None,
            control: None,
            before: Before::default(),
        });
        step.phase = Phase::Analysing;
        *step
    }

    #[test]
    fn an_analysis_is_told_metric_by_metric() {
        let mut step = step();
        let counts = default_metrics().into_iter().map(|metric| Count {
            metric,
            passes: 2,
            failures: 1,
            inconclusive: 0,
            last: None,
        });
        step.tally = Some(Tally { measured: 3, counts: counts.collect(), outcome: Outcome::Running });
        let told = status(&step);
        assert_eq!((told.phase.as_str(), told.step, told.looks, told.looks_done), ("Analysing", 2, 20, 3));
        assert_eq!((told.changed_pods, told.stable_revision.as_str()), (1, "demo-old"));
        let names: Vec<&str> = told.metrics.iter().map(|metric| metric.name.as_str()).collect();
        assert_eq!(names.len(), default_metrics().len());
        assert_eq!((names[0], told.metrics[0].passed, told.metrics[0].failed), (Name::ErrorRatio.text(), 2, 1));
        assert!(finding(Some(&step)).holds);
        let (ready, working, reason, message) = headline(&step, "3 of 3 nodes serve").unwrap();
        assert_eq!((ready, working, reason), (false, true, "Analysing"));
        assert!(message.contains("step 2 of 2: Analysis 20 x 30s, 3 looks so far"), "{message}");
    }

    #[test]
    fn a_rollout_that_waits_for_a_hand_is_stalled() {
        let mut step = step();
        let reason = "hitRatio: too few".to_owned();
        step.record.run.as_mut().unwrap().halt = Some(Halt { by: By::Inconclusive, reason });
        step.phase = Phase::Paused;
        assert_eq!(stalled(&step).unwrap().0, "Inconclusive");
        assert_eq!(status(&step).message, "hitRatio: too few");
        step.record.run = None;
        step.phase = Phase::Rejected;
        let (revision, reason) = (step.declared.name.clone(), "hitRatio 80.00 %, expected 90.00 %".to_owned());
        step.record.rejected = vec![Rejection { revision, reason }];
        let (reason, message) = stalled(&step).unwrap();
        assert_eq!(reason, "RolledBack");
        assert!(message.contains("expected 90.00 %"), "{message}");
        assert!(status(&step).message.contains("hitRatio"));
    }
}

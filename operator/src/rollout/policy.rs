//! How a canary rollout is to go, parsed. It is frozen when a rollout begins: steps that change under a rollout's feet would
//! leave nobody able to say what was tested.

use gannet_crds::{
    AnalysisSpec, MetricBaseline, MetricComparison, MetricName, OnFailure, RolloutMetric, RolloutSpec, RolloutStep,
    RolloutStrategy, StepType,
};
use serde::{Deserialize, Serialize};

use crate::analysis::{Analysis, Compare, Metric, Name, Side, default_metrics};

/// How changes reach the pods.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    pub canary: bool,
    pub steps: Vec<Stage>,
    pub metrics: Vec<Metric>,
    pub warmth: Option<Warmth>,
    /// On a failure nothing goes back by itself.
    pub pause_on_failure: bool,
    pub progress_deadline_seconds: i64,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum Stage {
    SetPods { pods: i32 },
    SetPercent { percent: i32 },
    Pause { seconds: Option<i64> },
    Analysis(Analysis),
}

/// When a changed pod is warm enough for the next one to change.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Warmth {
    /// Of its own hit ratio before.
    pub share: f64,
    pub timeout_seconds: i64,
}

/// A field of `spec.rollout` that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct InvalidPolicy {
    pub field: &'static str,
    pub reason: String,
}

const SHORTEST_INTERVAL_SECONDS: i64 = 1;

impl Policy {
    /// Parses the policy.
    ///
    /// # Errors
    /// [`InvalidPolicy`] names the first field that makes no sense.
    pub fn parse(spec: &RolloutSpec) -> Result<Policy, InvalidPolicy> {
        let steps = if spec.steps.is_empty() { default_steps() } else { spec.steps.clone() };
        let metrics = if spec.metrics.is_empty() {
            default_metrics()
        } else {
            spec.metrics.iter().map(metric).collect::<Result<_, _>>()?
        };
        let warmth = match &spec.warmth {
            Some(warmth) => Some(Warmth {
                share: number("rollout.warmth.hitRatio", &warmth.hit_ratio)?,
                timeout_seconds: seconds("rollout.warmth.timeout", &warmth.timeout)?,
            }),
            None => None,
        };
        Ok(Policy {
            canary: spec.strategy == RolloutStrategy::Canary,
            steps: steps.iter().map(stage).collect::<Result<_, _>>()?,
            metrics,
            warmth,
            pause_on_failure: spec.on_failure == OnFailure::Pause,
            progress_deadline_seconds: seconds("rollout.progressDeadline", &spec.progress_deadline)?,
        })
    }

    /// How often pods are looked at: each window of the time before a rollout is as long as one of its analysis.
    #[must_use]
    pub fn interval_seconds(&self) -> i64 {
        let analysis = self.steps.iter().find_map(|step| match step {
            Stage::Analysis(analysis) => Some(analysis.interval_seconds),
            _ => None,
        });
        analysis.unwrap_or(30)
    }

    /// Whether a pod is to be restarted beside the first canary.
    #[must_use]
    pub fn wants_control(&self) -> bool {
        self.metrics.iter().any(|metric| metric.side == Side::Control)
    }
}

impl Stage {
    /// How many of so many pods are of the new revision after this step.
    #[must_use]
    pub fn pods(&self, replicas: i32) -> Option<i32> {
        match self {
            Stage::SetPods { pods } => Some((*pods).min(replicas)),
            Stage::SetPercent { percent } => {
                let exact = i64::from(replicas) * i64::from(*percent);
                Some(i32::try_from((exact + 99) / 100).unwrap_or(replicas).min(replicas))
            }
            Stage::Pause { .. } | Stage::Analysis(_) => None,
        }
    }

    /// For people.
    #[must_use]
    pub fn say(&self) -> String {
        match self {
            Stage::SetPods { pods } => format!("SetPods {pods}"),
            Stage::SetPercent { percent } => format!("SetPercent {percent}"),
            Stage::Pause { seconds: None } => "Pause until promoted".to_owned(),
            Stage::Pause { seconds: Some(seconds) } => format!("Pause {seconds}s"),
            Stage::Analysis(analysis) => format!("Analysis {} x {}s", analysis.count, analysis.interval_seconds),
        }
    }
}

fn default_steps() -> Vec<RolloutStep> {
    let first = RolloutStep { type_: StepType::SetPods, pods: Some(1), ..RolloutStep::default() };
    let then = RolloutStep { type_: StepType::Analysis, ..RolloutStep::default() };
    vec![first, then]
}

fn stage(step: &RolloutStep) -> Result<Stage, InvalidPolicy> {
    Ok(match step.type_ {
        StepType::SetPods => Stage::SetPods { pods: step.pods.unwrap_or(1) },
        StepType::SetPercent => Stage::SetPercent { percent: step.percent.unwrap_or(100) },
        StepType::Pause => {
            let given = step.duration.as_deref().map(|text| seconds("rollout.steps.duration", text));
            Stage::Pause { seconds: given.transpose()? }
        }
        StepType::Analysis => Stage::Analysis(analysis(&step.analysis.clone().unwrap_or_default())?),
    })
}

fn analysis(spec: &AnalysisSpec) -> Result<Analysis, InvalidPolicy> {
    let limit = |limit: i32| usize::try_from(limit).unwrap_or(0);
    let interval_seconds = seconds("rollout.steps.analysis.interval", &spec.interval)?;
    if interval_seconds < SHORTEST_INTERVAL_SECONDS {
        let reason = format!("{} is too short: 1s at least", spec.interval);
        return Err(InvalidPolicy { field: "rollout.steps.analysis.interval", reason });
    }
    Ok(Analysis {
        warmup_seconds: seconds("rollout.steps.analysis.warmup", &spec.warmup)?,
        interval_seconds,
        count: limit(spec.count).max(1),
        min_requests: u64::try_from(spec.min_requests).unwrap_or(1).max(1),
        failure_limit: limit(spec.failure_limit),
        inconclusive_limit: limit(spec.inconclusive_limit),
        consecutive_error_limit: limit(spec.consecutive_error_limit),
    })
}

fn metric(spec: &RolloutMetric) -> Result<Metric, InvalidPolicy> {
    let (text, at_least) = match (&spec.max, &spec.min) {
        (Some(max), None) => (max, false),
        (None, Some(min)) => (min, true),
        _ => {
            let reason = "each metric has either a max or a min".to_owned();
            return Err(InvalidPolicy { field: "rollout.metrics", reason });
        }
    };
    let limit = number("rollout.metrics", text)?;
    if spec.compare == MetricComparison::Ratio && limit <= 0.0 {
        let reason = format!("{text} is no factor: the limit of a Ratio is more than 0");
        return Err(InvalidPolicy { field: "rollout.metrics", reason });
    }
    Ok(Metric {
        name: match spec.name {
            MetricName::ErrorRatio => Name::ErrorRatio,
            MetricName::SlowShare => Name::SlowShare,
            MetricName::P50Latency => Name::P50Latency,
            MetricName::P99Latency => Name::P99Latency,
            MetricName::HitRatio => Name::HitRatio,
            MetricName::AnonymousMemory => Name::AnonymousMemory,
            MetricName::Restarts => Name::Restarts,
        },
        compare: match spec.compare {
            MetricComparison::Difference => Compare::Difference,
            MetricComparison::Ratio => Compare::Ratio,
        },
        limit,
        at_least,
        side: match spec.baseline {
            MetricBaseline::Peers => Side::Peers,
            MetricBaseline::Control => Side::Control,
        },
    })
}

fn number(field: &'static str, text: &str) -> Result<f64, InvalidPolicy> {
    let parsed = text.parse::<f64>().ok().filter(|number| number.is_finite());
    parsed.ok_or_else(|| InvalidPolicy { field, reason: format!("\"{text}\" is not a number such as 0.001") })
}

/// Whole seconds, rounded up.
fn seconds(field: &'static str, text: &str) -> Result<i64, InvalidPolicy> {
    let parsed = text.parse::<config::Duration>();
    let duration = parsed.map_err(|error| InvalidPolicy { field, reason: error.to_string() })?.0;
    Ok(i64::try_from(duration.as_millis().div_ceil(1000)).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use gannet_crds::RolloutSpec;
    use serde_json::{Value, json};

    use super::{Policy, Stage};
    use crate::analysis::Name;

    fn policy(spec: Value) -> Result<Policy, String> {
        let spec: RolloutSpec = serde_json::from_value(spec).unwrap();
        Policy::parse(&spec).map_err(|invalid| format!("{}: {invalid}", invalid.field))
    }

    #[test]
    fn what_is_left_out_is_a_cautious_rollout() {
        let policy = policy(json!({"strategy": "Canary"})).unwrap();
        assert!(matches!(policy.steps[..], [Stage::SetPods { pods: 1 }, Stage::Analysis(_)]), "{:?}", policy.steps);
        let names: Vec<Name> = policy.metrics.iter().map(|metric| metric.name).collect();
        assert_eq!(names, [Name::ErrorRatio, Name::SlowShare, Name::HitRatio, Name::AnonymousMemory]);
        assert_eq!(policy.interval_seconds(), 30);
    }

    #[test]
    fn a_percentage_is_rounded_up_and_never_more_than_there_are() {
        let pods = |percent, replicas| Stage::SetPercent { percent }.pods(replicas).unwrap();
        assert_eq!([pods(50, 3), pods(1, 100), pods(1, 101), pods(100, 7), pods(34, 3)], [2, 1, 2, 7, 2]);
        assert_eq!(Stage::SetPods { pods: 5 }.pods(3), Some(3));
    }

    #[test]
    fn what_makes_no_sense_names_its_field() {
        let metric = |limits: Value| {
            let mut metric = json!({"name": "hitRatio", "compare": "Ratio"});
            metric.as_object_mut().unwrap().extend(limits.as_object().unwrap().clone());
            json!({"metrics": [metric]})
        };
        for (spec, words) in [
            (metric(json!({})), "either a max or a min"),
            (metric(json!({"max": "1", "min": "1"})), "either a max or a min"),
            (metric(json!({"min": "-0.5"})), "no factor"),
            (json!({"steps": [{"type": "Analysis", "analysis": {"interval": "0s"}}]}), "1s at least"),
            (json!({"steps": [{"type": "Pause", "duration": "5d"}]}), "rollout.steps.duration"),
        ] {
            let error = policy(spec.clone()).unwrap_err();
            assert!(error.contains(words), "{spec}: {error}");
        }
    }
}

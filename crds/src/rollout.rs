//! How changes reach the pods.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::spec::DURATION_PATTERN;

const NUMBER_PATTERN: &str = r"^-?[0-9]{1,6}(\.[0-9]{1,9})?$";
const SHARE_PATTERN: &str = r"^(0(\.[0-9]{1,4})?|1(\.0{1,4})?)$";

/// How changes reach the pods.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.metrics) || self.metrics.all(m, !has(m.baseline) || m.baseline != 'Control') || (has(self.strategy) && self.strategy == 'Canary')")
    .message("spec.rollout.metrics: a baseline of Control is for the strategy Canary").field_path(".metrics"))]
pub struct RolloutSpec {
    /// RollingUpdate: pods change one after the other, and one that does not get ready stops it. Canary: by steps, judged by the
    /// cache's own numbers; on a failure all pods go back to the revision that was stable before.
    #[serde(default)]
    pub strategy: RolloutStrategy,

    /// Frozen: pods change only when this resource asks for it, whatever operator version runs. Latest: a new operator
    /// version may roll its own newer pod template out.
    #[serde(default)]
    pub template: TemplatePolicy,

    /// How long a changed pod may take to become ready, such as 10m. With RollingUpdate the cluster is then reported as stalled;
    /// with Canary the rollout has failed.
    #[serde(default = "default_progress_deadline")]
    #[schemars(regex(pattern = DURATION_PATTERN), length(max = 32))]
    pub progress_deadline: String,

    /// What a canary rollout goes through, in this order; afterwards all pods change. It is taken over when a rollout
    /// begins and stays the same until its end. Default: one pod, an Analysis, then all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub steps: Vec<RolloutStep>,

    /// What each Analysis compares. Default: errorRatio up to 0.001 more, slowShare up to 1.5 times, hitRatio at least 0.02 less,
    /// anonymousMemory up to 1.1 times, each beside the Peers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub metrics: Vec<RolloutMetric>,

    /// Between two pods of a canary rollout: the next one changes when the last one is warm again. Default: as soon as it is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmth: Option<WarmthSpec>,

    /// What follows on a failed analysis or on a pod that cannot run: Rollback to the stable revision, or Pause, as it is, for
    /// somebody to decide.
    #[serde(default)]
    pub on_failure: OnFailure,
}

/// RollingUpdate changes pod after pod; Canary compares the changed ones with the others and goes on or back by itself.
#[derive(schemars::JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "explained on the type, see Eviction")]
pub enum RolloutStrategy {
    #[default]
    RollingUpdate,
    Canary,
}

/// Whether another operator version may change pods: Frozen, never; Latest, it may.
#[derive(schemars::JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "explained on the type, see Eviction")]
pub enum TemplatePolicy {
    #[default]
    Frozen,
    Latest,
}

/// Whether a failed rollout goes back by itself, or stays as it is until someone decides.
#[derive(schemars::JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "explained on the type, see Eviction")]
pub enum OnFailure {
    #[default]
    Rollback,
    Pause,
}

/// One step of a canary rollout.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(self.type == 'SetPods') == has(self.pods)")
    .message("spec.rollout.steps: a step of type SetPods, and no other, has pods"))]
#[x_kube(validation = Rule::new("(self.type == 'SetPercent') == has(self.percent)")
    .message("spec.rollout.steps: a step of type SetPercent, and no other, has a percent"))]
#[x_kube(validation = Rule::new("!has(self.duration) || self.type == 'Pause'")
    .message("spec.rollout.steps: only a step of type Pause has a duration"))]
#[x_kube(validation = Rule::new("!has(self.analysis) || self.type == 'Analysis'")
    .message("spec.rollout.steps: only a step of type Analysis has an analysis"))]
pub struct RolloutStep {
    /// SetPods and SetPercent: so many pods, the highest ordinals, are of the new revision. Pause: for a duration, or until
    /// promoted. Analysis: the changed pods are compared with the others.
    #[serde(rename = "type")]
    pub type_: StepType,

    /// SetPods: how many pods are of the new revision after this step; at most all there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub pods: Option<i32>,

    /// SetPercent: what share of the pods is of the new revision after this step, rounded up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub percent: Option<i32>,

    /// Pause: for how long, such as 30m; without it, until someone promotes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DURATION_PATTERN), length(max = 32))]
    pub duration: Option<String>,

    /// Analysis: how long and how strictly. Default: each field's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub analysis: Option<AnalysisSpec>,
}

/// What a step does.
#[derive(schemars::JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "explained on the field, see Eviction")]
pub enum StepType {
    #[default]
    SetPods,
    SetPercent,
    Pause,
    Analysis,
}

/// How long the changed pods are compared with the others, and what is made of it.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.failureLimit) || !has(self.count) || self.failureLimit < self.count")
    .message("spec.rollout.steps.analysis: failureLimit must be less than count, or nothing could ever fail"))]
pub struct AnalysisSpec {
    /// How long the changed pods have before the first look, such as 5m: a new pod is cold.
    #[serde(default = "default_warmup")]
    #[schemars(regex(pattern = DURATION_PATTERN), length(max = 32))]
    pub warmup: String,

    /// How long a look lasts, such as 30s; at least 1s.
    #[serde(default = "default_interval")]
    #[schemars(regex(pattern = DURATION_PATTERN), length(max = 32))]
    pub interval: String,

    /// How many looks there are.
    #[serde(default = "default_count")]
    #[schemars(range(min = 1, max = 60))]
    pub count: i32,

    /// Requests that each pod must have had in a look; with fewer the look is inconclusive.
    #[serde(default = "default_min_requests")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub min_requests: i64,

    /// Looks in which one metric may fail; with one more the analysis has failed.
    #[serde(default = "default_failure_limit")]
    #[schemars(range(min = 0, max = 59))]
    pub failure_limit: i32,

    /// Looks that may be inconclusive; with one more the rollout pauses. It never passes for lack of data.
    #[serde(default = "default_inconclusive_limit")]
    #[schemars(range(min = 0, max = 59))]
    pub inconclusive_limit: i32,

    /// Looks in a row in which a changed pod may not answer; with one more the rollout pauses.
    #[serde(default = "default_consecutive_error_limit")]
    #[schemars(range(min = 0, max = 59))]
    pub consecutive_error_limit: i32,
}

/// One figure that is compared, and its limit.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.max) != has(self.min)")
    .message("spec.rollout.metrics: each has either a max or a min"))]
#[x_kube(validation = Rule::new("self.compare != 'Ratio' || !((has(self.max) && (self.max.startsWith('-') || self.max.matches('^0+([.]0*)?$'))) || (has(self.min) && (self.min.startsWith('-') || self.min.matches('^0+([.]0*)?$'))))")
    .message("spec.rollout.metrics: the limit of a Ratio is more than 0"))]
pub struct RolloutMetric {
    /// errorRatio: server errors and failed handshakes, of all requests. slowShare: requests slower than the pod's own 99.9th
    /// percentile before. p50Latency, p99Latency: in microseconds. hitRatio. anonymousMemory: bytes that the
    /// process takes with its cache full. restarts: of the container.
    pub name: MetricName,

    /// Difference: by how much the changed pods have more than is expected of them. Ratio: by what factor.
    pub compare: MetricComparison,

    /// The most that it may be, such as "0.001".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = NUMBER_PATTERN), length(max = 20))]
    pub max: Option<String>,

    /// The least that it may be, such as "-0.02".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = NUMBER_PATTERN), length(max = 20))]
    pub min: Option<String>,

    /// Peers: what is expected of a changed pod is what it did before, changed as the others have changed since. Control:
    /// changed as one other pod has that was restarted when it was; this takes four replicas and a maxUnavailable of 2.
    #[serde(default)]
    pub baseline: MetricBaseline,
}

/// A figure of a cache-node.
#[derive(schemars::JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "explained on the field, see Eviction")]
pub enum MetricName {
    ErrorRatio,
    SlowShare,
    P50Latency,
    P99Latency,
    HitRatio,
    AnonymousMemory,
    Restarts,
}

/// How two figures are set side by side.
#[derive(schemars::JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "explained on the field, see Eviction")]
pub enum MetricComparison {
    Difference,
    Ratio,
}

/// Whom the changed pods are compared with.
#[derive(schemars::JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "explained on the field, see Eviction")]
pub enum MetricBaseline {
    #[default]
    Peers,
    Control,
}

/// When a changed pod is warm.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WarmthSpec {
    /// Its hit ratio is this share of its own before the rollout, such as "0.9".
    #[serde(default = "default_warmth")]
    #[schemars(regex(pattern = SHARE_PATTERN), length(max = 8))]
    pub hit_ratio: String,

    /// After this long the next pod changes all the same, such as 10m.
    #[serde(default = "default_warmth_timeout")]
    #[schemars(regex(pattern = DURATION_PATTERN), length(max = 32))]
    pub timeout: String,
}

/// A rollout as it is.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStatus {
    /// Stable, Rolling, Paused, Analysing, RollingBack or Rejected.
    pub phase: String,

    /// The revision that the spec asks for.
    #[serde(default)]
    pub revision: String,

    /// The revision that every pod can go back to.
    #[serde(default)]
    pub stable_revision: String,

    /// Why it stands still or went back; empty where it does not and did not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,

    /// The step that is being taken, from 1; one more than there are: all pods change. 0 without a rollout by steps.
    #[serde(default)]
    pub step: i32,

    /// All steps, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub steps: Vec<String>,

    /// Pods that have changed, or are changing now.
    #[serde(default)]
    pub changed_pods: i32,

    /// How many looks the present analysis has.
    #[serde(default)]
    pub looks: i32,

    /// How many of them were taken.
    #[serde(default)]
    pub looks_done: i32,

    /// What the last look found, by metric.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub metrics: Vec<MetricStatus>,

    /// While the declared number of pods waits for the rollout's end: how many there are instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling_held: Option<i32>,

    /// Revisions that failed, the latest last: they are not tried again by themselves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub rejected: Vec<RejectedRevision>,
}

/// What became of one metric so far.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MetricStatus {
    /// As in the spec.
    pub name: String,

    /// Pass, Fail, Inconclusive, Gathering (too little data yet) or Waiting.
    #[serde(default)]
    pub verdict: String,

    /// What the changed pods have.
    #[serde(default)]
    pub canary: String,

    /// What they would have, had they changed as the others did.
    #[serde(default)]
    pub expected: String,

    /// Looks that it passed.
    #[serde(default)]
    pub passed: i32,

    /// Looks that it failed.
    #[serde(default)]
    pub failed: i32,

    /// Looks that said nothing.
    #[serde(default)]
    pub inconclusive: i32,

    /// Why the last one said nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// A revision that failed.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RejectedRevision {
    /// Its name.
    pub revision: String,

    /// Why, with the figures.
    #[serde(default)]
    pub reason: String,
}

macro_rules! defaults {
    ($($name:ident: $type:ty = $value:expr;)*) => { $(fn $name() -> $type { $value })* };
}
defaults! {
    default_progress_deadline: String = "10m".to_owned();
    default_warmup: String = "5m".to_owned();
    default_interval: String = "30s".to_owned();
    default_count: i32 = 20;
    default_min_requests: i64 = 10_000;
    default_failure_limit: i32 = 2;
    default_inconclusive_limit: i32 = 5;
    default_consecutive_error_limit: i32 = 4;
    default_warmth: String = "0.9".to_owned();
    default_warmth_timeout: String = "10m".to_owned();
}

impl Default for RolloutSpec {
    fn default() -> RolloutSpec {
        RolloutSpec {
            strategy: RolloutStrategy::default(),
            template: TemplatePolicy::default(),
            progress_deadline: default_progress_deadline(),
            steps: Vec::new(),
            metrics: Vec::new(),
            warmth: None,
            on_failure: OnFailure::default(),
        }
    }
}

impl Default for AnalysisSpec {
    fn default() -> AnalysisSpec {
        AnalysisSpec {
            warmup: default_warmup(),
            interval: default_interval(),
            count: default_count(),
            min_requests: default_min_requests(),
            failure_limit: default_failure_limit(),
            inconclusive_limit: default_inconclusive_limit(),
            consecutive_error_limit: default_consecutive_error_limit(),
        }
    }
}

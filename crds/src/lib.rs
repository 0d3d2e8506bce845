//! The `CacheCluster` resource of `gannet.dev`: types, schema, defaults and validation rules.
//!
//! The Rust types are the source; `cachecluster.yaml` beside this crate and the chart's CRD template are generated from
//! them by `cargo run -p gannet-crds`, and a test fails when either is stale.

mod generate;
mod pod_template;
mod rollout;
mod spec;
mod status;
mod storage;
mod tls;

pub use generate::{chart_template, crd_yaml};
pub use pod_template::PodTemplate;
pub use rollout::{
    AnalysisSpec, MetricBaseline, MetricComparison, MetricName, MetricStatus, OnFailure, RejectedRevision,
    RolloutMetric, RolloutSpec, RolloutStatus, RolloutStep, RolloutStrategy, StepType, TemplatePolicy, WarmthSpec,
};
pub use spec::{CacheCluster, CacheClusterSpec, CacheSpec, DisruptionSpec, Eviction, NodeSpec};
pub use status::{CacheClusterStatus, PodCertificate, PodStatus, TlsClientStatus, TlsStatus, condition};
pub use storage::{ClaimRetention, Medium, OnUnavailable, Retention, StorageDurability, StorageSpec, VolumeClaim};
pub use tls::{CaSpec, CertManagerKind, IssuerSpec, IssuerType, MonitoringSpec, TlsClient, TlsMode, TlsSpec};

/// The API group.
pub const GROUP: &str = "gannet.dev";

/// The annotation that asks for a rotation now: `leaf@…` or `ca@…`, with a new text behind the sign for each time.
pub const ROTATE_ANNOTATION: &str = "gannet.dev/rotate";

/// The annotation that asks for lost volumes to be replaced: their PersistentVolumes' names, separated by commas.
pub const REPLACE_VOLUMES_ANNOTATION: &str = "gannet.dev/replace-volumes";

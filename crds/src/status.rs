//! What the operator reports.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// The types of the conditions; all of them are always present.
pub mod condition {
    /// Every declared node serves what is declared.
    pub const READY: &str = "Ready";
    /// The operator is working on a change (kstatus).
    pub const RECONCILING: &str = "Reconciling";
    /// A change does not come to its end without a hand (kstatus).
    pub const STALLED: &str = "Stalled";
    /// `spec.paused` holds rollouts and scaling.
    pub const PAUSED: &str = "Paused";
}

/// What the operator last saw. It is a report: nothing is decided from it.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CacheClusterStatus {
    /// The generation of the spec that this report is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Pods that exist.
    #[serde(default)]
    pub replicas: i32,

    /// Pods that serve.
    #[serde(default)]
    pub ready_replicas: i32,

    /// Pods that are of the declared revision.
    #[serde(default)]
    pub updated_replicas: i32,

    /// Pods that serve, of those declared: for people.
    #[serde(default)]
    pub ready: String,

    /// The label selector of the pods: for the scale subresource.
    #[serde(default)]
    pub selector: String,

    /// Where clients discover the nodes: the Service's DNS name and port.
    #[serde(default)]
    pub endpoint: String,

    /// The image of the declared revision.
    #[serde(default)]
    pub image: String,

    /// The revision that is declared, and that a change moves the pods to.
    #[serde(default)]
    pub revision: String,

    /// Live items in all nodes that answer.
    #[serde(default)]
    pub items: i64,

    /// Ready, Reconciling, Stalled and Paused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,

    /// Each pod as it is: what it serves comes from the pod itself, not from what was asked of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub pods: Vec<PodStatus>,
}

/// One pod as it is.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// The pod's name.
    pub name: String,

    /// Whether it serves.
    #[serde(default)]
    pub ready: bool,

    /// The host it runs on.
    #[serde(default)]
    pub host: String,

    /// The revision that it was made from.
    #[serde(default)]
    pub revision: String,

    /// The version of the program, as the pod says.
    #[serde(default)]
    pub version: String,

    /// The hash of the configuration that it runs, as the pod says.
    #[serde(default)]
    pub configuration_hash: String,

    /// Its live items, as the pod says.
    #[serde(default)]
    pub items: i64,

    /// Why it does not serve or cannot be asked; empty where nothing is wrong.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

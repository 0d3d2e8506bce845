//! What the operator reports.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::rollout::RolloutStatus;

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
    /// Every node serves TLS with a certificate that is renewed in time.
    pub const TLS_READY: &str = "TLSReady";
    /// No rollout failed, and none waits for a hand because nothing can be said of it.
    pub const ROLLOUT_HEALTHY: &str = "RolloutHealthy";
    /// Items are not kept where they are to be.
    pub const STORAGE_DEGRADED: &str = "StorageDegraded";
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

    /// Certificates; none where TLS is disabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsStatus>,

    /// The rollout: its phase, its step, and what its analysis found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutStatus>,

    /// Ready, Reconciling, Stalled, Paused, RolloutHealthy, TLSReady and StorageDegraded.
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

/// Certificates, as they are.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsStatus {
    /// Current, or how far the replacement of the CA is: Founding, DistributingBundle, ReissuingNodes, ReissuingClients,
    /// RetiringOldCA.
    pub phase: String,

    /// Whom or what the phase waits for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub waits_for: Vec<String>,

    /// The serial of the newest CA.
    #[serde(default)]
    pub ca_serial: String,

    /// When the newest CA ends.
    #[serde(default)]
    pub ca_not_after: String,

    /// CAs that are trusted: more than one while the CA is replaced.
    #[serde(default)]
    pub trusted_cas: i32,

    /// When the first of the certificates ends that are in the Secrets of nodes and clients.
    #[serde(default)]
    pub first_not_after: String,

    /// The declared clients, as their Secrets and the nodes tell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub clients: Vec<TlsClientStatus>,
}

/// A client that is let in.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsClientStatus {
    /// What it is called in the spec.
    pub name: String,

    /// Its Secret.
    #[serde(default)]
    pub secret_name: String,

    /// The serial of the certificate in that Secret.
    #[serde(default)]
    pub serial: String,

    /// When that certificate ends.
    #[serde(default)]
    pub not_after: String,

    /// Whether a node has seen it with that certificate: Current; with older ones only: Older; or not at all: Never.
    #[serde(default)]
    pub seen: String,
}

/// The certificate that a pod serves.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodCertificate {
    /// Its serial, in hexadecimal digits.
    pub serial: String,

    /// When it ends.
    pub not_after: String,
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

    /// What its items are on, as the pod says; empty where nothing outlives its container.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub medium: String,

    /// The certificate that it serves on its data port; none without TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PodCertificate>,

    /// Why it does not serve or cannot be asked; empty where nothing is wrong.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

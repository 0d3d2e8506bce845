//! What the draining of hosts may take at once.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::labels;
use crate::cluster::Cluster;

/// The PodDisruptionBudget: the same limit that the operator's own changes keep to.
pub fn build(cluster: &Cluster) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: labels::metadata(cluster, &cluster.name),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(cluster.max_unavailable)),
            selector: Some(labels::label_selector(cluster)),
            // A pod that does not serve anyway must not keep its host from being drained.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}

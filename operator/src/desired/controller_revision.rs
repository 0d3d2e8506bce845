//! The stored form of a revision.

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;

use super::labels;
use crate::cluster::Cluster;
use crate::revision::Revision;

/// The ControllerRevision of a revision.
pub fn build(cluster: &Cluster, revision: &Revision) -> ControllerRevision {
    ControllerRevision {
        metadata: labels::metadata(cluster, &revision.name),
        // Content came from JSON or was written to it when the revision got its name: it serializes.
        data: serde_json::to_value(&revision.content).ok().map(RawExtension),
        revision: revision.number,
    }
}

//! The stored form of a revision.

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;

use super::labels;
use crate::cluster::Cluster;
use crate::revision::Revision;

/// The ControllerRevision of a revision. What is stored already stays word for word: its data cannot be changed, and
/// another operator version may have written more than this one reads.
pub fn build(cluster: &Cluster, revision: &Revision, stored: &[ControllerRevision]) -> ControllerRevision {
    let known = stored.iter().find(|known| known.metadata.name.as_ref() == Some(&revision.name));
    ControllerRevision {
        metadata: labels::metadata(cluster, &revision.name),
        // Content came from JSON or was written to it when the revision got its name: it serializes.
        data: match known {
            Some(known) => known.data.clone(),
            None => serde_json::to_value(&revision.content).ok().map(RawExtension),
        },
        revision: revision.number,
    }
}

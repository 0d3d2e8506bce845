//! The stored form of revisions, and of what was decided about them.

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;

use super::labels;
use crate::cluster::Cluster;
use crate::revision::Revision;
use crate::rollout::record::{self, Record};

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

/// The ControllerRevision of the record. Its data stays empty, since it could not be changed: the record is in annotations.
pub fn record(cluster: &Cluster, record: &Record) -> ControllerRevision {
    let mut metadata = labels::metadata(cluster, &record::name_for(&cluster.name));
    // A record is made of texts and finite numbers: it serializes.
    let (annotations, data) = record.store().unwrap_or_default();
    metadata.annotations = Some(annotations);
    ControllerRevision { metadata, data: Some(data), revision: 0 }
}

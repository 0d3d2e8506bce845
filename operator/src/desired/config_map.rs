//! The nodes' configuration file.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;

use super::labels;
use crate::cluster::Cluster;
use crate::revision::Revision;

/// The file's name in the ConfigMap and in the pod.
pub const FILE: &str = "cache-node.yaml";

/// The ConfigMap of a revision: named by content and immutable, so a running pod never finds another file.
pub fn build(cluster: &Cluster, revision: &Revision) -> ConfigMap {
    ConfigMap {
        metadata: labels::metadata(cluster, &revision.config_map(&cluster.name)),
        data: Some(BTreeMap::from([(FILE.to_owned(), revision.content.configuration.clone())])),
        immutable: Some(true),
        ..ConfigMap::default()
    }
}

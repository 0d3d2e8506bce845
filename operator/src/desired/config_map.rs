//! The nodes' configuration file.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;

use super::labels;
use crate::certificate::bundle_pem;
use crate::cluster::Cluster;
use crate::material::CaMaterial;
use crate::revision::Revision;
use crate::tls::Names;

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

/// The ConfigMap with the CAs that vouch for the nodes, for whoever wants to check them and has no Secret of a client.
pub fn ca_bundle(cluster: &Cluster, ca: &CaMaterial) -> ConfigMap {
    let names = Names { cluster: cluster.name.clone(), ..Names::default() };
    ConfigMap {
        metadata: labels::metadata(cluster, &names.ca_bundle()),
        data: Some(BTreeMap::from([("ca.crt".to_owned(), bundle_pem(ca.trusted()))])),
        ..ConfigMap::default()
    }
}

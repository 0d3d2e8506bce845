//! The nodes' configuration file.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;

use super::labels;
use crate::certificate::bundle_pem;
use crate::cluster::Cluster;
use crate::material::CaMaterial;
use crate::revision::Revision;
use crate::tls::{self, Names};

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

/// The ConfigMap with those who are let in, where the nodes serve what is in somebody else's Secret. It has no hash in its name: the
/// list changes while pods run. Pods that still have it when something else is declared keep the one that there is.
pub fn identities(cluster: &Cluster, known: &[ConfigMap], is_mounted: bool) -> Option<ConfigMap> {
    let name = Names { cluster: cluster.name.clone(), ..Names::default() }.identities();
    let last = || known.iter().find(|map| map.metadata.name.as_ref() == Some(&name))?.data.clone();
    let data = match &cluster.inputs.tls.secret {
        Some(_) => BTreeMap::from([("identities".to_owned(), tls::allow_list(&cluster.identities))]),
        None if is_mounted => last()?,
        None => return None,
    };
    Some(ConfigMap { metadata: labels::metadata(cluster, &name), data: Some(data), ..ConfigMap::default() })
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

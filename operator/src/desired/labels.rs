//! Labels and metadata that everything carries.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use crate::cluster::Cluster;

/// The value of `app.kubernetes.io/managed-by` on everything that the operator makes.
pub const MANAGED_BY: &str = "cache-operator";

/// The labels that select a cluster's pods. They never change: a StatefulSet's selector cannot.
pub fn selector(cluster: &str) -> BTreeMap<String, String> {
    owned([("app.kubernetes.io/name", "cache-node"), ("app.kubernetes.io/instance", cluster)])
}

/// The same as the API takes it in a query and in the scale subresource.
pub fn selector_text(cluster: &str) -> String {
    selector(cluster).into_iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// The same as objects hold it.
pub fn label_selector(cluster: &Cluster) -> LabelSelector {
    LabelSelector { match_labels: Some(selector(&cluster.name)), ..LabelSelector::default() }
}

/// The labels of every object; without a version, so that an operator upgrade changes no pod.
pub fn all(cluster: &str) -> BTreeMap<String, String> {
    let mut labels = selector(cluster);
    labels.extend(owned([
        ("app.kubernetes.io/managed-by", MANAGED_BY),
        ("app.kubernetes.io/part-of", "gannet"),
        ("app.kubernetes.io/component", "cache"),
    ]));
    labels
}

/// Name, namespace, labels and owner.
pub fn metadata(cluster: &Cluster, name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(cluster.namespace.clone()),
        labels: Some(all(&cluster.name)),
        owner_references: Some(vec![cluster.owner.clone()]),
        ..ObjectMeta::default()
    }
}

fn owned<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

//! The StatefulSet.

use k8s_openapi::api::apps::v1::{
    RollingUpdateStatefulSetStrategy, StatefulSet, StatefulSetSpec, StatefulSetUpdateStrategy,
};

use super::{labels, storage};
use crate::cluster::Cluster;
use crate::revision::REVISION_ANNOTATION;
use crate::rollout::{Step, Strategy};

/// The StatefulSet of a step.
pub fn build(cluster: &Cluster, step: &Step) -> StatefulSet {
    let mut template = step.target.content.template.clone();
    let annotations = template.metadata.get_or_insert_default().annotations.get_or_insert_default();
    annotations.insert(REVISION_ANNOTATION.to_owned(), step.target.name.clone());
    StatefulSet {
        metadata: labels::metadata(cluster, &cluster.name),
        spec: Some(StatefulSetSpec {
            replicas: Some(step.replicas),
            selector: labels::label_selector(cluster),
            service_name: Some(cluster.node_service()),
            // All at once: no cache-node waits for another, and a broken one must not keep the rest from starting.
            pod_management_policy: Some("Parallel".to_owned()),
            update_strategy: Some(update_strategy(step.strategy)),
            revision_history_limit: Some(i32::try_from(crate::revision::KEPT_REVISIONS).unwrap_or(i32::MAX)),
            template,
            volume_claim_templates: storage::claims(cluster),
            persistent_volume_claim_retention_policy: storage::retention(cluster),
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}

fn update_strategy(strategy: Strategy) -> StatefulSetUpdateStrategy {
    match strategy {
        Strategy::Partition(partition) => StatefulSetUpdateStrategy {
            type_: Some("RollingUpdate".to_owned()),
            rolling_update: Some(RollingUpdateStatefulSetStrategy {
                partition: Some(partition),
                ..RollingUpdateStatefulSetStrategy::default()
            }),
        },
        Strategy::OnDelete => StatefulSetUpdateStrategy { type_: Some("OnDelete".to_owned()), rolling_update: None },
    }
}

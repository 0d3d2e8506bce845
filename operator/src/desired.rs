//! The objects that a cluster consists of. Each file builds one kind, and nothing here asks anybody anything.

pub mod config_map;
pub mod controller_revision;
pub mod disruption_budget;
pub mod labels;
pub mod pod;
pub mod service_account;
pub mod services;
pub mod stateful_set;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use crate::cluster::Cluster;
use crate::observe::{NodePod, Observed};
use crate::revision::{KEPT_REVISIONS, Revision};
use crate::rollout::Step;

/// Everything that is to be, in the order in which it is to be applied: what a pod needs comes before the pods.
#[derive(Clone, Debug)]
pub struct Desired {
    pub service_account: ServiceAccount,
    pub config_maps: Vec<ConfigMap>,
    pub controller_revisions: Vec<ControllerRevision>,
    pub node_service: Service,
    pub client_service: Service,
    pub disruption_budget: PodDisruptionBudget,
    pub stateful_set: StatefulSet,
    /// Pods to be deleted.
    pub delete: Vec<NodePod>,
}

/// Builds everything for a step.
#[must_use]
pub fn build(cluster: &Cluster, step: &Step, observed: &Observed) -> Desired {
    let kept = kept_revisions(step, observed);
    let mut config_maps: Vec<ConfigMap> = Vec::new();
    for revision in &kept {
        let built = config_map::build(cluster, revision);
        if config_maps.iter().all(|known| known.metadata.name != built.metadata.name) {
            config_maps.push(built);
        }
    }
    Desired {
        service_account: service_account::build(cluster),
        config_maps,
        controller_revisions: kept.iter().map(|revision| controller_revision::build(cluster, revision)).collect(),
        node_service: services::for_nodes(cluster),
        client_service: services::for_clients(cluster),
        disruption_budget: disruption_budget::build(cluster),
        stateful_set: stateful_set::build(cluster, step),
        delete: step.delete.clone(),
    }
}

/// The target, what living pods and the StatefulSet name, and the newest few besides.
fn kept_revisions<'a>(step: &'a Step, observed: &'a Observed) -> Vec<&'a Revision> {
    let mut others: Vec<&Revision> = observed.revisions.iter().filter(|known| known.name != step.target.name).collect();
    others.sort_by_key(|revision| std::cmp::Reverse(revision.number));
    let named = |revision: &Revision| {
        observed.pods.iter().any(|pod| pod.revision == revision.name)
            || observed.set.as_ref().is_some_and(|set| set.revision == revision.name)
    };
    let kept = others.into_iter().enumerate().filter(|(age, revision)| *age < KEPT_REVISIONS || named(revision));
    std::iter::once(&step.target).chain(kept.map(|(_, revision)| revision)).collect()
}

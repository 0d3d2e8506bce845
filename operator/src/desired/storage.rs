//! What pods and StatefulSet have for the nodes' items: a volume, resources, hosts.

use std::collections::BTreeMap;

use gannet_crds::Retention;
use k8s_openapi::api::apps::v1::StatefulSetPersistentVolumeClaimRetentionPolicy;
use k8s_openapi::api::core::v1::{
    Affinity, EmptyDirVolumeSource, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolumeClaim,
    PersistentVolumeClaimSpec, Volume as PodVolume, VolumeMount, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::cluster::Cluster;
use crate::observe::storage::Claim;
use crate::observe::{NodePod, Observed};
use crate::storage::Volume;

/// The volume's name in a pod; the claims are called by it, too.
pub const VOLUME: &str = "items";
/// Where it is mounted.
pub const VOLUME_FOLDER: &str = "/var/lib/gannet";
/// The size of a huge page is part of the resource's name.
pub const HUGEPAGES: &str = "hugepages-2Mi";

/// The name of the claim of a pod.
pub fn claim_name(pod: &str) -> String {
    format!("{VOLUME}-{pod}")
}

/// The volume, where it is not claimed: a StatefulSet adds those itself.
pub fn volume(volume: Volume) -> Option<PodVolume> {
    let (medium, size) = match volume {
        Volume::Memory(size) => ("Memory", size),
        Volume::Hugepages(size) => ("HugePages-2Mi", size),
        Volume::Claim(_) => return None,
    };
    let source = EmptyDirVolumeSource { medium: Some(medium.to_owned()), size_limit: Some(Quantity(size.to_string())) };
    Some(PodVolume { name: VOLUME.to_owned(), empty_dir: Some(source), ..PodVolume::default() })
}

pub fn mount() -> VolumeMount {
    VolumeMount { name: VOLUME.to_owned(), mount_path: VOLUME_FOLDER.to_owned(), ..VolumeMount::default() }
}

/// What a container has beside CPU and memory, request and limit alike.
pub fn resources(volume: Volume) -> BTreeMap<String, Quantity> {
    match volume {
        Volume::Hugepages(size) => BTreeMap::from([(HUGEPAGES.to_owned(), Quantity(size.to_string()))]),
        Volume::Memory(_) | Volume::Claim(_) => BTreeMap::new(),
    }
}

/// Where pods may run: where the user says, and on hosts that have the medium.
pub fn affinity(given: Option<Affinity>, requirements: &[NodeSelectorRequirement]) -> Option<Affinity> {
    if requirements.is_empty() {
        return given;
    }
    let mut affinity = given.unwrap_or_default();
    let hosts = affinity.node_affinity.get_or_insert_default();
    let required = hosts.required_during_scheduling_ignored_during_execution.get_or_insert_default();
    let NodeSelector { node_selector_terms: terms } = required;
    // One of the terms is enough for a host, so each of them must ask for the medium.
    if terms.is_empty() {
        terms.push(NodeSelectorTerm::default());
    }
    for term in terms {
        term.match_expressions.get_or_insert_default().extend_from_slice(requirements);
    }
    Some(affinity)
}

/// What each pod claims.
pub fn claims(cluster: &Cluster) -> Option<Vec<PersistentVolumeClaim>> {
    let Volume::Claim(size) = cluster.shape.volume else { return None };
    let spec = PersistentVolumeClaimSpec {
        access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
        storage_class_name: cluster.claim.class.clone(),
        resources: Some(VolumeResourceRequirements {
            requests: Some(BTreeMap::from([("storage".to_owned(), Quantity(size.to_string()))])),
            ..VolumeResourceRequirements::default()
        }),
        ..PersistentVolumeClaimSpec::default()
    };
    let metadata = ObjectMeta { name: Some(VOLUME.to_owned()), ..ObjectMeta::default() };
    Some(vec![PersistentVolumeClaim { metadata, spec: Some(spec), ..PersistentVolumeClaim::default() }])
}

/// What becomes of what they claim.
pub fn retention(cluster: &Cluster) -> Option<StatefulSetPersistentVolumeClaimRetentionPolicy> {
    let Volume::Claim(_) = cluster.shape.volume else { return None };
    let name = |retention: Retention| Some(format!("{retention:?}"));
    Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
        when_deleted: name(cluster.claim.retention.when_deleted),
        when_scaled: name(cluster.claim.retention.when_scaled),
    })
}

/// Claims whose volume is lost, and that may be replaced by others.
pub fn given_up(cluster: &Cluster, observed: &Observed) -> Vec<Claim> {
    let is_given_up = |claim: &&Claim| claim.lost.is_some() && cluster.replaced_volumes.contains(&claim.volume);
    observed.storage.claims.iter().filter(is_given_up).cloned().collect()
}

/// The pods that wait for such a volume: a claim goes only when no pod has it any more.
pub fn waiting_for(claims: &[Claim], observed: &Observed) -> Vec<NodePod> {
    let waits = |pod: &&NodePod| !pod.terminating && claims.iter().any(|claim| claim.pod == pod.name);
    observed.pods.iter().filter(waits).cloned().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::desired::tests::desired;
    use crate::observe::Observed;

    fn stateful_set(spec: Value) -> Value {
        serde_json::to_value(desired(spec, &Observed::default()).stateful_set).unwrap()["spec"].clone()
    }

    fn volume(set: &Value) -> Value {
        let volumes = set["template"]["spec"]["volumes"].as_array().unwrap();
        volumes.iter().find(|volume| volume["name"] == "items").cloned().unwrap_or(Value::Null)
    }

    #[test]
    fn memory_is_mounted_within_the_limit() {
        let set = stateful_set(json!({"node": {"memory": "1Gi"}}));
        let volume = volume(&set);
        assert_eq!(volume["emptyDir"]["medium"], "Memory");
        let size: config::Bytes = volume["emptyDir"]["sizeLimit"].as_str().unwrap().parse().unwrap();
        assert!(size.0 < 1 << 30, "{size}");
        let mounts = set["template"]["spec"]["containers"][0]["volumeMounts"].as_array().unwrap();
        assert!(mounts.contains(&json!({"name": "items", "mountPath": "/var/lib/gannet"})), "{mounts:?}");
        assert_eq!((&set["volumeClaimTemplates"], &set["template"]["spec"]["affinity"]), (&Value::Null, &Value::Null));
    }

    #[test]
    fn huge_pages_are_beside_the_memory() {
        let set = stateful_set(json!({"storage": {"medium": "Hugepages", "capacity": "64Mi"}}));
        assert_eq!(volume(&set)["emptyDir"], json!({"medium": "HugePages-2Mi", "sizeLimit": "64Mi"}));
        let resources = &set["template"]["spec"]["containers"][0]["resources"];
        assert_eq!(resources["limits"], json!({"memory": "1Gi", "hugepages-2Mi": "64Mi"}));
        assert_eq!(resources["requests"]["hugepages-2Mi"], "64Mi");
    }

    #[test]
    fn persistent_memory_is_claimed_on_hosts_that_have_it() {
        let mut storage = json!({
            "medium": "PersistentMemory",
            "capacity": "64Gi",
            "volumeClaim": {"storageClassName": "optane"},
            "claimRetention": {"whenScaled": "Retain"},
        });
        let zone = json!({"key": "zone", "operator": "In", "values": ["a"]});
        let terms = json!([{"matchExpressions": [zone]}, {"matchFields": [zone]}]);
        let affinity =
            json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}});
        let set = stateful_set(json!({"storage": storage, "podTemplate": {"affinity": affinity}}));
        assert_eq!(volume(&set), Value::Null, "the StatefulSet adds it");
        let claim = &set["volumeClaimTemplates"][0];
        assert_eq!(claim["metadata"]["name"], "items");
        assert_eq!(
            claim["spec"],
            json!({
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": "optane",
                "resources": {"requests": {"storage": "64Gi"}},
            })
        );
        assert_eq!(
            set["persistentVolumeClaimRetentionPolicy"],
            json!({"whenDeleted": "Delete", "whenScaled": "Retain"})
        );
        let label = |name: &str| {
            let key = format!("feature.node.kubernetes.io/memory-nv.{name}");
            json!({"key": key, "operator": "In", "values": ["true"]})
        };
        let required = |set: &Value| {
            let affinity = &set["template"]["spec"]["affinity"]["nodeAffinity"];
            affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"].clone()
        };
        let (present, dax) = (label("present"), label("dax"));
        assert_eq!(
            required(&set),
            json!([
                {"matchExpressions": [zone, present, dax]},
                {"matchFields": [zone], "matchExpressions": [present, dax]},
            ])
        );
        storage["nodeRequirements"] = json!([{"key": "cxl", "operator": "Exists"}]);
        let set = stateful_set(json!({"storage": storage}));
        assert_eq!(required(&set), json!([{"matchExpressions": [{"key": "cxl", "operator": "Exists"}]}]));
    }
}

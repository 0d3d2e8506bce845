//! The objects that a cluster consists of. Each file builds one kind, and nothing here asks anybody anything.

pub mod config_map;
pub mod controller_revision;
pub mod disruption_budget;
pub mod labels;
pub mod pod;
pub mod service_account;
pub mod services;
pub mod stateful_set;
pub mod storage;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use crate::cluster::Cluster;
use crate::material::CaMaterial;
use crate::observe::storage::Claim;
use crate::observe::{NodePod, Observed};
use crate::revision::{KEPT_REVISIONS, Revision};
use crate::rollout::Step;
use crate::rollout::in_place::Move;

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
    /// Pods that change in place.
    pub moves: Vec<Move>,
    /// Claims to be given up.
    pub give_up: Vec<Claim>,
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
    if let Some(ca) = observed.secrets.ca.as_ref().and_then(CaMaterial::read) {
        config_maps.push(config_map::ca_bundle(cluster, &ca));
    }
    let mounted = observed.pods.iter().any(|pod| pod.mounts.given_tls);
    config_maps.extend(config_map::identities(cluster, &observed.config_maps, mounted));
    let stored = &observed.controller_revisions;
    let revisions = kept.iter().map(|revision| controller_revision::build(cluster, revision, stored));
    // What the record names is there before it, and it is there before anything is done.
    let controller_revisions = revisions.chain([controller_revision::record(cluster, &step.record)]).collect();
    let give_up = storage::given_up(cluster, observed);
    Desired {
        service_account: service_account::build(cluster),
        config_maps,
        controller_revisions,
        node_service: services::for_nodes(cluster),
        client_service: services::for_clients(cluster),
        disruption_budget: disruption_budget::build(cluster),
        stateful_set: stateful_set::build(cluster, step),
        moves: step.moves.clone(),
        delete: [step.delete.clone(), storage::waiting_for(&give_up, observed)].concat(),
        give_up,
    }
}

/// The target and what is declared, what living pods, the StatefulSet and the record name, and the newest few besides.
pub fn kept_revisions<'a>(step: &'a Step, observed: &'a Observed) -> Vec<&'a Revision> {
    let mut first = vec![&step.target];
    if step.declared.name != step.target.name {
        first.push(&step.declared);
    }
    let is_other = |known: &&Revision| first.iter().all(|revision| revision.name != known.name);
    let mut others: Vec<&Revision> = observed.revisions.iter().filter(is_other).collect();
    others.sort_by_key(|revision| std::cmp::Reverse(revision.number));
    let named = |revision: &Revision| {
        observed.pods.iter().any(|pod| pod.revision == revision.name)
            || observed.set.as_ref().is_some_and(|set| set.revision == revision.name)
            || step.record.revisions().any(|name| name == revision.name)
    };
    let kept = others.into_iter().enumerate().filter(|(age, revision)| *age < KEPT_REVISIONS || named(revision));
    let kept: Vec<&Revision> = kept.map(|(_, revision)| revision).collect();
    first.into_iter().chain(kept).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use k8s_openapi::api::apps::v1::ControllerRevision;
    use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
    use serde_json::{Value, json};

    use super::{Desired, build};
    use crate::cluster::Cluster;
    use crate::cluster::tests::resource;
    use crate::observe::Observed;
    use crate::revision::Defaults;
    use crate::rollout::{Decision, decide};

    pub(crate) fn desired(spec: Value, observed: &Observed) -> Desired {
        let cluster = Cluster::parse(&resource(spec)).unwrap();
        let defaults = Defaults { node_image: "cache-node:1".to_owned(), ..Defaults::default() };
        let Decision::Step(step) = decide(&cluster, observed, &defaults, jiff::Timestamp::UNIX_EPOCH).unwrap() else {
            panic!("nothing decided")
        };
        build(&cluster, &step, observed)
    }

    fn pod_template(spec: Value) -> Value {
        let set = serde_json::to_value(desired(spec, &Observed::default()).stateful_set).unwrap();
        set["spec"]["template"].clone()
    }

    #[test]
    fn pods_meet_the_restricted_standard() {
        let spec = pod_template(json!({}))["spec"].clone();
        let container = &spec["containers"][0];
        assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
        assert_eq!(spec["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
        assert_eq!(container["securityContext"]["capabilities"]["drop"], json!(["ALL"]));
        assert_eq!(spec["automountServiceAccountToken"], false);
    }

    #[test]
    fn the_container_is_limited_to_what_is_declared() {
        let template = pod_template(json!({"node": {"memory": "2048Mi", "cpu": "1500m"}}));
        let resources = &template["spec"]["containers"][0]["resources"];
        assert_eq!(resources["limits"], json!({"memory": "2Gi"}));
        assert_eq!(resources["requests"], json!({"cpu": "1500m", "memory": "2Gi"}));
    }

    #[test]
    fn every_field_of_the_pod_template_reaches_the_pod() {
        let declared = json!({
            "labels": {"team": "shop", "app.kubernetes.io/name": "mine"},
            "annotations": {"note": "kept"},
            "nodeSelector": {"disk": "fast"},
            "tolerations": [{"key": "cache", "operator": "Exists"}],
            "affinity": {"podAntiAffinity": {}},
            "topologySpreadConstraints": [{"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
            "priorityClassName": "high",
            "imagePullSecrets": [{"name": "registry"}],
            "terminationGracePeriodSeconds": 77,
            "serviceAccountName": "mine",
        });
        let template = pod_template(json!({"podTemplate": declared}));
        assert_eq!(template["metadata"]["labels"]["team"], "shop");
        assert_eq!(template["metadata"]["labels"]["app.kubernetes.io/name"], "cache-node", "the operator's own win");
        assert_eq!(template["metadata"]["annotations"]["note"], "kept");
        for field in
            declared.as_object().unwrap().keys().filter(|key| !["labels", "annotations"].contains(&key.as_str()))
        {
            assert_eq!(template["spec"][field], declared[field], "{field}");
        }
    }

    #[test]
    fn each_field_of_the_node_reaches_its_configuration() {
        let declared = json!({
            "node": {"workers": 3, "maxConnections": 77, "idleTimeout": "5m", "drainDelay": "9s"},
            "cache": {"eviction": "Fifo", "maxItemSize": "2Mi"},
        });
        let desired = desired(declared, &Observed::default());
        let text = &desired.config_maps[0].data.as_ref().unwrap()["cache-node.yaml"];
        for line in [
            "workers: 3",
            "maxConnections: 77",
            "idleTimeout: 5m",
            "drainDelay: 9s",
            "eviction: Fifo",
            "maxItemSize: 2Mi",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
        assert_eq!(
            desired.stateful_set.spec.unwrap().template.spec.unwrap().termination_grace_period_seconds,
            Some(39)
        );
    }

    #[test]
    fn secrets_are_mounted_whole_where_the_node_looks_for_them() {
        for (spec, expected) in [
            (json!({}), vec![("admin-tls", "demo-admin-tls", "/etc/gannet-admin-tls")]),
            (
                json!({"tls": {"mode": "Strict", "maxConnectionAge": "9m"}}),
                vec![
                    ("admin-tls", "demo-admin-tls", "/etc/gannet-admin-tls"),
                    ("tls", "demo-node-tls", "/etc/gannet-tls"),
                ],
            ),
        ] {
            let desired = desired(spec, &Observed::default());
            let text = &desired.config_maps[0].data.as_ref().unwrap()["cache-node.yaml"];
            let config = config::Config::parse(text).unwrap();
            assert_eq!(config.tls.is_some(), expected.len() > 1, "{text}");
            assert!(config.tls.is_none_or(|tls| tls.max_connection_age.to_string() == "9m"), "{text}");
            let template = serde_json::to_value(desired.stateful_set.spec.unwrap().template).unwrap();
            let (volumes, container) = (&template["spec"]["volumes"], &template["spec"]["containers"][0]);
            assert_eq!(volumes.as_array().unwrap().len(), expected.len() + 2, "and the configuration, and the items");
            for (index, (volume, secret, folder)) in expected.into_iter().enumerate() {
                assert_eq!(
                    volumes[index + 1],
                    json!({"name": volume, "secret": {"secretName": secret, "defaultMode": 0o440}})
                );
                let mount = json!({"name": volume, "mountPath": folder, "readOnly": true});
                assert_eq!(container["volumeMounts"][index + 1], mount);
                assert!(text.contains(&format!("directory: {folder}")), "{text}");
            }
        }
    }

    #[test]
    fn a_secret_of_somebody_else_is_mounted_with_the_list_beside_it() {
        let issuer = json!({"type": "Secret", "name": "ours"});
        let mut spec = json!({"tls": {"mode": "Strict", "issuer": issuer, "identities": ["DNS:web.shop.svc"]}});
        let desired = desired(spec.clone(), &Observed::default());
        let config = config::Config::parse(&desired.config_maps[0].data.as_ref().unwrap()["cache-node.yaml"]).unwrap();
        assert_eq!(config.tls.unwrap().name.as_deref(), Some("tls"), "its files are tls.crt and tls.key");
        let list = desired.config_maps.iter().find(|map| map.metadata.name.as_deref() == Some("demo-identities"));
        assert_eq!(list.unwrap().data.as_ref().unwrap()["identities"], "DNS:web.shop.svc\n");
        let template = serde_json::to_value(desired.stateful_set.spec.unwrap().template).unwrap();
        let item = |file: &str| json!({"key": file, "path": file});
        let sources = json!([
            {"secret": {"name": "ours", "items": [item("ca.crt"), item("tls.crt"), item("tls.key")]}},
            {"configMap": {"name": "demo-identities"}},
        ]);
        assert_eq!(
            template["spec"]["volumes"][2],
            json!({"name": "tls", "projected": {"sources": sources, "defaultMode": 0o440}})
        );
        spec["tls"]["identities"] = json!(["DNS:web.shop.svc", "DNS:api.shop.svc"]);
        assert_eq!(pod_template(spec), template, "the list changes no pod");
    }

    #[test]
    fn nothing_about_certificates_but_the_mode_and_the_age_changes_a_pod() {
        let first = pod_template(json!({"tls": {"mode": "Strict"}}));
        let clients = json!([{"name": "web", "secretName": "cache-web"}]);
        let lives = json!({"mode": "Strict", "duration": "1h", "renewBefore": "10m", "clients": clients});
        assert_eq!(pod_template(json!({"tls": lives, "monitoring": {"clientSecretName": "prometheus"}})), first);
        let off = pod_template(json!({"tls": {"mode": "Disabled", "maxConnectionAge": "7m"}}));
        assert_eq!(off, pod_template(json!({})));
        assert_ne!(off, first);
    }

    #[test]
    fn a_stored_revision_is_applied_word_for_word() {
        let first = desired(json!({}), &Observed::default());
        let mut stored: ControllerRevision = first.controller_revisions[0].clone();
        let data = stored.data.as_mut().unwrap();
        data.0["writtenByANewerOperator"] = json!(true);
        let revisions = vec![crate::revision::Revision::read(&stored).unwrap()];
        let observed = Observed { revisions, controller_revisions: vec![stored.clone()], ..Observed::default() };
        let RawExtension(again) = desired(json!({}), &observed).controller_revisions[0].data.clone().unwrap();
        assert_eq!(again, stored.data.unwrap().0);
    }
}

//! What the API server alone does for a CacheCluster: refuses what makes no sense, fills in what is left out. No pod
//! runs here, and no operator.

use gannet_crds::CacheCluster;
use kube::api::PostParams;
use serde_json::{Value, json};
use tests::failure::{Failure, Outcome};
use tests::scenario::{Scenario, in_namespace};

/// Asks the API server what it would make of a CacheCluster.
async fn try_to_create(s: &Scenario, name: &str, spec: Value) -> Outcome<CacheCluster> {
    let object = json!({
        "apiVersion": "gannet.dev/v1alpha1",
        "kind": "CacheCluster",
        "metadata": {"name": name},
        "spec": spec,
    });
    // As an object of any kind: the types here would refuse some of it before the API server sees it.
    let object: kube::api::DynamicObject = serde_json::from_value(object)?;
    let resource = kube::api::ApiResource::erase::<CacheCluster>(&());
    let clusters: kube::Api<kube::api::DynamicObject> =
        kube::Api::namespaced_with(s.client.clone(), &s.namespace, &resource);
    let parameters = PostParams { dry_run: true, ..PostParams::default() };
    let made = clusters.create(&parameters, &object).await?;
    Ok(made.try_parse()?)
}

#[test]
fn what_makes_no_sense_is_refused_by_name() -> Outcome {
    in_namespace("refuse", async |s| {
        let cases = [
            (json!({"node": {"memory": "16Mi"}}), "spec.node.memory 16Mi is too small"),
            (json!({"node": {"memory": "1.5Gi"}}), "spec.node.memory"),
            (json!({"node": {"memory": "lots"}}), "spec.node.memory"),
            (json!({"node": {"memory": 1024}}), "spec.node.memory"),
            (
                json!({"node": {"memory": "64Mi"}, "cache": {"maxItemSize": "8Mi"}}),
                "spec.node.memory 64Mi is too small for spec.cache.maxItemSize 8Mi",
            ),
            (
                json!({"node": {"memory": "64Mi", "maxConnections": 100_000}}),
                "spec.node.memory is too small for spec.node.maxConnections",
            ),
            (json!({"node": {"workers": 0}}), "spec.node.workers"),
            (json!({"node": {"workers": 65}}), "spec.node.workers"),
            (json!({"node": {"cpu": "fast"}}), "spec.node.cpu"),
            (json!({"node": {"maxConnections": 0}}), "spec.node.maxConnections"),
            (json!({"node": {"idleTimeout": "5d"}}), "spec.node.idleTimeout"),
            (json!({"node": {"drainDelay": "-5s"}}), "spec.node.drainDelay"),
            (json!({"cache": {"eviction": "Lru"}}), "spec.cache.eviction"),
            (json!({"cache": {"maxItemSize": "512"}}), "spec.cache.maxItemSize 512 is out of range: 1Ki to 128Mi"),
            (json!({"cache": {"maxItemSize": "256Mi"}}), "spec.cache.maxItemSize 256Mi is out of range"),
            (json!({"replicas": -1}), "spec.replicas"),
            (json!({"replicas": 1001}), "spec.replicas"),
            (json!({"replicas": "three"}), "spec.replicas"),
            (json!({"image": ""}), "spec.image"),
            (json!({"disruption": {"maxUnavailable": 0}}), "spec.disruption.maxUnavailable"),
            (json!({"rollout": {"template": "Sometimes"}}), "spec.rollout.template"),
            (json!({"monitoring": {"clientSecretName": "a/b"}}), "spec.monitoring.clientSecretName"),
            (json!({"rollout": {"progressDeadline": "soon"}}), "spec.rollout.progressDeadline"),
            (
                json!({"podTemplate": {"terminationGracePeriodSeconds": 5}}),
                "spec.podTemplate.terminationGracePeriodSeconds",
            ),
        ];
        are_refused(s, &cases).await
    })
}

#[test]
fn what_makes_no_sense_about_rollouts_is_refused_by_name() -> Outcome {
    in_namespace("refuse-rollout", async |s| {
        let cases = [
            (json!({"rollout": {"strategy": "BlueGreen"}}), "spec.rollout.strategy"),
            (json!({"rollout": {"steps": [{"type": "SetPods"}]}}), "a step of type SetPods, and no other, has pods"),
            (
                json!({"rollout": {"steps": [{"type": "Pause", "percent": 50}]}}),
                "a step of type SetPercent, and no other, has a percent",
            ),
            (
                json!({"rollout": {"steps": [{"type": "SetPods", "pods": 1, "duration": "5m"}]}}),
                "only a step of type Pause has a duration",
            ),
            (
                json!({"rollout": {"steps": [{"type": "Pause", "analysis": {}}]}}),
                "only a step of type Analysis has an analysis",
            ),
            (
                json!({"rollout": {"steps": [{"type": "Analysis", "analysis": {"count": 3, "failureLimit": 3}}]}}),
                "failureLimit must be less than count",
            ),
            (
                json!({"rollout": {"metrics": [{"name": "hitRatio", "compare": "Difference"}]}}),
                "each has either a max or a min",
            ),
            (
                json!({"rollout": {"metrics": [{"name": "p99Latency", "compare": "Ratio", "max": "0"}]}}),
                "the limit of a Ratio is more than 0",
            ),
            (
                json!({"rollout": {"metrics": [{"name": "restarts", "compare": "Difference", "max": "1", "baseline": "Control"}]}}),
                "a baseline of Control is for the strategy Canary",
            ),
            (json!({"rollout": {"warmth": {"hitRatio": "1.5"}}}), "spec.rollout.warmth.hitRatio"),
        ];
        are_refused(s, &cases).await
    })
}

#[test]
fn what_makes_no_sense_about_storage_is_refused_by_name() -> Outcome {
    in_namespace("refuse-storage", async |s| {
        let claim = json!({"storageClassName": "fast"});
        let cases = [
            (json!({"storage": {"medium": "Tape"}}), "spec.storage.medium"),
            (json!({"storage": {"capacity": "1Gi"}}), "with Memory it follows from spec.node.memory"),
            (
                json!({"storage": {"medium": "File"}}),
                "spec.storage.capacity: PersistentMemory, Hugepages and File need one",
            ),
            (json!({"storage": {"medium": "File", "capacity": "big"}}), "spec.storage.capacity"),
            (json!({"storage": {"medium": "File", "capacity": "1Mi"}}), "spec.storage.capacity 1Mi is too small"),
            (json!({"storage": {"medium": "Hugepages", "capacity": "33Mi"}}), "is not a multiple of 2Mi"),
            (json!({"storage": {"volumeClaim": claim}}), "spec.storage.volumeClaim: only"),
            (
                json!({"storage": {"medium": "PersistentMemory", "capacity": "1Gi"}}),
                "PersistentMemory needs the StorageClass",
            ),
            (json!({"storage": {"durability": "Interval"}}), "spec.storage.durability: Memory and Hugepages"),
            (json!({"storage": {"onUnavailable": "Fallback"}}), "spec.storage.onUnavailable: Memory is always there"),
            (json!({"storage": {"maxAbsence": "a while"}}), "spec.storage.maxAbsence"),
            (json!({"storage": {"claimRetention": {"whenScaled": "Keep"}}}), "spec.storage.claimRetention.whenScaled"),
        ];
        are_refused(s, &cases).await
    })
}

#[test]
fn what_items_are_on_cannot_be_changed() -> Outcome {
    in_namespace("fixed", async |s| {
        let file = json!({"medium": "File", "capacity": "64Mi", "volumeClaim": {"storageClassName": "fast"}});
        s.declare("demo", json!({"storage": file})).await?;
        s.declare("plain", json!({})).await?;
        for (name, change, expected) in [
            ("demo", json!({"medium": "Hugepages"}), "spec.storage.medium cannot be changed"),
            ("demo", json!({"capacity": "128Mi"}), "spec.storage.capacity cannot be changed"),
            (
                "demo",
                json!({"volumeClaim": {"storageClassName": "slow"}}),
                "spec.storage.volumeClaim cannot be changed",
            ),
            ("demo", json!({"volumeClaim": null}), "spec.storage.volumeClaim cannot be changed"),
            ("plain", json!({"medium": "File", "capacity": "64Mi"}), "spec.storage.medium cannot be changed"),
        ] {
            let refusal = s.change(name, json!({"storage": change})).await.err().map(|failure| failure.to_string());
            let words = refusal.ok_or_else(|| Failure::new(format!("{change} is accepted")))?;
            assert!(words.contains(expected), "{change}: {words}");
        }
        let free = json!({"maxAbsence": "1m", "claimRetention": {"whenScaled": "Retain"}, "durability": "Interval"});
        s.change("demo", json!({"storage": free})).await?;
        Ok(())
    })
}

#[test]
fn what_makes_no_sense_about_certificates_is_refused_by_name() -> Outcome {
    in_namespace("refuse-tls", async |s| {
        let cases = [
            (json!({"tls": {"mode": "Mutual"}}), "spec.tls.mode"),
            (json!({"tls": {"duration": "30s"}}), "spec.tls.duration is too short"),
            (json!({"tls": {"renewBefore": "24h"}}), "spec.tls.renewBefore: a certificate is renewed before it ends"),
            (json!({"tls": {"ca": {"renewBefore": "49h"}}}), "spec.tls.ca.renewBefore is too short"),
            (json!({"tls": {"ca": {"duration": "200h"}}}), "spec.tls.ca.renewBefore: a CA is replaced before it ends"),
            (
                json!({"tls": {"clients": [{"name": "a", "secretName": "x"}, {"name": "b", "secretName": "x"}]}}),
                "spec.tls.clients: each client has a Secret of its own",
            ),
            (
                json!({"tls": {"clients": [{"name": "a", "secretName": "x"}, {"name": "a", "secretName": "y"}]}}),
                "spec.tls.clients",
            ),
            (json!({"tls": {"clients": [{"name": "A", "secretName": "x"}]}}), "spec.tls.clients[0].name"),
            (json!({"tls": {"issuer": {"type": "Vault"}}}), "spec.tls.issuer.type"),
            (json!({"tls": {"issuer": {"type": "Secret"}}}), "spec.tls.issuer.name names"),
            (json!({"tls": {"issuer": {"name": "ours"}}}), "spec.tls.issuer.name names"),
            (
                json!({"tls": {"issuer": {"type": "Secret", "name": "ours", "kind": "Issuer"}}}),
                "spec.tls.issuer.kind is of",
            ),
            (
                json!({"tls": {
                    "issuer": {"type": "Secret", "name": "ours"},
                    "clients": [{"name": "a", "secretName": "x"}],
                }}),
                "spec.tls.clients: nothing is issued",
            ),
            (json!({"tls": {"identities": ["DNS:web.shop.svc"]}}), "spec.tls.identities: only where"),
            (
                json!({"tls": {"issuer": {"type": "Secret", "name": "ours"}, "identities": ["web"]}}),
                "spec.tls.identities",
            ),
            (
                json!({"tls": {"issuer": {"type": "CertManager", "name": "ours"}, "duration": "30m", "renewBefore": "10m"}}),
                "spec.tls.duration is too short: cert-manager issues",
            ),
        ];
        are_refused(s, &cases).await
    })
}

async fn are_refused(s: &Scenario, cases: &[(Value, &str)]) -> Outcome {
    for (spec, expected) in cases {
        let refusal = try_to_create(s, "demo", spec.clone()).await.err().map(|failure| failure.to_string());
        let words = refusal.ok_or_else(|| Failure::new(format!("{spec} is accepted")))?;
        assert!(words.contains(expected), "{spec} is refused without saying \"{expected}\": {words}");
    }
    Ok(())
}

#[test]
fn names_that_cannot_name_services_are_refused() -> Outcome {
    in_namespace("names", async |s| {
        let long = "a".repeat(47);
        for name in ["9lives", "dotted.name", &long] {
            let refusal = try_to_create(s, name, json!({})).await.err().map(|failure| failure.to_string());
            let words = refusal.ok_or_else(|| Failure::new(format!("{name} is accepted")))?;
            assert!(words.contains("metadata.name: use at most 46"), "{name}: {words}");
        }
        try_to_create(s, &"a".repeat(46), json!({})).await?;
        Ok(())
    })
}

#[test]
fn what_makes_sense_is_accepted() -> Outcome {
    in_namespace("accept", async |s| {
        let cases = [
            json!({}),
            json!({"replicas": 0}),
            json!({"replicas": 1000}),
            json!({"node": {"memory": "48Mi", "maxConnections": 256}}),
            json!({"node": {"memory": "500M", "cpu": "1.5", "workers": 64, "idleTimeout": "1h30m", "drainDelay": "0s"}}),
            json!({"node": {"memory": "4Gi"}, "cache": {"eviction": "S3Fifo", "maxItemSize": "128Mi"}}),
            json!({"rollout": {"template": "Latest", "progressDeadline": "90s"}}),
            json!({"tls": {"mode": "Strict", "ca": {"renewBefore": "50h"}}}),
            json!({"tls": {"mode": "Permissive", "duration": "3m", "renewBefore": "2m", "maxConnectionAge": "0s"}}),
            json!({"tls": {"mode": "Strict", "issuer": {"type": "CertManager", "kind": "ClusterIssuer", "name": "ours"}}}),
            json!({"tls": {
                "mode": "Strict",
                "issuer": {"type": "Secret", "name": "ours"},
                "identities": ["DNS:web.shop.svc", "URI:spiffe://shop/web"],
            }}),
            json!({"storage": {"medium": "Hugepages", "capacity": "64Mi", "onUnavailable": "Fallback"}}),
            json!({"storage": {"medium": "File", "capacity": "256Mi", "durability": "Interval", "maxAbsence": "0s"}}),
            json!({"storage": {
                "medium": "PersistentMemory",
                "capacity": "64Gi",
                "volumeClaim": {"storageClassName": "optane-dax"},
                "nodeRequirements": [{"key": "example.org/fsdax", "operator": "Exists"}],
            }}),
            json!({"podTemplate": {"labels": {"a": "b"}, "tolerations": [{"operator": "Exists"}]}}),
        ];
        for spec in cases {
            let made = try_to_create(s, "demo", spec.clone()).await;
            made.map_err(|failure| failure.while_doing(&spec))?;
        }
        Ok(())
    })
}

#[test]
fn what_is_left_out_is_filled_in() -> Outcome {
    in_namespace("defaults", async |s| {
        let made = try_to_create(s, "demo", json!({})).await?.spec;
        let declared = gannet_crds::CacheClusterSpec { replicas: 3, ..gannet_crds::CacheClusterSpec::default() };
        assert_eq!(made, declared, "the schema's defaults are those of the types");
        assert_eq!((made.node.memory.as_str(), made.node.workers, made.disruption.max_unavailable), ("1Gi", 1, 1));
        Ok(())
    })
}

#[test]
fn a_misspelt_field_is_refused_by_kubectl() -> Outcome {
    in_namespace("misspelt", async |s| {
        let yaml = "apiVersion: gannet.dev/v1alpha1\nkind: CacheCluster\nmetadata: {name: demo}\nspec: {node: {memroy: 1Gi}}\n";
        let refusal = s.apply(yaml).await.err().map(|failure| failure.to_string()).unwrap_or_default();
        assert!(refusal.contains("unknown field \"spec.node.memroy\""), "{refusal}");
        Ok(())
    })
}

//! Where others issue: cert-manager, or whoever writes the Secret.

use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use super::tests::Scene;
use crate::cert_manager::{Offer, holders};
use crate::certificate::tests::NOW;
use crate::certificate::{Authority, bundle_hash, bundle_pem};
use crate::observe::{Mounts, NodePod};
use crate::rotation::Phase;
use crate::tls::OPERATOR;

const LIFE: Duration = Duration::from_secs(24 * 3600);

fn authority(name: &str) -> Authority {
    Authority::make(name, 100 * LIFE, NOW - 3600).unwrap()
}

fn by_cert_manager() -> Value {
    json!({"tls": {
        "mode": "Strict",
        "issuer": {"type": "CertManager", "name": "ours"},
        "clients": [{"name": "web", "secretName": "cache-web"}],
    }})
}

/// cert-manager issues these from this CA, all where none are named.
fn issue(scene: &mut Scene, ca: &Authority, names: &[&str]) {
    let tls = scene.tls();
    let members = super::members(&tls, &scene.observed);
    for holder in holders(&tls, &members) {
        if names.is_empty() || names.contains(&holder.name.as_str()) {
            let pair = ca.issue(&holder.subject, LIFE, scene.now).unwrap();
            let offer = Offer { pair, ca: ca.certificate.clone() };
            scene.observed.secrets.issued.offers.insert(holder.name, offer);
        }
    }
}

/// Pods that serve what their Secret had when they last looked.
fn pods_reload(scene: &mut Scene, given: bool) {
    let (bundle, leaves) = match (given, &scene.observed.secrets.given) {
        (true, Some(secret)) => {
            let leaf = crate::material::pair(secret, "tls.crt", "tls.key").unwrap().certificate;
            (bundle_hash(&crate::material::certificates(secret, "ca.crt")), vec![leaf; 3])
        }
        _ => {
            let nodes = scene.nodes();
            (bundle_hash(&nodes.bundle), nodes.pairs.into_values().map(|pair| pair.certificate).collect())
        }
    };
    scene.observed.pods = leaves
        .iter()
        .enumerate()
        .map(|(ordinal, leaf)| {
            let report = json!({
                "version": "1", "configurationHash": "", "phase": "Serving", "uptimeSeconds": 1_000_000,
                "items": {"live": 0, "evicted": 0, "expired": 0},
                "requests": {"hits": 0, "misses": 0, "total": 0, "serverErrors": 0},
                "memory": {"cacheLimit": 0, "cacheUsed": 0, "buffersLimit": 0, "buffersUsed": 0, "resident": 0},
                "connections": {"open": 0, "limit": 0, "refused": 0},
                "tls": {
                    "mode": "Strict", "bundle": bundle, "cas": [], "reloads": 0, "failures": {}, "identities": [],
                    "certificate": {"serial": leaf.serial, "notAfter": leaf.not_after, "issuer": ""},
                },
            });
            NodePod {
                fault: None,
                restarts: 0,
                image: String::new(),
                name: format!("demo-{ordinal}"),
                ordinal: i32::try_from(ordinal).unwrap(),
                ready: true,
                mounts: Mounts { node_tls: !given, given_tls: given, admin_tls: true },
                report: Some(Ok(serde_json::from_value(report).unwrap())),
                served: Some(Ok(leaf.serial.clone())),
                ..NodePod::default()
            }
        })
        .collect();
}

#[test]
fn cert_manager_is_asked_for_everybody_and_its_absence_is_told() {
    let mut scene = Scene::new(by_cert_manager());
    let certification = scene.settle();
    assert_eq!(certification.trouble.unwrap().0, "CertManagerMissing");
    let asked = certification.asked.certificates;
    let names: Vec<String> = asked.iter().map(ResourceExt::name_any).collect();
    let expected = [
        "demo-node-0-issued",
        "demo-node-1-issued",
        "demo-node-2-issued",
        "demo-client-web-issued",
        "demo-operator-issued",
    ];
    assert_eq!(names, expected);
    let spec = &asked[0].data["spec"];
    assert_eq!(spec["issuerRef"], json!({"group": "cert-manager.io", "kind": "Issuer", "name": "ours"}));
    assert_eq!((spec["duration"].as_str(), spec["renewBefore"].as_str()), (Some("24h"), Some("8h")));
    assert_eq!(spec["privateKey"]["rotationPolicy"], "Always");
    assert!(spec["dnsNames"].as_array().unwrap().contains(&json!("demo-0.demo-nodes.shop.svc")));
    assert_eq!(asked[3].data["spec"]["uris"], json!(["spiffe://gannet.dev/shop/demo/web"]));
    assert_eq!(asked[4].data["spec"]["uris"], json!([OPERATOR.strip_prefix("URI:").unwrap()]));
    assert_eq!(asked[0].metadata.owner_references.as_ref().unwrap()[0].name, "demo");

    let trouble =
        json!({"status": {"conditions": [{"type": "Ready", "status": "False", "message": "no such issuer"}]}});
    let first = DynamicObject { metadata: asked[0].metadata.clone(), types: None, data: trouble };
    scene.observed.secrets.issued.certificates = Some(vec![first]);
    let (reason, message) = scene.settle().trouble.unwrap();
    assert_eq!(reason, "WaitsForCertManager");
    assert!(message.contains("demo-node-0-issued") && message.contains("no such issuer"), "{message}");
    assert!(scene.observed.secrets.ca.is_none() && scene.observed.secrets.nodes.is_none());
}

#[test]
fn what_cert_manager_issues_is_taken_over() {
    let (mut scene, ca) = (Scene::new(by_cert_manager()), authority("theirs"));
    scene.observed.secrets.issued.certificates = Some(Vec::new());
    issue(&mut scene, &ca, &[]);
    let certification = scene.settle();
    assert!(certification.trouble.is_none() && certification.asked.renewals.is_empty());
    assert_eq!(certification.plan.unwrap().phase, Phase::Current);
    let known = scene.ca();
    assert_eq!((&known.current, known.key), (&ca.certificate, None), "nobody here has its key");
    let offers = &scene.observed.secrets.issued.offers;
    for (pod, pair) in scene.nodes().pairs {
        let ordinal = pod.strip_prefix("demo-").unwrap();
        assert_eq!(pair.certificate, offers[&format!("demo-node-{ordinal}-issued")].pair.certificate);
    }
    assert_eq!(scene.client("cache-web").pair.certificate, offers["demo-client-web-issued"].pair.certificate);
    pods_reload(&mut scene, false);

    // What cert-manager renews by itself is taken over when it is due, one pod after the other.
    scene.now += 17 * 3600;
    issue(&mut scene, &ca, &[]);
    let before = scene.nodes();
    scene.settle();
    let moved = |scene: &Scene| {
        let now = scene.nodes();
        before.pairs.iter().filter(|(pod, pair)| now.pairs[*pod].certificate != pair.certificate).count()
    };
    assert_eq!(moved(&scene), 1, "one at a time");
    for _ in 0..2 {
        pods_reload(&mut scene, false);
        scene.settle();
    }
    assert_eq!(moved(&scene), 3);
}

#[test]
fn a_leaf_of_a_new_ca_is_taken_over_when_that_is_trusted_everywhere_and_the_rest_is_asked_for() {
    let (mut scene, old, new) = (Scene::new(by_cert_manager()), authority("old"), authority("new"));
    scene.observed.secrets.issued.certificates = Some(Vec::new());
    issue(&mut scene, &old, &[]);
    scene.settle();
    pods_reload(&mut scene, false);
    scene.now += 3600;

    // The issuer's CA was renewed; of its certificates, cert-manager has renewed one.
    issue(&mut scene, &new, &["demo-node-1-issued"]);
    let before = scene.nodes().pairs;
    assert_eq!(scene.settle().plan.unwrap().phase, Phase::Distributing);
    assert_eq!(bundle_hash(&scene.nodes().bundle), bundle_hash([&old.certificate, &new.certificate]));
    let serials = |pairs: &std::collections::BTreeMap<String, crate::certificate::Pair>| -> Vec<String> {
        pairs.values().map(|pair| pair.certificate.serial.clone()).collect()
    };
    assert_eq!(serials(&scene.nodes().pairs), serials(&before), "not before every pod trusts the new CA");

    // Every pod has the bundle: the client's is asked for, and nodes stay as they are until the client has been seen with it.
    pods_reload(&mut scene, false);
    let certification = scene.settle();
    assert_eq!(certification.asked.renewals, ["demo-client-web-issued"]);
    issue(&mut scene, &new, &["demo-client-web-issued"]);
    scene.settle();
    assert_eq!(scene.client("cache-web").bundle.len(), 2);
    assert!(scene.client("cache-web").pair.certificate.is_issued_by(&new.certificate));
    assert_eq!(serials(&scene.nodes().pairs), serials(&before));

    // The client is idle, and has had its time to reload; then the nodes', one after the other.
    scene.now += 24 * 3600 / 2;
    let mut asked = Vec::new();
    for _ in 0..8 {
        let certification = scene.settle();
        asked.extend(certification.asked.renewals.clone());
        let names: Vec<&str> = certification.asked.renewals.iter().map(String::as_str).collect();
        if !names.is_empty() {
            issue(&mut scene, &new, &names);
        }
        scene.settle();
        pods_reload(&mut scene, false);
        scene.now += 600;
    }
    assert!(asked.contains(&"demo-node-0-issued".to_owned()) && asked.contains(&"demo-node-2-issued".to_owned()));
    assert!(!asked.contains(&"demo-node-1-issued".to_owned()), "that one was renewed already: {asked:?}");
    assert_eq!(scene.settle().plan.unwrap().phase, Phase::Current);
    let ca = scene.ca();
    assert!(ca.current == new.certificate && ca.old.is_empty());
    assert_eq!(scene.client("cache-web").bundle, [ca.current], "the old CA is dropped there too");
}

#[test]
fn a_lost_record_of_cas_is_made_from_what_the_nodes_trust() {
    let (mut scene, old, new) = (Scene::new(by_cert_manager()), authority("old"), authority("new"));
    scene.observed.secrets.issued.certificates = Some(Vec::new());
    issue(&mut scene, &old, &[]);
    scene.settle();
    scene.observed.secrets.ca = None;
    scene.now += 60;
    issue(&mut scene, &new, &["demo-operator-issued"]);
    let write = scene.certify().writes.into_iter().find(|write| write.secret.name_any() == "demo-ca").unwrap();
    scene.write(write);
    let ca = scene.ca();
    assert_eq!((ca.current, ca.old), (new.certificate, vec![old.certificate]));
}

#[test]
fn a_request_has_cert_manager_renew() {
    let (mut scene, ca) = (Scene::new(by_cert_manager()), authority("theirs"));
    scene.observed.secrets.issued.certificates = Some(Vec::new());
    issue(&mut scene, &ca, &[]);
    scene.settle();
    pods_reload(&mut scene, false);
    scene.now += 60;
    scene.resource.annotations_mut().insert("gannet.dev/rotate".to_owned(), "leaf@1".to_owned());
    let asked = scene.settle().asked.renewals;
    assert!(asked.contains(&"demo-client-web-issued".to_owned()) && asked.contains(&"demo-node-0-issued".to_owned()));
    scene.resource.annotations_mut().insert("gannet.dev/rotate".to_owned(), "ca@1".to_owned());
    let mut asked = scene.certify().asked.renewals;
    scene.certify().writes.into_iter().for_each(|write| scene.write(write));
    assert_eq!(asked.pop().as_deref(), Some("demo-operator-issued"), "one shows which CA the issuer has now");
    assert!(!scene.settle().asked.renewals.contains(&"demo-operator-issued".to_owned()), "the same request again");
}

fn given(ca: &Authority, now: i64) -> Secret {
    let subject = crate::tls::outsider("DNS:demo.shop.svc");
    let pair = ca.issue(&subject, LIFE, now).unwrap();
    let texts = [("ca.crt", bundle_pem([&ca.certificate])), ("tls.crt", pair.certificate.pem()), ("tls.key", pair.key)];
    let data = texts.into_iter().map(|(name, text)| (name.to_owned(), ByteString(text.into_bytes()))).collect();
    Secret { data: Some(data), ..Secret::default() }
}

#[test]
fn a_secret_of_somebody_else_is_watched_and_never_written() {
    let spec =
        json!({"tls": {"mode": "Strict", "issuer": {"type": "Secret", "name": "ours"}, "identities": ["DNS:a"]}});
    let mut scene = Scene::new(spec);
    let look = |scene: &mut Scene| scene.settle().given.unwrap();
    assert!(look(&mut scene).content.unwrap_err().contains("does not exist"));
    let ca = authority("theirs");
    scene.observed.secrets.given = Some(given(&ca, NOW));
    pods_reload(&mut scene, true);
    let certification = scene.settle();
    assert!(certification.plan.is_none() && certification.stale.is_empty());
    assert!(certification.given.unwrap().content.is_ok());
    assert!(scene.observed.secrets.ca.is_none() && scene.observed.secrets.nodes.is_none(), "nothing is issued");

    // Replaced by whoever writes it: pods that serve the last one are behind.
    scene.observed.secrets.given = Some(given(&ca, NOW));
    assert_eq!(scene.settle().stale, ["demo-0", "demo-1", "demo-2"]);
    pods_reload(&mut scene, true);
    assert!(scene.settle().stale.is_empty());

    scene.now += 23 * 3600;
    assert!(look(&mut scene).is_late);
    scene.now += 3600;
    assert!(look(&mut scene).content.unwrap_err().contains("has ended"));
    for (damaged, word) in [("ca.crt", "no CA"), ("tls.key", "not a certificate and its key")] {
        let mut secret = given(&ca, scene.now);
        secret.data.as_mut().unwrap().insert(damaged.to_owned(), ByteString(b"nonsense".to_vec()));
        scene.observed.secrets.given = Some(secret);
        assert!(look(&mut scene).content.unwrap_err().contains(word), "{damaged}");
    }
}

use std::time::Duration;

use gannet_crds::CacheCluster;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use super::{Certification, SecretWrite, certify};
use crate::certificate::tests::NOW;
use crate::certificate::{Authority, Certificate, bundle_hash};
use crate::cluster::tests::resource;
use crate::material::{CaMaterial, ClientMaterial, NodesMaterial};
use crate::observe::{Found, Observed};
use crate::rotation::Phase;
use crate::tls::Tls;

/// A cluster's Secrets as they come about, without an API server and without pods.
pub(super) struct Scene {
    pub resource: CacheCluster,
    pub observed: Observed,
    pub admin: Authority,
    pub now: i64,
}

impl Scene {
    pub fn new(spec: Value) -> Scene {
        let admin = Authority::make("admin", Duration::from_secs(1 << 28), NOW).unwrap();
        let mut scene = Scene { resource: resource(spec), observed: Observed::default(), admin, now: NOW };
        scene.find_clients();
        scene
    }

    pub fn tls(&self) -> Tls {
        Tls::parse(&self.resource, "cluster.local").unwrap()
    }

    fn find_clients(&mut self) {
        for client in self.tls().clients {
            self.observed.secrets.clients.entry(client.secret_name).or_default();
        }
        if let Some(name) = self.tls().monitoring {
            self.observed.secrets.monitoring.get_or_insert((name, Found::Missing));
        }
    }

    pub fn certify(&self) -> Certification {
        let owner = self.resource.controller_owner_ref(&()).unwrap();
        certify(&self.tls(), &self.observed, &self.admin, &owner, self.now).unwrap()
    }

    pub fn write(&mut self, SecretWrite { secret, .. }: SecretWrite) {
        let (name, names, secrets) = (secret.name_any(), self.tls().names, &mut self.observed.secrets);
        if name == names.ca() {
            secrets.ca = Some(secret);
        } else if name == names.node_tls() {
            secrets.nodes = Some(secret);
        } else if name == names.admin_tls() {
            secrets.admin = Some(secret);
        } else if let Some(found) = secrets.clients.get_mut(&name) {
            *found = Found::Ours(Box::new(secret));
        } else {
            secrets.monitoring = Some((name, Found::Ours(Box::new(secret))));
        }
    }

    /// Until there is nothing to write.
    pub fn settle(&mut self) -> Certification {
        for _ in 0..20 {
            let certification = self.certify();
            if certification.writes.is_empty() {
                return certification;
            }
            certification.writes.into_iter().for_each(|write| self.write(write));
        }
        panic!("it goes on writing");
    }

    /// Without pods nobody can say what clients have: what is older has to end first.
    fn settle_in_the_dark(&mut self) -> Certification {
        for _ in 0..3 {
            self.settle();
            self.now += 24 * 3600;
        }
        self.settle()
    }

    pub fn ca(&self) -> CaMaterial {
        CaMaterial::read(self.observed.secrets.ca.as_ref().unwrap()).unwrap()
    }

    pub fn nodes(&self) -> NodesMaterial {
        NodesMaterial::read(self.observed.secrets.nodes.as_ref().unwrap())
    }

    pub fn client(&self, secret: &str) -> ClientMaterial {
        let Some(Found::Ours(secret)) = self.observed.secrets.clients.get(secret) else { panic!("no {secret}") };
        ClientMaterial::read(secret).unwrap()
    }
}

fn strict() -> Value {
    json!({"tls": {"mode": "Strict", "clients": [{"name": "web", "secretName": "cache-web"}]}})
}

#[test]
fn without_tls_only_the_admin_ports_have_certificates() {
    let mut scene = Scene::new(json!({"replicas": 2}));
    assert!(scene.settle().plan.is_none());
    let secrets = &scene.observed.secrets;
    assert!(secrets.ca.is_none() && secrets.nodes.is_none());
    let admin = NodesMaterial::read(secrets.admin.as_ref().unwrap());
    assert_eq!(admin.pairs.keys().collect::<Vec<_>>(), ["demo-0", "demo-1"]);
    assert!(admin.identities.contains("gannet.dev/operator") && admin.identities.contains("gannet.dev/monitoring"));
    for pair in admin.pairs.values() {
        assert!(pair.certificate.is_issued_by(&scene.admin.certificate));
    }
}

#[test]
fn every_pod_and_every_client_gets_a_pair_of_one_ca_that_nobody_mounts() {
    let mut scene = Scene::new(strict());
    assert_eq!(scene.settle().plan.unwrap().phase, Phase::Current);
    let (ca, nodes, client) = (scene.ca(), scene.nodes(), scene.client("cache-web"));
    assert!(ca.authority(&ca.current.key).is_some() && ca.old.is_empty());
    assert_ne!(ca.current.key, scene.admin.certificate.key, "the two CAs have nothing to do with each other");
    assert_eq!(nodes.pairs.keys().collect::<Vec<_>>(), ["demo-0", "demo-1", "demo-2"]);
    let names = &nodes.pairs["demo-1"].certificate.names;
    for name in ["demo-1.demo-nodes.shop.svc.cluster.local", "demo-1.demo-nodes.shop.svc", "demo.shop.svc"] {
        assert!(names.contains(&format!("DNS:{name}")), "{name} is not in {names:?}");
    }
    let leaves = nodes.pairs.values().map(|pair| &pair.certificate).chain([&client.pair.certificate]);
    assert!(leaves.clone().all(|leaf| leaf.is_issued_by(&ca.current)));
    assert!(leaves.clone().all(|leaf| leaf.not_before == NOW - 300 && leaf.not_after == NOW + 24 * 3600));
    assert_eq!(client.pair.certificate.names, ["URI:spiffe://gannet.dev/shop/demo/web"]);
    assert_eq!(nodes.identities, "URI:spiffe://gannet.dev/shop/demo/web\nURI:spiffe://gannet.dev/operator\n");
    let key = ca.key.unwrap();
    for secret in [scene.observed.secrets.nodes.as_ref().unwrap(), scene.observed.secrets.admin.as_ref().unwrap()] {
        let holds = |ByteString(bytes): &ByteString| String::from_utf8_lossy(bytes).contains(&key);
        assert!(!secret.data.as_ref().unwrap().values().any(holds), "the CA's key is where pods can read it");
    }
}

#[test]
fn what_is_written_belongs_to_the_cluster_and_keeps_what_others_added() {
    let mut scene = Scene::new(strict());
    scene.settle();
    let nodes = scene.observed.secrets.nodes.as_mut().unwrap();
    assert_eq!(nodes.owner_references()[0].uid, scene.resource.metadata.uid.clone().unwrap());
    nodes.annotations_mut().insert("mine".to_owned(), "kept".to_owned());
    nodes.metadata.resource_version = Some("77".to_owned());
    scene.now += 17 * 3600;
    let writes = scene.certify().writes;
    let write = writes.iter().find(|write| write.secret.name_any() == "demo-node-tls").unwrap();
    assert_eq!(write.secret.annotations()["mine"], "kept");
    assert_eq!(write.secret.resource_version().as_deref(), Some("77"), "it is the guard of the write");
}

#[test]
fn a_leaf_is_renewed_in_time_and_not_before() {
    let mut scene = Scene::new(strict());
    scene.settle();
    let first = scene.client("cache-web").pair.certificate;
    scene.now = NOW + 15 * 3600;
    assert!(scene.certify().writes.is_empty(), "renewBefore is 8h, and at most a tenth more");
    scene.now = NOW + 16 * 3600 + 1;
    scene.settle();
    let second = scene.client("cache-web").pair.certificate;
    assert_ne!(second.serial, first.serial);
    assert_eq!(second.not_after, scene.now + 24 * 3600);
    assert!(scene.nodes().pairs.values().all(|pair| pair.certificate.not_after == scene.now + 24 * 3600));
}

#[test]
fn a_ca_is_replaced_in_time_and_the_old_one_is_dropped() {
    let mut scene = Scene::new(strict());
    scene.settle();
    let first = scene.ca().current;
    scene.now = NOW + 480 * 3600 + 1;
    assert_eq!(scene.settle().plan.unwrap().phase, Phase::Distributing);
    assert_eq!(scene.ca().old, std::slice::from_ref(&first));
    assert_eq!(scene.settle_in_the_dark().plan.unwrap().phase, Phase::Current);
    let ca = scene.ca();
    assert!(ca.current != first && ca.old.is_empty());
    assert_eq!(bundle_hash(&scene.nodes().bundle), bundle_hash([&ca.current]));
    assert_eq!(scene.client("cache-web").bundle, [ca.current]);
}

#[test]
fn a_lost_ca_is_replaced_and_the_old_one_stays_trusted_meanwhile() {
    let mut scene = Scene::new(strict());
    scene.settle();
    let first = scene.ca().current;
    scene.observed.secrets.ca = None;
    let write = scene.certify().writes.remove(0);
    scene.write(write);
    let ca = scene.ca();
    let trusted: Vec<&Certificate> = ca.trusted().collect();
    assert_eq!(trusted[1], &first);
    assert!(ca.authority(&first.key).is_none(), "its key is lost");
    assert_eq!(scene.settle_in_the_dark().plan.unwrap().phase, Phase::Current);
}

#[test]
fn a_request_is_taken_up_once() {
    let mut scene = Scene::new(strict());
    scene.settle();
    let (ca, leaf) = (scene.ca().current, scene.client("cache-web").pair.certificate);
    scene.now += 60;
    scene.resource.annotations_mut().insert("gannet.dev/rotate".to_owned(), "leaf@1".to_owned());
    scene.settle();
    assert_eq!(scene.ca().current, ca);
    let renewed = scene.client("cache-web").pair.certificate;
    assert_ne!(renewed.serial, leaf.serial);
    scene.now += 60;
    assert!(scene.certify().writes.is_empty(), "the same request again");
    scene.resource.annotations_mut().insert("gannet.dev/rotate".to_owned(), "ca@1".to_owned());
    scene.settle();
    assert_ne!(scene.ca().current, ca);
    assert_eq!(scene.ca().old, [ca]);
}

#[test]
fn a_secret_of_somebody_else_is_left_alone_and_named() {
    let mut scene = Scene::new(strict());
    scene.observed.secrets.clients.insert("cache-web".to_owned(), Found::Foreign);
    let certification = scene.settle();
    assert_eq!(certification.foreign, ["cache-web"]);
    assert_eq!(scene.nodes().pairs.len(), 3, "the nodes have theirs");
}

#[test]
fn monitoring_gets_a_certificate_of_the_admin_ports() {
    let mut scene = Scene::new(json!({"monitoring": {"clientSecretName": "prometheus"}}));
    scene.settle();
    let Some((name, Found::Ours(secret))) = &scene.observed.secrets.monitoring else { panic!("no Secret") };
    let material = ClientMaterial::read(secret).unwrap();
    assert_eq!((name.as_str(), &material.pair.certificate.names[0][..]), ("prometheus", crate::tls::MONITORING));
    assert!(material.pair.certificate.is_issued_by(&scene.admin.certificate));
}

#[test]
fn a_pair_that_was_damaged_is_made_anew() {
    let mut scene = Scene::new(strict());
    scene.settle();
    let secret: &mut Secret = scene.observed.secrets.nodes.as_mut().unwrap();
    secret.data.as_mut().unwrap().insert("demo-1.crt".to_owned(), ByteString(b"nonsense".to_vec()));
    scene.settle();
    assert_eq!(scene.nodes().pairs.len(), 3);
}

#[test]
fn names_of_the_nodes_own_secrets_are_refused_for_clients() {
    let spec = json!({"tls": {"mode": "Strict", "clients": [{"name": "web", "secretName": "demo-ca"}]}});
    let message = Tls::parse(&resource(spec), "cluster.local").unwrap_err().to_string();
    assert!(message.starts_with("spec.tls.clients") && message.contains("demo-ca"), "{message}");
}

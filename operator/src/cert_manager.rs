//! cert-manager as the issuer: what it is asked for, and what it holds ready. Nothing here asks anybody anything.
//!
//! It keeps a Certificate and a Secret for each holder. No pod mounts these Secrets: a leaf is taken over from one only when its CA is
//! trusted everywhere. When the issuer's CA is renewed, cert-manager leaves its Certificates as they are; they are then renewed
//! on request, as `cmctl renew` does it.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::{Value, json};

use crate::certificate::{Certificate, Pair, Subject, Usage};
use crate::desired::labels;
use crate::material::{self, BUNDLE};
use crate::tls::{self, Names, Source, Tls};

/// What cert-manager holds ready for somebody.
#[derive(Clone, Debug)]
pub struct Offer {
    pub pair: Pair,
    /// The CA that issued it.
    pub ca: Certificate,
}

/// Somebody who is to have a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The name of the Certificate, and of its Secret.
    pub name: String,
    pub subject: Subject,
}

/// What was seen of cert-manager.
#[derive(Debug, Default)]
pub struct Seen {
    /// Its Certificates for this cluster; `None` where the API server knows no such kind.
    pub certificates: Option<Vec<DynamicObject>>,
    /// By the name of the Certificate.
    pub offers: BTreeMap<String, Offer>,
}

/// What cert-manager is to be asked for.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    pub certificates: Vec<DynamicObject>,
    /// Certificates that are to be renewed now.
    pub renewals: Vec<String>,
}

impl Offer {
    /// `None` where there is nothing whole yet, or the CA in it did not itself issue the certificate.
    pub fn read(secret: &Secret) -> Option<Offer> {
        let pair = material::pair(secret, "tls.crt", "tls.key")?;
        let ca = material::certificates(secret, BUNDLE).into_iter().find(|ca| pair.certificate.is_issued_by(ca))?;
        Some(Offer { pair, ca })
    }
}

/// Everybody who is to have a certificate: nodes, clients, and the operator, which looks at the data ports.
pub fn holders(tls: &Tls, members: &[String]) -> Vec<Holder> {
    let Tls { names, clients, .. } = tls;
    let nodes = members.iter().map(|pod| Holder { name: names.issued_node(pod), subject: names.node(pod) });
    let clients = clients
        .iter()
        .map(|client| Holder { name: names.issued_client(&client.name), subject: names.client(&client.name) });
    let operator = Holder { name: names.issued_operator(), subject: tls::outsider(tls::OPERATOR) };
    nodes.chain(clients).chain([operator]).collect()
}

/// cert-manager's kind.
pub fn kind() -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("cert-manager.io", "v1", "Certificate"), "certificates")
}

/// The Certificates of a cluster; none where another issues.
pub fn certificates(tls: &Tls, members: &[String], owner: &OwnerReference) -> Vec<DynamicObject> {
    let Source::CertManager { kind: issuer_kind, name: issuer } = &tls.source else { return Vec::new() };
    let renew_before = Duration::from_secs(tls.lives.leaf_renew_before.unsigned_abs());
    let build = |Holder { name, subject }: Holder| {
        let of_type = |prefix: &str| -> Vec<String> {
            subject.names.iter().filter_map(|name| name.strip_prefix(prefix)).map(str::to_owned).collect()
        };
        let usage = match subject.usage {
            Usage::Server => "server auth",
            Usage::Client => "client auth",
        };
        let mut spec = json!({
            "secretName": name,
            "secretTemplate": {"labels": labels::all(&tls.names.cluster)},
            "duration": config::Duration(tls.life).to_string(),
            "renewBefore": config::Duration(renew_before).to_string(),
            "privateKey": {"algorithm": "ECDSA", "size": 256, "encoding": "PKCS8", "rotationPolicy": "Always"},
            "usages": ["digital signature", usage],
            "issuerRef": {"group": "cert-manager.io", "kind": issuer_kind, "name": issuer},
            "revisionHistoryLimit": 1,
        });
        for (field, names) in [("dnsNames", of_type("DNS:")), ("uris", of_type("URI:"))] {
            if !names.is_empty() {
                spec[field] = json!(names);
            }
        }
        object(&tls.names, &name, owner, spec)
    };
    holders(tls, members).into_iter().map(build).collect()
}

fn object(names: &Names, name: &str, owner: &OwnerReference, spec: Value) -> DynamicObject {
    let mut object = DynamicObject::new(name, &kind()).within(&names.namespace).data(json!({"spec": spec}));
    object.metadata.labels = Some(labels::all(&names.cluster));
    object.metadata.owner_references = Some(vec![owner.clone()]);
    object
}

/// The status that asks for a renewal.
pub fn renewal(now: Timestamp) -> Value {
    json!({
        "apiVersion": "cert-manager.io/v1",
        "kind": "Certificate",
        "status": {"conditions": [{
            "type": "Issuing",
            "status": "True",
            "reason": "RenewedByGannet",
            "message": "the cache-operator asked for another certificate",
            "lastTransitionTime": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        }]},
    })
}

impl Seen {
    /// Whether a certificate is on its way.
    pub fn is_being_issued(&self, name: &str) -> bool {
        self.condition(name, "Issuing").is_some_and(|condition| condition["status"] == "True")
    }

    /// What cert-manager says of a Certificate that is not as it ought to be.
    pub fn trouble(&self, name: &str) -> Option<String> {
        let ready = self.condition(name, "Ready").filter(|condition| condition["status"] != "True")?;
        let issuing = self.condition(name, "Issuing");
        let says = |condition: &Value| condition["message"].as_str().unwrap_or_default().to_owned();
        Some(issuing.map_or_else(|| says(ready), says))
    }

    fn condition(&self, name: &str, kind: &str) -> Option<&Value> {
        let object = self.certificates.iter().flatten().find(|object| object.metadata.name.as_deref() == Some(name))?;
        object.data["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
    }

    /// The newest leaf, whose CA is the one that the issuer issues from now.
    pub fn newest(&self) -> Option<&Offer> {
        self.offers.values().max_by_key(|offer| (offer.pair.certificate.not_before, offer.ca.not_before))
    }
}

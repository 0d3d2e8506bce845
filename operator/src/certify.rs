//! From what was observed to the Secrets that are to be written: gathers the facts, has them decided on, and issues.

use std::collections::BTreeMap;
use std::time::Duration;

use gannet_crds::{TlsClient, TlsMode};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::ResourceExt;

use crate::cert_manager::{self, Asked, Holder, Offer};
use crate::certificate::{Authority, Certificate, CertificateError, Pair, Subject, bundle_hash};
use crate::desired::labels;
use crate::given::Given;
use crate::material::{CaMaterial, ClientMaterial, Content, NodesMaterial};
use crate::observe::{Found, NodePod, Observed};
use crate::rotation::{self, Client, ClientSecret, Facts, MOST_OLD, Nodes, Plan, Pod, Seen, Write};
use crate::tls::{self, Names, Source, Tls};

/// The leaves of the admin ports: nobody outside the cluster sees them, and nothing waits for their renewal.
const ADMIN_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
const ADMIN_RENEW_BEFORE_SECONDS: i64 = 10 * 24 * 3600;

/// How often in the life of a leaf cert-manager is asked whether its CA has a successor, once that is due.
const LOOKS_A_LIFE: i64 = 4;

/// cert-manager is not asked again for a certificate that is younger: what made it ask may not have been seen yet.
const FRESH_SECONDS: i64 = 5;

/// The most pods that a cluster with TLS may have: a Secret holds 1 MiB.
const MOST_PODS: usize = 1000;

/// A Secret to be written in place of the one that was observed, or of none.
#[derive(Clone, Debug)]
pub struct SecretWrite {
    pub secret: Secret,
    pub known: Option<Secret>,
}

/// What is to be written, and why.
#[derive(Debug, Default)]
pub struct Certification {
    pub writes: Vec<SecretWrite>,
    /// Of the data port; `None` where it has no TLS.
    pub plan: Option<Plan>,
    /// Secrets of clients that are somebody else's.
    pub foreign: Vec<String>,
    /// Pods whose mounted Secrets are behind.
    pub stale: Vec<String>,
    /// The CAs changed: everything else follows from what is stored then.
    pub look_again: bool,
    /// What cert-manager is asked for, where it issues.
    pub asked: Asked,
    /// Why nothing can be issued or served, as a reason and in words.
    pub trouble: Option<(&'static str, String)>,
    /// What somebody else's Secret holds, where the nodes serve that.
    pub given: Option<Given>,
}

/// Certificates that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CertifyError {
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error("the CA {0} is to issue and its key is not at hand")]
    NoKey(String),
}

/// Says which Secrets are to be written now.
///
/// # Errors
/// [`CertifyError`] where a certificate cannot be made.
pub fn certify(
    tls: &Tls,
    observed: &Observed,
    admin: &Authority,
    owner: &OwnerReference,
    now: i64,
) -> Result<Certification, CertifyError> {
    let nodes = observed.secrets.nodes.as_ref().map(NodesMaterial::read);
    let clerk = Clerk { tls, observed, owner, now, members: members(tls, observed), nodes };
    let mut certification = Certification::default();
    clerk.certify_admin(admin, &mut certification)?;
    if let (Source::Secret(name), true) = (&tls.source, tls.mode != TlsMode::Disabled) {
        let given = Given::look(name, observed, tls.lives.leaf_renew_before, now);
        certification.stale.clone_from(&given.stale);
        certification.given = Some(given);
    }
    if !observed.has_issued_tls(tls) {
        return Ok(certification);
    }
    certification.asked.certificates = cert_manager::certificates(tls, &clerk.members, owner);
    let ca = observed.secrets.ca.as_ref().and_then(CaMaterial::read);
    let mut plan = rotation::decide(&clerk.facts(ca.as_ref()));
    if ca.as_ref().is_some_and(|ca| ca.current.not_after - tls.lives.ca_renew_before < now) {
        clerk.look_for_a_new_ca(&mut certification);
    }
    if let Some(learned) = clerk.learned(ca.as_ref()) {
        plan.writes.clear();
        clerk.write_ca(&learned, &mut certification);
    }
    for write in &plan.writes {
        clerk.carry_out(write, ca.as_ref(), &mut certification)?;
    }
    for (name, found) in &observed.secrets.clients {
        if matches!(found, Found::Foreign) {
            certification.foreign.push(name.clone());
        }
    }
    certification.trouble = clerk.trouble();
    certification.stale.extend(plan.stale.iter().cloned());
    certification.plan = Some(plan);
    Ok(certification)
}

/// The pods that there are and those that there will be.
pub fn members(tls: &Tls, observed: &Observed) -> Vec<String> {
    let replicas = tls.replicas.max(observed.set.as_ref().map_or(0, |set| set.replicas));
    let mut ordinals: Vec<i32> = (0..replicas).collect();
    let more = observed.pods.iter().map(|pod| pod.ordinal).filter(|ordinal| *ordinal >= replicas);
    ordinals.extend(more);
    ordinals.into_iter().take(MOST_PODS).map(|ordinal| format!("{}-{ordinal}", tls.names.cluster)).collect()
}

/// What the operator's own hands need.
struct Clerk<'a> {
    tls: &'a Tls,
    observed: &'a Observed,
    owner: &'a OwnerReference,
    now: i64,
    members: Vec<String>,
    /// What the nodes' Secret holds.
    nodes: Option<NodesMaterial>,
}

impl Clerk<'_> {
    fn names(&self) -> &Names {
        &self.tls.names
    }

    /// The Secret of the admin ports. Its CA is the operator's own; all that is due is renewed at once.
    fn certify_admin(&self, authority: &Authority, into: &mut Certification) -> Result<(), CertifyError> {
        let secrets = &self.observed.secrets;
        let ca = &authority.certificate;
        let is_due = |pair: &Pair, subject: &Subject| {
            !pair.certificate.is_issued_by(ca)
                || pair.certificate.names != subject.names
                || pair.certificate.not_after - ADMIN_RENEW_BEFORE_SECONDS <= self.now
        };
        let stored = secrets.admin.as_ref().map(NodesMaterial::read).unwrap_or_default();
        let mut wanted = NodesMaterial {
            bundle: vec![ca.clone()],
            identities: tls::allow_list(&[tls::OPERATOR.to_owned(), tls::MONITORING.to_owned()]),
            pairs: BTreeMap::new(),
        };
        let mut changed = stored.bundle != wanted.bundle || stored.identities != wanted.identities;
        for pod in &self.members {
            let subject = self.names().node_admin(pod);
            let pair = match stored.pairs.get(pod).filter(|pair| !is_due(pair, &subject)) {
                Some(pair) => pair.clone(),
                None => {
                    changed = true;
                    authority.issue(&subject, ADMIN_LIFE, self.now)?
                }
            };
            wanted.pairs.insert(pod.clone(), pair);
        }
        if changed || stored.pairs.len() != wanted.pairs.len() {
            into.writes.push(self.write(&self.names().admin_tls(), wanted.content(), secrets.admin.clone()));
        }
        let Some((name, found)) = &secrets.monitoring else { return Ok(()) };
        let known = match found {
            Found::Missing => None,
            Found::Ours(secret) => Some(*secret.clone()),
            Found::Foreign => {
                into.foreign.push(name.clone());
                return Ok(());
            }
        };
        let subject = tls::outsider(tls::MONITORING);
        let stored = known.as_ref().and_then(ClientMaterial::read);
        if stored.is_none_or(|stored| stored.bundle != wanted.bundle || is_due(&stored.pair, &subject)) {
            let pair = authority.issue(&subject, ADMIN_LIFE, self.now)?;
            let content = ClientMaterial::next(None, wanted.bundle, pair).content();
            into.writes.push(self.write(name, content, known));
        }
        Ok(())
    }

    fn identities(&self) -> String {
        let clients = self.tls.clients.iter().map(|client| self.names().identity(&client.name));
        let all = clients.chain(self.tls.identities.iter().cloned()).chain([tls::OPERATOR.to_owned()]);
        tls::allow_list(&all.collect::<Vec<_>>())
    }

    fn by_cert_manager(&self) -> bool {
        matches!(self.tls.source, Source::CertManager { .. })
    }

    /// What is known of the CAs. cert-manager issues from the newest, though nobody here has its key.
    fn trust(&self, ca: &CaMaterial) -> rotation::Trust {
        let mut trust = ca.trust();
        trust.current.has_key |= self.by_cert_manager();
        trust
    }

    fn facts(&self, ca: Option<&CaMaterial>) -> Facts {
        let Tls { mode, lives, clients, request, .. } = self.tls;
        let secrets = &self.observed.secrets;
        let nodes = self.nodes.as_ref();
        let leaves = nodes.iter().flat_map(|nodes| &nodes.pairs).zip(std::iter::repeat(ca));
        let leaves = leaves.filter_map(|((pod, pair), ca)| {
            Some((pod.clone(), ca?.leaf(&pair.certificate, &self.names().node(pod).names)))
        });
        let secret_of = |client: &TlsClient| match secrets.clients.get(&client.secret_name) {
            Some(Found::Foreign) => ClientSecret::Foreign,
            Some(Found::Ours(secret)) => ClientMaterial::read(secret)
                .zip(ca)
                .map_or(ClientSecret::Missing, |(material, ca)| self.client_secret(&material, ca, &client.name)),
            Some(Found::Missing) | None => ClientSecret::Missing,
        };
        Facts {
            now: self.now,
            lives: *lives,
            trust: ca.map(|ca| self.trust(ca)),
            nodes: Nodes {
                bundle: nodes.map(|nodes| bundle_hash(&nodes.bundle)),
                has_identities: nodes.is_some_and(|nodes| nodes.identities == self.identities()),
                leaves: leaves.collect(),
            },
            members: self.members.clone(),
            pods: self.observed.pods.iter().filter_map(pod).collect(),
            clients: clients
                .iter()
                .map(|client| Client {
                    name: client.name.clone(),
                    identity: self.names().identity(&client.name),
                    secret: secret_of(client),
                })
                .collect(),
            has_strangers: *mode == TlsMode::Permissive,
            request: request.clone(),
        }
    }

    fn client_secret(&self, material: &ClientMaterial, ca: &CaMaterial, client: &str) -> ClientSecret {
        ClientSecret::Ours {
            bundle: bundle_hash(&material.bundle),
            leaf: ca.leaf(&material.pair.certificate, &self.names().client(client).names),
            since: material.since,
        }
    }

    fn carry_out(&self, write: &Write, ca: Option<&CaMaterial>, into: &mut Certification) -> Result<(), CertifyError> {
        let secrets = &self.observed.secrets;
        let changed = match (write, ca) {
            (Write::NewCa { handled, .. }, _) if self.by_cert_manager() => {
                // A certificate that is new shows which CA it comes from now.
                self.ask_again(&self.names().issued_operator(), into);
                match ca {
                    Some(ca) if ca.handled != *handled => CaMaterial { handled: handled.clone(), ..ca.clone() },
                    _ => return Ok(()),
                }
            }
            (Write::NewCa { handled, forget }, _) => self.new_ca(ca, handled.clone(), forget)?,
            (Write::ReplaceLeaves { handled }, Some(ca)) => {
                CaMaterial { handled: Some(handled.clone()), leaves_after: self.now, ..ca.clone() }
            }
            (Write::DropOld, Some(ca)) => CaMaterial { old: Vec::new(), old_key: None, ..ca.clone() },
            (Write::Nodes { issue }, Some(ca)) => {
                let content = self.nodes_content(ca, issue, into)?;
                let known = secrets.nodes.as_ref().and_then(|secret| secret.data.as_ref());
                if known.is_none_or(|data| !content.is(data)) {
                    into.writes.push(self.write(&self.names().node_tls(), content, secrets.nodes.clone()));
                }
                return Ok(());
            }
            (Write::Client { name, issuer }, Some(ca)) => {
                let Some(client) = self.tls.clients.iter().find(|client| client.name == *name) else { return Ok(()) };
                let known = match secrets.clients.get(&client.secret_name) {
                    Some(Found::Ours(secret)) => Some(*secret.clone()),
                    _ => None,
                };
                let before = known.as_ref().and_then(ClientMaterial::read);
                let holder = Holder { name: self.names().issued_client(name), subject: self.names().client(name) };
                let held = before.as_ref().map(|before| &before.pair);
                let trusted: Vec<Certificate> = ca.trusted().cloned().collect();
                // What changed may be the bundle alone: a CA was dropped.
                let stays = |before: &&ClientMaterial| {
                    let by = trusted.iter().find(|ca| before.pair.certificate.is_issued_by(ca));
                    before.bundle != trusted && by.is_some_and(|ca| ca.key == *issuer)
                };
                let obtained = self.obtain(ca, issuer, &holder, held, into)?;
                let pair = obtained.or_else(|| before.as_ref().filter(stays).map(|before| before.pair.clone()));
                let Some(pair) = pair else { return Ok(()) };
                let content = ClientMaterial::next(before.as_ref(), trusted, pair).content();
                into.writes.push(self.write(&client.secret_name, content, known));
                return Ok(());
            }
            (_, None) => return Ok(()),
        };
        self.write_ca(&changed, into);
        Ok(())
    }

    fn write_ca(&self, ca: &CaMaterial, into: &mut Certification) {
        into.look_again = true;
        into.writes.push(self.write(&self.names().ca(), ca.content(), self.observed.secrets.ca.clone()));
    }

    /// A pair from the CA that is named: made, or taken over from cert-manager.
    ///
    /// # Returns
    /// `None` where cert-manager has no other yet than the one that is held.
    fn obtain(
        &self,
        ca: &CaMaterial,
        issuer: &str,
        holder: &Holder,
        held: Option<&Pair>,
        into: &mut Certification,
    ) -> Result<Option<Pair>, CertifyError> {
        if let Some(authority) = ca.authority(issuer) {
            return Ok(Some(authority.issue(&holder.subject, self.tls.life, self.now)?));
        }
        if !self.by_cert_manager() {
            return Err(CertifyError::NoKey(issuer.to_owned()));
        }
        let Some(Offer { pair, ca: issued_by }) = self.observed.secrets.issued.offers.get(&holder.name) else {
            return Ok(None);
        };
        let leaf = &pair.certificate;
        if issued_by.key != issuer || leaf.not_before < ca.leaves_after {
            self.ask_again(&holder.name, into);
            return Ok(None);
        }
        let is_other = held.is_none_or(|held| held.certificate != *leaf);
        Ok((is_other && leaf.is_for(&holder.subject.names)).then(|| pair.clone()))
    }

    /// Asks cert-manager for another certificate, but not while one is on its way or was made just now.
    fn ask_again(&self, name: &str, into: &mut Certification) {
        let issued = &self.observed.secrets.issued;
        let is_fresh = |offer: &Offer| offer.pair.certificate.not_before + FRESH_SECONDS > self.now;
        let exists = issued.offers.get(name).is_some_and(|offer| !is_fresh(offer));
        if exists && !issued.is_being_issued(name) {
            into.asked.renewals.push(name.to_owned());
        }
    }

    /// A CA of others is about to end: a certificate that is new shows whether there is another.
    fn look_for_a_new_ca(&self, into: &mut Certification) {
        let name = self.names().issued_operator();
        let offer = self.observed.secrets.issued.offers.get(&name);
        let age = offer.map_or(0, |offer| self.now - offer.pair.certificate.not_before);
        if self.by_cert_manager() && age > self.tls.lives.leaf / LOOKS_A_LIFE {
            self.ask_again(&name, into);
        }
    }

    /// The CAs with the one that cert-manager's issuer has now, where that is not known yet.
    fn learned(&self, ca: Option<&CaMaterial>) -> Option<CaMaterial> {
        let Offer { ca: newest, .. } = self.observed.secrets.issued.newest().filter(|_| self.by_cert_manager())?;
        if ca.is_some_and(|ca| ca.trusted().any(|trusted| trusted.key == newest.key)) {
            return None;
        }
        let is_kept = |certificate: &Certificate| certificate.not_after > self.now && certificate.key != newest.key;
        let old: Vec<_> = self.trusted(ca).into_iter().filter(is_kept).collect();
        (old.len() <= MOST_OLD).then(|| CaMaterial {
            current: newest.clone(),
            key: None,
            old,
            old_key: ca.and_then(|ca| ca.key.clone().or_else(|| ca.old_key.clone())),
            handled: ca.map_or_else(|| self.tls.request.clone(), |ca| ca.handled.clone()),
            leaves_after: ca.map_or(0, |ca| ca.leaves_after),
        })
    }

    /// The CAs that are trusted. Where their Secret is lost, the nodes' says which these are.
    fn trusted(&self, ca: Option<&CaMaterial>) -> Vec<Certificate> {
        match ca {
            Some(ca) => ca.trusted().cloned().collect(),
            None => self.nodes.iter().flat_map(|nodes| &nodes.bundle).cloned().collect(),
        }
    }

    /// Why cert-manager does not issue.
    fn trouble(&self) -> Option<(&'static str, String)> {
        let issued = &self.observed.secrets.issued;
        if !self.by_cert_manager() {
            return None;
        }
        if issued.certificates.is_none() {
            let remedy = "install cert-manager, or take spec.tls.issuer.type Operator";
            return Some(("CertManagerMissing", format!("the API server knows no Certificate: {remedy}")));
        }
        let holders = cert_manager::holders(self.tls, &self.members);
        let waiting = holders.iter().find(|holder| !issued.offers.contains_key(&holder.name))?;
        let said = issued.trouble(&waiting.name).unwrap_or_else(|| "it is not issued yet".to_owned());
        Some(("WaitsForCertManager", format!("Certificate {}: {said}", waiting.name)))
    }

    /// A new CA beside those that are trusted.
    fn new_ca(
        &self,
        ca: Option<&CaMaterial>,
        handled: Option<String>,
        forget: &[String],
    ) -> Result<CaMaterial, CertifyError> {
        let Names { cluster, namespace, .. } = self.names();
        let name = format!("gannet {namespace}/{cluster} {}", self.now);
        let made = Authority::make(&name, self.tls.ca_life, self.now)?;
        let is_kept =
            |certificate: &Certificate| certificate.not_after > self.now && !forget.contains(&certificate.key);
        let issuing = ca.and_then(|ca| ca.trusted().find_map(|certificate| ca.authority(&certificate.key)));
        Ok(CaMaterial {
            key: Some(made.key_pem()),
            current: made.certificate,
            old: self.trusted(ca).into_iter().filter(is_kept).collect(),
            old_key: issuing.map(|authority| authority.key_pem()),
            handled,
            leaves_after: ca.map_or(0, |ca| ca.leaves_after),
        })
    }

    fn nodes_content(
        &self,
        ca: &CaMaterial,
        issue: &BTreeMap<String, String>,
        into: &mut Certification,
    ) -> Result<Content, CertifyError> {
        let mut nodes = self.nodes.clone().unwrap_or_default();
        nodes.bundle = ca.trusted().cloned().collect();
        nodes.identities = self.identities();
        nodes.pairs.retain(|pod, _| self.members.contains(pod));
        for (pod, issuer) in issue {
            let holder = Holder { name: self.names().issued_node(pod), subject: self.names().node(pod) };
            if let Some(pair) = self.obtain(ca, issuer, &holder, nodes.pairs.get(pod), into)? {
                nodes.pairs.insert(pod.clone(), pair);
            }
        }
        Ok(nodes.content())
    }

    /// What others wrote beside it stays.
    fn write(&self, name: &str, content: Content, known: Option<Secret>) -> SecretWrite {
        let mut secret = known.clone().unwrap_or_else(|| Secret {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(self.names().namespace.clone()),
                labels: Some(labels::all(&self.names().cluster)),
                owner_references: Some(vec![self.owner.clone()]),
                ..ObjectMeta::default()
            },
            type_: Some("Opaque".to_owned()),
            ..Secret::default()
        });
        secret.annotations_mut().extend(content.annotations);
        secret.data = Some(content.data.into_iter().map(|(name, bytes)| (name, ByteString(bytes))).collect());
        SecretWrite { secret, known }
    }
}

/// A pod that speaks TLS, as decisions need it.
fn pod(pod: &NodePod) -> Option<Pod> {
    if !pod.mounts.node_tls {
        return None;
    }
    let report = pod.report.as_ref().and_then(|report| report.as_ref().ok());
    let tls = report.and_then(|report| report.tls.as_ref());
    let seen = tls.into_iter().flat_map(|tls| &tls.identities).filter(|identity| identity.name != tls::OPERATOR);
    let seen = seen.flat_map(|identity| {
        identity.serials.iter().map(|serial| Seen {
            identity: identity.name.clone(),
            serial: serial.serial.clone(),
            issuer: serial.issuer.clone(),
            sessions: serial.sessions,
            last: i64::try_from(serial.last_seen).unwrap_or(i64::MAX),
        })
    });
    Some(Pod {
        name: pod.name.clone(),
        counts: !pod.terminating && (pod.ready || tls.is_some()),
        bundle: tls.map(|tls| tls.bundle.clone()),
        served: pod.served.as_ref().and_then(|served| served.as_ref().ok()).cloned(),
        up: report.map_or(0, |report| i64::try_from(report.uptime_seconds).unwrap_or(i64::MAX)),
        seen: seen.collect(),
    })
}

impl Observed {
    /// Whether there are certificates of the data port to be kept: they are declared, or pods have them still.
    pub fn has_issued_tls(&self, tls: &Tls) -> bool {
        let is_declared = tls.mode != TlsMode::Disabled && !matches!(tls.source, Source::Secret(_));
        is_declared || self.pods.iter().any(|pod| pod.mounts.node_tls)
    }
}

#[cfg(test)]
mod issuer_tests;
#[cfg(test)]
mod tests;

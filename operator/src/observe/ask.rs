//! What the pods say themselves: their reports, and the certificates that they serve.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::{StreamExt, stream};
use jiff::Timestamp;

use super::{NodePod, Secrets};
use crate::cert_manager::Offer;
use crate::certificate::{Authority, Certificate, Pair};
use crate::material::CaMaterial;
use crate::node_client::{self, Speaker};
use crate::tls::{self, Names};

/// Pods that are asked at once.
const POLLS_AT_ONCE: usize = 16;

/// The operator's certificates for data ports are in no Secret. They are made anew when half of this has passed.
const LIFE: Duration = Duration::from_secs(3600);
/// Where a CA ends sooner than that, its certificates are used until shortly before.
const LEAST_REST_SECONDS: i64 = 30;
/// CAs whose certificates are kept at once; with more than this many, all are made anew.
const MOST_CAS: usize = 4096;

/// The operator's own certificates for the data ports, by the CA that issued them.
#[derive(Default)]
pub struct Looks(Mutex<BTreeMap<String, Pair>>);

/// How pods are asked.
pub struct Asker<'a> {
    /// How to speak to admin ports.
    pub admin: &'a Speaker,
    pub looks: &'a Looks,
    pub now: Timestamp,
}

/// How to speak to the data ports of a cluster.
#[derive(Default)]
struct DataSpeakers {
    /// By the serial of the CA that vouches for the operator.
    identified: Vec<(String, Speaker)>,
    /// For ports that trust none of these.
    anonymous: Option<Speaker>,
}

impl Asker<'_> {
    /// Asks each pod that has an address for its report, and for its certificate.
    pub(super) async fn ask(&self, pods: Vec<NodePod>, secrets: &Secrets, names: &Names) -> Vec<NodePod> {
        let speakers = &self.data_speakers(secrets, names);
        let asked = pods.into_iter().map(|mut pod| async move {
            let Some(address) = pod.address.clone().filter(|_| !pod.terminating) else { return pod };
            let host = names.pod_host(&pod.name);
            let by_tls = pod.mounts.admin_tls.then_some((self.admin, host.as_str()));
            let report = node_client::status(&address, by_tls).await.map_err(|error| error.to_string());
            let tls = report.as_ref().ok().and_then(|report| report.tls.as_ref());
            if pod.mounts.given_tls {
                // Nobody has given the operator a certificate: what the node says has to do.
                pod.served = tls.map(|tls| Ok(tls.certificate.serial.clone()));
            } else if let Some(speaker) = tls.and_then(|tls| speakers.for_port(&tls.cas)) {
                let served = node_client::served(&address, speaker, &host).await;
                pod.served = Some(served.map_err(|error| error.to_string()));
            }
            pod.report = Some(report);
            pod
        });
        let mut pods: Vec<NodePod> = stream::iter(asked).buffer_unordered(POLLS_AT_ONCE).collect().await;
        pods.sort_by_key(|pod| pod.ordinal);
        pods
    }

    /// Where a certificate cannot be made, the pods are asked without one, and say so.
    fn data_speakers(&self, secrets: &Secrets, names: &Names) -> DataSpeakers {
        let mut speakers = DataSpeakers::default();
        let Some(ca) = secrets.ca.as_ref().and_then(CaMaterial::read) else { return speakers };
        let trusted: Vec<&Certificate> = ca.trusted().collect();
        speakers.anonymous = Speaker::new(trusted.iter().copied(), None).ok();
        for authority in trusted.iter().filter_map(|certificate| ca.authority(&certificate.key)) {
            let pair = self.looks.pair(&authority, self.now.as_second());
            let speaker = pair.and_then(|pair| Speaker::new(trusted.iter().copied(), Some(&pair)).ok());
            speakers.identified.extend(speaker.map(|speaker| (authority.certificate.serial.clone(), speaker)));
        }
        if let Some(Offer { pair, ca }) = secrets.issued.offers.get(&names.issued_operator()) {
            let speaker = Speaker::new(trusted.iter().copied(), Some(pair)).ok();
            speakers.identified.extend(speaker.map(|speaker| (ca.serial.clone(), speaker)));
        }
        speakers
    }
}

impl DataSpeakers {
    /// The one whom a node that trusts these CAs lets in.
    fn for_port(&self, cas: &[String]) -> Option<&Speaker> {
        let known = self.identified.iter().find(|(serial, _)| cas.contains(serial)).map(|(_, speaker)| speaker);
        known.or(self.anonymous.as_ref())
    }
}

impl Looks {
    /// The operator's certificate of this CA. It stays the same from look to look: nodes keep count of the serials that they see.
    fn pair(&self, authority: &Authority, now: i64) -> Option<Pair> {
        let mut pairs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = &authority.certificate.key;
        let half = i64::try_from(LIFE.as_secs() / 2).unwrap_or(0);
        let is_fresh = |pair: &&Pair| {
            let leaf = &pair.certificate;
            now < leaf.made_at() + half && now + LEAST_REST_SECONDS < leaf.not_after
        };
        if let Some(pair) = pairs.get(key).filter(is_fresh) {
            return Some(pair.clone());
        }
        let pair = authority.issue(&tls::outsider(tls::OPERATOR), LIFE, now).ok()?;
        if pairs.len() >= MOST_CAS {
            pairs.clear();
        }
        pairs.insert(key.clone(), pair.clone());
        Some(pair)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{LIFE, Looks};
    use crate::certificate::Authority;
    use crate::certificate::tests::NOW;

    #[test]
    fn the_operator_shows_one_certificate_for_a_while() {
        let authority = Authority::make("one", Duration::from_secs(1 << 20), NOW).unwrap();
        let looks = Looks::default();
        let serial = |now| looks.pair(&authority, now).unwrap().certificate.serial;
        let first = serial(NOW);
        assert_eq!(serial(NOW + 60), first);
        let later = serial(NOW + i64::try_from(LIFE.as_secs() / 2).unwrap());
        assert_ne!(later, first);
        let other = Authority::make("two", Duration::from_secs(1 << 20), NOW).unwrap();
        assert_ne!(looks.pair(&other, NOW).unwrap().certificate.serial, first);
    }
}

//! What the Secrets hold: read from them, and written back. Nothing here asks anybody anything.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;

use crate::certificate::{Authority, Certificate, Pair, bundle_hash, bundle_pem};
use crate::rotation::{Ca, Leaf, Trust};

const HANDLED_ANNOTATION: &str = "gannet.dev/rotated";
const SINCE_ANNOTATION: &str = "gannet.dev/trusted-since";
const LEAVES_AFTER_ANNOTATION: &str = "gannet.dev/leaves-after";

pub const BUNDLE: &str = "ca.crt";
const IDENTITIES: &str = "identities";

/// What the Secret of a CA holds. The old CAs are those that are still trusted.
#[derive(Clone, Debug)]
pub struct CaMaterial {
    pub current: Certificate,
    /// `None` where it is lost.
    pub key: Option<String>,
    pub old: Vec<Certificate>,
    /// The key of one of the old ones.
    pub old_key: Option<String>,
    pub handled: Option<String>,
    pub leaves_after: i64,
}

/// What a Secret for nodes holds.
#[derive(Clone, Debug, Default)]
pub struct NodesMaterial {
    pub bundle: Vec<Certificate>,
    pub identities: String,
    /// By pod.
    pub pairs: BTreeMap<String, Pair>,
}

/// What a client's Secret holds.
#[derive(Clone, Debug)]
pub struct ClientMaterial {
    pub bundle: Vec<Certificate>,
    pub pair: Pair,
    /// When it first had a leaf of this issuer beside this bundle, in unix time.
    pub since: i64,
}

/// A Secret's content: data and annotations.
#[derive(Clone, Debug, Default)]
pub struct Content {
    pub data: BTreeMap<String, Vec<u8>>,
    pub annotations: BTreeMap<String, String>,
}

impl Content {
    /// Whether a Secret has just this.
    pub fn is(&self, data: &BTreeMap<String, ByteString>) -> bool {
        self.data.len() == data.len()
            && self.data.iter().all(|(name, bytes)| data.get(name).is_some_and(|found| found.0 == *bytes))
    }
}

impl CaMaterial {
    /// `None` where the certificate cannot be read, as if there were no Secret.
    pub fn read(secret: &Secret) -> Option<CaMaterial> {
        let current = certificates(secret, BUNDLE).into_iter().next()?;
        let note = |name: &str| secret.annotations().get(name).cloned();
        Some(CaMaterial {
            current,
            key: text(secret, "ca.key"),
            old: certificates(secret, "old.crt"),
            old_key: text(secret, "old.key"),
            handled: note(HANDLED_ANNOTATION),
            leaves_after: note(LEAVES_AFTER_ANNOTATION).and_then(|text| text.parse().ok()).unwrap_or(0),
        })
    }

    pub fn content(&self) -> Content {
        let CaMaterial { current, key, old, old_key, handled, leaves_after } = self;
        let mut content = Content::default();
        let mut put = |name: &str, text: Option<String>| {
            content.data.extend(text.map(|text| (name.to_owned(), text.into_bytes())));
        };
        put(BUNDLE, Some(current.pem()));
        put("ca.key", key.clone());
        put("old.crt", (!old.is_empty()).then(|| bundle_pem(old)));
        put("old.key", old_key.clone().filter(|_| !old.is_empty()));
        if let Some(handled) = handled {
            content.annotations.insert(HANDLED_ANNOTATION.to_owned(), handled.clone());
        }
        if *leaves_after > 0 {
            content.annotations.insert(LEAVES_AFTER_ANNOTATION.to_owned(), leaves_after.to_string());
        }
        content
    }

    /// Everything that is trusted, the newest first.
    pub fn trusted(&self) -> impl Iterator<Item = &Certificate> {
        std::iter::once(&self.current).chain(&self.old)
    }

    /// The trusted CA of this id, with its key.
    pub fn authority(&self, id: &str) -> Option<Authority> {
        let certificate = self.trusted().find(|certificate| certificate.key == id)?;
        let keys = [&self.key, &self.old_key].into_iter().flatten();
        keys.filter_map(|key| Authority::of(certificate, key)).next()
    }

    fn has_keys(&self) -> bool {
        self.key.is_some() || self.old_key.is_some()
    }

    /// As decisions need it.
    pub fn trust(&self) -> Trust {
        let ca = |certificate: &Certificate| Ca {
            id: certificate.key.clone(),
            made_at: certificate.made_at(),
            not_after: certificate.not_after,
            has_key: self.authority(&certificate.key).is_some(),
        };
        Trust {
            current: ca(&self.current),
            old: self.old.iter().map(ca).collect(),
            bundle: bundle_hash(self.trusted()),
            handled: self.handled.clone(),
            leaves_after: self.leaves_after,
        }
    }

    /// A leaf as decisions need it; `names` are those that it ought to have.
    pub fn leaf(&self, certificate: &Certificate, names: &[String]) -> Leaf {
        let issuer = self.trusted().find(|ca| certificate.is_issued_by(ca));
        Leaf {
            serial: certificate.serial.clone(),
            issuer: issuer.map(|ca| ca.key.clone()),
            // Others do not issue for the past.
            made_at: if self.has_keys() { certificate.made_at() } else { certificate.not_before },
            not_after: certificate.not_after,
            names_fit: certificate.is_for(names),
        }
    }
}

impl NodesMaterial {
    /// What cannot be read is left out, and so made anew.
    pub fn read(secret: &Secret) -> NodesMaterial {
        let names = secret.data.iter().flat_map(BTreeMap::keys).filter_map(|key| key.strip_suffix(".key"));
        let pair = |name: &str| pair(secret, &format!("{name}.crt"), &format!("{name}.key"));
        NodesMaterial {
            bundle: certificates(secret, BUNDLE),
            identities: text(secret, IDENTITIES).unwrap_or_default(),
            pairs: names.filter_map(|name| Some((name.to_owned(), pair(name)?))).collect(),
        }
    }

    pub fn content(&self) -> Content {
        let NodesMaterial { bundle, identities, pairs } = self;
        let mut content = Content::default();
        content.data.insert(BUNDLE.to_owned(), bundle_pem(bundle).into_bytes());
        content.data.insert(IDENTITIES.to_owned(), identities.clone().into_bytes());
        for (name, pair) in pairs {
            content.data.insert(format!("{name}.crt"), pair.certificate.pem().into_bytes());
            content.data.insert(format!("{name}.key"), pair.key.clone().into_bytes());
        }
        content
    }
}

impl ClientMaterial {
    /// `None` where its pair cannot be read.
    pub fn read(secret: &Secret) -> Option<ClientMaterial> {
        let pair = pair(secret, "tls.crt", "tls.key")?;
        let since = secret.annotations().get(SINCE_ANNOTATION).and_then(|text| text.parse().ok());
        // Without the note: since the leaf that is there.
        let since = since.unwrap_or_else(|| pair.certificate.made_at());
        Some(ClientMaterial { bundle: certificates(secret, BUNDLE), pair, since })
    }

    /// The next content after this one, or after none.
    pub fn next(before: Option<&ClientMaterial>, bundle: Vec<Certificate>, pair: Pair) -> ClientMaterial {
        let same = before
            .filter(|before| before.bundle == bundle && before.pair.certificate.has_the_issuer_of(&pair.certificate));
        let since = same.map_or_else(|| pair.certificate.made_at(), |before| before.since);
        ClientMaterial { bundle, pair, since }
    }

    pub fn content(&self) -> Content {
        let ClientMaterial { bundle, pair, since } = self;
        let texts = [(BUNDLE, bundle_pem(bundle)), ("tls.crt", pair.certificate.pem()), ("tls.key", pair.key.clone())];
        let data = texts.into_iter().map(|(name, text)| (name.to_owned(), text.into_bytes())).collect();
        Content { data, annotations: BTreeMap::from([(SINCE_ANNOTATION.to_owned(), since.to_string())]) }
    }
}

fn text(secret: &Secret, name: &str) -> Option<String> {
    let ByteString(bytes) = secret.data.as_ref()?.get(name)?;
    String::from_utf8(bytes.clone()).ok()
}

/// Those that can be read.
pub fn certificates(secret: &Secret, name: &str) -> Vec<Certificate> {
    let Some(text) = text(secret, name) else { return Vec::new() };
    Certificate::read_pem(text.as_bytes(), name).unwrap_or_default()
}

/// `None` where either cannot be read, or one is not the other's.
pub fn pair(secret: &Secret, certificate: &str, key: &str) -> Option<Pair> {
    let certificate = certificates(secret, certificate).into_iter().next()?;
    let key = text(secret, key)?;
    Authority::of(&certificate, &key)?;
    Some(Pair { certificate, key })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use k8s_openapi::ByteString;
    use k8s_openapi::api::core::v1::Secret;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::{CaMaterial, ClientMaterial, Content, NodesMaterial};
    use crate::certificate::tests::NOW;
    use crate::certificate::{Authority, Pair, bundle_pem};
    use crate::tls::Names;

    const HOUR: Duration = Duration::from_secs(3600);

    fn stored(content: Content) -> Secret {
        let Content { data, annotations } = content;
        let metadata = ObjectMeta { annotations: Some(annotations), ..ObjectMeta::default() };
        let data = data.into_iter().map(|(name, bytes)| (name, ByteString(bytes))).collect();
        Secret { metadata, data: Some(data), ..Secret::default() }
    }

    fn names() -> Names {
        Names { cluster: "demo".to_owned(), namespace: "shop".to_owned(), domain: "cluster.local".to_owned() }
    }

    fn ca(number: u32) -> Authority {
        Authority::make(&format!("CA {number}"), 10 * HOUR, NOW).unwrap()
    }

    fn material(current: &Authority, old: &Authority) -> CaMaterial {
        CaMaterial {
            current: current.certificate.clone(),
            key: Some(current.key_pem()),
            old: vec![old.certificate.clone()],
            old_key: Some(old.key_pem()),
            handled: Some("ca@1".to_owned()),
            leaves_after: 77,
        }
    }

    #[test]
    fn a_ca_is_read_back_with_its_keys() {
        let (current, old) = (ca(1), ca(2));
        let read = CaMaterial::read(&stored(material(&current, &old).content())).unwrap();
        let trust = read.trust();
        assert!(trust.current.has_key && trust.old[0].has_key);
        assert_eq!((trust.handled.as_deref(), trust.leaves_after), (Some("ca@1"), 77));
        assert_eq!(read.authority(&old.certificate.key).unwrap().certificate, old.certificate);
        let leaf = old.issue(&names().node("demo-0"), HOUR, NOW).unwrap().certificate;
        let fact = read.leaf(&leaf, &names().node("demo-0").names);
        assert_eq!((fact.issuer, fact.names_fit), (Some(old.certificate.key.clone()), true));
        assert!(!read.leaf(&leaf, &names().node("demo-1").names).names_fit);
    }

    #[test]
    fn a_key_that_is_gone_or_wrong_is_lost() {
        let (current, old) = (ca(1), ca(2));
        let without = CaMaterial { key: None, ..material(&current, &old) };
        let wrong = CaMaterial { key: Some(ca(3).key_pem()), ..material(&current, &old) };
        for lost in [without, wrong] {
            let trust = CaMaterial::read(&stored(lost.content())).unwrap().trust();
            assert!(!trust.current.has_key && trust.old[0].has_key);
        }
        assert!(CaMaterial::read(&Secret::default()).is_none());
    }

    #[test]
    fn nodes_and_clients_are_read_back_and_damage_is_left_out() {
        let ca = ca(1);
        let pairs: BTreeMap<String, Pair> =
            ["demo-0", "demo-1"].map(|pod| (pod.to_owned(), ca.issue(&names().node(pod), HOUR, NOW).unwrap())).into();
        let pair = pairs["demo-0"].clone();
        let bundle = vec![ca.certificate.clone()];
        let nodes = NodesMaterial { bundle: bundle.clone(), identities: "URI:a\n".to_owned(), pairs };
        let mut secret = stored(nodes.content());
        let read = NodesMaterial::read(&secret);
        assert_eq!(read.pairs.keys().collect::<Vec<_>>(), ["demo-0", "demo-1"]);
        assert_eq!((read.identities.as_str(), bundle_pem(&read.bundle)), ("URI:a\n", ca.certificate.pem()));
        let data = secret.data.as_mut().unwrap();
        let other = data["demo-0.key"].clone();
        data.insert("demo-1.key".to_owned(), other);
        assert_eq!(NodesMaterial::read(&secret).pairs.len(), 1, "a key of another certificate is none");

        let first = ClientMaterial::next(None, bundle.clone(), pair.clone());
        let read = ClientMaterial::read(&stored(first.content())).unwrap();
        assert_eq!((read.pair.certificate.clone(), read.since), (pair.certificate, NOW));
        let renewed = ca.issue(&names().client("web"), HOUR, NOW + 60).unwrap();
        assert_eq!(ClientMaterial::next(Some(&read), bundle, renewed.clone()).since, NOW);
        assert_eq!(ClientMaterial::next(Some(&read), Vec::new(), renewed).since, NOW + 60);
        assert!(ClientMaterial::read(&secret).is_none());
    }
}

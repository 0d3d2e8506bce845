//! Certificates: what they say, and how they are made.
//!
//! All keys are P-256; a serial is a hash of its key, so no two are alike. Time is an argument; the keys' randomness comes from
//! the operating system.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

/// Clocks differ: a certificate is good from so many seconds before it was made.
pub const BACKDATED_SECONDS: i64 = 300;

/// A certificate, as far as decisions need it. Equal means the same certificate, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    der: Vec<u8>,
    /// In hexadecimal digits, as nodes report it.
    pub serial: String,
    /// Unix time.
    pub not_before: i64,
    pub not_after: i64,
    /// [`config::key_digits`] of its own public key: what a CA is told by.
    pub key: String,
    /// Whom it names, as `DNS:…` and `URI:…`.
    pub names: Vec<String>,
    common_name: String,
    key_id: Vec<u8>,
    issuer_key_id: Vec<u8>,
    raw_public_key: Vec<u8>,
}

/// A certificate or key that could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("{what} is no certificate: {reason}")]
    Read { what: String, reason: String },
    #[error("a certificate for {name} cannot be made: {source}")]
    Make {
        name: String,
        #[source]
        source: rcgen::Error,
    },
}

/// A certificate with its key, in PEM.
#[derive(Clone, Debug)]
pub struct Pair {
    pub certificate: Certificate,
    pub key: String,
}

/// Whom a leaf is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    pub common_name: String,
    /// As `DNS:…` and `URI:…`.
    pub names: Vec<String>,
    pub usage: Usage,
}

/// What a leaf is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    Server,
    Client,
}

/// A CA that can issue.
pub struct Authority {
    pub certificate: Certificate,
    key: KeyPair,
}

impl Certificate {
    /// Reads the DER of a certificate; `what` names it in the error.
    ///
    /// # Errors
    /// [`CertificateError::Read`].
    pub fn read(der: &[u8], what: &str) -> Result<Certificate, CertificateError> {
        let wrong = |reason: String| CertificateError::Read { what: what.to_owned(), reason };
        let (_, parsed) = X509Certificate::from_der(der).map_err(|error| wrong(error.to_string()))?;
        let mut certificate = Certificate {
            der: der.to_vec(),
            serial: config::serial_digits(parsed.raw_serial()),
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
            key: config::key_digits(parsed.public_key().raw),
            names: Vec::new(),
            common_name: String::new(),
            key_id: Vec::new(),
            issuer_key_id: Vec::new(),
            raw_public_key: parsed.public_key().subject_public_key.data.to_vec(),
        };
        let common_name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        certificate.common_name = common_name.unwrap_or_default().to_owned();
        for extension in parsed.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => certificate.key_id = id.0.to_vec(),
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    certificate.issuer_key_id = id.key_identifier.as_ref().map_or_else(Vec::new, |id| id.0.to_vec());
                }
                ParsedExtension::SubjectAlternativeName(alternative) => {
                    certificate.names = alternative.general_names.iter().filter_map(name).collect();
                }
                _ => {}
            }
        }
        Ok(certificate)
    }

    /// Reads all certificates of a PEM text.
    ///
    /// # Errors
    /// [`CertificateError::Read`] for the first that is none.
    pub fn read_pem(text: &[u8], what: &str) -> Result<Vec<Certificate>, CertificateError> {
        let mut certificates = Vec::new();
        for der in CertificateDer::pem_slice_iter(text) {
            let der =
                der.map_err(|error| CertificateError::Read { what: what.to_owned(), reason: error.to_string() })?;
            certificates.push(Certificate::read(&der, what)?);
        }
        Ok(certificates)
    }

    pub fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from(self.der.clone())
    }

    pub fn pem(&self) -> String {
        let lines = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
        pem::encode_config(&pem::Pem::new("CERTIFICATE", self.der.as_slice()), lines)
    }

    /// Whether the key of `authority` signed it, as far as the two say so themselves; clients and nodes check the
    /// signature.
    pub fn is_issued_by(&self, authority: &Certificate) -> bool {
        !self.issuer_key_id.is_empty() && self.issuer_key_id == authority.key_id
    }

    pub fn has_the_issuer_of(&self, other: &Certificate) -> bool {
        self.issuer_key_id == other.issuer_key_id
    }

    /// Whether it names exactly these, in whatever order.
    pub fn is_for(&self, names: &[String]) -> bool {
        self.names.len() == names.len() && names.iter().all(|name| self.names.contains(name))
    }

    /// When it was made.
    pub fn made_at(&self) -> i64 {
        self.not_before.saturating_add(BACKDATED_SECONDS)
    }
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(format!("DNS:{}", name.to_ascii_lowercase())),
        GeneralName::URI(name) => Some(format!("URI:{name}")),
        _ => None,
    }
}

/// The text of a bundle.
pub fn bundle_pem<'a>(certificates: impl IntoIterator<Item = &'a Certificate>) -> String {
    certificates.into_iter().map(Certificate::pem).collect()
}

/// What nodes call a bundle.
pub fn bundle_hash<'a>(certificates: impl IntoIterator<Item = &'a Certificate>) -> String {
    config::bundle_hash(certificates.into_iter().map(|certificate| certificate.der.as_slice()))
}

impl Authority {
    /// Makes a CA. Each has a name of its own, so that nobody takes one for another.
    ///
    /// # Errors
    /// [`CertificateError::Make`].
    pub fn make(common_name: &str, life: Duration, now: i64) -> Result<Authority, CertificateError> {
        let failed = |source| CertificateError::Make { name: common_name.to_owned(), source };
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = params(common_name, now, now.saturating_add(seconds(life)));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let made = params.self_signed(&key).map_err(failed)?;
        Ok(Authority { certificate: Certificate::read(made.der(), common_name)?, key })
    }

    /// A CA whose key is at hand; `None` where the key cannot be read or is another's.
    pub fn of(certificate: &Certificate, key: &str) -> Option<Authority> {
        let key = KeyPair::from_pem(key).ok()?;
        (key.der_bytes() == certificate.raw_public_key).then(|| Authority { certificate: certificate.clone(), key })
    }

    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// Issues a leaf, which never outlives the CA.
    ///
    /// # Errors
    /// [`CertificateError::Make`].
    pub fn issue(&self, subject: &Subject, life: Duration, now: i64) -> Result<Pair, CertificateError> {
        let failed = |source| CertificateError::Make { name: subject.common_name.clone(), source };
        let key = KeyPair::generate().map_err(failed)?;
        let until = now.saturating_add(seconds(life)).min(self.certificate.not_after);
        let mut params = params(&subject.common_name, now.max(self.certificate.not_before + BACKDATED_SECONDS), until);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match subject.usage {
            Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        for name in &subject.names {
            params.subject_alt_names.push(alternative(name).map_err(failed)?);
        }
        let issuer = Issuer::new(self::params(&self.certificate.common_name, now, now), &self.key);
        let made = params.signed_by(&key, &issuer).map_err(failed)?;
        Ok(Pair { certificate: Certificate::read(made.der(), &subject.common_name)?, key: key.serialize_pem() })
    }
}

/// The longest common name that X.509 allows.
const LONGEST_COMMON_NAME: usize = 64;

fn params(common_name: &str, now: i64, until: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let short: String = common_name.chars().take(LONGEST_COMMON_NAME).collect();
    params.distinguished_name.push(DnType::CommonName, short);
    let time = |unix: i64| date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(unix).unwrap_or(0));
    params.not_before = time(now.saturating_sub(BACKDATED_SECONDS));
    params.not_after = time(until);
    params
}

fn alternative(name: &str) -> Result<SanType, rcgen::Error> {
    match name.split_once(':') {
        Some(("URI", uri)) => Ok(SanType::URI(uri.to_owned().try_into()?)),
        Some(("DNS", host)) => Ok(SanType::DnsName(host.to_owned().try_into()?)),
        _ => Ok(SanType::DnsName(name.to_owned().try_into()?)),
    }
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::{Authority, Certificate, Subject, Usage, bundle_hash, bundle_pem};

    pub(crate) const NOW: i64 = 1_800_000_000;
    const HOUR: Duration = Duration::from_secs(3600);

    fn subject() -> Subject {
        let names = vec!["DNS:demo-0.demo-nodes.shop.svc".to_owned(), "URI:spiffe://gannet.dev/web".to_owned()];
        Subject { common_name: "demo-0".to_owned(), names, usage: Usage::Server }
    }

    #[test]
    fn a_leaf_says_what_was_asked_for() {
        let authority = Authority::make("test CA", 10 * HOUR, NOW).unwrap();
        let pair = authority.issue(&subject(), HOUR, NOW).unwrap();
        let leaf = &pair.certificate;
        assert_eq!(leaf.names, subject().names);
        assert_eq!((leaf.not_before, leaf.not_after, leaf.made_at()), (NOW - 300, NOW + 3600, NOW));
        assert!(leaf.is_issued_by(&authority.certificate));
        assert!(!authority.certificate.is_issued_by(leaf));
        assert!(pair.key.contains("PRIVATE KEY"));
        assert_ne!(authority.issue(&subject(), HOUR, NOW).unwrap().certificate.serial, leaf.serial);
    }

    #[test]
    fn no_leaf_outlives_its_ca() {
        let authority = Authority::make("test CA", HOUR, NOW).unwrap();
        let leaf = authority.issue(&subject(), 5 * HOUR, NOW + 1800).unwrap().certificate;
        assert_eq!(leaf.not_after, authority.certificate.not_after);
    }

    #[test]
    fn a_stored_ca_goes_on_issuing_what_verifies() {
        let made = Authority::make("test CA", 10 * HOUR, NOW).unwrap();
        let stored = Certificate::read_pem(made.certificate.pem().as_bytes(), "ca.crt").unwrap().remove(0);
        assert_eq!(stored, made.certificate);
        let read = Authority::of(&stored, &made.key_pem()).unwrap();
        let pair = read.issue(&subject(), HOUR, NOW).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(stored.der()).unwrap();
        let roots = std::sync::Arc::new(roots);
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(roots, provider).build().unwrap();
        let name = "demo-0.demo-nodes.shop.svc".try_into().unwrap();
        let now = rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(NOW.unsigned_abs()));
        use rustls::client::danger::ServerCertVerifier;
        verifier.verify_server_cert(&pair.certificate.der(), &[], &name, &[], now).unwrap();
    }

    #[test]
    fn another_key_is_no_key() {
        let [one, two] = [1, 2].map(|_| Authority::make("test CA", HOUR, NOW).unwrap());
        assert!(Authority::of(&one.certificate, &two.key_pem()).is_none());
        assert!(Authority::of(&one.certificate, "-----BEGIN PRIVATE KEY-----\n").is_none());
    }

    #[test]
    fn a_bundle_is_read_back_and_called_by_its_content() {
        let [one, two] = ["one", "two"].map(|name| Authority::make(name, HOUR, NOW).unwrap().certificate);
        let read = Certificate::read_pem(bundle_pem([&one, &two]).as_bytes(), "ca.crt").unwrap();
        assert_eq!(read, [one.clone(), two.clone()]);
        assert_eq!(bundle_hash([&one, &two]), bundle_hash([&two, &one]));
        assert!(Certificate::read_pem(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "x").is_err());
    }
}

//! Whom the node lets in: the CAs that it trusts to vouch for clients, and the list of names.

use std::collections::BTreeSet;
use std::sync::Arc;

use config::TlsMode;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};

use crate::tls::certificate::Facts;

/// The CAs and the list of one moment.
#[derive(Debug)]
pub struct Trust {
    authorities: Vec<Authority>,
    /// None: every client that a CA vouches for.
    allowed: Option<BTreeSet<String>>,
    verifier: Arc<dyn ClientCertVerifier>,
    provider: Arc<CryptoProvider>,
}

/// A CA that is trusted.
#[derive(Debug)]
struct Authority {
    certificate: CertificateDer<'static>,
    facts: Facts,
    alone: Arc<RootCertStore>,
}

impl Trust {
    /// Trust in these CAs, for the clients that are on the list if there is one.
    ///
    /// # Errors
    /// In words, where one of the certificates is none of a CA.
    pub fn new(
        certificates: Vec<CertificateDer<'static>>,
        allowed: Option<BTreeSet<String>>,
        mode: TlsMode,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Trust, String> {
        let mut all = RootCertStore::empty();
        let mut authorities = Vec::with_capacity(certificates.len());
        for (index, certificate) in certificates.into_iter().enumerate() {
            let wrong = |reason: &dyn std::fmt::Display| format!("its certificate {}: {reason}", index + 1);
            let facts = Facts::of(&certificate).map_err(|reason| wrong(&reason))?;
            let mut alone = RootCertStore::empty();
            alone.add(certificate.clone()).map_err(|reason| wrong(&reason))?;
            all.roots.extend(alone.roots.iter().cloned());
            authorities.push(Authority { certificate, facts, alone: Arc::new(alone) });
        }
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(all), Arc::clone(provider));
        let builder = if mode == TlsMode::Permissive { builder.allow_unauthenticated() } else { builder };
        let verifier = builder.build().map_err(|reason| reason.to_string())?;
        Ok(Trust { authorities, allowed, verifier, provider: Arc::clone(provider) })
    }

    /// What the bundle is called.
    #[must_use]
    pub fn bundle(&self) -> String {
        config::bundle_hash(self.authorities.iter().map(|authority| authority.certificate.as_ref()))
    }

    /// The serials of the CAs.
    #[must_use]
    pub fn serials(&self) -> Vec<String> {
        self.authorities.iter().map(|authority| authority.facts.serial.clone()).collect()
    }

    /// Whether everyone whom this lets in is let in by `other` too.
    #[must_use]
    pub fn is_within(&self, other: &Trust) -> bool {
        let has = |authority: &Authority| other.authorities.iter().any(|one| one.certificate == authority.certificate);
        let names = match (&self.allowed, &other.allowed) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(names), Some(others)) => names.is_subset(others),
        };
        names && self.authorities.iter().all(has)
    }

    /// The name by which a client with this certificate is known: the first that is on the list, or, without one, its
    /// first. None where it is not let in.
    #[must_use]
    pub fn name_of(&self, facts: &Facts) -> Option<String> {
        match &self.allowed {
            None => Some(facts.names.first().cloned().unwrap_or_else(|| format!("serial:{}", facts.serial))),
            Some(allowed) => facts.names.iter().find(|name| allowed.contains(*name)).cloned(),
        }
    }

    /// Whether a client with this chain is let in now.
    ///
    /// # Errors
    /// Why it is not.
    pub fn admits(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        let (leaf, intermediates) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
        self.verify_client_cert(leaf, intermediates, now).map(drop)
    }

    /// Which CA vouches for a client's chain that was verified, as [`Facts::key`].
    #[must_use]
    pub fn vouches_for_client(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Option<String> {
        let (leaf, intermediates) = chain.split_first()?;
        self.issuer(chain, |authority| {
            let roots = Arc::clone(&authority.alone);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&self.provider)).build();
            verifier.is_ok_and(|verifier| verifier.verify_client_cert(leaf, intermediates, now).is_ok())
        })
    }

    /// Which CA vouches for the node's own chain, as [`Facts::key`].
    ///
    /// # Errors
    /// Why none does.
    pub fn vouches_for_server(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<String, Error> {
        let (leaf, intermediates) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
        let leaf = ParsedCertificate::try_from(leaf)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        let mut failure = Error::InvalidCertificate(CertificateError::UnknownIssuer);
        for authority in &self.authorities {
            match verify_server_cert_signed_by_trust_anchor(&leaf, &authority.alone, intermediates, now, algorithms) {
                Ok(()) => return Ok(authority.facts.key.clone()),
                Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {}
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// The CA is told by its name where only one has it; signatures are looked at again only where several do, as two
    /// generations of a CA may.
    fn issuer(&self, chain: &[CertificateDer<'_>], vouches: impl Fn(&Authority) -> bool) -> Option<String> {
        let issuer = Facts::of(chain.last()?).ok()?.issuer;
        let mut named: Vec<&Authority> =
            self.authorities.iter().filter(|authority| authority.facts.subject == issuer).collect();
        if named.is_empty() {
            named = self.authorities.iter().collect();
        }
        let found = match named.as_slice() {
            [only] => Some(*only),
            several => several.iter().copied().find(|authority| vouches(authority)),
        };
        found.map(|authority| authority.facts.key.clone())
    }
}

/// The verification of rustls, and after it the list: a client that is not on it is refused within the handshake, by an
/// alert that says so.
impl ClientCertVerifier for Trust {
    fn offer_client_auth(&self) -> bool {
        self.verifier.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.verifier.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.verifier.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.verifier.verify_client_cert(leaf, intermediates, now)?;
        if self.allowed.is_some() {
            let facts = Facts::of(leaf).map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
            if self.name_of(&facts).is_none() {
                return Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure));
            }
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

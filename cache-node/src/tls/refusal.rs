//! Why handshakes fail, in words for metrics.

use std::io::ErrorKind;

use rustls::{CertificateError, Error, PeerIncompatible};

use crate::metrics::Counter;
use crate::tls::stream::HandshakeError;

/// Why a handshake failed. Whatever a client does is one of these, so that it cannot make metrics grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Refusal {
    /// The client speaks in the clear.
    Plaintext,
    /// It speaks only versions of TLS that are too old.
    Version,
    /// No cipher, curve or signature in common.
    Incompatible,
    /// It showed no certificate.
    NoCertificate,
    /// No CA of the bundle vouches for its certificate.
    UnknownCa,
    /// Its certificate has expired.
    Expired,
    /// Its certificate is not valid yet.
    NotYetValid,
    /// Its name is not on the list.
    NotAllowed,
    /// Its certificate is of no use for another reason.
    BadCertificate,
    /// It refused the node's certificate, or something else of its own accord.
    ByClient,
    /// It sent something that is not TLS as it should be.
    Protocol,
    /// It took too long.
    Timeout,
    /// It closed, or the network did.
    Closed,
}

/// Every refusal with its label.
pub const REFUSALS: [(Refusal, &str); 13] = [
    (Refusal::Plaintext, "plaintext"),
    (Refusal::Version, "version"),
    (Refusal::Incompatible, "incompatible"),
    (Refusal::NoCertificate, "no_certificate"),
    (Refusal::UnknownCa, "unknown_ca"),
    (Refusal::Expired, "expired"),
    (Refusal::NotYetValid, "not_yet_valid"),
    (Refusal::NotAllowed, "not_allowed"),
    (Refusal::BadCertificate, "bad_certificate"),
    (Refusal::ByClient, "by_client"),
    (Refusal::Protocol, "protocol"),
    (Refusal::Timeout, "timeout"),
    (Refusal::Closed, "closed"),
];

/// Handshakes that failed, by reason; written by the listener.
#[derive(Debug, Default)]
pub struct Refusals([Counter; REFUSALS.len()]);

impl Refusals {
    /// Counts one.
    pub fn count(&self, refusal: Refusal) {
        self.0[refusal as usize].add(1);
    }

    /// Each reason with its count.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
        REFUSALS.iter().map(|(refusal, label)| (*label, self.0[*refusal as usize].get()))
    }
}

impl Refusals {
    /// All but those whose client merely went away: whoever tries whether a port is open does that.
    #[must_use]
    pub fn of_clients_that_stayed(&self) -> u64 {
        let went_away = self.0[Refusal::Closed as usize].get();
        self.each().map(|(_, count)| count).sum::<u64>().saturating_sub(went_away)
    }
}

impl Refusal {
    /// What this failure is counted as.
    #[must_use]
    pub fn of(error: &HandshakeError) -> Refusal {
        match error {
            HandshakeError::Plaintext => Refusal::Plaintext,
            HandshakeError::Version(_) => Refusal::Version,
            HandshakeError::Connection(error) if error.kind() == ErrorKind::TimedOut => Refusal::Timeout,
            HandshakeError::Connection(_) => Refusal::Closed,
            HandshakeError::Tls(error) => Refusal::of_tls(error),
        }
    }

    fn of_tls(error: &Error) -> Refusal {
        match error {
            Error::NoCertificatesPresented => Refusal::NoCertificate,
            Error::InvalidCertificate(error) => match error {
                // The latter where a CA of the bundle has the name of the one that signed it, and another key.
                CertificateError::UnknownIssuer | CertificateError::BadSignature => Refusal::UnknownCa,
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => Refusal::Expired,
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Refusal::NotYetValid,
                CertificateError::ApplicationVerificationFailure => Refusal::NotAllowed,
                _ => Refusal::BadCertificate,
            },
            Error::PeerIncompatible(error) => match error {
                PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled
                | PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::ServerDoesNotSupportTls12Or13 => Refusal::Version,
                _ => Refusal::Incompatible,
            },
            Error::AlertReceived(_) => Refusal::ByClient,
            _ => Refusal::Protocol,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::REFUSALS;

    #[test]
    fn every_refusal_stands_at_its_place() {
        for (index, (refusal, label)) in REFUSALS.iter().enumerate() {
            assert_eq!(*refusal as usize, index, "{label}");
        }
    }
}

//! What a certificate says of itself.

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// What the node needs to know of a certificate beyond what its verification looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The serial in hexadecimal digits.
    pub serial: String,
    /// The first second of its life, in unix time.
    pub not_before: u64,
    /// The last second of its life.
    pub not_after: u64,
    /// Whom it names, as in the list of those who are let in: `DNS:web.shop.svc`, `URI:spiffe://…`.
    pub names: Vec<String>,
    /// The distinguished name of its subject, in DER.
    pub subject: Vec<u8>,
    /// The distinguished name of its issuer, in DER.
    pub issuer: Vec<u8>,
    /// The SHA-256 of its public key, in hexadecimal digits.
    pub key: String,
}

impl Facts {
    /// Reads a certificate's DER.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn of(der: &[u8]) -> Result<Facts, String> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
        if !rest.is_empty() {
            return Err(format!("{} bytes follow it", rest.len()));
        }
        let seconds = |timestamp: i64| u64::try_from(timestamp).unwrap_or(0);
        let alternative = certificate.subject_alternative_name().map_err(|error| error.to_string())?;
        let alternative = alternative.map(|extension| &extension.value.general_names);
        let name = |name: &GeneralName<'_>| match name {
            GeneralName::DNSName(name) => Some(format!("DNS:{}", name.to_ascii_lowercase())),
            GeneralName::URI(name) => Some(format!("URI:{name}")),
            _ => None,
        };
        Ok(Facts {
            serial: config::serial_digits(certificate.raw_serial()),
            not_before: seconds(certificate.validity().not_before.timestamp()),
            not_after: seconds(certificate.validity().not_after.timestamp()),
            names: alternative.into_iter().flatten().filter_map(name).collect(),
            subject: certificate.subject().as_raw().to_vec(),
            issuer: certificate.issuer().as_raw().to_vec(),
            key: config::key_digits(certificate.public_key().raw),
        })
    }
}

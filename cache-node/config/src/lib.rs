//! What the cache-node is told and what it reports, as plain data.
//!
//! The operator writes [`Config`] with the type that the node reads it with, and reads [`Status`] with the type that
//! the node writes it with, so neither can drift from the other. Nothing here opens a socket or knows of Kubernetes.

mod budget;
mod file;
mod latency;
mod status;
mod storage;
mod tls;
mod units;

pub use budget::{Budget, BudgetError};
pub use file::{Config, ConfigError, Eviction, NEWEST_VERSION, OLDEST_VERSION, Protocol, StorageThread};
pub use latency::{LATENCY_BUCKETS, LATENCY_OCTAVES, Latencies, latency_bucket};
pub use status::{
    ClientIdentity, ClientSerial, Connections, Items, Memory, Phase, Recovery, Requests, ServedCertificate, Status,
    StorageReport, TlsStatus,
};
pub use storage::{Durability, Medium, OnMismatch, Storage};
pub use tls::{AdminTls, Tls, TlsMode};
pub use units::{Bytes, Duration, UnitError};

use sha2::{Digest, Sha256};

/// The first 16 hexadecimal digits of the SHA-256 of `content`.
///
/// It names ConfigMaps and tells in `/status` which configuration a node runs: 64 bits are ample to tell apart the few
/// configurations that one cluster ever has, and short enough to read aloud.
#[must_use]
pub fn content_hash(content: &[u8]) -> String {
    hexadecimal(&Sha256::digest(content)[..8])
}

/// A certificate's serial number as it is written everywhere: in lower-case hexadecimal digits, without the zero bytes that
/// DER puts before a number.
#[must_use]
pub fn serial_digits(serial: &[u8]) -> String {
    let start = serial.iter().position(|byte| *byte != 0).unwrap_or(serial.len());
    hexadecimal(&serial[start..])
}

/// What tells one CA from another, however they are called: the SHA-256 of its public key's DER (`SubjectPublicKeyInfo`).
#[must_use]
pub fn key_digits(public_key: &[u8]) -> String {
    hexadecimal(&Sha256::digest(public_key))
}

/// What a trust bundle is called: [`content_hash`] of the DER of its CAs, whatever their order.
#[must_use]
pub fn bundle_hash<'a>(certificates: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut sorted: Vec<&[u8]> = certificates.into_iter().collect();
    sorted.sort_unstable();
    content_hash(&sorted.concat())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The data port of a cache-node in a cluster: memcached's own.
pub const DATA_PORT: u16 = 11211;
/// The health port of a cache-node in a cluster: `/livez` and `/readyz`, plain HTTP for the kubelet.
pub const HEALTH_PORT: u16 = 8080;
/// The admin port of a cache-node in a cluster: `/metrics`, `/status` and `POST /drain`.
pub const ADMIN_PORT: u16 = 9180;

#[cfg(test)]
mod tests {
    use super::{bundle_hash, key_digits, serial_digits};

    #[test]
    fn serials_are_numbers() {
        assert_eq!(serial_digits(&[0, 0x9f, 1]), "9f01");
        assert_eq!(serial_digits(&[0x0f, 0]), "0f00");
        assert_eq!(serial_digits(&[0]), "");
    }

    #[test]
    fn a_bundle_is_named_whatever_its_order() {
        let (one, two) = (&b"one"[..], &b"two"[..]);
        assert_eq!(bundle_hash([one, two]), bundle_hash([two, one]));
        assert_ne!(bundle_hash([one, two]), bundle_hash([one]));
        assert_eq!(bundle_hash([one]).len(), 16);
        assert_eq!(key_digits(one).len(), 64);
    }
}

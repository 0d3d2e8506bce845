//! What the cache-node is told and what it reports, as plain data.
//!
//! The operator writes [`Config`] with the type that the node reads it with, and reads [`Status`] with the type that
//! the node writes it with, so neither can drift from the other. Nothing here opens a socket or knows of Kubernetes.

mod budget;
mod file;
mod latency;
mod status;
mod units;

pub use budget::{Budget, BudgetError};
pub use file::{Config, ConfigError, Eviction, NEWEST_VERSION, OLDEST_VERSION, Protocol, StorageThread};
pub use latency::{LATENCY_BUCKETS, LATENCY_OCTAVES, Latencies, latency_bucket};
pub use status::{Connections, Items, Memory, Phase, Requests, Status};
pub use units::{Bytes, Duration, UnitError};

use sha2::{Digest, Sha256};

/// The first 16 hexadecimal digits of the SHA-256 of `content`.
///
/// It names ConfigMaps and tells in `/status` which configuration a node runs: 64 bits are ample to tell apart the few
/// configurations that one cluster ever has, and short enough to read aloud.
#[must_use]
pub fn content_hash(content: &[u8]) -> String {
    Sha256::digest(content)[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The data port of a cache-node in a cluster: memcached's own.
pub const DATA_PORT: u16 = 11211;
/// The health port of a cache-node in a cluster: `/livez` and `/readyz`, plain HTTP for the kubelet.
pub const HEALTH_PORT: u16 = 8080;
/// The admin port of a cache-node in a cluster: `/metrics`, `/status` and `POST /drain`.
pub const ADMIN_PORT: u16 = 9180;

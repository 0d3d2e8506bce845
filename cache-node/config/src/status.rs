//! What a node says of itself at `/status` on its admin port.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Durability, Latencies, Medium, TlsMode};

/// A node's report. Fields are only ever added; a reader ignores those that it does not know, so that operator and
/// node may be of different versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The version of the program, such as `0.1.0`.
    pub version: String,
    /// The hash of the configuration file that the node runs ([`crate::Config::hash_of`]); empty without a file.
    pub configuration_hash: String,
    /// Where the node is in its life.
    pub phase: Phase,
    /// Seconds since the node began to serve.
    pub uptime_seconds: u64,
    /// Items.
    pub items: Items,
    /// Requests since the start.
    pub requests: Requests,
    /// Memory in bytes.
    pub memory: Memory,
    /// Connections.
    pub connections: Connections,
    /// Where items outlive the process; left out where they do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<StorageReport>,
    /// How long requests took since the start, by command; a command that was not asked for yet is left out.
    #[serde(default)]
    pub latencies: BTreeMap<String, Latencies>,
    /// TLS on the data port; none without it, and of nodes that are older than it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsStatus>,
}

/// A volume, and what has come back from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StorageReport {
    /// Segments that are in the index again, while they are brought back.
    pub segments_done: u32,
    /// Segments that are to be.
    pub segments_found: u32,
    /// The version of the format in which the volume is written: what a release must read to take it over warm.
    #[serde(default)]
    pub volume_format: u64,
    /// Flushes since the start, after each of which what was there outlives the machine; with the durability `Always` one for
    /// every group of requests.
    #[serde(default)]
    pub flushes: u64,
    /// How the volume was opened; left out while it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Recovery>,
}

/// How a volume was opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recovery {
    /// What the volume lies on.
    pub medium: Medium,
    /// What items outlive, which is less than was asked for where the medium cannot do it.
    pub durability: Durability,
    /// Why the cache began empty; left out where it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cold: Option<String>,
    /// Whether the node before ended cleanly, and its index could be taken over as it was.
    pub from_snapshot: bool,
    /// Items that came back.
    pub items: u64,
    /// Records that were not whole, and were left out.
    pub damaged: u64,
    /// How long it took.
    pub milliseconds: u64,
    /// Seconds by which the system's clock was behind the last tick of the node before; time went on from there.
    pub clock_behind_seconds: u64,
}

/// Where a node is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Not ready yet.
    Starting,
    /// Ready: serves requests.
    Serving,
    /// Not ready any more: finishes what it has, on its way out.
    Draining,
}

/// Items in the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Items {
    /// Live items now.
    pub live: u64,
    /// Items dropped to make room, since the start.
    pub evicted: u64,
    /// Items dropped because their time came, since the start.
    pub expired: u64,
}

/// Requests since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Requests {
    /// Keys asked for that were there.
    pub hits: u64,
    /// Keys asked for that were not there.
    pub misses: u64,
    /// Requests of every kind.
    pub total: u64,
    /// Requests answered with `SERVER_ERROR`.
    pub server_errors: u64,
    /// Bytes received from clients.
    #[serde(default)]
    pub received_bytes: u64,
    /// Bytes sent to clients.
    #[serde(default)]
    pub sent_bytes: u64,
}

/// Memory in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// The budget for items and index.
    pub cache_limit: u64,
    /// What items and index take of it now.
    pub cache_used: u64,
    /// The budget for connection buffers.
    pub buffers_limit: u64,
    /// What connection buffers take of it now.
    pub buffers_used: u64,
    /// The process's resident memory.
    pub resident: u64,
    /// The memory of its own that the process holds beside items and index: code, buffers, connections, and what leaks.
    #[serde(default)]
    pub anonymous: u64,
}

/// Connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Connections {
    /// Open now.
    pub open: u64,
    /// The most that may be open.
    pub limit: u64,
    /// Refused at the limit, since the start.
    pub refused: u64,
    /// TLS handshakes that failed, since the start; without those whose client merely went away.
    #[serde(default)]
    pub failed_handshakes: u64,
}

/// TLS as it is served now, whatever the files say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsStatus {
    /// Whether clients must show a certificate.
    pub mode: TlsMode,
    /// The node's own certificate.
    pub certificate: ServedCertificate,
    /// [`crate::content_hash`] of the DER of all CAs that vouch for clients, sorted and put together.
    pub bundle: String,
    /// The serial of each of these CAs, in hexadecimal digits.
    pub cas: Vec<String>,
    /// Times that other files were taken over, since the start.
    pub reloads: u64,
    /// Times that files could not be taken over, by reason, since the start.
    pub failures: BTreeMap<String, u64>,
    /// What is wrong with the files that are there now; none where they are what is served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
    /// Clients by the name in their certificates.
    pub identities: Vec<ClientIdentity>,
}

/// The certificate that a node shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServedCertificate {
    /// Its serial, in hexadecimal digits.
    pub serial: String,
    /// When it expires, in seconds of unix time.
    pub not_after: u64,
    /// The SHA-256 of the public key (`SubjectPublicKeyInfo`) of the CA that vouches for it, in hexadecimal digits.
    pub issuer: String,
}

/// A client, as its certificates name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientIdentity {
    /// The name as in the list of those who are let in, such as `DNS:web.shop.svc`.
    pub name: String,
    /// Each certificate that it was seen with.
    pub serials: Vec<ClientSerial>,
}

/// One certificate of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientSerial {
    /// Its serial, in hexadecimal digits.
    pub serial: String,
    /// As [`ServedCertificate::issuer`].
    pub issuer: String,
    /// Connections that stand on it now.
    pub sessions: u64,
    /// When a connection with it was last begun or ended, in seconds of unix time; now, while there is one.
    pub last_seen: u64,
}

//! What a node says of itself at `/status` on its admin port.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Latencies;

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
    /// How long requests took since the start, by command; a command that was not asked for yet is left out.
    #[serde(default)]
    pub latencies: BTreeMap<String, Latencies>,
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
}

//! The configuration file.

use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use crate::{AdminTls, Bytes, Duration, Storage, Tls, content_hash};

/// The newest file version that this build reads, and the one that it writes where an older one cannot say the same.
pub const NEWEST_VERSION: u32 = 1;
/// The oldest file version that this build reads: two before its own, once there are as many.
pub const OLDEST_VERSION: u32 = if NEWEST_VERSION > 3 { NEWEST_VERSION - 2 } else { 1 };

/// What items need at least, with their index or without.
const SMALLEST_MEMORY: u64 = 8 << 20;
/// Flushes that follow each other faster would do nothing else.
const SHORTEST_FLUSH: std::time::Duration = std::time::Duration::from_millis(100);
const LONGEST_FLUSH: std::time::Duration = std::time::Duration::from_secs(3600);
/// 64 workers and the storage thread.
const MOST_PINNED: usize = 65;
/// What the system's set of processors has room for.
const LAST_PROCESSOR: u16 = 1023;

/// Everything that a cache-node can be told. A field that is missing takes the default given here; an unknown field is
/// an error, because a misspelt limit that is silently ignored is found out at 3 a.m.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// The version of this file's format, [`OLDEST_VERSION`] to [`NEWEST_VERSION`].
    pub version: u32,
    /// Where clients connect. Default: `127.0.0.1:11211`.
    #[serde(skip_serializing_if = "is_default::listen")]
    pub listen: SocketAddr,
    /// What clients speak. Default: `Memcached`.
    #[serde(skip_serializing_if = "is_default::protocol")]
    pub protocol: Protocol,
    /// Where `/livez` and `/readyz` are served. Default: nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<SocketAddr>,
    /// Where `/metrics`, `/status` and `POST /drain` are served. Default: nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<SocketAddr>,
    /// Bytes for items and their index together. Default: `64Mi`.
    #[serde(skip_serializing_if = "is_default::memory")]
    pub memory: Bytes,
    /// Bytes for the buffers of all connections together; when they are used up, connections wait. Default: `16Mi`.
    #[serde(skip_serializing_if = "is_default::buffer_memory")]
    pub buffer_memory: Bytes,
    /// The number of worker threads, 1 to 64. Default: 1.
    #[serde(skip_serializing_if = "is_default::workers")]
    pub workers: u16,
    /// Whether the cache has a thread of its own. Default: `Auto`.
    #[serde(skip_serializing_if = "is_default::storage_thread")]
    pub storage_thread: StorageThread,
    /// Connections at once, 1 to 1,000,000; one more is answered with an error line and closed. Default: 1024.
    #[serde(skip_serializing_if = "is_default::max_connections")]
    pub max_connections: u32,
    /// How long a connection may stay without a request before it is closed; `0s` is for ever. Default: `0s`.
    #[serde(skip_serializing_if = "is_default::idle_timeout")]
    pub idle_timeout: Duration,
    /// How long new connections are still accepted after the node has said that it is not ready. Default: `5s`.
    #[serde(skip_serializing_if = "is_default::drain_delay")]
    pub drain_delay: Duration,
    /// What makes room when memory is full. Default: `Merge`.
    #[serde(skip_serializing_if = "is_default::eviction")]
    pub eviction: Eviction,
    /// The largest value in bytes, 1 KiB to 128 MiB. Default: `1Mi`.
    #[serde(skip_serializing_if = "is_default::max_item_size")]
    pub max_item_size: Bytes,
    /// Whether clients may use the commands that change the node: `verbosity`, `cache_memlimit` and `shutdown`. Default:
    /// `false`.
    #[serde(skip_serializing_if = "is_default::admin_commands")]
    pub admin_commands: bool,
    /// A file with the list of the cluster's nodes, which `config get cluster` answers with; it is read again when it
    /// changes. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discovery: Option<PathBuf>,
    /// Commands that take longer from the arrival of their last byte until their reply is ready are logged and counted;
    /// `0s`: none are. Default: `0s`.
    #[serde(skip_serializing_if = "is_default::slow_command")]
    pub slow_command: Duration,
    /// The processors, by number, that the workers and then the storage thread are bound to, one each and from the start
    /// again where there are fewer; none: the system chooses. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pinning: Vec<u16>,
    /// Where items are kept so that they outlive the process. Default: nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<Storage>,
    /// TLS on the data port. Default: none, clients speak in the clear.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Mutual TLS on the admin port. Default: plain HTTP, and drains from the loopback address only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_tls: Option<AdminTls>,
}

/// What clients speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// The memcached text protocol.
    #[default]
    Memcached,
    /// `PING` is answered with `PONG`, and everything else with `ERROR`: what a node costs that stores nothing.
    Ping,
}

/// What makes room when memory is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Eviction {
    /// Nothing: a write is refused with an out-of-memory error.
    None,
    /// A segment taken at random.
    Random,
    /// The oldest segment.
    Fifo,
    /// The segment whose items expire first.
    ClosestToExpiration,
    /// The segment with the fewest live bytes.
    Utilization,
    /// Segcache's merge: neighbouring segments become one that keeps the items read most often for their size.
    #[default]
    Merge,
    /// Three first-in-first-out queues with quick demotion.
    S3Fifo,
}

/// Whether the cache has a thread of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StorageThread {
    /// Only where there is more than one worker; a single worker is faster with the cache to itself.
    #[default]
    Auto,
    /// With one worker too.
    Always,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            version: NEWEST_VERSION,
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), crate::DATA_PORT),
            protocol: Protocol::Memcached,
            health: None,
            admin: None,
            memory: Bytes(64 << 20),
            buffer_memory: Bytes(16 << 20),
            workers: 1,
            storage_thread: StorageThread::Auto,
            max_connections: 1024,
            idle_timeout: Duration(std::time::Duration::ZERO),
            drain_delay: Duration(std::time::Duration::from_secs(5)),
            eviction: Eviction::Merge,
            max_item_size: Bytes(1 << 20),
            admin_commands: false,
            discovery: None,
            slow_command: Duration(std::time::Duration::ZERO),
            pinning: Vec::new(),
            storage: None,
            tls: None,
            admin_tls: None,
        }
    }
}

/// What is at its default is left out of the file, so that a node two versions older, which does not know the newest
/// fields, still reads it.
mod is_default {
    macro_rules! compare {
        ($($field:ident: $type:ty),* $(,)?) => {
            $(pub fn $field(value: &$type) -> bool { *value == super::Config::default().$field })*
        };
    }
    compare!(
        listen: std::net::SocketAddr,
        protocol: super::Protocol,
        memory: super::Bytes,
        buffer_memory: super::Bytes,
        workers: u16,
        storage_thread: super::StorageThread,
        max_connections: u32,
        idle_timeout: super::Duration,
        drain_delay: super::Duration,
        eviction: super::Eviction,
        max_item_size: super::Bytes,
        admin_commands: bool,
        slow_command: super::Duration,
    );
}

/// A configuration that a node will not start with. The text names the field, and the line where there is one.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not YAML, an unknown field, or a value of the wrong kind; says line and column.
    #[error("{0}")]
    Syntax(#[from] serde_yaml::Error),
    /// A file of a version that this build does not read.
    #[error(
        "line {line}: version: {found} is not one that this build reads ({OLDEST_VERSION} to {NEWEST_VERSION}); use a cache-node image that matches the file"
    )]
    Version {
        /// The version in the file.
        found: u32,
        /// The line that says so.
        line: usize,
    },
    /// A value outside its range.
    #[error("line {line}: {field}: {value} is out of range: {range}")]
    Range {
        /// The field's name.
        field: &'static str,
        /// Its value as written.
        value: String,
        /// What would be allowed, in words.
        range: &'static str,
        /// The line that says so; 0 where the value was not in a file.
        line: usize,
    },
    /// The configuration could not be written as YAML.
    #[error("the configuration cannot be written as YAML: {0}")]
    Write(serde_yaml::Error),
}

impl Config {
    /// Reads and checks a file's text.
    ///
    /// # Errors
    /// [`ConfigError`] for the first thing that is wrong, with its line.
    pub fn parse(text: &str) -> Result<Config, ConfigError> {
        // The version is looked at alone first: a newer file is refused as newer, not for the fields that make it so.
        #[derive(Deserialize)]
        struct Versioned {
            #[serde(default = "newest")]
            version: u32,
        }
        let newest_if_empty = if text.trim().is_empty() { "{}" } else { text };
        if let Ok(Versioned { version }) = serde_yaml::from_str::<Versioned>(newest_if_empty)
            && !(OLDEST_VERSION..=NEWEST_VERSION).contains(&version)
        {
            return Err(ConfigError::Version { found: version, line: line_of(text, "version") });
        }
        let config: Config = serde_yaml::from_str(newest_if_empty)?;
        config.check_with(|field| line_of(text, field))?;
        Ok(config)
    }

    /// Checks ranges of a configuration that did not come from a file (or was changed by arguments since).
    ///
    /// # Errors
    /// [`ConfigError::Range`] with line 0.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.check_with(|_| 0)
    }

    fn check_with(&self, line: impl Fn(&str) -> usize) -> Result<(), ConfigError> {
        let fail = |field, value: String, range| Err(ConfigError::Range { field, value, range, line: line(field) });
        if !(1..=64).contains(&self.workers) {
            return fail("workers", self.workers.to_string(), "1 to 64");
        }
        if !(1..=1_000_000).contains(&self.max_connections) {
            return fail("maxConnections", self.max_connections.to_string(), "1 to 1000000");
        }
        if !(1 << 10..=128 << 20).contains(&self.max_item_size.0) {
            return fail("maxItemSize", self.max_item_size.to_string(), "1Ki to 128Mi");
        }
        if self.memory.0 < SMALLEST_MEMORY || self.memory.0 > 8 << 40 {
            return fail("memory", self.memory.to_string(), "8Mi to 8Ti");
        }
        if self.memory.0 < 8 * self.max_item_size.0 {
            return fail("memory", self.memory.to_string(), "at least eight times maxItemSize");
        }
        if self.buffer_memory.0 < 2 << 20 {
            return fail("bufferMemory", self.buffer_memory.to_string(), "at least 2Mi");
        }
        if let Some(capacity) = self.storage.as_ref().and_then(|storage| storage.capacity)
            && capacity.0 < SMALLEST_MEMORY.max(8 * self.max_item_size.0)
        {
            return fail("storage", capacity.to_string(), "a capacity of at least 8Mi and eight times maxItemSize");
        }
        if let Some(interval) = self.storage.as_ref().map(|storage| storage.flush_interval)
            && !(SHORTEST_FLUSH..=LONGEST_FLUSH).contains(&interval.0)
        {
            return fail("storage", interval.to_string(), "a flushInterval of 100ms to 1h");
        }
        if self.pinning.len() > MOST_PINNED {
            return fail("pinning", format!("a list of {}", self.pinning.len()), "at most 65 processors");
        }
        if let Some(processor) = self.pinning.iter().find(|processor| **processor > LAST_PROCESSOR) {
            return fail("pinning", processor.to_string(), "processors 0 to 1023");
        }
        if self.buffer_memory.0 < 2 * self.max_item_size.0 {
            return fail("bufferMemory", self.buffer_memory.to_string(), "at least twice maxItemSize");
        }
        if let Some(tls) = &self.tls {
            tls.check(line("tls"))?;
        }
        if let Some(tls) = &self.admin_tls {
            tls.check(line("adminTls"))?;
        }
        Ok(())
    }

    /// The file's text, without what is at its default, in the oldest version that can say it.
    ///
    /// # Errors
    /// [`ConfigError::Write`] where the serializer fails, which no value of this type is known to cause.
    pub fn write(&self) -> Result<String, ConfigError> {
        serde_yaml::to_string(self).map_err(ConfigError::Write)
    }

    /// What `/status` calls this configuration: the hash of the file's text.
    #[must_use]
    pub fn hash_of(text: &str) -> String {
        content_hash(text.as_bytes())
    }
}

fn newest() -> u32 {
    NEWEST_VERSION
}

/// The 1-based line on which a top-level field stands, 0 if it does not.
fn line_of(text: &str, field: &str) -> usize {
    text.lines()
        .position(|line| line.strip_prefix(field).is_some_and(|rest| rest.trim_start().starts_with(':')))
        .map_or(0, |index| index + 1)
}

#[cfg(test)]
mod tests {
    use super::{Config, ConfigError, Eviction, NEWEST_VERSION};
    use crate::Bytes;

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(Config::parse("").unwrap(), Config::default());
        assert_eq!(Config::parse("version: 1\n").unwrap(), Config::default());
    }

    #[test]
    fn what_is_written_is_read_back() {
        let config = Config { workers: 4, eviction: Eviction::Fifo, memory: Bytes(1 << 30), ..Config::default() };
        assert_eq!(Config::parse(&config.write().unwrap()).unwrap(), config);
    }

    #[test]
    fn defaults_are_left_out_so_that_older_nodes_read_the_file() {
        assert_eq!(Config::default().write().unwrap(), "version: 1\n");
    }

    #[test]
    fn unknown_and_wrong_fields_name_field_and_line() {
        for (text, field, line) in [
            ("version: 1\nworker: 2\n", "worker", "line 2"),
            ("workers: many\n", "workers", "line 1"),
            ("version: 1\n\nmemory: 64MB\n", "64MB", "line 3"),
            ("version: 1\nworkers: 0\n", "workers: 0", "line 2"),
            ("eviction: Lru\n", "Lru", "line 1"),
            ("protocol: Pong\n", "Pong", "line 1"),
            ("listen: nowhere\n", "listen", "line 1"),
            ("memory: 8Mi\nmaxItemSize: 4Mi\n", "memory: 8Mi", "line 1"),
            ("maxItemSize: 2Mi\nbufferMemory: 3Mi\n", "bufferMemory: 3Mi", "line 2"),
            ("workers: 1\npinning: [0, 5000]\n", "pinning: 5000", "line 2"),
            ("slowCommand: 10\n", "\"10\"", "line 1"),
        ] {
            let message = Config::parse(text).unwrap_err().to_string();
            assert!(message.contains(field) && message.contains(line), "{text:?}: {message}");
        }
    }

    #[test]
    fn a_newer_version_is_refused_as_such() {
        let text = format!("version: {}\nfromTheFuture: true\n", NEWEST_VERSION + 1);
        assert!(
            matches!(Config::parse(&text), Err(ConfigError::Version { found, line: 1 }) if found == NEWEST_VERSION + 1)
        );
    }
}

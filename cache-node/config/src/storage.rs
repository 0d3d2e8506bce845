//! Where a node keeps its items so that they outlive it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Bytes, Duration};

/// Where items are kept so that they outlive the process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Storage {
    /// The directory of the volume's files. One node at a time may use it.
    pub directory: PathBuf,
    /// What the directory must lie on, or the node does not start. Default: anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub medium: Option<Medium>,
    /// Bytes for the items; `memory` is then for their index alone. Default: both share `memory`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Bytes>,
    /// A volume that was without a node for longer is not used: meanwhile its keys were written and deleted elsewhere.
    /// `0s`: it is used, however long it was away. Default: `0s`.
    #[serde(default = "no_limit", skip_serializing_if = "is_no_limit")]
    pub max_absence: Duration,
    /// Whether items outlive the machine too. Default: `None`.
    #[serde(default)]
    pub durability: Durability,
    /// The version of the format that the volume is written in, for an older release to read it. Default: the newest that
    /// the node writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_format: Option<u64>,
    /// How often the volume is flushed with the durability `Interval`, 100ms to 1h. Default: `1s`.
    #[serde(default = "default_interval")]
    pub flush_interval: Duration,
    /// What happens where the volume cannot be read: it is not one, is damaged, or of another version. Default: `StartCold`.
    #[serde(default)]
    pub on_mismatch: OnMismatch,
}

/// What a volume lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Medium {
    /// Memory that outlives the process, but not the machine: tmpfs.
    Memory,
    /// The same in huge pages: hugetlbfs.
    Hugepages,
    /// Persistent memory, mapped so that a write is durable without a system call.
    PersistentMemory,
    /// A file within the system's page cache.
    File,
}

/// Whether items outlive the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Durability {
    /// They do not: after a restart of the machine the cache begins empty.
    #[default]
    None,
    /// They do as they were at the last flush, or later. A memory file system cannot do that.
    Interval,
    /// They do as soon as they are acknowledged. A memory file system cannot do that.
    Always,
}

/// What happens where a volume cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnMismatch {
    /// It is overwritten with an empty one.
    #[default]
    StartCold,
    /// The node does not start, and leaves it as it is.
    Refuse,
}

fn default_interval() -> Duration {
    Duration(std::time::Duration::from_secs(1))
}

fn no_limit() -> Duration {
    Duration(std::time::Duration::ZERO)
}

fn is_no_limit(limit: &Duration) -> bool {
    limit.0.is_zero()
}

#[cfg(test)]
mod tests {
    use super::{Durability, Medium, OnMismatch, Storage};
    use crate::{Bytes, Config, Duration};

    #[test]
    fn a_volume_is_read_as_it_is_written() {
        let storage = Storage {
            directory: "/data".into(),
            medium: Some(Medium::File),
            capacity: Some(Bytes(1 << 30)),
            max_absence: Duration(std::time::Duration::from_secs(300)),
            durability: Durability::Always,
            volume_format: Some(1),
            flush_interval: Duration(std::time::Duration::from_secs(5)),
            on_mismatch: OnMismatch::Refuse,
        };
        let config = Config { storage: Some(storage), ..Config::default() };
        assert_eq!(Config::parse(&config.write().unwrap()).unwrap(), config);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (text, part) in [
            ("storage: {directory: /data, capacity: 4Mi}\n", "line 1: storage: 4Mi"),
            ("storage: {directory: /data, flushInterval: 1ms}\n", "line 1: storage: 1ms"),
            ("storage: {}\n", "directory"),
            ("storage: {directory: /data, medium: Tape}\n", "Tape"),
            ("storage: {directory: /data, size: 1Gi}\n", "size"),
        ] {
            let message = Config::parse(text).unwrap_err().to_string();
            assert!(message.contains(part), "{text:?}: {message}");
        }
    }
}

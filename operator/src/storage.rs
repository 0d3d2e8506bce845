//! Where nodes keep their items: what is declared becomes a share of their memory, a volume and a configuration. Whether there
//! is such a medium at all is decided once, before the first node is made.

use std::borrow::Cow;
use std::time::Duration;

use config::{Bytes, Config};
use gannet_crds::{CacheCluster, Medium, OnUnavailable, StorageDurability, StorageSpec};
use k8s_openapi::api::core::v1::NodeSelectorRequirement;
use serde::{Deserialize, Serialize};

use crate::cluster::{InvalidSpec, duration};
use crate::desired::storage::{VOLUME, VOLUME_FOLDER};
use crate::observe::Observed;

/// The labels that Node Feature Discovery gives to hosts with persistent memory in a mode that file systems can map.
const DAX_LABELS: [&str; 2] =
    ["feature.node.kubernetes.io/memory-nv.present", "feature.node.kubernetes.io/memory-nv.dax"];
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);
const MIB: u64 = 1 << 20;
/// One byte in so many of a claimed volume is for its file system and for the snapshot of the index.
const OVERHEAD_SHARE: u64 = 8;
/// One byte in so many of the container's memory is for what a memory file system holds beside items: it is within the budget's
/// own slack.
const TMPFS_SHARE: u64 = 64;
/// The least that a cache can work with, beside eight of its largest items; of its index too.
const LEAST_BYTES: u64 = 8 * MIB;
const LEAST_ITEMS: u64 = 8;

/// What shapes the pods of `spec.storage`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStorage {
    pub medium: Medium,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub node_requirements: Vec<NodeSelectorRequirement>,
    pub max_absence: String,
    pub durability: StorageDurability,
}

impl Default for NodeStorage {
    fn default() -> NodeStorage {
        NodeStorage::of(&StorageSpec::default())
    }
}

impl NodeStorage {
    pub fn of(spec: &StorageSpec) -> NodeStorage {
        NodeStorage {
            medium: spec.medium,
            capacity: spec.capacity.clone(),
            node_requirements: requirements(spec),
            max_absence: spec.max_absence.clone(),
            durability: spec.durability,
        }
    }

    pub fn is_default(&self) -> bool {
        *self == NodeStorage::default()
    }
}

/// What a host must have for the declared medium.
pub fn requirements(spec: &StorageSpec) -> Vec<NodeSelectorRequirement> {
    if spec.medium != Medium::PersistentMemory || !spec.node_requirements.is_empty() {
        return spec.node_requirements.clone();
    }
    let is_true = |key: &str| NodeSelectorRequirement {
        key: key.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec!["true".to_owned()]),
    };
    DAX_LABELS.map(is_true).to_vec()
}

/// The volume that a node's items are on, as its pod needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Volume {
    /// Within the container's memory, and no larger than this.
    Memory(Bytes),
    /// Huge pages beside the container's memory.
    Hugepages(Bytes),
    /// A claim of so many bytes.
    Claim(Bytes),
}

/// Gives a node of these measures its volume.
///
/// # Errors
/// [`InvalidSpec`] where less fits on it than a cache needs.
pub fn place(storage: &NodeStorage, limit: Bytes, mut node: Config) -> Result<(Config, Volume), InvalidSpec> {
    let invalid = |reason: String| InvalidSpec::new("storage.capacity", reason);
    let max_absence = config::Duration(duration("storage.maxAbsence", &storage.max_absence)?);
    let declared = storage.capacity.as_deref().map(str::parse::<Bytes>).transpose();
    let declared = declared.map_err(|e| invalid(e.to_string()))?;
    let capacity = || declared.ok_or_else(|| invalid(format!("{} needs one, such as 64Gi", storage.medium)));
    let least = LEAST_BYTES.max(LEAST_ITEMS * node.max_item_size.0);
    let (medium, items, volume) = match storage.medium {
        Medium::Memory => {
            let size = Bytes(node.memory.0 + limit.0 / TMPFS_SHARE / MIB * MIB + MIB);
            (config::Medium::Memory, None, Volume::Memory(size))
        }
        Medium::Hugepages => {
            let capacity = capacity()?;
            (config::Medium::Hugepages, Some(capacity), Volume::Hugepages(capacity))
        }
        Medium::PersistentMemory => {
            let capacity = capacity()?;
            (config::Medium::PersistentMemory, Some(of_claim(capacity)), Volume::Claim(capacity))
        }
        Medium::File => {
            let capacity = capacity()?;
            let items = of_claim(capacity);
            // What is mapped from a file is the container's memory too.
            let index = node.memory.0.saturating_sub(items.0);
            if index < least {
                let most =
                    Bytes(node.memory.0.saturating_sub(least) / MIB * MIB / (OVERHEAD_SHARE - 1) * OVERHEAD_SHARE);
                return Err(invalid(format!(
                    "{capacity} is more than fits into spec.node.memory {limit}, which items in a file share with all else: at \
                     most {most}; lower it, or raise the memory"
                )));
            }
            node.memory = Bytes(index);
            (config::Medium::File, Some(items), Volume::Claim(capacity))
        }
    };
    if let Some(items) = items.filter(|items| items.0 < least) {
        return Err(invalid(format!(
            "of {} {items} are for items, and a cache needs {} at least: eight of the largest; raise it, or lower \
             spec.cache.maxItemSize",
            storage.capacity.as_deref().unwrap_or_default(),
            Bytes(least)
        )));
    }
    let durability = match storage.durability {
        StorageDurability::None => config::Durability::None,
        StorageDurability::Interval => config::Durability::Interval,
        StorageDurability::Always => config::Durability::Always,
    };
    node.storage = Some(config::Storage {
        directory: VOLUME_FOLDER.into(),
        medium: Some(medium),
        capacity: items,
        max_absence,
        durability,
        // There is one format so far, which every release reads.
        volume_format: None,
        flush_interval: config::Duration(FLUSH_INTERVAL),
        on_mismatch: config::OnMismatch::StartCold,
    });
    Ok((node, volume))
}

/// What is for items of a claimed volume.
fn of_claim(capacity: Bytes) -> Bytes {
    Bytes((capacity.0 - capacity.0 / OVERHEAD_SHARE) / MIB * MIB)
}

/// The resource as its nodes are made from it: with its items in memory, where that was decided because nothing else was to be
/// had. What was decided is read from what was made, so it stays.
///
/// # Errors
/// [`InvalidSpec`] where it is to be decided, and the operator may not look.
pub fn settled<'a>(resource: &'a CacheCluster, observed: &Observed) -> Result<Cow<'a, CacheCluster>, InvalidSpec> {
    let is_asked = resource.spec.storage.on_unavailable == OnUnavailable::Fallback;
    if is_asked && observed.storage.blind && !has_nodes(observed) {
        let reason = "Fallback: the operator may not look at hosts; set rbac.hosts of its chart to Always, or use Fail";
        return Err(InvalidSpec::new("storage.onUnavailable", reason));
    }
    if !has_fallen_back(resource, observed) {
        return Ok(Cow::Borrowed(resource));
    }
    let mut settled = resource.clone();
    settled.spec.storage =
        StorageSpec { max_absence: settled.spec.storage.max_absence.clone(), ..StorageSpec::default() };
    Ok(Cow::Owned(settled))
}

/// Whether the items are in memory, though something else is declared.
pub fn has_fallen_back(resource: &CacheCluster, observed: &Observed) -> bool {
    let storage = &resource.spec.storage;
    if storage.medium == Medium::Memory || storage.on_unavailable == OnUnavailable::Fail && !has_nodes(observed) {
        return false;
    }
    if let Some(set) = &observed.stateful_set {
        let template = set.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
        let mut volumes = template.into_iter().flat_map(|spec| spec.volumes.iter().flatten());
        let volume = volumes.find(|volume| volume.name == VOLUME).and_then(|volume| volume.empty_dir.as_ref());
        return volume.is_some_and(|volume| volume.medium.as_deref() == Some("Memory"));
    }
    match observed.revisions.iter().max_by_key(|revision| revision.number) {
        Some(newest) => newest.content.inputs.storage.medium == Medium::Memory,
        None => observed.storage.unavailable.is_some(),
    }
}

/// Whether it was decided before what the nodes are made from.
fn has_nodes(observed: &Observed) -> bool {
    observed.stateful_set.is_some() || !observed.revisions.is_empty()
}

#[cfg(test)]
mod tests {
    use config::Bytes;
    use serde_json::{Value, json};

    use super::{Volume, has_fallen_back, settled};
    use crate::cluster::Cluster;
    use crate::cluster::tests::resource;
    use crate::observe::Observed;
    use crate::observe::storage::SeenStorage;

    fn parsed(spec: Value) -> Cluster {
        Cluster::parse(&resource(spec)).unwrap()
    }

    #[test]
    fn items_in_memory_are_within_the_containers_limit() {
        for memory in ["48Mi", "1Gi", "64Gi"] {
            let cluster = parsed(json!({"node": {"memory": memory, "maxConnections": 256}}));
            let shape = &cluster.shape;
            let Volume::Memory(size) = shape.volume else { panic!("{:?}", shape.volume) };
            assert!(shape.config.memory < size && size.0 + shape.config.buffer_memory.0 < shape.memory.0, "{memory}");
            let storage = shape.config.storage.as_ref().unwrap();
            assert_eq!((storage.medium, storage.capacity), (Some(config::Medium::Memory), None));
            assert_eq!(storage.max_absence.to_string(), "5m");
        }
    }

    #[test]
    fn a_claim_has_room_for_its_file_system() {
        let claim = json!({"storageClassName": "optane"});
        let storage =
            json!({"medium": "PersistentMemory", "capacity": "64Gi", "volumeClaim": claim, "durability": "Interval"});
        let cluster = parsed(json!({"storage": storage}));
        assert_eq!(cluster.shape.volume, Volume::Claim(Bytes(64 << 30)));
        let storage = cluster.shape.config.storage.unwrap();
        assert_eq!((storage.capacity, storage.durability), (Some(Bytes(56 << 30)), config::Durability::Interval));
        let alone = parsed(json!({})).shape.config.memory;
        assert_eq!(cluster.shape.config.memory, alone, "the index has the memory to itself");
    }

    #[test]
    fn items_in_a_file_share_the_memory() {
        let storage = |capacity: &str| json!({"storage": {"medium": "File", "capacity": capacity}});
        let config = parsed(storage("512Mi")).shape.config;
        let alone = parsed(json!({})).shape.config.memory;
        assert_eq!(config.storage.unwrap().capacity, Some(Bytes(448 << 20)));
        assert_eq!(config.memory, Bytes(alone.0 - (448 << 20)));
        let message = Cluster::parse(&resource(storage("2Gi"))).unwrap_err().to_string();
        assert!(message.starts_with("spec.storage.capacity: 2Gi is more") && message.contains("at most"), "{message}");
        let most = message.split("at most ").nth(1).unwrap().split(';').next().unwrap();
        assert!(Cluster::parse(&resource(storage(most))).is_ok(), "{most}");
        let message = Cluster::parse(&resource(json!({"storage": {"medium": "File", "capacity": "8Mi"}}))).unwrap_err();
        assert!(message.to_string().contains("a cache needs 8Mi"), "{message}");
    }

    #[test]
    fn whether_there_is_such_a_medium_is_decided_once() {
        let storage = json!({"medium": "Hugepages", "capacity": "64Mi", "onUnavailable": "Fallback"});
        let declared = resource(json!({"storage": storage}));
        let there = Observed::default();
        assert!(!has_fallen_back(&declared, &there));
        let storage = SeenStorage { unavailable: Some("no host".to_owned()), ..SeenStorage::default() };
        let missing = Observed { storage, ..Observed::default() };
        assert!(has_fallen_back(&declared, &missing));
        let cluster = Cluster::parse(&settled(&declared, &missing).unwrap()).unwrap();
        assert!(matches!(cluster.shape.volume, Volume::Memory(_)));

        // A revision, and then a StatefulSet, say what was decided, whatever hosts there are now.
        let revision = crate::revision::Revision::render(&cluster, "cache-node:1", 1).unwrap();
        let decided = Observed { revisions: vec![revision], ..Observed::default() };
        assert!(has_fallen_back(&declared, &decided));
        let mut patient = declared.clone();
        patient.spec.storage.on_unavailable = gannet_crds::OnUnavailable::Fail;
        assert!(has_fallen_back(&patient, &decided), "what was decided stays");
        let huge = crate::revision::Revision::render(&Cluster::parse(&declared).unwrap(), "cache-node:1", 1).unwrap();
        let storage = SeenStorage { unavailable: Some("no host".to_owned()), ..SeenStorage::default() };
        assert!(!has_fallen_back(&declared, &Observed { revisions: vec![huge], storage, ..Observed::default() }));
        assert!(!has_fallen_back(&patient, &missing), "it waits");
        let storage = SeenStorage { blind: true, ..SeenStorage::default() };
        let blind = Observed { storage, ..Observed::default() };
        assert!(settled(&declared, &blind).unwrap_err().to_string().contains("rbac.hosts"));
        assert!(settled(&patient, &blind).is_ok());
    }
}

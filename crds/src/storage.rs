//! Where nodes keep their items.

use k8s_openapi::api::core::v1::NodeSelectorRequirement;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::spec::{BYTES_PATTERN, DURATION_PATTERN};

/// Where nodes keep their items, and what these outlive.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.medium == oldSelf.medium")
    .message("spec.storage.medium cannot be changed: make another CacheCluster").field_path(".medium"))]
#[x_kube(validation = Rule::new("(has(self.capacity) ? self.capacity : '') == (has(oldSelf.capacity) ? oldSelf.capacity : '')")
    .message("spec.storage.capacity cannot be changed: make another CacheCluster").field_path(".capacity"))]
#[x_kube(validation = Rule::new("(has(self.volumeClaim) && has(self.volumeClaim.storageClassName) ? self.volumeClaim.storageClassName : '') == (has(oldSelf.volumeClaim) && has(oldSelf.volumeClaim.storageClassName) ? oldSelf.volumeClaim.storageClassName : '')")
    .message("spec.storage.volumeClaim cannot be changed: make another CacheCluster").field_path(".volumeClaim"))]
#[x_kube(validation = Rule::new("(!has(self.medium) || self.medium == 'Memory') == !has(self.capacity)")
    .message("spec.storage.capacity: PersistentMemory, Hugepages and File need one; with Memory it follows from spec.node.memory").field_path(".capacity"))]
#[x_kube(validation = Rule::new("!has(self.volumeClaim) || (has(self.medium) && self.medium in ['PersistentMemory', 'File'])")
    .message("spec.storage.volumeClaim: only PersistentMemory and File are claimed").field_path(".volumeClaim"))]
#[x_kube(validation = Rule::new("!has(self.medium) || self.medium != 'PersistentMemory' || (has(self.volumeClaim) && has(self.volumeClaim.storageClassName))")
    .message("spec.storage.volumeClaim.storageClassName: PersistentMemory needs the StorageClass of volumes on DAX mounts").field_path(".volumeClaim"))]
#[x_kube(validation = Rule::new("!has(self.durability) || self.durability == 'None' || (has(self.medium) && self.medium in ['PersistentMemory', 'File'])")
    .message("spec.storage.durability: Memory and Hugepages outlive no machine; only PersistentMemory and File do").field_path(".durability"))]
#[x_kube(validation = Rule::new("!has(self.onUnavailable) || self.onUnavailable == 'Fail' || (has(self.medium) && self.medium != 'Memory')")
    .message("spec.storage.onUnavailable: Memory is always there").field_path(".onUnavailable"))]
#[x_kube(validation = Rule::new("!has(self.capacity) || !isQuantity(self.capacity) || quantity(self.capacity).asInteger() >= 16777216")
    .message(Message::Expression("'spec.storage.capacity ' + self.capacity + ' is too small: 16Mi at least'".to_owned())).field_path(".capacity"))]
#[x_kube(validation = Rule::new("!has(self.capacity) || !has(self.medium) || self.medium != 'Hugepages' || !isQuantity(self.capacity) || quantity(self.capacity).asInteger() % 2097152 == 0")
    .message(Message::Expression("'spec.storage.capacity ' + self.capacity + ' is not a multiple of 2Mi, the size of a huge page'".to_owned())).field_path(".capacity"))]
pub struct StorageSpec {
    /// Memory: within spec.node.memory; items outlive the container, but not the pod. PersistentMemory: a claimed volume on a DAX
    /// mount. Hugepages: pages of 2Mi beside spec.node.memory. File: a claimed volume on a disk, within the page cache. It
    /// cannot be changed.
    #[serde(default)]
    pub medium: Medium,

    /// How much of the medium each node has, such as 64Gi; not for Memory, where it follows from spec.node.memory. Of a claimed
    /// volume, seven eighths are for items. With File it is part of spec.node.memory, with the others beside it. It cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = BYTES_PATTERN), length(max = 20))]
    pub capacity: Option<String>,

    /// What PersistentMemory and File are claimed with. It cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_claim: Option<VolumeClaim>,

    /// What becomes of the claims when nodes are not wanted any more.
    #[serde(default)]
    pub claim_retention: ClaimRetention,

    /// Labels that a host must have, all of them. Default for PersistentMemory: those that Node Feature Discovery gives to hosts
    /// with DAX, feature.node.kubernetes.io/memory-nv.present and feature.node.kubernetes.io/memory-nv.dax, both "true".
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub node_requirements: Vec<NodeSelectorRequirement>,

    /// Where there is no host with the medium, or no such StorageClass, when the nodes are first made. Fail: they wait. Fallback:
    /// their items are in Memory, within spec.node.memory, and stay there.
    #[serde(default)]
    pub on_unavailable: OnUnavailable,

    /// A node that was away for longer begins empty, such as 5m: its keys were written and deleted elsewhere meanwhile. 0s: it
    /// never does.
    #[serde(default = "default_max_absence")]
    #[schemars(regex(pattern = DURATION_PATTERN), length(max = 32))]
    pub max_absence: String,

    /// None: items outlive the process and the pod, but not an end of the machine. Interval: the machine too, as they were at the last
    /// flush, a second ago, or later. Always: the machine too, as soon as they are acknowledged.
    #[serde(default)]
    pub durability: StorageDurability,
}

/// What items are kept on.
#[derive(schemars::JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "explained on the field, see Eviction")]
pub enum Medium {
    #[default]
    Memory,
    PersistentMemory,
    Hugepages,
    File,
}

impl Medium {
    /// Whether a volume is claimed for it.
    #[must_use]
    pub fn is_claimed(self) -> bool {
        matches!(self, Medium::PersistentMemory | Medium::File)
    }
}

impl std::fmt::Display for Medium {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}

/// How a volume is claimed.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeClaim {
    /// The StorageClass. Default for File: the cluster's own default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"), length(max = 253))]
    pub storage_class_name: Option<String>,
}

/// What becomes of claims.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimRetention {
    /// When the CacheCluster is deleted.
    #[serde(default)]
    pub when_deleted: Retention,

    /// When there are to be fewer nodes. With Retain a node that comes back within maxAbsence has what it had.
    #[serde(default)]
    pub when_scaled: Retention,
}

/// Delete: claims go with their nodes. Retain: they stay.
#[derive(schemars::JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "explained on the type, see Eviction")]
pub enum Retention {
    #[default]
    Delete,
    Retain,
}

/// What happens where the medium is not to be had.
#[derive(schemars::JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "explained on the field, see Eviction")]
pub enum OnUnavailable {
    #[default]
    Fail,
    Fallback,
}

/// What items outlive.
#[derive(schemars::JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "explained on the field, see Eviction")]
pub enum StorageDurability {
    #[default]
    None,
    Interval,
    Always,
}

fn default_max_absence() -> String {
    "5m".to_owned()
}

impl Default for StorageSpec {
    fn default() -> StorageSpec {
        StorageSpec {
            medium: Medium::default(),
            capacity: None,
            volume_claim: None,
            claim_retention: ClaimRetention::default(),
            node_requirements: Vec::new(),
            on_unavailable: OnUnavailable::default(),
            max_absence: default_max_absence(),
            durability: StorageDurability::default(),
        }
    }
}

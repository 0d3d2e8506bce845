//! What a user declares.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::rollout::RolloutSpec;
use crate::status::CacheClusterStatus;
use crate::{MonitoringSpec, PodTemplate, StorageSpec, TlsSpec};

/// A quantity of bytes: whole numbers only, so that nothing is rounded on the way to the node.
pub(crate) const BYTES_PATTERN: &str = r"^[1-9][0-9]{0,14}(Ki|Mi|Gi|Ti|k|M|G|T)?$";
const CPU_PATTERN: &str = r"^([1-9][0-9]{0,5}m|[1-9][0-9]{0,3}|[0-9]{1,3}\.[0-9]{1,3})$";
/// Kubernetes' duration, without fractions and without days, which Kubernetes does not have either.
pub(crate) const DURATION_PATTERN: &str = r"^(0|([0-9]{1,9}(ms|s|m|h))+)$";

/// A cache cluster: so many cache-nodes that speak the memcached protocol, each holding a share of the keys.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "gannet.dev",
    version = "v1alpha1",
    kind = "CacheCluster",
    plural = "cacheclusters",
    shortname = "ccl",
    category = "all",
    namespaced,
    cel,
    status = "CacheClusterStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A cache cluster: so many cache-nodes that speak the memcached protocol, each holding a share of the keys.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.ready", description = "Nodes that serve, of those declared."),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", description = "Why the cluster is ready or is not."),
    printcolumn(name = "Memory", type_ = "string", json_path = ".spec.node.memory", description = "Memory of one node."),
    printcolumn(name = "Items", type_ = "integer", json_path = ".status.items", description = "Live items in all nodes that answer."),
    printcolumn(name = "Endpoint", type_ = "string", json_path = ".status.endpoint", description = "The Service to discover the nodes by.", priority = 1),
    printcolumn(name = "Image", type_ = "string", json_path = ".status.image", description = "The image that new pods run.", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message", description = "The same in a sentence.", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 46 && self.metadata.name >= 'a' && !self.metadata.name.contains('.')")
        .message("metadata.name: use at most 46 lower-case letters, digits and '-', beginning with a letter: it names Services and pods")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.node) && has(self.node.memory) && has(self.cache) && has(self.cache.maxItemSize) && isQuantity(self.node.memory) && isQuantity(self.cache.maxItemSize)) || quantity(self.node.memory).asInteger() >= 16777216 + 10 * quantity(self.cache.maxItemSize).asInteger()")
    .message(Message::Expression("'spec.node.memory ' + self.node.memory + ' is too small for spec.cache.maxItemSize ' + self.cache.maxItemSize + ': a node needs 16Mi and ten times the largest item at least; raise the memory or lower maxItemSize'".to_owned()))
    .field_path(".node.memory"))]
pub struct CacheClusterSpec {
    /// How many cache-nodes there are, 0 to 1000. Changing it restarts none of those that stay, but keys move: clients
    /// hash over the nodes. `kubectl scale` and autoscalers write it too.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: i32,

    /// The image of the cache-node. Default: the one that belongs to the operator's own version when the cluster is first seen; it
    /// then stays, also when the operator is upgraded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,

    /// Freezes rollouts and scaling: pods stay as they are until it is false again. What is deleted by hand still comes back.
    #[serde(default)]
    pub paused: bool,

    /// How much may be down at once by the operator's own doing or by a drained host.
    #[serde(default)]
    pub disruption: DisruptionSpec,

    /// One cache-node: its resources and its connections.
    #[serde(default)]
    pub node: NodeSpec,

    /// What the nodes do with items.
    #[serde(default)]
    pub cache: CacheSpec,

    /// Where the nodes keep items, and what these outlive.
    #[serde(default)]
    pub storage: StorageSpec,

    /// Mutual TLS between applications and nodes.
    #[serde(default)]
    pub tls: TlsSpec,

    /// How changes reach the pods.
    #[serde(default)]
    pub rollout: RolloutSpec,

    /// Who may look at the nodes' metrics.
    #[serde(default)]
    pub monitoring: MonitoringSpec,

    /// What the pods carry beside what the operator gives them.
    #[serde(default)]
    pub pod_template: PodTemplate,
}

/// How much may be down at once.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DisruptionSpec {
    /// Nodes that may be unavailable at once, 1 to 100: by a rolling change, and, through the PodDisruptionBudget, by the
    /// draining of hosts.
    #[serde(default = "default_max_unavailable")]
    #[schemars(range(min = 1, max = 100))]
    pub max_unavailable: i32,
}

/// One cache-node.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.memory) || !isQuantity(self.memory) || quantity(self.memory).asInteger() >= 33554432")
    .message(Message::Expression("'spec.node.memory ' + self.memory + ' is too small: a node needs 32Mi at least'".to_owned())).field_path(".memory"))]
#[x_kube(validation = Rule::new("!has(self.memory) || !has(self.maxConnections) || !isQuantity(self.memory) || quantity(self.memory).asInteger() >= 25165824 + 2048 * self.maxConnections")
    .message("spec.node.memory is too small for spec.node.maxConnections: each connection needs 2Ki beside the 24Mi that every node needs; raise the memory or lower maxConnections").field_path(".memory"))]
pub struct NodeSpec {
    /// The memory of one node, request and limit of its container alike, such as 8Gi. Items, index, connections and the
    /// program share it; the operator computes the shares so that the limit cannot be exceeded.
    #[serde(default = "default_memory")]
    #[schemars(regex(pattern = BYTES_PATTERN), length(max = 20))]
    pub memory: String,

    /// The CPU that one node requests, such as "1" or 500m. There is no CPU limit: throttling is a latency fault of its own.
    #[serde(default = "default_cpu")]
    #[schemars(regex(pattern = CPU_PATTERN), length(max = 12))]
    pub cpu: String,

    /// Worker threads of one node, 1 to 64. With one, requests are executed where they are parsed.
    #[serde(default = "default_workers")]
    #[schemars(range(min = 1, max = 64))]
    pub workers: u16,

    /// Client connections that one node accepts at once; one more is refused with an error line.
    #[serde(default = "default_max_connections")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_connections: u32,

    /// How long a connection may stay without a request before the node closes it, such as 5m; 0s is for ever.
    #[serde(default = "default_idle_timeout")]
    #[schemars(regex(pattern = DURATION_PATTERN), length(max = 32))]
    pub idle_timeout: String,

    /// How long a node that is told to stop still accepts connections, so that clients and endpoints learn of it first.
    #[serde(default = "default_drain_delay")]
    #[schemars(regex(pattern = DURATION_PATTERN), length(max = 32))]
    pub drain_delay: String,
}

/// What the nodes do with items.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.maxItemSize) || !isQuantity(self.maxItemSize) || (quantity(self.maxItemSize).asInteger() >= 1024 && quantity(self.maxItemSize).asInteger() <= 134217728)")
    .message(Message::Expression("'spec.cache.maxItemSize ' + self.maxItemSize + ' is out of range: 1Ki to 128Mi'".to_owned())).field_path(".maxItemSize"))]
pub struct CacheSpec {
    /// What makes room when the memory is full.
    #[serde(default)]
    pub eviction: Eviction,

    /// The largest value that a node takes, such as 1Mi.
    #[serde(default = "default_max_item_size")]
    #[schemars(regex(pattern = BYTES_PATTERN), length(max = 20))]
    pub max_item_size: String,
}

/// What makes room when the memory is full: None refuses writes; Random, Fifo, ClosestToExpiration and Utilization drop
/// whole segments; Merge keeps the items that are read most for their size; S3Fifo keeps three queues.
#[derive(schemars::JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "explained on the type: a text on each variant would turn the enum into a union, which Kubernetes' schemas cannot show"
)]
pub enum Eviction {
    None,
    Random,
    Fifo,
    ClosestToExpiration,
    Utilization,
    #[default]
    Merge,
    S3Fifo,
}

macro_rules! defaults {
    ($($name:ident: $type:ty = $value:expr;)*) => { $(fn $name() -> $type { $value })* };
}
defaults! {
    default_replicas: i32 = 3;
    default_max_unavailable: i32 = 1;
    default_memory: String = "1Gi".to_owned();
    default_cpu: String = "1".to_owned();
    default_workers: u16 = 1;
    default_max_connections: u32 = 10_000;
    default_idle_timeout: String = "0s".to_owned();
    default_drain_delay: String = "5s".to_owned();
    default_max_item_size: String = "1Mi".to_owned();
}

impl Default for DisruptionSpec {
    fn default() -> DisruptionSpec {
        DisruptionSpec { max_unavailable: default_max_unavailable() }
    }
}

impl Default for NodeSpec {
    fn default() -> NodeSpec {
        NodeSpec {
            memory: default_memory(),
            cpu: default_cpu(),
            workers: default_workers(),
            max_connections: default_max_connections(),
            idle_timeout: default_idle_timeout(),
            drain_delay: default_drain_delay(),
        }
    }
}

impl Default for CacheSpec {
    fn default() -> CacheSpec {
        CacheSpec { eviction: Eviction::default(), max_item_size: default_max_item_size() }
    }
}

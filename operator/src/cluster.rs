//! The declared cluster, parsed: what is invalid cannot be built.

use std::time::Duration;

use config::{AdminTls, Budget, Bytes, Config};
use gannet_crds::{
    CacheCluster, CacheSpec, ClaimRetention, IssuerType, NodeSpec, PodTemplate, REPLACE_VOLUMES_ANNOTATION,
    TemplatePolicy, TlsMode, TlsSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};
use serde::{Deserialize, Serialize};

use crate::given;
use crate::rollout::action::{self, Action};
use crate::rollout::policy::Policy;
use crate::storage::{self, NodeStorage, Volume};

/// A CacheCluster whose every value has been read and found to make sense together.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub name: String,
    pub namespace: String,
    /// Everything made for the cluster carries it, so that deleting the cluster deletes all of it.
    pub owner: OwnerReference,
    pub replicas: i32,
    pub paused: bool,
    pub max_unavailable: i32,
    pub template_policy: TemplatePolicy,
    pub progress_deadline: Duration,
    /// Who is let in by somebody else's certificates.
    pub identities: Vec<String>,
    pub policy: Policy,
    /// What is asked for by hand.
    pub action: Option<Action>,
    pub claim: Claim,
    /// PersistentVolumes that may be given up when their host is gone.
    pub replaced_volumes: Vec<String>,
    /// What shapes the pods, as declared.
    pub inputs: Inputs,
    /// The same, computed: what the pods are built from.
    pub shape: Shape,
}

/// How volumes are claimed, which touches no pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    pub class: Option<String>,
    pub retention: ClaimRetention,
}

/// The part of the spec that shapes the pods. A change of anything else touches no pod.
///
/// Two of these are compared as values and not as text: a field that a later operator adds is at its default in a
/// stored one, and so equal to what the API server now fills in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Inputs {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    #[serde(default)]
    pub node: NodeSpec,
    #[serde(default)]
    pub cache: CacheSpec,
    #[serde(default, skip_serializing_if = "NodeStorage::is_default")]
    pub storage: NodeStorage,
    #[serde(default)]
    pub pod_template: PodTemplate,
    #[serde(default, skip_serializing_if = "NodeTls::is_disabled")]
    pub tls: NodeTls,
}

/// What shapes the pods of `spec.tls`: neither clients nor certificates do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeTls {
    pub mode: TlsMode,
    /// Empty where TLS is disabled.
    pub max_connection_age: String,
    /// Somebody else's Secret, whose certificate they serve.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

impl NodeTls {
    fn of(spec: TlsSpec) -> NodeTls {
        match spec.mode {
            // Without TLS nothing that is said about it may change a pod.
            TlsMode::Disabled => NodeTls::default(),
            mode => NodeTls {
                mode,
                max_connection_age: spec.max_connection_age,
                secret: spec.issuer.name.filter(|_| spec.issuer.kind_of_issuer == IssuerType::Secret),
            },
        }
    }

    pub fn is_disabled(&self) -> bool {
        self.mode == TlsMode::Disabled
    }
}

/// Where the pods mount their certificates.
pub const TLS_FOLDER: &str = "/etc/gannet-tls";
/// The same for the admin port.
pub const ADMIN_TLS_FOLDER: &str = "/etc/gannet-admin-tls";

/// The pods' measures.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// The configuration of the nodes.
    pub config: Config,
    /// The container's memory, request and limit.
    pub memory: Bytes,
    /// What its items are on.
    pub volume: Volume,
    /// The container's CPU request in thousandths of a core.
    pub cpu_millis: u64,
    /// Seconds between SIGTERM and SIGKILL.
    pub grace_seconds: i64,
}

/// A spec that passed the API server's rules and still makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("spec.{field}: {reason}")]
pub struct InvalidSpec {
    field: &'static str,
    reason: String,
}

impl InvalidSpec {
    pub fn new(field: &'static str, reason: impl ToString) -> InvalidSpec {
        InvalidSpec { field, reason: reason.to_string() }
    }
}

/// Time for connections to end at a request boundary, beside `drainDelay`.
const GRACE_BEYOND_DRAIN_SECONDS: i64 = 30;

impl Cluster {
    /// Parses a resource.
    ///
    /// # Errors
    /// [`InvalidSpec`] names the first field that makes no sense, and what would.
    pub fn parse(resource: &CacheCluster) -> Result<Cluster, InvalidSpec> {
        let spec = resource.spec.clone();
        let owner = resource
            .controller_owner_ref(&())
            .ok_or_else(|| InvalidSpec::new("metadata", "the resource has no name or uid yet"))?;
        let inputs = Inputs {
            image: spec.image,
            node: spec.node,
            cache: spec.cache,
            storage: NodeStorage::of(&spec.storage),
            pod_template: spec.pod_template,
            tls: NodeTls::of(spec.tls.clone()),
        };
        let shape = Shape::parse(&inputs)?;
        Ok(Cluster {
            name: resource.name_any(),
            namespace: resource.namespace().unwrap_or_default(),
            owner,
            replicas: spec.replicas,
            paused: spec.paused,
            max_unavailable: spec.disruption.max_unavailable.max(1),
            template_policy: spec.rollout.template,
            progress_deadline: duration("rollout.progressDeadline", &spec.rollout.progress_deadline)?,
            identities: spec.tls.identities,
            policy: Policy::parse(&spec.rollout).map_err(|e| InvalidSpec::new(e.field, &e))?,
            action: resource.annotations().get(action::ANNOTATION).and_then(|text| Action::parse(text)),
            claim: Claim {
                class: spec.storage.volume_claim.and_then(|claim| claim.storage_class_name),
                retention: spec.storage.claim_retention,
            },
            replaced_volumes: replaced_volumes(resource),
            inputs,
            shape,
        })
    }

    /// The Service that applications discover the nodes by.
    pub fn client_service(&self) -> String {
        self.name.clone()
    }

    /// The Service that gives each pod its DNS name.
    pub fn node_service(&self) -> String {
        format!("{}-nodes", self.name)
    }
}

impl Shape {
    fn parse(inputs: &Inputs) -> Result<Shape, InvalidSpec> {
        let Inputs { image: _, node, cache, storage, pod_template, tls } = inputs;
        let memory: Bytes = node.memory.parse().map_err(|e| InvalidSpec::new("node.memory", e))?;
        let max_item_size: Bytes = cache.max_item_size.parse().map_err(|e| InvalidSpec::new("cache.maxItemSize", e))?;
        let drain_delay = duration("node.drainDelay", &node.drain_delay)?;
        let all_interfaces = |port| std::net::SocketAddr::from(([0, 0, 0, 0], port));
        let config = Config {
            listen: all_interfaces(config::DATA_PORT),
            health: Some(all_interfaces(config::HEALTH_PORT)),
            admin: Some(all_interfaces(config::ADMIN_PORT)),
            workers: node.workers,
            max_connections: node.max_connections,
            idle_timeout: config::Duration(duration("node.idleTimeout", &node.idle_timeout)?),
            drain_delay: config::Duration(drain_delay),
            eviction: eviction(cache.eviction),
            max_item_size,
            tls: node_tls(tls)?,
            admin_tls: Some(AdminTls { directory: ADMIN_TLS_FOLDER.into(), name: None }),
            ..Config::default()
        };
        let budget = Budget::divide(memory, &config).map_err(|e| InvalidSpec::new("node.memory", e))?;
        let (config, volume) = storage::place(storage, memory, budget.apply(config))?;
        config.check().map_err(|e| InvalidSpec::new("node", e))?;
        let drain_seconds = i64::try_from(drain_delay.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
        let grace_seconds = match pod_template.termination_grace_period_seconds {
            Some(seconds) if seconds <= drain_seconds => {
                let reason = format!(
                    "{seconds} is not more than spec.node.drainDelay {}: the node would be killed while it still accepts \
                     connections; raise it, or lower the delay",
                    node.drain_delay
                );
                return Err(InvalidSpec::new("podTemplate.terminationGracePeriodSeconds", reason));
            }
            Some(seconds) => seconds,
            None => drain_seconds.saturating_add(GRACE_BEYOND_DRAIN_SECONDS),
        };
        Ok(Shape { config, memory, volume, cpu_millis: cpu_millis(&node.cpu)?, grace_seconds })
    }
}

fn replaced_volumes(resource: &CacheCluster) -> Vec<String> {
    let text = resource.annotations().get(REPLACE_VOLUMES_ANNOTATION).map_or("", String::as_str);
    text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn node_tls(tls: &NodeTls) -> Result<Option<config::Tls>, InvalidSpec> {
    let mode = match tls.mode {
        TlsMode::Disabled => return Ok(None),
        TlsMode::Permissive => config::TlsMode::Permissive,
        TlsMode::Strict => config::TlsMode::Strict,
    };
    let age = config::Duration(duration("tls.maxConnectionAge", &tls.max_connection_age)?);
    let name = tls.secret.as_ref().map(|_| given::STEM.to_owned());
    Ok(Some(config::Tls { mode, max_connection_age: age, name, ..config::Tls::from_directory(TLS_FOLDER) }))
}

pub fn duration(field: &'static str, text: &str) -> Result<Duration, InvalidSpec> {
    text.parse::<config::Duration>().map(|parsed| parsed.0).map_err(|e| InvalidSpec::new(field, e))
}

/// `1`, `0.25` or `250m`, in thousandths of a core.
fn cpu_millis(text: &str) -> Result<u64, InvalidSpec> {
    let invalid = || InvalidSpec::new("node.cpu", format!("\"{text}\" is not an amount of CPU: write 2, 0.5 or 500m"));
    if let Some(millis) = text.strip_suffix('m') {
        return millis.parse().map_err(|_| invalid());
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole: u64 = whole.parse().map_err(|_| invalid())?;
    let fraction: u64 = format!("{fraction:0<3}").parse().map_err(|_| invalid())?;
    match whole.checked_mul(1000).map(|millis| millis + fraction) {
        Some(millis) if millis > 0 && fraction < 1000 => Ok(millis),
        _ => Err(invalid()),
    }
}

fn eviction(declared: gannet_crds::Eviction) -> config::Eviction {
    use gannet_crds::Eviction as Declared;
    match declared {
        Declared::None => config::Eviction::None,
        Declared::Random => config::Eviction::Random,
        Declared::Fifo => config::Eviction::Fifo,
        Declared::ClosestToExpiration => config::Eviction::ClosestToExpiration,
        Declared::Utilization => config::Eviction::Utilization,
        Declared::Merge => config::Eviction::Merge,
        Declared::S3Fifo => config::Eviction::S3Fifo,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use gannet_crds::{CacheCluster, CacheClusterSpec};
    use serde_json::{Value, json};

    use super::{Cluster, Inputs, cpu_millis};

    /// A resource as the API server would hand it out: with the schema's defaults filled in.
    pub(crate) fn resource(spec: Value) -> CacheCluster {
        let mut resource = CacheCluster::new("demo", serde_json::from_value::<CacheClusterSpec>(spec).unwrap());
        resource.metadata.namespace = Some("shop".to_owned());
        resource.metadata.uid = Some("11111111-2222-3333-4444-555555555555".to_owned());
        resource.metadata.generation = Some(1);
        resource
    }

    #[test]
    fn the_smallest_declaration_is_a_cluster() {
        let cluster = Cluster::parse(&resource(json!({}))).unwrap();
        assert_eq!((cluster.replicas, cluster.max_unavailable), (3, 1));
        assert_eq!(cluster.shape.cpu_millis, 1000);
        assert_eq!(cluster.shape.grace_seconds, 35);
        assert!(cluster.shape.config.memory.0 < cluster.shape.memory.0);
    }

    #[test]
    fn what_makes_no_sense_together_names_its_field() {
        for (spec, field, reason) in [
            (json!({"node": {"memory": "40Mi", "maxConnections": 9000}}), "spec.node.memory", "raise the memory"),
            (json!({"node": {"memory": "1e9"}}), "spec.node.memory", "not a size"),
            (json!({"node": {"cpu": "one"}}), "spec.node.cpu", "not an amount"),
            (json!({"node": {"idleTimeout": "5d"}}), "spec.node.idleTimeout", "not a duration"),
            (
                json!({"node": {"drainDelay": "1m"}, "podTemplate": {"terminationGracePeriodSeconds": 30}}),
                "spec.podTemplate.terminationGracePeriodSeconds",
                "lower the delay",
            ),
        ] {
            let message = Cluster::parse(&resource(spec)).unwrap_err().to_string();
            assert!(message.starts_with(field) && message.contains(reason), "{message}");
        }
    }

    #[test]
    fn cpu_is_read_as_kubernetes_reads_it() {
        for (text, millis) in [("1", 1000), ("500m", 500), ("0.5", 500), ("1.25", 1250), ("0.005", 5)] {
            assert_eq!(cpu_millis(text).unwrap(), millis);
        }
        assert!(cpu_millis("0.0").is_err() && cpu_millis("").is_err());
    }

    #[test]
    fn stored_inputs_without_a_newer_field_equal_the_declared_default() {
        let declared = Cluster::parse(&resource(json!({}))).unwrap().inputs;
        let stored: Inputs = serde_json::from_value(json!({"node": {"memory": "1Gi"}})).unwrap();
        assert_eq!(stored, declared);
    }
}

//! Every read: what there is, as the API server and the pods themselves tell it.

pub mod windows;

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};
use gannet_crds::CacheCluster;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, ContainerStatus, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DynamicObject, ListParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::analysis::Tick;
use crate::cert_manager::{self, Offer, Seen};
use crate::certify;
use crate::desired::labels;
use crate::desired::pod::TLS_VOLUME;
use crate::material::CaMaterial;
use crate::revision::{REVISION_ANNOTATION, Revision, RevisionError};
use crate::rollout::record::{self, Record, RecordError};
use crate::tls::{Names, Source, Tls};

mod ask;
pub mod gate;
pub mod storage;

pub use ask::{Asker, Looks};
pub use gate::Gate;
use gate::{HASH_LABEL, MOVED_ANNOTATION};
use storage::SeenStorage;

/// What there is.
#[derive(Debug, Default)]
pub struct Observed {
    pub stateful_set: Option<StatefulSet>,
    /// The same, as far as decisions need it.
    pub set: Option<Set>,
    pub client_service: Option<Service>,
    pub node_service: Option<Service>,
    pub disruption_budget: Option<PodDisruptionBudget>,
    pub service_account: Option<ServiceAccount>,
    pub config_maps: Vec<ConfigMap>,
    pub controller_revisions: Vec<ControllerRevision>,
    pub revisions: Vec<Revision>,
    /// What was decided; none before anything was, and where it was lost.
    pub record: Option<Record>,
    /// By ordinal.
    pub pods: Vec<NodePod>,
    pub secrets: Secrets,
    /// What the pods did, stretch by stretch, as far as this operator has seen it.
    pub ticks: Vec<Tick>,
    pub storage: SeenStorage,
    /// Objects that have our names and are not ours.
    pub foreign: Vec<String>,
}

/// Secrets of a cluster.
#[derive(Debug, Default)]
pub struct Secrets {
    pub admin: Option<Secret>,
    pub ca: Option<Secret>,
    pub nodes: Option<Secret>,
    /// By name.
    pub clients: BTreeMap<String, Found>,
    pub monitoring: Option<(String, Found)>,
    /// The Secret of somebody else that the nodes are to serve.
    pub given: Option<Secret>,
    pub issued: Seen,
}

/// A Secret whose name is the user's choice: somebody else's is no reason to stop everything.
#[derive(Debug, Default)]
pub enum Found {
    #[default]
    Missing,
    Foreign,
    Ours(Box<Secret>),
}

/// A StatefulSet as far as decisions need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    pub replicas: i32,
    pub partition: i32,
    pub on_delete: bool,
    /// The revision that its template names.
    pub revision: String,
    /// Its controller has seen its newest spec.
    pub settled: bool,
    /// The revision that its controller brings pods below the partition back to is that of its template.
    pub current: bool,
    /// What its controller calls the revision of its template.
    pub update: Option<String>,
}

/// A cache-node's pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodePod {
    pub name: String,
    pub ordinal: i32,
    pub uid: String,
    pub resource_version: String,
    pub revision: String,
    /// What the StatefulSet's controller calls that.
    pub hash: String,
    pub ready: bool,
    pub terminating: bool,
    pub host: String,
    /// Since when it is as ready as it is.
    pub since: Option<Timestamp>,
    /// Why it is not ready, in Kubernetes' words; empty where it is.
    pub trouble: String,
    /// Why it never will be, as things are: nothing to wait for.
    pub fault: Option<String>,
    /// Of its container.
    pub restarts: i32,
    /// The digest of the image that runs.
    pub image: String,
    /// Whether its container is, whatever its gate says.
    pub container_ready: bool,
    pub gate: Gate,
    /// How often its container had been restarted when it was last changed in place.
    pub moved_at: Option<i32>,
    /// Whether the Service leads to it, or will; looked at only while some gate is closed.
    pub is_endpoint: bool,
    /// The pod's address once it runs.
    pub address: Option<String>,
    pub mounts: Mounts,
    /// When its mounts were last asked to be refreshed, in unix time.
    pub touched: i64,
    /// What it says of itself; `None` where there was nobody to ask.
    pub report: Option<Result<config::Status, String>>,
    /// The serial of the certificate on its data port, seen in a handshake; `None` where it has no TLS or was not asked.
    pub served: Option<Result<String, String>>,
}

/// A pod whose annotation changes has its mounts refreshed at once, where otherwise the kubelet takes a minute or more.
pub const TOUCHED_ANNOTATION: &str = "gannet.dev/refreshed-at";

/// Which of the cluster's Secrets a pod mounts: it speaks TLS on the ports that these are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mounts {
    /// What was issued for it.
    pub node_tls: bool,
    /// What somebody else's Secret holds.
    pub given_tls: bool,
    pub admin_tls: bool,
}

/// Secrets of cert-manager that are read at once.
const READS_AT_ONCE: usize = 16;

/// A read that failed.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    #[error("cannot read {what}: {source}")]
    Read {
        what: String,
        #[source]
        source: kube::Error,
    },
    #[error(transparent)]
    Revision(#[from] RevisionError),
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// Reads everything that has to do with a resource; without `tls`, which is where the resource makes no sense
/// there, certificates are not looked at.
///
/// # Errors
/// [`ObserveError`] for the first read that failed: nothing is decided on half a picture.
pub async fn observe(
    client: &Client,
    resource: &CacheCluster,
    tls: Option<&Tls>,
    asker: &Asker<'_>,
) -> Result<Observed, ObserveError> {
    let reader = Reader { client, resource, name: resource.name_any() };
    let nodes = format!("{}-nodes", reader.name);
    let (set, client_service, node_service, budget, account, config_maps, controller_revisions, pods) = tokio::try_join!(
        reader.named::<StatefulSet>(&reader.name),
        reader.named::<Service>(&reader.name),
        reader.named::<Service>(&nodes),
        reader.named::<PodDisruptionBudget>(&reader.name),
        reader.named::<ServiceAccount>(&reader.name),
        reader.listed::<ConfigMap>(),
        reader.listed::<ControllerRevision>(),
        reader.listed::<Pod>(),
    )?;
    let mut foreign = Vec::new();
    let mut observed = Observed {
        client_service: reader.ours(client_service, &mut foreign),
        node_service: reader.ours(node_service, &mut foreign),
        disruption_budget: reader.ours(budget, &mut foreign),
        service_account: reader.ours(account, &mut foreign),
        stateful_set: reader.ours(set, &mut foreign),
        config_maps: reader.owned(config_maps),
        controller_revisions: reader.owned(controller_revisions),
        ..Observed::default()
    };
    let record = record::name_for(&reader.name);
    let (records, revisions): (Vec<_>, Vec<_>) =
        observed.controller_revisions.iter().partition(|stored| stored.name_any() == record);
    observed.record = records.first().map(|stored| Record::read(stored)).transpose()?;
    observed.revisions = revisions.into_iter().map(Revision::read).collect::<Result<_, _>>()?;
    observed.set = observed.stateful_set.as_ref().map(Set::of);
    let set_uid = observed.stateful_set.as_ref().and_then(ResourceExt::uid);
    let members = pods.iter().filter(|pod| set_uid.is_none() || controller_uid(*pod) == set_uid.as_deref());
    observed.pods = members.filter_map(|pod| NodePod::of(&reader.name, pod)).collect();
    observed.storage = reader.storage(&observed).await?;
    reader.endpoints(&mut observed.pods).await?;
    if let Some(tls) = tls {
        observed.secrets = reader.secrets(tls, &observed, &mut foreign).await?;
    }
    observed.pods = asker.ask(std::mem::take(&mut observed.pods), &observed.secrets, &reader.names()).await;
    observed.foreign = foreign;
    Ok(observed)
}

struct Reader<'a> {
    client: &'a Client,
    resource: &'a CacheCluster,
    name: String,
}

impl Reader<'_> {
    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.resource.namespace().unwrap_or_default())
    }

    async fn named<K>(&self, name: &str) -> Result<Option<K>, ObserveError>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let what = || format!("{} {name}", K::kind(&()));
        self.api::<K>().get_opt(name).await.map_err(|source| ObserveError::Read { what: what(), source })
    }

    async fn listed<K>(&self) -> Result<Vec<K>, ObserveError>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let selected = ListParams::default().labels(&labels::selector_text(&self.name));
        let what = || format!("the {} of {}", K::plural(&()), self.name);
        let list = self.api::<K>().list(&selected).await;
        list.map(|list| list.items).map_err(|source| ObserveError::Read { what: what(), source })
    }

    fn names(&self) -> Names {
        let namespace = self.resource.namespace().unwrap_or_default();
        Names { cluster: self.name.clone(), namespace, domain: String::new() }
    }

    async fn secrets(
        &self,
        tls: &Tls,
        observed: &Observed,
        foreign: &mut Vec<String>,
    ) -> Result<Secrets, ObserveError> {
        let mut secrets =
            Secrets { admin: self.ours(self.named(&tls.names.admin_tls()).await?, foreign), ..Secrets::default() };
        if let Some(name) = &tls.monitoring {
            secrets.monitoring = Some((name.clone(), self.found(name).await?));
        }
        if let Source::Secret(name) = &tls.source {
            secrets.given = self.named(name).await?;
        }
        if observed.has_issued_tls(tls) {
            secrets.ca = self.ours(self.named(&tls.names.ca()).await?, foreign);
            // Also where it issued until now: what it was asked for is then taken back.
            let was_others = secrets.ca.as_ref().and_then(CaMaterial::read).is_some_and(|ca| ca.key.is_none());
            if was_others || matches!(tls.source, Source::CertManager { .. }) {
                secrets.issued = self.issued(tls, &certify::members(tls, observed)).await?;
            }
            secrets.nodes = self.ours(self.named(&tls.names.node_tls()).await?, foreign);
            for client in &tls.clients {
                secrets.clients.insert(client.secret_name.clone(), self.found(&client.secret_name).await?);
            }
        }
        Ok(secrets)
    }

    /// What cert-manager has, for everybody who is to have something of it.
    async fn issued(&self, tls: &Tls, members: &[String]) -> Result<Seen, ObserveError> {
        let namespace = self.resource.namespace().unwrap_or_default();
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &namespace, &cert_manager::kind());
        let selected = ListParams::default().labels(&labels::selector_text(&self.name));
        let certificates = match api.list(&selected).await {
            Ok(list) => Some(list.items.into_iter().filter(|object| self.is_ours(object)).collect()),
            // No such kind: it is not installed, or not yet.
            Err(kube::Error::Api(status)) if status.code == 404 => None,
            Err(source) => {
                return Err(ObserveError::Read { what: format!("the Certificates of {}", self.name), source });
            }
        };
        let reads = cert_manager::holders(tls, members).into_iter().map(|holder| async move {
            let secret = self.named::<Secret>(&holder.name).await?;
            Ok::<_, ObserveError>(secret.as_ref().and_then(Offer::read).map(|offer| (holder.name, offer)))
        });
        let read: Vec<_> = stream::iter(reads).buffer_unordered(READS_AT_ONCE).try_collect().await?;
        Ok(Seen { certificates, offers: read.into_iter().flatten().collect() })
    }

    async fn found(&self, name: &str) -> Result<Found, ObserveError> {
        let mut foreign = Vec::new();
        let ours = self.ours(self.named::<Secret>(name).await?, &mut foreign);
        Ok(match ours {
            Some(secret) => Found::Ours(Box::new(secret)),
            None if foreign.is_empty() => Found::Missing,
            None => Found::Foreign,
        })
    }

    /// Keeps what is controlled by the resource and notes what is not.
    fn ours<K: Resource<DynamicType = ()>>(&self, found: Option<K>, foreign: &mut Vec<String>) -> Option<K> {
        let found = found?;
        if self.is_ours(&found) {
            return Some(found);
        }
        foreign.push(format!("{} {}", K::kind(&()), found.name_any()));
        None
    }

    fn owned<K: Resource<DynamicType = ()>>(&self, found: Vec<K>) -> Vec<K> {
        found.into_iter().filter(|object| self.is_ours(object)).collect()
    }

    fn is_ours<K: Resource>(&self, object: &K) -> bool {
        controller_uid(object) == self.resource.uid().as_deref()
    }
}

fn controller_uid<K: Resource>(object: &K) -> Option<&str> {
    let owners = object.meta().owner_references.as_ref()?;
    owners.iter().find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.as_str())
}

impl Observed {
    /// The pod with this ordinal, if it serves.
    #[must_use]
    pub fn serving(&self, ordinal: i32) -> Option<&NodePod> {
        self.pods.iter().find(|pod| pod.ordinal == ordinal && pod.serves())
    }
}

impl Set {
    fn of(set: &StatefulSet) -> Set {
        let spec = set.spec.clone().unwrap_or_default();
        let strategy = spec.update_strategy.unwrap_or_default();
        let annotations = spec.template.metadata.and_then(|meta| meta.annotations).unwrap_or_default();
        let status = set.status.clone().unwrap_or_default();
        Set {
            replicas: spec.replicas.unwrap_or(1),
            partition: strategy.rolling_update.and_then(|rolling| rolling.partition).unwrap_or(0),
            on_delete: strategy.type_.as_deref() == Some("OnDelete"),
            revision: annotations.get(REVISION_ANNOTATION).cloned().unwrap_or_default(),
            settled: status.observed_generation >= set.metadata.generation,
            current: status.current_revision.is_some() && status.current_revision == status.update_revision,
            update: status.update_revision,
        }
    }
}

impl NodePod {
    /// Ready, and not on its way out.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.ready && !self.terminating
    }

    /// `None` for a pod whose name is not the cluster's with an ordinal.
    fn of(cluster: &str, pod: &Pod) -> Option<NodePod> {
        let name = pod.name_any();
        let ordinal = name.strip_prefix(cluster)?.strip_prefix('-')?.parse().ok()?;
        let status = pod.status.clone().unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        let readiness = conditions.iter().find(|condition| condition.type_ == "Ready");
        let said_ready = readiness.is_some_and(|condition| condition.status == "True");
        // The kubelet may not have seen yet that the gate was closed.
        let gate = Gate::of(pod);
        let ready = said_ready && gate != Gate::Closed;
        let since = readiness.and_then(|condition| condition.last_transition_time.clone());
        let running = status.phase.as_deref() == Some("Running");
        let container = status.container_statuses.unwrap_or_default().into_iter().next();
        let restarts = container.as_ref().map_or(0, |container| container.restart_count);
        let image = container.as_ref().map(|container| container.image_id.clone()).unwrap_or_default();
        let fault = container.as_ref().and_then(fault);
        let container_ready = container.as_ref().is_some_and(|container| container.ready);
        let waiting = container.and_then(|container| container.state).and_then(|state| state.waiting);
        let unscheduled = conditions.iter().find(|c| c.type_ == "PodScheduled" && c.status == "False");
        let trouble = match (ready, waiting, unscheduled) {
            (true, ..) => String::new(),
            (_, Some(waiting), _) => sentence(waiting.reason, waiting.message),
            (_, _, Some(unscheduled)) => sentence(unscheduled.reason.clone(), unscheduled.message.clone()),
            _ if gate == Gate::Closed => "it changes in place".to_owned(),
            _ => status.reason.unwrap_or_else(|| "not ready yet".to_owned()),
        };
        Some(NodePod {
            ordinal,
            uid: pod.uid().unwrap_or_default(),
            resource_version: pod.resource_version().unwrap_or_default(),
            revision: pod.annotations().get(REVISION_ANNOTATION).cloned().unwrap_or_default(),
            hash: pod.labels().get(HASH_LABEL).cloned().unwrap_or_default(),
            ready,
            terminating: pod.metadata.deletion_timestamp.is_some(),
            host: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
            since: since.or_else(|| pod.metadata.creation_timestamp.clone()).map(|time| time.0),
            trouble,
            fault,
            restarts,
            image,
            container_ready,
            gate,
            moved_at: pod.annotations().get(MOVED_ANNOTATION).and_then(|text| text.parse().ok()),
            is_endpoint: said_ready,
            address: status.pod_ip.filter(|_| running),
            mounts: Mounts::of(cluster, pod),
            touched: pod.annotations().get(TOUCHED_ANNOTATION).and_then(|text| text.parse().ok()).unwrap_or(0),
            report: None,
            served: None,
            name,
        })
    }
}

impl Mounts {
    fn of(cluster: &str, pod: &Pod) -> Mounts {
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        let secrets: Vec<&str> = volumes.filter_map(|volume| volume.secret.as_ref()?.secret_name.as_deref()).collect();
        let names = Names { cluster: cluster.to_owned(), ..Names::default() };
        Mounts {
            node_tls: secrets.contains(&names.node_tls().as_str()),
            given_tls: pod
                .spec
                .iter()
                .flat_map(|spec| spec.volumes.iter().flatten())
                .any(|volume| volume.name == TLS_VOLUME && volume.projected.is_some()),
            admin_tls: secrets.contains(&names.admin_tls().as_str()),
        }
    }
}

/// Waiting for these leads nowhere: the image or the program is at fault.
const FAULTS: [&str; 6] = [
    "CrashLoopBackOff",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
    "CreateContainerError",
];

/// Why a container cannot run.
fn fault(container: &ContainerStatus) -> Option<String> {
    let states = [container.state.as_ref(), container.last_state.as_ref()];
    let killed = states.into_iter().flatten().filter_map(|state| state.terminated.as_ref());
    if let Some(killed) = killed.into_iter().find(|killed| killed.reason.as_deref() == Some("OOMKilled")) {
        let code = killed.exit_code;
        return Some(format!("OOMKilled: its memory limit was exceeded (exit code {code})"));
    }
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref().filter(|reason| FAULTS.contains(reason))?;
    Some(sentence(Some(reason.to_owned()), waiting.message.clone()))
}

fn sentence(reason: Option<String>, message: Option<String>) -> String {
    [reason, message].into_iter().flatten().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
pub(crate) mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    use super::NodePod;

    pub(crate) fn pod(ordinal: i32, revision: &str, ready: bool) -> NodePod {
        NodePod {
            name: format!("demo-{ordinal}"),
            ordinal,
            uid: format!("uid-{ordinal}-{revision}"),
            resource_version: "1".to_owned(),
            revision: revision.to_owned(),
            ready,
            host: "host".to_owned(),
            image: "sha256:1".to_owned(),
            ..NodePod::default()
        }
    }

    /// Of a node that has had so many requests.
    pub(crate) fn report(requests: u64) -> config::Status {
        let text = json!({
            "version": "0.1.0", "configurationHash": "", "phase": "Serving", "uptimeSeconds": requests,
            "items": {"live": 0, "evicted": 0, "expired": 0},
            "requests": {"hits": 0, "misses": 0, "total": requests, "serverErrors": 0},
            "memory": {"cacheLimit": 0, "cacheUsed": 0, "buffersLimit": 0, "buffersUsed": 0, "resident": 0},
            "connections": {"open": 0, "limit": 0, "refused": 0},
        });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn what_can_never_run_is_known_at_once() {
        let of = |container: Value| {
            let status = json!({"phase": "Running", "containerStatuses": [container]});
            let pod = json!({"metadata": {"name": "demo-2"}, "status": status});
            NodePod::of("demo", &serde_json::from_value::<Pod>(pod).unwrap()).unwrap().fault
        };
        let container = |rest: Value| {
            let mut all = json!({"name": "cache-node", "image": "i", "imageID": "", "ready": false, "restartCount": 0});
            all.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
            of(all)
        };
        let waits = |reason: &str| container(json!({"state": {"waiting": {"reason": reason, "message": "why"}}}));
        assert_eq!(waits("CrashLoopBackOff").unwrap(), "CrashLoopBackOff: why");
        assert_eq!(waits("ImagePullBackOff").unwrap(), "ImagePullBackOff: why");
        assert_eq!(waits("ContainerCreating"), None);
        assert_eq!(waits("ErrImagePull"), None, "the registry may have been away for a moment");
        let killed = json!({"lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}});
        assert!(container(killed).unwrap().starts_with("OOMKilled"));
        let ended = json!({"lastState": {"terminated": {"reason": "Error", "exitCode": 1}}, "state": {"running": {}}});
        assert_eq!(container(ended), None);
    }
}

//! A CacheCluster as a test sees it: its condition, its pods, its keys.

use std::collections::{BTreeMap, BTreeSet};

use gannet_crds::{CacheCluster, condition};
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::{Value, json};

use crate::bed::{self, Tool, repository};
use crate::failure::{Failure, Outcome};
use crate::operator::restarts;
use crate::scenario::{NOTICED, SERVING, Scenario, until};
use crate::{ensure, http};

/// A cache-node's pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePod {
    /// Such as `demo-0`.
    pub name: String,
    /// Another one for every pod of the same name.
    pub uid: String,
    /// How often its container was restarted.
    pub restarts: i32,
    /// Whether it serves, and is not on its way out.
    pub ready: bool,
    /// Its address; empty until it has one.
    pub address: String,
    /// Its image.
    pub image: String,
    /// The host it is on; empty until it is on one.
    pub host: String,
    /// The ConfigMap of its configuration.
    pub config_map: String,
    /// Why its container waits, such as `ImagePullBackOff`; empty where it does not.
    pub waiting: String,
}

/// A spec for small machines: `replicas` nodes of 48Mi that stop quickly.
#[must_use]
pub fn small(replicas: u32) -> Value {
    json!({
        "replicas": replicas,
        "node": {"memory": "48Mi", "cpu": "20m", "maxConnections": 256, "drainDelay": "1s"},
    })
}

/// A spec with the fields of another laid over it.
#[must_use]
pub fn with(mut spec: Value, fields: Value) -> Value {
    merge(&mut spec, fields);
    spec
}

fn merge(into: &mut Value, fields: Value) {
    match (into, fields) {
        (Value::Object(into), Value::Object(fields)) => {
            for (key, value) in fields {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, value) => *into = value,
    }
}

/// The condition of this type.
///
/// # Errors
/// Where it is missing: all of them are always there once the operator has reported.
pub fn condition_of<'a>(cluster: &'a CacheCluster, type_: &str) -> Outcome<&'a Condition> {
    let conditions = cluster.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let found = conditions.iter().find(|condition| condition.type_ == type_);
    found.ok_or_else(|| Failure::new(format!("{} has no condition {type_}", cluster.name_any())))
}

/// Succeeds where the operator has reported on the cluster's current generation.
///
/// # Errors
/// Where its report is about an earlier one.
pub fn is_observed(cluster: &CacheCluster) -> Outcome {
    let observed = cluster.status.as_ref().and_then(|status| status.observed_generation);
    let generation = cluster.metadata.generation;
    ensure!(observed == generation, "generation {generation:?}, but the report is about {observed:?}");
    Ok(())
}

impl Scenario {
    /// The pods of a cluster, those on their way out included, in the order of their names.
    ///
    /// # Errors
    /// Where the API server does not answer.
    pub async fn nodes(&self, cluster: &str) -> Outcome<Vec<NodePod>> {
        let selector = format!("app.kubernetes.io/name=cache-node,app.kubernetes.io/instance={cluster}");
        let pods = self.all::<Pod>().list(&ListParams::default().labels(&selector)).await?;
        let mut nodes: Vec<NodePod> = pods.into_iter().map(node_pod).collect();
        nodes.sort_by(|a, b| (a.name.len(), &a.name).cmp(&(b.name.len(), &b.name)));
        Ok(nodes)
    }

    /// Waits until a cluster is all that it is declared to be: reported ready, nothing under way, every pod serving.
    ///
    /// # Returns
    /// Its pods.
    ///
    /// # Errors
    /// After [`SERVING`], saying what is missing.
    pub async fn settled(&self, cluster: &str) -> Outcome<Vec<NodePod>> {
        until(&format!("{cluster} to settle"), SERVING, || self.is_settled(cluster)).await
    }

    async fn is_settled(&self, name: &str) -> Outcome<Vec<NodePod>> {
        let cluster = self.clusters().get(name).await?;
        is_observed(&cluster)?;
        for (type_, expected) in [(condition::READY, "True"), (condition::RECONCILING, "False")] {
            let found = condition_of(&cluster, type_)?;
            let Condition { status, reason, message, .. } = found;
            ensure!(status == expected, "{type_} is {status} ({reason}: {message})");
        }
        let status = cluster.status.clone().unwrap_or_default();
        let declared = cluster.spec.replicas;
        ensure!(status.ready_replicas == declared, "{} of {declared} ready", status.ready_replicas);
        ensure!(status.updated_replicas == declared, "{} of {declared} updated", status.updated_replicas);
        let nodes = self.nodes(name).await?;
        let ready = nodes.iter().filter(|node| node.ready).count();
        let expected = usize::try_from(declared)?;
        ensure!(nodes.len() == expected && ready == expected, "{ready} of {} pods serve", nodes.len());
        Ok(nodes)
    }

    /// Waits until a condition of a cluster, about its current generation, has this status and reason.
    ///
    /// # Returns
    /// The condition's message.
    ///
    /// # Errors
    /// After [`NOTICED`], saying what it is instead.
    pub async fn condition(&self, cluster: &str, type_: &str, status: &str, reason: &str) -> Outcome<String> {
        until(&format!("{cluster} to be {type_}={status} {reason}"), NOTICED, || async {
            let object = self.clusters().get(cluster).await?;
            is_observed(&object)?;
            let found = condition_of(&object, type_)?;
            let is_expected = found.status == status && (reason.is_empty() || found.reason == reason);
            ensure!(is_expected, "{type_}={} {}: {}", found.status, found.reason, found.message);
            Ok(found.message.clone())
        })
        .await
    }

    /// Waits until every node says at its admin port that it runs the configuration of its ConfigMap, and that this has
    /// a line `line`.
    ///
    /// # Errors
    /// After [`NOTICED`], saying which does not.
    pub async fn all_run(&self, cluster: &str, line: &str) -> Outcome {
        until(&format!("all nodes of {cluster} to run `{line}`"), NOTICED, || async {
            for node in self.nodes(cluster).await? {
                let file = self.configuration(&node).await?;
                ensure!(file.lines().any(|l| l == line), "{} is given a configuration without it:\n{file}", node.name);
                let status = self.node_status(cluster, &node).await?;
                let hash = &status.configuration_hash;
                ensure!(
                    !hash.is_empty() && node.config_map.ends_with(hash.as_str()),
                    "{} runs configuration {hash} and is given {}",
                    node.name,
                    node.config_map
                );
            }
            Ok(())
        })
        .await
    }

    /// What a node says of itself at its admin port. It is asked as the monitoring is: a Secret for that is declared where there
    /// is none, which touches no pod.
    ///
    /// # Errors
    /// Where there is no such Secret in time, or the node does not answer.
    pub async fn node_status(&self, cluster: &str, node: &NodePod) -> Outcome<config::Status> {
        let declared = self.clusters().get(cluster).await?.spec.monitoring.client_secret_name;
        let secret = match declared {
            Some(name) => name,
            None => {
                let name = format!("{cluster}-monitoring");
                self.change(cluster, json!({"monitoring": {"clientSecretName": name}})).await?;
                name
            }
        };
        let credentials = self.credentials(&secret).await?;
        let host = format!("{}.{cluster}-nodes.{}.svc", node.name, self.namespace);
        let answer = http::get_by_tls(&node.address, config::ADMIN_PORT, "/status", &host, &credentials).await?;
        Ok(serde_json::from_str(&answer)?)
    }

    /// Waits for the Secret of a client.
    ///
    /// # Returns
    /// What it holds now.
    ///
    /// # Errors
    /// After [`NOTICED`], saying what is missing.
    pub async fn credentials(&self, secret: &str) -> Outcome<http::Credentials> {
        until(&format!("Secret {secret}"), NOTICED, || async {
            let data = self.all::<Secret>().get(secret).await?.data.unwrap_or_default();
            let text = |name: &str| {
                let bytes = data.get(name).ok_or_else(|| Failure::new(format!("{secret} has no {name}")))?;
                Ok::<_, Failure>(String::from_utf8_lossy(&bytes.0).into_owned())
            };
            Ok(http::Credentials { authorities: text("ca.crt")?, certificate: text("tls.crt")?, key: text("tls.key")? })
        })
        .await
    }

    /// The text of the configuration that a node is given.
    ///
    /// # Errors
    /// Where its ConfigMap is not there.
    pub async fn configuration(&self, node: &NodePod) -> Outcome<String> {
        let map = self.all::<k8s_openapi::api::core::v1::ConfigMap>().get(&node.config_map).await?;
        let file = map.data.unwrap_or_default().remove("cache-node.yaml");
        file.ok_or_else(|| Failure::new(format!("{} has no cache-node.yaml", node.config_map)))
    }

    /// The DNS names and ports of a cluster's first `replicas` nodes: what an application hashes its keys over.
    #[must_use]
    pub fn addresses(&self, cluster: &str, replicas: usize) -> Vec<String> {
        let name = |node| format!("{cluster}-{node}.{cluster}-nodes.{}.svc.cluster.local:11211", self.namespace);
        (0..replicas).map(name).collect()
    }

    /// Runs one of the clients in `tests/client` inside the cluster's network.
    ///
    /// # Returns
    /// The JSON that it prints.
    ///
    /// # Errors
    /// Where it fails: with its outputs.
    pub async fn use_client(&self, script: &str, arguments: &[&str], addresses: &[String]) -> Outcome<Value> {
        let script = repository().join("tests/client").join(script).display().to_string();
        let mut all = vec![script.as_str()];
        all.extend(arguments);
        all.extend(addresses.iter().map(String::as_str));
        Ok(serde_json::from_str(&bed::run(Tool::Python, &all).await?)?)
    }

    /// Sets so many keys over these nodes.
    ///
    /// # Errors
    /// Where one is not stored.
    pub async fn set_keys(&self, count: u32, addresses: &[String]) -> Outcome {
        let stored = self.use_client("keys.py", &["set", &count.to_string()], addresses).await?;
        ensure!(stored == json!({"stored": count}), "{stored} of {count} keys");
        Ok(())
    }

    /// Gets so many keys over these nodes.
    ///
    /// # Returns
    /// How many are there.
    ///
    /// # Errors
    /// Where one has another value than was set.
    pub async fn get_keys(&self, count: u32, addresses: &[String]) -> Outcome<u64> {
        let found = self.use_client("keys.py", &["get", &count.to_string()], addresses).await?;
        found["found"].as_u64().ok_or_else(|| Failure::new(format!("the client says {found}")))
    }

    /// Every object in the namespace that someone made, as `Kind/name` and UID. Left out is what comes and goes by
    /// itself.
    ///
    /// # Errors
    /// Where kubectl fails.
    pub async fn objects(&self) -> Outcome<BTreeSet<(String, String)>> {
        const KINDS: &str = "pods,services,configmaps,serviceaccounts,secrets,endpointslices.discovery.k8s.io,\
            statefulsets.apps,controllerrevisions.apps,poddisruptionbudgets.policy,leases.coordination.k8s.io,\
            roles.rbac.authorization.k8s.io,rolebindings.rbac.authorization.k8s.io,persistentvolumeclaims,\
            cacheclusters.gannet.dev";
        let list: Value = serde_json::from_str(&self.kubectl(&["get", KINDS, "--output", "json"]).await?)?;
        let mut objects = BTreeSet::new();
        for object in list["items"].as_array().into_iter().flatten() {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let name = format!("{}/{}", text(&object["kind"]), text(&object["metadata"]["name"]));
            objects.insert((name, text(&object["metadata"]["uid"])));
        }
        Ok(objects)
    }
}

/// UID and restart count by name: equal before and after means that nothing happened to the pods.
#[must_use]
pub fn lives(nodes: &[NodePod]) -> BTreeMap<String, (String, i32)> {
    nodes.iter().map(|node| (node.name.clone(), (node.uid.clone(), node.restarts))).collect()
}

/// A host that takes no new pods; it does again, however the test ends: others run on it too.
pub struct Cordoned<'a>(pub &'a str);

impl Drop for Cordoned<'_> {
    fn drop(&mut self) {
        if let Err(failure) = bed::run_blocking(Tool::Kubectl, &["uncordon", self.0]) {
            eprintln!("{} stays cordoned: {failure}", self.0);
        }
    }
}

/// Whether a pod serves and is not on its way out.
#[must_use]
pub fn serves(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let is_ready = conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    is_ready && pod.metadata.deletion_timestamp.is_none()
}

fn node_pod(pod: Pod) -> NodePod {
    let (ready, restarts) = (serves(&pod), restarts(&pod));
    let (name, uid) = (pod.name_any(), pod.uid().unwrap_or_default());
    let spec = pod.spec.unwrap_or_default();
    let status = pod.status.unwrap_or_default();
    let maps = spec.volumes.iter().flatten().filter_map(|volume| volume.config_map.as_ref());
    let states = status.container_statuses.iter().flatten().filter_map(|container| container.state.as_ref());
    NodePod {
        name,
        uid,
        restarts,
        ready,
        address: status.pod_ip.clone().unwrap_or_default(),
        image: spec.containers.iter().filter_map(|container| container.image.clone()).next().unwrap_or_default(),
        host: spec.node_name.clone().unwrap_or_default(),
        config_map: maps.map(|map| map.name.clone()).next().unwrap_or_default(),
        waiting: states.filter_map(|state| state.waiting.clone()?.reason).next().unwrap_or_default(),
    }
}

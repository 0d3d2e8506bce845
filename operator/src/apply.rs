//! The only writer of objects: server-side apply in order, deletion of stuck pods, pruning.

use std::collections::BTreeMap;
use std::fmt::Debug;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret};
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::cert_manager::{self, Asked};
use crate::certify::SecretWrite;
use crate::cluster::Cluster;
use crate::desired::Desired;
use crate::observe::storage::Claim;
use crate::observe::{NodePod, Observed, TOUCHED_ANNOTATION};
use crate::rollout::in_place::Move;

pub mod moves;

/// The field manager under which everything is applied.
pub const FIELD_MANAGER: &str = "cache-operator";

/// Says what was applied last. With it and the object at hand it can be seen that there is nothing to write.
const APPLIED_ANNOTATION: &str = "gannet.dev/applied";

/// What was written. Status and events are made from it, so they cannot tell of what was not done.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// Such as `Service demo`.
    pub created: Vec<String>,
    pub changed: Vec<String>,
    pub pruned: Vec<String>,
    pub deleted_pods: Vec<String>,
    /// Parts of changes in place.
    pub moves: Vec<Move>,
    /// Claims, with the volumes that they gave up.
    pub given_up: Vec<String>,
}

/// A write that failed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("cannot apply {what}: {source}")]
    Apply {
        what: String,
        #[source]
        source: kube::Error,
    },
    #[error("{what} exists and belongs to something else")]
    NameTaken { what: String },
    #[error("{what} was changed by someone else since it was read")]
    Changed { what: String },
    #[error("cannot write {what} as JSON: {source}")]
    Write {
        what: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("cannot delete {what}: {source}")]
    Delete {
        what: String,
        #[source]
        source: kube::Error,
    },
}

/// Brings about what is desired. Killed between any two writes, the next run finishes the work.
///
/// # Errors
/// [`ApplyError`] for the first write that failed.
pub async fn apply(
    client: &Client,
    cluster: &Cluster,
    desired: Desired,
    observed: &Observed,
) -> Result<Applied, ApplyError> {
    let Desired {
        service_account,
        config_maps,
        controller_revisions,
        node_service,
        client_service,
        disruption_budget,
        stateful_set,
        moves,
        give_up,
        delete,
    } = desired;
    let mut writer = Writer { client, namespace: &cluster.namespace, applied: Applied::default() };
    let kept_maps: Vec<String> = config_maps.iter().map(ResourceExt::name_any).collect();
    let kept_revisions: Vec<String> = controller_revisions.iter().map(ResourceExt::name_any).collect();
    writer.apply(service_account, observed.service_account.as_ref()).await?;
    for config_map in config_maps {
        let known = find(&observed.config_maps, &config_map);
        writer.apply(config_map, known).await?;
    }
    for revision in controller_revisions {
        let known = find(&observed.controller_revisions, &revision);
        writer.apply(revision, known).await?;
    }
    writer.apply(node_service, observed.node_service.as_ref()).await?;
    writer.apply(client_service, observed.client_service.as_ref()).await?;
    writer.apply(disruption_budget, observed.disruption_budget.as_ref()).await?;
    writer.apply(stateful_set, observed.stateful_set.as_ref()).await?;
    // After the StatefulSet, whose controller must have been told to keep off them: it is one look ahead.
    writer.applied.moves = moves::moves(client, &cluster.namespace, &moves).await?;
    // Before the pods: one that was made anew would find the old claim, and be bound to the old volume again.
    for claim in give_up.iter().filter(|claim| !claim.terminating) {
        writer.give_up(claim).await?;
    }
    for pod in delete {
        writer.delete_pod(&pod).await?;
    }
    writer.prune::<ConfigMap>(&observed.config_maps, &kept_maps).await?;
    writer.prune::<ControllerRevision>(&observed.controller_revisions, &kept_revisions).await?;
    Ok(writer.applied)
}

/// Writes Secrets: each is created, or replaces the very version that was read. So of two operators only one gets through,
/// and what somebody else made is never overwritten.
///
/// # Errors
/// [`ApplyError`] for the first write that failed; [`ApplyError::Changed`] where another was faster.
pub async fn secrets(client: &Client, namespace: &str, writes: &[SecretWrite]) -> Result<Vec<String>, ApplyError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let mut written = Vec::new();
    for SecretWrite { secret, known } in writes {
        let name = secret.name_any();
        let what = format!("Secret {name}");
        let result = match known {
            // What was read carries its resourceVersion, which is the guard.
            Some(_) => api.replace(&name, &PostParams::default(), secret).await,
            None => api.create(&PostParams::default(), secret).await,
        };
        match result {
            Ok(_) => written.push(what),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                return Err(ApplyError::Changed { what });
            }
            Err(source) => return Err(ApplyError::Apply { what, source }),
        }
    }
    Ok(written)
}

/// Asks cert-manager for what is wanted, takes back what is not, and has renewed what is to be renewed.
///
/// # Errors
/// [`ApplyError`] for the first write that failed.
pub async fn certificates(
    client: &Client,
    namespace: &str,
    asked: &Asked,
    known: &[DynamicObject],
    now: Timestamp,
) -> Result<(), ApplyError> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &cert_manager::kind());
    let what = |name: &str| format!("Certificate {name}");
    let failed = |name: &str, source| ApplyError::Apply { what: what(name), source };
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let find = |name: &str| known.iter().find(|known| known.metadata.name.as_deref() == Some(name));
    for wanted in &asked.certificates {
        let name = wanted.name_any();
        let found = find(&name);
        if found.is_some_and(|found| contains(&found.data, &wanted.data)) {
            continue;
        }
        // As with all objects: one that is not ours is not taken over.
        if found.is_none() && api.get_opt(&name).await.map_err(|source| failed(&name, source))?.is_some() {
            return Err(ApplyError::NameTaken { what: what(&name) });
        }
        api.patch(&name, &params, &Patch::Apply(wanted)).await.map_err(|source| failed(&name, source))?;
    }
    for name in &asked.renewals {
        let patch = cert_manager::renewal(now);
        match api.patch_status(name, &params, &Patch::Apply(patch)).await {
            Ok(_) => {}
            Err(error) if is_gone_or_changed(&error) => {}
            Err(source) => return Err(failed(name, source)),
        }
    }
    let is_wanted = |name: &str| asked.certificates.iter().any(|wanted| wanted.metadata.name.as_deref() == Some(name));
    for name in known.iter().map(ResourceExt::name_any).filter(|name| !is_wanted(name)) {
        match api.delete(&name, &DeleteParams::default()).await {
            Ok(_) => {}
            Err(error) if is_gone_or_changed(&error) => {}
            Err(source) => return Err(ApplyError::Delete { what: what(&name), source }),
        }
    }
    Ok(())
}

/// Touches a pod, so that its kubelet refreshes what it mounts.
///
/// # Errors
/// [`ApplyError::Apply`]; a pod that has gone is none.
pub async fn touch(client: &Client, namespace: &str, pod: &NodePod, now: i64) -> Result<(), ApplyError> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let patch = json!({"metadata": {"uid": pod.uid, "annotations": {TOUCHED_ANNOTATION: now.to_string()}}});
    match api.patch(&pod.name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => Ok(()),
        Err(error) if is_gone_or_changed(&error) => Ok(()),
        Err(source) => Err(ApplyError::Apply { what: format!("pod {}", pod.name), source }),
    }
}

fn find<'a, K: ResourceExt>(known: &'a [K], wanted: &K) -> Option<&'a K> {
    known.iter().find(|object| object.name_any() == wanted.name_any())
}

struct Writer<'a> {
    client: &'a Client,
    namespace: &'a str,
    applied: Applied,
}

impl Writer<'_> {
    async fn apply<K>(&mut self, mut object: K, observed: Option<&K>) -> Result<(), ApplyError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Serialize + DeserializeOwned + Debug,
    {
        let name = object.name_any();
        let what = format!("{} {name}", K::kind(&()));
        let json = |object: &K| {
            serde_json::to_value(object).map_err(|source| ApplyError::Write { what: what.clone(), source })
        };
        let hash = config::content_hash(json(&object)?.to_string().as_bytes());
        object.annotations_mut().insert(APPLIED_ANNOTATION.to_owned(), hash);
        if let Some(observed) = observed
            && contains(&json(observed)?, &json(&object)?)
        {
            return Ok(());
        }
        let api: Api<K> = Api::namespaced(self.client.clone(), self.namespace);
        // A forced apply takes over whatever has the name: it must be the very object that was observed, or none at all.
        match observed {
            Some(observed) => object.meta_mut().uid = observed.uid(),
            None => {
                let found =
                    api.get_opt(&name).await.map_err(|source| ApplyError::Apply { what: what.clone(), source })?;
                if found.is_some() {
                    return Err(ApplyError::NameTaken { what });
                }
            }
        }
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let patched = api.patch(&name, &params, &Patch::Apply(&object)).await;
        patched.map_err(|source| ApplyError::Apply { what: what.clone(), source })?;
        if observed.is_some() {
            self.applied.changed.push(what)
        } else {
            self.applied.created.push(what)
        }
        Ok(())
    }

    /// Deletes the very pod that was observed: not one that took its name since, nor one that has changed since.
    async fn delete_pod(&mut self, pod: &NodePod) -> Result<(), ApplyError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), self.namespace);
        let guard = Preconditions { uid: Some(pod.uid.clone()), resource_version: Some(pod.resource_version.clone()) };
        match api.delete(&pod.name, &DeleteParams::default().preconditions(guard)).await {
            Ok(_) => self.applied.deleted_pods.push(pod.name.clone()),
            Err(error) if is_gone_or_changed(&error) => {}
            Err(source) => return Err(ApplyError::Delete { what: format!("pod {}", pod.name), source }),
        }
        Ok(())
    }

    async fn give_up(&mut self, claim: &Claim) -> Result<(), ApplyError> {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), self.namespace);
        let guard = Preconditions { uid: Some(claim.uid.clone()), resource_version: None };
        match api.delete(&claim.name, &DeleteParams::default().preconditions(guard)).await {
            Ok(_) => self.applied.given_up.push(format!("{} with {}", claim.name, claim.volume)),
            Err(error) if is_gone_or_changed(&error) => {}
            Err(source) => {
                let what = format!("PersistentVolumeClaim {}", claim.name);
                return Err(ApplyError::Delete { what, source });
            }
        }
        Ok(())
    }

    async fn prune<K>(&mut self, observed: &[K], kept: &[String]) -> Result<(), ApplyError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), self.namespace);
        for object in observed.iter().filter(|object| !kept.contains(&object.name_any())) {
            let name = object.name_any();
            let what = format!("{} {name}", K::kind(&()));
            let guard = Preconditions { uid: object.uid(), resource_version: None };
            match api.delete(&name, &DeleteParams::default().preconditions(guard)).await {
                Ok(_) => self.applied.pruned.push(what),
                Err(error) if is_gone_or_changed(&error) => {}
                Err(source) => return Err(ApplyError::Delete { what, source }),
            }
        }
        Ok(())
    }
}

fn is_gone_or_changed(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404 || status.code == 409)
}

/// Whether an object already says all that is wanted. What others added to it does not count; a list counts as a whole,
/// because its order can matter.
fn contains(observed: &Value, wanted: &Value) -> bool {
    match (observed, wanted) {
        (Value::Object(observed), Value::Object(wanted)) => {
            wanted.iter().all(|(key, value)| observed.get(key).is_some_and(|found| contains(found, value)))
        }
        (Value::Array(observed), Value::Array(wanted)) => {
            observed.len() == wanted.len() && observed.iter().zip(wanted).all(|(found, value)| contains(found, value))
        }
        _ => observed == wanted,
    }
}

/// Counts what was written, by kind of write, for metrics.
impl Applied {
    pub fn counts(&self) -> BTreeMap<&'static str, usize> {
        let Applied { created, changed, pruned, deleted_pods, moves, given_up } = self;
        BTreeMap::from([
            ("created", created.len()),
            ("changed", changed.len()),
            ("pruned", pruned.len()),
            ("deleted_pod", deleted_pods.len()),
            ("deleted_claim", given_up.len()),
            ("moved_pod", moves.len()),
        ])
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::contains;

    #[test]
    fn what_others_added_is_left_alone() {
        assert!(contains(&json!({"a": 1, "b": {"c": [1, 2], "d": 3}}), &json!({"b": {"c": [1, 2]}})));
    }

    #[test]
    fn drift_on_own_fields_is_seen() {
        for drifted in [json!({}), json!({"a": 2}), json!({"a": null})] {
            assert!(!contains(&drifted, &json!({"a": 1})), "{drifted}");
        }
        assert!(!contains(&json!({"a": [1, 2]}), &json!({"a": [1]})));
    }
}

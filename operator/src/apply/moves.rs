//! Pods that change in place: the gate, and the one patch that makes another revision of them.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use super::{ApplyError, is_gone_or_changed};
use crate::desired::pod::CONTAINER;
use crate::observe::gate::{GATE, HASH_LABEL, MOVED_ANNOTATION};
use crate::revision::REVISION_ANNOTATION;
use crate::rollout::in_place::{Kind, Move};

/// Does what is to be done to pods. One that has changed or is gone meanwhile is left to the next look.
///
/// # Returns
/// What was done.
///
/// # Errors
/// [`ApplyError`] for the first write that failed.
pub async fn moves(client: &Client, namespace: &str, moves: &[Move]) -> Result<Vec<Move>, ApplyError> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let mut done = Vec::new();
    for moved in moves {
        let name = &moved.pod.name;
        let params = PatchParams::default();
        let result = match &moved.kind {
            Kind::Leave => api.patch_status(name, &params, &Patch::Strategic(gate(moved, false))).await,
            Kind::Join => api.patch_status(name, &params, &Patch::Strategic(gate(moved, true))).await,
            Kind::Change { image, revision, hash } => {
                let patch = json!({
                    "metadata": {
                        // The very pod, and as it was seen: nobody uses it.
                        "uid": moved.pod.uid,
                        "resourceVersion": moved.pod.resource_version,
                        "labels": {HASH_LABEL: hash},
                        "annotations": {
                            REVISION_ANNOTATION: revision,
                            MOVED_ANNOTATION: moved.pod.restarts.to_string(),
                        },
                    },
                    "spec": {"containers": [{"name": CONTAINER, "image": image}]},
                });
                api.patch(name, &params, &Patch::Strategic(patch)).await
            }
        };
        match result {
            Ok(_) => done.push(moved.clone()),
            Err(error) if is_gone_or_changed(&error) => {}
            Err(source) => return Err(ApplyError::Apply { what: format!("pod {name}"), source }),
        }
    }
    Ok(done)
}

fn gate(moved: &Move, is_open: bool) -> serde_json::Value {
    let (status, reason) = if is_open { ("True", "InService") } else { ("False", "ChangesInPlace") };
    let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default().to_string();
    let condition = json!({"type": GATE, "status": status, "reason": reason, "lastTransitionTime": now});
    json!({"metadata": {"uid": moved.pod.uid}, "status": {"conditions": [condition]}})
}

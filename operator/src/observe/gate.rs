//! The readiness gate by which a pod is taken out of the endpoints while it changes in place, and whether it is out of them.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use super::{NodePod, ObserveError, Reader};

/// The condition's type: a pod that has this gate is ready only where it is True.
pub const GATE: &str = "gannet.dev/in-service";
/// How often the container had been restarted when its image was changed.
pub const MOVED_ANNOTATION: &str = "gannet.dev/changed-after-restarts";

/// By which the StatefulSet's controller knows what a pod was made from.
pub const HASH_LABEL: &str = "controller-revision-hash";

/// A pod's gate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gate {
    /// It was made without one.
    #[default]
    Missing,
    /// Nobody has said anything yet.
    Unset,
    Open,
    Closed,
}

impl Gate {
    pub(super) fn of(pod: &Pod) -> Gate {
        let gates = pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
        if !gates.into_iter().any(|gate| gate.condition_type == GATE) {
            return Gate::Missing;
        }
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        match conditions.into_iter().find(|condition| condition.type_ == GATE) {
            None => Gate::Unset,
            Some(condition) if condition.status == "True" => Gate::Open,
            Some(_) => Gate::Closed,
        }
    }
}

impl Reader<'_> {
    /// Looks which pods are endpoints of the Service that applications use, while some pod is to be none.
    pub(super) async fn endpoints(&self, pods: &mut [NodePod]) -> Result<(), ObserveError> {
        if pods.iter().all(|pod| pod.gate != Gate::Closed) {
            return Ok(());
        }
        let api: Api<EndpointSlice> =
            Api::namespaced(self.client.clone(), &self.resource.namespace().unwrap_or_default());
        let selected =
            ListParams::default().labels(&format!("kubernetes.io/service-name={}", self.resource.name_any()));
        let failed = |source| ObserveError::Read { what: format!("the endpoints of {}", self.name), source };
        let slices = api.list(&selected).await.map_err(failed)?;
        let endpoints = slices.items.iter().flat_map(|slice| slice.endpoints.iter());
        let serving = endpoints.filter(|endpoint| {
            // What is not said counts as yes.
            endpoint.conditions.as_ref().is_none_or(|conditions| conditions.ready.unwrap_or(true))
        });
        let names: BTreeSet<&str> =
            serving.filter_map(|endpoint| endpoint.target_ref.as_ref()?.name.as_deref()).collect();
        for pod in pods {
            pod.is_endpoint |= names.contains(pod.name.as_str());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::NodePod;
    use super::Gate;

    #[test]
    fn a_gate_is_what_the_pod_says() {
        let gate = |gates: Value, conditions: Value| {
            let pod =
                json!({"spec": {"containers": [], "readinessGates": gates}, "status": {"conditions": conditions}});
            Gate::of(&serde_json::from_value(pod).unwrap())
        };
        let gates = json!([{"conditionType": "gannet.dev/in-service"}]);
        let condition = |status: &str| json!([{"type": "gannet.dev/in-service", "status": status}]);
        assert_eq!(gate(json!([]), condition("True")), Gate::Missing);
        assert_eq!(gate(gates.clone(), json!([])), Gate::Unset);
        assert_eq!(gate(gates.clone(), condition("True")), Gate::Open);
        assert_eq!(gate(gates, condition("False")), Gate::Closed);
    }

    #[test]
    fn a_closed_gate_counts_before_the_kubelet_has_seen_it() {
        let seen = |status: &str| {
            let conditions =
                json!([{"type": "Ready", "status": "True"}, {"type": "gannet.dev/in-service", "status": status}]);
            let gates = json!([{"conditionType": "gannet.dev/in-service"}]);
            let pod = json!({
                "metadata": {"name": "demo-0"},
                "spec": {"containers": [], "readinessGates": gates},
                "status": {"conditions": conditions},
            });
            NodePod::of("demo", &serde_json::from_value(pod).unwrap()).unwrap()
        };
        assert!(seen("True").ready);
        let closed = seen("False");
        assert!(!closed.ready && closed.is_endpoint, "the Service leads to it still");
    }
}

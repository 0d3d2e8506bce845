//! Where the items are, and where that is not as declared.

use gannet_crds::{CacheCluster, CacheClusterStatus, OnUnavailable, REPLACE_VOLUMES_ANNOTATION, condition};
use kube::ResourceExt;
use kube::runtime::events::{Event, EventType};

use super::{Finding, NAMED_PODS, Outcome, event};
use crate::observe::storage::Claim;
use crate::observe::{NodePod, Observed};
use crate::storage::has_fallen_back;

/// What the pod says that its items are on; empty where it says nothing, and where they outlive nothing.
pub fn medium(pod: &NodePod) -> String {
    let report = pod.report.as_ref().and_then(|report| report.as_ref().ok());
    let recovery = report.and_then(|report| report.storage.as_ref()?.recovery.as_ref());
    recovery.map(|recovery| format!("{:?}", recovery.medium)).unwrap_or_default()
}

/// Whether items are kept where they are to be.
pub fn finding(resource: &CacheCluster, observed: &Observed) -> Finding {
    let find = |holds, reason, message| Finding { kind: condition::STORAGE_DEGRADED, holds, reason, message };
    let storage = &resource.spec.storage;
    let medium = storage.medium;
    let lost: Vec<&Claim> = observed.storage.claims.iter().filter(|claim| claim.lost.is_some()).collect();
    if !lost.is_empty() {
        return find(true, "VolumeLost", lost_message(&resource.name_any(), &lost));
    }
    if has_fallen_back(resource, observed) {
        let message = format!(
            "there was no {medium} when the nodes were first made: their items are in Memory, and stay there; make another \
             CacheCluster to have it decided again"
        );
        return find(true, "Fallback", message);
    }
    match &observed.storage.unavailable {
        Some(unavailable) => {
            let remedy = match storage.on_unavailable {
                OnUnavailable::Fail => "the nodes wait until there is",
                OnUnavailable::Fallback => "the nodes were made for it, and wait until there is",
            };
            find(true, "Unavailable", format!("{medium}: {unavailable}; {remedy}"))
        }
        None => find(false, "AsDeclared", format!("items are on {medium}, as declared")),
    }
}

fn lost_message(cluster: &str, lost: &[&Claim]) -> String {
    let named = lost.iter().take(NAMED_PODS).map(|claim| {
        let place = claim.lost.as_deref().unwrap_or_default();
        format!("{} waits for its volume {}, whose host is gone ({place})", claim.pod, claim.volume)
    });
    let volumes: Vec<&str> = lost.iter().map(|claim| claim.volume.as_str()).collect();
    format!(
        "{}; bring the host back, or give the items up: kubectl annotate --overwrite ccl {cluster} {REPLACE_VOLUMES_ANNOTATION}={}",
        named.collect::<Vec<_>>().join(", "),
        volumes.join(",")
    )
}

/// What changed about it, and what was done.
pub fn events(before: &CacheClusterStatus, after: &CacheClusterStatus, outcome: Outcome<'_>) -> Vec<Event> {
    let of = |status: &CacheClusterStatus| {
        status.conditions.iter().find(|condition| condition.type_ == condition::STORAGE_DEGRADED).cloned()
    };
    let mut events = Vec::new();
    let was = of(before);
    if let Some(now) = of(after)
        && was.as_ref().is_none_or(|was| was.reason != now.reason)
    {
        if now.status == "True" {
            let reason = format!("Storage{}", now.reason);
            events.push(event(EventType::Warning, &reason, "Report", now.message));
        } else if was.is_some() {
            events.push(event(EventType::Normal, "StorageAsDeclared", "Report", now.message));
        }
    }
    if let Outcome::Stepped { applied, .. } = outcome
        && !applied.given_up.is_empty()
    {
        let note = format!("gave up {}: the nodes begin empty elsewhere", applied.given_up.join(", "));
        events.push(event(EventType::Normal, "VolumeReplaced", "Storage", note));
    }
    events
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::finding;
    use crate::cluster::tests::resource;
    use crate::observe::Observed;
    use crate::observe::storage::{Claim, SeenStorage};

    fn seen(unavailable: Option<&str>, lost: Option<&str>) -> Observed {
        let claim = Claim {
            name: "items-demo-1".to_owned(),
            uid: "1".to_owned(),
            pod: "demo-1".to_owned(),
            volume: "disk-7".to_owned(),
            terminating: false,
            lost: lost.map(str::to_owned),
        };
        let storage = SeenStorage { unavailable: unavailable.map(str::to_owned), claims: vec![claim], blind: false };
        Observed { storage, ..Observed::default() }
    }

    #[test]
    fn what_is_wrong_with_the_storage_is_told_with_its_remedy() {
        let storage = |on: &str| json!({"storage": {"medium": "Hugepages", "capacity": "64Mi", "onUnavailable": on}});
        let (fail, fallback) = (resource(storage("Fail")), resource(storage("Fallback")));
        for (resource, observed, reason, words) in [
            (&fail, seen(None, None), "AsDeclared", "items are on Hugepages"),
            (&fail, seen(Some("no host has it"), None), "Unavailable", "no host has it; the nodes wait"),
            (&fallback, seen(Some("no host has it"), None), "Fallback", "no Hugepages when"),
            (&fail, seen(None, Some("host b")), "VolumeLost", "gannet.dev/replace-volumes=disk-7"),
        ] {
            let found = finding(resource, &observed);
            assert_eq!((found.reason, found.holds), (reason, reason != "AsDeclared"));
            assert!(found.message.contains(words), "{}", found.message);
        }
    }
}

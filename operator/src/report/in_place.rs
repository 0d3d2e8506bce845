//! What is told of pods that change in place, and of those that cannot.

use kube::runtime::events::{Event, EventType};

use super::event;
use crate::apply::Applied;
use crate::cluster::Cluster;
use crate::observe::Observed;
use crate::revision::Revision;
use crate::rollout::in_place::{Cold, Kind, why_cold};
use crate::storage::Volume;

/// How many nodes begin empty when they change to this revision, and why; none where no item is lost.
pub fn cold(cluster: &Cluster, observed: &Observed, target: &Revision) -> Option<String> {
    if matches!(cluster.shape.volume, Volume::Claim(_)) {
        // It comes back with the next pod.
        return None;
    }
    let outdated = observed.pods.iter().filter(|pod| pod.revision != target.name);
    let cold: Vec<Cold> = outdated.filter_map(|pod| why_cold(observed, pod, target)).collect();
    let mut reasons: Vec<String> = cold.iter().map(Cold::to_string).collect();
    reasons.sort_unstable();
    reasons.dedup();
    let (nodes, at_once) = (cold.len(), cluster.max_unavailable);
    (nodes > 0).then(|| {
        format!("{nodes} nodes are replaced, at most {at_once} at once, and begin empty: {}", reasons.join("; "))
    })
}

/// What was done in place.
pub fn events(applied: &Applied) -> Vec<Event> {
    let tell = |reason, note| event(EventType::Normal, reason, "Rollout", note);
    let told = applied.moves.iter().filter_map(|moved| match &moved.kind {
        Kind::Leave => {
            Some(tell("ChangingInPlace", format!("{} leaves the endpoints, to change in place", moved.pod.name)))
        }
        Kind::Change { image, revision, .. } => {
            let note = format!("{} becomes revision {revision} in place, with image {image}", moved.pod.name);
            Some(tell("ChangedInPlace", note))
        }
        Kind::Join => None,
    });
    told.collect()
}

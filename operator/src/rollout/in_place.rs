//! Pods whose items are in memory, and of which only the image changes, are kept: the container is replaced, and the items wait for
//! the next one in the pod's volume.
//!
//! A pod that changes so leaves the endpoints first, by its readiness gate; then one patch gives it the new image, the name of the
//! revision and the StatefulSet's hash of it, so that the StatefulSet's controller takes it for one that is made anew already. Its
//! partition stays above the pod until then: below it, the controller would delete the pod. The kubelet ends the old container,
//! which drains, and the gate opens again when the next one is ready. Back goes the same way.
//!
//! Where a pod is in this follows from the pod alone, so an operator that is killed takes nothing with it.

use k8s_openapi::api::core::v1::PodTemplateSpec;

use super::Strategy;
use crate::observe::{Gate, NodePod, Observed};
use crate::revision::{Content, Revision};

/// What is to be done to a pod now.
#[derive(Clone, Debug, PartialEq)]
pub struct Move {
    pub pod: NodePod,
    pub kind: Kind,
}

/// The parts of a change in place, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It leaves the endpoints.
    Leave,
    /// Its image changes.
    Change { image: String, revision: String, hash: String },
    /// It is an endpoint again.
    Join,
}

/// Why a pod cannot change in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cold {
    /// More than the image is another one.
    MoreThanImage,
    /// It was made without what this takes.
    NoGate,
    /// It does not run.
    NotRunning,
}

impl std::fmt::Display for Cold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Cold::MoreThanImage => "more than the image changes, and items in memory end with the pod",
            Cold::NoGate => "the pod is of an operator that did not keep items in a volume",
            Cold::NotRunning => "the pod does not run",
        })
    }
}

/// What is done in place of what a strategy would have done: the partition stays above pods that can be kept, and they are moved.
pub fn plan(observed: &Observed, target: &Revision, replicas: i32, strategy: Strategy) -> (Strategy, Vec<Move>) {
    let Strategy::Partition(partition) = strategy else { return (strategy, ends(observed, &[])) };
    let is_due = |pod: &&NodePod| {
        (partition..replicas).contains(&pod.ordinal)
            && pod.revision != target.name
            && why_cold(observed, pod, target).is_none()
    };
    let due: Vec<&NodePod> = observed.pods.iter().filter(is_due).collect();
    let held = due.iter().map(|pod| pod.ordinal + 1).max().unwrap_or(0);
    let changing: Vec<&str> = due.iter().map(|pod| pod.name.as_str()).collect();
    let mut moves = ends(observed, &changing);
    moves.extend(due.into_iter().filter_map(|pod| next(observed, pod, target)));
    (Strategy::Partition(partition.max(held)), moves)
}

/// Why a pod would be made anew for this revision; none where it is kept.
pub fn why_cold(observed: &Observed, pod: &NodePod, target: &Revision) -> Option<Cold> {
    let content = observed.revisions.iter().find(|revision| revision.name == pod.revision);
    if content.is_none_or(|known| !only_image_differs(&known.content, &target.content)) {
        Some(Cold::MoreThanImage)
    } else if pod.gate == Gate::Missing {
        Some(Cold::NoGate)
    } else if pod.terminating || pod.address.is_none() {
        Some(Cold::NotRunning)
    } else {
        None
    }
}

/// Whether pods of one content can become pods of the other by another image.
fn only_image_differs(one: &Content, other: &Content) -> bool {
    one.configuration == other.configuration && without_image(&one.template) == without_image(&other.template)
}

fn without_image(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    for container in template.spec.iter_mut().flat_map(|spec| &mut spec.containers) {
        container.image = None;
    }
    template
}

/// Pods that would be deleted, to come back on the stable revision: those that can be kept go back in place.
///
/// # Returns
/// What is to be deleted all the same, and what is done to the others.
pub fn back(observed: &Observed, stable: Option<&Revision>, delete: Vec<NodePod>) -> (Vec<NodePod>, Vec<Move>) {
    let Some((stable, set)) = stable.zip(observed.set.as_ref()).filter(|(_, set)| !set.on_delete) else {
        return (delete, Vec::new());
    };
    // The pods that are of it already know the hash.
    let of_stable = observed.pods.iter().find(|pod| pod.revision == stable.name && !pod.hash.is_empty());
    let Some(hash) = of_stable.map(|pod| pod.hash.clone()) else { return (delete, Vec::new()) };
    let is_kept = |pod: &NodePod| {
        pod.revision != stable.name && set.partition > pod.ordinal && why_cold(observed, pod, stable).is_none()
    };
    let (kept, delete): (Vec<NodePod>, Vec<NodePod>) = delete.into_iter().partition(is_kept);
    (delete, kept.iter().filter_map(|pod| part(pod, stable, hash.clone())).collect())
}

/// The next part of a pod's change, once the StatefulSet's controller is ready for it.
fn next(observed: &Observed, pod: &NodePod, target: &Revision) -> Option<Move> {
    let set = observed.set.as_ref()?;
    // Its controller must know the revision, to have a hash of it, and must have been told to keep off this pod.
    let keeps_off = set.revision == target.name && set.settled && !set.on_delete && set.partition > pod.ordinal;
    part(pod, target, set.update.clone().filter(|_| keeps_off)?)
}

fn part(pod: &NodePod, target: &Revision, hash: String) -> Option<Move> {
    let kind = match pod.gate {
        Gate::Open | Gate::Unset => Kind::Leave,
        Gate::Closed if pod.is_endpoint => return None,
        Gate::Closed => Kind::Change { image: target.content.image.clone(), revision: target.name.clone(), hash },
        Gate::Missing => return None,
    };
    Some(Move { pod: pod.clone(), kind })
}

/// Pods whose change is over or was given up are endpoints again.
pub fn ends(observed: &Observed, changing: &[&str]) -> Vec<Move> {
    let is_over = |pod: &&NodePod| {
        // What is ready may be the old container still, which the kubelet has not ended yet.
        let is_next = pod.moved_at.is_none_or(|restarts| pod.restarts > restarts);
        pod.gate == Gate::Closed && pod.container_ready && is_next && !changing.contains(&pod.name.as_str())
    };
    join(observed.pods.iter().filter(is_over))
}

/// Pods that are new: whatever else is decided, or cannot be, they are endpoints as soon as they are ready.
pub fn newcomers(observed: &Observed) -> Vec<Move> {
    join(observed.pods.iter().filter(|pod| pod.gate == Gate::Unset))
}

fn join<'a>(pods: impl Iterator<Item = &'a NodePod>) -> Vec<Move> {
    pods.filter(|pod| !pod.terminating).map(|pod| Move { pod: pod.clone(), kind: Kind::Join }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Cold, Kind, Move, back, plan, why_cold};
    use crate::cluster::Cluster;
    use crate::cluster::tests::resource;
    use crate::observe::{Gate, NodePod, Observed, Set};
    use crate::revision::Revision;
    use crate::rollout::Strategy;

    fn revision(image: &str, spec: serde_json::Value) -> Revision {
        let mut spec = spec;
        spec["image"] = json!(image);
        Revision::render(&Cluster::parse(&resource(spec)).unwrap(), "", 1).unwrap()
    }

    fn pod(ordinal: i32, revision: &Revision) -> NodePod {
        NodePod {
            name: format!("demo-{ordinal}"),
            ordinal,
            revision: revision.name.clone(),
            ready: true,
            container_ready: true,
            gate: Gate::Open,
            is_endpoint: true,
            address: Some("10.0.0.1".to_owned()),
            ..NodePod::default()
        }
    }

    fn set(revision: &Revision, partition: i32) -> Set {
        Set {
            replicas: 3,
            partition,
            on_delete: false,
            revision: revision.name.clone(),
            settled: true,
            current: false,
            update: Some("demo-hash".to_owned()),
        }
    }

    fn kinds(moves: &[Move]) -> Vec<(&str, &Kind)> {
        moves.iter().map(|moved| (moved.pod.name.as_str(), &moved.kind)).collect()
    }

    /// One change of three pods, as Kubernetes would answer to each move; `interrupted` says at which rounds the operator's writes
    /// are lost.
    fn change(from: &Revision, to: &Revision, observed: &mut Observed, lost: impl Fn(usize) -> bool) -> usize {
        for round in 0..100 {
            let plan_partition = |observed: &Observed| {
                // As the plan has it: one pod down at a time, from the top.
                let down = observed.pods.iter().filter(|pod| !pod.ready).count();
                let mut partition =
                    observed.set.as_ref().map_or(3, |set| if set.revision == to.name { set.partition } else { 3 });
                let mut free = 1_usize.saturating_sub(down);
                while partition > 0 {
                    let pod = &observed.pods[usize::try_from(partition - 1).unwrap()];
                    if pod.ready && pod.revision != to.name {
                        if free == 0 {
                            break;
                        }
                        free -= 1;
                    }
                    partition -= 1;
                }
                partition
            };
            let strategy = Strategy::Partition(plan_partition(observed));
            let (strategy, moves) = plan(observed, to, 3, strategy);
            let Strategy::Partition(partition) = strategy else { panic!("{strategy:?}") };
            for pod in &observed.pods {
                assert!(pod.revision == to.name || pod.ordinal < partition, "{} would be deleted", pod.name);
            }
            observed.set = Some(set(to, partition));
            if lost(round) {
                continue;
            }
            for Move { pod, kind } in moves {
                let pod = observed.pods.iter_mut().find(|known| known.name == pod.name).unwrap();
                match kind {
                    Kind::Leave => (pod.gate, pod.ready, pod.is_endpoint) = (Gate::Closed, false, false),
                    Kind::Join => (pod.gate, pod.ready, pod.is_endpoint) = (Gate::Open, true, true),
                    Kind::Change { revision, .. } => {
                        assert!(!pod.ready && !pod.is_endpoint, "{} is in use", pod.name);
                        pod.moved_at = Some(pod.restarts);
                        pod.revision = revision;
                        pod.restarts += 1;
                    }
                }
            }
            assert!(observed.pods.iter().filter(|pod| !pod.ready).count() <= 1, "{observed:?}");
            if observed.pods.iter().all(|pod| pod.revision == to.name && pod.ready) {
                assert_ne!(from.name, to.name);
                return round;
            }
        }
        panic!("no end: {observed:?}");
    }

    #[test]
    fn pods_change_one_by_one_and_none_is_made_anew() {
        let (old, new) = (revision("a", json!({})), revision("b", json!({})));
        for lost in [None, Some(2), Some(3), Some(5)] {
            let mut observed = Observed {
                set: Some(set(&old, 0)),
                revisions: vec![old.clone(), new.clone()],
                pods: (0..3).map(|ordinal| pod(ordinal, &old)).collect(),
                ..Observed::default()
            };
            change(&old, &new, &mut observed, |round| lost.is_some_and(|every| round % every == 0));
            // And back again.
            change(&new, &old, &mut observed, |round| lost.is_some_and(|every| round % every == 1));
            assert!(observed.pods.iter().all(|pod| pod.restarts == 2));
        }
    }

    #[test]
    fn a_pod_is_changed_only_when_nobody_uses_it_and_its_controller_keeps_off() {
        let (old, new) = (revision("a", json!({})), revision("b", json!({})));
        let mut observed = Observed {
            set: Some(set(&new, 1)),
            revisions: vec![old.clone(), new.clone()],
            pods: vec![pod(0, &old)],
            ..Observed::default()
        };
        let moves = |observed: &Observed| plan(observed, &new, 1, Strategy::Partition(0)).1;
        assert_eq!(kinds(&moves(&observed)), [("demo-0", &Kind::Leave)]);
        observed.pods[0].gate = Gate::Closed;
        observed.pods[0].ready = false;
        assert!(moves(&observed).is_empty(), "it is an endpoint still");
        observed.pods[0].is_endpoint = false;
        let image = "b".to_owned();
        let change = Kind::Change { image, revision: new.name.clone(), hash: "demo-hash".to_owned() };
        assert_eq!(kinds(&moves(&observed)), [("demo-0", &change)]);
        for early in [
            Set { settled: false, ..set(&new, 1) },
            Set { partition: 0, ..set(&new, 1) },
            Set { update: None, ..set(&new, 1) },
            set(&old, 1),
        ] {
            observed.set = Some(early);
            assert!(moves(&observed).is_empty(), "{:?}", observed.set);
        }
        let (strategy, _) = plan(&observed, &new, 1, Strategy::Partition(0));
        assert_eq!(strategy, Strategy::Partition(1), "the controller is told to keep off");
        // Nothing is to change any more.
        let (_, given_up) = plan(&observed, &old, 1, Strategy::Partition(0));
        assert_eq!(kinds(&given_up), [("demo-0", &Kind::Join)]);
        // The container that is ready is the old one.
        observed.pods[0].moved_at = Some(0);
        assert!(plan(&observed, &old, 1, Strategy::Partition(0)).1.is_empty());
        observed.pods[0].restarts = 1;
        assert_eq!(kinds(&plan(&observed, &old, 1, Strategy::Partition(0)).1), [("demo-0", &Kind::Join)]);
    }

    #[test]
    fn a_pod_that_nothing_leads_to_goes_back_in_place() {
        let (stable, tried) = (revision("a", json!({})), revision("b", json!({})));
        let stray = NodePod { gate: Gate::Closed, ready: false, is_endpoint: false, ..pod(1, &tried) };
        let peer = NodePod { hash: "demo-stable".to_owned(), ..pod(0, &stable) };
        let revisions = vec![stable.clone(), tried.clone()];
        let pods = vec![peer.clone(), stray.clone()];
        let mut observed = Observed { set: Some(set(&tried, 2)), revisions, pods, ..Observed::default() };
        let (delete, moves) = back(&observed, Some(&stable), vec![peer.clone(), stray.clone()]);
        assert_eq!(delete, [peer], "what is stable already is deleted for another reason");
        let (image, hash) = ("a".to_owned(), "demo-stable".to_owned());
        assert_eq!(kinds(&moves), [("demo-1", &Kind::Change { image, revision: stable.name.clone(), hash })]);
        observed.pods[0].hash.clear();
        assert_eq!(back(&observed, Some(&stable), vec![stray.clone()]), (vec![stray.clone()], Vec::new()));
        assert_eq!(back(&observed, None, vec![stray.clone()]), (vec![stray], Vec::new()));
    }

    #[test]
    fn what_cannot_be_kept_says_why() {
        let old = revision("a", json!({}));
        let other = revision("b", json!({"cache": {"eviction": "Fifo"}}));
        let new = revision("b", json!({}));
        let revisions = vec![old.clone(), new.clone(), other.clone()];
        let observed = Observed { set: Some(set(&new, 1)), revisions, ..Observed::default() };
        let plain = pod(0, &old);
        assert_eq!(why_cold(&observed, &plain, &new), None);
        assert_eq!(why_cold(&observed, &plain, &other), Some(Cold::MoreThanImage));
        let ungated = NodePod { gate: Gate::Missing, ..plain.clone() };
        assert_eq!(why_cold(&observed, &ungated, &new), Some(Cold::NoGate));
        let pending = NodePod { address: None, ..plain.clone() };
        assert_eq!(why_cold(&observed, &pending, &new), Some(Cold::NotRunning));
        let unknown = NodePod { revision: "demo-gone".to_owned(), ..plain };
        assert_eq!(why_cold(&observed, &unknown, &new), Some(Cold::MoreThanImage));
        let observed = Observed { pods: vec![ungated], ..observed };
        assert_eq!(plan(&observed, &new, 1, Strategy::Partition(0)), (Strategy::Partition(0), Vec::new()));
    }
}

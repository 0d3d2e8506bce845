//! What to do next: a pure function of what is declared and what was observed.
//!
//! Pods change from the highest ordinal down. The StatefulSet's partition says down to which, and moves only when
//! `maxUnavailable` survives it; a pod that is down already moves for free. A pod that is stuck *below* the partition
//! (a host too small for it, a bad revision that was superseded) would block that for ever, because a StatefulSet brings
//! pods below the partition back as they were: then the strategy is `OnDelete` for as long as it takes to delete the
//! stuck pods and to have them recreated from the new revision.

use gannet_crds::TemplatePolicy;

use crate::cluster::Cluster;
use crate::observe::{NodePod, Observed};
use crate::revision::{Defaults, Revision, RevisionError};

/// The next step.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The revision to be rolled out.
    pub target: Revision,
    /// Pods to have.
    pub replicas: i32,
    pub strategy: Strategy,
    /// Pods to delete now, because they are stuck.
    pub delete: Vec<NodePod>,
    pub progress: Progress,
}

/// The StatefulSet's update strategy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Pods with this ordinal and above are of the target revision.
    Partition(i32),
    /// No pod is touched but by us; one that is recreated is of the target revision.
    OnDelete,
}

/// How far the target revision has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// No pod had been made yet.
    Creating,
    /// So many pods are of another revision still.
    Rolling { outdated: usize },
    /// Every pod is of the target revision.
    Complete,
    /// `spec.paused`, and something is held back by it.
    Held { rollout: bool, scaling: bool },
}

/// What `decide` found.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// There is something to keep or to bring about.
    Step(Box<Step>),
    /// `spec.paused` before anything was ever rolled out: nothing is made.
    NothingYet,
}

/// Decides on the next step.
///
/// # Errors
/// [`RevisionError`] where a new revision cannot be rendered.
pub fn decide(cluster: &Cluster, observed: &Observed, defaults: &Defaults) -> Result<Decision, RevisionError> {
    let declared = declared_revision(cluster, &observed.revisions, defaults)?;
    let newest = newest(&observed.revisions);
    let (target, replicas, held) = if cluster.paused {
        let Some(newest) = newest else { return Ok(Decision::NothingYet) };
        let replicas = observed.set.as_ref().map_or(cluster.replicas, |set| set.replicas);
        let held = (newest.content.inputs != cluster.inputs, replicas != cluster.replicas);
        (newest.clone(), replicas, held)
    } else {
        (declared, cluster.replicas, (false, false))
    };
    let plan = Plan::new(cluster, observed, &target, replicas);
    let strategy = plan.strategy();
    let progress = match (held, &observed.set, plan.outdated().count()) {
        ((rollout, scaling), ..) if rollout || scaling => Progress::Held { rollout, scaling },
        (_, None, _) => Progress::Creating,
        (_, _, 0) => Progress::Complete,
        (_, _, outdated) => Progress::Rolling { outdated },
    };
    // Deleted only once the StatefulSet's controller has seen the strategy: it would bring the pod back as it was.
    let seen = observed.set.as_ref().is_some_and(|set| set.on_delete && set.settled && set.revision == target.name);
    let delete = if strategy == Strategy::OnDelete && seen { plan.stuck().cloned().collect() } else { Vec::new() };
    Ok(Decision::Step(Box::new(Step { target, replicas, strategy, delete, progress })))
}

fn newest(revisions: &[Revision]) -> Option<&Revision> {
    revisions.iter().max_by_key(|revision| revision.number)
}

/// The revision that the spec asks for: a stored one where the inputs are the same, otherwise a new one.
fn declared_revision(cluster: &Cluster, stored: &[Revision], defaults: &Defaults) -> Result<Revision, RevisionError> {
    let newest = newest(stored);
    let number = newest.map_or(1, |newest| newest.number + 1);
    let same = stored.iter().filter(|revision| revision.content.inputs == cluster.inputs);
    match cluster.template_policy {
        TemplatePolicy::Frozen => {
            if let Some(known) = same.max_by_key(|revision| revision.number) {
                let number = if newest == Some(known) { known.number } else { number };
                return Ok(Revision { number, ..known.clone() });
            }
            // An image that nobody named stays what it was at first, also when something else changes.
            let unnamed = stored.iter().filter(|revision| revision.content.inputs.image.is_none());
            let first_use = unnamed.max_by_key(|revision| revision.number);
            let image = first_use.map_or(defaults.node_image.as_str(), |known| known.content.image.as_str());
            let rendered = Revision::render(cluster, image, number)?;
            // Other words for the same pods, such as the default image given by name, are no change.
            let alike = stored.iter().filter(|known| known.content.makes_the_pods_of(&rendered.content));
            Ok(match alike.max_by_key(|revision| revision.number) {
                Some(known) if newest == Some(known) => known.clone(),
                Some(known) => Revision { number, ..known.clone() },
                None => rendered,
            })
        }
        TemplatePolicy::Latest => {
            let rendered = Revision::render(cluster, &defaults.node_image, number)?;
            match stored.iter().find(|revision| revision.name == rendered.name) {
                Some(known) if newest == Some(known) => Ok(known.clone()),
                _ => Ok(rendered),
            }
        }
    }
}

/// The pods beside what they ought to be.
struct Plan<'a> {
    cluster: &'a Cluster,
    observed: &'a Observed,
    target: &'a Revision,
    replicas: i32,
}

impl<'a> Plan<'a> {
    fn new(cluster: &'a Cluster, observed: &'a Observed, target: &'a Revision, replicas: i32) -> Plan<'a> {
        Plan { cluster, observed, target, replicas }
    }

    fn pod(&self, ordinal: i32) -> Option<&'a NodePod> {
        self.observed.pods.iter().find(|pod| pod.ordinal == ordinal)
    }

    fn is_current(&self, pod: &NodePod) -> bool {
        pod.revision == self.target.name
    }

    fn outdated(&self) -> impl Iterator<Item = &'a NodePod> {
        self.observed.pods.iter().filter(|pod| pod.ordinal < self.replicas && !self.is_current(pod))
    }

    /// Where the partition stands for the target revision: above all pods when the StatefulSet has another template.
    fn partition_now(&self) -> i32 {
        match &self.observed.set {
            Some(set) if set.revision == self.target.name && !set.on_delete => set.partition.min(self.replicas),
            Some(_) => self.replicas,
            None => 0,
        }
    }

    fn strategy(&self) -> Strategy {
        let partition = self.partition();
        let blocked = partition > 0;
        let stuck = self.stuck().any(|pod| pod.ordinal < partition);
        let unsticking =
            self.observed.set.as_ref().is_some_and(|set| set.on_delete && set.revision == self.target.name);
        let returning = (0..self.replicas).any(|ordinal| self.pod(ordinal).is_none_or(|pod| pod.terminating));
        if blocked && (stuck || (unsticking && returning)) {
            Strategy::OnDelete
        } else {
            Strategy::Partition(partition)
        }
    }

    /// The lowest partition that `maxUnavailable` survives.
    fn partition(&self) -> i32 {
        let mut partition = self.partition_now();
        let serves = |ordinal: i32| {
            let leaving = |pod: &NodePod| ordinal >= partition && !self.is_current(pod);
            self.pod(ordinal).is_some_and(|pod| pod.ready && !pod.terminating && !leaving(pod))
        };
        let mut unavailable = (0..self.replicas).filter(|ordinal| !serves(*ordinal)).count();
        let allowed = usize::try_from(self.cluster.max_unavailable).unwrap_or(1);
        while partition > 0 {
            let next = self.pod(partition - 1);
            let disrupts = next.is_some_and(|pod| pod.ready && !pod.terminating && !self.is_current(pod));
            if disrupts {
                if unavailable >= allowed {
                    break;
                }
                unavailable += 1;
            }
            partition -= 1;
        }
        partition
    }

    /// Pods that are down and of another revision: to recreate them costs nothing.
    fn stuck(&self) -> impl Iterator<Item = &'a NodePod> {
        self.outdated().filter(|pod| !pod.ready && !pod.terminating)
    }
}

#[cfg(test)]
mod tests;

//! The pods beside what they ought to be, and how far they can be moved now.
//!
//! A pod that is stuck *below* the partition (a host too small for it, a bad revision that was superseded) would block a change
//! of all pods for ever, because a StatefulSet brings pods below the partition back as they were: then the strategy is
//! `OnDelete` for as long as it takes to delete the stuck pods and to have them recreated from the new revision.

use jiff::Timestamp;

use super::Strategy;
use super::advance::is_warm;
use super::record::Record;
use crate::cluster::Cluster;
use crate::observe::{NodePod, Observed};
use crate::revision::Revision;

/// The pods beside what they ought to be.
pub struct Plan<'a> {
    cluster: &'a Cluster,
    observed: &'a Observed,
    target: &'a Revision,
    record: &'a Record,
    now: Timestamp,
    pub replicas: i32,
}

/// How far the partition goes, and what that costs.
struct Moves {
    partition: i32,
    /// Pods that do not serve, or will not.
    unavailable: usize,
}

impl<'a> Plan<'a> {
    pub fn new(
        cluster: &'a Cluster,
        observed: &'a Observed,
        target: &'a Revision,
        record: &'a Record,
        now: Timestamp,
    ) -> Plan<'a> {
        Plan { cluster, observed, target, record, now, replicas: cluster.replicas }
    }

    fn pod(&self, ordinal: i32) -> Option<&'a NodePod> {
        self.observed.pods.iter().find(|pod| pod.ordinal == ordinal)
    }

    fn is_current(&self, pod: &NodePod) -> bool {
        pod.revision == self.target.name
    }

    /// Pods below this ordinal are left alone.
    fn floor(&self) -> i32 {
        let run = self.record.run.as_ref().filter(|run| run.target == self.target.name);
        run.map_or(0, |run| run.floor().clamp(0, self.replicas))
    }

    /// Pods that are of another revision than they are to be.
    pub fn outdated(&self) -> impl Iterator<Item = &'a NodePod> {
        let floor = self.floor();
        self.observed
            .pods
            .iter()
            .filter(move |pod| pod.ordinal < self.replicas && pod.ordinal >= floor && !self.is_current(pod))
    }

    /// The same, were there so many pods.
    pub fn outdated_of(&self, replicas: i32) -> usize {
        self.observed.pods.iter().filter(|pod| pod.ordinal < replicas && !self.is_current(pod)).count()
    }

    /// Where the partition stands for the target revision: above all pods when the StatefulSet has another template.
    fn partition_now(&self) -> i32 {
        match &self.observed.set {
            Some(set) if set.revision == self.target.name && !set.on_delete => set.partition.min(self.replicas),
            Some(_) => self.replicas,
            None => 0,
        }
    }

    /// The update strategy that `maxUnavailable` survives.
    pub fn strategy(&self) -> Strategy {
        let Moves { partition, .. } = self.moves();
        let blocked = partition > 0 && self.floor() == 0;
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

    fn moves(&self) -> Moves {
        let mut partition = self.partition_now();
        let serves = |ordinal: i32| {
            let leaving = |pod: &NodePod| ordinal >= partition && !self.is_current(pod);
            self.pod(ordinal).is_some_and(|pod| pod.serves() && !leaving(pod))
        };
        let mut unavailable = (0..self.replicas).filter(|ordinal| !serves(*ordinal)).count();
        let run = self.record.run.as_ref().filter(|run| run.target == self.target.name);
        let halted = run.is_some_and(|run| run.halt.is_some());
        let mut may_disrupt = !halted && !self.has_strays() && self.is_warm();
        while partition > self.floor() {
            let next = self.pod(partition - 1);
            let disrupts = next.is_some_and(|pod| pod.serves() && !self.is_current(pod));
            if disrupts {
                if unavailable >= self.allowed() || !may_disrupt {
                    break;
                }
                unavailable += 1;
                // In a canary rollout one after the other: the next waits for this one to be warm.
                may_disrupt = run.is_none();
            }
            partition -= 1;
        }
        Moves { partition, unavailable }
    }

    fn allowed(&self) -> usize {
        usize::try_from(self.cluster.max_unavailable).unwrap_or(1)
    }

    /// Whether all pods that have changed are warm.
    fn is_warm(&self) -> bool {
        let Some(run) = &self.record.run else { return true };
        let changed = self.observed.pods.iter().filter(|pod| pod.revision == run.target && pod.serves());
        changed.into_iter().all(|pod| is_warm(run, pod, &self.observed.ticks, self.now))
    }

    /// Pods to delete now.
    pub fn delete(&self, strategy: Strategy) -> Vec<NodePod> {
        let set = self.observed.set.as_ref();
        // Only once the StatefulSet's controller has seen the strategy: it would bring the pod back as it was.
        let Some(set) = set.filter(|set| set.settled && set.revision == self.target.name) else { return Vec::new() };
        match strategy {
            Strategy::OnDelete if set.on_delete => self.stuck().cloned().collect(),
            Strategy::OnDelete => Vec::new(),
            Strategy::Partition(_) if set.on_delete => Vec::new(),
            Strategy::Partition(_) => {
                let mut unavailable = self.moves().unavailable;
                let mut delete = Vec::new();
                for pod in self.strays().chain(self.control()) {
                    if pod.terminating || (pod.ready && unavailable >= self.allowed()) {
                        continue;
                    }
                    unavailable += usize::from(pod.ready);
                    delete.push(pod.clone());
                }
                delete
            }
        }
    }

    /// Pods that are down and of another revision: to recreate them costs nothing.
    fn stuck(&self) -> impl Iterator<Item = &'a NodePod> {
        self.outdated().filter(|pod| !pod.ready && !pod.terminating)
    }

    /// Pods of an earlier rollout that the present one has not reached: deleted, they come back on the stable revision.
    fn strays(&self) -> impl Iterator<Item = &'a NodePod> {
        let floor = self.floor();
        let stable = self.record.stable.as_deref();
        self.observed
            .pods
            .iter()
            .filter(move |pod| pod.ordinal < floor && stable.is_some_and(|stable| pod.revision != stable))
    }

    fn has_strays(&self) -> bool {
        self.strays().next().is_some()
    }

    /// The pod that is to be restarted to be compared with, as soon as canaries change.
    fn control(&self) -> Option<&'a NodePod> {
        let run = self.record.run.as_ref().filter(|run| run.halt.is_none())?;
        let control = run.control.as_ref()?;
        self.observed.pods.iter().find(|pod| pod.name == control.name && pod.uid == control.uid)
    }
}

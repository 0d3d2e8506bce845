//! What to do next: a pure function of what is declared, what was decided, what was observed, and the time.
//!
//! Pods change from the highest ordinal down. The StatefulSet's partition says down to which, and moves only when
//! `maxUnavailable` survives it; a pod that is down already moves for free. How far it may move is the rollout's step
//! ([`advance`]); what was decided is in the [`Record`], which is stored before anything is done.

pub mod action;
mod advance;
pub mod in_place;
mod plan;
pub mod policy;
pub mod record;

use gannet_crds::TemplatePolicy;
use jiff::Timestamp;

use crate::analysis::Tally;
use crate::cluster::Cluster;
use crate::observe::{NodePod, Observed};
use crate::revision::{Defaults, Revision, RevisionError};

use advance::Situation;
use in_place::Move;
use plan::Plan;
use record::Record;

/// The next step.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The revision that the StatefulSet's template is to be of.
    pub target: Revision,
    /// The revision that is asked for.
    pub declared: Revision,
    /// Pods to have.
    pub replicas: i32,
    pub strategy: Strategy,
    /// Pods to delete now: they are stuck, or of a revision that nothing leads to any more.
    pub delete: Vec<NodePod>,
    /// Pods that change in place.
    pub moves: Vec<Move>,
    pub progress: Progress,
    pub phase: Phase,
    /// What is decided, to be stored first.
    pub record: Record,
    /// What was decided just now, for events.
    pub notes: Vec<Note>,
    /// The analysis under way.
    pub tally: Option<Tally>,
    /// The declared number of pods waits for the end of the rollout.
    pub scaling_held: bool,
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
    /// So many pods are of another revision still than they are to be.
    Rolling { outdated: usize },
    /// Every pod is of the revision that it is to be.
    Complete,
    /// `spec.paused`, and something is held back by it.
    Held { rollout: bool, scaling: bool },
}

/// Where a rollout is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// All pods are of the declared revision, or will be as soon as they are made.
    Stable,
    /// Pods are changing.
    Rolling,
    /// It stands still, by its own steps, by hand, or because nothing can be said.
    Paused,
    /// The changed pods are compared with the others.
    Analysing,
    /// Pods are going back to the stable revision.
    RollingBack,
    /// The declared revision failed; all pods are of the stable one.
    Rejected,
}

/// What was decided just now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub warning: bool,
    pub reason: &'static str,
    pub text: String,
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
pub fn decide(
    cluster: &Cluster,
    observed: &Observed,
    defaults: &Defaults,
    now: Timestamp,
) -> Result<Decision, RevisionError> {
    let declared = declared_revision(cluster, &observed.revisions, defaults)?;
    let mut record = observed.record.clone().unwrap_or_else(|| inferred(observed));
    if cluster.paused {
        return Ok(held(cluster, observed, declared, record));
    }
    let situation = Situation { cluster, observed, declared: &declared.name, now };
    let mut notes = Vec::new();
    let tally = advance::advance(&mut record, situation, &mut notes);
    let target = target(&record, cluster, observed, &declared);
    let going_back = record.run.is_none() && record.stable.as_ref() == Some(&target.name) && cluster.policy.canary;
    let mut plan = Plan::new(cluster, observed, &target, &record, now);
    // While pods differ on purpose, their number stays: what is compared must not move.
    plan.replicas = match (&record.run, &observed.set) {
        (Some(run), _) => run.replicas,
        (None, Some(set)) if going_back && plan.outdated_of(set.replicas) > 0 => set.replicas,
        _ => cluster.replicas,
    };
    let strategy = plan.strategy();
    let progress = match (&observed.set, plan.outdated().count()) {
        (None, _) => Progress::Creating,
        (_, 0) => Progress::Complete,
        (_, outdated) => Progress::Rolling { outdated },
    };
    let phase = phase(&record, &declared, cluster, &progress);
    let (replicas, delete) = (plan.replicas, plan.delete(strategy));
    let scaling_held = replicas != cluster.replicas;
    let (strategy, mut moves) = in_place::plan(observed, &target, replicas, strategy);
    let stable =
        record.stable.as_deref().and_then(|stable| observed.revisions.iter().find(|known| known.name == stable));
    let (delete, back) = in_place::back(observed, stable, delete);
    moves.retain(|ended| back.iter().all(|pod| pod.pod.name != ended.pod.name));
    moves.extend(back);
    Ok(Decision::Step(Box::new(Step {
        target,
        declared,
        replicas,
        strategy,
        delete,
        moves,
        progress,
        phase,
        record,
        notes,
        tally,
        scaling_held,
    })))
}

/// `spec.paused`: the StatefulSet stays as it is. If it is gone, it comes back as it was before any rollout.
fn held(cluster: &Cluster, observed: &Observed, declared: Revision, record: Record) -> Decision {
    let known = |name: &str| observed.revisions.iter().find(|revision| revision.name == name);
    let set = observed.set.as_ref();
    let of_set = set.and_then(|set| known(&set.revision));
    let stable = record.stable.as_deref().and_then(known);
    let Some(target) = of_set.or(stable).or_else(|| newest(&observed.revisions)).cloned() else {
        return Decision::NothingYet;
    };
    let replicas = set.map_or(cluster.replicas, |set| set.replicas);
    let strategy = match set {
        Some(set) if set.on_delete => Strategy::OnDelete,
        Some(set) => Strategy::Partition(set.partition),
        None => Strategy::Partition(0),
    };
    let (rollout, scaling) = (target.name != declared.name || record.run.is_some(), replicas != cluster.replicas);
    let progress = if rollout || scaling { Progress::Held { rollout, scaling } } else { Progress::Complete };
    let phase = if rollout { Phase::Paused } else { Phase::Stable };
    Decision::Step(Box::new(Step {
        target,
        declared,
        replicas,
        strategy,
        delete: Vec::new(),
        moves: in_place::ends(observed, &[]),
        progress,
        phase,
        record,
        notes: Vec::new(),
        tally: None,
        scaling_held: false,
    }))
}

/// What the pods themselves say was stable, where nothing is on record: the lowest ordinal changes last.
fn inferred(observed: &Observed) -> Record {
    let known = |name: &str| observed.revisions.iter().any(|revision| revision.name == name);
    let of_pods = observed.pods.iter().map(|pod| pod.revision.as_str()).find(|name| known(name));
    let of_set = observed.set.as_ref().map(|set| set.revision.as_str()).filter(|name| known(name));
    Record { stable: of_pods.or(of_set).map(str::to_owned), ..Record::default() }
}

/// The revision that the StatefulSet's template is to be of.
fn target(record: &Record, cluster: &Cluster, observed: &Observed, declared: &Revision) -> Revision {
    let known = |name: &str| observed.revisions.iter().find(|revision| revision.name == name);
    let stable = record.stable.as_deref().filter(|stable| *stable != declared.name).and_then(known);
    let Some(stable) = stable else { return declared.clone() };
    let goes_on = match (&record.run, &observed.set) {
        // A StatefulSet that was deleted comes back as it was before; only when its controller has taken note of the stable
        // revision can pods be of two.
        (Some(_), None) => false,
        (Some(_), Some(set)) if set.revision == stable.name => set.settled && set.current,
        // All pods had changed to a revision that was superseded before it was stable: below a partition they would come back
        // on that one, for ever. So they go back to the stable one first.
        (Some(_), Some(set)) => set.revision == declared.name || !set.current,
        (None, _) if record.rejection_of(&declared.name).is_some() => false,
        (None, _) => !advance::goes_by_steps(cluster),
    };
    if goes_on { declared.clone() } else { stable.clone() }
}

fn phase(record: &Record, declared: &Revision, cluster: &Cluster, progress: &Progress) -> Phase {
    let changing = matches!(progress, Progress::Rolling { .. });
    if let Some(run) = &record.run {
        return match (&run.halt, run.stage()) {
            (Some(_), _) | (None, Some(policy::Stage::Pause { .. })) => Phase::Paused,
            (None, Some(policy::Stage::Analysis(_))) => Phase::Analysing,
            (None, _) => Phase::Rolling,
        };
    }
    let is_stable = record.stable.as_ref() == Some(&declared.name);
    match (record.rejection_of(&declared.name).is_some() && !is_stable, changing) {
        (true, true) => Phase::RollingBack,
        (true, false) => Phase::Rejected,
        (false, true) if is_stable && cluster.policy.canary => Phase::RollingBack,
        (false, true) => Phase::Rolling,
        // Not begun yet, or not known yet to the StatefulSet's controller.
        (false, false) if record.stable.is_some() && !is_stable => Phase::Rolling,
        (false, false) => Phase::Stable,
    }
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

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

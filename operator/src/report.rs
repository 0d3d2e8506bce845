//! What is told: status and events, made from what was observed and what was really written.

use gannet_crds::{CacheCluster, CacheClusterStatus, PodStatus, condition};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;
use kube::runtime::events::{Event, EventType};

use crate::apply::Applied;
use crate::certify::Certification;
use crate::cluster::{Cluster, InvalidSpec};
use crate::desired::labels;
use crate::observe::{NodePod, Observed};
use crate::rollout::{Phase, Progress, Step, Strategy};

/// How a reconcile ended.
#[derive(Clone, Copy, Debug)]
pub enum Outcome<'a> {
    /// The spec makes no sense; nothing was touched.
    Invalid(&'a InvalidSpec),
    /// Objects that are not ours have our names; nothing was touched.
    Conflict(&'a [String]),
    /// Paused before anything was made.
    NothingYet,
    /// A write failed; it is tried again.
    Failed(&'a str),
    /// The step was taken.
    Stepped { cluster: &'a Cluster, step: &'a Step, applied: &'a Applied },
}

/// What is told.
pub struct Report {
    pub status: CacheClusterStatus,
    pub events: Vec<Event>,
}

/// A condition before it gets its time.
struct Finding {
    kind: &'static str,
    holds: bool,
    reason: &'static str,
    message: String,
}

/// At most so many pods are named in a message; the rest is counted.
const NAMED_PODS: usize = 5;

/// Makes the report.
#[must_use]
pub fn report(
    resource: &CacheCluster,
    observed: &Observed,
    outcome: Outcome<'_>,
    certified: &Result<Certification, InvalidSpec>,
    now: Timestamp,
) -> Report {
    let before = resource.status.clone().unwrap_or_default();
    let mut findings = findings(observed, outcome, now);
    findings.push(certificates::finding(observed, certified));
    findings.push(rollout::finding(match outcome {
        Outcome::Stepped { step, .. } => Some(step),
        _ => None,
    }));
    findings.push(storage::finding(resource, observed));
    let conditions =
        findings.iter().map(|finding| dated(finding, &before, resource.metadata.generation, now)).collect();
    let declared = resource.spec.replicas;
    let serving = serving(observed, declared);
    let mut status = CacheClusterStatus {
        observed_generation: resource.metadata.generation,
        replicas: count(observed.pods.len()),
        ready_replicas: count(serving),
        ready: format!("{serving}/{declared}"),
        selector: labels::selector_text(&resource.name_any()),
        endpoint: format!(
            "{}.{}.svc:{}",
            resource.name_any(),
            resource.namespace().unwrap_or_default(),
            config::DATA_PORT
        ),
        items: observed.pods.iter().map(live_items).sum(),
        pods: observed.pods.iter().map(pod_status).collect(),
        conditions,
        tls: certificates::status(resource, observed, certified),
        // What is not known this time stays as it was.
        rollout: before.rollout.clone(),
        updated_replicas: before.updated_replicas,
        image: before.image.clone(),
        revision: before.revision.clone(),
    };
    if let Outcome::Stepped { step, .. } = outcome {
        let updated = observed.pods.iter().filter(|pod| pod.revision == step.declared.name);
        status.updated_replicas = count(updated.count());
        status.image = step.declared.content.image.clone();
        status.revision = step.declared.name.clone();
        status.rollout = Some(rollout::status(step));
    }
    let mut events = action_events(observed, outcome);
    if let Outcome::Stepped { step, .. } = outcome {
        events.extend(rollout::events(&before, step));
    }
    events.extend(transition_events(&before, &status));
    events.extend(certificates::events(&before, &status, certified));
    events.extend(storage::events(&before, &status, outcome));
    Report { status, events }
}

fn serving(observed: &Observed, replicas: i32) -> usize {
    observed.pods.iter().filter(|pod| pod.ordinal < replicas && pod.ready && !pod.terminating).count()
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn live_items(pod: &NodePod) -> i64 {
    let live = pod.report.as_ref().and_then(|report| report.as_ref().ok()).map_or(0, |report| report.items.live);
    i64::try_from(live).unwrap_or(i64::MAX)
}

fn pod_status(pod: &NodePod) -> PodStatus {
    let (version, configuration_hash, unanswered) = match &pod.report {
        Some(Ok(report)) => (report.version.clone(), report.configuration_hash.clone(), String::new()),
        Some(Err(error)) => (String::new(), String::new(), error.clone()),
        None => (String::new(), String::new(), String::new()),
    };
    let terminating = if pod.terminating { "terminating".to_owned() } else { String::new() };
    let reason = [terminating, pod.trouble.clone(), unanswered].into_iter().find(|text| !text.is_empty());
    PodStatus {
        name: pod.name.clone(),
        ready: pod.ready,
        host: pod.host.clone(),
        revision: pod.revision.clone(),
        version,
        configuration_hash,
        items: live_items(pod),
        medium: storage::medium(pod),
        certificate: certificates::served(pod),
        reason: reason.unwrap_or_default(),
    }
}

fn findings(observed: &Observed, outcome: Outcome<'_>, now: Timestamp) -> Vec<Finding> {
    let find = |kind, holds, reason, message: &str| Finding { kind, holds, reason, message: message.to_owned() };
    let blocked = |reason, message: String, stalled: bool| {
        vec![
            find(condition::READY, false, reason, &message),
            find(condition::RECONCILING, !stalled, reason, &message),
            find(condition::STALLED, stalled, reason, &message),
        ]
    };
    let mut findings = match outcome {
        Outcome::Invalid(invalid) => {
            let kept = if observed.pods.is_empty() { "no pods were made" } else { "the pods stay as they are" };
            blocked("InvalidSpec", format!("{invalid}; {kept}"), true)
        }
        Outcome::Conflict(foreign) => {
            let message = format!(
                "{} exists and belongs to something else; nothing was changed: rename this CacheCluster, or delete it",
                foreign.join(", ")
            );
            blocked("NameConflict", message, true)
        }
        Outcome::Failed(error) => blocked("ApplyFailed", format!("{error}; tried again with growing delay"), false),
        Outcome::NothingYet => blocked(
            "Paused",
            "spec.paused is true and nothing was ever rolled out: no pods were made".to_owned(),
            false,
        ),
        Outcome::Stepped { cluster, step, .. } => stepped_findings(observed, cluster, step, now),
    };
    findings.push(paused_finding(outcome));
    findings
}

fn paused_finding(outcome: Outcome<'_>) -> Finding {
    let (holds, message) = match outcome {
        Outcome::NothingYet => (true, "spec.paused holds back the first rollout".to_owned()),
        Outcome::Stepped { cluster, step, .. } if cluster.paused => {
            let held = match step.progress {
                Progress::Held { rollout: true, scaling: true } => "a rollout and scaling are held back",
                Progress::Held { rollout: true, .. } => "a rollout is held back",
                Progress::Held { scaling: true, .. } => "scaling is held back",
                _ => "nothing is held back",
            };
            (true, format!("spec.paused is true: {held}"))
        }
        _ => (false, "spec.paused is false".to_owned()),
    };
    Finding { kind: condition::PAUSED, holds, reason: if holds { "Paused" } else { "NotPaused" }, message }
}

fn stepped_findings(observed: &Observed, cluster: &Cluster, step: &Step, now: Timestamp) -> Vec<Finding> {
    let serving = serving(observed, step.replicas);
    let wanted = usize::try_from(step.replicas).unwrap_or(0);
    let leaving = observed.pods.iter().filter(|pod| pod.ordinal >= step.replicas).count();
    let waiting = waiting_for(observed, step);
    let figures = format!("{serving} of {wanted} nodes serve");
    let (ready, working, reason, message) = match (&step.progress, rollout::headline(step, &figures)) {
        (Progress::Held { .. }, _) => {
            (false, false, "Paused", format!("{figures}; spec.paused holds back what is declared"))
        }
        (_, Some(headline)) => headline,
        (Progress::Creating, _) => (false, true, "Creating", format!("{wanted} nodes are being made")),
        (Progress::Rolling { outdated }, _) => {
            let message = format!("{figures}; {outdated} are to move to revision {}{waiting}", step.target.name);
            (false, true, "Rolling", message)
        }
        (Progress::Complete, _) if serving < wanted => (false, true, "NodesNotReady", format!("{figures}{waiting}")),
        (Progress::Complete, _) if leaving > 0 => {
            (false, true, "ScalingDown", format!("{figures}; {leaving} more are leaving"))
        }
        (Progress::Complete, _) => (true, false, "Serving", figures),
    };
    let late = stalled_message(observed, cluster, step, now).map(|late| ("ProgressDeadlineExceeded", late));
    let stalled = rollout::stalled(step).or(late);
    let find = |kind, holds, reason, message: &str| Finding { kind, holds, reason, message: message.to_owned() };
    let reconciling = match (&stalled, working) {
        (Some((_, stalled)), true) => find(condition::RECONCILING, false, "Stalled", stalled),
        (None, true) => find(condition::RECONCILING, true, reason, &message),
        (_, false) => find(condition::RECONCILING, false, reason, &message),
    };
    let stalled = match &stalled {
        Some((reason, stalled)) => find(condition::STALLED, true, reason, stalled),
        None => find(condition::STALLED, false, "Progressing", "no node is late"),
    };
    vec![find(condition::READY, ready, reason, &message), reconciling, stalled]
}

/// Such as `; waiting for demo-2 (ImagePullBackOff: …)`; empty where there is nothing to wait for.
fn waiting_for(observed: &Observed, step: &Step) -> String {
    let late = observed.pods.iter().filter(|pod| pod.ordinal < step.replicas && (!pod.ready || pod.terminating));
    let mut named: Vec<String> = late
        .map(|pod| {
            let trouble = if pod.terminating { "terminating" } else { &pod.trouble };
            format!("{} ({trouble})", pod.name)
        })
        .collect();
    let more = named.len().saturating_sub(NAMED_PODS);
    named.truncate(NAMED_PODS);
    match (named.is_empty(), more) {
        (true, _) => String::new(),
        (_, 0) => format!("; waiting for {}", named.join(", ")),
        _ => format!("; waiting for {} and {more} more", named.join(", ")),
    }
}

/// Pods that have not been ready for longer than `progressDeadline`.
fn stalled_message(observed: &Observed, cluster: &Cluster, step: &Step, now: Timestamp) -> Option<String> {
    let late = |pod: &&NodePod| {
        let down = pod.since.and_then(|since| std::time::Duration::try_from(now.duration_since(since)).ok());
        pod.ordinal < step.replicas && !pod.ready && down.is_some_and(|down| down > cluster.progress_deadline)
    };
    let named: Vec<String> = observed
        .pods
        .iter()
        .filter(late)
        .take(NAMED_PODS)
        .map(|pod| format!("{} ({})", pod.name, pod.trouble))
        .collect();
    let deadline = config::Duration(cluster.progress_deadline);
    (!named.is_empty())
        .then(|| format!("not ready for longer than spec.rollout.progressDeadline {deadline}: {}", named.join(", ")))
}

/// The time of a condition is that of its last change, not of its last writing.
fn dated(finding: &Finding, before: &CacheClusterStatus, generation: Option<i64>, now: Timestamp) -> Condition {
    let status = if finding.holds { "True" } else { "False" };
    let known = before.conditions.iter().find(|known| known.type_ == finding.kind && known.status == status);
    // The API keeps whole seconds, and what is written must equal what is read back.
    let second = Timestamp::from_second(now.as_second()).unwrap_or(now);
    Condition {
        type_: finding.kind.to_owned(),
        status: status.to_owned(),
        reason: finding.reason.to_owned(),
        message: finding.message.clone(),
        last_transition_time: known.map_or(Time(second), |known| known.last_transition_time.clone()),
        observed_generation: generation,
    }
}

/// What was done.
fn action_events(observed: &Observed, outcome: Outcome<'_>) -> Vec<Event> {
    let Outcome::Stepped { cluster, step, applied } = outcome else { return Vec::new() };
    let mut events = Vec::new();
    let mut tell = |type_, reason: &str, action: &str, note: String| events.push(event(type_, reason, action, note));
    let target = &step.target;
    if !applied.created.is_empty() {
        let first = observed.controller_revisions.is_empty();
        let (reason, verb) = if first { ("Created", "made") } else { ("Recreated", "made") };
        tell(EventType::Normal, reason, "Apply", format!("{verb} {}", applied.created.join(", ")));
    }
    if !applied.pruned.is_empty() {
        tell(
            EventType::Normal,
            "Pruned",
            "Delete",
            format!("deleted {}, which no pod uses", applied.pruned.join(", ")),
        );
    }
    if let Some(set) = &observed.set {
        let moves = observed.pods.iter().filter(|pod| pod.revision != target.name).count();
        let by_steps = step.record.run.is_some() || matches!(step.phase, Phase::RollingBack);
        if set.revision != target.name && !by_steps {
            let note = format!("revision {} with image {}: {moves} nodes change", target.name, target.content.image);
            tell(EventType::Normal, "RolloutStarted", "Rollout", note);
            if let Some(cold) = in_place::cold(cluster, observed, target) {
                tell(EventType::Warning, "Cold", "Rollout", cold);
            }
        }
        if set.replicas != step.replicas {
            let note = format!(
                "from {} to {} nodes: keys move, since clients hash over the nodes",
                set.replicas, step.replicas
            );
            tell(EventType::Normal, "Scaled", "Scale", note);
        }
        let moved_to = |ordinal: i32| match step.strategy {
            Strategy::Partition(partition) => {
                let known = set.revision == target.name && !set.on_delete && ordinal >= set.partition;
                ordinal >= partition && !known
            }
            Strategy::OnDelete => false,
        };
        for pod in observed.pods.iter().filter(|pod| pod.revision != target.name && moved_to(pod.ordinal)) {
            tell(
                EventType::Normal,
                "Replacing",
                "Rollout",
                format!("{} is replaced by revision {}", pod.name, target.name),
            );
        }
    }
    if !applied.deleted_pods.is_empty() {
        let names = applied.deleted_pods.join(", ");
        let (reason, note) = match &step.record.run {
            Some(_) => ("Restarted", format!("deleted {names}, to come back on the stable revision")),
            None => ("StuckPodDeleted", format!("deleted {names}, stuck, so that revision {} can go on", target.name)),
        };
        tell(EventType::Normal, reason, "Rollout", note);
    }
    events.extend(in_place::events(applied));
    events
}

/// What changed.
fn transition_events(before: &CacheClusterStatus, after: &CacheClusterStatus) -> Vec<Event> {
    let mut events = Vec::new();
    for now in &after.conditions {
        let was = before.conditions.iter().find(|known| known.type_ == now.type_);
        if was.is_some_and(|was| was.status == now.status && was.reason == now.reason) {
            continue;
        }
        let holds = now.status == "True";
        let told = match now.type_.as_str() {
            condition::READY if holds => Some((EventType::Normal, "Ready")),
            // Until a cluster has served once, or while it is changed on purpose, not serving is no news.
            condition::READY if matches!(now.reason.as_str(), "InvalidSpec" | "NameConflict" | "ApplyFailed") => {
                Some((EventType::Warning, now.reason.as_str()))
            }
            condition::READY if now.reason == "NodesNotReady" && was.is_some_and(|was| was.status == "True") => {
                Some((EventType::Warning, "NodesNotReady"))
            }
            condition::STALLED if holds && now.reason == "ProgressDeadlineExceeded" => {
                Some((EventType::Warning, "Stalled"))
            }
            condition::PAUSED if holds => Some((EventType::Normal, "Paused")),
            condition::PAUSED if was.is_some() => Some((EventType::Normal, "Resumed")),
            _ => None,
        };
        if let Some((type_, reason)) = told {
            events.push(event(type_, reason, "Report", now.message.clone()));
        }
        if now.type_ == condition::READY && holds && was.is_some_and(|was| was.reason == "Rolling") {
            let note = format!("every node is of revision {}", after.revision);
            events.push(event(EventType::Normal, "RolloutComplete", "Rollout", note));
        }
    }
    events
}

/// The API takes notes of up to 1024 bytes.
const LONGEST_NOTE: usize = 1000;

fn event(type_: EventType, reason: &str, action: &str, note: String) -> Event {
    let note = match note.char_indices().nth(LONGEST_NOTE) {
        Some((end, _)) => format!("{}…", &note[..end]),
        None => note,
    };
    Event { type_, reason: reason.to_owned(), note: Some(note), action: action.to_owned(), secondary: None }
}

mod certificates;
mod in_place;
mod rollout;
mod storage;
#[cfg(test)]
mod tests;

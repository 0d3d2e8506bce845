use gannet_crds::{CacheCluster, CacheClusterStatus, condition};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Outcome, report};
use crate::apply::Applied;
use crate::certify::Certification;
use crate::cluster::Cluster;
use crate::cluster::tests::resource;
use crate::observe::{NodePod, Observed, Set};
use crate::revision::Defaults;
use crate::rollout::{Decision, Step, decide};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn pod(ordinal: i32, revision: &str, ready: bool) -> NodePod {
    NodePod {
        name: format!("demo-{ordinal}"),
        ordinal,
        revision: revision.to_owned(),
        ready,
        host: "host".to_owned(),
        since: Some(at(0)),
        trouble: if ready { String::new() } else { "ImagePullBackOff".to_owned() },
        ..NodePod::default()
    }
}

struct Scene {
    resource: CacheCluster,
    cluster: Cluster,
    observed: Observed,
    step: Step,
}

/// A cluster of three with these pods ready.
fn scene(spec: Value, ready: [bool; 3]) -> Scene {
    let resource = resource(spec);
    let cluster = Cluster::parse(&resource).unwrap();
    let defaults = Defaults { node_image: "cache-node:1".to_owned(), ..Defaults::default() };
    let Decision::Step(first) = decide(&cluster, &Observed::default(), &defaults, at(0)).unwrap() else {
        panic!("undecided")
    };
    let revision = first.target.name.clone();
    let observed = Observed {
        set: Some(Set {
            replicas: 3,
            partition: 0,
            on_delete: false,
            revision: revision.clone(),
            settled: true,
            current: true,
            update: None,
        }),
        revisions: vec![first.target],
        pods: ready.iter().zip(0..).map(|(ready, ordinal)| pod(ordinal, &revision, *ready)).collect(),
        ..Observed::default()
    };
    let Decision::Step(step) = decide(&cluster, &observed, &defaults, at(0)).unwrap() else { panic!("undecided") };
    Scene { resource, cluster, observed, step: *step }
}

impl Scene {
    fn told(&self, second: i64) -> (CacheClusterStatus, Vec<String>) {
        let outcome = Outcome::Stepped { cluster: &self.cluster, step: &self.step, applied: &Applied::default() };
        self.told_of(outcome, second)
    }

    fn told_of(&self, outcome: Outcome<'_>, second: i64) -> (CacheClusterStatus, Vec<String>) {
        let told = report(&self.resource, &self.observed, outcome, &Ok(Certification::default()), at(second));
        (told.status, told.events.into_iter().map(|event| event.reason).collect())
    }
}

fn reason(status: &CacheClusterStatus, kind: &str) -> (String, String) {
    let found = status.conditions.iter().find(|condition| condition.type_ == kind).unwrap();
    (found.status.clone(), found.reason.clone())
}

fn pair(status: &str, reason: &str) -> (String, String) {
    (status.to_owned(), reason.to_owned())
}

#[test]
fn all_conditions_are_always_there() {
    let scene = scene(json!({}), [true; 3]);
    let conflict = ["Service demo".to_owned()];
    for outcome in [Outcome::NothingYet, Outcome::Failed("no"), Outcome::Conflict(&conflict)] {
        let (status, _) = scene.told_of(outcome, 0);
        for kind in
            [condition::READY, condition::RECONCILING, condition::STALLED, condition::PAUSED, condition::TLS_READY]
        {
            assert!(!reason(&status, kind).1.is_empty());
        }
    }
}

#[test]
fn ready_when_every_node_serves() {
    let (status, events) = scene(json!({}), [true; 3]).told(0);
    assert_eq!(reason(&status, condition::READY), pair("True", "Serving"));
    assert_eq!((status.ready.as_str(), status.ready_replicas, status.updated_replicas), ("3/3", 3, 3));
    assert_eq!(events, ["Ready"]);
}

#[test]
fn a_node_that_is_down_is_named_with_its_trouble() {
    let (status, _) = scene(json!({}), [true, false, true]).told(0);
    assert_eq!(reason(&status, condition::READY), pair("False", "NodesNotReady"));
    let message = &status.conditions[0].message;
    assert!(message.contains("2 of 3") && message.contains("demo-1 (ImagePullBackOff)"), "{message}");
}

#[test]
fn stalled_after_the_progress_deadline_and_not_before() {
    let scene = scene(json!({"rollout": {"progressDeadline": "1m"}}), [true, true, false]);
    assert_eq!(reason(&scene.told(59).0, condition::STALLED).0, "False");
    let (status, events) = scene.told(61);
    assert_eq!(reason(&status, condition::STALLED), pair("True", "ProgressDeadlineExceeded"));
    assert_eq!(reason(&status, condition::RECONCILING), pair("False", "Stalled"));
    assert!(events.contains(&"Stalled".to_owned()));
}

#[test]
fn nothing_new_is_told_when_nothing_changed() {
    let mut scene = scene(json!({}), [true; 3]);
    let (first, _) = scene.told(0);
    scene.resource.status = Some(first.clone());
    let (second, events) = scene.told(100);
    assert_eq!(second, first, "the time of a condition moved though it did not change");
    assert!(events.is_empty(), "{events:?}");
}

#[test]
fn a_foreign_object_is_named_with_the_remedy() {
    let scene = scene(json!({}), [true; 3]);
    let foreign = ["Service demo".to_owned()];
    let (status, events) = scene.told_of(Outcome::Conflict(&foreign), 0);
    assert_eq!(reason(&status, condition::READY), pair("False", "NameConflict"));
    assert!(status.conditions[0].message.contains("Service demo exists"));
    assert!(events.contains(&"NameConflict".to_owned()));
}

#[test]
fn a_change_says_that_it_is_cold() {
    let mut scene = scene(json!({}), [true; 3]);
    scene.resource = resource(json!({"node": {"memory": "2Gi"}}));
    scene.cluster = Cluster::parse(&scene.resource).unwrap();
    let defaults = Defaults { node_image: "cache-node:1".to_owned(), ..Defaults::default() };
    let Decision::Step(step) = decide(&scene.cluster, &scene.observed, &defaults, at(0)).unwrap() else {
        panic!("undecided")
    };
    scene.step = *step;
    let (status, events) = scene.told(0);
    assert_eq!(events, ["RolloutStarted", "Cold", "Replacing"]);
    assert_eq!(reason(&status, condition::READY), pair("False", "Rolling"));
}

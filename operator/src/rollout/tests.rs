use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Decision, Progress, Step, Strategy, decide};
use crate::cluster::Cluster;
use crate::cluster::tests::resource;
use crate::observe::tests::pod;
use crate::observe::{Observed, Set};
use crate::revision::{Defaults, Revision};

const IMAGE: &str = "cache-node:1";

fn cluster(spec: Value) -> Cluster {
    Cluster::parse(&resource(spec)).unwrap()
}

fn defaults() -> Defaults {
    Defaults { node_image: IMAGE.to_owned(), ..Defaults::default() }
}

fn step(cluster: &Cluster, observed: &Observed) -> Step {
    match decide(cluster, observed, &defaults(), Timestamp::UNIX_EPOCH).unwrap() {
        Decision::Step(step) => *step,
        Decision::NothingYet => panic!("nothing decided"),
    }
}

/// A cluster that runs `revision` on `pods` pods, all ready.
fn running(revision: &Revision, pods: i32) -> Observed {
    Observed {
        set: Some(Set {
            replicas: pods,
            partition: 0,
            on_delete: false,
            revision: revision.name.clone(),
            settled: true,
            current: true,
            update: None,
        }),
        revisions: vec![revision.clone()],
        pods: (0..pods).map(|ordinal| pod(ordinal, &revision.name, true)).collect(),
        ..Observed::default()
    }
}

/// What the StatefulSet's controller and the kubelets make of a step: `heals` says whether a pod of a revision gets
/// ready. One call is one round: pods are deleted and recreated within it, so readiness is seen a round later.
fn play(observed: &mut Observed, step: &Step, stable: &str, heals: impl Fn(&str, i32) -> bool) {
    let set = observed.set.get_or_insert(Set {
        replicas: 0,
        partition: 0,
        on_delete: false,
        revision: String::new(),
        settled: true,
        current: true,
        update: None,
    });
    set.replicas = step.replicas;
    set.revision = step.target.name.clone();
    set.on_delete = step.strategy == Strategy::OnDelete;
    set.partition = if let Strategy::Partition(partition) = step.strategy { partition } else { 0 };
    if !observed.revisions.iter().any(|known| known.name == step.target.name) {
        observed.revisions.push(step.target.clone());
    }
    for pod in &mut observed.pods {
        pod.ready = heals(&pod.revision, pod.ordinal);
    }
    observed
        .pods
        .retain(|pod| pod.ordinal < step.replicas && !step.delete.iter().any(|deleted| deleted.uid == pod.uid));
    // The StatefulSet's controller replaces one outdated pod at a time and waits for unhealthy ones.
    if let Strategy::Partition(partition) = step.strategy {
        for ordinal in (partition..step.replicas).rev() {
            let Some(index) = observed.pods.iter().position(|pod| pod.ordinal == ordinal) else { continue };
            if observed.pods[index].revision != step.target.name {
                observed.pods.remove(index);
                break;
            }
            if !observed.pods[index].ready {
                break;
            }
        }
    }
    for ordinal in 0..step.replicas {
        if !observed.pods.iter().any(|pod| pod.ordinal == ordinal) {
            let new = match step.strategy {
                Strategy::OnDelete => step.target.name.as_str(),
                Strategy::Partition(partition) if ordinal >= partition => step.target.name.as_str(),
                Strategy::Partition(_) => stable,
            };
            observed.pods.push(pod(ordinal, new, false));
        }
    }
    observed.pods.sort_by_key(|pod| pod.ordinal);
}

#[test]
fn the_first_deployment_makes_all_pods_at_once() {
    let step = step(&cluster(json!({})), &Observed::default());
    assert_eq!((step.progress, step.strategy, step.replicas), (Progress::Creating, Strategy::Partition(0), 3));
    assert_eq!(step.target.content.image, IMAGE);
}

#[test]
fn nothing_changes_when_nothing_changed() {
    let cluster = cluster(json!({}));
    let stable = step(&cluster, &Observed::default()).target;
    let step = step(&cluster, &running(&stable, 3));
    assert_eq!((step.progress, step.strategy, step.target), (Progress::Complete, Strategy::Partition(0), stable));
}

#[test]
fn another_operator_version_changes_no_pod() {
    let cluster = cluster(json!({}));
    let mut stable = step(&cluster, &Observed::default()).target;
    // What an older operator rendered, and its image.
    stable.content.image = "cache-node:0".to_owned();
    stable.content.template.metadata.get_or_insert_default().labels = None;
    stable.name = "demo-older".to_owned();
    let step = step(&cluster, &running(&stable, 3));
    assert_eq!(step.target, stable);
}

#[test]
fn template_latest_lets_a_new_operator_version_roll_out() {
    let cluster = cluster(json!({"rollout": {"template": "Latest"}}));
    let mut stable = step(&cluster, &Observed::default()).target;
    stable.content.image = "cache-node:0".to_owned();
    stable.name = "demo-older".to_owned();
    let step = step(&cluster, &running(&stable, 3));
    assert_eq!(step.target.content.image, IMAGE);
    assert_eq!(step.progress, Progress::Rolling { outdated: 3 });
}

#[test]
fn an_image_that_nobody_named_stays_when_something_else_changes() {
    let mut stable = step(&cluster(json!({})), &Observed::default()).target;
    stable.content.image = "cache-node:0".to_owned();
    let changed = step(&cluster(json!({"node": {"memory": "2Gi"}})), &running(&stable, 3));
    assert_eq!(changed.target.content.image, "cache-node:0");
    assert_eq!(changed.target.number, stable.number + 1);
}

#[test]
fn the_default_image_given_by_name_is_no_change() {
    let stable = step(&cluster(json!({})), &Observed::default()).target;
    let named = step(&cluster(json!({"image": IMAGE})), &running(&stable, 3));
    assert_eq!((named.target, named.progress), (stable, Progress::Complete));
}

#[test]
fn an_image_no_longer_named_is_that_of_the_first_use_also_when_more_changes() {
    let mut first = step(&cluster(json!({})), &Observed::default()).target;
    first.content.image = "cache-node:0".to_owned();
    let mut observed = running(&first, 3);
    let named = step(&cluster(json!({"image": "other"})), &observed).target;
    observed.revisions.push(named);
    let back = step(&cluster(json!({"node": {"memory": "2Gi"}})), &observed).target;
    assert_eq!(back.content.image, "cache-node:0");
}

#[test]
fn going_back_takes_the_old_revision_up_again() {
    let before = cluster(json!({}));
    let first = step(&before, &Observed::default()).target;
    let mut observed = running(&first, 3);
    let second = step(&cluster(json!({"node": {"memory": "2Gi"}})), &observed).target;
    observed.revisions.push(second.clone());
    let back = step(&before, &observed).target;
    assert_eq!((back.name, back.number), (first.name, second.number + 1));
}

#[test]
fn a_change_moves_one_pod_after_the_other_and_never_more_than_allowed() {
    for (replicas, allowed) in [(1, 1), (3, 1), (5, 2), (4, 4)] {
        let stable = step(&cluster(json!({"replicas": replicas})), &Observed::default()).target;
        let mut observed = running(&stable, replicas);
        let spec = json!({"replicas": replicas, "disruption": {"maxUnavailable": allowed}, "node": {"memory": "2Gi"}});
        let changed = cluster(spec);
        let rounds = (0..40).take_while(|_| {
            let next = step(&changed, &observed);
            play(&mut observed, &next, &stable.name, |_, _| true);
            let serving = observed.pods.iter().filter(|pod| pod.ready).count();
            assert!(serving >= usize::try_from(replicas - allowed).unwrap(), "{serving} of {replicas} serve");
            next.progress != Progress::Complete
        });
        let rounds = rounds.count();
        assert!(rounds >= usize::try_from(replicas).unwrap() && rounds < 40, "{rounds} rounds for {replicas} pods");
    }
}

#[test]
fn a_revision_that_never_gets_ready_stops_at_the_first_pod_and_a_new_one_supersedes_it() {
    let stable = step(&cluster(json!({})), &Observed::default()).target;
    let mut observed = running(&stable, 3);
    let broken = cluster(json!({"image": "broken"}));
    let broken_name = step(&broken, &observed).target.name;
    let heals = |revision: &str, _: i32| revision != broken_name;
    for _ in 0..10 {
        let next = step(&broken, &observed);
        play(&mut observed, &next, &stable.name, heals);
    }
    assert_eq!(observed.pods.iter().filter(|pod| pod.ready).count(), 2, "the broken revision took more than one pod");
    let good = cluster(json!({"image": "good"}));
    for _ in 0..20 {
        let next = step(&good, &observed);
        play(&mut observed, &next, &stable.name, heals);
        assert!(observed.pods.iter().filter(|pod| pod.ready).count() >= 2);
    }
    assert_eq!(step(&good, &observed).progress, Progress::Complete);
}

/// The lowest ordinal never fits its host as it is: the StatefulSet alone would wait for it for ever.
#[test]
fn a_pod_stuck_below_the_partition_is_recreated_from_the_new_revision() {
    let stable = step(&cluster(json!({})), &Observed::default()).target;
    let mut observed = running(&stable, 3);
    observed.pods[0].ready = false;
    let smaller = cluster(json!({"node": {"memory": "512Mi"}}));
    let stable_name = stable.name.clone();
    let heals = move |revision: &str, ordinal: i32| ordinal != 0 || revision != stable_name;
    for _ in 0..20 {
        let next = step(&smaller, &observed);
        play(&mut observed, &next, &stable.name, &heals);
        assert!(observed.pods.iter().filter(|pod| pod.ready).count() >= 2, "{next:?}");
    }
    assert_eq!(step(&smaller, &observed).progress, Progress::Complete);
}

#[test]
fn scaling_touches_no_pod_that_stays() {
    let stable = step(&cluster(json!({})), &Observed::default()).target;
    for replicas in [0, 1, 5] {
        let step = step(&cluster(json!({"replicas": replicas})), &running(&stable, 3));
        assert_eq!((step.replicas, step.strategy), (replicas, Strategy::Partition(0)));
        assert_eq!((&step.target, step.delete.len()), (&stable, 0));
    }
}

#[test]
fn paused_holds_rollout_and_scaling() {
    let stable = step(&cluster(json!({})), &Observed::default()).target;
    let paused = cluster(json!({"paused": true, "replicas": 5, "node": {"memory": "2Gi"}}));
    let step = step(&paused, &running(&stable, 3));
    assert_eq!((step.target, step.replicas), (stable, 3));
    assert_eq!(step.progress, Progress::Held { rollout: true, scaling: true });
    assert_eq!(
        decide(&paused, &Observed::default(), &defaults(), Timestamp::UNIX_EPOCH).unwrap(),
        Decision::NothingYet
    );
}

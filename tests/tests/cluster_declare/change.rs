//! A changed spec reaches the pods one by one, and the last spec wins.

use serde_json::json;
use tests::cluster::{lives, small, with};
use tests::ensure;
use tests::failure::Outcome;
use tests::readiness::Readiness;
use tests::scenario::{NOTICED, SERVING, Scenario, scenario, until};

/// Waits until a change is under way: some pods are of the new configuration and some are not.
pub async fn is_under_way(s: &Scenario, cluster: &str, line: &str) -> Outcome {
    until(&format!("the change of {cluster} to be under way"), NOTICED, || async {
        let mut given = 0;
        let nodes = s.nodes(cluster).await?;
        for node in &nodes {
            given += usize::from(s.configuration(node).await?.lines().any(|l| l == line));
        }
        ensure!(given > 0 && given < nodes.len(), "{given} of {} are changed", nodes.len());
        Ok(())
    })
    .await
}

#[test]
fn a_configuration_change_rolls_one_by_one() -> Outcome {
    scenario("roll", 1, async |s, _| {
        s.declare("demo", small(4)).await?;
        let before = lives(&s.settled("demo").await?);
        let watch = Readiness::watch(s, "demo").await;
        s.change("demo", json!({"cache": {"eviction": "Fifo"}})).await?;
        s.condition("demo", "Reconciling", "True", "").await?;
        let after = lives(&s.settled("demo").await?);
        s.all_run("demo", "eviction: Fifo").await?;
        assert!(watch.lowest() >= 3, "maxUnavailable is 1, and {} of 4 served", watch.lowest());
        for (name, life) in &after {
            assert_ne!(before[name].0, life.0, "{name} is replaced: its memory does not outlive it");
            assert_eq!(life.1, 0, "{name} needed a restart");
        }
        Ok(())
    })
}

#[test]
fn a_change_takes_as_many_at_once_as_it_may() -> Outcome {
    scenario("roll-two", 1, async |s, _| {
        s.declare("demo", with(small(4), json!({"disruption": {"maxUnavailable": 2}}))).await?;
        s.settled("demo").await?;
        let watch = Readiness::watch(s, "demo").await;
        s.change("demo", json!({"node": {"maxConnections": 300}})).await?;
        s.condition("demo", "Reconciling", "True", "").await?;
        s.settled("demo").await?;
        s.all_run("demo", "maxConnections: 300").await?;
        assert!(watch.lowest() >= 2, "maxUnavailable is 2, and {} of 4 served", watch.lowest());
        Ok(())
    })
}

#[test]
fn a_change_during_a_change_ends_in_the_last_spec() -> Outcome {
    scenario("superseded", 1, async |s, _| {
        s.declare("demo", small(3)).await?;
        s.settled("demo").await?;
        let watch = Readiness::watch(s, "demo").await;
        s.change("demo", json!({"cache": {"eviction": "Fifo"}})).await?;
        is_under_way(s, "demo", "eviction: Fifo").await?;
        s.change("demo", json!({"cache": {"eviction": "Random"}, "replicas": 4})).await?;
        assert_eq!(s.settled("demo").await?.len(), 4);
        s.all_run("demo", "eviction: Random").await?;
        assert!(watch.lowest() >= 2, "maxUnavailable is 1, and {} of 3 served", watch.lowest());
        Ok(())
    })
}

#[test]
fn a_broken_image_is_superseded_by_a_good_spec() -> Outcome {
    scenario("broken", 1, async |s, _| {
        s.declare("demo", with(small(3), json!({"rollout": {"progressDeadline": "5s"}}))).await?;
        let before = lives(&s.settled("demo").await?);
        let watch = Readiness::watch(s, "demo").await;
        let good = s.clusters().get("demo").await?.status.unwrap_or_default().image;
        s.change("demo", json!({"image": "docker.io/gannet/absent:0"})).await?;
        some_wait(s, "demo", "ImagePull").await?;
        s.condition("demo", "Ready", "False", "").await?;
        let message = s.condition("demo", "Stalled", "True", "ProgressDeadlineExceeded").await?;
        assert!(message.contains("demo-2") && message.contains("5s"), "name the pod and the deadline: {message}");

        // The same image as before, though now it is named: nothing about the other pods has changed.
        s.change("demo", json!({"image": good})).await?;
        let nodes = s.settled("demo").await?;
        assert!(nodes.iter().all(|node| node.image == good), "{nodes:?}");
        assert!(watch.lowest() >= 2, "a broken image takes one node, and {} of 3 served", watch.lowest());
        let changed = lives(&nodes).into_iter().filter(|(name, life)| before[name] != *life).count();
        assert_eq!(changed, 1, "only the pod that was tried is replaced");
        s.condition("demo", "Stalled", "False", "").await?;
        Ok(())
    })
}

/// Waits until some node's container waits for this reason.
async fn some_wait(s: &Scenario, cluster: &str, reason: &str) -> Outcome {
    until(&format!("a node of {cluster} to wait for {reason}"), SERVING, || async {
        let nodes = s.nodes(cluster).await?;
        ensure!(nodes.iter().any(|node| node.waiting.contains(reason)), "{nodes:?}");
        Ok(())
    })
    .await
}

#[test]
fn a_cluster_that_was_never_well_is_mended_by_a_good_spec() -> Outcome {
    scenario("never-well", 1, async |s, _| {
        s.declare("demo", with(small(3), json!({"image": "docker.io/gannet/absent:0"}))).await?;
        some_wait(s, "demo", "ImagePull").await?;
        s.change("demo", json!({"image": null, "cache": {"eviction": "Fifo"}})).await?;
        s.settled("demo").await?;
        s.all_run("demo", "eviction: Fifo").await
    })
}

#[test]
fn a_node_too_large_for_every_host_is_superseded() -> Outcome {
    scenario("too-large", 1, async |s, _| {
        s.declare("demo", small(3)).await?;
        let before = lives(&s.settled("demo").await?);
        let watch = Readiness::watch(s, "demo").await;
        s.change("demo", json!({"node": {"memory": "2Ti"}})).await?;
        until("the operator to say that no host is large enough", NOTICED, || async {
            let ready = s.condition("demo", "Ready", "False", "").await?;
            ensure!(ready.contains("demo-2") && ready.contains("Unschedulable"), "{ready}");
            Ok(())
        })
        .await?;
        s.change("demo", json!({"node": {"memory": "48Mi"}})).await?;
        let after = lives(&s.settled("demo").await?);
        assert!(watch.lowest() >= 2, "one node was tried, and {} of 3 served", watch.lowest());
        assert_eq!((&after["demo-0"], &after["demo-1"]), (&before["demo-0"], &before["demo-1"]));
        Ok(())
    })
}

#[test]
fn a_spec_that_makes_no_sense_leaves_the_pods_alone() -> Outcome {
    scenario("nonsense", 1, async |s, operator| {
        s.declare("demo", small(2)).await?;
        let before = lives(&s.settled("demo").await?);
        // More than any rule of the API server sees: what is left for items is less than the smallest cache.
        s.change("demo", json!({"node": {"memory": "34Mi", "maxConnections": 5000}})).await?;
        let message = s.condition("demo", "Ready", "False", "InvalidSpec").await?;
        assert!(
            message.contains("34Mi") && message.contains("is needed"),
            "name what is wrong and what helps: {message}"
        );
        assert_eq!(lives(&s.nodes("demo").await?), before);
        s.set_keys(100, &s.addresses("demo", 2)).await?;

        // It stops nobody else, and itself only until it makes sense again.
        s.declare("other", small(1)).await?;
        s.settled("other").await?;
        s.change("demo", json!({"node": {"memory": "48Mi", "maxConnections": 256}})).await?;
        assert_eq!(lives(&s.settled("demo").await?), before, "back at the old spec, nothing has changed");
        assert!(operator.pods().await?.iter().all(|pod| tests::operator::restarts(pod) == 0));
        Ok(())
    })
}

//! More nodes, fewer nodes: those that stay are not touched.

use serde_json::json;
use tests::cluster::{lives, small, with};
use tests::ensure;
use tests::failure::Outcome;
use tests::scenario::{SERVING, scenario, until};

#[test]
fn scaling_restarts_none_of_those_that_stay() -> Outcome {
    scenario("scale", 1, async |s, _| {
        s.declare("demo", small(3)).await?;
        let three = lives(&s.settled("demo").await?);
        s.set_keys(1000, &s.addresses("demo", 3)).await?;

        s.kubectl(&["scale", "ccl", "demo", "--replicas", "5"]).await?;
        let five = lives(&s.settled("demo").await?);
        assert_eq!(five.len(), 5);
        for (name, life) in &three {
            assert_eq!(five.get(name), Some(life), "{name} must be left alone by scaling up");
        }
        assert_eq!(s.get_keys(1000, &s.addresses("demo", 3)).await?, 1000, "no item is lost where a key stays");
        s.set_keys(1000, &s.addresses("demo", 5)).await?;

        s.kubectl(&["scale", "ccl", "demo", "--replicas", "2"]).await?;
        let two = lives(&s.settled("demo").await?);
        assert_eq!(two.keys().collect::<Vec<_>>(), ["demo-0", "demo-1"]);
        for (name, life) in &two {
            assert_eq!(five.get(name), Some(life), "{name} must be left alone by scaling down");
        }
        Ok(())
    })
}

#[test]
fn a_cluster_rests_at_zero_and_comes_back() -> Outcome {
    scenario("zero", 1, async |s, _| {
        s.declare("demo", small(1)).await?;
        s.settled("demo").await?;
        s.kubectl(&["scale", "ccl", "demo", "--replicas", "0"]).await?;
        assert_eq!(s.settled("demo").await?, []);
        s.kubectl(&["scale", "ccl", "demo", "--replicas", "1"]).await?;
        s.settled("demo").await?;
        Ok(())
    })
}

#[test]
fn the_scale_subresource_serves_autoscalers() -> Outcome {
    scenario("autoscale", 1, async |s, _| {
        s.declare("demo", small(2)).await?;
        s.settled("demo").await?;
        let scale = s.clusters().get_scale("demo").await?;
        let status = scale.status.unwrap_or_default();
        assert_eq!((scale.spec.unwrap_or_default().replicas, status.replicas), (Some(2), 2));
        // An autoscaler finds the pods by this selector.
        let selector = status.selector.unwrap_or_default();
        let pods = s.kubectl(&["get", "pods", "--selector", &selector, "--output", "name"]).await?;
        assert_eq!(pods.split_whitespace().collect::<Vec<_>>(), ["pod/demo-0", "pod/demo-1"]);
        Ok(())
    })
}

#[test]
fn paused_holds_changes_and_scaling() -> Outcome {
    scenario("paused", 1, async |s, _| {
        s.declare("demo", small(2)).await?;
        let before = lives(&s.settled("demo").await?);
        s.change("demo", json!({"paused": true, "replicas": 3, "cache": {"eviction": "Fifo"}})).await?;
        s.condition("demo", "Paused", "True", "").await?;

        // A pod that is deleted comes back, as it was: so the operator and the controllers have been at work since.
        s.kubectl(&["delete", "pod", "demo-1"]).await?;
        let nodes = until("the deleted pod to come back", SERVING, || async {
            let nodes = s.nodes("demo").await?;
            let is_back = nodes.iter().any(|n| n.name == "demo-1" && n.ready && n.uid != before["demo-1"].0);
            ensure!(is_back, "{nodes:?}");
            Ok(nodes)
        })
        .await?;
        assert_eq!(nodes.len(), 2, "paused holds scaling: {nodes:?}");
        assert_eq!(lives(&nodes)["demo-0"], before["demo-0"]);
        for node in &nodes {
            let file = s.configuration(node).await?;
            assert!(!file.contains("Fifo"), "paused holds changes, but {} is given:\n{file}", node.name);
        }

        s.change("demo", json!({"paused": false})).await?;
        assert_eq!(s.settled("demo").await?.len(), 3);
        s.all_run("demo", "eviction: Fifo").await?;
        s.condition("demo", "Paused", "False", "").await?;
        Ok(())
    })
}

#[test]
fn a_cluster_declared_paused_waits() -> Outcome {
    scenario("paused-first", 1, async |s, _| {
        s.declare("demo", with(small(1), json!({"paused": true}))).await?;
        s.condition("demo", "Paused", "True", "").await?;
        s.condition("demo", "Ready", "False", "Paused").await?;
        // Another one that is declared later is made meanwhile: so the operator had the time to make this one.
        s.declare("other", small(1)).await?;
        s.settled("other").await?;
        assert_eq!(s.nodes("demo").await?, []);
        s.change("demo", json!({"paused": false})).await?;
        s.settled("demo").await?;
        Ok(())
    })
}

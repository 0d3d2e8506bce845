//! What is decided by hand, or by another change.

use serde_json::json;
use tests::canary::{by_canary, identical, load};
use tests::cluster::with;
use tests::ensure;
use tests::failure::Outcome;
use tests::scenario::{NOTICED, scenario, until};

fn paused_after_one() -> serde_json::Value {
    let steps = json!([{"type": "SetPods", "pods": 1}, {"type": "Pause"}]);
    with(by_canary(3), json!({"rollout": {"steps": steps}}))
}

#[test]
fn a_pause_is_promoted_and_an_abort_goes_back_and_a_retry_begins_again() -> Outcome {
    scenario("canary-hand", 1, async |s, _| {
        s.declare("demo", paused_after_one()).await?;
        s.settled("demo").await?;
        let load = load(s, 3).await?;
        let stable = s.reaches("Stable").await?.revision;
        s.change("demo", identical(1)).await?;
        let paused = s.reaches("Paused").await?;
        ensure!(paused.changed_pods == 1, "{paused:?}");
        s.ask("abort", &paused.revision).await?;
        let rejected = s.reaches("Rejected").await?;
        ensure!(rejected.message.contains("by hand"), "{}", rejected.message);
        s.all_are_of(&stable).await?;
        s.ask("retry", &paused.revision).await?;
        s.reaches("Paused").await?;
        s.ask("promote", &paused.revision).await?;
        s.promoted(&stable).await?;
        // The same manifest again: what was done is not done again.
        s.ask("abort", &paused.revision).await?;
        s.change("demo", json!({"node": {"idleTimeout": "77s"}})).await?;
        let next = s.reaches("Paused").await?;
        s.ask("promote", &paused.revision).await?;
        s.ask("promote", &next.revision).await?;
        s.promoted(&paused.revision).await?;
        load.stop().await?.assert_only_reconnected();
        Ok(())
    })
}

#[test]
fn a_rollout_is_superseded_and_reverted_midway() -> Outcome {
    scenario("canary-midway", 1, async |s, _| {
        s.declare("demo", paused_after_one()).await?;
        let before = s.settled("demo").await?;
        let load = load(s, 3).await?;
        let stable = s.reaches("Stable").await?.revision;
        s.change("demo", identical(1)).await?;
        let first = s.reaches("Paused").await?;
        s.change("demo", identical(2)).await?;
        let second = until("the second version to be the canary", NOTICED, || async {
            let rollout = s.rollout().await?;
            ensure!(rollout.phase == "Paused" && rollout.revision != first.revision, "{rollout:?}");
            Ok(rollout)
        })
        .await?;
        ensure!(second.stable_revision == stable, "the stable revision changed: {second:?}");
        ensure!(second.changed_pods == 1, "{second:?}");
        s.change("demo", json!({"podTemplate": {"annotations": {"version": null}}})).await?;
        let back = s.reaches("Stable").await?;
        ensure!(back.revision == stable, "{back:?}");
        let after = s.settled("demo").await?;
        ensure!(
            before[0].uid == after[0].uid && before[1].uid == after[1].uid,
            "pods that never were canaries changed"
        );
        load.stop().await?.assert_only_reconnected();
        Ok(())
    })
}

#[test]
fn scaling_waits_for_the_end_of_a_rollout_and_paused_freezes_both() -> Outcome {
    scenario("canary-scale", 1, async |s, _| {
        s.declare("demo", paused_after_one()).await?;
        s.settled("demo").await?;
        let stable = s.reaches("Stable").await?.revision;
        let load = load(s, 3).await?;
        s.change("demo", identical(1)).await?;
        let paused = s.reaches("Paused").await?;
        // As an autoscaler does, over and over.
        for replicas in ["4", "5", "4"] {
            s.kubectl(&["scale", "ccl", "demo", &format!("--replicas={replicas}")]).await?;
        }
        until("scaling to be held with a reason", NOTICED, || async {
            let rollout = s.rollout().await?;
            ensure!(rollout.scaling_held == Some(3), "{rollout:?}");
            Ok(())
        })
        .await?;
        ensure!(s.nodes("demo").await?.len() == 3, "scaled in the middle of a rollout");
        s.change("demo", json!({"paused": true})).await?;
        s.condition("demo", "Paused", "True", "Paused").await?;
        s.ask("promote", &paused.revision).await?;
        s.change("demo", json!({"paused": false})).await?;
        s.promoted(&stable).await?;
        let nodes = s.settled("demo").await?;
        ensure!(nodes.len() == 4, "{} nodes after the rollout", nodes.len());
        load.stop().await?.assert_only_reconnected();
        Ok(())
    })
}

//! What the figures decide, without a hand.

use serde_json::json;
use tests::canary::{FAULTS, by_canary, faulty, identical, load, load_misbehaving};
use tests::cluster::{lives, with};
use tests::ensure;
use tests::failure::Outcome;
use tests::scenario::scenario;

#[test]
fn an_identical_version_is_promoted_three_times_without_a_hand() -> Outcome {
    scenario("canary-same", 1, async |s, _| {
        s.declare("demo", by_canary(3)).await?;
        s.settled("demo").await?;
        let load = load(s, 3)?;
        let mut stable = s.reaches("Stable").await?.revision;
        for number in 1..=3 {
            s.change("demo", identical(number)).await?;
            stable = s.promoted(&stable).await?.revision;
        }
        let nodes = s.settled("demo").await?;
        ensure!(nodes.len() == 3, "{} nodes", nodes.len());
        load.stop().await?.assert_only_reconnected();
        Ok(())
    })
}

#[test]
fn each_fault_is_rolled_back_by_its_own_metric() -> Outcome {
    scenario("canary-faults", 1, async |s, _| {
        load_misbehaving().await?;
        s.declare("demo", by_canary(3)).await?;
        let before = s.settled("demo").await?;
        let load = load(s, 3)?;
        let stable = s.reaches("Stable").await?.revision;
        for (fault, idle_timeout, metric) in FAULTS {
            s.change("demo", faulty(idle_timeout)).await?;
            let ended = s.reaches("Rejected").await.map_err(|failure| failure.while_doing(fault))?;
            let named = metric.unwrap_or("cannot run");
            ensure!(ended.message.contains(named), "{fault} was rejected for another reason: {}", ended.message);
            ensure!(ended.stable_revision == stable, "{} is stable now", ended.stable_revision);
            s.condition("demo", "RolloutHealthy", "False", "RolledBack").await?;
            println!("{fault}: {}", ended.message);
        }
        let after = s.nodes("demo").await?;
        // The canary was the highest ordinal each time; the others were never touched.
        ensure!(lives(&before[..2]) == lives(&after[..2]), "peers were touched: {before:?} {after:?}");
        load.stop().await?;
        s.change("demo", with(identical(1), json!({"image": null, "node": {"idleTimeout": "0s"}}))).await?;
        s.settled("demo").await.map(|_| ())
    })
}

#[test]
fn one_node_and_two_nodes_never_pass_for_lack_of_peers() -> Outcome {
    scenario("canary-few", 1, async |s, _| {
        s.declare("demo", by_canary(1)).await?;
        s.settled("demo").await?;
        let one = load(s, 1)?;
        let stable = s.reaches("Stable").await?.revision;
        s.change("demo", identical(1)).await?;
        let paused = s.reaches("Paused").await?;
        ensure!(paused.message.contains("peers"), "{}", paused.message);
        s.condition("demo", "RolloutHealthy", "False", "Inconclusive").await?;
        s.ask("promote", &paused.revision).await?;
        let stable = s.promoted(&stable).await?.revision;
        one.stop().await?;
        s.change("demo", json!({"replicas": 2})).await?;
        s.settled("demo").await?;
        let two = load(s, 2)?;
        s.change("demo", identical(2)).await?;
        s.promoted(&stable).await?;
        two.stop().await?.assert_only_reconnected();
        Ok(())
    })
}

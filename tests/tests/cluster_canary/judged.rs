//! What the figures decide, without a hand.

use serde_json::{Value, json};
use tests::canary::{MISBEHAVING, by_canary, faulty, identical, load, load_misbehaving};
use tests::cluster::{lives, with};
use tests::ensure;
use tests::failure::Outcome;
use tests::load::Counted;
use tests::scenario::{Scenario, scenario};

/// The pods that change in a rollout that is given up.
const CANARIES: [&str; 1] = ["demo-2"];

#[test]
fn an_identical_version_is_promoted_three_times_without_a_hand() -> Outcome {
    scenario("canary-same", 1, async |s, _| {
        s.declare("demo", by_canary(3)).await?;
        s.settled("demo").await?;
        let load = load(s, 3).await?;
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

/// Rolls the node with a fault out, which its `idleTimeout` chooses.
///
/// # Returns
/// What the load generator counted.
async fn caught(s: &Scenario, idle_timeout: &str, named: &str, spec: Value) -> Outcome<Counted> {
    load_misbehaving().await?;
    s.declare("demo", spec).await?;
    let before = s.settled("demo").await?;
    let load = load(s, 3).await?;
    let stable = s.reaches("Stable").await?.revision;
    s.change("demo", faulty(idle_timeout)).await?;
    let ended = s.reaches("Rejected").await?;
    println!("{}: {}", s.namespace, ended.message);
    ensure!(ended.message.contains(named), "it was rejected for another reason: {}", ended.message);
    ensure!(ended.stable_revision == stable, "{} is stable now", ended.stable_revision);
    s.condition("demo", "RolloutHealthy", "False", "RolledBack").await?;
    s.all_are_of(&stable).await?;
    let after = s.nodes("demo").await?;
    ensure!(lives(&before[..2]) == lives(&after[..2]), "peers were touched: {before:?} {after:?}");
    ensure!(after.iter().all(|node| node.image != MISBEHAVING), "not all are as before: {after:?}");
    // The spec stays as it was declared, and what failed is not tried again.
    let spec = s.clusters().get("demo").await?.spec;
    ensure!(spec.image.as_deref() == Some(MISBEHAVING), "the spec was edited: {:?}", spec.image);
    load.stop().await
}

#[test]
fn a_version_that_answers_slowly_is_rolled_back() -> Outcome {
    scenario("canary-slow", 1, async |s, _| {
        caught(s, "1001s", "p50Latency", by_canary(3)).await?.assert_only_reconnected_to(&CANARIES);
        Ok(())
    })
}

#[test]
fn a_version_that_drops_a_tenth_of_the_hits_is_rolled_back() -> Outcome {
    scenario("canary-misses", 1, async |s, _| {
        caught(s, "1002s", "hitRatio", by_canary(3)).await?.assert_only_reconnected_to(&CANARIES);
        Ok(())
    })
}

#[test]
fn a_version_that_errs_is_rolled_back() -> Outcome {
    scenario("canary-errs", 1, async |s, _| {
        let counted = caught(s, "1003s", "errorRatio", by_canary(3)).await?;
        ensure!(counted.refused > 0, "no request was refused, so what was caught? {counted:?}");
        Ok(())
    })
}

#[test]
fn a_version_that_grows_in_memory_is_rolled_back() -> Outcome {
    scenario("canary-grows", 1, async |s, _| {
        caught(s, "1004s", "anonymousMemory", by_canary(3)).await?.assert_only_reconnected_to(&CANARIES);
        Ok(())
    })
}

#[test]
fn a_version_that_never_gets_ready_is_rolled_back() -> Outcome {
    scenario("canary-unready", 1, async |s, _| {
        let spec = with(by_canary(3), json!({"rollout": {"progressDeadline": "40s"}}));
        caught(s, "1005s", "cannot run: not ready for longer than progressDeadline", spec)
            .await?
            .assert_only_reconnected_to(&CANARIES);
        Ok(())
    })
}

#[test]
fn one_node_and_two_nodes_never_pass_for_lack_of_peers() -> Outcome {
    scenario("canary-few", 1, async |s, _| {
        s.declare("demo", by_canary(1)).await?;
        s.settled("demo").await?;
        let one = load(s, 1).await?;
        let stable = s.reaches("Stable").await?.revision;
        s.change("demo", identical(1)).await?;
        let paused = s.reaches("Paused").await?;
        ensure!(paused.message.contains("peers"), "{}", paused.message);
        s.condition("demo", "RolloutHealthy", "False", "Inconclusive").await?;
        s.ask("promote", &paused.revision).await?;
        let stable = s.promoted(&stable).await?.revision;
        one.stop().await?.assert_only_reconnected();
        s.change("demo", json!({"replicas": 2})).await?;
        s.settled("demo").await?;
        let two = load(s, 2).await?;
        s.change("demo", identical(2)).await?;
        s.promoted(&stable).await?;
        two.stop().await?.assert_only_reconnected();
        Ok(())
    })
}

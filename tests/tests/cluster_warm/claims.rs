//! Items on a claimed volume outlive the pod.

use serde_json::json;
use tests::cluster::{small, with};
use tests::disks::{Disks, hosts};
use tests::ensure;
use tests::failure::Outcome;
use tests::scenario::{GONE, SERVING, Scenario, scenario, until};

use crate::memory::recovery;

const KEYS: u32 = 500;

/// Waits until no claim of these nodes is there any more.
async fn are_given_back(s: &Scenario, nodes: &[&str]) -> Outcome {
    until("the claims to be given back", GONE, || async {
        let claims = s.kubectl(&["get", "pvc", "--output", "name"]).await?;
        ensure!(!nodes.iter().any(|node| claims.contains(&format!("items-{node}\n"))), "{claims}");
        Ok(())
    })
    .await
}

#[test]
fn a_pod_that_is_made_anew_has_the_items_of_its_volume() -> Outcome {
    scenario("claimed", 1, async |s, _| {
        let disks = Disks::offer(s, &hosts(s).await?, 2).await?;
        s.declare("demo", with(small(2), disks.storage())).await?;
        let before = s.settled("demo").await?;
        let addresses = s.addresses("demo", 2);
        s.set_keys(KEYS, &addresses).await?;
        s.kubectl(&["delete", "pod", "demo-0", "demo-1"]).await?;
        let again = until("both pods to be made anew", SERVING, || async {
            let now = s.settled("demo").await?;
            ensure!(now.iter().zip(&before).all(|(now, before)| now.uid != before.uid), "{now:?}");
            Ok(now)
        })
        .await?;
        assert_eq!(s.get_keys(KEYS, &addresses).await?, u64::from(KEYS));
        for node in &again {
            let recovery = recovery(s, node).await?;
            assert_eq!((recovery.medium, recovery.cold), (config::Medium::File, None));
        }
        // Also where more than the image changes: the volume outlives the pod.
        s.change("demo", json!({"cache": {"eviction": "Fifo"}})).await?;
        s.settled("demo").await?;
        s.all_run("demo", "eviction: Fifo").await?;
        assert_eq!(s.get_keys(KEYS, &addresses).await?, u64::from(KEYS));
        Ok(())
    })
}

#[test]
fn what_was_away_for_too_long_does_not_come_back() -> Outcome {
    scenario("absent", 1, async |s, _| {
        let disks = Disks::offer(s, &hosts(s).await?, 2).await?;
        let kept = json!({"storage": {"claimRetention": {"whenScaled": "Retain"}, "maxAbsence": "2s"}});
        s.declare("demo", with(with(small(2), disks.storage()), kept)).await?;
        s.settled("demo").await?;
        let addresses = s.addresses("demo", 2);
        s.set_keys(KEYS, &addresses[1..]).await?;
        s.kubectl(&["scale", "ccl", "demo", "--replicas", "1"]).await?;
        s.settled("demo").await?;
        // The pod is gone, and its volume stays for longer than it is good for.
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
        s.kubectl(&["scale", "ccl", "demo", "--replicas", "2"]).await?;
        let nodes = s.settled("demo").await?;
        assert_eq!(s.get_keys(KEYS, &addresses[1..]).await?, 0);
        let cold = recovery(s, &nodes[1]).await?.cold;
        assert!(cold.is_some(), "the node says why it began empty");
        Ok(())
    })
}

#[test]
fn nodes_that_come_back_after_scaling_bring_nothing_old() -> Outcome {
    scenario("scaled", 1, async |s, _| {
        let disks = Disks::offer(s, &hosts(s).await?, 4).await?;
        s.declare("demo", with(small(5), disks.storage())).await?;
        s.settled("demo").await?;
        let addresses = s.addresses("demo", 5);
        s.set_keys(KEYS, &addresses[2..]).await?;
        s.kubectl(&["scale", "ccl", "demo", "--replicas", "2"]).await?;
        s.settled("demo").await?;
        are_given_back(s, &["demo-2", "demo-3", "demo-4"]).await?;
        s.kubectl(&["scale", "ccl", "demo", "--replicas", "5"]).await?;
        s.settled("demo").await?;
        assert_eq!(s.get_keys(KEYS, &addresses[2..]).await?, 0);
        Ok(())
    })
}

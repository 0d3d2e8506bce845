//! Items in memory outlive the container.

use tests::cluster::{NodePod, small};
use tests::ensure;
use tests::failure::{Failure, Outcome};
use tests::process::Process;
use tests::scenario::{SERVING, Scenario, scenario, until};

const KEYS: u32 = 2000;

/// What a node says of how it began.
pub async fn recovery(s: &Scenario, node: &NodePod) -> Outcome<config::Recovery> {
    let status = s.node_status("demo", node).await?;
    let recovery = status.storage.and_then(|storage| storage.recovery);
    recovery.ok_or_else(|| Failure::new(format!("{} says nothing of its volume", node.name)))
}

#[test]
fn a_container_that_is_restarted_has_its_items() -> Outcome {
    scenario("restart", 1, async |s, _| {
        s.declare("demo", small(2)).await?;
        let nodes = s.settled("demo").await?;
        s.condition("demo", "StorageDegraded", "False", "AsDeclared").await?;
        let addresses = s.addresses("demo", 2);
        s.set_keys(KEYS, &addresses).await?;
        // Killed without a chance to end well, and asked to end.
        for (round, (signal, from_snapshot)) in [("KILL", false), ("TERM", true)].into_iter().enumerate() {
            for node in &nodes {
                Process::in_pod(&node.uid, "cache-node")?.signal(signal)?;
            }
            let restarts = i32::try_from(round)? + 1;
            until("the containers to be restarted", SERVING, || async {
                let now = s.nodes("demo").await?;
                ensure!(now.iter().all(|node| node.restarts == restarts && node.ready), "{now:?}");
                Ok(())
            })
            .await?;
            let now = s.settled("demo").await?;
            assert!(now.iter().zip(&nodes).all(|(now, before)| now.uid == before.uid), "the pods stay: {now:?}");
            assert_eq!(s.get_keys(KEYS, &addresses).await?, u64::from(KEYS), "after SIG{signal}");
            for node in &now {
                let recovery = recovery(s, node).await?;
                assert_eq!((recovery.cold, recovery.from_snapshot), (None, from_snapshot), "after SIG{signal}");
            }
        }
        let status = s.clusters().get("demo").await?.status.unwrap_or_default();
        let media: Vec<&str> = status.pods.iter().map(|pod| pod.medium.as_str()).collect();
        assert_eq!(media, ["Memory", "Memory"]);
        Ok(())
    })
}

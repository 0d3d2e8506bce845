//! A host that is lost with the volume of a node on it. It would disturb scenarios that run beside it, so it is a program of its own.

use serde_json::json;
use tests::bed::{Tool, run, run_blocking};
use tests::cluster::{small, with};
use tests::disks::{Disks, hosts};
use tests::ensure;
use tests::failure::{Failure, Outcome};
use tests::scenario::{NOTICED, SERVING, scenario, until};

/// A host that is no part of the cluster any more. It comes back whatever happens.
struct Lost(String);

impl Lost {
    async fn lose(host: &str) -> Outcome<Lost> {
        let lost = Lost(host.to_owned());
        run(Tool::Node, &[host, "stop"]).await?;
        run(Tool::Kubectl, &["delete", "node", host]).await?;
        Ok(lost)
    }
}

impl Drop for Lost {
    fn drop(&mut self) {
        if let Err(failure) = run_blocking(Tool::Node, &[&self.0, "start"]) {
            eprintln!("host {} stays lost: {failure}", self.0);
        }
    }
}

const KEYS: u32 = 200;

/// No host has two nodes, as it may where they are only spread as far as possible: one volume is lost then.
fn one_a_host() -> serde_json::Value {
    let of_demo = json!({"matchLabels": {"app.kubernetes.io/instance": "demo"}});
    json!({"podTemplate": {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": of_demo}]}})
}

#[test]
fn a_volume_that_is_lost_with_its_host_is_replaced_when_someone_says_so() -> Outcome {
    scenario("lost", 1, async |s, operator| {
        let disks = Disks::offer(s, &hosts(s).await?, 2).await?;
        s.declare("demo", with(with(small(3), disks.storage()), one_a_host())).await?;
        let before = s.settled("demo").await?;
        let addresses = s.addresses("demo", 3);
        s.set_keys(KEYS, &addresses).await?;
        let leader = operator.wait_for_leader().await?;
        let home = leader.spec.and_then(|spec| spec.node_name).unwrap_or_default();
        let node = before.iter().find(|node| node.host != home).cloned();
        let node = node.ok_or_else(|| Failure::new(format!("all nodes are on {home}, with the operator")))?;
        let claim = format!("pvc/items-{}", node.name);
        let volume = s.kubectl(&["get", &claim, "--output", "jsonpath={.spec.volumeName}"]).await?;
        let lost = Lost::lose(&node.host).await?;

        let message = until("the operator to say that the volume is lost", SERVING, || async {
            s.condition("demo", "StorageDegraded", "True", "VolumeLost").await
        })
        .await?;
        for words in [&node.name, &volume, &node.host, "gannet.dev/replace-volumes"] {
            assert!(message.contains(words), "{words} is not in: {message}");
        }
        // Nobody has said so: the items may come back with their host.
        let uid = ["get", &claim, "--output", "jsonpath={.metadata.uid}"];
        let claimed = s.kubectl(&uid).await?;
        let annotation = format!("gannet.dev/replace-volumes={volume}");
        s.kubectl(&["annotate", "ccl", "demo", &annotation]).await?;
        until("another claim", NOTICED, || async {
            let now = s.kubectl(&uid).await?;
            ensure!(now != claimed, "it is still the old one");
            Ok(())
        })
        .await?;
        let after = s.settled("demo").await?;
        let again = after.iter().find(|again| again.name == node.name);
        assert!(again.is_some_and(|again| again.host != node.host), "{after:?}");
        s.condition("demo", "StorageDegraded", "False", "AsDeclared").await?;
        s.set_keys(KEYS, &addresses).await?;
        drop(lost);
        until("the host to come back", SERVING, || async {
            let ready = run(Tool::Kubectl, &["get", "node", &node.host]).await?;
            ensure!(ready.contains(" Ready "), "{ready}");
            Ok(())
        })
        .await
    })
}

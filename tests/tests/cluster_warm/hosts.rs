//! Nodes are where their medium is; where it is not, they wait or do without, as declared.

use serde_json::json;
use tests::cluster::{lives, small, with};
use tests::disks::{Disks, Label, hosts};
use tests::ensure;
use tests::failure::Outcome;
use tests::scenario::{NOTICED, Scenario, scenario, until};

/// A label that no other scenario asks for.
fn own_label(s: &Scenario) -> String {
    format!("test.gannet.dev/{}", s.namespace)
}

#[test]
fn persistent_memory_is_on_hosts_that_have_it() -> Outcome {
    scenario("optane", 1, async |s, _| {
        let hosts = hosts(s).await?;
        let disks = Disks::offer(s, &hosts, 3).await?;
        let chosen = &hosts[1..2];
        let _labels = [
            Label::put(s, "feature.node.kubernetes.io/memory-nv.present", chosen).await?,
            Label::put(s, "feature.node.kubernetes.io/memory-nv.dax", chosen).await?,
        ];
        let medium = json!({"storage": {"medium": "PersistentMemory"}});
        s.declare("demo", with(with(small(3), disks.storage()), medium)).await?;
        let nodes = until("the pods to be on hosts", NOTICED, || async {
            let nodes = s.nodes("demo").await?;
            ensure!(nodes.len() == 3 && nodes.iter().all(|node| !node.host.is_empty()), "{nodes:?}");
            Ok(nodes)
        })
        .await?;
        assert!(nodes.iter().all(|node| node.host == chosen[0]), "{nodes:?}");
        // These hosts say that they have it, and have disks: a node is not taken in by a label.
        until("a node to say that this is no persistent memory", NOTICED, || async {
            let log = s.kubectl(&["logs", "demo-0", "--tail=5"]).await?;
            ensure!(log.contains("is on File, and must be on PersistentMemory"), "{log}");
            Ok(())
        })
        .await?;
        Ok(())
    })
}

#[test]
fn nodes_wait_for_a_host_that_has_what_they_need() -> Outcome {
    scenario("wait", 1, async |s, _| {
        let hosts = hosts(s).await?;
        let disks = Disks::offer(s, &hosts, 2).await?;
        let label = own_label(s);
        let needs = json!({"storage": {"nodeRequirements": [{"key": label, "operator": "In", "values": ["true"]}]}});
        s.declare("demo", with(with(small(2), disks.storage()), needs)).await?;
        let message = s.condition("demo", "StorageDegraded", "True", "Unavailable").await?;
        assert!(message.contains(&format!("no host has the labels {label}=true")), "{message}");
        assert!(message.contains("the nodes wait"), "{message}");
        until("the operator to say which nodes wait", NOTICED, || async {
            let ready = s.condition("demo", "Ready", "False", "").await?;
            ensure!(ready.contains("demo-0") && ready.contains("Unschedulable"), "{ready}");
            Ok(())
        })
        .await?;

        let _label = Label::put(s, &label, &hosts[..1]).await?;
        let nodes = s.settled("demo").await?;
        assert!(nodes.iter().all(|node| node.host == hosts[0]), "{nodes:?}");
        s.condition("demo", "StorageDegraded", "False", "AsDeclared").await?;
        Ok(())
    })
}

#[test]
fn nodes_do_without_where_that_is_declared_and_stay_so() -> Outcome {
    scenario("fallback", 1, async |s, operator| {
        let hosts = hosts(s).await?;
        let disks = Disks::offer(s, &hosts, 2).await?;
        let label = own_label(s);
        let requirements = json!([{"key": label, "operator": "Exists"}]);
        let needs = json!({"storage": {"nodeRequirements": requirements, "onUnavailable": "Fallback"}});
        s.declare("demo", with(with(small(2), disks.storage()), needs)).await?;
        let before = lives(&s.settled("demo").await?);
        let message = s.condition("demo", "StorageDegraded", "True", "Fallback").await?;
        assert!(message.contains("no File") && message.contains("in Memory"), "{message}");
        s.set_keys(100, &s.addresses("demo", 2)).await?;
        assert_eq!(s.kubectl(&["get", "pvc", "--output", "name"]).await?, "", "nothing is claimed");

        // It is not decided again: neither by hosts that come, nor by another operator, nor with a change.
        let _label = Label::put(s, &label, &hosts).await?;
        let (killed, restarts) = operator.kill().await?;
        operator.wait_for_restart(&killed, restarts).await?;
        s.kubectl(&["scale", "ccl", "demo", "--replicas", "3"]).await?;
        let mut after = lives(&s.settled("demo").await?);
        after.remove("demo-2");
        assert_eq!(after, before);
        s.condition("demo", "StorageDegraded", "True", "Fallback").await?;
        s.change("demo", json!({"cache": {"eviction": "Fifo"}})).await?;
        s.settled("demo").await?;
        s.all_run("demo", "eviction: Fifo").await?;
        let status = s.clusters().get("demo").await?.status.unwrap_or_default();
        assert!(status.pods.iter().all(|pod| pod.medium == "Memory"), "{:?}", status.pods);
        Ok(())
    })
}

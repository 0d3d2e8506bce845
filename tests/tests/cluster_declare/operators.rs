//! The operator is killed, doubled, frozen and upgraded: the caches do not notice.

use std::time::Duration;

use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::json;
use tests::bed::VERSION;
use tests::cluster::{lives, small};
use tests::ensure;
use tests::failure::Outcome;
use tests::images::load_as;
use tests::scenario::{NOTICED, SERVING, scenario, until};

use crate::change::is_under_way;

#[test]
fn an_operator_killed_during_a_change_finishes_it() -> Outcome {
    scenario("kill", 1, async |s, operator| {
        s.declare("demo", small(4)).await?;
        s.settled("demo").await?;
        s.change("demo", json!({"cache": {"eviction": "Fifo"}})).await?;
        is_under_way(s, "demo", "eviction: Fifo").await?;
        let (killed, restarts) = operator.kill().await?;
        operator.wait_for_restart(&killed, restarts).await?;
        s.settled("demo").await?;
        s.all_run("demo", "eviction: Fifo").await
    })
}

#[test]
fn an_operator_killed_while_a_cluster_is_made_finishes_it() -> Outcome {
    scenario("kill-making", 1, async |s, operator| {
        // Several at once, so that the kill falls between some two of their writes; and at different moments.
        const MOMENTS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(100), Duration::from_millis(400)];
        for (round, moment) in MOMENTS.into_iter().enumerate() {
            operator.wait_for_leader().await?;
            for name in ["a", "b", "c", "d"] {
                s.declare(&format!("{name}{round}"), small(1)).await?;
            }
            tokio::time::sleep(moment).await;
            let (killed, restarts) = operator.kill().await?;
            operator.wait_for_restart(&killed, restarts).await?;
        }
        for cluster in s.clusters().list(&ListParams::default()).await? {
            let name = cluster.name_any();
            s.settled(&name).await?;
            s.set_keys(10, &s.addresses(&name, 1)).await?;
        }
        Ok(())
    })
}

#[test]
fn of_two_operators_one_leads_and_the_other_takes_over() -> Outcome {
    scenario("two", 2, async |s, operator| {
        let first = operator.wait_for_leader().await?;
        let pods = operator.pods().await?;
        assert_eq!(pods.len(), 2, "two operators: {:?}", pods.iter().map(ResourceExt::name_any).collect::<Vec<_>>());
        s.declare("demo", small(2)).await?;
        s.settled("demo").await?;

        // Killed together with its pod: nobody releases the Lease, and nobody of its name comes back for it.
        operator.process(&first)?.signal("STOP")?;
        s.kubectl(&["delete", "pod", &first.name_any(), "--force", "--grace-period=0"]).await?;
        let second = until("the other operator to take over", SERVING, || async {
            let leader = operator.leader().await?;
            ensure!(leader.uid() != first.uid(), "{} still leads", leader.name_any());
            Ok(leader)
        })
        .await?;
        s.change("demo", json!({"cache": {"eviction": "Fifo"}})).await?;
        s.settled("demo").await?;
        s.all_run("demo", "eviction: Fifo").await?;

        // Frozen, as on a machine that hangs: it must not go on leading when it is thawed.
        until("a second operator to stand by", SERVING, || async {
            let pods = operator.pods().await?;
            let ready = pods.iter().filter(|pod| tests::cluster::serves(pod)).count();
            ensure!(ready == 2, "{ready} are ready");
            Ok(())
        })
        .await?;
        let frozen = operator.process(&second)?;
        frozen.signal("STOP")?;
        let third = until("another operator to take over from the frozen one", SERVING, || async {
            let leader = operator.leader().await?;
            ensure!(leader.uid() != second.uid(), "{} still leads", leader.name_any());
            Ok(leader)
        })
        .await?;
        if let Err(failure) = frozen.signal("CONT") {
            // The kubelet may have found it dead meanwhile and started it anew, which is as good.
            eprintln!("{failure}");
        }
        until("the thawed operator to follow", SERVING, || async {
            let pods = operator.pods().await?;
            let thawed = pods.iter().find(|pod| pod.uid() == second.uid());
            ensure!(thawed.is_some_and(tests::cluster::serves), "{} is not ready", second.name_any());
            let leader = operator.leader().await?;
            ensure!(leader.uid() == third.uid(), "{} leads", leader.name_any());
            Ok(())
        })
        .await?;
        s.kubectl(&["scale", "ccl", "demo", "--replicas", "3"]).await?;
        s.settled("demo").await?;
        Ok(())
    })
}

#[test]
fn an_operator_upgrade_touches_no_pod() -> Outcome {
    scenario("upgrade", 1, async |s, operator| {
        let tag = format!("{VERSION}-next");
        for image in ["cache-operator", "cache-node"] {
            load_as(image, &tag).await?;
        }
        s.declare("demo", small(3)).await?;
        let before = lives(&s.settled("demo").await?);
        let image = s.clusters().get("demo").await?.status.unwrap_or_default().image;
        s.set_keys(1000, &s.addresses("demo", 3)).await?;

        operator.upgrade(&tag).await?;
        let leader = operator.wait_for_leader().await?;
        let runs = leader.spec.as_ref().and_then(|spec| spec.containers[0].image.clone()).unwrap_or_default();
        assert!(runs.ends_with(&tag), "the upgraded operator runs {runs}");
        // What is deleted now is brought back by the new one: so it has worked on this cluster.
        let uid = ["get", "service/demo", "--output", "jsonpath={.metadata.uid}"];
        let service = s.kubectl(&uid).await?;
        s.kubectl(&["delete", "service/demo"]).await?;
        until("the new operator to bring the Service back", NOTICED, || async {
            ensure!(s.kubectl(&uid).await? != service, "it is still the old one");
            Ok(())
        })
        .await?;
        let nodes = s.settled("demo").await?;
        assert_eq!(lives(&nodes), before, "an operator upgrade must restart no pod");
        assert!(nodes.iter().all(|node| node.image == image), "the image stays: {nodes:?}");
        assert_eq!(s.get_keys(1000, &s.addresses("demo", 3)).await?, 1000, "and so do the items");

        // Scaling and new clusters go on: new pods of the old cluster are like their peers, a new cluster is new.
        s.kubectl(&["scale", "ccl", "demo", "--replicas", "4"]).await?;
        assert!(s.settled("demo").await?.iter().all(|node| node.image == image), "one cluster, one image");
        s.declare("new", small(1)).await?;
        let new = s.settled("new").await?;
        assert!(new[0].image.ends_with(&tag), "a cluster declared now has the new image: {}", new[0].image);
        Ok(())
    })
}

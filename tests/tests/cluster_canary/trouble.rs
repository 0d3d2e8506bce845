//! What happens meanwhile and must not matter.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, EvictParams};
use serde_json::json;
use tests::canary::{ROLLOUT, by_canary, identical, load};
use tests::cluster::{Cordoned, NodePod, lives, with};
use tests::ensure;
use tests::failure::Outcome;
use tests::operator::Operator;
use tests::scenario::{SERVING, Scenario, scenario, until};

/// Kills the operator with SIGKILL, and its pod, so that another takes over at once: the kubelet waits ever longer before it starts
/// a container again.
async fn kill(s: &Scenario, operator: &Operator<'_>) -> Outcome {
    let (killed, _) = operator.kill().await?;
    let name = killed.metadata.name.unwrap_or_default();
    s.kubectl(&["delete", "pod", &name, "--grace-period=0", "--force", "--wait=false"]).await.map(|_| ())
}

#[test]
fn an_operator_killed_in_each_phase_goes_on() -> Outcome {
    scenario("canary-kill", 1, async |s, operator| {
        let mut spec = by_canary(3);
        let pause = json!({"type": "Pause"});
        spec["rollout"]["steps"].as_array_mut().into_iter().for_each(|steps| steps.push(pause.clone()));
        s.declare("demo", spec).await?;
        s.settled("demo").await?;
        let load = load(s, 3).await?;
        let stable = s.reaches("Stable").await?.revision;
        kill(s, operator).await?;
        s.change("demo", identical(1)).await?;
        for phase in ["Rolling", "Analysing", "Paused"] {
            s.reaches(phase).await?;
            kill(s, operator).await?;
        }
        let paused = s.reaches("Paused").await?;
        ensure!(paused.step == 3 && paused.changed_pods == 1, "{paused:?}");
        s.ask("promote", &paused.revision).await?;
        let promoted = s.promoted(&stable).await?;
        s.change("demo", identical(2)).await?;
        let next = s.reaches("Analysing").await?;
        s.ask("abort", &next.revision).await?;
        s.reaches("RollingBack").await?;
        kill(s, operator).await?;
        s.reaches("Rejected").await?;
        s.all_are_of(&promoted.revision).await?;
        let before = lives(&s.nodes("demo").await?);
        kill(s, operator).await?;
        operator.wait_for_leader().await?;
        let ended = s.reaches("Rejected").await?;
        ensure!(ended.stable_revision == promoted.revision, "{ended:?}");
        ensure!(before == lives(&s.nodes("demo").await?), "what was rejected was tried again");
        load.stop().await?.assert_only_reconnected();
        Ok(())
    })
}

#[test]
fn a_host_that_is_drained_in_an_analysis_changes_nothing() -> Outcome {
    scenario("canary-drain", 1, async |s, _| {
        // Only this scenario's pods are drained: the selector knows no namespace.
        let label = json!({"podTemplate": {"labels": {"drained-with": s.namespace}}});
        s.declare("demo", with(by_canary(3), label)).await?;
        let before = s.settled("demo").await?;
        let load = load(s, 3).await?;
        let stable = s.reaches("Stable").await?.revision;
        s.change("demo", identical(1)).await?;
        s.reaches("Analysing").await?;
        let (host, selector) = (before[0].host.clone(), format!("--pod-selector=drained-with={}", s.namespace));
        let cordoned = Cordoned(&host);
        s.kubectl(&["drain", &host, &selector, "--delete-emptydir-data", "--timeout=300s"]).await?;
        until("the pod to come back", SERVING, || async {
            let nodes = s.nodes("demo").await?;
            ensure!(nodes.len() == 3 && nodes[0].uid != before[0].uid && nodes[0].ready, "not back yet");
            let status = s.clusters().get("demo").await?.status.unwrap_or_default();
            let pod = status.pods.iter().find(|pod| pod.name == "demo-0").cloned().unwrap_or_default();
            let rollout = status.rollout.unwrap_or_default();
            ensure!(pod.ready, "not reported yet");
            ensure!(rollout.phase != "Analysing" || pod.revision == stable, "it came back on {}", pod.revision);
            Ok(())
        })
        .await?;
        drop(cordoned);
        s.promoted(&stable).await?;
        load.stop().await?.assert_only_reconnected();
        Ok(())
    })
}

#[test]
fn a_canary_that_is_evicted_in_an_analysis_is_cold_and_looked_at_anew() -> Outcome {
    scenario("canary-evict", 1, async |s, _| {
        s.declare("demo", by_canary(3)).await?;
        s.settled("demo").await?;
        let load = load(s, 3).await?;
        let stable = s.reaches("Stable").await?.revision;
        s.change("demo", identical(1)).await?;
        until("a look to be taken", ROLLOUT, || async {
            let rollout = s.rollout().await?;
            ensure!(rollout.looks_done > 0, "{} with {} looks", rollout.phase, rollout.looks_done);
            Ok(())
        })
        .await?;
        s.all::<Pod>().evict("demo-2", &EvictParams::default()).await?;
        s.promoted(&stable).await?;
        load.stop().await?.assert_only_reconnected();
        Ok(())
    })
}

#[test]
fn a_stateful_set_deleted_in_a_rollout_comes_back_stable_first() -> Outcome {
    scenario("canary-set", 1, async |s, _| {
        let steps = json!([{"type": "SetPods", "pods": 1}, {"type": "Pause"}]);
        s.declare("demo", with(by_canary(3), json!({"rollout": {"steps": steps}}))).await?;
        let before = s.settled("demo").await?;
        let load = load(s, 3).await?;
        let stable = s.reaches("Stable").await?.revision;
        s.change("demo", identical(1)).await?;
        let paused = s.reaches("Paused").await?;
        s.all::<StatefulSet>().delete("demo", &DeleteParams::foreground()).await?;
        let is_new = |node: &NodePod| node.ready && before.iter().all(|old| old.uid != node.uid);
        until("all nodes to be new", SERVING, || async {
            let nodes = s.nodes("demo").await?;
            ensure!(nodes.len() == 3 && nodes.iter().all(is_new), "{nodes:?}");
            Ok(())
        })
        .await?;
        let again = s.reaches("Paused").await?;
        let status = s.clusters().get("demo").await?.status.unwrap_or_default();
        // Had it come back with the new template, all of them would be of the new revision.
        let revisions: Vec<&str> = status.pods.iter().map(|pod| pod.revision.as_str()).collect();
        ensure!(revisions == [&stable, &stable, &again.revision], "{revisions:?}");
        ensure!(again.stable_revision == stable && again.revision == paused.revision, "{again:?}");
        s.ask("promote", &again.revision).await?;
        s.promoted(&stable).await?;
        load.stop().await?.assert_only_reconnected();
        Ok(())
    })
}

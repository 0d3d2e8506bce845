//! What happens meanwhile and must not matter.

use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::DeleteParams;
use serde_json::json;
use tests::canary::{by_canary, identical, load};
use tests::cluster::with;
use tests::ensure;
use tests::failure::Outcome;
use tests::operator::restarts;
use tests::scenario::scenario;

#[test]
fn an_operator_killed_in_each_phase_goes_on() -> Outcome {
    scenario("canary-kill", 1, async |s, operator| {
        let mut spec = by_canary(3);
        let pause = json!({"type": "Pause", "duration": "15s"});
        spec["rollout"]["steps"].as_array_mut().into_iter().for_each(|steps| steps.push(pause.clone()));
        s.declare("demo", spec).await?;
        s.settled("demo").await?;
        let load = load(s, 3)?;
        let stable = s.reaches("Stable").await?.revision;
        s.change("demo", identical(1)).await?;
        for phase in ["Rolling", "Analysing", "Paused"] {
            let leader = operator.wait_for_leader().await?;
            let process = operator.process(&leader)?;
            s.reaches(phase).await?;
            process.signal("KILL")?;
            operator.wait_for_restart(&leader, restarts(&leader)).await?;
        }
        let promoted = s.promoted(&stable).await?;
        s.change("demo", identical(2)).await?;
        let next = s.reaches("Analysing").await?;
        s.ask("abort", &next.revision).await?;
        let leader = operator.wait_for_leader().await?;
        operator.process(&leader)?.signal("KILL")?;
        operator.wait_for_restart(&leader, restarts(&leader)).await?;
        let ended = s.reaches("Rejected").await?;
        ensure!(ended.stable_revision == promoted.revision, "{ended:?}");
        load.stop().await?.assert_only_reconnected();
        Ok(())
    })
}

#[test]
fn a_stable_pod_that_is_evicted_in_an_analysis_comes_back_stable() -> Outcome {
    scenario("canary-drain", 1, async |s, _| {
        s.declare("demo", by_canary(3)).await?;
        let before = s.settled("demo").await?;
        let load = load(s, 3)?;
        let stable = s.reaches("Stable").await?.revision;
        s.change("demo", identical(1)).await?;
        s.reaches("Analysing").await?;
        // As the draining of its host does.
        s.kubectl(&["delete", "pod", "demo-0", "--wait=false"]).await?;
        tests::scenario::until("the pod to come back", tests::scenario::SERVING, || async {
            let nodes = s.nodes("demo").await?;
            ensure!(nodes.len() == 3 && nodes[0].uid != before[0].uid && nodes[0].ready, "not back yet");
            let status = s.clusters().get("demo").await?.status.unwrap_or_default();
            let pod = status.pods.iter().find(|pod| pod.name == "demo-0").cloned().unwrap_or_default();
            let rollout = status.rollout.unwrap_or_default();
            ensure!(rollout.phase != "Analysing" || pod.revision == stable, "it came back on {}", pod.revision);
            Ok(())
        })
        .await?;
        s.promoted(&stable).await?;
        load.stop().await?;
        Ok(())
    })
}

#[test]
fn a_stateful_set_deleted_in_a_rollout_comes_back_stable_first() -> Outcome {
    scenario("canary-set", 1, async |s, _| {
        let steps = json!([{"type": "SetPods", "pods": 1}, {"type": "Pause"}]);
        s.declare("demo", with(by_canary(3), json!({"rollout": {"steps": steps}}))).await?;
        s.settled("demo").await?;
        let stable = s.reaches("Stable").await?.revision;
        s.change("demo", identical(1)).await?;
        let paused = s.reaches("Paused").await?;
        s.all::<StatefulSet>().delete("demo", &DeleteParams::foreground()).await?;
        let again = s.reaches("Paused").await?;
        ensure!(again.stable_revision == stable && again.revision == paused.revision, "{again:?}");
        s.ask("promote", &again.revision).await?;
        s.promoted(&stable).await?;
        Ok(())
    })
}

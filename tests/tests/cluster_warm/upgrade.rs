//! Another image, and no item lost: pods whose items are in memory are changed in place.

use std::time::{Duration, Instant};

use kube::ResourceExt;
use serde_json::json;
use tests::bed::VERSION;
use tests::cluster::{NodePod, small};
use tests::ensure;
use tests::failure::Outcome;
use tests::images::load_as;
use tests::load::Load;
use tests::operator::Operator;
use tests::readiness::Readiness;
use tests::scenario::{SERVING, Scenario, scenario, until};

const KEYS: u32 = 100_000;
const FEWER_KEYS: u32 = 2000;
/// An operator that takes over waits for the Lease of the one before.
const MANY_LIVES: Duration = Duration::from_secs(900);

/// Gives the bed an image like the present one by another name, and declares it.
async fn upgrade(s: &Scenario, tag: &str) -> Outcome {
    load_as("cache-node", tag).await?;
    s.change("demo", json!({"image": format!("docker.io/gannet/cache-node:{tag}")})).await?;
    Ok(())
}

/// Panics unless the pods are those that they were, each restarted so often.
fn assert_kept(before: &[NodePod], after: &[NodePod], restarts: &[i32]) {
    let uids = |nodes: &[NodePod]| nodes.iter().map(|node| node.uid.clone()).collect::<Vec<_>>();
    assert_eq!(uids(before), uids(after), "pods were made anew: {after:?}");
    assert_eq!(after.iter().map(|node| node.restarts).collect::<Vec<_>>(), restarts, "{after:?}");
}

#[test]
fn an_upgrade_loses_no_item() -> Outcome {
    scenario("inplace", 1, async |s, _| {
        s.declare("demo", small(3)).await?;
        let before = s.settled("demo").await?;
        let addresses = s.addresses("demo", 3);
        s.set_keys(KEYS, &addresses).await?;
        let watch = Readiness::watch(s, "demo").await;
        let load = Load::plain(&addresses, &["--rate", "200", "--keys", "500"]).await?;
        upgrade(s, &format!("{VERSION}-inplace")).await?;
        let after = s.settled("demo").await?;
        let counted = load.stop().await?;
        counted.assert_only_reconnected();
        assert!(after.iter().all(|node| node.image.ends_with("-inplace")), "{after:?}");
        assert_kept(&before, &after, &[1, 1, 1]);
        assert_eq!(s.get_keys(KEYS, &addresses).await?, u64::from(KEYS));
        assert!(watch.lowest() >= 2, "maxUnavailable is 1, and {} of 3 served", watch.lowest());
        let events = s.kubectl(&["get", "events", "--output", "jsonpath={.items[*].reason}"]).await?;
        assert!(events.contains("ChangedInPlace") && !events.contains("Cold"), "{events}");

        // What cannot be kept says so.
        s.change("demo", json!({"cache": {"eviction": "Fifo"}})).await?;
        s.settled("demo").await?;
        let cold = [
            "get",
            "events",
            "--field-selector=reason=Cold",
            "--output",
            "jsonpath={.items[*].note}{.items[*].message}",
        ];
        let cold = s.kubectl(&cold).await?;
        assert!(cold.contains("more than the image changes"), "{cold}");
        Ok(())
    })
}

#[test]
fn an_upgrade_goes_back_half_way_and_loses_no_item() -> Outcome {
    scenario("halfway", 1, async |s, _| {
        s.declare("demo", small(3)).await?;
        let before = s.settled("demo").await?;
        let addresses = s.addresses("demo", 3);
        s.set_keys(FEWER_KEYS, &addresses).await?;
        let load = Load::plain(&addresses, &["--rate", "200", "--keys", "500"]).await?;
        upgrade(s, &format!("{VERSION}-halfway")).await?;
        until("one node to have changed", SERVING, || async {
            let nodes = s.nodes("demo").await?;
            let last = nodes.last().is_some_and(|node| node.image.ends_with("-halfway") && node.restarts == 1);
            ensure!(last, "{nodes:?}");
            Ok(())
        })
        .await?;
        s.change("demo", json!({"image": before[0].image})).await?;
        let after = s.settled("demo").await?;
        load.stop().await?.assert_only_reconnected();
        assert!(after.iter().all(|node| node.image == before[0].image), "{after:?}");
        let (uids, was): (Vec<_>, Vec<_>) = after.iter().zip(&before).map(|(a, b)| (&a.uid, &b.uid)).unzip();
        assert_eq!(uids, was, "pods were made anew");
        assert_eq!((after[0].restarts, after[2].restarts), (0, 2), "{after:?}");
        assert_eq!(s.get_keys(FEWER_KEYS, &addresses).await?, u64::from(FEWER_KEYS));
        Ok(())
    })
}

/// The operator dies with its pod, so that nothing keeps the next one waiting.
async fn kill(s: &Scenario, operator: &Operator<'_>) -> Outcome {
    let (killed, _) = operator.kill().await?;
    s.kubectl(&["delete", "pod", &killed.name_any(), "--force", "--grace-period=0"]).await?;
    Ok(())
}

/// What the operator writes about a change: the template and the partition, and each pod's gate and image.
async fn written(s: &Scenario) -> Outcome<String> {
    let set = s.kubectl(&["get", "statefulset", "demo", "--output", "jsonpath={.spec}"]).await?;
    let gate = r#"{.status.conditions[?(@.type=="gannet.dev/in-service")].status}"#;
    let pods = format!("jsonpath={{range .items[*]}}{{.spec.containers[0].image}}{gate} {{end}}");
    let selector = "--selector=app.kubernetes.io/name=cache-node";
    Ok(format!("{set}{}", s.kubectl(&["get", "pods", selector, "--output", &pods]).await?))
}

#[test]
fn an_operator_killed_at_every_write_loses_no_item() -> Outcome {
    scenario("killed", 1, async |s, operator| {
        s.declare("demo", small(2)).await?;
        let before = s.settled("demo").await?;
        let addresses = s.addresses("demo", 2);
        s.set_keys(FEWER_KEYS, &addresses).await?;
        let (mut last, mut kills, begun) = (written(s).await?, 0, Instant::now());
        upgrade(s, &format!("{VERSION}-killed")).await?;
        loop {
            let now = written(s).await?;
            if now != last {
                last = now;
                kill(s, operator).await?;
                kills += 1;
            }
            let nodes = s.nodes("demo").await?;
            if nodes.iter().all(|node| node.ready && node.image.ends_with("-killed")) {
                break;
            }
            ensure!(begun.elapsed() < MANY_LIVES, "after {kills} kills: {nodes:?}");
        }
        let after = s.settled("demo").await?;
        assert!(kills > 3, "the operator was killed {kills} times only");
        assert_kept(&before, &after, &[1, 1]);
        assert_eq!(s.get_keys(FEWER_KEYS, &addresses).await?, u64::from(FEWER_KEYS));
        Ok(())
    })
}

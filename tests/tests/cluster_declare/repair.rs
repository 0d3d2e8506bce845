//! What is deleted or changed by hand comes back.

use futures::try_join;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::{EvictParams, ListParams};
use tests::cluster::{Cordoned, lives, small};
use tests::ensure;
use tests::failure::Outcome;
use tests::readiness::Readiness;
use tests::scenario::{NOTICED, SERVING, Scenario, scenario, until};

/// An object's UID.
async fn uid(s: &Scenario, object: &str) -> Outcome<String> {
    s.kubectl(&["get", object, "--output", "jsonpath={.metadata.uid}"]).await
}

/// Deletes an object and waits until there is another of its name.
async fn comes_back(s: &Scenario, object: &str) -> Outcome {
    let before = uid(s, object).await?;
    s.kubectl(&["delete", object, "--wait=false"]).await?;
    until(&format!("{object} to come back"), NOTICED, || async {
        let now = uid(s, object).await?;
        ensure!(now != before, "it is still the old one");
        Ok(())
    })
    .await
}

#[test]
fn owned_objects_that_are_deleted_come_back() -> Outcome {
    scenario("owned", 1, async |s, _| {
        s.declare("demo", small(2)).await?;
        let nodes = s.settled("demo").await?;
        let config_map = format!("configmap/{}", nodes[0].config_map);
        let revision = s.clusters().get("demo").await?.status.unwrap_or_default().revision;
        let revision = format!("controllerrevision.apps/{revision}");
        let owned = ["service/demo", "service/demo-nodes", &config_map, "pdb/demo", "serviceaccount/demo", &revision];
        for object in owned {
            comes_back(s, object).await?;
        }
        // None of it is a reason to touch a pod, and the new objects work as the old ones did.
        assert_eq!(lives(&s.settled("demo").await?), lives(&nodes));
        s.set_keys(100, &s.addresses("demo", 2)).await
    })
}

#[test]
fn a_deleted_pod_comes_back_and_serves() -> Outcome {
    scenario("pod", 1, async |s, _| {
        s.declare("demo", small(3)).await?;
        let before = lives(&s.settled("demo").await?);
        s.kubectl(&["delete", "pod", "demo-1"]).await?;
        let after = until("demo-1 to be replaced", SERVING, || async {
            let after = lives(&s.settled("demo").await?);
            ensure!(after["demo-1"].0 != before["demo-1"].0, "it is still the old one");
            Ok(after)
        })
        .await?;
        for name in ["demo-0", "demo-2"] {
            assert_eq!(after[name], before[name], "{name} has nothing to do with it");
        }
        s.set_keys(100, &s.addresses("demo", 3)).await
    })
}

#[test]
fn a_deleted_statefulset_comes_back_with_its_pods() -> Outcome {
    scenario("statefulset", 1, async |s, _| {
        s.declare("demo", small(2)).await?;
        let before = lives(&s.settled("demo").await?);
        // Orphaned pods are taken back as they are: no item is lost.
        let set = uid(s, "statefulset/demo").await?;
        s.kubectl(&["delete", "statefulset/demo", "--cascade=orphan"]).await?;
        until("the StatefulSet to come back", NOTICED, || async {
            ensure!(uid(s, "statefulset/demo").await? != set, "it is still the old one");
            Ok(())
        })
        .await?;
        assert_eq!(lives(&s.settled("demo").await?), before, "orphaned pods are adopted as they are");

        // With its pods: all of it is made again.
        comes_back(s, "statefulset/demo").await?;
        until("new pods", SERVING, || async {
            let after = lives(&s.settled("demo").await?);
            ensure!(after.values().all(|life| before.values().all(|old| old.0 != life.0)), "there are old pods");
            Ok(())
        })
        .await?;
        s.set_keys(100, &s.addresses("demo", 2)).await
    })
}

#[test]
fn drift_is_undone_and_foreign_fields_are_left_alone() -> Outcome {
    scenario("drift", 1, async |s, _| {
        s.declare("demo", small(2)).await?;
        let before = lives(&s.settled("demo").await?);
        s.kubectl(&["annotate", "service/demo", "example.org/owner=web"]).await?;
        s.kubectl(&[
            "patch",
            "service/demo",
            "--patch",
            r#"{"spec":{"selector":{"app.kubernetes.io/instance":"other"}}}"#,
        ])
        .await?;
        s.kubectl(&["patch", "pdb/demo", "--type=merge", "--patch", r#"{"spec":{"maxUnavailable":2}}"#]).await?;
        s.kubectl(&["scale", "statefulset/demo", "--replicas=1"]).await?;
        let expected = [
            ("service/demo", "{.spec.selector.app\\.kubernetes\\.io/instance}", "demo"),
            ("pdb/demo", "{.spec.maxUnavailable}", "1"),
            ("statefulset/demo", "{.spec.replicas}", "2"),
        ];
        for (object, path, value) in expected {
            until(&format!("{object} {path} to be {value} again"), NOTICED, || async {
                let found = s.kubectl(&["get", object, "--output", &format!("jsonpath={path}")]).await?;
                ensure!(found == value, "it is {found}");
                Ok(())
            })
            .await?;
        }
        let annotation = "jsonpath={.metadata.annotations.example\\.org/owner}";
        assert_eq!(s.kubectl(&["get", "service/demo", "--output", annotation]).await?, "web");
        let after = lives(&s.settled("demo").await?);
        assert_eq!(after["demo-0"], before["demo-0"]);
        Ok(())
    })
}

#[test]
fn a_drained_host_takes_one_node_at_a_time() -> Outcome {
    scenario("drain", 1, async |s, _| {
        s.declare("drained", small(3)).await?;
        let hosts = Api::<Node>::all(s.client.clone()).list(&ListParams::default()).await?.items.len();
        assert!(hosts > 1, "a drained host's pods need another one to go to");
        let nodes = s.settled("drained").await?;
        let watch = Readiness::watch(s, "drained").await;
        let host = nodes[1].host.clone();
        let cordoned = Cordoned(&host);
        // Only this scenario's pods: the others' are none of its business. The selector knows no namespace, so the name
        // is one that no other scenario has.
        let selector = "--pod-selector=app.kubernetes.io/name=cache-node,app.kubernetes.io/instance=drained";
        s.kubectl(&["drain", &host, selector, "--delete-emptydir-data", "--timeout=300s"]).await?;
        let moved = s.settled("drained").await?;
        assert!(moved.iter().all(|node| node.host != host), "{host} is drained: {moved:?}");
        for (old, new) in nodes.iter().zip(&moved).filter(|(old, _)| old.host != host) {
            assert_eq!((&old.uid, old.restarts), (&new.uid, new.restarts), "{} was not on {host}", old.name);
        }
        drop(cordoned);
        assert!(watch.lowest() >= 2, "the budget allows one node to be away, and {} of 3 served", watch.lowest());
        s.set_keys(100, &s.addresses("drained", 3)).await
    })
}

#[test]
fn evictions_wait_for_the_disruption_budget() -> Outcome {
    scenario("budget", 1, async |s, _| {
        s.declare("demo", small(2)).await?;
        let nodes = s.settled("demo").await?;
        until("the budget to allow one eviction", NOTICED, || async {
            let path = "jsonpath={.status.disruptionsAllowed}";
            let allowed = s.kubectl(&["get", "pdb/demo", "--output", path]).await?;
            ensure!(allowed == "1", "it allows {allowed}");
            Ok(())
        })
        .await?;
        // Both at once: the API server refuses the second one, and the client tries it again until the budget allows it.
        let watch = Readiness::watch(s, "demo").await;
        let pods = s.all::<Pod>();
        let evict = EvictParams::default();
        try_join!(pods.evict(&nodes[0].name, &evict), pods.evict(&nodes[1].name, &evict))?;
        let after = until("both pods to be replaced", SERVING, || async {
            let after = s.settled("demo").await?;
            ensure!(after.iter().zip(&nodes).all(|(new, old)| new.uid != old.uid), "{after:?}");
            Ok(after)
        })
        .await?;
        assert!(
            watch.lowest() >= 1,
            "the budget allows one to be away, and {} of {} served",
            watch.lowest(),
            after.len()
        );
        Ok(())
    })
}

//! What is not ours is not touched: neither overwritten nor deleted.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;
use tests::cluster::small;
use tests::ensure;
use tests::failure::Outcome;
use tests::scenario::{GONE, scenario, until};

#[test]
fn an_object_that_is_not_ours_is_never_overwritten() -> Outcome {
    scenario("conflict", 1, async |s, _| {
        // One name for each kind: whichever is applied first, each is met by a cluster of its own.
        let foreign = [
            (
                "service",
                "Service/a",
                "service/a",
                "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 1}]}\n",
            ),
            (
                "headless",
                "Service/b-nodes",
                "service/b-nodes",
                "apiVersion: v1\nkind: Service\nmetadata: {name: b-nodes}\nspec: {ports: [{port: 1}]}\n",
            ),
            (
                "account",
                "ServiceAccount/c",
                "serviceaccount/c",
                "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: c}\n",
            ),
            (
                "budget",
                "PodDisruptionBudget/d",
                "pdb/d",
                "apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: d}\nspec: {maxUnavailable: 3, selector: {matchLabels: {app: other}}}\n",
            ),
            (
                "set",
                "StatefulSet/e",
                "statefulset/e",
                "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: e}\nspec: {replicas: 0, serviceName: e, selector: {matchLabels: {app: e}}, template: {metadata: {labels: {app: e}}, spec: {containers: [{name: e, image: e}]}}}\n",
            ),
        ];
        let mut before = Vec::new();
        for (_, _, object, yaml) in foreign {
            s.apply(yaml).await?;
            before.push(s.kubectl(&["get", object, "--output", "jsonpath={.metadata.resourceVersion}"]).await?);
        }
        for (name, (_, named, _, _)) in ["a", "b", "c", "d", "e"].into_iter().zip(foreign) {
            s.declare(name, small(1)).await?;
            let message = s.condition(name, "Ready", "False", "NameConflict").await?;
            let (kind, object) = named.split_once('/').unwrap_or_default();
            assert!(message.contains(kind) && message.contains(object), "{name}: name the object: {message}");
        }
        // The operator has seen them all by now; a budget's controller writes its status, so that one is compared by spec.
        for ((_, _, object, _), version) in
            foreign.into_iter().zip(&before).filter(|(f, _)| f.0 != "budget" && f.0 != "set")
        {
            let now = s.kubectl(&["get", object, "--output", "jsonpath={.metadata.resourceVersion}"]).await?;
            assert_eq!(&now, version, "{object} was written to");
        }
        let path = "jsonpath={.spec.maxUnavailable} {.metadata.ownerReferences}";
        assert_eq!(s.kubectl(&["get", "pdb/d", "--output", path]).await?, "3 ");
        let path = "jsonpath={.spec.replicas} {.spec.template.spec.containers[*].image} {.metadata.ownerReferences}";
        assert_eq!(s.kubectl(&["get", "statefulset/e", "--output", path]).await?, "0 e ");

        // Out of the way, it is no longer in the way.
        s.kubectl(&["delete", "service/a"]).await?;
        s.settled("a").await?;
        // Deleting the cluster does not delete what was never its own.
        s.kubectl(&["delete", "ccl", "b", "--timeout=120s"]).await?;
        assert!(!s.kubectl(&["get", "service/b-nodes", "--output", "name"]).await?.is_empty());
        Ok(())
    })
}

#[test]
fn a_configmap_of_another_owner_is_a_conflict_too() -> Outcome {
    scenario("conflict-map", 1, async |s, _| {
        // The ConfigMap's name follows from its content, so a first life tells it.
        s.declare("demo", small(1)).await?;
        let map = s.settled("demo").await?[0].config_map.clone();
        s.kubectl(&["delete", "ccl", "demo"]).await?;
        until("the ConfigMap to be gone", GONE, || async {
            let found = s.kubectl(&["get", "configmap", &map, "--ignore-not-found", "--output", "name"]).await?;
            ensure!(found.is_empty(), "{found} is there");
            Ok(())
        })
        .await?;
        s.kubectl(&["create", "configmap", &map, "--from-literal=cache-node.yaml=version: 1"]).await?;
        s.declare("demo", small(1)).await?;
        let message = s.condition("demo", "Ready", "False", "NameConflict").await?;
        assert!(message.contains(&map), "name the object: {message}");
        let data = s.kubectl(&["get", "configmap", &map, "--output", "jsonpath={.data}"]).await?;
        assert_eq!(data, r#"{"cache-node.yaml":"version: 1"}"#);
        Ok(())
    })
}

#[test]
fn deleting_removes_all_that_was_made_and_nothing_else() -> Outcome {
    scenario("delete", 1, async |s, _| {
        s.declare("other", small(1)).await?;
        s.settled("other").await?;
        // Names and labels that a careless deletion would take along.
        s.kubectl(&["create", "configmap", "demo-mine", "--from-literal=a=b"]).await?;
        s.kubectl(&["label", "configmap", "demo-mine", "app.kubernetes.io/instance=demo"]).await?;
        let before = s.objects().await?;

        s.declare("demo", small(2)).await?;
        s.settled("demo").await?;
        let with_demo = s.objects().await?;
        assert!(before.is_subset(&with_demo), "making one takes nothing away: {before:?} {with_demo:?}");
        s.kubectl(&["delete", "ccl", "demo", "--timeout=120s"]).await?;
        until("all of it to be gone", GONE, || async {
            let now = s.objects().await?;
            let left: BTreeSet<_> = now.difference(&before).map(|(name, _)| name).collect();
            ensure!(left.is_empty(), "{left:?} are left");
            Ok(())
        })
        .await?;
        let now = s.objects().await?;
        assert_eq!(now, before, "nothing else is deleted");
        s.settled("other").await?;
        Ok(())
    })
}

#[test]
fn a_cluster_of_the_same_name_starts_afresh() -> Outcome {
    scenario("again", 1, async |s, _| {
        s.declare("demo", small(1)).await?;
        s.settled("demo").await?;
        let first = s.all::<Service>().get("demo").await?;
        s.kubectl(&["delete", "ccl", "demo"]).await?;
        // At once, while the garbage collector is still at work on the first.
        s.declare("demo", small(1)).await?;
        s.settled("demo").await?;
        let owner = s.clusters().get("demo").await?.uid();
        until("the Service to be the second cluster's", GONE, || async {
            let second = s.all::<Service>().get("demo").await?;
            ensure!(second.uid() != first.uid(), "it is still the first one's");
            let owners: Vec<_> = second.owner_references().iter().map(|owner| Some(owner.uid.clone())).collect();
            ensure!(owners == [owner.clone()], "its owners are {owners:?}");
            Ok(())
        })
        .await?;
        s.settled("demo").await?;
        s.set_keys(100, &s.addresses("demo", 1)).await
    })
}

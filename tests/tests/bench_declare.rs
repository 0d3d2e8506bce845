//! What the operator adds: to the time until a cache serves, and to a machine on which nothing happens.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use gannet_crds::{CacheCluster, condition};
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::{ApiResource, DynamicObject, PostParams};
use kube::runtime::wait::await_condition;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tests::cluster::{is_observed, small};
use tests::ensure;
use tests::failure::{Failure, Outcome};
use tests::figures::{median, publish};
use tests::operator::Operator;
use tests::scenario::{GONE, SERVING, Scenario, scenario, until};

const RUNS: usize = 5;
const NODES: u32 = 3;
const RESTING_CLUSTERS: usize = 100;
const REST: Duration = Duration::from_secs(60);

#[test]
fn from_apply_to_ready_beside_the_same_by_hand() -> Outcome {
    scenario("bench-ready", 1, async |s, _| {
        // Once without a clock: images and code are read from disk.
        declared(s, "warm").await?;
        remove_cluster(s, "warm").await?;
        let (mut operated, mut manual) = (Vec::new(), Vec::new());
        for run in 0..RUNS {
            let name = format!("a{run}");
            operated.push(declared(s, &name).await?);
            let objects = objects_of(s, &name, &format!("b{run}")).await?;
            remove_cluster(s, &name).await?;
            manual.push(by_hand(s, &format!("b{run}"), &objects).await?);
            s.kubectl(&["delete", "statefulset", &format!("b{run}"), "--cascade=foreground"]).await?;
            no_pods(s, &format!("b{run}")).await?;
        }
        let added = median(&operated).as_secs_f64() - median(&manual).as_secs_f64();
        let mut text =
            format!("from apply to ready, {NODES} nodes, seconds\n  run   CacheCluster   the same StatefulSet\n");
        for (run, (operated, manual)) in operated.iter().zip(&manual).enumerate() {
            writeln!(text, "  {}     {:8.2}       {:8.2}", run + 1, operated.as_secs_f64(), manual.as_secs_f64())?;
        }
        writeln!(
            text,
            "  median{:8.2}       {:8.2}      the operator adds {added:.2} s (aim: at most 2)",
            median(&operated).as_secs_f64(),
            median(&manual).as_secs_f64()
        )?;
        let seconds = |values: &[Duration]| values.iter().map(Duration::as_secs_f64).collect::<Vec<_>>();
        let figures =
            json!({"operatedSeconds": seconds(&operated), "manualSeconds": seconds(&manual), "addedSeconds": added});
        publish("declare_ready", &text, figures)
    })
}

/// Declares a cluster and waits until it is reported ready.
async fn declared(s: &Scenario, name: &str) -> Outcome<Duration> {
    let start = Instant::now();
    s.declare(name, small(NODES)).await?;
    let is_ready = |cluster: Option<&CacheCluster>| {
        let conditions = cluster.and_then(|cluster| Some(&cluster.status.as_ref()?.conditions));
        conditions.into_iter().flatten().any(|c| c.type_ == condition::READY && c.status == "True")
    };
    in_time(await_condition(s.clusters(), name, is_ready)).await?;
    Ok(start.elapsed())
}

/// Makes the objects and waits until the StatefulSet's pods are ready.
async fn by_hand(s: &Scenario, name: &str, objects: &[Value]) -> Outcome<Duration> {
    let start = Instant::now();
    for object in objects {
        let object: DynamicObject = serde_json::from_value(object.clone())?;
        let types = object.types.clone().ok_or_else(|| Failure::new("an object without a kind"))?;
        let resource = ApiResource::from_gvk(&(&types).try_into()?);
        let api: Api<DynamicObject> = Api::namespaced_with(s.client.clone(), &s.namespace, &resource);
        api.create(&PostParams::default(), &object).await?;
    }
    let is_ready = |set: Option<&StatefulSet>| {
        let ready = set.and_then(|set| set.status.as_ref()?.ready_replicas);
        ready.is_some_and(|ready| i64::from(ready) == i64::from(NODES))
    };
    in_time(await_condition(s.all::<StatefulSet>(), name, is_ready)).await?;
    Ok(start.elapsed())
}

async fn in_time<T, E: std::error::Error + 'static>(wait: impl Future<Output = Result<T, E>>) -> Outcome {
    let waited = tokio::time::timeout(SERVING, wait).await;
    waited.map_err(|_| Failure::new(format!("not ready within {} s", SERVING.as_secs())))??;
    Ok(())
}

/// What the operator has made for a cluster, as someone would write it by hand for another one.
async fn objects_of(s: &Scenario, name: &str, other: &str) -> Outcome<Vec<Value>> {
    const KINDS: &str = "serviceaccounts,configmaps,services,poddisruptionbudgets,statefulsets";
    let selector = format!("app.kubernetes.io/instance={name},app.kubernetes.io/managed-by=cache-operator");
    let found = s.kubectl(&["get", KINDS, "--selector", &selector, "--output", "json"]).await?;
    let list: Value = serde_json::from_str(&found)?;
    let mut objects = Vec::new();
    for object in list["items"].as_array().into_iter().flatten() {
        let mut object = object.clone();
        let metadata = &object["metadata"];
        let mut labels = metadata["labels"].clone();
        if let Some(labels) = labels.as_object_mut() {
            labels.remove("app.kubernetes.io/managed-by");
        }
        object["metadata"] = json!({"name": metadata["name"], "labels": labels});
        if let Some(fields) = object.as_object_mut() {
            fields.remove("status");
        }
        for assigned in ["clusterIP", "clusterIPs"] {
            let is_headless = object["spec"][assigned] == "None" || object["spec"][assigned] == json!(["None"]);
            if let Some(spec) = object["spec"].as_object_mut().filter(|_| !is_headless) {
                spec.remove(assigned);
            }
        }
        let text = object.to_string();
        let renamed = text.replace(&format!("\"{name}\""), &format!("\"{other}\""));
        objects.push(serde_json::from_str(&renamed.replace(&format!("\"{name}-"), &format!("\"{other}-")))?);
    }
    ensure!(objects.len() == 6, "{} objects of {name}, where six are made: {found}", objects.len());
    Ok(objects)
}

async fn remove_cluster(s: &Scenario, name: &str) -> Outcome {
    s.kubectl(&["delete", "ccl", name]).await?;
    no_pods(s, name).await
}

async fn no_pods(s: &Scenario, name: &str) -> Outcome {
    until(&format!("the pods of {name} to be gone"), GONE, || async {
        let left = s.nodes(name).await?.len();
        ensure!(left == 0, "{left} are left");
        Ok(())
    })
    .await
}

#[test]
fn at_rest_with_a_hundred_clusters() -> Outcome {
    scenario("bench-rest", 1, async |s, operator| {
        let empty = usage(operator).await?;
        let start = Instant::now();
        for number in 0..RESTING_CLUSTERS {
            s.declare(&format!("c{number}"), small(0)).await?;
        }
        until("all clusters to be reported on", SERVING, || async {
            let clusters = s.clusters().list(&kube::api::ListParams::default()).await?;
            for cluster in &clusters {
                is_observed(cluster)?;
                let ready = tests::cluster::condition_of(cluster, condition::READY)?;
                ensure!(ready.status == "True", "{} is not ready: {}", cluster.name_any(), ready.message);
            }
            ensure!(clusters.items.len() == RESTING_CLUSTERS, "{} are there", clusters.items.len());
            Ok(())
        })
        .await?;
        let made = start.elapsed();
        let before = usage(operator).await?;
        tokio::time::sleep(REST).await;
        let after = usage(operator).await?;
        let share = (after.cpu - before.cpu).as_secs_f64() / REST.as_secs_f64();
        let mebibytes = |bytes: u64| f64::from(u32::try_from(bytes >> 10).unwrap_or(u32::MAX)) / 1024.0;
        let text = format!(
            "the operator at rest with {RESTING_CLUSTERS} CacheClusters\n\
             \x20 resident memory   {:6.1} MiB (aim: under 50); with none {:.1}, at most {:.1}\n\
             \x20 processor         {:6.2} % of a core over {} s (aim: under 1)\n\
             \x20 made in           {:6.1} s\n",
            mebibytes(after.resident),
            mebibytes(empty.resident),
            mebibytes(after.resident_peak),
            share * 100.0,
            REST.as_secs(),
            made.as_secs_f64()
        );
        let figures = json!({
            "clusters": RESTING_CLUSTERS,
            "residentBytes": after.resident,
            "residentBytesWithNone": empty.resident,
            "residentPeakBytes": after.resident_peak,
            "coreShare": share,
            "madeSeconds": made.as_secs_f64(),
        });
        publish("declare_rest", &text, figures)
    })
}

async fn usage(operator: &Operator<'_>) -> Outcome<tests::process::Usage> {
    let leader = operator.wait_for_leader().await?;
    operator.process(&leader)?.usage()
}

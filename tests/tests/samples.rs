//! The sample CacheClusters: they say only what the types know, and make sense to the validation rules and to the operator.
//! Whether an API server takes them is operator_manifests.rs's question.

use std::fs;

use config::{Budget, Bytes, Config, Duration, Tls};
use gannet_crds::{CacheCluster, CacheClusterSpec, TlsMode};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::PersistentVolume;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tests::bed::{VERSION, repository};
use tests::failure::{Failure, Outcome};
use tests::yaml::{documents, missing_in};

/// All objects of all samples, with the names of their files.
fn objects() -> Outcome<Vec<(String, Value)>> {
    let mut objects = Vec::new();
    for entry in fs::read_dir(repository().join("deploy/samples"))? {
        let path = entry?.path();
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let found = documents(&fs::read_to_string(&path)?).map_err(|failure| failure.while_doing(&file))?;
        objects.extend(found.into_iter().map(|object| (file.clone(), object)));
    }
    Ok(objects)
}

fn clusters() -> Outcome<Vec<(String, Value, CacheCluster)>> {
    let mut clusters = Vec::new();
    for (file, object) in objects()?.into_iter().filter(|(_, object)| object["kind"] == "CacheCluster") {
        let cluster = serde_json::from_value(object.clone())
            .map_err(|error| Failure::from(error).while_doing(format!("deploy/samples/{file}")))?;
        clusters.push((file, object, cluster));
    }
    assert!(clusters.len() > 3, "deploy/samples has {} CacheClusters", clusters.len());
    Ok(clusters)
}

/// How a node of this cluster divides its memory.
fn budget(spec: &CacheClusterSpec) -> Outcome<Budget> {
    let CacheClusterSpec { node, cache, tls, .. } = spec;
    let (workers, max_connections) = (node.workers, node.max_connections);
    let max_item_size = cache.max_item_size.parse()?;
    let tls = (tls.mode != TlsMode::Disabled).then(|| Tls::from_directory("/tls"));
    let config = Config { workers, max_connections, max_item_size, tls, ..Config::default() };
    Ok(Budget::divide(node.memory.parse()?, &config)?)
}

#[test]
fn they_say_only_what_the_types_know() -> Outcome {
    for (file, object, cluster) in clusters()? {
        let unknown = missing_in(&serde_json::to_value(&cluster)?, &object, "");
        assert!(unknown.is_empty(), "{file}: {unknown:?}");
        assert_eq!(object["apiVersion"], "gannet.dev/v1alpha1", "{file}");
    }
    for (file, object) in objects()?.iter().filter(|(_, object)| object["kind"] != "CacheCluster") {
        let unknown = match object["kind"].as_str() {
            Some("HorizontalPodAutoscaler") => unknown_in::<HorizontalPodAutoscaler>(object)?,
            Some("StorageClass") => unknown_in::<StorageClass>(object)?,
            Some("PersistentVolume") => unknown_in::<PersistentVolume>(object)?,
            kind => return Err(Failure::new(format!("{file}: {kind:?} is not looked at here"))),
        };
        assert!(unknown.is_empty(), "{file}: {unknown:?}");
    }
    Ok(())
}

/// What Kubernetes' own types do not know of an object.
fn unknown_in<K: Serialize + DeserializeOwned>(object: &Value) -> Outcome<Vec<String>> {
    let known: K = serde_json::from_value(object.clone())?;
    Ok(missing_in(&serde_json::to_value(&known)?, object, ""))
}

#[test]
fn volumes_are_those_that_are_claimed() -> Outcome {
    let objects = objects()?;
    let volumes: Vec<&Value> = objects.iter().map(|(_, o)| o).filter(|o| o["kind"] == "PersistentVolume").collect();
    let cluster = objects.iter().map(|(_, o)| o).find(|o| o["metadata"]["name"] == "optane").unwrap_or(&Value::Null);
    let storage = &cluster["spec"]["storage"];
    assert_eq!(cluster["spec"]["replicas"].as_u64(), Some(volumes.len() as u64), "one for each node");
    for volume in volumes {
        assert_eq!(volume["spec"]["storageClassName"], storage["volumeClaim"]["storageClassName"]);
        assert_eq!(volume["spec"]["capacity"]["storage"], storage["capacity"]);
    }
    Ok(())
}

#[test]
fn the_validation_rules_take_them() -> Outcome {
    for (file, _, cluster) in clusters()? {
        let errors = cluster.validate_cel().err();
        assert!(errors.is_none(), "{file}: {errors:?}");
    }
    Ok(())
}

#[test]
fn their_sizes_and_durations_make_sense_together() -> Outcome {
    for (file, _, cluster) in clusters()? {
        let node = &cluster.spec.node;
        budget(&cluster.spec).map_err(|failure| failure.while_doing(&file))?;
        for duration in [&node.idle_timeout, &node.drain_delay, &cluster.spec.rollout.progress_deadline] {
            let _: Duration = duration.parse()?;
        }
    }
    Ok(())
}

#[test]
fn the_images_that_they_name_are_of_this_version() -> Outcome {
    for (file, _, cluster) in clusters()? {
        if let Some(image) = cluster.spec.image {
            assert_eq!(image, format!("docker.io/gannet/cache-node:{VERSION}"), "{file}");
        }
    }
    Ok(())
}

#[test]
fn what_the_comments_say_of_memory_is_true() -> Outcome {
    let share = |name: &str| -> Outcome<(u64, u64)> {
        let clusters = clusters()?;
        let (_, _, cluster) = clusters
            .iter()
            .find(|(_, _, cluster)| cluster.name_any() == name)
            .ok_or_else(|| Failure::new(format!("no sample is called {name}")))?;
        let budget = budget(&cluster.spec)?;
        Ok((budget.cache.0, budget.limit.0))
    };
    let (demo, _) = share("demo")?;
    assert_eq!(demo >> 20, 44, "MiB for items in demo.yaml");
    let (items, memory) = share("sessions")?;
    assert_eq!(items * 100 / memory, 91, "percent for items in production.yaml");
    Ok(())
}

#[test]
fn the_demo_fits_on_a_small_machine() -> Outcome {
    let clusters = clusters()?;
    let demo = clusters.iter().find(|(file, ..)| file == "demo.yaml").map(|(_, _, cluster)| cluster);
    let demo = demo.ok_or_else(|| Failure::new("there is no demo.yaml"))?;
    assert_eq!(demo.name_any(), "demo");
    assert_eq!(demo.spec.replicas, 3);
    assert_eq!(demo.spec.node.cpu, "100m");
    assert!(demo.spec.node.memory.parse::<Bytes>()?.0 <= 64 << 20);
    Ok(())
}

#[test]
fn an_autoscaled_cluster_leaves_its_replicas_to_the_autoscaler() -> Outcome {
    let objects = objects()?;
    let of =
        |kind: &str| objects.iter().find(|(file, o)| file == "autoscaled.yaml" && o["kind"] == kind).map(|(_, o)| o);
    let (Some(cluster), Some(scaler)) = (of("CacheCluster"), of("HorizontalPodAutoscaler")) else {
        return Err(Failure::new("autoscaled.yaml lacks a CacheCluster or its autoscaler"));
    };
    assert!(cluster["spec"]["replicas"].is_null());
    for field in ["apiVersion", "kind"] {
        assert_eq!(scaler["spec"]["scaleTargetRef"][field], cluster[field]);
    }
    assert_eq!(scaler["spec"]["scaleTargetRef"]["name"], cluster["metadata"]["name"]);
    Ok(())
}

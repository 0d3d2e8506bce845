//! Local volumes of the bed's hosts: folders of theirs, offered as PersistentVolumes of a StorageClass that a scenario has to
//! itself; and labels of hosts. All of it goes with the test.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs};

use k8s_openapi::api::core::v1::{Node, PersistentVolume};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::bed::{self, Tool};
use crate::failure::Outcome;
use crate::scenario::Scenario;

/// More than the smallest cache needs, and little enough for a small machine.
pub const CAPACITY: &str = "16Mi";

/// The disks of a scenario.
pub struct Disks {
    class: String,
    volumes: Vec<String>,
    folder: PathBuf,
}

impl Disks {
    /// Offers so many disks on each of these hosts.
    ///
    /// # Errors
    /// Where the API server refuses one, or a folder cannot be made.
    pub async fn offer(s: &Scenario, hosts: &[String], each: usize) -> Outcome<Disks> {
        // The hosts have a folder of this machine in common.
        let bed = env::var("GANNET_BED")?;
        let folder = PathBuf::from(format!("/var/lib/gannet-{bed}/disks-{}", s.namespace));
        let mut disks = Disks { class: s.namespace.clone(), volumes: Vec::new(), folder };
        let class: StorageClass = serde_json::from_value(json!({
            "metadata": {"name": disks.class},
            "provisioner": "kubernetes.io/no-provisioner",
            "volumeBindingMode": "WaitForFirstConsumer",
        }))?;
        Api::all(s.client.clone()).create(&PostParams::default(), &class).await?;
        for host in hosts {
            for number in 0..each {
                let name = format!("{}-{host}-{number}", disks.class);
                let path = disks.folder.join(&name);
                fs::create_dir_all(&path)?;
                let volume: PersistentVolume = serde_json::from_value(disks.volume(&name, host, &path))?;
                Api::all(s.client.clone()).create(&PostParams::default(), &volume).await?;
                disks.volumes.push(name);
            }
        }
        Ok(disks)
    }

    fn volume(&self, name: &str, host: &str, path: &Path) -> Value {
        let hostname = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [host]});
        json!({
            "metadata": {"name": name},
            "spec": {
                "storageClassName": self.class,
                "capacity": {"storage": CAPACITY},
                "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain",
                "local": {"path": path},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [hostname]}]}},
            },
        })
    }

    /// What a cluster declares to have its items on them.
    #[must_use]
    pub fn storage(&self) -> Value {
        json!({"storage": {"medium": "File", "capacity": CAPACITY, "volumeClaim": {"storageClassName": self.class}}})
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        let mut arguments = vec!["delete", "--wait=false", "--ignore-not-found"];
        let volumes: Vec<String> = self.volumes.iter().map(|name| format!("persistentvolume/{name}")).collect();
        let class = format!("storageclass/{}", self.class);
        arguments.extend(volumes.iter().map(String::as_str));
        arguments.push(&class);
        if let Err(failure) = bed::run_blocking(Tool::Kubectl, &arguments) {
            eprintln!("disks of {} stay: {failure}", self.class);
        }
        // Pods may have them open still; they go with the bed at the latest.
        let _removed = fs::remove_dir_all(&self.folder).is_ok();
    }
}

/// A label that hosts have for as long as a test wants it.
pub struct Label {
    key: String,
    hosts: Vec<String>,
}

impl Label {
    /// Gives hosts a label with the value `true`.
    ///
    /// # Errors
    /// Where the API server refuses it.
    pub async fn put(s: &Scenario, key: &str, hosts: &[String]) -> Outcome<Label> {
        let label = Label { key: key.to_owned(), hosts: hosts.to_vec() };
        let nodes: Api<Node> = Api::all(s.client.clone());
        let labels = BTreeMap::from([(key, "true")]);
        for host in hosts {
            let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
            nodes.patch(host, &PatchParams::default(), &patch).await?;
        }
        Ok(label)
    }
}

impl Drop for Label {
    fn drop(&mut self) {
        let removal = format!("{}-", self.key);
        let mut arguments = vec!["label", "node"];
        arguments.extend(self.hosts.iter().map(String::as_str));
        arguments.push(&removal);
        if let Err(failure) = bed::run_blocking(Tool::Kubectl, &arguments) {
            eprintln!("hosts keep the label {}: {failure}", self.key);
        }
    }
}

/// The names of the bed's hosts.
///
/// # Errors
/// Where the API server does not answer.
pub async fn hosts(s: &Scenario) -> Outcome<Vec<String>> {
    let nodes = Api::<Node>::all(s.client.clone()).list(&ListParams::default()).await?;
    Ok(nodes.iter().map(ResourceExt::name_any).collect())
}

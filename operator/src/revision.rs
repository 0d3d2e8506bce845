//! Revisions: what the pods of a cluster were, are and will be made from.
//!
//! A revision holds the rendered pod template, word for word, beside the inputs that it was rendered from. As long as
//! the declared inputs stay the same the stored template is used, whatever a newer operator would render: this is why
//! an operator upgrade restarts no pod. Revisions are ControllerRevisions owned by the CacheCluster, so a decision
//! outlives the operator and a lost status.

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::ResourceExt;
use serde::{Deserialize, Serialize};

use crate::cluster::{Cluster, Inputs};
use crate::desired;

/// The pod template's annotation that names the revision.
pub const REVISION_ANNOTATION: &str = "gannet.dev/revision";

/// How many revisions are kept beside those that pods are made from.
pub const KEPT_REVISIONS: usize = 5;

/// One revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Revision {
    /// `NAME-HASH`, by content.
    pub name: String,
    /// Ascends: the newest is the one that is rolled out.
    pub number: i64,
    pub content: Content,
}

/// What a revision consists of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Content {
    pub inputs: Inputs,
    pub template: PodTemplateSpec,
    /// The nodes' configuration file.
    pub configuration: String,
    pub image: String,
}

/// What an operator of this build fills in where the spec is silent.
#[derive(Clone, Debug, Default)]
pub struct Defaults {
    pub node_image: String,
    /// The DNS domain of the Kubernetes cluster.
    pub cluster_domain: String,
}

/// A revision that could not be rendered, stored or read.
#[derive(Debug, thiserror::Error)]
pub enum RevisionError {
    #[error("the node configuration cannot be written: {0}")]
    Configuration(#[from] config::ConfigError),
    #[error("the revision's content cannot be written as JSON: {0}")]
    Write(#[source] serde_json::Error),
    #[error("ControllerRevision {name} cannot be read: {source}; delete it if it was edited by hand")]
    Read {
        name: String,
        #[source]
        source: serde_json::Error,
    },
}

impl Content {
    /// Whether pods made from either could not be told apart.
    pub fn makes_the_pods_of(&self, other: &Content) -> bool {
        self.template == other.template && self.configuration == other.configuration
    }
}

impl Revision {
    /// Renders the cluster as declared. `image` is the image where the spec names none.
    ///
    /// # Errors
    /// [`RevisionError`] where the content cannot be serialized.
    pub fn render(cluster: &Cluster, image: &str, number: i64) -> Result<Revision, RevisionError> {
        let image = cluster.inputs.image.as_deref().unwrap_or(image).to_owned();
        let configuration = cluster.shape.config.write()?;
        let template = desired::pod::template(cluster, &image, &configuration);
        let content = Content { inputs: cluster.inputs.clone(), template, configuration, image };
        let text = serde_json::to_vec(&content).map_err(RevisionError::Write)?;
        Ok(Revision { name: format!("{}-{}", cluster.name, config::content_hash(&text)), number, content })
    }

    /// Reads a stored revision.
    ///
    /// # Errors
    /// [`RevisionError::Read`] where it is not one that an operator wrote.
    pub fn read(stored: &ControllerRevision) -> Result<Revision, RevisionError> {
        let name = stored.name_any();
        let data = stored.data.as_ref().map_or(serde_json::Value::Null, |RawExtension(value)| value.clone());
        let content =
            serde_json::from_value(data).map_err(|source| RevisionError::Read { name: name.clone(), source })?;
        Ok(Revision { name, number: stored.revision, content })
    }

    /// The name of the ConfigMap that holds the configuration: by content, so that revisions that differ in something
    /// else share it, and a changed one never changes under a running pod.
    pub fn config_map(&self, cluster: &str) -> String {
        config_map_name(cluster, &self.content.configuration)
    }
}

/// The name of the ConfigMap with this configuration.
pub fn config_map_name(cluster: &str, configuration: &str) -> String {
    format!("{cluster}-{}", config::Config::hash_of(configuration))
}

//! A scenario: a namespace with an operator of its own, so that scenarios run side by side and none disturbs another.

use std::future::Future;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::{Duration, Instant};
use std::{env, mem, process};

use futures::FutureExt;
use gannet_crds::CacheCluster;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use serde_json::{Value, json};

use crate::bed::{self, TEST_LABEL, Tool};
use crate::failure::{Failure, Outcome};
use crate::operator::Operator;
use crate::report;

/// Until pods are up and serve. Generous, because many scenarios share a small machine: it only costs when it fails.
pub const SERVING: Duration = Duration::from_secs(300);
/// Until the operator has seen something and said or done what follows from it.
pub const NOTICED: Duration = Duration::from_secs(120);
/// Until what was deleted is gone, pods that drain included.
pub const GONE: Duration = Duration::from_secs(180);

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Who the tests are to server-side apply.
const FIELD_MANAGER: &str = "tests";

/// A namespace on the bed, and what is done in it.
pub struct Scenario {
    /// The namespace.
    pub namespace: String,
    /// The API server.
    pub client: Client,
}

/// Runs `body` in a namespace of its own, with `replicas` operators that watch nothing else. On failure the report on
/// the namespace is part of the error. The namespace is deleted in any case, but for a failed one under GANNET_KEEP.
///
/// # Errors
/// What failed in `body` or around it, in words.
pub fn scenario(name: &str, replicas: u32, body: impl AsyncFnOnce(&Scenario, &Operator) -> Outcome) -> Outcome {
    in_namespace(name, async |scenario| {
        let operator = Operator::install(scenario, replicas).await?;
        body(scenario, &operator).await
    })
}

/// The same without an operator: for what the API server alone answers.
///
/// # Errors
/// What failed in `body` or around it, in words.
pub fn in_namespace(name: &str, body: impl AsyncFnOnce(&Scenario) -> Outcome) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = bed::connect().await?;
        let scenario = Scenario { namespace: format!("{name}-{}", process::id()), client };
        // A Scenario that exists is deleted when it goes out of scope, so this comes before anything can fail.
        let result = AssertUnwindSafe(async {
            scenario.create_namespace().await?;
            body(&scenario).await
        })
        .catch_unwind()
        .await;
        if let Ok(Ok(())) = result {
            return Ok(());
        }
        let report = report::of(&scenario).await;
        if env::var_os("GANNET_KEEP").is_some() {
            mem::forget(scenario);
        }
        match result {
            Ok(outcome) => outcome.map_err(|failure| Failure::new(format!("{failure}\n{report}"))),
            Err(panic) => {
                eprintln!("{report}");
                resume_unwind(panic)
            }
        }
    })
}

impl Drop for Scenario {
    fn drop(&mut self) {
        let arguments = ["delete", "namespace", &self.namespace, "--wait=false", "--ignore-not-found"];
        if let Err(failure) = bed::run_blocking(Tool::Kubectl, &arguments) {
            eprintln!("namespace {} is left for the next run to delete: {failure}", self.namespace);
        }
    }
}

impl Scenario {
    async fn create_namespace(&self) -> Outcome {
        let namespace: Namespace = serde_json::from_value(json!({
            "metadata": {"name": self.namespace, "labels": {
                TEST_LABEL: process::id().to_string(),
                "pod-security.kubernetes.io/enforce": "restricted",
            }},
        }))?;
        Api::all(self.client.clone()).create(&PostParams::default(), &namespace).await?;
        Ok(())
    }

    /// The objects of a kind in this namespace.
    #[must_use]
    pub fn all<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The CacheClusters of this namespace.
    #[must_use]
    pub fn clusters(&self) -> Api<CacheCluster> {
        self.all()
    }

    /// Declares a CacheCluster, as `kubectl apply --server-side` does.
    ///
    /// # Errors
    /// Where the API server refuses it.
    pub async fn declare(&self, name: &str, spec: Value) -> Outcome<CacheCluster> {
        let object = json!({
            "apiVersion": "gannet.dev/v1alpha1",
            "kind": "CacheCluster",
            "metadata": {"name": name},
            "spec": spec,
        });
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        Ok(self.clusters().patch(name, &parameters, &Patch::Apply(object)).await?)
    }

    /// Changes a CacheCluster's spec, as `kubectl patch --type merge` does.
    ///
    /// # Errors
    /// Where the API server refuses it.
    pub async fn change(&self, name: &str, spec: Value) -> Outcome<CacheCluster> {
        Ok(self.clusters().patch(name, &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await?)
    }

    /// Runs kubectl in this namespace.
    ///
    /// # Errors
    /// Where it fails: with its outputs.
    pub async fn kubectl(&self, arguments: &[&str]) -> Outcome<String> {
        bed::run(Tool::Kubectl, &[&["--namespace", &self.namespace], arguments].concat()).await
    }

    /// Applies YAML with kubectl in this namespace.
    ///
    /// # Errors
    /// Where it fails: with its outputs.
    pub async fn apply(&self, yaml: &str) -> Outcome<String> {
        bed::run_with_input(Tool::Kubectl, &["--namespace", &self.namespace, "apply", "--filename", "-"], yaml).await
    }
}

/// Looks until `look` succeeds, and returns what it found; its failures say what is still missing.
///
/// # Errors
/// After `limit`: what was waited for, and what was missing at last.
pub async fn until<T, F>(what: &str, limit: Duration, mut look: impl FnMut() -> F) -> Outcome<T>
where
    F: Future<Output = Outcome<T>>,
{
    let start = Instant::now();
    loop {
        let missing = match look().await {
            Ok(found) => return Ok(found),
            Err(failure) => failure,
        };
        if start.elapsed() > limit {
            return Err(Failure::new(format!("waited {} s in vain for {what}: {missing}", limit.as_secs())));
        }
        tokio::time::sleep(LOOK).await;
    }
}

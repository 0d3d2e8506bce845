//! The operator of a scenario: installed by the chart, killed, frozen, upgraded, asked who leads.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::ListParams;

use tokio::time::timeout;

use crate::bed::{self, Tool};
use crate::failure::{Failure, Outcome};
use crate::process::Process;
use crate::scenario::{NOTICED, SERVING, Scenario, until};
use crate::{ensure, http};

const PROGRAM: &str = "cache-operator";
/// The port of `/livez`, `/readyz` and `/metrics`.
const PORT: u16 = 8080;

/// The operator of a scenario.
pub struct Operator<'a> {
    scenario: &'a Scenario,
    /// Labels that select its pods.
    selector: String,
}

impl<'a> Operator<'a> {
    /// Installs the chart in the scenario's namespace, for that namespace alone, and waits until it is up.
    ///
    /// # Errors
    /// Where helm fails, or the pods are not ready in time.
    pub async fn install(scenario: &'a Scenario, replicas: u32) -> Outcome<Operator<'a>> {
        helm(scenario, &["install"], &[format!("operator.replicas={replicas}")]).await?;
        let deployments = scenario.all::<Deployment>().list(&ListParams::default()).await?;
        let labels = deployments
            .iter()
            .find_map(|deployment| deployment.spec.as_ref()?.selector.match_labels.clone())
            .ok_or_else(|| Failure::new("the chart made no Deployment"))?;
        let selector = labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",");
        Ok(Operator { scenario, selector })
    }

    /// Upgrades the release to images of this tag, through the chart; values that were set stay.
    ///
    /// # Errors
    /// Where helm fails, or the new pods are not ready in time.
    pub async fn upgrade(&self, tag: &str) -> Outcome {
        let tags = [format!("operator.image.tag={tag}"), format!("node.image.tag={tag}")];
        helm(self.scenario, &["upgrade", "--reuse-values"], &tags).await
    }

    /// The operator's pods that are not on their way out.
    ///
    /// # Errors
    /// Where the API server does not answer.
    pub async fn pods(&self) -> Outcome<Vec<Pod>> {
        let pods = self.scenario.all::<Pod>().list(&ListParams::default().labels(&self.selector)).await?;
        Ok(pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect())
    }

    /// The one pod that leads: as both its own metric and the Lease say.
    ///
    /// # Errors
    /// Where none or more than one says that it leads, or the Lease names another.
    pub async fn leader(&self) -> Outcome<Pod> {
        let mut leaders = Vec::new();
        for pod in self.pods().await? {
            let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone()).unwrap_or_default();
            let metrics = http::get(&address, PORT, "/metrics").await;
            // One that does not answer may be frozen or not up yet; what leads must answer.
            if metrics.is_ok_and(|text| http::metric(&text, "gannet_operator_leader").is_ok_and(|value| value > 0.5)) {
                leaders.push(pod);
            }
        }
        let names: Vec<String> = leaders.iter().map(ResourceExt::name_any).collect();
        ensure!(leaders.len() < 2, "several operators say that they lead: {}", names.join(" and "));
        let leader = leaders.pop().ok_or_else(|| Failure::new("no operator says that it leads"))?;
        let leases = self.scenario.all::<Lease>().list(&ListParams::default()).await?;
        let holders: Vec<String> =
            leases.into_iter().filter_map(|lease| lease.spec?.holder_identity).filter(|h| !h.is_empty()).collect();
        ensure!(holders == [leader.name_any()], "{} leads but the Lease is held by {holders:?}", leader.name_any());
        Ok(leader)
    }

    /// Waits until exactly one leads.
    ///
    /// # Errors
    /// Where that does not come about in time.
    pub async fn wait_for_leader(&self) -> Outcome<Pod> {
        until("one operator to lead", NOTICED, || self.leader()).await
    }

    /// The process of an operator pod.
    ///
    /// # Errors
    /// Where there is none now.
    pub fn process(&self, pod: &Pod) -> Outcome<Process> {
        Process::in_pod(&pod.uid().unwrap_or_default(), PROGRAM)
    }

    /// Kills the leading process with SIGKILL: no handler runs and nothing is released.
    ///
    /// # Returns
    /// The pod and how often its container had been restarted before.
    ///
    /// # Errors
    /// Where none leads, or its process cannot be killed.
    pub async fn kill(&self) -> Outcome<(Pod, i32)> {
        let leader = self.wait_for_leader().await?;
        self.process(&leader)?.signal("KILL")?;
        let restarts = restarts(&leader);
        Ok((leader, restarts))
    }

    /// The process that takes the place of one that was killed, found as soon as it runs: the API server learns of it
    /// seconds later.
    ///
    /// # Errors
    /// Where there is none in time.
    pub async fn next_process(&self, pod: &Pod, killed: Process) -> Outcome<Process> {
        const LOOK: Duration = Duration::from_millis(20);
        let looks = async {
            loop {
                match self.process(pod) {
                    Ok(process) if process != killed => return process,
                    _ => tokio::time::sleep(LOOK).await,
                }
            }
        };
        let found = timeout(SERVING, looks).await;
        found.map_err(|_| Failure::new(format!("{} has no process again", pod.name_any())))
    }

    /// Waits until the container of a killed operator is up again.
    ///
    /// # Errors
    /// Where it does not come back in time.
    pub async fn wait_for_restart(&self, killed: &Pod, restarts_before: i32) -> Outcome {
        let name = killed.name_any();
        until("the operator to be restarted", SERVING, || async {
            let pod = self.scenario.all::<Pod>().get(&name).await?;
            let now = restarts(&pod);
            ensure!(now > restarts_before, "{name} was restarted {now} times, as before it was killed");
            Ok(())
        })
        .await
    }
}

/// How often the pod's containers were restarted.
#[must_use]
pub fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|container| container.restart_count).sum()
}

/// Runs helm on the scenario's release. The CRD belongs to the bed's own release, and the requests are small because
/// dozens of operators share the machine.
async fn helm(scenario: &Scenario, verb: &[&str], values: &[String]) -> Outcome {
    let (namespace, chart) = (scenario.namespace.as_str(), bed::chart());
    let watched = format!("watchNamespaces=[\"{namespace}\"]");
    let mut arguments = verb.to_vec();
    arguments.extend([namespace, &chart, "--namespace", namespace, "--wait", "--timeout=300s"]);
    arguments.extend(["--set", "crd.install=false", "--set", "rbac.hosts=Always", "--set-json", &watched]);
    for value in values {
        arguments.extend(["--set", value]);
    }
    bed::run(Tool::Helm, &arguments).await.map(|_| ())
}

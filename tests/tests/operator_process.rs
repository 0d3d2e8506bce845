//! The operator as a process beside an API server: how it begins, leads, follows and ends. No pod runs here.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tests::cluster::small;
use tests::ensure;
use tests::failure::{Failure, Outcome};
use tests::running_operator::{Running, program};
use tests::scenario::{NOTICED, Scenario, in_namespace, until};
use tokio::process::Command;

const LEASE: &str = "operators";

fn start(s: &Scenario, identity: &str) -> Outcome<Running> {
    Running::start(s, LEASE, identity, &[])
}

async fn holder(s: &Scenario) -> Outcome<String> {
    let lease = s.all::<Lease>().get(LEASE).await?;
    Ok(lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default())
}

#[test]
fn asked_to_end_it_gives_the_lease_back() -> Outcome {
    in_namespace("asked", async |s| {
        let first = start(s, "first")?;
        first.leads(true).await?;
        assert_eq!(holder(s).await?, "first");
        let second = start(s, "second")?;
        second.leads(false).await?;
        first.signal("TERM")?;
        let (status, words) = first.ended().await?;
        assert!(status.success(), "{status}: {words}");
        // Nobody waits for it to expire: whoever holds it now took it from nobody.
        second.leads(true).await?;
        assert_eq!(holder(s).await?, "second");
        Ok(())
    })
}

#[test]
fn a_killed_leader_is_replaced_when_its_lease_expires() -> Outcome {
    in_namespace("killed", async |s| {
        let first = start(s, "first")?;
        first.leads(true).await?;
        let second = start(s, "second")?;
        second.leads(false).await?;
        first.signal("KILL")?;
        let (status, _) = first.ended().await?;
        assert_eq!(status.signal(), Some(9));
        second.leads(true).await?;
        assert_eq!(holder(s).await?, "second");
        Ok(())
    })
}

#[test]
fn a_leader_that_lost_its_lease_ends() -> Outcome {
    in_namespace("lost", async |s| {
        let operator = start(s, "first")?;
        operator.leads(true).await?;
        let stolen = json!({"spec": {"holderIdentity": "somebody-else"}});
        s.all::<Lease>().patch(LEASE, &PatchParams::default(), &Patch::Merge(stolen)).await?;
        let (status, words) = operator.ended().await?;
        assert!(!status.success(), "{status}: {words}");
        assert!(words.contains("the lease is lost"), "say why: {words}");
        assert_eq!(holder(s).await?, "somebody-else", "what is somebody else's is not given back");
        Ok(())
    })
}

#[test]
fn a_port_in_use_is_named() -> Outcome {
    in_namespace("port", async |s| {
        let first = start(s, "first")?;
        first.leads(true).await?;
        let taken = format!("127.0.0.1:{}", first.port());
        let second = Command::new(program())
            .args(["--namespaces", &s.namespace, "--lease-namespace", &s.namespace, "--lease-name", LEASE])
            .args(["--identity", "second", "--listen", &taken])
            .output();
        let output = tokio::time::timeout(NOTICED, second).await.map_err(|_| Failure::new("it does not end"))??;
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && words.contains(&taken), "{}: {words}", output.status);
        Ok(())
    })
}

#[test]
fn without_a_cluster_it_says_so() -> Outcome {
    in_namespace("nowhere", async |s| {
        let output = Command::new(program())
            .args(["--lease-namespace", &s.namespace, "--identity", "lost", "--listen", "127.0.0.1:0"])
            .env("KUBECONFIG", "/nowhere/kubeconfig")
            .output();
        let output = tokio::time::timeout(NOTICED, output).await.map_err(|_| Failure::new("it does not end"))??;
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && words.contains("set KUBECONFIG"), "{}: {words}", output.status);
        Ok(())
    })
}

#[test]
fn what_is_as_declared_is_not_written_again() -> Outcome {
    in_namespace("rest", async |s| {
        let operator = start(s, "only")?;
        operator.leads(true).await?;
        s.declare("demo", small(0)).await?;
        s.settled("demo").await?;
        let reconciles = || operator.metric("gannet_operator_reconciles_total{result=\"ok\"}");
        assert!(reconciles().await? > 0.5, "the metric moves");
        assert!((operator.metric("gannet_operator_cacheclusters").await? - 1.0).abs() < 0.5, "one is known");
        let versions = || async {
            let kinds = "services,configmaps,serviceaccounts,pdb,statefulsets,controllerrevisions,ccl";
            let path = "jsonpath={range .items[*]}{.kind} {.metadata.name} {.metadata.resourceVersion}\n{end}";
            s.kubectl(&["get", kinds, "--output", path]).await
        };
        let cluster =
            || async { s.kubectl(&["get", "ccl/demo", "--output", "jsonpath={.metadata.resourceVersion}"]).await };
        quiet(s, &cluster).await?;
        let before = versions().await?;
        let done = reconciles().await?;
        // An owned object that changes and changes back is a reason to look, and none to write.
        s.kubectl(&["label", "service/demo", "example.org/a=b"]).await?;
        s.kubectl(&["label", "service/demo", "example.org/a-"]).await?;
        until("another reconcile", NOTICED, || async {
            ensure!(reconciles().await? > done, "{done} reconciles so far");
            Ok(())
        })
        .await?;
        let strip = |text: &str| -> Vec<String> {
            // The label is the test's own change to this one.
            text.lines().filter(|line| !line.starts_with("Service demo ")).map(str::to_owned).collect()
        };
        assert_eq!(strip(&versions().await?), strip(&before));
        Ok(())
    })
}

/// Waits until a version stays as it is from one look to the next: what follows from the creation is written.
async fn quiet<F: Future<Output = Outcome<String>>>(s: &Scenario, version: &impl Fn() -> F) -> Outcome {
    const BETWEEN_LOOKS: Duration = Duration::from_secs(2);
    until(&format!("the writes in {} to end", s.namespace), NOTICED, || async {
        let first = version().await?;
        tokio::time::sleep(BETWEEN_LOOKS).await;
        ensure!(version().await? == first, "the CacheCluster is still written to");
        Ok(())
    })
    .await
}

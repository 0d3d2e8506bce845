//! Certificates that rotate while a test looks on. Leaves live three minutes and are renewed after one, connections live ten
//! seconds, so that what takes weeks elsewhere is seen in a few minutes.

use serde_json::{Value, json};

use crate::cluster::{NodePod, small, with};
use crate::ensure;
use crate::failure::Outcome;
use crate::scenario::{SERVING, Scenario, until};

/// A cluster of so many nodes with TLS, and clients that are let in.
#[must_use]
pub fn secured(replicas: u32, clients: &[&str]) -> Value {
    let clients: Vec<Value> =
        clients.iter().map(|name| json!({"name": name, "secretName": format!("cache-{name}")})).collect();
    let tls = json!({
        "mode": "Strict",
        "duration": "3m",
        "renewBefore": "2m",
        "maxConnectionAge": "10s",
        "ca": {"duration": "2h", "renewBefore": "1h"},
        "clients": clients,
    });
    with(small(replicas), json!({"tls": tls}))
}

/// As [`secured`], with certificates that outlast what a test does.
#[must_use]
pub fn secured_for_long(replicas: u32, clients: &[&str]) -> Value {
    with(secured(replicas, clients), json!({"tls": {"duration": "20m", "renewBefore": "5m"}}))
}

/// Declares the cluster, and waits until it serves with certificates that are current.
///
/// # Errors
/// Where that takes too long.
pub async fn declared(s: &Scenario, spec: Value) -> Outcome<Vec<NodePod>> {
    s.declare("demo", spec).await?;
    let nodes = s.settled("demo").await?;
    s.condition("demo", "TLSReady", "True", "Current").await?;
    Ok(nodes)
}

/// Asks for a rotation, as a user does.
///
/// # Errors
/// Where the API server refuses it.
pub async fn ask(s: &Scenario, request: &str) -> Outcome {
    s.kubectl(&["annotate", "ccl", "demo", "--overwrite", &format!("gannet.dev/rotate={request}")]).await.map(|_| ())
}

/// The phase and the newest CA, as the status tells them.
///
/// # Errors
/// Where the API server does not answer.
pub async fn phase(s: &Scenario) -> Outcome<(String, String)> {
    let status = s.clusters().get("demo").await?.status.unwrap_or_default().tls.unwrap_or_default();
    Ok((status.phase, status.ca_serial))
}

/// Waits until another CA than this one is the only one, in the Secrets and in every node.
///
/// # Returns
/// Its serial.
///
/// # Errors
/// Where that takes too long: whom it waits for.
pub async fn rotated(s: &Scenario, from: &str) -> Outcome<String> {
    until("the CA to be replaced", 2 * SERVING, || async {
        let status = s.clusters().get("demo").await?.status.unwrap_or_default().tls.unwrap_or_default();
        let waits = status.waits_for.join("; ");
        ensure!(status.phase == "Current" && waits.is_empty(), "{}, waiting for {waits}", status.phase);
        ensure!(status.ca_serial != from && status.trusted_cas == 1, "{} CAs are trusted", status.trusted_cas);
        Ok(status.ca_serial)
    })
    .await
}

/// Waits until every pod serves another certificate than it did.
///
/// # Errors
/// Where that takes too long.
pub async fn renewed(s: &Scenario, before: &[String]) -> Outcome {
    until("every certificate to be renewed", 2 * SERVING, || async {
        let now = serials(s).await?;
        let same = now.iter().filter(|serial| serial.is_empty() || before.contains(serial)).count();
        ensure!(same == 0 && now.len() == before.len(), "{same} of {} pods serve what they did", before.len());
        Ok(())
    })
    .await
}

/// What the pods serve.
///
/// # Errors
/// Where the API server does not answer.
pub async fn serials(s: &Scenario) -> Outcome<Vec<String>> {
    let pods = s.clusters().get("demo").await?.status.unwrap_or_default().pods;
    Ok(pods.into_iter().map(|pod| pod.certificate.unwrap_or_default().serial).collect())
}

//! "My mTLS certificates, the CA included, rotate by themselves and no connection ever fails because of it."
//!
//! Scenarios as in `cluster_declare`. Leaves live three minutes and are renewed after one, connections live ten seconds, so that
//! what takes weeks elsewhere is seen here.

mod heal;
mod rotate;
mod straggle;

use serde_json::{Value, json};
use tests::application::Seen;
use tests::cluster::{small, with};
use tests::ensure;
use tests::failure::Outcome;
use tests::scenario::{SERVING, Scenario, until};

/// A cluster of so many nodes with TLS, and clients that are let in.
fn secured(replicas: u32, clients: &[&str]) -> Value {
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

/// Asks for a rotation, as a user does.
async fn ask(s: &Scenario, request: &str) -> Outcome {
    s.kubectl(&["annotate", "ccl", "demo", "--overwrite", &format!("gannet.dev/rotate={request}")]).await.map(|_| ())
}

/// The phase and the newest CA, as the status tells them.
async fn phase(s: &Scenario) -> Outcome<(String, String)> {
    let status = s.clusters().get("demo").await?.status.unwrap_or_default().tls.unwrap_or_default();
    Ok((status.phase, status.ca_serial))
}

/// Waits until another CA than this one is the only one.
///
/// # Returns
/// Its serial.
async fn rotated(s: &Scenario, from: &str) -> Outcome<String> {
    until("the CA to be replaced", 2 * SERVING, || async {
        let status = s.clusters().get("demo").await?.status.unwrap_or_default().tls.unwrap_or_default();
        let waits = status.waits_for.join("; ");
        ensure!(status.phase == "Current", "{}, waiting for {waits}", status.phase);
        ensure!(status.ca_serial != from && status.trusted_cas == 1, "{} CAs are trusted", status.trusted_cas);
        Ok(status.ca_serial)
    })
    .await
}

/// Waits until every pod serves another certificate than it did.
async fn renewed(s: &Scenario, before: &[String]) -> Outcome {
    until("every certificate to be renewed", 2 * SERVING, || async {
        let now = serials(s).await?;
        let same = now.iter().filter(|serial| serial.is_empty() || before.contains(serial)).count();
        ensure!(same == 0 && now.len() == before.len(), "{same} of {} pods serve what they did", before.len());
        Ok(())
    })
    .await
}

/// What the pods serve.
async fn serials(s: &Scenario) -> Outcome<Vec<String>> {
    let pods = s.clusters().get("demo").await?.status.unwrap_or_default().pods;
    Ok(pods.into_iter().map(|pod| pod.certificate.unwrap_or_default().serial).collect())
}

/// Not one handshake and not one request failed.
fn assert_unharmed(seen: &Seen) {
    assert!(seen.handshakes > 0 && seen.requests > 0, "nothing was tried: {seen:?}");
    assert_eq!((seen.failed_handshakes, seen.failed_requests), (0, 0), "{seen:?}");
}

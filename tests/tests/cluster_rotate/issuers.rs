//! Others issue: cert-manager, or whoever writes the Secret.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};
use tests::application::Application;
use tests::bed::{Tool, run_with_input};
use tests::cert_manager::CertManager;
use tests::cluster::{lives, small, with};
use tests::ensure;
use tests::failure::Outcome;
use tests::http::Credentials;
use tests::load::Load;
use tests::rotation::{ask, declared, phase, renewed, rotated, secured, serials};
use tests::scenario::{NOTICED, Scenario, scenario, until};
use tests::secret::{Authority, Leaf};
use tests::tls::TlsClient;

/// A CA that cert-manager makes and renews, and an issuer that issues by it.
const ISSUERS: &str = "
apiVersion: cert-manager.io/v1
kind: Issuer
metadata: {name: self}
spec: {selfSigned: {}}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: root}
spec:
  isCA: true
  commonName: root
  secretName: root
  duration: 24h
  privateKey: {algorithm: ECDSA, size: 256, rotationPolicy: Always}
  issuerRef: {name: self}
---
apiVersion: cert-manager.io/v1
kind: Issuer
metadata: {name: ours}
spec: {ca: {secretName: root}}
";

#[test]
fn cert_managers_certificates_and_its_ca_are_renewed_and_nobody_notices() -> Outcome {
    scenario("cert-manager", 1, async |s, _| {
        let _controllers = CertManager::start(s).await?;
        s.apply(ISSUERS).await?;
        let issuer = json!({"type": "CertManager", "name": "ours"});
        let tls = json!({"issuer": issuer, "duration": "1h", "renewBefore": "20m", "ca": {"renewBefore": "3h", "duration": "9h"}});
        let nodes = declared(s, with(secured(3, &["web"]), json!({"tls": tls}))).await?;
        let addresses = s.addresses("demo", 3);
        let application = Application::start(s, "cache-web", &addresses).await?;
        let load = Load::start(&addresses, &application.files()).await?;

        let before = serials(s).await?;
        ask(s, "leaf@1").await?;
        renewed(s, &before).await?;
        let last = s.credentials("cache-web").await?;
        let (_, oldest) = phase(s).await?;

        // As `cmctl renew root`. cert-manager leaves what it issued by the old CA as it is.
        let root = root(s).await?;
        let status = json!({"status": {"conditions": [{
            "type": "Issuing", "status": "True", "reason": "ManuallyTriggered", "message": "a test",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]}});
        let merge = ["patch", "certificate", "root", "--subresource=status", "--type=merge", "--patch"];
        s.kubectl(&[&merge[..], &[&status.to_string()]].concat()).await?;
        until("another root", NOTICED, || async {
            ensure!(self::root(s).await? != root, "the same");
            Ok(())
        })
        .await?;
        ask(s, "ca@1").await?;
        rotated(s, &oldest).await?;
        let (loaded, seen) = (load.stop().await?, application.stop().await?);
        seen.assert_unharmed();
        loaded.assert_unharmed();
        println!("application: {seen:?}\nload: {loaded:?}");
        assert_eq!(lives(&s.settled("demo").await?), lives(&nodes), "no pod was restarted");

        let now = s.credentials("cache-web").await?;
        let address = (nodes[0].address.parse::<IpAddr>()?, config::DATA_PORT).into();
        let host = format!("demo-0.demo-nodes.{}.svc", s.namespace);
        TlsClient::connect_to(address, &host, &Arc::new(now.configuration()?))?;
        let old = Credentials { authorities: now.authorities, ..last };
        assert!(
            TlsClient::connect_to(address, &host, &Arc::new(old.configuration()?)).is_err(),
            "the old CA is let in"
        );
        Ok(())
    })
}

/// The certificate of the CA, as cert-manager's Secret has it.
async fn root(s: &Scenario) -> Outcome<Vec<u8>> {
    let data = s.all::<Secret>().get("root").await?.data.unwrap_or_default();
    Ok(data.get("tls.crt").map(|bytes| bytes.0.clone()).unwrap_or_default())
}

#[test]
fn a_secret_of_somebody_else_is_served_and_followed_and_never_written() -> Outcome {
    scenario("given-tls", 1, async |s, _| {
        let ca = Authority::new("somebody's")?;
        let host = format!("demo-0.demo-nodes.{}.svc", s.namespace);
        give(s, &ca, &host, None).await?;
        let issuer = json!({"type": "Secret", "name": "given"});
        let tls = json!({"mode": "Strict", "issuer": issuer, "maxConnectionAge": "10s", "identities": ["DNS:web"]});
        let nodes = declared(s, with(small(1), json!({"tls": tls}))).await?;
        let address = (nodes[0].address.parse::<IpAddr>()?, config::DATA_PORT).into();
        let client = |name: &str| {
            let pair = ca.issue(&Leaf::named(&[name]))?;
            tests::tls::identity(&ca.pem, Some(&pair))
        };
        let (web, other) = (client("DNS:web")?, client("DNS:other")?);
        TlsClient::connect_to(address, &host, &web)?;
        assert!(TlsClient::connect_to(address, &host, &other).is_err(), "not on the list");

        // Whoever joins the list is let in, and no pod restarts for it.
        s.change("demo", json!({"tls": {"identities": ["DNS:web", "DNS:other"]}})).await?;
        until("the other to be let in", 2 * NOTICED, || async {
            TlsClient::connect_to(address, &host, &other).map(|_| ())
        })
        .await?;

        let before = serials(s).await?;
        give(s, &ca, &host, None).await?;
        renewed(s, &before).await?;
        let served = serials(s).await?;
        give(s, &ca, &host, Some("tls.key")).await?;
        let message = s.condition("demo", "TLSReady", "False", "SecretInvalid").await?;
        assert!(message.contains("given") && message.contains("tls.key"), "{message}");
        TlsClient::connect_to(address, &host, &web)?;
        assert_eq!(serials(s).await?, served, "the last good one is served");
        assert_eq!(lives(&s.nodes("demo").await?), lives(&nodes), "no pod was restarted");
        let secret = s.all::<Secret>().get("given").await?;
        assert!(secret.metadata.owner_references.is_none(), "it is somebody else's: {:?}", secret.metadata);
        Ok(())
    })
}

/// Writes the Secret, with a new certificate; one of its files may be damaged.
async fn give(s: &Scenario, ca: &Authority, host: &str, damaged: Option<&str>) -> Outcome {
    let pair = ca.issue(&Leaf::named(&[&format!("DNS:{host}")]))?;
    let mut data: Value = json!({"ca.crt": ca.pem, "tls.crt": pair.certificate, "tls.key": pair.key});
    if let Some(file) = damaged {
        data[file] = "nonsense".into();
    }
    let metadata = json!({"name": "given", "namespace": s.namespace});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data});
    run_with_input(Tool::Kubectl, &["apply", "--filename=-"], &secret.to_string()).await.map(|_| ())
}

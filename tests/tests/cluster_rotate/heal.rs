//! What is lost, held or somebody else's.

use serde_json::json;
use tests::application::Application;
use tests::failure::Outcome;
use tests::rotation::{declared, phase, renewed, rotated, secured, serials};
use tests::scenario::scenario;

#[test]
fn a_lost_ca_heals_without_a_failed_handshake() -> Outcome {
    scenario("lost-ca", 1, async |s, _| {
        declared(s, secured(2, &["web"])).await?;
        let application = Application::start(s, "cache-web", &s.addresses("demo", 2)).await?;
        let (_, oldest) = phase(s).await?;
        s.kubectl(&["delete", "secret", "demo-ca"]).await?;
        rotated(s, &oldest).await?;
        application.stop().await?.assert_unharmed();
        Ok(())
    })
}

#[test]
fn a_paused_cluster_has_its_certificates_renewed() -> Outcome {
    scenario("paused-tls", 1, async |s, _| {
        declared(s, secured(1, &["web"])).await?;
        s.change("demo", json!({"paused": true})).await?;
        s.condition("demo", "Paused", "True", "Paused").await?;
        renewed(s, &serials(s).await?).await
    })
}

#[test]
fn a_secret_of_somebody_else_is_never_overwritten() -> Outcome {
    scenario("foreign-tls", 1, async |s, _| {
        s.kubectl(&["create", "secret", "generic", "cache-web", "--from-literal=a=b"]).await?;
        s.declare("demo", secured(1, &["web", "other"])).await?;
        let message = s.condition("demo", "TLSReady", "False", "NameConflict").await?;
        assert!(message.contains("cache-web"), "name the Secret: {message}");
        // All else is as it ought to be.
        s.settled("demo").await?;
        s.credentials("cache-other").await?;
        let data = s.kubectl(&["get", "secret", "cache-web", "--output", "jsonpath={.data}"]).await?;
        assert_eq!(data, r#"{"a":"Yg=="}"#);
        Ok(())
    })
}

//! Two operators at once: each thinks that it leads, as one does that hung while another took over.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Secret;
use tests::application::Application;
use tests::ensure;
use tests::failure::{Failure, Outcome};
use tests::rotation::{ask, declared, phase, rotated, secured};
use tests::running_operator::Running;
use tests::scenario::{SERVING, Scenario, scenario, until};

#[test]
fn two_operators_at_once_never_fork_the_ca() -> Outcome {
    scenario("rival", 1, async |s, _| {
        // Another Lease, so that it leads too; the same CA for the admin ports, so that nodes answer both.
        let admin = format!("--admin-ca-secret={}", admin_ca(s).await?);
        let rival = Running::start(s, "another", "rival", &[&admin])?;
        rival.leads(true).await?;
        declared(s, secured(2, &["web"])).await?;
        let application = Application::start(s, "cache-web", &s.addresses("demo", 2)).await?;
        for round in ["ca@1", "ca@2"] {
            let before = trusted(s).await?;
            let (_, from) = phase(s).await?;
            ask(s, round).await?;
            // Exactly one CA is made for a request, whoever makes it, and beside the one before it.
            let both = until("a second CA", SERVING, || async {
                let now = trusted(s).await?;
                ensure!(now.len() > 1, "{} CAs", now.len());
                Ok(now)
            })
            .await?;
            assert!(both.len() == 2 && both.is_superset(&before), "the CA was forked: {before:?} became {both:?}");
            rotated(s, &from).await?;
            let after = trusted(s).await?;
            assert!(after.len() == 1 && after.is_subset(&both), "another CA than was distributed is left: {after:?}");
        }
        application.stop().await?.assert_unharmed();
        assert!(rival.metric("gannet_operator_reconciles_total{result=\"ok\"}").await? > 0.5, "the other one worked");
        Ok(())
    })
}

/// The Secret with the CA of the admin ports, which the chart names.
async fn admin_ca(s: &Scenario) -> Outcome<String> {
    let names = s.kubectl(&["get", "secrets", "--output", "jsonpath={.items[*].metadata.name}"]).await?;
    let name = names.split_whitespace().find(|name| name.ends_with("-admin-ca"));
    name.map(str::to_owned).ok_or_else(|| Failure::new(format!("no admin CA among the Secrets {names}")))
}

/// The CAs of the cluster, as their Secret has them.
async fn trusted(s: &Scenario) -> Outcome<BTreeSet<String>> {
    let data = s.all::<Secret>().get("demo-ca").await?.data.unwrap_or_default();
    let texts = ["ca.crt", "old.crt"].into_iter().filter_map(|name| data.get(name));
    let text: String = texts.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned()).collect();
    Ok(text.split("-----BEGIN CERTIFICATE-----").skip(1).map(|pem| pem.trim().to_owned()).collect())
}

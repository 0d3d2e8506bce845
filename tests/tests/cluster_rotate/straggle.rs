//! Who is behind is waited for, by name.

use tests::application::Application;
use tests::ensure;
use tests::failure::Outcome;
use tests::rotation::{ask, declared, phase, rotated, secured_for_long};
use tests::scenario::{NOTICED, scenario, until};

#[test]
fn a_client_that_does_not_reload_is_named_and_its_ca_stays() -> Outcome {
    scenario("straggle", 1, async |s, _| {
        // Its certificate must outlast the wait.
        declared(s, secured_for_long(2, &["web", "slow"])).await?;
        let addresses = s.addresses("demo", 2);
        let web = Application::start(s, "cache-web", &addresses).await?;
        let mut slow = Application::start(s, "cache-slow", &addresses).await?;
        until("both to be seen", NOTICED, || async {
            let node = s.nodes("demo").await?.remove(0);
            let tls = s.node_status("demo", &node).await?.tls;
            let seen = tls.map(|tls| tls.identities.len()).unwrap_or_default();
            ensure!(seen >= 2, "{seen} identities");
            Ok(())
        })
        .await?;
        slow.reload(false);
        let (_, oldest) = phase(s).await?;
        ask(s, "ca@1").await?;
        until("the client to be named", NOTICED, || async {
            let status = s.clusters().get("demo").await?.status.unwrap_or_default().tls.unwrap_or_default();
            let waits = status.waits_for.join("; ");
            ensure!(status.phase == "DistributingBundle", "{}: {waits}", status.phase);
            ensure!(waits.contains("client slow"), "waits for {waits}");
            Ok(())
        })
        .await?;
        let status = s.clusters().get("demo").await?.status.unwrap_or_default().tls.unwrap_or_default();
        assert_eq!(status.trusted_cas, 2, "the old CA stays");
        slow.reload(true);
        rotated(s, &oldest).await?;
        web.stop().await?.assert_unharmed();
        slow.stop().await?.assert_unharmed();
        Ok(())
    })
}

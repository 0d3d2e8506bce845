//! Certificates rotate under an application at work.

use tests::application::Application;
use tests::cluster::lives;
use tests::failure::Outcome;
use tests::scenario::{SERVING, scenario, until};
use tests::{ensure, http};

use crate::{ask, assert_unharmed, phase, renewed, rotated, secured, serials};

#[test]
fn leaves_renew_and_the_ca_rotates_twice_and_nobody_notices() -> Outcome {
    scenario("rotate", 1, async |s, _| {
        s.declare("demo", secured(3, &["web"])).await?;
        let before = lives(&s.settled("demo").await?);
        s.condition("demo", "TLSReady", "True", "Current").await?;
        let application = Application::start(s, "cache-web", &s.addresses("demo", 3)).await?;
        let first = s.credentials("cache-web").await?;

        renewed(s, &serials(s).await?).await?;
        let (_, oldest) = phase(s).await?;
        ask(s, "ca@1").await?;
        let older = rotated(s, &oldest).await?;
        ask(s, "ca@2").await?;
        rotated(s, &older).await?;

        let seen = application.stop().await?;
        assert_unharmed(&seen);
        assert!(seen.closed > 0, "connections that reach their age are closed and counted: {seen:?}");
        assert_eq!(lives(&s.settled("demo").await?), before, "no pod was restarted");

        // The first certificate may not have ended yet, but its CA is gone.
        let node = s.settled("demo").await?.remove(0);
        let host = format!("demo-0.demo-nodes.{}.svc", s.namespace);
        let refused = http::get_by_tls(&node.address, config::DATA_PORT, "/", &host, &first).await;
        assert!(refused.is_err(), "the old CA's certificate is let in");
        Ok(())
    })
}

#[test]
fn an_operator_killed_in_each_phase_finishes_the_rotation() -> Outcome {
    scenario("rotate-kill", 1, async |s, operator| {
        s.declare("demo", secured(3, &["web"])).await?;
        s.settled("demo").await?;
        let application = Application::start(s, "cache-web", &s.addresses("demo", 3)).await?;
        s.condition("demo", "TLSReady", "True", "Current").await?;
        let (_, oldest) = phase(s).await?;
        ask(s, "ca@1").await?;
        for awaited in ["DistributingBundle", "ReissuingNodes", "ReissuingClients", "RetiringOldCA"] {
            // A short phase may be over before it is told of; then there is nothing left to be killed in.
            let what = format!("phase {awaited} or the end");
            let found = until(&what, SERVING, || async {
                let (phase, ca) = phase(s).await?;
                ensure!(phase == awaited || (phase == "Current" && ca != oldest), "{phase}");
                Ok(phase)
            })
            .await?;
            if found == "Current" {
                break;
            }
            let (killed, restarts) = operator.kill().await?;
            operator.wait_for_restart(&killed, restarts).await?;
            operator.wait_for_leader().await?;
        }
        rotated(s, &oldest).await?;
        assert_unharmed(&application.stop().await?);
        Ok(())
    })
}

#[test]
fn a_request_that_is_replayed_starts_nothing() -> Outcome {
    scenario("rotate-again", 1, async |s, _| {
        s.declare("demo", secured(1, &[])).await?;
        s.settled("demo").await?;
        s.condition("demo", "TLSReady", "True", "Current").await?;
        let (_, oldest) = phase(s).await?;
        ask(s, "ca@1").await?;
        let newest = rotated(s, &oldest).await?;
        ask(s, "ca@1").await?;
        // Leaves go on being renewed meanwhile: the operator looks at the cluster and sees the request.
        renewed(s, &serials(s).await?).await?;
        assert_eq!(phase(s).await?, ("Current".to_owned(), newest));
        Ok(())
    })
}

//! Certificates rotate under an application and a load generator at work.

use std::sync::Arc;
use std::time::Duration;

use tests::application::Application;
use tests::cluster::{NodePod, lives};
use tests::ensure;
use tests::failure::{Failure, Outcome};
use tests::http::Credentials;
use tests::load::Load;
use tests::rotation::{ask, declared, phase, renewed, rotated, secured, secured_for_long, serials};
use tests::scenario::{NOTICED, SERVING, Scenario, scenario, until};
use tests::tls::TlsClient;
use tokio::time::timeout;

#[test]
fn leaves_renew_and_the_ca_rotates_twice_and_nobody_notices() -> Outcome {
    scenario("rotate", 1, async |s, _| {
        let nodes = declared(s, secured(3, &["web"])).await?;
        let addresses = s.addresses("demo", 3);
        let application = Application::start(s, "cache-web", &addresses).await?;
        let load = Load::start(&addresses, &application.files()).await?;

        renewed(s, &serials(s).await?).await?;
        let (_, oldest) = phase(s).await?;
        ask(s, "ca@1").await?;
        // The last certificate of the old CA, by a client that trusts the new one: whoever refuses it will be the node.
        let last = until("a certificate of the old CA beside the new one", NOTICED, || async {
            let credentials = s.credentials("cache-web").await?;
            let trusted = credentials.authorities.matches("BEGIN CERTIFICATE").count();
            ensure!(trusted == 2, "{trusted} CAs");
            Ok(credentials)
        })
        .await?;
        let identity = Arc::new(last.configuration()?);
        connect(s, &nodes[0], &identity)?;
        assert!(connect(s, &nodes[0], &identity)?.is_resumed(), "the client has a ticket");
        let older = rotated(s, &oldest).await?;
        assert!(connect(s, &nodes[0], &identity).is_err(), "the old CA's client is let in by resumption");
        let anew = Arc::new(last.configuration()?);
        assert!(connect(s, &nodes[0], &anew).is_err(), "the old CA's client is let in");

        ask(s, "ca@2").await?;
        rotated(s, &older).await?;
        let loaded = load.stop().await?;
        let seen = application.stop().await?;
        seen.assert_unharmed();
        assert!(seen.closed > 0, "connections that reach their age are closed and counted: {seen:?}");
        loaded.assert_unharmed();
        assert!(loaded.errors.reconnects > 0, "connections that reach their age are made again: {loaded:?}");
        assert_eq!(lives(&s.settled("demo").await?), lives(&nodes), "no pod was restarted");
        // Told with --nocapture.
        println!("application: {seen:?}\nload: {loaded:?}");

        // Not the old CA alone was refused: the same client with what is current is let in.
        let now = s.credentials("cache-web").await?;
        connect(s, &nodes[0], &Arc::new(now.configuration()?))?;
        let mixed = Credentials { authorities: now.authorities, ..last };
        assert!(
            connect(s, &nodes[0], &Arc::new(mixed.configuration()?)).is_err(),
            "a CA of two rotations ago is let in"
        );
        Ok(())
    })
}

/// Waits for a phase, and misses none.
async fn reaches(s: &Scenario, awaited: &str) -> Outcome {
    const LOOK: Duration = Duration::from_millis(10);
    let mut last = String::new();
    let looks = async {
        loop {
            (last, _) = phase(s).await?;
            if last == awaited {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let found: Option<Outcome> = timeout(SERVING, looks).await.ok();
    found.unwrap_or_else(|| Err(Failure::new(format!("the phase is {last} and not {awaited}"))))
}

/// A connection to a node's data port that was used once.
fn connect(s: &Scenario, node: &NodePod, identity: &Arc<rustls::ClientConfig>) -> Outcome<TlsClient> {
    let host = format!("{}.demo-nodes.{}.svc", node.name, s.namespace);
    TlsClient::connect_to((node.address.parse::<std::net::IpAddr>()?, config::DATA_PORT).into(), &host, identity)
}

#[test]
fn an_operator_killed_in_each_phase_finishes_the_rotation() -> Outcome {
    scenario("rotate-kill", 1, async |s, operator| {
        // Certificates must outlast the restarts.
        declared(s, secured_for_long(3, &["web", "slow"])).await?;
        let application = Application::start(s, "cache-web", &s.addresses("demo", 3)).await?;
        let mut slow = Application::start(s, "cache-slow", &s.addresses("demo", 3)).await?;
        let (_, oldest) = phase(s).await?;
        ask(s, "ca@1").await?;
        let leader = operator.wait_for_leader().await?;
        let mut process = operator.process(&leader)?;
        for awaited in ["DistributingBundle", "ReissuingNodes", "ReissuingClients", "RetiringOldCA"] {
            reaches(s, awaited).await?;
            process.signal("KILL")?;
            if awaited == "ReissuingNodes" {
                // It has shown that it trusts both CAs; from here on it stays with the old one, so that the last phase lasts.
                slow.reload(false);
            }
            // Found before it is needed: a phase may last for a tenth of a second.
            process = operator.next_process(&leader, process).await?;
        }
        slow.reload(true);
        rotated(s, &oldest).await?;
        application.stop().await?.assert_unharmed();
        slow.stop().await?.assert_unharmed();
        Ok(())
    })
}

#[test]
fn a_request_that_is_replayed_starts_nothing() -> Outcome {
    scenario("rotate-again", 1, async |s, _| {
        declared(s, secured(1, &[])).await?;
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

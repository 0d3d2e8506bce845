//! A host whose kubelet hangs. It would disturb scenarios that run beside it, so it is a program of its own.

use k8s_openapi::api::core::v1::Pod;
use tests::application::Application;
use tests::bed::{Tool, run, run_blocking};
use tests::cluster::serves;
use tests::ensure;
use tests::failure::Outcome;
use tests::process::Process;
use tests::rotation::{ask, declared, phase, rotated, secured_for_long};
use tests::scenario::{NOTICED, SERVING, Scenario, scenario, until};

/// A host whose kubelet is halted in the middle of what it does; its pods go on running. It is thawed whatever happens.
struct Frozen(String);

impl Frozen {
    async fn freeze(host: &str) -> Outcome<Frozen> {
        let frozen = Frozen(host.to_owned());
        run(Tool::Node, &[host, "freeze"]).await?;
        Ok(frozen)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Err(failure) = run_blocking(Tool::Node, &[&self.0, "thaw"]) {
            eprintln!("host {} stays frozen: {failure}", self.0);
        }
    }
}

#[test]
fn a_pod_that_serves_is_waited_for_and_one_that_is_gone_is_not() -> Outcome {
    scenario("frozen", 1, async |s, operator| {
        // Certificates must outlast the time in which none can be replaced.
        let nodes = declared(s, secured_for_long(3, &["web"])).await?;
        // Not the operator's own host: what is killed there would not come back before it is thawed.
        let leader = operator.wait_for_leader().await?;
        let home = leader.spec.and_then(|spec| spec.node_name).unwrap_or_default();
        let node = nodes.iter().find(|node| node.host != home).cloned().unwrap_or_else(|| nodes[0].clone());
        let application = Application::start(s, "cache-web", &s.addresses("demo", 3)).await?;
        let (_, oldest) = phase(s).await?;
        let frozen = Frozen::freeze(&node.host).await?;
        ask(s, "ca@1").await?;
        is_waited_for(s, &node.name).await?;
        // Kubernetes gives the host up, and with it the pod; but it serves.
        until("the pod to be taken for lost", SERVING, || async {
            let pod = s.all::<Pod>().get(&node.name).await?;
            ensure!(!serves(&pod), "{} is ready", node.name);
            Ok(())
        })
        .await?;
        is_waited_for(s, &node.name).await?;
        application.stop().await?.assert_unharmed();

        Process::in_pod(&node.uid, "cache-node")?.signal("KILL")?;
        // The application goes on with the nodes that there are: one that is not seen any more would be waited for.
        let mut others = s.addresses("demo", 3);
        others.retain(|address| !address.starts_with(&node.name));
        let application = Application::start(s, "cache-web", &others).await?;
        let newest = rotated(s, &oldest).await?;
        application.stop().await?.assert_unharmed();
        drop(frozen);
        // It starts with what is current, and is let in by those who have nothing older.
        s.settled("demo").await?;
        s.condition("demo", "TLSReady", "True", "Current").await?;
        assert_eq!(phase(s).await?, ("Current".to_owned(), newest));
        let application = Application::start(s, "cache-web", &s.addresses("demo", 3)).await?;
        until("every node to have seen the client", NOTICED, || async {
            for node in s.nodes("demo").await? {
                let seen = s.node_status("demo", &node).await?.tls.map(|tls| tls.identities).unwrap_or_default();
                ensure!(seen.iter().any(|identity| identity.name.ends_with("/web")), "not {}: {seen:?}", node.name);
            }
            Ok(())
        })
        .await?;
        application.stop().await?.assert_unharmed();
        Ok(())
    })
}

/// Waits until the status names a pod that the rotation waits for.
async fn is_waited_for(s: &Scenario, pod: &str) -> Outcome {
    until(&format!("{pod} to be waited for"), NOTICED, || async {
        let status = s.clusters().get("demo").await?.status.unwrap_or_default().tls.unwrap_or_default();
        let waits = status.waits_for.join("; ");
        ensure!(status.phase == "DistributingBundle", "{}: {waits}", status.phase);
        ensure!(waits.contains("the present trust bundle in") && waits.contains(pod), "waits for {waits}");
        assert_eq!(status.trusted_cas, 2, "the old CA stays");
        Ok(())
    })
    .await
}

//! A cache is declared, and an application uses it.

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use tests::cluster::{lives, small};
use tests::failure::Outcome;
use tests::operator::restarts;
use tests::scenario::scenario;

const KEYS: u32 = 10_000;
/// As a user writes it.
const DEMO: &str = "
apiVersion: gannet.dev/v1alpha1
kind: CacheCluster
metadata:
  name: demo
spec:
  replicas: 3
  node:
    memory: 64Mi
    cpu: 20m
";

#[test]
fn an_application_hashes_ten_thousand_keys_over_three_nodes() -> Outcome {
    scenario("serve", 1, async |s, operator| {
        s.apply(DEMO).await?;
        let nodes = s.settled("demo").await?;
        let addresses = s.addresses("demo", 3);
        s.set_keys(KEYS, &addresses).await?;
        assert_eq!(s.get_keys(KEYS, &addresses).await?, u64::from(KEYS));

        // Through one node alone, only its share is found: the keys are spread.
        let share = s.get_keys(KEYS, &addresses[..1]).await?;
        assert!((1..u64::from(KEYS)).contains(&share), "one node has {share} keys");
        // The Service for discovery reaches a node as well.
        let service = format!("demo.{}.svc.cluster.local:11211", s.namespace);
        assert!(s.get_keys(KEYS, &[service]).await? > 0);

        assert_eq!(lives(&s.nodes("demo").await?), lives(&nodes), "use must not restart a node");
        assert!(operator.pods().await?.iter().all(|pod| restarts(pod) == 0));
        Ok(())
    })
}

#[test]
fn pods_are_spread_and_restricted() -> Outcome {
    scenario("spread", 1, async |s, _| {
        s.declare("demo", small(3)).await?;
        let nodes = s.settled("demo").await?;
        let mut hosts: Vec<_> = nodes.iter().map(|node| node.host.as_str()).collect();
        hosts.sort_unstable();
        hosts.dedup();
        assert_eq!(hosts.len(), 3, "one node a host: {nodes:?}");

        // The namespace enforces the restricted standard, or no pod would be here; this is what it cannot see.
        for pod in s.all::<Pod>().list(&ListParams::default().labels("app.kubernetes.io/name=cache-node")).await? {
            let spec = pod.spec.unwrap_or_default();
            assert_eq!(spec.automount_service_account_token, Some(false));
            let context = spec.containers[0].security_context.clone().unwrap_or_default();
            assert_eq!(context.read_only_root_filesystem, Some(true));
            let limits =
                spec.containers[0].resources.clone().and_then(|resources| resources.limits).unwrap_or_default();
            assert_eq!(limits["memory"].0, "48Mi", "the limit is what is declared");
        }
        Ok(())
    })
}

//! What a real API server says to the samples, the plain manifests and the chart's own words, and what it lets the operator do.
//! Nothing here waits for a pod.

use std::fs;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec, SubjectAccessReviewStatus,
};
use kube::api::{ListParams, PostParams};
use kube::{Api, ResourceExt};
use tests::bed::{Tool, repository, run, run_with_input};
use tests::failure::{Failure, Outcome};
use tests::scenario::{Scenario, in_namespace};

/// Where the bed has its release, and the manifests have everything.
const SYSTEM: &str = "gannet-system";

#[test]
fn samples_are_taken_by_an_api_server() -> Outcome {
    in_namespace("samples", async |s| {
        let folder = repository().join("deploy/samples");
        for entry in fs::read_dir(&folder)? {
            try_to_apply(&s.namespace, &fs::read_to_string(entry?.path())?).await?;
        }
        Ok(())
    })
}

#[test]
fn the_plain_manifests_are_taken_by_an_api_server() -> Outcome {
    in_namespace("manifests", async |_| {
        let manifests = fs::read_to_string(repository().join("deploy/manifests/gannet.yaml"))?;
        let answer = try_to_apply(SYSTEM, &manifests).await?;
        assert!(answer.contains("deployment.apps/gannet-operator"), "{answer}");
        Ok(())
    })
}

#[test]
fn the_notes_name_what_there_is() -> Outcome {
    in_namespace("notes", async |s| {
        let notes = run(Tool::Helm, &["get", "notes", "gannet", "--namespace", SYSTEM]).await?;
        let deployments: Api<Deployment> = Api::namespaced(s.client.clone(), SYSTEM);
        for deployment in deployments.list(&ListParams::default()).await? {
            let name = deployment.name_any();
            assert!(notes.contains(&format!("rollout status deployment {name}")), "{name} is not in:\n{notes}");
        }
        let cluster = notes.split_once("<<END\n").and_then(|(_, rest)| rest.split_once("\n  END"));
        let (cluster, _) = cluster.ok_or_else(|| Failure::new(format!("no CacheCluster in:\n{notes}")))?;
        let answer = try_to_apply(&s.namespace, cluster).await?;
        assert!(answer.contains("cachecluster.gannet.dev/sessions"), "{answer}");
        Ok(())
    })
}

/// As `kubectl apply` without the last step, and with unknown fields refused.
async fn try_to_apply(namespace: &str, text: &str) -> Outcome<String> {
    let arguments = ["apply", "--namespace", namespace, "--dry-run=server", "--validate=strict", "--filename=-"];
    run_with_input(Tool::Kubectl, &arguments, text).await
}

/// Asked of the release that the chart has made on the bed, in the namespace where it works.
#[test]
fn the_operator_may_do_what_it_needs_and_no_more() -> Outcome {
    in_namespace("rights", async |s| {
        for (verb, group, resource, name, namespace, expected) in [
            ("watch", "gannet.dev", "cacheclusters", "", "default", true),
            ("patch", "gannet.dev", "cacheclusters/status", "", "default", true),
            ("create", "apps", "statefulsets", "", "default", true),
            ("create", "policy", "poddisruptionbudgets", "", "default", true),
            ("delete", "", "pods", "", "default", true),
            ("delete", "", "configmaps", "", "default", true),
            ("delete", "apps", "controllerrevisions", "", "default", true),
            ("update", "gannet.dev", "cacheclusters/finalizers", "", "default", true),
            ("create", "events.k8s.io", "events", "", "default", true),
            ("create", "coordination.k8s.io", "leases", "", SYSTEM, true),
            ("update", "coordination.k8s.io", "leases", "gannet-operator", SYSTEM, true),
            ("update", "coordination.k8s.io", "leases", "another", SYSTEM, false),
            ("create", "coordination.k8s.io", "leases", "", "default", false),
            ("patch", "gannet.dev", "cacheclusters", "", "default", false),
            ("delete", "gannet.dev", "cacheclusters", "", "default", false),
            ("delete", "apps", "statefulsets", "", "default", false),
            ("delete", "", "services", "", "default", false),
            ("patch", "", "pods", "", "default", true),
            ("patch", "", "pods/status", "", "default", true),
            ("list", "discovery.k8s.io", "endpointslices", "", "default", true),
            ("patch", "discovery.k8s.io", "endpointslices", "", "default", false),
            ("create", "", "pods", "", "default", false),
            ("create", "", "pods/exec", "", "default", false),
            ("get", "", "secrets", "", "default", true),
            ("create", "", "secrets", "", "default", true),
            ("update", "", "secrets", "", "default", true),
            ("list", "", "secrets", "", "default", false),
            ("watch", "", "secrets", "", "default", false),
            ("delete", "", "secrets", "", "default", false),
            ("create", "cert-manager.io", "certificates", "", "default", true),
            ("patch", "cert-manager.io", "certificates/status", "", "default", true),
            ("update", "cert-manager.io", "issuers", "", "default", false),
            // It works in one namespace, and hosts are of none.
            ("list", "", "nodes", "", "", false),
            ("get", "", "nodes", "", "", false),
            ("patch", "", "nodes", "", "", false),
            ("get", "", "persistentvolumes", "", "", false),
            ("delete", "", "persistentvolumes", "", "", false),
            ("get", "", "persistentvolumeclaims", "", "default", true),
            ("create", "", "persistentvolumeclaims", "", "default", false),
            ("create", "rbac.authorization.k8s.io", "rolebindings", "", "default", false),
            ("update", "apps", "deployments", "gannet-operator", SYSTEM, false),
        ] {
            let status = review(s, verb, group, resource, name, namespace).await?;
            let what = format!("{verb} {resource}.{group} {name} in \"{namespace}\"");
            assert_eq!(status.allowed, expected, "{what}: {:?}", status.reason);
        }
        Ok(())
    })
}

async fn review(
    s: &Scenario,
    verb: &str,
    group: &str,
    resource: &str,
    name: &str,
    namespace: &str,
) -> Outcome<SubjectAccessReviewStatus> {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let some = |text: &str| Some(text.to_owned());
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(format!("system:serviceaccount:{SYSTEM}:gannet-operator")),
            resource_attributes: Some(ResourceAttributes {
                verb: some(verb),
                group: some(group),
                resource: some(resource),
                subresource: some(subresource),
                name: some(name),
                namespace: some(namespace),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let answer = Api::all(s.client.clone()).create(&PostParams::default(), &review).await?;
    answer.status.ok_or_else(|| Failure::new("the API server gave no answer to a review"))
}

//! The Helm chart and the plain manifests, as helm renders them: every value has its effect, and no unknown one is taken.
//! Nothing is installed here.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tests::bed::{VERSION, cache_folder, chart, repository};
use tests::ensure;
use tests::failure::{Failure, Outcome};
use tests::yaml::{documents, missing_in};

/// What helm says the cluster is, which the chart checks. Helm built as a plain Go program does not know.
const KUBERNETES: &str = "--kube-version=1.34.0";
const CONTAINER: &str = "/spec/template/spec/containers/0";

/// A value of the chart and where its effect shows.
struct Effect {
    value: &'static str,
    /// What it is set to, as JSON.
    set: Value,
    kind: &'static str,
    /// A JSON pointer into the object of that kind.
    pointer: String,
    /// What stands there then; null: nothing, or no such object.
    expected: Value,
}

fn effect(value: &'static str, set: Value, kind: &'static str, pointer: &str, expected: Value) -> Effect {
    Effect { value, set, kind, pointer: pointer.to_owned(), expected }
}

/// An effect on the Deployment: on its pods, or with `./` before it on its container.
fn on_pods(value: &'static str, set: Value, pointer: &str, expected: Value) -> Effect {
    let pointer = match pointer.strip_prefix("./") {
        Some(pointer) => format!("{CONTAINER}/{pointer}"),
        None => format!("/spec/template{pointer}"),
    };
    Effect { value, set, kind: "Deployment", pointer, expected }
}

fn effects() -> Vec<Effect> {
    let mut effects = effects_on_pods();
    effects.extend(effects_beside_pods());
    effects
}

fn effects_on_pods() -> Vec<Effect> {
    let same = |value, set: Value, pointer| on_pods(value, set.clone(), pointer, set);
    let toleration = json!([{"key": "dedicated", "operator": "Exists"}]);
    let affinity = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}});
    let spread =
        json!([{"maxSkew": 2, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule"}]);
    vec![
        on_pods(
            "operator.image.repository",
            json!("a.example:5000/o"),
            "./image",
            json!(format!("a.example:5000/o:{VERSION}")),
        ),
        on_pods("operator.image.tag", json!("9"), "./image", json!("docker.io/gannet/cache-operator:9")),
        same("operator.image.pullPolicy", json!("Always"), "./imagePullPolicy"),
        same("operator.pullSecrets", json!([{"name": "registry"}]), "/spec/imagePullSecrets"),
        on_pods("operator.log", json!("info,kube=debug"), "./env/4/value", json!("info,kube=debug")),
        on_pods("operator.resources.limits.memory", json!("1Gi"), "./resources/limits/memory", json!("1Gi")),
        on_pods("operator.resources.requests.cpu", json!("1"), "./resources/requests/cpu", json!("1")),
        on_pods("operator.resources.requests.memory", json!("9Mi"), "./resources/requests/memory", json!("9Mi")),
        on_pods("operator.serviceAccount.name", json!("mine"), "/spec/serviceAccountName", json!("mine")),
        on_pods("operator.podLabels", json!({"team": "data"}), "/metadata/labels/team", json!("data")),
        on_pods("operator.podAnnotations", json!({"team": "data"}), "/metadata/annotations/team", json!("data")),
        same("operator.priorityClassName", json!("system-cluster-critical"), "/spec/priorityClassName"),
        same("operator.nodeSelector", json!({"kubernetes.io/arch": "amd64"}), "/spec/nodeSelector"),
        same("operator.tolerations", toleration, "/spec/tolerations"),
        same("operator.affinity", affinity, "/spec/affinity"),
        same("operator.topologySpreadConstraints", spread, "/spec/topologySpreadConstraints"),
        on_pods(
            "node.image.repository",
            json!("b.example/n"),
            "./env/0/value",
            json!(format!("b.example/n:{VERSION}")),
        ),
        on_pods("node.image.tag", json!("9"), "./env/0/value", json!("docker.io/gannet/cache-node:9")),
        on_pods("clusterDomain", json!("example.net"), "./env/6/value", json!("example.net")),
        on_pods("watchNamespaces", json!(["shop", "web"]), "./env/0/value", json!("shop,web")),
        on_pods("metrics.annotations", json!(true), "/metadata/annotations/prometheus.io~1port", json!("8080")),
    ]
}

fn effects_beside_pods() -> Vec<Effect> {
    vec![
        effect("operator.replicas", json!(2), "Deployment", "/spec/replicas", json!(2)),
        effect(
            "operator.serviceAccount",
            json!({"create": false, "name": "mine"}),
            "ServiceAccount",
            "/kind",
            Value::Null,
        ),
        effect(
            "operator.serviceAccount.annotations",
            json!({"cloud": "role"}),
            "ServiceAccount",
            "/metadata/annotations/cloud",
            json!("role"),
        ),
        effect("crd.install", json!(false), "CustomResourceDefinition", "/kind", Value::Null),
        effect(
            "rbac.userRoles",
            json!(false),
            "ClusterRole",
            "/metadata/labels/rbac.authorization.k8s.io~1aggregate-to-view",
            Value::Null,
        ),
        effect("rbac.hosts", json!("Never"), "ClusterRole", "/metadata/labels/gannet.dev~1rights", Value::Null),
        effect(
            "metrics.podMonitor.create",
            json!(true),
            "PodMonitor",
            "/spec/podMetricsEndpoints/0/port",
            json!("http"),
        ),
        effect(
            "metrics.podMonitor",
            json!({"create": true, "interval": "5s"}),
            "PodMonitor",
            "/spec/podMetricsEndpoints/0/interval",
            json!("5s"),
        ),
        effect(
            "metrics.podMonitor",
            json!({"create": true, "labels": {"release": "prometheus"}}),
            "PodMonitor",
            "/metadata/labels/release",
            json!("prometheus"),
        ),
    ]
}

#[test]
fn every_value_has_an_effect() -> Outcome {
    let effects = effects();
    let before = render(&[])?;
    for Effect { value, set, kind, pointer, expected } in &effects {
        let after = render(&[format!("{value}={set}")])?;
        let (before, after) = (values_at(&before, kind, pointer), values_at(&after, kind, pointer));
        if expected.is_null() {
            assert!(!before.is_empty(), "{value} at its default: {kind} has no {pointer}");
            assert!(after.is_empty(), "{value}={set}: {kind} still has {pointer}: {after:?}");
        } else {
            assert_ne!(before, [expected], "{value} at its default");
            assert_eq!(after, [expected], "{value}={set}: {kind} {pointer}");
        }
    }
    let values: Value = serde_yaml::from_str(&fs::read_to_string(Path::new(&chart()).join("values.yaml"))?)?;
    for leaf in leaves(&values, "") {
        let is_covered = |effect: &Effect| {
            let is_within =
                |path: &str| path.strip_prefix(&leaf).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
            is_within(effect.value) || leaves(&effect.set, effect.value).iter().any(|path| is_within(path))
        };
        assert!(
            effects.iter().any(is_covered),
            "values.yaml has {leaf}, and no test sees its effect: add it to `effects`"
        );
    }
    Ok(())
}

/// The paths of all values that are not maps with something in them.
fn leaves(value: &Value, path: &str) -> Vec<String> {
    match value.as_object().filter(|map| !map.is_empty()) {
        None => vec![path.to_owned()],
        Some(map) => map
            .iter()
            .flat_map(|(key, value)| {
                leaves(value, &if path.is_empty() { key.clone() } else { format!("{path}.{key}") })
            })
            .collect(),
    }
}

#[test]
fn unknown_and_impossible_values_are_refused() -> Outcome {
    for (set, expected) in [
        ("replicas=2", "additional properties 'replicas' not allowed"),
        ("operator.replica=2", "additional properties 'replica' not allowed"),
        ("operator.image.digest=\"sha256:1\"", "'digest' not allowed"),
        ("operator.serviceAccount.annotation={}", "'annotation' not allowed"),
        ("node.memory=\"1Gi\"", "'memory' not allowed"),
        ("crd.keep=true", "'keep' not allowed"),
        ("rbac.create=false", "'create' not allowed"),
        ("rbac.hosts=\"Sometimes\"", "/rbac/hosts"),
        ("metrics.serviceMonitor={}", "'serviceMonitor' not allowed"),
        ("metrics.podMonitor.enabled=true", "'enabled' not allowed"),
        ("operator.resources.request={}", "'request' not allowed"),
        ("operator.affinity.nodes={}", "'nodes' not allowed"),
        ("operator.pullSecrets=[\"registry\"]", "/operator/pullSecrets/0"),
        ("operator.replicas=\"two\"", "/operator/replicas"),
        ("operator.replicas=-1", "/operator/replicas"),
        ("operator.image.pullPolicy=\"Sometimes\"", "/operator/image/pullPolicy"),
        ("operator.image.repository=\"has space\"", "/operator/image/repository"),
        ("operator.image.tag=\":9\"", "/operator/image/tag"),
        ("clusterDomain=\"has space\"", "/clusterDomain"),
        ("watchNamespaces=\"shop\"", "/watchNamespaces"),
        ("watchNamespaces=[\"shop,web\"]", "/watchNamespaces/0"),
        ("operator.serviceAccount.create=false", "operator.serviceAccount.name: name the account"),
    ] {
        let Err(refusal) = render(&[set.to_owned()]) else { panic!("{set} is accepted") };
        let words = refusal.to_string();
        assert!(words.contains(expected), "{set} is refused without saying \"{expected}\": {words}");
    }
    Ok(())
}

#[test]
fn no_object_has_a_field_that_kubernetes_does_not_know() -> Outcome {
    let full = ["operator.replicas=3", "operator.pullSecrets=[{\"name\":\"registry\"}]", "watchNamespaces=[\"shop\"]"];
    for values in [Vec::new(), full.map(str::to_owned).to_vec()] {
        for object in render(&values)? {
            let unknown = match object["kind"].as_str().unwrap_or_default() {
                "ClusterRole" => unknown_fields::<ClusterRole>(&object)?,
                "ClusterRoleBinding" => unknown_fields::<ClusterRoleBinding>(&object)?,
                "CustomResourceDefinition" => unknown_fields::<CustomResourceDefinition>(&object)?,
                "Deployment" => unknown_fields::<Deployment>(&object)?,
                "Namespace" => unknown_fields::<Namespace>(&object)?,
                "PodDisruptionBudget" => unknown_fields::<PodDisruptionBudget>(&object)?,
                "Role" => unknown_fields::<Role>(&object)?,
                "RoleBinding" => unknown_fields::<RoleBinding>(&object)?,
                "ServiceAccount" => unknown_fields::<ServiceAccount>(&object)?,
                kind => return Err(Failure::new(format!("the chart makes a {kind}: teach this test its type"))),
            };
            assert!(unknown.is_empty(), "{} {}: {unknown:?}", object["kind"], object["metadata"]["name"]);
        }
    }
    Ok(())
}

fn unknown_fields<T: DeserializeOwned + Serialize>(object: &Value) -> Outcome<Vec<String>> {
    let known: T = serde_json::from_value(object.clone())?;
    Ok(missing_in(&serde_json::to_value(&known)?, object, ""))
}

#[test]
fn the_operator_meets_the_restricted_pod_security_standard() -> Outcome {
    let objects = render(&[])?;
    let pod = &one(&objects, "Deployment")?["spec"]["template"]["spec"];
    let (pod_wide, container) = (&pod["securityContext"], &pod["containers"][0]["securityContext"]);
    assert_eq!(pod_wide["runAsNonRoot"], true);
    assert_eq!(pod_wide["runAsUser"], 65532);
    assert_eq!(pod_wide["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(container["allowPrivilegeEscalation"], false);
    assert_eq!(container["readOnlyRootFilesystem"], true);
    assert_eq!(container["capabilities"], json!({"drop": ["ALL"]}));
    for (probe, path) in [("livenessProbe", "/livez"), ("readinessProbe", "/readyz")] {
        assert_eq!(pod["containers"][0][probe]["httpGet"], json!({"path": path, "port": "http"}));
    }
    Ok(())
}

#[test]
fn only_several_operators_have_a_disruption_budget() -> Outcome {
    for (replicas, expected) in [(0, 0), (1, 0), (2, 1), (3, 1)] {
        let objects = render(&[format!("operator.replicas={replicas}")])?;
        assert_eq!(all(&objects, "PodDisruptionBudget").len(), expected, "{replicas} replicas");
        let spread = values_at(&objects, "Deployment", "/spec/template/spec/topologySpreadConstraints/0/topologyKey");
        assert_eq!(spread.len(), expected, "{replicas} replicas");
    }
    Ok(())
}

#[test]
fn an_operator_of_some_namespaces_has_no_rights_elsewhere() -> Outcome {
    let objects = render(&["watchNamespaces=[\"shop\",\"web\"]".to_owned(), "crd.install=false".to_owned()])?;
    for kind in ["ClusterRole", "ClusterRoleBinding"] {
        assert!(all(&objects, kind).is_empty(), "there is a {kind}");
    }
    for kind in ["Role", "RoleBinding"] {
        let mut places: Vec<&str> =
            all(&objects, kind).iter().filter_map(|o| o["metadata"]["namespace"].as_str()).collect();
        places.sort_unstable();
        assert_eq!(places, ["gannet-system", "shop", "web"], "{kind}");
    }
    let lease = all(&objects, "Role").into_iter().find(|role| role["metadata"]["namespace"] == "gannet-system");
    let rules = lease.map(|role| role["rules"].clone()).unwrap_or_default();
    for rule in rules.as_array().into_iter().flatten() {
        let is_own = rule["resources"] == json!(["leases"]) || rule["resources"] == json!(["secrets"]);
        assert!(is_own, "in the operator's own namespace: {rule}");
        assert!(rule["verbs"] == json!(["create"]) || !rule["resourceNames"].is_null(), "by name: {rule}");
    }
    Ok(())
}

#[test]
fn the_operator_has_no_right_that_leads_to_others() -> Outcome {
    for values in [vec![], vec!["watchNamespaces=[\"shop\"]".to_owned()]] {
        let objects = render(&values)?;
        let roles = all(&objects, "ClusterRole").into_iter().chain(all(&objects, "Role"));
        let rules: Vec<Value> = roles.filter_map(|role| role["rules"].as_array().cloned()).flatten().collect();
        assert!(rules.len() > 5, "{rules:?}");
        for rule in rules {
            let words = [&rule["apiGroups"], &rule["resources"], &rule["verbs"]];
            let words: Vec<&str> =
                words.iter().filter_map(|list| list.as_array()).flatten().filter_map(Value::as_str).collect();
            // Certificates are read and written by name; to list or to watch Secrets would be to read everybody's.
            let listed = ["list", "watch", "patch", "delete", "deletecollection"];
            let lists_secrets = words.contains(&"secrets") && listed.iter().any(|verb| words.contains(verb));
            assert!(!lists_secrets, "{rule}");
            for forbidden in ["*", "roles", "clusterroles", "escalate", "bind", "impersonate", "pods/exec"] {
                assert!(!words.contains(&forbidden), "{forbidden} in {rule}");
            }
        }
    }
    Ok(())
}

#[test]
fn users_of_a_namespace_may_work_with_its_cacheclusters() -> Outcome {
    let objects = render(&[])?;
    for (label, verb) in [("view", "watch"), ("edit", "delete"), ("admin", "create")] {
        let label = format!("rbac.authorization.k8s.io/aggregate-to-{label}");
        let is_aggregated = |role: &&&Value| role["metadata"]["labels"][&label] == "true";
        let roles = all(&objects, "ClusterRole");
        let role = roles.iter().find(is_aggregated).ok_or_else(|| Failure::new(format!("no role has {label}")))?;
        let rule = &role["rules"][0];
        assert_eq!(rule["resources"][0], "cacheclusters");
        assert!(rule["verbs"].as_array().is_some_and(|verbs| verbs.contains(&json!(verb))), "{verb} in {rule}");
    }
    Ok(())
}

#[test]
fn names_are_the_releases_and_fit() -> Outcome {
    // The longest name that helm takes.
    let long = "x".repeat(53);
    for (release, expected) in
        [("gannet", "gannet-operator"), ("shop", "shop-gannet-operator"), (&long, &format!("{long}-operator"))]
    {
        let objects = render_release(release, &[])?;
        let deployment = one(&objects, "Deployment")?;
        let name = deployment["metadata"]["name"].as_str().unwrap_or_default();
        assert_eq!(name, expected);
        assert!(name.len() <= 63, "{name}");
        // The right to the Lease is given by name.
        let lease = values_at(&objects, "Deployment", &format!("{CONTAINER}/env/1/value"));
        let allowed = values_at(&objects, "Role", "/rules/1/resourceNames/0");
        assert_eq!(lease, allowed);
    }
    Ok(())
}

#[test]
fn the_operator_knows_each_variable_that_it_is_given() -> Outcome {
    let program = env::var_os("GANNET_CACHE_OPERATOR").map_or_else(built_operator, |path| Ok(PathBuf::from(path)))?;
    let help = Command::new(&program).arg("--help").output()?;
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    let objects = render(&["watchNamespaces=[\"shop\"]".to_owned()])?;
    let variables = values_at(&objects, "Deployment", &format!("{CONTAINER}/env"));
    let names: Vec<&str> =
        variables.iter().filter_map(|v| v.as_array()).flatten().filter_map(|v| v["name"].as_str()).collect();
    assert!(names.contains(&"GANNET_NAMESPACES"), "{names:?}");
    for name in names.into_iter().filter(|name| *name != "RUST_LOG") {
        assert!(
            help.contains(&format!("[env: {name}=")),
            "{} --help does not mention {name}:\n{help}",
            program.display()
        );
    }
    Ok(())
}

/// Beside this test's own program.
fn built_operator() -> Outcome<PathBuf> {
    let program = env::current_exe()?.ancestors().nth(2).map(|folder| folder.join("cache-operator"));
    program.filter(|path| path.exists()).ok_or_else(|| {
        Failure::new(
            "there is no cache-operator to ask: `cargo build -p cache-operator`, or name one in GANNET_CACHE_OPERATOR",
        )
    })
}

#[test]
fn the_chart_has_the_version_of_the_programs() -> Outcome {
    let chart: Value = serde_yaml::from_str(&fs::read_to_string(Path::new(&chart()).join("Chart.yaml"))?)?;
    assert_eq!(chart["version"], VERSION);
    assert_eq!(chart["appVersion"], VERSION);
    Ok(())
}

#[test]
fn lint_finds_nothing() -> Outcome {
    helm(&["lint", "--strict", KUBERNETES, &chart()]).map(|_| ())
}

#[test]
fn it_can_be_a_dependency_of_another_chart() -> Outcome {
    let folder = env::temp_dir().join(format!("gannet-parent-{}", std::process::id()));
    let charts = folder.join("charts");
    fs::create_dir_all(&charts)?;
    fs::write(folder.join("Chart.yaml"), "{apiVersion: v2, name: parent, version: 1.0.0}\n")?;
    fs::write(folder.join("values.yaml"), "{gannet: {operator: {replicas: 2}}, global: {registry: a.example}}\n")?;
    std::os::unix::fs::symlink(chart(), charts.join("gannet"))?;
    let rendered = helm(&["template", "parent", &folder.display().to_string(), KUBERNETES]);
    fs::remove_dir_all(&folder)?;
    let objects = documents(&rendered?)?;
    assert_eq!(values_at(&objects, "Deployment", "/spec/replicas"), [&json!(2)]);
    Ok(())
}

#[test]
fn the_plain_manifests_are_current() -> Outcome {
    let script = repository().join("deploy/manifests/render");
    let output = Command::new(&script).arg("-").env("GANNET_HELM", helm_program()?).output()?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{} failed: {errors}", script.display());
    let committed = fs::read_to_string(repository().join("deploy/manifests/gannet.yaml"))?;
    ensure!(
        committed.as_bytes() == output.stdout,
        "deploy/manifests/gannet.yaml is stale: run `deploy/manifests/render` and commit what it writes"
    );
    let objects = documents(&committed)?;
    assert_eq!(values_at(&objects, "Namespace", "/metadata/name"), [&json!("gannet-system")]);
    assert!(!committed.contains("helm.sh"), "the manifests speak of Helm");
    Ok(())
}

/// The chart as the release gannet, with values as JSON: `operator.replicas=2`.
fn render(values: &[String]) -> Outcome<Vec<Value>> {
    render_release("gannet", values)
}

fn render_release(name: &str, values: &[String]) -> Outcome<Vec<Value>> {
    let chart = chart();
    let mut arguments = vec!["template", name, &chart, "--namespace=gannet-system", KUBERNETES];
    for value in values {
        arguments.extend(["--set-json", value]);
    }
    documents(&helm(&arguments)?)
}

fn all<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

fn one<'a>(objects: &'a [Value], kind: &str) -> Outcome<&'a Value> {
    match all(objects, kind)[..] {
        [object] => Ok(object),
        ref found => Err(Failure::new(format!("the chart makes {} objects of kind {kind}", found.len()))),
    }
}

/// What the objects of a kind have at a place; objects that have nothing there are left out.
fn values_at<'a>(objects: &'a [Value], kind: &str, pointer: &str) -> Vec<&'a Value> {
    all(objects, kind).into_iter().filter_map(|object| object.pointer(pointer)).collect()
}

fn helm(arguments: &[&str]) -> Outcome<String> {
    let output = Command::new(helm_program()?).args(arguments).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "helm {} failed: {text}{}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}

/// Helm 3: GANNET_HELM, or the one that `deploy/local` has built, or one that is installed.
fn helm_program() -> Outcome<PathBuf> {
    if let Some(program) = env::var_os("GANNET_HELM") {
        return Ok(PathBuf::from(program));
    }
    let built = fs::read_dir(cache_folder()).into_iter().flatten().flatten().map(|entry| entry.path().join("bin/helm"));
    let installed = env::var_os("PATH").into_iter().flat_map(|path| env::split_paths(&path).collect::<Vec<_>>());
    built.chain(installed.map(|folder| folder.join("helm"))).find(|program| program.exists()).ok_or_else(|| {
        Failure::new("there is no helm: install Helm 3, name one in GANNET_HELM, or run `deploy/local/up --bare`, which builds one")
    })
}

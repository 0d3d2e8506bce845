//! The pod template of a cache-node. It meets the restricted Pod Security Standard.

use std::collections::BTreeMap;

use gannet_crds::PodTemplate;
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapProjection, ConfigMapVolumeSource, Container, ContainerPort, HTTPGetAction, KeyToPath,
    PodReadinessGate, PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ProjectedVolumeSource, ResourceRequirements,
    SeccompProfile, SecretProjection, SecretVolumeSource, SecurityContext, TopologySpreadConstraint, Volume,
    VolumeMount, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{config_map, labels, storage};
use crate::cluster::{ADMIN_TLS_FOLDER, Cluster, TLS_FOLDER};
use crate::given::STEM;
use crate::material::BUNDLE;
use crate::observe::gate::GATE;
use crate::revision::config_map_name;
use crate::storage::Volume as Items;
use crate::tls::Names;

/// The container's name.
pub const CONTAINER: &str = "cache-node";

const CONFIG_FOLDER: &str = "/etc/gannet";
/// Nobody's in particular: the images have no user database.
const USER: i64 = 65532;
pub const TLS_VOLUME: &str = "tls";
const ADMIN_TLS_VOLUME: &str = "admin-tls";
/// Nobody else in the pod reads the keys.
const KEY_MODE: i32 = 0o440;
const READINESS_SECONDS: i32 = 2;
const LIVENESS_SECONDS: i32 = 10;

/// Renders the template from what is declared.
pub fn template(cluster: &Cluster, image: &str, configuration: &str) -> PodTemplateSpec {
    let PodTemplate {
        labels: _,
        annotations,
        node_selector,
        tolerations,
        affinity,
        topology_spread_constraints,
        priority_class_name,
        image_pull_secrets,
        termination_grace_period_seconds: _,
        service_account_name,
    } = cluster.inputs.pod_template.clone();
    let spread = if topology_spread_constraints.is_empty() {
        vec![spread_over_hosts(cluster)]
    } else {
        topology_spread_constraints
    };
    let spec = PodSpec {
        containers: vec![container(cluster, image)],
        volumes: Some(volumes(cluster, configuration)),
        service_account_name: Some(service_account_name.unwrap_or_else(|| cluster.name.clone())),
        automount_service_account_token: Some(false),
        // A variable for every Service of the namespace: hundreds, and the node reads none.
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(cluster.shape.grace_seconds),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            // The keys that are mounted are for this group.
            fs_group: Some(USER),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), ..SeccompProfile::default() }),
            ..PodSecurityContext::default()
        }),
        // Taken out of the endpoints by it, a pod can change its image and keep its items.
        readiness_gates: matches!(cluster.shape.volume, Items::Memory(_))
            .then(|| vec![PodReadinessGate { condition_type: GATE.to_owned() }]),
        topology_spread_constraints: Some(spread),
        node_selector: (!node_selector.is_empty()).then_some(node_selector),
        tolerations: (!tolerations.is_empty()).then_some(tolerations),
        image_pull_secrets: (!image_pull_secrets.is_empty()).then_some(image_pull_secrets),
        affinity: storage::affinity(affinity, &cluster.inputs.storage.node_requirements),
        priority_class_name,
        ..PodSpec::default()
    };
    let metadata = ObjectMeta {
        labels: Some(pod_labels(cluster)),
        annotations: (!annotations.is_empty()).then_some(annotations),
        ..ObjectMeta::default()
    };
    PodTemplateSpec { metadata: Some(metadata), spec: Some(spec) }
}

/// Secrets are mounted whole: a file of its own (`subPath`) would never be refreshed.
fn volumes(cluster: &Cluster, configuration: &str) -> Vec<Volume> {
    let secret = |volume: &str, name: String| Volume {
        name: volume.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(name),
            default_mode: Some(KEY_MODE),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    };
    let names = Names { cluster: cluster.name.clone(), ..Names::default() };
    let config = Volume {
        name: "config".to_owned(),
        config_map: Some(ConfigMapVolumeSource {
            name: config_map_name(&cluster.name, configuration),
            ..ConfigMapVolumeSource::default()
        }),
        ..Volume::default()
    };
    let mut volumes = vec![config, secret(ADMIN_TLS_VOLUME, names.admin_tls())];
    match &cluster.inputs.tls.secret {
        _ if cluster.shape.config.tls.is_none() => {}
        Some(given) => volumes.push(given_volume(given, names.identities())),
        None => volumes.push(secret(TLS_VOLUME, names.node_tls())),
    }
    volumes.extend(storage::volume(cluster.shape.volume));
    volumes
}

/// Somebody else's Secret, and beside it who is let in, as one folder that is swapped as a whole.
fn given_volume(secret: &str, identities: String) -> Volume {
    let item = |file: String| KeyToPath { path: file.clone(), key: file, ..KeyToPath::default() };
    let files = [BUNDLE.to_owned(), format!("{STEM}.crt"), format!("{STEM}.key")];
    let secret = SecretProjection {
        name: secret.to_owned(),
        items: Some(files.map(item).to_vec()),
        ..SecretProjection::default()
    };
    let identities = ConfigMapProjection { name: identities, ..ConfigMapProjection::default() };
    let sources = vec![
        VolumeProjection { secret: Some(secret), ..VolumeProjection::default() },
        VolumeProjection { config_map: Some(identities), ..VolumeProjection::default() },
    ];
    Volume {
        name: TLS_VOLUME.to_owned(),
        projected: Some(ProjectedVolumeSource { sources: Some(sources), default_mode: Some(KEY_MODE) }),
        ..Volume::default()
    }
}

fn volume_mounts(cluster: &Cluster) -> Vec<VolumeMount> {
    let mount = |volume: &str, folder: &str| VolumeMount {
        name: volume.to_owned(),
        mount_path: folder.to_owned(),
        read_only: Some(true),
        ..VolumeMount::default()
    };
    let mut mounts = vec![mount("config", CONFIG_FOLDER), mount(ADMIN_TLS_VOLUME, ADMIN_TLS_FOLDER)];
    if cluster.shape.config.tls.is_some() {
        mounts.push(mount(TLS_VOLUME, TLS_FOLDER));
    }
    mounts.push(storage::mount());
    mounts
}

fn pod_labels(cluster: &Cluster) -> BTreeMap<String, String> {
    let mut all = cluster.inputs.pod_template.labels.clone();
    all.extend(labels::all(&cluster.name));
    all
}

fn container(cluster: &Cluster, image: &str) -> Container {
    let mut limits = storage::resources(cluster.shape.volume);
    limits.insert("memory".to_owned(), Quantity(cluster.shape.memory.to_string()));
    let mut requests = limits.clone();
    requests.insert("cpu".to_owned(), cpu(cluster.shape.cpu_millis));
    let port = |name: &str, port: u16| ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(port),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    };
    Container {
        name: CONTAINER.to_owned(),
        image: Some(image.to_owned()),
        args: Some(vec!["--config".to_owned(), format!("{CONFIG_FOLDER}/{}", config_map::FILE)]),
        ports: Some(vec![
            port("memcache", config::DATA_PORT),
            port("health", config::HEALTH_PORT),
            port("admin", config::ADMIN_PORT),
        ]),
        resources: Some(ResourceRequirements {
            requests: Some(requests),
            limits: Some(limits),
            ..ResourceRequirements::default()
        }),
        readiness_probe: Some(probe("/readyz", READINESS_SECONDS)),
        liveness_probe: Some(probe("/livez", LIVENESS_SECONDS)),
        volume_mounts: Some(volume_mounts(cluster)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), ..Capabilities::default() }),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

/// In the form that the API server would give it.
fn cpu(millis: u64) -> Quantity {
    if millis.is_multiple_of(1000) { Quantity((millis / 1000).to_string()) } else { Quantity(format!("{millis}m")) }
}

fn probe(path: &str, period_seconds: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("health".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(2),
        failure_threshold: Some(3),
        ..Probe::default()
    }
}

/// A lost host should take as few nodes as possible, but a cluster on too few hosts is better than none.
fn spread_over_hosts(cluster: &Cluster) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        max_skew: 1,
        topology_key: "kubernetes.io/hostname".to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(labels::label_selector(cluster)),
        ..TopologySpreadConstraint::default()
    }
}

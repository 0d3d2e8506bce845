//! How nodes are found.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::labels;
use crate::cluster::Cluster;

/// The Service for discovery: any node that is ready answers. A key lives on one node, so an application that stores
/// anything hashes over the nodes' own names instead.
pub fn for_clients(cluster: &Cluster) -> Service {
    service(cluster, &cluster.client_service(), ServiceSpec::default())
}

/// The headless Service that gives each pod a DNS name. Pods that are not ready have theirs too: clients hash over the
/// names, and a name that comes and goes would move every key twice.
pub fn for_nodes(cluster: &Cluster) -> Service {
    let headless = ServiceSpec {
        cluster_ip: Some("None".to_owned()),
        publish_not_ready_addresses: Some(true),
        ..ServiceSpec::default()
    };
    service(cluster, &cluster.node_service(), headless)
}

fn service(cluster: &Cluster, name: &str, spec: ServiceSpec) -> Service {
    let port = ServicePort {
        name: Some("memcache".to_owned()),
        port: i32::from(config::DATA_PORT),
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::String("memcache".to_owned())),
        ..ServicePort::default()
    };
    Service {
        metadata: labels::metadata(cluster, name),
        spec: Some(ServiceSpec { selector: Some(labels::selector(&cluster.name)), ports: Some(vec![port]), ..spec }),
        ..Service::default()
    }
}

//! Who the pods are.

use k8s_openapi::api::core::v1::ServiceAccount;

use super::labels;
use crate::cluster::Cluster;

/// The ServiceAccount: nobody, and without a token.
pub fn build(cluster: &Cluster) -> ServiceAccount {
    ServiceAccount {
        metadata: labels::metadata(cluster, &cluster.name),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

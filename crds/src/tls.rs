//! What a user declares about certificates.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::spec::DURATION_PATTERN;

/// Mutual TLS on the data port, with certificates that the operator issues and renews.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.duration) || duration(self.duration) >= duration('1m')")
    .message("spec.tls.duration is too short: 1m at least").field_path(".duration"))]
#[x_kube(validation = Rule::new("!has(self.duration) || !has(self.renewBefore) || duration(self.renewBefore) < duration(self.duration)")
    .message("spec.tls.renewBefore: a certificate is renewed before it ends, so this is less than spec.tls.duration").field_path(".renewBefore"))]
#[x_kube(validation = Rule::new("!has(self.ca) || !has(self.ca.renewBefore) || !has(self.duration) || !has(self.maxConnectionAge) || duration(self.ca.renewBefore) > duration(self.duration) + duration(self.duration) + duration(self.maxConnectionAge)")
    .message("spec.tls.ca.renewBefore is too short: a new CA is on its way for up to twice spec.tls.duration and spec.tls.maxConnectionAge; raise it, or lower those").field_path(".ca.renewBefore"))]
#[x_kube(validation = Rule::new("!has(self.clients) || self.clients.all(c, self.clients.exists_one(d, d.secretName == c.secretName))")
    .message("spec.tls.clients: each client has a Secret of its own; give them different secretNames").field_path(".clients"))]
pub struct TlsSpec {
    /// Disabled: clients speak in the clear. Permissive: TLS, and a client may do without a certificate. Strict: TLS, and only
    /// the clients that are listed are let in.
    #[serde(default)]
    pub mode: TlsMode,

    /// How long a certificate is good for, such as 24h.
    #[serde(default = "default_duration")]
    #[schemars(regex(pattern = DURATION_PATTERN), length(max = 32))]
    pub duration: String,

    /// How long before its end a certificate is renewed, such as 8h.
    #[serde(default = "default_renew_before")]
    #[schemars(regex(pattern = DURATION_PATTERN), length(max = 32))]
    pub renew_before: String,

    /// How old a connection may become before the node closes it between two requests, so that clients come back with
    /// what is current; 0s is for ever, and then a rotation may wait for ever.
    #[serde(default = "default_max_connection_age")]
    #[schemars(regex(pattern = DURATION_PATTERN), length(max = 32))]
    pub max_connection_age: String,

    /// The CA of this cluster.
    #[serde(default)]
    pub ca: CaSpec,

    /// Applications that are let in. Each gets a Secret with ca.crt, tls.crt and tls.key, which is renewed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub clients: Vec<TlsClient>,
}

/// The CA of a cluster. Nobody but the operator has its key.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.duration) || !has(self.renewBefore) || duration(self.renewBefore) < duration(self.duration)")
    .message("spec.tls.ca.renewBefore: a CA is replaced before it ends, so this is less than spec.tls.ca.duration").field_path(".renewBefore"))]
pub struct CaSpec {
    /// How long a CA is good for, such as 720h.
    #[serde(default = "default_ca_duration")]
    #[schemars(regex(pattern = DURATION_PATTERN), length(max = 32))]
    pub duration: String,

    /// How long before its end its replacement begins, such as 240h: more than twice tls.duration and tls.maxConnectionAge.
    #[serde(default = "default_ca_renew_before")]
    #[schemars(regex(pattern = DURATION_PATTERN), length(max = 32))]
    pub renew_before: String,
}

/// An application that is let in.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsClient {
    /// What it is called. Its certificates name it as the URI spiffe://gannet.dev/NAMESPACE/CLUSTER/NAME.
    #[schemars(regex(pattern = NAME_PATTERN), length(max = 63))]
    pub name: String,

    /// The Secret in this namespace that is made for it.
    #[schemars(regex(pattern = NAME_PATTERN), length(max = 253))]
    pub secret_name: String,
}

/// Who may look at the nodes' metrics beside the operator.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MonitoringSpec {
    /// A Secret in this namespace to be made with ca.crt, tls.crt and tls.key, for whoever reads /metrics and /status of the
    /// nodes' admin ports. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = NAME_PATTERN), length(max = 253))]
    pub client_secret_name: Option<String>,
}

/// How clients speak to the data port.
#[derive(schemars::JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "explained on the field, see Eviction")]
pub enum TlsMode {
    #[default]
    Disabled,
    Permissive,
    Strict,
}

const NAME_PATTERN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";

fn default_duration() -> String {
    "24h".to_owned()
}

fn default_renew_before() -> String {
    "8h".to_owned()
}

fn default_max_connection_age() -> String {
    "1h".to_owned()
}

fn default_ca_duration() -> String {
    "720h".to_owned()
}

fn default_ca_renew_before() -> String {
    "240h".to_owned()
}

impl Default for TlsSpec {
    fn default() -> TlsSpec {
        TlsSpec {
            mode: TlsMode::default(),
            duration: default_duration(),
            renew_before: default_renew_before(),
            max_connection_age: default_max_connection_age(),
            ca: CaSpec::default(),
            clients: Vec::new(),
        }
    }
}

impl Default for CaSpec {
    fn default() -> CaSpec {
        CaSpec { duration: default_ca_duration(), renew_before: default_ca_renew_before() }
    }
}

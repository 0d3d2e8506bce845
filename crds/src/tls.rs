//! What a user declares about certificates.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::spec::DURATION_PATTERN;

/// Mutual TLS on the data port, with certificates that renew themselves.
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
#[x_kube(validation = Rule::new("!has(self.issuer) || self.issuer.type != 'Secret' || !has(self.clients) || size(self.clients) == 0")
    .message("spec.tls.clients: nothing is issued where spec.tls.issuer.type is Secret; list spec.tls.identities").field_path(".clients"))]
#[x_kube(validation = Rule::new("!has(self.identities) || size(self.identities) == 0 || (has(self.issuer) && self.issuer.type == 'Secret')")
    .message("spec.tls.identities: only where spec.tls.issuer.type is Secret; list spec.tls.clients").field_path(".identities"))]
#[x_kube(validation = Rule::new("!has(self.issuer) || self.issuer.type != 'CertManager' || !has(self.duration) || duration(self.duration) >= duration('1h')")
    .message("spec.tls.duration is too short: cert-manager issues for 1h at least").field_path(".duration"))]
pub struct TlsSpec {
    /// Disabled: clients speak in the clear. Permissive: TLS, and a client may do without a certificate. Strict: TLS, and only
    /// the clients that are listed are let in.
    #[serde(default)]
    pub mode: TlsMode,

    /// Who issues the certificates.
    #[serde(default)]
    pub issuer: IssuerSpec,

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

    /// The CA of this cluster; of no effect where another than the operator issues.
    #[serde(default)]
    pub ca: CaSpec,

    /// Applications that are let in. Each gets a Secret with ca.crt, tls.crt and tls.key, which is renewed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub clients: Vec<TlsClient>,

    /// Names in certificates that are let in, as DNS:… or URI:…, where issuer.type is Secret.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(regex(pattern = IDENTITY_PATTERN), length(max = 512)))]
    pub identities: Vec<String>,
}

/// Who issues the certificates of nodes and clients.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.type == 'Operator' ? !has(self.name) : has(self.name)")
    .message("spec.tls.issuer.name names cert-manager's issuer or your Secret; without one, the type is Operator"))]
#[x_kube(validation = Rule::new("self.type == 'CertManager' || !has(self.kind)")
    .message("spec.tls.issuer.kind is of cert-manager's issuers").field_path(".kind"))]
pub struct IssuerSpec {
    /// Operator: a CA of this cluster's own, whose key the operator keeps. CertManager: cert-manager's issuer of this name.
    /// Secret: you do; the nodes take ca.crt, tls.crt and tls.key from your Secret of this name, and nothing is issued.
    #[serde(default, rename = "type")]
    pub kind_of_issuer: IssuerType,

    /// Of cert-manager's issuer: Issuer, or ClusterIssuer. Default: Issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<CertManagerKind>,

    /// The name of cert-manager's issuer, or of your Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = DNS_NAME_PATTERN), length(max = 253))]
    pub name: Option<String>,
}

/// Who issues.
#[derive(schemars::JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "explained on the field, see Eviction")]
pub enum IssuerType {
    #[default]
    Operator,
    CertManager,
    Secret,
}

/// Which of cert-manager's kinds.
#[derive(schemars::JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "explained on the field, see Eviction")]
pub enum CertManagerKind {
    #[default]
    Issuer,
    ClusterIssuer,
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
const DNS_NAME_PATTERN: &str = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$";
const IDENTITY_PATTERN: &str = r"^(DNS|URI):[^\s]+$";

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
            issuer: IssuerSpec::default(),
            duration: default_duration(),
            renew_before: default_renew_before(),
            max_connection_age: default_max_connection_age(),
            ca: CaSpec::default(),
            clients: Vec::new(),
            identities: Vec::new(),
        }
    }
}

impl Default for CaSpec {
    fn default() -> CaSpec {
        CaSpec { duration: default_ca_duration(), renew_before: default_ca_renew_before() }
    }
}

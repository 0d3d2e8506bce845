//! The declared TLS, parsed, and who is called what in it.

use std::time::Duration;

use gannet_crds::{CacheCluster, CertManagerKind, IssuerSpec, IssuerType, TlsClient, TlsMode, TlsSpec};
use kube::ResourceExt;

use crate::certificate::{Subject, Usage};
use crate::cluster::{InvalidSpec, duration};
use crate::rotation::Lives;

/// Who the operator is to nodes, on both ports.
pub const OPERATOR: &str = "URI:spiffe://gannet.dev/operator";
/// Who may read metrics, on the admin port.
pub const MONITORING: &str = "URI:spiffe://gannet.dev/monitoring";

/// A client is given this long beyond what it may take to connect anew.
const CONNECTION_MARGIN: Duration = Duration::from_secs(10);
/// Where connections last for ever, what was not seen for so long has gone.
const CONNECTION_FOR_EVER: Duration = Duration::from_secs(3600);
/// Connections are closed up to a tenth later than they are declared to be, spread over time.
const CONNECTION_SPREAD: u32 = 10;

/// What is declared about certificates. It is parsed apart from the rest, because renewal goes on whatever else is wrong.
#[derive(Clone, Debug)]
pub struct Tls {
    pub mode: TlsMode,
    pub source: Source,
    pub names: Names,
    pub life: Duration,
    pub ca_life: Duration,
    pub lives: Lives,
    pub clients: Vec<TlsClient>,
    /// Who is let in beside them.
    pub identities: Vec<String>,
    pub monitoring: Option<String>,
    /// `leaf@…` or `ca@…`.
    pub request: Option<String>,
    pub replicas: i32,
}

/// Where certificates come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// From a CA that the operator has the key of.
    Operator,
    /// From cert-manager's issuer of this kind and name.
    CertManager { kind: &'static str, name: String },
    /// From a Secret of this name that somebody else writes.
    Secret(String),
}

impl Source {
    fn parse(issuer: IssuerSpec) -> Result<Source, InvalidSpec> {
        let IssuerSpec { kind_of_issuer, kind, name } = issuer;
        let named = name.ok_or_else(|| InvalidSpec::new("tls.issuer.name", "is missing"));
        Ok(match kind_of_issuer {
            IssuerType::Operator => Source::Operator,
            IssuerType::CertManager => Source::CertManager {
                kind: match kind.unwrap_or_default() {
                    CertManagerKind::Issuer => "Issuer",
                    CertManagerKind::ClusterIssuer => "ClusterIssuer",
                },
                name: named?,
            },
            IssuerType::Secret => Source::Secret(named?),
        })
    }
}

/// How the objects and the certificates of a cluster are called.
#[derive(Clone, Debug, Default)]
pub struct Names {
    pub cluster: String,
    pub namespace: String,
    /// Such as `cluster.local`.
    pub domain: String,
}

impl Tls {
    /// Parses what a resource says about certificates; `domain` is the DNS domain of the Kubernetes cluster.
    ///
    /// # Errors
    /// [`InvalidSpec`] names the first field that makes no sense.
    pub fn parse(resource: &CacheCluster, domain: &str) -> Result<Tls, InvalidSpec> {
        let TlsSpec { mode, issuer, duration: life, renew_before, max_connection_age, ca, clients, identities } =
            resource.spec.tls.clone();
        let source = Source::parse(issuer)?;
        let names = Names {
            cluster: resource.name_any(),
            namespace: resource.namespace().unwrap_or_default(),
            domain: domain.to_owned(),
        };
        let life = duration("tls.duration", &life)?;
        let renew_before = duration("tls.renewBefore", &renew_before)?;
        let ca_life = duration("tls.ca.duration", &ca.duration)?;
        let ca_renew_before = duration("tls.ca.renewBefore", &ca.renew_before)?;
        let age = duration("tls.maxConnectionAge", &max_connection_age)?;
        let connection = if age.is_zero() { CONNECTION_FOR_EVER } else { age + age / CONNECTION_SPREAD };
        let monitoring = resource.spec.monitoring.client_secret_name.clone();
        let reserved = [names.ca(), names.node_tls(), names.admin_tls()];
        let secrets = clients.iter().map(|client| ("tls.clients", &client.secret_name));
        for (field, secret) in secrets.chain(monitoring.iter().map(|secret| ("monitoring.clientSecretName", secret))) {
            if reserved.contains(secret) {
                return Err(InvalidSpec::new(field, format!("{secret} is a Secret of the nodes: take another name")));
            }
        }
        if let (TlsMode::Strict | TlsMode::Permissive, Some(secret)) = (mode, &monitoring)
            && clients.iter().any(|client| client.secret_name == *secret)
        {
            return Err(InvalidSpec::new("monitoring.clientSecretName", format!("{secret} is the Secret of a client")));
        }
        if let Source::Secret(secret) = &source
            && reserved.contains(secret)
        {
            return Err(InvalidSpec::new("tls.issuer.name", format!("{secret} is a Secret of the operator's own")));
        }
        let by_others = source != Source::Operator;
        let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX / 4);
        Ok(Tls {
            mode,
            source,
            life,
            ca_life,
            lives: Lives {
                leaf: seconds(life),
                leaf_renew_before: seconds(renew_before),
                // Leaves must be renewed twice before a CA of others ends.
                ca_renew_before: if by_others { 2 * seconds(life) } else { seconds(ca_renew_before) },
                ca_by_others: by_others,
                connection: seconds(connection + CONNECTION_MARGIN),
                for_ever: age.is_zero(),
            },
            clients,
            identities,
            monitoring,
            request: resource.annotations().get(gannet_crds::ROTATE_ANNOTATION).cloned(),
            replicas: resource.spec.replicas,
            names,
        })
    }
}

impl Names {
    /// The Secret with the CA and its key.
    pub fn ca(&self) -> String {
        format!("{}-ca", self.cluster)
    }

    /// The ConfigMap with the bundle.
    pub fn ca_bundle(&self) -> String {
        format!("{}-ca-bundle", self.cluster)
    }

    /// The Secret with the nodes' pairs for the data port.
    pub fn node_tls(&self) -> String {
        format!("{}-node-tls", self.cluster)
    }

    /// The Secret with the nodes' pairs for the admin port.
    pub fn admin_tls(&self) -> String {
        format!("{}-admin-tls", self.cluster)
    }

    /// The ConfigMap with those who are let in, where somebody else's Secret has the rest.
    pub fn identities(&self) -> String {
        format!("{}-identities", self.cluster)
    }

    /// cert-manager's Certificate for a pod, and its Secret.
    pub fn issued_node(&self, pod: &str) -> String {
        let ordinal = pod.strip_prefix(&self.cluster).unwrap_or(pod);
        format!("{}-node{ordinal}-issued", self.cluster)
    }

    /// The same for a client.
    pub fn issued_client(&self, client: &str) -> String {
        format!("{}-client-{client}-issued", self.cluster)
    }

    /// The same for the operator's own looks at the data ports.
    pub fn issued_operator(&self) -> String {
        format!("{}-operator-issued", self.cluster)
    }

    /// The shortest DNS name of a pod that is the same in every namespace.
    pub fn pod_host(&self, pod: &str) -> String {
        format!("{pod}.{}-nodes.{}.svc", self.cluster, self.namespace)
    }

    /// A node on its data port: by its own names, and by those of the Service that stands for any node.
    pub fn node(&self, pod: &str) -> Subject {
        let (host, service) = (self.pod_host(pod), format!("{}.{}.svc", self.cluster, self.namespace));
        let names = [
            format!("DNS:{host}"),
            format!("DNS:{host}.{}", self.domain),
            format!("DNS:{service}"),
            format!("DNS:{service}.{}", self.domain),
        ];
        Subject { common_name: pod.to_owned(), names: names.to_vec(), usage: Usage::Server }
    }

    /// A node on its admin port.
    pub fn node_admin(&self, pod: &str) -> Subject {
        let names = vec![format!("DNS:{}", self.pod_host(pod))];
        Subject { common_name: pod.to_owned(), names, usage: Usage::Server }
    }

    /// The identity of a declared client.
    pub fn identity(&self, client: &str) -> String {
        format!("URI:spiffe://gannet.dev/{}/{}/{client}", self.namespace, self.cluster)
    }

    /// A declared client.
    pub fn client(&self, client: &str) -> Subject {
        Subject { common_name: client.to_owned(), names: vec![self.identity(client)], usage: Usage::Client }
    }
}

/// A client that is not one of the cluster's: the operator itself, or who reads metrics.
pub fn outsider(identity: &str) -> Subject {
    let common_name = identity.rsplit('/').next().unwrap_or(identity).to_owned();
    Subject { common_name, names: vec![identity.to_owned()], usage: Usage::Client }
}

/// The list of those who are let in, as nodes read it.
pub fn allow_list(identities: &[String]) -> String {
    identities.iter().map(|identity| format!("{identity}\n")).collect()
}

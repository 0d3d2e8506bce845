//! The cache-operator: turns CacheCluster resources into running cache-nodes.

mod admin_authority;
mod analysis;
mod apply;
mod cert_manager;
mod certificate;
mod certify;
mod cluster;
mod controller;
mod desired;
mod given;
mod lease;
mod material;
mod metrics;
mod node_client;
mod observe;
mod report;
mod revision;
mod rollout;
mod rotation;
mod server;
mod storage;
mod tls;

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use kube::Client;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;

use admin_authority::AdminAuthority;
use controller::Context;
use lease::Elector;
use metrics::Metrics;
use revision::Defaults;
use server::Server;

/// Turns CacheCluster resources into running cache-nodes.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Namespaces to watch, separated by commas; all where none is given.
    #[arg(long, env = "GANNET_NAMESPACES", value_delimiter = ',')]
    namespaces: Vec<String>,

    /// The cache-node image of clusters that name none.
    #[arg(long, env = "GANNET_NODE_IMAGE", default_value = concat!("docker.io/gannet/cache-node:", env!("CARGO_PKG_VERSION")))]
    node_image: String,

    /// Where /livez, /readyz and /metrics are served.
    #[arg(long, env = "GANNET_LISTEN", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,

    /// The namespace of the Lease by which one operator leads.
    #[arg(long, env = "POD_NAMESPACE", default_value = "gannet-system")]
    lease_namespace: String,

    /// The name of that Lease.
    #[arg(long, env = "GANNET_LEASE_NAME", default_value = "cache-operator")]
    lease_name: String,

    /// The Secret in that namespace with the CA of the nodes' admin ports; it is made where there is none.
    #[arg(long, env = "GANNET_ADMIN_CA_SECRET", default_value = "cache-operator-admin-ca")]
    admin_ca_secret: String,

    /// The DNS domain of the Kubernetes cluster.
    #[arg(long, env = "GANNET_CLUSTER_DOMAIN", default_value = "cluster.local")]
    cluster_domain: String,

    /// What this process calls itself in the Lease; unlike any other's.
    #[arg(long, env = "POD_NAME")]
    identity: String,
}

/// Something that the operator cannot go on without.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("no Kubernetes cluster: {0}; run in a pod, or set KUBECONFIG")]
    Client(#[source] kube::Error),
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("signals cannot be handled: {0}")]
    Signal(#[source] std::io::Error),
    #[error(transparent)]
    Server(#[from] server::ServerError),
    #[error("the API server does not answer: {0}")]
    Api(#[source] kube::Error),
    #[error(transparent)]
    AdminAuthority(#[from] admin_authority::AdminAuthorityError),
}

/// How the operator ended.
enum End {
    Asked,
    LostLease,
}

/// Reconciles that have begun are given this long to end.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(8);

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).init();
    let arguments = Arguments::parse();
    // Two threads: the work is waiting for the API server.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(run(arguments)),
        Err(error) => {
            error!(%error, "no threads to run on");
            return ExitCode::FAILURE;
        }
    };
    match ended {
        Ok(End::Asked) => ExitCode::SUCCESS,
        Ok(End::LostLease) => {
            error!("the lease is lost: ending, so that two operators never write at once");
            ExitCode::FAILURE
        }
        Err(error) => {
            error!(%error, "cannot run");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<End, StartError> {
    let Arguments {
        namespaces,
        node_image,
        listen,
        lease_namespace,
        lease_name,
        admin_ca_secret,
        cluster_domain,
        identity,
    } = arguments;
    let mut terminate = signal(SignalKind::terminate()).map_err(StartError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::Signal)?;
    let asked = async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    };
    tokio::pin!(asked);
    let metrics = Metrics::new()?;
    let client = Client::try_default().await.map_err(StartError::Client)?;
    let server = Server::new(metrics.clone());
    let mut served = tokio::spawn(server.clone().run(listen));
    let version = tokio::select! {
        version = client.apiserver_version() => version.map_err(StartError::Api)?,
        () = &mut asked => return Ok(End::Asked),
        ended = &mut served => return Err(served_error(ended)),
    };
    server.set_ready();
    info!(version = env!("CARGO_PKG_VERSION"), kubernetes = version.git_version, ?namespaces, node_image, "started");

    let mut elector = Elector::new(client.clone(), &lease_namespace, &lease_name, &identity);
    tokio::select! {
        () = elector.acquire() => {}
        () = &mut asked => return Ok(End::Asked),
        ended = &mut served => return Err(served_error(ended)),
    }
    metrics.leader.set(1);
    let admin = AdminAuthority::load(&client, &lease_namespace, &admin_ca_secret).await?;
    let defaults = Defaults { node_image, cluster_domain };
    let context = Arc::new(Context::new(client, defaults, metrics.clone(), admin, &identity));
    let (stop, stopped) = watch::channel(false);
    let controllers = tokio::spawn(async move { controller::run(context, &namespaces, stopped).await });
    tokio::select! {
        () = elector.hold() => Ok(End::LostLease),
        ended = &mut served => Err(served_error(ended)),
        () = &mut asked => {
            info!("asked to end");
            stop.send_replace(true);
            if tokio::time::timeout(SHUTDOWN_PATIENCE, controllers).await.is_err() {
                warn!("reconciles did not end within {SHUTDOWN_PATIENCE:?}; the next leader finishes their work");
            }
            if let Err(error) = elector.release().await {
                warn!(%error, "the lease was not given back and expires in {:?}", lease::DURATION);
            }
            Ok(End::Asked)
        }
    }
}

fn served_error(ended: Result<Result<(), server::ServerError>, tokio::task::JoinError>) -> StartError {
    match ended {
        Ok(Err(error)) => StartError::Server(error),
        Ok(Ok(())) => StartError::Server(server::ServerError::Serve(std::io::Error::other("it ended by itself"))),
        Err(error) => StartError::Server(server::ServerError::Serve(std::io::Error::other(error))),
    }
}

//! The health port (`/livez`, `/readyz`) and the admin port (`/metrics`, `/status`, `POST /drain`): a thread of their
//! own, away from the request path.

mod link;

use std::collections::BTreeMap;
use std::io;
use std::net::{self, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::serve::{IncomingStream, Listener};
use axum::{Json, Router};
use config::Status;
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::sync::Semaphore;
use tokio::time;
use tracing::{error, warn};

use crate::admin::link::Link;
use crate::exposition;
use crate::kind::KINDS;
use crate::metrics::{Counters, Metrics, Phase};
use crate::node::Event;
use crate::tls::credentials::Credentials;
use crate::volume::Volume;

/// A thread that has not finished a round for so long is stuck, and the node is better restarted. The longest sleep of
/// a healthy one is half a second.
const STUCK_US: u64 = 15_000_000;
/// Connections at once to each of the two ports; more wait in the kernel.
const MOST_CONNECTIONS: usize = 64;
/// How long accepting pauses after an error.
const PAUSE: Duration = Duration::from_millis(100);

/// The sockets of the two ports, as far as they are wanted.
pub struct Ports {
    /// `/livez` and `/readyz`.
    pub health: Option<net::TcpListener>,
    /// `/metrics`, `/status` and `POST /drain`.
    pub admin: Option<net::TcpListener>,
}

#[derive(Clone)]
struct Shared {
    metrics: Arc<Metrics>,
    events: Sender<Event>,
    /// The most that items and index were ever seen to take: memory that a cache has touched stays with the process.
    touched: Arc<AtomicU64>,
}

/// Serves the ports on a thread of their own, for as long as the process lives.
///
/// # Errors
/// What the system says.
pub fn serve(ports: Ports, metrics: Arc<Metrics>, events: Sender<Event>) -> io::Result<()> {
    let Ports { health, admin } = ports;
    if health.is_none() && admin.is_none() {
        return Ok(());
    }
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let tls = metrics.admin_tls.clone();
    let shared = Shared { metrics, events, touched: Arc::default() };
    let health_routes = Router::new().route("/livez", get(live)).route("/readyz", get(ready));
    let admin_routes =
        Router::new().route("/metrics", get(scrape)).route("/status", get(status)).route("/drain", post(drain));
    let body = move || {
        runtime.block_on(async {
            tokio::join!(
                serve_port(health, None, health_routes.with_state(shared.clone())),
                serve_port(admin, tls, admin_routes.with_state(shared)),
            )
        })
    };
    thread::Builder::new().name("admin".to_owned()).spawn(body)?;
    Ok(())
}

async fn serve_port(socket: Option<net::TcpListener>, tls: Option<Arc<Credentials>>, routes: Router) {
    let Some(socket) = socket else { return };
    let served = async {
        let permits = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        let listener = Limited { listener: TcpListener::from_std(socket)?, tls, permits };
        axum::serve(listener, routes.into_make_service_with_connect_info::<Peer>()).await
    };
    if let Err(reason) = served.await {
        error!(%reason, "the health or admin port has ended");
    }
}

async fn live(State(shared): State<Shared>) -> (StatusCode, String) {
    let metrics = &shared.metrics;
    let now = metrics.clock.now().micros();
    // A thread may be stuck before its first round, too; but while the node starts, its threads do not run yet.
    let starts = metrics.phase() == Phase::Starting;
    let age = |heartbeat: u64| if starts { 0 } else { now.saturating_sub(heartbeat.max(metrics.started.micros())) };
    let stuck = |(name, us): (String, u64)| {
        (us > STUCK_US).then(|| format!("{name} has not finished a round for {} s\n", us / 1_000_000))
    };
    let threads = metrics.threads().iter().enumerate();
    let threads = threads.map(|(index, counters): (usize, &Arc<Counters>)| {
        (format!("serving thread {index}"), age(counters.heartbeat.get()))
    });
    let listener = match metrics.phase() {
        Phase::Closing | Phase::Stopping => None,
        _ => Some(("the listener".to_owned(), age(metrics.listener_heartbeat.get()))),
    };
    match threads.chain(listener).find_map(stuck) {
        Some(message) => (StatusCode::SERVICE_UNAVAILABLE, message),
        None => (StatusCode::OK, "live\n".to_owned()),
    }
}

async fn ready(State(shared): State<Shared>) -> (StatusCode, String) {
    #[cfg(feature = "misbehave")]
    if crate::misbehave::Fault::of(&shared.metrics.config) == Some(crate::misbehave::Fault::NeverReady) {
        return (StatusCode::SERVICE_UNAVAILABLE, "not ready: it misbehaves\n".to_owned());
    }
    match shared.metrics.phase() {
        Phase::Serving => (StatusCode::OK, "ready\n".to_owned()),
        Phase::Starting => {
            let waits_for = shared.metrics.waits_for().unwrap_or_else(|| "starting".to_owned());
            (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {waits_for}\n"))
        }
        _ => (StatusCode::SERVICE_UNAVAILABLE, "not ready: draining\n".to_owned()),
    }
}

async fn scrape(State(shared): State<Shared>) -> impl IntoResponse {
    match exposition::text(&shared.metrics) {
        Ok(text) => (StatusCode::OK, [(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text),
        Err(reason) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(header::CONTENT_TYPE, "text/plain")],
            format!("the metrics cannot be written: {reason}\n"),
        ),
    }
}

async fn status(State(shared): State<Shared>) -> Json<Status> {
    Json(report(&shared.metrics, &shared.touched))
}

fn report(metrics: &Metrics, touched: &AtomicU64) -> Status {
    let (totals, cache) = (metrics.totals(), metrics.cache());
    let cache_used = cache.index_bytes + cache.segment_bytes + cache.metadata_bytes;
    let cache_touched = touched.fetch_max(cache_used, Ordering::Relaxed).max(cache_used);
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        configuration_hash: metrics.configuration_hash.clone(),
        phase: match metrics.phase() {
            Phase::Starting => config::Phase::Starting,
            Phase::Serving => config::Phase::Serving,
            Phase::Draining | Phase::Closing | Phase::Stopping => config::Phase::Draining,
        },
        uptime_seconds: metrics.clock.now().since(metrics.started) / 1_000_000,
        items: config::Items { live: cache.items, evicted: cache.evicted, expired: cache.expired },
        requests: config::Requests {
            hits: totals.retrievals(|kind| kind.hits),
            misses: totals.retrievals(|kind| kind.misses),
            total: totals.sum(|kind| kind.requests),
            server_errors: totals.server_errors,
            received_bytes: totals.bytes_in,
            sent_bytes: totals.bytes_out,
        },
        memory: config::Memory {
            cache_limit: cache.budget,
            cache_used,
            buffers_limit: metrics.budget.limit() as u64,
            buffers_used: metrics.budget.used() as u64,
            resident: exposition::resident_bytes(),
            anonymous: exposition::anonymous_bytes().saturating_sub(cache_touched),
        },
        connections: config::Connections {
            open: metrics.open(),
            limit: u64::from(metrics.config.max_connections),
            refused: totals.refused,
            failed_handshakes: metrics.tls.as_ref().map_or(0, |tls| tls.handshakes.refusals.of_clients_that_stayed()),
        },
        storage: metrics.volume.as_ref().map(Volume::report),
        latencies: latencies(metrics),
        tls: metrics.tls.as_ref().and_then(|tls| tls.status()),
    }
}

fn latencies(metrics: &Metrics) -> BTreeMap<String, config::Latencies> {
    let all = KINDS.iter().map(|(kind, label)| ((*label).to_owned(), metrics.latencies(*kind).report()));
    all.filter(|(_, latencies)| latencies.count() > 0).collect()
}

/// As SIGTERM. Whom this port lets in by certificate may do it; where it asks for none, only who is on this machine, or in
/// this pod.
async fn drain(ConnectInfo(Peer(peer)): ConnectInfo<Peer>, State(shared): State<Shared>) -> (StatusCode, &'static str) {
    if shared.metrics.admin_tls.is_none() && !peer.ip().to_canonical().is_loopback() {
        return (StatusCode::FORBIDDEN, "draining is only allowed from the node's own loopback address\n");
    }
    match shared.events.send(Event::Drain) {
        Ok(()) => (StatusCode::ACCEPTED, "draining\n"),
        Err(_) => (StatusCode::CONFLICT, "the node is already ending\n"),
    }
}

/// A listener that has a limited number of connections open, each for a limited time.
struct Limited {
    listener: TcpListener,
    /// None where the port speaks in the clear.
    tls: Option<Arc<Credentials>>,
    permits: Arc<Semaphore>,
}

/// Who has connected.
#[derive(Clone, Copy, Debug)]
struct Peer(SocketAddr);

impl Listener for Limited {
    type Io = Link;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Link, SocketAddr) {
        // The semaphore is never closed, so there always is a permit in the end.
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    let served = self.tls.as_ref().map(|credentials| credentials.served());
                    match served {
                        None => return (Link::new(stream, None, permit), peer),
                        Some(Some(served)) => {
                            return (Link::new(stream, Some(Arc::clone(&served.config)), permit), peer);
                        }
                        // There is no certificate yet that could be shown.
                        Some(None) => {}
                    }
                }
                Err(error) => {
                    warn!(%error, "a connection to the health or admin port cannot be accepted");
                    time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Connected<IncomingStream<'_, Limited>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Limited>) -> Peer {
        Peer(*stream.remote_addr())
    }
}

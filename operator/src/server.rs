//! The operator's own port: live, ready, metrics.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::metrics::Metrics;

/// What the port tells of.
#[derive(Clone)]
pub struct Server {
    metrics: Metrics,
    ready: Arc<AtomicBool>,
}

/// A port that could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("cannot listen on {address} (--listen): {source}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("the health port ended: {0}")]
    Serve(#[source] std::io::Error),
}

impl Server {
    /// A server that is not ready yet.
    pub fn new(metrics: Metrics) -> Server {
        Server { metrics, ready: Arc::new(AtomicBool::new(false)) }
    }

    /// Ready: the API server answered. A follower is ready too: it can take over at any time.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Relaxed);
    }

    /// Serves until the process ends.
    ///
    /// # Errors
    /// [`ServerError`] where the address cannot be listened on.
    pub async fn run(self, address: SocketAddr) -> Result<(), ServerError> {
        let listener = TcpListener::bind(address).await.map_err(|source| ServerError::Listen { address, source })?;
        let router = Router::new()
            .route("/livez", get(async || "live\n"))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .with_state(self);
        axum::serve(listener, router).await.map_err(ServerError::Serve)
    }
}

async fn readyz(State(server): State<Server>) -> (StatusCode, &'static str) {
    if server.ready.load(Ordering::Relaxed) {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the API server has not answered yet\n")
    }
}

async fn metrics(State(server): State<Server>) -> Result<String, (StatusCode, String)> {
    server.metrics.text().map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

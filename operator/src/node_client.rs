//! Asks a cache-node's admin port.

use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// From the connection to the last byte: a node answers within milliseconds, and a reconcile waits for no other.
const PATIENCE: Duration = Duration::from_secs(1);

/// The longest report that is read, in bytes.
const LONGEST_REPORT: usize = 1 << 20;

/// A report that could not be had.
#[derive(Debug, thiserror::Error)]
pub enum NodeClientError {
    #[error("its admin port {0} did not answer within {PATIENCE:?}")]
    Timeout(String),
    #[error("its admin port {0} cannot be reached: {1}")]
    Connect(String, std::io::Error),
    #[error("its admin port {0} does not speak HTTP: {1}")]
    Http(String, hyper::Error),
    #[error("its admin port {0} answered {1} to /status")]
    Refused(String, hyper::StatusCode),
    #[error("its admin port {0} gave no complete report: {1}")]
    Body(String, Box<dyn std::error::Error + Send + Sync>),
    #[error("its admin port {0} gave a report that is not understood: {1}")]
    Report(String, serde_json::Error),
}

/// The report of the node at an address.
///
/// # Errors
/// [`NodeClientError`] names the port and what went wrong.
pub async fn status(address: &str) -> Result<config::Status, NodeClientError> {
    let port = if address.contains(':') {
        format!("[{address}]:{}", config::ADMIN_PORT)
    } else {
        format!("{address}:{}", config::ADMIN_PORT)
    };
    match tokio::time::timeout(PATIENCE, fetch(&port)).await {
        Ok(result) => result,
        Err(_) => Err(NodeClientError::Timeout(port)),
    }
}

async fn fetch(port: &str) -> Result<config::Status, NodeClientError> {
    let http = |error| NodeClientError::Http(port.to_owned(), error);
    let stream = TcpStream::connect(port).await.map_err(|error| NodeClientError::Connect(port.to_owned(), error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
    let request = Request::get("/status").header(header::HOST, port).body(Empty::<Bytes>::new());
    let request = request.map_err(|error| NodeClientError::Body(port.to_owned(), error.into()))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(http)?;
        if !response.status().is_success() {
            return Err(NodeClientError::Refused(port.to_owned(), response.status()));
        }
        let body = Limited::new(response.into_body(), LONGEST_REPORT).collect().await;
        let body = body.map_err(|error| NodeClientError::Body(port.to_owned(), error))?.to_bytes();
        serde_json::from_slice(&body).map_err(|error| NodeClientError::Report(port.to_owned(), error))
    };
    // The connection makes progress only while it is polled, and ends with this function whatever happens.
    tokio::pin!(exchange);
    tokio::select! {
        result = &mut exchange => result,
        ended = connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(http(error)),
        },
    }
}

//! Asks a cache-node: its admin port for its report, its data port for the certificate that it serves.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{InvalidDnsNameError, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::certificate::{Certificate, Pair};

/// From the connection to the last byte: a node answers within milliseconds, and a reconcile waits for no other.
const PATIENCE: Duration = Duration::from_secs(1);

/// The longest report that is read, in bytes.
const LONGEST_REPORT: usize = 1 << 20;

/// An answer that could not be had.
#[derive(Debug, thiserror::Error)]
pub enum NodeClientError {
    #[error("its port {0} did not answer within {PATIENCE:?}")]
    Timeout(String),
    #[error("its port {0} cannot be reached: {1}")]
    Connect(String, std::io::Error),
    #[error("its port {0} cannot be spoken to by TLS: {1}")]
    Handshake(String, std::io::Error),
    #[error("its port {0} has no name that TLS could check: {1}")]
    Name(String, InvalidDnsNameError),
    #[error("its port {0} showed no certificate that can be read")]
    NoCertificate(String),
    #[error("its port {0} does not speak HTTP: {1}")]
    Http(String, hyper::Error),
    #[error("its port {0} answered {1} to /status")]
    Refused(String, hyper::StatusCode),
    #[error("its port {0} gave no complete report: {1}")]
    Body(String, Box<dyn std::error::Error + Send + Sync>),
    #[error("its port {0} gave a report that is not understood: {1}")]
    Report(String, serde_json::Error),
}

/// Certificates that TLS cannot be spoken with.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("a CA or certificate of the operator is no good: {0}")]
    Tls(#[from] rustls::Error),
    #[error("a key of the operator cannot be read: {0}")]
    Key(#[from] rustls::pki_types::pem::Error),
}

/// How to speak to nodes by TLS.
#[derive(Clone)]
pub struct Speaker(TlsConnector);

impl Speaker {
    /// Trusts these CAs and shows this certificate, where there is one.
    ///
    /// # Errors
    /// [`IdentityError`] where rustls takes one of them for no good.
    pub fn new<'a>(
        trusted: impl IntoIterator<Item = &'a Certificate>,
        identity: Option<&Pair>,
    ) -> Result<Speaker, IdentityError> {
        let mut roots = RootCertStore::empty();
        for certificate in trusted {
            roots.add(certificate.der())?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let builder = builder.with_root_certificates(roots);
        let mut config = match identity {
            Some(Pair { certificate, key }) => {
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
                builder.with_client_auth_cert(vec![certificate.der()], key)?
            }
            None => builder.with_no_client_auth(),
        };
        // Every connection is to show what is served now.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Speaker(TlsConnector::from(Arc::new(config))))
    }

    async fn connect(&self, port: &str, host: &str) -> Result<TlsStream<TcpStream>, NodeClientError> {
        let name = ServerName::try_from(host.to_owned()).map_err(|e| NodeClientError::Name(port.to_owned(), e))?;
        let stream = connect(port).await?;
        self.0.connect(name, stream).await.map_err(|error| NodeClientError::Handshake(port.to_owned(), error))
    }
}

/// The report of the node at an address: by TLS as the host that is named, or in the clear.
///
/// # Errors
/// [`NodeClientError`] names the port and what went wrong.
pub async fn status(address: &str, tls: Option<(&Speaker, &str)>) -> Result<config::Status, NodeClientError> {
    let port = port_of(address, config::ADMIN_PORT);
    let exchange = async {
        match tls {
            Some((speaker, host)) => fetch(&port, speaker.connect(&port, host).await?).await,
            None => fetch(&port, connect(&port).await?).await,
        }
    };
    tokio::time::timeout(PATIENCE, exchange).await.unwrap_or_else(|_| Err(NodeClientError::Timeout(port.clone())))
}

/// The serial of the certificate that is served at the data port of an address, after a handshake in which it was checked.
///
/// # Errors
/// [`NodeClientError`] names the port and what went wrong.
pub async fn served(address: &str, speaker: &Speaker, host: &str) -> Result<String, NodeClientError> {
    let port = port_of(address, config::DATA_PORT);
    let handshake = async {
        let mut stream = speaker.connect(&port, host).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let certificate = shown.and_then(|der| Certificate::read(der, &port).ok());
        // The node counts a connection that ends without a word as a failed one.
        let _closed = stream.shutdown().await.is_ok();
        certificate.map(|certificate| certificate.serial).ok_or_else(|| NodeClientError::NoCertificate(port.clone()))
    };
    tokio::time::timeout(PATIENCE, handshake).await.unwrap_or_else(|_| Err(NodeClientError::Timeout(port.clone())))
}

fn port_of(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

async fn connect(port: &str) -> Result<TcpStream, NodeClientError> {
    TcpStream::connect(port).await.map_err(|error| NodeClientError::Connect(port.to_owned(), error))
}

async fn fetch<S>(port: &str, stream: S) -> Result<config::Status, NodeClientError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let http = |error| NodeClientError::Http(port.to_owned(), error);
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

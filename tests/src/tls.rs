//! A client that speaks TLS.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned, SupportedProtocolVersion, version,
};

use crate::failure::{Failure, Outcome};
use crate::node::PATIENCE;
use crate::secret::Pair;

/// Both versions that a node speaks.
pub const VERSIONS: [(&str, &SupportedProtocolVersion); 2] = [("1.3", &version::TLS13), ("1.2", &version::TLS12)];

/// A connection within TLS.
pub struct TlsClient {
    stream: StreamOwned<ClientConnection, TcpStream>,
}

/// Who a client is, and whom it trusts. Connections that are made with the same one come back with its tickets.
///
/// # Errors
/// Where the PEM is none.
pub fn identity(ca: &str, pair: Option<&Pair>) -> Outcome<Arc<ClientConfig>> {
    identity_of_version(ca, pair, &[&version::TLS13, &version::TLS12])
}

/// As [`identity`], with these versions of TLS.
///
/// # Errors
/// As there.
pub fn identity_of_version(
    ca: &str,
    pair: Option<&Pair>,
    versions: &[&'static SupportedProtocolVersion],
) -> Outcome<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions)?;
    let builder = builder.with_root_certificates(roots);
    Ok(Arc::new(match pair {
        None => builder.with_no_client_auth(),
        Some(Pair { certificate, key, .. }) => {
            let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect();
            builder.with_client_auth_cert(chain?, PrivateKeyDer::from_pem_slice(key.as_bytes())?)?
        }
    }))
}

impl TlsClient {
    /// Connects, and uses the connection once: only then is it known that the server lets this client in.
    ///
    /// # Errors
    /// Where it does not.
    pub fn connect(address: SocketAddr, identity: &Arc<ClientConfig>) -> Outcome<TlsClient> {
        let mut client = TlsClient::open(address, identity)?;
        client.expect(b"mn\r\n", b"MN\r\n")?;
        Ok(client)
    }

    /// Connects, without a word.
    ///
    /// # Errors
    /// Where nobody listens.
    pub fn open(address: SocketAddr, identity: &Arc<ClientConfig>) -> Outcome<TlsClient> {
        TlsClient::begin(address, ServerName::IpAddress(address.ip().into()), identity)
    }

    /// As [`TlsClient::connect`], and the server proves to be `host`.
    ///
    /// # Errors
    /// Where it does not, or does not let this client in.
    pub fn connect_to(address: SocketAddr, host: &str, identity: &Arc<ClientConfig>) -> Outcome<TlsClient> {
        let mut client = TlsClient::begin(address, ServerName::try_from(host.to_owned())?, identity)?;
        client.expect(b"mn\r\n", b"MN\r\n")?;
        Ok(client)
    }

    fn begin(address: SocketAddr, name: ServerName<'static>, identity: &Arc<ClientConfig>) -> Outcome<TlsClient> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let session = ClientConnection::new(Arc::clone(identity), name)?;
        Ok(TlsClient { stream: StreamOwned::new(session, stream) })
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub fn send(&mut self, bytes: &[u8]) -> Outcome {
        self.stream.write_all(bytes)?;
        Ok(self.stream.flush()?)
    }

    /// Sends bytes and expects exactly this answer.
    ///
    /// # Errors
    /// Where another one comes, or none.
    pub fn expect(&mut self, request: &[u8], answer: &[u8]) -> Outcome {
        self.send(request)?;
        self.expect_answer(answer)
    }

    /// Expects exactly this answer to what was sent before.
    ///
    /// # Errors
    /// Where another one comes, or none.
    pub fn expect_answer(&mut self, answer: &[u8]) -> Outcome {
        let mut got = vec![0; answer.len()];
        self.stream.read_exact(&mut got)?;
        let shorten = |bytes: &[u8]| bytes[..bytes.len().min(200)].escape_ascii().to_string();
        crate::ensure!(got == answer, "expected {} but got {}", shorten(answer), shorten(&got));
        Ok(())
    }

    /// Everything that still comes until the server says, within TLS, that nothing more does.
    ///
    /// # Errors
    /// Where it does not say so.
    pub fn rest(&mut self) -> Outcome<Vec<u8>> {
        let mut bytes = Vec::new();
        self.stream.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Says that nothing more will be sent: within TLS, and of the socket where `half_close`.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub fn finish(&mut self, half_close: bool) -> Outcome {
        self.stream.conn.send_close_notify();
        self.stream.flush()?;
        if half_close {
            self.stream.sock.shutdown(Shutdown::Write)?;
        }
        Ok(())
    }

    /// Whether the client came back with a ticket.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        self.stream.conn.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// The serial of the certificate that the server showed, in hexadecimal digits.
    ///
    /// # Errors
    /// Where it has shown none.
    pub fn server_certificate(&self) -> Outcome<Vec<u8>> {
        let chain = self.stream.conn.peer_certificates().unwrap_or_default();
        let leaf = chain.first().ok_or_else(|| Failure::new("the server has shown no certificate"))?;
        Ok(leaf.to_vec())
    }

    /// The socket, and the state of TLS on it.
    pub fn parts(&mut self) -> (&mut ClientConnection, &mut TcpStream) {
        (&mut self.stream.conn, &mut self.stream.sock)
    }
}

/// One HTTP request within TLS; returns status and body.
///
/// # Errors
/// Where nobody answers, or this client is not let in.
pub fn https(address: SocketAddr, identity: &Arc<ClientConfig>, method: &str, path: &str) -> Outcome<(u16, String)> {
    let mut client = TlsClient::open(address, identity)?;
    client.send(format!("{method} {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
    let answer = String::from_utf8_lossy(&client.rest()?).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split_whitespace().nth(1).unwrap_or_default();
    let status = status.parse().map_err(|_| Failure::new(format!("{method} {path}: no status in {head}")))?;
    Ok((status, body.to_owned()))
}

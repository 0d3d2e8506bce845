//! The byte stream of a connection: plain, or TLS.

use std::fs;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use mio::net::TcpStream;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// A stream that does not block.
#[derive(Debug)]
pub enum Transport {
    Plain(TcpStream),
    Tls(TcpStream, Box<ClientConnection>),
}

impl Transport {
    /// Begins to connect.
    ///
    /// # Errors
    /// Where the system refuses at once.
    pub fn connect(address: SocketAddr, tls: Option<&Identity>) -> io::Result<Transport> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let Some(identity) = tls else { return Ok(Transport::Plain(stream)) };
        Ok(Transport::Tls(stream, Box::new(identity.session()?)))
    }

    pub fn stream(&mut self) -> &mut TcpStream {
        match self {
            Transport::Plain(stream) | Transport::Tls(stream, _) => stream,
        }
    }

    /// Whether the connection was made, as far as it can be told now.
    ///
    /// # Errors
    /// Why it was not.
    pub fn is_connected(&mut self) -> io::Result<bool> {
        let stream = self.stream();
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        match stream.peer_addr() {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(false),
            Err(error) => return Err(error),
        }
        match self {
            Transport::Plain(_) => Ok(true),
            Transport::Tls(stream, session) => {
                exchange(stream, session)?;
                Ok(!session.is_handshaking())
            }
        }
    }

    /// # Errors
    /// [`ErrorKind::WouldBlock`] when there is nothing to read, and whatever ends the connection.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Transport::Plain(stream) => again(|| stream.read(buffer)),
            Transport::Tls(stream, session) => loop {
                match session.reader().read(buffer) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    result => return result,
                }
                if again(|| session.read_tls(stream))? == 0 {
                    return Ok(0);
                }
                session.process_new_packets().map_err(io::Error::other)?;
                // Such as the answer to a key update.
                flush(stream, session)?;
            },
        }
    }

    /// Whether a read that took `taken` of `asked` bytes left nothing behind. Only then may a reader wait for the next
    /// event, since events come once for what arrives (edge-triggered).
    pub fn is_drained_by(&self, taken: usize, asked: usize) -> bool {
        matches!(self, Transport::Plain(_)) && taken < asked
    }

    /// # Errors
    /// [`ErrorKind::WouldBlock`] when nothing can be taken now, and whatever ends the connection.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Transport::Plain(stream) => again(|| stream.write(bytes)),
            Transport::Tls(stream, session) => {
                flush(stream, session)?;
                let taken = session.writer().write(bytes)?;
                flush(stream, session)?;
                if taken == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(taken) }
            }
        }
    }

    /// # Errors
    /// As those of [`Transport::write`].
    pub fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Transport::Plain(stream) => again(|| stream.write_vectored(slices)),
            Transport::Tls(..) => self.write(slices.first().map_or(&[], |slice| slice)),
        }
    }

    /// Sends what TLS still holds back.
    ///
    /// # Errors
    /// Whatever ends the connection.
    pub fn flush(&mut self) -> io::Result<()> {
        match self {
            Transport::Plain(_) => Ok(()),
            Transport::Tls(stream, session) => flush(stream, session),
        }
    }
}

fn exchange(stream: &mut TcpStream, session: &mut ClientConnection) -> io::Result<()> {
    loop {
        flush(stream, session)?;
        if !session.is_handshaking() {
            return Ok(());
        }
        match again(|| session.read_tls(stream)) {
            Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "closed during the TLS handshake")),
            Ok(_) => {
                let result = session.process_new_packets();
                // An alert says to the server why there will be no session.
                flush(stream, session)?;
                result.map_err(io::Error::other)?;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

fn flush(stream: &mut TcpStream, session: &mut ClientConnection) -> io::Result<()> {
    while session.wants_write() {
        match again(|| session.write_tls(stream)) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn again<T>(mut operation: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match operation() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Who this client is in TLS, and whom it trusts.
#[derive(Clone, Debug)]
pub struct Identity {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Identity {
    /// The same, but a stranger to every server: each handshake is a full one.
    #[must_use]
    pub fn without_tickets(&self) -> Identity {
        let mut config = ClientConfig::clone(&self.config);
        config.resumption = Resumption::disabled();
        Identity { config: Arc::new(config), name: self.name.clone() }
    }

    /// The beginning of a session.
    ///
    /// # Errors
    /// What the library says.
    pub fn session(&self) -> io::Result<ClientConnection> {
        ClientConnection::new(self.config.clone(), self.name.clone()).map_err(io::Error::other)
    }
}

/// The files of a client's identity. They are read again when they have changed, as a client of a cache whose certificates
/// rotate must do.
#[derive(Clone, Debug)]
pub struct IdentityFiles {
    /// Certificates of those who are trusted to vouch for servers.
    pub ca: PathBuf,
    /// The client's certificate chain and its key.
    pub pair: Option<(PathBuf, PathBuf)>,
    /// The name that the server's certificate must have; otherwise that of its address.
    pub name: Option<String>,
}

impl IdentityFiles {
    /// # Errors
    /// Which file is of no use, and why.
    pub fn load(&self, server: &str) -> io::Result<Identity> {
        let before = self.changed();
        match self.read(server) {
            // Swapped while they were read, so that a key met another's certificate.
            Err(_) if self.changed() != before => self.read(server),
            result => result,
        }
    }

    fn read(&self, server: &str) -> io::Result<Identity> {
        let named =
            |file: &PathBuf, error: &dyn std::error::Error| io::Error::other(format!("{}: {error}", file.display()));
        let certificates = |file: &PathBuf| -> io::Result<Vec<CertificateDer<'static>>> {
            let read = CertificateDer::pem_file_iter(file).map_err(|error| named(file, &error))?;
            let all: Result<Vec<_>, _> = read.collect();
            let all = all.map_err(|error| named(file, &error))?;
            if all.is_empty() {
                Err(io::Error::other(format!("{}: no certificate in it", file.display())))
            } else {
                Ok(all)
            }
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.ca)? {
            roots.add(certificate).map_err(|error| named(&self.ca, &error))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots);
        let config = match &self.pair {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let private = PrivateKeyDer::from_pem_file(key).map_err(|error| named(key, &error))?;
                let chain_certificates = certificates(chain)?;
                builder.with_client_auth_cert(chain_certificates, private).map_err(|error| named(chain, &error))?
            }
        };
        let host = self.name.as_deref().unwrap_or_else(|| host_of(server));
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| io::Error::other(format!("{host}: not a name for TLS: {error}")))?;
        Ok(Identity { config: Arc::new(config), name })
    }

    /// When the files were last changed.
    pub fn changed(&self) -> Option<SystemTime> {
        let pair = self.pair.iter().flat_map(|(chain, key)| [chain, key]);
        pair.chain([&self.ca]).filter_map(|file| fs::metadata(file).ok()?.modified().ok()).max()
    }
}

fn host_of(server: &str) -> &str {
    server.rsplit_once(':').map_or(server, |(host, _)| host).trim_matches(['[', ']'])
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{BufRead, BufReader, Write};
    use std::net::{SocketAddr, TcpListener};
    use std::path::PathBuf;
    use std::sync::{Arc, Mutex};
    use std::thread;

    use clap::Parser;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::server::WebPkiClientVerifier;
    use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

    use crate::options::Options;
    use crate::run::run;

    #[derive(Parser)]
    struct Arguments {
        #[command(flatten)]
        options: Options,
    }

    /// A CA, and a folder with ca.crt, tls.crt and tls.key of a client.
    struct Authority {
        issuer: Issuer<'static, KeyPair>,
        certificate: String,
        folder: PathBuf,
    }

    impl Authority {
        fn new(name: &str) -> Authority {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let certificate = params.self_signed(&key).unwrap().pem();
            let folder = std::env::temp_dir().join(format!("load-tls-{name}-{}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("ca.crt"), &certificate).unwrap();
            Authority { issuer: Issuer::new(params, key), certificate, folder }
        }

        fn pair(&self) -> (String, String) {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
            (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
        }

        fn write_client(&self) -> CertificateDer<'static> {
            let (certificate, key) = self.pair();
            let modified = || fs::metadata(self.folder.join("tls.key")).and_then(|file| file.modified()).ok();
            let before = modified();
            fs::write(self.folder.join("tls.crt"), &certificate).unwrap();
            // Some file systems tell times apart by milliseconds only.
            while modified() == before {
                fs::write(self.folder.join("tls.key"), &key).unwrap();
            }
            CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()
        }

        /// A server that demands a certificate of this CA, shows whose it was, and answers END. After `requests` on one
        /// connection it closes it, having called `closing`.
        fn serve(&self, requests: usize, closing: impl Fn() + Clone + Send + 'static) -> (SocketAddr, Seen) {
            let ca = CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap();
            let mut roots = RootCertStore::empty();
            roots.add(ca).unwrap();
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
            let (certificate, key) = self.pair();
            let config = ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_client_cert_verifier(verifier)
                .with_single_cert(
                    vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                    PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
                )
                .unwrap();
            let config = Arc::new(config);
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let seen = Seen::default();
            let clients = seen.clone();
            thread::spawn(move || {
                for stream in listener.incoming() {
                    let session = ServerConnection::new(config.clone()).unwrap();
                    let mut stream = BufReader::new(StreamOwned::new(session, stream.unwrap()));
                    let (clients, closing) = (clients.clone(), closing.clone());
                    thread::spawn(move || {
                        for _ in 0..requests {
                            let mut line = String::new();
                            if !stream.read_line(&mut line).is_ok_and(|taken| taken > 0) {
                                return;
                            }
                            if let Some(certificates) = stream.get_ref().conn.peer_certificates() {
                                clients.lock().unwrap().push(certificates[0].clone().into_owned());
                            }
                            if stream.get_mut().write_all(b"END\r\n").is_err() {
                                return;
                            }
                        }
                        closing();
                    });
                }
            });
            (address, seen)
        }

        fn options(&self, address: SocketAddr, more: &str) -> Options {
            let folder = self.folder.display();
            let arguments = format!(
                "load --quiet --no-fill --keys 100 --mix get --warmup 0s --duration 300ms --server {address} --tls-ca {folder}/ca.crt{more}"
            );
            Arguments::parse_from(arguments.replace("FOLDER", &folder.to_string()).split(' ')).options
        }
    }

    impl Drop for Authority {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.folder).unwrap();
        }
    }

    type Seen = Arc<Mutex<Vec<CertificateDer<'static>>>>;

    const PAIR: &str = " --tls-cert FOLDER/tls.crt --tls-key FOLDER/tls.key";

    #[test]
    fn requests_go_through_mutual_tls() {
        let authority = Authority::new("mutual");
        let client = authority.write_client();
        let (address, seen) = authority.serve(usize::MAX, || {});
        let measured = run(&authority.options(address, &format!("{PAIR} -c 3 --pipeline 8"))).unwrap();
        assert!(measured.tally.answered() >= 24, "{}", measured.tally.answered());
        assert!(measured.tally.errors.texts.is_empty(), "{:?}", measured.tally.errors);
        assert!(seen.lock().unwrap().iter().all(|certificate| *certificate == client));
    }

    #[test]
    fn without_a_certificate_the_servers_own_words_are_shown() {
        let authority = Authority::new("none");
        let (address, _) = authority.serve(usize::MAX, || {});
        let options = authority.options(address, " -c 1 --connect-timeout 200ms --reconnect never");
        let said = match run(&options) {
            Err(error) => error.to_string(),
            Ok(measured) => format!("{:?}", measured.tally.errors.texts),
        };
        assert!(said.contains("CertificateRequired"), "{said}");
    }

    #[test]
    fn a_server_of_another_authority_is_refused() {
        let (authority, other) = (Authority::new("one"), Authority::new("other"));
        authority.write_client();
        let (address, _) = other.serve(usize::MAX, || {});
        let error = run(&authority.options(address, &format!("{PAIR} -c 1 --connect-timeout 200ms"))).unwrap_err();
        assert!(error.to_string().contains("invalid peer certificate"), "{error}");
    }

    #[test]
    fn a_new_connection_shows_the_certificate_that_was_renewed_meanwhile() {
        let authority = Arc::new(Authority::new("renewed"));
        let first = authority.write_client();
        let renewing = authority.clone();
        let (address, seen) = authority.serve(5, move || drop(renewing.write_client()));
        let measured = run(&authority.options(address, &format!("{PAIR} -c 1"))).unwrap();
        assert!(measured.tally.errors.reconnects >= 1, "{:?}", measured.tally.errors);
        let seen = seen.lock().unwrap();
        assert!(seen[..5].iter().all(|certificate| *certificate == first));
        assert!(seen[5..].iter().all(|certificate| *certificate != first), "{} requests", seen.len());
    }
}

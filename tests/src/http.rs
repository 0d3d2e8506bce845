//! One HTTP request: pods' health, metrics and status.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::failure::{Failure, Outcome};

const REQUEST_SECONDS: u64 = 5;
const LONGEST_ANSWER: u64 = 16 << 20;

/// The body of `http://ADDRESS:PORT/PATH`.
///
/// # Errors
/// Where nobody answers within 5 s, or with another status than 200.
pub async fn get(address: &str, port: u16, path: &str) -> Outcome<String> {
    let url = format!("http://{address}:{port}{path}");
    body(&url, async { ask(TcpStream::connect((address, port)).await?, address, path).await }).await
}

/// Who asks by TLS, and whom it trusts: PEM, as a client's Secret holds it.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The CAs.
    pub authorities: String,
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl Credentials {
    /// How rustls speaks with them.
    ///
    /// # Errors
    /// Where one of them cannot be read.
    pub fn configuration(&self) -> Outcome<ClientConfig> {
        let mut roots = RootCertStore::empty();
        for authority in CertificateDer::pem_slice_iter(self.authorities.as_bytes()) {
            roots.add(authority?)?;
        }
        let chain = CertificateDer::pem_slice_iter(self.certificate.as_bytes()).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        Ok(builder.with_root_certificates(roots).with_client_auth_cert(chain, key)?)
    }
}

/// The body of `https://ADDRESS:PORT/PATH`, from whoever proves to be `host`.
///
/// # Errors
/// As [`get`], and where either side does not trust the other.
pub async fn get_by_tls(
    address: &str,
    port: u16,
    path: &str,
    host: &str,
    credentials: &Credentials,
) -> Outcome<String> {
    let url = format!("https://{address}:{port}{path}");
    let connector = TlsConnector::from(Arc::new(credentials.configuration()?));
    let name = ServerName::try_from(host.to_owned())?;
    let exchange = async {
        let stream = TcpStream::connect((address, port)).await?;
        ask(connector.connect(name, stream).await?, host, path).await
    };
    body(&url, exchange).await
}

async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, host: &str, path: &str) -> Outcome<String> {
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(LONGEST_ANSWER).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

async fn body(url: &str, exchange: impl Future<Output = Outcome<String>>) -> Outcome<String> {
    let answer = timeout(Duration::from_secs(REQUEST_SECONDS), exchange)
        .await
        .map_err(|_| Failure::new(format!("{url} does not answer within {REQUEST_SECONDS} s")))?
        .map_err(|failure| failure.while_doing(url))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split_whitespace().nth(1).unwrap_or_default();
    if status != "200" {
        return Err(Failure::new(format!("{url} answers {}: {body}", head.lines().next().unwrap_or_default())));
    }
    Ok(body.to_owned())
}

/// The value of a metric without labels, in Prometheus' text form.
///
/// # Errors
/// Where the metric is not there.
pub fn metric(text: &str, name: &str) -> Outcome<f64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = lines.next().ok_or_else(|| Failure::new(format!("there is no metric {name} in:\n{text}")))?;
    Ok(value.trim().parse()?)
}

#[cfg(test)]
mod tests {
    use super::metric;

    #[test]
    fn a_metric_is_found_by_its_whole_name() {
        let text = "# HELP a b\na_total 3\na 1\n";
        assert!((metric(text, "a").unwrap() - 1.0).abs() < f64::EPSILON);
        assert!(metric(text, "b").is_err());
    }
}

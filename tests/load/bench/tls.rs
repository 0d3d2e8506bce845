//! Certificates for the rows within TLS: one CA, a pair of the server's and one of the client's.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tests::failure::Outcome;
use tests::secret::{Authority, Leaf, Pair, Secret};

/// How often the server's pair is replaced where that is what is measured. A cache-node looks once a second.
const RENEWED: Duration = Duration::from_millis(500);

/// The folder of the files, in which a cache-node finds its own by the name `node`; it goes with the last one who knows it.
#[derive(Clone)]
pub struct Files(Arc<Issued>);

struct Issued {
    secret: Secret,
    authority: Authority,
    client: Pair,
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Files in {}", self.0.secret.path().display())
    }
}

impl Files {
    /// # Errors
    /// Where they cannot be made or written.
    pub fn write() -> Outcome<Files> {
        let authority = Authority::new("bench")?;
        let client = authority.issue(&Leaf::named(&["DNS:load"]))?;
        let issued = Issued { secret: Secret::mount(&[])?, authority, client };
        issued.renew()?;
        Ok(Files(Arc::new(issued)))
    }

    /// What tells the generator to use them.
    pub fn of_client(&self) -> [String; 6] {
        let file = |name| self.file(name);
        let (ca, certificate, key) = (file("ca.crt"), file("client.crt"), file("client.key"));
        ["--tls-ca", &ca, "--tls-cert", &certificate, "--tls-key", &key].map(str::to_owned)
    }

    /// What tells memcached to use them, and to ask for a client's certificate.
    pub fn of_memcached(&self) -> [String; 3] {
        let file = |name| self.file(name);
        let (chain, key, ca) = (file("node.crt"), file("node.key"), file("ca.crt"));
        let options = format!("ssl_chain_cert={chain},ssl_key={key},ssl_ca_cert={ca},ssl_verify_mode=2");
        ["-Z".to_owned(), "-o".to_owned(), options]
    }

    /// What tells a cache-node to use them.
    pub fn of_node(&self) -> String {
        format!("tls: {{directory: {}, name: node}}\n", self.0.secret.path().display())
    }

    /// Replaces the server's pair again and again, until what is returned is dropped.
    pub fn keep_renewing(&self) -> Renewals {
        let (issued, ended) = (Arc::clone(&self.0), Arc::new(AtomicBool::new(false)));
        let is_over = Arc::clone(&ended);
        let thread = thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                thread::sleep(RENEWED);
                if let Err(failure) = issued.renew() {
                    eprintln!("the server's pair could not be replaced: {failure}");
                }
            }
        });
        Renewals { ended, thread: Some(thread) }
    }

    fn file(&self, name: &str) -> String {
        self.0.secret.path().join(name).display().to_string()
    }
}

impl Issued {
    fn renew(&self) -> Outcome {
        let node = self.authority.node()?;
        self.secret.replace(&[
            ("ca.crt", &self.authority.pem),
            ("node.crt", &node.certificate),
            ("node.key", &node.key),
            ("client.crt", &self.client.certificate),
            ("client.key", &self.client.key),
        ])
    }
}

/// The server's pair is replaced again and again.
pub struct Renewals {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Renewals {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            eprintln!("the thread that replaces the server's pair panicked");
        }
    }
}

//! What one port shows and whom it trusts, at this moment: taken from its folder, and taken anew when that changes.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::Ticketer;
use rustls::pki_types::UnixTime;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::sign::SingleCertAndKey;
use tracing::{info, warn};

use crate::tls::material::{Fingerprint, Material, MaterialError, Source};

/// Tickets that a client gets with each handshake. It uses each once and gets another with it; a pool opens many
/// connections and so collects as many as it needs.
const TICKETS: usize = 1;

/// What may be wrong with files: [`MaterialError::reason`] and [`CredentialsError::reason`].
pub const REASONS: [&str; 10] = [
    "missing",
    "unreadable",
    "malformed",
    "empty",
    "key_mismatch",
    "expired",
    "not_yet_valid",
    "wrong_chain",
    "changing",
    "setup",
];

/// The credentials of one port.
#[derive(Debug)]
pub struct Credentials {
    source: Source,
    /// Whether clients may come back with a ticket instead of their certificate.
    resumption: bool,
    provider: Arc<CryptoProvider>,
    state: RwLock<State>,
}

/// What is served, from one state of the files.
#[derive(Debug)]
pub struct Served {
    /// The files' content.
    pub material: Material,
    /// For new connections.
    pub config: Arc<ServerConfig>,
    /// Counts the states that were taken over.
    pub generation: u64,
    tickets: Option<Arc<dyn ProducesTickets>>,
}

/// What is told of the credentials.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// What is served; none before the files are there.
    pub served: Option<Arc<Served>>,
    /// Times that other files were taken over.
    pub reloads: u64,
    /// Times that files could not be taken over, by reason.
    pub failures: BTreeMap<&'static str, u64>,
    /// What is wrong with the files that are there now.
    pub failure: Option<String>,
    seen: Option<Fingerprint>,
}

/// What came of a look at the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refreshed {
    /// They are what is served.
    Unchanged,
    /// They are served from now on.
    Loaded {
        /// Somebody who was let in before is so no longer.
        shrunk: bool,
    },
}

/// Credentials that cannot be made of files that are in order.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The files are not in order.
    #[error(transparent)]
    Material(#[from] MaterialError),
    /// The library refuses.
    #[error("{directory}: TLS cannot be set up: {reason}")]
    Setup {
        /// The folder.
        directory: String,
        /// What the library says.
        reason: rustls::Error,
    },
}

impl CredentialsError {
    /// A word for metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            CredentialsError::Material(error) => error.reason(),
            CredentialsError::Setup { .. } => "setup",
        }
    }

    /// Whether all that is wrong is that the node's own pair is not there yet.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        matches!(self, CredentialsError::Material(MaterialError::NoPair { .. }))
    }
}

impl Credentials {
    /// The credentials in this folder; nothing is read yet.
    #[must_use]
    pub fn new(source: Source, resumption: bool) -> Credentials {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Credentials { source, resumption, provider, state: RwLock::default() }
    }

    /// What is served; none before the files are there.
    #[must_use]
    pub fn served(&self) -> Option<Arc<Served>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).served.clone()
    }

    /// What is told of them.
    #[must_use]
    pub fn state(&self) -> State {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks at the files, and takes them over if they are others than those that are served and in order. What is wrong
    /// is counted and logged once for each state of the files, and what is served stays.
    ///
    /// # Errors
    /// Why files that are there cannot be used.
    pub fn refresh(&self) -> Result<Refreshed, CredentialsError> {
        let state = self.state();
        let found = self.source.fingerprint();
        let is_known = state.seen.as_ref() == Some(&found);
        // What is wrong is looked at again all the same: a certificate becomes valid by itself.
        if is_known && state.failure.is_none() {
            return Ok(Refreshed::Unchanged);
        }
        let loaded = self.load(&found, state.served.as_deref());
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        match loaded {
            Ok((served, shrunk)) => {
                let is_first = state.served.is_none();
                info!(
                    directory = %self.source.directory.display(),
                    serial = served.material.facts.serial,
                    bundle = served.material.trust.bundle(),
                    "{}", if is_first { "TLS: the certificate is loaded" } else { "TLS: other files are served" }
                );
                state.reloads += u64::from(!is_first);
                state.served = Some(Arc::new(served));
                state.failure = None;
                state.seen = Some(found);
                Ok(Refreshed::Loaded { shrunk })
            }
            Err(error) => {
                if !is_known {
                    *state.failures.entry(error.reason()).or_default() += 1;
                    let kept = if state.served.is_some() { "; what was served before stays" } else { "" };
                    warn!("TLS: {error}{kept}");
                }
                state.failure = Some(error.to_string());
                state.seen = Some(found);
                Err(error)
            }
        }
    }

    fn load(&self, found: &Fingerprint, before: Option<&Served>) -> Result<(Served, bool), CredentialsError> {
        let material = self.source.load(found, UnixTime::now(), &self.provider)?;
        let shrunk = before.is_some_and(|before| !before.material.trust.is_within(&material.trust));
        let setup = |reason| CredentialsError::Setup { directory: self.source.directory.display().to_string(), reason };
        // A ticket stands for a certificate that was verified once: whoever is let in no longer must not come back with
        // one, so the keys of all tickets go. Otherwise they stay, and clients resume across a renewal; the library has a new
        // key every six hours, and knows the one before for as long.
        let tickets = match before.and_then(|before| before.tickets.clone()).filter(|_| !shrunk) {
            None if self.resumption => Some(Ticketer::new().map_err(setup)?),
            kept => kept,
        };
        let verifier = Arc::clone(&material.trust) as Arc<dyn ClientCertVerifier>;
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(setup)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&material.pair))));
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        if let Some(tickets) = &tickets {
            config.ticketer = Arc::clone(tickets);
            config.send_tls13_tickets = TICKETS;
        }
        let generation = before.map_or(0, |before| before.generation + 1);
        Ok((Served { material, config: Arc::new(config), generation, tickets }, shrunk))
    }
}

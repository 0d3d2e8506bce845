//! Who is there: each client's certificate that was seen, and the sessions that stand on it.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{CertificateError, Error};

use crate::clock::Instant;
use crate::tls::certificate::Facts;
use crate::tls::credentials::Credentials;
use crate::tls::trust::Trust;

/// Certificates that are remembered. Beyond that the one goes that was not seen for longest, unless sessions stand on all of
/// them: then there are as many as there are connections.
const MOST_PEERS: usize = 2048;
/// Sessions of clients that showed no certificate, where none is asked for.
const ANONYMOUS: &str = "anonymous";

/// A client's certificate, whoever and how many come with it.
#[derive(Debug)]
pub struct Peer {
    /// The name by which it is let in.
    name: String,
    serial: String,
    issuer: String,
    not_after: u64,
    chain: Vec<CertificateDer<'static>>,
    /// Whether it is let in by what is trusted now.
    admitted: AtomicBool,
    sessions: AtomicU64,
    last_seen: AtomicU64,
}

/// A session's place in the count of those who are there; it ends with it.
#[derive(Debug)]
pub struct Presence(Arc<Peer>);

/// Everyone who was seen.
#[derive(Debug)]
pub struct Identities {
    peers: Mutex<HashMap<Vec<u8>, Arc<Peer>>>,
    anonymous: Arc<Peer>,
    /// Counts the times that somebody may no longer be let in, so that workers look at their sessions only then.
    epoch: AtomicU64,
}

impl Presence {
    /// The client's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// When the client's certificate will have expired, if it is `wall` by the wall clock `now`. A session lasts no longer than
    /// the certificate that it stands on: whoever must show one to come in is not to stay for having come earlier.
    #[must_use]
    pub fn end(&self, now: Instant, wall: UnixTime) -> Instant {
        let left = self.0.not_after.saturating_add(1).saturating_sub(wall.as_secs());
        now.after(left.saturating_mul(1_000_000))
    }

    /// Whether the session may stay.
    #[must_use]
    pub fn is_admitted(&self) -> bool {
        self.0.admitted.load(Ordering::Acquire)
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.last_seen.store(UnixTime::now().as_secs(), Ordering::Relaxed);
        self.0.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for Identities {
    fn default() -> Identities {
        let anonymous = Peer {
            name: ANONYMOUS.to_owned(),
            serial: String::new(),
            issuer: String::new(),
            not_after: u64::MAX,
            chain: Vec::new(),
            admitted: AtomicBool::new(true),
            sessions: AtomicU64::new(0),
            last_seen: AtomicU64::new(0),
        };
        Identities { peers: Mutex::default(), anonymous: Arc::new(anonymous), epoch: AtomicU64::new(0) }
    }
}

impl Identities {
    /// Lets a client in whose handshake is done, by what is trusted at this moment. Its certificate was verified in the
    /// handshake by what was trusted when that began, or, where it came with a ticket, when it got that.
    ///
    /// # Errors
    /// Why it is not let in.
    pub fn admit(
        &self,
        chain: Option<&[CertificateDer<'static>]>,
        credentials: &Credentials,
        now: UnixTime,
    ) -> Result<Presence, Error> {
        let Some((chain, leaf)) = chain.and_then(|chain| Some((chain, chain.first()?))) else {
            return Ok(Identities::enter(&self.anonymous, now));
        };
        // While this is held, no shrinking of trust can pass between the look at it and the client's being remembered.
        let mut peers = self.lock();
        let served = credentials.served().ok_or(Error::HandshakeNotComplete)?;
        let trust = &served.material.trust;
        if let Some(peer) = peers.get(leaf.as_ref()) {
            if now.as_secs() > peer.not_after {
                return Err(Error::InvalidCertificate(CertificateError::Expired));
            }
            if !peer.admitted.load(Ordering::Acquire) {
                trust.admits(chain, now)?;
                peer.admitted.store(true, Ordering::Release);
            }
            return Ok(Identities::enter(peer, now));
        }
        trust.admits(chain, now)?;
        let peer = Arc::new(Peer::new(chain, leaf, trust, now)?);
        if peers.len() >= MOST_PEERS {
            forget_one(&mut peers);
        }
        peers.insert(leaf.as_ref().to_vec(), Arc::clone(&peer));
        Ok(Identities::enter(&peer, now))
    }

    /// To be called after trust has shrunk: finds out who is let in no longer.
    pub fn revise(&self, trust: &Trust, now: UnixTime) {
        let peers = self.lock();
        for peer in peers.values() {
            let admitted = trust.admits(&peer.chain, now).is_ok();
            peer.admitted.store(admitted, Ordering::Release);
        }
        drop(peers);
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// Changes when sessions must be looked at.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Sessions by name; clients without a certificate are `anonymous`.
    #[must_use]
    pub fn sessions(&self) -> BTreeMap<String, u64> {
        let mut sessions = BTreeMap::new();
        let peers = self.lock();
        for peer in peers.values().chain([&self.anonymous]) {
            *sessions.entry(peer.name.clone()).or_default() += peer.sessions.load(Ordering::Relaxed);
        }
        sessions
    }

    /// Everyone who came with a certificate.
    #[must_use]
    pub fn report(&self, now: UnixTime) -> Vec<config::ClientIdentity> {
        let mut names: BTreeMap<&str, Vec<config::ClientSerial>> = BTreeMap::new();
        let peers = self.lock();
        for peer in peers.values().take(MOST_PEERS) {
            let sessions = peer.sessions.load(Ordering::Relaxed);
            let last_seen = if sessions > 0 { now.as_secs() } else { peer.last_seen.load(Ordering::Relaxed) };
            let (serial, issuer) = (peer.serial.clone(), peer.issuer.clone());
            names.entry(&peer.name).or_default().push(config::ClientSerial { serial, issuer, sessions, last_seen });
        }
        let sorted = |(name, mut serials): (&str, Vec<config::ClientSerial>)| {
            serials.sort_by(|one, other| one.serial.cmp(&other.serial));
            config::ClientIdentity { name: name.to_owned(), serials }
        };
        names.into_iter().map(sorted).collect()
    }

    fn enter(peer: &Arc<Peer>, now: UnixTime) -> Presence {
        peer.sessions.fetch_add(1, Ordering::Relaxed);
        peer.last_seen.store(now.as_secs(), Ordering::Relaxed);
        Presence(Arc::clone(peer))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Arc<Peer>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Peer {
    fn new(
        chain: &[CertificateDer<'static>],
        leaf: &CertificateDer<'static>,
        trust: &Trust,
        now: UnixTime,
    ) -> Result<Peer, Error> {
        let facts = Facts::of(leaf).map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let refused = Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
        Ok(Peer {
            name: trust.name_of(&facts).ok_or(refused)?,
            issuer: trust.vouches_for_client(chain, now).unwrap_or_default(),
            serial: facts.serial,
            not_after: facts.not_after,
            chain: chain.to_vec(),
            admitted: AtomicBool::new(true),
            sessions: AtomicU64::new(0),
            last_seen: AtomicU64::new(0),
        })
    }
}

fn forget_one(peers: &mut HashMap<Vec<u8>, Arc<Peer>>) {
    let gone = peers.iter().filter(|(_, peer)| peer.sessions.load(Ordering::Relaxed) == 0);
    let oldest = gone.min_by_key(|(_, peer)| peer.last_seen.load(Ordering::Relaxed)).map(|(leaf, _)| leaf.clone());
    if let Some(leaf) = oldest {
        peers.remove(&leaf);
    }
}

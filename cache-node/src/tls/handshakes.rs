//! Handshakes under way: many at once on the listener's thread, each in its own time, so that a client which stalls holds
//! up nobody and costs the workers nothing.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use rustls::pki_types::UnixTime;
use slab::Slab;
use tracing::{debug, info};

use crate::clock::Instant;
use crate::metrics::Metrics;
use crate::tls::Tls;
use crate::tls::refusal::Refusal;
use crate::tls::stream::{Admission, HandshakeError, TlsStream};

/// Tokens below are the listener's own.
const FIRST_TOKEN: usize = 16;
/// How often handshakes that take too long are looked for.
pub const SWEEP: Duration = Duration::from_millis(200);
/// Refused handshakes that are logged in one sweep; the metric counts all.
const MOST_LOGGED: u32 = 5;

/// The handshakes of one listener.
pub struct Handshakes {
    tls: Arc<Tls>,
    open: Slab<Handshake>,
    most: usize,
    timeout_us: u64,
    swept: Instant,
    logged: u32,
    /// How many connections there were, from which each gets its own age.
    begun: u64,
}

struct Handshake {
    stream: Box<TlsStream>,
    began: Instant,
}

impl Handshakes {
    /// Handshakes with what `tls` serves at their time.
    #[must_use]
    pub fn new(tls: Arc<Tls>) -> Handshakes {
        let most = tls.settings.max_handshakes as usize;
        let timeout_us = tls.settings.handshake_timeout.0.as_micros() as u64;
        Handshakes { tls, open: Slab::new(), most, timeout_us, swept: Instant::default(), logged: 0, begun: 0 }
    }

    /// How many are under way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether none is under way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Whether no more may begin.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.open.len() >= self.most
    }

    /// Begins a handshake.
    pub fn begin(&mut self, stream: TcpStream, registry: &Registry, metrics: &Metrics) {
        let now = metrics.clock.now();
        if let Err(error) = self.try_begin(stream, registry, metrics, now) {
            self.refuse(&error, now);
        }
    }

    /// Goes on with the handshake of which the kernel reports something; returns the stream once it is ready to be used.
    pub fn advance(&mut self, token: Token, registry: &Registry, now: Instant) -> Option<Box<TlsStream>> {
        let slot = token.0.checked_sub(FIRST_TOKEN)?;
        match self.open.get_mut(slot)?.stream.handshake() {
            Ok(false) => None,
            Ok(true) => {
                let Handshake { stream, began } = self.remove(slot)?;
                self.finish(stream, registry, now, began)
            }
            Err(error) => {
                self.remove(slot);
                self.refuse(&error, now);
                None
            }
        }
    }

    /// Ends those that take too long.
    pub fn sweep(&mut self, now: Instant) {
        if now.since(self.swept) < SWEEP.as_micros() as u64 {
            return;
        }
        self.swept = now;
        self.logged = 0;
        let late =
            |(slot, handshake): (usize, &Handshake)| (now.since(handshake.began) > self.timeout_us).then_some(slot);
        let late: Vec<usize> = self.open.iter().filter_map(late).collect();
        for slot in late {
            self.remove(slot);
            self.refuse(&HandshakeError::Connection(ErrorKind::TimedOut.into()), now);
        }
    }

    fn try_begin(
        &mut self,
        stream: TcpStream,
        registry: &Registry,
        metrics: &Metrics,
        now: Instant,
    ) -> Result<(), HandshakeError> {
        let served = self.tls.credentials.served().ok_or_else(|| io::Error::from(ErrorKind::NotConnected))?;
        stream.set_nodelay(true)?;
        let stream = TlsStream::new(stream, Arc::clone(&served.config), Arc::clone(&metrics.budget))?;
        let entry = self.open.vacant_entry();
        let token = Token(FIRST_TOKEN + entry.key());
        let handshake = entry.insert(Handshake { stream: Box::new(stream), began: now });
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = registry.register(handshake.stream.socket(), token, interest) {
            self.open.remove(token.0 - FIRST_TOKEN);
            return Err(error.into());
        }
        self.tls.handshakes.open.set(self.open.len() as u64);
        Ok(())
    }

    fn finish(
        &mut self,
        mut stream: Box<TlsStream>,
        registry: &Registry,
        now: Instant,
        began: Instant,
    ) -> Option<Box<TlsStream>> {
        let admitted = self.tls.identities.admit(stream.chain(), &self.tls.credentials, UnixTime::now());
        match admitted.map_err(HandshakeError::Tls).and_then(|presence| {
            registry.deregister(stream.socket())?;
            Ok(presence)
        }) {
            Ok(presence) => {
                self.begun += 1;
                let (aged, expired) = (self.tls.end_of_age(now, self.begun), presence.end(now, UnixTime::now()));
                stream.admit(Admission { presence, aged, expired });
                let counters = &self.tls.handshakes;
                if stream.is_resumed() {
                    counters.resumed.add(1)
                } else {
                    counters.full.add(1)
                }
                counters.latencies.record(now.since(began), 1);
                Some(stream)
            }
            Err(error) => {
                stream.close();
                self.refuse(&error, now);
                None
            }
        }
    }

    fn remove(&mut self, slot: usize) -> Option<Handshake> {
        let removed = self.open.try_remove(slot);
        self.tls.handshakes.open.set(self.open.len() as u64);
        removed
    }

    fn refuse(&mut self, error: &HandshakeError, now: Instant) {
        self.tls.handshakes.refusals.count(Refusal::of(error));
        self.logged += 1;
        // Clients that come and go without a word, as probes do, are no news.
        if self.logged > MOST_LOGGED || matches!(error, HandshakeError::Connection(_)) {
            debug!(at = now.micros(), "a TLS handshake failed: {error}");
        } else {
            info!("a TLS handshake failed: {error}");
        }
    }
}

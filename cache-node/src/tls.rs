//! TLS: what the node shows, whom it lets in, and who is there.
//!
//! The files of the mounted secret are looked at every second and taken over together once all of them are in order
//! ([`material`]); new connections use what is served at their moment ([`credentials`]), which the listener shakes hands
//! with ([`handshakes`]). Where the new files let in fewer, those who are no longer let in are found ([`identities`]) and
//! their sessions closed by the workers.

pub mod certificate;
pub mod credentials;
pub mod handshakes;
pub mod identities;
pub mod material;
pub mod refusal;
pub mod stream;
pub mod trust;

use std::sync::Arc;
use std::time::Duration;
use std::{io, thread};

use config::TlsMode;
use rustls::pki_types::UnixTime;

use crate::clock::Instant;
use crate::latency::Latencies;
use crate::metrics::Counter;
use crate::tls::credentials::{Credentials, CredentialsError, Refreshed};
use crate::tls::identities::Identities;
use crate::tls::material::Source;
use crate::tls::refusal::Refusals;

/// How often the files are looked at.
pub const LOOK: Duration = Duration::from_secs(1);
/// By how much the ages differ at which connections are closed: one part in so many more or less.
const SPREAD: u64 = 10;

/// TLS on the data port.
#[derive(Debug)]
pub struct Tls {
    /// As configured.
    pub settings: config::Tls,
    /// What is served.
    pub credentials: Credentials,
    /// Who is there.
    pub identities: Identities,
    /// What became of handshakes.
    pub handshakes: Counters,
}

/// The figures of handshakes; written by the listener.
#[derive(Debug, Default)]
pub struct Counters {
    /// Under way now.
    pub open: Counter,
    /// Done with certificates.
    pub full: Counter,
    /// Done with a ticket.
    pub resumed: Counter,
    /// Failed.
    pub refusals: Refusals,
    /// From the connection to the end of the handshake.
    pub latencies: Latencies,
}

impl Tls {
    /// TLS as configured; none where it is not. Nothing is read yet.
    #[must_use]
    pub fn of(config: &config::Config) -> Option<Arc<Tls>> {
        let settings = config.tls.clone().filter(|tls| tls.mode != TlsMode::Disabled)?;
        let name = settings.name.clone().unwrap_or_else(host_name);
        let source = Source { directory: settings.directory.clone(), name, mode: settings.mode };
        let (identities, handshakes) = (Identities::default(), Counters::default());
        Some(Arc::new(Tls { settings, credentials: Credentials::new(source, true), identities, handshakes }))
    }

    /// Looks at the files; see [`Credentials::refresh`].
    ///
    /// # Errors
    /// As there.
    pub fn refresh(&self) -> Result<Refreshed, CredentialsError> {
        let refreshed = self.credentials.refresh()?;
        if refreshed == (Refreshed::Loaded { shrunk: true })
            && let Some(served) = self.credentials.served()
        {
            self.identities.revise(&served.material.trust, UnixTime::now());
        }
        Ok(refreshed)
    }

    /// When the connection of this number, which begins now, is old enough to be closed.
    #[must_use]
    pub fn end_of_age(&self, now: Instant, number: u64) -> Option<Instant> {
        let age = self.settings.max_connection_age.0.as_micros() as u64;
        (age > 0).then(|| now.after(spread(age, number)))
    }

    /// What `/status` says of it; none before the files are there.
    #[must_use]
    pub fn status(&self) -> Option<config::TlsStatus> {
        let state = self.credentials.state();
        let served = state.served?;
        let (facts, trust) = (&served.material.facts, &served.material.trust);
        Some(config::TlsStatus {
            mode: self.settings.mode,
            certificate: config::ServedCertificate {
                serial: facts.serial.clone(),
                not_after: facts.not_after,
                issuer: served.material.issuer.clone(),
            },
            bundle: trust.bundle(),
            cas: trust.serials(),
            reloads: state.reloads,
            failures: state.failures.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect(),
            last_failure: state.failure,
            identities: self.identities.report(UnixTime::now()),
        })
    }
}

/// The credentials of the admin port; none where it speaks in the clear. A scraper keeps its connection or shakes hands
/// anew, so there are no tickets that would have to be revoked.
#[must_use]
pub fn admin(config: &config::Config) -> Option<Arc<Credentials>> {
    let settings = config.admin_tls.as_ref()?;
    let name = settings.name.clone().unwrap_or_else(host_name);
    let source = Source { directory: settings.directory.clone(), name, mode: TlsMode::Strict };
    Some(Arc::new(Credentials::new(source, false)))
}

/// Looks at the files of both ports for as long as the process lives. What is wrong with them is counted and logged there.
///
/// # Errors
/// What the system says.
pub fn watch(data: Option<Arc<Tls>>, admin: Option<Arc<Credentials>>) -> io::Result<()> {
    if data.is_none() && admin.is_none() {
        return Ok(());
    }
    let body = move || {
        loop {
            thread::sleep(LOOK);
            if let Some(tls) = &data {
                tls.refresh().ok();
            }
            if let Some(credentials) = &admin {
                credentials.refresh().ok();
            }
        }
    };
    thread::Builder::new().name("reload".to_owned()).spawn(body)?;
    Ok(())
}

/// An age of its own for each connection, a tenth more or less: those that came together do not all come back together.
fn spread(age: u64, number: u64) -> u64 {
    // Multiples of the golden ratio are spread evenly, however many there are.
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let part = number.wrapping_mul(GOLDEN) >> 32;
    let width = age / SPREAD * 2;
    age - age / SPREAD + ((u128::from(width) * u128::from(part)) >> 32) as u64
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn ages_are_spread_by_a_tenth() {
        let ages: Vec<u64> = (0..1000).map(|number| spread(1_000_000, number)).collect();
        assert!(ages.iter().all(|age| (900_000..=1_100_000).contains(age)));
        let (least, most) = (ages.iter().min().unwrap(), ages.iter().max().unwrap());
        assert!(*least < 901_000 && *most > 1_099_000, "{least} to {most}");
        assert_eq!(spread(0, 7), 0);
    }
}

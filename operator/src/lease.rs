//! One operator leads: election by a Lease.
//!
//! Clocks of machines differ, so a lease is held to be expired only when it has not changed for its duration *by our own
//! monotonic clock*. A leader that could not renew in time stops being one before others may take over.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

/// How long others wait since the last renewal that they saw.
pub const DURATION: Duration = Duration::from_secs(15);
/// How long a leader goes on without a renewal: less than the above by what a write may take.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
const RENEW_EVERY: Duration = Duration::from_secs(3);
const RETRY_EVERY: Duration = Duration::from_secs(2);

/// A candidate.
pub struct Elector {
    api: Api<Lease>,
    name: String,
    identity: String,
    /// The last state of somebody else's lease, and when it was first seen.
    seen: Option<(LeaseSpec, Instant)>,
}

/// A lease that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    #[error("Lease {name}: {source}")]
    Api {
        name: String,
        #[source]
        source: kube::Error,
    },
    #[error("Lease {name}: no answer within {patience:?}")]
    Timeout { name: String, patience: Duration },
}

impl Elector {
    /// A candidate that calls itself `identity`.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Elector {
        Elector {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity: identity.to_owned(),
            seen: None,
        }
    }

    /// Returns once this candidate leads. Errors are logged and tried again: a candidate has nothing better to do.
    pub async fn acquire(&mut self) {
        loop {
            match self.try_hold(RENEW_DEADLINE).await {
                Ok(true) => return info!(lease = self.name, identity = self.identity, "leading"),
                Ok(false) => {}
                Err(error) => warn!(%error, "cannot take part in the election; trying again"),
            }
            sleep(RETRY_EVERY).await;
        }
    }

    /// Renews until that fails for too long or somebody else holds the lease, and then returns: at the latest when
    /// [`RENEW_DEADLINE`] has passed since the last renewal, however its attempts fail.
    pub async fn hold(&mut self) {
        let mut renewed = Instant::now();
        loop {
            sleep(RENEW_EVERY.min(RENEW_DEADLINE.saturating_sub(renewed.elapsed()))).await;
            let patience = RENEW_DEADLINE.saturating_sub(renewed.elapsed());
            if patience.is_zero() {
                return warn!(lease = self.name, "not renewed within {RENEW_DEADLINE:?}: stepping down");
            }
            // What counts is when the renewal was begun: that is the time that it writes.
            let begun = Instant::now();
            match self.try_hold(patience).await {
                Ok(true) => renewed = begun,
                Ok(false) => return warn!(lease = self.name, "another operator holds the lease"),
                Err(error) => warn!(%error, "cannot renew the lease"),
            }
        }
    }

    /// Gives the lease back, so that the next leader need not wait for it to expire.
    ///
    /// # Errors
    /// [`LeaseError`]; the lease then expires by itself.
    pub async fn release(&mut self) -> Result<(), LeaseError> {
        let Some(mut lease) = self.read().await? else { return Ok(()) };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() == Some(&self.identity) {
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
            self.replace(&lease).await?;
        }
        Ok(())
    }

    /// Takes or renews the lease where that is allowed; says whether it is held now.
    async fn try_hold(&mut self, patience: Duration) -> Result<bool, LeaseError> {
        match timeout(patience, self.take_or_renew()).await {
            Ok(result) => result,
            Err(_) => Err(LeaseError::Timeout { name: self.name.clone(), patience }),
        }
    }

    async fn take_or_renew(&mut self) -> Result<bool, LeaseError> {
        let Some(mut lease) = self.read().await? else { return self.create().await };
        let spec = lease.spec.clone().unwrap_or_default();
        let ours = spec.holder_identity.as_deref() == Some(&self.identity);
        if !ours && !self.is_free(&spec) {
            return Ok(false);
        }
        lease.spec = Some(self.spec(&spec, ours));
        // With the resource version that was read: of two candidates only one gets through.
        match self.replace(&lease).await {
            Ok(()) => Ok(true),
            Err(LeaseError::Api { source: kube::Error::Api(status), .. }) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn is_free(&mut self, spec: &LeaseSpec) -> bool {
        if spec.holder_identity.as_deref().unwrap_or_default().is_empty() {
            return true;
        }
        let seconds = u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0);
        match &self.seen {
            Some((seen, since)) if seen == spec => since.elapsed() > Duration::from_secs(seconds).max(RENEW_DEADLINE),
            _ => {
                self.seen = Some((spec.clone(), Instant::now()));
                false
            }
        }
    }

    fn spec(&self, before: &LeaseSpec, ours: bool) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let transitions = before.lease_transitions.unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: if ours { before.acquire_time.clone() } else { Some(now.clone()) },
            renew_time: Some(now),
            lease_transitions: Some(if ours { transitions } else { transitions.saturating_add(1) }),
            ..LeaseSpec::default()
        }
    }

    async fn create(&self) -> Result<bool, LeaseError> {
        let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
        let lease = Lease { metadata, spec: Some(self.spec(&LeaseSpec::default(), false)) };
        match self.api.create(&PostParams::default(), &lease).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(source) => Err(self.error(source)),
        }
    }

    async fn read(&self) -> Result<Option<Lease>, LeaseError> {
        self.api.get_opt(&self.name).await.map_err(|source| self.error(source))
    }

    async fn replace(&self, lease: &Lease) -> Result<(), LeaseError> {
        let replaced = self.api.replace(&self.name, &PostParams::default(), lease).await;
        replaced.map(|_| ()).map_err(|source| self.error(source))
    }

    fn error(&self, source: kube::Error) -> LeaseError {
        LeaseError::Api { name: self.name.clone(), source }
    }
}

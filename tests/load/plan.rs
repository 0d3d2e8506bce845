//! What a run is to do, decided before it begins.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::keyspace::Keyspace;
use crate::reply::{Expected, Validation};
use crate::request::Encoder;
use crate::servers::Servers;
use crate::transport::IdentityFiles;
use crate::workload::Script;

/// What all threads have in common.
#[derive(Debug)]
pub struct Shared {
    pub keyspace: Keyspace,
    pub servers: Arc<Servers>,
    /// One a server.
    pub scripts: Vec<Script>,
    pub settings: Settings,
    /// What nanoseconds are counted from.
    pub start: Instant,
    pub stop: Arc<AtomicBool>,
    pub progress: Progress,
}

impl Shared {
    pub fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// What replies of this server are checked against.
    pub fn expected(&self, lane: usize) -> Expected<'_> {
        Expected {
            keyspace: &self.keyspace,
            ids: &self.scripts[lane].ids,
            protocol: self.settings.encoder.protocol,
            floor_reply: self.settings.floor_reply,
            validation: self.settings.validation,
        }
    }
}

/// How requests are sent.
#[derive(Clone, Debug)]
pub struct Settings {
    pub encoder: Encoder,
    pub validation: Validation,
    pub floor_reply: usize,
    /// Connections of all threads to each server.
    pub connections: usize,
    pub threads: usize,
    /// Requests on their way at once, on each connection.
    pub pipeline: usize,
    /// Requests a second to all servers; as fast as they answer if none.
    pub rate: Option<f64>,
    pub poisson: bool,
    pub multiget: usize,
    /// A key that was missed by a get is stored.
    pub refill: bool,
    pub reconnect: Reconnect,
    /// Of one reply.
    pub timeout: Duration,
    pub connect_timeout: Duration,
    pub tls: Option<IdentityFiles>,
}

/// What follows on a lost connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Reconnect {
    /// The run goes on without it
    Never,
    /// It is made again at once, and after failures with a growing delay of 10 ms to 1 s
    Backoff,
    /// As backoff, and what a connection that had answered before leaves without a reply is asked once more, as by a
    /// client that knows that servers close connections between requests
    Resend,
}

/// What a thread shows of itself while it runs.
#[derive(Debug, Default)]
pub struct Progress {
    pub replies: AtomicU64,
    pub failures: AtomicU64,
}

/// The time in which requests are counted, in nanoseconds since the start.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Requests are sent from here on.
    pub begin: u64,
    /// They are counted from here on.
    pub from: u64,
    pub until: u64,
}

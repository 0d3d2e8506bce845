//! What a pod did between two of its reports.

use std::collections::BTreeMap;

use config::{Latencies, Status};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What one pod did in a stretch of time. Windows of one pod, and of several, add up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Window {
    /// How many stretches it was put together from.
    pub parts: u32,
    pub requests: u64,
    /// Requests that the server failed, and handshakes that failed.
    pub errors: u64,
    pub hits: u64,
    pub misses: u64,
    /// Bytes that the process takes with its cache full, added up over the parts: so a cold one can be compared with a warm one.
    pub anonymous: u64,
    pub restarts: u32,
    pub latencies: Latencies,
}

/// What is known of one pod in one stretch.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    pub revision: String,
    /// The digest of the image that really runs.
    pub image: String,
    pub uid: String,
    /// What it did, or why that is not known.
    pub window: Result<Window, String>,
}

/// One stretch of time, by pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Tick {
    pub from: Timestamp,
    pub to: Timestamp,
    pub cells: BTreeMap<String, Cell>,
}

impl Window {
    /// What a process did between two reports; `None` where it is not the same process.
    #[must_use]
    pub fn between(earlier: &Status, later: &Status) -> Option<Window> {
        let (was, is) = (&earlier.requests, &later.requests);
        if later.uptime_seconds < earlier.uptime_seconds || is.total < was.total {
            return None;
        }
        let (before, mut latencies) = (all(earlier), all(later));
        latencies = latencies.since(&before);
        Some(Window {
            parts: 1,
            requests: is.total - was.total,
            errors: errors(later).saturating_sub(errors(earlier)),
            hits: is.hits.saturating_sub(was.hits),
            misses: is.misses.saturating_sub(was.misses),
            anonymous: later.memory.anonymous + later.memory.cache_limit,
            restarts: 0,
            latencies,
        })
    }

    pub fn add(&mut self, other: &Window) {
        let Window { parts, requests, errors, hits, misses, anonymous, restarts, latencies } = other;
        self.parts += parts;
        self.requests += requests;
        self.errors += errors;
        self.hits += hits;
        self.misses += misses;
        self.anonymous += anonymous;
        self.restarts += restarts;
        self.latencies.merge(latencies);
    }

    #[must_use]
    pub fn sum<'a>(windows: impl IntoIterator<Item = &'a Window>) -> Window {
        windows.into_iter().fold(Window::default(), |mut sum, window| {
            sum.add(window);
            sum
        })
    }
}

fn errors(status: &Status) -> u64 {
    status.requests.server_errors + status.connections.failed_handshakes
}

/// The latencies of all commands together.
fn all(status: &Status) -> Latencies {
    status.latencies.values().fold(Latencies::default(), |mut sum, latencies| {
        sum.merge(latencies);
        sum
    })
}

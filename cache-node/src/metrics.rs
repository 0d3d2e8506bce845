//! Every figure that the node keeps, declared once.
//!
//! Each thread that serves requests has its own [`Counters`] with itself as the only writer, so counting costs no
//! locked instruction; they are summed up when someone asks.

use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};

use crate::buffers::Budget;
use crate::clock::{Clock, Instant};
use crate::connections::Connections;
use crate::control::Control;
use crate::discovery::Discovery;
use crate::kind::{KINDS, Kind, Tally};
use crate::latency::{Histogram, Latencies};
use crate::tls::credentials::Credentials;
use crate::tls::{self, Tls};
use crate::volume::Volume;
use crate::watch::Watch;

/// A figure with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; to be called by the one writer alone.
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    /// Sets; to be called by the one writer alone.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The figure now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The figures of one thread.
#[derive(Debug, Default)]
pub struct Counters {
    kinds: [KindCounters; KINDS.len()],
    /// Requests answered with `SERVER_ERROR`.
    pub server_errors: Counter,
    /// Bytes received from clients.
    pub bytes_in: Counter,
    /// Bytes sent to clients.
    pub bytes_out: Counter,
    /// Sessions that were closed for being idle.
    pub idle_closed: Counter,
    /// Sessions that were closed for holding buffers without progress while others waited.
    pub stalled_closed: Counter,
    /// Sessions that were closed for their age.
    pub aged_closed: Counter,
    /// Sessions that were closed because the client's certificate had expired.
    pub expired_closed: Counter,
    /// Sessions that were closed because their certificate was no longer trusted.
    pub untrusted_closed: Counter,
    /// Sessions that were closed because the client spoke TLS and the port does not.
    pub tls_closed: Counter,
    /// Times that a session had to wait for buffer memory.
    pub memory_waits: Counter,
    /// Commands that took longer than the configuration calls slow.
    pub slow: Counter,
    /// How much of its time a worker was busy lately, in thousandths; only where there is more than one.
    pub busy: Counter,
    /// Sessions taken over from another worker.
    pub moved_in: Counter,
    /// Sessions handed over to another worker.
    pub moved_out: Counter,
    /// Poll rounds.
    pub rounds: Counter,
    /// When the thread last finished a poll round, in microseconds of the node's clock.
    pub heartbeat: Counter,
    /// Sessions of this thread now.
    pub sessions: Counter,
    /// Sessions of this thread that have ended.
    pub closed: Counter,
}

#[derive(Debug, Default)]
struct KindCounters {
    requests: Counter,
    hits: Counter,
    misses: Counter,
    conflicts: Counter,
    value_bytes: Counter,
    /// From the arrival of a request's bytes until its reply was handed to the kernel.
    latencies: Latencies,
}

impl Counters {
    /// Counts a request.
    pub fn request(&self, kind: Kind) {
        self.kinds[kind as usize].requests.add(1);
    }

    /// Counts keys that were there.
    pub fn hit(&self, kind: Kind) {
        self.kinds[kind as usize].hits.add(1);
    }

    /// Counts keys that were not there.
    pub fn miss(&self, kind: Kind) {
        self.kinds[kind as usize].misses.add(1);
    }

    /// Counts keys that were there but with another CAS.
    pub fn conflict(&self, kind: Kind) {
        self.kinds[kind as usize].conflicts.add(1);
    }

    /// Counts bytes of values that were sent or stored.
    pub fn value_bytes(&self, kind: Kind, bytes: usize) {
        self.kinds[kind as usize].value_bytes.add(bytes as u64);
    }

    /// Counts requests that took `us` microseconds.
    pub fn took(&self, us: u64, requests: &mut Tally) {
        for (kind, count) in requests.take() {
            self.kinds[kind as usize].latencies.record(us, u64::from(count));
        }
    }
}

/// Figures of one kind of request.
#[derive(Clone, Copy, Debug, Default)]
pub struct KindTotals {
    /// Requests.
    pub requests: u64,
    /// Keys that were there.
    pub hits: u64,
    /// Keys that were not there.
    pub misses: u64,
    /// Keys that were there with another CAS.
    pub conflicts: u64,
    /// Bytes of values that were sent or stored.
    pub value_bytes: u64,
}

/// The sum over all threads.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    kinds: [KindTotals; KINDS.len()],
    /// As [`Counters::server_errors`].
    pub server_errors: u64,
    /// As [`Counters::bytes_in`].
    pub bytes_in: u64,
    /// As [`Counters::bytes_out`].
    pub bytes_out: u64,
    /// As [`Counters::idle_closed`].
    pub idle_closed: u64,
    /// As [`Counters::stalled_closed`].
    pub stalled_closed: u64,
    /// As [`Counters::aged_closed`].
    pub aged_closed: u64,
    /// As [`Counters::expired_closed`].
    pub expired_closed: u64,
    /// As [`Counters::untrusted_closed`].
    pub untrusted_closed: u64,
    /// As [`Counters::tls_closed`].
    pub tls_closed: u64,
    /// As [`Counters::memory_waits`].
    pub memory_waits: u64,
    /// As [`Counters::slow`].
    pub slow: u64,
    /// As [`Counters::moved_out`].
    pub moved: u64,
    /// Connections refused at the limit.
    pub refused: u64,
    /// Connections accepted.
    pub accepted: u64,
}

impl Totals {
    /// The figures of one kind.
    #[must_use]
    pub fn of(&self, kind: Kind) -> KindTotals {
        self.kinds[kind as usize]
    }

    /// One figure summed up over all kinds.
    #[must_use]
    pub fn sum(&self, figure: impl Fn(&KindTotals) -> u64) -> u64 {
        self.kinds.iter().map(figure).sum()
    }

    /// One figure summed up over what reads items.
    #[must_use]
    pub fn retrievals(&self, figure: impl Fn(&KindTotals) -> u64) -> u64 {
        figure(&self.of(Kind::Get)) + figure(&self.of(Kind::GetAndTouch))
    }

    fn add(&mut self, counters: &Counters) {
        for (total, kind) in self.kinds.iter_mut().zip(&counters.kinds) {
            total.requests += kind.requests.get();
            total.hits += kind.hits.get();
            total.misses += kind.misses.get();
            total.conflicts += kind.conflicts.get();
            total.value_bytes += kind.value_bytes.get();
        }
        self.server_errors += counters.server_errors.get();
        self.bytes_in += counters.bytes_in.get();
        self.bytes_out += counters.bytes_out.get();
        self.idle_closed += counters.idle_closed.get();
        self.stalled_closed += counters.stalled_closed.get();
        self.aged_closed += counters.aged_closed.get();
        self.expired_closed += counters.expired_closed.get();
        self.untrusted_closed += counters.untrusted_closed.get();
        self.tls_closed += counters.tls_closed.get();
        self.memory_waits += counters.memory_waits.get();
        self.slow += counters.slow.get();
        self.moved += counters.moved_out.get();
    }

    fn subtract(&mut self, base: &Totals) {
        for (total, base) in self.kinds.iter_mut().zip(&base.kinds) {
            total.requests -= base.requests;
            total.hits -= base.hits;
            total.misses -= base.misses;
            total.conflicts -= base.conflicts;
            total.value_bytes -= base.value_bytes;
        }
        self.server_errors -= base.server_errors;
        self.bytes_in -= base.bytes_in;
        self.bytes_out -= base.bytes_out;
        self.idle_closed -= base.idle_closed;
        self.stalled_closed -= base.stalled_closed;
        self.aged_closed -= base.aged_closed;
        self.expired_closed -= base.expired_closed;
        self.untrusted_closed -= base.untrusted_closed;
        self.tls_closed -= base.tls_closed;
        self.memory_waits -= base.memory_waits;
        self.slow -= base.slow;
        self.moved -= base.moved;
        self.refused -= base.refused;
        self.accepted -= base.accepted;
    }
}

/// Where a node is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u64)]
pub enum Phase {
    /// Not ready yet.
    Starting,
    /// Serves requests.
    Serving,
    /// Not ready any more, but still accepts.
    Draining,
    /// Accepts no more, and closes sessions between requests.
    Closing,
    /// Closes every session at once.
    Stopping,
}

/// Everything that can be asked about the node, shared by its threads.
#[derive(Debug)]
pub struct Metrics {
    /// The node's clock.
    pub clock: Clock,
    /// When the node started.
    pub started: Instant,
    /// The configuration that it runs.
    pub config: config::Config,
    /// The hash of the configuration file; empty without one.
    pub configuration_hash: String,
    /// The budget of the buffers.
    pub budget: Arc<Budget>,
    /// What clients may change about the node.
    pub control: Control,
    /// Those who watch.
    pub watch: Arc<Watch>,
    /// The open connections.
    pub connections: Arc<Connections>,
    /// The list of the cluster's nodes, where there is one.
    pub discovery: Option<Discovery>,
    /// TLS on the data port; none where clients speak in the clear.
    pub tls: Option<Arc<Tls>>,
    /// The credentials of the admin port; none where it speaks in the clear.
    pub admin_tls: Option<Arc<Credentials>>,
    /// Where the items outlive the process, if they do.
    pub volume: Option<Volume>,
    /// Connections that were accepted and not refused; written by the listener.
    pub accepted: Counter,
    /// Connections refused at the limit; written by the listener.
    pub refused: Counter,
    /// When the listener last finished a round; written by the listener.
    pub listener_heartbeat: Counter,
    /// Sessions that one worker has handed over and the other has not taken yet.
    in_transit: AtomicU64,
    threads: Vec<Arc<Counters>>,
    /// The cache's own figures as its owner last published them.
    cache: Mutex<segcache::Counters>,
    /// What `stats reset` counts from.
    baseline: Mutex<Totals>,
    phase: AtomicU64,
}

impl Metrics {
    /// The figures of a node with so many serving threads.
    #[must_use]
    pub fn new(config: config::Config, configuration_hash: String, threads: usize, control: Control) -> Arc<Metrics> {
        let last_tick = config.storage.as_ref().and_then(|storage| segcache::last_tick(&storage.directory));
        let clock = Clock::start(last_tick.unwrap_or_default());
        Arc::new(Metrics {
            clock,
            started: clock.now(),
            budget: Budget::new(usize::try_from(config.buffer_memory.0).unwrap_or(usize::MAX)),
            discovery: config.discovery.clone().map(Discovery::new),
            tls: Tls::of(&config),
            admin_tls: tls::admin(&config),
            volume: config.storage.as_ref().map(Volume::new),
            config,
            configuration_hash,
            control,
            watch: Watch::new(clock),
            connections: Arc::default(),
            accepted: Counter::default(),
            refused: Counter::default(),
            listener_heartbeat: Counter::default(),
            in_transit: AtomicU64::new(0),
            threads: (0..threads).map(|_| Arc::default()).collect(),
            cache: Mutex::default(),
            baseline: Mutex::default(),
            phase: AtomicU64::new(Phase::Starting as u64),
        })
    }

    /// The figures of each serving thread: workers first, then the storage thread if there is one.
    #[must_use]
    pub fn threads(&self) -> &[Arc<Counters>] {
        &self.threads
    }

    /// Connections now, with those that watch.
    #[must_use]
    pub fn open(&self) -> u64 {
        let sessions: u64 = self.threads.iter().map(|counters| counters.sessions.get()).sum();
        sessions + self.watch.figures().watchers as u64
    }

    /// Sums up since the start.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals { accepted: self.accepted.get(), refused: self.refused.get(), ..Totals::default() };
        for counters in &self.threads {
            totals.add(counters);
        }
        totals
    }

    /// Sums up since the last [`Metrics::reset`].
    #[must_use]
    pub fn totals_since_reset(&self) -> Totals {
        let mut totals = self.totals();
        totals.subtract(&self.baseline.lock().unwrap_or_else(PoisonError::into_inner));
        totals
    }

    /// Makes [`Metrics::totals_since_reset`] count from now on. The counters themselves go on: a scraper must never
    /// see one go back.
    pub fn reset(&self) {
        *self.baseline.lock().unwrap_or_else(PoisonError::into_inner) = self.totals();
    }

    /// The latencies of one kind of request, of all threads together.
    #[must_use]
    pub fn latencies(&self, kind: Kind) -> Histogram {
        let mut sum = Histogram::default();
        for counters in &self.threads {
            counters.kinds[kind as usize].latencies.add_to(&mut sum);
        }
        sum
    }

    /// Publishes the cache's figures; the cache's owner does, about once a second.
    pub fn publish_cache(&self, counters: segcache::Counters) {
        *self.cache.lock().unwrap_or_else(PoisonError::into_inner) = counters;
    }

    /// The cache's figures as last published.
    #[must_use]
    pub fn cache(&self) -> segcache::Counters {
        *self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a node that starts waits for.
    #[must_use]
    pub fn waits_for(&self) -> Option<String> {
        let data = self.tls.as_ref().map(|tls| tls.credentials.state());
        let admin = self.admin_tls.as_ref().map(|credentials| credentials.state());
        let missing = data.into_iter().chain(admin).find(|state| state.served.is_none())?;
        Some(format!("waiting: {}", missing.failure?))
    }

    /// Where the node is in its life.
    #[must_use]
    pub fn phase(&self) -> Phase {
        const PHASES: [Phase; 5] = [Phase::Starting, Phase::Serving, Phase::Draining, Phase::Closing, Phase::Stopping];
        PHASES.get(self.phase.load(Ordering::Acquire) as usize).copied().unwrap_or(Phase::Stopping)
    }

    /// Moves on to `phase`; the life of a node has no way back.
    pub fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u64, Ordering::AcqRel);
    }

    /// Announces that a session moves, unless the node closes: nobody would take it over any more. Either the mover sees
    /// that the node closes, or who ends sees that there is one more session to come.
    pub fn begin_move(&self) -> bool {
        self.in_transit.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let may_move = self.phase() < Phase::Closing;
        if !may_move {
            self.end_move();
        }
        may_move
    }

    /// The session has come to rest, with whichever worker.
    pub fn end_move(&self) {
        self.in_transit.fetch_sub(1, Ordering::SeqCst);
    }

    /// Whether sessions move. To be asked after the phase.
    #[must_use]
    pub fn has_moves(&self) -> bool {
        fence(Ordering::SeqCst);
        self.in_transit.load(Ordering::SeqCst) > 0
    }
}

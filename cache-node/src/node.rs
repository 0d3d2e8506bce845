//! The node: builds its threads and joins them; owns drain and shutdown.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use config::{Durability, Medium, StorageThread as StorageThreadMode};
use mio::Waker;
use segcache::{Cache, Populator, Progress, Settings, SettingsError};
use tracing::{info, warn};

use crate::admin::{self, Ports};
use crate::balance::Balance;
use crate::bell::Bell;
use crate::control::{Control, Log};
use crate::link::{Sleeper, UnboundEnd, link};
use crate::listener::{BACKLOG, HAND_OVER, Listener, ListenerError, Seat, bind, listen};
use crate::metrics::{Metrics, Phase};
use crate::pinning::{self, Pinning, PinningError};
use crate::storage::{Owner, Storage, StorageThread};
use crate::tls;
use crate::tls::credentials::CredentialsError;
use crate::volume::VolumeError;
use crate::worker::{Ways, Worker, WorkerError, poll};

/// How long sessions have to come to the end of their requests before they are closed all the same.
const CLOSING_LIMIT: Duration = Duration::from_secs(10);
/// The longest sleep of the thread that makes memory ready.
const LONGEST_SLEEP: Duration = Duration::from_millis(500);

/// Why a node does not start, or does not go on.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// An address cannot be listened at.
    #[error("{option} {address}: {reason}; choose another address with {option} or {field} in the file")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The argument that sets it.
        option: &'static str,
        /// The field of the configuration file that sets it.
        field: &'static str,
        /// What the system says.
        reason: io::Error,
    },
    /// The cache cannot be made.
    #[error("memory: {0}")]
    Cache(#[from] SettingsError),
    /// The cache cannot be opened on its volume.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// A thread cannot be bound to its processor.
    #[error(transparent)]
    Pinning(#[from] PinningError),
    /// The system does not give what a thread needs.
    #[error("{what} could not be made: {reason}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// What the system says.
        reason: io::Error,
    },
    /// The listener failed.
    #[error("the listener ended: {0}")]
    Listener(#[from] ListenerError),
    /// A worker failed.
    #[error("a worker ended: {0}")]
    Worker(#[from] WorkerError),
    /// The files of TLS are there, and are not what they should be.
    #[error("TLS: {0}")]
    Tls(#[from] CredentialsError),
    /// A thread panicked, which is a bug.
    #[error("the thread {thread} panicked; this is a bug, and its message is above")]
    Panicked {
        /// The thread's name.
        thread: String,
    },
}

/// What happens to a node from outside.
#[derive(Debug)]
pub enum Event {
    /// It is to drain and to end.
    Drain,
    /// It is to end at once.
    Stop,
    /// One of its threads has ended.
    Ended,
}

/// A node whose threads run.
pub struct Node {
    threads: Vec<JoinHandle<Result<(), NodeError>>>,
    wakers: Vec<Arc<Waker>>,
    /// Makes memory ready ahead of the cache.
    populator: Option<Thread>,
    events: Receiver<Event>,
    metrics: Arc<Metrics>,
    pinning: Pinning,
}

impl Node {
    /// Takes the addresses, makes the cache and starts the threads.
    ///
    /// # Errors
    /// [`NodeError`], naming what to change.
    pub fn start(
        config: config::Config,
        configuration_hash: String,
        log: Log,
        (sender, events): (Sender<Event>, Receiver<Event>),
    ) -> Result<Node, NodeError> {
        let workers = usize::from(config.workers);
        let has_storage_thread =
            workers > 1 || config.storage_thread == StorageThreadMode::Always || has_long_commits(&config);
        let (address, option, field) = (config.listen, "--listen", "listen");
        let socket = bind(address).map_err(|reason| NodeError::Listen { address, option, field, reason })?;
        // Not as configured: port 0 asks for any.
        let bound = socket.local_addr().map_err(system("the address of a socket"))?;
        let address = bound.as_socket().unwrap_or(address);
        let ports = Ports {
            health: config.health.map(|address| open(address, "--health", "health")).transpose()?,
            admin: config.admin.map(|address| open(address, "--admin", "admin")).transpose()?,
        };
        let config = config::Config { listen: address, ..config };
        let control = Control::new(log, sender.clone());
        let metrics = Metrics::new(config, configuration_hash, workers + usize::from(has_storage_thread), control);
        let pinning = Pinning::new(&metrics.config.pinning)?;
        let (threads, wakers, shared) = (Vec::new(), Vec::new(), Arc::clone(&metrics));
        let mut node = Node { threads, wakers, populator: None, events, metrics: shared, pinning };
        let at = |socket: &TcpListener| socket.local_addr().map_err(system("the address of a socket"));
        for (socket, what) in [(&ports.health, "/livez, /readyz"), (&ports.admin, "/metrics, /status, /drain")] {
            if let Some(socket) = socket {
                info!(at = %at(socket)?, "serving {what}");
            }
        }
        admin::serve(ports, Arc::clone(&metrics), sender.clone()).map_err(system("the admin thread"))?;
        if !node.has_files(&sender)? {
            return Ok(node);
        }
        tls::watch(metrics.tls.clone(), metrics.admin_tls.clone()).map_err(system("the reload thread"))?;
        let owner = node.make_cache(&sender)?;
        let polls: Vec<_> =
            (0..workers).map(|_| poll().map_err(system("a worker's poll"))).collect::<Result<_, _>>()?;
        let storages = if has_storage_thread {
            node.start_storage(owner, polls.iter().map(|(_, waker)| Arc::clone(waker)), &sender)?
        } else {
            vec![Storage::Inline(Box::new(owner))]
        };
        let mut seats = Vec::new();
        let mut balances = node.balances(&polls).into_iter();
        for (index, ((poll, waker), storage)) in polls.into_iter().zip(storages).enumerate() {
            let (queue, arrivals) = rtrb::RingBuffer::new(HAND_OVER);
            let counters = Arc::clone(&metrics.threads()[index]);
            seats.push(Seat {
                queue,
                waker: Arc::clone(&waker),
                counters: Arc::clone(&counters),
                handed_over: 0,
                is_to_wake: false,
            });
            let ways = Ways { arrivals, storage, balance: balances.next() };
            let worker = Worker::new(poll, ways, counters, Arc::clone(&metrics));
            let processor = node.pinning.of_thread(index);
            node.spawn(format!("worker-{index}"), processor, &sender, move || Ok(worker.run()?))?;
            node.wakers.push(waker);
        }
        let (poll, waker) = poll().map_err(system("the listener's poll"))?;
        // Until now clients were refused, rather than left waiting for a node that could not serve them.
        socket.listen(BACKLOG).map_err(|reason| NodeError::Listen { address, option, field, reason })?;
        let socket = mio::net::TcpListener::from_std(socket.into());
        let listener = Listener::new(poll, socket, seats, Arc::clone(&metrics));
        node.spawn("listener".to_owned(), None, &sender, move || Ok(listener.run()?))?;
        node.wakers.push(waker);
        let watched = Arc::clone(&metrics);
        node.spawn("watch".to_owned(), None, &sender, move || {
            watched.watch.serve(|| watched.phase() < Phase::Closing);
            Ok(())
        })?;
        metrics.enter(Phase::Serving);
        info!(at = %address, workers, memory = %metrics.config.memory, "serving clients");
        Ok(node)
    }

    /// Makes the cache or opens it, and starts the threads that make memory ready ahead of it and flush its volume.
    fn make_cache(&mut self, sender: &Sender<Event>) -> Result<Owner, NodeError> {
        let (metrics, settings) = (&self.metrics, settings(&self.metrics.config));
        let mut cache = match (&metrics.config.storage, &metrics.volume) {
            (Some(storage), Some(volume)) => volume.open(storage, settings)?,
            _ => Cache::new(settings, metrics.clock.now().seconds())?,
        };
        self.start_flushing(&cache, sender)?;
        self.populator = cache.populator().map(|populator| self.start_populator(populator, sender)).transpose()?;
        Ok(Owner::new(cache, self.populator.clone()))
    }

    /// The first touch of a page can take milliseconds, and no request is to wait for it.
    fn start_populator(&mut self, populator: Populator, sender: &Sender<Event>) -> Result<Thread, NodeError> {
        let metrics = Arc::clone(&self.metrics);
        self.spawn("populate".to_owned(), None, sender, move || {
            while metrics.phase() < Phase::Closing {
                if populator.advance() != Progress::Advanced {
                    thread::park_timeout(LONGEST_SLEEP);
                }
            }
            Ok(())
        })
    }

    /// How the workers balance their load, where there is more than one.
    fn balances(&self, polls: &[(mio::Poll, Arc<Waker>)]) -> Vec<Balance> {
        if polls.len() < 2 {
            return Vec::new();
        }
        let wakers = polls.iter().map(|(_, waker)| Arc::clone(waker));
        Balance::between(&wakers.zip(self.metrics.threads().iter().map(Arc::clone)).collect::<Vec<_>>())
    }

    /// Waits for the node's own certificates, if they are not there yet; says no if the node is to end instead.
    fn has_files(&self, sender: &Sender<Event>) -> Result<bool, NodeError> {
        let mut told = String::new();
        loop {
            let data = self.metrics.tls.as_ref().map_or(Ok(()), |tls| tls.refresh().map(drop));
            let admin = self.metrics.admin_tls.as_ref().map_or(Ok(()), |credentials| credentials.refresh().map(drop));
            match data.and(admin) {
                Ok(()) => return Ok(true),
                Err(error) if !error.is_absence() => return Err(error.into()),
                Err(error) if error.to_string() != told => {
                    told = error.to_string();
                    info!("not ready: waiting: {told}");
                }
                Err(_) => {}
            }
            if let Ok(Event::Drain | Event::Stop) = self.events.recv_timeout(tls::LOOK) {
                // There is nothing to drain. Who runs the node hears of it, and if it is gone there is nobody to tell.
                sender.send(Event::Stop).ok();
                return Ok(false);
            }
        }
    }

    /// Starts the thread that flushes the volume, where there is one to be flushed.
    fn start_flushing(&mut self, cache: &Cache, sender: &Sender<Event>) -> Result<(), NodeError> {
        let flusher = cache.flusher().map_err(system("what flushes the volume"))?;
        let interval = self.metrics.config.storage.as_ref().map(|storage| storage.flush_interval.0);
        if let (Some(flusher), Some(interval)) = (flusher, interval) {
            let metrics = Arc::clone(&self.metrics);
            self.spawn("flush".to_owned(), None, sender, move || {
                let is_over = || metrics.phase() >= Phase::Closing;
                metrics.volume.as_ref().map_or(Ok(()), |volume| volume.flush(&flusher, interval, is_over))?;
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Starts the storage thread; returns each worker's way to it.
    fn start_storage(
        &mut self,
        owner: Owner,
        wakers: impl Iterator<Item = Arc<Waker>>,
        sender: &Sender<Event>,
    ) -> Result<Vec<Storage>, NodeError> {
        let (worker_ends, storage_ends): (Vec<_>, Vec<_>) = wakers.map(link).unzip();
        let bell = Arc::new(Bell::default());
        let counters = self.metrics.threads().last().map(Arc::clone).unwrap_or_default();
        let metrics = Arc::clone(&self.metrics);
        let storage = StorageThread::new(owner, storage_ends, Arc::clone(&bell), counters, metrics);
        let processor = self.pinning.of_thread(usize::from(self.metrics.config.workers));
        let thread = self.spawn("storage".to_owned(), processor, sender, move || {
            storage.run()?;
            Ok(())
        })?;
        let sleeper = Sleeper { bell, thread };
        let bind = |end: UnboundEnd| Storage::Thread(Box::new(end.bind(sleeper.clone())));
        Ok(worker_ends.into_iter().map(bind).collect())
    }

    /// Waits until the node is told to end, drains it, and returns when its threads have ended.
    ///
    /// # Errors
    /// [`NodeError`] where a thread failed.
    pub fn run(mut self) -> Result<(), NodeError> {
        if let Ok(Event::Drain) = self.events.recv() {
            self.drain();
        }
        self.enter(Phase::Stopping);
        self.join()
    }

    /// Not ready, still accepting for a while; then no more connections; then each session ends between requests.
    fn drain(&mut self) {
        let delay = self.metrics.config.drain_delay.0;
        info!(delay = %self.metrics.config.drain_delay, "draining: not ready any more, still accepting");
        self.enter(Phase::Draining);
        if !self.passes(delay) {
            return;
        }
        info!(sessions = self.metrics.open(), "draining: closing the listener, and sessions between requests");
        self.enter(Phase::Closing);
        let deadline = Instant::now() + CLOSING_LIMIT;
        let mut ended = 0;
        while ended < self.threads.len() {
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Event::Ended) => ended += 1,
                Ok(Event::Drain) => {}
                Ok(Event::Stop) => return,
                Err(_) => {
                    warn!(sessions = self.metrics.open(), "draining: closing sessions that did not come to an end");
                    return;
                }
            }
        }
    }

    /// Waits for `delay`; says no if the node must end at once.
    fn passes(&self, delay: Duration) -> bool {
        let deadline = Instant::now() + delay;
        loop {
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                // Who asks twice for a drain (a lifecycle hook and then the signal) still gets one.
                Ok(Event::Drain) => {}
                Ok(Event::Stop | Event::Ended) | Err(RecvTimeoutError::Disconnected) => return false,
                Err(RecvTimeoutError::Timeout) => return true,
            }
        }
    }

    fn enter(&self, phase: Phase) {
        self.metrics.enter(phase);
        self.metrics.watch.wake();
        self.populator.iter().for_each(Thread::unpark);
        for waker in &self.wakers {
            if let Err(error) = waker.wake() {
                warn!(%error, "a thread could not be woken; it will notice within half a second");
            }
        }
    }

    fn spawn(
        &mut self,
        name: String,
        processor: Option<u16>,
        sender: &Sender<Event>,
        body: impl FnOnce() -> Result<(), NodeError> + Send + 'static,
    ) -> Result<Thread, NodeError> {
        let farewell = Farewell(sender.clone());
        let body = move || {
            let farewell = farewell;
            let pinned = processor.map_or(Ok(()), pinning::pin).map_err(NodeError::from);
            let result = pinned.and_then(|()| body());
            drop(farewell);
            result
        };
        let handle = thread::Builder::new().name(name).spawn(body).map_err(system("a thread"))?;
        let thread = handle.thread().clone();
        self.threads.push(handle);
        Ok(thread)
    }

    fn join(self) -> Result<(), NodeError> {
        let mut result = Ok(());
        for thread in self.threads {
            let name = thread.thread().name().unwrap_or("without a name").to_owned();
            let ended = thread.join().unwrap_or(Err(NodeError::Panicked { thread: name }));
            result = result.and(ended);
        }
        result
    }
}

/// Tells the node that a thread has ended, however that came.
struct Farewell(Sender<Event>);

impl Drop for Farewell {
    fn drop(&mut self) {
        // Nobody listens any more where the node itself has ended first.
        drop(self.0.send(Event::Ended));
    }
}

fn open(address: SocketAddr, option: &'static str, field: &'static str) -> Result<TcpListener, NodeError> {
    listen(address).map_err(|reason| NodeError::Listen { address, option, field, reason })
}

fn system(what: &'static str) -> impl Fn(io::Error) -> NodeError {
    move |reason| NodeError::System { what, reason }
}

/// Whether commits wait for a disk. Then a thread of its own executes, so that one commit is for the requests of all sessions
/// that have come meanwhile.
fn has_long_commits(config: &config::Config) -> bool {
    config.storage.as_ref().is_some_and(|storage| {
        storage.durability == Durability::Always && storage.medium != Some(Medium::PersistentMemory)
    })
}

fn settings(config: &config::Config) -> Settings {
    Settings {
        budget: usize::try_from(config.memory.0).unwrap_or(usize::MAX),
        max_item_size: usize::try_from(config.max_item_size.0).unwrap_or(usize::MAX),
        eviction: match config.eviction {
            config::Eviction::None => segcache::Eviction::None,
            config::Eviction::Random => segcache::Eviction::Random,
            config::Eviction::Fifo => segcache::Eviction::Fifo,
            config::Eviction::ClosestToExpiration => segcache::Eviction::ClosestToExpiration,
            config::Eviction::Utilization => segcache::Eviction::Utilization,
            config::Eviction::Merge => segcache::Eviction::Merge,
            config::Eviction::S3Fifo => segcache::Eviction::S3Fifo,
        },
        seed: random_seed(),
    }
}

/// The standard library seeds its hash maps from the system's randomness; that is all that is needed once.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}

/// The way by which a node is told what happens from outside.
#[must_use]
pub fn events() -> (Sender<Event>, Receiver<Event>) {
    mpsc::channel()
}

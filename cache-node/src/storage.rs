//! Where commands are executed: in the worker itself, or on the storage thread.

use std::io::{Read, Write};
use std::sync::Arc;
use std::thread::{self, Thread};
use std::time::Duration;

use memcache::{Announced, MAX_KEY_LENGTH, Protocol, Streams};
use segcache::{Cache, Deadline, Evicted, Evictions};
use tracing::warn;

use crate::bell::Bell;
use crate::buffers::{Batch, Received};
use crate::clock::Instant;
use crate::execute::{self, Context};
use crate::link::{StorageEnd, WorkerEnd};
use crate::metrics::{Counters, Metrics};
use crate::volume::{Volume, VolumeError};
use crate::watch::{Event, Watch};

/// How often the cache's figures are published.
const PUBLISH_US: u64 = 250_000;
/// Batches of one worker that are executed before the next worker's.
const MOST_BATCHES: usize = 64;
/// The longest sleep of the storage thread: expiry goes on without requests too.
const LONGEST_SLEEP: Duration = Duration::from_millis(500);
/// The sleep while a worker has not taken its replies.
const BLOCKED_SLEEP: Duration = Duration::from_millis(1);

/// A worker's way to the cache.
pub enum Storage {
    /// The worker owns the cache and executes itself.
    Inline(Box<Owner>),
    /// The storage thread does.
    Thread(Box<WorkerEnd>),
}

/// What has become of a batch that was handed in.
pub enum Submitted {
    /// It was executed, as far as its output has room.
    Executed(Box<Batch>),
    /// It comes back through [`Storage::answered`]; or never, where the volume has failed: then [`Storage::advance`] ends the
    /// worker before anybody hears of it.
    InFlight,
}

impl Storage {
    /// Tells the cache the time of this round, and lets it do a bounded amount of maintenance.
    ///
    /// # Errors
    /// [`VolumeError::Commit`]: nothing may be acknowledged any more.
    pub fn advance(&mut self, now: Instant, metrics: &Metrics) -> Result<(), VolumeError> {
        match self {
            Storage::Inline(owner) => owner.advance(now, metrics),
            Storage::Thread(link) => {
                link.awake();
                Ok(())
            }
        }
    }

    /// Reads once from `stream`; where a large value is on its way, into the cache.
    pub fn receive(&mut self, batch: &mut Batch, protocol: Protocol, stream: &mut impl Read) -> Received {
        match self {
            Storage::Inline(owner) => owner.receive(batch, protocol, stream),
            Storage::Thread(_) => batch.receive(stream),
        }
    }

    /// Gives back what a batch whose connection has ended holds of the cache.
    pub fn abandon(&mut self, batch: &mut Batch) {
        if let Storage::Inline(owner) = self {
            batch.abandon(&mut owner.cache);
        }
    }

    /// Executes a batch, or keeps it for [`Storage::publish`]. Large values go to `wire` at once, where there is one and
    /// the worker has the cache.
    pub fn execute(
        &mut self,
        mut batch: Box<Batch>,
        wire: Option<&mut dyn Write>,
        counters: &Counters,
        metrics: &Metrics,
    ) -> Submitted {
        match self {
            Storage::Inline(owner) => {
                if batch.is_worth_prefetching() {
                    execute::prefetch_keys(&mut batch, &owner.cache);
                    execute::prefetch_items(&batch, &owner.cache);
                }
                // What goes out at once would overtake the commit.
                let wire = wire.filter(|_| !owner.cache.answers_wait());
                execute::execute_to(wire, &mut batch, &mut owner.cache, Context { counters, metrics });
                if owner.commit(metrics) { Submitted::Executed(batch) } else { Submitted::InFlight }
            }
            Storage::Thread(link) => {
                link.hand_in(batch);
                Submitted::InFlight
            }
        }
    }

    /// A batch that has come back.
    pub fn answered(&mut self) -> Option<Box<Batch>> {
        match self {
            Storage::Inline(_) => None,
            Storage::Thread(link) => link.answered(),
        }
    }

    /// Sends what this round has handed in on its way.
    pub fn publish(&mut self) {
        match self {
            Storage::Inline(_) => {}
            Storage::Thread(link) => link.publish(),
        }
    }

    /// To be called when the worker ends: whoever owns the cache puts what memory alone knows into its volume.
    pub fn close(self) {
        match self {
            Storage::Inline(owner) => owner.close(),
            // Its thread sees that nobody is left, and closes it.
            Storage::Thread(link) => drop(link),
        }
    }

    /// To be called before the worker sleeps: whether it must not, because there is work.
    pub fn before_sleep(&mut self) -> bool {
        match self {
            Storage::Inline(owner) => owner.maintenance_left,
            Storage::Thread(link) => link.before_sleep(),
        }
    }
}

/// The cache with what its owner, whichever thread that is, has to do for it.
pub struct Owner {
    cache: Cache,
    published: Instant,
    maintenance_left: bool,
    evictions_watched: bool,
    /// Why nothing may be acknowledged any more.
    failed: Option<VolumeError>,
    /// Sleeps until memory is to be made ready.
    populator: Option<Thread>,
}

impl Owner {
    /// The owner of this `cache`, with the thread that makes memory ready for it, where there is one.
    #[must_use]
    pub fn new(cache: Cache, populator: Option<Thread>) -> Owner {
        let published = Instant::default();
        Owner { cache, published, maintenance_left: false, evictions_watched: false, failed: None, populator }
    }

    /// The cache itself.
    pub fn cache(&mut self) -> &mut Cache {
        &mut self.cache
    }

    /// Reads once from `stream`; where a large value is on its way, into the cache.
    pub fn receive(&mut self, batch: &mut Batch, protocol: Protocol, stream: &mut impl Read) -> Received {
        self.make_room(batch, protocol);
        batch.receive_into(stream, &mut self.cache)
    }

    /// Makes room in the cache for a large value whose line has come. Where there is none for now, it is received as any
    /// other, and the store tells what is wrong.
    fn make_room(&mut self, batch: &mut Batch, protocol: Protocol) {
        let Some((announced, input)) = batch.announced(protocol) else { return };
        let Announced { command, length, .. } = announced;
        let mut room = [0; MAX_KEY_LENGTH];
        let Some(item) = execute::announced_item(command, input, &mut room, self.cache.now()) else { return };
        if let Ok(reservation) = self.cache.reserve(&item, length) {
            batch.begin_filling(announced, reservation, &mut self.cache);
        }
    }

    /// Ends the use of the cache, so that the next node finds it quickly.
    fn close(self) {
        if let Err(reason) = self.cache.close() {
            warn!(%reason, "no snapshot of the index can be written; the next start reads all segments instead");
        }
    }

    /// Waits until what was executed outlives the machine, where that is promised; says whether it does. One commit is for
    /// all that was executed since the last.
    fn commit(&mut self, metrics: &Metrics) -> bool {
        match self.cache.make_durable() {
            Ok(false) => true,
            Ok(true) => {
                metrics.volume.iter().for_each(Volume::count_flush);
                true
            }
            Err(reason) => {
                self.failed = Some(VolumeError::Commit(reason));
                false
            }
        }
    }

    fn advance(&mut self, now: Instant, metrics: &Metrics) -> Result<(), VolumeError> {
        let ticks = now.seconds() > self.cache.now();
        self.cache.advance(now.seconds());
        self.maintenance_left = self.cache.maintain();
        // The clock outlives the machine too, or a node that is hardly used would seem to have been away.
        if ticks {
            self.commit(metrics);
        }
        self.failed.take().map_or(Ok(()), Err)?;
        if let Some(populator) = self.populator.as_ref().filter(|_| self.cache.wants_pages()) {
            populator.unpark();
        }
        self.tell_evictions(now, &metrics.watch);
        if now.since(self.published) >= PUBLISH_US {
            self.published = now;
            metrics.publish_cache(self.cache.counters());
        }
        Ok(())
    }

    /// Tells those who watch what was evicted since the last round.
    fn tell_evictions(&mut self, now: Instant, watch: &Watch) {
        let wanted = watch.wants(Streams::EVICTIONS);
        if wanted != self.evictions_watched {
            self.evictions_watched = wanted;
            self.cache.watch_evictions(wanted);
        }
        if wanted {
            let Evictions { items, lost } = self.cache.take_evictions();
            for Evicted { key, value_length, deadline } in items {
                let ttl = match deadline {
                    Deadline::Never => None,
                    Deadline::At(last) => Some(last.saturating_sub(now.seconds())),
                };
                watch.tell(Event::Eviction { key, ttl, size: value_length });
            }
            watch.count_lost(lost);
        }
    }
}

/// The storage thread: owns the cache and serves all workers.
pub struct StorageThread {
    owner: Owner,
    links: Vec<StorageEnd>,
    bell: Arc<Bell>,
    counters: Arc<Counters>,
    metrics: Arc<Metrics>,
    /// The batches of one turn.
    #[expect(clippy::vec_box, reason = "sessions, pool and rings pass on the box; the batch itself never moves")]
    turn: Vec<Box<Batch>>,
}

impl StorageThread {
    /// A thread that serves these `links` and rests behind `bell`.
    #[must_use]
    pub fn new(
        owner: Owner,
        links: Vec<StorageEnd>,
        bell: Arc<Bell>,
        counters: Arc<Counters>,
        metrics: Arc<Metrics>,
    ) -> StorageThread {
        StorageThread { owner, links, bell, counters, metrics, turn: Vec::with_capacity(MOST_BATCHES) }
    }

    /// Serves until all workers have ended.
    ///
    /// # Errors
    /// [`VolumeError::Commit`]: what was executed last is not acknowledged.
    pub fn run(mut self) -> Result<(), VolumeError> {
        while !self.links.iter().all(StorageEnd::is_abandoned) {
            let now = self.metrics.clock.now();
            self.owner.advance(now, &self.metrics)?;
            let mut worked = self.owner.maintenance_left;
            for link in 0..self.links.len() {
                worked |= self.serve(link);
            }
            if self.owner.cache.answers_wait() {
                // One commit for what all workers have handed in.
                if !self.owner.commit(&self.metrics) {
                    return self.owner.failed.take().map_or(Ok(()), Err);
                }
                self.links.iter_mut().for_each(StorageEnd::publish);
            }
            self.counters.rounds.add(1);
            self.counters.heartbeat.set(now.micros());
            if !worked {
                self.sleep();
            }
        }
        self.owner.close();
        Ok(())
    }

    /// Executes what one worker has handed in, and hands it back at once where answers need not wait; says whether there was anything.
    fn serve(&mut self, link: usize) -> bool {
        let StorageThread { owner, links, counters, metrics, turn, .. } = self;
        let Some(link) = links.get_mut(link) else { return false };
        while turn.len() < MOST_BATCHES {
            let Some(batch) = link.request() else { break };
            turn.push(batch);
        }
        let worked = !turn.is_empty();
        turn.iter_mut().for_each(|batch| execute::prefetch_keys(batch, &owner.cache));
        turn.iter().for_each(|batch| execute::prefetch_items(batch, &owner.cache));
        for mut batch in turn.drain(..) {
            execute::execute(&mut batch, &mut owner.cache, Context { counters, metrics });
            link.hand_back(batch);
        }
        if !owner.cache.answers_wait() {
            link.publish();
        }
        worked
    }

    fn sleep(&self) {
        let longest = if self.links.iter().any(StorageEnd::is_blocked) { BLOCKED_SLEEP } else { LONGEST_SLEEP };
        self.bell.before_sleep();
        if !self.links.iter().any(StorageEnd::has_requests) {
            thread::park_timeout(longest);
        }
        self.bell.awake();
    }
}

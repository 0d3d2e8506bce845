//! Where a worker has its commands executed.

use segcache::Cache;

use crate::buffers::Batch;
use crate::clock::Instant;
use crate::execute::{Context, execute};
use crate::metrics::{Counters, Metrics};

/// How often the cache's figures are published.
const PUBLISH_US: u64 = 250_000;

/// A worker's way to the cache.
pub enum Storage {
    /// The worker owns the cache and executes itself.
    Inline(Box<Owner>),
}

/// The cache with what its owner, whichever thread that is, has to do for it.
pub struct Owner {
    cache: Cache,
    published: Instant,
    maintenance_left: bool,
}

/// What has become of a batch that was handed in.
pub enum Submitted {
    /// It was executed, as far as its output has room.
    Executed(Box<Batch>),
    /// It comes back through [`Storage::answered`].
    InFlight,
}

impl Storage {
    /// Tells the cache the time of this round, and lets it do a bounded amount of maintenance.
    pub fn advance(&mut self, now: Instant, metrics: &Metrics) {
        match self {
            Storage::Inline(owner) => owner.advance(now, metrics),
        }
    }

    /// Executes a batch, or sends it where that is done.
    pub fn execute(&mut self, mut batch: Box<Batch>, counters: &Counters, metrics: &Metrics) -> Submitted {
        match self {
            Storage::Inline(owner) => {
                execute(&mut batch, &mut owner.cache, Context { counters, metrics });
                Submitted::Executed(batch)
            }
        }
    }

    /// A batch that has come back.
    pub fn answered(&mut self) -> Option<Box<Batch>> {
        match self {
            Storage::Inline(_) => None,
        }
    }

    /// Sends what this round has handed in on its way.
    pub fn publish(&mut self) {}

    /// Whether the worker should not sleep.
    #[must_use]
    pub fn has_work(&self) -> bool {
        match self {
            Storage::Inline(owner) => owner.maintenance_left,
        }
    }
}

impl Owner {
    /// The owner of this `cache`.
    #[must_use]
    pub fn new(cache: Cache) -> Owner {
        Owner { cache, published: Instant::default(), maintenance_left: false }
    }

    fn advance(&mut self, now: Instant, metrics: &Metrics) {
        self.cache.advance(now.seconds());
        self.maintenance_left = self.cache.maintain();
        if now.since(self.published) >= PUBLISH_US {
            self.published = now;
            metrics.publish_cache(self.cache.counters());
        }
    }
}

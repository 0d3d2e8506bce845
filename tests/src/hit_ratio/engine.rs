//! The engine, as a store.

use segcache::{Cache, Counters, Deadline, Eviction, Settings};

use crate::failure::Outcome;
use crate::hit_ratio::store::Store;
use crate::hit_ratio::workload::Workload;

/// Requests for which a node would read its clock once.
const BATCH: u32 = 32;
/// What values are made of: it can be counted up.
const DIGIT: u8 = b'1';

/// The engine with one policy of eviction.
pub struct Engine<'a> {
    workload: &'a Workload,
    cache: Cache,
    key: Vec<u8>,
    value: Vec<u8>,
    requests: u32,
    refused: u64,
}

impl<'a> Engine<'a> {
    /// An empty cache of `budget` bytes, all of its memory included.
    ///
    /// # Errors
    /// Where the engine cannot work with so little.
    pub fn new(workload: &'a Workload, budget: u64, eviction: Eviction, seed: u64) -> Outcome<Engine<'a>> {
        let largest = workload.largest_value;
        let settings = Settings { budget: budget as usize, max_item_size: largest as usize, eviction, seed };
        Ok(Engine {
            workload,
            cache: Cache::new(settings, workload.time(0))?,
            key: Vec::new(),
            value: vec![DIGIT; largest as usize],
            requests: 0,
            refused: 0,
        })
    }

    /// What the engine says of itself.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.cache.counters()
    }

    /// Writes that the engine refused.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Writes by `write`, which is told the key, the value and the deadline.
    fn write<T, E>(&mut self, object: u32, write: impl FnOnce(&mut Cache, &[u8], &[u8], Deadline) -> Result<T, E>) {
        self.workload.write_key(object, &mut self.key);
        let drawn = self.workload.objects[object as usize];
        // The engine serves an item through its last second, memcached and the LRU until that second begins: with a
        // second less all three have the same life.
        let deadline = Deadline::At(self.cache.now() + u64::from(drawn.ttl) - 1);
        let written = write(&mut self.cache, &self.key, &self.value[..drawn.value as usize], deadline);
        self.refused += u64::from(written.is_err());
    }
}

impl Store for Engine<'_> {
    fn advance(&mut self, now: u64) {
        self.requests += 1;
        if now > self.cache.now() || self.requests.is_multiple_of(BATCH) {
            self.cache.advance(now);
        }
    }

    fn get(&mut self, object: u32) -> bool {
        self.workload.write_key(object, &mut self.key);
        self.cache.get(&self.key).is_some()
    }

    fn set(&mut self, object: u32) {
        self.write(object, |cache, key, value, deadline| cache.set(key, value, 0, deadline));
    }

    fn add(&mut self, object: u32) {
        self.write(object, |cache, key, value, deadline| cache.add(key, value, 0, deadline));
    }

    fn replace(&mut self, object: u32) {
        self.write(object, |cache, key, value, deadline| cache.replace(key, value, 0, deadline));
    }

    fn delete(&mut self, object: u32) {
        self.workload.write_key(object, &mut self.key);
        self.cache.delete(&self.key);
    }

    fn increment(&mut self, object: u32) -> bool {
        self.workload.write_key(object, &mut self.key);
        self.cache.incr(&self.key, 1).is_ok()
    }
}

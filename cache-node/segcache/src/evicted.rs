//! What was evicted, for those who want to look: kept only while someone does.

use crate::Deadline;
use crate::cache::Cache;
use crate::segment::Location;

/// Evictions that are kept until they are taken; further ones are only counted.
const MOST_KEPT: usize = 4096;

/// An item that was dropped to make room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evicted {
    /// Its key.
    pub key: Box<[u8]>,
    /// The length of its value in bytes.
    pub value_length: usize,
    /// When it would have ended.
    pub deadline: Deadline,
}

/// The evictions since they were last taken.
#[derive(Debug, Default)]
pub struct Evictions {
    /// The first of them, oldest first.
    pub items: Vec<Evicted>,
    /// How many more there were.
    pub lost: u64,
}

impl Cache {
    /// Has evictions recorded from now on, or no longer. Nothing is kept, and nothing is spent, while they are not.
    pub fn watch_evictions(&mut self, watched: bool) {
        if watched != self.evictions.is_some() {
            self.evictions = watched.then(Evictions::default);
        }
    }

    /// The evictions since the last call; none while they are not watched.
    pub fn take_evictions(&mut self) -> Evictions {
        self.evictions.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// To be called with the place of an item that is about to be evicted.
    #[inline]
    pub(crate) fn note_eviction(&mut self, location: Location) {
        if self.evictions.is_some() {
            self.record_eviction(location);
        }
    }

    fn record_eviction(&mut self, location: Location) {
        let Some(record) = self.segments.record(location) else { return };
        let (key, value_length) = (record.key().into(), record.header.value_length);
        let deadline = self.deadline_of(location.segment, &record);
        match &mut self.evictions {
            Some(evictions) if evictions.items.len() < MOST_KEPT => {
                evictions.items.push(Evicted { key, value_length, deadline });
            }
            Some(evictions) => evictions.lost += 1,
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::MOST_KEPT;
    use crate::{Cache, Deadline, Eviction, Settings};

    fn full_cache(eviction: Eviction) -> Cache {
        let settings = Settings { budget: 2 << 20, max_item_size: 1 << 10, eviction, seed: 1 };
        let mut cache = Cache::new(settings, 1_800_000_000).unwrap();
        let mut number = 0_u64;
        while cache.counters().evicted == 0 {
            number += 1;
            cache.set(format!("before{number}").as_bytes(), &[0; 40], 0, Deadline::Never).unwrap();
        }
        cache
    }

    #[test]
    fn every_eviction_is_told_of_while_someone_watches() {
        for eviction in [Eviction::Fifo, Eviction::Random, Eviction::Merge, Eviction::S3Fifo] {
            let mut cache = full_cache(eviction);
            assert!(cache.take_evictions().items.is_empty(), "{eviction:?}");
            cache.watch_evictions(true);
            let (mut told, before) = (0, cache.counters().evicted);
            for number in 0..20_000_u64 {
                cache.set(format!("after{number}").as_bytes(), &[0; 40], 0, Deadline::At(1_800_001_000)).unwrap();
                let evictions = cache.take_evictions();
                assert_eq!(evictions.lost, 0);
                told += evictions.items.len() as u64;
                for evicted in evictions.items {
                    assert!(evicted.key.starts_with(b"before") || evicted.key.starts_with(b"after"));
                    assert!(cache.peek(&evicted.key).is_none(), "{eviction:?}");
                    assert_eq!(evicted.value_length, 40);
                }
            }
            assert!(told > 0, "{eviction:?}");
            assert_eq!(told, cache.counters().evicted - before, "{eviction:?}");
            cache.watch_evictions(false);
            cache.set(b"key", &[0; 1000], 0, Deadline::Never).unwrap();
            assert!(cache.take_evictions().items.is_empty());
        }
    }

    #[test]
    fn what_nobody_takes_is_bounded() {
        let mut cache = full_cache(Eviction::Fifo);
        cache.watch_evictions(true);
        let before = cache.counters().evicted;
        for number in 0..100_000_u64 {
            cache.set(format!("after{number}").as_bytes(), &[0; 40], 0, Deadline::Never).unwrap();
        }
        let evictions = cache.take_evictions();
        assert_eq!(evictions.items.len(), MOST_KEPT);
        assert_eq!(MOST_KEPT as u64 + evictions.lost, cache.counters().evicted - before);
    }
}

//! Compactions: what lives in the segments with the most dead bytes moves together, and nothing is lost.
//!
//! What was overwritten, deleted or expired lies dead in its segment. Cleaning the emptiest segments first is what
//! log-structured stores do (Rosenblum and Ousterhout, SOSP '91).

use crate::Eviction;
use crate::bucket::BUCKETS;
use crate::cache::Cache;
use crate::maintenance::{Job, SEARCH};
use crate::merge::{MOST_SOURCES, Rule};
use crate::record::leb128_length;
use crate::segment::NONE;

/// Of the emptiest segments of all TTL buckets, those that others are looked for to go with, the emptiest first.
const SEEDS: usize = 4;
/// How full, in percent, the segments may get where a record that finds no room may be evicted. The rest is for what
/// does not fit at their ends.
const FULL: u64 = 97;
/// Where nothing may be lost, only two segments become one: then what they need is known exactly.
const PAIR: usize = 2;
/// Segments that one search looks at where the write would be refused if there is nothing to compact.
const LOSSLESS_SEARCH: u32 = 4096;

/// Segments that may be compacted together.
#[derive(Clone, Copy)]
struct Group {
    ids: [u32; MOST_SOURCES],
    count: usize,
}

const NOBODY: Group = Group { ids: [NONE; MOST_SOURCES], count: 0 };

impl Group {
    fn ids(&self) -> &[u32] {
        &self.ids[..self.count]
    }
}

impl Cache {
    /// A compaction that makes room, if there is one that is worth it.
    pub(crate) fn compaction_job(&mut self) -> Option<Job> {
        let lossless = self.eviction == Eviction::None;
        let (count, most) = (self.segments.count(), if lossless { PAIR } else { MOST_SOURCES });
        let looked_at = count.min(if lossless { LOSSLESS_SEARCH } else { SEARCH });
        let from = self.maintenance.cursor % count;
        let window = (0..looked_at).map(move |step| (from + step) % count);
        let mut seeds = self.emptiest_of_buckets(window.clone());
        for _ in 0..SEEDS {
            let seed = seeds.iter_mut().filter(|id| **id != NONE).min_by_key(|id| self.segments.get(**id).live_bytes);
            let Some(seed) = seed.map(|id| std::mem::replace(id, NONE)) else { break };
            let group = self.companions(seed, window.clone(), most);
            if let Some(group) = self.that_fit(&group, lossless) {
                let fullest = group.ids().iter().copied().max_by_key(|id| self.segments.get(*id).live_bytes)?;
                return self.start_merge(group.ids, group.count, Rule::All, fullest);
            }
        }
        self.maintenance.cursor = (from + looked_at) % count;
        None
    }

    /// Of these segments, the one of each TTL bucket that has the fewest live bytes.
    fn emptiest_of_buckets(&self, window: impl Iterator<Item = u32>) -> [u32; BUCKETS] {
        let mut emptiest = [NONE; BUCKETS];
        for id in window.filter(|id| self.is_mergeable(*id)) {
            let segment = self.segments.get(id);
            let best = &mut emptiest[usize::from(segment.bucket)];
            if *best == NONE || segment.live_bytes < self.segments.get(*best).live_bytes {
                *best = id;
            }
        }
        emptiest
    }

    /// The seed and those segments with the fewest live bytes whose records can be in one segment with its own.
    fn companions(&self, seed: u32, window: impl Iterator<Item = u32>, most: usize) -> Group {
        // The queues of S3-FIFO stay apart.
        let queues = self.eviction == Eviction::S3Fifo;
        let main = self.segments.get(seed).survived;
        let mut emptiest = NOBODY;
        for id in window.filter(|id| self.is_mergeable(*id) && *id != seed) {
            let segment = self.segments.get(id);
            let place =
                emptiest.ids().partition_point(|other| self.segments.get(*other).live_bytes <= segment.live_bytes);
            if place < most && (!queues || segment.survived == main) && self.is_expressible(&[seed, id]) {
                emptiest.ids[place..most].rotate_right(1);
                emptiest.ids[place] = id;
                emptiest.count = most.min(emptiest.count + 1);
            }
        }
        let mut group = Group { count: 1, ..NOBODY };
        group.ids[0] = seed;
        for id in emptiest.ids() {
            if group.count < most {
                group.ids[group.count] = *id;
                group.count += usize::from(self.is_expressible(&group.ids[..=group.count]));
            }
        }
        group
    }

    /// As few of a group as fit into one segment less, oldest first.
    fn that_fit(&self, group: &Group, lossless: bool) -> Option<Group> {
        let room = u64::from(self.segments.capacity());
        let fits = |count: &usize| {
            let (bytes, items) = self.together(&group.ids[..*count]);
            // At the end of each segment there is room left that the next record does not fit into.
            let ends = if lossless { 0 } else { room * (100 - FULL) / 100 + bytes / items.max(1) };
            bytes <= room.saturating_sub(ends) * (*count as u64 - 1)
        };
        let count = (PAIR..=group.count).find(fits)?;
        let mut chosen = Group { count, ..NOBODY };
        chosen.ids[..count].copy_from_slice(&group.ids[..count]);
        chosen.ids[..count].sort_unstable_by_key(|id| self.segments.get(*id).created);
        Some(chosen)
    }

    /// The bytes of all live records of some segments, in the longest form that they can take together, and how many
    /// they are.
    fn together(&self, ids: &[u32]) -> (u64, u64) {
        let all = || ids.iter().map(|id| self.segments.get(*id));
        let last = all().map(|segment| segment.last_sequence).max().unwrap_or(0);
        let base = all().map(|segment| segment.base_sequence).min().unwrap_or(0);
        // The sequence can get longer, by all but its first byte, and then the record is aligned anew.
        let growth = u64::from(self.segments.growth(leb128_length(last - base) as u32 - 1));
        let items = all().map(|segment| u64::from(segment.live_items)).sum();
        (all().map(|segment| u64::from(segment.live_bytes)).sum::<u64>() + items * growth, items)
    }
}

#[cfg(test)]
mod tests {
    use crate::cache::Cache;
    use crate::{Deadline, Eviction, Settings};

    const NOW: u64 = 1_800_000_000;

    fn cache(eviction: Eviction) -> Cache {
        Cache::new(Settings { budget: 8 << 20, max_item_size: 40_000, eviction, seed: 3 }, NOW).unwrap()
    }

    fn key(number: u32) -> [u8; 4] {
        number.to_be_bytes()
    }

    /// Compacts until there is nothing left to compact; says how many compactions that took.
    fn compact(cache: &mut Cache) -> usize {
        (0..10_000)
            .take_while(|_| {
                let Some(job) = cache.compaction_job() else { return false };
                cache.finish(job);
                true
            })
            .count()
    }

    #[test]
    fn a_quarter_that_is_dead_comes_free_and_nothing_is_lost() {
        for eviction in [Eviction::Merge, Eviction::Fifo] {
            let mut cache = cache(eviction);
            (0..40_000).for_each(|n| assert!(cache.set(&key(n), &[7; 100], 0, Deadline::Never).is_ok()));
            (0..40_000).step_by(4).for_each(|n| assert!(cache.delete(&key(n))));
            let before = cache.counters().segments_used;
            let compactions = compact(&mut cache);
            let counters = cache.counters();
            assert_eq!((counters.items, counters.evicted), (30_000, 0));
            let freed = before - counters.segments_used;
            assert!(freed as usize >= compactions && freed * 100 >= before * 13, "{freed} of {before} freed");
            assert!((0..40_000).all(|n| cache.get(&key(n)).is_some() == (n % 4 > 0)));
        }
    }

    #[test]
    fn sparse_segments_of_neighbouring_ttls_become_one() {
        let mut cache = cache(Eviction::None);
        for n in 0..32 {
            cache.set(&key(n), b"lonely", 0, Deadline::At(NOW + 5000 + 160 * u64::from(n))).unwrap();
        }
        (0..crate::bucket::NEVER).for_each(|bucket| cache.seal(bucket));
        let before = cache.counters().segments_used;
        compact(&mut cache);
        let counters = cache.counters();
        assert!(before > 16 && counters.segments_used == 1, "{before} became {}", counters.segments_used);
        assert_eq!((counters.items, counters.evicted), (32, 0));
        for n in 0..32 {
            let deadline = Deadline::At(NOW + 5000 + 160 * u64::from(n));
            assert_eq!(cache.get(&key(n)).map(|item| item.deadline), Some(deadline));
        }
    }

    #[test]
    fn large_records_are_not_compacted_over_and_over() {
        let mut cache = cache(Eviction::Merge);
        (0..250)
            .for_each(|n| assert!(cache.set(&key(n), &vec![1; 15_000 + 80 * n as usize], 0, Deadline::Never).is_ok()));
        (0..250).step_by(5).for_each(|n| assert!(cache.delete(&key(n))));
        let used = cache.counters().segments_used as usize;
        let compactions = compact(&mut cache);
        assert!(compactions <= used, "{compactions} compactions of {used} segments");
    }
}

//! Eviction: what goes when memory is full.

use crate::Eviction;
use crate::cache::Cache;
use crate::maintenance::{Job, SEARCH};
use crate::merge::Rule;
use crate::segment::{NONE, Segment, State};

/// Draws of a segment at random before the first that can go is taken.
const DRAWS: usize = 32;
/// Segments in which the oldest of a queue is looked for: all of them up to 4 GiB.
const QUEUE_SEARCH: u32 = 4096;
/// The small queue has one segment in so many.
const SMALL_SHARE: u32 = 10;

impl Cache {
    /// A job that makes room, if the policy allows one.
    pub(crate) fn eviction_job(&mut self) -> Option<Job> {
        if self.eviction == Eviction::None {
            return if self.can_merge() { self.compaction_job() } else { None };
        }
        // What was overwritten or deleted goes before anything that lives.
        if self.can_merge()
            && let Some(job) = self.compaction_job()
        {
            return Some(job);
        }
        let victim = match self.eviction {
            Eviction::None => None,
            Eviction::Random => self.random_victim(),
            Eviction::Fifo => self.victim_of_heads(|segment| segment.created),
            Eviction::ClosestToExpiration => self.victim_of_heads(ends),
            Eviction::Utilization => self.emptiest_victim(),
            Eviction::Merge => {
                if let Some(job) = self.merge_job() {
                    return Some(job);
                }
                self.victim_of_heads(|segment| segment.created)
            }
            Eviction::S3Fifo => {
                let (queue, rule) = self.oldest_of_queues()?;
                if let Some(job) = self.queue_job(queue, rule) {
                    return Some(job);
                }
                Some(queue)
            }
        };
        // A cache of very few segments may have none that is sealed.
        let victim = victim.or_else(|| self.victim_among_open())?;
        Some(self.drop_job(victim))
    }

    fn can_go(&self, id: u32) -> bool {
        let segment = self.segments.get(id);
        segment.state == State::Sealed && segment.pins == 0
    }

    fn random_victim(&mut self) -> Option<u32> {
        let count = self.segments.count();
        for _ in 0..DRAWS {
            let id = self.random.below(count as usize) as u32;
            if self.can_go(id) {
                return Some(id);
            }
        }
        (0..count).find(|id| self.can_go(*id))
    }

    /// Of the oldest segments of the TTL buckets, the one that comes first. The oldest may be pinned: then it is the
    /// next of its bucket.
    fn victim_of_heads(&self, order: impl Fn(&Segment) -> u64) -> Option<u32> {
        self.buckets
            .heads()
            .filter_map(|head| {
                self.buckets.chain(&self.segments, head).take(SEARCH as usize).find(|id| self.can_go(*id))
            })
            .min_by_key(|id| order(self.segments.get(*id)))
    }

    fn emptiest_victim(&mut self) -> Option<u32> {
        let count = self.segments.count();
        let from = self.maintenance.cursor;
        let victim = (0..count.min(SEARCH))
            .map(|step| (from + step) % count)
            .filter(|id| self.can_go(*id))
            .min_by_key(|id| self.segments.get(*id).live_bytes);
        self.maintenance.cursor = (from + SEARCH) % count;
        victim.or_else(|| (0..count).find(|id| self.can_go(*id)))
    }

    /// The oldest segment of the queue that has more than its share, and what of it goes on to the main queue
    /// (S3-FIFO, SOSP '23, section 4: a tenth for the small queue; one read more keeps an item of the main queue).
    fn oldest_of_queues(&mut self) -> Option<(u32, Rule)> {
        let count = self.segments.count();
        let from = self.maintenance.cursor;
        self.maintenance.cursor = (from + QUEUE_SEARCH) % count;
        let (mut sizes, mut oldest) = ([0; 2], [None; 2]);
        for id in (0..count.min(QUEUE_SEARCH)).map(|step| (from + step) % count).filter(|id| self.can_go(*id)) {
            let segment = self.segments.get(id);
            let queue = usize::from(segment.survived);
            sizes[queue] += 1;
            if oldest[queue].is_none_or(|oldest| segment.created < self.segments.get(oldest).created) {
                oldest[queue] = Some(id);
            }
        }
        let small = oldest[0].map(|id| (id, Rule::ReadAtLeast(2)));
        let main = oldest[1].map(|id| (id, Rule::ReadAtLeast(1)));
        if sizes[0] * SMALL_SHARE > sizes[0] + sizes[1] { small.or(main) } else { main.or(small) }
    }

    fn victim_among_open(&self) -> Option<u32> {
        self.buckets
            .open()
            .filter(|id| *id != NONE && self.segments.get(*id).pins == 0)
            .min_by_key(|id| self.segments.get(*id).created)
    }
}

fn ends(segment: &Segment) -> u64 {
    if segment.width == 0 { u64::MAX } else { segment.last_deadline }
}

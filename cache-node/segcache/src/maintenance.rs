//! Work that is done a step at a time between and during operations: expired segments, flushed segments, eviction, the
//! size of the index.

use std::io;

use crate::Eviction;
use crate::bucket::spread;
use crate::cache::{Cache, Found};
use crate::frequency;
use crate::index::Slot;
use crate::merge::{Merge, Worth};
use crate::reservation::MOST_RESERVATIONS;
use crate::segment::{Location, Segments, State};

/// Records that one step looks at. Their index buckets are prefetched together.
pub(crate) const BATCH: usize = 16;
/// Records that a call of [`Cache::maintain`] looks at: some ten microseconds.
const MAINTAIN_RECORDS: usize = 512;
/// Records that a call of [`Cache::advance`] looks at.
const ADVANCE_RECORDS: usize = 128;
/// Records that a write looks at while there is work, one so many for each that could have stood in its place. A merge
/// of four segments into one reads each record twice to free three, so three for one would just keep pace.
const WRITE_RECORDS: usize = BATCH;
/// The factor by which a write works more when free segments run out.
const HURRY: usize = 4;
/// Records that a write looks at, at most: below half a millisecond.
const MOST_WRITE_RECORDS: usize = 4096;
/// The bytes that make a write count as several.
const SMALL_WRITE: usize = 512;
/// Segments that one search for flushed segments, or for those to compact, looks at.
pub(crate) const SEARCH: u32 = 512;
/// Of the segments, one in so many is kept free ahead of the writes, and two more, of which a merge takes one.
const FREE_SHARE: u32 = 128;
const FEWEST_FREE: u32 = 2;
const MOST_FREE: u32 = 32;
/// A cache with fewer segments than this can spare none.
const FEW_SEGMENTS: u32 = 16;
/// A segment to merge into is always kept.
pub(crate) const HELD_BACK: u32 = 1;
/// Of the segments, one in so many may be open, within these bounds.
const OPEN_SHARE: u32 = 16;
const FEWEST_OPEN: u32 = 2;
const MOST_OPEN: u32 = 1024;
/// Jobs after which a write that still finds no free segment gives up.
const MOST_JOBS: usize = 64;

/// A segment whose deadlines are far apart is swept so often while it expires.
const SWEEPS: u64 = 8;
/// What is to be done, and what is being done.
pub(crate) struct Maintenance {
    job: Option<Job>,
    /// The clock has moved since the expired segments were all found.
    expiry_due: bool,
    /// Where the search for flushed segments is.
    sweep: Option<u32>,
    /// Where the search for segments is that have expired in part.
    partly_expired: Option<u32>,
    /// Where the search for segments is that were not checked yet.
    pub(crate) unverified: Option<u32>,
    /// Where the next search for a victim starts.
    pub(crate) cursor: u32,
    pub(crate) most_open: u32,
    /// Free segments below which eviction begins.
    pub(crate) free_ahead: u32,
    pub(crate) worth: Worth,
}

/// A resumable piece of work on segments, which are busy until it is done.
#[expect(clippy::large_enum_variant, reason = "there is one job at a time, and a box would be an allocation for each")]
pub(crate) enum Job {
    /// Takes all records of a segment out of the index, and frees it.
    Drop { segment: u32, next: Location },
    /// Takes those records of a segment out of the index that have ended.
    Sweep { segment: u32, next: Location },
    /// Copies the best records of some segments into one.
    Merge(Merge),
    /// Checks the records of a segment of which nobody knows yet whether they are what was written.
    Verify { segment: u32, next: Location },
}

impl Maintenance {
    pub(crate) fn new(segments: u32) -> Maintenance {
        let free_ahead =
            if segments < FEW_SEGMENTS { HELD_BACK } else { (segments / FREE_SHARE + FEWEST_FREE).min(MOST_FREE) };
        Maintenance {
            job: None,
            expiry_due: false,
            sweep: None,
            partly_expired: None,
            unverified: None,
            cursor: 0,
            most_open: (segments / OPEN_SHARE).clamp(FEWEST_OPEN, MOST_OPEN),
            free_ahead,
            worth: Worth::new(),
        }
    }

    pub(crate) fn clock_moved(&mut self) {
        self.expiry_due = true;
        self.partly_expired.get_or_insert(0);
    }

    /// Whether a search has not yet seen all segments.
    fn is_searching(&self) -> bool {
        self.sweep.is_some() || self.partly_expired.is_some() || self.unverified.is_some()
    }

    /// Segments with flushed records are to be found, from the first on.
    pub(crate) fn sweep_flushed(&mut self) {
        self.sweep = Some(0);
    }
}

impl Cache {
    /// Does a bounded amount of maintenance (some microseconds); says whether there is more to do at once. For times
    /// without requests.
    pub fn maintain(&mut self) -> bool {
        self.work(MAINTAIN_RECORDS)
    }

    /// The part of maintenance that a batch of requests pays for.
    pub(crate) fn work_for_batch(&mut self) {
        self.work(ADVANCE_RECORDS);
    }

    /// The part of maintenance that a write of so many bytes pays for.
    pub(crate) fn work_for_write(&mut self, length: usize) {
        let last = (self.maintenance.free_ahead / 2).max(HELD_BACK + 1);
        let hurry = if self.segments.free_count() <= last { HURRY } else { 1 };
        self.work((WRITE_RECORDS * hurry * (1 + length / SMALL_WRITE)).min(MOST_WRITE_RECORDS));
    }

    /// Works on jobs until they have looked at so many records; says whether there is more to do.
    fn work(&mut self, records: usize) -> bool {
        // Not when there is no job left: a cache that is full and written to always has one. A large item takes the place
        // of many small ones, so the index shrinks by as many steps as the write's share of work has.
        let is_shrinking = (0..records.div_ceil(BATCH)).all(|_| self.tend_index());
        let mut left = records;
        while left > 0 {
            let Some(job) = self.maintenance.job.take().or_else(|| self.next_job()) else {
                return is_shrinking || self.maintenance.is_searching();
            };
            self.maintenance.job = self.step(job);
            left = left.saturating_sub(BATCH);
        }
        true
    }

    /// Sees to it that there is a free segment beside the one that is held back, if at all possible. Says whether
    /// items may have moved.
    pub(crate) fn ensure_free(&mut self) -> bool {
        let mut disturbed = false;
        for _ in 0..MOST_JOBS {
            if self.segments.free_count() > HELD_BACK {
                return disturbed;
            }
            let Some(job) = self.maintenance.job.take().or_else(|| self.next_job()) else { break };
            self.totals.stalled += u64::from(!disturbed);
            disturbed = true;
            self.finish(job);
        }
        disturbed
    }

    /// Does all of a job.
    pub(crate) fn finish(&mut self, mut job: Job) {
        while let Some(unfinished) = self.step(job) {
            job = unfinished;
        }
    }

    fn next_job(&mut self) -> Option<Job> {
        if let Some(id) = self.expired_segment() {
            return Some(self.drop_job(id));
        }
        let short = |cache: &Cache| cache.segments.free_count() <= cache.maintenance.free_ahead;
        self.flushed_segment()
            .or_else(|| self.partly_expired_segment())
            .or_else(|| if short(self) { self.eviction_job() } else { None })
            .or_else(|| self.unverified_segment())
    }

    /// A segment of which everything has expired: the heads of the chains are the first to.
    fn expired_segment(&mut self) -> Option<u32> {
        if !self.maintenance.expiry_due {
            return None;
        }
        let found = self.buckets.heads().find_map(|head| {
            // Pinned segments must wait, but not what comes behind them; a bucket of a busy one has its turn later.
            let mut chain = self.buckets.chain(&self.segments, head).take(MOST_RESERVATIONS + 1);
            let first = chain.find(|id| self.segments.get(*id).pins == 0)?;
            let segment = self.segments.get(first);
            let expired = segment.width > 0 && segment.last_deadline < self.now && segment.state != State::Busy;
            expired.then_some(first)
        });
        self.maintenance.expiry_due = found.is_some();
        found
    }

    /// A job for a segment whose deadlines are so far apart that its expired records must not wait for the last one:
    /// merges and neighbours that had to share a segment make such. It is swept a few times while it expires.
    fn partly_expired_segment(&mut self) -> Option<Job> {
        let from = self.maintenance.partly_expired?;
        let end = self.segments.count().min(from + SEARCH);
        let found = (from..end).find(|id| {
            let segment = self.segments.get(*id);
            let range = segment.last_deadline - segment.base_deadline;
            let spread = u64::from(spread(segment.bucket));
            segment.state == State::Sealed
                && segment.pins == 0
                && segment.width > 0
                && (segment.last_deadline < self.now
                    || range > 2 * spread
                        && segment.base_deadline.max(segment.swept) + spread.max(range / SWEEPS) < self.now)
        });
        let next = found.map_or(end, |id| id + 1);
        self.maintenance.partly_expired = (next < self.segments.count()).then_some(next);
        let id = found?;
        if self.segments.get(id).last_deadline < self.now {
            // Its place in the chain hid it: a record before it was overwritten in place and lives longer.
            return Some(self.drop_job(id));
        }
        self.verify(id);
        let segment = self.segments.get_mut(id);
        (segment.state, segment.swept) = (State::Busy, self.now);
        Some(Job::Sweep { segment: id, next: Segments::first(id) })
    }

    /// A job for a segment with flushed records: they are all that it has, unless a reservation was committed there
    /// after the flush.
    fn flushed_segment(&mut self) -> Option<Job> {
        let from = self.maintenance.sweep?;
        let end = self.segments.count().min(from + SEARCH);
        let found = (from..end).find(|id| {
            let segment = self.segments.get(*id);
            segment.state == State::Sealed && segment.pins == 0 && segment.base_sequence < self.flushed
        });
        let next = found.map_or(end, |id| id + 1);
        self.maintenance.sweep = (next < self.segments.count()).then_some(next);
        let id = found?;
        if self.segments.get(id).last_sequence <= self.flushed {
            return Some(self.drop_job(id));
        }
        self.verify(id);
        self.segments.get_mut(id).state = State::Busy;
        Some(Job::Sweep { segment: id, next: Segments::first(id) })
    }

    /// A job that drops a segment, which is busy from now on.
    pub(crate) fn drop_job(&mut self, id: u32) -> Job {
        if self.segments.get(id).state == State::Open {
            let bucket = self.segments.get(id).bucket;
            self.buckets.seal(&mut self.segments, bucket);
        }
        self.verify(id);
        self.segments.get_mut(id).state = State::Busy;
        // Otherwise each record would have to die, or what was dropped and then deleted could come back.
        self.segments.condemn(id);
        Job::Drop { segment: id, next: Segments::first(id) }
    }

    /// Does one step of a job; returns it if it is not done.
    fn step(&mut self, job: Job) -> Option<Job> {
        match job {
            Job::Drop { segment, next } => {
                let next = self.drop_step(segment, next, true);
                if next.is_none() {
                    self.free_busy(segment);
                }
                next.map(|next| Job::Drop { segment, next })
            }
            Job::Sweep { segment, next } => {
                let next = self.drop_step(segment, next, false);
                if next.is_none() {
                    self.segments.get_mut(segment).state = State::Sealed;
                    self.free_if_dead(segment);
                }
                next.map(|next| Job::Sweep { segment, next })
            }
            Job::Merge(merge) => self.merge_step(merge).map(Job::Merge),
            Job::Verify { segment, next } => {
                let next = self.verify_step(segment, next);
                if next.is_none() {
                    self.end_verification(segment);
                }
                next.map(|next| Job::Verify { segment, next })
            }
        }
    }

    /// Takes the next records of a segment out of the index, `all` of them or those that have ended; returns where to
    /// go on if there are more.
    fn drop_step(&mut self, id: u32, from: Location, all: bool) -> Option<Location> {
        if self.segments.get(id).live_items == 0 {
            return None;
        }
        let (batch, next) = self.batch(from);
        for (hash, location) in batch.into_iter().flatten() {
            if let Some(slot) = self.index.find_location(hash, location) {
                self.evict(slot, all);
            }
        }
        next.filter(|_| self.segments.get(id).live_items > 0)
    }

    /// Frees a busy segment that has no live items any more.
    pub(crate) fn free_busy(&mut self, id: u32) {
        self.buckets.remove(&mut self.segments, id);
        self.segments.free(id);
    }

    /// The next records of a segment with the hashes of their keys, and where to go on if there are more; what the
    /// index has of them is on its way from memory.
    pub(crate) fn batch(&self, from: Location) -> ([Option<(u64, Location)>; BATCH], Option<Location>) {
        let mut batch = [None; BATCH];
        let mut next = Some(from);
        for entry in &mut batch {
            let Some((location, record)) = next.and_then(|at| Some((at, self.segments.record(at)?))) else {
                return (batch, None);
            };
            let hash = self.hasher.hash(record.key());
            self.index.prefetch(hash);
            *entry = Some((hash, location));
            next = Some(self.segments.following(location, &record.layout));
        }
        (batch, next)
    }

    /// Files a record under a key that is not in the index; says whether there was room for it. The index grows as it
    /// needs to; where it cannot, and eviction is on, the least read of its neighbours leaves.
    pub(crate) fn insert(&mut self, hash: u64, location: Location) -> bool {
        self.grow_index();
        // What was evicted too early will be kept the next time.
        let frequency = frequency::fresh(self.eviction, self.ghost.recall(hash));
        if self.insert_into_index(hash, location, frequency) {
            return true;
        }
        if self.eviction == Eviction::None {
            return false;
        }
        self.evict(self.index.coldest(hash), true);
        self.insert_into_index(hash, location, frequency)
    }

    fn insert_into_index(&mut self, hash: u64, location: Location, frequency: u8) -> bool {
        let Cache { index, segments, hasher, .. } = self;
        let hash_of = |location| segments.record(location).map_or(0, |record| hasher.hash(record.key()));
        index.insert(hash, location, frequency, hash_of)
    }

    /// Drops an item if it has ended, or else to make room if `living` ones may be.
    fn evict(&mut self, slot: Slot, living: bool) {
        let Some(record) = self.segments.record(slot.location) else { return };
        let length = record.length();
        match self.end_of(&Found { slot, record }) {
            Some(end) => self.drop_ended(slot, length, end),
            None if living => {
                self.totals.evicted += 1;
                self.note_eviction(slot.location);
                self.drop_item(slot, length);
            }
            None => (),
        }
    }

    /// Lets the index grow by a step if it wants to and the budget allows.
    fn grow_index(&mut self) {
        if !self.index.wants_growth() || !self.memory_for_index() {
            return;
        }
        let Cache { index, segments, hasher, .. } = self;
        let hash_of = |location| segments.record(location).map_or(0, |record| hasher.hash(record.key()));
        let homeless = index.grow(|location| segments.prefetch(location), hash_of);
        self.lose(&homeless);
    }

    /// Lets the index shrink by a step if it is much too large, and gives the memory back to the segments. Says
    /// whether there is more to do.
    fn tend_index(&mut self) -> bool {
        if !self.index.wants_shrinking() {
            return false;
        }
        let Cache { index, segments, hasher, .. } = self;
        let hash_of = |location| segments.record(location).map_or(0, |record| hasher.hash(record.key()));
        let homeless = index.shrink(|location| segments.prefetch(location), hash_of);
        self.lose(&homeless);
        while self.shares_budget
            && self.committed() + self.index.bytes() + self.segments.size() as usize <= self.budget
            && self.segments.restore()
        {}
        self.index.wants_shrinking()
    }

    /// Takes records out of the counts that the index has no place for.
    fn lose(&mut self, homeless: &[Location]) {
        for location in homeless {
            if let Some(length) = self.segments.record(*location).map(|record| record.length()) {
                self.totals.evicted += 1;
                self.note_eviction(*location);
                self.uncount(*location, length);
            }
        }
    }

    /// Finishes what was begun, if anything was.
    pub(crate) fn finish_job(&mut self) {
        if let Some(job) = self.maintenance.job.take() {
            self.finish(job);
        }
    }

    /// Bytes of the budget that are not the index's.
    fn committed(&self) -> usize {
        self.committed_with((self.segments.count() - self.segments.retired_count()).into())
    }

    /// Bytes of the budget that are not the index's, with so many segments.
    pub(crate) fn committed_with(&self, segments: u64) -> usize {
        let segments = if self.shares_budget { segments as usize * self.segments.size() as usize } else { 0 };
        self.metadata_bytes + segments
    }

    /// Divides the budget between the index as it is and the segments, which take their memory now.
    pub(crate) fn divide_budget(&mut self) -> io::Result<()> {
        while self.committed() + self.index.bytes() > self.budget && self.segments.retire() {}
        self.segments.preallocate()
    }

    /// Finds memory for a step of growth of the index, at the cost of free segments if need be. Those that writes will
    /// need soon are not taken: it then has to wait for eviction.
    fn memory_for_index(&mut self) -> bool {
        let grown = self.index.bytes_grown();
        if grown == self.index.bytes() {
            return true;
        }
        let kept = (self.maintenance.free_ahead / 2).max(HELD_BACK);
        while self.committed() + grown > self.budget {
            if !self.shares_budget || self.segments.free_count() <= kept || !self.segments.retire() {
                return false;
            }
        }
        true
    }
}

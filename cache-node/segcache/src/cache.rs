//! The cache: what it is made of, its clock, and every operation that stores no new record.

use crate::bucket::{Buckets, NEVER};
use crate::chronicle::Chronicle;
use crate::evicted::Evictions;
use crate::frequency;
use crate::ghost::Ghost;
use crate::hash::{KeyHash, KeyHasher, Random};
use crate::index::{Index, Slot};
use crate::maintenance::Maintenance;
use crate::opening::Volume;
use crate::populate::Populator;
use crate::record::{Header, Layout};
use crate::segment::{Location, Record, Segments, State};
use crate::settings::{Geometry, Placement};
use crate::{Counters, Deadline, Eviction, Glance, Item, Settings, SettingsError, TtlBucket};

/// A cache of items in memory.
///
/// It has one owner and no locks; it reads no clock: [`Cache::advance`] tells it the time.
pub struct Cache {
    pub(crate) budget: usize,
    /// Whether the segments are paid for by the budget, as the index is.
    pub(crate) shares_budget: bool,
    pub(crate) max_item_size: usize,
    pub(crate) eviction: Eviction,
    pub(crate) metadata_bytes: usize,
    pub(crate) hasher: KeyHasher,
    pub(crate) random: Random,
    pub(crate) now: u64,
    /// The sequence of the last write.
    pub(crate) sequence: u64,
    pub(crate) chronicle: Chronicle,
    /// Records up to this sequence have been flushed.
    pub(crate) flushed: u64,
    pub(crate) flush_at: Option<u64>,
    pub(crate) index: Index,
    pub(crate) segments: Segments,
    pub(crate) buckets: Buckets,
    pub(crate) maintenance: Maintenance,
    pub(crate) ghost: Ghost,
    pub(crate) totals: Totals,
    /// None while nobody watches.
    pub(crate) evictions: Option<Evictions>,
    has_populator: bool,
    /// None where nothing outlives the process.
    pub(crate) volume: Option<Volume>,
}

/// What is counted as it happens.
#[derive(Clone, Copy, Default)]
pub(crate) struct Totals {
    pub(crate) items: u64,
    pub(crate) item_bytes: u64,
    pub(crate) stored: u64,
    pub(crate) evicted: u64,
    pub(crate) expired: u64,
    pub(crate) stalled: u64,
    pub(crate) reservations: usize,
    pub(crate) damaged: u64,
}

/// An item of the index and its record.
#[derive(Clone, Copy)]
pub(crate) struct Found<'a> {
    pub(crate) slot: Slot,
    pub(crate) record: Record<'a>,
}

/// An item of the index and where its record has what, without the record itself.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) slot: Slot,
    pub(crate) header: Header,
    pub(crate) layout: Layout,
}

impl Cache {
    /// An empty cache at the time `now` (unix seconds).
    ///
    /// # Errors
    /// [`SettingsError`] where no cache can be made of these settings.
    pub fn new(settings: Settings, now: u64) -> Result<Cache, SettingsError> {
        let geometry = settings.geometry(Placement::MEMORY)?;
        let Geometry { segment_size, segments: count, .. } = geometry;
        let size = count as usize * segment_size as usize;
        let segments = Segments::new(count, segment_size, Index::alignment(count, segment_size))
            .map_err(|error| SettingsError::Memory { size, reason: error.to_string() })?;
        Cache::assemble(&settings, &geometry, segments, settings.seed, now)
    }

    /// A cache of these parts, its index still empty.
    pub(crate) fn assemble(
        settings: &Settings,
        geometry: &Geometry,
        segments: Segments,
        hash_seed: u64,
        now: u64,
    ) -> Result<Cache, SettingsError> {
        let Geometry { segment_size, segments: count, index_bytes, index_chunk, ghost_bytes, metadata_bytes } =
            *geometry;
        let index = Index::new(index_bytes, index_chunk, count, segment_size)
            .map_err(|error| SettingsError::Memory { size: index_bytes, reason: error.to_string() })?;
        Ok(Cache {
            budget: settings.budget,
            shares_budget: true,
            max_item_size: settings.max_item_size,
            eviction: settings.eviction,
            metadata_bytes,
            hasher: KeyHasher::new(hash_seed),
            random: Random::new(!settings.seed),
            now,
            sequence: 0,
            chronicle: Chronicle::new(now),
            flushed: 0,
            flush_at: None,
            index,
            segments,
            buckets: Buckets::new(),
            maintenance: Maintenance::new(count),
            ghost: Ghost::new(ghost_bytes),
            totals: Totals::default(),
            evictions: None,
            has_populator: false,
            volume: None,
        })
    }

    /// What makes the pages of this cache's memory ready ahead of their use, for a thread that does nothing else. The cache
    /// is the same without it, but for the first write to a page, which then takes as long as the system needs to find
    /// one.
    ///
    /// None where the memory is not of the system, and when one was given out before.
    pub fn populator(&mut self) -> Option<Populator> {
        let parts = [self.index.memory.part()?, self.segments.memory.part()?];
        let is_first = !std::mem::replace(&mut self.has_populator, true);
        is_first.then(|| Populator::new(parts))
    }

    /// Whether there is something to do for the [`Populator`].
    #[must_use]
    pub fn wants_pages(&self) -> bool {
        self.has_populator && (self.segments.memory.is_behind() || self.index.memory.is_behind())
    }

    /// Sets the clock to `now` (unix seconds), and does a bounded amount of maintenance: expiry, merges, growth.
    ///
    /// The clock never goes back: an earlier `now` leaves it where it is. To be called once for each batch of requests
    /// and at least once a second.
    pub fn advance(&mut self, now: u64) {
        if now > self.now {
            self.now = now;
            self.chronicle.note(now, self.sequence);
            self.maintenance.clock_moved();
            self.write_superblock();
        }
        if self.flush_at.is_some_and(|at| at <= self.now) {
            self.flush_now();
        }
        self.segments.memory.settle();
        self.index.memory.settle();
        self.work_for_batch();
    }

    /// The time as it was last told, in unix seconds.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.now
    }

    /// The hash of a key, for the operations that take one. Whoever looks a key up in several steps computes it once.
    #[must_use]
    #[inline]
    pub fn hash_of(&self, key: &[u8]) -> KeyHash {
        KeyHash(self.hasher.hash(key))
    }

    /// The item under `key`, which counts as read.
    #[inline]
    pub fn get(&mut self, key: &[u8]) -> Option<Item<'_>> {
        self.get_hashed(self.hash_of(key), key)
    }

    /// [`Cache::get`] of a key whose hash is known.
    #[inline]
    pub fn get_hashed(&mut self, hash: KeyHash, key: &[u8]) -> Option<Item<'_>> {
        self.get_if(hash, key, |_| true)
    }

    /// [`Cache::get_hashed`] of an item that `wanted` says yes to. One that it says no to is none, and does not count as
    /// read: for whoever has no room for it yet, and will ask again.
    #[inline]
    pub fn get_if(&mut self, hash: KeyHash, key: &[u8], wanted: impl FnOnce(&Glance) -> bool) -> Option<Item<'_>> {
        let place = self.live_place(hash.0, key)?;
        let Header { value_length, marks, .. } = place.header;
        if !wanted(&Glance { length: value_length, stale: marks.stale, won: marks.won }) {
            return None;
        }
        self.note_read(place.slot, true);
        if place.header.marks.accessed.is_some() {
            self.note_access(place.slot);
        }
        Some(self.item_of(place.slot, &self.record_of(&place)))
    }

    /// Lets the index know that an item was used once more, and whether it counts as hit.
    #[inline]
    pub(crate) fn note_read(&mut self, slot: Slot, hit: bool) {
        let frequency = frequency::read(self.eviction, slot.frequency, &mut self.random);
        if frequency != slot.frequency || hit != slot.hit {
            self.index.relocate(slot, slot.location, frequency, hit);
        }
    }

    /// The item under `key`, without counting as read.
    #[must_use]
    pub fn peek(&self, key: &[u8]) -> Option<Item<'_>> {
        self.peek_hashed(self.hash_of(key), key)
    }

    /// [`Cache::peek`] of a key whose hash is known.
    #[must_use]
    pub fn peek_hashed(&self, hash: KeyHash, key: &[u8]) -> Option<Item<'_>> {
        let found = self.find(hash.0, key)?;
        if self.end_of(&found).is_some() { None } else { Some(self.item_of(found.slot, &found.record)) }
    }

    /// Asks the processor to fetch the part of the index that a key of this hash is in. For a batch of requests: hash all
    /// keys and prefetch them, then [`Cache::prefetch_item`] all of them, then [`Cache::get_hashed`] or
    /// [`Cache::store_hashed`] one after the other: the waits for memory then overlap.
    #[inline]
    pub fn prefetch(&self, hash: KeyHash) {
        self.index.prefetch(hash.0);
    }

    /// Asks the processor to fetch the record of a key of this hash; reads the index for it.
    #[inline]
    pub fn prefetch_item(&self, hash: KeyHash) {
        self.index.candidates(hash.0, |location| self.segments.prefetch(location));
    }

    /// Removes the item under `key`; says whether it was there.
    pub fn delete(&mut self, key: &[u8]) -> bool {
        let found = self.live(self.hasher.hash(key), key).map(|found| (found.slot, found.record.length()));
        if let Some((slot, length)) = found {
            self.drop_item(slot, length);
        }
        found.is_some()
    }

    /// Drops every item: at once, or once the clock reaches `at` (unix seconds), and then those too that were stored
    /// in between. A later call replaces the time of an earlier one.
    pub fn flush(&mut self, at: Option<u64>) {
        match at {
            Some(at) if at > self.now => {
                self.flush_at = Some(at);
                self.write_superblock();
            }
            _ => self.flush_now(),
        }
    }

    fn flush_now(&mut self) {
        self.flush_at = None;
        // What is written from now on goes into other segments, so that the flushed ones can be dropped whole.
        (0..=NEVER).for_each(|bucket| self.seal(bucket));
        self.flushed = self.sequence;
        (self.totals.items, self.totals.item_bytes) = (0, 0);
        self.maintenance.sweep_flushed();
        self.write_superblock();
    }

    /// All items with their keys, in no order. It reads the whole memory: for tests and dumps.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Item<'_>)> {
        (0..self.segments.count())
            .filter(|id| !matches!(self.segments.get(*id).state, State::Free | State::Retired))
            .flat_map(|id| self.segments.records(Segments::first(id)))
            .filter_map(|(location, record)| {
                let slot = self.index.find_location(self.hasher.hash(record.key()), location)?;
                if !self.segments.is_sound(location, &record) {
                    return None;
                }
                let ended = self.end_of(&Found { slot, record }).is_some();
                if ended { None } else { Some((record.key(), self.item_of(slot, &record))) }
            })
    }

    /// Figures of the whole cache.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let size = u64::from(self.segments.size());
        Counters {
            items: self.totals.items,
            item_bytes: self.totals.item_bytes,
            stored: self.totals.stored,
            evicted: self.totals.evicted,
            expired: self.totals.expired,
            stalled: self.totals.stalled,
            damaged: self.totals.damaged,
            budget: self.budget as u64,
            index_bytes: self.index.bytes() as u64,
            segment_bytes: u64::from(self.segments.used_count()) * size,
            metadata_bytes: self.metadata_bytes as u64,
            segment_size: size,
            segments_used: self.segments.used_count().into(),
            segments_free: self.segments.free_count().into(),
            reservations: self.totals.reservations as u64,
        }
    }

    /// Figures of each TTL bucket that has segments, shortest TTL first, items that never expire last.
    pub fn ttl_buckets(&self) -> impl Iterator<Item = TtlBucket> {
        self.buckets.figures(&self.segments)
    }

    /// The item under `key` in the index, whether it has ended or not.
    #[inline]
    pub(crate) fn find(&self, hash: u64, key: &[u8]) -> Option<Found<'_>> {
        let of_key = |location| {
            let is_sought = |record: &Record<'_>| record.key() == key && self.segments.is_sound(location, record);
            self.segments.record(location).filter(is_sought)
        };
        let (slot, record) = self.index.find(hash, of_key)?;
        Some(Found { slot, record })
    }

    /// The live item under `key`; one that has ended leaves the index on the way.
    #[inline]
    pub(crate) fn live(&mut self, hash: u64, key: &[u8]) -> Option<Found<'_>> {
        let place = self.live_place(hash, key)?;
        Some(Found { slot: place.slot, record: self.record_of(&place) })
    }

    /// [`Cache::live`], without borrowing the record.
    #[inline]
    pub(crate) fn live_place(&mut self, hash: u64, key: &[u8]) -> Option<Place> {
        let found = self.find(hash, key)?;
        let (slot, length, end) = (found.slot, found.record.length(), self.end_of(&found));
        let Record { header, layout, .. } = found.record;
        match end {
            None => Some(Place { slot, header, layout }),
            Some(end) => {
                self.drop_ended(slot, length, end);
                None
            }
        }
    }

    /// The record of a place that has not changed since it was found.
    #[inline]
    pub(crate) fn record_of(&self, place: &Place) -> Record<'_> {
        self.segments.known_record(place.slot.location, place.header, place.layout)
    }

    /// Why an item is no longer served, if it is not.
    #[inline]
    pub(crate) fn end_of(&self, found: &Found<'_>) -> Option<End> {
        let segment = self.segments.get(found.slot.location.segment);
        if segment.base_sequence + found.record.header.sequence <= self.flushed {
            return Some(End::Flushed);
        }
        let expired = segment.width > 0 && segment.base_deadline + u64::from(found.record.header.deadline) < self.now;
        expired.then_some(End::Expired)
    }

    /// The item of a slot and its record.
    #[inline]
    pub(crate) fn item_of<'a>(&self, slot: Slot, record: &Record<'a>) -> Item<'a> {
        Item {
            value: record.value(),
            flags: record.header.flags,
            cas: self.cas_of(slot.location.segment, record),
            deadline: self.deadline_of(slot.location.segment, record),
            hit_before: slot.hit,
            stale: record.header.marks.stale,
            won: record.header.marks.won,
        }
    }

    pub(crate) fn cas_of(&self, segment: u32, record: &Record<'_>) -> u64 {
        record.header.cas.unwrap_or(self.segments.get(segment).base_sequence + record.header.sequence)
    }

    pub(crate) fn deadline_of(&self, segment: u32, record: &Record<'_>) -> Deadline {
        match self.segments.get(segment) {
            segment if segment.width == 0 => Deadline::Never,
            segment => Deadline::At(segment.base_deadline + u64::from(record.header.deadline)),
        }
    }

    /// Drops an item that has ended, and counts it as its end was.
    pub(crate) fn drop_ended(&mut self, slot: Slot, length: u32, end: End) {
        match end {
            End::Expired => {
                self.totals.expired += 1;
                self.drop_item(slot, length);
            }
            End::Flushed => {
                self.segments.kill(slot.location);
                // The flush has taken it out of the totals.
                self.index.remove(slot);
                self.leave_segment(slot.location.segment, length);
            }
        }
    }

    /// Takes an item that was not flushed out of the index and out of all counts.
    pub(crate) fn drop_item(&mut self, slot: Slot, length: u32) {
        self.index.remove(slot);
        self.uncount(slot.location, length);
    }

    /// Takes an item's record out of all counts, and lets it die.
    pub(crate) fn uncount(&mut self, location: Location, length: u32) {
        self.segments.kill(location);
        self.discount(location, length);
    }

    /// Takes an item's record out of all counts.
    pub(crate) fn discount(&mut self, location: Location, length: u32) {
        self.totals.items -= 1;
        self.totals.item_bytes -= u64::from(length);
        self.leave_segment(location.segment, length);
    }

    fn leave_segment(&mut self, id: u32, length: u32) {
        let aligned = self.segments.aligned(length);
        let segment = self.segments.get_mut(id);
        segment.live_items -= 1;
        segment.live_bytes -= aligned;
        self.free_if_dead(id);
    }

    /// Gives a sealed segment back as soon as nothing of it is alive.
    pub(crate) fn free_if_dead(&mut self, id: u32) {
        let segment = self.segments.get(id);
        if segment.live_items == 0 && segment.pins == 0 && segment.state == State::Sealed {
            self.buckets.remove(&mut self.segments, id);
            self.segments.free(id);
        }
    }
}

/// Why an item is no longer served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Its deadline has passed.
    Expired,
    /// It was stored before a flush.
    Flushed,
}

#[cfg(test)]
mod tests {
    use crate::{Cache, Deadline, Eviction, Settings};

    #[test]
    fn an_item_that_is_not_wanted_does_not_count_as_read() {
        let settings = Settings { budget: 8 << 20, max_item_size: 1 << 10, eviction: Eviction::Merge, seed: 1 };
        let mut cache = Cache::new(settings, 1_800_000_000).unwrap();
        cache.set(b"key", b"value", 0, Deadline::Never).unwrap();
        let hash = cache.hash_of(b"key");
        assert!(cache.get_if(hash, b"key", |item| item.length > 5 || item.stale || item.won).is_none());
        assert!(!cache.get_if(hash, b"key", |item| item.length == 5).unwrap().hit_before);
        assert!(cache.get(b"key").unwrap().hit_before);
    }
}

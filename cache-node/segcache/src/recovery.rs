//! Recovery: what is in a volume becomes a cache again.
//!
//! All segments are read, by as many threads as there are processors; each tells the one that fills the index which of
//! its records live. A record that is not whole is passed over: its head still says how long it is, since it is only ever
//! overwritten by one that is laid out the same. Where no record can be read, its segment ends.
//!
//! What was deleted, replaced or moved is dead in the volume ([`Segments::kill`]). Two living records of one key are there
//! only where the process ended between the birth of the one and the death of the other, or the machine wrote down the
//! first and not the second: the one with the higher sequence is the item, and the other one dies now.

use std::collections::HashSet;
use std::num::NonZero;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::thread;

use crate::bucket::NEVER;
use crate::cache::Cache;
use crate::chronicle::Chronicle;
use crate::hash::KeyHasher;
use crate::index::Index;
use crate::life::{self, Life};
use crate::segment::{Location, Segments, Vitality};
use crate::superblock::{SUPERBLOCKS, Superblock};
use crate::volume::Region;

/// Threads that read segments, at most: one that fills the index can follow no more.
const MOST_READERS: usize = 8;
/// Segments that were read and are not in the index yet, at most.
const MOST_AHEAD: usize = 8;
/// The numbers that are left out after a recovery, more than there are writes between two ticks: what was written and
/// deleted since the last of them has left no trace, but its CAS may be known.
const SEQUENCE_GAP: u64 = 1 << 26;
/// The most bytes that a deadline takes.
const MOST_WIDTH: u8 = 4;
/// Records whose places in the index are fetched together.
const BATCH: usize = 16;

/// How far a recovery is; for another thread to look at.
#[derive(Debug, Default)]
pub struct RecoveryProgress {
    segments: AtomicU32,
    done: AtomicU32,
}

impl RecoveryProgress {
    /// Segments that are in the index again, and those that are to be. Zero of zero: it has not begun.
    #[must_use]
    pub fn segments(&self) -> (u32, u32) {
        (self.done.load(Ordering::Relaxed), self.segments.load(Ordering::Relaxed))
    }
}

/// What a recovery has come to.
#[derive(Default)]
pub(crate) struct Tally {
    /// Records that were not whole.
    pub(crate) damaged: u64,
    /// No write has had a sequence after this.
    pub(crate) next_sequence: u64,
    pub(crate) from_snapshot: bool,
}

impl Tally {
    /// That of a start from a snapshot.
    pub(crate) fn snapshot(before: &Superblock) -> Tally {
        Tally { damaged: 0, next_sequence: before.sequence, from_snapshot: true }
    }
}

/// What is in a segment.
struct Reading {
    segment: u32,
    alive: Vec<Alive>,
    damaged: u64,
    /// Behind the last record that lives.
    written: u32,
    last_deadline: u64,
    last_sequence: u64,
}

/// A record that lives.
#[derive(Clone, Copy)]
struct Alive {
    hash: u64,
    sequence: u64,
    offset: u32,
    length: u32,
}

/// What readers need to know.
#[derive(Clone, Copy)]
struct Readers<'a> {
    segments: &'a Segments,
    hasher: KeyHasher,
    now: u64,
    flushed: u64,
    next: &'a AtomicU32,
    used: &'a [u32],
}

/// What the index has of a segment.
#[derive(Clone, Copy, Default)]
struct Count {
    items: u32,
    /// As they lie in the segment, and as they are.
    aligned: u32,
    bytes: u64,
}

impl Cache {
    /// Takes over the items of the volume as the epoch before has left it.
    pub(crate) fn recover(&mut self, before: &Superblock, progress: &RecoveryProgress) -> Tally {
        let lives = self.adopt_segments(before);
        let used: Vec<u32> = lives.iter().map(|(id, _)| *id).collect();
        progress.segments.store(used.len() as u32, Ordering::Relaxed);
        let (readings, counts, losers) = self.read_all(&used, before.items, progress);
        let damaged = readings.iter().map(|reading| reading.damaged).sum();
        let last_sequence =
            readings.iter().map(|reading| reading.last_sequence).max().unwrap_or(0).max(before.sequence);
        readings.iter().for_each(|reading| self.take_over(reading, counts[reading.segment as usize]));
        losers.into_iter().for_each(|location| self.segments.kill(location));
        let writes = lives.iter().map(|(_, life)| (life.base_sequence, life.written)).collect();
        self.chronicle = Chronicle::recovered(writes, self.now, last_sequence);
        // From the oldest to the youngest, which is the order of their chains.
        used.into_iter().for_each(|id| self.chain_or_free(id));
        Tally { damaged, next_sequence: last_sequence + SEQUENCE_GAP, from_snapshot: false }
    }

    /// Takes every segment into use that has a life; returns them with it, the oldest first.
    fn adopt_segments(&mut self, before: &Superblock) -> Vec<(u32, Life)> {
        let count = self.segments.count().min(before.segments as u32);
        let mut seen = HashSet::new();
        let mut lives: Vec<(u32, Life)> = (0..count)
            .filter_map(|id| Some((id, self.segments.life(id)?)))
            // Where shrinking a volume was interrupted, one life is in two places.
            .filter(|(_, life)| life.bucket <= NEVER && life.width <= MOST_WIDTH && seen.insert(life.number))
            .collect();
        lives.sort_unstable_by_key(|(id, life)| (life.created, *id));
        lives.iter().for_each(|(id, life)| self.segments.adopt(*id, life));
        self.segments.end_adoption();
        lives
    }

    /// What the index may take while so many segments are in use.
    fn most_index_bytes(&self, used: usize) -> usize {
        let segments = if self.shares_budget { used * self.segments.size() as usize } else { 0 };
        self.budget.saturating_sub(self.metadata_bytes + segments)
    }

    /// Reads segments, and files what lives. Returns what was read but for the records, what the index has of each segment,
    /// and the records that have a newer one beside them or no place in the index. `items` is about how many there are.
    fn read_all(
        &mut self,
        used: &[u32],
        items: u64,
        progress: &RecoveryProgress,
    ) -> (Vec<Reading>, Vec<Count>, Vec<Location>) {
        let most_bytes = self.most_index_bytes(used.len());
        let (now, flushed) = (self.now, self.flushed);
        let Cache { index, segments, hasher, .. } = self;
        let (segments, hasher) = (&*segments, *hasher);
        index.make_room_for(items, most_bytes);
        let next = AtomicU32::new(0);
        let readers = Readers { segments, hasher, now, flushed, next: &next, used };
        let (sender, receiver) = mpsc::sync_channel(MOST_AHEAD);
        let counts = vec![Count::default(); segments.count() as usize];
        let mut filing = Filing { index, segments, hasher, most_bytes, counts, losers: Vec::new(), homeless: 0 };
        let mut readings = Vec::with_capacity(used.len());
        thread::scope(|scope| {
            let threads = thread::available_parallelism().map_or(1, NonZero::get).min(MOST_READERS);
            for _ in 0..threads {
                let sender = sender.clone();
                scope.spawn(move || readers.read_segments(&sender));
            }
            // The last of the readers ends the loop.
            drop(sender);
            for mut reading in receiver {
                filing.file_all(reading.segment, &std::mem::take(&mut reading.alive));
                progress.done.fetch_add(1, Ordering::Relaxed);
                readings.push(reading);
            }
        });
        let Filing { counts, losers, homeless, .. } = filing;
        self.totals.evicted += homeless;
        (readings, counts, losers)
    }

    /// Notes what was found in a segment, and what the index has of it.
    fn take_over(&mut self, reading: &Reading, count: Count) {
        let segment = self.segments.get_mut(reading.segment);
        segment.written = reading.written;
        segment.last_deadline = reading.last_deadline;
        segment.last_sequence = reading.last_sequence;
        (segment.live_items, segment.live_bytes) = (count.items, count.aligned);
        self.totals.items += u64::from(count.items);
        self.totals.item_bytes += count.bytes;
    }

    /// Puts a segment at the end of its chain, or frees it if nothing lives there.
    fn chain_or_free(&mut self, id: u32) {
        let bucket = self.segments.get(id).bucket;
        let tail = self.buckets.get(bucket).tail;
        self.buckets.insert(&mut self.segments, bucket, tail, id);
        self.free_if_dead(id);
    }
}

impl Readers<'_> {
    /// Reads one segment after the other that no other reader has taken.
    fn read_segments(self, sender: &SyncSender<Reading>) {
        loop {
            let turn = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(id) = self.used.get(turn as usize) else { return };
            if sender.send(self.read(*id)).is_err() {
                return;
            }
        }
    }

    fn read(self, id: u32) -> Reading {
        let segment = self.segments.get(id);
        let first = Segments::first(id);
        let mut reading = Reading {
            segment: id,
            alive: Vec::new(),
            damaged: 0,
            written: first.offset,
            last_deadline: segment.base_deadline,
            last_sequence: segment.base_sequence,
        };
        for (location, record) in self.segments.records(first) {
            match self.segments.vitality(location, &record) {
                Vitality::Dead => continue,
                Vitality::Damaged => {
                    reading.damaged += 1;
                    continue;
                }
                Vitality::Alive => reading.written = self.segments.following(location, &record.layout).offset,
            }
            let sequence = segment.base_sequence.saturating_add(record.header.sequence);
            let deadline = segment.base_deadline.saturating_add(record.header.deadline.into());
            if sequence <= self.flushed || segment.width > 0 && deadline < self.now {
                continue;
            }
            reading.last_sequence = reading.last_sequence.max(sequence);
            reading.last_deadline = reading.last_deadline.max(deadline);
            let hash = self.hasher.hash(record.key());
            reading.alive.push(Alive { hash, sequence, offset: location.offset, length: record.length() });
        }
        reading
    }
}

/// The index while it is filled.
struct Filing<'a> {
    index: &'a mut Index,
    segments: &'a Segments,
    hasher: KeyHasher,
    /// The index takes no more than this.
    most_bytes: usize,
    counts: Vec<Count>,
    /// Records that must die.
    losers: Vec<Location>,
    /// Of those, the ones that found no place in the index.
    homeless: u64,
}

impl Filing<'_> {
    fn file_all(&mut self, segment: u32, alive: &[Alive]) {
        for batch in alive.chunks(BATCH) {
            batch.iter().for_each(|alive| self.index.prefetch(alive.hash));
            for alive in batch {
                self.file(Location { segment, offset: alive.offset }, alive);
            }
        }
    }

    /// Files a record, unless there is a newer one of its key; of two that are the same one is enough.
    fn file(&mut self, location: Location, alive: &Alive) {
        let segments = self.segments;
        let same_key = |other| {
            let (one, other) = (segments.record(location)?, segments.record(other)?);
            (one.key() == other.key()).then_some((other.length(), other.header.sequence))
        };
        match self.index.find(alive.hash, same_key) {
            Some((slot, (_, sequence)))
                if segments.get(slot.location.segment).base_sequence + sequence >= alive.sequence =>
            {
                self.losers.push(location);
            }
            Some((slot, (length, _))) => {
                self.uncount(slot.location, length);
                self.losers.push(slot.location);
                self.index.relocate(slot, location, 0, false);
                self.count(location, alive.length);
            }
            None if self.insert(alive.hash, location) => self.count(location, alive.length),
            None => {
                self.losers.push(location);
                self.homeless += 1;
            }
        }
    }

    fn insert(&mut self, hash: u64, location: Location) -> bool {
        let (segments, hasher) = (self.segments, self.hasher);
        let hash_of = |location| segments.record(location).map_or(0, |record| hasher.hash(record.key()));
        while self.index.wants_growth() && self.index.bytes_grown() <= self.most_bytes {
            for homeless in self.index.grow(|location| segments.prefetch(location), hash_of) {
                let length = segments.record(homeless).map_or(0, |record| record.length());
                self.uncount(homeless, length);
                self.losers.push(homeless);
                self.homeless += 1;
            }
        }
        self.index.insert(hash, location, 0, hash_of)
    }

    fn count(&mut self, location: Location, length: u32) {
        let count = &mut self.counts[location.segment as usize];
        count.items += 1;
        count.aligned += self.segments.aligned(length);
        count.bytes += u64::from(length);
    }

    fn uncount(&mut self, location: Location, length: u32) {
        let count = &mut self.counts[location.segment as usize];
        count.items -= 1;
        count.aligned -= self.segments.aligned(length);
        count.bytes -= u64::from(length);
    }
}

/// Moves the youngest segments of a volume into its first ones, as many as it keeps: those that `most_bytes` hold together
/// with their share of the index. A segment may lie anywhere: its checksums know nothing of its place.
pub(crate) fn shrink(region: &mut Region, before: &Superblock, now: &Superblock, most_bytes: usize) {
    let size = before.segment_size as usize;
    let start = |id: u64| SUPERBLOCKS + id as usize * size;
    let mut lives: Vec<(u64, u64)> = (0..before.segments)
        .filter_map(|id| Some((Life::decode(&region.bytes()[start(id)..], before.secret)?.created, id)))
        .collect();
    lives.sort_unstable();
    let index = Index::bytes_for(before.items / lives.len().max(1) as u64);
    let most = (now.segments as usize).min(most_bytes / (size + index));
    let kept = lives.split_off(lives.len().saturating_sub(most));
    let bytes = region.bytes_mut();
    for (_, id) in lives {
        bytes[start(id)..start(id) + life::FREE.len()].copy_from_slice(&life::FREE);
    }
    let kept: HashSet<u64> = kept.into_iter().map(|(_, id)| id).collect();
    let places = (0..now.segments).filter(|id| !kept.contains(id));
    for (id, place) in kept.iter().filter(|id| **id >= now.segments).zip(places) {
        bytes.copy_within(start(*id)..start(*id) + size, start(place));
    }
    // The file is cut only when this says how long it is to be.
    let (at, superblock) = Superblock { generation: before.generation + 1, ..*now }.encode();
    bytes[at..at + superblock.len()].copy_from_slice(&superblock);
}

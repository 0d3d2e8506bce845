//! Merges: some segments of a TTL bucket become one that keeps the records that were read most for their size
//! (Segcache, NSDI '21, section 3.5). Without loss, where all that lives in them fits into one, that is a compaction.

use crate::cache::Cache;
use crate::index::{MAX_FREQUENCY, Slot};
use crate::maintenance::{BATCH, HELD_BACK, Job};
use crate::record::{Header, MAX_HEADER, leb128_length};
use crate::segment::{Location, NONE, Segment, Segments, State};

/// Segments that one merge takes at most.
const MOST_SOURCES: usize = 4;
/// Classes of worth, the least worth first.
const CLASSES: usize = 64;
/// Buckets that are tried before eviction falls back to dropping a segment.
const TRIES: usize = 16;

/// A merge under way.
pub(crate) struct Merge {
    /// What is merged, oldest first; it is read from the last to the first, so that of records of equal worth the
    /// youngest are kept.
    sources: [u32; MOST_SOURCES],
    count: usize,
    target: u32,
    phase: Phase,
    /// The source that is being read, counted from the end, and where in it.
    at: usize,
    next: Location,
    /// The bytes of the records of each class.
    classes: [u32; CLASSES],
    /// Records of a better class are kept, of this class until `quota` bytes are kept, of a lesser class none.
    cut: usize,
    quota: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Finds out how much there is of each class.
    Survey,
    /// Copies what is kept and drops the rest.
    Copy,
}

impl Cache {
    /// A merge that makes room by dropping the least worth records of neighbouring segments.
    pub(crate) fn merge_job(&mut self) -> Option<Job> {
        for _ in 0..TRIES {
            // A segment taken at random: buckets with more segments have their turn more often.
            let id = self.random.below(self.segments.count() as usize) as u32;
            if self.is_mergeable(id) {
                let bucket = self.segments.get(id).bucket;
                for from in [self.buckets.get(bucket).merge_next, self.buckets.get(bucket).head] {
                    let (sources, count) = self.neighbours(bucket, from);
                    if count > 1 {
                        let last = sources[count - 1];
                        self.buckets.get_mut(bucket).merge_next = self.segments.get(last).next;
                        return self.start_merge(sources, count, Phase::Survey);
                    }
                }
            }
        }
        None
    }

    /// A merge of two sparse segments into one, in which nothing is lost. Looks at some segments from where the last
    /// search ended; `share` is how much of a segment the two may fill, in percent.
    pub(crate) fn compaction_job(&mut self, looked_at: u32, share: u64) -> Option<Job> {
        let count = self.segments.count();
        for _ in 0..looked_at.min(count) {
            let id = self.maintenance.cursor % count;
            self.maintenance.cursor = (id + 1) % count;
            if !self.is_mergeable(id) {
                continue;
            }
            let bucket = self.segments.get(id).bucket;
            let other = self.buckets.get(bucket).sparse;
            let known =
                other != NONE && other != id && self.is_mergeable(other) && self.segments.get(other).bucket == bucket;
            if known && self.fit_into_one(other, id, share) {
                self.buckets.get_mut(bucket).sparse = NONE;
                let mut sources = [NONE; MOST_SOURCES];
                let pair = if self.segments.get(id).created < self.segments.get(other).created {
                    [id, other]
                } else {
                    [other, id]
                };
                sources[..2].copy_from_slice(&pair);
                return self.start_merge(sources, 2, Phase::Copy);
            }
            if !known || self.segments.get(id).live_bytes < self.segments.get(other).live_bytes {
                self.buckets.get_mut(bucket).sparse = id;
            }
        }
        None
    }

    fn is_mergeable(&self, id: u32) -> bool {
        let segment = self.segments.get(id);
        segment.state == State::Sealed && segment.pins == 0
    }

    /// Segments that follow each other in the chain from `from` on and whose deadlines one segment can express.
    fn neighbours(&self, bucket: u16, from: u32) -> ([u32; MOST_SOURCES], usize) {
        let (mut sources, mut count) = ([NONE; MOST_SOURCES], 0);
        for id in self.buckets.chain(&self.segments, from) {
            if count == MOST_SOURCES || !self.is_mergeable(id) {
                break;
            }
            sources[count] = id;
            if !self.is_expressible(&sources[..=count]) {
                break;
            }
            count += 1;
        }
        debug_assert!(sources[..count].iter().all(|id| self.segments.get(*id).bucket == bucket));
        (sources, count)
    }

    fn is_expressible(&self, sources: &[u32]) -> bool {
        let base = sources.iter().map(|id| self.segments.get(*id).base_deadline).min().unwrap_or(0);
        let last = sources.iter().map(|id| self.segments.get(*id).last_deadline).max().unwrap_or(0);
        let width = self.segments.get(sources[0]).width;
        last <= Segment { base_deadline: base, ..*self.segments.get(sources[0]) }.farthest_deadline()
            && sources.iter().all(|id| self.segments.get(*id).width == width)
    }

    /// Whether all live records of two segments fit into one, in the longest form that they can take there.
    fn fit_into_one(&self, a: u32, b: u32, share: u64) -> bool {
        let (first, second) = (self.segments.get(a), self.segments.get(b));
        let range = first.last_sequence.max(second.last_sequence) - first.base_sequence.min(second.base_sequence);
        // The sequence can get longer, by all but its first byte, and then the record is aligned anew.
        let growth = self.segments.aligned(leb128_length(range) as u32 - 1);
        let items = u64::from(first.live_items) + u64::from(second.live_items);
        let bytes = u64::from(first.live_bytes) + u64::from(second.live_bytes) + items * u64::from(growth);
        bytes * 100 <= u64::from(self.segments.capacity()) * share && self.is_expressible(&[a, b])
    }

    fn start_merge(&mut self, sources: [u32; MOST_SOURCES], count: usize, phase: Phase) -> Option<Job> {
        let merged = &sources[..count];
        let target = self.segments.take()?;
        let of = |id: &u32| *self.segments.get(*id);
        let fresh = Segment {
            state: State::Busy,
            width: of(&merged[0]).width,
            base_deadline: merged.iter().map(|id| of(id).base_deadline).min().unwrap_or(0),
            last_deadline: merged.iter().map(|id| of(id).base_deadline).min().unwrap_or(0),
            base_sequence: merged.iter().map(|id| of(id).base_sequence).min().unwrap_or(0),
            last_sequence: merged.iter().map(|id| of(id).last_sequence).max().unwrap_or(0),
            ..*self.segments.get(target)
        };
        let (bucket, last) = (of(&merged[0]).bucket, merged[count - 1]);
        *self.segments.get_mut(target) = fresh;
        self.buckets.insert(&mut self.segments, bucket, last, target);
        for id in merged {
            self.segments.get_mut(*id).state = State::Busy;
        }
        let mut merge = Merge {
            sources,
            count,
            target,
            phase,
            at: 0,
            next: Segments::first(last),
            classes: [0; CLASSES],
            cut: 0,
            quota: u32::MAX,
        };
        if phase == Phase::Survey {
            merge.quota = 0;
        }
        Some(Job::Merge(merge))
    }

    /// Reads the next records of a merge; returns it if it is not done.
    pub(crate) fn merge_step(&mut self, mut merge: Merge) -> Option<Merge> {
        let (batch, next) = self.batch(merge.next);
        let mut found = [None; BATCH];
        for (place, (hash, location)) in found.iter_mut().zip(batch.into_iter().flatten()) {
            *place = self.index.find_location(hash, location);
        }
        for slot in found.into_iter().flatten() {
            match merge.phase {
                Phase::Survey => self.survey(&mut merge, slot),
                Phase::Copy => self.keep_or_drop(&mut merge, slot),
            }
        }
        if let Some(next) = next {
            merge.next = next;
            return Some(merge);
        }
        if merge.phase == Phase::Copy {
            self.free_busy(merge.sources[merge.count - 1 - merge.at]);
        }
        merge.at += 1;
        if merge.at == merge.count {
            if merge.phase == Phase::Copy {
                self.finish_merge(merge.target);
                return None;
            }
            merge.decide(self.segments.capacity());
        }
        merge.next = Segments::first(merge.sources[merge.count - 1 - merge.at]);
        Some(merge)
    }

    fn survey(&self, merge: &mut Merge, slot: Slot) {
        let Some((header, length)) = self.moved_header(merge.target, slot) else { return };
        let record = crate::cache::Found { slot, record: header.1 };
        if self.end_of(&record).is_none() {
            merge.classes[class(slot.frequency, length)] += self.segments.aligned(length);
        }
    }

    fn keep_or_drop(&mut self, merge: &mut Merge, slot: Slot) {
        let Some(((header, record), length)) = self.moved_header(merge.target, slot) else { return };
        let (old_length, layout) = (record.length(), record.layout);
        let deadline = self.deadline_of(slot.location.segment, &record);
        if let Some(end) = self.end_of(&crate::cache::Found { slot, record }) {
            return self.drop_ended(slot, old_length, end);
        }
        let aligned = self.segments.aligned(length);
        let class = class(slot.frequency, length);
        let kept = class > merge.cut || class == merge.cut && merge.quota >= aligned;
        if !kept || !self.segments.has_room(merge.target, length) {
            self.totals.evicted += 1;
            return self.drop_item(slot, old_length);
        }
        if class == merge.cut {
            merge.quota -= aligned;
        }
        let mut head = [0; MAX_HEADER];
        let head_length = header.encode(usize::from(self.segments.get(merge.target).width), &mut head);
        let (location, out) = self.segments.append(merge.target, length);
        out[..head_length].copy_from_slice(&head[..head_length]);
        let body = header.key_length + header.value_length;
        self.segments.copy((slot.location, layout.key), (location, head_length), body);
        self.index.relocate(slot, location, slot.frequency / 2, slot.hit);
        let target = self.segments.get_mut(merge.target);
        target.live_items += 1;
        target.live_bytes += aligned;
        self.totals.items += 1;
        self.totals.item_bytes += u64::from(length);
        self.note_deadline(merge.target, deadline);
        self.uncount(slot.location.segment, old_length);
    }

    /// The header that a record has in the target of a merge, the record itself, and the length that it will have.
    fn moved_header(&self, target: u32, slot: Slot) -> Option<((Header, crate::segment::Record<'_>), u32)> {
        let record = self.segments.record(slot.location)?;
        let (from, to) = (self.segments.get(slot.location.segment), self.segments.get(target));
        let deadline = from.base_deadline + u64::from(record.header.deadline) - to.base_deadline;
        let header = Header {
            sequence: from.base_sequence + record.header.sequence - to.base_sequence,
            sequence_width: 0,
            deadline: if to.width == 0 { 0 } else { deadline as u32 },
            ..record.header
        };
        let length = header.record_length(usize::from(to.width)) as u32;
        Some(((header, record), length))
    }

    fn finish_merge(&mut self, target: u32) {
        self.segments.get_mut(target).state = State::Sealed;
        if self.segments.get(target).base_sequence < self.flushed {
            // A flush in the middle of the merge had to pass this segment by.
            self.maintenance.sweep_flushed();
        }
        self.free_if_dead(target);
    }

    /// Whether there is a segment to merge into.
    pub(crate) fn can_merge(&self) -> bool {
        self.segments.free_count() >= HELD_BACK
    }
}

impl Merge {
    /// Decides which classes are kept, from the best down, until a segment is full.
    fn decide(&mut self, capacity: u32) {
        let mut left = capacity;
        self.cut = 0;
        for class in (0..CLASSES).rev() {
            if self.classes[class] > left {
                self.cut = class;
                break;
            }
            left -= self.classes[class];
        }
        (self.quota, self.phase, self.at) = (left, Phase::Copy, 0);
    }
}

/// How much a record is worth: reads for its length, on a scale of which four steps are a doubling.
fn class(frequency: u8, length: u32) -> usize {
    // Below an eighth of a read for 64 KiB nothing is told apart.
    let reads = (8 * reads(frequency) + 1) << 24;
    let worth = (reads / u64::from(length.max(1))).max(1);
    let doubling = worth.ilog2();
    let quarter = if doubling < 2 { 0 } else { (worth >> (doubling - 2)) & 3 };
    (4 * doubling as usize + quarter as usize).saturating_sub(4 * LEAST_DOUBLING).min(CLASSES - 1)
}

const LEAST_DOUBLING: usize = 10;

/// About how many reads a frequency of the index stands for.
fn reads(frequency: u8) -> u64 {
    match frequency.min(MAX_FREQUENCY) {
        frequency @ ..=3 => frequency.into(),
        frequency => (1 << (frequency - 2)) + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::{CLASSES, class};

    #[test]
    fn more_reads_and_fewer_bytes_are_worth_more() {
        for frequency in 0..15 {
            for length in [20, 60, 100, 1000] {
                assert!(class(frequency + 1, length) >= class(frequency, length));
                assert!(
                    class(frequency, length) > class(frequency, 2 * length) || class(frequency, length) == CLASSES - 1
                );
            }
        }
    }
}

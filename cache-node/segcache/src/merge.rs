//! Merges: some segments of a TTL bucket become one that keeps the records that were read most for their size
//! (Segcache, NSDI '21, section 3.5). Compactions, in which nothing is lost, and the queues of S3-FIFO copy in the same
//! way.

use crate::Eviction;
use crate::cache::{Cache, Found};
use crate::frequency::{self, CLASSES};
use crate::index::Slot;
use crate::maintenance::{BATCH, HELD_BACK, Job};
use crate::record::{Header, MAX_HEADER, WIDE_SEQUENCE};
use crate::segment::{Location, NONE, Record, Segment, Segments, State};

/// Segments that one merge takes at most.
pub(crate) const MOST_SOURCES: usize = 8;
/// Draws of a segment at random until one is found whose bucket has something to merge.
const DRAWS: usize = 16;
/// So much of the memory, in percent, is worth keeping when its turn to be merged comes: as many segments are merged as
/// it takes for one to be free by that, and then what they become is filled. What is dead counts as not kept, so that
/// where there is enough of it nothing that lives has to go.
const KEPT: u64 = 75;
/// Even where much is dead, some percent of what lives go: what nobody reads does not stay for ever.
const MOST_KEPT: u64 = 98;
/// A segment is passed by if more of it than this, in percent, is worth keeping.
const DENSE: u64 = 95;
/// After so many segments in a row that were passed by, the next is merged whatever it holds.
const MOST_PASSED: u32 = 16;

/// A merge under way.
pub(crate) struct Merge {
    /// What is merged, oldest first. It is surveyed in this order, and copied from the last to the first, so that of
    /// records of equal worth the youngest are kept.
    sources: [u32; MOST_SOURCES],
    count: usize,
    target: u32,
    phase: Phase,
    /// The source that is being read, and where in it.
    at: usize,
    next: Location,
    /// The bytes of the records of each class, of all sources and of the one that is being read.
    classes: [u32; CLASSES],
    /// Records above this class are kept, and those of this class while `quota` lasts, at first a share in thousandths.
    cut: usize,
    share: u64,
    quota: u64,
    rule: Rule,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Finds out how much there is of each class.
    Survey,
    /// Lets a segment that is passed by grow older.
    Age,
    /// Copies what is kept and drops the rest.
    Copy,
}

/// What a merge keeps.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Everything.
    All,
    /// The records that were read most for their size.
    Worthiest,
    /// The records that were read at least so often.
    ReadAtLeast(u8),
}

impl Rule {
    /// The class of a record, of which the higher are kept.
    fn class(self, frequency: u8, length: u32) -> usize {
        match self {
            Rule::All => 0,
            Rule::Worthiest => frequency::class(frequency, length),
            Rule::ReadAtLeast(_) => usize::from(frequency),
        }
    }
}

/// What merges have learnt of all segments: the bytes of each class, older ones fading.
pub(crate) struct Worth {
    bytes: [u64; CLASSES],
    passed: u32,
}

impl Worth {
    pub(crate) fn new() -> Worth {
        Worth { bytes: [0; CLASSES], passed: 0 }
    }

    /// Whether a segment may be passed by: not as long as nothing is known to compare it with.
    fn knows_enough_to_pass(&self) -> bool {
        self.passed < MOST_PASSED && self.bytes.iter().any(|bytes| *bytes > 0)
    }

    fn learn(&mut self, classes: &[u32; CLASSES], memory: u64) {
        for (sum, bytes) in self.bytes.iter_mut().zip(classes) {
            *sum += u64::from(*bytes);
        }
        if self.bytes.iter().sum::<u64>() > memory {
            self.bytes.iter_mut().for_each(|sum| *sum /= 2);
        }
    }

    /// The class above which a record is worth keeping if `percent` of all that lives is to be kept, and how much of
    /// that class itself, in thousandths.
    fn cut(&self, percent: u64) -> (usize, u64) {
        let mut left = self.bytes.iter().sum::<u64>() * percent / 100;
        if left == 0 {
            return (0, 1000);
        }
        for class in (0..CLASSES).rev() {
            if self.bytes[class] > left {
                return (class, left * 1000 / self.bytes[class]);
            }
            left -= self.bytes[class];
        }
        (0, 1000)
    }
}

impl Cache {
    /// A merge that makes room by dropping the least worth records of neighbouring segments.
    pub(crate) fn merge_job(&mut self) -> Option<Job> {
        for _ in 0..DRAWS {
            // A segment taken at random: buckets with more segments have their turn more often.
            let id = self.random.below(self.segments.count() as usize) as u32;
            if self.is_mergeable(id) {
                let bucket = self.segments.get(id).bucket;
                for from in [self.buckets.get(bucket).merge_next, self.buckets.get(bucket).head] {
                    let (sources, count) = self.neighbours(from, |_| true);
                    if count > 1 {
                        return self.start_merge(sources, count, Rule::Worthiest, sources[count - 1]);
                    }
                }
            }
        }
        None
    }

    /// A merge of the neighbours of a segment that are in the same queue.
    pub(crate) fn queue_job(&mut self, id: u32, rule: Rule) -> Option<Job> {
        let main = self.segments.get(id).survived;
        let (sources, count) = self.neighbours(id, |segment| segment.survived == main);
        // One segment of the main queue alone would be copied for nothing.
        if count < 1 + usize::from(main) { None } else { self.start_merge(sources, count, rule, sources[count - 1]) }
    }

    pub(crate) fn is_mergeable(&self, id: u32) -> bool {
        let segment = self.segments.get(id);
        segment.state == State::Sealed && segment.pins == 0
    }

    /// Segments that follow each other in the chain from `from` on and whose deadlines one segment can express.
    fn neighbours(&self, from: u32, fits: impl Fn(&Segment) -> bool) -> ([u32; MOST_SOURCES], usize) {
        let (mut sources, mut count) = ([NONE; MOST_SOURCES], 0);
        for id in self.buckets.chain(&self.segments, from) {
            if count == MOST_SOURCES || !self.is_mergeable(id) || !fits(self.segments.get(id)) {
                break;
            }
            sources[count] = id;
            if !self.is_expressible(&sources[..=count]) {
                break;
            }
            count += 1;
        }
        (sources, count)
    }

    pub(crate) fn is_expressible(&self, sources: &[u32]) -> bool {
        let base = sources.iter().map(|id| self.segments.get(*id).base_deadline).min().unwrap_or(0);
        let last = sources.iter().map(|id| self.segments.get(*id).last_deadline).max().unwrap_or(0);
        let width = self.segments.get(sources[0]).width;
        last <= Segment { base_deadline: base, ..*self.segments.get(sources[0]) }.farthest_deadline()
            && sources.iter().all(|id| self.segments.get(*id).width == width)
    }

    /// Begins to merge segments, oldest first, into one behind `after`, which is one of them.
    pub(crate) fn start_merge(
        &mut self,
        sources: [u32; MOST_SOURCES],
        count: usize,
        rule: Rule,
        after: u32,
    ) -> Option<Job> {
        let merged = &sources[..count];
        merged.iter().for_each(|id| self.verify(*id));
        let target = self.take_target(merged, rule, after)?;
        for id in merged {
            self.segments.get_mut(*id).state = State::Busy;
        }
        let mut merge = Merge {
            sources,
            count,
            target,
            phase: Phase::Survey,
            at: 0,
            next: Segments::first(merged[0]),
            classes: [0; CLASSES],
            cut: 0,
            share: 0,
            quota: u64::MAX,
            rule,
        };
        match rule {
            Rule::All => self.begin_copy(&mut merge),
            Rule::Worthiest => {
                let used = u64::from(self.segments.used_count()) * u64::from(self.segments.capacity());
                let percent = (KEPT * used / self.totals.item_bytes.max(1)).min(MOST_KEPT);
                (merge.cut, merge.share) = self.maintenance.worth.cut(percent);
                let bucket = self.segments.get(target).bucket;
                self.buckets.get_mut(bucket).merge_next = self.segments.get(target).next;
            }
            Rule::ReadAtLeast(reads) => (merge.cut, merge.quota) = (usize::from(reads) - 1, 0),
        }
        Some(Job::Merge(merge))
    }

    /// A free segment that can take the records of these, busy, in their chain behind `after`.
    fn take_target(&mut self, sources: &[u32], rule: Rule, after: u32) -> Option<u32> {
        let target = self.segments.take()?;
        let of = |id: &u32| *self.segments.get(*id);
        let base_deadline = sources.iter().map(|id| of(id).base_deadline).min().unwrap_or(0);
        let (bucket, width) = (of(&after).bucket, of(&after).width);
        let fresh = Segment {
            state: State::Busy,
            width,
            survived: rule != Rule::All || sources.iter().all(|id| of(id).survived),
            base_deadline,
            last_deadline: base_deadline,
            base_sequence: sources.iter().map(|id| of(id).base_sequence).min().unwrap_or(0),
            last_sequence: sources.iter().map(|id| of(id).last_sequence).max().unwrap_or(0),
            // What is moved together is no younger for it.
            created: match rule {
                Rule::All => sources.iter().map(|id| of(id).created).max().unwrap_or(0),
                Rule::Worthiest | Rule::ReadAtLeast(_) => self.segments.get(target).created,
            },
            ..*self.segments.get(target)
        };
        *self.segments.get_mut(target) = fresh;
        self.buckets.insert(&mut self.segments, bucket, after, target);
        self.begin_life(target);
        Some(target)
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
                Phase::Age => self.index.relocate(slot, slot.location, frequency::aged(slot.frequency), slot.hit),
                Phase::Copy => self.keep_or_drop(&mut merge, slot),
            }
        }
        if let Some(next) = next {
            merge.next = next;
            return Some(merge);
        }
        match merge.phase {
            Phase::Survey => self.surveyed(&mut merge),
            Phase::Age => self.aged(&mut merge),
            Phase::Copy => {
                self.free_busy(merge.sources[merge.at]);
                if merge.at == 0 {
                    self.seal_merged(merge.target);
                    return None;
                }
                merge.at -= 1;
                merge.next = Segments::first(merge.sources[merge.at]);
            }
        }
        // All sources were passed by.
        if merge.count == 0 {
            self.free_busy(merge.target);
            return None;
        }
        Some(merge)
    }

    /// Decides on the source that was surveyed last, and goes on to the next, or to copying.
    fn surveyed(&mut self, merge: &mut Merge) {
        let capacity = u64::from(self.segments.capacity());
        let kept = merge.kept();
        let may_pass = merge.rule == Rule::Worthiest && self.maintenance.worth.knows_enough_to_pass();
        if merge.at == 0 && may_pass && kept * 100 > capacity * DENSE {
            self.maintenance.worth.passed += 1;
            self.maintenance.worth.learn(&merge.classes, capacity * u64::from(self.segments.count()));
            merge.phase = Phase::Age;
            merge.next = Segments::first(merge.sources[0]);
            return;
        }
        merge.at += 1;
        // Enough is enough: one segment more is free in the end.
        let enough = merge.at > 1 && kept + capacity <= capacity * merge.at as u64;
        if merge.at < merge.count && !enough {
            merge.next = Segments::first(merge.sources[merge.at]);
            return;
        }
        for unused in &merge.sources[merge.at..merge.count] {
            self.segments.get_mut(*unused).state = State::Sealed;
        }
        let unused = merge.sources[merge.at..merge.count].first().copied();
        for unused in &merge.sources[merge.at..merge.count] {
            self.free_if_dead(*unused);
        }
        if merge.rule == Rule::Worthiest {
            self.maintenance.worth.passed = 0;
            self.maintenance.worth.learn(&merge.classes, capacity * u64::from(self.segments.count()));
            if let Some(unused) = unused.filter(|id| self.segments.get(*id).state == State::Sealed) {
                let bucket = self.segments.get(unused).bucket;
                self.buckets.get_mut(bucket).merge_next = unused;
            }
        }
        // What was merged stays where it was in the chain: before what was not, or the next merge would see it again.
        let (bucket, last) = (self.segments.get(merge.target).bucket, merge.sources[merge.at - 1]);
        self.buckets.remove(&mut self.segments, merge.target);
        self.buckets.insert(&mut self.segments, bucket, last, merge.target);
        merge.count = merge.at;
        if merge.rule == Rule::Worthiest || merge.kept() > capacity * (merge.count as u64 - 1).max(1) {
            merge.decide(capacity * (merge.count as u64 - 1).max(1));
        }
        self.begin_copy(merge);
    }

    fn begin_copy(&mut self, merge: &mut Merge) {
        merge.phase = Phase::Copy;
        merge.at = merge.count - 1;
        merge.next = Segments::first(merge.sources[merge.at]);
    }

    /// Lets a source go that was passed by.
    fn aged(&mut self, merge: &mut Merge) {
        let passed = merge.sources[0];
        self.segments.get_mut(passed).state = State::Sealed;
        self.free_if_dead(passed);
        merge.sources.copy_within(1..merge.count, 0);
        merge.count -= 1;
        merge.classes = [0; CLASSES];
        merge.phase = Phase::Survey;
        if merge.count == 1 {
            // One alone would be copied for nothing.
            let last = merge.sources[0];
            self.segments.get_mut(last).state = State::Sealed;
            self.free_if_dead(last);
            merge.count = 0;
        }
        merge.next = Segments::first(merge.sources[0]);
    }

    fn survey(&self, merge: &mut Merge, slot: Slot) {
        let Some((_, record, length)) = self.moved(merge.target, slot) else { return };
        if self.end_of(&Found { slot, record }).is_none() {
            merge.classes[merge.rule.class(slot.frequency, length)] += self.segments.aligned(length);
        }
    }

    fn keep_or_drop(&mut self, merge: &mut Merge, slot: Slot) {
        let Some((header, record, length)) = self.moved(merge.target, slot) else { return };
        let (old_length, layout) = (record.length(), record.layout);
        let deadline = self.deadline_of(slot.location.segment, &record);
        if let Some(end) = self.end_of(&Found { slot, record }) {
            return self.drop_ended(slot, old_length, end);
        }
        let aligned = self.segments.aligned(length);
        let class = merge.rule.class(slot.frequency, length);
        let kept = class > merge.cut || class == merge.cut && merge.quota >= u64::from(aligned);
        if !kept || !self.has_room_in_target(merge, length) {
            self.totals.evicted += 1;
            self.note_eviction(slot.location);
            self.remember(slot);
            return self.drop_item(slot, old_length);
        }
        if class == merge.cut {
            merge.quota -= u64::from(aligned);
        }
        let mut head = [0; MAX_HEADER];
        let head_length = header.encode(usize::from(self.segments.get(merge.target).width), &mut head);
        let (location, out) = self.segments.append(merge.target, length);
        out[..head_length].copy_from_slice(&head[..head_length]);
        let body = header.key_length + header.value_length;
        self.segments.copy((slot.location, layout.key), (location, head_length), body);
        self.segments.enliven(location);
        let frequency = if merge.rule == Rule::All { slot.frequency } else { frequency::aged(slot.frequency) };
        self.index.relocate(slot, location, frequency, slot.hit);
        let target = self.segments.get_mut(merge.target);
        target.live_items += 1;
        target.live_bytes += aligned;
        self.totals.items += 1;
        self.totals.item_bytes += u64::from(length);
        self.note_deadline(merge.target, deadline);
        self.segments.doom(slot.location);
        self.discount(slot.location, old_length);
    }

    fn begin_life(&mut self, target: u32) {
        let written = self.chronicle.written_at(self.segments.get(target).base_sequence);
        self.segments.begin_life(target, written);
    }

    /// Whether a record fits into the target; a full one is followed by another while there are free segments.
    fn has_room_in_target(&mut self, merge: &mut Merge, length: u32) -> bool {
        if self.segments.has_room(merge.target, length) {
            return true;
        }
        // It has the same bases as the first: headers are the same in all of them.
        let next = self.take_target(&merge.sources[..merge.at + 1], merge.rule, merge.target);
        let Some(next) = next else { return false };
        let full = *self.segments.get(merge.target);
        let target = self.segments.get_mut(next);
        (target.base_deadline, target.last_deadline) = (full.base_deadline, full.base_deadline);
        (target.base_sequence, target.last_sequence) = (full.base_sequence, full.last_sequence);
        target.survived = full.survived;
        self.begin_life(next);
        self.seal_merged(std::mem::replace(&mut merge.target, next));
        true
    }

    /// The header that a record has in the target of a merge, the record itself, and the length that it will have.
    fn moved(&self, target: u32, slot: Slot) -> Option<(Header, Record<'_>, u32)> {
        let record = self.segments.record(slot.location)?;
        let (from, to) = (self.segments.get(slot.location.segment), self.segments.get(target));
        let deadline = from.base_deadline + u64::from(record.header.deadline) - to.base_deadline;
        let header = Header {
            sequence: from.base_sequence + record.header.sequence - to.base_sequence,
            // Room for later writes stays, but not what a reservation needed.
            sequence_width: record.header.sequence_width % WIDE_SEQUENCE,
            deadline: if to.width == 0 { 0 } else { deadline as u32 },
            ..record.header
        };
        let length = header.record_length(usize::from(to.width)) as u32;
        Some((header, record, length))
    }

    /// Lets the ghost queue know of an item that is about to be evicted, where there is one.
    fn remember(&mut self, slot: Slot) {
        if self.eviction == Eviction::S3Fifo
            && let Some(hash) = self.segments.record(slot.location).map(|record| self.hasher.hash(record.key()))
        {
            self.ghost.remember(hash);
        }
    }

    fn seal_merged(&mut self, target: u32) {
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
    /// The bytes that will be kept of what was surveyed so far.
    fn kept(&self) -> u64 {
        let above: u64 = self.classes[self.cut + 1..].iter().map(|bytes| u64::from(*bytes)).sum();
        above + u64::from(self.classes[self.cut]) * self.share / 1000
    }

    /// Decides which classes are kept: from the best down, until there are `most` bytes.
    fn decide(&mut self, most: u64) {
        let mut left = most;
        for class in (0..CLASSES).rev() {
            let bytes = u64::from(self.classes[class]);
            if bytes > left || class == 0 {
                (self.cut, self.quota) = (class, left);
                return;
            }
            left -= bytes;
        }
    }
}

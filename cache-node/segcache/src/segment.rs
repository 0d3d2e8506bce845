//! Segments: equal parts of one region, written append-only.

mod volume;

use std::collections::VecDeque;
use std::io;

use crate::checksum::{CHECKSUM, Seed};
use crate::ledger::Ledger;
use crate::life;
use crate::populate::Memory;
use crate::record::{Header, Layout};
use crate::volume::Region;

pub(crate) use volume::Vitality;

/// No segment.
pub(crate) const NONE: u32 = u32::MAX;
/// Left free at the start of each segment, so that no record is at offset 0 and a header has room.
pub(crate) const SEGMENT_HEADER: u32 = 64;
const _: () = assert!(life::LENGTH <= SEGMENT_HEADER as usize);

/// Memory is made ready so far ahead of the highest segment that was taken, in bytes: at a million small items a second, a
/// quarter of a second.
const READY_AHEAD: usize = 16 << 20;
/// But no more than this share of all segments: a small cache that is hardly used stays small.
const READY_SHARE: usize = 16;

/// Where no record begins, in place of its head.
const END: u8 = 0;

/// Where a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) segment: u32,
    pub(crate) offset: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// On the free list.
    Free,
    /// Its memory has gone to the index.
    Retired,
    /// Takes records.
    Open,
    /// Takes no more records; in its TTL bucket's chain, as open ones are.
    Sealed,
    /// Worked on by the job that runs; it decides when the segment becomes free.
    Busy,
}

/// What is known of a segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) state: State,
    /// Its TTL bucket, and its neighbours in that bucket's chain.
    pub(crate) bucket: u16,
    pub(crate) previous: u32,
    pub(crate) next: u32,
    /// Where the next record goes.
    pub(crate) written: u32,
    /// Items of the index that are here, and the bytes of their records.
    pub(crate) live_items: u32,
    pub(crate) live_bytes: u32,
    /// Open reservations: a pinned segment stays as it is.
    pub(crate) pins: u16,
    /// Bytes of a record's deadline, 0 to 4; 0 for items that never expire.
    pub(crate) width: u8,
    /// A merge made it: its items have survived an eviction. [`Eviction::S3Fifo`](crate::Eviction::S3Fifo): it is of
    /// the main queue.
    pub(crate) survived: bool,
    /// Records count their deadline from this.
    pub(crate) base_deadline: u64,
    /// No record has a deadline after this.
    pub(crate) last_deadline: u64,
    /// When the records that have expired were last taken out.
    pub(crate) swept: u64,
    /// Records count their sequence from this.
    pub(crate) base_sequence: u64,
    /// No record has a sequence after this.
    pub(crate) last_sequence: u64,
    /// Ascends with every segment that is taken into use.
    pub(crate) created: u64,
    /// What this use of the segment is called in a volume.
    pub(crate) life: u64,
    /// What the checksums of its records are seeded with.
    pub(crate) seed: Seed,
    /// In the volume it counts as free already: none of its records will come back.
    pub(crate) condemned: bool,
    /// Its records were looked at since the volume was opened, or written since.
    pub(crate) is_verified: bool,
}

const FREE: Segment = Segment {
    state: State::Free,
    bucket: 0,
    previous: NONE,
    next: NONE,
    written: SEGMENT_HEADER,
    live_items: 0,
    live_bytes: 0,
    pins: 0,
    width: 0,
    survived: false,
    base_deadline: 0,
    last_deadline: 0,
    swept: 0,
    base_sequence: 0,
    last_sequence: 0,
    created: 0,
    life: 0,
    seed: Seed::NONE,
    condemned: true,
    is_verified: true,
};

impl Segment {
    /// The largest deadline that a record here can have.
    pub(crate) fn farthest_deadline(&self) -> u64 {
        match self.width {
            0 => 0,
            width => self.base_deadline.saturating_add((1 << (8 * u64::from(width))) - 1),
        }
    }
}

/// All segments and the memory that they share.
///
/// In a volume each record has a checksum before it, and a record that leaves the index dies: its checksum is overwritten.
/// So what lives in the volume is what is in the index, but for what has expired or was flushed, which a later owner of
/// the volume finds out again, and but for an operation that the process did not live to finish.
pub(crate) struct Segments {
    pub(crate) memory: Memory,
    /// Where in the region the first segment begins.
    base: usize,
    /// The bytes before each record: a checksum in a volume, none elsewhere.
    before: u32,
    /// What the checksums are seeded with.
    secret: u64,
    /// The life that was given to a segment last.
    lives: u64,
    /// None where writes need not outlive the machine at once.
    pub(crate) ledger: Option<Ledger>,
    segments: Vec<Segment>,
    size: u32,
    /// A record's offset is a multiple of this.
    alignment: u32,
    /// The last is taken first, and the first is retired first: what was used before is used again, and a cache that is
    /// not full touches the low addresses only.
    free: VecDeque<u32>,
    retired: Vec<u32>,
    created: u64,
    /// Segments below this are wanted ready, and so many beyond the one that was taken.
    wanted: u32,
    distance: u32,
}

impl Segments {
    /// Free segments in memory that nothing outlives.
    pub(crate) fn new(count: u32, size: u32, alignment: u32) -> io::Result<Segments> {
        let bytes = count as usize * size as usize;
        let distance = READY_AHEAD.min(bytes / READY_SHARE) as u32 / size;
        Ok(Segments {
            memory: Memory::new(Region::anonymous_huge(bytes)?, distance as usize * size as usize),
            base: 0,
            before: 0,
            secret: 0,
            lives: 0,
            ledger: None,
            segments: vec![FREE; count as usize],
            size,
            alignment,
            free: (0..count).rev().collect(),
            retired: Vec::with_capacity(count as usize),
            created: 0,
            wanted: distance,
            distance,
        })
    }

    /// The memory that one segment costs beside its bytes.
    pub(crate) const METADATA: usize = size_of::<Segment>() + 2 * size_of::<u32>();

    /// The bytes of a segment that records can use.
    pub(crate) fn capacity(&self) -> u32 {
        self.size - SEGMENT_HEADER
    }

    /// The smallest segment that holds a record of this length.
    pub(crate) fn size_for(record: usize) -> usize {
        record + CHECKSUM + SEGMENT_HEADER as usize
    }

    pub(crate) fn size(&self) -> u32 {
        self.size
    }

    pub(crate) fn count(&self) -> u32 {
        self.segments.len() as u32
    }

    pub(crate) fn free_count(&self) -> u32 {
        self.free.len() as u32
    }

    pub(crate) fn retired_count(&self) -> u32 {
        self.retired.len() as u32
    }

    pub(crate) fn used_count(&self) -> u32 {
        self.count() - self.free_count() - self.retired_count()
    }

    pub(crate) fn get(&self, id: u32) -> &Segment {
        &self.segments[id as usize]
    }

    pub(crate) fn get_mut(&mut self, id: u32) -> &mut Segment {
        &mut self.segments[id as usize]
    }

    /// Takes a free segment into use, open and empty.
    pub(crate) fn take(&mut self) -> Option<u32> {
        let id = self.free.pop_back()?;
        self.created += 1;
        self.lives += 1;
        let (created, life) = (self.created, self.lives);
        let seed = Seed::new(self.secret, life);
        self.segments[id as usize] = Segment { state: State::Open, created, life, seed, ..FREE };
        self.want_ahead(id);
        Some(id)
    }

    /// Wants memory ready ahead of a segment, but none that the index may have meanwhile.
    fn want_ahead(&mut self, id: u32) {
        // A segment that is larger than the distance comes with its writes.
        let end = if self.distance == 0 { 0 } else { self.count().min(id + 1 + self.distance) };
        if self.wanted < end {
            let ahead = &self.segments[self.wanted as usize..end as usize];
            self.wanted += ahead.iter().take_while(|segment| segment.state != State::Retired).count() as u32;
            self.memory.want(self.start(self.wanted));
        }
    }

    /// Gives a segment without live items back.
    pub(crate) fn free(&mut self, id: u32) {
        debug_assert_eq!((self.get(id).live_items, self.get(id).pins), (0, 0));
        // Its memory may be used again from now on.
        self.end_doomed();
        self.condemn(id);
        self.segments[id as usize] = FREE;
        self.free.push_back(id);
    }

    /// Gives the memory of a free segment up; says whether there was one.
    pub(crate) fn retire(&mut self) -> bool {
        let Some(id) = self.free.pop_front() else { return false };
        self.segments[id as usize].state = State::Retired;
        let start = self.start(id);
        self.memory.release(start..start + self.size as usize);
        self.wanted = self.wanted.min(id);
        self.retired.push(id);
        true
    }

    /// Takes the memory of a retired segment back; says whether there was one.
    pub(crate) fn restore(&mut self) -> bool {
        let Some(id) = self.retired.pop_if(|id| {
            self.memory.region().preallocate(self.base + *id as usize * self.size as usize, self.size as usize).is_ok()
        }) else {
            return false;
        };
        self.segments[id as usize].state = State::Free;
        self.memory.keep(self.start(id));
        self.free.push_front(id);
        true
    }

    fn start(&self, id: u32) -> usize {
        self.base + id as usize * self.size as usize
    }

    /// Where in the region the head of a record is.
    #[inline]
    fn at(&self, location: Location) -> usize {
        self.start(location.segment) + location.offset as usize + self.before as usize
    }

    /// The bytes from `location` to the end of what is written in its segment.
    #[inline]
    pub(crate) fn record_bytes(&self, location: Location) -> &[u8] {
        let start = self.start(location.segment);
        let end = start + self.get(location.segment).written as usize;
        self.memory.bytes().get(self.at(location)..end).unwrap_or_default()
    }

    pub(crate) fn prefetch(&self, location: Location) {
        let at = self.at(location);
        self.memory.prefetch(at);
        // A short record often straddles two lines.
        self.memory.prefetch(at + 63);
    }

    /// Reads the record at `location`.
    #[inline]
    pub(crate) fn record(&self, location: Location) -> Option<Record<'_>> {
        let bytes = self.record_bytes(location);
        let (header, layout) = Header::decode(bytes, self.get(location.segment).width.into())?;
        Some(Record { bytes: &bytes[..layout.end], header, layout })
    }

    /// A record that was read before, without reading its header again.
    #[inline]
    pub(crate) fn known_record(&self, location: Location, header: Header, layout: Layout) -> Record<'_> {
        Record { bytes: &self.record_bytes(location)[..layout.end], header, layout }
    }

    /// The first record of a segment, if it has any.
    pub(crate) fn first(id: u32) -> Location {
        Location { segment: id, offset: SEGMENT_HEADER }
    }

    /// The place behind a record.
    pub(crate) fn following(&self, location: Location, layout: &Layout) -> Location {
        let length = self.aligned(layout.end as u32);
        Location { offset: location.offset + length, ..location }
    }

    /// The records from `location` to the end of its segment, whether they are still in the index or not.
    pub(crate) fn records(&self, location: Location) -> impl Iterator<Item = (Location, Record<'_>)> {
        let at = move |location: Location| Some((location, self.record(location)?));
        std::iter::successors(at(location), move |(location, record)| at(self.following(*location, &record.layout)))
    }

    /// What a record of `length` bytes takes.
    pub(crate) fn aligned(&self, length: u32) -> u32 {
        (self.before + length).next_multiple_of(self.alignment)
    }

    /// What a record that grows by `length` bytes takes more, at most.
    pub(crate) fn growth(&self, length: u32) -> u32 {
        length.next_multiple_of(self.alignment)
    }

    /// Whether a record of `length` bytes fits into the segment.
    pub(crate) fn has_room(&self, id: u32, length: u32) -> bool {
        self.aligned(length) <= self.size - self.get(id).written
    }

    /// Takes `length` bytes at the end of a segment that has room for them.
    pub(crate) fn append(&mut self, id: u32, length: u32) -> (Location, &mut [u8]) {
        let aligned = self.aligned(length);
        let segment = &mut self.segments[id as usize];
        let location = Location { segment: id, offset: segment.written };
        segment.written += aligned;
        if self.before > 0 {
            self.kill(location);
            let next = Location { offset: location.offset + aligned, ..location };
            if next.offset + self.before < self.size {
                let end = self.at(next);
                self.for_writing(end..end + 1)[0] = END;
            }
        }
        let from = self.at(location);
        (location, self.for_writing(from..from + length as usize))
    }

    /// Takes the record at `location` back if it is the last of its segment.
    pub(crate) fn take_back(&mut self, location: Location, length: u32) {
        let aligned = self.aligned(length);
        let segment = self.get_mut(location.segment);
        if segment.written == location.offset + aligned {
            segment.written = location.offset;
        }
    }

    /// `length` bytes of a record, `within` bytes from its start.
    pub(crate) fn part_mut(&mut self, location: Location, within: usize, length: usize) -> &mut [u8] {
        let from = self.at(location) + within;
        self.for_writing(from..from + length)
    }

    /// `length` bytes of a record, `within` bytes from its start, also of one whose segment was freed just now.
    pub(crate) fn part(&self, location: Location, within: usize, length: usize) -> &[u8] {
        let from = self.at(location) + within;
        &self.memory.bytes()[from..from + length]
    }

    /// Copies `length` bytes from one record into another, each `within` bytes from its start.
    pub(crate) fn copy(&mut self, from: (Location, usize), to: (Location, usize), length: usize) {
        let (source, target) = (self.at(from.0) + from.1, self.at(to.0) + to.1);
        if self.ledger.is_some() {
            self.note(target..target + length);
        }
        self.memory.bytes_mut().copy_within(source..source + length, target);
    }
}

/// A record in its segment.
#[derive(Clone, Copy)]
pub(crate) struct Record<'a> {
    bytes: &'a [u8],
    pub(crate) header: Header,
    pub(crate) layout: Layout,
}

impl<'a> Record<'a> {
    #[inline]
    pub(crate) fn key(&self) -> &'a [u8] {
        &self.bytes[self.layout.key..self.layout.value]
    }

    #[inline]
    pub(crate) fn value(&self) -> &'a [u8] {
        &self.bytes[self.layout.value..]
    }

    pub(crate) fn length(&self) -> u32 {
        self.bytes.len() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::{Location, Segments, State};

    #[test]
    fn segments_are_taken_from_low_addresses_and_given_back() {
        let mut segments = Segments::new(3, 4096, 1).unwrap();
        assert_eq!(segments.take(), Some(0));
        assert_eq!(segments.take(), Some(1));
        segments.free(0);
        assert!(segments.retire());
        assert_eq!((segments.get(0).state, segments.get(2).state), (State::Free, State::Retired));
        assert_eq!((segments.free_count(), segments.used_count(), segments.retired_count()), (1, 1, 1));
        assert!(segments.restore());
        assert!(!segments.restore());
        assert_eq!(segments.take(), Some(0));
        assert_eq!(segments.take(), Some(2));
        assert_eq!(segments.take(), None);
        assert!(!segments.retire());
    }

    #[test]
    fn records_are_aligned_and_the_last_can_be_taken_back() {
        let mut segments = Segments::new(1, 4096, 8).unwrap();
        let id = segments.take().unwrap();
        let (first, _) = segments.append(id, 13);
        let (second, bytes) = segments.append(id, 16);
        assert_eq!(bytes.len(), 16);
        assert_eq!(second, Location { segment: id, offset: first.offset + 16 });
        segments.take_back(first, 13);
        assert_eq!(segments.get(id).written, second.offset + 16);
        segments.take_back(second, 16);
        assert_eq!(segments.get(id).written, second.offset);
        assert!(segments.has_room(id, 4096 - second.offset));
        assert!(!segments.has_room(id, 4096 - second.offset + 1));
    }
}

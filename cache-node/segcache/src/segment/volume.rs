//! What a volume has of segments beside their records: their lives, and which of the records live.

use std::io;
use std::sync::atomic::{Ordering, compiler_fence};

use super::{END, FREE, Location, Record, SEGMENT_HEADER, Segment, Segments, State};
use crate::checksum::{CHECKSUM, DEAD, Seed, with_head};
use crate::life::{self, Life};
use crate::populate::Memory;
use crate::record::Marks;
use crate::superblock::{SUPERBLOCKS, Superblock};
use crate::volume::Region;

/// What the checksum says of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vitality {
    /// It is whole.
    Alive,
    /// It has left the index, or never came into it.
    Dead,
    /// It is not what was written.
    Damaged,
}

impl Segments {
    /// The segments of a volume, all of them free.
    pub(crate) fn of_volume(region: Region, count: u32, superblock: &Superblock) -> Segments {
        Segments {
            // Its memory is taken when it is opened, and nobody else may have its pages.
            memory: Memory::new(region, 0),
            base: SUPERBLOCKS,
            before: CHECKSUM as u32,
            secret: superblock.secret,
            lives: superblock.epoch << u32::BITS,
            ledger: None,
            segments: vec![FREE; count as usize],
            size: superblock.segment_size as u32,
            alignment: superblock.alignment as u32,
            free: (0..count).rev().collect(),
            retired: Vec::with_capacity(count as usize),
            created: 0,
            wanted: 0,
            distance: 0,
        }
    }

    /// The bytes of a volume of so many segments.
    pub(crate) fn volume_bytes(count: usize, size: usize) -> usize {
        SUPERBLOCKS.saturating_add(count.saturating_mul(size))
    }

    /// Writes a superblock's bytes to where it belongs in the volume.
    pub(crate) fn write_superblock(&mut self, at: usize, bytes: &[u8]) {
        self.for_writing(at..at + bytes.len()).copy_from_slice(bytes);
    }

    /// Waits until all of the volume would outlive the machine.
    pub(crate) fn persist(&self) -> io::Result<()> {
        self.memory.region().persist()
    }

    /// Takes memory, or room on the disk, for all segments that are free.
    ///
    /// # Errors
    /// The system's: there is not so much left.
    pub(crate) fn preallocate(&self) -> io::Result<()> {
        if self.free_count() == self.count() {
            return self.memory.region().preallocate(0, self.start(self.count()));
        }
        self.free.iter().try_for_each(|id| self.memory.region().preallocate(self.start(*id), self.size as usize))
    }

    /// What a segment of the volume says of its records, if it is in use.
    pub(crate) fn life(&self, id: u32) -> Option<Life> {
        Life::decode(&self.memory.bytes()[self.start(id)..], self.secret)
    }

    /// Takes a segment into use again, with whatever it may hold.
    pub(crate) fn adopt(&mut self, id: u32, life: &Life) {
        let Life { number, bucket, width, survived, created, base_sequence, base_deadline, written: _ } = *life;
        self.created = self.created.max(created);
        self.segments[id as usize] = Segment {
            state: State::Sealed,
            bucket,
            written: self.size,
            width,
            survived,
            base_deadline,
            last_deadline: base_deadline,
            base_sequence,
            last_sequence: base_sequence,
            created,
            life: number,
            seed: Seed::new(self.secret, number),
            condemned: false,
            ..FREE
        };
    }

    /// To be called when all segments are adopted that will be: the others are free, whatever they say.
    pub(crate) fn end_adoption(&mut self) {
        let segments = &self.segments;
        self.free.retain(|id| segments[*id as usize].state == State::Free);
        for place in 0..self.free.len() {
            let start = self.start(self.free[place]);
            // A free segment's memory is only touched where it must be.
            if self.memory.bytes()[start..start + life::FREE.len()] != life::FREE {
                self.for_writing(start..start + life::FREE.len()).copy_from_slice(&life::FREE);
            }
        }
    }

    /// Notes in the volume what a segment says of its records, before the first of them is written. `written` is the time
    /// of the writes behind its base sequence.
    pub(crate) fn begin_life(&mut self, id: u32, written: u64) {
        if self.before == 0 {
            return;
        }
        let life = Life::of(self.get(id), written).encode(self.secret);
        let start = self.start(id);
        let bytes = self.for_writing(start..start + SEGMENT_HEADER as usize + CHECKSUM + 1);
        bytes[SEGMENT_HEADER as usize + CHECKSUM] = END;
        bytes[..life.len()].copy_from_slice(&life);
        self.get_mut(id).condemned = false;
    }

    /// Ends a segment's life in the volume: none of its records comes back, whatever of them is in use still.
    pub(crate) fn condemn(&mut self, id: u32) {
        if !std::mem::replace(&mut self.get_mut(id).condemned, true) {
            // What has moved from here must be elsewhere first.
            compiler_fence(Ordering::Release);
            let start = self.start(id);
            self.for_writing(start..start + life::FREE.len()).copy_from_slice(&life::FREE);
        }
    }

    /// Lets a record live: it is whole now.
    pub(crate) fn enliven(&mut self, location: Location) {
        if let Some(checksum) = self.checksum(location) {
            self.put_checksum(location, checksum);
        }
    }

    /// Lets a record die: it has left the index, or has moved.
    pub(crate) fn kill(&mut self, location: Location) {
        if self.before > 0 && !self.get(location.segment).condemned {
            // What takes its place must be whole first.
            compiler_fence(Ordering::Release);
            self.put_checksum(location, DEAD);
        }
    }

    /// What the volume knows of a record.
    pub(crate) fn vitality(&self, location: Location, record: &Record<'_>) -> Vitality {
        let segment = self.get(location.segment);
        let Record { bytes, header, layout } = record;
        match self.stored_checksum(location) {
            DEAD => Vitality::Dead,
            stored if stored == segment.seed.checksum(location.offset, bytes, segment.width.into(), header, layout) => {
                Vitality::Alive
            }
            _ => Vitality::Damaged,
        }
    }

    /// Whether a record is what was written, as far as that is not known of its whole segment.
    #[inline]
    pub(crate) fn is_sound(&self, location: Location, record: &Record<'_>) -> bool {
        self.get(location.segment).is_verified || self.vitality(location, record) == Vitality::Alive
    }

    /// The bytes of a segment's items, without what aligns them and what is before them.
    pub(crate) fn bytes_of_items(&self, id: u32) -> u64 {
        let segment = self.get(id);
        u64::from(segment.live_bytes).saturating_sub(u64::from(segment.live_items) * u64::from(self.before))
    }

    /// Changes a record's deadline in place.
    pub(crate) fn overwrite_deadline(&mut self, location: Location, at: usize, deadline: u32) {
        let width = usize::from(self.get(location.segment).width);
        self.change_head(location, |head| head[at..at + width].copy_from_slice(&deadline.to_le_bytes()[..width]));
    }

    /// Changes a record's marks in place; says whether they take no more room than the ones that it has.
    pub(crate) fn overwrite_marks(&mut self, location: Location, marks: Marks) -> bool {
        let Some(record) = self.record(location) else { return false };
        let deadline_end = record.layout.deadline + usize::from(self.get(location.segment).width);
        let mut fits = false;
        self.change_head(location, |head| fits = marks.overwrite(head, deadline_end));
        fits
    }

    /// Changes the head of a record in place, and the part of its checksum that is of the head.
    fn change_head(&mut self, location: Location, change: impl FnOnce(&mut [u8])) {
        let Some(record) = self.record(location) else { return };
        let (length, before) = (record.layout.value, self.checksum_of_head(location));
        change(self.part_mut(location, 0, length));
        if let (Some(before), Some(after)) = (before, self.checksum_of_head(location)) {
            let checksum = with_head(self.stored_checksum(location), before, after);
            self.put_checksum(location, checksum);
        }
    }

    /// The checksum that a living record at `location` has.
    fn checksum(&self, location: Location) -> Option<u32> {
        if self.before == 0 {
            return None;
        }
        let segment = self.get(location.segment);
        let Record { bytes, header, layout } = self.record(location)?;
        Some(segment.seed.checksum(location.offset, bytes, segment.width.into(), &header, &layout))
    }

    fn checksum_of_head(&self, location: Location) -> Option<u32> {
        if self.before == 0 {
            return None;
        }
        let segment = self.get(location.segment);
        let Record { bytes, header, layout } = self.record(location)?;
        Some(segment.seed.of_head(location.offset, bytes, segment.width.into(), &header, &layout))
    }

    fn stored_checksum(&self, location: Location) -> u32 {
        let at = self.start(location.segment) + location.offset as usize;
        self.memory.bytes().get(at..).and_then(<[u8]>::first_chunk).map_or(DEAD, |bytes| u32::from_le_bytes(*bytes))
    }

    fn put_checksum(&mut self, location: Location, checksum: u32) {
        let at = self.start(location.segment) + location.offset as usize;
        self.for_writing(at..at + CHECKSUM).copy_from_slice(&checksum.to_le_bytes());
    }
}

//! The index: from a key's hash to its record.
//!
//! A table of buckets of one cache line, ten slots of six bytes each: a few bits of the hash (the tag), how often the
//! item was read, and where its record lies. The key itself is only in the record, which is read to compare it.
//!
//! A key has two buckets and lives in the first that has room when it comes; if neither has, one of the items there
//! moves to its other bucket (cuckoo hashing; Pagh and Rodler, ESA '01). So a lookup reads at most two lines, and the
//! table works at nine slots in ten filled.
//!
//! It grows one bucket at a time by linear hashing with partial expansions (Larson, VLDB '80): the table is made of
//! groups of [`FIRST_GROUP`] buckets; one group after the other gets one bucket more, and when all groups have twice as
//! many as at first, each counts as two groups. Bucket `j` of group `i` is at `j * groups + i`, so that growth only
//! ever appends, and no two groups differ by more than one bucket.

mod whole;

use std::io;

use crate::hash::mix;
use crate::populate::Memory;
use crate::segment::Location;
use crate::volume::{HUGE_PAGE, Region};

/// Slots of a bucket.
pub(crate) const SLOTS: usize = 10;
/// Bytes of a bucket: a cache line.
pub(crate) const BUCKET: usize = 64;
const SLOT_BYTES: usize = 6;
/// Where a bucket keeps its slots' hit bits.
const HITS: usize = SLOTS * SLOT_BYTES;
/// Buckets of a group after the table has doubled.
const FIRST_GROUP: u64 = 4;
const FIRST_GROUP_BITS: u32 = FIRST_GROUP.ilog2();
/// The table grows when more than this share of its slots is in use, and shrinks below the other.
const FULL: (u64, u64) = (91, 100);
const EMPTY: (u64, u64) = (80, 100);
/// A huge page is taken when the one before it still has one in so many of its buckets to give, so that there is time to
/// make it ready.
const READY_SHARE: usize = 4;
/// Items that move, at most, to make way for another.
const LONGEST_CHAIN: usize = 2;
/// The smallest table.
pub(crate) const SMALLEST: usize = 64 << 10;
const FIRST_LEVEL: u32 = (SMALLEST / BUCKET / FIRST_GROUP as usize).ilog2();

const SLOT_MASK: u64 = (1 << (8 * SLOT_BYTES)) - 1;
const FREQUENCY_BITS: u32 = 4;
const FREQUENCY_SHIFT: u32 = 8 * SLOT_BYTES as u32 - FREQUENCY_BITS;
/// The largest frequency.
pub(crate) const MAX_FREQUENCY: u8 = (1 << FREQUENCY_BITS) - 1;
const MOST_TAG_BITS: u32 = 16;
const FEWEST_TAG_BITS: u32 = 6;
const HIT: u64 = 1 << 63;

/// How a slot's 48 bits are divided.
#[derive(Clone, Copy)]
struct Division {
    offset_bits: u32,
    /// Offsets are multiples of 2 to this power.
    alignment: u32,
    location_bits: u32,
    tag_bits: u32,
}

impl Division {
    fn new(segments: u32, segment_size: u32) -> Division {
        let offset_bits = u32::BITS - (segment_size - 1).leading_zeros();
        let segment_bits = u32::BITS - segments.saturating_sub(1).leading_zeros();
        let alignment = (offset_bits + segment_bits).saturating_sub(FREQUENCY_SHIFT - FEWEST_TAG_BITS);
        let location_bits = offset_bits + segment_bits - alignment;
        Division {
            offset_bits,
            alignment,
            location_bits,
            tag_bits: (FREQUENCY_SHIFT - location_bits).min(MOST_TAG_BITS),
        }
    }

    fn pack(self, location: Location) -> u64 {
        ((u64::from(location.segment) << self.offset_bits) | u64::from(location.offset)) >> self.alignment
    }

    fn unpack(self, slot: u64) -> Location {
        let packed = (slot & ((1 << self.location_bits) - 1)) << self.alignment;
        Location {
            segment: (packed >> self.offset_bits) as u32,
            offset: (packed & ((1 << self.offset_bits) - 1)) as u32,
        }
    }

    fn tag(self, hash: u64) -> u64 {
        ((hash >> 32) & ((1 << self.tag_bits) - 1)) << self.location_bits
    }

    fn tag_mask(self) -> u64 {
        ((1 << self.tag_bits) - 1) << self.location_bits
    }
}

/// A slot that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    bucket: usize,
    slot: usize,
    pub(crate) location: Location,
    /// How often the item was read, on the index's own scale of 0 to [`MAX_FREQUENCY`].
    pub(crate) frequency: u8,
    /// Whether the item was read since it was stored.
    pub(crate) hit: bool,
}

/// The table. Every slot in use points to a record whose key has the hash that the slot is filed under.
pub(crate) struct Index {
    pub(crate) memory: Memory,
    division: Division,
    /// The number of groups is 2 to this power.
    level: u32,
    /// Buckets of a group that has not grown in this round.
    group_size: u64,
    /// Groups that have grown in this round: those from 0 to here.
    grown: u64,
    items: u64,
    /// It does not grow beyond this.
    most_buckets: u64,
    /// It counts against the budget in steps of this many bytes, and takes the next step when so many are left of the last.
    chunk: usize,
    margin: usize,
}

impl Index {
    /// An empty table for at most `most_bytes`, which takes memory in chunks of `chunk` bytes: in huge pages where that
    /// is a multiple of one.
    pub(crate) fn new(most_bytes: usize, chunk: usize, segments: u32, segment_size: u32) -> io::Result<Index> {
        let is_huge = chunk.is_multiple_of(HUGE_PAGE);
        let region = if is_huge { Region::anonymous_huge(most_bytes) } else { Region::anonymous(most_bytes) }?;
        let mut index = Index {
            memory: Memory::new(region, 0),
            division: Division::new(segments, segment_size),
            level: FIRST_LEVEL,
            group_size: FIRST_GROUP,
            grown: 0,
            items: 0,
            most_buckets: (most_bytes / BUCKET) as u64,
            chunk,
            margin: if is_huge { chunk / READY_SHARE } else { 0 },
        };
        index.memory.want(index.bytes());
        Ok(index)
    }

    /// What the offset of a record must be a multiple of.
    pub(crate) fn alignment(segments: u32, segment_size: u32) -> u32 {
        1 << Division::new(segments, segment_size).alignment
    }

    fn buckets(&self) -> u64 {
        (self.group_size << self.level) + self.grown
    }

    /// Bytes of the budget that the table takes.
    pub(crate) fn bytes(&self) -> usize {
        self.chunks(self.buckets())
    }

    /// Bytes of the budget that it will take after one step of growth.
    pub(crate) fn bytes_grown(&self) -> usize {
        self.chunks(self.buckets() + 1)
    }

    fn chunks(&self, buckets: u64) -> usize {
        (buckets as usize * BUCKET + self.margin).next_multiple_of(self.chunk)
    }

    /// Whether it is time to grow by a step, and there are addresses left for it.
    pub(crate) fn wants_growth(&self) -> bool {
        self.items * FULL.1 > self.buckets() * SLOTS as u64 * FULL.0 && self.buckets() < self.most_buckets
    }

    /// Whether it is time to shrink by a step.
    pub(crate) fn wants_shrinking(&self) -> bool {
        self.items * EMPTY.1 < self.buckets() * SLOTS as u64 * EMPTY.0 && self.buckets() > (SMALLEST / BUCKET) as u64
    }

    /// A key's bucket for a hash of it.
    #[inline]
    fn bucket_of(&self, hash: u64) -> usize {
        let group = hash & ((1 << self.level) - 1);
        let size = self.group_size + u64::from(group < self.grown);
        // Where in its group a hash belongs, as a fraction of 2^32: bits that stay as groups split, then the bit by
        // which this group will split, so that its buckets divide evenly between the two.
        let fixed = hash >> (64 - FIRST_GROUP_BITS);
        let splitting = (hash >> self.level) & 1;
        let rest = (hash >> (32 - FIRST_GROUP_BITS)) & ((1 << (31 - FIRST_GROUP_BITS)) - 1);
        let fraction = fixed << (32 - FIRST_GROUP_BITS) | splitting << (31 - FIRST_GROUP_BITS) | rest;
        let within = (fraction * size) >> 32;
        ((within << self.level) | group) as usize
    }

    #[inline]
    fn homes(&self, hash: u64) -> [usize; 2] {
        [self.bucket_of(hash), self.bucket_of(mix(hash))]
    }

    #[inline]
    fn bucket(&self, bucket: usize) -> &[u8; BUCKET] {
        &self.memory.bytes().as_chunks().0[bucket]
    }

    #[inline]
    fn bucket_mut(&mut self, bucket: usize) -> &mut [u8; BUCKET] {
        &mut self.memory.bytes_mut().as_chunks_mut().0[bucket]
    }

    /// Asks the processor to fetch what a lookup of `hash` reads.
    pub(crate) fn prefetch(&self, hash: u64) {
        for bucket in self.homes(hash) {
            self.memory.prefetch(bucket * BUCKET);
        }
    }

    /// The first slot filed under `hash` for whose record `accept` has an answer, and that answer.
    #[inline]
    pub(crate) fn find<R>(&self, hash: u64, accept: impl Fn(Location) -> Option<R>) -> Option<(Slot, R)> {
        let (tag, mask) = (self.division.tag(hash), self.division.tag_mask());
        let first = self.bucket_of(hash);
        self.find_in(first, tag, mask, &accept).or_else(|| self.find_in(self.bucket_of(mix(hash)), tag, mask, &accept))
    }

    #[inline]
    fn find_in<R>(
        &self,
        bucket: usize,
        tag: u64,
        mask: u64,
        accept: &impl Fn(Location) -> Option<R>,
    ) -> Option<(Slot, R)> {
        let bytes = self.bucket(bucket);
        let mut matching = matching(bytes, tag, mask);
        while matching != 0 {
            let slot = matching.trailing_zeros() as usize;
            matching &= matching - 1;
            let value = read(bytes, slot);
            let location = self.division.unpack(value);
            if value & SLOT_MASK != 0
                && let Some(answer) = accept(location)
            {
                let frequency = (value >> FREQUENCY_SHIFT) as u8 & MAX_FREQUENCY;
                return Some((Slot { bucket, slot, location, frequency, hit: value & HIT != 0 }, answer));
            }
        }
        None
    }

    /// The slot of exactly this record.
    #[inline]
    pub(crate) fn find_location(&self, hash: u64, location: Location) -> Option<Slot> {
        self.find(hash, |found| (found == location).then_some(())).map(|(slot, ())| slot)
    }

    /// Where records may lie that a lookup of `hash` will compare.
    pub(crate) fn candidates(&self, hash: u64, mut each: impl FnMut(Location)) {
        let (tag, mask) = (self.division.tag(hash), self.division.tag_mask());
        for bucket in self.homes(hash) {
            let bytes = self.bucket(bucket);
            let mut matching = matching(bytes, tag, mask);
            while matching != 0 {
                let value = read(bytes, matching.trailing_zeros() as usize);
                matching &= matching - 1;
                if value & SLOT_MASK != 0 {
                    each(self.division.unpack(value));
                }
            }
        }
    }

    /// Points a slot to another record of the same key.
    pub(crate) fn relocate(&mut self, slot: Slot, location: Location, frequency: u8, hit: bool) {
        let packed = self.division.pack(location);
        let keep = self.division.tag_mask();
        let bytes = self.bucket_mut(slot.bucket);
        let tag = read(bytes, slot.slot) & keep;
        write(bytes, slot.slot, packed | tag | u64::from(frequency) << FREQUENCY_SHIFT | if hit { HIT } else { 0 });
    }

    /// Empties a slot.
    pub(crate) fn remove(&mut self, slot: Slot) {
        write(self.bucket_mut(slot.bucket), slot.slot, 0);
        self.items -= 1;
    }

    /// Files a record that is not yet in the table; says whether there was room for it. `hash_of` gives the hash of
    /// the key of a record that is in the table.
    #[must_use]
    pub(crate) fn insert(
        &mut self,
        hash: u64,
        location: Location,
        frequency: u8,
        hash_of: impl Fn(Location) -> u64,
    ) -> bool {
        let frequency = u64::from(frequency) << FREQUENCY_SHIFT;
        let value = self.division.tag(hash) | self.division.pack(location) | frequency;
        let inserted = self.place(hash, value, &hash_of);
        self.items += u64::from(inserted);
        inserted
    }

    fn place(&mut self, hash: u64, value: u64, hash_of: &impl Fn(Location) -> u64) -> bool {
        let homes = self.homes(hash);
        homes.into_iter().any(|home| self.put(home, value))
            || (1..=LONGEST_CHAIN)
                .any(|chain| homes.into_iter().any(|home| self.make_way(home, chain, hash_of) && self.put(home, value)))
    }

    /// Frees a slot of a full bucket: one of its items moves to its other bucket, where at the end of a chain of such
    /// moves there is a free slot.
    fn make_way(&mut self, bucket: usize, chain: usize, hash_of: &impl Fn(Location) -> u64) -> bool {
        for slot in 0..SLOTS {
            let resident = read(self.bucket(bucket), slot);
            if resident & SLOT_MASK == 0 {
                return true;
            }
            for other in self.homes(hash_of(self.division.unpack(resident))) {
                if other != bucket
                    && (self.put(other, resident)
                        || chain > 1 && self.make_way(other, chain - 1, hash_of) && self.put(other, resident))
                {
                    // The resident still stands here: chains of two cannot come back, since this bucket is full.
                    write(self.bucket_mut(bucket), slot, 0);
                    return true;
                }
            }
        }
        false
    }

    fn put(&mut self, bucket: usize, value: u64) -> bool {
        let bytes = self.bucket_mut(bucket);
        let free = (0..SLOTS).find(|slot| read(bytes, *slot) & SLOT_MASK == 0);
        if let Some(slot) = free {
            write(bytes, slot, value);
        }
        free.is_some()
    }

    /// Of the items in the two buckets of `hash`, the one that was read least: what to drop when [`Index::insert`]
    /// found no room.
    pub(crate) fn coldest(&self, hash: u64) -> Slot {
        let homes = self.homes(hash);
        let slots = homes.into_iter().flat_map(|bucket| {
            (0..SLOTS).map(move |slot| {
                let value = read(self.bucket(bucket), slot);
                let frequency = (value >> FREQUENCY_SHIFT) as u8 & MAX_FREQUENCY;
                Slot { bucket, slot, location: self.division.unpack(value), frequency, hit: value & HIT != 0 }
            })
        });
        let first =
            Slot { bucket: homes[0], slot: 0, location: Location { segment: 0, offset: 0 }, frequency: 0, hit: false };
        slots.min_by_key(|slot| slot.frequency).unwrap_or(first)
    }

    /// Grows by one bucket. Returns the records that found no place in the table afterwards: as good as always none,
    /// since growth makes room.
    #[must_use]
    pub(crate) fn grow(&mut self, prefetch: impl Fn(Location), hash_of: impl Fn(Location) -> u64) -> Vec<Location> {
        let group = self.grown;
        let size = self.group_size;
        let bytes = self.bytes();
        if self.bytes_grown() > bytes {
            self.memory.keep(bytes);
            self.memory.want(self.bytes_grown());
        }
        self.grown += 1;
        let moved = self.refile(group, (0..size).rev(), prefetch, hash_of);
        self.end_round();
        moved
    }

    /// Begins the next round of growth, if all groups have grown in this one.
    fn end_round(&mut self) {
        if self.grown == 1 << self.level {
            (self.grown, self.group_size) = (0, self.group_size + 1);
            if self.group_size == 2 * FIRST_GROUP {
                (self.level, self.group_size) = (self.level + 1, FIRST_GROUP);
            }
        }
    }

    /// Shrinks by one bucket. Returns the records that found no place in the table afterwards.
    #[must_use]
    pub(crate) fn shrink(&mut self, prefetch: impl Fn(Location), hash_of: impl Fn(Location) -> u64) -> Vec<Location> {
        if self.grown == 0 {
            if self.group_size == FIRST_GROUP {
                if self.level == FIRST_LEVEL {
                    return Vec::new();
                }
                (self.level, self.group_size) = (self.level - 1, 2 * FIRST_GROUP);
            }
            (self.grown, self.group_size) = (1 << self.level, self.group_size - 1);
        }
        self.grown -= 1;
        let moved = self.refile(self.grown, 0..self.group_size + 1, prefetch, hash_of);
        let end = self.buckets() as usize * BUCKET + self.margin;
        if end.is_multiple_of(self.chunk) {
            self.memory.release(end..end + self.chunk);
        }
        moved
    }

    /// Moves those items of a group's buckets that no longer belong where they are.
    fn refile(
        &mut self,
        group: u64,
        buckets: impl Iterator<Item = u64> + Clone,
        prefetch: impl Fn(Location),
        hash_of: impl Fn(Location) -> u64,
    ) -> Vec<Location> {
        let level = self.level;
        let places = buckets.map(move |within| (within << level | group) as usize);
        for bucket in places.clone() {
            for value in (0..SLOTS).map(|slot| read(self.bucket(bucket), slot)).filter(|value| value & SLOT_MASK != 0) {
                prefetch(self.division.unpack(value));
            }
        }
        // Never allocates but for items without a place.
        let mut homeless = Vec::new();
        for bucket in places {
            for slot in 0..SLOTS {
                let value = read(self.bucket(bucket), slot);
                if value & SLOT_MASK == 0 {
                    continue;
                }
                let location = self.division.unpack(value);
                let hash = hash_of(location);
                if !self.homes(hash).contains(&bucket) {
                    write(self.bucket_mut(bucket), slot, 0);
                    if !self.place(hash, value, &hash_of) {
                        homeless.push(value);
                    }
                }
            }
        }
        // Now that all of the group have moved there may be room.
        homeless.retain(|value| !self.place(hash_of(self.division.unpack(*value)), *value, &hash_of));
        self.items -= homeless.len() as u64;
        homeless.into_iter().map(|value| self.division.unpack(value)).collect()
    }
}

/// A slot's 48 bits, and its hit bit as the highest.
#[inline]
fn read(bucket: &[u8; BUCKET], slot: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bucket[slot * SLOT_BYTES..slot * SLOT_BYTES + 8]);
    let hits = u16::from_le_bytes([bucket[HITS], bucket[HITS + 1]]);
    (u64::from_le_bytes(value) & SLOT_MASK) | u64::from(hits >> slot & 1) << 63
}

/// The slots with this tag, a bit each, empty ones perhaps among them. Without a branch for each: nearly always none or
/// one of ten is set, and a processor does not foresee which.
#[inline]
fn matching(bucket: &[u8; BUCKET], tag: u64, mask: u64) -> u32 {
    (0..SLOTS).fold(0, |matching, slot| {
        let mut value = [0; 8];
        value.copy_from_slice(&bucket[slot * SLOT_BYTES..slot * SLOT_BYTES + 8]);
        matching | u32::from(u64::from_le_bytes(value) & mask == tag) << slot
    })
}

#[inline]
fn write(bucket: &mut [u8; BUCKET], slot: usize, value: u64) {
    let at = slot * SLOT_BYTES;
    bucket[at..at + SLOT_BYTES].copy_from_slice(&value.to_le_bytes()[..SLOT_BYTES]);
    let hits = u16::from_le_bytes([bucket[HITS], bucket[HITS + 1]]) & !(1 << slot) | ((value >> 63) as u16) << slot;
    bucket[HITS..HITS + 2].copy_from_slice(&hits.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::{BUCKET, Index, SLOTS, SMALLEST};
    use crate::hash::mix;
    use crate::segment::Location;

    /// Records that are nothing but a number: the hash of the key at an offset is a function of the offset.
    fn location(number: u32) -> Location {
        Location { segment: number >> 16, offset: 64 + (number & 0xffff) }
    }

    fn hash_of(location: Location) -> u64 {
        mix(u64::from(location.segment) << 32 | u64::from(location.offset))
    }

    fn filled(numbers: u32) -> Index {
        let mut index = Index::new(if cfg!(miri) { 1 << 20 } else { 64 << 20 }, SMALLEST, 64, 1 << 17).unwrap();
        for number in 0..numbers {
            while index.wants_growth() {
                assert_eq!(index.grow(|_| (), hash_of), [], "{number}");
            }
            assert!(index.insert(hash_of(location(number)), location(number), 0, hash_of), "{number}");
        }
        index
    }

    #[test]
    fn all_are_found_at_every_size_and_nine_slots_in_ten_are_used() {
        let numbers = if cfg!(miri) { 3_000 } else { 300_000 };
        let index = filled(numbers);
        for number in 0..numbers {
            let slot = index.find_location(hash_of(location(number)), location(number)).unwrap();
            assert_eq!((slot.location, slot.frequency, slot.hit), (location(number), 0, false));
            assert_eq!(index.find_location(hash_of(location(number + numbers)), location(number + numbers)), None);
        }
        assert!(index.items as f64 / (index.buckets() * SLOTS as u64) as f64 > 0.9 || cfg!(miri));
        assert!(index.bytes() < index.buckets() as usize * BUCKET + SMALLEST);
    }

    #[test]
    fn it_shrinks_to_what_is_left() {
        let numbers = if cfg!(miri) { 3_000 } else { 100_000 };
        let mut index = filled(numbers);
        let full = index.bytes();
        let left = numbers / 20;
        for number in left..numbers {
            let slot = index.find_location(hash_of(location(number)), location(number)).unwrap();
            index.remove(slot);
            while index.wants_shrinking() {
                assert_eq!(index.shrink(|_| (), hash_of), []);
            }
        }
        assert_eq!(index.items, u64::from(left));
        for number in 0..left {
            assert!(index.find_location(hash_of(location(number)), location(number)).is_some());
        }
        assert!(index.bytes() < full / 4 || cfg!(miri), "{} of {full}", index.bytes());
    }

    #[test]
    fn a_slot_keeps_frequency_and_hit_apart_from_its_neighbours() {
        let mut index = filled(500);
        for number in (0..500).step_by(2) {
            let slot = index.find_location(hash_of(location(number)), location(number)).unwrap();
            index.relocate(slot, location(number), (number % 16) as u8, number % 4 == 0);
        }
        for number in 0..500 {
            let slot = index.find_location(hash_of(location(number)), location(number)).unwrap();
            let expected = if number % 2 == 0 { ((number % 16) as u8, number % 4 == 0) } else { (0, false) };
            assert_eq!((slot.frequency, slot.hit), expected, "{number}");
        }
    }

    #[test]
    fn a_full_table_says_so_and_names_the_coldest() {
        let mut index = Index::new(SMALLEST, SMALLEST, 1, 1 << 16).unwrap();
        let mut numbers = (0..20_000).map(|n| Location { segment: 0, offset: 64 + n });
        let refused = numbers.find(|l| !index.insert(hash_of(*l), *l, 0, hash_of)).unwrap();
        assert!(index.items * 100 > (SMALLEST / BUCKET * SLOTS * 97) as u64, "{} items", index.items);
        let coldest = index.coldest(hash_of(refused));
        index.remove(coldest);
        assert!(index.insert(hash_of(refused), refused, 0, hash_of));
    }

    #[test]
    fn tera_bytes_can_be_addressed() {
        for (segments, size) in [(1, 4096), (1024, 1 << 20), (8 << 20, 1 << 20), (60_000, 129 << 20)] {
            let alignment = Index::alignment(segments, size);
            let index = Index::new(SMALLEST, SMALLEST, segments, size).unwrap();
            let last = Location { segment: segments - 1, offset: (size - 1) / alignment * alignment };
            assert_eq!(index.division.unpack(index.division.pack(last) | 0xf << 44), last);
            assert!(alignment <= 64, "{alignment}");
        }
    }
}

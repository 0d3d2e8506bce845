//! The index as a whole: filled at once, written down, and read again.

use super::{BUCKET, FIRST_GROUP, FIRST_LEVEL, Index, SLOT_MASK, SLOTS, read, write};

/// A table that is filled at once is made to be as full as this, between the two.
const ROOMY: (u64, u64) = (86, 100);

impl Index {
    /// Makes an empty table as large as it would be with so many items, or as `most_bytes` allow.
    pub(crate) fn make_room_for(&mut self, items: u64, most_bytes: usize) {
        debug_assert_eq!(self.items, 0);
        let wanted = (items * ROOMY.1 / (ROOMY.0 * SLOTS as u64)).min(self.most_buckets);
        while self.buckets() < wanted && self.bytes_grown() <= most_bytes {
            self.grown += 1;
            self.end_round();
        }
    }

    /// What so many items take of a table that was filled at once.
    pub(crate) fn bytes_for(items: u64) -> usize {
        (items * ROOMY.1 / ROOMY.0).div_ceil(SLOTS as u64) as usize * BUCKET
    }

    /// The table's shape, and how many items it has.
    pub(crate) fn shape(&self) -> [u64; 4] {
        [self.level.into(), self.group_size, self.grown, self.items]
    }

    /// Gives an empty table a shape that one has had; says whether that is a shape that it can have.
    pub(crate) fn set_shape(&mut self, [level, group_size, grown, items]: [u64; 4]) -> bool {
        let is_shape = (u64::from(FIRST_LEVEL)..u64::from(u32::BITS)).contains(&level)
            && (FIRST_GROUP..2 * FIRST_GROUP).contains(&group_size)
            && grown < 1 << level
            && (group_size << level) + grown <= self.most_buckets
            && items <= ((group_size << level) + grown) * SLOTS as u64;
        if is_shape {
            (self.level, self.group_size, self.grown, self.items) = (level as u32, group_size, grown, items);
        }
        is_shape
    }

    /// The buckets' bytes from `at` on, up to `most` of them; none behind the last.
    pub(crate) fn part(&self, at: usize, most: usize) -> Option<&[u8]> {
        let end = (self.buckets() as usize * BUCKET).min(at + most);
        self.memory.bytes().get(at..end).filter(|part| !part.is_empty())
    }

    /// [`Index::part`], to be filled.
    pub(crate) fn part_mut(&mut self, at: usize, most: usize) -> Option<&mut [u8]> {
        let end = (self.buckets() as usize * BUCKET).min(at + most);
        self.memory.bytes_mut().get_mut(at..end).filter(|part| !part.is_empty())
    }

    /// Gives the memory of a part back that will not be looked at any more.
    pub(crate) fn release(&mut self, at: usize, length: usize) {
        self.memory.release(at..at + length);
    }

    /// Becomes an empty table of the smallest size.
    pub(crate) fn clear(&mut self) {
        let end = self.buckets() as usize * BUCKET;
        // Not by giving memory back alone: that may be refused.
        self.memory.bytes_mut()[..end].fill(0);
        self.memory.release(0..end);
        (self.level, self.group_size, self.grown, self.items) = (FIRST_LEVEL, FIRST_GROUP, 0, 0);
    }

    /// Empties all slots whose records lie in this segment. It reads the whole table.
    pub(crate) fn forget(&mut self, segment: u32) {
        for bucket in 0..self.buckets() as usize {
            for slot in 0..SLOTS {
                let value = read(self.bucket(bucket), slot);
                if value & SLOT_MASK != 0 && self.division.unpack(value).segment == segment {
                    write(self.bucket_mut(bucket), slot, 0);
                    self.items -= 1;
                }
            }
        }
    }
}

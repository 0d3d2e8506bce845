//! The checksum of a record in a volume: whether the record is whole, alive, and of this life of its segment.
//!
//! Four bytes, little-endian, before the record's head. Zero: the record is dead. Otherwise the lowest bit is set, and
//! the others are those of two CRC-32C, joined by exclusive or: one over head and key but for the time of the last access,
//! which reads change, and one over the value. So what changes in the head alone costs no look at the value.
//!
//! Both begin with a seed that only the volume knows: made of its secret, the life of the segment and the offset of the
//! record. What a client puts into a value cannot pass for a record, nor can what a former life of the segment has left,
//! nor a record that was copied elsewhere.

use crate::hash::mix;
use crate::record::{ACCESSED_BYTES, Header, Layout};

/// The bytes of a checksum.
pub(crate) const CHECKSUM: usize = 4;
/// The checksum of a dead record.
pub(crate) const DEAD: u32 = 0;
const ALIVE: u32 = 1;

/// What the checksums of one life of a segment begin with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seed(u64);

impl Seed {
    /// The seed of no life.
    pub(crate) const NONE: Seed = Seed(0);

    /// The seed of a life of a segment in the volume of this secret.
    pub(crate) fn new(secret: u64, life: u64) -> Seed {
        Seed(mix(secret ^ mix(life)))
    }

    /// The checksum of the living record at `offset`, whose bytes from its head on are `record`.
    pub(crate) fn checksum(self, offset: u32, record: &[u8], width: usize, header: &Header, layout: &Layout) -> u32 {
        let value = crc32c::crc32c_append((self.at(offset) >> u32::BITS) as u32, &record[layout.value..layout.end]);
        (self.of_head(offset, record, width, header, layout) ^ value) | ALIVE
    }

    /// The part of the checksum that is of head and key.
    pub(crate) fn of_head(self, offset: u32, record: &[u8], width: usize, header: &Header, layout: &Layout) -> u32 {
        let seed = self.at(offset) as u32;
        if header.marks.accessed.is_none() {
            return crc32c::crc32c_append(seed, &record[..layout.value]);
        }
        let accessed = layout.deadline + width;
        let before = crc32c::crc32c_append(seed, &record[..accessed]);
        crc32c::crc32c_append(before, &record[accessed + ACCESSED_BYTES..layout.value])
    }

    fn at(self, offset: u32) -> u64 {
        mix(self.0 ^ u64::from(offset))
    }
}

/// A checksum after the part of it that is of the head has changed.
pub(crate) fn with_head(checksum: u32, before: u32, after: u32) -> u32 {
    (checksum ^ before ^ after) | ALIVE
}

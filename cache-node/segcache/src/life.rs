//! What a segment of a volume says of its records, at its beginning.
//!
//! ```text
//! segment := life record* end
//! life    := magic (4 bytes) bucket (2) width (1) survived (1) number created base_sequence base_deadline written
//!            checksum (4)
//! end     := checksum (4 bytes) and a 0 where a record's head would be, or the segment's last byte
//! ```
//! Numbers have 8 bytes if nothing else is said, all are little-endian. It is written once, when the segment is taken into
//! use, and never changed: how far the segment is written, what lives in it, and its last deadline follow from the
//! records. A segment that is free has zeros for the magic. The checksum is seeded with the volume's secret.

use crate::hash::mix;
use crate::segment::Segment;
use crate::superblock::{Reader, Writer};

/// The bytes of a life.
pub(crate) const LENGTH: usize = 4 + 4 + 5 * 8 + 4;
/// What a free segment has in the magic's place.
pub(crate) const FREE: [u8; 4] = [0; 4];
const MAGIC: [u8; 4] = *b"GNsg";

/// One use of a segment, from when it is taken to when it is freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    /// No two lives of a volume have the same.
    pub(crate) number: u64,
    pub(crate) bucket: u16,
    pub(crate) width: u8,
    pub(crate) survived: bool,
    pub(crate) created: u64,
    pub(crate) base_sequence: u64,
    pub(crate) base_deadline: u64,
    /// The records behind the base sequence were written at this time (unix seconds) or later.
    pub(crate) written: u64,
}

impl Life {
    /// The life of a segment.
    pub(crate) fn of(segment: &Segment, written: u64) -> Life {
        let Segment { life: number, bucket, width, survived, created, base_sequence, base_deadline, .. } = *segment;
        Life { number, bucket, width, survived, created, base_sequence, base_deadline, written }
    }

    /// Reads the life at the start of a segment's bytes: none where the segment is free, or damaged.
    pub(crate) fn decode(bytes: &[u8], secret: u64) -> Option<Life> {
        let mut reader = Reader { bytes: bytes.get(..LENGTH)?, at: 0 };
        if reader.take() != MAGIC {
            return None;
        }
        let bucket = u16::from_le_bytes(reader.take());
        let [width, survived] = reader.take();
        let life = Life {
            bucket,
            width,
            survived: survived != 0,
            number: reader.number(),
            created: reader.number(),
            base_sequence: reader.number(),
            base_deadline: reader.number(),
            written: reader.number(),
        };
        let covered = &bytes[..reader.at];
        (u32::from_le_bytes(reader.take()) == checksum(covered, secret)).then_some(life)
    }

    /// The bytes of a life.
    pub(crate) fn encode(&self, secret: u64) -> [u8; LENGTH] {
        let Life { number, bucket, width, survived, created, base_sequence, base_deadline, written } = *self;
        let mut writer = Writer { bytes: [0; LENGTH], at: 0 };
        writer.put(&MAGIC);
        writer.put(&bucket.to_le_bytes());
        writer.put(&[width, u8::from(survived)]);
        for field in [number, created, base_sequence, base_deadline, written] {
            writer.put(&field.to_le_bytes());
        }
        let checksum = checksum(&writer.bytes[..writer.at], secret);
        writer.put(&checksum.to_le_bytes());
        writer.bytes
    }
}

fn checksum(covered: &[u8], secret: u64) -> u32 {
    crc32c::crc32c_append(mix(secret) as u32, covered)
}

#[cfg(test)]
mod tests {
    use super::Life;

    const LIFE: Life = Life {
        number: 7 << 32,
        bucket: 300,
        width: 2,
        survived: true,
        created: 41,
        base_sequence: 1 << 40,
        base_deadline: 1_800_000_000,
        written: 1_799_999_990,
    };

    #[test]
    fn a_life_is_read_as_it_was_written() {
        let bytes = LIFE.encode(9);
        assert_eq!(Life::decode(&bytes, 9), Some(LIFE));
        assert_eq!(Life::decode(&bytes, 8), None, "of another volume");
        assert_eq!(Life::decode(&bytes[1..], 9), None);
    }

    #[test]
    fn a_flipped_bit_anywhere_ends_it() {
        let bytes = LIFE.encode(9);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Life::decode(&damaged, 9), None, "bit {bit}");
        }
    }
}

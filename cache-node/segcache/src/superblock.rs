//! The first pages of a volume: what is true of all of it.
//!
//! ```text
//! volume     := superblock superblock segment*
//! superblock := magic (8 bytes) version generation segment_size segments alignment secret hash_seed epoch boot_id
//!               now sequence items flushed flush_at durability clean oom_kills oom_ends checksum
//! ```
//! Every field is 8 bytes little-endian, but for the boot's identity of 16. Each superblock begins a page of its own, and
//! the checksum (CRC-32C, seeded with the version) covers everything before it. The one with an even generation is the first.
//! A write goes to the older of the two, unless the newer one is not durable yet and has to be: so one of them is always
//! whole. The whole one with the higher generation counts.
//! Decoding is total: bytes that are no superblock give an error that says what is wrong with them.

use std::ops::RangeInclusive;

/// The version of the format that this build writes: of superblocks, segments, records and snapshots together.
pub(crate) const VERSION: u64 = 1;
/// The oldest version that it writes when it is asked to: the one before its own, so that a release can go back by one.
/// There is none before the first.
pub(crate) const OLDEST_WRITTEN: u64 = 1;
/// The oldest version that it reads.
pub(crate) const OLDEST: u64 = 1;
/// The versions of a volume's format that this build writes; the last is its own. It reads these and no others.
pub const FORMATS: RangeInclusive<u64> = OLDEST_WRITTEN..=VERSION;
/// A superblock has a page.
const PAGE: usize = 4096;
/// Where the first segment begins.
pub(crate) const SUPERBLOCKS: usize = 2 * PAGE;

const MAGIC: [u8; 8] = *b"GANNETvl";
const FIELDS: usize = 17;
const BOOT: usize = 16;
const LENGTH: usize = MAGIC.len() + FIELDS * 8 + BOOT + 8;
/// What `flush_at` has where no flush is due.
const NO_FLUSH: u64 = u64::MAX;

/// What is true of a whole volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Superblock {
    /// Ascends with every write of a superblock.
    pub(crate) generation: u64,
    pub(crate) segment_size: u64,
    pub(crate) segments: u64,
    /// Offsets of records are multiples of this.
    pub(crate) alignment: u64,
    /// What the checksums of this volume are seeded with.
    pub(crate) secret: u64,
    /// The seed of the keys' hashes.
    pub(crate) hash_seed: u64,
    /// How often the volume was opened. Lives of segments are numbered within it, so no number is used twice.
    pub(crate) epoch: u64,
    /// The boot of the machine in which the volume was last open.
    pub(crate) boot: [u8; BOOT],
    /// The clock at its last tick, in unix seconds: the heartbeat of the volume's owner.
    pub(crate) now: u64,
    /// The sequence of the last write at that tick.
    pub(crate) sequence: u64,
    /// The items at that tick: what the index needs room for when it is made again.
    pub(crate) items: u64,
    /// Records up to this sequence have been flushed.
    pub(crate) flushed: u64,
    /// When everything is to be flushed.
    pub(crate) flush_at: Option<u64>,
    /// What the writes since `boot` are safe from: the number of a [`Durability`](crate::Durability).
    pub(crate) durability: u64,
    /// The snapshot of the index that is of exactly this state of the volume; 0: there is none.
    pub(crate) clean: u64,
    /// Processes that the machine had killed for want of memory when the volume was opened.
    pub(crate) oom_kills: u64,
    /// How often in a row the volume's owner seems to have been one of them.
    pub(crate) oom_ends: u64,
}

/// Why there is no superblock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoSuperblock {
    /// Nothing was ever written.
    Empty,
    /// It is not a volume.
    Foreign,
    /// It is of a version that this build does not read.
    Version(u64),
    /// Both copies are damaged.
    Damaged,
}

impl Superblock {
    /// Reads the superblock of a volume that begins with these bytes.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Superblock, NoSuperblock> {
        let pages = [bytes.get(..PAGE), bytes.get(PAGE..SUPERBLOCKS)];
        let read = pages.map(|page| page.map_or(Err(NoSuperblock::Damaged), decode_one));
        match read {
            [Ok(first), Ok(second)] => Ok(if first.generation > second.generation { first } else { second }),
            [Ok(one), _] | [_, Ok(one)] => Ok(one),
            [Err(NoSuperblock::Version(version)), _] | [_, Err(NoSuperblock::Version(version))] => {
                Err(NoSuperblock::Version(version))
            }
            [Err(NoSuperblock::Damaged), _] | [_, Err(NoSuperblock::Damaged)] => Err(NoSuperblock::Damaged),
            [Err(first), Err(_)] => Err(first),
        }
    }

    /// Where the superblock is to be written to, and its bytes.
    pub(crate) fn encode(&self) -> (usize, [u8; LENGTH]) {
        let mut writer = Writer { bytes: [0; LENGTH], at: 0 };
        writer.put(&MAGIC);
        let Superblock {
            generation,
            segment_size,
            segments,
            alignment,
            secret,
            hash_seed,
            epoch,
            boot,
            now,
            sequence,
            items,
            flushed,
            flush_at,
            durability,
            clean,
            oom_kills,
            oom_ends,
        } = *self;
        for field in [VERSION, generation, segment_size, segments, alignment, secret, hash_seed, epoch] {
            writer.put(&field.to_le_bytes());
        }
        writer.put(&boot);
        let flush_at = flush_at.unwrap_or(NO_FLUSH);
        for field in [now, sequence, items, flushed, flush_at, durability, clean, oom_kills, oom_ends] {
            writer.put(&field.to_le_bytes());
        }
        let checksum = crc32c::crc32c_append(VERSION as u32, &writer.bytes[..writer.at]);
        writer.put(&u64::from(checksum).to_le_bytes());
        (if generation.is_multiple_of(2) { 0 } else { PAGE }, writer.bytes)
    }
}

fn decode_one(page: &[u8]) -> Result<Superblock, NoSuperblock> {
    let mut reader = Reader { bytes: page.get(..LENGTH).ok_or(NoSuperblock::Damaged)?, at: 0 };
    if reader.bytes.iter().all(|byte| *byte == 0) {
        return Err(NoSuperblock::Empty);
    }
    if reader.take::<8>() != MAGIC {
        return Err(NoSuperblock::Foreign);
    }
    let version = reader.number();
    if !(OLDEST..=VERSION).contains(&version) {
        return Err(NoSuperblock::Version(version));
    }
    let superblock = Superblock {
        generation: reader.number(),
        segment_size: reader.number(),
        segments: reader.number(),
        alignment: reader.number(),
        secret: reader.number(),
        hash_seed: reader.number(),
        epoch: reader.number(),
        boot: reader.take(),
        now: reader.number(),
        sequence: reader.number(),
        items: reader.number(),
        flushed: reader.number(),
        flush_at: Some(reader.number()).filter(|at| *at != NO_FLUSH),
        durability: reader.number(),
        clean: reader.number(),
        oom_kills: reader.number(),
        oom_ends: reader.number(),
    };
    let covered = reader.at;
    let checksum = u64::from(crc32c::crc32c_append(version as u32, &page[..covered]));
    if reader.number() == checksum { Ok(superblock) } else { Err(NoSuperblock::Damaged) }
}

/// Writes fields one after the other.
pub(crate) struct Writer<const N: usize> {
    pub(crate) bytes: [u8; N],
    pub(crate) at: usize,
}

impl<const N: usize> Writer<N> {
    pub(crate) fn put(&mut self, field: &[u8]) {
        self.bytes[self.at..self.at + field.len()].copy_from_slice(field);
        self.at += field.len();
    }
}

/// Reads fields one after the other; behind the end there are zeros.
pub(crate) struct Reader<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) at: usize,
}

impl Reader<'_> {
    pub(crate) fn take<const N: usize>(&mut self) -> [u8; N] {
        let field = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; N]);
        self.at += N;
        field
    }

    pub(crate) fn number(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

#[cfg(test)]
mod tests {
    use super::{NoSuperblock, PAGE, SUPERBLOCKS, Superblock};

    fn superblock(generation: u64) -> Superblock {
        Superblock {
            generation,
            segment_size: 65_536,
            segments: 17,
            alignment: 1,
            secret: 5,
            hash_seed: 6,
            epoch: 7,
            boot: [8; 16],
            now: 1_800_000_000,
            sequence: 9,
            items: 2,
            flushed: 3,
            flush_at: None,
            durability: 1,
            clean: 0,
            oom_kills: 4,
            oom_ends: 1,
        }
    }

    fn written(superblocks: &[Superblock]) -> Vec<u8> {
        let mut bytes = vec![0; SUPERBLOCKS];
        for superblock in superblocks {
            let (at, block) = superblock.encode();
            bytes[at..at + block.len()].copy_from_slice(&block);
        }
        bytes
    }

    #[test]
    fn the_newer_of_those_that_are_whole_counts() {
        let (old, new) = (superblock(4), Superblock { flush_at: Some(12), ..superblock(5) });
        let mut bytes = written(&[old, new]);
        assert_eq!(Superblock::decode(&bytes), Ok(new));
        // The write of the newer one was torn.
        bytes[PAGE + 60] ^= 1;
        assert_eq!(Superblock::decode(&bytes), Ok(old));
        bytes[60] ^= 1;
        assert_eq!(Superblock::decode(&bytes), Err(NoSuperblock::Damaged));
    }

    #[test]
    fn what_is_no_superblock_is_called_what_it_is() {
        assert_eq!(Superblock::decode(&[0; SUPERBLOCKS]), Err(NoSuperblock::Empty));
        assert_eq!(Superblock::decode(&[7; SUPERBLOCKS]), Err(NoSuperblock::Foreign));
        assert_eq!(Superblock::decode(&[]), Err(NoSuperblock::Damaged));
        let mut bytes = written(&[superblock(2)]);
        bytes[8] = 9;
        assert_eq!(Superblock::decode(&bytes), Err(NoSuperblock::Version(9)));
    }

    #[test]
    fn a_flipped_bit_anywhere_is_found() {
        let bytes = written(&[superblock(2)]);
        let length = superblock(2).encode().1.len();
        for bit in 0..length * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Superblock::decode(&damaged).is_err(), "bit {bit}");
        }
    }
}

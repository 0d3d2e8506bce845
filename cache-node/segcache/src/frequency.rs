//! How often and how lately an item was read, in the four bits that the index has for it.
//!
//! For merges this is the time that the item has left, in passes of the merges over all of the memory. Each pass drops
//! about a quarter of what it sees, so four passes are about the time after which an LRU of the same size would drop an
//! item that is not read. An item that is read has more than that, and the more the oftener it is read; one that never
//! was has less. For S3-FIFO it is that algorithm's own counter, up to three.

use crate::Eviction;
use crate::hash::Random;

/// A new item.
const NEW: u8 = 3;
/// An item that was read once.
const READ: u8 = 5;
/// The most that an item gets by being read.
const MOST: u8 = 7;
/// The most for S3-FIFO.
const MOST_S3: u8 = 3;
/// A new item whose key is in S3-FIFO's ghost queue goes to the main queue.
const RECALLED_S3: u8 = 2;

/// The frequency of a new item.
pub(crate) fn fresh(eviction: Eviction, recalled: bool) -> u8 {
    match eviction {
        Eviction::S3Fifo if recalled => RECALLED_S3,
        Eviction::S3Fifo => 0,
        _ => NEW,
    }
}

/// The frequency of an item that is read once more.
#[inline]
pub(crate) fn read(eviction: Eviction, frequency: u8, random: &mut Random) -> u8 {
    match eviction {
        Eviction::S3Fifo => (frequency + 1).min(MOST_S3),
        _ if frequency < READ => READ,
        // Each further step takes twice as many reads: what is read all day differs from what was read in a row.
        _ if frequency < MOST && random.next().leading_zeros() > u32::from(frequency - READ) => frequency + 1,
        _ => frequency,
    }
}

/// The frequency of an item after a pass.
pub(crate) fn aged(frequency: u8) -> u8 {
    frequency.saturating_sub(1)
}

/// Classes of worth, the least worth first.
pub(crate) const CLASSES: usize = 128;
/// Above this length all records are alike, and below that.
const LENGTHS: std::ops::RangeInclusive<u32> = 16..=1 << 20;

/// The class of a record of this frequency and length: what is read will be read again, and what is shorter leaves more
/// room for others. Four classes are a doubling of the length, or a step of the frequency.
pub(crate) fn class(frequency: u8, length: u32) -> usize {
    let quarters = |length: u32| 4 * length.ilog2() + (length >> (length.ilog2() - 2) & 3);
    let length = length.clamp(*LENGTHS.start(), *LENGTHS.end());
    let class = 4 * u32::from(frequency) + quarters(*LENGTHS.end()) - quarters(length);
    (class as usize).min(CLASSES - 1)
}

#[cfg(test)]
mod tests {
    use super::{CLASSES, MOST, aged, class, fresh, read};
    use crate::Eviction;
    use crate::hash::Random;

    #[test]
    fn more_reads_and_fewer_bytes_are_worth_more() {
        for frequency in 0..15 {
            for length in [20, 60, 100, 1000, 100_000] {
                assert!(class(frequency + 1, length) > class(frequency, length));
                assert!(class(frequency, length) > class(frequency, 2 * length));
            }
        }
        assert!(class(15, 0) < CLASSES && class(0, u32::MAX) == 0);
    }

    #[test]
    fn what_is_read_outlives_what_is_not() {
        let mut random = Random::new(1);
        for eviction in [Eviction::Merge, Eviction::S3Fifo] {
            let unread = fresh(eviction, false);
            let mut frequency = unread;
            for reads in 1..10_000 {
                let more = read(eviction, frequency, &mut random);
                assert!(more > unread && more >= frequency && more <= MOST, "{eviction:?} after {reads}");
                frequency = more;
            }
            assert!(frequency == MOST || eviction == Eviction::S3Fifo && frequency == 3);
            (0..MOST).for_each(|_| frequency = aged(frequency));
            assert_eq!(frequency, 0);
        }
    }
}

//! What a cache is told when it is made.

use crate::bucket::Buckets;
use crate::chronicle::Chronicle;
use crate::ghost::Ghost;
use crate::index::SMALLEST;
use crate::populate::Memory;
use crate::record::MAX_OVERHEAD;
use crate::segment::Segments;
use crate::volume::HUGE_PAGE;

/// How a cache is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Bytes for the index, the segments and their metadata together. It is reserved at once as addresses, and touched
    /// only as items come.
    pub budget: usize,
    /// The largest value in bytes, without its key.
    pub max_item_size: usize,
    /// What makes room when the budget is used up.
    pub eviction: Eviction,
    /// Seeds the keyed hash and every random choice: the same seed and the same calls give the same cache. On a server
    /// it must be random, or clients can choose keys that collide.
    pub seed: u64,
}

/// What makes room when the budget is used up. Expired items always go first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Eviction {
    /// Nothing: a write is refused with [`StoreError::OutOfMemory`](crate::StoreError::OutOfMemory).
    None,
    /// A segment taken at random.
    Random,
    /// The oldest segment.
    Fifo,
    /// The segment whose items expire first.
    ClosestToExpiration,
    /// The segment with the fewest live bytes.
    Utilization,
    /// Neighbouring segments become one that keeps the items read most often for their size (Segcache, NSDI '21,
    /// section 3.5).
    #[default]
    Merge,
    /// First-in-first-out queues with quick demotion (S3-FIFO, SOSP '23), a segment at a time.
    S3Fifo,
}

impl Eviction {
    /// Every policy, in the order of their declaration.
    pub const ALL: [Eviction; 7] = [
        Eviction::None,
        Eviction::Random,
        Eviction::Fifo,
        Eviction::ClosestToExpiration,
        Eviction::Utilization,
        Eviction::Merge,
        Eviction::S3Fifo,
    ];
}

/// Settings that no cache can be made of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The budget does not hold the few segments that the engine needs to work.
    #[error(
        "a budget of {budget} bytes is too small for items of up to {max_item_size}: at least {needed} is needed; raise the budget or lower the largest item"
    )]
    BudgetTooSmall {
        /// The budget that was asked for, in bytes.
        budget: usize,
        /// The largest value, in bytes.
        max_item_size: usize,
        /// The smallest budget that would do, in bytes.
        needed: usize,
    },
    /// The largest item is larger than a segment may be.
    #[error("a largest item of {max_item_size} bytes is out of range: 1 to {limit}")]
    ItemSize {
        /// The largest value that was asked for, in bytes.
        max_item_size: usize,
        /// The largest that is possible, in bytes.
        limit: usize,
    },
    /// The segments of a volume are not such as these settings need.
    #[error("segments of {size} bytes do not hold the largest item, which needs {smallest}; lower the largest item")]
    SegmentSize {
        /// The size of a segment in bytes.
        size: usize,
        /// The smallest that would do, in bytes.
        smallest: usize,
    },
    /// The operating system gave no memory.
    #[error("{size} bytes of memory could not be reserved: {reason}; lower the budget")]
    Memory {
        /// The bytes that were asked for.
        size: usize,
        /// What the system said.
        reason: String,
    },
}

/// Where the segments of a cache are to lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    /// Bytes for the segments alone; without, the budget is for them too.
    pub(crate) capacity: Option<usize>,
    /// The size that segments have already.
    pub(crate) segment_size: Option<usize>,
    pub(crate) is_volume: bool,
}

impl Placement {
    /// In memory that nothing outlives.
    pub(crate) const MEMORY: Placement = Placement { capacity: None, segment_size: None, is_volume: false };
}

/// What a cache is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) segment_size: u32,
    pub(crate) segments: u32,
    /// The addresses that the index may grow into.
    pub(crate) index_bytes: usize,
    /// The steps in which memory moves between index and segments.
    pub(crate) index_chunk: usize,
    /// The share of [`Eviction::S3Fifo`]'s ghost queue.
    pub(crate) ghost_bytes: usize,
    /// The budget's share for the ghost queue and for metadata, whatever they hold.
    pub(crate) metadata_bytes: usize,
}

/// A segment is this share of the budget, within these bounds, if the largest item allows.
const SEGMENT_SHARE: usize = 1024;
const SMALLEST_SEGMENT: usize = 64 << 10;
const LARGEST_SEGMENT: usize = 1 << 20;
/// Segments begin and end with pages of the system.
const PAGE: usize = 4096;
/// The fewest segments that a cache works with: one to write to, one to merge into, two to merge.
const FEWEST_SEGMENTS: usize = 4;
const MOST_SEGMENTS: usize = 1 << 27;
/// The largest value: a segment's size must fit 32 bits with room to spare.
const LARGEST_ITEM: usize = 1 << 30;
/// Metadata that does not depend on the number of segments.
const FIXED_METADATA: usize = Buckets::METADATA + Chronicle::METADATA + 2 * Memory::METADATA;
/// From this budget on the index has huge pages: the last one, which may be nearly empty, is then below a hundredth.
const HUGE_INDEX: usize = 256 << 20;
/// A record of one byte is half index.
const INDEX_SHARE: usize = 2;

impl Settings {
    pub(crate) fn geometry(&self, placement: Placement) -> Result<Geometry, SettingsError> {
        let Settings { budget, max_item_size, .. } = *self;
        let Placement { capacity, segment_size, is_volume } = placement;
        if !(1..=LARGEST_ITEM).contains(&max_item_size) {
            return Err(SettingsError::ItemSize { max_item_size, limit: LARGEST_ITEM });
        }
        let ghost_bytes = if self.eviction == Eviction::S3Fifo { Ghost::bytes(budget) } else { 0 };
        let index_chunk = if budget < HUGE_INDEX { SMALLEST } else { HUGE_PAGE };
        let fixed = FIXED_METADATA + index_chunk + ghost_bytes;
        let smallest = Segments::size_for(MAX_OVERHEAD + max_item_size);
        let share = capacity.unwrap_or(budget) / SEGMENT_SHARE;
        let chosen = share.clamp(SMALLEST_SEGMENT, LARGEST_SEGMENT).max(smallest).next_multiple_of(PAGE);
        let size = segment_size.unwrap_or(chosen);
        if size < smallest || size > LARGEST_ITEM * 2 {
            return Err(SettingsError::SegmentSize { size, smallest });
        }
        let superblocks = if is_volume { Segments::volume_bytes(0, size) } else { 0 };
        let segments = match capacity {
            None => budget.saturating_sub(fixed + superblocks) / (size + Segments::METADATA),
            Some(capacity) => capacity.saturating_sub(superblocks) / size,
        };
        let segments = segments.min(MOST_SEGMENTS);
        if segments < FEWEST_SEGMENTS {
            let needed = |index_chunk| {
                let rest = FIXED_METADATA + index_chunk + FEWEST_SEGMENTS * (size + Segments::METADATA);
                if self.eviction == Eviction::S3Fifo { Ghost::with_ghost(rest) } else { rest }
            };
            let small = needed(SMALLEST);
            let needed = if small < HUGE_INDEX { small } else { needed(HUGE_PAGE) };
            return Err(SettingsError::BudgetTooSmall { budget, max_item_size, needed });
        }
        let needed = fixed + segments * Segments::METADATA;
        if needed > budget {
            return Err(SettingsError::BudgetTooSmall { budget, max_item_size, needed });
        }
        let index_share = if capacity.is_none() { INDEX_SHARE } else { 1 };
        Ok(Geometry {
            segment_size: size as u32,
            segments: segments as u32,
            index_bytes: (budget / index_share).next_multiple_of(index_chunk),
            index_chunk,
            ghost_bytes,
            metadata_bytes: ghost_bytes + FIXED_METADATA + segments * Segments::METADATA,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Eviction, Placement, Settings, SettingsError};

    fn settings(budget: usize, max_item_size: usize) -> Settings {
        Settings { budget, max_item_size, eviction: Eviction::Merge, seed: 0 }
    }

    #[test]
    fn all_policies_are_listed_once() {
        for (place, eviction) in Eviction::ALL.into_iter().enumerate() {
            assert_eq!(eviction as usize, place);
        }
        // The last that is declared.
        assert_eq!(Eviction::S3Fifo as usize + 1, Eviction::ALL.len());
    }

    #[test]
    fn segments_are_a_share_of_the_budget_that_holds_the_largest_item() {
        for (budget, item, size) in [
            (8 << 20, 1 << 10, 64 << 10),
            (256 << 20, 1 << 10, 256 << 10),
            (8 << 30, 1 << 10, 1 << 20),
            (64 << 20, 1 << 20, (1 << 20) + 4096),
            (1 << 30, 128 << 20, (128 << 20) + 4096),
        ] {
            assert_eq!(
                settings(budget, item).geometry(Placement::MEMORY).unwrap().segment_size,
                size,
                "{budget} {item}"
            );
        }
    }

    #[test]
    fn all_parts_stay_within_the_budget() {
        for budget in [1 << 20, 8 << 20, 100 << 20, 1 << 30, 1 << 40] {
            let parts = settings(budget, 1024).geometry(Placement::MEMORY).unwrap();
            let sum = parts.segments as usize * parts.segment_size as usize + parts.metadata_bytes + parts.index_chunk;
            assert!(sum <= budget && sum > budget / 10 * 8, "{parts:?}");
        }
    }

    #[test]
    fn what_is_said_to_be_needed_is_enough() {
        for item in [1, 1024, 1 << 20, 1 << 30] {
            let Err(SettingsError::BudgetTooSmall { needed, .. }) = settings(0, item).geometry(Placement::MEMORY)
            else {
                panic!("no bytes were enough");
            };
            assert!(settings(needed, item).geometry(Placement::MEMORY).is_ok(), "{item}");
            assert!(settings(needed - 1, item).geometry(Placement::MEMORY).is_err(), "{item}");
        }
        let queues =
            |budget| Settings { eviction: Eviction::S3Fifo, ..settings(budget, 1024) }.geometry(Placement::MEMORY);
        let Err(SettingsError::BudgetTooSmall { needed, .. }) = queues(0) else { panic!("no bytes were enough") };
        assert!(queues(needed).is_ok());
        assert!(matches!(settings(1 << 40, 0).geometry(Placement::MEMORY), Err(SettingsError::ItemSize { .. })));
        assert!(matches!(
            settings(1 << 40, usize::MAX).geometry(Placement::MEMORY),
            Err(SettingsError::ItemSize { .. })
        ));
    }
}

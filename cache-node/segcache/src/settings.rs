//! What a cache is told when it is made.

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
    /// The operating system gave no memory.
    #[error("{size} bytes of memory could not be reserved: {reason}; lower the budget")]
    Memory {
        /// The bytes that were asked for.
        size: usize,
        /// What the system said.
        reason: String,
    },
}

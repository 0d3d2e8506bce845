//! What a cache says of itself.

/// Figures of a cache, all exact at the moment of the call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Items in the cache now, with those whose deadline has passed but whose memory has not been taken back yet.
    pub items: u64,
    /// Bytes of those items' records: keys, values and headers.
    pub item_bytes: u64,
    /// Records written since the start.
    pub stored: u64,
    /// Live items dropped to make room since the start.
    pub evicted: u64,
    /// Items dropped because their deadline passed since the start.
    pub expired: u64,
    /// Writes that had to wait for a segment to be freed, because none was free ahead of them, since the start.
    pub stalled: u64,
    /// Items given up since the start because their segment in the volume is not what was written.
    pub damaged: u64,
    /// The budget in bytes.
    pub budget: u64,
    /// Bytes of the budget that the index takes now.
    pub index_bytes: u64,
    /// Bytes of the budget that segments in use take now.
    pub segment_bytes: u64,
    /// Bytes of the budget that metadata of segments and TTL buckets takes.
    pub metadata_bytes: u64,
    /// The size of one segment in bytes.
    pub segment_size: u64,
    /// Segments in use now.
    pub segments_used: u64,
    /// Segments free now.
    pub segments_free: u64,
    /// Open reservations now.
    pub reservations: u64,
}

/// Figures of one TTL bucket that has segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TtlBucket {
    /// The shortest TTL in seconds that goes into this bucket; `None` for items that never expire.
    pub shortest: Option<u32>,
    /// Segments in the bucket.
    pub segments: u32,
    /// Items in the bucket.
    pub items: u64,
    /// Bytes of those items' records.
    pub item_bytes: u64,
}

//! What goes into a cache and what comes out of it.

use crate::Deadline;

/// The longest key in bytes, as in memcached.
pub const MAX_KEY_LENGTH: usize = 250;

/// What can be told of an item before it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glance {
    /// The length of its value in bytes.
    pub length: usize,
    /// It is out of date.
    pub stale: bool,
    /// Somebody was told to renew it.
    pub won: bool,
}

/// An item as it stands in the cache: its value is a slice of the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item<'a> {
    /// The value, byte for byte as it was stored.
    pub value: &'a [u8],
    /// The client's flags.
    pub flags: u32,
    /// The number of the write that made the item; it ascends from write to write, unless a client chose it.
    pub cas: u64,
    /// When the item ends.
    pub deadline: Deadline,
    /// Whether the item had been read before this call.
    pub hit_before: bool,
    /// Whether the value is out of date: [`Cache::mark_stale`](crate::Cache::mark_stale).
    pub stale: bool,
    /// Whether a client was told to renew the item: [`Cache::win`](crate::Cache::win).
    pub won: bool,
}

/// An item to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewItem<'a> {
    /// The key, 1 to [`MAX_KEY_LENGTH`] bytes of any value.
    pub key: &'a [u8],
    /// The value, up to [`Settings::max_item_size`](crate::Settings::max_item_size) bytes of any value.
    pub value: &'a [u8],
    /// The client's flags.
    pub flags: u32,
    /// When the item ends.
    pub deadline: Deadline,
    /// A CAS that the client sets (the meta protocol's `E`) in place of the write's own number; it costs the record 8
    /// bytes.
    pub cas: Option<u64>,
}

/// On what condition, and how, an item is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Always.
    Set,
    /// Only if the key is not there.
    Add,
    /// Only if the key is there.
    Replace,
    /// Behind the value that is there; its flags and deadline stay.
    Append,
    /// Before the value that is there; its flags and deadline stay.
    Prepend,
    /// Only if the key is there with this CAS.
    Cas(u64),
    /// As [`Mode::Cas`], but a CAS that is lower than the item's is good enough for a value that is out of date as soon
    /// as it is stored (the meta protocol's `I` of a set): it is marked as stale, and the item's deadline stays, and so
    /// does the mark that a client was told to renew it.
    CasOrStale(u64),
}

/// How a store ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The item is in the cache.
    Stored {
        /// Its CAS.
        cas: u64,
    },
    /// The condition of [`Mode::Add`], [`Mode::Replace`], [`Mode::Append`] or [`Mode::Prepend`] did not hold.
    NotStored,
    /// [`Mode::Cas`] or [`Mode::CasOrStale`]: the key is there with another CAS.
    Exists,
    /// [`Mode::Cas`] or [`Mode::CasOrStale`]: the key is not there.
    NotFound,
}

/// Why an item cannot be stored. What was there under the key before is still there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The value is larger than the cache allows.
    #[error("a value of {size} bytes is larger than the limit of {limit}; raise the largest item size or store less")]
    TooLarge {
        /// The value's length in bytes (after an append: of both together).
        size: usize,
        /// The largest value in bytes.
        limit: usize,
    },
    /// Memory is used up, and eviction is off or everything that could go is pinned by open reservations.
    #[error("no memory for an item of {size} bytes: nothing may be evicted; raise the budget or allow eviction")]
    OutOfMemory {
        /// The record's length in bytes.
        size: usize,
    },
    /// The key is empty or too long.
    #[error("a key of {length} bytes is out of range: 1 to {MAX_KEY_LENGTH}")]
    KeyLength {
        /// The key's length in bytes.
        length: usize,
    },
    /// As many values are being received as may be at once.
    #[error("{limit} reservations are open, the most that may be; commit or abort one first")]
    TooManyReservations {
        /// The most that may be open.
        limit: usize,
    },
    /// A reservation was committed before all of its value had been filled in.
    #[error("a reservation was committed with {missing} bytes of its value not filled in")]
    Unfilled {
        /// The bytes that are missing.
        missing: usize,
    },
}

/// Why a number could not be counted up or down.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArithmeticError {
    /// The key is not there.
    #[error("the key is not there")]
    NotFound,
    /// The value is not an unsigned decimal number of 64 bits.
    #[error("the value is not an unsigned decimal number of 64 bits")]
    NotANumber,
    /// The new number could not be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
}

//! Segcache: a storage engine for many small objects with TTLs (Yang, Yue, Vinayak: "Segcache: a memory-efficient and
//! scalable in-memory key-value cache for small objects", NSDI '21).
//!
//! One number of bytes holds everything: items, their index, and the metadata of both. A cache has one owner and no
//! locks, does no I/O but to its volume, if it has one, and reads no clock: the same calls with the same seed give the same
//! cache.
//!
//! ```
//! use segcache::{Cache, Deadline, Eviction, Outcome, Settings};
//!
//! let settings = Settings { budget: 64 << 20, max_item_size: 1 << 20, eviction: Eviction::Merge, seed: 42 };
//! let mut now = 1_800_000_000; // unix seconds, from whatever clock the caller has
//! let mut cache = Cache::new(settings, now)?;
//!
//! let Outcome::Stored { cas } = cache.set(b"session:17", b"alice", 0, Deadline::At(now + 60))? else {
//!     unreachable!("a set has no condition")
//! };
//! let item = cache.get(b"session:17").ok_or("it was stored a moment ago")?;
//! assert_eq!((item.value, item.cas), (b"alice".as_slice(), cas));
//!
//! // Only who has seen the last write may write.
//! assert_eq!(cache.cas(b"session:17", b"bob", 0, Deadline::Never, cas + 1)?, Outcome::Exists);
//!
//! // The item is served through second 60, and not in second 61.
//! now += 60;
//! cache.advance(now);
//! assert!(cache.get(b"session:17").is_some());
//! cache.advance(now + 1);
//! assert!(cache.get(b"session:17").is_none());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # How it works
//! Memory is divided into *segments* of one size. A record is appended to the open segment of its *TTL bucket*, so that
//! the items of a segment end at about the same time, and is moved by merges and compactions only; a write that takes
//! exactly the place of the record before is written over it. The *index* has six bytes for
//! each item: where the record lies, how often it was read, and some bits of the hash of its key.
//!
//! - **Expiry** needs no reads: when the last deadline of a segment has passed, the whole segment is dropped. Besides,
//!   each record has its own deadline to the second, and is not served after it. Buckets are narrow and segments are
//!   sealed early enough that memory is back within two seconds and a sixteenth of the TTL; only where memory is too
//!   short for that many segments, neighbouring buckets share one, and such segments are swept now and then.
//! - **Eviction** takes whole segments too; [`Eviction::Merge`] copies what was read most for its size into a fresh
//!   one. What has expired, was deleted or overwritten goes first: the emptiest segments are compacted, up to eight into
//!   one less, as long as that is possible. What it comes to beside an LRU and beside memcached is in `docs/hit-ratio.md`.
//! - **Work is bounded**: expiry, eviction and the growth of the index advance by some records with each write and each
//!   [`Cache::advance`]; segments are freed ahead of the writes. In the steady state nothing is allocated.
//! - **Pages** take memory with the first write to them, for which the system may need milliseconds. A [`Populator`], on a
//!   thread of the caller's, has them made ready a little ahead of the writes.
//! - **The index** grows and shrinks by a bucket at a time, and takes its memory from the segments and gives it back.
//!
//! # What outlives the process
//! A cache that is made by [`Cache::open`] has its segments in a mapped file, the *volume*, and its index in memory. Each record
//! there has a checksum, seeded with a secret of the volume and with where and when its segment was taken into use, and a
//! record that leaves the index dies in the volume too. So whenever the process ends, by whatever signal, the volume has
//! exactly the items of the index, but for the one that was being written. The next process finds the index as a snapshot after
//! [`Cache::close`], or makes it again from all segments. What outlives the machine is the caller's choice ([`Durability`]): nothing,
//! what was there at the last [`Flusher::flush`], or all that [`Cache::make_durable`] has returned for. What is not as it was written is left out, never served. The format
//! stands on the types of `superblock.rs`, `life.rs`, `record.rs`, `checksum.rs` and `snapshot.rs`.
//!
//! # What an item costs
//! An item of 14 + 32 bytes with a TTL of an hour takes 60 bytes of a budget of 1 GiB:
//!
//! | | bytes |
//! |---|---|
//! | key and value | 46 |
//! | header: lengths (2), write sequence, which is the CAS (2 to 3), deadline (2) | 6.5 |
//! | index: six bytes a slot, nine slots in ten used, ten slots in a cache line | 7.1 |
//! | free segments kept ahead, unused ends of segments | 0.6 |
//!
//! In a volume each record has 4 bytes more, its checksum. Client flags that are not 0 cost 2 bytes more and what they need
//! as LEB128; an explicit CAS costs 8, and the time of the last access 4, on those items only that have them.
#![deny(missing_docs)]

mod bucket;
mod cache;
mod checksum;
mod chronicle;
mod compaction;
mod counters;
mod deadline;
mod dump;
mod durability;
mod evict;
mod evicted;
mod files;
mod frequency;
mod ghost;
mod hash;
mod index;
mod item;
mod ledger;
mod life;
mod maintenance;
mod merge;
mod meta;
mod number;
mod opening;
mod overwrite;
mod populate;
mod record;
mod recovery;
mod reservation;
mod segment;
mod settings;
mod snapshot;
mod store;
mod superblock;
mod touch;
mod verification;
mod volume;

pub use cache::Cache;
pub use counters::{Counters, TtlBucket};
pub use deadline::Deadline;
pub use dump::Cursor;
pub use durability::Durability;
pub use evicted::{Evicted, Evictions};
pub use files::{Flusher, Medium};
pub use hash::KeyHash;
pub use item::{ArithmeticError, Glance, Item, MAX_KEY_LENGTH, Mode, NewItem, Outcome, StoreError};
pub use opening::{Cold, OnMismatch, OpenError, Recovery, VolumeSettings, last_tick};
pub use populate::{Populator, Progress};
pub use recovery::RecoveryProgress;
pub use reservation::Reservation;
pub use settings::{Eviction, Settings, SettingsError};
pub use superblock::FORMATS;
pub use volume::Region;

//! Segcache: a storage engine for many small objects with TTLs (Yang, Yue, Vinayak: "Segcache: a memory-efficient and
//! scalable in-memory key-value cache for small objects", NSDI '21).

mod bucket;
mod cache;
mod counters;
mod deadline;
mod evict;
mod ghost;
mod hash;
mod index;
mod item;
mod maintenance;
mod merge;
mod number;
mod record;
mod reservation;
mod segment;
mod settings;
mod store;
mod volume;

pub use cache::Cache;
pub use counters::{Counters, TtlBucket};
pub use deadline::Deadline;
pub use item::{ArithmeticError, Item, MAX_KEY_LENGTH, Mode, NewItem, Outcome, StoreError};
pub use reservation::Reservation;
pub use settings::{Eviction, Settings, SettingsError};
pub use volume::Region;

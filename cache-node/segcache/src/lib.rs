//! Segcache: a storage engine for many small objects with TTLs (Yang, Yue, Vinayak: "Segcache: a memory-efficient and
//! scalable in-memory key-value cache for small objects", NSDI '21).

mod cache;
mod counters;
mod deadline;
mod item;
mod settings;

pub use cache::{Cache, Reservation};
pub use counters::{Counters, TtlBucket};
pub use deadline::Deadline;
pub use item::{ArithmeticError, Item, MAX_KEY_LENGTH, Mode, NewItem, Outcome, StoreError};
pub use settings::{Eviction, Settings, SettingsError};

//! What [`crate::bell`] is made of. A name of its own, because `tests/bell.rs` puts loom's in its place.

pub use std::sync::atomic::{AtomicBool, Ordering};

//! The hit ratio of the engine beside an exact LRU and beside memcached, on workloads drawn from the published
//! parameters of production clusters.
//!
//! In the order of the work: [`clusters`] reads the parameters, [`workload`] draws objects and requests from them,
//! [`store`] replays the requests against a simulated cache ([`unbounded`], [`lru`], [`engine`]), [`memcached`] against a
//! real server, [`comparison`] runs all of it, and [`report`] and [`plot`] show what came of it.

pub mod clusters;
pub mod comparison;
pub mod engine;
pub mod lru;
pub mod memcached;
pub mod plot;
pub mod random;
pub mod report;
pub mod results;
pub mod store;
pub mod unbounded;
pub mod workload;

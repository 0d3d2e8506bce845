//! Segcache.

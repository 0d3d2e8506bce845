//! CacheCluster.

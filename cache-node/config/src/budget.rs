//! How a container's memory limit is divided, so that it cannot be exceeded.

use crate::{Bytes, Config, Tls, TlsMode};

/// The division of one container's memory limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The container's limit.
    pub limit: Bytes,
    /// For items and their index: [`Config::memory`].
    pub cache: Bytes,
    /// For the buffers of all connections: [`Config::buffer_memory`].
    pub buffers: Bytes,
    /// For everything else: the program, its threads' stacks, what the kernel charges for sockets, the keys of connections
    /// within TLS, their handshakes, and slack.
    pub reserve: Bytes,
}

/// A limit that leaves no sensible cache.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BudgetError {
    /// What remains for items is too small for the largest item.
    #[error(
        "memory {limit} leaves {cache} for items after {reserve} for the process and {buffers} for connections, and the largest item is {max_item_size}: at least {needed} is needed; raise the memory, or lower maxItemSize or maxConnections"
    )]
    TooSmall {
        /// The container's limit.
        limit: Bytes,
        /// What would remain for items.
        cache: Bytes,
        /// What the process needs for itself.
        reserve: Bytes,
        /// What connections need.
        buffers: Bytes,
        /// The largest item.
        max_item_size: Bytes,
        /// The smallest limit that would do.
        needed: Bytes,
    },
}

const MIB: u64 = 1 << 20;
/// The program's own pages, the allocator's, the admin port's runtime.
const PROCESS: u64 = 12 * MIB;
/// A worker's stack, event list and counters.
const WORKER: u64 = MIB;
/// What one connection costs beside its buffers: the session, the poll registration, and the kernel's socket.
const CONNECTION: u64 = 2 << 10;
/// What one costs more within TLS: keys, the state of the session, the client's certificates. Measured: cache-node/docs.
const TLS_CONNECTION: u64 = 8 << 10;
/// What one handshake may hold: a message of 24 KiB that is not complete yet, and what it is answered from.
const TLS_HANDSHAKE: u64 = 32 << 10;
/// One byte in so many is left free for what the allocator and the kernel round up.
const SLACK_SHARE: u64 = 32;
/// The cache must hold this many items of the largest size, or eviction has nothing to choose from.
const LARGEST_ITEMS: u64 = 8;
const SMALLEST_CACHE: u64 = 8 * MIB;

impl Budget {
    /// Divides `limit` for a node with the workers, connections, item size and TLS of `node`.
    ///
    /// # Errors
    /// [`BudgetError::TooSmall`] where less than eight of the largest items, or less than 8 MiB, would fit.
    pub fn divide(limit: Bytes, node: &Config) -> Result<Budget, BudgetError> {
        let max_item_size = node.max_item_size;
        let smallest = SMALLEST_CACHE.max(LARGEST_ITEMS * max_item_size.0);
        let connections = u64::from(node.max_connections);
        let tls = node.tls.as_ref().filter(|tls| tls.mode != TlsMode::Disabled);
        let fixed = PROCESS
            + WORKER * u64::from(node.workers)
            + CONNECTION * connections
            + tls.map_or(0, |tls| tls_reserve(tls, connections));
        let reserve = fixed + limit.0 / SLACK_SHARE;
        let buffers = buffers(limit.0, max_item_size.0);
        let cache = limit.0.saturating_sub(reserve + buffers) / MIB * MIB;
        if cache < smallest {
            // Both shares of the limit are at most a thirty-second plus a sixteenth of it, hence 32/29.
            let floor = fixed + smallest + MIB + buffers_floor(max_item_size.0);
            let needed = (floor + floor * 3 / 29).div_ceil(MIB) * MIB;
            return Err(BudgetError::TooSmall {
                limit,
                cache: Bytes(cache),
                reserve: Bytes(reserve / MIB * MIB),
                buffers: Bytes(buffers),
                max_item_size,
                needed: Bytes(needed),
            });
        }
        Ok(Budget { limit, cache: Bytes(cache), buffers: Bytes(buffers), reserve: Bytes(limit.0 - cache - buffers) })
    }

    /// The configuration of a node that keeps to this budget, otherwise as `base`.
    #[must_use]
    pub fn apply(&self, base: Config) -> Config {
        Config { memory: self.cache, buffer_memory: self.buffers, ..base }
    }
}

fn tls_reserve(tls: &Tls, connections: u64) -> u64 {
    TLS_CONNECTION * connections + TLS_HANDSHAKE * u64::from(tls.max_handshakes)
}

/// A sixteenth of the limit, but no less than two of the largest items need and no more than 256 MiB.
fn buffers(limit: u64, max_item_size: u64) -> u64 {
    (limit / 16).min(256 * MIB).max(buffers_floor(max_item_size)) / MIB * MIB
}

fn buffers_floor(max_item_size: u64) -> u64 {
    (2 * max_item_size).next_multiple_of(MIB).max(4 * MIB)
}

#[cfg(test)]
mod tests {
    use super::{Budget, BudgetError};
    use crate::{Bytes, Config, Tls, TlsMode};

    fn node(connections: u32, item: u64) -> Config {
        Config { max_connections: connections, max_item_size: Bytes(item << 20), ..Config::default() }
    }

    fn divide(limit: u64, connections: u32, item: u64) -> Result<Budget, BudgetError> {
        Budget::divide(Bytes(limit << 20), &node(connections, item))
    }

    #[test]
    fn tls_has_its_reserve() {
        let within = |mode| Config { tls: Some(Tls { mode, ..Tls::from_directory("/tls") }), ..node(10_000, 1) };
        let cache = |node: &Config| Budget::divide(Bytes(1 << 30), node).unwrap().cache.0;
        let clear = cache(&node(10_000, 1));
        assert_eq!(clear - cache(&within(TlsMode::Strict)), (10_000 * 8 + 256 * 32) << 10 >> 20 << 20);
        assert_eq!(clear, cache(&within(TlsMode::Disabled)));
    }

    #[test]
    fn the_parts_are_the_whole() {
        for limit in [64, 100, 1024, 8 << 10, 1 << 20] {
            let budget = divide(limit, 1024, 1).unwrap();
            assert_eq!(budget.cache.0 + budget.buffers.0 + budget.reserve.0, limit << 20, "{limit} MiB");
        }
    }

    #[test]
    fn most_of_a_large_limit_is_cache() {
        assert!(divide(8 << 10, 10_000, 1).unwrap().cache.0 > (8 << 30) / 100 * 92);
    }

    #[test]
    fn what_is_said_to_be_needed_is_enough() {
        for (connections, item) in [(1, 1), (1024, 1), (10_000, 1), (1_000_000, 1), (10_000, 128)] {
            let Err(BudgetError::TooSmall { needed, .. }) = divide(16, connections, item) else {
                panic!("16Mi accepted")
            };
            assert!(divide(needed.0 >> 20, connections, item).is_ok(), "{needed} for {connections} and {item}Mi");
        }
    }
}

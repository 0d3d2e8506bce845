//! The open connections, for those who ask about them (`stats conns`). Nothing on the path of a request takes the lock.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use slab::Slab;

use crate::clock::Instant;

/// All open connections of the node.
#[derive(Debug, Default)]
pub struct Connections {
    open: Mutex<Slab<Arc<Connection>>>,
}

/// What is known of one connection. Its worker writes it, and anyone may read it.
#[derive(Debug)]
pub struct Connection {
    /// The other side's address.
    pub client: SocketAddr,
    /// When bytes last came, in microseconds of the node's clock.
    heard: AtomicU64,
    /// A [`Use`].
    used: AtomicU8,
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Use {
    /// It waits for requests, or serves them.
    Reads,
    /// Its replies wait for the client to take them.
    Writes,
    /// It is told what happens.
    Watches,
}

impl Connection {
    /// Notes that bytes came.
    #[inline]
    pub fn hear(&self, now: Instant) {
        self.heard.store(now.micros(), Ordering::Relaxed);
    }

    /// Notes what it is doing from now on.
    pub fn set_use(&self, used: Use) {
        self.used.store(used as u8, Ordering::Relaxed);
    }

    /// What it is doing, as memcached calls it.
    #[must_use]
    pub fn state(&self) -> &'static str {
        match self.used.load(Ordering::Relaxed) {
            used if used == Use::Watches as u8 => "conn_watch",
            used if used == Use::Writes as u8 => "conn_mwrite",
            _ => "conn_read",
        }
    }

    /// Whole seconds without a byte from the client.
    #[must_use]
    pub fn silent_seconds(&self, now: Instant) -> u64 {
        now.micros().saturating_sub(self.heard.load(Ordering::Relaxed)) / 1_000_000
    }
}

/// A connection's place in the list, which it leaves when this is dropped.
#[derive(Debug)]
pub struct Listed {
    connection: Arc<Connection>,
    place: usize,
    list: Arc<Connections>,
}

impl std::ops::Deref for Listed {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.list.open.lock().unwrap_or_else(PoisonError::into_inner).try_remove(self.place);
    }
}

impl Connections {
    /// Lists a new connection.
    #[must_use]
    pub fn list(self: &Arc<Connections>, client: SocketAddr, now: Instant) -> Listed {
        let heard = AtomicU64::new(now.micros());
        let connection = Arc::new(Connection { client, heard, used: AtomicU8::new(Use::Reads as u8) });
        let place = self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(Arc::clone(&connection));
        Listed { connection, place, list: Arc::clone(self) }
    }

    /// Up to `most` connections with their numbers, and how many more there are.
    #[must_use]
    pub fn first(&self, most: usize) -> (Vec<(usize, Arc<Connection>)>, usize) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let first = open.iter().take(most).map(|(place, connection)| (place, Arc::clone(connection))).collect();
        (first, open.len().saturating_sub(most))
    }
}

#[cfg(test)]
mod tests {
    use super::Connections;
    use crate::clock::Clock;
    use std::sync::Arc;

    #[test]
    fn a_connection_is_listed_as_long_as_it_lives() {
        let (list, now) = (Arc::new(Connections::default()), Clock::start(0).now());
        let listed: Vec<_> = (1..=5).map(|port| list.list(([127, 0, 0, 1], port).into(), now)).collect();
        let (first, more) = list.first(3);
        assert_eq!((first.len(), more), (3, 2));
        drop(listed);
        assert_eq!(list.first(3).0.len(), 0);
    }
}

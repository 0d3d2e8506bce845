//! Where servers are. Names are looked up again and again: a pod that is made anew has a new address.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

const INTERVAL: Duration = Duration::from_secs(1);

/// The servers by name and by address.
#[derive(Debug)]
pub struct Servers {
    pub names: Vec<String>,
    addresses: Mutex<Vec<SocketAddr>>,
}

impl Servers {
    /// # Errors
    /// Which name has no address.
    pub fn resolve(names: Vec<String>) -> io::Result<Arc<Servers>> {
        let addresses: io::Result<Vec<_>> = names.iter().map(|name| resolve(name)).collect();
        let servers = Arc::new(Servers { names, addresses: Mutex::new(addresses?) });
        if servers.names.iter().any(|name| name.parse::<SocketAddr>().is_err()) {
            let looked_up = Arc::downgrade(&servers);
            thread::Builder::new().name("resolver".to_owned()).spawn(move || {
                while let Some(servers) = looked_up.upgrade() {
                    servers.look_up();
                    drop(servers);
                    thread::sleep(INTERVAL);
                }
            })?;
        }
        Ok(servers)
    }

    pub fn address(&self, index: usize) -> Option<SocketAddr> {
        self.lock().get(index).copied()
    }

    fn look_up(&self) {
        for (index, name) in self.names.iter().enumerate() {
            // A name that is gone for a moment keeps its old address.
            if let Ok(found) = resolve(name)
                && let Some(address) = self.lock().get_mut(index)
            {
                *address = found;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<SocketAddr>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn resolve(name: &str) -> io::Result<SocketAddr> {
    let failed = |reason: String| io::Error::other(format!("--server {name}: {reason}; write HOST:PORT"));
    let mut found = name.to_socket_addrs().map_err(|error| failed(error.to_string()))?;
    found.next().ok_or_else(|| failed("it has no address".to_owned()))
}

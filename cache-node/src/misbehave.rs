//! A node that misbehaves on purpose, for tests of the operator: it is there only with the feature `misbehave`, which no release
//! has. Its fault is chosen by the seconds of `idleTimeout`: a field that a cluster's spec can set and that changes nothing else
//! within a test.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use config::Config;
use memcache::Command;
use segcache::Cache;

/// What it does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Each request takes 2 ms more.
    Slow,
    /// One look-up in ten finds nothing any more.
    LosesHits,
    /// One request in twenty fails.
    Errs,
    /// It takes a little memory with every request and never gives it back.
    Grows,
    /// It never says that it is ready.
    NeverReady,
}

const SLOW: Duration = Duration::from_millis(2);
const LOSES_EVERY: u64 = 10;
const ERRS_EVERY: u64 = 20;
const GROWS_BY: usize = 64 << 10;
/// It must be caught by its growth, not by the kernel.
const GROWS_TO: usize = 12 << 20;

static REQUESTS: AtomicU64 = AtomicU64::new(0);
static KEPT: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

impl Fault {
    /// The fault that a configuration asks for.
    #[must_use]
    pub fn of(config: &Config) -> Option<Fault> {
        match config.idle_timeout.0.as_secs() {
            1001 => Some(Fault::Slow),
            1002 => Some(Fault::LosesHits),
            1003 => Some(Fault::Errs),
            1004 => Some(Fault::Grows),
            1005 => Some(Fault::NeverReady),
            _ => None,
        }
    }
}

/// Does what it does wrong before a request.
///
/// # Returns
/// Whether the request is to fail.
pub fn strike(config: &Config, command: &Command, input: &[u8], cache: &mut Cache) -> bool {
    let Some(fault) = Fault::of(config) else { return false };
    let number = REQUESTS.fetch_add(1, Ordering::Relaxed);
    match fault {
        Fault::Slow => thread::sleep(SLOW),
        Fault::LosesHits if number.is_multiple_of(LOSES_EVERY) => {
            if let (Command::Get { .. }, Some(key)) = (command, command.first_key(input)) {
                cache.delete(key);
            }
        }
        Fault::Errs => return number.is_multiple_of(ERRS_EVERY),
        Fault::Grows => {
            let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() * GROWS_BY < GROWS_TO {
                kept.push(vec![1; GROWS_BY]);
            }
        }
        _ => {}
    }
    false
}

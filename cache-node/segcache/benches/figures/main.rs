//! Figures that are no single operation's: memory of an item, the slowest operations, how operations slow down as the
//! working set outgrows the processor's caches. `cargo bench -p segcache --bench figures [SECTION]`.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on should stop")]

mod expiry;
mod hits;
mod latency;
mod memory;
mod recovery;
mod speed;
mod stopwatch;

use std::thread;
use std::time::Duration;

use segcache::{Cache, Eviction, Progress, Settings};

const NOW: u64 = 1_800_000_000;

fn main() {
    let section = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let sections: [(&str, fn()); 6] = [
        ("memory", memory::memory),
        ("latency", latency::latency),
        ("expiry", expiry::expiry),
        ("hits", hits::hits),
        ("recovery", recovery::recovery),
        ("speed", speed::speed),
    ];
    for (name, run) in sections {
        if section.as_deref().is_none_or(|section| section == name) {
            run();
        }
    }
}

/// How often the thread that makes memory ready looks whether there is something to do.
const LOOK: Duration = Duration::from_millis(1);

/// A cache with a thread that makes memory ready, as a node has one. It has had its time before the first operation.
fn cache(budget: usize, eviction: Eviction) -> Cache {
    let mut cache = Cache::new(Settings { budget, max_item_size: 512 << 10, eviction, seed: 42 }, NOW).unwrap();
    let populator = cache.populator().unwrap();
    while populator.advance() == Progress::Advanced {}
    thread::spawn(move || {
        loop {
            match populator.advance() {
                Progress::Advanced => {}
                Progress::Idle => thread::sleep(LOOK),
                Progress::Ended => return,
            }
        }
    });
    cache
}

/// A key of 14 bytes.
fn key(number: u64) -> [u8; 14] {
    let mut key = *b"key:0000000000";
    let mut rest = number;
    for digit in key[4..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    key
}

/// The process's resident memory in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

//! Figures that are no single operation's: memory of an item, the slowest operations, how operations slow down as the
//! working set outgrows the processor's caches. `cargo bench -p segcache --bench figures [SECTION]`.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on should stop")]

mod expiry;
mod hits;
mod latency;
mod memory;
mod speed;
mod stopwatch;

use segcache::{Cache, Eviction, Settings};

const NOW: u64 = 1_800_000_000;

fn main() {
    let section = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let sections: [(&str, fn()); 5] = [
        ("memory", memory::memory),
        ("latency", latency::latency),
        ("expiry", expiry::expiry),
        ("hits", hits::hits),
        ("speed", speed::speed),
    ];
    for (name, run) in sections {
        if section.as_deref().is_none_or(|section| section == name) {
            run();
        }
    }
}

fn cache(budget: usize, eviction: Eviction) -> Cache {
    Cache::new(Settings { budget, max_item_size: 512 << 10, eviction, seed: 42 }, NOW).unwrap()
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

//! The slowest operations while the index grows and while memory is full, in memory that is fresh and in memory that
//! was used before: what differs between the two is the system's work to find and clear pages.

use segcache::{Cache, Deadline, Eviction};

use crate::stopwatch::{Stopwatch, print_head};
use crate::{NOW, cache, key};

const TTLS: [u64; 5] = [10, 60, 300, 3600, 86_400];

pub fn latency() {
    println!("latency: 256 MiB, 32-byte values, single operations, in microseconds");
    print_head();
    for eviction in [Eviction::Merge, Eviction::Fifo, Eviction::S3Fifo] {
        let mut cache = cache(256 << 20, eviction);
        let written = fill(&mut cache, 0, &format!("{eviction:?}: set, index growing, fresh memory"));
        evict(&mut cache, written, 2 * written, &format!("{eviction:?}: set, evicting"));
        cache.flush(None);
        while cache.maintain() {}
        fill(&mut cache, 4 * written, &format!("{eviction:?}: set, index growing, used memory"));
    }
}

fn set(cache: &mut Cache, number: u64, stopwatch: &mut Stopwatch) {
    let deadline = Deadline::At(NOW + TTLS[number as usize % TTLS.len()]);
    let key = key(number);
    stopwatch.time(|| cache.set(&key, &[7; 32], 0, deadline)).unwrap();
}

/// Sets until something is evicted; returns how many.
fn fill(cache: &mut Cache, first: u64, name: &str) -> u64 {
    let (mut stopwatch, mut written) = (Stopwatch::new(), 0);
    let evicted = cache.counters().evicted;
    while cache.counters().evicted == evicted {
        set(cache, first + written, &mut stopwatch);
        written += 1;
    }
    stopwatch.stop();
    stopwatch.print(name);
    written
}

fn evict(cache: &mut Cache, first: u64, count: u64, name: &str) {
    let mut stopwatch = Stopwatch::new();
    (first..first + count).for_each(|number| set(cache, number, &mut stopwatch));
    stopwatch.stop();
    stopwatch.print(name);
}

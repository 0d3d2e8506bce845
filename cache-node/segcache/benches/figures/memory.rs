//! What an item costs of a budget, and of the process's memory.

use segcache::{Deadline, Eviction};

use crate::{NOW, cache, key, resident};

pub fn memory() {
    println!("memory: keys of 14 bytes, TTL 1 h, filled to eviction and as much again");
    println!(
        "{:>8} {:>6} {:>10} {:>14} {:>14} {:>8} {:>8}",
        "budget", "value", "items", "budget/item", "resident/item", "index", "free"
    );
    for budget in [64 << 20, 256 << 20, 1 << 30] {
        for length in [32, 100] {
            let before = resident();
            let mut cache = cache(budget, Eviction::Merge);
            let value = vec![7; length];
            let writes = 2 * budget as u64 / (length as u64 + 20);
            for number in 0..writes {
                // A million writes a second, in the time of the cache.
                if number % 1024 == 0 {
                    cache.advance(NOW + number / 1_000_000);
                }
                cache.set(&key(number), &value, 0, Deadline::At(cache.now() + 3600)).unwrap();
            }
            let counters = cache.counters();
            println!(
                "{:>4} MiB {:>6} {:>10} {:>14.1} {:>14.1} {:>7.1}% {:>8}",
                budget >> 20,
                length,
                counters.items,
                budget as f64 / counters.items as f64,
                (resident() - before) as f64 / counters.items as f64,
                100.0 * counters.index_bytes as f64 / budget as f64,
                counters.segments_free,
            );
            println!(
                "         records {:.1} bytes, segments used {:.1}% live",
                counters.item_bytes as f64 / counters.items as f64,
                100.0 * counters.item_bytes as f64 / counters.segment_bytes as f64
            );
        }
    }
}

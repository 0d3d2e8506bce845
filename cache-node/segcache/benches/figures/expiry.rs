//! Ten million items with mixed TTLs, from the first that is stored to the last that has expired. Stops where an item is
//! served after its time or missing before it, or where memory is not back in time.

use segcache::{Cache, Deadline, Eviction};

use crate::stopwatch::{Stopwatch, print_head};
use crate::{NOW, cache, key};

const ITEMS: u64 = 10_000_000;
/// Stored a second, of the cache's time.
const RATE: u64 = 1_000_000;
const LONGEST_TTL: u64 = 600;
/// One item in so many is looked at in its last second and in the one after.
const WATCHED: u64 = 100;
/// Of each second: calls of [`Cache::advance`], and reads after each.
const BATCHES: u64 = 1000;
const READS: u64 = 16;

pub fn expiry() {
    println!("expiry: {ITEMS} items of 32 bytes, TTLs from 1 s to {LONGEST_TTL} s, 1 GiB, Merge; in microseconds");
    let mut cache = cache(1 << 30, Eviction::Merge);
    // Until the memory of the last is back.
    let seconds = (ITEMS / RATE + LONGEST_TTL + LONGEST_TTL / 16 + 4) as usize;
    let mut run = Run { due: vec![Vec::new(); seconds], back: vec![0; seconds] };
    let (mut sets, mut gets, mut advances) = (Stopwatch::new(), Stopwatch::new(), Stopwatch::new());
    for number in 0..ITEMS {
        let second = number / RATE;
        if number % (RATE / BATCHES) == 0 {
            advances.time(|| cache.advance(NOW + second));
        }
        let (key, ttl) = (key(number), ttl(number));
        sets.time(|| cache.set(&key, &[7; 32], 0, Deadline::At(NOW + second + ttl))).unwrap();
        run.note(number, second + ttl, ttl);
    }
    sets.stop();
    assert_eq!(cache.counters().evicted, 0, "there was memory for all");
    for second in ITEMS / RATE..run.due.len() as u64 {
        for batch in 0..BATCHES {
            advances.time(|| cache.advance(NOW + second));
            for read in 0..READS {
                let number = scattered(second << 32 | batch << 16 | read) % ITEMS;
                let key = key(number);
                let found = gets.time(|| cache.get(&key).is_some());
                assert_eq!(found, number / RATE + ttl(number) >= second, "item {number} in second {second}");
            }
        }
        run.check(&mut cache, second);
    }
    gets.stop();
    advances.stop();
    print_head();
    sets.print("set, index growing, some expiring");
    gets.print("get, expiring");
    advances.print("advance, expiring");
    let counters = cache.counters();
    assert_eq!((counters.items, counters.expired), (0, ITEMS));
    println!(
        "  all {} expired, {} evicted, {} watched items served to their last second and not after; in the end {} items and {} segments",
        counters.expired,
        counters.evicted,
        ITEMS / WATCHED,
        counters.items,
        counters.segments_used
    );
}

/// What is known of the items.
struct Run {
    /// The watched items by their last second.
    due: Vec<Vec<u64>>,
    /// How many items must have given their memory back in each second at the latest.
    back: Vec<u64>,
}

impl Run {
    fn note(&mut self, number: u64, last: u64, ttl: u64) {
        if number.is_multiple_of(WATCHED) {
            self.due[last as usize].push(number);
        }
        self.back[(last + 2 + ttl / 16) as usize] += 1;
    }

    fn check(&mut self, cache: &mut Cache, second: u64) {
        for number in &self.due[second as usize] {
            assert!(cache.peek(&key(*number)).is_some(), "item {number} is gone in its last second {second}");
        }
        for number in &self.due[second as usize - 1] {
            assert!(cache.peek(&key(*number)).is_none(), "item {number} is served after its last second");
        }
        let back: u64 = self.back[..=second as usize].iter().sum();
        let expired = cache.counters().expired;
        assert!(expired >= back, "second {second}: {expired} items of {back} have given their memory back");
    }
}

fn ttl(number: u64) -> u64 {
    1 + scattered(number) % LONGEST_TTL
}

/// A number that looks like chance (SplitMix64).
fn scattered(number: u64) -> u64 {
    let x = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

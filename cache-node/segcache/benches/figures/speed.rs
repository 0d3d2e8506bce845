//! How operations slow down as the working set outgrows the processor's caches, beside a hash map of boxed slices, the
//! simple thing that one could write.

use std::hint::black_box;
use std::ops::Range;
use std::time::Instant;

use hashbrown::HashMap;
use segcache::{Cache, Deadline, Eviction, Mode, NewItem};

use crate::{NOW, cache, key};

const VALUE: [u8; 100] = [7; 100];
const OPERATIONS: u64 = 2_000_000;
/// Of memory for each item: what the cache needs, and what the map does with its two allocations.
const ITEM: u64 = 130;
const MAP_ITEM: u64 = 260;
/// Keys that are prefetched together.
const BATCH: usize = 32;

/// All sizes, or those that the command line names in MiB: the largest takes minutes to fill.
pub fn speed() {
    let asked: Vec<u64> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    println!("speed: 100-byte values, million operations a second on one core");
    println!("| working set | items | get | get, 32 prefetched | miss | set | map: get | miss | set |");
    println!("|---|---|---|---|---|---|---|---|---|");
    for mebibytes in [10_u64, 100, 1024, 8192].into_iter().filter(|size| asked.is_empty() || asked.contains(size)) {
        let items = (mebibytes << 20) / ITEM;
        // The map first, as long as all of the memory is there.
        let map = (available() > items * MAP_ITEM).then(|| of_map(items));
        let ours = of_cache(mebibytes, items);
        print!("| {mebibytes} MiB | {items} |");
        ours.iter().for_each(|rate| print!(" {rate:.1} |"));
        match map {
            Some(rates) => {
                rates.iter().for_each(|rate| print!(" {rate:.1} |"));
                println!();
            }
            None => println!(" it does not fit into this machine's memory | | |"),
        }
    }
}

fn of_cache(mebibytes: u64, items: u64) -> [f64; 4] {
    let mut cache = cache((mebibytes << 20) as usize * 5 / 4 + (32 << 20), Eviction::Merge);
    let later = Deadline::At(NOW + 3600);
    for first in (0..items).step_by(BATCH) {
        fill(&mut cache, first..items.min(first + BATCH as u64), later);
    }
    let get = rate(items, |number| assert!(cache.get(&key(number)).is_some()));
    let mut keys = [[0; 14]; BATCH];
    let mut waiting = 0;
    let prefetched = rate(items, |number| {
        keys[waiting] = key(number);
        waiting += 1;
        if waiting == BATCH {
            waiting = 0;
            get_all(&mut cache, &keys);
        }
    });
    let miss = rate(items, |number| assert!(cache.get(&key(number + items)).is_none()));
    let set = rate(items, |number| {
        black_box(cache.set(&key(number), &VALUE, 0, later).unwrap());
    });
    [get, prefetched, miss, set]
}

/// Stores the keys of a range, as a batch of requests is stored.
fn fill(cache: &mut Cache, range: Range<u64>, deadline: Deadline) {
    let (mut keys, count) = ([[0; 14]; BATCH], (range.end - range.start) as usize);
    keys.iter_mut().zip(range).for_each(|(place, number)| *place = key(number));
    let hashes = keys.map(|key| cache.hash_of(&key));
    hashes[..count].iter().for_each(|hash| cache.prefetch(*hash));
    for (key, hash) in keys[..count].iter().zip(hashes) {
        let item = NewItem { key, value: &VALUE, flags: 0, deadline, cas: None };
        cache.store_hashed(Mode::Set, hash, &item).unwrap();
    }
}

fn get_all(cache: &mut Cache, keys: &[[u8; 14]; BATCH]) {
    let hashes = keys.map(|key| cache.hash_of(&key));
    hashes.iter().for_each(|hash| cache.prefetch(*hash));
    hashes.iter().for_each(|hash| cache.prefetch_item(*hash));
    for (key, hash) in keys.iter().zip(hashes) {
        assert!(cache.get_hashed(hash, key).is_some());
    }
}

fn of_map(items: u64) -> [f64; 3] {
    let mut map: HashMap<Box<[u8]>, Box<[u8]>> = HashMap::with_capacity(items as usize);
    for number in 0..items {
        map.insert(Box::from(key(number)), Box::from(VALUE));
    }
    let get = rate(items, |number| assert!(map.get(key(number).as_slice()).is_some_and(|value| value.len() == 100)));
    let miss = rate(items, |number| assert!(!map.contains_key(key(number + items).as_slice())));
    let set = rate(items, |number| {
        map.insert(Box::from(key(number)), Box::from(VALUE));
    });
    [get, miss, set]
}

/// Million operations a second, on numbers below `items` in an order that no prefetcher foresees.
fn rate(items: u64, mut operation: impl FnMut(u64)) -> f64 {
    let start = Instant::now();
    let mut random = 88_172_645_463_325_252_u64;
    for _ in 0..OPERATIONS {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        operation(random % items);
    }
    OPERATIONS as f64 / start.elapsed().as_secs_f64() / 1e6
}

/// The memory that this machine has left, in bytes.
fn available() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or_default() << 10
}

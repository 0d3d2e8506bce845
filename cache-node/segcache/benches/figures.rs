//! Figures that are no single operation's: memory of an item, the slowest operations, how operations slow down as the
//! working set outgrows the processor's caches. `cargo bench -p segcache --bench figures [SECTION]`.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on should stop")]

use std::collections::HashMap;
use std::hint::black_box;
use std::time::Instant;

use segcache::{Cache, Deadline, Eviction, Settings};

const NOW: u64 = 1_800_000_000;

fn main() {
    let section = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let wanted = |name: &str| section.as_deref().is_none_or(|section| section == name);
    if wanted("memory") {
        memory();
    }
    if wanted("latency") {
        latency();
    }
    if wanted("hits") {
        hits();
    }
    if wanted("speed") {
        speed();
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

fn memory() {
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

/// Counts of durations in buckets of powers of two of nanoseconds.
struct Histogram {
    counts: [u64; 40],
    slowest: u64,
}

impl Histogram {
    fn new() -> Histogram {
        Histogram { counts: [0; 40], slowest: 0 }
    }

    fn add(&mut self, nanoseconds: u64) {
        self.counts[(nanoseconds | 1).ilog2() as usize] += 1;
        self.slowest = self.slowest.max(nanoseconds);
    }

    fn print(&self, name: &str) {
        let all: u64 = self.counts.iter().sum();
        let at = |share: f64| {
            let mut sum = 0;
            let bucket = self.counts.iter().position(|count| {
                sum += count;
                sum as f64 >= all as f64 * share
            });
            1_u64 << (bucket.unwrap_or(39) + 1)
        };
        println!(
            "{name:<32} {all:>10} operations, below ns: p50 {} p99 {} p999 {} p9999 {} p99999 {}, slowest {} us; over 131 us: {}",
            at(0.5),
            at(0.99),
            at(0.999),
            at(0.9999),
            at(0.99999),
            self.slowest / 1000,
            self.counts[17..].iter().sum::<u64>()
        );
    }
}

/// The processor time of this thread in nanoseconds: unlike the clock on the wall it stands while others run.
fn cpu_time() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn latency() {
    println!("latency: 256 MiB, 32-byte values, single operations, in processor time");
    for eviction in [Eviction::Merge, Eviction::Fifo, Eviction::S3Fifo] {
        let mut cache = cache(256 << 20, eviction);
        let value = [7; 32];
        let ttls = [10, 60, 300, 3600, 86_400];
        let (mut growth, mut full) = (Histogram::new(), Histogram::new());
        let mut written = 0;
        while cache.counters().evicted == 0 {
            let start = cpu_time();
            cache.set(&key(written), &value, 0, Deadline::At(NOW + ttls[written as usize % 5])).unwrap();
            growth.add(cpu_time() - start);
            written += 1;
        }
        growth.print(&format!("{eviction:?}: set, index growing"));
        for _ in 0..2 * written {
            let start = cpu_time();
            cache.set(&key(written), &value, 0, Deadline::At(NOW + ttls[written as usize % 5])).unwrap();
            full.add(cpu_time() - start);
            written += 1;
        }
        full.print(&format!("{eviction:?}: set, evicting"));
        let (mut expiring, mut advancing) = (Histogram::new(), Histogram::new());
        let mut read = written;
        for second in 1..120 {
            for _ in 0..2000 {
                let start = cpu_time();
                cache.advance(NOW + second);
                advancing.add(cpu_time() - start);
                for _ in 0..8 {
                    read -= 1;
                    let start = cpu_time();
                    black_box(cache.get(&key(read)));
                    expiring.add(cpu_time() - start);
                }
            }
        }
        expiring.print(&format!("{eviction:?}: get, expiring"));
        advancing.print(&format!("{eviction:?}: advance, expiring"));
    }
}

/// An exact LRU of so many items, of numbers instead of keys: what the policies are measured against.
struct Lru {
    most: usize,
    turn: u64,
    last_read: HashMap<u64, u64>,
    order: std::collections::BTreeMap<u64, u64>,
}

impl Lru {
    fn forget(&mut self, number: u64) {
        if let Some(turn) = self.last_read.remove(&number) {
            self.order.remove(&turn);
        }
    }

    fn read(&mut self, number: u64) -> bool {
        self.turn += 1;
        self.order.insert(self.turn, number);
        let before = self.last_read.insert(number, self.turn);
        match before {
            Some(before) => {
                self.order.remove(&before);
            }
            None if self.last_read.len() > self.most => {
                if let Some((_, oldest)) = self.order.pop_first() {
                    self.last_read.remove(&oldest);
                }
            }
            None => (),
        }
        before.is_some()
    }
}

/// Requests for keys by Zipf's law, of which some come once only. Popularity moves slowly from key to key.
struct Requests {
    cumulative: Vec<f64>,
    /// The percentage of keys that come once only.
    fresh: u64,
    /// The percentage of requests that are followed by a delete.
    deleted: u64,
}

const KEYS: usize = 100_000;
const REQUESTS: u64 = 1_500_000;
/// After so many requests the ranks have moved on by one key.
const DRIFT: u64 = 50;

impl Requests {
    fn new(alpha: f64, fresh: u64, deleted: u64) -> Requests {
        let mut sum = 0.0;
        let add = |rank: usize| {
            sum += 1.0 / (rank as f64).powf(alpha);
            sum
        };
        Requests { cumulative: (1..=KEYS).map(add).collect(), fresh, deleted }
    }

    /// The percentage of the second half of the requests that missed; `read` is told the request's number, its key, and
    /// whether the key is deleted afterwards.
    fn missed(&self, read: &mut dyn FnMut(u64, u64, bool) -> bool) -> f64 {
        let (mut random, mut misses) = (88_172_645_463_325_252_u64, 0);
        for request in 0..REQUESTS {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let at = (random >> 11) as f64 / (1_u64 << 53) as f64 * self.cumulative[KEYS - 1];
            let rank = self.cumulative.partition_point(|sum| *sum < at) as u64;
            let once = random % 100 < self.fresh;
            let number = if once { 1_000_000_000 + request } else { (rank + request / DRIFT) % KEYS as u64 };
            let hit = read(request, number, request * 7919 % 100 < self.deleted);
            misses += u64::from(!hit && request >= REQUESTS / 2);
        }
        200.0 * misses as f64 / REQUESTS as f64
    }
}

fn hits() {
    let budget = 4 << 20;
    println!("hits: {KEYS} keys, {REQUESTS} reads with a set after each miss, 4 MiB, 100-byte values; percent missed");
    println!("an LRU of memcached's 192 bytes an item, and one of as many items as fit here at 128");
    let evictions = [
        Eviction::Random,
        Eviction::Fifo,
        Eviction::ClosestToExpiration,
        Eviction::Utilization,
        Eviction::Merge,
        Eviction::S3Fifo,
    ];
    let names = evictions.map(|eviction| format!("{eviction:?}")).join("  ");
    println!("{:>6} {:>5} {:>6} {:>8} {:>8} {names}", "alpha", "new", "drop", "LRU 192", "LRU 128");
    let workloads = [(0.7, 0, 0), (0.9, 0, 0), (1.0, 0, 0), (1.2, 0, 0), (1.0, 20, 0), (1.0, 0, 20), (1.3, 0, 20)];
    for (alpha, fresh, deleted) in workloads {
        let requests = Requests::new(alpha, fresh, deleted);
        print!("{alpha:>6} {fresh:>4}% {deleted:>5}%");
        for size in [192, 128] {
            let mut lru = Lru {
                most: budget / size,
                turn: 0,
                last_read: HashMap::new(),
                order: std::collections::BTreeMap::new(),
            };
            let rate = requests.missed(&mut |_, number, delete| {
                let hit = lru.read(number);
                if delete {
                    lru.forget(number);
                }
                hit
            });
            print!(" {rate:>8.2}");
        }
        for eviction in evictions {
            print!(" {:>8.2}", requests.missed(&mut engine(budget, eviction)));
        }
        println!();
    }
}

/// Reads of a cache with a set after each miss.
fn engine(budget: usize, eviction: Eviction) -> impl FnMut(u64, u64, bool) -> bool {
    let mut cache = Cache::new(Settings { budget, max_item_size: 4096, eviction, seed: 42 }, NOW).unwrap();
    move |request, number, delete| {
        if request % 100 == 0 {
            cache.advance(NOW + request / 100_000);
        }
        let hit = cache.get(&key(number)).is_some();
        if !hit {
            cache.set(&key(number), &[7; 100], 0, Deadline::At(cache.now() + 3600)).unwrap();
        }
        if delete {
            cache.delete(&key(number));
        }
        hit
    }
}

fn speed() {
    println!("speed: 100-byte values, million operations a second on one core, beside a hashbrown map of boxed slices");
    println!(
        "{:>10} {:>10} {:>8} {:>8} {:>8} {:>10} {:>10} {:>10}",
        "set", "items", "get", "miss", "set", "map get", "map miss", "map set"
    );
    for megabytes in [10_u64, 100, 1000] {
        let items = megabytes * (1 << 20) / 130;
        let mut cache = cache((megabytes << 20) as usize * 5 / 4 + (32 << 20), Eviction::Merge);
        let mut map: HashMap<Box<[u8]>, Box<[u8]>> = HashMap::new();
        let value = [7; 100];
        for number in 0..items {
            cache.set(&key(number), &value, 0, Deadline::At(NOW + 3600)).unwrap();
            map.insert(Box::from(key(number)), Box::from(value));
        }
        let rate = |operation: &mut dyn FnMut(u64)| {
            let (count, start) = (2_000_000, Instant::now());
            let mut random = 88_172_645_463_325_252_u64;
            for _ in 0..count {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                operation(random % items);
            }
            f64::from(count) / start.elapsed().as_secs_f64() / 1e6
        };
        let get = rate(&mut |number| assert!(cache.get(&key(number)).is_some()));
        let miss = rate(&mut |number| assert!(cache.get(&key(number + items)).is_none()));
        let set = rate(&mut |number| {
            black_box(cache.set(&key(number), &value, 0, Deadline::At(NOW + 3600)).unwrap());
        });
        let map_get =
            rate(&mut |number| assert_eq!(map.get(key(number).as_slice()).map(|value| value.len()), Some(100)));
        let map_miss = rate(&mut |number| assert!(!map.contains_key(key(number + items).as_slice())));
        let map_set = rate(&mut |number| {
            map.insert(Box::from(key(number)), Box::from(value));
        });
        println!(
            "{megabytes:>6} MiB {items:>10} {get:>8.1} {miss:>8.1} {set:>8.1} {map_get:>10.1} {map_miss:>10.1} {map_set:>10.1}"
        );
    }
}

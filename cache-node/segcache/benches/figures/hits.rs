//! Hit ratios of the policies on made-up workloads, for a quick look.

use std::collections::HashMap;

use segcache::{Cache, Deadline, Eviction, Settings};

use crate::{NOW, key};

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

pub fn hits() {
    let budget = 4 << 20;
    println!("hits: {KEYS} keys, {REQUESTS} reads with a set after each miss, 4 MiB, 100-byte values; percent missed");
    println!("an LRU of memcached's 192 bytes an item, and one of as many items as fit here at 128");
    let evictions = Eviction::ALL.into_iter().filter(|eviction| *eviction != Eviction::None);
    let names = evictions.clone().map(|eviction| format!("{eviction:?}")).collect::<Vec<_>>().join("  ");
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
        for eviction in evictions.clone() {
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

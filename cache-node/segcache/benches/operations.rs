//! Each operation, hit and miss, at working sets within and far outside of the processor's caches.
//! `cargo bench -p segcache --bench operations`.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on should stop")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use segcache::{Cache, Deadline, Eviction, Settings};
use std::hint::black_box;

const NOW: u64 = 1_800_000_000;
const LATER: Deadline = Deadline::At(NOW + 3600);
/// Items of 100 bytes: 1 MiB, 100 MiB.
const SIZES: [u64; 2] = [8_000, 800_000];

/// Keys in an order that no prefetcher foresees.
struct Keys {
    state: u64,
    items: u64,
}

impl Keys {
    fn next(&mut self, offset: u64) -> [u8; 14] {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        key((self.state >> 33) % self.items + offset)
    }
}

fn key(mut number: u64) -> [u8; 14] {
    let mut key = *b"key:0000000000";
    for digit in key[4..].iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
    key
}

fn filled(items: u64) -> (Cache, Keys) {
    let budget = items as usize * 160 + (32 << 20);
    let settings = Settings { budget, max_item_size: 64 << 10, eviction: Eviction::Merge, seed: 42 };
    let mut cache = Cache::new(settings, NOW).unwrap();
    for number in 0..items {
        cache.set(&key(number), &[b'7'; 100], 0, LATER).unwrap();
        cache.set(&key(number + 2 * items), b"1000000", 0, LATER).unwrap();
    }
    (cache, Keys { state: 7, items })
}

fn operations(criterion: &mut Criterion) {
    for items in SIZES {
        let mut group = criterion.benchmark_group("operations");
        group.throughput(Throughput::Elements(1));
        let (mut cache, mut keys) = filled(items);
        let mut bench = |name: &str, operation: &mut dyn FnMut(&mut Cache, &mut Keys)| {
            group.bench_function(BenchmarkId::new(name, items), |bencher| {
                bencher.iter(|| operation(&mut cache, &mut keys));
            });
        };
        bench("get hit", &mut |cache, keys| assert!(cache.get(&keys.next(0)).is_some()));
        bench("get miss", &mut |cache, keys| assert!(cache.get(&keys.next(items)).is_none()));
        bench("get 32 prefetched", &mut |cache, keys| {
            let batch: [[u8; 14]; 32] = std::array::from_fn(|_| keys.next(0));
            let hashes = batch.map(|key| cache.hash_of(&key));
            hashes.iter().for_each(|hash| cache.prefetch(*hash));
            hashes.iter().for_each(|hash| cache.prefetch_item(*hash));
            for (key, hash) in batch.iter().zip(hashes) {
                black_box(cache.get_hashed(hash, key).map(|item| item.value[0]));
            }
        });
        bench("touch", &mut |cache, keys| assert!(cache.touch(&keys.next(0), LATER).unwrap()));
        bench("incr", &mut |cache, keys| {
            black_box(cache.incr(&keys.next(2 * items), 1).unwrap());
        });
        bench("set", &mut |cache, keys| {
            black_box(cache.set(&keys.next(0), &[b'8'; 100], 0, LATER).unwrap());
        });
        bench("add, refused", &mut |cache, keys| {
            black_box(cache.add(&keys.next(0), b"", 0, LATER).unwrap());
        });
        bench("set and delete", &mut |cache, keys| {
            let key = keys.next(items);
            cache.set(&key, &[b'9'; 100], 0, LATER).unwrap();
            assert!(cache.delete(&key));
        });
        group.finish();
    }
}

criterion_group!(benches, operations);
criterion_main!(benches);

//! What the engine promises at sizes at which every mechanism runs: growth and shrinking of the index, expiry, merges.
#![expect(clippy::unwrap_used, reason = "helpers of tests are not seen as tests by the linter")]

use segcache::{Cache, Counters, Deadline, Eviction, Settings};

const START: u64 = 1_800_000_000;

fn cache(budget: usize, eviction: Eviction) -> Cache {
    Cache::new(Settings { budget, max_item_size: 16 << 10, eviction, seed: 7 }, START).unwrap()
}

/// A repeatable sequence of numbers (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn key(number: u64) -> Vec<u8> {
    format!("key:{number:010}").into_bytes()
}

/// A value of this length that only this write of this key has.
fn value(number: u64, write: u64, length: usize) -> Vec<u8> {
    let mut numbers = Numbers(number << 32 | write << 1 | 1);
    (0..length).map(|_| numbers.below(256) as u8).collect()
}

fn settle(cache: &mut Cache) {
    for _ in 0..1_000_000 {
        if !cache.maintain() {
            return;
        }
    }
    assert!(!cache.maintain(), "maintenance never ends");
}

fn within_budget(counters: Counters) {
    let used = counters.index_bytes + counters.segment_bytes + counters.metadata_bytes;
    assert!(used <= counters.budget, "{used} of {}", counters.budget);
}

/// A hundred thousand items of mixed sizes and times come, go and are read; what is read is right, and what is missing
/// was evicted.
#[test]
fn every_policy_serves_only_what_was_stored_last() {
    for eviction in Eviction::ALL {
        let mut cache = cache(3 << 20, eviction);
        let mut numbers = Numbers(99);
        let mut known: Vec<Option<(u64, usize, Deadline)>> = vec![None; 60_000];
        let (mut lost, mut refused) = (0, 0);
        for write in 0..200_000_u64 {
            if write % 250 == 0 {
                cache.advance(START + write / 250);
                within_budget(cache.counters());
            }
            // Squared, so that some keys are far more popular than others.
            let number = numbers.below(245) * numbers.below(245);
            let bytes = key(number);
            let live = known[number as usize].filter(|(_, _, deadline)| !deadline.is_past(cache.now()));
            match numbers.below(10) {
                0..5 => match (cache.get(&bytes), live) {
                    (Some(item), Some((write, length, deadline))) => {
                        assert_eq!(item.value, value(number, write, length), "{eviction:?}: {number}");
                        assert_eq!(item.deadline, deadline);
                    }
                    (None, Some(_)) => {
                        lost += 1;
                        known[number as usize] = None;
                    }
                    (item, None) => assert_eq!(item, None, "{eviction:?}: {number} is over"),
                },
                5..9 => {
                    let length = if numbers.below(50) == 0 { 4000 } else { numbers.below(100) as usize };
                    let deadline = match numbers.below(4) {
                        0 => Deadline::Never,
                        1 => Deadline::At(cache.now() + numbers.below(20)),
                        2 => Deadline::At(cache.now() + numbers.below(500)),
                        _ => Deadline::At(cache.now() + numbers.below(10_000)),
                    };
                    match cache.set(&bytes, &value(number, write, length), 0, deadline) {
                        Ok(_) => known[number as usize] = Some((write, length, deadline)),
                        Err(_) => refused += 1,
                    }
                }
                _ => {
                    let deleted = cache.delete(&bytes);
                    assert!(live.is_some() || !deleted);
                    lost += u64::from(live.is_some() && !deleted);
                    known[number as usize] = None;
                }
            }
        }
        let counters = cache.counters();
        assert!(lost <= counters.evicted, "{eviction:?}: {lost} items lost, {} evicted", counters.evicted);
        if eviction == Eviction::None {
            assert_eq!((lost, counters.evicted), (0, 0));
            assert!(refused > 0, "the budget was never used up");
        } else {
            assert!(refused == 0 && counters.evicted > 0, "{eviction:?}: {refused} refused");
        }
        let mut live = 0;
        for (number, write) in known.iter().enumerate() {
            let Some((write, length, deadline)) = write else { continue };
            if let Some(item) = cache.peek(&key(number as u64)) {
                assert_eq!(item.value, value(number as u64, *write, *length));
                live += 1;
            } else {
                assert!(deadline.is_past(cache.now()) || eviction != Eviction::None);
            }
        }
        assert_eq!(cache.iter().count(), live);
    }
}

/// None is served the second after its time, none is gone before, and memory is back within 2 s + TTL/16.
#[test]
fn expiry_is_exact_and_gives_memory_back() {
    let mut cache = cache(32 << 20, Eviction::None);
    let mut numbers = Numbers(5);
    // For each item its last second, and when its memory must be back.
    let mut known = Vec::new();
    let (mut now, mut number) = (START, 0);
    while now < START + 1200 {
        now += 1;
        cache.advance(now);
        if now <= START + 300 {
            for _ in 0..300 {
                let ttl = match numbers.below(3) {
                    0 => numbers.below(8),
                    1 => 60,
                    _ => [20, 100, 250, 600][numbers.below(4) as usize],
                };
                cache.set(&key(number), &value(number, 1, 30), 0, Deadline::At(now + ttl)).unwrap();
                known.push((number, now + ttl, now + ttl + 2 + ttl / 16));
                number += 1;
            }
        }
        settle(&mut cache);
        let still_in_memory = known.iter().filter(|(_, _, back)| *back >= now).count() as u64;
        assert!(cache.counters().items <= still_in_memory, "second {}", now - START);
        // All are looked at in the seconds around their end, and now and then.
        for (number, last, _) in &known {
            if last.abs_diff(now) <= 1 || numbers.below(200) == 0 {
                assert_eq!(cache.peek(&key(*number)).is_some(), *last >= now, "last {last}, now {now}");
            }
        }
        known.retain(|(_, last, back)| now <= last + 1 || now <= *back);
    }
    let counters = cache.counters();
    assert_eq!((counters.items, counters.segments_used, counters.evicted), (0, 0, 0));
    assert_eq!(counters.expired, number);
}

/// Memory moves from the segments to the index as items get smaller, and back as they get larger.
#[test]
fn index_and_segments_share_one_budget() {
    let mut cache = cache(8 << 20, Eviction::Merge);
    let small = cache.counters().index_bytes;
    for number in 0..400_000 {
        cache.set(&key(number), b"", 0, Deadline::Never).unwrap();
        if number % 1000 == 0 {
            within_budget(cache.counters());
        }
    }
    let many = cache.counters();
    assert!(many.index_bytes > many.budget / 5, "{many:?}");
    let unused = many.budget - many.index_bytes - many.metadata_bytes;
    assert!((many.segments_used + many.segments_free) * many.segment_size <= unused);
    for number in 0..40_000 {
        cache.advance(START + 1);
        cache.set(&key(number), &value(number, 2, 4000), 0, Deadline::Never).unwrap();
        within_budget(cache.counters());
    }
    settle(&mut cache);
    let few = cache.counters();
    assert!(few.index_bytes <= small.max(many.index_bytes / 3), "{few:?}");
    assert!(few.segments_used + few.segments_free > many.segments_used + many.segments_free + 10, "{few:?}");
}

/// What was overwritten or deleted is reclaimed before anything living is evicted.
#[test]
fn dead_records_make_room_before_living_ones() {
    for eviction in Eviction::ALL {
        let mut cache = cache(8 << 20, eviction);
        // Half of the budget lives; it is written over and over, here and there.
        let mut numbers = Numbers(3);
        for write in 0..300_000 {
            let number = numbers.below(40_000);
            cache.set(&key(number), &value(number, write, 60), 0, Deadline::Never).unwrap();
        }
        assert_eq!(cache.counters().evicted, 0, "{eviction:?}");
        assert!(cache.counters().items > 39_000);
    }
}

/// The goals: 68 bytes for an item of 14 + 32 bytes with a TTL, 136 for one of 14 + 100, all memory counted.
#[test]
fn small_items_cost_little_memory() {
    for (length, most) in [(32, 68.0), (100, 136.0)] {
        let budget = 16 << 20;
        let mut cache = cache(budget, Eviction::Merge);
        for number in 0..800_000 {
            cache.advance(START + number / 10_000);
            cache.set(&key(number), &value(number, 0, length), 0, Deadline::At(cache.now() + 3600)).unwrap();
        }
        let each = budget as f64 / cache.counters().items as f64;
        assert!(each <= most, "{each:.1} bytes an item of {length}");
    }
}

/// Items that are read stay, items that are never read go.
#[test]
fn merge_keeps_what_is_read() {
    for eviction in [Eviction::Merge, Eviction::S3Fifo] {
        let mut cache = cache(8 << 20, eviction);
        let popular = 5_000;
        for number in 0..popular {
            cache.set(&key(number), &value(number, 0, 60), 0, Deadline::At(START + 5000)).unwrap();
        }
        let mut misses = 0;
        for number in popular..popular + 500_000 {
            cache.set(&key(number), &value(number, 0, 60), 0, Deadline::At(START + 5000)).unwrap();
            if cache.get(&key(number % popular)).is_none() {
                misses += 1;
                cache.set(&key(number % popular), b"again", 0, Deadline::At(START + 5000)).unwrap();
            }
        }
        assert!(misses * 100 < 500_000 * 5, "{eviction:?}: {misses} of 500000 reads missed");
    }
}

#[test]
fn an_empty_cache_takes_no_memory_and_operations_allocate_nothing() {
    let mut cache = cache(64 << 20, Eviction::Merge);
    let (keys, values): (Vec<_>, Vec<_>) = (0..60_000).map(|number| (key(number), value(number, 0, 40))).unzip();
    let work = |cache: &mut Cache, keys: &[Vec<u8>]| {
        for (key, value) in keys.iter().zip(&values) {
            cache.advance(cache.now());
            cache.set(key, value, 1, Deadline::At(START + 60)).unwrap();
            assert!(cache.get(key).is_some());
            cache.append(key, value).unwrap();
            assert!(cache.touch(key, Deadline::At(START + 6000)).unwrap());
        }
        for key in keys.iter().step_by(2) {
            assert!(cache.delete(key));
        }
    };
    let allocations = allocation_counter::measure(|| {
        work(&mut cache, &keys);
        for second in 0..200 {
            cache.advance(START + 100 * second);
            settle(&mut cache);
        }
    });
    assert_eq!(allocations.count_total, 0, "{allocations:?}");
}

/// Under a stream of small writes no write waits for a segment, or hardly any, whatever makes the room.
#[test]
fn segments_are_free_before_they_are_needed() {
    for eviction in Eviction::ALL.into_iter().filter(|eviction| *eviction != Eviction::None) {
        let mut cache = cache(12 << 20, eviction);
        let mut numbers = Numbers(11);
        for number in 0..400_000 {
            if number % 50 == 0 {
                cache.advance(START + number / 10_000);
            }
            let ttl = [10, 60, 600, 3600][numbers.below(4) as usize];
            cache.set(&key(number), b"a value of some thirty-two bytes", 0, Deadline::At(cache.now() + ttl)).unwrap();
            cache.get(&key(number - numbers.below(number + 1).min(20_000)));
        }
        let counters = cache.counters();
        assert!(counters.evicted > 100_000, "{eviction:?}: {counters:?}");
        // A run of segments of which all is worth keeping frees nothing, and so do the two queues of S3-FIFO where a
        // TTL bucket has but one segment in one of them.
        let most = if matches!(eviction, Eviction::Merge | Eviction::S3Fifo) { 6 } else { 0 };
        assert!(counters.stalled <= most, "{eviction:?}: {} stalled", counters.stalled);
    }
}

//! A budget is what the process takes: index, segments and metadata share it, whatever sizes the items have, and nothing
//! is allocated beside it. A program of its own: the resident memory is that of all tests in it.
#![expect(clippy::unwrap_used, reason = "helpers of tests are not seen as tests by the linter")]

use segcache::{Cache, Counters, Deadline, Eviction, Settings};

const START: u64 = 1_800_000_000;
/// What a process touches of itself while it runs: code, stack, its allocator's pages.
const PROGRAM: u64 = 2 << 20;
/// Writes between two looks at the memory.
const INTERVAL: u64 = 10_000;
const SMALL: usize = 32;
const LARGE: usize = 4096;

/// The resident memory of this process in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn key(mut number: u64) -> [u8; 14] {
    let mut key = *b"key:0000000000";
    for digit in key[4..].iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
    key
}

struct Filler {
    cache: Cache,
    before: u64,
    written: u64,
}

impl Filler {
    /// Writes items of this length, `times` as much as there is memory; what is allocated and resident stays within the
    /// budget all the time.
    fn fill(&mut self, length: usize, times: u64) -> Counters {
        let value = vec![7; length];
        let budget = self.cache.counters().budget;
        let end = self.written + times * budget / (length as u64 + 20);
        while self.written < end {
            let (cache, from) = (&mut self.cache, self.written);
            let used = allocation_counter::measure(|| {
                for number in from..from + INTERVAL {
                    cache.set(&key(number), &value, 0, Deadline::At(cache.now() + 3600)).unwrap();
                }
            });
            assert_eq!(used.count_total, 0, "{used:?}");
            self.written += INTERVAL;
            self.cache.advance(START + self.written / 100_000);
            self.check(budget);
        }
        self.cache.counters()
    }

    fn check(&self, budget: u64) {
        let counters = self.cache.counters();
        let segments = counters.segment_bytes + counters.segments_free * counters.segment_size;
        let promised = counters.index_bytes + segments + counters.metadata_bytes;
        assert!(promised <= budget, "{promised} of {budget}: {counters:?}");
        let resident = resident().saturating_sub(self.before);
        assert!(resident <= budget + PROGRAM, "{resident} are resident of {budget}: {counters:?}");
    }
}

#[test]
fn a_budget_is_what_the_process_takes() {
    // With an index of small pages, and with one of huge pages.
    for (budget, turns) in [(64 << 20, 2), (256 << 20, 1)] {
        let before = resident();
        // Not Merge, which keeps small items rather than large ones: here the mean size is to change.
        let settings = Settings { budget, max_item_size: 16 << 10, eviction: Eviction::Fifo, seed: 7 };
        let mut cache = None;
        let used = allocation_counter::measure(|| cache = Some(Cache::new(settings, START).unwrap()));
        let cache = cache.unwrap();
        let metadata = cache.counters().metadata_bytes;
        assert!(used.bytes_max <= metadata && used.bytes_max * 10 > metadata * 9, "{used:?} for {metadata}");

        let mut filler = Filler { cache, before, written: 0 };
        let budget = budget as u64;
        for _ in 0..turns {
            let small = filler.fill(SMALL, 2);
            assert!(small.index_bytes * 100 > budget * 10, "{small:?}");
            assert!(resident() - before > budget / 10 * 9);
            let large = filler.fill(LARGE, 3);
            assert!(large.index_bytes * 100 < budget, "{large:?}");
            let segments = large.segment_bytes + large.segments_free * large.segment_size;
            assert!(segments * 100 > budget * 97, "{large:?}");
        }
    }
}

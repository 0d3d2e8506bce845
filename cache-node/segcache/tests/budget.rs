//! A budget is what the process takes: index, segments and metadata share it, whatever sizes the items have, and nothing
//! is allocated beside it. A program of its own: the resident memory is that of all tests in it.
#![expect(clippy::unwrap_used, reason = "helpers of tests are not seen as tests by the linter")]

use std::thread;
use std::time::Duration;

use segcache::{Cache, Counters, Deadline, Eviction, Populator, Progress, Settings};

const START: u64 = 1_800_000_000;
/// What a process touches of itself while it runs: code, stack, its allocator's pages.
const PROGRAM: u64 = 2 << 20;
/// Writes between two looks at the memory.
const INTERVAL: u64 = 10_000;
const SMALL: usize = 32;
const LARGE: usize = 4096;
/// How often the thread that makes memory ready looks whether there is something to do.
const LOOK: Duration = Duration::from_millis(1);

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

/// Does what there is to do until the cache is gone.
fn populate(populator: &Populator) {
    loop {
        match populator.advance() {
            Progress::Advanced => {}
            Progress::Idle => thread::sleep(LOOK),
            Progress::Ended => return,
        }
    }
}

/// One test, since the resident memory is that of all.
#[test]
fn a_budget_is_what_the_process_takes() {
    memory_is_ready_so_far_ahead_and_no_farther();
    // With an index of small pages, and with one of huge pages that a thread makes ready.
    for (budget, turns, has_populator) in [(64 << 20, 2, false), (256 << 20, 1, true)] {
        let before = resident();
        // Not Merge, which keeps small items rather than large ones: here the mean size is to change.
        let settings = Settings { budget, max_item_size: 16 << 10, eviction: Eviction::Fifo, seed: 7 };
        let mut cache = None;
        let used = allocation_counter::measure(|| cache = Some(Cache::new(settings, START).unwrap()));
        let mut cache = cache.unwrap();
        let metadata = cache.counters().metadata_bytes;
        assert!(used.bytes_max <= metadata && used.bytes_max * 10 > metadata * 9, "{used:?} for {metadata}");

        let populator = cache.populator().filter(|_| has_populator);
        let helper = populator.map(|populator| thread::spawn(move || populate(&populator)));

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
        drop(filler);
        helper.into_iter().for_each(|helper| helper.join().unwrap());
    }
}

fn memory_is_ready_so_far_ahead_and_no_farther() {
    const AHEAD: u64 = 16 << 20;
    const HUGE_PAGE: u64 = 2 << 20;
    let settings = Settings { budget: 512 << 20, max_item_size: 16 << 10, eviction: Eviction::Fifo, seed: 7 };
    let mut cache = Cache::new(settings, START).unwrap();
    let before = resident();
    let populator = cache.populator().unwrap();
    assert!(cache.populator().is_none(), "there is one of each cache");
    for written in 0..5_u64 {
        assert!(cache.wants_pages());
        while populator.advance() == Progress::Advanced {}
        assert!(!cache.wants_pages());
        let taken = resident() - before;
        let used = cache.counters().segment_bytes + cache.counters().index_bytes;
        assert!(
            taken >= used + AHEAD - HUGE_PAGE && taken <= used + AHEAD + 2 * HUGE_PAGE,
            "{taken} bytes are resident where {used} are in use"
        );
        let value = vec![1; 16 << 10];
        (0..200).for_each(|number| {
            cache.set(&key(written << 32 | number), &value, 0, Deadline::Never).unwrap();
        });
    }
    drop(cache);
    assert_eq!(populator.advance(), Progress::Ended);
}

//! How long single operations take: by the clock on the wall, and in processor time.

use std::time::Instant;

use hdrhistogram::Histogram;

/// Histograms of operations of one kind, in nanoseconds.
pub struct Stopwatch {
    wall: Histogram<u64>,
    processor: Histogram<u64>,
    /// Of the operation that took longest by the wall: how long, and how much of that the processor worked for it.
    slowest: (u64, u64),
    faults: u64,
    began: u64,
}

const SHARES: [(&str, f64); 5] = [("p50", 50.0), ("p99", 99.0), ("p999", 99.9), ("p9999", 99.99), ("p99999", 99.999)];
const SLOW: u64 = 1_000_000;

impl Stopwatch {
    pub fn new() -> Stopwatch {
        let histogram = || Histogram::new(3).unwrap();
        let began = faults();
        Stopwatch { wall: histogram(), processor: histogram(), slowest: (0, 0), faults: 0, began }
    }

    pub fn time<R>(&mut self, operation: impl FnOnce() -> R) -> R {
        let (before, start) = (processor_time(), Instant::now());
        let result = operation();
        let wall = start.elapsed().as_nanos() as u64;
        let processor = processor_time() - before;
        self.wall.record(wall).unwrap();
        self.processor.record(processor).unwrap();
        if wall > self.slowest.0 {
            self.slowest = (wall, processor);
        }
        result
    }

    /// No more page faults count for these operations.
    pub fn stop(&mut self) {
        self.faults = faults() - self.began;
    }

    pub fn print(&self, name: &str) {
        for (clock, histogram) in [("wall", &self.wall), ("processor", &self.processor)] {
            print!("| {name} | {clock} | {} |", histogram.len());
            for (_, share) in SHARES {
                print!(" {:.1} |", histogram.value_at_percentile(share) as f64 / 1e3);
            }
            let above = histogram.len() - histogram.count_between(0, SLOW - 1);
            println!(" {:.0} | {above} |", histogram.max() as f64 / 1e3);
        }
        println!(
            "  {name}: the slowest took {} us, of which the processor worked {} us; {} page faults in all",
            self.slowest.0 / 1000,
            self.slowest.1 / 1000,
            self.faults
        );
    }
}

/// The head of the table that [`Stopwatch::print`] writes, in microseconds.
pub fn print_head() {
    let names = SHARES.map(|(name, _)| name).join(" | ");
    println!("| operation | clock | count | {names} | slowest | above 1 ms |");
    println!("|---|---|---|---|---|---|---|---|---|---|");
}

/// The processor time of this thread in nanoseconds: unlike the clock on the wall it stands while others run.
fn processor_time() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The pages that the system has given to this process so far.
fn faults() -> u64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The program's name, in brackets, may have spaces.
    let rest = text.rsplit(')').next().unwrap_or_default();
    rest.split_whitespace().nth(7).and_then(|field| field.parse().ok()).unwrap_or_default()
}

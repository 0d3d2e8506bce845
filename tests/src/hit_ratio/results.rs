//! What came of the runs, kept as JSON so that part of them can be run again.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use segcache::Eviction;
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Outcome};
use crate::hit_ratio::store::Tally;

/// Who answers the requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contender {
    /// The exact LRU.
    Lru,
    /// The real memcached.
    Memcached,
    /// The engine with a policy.
    Engine(Eviction),
}

impl Contender {
    /// All of them, in the order of the report.
    pub const ALL: [Contender; 9] = [
        Contender::Lru,
        Contender::Memcached,
        Contender::Engine(Eviction::Merge),
        Contender::Engine(Eviction::S3Fifo),
        Contender::Engine(Eviction::Fifo),
        Contender::Engine(Eviction::Random),
        Contender::Engine(Eviction::ClosestToExpiration),
        Contender::Engine(Eviction::Utilization),
        Contender::Engine(Eviction::None),
    ];

    /// Its name in reports and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Contender::Lru => "LRU",
            Contender::Memcached => "memcached",
            Contender::Engine(Eviction::None) => "None",
            Contender::Engine(Eviction::Random) => "Random",
            Contender::Engine(Eviction::Fifo) => "Fifo",
            Contender::Engine(Eviction::ClosestToExpiration) => "ClosestToExpiration",
            Contender::Engine(Eviction::Utilization) => "Utilization",
            Contender::Engine(Eviction::Merge) => "Merge",
            Contender::Engine(Eviction::S3Fifo) => "S3Fifo",
        }
    }

    /// The contender of this name, whatever its case.
    ///
    /// # Errors
    /// Where there is none; the error names all that there are.
    pub fn named(name: &str) -> Outcome<Contender> {
        Contender::ALL.into_iter().find(|contender| contender.name().eq_ignore_ascii_case(name)).ok_or_else(|| {
            let names: Vec<&str> = Contender::ALL.iter().map(|contender| contender.name()).collect();
            Failure::new(format!("there is no contender {name:?}; there are {}", names.join(", ")))
        })
    }
}

/// How one contender did with one workload in one size of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// Reads that counted.
    pub reads: u64,
    /// Those of them that missed.
    pub misses: u64,
    /// Live items that left to make room, from the start.
    pub evicted: u64,
    /// Writes that were refused.
    pub refused: u64,
    /// Bytes of memory at the end.
    pub memory: u64,
    /// Of these, the bytes of live items' keys, values and headers, as far as the contender says so.
    #[serde(default)]
    pub live: u64,
}

impl Cell {
    /// The misses in percent of the reads.
    #[must_use]
    pub fn percent(&self) -> f64 {
        percent(Tally { reads: self.reads, misses: self.misses })
    }
}

/// The misses in percent of the reads.
#[must_use]
pub fn percent(tally: Tally) -> f64 {
    100.0 * tally.misses as f64 / (tally.reads as f64).max(1.0)
}

/// One size of memory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Percent of the working set.
    pub share: u32,
    /// Bytes.
    pub budget: u64,
    /// The contenders, by name.
    pub cells: BTreeMap<String, Cell>,
}

impl Size {
    /// What came of a contender, if it ran.
    #[must_use]
    pub fn cell(&self, contender: Contender) -> Option<&Cell> {
        self.cells.get(contender.name())
    }

    /// Whether the real memcached had to evict.
    #[must_use]
    pub fn memcached_evicts(&self) -> bool {
        self.cell(Contender::Memcached).is_some_and(|cell| cell.evicted > 0)
    }

    /// The fewest misses of the two that the engine is compared with, in percent.
    #[must_use]
    pub fn comparison(&self) -> Option<f64> {
        let both = [Contender::Lru, Contender::Memcached];
        both.into_iter().filter_map(|contender| self.cell(contender)).map(Cell::percent).reduce(f64::min)
    }
}

/// One workload.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The cluster's number.
    pub cluster: u32,
    /// What the workload stands for.
    pub stands_for: String,
    /// Objects that there are.
    pub objects: u64,
    /// Requests made.
    pub requests: u64,
    /// Seconds on the workload's own clock.
    pub seconds: u64,
    /// The most bytes of keys and values that were alive at a time.
    pub working_set: u64,
    /// Misses that no cache can avoid, in percent of the reads.
    pub unavoidable: f64,
    /// What missed in production, in percent.
    pub production: f64,
    /// The sizes of memory, the smallest first.
    pub sizes: Vec<Size>,
}

/// All runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The seed of all that was drawn.
    pub seed: u64,
    /// The factor to objects and requests.
    pub scale: f64,
    /// The version of memcached, where it ran.
    pub memcached: String,
    /// The workloads, by cluster.
    pub runs: Vec<Run>,
}

impl Results {
    /// What an earlier run left in the file; nothing, where there is no file, or of another seed or scale.
    ///
    /// # Errors
    /// Where there is a file that cannot be read.
    pub fn read(file: &Path, seed: u64, scale: f64) -> Outcome<Results> {
        let empty = Results { seed, scale, ..Results::default() };
        if !file.exists() {
            return Ok(empty);
        }
        let earlier: Results = serde_json::from_str(&fs::read_to_string(file)?)?;
        Ok(if earlier.seed == seed && earlier.scale == scale { earlier } else { empty })
    }

    /// Keeps the results for the next time and for programs.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn write(&self, file: &Path) -> Outcome {
        fs::write(file, serde_json::to_string_pretty(self)? + "\n")?;
        Ok(())
    }

    /// Takes a workload in. Contenders that did not run now keep what they had, if the workload is still the same.
    pub fn take(&mut self, mut run: Run) {
        if let Some(place) = self.runs.iter().position(|earlier| earlier.cluster == run.cluster) {
            let earlier = self.runs.remove(place);
            let same = |run: &Run| (run.objects, run.requests, run.working_set);
            if same(&earlier) == same(&run) {
                for (size, before) in run.sizes.iter_mut().zip(earlier.sizes).filter(|(a, b)| a.budget == b.budget) {
                    for (name, cell) in before.cells {
                        size.cells.entry(name).or_insert(cell);
                    }
                }
            }
        }
        self.runs.push(run);
        self.runs.sort_by_key(|run| run.cluster);
    }
}

#[cfg(test)]
mod tests {
    use super::{Cell, Contender, Results, Run, Size};

    #[test]
    fn contenders_are_found_by_their_names() {
        for contender in Contender::ALL {
            assert_eq!(Contender::named(&contender.name().to_lowercase()).unwrap(), contender);
        }
        assert!(Contender::named("arc").unwrap_err().to_string().contains("S3Fifo"));
    }

    #[test]
    fn what_did_not_run_again_is_kept() {
        let run = |name: &str, misses| {
            let cells = [(name.to_owned(), Cell { reads: 10, misses, ..Cell::default() })].into();
            Run { cluster: 4, sizes: vec![Size { share: 10, budget: 100, cells }], ..Run::default() }
        };
        let mut results = Results::default();
        results.take(run("LRU", 1));
        results.take(run("Merge", 2));
        results.take(run("Merge", 3));
        let size = &results.runs[0].sizes[0];
        assert_eq!(size.cell(Contender::named("LRU").unwrap()).unwrap().misses, 1);
        assert_eq!(size.cell(Contender::named("Merge").unwrap()).unwrap().misses, 3);
        assert_eq!(size.comparison(), Some(10.0));
        results.take(Run { objects: 5, ..run("Merge", 4) });
        assert_eq!(results.runs[0].sizes[0].cells.len(), 1);
    }
}

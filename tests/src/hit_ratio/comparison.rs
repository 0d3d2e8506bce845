//! All runs: each workload, in each size of memory, with each contender.

use crate::failure::{Failure, Outcome};
use crate::hit_ratio::engine::Engine;
use crate::hit_ratio::lru::Lru;
use crate::hit_ratio::memcached;
use crate::hit_ratio::results::{Cell, Contender, Run, Size, percent};
use crate::hit_ratio::store::replay;
use crate::hit_ratio::unbounded::Unbounded;
use crate::hit_ratio::workload::{Plan, Workload};

/// The sizes of memory, in percent of the working set: the most bytes of keys and values that are alive at a time.
pub const SHARES: [u32; 3] = [25, 50, 100];

/// Draws a workload and runs the contenders with it, in all sizes of memory. `say` is told how it goes.
///
/// # Errors
/// Where a contender cannot run.
pub fn compare(
    plan: &Plan,
    (scale, seed): (f64, u64),
    contenders: &[Contender],
    mut say: impl FnMut(String),
) -> Outcome<Run> {
    let workload = Workload::draw(plan, scale, seed)?;
    let mut unbounded = Unbounded::new(&workload);
    let unavoidable = percent(replay(&workload, &mut unbounded));
    let working_set = unbounded.working_set();
    drop(unbounded);
    say(format!("cluster {}: working set {} MiB, unavoidable {unavoidable:.2} %", plan.cluster, working_set >> 20));
    let mut sizes = Vec::new();
    for share in SHARES {
        let budget = working_set * u64::from(share) / 100;
        let mut size = Size { share, budget, ..Size::default() };
        for contender in contenders {
            let cell = run(&workload, budget, *contender, seed).map_err(|failure| {
                failure.while_doing(format!("cluster {}, {share} %, {}", plan.cluster, contender.name()))
            })?;
            say(format!(
                "cluster {} {share:3} % {:20} {:6.3} % of {} reads missed, {} evicted, {} of {} KiB live",
                plan.cluster,
                contender.name(),
                cell.percent(),
                cell.reads,
                cell.evicted,
                cell.live >> 10,
                cell.memory >> 10
            ));
            size.cells.insert(contender.name().to_owned(), cell);
        }
        sizes.push(size);
    }
    Ok(Run {
        cluster: plan.cluster,
        stands_for: plan.stands_for.to_owned(),
        objects: workload.objects.len() as u64,
        requests: workload.requests.len() as u64,
        seconds: workload.duration(),
        working_set,
        unavoidable,
        production: 100.0 * workload.cluster.production_miss_ratio,
        sizes,
    })
}

/// Replays the workload against one contender with `budget` bytes of memory.
///
/// # Errors
/// Where it cannot run, or takes more memory than it was given.
pub fn run(workload: &Workload, budget: u64, contender: Contender, seed: u64) -> Outcome<Cell> {
    match contender {
        Contender::Memcached => memcached::run(workload, budget),
        Contender::Lru => {
            let mut lru = Lru::new(workload, budget);
            let tally = replay(workload, &mut lru);
            let (evicted, memory) = (lru.evicted(), lru.memory());
            Ok(Cell { reads: tally.reads, misses: tally.misses, evicted, refused: 0, memory, live: memory })
        }
        Contender::Engine(eviction) => {
            let mut engine = Engine::new(workload, budget, eviction, seed)?;
            let tally = replay(workload, &mut engine);
            let counters = engine.counters();
            let memory = counters.index_bytes + counters.segment_bytes + counters.metadata_bytes;
            if memory > budget {
                return Err(Failure::new(format!("{memory} bytes are used where {budget} were given")));
            }
            let (evicted, refused) = (counters.evicted, engine.refused());
            Ok(Cell { reads: tally.reads, misses: tally.misses, evicted, refused, memory, live: counters.item_bytes })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{compare, run};
    use crate::hit_ratio::results::{Contender, percent};
    use crate::hit_ratio::store::replay;
    use crate::hit_ratio::unbounded::Unbounded;
    use crate::hit_ratio::workload::{PLANS, Plan, Workload};
    use segcache::Eviction;

    const SCALE: f64 = 0.05;
    const SEED: u64 = 1;

    /// Clusters with much to evict, among them the one with deletes and the one with counters.
    fn plans() -> impl Iterator<Item = &'static Plan> {
        PLANS.iter().filter(|plan| [14, 22, 40, 42].contains(&plan.cluster))
    }

    #[test]
    fn the_same_seed_gives_the_same_table() {
        let simulated: Vec<Contender> =
            Contender::ALL.into_iter().filter(|contender| *contender != Contender::Memcached).collect();
        let plan = plans().next().unwrap();
        let plan = Plan { requests: plan.requests / 4, ..*plan };
        // A quarter of the working set must still be a cache.
        let table = |seed| compare(&plan, (2.0 * SCALE, seed), &simulated, drop).unwrap();
        assert_eq!(table(1), table(1));
        assert_ne!(table(1).sizes, table(2).sizes);
    }

    #[test]
    fn no_contender_beats_a_cache_without_a_limit() {
        for plan in plans() {
            let workload = Workload::draw(plan, SCALE, SEED).unwrap();
            let mut unbounded = Unbounded::new(&workload);
            let least = percent(replay(&workload, &mut unbounded));
            let budget = unbounded.working_set() * 40 / 100;
            let cell = |contender| run(&workload, budget, contender, SEED).unwrap();
            let engine = |eviction| cell(Contender::Engine(eviction));
            let (lru, merge, fifo) = (cell(Contender::Lru), engine(Eviction::Merge), engine(Eviction::Fifo));
            for contender in [lru, merge, fifo] {
                assert!(
                    contender.evicted > 0 && contender.percent() >= least,
                    "cluster {}: {contender:?}",
                    plan.cluster
                );
            }
        }
    }

    #[test]
    fn what_fits_is_never_evicted_and_missed_no_more_than_without_a_limit() {
        for plan in plans() {
            let workload = Workload::draw(plan, SCALE, SEED).unwrap();
            let mut unbounded = Unbounded::new(&workload);
            let tally = replay(&workload, &mut unbounded);
            let roomy = 4 * unbounded.working_set() + (8 << 20);
            for contender in [Contender::Lru, Contender::Engine(Eviction::Merge), Contender::Engine(Eviction::None)] {
                let cell = run(&workload, roomy, contender, SEED).unwrap();
                assert_eq!((cell.evicted, cell.refused), (0, 0), "cluster {} {contender:?}", plan.cluster);
                assert_eq!((cell.reads, cell.misses), (tally.reads, tally.misses), "cluster {}", plan.cluster);
            }
        }
    }
}

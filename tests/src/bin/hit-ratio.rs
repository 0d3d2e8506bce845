//! Measures the engine's hit ratio beside an exact LRU and a real memcached, and writes the report.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tests::bed::repository;
use tests::failure::Outcome;
use tests::hit_ratio::comparison::compare;
use tests::hit_ratio::results::{Contender, Results};
use tests::hit_ratio::workload::PLANS;
use tests::hit_ratio::{memcached, plot, report};

const DOCUMENTATION: &str = "cache-node/segcache/docs";
const QUICK_SCALE: f64 = 0.1;

#[derive(Parser)]
struct Arguments {
    /// The seed of all that is drawn.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A factor to every workload's objects and requests.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Workloads of a tenth, in a folder of their own: seconds, to see that all of it works.
    #[arg(long)]
    quick: bool,
    /// The clusters whose workloads are run, by number; all of them if none is given.
    #[arg(long, value_delimiter = ',')]
    clusters: Vec<u32>,
    /// Who takes part (LRU, memcached, Merge, ...); all if none is given.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Figures of earlier runs with the same seed and scale; what is run now replaces them.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Where hit-ratio.md and hit-ratio.svg go.
    #[arg(long)]
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("hit-ratio: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Outcome {
    let scale = if arguments.quick { QUICK_SCALE } else { arguments.scale };
    let target = repository().join("target");
    let quick = target.join("hit-ratio-quick");
    let standard = if arguments.quick { quick } else { repository().join(DOCUMENTATION) };
    let out = arguments.out.clone().unwrap_or(standard);
    let json = arguments.json.clone().unwrap_or_else(|| target.join(format!("hit-ratio-{scale}.json")));
    let contenders: Vec<Contender> = if arguments.only.is_empty() {
        Contender::ALL.into()
    } else {
        arguments.only.iter().map(|name| Contender::named(name)).collect::<Outcome<_>>()?
    };
    std::fs::create_dir_all(&out)?;
    let mut results = Results::read(&json, arguments.seed, scale)?;
    if contenders.contains(&Contender::Memcached) {
        results.memcached = memcached::version()?;
    }
    let chosen = |cluster| arguments.clusters.is_empty() || arguments.clusters.contains(&cluster);
    for plan in PLANS.iter().filter(|plan| chosen(plan.cluster)) {
        let run = compare(plan, (scale, arguments.seed), &contenders, |line| println!("{line}"))?;
        results.take(run);
        results.write(&json)?;
    }
    std::fs::write(out.join("hit-ratio.md"), report::markdown(&results)?)?;
    plot::draw(&results, &out.join("hit-ratio.svg"))?;
    println!("figures in {}, report and plot in {}", json.display(), out.display());
    Ok(())
}

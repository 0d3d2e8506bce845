//! The report: the tables, and whether the engine holds what it promises.

use std::fmt::Write as _;

use segcache::Eviction;

use crate::failure::Outcome;
use crate::hit_ratio::clusters::Cluster;
use crate::hit_ratio::results::{Cell, Contender, Results, Run, Size};

/// The engine's default, which the promise is about.
const PROMISED: Contender = Contender::Engine(Eviction::Merge);
/// No more than so many points more misses than either comparison.
const MOST_BEHIND: f64 = 0.1;

const METHOD: &str = include_str!("method.md");
const EXPLANATION: &str = include_str!("explanation.md");

/// The whole document, in Markdown.
///
/// # Errors
/// Where a workload is of no known cluster.
pub fn markdown(results: &Results) -> Outcome<String> {
    let mut text = METHOD.replace("SEED", &results.seed.to_string()).replace("MEMCACHED", &results.memcached);
    workloads(&mut text, results)?;
    promise(&mut text, results)?;
    for (title, of) in [("Misses", misses as fn(&Cell) -> String), ("Evictions", evictions)] {
        table(&mut text, title, results, of)?;
    }
    memory(&mut text, results)?;
    text.push('\n');
    text.push_str(EXPLANATION);
    Ok(text)
}

fn workloads(text: &mut String, results: &Results) -> Outcome {
    text.push_str(
        "\n## Workloads\n\n| cluster | key, value (bytes) | alpha | operations | TTL | objects | requests | run | \
         working set | missed in production | stands for |\n|--:|--:|--:|---|---|--:|--:|--:|--:|--:|---|\n",
    );
    for run in &results.runs {
        let cluster = Cluster::of(run.cluster)?;
        let operations: Vec<String> =
            cluster.operations.iter().map(|(name, share)| format!("{name} {share}")).collect();
        writeln!(
            text,
            "| {} | {}, {} | {} | {} | {} | {} | {} | {} | {} MiB | {:.1} % | {} |",
            run.cluster,
            cluster.key_size,
            cluster.value_size,
            cluster.zipf_alpha,
            operations.join(", "),
            ttls(&cluster),
            run.objects,
            run.requests,
            duration(run.seconds as f64),
            run.working_set >> 20,
            run.production,
            run.stands_for
        )?;
    }
    Ok(())
}

fn ttls(cluster: &Cluster) -> String {
    let (shortest, longest) = cluster.ttls.iter().fold((u32::MAX, 0), |(a, b), (ttl, _)| (a.min(*ttl), b.max(*ttl)));
    let [shortest, longest] = [shortest, longest].map(|ttl| duration(ttl.into()));
    if shortest == longest { shortest } else { format!("{shortest} to {longest}") }
}

fn duration(seconds: f64) -> String {
    let (figure, unit) = match seconds {
        ..300.0 => (seconds, "s"),
        ..7200.0 => (seconds / 60.0, "min"),
        ..172_800.0 => (seconds / 3600.0, "h"),
        _ => (seconds / 86_400.0, "d"),
    };
    let figure = format!("{figure:.1}");
    format!("{} {unit}", figure.strip_suffix(".0").unwrap_or(&figure))
}

/// How the promise is held, at every size at which memcached evicts.
fn promise(text: &mut String, results: &Results) -> Outcome {
    let mut judged = 0;
    let mut behind = Vec::new();
    text.push_str("\n## What it comes to\n\n");
    text.push_str("| memory | workloads in which memcached evicts | Merge misses less than both | at most as much |\n");
    text.push_str("|--:|--:|--:|--:|\n");
    let shares: Vec<u32> =
        results.runs.first().map(|run| run.sizes.iter().map(|size| size.share).collect()).unwrap_or_default();
    for share in shares {
        let sizes =
            results.runs.iter().filter_map(|run| Some((run, run.sizes.iter().find(|size| size.share == share)?)));
        let (mut all, mut fewer, mut at_most) = (0, 0, 0);
        for (run, size) in sizes.filter(|(_, size)| size.memcached_evicts()) {
            let Some(difference) = difference(size) else { continue };
            all += 1;
            fewer += u32::from(difference < 0.0);
            at_most += u32::from(difference <= 0.0);
            if difference > MOST_BEHIND {
                behind.push(format!("cluster {} at {share} % by {difference:.2} points", run.cluster));
            }
        }
        judged += all;
        writeln!(text, "| {share} % | {all} | {fewer} | {at_most} |")?;
    }
    let verdict = match behind.len() {
        0 => format!("never more than {MOST_BEHIND} points behind either."),
        _ => format!("more than {MOST_BEHIND} points behind the better of the two: {}.", behind.join("; ")),
    };
    writeln!(text, "\nMerge, the default, beside the exact LRU and memcached, {judged} cases: {verdict}")?;
    Ok(())
}

/// By how many points Merge misses more than the better of LRU and memcached.
fn difference(size: &Size) -> Option<f64> {
    Some(size.cell(PROMISED)?.percent() - size.comparison()?)
}

fn misses(cell: &Cell) -> String {
    format!("{:.2}", cell.percent())
}

fn evictions(cell: &Cell) -> String {
    match cell.refused {
        0 => cell.evicted.to_string(),
        refused => format!("{} ({refused} refused)", cell.evicted),
    }
}

fn table(text: &mut String, title: &str, results: &Results, of: fn(&Cell) -> String) -> Outcome {
    let unit = if title == "Misses" { ", in % of the reads" } else { "" };
    write!(text, "\n## {title}{unit}\n\n| cluster | memory | unavoidable |")?;
    Contender::ALL.iter().try_for_each(|contender| write!(text, " {} |", contender.name()))?;
    writeln!(text, "\n|--:|--:|--:|{}", "--:|".repeat(Contender::ALL.len()))?;
    for run in &results.runs {
        for size in &run.sizes {
            row(text, run, size, of)?;
        }
    }
    Ok(())
}

fn row(text: &mut String, run: &Run, size: &Size, of: fn(&Cell) -> String) -> Outcome {
    let least = if of as usize == misses as fn(&Cell) -> String as usize {
        format!("{:.2}", run.unavoidable)
    } else {
        "0".to_owned()
    };
    write!(text, "| {} | {} % = {:.1} MiB | {least} |", run.cluster, size.share, mebibytes(size.budget))?;
    for contender in Contender::ALL {
        let cell = size.cell(contender).map_or_else(|| "-".to_owned(), of);
        let best = contender == PROMISED && difference(size).is_some_and(|difference| difference < 0.0);
        if best { write!(text, " **{cell}** |")? } else { write!(text, " {cell} |")? }
    }
    writeln!(text)?;
    Ok(())
}

fn memory(text: &mut String, results: &Results) -> Outcome {
    text.push_str("\n## Memory at the end of a run, in MiB\n\n| cluster | given |");
    let shown = [Contender::Lru, Contender::Memcached, PROMISED];
    shown.iter().try_for_each(|contender| write!(text, " {} |", contender.name()))?;
    writeln!(text, "\n|--:|--:|{}", "--:|".repeat(shown.len()))?;
    for run in &results.runs {
        for size in &run.sizes {
            write!(text, "| {} | {:.1} |", run.cluster, mebibytes(size.budget))?;
            for contender in shown {
                let cell = size.cell(contender).map(|cell| format!("{:.1}", mebibytes(cell.memory)));
                write!(text, " {} |", cell.unwrap_or_else(|| "-".to_owned()))?;
            }
            writeln!(text)?;
        }
    }
    Ok(())
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

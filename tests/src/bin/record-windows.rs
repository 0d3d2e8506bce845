//! Records what live nodes report, second after second, under the load generator: the data that the operator's decisions are
//! replayed with (operator/docs/windows.json).

use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use clap::Parser;
use config::{Latencies, Status};
use serde::Serialize;
use tests::bed::repository;
use tests::ensure;
use tests::failure::Outcome;
use tests::node::Node;

/// Records windows of live nodes.
#[derive(Parser)]
struct Arguments {
    /// Nodes side by side.
    #[arg(long, default_value_t = 4)]
    nodes: usize,
    /// Requests a second to all of them together.
    #[arg(long, default_value_t = 4000)]
    rate: u32,
    /// Seconds of a window.
    #[arg(long, default_value_t = 1)]
    seconds: u64,
    /// Windows of each node before its restart, and after.
    #[arg(long, default_value_t = 60)]
    windows: usize,
    /// Where the recording goes.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// One node's windows, as the operator sums them up.
#[derive(Serialize)]
struct Recording {
    before: Vec<Window>,
    /// Of the node that was started anew in its place.
    after: Vec<Window>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Window {
    parts: u32,
    requests: u64,
    errors: u64,
    hits: u64,
    misses: u64,
    anonymous: u64,
    restarts: u32,
    latencies: Latencies,
}

/// Until a cold node is as warm as it gets under this load.
const WARM: Duration = Duration::from_secs(30);
const NODE: &str = "memory: 64Mi\nmaxConnections: 256\n";

fn main() -> ExitCode {
    match record(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("record-windows: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn record(arguments: &Arguments) -> Outcome {
    let Arguments { nodes, seconds, windows: count, .. } = *arguments;
    let mut running = (0..nodes).map(|_| Node::start(NODE)).collect::<Outcome<Vec<Node>>>()?;
    let before = phase(&running, arguments)?;
    // All of them: each recording then tells what a mere restart changes.
    running.clear();
    running = (0..nodes).map(|_| Node::start(NODE)).collect::<Outcome<Vec<Node>>>()?;
    let after = phase(&running, arguments)?;
    ensure!(before.iter().chain(&after).all(|series| series.len() == count + 1), "windows are missing");
    let recordings: Vec<Recording> = before
        .iter()
        .zip(&after)
        .map(|(before, after)| Recording { before: windows(before), after: windows(after) })
        .collect();
    let out = arguments.out.clone().unwrap_or_else(|| repository().join("operator/docs/windows.json"));
    fs::write(&out, serde_json::to_string(&recordings)?)?;
    println!("{nodes} nodes, {count} windows of {seconds} s before and after: {}", out.display());
    Ok(())
}

/// What happened between each report and the next.
fn windows(reports: &[Status]) -> Vec<Window> {
    let all = |status: &Status| {
        status.latencies.values().fold(Latencies::default(), |mut sum, latencies| {
            sum.merge(latencies);
            sum
        })
    };
    let between = |pair: &[Status]| {
        let (was, is) = (pair[0].requests, pair[1].requests);
        Window {
            parts: 1,
            requests: is.total - was.total,
            errors: is.server_errors - was.server_errors,
            hits: is.hits - was.hits,
            misses: is.misses - was.misses,
            anonymous: pair[1].memory.anonymous + pair[1].memory.cache_limit,
            restarts: 0,
            latencies: all(&pair[1]).since(&all(&pair[0])),
        }
    };
    reports.windows(2).map(between).collect()
}

/// Loads these nodes, and takes their reports in turn.
fn phase(nodes: &[Node], arguments: &Arguments) -> Outcome<Vec<Vec<Status>>> {
    let mut load = Load::start(nodes, arguments.rate)?;
    thread::sleep(WARM);
    let mut series: Vec<Vec<Status>> = nodes.iter().map(|_| Vec::new()).collect();
    let begin = Instant::now();
    for round in 0..=arguments.windows {
        let due = begin + Duration::from_secs(arguments.seconds) * u32::try_from(round)?;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        for (node, reports) in nodes.iter().zip(&mut series) {
            reports.push(node.status()?);
        }
    }
    ensure!(load.0.try_wait()?.is_none(), "the load generator ended early");
    Ok(series)
}

/// The load generator; it is ended when dropped.
struct Load(Child);

impl Load {
    fn start(nodes: &[Node], rate: u32) -> Outcome<Load> {
        let program = std::env::current_exe()?.with_file_name("load");
        let mut command = Command::new(program);
        command.args(["run", "--quiet", "--poisson", "--set-on-miss", "--duration", "0s", "--connections", "20"]);
        command.args([
            "--rate",
            &rate.to_string(),
            "--keys",
            "200000",
            "--popularity",
            "zipf:0.9",
            "--value-size",
            "400",
        ]);
        for node in nodes {
            command.args(["--server", &node.address.to_string()]);
        }
        Ok(Load(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _killed = self.0.kill().is_ok();
        let _ended = self.0.wait().is_ok();
    }
}

//! The benchmark of the data plane: cache-node beside Debian's memcached and beside the floor, in one run.

mod plot;
mod report;
mod rows;
mod servers;
mod tls;

use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use clap::Args;
use serde_json::Value;

use crate::bench::report::{Findings, Handshake, Idle, Machine};
use crate::bench::rows::{Cell, Figure, Group, Measure, Row, RowResult, Sample, groups};
use crate::bench::servers::{Kind, Programs, Running};
use crate::bench::tls::Files;

/// Compare cache-node, memcached and the floor, and write data_plane.md, .json and .svg.
///
/// The server has one core and the generator another. What is compared is the server's processor time per request, and
/// latency at a fixed rate: throughput alone would measure the generator. Runs are interleaved, ratios are medians.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The program cache-node, optimised
    #[arg(long, value_name = "FILE", env = "GANNET_CACHE_NODE", default_value = "target/release/cache-node")]
    cache_node: PathBuf,
    /// The program memcached
    #[arg(long, value_name = "FILE", default_value = "memcached")]
    memcached: PathBuf,
    /// The folder for the report
    #[arg(long, value_name = "FOLDER", default_value = "target/bench")]
    out: PathBuf,
    /// Fewer keys, fewer and shorter runs: to try it out, not to quote
    #[arg(long)]
    quick: bool,
    /// Runs of each server in each row
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=99))]
    runs: Option<u8>,
    /// Only rows whose name contains this; may be given several times
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    pub runs: usize,
    pub duration: &'static str,
    pub warmup: &'static str,
    pub keys: u32,
    /// Bytes of all values together, where they are large.
    pub large: usize,
    pub idle_connections: usize,
    pub handshakes: usize,
}

const FULL: Scale = Scale {
    runs: 5,
    duration: "2s",
    warmup: "300ms",
    keys: 1_000_000,
    large: 200 << 20,
    idle_connections: 10_000,
    handshakes: 2_000,
};
const QUICK: Scale = Scale {
    runs: 3,
    duration: "500ms",
    warmup: "100ms",
    keys: 50_000,
    large: 32 << 20,
    idle_connections: 1_000,
    handshakes: 300,
};
/// Where more requests than this share are answered with an error, the server does not do what the row asks for.
const REFUSED_SHARE: f64 = 0.01;

/// # Errors
/// Where a program cannot be run or the report not be written. Figures, good or bad, are no error.
pub fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let mut scale = if options.quick { QUICK } else { FULL };
    scale.runs = options.runs.map_or(scale.runs, usize::from);
    let machine = Machine::look();
    let programs = Programs {
        cache_node: options.cache_node.clone(),
        memcached: options.memcached.clone(),
        load: std::env::current_exe()?,
        work: options.out.join("work"),
        cores: machine.cores,
    };
    fs::create_dir_all(&programs.work)?;
    let tls = Files::write().map_err(|failure| failure.to_string())?;
    let bench = Bench { options, scale, programs, tls };
    let (quick, rows, idle, handshakes) = (options.quick, Vec::new(), Vec::new(), Vec::new());
    let mut findings = Findings { machine, scale, quick, rows, idle, handshakes };
    for group in groups(&scale) {
        bench.measure_group(group, &mut findings.rows)?;
    }
    if bench.is_wanted("idle connections") {
        findings.idle = bench.measure_idle();
    }
    if bench.is_wanted("TLS, handshakes") {
        findings.handshakes = bench.measure_handshakes();
    }
    fs::remove_dir_all(&bench.programs.work)?;
    let text = findings.markdown();
    println!("{text}");
    write(&options.out.join("data_plane.md"), &text)?;
    write(&options.out.join("data_plane.json"), &(serde_json::to_string_pretty(&findings.json())? + "\n"))?;
    plot::ratios(&options.out.join("data_plane.svg"), &findings)?;
    Ok(())
}

fn write(file: &Path, text: &str) -> Result<(), Box<dyn Error>> {
    fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()).into())
}

struct Bench<'a> {
    options: &'a Options,
    scale: Scale,
    programs: Programs,
    tls: Files,
}

impl Bench<'_> {
    fn is_wanted(&self, name: &str) -> bool {
        self.options.only.is_empty() || self.options.only.iter().any(|part| name.contains(part.as_str()))
    }

    /// Starts the group's servers, stores its keys in each, and measures its rows.
    fn measure_group(&self, group: Group, results: &mut Vec<RowResult>) -> Result<(), Box<dyn Error>> {
        let rows: Vec<Row> = group.rows.into_iter().filter(|row| self.is_wanted(row.name)).collect();
        let mut kinds: Vec<Kind> = rows.iter().flat_map(|row| row.servers.iter().copied()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let mut started = Vec::new();
        for kind in kinds {
            eprintln!("{}: {} starts and is filled", group.name, kind.name());
            let tls = group.tls.then_some(&self.tls);
            let running = Running::start(kind, &self.programs, group.value_size, tls).and_then(|running| {
                if kind.is_cache() {
                    self.load(&running, &group.arguments, &["--warmup", "0s", "--duration", "1ms"])?;
                }
                Ok(running)
            });
            started.push((kind, running));
        }
        for row in rows {
            let rate = match row.measure {
                Measure::HalfOfMemcached(of) | Measure::BesideHandshakes(of, _) | Measure::AcrossReloads(of) => {
                    Some(half_of_memcached(of, results)?)
                }
                Measure::Closed => None,
            };
            results.push(self.measure_row(row, &group.arguments, rate, &started));
        }
        Ok(())
    }

    fn measure_row(
        &self,
        row: Row,
        arguments: &[String],
        rate: Option<f64>,
        started: &[(Kind, Result<Running, String>)],
    ) -> RowResult {
        let mut cells: Vec<(Kind, Cell)> = row.servers.iter().map(|&kind| (kind, Ok(Vec::new()))).collect();
        let rate_text = rate.map(|rate| format!("{rate:.0}"));
        for run in 0..self.scale.runs {
            eprintln!("{}: run {} of {}", row.name, run + 1, self.scale.runs);
            for (kind, cell) in &mut cells {
                let Ok(samples) = cell else { continue };
                let mut own: Vec<&str> = vec!["--no-fill", "--validate", "sampled"];
                own.extend(["--warmup", self.scale.warmup, "--duration", self.scale.duration]);
                own.extend(row.arguments.iter().copied());
                if let Some(rate) = &rate_text {
                    own.extend(["--rate", rate]);
                }
                let found = started.iter().find(|(started, _)| started == kind);
                let sample = match found {
                    Some((_, Ok(running))) => match row.measure {
                        Measure::BesideHandshakes(_, rate) => {
                            let _beside = self.shake_hands(running, rate);
                            self.load(running, arguments, &own)
                        }
                        Measure::AcrossReloads(_) => {
                            let _meanwhile = self.tls.keep_renewing();
                            self.load(running, arguments, &own)
                        }
                        _ => self.load(running, arguments, &own),
                    },
                    Some((_, Err(reason))) => Err(reason.clone()),
                    None => Err("it was not started".to_owned()),
                };
                match sample {
                    // Better no figure than zero: a server that takes no time would win every comparison.
                    Ok(sample) if sample.cpu_request <= 0.0 => {
                        *cell = Err("the kernel told no processor time of the server".to_owned());
                    }
                    Ok(sample) => samples.push(sample),
                    Err(reason) => *cell = Err(reason),
                }
            }
        }
        RowResult { row, rate, cells }
    }

    /// Has the generator, on its own core, load a server.
    fn load(&self, server: &Running, group: &[String], own: &[&str]) -> Result<Sample, String> {
        let address = format!("127.0.0.1:{}", server.port);
        let pid = server.pid().to_string();
        let mut command = self.programs.pinned(1, &self.programs.load).map_err(|error| error.to_string())?;
        command.args(["run", "--quiet", "--json", "-", "--server", &address, "--measure", &pid]);
        command.args(group).args(own).args(server.tls.iter().flat_map(Files::of_client));
        // A server that speaks a protocol of its own is asked in that one; the last argument counts.
        if let Some(protocol) = server.kind.protocol() {
            command.args(["--protocol", protocol]);
        }
        let output = command.output().map_err(|error| format!("the generator cannot be run: {error}"))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
        let report: Value =
            serde_json::from_slice(&output.stdout).map_err(|error| format!("the generator's report: {error}"))?;
        sample(&report)
    }

    fn measure_idle(&self) -> Vec<Idle> {
        let mut found: Vec<Idle> = [false, true]
            .into_iter()
            .flat_map(|tls| [Kind::Memcached, Kind::Node].map(|kind| Idle { kind, tls, bytes: Ok(Vec::new()) }))
            .collect();
        for run in 0..self.scale.runs {
            eprintln!("idle connections: run {} of {}", run + 1, self.scale.runs);
            for Idle { kind, tls, bytes } in &mut found {
                let tls = tls.then_some(&self.tls);
                // Afresh each time: what a server has once allocated for connections it keeps.
                let more = Running::start(*kind, &self.programs, 100, tls).and_then(|server| self.idle(&server));
                collect(bytes, more);
            }
        }
        found
    }

    fn measure_handshakes(&self) -> Vec<Handshake> {
        let mut found: Vec<Handshake> = [false, true]
            .into_iter()
            .flat_map(|resumed| {
                [Kind::Memcached, Kind::Node].map(|kind| Handshake { kind, resumed, micros: Ok(Vec::new()) })
            })
            .collect();
        for run in 0..self.scale.runs {
            eprintln!("TLS, handshakes: run {} of {}", run + 1, self.scale.runs);
            for Handshake { kind, resumed, micros } in &mut found {
                let server = Running::start(*kind, &self.programs, 100, Some(&self.tls));
                collect(micros, server.and_then(|server| self.handshakes(&server, *resumed)));
            }
        }
        found
    }

    /// Microseconds of the server's processor time for a connection that is made, used once and closed.
    fn handshakes(&self, server: &Running, resumed: bool) -> Result<f64, String> {
        let mut command = self.of_handshakes(server).map_err(|error| error.to_string())?;
        let count = self.scale.handshakes.to_string();
        command.args(["--count", &count, "--measure", &server.pid().to_string()]);
        command.args(resumed.then_some("--resume"));
        let report = answer(&mut command)?;
        let came_back = report["resumed"].as_u64().unwrap_or_default();
        if resumed && came_back < self.scale.handshakes as u64 {
            return Err(format!("{came_back} of {count} connections were resumed"));
        }
        report["serverCpuMicrosEach"].as_f64().ok_or_else(|| "the generator tells no time".to_owned())
    }

    /// Has others shake hands with a server until what is returned is dropped.
    fn shake_hands(&self, server: &Running, rate: u32) -> Option<Beside> {
        let child = self.of_handshakes(server).and_then(|mut command| {
            command.args(["--rate", &rate.to_string(), "--count", &u32::MAX.to_string()]);
            command.stdout(Stdio::null()).spawn()
        });
        child.map(Beside).inspect_err(|error| eprintln!("no handshakes beside it: {error}")).ok()
    }

    fn of_handshakes(&self, server: &Running) -> io::Result<Command> {
        let mut command = self.programs.pinned(1, &self.programs.load)?;
        command.args(["handshakes", "--server", &format!("127.0.0.1:{}", server.port)]);
        command.args(self.tls.of_client());
        Ok(command)
    }

    fn idle(&self, server: &Running) -> Result<f64, String> {
        let mut command = self.programs.pinned(1, &self.programs.load).map_err(|error| error.to_string())?;
        let (address, pid) = (format!("127.0.0.1:{}", server.port), server.pid().to_string());
        let connections = self.scale.idle_connections.to_string();
        command.args(["idle", "--server", &address, "--measure", &pid, "--connections", &connections]);
        command.args(server.tls.iter().flat_map(Files::of_client));
        let report = answer(&mut command)?;
        let still = report["answeredAfterwards"].as_u64().unwrap_or_default();
        if still != self.scale.idle_connections as u64 {
            return Err(format!("{still} of {connections} connections were answered after they had been idle"));
        }
        report["bytesEachIdle"].as_f64().ok_or_else(|| "the generator tells no bytes".to_owned())
    }
}

/// The one line that a program of ours says.
fn answer(command: &mut Command) -> Result<Value, String> {
    let output = command.output().map_err(|error| format!("the generator cannot be run: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())
}

fn collect(all: &mut Result<Vec<f64>, String>, more: Result<f64, String>) {
    match (&mut *all, more) {
        (Ok(all), Ok(more)) => all.push(more),
        (_, Err(reason)) => *all = Err(reason),
        (Err(_), Ok(_)) => {}
    }
}

/// A program that runs beside what is measured.
struct Beside(Child);

impl Drop for Beside {
    fn drop(&mut self) {
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
            eprintln!("the handshakes beside it could not be ended: {error}");
        }
    }
}

fn sample(report: &Value) -> Result<Sample, String> {
    let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_f64).unwrap_or_default();
    let requests = number("/requests");
    let refused = number("/refused") + number("/fill/refused");
    if refused > requests.max(1.0) * REFUSED_SHARE {
        let texts = report.pointer("/errors/texts").and_then(Value::as_object);
        let of_fill = report.pointer("/fill/errors/texts").and_then(Value::as_object);
        let first = texts.into_iter().chain(of_fill).flat_map(|texts| texts.keys()).next();
        return Err(format!("it answers {}", first.map_or("with errors", String::as_str)));
    }
    let reads = number("/hits") + number("/misses");
    Ok(Sample {
        cpu_request: number("/serverProcess/cpuNanosPerRequest") / 1e3,
        cpu_key: number("/serverProcess/cpuNanosPerKey") / 1e3,
        core_share: number("/serverProcess/coreShare"),
        rate: number("/requestsPerSecond"),
        hit_ratio: if reads > 0.0 { number("/hits") / reads } else { 1.0 },
        failed: number("/errors/failedRequests"),
        latency: ["p50", "p99", "p999"].map(|name| number(&format!("/latencyMicros/{name}"))),
    })
}

/// Half of what memcached does in this row, in requests a second.
fn half_of_memcached(row: &str, results: &[RowResult]) -> Result<f64, Box<dyn Error>> {
    let found = results.iter().find(|result| result.row.name == row);
    let rate = found.and_then(|result| result.median(Kind::Memcached, Figure::Rate));
    Ok(rate
        .ok_or_else(|| format!("the fixed rate is half of what memcached does in \"{row}\": that row is needed too"))?
        / 2.0)
}

/// The cores of this machine.
pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The first line of what a program says about itself.
pub fn version(program: &Path) -> String {
    let output = Command::new(program).arg("--version").output();
    let text = output.map_or_else(|error| error.to_string(), |o| String::from_utf8_lossy(&o.stdout).into_owned());
    text.lines().next().unwrap_or_default().to_owned()
}

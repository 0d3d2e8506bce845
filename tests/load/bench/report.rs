//! The findings, for people and for programs.

use std::fmt::{self, Write as _};
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::bench::rows::{
    DEPTH, Figure, Measure, PING, PING_PIPELINED, PIPELINED, RowResult, Spread, THREAD, TLS_HANDSHAKES, TLS_RATE,
    TLS_RELOADS, UNPIPELINED,
};
use crate::bench::servers::Kind;
use crate::bench::{Scale, cores, version};

/// Where it was measured.
#[derive(Clone, Debug)]
pub struct Machine {
    pub cores: usize,
    processor: String,
    kernel: String,
    memcached: String,
}

impl Machine {
    pub fn look() -> Machine {
        let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Machine {
            cores: cores(),
            processor: model.map_or("a processor of unknown make", |(_, model)| model).to_owned(),
            kernel: kernel.trim().to_owned(),
            memcached: version(Path::new("memcached")),
        }
    }
}

/// Memory of idle connections to one server.
#[derive(Debug)]
pub struct Idle {
    pub kind: Kind,
    pub tls: bool,
    /// Resident bytes a connection, run by run; or why there are none.
    pub bytes: Result<Vec<f64>, String>,
}

/// What a connection within TLS costs one server, from its handshake to its end.
#[derive(Debug)]
pub struct Handshake {
    pub kind: Kind,
    /// With the ticket of another.
    pub resumed: bool,
    /// Microseconds of processor time, run by run; or why there are none.
    pub micros: Result<Vec<f64>, String>,
}

/// All that was found.
#[derive(Debug)]
pub struct Findings {
    pub machine: Machine,
    pub scale: Scale,
    pub quick: bool,
    pub rows: Vec<RowResult>,
    pub idle: Vec<Idle>,
    pub handshakes: Vec<Handshake>,
}

impl Findings {
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        self.write(&mut text).map_or_else(|_| String::new(), |()| text)
    }

    fn write(&self, text: &mut String) -> fmt::Result {
        let Machine { cores, processor, kernel, memcached } = &self.machine;
        let Scale { runs, duration, keys, .. } = self.scale;
        writeln!(text, "# The data plane: cache-node beside memcached\n")?;
        if self.quick {
            writeln!(text, "A quick run, to see that it works: its figures are not to be quoted.\n")?;
        }
        writeln!(
            text,
            "{processor}, {cores} cores, Linux {kernel}, {memcached}. The server is pinned to core 0, the generator to core 1. \
             50 connections, {keys} keys of 14 bytes, 90 % get and 10 % set unless the row says otherwise; {runs} interleaved \
             runs of {duration} each. Ratios are medians of the runs' ratios, with the least and the most in brackets.\n"
        )?;
        self.write_cpu(text)?;
        self.write_latency(text)?;
        self.write_threads(text)?;
        self.write_ping(text)?;
        self.write_idle(text)?;
        self.write_handshakes(text)?;
        self.write_absent(text)
    }

    fn compared(&self) -> impl Iterator<Item = &RowResult> {
        let is_compared = |result: &&RowResult| {
            result.row.measure == Measure::Closed && result.row.servers.contains(&Kind::Memcached)
        };
        self.rows.iter().filter(is_compared)
    }

    fn write_cpu(&self, text: &mut String) -> fmt::Result {
        writeln!(text, "## Server processor time, in microseconds a request\n")?;
        writeln!(text, "| | memcached | cache-node | floor | of memcached | goal | of the floor | goal |")?;
        writeln!(text, "|---|---|---|---|---|---|---|---|")?;
        for result in self.compared() {
            let time = |kind| cell(result.median(kind, Figure::Cpu), 3);
            let goal = |goal: Option<f64>| goal.map_or_else(|| " ".to_owned(), |goal| format!("at most {goal}"));
            let ratio = |to| result.ratio(Kind::Node, to, Figure::Cpu);
            let (of_memcached, of_floor) = (ratio(Kind::Memcached), ratio(Kind::Floor));
            writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} | {} |",
                result.row.name,
                time(Kind::Memcached),
                time(Kind::Node),
                if result.row.servers.contains(&Kind::Floor) { time(Kind::Floor) } else { " ".to_owned() },
                judged(of_memcached, result.row.goal),
                goal(result.row.goal),
                if result.row.servers.contains(&Kind::Floor) {
                    judged(of_floor, result.row.floor_goal)
                } else {
                    " ".to_owned()
                },
                goal(result.row.floor_goal)
            )?;
        }
        writeln!(text, "\nHow busy the server's core was, and requests a second in thousands:\n")?;
        writeln!(text, "| | memcached | cache-node | floor |\n|---|---|---|---|")?;
        for result in self.compared() {
            write!(text, "| {} |", result.row.name)?;
            for kind in [Kind::Memcached, Kind::Node, Kind::Floor] {
                match (result.share(kind), result.median(kind, Figure::Rate)) {
                    (Some(share), Some(rate)) => write!(text, " {:.0} %, {:.0} |", share * 100.0, rate / 1e3)?,
                    _ => write!(text, " |")?,
                }
            }
            writeln!(text)?;
        }
        Ok(())
    }

    fn write_latency(&self, text: &mut String) -> fmt::Result {
        for result in self.rows.iter().filter(|result| result.row.measure != Measure::Closed) {
            let (name, rate) = (result.row.name, result.rate.unwrap_or_default());
            writeln!(
                text,
                "\n## Latency, {name}: {rate:.0} requests a second, half of memcached's most, in microseconds\n"
            )?;
            writeln!(text, "| | memcached | cache-node | floor | of memcached | goal |\n|---|---|---|---|---|---|")?;
            for (name, figure, goal) in
                [("p50", Figure::P50, 1.0), ("p99", Figure::P99, 1.1), ("p999", Figure::P999, 1.1)]
            {
                let ratio = result.ratio(Kind::Node, Kind::Memcached, figure);
                let time = |kind| cell(result.median(kind, figure), 0);
                let (memcached, node, floor) = (time(Kind::Memcached), time(Kind::Node), time(Kind::Floor));
                let judged = judged(ratio, Some(goal));
                writeln!(text, "| {name} | {memcached} | {node} | {floor} | {judged} | at most {goal} |")?;
            }
        }
        let p999 = |name| self.row(name).and_then(|result| result.median(Kind::Node, Figure::P999));
        for (other, meanwhile, goal) in [
            (TLS_HANDSHAKES, "beside the handshakes", Some(1.5)),
            (TLS_RELOADS, "while its certificate is replaced", None),
        ] {
            let Some((alone, other)) = p999(TLS_RATE).zip(p999(other)) else { continue };
            let ratio = other / alone;
            let missed = if goal.is_some_and(|goal| ratio > goal) { " **missed**" } else { "" };
            let goal = goal.map_or_else(String::new, |goal| format!(" (goal: at most {goal})"));
            writeln!(text, "\ncache-node's p999 {meanwhile} is {ratio:.2} times its own without{goal}{missed}.")?;
        }
        Ok(())
    }

    fn row(&self, name: &str) -> Option<&RowResult> {
        self.rows.iter().find(|result| result.row.name == name)
    }

    fn write_threads(&self, text: &mut String) -> fmt::Result {
        let Some(result) = self.row(THREAD) else { return Ok(()) };
        writeln!(text, "\n## With a storage thread, pipelined by 32\n")?;
        writeln!(
            text,
            "| | microseconds a request | of the inline mode | goal | busy cores | requests/s, thousands |"
        )?;
        writeln!(text, "|---|---|---|---|---|---|")?;
        for kind in [Kind::Node, Kind::NodeThread, Kind::NodeTwo] {
            let ratio = result.ratio(kind, Kind::Node, Figure::Cpu);
            let goal = (kind == Kind::NodeThread).then_some(1.25);
            writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} |",
                kind.name(),
                cell(result.median(kind, Figure::Cpu), 3),
                judged(ratio, goal),
                goal.map_or_else(|| " ".to_owned(), |goal| format!("at most {goal}")),
                cell(result.share(kind), 2),
                cell(result.median(kind, Figure::Rate).map(|rate| rate / 1e3), 0)
            )?;
        }
        let times = result.median(Kind::NodeThread, Figure::Cpu).zip(result.median(Kind::Node, Figure::Cpu));
        if let Some((thread, inline)) = times {
            let batch = (thread - inline) * DEPTH;
            writeln!(text, "\nThe ring costs {batch:.2} microseconds of processor time a batch of 32 requests.")?;
        }
        let cores = self.machine.cores;
        writeln!(
            text,
            "\nOne worker: all threads on core 0. Two workers: on any of {cores} cores, one of which is the generator's."
        )
    }

    fn write_ping(&self, text: &mut String) -> fmt::Result {
        let pairs = [(PING, UNPIPELINED), (PING_PIPELINED, PIPELINED)];
        if pairs.iter().all(|(ping, _)| self.row(ping).is_none()) {
            return Ok(());
        }
        writeln!(text, "\n## How far the cache is from doing nothing, in microseconds a request\n")?;
        writeln!(text, "| | get/set | ping | ping, of get/set | floor |\n|---|---|---|---|---|")?;
        for result in pairs.iter().filter_map(|(ping, _)| self.row(ping)) {
            writeln!(
                text,
                "| {} | {} | {} | {} | {} |",
                result.row.name,
                cell(result.median(Kind::Node, Figure::Cpu), 3),
                cell(result.median(Kind::NodePing, Figure::Cpu), 3),
                judged(result.ratio(Kind::NodePing, Kind::Node, Figure::Cpu), None),
                cell(result.median(Kind::Floor, Figure::Cpu), 3)
            )?;
        }
        Ok(())
    }

    fn write_idle(&self, text: &mut String) -> fmt::Result {
        if self.idle.is_empty() {
            return Ok(());
        }
        let connections = self.scale.idle_connections;
        writeln!(text, "\n## Resident memory of an idle connection, at {connections}, in bytes\n")?;
        writeln!(text, "| | median | least | most |\n|---|---|---|---|")?;
        for Idle { kind, tls, bytes } in &self.idle {
            let name = if *tls { format!("{}, TLS", kind.name()) } else { kind.name().to_owned() };
            let spread = bytes.as_ref().ok().and_then(|bytes| Spread::of(bytes));
            match spread {
                Some(Spread { least, median, most }) => {
                    writeln!(text, "| {name} | {median:.0} | {least:.0} | {most:.0} |")?;
                }
                None => writeln!(text, "| {name} | absent | | |")?,
            }
        }
        Ok(())
    }

    fn write_handshakes(&self, text: &mut String) -> fmt::Result {
        if self.handshakes.is_empty() {
            return Ok(());
        }
        writeln!(
            text,
            "\n## Processor time of a connection within TLS: handshake, one request, end, in microseconds\n"
        )?;
        writeln!(text, "| | median | least | most |\n|---|---|---|---|")?;
        for Handshake { kind, resumed, micros } in &self.handshakes {
            let name = format!("{}, {}", kind.name(), if *resumed { "resumed" } else { "full" });
            match micros.as_ref().ok().and_then(|micros| Spread::of(micros)) {
                Some(Spread { least, median, most }) => {
                    writeln!(text, "| {name} | {median:.0} | {least:.0} | {most:.0} |")?;
                }
                None => writeln!(text, "| {name} | absent | | |")?,
            }
        }
        Ok(())
    }

    fn write_absent(&self, text: &mut String) -> fmt::Result {
        let of_rows = self.rows.iter().flat_map(|result| {
            result.absent().map(|(kind, reason)| format!("{}, {}: {reason}", kind.name(), result.row.name))
        });
        let of_idle = self
            .idle
            .iter()
            .filter_map(|idle| Some(format!("{}, idle connections: {}", idle.kind.name(), idle.bytes.as_ref().err()?)));
        let of_handshakes = self.handshakes.iter().filter_map(|handshake| {
            Some(format!("{}, handshakes: {}", handshake.kind.name(), handshake.micros.as_ref().err()?))
        });
        let mut absent: Vec<String> = of_rows.chain(of_idle).chain(of_handshakes).collect();
        absent.dedup();
        if !absent.is_empty() {
            writeln!(text, "\n## Absent\n")?;
            for line in absent {
                writeln!(text, "- {line}")?;
            }
        }
        let missed = self.rows.iter().flat_map(RowResult::oddities);
        for (index, line) in missed.enumerate() {
            if index == 0 {
                writeln!(text, "\n## To be known\n")?;
            }
            writeln!(text, "- {line}")?;
        }
        Ok(())
    }

    pub fn json(&self) -> Value {
        let Machine { cores, processor, kernel, memcached } = &self.machine;
        let spread = |spread: Option<Spread>| {
            spread.map(|Spread { least, median, most }| json!({"least": least, "median": median, "most": most}))
        };
        let rows = self.rows.iter().map(|result| {
            let servers = result.row.servers.iter().map(|&kind| {
                json!({
                    "server": kind.name(),
                    "absent": result.absent().find(|(of, _)| *of == kind).map(|(_, reason)| reason),
                    "cpuMicros": spread(result.spread(kind, Figure::Cpu)),
                    "coreShare": result.share(kind),
                    "perSecond": spread(result.spread(kind, Figure::Rate)),
                    "p50Micros": spread(result.spread(kind, Figure::P50)),
                    "p99Micros": spread(result.spread(kind, Figure::P99)),
                    "p999Micros": spread(result.spread(kind, Figure::P999)),
                })
            });
            let ratio = |to, figure| spread(result.ratio(Kind::Node, to, figure));
            json!({
                "row": result.row.name,
                "perKey": result.row.per_key,
                "rate": result.rate,
                "servers": servers.collect::<Vec<_>>(),
                "goalOfMemcached": result.row.goal,
                "goalOfFloor": result.row.floor_goal,
                "cpuOfMemcached": ratio(Kind::Memcached, Figure::Cpu),
                "cpuOfFloor": ratio(Kind::Floor, Figure::Cpu),
                "p50OfMemcached": ratio(Kind::Memcached, Figure::P50),
                "p99OfMemcached": ratio(Kind::Memcached, Figure::P99),
                "p999OfMemcached": ratio(Kind::Memcached, Figure::P999),
                "threadOfInline": spread(result.ratio(Kind::NodeThread, Kind::Node, Figure::Cpu)),
            })
        });
        let idle = self.idle.iter().map(|idle| {
            let bytes = idle.bytes.as_ref().ok().and_then(|bytes| Spread::of(bytes));
            json!({"server": idle.kind.name(), "tls": idle.tls, "bytes": spread(bytes), "absent": idle.bytes.as_ref().err()})
        });
        let handshakes = self.handshakes.iter().map(|handshake| {
            let micros = handshake.micros.as_ref().ok().and_then(|micros| Spread::of(micros));
            let absent = handshake.micros.as_ref().err();
            json!({"server": handshake.kind.name(), "resumed": handshake.resumed, "cpuMicros": spread(micros), "absent": absent})
        });
        json!({
            "machine": {"cores": cores, "processor": processor, "kernel": kernel, "memcached": memcached},
            "quick": self.quick,
            "runs": self.scale.runs,
            "keys": self.scale.keys,
            "idleConnections": self.scale.idle_connections,
            "rows": rows.collect::<Vec<_>>(),
            "idle": idle.collect::<Vec<_>>(),
            "handshakes": handshakes.collect::<Vec<_>>(),
        })
    }
}

impl RowResult {
    /// How busy the server was, in cores.
    fn share(&self, kind: Kind) -> Option<f64> {
        let samples = self.cells.iter().find(|(of, _)| *of == kind)?.1.as_ref().ok()?;
        let shares: Vec<f64> = samples.iter().map(|sample| sample.core_share).collect();
        Some(Spread::of(&shares)?.median)
    }

    /// What makes two servers' figures harder to compare: misses and failures.
    fn oddities(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (kind, cell) in &self.cells {
            let Ok(samples) = cell else { continue };
            let hits = samples.iter().map(|sample| sample.hit_ratio).fold(1.0, f64::min);
            let failed: f64 = samples.iter().map(|sample| sample.failed).sum();
            if hits < 0.999 && kind.is_cache() {
                found.push(format!("{}, {}: only {:.1} % hits", kind.name(), self.row.name, hits * 100.0));
            }
            if failed > 0.0 {
                found.push(format!("{}, {}: {failed:.0} requests failed", kind.name(), self.row.name));
            }
        }
        found
    }
}

fn cell(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "absent".to_owned(), |value| format!("{value:.digits$}"))
}

fn judged(ratio: Option<Spread>, goal: Option<f64>) -> String {
    let Some(Spread { least, median, most }) = ratio else { return "absent".to_owned() };
    let missed = if goal.is_some_and(|goal| median > goal) { " **missed**" } else { "" };
    format!("{median:.3} ({least:.3} to {most:.3}){missed}")
}

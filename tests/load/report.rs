//! What was measured, as a table and as JSON.

use std::fmt::Write as _;

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use crate::options::Options;
use crate::request::Kind;
use crate::run::Measured;
use crate::tally::{Errors, KindTally, Tally};

/// The quantiles that are told, with their names.
const QUANTILES: [(&str, f64); 5] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999), ("p9999", 0.9999)];

/// A run, in figures.
#[derive(Debug)]
pub struct Report {
    seconds: f64,
    latency: Histogram<u64>,
    measured: Measured,
}

impl Report {
    pub fn new(measured: Measured) -> Report {
        let Tally { from, until, .. } = measured.tally;
        let seconds = until.saturating_sub(from) as f64 / 1e9;
        Report { seconds, latency: measured.tally.latency(), measured }
    }

    pub fn latency(&self) -> &Histogram<u64> {
        &self.latency
    }

    /// Replies that are not what was stored or asked for.
    pub fn violations(&self) -> u64 {
        let of_fill = self.measured.fill.as_ref().map_or(0, |fill| fill.errors.violations);
        self.measured.tally.errors.violations + of_fill
    }

    /// The server's processor time in nanoseconds: per request, per key, and as a share of the time.
    fn cpu(&self) -> Option<(f64, f64, f64)> {
        let (before, after) = self.measured.usage?;
        let time = after.at.duration_since(before.at).as_nanos() as f64;
        // Less than before: a thread has ended, and what it used is no longer told.
        let used = after.cpu.checked_sub(before.cpu)? as f64;
        // The two readings are not exactly the window's ends.
        let share = time / (self.seconds * 1e9).max(1.0);
        let per = |count: u64| used / (count as f64 * share).max(1.0);
        Some((per(self.measured.tally.answered()), per(self.measured.tally.keys()), used / time.max(1.0)))
    }

    pub fn json(&self, options: &Options) -> Value {
        let tally = &self.measured.tally;
        let (hits, misses) = tally.reads();
        let per_second = |count: u64| count as f64 / self.seconds.max(1e-9);
        let kinds: Map<String, Value> = kinds(tally).map(|(kind, of)| (kind.name().to_owned(), of_kind(of))).collect();
        let timeline: Vec<_> =
            tally.seconds.iter().map(|s| json!([s.answered, s.failed, s.longest as f64 / 1e3])).collect();
        let process = self.measured.usage.zip(self.cpu()).map(|((_, after), (request, key, share))| {
            json!({"cpuNanosPerRequest": request, "cpuNanosPerKey": key, "coreShare": share, "resident": after.resident})
        });
        json!({
            "servers": options.servers,
            "arguments": std::env::args().skip(1).collect::<Vec<_>>(),
            "notes": self.measured.notes,
            "seconds": self.seconds,
            "requests": tally.answered(),
            "requestsPerSecond": per_second(tally.answered()),
            "keysPerSecond": per_second(tally.keys()),
            "hits": hits,
            "misses": misses,
            "bytesReceived": tally.received,
            "bytesSent": tally.sent,
            "latencyMicros": latencies(&self.latency),
            "kinds": kinds,
            "refused": tally.refused(),
            "errors": errors(&tally.errors),
            "serverProcess": process,
            "fill": self.measured.fill.as_ref().map(|fill| json!({
                "stored": fill.kinds[Kind::Set as usize].answered - fill.refused(),
                "refused": fill.refused(),
                "errors": errors(&fill.errors),
            })),
            "timelineFields": ["answered", "failed", "longestMicros"],
            "timeline": timeline,
        })
    }

    pub fn table(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        self.write_table(&mut text).map_or_else(|_| String::new(), |()| text)
    }

    fn write_table(&self, text: &mut String) -> std::fmt::Result {
        let tally = &self.measured.tally;
        for note in &self.measured.notes {
            writeln!(text, "{note}")?;
        }
        if let Some(fill) = &self.measured.fill {
            let stored = fill.kinds[Kind::Set as usize].answered - fill.refused();
            writeln!(text, "stored at first    {stored} keys, {} refused", fill.refused())?;
            write_errors(text, fill)?;
        }
        let per_second = |count: u64| count as f64 / self.seconds.max(1e-9);
        writeln!(
            text,
            "measured           {:.1} s, {} requests, {:.0}/s",
            self.seconds,
            tally.answered(),
            per_second(tally.answered())
        )?;
        if tally.keys() != tally.answered() {
            writeln!(text, "keys               {:.0}/s", per_second(tally.keys()))?;
        }
        let (hits, misses) = tally.reads();
        if hits + misses > 0 {
            writeln!(text, "hits               {:.2} %", hits as f64 * 100.0 / (hits + misses) as f64)?;
        }
        if let (Some((request, key, share)), Some((_, after))) = (self.cpu(), self.measured.usage) {
            writeln!(
                text,
                "server's processor {:.3} us a request, {:.3} us a key, {:.0} % of a core; {:.1} MiB resident",
                request / 1e3,
                key / 1e3,
                share * 100.0,
                after.resident as f64 / f64::from(1 << 20)
            )?;
        }
        let counted = if tally.by_due { "from when it was due" } else { "from when it was sent" };
        writeln!(text, "latency in microseconds, {counted}")?;
        write!(text, "  {:<10}{:>12}{:>10}", "", "requests", "mean")?;
        for (name, _) in QUANTILES {
            write!(text, "{name:>10}")?;
        }
        writeln!(text, "{:>10}", "longest")?;
        let rows: Vec<_> = kinds(tally).filter_map(|(kind, of)| Some((kind.name(), of.latency.as_ref()?))).collect();
        for (name, latency) in &rows {
            write_latency(text, name, latency)?;
        }
        if rows.len() > 1 {
            write_latency(text, "all", &self.latency)?;
        }
        write_errors(text, tally)
    }
}

fn kinds(tally: &Tally) -> impl Iterator<Item = (Kind, &KindTally)> {
    let all = Kind::ALL.into_iter().zip(&tally.kinds);
    all.filter(|(_, of)| of.answered > 0 || of.latency.is_some())
}

fn of_kind(of: &KindTally) -> Value {
    json!({
        "requests": of.answered,
        "keys": of.keys,
        "hits": of.hits,
        "absent": of.absent,
        "refused": of.refused,
        "latencyMicros": of.latency.as_ref().map(latencies),
    })
}

fn latencies(histogram: &Histogram<u64>) -> Value {
    let mut all: Map<String, Value> = QUANTILES
        .iter()
        .map(|&(name, quantile)| (name.to_owned(), json!(histogram.value_at_quantile(quantile) as f64 / 1e3)))
        .collect();
    all.insert("mean".to_owned(), json!(histogram.mean() / 1e3));
    all.insert("longest".to_owned(), json!(histogram.max() as f64 / 1e3));
    all.insert("count".to_owned(), json!(histogram.len()));
    Value::Object(all)
}

fn errors(errors: &Errors) -> Value {
    let Errors { connects, disconnects, lost, timeouts, violations, unsent, unfinished, reconnects, resent, texts } =
        errors;
    json!({
        "failedRequests": errors.failed(),
        "connects": connects,
        "disconnects": disconnects,
        "lostRequests": lost,
        "timeouts": timeouts,
        "wrongReplies": violations,
        "unsentRequests": unsent,
        "unfinishedRequests": unfinished,
        "reconnects": reconnects,
        "resentRequests": resent,
        "texts": texts,
    })
}

fn write_latency(text: &mut String, name: &str, latency: &Histogram<u64>) -> std::fmt::Result {
    write!(text, "  {name:<10}{:>12}{:>10.1}", latency.len(), latency.mean() / 1e3)?;
    for (_, quantile) in QUANTILES {
        write!(text, "{:>10.1}", latency.value_at_quantile(quantile) as f64 / 1e3)?;
    }
    writeln!(text, "{:>10.1}", latency.max() as f64 / 1e3)
}

fn write_errors(text: &mut String, tally: &Tally) -> std::fmt::Result {
    let Errors { connects, disconnects, lost, timeouts, violations, unsent, unfinished, reconnects, resent, texts } =
        &tally.errors;
    let counts = [
        ("replies with an error", tally.refused()),
        ("wrong replies", *violations),
        ("connections not made", *connects),
        ("connections lost", *disconnects),
        ("time-outs", *timeouts),
        ("requests lost with their connection", *lost),
        ("requests without a connection", *unsent),
        ("requests without a reply at the end", *unfinished),
        ("connections made again", *reconnects),
        ("requests asked once more", *resent),
    ];
    for (what, count) in counts.iter().filter(|(_, count)| *count > 0) {
        writeln!(text, "{what}: {count}")?;
    }
    for (what, count) in texts {
        writeln!(text, "  {count} times: {what}")?;
    }
    Ok(())
}

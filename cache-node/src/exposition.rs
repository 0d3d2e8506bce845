//! The node's figures in Prometheus' text format: every metric is declared here, once.

mod tls;

use std::fs;
use std::sync::Arc;

use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Result, TextEncoder};

use crate::kind::KINDS;
use crate::latency::Histogram as Sum;
use crate::metrics::{Counters, KindTotals, Metrics, Phase, Totals};

/// Latencies are shown from 2^4 microseconds on, in powers of two: a scrape of the fine buckets would be a hundred
/// times the rest. Who compares nodes finds the fine ones in `/status`.
const SMALLEST_POWER: u64 = 4;

/// The text of `/metrics`.
///
/// # Errors
/// What the encoder finds wrong with a metric, which no metric below is known to cause.
pub fn text(metrics: &Metrics) -> Result<String> {
    TextEncoder::new().encode_to_string(&families(metrics))
}

fn families(metrics: &Metrics) -> Vec<MetricFamily> {
    let totals = metrics.totals();
    let mut families = node(metrics);
    families.extend(workers(metrics, &totals));
    families.extend(requests(metrics, &totals));
    families.extend(connections(metrics, &totals));
    families.extend(items(&metrics.cache()));
    families.extend(memory(metrics));
    families.extend(tls::families(metrics));
    families
}

fn node(metrics: &Metrics) -> Vec<MetricFamily> {
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    let uptime = metrics.clock.now().since(metrics.started) as f64 / 1e6;
    let ready = f64::from(u8::from(metrics.phase() == Phase::Serving));
    let threads = metrics.threads().iter().enumerate();
    let round =
        |(index, counters): (usize, &Arc<Counters>)| counter(counters.rounds.get(), &[("thread", &index.to_string())]);
    vec![
        family(
            "gannet_build_info",
            "The version of the program; always 1.",
            MetricType::GAUGE,
            vec![gauge(1.0, &version)],
        ),
        level("gannet_uptime_seconds", "Seconds since the node started.", uptime),
        level("gannet_ready", "1 while the node serves and does not drain.", ready),
        family(
            "gannet_poll_rounds_total",
            "Rounds of each serving thread.",
            MetricType::COUNTER,
            threads.map(round).collect(),
        ),
    ]
}

/// How the load is divided, where there is something to divide.
fn workers(metrics: &Metrics, totals: &Totals) -> Vec<MetricFamily> {
    let workers = usize::from(metrics.config.workers);
    if workers < 2 {
        return Vec::new();
    }
    let each = |figure: &dyn Fn(&Counters) -> f64| {
        let threads = metrics.threads().iter().take(workers).enumerate();
        threads.map(|(index, counters)| gauge(figure(counters), &[("worker", &index.to_string())])).collect()
    };
    let (connections, busy) =
        (each(&|worker| worker.sessions.get() as f64), each(&|worker| worker.busy.get() as f64 / 1e3));
    vec![
        family("gannet_worker_connections", "Connections of each worker now.", MetricType::GAUGE, connections),
        family("gannet_worker_busy_ratio", "How much of its time each worker was busy.", MetricType::GAUGE, busy),
        total("gannet_connections_moved_total", "Connections moved to a less busy worker.", totals.moved),
    ]
}

fn requests(metrics: &Metrics, totals: &Totals) -> Vec<MetricFamily> {
    vec![
        by_command("gannet_requests_total", "Requests.", totals, |kind| kind.requests),
        by_command("gannet_hits_total", "Keys that were there, or stores that were done.", totals, |kind| kind.hits),
        by_command(
            "gannet_misses_total",
            "Keys that were not there, or stores whose condition did not hold.",
            totals,
            |kind| kind.misses,
        ),
        by_command("gannet_conflicts_total", "Stores that found another CAS.", totals, |kind| kind.conflicts),
        by_command("gannet_value_bytes_total", "Bytes of values, sent or stored.", totals, |kind| kind.value_bytes),
        total("gannet_server_errors_total", "Requests answered with SERVER_ERROR.", totals.server_errors),
        total("gannet_slow_commands_total", "Commands that took longer than slowCommand.", totals.slow),
        total("gannet_received_bytes_total", "Bytes received from clients.", totals.bytes_in),
        total("gannet_sent_bytes_total", "Bytes sent to clients.", totals.bytes_out),
        latencies(metrics),
    ]
}

fn connections(metrics: &Metrics, totals: &Totals) -> Vec<MetricFamily> {
    let closed = |reason: &str, count: u64| counter(count, &[("reason", reason)]);
    let limit = f64::from(metrics.config.max_connections);
    vec![
        level("gannet_connections", "Connections now.", metrics.open() as f64),
        level("gannet_connections_limit", "Connections at most.", limit),
        total("gannet_connections_accepted_total", "Connections accepted.", totals.accepted),
        total("gannet_connections_refused_total", "Connections refused at the limit.", totals.refused),
        family(
            "gannet_connections_closed_total",
            "Connections that the node closed on its own account.",
            MetricType::COUNTER,
            vec![
                closed("idle", totals.idle_closed),
                closed("stalled", totals.stalled_closed),
                closed("age", totals.aged_closed),
                closed("expired", totals.expired_closed),
                closed("untrusted", totals.untrusted_closed),
                closed("tls", totals.tls_closed),
            ],
        ),
        total(
            "gannet_buffer_waits_total",
            "Times that a connection had to wait for buffer memory.",
            totals.memory_waits,
        ),
    ]
}

fn items(cache: &segcache::Counters) -> Vec<MetricFamily> {
    vec![
        level("gannet_items", "Items now.", cache.items as f64),
        level("gannet_item_bytes", "Bytes of keys, values and headers of items now.", cache.item_bytes as f64),
        total("gannet_stored_items_total", "Items written.", cache.stored),
        total("gannet_evicted_items_total", "Items dropped to make room.", cache.evicted),
        total("gannet_expired_items_total", "Items dropped because their time came.", cache.expired),
    ]
}

fn memory(metrics: &Metrics) -> Vec<MetricFamily> {
    let cache = metrics.cache();
    let part = |part: &str, bytes: u64| gauge(bytes as f64, &[("part", part)]);
    let used = vec![
        part("index", cache.index_bytes),
        part("segments", cache.segment_bytes),
        part("metadata", cache.metadata_bytes),
        part("buffers", metrics.budget.used() as u64),
        part("resident", resident_bytes()),
    ];
    let limits = vec![part("cache", cache.budget), part("buffers", metrics.budget.limit() as u64)];
    vec![
        family("gannet_memory_bytes", "Memory in use now, by what for.", MetricType::GAUGE, used),
        family("gannet_memory_limit_bytes", "Memory at most, by what for.", MetricType::GAUGE, limits),
    ]
}

fn level(name: &str, help: &str, number: f64) -> MetricFamily {
    family(name, help, MetricType::GAUGE, vec![gauge(number, &[])])
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn total(name: &str, help: &str, count: u64) -> MetricFamily {
    family(name, help, MetricType::COUNTER, vec![counter(count, &[])])
}

fn by_command(name: &str, help: &str, totals: &Totals, figure: impl Fn(&KindTotals) -> u64) -> MetricFamily {
    let metrics = KINDS.iter().map(|(kind, label)| counter(figure(&totals.of(*kind)), &[("command", label)])).collect();
    family(name, help, MetricType::COUNTER, metrics)
}

fn latencies(metrics: &Metrics) -> MetricFamily {
    let help = "From the arrival of a request's bytes until the kernel has its reply.";
    let of = |(kind, label): &(_, &str)| histogram(&metrics.latencies(*kind), &[("command", label)]);
    family("gannet_request_duration_seconds", help, MetricType::HISTOGRAM, KINDS.iter().map(of).collect())
}

fn histogram(sum: &Sum, labels: &[(&str, &str)]) -> Metric {
    let bucket = |(us, count): (u64, u64)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(us as f64 / 1e6);
        bucket.set_cumulative_count(count);
        bucket
    };
    let mut histogram = Histogram::default();
    histogram.set_bucket(sum.below_powers_of_two(SMALLEST_POWER).map(bucket).collect());
    histogram.set_sample_count(sum.count());
    histogram.set_sample_sum(sum.sum_us as f64 / 1e6);
    let mut metric = Metric::from_label(label_pairs(labels));
    metric.set_histogram(histogram);
    metric
}

fn counter(count: u64, labels: &[(&str, &str)]) -> Metric {
    let mut value = Counter::default();
    value.set_value(count as f64);
    let mut metric = Metric::from_label(label_pairs(labels));
    metric.set_counter(value);
    metric
}

fn gauge(number: f64, labels: &[(&str, &str)]) -> Metric {
    let mut value = Gauge::default();
    value.set_value(number);
    let mut metric = Metric::from_label(label_pairs(labels));
    metric.set_gauge(value);
    metric
}

fn label_pairs(labels: &[(&str, &str)]) -> Vec<LabelPair> {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    labels.iter().map(pair).collect()
}

/// The process's resident memory as the kernel counts it; 0 where it does not say.
#[must_use]
pub fn resident_bytes() -> u64 {
    kernel_bytes("VmRSS:")
}

/// The part of it that no disk stands behind: what is the process's own, and what it has touched of a memory file system, which
/// holds items in a volume there.
#[must_use]
pub fn anonymous_bytes() -> u64 {
    kernel_bytes("RssAnon:") + kernel_bytes("RssShmem:")
}

fn kernel_bytes(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.map_or(0, |kib| kib << 10)
}

//! The figures of TLS; there are none where clients speak in the clear.

use prometheus::proto::{Metric, MetricFamily, MetricType};

use super::{counter, family, gauge, histogram, level};
use crate::latency::Histogram;
use crate::metrics::Metrics;
use crate::tls::Tls;
use crate::tls::credentials::{REASONS, State};

/// Clients that have a line of their own, those with most sessions; the others share one.
const MOST_IDENTITIES: usize = 100;
const OTHERS: &str = "others";

/// The families of both ports.
pub fn families(metrics: &Metrics) -> Vec<MetricFamily> {
    let data = metrics.tls.as_ref().map(|tls| ("data", tls.credentials.state()));
    let admin = metrics.admin_tls.as_ref().map(|credentials| ("admin", credentials.state()));
    let ports: Vec<(&str, State)> = data.into_iter().chain(admin).collect();
    let mut families = if ports.is_empty() { Vec::new() } else { credentials(&ports) };
    // Before the files are there, no certificate has a time to tell.
    families.retain(|family| !family.get_metric().is_empty());
    if let Some(tls) = &metrics.tls {
        families.extend(handshakes(tls));
    }
    families
}

fn credentials(ports: &[(&str, State)]) -> Vec<MetricFamily> {
    let expiry = |(port, state): &(&str, State)| {
        let served = state.served.as_ref()?;
        Some(gauge(served.material.facts.not_after as f64, &[("port", port)]))
    };
    let reloads = |(port, state): &(&str, State)| counter(state.reloads, &[("port", port)]);
    let failures = |(port, state): &(&str, State)| -> Vec<Metric> {
        let count = |reason: &&str| state.failures.get(reason).copied().unwrap_or_default();
        REASONS.iter().map(|reason| counter(count(reason), &[("port", port), ("reason", reason)])).collect()
    };
    vec![
        family(
            "gannet_tls_certificate_not_after_seconds",
            "When the certificate that is served expires, in unix time.",
            MetricType::GAUGE,
            ports.iter().filter_map(expiry).collect(),
        ),
        family(
            "gannet_tls_reloads_total",
            "Times that other files were taken over.",
            MetricType::COUNTER,
            ports.iter().map(reloads).collect(),
        ),
        family(
            "gannet_tls_reload_failures_total",
            "Times that files could not be taken over, so that the last good ones stayed.",
            MetricType::COUNTER,
            ports.iter().flat_map(failures).collect(),
        ),
    ]
}

fn handshakes(tls: &Tls) -> Vec<MetricFamily> {
    let counters = &tls.handshakes;
    let done = |result: &str, count: u64| counter(count, &[("reason", ""), ("result", result)]);
    let mut results = vec![done("full", counters.full.get()), done("resumed", counters.resumed.get())];
    let failed = |(reason, count): (&str, u64)| counter(count, &[("reason", reason), ("result", "failed")]);
    results.extend(counters.refusals.each().map(failed));
    let mut latencies = Histogram::default();
    counters.latencies.add_to(&mut latencies);
    vec![
        family("gannet_tls_handshakes_total", "Handshakes, by how they ended.", MetricType::COUNTER, results),
        level("gannet_tls_handshakes", "Handshakes under way now.", counters.open.get() as f64),
        family(
            "gannet_tls_handshake_duration_seconds",
            "From a connection to the end of its handshake.",
            MetricType::HISTOGRAM,
            vec![histogram(&latencies, &[])],
        ),
        family("gannet_tls_sessions", "Connections now, by client.", MetricType::GAUGE, sessions(tls)),
    ]
}

fn sessions(tls: &Tls) -> Vec<Metric> {
    let mut all: Vec<(String, u64)> = tls.identities.sessions().into_iter().collect();
    all.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
    let rest: u64 = all.iter().skip(MOST_IDENTITIES).map(|(_, sessions)| sessions).sum();
    let is_cut = all.len() > MOST_IDENTITIES;
    all.truncate(MOST_IDENTITIES);
    if is_cut {
        all.push((OTHERS.to_owned(), rest));
    }
    all.iter().map(|(name, sessions)| gauge(*sessions as f64, &[("identity", name)])).collect()
}

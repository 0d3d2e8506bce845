//! The operator's own metrics, each declared once.

use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry, TextEncoder};

/// Every metric of the operator.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    /// 1 while this process leads.
    pub leader: IntGauge,
    /// CacheClusters known.
    pub clusters: IntGauge,
    /// Reconciles by result: `ok`, `error`, `invalid`.
    pub reconciles: IntCounterVec,
    /// How long a reconcile takes, in seconds.
    pub seconds: Histogram,
    /// Objects written, by what was done.
    pub writes: IntCounterVec,
}

impl Metrics {
    /// Declares the metrics in a registry of their own.
    ///
    /// # Errors
    /// Where two metrics have one name, which a test rules out.
    pub fn new() -> Result<Metrics, prometheus::Error> {
        let registry = Registry::new();
        let buckets = prometheus::exponential_buckets(0.001, 2.0, 14)?;
        let metrics = Metrics {
            leader: IntGauge::new("gannet_operator_leader", "1 while this operator leads.")?,
            clusters: IntGauge::new("gannet_operator_cacheclusters", "CacheClusters known.")?,
            reconciles: IntCounterVec::new(
                Opts::new("gannet_operator_reconciles_total", "Reconciles by result."),
                &["result"],
            )?,
            seconds: Histogram::with_opts(
                HistogramOpts::new("gannet_operator_reconcile_seconds", "How long a reconcile takes.").buckets(buckets),
            )?,
            writes: IntCounterVec::new(
                Opts::new("gannet_operator_writes_total", "Objects written, by what was done."),
                &["action"],
            )?,
            registry,
        };
        let Metrics { registry, leader, clusters, reconciles, seconds, writes } = &metrics;
        registry.register(Box::new(leader.clone()))?;
        registry.register(Box::new(clusters.clone()))?;
        registry.register(Box::new(reconciles.clone()))?;
        registry.register(Box::new(seconds.clone()))?;
        registry.register(Box::new(writes.clone()))?;
        Ok(metrics)
    }

    /// The metrics in Prometheus' text format.
    ///
    /// # Errors
    /// Where a metric cannot be written, which no metric here is known to cause.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

#[cfg(test)]
mod tests {
    use super::Metrics;

    #[test]
    fn every_metric_is_told() {
        let metrics = Metrics::new().unwrap();
        metrics.reconciles.with_label_values(&["ok"]).inc();
        metrics.writes.with_label_values(&["created"]).inc();
        let text = metrics.text().unwrap();
        for name in ["leader", "cacheclusters", "reconciles_total", "reconcile_seconds", "writes_total"] {
            assert!(text.contains(&format!("gannet_operator_{name}")), "{name} is missing in\n{text}");
        }
    }
}

//! What the pods did before the rollout, kept beside its decisions: the canaries' former lives end with it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::metric::{Metric, Name, SLOW_QUANTILE};
use super::noise::Noise;
use super::window::{Tick, Window};

/// The pods before the rollout.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Before {
    pub pods: BTreeMap<String, Window>,
    /// The UIDs of these pods: one that was replaced since is cold, and no peer any more.
    #[serde(default)]
    pub lives: BTreeMap<String, String>,
    /// How far each of them wandered.
    pub noise: BTreeMap<Name, BTreeMap<String, Noise>>,
}

/// Room for it in an annotation, beside the rest: Kubernetes allows 256 KiB for all of them.
const MOST_BYTES: usize = 160 << 10;

impl Before {
    /// What these stretches say of pods of this revision. A pod that was replaced meanwhile begins with its last life.
    #[must_use]
    pub fn of(ticks: &[Tick], revision: &str, metrics: &[Metric]) -> Before {
        let cells = ticks.iter().flat_map(|tick| &tick.cells);
        // The last one counts.
        let lives: BTreeMap<&str, &str> = cells
            .filter(|(_, cell)| cell.revision == revision && cell.window.is_ok())
            .map(|(pod, cell)| (pod.as_str(), cell.uid.as_str()))
            .collect();
        let rows: Vec<BTreeMap<&str, &Window>> = ticks
            .iter()
            .map(|tick| {
                let same_life =
                    tick.cells.iter().filter(|(pod, cell)| lives.get(pod.as_str()) == Some(&cell.uid.as_str()));
                same_life.filter_map(|(pod, cell)| Some((pod.as_str(), cell.window.as_ref().ok()?))).collect()
            })
            .collect();
        let pods: BTreeMap<String, Window> = lives
            .keys()
            .map(|pod| ((*pod).to_owned(), Window::sum(rows.iter().filter_map(|row| row.get(pod).copied()))))
            .collect();
        let lives = lives.iter().map(|(pod, uid)| ((*pod).to_owned(), (*uid).to_owned())).collect();
        let mut before = Before { pods, lives, noise: BTreeMap::new() };
        let slow = before.slow();
        before.noise = metrics.iter().map(|metric| (metric.name, Noise::by_pod(metric, &slow, &rows))).collect();
        before.fit();
        before
    }

    /// The microseconds from which on a request is slow, by pod.
    #[must_use]
    pub fn slow(&self) -> BTreeMap<String, u64> {
        let slow = |window: &Window| window.latencies.quantile(SLOW_QUANTILE).map_or(u64::MAX, |us| us + 1);
        self.pods.iter().map(|(pod, window)| (pod.clone(), slow(window))).collect()
    }

    /// Peers in the middle are given up where there are too many pods: the first and the last stay.
    fn fit(&mut self) {
        while self.pods.len() > 2 && serde_json::to_string(self).is_ok_and(|text| text.len() > MOST_BYTES) {
            let middle = self.pods.keys().nth(self.pods.len() / 2).cloned();
            middle.and_then(|pod| self.pods.remove(&pod));
        }
    }
}

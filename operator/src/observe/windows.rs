//! What the pods did, stretch by stretch, put together from their reports. It is memory only: an operator that starts anew
//! looks again, and until it has seen enough nothing is decided from it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use config::Status;
use jiff::Timestamp;

use super::NodePod;
use crate::analysis::{Cell, Tick, Window};

/// The stretches of all clusters.
#[derive(Debug, Default)]
pub struct Windows(Mutex<HashMap<String, Series>>);

/// Those of one cluster.
#[derive(Debug, Default)]
struct Series {
    last: Option<(Timestamp, BTreeMap<String, Seen>)>,
    ticks: VecDeque<Tick>,
}

/// A pod at the end of a stretch.
#[derive(Clone, Debug)]
struct Seen {
    uid: String,
    restarts: i32,
    report: Result<Status, String>,
}

/// The longest analysis and what came before it.
const MOST_TICKS: usize = 96;
/// Of a large cluster, pods with the lowest and with the highest ordinals are kept: peers and canaries.
const MOST_LOW: usize = 24;
const MOST_HIGH: usize = 24;
/// So many pods are in a stretch at most.
pub const MOST_PODS: usize = MOST_LOW + MOST_HIGH;
/// Clusters that are remembered at once; with more, all are looked at anew.
const MOST_CLUSTERS: usize = 4096;
/// A reconcile that comes a little early still ends a stretch: the next one may be a whole interval away.
const EARLY_MILLIS: i64 = 200;
/// After a pause this many times as long as an interval, what came before is no longer its beginning.
const GAP: i64 = 5;

impl Windows {
    /// Takes the pods' reports, and ends a stretch where one is over.
    ///
    /// # Returns
    /// All stretches that are known.
    pub fn take(&self, cluster: &str, pods: &[NodePod], interval_seconds: i64, now: Timestamp) -> Vec<Tick> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST_CLUSTERS && !all.contains_key(cluster) {
            all.clear();
        }
        let series = all.entry(cluster.to_owned()).or_default();
        series.take(&sample(pods), pods, interval_seconds, now);
        series.ticks.iter().cloned().collect()
    }

    /// Forgets a cluster that is gone.
    pub fn forget(&self, cluster: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(cluster);
    }
}

fn sample(pods: &[NodePod]) -> BTreeMap<String, Seen> {
    let high = pods.len().saturating_sub(MOST_HIGH);
    let kept = pods.iter().enumerate().filter(|(index, _)| *index < MOST_LOW || *index >= high);
    kept.map(|(_, pod)| {
        let report = match &pod.report {
            Some(report) => report.clone(),
            None if pod.terminating => Err("it is terminating".to_owned()),
            None => Err(format!("it does not run: {}", pod.trouble)),
        };
        (pod.name.clone(), Seen { uid: pod.uid.clone(), restarts: pod.restarts, report })
    })
    .collect()
}

impl Series {
    fn take(&mut self, seen: &BTreeMap<String, Seen>, pods: &[NodePod], interval_seconds: i64, now: Timestamp) {
        let Some((from, earlier)) = &self.last else {
            self.last = Some((now, seen.clone()));
            return;
        };
        let passed = now.as_millisecond() - from.as_millisecond();
        if passed + EARLY_MILLIS < interval_seconds * 1000 {
            return;
        }
        if passed <= GAP * interval_seconds * 1000 {
            let cells = pods.iter().filter_map(|pod| {
                let now = seen.get(&pod.name)?;
                Some((pod.name.clone(), cell(pod, earlier.get(&pod.name), now)))
            });
            self.ticks.push_back(Tick { from: *from, to: now, cells: cells.collect() });
            while self.ticks.len() > MOST_TICKS {
                self.ticks.pop_front();
            }
        }
        self.last = Some((now, seen.clone()));
    }
}

fn cell(pod: &NodePod, earlier: Option<&Seen>, now: &Seen) -> Cell {
    let window = match (earlier.filter(|earlier| earlier.uid == now.uid), &now.report) {
        (None, _) => Err("it is new".to_owned()),
        (_, Err(why)) => Err(why.clone()),
        (Some(earlier), Ok(later)) => match &earlier.report {
            Err(why) => Err(why.clone()),
            Ok(first) => {
                let restarts = u32::try_from(now.restarts - earlier.restarts).unwrap_or(0);
                Window::between(first, later)
                    .or_else(|| Window::between(&Status { uptime_seconds: 0, ..empty(later) }, later))
                    .map(|window| Window { restarts, ..window })
                    .ok_or_else(|| "it restarted".to_owned())
            }
        },
    };
    Cell { revision: pod.revision.clone(), image: pod.image.clone(), uid: pod.uid.clone(), window }
}

/// What a process reports when it has done nothing: one that was restarted has done all that it reports since.
fn empty(like: &Status) -> Status {
    Status {
        items: config::Items::default(),
        requests: config::Requests::default(),
        connections: config::Connections::default(),
        latencies: BTreeMap::new(),
        ..like.clone()
    }
}

#[cfg(test)]
mod tests {
    use jiff::{Timestamp, ToSpan};

    use super::{MOST_TICKS, Windows};
    use crate::observe::tests::{pod, report};

    const BEGIN: Timestamp = Timestamp::UNIX_EPOCH;

    #[test]
    fn a_stretch_ends_when_its_interval_is_over() {
        let windows = Windows::default();
        let mut node = pod(0, "one", true);
        for (second, requests, stretches) in [(0, 100, 0), (4, 180, 0), (10, 300, 1), (15, 400, 1), (20, 450, 2)] {
            node.report = Some(Ok(report(requests)));
            let ticks = windows.take("shop/demo", &[node.clone()], 10, BEGIN + second.seconds());
            assert_eq!(ticks.len(), stretches, "at {second} s");
        }
        let ticks = windows.take("shop/demo", &[node], 10, BEGIN + 21.seconds());
        let requests = |index: usize| ticks[index].cells["demo-0"].window.as_ref().unwrap().requests;
        assert_eq!((requests(0), requests(1)), (200, 150));
    }

    #[test]
    fn a_pod_that_was_replaced_or_does_not_answer_is_not_measured() {
        let windows = Windows::default();
        let mut node = pod(0, "one", true);
        node.report = Some(Ok(report(100)));
        windows.take("a", &[node.clone()], 10, BEGIN);
        let mut other = node.clone();
        other.uid = "another".to_owned();
        let ticks = windows.take("a", &[other.clone()], 10, BEGIN + 10.seconds());
        assert_eq!(ticks[0].cells["demo-0"].window, Err("it is new".to_owned()));
        other.report = Some(Err("no answer".to_owned()));
        let ticks = windows.take("a", &[other], 10, BEGIN + 20.seconds());
        assert_eq!(ticks[1].cells["demo-0"].window, Err("no answer".to_owned()));
    }

    #[test]
    fn a_container_that_restarted_has_done_what_it_reports_since() {
        let windows = Windows::default();
        let mut node = pod(0, "one", true);
        node.report = Some(Ok(report(1000)));
        windows.take("a", &[node.clone()], 10, BEGIN);
        node.report = Some(Ok(report(30)));
        node.restarts = 1;
        let ticks = windows.take("a", &[node], 10, BEGIN + 10.seconds());
        let window = ticks[0].cells["demo-0"].window.clone().unwrap();
        assert_eq!((window.requests, window.restarts), (30, 1));
    }

    #[test]
    fn old_stretches_are_forgotten_and_a_gap_is_none() {
        let windows = Windows::default();
        let mut node = pod(0, "one", true);
        node.report = Some(Ok(report(1)));
        for second in 0..i64::try_from(MOST_TICKS).unwrap() + 9 {
            windows.take("a", &[node.clone()], 1, BEGIN + second.seconds());
        }
        let late = BEGIN + 1000.seconds();
        let ticks = windows.take("a", &[node.clone()], 1, late);
        assert_eq!(ticks.len(), MOST_TICKS);
        assert!(ticks.iter().all(|tick| tick.to < late), "a stretch of minutes among those of seconds");
        windows.forget("a");
        assert_eq!(windows.take("a", &[node], 1, late + 1.seconds()).len(), 0);
    }
}

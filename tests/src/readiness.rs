//! How many pods of a cluster served at any time: watched, not sampled, so that no short dip is missed.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::runtime::watcher::{self, Event, watcher};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::cluster::serves;
use crate::scenario::Scenario;

/// A watch that runs until it is dropped.
pub struct Readiness {
    lowest: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Readiness {
    /// Watches the pods of a cluster from now on.
    pub async fn watch(scenario: &Scenario, cluster: &str) -> Readiness {
        let selector = format!("app.kubernetes.io/name=cache-node,app.kubernetes.io/instance={cluster}");
        let pods = scenario.all::<Pod>();
        let lowest = Arc::new(AtomicUsize::new(usize::MAX));
        let begun = Arc::new(Notify::new());
        let (seen, begin) = (Arc::clone(&lowest), Arc::clone(&begun));
        let task = tokio::spawn(async move {
            let mut events = pin!(watcher(pods, watcher::Config::default().labels(&selector)));
            let mut serving: BTreeMap<String, bool> = BTreeMap::new();
            while let Some(event) = events.next().await {
                match event {
                    Ok(Event::Init) => serving.clear(),
                    Ok(Event::InitApply(pod)) => _ = serving.insert(pod.uid().unwrap_or_default(), serves(&pod)),
                    Ok(Event::InitDone) => {
                        note(&seen, &serving);
                        begin.notify_one();
                    }
                    Ok(Event::Apply(pod)) => {
                        serving.insert(pod.uid().unwrap_or_default(), serves(&pod));
                        note(&seen, &serving);
                    }
                    Ok(Event::Delete(pod)) => {
                        serving.remove(&pod.uid().unwrap_or_default());
                        note(&seen, &serving);
                    }
                    // The watcher starts again by itself, with a new list.
                    Err(error) => eprintln!("the watch on the pods is interrupted: {error}"),
                }
            }
        });
        begun.notified().await;
        Readiness { lowest, task }
    }

    /// The fewest pods that served at the same time since the watch began.
    #[must_use]
    pub fn lowest(&self) -> usize {
        self.lowest.load(Ordering::Relaxed)
    }
}

fn note(lowest: &AtomicUsize, serving: &BTreeMap<String, bool>) {
    lowest.fetch_min(serving.values().filter(|serves| **serves).count(), Ordering::Relaxed);
}

impl Drop for Readiness {
    fn drop(&mut self) {
        self.task.abort();
    }
}

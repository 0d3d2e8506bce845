//! A cluster whose changes go by canaries, small and fast enough for a test: looks of a few seconds, a load that warms a node up
//! in as many.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use gannet_crds::RolloutStatus;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::bed::{self, Tool, cache_folder};
use crate::cluster::{small, with};
use crate::ensure;
use crate::failure::{Failure, Outcome};
use crate::load::Load;
use crate::scenario::{SERVING, Scenario, until};

/// A rollout from its beginning to its end, on a machine that others use too.
pub const ROLLOUT: Duration = Duration::from_secs(SERVING.as_secs() * 2);

/// The image of the node with faults, which `tests/run cluster` builds.
pub const MISBEHAVING: &str = "docker.io/gannet/cache-node:misbehaving";
const MISBEHAVING_ARCHIVE: &str = "cache-node-misbehaving.tar";

/// Requests a second to each node: enough for a look of a few seconds to say something.
const RATE: u32 = 250;

/// A cluster of so many nodes that is changed by canaries.
#[must_use]
pub fn by_canary(replicas: u32) -> Value {
    let analysis = json!({"warmup": "8s", "interval": "3s", "count": 5, "minRequests": 100,
        "failureLimit": 1, "inconclusiveLimit": 3, "consecutiveErrorLimit": 3});
    let metric =
        |name: &str, compare: &str, limit: &str, value: &str| json!({"name": name, "compare": compare, limit: value});
    let rollout = json!({
        "strategy": "Canary",
        "progressDeadline": "240s",
        "steps": [{"type": "SetPods", "pods": 1}, {"type": "Analysis", "analysis": analysis}],
        "metrics": [
            metric("errorRatio", "Difference", "max", "0.005"),
            metric("p50Latency", "Ratio", "max", "4"),
            metric("hitRatio", "Difference", "min", "-0.03"),
            metric("anonymousMemory", "Ratio", "max", "1.15"),
            metric("restarts", "Difference", "max", "0"),
        ],
    });
    with(small(replicas), json!({"tls": {"mode": "Disabled"}, "rollout": rollout}))
}

/// The same, as a change: another version that is no different.
#[must_use]
pub fn identical(number: u32) -> Value {
    json!({"podTemplate": {"annotations": {"version": number.to_string()}}})
}

/// A change to the node with faults, with this one.
#[must_use]
pub fn faulty(idle_timeout: &str) -> Value {
    json!({"image": MISBEHAVING, "node": {"idleTimeout": idle_timeout}})
}

/// Gives the bed's nodes the image with the faults, once for all tests of this program.
///
/// # Errors
/// Where it was not built.
pub async fn load_misbehaving() -> Outcome {
    static LOADED: OnceCell<()> = OnceCell::const_new();
    let folder = env::var_os("GANNET_IMAGES").map_or_else(|| cache_folder().join("images"), PathBuf::from);
    let archive = folder.join(MISBEHAVING_ARCHIVE);
    ensure!(archive.is_file(), "{} was not built: `tests/run cluster` does", archive.display());
    let load = async || bed::run(Tool::LoadImage, &[&archive.display().to_string()]).await.map(|_| ());
    LOADED.get_or_try_init(load).await.map(|_| ())
}

/// Loads the nodes as an application does that stores what it misses.
///
/// # Errors
/// Where the load generator was not built, or a node's name stays unknown.
pub async fn load(s: &Scenario, replicas: u32) -> Outcome<Load> {
    let addresses = s.addresses("demo", usize::try_from(replicas)?);
    let rate = (RATE * replicas).to_string();
    Load::plain(&addresses, &["--rate", &rate, "--set-on-miss", "--keys", "600", "--popularity", "zipf:0.9"]).await
}

impl Scenario {
    /// The rollout, as the status tells it.
    ///
    /// # Errors
    /// Where the API server does not answer, or nothing was reported yet about the spec as it is.
    pub async fn rollout(&self) -> Outcome<RolloutStatus> {
        let cluster = self.clusters().get("demo").await?;
        crate::cluster::is_observed(&cluster)?;
        cluster.status.and_then(|status| status.rollout).ok_or_else(|| Failure::new("no rollout is reported"))
    }

    /// Waits until the rollout of what is declared now is in this phase.
    ///
    /// # Errors
    /// After [`ROLLOUT`], saying where it is instead.
    pub async fn reaches(&self, phase: &str) -> Outcome<RolloutStatus> {
        until(&format!("the rollout to be {phase}"), ROLLOUT, || async {
            let rollout = self.rollout().await?;
            let is_there = rollout.phase == phase;
            ensure!(is_there, "{} at step {}: {} {:?}", rollout.phase, rollout.step, rollout.message, rollout.metrics);
            Ok(rollout)
        })
        .await
    }

    /// Changes the cluster, and waits until the change is stable on all nodes.
    ///
    /// # Errors
    /// After [`ROLLOUT`], saying where it is instead.
    pub async fn promoted(&self, from: &str) -> Outcome<RolloutStatus> {
        until("the rollout to be promoted", ROLLOUT, || async {
            let rollout = self.rollout().await?;
            let is_stable = rollout.phase == "Stable" && rollout.stable_revision == rollout.revision;
            ensure!(is_stable, "{} at step {}: {} {:?}", rollout.phase, rollout.step, rollout.message, rollout.metrics);
            ensure!(rollout.revision != from, "still {from}");
            Ok(rollout)
        })
        .await
    }

    /// Waits until every node serves and is of this revision.
    ///
    /// # Errors
    /// After [`SERVING`], saying which is not.
    pub async fn all_are_of(&self, revision: &str) -> Outcome {
        until(&format!("all nodes to be of {revision}"), SERVING, || async {
            let status = self.clusters().get("demo").await?.status.unwrap_or_default();
            let other = status.pods.iter().find(|pod| !pod.ready || pod.revision != revision);
            ensure!(other.is_none(), "{other:?}");
            Ok(())
        })
        .await
    }

    /// Asks by hand, as `kubectl gannet` does.
    ///
    /// # Errors
    /// Where the API server refuses it.
    pub async fn ask(&self, action: &str, revision: &str) -> Outcome {
        let annotation = format!("gannet.dev/rollout={action}@{revision}");
        self.kubectl(&["annotate", "ccl", "demo", "--overwrite", &annotation]).await.map(|_| ())
    }
}

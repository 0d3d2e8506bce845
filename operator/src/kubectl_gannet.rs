//! The kubectl plugin: `kubectl gannet certs NAME` prints who holds which certificate, until when, and what is really served and
//! seen; `kubectl gannet status NAME` shows a rollout, and `promote`, `abort`, `pause`, `resume` and `retry` decide by hand.

mod rollout_view;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use gannet_crds::{CacheCluster, CacheClusterStatus, condition};
use kube::api::{Patch, PatchParams};
use kube::config::KubeConfigOptions;
use kube::{Api, Client, Config};

/// Looks at CacheClusters.
#[derive(Parser)]
#[command(name = "kubectl-gannet", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,

    /// The namespace; the kubeconfig's where none is given.
    #[arg(short, long, global = true)]
    namespace: Option<String>,

    /// The context of the kubeconfig.
    #[arg(long, global = true)]
    context: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Prints the certificates of a cluster.
    Certs {
        /// The CacheCluster's name.
        name: String,
    },
    /// Shows a rollout: its steps, its pods, and what its analysis found.
    Status {
        /// The CacheCluster's name.
        name: String,
        /// Shows it again whenever something has changed, until it has come to its end or waits for a hand.
        #[arg(short, long)]
        watch: bool,
    },
    /// Goes on with the next step, whatever this one waits for.
    Promote(Target),
    /// Rejects what is being rolled out: all pods go back.
    Abort(Target),
    /// Holds a rollout where it is.
    Pause(Target),
    /// Goes on with a rollout that stands still; its analysis begins again.
    Resume(Target),
    /// Tries a rejected revision again.
    Retry(Target),
}

/// What an action is about.
#[derive(clap::Args)]
struct Target {
    /// The CacheCluster's name.
    name: String,
    /// The revision; the one that is declared where none is given.
    #[arg(long)]
    revision: Option<String>,
}

/// Something that kept it from answering.
#[derive(Debug, thiserror::Error)]
enum PluginError {
    #[error("no Kubernetes cluster: {0}")]
    Config(#[from] kube::config::KubeconfigError),
    #[error("no Kubernetes cluster: {0}")]
    Client(#[source] kube::Error),
    #[error("CacheCluster {name}: {source}")]
    Read {
        name: String,
        #[source]
        source: kube::Error,
    },
    #[error("no threads to run on: {0}")]
    Runtime(#[from] std::io::Error),
    #[error("CacheCluster {name} cannot be asked to {action}: {source}")]
    Ask {
        name: String,
        action: &'static str,
        #[source]
        source: kube::Error,
    },
    #[error("CacheCluster {0} has not reported any rollout yet: is the operator running?")]
    NoRollout(String),
}

/// How often a rollout is looked at that is watched.
const LOOK: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<String, PluginError> {
    let Arguments { command, namespace, context } = arguments;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
        let config = Config::from_kubeconfig(&options).await?;
        let namespace = namespace.unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(PluginError::Client)?;
        let clusters: Api<CacheCluster> = Api::namespaced(client, &namespace);
        match command {
            Command::Certs { name } => Ok(certificates(&name, &read(&clusters, &name).await?)),
            Command::Status { name, watch: false } => Ok(rollout_view::draw(&name, &read(&clusters, &name).await?)),
            Command::Status { name, watch: true } => watch(&clusters, &name).await,
            Command::Promote(target) => ask(&clusters, "promote", target).await,
            Command::Abort(target) => ask(&clusters, "abort", target).await,
            Command::Pause(target) => ask(&clusters, "pause", target).await,
            Command::Resume(target) => ask(&clusters, "resume", target).await,
            Command::Retry(target) => ask(&clusters, "retry", target).await,
        }
    })
}

async fn read(clusters: &Api<CacheCluster>, name: &str) -> Result<CacheClusterStatus, PluginError> {
    let cluster = clusters.get(name).await.map_err(|source| PluginError::Read { name: name.to_owned(), source })?;
    Ok(cluster.status.unwrap_or_default())
}

/// Draws what changed, one picture below the other, so that a terminal's history tells the whole story.
async fn watch(clusters: &Api<CacheCluster>, name: &str) -> Result<String, PluginError> {
    let mut last = String::new();
    loop {
        let status = read(clusters, name).await?;
        let picture = rollout_view::draw(name, &status);
        let phase = status.rollout.as_ref().map(|rollout| rollout.phase.as_str());
        let stalled = status.conditions.iter().any(|found| found.type_ == condition::STALLED && found.status == "True");
        if matches!(phase, Some("Stable" | "Rejected")) || stalled {
            return Ok(picture);
        }
        if picture != last {
            println!("{picture}");
            last = picture;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Asks by the annotation that the operator looks for.
async fn ask(clusters: &Api<CacheCluster>, action: &'static str, target: Target) -> Result<String, PluginError> {
    let Target { name, revision } = target;
    let revision = match revision {
        Some(revision) => revision,
        None => {
            let rollout = read(clusters, &name).await?.rollout;
            rollout.map(|rollout| rollout.revision).ok_or_else(|| PluginError::NoRollout(name.clone()))?
        }
    };
    // The same may be asked for twice: what comes after the slash tells one time from the other.
    let asked = format!("{action}@{revision}/{}", jiff::Timestamp::now().as_second());
    let patch = serde_json::json!({"metadata": {"annotations": {"gannet.dev/rollout": asked}}});
    let patched = clusters.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
    patched.map_err(|source| PluginError::Ask { name: name.clone(), action, source })?;
    Ok(format!("{name}: asked to {action} {revision}\n"))
}

/// The certificates of a cluster, for people.
fn certificates(name: &str, status: &CacheClusterStatus) -> String {
    let ready = status.conditions.iter().find(|condition| condition.type_ == condition::TLS_READY);
    let ready = ready.map_or_else(
        || "TLSReady is not reported yet".to_owned(),
        |ready| format!("TLSReady={} {}: {}", ready.status, ready.reason, ready.message),
    );
    let Some(tls) = &status.tls else { return format!("{name}: {ready}\n") };
    let mut rows = vec![["HOLDER", "CERTIFICATE", "UNTIL", "STATE"].map(str::to_owned)];
    let trusted = format!("{} ({} trusted)", tls.phase, tls.trusted_cas);
    rows.push(["ca".to_owned(), tls.ca_serial.clone(), tls.ca_not_after.clone(), trusted]);
    for pod in &status.pods {
        let (serial, until, state) = match &pod.certificate {
            Some(served) => (served.serial.clone(), served.not_after.clone(), "served".to_owned()),
            None => (String::new(), String::new(), pod.reason.clone()),
        };
        rows.push([format!("pod/{}", pod.name), serial, until, state]);
    }
    for client in &tls.clients {
        let state = format!("in Secret {}; seen: {}", client.secret_name, client.seen);
        rows.push([format!("client/{}", client.name), client.serial.clone(), client.not_after.clone(), state]);
    }
    let mut text = table(&rows);
    text.push_str(&format!("{ready}\n"));
    for waits in &tls.waits_for {
        text.push_str(&format!("waits for {waits}\n"));
    }
    text
}

fn table(rows: &[[String; 4]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2)];
    rows.iter()
        .map(|[holder, serial, until, state]| {
            format!("{holder:0$}  {serial:1$}  {until:2$}  {state}\n", widths[0], widths[1], widths[2])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use gannet_crds::CacheClusterStatus;
    use serde_json::json;

    use super::certificates;

    #[test]
    fn who_holds_what_is_told() {
        let status: CacheClusterStatus = serde_json::from_value(json!({
            "conditions": [{
                "type": "TLSReady", "status": "True", "reason": "DistributingBundle", "message": "the CA is being replaced",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }],
            "tls": {
                "phase": "DistributingBundle", "waitsFor": ["client web"], "caSerial": "c0ffee",
                "caNotAfter": "2026-02-01T00:00:00Z", "trustedCas": 2,
                "clients": [{"name": "web", "secretName": "cache-web", "serial": "1a", "notAfter": "x", "seen": "Older"}],
            },
            "pods": [
                {"name": "demo-0", "certificate": {"serial": "2b", "notAfter": "y"}},
                {"name": "demo-1", "reason": "not ready yet"},
            ],
        }))
        .unwrap();
        let text = certificates("demo", &status);
        for words in [
            "ca          c0ffee",
            "DistributingBundle (2 trusted)",
            "pod/demo-0  2b",
            "not ready yet",
            "client/web  1a",
            "in Secret cache-web; seen: Older",
            "TLSReady=True DistributingBundle: the CA is being replaced",
            "waits for client web",
        ] {
            assert!(text.contains(words), "{words} is not in\n{text}");
        }
        assert!(certificates("demo", &CacheClusterStatus::default()).contains("not reported yet"));
    }
}

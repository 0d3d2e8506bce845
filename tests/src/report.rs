//! What a failed scenario looked like: printed with the failure, because the namespace is deleted after it.

use std::fmt::{Display, Write as _};

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt;
use kube::api::{ListParams, LogParams};

use crate::failure::Outcome;
use crate::scenario::Scenario;

const EVENTS: usize = 40;
const LOG_LINES: i64 = 60;

/// The CacheClusters' conditions, StatefulSets, pods, events and the operators' last words.
pub async fn of(scenario: &Scenario) -> String {
    let mut text = format!("--- namespace {}\n", scenario.namespace);
    append(&mut text, "cacheclusters", clusters(scenario).await);
    append(&mut text, "statefulsets", stateful_sets(scenario).await);
    append(&mut text, "pods", pods(scenario).await);
    append(&mut text, "events", events(scenario).await);
    append(&mut text, "operator", operator_logs(scenario).await);
    text
}

fn append(text: &mut String, title: &str, part: Outcome<String>) {
    let part = part.unwrap_or_else(|failure| format!("cannot be told: {failure}\n"));
    text.push_str(&format!("--- {title}\n{part}"));
}

/// What it is where it is there, and nothing otherwise.
fn shown<T: Display>(value: Option<T>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

async fn clusters(scenario: &Scenario) -> Outcome<String> {
    let mut text = String::new();
    for cluster in scenario.clusters().list(&ListParams::default()).await? {
        let generation = shown(cluster.metadata.generation);
        let Some(status) = &cluster.status else {
            writeln!(text, "{} generation {generation}, no status", cluster.name_any())?;
            continue;
        };
        let observed = shown(status.observed_generation);
        writeln!(
            text,
            "{} generation {generation}, observed {observed}, ready {}, updated {}, revision {}",
            cluster.name_any(),
            status.ready,
            status.updated_replicas,
            status.revision
        )?;
        for condition in &status.conditions {
            writeln!(text, "  {}={} {}: {}", condition.type_, condition.status, condition.reason, condition.message)?;
        }
        for pod in &status.pods {
            writeln!(text, "  {} ready {} {} {} {}", pod.name, pod.ready, pod.host, pod.revision, pod.reason)?;
        }
    }
    Ok(text)
}

async fn stateful_sets(scenario: &Scenario) -> Outcome<String> {
    let mut text = String::new();
    for set in scenario.all::<StatefulSet>().list(&ListParams::default()).await? {
        let name = set.name_any();
        let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
        writeln!(
            text,
            "{name} replicas {} strategy {} status {}",
            shown(set.spec.as_ref().and_then(|spec| spec.replicas)),
            serde_json::to_string(&strategy)?,
            serde_json::to_string(&set.status)?
        )?;
    }
    Ok(text)
}

async fn pods(scenario: &Scenario) -> Outcome<String> {
    let mut text = String::new();
    for pod in scenario.all::<Pod>().list(&ListParams::default()).await? {
        let status = pod.status.clone().unwrap_or_default();
        let ending = if pod.metadata.deletion_timestamp.is_some() { " ending" } else { "" };
        let host = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        writeln!(text, "{} {} on {}{ending}", pod.name_any(), shown(status.phase), shown(host))?;
        for container in status.container_statuses.unwrap_or_default() {
            let state = serde_json::to_string(&container.state)?;
            let last = serde_json::to_string(&container.last_state)?;
            writeln!(text, "  ready {} restarts {} {state} {last}", container.ready, container.restart_count)?;
        }
    }
    Ok(text)
}

async fn events(scenario: &Scenario) -> Outcome<String> {
    let mut events = scenario.all::<Event>().list(&ListParams::default()).await?.items;
    events.sort_by_key(|event| event.metadata.creation_timestamp.clone());
    let mut text = String::new();
    for event in events.iter().skip(events.len().saturating_sub(EVENTS)) {
        let regarding = event.regarding.clone().unwrap_or_default();
        writeln!(
            text,
            "{} {} {}/{} {}: {}",
            shown(event.metadata.creation_timestamp.as_ref().map(|time| time.0)),
            shown(event.type_.as_ref()),
            shown(regarding.kind),
            shown(regarding.name),
            shown(event.reason.as_ref()),
            shown(event.note.as_ref()).trim_end()
        )?;
    }
    Ok(text)
}

/// Of every pod that is not a cache-node, and of the container before the last restart, if there was one.
async fn operator_logs(scenario: &Scenario) -> Outcome<String> {
    let pods = scenario.all::<Pod>();
    let mut text = String::new();
    for pod in pods.list(&ListParams::default().labels("app.kubernetes.io/name!=cache-node")).await? {
        let name = pod.name_any();
        for previous in [true, false] {
            let parameters = LogParams { previous, tail_lines: Some(LOG_LINES), ..LogParams::default() };
            match pods.logs(&name, &parameters).await {
                Ok(log) => writeln!(text, "{name}{}:\n{log}", if previous { " before its restart" } else { "" })?,
                // There is no earlier container where nothing was restarted.
                Err(_) if previous => {}
                Err(error) => writeln!(text, "{name}: {error}")?,
            }
        }
    }
    Ok(text)
}

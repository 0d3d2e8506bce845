//! Watches, and the reconcile pipeline: observe, parse, decide, build, apply, report.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use gannet_crds::{CacheCluster, CacheClusterStatus};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Patch, PatchParams};
use kube::core::{DeserializeGuard, NamespaceResourceScope};
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::{Predicate, PredicateConfig, WatchStreamExt, predicates, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use crate::admin_authority::{AdminAuthority, AdminAuthorityError};
use crate::apply::{self, ApplyError, FIELD_MANAGER};
use crate::certify::{self, Certification, CertifyError};
use crate::cluster::{Cluster, InvalidSpec};
use crate::desired;
use crate::desired::labels::MANAGED_BY;
use crate::metrics::Metrics;
use crate::observe::windows::Windows;
use crate::observe::{self, Asker, Gate, Looks, ObserveError, Observed};
use crate::report::{self, Outcome, Report};
use crate::revision::{Defaults, RevisionError};
use crate::rollout::policy::Policy;
use crate::rollout::{self, Decision, Progress, in_place};
use crate::rotation::Phase;
use crate::storage;
use crate::tls::Tls;

/// CacheClusters that are reconciled at once.
const CONCURRENCY: u16 = 8;
/// Changes that come this close together are one reconcile.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// How soon a cluster is looked at again though nothing was seen to change: while it is on its way, while it serves,
/// and where it has no pods that could tell anything new.
const AGAIN_UNDERWAY: Duration = Duration::from_secs(5);
const AGAIN_SERVING: Duration = Duration::from_secs(30);
const AGAIN_EMPTY: Duration = Duration::from_secs(300);
/// While a certificate is on its way to a pod.
const AGAIN_CERTIFYING: Duration = Duration::from_secs(1);
/// While a pod changes in place: nobody says when it is out of the endpoints.
const AGAIN_MOVING: Duration = Duration::from_secs(1);
/// A Secret was written: what is next follows from what is stored now.
const AGAIN_AT_ONCE: Duration = Duration::from_millis(100);
/// A pod whose mounts are behind is touched again after so many seconds: the kubelet's own copy of a Secret may be older than
/// the touch.
const TOUCH_AGAIN_SECONDS: i64 = 5;
/// After a failure: doubled with every further one, up to the last.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_LAST: Duration = Duration::from_secs(300);

/// A resource that may be unreadable: one bad object must not end the watch of all others.
type Guarded = DeserializeGuard<CacheCluster>;

/// What every reconcile works with.
pub struct Context {
    client: Client,
    defaults: Defaults,
    metrics: Metrics,
    admin: AdminAuthority,
    looks: Looks,
    windows: Windows,
    reporter: Reporter,
    /// Failures in a row, by object: each backs off by itself.
    failures: Mutex<HashMap<String, u32>>,
}

/// A reconcile that did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    #[error(transparent)]
    Observe(#[from] ObserveError),
    #[error(transparent)]
    Revision(#[from] RevisionError),
    #[error(transparent)]
    Apply(#[from] ApplyError),
    #[error(transparent)]
    Certify(#[from] CertifyError),
    #[error(transparent)]
    AdminAuthority(#[from] AdminAuthorityError),
    #[error("cannot write the status: {0}")]
    Status(#[source] kube::Error),
}

impl Context {
    pub fn new(client: Client, defaults: Defaults, metrics: Metrics, admin: AdminAuthority, identity: &str) -> Context {
        let reporter = Reporter { controller: MANAGED_BY.to_owned(), instance: Some(identity.to_owned()) };
        let (looks, windows) = (Looks::default(), Windows::default());
        Context { client, defaults, metrics, admin, looks, windows, reporter, failures: Mutex::default() }
    }
}

/// Watches the given namespaces, all where there are none, and reconciles until `stop` says so. Reconciles that have
/// begun then end first.
pub async fn run(context: Arc<Context>, namespaces: &[String], stop: watch::Receiver<bool>) {
    let scopes: Vec<Option<&str>> =
        if namespaces.is_empty() { vec![None] } else { namespaces.iter().map(|name| Some(name.as_str())).collect() };
    join_all(scopes.into_iter().map(|scope| watch_scope(context.clone(), scope, stop.clone()))).await;
}

/// Ends when the operator is asked to end, or when nobody is left who could ask.
async fn asked_to_stop(mut stop: watch::Receiver<bool>) {
    let _asked = stop.wait_for(|stop| *stop).await.is_ok();
}

fn api<K>(client: &Client, scope: Option<&str>) -> Api<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
{
    scope.map_or_else(|| Api::all(client.clone()), |namespace| Api::namespaced(client.clone(), namespace))
}

async fn watch_scope(context: Arc<Context>, scope: Option<&str>, stop: watch::Receiver<bool>) {
    let client = &context.client;
    let ours = watcher::Config::default().labels(&format!("app.kubernetes.io/managed-by={MANAGED_BY}"));
    let (reader, writer) = reflector::store::<Guarded>();
    // Our own status writes are no news: without the filter every report would ask for the next one.
    let declared = watcher(api::<Guarded>(client, scope), watcher::Config::default())
        .default_backoff()
        .reflect(writer)
        .applied_objects()
        .predicate_filter(predicates::generation.combine(predicates::annotations), PredicateConfig::default());
    let known = reader.clone();
    let clusters = context.metrics.clusters.clone();
    let controller = Controller::for_stream(declared, reader)
        .owns(api::<StatefulSet>(client, scope), ours.clone())
        .owns(api::<Service>(client, scope), ours.clone())
        .owns(api::<ConfigMap>(client, scope), ours.clone())
        .owns(api::<ServiceAccount>(client, scope), ours.clone())
        .owns(api::<PodDisruptionBudget>(client, scope), ours.clone())
        .owns(api::<ControllerRevision>(client, scope), ours.clone())
        .watches(api::<Pod>(client, scope), ours, |pod| cluster_of(&pod))
        .with_config(Config::default().concurrency(CONCURRENCY).debounce(DEBOUNCE))
        .graceful_shutdown_on(asked_to_stop(stop));
    controller
        .run(reconcile_or_fail, error_policy, context)
        .for_each(|result| {
            clusters.set(i64::try_from(known.state().len()).unwrap_or(i64::MAX));
            if let Err(error) = result {
                // Failures of a reconcile are told where they happen; this is the watch's own, which goes on.
                debug!(%error, "reconcile or watch failed");
            }
            std::future::ready(())
        })
        .await;
}

/// The pods belong to the StatefulSet; their label says which cluster that is of.
fn cluster_of(pod: &Pod) -> Option<ObjectRef<Guarded>> {
    let name = pod.labels().get("app.kubernetes.io/instance")?;
    Some(ObjectRef::new(name).within(&pod.namespace()?))
}

async fn reconcile_or_fail(resource: Arc<Guarded>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let timer = context.metrics.seconds.start_timer();
    let result = match &resource.0 {
        Ok(cluster) => reconcile(cluster, &context).await,
        Err(invalid) => Ok(unreadable(invalid)),
    };
    timer.observe_duration();
    match result {
        Ok(action) => {
            forget_failures(&context, &key(&*resource));
            context.metrics.reconciles.with_label_values(&["ok"]).inc();
            Ok(action)
        }
        Err(error) => {
            context.metrics.reconciles.with_label_values(&["error"]).inc();
            Err(error)
        }
    }
}

/// One reconcile: the table of contents of this program.
async fn reconcile(resource: &CacheCluster, context: &Context) -> Result<Action, ReconcileError> {
    if resource.metadata.deletion_timestamp.is_some() {
        // Whatever was made for it has it as its owner and goes with it.
        context.windows.forget(&key(resource));
        return Ok(Action::await_change());
    }
    let now = Timestamp::now();
    let tls = Tls::parse(resource, &context.defaults.cluster_domain);
    let speaker = context.admin.speaker(now)?;
    let asker = Asker { admin: &speaker, looks: &context.looks, now };
    let mut observed = observe::observe(&context.client, resource, tls.as_ref().ok(), &asker).await?;
    let interval = look(context, resource, &mut observed, now);
    let namespace = resource.namespace().unwrap_or_default();
    let joined = apply::moves::moves(&context.client, &namespace, &in_place::newcomers(&observed)).await;
    let certified = match &tls {
        // Before all else, and whatever else is wrong or paused: a certificate that ends is an outage.
        Ok(tls) => match certify(context, resource, tls, &observed, now).await? {
            Some(certification) => Ok(certification),
            None => return Ok(Action::requeue(AGAIN_AT_ONCE)),
        },
        Err(invalid) => Err(invalid.clone()),
    };
    // Told only now: a pod that cannot be written to must not hold certificates up, nor they it.
    joined?;
    let tell = async |outcome: Outcome<'_>, again: Duration| {
        let again = again_for(&certified).min(again);
        tell(context, resource, &observed, outcome, &certified, again).await
    };
    let settled = storage::settled(resource, &observed).and_then(|resource| Cluster::parse(&resource));
    let cluster = match settled.and_then(|cluster| tls.map(|_| cluster)) {
        Ok(cluster) => cluster,
        Err(invalid) => {
            context.metrics.reconciles.with_label_values(&["invalid"]).inc();
            return tell(Outcome::Invalid(&invalid), AGAIN_SERVING).await;
        }
    };
    if !observed.foreign.is_empty() {
        return tell(Outcome::Conflict(&observed.foreign), AGAIN_SERVING).await;
    }
    let step = match rollout::decide(&cluster, &observed, &context.defaults, now)? {
        Decision::Step(step) => step,
        Decision::NothingYet => return tell(Outcome::NothingYet, AGAIN_EMPTY).await,
    };
    let desired = desired::build(&cluster, &step, &observed);
    let applied = match apply::apply(&context.client, &cluster, desired, &observed).await {
        Ok(applied) => applied,
        Err(ApplyError::NameTaken { what }) => return tell(Outcome::Conflict(&[what]), AGAIN_SERVING).await,
        Err(error) => {
            let message = error.to_string();
            tell(Outcome::Failed(&message), BACKOFF_FIRST).await?;
            return Err(error.into());
        }
    };
    for (action, count) in applied.counts() {
        context.metrics.writes.with_label_values(&[action]).inc_by(u64::try_from(count).unwrap_or(0));
    }
    let again = match step.progress {
        // One decision often leads to the next.
        _ if !step.notes.is_empty() => AGAIN_AT_ONCE,
        _ if observed.pods.iter().any(|pod| pod.gate == Gate::Closed) || !step.moves.is_empty() => AGAIN_MOVING,
        Progress::Complete | Progress::Held { .. } if step.replicas == 0 && observed.pods.is_empty() => AGAIN_EMPTY,
        Progress::Complete | Progress::Held { .. } if observed.pods.iter().all(|pod| pod.ready) => AGAIN_SERVING,
        _ => AGAIN_UNDERWAY,
    };
    let again = interval.map_or(again, |interval| interval.min(again));
    tell(Outcome::Stepped { cluster: &cluster, step: &step, applied: &applied }, again).await
}

/// Issues what is due, writes it, and has mounts refreshed that are behind.
///
/// # Returns
/// `None` where certificates changed, so that everything else follows from what is stored now.
async fn certify(
    context: &Context,
    resource: &CacheCluster,
    tls: &Tls,
    observed: &Observed,
    now: Timestamp,
) -> Result<Option<Certification>, ReconcileError> {
    let namespace = &tls.names.namespace;
    let Some(owner) = resource.controller_owner_ref(&()) else { return Ok(None) };
    // Where something of somebody else's has a name of ours, nothing is begun, and the report says so; but what serves goes
    // on being renewed, unless it is the Secret itself that is theirs.
    let is_blocked = |what: &String| observed.pods.is_empty() || what.starts_with("Secret ");
    if observed.foreign.iter().any(is_blocked) {
        return Ok(Some(Certification::default()));
    }
    let certification = certify::certify(tls, observed, &context.admin.authority, &owner, now.as_second())?;
    if let Some(known) = &observed.secrets.issued.certificates {
        apply::certificates(&context.client, namespace, &certification.asked, known, now).await?;
    }
    let now = now.as_second();
    let written = match apply::secrets(&context.client, namespace, &certification.writes).await {
        Ok(written) => written,
        Err(ApplyError::Changed { what }) => {
            debug!(what, "changed meanwhile: looking again");
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    if !written.is_empty() {
        context.metrics.writes.with_label_values(&["secret"]).inc_by(u64::try_from(written.len()).unwrap_or(0));
        info!(cluster = key(resource), ?written, phase = ?certification.plan.as_ref().map(|plan| plan.phase), "certificates");
    }
    if certification.look_again {
        return Ok(None);
    }
    let behind = observed.pods.iter().filter(|pod| certification.stale.contains(&pod.name) && !pod.terminating);
    for pod in behind.filter(|pod| pod.touched + TOUCH_AGAIN_SECONDS <= now) {
        apply::touch(&context.client, namespace, pod, now).await?;
    }
    Ok(Some(certification))
}

fn again_for(certified: &Result<Certification, InvalidSpec>) -> Duration {
    let Ok(certification) = certified else { return AGAIN_SERVING };
    let under_way = certification.plan.as_ref().is_some_and(|plan| plan.phase != Phase::Current)
        || certification.trouble.is_some()
        || !certification.asked.renewals.is_empty();
    // Others issue when they think it right, and nobody says so.
    let by_others = certification.given.is_some() || !certification.asked.certificates.is_empty();
    if !certification.writes.is_empty() {
        AGAIN_AT_ONCE
    } else if !certification.stale.is_empty() {
        AGAIN_CERTIFYING
    } else if under_way {
        AGAIN_UNDERWAY
    } else if by_others {
        AGAIN_SERVING
    } else {
        AGAIN_EMPTY
    }
}

/// Writes the status where it differs, and the events.
async fn tell(
    context: &Context,
    resource: &CacheCluster,
    observed: &Observed,
    outcome: Outcome<'_>,
    certified: &Result<Certification, InvalidSpec>,
    again: Duration,
) -> Result<Action, ReconcileError> {
    let namespace = resource.namespace().unwrap_or_default();
    let api: Api<CacheCluster> = Api::namespaced(context.client.clone(), &namespace);
    // The watch filters status changes, so the cached one may be old: transitions are told from the stored one.
    let Some(current) = api.get_opt(&resource.name_any()).await.map_err(ReconcileError::Status)? else {
        return Ok(Action::await_change());
    };
    let resource = CacheCluster { status: current.status, ..resource.clone() };
    let Report { status, events } = report::report(&resource, observed, outcome, certified, Timestamp::now());
    if resource.status.as_ref() != Some(&status) {
        write_status(&api, &resource, status).await?;
    }
    // A recorder keeps one text for all events of one reason; each of ours says something of its own.
    let recorder = Recorder::new(context.client.clone(), context.reporter.clone());
    for event in events {
        if let Err(error) = recorder.publish(&event, &resource.object_ref(&())).await {
            warn!(%error, cluster = key(&resource), reason = event.reason, "an event could not be written");
        }
    }
    Ok(Action::requeue(spread(again, &key(&resource))))
}

async fn write_status(
    api: &Api<CacheCluster>,
    resource: &CacheCluster,
    status: CacheClusterStatus,
) -> Result<(), ReconcileError> {
    let patch = json!({
        "apiVersion": CacheCluster::api_version(&()),
        "kind": CacheCluster::kind(&()),
        "status": status,
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    match api.patch_status(&resource.name_any(), &params, &Patch::Apply(patch)).await {
        Ok(_) => Ok(()),
        // Deleted meanwhile.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(source) => Err(ReconcileError::Status(source)),
    }
}

/// The API server holds what the schema allows, so this takes a schema that is newer than the operator.
fn unreadable(invalid: &kube::core::error_boundary::InvalidObject) -> Action {
    let metadata = &invalid.metadata;
    error!(
        name = metadata.name,
        namespace = metadata.namespace,
        error = invalid.error,
        "a CacheCluster cannot be read and is left alone; is the CRD newer than this operator?"
    );
    Action::requeue(BACKOFF_LAST)
}

fn error_policy(resource: Arc<Guarded>, error: &ReconcileError, context: Arc<Context>) -> Action {
    let key = key(&*resource);
    let mut failures = context.failures.lock().unwrap_or_else(PoisonError::into_inner);
    let count = failures.entry(key.clone()).or_default();
    let delay = BACKOFF_FIRST.saturating_mul(1_u32.checked_shl(*count).unwrap_or(u32::MAX)).min(BACKOFF_LAST);
    *count = count.saturating_add(1);
    warn!(%error, cluster = key, failures = *count, again_in = ?delay, "reconcile failed");
    Action::requeue(spread(delay, &key))
}

fn forget_failures(context: &Context, key: &str) {
    context.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
}

fn key<K: Resource<DynamicType = ()>>(resource: &K) -> String {
    format!("{}/{}", resource.namespace().unwrap_or_default(), resource.name_any())
}

/// Up to a tenth longer, by name: a hundred clusters that were applied at once are not all looked at at once for ever.
fn spread(delay: Duration, key: &str) -> Duration {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    delay + delay / 1000 * u32::try_from(hasher.finish() % 100).unwrap_or(0)
}

/// Puts together what the pods did since the last looks, for clusters that are changed by canaries, and says how soon the next
/// look is due.
fn look(context: &Context, resource: &CacheCluster, observed: &mut Observed, now: Timestamp) -> Option<Duration> {
    let declared = Policy::parse(&resource.spec.rollout).ok().filter(|policy| policy.canary);
    let run = observed.record.as_ref().and_then(|record| record.run.as_ref());
    // A rollout keeps to what was declared when it began.
    let seconds = run.map(|run| &run.policy).or(declared.as_ref())?.interval_seconds();
    observed.ticks = context.windows.take(&key(resource), &observed.pods, seconds, now);
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(1)))
}

//! What there is of the medium that is declared: hosts, a StorageClass, and the volumes of nodes that find no host.

use gannet_crds::{CacheCluster, Medium, StorageSpec};
use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use super::{ObserveError, Observed, Reader};
use crate::desired::storage::{HUGEPAGES, claim_name};
use crate::storage;

/// What there is of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeenStorage {
    /// Why no node could have it; none where one could, and while nobody needs it.
    pub unavailable: Option<String>,
    /// Whether the operator has no right to look.
    pub blind: bool,
    /// Of pods that find no host.
    pub claims: Vec<Claim>,
}

/// What a pod claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub name: String,
    pub uid: String,
    pub pod: String,
    /// The PersistentVolume that it is bound to.
    pub volume: String,
    pub terminating: bool,
    /// Where the volume is, in words, when that host is gone.
    pub lost: Option<String>,
}

/// A host as far as it matters here.
struct Host(Node);

/// Hosts that are read at once.
const PAGE: u32 = 500;

impl Reader<'_> {
    /// Looks for the medium while some pod has no host, or none was made yet.
    pub(super) async fn storage(&self, observed: &Observed) -> Result<SeenStorage, ObserveError> {
        let CacheCluster { spec, .. } = self.resource;
        let waiting: Vec<&str> =
            observed.pods.iter().filter(|pod| pod.host.is_empty()).map(|pod| pod.name.as_str()).collect();
        let is_plain = spec.storage.medium == Medium::Memory && spec.storage.node_requirements.is_empty();
        if is_plain || observed.stateful_set.is_some() && waiting.is_empty() {
            return Ok(SeenStorage::default());
        }
        let Some(hosts) = allowed(self.hosts().await)? else {
            return Ok(SeenStorage { blind: true, ..SeenStorage::default() });
        };
        let mut seen =
            SeenStorage { unavailable: self.unavailable(&spec.storage, &hosts).await?, ..SeenStorage::default() };
        if spec.storage.medium.is_claimed() {
            for pod in waiting {
                seen.claims.extend(self.claim(pod, &hosts).await?);
            }
        }
        Ok(seen)
    }

    async fn hosts(&self) -> Result<Vec<Host>, ObserveError> {
        let api: Api<Node> = Api::all(self.client.clone());
        let failed = |source| ObserveError::Read { what: "the hosts".to_owned(), source };
        let (mut hosts, mut page) = (Vec::new(), ListParams::default().limit(PAGE));
        loop {
            let read = api.list(&page).await.map_err(failed)?;
            hosts.extend(read.items.into_iter().map(Host));
            match read.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => return Ok(hosts),
            }
        }
    }

    async fn unavailable(&self, spec: &StorageSpec, hosts: &[Host]) -> Result<Option<String>, ObserveError> {
        let requirements = storage::requirements(spec);
        if !hosts.iter().any(|host| host.meets(&requirements)) {
            return Ok(Some(format!("no host has {}", in_words(&requirements))));
        }
        if spec.medium == Medium::Hugepages {
            let capacity = spec.capacity.as_deref().and_then(bytes).unwrap_or(0);
            if !hosts.iter().any(|host| host.hugepages() >= capacity && host.meets(&requirements)) {
                let capacity = spec.capacity.as_deref().unwrap_or_default();
                return Ok(Some(format!("no host has {capacity} of huge pages of 2Mi")));
            }
        }
        let class = spec.volume_claim.as_ref().and_then(|claim| claim.storage_class_name.as_ref());
        let Some(class) = class.filter(|_| spec.medium.is_claimed()) else { return Ok(None) };
        let api: Api<StorageClass> = Api::all(self.client.clone());
        let found = api.get_opt(class).await;
        let found = found.map_err(|source| ObserveError::Read { what: format!("StorageClass {class}"), source })?;
        Ok(found.is_none().then(|| format!("there is no StorageClass {class}")))
    }

    async fn claim(&self, pod: &str, hosts: &[Host]) -> Result<Option<Claim>, ObserveError> {
        let Some(claim) = self.named::<PersistentVolumeClaim>(&claim_name(pod)).await? else { return Ok(None) };
        let Some(volume) = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()) else { return Ok(None) };
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        let what = || format!("PersistentVolume {volume}");
        let found = api.get_opt(&volume).await.map_err(|source| ObserveError::Read { what: what(), source })?;
        Ok(Some(Claim {
            uid: claim.uid().unwrap_or_default(),
            name: claim.name_any(),
            pod: pod.to_owned(),
            terminating: claim.metadata.deletion_timestamp.is_some(),
            lost: found.as_ref().and_then(|volume| lost(volume, hosts)),
            volume,
        }))
    }
}

/// `None` where the API server refuses the operator a look.
fn allowed<T>(read: Result<T, ObserveError>) -> Result<Option<T>, ObserveError> {
    match read {
        Err(ObserveError::Read { source: kube::Error::Api(status), .. }) if status.code == 403 => Ok(None),
        read => read.map(Some),
    }
}

/// Where a volume is, if that is no host that there is.
fn lost(volume: &PersistentVolume, hosts: &[Host]) -> Option<String> {
    let required = volume.spec.as_ref()?.node_affinity.as_ref()?.required.as_ref()?;
    let terms = || required.node_selector_terms.iter().filter_map(|term| term.match_expressions.as_deref());
    let is_there = terms().any(|term| hosts.iter().any(|host| host.meets(term)));
    (terms().next().is_some() && !is_there).then(|| terms().map(in_words).collect::<Vec<_>>().join(" or "))
}

impl Host {
    fn meets(&self, requirements: &[NodeSelectorRequirement]) -> bool {
        requirements.iter().all(|requirement| self.meets_one(requirement))
    }

    /// As Kubernetes' scheduler reads it.
    fn meets_one(&self, requirement: &NodeSelectorRequirement) -> bool {
        let label = self.0.labels().get(&requirement.key);
        let values = requirement.values.as_deref().unwrap_or_default();
        let number = |text: &String| text.parse::<i64>().ok();
        let beside = label.and_then(number).zip(values.first().and_then(number));
        match requirement.operator.as_str() {
            "In" => label.is_some_and(|label| values.contains(label)),
            "NotIn" => label.is_none_or(|label| !values.contains(label)),
            "Exists" => label.is_some(),
            "DoesNotExist" => label.is_none(),
            "Gt" => beside.is_some_and(|(label, value)| label > value),
            "Lt" => beside.is_some_and(|(label, value)| label < value),
            _ => false,
        }
    }

    fn hugepages(&self) -> u64 {
        let allocatable = self.0.status.as_ref().and_then(|status| status.allocatable.as_ref());
        allocatable.and_then(|all| all.get(HUGEPAGES)).and_then(|quantity| bytes(&quantity.0)).unwrap_or(0)
    }
}

fn bytes(text: &str) -> Option<u64> {
    text.parse::<config::Bytes>().ok().map(|bytes| bytes.0)
}

/// Such as `the labels disk=nvme and !spot`.
fn in_words(requirements: &[NodeSelectorRequirement]) -> String {
    let words = requirements.iter().map(|requirement| {
        let values = requirement.values.as_deref().unwrap_or_default().join("|");
        let key = &requirement.key;
        match requirement.operator.as_str() {
            "In" => format!("{key}={values}"),
            "NotIn" => format!("{key}!={values}"),
            "DoesNotExist" => format!("!{key}"),
            "Gt" => format!("{key}>{values}"),
            "Lt" => format!("{key}<{values}"),
            _ => key.clone(),
        }
    });
    format!("the labels {}", words.collect::<Vec<_>>().join(" and "))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Host, in_words, lost};

    fn host(name: &str, labels: Value) -> Host {
        Host(serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).unwrap())
    }

    #[test]
    fn a_host_meets_what_the_scheduler_would_let_pass() {
        let host = host("a", json!({"disk": "nvme", "generation": "3"}));
        for (key, operator, values, meets) in [
            ("disk", "In", vec!["ssd", "nvme"], true),
            ("disk", "In", vec!["ssd"], false),
            ("disk", "NotIn", vec!["ssd"], true),
            ("zone", "NotIn", vec!["a"], true),
            ("disk", "Exists", vec![], true),
            ("zone", "Exists", vec![], false),
            ("zone", "DoesNotExist", vec![], true),
            ("generation", "Gt", vec!["2"], true),
            ("generation", "Lt", vec!["3"], false),
            ("disk", "Gt", vec!["2"], false),
        ] {
            let requirement = json!([{"key": key, "operator": operator, "values": values}]);
            let requirements: Vec<_> = serde_json::from_value(requirement).unwrap();
            assert_eq!(host.meets(&requirements), meets, "{}", in_words(&requirements));
        }
        assert!(host.meets(&[]));
    }

    #[test]
    fn a_volume_is_lost_with_its_host() {
        let on = |hosts: &[&str]| {
            let hostname = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": hosts});
            let required = json!({"nodeSelectorTerms": [{"matchExpressions": [hostname]}]});
            serde_json::from_value(json!({"spec": {"nodeAffinity": {"required": required}}})).unwrap()
        };
        let hosts = [host("a", json!({"kubernetes.io/hostname": "a"}))];
        assert_eq!(lost(&on(&["a"]), &hosts), None);
        assert_eq!(lost(&on(&["b"]), &hosts).unwrap(), "the labels kubernetes.io/hostname=b");
        assert_eq!(
            lost(&serde_json::from_value(json!({"spec": {}})).unwrap(), &[]),
            None,
            "a volume that any host reaches"
        );
    }
}

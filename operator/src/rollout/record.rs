//! What was decided: the operator's only memory of a rollout. It is kept on a ControllerRevision of its own, so that neither a
//! lost status nor a killed operator changes a decision.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::ResourceExt;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::policy::Policy;
use crate::analysis::Before;

/// What was decided so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The revision that every pod can go back to: the last one that all pods were of and served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable: Option<String>,
    /// Revisions that failed. They are not tried again until someone asks for it or the template changes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<Rejection>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Run>,
    /// What was asked for by hand and done: a manifest that is applied again must not do it again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub handled: Vec<String>,
}

/// A revision that failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rejection {
    pub revision: String,
    pub reason: String,
}

/// A rollout under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    pub target: String,
    /// As it was when the rollout began, like `replicas`.
    pub policy: Policy,
    pub replicas: i32,
    /// The index of the step that is being taken; as many as there are steps: all pods change.
    pub step: usize,
    /// Since when.
    pub since: Timestamp,
    /// How the pods did before is known, or was waited for in vain.
    pub prepared: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halt: Option<Halt>,
    /// The pod that is restarted to be compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<Control>,
    /// What the pods did before; kept beside this, because it never changes.
    #[serde(skip)]
    pub before: Before,
}

/// Why a rollout stands still.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Halt {
    pub by: By,
    pub reason: String,
}

/// Who halted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum By {
    Hand,
    Inconclusive,
    Failure,
}

/// A stable pod that was restarted when the first canary was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Control {
    pub name: String,
    /// Of the pod that was replaced.
    pub uid: String,
}

/// More are forgotten, the oldest first.
const MOST_REJECTED: usize = 5;
const MOST_HANDLED: usize = 16;

const RECORD_ANNOTATION: &str = "gannet.dev/record";
const BEFORE_ANNOTATION: &str = "gannet.dev/before";

/// A stored record that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "ControllerRevision {name} has a {annotation} that cannot be read: {source}; delete it if it was edited by hand"
)]
pub struct RecordError {
    name: String,
    annotation: &'static str,
    #[source]
    source: serde_json::Error,
}

/// The name of the ControllerRevision that holds a cluster's record.
#[must_use]
pub fn name_for(cluster: &str) -> String {
    format!("{cluster}-rollout")
}

impl Record {
    /// Reads what [`Record::store`] wrote.
    ///
    /// # Errors
    /// [`RecordError`] where it is not that.
    pub fn read(stored: &ControllerRevision) -> Result<Record, RecordError> {
        let part =
            |annotation: &'static str| stored.annotations().get(annotation).map(|text| (annotation, text.as_str()));
        let failed = |annotation, source| RecordError { name: stored.name_any(), annotation, source };
        let mut record: Record = match part(RECORD_ANNOTATION) {
            Some((annotation, text)) => serde_json::from_str(text).map_err(|source| failed(annotation, source))?,
            None => Record::default(),
        };
        if let (Some(run), Some((annotation, text))) = (&mut record.run, part(BEFORE_ANNOTATION)) {
            run.before = serde_json::from_str(text).map_err(|source| failed(annotation, source))?;
        }
        Ok(record)
    }

    /// The annotations and the data of its ControllerRevision.
    ///
    /// # Errors
    /// Where it cannot be written as JSON.
    pub fn store(&self) -> Result<(BTreeMap<String, String>, RawExtension), serde_json::Error> {
        let mut annotations = BTreeMap::from([(RECORD_ANNOTATION.to_owned(), serde_json::to_string(self)?)]);
        let before = self.run.as_ref().map(|run| &run.before);
        // Always there: what an apply leaves out of its own annotations goes away, but an empty one says so.
        annotations.insert(
            BEFORE_ANNOTATION.to_owned(),
            before.map_or(Ok("{\"pods\":{},\"lives\":{},\"noise\":{}}".to_owned()), serde_json::to_string)?,
        );
        Ok((annotations, RawExtension(json!({}))))
    }

    #[must_use]
    pub fn rejection_of(&self, revision: &str) -> Option<&Rejection> {
        self.rejected.iter().find(|rejected| rejected.revision == revision)
    }

    /// The rollout under way has failed.
    pub(super) fn reject(&mut self, reason: &str) {
        let Some(run) = self.run.take() else { return };
        self.rejected.retain(|rejected| rejected.revision != run.target);
        self.rejected.push(Rejection { revision: run.target, reason: reason.to_owned() });
        let surplus = self.rejected.len().saturating_sub(MOST_REJECTED);
        self.rejected.drain(..surplus);
    }

    pub(super) fn handle(&mut self, action: &str) {
        self.handled.push(action.to_owned());
        let surplus = self.handled.len().saturating_sub(MOST_HANDLED);
        self.handled.drain(..surplus);
    }

    /// The revisions that a decision names.
    pub fn revisions(&self) -> impl Iterator<Item = &str> {
        let run = self.run.iter().map(|run| run.target.as_str());
        self.stable
            .iter()
            .map(String::as_str)
            .chain(run)
            .chain(self.rejected.iter().map(|rejected| rejected.revision.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::api::apps::v1::ControllerRevision;

    use super::{By, Halt, Record, Rejection, Run};
    use crate::analysis::{Before, Window};
    use crate::rollout::policy::Policy;

    #[test]
    fn what_was_decided_is_read_back() {
        let window = Window { parts: 2, requests: 7, ..Window::default() };
        let before = Before { pods: [("demo-2".to_owned(), window)].into(), ..Before::default() };
        let record = Record {
            stable: Some("demo-1".to_owned()),
            rejected: vec![Rejection { revision: "demo-0".to_owned(), reason: "slow".to_owned() }],
            run: Some(Run {
                target: "demo-2".to_owned(),
                policy: Policy::parse(&gannet_crds::RolloutSpec::default()).unwrap(),
                replicas: 3,
                step: 1,
                since: Timestamp::from_second(1_800_000_000).unwrap(),
                prepared: true,
                halt: Some(Halt { by: By::Hand, reason: "asked".to_owned() }),
                control: None,
                before,
            }),
            handled: vec!["promote@demo-1".to_owned()],
        };
        let (annotations, data) = record.store().unwrap();
        let mut stored = ControllerRevision { data: Some(data), ..ControllerRevision::default() };
        stored.metadata.annotations = Some(annotations);
        assert_eq!(Record::read(&stored).unwrap(), record);
        stored.metadata.annotations.as_mut().unwrap().values_mut().for_each(|text| text.push('}'));
        assert!(Record::read(&stored).unwrap_err().to_string().contains("edited by hand"));
    }
}

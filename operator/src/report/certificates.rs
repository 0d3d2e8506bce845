//! What is told of certificates.

use gannet_crds::{CacheCluster, CacheClusterStatus, PodCertificate, TlsClient, TlsClientStatus, TlsStatus, condition};
use jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::events::{Event, EventType};

use super::{Finding, count, event};
use crate::certify::Certification;
use crate::cluster::InvalidSpec;
use crate::given::Given;
use crate::material::{CaMaterial, ClientMaterial, NodesMaterial};
use crate::observe::{Found, NodePod, Observed};
use crate::rotation::{Phase, Plan, list};
use crate::tls::Names;

/// The condition `TLSReady`.
pub(super) fn finding(observed: &Observed, certified: &Result<Certification, InvalidSpec>) -> Finding {
    let find = |holds, reason, message: String| Finding { kind: condition::TLS_READY, holds, reason, message };
    let certification = match certified {
        Ok(certification) => certification,
        Err(invalid) => return find(false, "InvalidSpec", format!("{invalid}; no certificate is renewed")),
    };
    if !certification.foreign.is_empty() {
        let names = certification.foreign.join(", ");
        let remedy = "take another name in the spec, or delete it; all other certificates are kept";
        return find(false, "NameConflict", format!("Secret {names} exists and belongs to something else: {remedy}"));
    }
    if let Some((reason, message)) = &certification.trouble {
        let waits = certification.plan.as_ref().map(waits).unwrap_or_default();
        return find(false, reason, format!("{message}{waits}"));
    }
    let served = observed.pods.iter().filter(|pod| matches!(pod.served, Some(Ok(_)))).count();
    let has_tls = |pod: &&NodePod| (pod.mounts.node_tls || pod.mounts.given_tls) && !pod.terminating;
    let asked = observed.pods.iter().filter(has_tls).count();
    if let Some(given) = &certification.given {
        return given_finding(given, served, asked);
    }
    let Some(plan) = &certification.plan else {
        return find(false, "Disabled", "spec.tls.mode is Disabled: clients speak in the clear".to_owned());
    };
    let waits = waits(plan);
    if let Some(risk) = &plan.at_risk {
        return find(false, "RotationAtRisk", format!("{risk}, and it is not replaced yet{waits}"));
    }
    if plan.phase != Phase::Current {
        find(served > 0, plan.phase.name(), format!("the CA is being replaced{waits}"))
    } else if served == 0 || served < asked {
        let trouble = observed.pods.iter().find_map(|pod| pod.served.as_ref()?.as_ref().err());
        let trouble = trouble.map_or(String::new(), |trouble| format!(": {trouble}"));
        find(false, "NotServed", format!("{served} of {asked} nodes serve their certificate{trouble}{waits}"))
    } else if certification.stale.is_empty() {
        find(true, "Current", "every certificate is renewed in time".to_owned())
    } else {
        find(true, "Renewing", format!("certificates are on their way{waits}"))
    }
}

/// Of a certificate that somebody else writes.
fn given_finding(given: &Given, served: usize, asked: usize) -> Finding {
    let find = |holds, reason, message: String| Finding { kind: condition::TLS_READY, holds, reason, message };
    let Given { secret, content, stale, is_late } = given;
    match content {
        Err(reason) => {
            let kept = "nodes that serve keep what they had; new ones wait";
            find(false, "SecretInvalid", format!("Secret {secret}: {reason}; {kept}"))
        }
        Ok(content) if *is_late => {
            let until = time(content.leaf.not_after);
            find(false, "RotationAtRisk", format!("the certificate in Secret {secret} ends {until}: replace it there"))
        }
        Ok(_) if served == 0 || served < asked => {
            find(false, "NotServed", format!("{served} of {asked} nodes serve a certificate"))
        }
        Ok(_) if !stale.is_empty() => {
            find(true, "Renewing", format!("what is in Secret {secret} is on its way to {} nodes", stale.len()))
        }
        Ok(_) => find(true, "Current", format!("every node serves what is in Secret {secret}")),
    }
}

fn given_status(given: &Given) -> Option<TlsStatus> {
    let content = given.content.as_ref().ok()?;
    let newest = content.bundle.iter().max_by_key(|ca| ca.not_before);
    let stale: Vec<&str> = given.stale.iter().map(String::as_str).collect();
    let waits =
        (!stale.is_empty()).then(|| format!("what is in Secret {} to be served by {}", given.secret, list(&stale)));
    Some(TlsStatus {
        phase: Phase::Current.name().to_owned(),
        waits_for: waits.into_iter().collect(),
        ca_serial: newest.map(|ca| ca.serial.clone()).unwrap_or_default(),
        ca_not_after: newest.map(|ca| time(ca.not_after)).unwrap_or_default(),
        trusted_cas: count(content.bundle.len()),
        first_not_after: time(content.leaf.not_after),
        clients: Vec::new(),
    })
}

fn waits(plan: &Plan) -> String {
    if plan.waits_for.is_empty() { String::new() } else { format!("; waiting for {}", plan.waits_for.join("; ")) }
}

/// What the Secrets hold, in short.
pub(super) fn status(
    resource: &CacheCluster,
    observed: &Observed,
    certified: &Result<Certification, InvalidSpec>,
) -> Option<TlsStatus> {
    let certification = certified.as_ref().ok()?;
    if let Some(given) = &certification.given {
        return given_status(given);
    }
    let plan = certification.plan.as_ref()?;
    let ca = observed.secrets.ca.as_ref().and_then(CaMaterial::read)?;
    let nodes = observed.secrets.nodes.as_ref().map(NodesMaterial::read).unwrap_or_default();
    let of_nodes = nodes.pairs.values().map(|pair| pair.certificate.not_after);
    let clients = observed.secrets.clients.values().filter_map(|found| match found {
        Found::Ours(secret) => ClientMaterial::read(secret),
        Found::Missing | Found::Foreign => None,
    });
    let first = of_nodes.chain(clients.map(|client| client.pair.certificate.not_after)).min();
    Some(TlsStatus {
        phase: plan.phase.name().to_owned(),
        waits_for: plan.waits_for.clone(),
        ca_serial: ca.current.serial.clone(),
        ca_not_after: time(ca.current.not_after),
        trusted_cas: count(ca.trusted().count()),
        first_not_after: first.map(time).unwrap_or_default(),
        clients: resource.spec.tls.clients.iter().map(|declared| client(resource, observed, declared)).collect(),
    })
}

fn client(resource: &CacheCluster, observed: &Observed, declared: &TlsClient) -> TlsClientStatus {
    let held = match observed.secrets.clients.get(&declared.secret_name) {
        Some(Found::Ours(secret)) => ClientMaterial::read(secret).map(|material| material.pair.certificate),
        Some(Found::Missing | Found::Foreign) | None => None,
    };
    let namespace = resource.namespace().unwrap_or_default();
    let names = Names { cluster: resource.name_any(), namespace, ..Names::default() };
    let identity = names.identity(&declared.name);
    let reports = observed.pods.iter().filter_map(|pod| pod.report.as_ref()?.as_ref().ok()?.tls.as_ref());
    let of_client = reports.flat_map(|tls| &tls.identities).filter(|seen| seen.name == identity);
    let serials: Vec<&str> = of_client.flat_map(|seen| &seen.serials).map(|seen| seen.serial.as_str()).collect();
    let is_held = |serial: &&str| held.as_ref().is_some_and(|held| held.serial == *serial);
    TlsClientStatus {
        name: declared.name.clone(),
        secret_name: declared.secret_name.clone(),
        serial: held.as_ref().map(|held| held.serial.clone()).unwrap_or_default(),
        not_after: held.as_ref().map(|held| time(held.not_after)).unwrap_or_default(),
        seen: match (serials.iter().any(is_held), serials.is_empty()) {
            (true, _) => "Current",
            (false, false) => "Older",
            (false, true) => "Never",
        }
        .to_owned(),
    }
}

/// The certificate that a pod serves, as it says itself.
pub(super) fn served(pod: &NodePod) -> Option<PodCertificate> {
    let tls = pod.report.as_ref()?.as_ref().ok()?.tls.as_ref()?;
    let not_after = i64::try_from(tls.certificate.not_after).unwrap_or(i64::MAX);
    Some(PodCertificate { serial: tls.certificate.serial.clone(), not_after: time(not_after) })
}

fn time(unix: i64) -> String {
    Timestamp::from_second(unix).map(|time| time.to_string()).unwrap_or_default()
}

/// What changed.
pub(super) fn events(
    before: &CacheClusterStatus,
    after: &CacheClusterStatus,
    certified: &Result<Certification, InvalidSpec>,
) -> Vec<Event> {
    let mut events = Vec::new();
    let phase = |status: &CacheClusterStatus| status.tls.as_ref().map(|tls| tls.phase.clone());
    if let (Some(was), Some(now)) = (phase(before), phase(after))
        && was != now
    {
        let note = if now == Phase::Current.name() {
            "the CA is replaced: nobody stands on the old one, and it is no longer trusted".to_owned()
        } else {
            format!("the replacement of the CA goes from {was} to {now}")
        };
        events.push(event(EventType::Normal, "CARotation", "Rotate", note));
    }
    let names: Vec<String> = certified
        .iter()
        .flat_map(|certification| &certification.writes)
        .filter_map(|write| write.secret.metadata.name.clone())
        .collect();
    if !names.is_empty() {
        let note = format!("new certificates in Secret {}", names.join(", "));
        events.push(event(EventType::Normal, "CertificatesIssued", "Rotate", note));
    }
    let condition = |status: &CacheClusterStatus| {
        let found = status.conditions.iter().find(|condition| condition.type_ == condition::TLS_READY)?;
        Some((found.reason.clone(), found.message.clone()))
    };
    if let Some((reason, message)) = condition(after)
        && matches!(reason.as_str(), "RotationAtRisk" | "NameConflict" | "SecretInvalid" | "CertManagerMissing")
        && condition(before).is_none_or(|(was, _)| was != reason)
    {
        events.push(event(EventType::Warning, &reason, "Rotate", message));
    }
    events
}

#[cfg(test)]
mod tests {
    use gannet_crds::CacheClusterStatus;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
    use std::time::Duration;

    use super::{Certification, Given, Phase, Plan, events, finding, given_status};
    use crate::certificate::tests::NOW;
    use crate::certificate::{Authority, Certificate};
    use crate::given::GivenContent;
    use crate::observe::{Mounts, NodePod, Observed};

    fn pods(served: &[bool]) -> Observed {
        let pod = |served: &bool| NodePod {
            name: "demo-0".to_owned(),
            ready: true,
            mounts: Mounts { node_tls: true, given_tls: false, admin_tls: true },
            served: Some(if *served { Ok("1a".to_owned()) } else { Err("no handshake".to_owned()) }),
            ..NodePod::default()
        };
        Observed { pods: served.iter().map(pod).collect(), ..Observed::default() }
    }

    fn rotating(phase: Phase, waits: &str, at_risk: Option<&str>) -> Certification {
        let waits_for = [waits].into_iter().filter(|waits| !waits.is_empty()).map(str::to_owned).collect();
        let at_risk = at_risk.map(str::to_owned);
        let plan = Plan { phase, writes: Vec::new(), stale: Vec::new(), waits_for, at_risk };
        Certification { plan: Some(plan), ..Certification::default() }
    }

    fn given(content: Result<GivenContent, String>, stale: &[&str], is_late: bool) -> Certification {
        let stale = stale.iter().map(|&pod| pod.to_owned()).collect();
        let given = Given { secret: "ours".to_owned(), content, stale, is_late };
        Certification { given: Some(given), ..Certification::default() }
    }

    fn content() -> GivenContent {
        let leaf: Certificate = Authority::make("theirs", Duration::from_secs(3600), NOW).unwrap().certificate;
        GivenContent { bundle: vec![leaf.clone()], leaf }
    }

    #[test]
    fn the_condition_says_how_it_is_and_whom_it_waits_for() {
        let trouble = Some(("CertManagerMissing", "install cert-manager".to_owned()));
        for (observed, certification, holds, reason, words) in [
            (pods(&[]), Certification::default(), false, "Disabled", "in the clear"),
            (pods(&[true]), rotating(Phase::Current, "", None), true, "Current", "in time"),
            (
                pods(&[true]),
                rotating(Phase::Distributing, "client slow", None),
                true,
                "DistributingBundle",
                "client slow",
            ),
            (pods(&[true, false]), rotating(Phase::Current, "", None), false, "NotServed", "1 of 2 nodes"),
            (pods(&[true]), rotating(Phase::Retiring, "x", Some("a CA ends")), false, "RotationAtRisk", "a CA ends"),
            (
                pods(&[true]),
                Certification { foreign: vec!["mine".to_owned()], ..Certification::default() },
                false,
                "NameConflict",
                "Secret mine",
            ),
            (
                pods(&[true]),
                Certification { trouble, ..rotating(Phase::Founding, "", None) },
                false,
                "CertManagerMissing",
                "install",
            ),
            (pods(&[true]), given(Err("it is empty".to_owned()), &[], false), false, "SecretInvalid", "it is empty"),
            (pods(&[true]), given(Ok(content()), &[], true), false, "RotationAtRisk", "Secret ours"),
            (pods(&[true]), given(Ok(content()), &["demo-0"], false), true, "Renewing", "Secret ours"),
            (pods(&[false]), given(Ok(content()), &[], false), false, "NotServed", "0 of 1"),
            (pods(&[true]), given(Ok(content()), &[], false), true, "Current", "Secret ours"),
        ] {
            let found = finding(&observed, &Ok(certification));
            assert_eq!((found.holds, found.reason), (holds, reason), "{}", found.message);
            assert!(found.message.contains(words), "{words} is not in {}", found.message);
        }
    }

    #[test]
    fn a_list_of_pods_that_are_behind_is_short() {
        let many: Vec<String> = (0..1000).map(|pod| format!("demo-{pod}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let status = given_status(&given(Ok(content()), &many, false).given.unwrap()).unwrap();
        assert_eq!(status.waits_for.len(), 1);
        assert!(status.waits_for[0].contains("demo-0") && status.waits_for[0].contains("995 more"), "{status:?}");
    }

    fn told(phase: &str, reason: &str) -> CacheClusterStatus {
        let tls = gannet_crds::TlsStatus { phase: phase.to_owned(), ..gannet_crds::TlsStatus::default() };
        let condition = Condition {
            type_: "TLSReady".to_owned(),
            status: "True".to_owned(),
            reason: reason.to_owned(),
            message: "as it is".to_owned(),
            last_transition_time: Time(jiff::Timestamp::UNIX_EPOCH),
            observed_generation: None,
        };
        CacheClusterStatus { tls: Some(tls), conditions: vec![condition], ..CacheClusterStatus::default() }
    }

    #[test]
    fn each_step_is_an_event_and_a_risk_is_one_once() {
        let reasons = |before: &CacheClusterStatus, after: &CacheClusterStatus| -> Vec<String> {
            let told = events(before, after, &Ok(Certification::default()));
            told.into_iter().map(|event| format!("{} {}", event.reason, event.note.unwrap_or_default())).collect()
        };
        let (current, begun) = (told("Current", "Current"), told("DistributingBundle", "DistributingBundle"));
        assert_eq!(
            reasons(&current, &begun),
            ["CARotation the replacement of the CA goes from Current to DistributingBundle"]
        );
        assert!(reasons(&begun, &current)[0].contains("no longer trusted"));
        let risky = told("RetiringOldCA", "RotationAtRisk");
        assert_eq!(reasons(&told("RetiringOldCA", "RetiringOldCA"), &risky), ["RotationAtRisk as it is"]);
        assert!(reasons(&risky, &risky).is_empty());
    }
}

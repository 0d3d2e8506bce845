//! A rollout for people, in 80 columns.

use gannet_crds::{CacheClusterStatus, MetricStatus, PodStatus, RolloutStatus, condition};

/// The widest line.
const WIDTH: usize = 80;
/// Pods that are listed; of more, those that are not as they should be, and how many the others are.
const MOST_PODS: usize = 12;

/// Steps, pods, verdicts and both sides' figures.
#[must_use]
pub fn draw(name: &str, status: &CacheClusterStatus) -> String {
    let mut lines = vec![headline(name, status)];
    if let Some(rollout) = &status.rollout {
        lines.extend(revisions(rollout));
        lines.extend(steps(rollout));
        lines.extend(metrics(&rollout.metrics));
    }
    lines.extend(pods(status));
    lines.extend(status.rollout.iter().flat_map(closing));
    lines.iter().map(|line| format!("{}\n", clip(line.trim_end(), WIDTH))).collect()
}

fn headline(name: &str, status: &CacheClusterStatus) -> String {
    let phase = status.rollout.as_ref().map_or("not reported yet", |rollout| rollout.phase.as_str());
    let ready = status.conditions.iter().find(|found| found.type_ == condition::READY);
    let reason = ready.map_or(String::new(), |ready| format!("{} ({})", ready.status, ready.reason));
    format!("{name}  {phase}  {} nodes serve  Ready={reason}", status.ready)
}

fn revisions(rollout: &RolloutStatus) -> Vec<String> {
    if rollout.revision == rollout.stable_revision {
        return vec![format!("  revision  {}", rollout.revision)];
    }
    vec![format!("  declared  {}", rollout.revision), format!("  stable    {}", rollout.stable_revision)]
}

fn steps(rollout: &RolloutStatus) -> Vec<String> {
    let number = usize::try_from(rollout.step).unwrap_or(0);
    let mut lines: Vec<String> = rollout
        .steps
        .iter()
        .enumerate()
        .map(|(index, step)| {
            let (mark, state) = match (index + 1).cmp(&number) {
                std::cmp::Ordering::Less => (' ', "done".to_owned()),
                std::cmp::Ordering::Equal => ('>', now(rollout)),
                std::cmp::Ordering::Greater => (' ', String::new()),
            };
            format!("{mark} {:<2} {step:<30} {state}", index + 1).trim_end().to_owned()
        })
        .collect();
    if !lines.is_empty() && number > rollout.steps.len() {
        lines.push(format!(">    {:<30} all pods change", "last"));
    }
    lines
}

fn now(rollout: &RolloutStatus) -> String {
    match (rollout.phase.as_str(), rollout.looks) {
        ("Analysing", looks) if looks > 0 => format!("look {} of {looks}", rollout.looks_done),
        (phase, _) => phase.to_lowercase(),
    }
}

fn metrics(metrics: &[MetricStatus]) -> Vec<String> {
    if metrics.is_empty() {
        return Vec::new();
    }
    let mut lines =
        vec![format!("{:<16} {:>12} {:>12}  {:<12} {}", "METRIC", "CANARY", "EXPECTED", "LAST LOOK", "PASS FAIL ?")];
    for metric in metrics {
        let MetricStatus { name, verdict, canary, expected, passed, failed, inconclusive, message } = metric;
        let [canary, expected] = [canary, expected].map(|figure| if figure.is_empty() { "-" } else { figure.as_str() });
        lines.push(format!(
            "{name:<16} {canary:>12} {expected:>12}  {verdict:<12} {passed:>4} {failed:>4} {inconclusive}"
        ));
        if !message.is_empty() {
            lines.push(format!("  {message}"));
        }
    }
    lines
}

fn pods(status: &CacheClusterStatus) -> Vec<String> {
    let mut lines = vec![format!("{:<20} {:<6} {:<30} {}", "POD", "SERVES", "REVISION", "")];
    let target = status.rollout.as_ref().map_or(status.revision.as_str(), |rollout| rollout.revision.as_str());
    let is_plain = |pod: &&PodStatus| pod.ready && pod.revision != target;
    let plain = status.pods.iter().filter(is_plain).count();
    let short = status.pods.len() > MOST_PODS;
    for pod in status.pods.iter().filter(|pod| !short || !is_plain(pod)).take(MOST_PODS) {
        let serves = if pod.ready { "yes" } else { "no" };
        let line = format!("{:<20} {serves:<6} {:<30} {}", pod.name, clip(&pod.revision, 30), pod.reason);
        lines.push(line.trim_end().to_owned());
    }
    if short && plain > 0 {
        lines.push(format!("and {plain} that serve and have not changed"));
    }
    lines
}

fn closing(rollout: &RolloutStatus) -> Vec<String> {
    let held =
        rollout.scaling_held.map(|replicas| format!("scaling waits: {replicas} nodes until the rollout has ended"));
    let why = (!rollout.message.is_empty()).then(|| wrap(&rollout.message));
    why.into_iter().flatten().chain(held).collect()
}

fn wrap(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line =
            lines.last_mut().filter(|line| line.is_empty() || line.chars().count() + 1 + word.chars().count() <= WIDTH);
        match line {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) => *line = format!("{line} {word}"),
            None => lines.push(word.to_owned()),
        }
    }
    lines
}

fn clip(line: &str, width: usize) -> String {
    if line.chars().count() <= width {
        return line.to_owned();
    }
    line.chars().take(width - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use gannet_crds::CacheClusterStatus;
    use serde_json::json;

    use super::draw;

    fn analysing() -> CacheClusterStatus {
        serde_json::from_value(json!({
            "ready": "3/3",
            "conditions": [{"type": "Ready", "status": "False", "reason": "Analysing", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            "rollout": {
                "phase": "Analysing", "revision": "sessions-7d1f00aa33bb44cc", "stableRevision": "sessions-0123456789abcdef",
                "step": 2, "steps": ["SetPods 1", "Analysis 20 x 30s", "SetPercent 50"], "looks": 20, "looksDone": 3,
                "scalingHeld": 3,
                "metrics": [
                    {"name": "hitRatio", "verdict": "Pass", "canary": "91.20 %", "expected": "92.04 %", "passed": 3},
                    {"name": "slowShare", "verdict": "Gathering", "message": "too few requests yet to judge the tail"},
                ],
            },
            "pods": [
                {"name": "sessions-0", "ready": true, "revision": "sessions-0123456789abcdef"},
                {"name": "sessions-2", "ready": false, "revision": "sessions-7d1f00aa33bb44cc", "reason": "not ready yet"},
            ],
        }))
        .unwrap()
    }

    #[test]
    fn an_analysis_is_drawn_with_both_figures() {
        let text = draw("sessions", &analysing());
        for words in [
            "sessions  Analysing  3/3 nodes serve",
            "  1  SetPods 1                      done",
            "> 2  Analysis 20 x 30s              look 3 of 20",
            "hitRatio              91.20 %      92.04 %  Pass",
            "too few requests yet",
            "sessions-2           no     sessions-7d1f00aa33bb44cc      not ready yet",
            "scaling waits: 3 nodes",
        ] {
            assert!(text.contains(words), "{words} is not in\n{text}");
        }
    }

    #[test]
    fn no_line_is_wider_than_a_terminal() {
        let mut status = analysing();
        let rollout = status.rollout.as_mut().unwrap();
        rollout.message =
            "hitRatio 81.20 %, expected 92.04 %, and a few words more than one line has room for".repeat(3);
        status.pods[1].reason = "ImagePullBackOff: ".repeat(20);
        let text = draw("sessions", &status);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.contains("one line has room"), "{text}");
    }

    #[test]
    fn what_is_not_reported_yet_is_no_rollout() {
        assert!(draw("sessions", &CacheClusterStatus::default()).contains("not reported yet"));
    }
}

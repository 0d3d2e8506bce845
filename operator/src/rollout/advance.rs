//! How a rollout goes on: from what was decided to what is decided now.

use jiff::Timestamp;

use super::Note;
use super::action::{Action, Kind};
use super::policy::Stage;
use super::record::{By, Control, Halt, Record, Run};
use crate::analysis::{self, Analysis, Before, Cell, Outcome, Sides, Tally, Tick};
use crate::cluster::Cluster;
use crate::observe::windows::MOST_PODS;
use crate::observe::{NodePod, Observed};

/// What a decision is made from.
#[derive(Clone, Copy)]
pub struct Situation<'a> {
    pub cluster: &'a Cluster,
    pub observed: &'a Observed,
    /// The name of the revision that the spec asks for.
    pub declared: &'a str,
    pub now: Timestamp,
}

/// Windows of the time before a rollout that are waited for, and for how many intervals at most.
const BEFORE_WINDOWS: usize = 5;
const BEFORE_PATIENCE: usize = 10;
/// No more windows than that are taken: what was an hour ago says little.
const MOST_BEFORE_WINDOWS: usize = 30;
/// An analysis that begins again and again, because canaries come and go, ends after so many times its length.
const MOST_ANALYSES: i64 = 4;
/// A control takes this much of a cluster: a canary, the control, and two that neither is.
const CONTROL_REPLICAS: i32 = 4;
const CONTROL_UNAVAILABLE: i32 = 2;

/// Decides. Every pass takes what is decided already for granted, so that one that was lost is made again.
///
/// # Returns
/// The analysis that is under way.
pub fn advance(record: &mut Record, s: Situation<'_>, notes: &mut Vec<Note>) -> Option<Tally> {
    by_hand(record, s, notes);
    let Some(stable) = record.stable.clone() else {
        // The first deployment: there is nothing to go back to, and nobody to compare with.
        record.run = None;
        if s.is_complete(s.declared, s.cluster.replicas) {
            record.stable = Some(s.declared.to_owned());
        }
        return None;
    };
    // What the stable pods did before holds for the next attempt too.
    let mut known = None;
    if let Some(run) = record.run.take_if(|run| run.target != s.declared) {
        let why = if stable == s.declared { "the spec asks for the stable revision again" } else { "the spec changed" };
        notes.push(note("RolloutSuperseded", format!("the rollout of {} has ended: {why}", run.target)));
        let is_whole = run.before.pods.len() >= s.observed.pods.len().min(MOST_PODS);
        known = Some(run.before).filter(|before| run.prepared && is_whole && s.is_of_these(before, &stable));
    }
    if stable == s.declared || (record.run.is_none() && record.rejection_of(s.declared).is_some()) {
        return None;
    }
    if record.run.is_none() && !goes_by_steps(s.cluster) {
        if s.is_complete(s.declared, s.cluster.replicas) {
            record.stable = Some(s.declared.to_owned());
        }
        return None;
    }
    if record.run.is_none() && !s.is_scaled() {
        return None;
    }
    let run = record.run.get_or_insert_with(|| s.begin(&stable, known, notes));
    if s.observed.set.as_ref().is_none_or(|set| set.revision == stable && run.step > 0) {
        // It was deleted: whatever was compared is gone. From the beginning, once the stable pods are back.
        run.restart(s.now);
        return None;
    }
    if !run.is_halted_by(By::Failure)
        && let Some(fault) = s.fault(run)
    {
        fail(record, fault, notes);
        return None;
    }
    if run.halt.is_some() {
        return s.analysis(run, &stable).map(|(_, tally)| tally);
    }
    step(record, s, &stable, notes)
}

/// Whether a change goes by steps: where there are no pods, there is nothing to compare.
#[must_use]
pub fn goes_by_steps(cluster: &Cluster) -> bool {
    cluster.policy.canary && cluster.replicas > 0
}

/// Takes as many steps as are done. Each takes time, so there is an end.
fn step(record: &mut Record, s: Situation<'_>, stable: &str, notes: &mut Vec<Note>) -> Option<Tally> {
    let run = record.run.as_mut()?;
    if !s.prepare(run, stable) {
        return None;
    }
    s.choose_control(run, stable);
    for _ in 0..=run.policy.steps.len() {
        let is_done = match run.stage() {
            Some(Stage::SetPods { .. } | Stage::SetPercent { .. }) => s.is_moved(run, stable),
            Some(Stage::Pause { seconds }) => seconds.is_some_and(|seconds| s.since(run.since) >= seconds),
            Some(Stage::Analysis(_)) => {
                let (_, tally) = s.analysis(run, stable)?;
                match tally.outcome.clone() {
                    Outcome::Running => return Some(tally),
                    Outcome::Passed => {
                        let figures: Vec<String> = tally.counts.iter().map(analysis::Count::say).collect();
                        notes.push(note("AnalysisPassed", format!("{}: {}", run.target, figures.join("; "))));
                        true
                    }
                    Outcome::Failed(why) => {
                        fail(record, why, notes);
                        return Some(tally);
                    }
                    Outcome::Inconclusive(why) => {
                        notes.push(warning("AnalysisInconclusive", format!("{} waits for a hand: {why}", run.target)));
                        run.halt = Some(Halt { by: By::Inconclusive, reason: why });
                        return Some(tally);
                    }
                }
            }
            None => {
                if s.is_complete(&run.target, run.replicas) {
                    notes.push(note("Promoted", format!("{} is the stable revision now", run.target)));
                    record.stable = Some(run.target.clone());
                    record.run = None;
                }
                return None;
            }
        };
        if !is_done {
            return None;
        }
        run.next(s.now);
        let next = run.stage().map_or_else(|| "all pods change".to_owned(), Stage::say);
        notes.push(note("RolloutStep", format!("{}: {next}", run.target)));
    }
    None
}

/// Does what is asked for by hand, once.
fn by_hand(record: &mut Record, s: Situation<'_>, notes: &mut Vec<Note>) {
    let Some(Action { kind, revision, text }) = &s.cluster.action else { return };
    if record.handled.contains(text) {
        return;
    }
    let is_rejected = record.rejection_of(revision).is_some();
    let run = record.run.as_mut().filter(|run| run.target == *revision);
    let did = match (kind, run) {
        (Kind::Promote, Some(run)) => {
            let waits = matches!(run.stage(), Some(Stage::Pause { .. } | Stage::Analysis(_)));
            if waits && run.prepared {
                run.next(s.now);
            }
            run.halt = None;
            "promoted"
        }
        (Kind::Abort, Some(_)) => {
            record.reject("aborted by hand");
            "aborted"
        }
        (Kind::Pause, Some(run)) => {
            run.halt.get_or_insert(Halt { by: By::Hand, reason: "paused by hand".to_owned() });
            "paused"
        }
        (Kind::Resume, Some(run)) => {
            run.halt = None;
            // What was seen meanwhile counts for nothing: an analysis begins again.
            run.since = s.now;
            "resumed"
        }
        (Kind::Retry, None) if is_rejected => {
            record.rejected.retain(|rejected| rejected.revision != *revision);
            "tried again"
        }
        _ => return,
    };
    record.handle(text);
    notes.push(note("ByHand", format!("{revision} is {did} by hand")));
}

fn fail(record: &mut Record, why: String, notes: &mut Vec<Note>) {
    let Some(run) = &mut record.run else { return };
    if run.policy.pause_on_failure {
        notes.push(warning("RolloutFailed", format!("{} failed and stays, as onFailure says: {why}", run.target)));
        run.halt = Some(Halt { by: By::Failure, reason: why });
        return;
    }
    notes.push(warning("RolledBack", format!("{} is rejected, all pods go back: {why}", run.target)));
    record.reject(&why);
}

fn note(reason: &'static str, text: String) -> Note {
    Note { warning: false, reason, text }
}

fn warning(reason: &'static str, text: String) -> Note {
    Note { warning: true, reason, text }
}

impl Situation<'_> {
    fn begin(&self, stable: &str, known: Option<Before>, notes: &mut Vec<Note>) -> Run {
        let text = format!("{} by steps, beside the stable {stable}", self.declared);
        notes.push(note("CanaryStarted", text));
        Run {
            target: self.declared.to_owned(),
            policy: self.cluster.policy.clone(),
            replicas: self.cluster.replicas,
            step: 0,
            since: self.now,
            prepared: known.is_some(),
            halt: None,
            control: None,
            before: known.unwrap_or_default(),
        }
    }

    /// Whether there are as many pods as declared: what comes first is scaling, on the stable revision.
    fn is_scaled(&self) -> bool {
        let replicas = self.cluster.replicas;
        let is_there = |ordinal| self.observed.pods.iter().any(|pod| pod.ordinal == ordinal);
        let known = self.observed.set.as_ref().is_none_or(|set| set.replicas == replicas && set.settled);
        known && (self.observed.set.is_none() || (0..replicas).all(is_there))
    }

    /// Whether it is known how the pods did before. Where it is not, they are looked at first, but not for ever.
    fn prepare(&self, run: &mut Run, stable: &str) -> bool {
        let is_untouched = run.step == 0 && self.observed.pods.iter().all(|pod| pod.revision == stable);
        if run.prepared && is_untouched && !self.is_of_these(&run.before, stable) {
            run.restart(self.now);
        }
        if run.prepared {
            return true;
        }
        let wanted =
            run.policy.steps.iter().any(|stage| matches!(stage, Stage::Analysis(_))) || run.policy.warmth.is_some();
        let is_same_life = |name: &String, cell: &Cell| {
            let pod = self.observed.pods.iter().find(|pod| pod.name == *name);
            cell.revision == stable && pod.is_some_and(|pod| pod.uid == cell.uid)
        };
        let all_stable = |tick: &&Tick| tick.cells.iter().all(|(name, cell)| is_same_life(name, cell));
        let seen: Vec<Tick> = self.observed.ticks.iter().filter(all_stable).cloned().collect();
        let pods = self.observed.pods.len().min(MOST_PODS);
        let is_whole = |tick: &&Tick| tick.cells.len() >= pods && tick.cells.values().all(|cell| cell.window.is_ok());
        // Counted in looks, not in seconds: while there was no operator, nothing was waited for.
        let late = self.observed.ticks.iter().filter(|tick| tick.from >= run.since).count() >= BEFORE_PATIENCE;
        let whole: Vec<Tick> = seen.iter().filter(is_whole).cloned().collect();
        if wanted && whole.len() < BEFORE_WINDOWS && !late {
            return false;
        }
        let known = if whole.len() < BEFORE_WINDOWS { seen } else { whole };
        let recent = &known[known.len().saturating_sub(MOST_BEFORE_WINDOWS)..];
        run.before = Before::of(recent, stable, &run.policy.metrics);
        run.prepared = true;
        run.since = self.now;
        true
    }

    /// Whether what is known of the time before was done by the stable pods that there are.
    fn is_of_these(&self, before: &Before, stable: &str) -> bool {
        let mut pods = self.observed.pods.iter().filter(|pod| pod.revision == stable);
        pods.all(|pod| before.lives.get(&pod.name).is_none_or(|uid| *uid == pod.uid))
    }

    /// Where a metric asks for a control, the pod below the first canaries is it.
    fn choose_control(&self, run: &mut Run, stable: &str) {
        let allowed = run.replicas >= CONTROL_REPLICAS && self.cluster.max_unavailable >= CONTROL_UNAVAILABLE;
        if run.step > 0 || run.control.is_some() || !run.policy.wants_control() || !allowed {
            return;
        }
        let ordinal = run.floor() - 1;
        let pod =
            self.observed.pods.iter().find(|pod| pod.ordinal == ordinal && pod.revision == stable && pod.serves());
        run.control = pod.map(|pod| Control { name: pod.name.clone(), uid: pod.uid.clone() });
    }

    fn since(&self, then: Timestamp) -> i64 {
        self.now.as_second() - then.as_second()
    }

    /// Whether all pods are of this revision and serve, and the StatefulSet's controller knows no other.
    fn is_complete(&self, revision: &str, replicas: i32) -> bool {
        let known = |set: &crate::observe::Set| {
            set.revision == revision && set.replicas == replicas && set.settled && set.current && !set.on_delete
        };
        self.observed.set.as_ref().is_some_and(known)
            && (0..replicas).all(|ordinal| self.observed.serving(ordinal).is_some_and(|pod| pod.revision == revision))
    }

    /// Whether the pods that are to have changed serve, and all others are as they were.
    fn is_moved(&self, run: &Run, stable: &str) -> bool {
        let floor = run.floor();
        let is = |ordinal, revision: &str| self.observed.serving(ordinal).is_some_and(|pod| pod.revision == revision);
        let known = self.observed.set.as_ref().is_some_and(|set| set.revision == run.target && set.settled);
        let restarted = |control: &Control| {
            self.observed.pods.iter().any(|pod| pod.name == control.name && pod.uid != control.uid && pod.serves())
        };
        known
            && (floor..run.replicas).all(|ordinal| is(ordinal, &run.target))
            && self.observed.pods.iter().all(|pod| pod.ordinal >= floor || pod.revision == stable)
            && run.control.as_ref().is_none_or(restarted)
    }

    /// Why a changed pod cannot run.
    fn fault(&self, run: &Run) -> Option<String> {
        let changed = self.observed.pods.iter().filter(|pod| pod.revision == run.target && !pod.terminating);
        let late = |pod: &NodePod| {
            let down = pod.since.map_or(0, |since| self.since(since));
            let deadline = run.policy.progress_deadline_seconds;
            (!pod.ready && down > deadline)
                .then(|| format!("not ready for longer than progressDeadline {deadline}s: {}", pod.trouble))
        };
        changed
            .filter_map(|pod| {
                let why = pod.fault.clone().or_else(|| late(pod))?;
                Some(format!("{} cannot run: {why}", pod.name))
            })
            .next()
    }

    /// The analysis that is the present step, and how it stands.
    fn analysis<'r>(&self, run: &'r Run, stable: &str) -> Option<(&'r Analysis, Tally)> {
        let Some(Stage::Analysis(analysis)) = run.stage() else { return None };
        let live_since = self.canaries_live_since(run);
        let begin = live_since.as_second().saturating_add(analysis.warmup_seconds);
        let first = self.observed.ticks.partition_point(|tick| tick.from.as_second() < begin);
        let sides = Sides {
            target: &run.target,
            stable,
            canaries: usize::try_from(run.replicas - run.floor()).unwrap_or(1),
            control: run.control.as_ref().map(|control| (control.name.as_str(), control.uid.as_str())),
        };
        let ticks = &self.observed.ticks[first..];
        let mut tally = analysis::tally(analysis, &run.policy.metrics, &run.before, sides, ticks);
        let longest = analysis.warmup_seconds.saturating_add(analysis.length_seconds()).saturating_mul(MOST_ANALYSES);
        if tally.outcome == Outcome::Running && live_since != run.since && self.since(run.since) > longest {
            let why = format!("in {}s no canary was there for long enough", self.since(run.since));
            tally.outcome = Outcome::Inconclusive(why);
        }
        Some((analysis, tally))
    }

    /// A canary that is evicted comes back cold, and is none to compare with before it is warm: the analysis begins again.
    fn canaries_live_since(&self, run: &Run) -> Timestamp {
        let lives = |name: &str, uid: &str| self.observed.pods.iter().any(|pod| pod.name == name && pod.uid == uid);
        let gone = |tick: &&Tick| {
            let mut canaries = tick.cells.iter().filter(|(_, cell)| cell.revision == run.target);
            tick.from >= run.since && canaries.any(|(name, cell)| !lives(name, &cell.uid))
        };
        self.observed.ticks.iter().rev().find(gone).map_or(run.since, |tick| tick.to)
    }
}

impl Run {
    /// The present step; none after the last.
    #[must_use]
    pub fn stage(&self) -> Option<&Stage> {
        self.policy.steps.get(self.step)
    }

    /// Pods with this ordinal and above are to be of the new revision. It never goes up.
    #[must_use]
    pub fn floor(&self) -> i32 {
        if !self.prepared {
            return self.replicas;
        }
        let taken = self.policy.steps.iter().take(self.step + 1);
        let pods = taken.filter_map(|stage| stage.pods(self.replicas)).max().unwrap_or(0);
        if self.step >= self.policy.steps.len() { 0 } else { self.replicas - pods }
    }

    fn is_halted_by(&self, by: By) -> bool {
        self.halt.as_ref().is_some_and(|halt| halt.by == by)
    }

    fn next(&mut self, now: Timestamp) {
        self.step = (self.step + 1).min(self.policy.steps.len());
        self.since = now;
    }

    fn restart(&mut self, now: Timestamp) {
        // What the pods did before was done by pods that are gone.
        (self.step, self.since, self.halt, self.control, self.prepared) = (0, now, None, None, false);
    }
}

/// Whether a changed pod is as warm as the next change wants it.
#[must_use]
pub fn is_warm(run: &Run, pod: &NodePod, ticks: &[Tick], now: Timestamp) -> bool {
    let Some(warmth) = run.policy.warmth else { return true };
    let ratio = |hits: u64, misses: u64| (hits + misses > 0).then(|| hits as f64 / (hits + misses) as f64);
    let before = run.before.pods.get(&pod.name).and_then(|window| ratio(window.hits, window.misses));
    let Some(before) = before else { return true };
    if pod.since.is_some_and(|since| now.as_second() - since.as_second() >= warmth.timeout_seconds) {
        return true;
    }
    let cell = ticks.last().and_then(|tick| tick.cells.get(&pod.name)).filter(|cell| cell.uid == pod.uid);
    let now = cell.and_then(|cell| cell.window.as_ref().ok()).and_then(|window| ratio(window.hits, window.misses));
    now.is_some_and(|now| now >= warmth.share * before)
}

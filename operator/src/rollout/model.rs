//! Rollouts in a small world of their own: a StatefulSet's controller, kubelets and a clock, and everything that can happen to them,
//! in any order. What must always hold is looked at after every step.

use std::collections::BTreeMap;

use config::Latencies;
use jiff::{Timestamp, ToSpan};
use proptest::prelude::{Just, ProptestConfig, any, prop, prop_assert_eq, prop_oneof, proptest};
use proptest::strategy::Strategy as Generator;
use serde_json::json;

use super::record::Record;
use super::{Decision, Phase, Step, Strategy, decide};
use crate::analysis::{Cell, Tick, Window};
use crate::cluster::Cluster;
use crate::cluster::tests::resource;
use crate::desired;
use crate::observe::tests::pod;
use crate::observe::{Observed, Set};
use crate::revision::Defaults;

const ROUND_SECONDS: i64 = 2;
const DEADLINE_SECONDS: i64 = 30;
/// Rounds in which nothing changes: then nothing will.
const QUIET_ROUNDS: usize = 40;
const MOST_ROUNDS: usize = 600;

/// A version, by what it is like.
const GOOD: usize = 1;
const LOSES_HITS: usize = 2;
const NEVER_READY: usize = 3;
const VERSIONS: usize = 5;
const NEVER_TRIED: usize = 5;

/// Something that happens.
#[derive(Clone, Debug)]
enum Event {
    Declare(usize),
    Scale(i32),
    KillPod(i32),
    /// Its host is away for so many rounds.
    LoseHost(i32, u8),
    /// Nobody answers at the admin ports for so many rounds.
    LoseData(u8),
    /// All that the operator had in memory is gone; with `true` it dies between the record and the StatefulSet.
    KillOperator(bool),
    DeleteSet,
    Ask(&'static str, bool),
    Pause(bool),
    Wait(u8),
}

fn event() -> impl Generator<Value = Event> {
    prop_oneof![
        4 => (0..VERSIONS).prop_map(Event::Declare),
        2 => (1..7).prop_map(Event::Scale),
        2 => (0..6).prop_map(Event::KillPod),
        1 => ((0..6), 1..20_u8).prop_map(|(ordinal, rounds)| Event::LoseHost(ordinal, rounds)),
        1 => (1..12_u8).prop_map(Event::LoseData),
        2 => any::<bool>().prop_map(Event::KillOperator),
        1 => Just(Event::DeleteSet),
        3 => (prop::sample::select(vec!["promote", "abort", "pause", "resume", "retry"]), any::<bool>())
            .prop_map(|(kind, fresh)| Event::Ask(kind, fresh)),
        1 => any::<bool>().prop_map(Event::Pause),
        8 => (1..15_u8).prop_map(Event::Wait),
    ]
}

#[derive(Debug)]
struct World {
    now: Timestamp,
    observed: Observed,
    /// The revision that the StatefulSet's controller brings pods below the partition back to.
    current: String,
    version: usize,
    replicas: i32,
    allowed: i32,
    paused: bool,
    asked: Option<String>,
    asked_count: usize,
    lost_hosts: BTreeMap<i32, u8>,
    lost_data: u8,
    lives: usize,
    /// Names of revisions by version.
    names: BTreeMap<String, usize>,
    /// Revisions that may become stable: their analysis passed, or someone promoted them.
    passed: Vec<String>,
    phase: Option<Phase>,
}

impl World {
    fn new(allowed: i32) -> World {
        let mut world = World {
            now: Timestamp::from_second(1_800_000_000).unwrap(),
            observed: Observed::default(),
            current: String::new(),
            version: 0,
            replicas: 4,
            allowed,
            paused: false,
            asked: None,
            asked_count: 0,
            lost_hosts: BTreeMap::new(),
            lost_data: 0,
            lives: 0,
            names: BTreeMap::new(),
            passed: Vec::new(),
            phase: None,
        };
        (0..20).for_each(|_| world.round());
        assert_eq!(world.phase, Some(Phase::Stable), "the first deployment does not come to its end");
        world
    }

    fn cluster(&self) -> Cluster {
        let analysis = json!({"warmup": "0s", "interval": "2s", "count": 4, "minRequests": 100,
            "failureLimit": 1, "inconclusiveLimit": 1, "consecutiveErrorLimit": 1});
        let mut resource = resource(json!({
            "image": format!("cache-node:{}", self.version), "replicas": self.replicas, "paused": self.paused,
            "disruption": {"maxUnavailable": self.allowed},
            "rollout": {
                "strategy": "Canary", "progressDeadline": format!("{DEADLINE_SECONDS}s"),
                "steps": [
                    {"type": "SetPods", "pods": 1}, {"type": "Analysis", "analysis": analysis},
                    {"type": "SetPercent", "percent": 50}, {"type": "Pause", "duration": "4s"},
                ],
                "metrics": [
                    {"name": "errorRatio", "compare": "Difference", "max": "0.001"},
                    {"name": "hitRatio", "compare": "Difference", "min": "-0.05"},
                ],
            },
        }));
        if let Some(asked) = &self.asked {
            resource.metadata.annotations = Some([("gannet.dev/rollout".to_owned(), asked.clone())].into());
        }
        Cluster::parse(&resource).unwrap()
    }

    fn happens(&mut self, event: &Event) {
        match *event {
            Event::Declare(version) => self.version = version,
            Event::Scale(replicas) => self.replicas = replicas,
            Event::KillPod(ordinal) => self.observed.pods.retain(|pod| pod.ordinal != ordinal),
            Event::LoseHost(ordinal, rounds) => {
                self.lost_hosts.insert(ordinal, rounds);
            }
            Event::LoseData(rounds) => self.lost_data = rounds,
            Event::KillOperator(halfway) => {
                if halfway && let Some(step) = self.decided() {
                    self.check(&step);
                    self.store(&step);
                }
                self.observed.ticks.clear();
            }
            Event::DeleteSet => {
                self.observed.set = None;
                self.observed.pods.clear();
            }
            Event::Ask(kind, fresh) => {
                let run = self.observed.record.as_ref().and_then(|record| record.run.as_ref());
                let rejected = self.observed.record.as_ref().and_then(|record| record.rejected.last());
                let revision = run.map(|run| run.target.clone()).or(rejected.map(|rejected| rejected.revision.clone()));
                let Some(revision) = revision else { return };
                self.asked_count += usize::from(fresh);
                if kind == "promote" {
                    self.passed.push(revision.clone());
                }
                self.asked = Some(format!("{kind}@{revision}/{}", self.asked_count));
            }
            Event::Pause(paused) => self.paused = paused,
            Event::Wait(rounds) => (0..rounds).for_each(|_| self.round()),
        }
        self.round();
    }

    fn decided(&self) -> Option<Step> {
        let defaults = Defaults { node_image: "cache-node".to_owned(), ..Defaults::default() };
        match decide(&self.cluster(), &self.observed, &defaults, self.now).unwrap() {
            Decision::Step(step) => Some(*step),
            Decision::NothingYet => None,
        }
    }

    /// One reconcile, and what Kubernetes makes of it.
    fn round(&mut self) {
        if let Some(step) = self.decided() {
            self.check(&step);
            self.store(&step);
            self.apply(&step);
            self.phase = Some(step.phase);
        }
        self.kubernetes();
        self.now += ROUND_SECONDS.seconds();
        self.look();
    }

    /// What must hold of every step.
    fn check(&mut self, step: &Step) {
        self.names.insert(step.declared.name.clone(), self.version);
        let record = &step.record;
        let before = self.observed.record.clone().unwrap_or_default();
        for note in &step.notes {
            if note.reason == "AnalysisPassed" {
                self.passed.push(note.text.split(':').next().unwrap_or_default().to_owned());
            }
        }
        if let (Some(was), Some(is)) = (&before.stable, &record.stable)
            && was != is
        {
            assert!(self.passed.contains(is), "{is} was promoted without a passed analysis: {step:?}");
        }
        if let (Some(was), Some(is)) = (&before.run, &record.run)
            && was.target == is.target
        {
            assert_eq!(was.replicas, is.replicas, "scaled in a rollout");
            let deleted = self.observed.set.as_ref().is_none_or(|set| Some(&set.revision) == record.stable.as_ref());
            assert!(is.step >= was.step || deleted, "a rollout went back a step");
        }
        for name in record.stable.iter().chain(record.run.iter().map(|run| &run.target)) {
            let kept = desired::kept_revisions(step, &self.observed);
            assert!(kept.iter().any(|revision| revision.name == *name), "{name} cannot be restored");
        }
        self.check_disruption(step);
    }

    fn check_disruption(&self, step: &Step) {
        let Some(set) = &self.observed.set else { return };
        let leaving = |partition: i32, template: &str| {
            let leaves = |pod: &&crate::observe::NodePod| {
                pod.ordinal < step.replicas && pod.ordinal >= partition && pod.revision != template && pod.serves()
            };
            self.observed.pods.iter().filter(leaves).count()
        };
        let was = if set.on_delete { 0 } else { leaving(set.partition, &set.revision) };
        let is = match step.strategy {
            Strategy::Partition(partition) => leaving(partition, &step.target.name),
            Strategy::OnDelete => 0,
        };
        let deleted = step.delete.iter().filter(|pod| pod.serves() && pod.ordinal < step.replicas).count();
        let down = (0..step.replicas).filter(|ordinal| self.observed.serving(*ordinal).is_none()).count();
        let allowed = usize::try_from(self.allowed).unwrap();
        if is > was || deleted > 0 {
            assert!(
                down + is + deleted <= allowed,
                "{down} down, {is} leave, {deleted} deleted, {allowed} allowed: {step:?}"
            );
        }
    }

    fn store(&mut self, step: &Step) {
        let kept: Vec<String> =
            desired::kept_revisions(step, &self.observed).iter().map(|revision| revision.name.clone()).collect();
        for new in [&step.target, &step.declared] {
            if !self.observed.revisions.iter().any(|known| known.name == new.name) {
                self.observed.revisions.push(new.clone());
            }
        }
        self.observed.revisions.retain(|revision| kept.contains(&revision.name));
        // As it is stored and read back.
        let (annotations, _) = step.record.store().unwrap();
        let mut stored = k8s_openapi::api::apps::v1::ControllerRevision::default();
        stored.metadata.annotations = Some(annotations);
        self.observed.record = Some(Record::read(&stored).unwrap());
    }

    fn apply(&mut self, step: &Step) {
        let is_new = self.observed.set.is_none();
        let revision = step.target.name.clone();
        if is_new {
            self.current.clone_from(&revision);
        }
        let (partition, on_delete) = match step.strategy {
            Strategy::Partition(partition) => (partition, false),
            Strategy::OnDelete => (0, true),
        };
        let current = self.current == revision;
        self.observed.set = Some(Set {
            replicas: step.replicas,
            partition,
            on_delete,
            revision,
            settled: !is_new,
            current,
            update: None,
        });
        self.observed.pods.retain(|pod| !step.delete.iter().any(|deleted| deleted.uid == pod.uid));
    }

    /// A StatefulSet's controller (Parallel) and the kubelets.
    fn kubernetes(&mut self) {
        let Some(set) = self.observed.set.clone() else { return };
        let now = self.now;
        self.lost_hosts.retain(|_, rounds| {
            *rounds = rounds.saturating_sub(1);
            *rounds > 0
        });
        for pod in &mut self.observed.pods {
            let broken = self.names.get(&pod.revision) == Some(&NEVER_READY);
            let ready = !broken && !self.lost_hosts.contains_key(&pod.ordinal);
            if ready != pod.ready {
                (pod.ready, pod.since) = (ready, Some(now));
            }
        }
        self.observed.pods.retain(|pod| pod.ordinal < set.replicas);
        if !set.on_delete {
            for ordinal in (set.partition..set.replicas).rev() {
                let Some(index) = self.observed.pods.iter().position(|pod| pod.ordinal == ordinal) else { continue };
                if self.observed.pods[index].revision != set.revision {
                    self.observed.pods.remove(index);
                    break;
                }
                if !self.observed.pods[index].ready {
                    break;
                }
            }
        }
        for ordinal in 0..set.replicas {
            if !self.observed.pods.iter().any(|pod| pod.ordinal == ordinal) {
                let updated = set.on_delete || ordinal >= set.partition;
                let revision = if updated { &set.revision } else { &self.current };
                let mut new = pod(ordinal, revision, false);
                self.lives += 1;
                (new.uid, new.since) = (format!("life-{}", self.lives), Some(now));
                self.observed.pods.push(new);
            }
        }
        self.observed.pods.sort_by_key(|pod| pod.ordinal);
        let all = self.observed.pods.iter().all(|pod| pod.revision == set.revision && pod.ready);
        if all && !set.on_delete {
            self.current.clone_from(&set.revision);
        }
        let current = self.current == set.revision;
        self.observed.set = Some(Set { settled: true, current, ..set });
    }

    /// The operator's look at what the pods did in this round.
    fn look(&mut self) {
        self.lost_data = self.lost_data.saturating_sub(1);
        let silent = self.lost_data > 0;
        let cells = self.observed.pods.iter().map(|pod| {
            let version = self.names.get(&pod.revision).copied().unwrap_or_default();
            let window = match (pod.serves(), silent) {
                (true, false) => Ok(window(version)),
                (false, _) => Err("it does not run".to_owned()),
                (_, true) => Err("its admin port did not answer".to_owned()),
            };
            let cell =
                Cell { revision: pod.revision.clone(), image: pod.revision.clone(), uid: pod.uid.clone(), window };
            (pod.name.clone(), cell)
        });
        let tick = Tick { from: self.now - ROUND_SECONDS.seconds(), to: self.now, cells: cells.collect() };
        self.observed.ticks.push(tick);
        let surplus = self.observed.ticks.len().saturating_sub(40);
        self.observed.ticks.drain(..surplus);
    }

    /// Rounds until nothing has changed for a while.
    fn settle(&mut self) {
        let picture = |world: &World| {
            let pods: Vec<_> = world.observed.pods.iter().map(|pod| (pod.uid.clone(), pod.ready)).collect();
            (world.observed.set.clone(), world.observed.record.clone(), pods)
        };
        let (mut last, mut quiet) = (picture(self), 0);
        for _ in 0..MOST_ROUNDS {
            self.round();
            let now = picture(self);
            quiet = if now == last { quiet + 1 } else { 0 };
            last = now;
            if quiet > QUIET_ROUNDS {
                return;
            }
        }
        panic!("there is no end: {:?} {:?}", self.phase, self.observed.record);
    }

    fn revisions(&self) -> Vec<&str> {
        self.observed.pods.iter().map(|pod| pod.revision.as_str()).collect()
    }
}

fn window(version: usize) -> Window {
    let (requests, hits) = (20_000, if version == LOSES_HITS { 12_000 } else { 18_000 });
    let buckets = [(100, requests - 100), (900, 100)].into();
    Window {
        parts: 1,
        requests,
        errors: 0,
        hits,
        misses: requests - hits,
        anonymous: 10 << 20,
        restarts: 0,
        latencies: Latencies { sum_us: 100 * requests, buckets },
    }
}

fn check_end(world: &World) {
    let record = world.observed.record.clone().unwrap_or_default();
    let stable = record.stable.clone().unwrap_or_default();
    let declared = world.decided().unwrap().declared.name;
    let phase = world.phase.unwrap();
    match phase {
        Phase::Stable => assert!(world.revisions().iter().all(|name| *name == declared), "{world:?}"),
        Phase::Rejected => assert!(world.revisions().iter().all(|name| *name == stable), "{world:?}"),
        Phase::Paused => {
            assert!(record.run.is_some_and(|run| run.halt.is_some()), "paused without a reason: {world:?}")
        }
        _ => panic!("{phase:?} is no end: {world:?}"),
    }
    if matches!(phase, Phase::Stable | Phase::Rejected) {
        assert_eq!(world.observed.pods.len(), usize::try_from(world.replicas).unwrap(), "scaling was held for ever");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_there_is_an_end(allowed in 1..3_i32, events in prop::collection::vec(event(), 1..16)) {
        let mut world = World::new(allowed);
        events.iter().for_each(|event| world.happens(event));
        world.happens(&Event::Pause(false));
        world.settle();
        check_end(&world);
        // A good version gets through whatever came before, where someone takes back what was asked for by hand.
        world.version = NEVER_TRIED;
        world.asked = None;
        world.replicas = 4;
        world.settle();
        prop_assert_eq!(world.phase, Some(Phase::Stable));
        check_end(&world);
    }
}

/// Thousands in a soak, by GANNET_CASES.
fn cases() -> u32 {
    std::env::var("GANNET_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(32)
}

#[test]
fn a_good_version_is_promoted_and_a_bad_one_goes_back() {
    for (version, end) in [(GOOD, Phase::Stable), (LOSES_HITS, Phase::Rejected), (NEVER_READY, Phase::Rejected)] {
        let mut world = World::new(1);
        let before = world.revisions()[0].to_owned();
        world.version = version;
        world.settle();
        assert_eq!(world.phase, Some(end), "version {version}");
        assert_eq!(world.revisions().iter().all(|name| *name == before), end == Phase::Rejected);
    }
}

#[test]
fn one_node_alone_is_never_promoted_without_a_hand() {
    let mut world = World::new(1);
    world.replicas = 1;
    world.settle();
    world.version = GOOD;
    world.settle();
    assert_eq!(world.phase, Some(Phase::Paused));
    world.happens(&Event::Ask("promote", true));
    world.settle();
    assert_eq!(world.phase, Some(Phase::Stable));
}

#[test]
fn a_set_that_was_deleted_comes_back_stable_first() {
    let mut world = World::new(1);
    let before = world.revisions()[0].to_owned();
    world.version = GOOD;
    while world.phase != Some(Phase::Analysing) {
        world.round();
    }
    world.happens(&Event::DeleteSet);
    assert!(world.revisions().iter().all(|name| *name == before), "{:?}", world.revisions());
    world.settle();
    assert_eq!(world.phase, Some(Phase::Stable));
    assert!(!world.revisions().contains(&before.as_str()));
}

#[test]
fn a_version_that_all_pods_changed_to_is_superseded_before_it_is_stable() {
    let mut world = World::new(1);
    world.version = GOOD;
    let all_changed = |world: &World| {
        let target =
            world.observed.record.as_ref().and_then(|record| record.run.as_ref()).map(|run| run.target.clone());
        target.is_some_and(|target| world.revisions().iter().all(|name| *name == target))
    };
    while !all_changed(&world) {
        world.round();
    }
    world.happens(&Event::Ask("pause", true));
    world.settle();
    world.version = NEVER_TRIED;
    world.settle();
    assert_eq!(world.phase, Some(Phase::Stable), "{:?}", world.observed.record);
}

#[test]
fn pods_that_are_all_new_are_looked_at_anew() {
    let mut world = World::new(1);
    world.version = GOOD;
    world.round();
    world.happens(&Event::Ask("pause", true));
    world.happens(&Event::Pause(true));
    world.happens(&Event::DeleteSet);
    world.settle();
    world.happens(&Event::Pause(false));
    world.happens(&Event::Ask("resume", true));
    world.settle();
    assert_eq!(world.phase, Some(Phase::Stable), "{:?}", world.observed.record);
}

#[test]
fn a_canary_that_was_replaced_is_looked_at_anew() {
    let mut world = World::new(1);
    world.version = GOOD;
    let looks = |world: &World| world.decided().and_then(|step| step.tally).map_or(0, |tally| tally.measured);
    while looks(&world) < 3 {
        world.round();
    }
    world.happens(&Event::KillPod(3));
    assert!(looks(&world) < 2, "what its former life did still counts: {} looks", looks(&world));
    world.settle();
    assert_eq!(world.phase, Some(Phase::Stable));
}

#[test]
fn a_rejected_version_is_tried_again_only_when_asked() {
    let mut world = World::new(1);
    world.version = LOSES_HITS;
    world.settle();
    let tries = world.lives;
    (0..50).for_each(|_| world.round());
    assert_eq!(world.lives, tries, "tried again by itself");
    world.happens(&Event::Ask("retry", true));
    world.settle();
    assert!(world.lives > tries);
    assert_eq!(world.phase, Some(Phase::Rejected));
    let tries = world.lives;
    // The same annotation, again and again, as a manifest that is applied over and over.
    (0..50).for_each(|_| world.round());
    assert_eq!(world.lives, tries);
}

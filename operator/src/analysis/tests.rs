use config::Latencies;
use jiff::{Timestamp, ToSpan};

use super::judge::{Pair, judge};
use super::noise::{Noise, Noises};
use super::{Analysis, Before, Cell, Compare, Metric, Name, Outcome, Side, Sides, Tick, Verdict, Window, tally};

const ANALYSIS: Analysis = Analysis {
    warmup_seconds: 0,
    interval_seconds: 10,
    count: 4,
    min_requests: 1000,
    failure_limit: 1,
    inconclusive_limit: 1,
    consecutive_error_limit: 1,
};

/// 100 000 requests, so many of a thousand slow, so many of a thousand missed.
fn window(slow: u64, missed: u64) -> Window {
    let buckets = [(100, 100_000 - slow * 100), (5000, slow * 100)].into();
    Window {
        parts: 1,
        requests: 100_000,
        errors: 0,
        hits: 100_000 - missed * 100,
        misses: missed * 100,
        anonymous: 100 << 20,
        restarts: 0,
        latencies: Latencies { sum_us: 0, buckets },
    }
}

fn metric(name: Name, compare: Compare, limit: f64) -> Metric {
    let at_least = if compare == Compare::Ratio { limit < 1.0 } else { limit < 0.0 };
    Metric { name, compare, limit, at_least, side: Side::Peers }
}

/// The last pod is the canary.
fn tick(number: i64, windows: &[Result<Window, String>], canary: &str) -> Tick {
    let from = Timestamp::UNIX_EPOCH + (10 * number).seconds();
    let last = windows.len() - 1;
    let cells = windows.iter().enumerate().map(|(index, window)| {
        let revision = if index == last { canary } else { "old" };
        let cell = Cell {
            revision: revision.to_owned(),
            image: revision.to_owned(),
            uid: revision.to_owned(),
            window: window.clone(),
        };
        (format!("demo-{index}"), cell)
    });
    Tick { from, to: from + 10.seconds(), cells: cells.collect() }
}

fn analysed(metric: &Metric, before: [Window; 3], after: impl Fn(i64) -> [Result<Window, String>; 3]) -> super::Tally {
    let metrics = [metric.clone()];
    let earlier: Vec<Tick> = (0..6).map(|number| tick(number, &before.clone().map(Ok), "old")).collect();
    let later: Vec<Tick> = (6..12).map(|number| tick(number, &after(number), "new")).collect();
    let sides = Sides { target: "new", stable: "old", canaries: 1, control: None };
    tally(&ANALYSIS, &metrics, &Before::of(&earlier, "old", &metrics), sides, &later)
}

fn hits() -> Metric {
    metric(Name::HitRatio, Compare::Difference, -0.02)
}

#[test]
fn levels_may_differ_and_only_change_counts() {
    // The canary always missed more than its peers, and now all of them miss five points more.
    let before = [window(1, 50), window(1, 70), window(1, 300)];
    let tally = analysed(&hits(), before, |_| [Ok(window(1, 100)), Ok(window(1, 120)), Ok(window(1, 350))]);
    assert_eq!(tally.outcome, Outcome::Passed);
    let last = tally.counts[0].last.clone().unwrap();
    assert!((last.canary - 0.65).abs() < 1e-9 && (last.expected - 0.65).abs() < 1e-3, "{last:?}");
}

#[test]
fn a_change_that_the_peers_do_not_share_fails_with_both_figures() {
    let before = [window(1, 50), window(1, 70), window(1, 60)];
    let tally = analysed(&hits(), before, |_| [Ok(window(1, 50)), Ok(window(1, 70)), Ok(window(1, 160))]);
    let Outcome::Failed(why) = &tally.outcome else { panic!("{tally:?}") };
    assert!(why.starts_with("hitRatio 84.00 %, expected 94.00 %"), "{why}");
    assert_eq!(tally.measured, 2, "more looks were taken than the failure limit needs");
}

#[test]
fn more_of_it_is_no_failure_where_the_limit_is_a_lower_one() {
    let before = [window(1, 50), window(1, 70), window(1, 60)];
    let tally = analysed(&hits(), before, |_| [Ok(window(1, 50)), Ok(window(1, 70)), Ok(window(1, 0))]);
    assert_eq!(tally.outcome, Outcome::Passed);
}

#[test]
fn too_little_data_never_passes() {
    let small = Window { requests: 999, ..window(1, 50) };
    let before = || [window(1, 50), window(1, 50), window(1, 50)];
    let good = || Ok(window(1, 50));
    let paused = |tally: super::Tally, words: &str| match tally.outcome {
        Outcome::Inconclusive(why) => assert!(why.contains(words), "{why}"),
        other => panic!("{other:?}, not \"{words}\""),
    };
    let canary = |window: Window| move |_| [good(), good(), Ok(window.clone())];
    paused(analysed(&hits(), before(), canary(small.clone())), "999 requests, of 1000");
    paused(analysed(&hits(), before(), |_| [good(), good(), Err("no answer".to_owned())]), "no answer");
    paused(analysed(&hits(), before(), |_| [Err("no answer".to_owned()), Ok(small.clone()), good()]), "0 of 2 peers");
    let slow = metric(Name::SlowShare, Compare::Ratio, 1.5);
    let few = || Window {
        requests: 5000,
        latencies: Latencies { sum_us: 0, buckets: [(100, 4995), (5000, 5)].into() },
        ..window(1, 50)
    };
    paused(analysed(&slow, [few(), few(), few()], |_| [Ok(few()), Ok(few()), Ok(few())]), "too few requests");
}

#[test]
fn one_tag_with_two_images_is_inconclusive() {
    let metrics = [hits()];
    let earlier: Vec<Tick> = (0..6).map(|number| tick(number, &vec![Ok(window(1, 50)); 3], "old")).collect();
    let mut later: Vec<Tick> = (6..12).map(|number| tick(number, &vec![Ok(window(1, 50)); 3], "new")).collect();
    later.iter_mut().for_each(|tick| tick.cells.get_mut("demo-0").unwrap().image = "another".to_owned());
    let sides = Sides { target: "new", stable: "old", canaries: 1, control: None };
    let tally = tally(&ANALYSIS, &metrics, &Before::of(&earlier, "old", &metrics), sides, &later);
    assert!(matches!(tally.outcome, Outcome::Inconclusive(why) if why.contains("different images")));
}

#[test]
fn a_single_bad_look_is_within_the_failure_limit() {
    let before = [window(1, 50), window(1, 50), window(1, 50)];
    let tally = analysed(&hits(), before, |number| {
        let missed = if number == 7 { 200 } else { 50 };
        [Ok(window(1, 50)), Ok(window(1, 50)), Ok(window(1, missed))]
    });
    assert_eq!(tally.outcome, Outcome::Passed);
    assert_eq!((tally.counts[0].failures, tally.counts[0].passes), (1, 3));
}

#[test]
fn the_control_is_the_pod_that_was_restarted_too() {
    let metrics = [Metric { side: Side::Control, ..hits() }];
    let earlier: Vec<Tick> = (0..6).map(|number| tick(number, &vec![Ok(window(1, 50)); 4], "old")).collect();
    // Canary and control are both cold: beside its warm peers the canary would fail.
    let cold = || Ok(window(1, 400));
    let good = || Ok(window(1, 50));
    let mut later: Vec<Tick> = (6..12).map(|number| tick(number, &[good(), good(), cold(), cold()], "new")).collect();
    let before = Before::of(&earlier, "old", &metrics);
    let sides = Sides { target: "new", stable: "old", canaries: 1, control: Some(("demo-2", "old")) };
    let blind = tally(&ANALYSIS, &metrics, &before, sides, &later);
    assert!(matches!(blind.outcome, Outcome::Inconclusive(_)), "it was not restarted yet");
    later.iter_mut().for_each(|tick| tick.cells.get_mut("demo-2").unwrap().uid = "restarted".to_owned());
    assert_eq!(tally(&ANALYSIS, &metrics, &before, sides, &later).outcome, Outcome::Passed);
    let none = Sides { control: None, ..sides };
    assert!(matches!(tally(&ANALYSIS, &metrics, &before, none, &later).outcome, Outcome::Inconclusive(_)));
}

/// Both sides wander alike.
fn both(variance: f64) -> Noises {
    let noise = Noise { seen: 60.0 * variance, chance: 0.0, free: 60.0 };
    Noises { canaries: noise, peers: noise }
}

type Spoil = fn(&mut Window);

#[test]
fn each_metric_sees_what_it_is_for() {
    let better = |name: Name| window(if name == Name::SlowShare { 1 } else { 2 }, 50);
    let cases: [(Metric, Spoil); 7] = [
        (metric(Name::ErrorRatio, Compare::Difference, 0.001), |window| window.errors = 500),
        (metric(Name::SlowShare, Compare::Ratio, 1.5), |window| {
            *window = Window { latencies: self::window(9, 0).latencies, ..window.clone() }
        }),
        (metric(Name::P50Latency, Compare::Ratio, 1.2), |window| window.latencies.buckets = [(150, 100_000)].into()),
        (metric(Name::P99Latency, Compare::Difference, 1000.0), |window| {
            window.latencies = self::window(30, 0).latencies
        }),
        (metric(Name::HitRatio, Compare::Ratio, 0.9), |window| (window.hits, window.misses) = (50_000, 50_000)),
        (metric(Name::AnonymousMemory, Compare::Ratio, 1.1), |window| window.anonymous += 30 << 20),
        (metric(Name::Restarts, Compare::Difference, 0.0), |window| window.restarts = 1),
    ];
    for (metric, spoil) in cases {
        let before = better(metric.name);
        let pair = |now: Window| Pair { before: &before, slow: 4000, now };
        let judged = |canary: Window| {
            let peers = [pair(better(metric.name)), pair(better(metric.name))];
            judge(&metric, &[pair(canary)], &peers, both(0.0)).verdict
        };
        assert_eq!(judged(better(metric.name)), Verdict::Pass, "{:?}", metric.name);
        let mut spoilt = better(metric.name);
        spoil(&mut spoilt);
        assert_eq!(judged(spoilt), Verdict::Fail, "{:?}", metric.name);
    }
}

#[test]
fn a_metric_that_wanders_by_itself_needs_more_to_fail() {
    let before = window(1, 50);
    let pair = |missed| Pair { before: &before, slow: 4000, now: window(1, missed) };
    let judged = |noise| judge(&hits(), &[pair(75)], &[pair(50), pair(50)], noise).verdict;
    assert_eq!(judged(both(0.0)), Verdict::Fail);
    assert!(matches!(judged(both(1e-4)), Verdict::Inconclusive(_)));
}

#[test]
fn pods_that_hit_everything_and_stirred_once_do_not_hide_a_tenth_of_the_hits() {
    let metrics = [hits()];
    let first = [window(1, 3), window(1, 1), window(1, 12)];
    let earlier: Vec<Tick> = (0..6)
        .map(|number| {
            let windows = if number == 0 { first.clone() } else { [window(1, 0), window(1, 0), window(1, 0)] };
            tick(number, &windows.map(Ok), "old")
        })
        .collect();
    let after = |number| tick(number, &[Ok(window(1, 0)), Ok(window(1, 0)), Ok(window(1, 120))], "new");
    let later: Vec<Tick> = (6..12).map(after).collect();
    let sides = Sides { target: "new", stable: "old", canaries: 1, control: None };
    let tally = tally(&ANALYSIS, &metrics, &Before::of(&earlier, "old", &metrics), sides, &later);
    assert!(matches!(&tally.outcome, Outcome::Failed(why) if why.starts_with("hitRatio 88.00 %")), "{tally:?}");
}

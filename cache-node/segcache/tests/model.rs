//! Any sequence of operations and times, against a plain map: nothing that has expired is served, nothing live is lost
//! but to eviction, values are byte for byte, CAS and counters are exact.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are not seen as tests by the linter")]

use std::collections::HashMap;

use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};
use segcache::{ArithmeticError, Cache, Deadline, Eviction, Mode, NewItem, Outcome, Settings, StoreError};

const START: u64 = 1_800_000_000;
const LARGEST: usize = 3000;

#[derive(Clone, Debug)]
enum Operation {
    Get(u16),
    Peek(u16),
    Store { mode: Kind, key: u16, length: usize, flags: u32, ttl: Option<i64>, cas: Option<u64> },
    Reserve { mode: Kind, key: u16, length: usize, ttl: Option<i64>, commit: bool, between: u16 },
    Number { key: u16, text: String, ttl: Option<i64> },
    Count { key: u16, delta: u64, up: bool },
    Touch { key: u16, ttl: Option<i64>, get: bool },
    Delete(u16),
    Flush(Option<u64>),
    Advance(u64),
    Fill { first: u16, count: u16, length: usize, ttl: Option<i64> },
    Maintain,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Set,
    Add,
    Replace,
    Append,
    Prepend,
    /// With the CAS that is there, or with a wrong one.
    Cas(bool),
}

#[derive(Clone, Debug, PartialEq)]
struct Known {
    value: Vec<u8>,
    flags: u32,
    cas: u64,
    deadline: Deadline,
    read: bool,
}

struct Model {
    now: u64,
    items: HashMap<u16, Known>,
    flush_at: Option<u64>,
    last_cas: u64,
    writes: u64,
}

fn ttls() -> impl Strategy<Value = Option<i64>> {
    prop_oneof![
        2 => Just(None),
        6 => (0_i64..100).prop_map(Some),
        3 => (0_i64..5_000).prop_map(Some),
        1 => (0_i64..10_000_000).prop_map(Some),
        1 => Just(Some(-1)),
    ]
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        5 => Just(Kind::Set),
        1 => Just(Kind::Add),
        1 => Just(Kind::Replace),
        1 => Just(Kind::Append),
        1 => Just(Kind::Prepend),
        2 => any::<bool>().prop_map(Kind::Cas),
    ]
}

fn operations(keys: u16) -> impl Strategy<Value = Operation> {
    let lengths = || prop_oneof![8 => 0_usize..200, 2 => 0..LARGEST + 2];
    let flags = prop_oneof![3 => Just(0_u32), 1 => 0_u32..300, 1 => any::<u32>()];
    let own_cas = prop_oneof![9 => Just(None), 1 => any::<u64>().prop_map(Some)];
    let number = prop_oneof![
        any::<u64>().prop_map(|n| n.to_string()),
        Just("007".to_owned()),
        Just("5   ".to_owned()),
        Just("18446744073709551615".to_owned()),
        Just("nine".to_owned()),
        Just("99".to_owned()),
    ];
    prop_oneof![
        20 => (0..keys).prop_map(Operation::Get),
        3 => (0..keys).prop_map(Operation::Peek),
        30 => (kinds(), 0..keys, lengths(), flags, ttls(), own_cas).prop_map(|(mode, key, length, flags, ttl, cas)| {
            Operation::Store { mode, key, length, flags, ttl, cas }
        }),
        4 => (kinds(), 0..keys, lengths(), ttls(), any::<bool>(), 0..keys).prop_map(
            |(mode, key, length, ttl, commit, between)| Operation::Reserve { mode, key, length, ttl, commit, between }
        ),
        3 => (0..keys, number, ttls()).prop_map(|(key, text, ttl)| Operation::Number { key, text, ttl }),
        6 => (0..keys, prop_oneof![0_u64..1000, any::<u64>()], any::<bool>())
            .prop_map(|(key, delta, up)| Operation::Count { key, delta, up }),
        6 => (0..keys, ttls(), any::<bool>()).prop_map(|(key, ttl, get)| Operation::Touch { key, ttl, get }),
        5 => (0..keys).prop_map(Operation::Delete),
        1 => prop_oneof![Just(None), (0_u64..20).prop_map(Some)].prop_map(Operation::Flush),
        8 => prop_oneof![5 => 0_u64..5, 2 => 0_u64..200, 1 => 0_u64..100_000].prop_map(Operation::Advance),
        3 => (0..keys, 0_u16..300, 0_usize..100, ttls())
            .prop_map(|(first, count, length, ttl)| Operation::Fill { first, count, length, ttl }),
        3 => Just(Operation::Maintain),
    ]
}

fn key_bytes(key: u16) -> Vec<u8> {
    let mut bytes = format!("key-{key}").into_bytes();
    // Some keys are long, some are binary.
    if key.is_multiple_of(17) {
        bytes.resize(250, (key % 256) as u8);
    }
    bytes
}

/// A value that tells of every byte where it belongs.
fn value_bytes(key: u16, length: usize, salt: u64) -> Vec<u8> {
    (0..length as u64)
        .map(|at| (at.wrapping_mul(31) ^ u64::from(key) ^ salt.wrapping_mul(7) ^ (at >> 8)) as u8)
        .collect()
}

fn deadline(ttl: Option<i64>, now: u64) -> Deadline {
    match ttl {
        None => Deadline::Never,
        Some(ttl) if ttl < 0 => Deadline::At(now - 1),
        Some(ttl) => Deadline::At(now + ttl.unsigned_abs()),
    }
}

impl Model {
    fn live(&self, key: u16) -> Option<&Known> {
        self.items.get(&key).filter(|known| !known.deadline.is_past(self.now))
    }

    fn advance(&mut self, now: u64) {
        self.now = now;
        if self.flush_at.is_some_and(|at| at <= now) {
            self.flush_at = None;
            self.items.clear();
        }
    }

    /// What a store must answer, and what is there afterwards.
    fn store(&mut self, mode: Mode, key: u16, value: Vec<u8>, flags: u32, deadline: Deadline) -> Expected {
        let too_large = |size| Expected::Is(Err(StoreError::TooLarge { size, limit: LARGEST }));
        if value.len() > LARGEST {
            return too_large(value.len());
        }
        let old = self.live(key).cloned();
        let (value, flags, deadline) = match (mode, old) {
            (Mode::Set, _) | (Mode::Add, None) | (Mode::Replace, Some(_)) => (value, flags, deadline),
            (Mode::Cas(expected), Some(old)) if old.cas == expected => (value, flags, deadline),
            (Mode::Cas(_), Some(_)) => return Expected::Is(Ok(Outcome::Exists)),
            (Mode::Cas(_), None) => return Expected::Is(Ok(Outcome::NotFound)),
            (Mode::Append, Some(old)) => ([old.value, value].concat(), old.flags, old.deadline),
            (Mode::Prepend, Some(old)) => ([value, old.value].concat(), old.flags, old.deadline),
            (Mode::Add | Mode::Replace | Mode::Append | Mode::Prepend, _) => {
                return Expected::Is(Ok(Outcome::NotStored));
            }
        };
        if value.len() > LARGEST {
            return too_large(value.len());
        }
        Expected::Stored(Known { value, flags, cas: 0, deadline, read: false })
    }
}

enum Expected {
    Is(Result<Outcome, StoreError>),
    Stored(Known),
}

struct Pair {
    cache: Cache,
    model: Model,
    /// With eviction an item may be missing, but never wrong.
    may_evict: bool,
    evicted_seen: u64,
}

impl Pair {
    fn new(eviction: Eviction, budget: usize, seed: u64) -> Pair {
        let settings = Settings { budget, max_item_size: LARGEST, eviction, seed };
        Pair {
            cache: Cache::new(settings, START).unwrap(),
            model: Model { now: START, items: HashMap::new(), flush_at: None, last_cas: 0, writes: 0 },
            may_evict: eviction != Eviction::None,
            evicted_seen: 0,
        }
    }

    /// If the cache has evicted something, whatever it no longer has leaves the model.
    fn follow_evictions(&mut self) {
        let evicted = self.cache.counters().evicted;
        if evicted == self.evicted_seen {
            return;
        }
        assert!(self.may_evict, "evicted without eviction");
        let before = self.model.items.len();
        let (cache, now) = (&self.cache, self.model.now);
        self.model.items.retain(|key, known| known.deadline.is_past(now) || cache.peek(&key_bytes(*key)).is_some());
        let lost = (before - self.model.items.len()) as u64;
        assert!(
            lost <= evicted - self.evicted_seen,
            "{lost} items are gone, {} were evicted",
            evicted - self.evicted_seen
        );
        self.evicted_seen = evicted;
    }

    fn check(&mut self, key: u16) {
        self.follow_evictions();
        let bytes = key_bytes(key);
        let item = self.cache.peek(&bytes);
        match (item, self.model.live(key)) {
            (None, None) => (),
            (Some(item), Some(known)) => {
                assert_eq!(item.value, known.value, "value of {key}");
                assert_eq!((item.flags, item.cas), (known.flags, known.cas), "flags and cas of {key}");
                assert_eq!(item.deadline, known.deadline, "deadline of {key}");
                assert_eq!(item.hit_before, known.read, "hit of {key}");
            }
            (item, known) => panic!("{key} at {}: cache has {item:?}, model has {known:?}", self.model.now),
        }
    }

    fn check_all(&mut self) {
        let keys: Vec<u16> = self.model.items.keys().copied().collect();
        for key in keys {
            self.check(key);
        }
        let live = self.model.items.values().filter(|known| !known.deadline.is_past(self.model.now)).count();
        assert_eq!(self.cache.iter().count(), live);
        let counters = self.cache.counters();
        assert!(counters.items >= live as u64);
        assert!(counters.index_bytes + counters.segment_bytes + counters.metadata_bytes <= counters.budget);
        let bucketed: u64 = self.cache.ttl_buckets().map(|bucket| bucket.items).sum();
        assert!(bucketed >= counters.items, "{bucketed} in buckets, {} in all", counters.items);
        assert_eq!(counters.stored, self.model.writes);
    }

    fn mode(&self, kind: Kind, key: u16) -> Mode {
        match kind {
            Kind::Set => Mode::Set,
            Kind::Add => Mode::Add,
            Kind::Replace => Mode::Replace,
            Kind::Append => Mode::Append,
            Kind::Prepend => Mode::Prepend,
            Kind::Cas(right) => {
                let cas = self.model.live(key).map_or(1, |known| known.cas);
                Mode::Cas(if right { cas } else { cas ^ 1 })
            }
        }
    }

    /// Compares a store's answer with the model's, and keeps what was stored.
    fn settle(&mut self, key: u16, expected: Expected, own_cas: Option<u64>, answer: Result<Outcome, StoreError>) {
        match (expected, answer) {
            (Expected::Is(expected), answer) => assert_eq!(expected, answer, "{key}"),
            (Expected::Stored(known), Ok(Outcome::Stored { cas })) => {
                if let Some(own) = own_cas {
                    assert_eq!(cas, own);
                } else {
                    assert!(cas > self.model.last_cas, "the CAS {cas} does not ascend from {}", self.model.last_cas);
                    self.model.last_cas = cas;
                }
                if known.deadline.is_past(self.model.now) {
                    self.model.items.remove(&key);
                } else {
                    self.model.writes += 1;
                    self.model.items.insert(key, Known { cas, ..known });
                }
            }
            (Expected::Stored(_), Err(StoreError::OutOfMemory { .. })) if !self.may_evict => (),
            (Expected::Stored(known), answer) => panic!("{key}: {answer:?} for {known:?}"),
        }
    }

    fn store(&mut self, mode: Mode, key: u16, value: Vec<u8>, flags: u32, deadline: Deadline, cas: Option<u64>) {
        self.follow_evictions();
        let answer = self.cache.store(mode, &NewItem { key: &key_bytes(key), value: &value, flags, deadline, cas });
        self.compare(mode, key, value, flags, deadline, cas, answer);
    }

    #[expect(clippy::too_many_arguments, reason = "all parts of a store and its answer")]
    fn compare(
        &mut self,
        mode: Mode,
        key: u16,
        value: Vec<u8>,
        flags: u32,
        deadline: Deadline,
        cas: Option<u64>,
        answer: Result<Outcome, StoreError>,
    ) {
        let mut expected = self.model.store(mode, key, value.clone(), flags, deadline);
        let agrees = match &expected {
            Expected::Is(expected) => *expected == answer,
            Expected::Stored(_) => !matches!(answer, Ok(Outcome::NotStored | Outcome::NotFound | Outcome::Exists)),
        };
        if !agrees && self.cache.counters().evicted > self.evicted_seen {
            // The store itself has evicted what was there, before it looked.
            self.model.items.remove(&key);
            expected = self.model.store(mode, key, value, flags, deadline);
        }
        self.settle(key, expected, cas, answer);
    }

    fn apply(&mut self, operation: &Operation) {
        let now = self.model.now;
        match *operation {
            Operation::Get(key) => {
                self.check(key);
                let bytes = key_bytes(key);
                self.cache.prefetch(&bytes);
                self.cache.prefetch_item(&bytes);
                let found = self.cache.get(&bytes).is_some();
                assert_eq!(found, self.model.live(key).is_some());
                self.model.items.entry(key).and_modify(|known| known.read = true);
                self.check(key);
            }
            Operation::Peek(key) => self.check(key),
            Operation::Store { mode, key, length, flags, ttl, cas } => {
                let value = value_bytes(key, length, self.model.last_cas);
                self.store(self.mode(mode, key), key, value, flags, deadline(ttl, now), cas);
                self.check(key);
            }
            Operation::Reserve { mode, key, length, ttl, commit, between } => {
                self.reserve(mode, key, length, deadline(ttl, now), commit, between);
            }
            Operation::Number { key, ref text, ttl } => {
                self.store(Mode::Set, key, text.clone().into_bytes(), 3, deadline(ttl, now), None);
                self.check(key);
            }
            Operation::Count { key, delta, up } => self.count(key, delta, up),
            Operation::Touch { key, ttl, get } => self.touch(key, deadline(ttl, now), get),
            Operation::Delete(key) => {
                self.check(key);
                assert_eq!(self.cache.delete(&key_bytes(key)), self.model.live(key).is_some());
                self.model.items.remove(&key);
                self.check(key);
            }
            Operation::Flush(after) => {
                self.cache.flush(after.map(|after| now + after));
                match after {
                    None | Some(0) => {
                        self.model.items.clear();
                        self.model.flush_at = None;
                        assert_eq!(self.cache.counters().items, 0);
                    }
                    Some(after) => self.model.flush_at = Some(now + after),
                }
                self.check_all();
            }
            Operation::Advance(by) => {
                self.cache.advance(now + by);
                self.model.advance(now + by);
                // The clock does not go back.
                self.cache.advance(now.saturating_sub(1));
                assert_eq!(self.cache.now(), now + by);
                self.check_all();
            }
            Operation::Fill { first, count, length, ttl } => {
                for key in first..first + count {
                    self.store(Mode::Set, key, value_bytes(key, length, 1), 0, deadline(ttl, now), None);
                }
            }
            Operation::Maintain => {
                self.cache.maintain();
            }
        }
    }

    fn reserve(&mut self, mode: Kind, key: u16, length: usize, deadline: Deadline, commit: bool, between: u16) {
        let bytes = key_bytes(key);
        let item = NewItem { key: &bytes, value: &[], flags: 5, deadline, cas: None };
        let mut reservation = match self.cache.reserve(&item, length) {
            Ok(reservation) => reservation,
            Err(StoreError::TooLarge { .. }) => return assert!(length > LARGEST),
            Err(StoreError::OutOfMemory { .. }) if !self.may_evict => return,
            Err(error) => panic!("{error}"),
        };
        let value = value_bytes(key, length, 99);
        assert_eq!(self.cache.fill(&mut reservation, &value[..length / 2]), length - length / 2);
        for key in [key, between] {
            self.store(Mode::Set, key, value_bytes(key, 50, 3), 1, Deadline::Never, None);
            self.check(key);
        }
        assert_eq!(self.cache.fill(&mut reservation, &value[length / 2..]), 0);
        if commit {
            let mode = self.mode(mode, key);
            self.follow_evictions();
            let answer = self.cache.commit(reservation, mode);
            self.compare(mode, key, value, 5, deadline, None, answer);
        } else {
            self.cache.abort(reservation);
        }
        self.check(key);
        assert_eq!(self.cache.counters().reservations, 0);
    }

    fn touch(&mut self, key: u16, deadline: Deadline, get: bool) {
        self.check(key);
        let bytes = key_bytes(key);
        let was_there = self.model.live(key).is_some();
        let stored = self.cache.counters().stored;
        let answer = if get {
            self.cache.get_and_touch(&bytes, deadline).map(|item| item.is_some())
        } else {
            self.cache.touch(&bytes, deadline)
        };
        // A touched item may have been written anew.
        let copies = self.cache.counters().stored - stored;
        self.model.writes += copies;
        match answer {
            Ok(touched) => {
                if touched {
                    self.model.items.entry(key).and_modify(|known| {
                        known.deadline = deadline;
                        known.read |= get;
                    });
                }
                self.follow_evictions();
                assert!(touched == was_there || self.may_evict && self.model.live(key).is_none());
            }
            Err(error) => assert!(matches!(error, StoreError::OutOfMemory { .. }) && !self.may_evict),
        }
        self.model.last_cas += copies;
        self.check(key);
    }

    fn count(&mut self, key: u16, delta: u64, up: bool) {
        self.check(key);
        let old = self.model.live(key).cloned();
        let bytes = key_bytes(key);
        let answer = if up { self.cache.incr(&bytes, delta) } else { self.cache.decr(&bytes, delta) };
        let number = old.as_ref().and_then(|old| {
            std::str::from_utf8(&old.value).ok().and_then(|text| text.trim_end_matches(' ').parse::<u64>().ok())
        });
        match (old, number, answer) {
            (None, _, answer) => assert_eq!(answer, Err(ArithmeticError::NotFound)),
            (Some(old), Some(number), Ok(result)) => {
                assert_eq!(result, if up { number.wrapping_add(delta) } else { number.saturating_sub(delta) });
                let value = format!("{result:<width$}", width = old.value.len()).into_bytes();
                let cas = self.cache.peek(&bytes).map_or(0, |item| item.cas);
                assert!(cas > self.model.last_cas);
                self.model.last_cas = cas;
                self.model.writes += 1;
                self.model.items.insert(key, Known { value, cas, ..old });
            }
            (Some(_), Some(_), Err(ArithmeticError::Store(StoreError::OutOfMemory { .. }))) => assert!(!self.may_evict),
            (Some(_), Some(_), Err(ArithmeticError::NotFound)) => {
                self.follow_evictions();
                assert!(self.may_evict && self.model.live(key).is_none());
            }
            (Some(_), None, answer) => assert_eq!(answer, Err(ArithmeticError::NotANumber)),
            (old, _, answer) => panic!("{key}: {answer:?} for {old:?}"),
        }
        self.check(key);
    }
}

fn evictions() -> impl Strategy<Value = Eviction> {
    prop_oneof![
        2 => Just(Eviction::None),
        1 => Just(Eviction::Random),
        1 => Just(Eviction::Fifo),
        1 => Just(Eviction::ClosestToExpiration),
        1 => Just(Eviction::Utilization),
        3 => Just(Eviction::Merge),
        1 => Just(Eviction::S3Fifo),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 2 } else { ProptestConfig::default().cases },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Few keys, so that each has a history; little memory, so that every mechanism runs.
    #[test]
    fn a_cache_is_a_map_that_forgets(
        eviction in evictions(),
        memory in 6_usize..if cfg!(miri) { 7 } else { 20 },
        keys in 5_u16..2000,
        seed: u64,
        operations in proptest::collection::vec(operations(2000), 1..if cfg!(miri) { 60 } else { 600 }),
    ) {
        let mut pair = Pair::new(eviction, memory * (64 << 10), seed);
        for operation in operations {
            pair.apply(&folded(operation, keys));
        }
        pair.check_all();
    }
}

/// The operation with its key among the first `keys`.
fn folded(mut operation: Operation, keys: u16) -> Operation {
    match &mut operation {
        Operation::Get(key)
        | Operation::Peek(key)
        | Operation::Store { key, .. }
        | Operation::Reserve { key, .. }
        | Operation::Number { key, .. }
        | Operation::Count { key, .. }
        | Operation::Touch { key, .. }
        | Operation::Delete(key) => *key %= keys,
        Operation::Fill { .. } | Operation::Flush(_) | Operation::Advance(_) | Operation::Maintain => (),
    }
    operation
}

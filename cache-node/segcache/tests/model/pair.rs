//! A cache and a plain map that is told the same: they must agree.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};

use segcache::{
    ArithmeticError, Cache, Deadline, Eviction, Mode, NewItem, OnMismatch, Outcome, RecoveryProgress, Settings,
    StoreError, VolumeSettings,
};

use crate::operation::{Kind, Operation};

const START: u64 = 1_800_000_000;
/// The largest value of these caches.
pub const LARGEST: usize = 3000;

#[derive(Clone, Debug, PartialEq)]
struct Known {
    value: Vec<u8>,
    flags: u32,
    cas: u64,
    deadline: Deadline,
    read: bool,
    stale: bool,
    won: bool,
    /// When it was written.
    written: u64,
    /// When it was last used, where the cache keeps that.
    accessed: Option<u64>,
}

impl Known {
    fn read_at(&mut self, now: u64) {
        self.read = true;
        self.touched_at(now);
    }

    fn touched_at(&mut self, now: u64) {
        self.accessed = self.accessed.map(|_| now);
    }
}

struct Model {
    now: u64,
    items: HashMap<u16, Known>,
    flush_at: Option<u64>,
    last_cas: u64,
    writes: u64,
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
        let (mut stale, mut won) = (false, false);
        let (value, flags, deadline) = match (mode, old) {
            (Mode::CasOrStale(expected), Some(old)) if expected < old.cas => {
                (stale, won) = (true, old.won);
                (value, flags, old.deadline)
            }
            (Mode::Set, _) | (Mode::Add, None) | (Mode::Replace, Some(_)) => (value, flags, deadline),
            (Mode::Cas(expected) | Mode::CasOrStale(expected), Some(old)) if old.cas == expected => {
                (value, flags, deadline)
            }
            (Mode::Cas(_) | Mode::CasOrStale(_), Some(_)) => return Expected::Is(Ok(Outcome::Exists)),
            (Mode::Cas(_) | Mode::CasOrStale(_), None) => return Expected::Is(Ok(Outcome::NotFound)),
            (Mode::Append, Some(old)) => ([old.value, value].concat(), old.flags, old.deadline),
            (Mode::Prepend, Some(old)) => ([value, old.value].concat(), old.flags, old.deadline),
            (Mode::Add | Mode::Replace | Mode::Append | Mode::Prepend, _) => {
                return Expected::Is(Ok(Outcome::NotStored));
            }
        };
        if value.len() > LARGEST {
            return too_large(value.len());
        }
        Expected::Stored(Known { stale, won, ..self.fresh(value, flags, deadline) })
    }

    /// An item that is stored now.
    fn fresh(&self, value: Vec<u8>, flags: u32, deadline: Deadline) -> Known {
        let written = self.now;
        Known { value, flags, cas: 0, deadline, read: false, stale: false, won: false, written, accessed: None }
    }
}

enum Expected {
    Is(Result<Outcome, StoreError>),
    Stored(Known),
}

pub struct Pair {
    cache: Cache,
    model: Model,
    /// With eviction an item may be missing, but never wrong.
    may_evict: bool,
    evicted_seen: u64,
    settings: Settings,
    volume: Option<Volume>,
    /// When its items were written is then known less exactly.
    was_reopened: bool,
}

/// A directory in memory, which goes with the test.
struct Volume(VolumeSettings);

impl Drop for Volume {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0.directory));
    }
}

fn open(settings: &Settings, volume: &Volume, now: u64) -> Cache {
    Cache::open(settings.clone(), &volume.0, now, &RecoveryProgress::default()).unwrap().0
}

impl Pair {
    pub fn new(eviction: Eviction, budget: usize, seed: u64) -> Pair {
        let settings = Settings { budget, max_item_size: LARGEST, eviction, seed };
        let cache = Cache::new(settings.clone(), START).unwrap();
        Pair::of(cache, settings, None)
    }

    pub fn on_volume(eviction: Eviction, budget: usize, seed: u64) -> Pair {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let settings = Settings { budget, max_item_size: LARGEST, eviction, seed };
        let name = format!("gannet-model-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = std::path::Path::new("/dev/shm").join(name);
        let volume =
            Volume(VolumeSettings { on_mismatch: OnMismatch::Refuse, ..VolumeSettings::new(directory, [1; 16]) });
        let cache = open(&settings, &volume, START);
        Pair::of(cache, settings, Some(volume))
    }

    fn of(cache: Cache, settings: Settings, volume: Option<Volume>) -> Pair {
        let eviction = settings.eviction;
        Pair {
            cache,
            model: Model { now: START, items: HashMap::new(), flush_at: None, last_cas: 0, writes: 0 },
            may_evict: eviction != Eviction::None,
            evicted_seen: 0,
            settings,
            volume,
            was_reopened: false,
        }
    }

    /// Ends the cache as its process would, and opens its volume again.
    fn reopen(&mut self, clean: bool) {
        let Some(volume) = &self.volume else { return };
        self.was_reopened = true;
        self.evicted_seen = 0;
        self.model.writes = 0;
        let gone = Cache::new(self.settings.clone(), START).unwrap();
        let before = std::mem::replace(&mut self.cache, gone);
        if clean {
            before.close().unwrap();
        } else {
            drop(before);
            // Only a snapshot knows what was read.
            self.model.items.values_mut().for_each(|known| known.read = false);
        }
        self.cache = open(&self.settings, volume, self.model.now);
        if self.may_evict {
            // What was about to be evicted is gone.
            let (cache, items) = (&self.cache, &mut self.model.items);
            items.retain(|key, _| cache.peek(&key_bytes(*key)).is_some());
        }
        self.check_all();
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
                assert_eq!((item.stale, item.won), (known.stale, known.won), "marks of {key}");
                let used = known.accessed.map_or(known.written, |accessed| accessed.max(known.written));
                let told = self.cache.last_access(&bytes).unwrap();
                let may_be_early = if known.accessed == Some(used) { 0 } else { (self.model.now - used) / 15 };
                let is_exact = known.accessed == Some(used) || !self.was_reopened;
                let earliest = if is_exact { used - may_be_early } else { 0 };
                assert!((earliest..=used).contains(&told), "{key}: used at {used}, told {told}");
            }
            (item, known) => panic!("{key} at {}: cache has {item:?}, model has {known:?}", self.model.now),
        }
    }

    pub fn check_all(&mut self) {
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
            Kind::CasOrStale(offset) => {
                let cas = self.model.live(key).map_or(1, |known| known.cas);
                Mode::CasOrStale(cas.wrapping_add_signed(offset))
            }
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

    pub fn apply(&mut self, operation: &Operation) {
        let now = self.model.now;
        match *operation {
            Operation::Get(key) => {
                self.check(key);
                let bytes = key_bytes(key);
                let hash = self.cache.hash_of(&bytes);
                self.cache.prefetch(hash);
                self.cache.prefetch_item(hash);
                let found = self.cache.get_hashed(hash, &bytes).is_some();
                assert_eq!(found, self.model.live(key).is_some());
                self.model.items.entry(key).and_modify(|known| known.read_at(now));
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
            Operation::MarkStale { key, ttl, cas } => self.mark_stale(key, ttl.map(|ttl| deadline(ttl, now)), cas),
            Operation::Vivify { key, ttl } => self.vivify(key, deadline(ttl, now)),
            Operation::Win(key) => self.win(key),
            Operation::KeepAccess(key) => self.keep_access(key),
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
            Operation::Reopen { clean } => self.reopen(clean),
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
        let (stored, now) = (self.cache.counters().stored, self.model.now);
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
                        known.touched_at(now);
                        if copies > 0 {
                            known.written = now;
                        }
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

    /// Calls what changes an item that is there, and may write it anew, with a new deadline where one is given. Returns the
    /// answer, unless there was no room or the item was evicted to make some.
    fn change<T>(
        &mut self,
        key: u16,
        deadline: Option<Deadline>,
        change: impl FnOnce(&mut Cache, &[u8]) -> Result<Option<T>, StoreError>,
    ) -> Option<T> {
        self.check(key);
        let was_there = self.model.live(key).is_some();
        let stored = self.cache.counters().stored;
        let answer = change(&mut self.cache, &key_bytes(key));
        let copies = self.cache.counters().stored - stored;
        self.model.writes += copies;
        if let (Ok(Some(_)), Some(deadline), Some(known)) = (&answer, deadline, self.model.items.get_mut(&key)) {
            // One that is past takes the item away, and is no eviction.
            known.deadline = deadline;
        }
        self.follow_evictions();
        match answer {
            Err(error) => assert!(matches!(error, StoreError::OutOfMemory { .. }) && !self.may_evict),
            Ok(None) => assert!(!was_there || self.may_evict && self.model.live(key).is_none()),
            Ok(Some(answer)) => {
                assert!(was_there);
                let now = self.model.now;
                if copies > 0 {
                    self.model.items.entry(key).and_modify(|known| known.written = now);
                }
                return Some(answer);
            }
        }
        None
    }

    fn mark_stale(&mut self, key: u16, deadline: Option<Deadline>, own_cas: Option<u64>) {
        let changed = self.change(key, deadline, |cache, bytes| cache.mark_stale(bytes, deadline, own_cas));
        if let (Some(cas), Some(known)) = (changed, self.model.items.get_mut(&key)) {
            match own_cas {
                Some(own) => assert_eq!(cas, own),
                None => {
                    assert!(cas > self.model.last_cas);
                    self.model.last_cas = cas;
                }
            }
            (known.stale, known.won, known.cas) = (true, false, cas);
        }
        self.check(key);
    }

    fn vivify(&mut self, key: u16, deadline: Deadline) {
        self.check(key);
        let bytes = key_bytes(key);
        let was_there = self.model.live(key).is_some();
        match self.cache.vivify(&bytes, deadline) {
            Ok(true) => {
                assert!(!was_there || self.may_evict && self.cache.counters().evicted > self.evicted_seen);
                let item = self.cache.peek(&bytes).map(|item| item.cas);
                assert_eq!(item.is_some(), !deadline.is_past(self.model.now));
                if let Some(cas) = item {
                    assert!(cas > self.model.last_cas);
                    (self.model.last_cas, self.model.writes) = (cas, self.model.writes + 1);
                    let fresh = self.model.fresh(Vec::new(), 0, deadline);
                    self.model.items.insert(key, Known { cas, won: true, ..fresh });
                }
            }
            Ok(false) => assert!(was_there),
            Err(error) => assert!(matches!(error, StoreError::OutOfMemory { .. }) && !self.may_evict),
        }
        self.check(key);
    }

    /// Of all who ask one is told to renew an item, until it is written or marked as stale.
    fn win(&mut self, key: u16) {
        let won = self.change(key, None, |cache, bytes| {
            let item = cache.peek(bytes).map(|item| item.won);
            cache.win(bytes).map(|won| item.map(|_| won))
        });
        if let (Some(won), Some(known)) = (won, self.model.items.get_mut(&key)) {
            assert_eq!(won, !known.won);
            known.won = true;
        }
        self.check(key);
    }

    fn keep_access(&mut self, key: u16) {
        let kept = self.change(key, None, |cache, bytes| cache.keep_access(bytes).map(|kept| kept.then_some(())));
        if let (Some(()), Some(known)) = (kept, self.model.items.get_mut(&key)) {
            known.accessed = Some(self.model.now);
        }
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
                self.model.items.insert(key, Known { value, cas, written: self.model.now, ..old });
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

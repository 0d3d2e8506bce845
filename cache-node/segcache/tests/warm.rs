//! What a cache on a volume has when it is opened again.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are not seen as tests by the linter")]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};
use segcache::{
    Cache, Cold, Deadline, Eviction, Medium, OnMismatch, OpenError, Recovery, RecoveryProgress, Settings,
    VolumeSettings,
};

const START: u64 = 1_800_000_000;
const BUDGET: usize = 2 << 20;
/// Where a memory file system is, on every Linux.
const MEMORY: &str = "/dev/shm";

/// A directory for a volume, which goes with the test.
struct Place {
    directory: PathBuf,
}

impl Place {
    fn new() -> Place {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("gannet-warm-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Place { directory: Path::new(MEMORY).join(name) }
    }

    fn settings(&self) -> VolumeSettings {
        VolumeSettings::new(self.directory.clone(), [1; 16])
    }

    fn volume(&self) -> PathBuf {
        self.directory.join("gannet.volume")
    }

    /// Opens the volume as it is, at `now`.
    fn open(&self, now: u64) -> (Cache, Recovery) {
        open(&self.settings(), now).unwrap()
    }

    /// Changes the volume's bytes while nobody has it.
    fn change(&self, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(self.volume()).unwrap();
        change(&mut bytes);
        fs::write(self.volume(), bytes).unwrap();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.directory));
    }
}

fn settings(budget: usize) -> Settings {
    Settings { budget, max_item_size: 1024, eviction: Eviction::Merge, seed: 5 }
}

fn open(volume: &VolumeSettings, now: u64) -> Result<(Cache, Recovery), OpenError> {
    Cache::open(settings(BUDGET), volume, now, &RecoveryProgress::default())
}

fn key(number: u32) -> Vec<u8> {
    format!("key-{number}").into_bytes()
}

fn set(cache: &mut Cache, number: u32, value: &[u8], deadline: Deadline) {
    cache.set(&key(number), value, number % 3, deadline).unwrap();
}

#[derive(Clone, Debug, PartialEq)]
struct Known {
    value: Vec<u8>,
    flags: u32,
    cas: u64,
    deadline: Deadline,
}

/// All that a cache has.
fn contents(cache: &Cache) -> HashMap<Vec<u8>, Known> {
    let known = cache.iter().map(|(key, item)| {
        let known = Known { value: item.value.to_vec(), flags: item.flags, cas: item.cas, deadline: item.deadline };
        (key.to_vec(), known)
    });
    known.collect()
}

#[test]
fn what_was_there_when_the_process_ended_is_there_again() {
    let place = Place::new();
    let (mut cache, report) = place.open(START);
    assert_eq!((report.cold, report.medium, report.items), (Some(Cold::New), Medium::Memory, 0));
    for number in 0..5000 {
        let deadline = if number % 2 == 0 { Deadline::Never } else { Deadline::At(START + 100 + u64::from(number)) };
        set(&mut cache, number, &vec![number as u8; number as usize % 300], deadline);
    }
    let before = contents(&cache);
    let counters = cache.counters();
    assert!(before.len() > 4000, "{counters:?}");
    drop(cache);
    let (mut cache, report) = place.open(START + 1);
    assert_eq!((report.cold, report.items, report.damaged), (None, counters.items, 0));
    assert_eq!(contents(&cache), before);
    let after = cache.counters();
    assert_eq!((after.items, after.item_bytes), (counters.items, counters.item_bytes));
    // It goes on as any cache does: everything can be overwritten, deleted and evicted.
    for number in 0..40_000 {
        set(&mut cache, number, &[7; 50], Deadline::At(START + 1000));
    }
    (0..40_000).for_each(|number| _ = cache.delete(&key(number)));
    assert_eq!(cache.counters().items, 0);
    drop(cache);
    assert_eq!(place.open(START + 2).1.items, 0);
}

#[test]
fn what_was_deleted_replaced_flushed_or_has_expired_does_not_come_back() {
    let place = Place::new();
    let (mut cache, _) = place.open(START);
    set(&mut cache, 1, b"flushed", Deadline::Never);
    cache.flush(None);
    set(&mut cache, 2, b"deleted", Deadline::Never);
    assert!(cache.delete(&key(2)));
    set(&mut cache, 3, b"old", Deadline::Never);
    set(&mut cache, 3, b"newer, and longer", Deadline::Never);
    set(&mut cache, 4, b"in place", Deadline::Never);
    set(&mut cache, 4, b"IN PLACE", Deadline::Never);
    set(&mut cache, 5, b"5", Deadline::Never);
    assert_eq!(cache.incr(&key(5), 2), Ok(7));
    set(&mut cache, 6, b"touched", Deadline::At(START + 10));
    assert_eq!(cache.touch(&key(6), Deadline::At(START + 30)), Ok(true));
    set(&mut cache, 7, b"expires", Deadline::At(START + 10));
    set(&mut cache, 8, b"stale", Deadline::Never);
    cache.mark_stale(&key(8), None, None).unwrap();
    assert_eq!(cache.win(&key(8)), Ok(true));
    let mut before = contents(&cache);
    drop(cache);
    let (cache, report) = place.open(START + 11);
    before.remove(&key(7)).unwrap();
    assert_eq!(contents(&cache), before);
    assert_eq!((report.items, report.damaged), (5, 0));
    let item = cache.peek(&key(8)).unwrap();
    assert!(item.stale && item.won);
}

#[test]
fn a_clean_end_leaves_a_snapshot_for_the_next_start() {
    let place = Place::new();
    let (mut cache, _) = place.open(START);
    for number in 0..5000 {
        let deadline = if number % 2 == 0 { Deadline::Never } else { Deadline::At(START + 2000) };
        set(&mut cache, number, &[number as u8; 100], deadline);
    }
    for number in 0..1000 {
        assert!(cache.delete(&key(number)) && cache.get(&key(number + 1000)).is_some());
    }
    let (before, counters) = (contents(&cache), cache.counters());
    cache.close().unwrap();
    let (mut cache, report) = place.open(START + 1);
    assert_eq!((report.cold, report.from_snapshot, report.items), (None, true, 4000));
    assert_eq!(contents(&cache), before);
    let after = cache.counters();
    assert_eq!((after.item_bytes, after.segments_used), (counters.item_bytes, counters.segments_used));
    // What was read is known to have been.
    assert!(cache.peek(&key(1500)).unwrap().hit_before && !cache.peek(&key(2500)).unwrap().hit_before);
    while cache.maintain() {}
    assert_eq!((contents(&cache), cache.counters().damaged), (before, 0));
    (0..20_000).for_each(|number| set(&mut cache, number, &[9; 90], Deadline::Never));
    cache.advance(START + 3000);
    (0..20_000).for_each(|number| _ = cache.delete(&key(number)));
    assert_eq!((cache.counters().items, cache.counters().item_bytes), (0, 0));
}

#[test]
fn a_snapshot_that_is_stale_or_damaged_is_not_used() {
    let place = Place::new();
    let snapshot = place.directory.join("gannet.index");
    let (mut cache, _) = place.open(START);
    (0..5000).for_each(|number| set(&mut cache, number, b"1", Deadline::Never));
    let before = contents(&cache);
    cache.close().unwrap();
    let kept = fs::read(&snapshot).unwrap();
    // One byte in each part of it, its end cut off, and gone.
    let damaged = |at: usize| [&kept[..at], &[!kept[at]], &kept[at + 1..]].concat();
    let step = kept.len() / 20;
    let changes = (0..20).map(|part| damaged(part * step)).chain([kept[..kept.len() / 2].to_vec(), Vec::new()]);
    for change in changes {
        fs::write(&snapshot, change).unwrap();
        let (cache, report) = place.open(START);
        assert_eq!((report.from_snapshot, contents(&cache) == before), (false, true));
        cache.close().unwrap();
        fs::write(&snapshot, &kept).unwrap();
        // It is of an earlier state than the volume.
        let (cache, report) = place.open(START);
        assert_eq!((report.from_snapshot, contents(&cache) == before), (false, true));
        cache.close().unwrap();
    }
    assert!(place.open(START).1.from_snapshot);
    assert!(!snapshot.exists());
    // The one before was not closed.
    assert!(!place.open(START).1.from_snapshot);
}

#[test]
fn no_cas_is_given_twice() {
    let place = Place::new();
    let (mut cache, _) = place.open(START);
    set(&mut cache, 1, b"1", Deadline::Never);
    let seen = cache.peek(&key(1)).unwrap().cas;
    cache.delete(&key(1));
    drop(cache);
    let (mut cache, _) = place.open(START);
    set(&mut cache, 1, b"2", Deadline::Never);
    assert!(cache.peek(&key(1)).unwrap().cas > seen);
}

#[test]
fn a_delayed_flush_fires_once() {
    let place = Place::new();
    let (mut cache, _) = place.open(START);
    set(&mut cache, 1, b"1", Deadline::Never);
    cache.flush(Some(START + 100));
    drop(cache);
    let (cache, report) = place.open(START + 99);
    assert_eq!(report.items, 1);
    drop(cache);
    let (mut cache, _) = place.open(START + 200);
    assert_eq!(cache.peek(&key(1)), None);
    set(&mut cache, 2, b"2", Deadline::Never);
    drop(cache);
    assert!(place.open(START + 300).0.peek(&key(2)).is_some());
}

#[test]
fn a_clock_that_went_back_goes_on_from_where_it_was() {
    let place = Place::new();
    let (mut cache, _) = place.open(START);
    set(&mut cache, 1, b"1", Deadline::At(START + 50));
    cache.advance(START + 51);
    drop(cache);
    let (cache, report) = place.open(START);
    assert_eq!((report.clock_behind, cache.now(), report.items), (51, START + 51, 0));
}

#[test]
fn a_volume_has_one_owner_at_a_time() {
    let place = Place::new();
    let (cache, _) = place.open(START);
    assert!(matches!(open(&place.settings(), START), Err(OpenError::Locked { .. })));
    drop(cache);
    place.open(START);
}

/// Opens a volume with an item in it after a change, with other settings; says why it is cold.
fn cold_after(change: impl FnOnce(&mut Vec<u8>), now: u64, again: impl FnOnce(&mut VolumeSettings)) -> Option<Cold> {
    let place = Place::new();
    let (mut cache, _) = place.open(START);
    set(&mut cache, 1, b"1", Deadline::Never);
    drop(cache);
    place.change(change);
    let mut settings = place.settings();
    again(&mut settings);
    let refusing = VolumeSettings { on_mismatch: OnMismatch::Refuse, ..settings.clone() };
    let refused = match open(&refusing, now) {
        Err(OpenError::Mismatch { reason, .. }) => Some(reason),
        Err(error) => panic!("{error}"),
        Ok((_, report)) => {
            assert_eq!(report.items, u64::from(report.cold.is_none()));
            return report.cold;
        }
    };
    // What was refused is as it was, and may be overwritten.
    let (cache, report) = open(&settings, now).unwrap();
    assert_eq!((&report.cold, report.items), (&refused, 0));
    drop(cache);
    assert_eq!(open(&settings, now).unwrap().1.cold, None);
    refused
}

#[test]
fn a_volume_that_cannot_be_used_says_why() {
    let same = |_: &mut VolumeSettings| ();
    let nothing = |_: &mut Vec<u8>| ();
    assert_eq!(cold_after(nothing, START, same), None);
    assert_eq!(cold_after(|bytes| bytes[..8192].fill(b'x'), START, same), Some(Cold::Foreign));
    assert_eq!(
        cold_after(|bytes| [100, 4196].into_iter().for_each(|at| bytes[at] ^= 1), START, same),
        Some(Cold::Damaged)
    );
    let newer = |bytes: &mut Vec<u8>| [8, 4096 + 8].into_iter().for_each(|at| bytes[at] = 9);
    assert_eq!(cold_after(newer, START, same), Some(Cold::Version { version: 9 }));
    let short = |bytes: &mut Vec<u8>| bytes.truncate(100_000);
    assert!(matches!(cold_after(short, START, same), Some(Cold::Truncated { found: 100_000, .. })));
    assert_eq!(cold_after(nothing, START, |volume| volume.boot = [2; 16]), Some(Cold::MachineRestarted));
    let limit = |volume: &mut VolumeSettings| volume.max_absence = Some(60);
    assert_eq!(cold_after(nothing, START + 60, limit), None);
    assert_eq!(cold_after(nothing, START + 61, limit), Some(Cold::Absent { seconds: 61, limit: 60 }));
}

#[test]
fn what_cannot_be_read_is_refused_with_its_sentence_where_that_is_wanted() {
    let refused = |change: fn(&mut Vec<u8>), largest, format, sentence: &str| {
        let place = Place::new();
        let (mut cache, _) = place.open(START);
        set(&mut cache, 1, b"1", Deadline::Never);
        drop(cache);
        place.change(change);
        let before = fs::read(place.volume()).unwrap();
        let volume = VolumeSettings { on_mismatch: OnMismatch::Refuse, format, ..place.settings() };
        let settings = Settings { max_item_size: largest, ..settings(BUDGET) };
        let error = Cache::open(settings, &volume, START, &RecoveryProgress::default()).err().unwrap().to_string();
        assert!(error.contains(sentence), "{error}");
        assert!(fs::read(place.volume()).unwrap() == before, "{sentence}: the volume was changed");
    };
    let nothing: fn(&mut Vec<u8>) = |_| ();
    let newest = *segcache::FORMATS.end();
    refused(|bytes| bytes[..8192].fill(b'x'), 1024, newest, "the file is not a volume of this program; move it away");
    let damaged = |bytes: &mut Vec<u8>| [100, 4196].into_iter().for_each(|at| bytes[at] ^= 1);
    refused(damaged, 1024, newest, "both superblocks are damaged; move it away, or allow a cold start");
    let newer = |bytes: &mut Vec<u8>| [8, 4096 + 8].into_iter().for_each(|at| bytes[at] = 9);
    refused(newer, 1024, newest, "format version 9, which this version of the program does not read; move it away");
    refused(|bytes| bytes.truncate(100_000), 1024, newest, "the file has 100000 bytes and must have");
    refused(nothing, 100_000, newest, "bytes do not suit the largest item or the capacity that are configured now");
    refused(nothing, 1024, newest + 1, "this release writes versions 1 to 1; set volumeFormat to one of them");
}

#[test]
fn two_ends_in_a_row_for_want_of_memory_empty_the_volume() {
    let place = Place::new();
    let killed = |oom_kills| open(&VolumeSettings { oom_kills, ..place.settings() }, START).unwrap();
    let (mut cache, _) = killed(3);
    set(&mut cache, 1, b"1", Deadline::Never);
    drop(cache);
    assert_eq!(killed(4).1.cold, None);
    // Ended otherwise: the next one is the first again.
    assert_eq!(killed(4).1.cold, None);
    assert_eq!(killed(5).1.cold, None);
    assert_eq!(killed(7).1.cold, Some(Cold::OutOfMemory));
    assert_eq!(killed(8).1.cold, None);
}

#[test]
fn another_capacity_keeps_what_there_is_room_for() {
    let place = Place::new();
    let (mut cache, _) = place.open(START);
    for number in 0..3000 {
        set(&mut cache, number, &[number as u8; 200], Deadline::Never);
    }
    let before = contents(&cache);
    drop(cache);
    let with = |budget| Cache::open(settings(budget), &place.settings(), START, &RecoveryProgress::default()).unwrap();
    let (cache, report) = with(4 * BUDGET);
    assert_eq!((report.cold, contents(&cache) == before), (None, true));
    assert!(cache.counters().segments_free > 60, "{:?}", cache.counters());
    drop(cache);
    let (cache, report) = with(BUDGET / 4);
    assert_eq!(report.cold, None);
    let after = contents(&cache);
    assert!(after.len() > 1000 && after.iter().all(|(key, known)| before.get(key) == Some(known)), "{}", after.len());
    // The youngest are those that are left.
    assert!(after.contains_key(&key(2999)) && !after.contains_key(&key(0)));
    let counters = cache.counters();
    assert!(counters.index_bytes + counters.metadata_bytes + counters.segment_bytes <= BUDGET as u64 / 4);
    drop(cache);
    let again = contents(&with(BUDGET / 4).0);
    assert!(again.len() > 1000 && again.iter().all(|(key, known)| after.get(key) == Some(known)), "{}", again.len());
}

#[test]
fn the_capacity_may_be_beside_the_budget() {
    let place = Place::new();
    let volume = VolumeSettings { capacity: Some(8 << 20), ..place.settings() };
    let (mut cache, _) = open(&volume, START).unwrap();
    for number in 0..20_000 {
        set(&mut cache, number, &[7; 300], Deadline::Never);
    }
    assert_eq!(cache.counters().items, 20_000);
    drop(cache);
    assert_eq!(open(&volume, START).unwrap().1.items, 20_000);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    /// Bytes that are not what was written cost items, and never make a wrong one.
    #[test]
    fn a_corrupted_byte_anywhere_never_gives_a_wrong_item(
        seed: u64,
        is_clean: bool,
        at in proptest::collection::vec(any::<u32>(), 1..500),
    ) {
        let place = Place::new();
        let (mut cache, _) = place.open(START);
        for number in 0..2000 {
            let deadline = if number % 2 == 0 { Deadline::Never } else { Deadline::At(START + 5000) };
            set(&mut cache, number, &seed.wrapping_mul(number.into()).to_le_bytes()[..number as usize % 8], deadline);
        }
        let before = contents(&cache);
        if is_clean { cache.close().unwrap() } else { drop(cache) }
        // Where the records are, for most of them: the rest of the volume is empty.
        let used = before.len() * 40;
        place.change(|bytes| {
            for at in at {
                let place = 8192 + at as usize % used;
                bytes[place] = bytes[place].wrapping_add(1 + (at >> 24) as u8 % 255);
            }
        });
        let (mut cache, report) = place.open(START);
        // A snapshot is not used either where what a segment says of itself is damaged.
        prop_assert!(is_clean || !report.from_snapshot);
        let right = |cache: &Cache| contents(cache).iter().all(|(key, known)| before.get(key) == Some(known));
        prop_assert!(right(&cache));
        while cache.maintain() {}
        prop_assert!(right(&cache));
        // What is damaged is in nobody's way.
        (0..5000).for_each(|number| set(&mut cache, number, b"new", Deadline::At(START + 50)));
        cache.advance(START + 51);
        while cache.maintain() {}
        (0..5000).for_each(|number| _ = cache.delete(&key(number)));
        prop_assert_eq!(cache.counters().items, 0);
    }
}

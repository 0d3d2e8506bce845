//! The machine ends in the middle of everything: of what was written since the last flush, any cache lines have reached the
//! volume and any have not, as they were at some time since. What comes back was there when the flush began, or later.
#![expect(clippy::unwrap_used, reason = "helpers of tests are not seen as tests by the linter")]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::{Just, ProptestConfig, Strategy, prop_assert, prop_oneof, proptest};
use segcache::{Cache, Cold, Deadline, Durability, Eviction, Recovery, RecoveryProgress, Settings, VolumeSettings};

const START: u64 = 1_800_000_000;
/// Few segments, so that they are merged and used again.
const BUDGET: usize = 600 << 10;
const KEYS: u8 = 60;
/// What a machine writes to its memory at once.
const LINE: usize = 64;

#[derive(Clone, Debug)]
enum Operation {
    Set { key: u8, length: usize },
    Touch { key: u8 },
    Delete { key: u8 },
    Flush,
    Tick,
}

struct Place(PathBuf);

impl Place {
    fn new() -> Place {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("gannet-power-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Place(Path::new("/dev/shm").join(name))
    }

    fn open(&self, now: u64, boot: u8) -> (Cache, Recovery) {
        let settings = Settings { budget: BUDGET, max_item_size: 2048, eviction: Eviction::Merge, seed: 3 };
        let volume =
            VolumeSettings { durability: Durability::Interval, ..VolumeSettings::new(self.0.clone(), [boot; 16]) };
        Cache::open(settings, &volume, now, &RecoveryProgress::default()).unwrap()
    }

    fn image(&self) -> Vec<u8> {
        fs::read(self.0.join("gannet.volume")).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// All that a key has been since the last flush, with what it was then.
#[derive(Default)]
struct History {
    states: HashMap<u8, Vec<Option<Vec<u8>>>>,
    writes: u64,
    now: u64,
}

impl History {
    fn apply(&mut self, cache: &mut Cache, operation: &Operation) {
        match *operation {
            Operation::Set { key, length } => {
                self.writes += 1;
                let mut value = format!("{key}:{}:", self.writes).into_bytes();
                value.resize(length.max(value.len()), self.writes as u8);
                cache.set(&[key], &value, 0, Deadline::Never).unwrap();
                self.states.entry(key).or_default().push(Some(value));
            }
            Operation::Touch { key } => drop(cache.touch(&[key], Deadline::Never)),
            Operation::Delete { key } => {
                cache.delete(&[key]);
                self.states.entry(key).or_default().push(None);
            }
            Operation::Flush => {
                cache.flush(None);
                self.states.values_mut().for_each(|states| states.push(None));
            }
            Operation::Tick => {
                self.now += 1;
                cache.advance(START + self.now);
            }
        }
    }

    /// What was there before a flush began does not come back after it.
    fn flushed(&mut self) {
        for states in self.states.values_mut() {
            states.drain(..states.len() - 1);
        }
    }
}

fn operations(most: usize) -> impl Strategy<Value = Vec<Operation>> {
    let operation = prop_oneof![
        60 => (0..KEYS, prop_oneof![2 => Just(100), 3 => 0_usize..2000]).prop_map(|(key, length)| Operation::Set { key, length }),
        5 => (0..KEYS).prop_map(|key| Operation::Touch { key }),
        15 => (0..KEYS).prop_map(|key| Operation::Delete { key }),
        1 => Just(Operation::Flush),
        3 => Just(Operation::Tick),
    ];
    proptest::collection::vec(operation, 0..most)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_comes_back_was_there_at_the_last_flush_or_later(
        before in operations(1500),
        between in operations(600),
        after in operations(600),
        seed: u64,
    ) {
        let place = Place::new();
        let (mut cache, _) = place.open(START, 1);
        let flusher = cache.flusher().unwrap().unwrap();
        let mut history = History::default();
        before.iter().for_each(|operation| history.apply(&mut cache, operation));
        flusher.flush().unwrap();
        history.flushed();
        let mut images = vec![place.image()];
        for operations in [between, after] {
            operations.iter().for_each(|operation| history.apply(&mut cache, operation));
            images.push(place.image());
        }
        drop(cache);
        let mut random = seed;
        let mut lines = images[0].clone();
        for (number, line) in lines.chunks_mut(LINE).enumerate() {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            let image = &images[(random >> 60) as usize % images.len()];
            line.copy_from_slice(&image[number * LINE..][..line.len()]);
        }
        fs::write(place.0.join("gannet.volume"), lines).unwrap();

        let (mut cache, report) = place.open(START + history.now, 2);
        prop_assert!(report.cold != Some(Cold::Damaged) && report.cold.is_none(), "{report:?}");
        for (key, states) in &history.states {
            let found = cache.peek(&[*key]).map(|item| item.value.to_vec());
            let is_known = found.is_none() || states.contains(&found);
            prop_assert!(is_known, "{key} is {:?}", found.map(|value| String::from_utf8_lossy(&value[..value.len().min(12)]).into_owned()));
        }
        // It goes on as if nothing had happened.
        for number in 0..2000_u32 {
            cache.set(&number.to_le_bytes(), &[1; 300], 0, Deadline::Never).unwrap();
        }
        (0..2000_u32).for_each(|number| _ = cache.delete(&number.to_le_bytes()));
        (0..KEYS).for_each(|key| _ = cache.delete(&[key]));
        prop_assert!(cache.counters().items == 0);
    }
}

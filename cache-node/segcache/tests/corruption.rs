//! One byte of a volume, or of the snapshot of its index, is not what was written: wherever that is, the cache opens, and every
//! item that it has is right. `GANNET_POSITIONS` says how many places are tried.
#![expect(clippy::unwrap_used, reason = "helpers of tests are not seen as tests by the linter")]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use segcache::{Cache, Deadline, Eviction, RecoveryProgress, Settings, VolumeSettings};

const START: u64 = 1_800_000_000;
/// Small, so that most of the volume holds something.
const BUDGET: usize = 512 << 10;
const POSITIONS: u32 = 3000;

struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        Place(Path::new("/dev/shm").join(format!("gannet-corruption-{name}-{}", std::process::id())))
    }

    fn open(&self) -> Cache {
        let settings = Settings { budget: BUDGET, max_item_size: 1024, eviction: Eviction::Merge, seed: 5 };
        let volume = VolumeSettings::new(self.0.clone(), [1; 16]);
        Cache::open(settings, &volume, START, &RecoveryProgress::default()).unwrap().0
    }

    fn volume(&self) -> PathBuf {
        self.0.join("gannet.volume")
    }

    fn snapshot(&self) -> PathBuf {
        self.0.join("gannet.index")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn key(number: u32) -> [u8; 4] {
    number.to_be_bytes()
}

/// Items of every kind, and the remains of others: deleted, overwritten, moved, flushed.
fn fill(cache: &mut Cache) {
    (0..500).for_each(|number| _ = cache.set(&key(number), b"flushed", 1, Deadline::Never).unwrap());
    cache.flush(None);
    for round in 0..4 {
        for number in 0..1500_u32 {
            let deadline = if number % 2 == 0 { Deadline::Never } else { Deadline::At(START + 5000) };
            let value = vec![(number + round) as u8; (number * 7 + round) as usize % 230];
            cache.set(&key(number), &value, number % 3, deadline).unwrap();
        }
        (0..1500).step_by(5).for_each(|number| _ = cache.delete(&key(number + round)));
    }
    (0..1500).step_by(7).for_each(|number| _ = cache.mark_stale(&key(number), None, Some(u64::from(number))).unwrap());
}

/// All that a cache has, with value, flags, CAS and deadline.
fn contents(cache: &Cache) -> HashMap<Vec<u8>, (Vec<u8>, u32, u64, Deadline)> {
    let item = |(key, item): (&[u8], segcache::Item<'_>)| {
        (key.to_vec(), (item.value.to_vec(), item.flags, item.cas, item.deadline))
    };
    cache.iter().map(item).collect()
}

fn one_byte_of(clean: bool) {
    let place = Place::new(if clean { "clean" } else { "killed" });
    let mut cache = place.open();
    fill(&mut cache);
    let before = contents(&cache);
    assert!(before.len() > 700, "{} items", before.len());
    if clean {
        cache.close().unwrap()
    } else {
        drop(cache)
    }
    let volume = fs::read(place.volume()).unwrap();
    let snapshot = fs::read(place.snapshot()).unwrap_or_default();
    let positions = std::env::var("GANNET_POSITIONS").map_or(POSITIONS, |count| count.parse().unwrap());
    let (mut random, mut kept) = (0x5eed_u64, 0);
    for _ in 0..positions {
        random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        let at = (random >> 16) as usize % (volume.len() + snapshot.len());
        let change = 1 + (random >> 56) as u8 % 255;
        let (mut volume, mut snapshot) = (volume.clone(), snapshot.clone());
        match at.checked_sub(volume.len()) {
            None => volume[at] ^= change,
            Some(at) => snapshot[at] ^= change,
        }
        fs::write(place.volume(), volume).unwrap();
        if clean {
            fs::write(place.snapshot(), snapshot).unwrap();
        }
        let mut cache = place.open();
        let right = |cache: &Cache| contents(cache).iter().all(|(key, item)| before.get(key) == Some(item));
        assert!(right(&cache), "byte {at} changed by {change:#x}");
        for (key, item) in &before {
            let found = cache.get(key).map(|item| (item.value.to_vec(), item.flags, item.cas, item.deadline));
            assert!(found.is_none_or(|found| found == *item), "byte {at} changed by {change:#x}: {key:?}");
        }
        while cache.maintain() {}
        assert!(right(&cache), "byte {at} changed by {change:#x}, after maintenance");
        kept += contents(&cache).len();
    }
    // A byte costs the record that it is of, or its segment, of which there are eight, and no more than that.
    let most = before.len() * positions as usize;
    assert!(kept * 100 > most * 80, "{kept} of {most} items have come back");
}

#[test]
fn one_wrong_byte_after_a_kill_never_makes_a_wrong_item() {
    one_byte_of(false);
}

#[test]
fn one_wrong_byte_after_a_clean_end_never_makes_a_wrong_item() {
    one_byte_of(true);
}

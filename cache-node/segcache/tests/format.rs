//! The format of volumes: what was written in it once can be read for as long as the format is. Each version has a fixture,
//! the beginning of a volume as that version wrote it; the rest of it was zeros.
#![expect(clippy::unwrap_used, reason = "helpers of tests are not seen as tests by the linter")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use segcache::{Cache, Deadline, Eviction, OnMismatch, RecoveryProgress, Settings, VolumeSettings};

const NOW: u64 = 1_800_000_000;
const LATER: Deadline = Deadline::At(NOW + 3600);
/// The version that this build writes.
const VERSION: u32 = 1;
/// Set to write the fixture of a new version.
const WRITE: &str = "GANNET_WRITE_FIXTURE";

struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        Place(Path::new("/dev/shm").join(format!("gannet-format-{}-{name}", std::process::id())))
    }

    fn open(&self) -> Cache {
        let settings = Settings { budget: 1 << 20, max_item_size: 1024, eviction: Eviction::Merge, seed: 11 };
        let volume = VolumeSettings {
            // Whatever the budget has to pay for besides, so many segments there are.
            capacity: Some(1 << 20),
            on_mismatch: OnMismatch::Refuse,
            ..VolumeSettings::new(self.0.clone(), [1; 16])
        };
        Cache::open(settings, &volume, NOW, &RecoveryProgress::default()).unwrap().0
    }

    fn volume(&self) -> PathBuf {
        self.0.join("gannet.volume")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn fixture(version: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(format!("volume-{version}"))
}

/// Everything that a record can have, and what is dead.
fn fill(cache: &mut Cache) {
    cache.set(b"plain", b"value", 0, LATER).unwrap();
    cache.set(b"flags", b"value with flags", 70_000, LATER).unwrap();
    cache.set(b"empty", b"", 0, LATER).unwrap();
    cache.set(b"counter", b"41", 0, LATER).unwrap();
    assert_eq!(cache.incr(b"counter", 1), Ok(42));
    cache.set(b"stale", b"out of date", 1, LATER).unwrap();
    cache.mark_stale(b"stale", None, Some(77)).unwrap();
    cache.set(b"accessed", b"read now and then", 0, LATER).unwrap();
    assert_eq!(cache.keep_access(b"accessed"), Ok(true));
    cache.set(b"deleted", b"value", 0, LATER).unwrap();
    assert!(cache.delete(b"deleted"));
    cache.set(b"replaced", b"short", 0, LATER).unwrap();
    cache.set(b"replaced", b"longer than before", 0, LATER).unwrap();
    cache.set(&[7; 250], &[8; 300], 0, LATER).unwrap();
}

#[test]
fn the_format_is_that_of_its_version() {
    let place = Place::new("same");
    fill(&mut place.open());
    let bytes = fs::read(place.volume()).unwrap();
    let length = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    if std::env::var_os(WRITE).is_some() {
        fs::write(fixture(VERSION), &bytes[..length]).unwrap();
    }
    let same = fs::read(fixture(VERSION)).is_ok_and(|fixture| fixture == bytes[..length]);
    assert!(
        same,
        "the format has changed: raise its version, here too, and run this test with {WRITE}=1 for its fixture"
    );
}

#[test]
fn volumes_of_every_version_open_warm() {
    for version in 1..=VERSION {
        let place = Place::new(&format!("version-{version}"));
        // How long the volume is, a new one says.
        drop(place.open());
        let length = fs::metadata(place.volume()).unwrap().len();
        fs::copy(fixture(version), place.volume()).unwrap();
        File::options().write(true).open(place.volume()).unwrap().set_len(length).unwrap();
        let cache = place.open();
        assert_eq!(cache.counters().items, 8, "version {version}");
        let value = |key: &[u8]| cache.peek(key).map(|item| (item.value, item.flags, item.deadline)).unwrap();
        assert_eq!(value(b"plain"), (&b"value"[..], 0, LATER));
        assert_eq!(value(b"flags"), (&b"value with flags"[..], 70_000, LATER));
        assert_eq!(value(b"empty"), (&b""[..], 0, LATER));
        assert_eq!(value(b"counter"), (&b"42"[..], 0, LATER));
        assert_eq!(value(b"replaced"), (&b"longer than before"[..], 0, LATER));
        assert_eq!(value(&[7; 250]), (&[8; 300][..], 0, LATER));
        let stale = cache.peek(b"stale").unwrap();
        assert_eq!((stale.value, stale.cas, stale.stale), (&b"out of date"[..], 77, true));
        assert_eq!(cache.last_access(b"accessed"), Some(NOW));
        assert_eq!(cache.peek(b"deleted"), None);
    }
}

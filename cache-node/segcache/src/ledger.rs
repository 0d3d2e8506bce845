//! What was written to a volume since its last commit, where each write is to outlive the machine before anybody hears of it
//! ([`Durability::Always`](crate::Durability::Always)).
//!
//! Whenever the machine ends, any of the lines that the ledger names may have reached the volume, and any may not. So there are
//! two rules:
//! 1. Nobody hears of a write before [`Segments::commit`] has returned.
//! 2. A record that a job has moved dies only when its copy is durable: until then it is *doomed*. Otherwise an item could be
//!    lost of which nobody has asked anything. If the item is deleted meanwhile, the doomed record would come back in its
//!    place: so a commit is over only when the doomed are dead in the volume too.

use std::io;
use std::ops::Range;

use crate::segment::{Location, Segments};

/// Ranges of bytes that are not written back yet, at most.
const MOST_RANGES: usize = 512;
/// Ranges that are nearer to each other than this are one: they share a cache line, or the next one.
const NEAR: usize = 64;
/// Records that have moved and still live in their old places, at most.
const MOST_DOOMED: usize = 4096;

/// What a commit has to do.
#[derive(Default)]
pub(crate) struct Ledger {
    /// Bytes that were written to; kept only where the processor is to write them back.
    ranges: Vec<Range<usize>>,
    /// Anything was written.
    is_behind: bool,
    doomed: Vec<Location>,
    /// What the system said when it could not make something durable. The volume may then hold anything.
    failed: Option<io::Error>,
    /// For tests: the volume as it is for sure, and as it was at some moments since, each with what became durable.
    #[cfg(test)]
    pub(crate) images: Vec<Vec<u8>>,
}

impl Ledger {
    /// The memory that one takes.
    pub(crate) fn new() -> Ledger {
        Ledger { ranges: Vec::with_capacity(MOST_RANGES), doomed: Vec::with_capacity(MOST_DOOMED), ..Ledger::default() }
    }
}

impl Segments {
    /// These bytes of the volume, to be written to now.
    #[inline]
    pub(crate) fn for_writing(&mut self, range: Range<usize>) -> &mut [u8] {
        if self.ledger.is_some() {
            self.note(range.clone());
        }
        &mut self.memory.bytes_mut()[range]
    }

    /// Notes that bytes are written to before anything else is.
    pub(crate) fn note(&mut self, range: Range<usize>) {
        let Some(ledger) = &mut self.ledger else { return };
        ledger.is_behind = true;
        if let Some(last) = ledger.ranges.last_mut()
            && range.start <= last.end + NEAR
            && last.start <= range.end + NEAR
        {
            *last = last.start.min(range.start)..last.end.max(range.end);
            return;
        }
        if ledger.ranges.len() == MOST_RANGES {
            self.save();
        }
        if let Some(ledger) = &mut self.ledger {
            ledger.is_behind = true;
            ledger.ranges.push(range);
        }
    }

    /// Lets a record die whose copy lives elsewhere.
    pub(crate) fn doom(&mut self, location: Location) {
        if self.get(location.segment).condemned {
            return;
        }
        match &mut self.ledger {
            None => self.kill(location),
            Some(ledger) => {
                ledger.doomed.push(location);
                if ledger.doomed.len() == MOST_DOOMED {
                    self.end_doomed();
                }
            }
        }
    }

    /// Sees to it that the doomed are dead, and their copies durable before that.
    pub(crate) fn end_doomed(&mut self) {
        let Some(doomed) = self.ledger.as_mut().map(|ledger| std::mem::take(&mut ledger.doomed)) else { return };
        if !doomed.is_empty() {
            self.save();
            doomed.iter().for_each(|location| self.kill(*location));
        }
        if let Some(ledger) = &mut self.ledger {
            // The same memory again.
            ledger.doomed = doomed;
            ledger.doomed.clear();
        }
    }

    /// Waits until all that was written outlives the machine, where that is promised of each write; says whether anything
    /// was.
    ///
    /// # Errors
    /// What the system has said since the last commit: the volume may hold anything.
    pub(crate) fn commit(&mut self) -> io::Result<bool> {
        if self.ledger.as_ref().is_none_or(|ledger| !ledger.is_behind) {
            return Ok(false);
        }
        self.end_doomed();
        self.save();
        self.ledger.as_mut().and_then(|ledger| ledger.failed.take()).map_or(Ok(true), Err)
    }

    /// Makes what was written so far durable.
    fn save(&mut self) {
        let Some(ledger) = &mut self.ledger else { return };
        if !std::mem::take(&mut ledger.is_behind) {
            return;
        }
        let region = self.memory.region();
        #[cfg(test)]
        ledger.ranges.iter().for_each(|range| {
            // Whole lines become durable, as they are now.
            let lines = range.start / NEAR * NEAR..range.end.next_multiple_of(NEAR).min(region.bytes().len());
            ledger
                .images
                .iter_mut()
                .for_each(|image| image[lines.clone()].copy_from_slice(&region.bytes()[lines.clone()]));
        });
        if region.is_synchronous() || cfg!(test) {
            region.write_back(&ledger.ranges);
        } else if let Err(error) = region.persist() {
            ledger.failed = Some(error);
        }
        ledger.ranges.clear();
    }
}

// They need mapped files, which miri does not know.
#[cfg(test)]
#[cfg(not(miri))]
mod tests {
    use std::collections::HashMap;
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::sync::atomic::{AtomicU32, Ordering};

    use proptest::prelude::{Just, ProptestConfig, Strategy, prop_assert, prop_assert_eq, prop_oneof, proptest};

    use super::NEAR;
    use crate::{Cache, Deadline, Durability, Eviction, Recovery, RecoveryProgress, Settings, VolumeSettings};

    const START: u64 = 1_800_000_000;
    /// Few segments, so that they are compacted and used again, and room enough that nothing has to go.
    const BUDGET: usize = 600 << 10;
    const KEYS: u8 = 60;
    /// What stays without being touched while all around it moves.
    const BYSTANDERS: u8 = 20;

    #[derive(Clone, Debug)]
    enum Operation {
        Set { key: u8, length: usize },
        Append { key: u8 },
        Touch { key: u8, ttl: u64 },
        Increment { key: u8 },
        Delete { key: u8 },
        Flush,
        Tick,
    }

    struct Place(PathBuf);

    impl Place {
        fn new() -> Place {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let name = format!("gannet-ledger-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
            Place(Path::new("/dev/shm").join(name))
        }

        fn open(&self, now: u64, boot: u8) -> (Cache, Recovery) {
            let settings = Settings { budget: BUDGET, max_item_size: 2048, eviction: Eviction::None, seed: 3 };
            let volume =
                VolumeSettings { durability: Durability::Always, ..VolumeSettings::new(self.0.clone(), [boot; 16]) };
            Cache::open(settings, &volume, now, &RecoveryProgress::default()).unwrap()
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    /// What each key was when somebody last heard of it, and what it has been since.
    #[derive(Default)]
    struct History {
        states: HashMap<u8, Vec<Option<Vec<u8>>>>,
        writes: u64,
        now: u64,
    }

    impl History {
        fn apply(&mut self, cache: &mut Cache, operation: &Operation) {
            let touched = match *operation {
                Operation::Set { key, length } => {
                    self.writes += 1;
                    let mut value = format!("{}", self.writes).into_bytes();
                    value.resize(length.max(value.len()), b' ');
                    // Where there is no room, what was there stays.
                    drop(cache.set(&[key], &value, 0, Deadline::Never));
                    key
                }
                Operation::Append { key } => {
                    self.writes += 1;
                    drop(cache.append(&[key], self.writes.to_string().as_bytes()));
                    key
                }
                Operation::Touch { key, ttl } => {
                    drop(cache.touch(&[key], Deadline::At(START + self.now + 1000 + ttl)));
                    key
                }
                Operation::Increment { key } => {
                    drop(cache.incr(&[key], 1));
                    key
                }
                Operation::Delete { key } => {
                    cache.delete(&[key]);
                    key
                }
                Operation::Flush => {
                    cache.flush(None);
                    return self.states.values_mut().for_each(|states| states.push(None));
                }
                Operation::Tick => {
                    self.now += 1;
                    return cache.advance(START + self.now);
                }
            };
            let state = cache.peek(&[touched]).map(|item| item.value.to_vec());
            self.states.entry(touched).or_default().push(state);
            // What is written may be missing for as long as nobody has heard of it.
            self.states.entry(touched).or_default().push(None);
            let state = cache.peek(&[touched]).map(|item| item.value.to_vec());
            self.states.entry(touched).or_default().push(state);
        }

        /// Everything was heard of.
        fn commit(&mut self) {
            for states in self.states.values_mut() {
                states.drain(..states.len() - 1);
            }
        }
    }

    fn operations(most: usize) -> impl Strategy<Value = Vec<Operation>> {
        let key = || BYSTANDERS..KEYS;
        let operation = prop_oneof![
            60 => (key(), prop_oneof![2 => Just(100), 3 => 0_usize..1500])
                .prop_map(|(key, length)| Operation::Set { key, length }),
            5 => key().prop_map(|key| Operation::Append { key }),
            5 => (key(), 0_u64..100).prop_map(|(key, ttl)| Operation::Touch { key, ttl }),
            5 => key().prop_map(|key| Operation::Increment { key }),
            15 => key().prop_map(|key| Operation::Delete { key }),
            1 => Just(Operation::Flush),
            5 => Just(Operation::Tick),
        ];
        proptest::collection::vec(operation, 0..most)
    }

    fn bytes(cache: &Cache) -> Vec<u8> {
        cache.segments.memory.bytes().to_vec()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whenever_the_machine_ends_all_is_there_that_was_heard_of(
            batches in proptest::collection::vec(operations(12), 1..150),
            last in proptest::collection::vec(operations(40), 1..4),
            seed: u64,
        ) {
            let place = Place::new();
            let (mut cache, _) = place.open(START, 1);
            let mut history = History::default();
            for key in 0..BYSTANDERS {
                history.apply(&mut cache, &Operation::Set { key, length: 300 });
            }
            cache.make_durable().unwrap();
            history.commit();
            let all = bytes(&cache);
            cache.segments.ledger.as_mut().unwrap().images = vec![all];
            for batch in &batches {
                batch.iter().for_each(|operation| history.apply(&mut cache, operation));
                cache.make_durable().unwrap();
                history.commit();
            }
            // What the ledger has written back is the volume.
            prop_assert!(cache.segments.ledger.as_ref().unwrap().images[0] == bytes(&cache));
            for batch in &last {
                batch.iter().for_each(|operation| history.apply(&mut cache, operation));
                let image = bytes(&cache);
                cache.segments.ledger.as_mut().unwrap().images.push(image);
            }
            let images = std::mem::take(&mut cache.segments.ledger.as_mut().unwrap().images);
            drop(cache);
            let mut random = seed;
            let mut lines = images[0].clone();
            for (number, line) in lines.chunks_mut(NEAR).enumerate() {
                random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                let image = &images[(random >> 60) as usize % images.len()];
                line.copy_from_slice(&image[number * NEAR..][..line.len()]);
            }
            fs::write(place.0.join("gannet.volume"), lines).unwrap();

            let (cache, report) = place.open(START + history.now, 2);
            prop_assert_eq!(report.cold, None);
            for (key, states) in &history.states {
                let found = cache.peek(&[*key]).map(|item| item.value.to_vec());
                prop_assert!(states.contains(&found), "{} is {:?} and not of {:?}", key, found, states);
            }
        }
    }
}

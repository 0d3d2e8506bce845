//! The cache on its volume: what the configuration and the system say becomes the engine's settings, and what has come back
//! is told.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use segcache::{Cache, FORMATS, Flusher, OpenError, Recovery, RecoveryProgress, Settings, VolumeSettings};
use tracing::{info, warn};

use crate::clock::Clock;
use crate::metrics::Counter;

/// What the system calls the time since it was started.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";
/// The system's counts of what happens to memory, and the one of them that counts processes which were killed for it.
const COUNTS: &str = "/proc/vmstat";
const OOM_KILLS: &str = "oom_kill";
/// The thread that flushes looks so often whether it is to end.
const LONGEST_SLEEP: Duration = Duration::from_millis(250);

/// Why there is no cache on the volume.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// It cannot be opened.
    #[error("storage: {0}")]
    Open(#[from] OpenError),
    /// It lies on something else than it must.
    #[error(
        "storage: {} is on {found:?}, and must be on {wanted:?}; mount that there, or change storage.medium",
        directory.display()
    )]
    Medium {
        /// Where the volume is.
        directory: PathBuf,
        /// What it lies on.
        found: config::Medium,
        /// What it must lie on.
        wanted: config::Medium,
    },
    /// It cannot be flushed.
    #[error("storage: the volume cannot be flushed: {0}; it is marked, and the next start is cold")]
    Flush(io::Error),
    /// What was written cannot be made durable.
    #[error(
        "storage: a write cannot be made durable: {0}; it was not acknowledged, the volume is marked, and the next start is cold"
    )]
    Commit(io::Error),
    /// The system does not tell what is needed to judge a volume.
    #[error("{file}: cannot be read: {reason}")]
    System {
        /// The system's file.
        file: &'static str,
        /// What the system says.
        reason: io::Error,
    },
}

/// What can be told of the volume while it is opened and afterwards.
#[derive(Debug)]
pub struct Volume {
    format: u64,
    progress: RecoveryProgress,
    recovery: OnceLock<config::Recovery>,
    flushes: Counter,
}

impl Volume {
    /// Of a volume that is not open yet.
    #[must_use]
    pub fn new(storage: &config::Storage) -> Volume {
        let format = format_of(storage);
        Volume { format, progress: RecoveryProgress::default(), recovery: OnceLock::new(), flushes: Counter::default() }
    }

    /// Opens the cache on the volume, with what has come back.
    ///
    /// # Errors
    /// [`VolumeError`], naming what to change.
    pub fn open(&self, storage: &config::Storage, settings: Settings) -> Result<Cache, VolumeError> {
        let began = Instant::now();
        let volume = volume_settings(storage)?;
        let (cache, recovery) = Cache::open(settings, &volume, Clock::wall_seconds(), &self.progress)?;
        let Recovery { cold, from_snapshot, medium, items, segments, damaged, clock_behind } = recovery;
        let milliseconds = began.elapsed().as_millis() as u64;
        let found = medium_of(medium);
        match &cold {
            None => {
                info!(items, segments, damaged, milliseconds, from_snapshot, medium = ?found, "warm: the items are back")
            }
            Some(reason) => info!(%reason, medium = ?found, "cold: the volume is empty"),
        }
        if clock_behind > 0 {
            warn!(seconds = clock_behind, "the system's clock is behind the volume's; time goes on from the volume's");
        }
        if let Some(wanted) = storage.medium.filter(|wanted| *wanted != found) {
            return Err(VolumeError::Medium { directory: storage.directory.clone(), found, wanted });
        }
        let cold = cold.map(|reason| reason.to_string());
        let clock_behind_seconds = clock_behind;
        self.recovery.get_or_init(|| config::Recovery {
            medium: found,
            durability: match found {
                config::Medium::Memory | config::Medium::Hugepages => config::Durability::None,
                config::Medium::PersistentMemory | config::Medium::File => storage.durability,
            },
            cold,
            from_snapshot,
            items,
            damaged,
            milliseconds,
            clock_behind_seconds,
        });
        Ok(cache)
    }

    /// Makes the volume outlive the machine every so often, until `is_over`; to be called on a thread of its own.
    ///
    /// # Errors
    /// [`VolumeError::Flush`]: the volume may hold anything, and must not be used any more.
    pub fn flush(&self, flusher: &Flusher, interval: Duration, is_over: impl Fn() -> bool) -> Result<(), VolumeError> {
        let mut flushed = Instant::now();
        while !is_over() {
            thread::sleep(interval.saturating_sub(flushed.elapsed()).min(LONGEST_SLEEP));
            if flushed.elapsed() >= interval {
                flushed = Instant::now();
                flusher.flush().map_err(VolumeError::Flush)?;
                self.count_flush();
            }
        }
        Ok(())
    }

    /// Counts a flush: by the thread that flushes, or by the cache's owner where writes do not wait for that.
    pub fn count_flush(&self) {
        self.flushes.add(1);
    }

    /// What `/status` says of it.
    #[must_use]
    pub fn report(&self) -> config::StorageReport {
        let (segments_done, segments_found) = self.progress.segments();
        let flushes = self.flushes.get();
        let volume_format = self.format;
        config::StorageReport {
            segments_done,
            segments_found,
            volume_format,
            flushes,
            recovery: self.recovery.get().cloned(),
        }
    }
}

fn volume_settings(storage: &config::Storage) -> Result<VolumeSettings, VolumeError> {
    let read = |file| fs::read_to_string(file).map_err(|reason| VolumeError::System { file, reason });
    let max_absence = storage.max_absence.0;
    Ok(VolumeSettings {
        directory: storage.directory.clone(),
        capacity: storage.capacity.map(|capacity| usize::try_from(capacity.0).unwrap_or(usize::MAX)),
        durability: match storage.durability {
            config::Durability::None => segcache::Durability::None,
            config::Durability::Interval => segcache::Durability::Interval,
            config::Durability::Always => segcache::Durability::Always,
        },
        format: format_of(storage),
        max_absence: (!max_absence.is_zero()).then_some(max_absence.as_secs()),
        on_mismatch: match storage.on_mismatch {
            config::OnMismatch::StartCold => segcache::OnMismatch::StartCold,
            config::OnMismatch::Refuse => segcache::OnMismatch::Refuse,
        },
        boot: boot_of(&read(BOOT)?),
        oom_kills: oom_kills_of(&read(COUNTS)?),
    })
}

fn format_of(storage: &config::Storage) -> u64 {
    storage.volume_format.unwrap_or(*FORMATS.end())
}

fn medium_of(medium: segcache::Medium) -> config::Medium {
    match medium {
        segcache::Medium::Memory => config::Medium::Memory,
        segcache::Medium::Hugepages => config::Medium::Hugepages,
        segcache::Medium::PersistentMemory => config::Medium::PersistentMemory,
        segcache::Medium::File => config::Medium::File,
    }
}

/// The 16 bytes of a UUID as text, whatever stands between its digits.
fn boot_of(text: &str) -> [u8; 16] {
    let digits = text.chars().filter_map(|digit| digit.to_digit(16));
    digits.fold(0_u128, |number, digit| number << 4 | u128::from(digit)).to_be_bytes()
}

/// The count of processes that were killed for want of memory; systems that do not count them have none.
fn oom_kills_of(text: &str) -> u64 {
    let mut counts = text.lines().filter_map(|line| line.split_once(' '));
    counts.find(|(name, _)| *name == OOM_KILLS).and_then(|(_, count)| count.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{boot_of, oom_kills_of};

    #[test]
    fn what_the_system_says_is_read() {
        let boot = boot_of("00112233-4455-6677-8899-aabbccddeeff\n");
        assert_eq!((boot[1], boot[15]), (0x11, 0xff));
        assert_eq!(oom_kills_of("nr_free_pages 7\noom_kill 12\n"), 12);
        assert_eq!(oom_kills_of("nr_free_pages 7\n"), 0);
    }
}

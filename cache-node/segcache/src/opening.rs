//! Opening a cache on a volume: what is there, whether it may be used, and the cache that comes of it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cache::Cache;
use crate::durability::Durability;
use crate::files::{Files, Flushes, Medium};
use crate::hash::{Random, mix};
use crate::index::Index;
use crate::recovery::{RecoveryProgress, Tally, shrink};
use crate::segment::Segments;
use crate::settings::{Geometry, Placement};
use crate::superblock::{FORMATS, NoSuperblock, OLDEST_WRITTEN, Superblock, VERSION};
use crate::volume::Region;
use crate::{Settings, SettingsError};

/// After so many ends in a row for want of memory a volume is emptied: its pages outlive the process, and would be the
/// end of the next one too.
const MOST_OOM_ENDS: u64 = 2;

/// Where a cache keeps its items so that they outlive the process, and what of them counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeSettings {
    /// The directory of the volume's files. One process at a time may use it.
    pub directory: PathBuf,
    /// Bytes for the items; the budget is then for the index alone. Without: both share the budget, as they do without a
    /// volume.
    pub capacity: Option<usize>,
    /// What a write outlives.
    pub durability: Durability,
    /// The version of the format that the volume is written in, so that an older release can read it: one of
    /// [`FORMATS`](crate::FORMATS).
    pub format: u64,
    /// A volume that was without its owner for more seconds than this is not used: meanwhile its keys were written and
    /// deleted elsewhere.
    pub max_absence: Option<u64>,
    /// What happens where the volume cannot be read.
    pub on_mismatch: OnMismatch,
    /// What the system calls the time since it was started: the same number only until the next start.
    pub boot: [u8; 16],
    /// Processes that the system has killed for want of memory since it was started.
    pub oom_kills: u64,
}

impl VolumeSettings {
    /// A volume in `directory`, on a machine that has been running since `boot`: the items share the budget with their index,
    /// outlive the process and no more, in the newest format; how long it was away and how its owners ended is no matter.
    #[must_use]
    pub fn new(directory: PathBuf, boot: [u8; 16]) -> VolumeSettings {
        VolumeSettings {
            directory,
            capacity: None,
            durability: Durability::default(),
            format: *FORMATS.end(),
            max_absence: None,
            on_mismatch: OnMismatch::default(),
            boot,
            oom_kills: 0,
        }
    }
}

/// What happens where a volume cannot be read: it is not one, or is damaged, or of another version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnMismatch {
    /// It is overwritten with an empty one.
    #[default]
    StartCold,
    /// [`Cache::open`] fails, and leaves it as it is.
    Refuse,
}

/// Why the items of a volume are not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cold {
    /// There was none yet.
    #[error("there was no volume yet")]
    New,
    /// The file is not a volume.
    #[error("the file is not a volume of this program")]
    Foreign,
    /// The volume is of a version that this build does not read.
    #[error("the volume has format version {version}, which this version of the program does not read")]
    Version {
        /// The version.
        version: u64,
    },
    /// What describes the volume is damaged.
    #[error("both superblocks are damaged")]
    Damaged,
    /// The file is shorter than what describes it says.
    #[error("the file has {found} bytes and must have {expected}: it was cut short")]
    Truncated {
        /// Its length in bytes.
        found: u64,
        /// What it should be.
        expected: u64,
    },
    /// Its segments do not hold the largest item that is allowed now, or cannot be addressed in a volume so large.
    #[error(
        "its segments of {segment_size} bytes do not suit the largest item or the capacity that are configured now"
    )]
    Geometry {
        /// The size of a segment in bytes.
        segment_size: u64,
    },
    /// The machine was restarted, and the durability outlives no such thing.
    #[error("the machine was restarted, and the durability was none")]
    MachineRestarted,
    /// The volume was without its owner for too long.
    #[error(
        "the volume was away for {seconds} s, longer than the {limit} s after which its items count as out of date"
    )]
    Absent {
        /// For how long.
        seconds: u64,
        /// For how long it might have been.
        limit: u64,
    },
    /// The volume could not be read or written any more.
    #[error("the volume failed under the process before this one (SIGBUS)")]
    Failed,
    /// The volume has probably made the system kill its owner, twice in a row.
    #[error("its last {MOST_OOM_ENDS} owners were killed for want of memory")]
    OutOfMemory,
}

impl Cold {
    /// Whether the volume could not be read, in difference to one that may not be used any more.
    fn is_mismatch(&self) -> bool {
        match self {
            Cold::Foreign | Cold::Version { .. } | Cold::Damaged | Cold::Truncated { .. } | Cold::Geometry { .. } => {
                true
            }
            Cold::New | Cold::MachineRestarted | Cold::Absent { .. } | Cold::Failed | Cold::OutOfMemory => false,
        }
    }
}

/// Why a cache on a volume cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the volume.
    #[error("{}: another process has this volume; end it, or choose another directory", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// A file could not be used.
    #[error("{}: cannot be {what}: {reason}", path.display())]
    System {
        /// What was to be done to it.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: io::Error,
    },
    /// The volume does not fit.
    #[error("{}: there is no room for {bytes} bytes: {reason}; make room or lower the capacity", path.display())]
    Space {
        /// The volume.
        path: PathBuf,
        /// What it needs in all.
        bytes: usize,
        /// What the system says.
        reason: io::Error,
    },
    /// The volume cannot be read, and is not to be overwritten.
    #[error("{}: {reason}; move it away, or allow a cold start", path.display())]
    Mismatch {
        /// The volume.
        path: PathBuf,
        /// What is wrong with it.
        reason: Cold,
    },
    /// This build does not write the format.
    #[error(
        "a volume of format version {asked} cannot be written: this release writes versions {OLDEST_WRITTEN} to {VERSION}; \
         set volumeFormat to one of them, or leave it out"
    )]
    Format {
        /// The version that was asked for.
        asked: u64,
    },
    /// No cache can be made of the settings.
    #[error(transparent)]
    Settings(#[from] SettingsError),
}

/// How a cache on a volume began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// Why it began empty, if it did.
    pub cold: Option<Cold>,
    /// Whether a clean end had left a snapshot of the index.
    pub from_snapshot: bool,
    /// What the volume lies on.
    pub medium: Medium,
    /// Items that came back.
    pub items: u64,
    /// Segments that they are in.
    pub segments: u32,
    /// Records that were not whole, and were left out.
    pub damaged: u64,
    /// Seconds by which the time that was given was before the last tick of the owner before: the clock goes on from there.
    pub clock_behind: u64,
}

/// What a cache on a volume has beside its segments.
pub(crate) struct Volume {
    pub(crate) files: Files,
    pub(crate) superblock: Superblock,
    pub(crate) flushes: Arc<Flushes>,
    /// The flushes that had begun when the superblock was last written; none if that write is durable already.
    pub(crate) begun_at_write: Option<u64>,
}

impl Cache {
    /// A cache on a volume, with the items that it has, at the time `now` (unix seconds) or at the last tick of the owner
    /// before, whichever is later.
    ///
    /// [`Settings::seed`] is not the cache's but that of what a new volume draws at random.
    ///
    /// # Errors
    /// [`OpenError`]. A volume that cannot be used any more is none: the cache is then empty, and the report says why.
    pub fn open(
        settings: Settings,
        volume: &VolumeSettings,
        now: u64,
        progress: &RecoveryProgress,
    ) -> Result<(Cache, Recovery), OpenError> {
        if !FORMATS.contains(&volume.format) {
            return Err(OpenError::Format { asked: volume.format });
        }
        let mut files = Files::lock(&volume.directory)?;
        let (before, oom_ends) = match examine(&files, &settings, volume, now)? {
            Found::Usable(superblock, oom_ends) => (Ok(superblock), oom_ends),
            Found::Unusable(cold) if cold.is_mismatch() && volume.on_mismatch == OnMismatch::Refuse => {
                return Err(OpenError::Mismatch { path: files.volume(), reason: cold });
            }
            Found::Unusable(cold) => {
                files.discard()?;
                (Err(cold), 0)
            }
        };
        let placement = placement(volume, before.as_ref().ok());
        let geometry = settings.geometry(placement)?;
        let superblock = next_superblock(before.as_ref().ok(), &settings, &geometry, volume, now, oom_ends);
        let for_items = match placement.capacity {
            None => settings.budget - geometry.metadata_bytes,
            Some(capacity) => capacity,
        };
        let (region, medium) = mapped(&files, before.as_ref().ok(), &superblock, for_items)?;
        files.guard()?;
        let segments = Segments::of_volume(region, geometry.segments, &superblock);
        let clock_behind = superblock.now - now.min(superblock.now);
        let mut cache = Cache::assemble(&settings, &geometry, segments, superblock.hash_seed, superblock.now)?;
        cache.shares_budget = placement.capacity.is_none();
        (cache.flushed, cache.flush_at) = (superblock.flushed, superblock.flush_at);
        let path = files.volume();
        cache.volume = Some(Volume { files, superblock, flushes: Arc::default(), begun_at_write: None });
        let durable = |reason| OpenError::System { what: "made durable", path: path.clone(), reason };
        // What outlives the machine must be what this says that it is, and what was there must have come before.
        cache.persist().map_err(durable)?;
        // From here on what lies in the volume is of this epoch, and no snapshot is of it any more.
        cache.write_superblock();
        cache.persist().map_err(durable)?;
        let tally = match &before {
            Ok(before) if cache.restore(before) => Tally::snapshot(before),
            Ok(before) => cache.recover(before, progress),
            Err(_) => Tally::default(),
        };
        cache.sequence = tally.next_sequence;
        // No later owner may give these numbers again, whenever this one ends.
        cache.write_superblock();
        cache.persist().map_err(durable)?;
        cache.promise(medium);
        cache.maintenance.sweep_flushed();
        cache.divide_budget().map_err(|reason| OpenError::Space { path, bytes: settings.budget, reason })?;
        cache.advance(now);
        let report = Recovery {
            cold: before.err(),
            from_snapshot: tally.from_snapshot,
            medium,
            items: cache.totals.items,
            segments: cache.segments.used_count(),
            damaged: tally.damaged,
            clock_behind,
        };
        Ok((cache, report))
    }
}

/// The last tick of the clock (unix seconds) that the volume in a directory knows of, if there is one: time must go on from
/// there.
#[must_use]
pub fn last_tick(directory: &Path) -> Option<u64> {
    let (bytes, _) = Files::superblocks_in(directory).ok().flatten()?;
    Superblock::decode(&bytes).ok().map(|superblock| superblock.now)
}

/// What was found where a volume is to be.
enum Found {
    /// A volume, and how often in a row its owner was killed for want of memory.
    Usable(Superblock, u64),
    Unusable(Cold),
}

fn examine(files: &Files, settings: &Settings, volume: &VolumeSettings, now: u64) -> Result<Found, OpenError> {
    if files.is_marked()? {
        return Ok(Found::Unusable(Cold::Failed));
    }
    let Some((bytes, length)) = Files::superblocks_in(&volume.directory)? else {
        return Ok(Found::Unusable(Cold::New));
    };
    let superblock = match Superblock::decode(&bytes) {
        Ok(superblock) => superblock,
        Err(NoSuperblock::Empty) => return Ok(Found::Unusable(Cold::New)),
        Err(NoSuperblock::Foreign) => return Ok(Found::Unusable(Cold::Foreign)),
        Err(NoSuperblock::Version(version)) => return Ok(Found::Unusable(Cold::Version { version })),
        Err(NoSuperblock::Damaged) => return Ok(Found::Unusable(Cold::Damaged)),
    };
    let Superblock { segment_size, segments, alignment, boot, durability, clean, .. } = superblock;
    let expected = Segments::volume_bytes(segments as usize, segment_size as usize) as u64;
    let same_boot = boot == volume.boot;
    let was_killed = clean == 0 && same_boot && volume.oom_kills > superblock.oom_kills;
    let oom_ends = if was_killed { superblock.oom_ends + 1 } else { 0 };
    let seconds = now.saturating_sub(superblock.now);
    let placement = placement(volume, Some(&superblock));
    let suits = settings
        .geometry(placement)
        .is_ok_and(|geometry| u64::from(Index::alignment(geometry.segments, geometry.segment_size)) <= alignment);
    let cold = if length < expected {
        Cold::Truncated { found: length, expected }
    } else if !suits {
        // With other settings a cache can be made, or it will be said why not.
        Cold::Geometry { segment_size }
    } else if !same_boot && durability == Durability::None.number() {
        Cold::MachineRestarted
    } else if let Some(limit) = volume.max_absence.filter(|limit| seconds > *limit) {
        Cold::Absent { seconds, limit }
    } else if oom_ends >= MOST_OOM_ENDS {
        Cold::OutOfMemory
    } else {
        return Ok(Found::Usable(superblock, oom_ends));
    };
    Ok(Found::Unusable(cold))
}

/// A volume keeps the size of its segments, whatever its capacity becomes.
fn placement(volume: &VolumeSettings, before: Option<&Superblock>) -> Placement {
    Placement {
        capacity: volume.capacity,
        segment_size: before.map(|superblock| superblock.segment_size as usize),
        is_volume: true,
    }
}

/// The superblock of the epoch that begins now.
fn next_superblock(
    before: Option<&Superblock>,
    settings: &Settings,
    geometry: &Geometry,
    volume: &VolumeSettings,
    now: u64,
    oom_ends: u64,
) -> Superblock {
    let mut random = Random::new(mix(settings.seed));
    let fresh = Superblock {
        generation: 0,
        segment_size: geometry.segment_size.into(),
        segments: geometry.segments.into(),
        alignment: Index::alignment(geometry.segments, geometry.segment_size).into(),
        secret: random.next(),
        hash_seed: random.next(),
        epoch: 0,
        boot: volume.boot,
        now,
        sequence: 0,
        items: 0,
        flushed: 0,
        flush_at: None,
        durability: volume.durability.number(),
        clean: 0,
        oom_kills: volume.oom_kills,
        oom_ends,
    };
    match before {
        None => fresh,
        Some(before) => Superblock {
            segments: fresh.segments,
            epoch: before.epoch + 1,
            boot: fresh.boot,
            now: now.max(before.now),
            durability: fresh.durability,
            clean: 0,
            oom_kills: fresh.oom_kills,
            oom_ends,
            ..*before
        },
    }
}

/// The mapped volume, with as many segments as it is to have now, which hold what `for_items` bytes can with their index.
fn mapped(
    files: &Files,
    before: Option<&Superblock>,
    now: &Superblock,
    for_items: usize,
) -> Result<(Region, Medium), OpenError> {
    let bytes = |superblock: &Superblock| {
        Segments::volume_bytes(superblock.segments as usize, superblock.segment_size as usize)
    };
    if let Some(before) = before.filter(|before| before.segments > now.segments) {
        let (mut region, _) = files.map(bytes(before))?;
        shrink(&mut region, before, now, for_items);
        // What is cut off must be elsewhere first, also where the machine ends.
        let path = files.volume();
        region.persist().map_err(|reason| OpenError::System { what: "made durable", path, reason })?;
    }
    files.map(bytes(now))
}

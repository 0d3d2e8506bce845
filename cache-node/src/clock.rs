//! The two times that the node knows.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, Timespec, clock_gettime};

/// The wall clock at the start plus the boot-time clock since, which no one can set back.
///
/// A wall clock that jumps would make items immortal or expire them all at once; the boot-time clock also counts the
/// time that the machine slept.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Unix time in microseconds at which the boot-time clock would have been zero.
    offset_us: u64,
}

/// One reading of the clock, in microseconds of unix time. One is taken a poll round, and passed on from there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(u64);

impl Clock {
    /// A clock set by the wall clock of this moment, but not before `earliest` (unix seconds).
    #[must_use]
    pub fn start(earliest: u64) -> Clock {
        let now = (wall().as_micros() as u64).max(earliest * 1_000_000);
        Clock { offset_us: now.saturating_sub(boot_time_us()) }
    }

    /// The wall clock of this moment, in unix seconds.
    #[must_use]
    pub fn wall_seconds() -> u64 {
        wall().as_secs()
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> Instant {
        Instant(self.offset_us + boot_time_us())
    }
}

impl Instant {
    /// Unix seconds, rounded down.
    #[must_use]
    pub fn seconds(self) -> u64 {
        self.0 / 1_000_000
    }

    /// Microseconds since `earlier`; 0 where that is later.
    #[must_use]
    pub fn since(self, earlier: Instant) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// So many microseconds later.
    #[must_use]
    pub fn after(self, us: u64) -> Instant {
        Instant(self.0.saturating_add(us))
    }

    /// Microseconds of unix time, for what is shared between threads as a number.
    #[must_use]
    pub fn micros(self) -> u64 {
        self.0
    }
}

fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn boot_time_us() -> u64 {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Boottime);
    tv_sec.unsigned_abs() * 1_000_000 + tv_nsec.unsigned_abs() / 1_000
}

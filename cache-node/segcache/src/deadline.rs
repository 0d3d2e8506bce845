//! When an item ends.

/// memcached reads an expiry time above this many seconds (30 days) as a date and not as a duration.
const LONGEST_RELATIVE: i64 = 60 * 60 * 24 * 30;

/// The last second of the clock in which an item may be served.
///
/// The clock is in whole seconds, so an item that is stored in the middle of second 100 for 5 seconds has the deadline
/// 105: it is served until second 105 has passed, so never for less than its 5 seconds and never for 6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Deadline {
    /// The item does not expire.
    #[default]
    Never,
    /// The item expires when the clock (unix seconds) is past this.
    At(u64),
}

impl Deadline {
    /// The deadline that a memcached client asks for with `exptime` at the time `now` (unix seconds).
    ///
    /// Zero is never; negative is already expired; up to 30 days are seconds from now; more is a unix time
    /// (memcached's protocol.txt, "Expiration times").
    #[must_use]
    pub fn from_memcached(exptime: i64, now: u64) -> Deadline {
        match exptime {
            0 => Deadline::Never,
            ..0 => Deadline::At(now.saturating_sub(1)),
            1..=LONGEST_RELATIVE => Deadline::At(now.saturating_add(exptime.unsigned_abs())),
            _ => Deadline::At(exptime.unsigned_abs()),
        }
    }

    /// Whether an item with this deadline is no longer served at `now`.
    #[must_use]
    pub fn is_past(self, now: u64) -> bool {
        matches!(self, Deadline::At(last) if last < now)
    }
}

#[cfg(test)]
mod tests {
    use super::Deadline;

    #[test]
    fn exptime_is_read_as_memcached_reads_it() {
        let now = 1_800_000_000;
        for (exptime, deadline) in [
            (0, Deadline::Never),
            (1, Deadline::At(now + 1)),
            (2_592_000, Deadline::At(now + 2_592_000)),
            (2_592_001, Deadline::At(2_592_001)),
            (1_900_000_000, Deadline::At(1_900_000_000)),
            (i64::MAX, Deadline::At(i64::MAX as u64)),
        ] {
            assert_eq!(Deadline::from_memcached(exptime, now), deadline, "{exptime}");
        }
        for expired in [-1, i64::MIN, 2_592_001] {
            assert!(Deadline::from_memcached(expired, now).is_past(now), "{expired}");
        }
    }

    #[test]
    fn an_item_lives_through_its_last_second() {
        assert!(!Deadline::At(105).is_past(105));
        assert!(Deadline::At(105).is_past(106));
        assert!(!Deadline::Never.is_past(u64::MAX));
    }
}

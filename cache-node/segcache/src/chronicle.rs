//! When writes happened: from a record's sequence, which it has anyway, to the second in which it was written.

/// Entries of a chronicle. Thinning leaves some three hundred of a history of ten years.
const MOST_ENTRIES: usize = 512;
/// Entries are kept as close to each other as this share of their age.
const SHARE_OF_AGE: u64 = 16;

/// The writes behind `sequence` happened at `time` or later.
#[derive(Clone, Copy)]
struct Entry {
    sequence: u64,
    time: u64,
}

/// Times of writes, the older ones less exactly.
pub(crate) struct Chronicle {
    /// Ascending in both fields, never empty.
    entries: Vec<Entry>,
}

impl Chronicle {
    pub(crate) const METADATA: usize = MOST_ENTRIES * size_of::<Entry>();

    pub(crate) fn new(now: u64) -> Chronicle {
        let mut entries = Vec::with_capacity(MOST_ENTRIES);
        entries.push(Entry { sequence: 0, time: now });
        Chronicle { entries }
    }

    /// The times of the writes in a volume: `writes` has sequences and times at which, or after which, what came behind
    /// them was written; the last write was `last`, and it is `now`.
    pub(crate) fn recovered(mut writes: Vec<(u64, u64)>, now: u64, last: u64) -> Chronicle {
        writes.sort_unstable();
        // What is not known of is older than anything.
        let mut chronicle = Chronicle::new(writes.first().map_or(now, |(_, time)| *time).min(now));
        let mut latest = 0;
        for (sequence, time) in writes.into_iter().filter(|(sequence, _)| *sequence > 0) {
            latest = time.clamp(latest, now.max(latest));
            chronicle.note(latest, sequence);
        }
        chronicle.note(now.max(latest), last);
        chronicle
    }

    /// The sequences and times that [`Chronicle::recovered`] takes.
    pub(crate) fn entries(&self) -> Vec<(u64, u64)> {
        self.entries.iter().map(|entry| (entry.sequence, entry.time)).collect()
    }

    /// The clock has moved to `now`, and the last write so far was `sequence`.
    pub(crate) fn note(&mut self, now: u64, sequence: u64) {
        match self.entries.last_mut() {
            Some(last) if last.sequence == sequence => last.time = now,
            _ => {
                if self.entries.len() == MOST_ENTRIES {
                    self.thin(now);
                }
                self.entries.push(Entry { sequence, time: now });
            }
        }
    }

    /// The second in which a write happened, in unix seconds; it may be early by a sixteenth of the write's age.
    pub(crate) fn written_at(&self, sequence: u64) -> u64 {
        let later = self.entries.partition_point(|entry| entry.sequence < sequence);
        self.entries.get(later.saturating_sub(1)).map_or(0, |entry| entry.time)
    }

    /// Leaves out the entries without which those before them are not too far from those behind them.
    fn thin(&mut self, now: u64) {
        let mut kept = 1;
        for at in 1..self.entries.len() {
            let next = self.entries.get(at + 1).map_or(now, |entry| entry.time);
            let gap = next - self.entries[kept - 1].time;
            if gap > (now - next) / SHARE_OF_AGE {
                self.entries[kept] = self.entries[at];
                kept += 1;
            }
        }
        self.entries.truncate(kept);
    }
}

#[cfg(test)]
mod tests {
    use super::{Chronicle, MOST_ENTRIES, SHARE_OF_AGE};

    #[test]
    fn writes_are_dated_as_exactly_as_their_age_asks_for() {
        let start = 1_800_000_000;
        let mut chronicle = Chronicle::new(start);
        let seconds = if cfg!(miri) { 2000 } else { 200_000 };
        let mut writes = Vec::new();
        let mut sequence = 0;
        for second in 0..seconds {
            // Some seconds have no write, some have many.
            for _ in 0..second % 4 {
                sequence += 1;
                writes.push((sequence, start + second));
            }
            chronicle.note(start + second + 1, sequence);
        }
        let now = start + seconds;
        for (sequence, time) in writes {
            let told = chronicle.written_at(sequence);
            assert!(told <= time && time - told <= (now - time) / (SHARE_OF_AGE - 1), "{told} for {time} at {now}");
        }
        assert!(chronicle.entries.len() <= MOST_ENTRIES);
    }

    #[test]
    fn without_writes_nothing_is_noted() {
        let mut chronicle = Chronicle::new(100);
        (101..10_000).for_each(|now| chronicle.note(now, 0));
        assert_eq!(chronicle.written_at(1), 9999);
        assert_eq!(chronicle.entries.len(), 1);
        chronicle.note(10_000, 7);
        assert_eq!([1, 7, 8].map(|sequence| chronicle.written_at(sequence)), [9999, 9999, 10_000]);
    }
}

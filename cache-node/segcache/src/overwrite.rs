//! Overwriting: a record that takes exactly the place of the one before is written there, so that what is overwritten
//! all day does not fill segments with its past.

use crate::bucket::spread;
use crate::cache::Cache;
use crate::frequency;
use crate::record::{MAX_HEADER, leb128_length};
use crate::segment::{Segment, State};
use crate::store::{Draft, Old, Piece};
use crate::{Deadline, Eviction, Outcome};

/// While more than one segment in so many is free, deadlines are kept together.
const PLENTY: u32 = 4;
/// A value of this many bytes bears a byte or two more.
const LONG: usize = 512;
/// The writes that an item is to be overwritten within, as a multiple of the number of items.
const STAY: u64 = 4;
/// The most bytes for a sequence that may be needed only later: 2^28 writes.
const WIDEST: usize = 4;

impl Cache {
    /// Writes a draft over the record that it replaces, if it takes the same place; says whether it did.
    pub(crate) fn overwrite(&mut self, key: &[u8], old: &Old, draft: &Draft<'_>) -> Option<Outcome> {
        let location = old.slot.location;
        let record = self.segments.record(location)?;
        let (layout, before) = (record.layout, record.header);
        let segment = self.segments.get(location.segment);
        // A job has counted with the records of a busy segment as they are; a queue goes by the time of the write.
        if segment.state == State::Busy
            || self.eviction == Eviction::Fifo
            || draft.value_length() != before.value_length
            || draft.value.iter().any(|piece| matches!(piece, Piece::Stored { .. } | Piece::Unwritten(_)))
            || !self.may_end_here(segment, draft.deadline)
        {
            return None;
        }
        let sequence = self.sequence + 1;
        let header = self.header(location.segment, key, draft, sequence, before.sequence_width);
        let mut head = [0; MAX_HEADER];
        let fits = leb128_length(header.sequence) <= before.sequence_width
            && header.encode(usize::from(segment.width), &mut head) == layout.key
            && header.is_laid_out_as(&before);
        if !fits {
            return None;
        }
        self.sequence = sequence;
        self.segments.part_mut(location, 0, layout.key).copy_from_slice(&head[..layout.key]);
        self.put_pieces(location, layout.value, &draft.value);
        self.segments.enliven(location);
        let frequency = old.slot.frequency.max(frequency::fresh(self.eviction, false));
        self.index.relocate(old.slot, location, frequency, draft.hit);
        self.stored(location.segment, sequence, draft.deadline);
        Some(Outcome::Stored { cas: draft.cas.unwrap_or(sequence) })
    }

    /// The bytes that the sequence of a new record gets: where an item is likely to be overwritten, or too long for it
    /// to matter, enough for as many writes as it may stay for.
    pub(crate) fn sequence_width(&self, segment: u32, draft: &Draft<'_>, old: Option<&Old>) -> usize {
        if old.is_none() && draft.value_length() < LONG && !draft.is_number() {
            return 0;
        }
        leb128_length(self.sequence - self.segments.get(segment).base_sequence + STAY * self.totals.items).min(WIDEST)
    }

    /// Whether a record of this segment may be given this deadline.
    pub(crate) fn may_end_here(&self, segment: &Segment, deadline: Deadline) -> bool {
        let Deadline::At(last) = deadline else { return segment.width == 0 };
        // Beyond this the memory of the neighbours would come back too late.
        let near = (segment.base_deadline + u64::from(spread(segment.bucket))).max(segment.last_deadline);
        let farthest = match segment.state {
            State::Busy => segment.last_deadline,
            // When memory is short, what has expired in part is compacted.
            _ if self.segments.free_count() <= self.segments.count() / PLENTY => segment.farthest_deadline(),
            _ => near,
        };
        segment.width > 0
            && !deadline.is_past(self.now)
            && (segment.base_deadline..=farthest.min(segment.farthest_deadline())).contains(&last)
    }
}

#[cfg(test)]
mod tests {
    use crate::cache::Cache;
    use crate::segment::{Location, State};
    use crate::{Deadline, Eviction, Settings};

    const NOW: u64 = 1_800_000_000;

    fn cache() -> Cache {
        Cache::new(Settings { budget: 1 << 20, max_item_size: 1024, eviction: Eviction::Merge, seed: 3 }, NOW).unwrap()
    }

    fn location(cache: &Cache, key: &[u8]) -> Location {
        cache.find(cache.hasher.hash(key), key).unwrap().slot.location
    }

    /// Writes a second time; says whether it stayed in its place.
    fn stays(cache: &mut Cache, value: &[u8], flags: u32, deadline: Deadline) -> bool {
        let before = location(cache, b"key");
        cache.set(b"key", value, flags, deadline).unwrap();
        let item = cache.peek(b"key").unwrap();
        assert_eq!((item.value, item.flags, item.deadline, item.cas), (value, flags, deadline, cache.sequence));
        location(cache, b"key") == before
    }

    #[test]
    fn what_takes_the_same_place_is_written_there() {
        let mut cache = cache();
        cache.set(b"key", b"12345", 1, Deadline::At(NOW + 320)).unwrap();
        assert!(stays(&mut cache, b"54321", 2, Deadline::At(NOW + 321)));
        assert!(!stays(&mut cache, b"123456", 2, Deadline::At(NOW + 321)), "longer");
        assert!(!stays(&mut cache, b"123456", 200, Deadline::At(NOW + 321)), "longer flags");
        assert!(!stays(&mut cache, b"123456", 200, Deadline::Never), "without a deadline");
        // A sixteenth of the TTL is as far as deadlines of a segment are apart while there is plenty of memory.
        cache.set(b"key", b"12345", 1, Deadline::At(NOW + 320)).unwrap();
        assert!(!stays(&mut cache, b"12345", 1, Deadline::At(NOW + 320 + 40)));
        assert!(!stays(&mut cache, b"12345", 1, Deadline::At(NOW + 319)));
    }

    #[test]
    fn a_record_that_a_job_has_counted_with_stays_as_it_is() {
        let mut cache = cache();
        cache.set(b"key", b"12345", 0, Deadline::Never).unwrap();
        let segment = location(&cache, b"key").segment;
        cache.seal(crate::bucket::NEVER);
        cache.segments.get_mut(segment).state = State::Busy;
        assert!(!stays(&mut cache, b"54321", 0, Deadline::Never));
    }

    #[test]
    fn what_is_overwritten_all_day_leaves_nothing_dead() {
        let mut cache = cache();
        let keys: Vec<[u8; 4]> = (0..600_u32).map(u32::to_be_bytes).collect();
        for round in 0..2000_u32 {
            for key in keys.iter().skip(round as usize % 7).step_by(7) {
                cache.set(key, &[round as u8; 1000], 0, Deadline::At(NOW + 3600 + u64::from(round / 100))).unwrap();
            }
        }
        let counters = cache.counters();
        assert_eq!((counters.items, counters.evicted), (600, 0));
        assert!(counters.segments_used <= 12, "{counters:?}");
    }
}

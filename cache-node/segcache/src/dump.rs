//! A walk over all items that can be left and taken up again.

use crate::Item;
use crate::cache::{Cache, Found};
use crate::segment::{Location, Segments, State};

/// A place in the walk; the default is its beginning. Between two steps items may move, so that one is seen twice or not
/// at all; one that stays where it is is seen once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor(u64);

impl Cursor {
    /// The place as a number.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }

    /// The place of this number.
    #[must_use]
    pub fn of(number: u64) -> Cursor {
        Cursor(number)
    }

    fn at(location: Location) -> Cursor {
        Cursor(u64::from(location.segment) << 32 | u64::from(location.offset))
    }

    fn location(self) -> Location {
        let (segment, offset) = ((self.0 >> 32) as u32, self.0 as u32);
        if offset == 0 { Segments::first(segment) } else { Location { segment, offset } }
    }
}

impl Cache {
    /// Shows `visit` the items from `cursor` on, up to `most` records far, until it says no; returns where to go on, which
    /// is at the item that it said no to, or none where all have been shown.
    pub fn walk(&self, cursor: Cursor, most: usize, mut visit: impl FnMut(&[u8], &Item<'_>) -> bool) -> Option<Cursor> {
        let mut at = cursor.location();
        for _ in 0..most {
            if at.segment >= self.segments.count() {
                return None;
            }
            let is_used = !matches!(self.segments.get(at.segment).state, State::Free | State::Retired);
            let Some(record) = self.segments.record(at).filter(|_| is_used) else {
                at = Segments::first(at.segment + 1);
                continue;
            };
            // What lies here since the last step may be anything: only what the index knows is an item.
            let slot = self.index.find_location(self.hasher.hash(record.key()), at);
            let live = slot.filter(|slot| {
                self.segments.is_sound(at, &record) && self.end_of(&Found { slot: *slot, record }).is_none()
            });
            if let Some(slot) = live
                && !visit(record.key(), &self.item_of(slot, &record))
            {
                break;
            }
            at = self.segments.following(at, &record.layout);
        }
        Some(Cursor::at(at))
    }
}

#[cfg(test)]
mod tests {
    use super::Cursor;
    use crate::{Cache, Deadline, Eviction, Settings};
    use std::collections::BTreeSet;

    #[test]
    fn a_walk_in_steps_shows_every_item_once() {
        let settings = Settings { budget: 4 << 20, max_item_size: 1 << 10, eviction: Eviction::Merge, seed: 1 };
        let mut cache = Cache::new(settings, 1_800_000_000).unwrap();
        assert_eq!(cache.walk(Cursor::default(), 10_000, |_, _| true), None);
        let key = |number: u64| format!("key{number}").into_bytes();
        for number in 0..5000 {
            let deadline = if number % 2 == 0 { Deadline::Never } else { Deadline::At(1_800_000_000 + number) };
            cache.set(&key(number), b"value", 0, deadline).unwrap();
        }
        (0..1000).for_each(|number| assert!(cache.delete(&key(number))));
        let (mut seen, mut cursor, mut asked) = (BTreeSet::new(), Some(Cursor::default()), 0);
        while let Some(from) = cursor {
            // Each third one has no room at first, and is shown again.
            cursor = cache.walk(Cursor::of(from.number()), 100, |key, item| {
                asked += 1;
                assert_eq!(item.value, b"value");
                asked % 3 != 0 && seen.insert(key.to_vec())
            });
        }
        assert_eq!(seen, (1000..5000).map(key).collect());
    }
}

//! Another deadline for an item that is there.

use crate::cache::{Cache, Place};
use crate::store::{Draft, Old};
use crate::{Deadline, Item, StoreError};

impl Cache {
    /// Gives the item under `key` another deadline; says whether it was there. Its CAS stays.
    ///
    /// # Errors
    /// [`StoreError::OutOfMemory`] where the item had to move and there was no room; its deadline is then as it was.
    pub fn touch(&mut self, key: &[u8], deadline: Deadline) -> Result<bool, StoreError> {
        let hash = self.hasher.hash(key);
        let Some(old) = self.old(hash, key) else { return Ok(false) };
        if self.touch_in_place(&old, deadline) {
            self.note_read(old.slot, old.slot.hit);
            self.note_access(old.slot);
            return Ok(true);
        }
        let marks = self.accessed_now(old.marks);
        self.rewrite(hash, key, old.value.len(), |old| Draft { deadline, marks, ..old.draft() })
            .map(|stored| stored.is_some())
    }

    /// Gives the item under `key` another deadline and returns the item, which counts as read.
    ///
    /// # Errors
    /// As [`Cache::touch`].
    pub fn get_and_touch(&mut self, key: &[u8], deadline: Deadline) -> Result<Option<Item<'_>>, StoreError> {
        if deadline.is_past(self.now) {
            return Ok(self.take(key));
        }
        if self.touch(key, deadline)? { Ok(self.get(key)) } else { Ok(None) }
    }

    /// Changes the deadline within its record, where the segment allows it.
    fn touch_in_place(&mut self, old: &Old, deadline: Deadline) -> bool {
        let id = old.slot.location.segment;
        if !self.may_end_here(self.segments.get(id), deadline) {
            return false;
        }
        let Deadline::At(last) = deadline else { return true };
        let segment = self.segments.get_mut(id);
        segment.last_deadline = segment.last_deadline.max(last);
        let deadline = (last - segment.base_deadline) as u32;
        self.segments.overwrite_deadline(old.slot.location, old.deadline_at, deadline);
        true
    }

    /// Removes the item under `key`, and returns it all the same: its bytes are there until the next write.
    fn take(&mut self, key: &[u8]) -> Option<Item<'_>> {
        let place = self.live_place(self.hasher.hash(key), key)?;
        let Place { slot, header, layout } = place;
        let Item { value: _, flags, cas, deadline, hit_before, stale, won } =
            self.item_of(slot, &self.record_of(&place));
        self.totals.expired += 1;
        self.drop_item(slot, layout.end as u32);
        let value = self.segments.part(slot.location, layout.value, header.value_length);
        Some(Item { value, flags, cas, deadline, hit_before, stale, won })
    }
}

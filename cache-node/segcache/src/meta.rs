//! What the meta protocol asks of a cache beside the classic operations (memcached's protocol.txt, "Meta Commands"):
//! values that are out of date and are served meanwhile, one client that is told to renew an item, and the time of an
//! item's last access.
//!
//! All of it is in the records, and only in those that need it. The cache has one owner, so looking at an item and then
//! calling one of these is atomic.

use crate::cache::{Cache, Found};
use crate::index::Slot;
use crate::record::Marks;
use crate::store::{Draft, NOTHING};
use crate::{Deadline, Mode, NewItem, Outcome, StoreError};

impl Cache {
    /// Marks the item under `key` as out of date, gives it a new CAS (`cas`, or the next one) and, where one is given,
    /// another deadline; a renewal of it can be won again. Returns the new CAS, or none where the key is not there.
    ///
    /// # Errors
    /// [`StoreError::OutOfMemory`]: the mark takes room and there was none; the item is then as it was.
    pub fn mark_stale(
        &mut self,
        key: &[u8],
        deadline: Option<Deadline>,
        cas: Option<u64>,
    ) -> Result<Option<u64>, StoreError> {
        let hash = self.hasher.hash(key);
        let Some(length) = self.live(hash, key).map(|found| found.record.header.value_length) else { return Ok(None) };
        self.rewrite(hash, key, length, |old| {
            let marks = Marks { stale: true, won: false, ..old.marks };
            Draft { cas, deadline: deadline.unwrap_or(old.deadline), marks, ..old.draft() }
        })
    }

    /// Makes an empty item under a key that is not there, whose renewal the caller has won; says whether it did.
    ///
    /// # Errors
    /// [`StoreError`], as for any store.
    pub fn vivify(&mut self, key: &[u8], deadline: Deadline) -> Result<bool, StoreError> {
        self.check_lengths(key, 0)?;
        let item = NewItem { key, value: &[], flags: 0, deadline, cas: None };
        let marks = Marks { won: true, ..Marks::default() };
        let outcome = self.store_value(Mode::Add, self.hash_of(key), &item, NOTHING, marks)?;
        Ok(matches!(outcome, Outcome::Stored { .. }))
    }

    /// Says whether the caller is the one who is to renew the item under `key`: the first to ask since the item was
    /// stored or marked as stale. Whether there is a reason to renew it is for the caller to know. The item's CAS stays.
    ///
    /// # Errors
    /// [`StoreError::OutOfMemory`]: the mark takes room and there was none; nobody has won.
    pub fn win(&mut self, key: &[u8]) -> Result<bool, StoreError> {
        let hash = self.hasher.hash(key);
        let Some(Found { slot, record }) = self.live(hash, key) else { return Ok(false) };
        let (marks, length) = (record.header.marks, record.header.value_length);
        if marks.won {
            return Ok(false);
        }
        if self.segments.overwrite_marks(slot.location, Marks { won: true, ..marks }) {
            return Ok(true);
        }
        let stored = self.rewrite(hash, key, length, |old| {
            let marks = Marks { won: true, ..old.marks };
            Draft { marks, ..old.draft() }
        })?;
        Ok(stored.is_some())
    }

    /// When the item under `key` was last used (unix seconds): exactly, if that is kept of it; if not, when it was
    /// written, which may be early by a fifteenth of the time since then. None where the key is not there.
    #[must_use]
    pub fn last_access(&self, key: &[u8]) -> Option<u64> {
        let found = self.find(self.hasher.hash(key), key)?;
        if self.end_of(&found).is_some() {
            return None;
        }
        let header = &found.record.header;
        let sequence = self.segments.get(found.slot.location.segment).base_sequence + header.sequence;
        let written = self.chronicle.written_at(sequence);
        // The record has the low half of a time that is not in the future.
        let accessed = header.marks.accessed.map(|time| self.now - u64::from((self.now as u32).wrapping_sub(time)));
        Some(accessed.map_or(written, |accessed| accessed.max(written)))
    }

    /// Keeps the time of the last access of the item under `key` from now on, until it is overwritten; this counts as
    /// one. It costs the item some bytes (10 to 16), and each later read a write to memory. Says whether the key is there.
    ///
    /// # Errors
    /// [`StoreError::OutOfMemory`]: the time takes room and there was none.
    pub fn keep_access(&mut self, key: &[u8]) -> Result<bool, StoreError> {
        let hash = self.hasher.hash(key);
        let Some(Found { slot, record }) = self.live(hash, key) else { return Ok(false) };
        let (marks, length) = (record.header.marks, record.header.value_length);
        if marks.accessed.is_some() {
            self.note_access(slot);
            return Ok(true);
        }
        let accessed = Some(self.now as u32);
        let stored = self.rewrite(hash, key, length, |old| {
            let marks = Marks { accessed, ..old.marks };
            Draft { marks, ..old.draft() }
        })?;
        Ok(stored.is_some())
    }

    /// Notes that an item was used now, if that is kept of it.
    pub(crate) fn note_access(&mut self, slot: Slot) {
        let Some(record) = self.segments.record(slot.location) else { return };
        let marks = record.header.marks;
        if marks.accessed.is_some() {
            let marks = self.accessed_now(marks);
            self.segments.overwrite_marks(slot.location, marks);
        }
    }

    /// The marks of an item that is used now.
    pub(crate) fn accessed_now(&self, marks: Marks) -> Marks {
        Marks { accessed: marks.accessed.map(|_| self.now as u32), ..marks }
    }
}

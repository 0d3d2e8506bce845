//! What writes outlive beside their process, and how that is seen to.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::cache::Cache;
use crate::files::{Flusher, Medium};
use crate::ledger::Ledger;
use crate::opening::Volume;

/// What a write outlives. The end of the process, whatever it was, is outlived always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// No end of the machine: after one, the cache begins empty.
    #[default]
    None,
    /// An end of the machine, once [`Flusher::flush`] has returned. What comes back after one is what
    /// was there when the last flush began, or later; what was written or moved since may be missing.
    Interval,
    /// An end of the machine, as soon as [`Cache::make_durable`] has returned. What was not written before the machine ended may
    /// be missing, and nothing else.
    Always,
}

impl Durability {
    /// As it is written down.
    pub(crate) fn number(self) -> u64 {
        match self {
            Durability::None => 0,
            Durability::Interval => 1,
            Durability::Always => 2,
        }
    }
}

impl Volume {
    /// Whether the older superblock may be overwritten: as long as the newer one is not durable, the older one is all that
    /// is sure to outlive the machine.
    fn may_overwrite_older(&self) -> bool {
        let ended = self.flushes.ended.load(Ordering::SeqCst);
        self.superblock.durability == Durability::None.number() || self.begun_at_write.is_none_or(|begun| ended > begun)
    }
}

impl Cache {
    /// Waits until the volume would outlive the machine, where it is to do that.
    pub(crate) fn persist(&mut self) -> io::Result<()> {
        if self.is_to_outlive_the_machine() {
            self.segments.persist()?;
            if let Some(volume) = &mut self.volume {
                volume.begun_at_write = None;
            }
        }
        Ok(())
    }

    /// Begins to keep the promise that each write outlives the machine, where it is given and the medium can keep it.
    pub(crate) fn promise(&mut self, medium: Medium) {
        let durability = self.volume.as_ref().map(|volume| volume.superblock.durability);
        // Tests have their volumes in memory, and end no machine.
        let can_keep_it = matches!(medium, Medium::PersistentMemory | Medium::File) || cfg!(test);
        if can_keep_it && durability == Some(Durability::Always.number()) {
            self.segments.ledger = Some(Ledger::new());
        }
    }

    /// Whether nobody may hear of what was done before [`Cache::make_durable`] has returned.
    #[must_use]
    pub fn answers_wait(&self) -> bool {
        self.segments.ledger.is_some()
    }

    /// Waits until all that was done outlives the machine, with the durability [`Durability::Always`] on a medium that can do
    /// that; says whether there was anything to do. On persistent memory the processor writes the
    /// cache lines back, in a file the system syncs the data.
    ///
    /// # Errors
    /// The system's: the volume may hold anything. It is marked, so that the next start is cold.
    pub fn make_durable(&mut self) -> io::Result<bool> {
        let is_new = self.segments.commit().inspect_err(|_| {
            if let Some(volume) = &self.volume {
                volume.files.mark();
            }
        })?;
        if let Some(volume) = self.volume.as_mut().filter(|_| is_new) {
            volume.begun_at_write = None;
        }
        Ok(is_new)
    }

    /// Whether the volume is to outlive the machine.
    pub(crate) fn is_to_outlive_the_machine(&self) -> bool {
        let durability = self.volume.as_ref().map(|volume| volume.superblock.durability);
        durability.is_some_and(|durability| durability != Durability::None.number())
    }

    /// What makes the volume outlive the machine; none where it does not do that every so often.
    ///
    /// # Errors
    /// The system's.
    pub fn flusher(&self) -> io::Result<Option<Flusher>> {
        let is_flushed = |volume: &&Volume| volume.superblock.durability == Durability::Interval.number();
        self.volume
            .as_ref()
            .filter(is_flushed)
            .map(|volume| volume.files.flusher(Arc::clone(&volume.flushes)))
            .transpose()
    }

    /// Notes in the volume what is true of all of it now.
    pub(crate) fn write_superblock(&mut self) {
        let Some(volume) = &mut self.volume else { return };
        // The parity of the generation is the place.
        let step = if volume.may_overwrite_older() { 1 } else { 2 };
        volume.begun_at_write = Some(volume.flushes.begun.load(Ordering::SeqCst));
        let superblock = &mut volume.superblock;
        superblock.generation += step;
        superblock.now = self.now;
        superblock.sequence = superblock.sequence.max(self.sequence);
        superblock.items = self.totals.items;
        (superblock.flushed, superblock.flush_at) = (self.flushed, self.flush_at);
        let (at, bytes) = superblock.encode();
        self.segments.write_superblock(at, &bytes);
    }
}

//! After a start from a snapshot nobody has looked at the records yet: each is checked when it is read, and segment by segment
//! all of them are, between the requests or at the latest before a job counts on one. A segment in which something is
//! not as it was written is given up with all that is in it.

use crate::cache::Cache;
use crate::maintenance::{BATCH, Job, SEARCH};
use crate::segment::{Location, Segments, State, Vitality};

impl Cache {
    /// A job for a segment that was not checked yet.
    pub(crate) fn unverified_segment(&mut self) -> Option<Job> {
        let from = self.maintenance.unverified?;
        let end = self.segments.count().min(from + SEARCH);
        let found = (from..end).find(|id| !self.segments.get(*id).is_verified);
        let next = found.unwrap_or(end);
        self.maintenance.unverified = (next < self.segments.count()).then_some(next);
        found.map(|segment| Job::Verify { segment, next: Segments::first(segment) })
    }

    /// Checks the next records of a segment; returns where to go on if there are more.
    pub(crate) fn verify_step(&mut self, id: u32, mut at: Location) -> Option<Location> {
        if self.segments.get(id).is_verified {
            // It was freed meanwhile, or checked for another job.
            return None;
        }
        for _ in 0..BATCH {
            let record = self.segments.record(at);
            let Some(record) = record.filter(|record| self.segments.vitality(at, record) != Vitality::Damaged) else {
                let is_end = at.offset == self.segments.get(id).written;
                if !is_end {
                    self.give_up(id);
                }
                self.segments.get_mut(id).is_verified = true;
                return None;
            };
            at = self.segments.following(at, &record.layout);
        }
        Some(at)
    }

    /// Sees to it that the records of a segment are what they were written as, or gone.
    pub(crate) fn verify(&mut self, id: u32) {
        let mut next = Some(Segments::first(id));
        while let Some(at) = next {
            next = self.verify_step(id, at);
        }
    }

    /// Forgets all items of a segment.
    fn give_up(&mut self, id: u32) {
        self.segments.condemn(id);
        self.index.forget(id);
        let bytes = self.segments.bytes_of_items(id);
        let segment = self.segments.get_mut(id);
        let items = std::mem::take(&mut segment.live_items);
        segment.live_bytes = 0;
        self.totals.items -= u64::from(items);
        self.totals.item_bytes -= bytes.min(self.totals.item_bytes);
        self.totals.damaged += u64::from(items);
    }

    /// Ends a check: a segment that was given up is free now.
    pub(crate) fn end_verification(&mut self, id: u32) {
        if self.segments.get(id).state == State::Sealed {
            self.free_if_dead(id);
        }
    }
}

//! A cache without a limit: what every other can only come near to, and what the working set is measured with.

use crate::hit_ratio::store::{Deadlines, Store};
use crate::hit_ratio::workload::Workload;

/// A cache that evicts nothing.
pub struct Unbounded<'a> {
    workload: &'a Workload,
    now: u64,
    /// The first second in which each object is no longer there; 0 for what is not there anyway.
    deadlines: Vec<u64>,
    due: Deadlines,
    live: u64,
    most_live: u64,
}

impl<'a> Unbounded<'a> {
    /// An empty cache.
    #[must_use]
    pub fn new(workload: &'a Workload) -> Unbounded<'a> {
        let deadlines = vec![0; workload.objects.len()];
        Unbounded { workload, now: workload.time(0), deadlines, due: Deadlines::default(), live: 0, most_live: 0 }
    }

    /// The most bytes of keys and values that were alive at a time.
    #[must_use]
    pub fn working_set(&self) -> u64 {
        self.most_live
    }

    fn holds(&self, object: u32) -> bool {
        self.deadlines[object as usize] != 0
    }

    fn end(&mut self, object: u32) {
        self.deadlines[object as usize] = 0;
        self.live -= self.workload.objects[object as usize].size();
    }
}

impl Store for Unbounded<'_> {
    fn advance(&mut self, now: u64) {
        self.now = now;
        while let Some((deadline, objects)) = self.due.due(now) {
            for object in objects {
                if self.deadlines[object as usize] == deadline {
                    self.end(object);
                }
            }
        }
    }

    fn get(&mut self, object: u32) -> bool {
        self.holds(object)
    }

    fn set(&mut self, object: u32) {
        let Workload { objects, .. } = self.workload;
        if !self.holds(object) {
            self.live += objects[object as usize].size();
            self.most_live = self.most_live.max(self.live);
        }
        let deadline = self.now + u64::from(objects[object as usize].ttl);
        if self.deadlines[object as usize] != deadline {
            self.deadlines[object as usize] = deadline;
            self.due.note(object, deadline);
        }
    }

    fn add(&mut self, object: u32) {
        if !self.holds(object) {
            self.set(object);
        }
    }

    fn replace(&mut self, object: u32) {
        if self.holds(object) {
            self.set(object);
        }
    }

    fn delete(&mut self, object: u32) {
        if self.holds(object) {
            self.end(object);
        }
    }

    fn increment(&mut self, object: u32) -> bool {
        self.holds(object)
    }
}

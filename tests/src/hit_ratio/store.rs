//! A simulated cache, and how requests are replayed against one.

use std::collections::BTreeMap;

use crate::hit_ratio::workload::{Operation, Workload};

/// A cache that holds objects of a workload; an object is given by its place there.
pub trait Store {
    /// Tells the time, in unix seconds.
    fn advance(&mut self, now: u64);
    /// Reads; says whether the object was there.
    fn get(&mut self, object: u32) -> bool;
    /// Writes.
    fn set(&mut self, object: u32);
    /// Writes unless the object is there.
    fn add(&mut self, object: u32);
    /// Writes if the object is there.
    fn replace(&mut self, object: u32);
    /// Removes.
    fn delete(&mut self, object: u32);
    /// Counts up; says whether the object was there.
    fn increment(&mut self, object: u32) -> bool;
}

/// The reads that counted, and how many of them missed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Reads after the warm-up.
    pub reads: u64,
    /// Those of them that found nothing.
    pub misses: u64,
}

/// Replays all requests, as a client would make them: a read that misses is followed by a write.
pub fn replay(workload: &Workload, store: &mut impl Store) -> Tally {
    let mut tally = Tally::default();
    for (place, request) in workload.requests.iter().enumerate() {
        store.advance(workload.time(place));
        let object = request.object;
        match request.operation {
            Operation::Get => {
                let hit = store.get(object);
                if !hit {
                    store.set(object);
                }
                if place >= workload.measured_from {
                    tally.reads += 1;
                    tally.misses += u64::from(!hit);
                }
            }
            Operation::Set => store.set(object),
            Operation::Add => store.add(object),
            Operation::Replace => store.replace(object),
            Operation::Delete => store.delete(object),
            Operation::Increment => {
                if !store.increment(object) {
                    store.add(object);
                }
            }
        }
    }
    tally
}

/// Which objects end when. An entry stays when its object is written anew: who asks knows the deadline that holds.
#[derive(Clone, Debug, Default)]
pub struct Deadlines(BTreeMap<u64, Vec<u32>>);

impl Deadlines {
    /// Notes the first second in which the object is no longer there.
    pub fn note(&mut self, object: u32, deadline: u64) {
        self.0.entry(deadline).or_default().push(object);
    }

    /// Takes the objects out whose deadline has come, with that deadline.
    pub fn due(&mut self, now: u64) -> Option<(u64, Vec<u32>)> {
        let (deadline, _) = self.0.first_key_value()?;
        if *deadline > now { None } else { self.0.pop_first() }
    }
}

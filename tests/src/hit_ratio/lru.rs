//! An exact LRU that pays for its items what memcached pays.
//!
//! Per item: a header of 48 bytes and 8 for the CAS, the key with its final zero, the value with its line end, all in the
//! chunk of a slab class (factor 1.25, pages of 1 MiB whose rest is lost), and a hash table of 8 bytes a bucket that
//! doubles at one and a half items a bucket (memcached's doc/protocol.txt, slabs.c and assoc.c describe them).
//!
//! Beyond that it is kinder than memcached: one order of use over all classes, no class that holds more pages than it
//! needs, and an item's memory is back in the second in which it expires.

use crate::hit_ratio::store::{Deadlines, Store};
use crate::hit_ratio::workload::{Object, Workload};

const HEADER: u64 = 48 + 8;
const PAGE: u64 = 1 << 20;
const SMALLEST_CHUNK: u64 = 96;
const LARGEST_CHUNK: u64 = PAGE / 2;
const FACTOR: f64 = 1.25;
const ALIGNMENT: u64 = 8;
const POINTER: u64 = 8;
/// The hash table's first size, as a power of two.
const HASH_POWER: u32 = 16;
const NONE: u32 = u32::MAX;

/// The slab classes of memcached.
#[derive(Clone, Debug)]
pub struct SlabClasses(Vec<u64>);

impl Default for SlabClasses {
    fn default() -> SlabClasses {
        let mut chunks = Vec::new();
        let mut size = SMALLEST_CHUNK as f64;
        while size <= LARGEST_CHUNK as f64 / FACTOR {
            let chunk = (size as u64).next_multiple_of(ALIGNMENT);
            chunks.push(chunk);
            size = chunk as f64 * FACTOR;
        }
        chunks.push(LARGEST_CHUNK);
        SlabClasses(chunks)
    }
}

impl SlabClasses {
    /// The bytes that an object costs: its share of a page.
    #[must_use]
    pub fn cost(&self, object: &Object) -> u64 {
        let item = HEADER + u64::from(object.key) + 1 + u64::from(object.value) + 2;
        let chunk = self.0.get(self.0.partition_point(|chunk| *chunk < item)).copied().unwrap_or(PAGE);
        PAGE.div_ceil(PAGE / chunk)
    }
}

/// The exact LRU. Objects are linked in the order of their use.
pub struct Lru<'a> {
    workload: &'a Workload,
    classes: SlabClasses,
    budget: u64,
    now: u64,
    links: Vec<Link>,
    newest: u32,
    oldest: u32,
    items: u64,
    item_bytes: u64,
    due: Deadlines,
    evicted: u64,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    newer: u32,
    older: u32,
    /// The first second in which the object is no longer there; 0 for what is not there anyway.
    deadline: u64,
}

impl<'a> Lru<'a> {
    /// An empty cache of this many bytes.
    #[must_use]
    pub fn new(workload: &'a Workload, budget: u64) -> Lru<'a> {
        Lru {
            workload,
            classes: SlabClasses::default(),
            budget,
            now: workload.time(0),
            links: vec![Link { newer: NONE, older: NONE, deadline: 0 }; workload.objects.len()],
            newest: NONE,
            oldest: NONE,
            items: 0,
            item_bytes: 0,
            due: Deadlines::default(),
            evicted: 0,
        }
    }

    /// Items that left to make room.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// The bytes that items and hash table take.
    #[must_use]
    pub fn memory(&self) -> u64 {
        let buckets = (self.items * 2).div_ceil(3).next_power_of_two().max(1 << HASH_POWER);
        self.item_bytes + buckets * POINTER
    }

    fn cost(&self, object: u32) -> u64 {
        self.classes.cost(&self.workload.objects[object as usize])
    }

    fn holds(&self, object: u32) -> bool {
        self.links[object as usize].deadline != 0
    }

    fn unlink(&mut self, object: u32) {
        let Link { newer, older, .. } = self.links[object as usize];
        match newer {
            NONE => self.newest = older,
            newer => self.links[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.links[older as usize].newer = newer,
        }
    }

    fn link_as_newest(&mut self, object: u32) {
        let older = std::mem::replace(&mut self.newest, object);
        match older {
            NONE => self.oldest = object,
            older => self.links[older as usize].newer = object,
        }
        let link = &mut self.links[object as usize];
        (link.newer, link.older) = (NONE, older);
    }

    fn renew(&mut self, object: u32) {
        if self.newest != object {
            self.unlink(object);
            self.link_as_newest(object);
        }
    }

    fn remove(&mut self, object: u32) {
        self.unlink(object);
        self.links[object as usize].deadline = 0;
        self.items -= 1;
        self.item_bytes -= self.cost(object);
    }
}

impl Store for Lru<'_> {
    fn advance(&mut self, now: u64) {
        self.now = now;
        while let Some((deadline, objects)) = self.due.due(now) {
            for object in objects {
                if self.links[object as usize].deadline == deadline {
                    self.remove(object);
                }
            }
        }
    }

    fn get(&mut self, object: u32) -> bool {
        let hit = self.holds(object);
        if hit {
            self.renew(object);
        }
        hit
    }

    fn set(&mut self, object: u32) {
        if self.holds(object) {
            self.renew(object);
        } else {
            self.items += 1;
            self.item_bytes += self.cost(object);
            self.link_as_newest(object);
        }
        let deadline = self.now + u64::from(self.workload.objects[object as usize].ttl);
        if self.links[object as usize].deadline != deadline {
            self.links[object as usize].deadline = deadline;
            self.due.note(object, deadline);
        }
        while self.memory() > self.budget && self.oldest != NONE {
            self.remove(self.oldest);
            self.evicted += 1;
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
            self.remove(object);
        }
    }

    fn increment(&mut self, object: u32) -> bool {
        self.get(object)
    }
}

#[cfg(test)]
mod tests {
    use super::{Lru, SlabClasses};
    use crate::hit_ratio::random::Random;
    use crate::hit_ratio::store::Store;
    use crate::hit_ratio::workload::{Object, PLANS, START, Workload};

    /// The plainest LRU: a list of objects and deadlines, the oldest first.
    struct Plain<'a> {
        workload: &'a Workload,
        budget: u64,
        now: u64,
        items: Vec<(u32, u64)>,
    }

    impl Plain<'_> {
        fn take(&mut self, object: u32) -> Option<(u32, u64)> {
            let place = self.items.iter().position(|item| item.0 == object)?;
            Some(self.items.remove(place))
        }

        fn memory(&self) -> u64 {
            let classes = SlabClasses::default();
            self.items.iter().map(|item| classes.cost(&self.workload.objects[item.0 as usize])).sum::<u64>() + (8 << 16)
        }
    }

    impl Store for Plain<'_> {
        fn advance(&mut self, now: u64) {
            self.now = now;
            self.items.retain(|item| item.1 > now);
        }
        fn get(&mut self, object: u32) -> bool {
            let item = self.take(object);
            self.items.extend(item);
            item.is_some()
        }
        fn set(&mut self, object: u32) {
            self.take(object);
            self.items.push((object, self.now + u64::from(self.workload.objects[object as usize].ttl)));
            while self.memory() > self.budget {
                self.items.remove(0);
            }
        }
        fn add(&mut self, object: u32) {
            if !self.items.iter().any(|item| item.0 == object) {
                self.set(object);
            }
        }
        fn replace(&mut self, object: u32) {
            if self.items.iter().any(|item| item.0 == object) {
                self.set(object);
            }
        }
        fn delete(&mut self, object: u32) {
            self.take(object);
        }
        fn increment(&mut self, object: u32) -> bool {
            self.get(object)
        }
    }

    #[test]
    fn it_does_what_the_plainest_lru_does() {
        let workload = Workload { objects: Vec::new(), ..Workload::draw(&PLANS[0], 0.001, 1).unwrap() };
        let mut random = Random::new(5);
        for budget in [(8 << 16) + 2_000, (8 << 16) + 9_000] {
            let mut objects =
                || Object { key: 20, value: 1 + (random.draw() % 900) as u32, ttl: 1 + (random.draw() % 40) as u32 };
            let workload = Workload { objects: (0..40).map(|_| objects()).collect(), ..workload.clone() };
            let mut lru = Lru::new(&workload, budget);
            let mut plain = Plain { workload: &workload, budget, now: START, items: Vec::new() };
            let (mut hits, mut misses) = (0, 0);
            for _ in 0..20_000 {
                let object = (random.draw() % 40) as u32;
                match random.draw() % 12 {
                    0 => {
                        let now = plain.now + random.draw() % 4;
                        lru.advance(now);
                        plain.advance(now);
                    }
                    1..=3 => (lru.set(object), plain.set(object)).0,
                    4 => (lru.add(object), plain.add(object)).0,
                    5 => (lru.replace(object), plain.replace(object)).0,
                    6 => (lru.delete(object), plain.delete(object)).0,
                    7 => assert_eq!(lru.increment(object), plain.increment(object)),
                    _ => {
                        let hit = lru.get(object);
                        assert_eq!(hit, plain.get(object));
                        *(if hit { &mut hits } else { &mut misses }) += 1;
                    }
                }
                assert_eq!(lru.memory(), plain.memory());
            }
            assert!(hits > 500 && misses > 500 && lru.evicted() > 500, "{hits} {misses} {}", lru.evicted());
        }
    }

    #[test]
    fn slab_classes_are_those_that_memcached_prints() {
        // The first chunk sizes of `memcached -vv`.
        assert_eq!(SlabClasses::default().0[..8], [96, 120, 152, 192, 240, 304, 384, 480]);
        let cost = |key, value| SlabClasses::default().cost(&Object { key, value, ttl: 1 });
        assert_eq!(cost(14, 32), 1_048_576_u64.div_ceil(1_048_576 / 120));
        assert!(cost(14, 22) < cost(14, 24));
    }
}

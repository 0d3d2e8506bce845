//! TTL buckets: each chains the segments whose items were stored with about the same time to live.

use crate::counters::TtlBucket;
use crate::segment::{NONE, Segments, State};

/// TTLs below this have a bucket for each second.
const EXACT: u32 = 64;
/// From there on, each doubling of the TTL has this many buckets, so one is a thirty-second of its TTL wide.
const STEPS: u32 = 32;
const STEP_BITS: u32 = STEPS.ilog2();
/// Items that never expire have the last bucket.
pub(crate) const NEVER: u16 = (EXACT + (32 - EXACT.ilog2()) * STEPS) as u16;
/// All buckets.
pub(crate) const BUCKETS: usize = NEVER as usize + 1;

/// The bucket of a TTL in seconds.
pub(crate) fn bucket_of(ttl: u32) -> u16 {
    if ttl < EXACT {
        return ttl as u16;
    }
    let octave = ttl.ilog2();
    let step = (ttl >> (octave - STEP_BITS)) & (STEPS - 1);
    (EXACT + (octave - EXACT.ilog2()) * STEPS + step) as u16
}

/// The shortest TTL of a bucket, in seconds; for [`NEVER`] it has no meaning.
pub(crate) fn shortest_ttl(bucket: u16) -> u32 {
    let bucket = u32::from(bucket);
    if bucket < EXACT {
        return bucket;
    }
    let (octave, step) = ((bucket - EXACT) / STEPS + EXACT.ilog2(), (bucket - EXACT) % STEPS);
    ((u64::from(STEPS + step)) << (octave - STEP_BITS)).min(u64::from(u32::MAX)) as u32
}

/// How far the deadlines of one segment may be apart, in seconds: a sixteenth of the TTL, so that no item's memory
/// waits longer for its neighbours.
pub(crate) fn spread(bucket: u16) -> u32 {
    (shortest_ttl(bucket) / 16).max(1)
}

/// The bytes that a record of this bucket needs for its deadline.
pub(crate) fn deadline_width(bucket: u16) -> u8 {
    if bucket == NEVER {
        return 0;
    }
    // Twice the spread: room for segments that stay open longer because memory is short.
    (2 * u64::from(spread(bucket)) + 1).ilog2() as u8 / 8 + 1
}

/// One bucket: the ends of its chain, oldest segment first, and its open segment.
#[derive(Clone, Copy)]
pub(crate) struct Bucket {
    pub(crate) head: u32,
    pub(crate) tail: u32,
    pub(crate) open: u32,
    pub(crate) segments: u32,
    /// Where the next merge begins; [`NONE`] is at the head.
    pub(crate) merge_next: u32,
}

const EMPTY: Bucket = Bucket { head: NONE, tail: NONE, open: NONE, segments: 0, merge_next: NONE };

/// All buckets.
pub(crate) struct Buckets {
    buckets: Vec<Bucket>,
    /// Buckets with an open segment.
    open: u32,
}

impl Buckets {
    pub(crate) fn new() -> Buckets {
        Buckets { buckets: vec![EMPTY; BUCKETS], open: 0 }
    }

    pub(crate) const METADATA: usize = BUCKETS * size_of::<Bucket>();

    pub(crate) fn get(&self, bucket: u16) -> &Bucket {
        &self.buckets[usize::from(bucket)]
    }

    pub(crate) fn get_mut(&mut self, bucket: u16) -> &mut Bucket {
        &mut self.buckets[usize::from(bucket)]
    }

    pub(crate) fn open_count(&self) -> u32 {
        self.open
    }

    /// The open segments.
    pub(crate) fn open(&self) -> impl Iterator<Item = u32> {
        self.buckets.iter().map(|bucket| bucket.open).filter(|id| *id != NONE)
    }

    /// The oldest segments of all buckets that have any.
    pub(crate) fn heads(&self) -> impl Iterator<Item = u32> {
        self.buckets.iter().map(|bucket| bucket.head).filter(|id| *id != NONE)
    }

    /// Puts a segment at the end of a bucket's chain, and makes it the one that is open there.
    pub(crate) fn push_open(&mut self, segments: &mut Segments, bucket: u16, id: u32) {
        self.seal(segments, bucket);
        let tail = self.get(bucket).tail;
        self.insert(segments, bucket, tail, id);
        self.get_mut(bucket).open = id;
        self.open += 1;
    }

    /// Puts a segment into a bucket's chain behind `after`, at the head for [`NONE`].
    pub(crate) fn insert(&mut self, segments: &mut Segments, bucket: u16, after: u32, id: u32) {
        let chain = &mut self.buckets[usize::from(bucket)];
        let next = if after == NONE { chain.head } else { segments.get(after).next };
        let segment = segments.get_mut(id);
        (segment.bucket, segment.previous, segment.next) = (bucket, after, next);
        match after {
            NONE => chain.head = id,
            _ => segments.get_mut(after).next = id,
        }
        match next {
            NONE => chain.tail = id,
            _ => segments.get_mut(next).previous = id,
        }
        chain.segments += 1;
    }

    /// Seals the bucket's open segment, if it has one.
    pub(crate) fn seal(&mut self, segments: &mut Segments, bucket: u16) {
        let open = std::mem::replace(&mut self.get_mut(bucket).open, NONE);
        if open != NONE {
            self.open -= 1;
            segments.get_mut(open).state = State::Sealed;
        }
    }

    /// Takes a segment out of its bucket's chain.
    pub(crate) fn remove(&mut self, segments: &mut Segments, id: u32) {
        let segment = *segments.get(id);
        let chain = &mut self.buckets[usize::from(segment.bucket)];
        if chain.open == id {
            chain.open = NONE;
            self.open -= 1;
        }
        if chain.merge_next == id {
            chain.merge_next = segment.next;
        }
        match segment.previous {
            NONE => chain.head = segment.next,
            previous => segments.get_mut(previous).next = segment.next,
        }
        match segment.next {
            NONE => chain.tail = segment.previous,
            next => segments.get_mut(next).previous = segment.previous,
        }
        chain.segments -= 1;
        let segment = segments.get_mut(id);
        (segment.previous, segment.next) = (NONE, NONE);
    }

    /// The segments of a bucket from `from` on, oldest first.
    pub(crate) fn chain<'a>(&self, segments: &'a Segments, from: u32) -> impl Iterator<Item = u32> + use<'a> {
        std::iter::successors(Some(from).filter(|id| *id != NONE), |id| {
            Some(segments.get(*id).next).filter(|next| *next != NONE)
        })
    }

    /// Figures of each bucket that has segments.
    pub(crate) fn figures<'a>(&'a self, segments: &'a Segments) -> impl Iterator<Item = TtlBucket> + 'a {
        (0..=NEVER).filter(|bucket| self.get(*bucket).segments > 0).map(move |bucket| {
            let start = TtlBucket {
                shortest: (bucket != NEVER).then(|| shortest_ttl(bucket)),
                segments: self.get(bucket).segments,
                items: 0,
                item_bytes: 0,
            };
            self.chain(segments, self.get(bucket).head).fold(start, |sum, id| TtlBucket {
                items: sum.items + u64::from(segments.get(id).live_items),
                item_bytes: sum.item_bytes + u64::from(segments.get(id).live_bytes),
                ..sum
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Buckets, NEVER, bucket_of, deadline_width, shortest_ttl, spread};
    use crate::segment::{NONE, Segments};

    #[test]
    fn every_ttl_is_in_a_bucket_at_most_a_thirty_second_of_it_wide() {
        let ttls = (0..if cfg!(miri) { 500 } else { 100_000 })
            .chain((17..32).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1]));
        for ttl in ttls.chain([u32::MAX]) {
            let bucket = bucket_of(ttl);
            assert!(bucket < NEVER, "{ttl}");
            let shortest = shortest_ttl(bucket);
            assert!(shortest <= ttl && ttl - shortest <= ttl / 32, "{ttl} is in the bucket from {shortest}");
            assert_eq!(bucket_of(shortest), bucket, "{ttl}");
        }
    }

    #[test]
    fn deadlines_within_the_spread_fit_their_width() {
        for bucket in 0..NEVER {
            let largest = (1_u64 << (8 * u32::from(deadline_width(bucket)))) - 1;
            assert!(2 * u64::from(spread(bucket)) <= largest, "bucket {bucket}");
        }
        assert_eq!([60, 3600, 86_400, 2_592_000].map(|ttl| deadline_width(bucket_of(ttl))), [1, 2, 2, 3]);
        assert_eq!(deadline_width(NEVER), 0);
    }

    #[test]
    fn the_chain_keeps_its_order() {
        let mut segments = Segments::new(4, 4096, 1).unwrap();
        let mut buckets = Buckets::new();
        for _ in 0..3 {
            let id = segments.take().unwrap();
            buckets.push_open(&mut segments, 7, id);
        }
        let chain = |buckets: &Buckets, segments: &Segments| -> Vec<u32> {
            buckets.chain(segments, buckets.get(7).head).collect()
        };
        assert_eq!(chain(&buckets, &segments), [0, 1, 2]);
        assert_eq!((buckets.open_count(), buckets.get(7).open), (1, 2));
        buckets.remove(&mut segments, 1);
        let id = segments.take().unwrap();
        buckets.insert(&mut segments, 7, 0, id);
        assert_eq!(chain(&buckets, &segments), [0, 3, 2]);
        for id in [2, 0, 3] {
            buckets.remove(&mut segments, id);
        }
        assert_eq!(chain(&buckets, &segments), [0; 0]);
        assert_eq!((buckets.get(7).head, buckets.get(7).tail, buckets.open_count()), (NONE, NONE, 0));
    }
}

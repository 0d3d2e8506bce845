//! The keys that were evicted lately, as a few bits of their hashes (S3-FIFO's ghost queue).

/// A set of hashes that forgets: a newer one takes the place of the one that was there.
pub(crate) struct Ghost {
    /// Never zero but where nothing is.
    fingerprints: Vec<u32>,
}

/// One byte in so many of the budget is the ghost queue's.
const SHARE: usize = 64;

impl Ghost {
    /// The bytes that a ghost queue takes of a budget.
    pub(crate) fn bytes(budget: usize) -> usize {
        budget / SHARE / size_of::<u32>() * size_of::<u32>()
    }

    /// A budget of which so many bytes are left beside its ghost queue.
    pub(crate) fn with_ghost(rest: usize) -> usize {
        rest.saturating_mul(SHARE).div_ceil(SHARE - 1)
    }

    /// An empty set of so many bytes.
    pub(crate) fn new(bytes: usize) -> Ghost {
        Ghost { fingerprints: vec![0; bytes / size_of::<u32>()] }
    }

    fn place(&mut self, hash: u64) -> Option<(&mut u32, u32)> {
        let place = (u128::from(hash) * self.fingerprints.len() as u128) >> 64;
        let fingerprint = hash as u32 | 1;
        self.fingerprints.get_mut(place as usize).map(|slot| (slot, fingerprint))
    }

    pub(crate) fn remember(&mut self, hash: u64) {
        if let Some((slot, fingerprint)) = self.place(hash) {
            *slot = fingerprint;
        }
    }

    /// Whether a hash was remembered; it is forgotten by this.
    pub(crate) fn recall(&mut self, hash: u64) -> bool {
        let Some((slot, fingerprint)) = self.place(hash) else { return false };
        let found = *slot == fingerprint;
        if found {
            *slot = 0;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::Ghost;
    use crate::hash::mix;

    #[test]
    fn it_recalls_what_was_evicted_lately_once() {
        let mut ghost = Ghost::new(4096);
        (0..300).for_each(|n| ghost.remember(mix(n)));
        let recalled = (0..300).filter(|n| ghost.recall(mix(*n))).count();
        assert!((200..=300).contains(&recalled), "{recalled}");
        assert!((0..300).all(|n| !ghost.recall(mix(n))));
        assert!((300..600).all(|n| !ghost.recall(mix(n))));
    }

    #[test]
    fn without_memory_it_remembers_nothing() {
        let mut ghost = Ghost::new(0);
        ghost.remember(1);
        assert!(!ghost.recall(1));
    }
}

//! The keyed hash of keys, and the seeded randomness.

/// The hash of a key in one cache: [`Cache::hash_of`](crate::Cache::hash_of). Computed once, it serves the prefetches
/// and the operation itself; for another cache or another key it means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyHash(pub(crate) u64);

/// SipHash-1-3 (Aumasson and Bernstein, "SipHash: a fast short-input PRF") with a key of this cache's own: clients
/// that do not know the key cannot choose keys that collide.
#[derive(Clone, Copy)]
pub(crate) struct KeyHasher {
    k0: u64,
    k1: u64,
}

impl KeyHasher {
    pub(crate) fn new(seed: u64) -> KeyHasher {
        let mut random = Random::new(seed);
        KeyHasher { k0: random.next(), k1: random.next() }
    }

    pub(crate) fn hash(&self, key: &[u8]) -> u64 {
        let mut v = [
            self.k0 ^ 0x736f_6d65_7073_6575,
            self.k1 ^ 0x646f_7261_6e64_6f6d,
            self.k0 ^ 0x6c79_6765_6e65_7261,
            self.k1 ^ 0x7465_6462_7974_6573,
        ];
        let (words, rest) = key.as_chunks::<8>();
        for word in words {
            let word = u64::from_le_bytes(*word);
            v[3] ^= word;
            round(&mut v);
            v[0] ^= word;
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        let last = u64::from_le_bytes(last) | (key.len() as u64) << 56;
        v[3] ^= last;
        round(&mut v);
        v[0] ^= last;
        v[2] ^= 0xff;
        round(&mut v);
        round(&mut v);
        round(&mut v);
        v[0] ^ v[1] ^ v[2] ^ v[3]
    }
}

#[inline(always)]
fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

/// `SplitMix64`: seeded, one word of state, good enough to choose victims by.
#[derive(Clone, Copy)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `limit`, which must not be 0 (0 is then returned).
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        ((u128::from(self.next()) * limit as u128) >> 64) as usize
    }
}

/// A bijection in which every bit of the result depends on every bit of `x`.
#[inline]
pub(crate) fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::{KeyHasher, Random};
    use std::hash::Hasher;

    #[test]
    fn it_is_the_siphash_of_the_standard_library() {
        let keys: Vec<u8> = (0..=255).collect();
        for length in (0..=250).step_by(if cfg!(miri) { 25 } else { 1 }) {
            let mut reference = std::hash::DefaultHasher::new();
            reference.write(&keys[..length]);
            assert_eq!(KeyHasher { k0: 0, k1: 0 }.hash(&keys[..length]), reference.finish(), "{length} bytes");
        }
    }

    #[test]
    fn another_seed_is_another_hash() {
        assert_ne!(KeyHasher::new(1).hash(b"key"), KeyHasher::new(2).hash(b"key"));
    }

    #[test]
    fn random_numbers_stay_below_their_limit() {
        let mut random = Random::new(7);
        let mut seen = [0; 10];
        for _ in 0..10_000 {
            seen[random.below(10)] += 1;
        }
        assert!(seen.iter().all(|count| (800..1200).contains(count)), "{seen:?}");
    }
}

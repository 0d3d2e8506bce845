//! Random numbers that are the same for the same seed, and what is drawn with them.

use std::f64::consts::TAU;

/// A stream of random numbers (SplitMix64: Steele, Lea, Flood, OOPSLA '14).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The stream of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next number, of all 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The next number of 0 to below 1.
    pub fn fraction(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// The next number of a log-normal distribution with this mean, whose standard deviation is `spread` times that.
    pub fn log_normal(&mut self, mean: f64, spread: f64) -> f64 {
        let variance = (spread * spread).ln_1p();
        let normal = (-2.0 * (1.0 - self.fraction()).ln()).sqrt() * (TAU * self.fraction()).cos();
        mean * (normal * variance.sqrt() - variance / 2.0).exp()
    }

    /// One of those that come with their shares; the shares need not add up to one.
    pub fn choose<T: Copy>(&mut self, shares: &[(T, f64)]) -> Option<T> {
        let sum: f64 = shares.iter().map(|(_, share)| share).sum();
        let mut left = self.fraction() * sum;
        for (one, share) in shares {
            if left < *share {
                return Some(*one);
            }
            left -= share;
        }
        shares.last().map(|(one, _)| *one)
    }
}

/// Ranks from 0, of which rank `r` is drawn in proportion to `1 / (r + 1)^alpha`: exact for any `alpha` of 0 and more,
/// without a table (rejection-inversion: Hörmann and Derflinger, ACM TOMACS 6(3), 1996).
#[derive(Clone, Copy, Debug)]
pub struct Zipf {
    ranks: f64,
    alpha: f64,
    /// The integral of the density to the end of the first rank, and to that of the last.
    first: f64,
    last: f64,
    /// What is drawn nearer to its rank than this is never rejected.
    sure: f64,
}

impl Zipf {
    /// The distribution over this many ranks.
    #[must_use]
    pub fn new(ranks: u32, alpha: f64) -> Zipf {
        let ranks = f64::from(ranks.max(1));
        let zipf = Zipf { ranks, alpha, first: 0.0, last: 0.0, sure: 0.0 };
        let first = zipf.integral(1.5) - 1.0;
        let last = zipf.integral(ranks + 0.5);
        let sure = 2.0 - zipf.inverse(zipf.integral(2.5) - zipf.density(2.0));
        Zipf { first, last, sure, ..zipf }
    }

    /// Draws a rank.
    pub fn draw(&self, random: &mut Random) -> u32 {
        loop {
            let area = self.last + random.fraction() * (self.first - self.last);
            let place = self.inverse(area);
            let rank = place.round().clamp(1.0, self.ranks);
            if rank - place <= self.sure || area >= self.integral(rank + 0.5) - self.density(rank) {
                return rank as u32 - 1;
            }
        }
    }

    fn density(&self, place: f64) -> f64 {
        (-self.alpha * place.ln()).exp()
    }

    /// The integral of the density from 1; near `alpha` 1 the plain formula would divide nothing by nothing.
    fn integral(&self, place: f64) -> f64 {
        let logarithm = place.ln();
        let exponent = (1.0 - self.alpha) * logarithm;
        logarithm * if exponent.abs() > 1e-8 { exponent.exp_m1() / exponent } else { 1.0 + exponent / 2.0 }
    }

    fn inverse(&self, area: f64) -> f64 {
        let part = ((1.0 - self.alpha) * area).max(-1.0);
        (area * if part.abs() > 1e-8 { part.ln_1p() / part } else { 1.0 - part / 2.0 }).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::{Random, Zipf};

    #[test]
    fn ranks_come_as_often_as_the_formula_says() {
        const DRAWS: u32 = 400_000;
        for alpha in [0.0, 0.4, 0.99, 1.0, 1.3, 2.1] {
            for ranks in [1_u32, 2, 50] {
                let (zipf, mut random) = (Zipf::new(ranks, alpha), Random::new(7));
                let mut counts = vec![0_u32; ranks as usize];
                (0..DRAWS).for_each(|_| counts[zipf.draw(&mut random) as usize] += 1);
                let weights: Vec<f64> = (1..=ranks).map(|rank| f64::from(rank).powf(-alpha)).collect();
                let sum: f64 = weights.iter().sum();
                for (rank, (count, weight)) in counts.iter().zip(weights).enumerate() {
                    let expected = f64::from(DRAWS) * weight / sum;
                    let difference = (f64::from(*count) - expected).abs();
                    assert!(difference < 5.0 * expected.sqrt() + 5.0, "alpha {alpha} rank {rank}: {count}, {expected}");
                }
            }
        }
    }

    #[test]
    fn sizes_have_their_mean_and_spread() {
        let mut random = Random::new(1);
        let sizes: Vec<f64> = (0..200_000).map(|_| random.log_normal(300.0, 0.5)).collect();
        let mean = sizes.iter().sum::<f64>() / sizes.len() as f64;
        let variance = sizes.iter().map(|size| (size - mean).powi(2)).sum::<f64>() / sizes.len() as f64;
        assert!((mean - 300.0).abs() < 2.0 && (variance.sqrt() - 150.0).abs() < 4.0, "{mean} {variance}");
    }

    #[test]
    fn choices_keep_their_shares() {
        let mut random = Random::new(3);
        let shares = [('a', 0.1), ('b', 0.3)];
        let bs = (0..100_000).filter(|_| random.choose(&shares) == Some('b')).count();
        assert!((74_000..76_000).contains(&bs), "{bs}");
        assert_eq!(random.choose::<u8>(&[]), None);
    }
}

//! Which keys are popular, and how large keys and values are.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use crate::random::{Random, mix};

/// How often each key is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Popularity {
    /// All alike.
    Uniform,
    /// The key of rank r with a weight of r to the power of minus alpha.
    Zipf { alpha: f64 },
}

impl FromStr for Popularity {
    type Err = String;

    fn from_str(text: &str) -> Result<Popularity, String> {
        if text == "uniform" {
            return Ok(Popularity::Uniform);
        }
        let alpha = text.strip_prefix("zipf:").and_then(|alpha| alpha.parse().ok());
        match alpha.filter(|alpha| (0.0..=5.0).contains(alpha)) {
            Some(alpha) => Ok(Popularity::Zipf { alpha }),
            None => Err("write uniform, or zipf:ALPHA with an ALPHA of 0 to 5, such as zipf:0.99".to_owned()),
        }
    }
}

impl Display for Popularity {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Popularity::Uniform => f.write_str("uniform"),
            Popularity::Zipf { alpha } => write!(f, "zipf:{alpha}"),
        }
    }
}

/// Draws key numbers.
#[derive(Debug)]
pub enum KeySampler {
    Uniform { keys: u32 },
    Zipf { zipf: Zipf, keys: u32 },
}

impl KeySampler {
    pub fn new(popularity: Popularity, keys: u32) -> KeySampler {
        match popularity {
            Popularity::Zipf { alpha } if alpha > 0.0 => {
                KeySampler::Zipf { zipf: Zipf::new(u64::from(keys), alpha), keys }
            }
            _ => KeySampler::Uniform { keys },
        }
    }

    /// A key's number, 0 to the number of keys.
    pub fn draw(&self, random: &mut Random) -> u32 {
        match self {
            KeySampler::Uniform { keys } => random.below(u64::from(*keys)) as u32,
            // Ranks are spread over the numbers, or the popular keys would be those that were stored first, side by
            // side. Two ranks may share a number: that only makes the key a little more popular.
            KeySampler::Zipf { zipf, keys } => (mix(zipf.draw(random)) % u64::from(*keys)) as u32,
        }
    }
}

/// Ranks 1 to n with weights of rank to the power of minus alpha, by rejection-inversion (Hörmann and Derflinger, ACM
/// TOMACS 6(3), 1996): constant time and no table, whatever n is.
#[derive(Debug)]
pub struct Zipf {
    ranks: f64,
    alpha: f64,
    /// The integral of the hat function up to 1.5, less the weight of rank 1.
    lowest: f64,
    /// The same up to n + 0.5.
    highest: f64,
    /// Below this distance a draw needs no second look.
    squeeze: f64,
}

impl Zipf {
    pub fn new(ranks: u64, alpha: f64) -> Zipf {
        let ranks = ranks as f64;
        let lowest = integral(1.5, alpha) - 1.0;
        let squeeze = 2.0 - inverse_integral(integral(2.5, alpha) - 2f64.powf(-alpha), alpha);
        Zipf { ranks, alpha, lowest, highest: integral(ranks + 0.5, alpha), squeeze }
    }

    pub fn draw(&self, random: &mut Random) -> u64 {
        // Rejections are rarer than one in two, so the limit is never met; it stands for the loop's end.
        const ATTEMPTS: u32 = 1000;
        for _ in 0..ATTEMPTS {
            let area = self.highest + random.unit() * (self.lowest - self.highest);
            let at = inverse_integral(area, self.alpha);
            let rank = at.round().clamp(1.0, self.ranks);
            if rank - at <= self.squeeze || area >= integral(rank + 0.5, self.alpha) - rank.powf(-self.alpha) {
                return rank as u64;
            }
        }
        1
    }
}

/// The integral of x to the power of minus alpha, but for a constant.
fn integral(x: f64, alpha: f64) -> f64 {
    let log = x.ln();
    let exponent = (1.0 - alpha) * log;
    // At alpha 1 the quotient is 0 / 0; expm1 keeps it exact nearby, and the series takes over at the point itself.
    if exponent.abs() > 1e-8 { exponent.exp_m1() / exponent * log } else { log * (1.0 + exponent / 2.0) }
}

fn inverse_integral(area: f64, alpha: f64) -> f64 {
    let scaled = (area * (1.0 - alpha)).max(-1.0);
    if scaled.abs() > 1e-8 { (scaled.ln_1p() / scaled * area).exp() } else { (area * (1.0 - scaled / 2.0)).exp() }
}

/// How many bytes something has.
#[derive(Clone, Debug, PartialEq)]
pub enum Size {
    Fixed(usize),
    /// Every size from the first to the last alike.
    Uniform(usize, usize),
    /// Logarithms are normal with this deviation, and the mean is as given.
    LogNormal {
        mean: usize,
        sigma: f64,
    },
}

/// So many different sizes stand for a distribution: a power of two, small enough to stay in the first-level cache.
pub const SIZES: usize = 1024;
/// The largest value that a memcached can be told to take.
pub const MAX_SIZE: usize = 128 << 20;

impl Size {
    /// The distribution's quantiles, [`SIZES`] of them, none below `smallest` or above `largest`: drawing one is a
    /// look-up by the key's hash, so that a key has the same size whenever it is met.
    pub fn quantiles(&self, smallest: usize, largest: usize) -> Vec<u32> {
        let at = |share: f64| match *self {
            Size::Fixed(size) => size as f64,
            Size::Uniform(first, last) => first as f64 + (last - first + 1) as f64 * share - 0.5,
            Size::LogNormal { mean, sigma } => {
                ((mean as f64).ln() - sigma * sigma / 2.0 + sigma * normal_quantile(share)).exp()
            }
        };
        let size = |index: usize| at((index as f64 + 0.5) / SIZES as f64).round().max(0.0) as usize;
        (0..SIZES).map(|index| size(index).clamp(smallest, largest) as u32).collect()
    }

    /// No size drawn is above this.
    pub fn largest(&self) -> usize {
        self.quantiles(0, MAX_SIZE).into_iter().max().unwrap_or_default() as usize
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let parsed = if let Some(range) = text.strip_prefix("uniform:") {
            range.split_once('-').and_then(|(first, last)| {
                let (first, last) = (bytes(first)?, bytes(last)?);
                (first <= last).then_some(Size::Uniform(first, last))
            })
        } else if let Some(shape) = text.strip_prefix("lognormal:") {
            let (mean, sigma) = shape.split_once(',').unwrap_or((shape, "1"));
            let sigma = sigma.parse().ok().filter(|sigma| (0.0..=4.0).contains(sigma));
            bytes(mean).zip(sigma).map(|(mean, sigma)| Size::LogNormal { mean, sigma })
        } else {
            bytes(text).map(Size::Fixed)
        };
        parsed.ok_or_else(|| {
            "write a size such as 100 or 4Ki, uniform:FIRST-LAST or lognormal:MEAN[,SIGMA]; at most 128Mi".to_owned()
        })
    }
}

impl Display for Size {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Size::Fixed(size) => write!(f, "{size}"),
            Size::Uniform(first, last) => write!(f, "uniform:{first}-{last}"),
            Size::LogNormal { mean, sigma } => write!(f, "lognormal:{mean},{sigma}"),
        }
    }
}

/// A number of bytes, with Ki or Mi behind it or not.
fn bytes(text: &str) -> Option<usize> {
    let (digits, unit) = match (text.strip_suffix("Ki"), text.strip_suffix("Mi")) {
        (Some(digits), _) => (digits, 1 << 10),
        (_, Some(digits)) => (digits, 1 << 20),
        _ => (text, 1),
    };
    digits.parse::<usize>().ok()?.checked_mul(unit).filter(|&size| size <= MAX_SIZE)
}

/// The inverse of the normal distribution, by bisection of its integral: called a thousand times at the start.
fn normal_quantile(share: f64) -> f64 {
    let (mut low, mut high) = (-8.0f64, 8.0f64);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if normal_share(middle) < share { low = middle } else { high = middle }
    }
    f64::midpoint(low, high)
}

/// Zelen and Severo's approximation (Abramowitz and Stegun, 26.2.17): off by less than 1e-7.
fn normal_share(x: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * x.abs());
    let polynomial =
        t * (0.319_381_53 + t * (-0.356_563_782 + t * (1.781_477_937 + t * (-1.821_255_978 + t * 1.330_274_429))));
    let tail = (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt() * polynomial;
    if x < 0.0 { tail } else { 1.0 - tail }
}

#[cfg(test)]
mod tests {
    use super::{KeySampler, Popularity, SIZES, Size, Zipf};
    use crate::random::Random;

    /// The shares of the first ranks, drawn and computed, agree within four standard errors.
    #[test]
    fn zipf_ranks_have_their_weights() {
        const DRAWS: u32 = 200_000;
        for (ranks, alpha) in [(10, 0.5), (1000, 0.99), (1000, 1.0), (1_000_000, 1.4), (50, 2.6774), (1, 1.0)] {
            let zipf = Zipf::new(ranks, alpha);
            let mut random = Random::new(7);
            let mut counts = [0u32; 5];
            for _ in 0..DRAWS {
                let rank = zipf.draw(&mut random);
                assert!((1..=ranks).contains(&rank), "rank {rank} of {ranks}");
                if let Some(count) = counts.get_mut(rank as usize - 1) {
                    *count += 1;
                }
            }
            let total: f64 = (1..=ranks).map(|rank| (rank as f64).powf(-alpha)).sum();
            for (index, &count) in counts.iter().enumerate().take(ranks as usize) {
                let share = (index as f64 + 1.0).powf(-alpha) / total;
                let error = (share * (1.0 - share) / f64::from(DRAWS)).sqrt();
                let drawn = f64::from(count) / f64::from(DRAWS);
                assert!((drawn - share).abs() <= 4.0 * error + 1e-9, "alpha {alpha}: {drawn} for {share}");
            }
        }
    }

    #[test]
    fn key_numbers_stay_in_range() {
        let mut random = Random::new(3);
        for popularity in [Popularity::Uniform, Popularity::Zipf { alpha: 1.2 }, Popularity::Zipf { alpha: 0.0 }] {
            let sampler = KeySampler::new(popularity, 77);
            assert!((0..10_000).all(|_| sampler.draw(&mut random) < 77));
        }
    }

    #[test]
    fn sizes_have_their_mean() {
        for (text, mean) in [("100", 100.0), ("uniform:50-150", 100.0), ("lognormal:1000,0.5", 1000.0)] {
            let sizes = text.parse::<Size>().unwrap().quantiles(0, 1 << 20);
            assert_eq!(sizes.len(), SIZES);
            let found = sizes.iter().map(|&size| f64::from(size)).sum::<f64>() / SIZES as f64;
            assert!((found - mean).abs() < mean * 0.01, "{text}: {found}");
        }
    }

    #[test]
    fn sizes_are_read_with_their_units_and_refused_in_words() {
        assert_eq!("4Ki".parse::<Size>(), Ok(Size::Fixed(4096)));
        assert_eq!("uniform:1-2Ki".parse::<Size>(), Ok(Size::Uniform(1, 2048)));
        for wrong in ["", "x", "uniform:9-1", "lognormal:10,x", "129Mi", "-1"] {
            assert!(wrong.parse::<Size>().unwrap_err().contains("lognormal:MEAN"), "{wrong}");
        }
        assert!("zipf:9".parse::<Popularity>().unwrap_err().contains("0 to 5"));
    }
}

//! How long keys live.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use crate::random::mix;

/// From here on memcached takes a TTL for a date.
const LONGEST: f64 = 30.0 * 86_400.0;
const PLACES: usize = 1024;

/// The time to live of each key, in seconds; 0 is for ever. A key keeps its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Ttl {
    /// By the key's number; as many places as its share has.
    places: Vec<u32>,
    text: String,
}

impl Ttl {
    /// Of the key with this number.
    pub fn of(&self, id: u32) -> u32 {
        match self.places[..] {
            [only] => only,
            _ => self.places[mix(u64::from(id) ^ 0x0074_746c) as usize % self.places.len()],
        }
    }
}

impl Display for Ttl {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Ttl {
    type Err = String;

    /// One, as `30m`, or several with their shares, as `60s:0.4,1h:0.6`.
    fn from_str(text: &str) -> Result<Ttl, String> {
        let wrong = || format!("{text}: write a TTL such as 0, 60s, 1.5h or 30d, or several as 60s:0.4,1h:0.6");
        let mut parts = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (span, share) = part.split_once(':').unwrap_or((part, "1"));
            let share: f64 = share.parse().ok().filter(|share| *share > 0.0).ok_or_else(wrong)?;
            parts.push((seconds(span).ok_or_else(wrong)?, share));
        }
        let [(first, _), rest @ ..] = &parts[..] else { return Err(wrong()) };
        if rest.is_empty() {
            return Ok(Ttl { places: vec![*first], text: text.to_owned() });
        }
        let total: f64 = parts.iter().map(|(_, share)| share).sum();
        let place = |index: usize| {
            let mut at = (index as f64 + 0.5) / PLACES as f64 * total;
            let found = parts.iter().find(|(_, share)| {
                at -= share;
                at <= 0.0
            });
            found.map_or(*first, |(seconds, _)| *seconds)
        };
        Ok(Ttl { places: (0..PLACES).map(place).collect(), text: text.to_owned() })
    }
}

fn seconds(text: &str) -> Option<u32> {
    let units = [("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86_400.0)];
    let (number, unit) =
        units.into_iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit))).unwrap_or((text, 1.0));
    let seconds = number.parse::<f64>().ok()? * unit;
    (seconds >= 0.0).then(|| seconds.min(LONGEST).round() as u32)
}

#[cfg(test)]
mod tests {
    use super::Ttl;

    #[test]
    fn one_and_several() {
        assert_eq!("0".parse::<Ttl>().unwrap().of(1), 0);
        assert_eq!("1.8h".parse::<Ttl>().unwrap().of(1), 6480);
        // memcached would take 92 days for a date in 1970.
        assert_eq!("92.6d".parse::<Ttl>().unwrap().of(1), 30 * 86_400);
        let several: Ttl = "60s:0.39, 1h:0.61,".parse().unwrap();
        let short = (0..100_000).filter(|&id| several.of(id) == 60).count();
        assert!((38_000..40_000).contains(&short), "{short}");
        for wrong in ["", "x", "1y", "60s:0", "-5s"] {
            assert!(wrong.parse::<Ttl>().unwrap_err().contains("write a TTL"), "{wrong}");
        }
    }
}

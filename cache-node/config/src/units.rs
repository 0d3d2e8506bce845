//! Sizes and durations as Kubernetes writes them: `64Mi`, `1500M`, `5m`, `1h30m`.

use std::fmt;
use std::str::FromStr;
use std::time;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A number of bytes, written as a Kubernetes quantity (`64Mi`, `1G`, `1048576`), in the form that the API server itself
/// would give it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

/// A span of time, written as Kubernetes writes it (`250ms`, `30s`, `5m`, `720h`, `1h30m`); days are not a unit there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(pub time::Duration);

/// A size or duration that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a quantity of bytes.
    #[error(
        "\"{0}\" is not a size: write a whole number with one of Ki, Mi, Gi, Ti, k, M, G, T or nothing behind it, as in 64Mi"
    )]
    Size(String),
    /// Not a duration.
    #[error("\"{0}\" is not a duration: write numbers with ms, s, m or h behind them, as in 5m or 1h30m")]
    Duration(String),
}

/// Ordered so that the largest binary unit that divides a size is found first.
const BINARY_UNITS: [(&str, u64); 4] = [("Ti", 1 << 40), ("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];
const DECIMAL_UNITS: [(&str, u64); 4] =
    [("T", 1_000_000_000_000), ("G", 1_000_000_000), ("M", 1_000_000), ("k", 1_000)];

impl FromStr for Bytes {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Bytes, UnitError> {
        let invalid = || UnitError::Size(text.to_owned());
        let (number, unit) = BINARY_UNITS
            .iter()
            .chain(&DECIMAL_UNITS)
            .find_map(|(suffix, unit)| text.strip_suffix(suffix).map(|number| (number, *unit)))
            .unwrap_or((text, 1));
        if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
            return Err(invalid());
        }
        let number: u64 = number.parse().map_err(|_| invalid())?;
        number.checked_mul(unit).map(Bytes).ok_or_else(invalid)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut units = BINARY_UNITS.iter().chain(&DECIMAL_UNITS);
        match units.find(|(_, unit)| self.0 != 0 && self.0.is_multiple_of(*unit)) {
            Some((suffix, unit)) => write!(f, "{}{suffix}", self.0 / unit),
            None => write!(f, "{}", self.0),
        }
    }
}

const DURATION_UNITS: [(&str, u64); 4] = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];

impl FromStr for Duration {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Duration, UnitError> {
        let invalid = || UnitError::Duration(text.to_owned());
        let (mut rest, mut milliseconds) = (text, 0_u64);
        if rest == "0" {
            return Ok(Duration(time::Duration::ZERO));
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(invalid)?;
            let number: u64 = rest[..digits].parse().map_err(|_| invalid())?;
            rest = &rest[digits..];
            let (suffix, unit) = DURATION_UNITS.iter().find(|(s, _)| rest.starts_with(s)).ok_or_else(invalid)?;
            rest = &rest[suffix.len()..];
            let part = number.checked_mul(*unit).ok_or_else(invalid)?;
            milliseconds = milliseconds.checked_add(part).ok_or_else(invalid)?;
        }
        if text.is_empty() { Err(invalid()) } else { Ok(Duration(time::Duration::from_millis(milliseconds))) }
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_millis();
        if rest == 0 {
            return f.write_str("0s");
        }
        for (suffix, unit) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
            if rest >= unit {
                write!(f, "{}{suffix}", rest / unit)?;
                rest %= unit;
            }
        }
        Ok(())
    }
}

/// A size in a file may be a bare number (`memory: 1048576`) or text (`memory: 1Mi`).
struct Text<T>(std::marker::PhantomData<T>, &'static str);

impl<T: FromStr<Err = UnitError>> de::Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.1)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        deserializer.deserialize_any(Text(std::marker::PhantomData, "a size such as 64Mi"))
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        deserializer.deserialize_any(Text(std::marker::PhantomData, "a duration such as 5m"))
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::{Bytes, Duration};

    #[test]
    fn sizes_are_read_and_written_as_kubernetes_does() {
        for (text, bytes) in [("0", 0), ("1048576", 1 << 20), ("64Mi", 64 << 20), ("3k", 3_000), ("2Ti", 2 << 40)] {
            assert_eq!(text.parse::<Bytes>().unwrap(), Bytes(bytes), "{text}");
        }
        assert_eq!(Bytes(64 << 20).to_string(), "64Mi");
        assert_eq!(Bytes(1500).to_string(), "1500");
        assert_eq!(Bytes(3_000_000).to_string(), "3M");
    }

    #[test]
    fn sizes_that_make_no_sense_are_refused_with_an_example() {
        for text in ["", "Mi", "-1", "1.5Gi", "64MB", "99999999999Ti", "1 Gi"] {
            assert!(text.parse::<Bytes>().unwrap_err().to_string().contains("64Mi"), "{text}");
        }
    }

    #[test]
    fn durations_round_trip() {
        for text in ["250ms", "30s", "5m", "720h", "1h30m", "1m30s250ms"] {
            assert_eq!(text.parse::<Duration>().unwrap().to_string(), text);
        }
        assert_eq!("0".parse::<Duration>().unwrap().to_string(), "0s");
    }

    #[test]
    fn durations_that_make_no_sense_are_refused() {
        for text in ["", "5", "5d", "m", "-5m", "1.5h", "99999999999999999999h"] {
            assert!(text.parse::<Duration>().is_err(), "{text}");
        }
    }
}

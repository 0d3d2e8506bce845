//! Numbers as memcached reads and writes them in values.

/// The most digits of a number of 64 bits.
pub(crate) const MAX_DIGITS: usize = 20;

/// The number at the start of a value: spaces, an optional sign, digits, and then the end or a space (memcached's
/// `safe_strtoull`, with the C library's `strtoull` behind it).
pub(crate) fn parse(value: &[u8]) -> Option<u64> {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r');
    let start = value.iter().position(|byte| !is_space(byte))?;
    let digits = value[start..].strip_prefix(b"+").unwrap_or(&value[start..]);
    let end = digits.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
    if end == 0 || digits.get(end).is_some_and(|byte| !is_space(byte)) {
        return None;
    }
    digits[..end].iter().try_fold(0_u64, |number, digit| number.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
}

/// A number as a value: its digits, followed by spaces up to the length of the value that it replaces.
pub(crate) struct Text {
    digits: [u8; MAX_DIGITS],
    start: usize,
}

impl Text {
    pub(crate) fn new(mut number: u64) -> Text {
        let mut text = Text { digits: [b'0'; MAX_DIGITS], start: MAX_DIGITS };
        loop {
            text.start -= 1;
            text.digits[text.start] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return text;
            }
        }
    }

    pub(crate) fn digits(&self) -> &[u8] {
        &self.digits[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::{Text, parse};

    #[test]
    fn numbers_are_read_as_memcached_reads_them() {
        for (value, number) in [
            ("0", Some(0)),
            ("007", Some(7)),
            ("7  ", Some(7)),
            (" \t7", Some(7)),
            ("+7", Some(7)),
            ("12 abc", Some(12)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("99999999999999999999999", None),
            ("", None),
            (" ", None),
            ("+", None),
            ("-1", None),
            ("1x", None),
            ("x1", None),
            ("1.5", None),
        ] {
            assert_eq!(parse(value.as_bytes()), number, "{value:?}");
        }
    }

    #[test]
    fn numbers_are_written_without_leading_zeros() {
        for number in [0, 9, 10, 12_345, u64::MAX] {
            assert_eq!(Text::new(number).digits(), number.to_string().as_bytes());
        }
    }
}

//! Numbers as memcached reads them: the C library's `strtol` family with checks around it, oddities included, because
//! clients have come to rely on them (a plus sign, white space before the number, anything behind white space after it).

/// An unsigned number of 64 bits: a CAS or a delta.
pub fn unsigned(token: &[u8]) -> Option<u64> {
    let number = scan(token)?;
    if number.magnitude > u128::from(u64::MAX) {
        return None;
    }
    let magnitude = number.magnitude as u64;
    // `strtoull` negates in 64 bits; memcached refuses the result only where its top bit is set and a minus is in sight.
    let value = if number.negative { magnitude.wrapping_neg() } else { magnitude };
    if (value as i64) < 0 && token.contains(&b'-') { None } else { Some(value) }
}

/// An unsigned number of which the low 32 bits count: a client's flags.
pub fn flags(token: &[u8]) -> Option<u32> {
    unsigned(token).map(|number| number as u32)
}

/// A signed number of 64 bits: an expiry time.
pub fn signed(token: &[u8]) -> Option<i64> {
    let number = scan(token)?;
    let magnitude = i128::try_from(number.magnitude).ok()?;
    i64::try_from(if number.negative { -magnitude } else { magnitude }).ok()
}

/// The length of a value. memcached lets numbers above 32 bits wrap round; a client that sends one does not mean that.
pub fn length(token: &[u8]) -> Option<i32> {
    signed(token).and_then(|number| i32::try_from(number).ok()).filter(|length| *length >= 0)
}

struct Scanned {
    negative: bool,
    /// Saturated far above 64 bits.
    magnitude: u128,
}

fn scan(token: &[u8]) -> Option<Scanned> {
    let blanks = token.iter().take_while(|byte| is_space(**byte)).count();
    let (negative, digits) = match &token[blanks..] {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let length = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let ends_well = digits.get(length).is_none_or(|byte| is_space(*byte));
    if length == 0 || !ends_well {
        return None;
    }
    let magnitude = digits[..length]
        .iter()
        .fold(0_u128, |sum, digit| if sum > u128::from(u64::MAX) { sum } else { sum * 10 + u128::from(digit - b'0') });
    Some(Scanned { negative, magnitude })
}

/// C's `isspace`.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

#[cfg(test)]
mod tests {
    use super::{flags, length, signed, unsigned};

    #[test]
    fn numbers_are_read_as_the_c_library_does() {
        for (token, expected) in [
            ("0", Some(0)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("99999999999999999999999999999999999999999999", None),
            ("+5", Some(5)),
            ("-0", Some(0)),
            ("-1", None),
            ("-18446744073709551615", Some(1)),
            ("\t7", Some(7)),
            ("7\tx", Some(7)),
            ("7x", None),
            ("", None),
            ("-", None),
            ("0x10", None),
        ] {
            assert_eq!(unsigned(token.as_bytes()), expected, "{token:?}");
        }
    }

    #[test]
    fn signed_numbers_have_64_bits() {
        for (token, expected) in [
            ("2147483648", Some(1 << 31)),
            ("9223372036854775807", Some(i64::MAX)),
            ("9223372036854775808", None),
            ("-9223372036854775808", Some(i64::MIN)),
            ("-9223372036854775809", None),
            ("-99999999999999999999999", None),
        ] {
            assert_eq!(signed(token.as_bytes()), expected, "{token:?}");
        }
    }

    #[test]
    fn flags_keep_their_low_32_bits() {
        assert_eq!(flags(b"4294967295"), Some(u32::MAX));
        assert_eq!(flags(b"4294967296"), Some(0));
    }

    #[test]
    fn lengths_are_positive_and_do_not_wrap() {
        assert_eq!(length(b"2147483647"), Some(i32::MAX));
        assert_eq!(length(b"4294967297"), None);
        assert_eq!(length(b"-1"), None);
    }
}

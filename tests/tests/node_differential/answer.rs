//! Answers made comparable: what servers are free to choose is replaced by what must be equal.

/// How exactly two answers are compared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Exactness {
    /// All but CAS values.
    Bytes,
    /// Not the spaces behind a number that was counted: memcached leaves them out where a reply to a request before still
    /// holds the item, which depends on how packets fall.
    Numbers,
}

/// The answer with each CAS replaced by where its value was first seen: servers count on their own, but equal ones must
/// stay equal and different ones different.
pub fn comparable(answer: &[u8], exactness: Exactness) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), answer);
    let mut seen = Seen::default();
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let (line, behind) = rest.split_at(end + 1);
        rest = behind;
        let words: Vec<&[u8]> = line.trim_ascii_end().split(|byte| *byte == b' ').collect();
        let length = match words[..] {
            [b"VALUE", _, _, length, ..] | [b"VA", length, ..] => number(length),
            _ => None,
        };
        let (value, behind) = rest.split_at(length.map_or(0, |length| (length + 2).min(rest.len())));
        rest = behind;
        let is_number =
            value.first().is_some_and(u8::is_ascii_digit) && value.trim_ascii_end().iter().all(u8::is_ascii_digit);
        let is_loose = exactness == Exactness::Numbers && (is_number || words[0] == b"HD");
        let is_reply = length.is_some() || matches!(words[0], b"HD" | b"EX" | b"NS" | b"NF");
        for (index, word) in words.iter().enumerate() {
            let cas = match words[0] {
                b"VALUE" if index == 4 => Some(*word),
                b"VALUE" => None,
                _ => word.strip_prefix(b"c").filter(|digits| number(digits).is_some()),
            };
            let is_length = match words[0] {
                b"VALUE" => index == 3,
                _ => (words[0] == b"VA" && index == 1) || word.strip_prefix(b"s").is_some_and(|s| number(s).is_some()),
            };
            match cas {
                None if is_reply && words[0] != b"VALUE" && about(word).is_some() => {
                    out.extend_from_slice(&about(word).unwrap_or_default());
                }
                Some(cas) if is_reply => out.extend_from_slice(&seen.place(cas)),
                _ if is_reply && is_loose && is_length => out.extend_from_slice(b"LENGTH"),
                _ => out.extend_from_slice(word),
            }
            out.push(b' ');
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(if is_loose && is_number { value.trim_ascii_end() } else { value });
    }
    out.extend_from_slice(rest);
    out
}

/// The time of a meta flag, about as exact as clocks that change second at different moments allow it to be compared: the
/// time left to a hundred seconds, the time since the last access not at all. Where memcached counts below zero in 32
/// bits, no time is left.
fn about(word: &[u8]) -> Option<Vec<u8>> {
    const HUNDRED: usize = 100;
    let (letter, digits) = word.split_first()?;
    let seconds = number(digits)?;
    match letter {
        b't' if seconds > i32::MAX as usize => Some(b"t0".to_vec()),
        b't' => Some(format!("t{}", (seconds + HUNDRED / 2) / HUNDRED * HUNDRED).into_bytes()),
        b'l' => Some(b"l".to_vec()),
        _ => None,
    }
}

fn number(digits: &[u8]) -> Option<usize> {
    std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()
}

/// CAS values in the order in which they were first seen.
#[derive(Default)]
struct Seen(Vec<Vec<u8>>);

impl Seen {
    fn place(&mut self, cas: &[u8]) -> Vec<u8> {
        let place = self.0.iter().position(|known| known == cas).unwrap_or(self.0.len());
        if place == self.0.len() {
            self.0.push(cas.to_vec());
        }
        format!("CAS {place}").into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::{Exactness, comparable};

    #[test]
    fn answers_that_differ_only_in_cas_are_alike() {
        let (one, other) = (b"VALUE a 0 1 7\r\nx\r\nHD c7 c8\r\n", b"VALUE a 0 1 5\r\nx\r\nHD c5 c9\r\n");
        assert_eq!(comparable(one, Exactness::Bytes), comparable(other, Exactness::Bytes));
        let different = b"VALUE a 0 1 5\r\nx\r\nHD c6 c9\r\n";
        assert_ne!(comparable(one, Exactness::Bytes), comparable(different, Exactness::Bytes));
    }

    #[test]
    fn times_may_be_a_second_apart() {
        let (one, other) = (b"HD t1000 l0 k7\r\nVA 1 t-1\r\nx\r\n", b"HD t999 l1 k7\r\nVA 1 t-1\r\nx\r\n");
        assert_eq!(comparable(one, Exactness::Bytes), comparable(other, Exactness::Bytes));
        assert_ne!(comparable(b"HD t1000\r\n", Exactness::Bytes), comparable(b"HD t3000\r\n", Exactness::Bytes));
    }

    #[test]
    fn spaces_behind_numbers_count_only_where_they_should() {
        let (one, other) = (b"VALUE a 0 3\r\n10 \r\n", b"VALUE a 0 2\r\n10\r\n");
        assert_eq!(comparable(one, Exactness::Numbers), comparable(other, Exactness::Numbers));
        assert_ne!(comparable(one, Exactness::Bytes), comparable(other, Exactness::Bytes));
    }
}

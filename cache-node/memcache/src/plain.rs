//! Requests in their plain form, in which clients write nearly all of them: one space between words, numbers of nothing
//! but digits, nothing behind the last word. They are read in one pass.
//!
//! Whatever else a line may be, and every error, is for `parse.rs` to decide: what is read here is read there in the same
//! way, only slower. A test holds the two together.

use crate::command::{Command, Span, Verb};
use crate::meta::{MOST_WORDS, MetaVerb};
use crate::parse::{Limits, MAX_KEY_LENGTH, Step, read_flags};

const LINE_END: &[u8; 2] = b"\r\n";
/// A number of up to so many digits fits into 63 bits; flags and lengths have fewer.
const MOST_DIGITS: usize = 18;
const MOST_SHORT_DIGITS: usize = 9;
/// Flags of `mg` that have no token and do not depend on each other.
const BARE_FLAGS: &[u8] = b"cfkstv";

/// The request at `start`, where it is plain and whole.
#[inline]
pub(crate) fn request(input: &[u8], start: usize, limits: Limits) -> Option<Step> {
    let verb = input.get(start..)?.first_chunk::<4>()?;
    match verb {
        b"get " => get(input, start + 4),
        b"set " => set(input, start + 4, limits),
        [b'm', b'g', b' ', _] => meta_get(input, start + 3),
        [b'm', b's', b' ', _] => meta_set(input, start + 3, limits),
        _ => None,
    }
}

fn get(input: &[u8], at: usize) -> Option<Step> {
    let (keys, end) = key(input, at)?;
    let next = line_end(input, end)?;
    Some(Step::Command { command: Command::Get { keys, with_cas: false }, next })
}

fn set(input: &[u8], at: usize, limits: Limits) -> Option<Step> {
    let (key, end) = key(input, at)?;
    let (flags, end) = number(input, space(input, end)?, MOST_SHORT_DIGITS)?;
    let (exptime, end) = number(input, space(input, end)?, MOST_DIGITS)?;
    let (length, end) = number(input, space(input, end)?, MOST_SHORT_DIGITS)?;
    let (value, next) = value(input, line_end(input, end)?, length as usize, limits)?;
    let (flags, exptime) = (flags as u32, exptime as i64);
    let command = Command::Store { verb: Verb::Set, key, value, flags, exptime, noreply: false };
    Some(Step::Command { command, next })
}

/// A store of which the line is whole: what it says of the value behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announced {
    /// The store ([`Command::Store`] or [`Command::MetaSet`]), with an empty value where its own begins.
    pub command: Command,
    /// Where the value begins.
    pub value: usize,
    /// Its length, which is within the limit.
    pub length: usize,
}

/// The store that `input` begins with, where its line is plain and whole, so that its value can be received elsewhere.
pub(crate) fn announced(input: &[u8], limits: Limits) -> Option<Announced> {
    let announced = if input.starts_with(b"ms ") { announced_meta_set(input) } else { announced_store(input) };
    announced.filter(|announced| announced.length <= limits.max_value)
}

fn announced_store(input: &[u8]) -> Option<Announced> {
    const VERBS: [(&[u8], Verb); 6] = [
        (b"set ", Verb::Set),
        (b"add ", Verb::Add),
        (b"replace ", Verb::Replace),
        (b"append ", Verb::Append),
        (b"prepend ", Verb::Prepend),
        (b"cas ", Verb::Cas(0)),
    ];
    let (word, verb) = VERBS.into_iter().find(|(word, _)| input.starts_with(word))?;
    let (key, end) = key(input, word.len())?;
    let (flags, end) = number(input, space(input, end)?, MOST_SHORT_DIGITS)?;
    let (exptime, end) = number(input, space(input, end)?, MOST_DIGITS)?;
    let (length, end) = number(input, space(input, end)?, MOST_SHORT_DIGITS)?;
    let (verb, end) = match verb {
        Verb::Cas(_) => {
            let (cas, end) = number(input, space(input, end)?, MOST_DIGITS)?;
            (Verb::Cas(cas), end)
        }
        verb => (verb, end),
    };
    let noreply = input[end..].starts_with(b" noreply");
    let value = line_end(input, if noreply { end + b" noreply".len() } else { end })?;
    let (flags, exptime) = (flags as u32, exptime as i64);
    let command = Command::Store { verb, key, value: Span::new(value, 0), flags, exptime, noreply };
    Some(Announced { command, value, length: length as usize })
}

fn announced_meta_set(input: &[u8]) -> Option<Announced> {
    let (key, end) = key(input, b"ms ".len())?;
    let (length, end) = number(input, space(input, end)?, MOST_SHORT_DIGITS)?;
    let flags = match line_end(input, end) {
        Some(_) => Span::new(end, 0),
        None => {
            let start = space(input, end)?;
            Span::new(start, memchr::memchr(b'\r', &input[start..])?)
        }
    };
    let words = || flags.of(input).split(|byte| *byte == b' ');
    // Words behind each other with more or less than a space between them are not plain.
    if flags.length() > 0 && words().any(<[u8]>::is_empty) || words().count() + 2 > MOST_WORDS {
        return None;
    }
    let value = line_end(input, flags.start() + flags.length())?;
    read_flags(MetaVerb::Set, key.of(input), flags.of(input)).ok()?;
    let command = Command::MetaSet { key, flags, value: Span::new(value, 0) };
    Some(Announced { command, value, length: length as usize })
}

fn meta_get(input: &[u8], at: usize) -> Option<Step> {
    let (key, end) = key(input, at)?;
    let (flags, end) = bare_flags(input, end)?;
    let next = line_end(input, end)?;
    Some(Step::Command { command: Command::Meta { verb: MetaVerb::Get, key, flags }, next })
}

fn meta_set(input: &[u8], at: usize, limits: Limits) -> Option<Step> {
    let (key, end) = key(input, at)?;
    let (length, end) = number(input, space(input, end)?, MOST_SHORT_DIGITS)?;
    let (value, next) = value(input, line_end(input, end)?, length as usize, limits)?;
    Some(Step::Command { command: Command::MetaSet { key, flags: Span::new(end, 0), value }, next })
}

/// A key of legal length from `at` on, and where it ends.
#[inline]
fn key(input: &[u8], at: usize) -> Option<(Span, usize)> {
    let end = word_end(input, at);
    (1..=MAX_KEY_LENGTH).contains(&(end - at)).then(|| (Span::new(at, end - at), end))
}

/// Where the first byte from `at` on is that is not above a space, or the input ends.
#[inline]
fn word_end(input: &[u8], at: usize) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES << 7;
    let mut at = at;
    while let Some(chunk) = input.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*chunk);
        // A byte's high bit is set where the byte is below 0x21. A borrow can only spoil bytes behind the first such.
        let low = word.wrapping_sub(ONES * 0x21) & !word & HIGH;
        if low != 0 {
            return at + low.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    at + input.get(at..).unwrap_or_default().iter().take_while(|byte| **byte > b' ').count()
}

/// The place behind the one space at `at`.
#[inline]
fn space(input: &[u8], at: usize) -> Option<usize> {
    (input.get(at) == Some(&b' ')).then_some(at + 1)
}

/// The place behind the line end at `at`.
#[inline]
fn line_end(input: &[u8], at: usize) -> Option<usize> {
    (input.get(at..)?.first_chunk() == Some(LINE_END)).then_some(at + LINE_END.len())
}

/// A number of up to `most` digits at `at`, and where it ends.
#[inline]
fn number(input: &[u8], at: usize, most: usize) -> Option<(u64, usize)> {
    let (mut number, mut end) = (0, at);
    while let Some(digit) = input.get(end).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10) {
        if end - at == most {
            return None;
        }
        number = number * 10 + u64::from(digit);
        end += 1;
    }
    (end > at).then_some((number, end))
}

/// A value of `length` bytes at `at` with its line end, where all of it is there, and the place behind it.
#[inline]
fn value(input: &[u8], at: usize, length: usize, limits: Limits) -> Option<(Span, usize)> {
    if length > limits.max_value {
        return None;
    }
    Some((Span::new(at, length), line_end(input, at + length)?))
}

/// Flags of one letter each from `at` on, none of them twice, and where they end.
#[inline]
fn bare_flags(input: &[u8], at: usize) -> Option<(Span, usize)> {
    let (mut seen, mut end) = (0_u32, at);
    while input.get(end) == Some(&b' ') {
        let letter = *input.get(end + 1)?;
        let bit = 1 << (letter & 31);
        if !BARE_FLAGS.contains(&letter) || seen & bit != 0 {
            return None;
        }
        seen |= bit;
        end += 2;
    }
    let start = if end > at { at + 1 } else { at };
    Some((Span::new(start, end - start), end))
}

#[cfg(test)]
mod tests {
    use super::{Announced, announced, request, word_end};
    use crate::command::{Command, Span};
    use crate::parse::{Limits, Step, parse_any};
    use proptest::prelude::{Just, Strategy, any};
    use proptest::{collection::vec, prop_assert_eq, prop_oneof, proptest};

    const LIMITS: Limits = Limits { max_value: 1000 };

    /// Lines that are plain, or nearly.
    fn lines() -> impl Strategy<Value = Vec<u8>> {
        let word = prop_oneof![
            4 => "[a-z0-9]{1,12}",
            4 => "[0-9]{1,3}",
            1 => "[0-9]{8,21}",
            1 => "[-+]?[0-9]{1,2}",
            2 => Just("v".to_owned()),
            2 => "[a-zA-Z]",
            1 => Just("noreply".to_owned()),
            1 => "x{240,260}",
            1 => "[\\x00-\\x20\\x7f\\xff]{1,3}",
        ];
        let verb = prop_oneof![Just("get"), Just("set"), Just("mg"), Just("ms"), Just("gets"), Just("touch")];
        let space = prop_oneof![12 => Just(" "), 1 => Just("  "), 1 => Just("\t"), 1 => Just("")];
        let end = prop_oneof![8 => Just("\r\n"), 1 => Just("\n"), 1 => Just(" \r\n"), 1 => Just("\r"), 1 => Just("")];
        (verb, vec((space, word), 0..6), end, vec(any::<u8>(), 0..6), any::<bool>()).prop_map(
            |(verb, words, end, value, has_value_end)| {
                let words: String = words.into_iter().map(|(space, word)| space.to_owned() + &word).collect();
                let value_end: &[u8] = if has_value_end { b"\r\n" } else { b"" };
                [format!("{verb}{words}{end}").as_bytes(), &value, value_end].concat()
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_plain_is_read_as_any_other_request(before in vec(any::<u8>(), 0..9), line in lines()) {
            let input = [&before[..], &line].concat();
            if let Some(step) = request(&input, before.len(), LIMITS) {
                prop_assert_eq!(step, parse_any(&input, before.len(), 0, LIMITS), "{}", line.escape_ascii());
            }
        }

        #[test]
        fn a_word_ends_at_the_first_byte_up_to_a_space(input: Vec<u8>, at in 0_usize..20) {
            let at = at.min(input.len());
            let expected = input[at..].iter().position(|byte| *byte <= b' ').map_or(input.len(), |end| at + end);
            prop_assert_eq!(word_end(&input, at), expected);
        }
    }

    #[test]
    fn an_announced_store_is_the_one_that_comes() {
        let classic = ["set key 7 60 5", "add key 7 60 5", "replace key 7 60 5", "append key 7 60 5"];
        let classic = classic.iter().chain(&["prepend key 7 60 5", "cas key 7 60 5 123"]);
        let lines = classic.flat_map(|line| ["", " noreply"].map(|end| format!("{line}{end}\r\n")));
        let meta = ["ms key 5\r\n", "ms key 5 T60 c F7 MA O123\r\n", "ms a2V5 5 b q k C5 I\r\n"].map(str::to_owned);
        for line in lines.chain(meta) {
            let found = announced(line.as_bytes(), LIMITS).unwrap();
            let whole = line.clone() + "value\r\n";
            let Step::Command { command, .. } = parse_any(whole.as_bytes(), 0, 0, LIMITS) else { panic!("{line}") };
            let Announced { command: ahead, value: at, length } = found;
            let value = Span::new(at, length);
            let with_value = match ahead {
                Command::Store { verb, key, flags, exptime, noreply, .. } => {
                    Command::Store { verb, key, value, flags, exptime, noreply }
                }
                Command::MetaSet { key, flags, .. } => Command::MetaSet { key, flags, value },
                other => panic!("{other:?}"),
            };
            assert_eq!(command, with_value, "{line}");
        }
        for line in [
            "set key 7 60 5",
            "set key 7 60 1001\r\n",
            "cas key 0 0 5\r\n",
            "set key 0 0 5  \r\n",
            "get key\r\n",
            "ms key 5  c\r\n",
            "ms key 5 MX\r\n",
            "ms key 1001 c\r\n",
            "ms key 5 c",
        ] {
            assert_eq!(announced(line.as_bytes(), LIMITS), None, "{line}");
        }
    }

    #[test]
    fn what_clients_usually_send_is_plain() {
        for line in [
            &b"get key\r\n"[..],
            b"set key 0 3600 5\r\nvalue\r\n",
            b"mg key v\r\n",
            b"mg key\r\n",
            b"mg key s v t\r\n",
            b"ms key 5\r\nvalue\r\n",
        ] {
            let Some(Step::Command { next, .. }) = request(line, 0, LIMITS) else {
                panic!("{} is not", line.escape_ascii())
            };
            assert_eq!(next, line.len());
        }
    }

    #[test]
    fn what_is_not_whole_or_not_plain_is_left() {
        for line in [
            &b"get key\r"[..],
            b"get key",
            b"get \r\n",
            b"get a b\r\n",
            b"set key 0 0 5\r\nvalue",
            b"set key 0 0 5\r\nvalues\r\n",
            b"set key 0 0 5 noreply\r\nvalue\r\n",
            b"set key 0 0 1001\r\n",
            b"mg key v v\r\n",
            b"mg key Oabc\r\n",
            b"version\r\n",
            b"",
        ] {
            assert_eq!(request(line, 0, LIMITS), None, "{}", line.escape_ascii());
        }
        let long = [b"get ", &[b'k'; 251][..], b"\r\n"].concat();
        assert_eq!(request(&long, 0, LIMITS), None);
        assert!(matches!(parse_any(&long, 0, 0, LIMITS), Step::Command { command: Command::Reject { .. }, .. }));
    }
}

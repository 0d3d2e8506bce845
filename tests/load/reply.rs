//! Replies: taken apart and checked against what was asked.

use std::collections::VecDeque;

use clap::ValueEnum;
use memchr::memchr;

use crate::keyspace::{Keyspace, Value};
use crate::request::{Kind, Protocol};

/// A request whose reply has not come yet.
#[derive(Clone, Copy, Debug)]
pub struct Pending {
    pub kind: Kind,
    /// The key's number; of a multi-get, the place in the list of ids where its keys begin.
    pub id: u32,
    /// The number of keys.
    pub keys: u32,
    /// When it was to be sent, in nanoseconds since the start.
    pub due: u64,
}

/// What a reply says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done as asked; of a read, so many of its keys were there.
    Done { hits: u32 },
    /// The key is not there, or (for add) is there already.
    Absent,
    /// ERROR, CLIENT_ERROR or SERVER_ERROR.
    Refused(String),
}

/// Which values are compared byte by byte. Their keys, lengths and first bytes always are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Validation {
    /// Every value
    Always,
    /// One value in 64
    Sampled,
    /// None
    Never,
}

/// A reply that is not one to what was asked: nothing that follows on this connection can be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("{asked} was answered by {found}")]
    Unexpected { asked: String, found: String },
    #[error("{key}: a value of {length} bytes differs from what was stored, within bytes {from} to {to}")]
    Value { key: String, length: usize, from: usize, to: usize },
    #[error("{found} came without a request")]
    Unasked { found: String },
    #[error("a line of more than {LONGEST_LINE} bytes: {found}")]
    Line { found: String },
}

/// What replies are checked against.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    pub keyspace: &'a Keyspace,
    /// What [`Pending::id`] of a multi-get is a place in.
    pub ids: &'a [u32],
    pub protocol: Protocol,
    /// The bytes of each reply of the floor.
    pub floor_reply: usize,
    pub validation: Validation,
}

/// A key, its flags, length and CAS take less than 320 bytes; error lines may hold more words.
const LONGEST_LINE: usize = 2048;
const SAMPLE: u32 = 64;
/// Of a reply that makes no sense, so much is shown.
const EXCERPT: usize = 80;

/// Where in a reply a connection stands.
#[derive(Debug, Default)]
pub struct Parser {
    state: State,
    /// How many keys of the current reply were there.
    hits: u32,
    /// Which key of the current multi-get is looked for next.
    next: u32,
    values: u32,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Line,
    /// Within a value and the line end behind it; so many of their bytes have come.
    Value { id: u32, value: Value, at: usize, compared: bool },
    /// Within a reply of the floor.
    Skip { left: usize },
}

impl Parser {
    /// Reads replies and gives each to `done` with what it answers.
    ///
    /// # Returns
    /// How many bytes were used; the rest is the beginning of a line and is to come again, with what follows it.
    ///
    /// # Errors
    /// [`Violation`], after which the connection is of no more use.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        pending: &mut VecDeque<Pending>,
        expected: &Expected<'_>,
        mut done: impl FnMut(Pending, Outcome),
    ) -> Result<usize, Violation> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            if let State::Value { .. } = self.state {
                at += self.continue_value(rest, pending, expected, &mut done)?;
                continue;
            }
            let Some(&front) = pending.front() else { return Err(Violation::Unasked { found: excerpt(rest) }) };
            if expected.protocol == Protocol::Floor {
                at += self.skip(rest, pending, expected, &mut done);
                continue;
            }
            let Some(end) = memchr(b'\n', rest) else {
                if rest.len() > LONGEST_LINE {
                    return Err(Violation::Line { found: excerpt(rest) });
                }
                break;
            };
            let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
            at += end + 1;
            match self.judge(line, &front, expected)? {
                Step::Value => {}
                Step::Reply(outcome) => self.finish(pending, outcome, &mut done),
            }
        }
        Ok(at)
    }

    fn finish(&mut self, pending: &mut VecDeque<Pending>, outcome: Outcome, done: &mut impl FnMut(Pending, Outcome)) {
        (self.hits, self.next) = (0, 0);
        if let Some(answered) = pending.pop_front() {
            done(answered, outcome);
        }
    }

    fn skip(
        &mut self,
        bytes: &[u8],
        pending: &mut VecDeque<Pending>,
        expected: &Expected<'_>,
        done: &mut impl FnMut(Pending, Outcome),
    ) -> usize {
        let left = if let State::Skip { left } = self.state { left } else { expected.floor_reply };
        let taken = left.min(bytes.len());
        if taken < left {
            self.state = State::Skip { left: left - taken };
        } else {
            self.state = State::Line;
            self.finish(pending, Outcome::Done { hits: 1 }, done);
        }
        taken
    }

    fn judge(&mut self, line: &[u8], asked: &Pending, expected: &Expected<'_>) -> Result<Step, Violation> {
        let meta = expected.protocol == Protocol::Meta && asked.kind != Kind::MultiGet;
        if asked.kind.reads() {
            if !meta && let Some(header) = line.strip_prefix(b"VALUE ") {
                return self.begin_classic(line, header, asked, expected);
            }
            if meta && let Some(header) = line.strip_prefix(b"VA ") {
                let length = header.split(|&byte| byte == b' ').next().and_then(number);
                return self.begin_value(line, asked.id, length, asked, expected);
            }
        }
        let outcome = match (asked.kind, line) {
            (kind, b"END") if kind.reads() && !meta => match self.hits {
                0 => Outcome::Absent,
                hits => Outcome::Done { hits },
            },
            (kind, b"EN") if (kind.reads() || kind == Kind::Touch) && meta => Outcome::Absent,
            (Kind::Set | Kind::Add | Kind::Delete | Kind::Touch, b"HD") if meta => Outcome::Done { hits: 0 },
            (Kind::Add, b"NS") if meta => Outcome::Absent,
            (Kind::Delete, b"NF") if meta => Outcome::Absent,
            (Kind::Set | Kind::Add, b"STORED") | (Kind::Delete, b"DELETED") | (Kind::Touch, b"TOUCHED") if !meta => {
                Outcome::Done { hits: 0 }
            }
            (Kind::Add, b"NOT_STORED") | (Kind::Delete | Kind::Touch, b"NOT_FOUND") if !meta => Outcome::Absent,
            (Kind::Ping, b"PONG") => Outcome::Done { hits: 0 },
            _ if is_error(line) => Outcome::Refused(excerpt(line)),
            _ => return Err(unexpected(asked, line, expected)),
        };
        Ok(Step::Reply(outcome))
    }

    /// The line of a value in a classic reply: which key it is, and how long.
    fn begin_classic(
        &mut self,
        line: &[u8],
        header: &[u8],
        asked: &Pending,
        expected: &Expected<'_>,
    ) -> Result<Step, Violation> {
        // Of a multi-get, keys that are not there are left out; those that are come in the order of the request.
        while self.next < asked.keys {
            let id = id_at(asked, self.next, expected);
            self.next += 1;
            let key = expected.keyspace.key(id);
            let Some(rest) = header.strip_prefix(key.bytes()).and_then(|rest| rest.strip_prefix(b" ")) else {
                continue;
            };
            let mut fields = rest.split(|&byte| byte == b' ');
            let flags = fields.next().and_then(number);
            let length = fields.next().and_then(number);
            let cas = fields.next().map(number);
            let is_whole =
                flags == Some(0) && fields.next().is_none() && cas.is_some_and(|cas| cas.is_some()) == wants_cas(asked);
            return self.begin_value(line, id, length.filter(|_| is_whole), asked, expected);
        }
        Err(unexpected(asked, line, expected))
    }

    fn begin_value(
        &mut self,
        line: &[u8],
        id: u32,
        length: Option<u64>,
        asked: &Pending,
        expected: &Expected<'_>,
    ) -> Result<Step, Violation> {
        let value = expected.keyspace.value(id);
        if length != Some(value.length() as u64) {
            return Err(unexpected(asked, line, expected));
        }
        self.values = self.values.wrapping_add(1);
        let compared = match expected.validation {
            Validation::Always => true,
            Validation::Sampled => self.values.is_multiple_of(SAMPLE),
            Validation::Never => false,
        };
        self.state = State::Value { id, value, at: 0, compared };
        Ok(Step::Value)
    }

    fn continue_value(
        &mut self,
        bytes: &[u8],
        pending: &mut VecDeque<Pending>,
        expected: &Expected<'_>,
        done: &mut impl FnMut(Pending, Outcome),
    ) -> Result<usize, Violation> {
        let State::Value { id, value, at, compared } = &mut self.state else { return Ok(0) };
        let length = value.length();
        let taken = bytes.len().min(length + 2 - *at);
        let of_value = &bytes[..taken.min(length.saturating_sub(*at))];
        let looked_at = match (*compared, value.head_length.saturating_sub(*at)) {
            (true, _) => of_value,
            (false, head) => &of_value[..head.min(of_value.len())],
        };
        let line_end = &bytes[of_value.len()..taken];
        let (from, to) = (*at, *at + taken);
        let after = from.saturating_sub(length);
        let ends_well = *line_end == b"\r\n"[after..after + line_end.len()];
        if !expected.keyspace.matches(value, from, looked_at) || !ends_well {
            let key = excerpt(expected.keyspace.key(*id).bytes());
            return Err(Violation::Value { key, length, from, to });
        }
        *at = to;
        if to == length + 2 {
            self.state = State::Line;
            self.hits += 1;
            // A meta reply ends with its value; a classic one goes on until END.
            if expected.protocol == Protocol::Meta && pending.front().is_some_and(|asked| asked.kind != Kind::MultiGet)
            {
                self.finish(pending, Outcome::Done { hits: 1 }, done);
            }
        }
        Ok(taken)
    }
}

enum Step {
    Value,
    Reply(Outcome),
}

fn id_at(asked: &Pending, index: u32, expected: &Expected<'_>) -> u32 {
    match asked.kind {
        Kind::MultiGet => expected.ids.get((asked.id + index) as usize).copied().unwrap_or_default(),
        _ => asked.id,
    }
}

fn wants_cas(asked: &Pending) -> bool {
    asked.kind == Kind::Gets
}

fn is_error(line: &[u8]) -> bool {
    [&b"ERROR"[..], b"CLIENT_ERROR ", b"SERVER_ERROR "].iter().any(|word| line.starts_with(word))
}

fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 19 {
        return None;
    }
    text.iter().try_fold(0u64, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + u64::from(byte - b'0')))
}

fn unexpected(asked: &Pending, line: &[u8], expected: &Expected<'_>) -> Violation {
    let first = expected.keyspace.key(id_at(asked, 0, expected));
    let asked = match asked.kind {
        Kind::Ping => "ping".to_owned(),
        Kind::MultiGet => format!("multiget {} and {} more", excerpt(first.bytes()), asked.keys.saturating_sub(1)),
        kind => format!("{} {}", kind.name(), excerpt(first.bytes())),
    };
    Violation::Unexpected { asked, found: excerpt(line) }
}

fn excerpt(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(EXCERPT)];
    format!("{}{}", shown.escape_ascii(), if shown.len() < bytes.len() { "..." } else { "" })
}

#[cfg(test)]
mod tests {
    use super::{Expected, Outcome, Parser, Pending, Validation, Violation};
    use crate::distribution::Size;
    use crate::keyspace::Keyspace;
    use crate::request::{Kind, Protocol};
    use std::collections::VecDeque;

    const IDS: [u32; 5] = [9, 8, 7, 6, 5];

    fn keyspace() -> Keyspace {
        Keyspace::new("", &Size::Fixed(8), &Size::Fixed(20), false).unwrap()
    }

    fn expected(keyspace: &Keyspace, protocol: Protocol) -> Expected<'_> {
        Expected { keyspace, ids: &IDS, protocol, floor_reply: 5, validation: Validation::Always }
    }

    fn asked(kind: Kind, id: u32) -> Pending {
        Pending { kind, id, keys: if kind == Kind::MultiGet { 4 } else { 1 }, due: 0 }
    }

    fn value(keyspace: &Keyspace, id: u32) -> Vec<u8> {
        let value = keyspace.value(id);
        [&value.head[..], &keyspace.pad()[value.rest]].concat()
    }

    fn classic(keyspace: &Keyspace, id: u32) -> Vec<u8> {
        [format!("VALUE 0000000{id} 0 20\r\n").as_bytes(), &value(keyspace, id), b"\r\n"].concat()
    }

    /// Feeds the bytes in two parts, cut at every place, and in single bytes; all must come to the same.
    fn outcomes(bytes: &[u8], asked: &[Pending], expected: &Expected<'_>) -> Result<Vec<Outcome>, Violation> {
        let mut results: Vec<_> =
            (0..=bytes.len()).map(|cut| in_parts(&[&bytes[..cut], &bytes[cut..]], asked, expected)).collect();
        results.push(in_parts(&bytes.chunks(1).collect::<Vec<_>>(), asked, expected));
        let first = results[0].clone();
        for result in results {
            assert_eq!(result.is_err(), first.is_err());
            if result.is_ok() {
                assert_eq!(result, first);
            }
        }
        first
    }

    fn in_parts(parts: &[&[u8]], asked: &[Pending], expected: &Expected<'_>) -> Result<Vec<Outcome>, Violation> {
        let mut parser = Parser::default();
        let mut pending: VecDeque<_> = asked.iter().copied().collect();
        let (mut found, mut left) = (Vec::new(), Vec::new());
        for part in parts {
            left.extend_from_slice(part);
            let used = parser.feed(&left, &mut pending, expected, |_, outcome| found.push(outcome))?;
            left.drain(..used);
        }
        assert!(left.is_empty(), "{} bytes unused", left.len());
        assert_eq!(found.len() + pending.len(), asked.len());
        Ok(found)
    }

    #[test]
    fn classic_replies() {
        let keyspace = keyspace();
        let expected = expected(&keyspace, Protocol::Classic);
        let bytes = [
            &classic(&keyspace, 1),
            &b"END\r\nSTORED\r\nEND\r\nTOUCHED\r\nNOT_FOUND\r\nDELETED\r\nNOT_STORED\r\n"[..],
            b"SERVER_ERROR out of memory storing object\r\nPONG\r\n",
        ]
        .concat();
        let kinds =
            [Kind::Get, Kind::Set, Kind::Gat, Kind::Touch, Kind::Touch, Kind::Delete, Kind::Add, Kind::Set, Kind::Ping];
        let found = outcomes(&bytes, &kinds.map(|kind| asked(kind, 1)), &expected).unwrap();
        let (done, absent) = (Outcome::Done { hits: 0 }, Outcome::Absent);
        let refused = Outcome::Refused("SERVER_ERROR out of memory storing object".to_owned());
        let hit = Outcome::Done { hits: 1 };
        assert_eq!(
            found,
            [hit, done.clone(), absent.clone(), done.clone(), absent.clone(), done.clone(), absent, refused, done]
        );
    }

    #[test]
    fn meta_replies() {
        let keyspace = keyspace();
        let expected = expected(&keyspace, Protocol::Meta);
        let bytes = [
            b"VA 20\r\n",
            &value(&keyspace, 3)[..],
            b"\r\nEN\r\nHD\r\nHD\r\nNF\r\nVA 20 c17\r\n",
            &value(&keyspace, 3),
            b"\r\n",
        ]
        .concat();
        let kinds = [Kind::Get, Kind::Get, Kind::Set, Kind::Touch, Kind::Delete, Kind::Gets];
        let found = outcomes(&bytes, &kinds.map(|kind| asked(kind, 3)), &expected).unwrap();
        let (hit, done) = (Outcome::Done { hits: 1 }, Outcome::Done { hits: 0 });
        assert_eq!(found, [hit.clone(), Outcome::Absent, done.clone(), done, Outcome::Absent, hit]);
    }

    #[test]
    fn a_multi_get_may_miss_any_of_its_keys() {
        let keyspace = keyspace();
        let expected = expected(&keyspace, Protocol::Classic);
        // From the second id on: 8, 7, 6, 5.
        for (present, hits) in [(&[8, 7, 6, 5][..], 4), (&[8, 5], 2), (&[6], 1)] {
            let mut bytes: Vec<u8> = present.iter().flat_map(|&id| classic(&keyspace, id)).collect();
            bytes.extend_from_slice(b"END\r\n");
            assert_eq!(outcomes(&bytes, &[asked(Kind::MultiGet, 1)], &expected), Ok(vec![Outcome::Done { hits }]));
        }
        for wrong in [&[7, 8][..], &[9], &[8, 8]] {
            let bytes: Vec<u8> = wrong.iter().flat_map(|&id| classic(&keyspace, id)).collect();
            assert!(outcomes(&bytes, &[asked(Kind::MultiGet, 1)], &expected).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn wrong_replies_are_found() {
        let keyspace = keyspace();
        let right = classic(&keyspace, 1);
        // Any changed byte of a reply is found: header, value and line end.
        for at in 0..right.len() {
            let mut wrong = [&right[..], b"END\r\n"].concat();
            wrong[at] ^= 0x10;
            let mut parser = Parser::default();
            let mut pending = VecDeque::from([asked(Kind::Get, 1)]);
            let expected = expected(&keyspace, Protocol::Classic);
            let mut hits = 0;
            let result = parser.feed(&wrong, &mut pending, &expected, |_, outcome| {
                hits += u32::from(outcome == Outcome::Done { hits: 1 });
            });
            // Without its carriage return a header line is still a line, and what stands there instead is no number.
            assert!(result.is_err() || hits == 0, "byte {at} changed and {hits} hits");
        }
    }

    #[test]
    fn violations_say_what_was_asked_and_what_came() {
        let keyspace = keyspace();
        let of = |bytes: &[u8], protocol, kind| {
            outcomes(bytes, &[asked(kind, 1)], &expected(&keyspace, protocol)).unwrap_err().to_string()
        };
        assert_eq!(of(b"STORED\r\n", Protocol::Classic, Kind::Get), "get 00000001 was answered by STORED");
        assert_eq!(of(b"HD\r\n", Protocol::Classic, Kind::Set), "set 00000001 was answered by HD");
        let flags = "get 00000001 was answered by VALUE 00000001 5 20";
        assert_eq!(of(b"VALUE 00000001 5 20\r\n", Protocol::Classic, Kind::Get), flags);
        let unasked = in_parts(&[b"END\r\nEND\r\n"], &[asked(Kind::Get, 1)], &expected(&keyspace, Protocol::Classic));
        assert_eq!(unasked.unwrap_err().to_string(), "END\\r\\n came without a request");
        let long = vec![b'x'; 3000];
        assert!(in_parts(&[&long], &[asked(Kind::Get, 1)], &expected(&keyspace, Protocol::Classic)).is_err());
    }

    #[test]
    fn unsampled_values_are_checked_by_their_head_alone() {
        let keyspace = keyspace();
        let expected = Expected { validation: Validation::Never, ..expected(&keyspace, Protocol::Classic) };
        let mut bytes = [&classic(&keyspace, 1)[..], b"END\r\n"].concat();
        let value_start = bytes.len() - 20 - 2 - 5;
        bytes[value_start + 10] ^= 1;
        assert_eq!(outcomes(&bytes, &[asked(Kind::Get, 1)], &expected), Ok(vec![Outcome::Done { hits: 1 }]));
        bytes[value_start + 2] ^= 1;
        assert!(outcomes(&bytes, &[asked(Kind::Get, 1)], &expected).is_err());
    }

    #[test]
    fn floor_replies_are_counted_by_their_length() {
        let keyspace = keyspace();
        let found = outcomes(b"aaaaabbbbb", &[asked(Kind::Get, 1); 2], &expected(&keyspace, Protocol::Floor));
        assert_eq!(found, Ok(vec![Outcome::Done { hits: 1 }; 2]));
    }
}

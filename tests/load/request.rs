//! Requests: what can be asked, and its bytes.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Range;

use clap::ValueEnum;

use crate::keyspace::{Keyspace, Value};
use crate::ttl::Ttl;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Get,
    Gets,
    Gat,
    MultiGet,
    Set,
    Add,
    Delete,
    Touch,
    Ping,
}

impl Kind {
    pub const ALL: [Kind; 9] =
        [Kind::Get, Kind::Gets, Kind::Gat, Kind::MultiGet, Kind::Set, Kind::Add, Kind::Delete, Kind::Touch, Kind::Ping];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Get => "get",
            Kind::Gets => "gets",
            Kind::Gat => "gat",
            Kind::MultiGet => "multiget",
            Kind::Set => "set",
            Kind::Add => "add",
            Kind::Delete => "delete",
            Kind::Touch => "touch",
            Kind::Ping => "ping",
        }
    }

    pub fn carries_value(self) -> bool {
        matches!(self, Kind::Set | Kind::Add)
    }

    /// Whether a reply says hit or miss.
    pub fn reads(self) -> bool {
        matches!(self, Kind::Get | Kind::Gets | Kind::Gat | Kind::MultiGet)
    }
}

/// How requests are worded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// get, set, touch, gat, delete ...
    Classic,
    /// mg, ms, md
    Meta,
    /// PING, answered by PONG
    Ping,
    /// One line a request, for `load floor`
    Floor,
}

/// Values above this are sent from where they lie; copying smaller ones is cheaper than a longer list of ranges.
const COPIED: usize = 16 << 10;
/// Ranges given to the kernel at once.
const RANGES: usize = 64;

/// Bytes on their way to a server: what was copied together, and ranges of the keyspace's pad in between.
#[derive(Debug, Default)]
pub struct Output {
    bytes: Vec<u8>,
    pieces: VecDeque<Piece>,
}

#[derive(Debug)]
enum Piece {
    Bytes(Range<usize>),
    Pad(Range<usize>),
}

impl Output {
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.pieces.clear();
    }

    /// The bytes to be sent next, as one slice, where they are one.
    pub fn only<'a>(&'a self, pad: &'a [u8]) -> Option<&'a [u8]> {
        match self.pieces.front() {
            Some(piece) if self.pieces.len() == 1 => Some(self.slice(piece, pad)),
            _ => None,
        }
    }

    /// The bytes to be sent next.
    pub fn slices<'a>(&'a self, pad: &'a [u8]) -> Vec<IoSlice<'a>> {
        self.pieces.iter().take(RANGES).map(|piece| IoSlice::new(self.slice(piece, pad))).collect()
    }

    fn slice<'a>(&'a self, piece: &Piece, pad: &'a [u8]) -> &'a [u8] {
        match piece {
            Piece::Bytes(range) => &self.bytes[range.clone()],
            Piece::Pad(range) => &pad[range.clone()],
        }
    }

    /// So many bytes were taken by the kernel.
    pub fn advance(&mut self, mut sent: usize) {
        while let Some(Piece::Bytes(range) | Piece::Pad(range)) = self.pieces.front_mut() {
            let taken = range.len().min(sent);
            range.start += taken;
            sent -= taken;
            if range.start < range.end {
                return;
            }
            self.pieces.pop_front();
        }
        self.bytes.clear();
    }

    /// What was appended to the bytes since `start` is a piece.
    fn close_piece(&mut self, start: usize) {
        let end = self.bytes.len();
        match self.pieces.back_mut() {
            Some(Piece::Bytes(range)) if range.end == start => range.end = end,
            _ if start < end => self.pieces.push_back(Piece::Bytes(start..end)),
            _ => {}
        }
    }

    fn push_pad(&mut self, range: Range<usize>) {
        self.pieces.push_back(Piece::Pad(range));
    }
}

/// Writes requests.
#[derive(Clone, Debug)]
pub struct Encoder {
    pub protocol: Protocol,
    pub ttl: Ttl,
}

impl Encoder {
    /// Appends a request for one key.
    pub fn encode(&self, kind: Kind, id: u32, keyspace: &Keyspace, output: &mut Output) {
        let start = output.bytes.len();
        let value = kind.carries_value().then(|| keyspace.value(id));
        self.write_line(kind, id, value.as_ref(), keyspace, &mut output.bytes);
        let Some(value) = value else {
            output.close_piece(start);
            return;
        };
        output.bytes.extend_from_slice(&value.head[..value.head_length]);
        if value.rest.len() <= COPIED {
            output.bytes.extend_from_slice(&keyspace.pad()[value.rest]);
            output.bytes.extend_from_slice(b"\r\n");
            output.close_piece(start);
        } else {
            output.close_piece(start);
            output.push_pad(value.rest);
            let end = output.bytes.len();
            output.bytes.extend_from_slice(b"\r\n");
            output.close_piece(end);
        }
    }

    /// Appends one request for several keys.
    pub fn encode_many(&self, ids: impl Iterator<Item = u32>, keyspace: &Keyspace, output: &mut Output) {
        let start = output.bytes.len();
        output.bytes.extend_from_slice(b"get");
        for id in ids {
            output.bytes.push(b' ');
            keyspace.append_key(id, &mut output.bytes);
        }
        output.bytes.extend_from_slice(b"\r\n");
        output.close_piece(start);
    }

    fn write_line(&self, kind: Kind, id: u32, value: Option<&Value>, keyspace: &Keyspace, out: &mut Vec<u8>) {
        if kind == Kind::Ping {
            out.extend_from_slice(b"PING\r\n");
            return;
        }
        let ttl = self.ttl.of(id) as usize;
        let meta = self.protocol == Protocol::Meta;
        out.extend_from_slice(if meta { meta_verb(kind) } else { classic_verb(kind) });
        if kind == Kind::Gat && !meta {
            append_number(out, ttl);
            out.push(b' ');
        }
        keyspace.append_key(id, out);
        let carried = value.map(Value::length);
        match (meta, kind, carried) {
            (true, _, Some(length)) => {
                out.push(b' ');
                append_number(out, length);
                if ttl != 0 {
                    append_meta_ttl(out, ttl);
                }
                if kind == Kind::Add {
                    out.extend_from_slice(b" ME");
                }
            }
            (true, Kind::Get, _) => out.extend_from_slice(b" v"),
            (true, Kind::Gets, _) => out.extend_from_slice(b" v c"),
            (true, Kind::Gat, _) => {
                out.extend_from_slice(b" v");
                append_meta_ttl(out, ttl);
            }
            (true, Kind::Touch, _) => append_meta_ttl(out, ttl),
            (false, _, Some(length)) => {
                out.extend_from_slice(b" 0 ");
                append_number(out, ttl);
                out.push(b' ');
                append_number(out, length);
            }
            (false, Kind::Touch, _) => {
                out.push(b' ');
                append_number(out, ttl);
            }
            _ => {}
        }
        // The floor answers every line end, so a value stands on the line of its request.
        let one_line = self.protocol == Protocol::Floor && carried.is_some();
        out.extend_from_slice(if one_line { b" " } else { b"\r\n" });
    }
}

fn append_meta_ttl(out: &mut Vec<u8>, ttl: usize) {
    out.extend_from_slice(b" T");
    append_number(out, ttl);
}

fn classic_verb(kind: Kind) -> &'static [u8] {
    match kind {
        Kind::Get | Kind::MultiGet => b"get ",
        Kind::Gets => b"gets ",
        Kind::Gat => b"gat ",
        Kind::Set => b"set ",
        Kind::Add => b"add ",
        Kind::Delete => b"delete ",
        Kind::Touch => b"touch ",
        Kind::Ping => b"PING",
    }
}

fn meta_verb(kind: Kind) -> &'static [u8] {
    match kind {
        Kind::Get | Kind::Gets | Kind::Gat | Kind::MultiGet | Kind::Touch => b"mg ",
        Kind::Set | Kind::Add => b"ms ",
        Kind::Delete => b"md ",
        Kind::Ping => b"PING",
    }
}

fn append_number(out: &mut Vec<u8>, number: usize) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::{Encoder, Kind, Output, Protocol};
    use crate::distribution::Size;
    use crate::keyspace::Keyspace;

    fn text(protocol: Protocol, ttl: u32, kind: Kind) -> String {
        let keyspace = Keyspace::new("", &Size::Fixed(10), &Size::Fixed(0), true).unwrap();
        let mut output = Output::default();
        Encoder { protocol, ttl: ttl.to_string().parse().unwrap() }.encode(kind, 0x1a, &keyspace, &mut output);
        String::from_utf8(output.only(keyspace.pad()).unwrap().to_vec()).unwrap()
    }

    #[test]
    fn classic_requests() {
        let of = |kind| text(Protocol::Classic, 60, kind);
        assert_eq!(of(Kind::Get), "get 0000001a..\r\n");
        assert_eq!(of(Kind::Gets), "gets 0000001a..\r\n");
        assert_eq!(of(Kind::Gat), "gat 60 0000001a..\r\n");
        assert_eq!(of(Kind::Set), "set 0000001a.. 0 60 0\r\n\r\n");
        assert_eq!(of(Kind::Add), "add 0000001a.. 0 60 0\r\n\r\n");
        assert_eq!(of(Kind::Touch), "touch 0000001a.. 60\r\n");
        assert_eq!(of(Kind::Delete), "delete 0000001a..\r\n");
        assert_eq!(of(Kind::Ping), "PING\r\n");
    }

    #[test]
    fn meta_requests() {
        let of = |kind| text(Protocol::Meta, 60, kind);
        assert_eq!(of(Kind::Get), "mg 0000001a.. v\r\n");
        assert_eq!(of(Kind::Gets), "mg 0000001a.. v c\r\n");
        assert_eq!(of(Kind::Gat), "mg 0000001a.. v T60\r\n");
        assert_eq!(of(Kind::Touch), "mg 0000001a.. T60\r\n");
        assert_eq!(of(Kind::Set), "ms 0000001a.. 0 T60\r\n\r\n");
        assert_eq!(of(Kind::Add), "ms 0000001a.. 0 T60 ME\r\n\r\n");
        assert_eq!(of(Kind::Delete), "md 0000001a..\r\n");
        assert_eq!(text(Protocol::Meta, 0, Kind::Set), "ms 0000001a.. 0\r\n\r\n");
    }

    #[test]
    fn floor_requests_are_one_line() {
        assert_eq!(text(Protocol::Floor, 0, Kind::Set), "set 0000001a.. 0 0 0 \r\n");
    }

    #[test]
    fn one_request_for_several_keys() {
        let keyspace = Keyspace::new("", &Size::Fixed(8), &Size::Fixed(0), false).unwrap();
        let mut output = Output::default();
        Encoder { protocol: Protocol::Classic, ttl: "0".parse().unwrap() }.encode_many(
            [1, 2].into_iter(),
            &keyspace,
            &mut output,
        );
        assert_eq!(output.only(&[]).unwrap(), b"get 00000001 00000002\r\n");
    }

    #[test]
    fn large_values_are_sent_whole_in_any_parts() {
        let keyspace = Keyspace::new("", &Size::Fixed(8), &Size::Fixed(40_000), false).unwrap();
        let encoder = Encoder { protocol: Protocol::Classic, ttl: "0".parse().unwrap() };
        let mut output = Output::default();
        for id in 0..3 {
            encoder.encode(Kind::Set, id, &keyspace, &mut output);
            encoder.encode(Kind::Get, id, &keyspace, &mut output);
        }
        let mut expected = Vec::new();
        for id in 0..3 {
            let value = keyspace.value(id);
            expected.extend_from_slice(format!("set 0000000{id} 0 0 40000\r\n").as_bytes());
            expected.extend_from_slice(&value.head);
            expected.extend_from_slice(&keyspace.pad()[value.rest]);
            expected.extend_from_slice(format!("\r\nget 0000000{id}\r\n").as_bytes());
        }
        let mut sent = Vec::new();
        while !output.is_empty() {
            let first = output.slices(keyspace.pad())[0].to_vec();
            let part = first.len().min(7777);
            sent.extend_from_slice(&first[..part]);
            output.advance(part);
        }
        assert_eq!(sent, expected);
    }
}

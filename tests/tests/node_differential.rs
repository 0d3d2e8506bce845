//! Debian's memcached and cache-node side by side: the same bytes in, the same bytes out, but for a list of differences,
//! each with its reason.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::{env, thread};

use memcache::{Limits, Step};
use tests::ensure;
use tests::failure::{Failure, Outcome};
use tests::node::{Client, MODES, Memcached, Node, exchange};

/// Generated sequences for each mode; `GANNET_SEQUENCES` asks for another number.
const SEQUENCES: u64 = 2500;
/// The first sequence; `GANNET_SEED` asks for another.
const SEED: u64 = 1;
const LONG_KEY: usize = 251;

type Difference = (&'static str, &'static [u8], &'static [u8], &'static [u8]);
/// What differs on purpose: why, what is sent, what memcached 1.6.18 answers, what cache-node answers.
const DIFFERENCES: &[Difference] = &[
    (
        "the version is the program's own",
        b"version\r\n",
        b"VERSION 1.6.18\r\n",
        concat!("VERSION ", env!("CARGO_PKG_VERSION"), "\r\n").as_bytes(),
    ),
    (
        "memcached drops the replies to the requests that came in the same packet as a key that is too long",
        b"set d1 0 0 1\r\nx\r\nget kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk\
          kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk\
          kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk\r\n",
        b"CLIENT_ERROR bad command line format\r\n",
        b"STORED\r\nCLIENT_ERROR bad command line format\r\n",
    ),
    (
        "memcached keeps the low 32 bits of a value's length, and then takes the value for commands",
        b"set d2 0 0 4294967297\r\nx\r\n",
        b"STORED\r\n",
        b"CLIENT_ERROR bad command line format\r\nERROR\r\n",
    ),
    (
        "memcached keeps the low 32 bits of an expiry time, so that a date after 2038 is in the past",
        b"set d3 0 2147483648 1\r\nx\r\nget d3\r\n",
        b"STORED\r\nEND\r\n",
        b"STORED\r\nVALUE d3 0 1\r\nx\r\nEND\r\n",
    ),
    (
        "a value that is too large is refused when it is announced; memcached answers when all of it has come",
        b"set d4 0 0 2147483645\r\nxx\r\n",
        b"",
        b"SERVER_ERROR object too large for cache\r\n",
    ),
    (
        "a client that stops in the middle of a request gets the replies to what it asked before; memcached loses some",
        b"delete d5\r\nset d5 0 0 5\r\nxx",
        b"",
        b"NOT_FOUND\r\n",
    ),
    (
        "a stored number has no minus sign, not even before a zero",
        b"set d7 0 0 2\r\n-0\r\nincr d7 1\r\n",
        b"STORED\r\n1\r\n",
        b"STORED\r\nCLIENT_ERROR cannot increment or decrement non-numeric value\r\n",
    ),
    (
        "a number ends at a zero byte for memcached, because that is how its language ends text",
        b"set d6 0 0 2\r\n1\0\r\nincr d6 1\r\n",
        b"STORED\r\n2\r\n",
        b"STORED\r\nCLIENT_ERROR cannot increment or decrement non-numeric value\r\n",
    ),
    (
        "the binary protocol, which memcached recognises by its first byte, is not spoken here",
        b"\x80\r\n",
        b"",
        b"ERROR\r\n",
    ),
    (
        "the memory is the configuration's business and not a client's",
        b"cache_memlimit 64\r\n",
        b"OK\r\n",
        b"ERROR\r\n",
    ),
    ("there are no certificates that a client could have reloaded", b"refresh_certs\r\n", b"Error TLS not enabled\r\n", b"ERROR\r\n"),
    ("memcached's own inner life: its logger", b"watch\r\n", b"OK\r\n", b"ERROR\r\n"),
    ("memcached's own inner life: its crawler", b"lru_crawler crawl all\r\n", b"OK\r\n", b"ERROR\r\n"),
    ("memcached's own inner life: its slabs", b"slabs automove 0\r\n", b"OK\r\n", b"ERROR\r\n"),
    ("memcached's own inner life: its LRU", b"lru temp_ttl -1\r\n", b"OK\r\n", b"ERROR\r\n"),
    ("statistics by key prefix are not kept", b"stats detail off\r\n", b"OK\r\n", b"ERROR\r\n"),
];

#[test]
fn what_differs_is_listed_with_its_reason() -> Outcome {
    let (memcached, node) = (Memcached::start(&[])?, Node::start("")?);
    for (reason, request, theirs, ours) in DIFFERENCES {
        for (name, address, expected) in [("memcached", memcached.address, theirs), ("cache-node", node.address, ours)]
        {
            let answer = exchange(address, &[request])?;
            ensure!(answer == *expected, "{reason}: {name} answers {}", answer.escape_ascii());
        }
    }
    Ok(())
}

/// Sequences that a generator would rarely come upon.
#[test]
fn odd_sequences_are_answered_alike() -> Outcome {
    let long = "k".repeat(LONG_KEY);
    let fits = "k".repeat(LONG_KEY - 1);
    let odd = [
        format!("get {long}\r\nmn\r\n"),
        format!("set {fits} 0 0 1\r\nx\r\nget {fits}\r\n"),
        format!("set {long} 0 0 1\r\nx\r\ndelete {long}\r\ntouch {long} 0\r\nincr {long} 1\r\n"),
        format!("mn\r\nget a {long} b\r\nmn\r\n"),
        format!("gat 0 {long}\r\ngats 0\r\ngat\r\ngat x a\r\n"),
        format!("set a 0 0 2000000\r\n{}\r\nmn\r\n", "x".repeat(2_000_000)),
        format!("set a 0 0 2000000 noreply\r\n{}\r\nmn\r\n", "x".repeat(2_000_000)),
        format!("{}\r\nmn\r\n", "x".repeat(2000)),
        format!("get {}\r\nmn\r\n", "a ".repeat(5000)),
        format!("{}get a\r\n", " ".repeat(99)),
        "\r\n\n \r\n  \n\r\r\nmn\r\n".to_owned(),
        "set n 0 0 2\r\n 9\r\nincr n 1\r\nget n\r\n".to_owned(),
        "set n 0 0 4\r\n9 x \r\nincr n 1\r\nget n\r\n".to_owned(),
        "set n 0 0 22\r\n0000000000000000000009\r\nincr n 1\r\nget n\r\n".to_owned(),
        "set n 0 0 20\r\n18446744073709551615\r\nincr n 1\r\nget n\r\n".to_owned(),
        "set n 0 0 21\r\n18446744073709551616 \r\nincr n 1\r\nget n\r\n".to_owned(),
        "set n 0 0 3\r\n100\r\ndecr n 1\r\nget n\r\nincr n 1\r\nget n\r\n".to_owned(),
        "set n 0 0 0\r\n\r\nincr n 1\r\nset n 0 0 2\r\n-1\r\nincr n 1\r\nset n 0 0 2\r\n+1\r\nincr n 1\r\n".to_owned(),
        "set n 0 0 1\r\n9\r\nincr n 1 noreply\r\nget n\r\nincr n -1\r\nincr n +1\r\nincr n -0\r\nincr n 1x\r\nincr n\r\n".to_owned(),
        "set n 0 0 4\r\n1\t2 \r\nincr n 1\r\nget n\r\n".to_owned(),
        "delete a 0\r\ndelete a 1\r\ndelete a x noreply\r\ndelete a 0 noreply\r\ndelete a 0 0 0\r\ndelete\r\n"
            .to_owned(),
        "flush_all -1\r\nflush_all x\r\nflush_all 0 noreply x\r\nflush_all noreply\r\nflush_all x noreply\r\n"
            .to_owned(),
        "touch a noreply\r\ntouch a\r\ntouch a 0 noreply x\r\nverbosity\r\nverbosity x\r\nverbosity 0 noreply\r\n"
            .to_owned(),
        "set a 0 0 1 foo\r\nx\r\nset a 0 0 1 noreply foo\r\nx\r\nset a -1 0 1\r\nx\r\nget a\r\n".to_owned(),
        "set a 4294967296 0 1\r\nx\r\nget a\r\nset a 99999999999999999999 0 1\r\nx\r\n".to_owned(),
        "cas a 0 0 1 x\r\nx\r\ncas a 0 0 1\r\nx\r\ncas a 0 0 1 1 noreply\r\nx\r\nmn\r\n".to_owned(),
        "set a 0 0 3\nabc\r\nget a\nmn\nset a 0 0 3\r\nabc\n\nmn\r\n".to_owned(),
        "get a\0b\r\n\0\r\nmn\r\nset a\0 0 0 1\r\nx\r\n".to_owned(),
        "quit x\r\nmn\r\n".to_owned(),
        "shutdown\r\nbget a\r\nmn x y\r\nstats nonsense\r\nstats reset\r\nstats reset x\r\nmx\r\nm\r\n".to_owned(),
    ];
    for (name, mode) in MODES {
        let (memcached, node) = (Memcached::start(&[])?, Node::start(mode)?);
        for sequence in &odd {
            let bytes = sequence.as_bytes();
            // Whole, and cut where it hurts: after each of its first bytes.
            let mut cuts: Vec<Vec<&[u8]>> = vec![vec![bytes]];
            cuts.extend((1..bytes.len().min(60)).step_by(7).map(|at| vec![&bytes[..at], &bytes[at..]]));
            for pieces in cuts {
                compare(memcached.address, node.address, &[pieces.clone(), pieces])
                    .map_err(|failure| failure.while_doing(name))?;
            }
        }
    }
    Ok(())
}

#[test]
fn generated_sequences_are_answered_alike() -> Outcome {
    let number = |name: &str, default| env::var(name).map_or(Ok(default), |text| text.parse::<u64>());
    let (count, seed) = (number("GANNET_SEQUENCES", SEQUENCES)?, number("GANNET_SEED", SEED)?);
    let run = |(name, mode): (&str, &str)| -> Outcome {
        let (memcached, node) = (Memcached::start(&["-m", "256"])?, Node::start(&format!("{mode}memory: 256Mi\n"))?);
        for sequence in seed..seed + count {
            run_sequence(memcached.address, node.address, sequence)
                .map_err(|failure| failure.while_doing(format!("{name}, GANNET_SEED={sequence} GANNET_SEQUENCES=1")))?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let runs = MODES.map(|mode| scope.spawn(move || run(mode).map_err(|failure| failure.to_string())));
        runs.into_iter().try_for_each(|run| match run.join() {
            Ok(result) => result.map_err(Failure::new),
            Err(_) => Err(Failure::new("a run panicked")),
        })
    })
}

/// Sends each server the two rounds of one sequence. `[0]` and `[1]` are the rounds of both; a round's CAS values are
/// what the server itself gave out before.
fn run_sequence(theirs: SocketAddr, ours: SocketAddr, seed: u64) -> Outcome {
    for round in 0..2 {
        let mut answers = Vec::new();
        let mut sent = Vec::new();
        for address in [theirs, ours] {
            let tokens = tokens(address, seed)?;
            // The same dice for both, so that the sequences differ in nothing but CAS values.
            let mut dice = Dice(seed.wrapping_mul(2).wrapping_add(round));
            let sequence = generate(&mut dice, seed, &tokens);
            let pieces = cut(&mut dice, &sequence);
            answers.push(without_cas(&exchange(address, &pieces)?));
            sent = sequence;
        }
        let is_less = ends_in_a_request(&sent) && answers[1].starts_with(&answers[0]);
        ensure!(answers[0] == answers[1] || is_less, "{}", difference(&sent, &answers[0], &answers[1]));
    }
    Ok(())
}

/// Whether a sequence ends in the middle of a request. memcached then loses replies that it owes; see [`DIFFERENCES`].
fn ends_in_a_request(sequence: &[u8]) -> bool {
    let mut at = 0;
    loop {
        match memcache::parse(sequence, at, 0, Limits { max_value: 1 << 20 }) {
            Step::Command { next, .. } => at = next,
            Step::Partial { .. } => return at < sequence.len(),
            Step::TooLong => return false,
        }
    }
}

/// Both answers from shortly before where they part.
fn difference(sent: &[u8], theirs: &[u8], ours: &[u8]) -> String {
    let at = theirs.iter().zip(ours).take_while(|(their, our)| their == our).count();
    let from = |bytes: &[u8]| bytes[at.saturating_sub(100)..bytes.len().min(at + 200)].escape_ascii().to_string();
    format!(
        "to {}\nmemcached answers  {}\nbut the node       {}",
        sent[..sent.len().min(3000)].escape_ascii(),
        from(theirs),
        from(ours)
    )
}

fn compare(theirs: SocketAddr, ours: SocketAddr, pieces: &[Vec<&[u8]>; 2]) -> Outcome {
    let their_answer = without_cas(&exchange(theirs, &pieces[0])?);
    let our_answer = without_cas(&exchange(ours, &pieces[1])?);
    ensure!(their_answer == our_answer, "{}", difference(&pieces[0].concat(), &their_answer, &our_answer));
    Ok(())
}

/// A small generator of random numbers (SplitMix64), so that a seed gives the same sequence everywhere and for ever.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn one_in(&mut self, limit: u64) -> bool {
        self.below(limit) == 0
    }

    fn pick<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// The keys of a sequence; each sequence has its own, so that none depends on another.
fn keys(seed: u64) -> [String; 4] {
    [0, 1, 2, 3].map(|key| format!("s{seed}-{key}"))
}

/// The CAS values of the sequence's keys at one server, in the order of the keys; 1 for a key that is not there.
fn tokens(address: SocketAddr, seed: u64) -> Outcome<[String; 4]> {
    let keys = keys(seed);
    let mut client = Client::connect(address)?;
    let mut found = HashMap::new();
    for key in &keys {
        client.send(format!("gets {key}\r\n").as_bytes())?;
        loop {
            let line = client.line()?;
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["END"] => break,
                ["VALUE", key, _, length, cas] => {
                    found.insert(key.to_owned(), cas.to_owned());
                    let length: usize = length.parse()?;
                    client.skip(length + 2)?;
                }
                _ => return Err(Failure::new(format!("{key} is answered with {line}"))),
            }
        }
    }
    Ok(keys.map(|key| found.remove(&key).unwrap_or_else(|| "1".to_owned())))
}

/// A sequence of requests: mostly sensible, often odd, now and then broken.
fn generate(dice: &mut Dice, seed: u64, tokens: &[String; 4]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..=dice.below(20) {
        request(dice, seed, tokens, &mut bytes);
    }
    // Only at the end: a server that closes with requests unread resets the connection, and replies are lost.
    if dice.one_in(8) {
        bytes.extend_from_slice(b"quit\r\n");
    }
    if dice.one_in(8) {
        let length = bytes.len() as u64;
        bytes.truncate(dice.below(length + 1) as usize);
    }
    bytes
}

const NUMBERS: &[&str] =
    &["0", "1", "7", "-1", "+3", "007", "18446744073709551615", "18446744073709551616", "x", "1x", "", "99999"];
const FLAGS: &[&str] = &["0", "0", "0", "1", "4294967295", "65536", "-1", "x", ""];
const EXPTIMES: &[&str] = &["0", "0", "0", "100", "-1", "-5", "2592000", "2592001", "2000000000", "x", "", "+9"];
const LINE_ENDS: &[&[u8]] = &[b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n"];
const TAILS: &[&str] = &["", "", "", "", "", " noreply", " noreply", " ", "  noreply ", " extra", " noreply extra"];
const GARBAGE: &[&[u8]] = &[
    b"",
    b" ",
    b"foo",
    b"get",
    b"gets",
    b"gat 0",
    b"set",
    b"set a",
    b"incr",
    b"GET a",
    b"get\ta",
    b"\r",
    b"\0",
    b"a\0b",
    b"mn",
    b"mn x",
    b"stats nonsense",
    b"verbosity",
    b"verbosity 1",
    b"touch",
    b"delete",
    b"delete a b c d",
    b"flush_all x",
    b"cas a 0 0",
    b"\xff\xfe",
    b"noreply",
    b"shutdown",
    b"bget none",
    b"END",
    b"STORED",
    b"quitter",
    b"versions",
];

fn request(dice: &mut Dice, seed: u64, tokens: &[String; 4], out: &mut Vec<u8>) {
    let keys = keys(seed);
    let index = dice.below(4) as usize;
    let key = keys[index].as_str();
    let spaces = if dice.one_in(20) { "  " } else { " " };
    let tail = dice.pick(TAILS);
    let line_end = dice.pick(LINE_ENDS);
    let line = match dice.below(20) {
        0..=5 => return store(dice, key, tokens[index].as_str(), out),
        6..=9 => retrieval(dice, &keys, spaces),
        10 => format!("gat{}{spaces}{} {key}", if dice.one_in(2) { "s" } else { "" }, dice.pick(EXPTIMES)),
        11..=12 => format!("delete{spaces}{key}{}{tail}", dice.pick(&["", "", "", " 0", " 1"])),
        13..=15 => format!("{}{spaces}{key} {}{tail}", dice.pick(&["incr", "decr"]), dice.pick(NUMBERS)),
        16 => format!("touch{spaces}{key} {}{tail}", dice.pick(EXPTIMES)),
        17 => format!("verbosity {}{tail}", dice.pick(&["0", "1", "x"])),
        _ => {
            out.extend_from_slice(dice.pick(GARBAGE));
            out.extend_from_slice(line_end);
            return;
        }
    };
    out.extend_from_slice(line.as_bytes());
    out.extend_from_slice(line_end);
}

fn retrieval(dice: &mut Dice, keys: &[String; 4], spaces: &str) -> String {
    let mut line = dice.pick(&["get", "get", "gets"]).to_owned();
    let most = if dice.one_in(10) { 40 } else { 4 };
    for _ in 0..=dice.below(most) {
        line.push_str(spaces);
        line.push_str(&keys[dice.below(4) as usize]);
    }
    line
}

fn store(dice: &mut Dice, key: &str, token: &str, out: &mut Vec<u8>) {
    let verb = dice.pick(&["set", "set", "set", "add", "replace", "append", "prepend", "cas", "cas"]);
    let value = value(dice);
    // Announced as it is, a little wrong, or not at all.
    let announced = match dice.below(24) {
        0 => (value.len() + 1).to_string(),
        1 => value.len().saturating_sub(1).to_string(),
        2 => dice.pick(&["x", "-1", "", "2147483647", "0x10"]).to_owned(),
        _ => value.len().to_string(),
    };
    let cas = match (verb, dice.below(8)) {
        ("cas", 0) => " 1".to_owned(),
        ("cas", 1) => format!(" {}", dice.pick(NUMBERS)),
        ("cas", _) => format!(" {token}"),
        _ => String::new(),
    };
    let (flags, exptime, tail) = (dice.pick(FLAGS), dice.pick(EXPTIMES), dice.pick(TAILS));
    out.extend_from_slice(format!("{verb} {key} {flags} {exptime} {announced}{cas}{tail}\r\n").as_bytes());
    out.extend_from_slice(&value);
    out.extend_from_slice(if dice.one_in(30) { b"\n" } else { b"\r\n" });
}

fn value(dice: &mut Dice) -> Vec<u8> {
    let length = match dice.below(12) {
        0 => 0,
        1 => dice.below(5000),
        2 => dice.below(70_000),
        3..=6 => return dice.pick(NUMBERS).as_bytes().to_vec(),
        _ => dice.below(40),
    };
    let byte = |dice: &mut Dice| match dice.below(12) {
        0 => b'\r',
        1 => b'\n',
        2 => b' ',
        3 => b'9',
        // Where a value is taken for requests, chance must not write one that is on the list of differences.
        _ => Some(dice.next() as u8).filter(|byte| *byte != b'm').unwrap_or_default(),
    };
    (0..length).map(|_| byte(dice)).collect()
}

/// Cuts a sequence into packets.
fn cut<'a>(dice: &mut Dice, bytes: &'a [u8]) -> Vec<&'a [u8]> {
    let (mut pieces, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() {
        let longest = if dice.one_in(2) { 8 } else { 20_000 };
        let (piece, behind) = rest.split_at((1 + dice.below(longest) as usize).min(rest.len()));
        pieces.push(piece);
        rest = behind;
    }
    pieces
}

/// The answer with each CAS replaced by where its value was first seen: servers count on their own, but equal ones must
/// stay equal and different ones different.
fn without_cas(answer: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), answer);
    let mut seen: Vec<Vec<u8>> = Vec::new();
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let (line, behind) = rest.split_at(end + 1);
        rest = behind;
        let words: Vec<&[u8]> = line.trim_ascii_end().split(|byte| *byte == b' ').collect();
        let length = words.get(3).and_then(|length| std::str::from_utf8(length).ok()?.parse::<usize>().ok());
        match (&words[..], length) {
            ([b"VALUE", head @ .., cas], Some(length)) if head.len() == 3 => {
                let place = seen.iter().position(|known| known == cas).unwrap_or(seen.len());
                seen.push(cas.to_vec());
                out.extend_from_slice(&[&b"VALUE"[..], &head.concat(), format!("CAS {place}\r\n").as_bytes()].concat());
                let (value, behind) = rest.split_at((length + 2).min(rest.len()));
                out.extend_from_slice(value);
                rest = behind;
            }
            ([b"VALUE", ..], Some(length)) => {
                let (value, behind) = rest.split_at((length + 2).min(rest.len()));
                out.extend_from_slice(&[line, value].concat());
                rest = behind;
            }
            _ => out.extend_from_slice(line),
        }
    }
    out.extend_from_slice(rest);
    out
}
